//! Spans between the workers, which never wait, and the exporter, which may be slow; and what became of them.

use super::MAX_SPANS;
use crate::labels::closed_set;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

/// The spans of one request, as fields `spans` of OTLP's `ScopeSpans`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanRecord {
    /// How many they are.
    pub spans: usize,
    /// Their bytes.
    pub bytes: Box<[u8]>,
}

closed_set! {
    /// Why a span did not reach a collector.
    DropReason {
        /// More came than the exporter could send, and the queue was full.
        QueueFull => "queue_full",
        /// The collector could not be reached, or was too busy, for as long as a batch is tried.
        RetriesExhausted => "retries_exhausted",
        /// The collector refused the batch, or what answers is no collector.
        Refused => "refused",
        /// The collector took the batch and refused some of its spans.
        PartialSuccess => "partial_success",
        /// The gateway ended before they could be sent.
        Shutdown => "shutdown",
    }
}

closed_set! {
    /// Why a request to a collector failed; it may be repeated.
    ExportFailure {
        /// No connection: the name, the way, the port or the TLS handshake.
        Connect => "connect",
        /// No answer in time.
        Timeout => "timeout",
        /// The collector asked to come back later (429, 503, `RESOURCE_EXHAUSTED`, `UNAVAILABLE` …).
        Busy => "busy",
        /// The collector said that it will not take it (400, 401, 404, `UNAUTHENTICATED` …).
        Refused => "refused",
        /// What came back is no answer of a collector.
        Malformed => "malformed",
    }
}

/// What became of spans.
#[derive(Debug, Default)]
pub struct ExportCounts {
    exported: AtomicU64,
    dropped: [AtomicU64; DropReason::COUNT],
    failures: [AtomicU64; ExportFailure::COUNT],
    queued: AtomicUsize,
}

impl ExportCounts {
    /// A collector took so many.
    pub fn count_exported(&self, spans: usize) {
        self.exported.fetch_add(spans as u64, Ordering::Relaxed);
    }

    /// So many are lost.
    pub fn count_dropped(&self, reason: DropReason, spans: usize) {
        self.dropped[reason.index()].fetch_add(spans as u64, Ordering::Relaxed);
    }

    /// A request to a collector failed.
    pub fn count_failure(&self, failure: ExportFailure) {
        self.failures[failure.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Spans that a collector took.
    pub fn exported(&self) -> u64 {
        self.exported.load(Ordering::Relaxed)
    }

    /// Spans that are lost.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason.index()].load(Ordering::Relaxed)
    }

    /// Requests to a collector that failed.
    pub fn failures(&self, failure: ExportFailure) -> u64 {
        self.failures[failure.index()].load(Ordering::Relaxed)
    }

    /// Spans that wait.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }
}

/// The bounded queue. Workers put in, one exporter takes out.
pub struct SpanQueue {
    sender: SyncSender<SpanRecord>,
    // Only the exporter locks it.
    receiver: Mutex<Receiver<SpanRecord>>,
    capacity: usize,
    batch: usize,
    wake: Box<dyn Fn() + Send + Sync>,
    counts: ExportCounts,
}

impl SpanQueue {
    /// A queue for so many spans. `wake` is called, on the thread of a worker, when a batch has come together; it must not
    /// block.
    pub fn new(capacity: usize, batch: usize, wake: impl Fn() + Send + Sync + 'static) -> Self {
        let capacity = capacity.max(MAX_SPANS);
        // A record has a span at least, so the channel is never the one to be full.
        let (sender, receiver) = sync_channel(capacity);
        let receiver = Mutex::new(receiver);
        Self {
            sender,
            receiver,
            capacity,
            batch: batch.clamp(1, capacity),
            wake: Box::new(wake),
            counts: ExportCounts::default(),
        }
    }

    /// What became of spans so far.
    pub fn counts(&self) -> &ExportCounts {
        &self.counts
    }

    /// A batch has come together.
    pub fn has_batch(&self) -> bool {
        self.counts.queued() >= self.batch
    }

    /// Nothing more fits in, whatever its size: what would be put in now would be dropped.
    pub(super) fn is_full(&self) -> bool {
        self.counts.queued() >= self.capacity
    }

    /// Puts a record in, or drops and counts it. It does not wait.
    pub fn push(&self, record: SpanRecord) {
        let spans = record.spans;
        let before = self.counts.queued.fetch_add(spans, Ordering::Relaxed);
        let has_room = before + spans <= self.capacity;
        if !has_room || self.sender.try_send(record).is_err() {
            self.counts.queued.fetch_sub(spans, Ordering::Relaxed);
            self.counts.count_dropped(DropReason::QueueFull, spans);
        } else if before < self.batch && before + spans >= self.batch {
            (self.wake)();
        }
    }

    /// Takes what waits, oldest first, up to a batch of spans; at least the spans of one request, where there is one.
    pub fn take_batch(&self) -> Vec<SpanRecord> {
        let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        let mut records = Vec::new();
        let mut spans = 0;
        while spans == 0 || spans + MAX_SPANS <= self.batch {
            let Ok(record) = receiver.try_recv() else { break };
            spans += record.spans;
            records.push(record);
        }
        self.counts.queued.fetch_sub(spans, Ordering::Relaxed);
        records
    }
}

impl fmt::Debug for SpanQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpanQueue")
            .field("capacity", &self.capacity)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}
