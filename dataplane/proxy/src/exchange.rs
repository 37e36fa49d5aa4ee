//! One request, start to finish: which route, which backend, which endpoint, what is sent, what comes back.
//!
//! ```text
//! request head ─► decide ─► pick endpoint ─► connection ─► send head, relay bodies ─► response
//!                   │            ▲               │                  │
//!                   ▼            └── next try ◄──┴── failed ◄───────┘  (before the first byte of a response)
//!                 fault ─► the gateway's own answer
//! ```

use crate::answer::{answer_fault, redirect_with_slash};
use crate::balance::{PickContext, hash_key};
use crate::connect::ConnectError;
use crate::endpoint::{EndpointState, Failure as EndpointFailure};
use crate::fault::Fault;
use crate::headers::{self, ClientIdentity, Forwarding, SmallText};
use crate::http1_stream::Http1Io;
use crate::peer::{Downstream, Peer, PeerError, Upstream};
use crate::pool::UpstreamBackend;
use crate::record::{Attempt, Record};
use crate::relay::{Break, Pace, Relay, Waiting};
use crate::request_line;
use crate::tls::TlsSession;
use crate::trace::Propagation;
use crate::upstream_http2::Http2Upstream;
use crate::watchdog::Watchdog;
use crate::worker::{Heads, Worker};
use sluicegate_config::{Balance, HashKey, Redirect};
use sluicegate_http1::{FieldName, Framing, RequestHead, Version, canonical_reason};
use sluicegate_route::{BackendSlot, CompiledRoute, Outcome, RouteId, RouteTable, Target};
use sluicegate_telemetry::{FaultReason, LimitName, UpgradeKind, UpstreamError};
use smallvec::SmallVec;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Instant;

/// The connection that a request came on.
pub(crate) struct Session<'a> {
    pub(crate) worker: &'a Rc<Worker>,
    pub(crate) client: &'a ClientIdentity,
    pub(crate) tls: Option<&'a TlsSession>,
}

/// What a request asks for besides its head.
pub(crate) struct Ask {
    /// When its first byte was read.
    pub(crate) started: Instant,
    /// The protocol to upgrade to, where the request asks for one that crosses the proxy.
    pub(crate) upgrade: Option<UpgradeKind>,
    /// The client ends the connection after this request, or the gateway does.
    pub(crate) close: bool,
}

/// How the connection stands after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Answered; more requests may follow if the body was read to its end.
    Answered { close: bool },
    /// The response is incomplete, or there was none: the connection must be cut.
    Cut,
}

/// Serves one request whose head is in `heads`. Returns how it ended, and when.
pub(crate) async fn exchange<D: Downstream>(
    session: &Session<'_>,
    ask: Ask,
    downstream: &mut D,
    heads: &mut Heads,
    watchdog: &mut Watchdog,
) -> (Ended, Instant) {
    let worker = session.worker;
    let mut record = Record::new(ask.started);
    worker.earn_retry();
    let mut request_id = SmallText::default();
    write_request_id(&mut request_id, &heads.request, worker);
    let table = worker.table();
    let decision = decide(session, &table, &heads.request);
    let policy = decision.as_ref().ok().map(|route| &table.route(*route).policy.trace);
    heads.trace.begin(&heads.request, worker, session.client.trust, policy);
    let mut attempt = Attempts { session, ask: &ask, request_id: &request_id, record: &mut record };
    let ended = match attempt.serve(&table, decision, downstream, heads, watchdog).await {
        Ok(ended) => ended,
        Err(Failure::Cut(reason, detail)) => {
            report(worker, heads, reason, &detail, &request_id);
            record.ended = None;
            record.fault = Some((reason, detail));
            Ended::Cut
        }
        Err(Failure::Fault(fault)) => {
            report(worker, heads, fault.reason, &fault.detail, &request_id);
            record.status = fault.status;
            record.ended = None;
            let ended = if fault.status == 499 {
                Ended::Cut
            } else {
                answer_fault(session, &ask, &fault, &request_id, downstream, heads, watchdog).await
            };
            record.has_answered = ended != Ended::Cut;
            record.fault = Some((fault.reason, fault.detail));
            ended
        }
    };
    (ended, record.finish(session, &table, heads, &request_id))
}

/// Which route takes the request, or why none does.
fn decide(session: &Session<'_>, table: &RouteTable, request: &RequestHead) -> Result<RouteId, Fault> {
    if matches!(request.method(), b"CONNECT" | b"TRACE") {
        return Err(Fault::new(405, FaultReason::MethodNotAllowed, "CONNECT and TRACE are not served"));
    }
    if let Some(tls) = session.tls
        && tls.is_misdirected(table, request.host())
    {
        return Err(Fault::new(421, FaultReason::Misdirected, "SNI and Host have different TLS settings"));
    }
    let path = request.path();
    match table.find(request.authority(), if path == b"*" { b"/" } else { path }) {
        Outcome::Route(id) => Ok(id),
        Outcome::NoHost => Err(Fault::new(404, FaultReason::NoRoute, "no Ingress claims the host")),
        Outcome::NoPath => Err(Fault::new(404, FaultReason::NoRoute, "no path of the host matches")),
        Outcome::BadPath => Err(Fault::new(400, FaultReason::BadRequest, "path")),
    }
}

/// Why a request was not served in full.
enum Failure {
    /// Nothing was sent yet: it is answered.
    Fault(Fault),
    /// The response had begun: all that is left is to cut it.
    Cut(FaultReason, String),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

fn report(worker: &Worker, heads: &Heads, reason: FaultReason, detail: &str, request_id: &SmallText) {
    worker.metrics.fault(reason);
    tracing::info!(
        reason = reason.as_str(),
        detail,
        method = %String::from_utf8_lossy(heads.request.method()),
        host = %String::from_utf8_lossy(heads.request.authority()),
        path = %String::from_utf8_lossy(heads.request.path()),
        request_id = %String::from_utf8_lossy(&request_id.0),
        trace_id = heads.trace.trace().map(|trace| tracing::field::display(trace.trace_id)),
        "request failed"
    );
}

fn write_request_id(out: &mut SmallText, request: &RequestHead, worker: &Worker) {
    match request.field(FieldName::XRequestId) {
        Some(id) if headers::is_request_id(id) => out.0.extend_from_slice(id),
        _ => {
            let id = u128::from(worker.random()) << 64 | u128::from(worker.random());
            let mut text = [0; 32];
            for (byte, digits) in id.to_be_bytes().into_iter().zip(text.as_chunks_mut::<2>().0) {
                *digits = [byte >> 4, byte & 0xf].map(|digit| b"0123456789abcdef"[usize::from(digit)]);
            }
            out.0.extend_from_slice(&text);
        }
    }
}

/// A request that is being tried.
struct Attempts<'a> {
    session: &'a Session<'a>,
    ask: &'a Ask,
    request_id: &'a SmallText,
    record: &'a mut Record,
}

/// One try that came to nothing.
struct TryFailed {
    cause: TryCause,
    /// A byte of a response arrived, or the head was passed on: the request cannot be sent again.
    answered: bool,
    head_sent: bool,
    /// The connection had carried requests before.
    reused: bool,
}

enum TryCause {
    Connect(ConnectError),
    Broke(Break),
}

impl TryFailed {
    /// How it is told; `None` where it is not the endpoint that failed.
    fn told(&self) -> Option<UpstreamError> {
        match &self.cause {
            TryCause::Connect(error) => Some(UpstreamError::from_label(error.reason())),
            TryCause::Broke(Break::Upstream(_)) if self.reused && !self.answered => Some(UpstreamError::Stale),
            TryCause::Broke(Break::Upstream(PeerError::Closed | PeerError::Io(_) | PeerError::Http2(_))) => {
                Some(UpstreamError::Reset)
            }
            TryCause::Broke(Break::Upstream(_)) => Some(UpstreamError::BadResponse),
            TryCause::Broke(Break::TimedOut(Waiting::UpstreamRead | Waiting::Tunnel)) => {
                Some(UpstreamError::ReadTimeout)
            }
            TryCause::Broke(Break::TimedOut(Waiting::UpstreamSend)) => Some(UpstreamError::SendTimeout),
            TryCause::Broke(_) => None,
        }
    }
}

impl Attempts<'_> {
    async fn serve<D: Downstream>(
        &mut self,
        table: &RouteTable,
        decision: Result<RouteId, Fault>,
        downstream: &mut D,
        heads: &mut Heads,
        watchdog: &mut Watchdog,
    ) -> Result<Ended, Failure> {
        let worker = self.session.worker;
        let route_id = decision?;
        self.record.route = Some(route_id);
        let route = table.route(route_id);
        let slot = match &route.target {
            Target::Forward(slot) => *slot,
            Target::Redirect(Redirect::AppendSlash) => {
                self.record.status = 301;
                self.record.has_answered = true;
                return Ok(redirect_with_slash(self.session, route, self.ask, downstream, heads, watchdog).await);
            }
            Target::Deny(reason) => {
                return Err(Fault::new(503, FaultReason::RouteNotServed, reason.to_string()).into());
            }
        };
        let max_body = route.policy.max_body.unwrap_or(worker.settings.limits.max_body_bytes);
        if let Framing::Length(length) = heads.request.framing()
            && max_body != 0
            && length > max_body
        {
            return Err(Fault::body_too_large(&worker.metrics).into());
        }
        worker.metrics.backend(slot.index() as u32).started();
        let result = self.forward(table, route, slot, max_body, downstream, heads, watchdog).await;
        worker.metrics.backend(slot.index() as u32).finished(result.as_ref().is_err_and(is_backends_fault));
        result
    }

    /// Tries endpoints until one answers, or none is left, or the request cannot be repeated.
    #[allow(clippy::too_many_arguments, reason = "one call site; the pieces have different lifetimes")]
    async fn forward<D: Downstream>(
        &mut self,
        table: &RouteTable,
        route: &CompiledRoute,
        slot: BackendSlot,
        max_body: u64,
        downstream: &mut D,
        heads: &mut Heads,
        watchdog: &mut Watchdog,
    ) -> Result<Ended, Failure> {
        let worker = self.session.worker;
        let Some(slotted) = table.backend(slot) else {
            return Err(Fault::new(503, FaultReason::NoEndpoints, "the route's backend is gone").into());
        };
        let backend = worker.upstreams.backend(slotted);
        let mut begun = Instant::now();
        if !backend.is_ready(begun) {
            let resolved = backend.ready(begun).await;
            resolved.map_err(|error| Fault::new(503, FaultReason::UpstreamResolve, error.to_string()))?;
            begun = Instant::now();
        }
        let mut tried = SmallVec::<[SocketAddr; 4]>::new();
        let hash = self.hash(&slotted.backend.id.balance, &heads.request);
        let mut fresh = false;
        let mut tries = 0;
        let mut last = None;
        loop {
            let context = PickContext { hash, tried: &tried, now: begun, random: worker.random() };
            let Some(endpoint) = backend.pick(context) else {
                // All were tried: why the last of them failed says more than that none is left.
                if let Some(failed) = last {
                    return Err(self.failure(failed));
                }
                worker.metrics.upstream_error(UpstreamError::NoEndpoints);
                let why = slotted.backend.unavailable.as_deref().unwrap_or("no endpoint is ready");
                return Err(Fault::new(503, FaultReason::NoEndpoints, why).into());
            };
            let (pace, has_body) = (self.pace(route), self.has_body(&heads.request));
            let mut relay = Relay::new(watchdog, pace, max_body, worker.response_limits, has_body, begun);
            self.record.attempt = Attempt::default();
            let was_ejected = endpoint.is_ejected(begun);
            let outcome = if backend.protocol().is_http2() {
                self.over_http2(&backend, &endpoint, route, downstream, heads, &mut relay).await
            } else {
                self.over_http1(&backend, &endpoint, fresh, route, downstream, heads, &mut relay).await
            };
            (self.record.bytes_in, self.record.bytes_out) = (relay.bytes_in, relay.bytes_out);
            let ended = relay.now();
            self.record.ended = Some(ended);
            if worker.sink.is_some() {
                let error = outcome.as_ref().err().and_then(TryFailed::told);
                heads.tries.push(self.record.attempt.told(
                    (begun, ended),
                    &endpoint,
                    backend.protocol(),
                    error,
                    relay.bytes_out,
                ));
            }
            let failed = match outcome {
                Ok(ended) => return Ok(ended),
                Err(failed) => failed,
            };
            tries += 1;
            self.blame(&endpoint, &failed);
            if !was_ejected && endpoint.is_ejected(ended) {
                worker.metrics.ejection();
            }
            if self.may_try_again(&failed, tries, downstream, &heads.request) {
                // The endpoint closed a connection that was there; that says nothing about a new one. On HTTP/2 the
                // next try could meet the same dying connection again, so another endpoint has it if there is one.
                let elsewhere = backend.protocol().is_http2() && tried.len() + 1 < backend.endpoint_count();
                fresh = failed.reused;
                if !failed.reused || elsewhere {
                    tried.push(endpoint.address());
                }
                worker.metrics.retry();
                last = Some(failed);
                begun = ended;
                continue;
            }
            return Err(self.failure(failed));
        }
    }

    fn has_body(&self, request: &RequestHead) -> bool {
        request.framing() != Framing::None && !(self.ask.upgrade.is_some() && request.version() == Version::Http2)
    }

    fn pace(&self, route: &CompiledRoute) -> Pace {
        let timeouts = &self.session.worker.settings.timeouts;
        Pace {
            request_body: timeouts.request_body,
            client_write: timeouts.client_write,
            upstream_read: route.policy.read_timeout.unwrap_or(timeouts.upstream_read),
            upstream_send: route.policy.send_timeout.unwrap_or(timeouts.upstream_send),
            tunnel: route.policy.read_timeout.unwrap_or(timeouts.upgraded_idle),
        }
    }

    /// Tells the endpoint's health what happened, where it is the endpoint that failed.
    fn blame(&self, endpoint: &Rc<EndpointState>, failed: &TryFailed) {
        let metrics = &self.session.worker.metrics;
        match &failed.cause {
            TryCause::Connect(error) => {
                metrics.upstream_error(UpstreamError::from_label(error.reason()));
                // The pool has told the endpoint.
            }
            TryCause::Broke(Break::Upstream(_)) if failed.reused && !failed.answered => {
                metrics.upstream_error(UpstreamError::Stale);
            }
            TryCause::Broke(Break::Upstream(PeerError::Head(_) | PeerError::Body(_))) => {
                metrics.upstream_error(UpstreamError::BadResponse);
                endpoint.failed(EndpointFailure::Protocol, Instant::now());
            }
            // It answered; that it knows no such upgrade here is no fault of it.
            TryCause::Broke(Break::Upstream(PeerError::NotUpgraded)) => {}
            TryCause::Broke(Break::Upstream(error)) => {
                let overflow = matches!(error, PeerError::Overflow);
                metrics.upstream_error(if overflow { UpstreamError::BadResponse } else { UpstreamError::Reset });
                endpoint.failed(EndpointFailure::Reset, Instant::now());
            }
            TryCause::Broke(Break::TimedOut(Waiting::UpstreamRead)) => {
                endpoint.failed(EndpointFailure::Timeout, Instant::now());
            }
            TryCause::Broke(_) => {}
        }
    }

    /// RFC 9110 section 9.2.2: a request is repeated by itself only if it is idempotent, or if it surely was not processed.
    fn may_try_again<D: Downstream>(
        &self,
        failed: &TryFailed,
        tries: u32,
        downstream: &mut D,
        request: &RequestHead,
    ) -> bool {
        let worker = self.session.worker;
        if failed.answered || failed.head_sent || tries >= worker.settings.limits.max_tries {
            return false;
        }
        match &failed.cause {
            TryCause::Connect(error) => error.is_retryable(),
            TryCause::Broke(Break::Upstream(error)) => {
                let unprocessed = matches!(error, PeerError::Http2(error) if is_unprocessed(error));
                if !(unprocessed || request.is_idempotent()) || !downstream.rewind() {
                    return false;
                }
                let granted = worker.spend_retry();
                if !granted {
                    worker.metrics.limit(LimitName::RetryBudget);
                }
                granted
            }
            TryCause::Broke(_) => false,
        }
    }

    fn failure(&self, failed: TryFailed) -> Failure {
        let metrics = &self.session.worker.metrics;
        match failed.cause {
            TryCause::Connect(error) => {
                if matches!(error, ConnectError::Timeout) {
                    metrics.limit(LimitName::ConnectTimeout);
                }
                let (status, reason) = connect_fault(&error);
                Failure::Fault(Fault::new(status, reason, error.to_string()))
            }
            TryCause::Broke(cause) => {
                let fault = Fault::broken(cause, metrics);
                if failed.head_sent { Failure::Cut(fault.reason, fault.detail) } else { Failure::Fault(fault) }
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one call site; the pieces have different lifetimes")]
    async fn over_http1<D: Downstream>(
        &mut self,
        backend: &Rc<UpstreamBackend>,
        endpoint: &Rc<EndpointState>,
        fresh: bool,
        route: &CompiledRoute,
        downstream: &mut D,
        heads: &mut Heads,
        relay: &mut Relay<'_>,
    ) -> Result<Ended, TryFailed> {
        let worker = self.session.worker;
        let timeout = route.policy.connect_timeout.unwrap_or(worker.settings.timeouts.connect);
        let lease = match fresh {
            false => backend.checkout(endpoint, relay.now(), timeout).await,
            true => backend.checkout_new(endpoint, timeout).await,
        };
        let lease = lease.map_err(not_connected)?;
        let reused = lease.reused;
        self.record.attempt.reused = reused;
        self.record.attempt.handshake = lease.handshake;
        if reused {
            worker.metrics.upstream_reused();
        } else {
            relay.waited();
        }
        let mut upstream = Http1Io::new(lease, Rc::clone(&worker.buffers));
        if downstream.plain_socket().is_some() && upstream.plain_socket().is_some() {
            upstream.expect_splice();
        }
        let authority = authority_text(&heads.request, endpoint.address());
        self.record.attempt.span_id = heads.trace.begin_try(worker);
        let forwarding = self.forwarding(&heads.trace);
        request_line::write(&mut upstream, &heads.request, route, &authority, &forwarding, self.ask.upgrade.is_some());
        let result = self.converse(downstream, &mut upstream, heads, relay, endpoint).await;
        let answered = upstream.has_answered();
        match result {
            Ok((ended, complete)) => {
                let clean = complete && upstream.read_complete() && upstream.rbuf.is_empty() && upstream.out.is_empty();
                let keep = clean && heads.response.keep_alive() && heads.response.status() != 101;
                upstream.discard();
                if keep {
                    upstream.owner.put_back_at(relay.now());
                }
                Ok(ended)
            }
            Err((cause, head_sent)) => {
                upstream.discard();
                Err(TryFailed { cause: TryCause::Broke(cause), answered, head_sent, reused })
            }
        }
    }

    async fn over_http2<D: Downstream>(
        &mut self,
        backend: &Rc<UpstreamBackend>,
        endpoint: &Rc<EndpointState>,
        route: &CompiledRoute,
        downstream: &mut D,
        heads: &mut Heads,
        relay: &mut Relay<'_>,
    ) -> Result<Ended, TryFailed> {
        let worker = self.session.worker;
        let timeout = route.policy.connect_timeout.unwrap_or(worker.settings.timeouts.connect);
        let begun = relay.now();
        let lease = backend.http2(endpoint, begun, timeout).await.map_err(not_connected)?;
        if lease.reused {
            worker.metrics.upstream_reused();
        } else {
            relay.waited();
        }
        self.record.attempt.reused = lease.reused;
        if let Some(handshake) = lease.handshake {
            self.record.attempt.waited_for(handshake, relay.now().duration_since(begun));
        }
        let authority = authority_text(&heads.request, endpoint.address());
        self.record.attempt.span_id = heads.trace.begin_try(worker);
        let forwarding = self.forwarding(&heads.trace);
        let tls = backend.protocol().is_tls();
        let opened =
            request_line::open_http2(lease.sender.clone(), &heads.request, route, &authority, &forwarding, tls);
        let mut upstream: Http2Upstream = opened.map_err(|error| TryFailed {
            cause: TryCause::Broke(match error {
                PeerError::Head(_) => Break::Client(error),
                error => Break::Upstream(error),
            }),
            answered: false,
            head_sent: false,
            reused: false,
        })?;
        if heads.request.expects_continue() {
            heads.response.clear();
            // A head without fields is always good.
            let _ = heads.response.begin(Version::Http11, 100, canonical_reason(100).as_bytes());
            let _ = heads.response.finish(&worker.response_limits);
            downstream.send_interim(&heads.response);
        }
        let result = self.converse(downstream, &mut upstream, heads, relay, endpoint).await;
        match result {
            Ok((ended, complete)) => {
                if !complete {
                    upstream.cancel();
                }
                Ok(ended)
            }
            Err((cause, head_sent)) => {
                let answered = upstream.has_answered();
                upstream.cancel();
                if matches!(cause, Break::TimedOut(Waiting::UpstreamRead)) {
                    lease.timed_out();
                }
                Err(TryFailed { cause: TryCause::Broke(cause), answered, head_sent, reused: lease.reused })
            }
        }
    }

    /// Sends what is queued, reads the answer, passes it on. `Ok` tells whether the request was sent to its end; `Err`
    /// whether the client has the head already.
    async fn converse<D: Downstream, U: Upstream>(
        &mut self,
        downstream: &mut D,
        upstream: &mut U,
        heads: &mut Heads,
        relay: &mut Relay<'_>,
        endpoint: &Rc<EndpointState>,
    ) -> Result<(Ended, bool), (Break, bool)> {
        let worker = self.session.worker;
        let begun = relay.now();
        let Heads { request, response, .. } = heads;
        relay.head(downstream, upstream, request, response).await.map_err(|cause| (cause, false))?;
        let now = relay.now();
        let first_byte = now.duration_since(begun);
        endpoint.succeeded(first_byte, now);
        self.record.attempt.answered(response.status(), first_byte);
        self.record.upstream = Some(first_byte);
        let switching = response.status() == 101;
        if switching && self.ask.upgrade.is_none() {
            return Err((Break::Upstream(PeerError::Overflow), false));
        }
        // RFC 8441 section 5: to the client of an extended CONNECT any 2xx means that the tunnel is open.
        let is_open = (200..300).contains(&response.status());
        if is_open && self.ask.upgrade.is_some() && request.version() == Version::Http2 {
            return Err((Break::Upstream(PeerError::NotUpgraded), false));
        }
        self.record.status = response.status();
        if response.field(FieldName::Date).is_none() && !switching {
            // The date is ours and valid.
            let _ = response.push(b"date", &worker.date(now));
        }
        let close = self.ask.close || worker.is_draining();
        downstream.send_head(request, response, close).map_err(|error| (Break::Client(error), false))?;
        self.record.has_answered = true;
        if switching {
            let kind = self.ask.upgrade.unwrap_or(UpgradeKind::Other);
            worker.metrics.upgrade_opened(kind);
            relay.enter_tunnel(downstream, upstream);
            let result = relay.body(downstream, upstream).await;
            worker.metrics.upgrade_closed(kind, relay.bytes_in, relay.bytes_out);
            // However a tunnel ends, it is over for both sides; that is not a fault of the exchange.
            return Ok((if result.is_ok() { Ended::Answered { close: true } } else { Ended::Cut }, false));
        }
        let complete = relay.body(downstream, upstream).await.map_err(|cause| (cause, true))?;
        if worker.sink.is_some() {
            self.record.read_trailers(response, upstream.trailers());
        }
        Ok((Ended::Answered { close }, complete))
    }

    fn forwarding<'a>(&'a self, trace: &'a Propagation) -> Forwarding<'a> {
        Forwarding {
            client: self.session.client,
            trusted: &self.session.worker.settings.trusted,
            request_id: &self.request_id.0,
            forwarded: self.session.worker.settings.forwarded,
            trace,
        }
    }

    /// What the request is kept together by under consistent hashing; `None` if it does not carry it.
    fn hash(&self, balance: &Balance, request: &RequestHead) -> Option<u64> {
        let Balance::ConsistentHash(key) = balance else {
            return None;
        };
        match key {
            HashKey::ClientAddress => {
                let trusted = &self.session.worker.settings.trusted;
                Some(hash_address(headers::client_address(request, self.session.client, trusted)))
            }
            HashKey::RequestUri => Some(hash_key(request.path_and_query())),
            HashKey::Host => Some(hash_key(&request.host().to_ascii_lowercase())),
            HashKey::Header(name) => request.field_by_name(name.as_bytes()).map(hash_key),
            HashKey::Cookie(name) => headers::cookie(request, name.as_bytes()).map(hash_key),
        }
    }
}

/// The key of a client's address, the same for requests and for opaque streams.
pub(crate) fn hash_address(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => hash_key(&address.octets()),
        IpAddr::V6(address) => hash_key(&address.octets()),
    }
}

fn not_connected(error: ConnectError) -> TryFailed {
    TryFailed { cause: TryCause::Connect(error), answered: false, head_sent: false, reused: false }
}

/// `Host` for the backend: as the client sent it, or the endpoint's address where an HTTP/1.0 client sent none.
fn authority_text(request: &RequestHead, endpoint: SocketAddr) -> SmallText {
    let mut text = SmallText::default();
    if request.authority().is_empty() {
        // Writing into a SmallText cannot fail.
        let _ = write!(text, "{endpoint}");
    } else {
        text.0.extend_from_slice(request.authority());
    }
    text
}

/// RFC 9113 section 8.7: the peer says that it did nothing with the request.
fn is_unprocessed(error: &h2::Error) -> bool {
    error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM)
}

fn is_backends_fault(failure: &Failure) -> bool {
    let reason = match failure {
        Failure::Fault(fault) => fault.reason,
        Failure::Cut(reason, _) => *reason,
    };
    !matches!(
        reason,
        FaultReason::ClientClosed
            | FaultReason::ClientSendTimeout
            | FaultReason::RequestTimeout
            | FaultReason::BodyTooLarge
            | FaultReason::BadRequest
    )
}

fn connect_fault(error: &ConnectError) -> (u16, FaultReason) {
    match error {
        ConnectError::Timeout => (504, FaultReason::ConnectTimeout),
        ConnectError::Refused => (502, FaultReason::ConnectRefused),
        ConnectError::Reset => (502, FaultReason::UpstreamReset),
        ConnectError::Tls(_) => (502, FaultReason::UpstreamTls),
        ConnectError::Http2(_) => (502, FaultReason::UpstreamBadResponse),
        ConnectError::Unreachable | ConnectError::Io(_) => (502, FaultReason::ConnectUnreachable),
        ConnectError::Resolve(_) => (503, FaultReason::UpstreamResolve),
        ConnectError::NoEndpoints | ConnectError::EndpointRemoved => (503, FaultReason::NoEndpoints),
        ConnectError::Overloaded | ConnectError::TooManyFiles | ConnectError::NoLocalPort => {
            (503, FaultReason::Overloaded)
        }
    }
}
