//! Who watches a run. It contains no networking code.

use super::{tally, worker};
use hdrhistogram::Histogram;
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

/// Puts together what threads say of a second.
#[derive(Debug, Default)]
pub(super) struct Gatherer {
    parts: usize,
    answered: u64,
    failed: u64,
    latency: Option<Histogram<u64>>,
}

impl Gatherer {
    /// What one thread said.
    pub(super) fn add(&mut self, part: &worker::Second) {
        self.parts += 1;
        self.answered += part.answered;
        self.failed += part.failed;
        // All have the same bounds.
        let _ = self.latency.get_or_insert_with(tally::histogram).add(&part.latency);
    }

    /// The second, once all threads have told of theirs.
    pub(super) fn take(&mut self, threads: usize, elapsed: Duration, warming_up: bool) -> Option<Second> {
        if self.parts < threads {
            return None;
        }
        let Self { answered, failed, latency, .. } = std::mem::take(self);
        let p99_us = latency.map_or(0, |latency| latency.value_at_quantile(0.99));
        Some(Second { elapsed, warming_up, answered, failed, p99_us })
    }
}
