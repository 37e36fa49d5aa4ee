//! The relay of TCP streams: TLS passthrough and TCP services.
//!
//! It moves bytes between two connected sockets and understands none of them. It accepts, connects, routes and
//! balances nothing: the caller brings both sockets, and what it has already read from the client as `prefix`.
//!
//! # Engines
//! All engines behave the same and differ in cost:
//!
//! | engine | moves bytes by | while data flows, a direction holds | while idle |
//! | --- | --- | --- | --- |
//! | [`Engine::Copy`] | `read`, `write` | 64 KiB of memory | nothing |
//! | [`Engine::Splice`] | as `Copy` for messages, `splice(2)` through a pipe for bulk | 64 KiB, or a pipe (2 descriptors) | nothing |
//! | [`Engine::Uring`] | io_uring on a thread of its own | 64 KiB | 4 KiB |
//!
//! # Descriptors
//! A relay has 2 sockets. Under `Splice` it has up to 4 pipe descriptors more while bulk data flows both ways; pipes
//! come from a pool per thread, there are at most [`MAX_PIPES`] in the process, and a direction that gets none copies.
//! Under `Uring` each socket has a second descriptor, because tokio-uring lends out none of its own for `SO_LINGER`.
//!
//! # What one side does to the other
//! FIN is passed on behind the data before it, and the other direction flows on. A reset is passed on as a reset
//! (`SO_LINGER` 0). A write that fails does not cut off what the dead side had sent before: that is delivered first.

mod relay;
mod splice;
#[cfg(not(target_env = "musl"))]
mod uring;
// What it is built on passes lengths of another type than musl's to the kernel.
#[cfg(target_env = "musl")]
#[path = "no_uring.rs"]
mod uring;

pub(crate) use relay::poll_io;
pub use splice::MAX_PIPES;
pub(crate) use splice::{MAX_MOVE, Pipe, take_pipe};
pub use uring::{UringError, UringRefused, UringRelay, UringWorker};

use relay::Side;
use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;

/// How to run one relay.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    /// The relay ends when no byte has been delivered in either direction for this long. At most a year.
    pub idle_timeout: Duration,
    /// What moves the bytes.
    pub engine: Engine,
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self { idle_timeout: Duration::from_secs(600), engine: Engine::default() }
    }
}

/// What moves the bytes. See the [module](self) for what each costs.
#[derive(Debug, Clone, Default)]
pub enum Engine {
    /// `read` and `write`.
    Copy,
    /// `splice(2)` for bulk, `read` and `write` for messages, for which a pipe would cost more than it saves.
    #[default]
    Splice,
    /// io_uring, on the thread of this worker. A relay that the worker's full queue refuses is run as `Splice`.
    Uring(UringWorker),
}

/// What became of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayOutcome {
    /// Bytes delivered to the backend's socket, the prefix included.
    pub bytes_up: u64,
    /// Bytes delivered to the client's socket.
    pub bytes_down: u64,
    /// What ended it.
    pub ended: Ended,
}

/// What ended a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Both sides closed in good order, the client first.
    ClientClosed,
    /// Both sides closed in good order, the backend first.
    BackendClosed,
    /// Nothing was delivered for [`RelayOptions::idle_timeout`].
    IdleTimeout,
    /// The client reset its connection; the backend's was reset.
    ClientReset,
    /// The backend reset its connection; the client's was reset, unless it had been closed in good order before.
    BackendReset,
    /// The `drain` future resolved.
    Drained,
    /// A socket failed in another way, such as a timeout of TCP itself; the other one was reset.
    Error(io::ErrorKind),
}

/// Relays between `client` and `backend` until both have closed or the relay is [ended](Ended) in another way, and
/// closes both.
///
/// `prefix` was read from the client already (or is to be sent in its name, such as a PROXY header) and goes to the
/// backend first. `drain` ends the relay when it resolves: an opaque stream has no end of its own to wait for, so it
/// is meant to resolve when the drain period is over, not when it begins; pass [`std::future::pending`] for never.
///
/// Dropping the future closes both sockets. It must run on a tokio runtime with I/O and time enabled.
pub async fn relay(
    client: TcpStream,
    backend: TcpStream,
    prefix: &[u8],
    options: &RelayOptions,
    drain: impl Future<Output = ()>,
) -> RelayOutcome {
    // A relay has nothing to add to a segment by waiting.
    let _ = client.set_nodelay(true);
    let _ = backend.set_nodelay(true);
    match &options.engine {
        Engine::Copy => {
            let idle = options.idle_timeout;
            relay::run(client, backend, prefix, idle, false, drain).await
        }
        Engine::Splice => {
            let idle = options.idle_timeout;
            relay::run(client, backend, prefix, idle, true, drain).await
        }
        Engine::Uring(worker) => relay_on_ring(worker, client, backend, prefix, options.idle_timeout, drain).await,
    }
}

async fn relay_on_ring(
    worker: &UringWorker,
    client: TcpStream,
    backend: TcpStream,
    prefix: &[u8],
    idle: Duration,
    drain: impl Future<Output = ()>,
) -> RelayOutcome {
    let (client, backend) = match (client.into_std(), backend.into_std()) {
        (Ok(client), Ok(backend)) => (client, backend),
        (Err(error), _) | (_, Err(error)) => return RelayOutcome::failed(&error),
    };
    match worker.submit(client, backend, prefix.to_vec(), idle) {
        Ok(mut relay) => {
            tokio::select! {
                biased;
                outcome = &mut relay => outcome,
                () = drain => {
                    relay.end();
                    relay.await
                }
            }
        }
        Err(refused) => {
            let UringRefused { client, backend, prefix } = *refused;
            match (TcpStream::from_std(client), TcpStream::from_std(backend)) {
                (Ok(client), Ok(backend)) => relay::run(client, backend, &prefix, idle, true, drain).await,
                (Err(error), _) | (_, Err(error)) => RelayOutcome::failed(&error),
            }
        }
    }
}

impl RelayOutcome {
    fn failed(error: &io::Error) -> Self {
        Self { bytes_up: 0, bytes_down: 0, ended: Ended::Error(error.kind()) }
    }
}

impl Ended {
    /// What a failed call on the socket of `culprit` means.
    fn by_fault(culprit: Side, error: &io::Error) -> Self {
        // After the first error on a reset socket, and after FIN, the kernel says EPIPE.
        match (error.kind(), culprit) {
            (
                io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe,
                Side::Client,
            ) => Self::ClientReset,
            (
                io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe,
                Side::Backend,
            ) => Self::BackendReset,
            (kind, _) => Self::Error(kind),
        }
    }
}
