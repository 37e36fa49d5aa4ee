//! One worker thread's own state: its view of the tables, its buffers, its upstream connections, its clock and dice.
//!
//! Nothing in here is shared with another thread except what is read through an atomic pointer.

use crate::buffer::BufferPool;
use crate::http1_server::RequestRoom;
use crate::pool::Upstreams;
use crate::settings::ProxySettings;
use crate::stream::Engine;
use crate::tls::CertificateTable;
use crate::trace::Propagation;
use arc_swap::ArcSwap;
use sluicegate_http1::{HeadLimits, RequestHead, ResponseHead};
use sluicegate_route::RouteTable;
use sluicegate_telemetry::{ListenerKind, RequestSink, Try, WorkerMetrics};
use sluicegate_trace::SamplingBudget;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

/// What all workers read and the controller replaces.
pub(crate) struct Shared {
    pub(crate) table: ArcSwap<RouteTable>,
    pub(crate) certificates: ArcSwap<CertificateTable>,
    /// Downstream connections over all workers; written at accept and close only.
    pub(crate) connections: AtomicUsize,
}

/// A table as one worker holds it: its requests count in the worker's own `Rc`, since all workers counting in one
/// `Arc` would pass its cache line around.
pub(crate) type HeldTable = Rc<Arc<RouteTable>>;

/// Request and response head of one exchange, its trace and its tries, lent to a connection while a request is on its way.
#[derive(Default)]
pub(crate) struct Heads {
    pub(crate) request: RequestHead,
    pub(crate) response: ResponseHead,
    pub(crate) trace: Propagation,
    /// The tries so far, where somebody wants to know.
    pub(crate) tries: Vec<Try>,
}

const KEPT_HEADS: usize = 256;
const KEPT_ROOMS: usize = 256;

/// See the module.
pub(crate) struct Worker {
    pub(crate) settings: Arc<ProxySettings>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) metrics: Arc<WorkerMetrics>,
    pub(crate) buffers: Rc<BufferPool>,
    pub(crate) upstreams: Rc<Upstreams>,
    pub(crate) stream_engine: Engine,
    /// Who is told of requests that are over.
    pub(crate) sink: Option<RefCell<Box<dyn RequestSink>>>,
    pub(crate) request_limits: HeadLimits,
    pub(crate) response_limits: HeadLimits,
    table: RefCell<HeldTable>,
    #[expect(clippy::vec_box, reason = "heads are lent out by the box, so that a connection holds a pointer")]
    heads: RefCell<Vec<Box<Heads>>>,
    rooms: RefCell<Vec<RequestRoom>>,
    random: Cell<u64>,
    date: RefCell<DateText>,
    retry_tokens: Cell<f64>,
    forced_sampling: RefCell<SamplingBudget>,
    draining: Cell<bool>,
    connections: RefCell<slab::Slab<Option<Waker>>>,
}

impl Worker {
    pub(crate) fn new(
        settings: Arc<ProxySettings>,
        shared: Arc<Shared>,
        metrics: Arc<WorkerMetrics>,
        upstreams: Rc<Upstreams>,
        stream_engine: Engine,
        sink: Option<Box<dyn RequestSink>>,
        seed: u64,
    ) -> Self {
        let limits = &settings.limits;
        let forced = settings.trace.as_ref().map_or(0, |trace| trace.forced_per_second);
        Self {
            request_limits: HeadLimits {
                max_head_bytes: limits.max_head_bytes,
                max_fields: limits.max_fields,
                max_target_bytes: limits.max_target_bytes,
            },
            response_limits: HeadLimits {
                max_head_bytes: limits.max_response_head_bytes,
                max_fields: limits.max_fields.max(256),
                max_target_bytes: limits.max_target_bytes,
            },
            table: RefCell::new(Rc::new(shared.table.load_full())),
            buffers: Rc::new(BufferPool::default()),
            heads: RefCell::default(),
            rooms: RefCell::default(),
            random: Cell::new(seed | 1),
            date: RefCell::default(),
            retry_tokens: Cell::new(RETRY_BURST),
            forced_sampling: RefCell::new(SamplingBudget::new(forced, forced)),
            draining: Cell::new(false),
            connections: RefCell::default(),
            settings,
            shared,
            metrics,
            upstreams,
            stream_engine,
            sink: sink.map(RefCell::new),
        }
    }

    /// The routing table as it is now. A request keeps the one that it began with.
    pub(crate) fn table(&self) -> HeldTable {
        let current = self.shared.table.load();
        let mut cached = self.table.borrow_mut();
        if !Arc::ptr_eq(&current, &cached) {
            *cached = Rc::new(Arc::clone(&current));
        }
        Rc::clone(&cached)
    }

    pub(crate) fn take_heads(&self) -> Box<Heads> {
        self.heads.borrow_mut().pop().unwrap_or_default()
    }

    pub(crate) fn give_heads(&self, mut heads: Box<Heads>) {
        heads.request.clear();
        heads.response.clear();
        heads.trace.clear();
        heads.tries.clear();
        let mut kept = self.heads.borrow_mut();
        if kept.len() < KEPT_HEADS
            && heads.request.capacity_bytes() + heads.trace.capacity_bytes() <= self.request_limits.max_head_bytes
        {
            kept.push(heads);
        }
    }

    /// Room for a request on its way, where one is free.
    pub(crate) fn take_room(&self) -> Option<RequestRoom> {
        self.rooms.borrow_mut().pop()
    }

    pub(crate) fn give_room(&self, room: RequestRoom) {
        let mut kept = self.rooms.borrow_mut();
        if kept.len() < KEPT_ROOMS {
            kept.push(room);
        }
    }

    /// A random number that is good for spreading load and for ids, not for secrets (xorshift64*).
    pub(crate) fn random(&self) -> u64 {
        let mut state = self.random.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.random.set(state);
        state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// The `Date` of responses that bring none, formatted once a second.
    pub(crate) fn date(&self, now: Instant) -> std::cell::Ref<'_, [u8]> {
        self.date.borrow_mut().refresh(now);
        std::cell::Ref::map(self.date.borrow(), |date| date.text.as_bytes())
    }

    /// Counts a request towards the retry budget.
    pub(crate) fn earn_retry(&self) {
        self.retry_tokens.set((self.retry_tokens.get() + RETRY_SHARE).min(RETRY_BURST));
    }

    /// Takes one retry from the budget; false if it is used up, so that a failing backend is not hit by a multiple of its load.
    pub(crate) fn spend_retry(&self) -> bool {
        let tokens = self.retry_tokens.get();
        if tokens < 1.0 {
            return false;
        }
        self.retry_tokens.set(tokens - 1.0);
        true
    }

    /// Takes one trace that a client alone wants recorded out of the second's allowance; false if that is used up.
    pub(crate) fn may_force_sampling(&self, now: Instant) -> bool {
        self.forced_sampling.borrow_mut().take(now)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Wakes every connection, so that those that wait for a request close and those on HTTP/2 say goodbye.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        for (_, waker) in self.connections.borrow_mut().iter_mut() {
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        }
    }

    /// Never resolves: relays of opaque streams go on until they end or the drain period does, when the worker's
    /// tasks are dropped.
    pub(crate) fn drained(&self) -> impl Future<Output = ()> + use<> {
        std::future::pending()
    }
}

/// Retries that may be spent at once, and the share of requests that may be retries over time.
const RETRY_BURST: f64 = 100.0;
const RETRY_SHARE: f64 = 0.2;

#[derive(Default)]
struct DateText {
    text: String,
    until: Option<Instant>,
}

impl DateText {
    fn refresh(&mut self, now: Instant) {
        if self.until.is_none_or(|until| now >= until) {
            self.text = httpdate::fmt_http_date(SystemTime::now());
            self.until = Some(now + Duration::from_millis(500));
        }
    }
}

/// A connection that counts and that hears of the drain.
pub(crate) struct Registration {
    worker: Rc<Worker>,
    key: usize,
    kind: ListenerKind,
}

impl Registration {
    /// Counts a connection; `None` if there are as many as there may be.
    pub(crate) fn new(worker: &Rc<Worker>, kind: ListenerKind) -> Option<Self> {
        let before = worker.shared.connections.fetch_add(1, Ordering::Relaxed);
        if before >= worker.settings.limits.max_connections {
            worker.shared.connections.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let key = worker.connections.borrow_mut().insert(None);
        worker.metrics.connection_opened(kind);
        Some(Self { worker: Rc::clone(worker), key, kind })
    }

    /// Asks to be woken when the drain begins.
    pub(crate) fn wake_on_drain(&self, waker: &Waker) {
        let mut connections = self.worker.connections.borrow_mut();
        let slot = &mut connections[self.key];
        if !slot.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *slot = Some(waker.clone());
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(self.key);
        self.worker.shared.connections.fetch_sub(1, Ordering::Relaxed);
        self.worker.metrics.connection_closed(self.kind);
    }
}
