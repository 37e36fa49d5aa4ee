//! Listening sockets: one for each worker on each address (`SO_REUSEPORT`), so that accepting needs no lock.

use crate::connection::{self, Service};
use crate::worker::Worker;
use socket2::{Domain, Protocol, Socket, Type};
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Connections that may wait to be accepted, per socket; the kernel bounds it by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has the port.
    #[error("cannot listen on {0}: the port is in use; stop the other program or choose another address")]
    InUse(SocketAddr),
    /// The port needs a right that the process does not have.
    #[error(
        "cannot listen on {0}: permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE \
         (setcap cap_net_bind_service=+ep), or choose a port above"
    )]
    Permission(SocketAddr),
    /// The address is not one of this machine's.
    #[error("cannot listen on {0}: this machine does not have the address")]
    NotOurs(SocketAddr),
    /// Anything else.
    #[error("cannot listen on {0}: {1}")]
    Other(SocketAddr, io::Error),
}

impl BindError {
    fn new(address: SocketAddr, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::InUse(address),
            io::ErrorKind::PermissionDenied => Self::Permission(address),
            io::ErrorKind::AddrNotAvailable => Self::NotOurs(address),
            _ => Self::Other(address, error),
        }
    }
}

/// Listens `count` times on one address. Port 0 becomes one free port for all.
pub(crate) fn bind(address: SocketAddr, count: usize) -> Result<(SocketAddr, Vec<StdListener>), BindError> {
    let failed = |error| BindError::new(address, error);
    // SO_REUSEPORT would let us share the port with another process without a word, so the first look is without it.
    let probe = open(address, false).map_err(failed)?;
    let bound = probe.local_addr().map_err(failed)?;
    drop(probe);
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count {
        listeners.push(open(bound, true).map_err(failed)?);
    }
    Ok((bound, listeners))
}

fn open(address: SocketAddr, reuse_port: bool) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 too.
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until `stop` says so; then once more all that the kernel has accepted for us already.
pub(crate) async fn accept(
    worker: Rc<Worker>,
    listener: StdListener,
    service: Service,
    mut stop: watch::Receiver<bool>,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a listening socket cannot be used");
            return;
        }
    };
    let start = |socket: TcpStream, peer: SocketAddr| connection::start(&worker, &service, socket, peer);
    loop {
        let accepted = tokio::select! {
            accepted = poll_fn(|cx| listener.poll_accept(cx)) => accepted,
            // An error means that the sender is gone: the worker ends.
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((socket, peer)) => start(socket, peer),
            Err(error) => rest_after(&error).await,
        }
    }
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(Ok((socket, peer))) = listener.poll_accept(&mut cx) {
        start(socket, peer);
    }
}

/// Without a file descriptor left, trying again at once would burn the CPU that could free some.
async fn rest_after(error: &io::Error) {
    let connection_is_gone = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    );
    if !connection_is_gone {
        tracing::warn!(%error, "cannot accept a connection; raise the limit of open files if it says so");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
