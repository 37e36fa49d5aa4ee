//! Ids, and what one format says of a trace.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};

/// The id of a trace: 128 bits, not all zero. Formats with 64 bits fill the lower half.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId(NonZeroU128);

impl TraceId {
    /// `None` for zero, which every format forbids.
    pub fn new(id: u128) -> Option<Self> {
        NonZeroU128::new(id).map(Self)
    }

    /// The id of a new trace out of random bits. Its lower half is not zero either, so that formats of 64 bits can carry it.
    pub fn from_random(random: u128) -> Self {
        Self::with_low_half(random)
    }

    /// As [`TraceId::from_random`], beginning with the time as AWS X-Ray demands, which refuses ids that are not of the last
    /// 30 days. `epoch` is in seconds since 1970. The right-most 7 bytes are random, as the random flag of W3C promises.
    pub fn from_epoch(epoch: u32, random: u128) -> Self {
        Self::with_low_half(u128::from(epoch) << 96 | random & (u128::MAX >> 32))
    }

    fn with_low_half(id: u128) -> Self {
        let lowest = u128::from(id as u64 == 0);
        Self(NonZeroU128::new(id | lowest).unwrap_or(NonZeroU128::MIN))
    }

    /// The id as a number; its text is the big-endian form.
    pub fn get(self) -> u128 {
        self.0.get()
    }

    /// The upper 64 bits, which formats of 64 bits lack.
    pub fn high(self) -> u64 {
        (self.get() >> 64) as u64
    }

    /// The lower 64 bits; zero is possible here.
    pub fn low(self) -> u64 {
        self.get() as u64
    }

    /// The right-most 56 bits, on which samplers agree (W3C Trace Context level 2, section "Random Trace ID Flag").
    pub fn randomness(self) -> u64 {
        self.low() & ((1 << 56) - 1)
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The id of a span: 64 bits, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId(NonZeroU64);

impl SpanId {
    /// `None` for zero, which means "no span".
    pub fn new(id: u64) -> Option<Self> {
        NonZeroU64::new(id).map(Self)
    }

    /// The id of a new span out of random bits.
    pub fn from_random(random: u64) -> Self {
        Self(NonZeroU64::new(random).unwrap_or(NonZeroU64::MIN))
    }

    /// The id as a number; its text is the big-endian form, except in formats that write it in decimal.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What whoever sent the request decided about recording the trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sampled {
    /// Nothing: it is for the receiver to decide. W3C cannot say this.
    #[default]
    Undecided,
    /// Not recorded.
    No,
    /// Recorded.
    Yes,
    /// Recorded, and exempt from sampling further on (B3 and Jaeger).
    Debug,
}

impl Sampled {
    pub(crate) fn of(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }

    /// Yes or no, where that was decided.
    pub fn decided(self) -> Option<bool> {
        match self {
            Self::Undecided => None,
            Self::No => Some(false),
            Self::Yes | Self::Debug => Some(true),
        }
    }
}

/// The context that a request came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteContext {
    /// The trace.
    pub trace_id: TraceId,
    /// The caller's span. Some balancers name a trace and no span (AWS without `Parent`).
    pub span_id: Option<SpanId>,
    /// The caller's decision.
    pub sampled: Sampled,
    /// The right-most 7 bytes of the trace id are known to be random (W3C level 2, flag 0x02).
    pub random: bool,
    /// The trace id was written with 16 digits at most; those who write so expect it back so.
    pub short_id: bool,
}
