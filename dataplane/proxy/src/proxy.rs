//! The proxy as the rest of the program sees it: started, given new tables, asked for its figures, drained.

use crate::connection::Service;
use crate::drain::Drained;
use crate::listener::{self, BindError};
use crate::pool::{UpstreamSettings, Upstreams};
use crate::resolve::{ResolveSettings, Resolver, SystemLookup};
use crate::settings::{ProxySettings, StreamEngine};
use crate::stream::{Engine, UringWorker};
use crate::tls::{self, CertificateTable, TlsSetupError};
use crate::worker::{Shared, Worker};
use arc_swap::ArcSwap;
use sluicegate_config::diff::Change;
use sluicegate_config::{Backend, Diff, Generation, StreamListener, StreamPort};
use sluicegate_route::RouteTable;
use sluicegate_telemetry::{LimitName, Metrics, RequestSinks};
use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

/// Why the proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listening address cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    /// The chosen stream engine does not work here.
    #[error("the uring stream engine cannot be used: {0}; use --stream-engine splice")]
    Uring(String),
    /// A thread or its runtime could not be made.
    #[error("a worker cannot be started: {0}")]
    Worker(std::io::Error),
}

/// Where the proxy listens, with free ports filled in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// HTTP.
    pub http: Vec<SocketAddr>,
    /// HTTPS.
    pub https: Vec<SocketAddr>,
}

/// What became of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The generation that is served now.
    pub generation: Generation,
    /// What could not be done, one sentence each; the rest of the change is served.
    pub failures: Vec<String>,
}

/// One endpoint's figures over all workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointView {
    /// Where it is.
    pub address: SocketAddr,
    /// The pod behind it.
    pub pod: Option<Arc<str>>,
    /// Workers that have taken it out after failures.
    pub ejected_by: usize,
    /// Requests that it is working on.
    pub active: u64,
    /// Requests sent to it.
    pub requests: u64,
    /// Failures of it.
    pub errors: u64,
    /// The longest average time to the head of a response that a worker sees.
    pub latency: Duration,
}

/// A backend that requests were sent to, with the figures of its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendReport {
    /// The backend as it is configured.
    pub backend: Arc<Backend>,
    /// Its endpoints, sorted by address.
    pub endpoints: Vec<EndpointView>,
}

enum Command {
    Listen(TcpListener, Arc<StreamListener>),
    Unlisten(StreamPort),
    Report(std_mpsc::Sender<Vec<BackendReport>>),
    Drain,
    Cut,
}

struct WorkerHandle {
    commands: mpsc::UnboundedSender<Command>,
    thread: JoinHandle<()>,
}

/// The running proxy.
pub struct Proxy {
    shared: Arc<Shared>,
    settings: Arc<ProxySettings>,
    metrics: Arc<Metrics>,
    addresses: Addresses,
    workers: Mutex<Vec<WorkerHandle>>,
    worker_count: usize,
    /// Ports of TCP services that are open.
    streams: Mutex<BTreeMap<StreamPort, Arc<StreamListener>>>,
}

/// What a worker listens on from the start.
type Sockets = Vec<(TcpListener, Service)>;

impl Proxy {
    /// Binds everything and starts the workers. Nothing is served before [`Self::apply`]: requests get 404. `sinks` are
    /// told of every request when it is over; without them nothing is remembered for it.
    ///
    /// # Errors
    /// Names the address or the setting that is at fault and what to do about it.
    pub fn start(
        settings: ProxySettings,
        metrics: Arc<Metrics>,
        sinks: Option<Arc<dyn RequestSinks>>,
    ) -> Result<Self, StartError> {
        let count = worker_count(&settings);
        let settings = Arc::new(settings);
        let shared = Arc::new(Shared {
            table: ArcSwap::from_pointee(RouteTable::empty_with_seed(seed(0))),
            certificates: ArcSwap::from_pointee(CertificateTable::default()),
            connections: AtomicUsize::new(0),
        });
        let config = tls::server_config(&settings, &shared)?;
        let mut sockets: Vec<Sockets> = (0..count).map(|_| Vec::new()).collect();
        let addresses = Addresses {
            http: bind_all(&settings.http, &mut sockets, |address| Service::Http {
                proxy_protocol: settings.expects_proxy_protocol(address),
                trust: settings.trust_on(address),
            })?,
            https: bind_all(&settings.https, &mut sockets, |address| Service::Https {
                config: Arc::clone(&config),
                proxy_protocol: settings.expects_proxy_protocol(address),
                trust: settings.trust_on(address),
            })?,
        };
        let engine = stream_engine(&settings)?;
        let mut workers = Vec::with_capacity(count);
        for (index, sockets) in sockets.into_iter().enumerate() {
            let start = WorkerStart {
                index,
                settings: Arc::clone(&settings),
                shared: Arc::clone(&shared),
                metrics: metrics.worker(index),
                engine: engine.clone(),
                sinks: sinks.clone(),
                sockets,
            };
            workers.push(start.spawn()?);
        }
        Ok(Self {
            shared,
            settings,
            metrics,
            addresses,
            workers: Mutex::new(workers),
            worker_count: count,
            streams: Mutex::default(),
        })
    }

    /// Makes a change live: builds the next tables beside the present ones and swaps them. Called by the controller
    /// loop alone; requests that are under way keep the table that they began with.
    pub fn apply(&self, diff: &Diff, generation: Generation) -> Applied {
        let mut failures = Vec::new();
        // Certificates first: a server name must not point to a certificate that is not there yet.
        if !diff.certificates.is_empty() {
            let (next, refused) = self.shared.certificates.load().with(diff);
            self.shared.certificates.store(Arc::new(next));
            failures.extend(refused);
        }
        let next = self.shared.table.load().with(diff);
        self.shared.table.store(Arc::new(next));
        for (port, change) in &diff.listeners {
            if let Err(failure) = self.change_stream(*port, change) {
                failures.push(failure);
            }
        }
        Applied { generation, failures }
    }

    /// Opens, replaces or closes the port of a TCP service.
    fn change_stream(&self, port: StreamPort, change: &Change<StreamListener>) -> Result<(), String> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if streams.remove(&port).is_some() {
            self.tell(|| Command::Unlisten(port));
        }
        let Change::Set(listener) = change else {
            return Ok(());
        };
        // A port that was just closed is free only once the workers have let go of it.
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let mut attempts = 0;
        let sockets = loop {
            match listener::bind(address, self.worker_count) {
                Ok((_, sockets)) => break sockets,
                Err(BindError::InUse(_)) if attempts < 50 => {
                    attempts += 1;
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(error) => return Err(format!("TCP service on port {port} ({}): {error}", listener.origin)),
            }
        };
        let mut sockets = sockets.into_iter();
        self.tell_each(|| sockets.next().map(|socket| Command::Listen(socket, Arc::clone(listener))));
        streams.insert(port, Arc::clone(listener));
        Ok(())
    }

    fn tell(&self, command: impl Fn() -> Command) {
        self.tell_each(|| Some(command()));
    }

    fn tell_each(&self, mut command: impl FnMut() -> Option<Command>) {
        for worker in self.workers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Some(command) = command() {
                // A worker that is gone has told why when it went.
                let _ = worker.commands.send(command);
            }
        }
    }

    /// The table that is served now.
    pub fn table(&self) -> Arc<RouteTable> {
        self.shared.table.load_full()
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// How many workers there are.
    pub fn worker_count(&self) -> usize {
        self.worker_count
    }

    /// Client connections that are open.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// True while every worker thread lives.
    pub fn is_alive(&self) -> bool {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).iter().all(|worker| !worker.thread.is_finished())
    }

    /// Figures of the endpoints that requests were sent to, added up over the workers. Waits for each worker's answer
    /// for at most a second.
    pub fn endpoint_states(&self) -> Vec<BackendReport> {
        let (answer, answers) = std_mpsc::channel();
        self.tell(|| Command::Report(answer.clone()));
        drop(answer);
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut merged = BTreeMap::new();
        while let Ok(reports) = answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            for report in reports {
                merge(&mut merged, report);
            }
        }
        merged.into_values().collect()
    }

    /// Stops accepting, lets what is under way finish (HTTP/2 connections get GOAWAY in two steps, idle ones are
    /// closed), cuts what is left after `limit`, and ends the workers.
    pub fn shutdown(&self, limit: Duration) -> Drained {
        let begun = Instant::now();
        self.tell(|| Command::Drain);
        while self.connections() > 0 && begun.elapsed() < limit && self.is_alive() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let cut = self.connections();
        for _ in 0..cut {
            self.metrics.worker(0).limit(LimitName::Drain);
        }
        self.tell(|| Command::Cut);
        let workers = std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        for worker in workers {
            drop(worker.commands);
            if worker.thread.join().is_err() {
                tracing::error!("a worker ended by a panic");
            }
        }
        Drained { cut, took: begun.elapsed() }
    }

    /// The settings that it was started with.
    pub fn settings(&self) -> &ProxySettings {
        &self.settings
    }
}

fn merge(merged: &mut BTreeMap<sluicegate_config::BackendId, BackendReport>, report: BackendReport) {
    let known = merged
        .entry(report.backend.id.clone())
        .or_insert_with(|| BackendReport { backend: Arc::clone(&report.backend), endpoints: Vec::new() });
    for view in report.endpoints {
        match known.endpoints.iter_mut().find(|other| other.address == view.address) {
            None => known.endpoints.push(view),
            Some(other) => {
                other.ejected_by += view.ejected_by;
                other.active += view.active;
                other.requests += view.requests;
                other.errors += view.errors;
                other.latency = other.latency.max(view.latency);
            }
        }
    }
    known.endpoints.sort_by_key(|view| view.address);
}

fn worker_count(settings: &ProxySettings) -> usize {
    match settings.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    }
}

/// A number that differs between starts and workers: clients must not be able to foresee hashes.
fn seed(index: usize) -> u64 {
    RandomState::new().hash_one(index)
}

fn stream_engine(settings: &ProxySettings) -> Result<Engine, StartError> {
    Ok(match settings.stream_engine {
        StreamEngine::Copy => Engine::Copy,
        StreamEngine::Splice => Engine::Splice,
        StreamEngine::Uring => {
            Engine::Uring(UringWorker::spawn("stream-uring").map_err(|error| StartError::Uring(error.to_string()))?)
        }
    })
}

fn bind_all(
    addresses: &[SocketAddr],
    sockets: &mut [Sockets],
    service: impl Fn(SocketAddr) -> Service,
) -> Result<Vec<SocketAddr>, StartError> {
    let mut bound = Vec::with_capacity(addresses.len());
    for address in addresses {
        let service = service(*address);
        let (address, listeners) = listener::bind(*address, sockets.len())?;
        for (socket, mine) in listeners.into_iter().zip(sockets.iter_mut()) {
            mine.push((socket, service.clone()));
        }
        bound.push(address);
    }
    Ok(bound)
}

/// Everything that a worker thread takes along.
struct WorkerStart {
    index: usize,
    settings: Arc<ProxySettings>,
    shared: Arc<Shared>,
    metrics: Arc<sluicegate_telemetry::WorkerMetrics>,
    engine: Engine,
    sinks: Option<Arc<dyn RequestSinks>>,
    sockets: Sockets,
}

impl WorkerStart {
    fn spawn(self) -> Result<WorkerHandle, StartError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Worker)?;
        let (commands, inbox) = mpsc::unbounded_channel();
        let thread = std::thread::Builder::new()
            .name(format!("worker-{}", self.index))
            .spawn(move || LocalSet::new().block_on(&runtime, self.run(inbox)))
            .map_err(StartError::Worker)?;
        Ok(WorkerHandle { commands, thread })
    }

    async fn run(self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        let resolve =
            ResolveSettings { allow_loopback_external: self.settings.allow_loopback_external, ..Default::default() };
        let upstream = UpstreamSettings {
            connect_timeout: self.settings.timeouts.connect,
            resolve: resolve.clone(),
            ..Default::default()
        };
        let resolver = Resolver::new(resolve, SystemLookup::default());
        let upstreams = Upstreams::counted_by(Some(Arc::clone(&self.metrics)), upstream, resolver, seed(self.index));
        let sink = self.sinks.map(|sinks| sinks.of_worker(self.index));
        let seed = seed(self.index);
        let worker = Worker::new(self.settings, self.shared, self.metrics, upstreams, self.engine, sink, seed);
        let worker = Rc::new(worker);
        let (stop, stopped) = watch::channel(false);
        for (socket, service) in self.sockets {
            tokio::task::spawn_local(listener::accept(Rc::clone(&worker), socket, service, stopped.clone()));
        }
        tokio::task::spawn_local(upkeep(Rc::clone(&worker)));
        let mut streams: BTreeMap<StreamPort, watch::Sender<bool>> = BTreeMap::new();
        while let Some(command) = inbox.recv().await {
            match command {
                Command::Listen(socket, stream) => {
                    let (stop, stopped) = watch::channel(false);
                    streams.insert(stream.port, stop);
                    let service = Service::Stream(stream);
                    tokio::task::spawn_local(listener::accept(Rc::clone(&worker), socket, service, stopped));
                }
                Command::Unlisten(port) => {
                    // Dropping the sender ends the accept loop, which drops the socket.
                    streams.remove(&port);
                }
                Command::Report(answer) => {
                    // Whoever asked may have stopped waiting.
                    let _ = answer.send(report(&worker));
                }
                Command::Drain => {
                    streams.clear();
                    // Without listeners there is nobody to tell.
                    let _ = stop.send(true);
                    // The accept loops empty their queues first, so that these connections hear of the drain too.
                    tokio::task::yield_now().await;
                    worker.drain();
                }
                Command::Cut => break,
            }
        }
    }
}

/// Once a second: closes what has been idle for too long, and what leads to endpoints that went.
async fn upkeep(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut seen = None;
    loop {
        let now = ticks.tick().await;
        worker.upstreams.sweep(now.into_std());
        let table = worker.table();
        let changed = seen.as_ref().is_none_or(|before| !Arc::ptr_eq(before, &table));
        if changed {
            worker.upstreams.sync(|slot| table.backend_at(slot));
            seen = Some(Arc::clone(&table));
        }
    }
}

fn report(worker: &Worker) -> Vec<BackendReport> {
    let view = |endpoint: crate::endpoint::EndpointReport| EndpointView {
        address: endpoint.address,
        pod: endpoint.pod,
        ejected_by: usize::from(endpoint.ejected_for.is_some()),
        active: u64::from(endpoint.in_flight),
        requests: endpoint.requests,
        errors: endpoint.failures,
        latency: endpoint.latency,
    };
    let backends = worker.upstreams.report(Instant::now());
    backends
        .into_iter()
        .map(|(backend, endpoints)| BackendReport { backend, endpoints: endpoints.into_iter().map(view).collect() })
        .collect()
}
