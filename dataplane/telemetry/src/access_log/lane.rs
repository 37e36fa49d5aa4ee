//! Lines on their way from a worker to the writer: a buffer for each worker, so that workers never meet.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes that wait for the writer at most; a line beyond that is dropped.
pub(crate) const MOST_WAITING: usize = 4 << 20;
/// From here on the writer is asked to come at once.
const URGENT: usize = 256 << 10;
/// A buffer that grew beyond this under load is given back.
const KEPT: usize = 1 << 20;

/// The buffer of one worker. The worker alone adds, the writer alone takes. The writer holds the lock for as long as it
/// takes to exchange two buffers, and writes after that: however slow the disk is, no worker waits for it.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    waiting: Mutex<Batch>,
    dropped: AtomicU64,
}

/// Lines, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Each with its line feed.
    pub(crate) lines: Vec<u8>,
    /// How many there are.
    pub(crate) count: u64,
}

/// What the writer is to be told of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urge {
    /// It knows already that lines wait.
    None,
    /// This is the first one.
    Begin,
    /// Much waits.
    Hurry,
}

impl Lane {
    /// Adds a line, which `write` writes without its line feed.
    pub(crate) fn push(&self, write: impl FnOnce(&mut Vec<u8>)) -> Urge {
        let mut waiting = self.lock();
        let before = waiting.lines.len();
        if before >= MOST_WAITING {
            drop(waiting);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return Urge::None;
        }
        write(&mut waiting.lines);
        waiting.lines.push(b'\n');
        waiting.count += 1;
        match (before, waiting.lines.len()) {
            (0, _) => Urge::Begin,
            (before, now) if before < URGENT && now >= URGENT => Urge::Hurry,
            _ => Urge::None,
        }
    }

    /// Takes what waits in exchange for an empty buffer.
    pub(crate) fn take(&self, into: &mut Batch) {
        into.count = 0;
        into.lines.clear();
        if into.lines.capacity() > KEPT {
            into.lines.shrink_to(KEPT);
        }
        std::mem::swap(&mut *self.lock(), into);
    }

    /// Lines that found no room.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Whole lines at every point: who panicked while writing one left at most a torn one behind.
    fn lock(&self) -> MutexGuard<'_, Batch> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
