//! A running echo backend: listener, connections, and the two ways to end them.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderValue;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer;
use crate::tls::{Session, Tls};
use crate::transport::{Interim, ResetSwitch, Transport, Wire};

/// One echo backend with its own listener, playing one pod of one Service.
///
/// Dropping it kills it.
pub struct EchoBackend {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    shared: Arc<Shared>,
}

/// How to start an [`EchoBackend`]; made by [`EchoBackend::builder`].
#[derive(Debug, Clone)]
pub struct Builder {
    service: String,
    pod: String,
    namespace: String,
    address: SocketAddr,
    tls: Option<Tls>,
    idle_timeout: Duration,
    max_connections: usize,
}

/// What a backend has counted since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// Connections accepted, including those that never carried a request.
    pub connections: u64,
    /// Connections that are open, upgraded ones included.
    pub open: u64,
    /// Requests of every kind.
    pub total: u64,
    /// Of them: over HTTP/1.0 or HTTP/1.1.
    pub http1: u64,
    /// Of them: over HTTP/2, gRPC included.
    pub http2: u64,
    /// Of them: gRPC calls.
    pub grpc: u64,
    /// Of them: WebSockets that were opened.
    pub websockets: u64,
}

impl EchoBackend {
    /// A backend of `service`, by default pod `<service>-0` in namespace `default` on a free
    /// loopback port, without TLS.
    pub fn builder(service: &str) -> Builder {
        Builder {
            service: service.to_owned(),
            pod: format!("{service}-0"),
            namespace: "default".to_owned(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            idle_timeout: Duration::from_secs(600),
            max_connections: 65_536,
        }
    }

    /// The address that it listens on, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has counted so far.
    pub fn requests(&self) -> Requests {
        self.shared.counters.snapshot()
    }

    /// Whether `/healthz` and the gRPC health service answer that it serves (they do at first).
    pub fn set_healthy(&self, healthy: bool) {
        self.shared.healthy.store(healthy, Ordering::Release);
    }

    /// Stops accepting and ends gracefully: `Connection: close` or GOAWAY, close code 1001 to
    /// WebSockets, then up to ten seconds for what is in progress. What remains is killed.
    pub async fn stop(&self) {
        const GRACE: Duration = Duration::from_secs(10);
        self.shared.drain.cancel();
        self.refuse();
        self.shared.tasks.close();
        if tokio::time::timeout(GRACE, self.shared.tasks.wait()).await.is_err() {
            self.shared.kill.cancel();
            self.shared.tasks.wait().await;
        }
    }

    /// Ends as a crashed pod does: new connections are refused from this call on, and every open
    /// one is reset as soon as the runtime gets to it.
    pub fn kill(&self) {
        self.shared.reset_all.store(true, Ordering::Release);
        self.shared.kill.cancel();
        self.refuse();
        self.shared.tasks.close();
    }

    /// Frees the port now: the accepting task lets go of the listener only when it next runs.
    /// Where a listening socket cannot be shut down (outside Linux) that has to do.
    fn refuse(&self) {
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
    }
}

impl Drop for EchoBackend {
    fn drop(&mut self) {
        self.kill();
    }
}

impl fmt::Debug for EchoBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EchoBackend")
            .field("service", &self.shared.service)
            .field("pod", &self.shared.pod)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// Name of the pod, as answers state it.
    pub fn pod(mut self, pod: &str) -> Builder {
        pod.clone_into(&mut self.pod);
        self
    }

    /// Namespace of the pod, as answers state it.
    pub fn namespace(mut self, namespace: &str) -> Builder {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Address to listen on; port 0 takes a free one.
    pub fn address(mut self, address: SocketAddr) -> Builder {
        self.address = address;
        self
    }

    /// Speak TLS (`None`: do not).
    pub fn tls(mut self, tls: impl Into<Option<Tls>>) -> Builder {
        self.tls = tls.into();
        self
    }

    /// How long an HTTP/1.1 connection may wait for its next request head (default ten minutes).
    pub fn idle_timeout(mut self, timeout: Duration) -> Builder {
        self.idle_timeout = timeout;
        self
    }

    /// Most connections at a time; more wait in the backlog (default 65,536).
    pub fn max_connections(mut self, connections: usize) -> Builder {
        self.max_connections = connections.min(Semaphore::MAX_PERMITS);
        self
    }

    /// Binds and starts serving on the current tokio runtime, of either kind.
    ///
    /// # Errors
    /// What binding the address says.
    pub async fn start(self) -> io::Result<EchoBackend> {
        let listener = Arc::new(TcpListener::bind(self.address).await?);
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            service_header: HeaderValue::try_from(&self.service).ok(),
            pod_header: HeaderValue::try_from(&self.pod).ok(),
            service: self.service,
            pod: self.pod,
            namespace: self.namespace,
            tls: self.tls.map(|tls| TlsAcceptor::from(tls.config())),
            idle_timeout: self.idle_timeout,
            healthy: AtomicBool::new(true),
            counters: Counters::default(),
            tasks: TaskTracker::new(),
            drain: CancellationToken::new(),
            kill: CancellationToken::new(),
            reset_all: Arc::default(),
        });
        let accepting =
            accept(Arc::clone(&listener), Arc::clone(&shared), Arc::new(Semaphore::new(self.max_connections)));
        shared.spawn(accepting);
        Ok(EchoBackend { address, listener, shared })
    }
}

/// What all connections of a backend share.
pub(crate) struct Shared {
    pub(crate) service: String,
    pub(crate) pod: String,
    pub(crate) namespace: String,
    pub(crate) service_header: Option<HeaderValue>,
    pub(crate) pod_header: Option<HeaderValue>,
    pub(crate) healthy: AtomicBool,
    pub(crate) counters: Counters,
    /// Cancelled when the backend begins to stop.
    pub(crate) drain: CancellationToken,
    tls: Option<TlsAcceptor>,
    idle_timeout: Duration,
    tasks: TaskTracker,
    kill: CancellationToken,
    reset_all: Arc<AtomicBool>,
}

impl Shared {
    /// Runs `work` until it ends or the backend is killed.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let kill = self.kill.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = kill.cancelled() => {}
                () = work => {}
            }
        });
    }
}

/// One connection, as its requests see it.
pub(crate) struct Connection {
    pub(crate) shared: Arc<Shared>,
    pub(crate) peer: SocketAddr,
    pub(crate) session: Option<Session>,
    pub(crate) interim: Interim,
    reset: ResetSwitch,
    close: CancellationToken,
    /// An upgraded connection outlives its HTTP server; whoever holds this struct keeps it counted.
    _open: Open,
}

impl Connection {
    /// Closes the connection, with RST where `reset`. Never returns: the request dies with it.
    pub(crate) async fn abort(&self, reset: bool) -> std::convert::Infallible {
        if reset {
            self.reset.throw();
        }
        self.close.cancel();
        std::future::pending().await
    }
}

async fn accept(listener: Arc<TcpListener>, shared: Arc<Shared>, places: Arc<Semaphore>) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.drain.cancelled() => return,
            accepted = async {
                let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
                let (tcp, peer) = listener.accept().await?;
                io::Result::Ok((tcp, peer, place))
            } => accepted,
        };
        match accepted {
            Ok((tcp, peer, place)) => {
                shared.spawn(serve(tcp, peer, Arc::clone(&shared), place));
            }
            // Out of descriptors, or the peer was gone before it was accepted: the listener lives on.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn serve(tcp: TcpStream, peer: SocketAddr, shared: Arc<Shared>, place: OwnedSemaphorePermit) {
    const HANDSHAKE: Duration = Duration::from_secs(10);
    shared.counters.connections.fetch_add(1, Ordering::Relaxed);
    let open = Open::new(&shared, place);
    let _ = tcp.set_nodelay(true);
    let reset = ResetSwitch::of(&shared.reset_all);
    let wire = Wire::new(tcp, reset.clone());
    let interim = Interim::default();
    let (transport, session) = match &shared.tls {
        None => (Transport::plain(wire, interim.clone()), None),
        // A failed handshake has been answered with its alert; there is nobody else to tell.
        Some(acceptor) => match tokio::time::timeout(HANDSHAKE, acceptor.accept(wire)).await {
            Ok(Ok(stream)) => {
                let session = Session::of(stream.get_ref().1);
                (Transport::tls(stream, interim.clone()), Some(session))
            }
            Ok(Err(_)) | Err(_) => return,
        },
    };
    let close = CancellationToken::new();
    let connection = Connection { shared: Arc::clone(&shared), peer, session, interim, reset, close, _open: open };
    drive(transport, Arc::new(connection)).await;
}

async fn drive(transport: Transport, connection: Arc<Connection>) {
    let shared = Arc::clone(&connection.shared);
    let close = connection.close.clone();
    let mut server = auto::Builder::new(Spawner { shared: Arc::clone(&shared), close: close.clone() });
    server.http1().timer(TokioTimer::new()).header_read_timeout(shared.idle_timeout).max_headers(256);
    server.http2().timer(TokioTimer::new()).enable_connect_protocol().max_concurrent_streams(1024);
    let service = service_fn(move |request| answer::answer(Arc::clone(&connection), request));
    let mut serving = pin!(server.serve_connection_with_upgrades(TokioIo::new(transport), service));
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            () = close.cancelled() => return,
            () = shared.drain.cancelled(), if !draining => {
                draining = true;
                serving.as_mut().graceful_shutdown();
            }
            // Errors of a connection are what the peer or the requested behaviour made of it.
            _ = serving.as_mut() => return,
        }
    }
}

/// Runs the streams of an HTTP/2 connection, no longer than the connection lives.
#[derive(Clone)]
struct Spawner {
    shared: Arc<Shared>,
    close: CancellationToken,
}

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let close = self.close.clone();
        self.shared.spawn(async move {
            tokio::select! {
                biased;
                () = close.cancelled() => {}
                () = stream => {}
            }
        });
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) total: AtomicU64,
    pub(crate) http1: AtomicU64,
    pub(crate) http2: AtomicU64,
    pub(crate) grpc: AtomicU64,
    pub(crate) websockets: AtomicU64,
    connections: AtomicU64,
    open: AtomicU64,
}

impl Counters {
    fn snapshot(&self) -> Requests {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Requests {
            connections: read(&self.connections),
            open: read(&self.open),
            total: read(&self.total),
            http1: read(&self.http1),
            http2: read(&self.http2),
            grpc: read(&self.grpc),
            websockets: read(&self.websockets),
        }
    }
}

/// Counts one open connection, and takes its place, until it is dropped.
struct Open {
    shared: Arc<Shared>,
    _place: OwnedSemaphorePermit,
}

impl Open {
    fn new(shared: &Arc<Shared>, place: OwnedSemaphorePermit) -> Open {
        shared.counters.open.fetch_add(1, Ordering::Relaxed);
        Open { shared: Arc::clone(shared), _place: place }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.counters.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A boxed future, as the gRPC services return it.
pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
