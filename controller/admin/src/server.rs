//! The listeners and the thread that serves them.

use crate::answer::{Answerer, Surface};
use crate::body::Streams;
use crate::guard::Token;
use crate::view::StateView;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sluicegate_telemetry::Metrics;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Connections of one listener; one more closes the oldest, so that a flood of slow clients cannot keep probes out.
const MOST_CONNECTIONS: usize = 256;
/// Time for a request head, and for the next one on a connection that is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection is closed after the answer that it is at by then.
const CONNECTION_AGE: Duration = Duration::from_secs(120);
/// Time for the last answer once a connection shall end.
const LAST_ANSWER: Duration = Duration::from_secs(10);
/// Time for the last answers when the server stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
const HEAD_BYTES: usize = 16 * 1024;

/// Where to listen, and who may ask.
#[derive(Clone, Debug)]
pub struct AdminSettings {
    /// `--metrics`: addresses for probes and metrics, open to whoever reaches them. May be empty.
    pub metrics: Vec<SocketAddr>,
    /// `--admin`: the address for state and `explain`. Off loopback a token is needed.
    pub admin: SocketAddr,
    /// `--admin-token-file`: a file with the token that callers of the admin address must send, on loopback too.
    pub token_file: Option<PathBuf>,
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self {
            metrics: vec![SocketAddr::from(([0u16; 8], 10254))],
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 10253)),
            token_file: None,
        }
    }
}

/// Why the servers did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process, or another listener of this one, has the port.
    #[error(
        "{flag} {address}: the address is in use; stop what listens there (`ss -ltnp`) or give {flag} another port"
    )]
    AddressInUse {
        /// The flag that the address comes from.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// The process may not take the port.
    #[error(
        "{flag} {address}: no permission to listen there; give {flag} a port from 1024 on, or the process CAP_NET_BIND_SERVICE"
    )]
    PermissionDenied {
        /// The flag that the address comes from.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// The machine does not have the address.
    #[error("{flag} {address}: this machine does not have the address; give {flag} one that `ip addr` lists")]
    NoSuchAddress {
        /// The flag that the address comes from.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// Any other failure to listen.
    #[error("{flag} {address}: cannot listen: {source}")]
    Listen {
        /// The flag that the address comes from.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The admin address can be reached from elsewhere and nothing would stop who does.
    #[error(
        "--admin {address}: off loopback the admin API needs a token; give --admin-token-file, or an address such as 127.0.0.1:10253"
    )]
    TokenNeeded {
        /// The address.
        address: SocketAddr,
    },
    /// The token file cannot be read.
    #[error("--admin-token-file {}: cannot be read: {source}; give a file that this process may read", path.display())]
    TokenUnreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The token file has no usable token.
    #[error("--admin-token-file {}: {reason}; write one with `openssl rand -hex 32`", path.display())]
    TokenUnusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with the content.
        reason: &'static str,
    },
    /// The system gave no thread, or no event queue for it.
    #[error("the admin thread cannot be started: {0}")]
    Thread(io::Error),
}

/// Where the servers really listen: a port 0 is replaced by the one that the system chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Of `--metrics`, in the order of the settings.
    pub metrics: Vec<SocketAddr>,
    /// Of `--admin`.
    pub admin: SocketAddr,
}

/// The running servers. Dropping it stops them.
#[derive(Debug)]
pub struct AdminServer {
    addresses: Addresses,
    running: Running,
}

/// Probes and metrics alone, of a process that has no state to show. Dropping it stops them.
#[derive(Debug)]
pub struct ProbeServer {
    addresses: Vec<SocketAddr>,
    #[expect(dead_code, reason = "held while it is to run")]
    running: Running,
}

impl ProbeServer {
    /// Takes the addresses of `--metrics` and starts the thread that serves them.
    ///
    /// # Errors
    /// Where an address cannot be taken.
    pub fn start(
        addresses: &[SocketAddr],
        view: Arc<dyn StateView>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StartError> {
        let bind = |address: &SocketAddr| Listener::bind(Surface::Metrics, *address);
        let listeners = addresses.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
        let addresses = listeners.iter().map(|one| one.address).collect();
        Ok(Self { addresses, running: Running::start(listeners, Answerer::new(view, metrics, None))? })
    }

    /// Where it listens, in the order in which it was asked for.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

/// The thread behind the listeners.
#[derive(Debug)]
struct Running {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl AdminServer {
    /// Takes the addresses and starts the thread that serves them.
    ///
    /// # Errors
    /// Where an address cannot be taken, or the admin API would be open to other machines.
    pub fn start(settings: AdminSettings, view: Arc<dyn StateView>, metrics: Arc<Metrics>) -> Result<Self, StartError> {
        let token = read_token(&settings)?;
        let mut listeners = Vec::with_capacity(settings.metrics.len() + 1);
        for address in &settings.metrics {
            listeners.push(Listener::bind(Surface::Metrics, *address)?);
        }
        listeners.push(Listener::bind(Surface::Admin, settings.admin)?);
        let addresses = Addresses {
            metrics: listeners.iter().filter(|one| one.surface == Surface::Metrics).map(|one| one.address).collect(),
            admin: listeners.last().map_or(settings.admin, |one| one.address),
        };
        Ok(Self { addresses, running: Running::start(listeners, Answerer::new(view, metrics, token))? })
    }

    /// Where the servers listen.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Stops accepting, lets answers under way end (a second at most) and waits for the thread.
    pub fn stop(mut self) {
        self.running.finish();
    }
}

impl Running {
    fn start(listeners: Vec<Listener>, answerer: Answerer) -> Result<Self, StartError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // Two for views of the state, one for samples and one for scrapes; the runtime itself needs none.
            .max_blocking_threads(4)
            .thread_name("admin-view")
            .build()
            .map_err(StartError::Thread)?;
        let answerer = Arc::new(answerer);
        let (stop, stopped) = watch::channel(false);
        let thread = std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || {
                runtime.block_on(serve(listeners, answerer, stopped));
                // A view that hangs must not hold the process.
                runtime.shutdown_timeout(STOP_TIMEOUT);
            })
            .map_err(StartError::Thread)?;
        Ok(Self { stop, thread: Some(thread) })
    }

    fn finish(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the admin thread ended in a panic");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.finish();
    }
}

fn read_token(settings: &AdminSettings) -> Result<Option<Token>, StartError> {
    let Some(path) = &settings.token_file else {
        return if settings.admin.ip().to_canonical().is_loopback() {
            Ok(None)
        } else {
            Err(StartError::TokenNeeded { address: settings.admin })
        };
    };
    let content =
        std::fs::read_to_string(path).map_err(|source| StartError::TokenUnreadable { path: path.clone(), source })?;
    let token = Token::parse(&content).map_err(|reason| StartError::TokenUnusable { path: path.clone(), reason })?;
    Ok(Some(token))
}

struct Listener {
    surface: Surface,
    address: SocketAddr,
    socket: std::net::TcpListener,
}

impl Listener {
    fn bind(surface: Surface, asked: SocketAddr) -> Result<Self, StartError> {
        let flag = match surface {
            Surface::Metrics => "--metrics",
            Surface::Admin => "--admin",
        };
        let bound = match listen(asked) {
            // Where the kernel has no IPv6, "every address" means every IPv4 address.
            Err(error) if error.raw_os_error() == Some(EAFNOSUPPORT) && is_any_ipv6(asked) => {
                listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, asked.port())))
            }
            other => other,
        };
        match bound.and_then(|socket| Ok((socket.local_addr()?, socket))) {
            Ok((address, socket)) => Ok(Self { surface, address, socket }),
            Err(source) => Err(match source.kind() {
                io::ErrorKind::AddrInUse => StartError::AddressInUse { flag, address: asked },
                io::ErrorKind::PermissionDenied => StartError::PermissionDenied { flag, address: asked },
                io::ErrorKind::AddrNotAvailable => StartError::NoSuchAddress { flag, address: asked },
                _ => StartError::Listen { flag, address: asked, source },
            }),
        }
    }
}

/// Linux's number for "address family not supported", which `io::ErrorKind` has no name for.
const EAFNOSUPPORT: i32 = 97;

fn is_any_ipv6(address: SocketAddr) -> bool {
    address.is_ipv6() && address.ip().is_unspecified()
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 too, whatever net.ipv6.bindv6only says.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

async fn serve(listeners: Vec<Listener>, answerer: Arc<Answerer>, stopped: watch::Receiver<bool>) {
    // Where there is no page, nobody watches.
    let has_page = listeners.iter().any(|listener| listener.surface == Surface::Admin);
    let sampling = has_page.then(|| tokio::spawn(answerer.keep_sampling(stopped.clone())));
    let accepting: Vec<_> = listeners
        .into_iter()
        .map(|listener| tokio::spawn(accept(listener, Arc::clone(&answerer), stopped.clone())))
        .collect();
    for task in accepting {
        if let Err(error) = task.await {
            tracing::error!(%error, "an admin listener failed");
        }
    }
    if let Some(sampling) = sampling
        && let Err(error) = sampling.await
    {
        tracing::error!(%error, "the sampler of the status page failed");
    }
}

/// Accepts until the server stops, then waits for the connections.
async fn accept(listener: Listener, answerer: Arc<Answerer>, mut stopped: watch::Receiver<bool>) {
    let Listener { surface, address, socket } = listener;
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%address, %error, "cannot listen");
            return;
        }
    };
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Connections that ended are forgotten as they do.
            Some(_) = connections.join_next() => continue,
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                open.retain(|connection| !connection.is_finished());
                if open.len() >= MOST_CONNECTIONS
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.abort();
                }
                let serving = connection(stream, Arc::clone(&answerer), surface, address, stopped.clone());
                open.push_back(connections.spawn(serving));
            }
            Err(error) => {
                // Out of file descriptors, most likely: it passes when something closes, and must not spin until then.
                tracing::warn!(%address, %error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    // What is still answering then is cut when the set is dropped.
    let _cut = tokio::time::timeout(STOP_TIMEOUT, ended).await;
}

async fn connection(
    stream: TcpStream,
    answerer: Arc<Answerer>,
    surface: Surface,
    listening: SocketAddr,
    mut stopped: watch::Receiver<bool>,
) {
    let streams = Streams::default();
    let of_service = streams.clone();
    let service = service_fn(move |request| {
        let (answerer, streams) = (Arc::clone(&answerer), of_service.clone());
        async move { Ok::<_, Infallible>(answerer.answer(request, surface, listening, &streams).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .max_headers(64)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    loop {
        tokio::select! {
            // What a client does wrong is answered where it can be, and is no event of the gateway.
            _ended = serving.as_mut() => return,
            // An answer that goes on does so for as long as somebody reads it.
            () = tokio::time::sleep(CONNECTION_AGE) => if !streams.are_open() { break },
            _ = stopped.wait_for(|stop| *stop) => break,
        }
    }
    serving.as_mut().graceful_shutdown();
    let _cut = tokio::time::timeout(LAST_ANSWER, serving).await;
}
