//! How many traces the outside may have recorded.

use std::time::{Duration, Instant};

/// A rate limit on sampling that a caller demands and that we would not have chosen (the generic cell rate algorithm: one
/// point in time instead of a count of tokens).
#[derive(Clone, Debug)]
pub struct SamplingBudget {
    /// Between two traces at the full rate; `None` if none is granted.
    interval: Option<Duration>,
    /// How far ahead of the time a burst may run.
    tolerance: Duration,
    /// When the budget is whole again.
    whole_at: Option<Instant>,
}

impl SamplingBudget {
    /// `per_second` traces on average, up to `burst` at once (1 at least). A rate of 0 grants none.
    pub fn new(per_second: u32, burst: u32) -> Self {
        let interval = (per_second > 0).then(|| Duration::from_secs(1) / per_second);
        let tolerance = interval.unwrap_or_default().saturating_mul(burst.saturating_sub(1));
        Self { interval, tolerance, whole_at: None }
    }

    /// Takes one trace out of the budget; false if it is used up.
    pub fn take(&mut self, now: Instant) -> bool {
        let Some(interval) = self.interval else {
            return false;
        };
        let whole_at = self.whole_at.map_or(now, |at| at.max(now));
        if whole_at.saturating_duration_since(now) > self.tolerance {
            return false;
        }
        self.whole_at = whole_at.checked_add(interval);
        true
    }
}
