//! Time as the pure part sees it.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on the clock of this machine that never steps (`CLOCK_BOOTTIME`): time since boot. Moments of two machines
/// have nothing to do with each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

impl Moment {
    /// The end of time: a deadline that never comes.
    pub const NEVER: Self = Self(Duration::MAX);

    /// So long after boot.
    #[must_use]
    pub const fn from_boot(since: Duration) -> Self {
        Self(since)
    }

    /// Time since boot.
    #[must_use]
    pub const fn since_boot(self) -> Duration {
        self.0
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, for_: Duration) -> Self {
        Self(self.0.saturating_add(for_))
    }
}

/// How much later; nothing where it is not later.
impl Sub for Moment {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}
