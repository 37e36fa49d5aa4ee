//! The upstream side of one worker: its backends, the endpoints behind them and their connections. Single-threaded by
//! design (`Rc`, `Cell`): nothing here is shared with another worker, and it sends no request itself.

use crate::balance::{PickContext, Picker, mix};
use crate::connect::{
    ConnectError, Handshake, Http2Settings, Http2Status, TlsTarget, UpstreamTls, connect, connect_http2,
};
use crate::endpoint::{
    Counted, EjectionSettings, Ejections, EndpointReport, EndpointState, Http2Connection, IdleConnection, InFlight,
    OfService, Opening, Shared, Whereabouts, is_too_old,
};
use crate::resolve::{ResolveSettings, Resolver};
use crate::transport::Transport;
use bytes::Bytes;
use h2::client::SendRequest;
use rustls::RootCertStore;
use sluicegate_config::backend::{Backend, UpstreamProtocol};
use sluicegate_route::SlottedBackend;
use sluicegate_telemetry::WorkerMetrics;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout_at};

/// How backends are talked to. The same for all workers.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// How long a TCP connection with its TLS handshake may take. Default 5 s.
    pub connect_timeout: Duration,
    /// How long a connection may be idle before it is closed. Default 55 s: below the 60 s after which many servers
    /// close, so that requests do not run into connections that are being closed.
    pub idle_timeout: Duration,
    /// Idle HTTP/1.1 connections kept to one endpoint by one worker. Default 512: what concurrency has opened is worth
    /// keeping until it has been idle, or each burst pays for new connections.
    pub max_idle_per_endpoint: usize,
    /// How old a connection may be when a request is sent on it. Default unlimited.
    pub max_connection_age: Option<Duration>,
    /// How many requests an HTTP/1.1 connection carries. Default unlimited.
    pub max_connection_requests: Option<u32>,
    /// Authorities that certificates of endpoints must come from. Default none: any certificate is taken, see
    /// [`UpstreamTls`].
    pub trusted_roots: Option<Arc<RootCertStore>>,
    /// When endpoints that fail are left out.
    pub ejection: EjectionSettings,
    /// How HTTP/2 is spoken.
    pub http2: Http2Settings,
    /// How names of ExternalName Services are looked up: for whoever makes the [`Resolver`].
    pub resolve: ResolveSettings,
}

impl Default for UpstreamSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(55),
            max_idle_per_endpoint: 512,
            max_connection_age: None,
            max_connection_requests: None,
            trusted_roots: None,
            ejection: EjectionSettings::default(),
            http2: Http2Settings::default(),
            resolve: ResolveSettings::default(),
        }
    }
}

/// All backends that one worker has sent to.
pub struct Upstreams {
    slots: RefCell<Vec<Option<Slot>>>,
    shared: Rc<Shared>,
    tls: UpstreamTls,
    resolver: Rc<Resolver>,
    random: Cell<u64>,
}

struct Slot {
    incarnation: u64,
    version: u64,
    backend: Rc<UpstreamBackend>,
}

impl Upstreams {
    /// The upstream side of a worker. `seed` should differ between workers and between starts; `resolver` looks up
    /// the names of ExternalName Services.
    pub fn new(settings: UpstreamSettings, resolver: Rc<Resolver>, seed: u64) -> Rc<Self> {
        Self::counted_by(None, settings, resolver, seed)
    }

    /// As [`new`](Self::new), with connections counted in and out.
    pub fn counted_by(
        metrics: Option<Arc<WorkerMetrics>>,
        settings: UpstreamSettings,
        resolver: Rc<Resolver>,
        seed: u64,
    ) -> Rc<Self> {
        let tls = UpstreamTls::new(settings.trusted_roots.clone());
        let shared = Rc::new(Shared { settings, metrics, occupied: RefCell::default() });
        Rc::new(Self { slots: RefCell::default(), shared, tls, resolver, random: Cell::new(seed) })
    }

    /// The worker's view of a backend, brought up to date if the routing table has a newer one: endpoints that stay
    /// keep their state and connections, those that went are removed.
    pub fn backend(&self, slotted: &SlottedBackend) -> Rc<UpstreamBackend> {
        let mut slots = self.slots.borrow_mut();
        let index = slotted.slot as usize;
        if index >= slots.len() {
            slots.resize_with(index + 1, || None);
        }
        match &mut slots[index] {
            Some(slot) if slot.incarnation == slotted.incarnation => {
                slot.update(slotted);
                Rc::clone(&slot.backend)
            }
            other => {
                if let Some(former) = other.take() {
                    former.backend.remove();
                }
                let backend = UpstreamBackend::new(self, &slotted.backend);
                let slot = Slot { incarnation: slotted.incarnation, version: slotted.version, backend };
                Rc::clone(&other.insert(slot).backend)
            }
        }
    }

    /// Brings what the worker holds up to date with a whole table, of which `slot_of` shows what is in a slot, so that
    /// connections to endpoints and backends that went are closed also where no request comes. Asks for the slots that the
    /// worker has sent to alone: a table may have tens of thousands more, and requests wait meanwhile. Meant to be called
    /// once a second at most, while requests see changes at once through [`backend`](Self::backend).
    pub fn sync<'a>(&self, slot_of: impl Fn(u32) -> Option<&'a SlottedBackend>) {
        for (index, place) in (0..).zip(self.slots.borrow_mut().iter_mut()) {
            let Some(slot) = place else { continue };
            match slot_of(index).filter(|slotted| slotted.incarnation == slot.incarnation) {
                Some(slotted) => slot.update(slotted),
                None => {
                    slot.backend.remove();
                    *place = None;
                }
            }
        }
    }

    fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        mix(state)
    }

    /// The settings.
    pub fn settings(&self) -> &UpstreamSettings {
        &self.shared.settings
    }

    /// Closes connections that were idle or alive for too long, or that the endpoint closed.
    pub fn sweep(&self, now: Instant) {
        // Taken out meanwhile: closing connections may run code that lists endpoints.
        let mut occupied = self.shared.occupied.take();
        occupied.retain(|endpoint| endpoint.sweep(now));
        self.shared.occupied.borrow_mut().append(&mut occupied);
    }

    /// Starts the task that sweeps once a second, for as long as `self` lives. Must be called within a `LocalSet`.
    pub fn spawn_sweep(self: &Rc<Self>) -> JoinHandle<()> {
        let upstreams = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            let mut ticks = interval(Duration::from_secs(1));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let now = ticks.tick().await;
                let Some(upstreams) = upstreams.upgrade() else { return };
                upstreams.sweep(now.into_std());
            }
        })
    }

    /// Figures of all backends that this worker has sent to, with their keys.
    pub fn report(&self, now: Instant) -> Vec<(Arc<Backend>, Vec<EndpointReport>)> {
        let slots = self.slots.borrow();
        slots.iter().flatten().map(|slot| (slot.backend.source(), slot.backend.report(now))).collect()
    }
}

impl Drop for Upstreams {
    fn drop(&mut self) {
        // Idle connections end with the worker; and endpoints refer to the list that they are on.
        self.sync(|_| None);
        self.shared.occupied.take();
    }
}

impl Slot {
    fn update(&mut self, slotted: &SlottedBackend) {
        if self.version != slotted.version {
            self.version = slotted.version;
            self.backend.update(&slotted.backend);
        }
    }
}

/// One backend of one worker.
pub struct UpstreamBackend {
    source: RefCell<Arc<Backend>>,
    protocol: Cell<UpstreamProtocol>,
    tls: RefCell<Option<TlsTarget>>,
    picker: Picker,
    endpoints: RefCell<Vec<Rc<EndpointState>>>,
    service: Rc<OfService>,
    ejections: Rc<Ejections>,
    /// The addresses that the endpoints of an ExternalName were made of.
    resolved: RefCell<Option<Rc<[IpAddr]>>>,
    /// When to ask for the addresses of an ExternalName again. `None` for other backends.
    recheck: Cell<Option<Instant>>,
    worker_tls: UpstreamTls,
    resolver: Rc<Resolver>,
    shared: Rc<Shared>,
}

impl UpstreamBackend {
    fn new(upstreams: &Upstreams, source: &Arc<Backend>) -> Rc<Self> {
        let backend = Self {
            source: RefCell::new(Arc::clone(source)),
            protocol: Cell::new(source.protocol),
            tls: RefCell::default(),
            picker: Picker::new(&source.id.balance, upstreams.random()),
            endpoints: RefCell::default(),
            service: Rc::new(OfService {
                namespace: Arc::clone(&source.id.namespace),
                service: Arc::clone(&source.id.service),
            }),
            ejections: Rc::default(),
            resolved: RefCell::default(),
            recheck: Cell::default(),
            worker_tls: upstreams.tls.clone(),
            resolver: Rc::clone(&upstreams.resolver),
            shared: Rc::clone(&upstreams.shared),
        };
        backend.update(source);
        Rc::new(backend)
    }

    /// Takes over a newer state of the backend.
    fn update(&self, source: &Arc<Backend>) {
        let former = self.source.replace(Arc::clone(source));
        if self.protocol.replace(source.protocol) != source.protocol || former.external != source.external {
            // Connections speak the former protocol, or lead to the former name's addresses.
            self.set_endpoints(std::iter::empty());
            self.resolved.take();
            self.recheck.set(None);
        }
        self.tls.replace(self.tls_target(source));
        match source.external {
            None => {
                let endpoints = source.endpoints.iter();
                self.set_endpoints(endpoints.map(|endpoint| (endpoint.address, Whereabouts::of(endpoint))));
            }
            // Asks again at the next request; the endpoints stay until there is another answer.
            Some(_) => self.recheck.set(Some(clock())),
        }
    }

    fn tls_target(&self, source: &Backend) -> Option<TlsTarget> {
        let name = match &source.external {
            Some((name, _)) => name.to_string(),
            None => format!("{}.{}.svc", source.id.service, source.id.namespace),
        };
        source.protocol.is_tls().then(|| self.worker_tls.target(source.protocol.is_http2(), &name))
    }

    /// Replaces the endpoints. The same address with another pod is another endpoint: the former pod's connections
    /// and failures say nothing about it.
    fn set_endpoints(&self, wanted: impl Iterator<Item = (SocketAddr, Whereabouts)>) {
        let former = self.endpoints.take().into_iter();
        let mut former: BTreeMap<_, _> = former.map(|endpoint| (endpoint.address(), endpoint)).collect();
        let mut endpoints = Vec::with_capacity(former.len());
        for (address, whereabouts) in wanted {
            let is_kept = former.get(&address).is_some_and(|endpoint| *endpoint.whereabouts() == whereabouts);
            let kept = if is_kept { former.remove(&address) } else { None };
            let new = || EndpointState::new(address, whereabouts, &self.service, &self.ejections, &self.shared);
            endpoints.push(kept.unwrap_or_else(new));
        }
        former.values().for_each(|endpoint| endpoint.remove());
        self.ejections.set_members(endpoints.iter());
        self.endpoints.replace(endpoints);
    }

    fn remove(&self) {
        self.set_endpoints(std::iter::empty());
    }

    /// The backend as it was configured last.
    pub fn source(&self) -> Arc<Backend> {
        Arc::clone(&self.source.borrow())
    }

    /// What is spoken to its endpoints.
    pub fn protocol(&self) -> UpstreamProtocol {
        self.protocol.get()
    }

    /// Makes the addresses of an ExternalName its endpoints. To be awaited before [`pick`](Self::pick); done at once
    /// for any other backend, and unless the addresses are unknown or out of date. Of requests that wait for the same
    /// name only one asks.
    ///
    /// # Errors
    /// [`ConnectError::Resolve`] if there is no address to use.
    pub async fn ready(&self, now: Instant) -> Result<(), ConnectError> {
        if self.is_ready(now) { Ok(()) } else { Box::pin(self.resolve(now)).await }
    }

    /// Whether [`ready`](Self::ready) would have nothing to do.
    pub fn is_ready(&self, now: Instant) -> bool {
        self.recheck.get().is_none_or(|at| now < at)
    }

    async fn resolve(&self, now: Instant) -> Result<(), ConnectError> {
        let Some(external) = self.source.borrow().external.clone() else { return Ok(()) };
        let result = self.resolver.resolve(&external.0, now).await;
        if self.source.borrow().external.as_ref() != Some(&external) {
            // Another name since; its own requests look it up.
            return result.map(drop);
        }
        match result {
            Ok(resolution) => {
                self.recheck.set(Some(resolution.recheck));
                let former = self.resolved.replace(Some(Rc::clone(&resolution.addresses)));
                if !former.is_some_and(|former| Rc::ptr_eq(&former, &resolution.addresses)) {
                    let addresses = resolution.addresses.iter();
                    self.set_endpoints(
                        addresses.map(|address| (SocketAddr::new(*address, external.1), Whereabouts::default())),
                    );
                }
                Ok(())
            }
            Err(error) => {
                self.resolved.take();
                self.set_endpoints(std::iter::empty());
                Err(error)
            }
        }
    }

    /// The endpoint for a request. `None` if there are none or all have been tried.
    pub fn pick(&self, context: PickContext<'_>) -> Option<Rc<EndpointState>> {
        let endpoints = self.endpoints.borrow();
        self.picker.pick(&endpoints, &context).map(|index| Rc::clone(&endpoints[index]))
    }

    /// How many endpoints it has.
    pub fn endpoint_count(&self) -> usize {
        self.endpoints.borrow().len()
    }

    /// Figures of its endpoints, in the order of their addresses.
    pub fn report(&self, now: Instant) -> Vec<EndpointReport> {
        self.endpoints.borrow().iter().map(|endpoint| endpoint.report(now)).collect()
    }

    /// A connection for one HTTP/1.1 request: an idle one that was not closed meanwhile, else a new one. `limit` bounds
    /// connection and TLS handshake together. With an idle one it makes no system call as a rule and allocates nothing.
    ///
    /// # Errors
    /// Why there is none. The endpoint has been told of its failure.
    pub async fn checkout(
        &self,
        endpoint: &Rc<EndpointState>,
        now: Instant,
        limit: Duration,
    ) -> Result<Lease, ConnectError> {
        match endpoint.take_idle(now) {
            Some(IdleConnection { transport, opened, requests, counted, .. }) => {
                let guard = endpoint.begin();
                Ok(Lease { connection: transport, reused: true, handshake: None, opened, requests, counted, guard })
            }
            None => self.checkout_new(endpoint, limit).await,
        }
    }

    /// A new connection for one HTTP/1.1 request, whatever is idle: for the retry after a reused one failed.
    ///
    /// # Errors
    /// As [`checkout`](Self::checkout).
    pub async fn checkout_new(&self, endpoint: &Rc<EndpointState>, limit: Duration) -> Result<Lease, ConnectError> {
        let guard = endpoint.begin();
        let tls = self.tls.borrow().clone();
        // Boxed, so that requests that need no new connection do not carry the state of opening one.
        match Box::pin(connect(endpoint.address(), tls.as_ref(), limit)).await {
            Ok((connection, handshake)) => {
                endpoint.opened();
                let counted = Counted::new(self.shared.metrics.as_ref());
                let handshake = Some(handshake);
                Ok(Lease { connection, reused: false, handshake, opened: clock(), requests: 0, counted, guard })
            }
            Err(error) => Err(blamed(endpoint, error)),
        }
    }

    /// A handle that is ready to open one HTTP/2 stream, on a connection that is shared with other requests. A
    /// connection is opened where there is none with room: one for all requests that wait for it. Must be called
    /// within a `LocalSet`.
    ///
    /// # Errors
    /// Why there is none. The endpoint has been told of its failure, once however many waited.
    pub async fn http2(
        &self,
        endpoint: &Rc<EndpointState>,
        now: Instant,
        limit: Duration,
    ) -> Result<Http2Lease, ConnectError> {
        match reserve(endpoint, now, Room::Free, true) {
            Some(lease) => Ok(lease),
            None => Box::pin(self.http2_opened(endpoint, limit)).await,
        }
    }

    async fn http2_opened(&self, endpoint: &Rc<EndpointState>, limit: Duration) -> Result<Http2Lease, ConnectError> {
        // Those who wait weigh on the endpoint too.
        let _waiting = endpoint.begin();
        let deadline = tokio::time::Instant::now() + limit;
        let most = self.shared.settings.http2.max_connections;
        // Others that waited for the same connection may have filled it: then the next one is waited for.
        for _ in 0..=most {
            if endpoint.http2.borrow().len() >= most {
                return reserve(endpoint, clock(), Room::Queue, true).ok_or(ConnectError::Overloaded);
            }
            let mut opening = self.opening(endpoint);
            match timeout_at(deadline, opening.wait_for(Option::is_some)).await {
                Ok(Ok(result)) => result.clone().unwrap_or(Ok(()))?,
                Ok(Err(_)) => return Err(ConnectError::Http2("the connection's task ended".to_owned())),
                Err(_) => return Err(ConnectError::Timeout),
            }
            if endpoint.is_removed() {
                return Err(ConnectError::EndpointRemoved);
            }
            if let Some(lease) = reserve(endpoint, clock(), Room::Free, false) {
                return Ok(lease);
            }
        }
        let error = ConnectError::Http2("it closes each connection before a request is sent".to_owned());
        Err(blamed(endpoint, error))
    }

    /// The connection that is being opened, if need be since this moment. It is opened by a task of its own, so that
    /// a request that goes away does not take it from the others.
    fn opening(&self, endpoint: &Rc<EndpointState>) -> Opening {
        let mut slot = endpoint.opening.borrow_mut();
        if let Some(opening) = slot.as_ref().filter(|opening| opening.has_changed().is_ok()) {
            return opening.clone();
        }
        let (done, opening) = watch::channel(None);
        *slot = Some(opening.clone());
        let (endpoint, tls) = (Rc::clone(endpoint), self.tls.borrow().clone());
        tokio::task::spawn_local(async move {
            let settings = &endpoint.shared.settings;
            let result =
                connect_http2(endpoint.address(), tls.as_ref(), settings.connect_timeout, &settings.http2).await;
            endpoint.opening.take();
            let result = match result {
                Ok((sender, status)) => {
                    keep(&endpoint, sender, status);
                    Ok(())
                }
                Err(error) => Err(blamed(&endpoint, error)),
            };
            // Nobody may be waiting any more; the connection is there for the next.
            let _ = done.send(Some(result));
        });
        opening
    }
}

fn keep(endpoint: &Rc<EndpointState>, sender: SendRequest<Bytes>, status: Rc<Http2Status>) {
    endpoint.opened();
    if !endpoint.is_removed() {
        let now = clock();
        endpoint.http2.borrow_mut().push(Http2Connection {
            counted: Counted::new(endpoint.shared.metrics.as_ref()),
            sender,
            status,
            opened: now,
            used: now,
        });
        endpoint.list();
    }
}

/// Tells the endpoint of an error, if it is to blame.
fn blamed(endpoint: &EndpointState, error: ConnectError) -> ConnectError {
    if let Some(failure) = error.failure() {
        endpoint.failed(failure, clock());
    }
    error
}

/// The clock that the timers use: tests can stop it.
fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Which connections a stream may be opened on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    /// Those on which it can start at once: the first one, so that the later ones run empty and are closed.
    Free,
    /// Also full ones, where it waits for another stream to end: the least busy. As many may wait as may run.
    Queue,
}

/// Counts a stream in on a connection that has room. Connections that take no more streams are forgotten; what they
/// carry goes on.
fn reserve(endpoint: &Rc<EndpointState>, now: Instant, room: Room, reused: bool) -> Option<Http2Lease> {
    let settings = &endpoint.shared.settings;
    let most = |held: &Http2Connection| held.sender.current_max_send_streams().min(settings.http2.max_streams);
    let active = |held: &Http2Connection| held.status.active.get();
    let mut connections = endpoint.http2.borrow_mut();
    connections.retain(|held| !held.status.ended.get() && !is_too_old(held.opened, now, settings));
    loop {
        let mut all = connections.iter().enumerate();
        let found = match room {
            Room::Free => all.find(|(_, held)| active(held) < most(held)),
            Room::Queue => {
                let least = all.min_by_key(|(_, held)| active(held));
                least.filter(|(_, held)| active(held) < most(held).saturating_mul(2))
            }
        };
        let index = found?.0;
        let held = &mut connections[index];
        let mut sender = held.sender.clone();
        if matches!(sender.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(()))) {
            held.used = now;
            return Some(Http2Lease::new(sender, reused, &held.status, endpoint.begin()));
        }
        // GOAWAY, a failure, or no stream numbers left.
        connections.remove(index);
    }
}

/// An HTTP/1.1 connection for the time of one exchange. Dropping it closes the connection: only
/// [`put_back`](Self::put_back) keeps it.
#[derive(Debug)]
pub struct Lease {
    /// The connection. Its response has been read to the end, and nothing beyond, before it is put back.
    pub connection: Transport,
    /// True if it has carried requests before: then the endpoint may have closed it just now, and a failure before
    /// the first byte of a response says nothing about the endpoint.
    pub reused: bool,
    /// What opening it took; `None` if it was there before.
    pub handshake: Option<Handshake>,
    /// When it was opened.
    pub opened: Instant,
    /// Requests that it carried before this one.
    pub requests: u32,
    counted: Counted,
    guard: InFlight,
}

impl Lease {
    /// The endpoint at the other end; report success and failure to it.
    pub fn endpoint(&self) -> &Rc<EndpointState> {
        self.guard.endpoint()
    }

    /// Gives the connection back after an exchange that ended cleanly and left it reusable (RFC 9112 section 9.3).
    /// It is closed all the same if the endpoint was removed meanwhile, or if enough are idle.
    pub fn put_back(self) {
        self.put_back_at(clock());
    }

    /// As [`put_back`](Self::put_back), for who knows what time it is.
    pub fn put_back_at(self, now: Instant) {
        let requests = self.requests.saturating_add(1);
        let connection = IdleConnection {
            counted: self.counted,
            transport: self.connection,
            opened: self.opened,
            since: now,
            requests,
        };
        self.guard.endpoint().put_idle(connection);
    }

    /// Takes the connection out of the pool's care (an upgrade). The request counts as being worked on until the
    /// guard is dropped.
    pub fn into_parts(self) -> (Transport, InFlight) {
        (self.connection, self.guard)
    }
}

/// Room for one HTTP/2 stream: counts it on its connection, and a request at its endpoint, until it is dropped. To be
/// held until the stream has ended.
#[derive(Debug)]
pub struct Http2Lease {
    /// Ready: `send_request` may be called once without waiting.
    pub sender: SendRequest<Bytes>,
    /// True if the connection was there before: it may have been closed just now.
    pub reused: bool,
    /// What opening it took; `None` if it was there before.
    pub handshake: Option<Handshake>,
    status: Rc<Http2Status>,
    /// What had been heard when the stream began.
    heard: u64,
    guard: InFlight,
}

impl Http2Lease {
    fn new(sender: SendRequest<Bytes>, reused: bool, status: &Rc<Http2Status>, guard: InFlight) -> Self {
        status.active.set(status.active.get() + 1);
        let handshake = (!reused).then(|| status.handshake.get());
        Self { sender, reused, handshake, status: Rc::clone(status), heard: status.heard.get(), guard }
    }

    /// The endpoint at the other end; report success and failure to it.
    pub fn endpoint(&self) -> &Rc<EndpointState> {
        self.guard.endpoint()
    }

    /// To be called when the stream timed out. If nothing at all was heard on the connection since the stream began,
    /// the host at the other end may be gone: no further stream is opened on it.
    pub fn timed_out(&self) {
        if self.status.heard.get() == self.heard {
            self.status.ended.set(true);
        }
    }
}

impl Drop for Http2Lease {
    fn drop(&mut self) {
        self.status.active.set(self.status.active.get().saturating_sub(1));
    }
}
