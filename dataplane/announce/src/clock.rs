//! The clock of the shell.

use crate::moment::Moment;
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

impl Moment {
    /// The present, from `CLOCK_BOOTTIME`: it goes on while the machine is suspended, and no one can set it.
    #[must_use]
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
        Self::from_boot(Duration::new(seconds, nanos))
    }
}
