//! What one worker knows of one endpoint: its load, how fast it answers, whether it failed, and the connections that
//! are idle. It opens no connection and chooses nothing.

use crate::balance::{Candidate, PeakEwma, address_seed};
use crate::connect::{ConnectError, Http2Status};
use crate::pool::UpstreamSettings;
use crate::transport::Transport;
use bytes::Bytes;
use h2::client::SendRequest;
use sluicegate_config::Endpoint;
use sluicegate_telemetry::{EndpointCounters, EndpointLabels, WorkerMetrics};
use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// When an endpoint that fails is left out (passive ejection).
#[derive(Clone, Debug)]
pub struct EjectionSettings {
    /// Failures in a row that eject an endpoint. One is enough where the connection is refused. Default 5.
    pub consecutive_failures: u32,
    /// How long the first ejection lasts; each further one without a success in between doubles it. Default 1 s.
    pub base: Duration,
    /// The longest ejection. Default 30 s.
    pub max: Duration,
    /// The share of a backend's endpoints that may be out at once, in percent. One always remains. Default 50.
    pub max_percent: u32,
}

impl Default for EjectionSettings {
    fn default() -> Self {
        Self { consecutive_failures: 5, base: Duration::from_secs(1), max: Duration::from_secs(30), max_percent: 50 }
    }
}

/// What an endpoint did wrong. An answer with an error status is no failure: the application gave it. Nor is it one if
/// a connection that was reused turns out to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It refused the connection: nobody listens, the pod is gone or not up yet.
    Refused,
    /// There is no way to it.
    Unreachable,
    /// It did not accept, or did not answer, in time.
    Timeout,
    /// It closed or reset a connection on which it owed an answer.
    Reset,
    /// It did not speak the protocol.
    Protocol,
}

impl Failure {
    /// True where one is proof enough that it takes no connections.
    fn is_conclusive(self) -> bool {
        matches!(self, Self::Refused | Self::Unreachable)
    }
}

/// Who of a backend's endpoints is out, so that never too many are.
#[derive(Debug, Default)]
pub(crate) struct Ejections {
    members: Cell<usize>,
    out: RefCell<Vec<(SocketAddr, Instant)>>,
}

impl Ejections {
    /// Takes over a new set of endpoints.
    pub(crate) fn set_members<'a>(&self, endpoints: impl ExactSizeIterator<Item = &'a Rc<EndpointState>> + Clone) {
        self.members.set(endpoints.len());
        self.out.borrow_mut().retain(|(address, _)| endpoints.clone().any(|endpoint| endpoint.address == *address));
    }

    fn try_eject(&self, address: SocketAddr, until: Instant, now: Instant, settings: &EjectionSettings) -> bool {
        let mut out = self.out.borrow_mut();
        out.retain(|(other, end)| *end > now && *other != address);
        let members = self.members.get();
        let share = members.saturating_mul(settings.max_percent as usize) / 100;
        let allowed = out.len() < share.min(members.saturating_sub(1));
        if allowed {
            out.push((address, until));
        }
        allowed
    }

    fn readmit(&self, address: SocketAddr) {
        self.out.borrow_mut().retain(|(other, _)| *other != address);
    }
}

/// What all endpoints of a worker share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: UpstreamSettings,
    /// Who counts connections.
    pub(crate) metrics: Option<Arc<WorkerMetrics>>,
    /// Endpoints that hold connections: what the sweep visits, be there ever so many that do not.
    pub(crate) occupied: RefCell<Vec<Rc<EndpointState>>>,
}

/// An open connection as the metrics count it: in when it is made, out when it is dropped.
#[derive(Debug)]
pub(crate) struct Counted(Option<Arc<WorkerMetrics>>);

impl Counted {
    pub(crate) fn new(metrics: Option<&Arc<WorkerMetrics>>) -> Self {
        metrics.inspect(|metrics| metrics.upstream_opened());
        Self(metrics.cloned())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.iter().for_each(|metrics| metrics.upstream_closed());
    }
}

/// An HTTP/1.1 connection that nobody uses.
#[derive(Debug)]
pub(crate) struct IdleConnection {
    pub(crate) counted: Counted,
    pub(crate) transport: Transport,
    pub(crate) opened: Instant,
    pub(crate) since: Instant,
    pub(crate) requests: u32,
}

/// An HTTP/2 connection that requests share.
#[derive(Debug)]
pub(crate) struct Http2Connection {
    #[expect(dead_code, reason = "held for what its drop counts")]
    pub(crate) counted: Counted,
    pub(crate) sender: SendRequest<Bytes>,
    pub(crate) status: Rc<Http2Status>,
    pub(crate) opened: Instant,
    /// When a stream was last opened or, by the sweep, seen open.
    pub(crate) used: Instant,
}

/// Tells those who wait for an HTTP/2 connection how its opening went.
pub(crate) type Opening = watch::Receiver<Option<Result<(), ConnectError>>>;

/// What runs at an endpoint's address, where that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whereabouts {
    /// The pod.
    pub pod: Option<Arc<str>>,
    /// The node that it runs on.
    pub node: Option<Arc<str>>,
}

impl Whereabouts {
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        Self { pod: endpoint.pod.clone(), node: endpoint.node.clone() }
    }
}

/// The Service that a backend's endpoints belong to.
#[derive(Debug)]
pub(crate) struct OfService {
    pub(crate) namespace: Arc<str>,
    pub(crate) service: Arc<str>,
}

/// One endpoint as one worker sees it. It lives as long as something uses it, also after it was removed.
#[derive(Debug)]
pub struct EndpointState {
    address: SocketAddr,
    whereabouts: Whereabouts,
    service: Rc<OfService>,
    /// Made when it is first given something: most endpoints of a large backend wait for long.
    counters: OnceCell<Option<EndpointCounters>>,
    seed: u64,
    in_flight: Cell<u32>,
    latency: PeakEwma,
    consecutive_failures: Cell<u32>,
    consecutive_ejections: Cell<u32>,
    ejected_until: Cell<Option<Instant>>,
    removed: Cell<bool>,
    requests: Cell<u64>,
    failures: Cell<u64>,
    connections: Cell<u64>,
    ejections: Rc<Ejections>,
    pub(crate) idle: RefCell<Vec<IdleConnection>>,
    pub(crate) http2: RefCell<Vec<Http2Connection>>,
    pub(crate) opening: RefCell<Option<Opening>>,
    is_listed: Cell<bool>,
    pub(crate) shared: Rc<Shared>,
}

impl EndpointState {
    pub(crate) fn new(
        address: SocketAddr,
        whereabouts: Whereabouts,
        service: &Rc<OfService>,
        ejections: &Rc<Ejections>,
        shared: &Rc<Shared>,
    ) -> Rc<Self> {
        Rc::new(Self {
            address,
            whereabouts,
            service: Rc::clone(service),
            counters: OnceCell::new(),
            seed: address_seed(address),
            in_flight: Cell::new(0),
            latency: PeakEwma::default(),
            consecutive_failures: Cell::new(0),
            consecutive_ejections: Cell::new(0),
            ejected_until: Cell::new(None),
            removed: Cell::new(false),
            requests: Cell::new(0),
            failures: Cell::new(0),
            connections: Cell::new(0),
            ejections: Rc::clone(ejections),
            idle: RefCell::default(),
            http2: RefCell::default(),
            opening: RefCell::default(),
            is_listed: Cell::new(false),
            shared: Rc::clone(shared),
        })
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The pod behind it, if known: for logs.
    pub fn pod(&self) -> Option<&Arc<str>> {
        self.whereabouts.pod.as_ref()
    }

    /// What runs there.
    pub fn whereabouts(&self) -> &Whereabouts {
        &self.whereabouts
    }

    /// Counts a request in for as long as the guard lives. Whoever connects without the pool (a stream relay) calls
    /// it, so that balancing sees the load.
    pub fn begin(self: &Rc<Self>) -> InFlight {
        self.in_flight.set(self.in_flight.get().saturating_add(1));
        self.requests.set(self.requests.get().wrapping_add(1));
        self.counters().inspect(|counters| counters.started());
        InFlight { endpoint: Rc::clone(self) }
    }

    /// The endpoint has answered, whatever the status: it is alive. `latency` is the time from the request to the
    /// head of its response.
    pub fn succeeded(&self, latency: Duration, now: Instant) {
        self.latency.observe(latency, now);
        self.consecutive_failures.set(0);
        self.consecutive_ejections.set(0);
        if self.ejected_until.take().is_some() {
            self.ejections.readmit(self.address);
            self.counters().inspect(|counters| counters.ejected(None));
        }
    }

    /// The endpoint has failed; it may be ejected for it. Failures to connect through the pool are reported by the
    /// pool itself.
    pub fn failed(&self, failure: Failure, now: Instant) {
        self.failures.set(self.failures.get().wrapping_add(1));
        self.counters().inspect(|counters| counters.failed());
        let consecutive = self.consecutive_failures.get().saturating_add(1);
        self.consecutive_failures.set(consecutive);
        let settings = &self.shared.settings.ejection;
        let is_enough = failure.is_conclusive() || consecutive >= settings.consecutive_failures;
        if !is_enough || self.is_ejected(now) || self.removed.get() {
            return;
        }
        let before = self.consecutive_ejections.get();
        let length = settings.base.saturating_mul(1 << before.min(16)).min(settings.max);
        if self.ejections.try_eject(self.address, now + length, now, settings) {
            self.ejected_until.set(Some(now + length));
            self.counters().inspect(|counters| counters.ejected(Some(now + length)));
            self.consecutive_ejections.set(before.saturating_add(1));
            tracing::warn!(endpoint = %self.address, pod = self.pod().map(AsRef::as_ref), ?failure, consecutive, ?length,
                "endpoint ejected");
        }
    }

    fn counters(&self) -> Option<&EndpointCounters> {
        let make = || {
            let metrics = self.shared.metrics.as_ref()?;
            let text = |text: &Option<Arc<str>>| text.clone().unwrap_or_else(|| "".into());
            Some(metrics.endpoint(EndpointLabels {
                namespace: Arc::clone(&self.service.namespace),
                service: Arc::clone(&self.service.service),
                pod: text(&self.whereabouts.pod),
                node: text(&self.whereabouts.node),
                endpoint: Some(self.address),
            }))
        };
        self.counters.get_or_init(make).as_ref()
    }

    /// True while it is out for having failed.
    pub fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until.get().is_some_and(|until| until > now)
    }

    /// True once it no longer belongs to its backend. Requests that it has are finished; it gets no others.
    pub fn is_removed(&self) -> bool {
        self.removed.get()
    }

    /// Requests that it is working on for this worker.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// Takes it out of service: idle connections are closed at once, busy ones when their request is done.
    pub(crate) fn remove(&self) {
        self.removed.set(true);
        self.idle.borrow_mut().clear();
        self.http2.borrow_mut().clear();
    }

    pub(crate) fn opened(&self) {
        self.connections.set(self.connections.get().wrapping_add(1));
    }

    /// Sees to it that the sweep visits it.
    pub(crate) fn list(self: &Rc<Self>) {
        if !self.is_listed.replace(true) {
            self.shared.occupied.borrow_mut().push(Rc::clone(self));
        }
    }

    /// Takes an idle connection that can carry another request: the one used last, which is the warmest, so that
    /// surplus ones grow old and are closed.
    pub(crate) fn take_idle(&self, now: Instant) -> Option<IdleConnection> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let mut connection = idle.pop()?;
            if self.is_usable(&mut connection, now) {
                return Some(connection);
            }
        }
    }

    /// Puts a connection where the next request finds it; closes it where it must not be used again.
    pub(crate) fn put_idle(self: &Rc<Self>, connection: IdleConnection) {
        let settings = &self.shared.settings;
        let is_worn = settings.max_connection_requests.is_some_and(|most| connection.requests >= most)
            || is_too_old(connection.opened, connection.since, settings);
        let mut idle = self.idle.borrow_mut();
        if self.removed.get() || is_worn || idle.len() >= settings.max_idle_per_endpoint {
            return;
        }
        idle.push(connection);
        drop(idle);
        self.list();
    }

    fn is_usable(&self, connection: &mut IdleConnection, now: Instant) -> bool {
        let settings = &self.shared.settings;
        now.saturating_duration_since(connection.since) < settings.idle_timeout
            && !is_too_old(connection.opened, now, settings)
            && !connection.transport.try_is_stale()
    }

    /// Closes connections that are stale, too old or too long idle. False if it holds none afterwards, in which case
    /// it is off the list.
    pub(crate) fn sweep(&self, now: Instant) -> bool {
        let settings = &self.shared.settings;
        let mut idle = self.idle.borrow_mut();
        idle.retain_mut(|connection| self.is_usable(connection, now));
        let mut http2 = self.http2.borrow_mut();
        http2.retain_mut(|connection| {
            if connection.status.active.get() > 0 {
                connection.used = now;
            }
            let is_idle = now.saturating_duration_since(connection.used) >= settings.idle_timeout;
            !connection.status.ended.get() && !is_idle && !is_too_old(connection.opened, now, settings)
        });
        let holds = !idle.is_empty() || !http2.is_empty();
        if !holds {
            idle.shrink_to_fit();
        }
        self.is_listed.set(holds);
        holds
    }

    /// Figures for tables.
    pub fn report(&self, now: Instant) -> EndpointReport {
        EndpointReport {
            address: self.address,
            pod: self.whereabouts.pod.clone(),
            in_flight: self.in_flight.get(),
            idle: self.idle.borrow().len() + self.http2.borrow().len(),
            requests: self.requests.get(),
            failures: self.failures.get(),
            connections: self.connections.get(),
            latency: self.latency.average(),
            ejected_for: self.ejected_until.get().and_then(|until| until.checked_duration_since(now)),
        }
    }
}

pub(crate) fn is_too_old(opened: Instant, now: Instant, settings: &UpstreamSettings) -> bool {
    settings.max_connection_age.is_some_and(|age| now.saturating_duration_since(opened) >= age)
}

impl Candidate for EndpointState {
    fn address(&self) -> SocketAddr {
        self.address
    }
    fn seed(&self) -> u64 {
        self.seed
    }
    fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }
    fn cost(&self, now: Instant) -> f64 {
        self.latency.cost(self.in_flight.get(), now)
    }
    fn is_ejected(&self, now: Instant) -> bool {
        self.is_ejected(now)
    }
}

/// Counts one request as being worked on, until it is dropped.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Rc<EndpointState>,
}

impl InFlight {
    /// The endpoint that works on it.
    pub fn endpoint(&self) -> &Rc<EndpointState> {
        &self.endpoint
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.in_flight.set(self.endpoint.in_flight.get().saturating_sub(1));
        self.endpoint.counters().inspect(|counters| counters.finished());
    }
}

/// One endpoint's figures, of one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointReport {
    /// Where it is.
    pub address: SocketAddr,
    /// The pod behind it.
    pub pod: Option<Arc<str>>,
    /// Requests being worked on.
    pub in_flight: u32,
    /// Connections held open: idle HTTP/1.1 ones and all HTTP/2 ones.
    pub idle: usize,
    /// Requests sent to it since it was added.
    pub requests: u64,
    /// Failures since it was added.
    pub failures: u64,
    /// Connections opened since it was added.
    pub connections: u64,
    /// Average time to the head of a response.
    pub latency: Duration,
    /// How much longer it is out, if it is.
    pub ejected_for: Option<Duration>,
}
