//! What the gateway makes of a context: which trace the request belongs to, and whether it is recorded.

use crate::context::{RemoteContext, Sampled, SpanId, TraceId};
use crate::extract::Extracted;
use crate::fields::TraceFields;
use crate::sampler::Sampler;
use std::fmt;
use std::str::FromStr;

/// How far the context of a request is believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// The trace goes on here.
    #[default]
    Continue,
    /// A new trace begins, which remembers the one outside (a span link): strangers choose neither ids nor what is
    /// recorded, and a caller's own trace can still be found.
    Restart,
    /// A new trace begins, as if there had been none.
    Ignore,
}

impl Trust {
    /// Every rule with its name in settings.
    pub const ALL: [(Self, &str); 3] =
        [(Self::Continue, "continue"), (Self::Restart, "restart"), (Self::Ignore, "ignore")];
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(trust, _)| trust == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

/// A name that is not that of a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a rule for traces from outside; use continue, restart or ignore")]
pub struct UnknownTrust(pub String);

impl FromStr for Trust {
    type Err = UnknownTrust;

    fn from_str(name: &str) -> Result<Self, UnknownTrust> {
        let known = Self::ALL.iter().find(|(_, known)| *known == name);
        known.map(|(trust, _)| *trust).ok_or_else(|| UnknownTrust(name.to_owned()))
    }
}

/// The rules for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How far the context outside is believed.
    pub trust: Trust,
    /// Decides where the caller did not.
    pub sampler: Sampler,
    /// The caller's decision holds, where it made one and is believed.
    pub parent_based: bool,
}

impl Default for Policy {
    /// As OpenTelemetry's default, `parentbased_always_on`.
    fn default() -> Self {
        Self { trust: Trust::Continue, sampler: Sampler::Always, parent_based: true }
    }
}

/// New ids, made of random bits by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreshIds {
    /// Used if a trace begins here. Its right-most 7 bytes are random.
    pub trace_id: TraceId,
    /// The gateway's span.
    pub span_id: SpanId,
}

/// The trace of a request from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The trace.
    pub trace_id: TraceId,
    /// The gateway's own span.
    pub span_id: SpanId,
    /// The caller's span, in the same trace.
    pub parent: Option<SpanId>,
    /// It is recorded.
    pub sampled: bool,
    /// It is recorded whatever samplers further on say; only formats that know the notion carry it.
    pub debug: bool,
    /// The right-most 7 bytes of the trace id are random.
    pub random: bool,
    /// The trace id came with 16 digits at most, and is sent so where the format has both.
    pub short_id: bool,
    /// The trace outside that this one took the place of.
    pub link: Option<RemoteContext>,
}

/// Decides. `honour` is asked at most once, and only where a request is recorded because the caller alone wants it: whoever
/// may send requests could else fill the store of traces. It is the place for a [`SamplingBudget`](crate::SamplingBudget);
/// `|| true` honours every wish.
pub fn decide(
    fields: &TraceFields<'_>,
    extracted: &Extracted,
    policy: &Policy,
    fresh: FreshIds,
    honour: impl FnOnce() -> bool,
) -> Trace {
    let believed = policy.trust == Trust::Continue;
    let context = extracted.context.filter(|_| believed);
    let trace_id = context.map_or(fresh.trace_id, |context| context.trace_id);
    let asked = if believed && policy.parent_based { extracted.sampled } else { Sampled::Undecided };
    let (sampled, debug) = match asked {
        Sampled::No => (false, false),
        Sampled::Undecided => (own_choice(fields, policy.sampler, trace_id), false),
        Sampled::Yes => (own_choice(fields, policy.sampler, trace_id) || honour(), false),
        Sampled::Debug => {
            let honoured = honour();
            (honoured || own_choice(fields, policy.sampler, trace_id), honoured)
        }
    };
    Trace {
        trace_id,
        span_id: fresh.span_id,
        parent: context.and_then(|context| context.span_id),
        sampled,
        debug,
        random: context.is_none_or(|context| context.random),
        short_id: context.is_some_and(|context| context.short_id),
        link: extracted.context.filter(|_| policy.trust == Trust::Restart),
    }
}

fn own_choice(fields: &TraceFields<'_>, sampler: Sampler, trace_id: TraceId) -> bool {
    let randomness = match sampler {
        Sampler::Ratio(_) => fields.trace_state(trace_id).and_then(|state| state.randomness()),
        Sampler::Always | Sampler::Never => None,
    };
    sampler.samples(trace_id, randomness)
}
