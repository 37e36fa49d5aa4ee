//! What the tests of the upstream side share: backends on loopback that count what happens to them.

#![allow(dead_code, reason = "each test crate uses its own part")]

use sluicegate_config::backend::{Backend, BackendId, Balance, Endpoint, PortRef, UpstreamProtocol};
use sluicegate_proxy::balance::PickContext;
use sluicegate_proxy::endpoint::EndpointState;
use sluicegate_proxy::pool::{Lease, UpstreamBackend, UpstreamSettings, Upstreams};
use sluicegate_proxy::resolve::{Answer, LookupError, LookupFuture, Resolver};
use sluicegate_route::SlottedBackend;
use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

/// Runs a test as a worker runs: on one thread, with local tasks. No test hangs.
pub fn worker<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let limit = Duration::from_secs(30);
    runtime.block_on(LocalSet::new().run_until(async { timeout(limit, test).await.expect("the test ends in time") }))
}

/// Waits until something that other tasks bring about has happened.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..500 {
        if is_so() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("did not happen: {what}");
}

/// A long enough limit.
pub const LIMIT: Duration = Duration::from_secs(10);

/// A backend that answers each byte with a byte, so that a request is one byte and a response another.
pub struct Server {
    pub address: SocketAddr,
    /// Connections accepted.
    pub accepted: Rc<Cell<usize>>,
    /// Connections that the other side closed.
    pub closed: Rc<Cell<usize>>,
    command: watch::Sender<Command>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Serve,
    /// Sends a byte that nobody asked for.
    Speak,
    /// Closes all connections.
    Close,
}

impl Server {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("its address");
        let (command, commands) = watch::channel(Command::Serve);
        let (accepted, closed) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let counts = (Rc::clone(&accepted), Rc::clone(&closed));
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counts.0.set(counts.0.get() + 1);
                spawn_local(serve(stream, commands.clone(), Rc::clone(&counts.1)));
            }
        });
        Self { address, accepted, closed, command }
    }

    /// Does it to all connections, and gives the client's side time to see it.
    pub async fn command(&self, command: Command) {
        self.command.send_replace(command);
        sleep(Duration::from_millis(30)).await;
        self.command.send_replace(Command::Serve);
        sleep(Duration::from_millis(30)).await;
    }
}

async fn serve(mut stream: TcpStream, mut commands: watch::Receiver<Command>, closed: Rc<Cell<usize>>) {
    commands.mark_unchanged();
    let mut byte = [0];
    loop {
        tokio::select! {
            read = stream.read(&mut byte) => match read {
                Ok(1) => stream.write_all(&byte).await.expect("the client takes the answer"),
                _ => return closed.set(closed.get() + 1),
            },
            Ok(()) = commands.changed() => match *commands.borrow_and_update() {
                Command::Serve => {}
                Command::Speak => stream.try_write(b"!").map(drop).expect("the client takes it"),
                Command::Close => return,
            },
        }
    }
}

/// A request and its response.
pub async fn exchange(lease: &mut Lease) {
    lease.connection.write_all(b"x").await.expect("the backend takes the request");
    let mut byte = [0];
    lease.connection.read_exact(&mut byte).await.expect("the backend answers");
    assert_eq!(&byte, b"x");
}

/// An address on which nothing listens.
pub async fn dead_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.expect("a listener").local_addr().expect("its address")
}

pub fn backend(addresses: &[SocketAddr], protocol: UpstreamProtocol) -> Backend {
    let endpoint = |address: &SocketAddr| Endpoint { address: *address, pod: None, node: None, terminating: false };
    let mut endpoints: Vec<_> = addresses.iter().map(endpoint).collect();
    endpoints.sort();
    Backend {
        id: BackendId {
            namespace: "default".into(),
            service: "web".into(),
            port: PortRef::Number(80),
            protocol: None,
            balance: Balance::RoundRobin,
        },
        protocol,
        endpoints,
        external: None,
        unavailable: None,
    }
}

pub fn slotted(version: u64, backend: Backend) -> SlottedBackend {
    SlottedBackend { slot: 3, incarnation: 1, version, backend: Arc::new(backend) }
}

/// An upstream side that looks no names up.
pub fn upstreams(settings: UpstreamSettings) -> Rc<Upstreams> {
    let nowhere = |_: Arc<str>| -> LookupFuture {
        Box::pin(async { Err::<Answer, _>(LookupError::Failed("no names in this test".to_owned())) })
    };
    let resolver = Resolver::new(settings.resolve.clone(), nowhere);
    Upstreams::new(settings, resolver, 7)
}

/// One backend with these endpoints, and what holds it.
pub fn single(
    settings: UpstreamSettings,
    addresses: &[SocketAddr],
    protocol: UpstreamProtocol,
) -> (Rc<Upstreams>, Rc<UpstreamBackend>) {
    let upstreams = upstreams(settings);
    let backend = upstreams.backend(&slotted(1, backend(addresses, protocol)));
    (upstreams, backend)
}

pub fn pick(backend: &UpstreamBackend) -> Rc<EndpointState> {
    pick_at(backend, Instant::now()).expect("an endpoint")
}

pub fn pick_at(backend: &UpstreamBackend, now: Instant) -> Option<Rc<EndpointState>> {
    backend.pick(PickContext { hash: None, tried: &[], now, random: 0x1234_5678_9abc_def0 })
}

pub async fn checkout(backend: &UpstreamBackend, endpoint: &Rc<EndpointState>) -> Lease {
    backend.checkout(endpoint, Instant::now(), LIMIT).await.expect("a connection")
}
