//! One timer for all the deadlines of a connection, armed lazily.
//!
//! Deadlines move forward with every byte. Registering each of them with the runtime would cost a timer operation per
//! request; instead the timer stays where it was armed, and when it fires too early it is armed again for the
//! deadline that then holds.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::time::Sleep;

/// The timer of one connection or stream. Holds nothing until a deadline is first waited for.
#[derive(Default)]
pub(crate) struct Watchdog {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Watchdog {
    /// Ready once `deadline` has passed; else the task is woken then, or earlier.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let target = tokio::time::Instant::from_std(deadline);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(target)));
        // An alarm that rings too late must be moved, one that rings too early is moved when it rings.
        if sleep.deadline() > target {
            sleep.as_mut().reset(target);
        }
        loop {
            std::task::ready!(sleep.as_mut().poll(cx));
            if tokio::time::Instant::now() >= target {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_forward_fires_at_its_last_place() {
        let mut watchdog = Watchdog::default();
        let start = tokio::time::Instant::now();
        let first = (start + Duration::from_secs(1)).into_std();
        let pending = poll_fn(|cx| Poll::Ready(watchdog.poll_expired(cx, first).is_pending())).await;
        assert!(pending);
        let later = (start + Duration::from_secs(5)).into_std();
        poll_fn(|cx| watchdog.poll_expired(cx, later)).await;
        assert_eq!(tokio::time::Instant::now() - start, Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_back_fires_early() {
        let mut watchdog = Watchdog::default();
        let start = tokio::time::Instant::now();
        let far = (start + Duration::from_secs(60)).into_std();
        assert!(poll_fn(|cx| Poll::Ready(watchdog.poll_expired(cx, far).is_pending())).await);
        let near = (start + Duration::from_secs(2)).into_std();
        poll_fn(|cx| watchdog.poll_expired(cx, near)).await;
        assert_eq!(tokio::time::Instant::now() - start, Duration::from_secs(2));
    }
}
