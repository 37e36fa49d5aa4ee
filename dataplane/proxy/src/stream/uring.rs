//! The engine on io_uring: a thread with a runtime of its own, because tokio-uring brings one, to which connected
//! sockets are handed over.

use super::RelayOutcome;
use super::relay::{BUFFER, Fault, Progress, Side, drive};
use rustix::net::sockopt::set_socket_linger;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_uring::buf::BoundedBuf;

/// Relays that wait for the worker to take them.
const QUEUE: usize = 1024;

/// Held by an idle direction. io_uring owns the buffer of a read from the moment it is asked for.
const IDLE_BUFFER: usize = 4 * 1024;

/// Buffers of [`BUFFER`] bytes that the thread keeps.
const POOLED_BUFFERS: usize = 16;

/// Given to operations that were made to return. They do so at once; a relay must not depend on it.
const ABANDON: Duration = Duration::from_secs(1);

/// Entries of the submission ring. Two reads a relay are outstanding; the ring holds those of one turn only.
const RING_ENTRIES: u32 = 1024;

/// A thread that relays streams with io_uring. Clones are handles of the same thread.
///
/// The thread ends when the last handle is gone and its relays have ended.
#[derive(Debug, Clone)]
pub struct UringWorker {
    queue: mpsc::Sender<Job>,
}

/// Why there is no worker.
#[derive(Debug, Error)]
pub enum UringError {
    /// The kernel gives no ring.
    #[error(
        "io_uring is not to be had ({0}): it needs Linux 5.11, kernel.io_uring_disabled=0 and a seccomp profile that \
         allows it; use the splice engine instead"
    )]
    Unavailable(#[source] io::Error),
    /// The system gives no thread.
    #[error("cannot start the io_uring worker thread: {0}")]
    Thread(#[source] io::Error),
}

/// A relay that the worker did not take, because its queue is full or its thread is gone: everything comes back.
#[derive(Debug)]
pub struct UringRefused {
    /// As submitted.
    pub client: TcpStream,
    /// As submitted.
    pub backend: TcpStream,
    /// As submitted.
    pub prefix: Vec<u8>,
}

/// A relay on a worker's thread. Resolves to its outcome; dropping it ends the relay.
#[derive(Debug)]
pub struct UringRelay {
    outcome: oneshot::Receiver<RelayOutcome>,
    end: Option<oneshot::Sender<()>>,
}

impl UringWorker {
    /// Starts a worker on a thread called `name`.
    pub fn spawn(name: &str) -> Result<Self, UringError> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (started, start) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let mut builder = tokio_uring::builder();
                let runtime = match tokio_uring::Runtime::new(builder.entries(RING_ENTRIES)) {
                    Ok(runtime) => runtime,
                    Err(error) => {
                        let _ = started.send(Err(error));
                        return;
                    }
                };
                runtime.block_on(async {
                    // A ring can be made and still be forbidden to run anything.
                    let works = tokio_uring::no_op().await;
                    let serve_jobs = works.is_ok();
                    let _ = started.send(works);
                    if serve_jobs {
                        serve(jobs).await;
                    }
                });
            })
            .map_err(UringError::Thread)?;
        match start.recv() {
            Ok(Ok(())) => Ok(Self { queue }),
            Ok(Err(error)) => Err(UringError::Unavailable(error)),
            Err(_) => Err(UringError::Thread(io::Error::other("the thread ended at once"))),
        }
    }

    /// Hands two connected sockets over. `prefix` goes to the backend first; the relay ends when nothing was
    /// delivered for `idle_timeout`. Does not wait: a full queue gives everything back.
    pub fn submit(
        &self,
        client: TcpStream,
        backend: TcpStream,
        prefix: Vec<u8>,
        idle_timeout: Duration,
    ) -> Result<UringRelay, Box<UringRefused>> {
        let (done, outcome) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let job = Job { client, backend, prefix, idle_timeout, ended, done };
        match self.queue.try_send(job) {
            Ok(()) => Ok(UringRelay { outcome, end: Some(end) }),
            Err(mpsc::error::TrySendError::Full(job) | mpsc::error::TrySendError::Closed(job)) => {
                Err(Box::new(UringRefused { client: job.client, backend: job.backend, prefix: job.prefix }))
            }
        }
    }
}

impl UringRelay {
    /// Asks the relay to end. Its outcome still comes, as [`Ended::Drained`](super::Ended::Drained) if nothing else ended it before.
    pub fn end(&mut self) {
        if let Some(end) = self.end.take() {
            let _ = end.send(());
        }
    }
}

impl Future for UringRelay {
    type Output = RelayOutcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<RelayOutcome> {
        Pin::new(&mut self.outcome).poll(cx).map(|outcome| {
            outcome.unwrap_or_else(|_| RelayOutcome::failed(&io::Error::other("the io_uring worker is gone")))
        })
    }
}

#[derive(Debug)]
struct Job {
    client: TcpStream,
    backend: TcpStream,
    prefix: Vec<u8>,
    idle_timeout: Duration,
    ended: oneshot::Receiver<()>,
    done: oneshot::Sender<RelayOutcome>,
}

async fn serve(mut jobs: mpsc::Receiver<Job>) {
    let mut relays = JoinSet::new();
    loop {
        tokio::select! {
            job = jobs.recv() => match job {
                Some(job) => {
                    relays.spawn_local(run(job));
                }
                None => break,
            },
            Some(_) = relays.join_next() => {}
        }
    }
    while relays.join_next().await.is_some() {}
}

async fn run(job: Job) {
    let outcome = match (Socket::new(job.client), Socket::new(job.backend)) {
        (Ok(client), Ok(backend)) => relay(client, backend, job.prefix, job.idle_timeout, job.ended).await,
        (Err(error), _) | (_, Err(error)) => RelayOutcome::failed(&error),
    };
    // Whoever dropped the receiver does not want to know.
    let _ = job.done.send(outcome);
}

async fn relay(
    client: Socket,
    backend: Socket,
    prefix: Vec<u8>,
    idle_timeout: Duration,
    ended: oneshot::Receiver<()>,
) -> RelayOutcome {
    let progress = Progress::default();
    let (up_ended, down_ended) = (Cell::new(false), Cell::new(false));
    let mut up = pin!(pump(&client, &backend, prefix, &progress.up, &up_ended));
    let mut down = pin!(pump(&backend, &client, Vec::new(), &progress.down, &down_ended));
    let pass_fin = |to| {
        let socket = match to {
            Side::Client => &client,
            Side::Backend => &backend,
        };
        let _ = socket.control.shutdown(Shutdown::Write);
    };
    // An `Err` says that the relay was dropped, which ends it just the same.
    let drain = async {
        let _ = ended.await;
    };
    let finish = drive(up.as_mut(), down.as_mut(), &progress, idle_timeout, drain, pass_fin).await;
    if !(up_ended.get() && down_ended.get()) {
        client.abandon(finish.reset == Some(Side::Client));
        backend.abandon(finish.reset == Some(Side::Backend));
        // What is with the kernel comes back, with what it has delivered in the meantime.
        let rest = async {
            if !up_ended.get() {
                let _ = up.await;
            }
            if !down_ended.get() {
                let _ = down.await;
            }
        };
        let _ = tokio::time::timeout(ABANDON, rest).await;
    }
    progress.outcome(finish.ended)
}

/// A socket on the ring.
struct Socket {
    ring: tokio_uring::net::TcpStream,
    /// A second descriptor of it, for what tokio-uring does not offer.
    control: TcpStream,
    /// Whether a write to it is with the kernel.
    writing: Cell<bool>,
}

impl Socket {
    fn new(socket: TcpStream) -> io::Result<Self> {
        // On a non-blocking socket the kernel completes a read with EAGAIN instead of waiting for data.
        socket.set_nonblocking(false)?;
        Ok(Self {
            control: socket.try_clone()?,
            ring: tokio_uring::net::TcpStream::from_std(socket),
            writing: Cell::new(false),
        })
    }

    /// Tells a reset from the end of the stream, after a read of nothing. Of two operations that are with the kernel
    /// when a reset comes, the write may take the error, and the read then looks like a FIN. The peer's address is
    /// gone after a reset, and before our own FIN after nothing else.
    fn was_reset(&self) -> bool {
        self.writing.get() && self.control.peer_addr().is_err()
    }

    /// Makes operations that are with the kernel return, since they keep the socket open and tokio-uring cannot
    /// cancel them. `reset` closes with RST: what is outstanding is then stopped without telling the peer first.
    fn abandon(&self, reset: bool) {
        let how = match (reset, self.writing.get()) {
            (true, false) => Shutdown::Read,
            // The FIN queues behind what the peer does not read, so the reset overtakes it.
            (true, true) | (false, _) => Shutdown::Both,
        };
        if reset {
            let _ = set_socket_linger(&self.control, Some(Duration::ZERO));
        }
        let _ = self.control.shutdown(how);
    }
}

/// One direction, until the end of what `from` sends.
async fn pump(
    from: &Socket,
    to: &Socket,
    prefix: Vec<u8>,
    delivered: &Cell<u64>,
    ended: &Cell<bool>,
) -> Result<(), Fault> {
    let result = pump_all(from, to, prefix, delivered).await;
    ended.set(true);
    result
}

async fn pump_all(from: &Socket, to: &Socket, prefix: Vec<u8>, delivered: &Cell<u64>) -> Result<(), Fault> {
    write_all(to, prefix, delivered).await?;
    let mut small = Vec::with_capacity(IDLE_BUFFER);
    let mut full = false;
    loop {
        // After a short read the next one is likely to wait, and what it waits with is held all the while.
        let mut buffer = match full {
            true => take_buffer(),
            false => std::mem::take(&mut small),
        };
        buffer.clear();
        let capacity = buffer.capacity();
        let (result, buffer) = from.ring.read(buffer).await;
        let read = result.map_err(Fault::Read)?;
        if read == 0 {
            return match from.was_reset() {
                true => Err(Fault::Read(io::ErrorKind::ConnectionReset.into())),
                false => Ok(()),
            };
        }
        let buffer = write_all(to, buffer, delivered).await?;
        match full {
            true => give_buffer(buffer),
            false => small = buffer,
        }
        full = read == capacity;
    }
}

async fn write_all(to: &Socket, mut buffer: Vec<u8>, delivered: &Cell<u64>) -> Result<Vec<u8>, Fault> {
    let end = buffer.len();
    let mut start = 0;
    to.writing.set(true);
    while start < end {
        let (result, slice) = to.ring.write(buffer.slice(start..end)).submit().await;
        buffer = slice.into_inner();
        let written = result.map_err(Fault::Write)?;
        start += written;
        delivered.set(delivered.get() + written as u64);
    }
    to.writing.set(false);
    Ok(buffer)
}

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

fn take_buffer() -> Vec<u8> {
    BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(BUFFER))
}

fn give_buffer(buffer: Vec<u8>) {
    BUFFERS.with_borrow_mut(|buffers| {
        if buffers.len() < POOLED_BUFFERS {
            buffers.push(buffer);
        }
    });
}
