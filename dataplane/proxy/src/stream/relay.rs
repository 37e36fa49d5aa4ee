//! What all engines share (how two directions make one relay), and the engines on tokio's epoll.

use super::splice::{self, MAX_MOVE, Pipe};
use super::{Ended, RelayOutcome};
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// Read at once by a direction that copies.
pub(super) const BUFFER: usize = 64 * 1024;

/// Buffers that a thread keeps for the next direction with data. More than flow at the same moment are of no use.
const POOLED_BUFFERS: usize = 16;

/// A read of this size takes a direction to `splice`: from about here on a pipe costs less than copying does.
const BULK: usize = 16 * 1024;

/// A burst smaller than this takes it back to copying. Well below [`BULK`], because a bulk transfer between busy peers
/// comes in small bursts too, and each of them would be copied before the next could be spliced.
const MESSAGE: usize = 4 * 1024;

/// Fills of a direction before others on the thread get their turn: 8 MiB and 3 ms at most, with 256 KiB a pipe. Only
/// peers on the same machine keep a relay busy for so long; with half of it, eight of them cost a tenth more CPU.
const ROUNDS: usize = 32;

/// Runs a relay on epoll, bulk data by `splice` where `bulk`.
pub(super) async fn run(
    client: TcpStream,
    backend: TcpStream,
    prefix: &[u8],
    idle_timeout: Duration,
    bulk: bool,
    drain: impl Future<Output = ()>,
) -> RelayOutcome {
    let progress = Progress::default();
    let finish = {
        let mut up = Direction::new(&client, &backend, prefix, bulk, &progress.up);
        let mut down = Direction::new(&backend, &client, &[], bulk, &progress.down);
        let up = poll_fn(|cx| up.poll(cx));
        let down = poll_fn(|cx| down.poll(cx));
        let pass_fin = |to| {
            let socket = match to {
                Side::Client => &client,
                Side::Backend => &backend,
            };
            // Fails only where the socket is dead already, which its other direction finds out.
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Write);
        };
        drive(up, down, &progress, idle_timeout, drain, pass_fin).await
    };
    let _ = match finish.reset {
        Some(Side::Client) => client.set_zero_linger(),
        Some(Side::Backend) => backend.set_zero_linger(),
        None => Ok(()),
    };
    progress.outcome(finish.ended)
}

/// One end of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Backend,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Backend,
            Self::Backend => Self::Client,
        }
    }
}

/// Bytes delivered so far.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) up: Cell<u64>,
    pub(super) down: Cell<u64>,
}

impl Progress {
    pub(super) fn outcome(&self, ended: Ended) -> RelayOutcome {
        RelayOutcome { bytes_up: self.up.get(), bytes_down: self.down.get(), ended }
    }
}

/// Which socket of a direction failed.
#[derive(Debug)]
pub(super) enum Fault {
    Read(io::Error),
    Write(io::Error),
}

/// The end of a relay.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finish {
    pub(super) ended: Ended,
    /// The side whose connection is to be reset rather than closed.
    pub(super) reset: Option<Side>,
}

impl Finish {
    fn plain(ended: Ended) -> Self {
        Self { ended, reset: None }
    }
}

/// Runs both directions until the relay is over. `pass_fin` is called with the side that gets a FIN.
pub(super) async fn drive(
    up: impl Future<Output = Result<(), Fault>>,
    down: impl Future<Output = Result<(), Fault>>,
    progress: &Progress,
    idle_timeout: Duration,
    drain: impl Future<Output = ()>,
    pass_fin: impl Fn(Side),
) -> Finish {
    // Keeps deadlines within what an `Instant` can hold.
    let idle_timeout = idle_timeout.min(Duration::from_secs(365 * 24 * 3600));
    let (mut up, mut down, mut drain) = (pin!(up), pin!(down), pin!(drain));
    let mut ending = Ending::default();
    let mut idle = pin!(sleep(idle_timeout));
    let mut delivered = 0;
    let mut last_delivery = Instant::now();
    poll_fn(|cx| {
        if drain.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Finish::plain(Ended::Drained));
        }
        for from in [Side::Client, Side::Backend] {
            if ending.has_ended(from) {
                continue;
            }
            let polled = match from {
                Side::Client => up.as_mut().poll(cx),
                Side::Backend => down.as_mut().poll(cx),
            };
            if let Poll::Ready(result) = polled {
                match ending.direction_ended(from, result) {
                    Step::PassFin => pass_fin(from.other()),
                    Step::Wait => {}
                    Step::Finish(finish) => return Poll::Ready(finish),
                }
            }
        }
        // The timer is moved only when it fires: one that followed each message would cost more than the message.
        let total = progress.up.get() + progress.down.get();
        if total != delivered {
            delivered = total;
            last_delivery = Instant::now();
        }
        while idle.as_mut().poll(cx).is_ready() {
            if last_delivery.elapsed() >= idle_timeout {
                return Poll::Ready(Finish::plain(Ended::IdleTimeout));
            }
            idle.as_mut().reset(last_delivery + idle_timeout);
        }
        Poll::Pending
    })
    .await
}

/// How the ends of two directions make the end of a relay.
#[derive(Debug, Default)]
struct Ending {
    up_ended: bool,
    down_ended: bool,
    first_closed: Option<Side>,
    /// A side that could not be written to. What it had sent before may still be on its way to the other.
    broken: Option<(Side, Ended)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    PassFin,
    Wait,
    Finish(Finish),
}

impl Ending {
    fn has_ended(&self, from: Side) -> bool {
        match from {
            Side::Client => self.up_ended,
            Side::Backend => self.down_ended,
        }
    }

    fn direction_ended(&mut self, from: Side, result: Result<(), Fault>) -> Step {
        match from {
            Side::Client => self.up_ended = true,
            Side::Backend => self.down_ended = true,
        }
        let reverse_ended = self.has_ended(from.other());
        match (result, self.broken) {
            // The failed write took the error off the socket, so its reader meets a plain end: that is no FIN.
            (Ok(()), Some((culprit, ended))) => Step::Finish(Finish { ended, reset: Some(culprit.other()) }),
            (Ok(()), None) => {
                let first = *self.first_closed.get_or_insert(from);
                match (reverse_ended, first) {
                    (false, _) => Step::PassFin,
                    (true, Side::Client) => Step::Finish(Finish::plain(Ended::ClientClosed)),
                    (true, Side::Backend) => Step::Finish(Finish::plain(Ended::BackendClosed)),
                }
            }
            (Err(Fault::Read(error)), _) => {
                Step::Finish(Finish { ended: Ended::by_fault(from, &error), reset: Some(from.other()) })
            }
            (Err(Fault::Write(error)), broken) => {
                let culprit = from.other();
                let ended = Ended::by_fault(culprit, &error);
                match (reverse_ended, broken) {
                    (false, _) => {
                        self.broken = Some((culprit, ended));
                        Step::Wait
                    }
                    // It had closed in good order, and that was passed on: a reset could only destroy data.
                    (true, None) => Step::Finish(Finish::plain(ended)),
                    // Both sides are dead; the first cause counts.
                    (true, Some((_, ended))) => Step::Finish(Finish::plain(ended)),
                }
            }
        }
    }
}

/// One direction of a relay: what was read is written before more is read, so that a slow reader holds back the
/// writer and at most one buffer or pipe is filled.
struct Direction<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    held: Held<'a>,
    /// Whether `splice` may be used.
    may_splice: bool,
    /// Whether data came in bulk lately.
    bulk: bool,
    /// Bytes read since the direction last waited for data.
    burst: usize,
    delivered: &'a Cell<u64>,
}

/// What was read and not yet written.
enum Held<'a> {
    Nothing,
    Prefix(&'a [u8]),
    Buffer { buffer: Box<[u8]>, start: usize, end: usize },
    Pipe { pipe: Pipe, bytes: usize },
}

impl<'a> Direction<'a> {
    fn new(
        from: &'a TcpStream,
        to: &'a TcpStream,
        prefix: &'a [u8],
        may_splice: bool,
        delivered: &'a Cell<u64>,
    ) -> Self {
        Self {
            from,
            to,
            held: match prefix {
                [] => Held::Nothing,
                prefix => Held::Prefix(prefix),
            },
            may_splice,
            bulk: false,
            burst: 0,
            delivered,
        }
    }

    /// Ready when `from` has sent its last byte and `to` has taken it, or when one of them failed.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        for _ in 0..ROUNDS {
            ready!(self.poll_flush(cx)).map_err(Fault::Write)?;
            if ready!(self.poll_fill(cx)).map_err(Fault::Read)? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what is held. An empty pipe stays at hand for the next fill.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let to = self.to;
            let written = match &mut self.held {
                Held::Nothing | Held::Pipe { bytes: 0, .. } => return Poll::Ready(Ok(())),
                Held::Prefix(rest) => {
                    let written = ready!(poll_write(to, cx, rest))?;
                    *rest = &rest[written..];
                    if rest.is_empty() {
                        self.held = Held::Nothing;
                    }
                    written
                }
                Held::Buffer { buffer, start, end } => {
                    let written = ready!(poll_write(to, cx, &buffer[*start..*end]))?;
                    *start += written;
                    if start == end
                        && let Held::Buffer { buffer, .. } = self.release()
                    {
                        give_buffer(buffer);
                    }
                    written
                }
                Held::Pipe { pipe, bytes } => {
                    let written = ready!(poll_io(to, cx, Interest::WRITABLE, || {
                        let written = pipe.drain_into(to, *bytes)?;
                        // A short splice means that the socket is full.
                        Ok((written, written < *bytes))
                    }))?;
                    *bytes -= written;
                    written
                }
            };
            self.delivered.set(self.delivered.get() + written as u64);
        }
    }

    /// Reads once; 0 is the end of the stream. While there is nothing to read, nothing is held.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.bulk
            && let Some(pipe) = self.pipe()
        {
            match poll_io(self.from, cx, Interest::READABLE, || Ok((pipe.fill_from(self.from, MAX_MOVE)?, false))) {
                // A socket that cannot be spliced, such as one with another protocol layered on it.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => {
                    pipe.give_back();
                    self.may_splice = false;
                    self.bulk = false;
                }
                Poll::Ready(Ok(bytes)) => {
                    self.burst = self.burst.saturating_add(bytes);
                    self.held = Held::Pipe { pipe, bytes };
                    return Poll::Ready(Ok(bytes));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    pipe.give_back();
                    return self.wait();
                }
            }
        }
        let mut buffer = take_buffer();
        match poll_io(self.from, cx, Interest::READABLE, || {
            let read = rustix::io::read(self.from, &mut *buffer)?;
            // A short read means that the socket is drained; one more call that says so is saved.
            Ok((read, 0 < read && read < BUFFER))
        }) {
            Poll::Ready(Ok(read)) => {
                self.burst = self.burst.saturating_add(read);
                self.bulk |= self.may_splice && read >= BULK;
                self.held = Held::Buffer { buffer, start: 0, end: read };
                Poll::Ready(Ok(read))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                give_buffer(buffer);
                self.wait()
            }
        }
    }

    /// The direction has read all there is and waits for more, holding nothing.
    fn wait(&mut self) -> Poll<io::Result<usize>> {
        if let Held::Pipe { pipe, .. } = self.release() {
            pipe.give_back();
        }
        self.bulk &= std::mem::take(&mut self.burst) >= MESSAGE;
        Poll::Pending
    }

    /// The empty pipe at hand, else one of the pool, if there is any to be had.
    fn pipe(&mut self) -> Option<Pipe> {
        match self.release() {
            Held::Pipe { pipe, .. } => Some(pipe),
            _ => splice::take_pipe(),
        }
    }

    fn release(&mut self) -> Held<'a> {
        std::mem::replace(&mut self.held, Held::Nothing)
    }
}

fn poll_write(to: &TcpStream, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    poll_io(to, cx, Interest::WRITABLE, || {
        let written = rustix::io::write(to, bytes)?;
        Ok((written, written < bytes.len()))
    })
}

/// Calls `operation` when `socket` is ready, until it does not say `WouldBlock`. It returns its result, and whether
/// it left the socket with nothing more to read or no more room.
///
/// tokio takes readiness away on `WouldBlock` alone; an operation that knows better saves the call that would say so.
pub(crate) fn poll_io(
    socket: &TcpStream,
    cx: &mut Context<'_>,
    interest: Interest,
    mut operation: impl FnMut() -> io::Result<(usize, bool)>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(match interest.is_readable() {
            true => socket.poll_read_ready(cx),
            false => socket.poll_write_ready(cx),
        })?;
        let mut done = None;
        let result = socket.try_io(interest, || {
            let (bytes, exhausted) = operation()?;
            done = Some(bytes);
            match exhausted {
                true => Err(io::ErrorKind::WouldBlock.into()),
                false => Ok(()),
            }
        });
        match (done, result) {
            (Some(bytes), _) => return Poll::Ready(Ok(bytes)),
            (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            (None, Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            (None, Err(error)) => return Poll::Ready(Err(error)),
            (None, Ok(())) => return Poll::Ready(Ok(0)),
        }
    }
}

thread_local! {
    static BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

fn take_buffer() -> Box<[u8]> {
    BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice())
}

fn give_buffer(buffer: Box<[u8]>) {
    BUFFERS.with_borrow_mut(|buffers| {
        if buffers.len() < POOLED_BUFFERS {
            buffers.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use io::ErrorKind::{BrokenPipe, ConnectionReset, TimedOut};

    /// Ends of directions (the side that it comes from, and how), and what the last of them leads to.
    #[test]
    fn ends_of_directions_make_the_end_of_the_relay() {
        use Side::{Backend, Client};
        let read = |kind: io::ErrorKind| Err(Fault::Read(kind.into()));
        let write = |kind: io::ErrorKind| Err(Fault::Write(kind.into()));
        let finish = |ended, reset| Step::Finish(Finish { ended, reset });
        let rows = [
            (vec![(Client, Ok(()))], Step::PassFin),
            (vec![(Backend, Ok(()))], Step::PassFin),
            (vec![(Client, Ok(())), (Backend, Ok(()))], finish(Ended::ClientClosed, None)),
            (vec![(Backend, Ok(())), (Client, Ok(()))], finish(Ended::BackendClosed, None)),
            (vec![(Client, read(ConnectionReset))], finish(Ended::ClientReset, Some(Backend))),
            (vec![(Backend, read(ConnectionReset))], finish(Ended::BackendReset, Some(Client))),
            (vec![(Backend, read(TimedOut))], finish(Ended::Error(TimedOut), Some(Client))),
            // Reset after a half-close: the other side has not had all of it, so it has to hear of it.
            (vec![(Client, Ok(())), (Backend, read(ConnectionReset))], finish(Ended::BackendReset, Some(Client))),
            (vec![(Client, write(BrokenPipe))], Step::Wait),
            (vec![(Client, write(BrokenPipe)), (Backend, Ok(()))], finish(Ended::BackendReset, Some(Client))),
            (vec![(Backend, write(ConnectionReset)), (Client, Ok(()))], finish(Ended::ClientReset, Some(Backend))),
            (vec![(Backend, Ok(())), (Client, write(ConnectionReset))], finish(Ended::BackendReset, None)),
            (vec![(Client, write(BrokenPipe)), (Backend, write(BrokenPipe))], finish(Ended::BackendReset, None)),
        ];
        for (ends, expected) in rows {
            let shown = format!("{ends:?}");
            let mut ending = Ending::default();
            let last = ends.into_iter().map(|(from, result)| ending.direction_ended(from, result)).last();
            assert_eq!(last, Some(expected), "{shown}");
        }
    }
}
