//! When a batch that was not taken is sent again.

use std::time::Duration;

/// Before the second attempt; it doubles from there.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(16);
/// For how long a batch is tried; then it is dropped, so that newer spans have their turn.
const PATIENCE: Duration = Duration::from_secs(60);
/// However long a collector asks to be left alone: whoever asks for more has made a mistake.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// What to do with a batch after a failure that may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send it again after this.
    Again(Duration),
    /// Drop it, and send nothing for as long.
    GiveUp(Duration),
}

/// The attempts at one batch.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    next: Duration,
    /// Time since the first attempt that has been spent on waiting and on attempts.
    spent: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST, spent: Duration::ZERO }
    }
}

impl Backoff {
    /// An attempt failed that took so long. `asked` is what the collector said, and it is not asked earlier. The lower bits
    /// of `random` spread gateways that all lost the same collector.
    pub fn after(&mut self, took: Duration, asked: Option<Duration>, random: u64) -> Next {
        let spread = (random % 1024) as u32;
        let own = self.next / 2 + self.next * spread / 2048;
        let asked = asked.map(|time| time.min(LONGEST_PAUSE)).map(|time| time + time * spread / 10_240);
        let pause = asked.map_or(own, |asked| asked.max(own));
        self.next = (self.next * 2).min(LONGEST);
        self.spent += took + pause;
        if self.spent > PATIENCE { Next::GiveUp(asked.unwrap_or_default()) } else { Next::Again(pause) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TIME: Duration = Duration::ZERO;

    #[test]
    fn pauses_grow_and_spread_and_end() {
        let pauses = |random| {
            let mut backoff = Backoff::default();
            std::iter::from_fn(move || match backoff.after(NO_TIME, None, random) {
                Next::Again(pause) => Some(pause.as_millis()),
                Next::GiveUp(pause) => {
                    assert_eq!(pause, NO_TIME);
                    None
                }
            })
            .collect::<Vec<_>>()
        };
        assert_eq!(pauses(0), [500, 1000, 2000, 4000, 8000, 8000, 8000, 8000, 8000, 8000]);
        assert_eq!(pauses(1023), [999, 1999, 3998, 7996, 15992, 15992]);
    }

    #[test]
    fn slow_failures_use_the_time_up_as_well() {
        let mut backoff = Backoff::default();
        assert!(matches!(backoff.after(Duration::from_secs(10), None, 0), Next::Again(_)));
        assert!(matches!(backoff.after(Duration::from_secs(50), None, 0), Next::GiveUp(_)));
    }

    #[test]
    fn a_collector_is_left_alone_for_as_long_as_it_asks() {
        let asks = |seconds| Backoff::default().after(NO_TIME, Some(Duration::from_secs(seconds)), 1023);
        let Next::Again(pause) = asks(10) else { panic!() };
        assert!(pause >= Duration::from_secs(10) && pause < Duration::from_secs(11), "{pause:?}");
        assert_eq!(asks(0), Next::Again(Duration::from_nanos(999_511_718)));
        let Next::GiveUp(pause) = asks(120) else { panic!() };
        assert!(pause >= Duration::from_secs(120) && pause < Duration::from_secs(132), "{pause:?}");
        let Next::GiveUp(pause) = asks(u64::MAX) else { panic!() };
        assert!(pause <= LONGEST_PAUSE * 11 / 10, "{pause:?}");
    }
}
