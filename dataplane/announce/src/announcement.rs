//! When the network is told again who holds a VIP.

use crate::moment::Moment;
use std::time::Duration;

/// After a take-over at once and 1, 2, 4 and 8 s after the one before, then every five minutes: single frames get lost,
/// switches forget.
#[derive(Debug)]
pub(crate) struct Announcements {
    sent: u32,
    next: Moment,
}

impl Announcements {
    const DOUBLINGS: u32 = 4;
    const RARELY: Duration = Duration::from_secs(300);

    pub(crate) fn starting(now: Moment) -> Self {
        Self { sent: 0, next: now }
    }

    /// True where one is due, which is then taken as sent.
    pub(crate) fn is_due(&mut self, now: Moment) -> bool {
        if now < self.next {
            return false;
        }
        let wait = if self.sent < Self::DOUBLINGS { Duration::from_secs(1 << self.sent) } else { Self::RARELY };
        self.sent = self.sent.saturating_add(1);
        self.next = now + wait;
        true
    }
}
