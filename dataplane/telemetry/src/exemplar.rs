//! The request that stands for others of its duration: the id of its trace beside the histogram, as OpenMetrics'
//! exemplars.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};
use std::time::{Duration, SystemTime};

/// A recorded request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exemplar {
    pub(crate) trace_id: u128,
    pub(crate) duration: Duration,
    /// When it ended, since the Unix epoch.
    pub(crate) at: Duration,
}

/// The last exemplar that one worker saw, read by whoever scrapes. A reader that meets the writer gets nothing, which
/// is no loss: there is another one soon.
#[derive(Debug, Default)]
pub(crate) struct ExemplarCell {
    /// Odd while it is written, 0 before the first.
    version: AtomicU64,
    words: [AtomicU64; 4],
}

impl ExemplarCell {
    /// For the worker's thread alone.
    pub(crate) fn set(&self, trace_id: u128, duration: Duration) {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let words = [
            (trace_id >> 64) as u64,
            trace_id as u64,
            u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX),
            u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
        ];
        let version = self.version.load(Relaxed);
        self.version.store(version.wrapping_add(1), Relaxed);
        fence(Release);
        self.words.iter().zip(words).for_each(|(cell, word)| cell.store(word, Relaxed));
        self.version.store(version.wrapping_add(2), Release);
    }

    pub(crate) fn get(&self) -> Option<Exemplar> {
        let before = self.version.load(Acquire);
        let [high, low, nanoseconds, milliseconds] = std::array::from_fn(|word| self.words[word].load(Relaxed));
        fence(Acquire);
        let is_whole = before != 0 && before.is_multiple_of(2) && before == self.version.load(Relaxed);
        is_whole.then(|| Exemplar {
            trace_id: u128::from(high) << 64 | u128::from(low),
            duration: Duration::from_nanos(nanoseconds),
            at: Duration::from_millis(milliseconds),
        })
    }
}
