//! What one worker counts: single-writer cells, read by whoever scrapes.
//!
//! Every cell is written by the thread that owns the [`WorkerMetrics`] and by no other, so an addition is a relaxed
//! load and a relaxed store: no locked instruction. A second writer would lose counts, never corrupt anything.

use crate::endpoints::{EndpointBook, EndpointCells, EndpointCounters, EndpointLabels};
use crate::labels::{
    FaultReason, LimitName, ListenerKind, MethodLabel, Protocol, StreamEnd, StreamKind, TlsFailure, TlsVersion,
    UpgradeKind, UpstreamError,
};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Backends that can be counted one by one; slots from here on share one cell.
pub const MAX_BACKEND_SLOTS: u32 = 65_536;

/// Upper bounds of the duration histograms in nanoseconds: 1, 2.5, 5 a decade from 100 µs to 60 s.
pub(crate) const BUCKETS_NS: [u64; 18] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
];

/// Status codes with a series of their own. What else a backend answers is counted under its class.
const EXACT_CODES: [u16; 45] = [
    100, 101, 103, 200, 201, 202, 204, 206, 207, 300, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 406, 408,
    409, 410, 411, 412, 413, 414, 415, 416, 417, 421, 422, 425, 426, 429, 431, 451, 499, 500, 501, 502, 503, 504,
];

const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "other"];

/// How many values the label `code` has.
pub(crate) const CODES: usize = EXACT_CODES.len() + CLASSES.len();

/// Index of the code's series for statuses 0 to 599.
const CODE_INDEX: [u8; 600] = {
    let mut table = [0u8; 600];
    let mut status = 0;
    while status < 600 {
        let class = if status < 100 { CLASSES.len() - 1 } else { status / 100 - 1 };
        table[status] = (EXACT_CODES.len() + class) as u8;
        status += 1;
    }
    let mut exact = 0;
    while exact < EXACT_CODES.len() {
        table[EXACT_CODES[exact] as usize] = exact as u8;
        exact += 1;
    }
    table
};

fn code_index(status: u16) -> usize {
    CODE_INDEX.get(usize::from(status)).map_or(CODES - 1, |index| usize::from(*index))
}

/// The text of a code's series.
pub(crate) fn code_label(index: usize) -> String {
    match EXACT_CODES.get(index) {
        Some(code) => code.to_string(),
        None => CLASSES.get(index - EXACT_CODES.len()).copied().unwrap_or("other").to_owned(),
    }
}

/// One request, told when it is over.
#[derive(Clone, Copy, Debug)]
pub struct RequestSample {
    /// What the client spoke.
    pub protocol: Protocol,
    /// Its method.
    pub method: MethodLabel,
    /// The final status that the client was sent; 499 where it went before it got one.
    pub status: u16,
    /// From the first byte of the request head to the last byte of the response.
    pub duration: Duration,
    /// From the first byte sent to the endpoint that answered to the end of its response head; `None` where no
    /// endpoint answered.
    pub upstream_duration: Option<Duration>,
    /// Body bytes received from the client, without framing.
    pub bytes_in: u64,
    /// Body bytes sent to the client, without framing.
    pub bytes_out: u64,
}

/// A counter with one writer.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    #[inline]
    pub(crate) fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A duration histogram with one writer. The count is the sum of the buckets, so the two cannot disagree.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [Counter; BUCKETS_NS.len() + 1],
    /// Seconds, as the bits of an f64: nanoseconds in a u64 would overflow in three weeks of 10,000 open requests.
    sum: AtomicU64,
}

impl Histogram {
    #[inline]
    pub(crate) fn observe(&self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_NS.partition_point(|bound| *bound < nanoseconds);
        self.buckets[bucket].add(1);
        let sum = f64::from_bits(self.sum.load(Relaxed)) + duration.as_secs_f64();
        self.sum.store(sum.to_bits(), Relaxed);
    }

    pub(crate) fn add_to(&self, total: &mut HistogramTotal) {
        for (bucket, sum) in self.buckets.iter().zip(&mut total.buckets) {
            *sum += bucket.value();
        }
        total.sum += f64::from_bits(self.sum.load(Relaxed));
    }
}

/// Added up histograms.
#[derive(Clone, Debug, Default)]
pub(crate) struct HistogramTotal {
    pub(crate) buckets: [u64; BUCKETS_NS.len() + 1],
    pub(crate) sum: f64,
}

/// The class of a code's series, as an index into `1xx` to `5xx` and what is no status.
pub(crate) fn class_of_code(index: usize) -> usize {
    match EXACT_CODES.get(index) {
        Some(code) => usize::from(code / 100 - 1),
        None => index - EXACT_CODES.len(),
    }
}

/// What one worker counts for one backend.
#[derive(Debug, Default)]
pub struct BackendCounters {
    started: Counter,
    finished: Counter,
    errors: Counter,
}

impl BackendCounters {
    /// A request or connection was given to the backend. Each call is answered by one [`Self::finished`].
    #[inline]
    pub fn started(&self) {
        self.started.add(1);
    }

    /// It is over; `failed` if the backend is to blame.
    #[inline]
    pub fn finished(&self, failed: bool) {
        self.finished.add(1);
        if failed {
            self.errors.add(1);
        }
    }
}

/// What all workers counted for one backend slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendTotals {
    /// Requests and connections that were given to it.
    pub requests: u64,
    /// Those that failed by its fault.
    pub errors: u64,
    /// Those under way.
    pub active: u64,
}

const CHUNK: usize = 256;
const CHUNKS: usize = MAX_BACKEND_SLOTS as usize / CHUNK;

/// Aligned so that two workers' chunks never share a cache line (nor the pair that the prefetcher fetches).
#[repr(align(128))]
#[derive(Debug)]
struct BackendChunk([BackendCounters; CHUNK]);

/// Counters of backends by slot, in chunks of 256 that appear when one of their slots is first counted.
///
/// A slot is 24 bytes and a chunk 6 KiB: a worker that serves 1,000 backends holds 24 KiB, one that served all 65,536
/// holds 1.5 MiB, one that serves none the 4 KiB of chunk pointers.
#[derive(Debug)]
struct BackendSlab {
    chunks: Box<[OnceLock<Box<BackendChunk>>]>,
    beyond: BackendCounters,
}

impl BackendSlab {
    fn new() -> Self {
        Self { chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect(), beyond: BackendCounters::default() }
    }

    #[inline]
    fn slot(&self, slot: u32) -> &BackendCounters {
        match self.chunks.get(slot as usize / CHUNK) {
            Some(chunk) => {
                let chunk =
                    chunk.get_or_init(|| Box::new(BackendChunk(std::array::from_fn(|_| BackendCounters::default()))));
                &chunk.0[slot as usize % CHUNK]
            }
            None => &self.beyond,
        }
    }

    /// The slot's counters, if its chunk was ever used.
    fn peek(&self, slot: u32) -> Option<&BackendCounters> {
        let chunk = self.chunks.get(slot as usize / CHUNK)?.get()?;
        chunk.0.get(slot as usize % CHUNK)
    }
}

/// The counters of one worker. Written by the worker's thread alone.
///
/// Aligned so that no two workers share a cache line (nor the pair that the prefetcher fetches).
#[repr(align(128))]
pub struct WorkerMetrics {
    pub(crate) requests: [[[Counter; CODES]; MethodLabel::COUNT]; Protocol::COUNT],
    pub(crate) request_duration: [Histogram; Protocol::COUNT],
    pub(crate) upstream_duration: Histogram,
    pub(crate) bytes_in: [Counter; Protocol::COUNT],
    pub(crate) bytes_out: [Counter; Protocol::COUNT],
    pub(crate) connections_opened: [Counter; ListenerKind::COUNT],
    pub(crate) connections_closed: [Counter; ListenerKind::COUNT],
    pub(crate) tls_handshakes: [Counter; TlsVersion::COUNT],
    pub(crate) tls_failures: [Counter; TlsFailure::COUNT],
    pub(crate) tls_resumed: Counter,
    pub(crate) tls_default_certificate: Counter,
    pub(crate) faults: [Counter; FaultReason::COUNT],
    pub(crate) limits: [Counter; LimitName::COUNT],
    pub(crate) upstream_errors: [Counter; UpstreamError::COUNT],
    pub(crate) upstream_opened: Counter,
    pub(crate) upstream_closed: Counter,
    pub(crate) upstream_reused: Counter,
    pub(crate) retries: Counter,
    pub(crate) ejections: Counter,
    pub(crate) streams_opened: [Counter; StreamKind::COUNT],
    pub(crate) streams_ended: [[Counter; StreamEnd::COUNT]; StreamKind::COUNT],
    pub(crate) stream_bytes: [[Counter; 2]; StreamKind::COUNT],
    pub(crate) upgrades_opened: [Counter; UpgradeKind::COUNT],
    pub(crate) upgrades_closed: [Counter; UpgradeKind::COUNT],
    pub(crate) upgrade_bytes: [[Counter; 2]; UpgradeKind::COUNT],
    backends: BackendSlab,
    endpoints: Arc<EndpointBook>,
}

impl fmt::Debug for WorkerMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerMetrics").finish_non_exhaustive()
    }
}

impl WorkerMetrics {
    pub(crate) fn new(endpoints: Arc<EndpointBook>) -> Self {
        Self {
            requests: counters_3(),
            request_duration: std::array::from_fn(|_| Histogram::default()),
            upstream_duration: Histogram::default(),
            bytes_in: counters(),
            bytes_out: counters(),
            connections_opened: counters(),
            connections_closed: counters(),
            tls_handshakes: counters(),
            tls_failures: counters(),
            tls_resumed: Counter::default(),
            tls_default_certificate: Counter::default(),
            faults: counters(),
            limits: counters(),
            upstream_errors: counters(),
            upstream_opened: Counter::default(),
            upstream_closed: Counter::default(),
            upstream_reused: Counter::default(),
            retries: Counter::default(),
            ejections: Counter::default(),
            streams_opened: counters(),
            streams_ended: std::array::from_fn(|_| counters()),
            stream_bytes: std::array::from_fn(|_| counters()),
            upgrades_opened: counters(),
            upgrades_closed: counters(),
            upgrade_bytes: std::array::from_fn(|_| counters()),
            backends: BackendSlab::new(),
            endpoints,
        }
    }

    /// A request is over, whoever answered it.
    #[inline]
    pub fn request(&self, sample: RequestSample) {
        let protocol = sample.protocol.index();
        self.requests[protocol][sample.method.index()][code_index(sample.status)].add(1);
        self.request_duration[protocol].observe(sample.duration);
        if let Some(duration) = sample.upstream_duration {
            self.upstream_duration.observe(duration);
        }
        self.bytes_in[protocol].add(sample.bytes_in);
        self.bytes_out[protocol].add(sample.bytes_out);
    }

    /// A client's connection was accepted. Each call is answered by one [`Self::connection_closed`].
    #[inline]
    pub fn connection_opened(&self, listener: ListenerKind) {
        self.connections_opened[listener.index()].add(1);
    }

    /// A client's connection is gone.
    #[inline]
    pub fn connection_closed(&self, listener: ListenerKind) {
        self.connections_closed[listener.index()].add(1);
    }

    /// A TLS handshake with a client ended, one way or the other.
    #[inline]
    pub fn tls_handshake(&self, outcome: Result<TlsVersion, TlsFailure>) {
        match outcome {
            Ok(version) => self.tls_handshakes[version.index()].add(1),
            Err(failure) => self.tls_failures[failure.index()].add(1),
        }
    }

    /// A handshake resumed a session; counted besides [`Self::tls_handshake`].
    #[inline]
    pub fn tls_resumed(&self) {
        self.tls_resumed.add(1);
    }

    /// A handshake was answered with the default certificate, because no other one fits the name.
    #[inline]
    pub fn tls_default_certificate(&self) {
        self.tls_default_certificate.add(1);
    }

    /// The gateway itself answered a request or closed a connection.
    #[inline]
    pub fn fault(&self, reason: FaultReason) {
        self.faults[reason.index()].add(1);
    }

    /// A limit was exceeded.
    #[inline]
    pub fn limit(&self, limit: LimitName) {
        self.limits[limit.index()].add(1);
    }

    /// An attempt at an endpoint failed, whether or not it is retried.
    #[inline]
    pub fn upstream_error(&self, error: UpstreamError) {
        self.upstream_errors[error.index()].add(1);
    }

    /// A connection to an endpoint was established. Each call is answered by one [`Self::upstream_closed`].
    #[inline]
    pub fn upstream_opened(&self) {
        self.upstream_opened.add(1);
    }

    /// A connection to an endpoint is gone.
    #[inline]
    pub fn upstream_closed(&self) {
        self.upstream_closed.add(1);
    }

    /// A request went out on a connection that had carried one before.
    #[inline]
    pub fn upstream_reused(&self) {
        self.upstream_reused.add(1);
    }

    /// A request was tried again.
    #[inline]
    pub fn retry(&self) {
        self.retries.add(1);
    }

    /// An endpoint was taken out of rotation for its failures.
    #[inline]
    pub fn ejection(&self) {
        self.ejections.add(1);
    }

    /// A relayed stream began. Each call is answered by one [`Self::stream_ended`].
    #[inline]
    pub fn stream_opened(&self, kind: StreamKind) {
        self.streams_opened[kind.index()].add(1);
    }

    /// Bytes that a relayed stream carried since they were last told: to the backend and to the client.
    #[inline]
    pub fn stream_bytes(&self, kind: StreamKind, up: u64, down: u64) {
        self.stream_bytes[kind.index()][0].add(up);
        self.stream_bytes[kind.index()][1].add(down);
    }

    /// A relayed stream ended.
    #[inline]
    pub fn stream_ended(&self, kind: StreamKind, how: StreamEnd) {
        self.streams_ended[kind.index()][how.index()].add(1);
    }

    /// A request became a tunnel. Each call is answered by one [`Self::upgrade_closed`].
    #[inline]
    pub fn upgrade_opened(&self, kind: UpgradeKind) {
        self.upgrades_opened[kind.index()].add(1);
    }

    /// The tunnel of an upgrade is gone; what it carried to the backend and to the client since it was last told by
    /// [`Self::upgrade_bytes`].
    #[inline]
    pub fn upgrade_closed(&self, kind: UpgradeKind, up: u64, down: u64) {
        self.upgrades_closed[kind.index()].add(1);
        self.upgrade_bytes(kind, up, down);
    }

    /// Bytes that an upgraded connection carried since they were last told: to the backend and to the client.
    #[inline]
    pub fn upgrade_bytes(&self, kind: UpgradeKind, up: u64, down: u64) {
        self.upgrade_bytes[kind.index()][0].add(up);
        self.upgrade_bytes[kind.index()][1].add(down);
    }

    /// The counters of a backend by its slot in the route table. Slots from [`MAX_BACKEND_SLOTS`] on share one cell
    /// that is not shown.
    #[inline]
    pub fn backend(&self, slot: u32) -> &BackendCounters {
        self.backends.slot(slot)
    }

    /// Cells for one endpoint, which show up with the first thing that is counted.
    pub fn endpoint(&self, labels: EndpointLabels) -> EndpointCounters {
        let cells = Arc::new(EndpointCells::new(labels));
        self.endpoints.hand_in(Arc::clone(&cells));
        EndpointCounters(cells)
    }

    /// This worker's part of a slot's totals: started, finished, errors.
    pub(crate) fn backend_parts(&self, slot: u32) -> [u64; 3] {
        self.backends
            .peek(slot)
            .map_or([0; 3], |counters| [counters.started.value(), counters.finished.value(), counters.errors.value()])
    }
}

fn counters<const N: usize>() -> [Counter; N] {
    std::array::from_fn(|_| Counter::default())
}

fn counters_3<const A: usize, const B: usize, const C: usize>() -> [[[Counter; A]; B]; C] {
    std::array::from_fn(|_| std::array::from_fn(|_| counters()))
}
