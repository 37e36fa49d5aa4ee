//! Whether a trace is recorded, from its id alone.

use crate::context::TraceId;
use std::fmt;

/// 2^56: samplers look at 56 bits.
const RANGE: u64 = 1 << 56;

/// Decides for traces about which nobody has decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sampler {
    /// Every trace.
    #[default]
    Always,
    /// None.
    Never,
    /// A part of them, the same part wherever the same rule is applied.
    Ratio(Ratio),
}

impl Sampler {
    /// The decision. `randomness` is the explicit one that a `tracestate` carries; without it the trace id is taken to be
    /// random.
    pub fn samples(self, trace_id: TraceId, randomness: Option<u64>) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Ratio(ratio) => randomness.unwrap_or(trace_id.randomness()) >= ratio.threshold,
        }
    }
}

impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Never => f.write_str("never"),
            Self::Ratio(ratio) => write!(f, "{ratio}"),
        }
    }
}

/// A part of all traces. A trace is in it if its 56 bits of randomness are not below a threshold, as in OpenTelemetry's
/// consistent probability sampling: of two ratios, the greater takes all traces of the lesser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    /// 0 (all) to 2^56 (none).
    threshold: u64,
}

/// A number that is no ratio.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{0} is not a ratio of traces; use a number from 0 (none) to 1 (all)")]
pub struct RatioError(pub f64);

impl Ratio {
    /// `part` is from 0 (none) to 1 (all).
    pub fn new(part: f64) -> Result<Self, RatioError> {
        if !(0.0..=1.0).contains(&part) {
            return Err(RatioError(part));
        }
        // Taken from above, so that small parts keep their precision.
        Ok(Self { threshold: RANGE - (part * RANGE as f64).round() as u64 })
    }
}

impl fmt::Display for Ratio {
    /// The part, to nine digits behind the point.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = (RANGE - self.threshold) as f64 / RANGE as f64;
        write!(f, "{}", (part * 1e9).round() / 1e9)
    }
}
