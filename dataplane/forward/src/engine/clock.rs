//! The kernel's jiffies: what deadlines in the tables count in.
//!
//! User space cannot read them, so a small program does (`clock` in the director's object). Between two readings they
//! are carried forward by the monotonic clock, which also works where no program may be run again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Length of a flow stamp that is aimed at.
const STAMP: Duration = Duration::from_secs(8);

/// The rates that a kernel can be built with (`CONFIG_HZ`).
const RATES: [u32; 5] = [100, 200, 250, 300, 1000];

/// Jiffies as of the last reading, shared by all who set deadlines.
#[derive(Clone, Debug)]
pub struct JiffiesClock {
    rate: u32,
    reading: Arc<Mutex<(Instant, u64)>>,
}

impl JiffiesClock {
    /// A clock that read `jiffies` at `at`, and ticks `rate` times a second.
    #[must_use]
    pub fn new(rate: u32, at: Instant, jiffies: u64) -> Self {
        Self { rate: rate.max(1), reading: Arc::new(Mutex::new((at, jiffies))) }
    }

    /// The rate from two readings: the kernel's possible one that is nearest.
    #[must_use]
    pub fn rate_of(first: (Instant, u64), second: (Instant, u64)) -> u32 {
        let elapsed = second.0.saturating_duration_since(first.0).as_secs_f64();
        let measured = second.1.saturating_sub(first.1) as f64 / elapsed.max(1e-6);
        RATES.into_iter().min_by(|a, b| distance(*a, measured).total_cmp(&distance(*b, measured))).unwrap_or(250)
    }

    /// A new reading.
    pub fn set(&self, at: Instant, jiffies: u64) {
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner) = (at, jiffies);
    }

    /// Jiffies at `at`.
    #[must_use]
    pub fn at(&self, at: Instant) -> u64 {
        let (then, jiffies) = *self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        jiffies.saturating_add(self.ticks(at.saturating_duration_since(then)))
    }

    /// Ticks in a time, rounded down.
    #[must_use]
    pub fn ticks(&self, time: Duration) -> u64 {
        u64::try_from(time.as_micros().saturating_mul(u128::from(self.rate)) / 1_000_000).unwrap_or(u64::MAX)
    }

    /// Ticks a second.
    #[must_use]
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// [`sluicegate_l4::layout::Control::stamp_shift`] for this rate: the power of two of ticks nearest to 8 seconds.
    #[must_use]
    pub fn stamp_shift(&self) -> u32 {
        let ticks = self.ticks(STAMP).max(1);
        let below = ticks.ilog2();
        // Nearest in ratio: above the geometric mean the next power is nearer.
        if ticks.saturating_mul(ticks) > 1_u64 << (2 * below + 1) { below + 1 } else { below }
    }

    /// Time of `1 << shift` ticks.
    #[must_use]
    pub fn stamp_length(&self, shift: u32) -> Duration {
        Duration::from_secs_f64((1_u64 << shift.min(63)) as f64 / f64::from(self.rate))
    }
}

fn distance(rate: u32, measured: f64) -> f64 {
    (f64::from(rate) / measured.max(1e-3)).ln().abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_the_nearest_that_a_kernel_has() {
        let start = Instant::now();
        for rate in RATES {
            for error in [0.93, 1.0, 1.07] {
                let ticks = (f64::from(rate) * 0.25 * error).round() as u64;
                let found = JiffiesClock::rate_of((start, 1000), (start + Duration::from_millis(250), 1000 + ticks));
                assert_eq!(found, rate, "{rate} measured with factor {error}");
            }
        }
    }

    #[test]
    fn stamps_are_about_eight_seconds() {
        for (rate, shift) in [(100, 10), (250, 11), (300, 11), (1000, 13)] {
            let clock = JiffiesClock::new(rate, Instant::now(), 0);
            assert_eq!(clock.stamp_shift(), shift, "{rate} Hz");
            let length = clock.stamp_length(shift).as_secs_f64();
            assert!((5.6..11.4).contains(&length), "{rate} Hz: {length} s");
        }
    }

    #[test]
    fn jiffies_are_carried_forward_and_set_anew() {
        let start = Instant::now();
        let clock = JiffiesClock::new(250, start, 5000);
        assert_eq!(clock.at(start + Duration::from_secs(4)), 6000);
        let shared = clock.clone();
        clock.set(start + Duration::from_secs(4), 6001);
        assert_eq!(shared.at(start + Duration::from_secs(5)), 6251);
        assert_eq!(shared.at(start), 6001, "the past is not asked for");
    }
}
