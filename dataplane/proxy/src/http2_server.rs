//! HTTP/2 towards a client: the h2 crate's connection, one task for each stream, budgets against abuse, GOAWAY in two
//! steps when the gateway drains.

use crate::answer::answer_fault;
use crate::downstream_http2::{Http2Downstream, read_head};
use crate::exchange::{self, Ask, Ended, Session};
use crate::fault::Fault;
use crate::headers::{ClientIdentity, SmallText};
use crate::peer::Downstream;
use crate::record::Refusal;
use crate::tls::TlsSession;
use crate::transport::Transport;
use crate::watchdog::Watchdog;
use crate::worker::{Registration, Worker};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use http::Request;
use sluicegate_telemetry::{FaultReason, LimitName, Protocol, UpgradeKind};
use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// Bytes that a client may send ahead on one stream, and on all streams of a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of responses that one connection may have waiting for the socket.
const SEND_BUFFER: usize = 256 * 1024;

/// What the streams of a connection have in common.
struct Common {
    worker: Rc<Worker>,
    client: ClientIdentity,
    tls: Option<TlsSession>,
    active: Cell<u32>,
    /// Streams that the client took back, minus those that it let finish.
    resets: Cell<u32>,
    last_end: Cell<Instant>,
}

impl Common {
    /// The client took back more streams than it may; the connection ends.
    fn tell_of_rapid_reset(&self) {
        self.worker.metrics.limit(LimitName::Resets);
        self.worker.metrics.fault(FaultReason::RapidReset);
        let session = Session { worker: &self.worker, client: &self.client, tls: self.tls.as_ref() };
        let fault = Fault::new(0, FaultReason::RapidReset, "too many streams were reset");
        Refusal::of(&fault, Instant::now(), Protocol::Http2).tell(&session);
    }
}

/// Serves the connection until it ends.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    transport: Transport,
    client: ClientIdentity,
    tls: Option<TlsSession>,
    registration: Registration,
) {
    let limits = &worker.settings.limits;
    let handshake = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(u32::try_from(limits.max_head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(64)
        .max_pending_accept_reset_streams(limits.max_resets as usize)
        .enable_connect_protocol()
        .handshake::<_, Bytes>(transport);
    let deadline = tokio::time::Instant::from_std(Instant::now() + worker.settings.timeouts.handshake);
    let Ok(Ok(connection)) = tokio::time::timeout_at(deadline, handshake).await else {
        return;
    };
    let common = Rc::new(Common {
        worker,
        client,
        tls,
        active: Cell::new(0),
        resets: Cell::new(0),
        last_end: Cell::new(Instant::now()),
    });
    drive(connection, &common, &registration).await;
}

/// Accepts streams, and lets the connection read and write, which is what polling for streams does.
async fn drive(mut connection: Connection<Transport, Bytes>, common: &Rc<Common>, registration: &Registration) {
    let worker = &common.worker;
    let mut watchdog = Watchdog::default();
    let mut leaving = false;
    loop {
        let accepted = poll_fn(|cx| {
            registration.wake_on_drain(cx.waker());
            if worker.is_draining() && !leaving {
                leaving = true;
                connection.graceful_shutdown();
            }
            if let Poll::Ready(accepted) = connection.poll_accept(cx) {
                return Poll::Ready(accepted);
            }
            let idle_until = common.last_end.get() + worker.settings.timeouts.idle;
            if !leaving && common.active.get() == 0 && watchdog.poll_expired(cx, idle_until).is_ready() {
                worker.metrics.limit(LimitName::IdleTimeout);
                leaving = true;
                connection.graceful_shutdown();
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
        match accepted {
            Some(Ok((request, respond))) => {
                common.active.set(common.active.get() + 1);
                tokio::task::spawn_local(serve_stream(Rc::clone(common), request, respond));
            }
            Some(Err(error)) => {
                if error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) {
                    common.tell_of_rapid_reset();
                }
                tracing::debug!(peer = %common.client.peer, %error, "HTTP/2 connection ended");
                return;
            }
            None => return,
        }
        if common.resets.get() > worker.settings.limits.max_resets {
            common.tell_of_rapid_reset();
            tracing::info!(peer = %common.client.peer, reason = "rapid_reset", "HTTP/2 connection closed");
            connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
        }
    }
}

/// Counts a stream out again, however it ends.
struct Active(Rc<Common>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
        self.0.last_end.set(Instant::now());
    }
}

async fn serve_stream(common: Rc<Common>, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    let started = Instant::now();
    let active = Active(common);
    let common = &active.0;
    let worker = &common.worker;
    let session = Session { worker, client: &common.client, tls: common.tls.as_ref() };
    let mut heads = worker.take_heads();
    let mut watchdog = Watchdog::default();
    let read = read_head(&request, &mut heads.request, &worker.request_limits, || websocket_key(worker));
    let body = request.into_body();
    let replayable = heads.request.is_idempotent() && !body.is_end_stream();
    let mut stream = Http2Downstream::new(respond, body, replayable);
    let admitted = match read {
        Ok(None) => Ok(None),
        Ok(Some(protocol)) if &*protocol == "websocket" => Ok(Some(UpgradeKind::WebSocketHttp2)),
        // RFC 9220 section 3. No other protocol can be had from an HTTP/1.1 backend by what is known of it here.
        Ok(Some(protocol)) => {
            Err(Fault::new(501, FaultReason::UpgradeRefused, format!("extended CONNECT for {protocol:?}")))
        }
        Err(error) => Err(Fault::head(&error, &worker.metrics)),
    };
    let ended = match admitted {
        Ok(upgrade) => {
            let ask = Ask { started, upgrade, close: false };
            exchange::exchange(&session, ask, &mut stream, &mut heads, &mut watchdog).await.0
        }
        Err(fault) => {
            worker.metrics.fault(fault.reason);
            tracing::info!(peer = %common.client.peer, reason = fault.reason.as_str(), detail = fault.detail, "request refused");
            heads.request.clear();
            let ask = Ask { started, upgrade: None, close: false };
            let id = SmallText::default();
            let ended = answer_fault(&session, &ask, &fault, &id, &mut stream, &mut heads, &mut watchdog).await;
            let response = (ended != Ended::Cut).then_some(&heads.response);
            Refusal { response, ..Refusal::of(&fault, started, Protocol::Http2) }.tell(&session);
            ended
        }
    };
    worker.give_heads(heads);
    settle(common, &mut stream, ended);
}

/// Leaves nothing of a stream open, and keeps the account of resets.
fn settle(common: &Common, stream: &mut Http2Downstream, ended: Ended) {
    let answered = ended != Ended::Cut && stream.is_answered();
    if answered {
        // If the client still sends, the h2 crate says NO_ERROR once the answer has left (RFC 9113 section 8.1); a
        // reset by us would take what is still queued with it.
        common.resets.set(common.resets.get().saturating_sub(1));
        return;
    }
    // An answer that broke off at the backend is not the client's doing.
    if stream.poll_gone(&mut Context::from_waker(Waker::noop())).is_ready() {
        common.resets.set(common.resets.get().saturating_add(1));
    }
    stream.reset(h2::Reason::INTERNAL_ERROR);
}

/// The key that the handshake of HTTP/1.1 needs and extended CONNECT does not have: 16 random bytes in base64.
fn websocket_key(worker: &Worker) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = (u128::from(worker.random()) << 64) | u128::from(worker.random());
    let mut key = String::with_capacity(24);
    for group in 0..21 {
        key.push(char::from(ALPHABET[((bits >> (122 - 6 * group)) & 63) as usize]));
    }
    key.push(char::from(ALPHABET[((bits & 3) << 4) as usize]));
    key.push_str("==");
    key
}
