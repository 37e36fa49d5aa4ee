//! HTTP/1.1 towards a client: one request after the other on a kept-alive connection.

use crate::answer::answer_fault;
use crate::exchange::{self, Ask, Ended, Session};
use crate::fault::Fault;
use crate::future_room::FutureRoom;
use crate::headers::{ClientIdentity, SmallText};
use crate::http1_stream::Http1Io;
use crate::http2_server;
use crate::record::Refusal;
use crate::tls::TlsSession;
use crate::transport::{PrefixedStream, Transport};
use crate::watchdog::Watchdog;
use crate::worker::{Heads, Registration, Worker};
use bytes::Bytes;
use sluicegate_telemetry::{LimitName, Protocol, UpgradeKind};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::io::AsyncWrite;

/// The connection preface of HTTP/2 (RFC 9113 section 3.4), by which a client shows prior knowledge.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a connection is listened to after the last response, so that a reset does not destroy it on its way.
const LINGER: Duration = Duration::from_secs(1);
/// Most bytes that are thrown away for that.
const LINGER_BYTES: usize = 1024 * 1024;
/// A connection that was accepted while the gateway drains may still bring the request that it was opened for.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// What came first on the connection, or next.
enum Arrival {
    /// With the moment at which its first byte was read.
    Request(Instant),
    Preface,
    /// The client closed, or nothing came in time.
    Nothing,
    /// What made the connection readable was no part of a request: a false alarm, or a message of TLS.
    NotYet,
    Bad(Fault, Instant),
}

/// A client's connection and what is known of it. Handed to the request that is under way and back by its box, so that an
/// idle connection holds it once.
pub(crate) struct Connection {
    worker: Rc<Worker>,
    io: Http1Io<Transport>,
    client: ClientIdentity,
    tls: Option<TlsSession>,
    watchdog: Watchdog,
    registration: Registration,
}

impl Connection {
    pub(crate) fn new(
        worker: Rc<Worker>,
        io: Http1Io<Transport>,
        client: ClientIdentity,
        tls: Option<TlsSession>,
        registration: Registration,
    ) -> Self {
        Self { worker, io, client, tls, watchdog: Watchdog::default(), registration }
    }
}

/// Serves the connection until it ends, or until the client turns out to speak HTTP/2 on it.
pub(crate) async fn serve(mut connection: Box<Connection>) {
    let mut first = true;
    let mut idle_since = Instant::now();
    loop {
        if connection.io.rbuf.is_empty() && !connection.wait_for_bytes(first, idle_since).await {
            break;
        }
        let mut heads = connection.worker.take_heads();
        let may_be_http2 = first && connection.tls.is_none();
        let next = match connection.read_head(&mut heads, may_be_http2).await {
            Arrival::Request(started) => {
                let mut room = connection.worker.take_room().unwrap_or_else(|| FutureRoom::new(serve_request));
                let next;
                (Turn { connection, heads, .. }, next) = room.run(Turn { connection, heads, started }).await;
                connection.worker.give_room(room);
                next
            }
            Arrival::Preface => {
                connection.worker.give_heads(heads);
                let Connection { worker, io, client, registration, .. } = *connection;
                tokio::task::spawn_local(http2_server::serve(worker, hand_over(io), client, None, registration));
                return;
            }
            Arrival::Nothing => Next::Close,
            Arrival::NotYet => {
                connection.worker.give_heads(heads);
                continue;
            }
            Arrival::Bad(fault, started) => Box::pin(connection.refuse(&fault, started, &mut heads)).await,
        };
        connection.worker.give_heads(heads);
        match next {
            Next::Request(ended) => {
                first = false;
                idle_since = ended;
            }
            Next::Close => break,
            Next::Linger => {
                connection.linger().await;
                break;
            }
        }
    }
    connection.io.discard();
}

/// A request whose head has been read, and the connection that it came on.
pub(crate) struct Turn {
    connection: Box<Connection>,
    heads: Box<Heads>,
    started: Instant,
}

/// What a request needs while it is on its way would double what an idle connection holds: it has a room of the worker's.
pub(crate) type RequestRoom = FutureRoom<Turn, (Turn, Next)>;

/// What follows a request.
pub(crate) enum Next {
    /// Another one, after one that was over then.
    Request(Instant),
    Close,
    Linger,
}

impl Connection {
    /// Waits without a buffer until the client sends something. False if the connection shall end.
    async fn wait_for_bytes(&mut self, first: bool, idle_since: Instant) -> bool {
        let Self { worker, io, watchdog, registration, .. } = self;
        io.release();
        let timeouts = &worker.settings.timeouts;
        let deadline = idle_since + if first { timeouts.request_head } else { timeouts.idle };
        let grace = first.then(|| Instant::now() + DRAIN_GRACE);
        poll_fn(|cx| {
            if let Poll::Ready(readable) = io.owner.poll_readable(cx) {
                return Poll::Ready(readable.is_ok());
            }
            registration.wake_on_drain(cx.waker());
            let deadline = match (worker.is_draining(), grace) {
                (true, None) => return Poll::Ready(false),
                (true, Some(grace)) => deadline.min(grace),
                (false, _) => deadline,
            };
            if watchdog.poll_expired(cx, deadline).is_ready() {
                worker.metrics.limit(LimitName::IdleTimeout);
                return Poll::Ready(false);
            }
            Poll::Pending
        })
        .await
    }

    /// Reads and parses until a request head is complete.
    async fn read_head(&mut self, heads: &mut Heads, may_be_http2: bool) -> Arrival {
        let Self { worker, io, watchdog, .. } = self;
        let started = Instant::now();
        let deadline = started + worker.settings.timeouts.request_head;
        poll_fn(|cx| {
            loop {
                let unread = io.rbuf.unread();
                let preface = may_be_http2
                    && !unread.is_empty()
                    && PREFACE.starts_with(&unread[..unread.len().min(PREFACE.len())]);
                if preface && unread.len() >= PREFACE.len() {
                    return Poll::Ready(Arrival::Preface);
                }
                if !unread.is_empty() && !preface {
                    match heads.request.parse(unread, &worker.request_limits) {
                        Ok(Some(used)) => {
                            io.rbuf.consume(used);
                            return Poll::Ready(Arrival::Request(started));
                        }
                        Ok(None) => {}
                        Err(error) => {
                            return Poll::Ready(Arrival::Bad(Fault::head(&error, &worker.metrics), started));
                        }
                    }
                }
                match io.poll_read_head(cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Arrival::Nothing),
                    Poll::Ready(Ok(_)) => {}
                    // Only a request that began can be late.
                    Poll::Pending if io.rbuf.is_empty() => return Poll::Ready(Arrival::NotYet),
                    Poll::Pending => {
                        if watchdog.poll_expired(cx, deadline).is_pending() {
                            return Poll::Pending;
                        }
                        let fault = Fault::request_timeout(LimitName::HeaderTimeout, &worker.metrics);
                        return Poll::Ready(Arrival::Bad(fault, started));
                    }
                }
            }
        })
        .await
    }

    /// Answers what is not a request.
    async fn refuse(&mut self, fault: &Fault, started: Instant, heads: &mut Heads) -> Next {
        let Self { worker, io, client, tls, watchdog, .. } = self;
        let session = &Session { worker, client, tls: tls.as_ref() };
        session.worker.metrics.fault(fault.reason);
        tracing::info!(
            peer = %session.client.peer,
            reason = fault.reason.as_str(),
            detail = fault.detail,
            status = fault.status,
            "request refused"
        );
        heads.request.clear();
        let length = io.rbuf.len() as u64;
        let ask = Ask { started, upgrade: None, close: true };
        let ended = answer_fault(session, &ask, fault, &SmallText::default(), io, heads, watchdog).await;
        let response = (ended != Ended::Cut).then_some(&heads.response);
        Refusal { length, response, ..Refusal::of(fault, started, Protocol::Http11) }.tell(session);
        match ended {
            Ended::Answered { .. } => Next::Linger,
            Ended::Cut => Next::Close,
        }
    }

    /// Closes our half and reads on for a moment: closing with unread bytes would reset the connection and could take the
    /// response with it (RFC 9112 section 9.6).
    async fn linger(&mut self) {
        let Self { io, watchdog, .. } = self;
        let deadline = Instant::now() + LINGER;
        let mut shut = false;
        let mut thrown_away = 0;
        poll_fn(|cx| {
            if !shut {
                std::task::ready!(Pin::new(&mut io.owner).poll_shutdown(cx)).ok();
                shut = true;
            }
            loop {
                let unread = io.rbuf.len();
                io.rbuf.consume(unread);
                match io.poll_read_head(cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                    Poll::Ready(Ok(count)) => {
                        thrown_away += count;
                        if thrown_away > LINGER_BYTES {
                            return Poll::Ready(());
                        }
                    }
                    Poll::Pending => return watchdog.poll_expired(cx, deadline),
                }
            }
        })
        .await;
    }
}

async fn serve_request(mut turn: Turn) -> (Turn, Next) {
    let Turn { connection, heads, started } = &mut turn;
    let Connection { worker, io, client, tls, watchdog, .. } = &mut **connection;
    let session = Session { worker, client, tls: tls.as_ref() };
    io.begin_read(heads.request.framing());
    let ask = Ask { started: *started, upgrade: wanted_upgrade(heads), close: !heads.request.keep_alive() };
    let next = match exchange::exchange(&session, ask, io, heads, watchdog).await {
        (Ended::Answered { close: false }, ended) if io.read_complete() && !io.is_closing() => Next::Request(ended),
        (Ended::Answered { .. }, _) => Next::Linger,
        (Ended::Cut, _) => {
            if io.is_close_delimited() {
                // Without a length only a reset tells the client that this was not all.
                let _ = io.owner.socket().set_zero_linger();
            }
            Next::Close
        }
    };
    (turn, next)
}

/// The protocol that the client wants, where it is one that crosses the proxy. `h2c` does not: it would take the
/// connection to the backend out of our hands (RFC 9113 section 3.1 has removed it).
fn wanted_upgrade(heads: &Heads) -> Option<UpgradeKind> {
    let wanted = heads.request.upgrade()?;
    let mut tokens = wanted.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    if tokens.clone().any(|token| token.len() >= 3 && token[..3].eq_ignore_ascii_case(b"h2c")) {
        return None;
    }
    let websocket = tokens.any(|token| token.eq_ignore_ascii_case(b"websocket"));
    Some(if websocket { UpgradeKind::WebSocket } else { UpgradeKind::Other })
}

/// The connection with what was read of it, for HTTP/2.
fn hand_over(mut io: Http1Io<Transport>) -> Transport {
    let read = Bytes::copy_from_slice(io.rbuf.unread());
    io.discard();
    match io.owner.into_plain() {
        Ok((socket, before)) => {
            debug_assert!(before.is_empty(), "the prefix was read before the preface");
            PrefixedStream::new(socket, read).into()
        }
        Err(transport) => transport,
    }
}
