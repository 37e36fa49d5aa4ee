//! Who watches a run. It contains no networking code.

use std::time::Duration;

/// Told of a run while it goes on, on the thread that called [`super::run`].
pub trait Progress {
    /// The warm-up is over: what follows is counted.
    fn begins(&self) {}

    /// A second has passed.
    fn second(&self, _second: &Second) {}

    /// Nothing more is counted.
    fn ends(&self) {}
}

/// Nobody watches.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Progress for Silent {}

/// What happened in about a second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Second {
    /// Since load began, warm-up included.
    pub elapsed: Duration,
    /// Whether it is counted yet.
    pub warming_up: bool,
    /// Answers of this second.
    pub answered: u64,
    /// Failures of this second.
    pub failed: u64,
    /// 99th percentile of latency in this second, in µs.
    pub p99_us: u64,
}
