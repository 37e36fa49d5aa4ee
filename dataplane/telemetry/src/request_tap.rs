//! Live requests for who watches: each one that a filter takes, as a line of JSON, while it is watched.
//!
//! Where nobody watches, a request costs one relaxed load. A reader that is too slow loses requests and is told how many.

use crate::request::{FinishedRequest, RequestSink, RequestSinks};
use crate::request_filter::RequestFilter;
use crate::request_json::JsonWriter;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Readers at one time.
const MOST_TAPS: usize = 16;
/// Bytes that wait for a reader at most.
const MOST_WAITING: usize = 1 << 20;

/// Where requests can be watched.
#[derive(Debug, Default)]
pub struct RequestTaps(Arc<Taps>);

/// As many watch as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MOST_TAPS} readers watch requests already; end one of them")]
pub struct TooManyTaps;

#[derive(Debug, Default)]
struct Taps {
    /// Changes whenever the list does, so that workers look at it then alone. Zero as long as nobody ever watched.
    generation: AtomicU64,
    list: Mutex<Vec<Arc<Watch>>>,
}

/// One reader, as workers see it.
#[derive(Debug)]
struct Watch {
    filter: RequestFilter,
    waiting: Mutex<Waiting>,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    waker: Option<Waker>,
}

impl RequestTaps {
    /// Watches requests from here on.
    ///
    /// # Errors
    /// Where 16 readers do so already.
    pub fn watch(&self, filter: RequestFilter) -> Result<RequestTap, TooManyTaps> {
        let watch = Arc::new(Watch { filter, waiting: Mutex::default(), lost: AtomicU64::new(0) });
        let mut list = lock(&self.0.list);
        if list.len() >= MOST_TAPS {
            return Err(TooManyTaps);
        }
        list.push(Arc::clone(&watch));
        self.0.generation.fetch_add(1, Ordering::Release);
        Ok(RequestTap { taps: Arc::clone(&self.0), watch })
    }
}

impl RequestSinks for RequestTaps {
    fn of_worker(&self, _index: usize) -> Box<dyn RequestSink> {
        Box::new(Sink {
            taps: Arc::clone(&self.0),
            generation: 0,
            watches: Vec::new(),
            writer: JsonWriter::default(),
            line: Vec::new(),
        })
    }
}

/// A reader. Dropped, it watches no more.
#[derive(Debug)]
pub struct RequestTap {
    taps: Arc<Taps>,
    watch: Arc<Watch>,
}

impl RequestTap {
    /// The requests since the last call, a line of [`REQUEST_FIELDS`](crate::request_json::REQUEST_FIELDS) each.
    pub fn poll_lines(&mut self, context: &mut Context<'_>) -> Poll<Vec<u8>> {
        let mut waiting = lock(&self.watch.waiting);
        if waiting.lines.is_empty() {
            waiting.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(std::mem::take(&mut waiting.lines))
    }

    /// Requests that found no room so far.
    pub fn lost(&self) -> u64 {
        self.watch.lost.load(Ordering::Relaxed)
    }
}

impl Drop for RequestTap {
    fn drop(&mut self) {
        lock(&self.taps.list).retain(|watch| !Arc::ptr_eq(watch, &self.watch));
        self.taps.generation.fetch_add(1, Ordering::Release);
    }
}

/// The end that a worker holds.
struct Sink {
    taps: Arc<Taps>,
    /// Of the list that `watches` is a copy of.
    generation: u64,
    watches: Vec<Arc<Watch>>,
    writer: JsonWriter,
    line: Vec<u8>,
}

impl RequestSink for Sink {
    fn finished(&mut self, request: &FinishedRequest<'_>) {
        // A change that is seen a request late is one that came a moment later.
        let generation = self.taps.generation.load(Ordering::Relaxed);
        if generation != self.generation {
            let list = lock(&self.taps.list);
            self.watches.clone_from(&list);
            // Under the lock, so that it is this list's.
            self.generation = self.taps.generation.load(Ordering::Acquire);
        }
        if self.watches.is_empty() || request.is_probe {
            return;
        }
        self.line.clear();
        for watch in self.watches.iter().filter(|watch| watch.filter.takes(request)) {
            if self.line.is_empty() {
                self.writer.write(&mut self.line, request);
                self.line.push(b'\n');
            }
            watch.offer(&self.line);
        }
    }
}

impl Watch {
    fn offer(&self, line: &[u8]) {
        let mut waiting = lock(&self.waiting);
        if waiting.lines.len() + line.len() > MOST_WAITING {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.lines.extend_from_slice(line);
        let waker = waiting.waker.take();
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Values are whole at every point, so a thread that panicked with the lock left nothing broken.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
