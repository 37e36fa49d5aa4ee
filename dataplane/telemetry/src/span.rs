//! Spans out of finished requests: one SERVER span for the request and one CLIENT span for each try, by OpenTelemetry's
//! conventions for HTTP and gRPC, with what Kubernetes and the gateway know of them. It sends nothing: what is written
//! here waits in a bounded queue ([`SpanQueue`]) for whoever does.
//!
//! ```text
//! worker: FinishedRequest ─► SpanSink ─► write ─► SpanRecord ─► SpanQueue ─► exporter (a thread of its own)
//!                             (recorded?) (OTLP's bytes)         (full: dropped and counted)
//! ```
//!
//! A worker writes a span once, as the bytes that go over the wire, and never waits. What is not recorded costs a look at
//! the trace's decision.

mod fragments;
mod queue;
mod sink;
mod wire;

pub use queue::{DropReason, ExportCounts, ExportFailure, SpanQueue, SpanRecord};
pub use sink::SpanSinks;
pub use wire::MAX_TEXT;

use crate::labels::{FaultReason, MethodLabel, Protocol, UpstreamError};
use crate::redact;
use crate::request::{FinishedRequest, RouteTaken, Try};
use fragments::{Calling, Fragments, Serving};
use sluicegate_trace::Trace;
use std::borrow::Cow;
use std::time::{Duration, Instant, SystemTime};
use wire::{Heading, Kind, SpanWriter, keys};

/// The version of OpenTelemetry's conventions that names and values follow.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.34.0";

/// Spans that one request may become; of the tries beyond, the last is kept.
pub const MAX_SPANS: usize = 16;

keys! {
    METHOD = "http.request.method";
    METHOD_ORIGINAL = "http.request.method_original";
    URL_SCHEME = "url.scheme";
    URL_PATH = "url.path";
    URL_QUERY = "url.query";
    URL_FULL = "url.full";
    ROUTE = "http.route";
    STATUS_CODE = "http.response.status_code";
    RESEND_COUNT = "http.request.resend_count";
    REQUEST_BODY = "http.request.body.size";
    RESPONSE_BODY = "http.response.body.size";
    SERVER_ADDRESS = "server.address";
    SERVER_PORT = "server.port";
    CLIENT_ADDRESS = "client.address";
    PEER_ADDRESS = "network.peer.address";
    PEER_PORT = "network.peer.port";
    PROTOCOL_VERSION = "network.protocol.version";
    USER_AGENT = "user_agent.original";
    ERROR_TYPE = "error.type";
    TLS_VERSION = "tls.protocol.version";
    TLS_SERVER_NAME = "tls.client.server_name";
    RPC_SYSTEM = "rpc.system";
    RPC_SERVICE = "rpc.service";
    RPC_METHOD = "rpc.method";
    RPC_STATUS = "rpc.grpc.status_code";
    NAMESPACE = "k8s.namespace.name";
    INGRESS = "k8s.ingress.name";
    SERVICE = "k8s.service.name";
    POD = "k8s.pod.name";
    NODE = "k8s.node.name";
    SERVICE_PORT = "sluicegate.service.port";
    REQUEST_ID = "sluicegate.request.id";
    FAULT = "sluicegate.fault.reason";
    RETRY_REASON = "sluicegate.retry.reason";
    REUSED = "sluicegate.connection.reused";
    QUEUED = "sluicegate.queue.duration";
    CONNECT = "sluicegate.connect.duration";
    TLS = "sluicegate.tls.duration";
    FIRST_BYTE = "sluicegate.first_byte.duration";
}

/// Whether a request becomes spans.
pub fn is_recorded(request: &FinishedRequest<'_>) -> bool {
    request.trace.is_some_and(|trace| trace.sampled) && !request.is_probe
}

/// Writes spans, and remembers what many of them have in common. One belongs to one worker.
#[derive(Default)]
pub struct Spans {
    serving: Fragments<Serving>,
    calling: Fragments<Calling>,
}

impl Spans {
    /// Writes the spans of a request behind what is in the buffer, as fields `spans` of OTLP's `ScopeSpans`, and says how
    /// many they are: none where the request is not recorded. `now` is the time of day at which it ended.
    pub fn write(&mut self, request: &FinishedRequest<'_>, now: SystemTime, out: &mut Vec<u8>) -> usize {
        let Some(trace) = request.trace.filter(|_| is_recorded(request)) else { return 0 };
        let clock = Clock { ended: request.ended, now: nanoseconds(now) };
        let call = Call::of(request);
        server_span(&mut self.serving, request, trace, &call, clock, out);
        let count = request.tries.len();
        // Of too many the first and the last are kept: how it began, and how it ended.
        let skipped = (count + 1).saturating_sub(MAX_SPANS);
        let kept = (0..count).filter(|place| place + skipped + 1 < count || place + 1 == count);
        1 + kept.filter(|place| client_span(&mut self.calling, request, trace, &call, clock, *place, out)).count()
    }
}

/// What the spans of a request share.
struct Call<'a> {
    method: &'a str,
    scheme: &'a str,
    path: Cow<'a, str>,
    query: Option<Cow<'a, [u8]>>,
    /// gRPC's service and method.
    rpc: Option<(&'a str, &'a str)>,
}

impl<'a> Call<'a> {
    fn of(request: &FinishedRequest<'a>) -> Self {
        let content_type = match request.method_label {
            // gRPC knows no other method.
            MethodLabel::Post => request.request_fields.field("content-type"),
            _ => None,
        };
        let is_grpc = content_type.is_some_and(|value| value.starts_with(b"application/grpc"));
        let rpc =
            is_grpc.then(|| std::str::from_utf8(request.path).ok()?.strip_prefix('/')?.rsplit_once('/')).flatten();
        Self {
            method: match request.method_label {
                MethodLabel::Other => "_OTHER",
                known => known.as_str(),
            },
            scheme: if request.downstream.tls.is_some() { "https" } else { "http" },
            path: wire::readable(request.path),
            query: request.query.map(redact::query),
            rpc,
        }
    }
}

/// The span of the request as the client sees it.
fn server_span(
    fragments: &mut Fragments<Serving>,
    request: &FinishedRequest<'_>,
    trace: &Trace,
    call: &Call<'_>,
    clock: Clock,
    out: &mut Vec<u8>,
) {
    let mut span = SpanWriter::begin(
        out,
        &Heading {
            kind: Kind::Server,
            trace_id: trace.trace_id,
            span_id: trace.span_id,
            parent: trace.parent,
            parent_is_remote: trace.parent.is_some(),
            random: trace.random,
            start: clock.at(request.started),
            end: clock.now,
        },
    );
    let named = match call.method {
        "_OTHER" => "HTTP",
        method => method,
    };
    match (call.rpc, request.route) {
        (Some((service, method)), _) => span.name([service, "/", method]),
        (None, Some(route)) if !route.path.is_empty() => span.name([named, " ", route.path]),
        (None, _) => span.name([named]),
    }
    fragments.put(&mut span, &request, |span| common_to_server(span, request, call));
    if call.method == "_OTHER" && !request.method.is_empty() {
        span.bytes(METHOD_ORIGINAL, request.method);
    }
    span.text(URL_PATH, &call.path);
    if let Some(query) = &call.query {
        span.bytes(URL_QUERY, query);
    }
    peers(&mut span, request);
    rpc(&mut span, call, request);
    if let Some(agent) = request.request_fields.field("user-agent") {
        span.bytes(USER_AGENT, agent);
    }
    if !request.request_id.is_empty() {
        span.bytes(REQUEST_ID, request.request_id);
    }
    for (key, bytes) in [(REQUEST_BODY, request.bytes_in), (RESPONSE_BODY, request.bytes_out)] {
        if bytes > 0 {
            span.integer(key, bytes);
        }
    }
    server_outcome(&mut span, request);
    if let Some(link) = &trace.link {
        span.link(link);
    }
    span.finish();
}

/// What follows from the rule and the host: see [`Serving`].
fn common_to_server(span: &mut SpanWriter<'_>, request: &FinishedRequest<'_>, call: &Call<'_>) {
    span.text(METHOD, call.method);
    span.text(URL_SCHEME, call.scheme);
    span.text(PROTOCOL_VERSION, version(request.downstream.protocol));
    let (host, port) = host_and_port(request.authority);
    if !host.is_empty() {
        span.bytes(SERVER_ADDRESS, host);
        let by_scheme = if request.downstream.tls.is_some() { 443 } else { 80 };
        span.integer(SERVER_PORT, u64::from(port.unwrap_or(by_scheme)));
    }
    if let Some(route) = request.route {
        span.text(ROUTE, route.path);
        kubernetes(span, &route);
        span.text(INGRESS, route.ingress);
    }
}

/// Who spoke to the gateway.
fn peers(span: &mut SpanWriter<'_>, request: &FinishedRequest<'_>) {
    let downstream = &request.downstream;
    span.address(CLIENT_ADDRESS, downstream.client);
    span.address(PEER_ADDRESS, downstream.peer.ip());
    span.integer(PEER_PORT, u64::from(downstream.peer.port()));
    if let Some(tls) = &downstream.tls {
        span.text(TLS_VERSION, tls.version.as_str());
        if let Some(name) = tls.server_name {
            span.text(TLS_SERVER_NAME, name);
        }
    }
}

fn kubernetes(span: &mut SpanWriter<'_>, route: &RouteTaken<'_>) {
    span.text(NAMESPACE, route.namespace);
    if let Some((service, port)) = route.service {
        span.text(SERVICE, service);
        span.text(SERVICE_PORT, port);
    }
}

fn rpc(span: &mut SpanWriter<'_>, call: &Call<'_>, request: &FinishedRequest<'_>) {
    let Some((service, method)) = call.rpc else { return };
    span.text(RPC_SYSTEM, "grpc");
    span.text(RPC_SERVICE, service);
    span.text(RPC_METHOD, method);
    if let Some(status) = request.grpc_status {
        span.integer(RPC_STATUS, u64::from(status));
    }
}

/// A server's span is an error where the server is at fault: 5xx, a response that was cut, and the codes of gRPC that say
/// so. What the client did wrong is none.
fn server_outcome(span: &mut SpanWriter<'_>, request: &FinishedRequest<'_>) {
    // 499 is what logs say; it was not sent.
    let client_left = matches!(request.fault, Some((FaultReason::ClientClosed | FaultReason::ClientSendTimeout, _)));
    if request.status != 0 && request.status != 499 {
        span.integer(STATUS_CODE, u64::from(request.status));
    }
    if let Some((reason, _)) = request.fault {
        span.text(FAULT, reason.as_str());
    }
    let is_cut = request.fault.is_some() && !client_left && request.status < 400;
    if request.status >= 500 || is_cut {
        match request.fault {
            Some((reason, words)) => {
                span.text(ERROR_TYPE, reason.as_str());
                span.error(words);
            }
            None => {
                span.status(ERROR_TYPE, request.status);
                span.error("");
            }
        }
    } else if let Some(status) = request.grpc_status.filter(|status| matches!(status, 2 | 4 | 12 | 13 | 14 | 15)) {
        span.text(ERROR_TYPE, grpc_code(status));
        span.error("");
    }
}

/// The span of one try, as the gateway is the client of an endpoint; false where the endpoint was told of none.
fn client_span(
    fragments: &mut Fragments<Calling>,
    request: &FinishedRequest<'_>,
    trace: &Trace,
    call: &Call<'_>,
    clock: Clock,
    place: usize,
    out: &mut Vec<u8>,
) -> bool {
    let attempt = &request.tries[place];
    let Some(span_id) = attempt.span_id else { return false };
    let mut span = SpanWriter::begin(
        out,
        &Heading {
            kind: Kind::Client,
            trace_id: trace.trace_id,
            span_id,
            parent: Some(trace.span_id),
            parent_is_remote: false,
            random: trace.random,
            start: clock.at(attempt.started),
            end: clock.at(attempt.ended),
        },
    );
    match (call.rpc, call.method) {
        (Some((service, method)), _) => span.name([service, "/", method]),
        (None, "_OTHER") => span.name(["HTTP"]),
        (None, method) => span.name([method]),
    }
    fragments.put(&mut span, &(request, attempt), |span| common_to_client(span, request, call, attempt));
    url(&mut span, request, call, attempt);
    rpc(&mut span, call, request);
    if let Some(failed) = place.checked_sub(1).map(|before| &request.tries[before]) {
        span.integer(RESEND_COUNT, place as u64);
        if let Some(error) = failed.error {
            span.text(RETRY_REASON, error.as_str());
        }
    }
    timings(&mut span, attempt);
    client_outcome(&mut span, request, attempt, place + 1 == request.tries.len());
    span.finish();
    true
}

/// What follows from the rule and the endpoint: see [`Calling`].
fn common_to_client(span: &mut SpanWriter<'_>, request: &FinishedRequest<'_>, call: &Call<'_>, attempt: &Try) {
    span.text(METHOD, call.method);
    if let Some(route) = request.route {
        kubernetes(span, &route);
        if let Some((service, port)) = route.service {
            // The name of a Service within its cluster.
            span.joined(SERVER_ADDRESS, [service, ".", route.namespace]);
            let port = port.parse().unwrap_or(attempt.endpoint.port());
            span.integer(SERVER_PORT, u64::from(port));
        }
    }
    span.address(PEER_ADDRESS, attempt.endpoint.ip());
    span.integer(PEER_PORT, u64::from(attempt.endpoint.port()));
    span.text(PROTOCOL_VERSION, version(attempt.protocol));
    for (key, name) in [(POD, &attempt.pod), (NODE, &attempt.node)] {
        if let Some(name) = name {
            span.text(key, name);
        }
    }
}

fn timings(span: &mut SpanWriter<'_>, attempt: &Try) {
    span.flag(REUSED, attempt.reused);
    for (key, time) in
        [(QUEUED, attempt.queued), (CONNECT, attempt.connect), (TLS, attempt.tls), (FIRST_BYTE, attempt.first_byte)]
    {
        if let Some(time) = time {
            span.double(key, time.as_secs_f64());
        }
    }
}

/// A client's span is an error where it got no answer, or one that says so: 4xx too.
fn client_outcome(span: &mut SpanWriter<'_>, request: &FinishedRequest<'_>, attempt: &Try, is_last: bool) {
    if let Some(status) = attempt.status {
        span.integer(STATUS_CODE, u64::from(status));
    }
    let grpc = request.grpc_status.filter(|status| is_last && *status != 0);
    match (attempt.error, attempt.status, grpc) {
        (Some(error), ..) => {
            span.text(ERROR_TYPE, error_type(error));
            span.error("");
        }
        (None, Some(status), _) if status >= 400 => {
            span.status(ERROR_TYPE, status);
            span.error("");
        }
        (None, _, Some(status)) => {
            span.text(ERROR_TYPE, grpc_code(status));
            span.error("");
        }
        (None, _, None) => {}
    }
}

/// `other` says nothing to a reader who sees it alone; OpenTelemetry's word for it is `_OTHER`.
fn error_type(error: UpstreamError) -> &'static str {
    match error {
        UpstreamError::Other => "_OTHER",
        known => known.as_str(),
    }
}

/// What the endpoint is asked for, under the name that the client used.
fn url(span: &mut SpanWriter<'_>, request: &FinishedRequest<'_>, call: &Call<'_>, attempt: &Try) {
    let authority = wire::readable(request.authority);
    // A client may have put credentials in front of the host.
    let host = authority.rsplit_once('@').map_or(&*authority, |(_, host)| host);
    let scheme = if attempt.is_tls { "https://" } else { "http://" };
    match call.query.as_deref().map(wire::readable) {
        Some(query) => span.joined(URL_FULL, [scheme, host, &call.path, "?", &query]),
        None => span.joined(URL_FULL, [scheme, host, &call.path]),
    }
}

fn version(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http10 => "1.0",
        Protocol::Http11 => "1.1",
        Protocol::Http2 => "2",
    }
}

/// The name of a code of gRPC (`doc/statuscodes.md` of gRPC).
fn grpc_code(status: u16) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES.get(usize::from(status)).copied().unwrap_or("_OTHER")
}

/// The host of an authority, without brackets and credentials, and its port.
fn host_and_port(authority: &[u8]) -> (&[u8], Option<u16>) {
    let authority = authority.rsplit(|byte| *byte == b'@').next().unwrap_or_default();
    let (host, port) = match authority.iter().rposition(|byte| *byte == b':') {
        // A colon inside of brackets is part of an address.
        Some(at) if authority.last() != Some(&b']') => (&authority[..at], &authority[at + 1..]),
        _ => (authority, &authority[..0]),
    };
    let host = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]")).unwrap_or(host);
    (host, std::str::from_utf8(port).ok().and_then(|port| port.parse().ok()))
}

/// The time of day of moments that are known by the monotonic clock: all spans of a request by one reading, so that they
/// stand to each other as they were.
#[derive(Clone, Copy)]
struct Clock {
    ended: Instant,
    now: u64,
}

impl Clock {
    fn at(self, moment: Instant) -> u64 {
        let before = self.ended.checked_duration_since(moment).unwrap_or_default();
        self.now.saturating_sub(as_nanoseconds(before))
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    as_nanoseconds(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

fn as_nanoseconds(time: Duration) -> u64 {
    // Enough until the year 2554.
    time.as_nanos() as u64
}
