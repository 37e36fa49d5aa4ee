//! A request that is over as one JSON object on one line: a line of the access log, and what taps show.

use crate::redact;
use crate::request::{FinishedRequest, RouteTaken, Try};
use crate::sheet::{Paper, Sheet};
use crate::text::{self, Escape, WallClock};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// The names of the fields in their order, and what they say. What is not known of a request is left out.
pub const REQUEST_FIELDS: &[(&str, &str)] = &[
    ("time", "when the first byte came, UTC (RFC 3339)"),
    ("status", "what the client was sent; 499 where it went before, 0 where nothing was sent"),
    ("reason", "why the gateway answered by itself or cut the response: the `reason` of `sluicegate_faults_total`"),
    ("detail", "the same in words"),
    ("method", "as it came"),
    ("host", "`Host` or `:authority` as it came"),
    ("path", "as it came, without the query"),
    ("query", "with `REDACTED` for values of secrets"),
    ("protocol", "`http/1.0`, `http/1.1` or `h2`"),
    ("tls", "version of TLS"),
    ("server_name", "the name that the client asked for in its TLS handshake"),
    ("client", "address of the client: as trusted proxies say, else the peer's"),
    ("peer", "address and port that has the connection"),
    ("local", "address and port that it connected to"),
    ("bytes_in", "body bytes from the client"),
    ("bytes_out", "body bytes to the client"),
    ("request_length", "bytes of the request, head and body"),
    ("duration_ms", "milliseconds from the first byte in to the last one out"),
    ("grpc_status", "what the backend said in `grpc-status`"),
    ("namespace", "of the Ingress that took it"),
    ("ingress", "its name"),
    ("rule_host", "the rule's host as the Ingress writes it"),
    ("rule_path", "the rule's path as the Ingress writes it"),
    ("service", "the Service behind the rule"),
    ("service_port", "its port as the Ingress writes it"),
    ("tries", "one object for each try, see below; empty where no backend was asked"),
    ("referer", "`Referer`, with `REDACTED` for values of secrets"),
    ("user_agent", "`User-Agent`"),
    ("request_id", "`X-Request-ID`, the client's or the gateway's"),
    ("trace_id", "of the trace that backends see"),
    ("span_id", "of the gateway's own span in it"),
    ("parent_span_id", "of the caller's span"),
    ("sampled", "whether the trace is recorded"),
];

/// The same of each try.
pub const TRY_FIELDS: &[(&str, &str)] = &[
    ("endpoint", "address and port"),
    ("pod", "the pod behind it, where that is known"),
    ("node", "the node that the pod runs on"),
    ("status", "what it answered"),
    ("error", "why it came to nothing: the `reason` of `sluicegate_upstream_errors_total`"),
    ("start_ms", "milliseconds from the request's beginning to the try's"),
    ("duration_ms", "from then to its end"),
    ("queued_ms", "of that, waiting for a connection"),
    ("connect_ms", "of that, the TCP handshake"),
    ("tls_ms", "of that, the TLS handshake"),
    ("first_byte_ms", "from the request being sent to the end of the response's head"),
    ("reused", "whether the connection had carried requests before"),
    ("bytes", "body bytes from the endpoint"),
    ("span_id", "of the span that the endpoint was told is its parent"),
];

/// A key behind a comma.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":").as_bytes()
    };
}

/// The same with the quotation mark that text begins with.
macro_rules! text_key {
    ($name:literal) => {
        concat!(",\"", $name, "\":\"").as_bytes()
    };
}

/// Writes requests, and remembers what many of them have in common. Each worker has one of its own.
#[derive(Debug, Default)]
pub(crate) struct JsonWriter {
    clock: WallClock,
    routes: RouteTexts,
    paper: Paper,
}

impl JsonWriter {
    /// Writes the object of a request, without a line feed.
    pub(crate) fn write(&mut self, out: &mut Vec<u8>, request: &FinishedRequest<'_>) {
        let mut sheet = Sheet::begin(&mut self.paper, out);
        sheet.put(b"{\"time\":\"");
        self.clock.write_rfc3339(&mut sheet, request.started);
        write_object(&mut sheet, request, &mut self.routes);
        sheet.finish();
    }
}

/// All behind the time.
fn write_object(out: &mut Sheet<'_>, request: &FinishedRequest<'_>, routes: &mut RouteTexts) {
    out.put(b"\"");
    number(out, key!("status"), request.status.into());
    if let Some((reason, detail)) = request.fault {
        plain(out, text_key!("reason"), reason.as_str());
        string(out, text_key!("detail"), detail.as_bytes());
    }
    write_request(out, request);
    number(out, key!("bytes_in"), request.bytes_in);
    number(out, key!("bytes_out"), request.bytes_out);
    number(out, key!("request_length"), request.request_length);
    time(out, key!("duration_ms"), request.ended.saturating_duration_since(request.started));
    if let Some(status) = request.grpc_status {
        number(out, key!("grpc_status"), status.into());
    }
    if let Some(route) = &request.route {
        out.put(routes.text(route));
    }
    out.put(b",\"tries\":[");
    for (index, attempt) in request.tries.iter().enumerate() {
        if index > 0 {
            out.put(b",");
        }
        write_try(out, request, attempt);
    }
    out.put(b"]");
    if let Some(referer) = request.request_fields.field("referer") {
        out.put(text_key!("referer"));
        write_url(out, referer, Escape::Json);
        out.put(b"\"");
    }
    string(out, text_key!("user_agent"), request.request_fields.field("user-agent").unwrap_or_default());
    string(out, text_key!("request_id"), request.request_id);
    write_trace(out, request);
    out.put(b"}");
}

fn write_request(out: &mut Sheet<'_>, request: &FinishedRequest<'_>) {
    string(out, text_key!("method"), request.method);
    string(out, text_key!("host"), request.authority);
    string(out, text_key!("path"), request.path);
    if let Some(query) = request.query {
        out.put(text_key!("query"));
        out.put_escaped(Escape::Json, &redact::query(query));
        out.put(b"\"");
    }
    let downstream = request.downstream;
    plain(out, text_key!("protocol"), downstream.protocol.as_str());
    if let Some(tls) = downstream.tls {
        plain(out, text_key!("tls"), tls.version.as_str());
        string(out, text_key!("server_name"), tls.server_name.unwrap_or_default().as_bytes());
    }
    quoted(out, text_key!("client"), |out| text::address(out, downstream.client));
    quoted(out, text_key!("peer"), |out| text::socket(out, downstream.peer));
    quoted(out, text_key!("local"), |out| text::socket(out, downstream.local));
}

/// What is said of routes, as it was last written: the same for each request of a route. A few dozen routes have most of
/// the traffic, and a place for each number is found without looking further.
#[derive(Debug, Default)]
struct RouteTexts(Vec<RouteText>);

/// Routes that are remembered.
const ROUTES: usize = 64;
/// A longer text is not remembered.
const LONGEST_ROUTE: usize = 1024;

#[derive(Debug, Default)]
struct RouteText {
    /// Whose it is. While there is a `Weak` nothing else has its address.
    tenure: Weak<()>,
    path: Box<str>,
    port: Box<str>,
    text: Vec<u8>,
}

impl RouteTexts {
    fn text(&mut self, route: &RouteTaken<'_>) -> &[u8] {
        if self.0.is_empty() {
            self.0.resize_with(ROUTES, RouteText::default);
        }
        let (place, tenure) = route.series;
        let known = &mut self.0[place as usize % ROUTES];
        let port = route.service.map_or("", |(_, port)| port);
        let is_known = std::ptr::eq(known.tenure.as_ptr(), Arc::as_ptr(tenure));
        if !is_known || &*known.path != route.path || &*known.port != port {
            known.text.clear();
            let mut paper = Paper::default();
            let mut sheet = Sheet::begin(&mut paper, &mut known.text);
            write_route(&mut sheet, route);
            sheet.finish();
            // Host, Ingress and Service are those of the series; the rest is compared.
            let is_kept = known.text.len() <= LONGEST_ROUTE;
            known.tenure = if is_kept { Arc::downgrade(tenure) } else { Weak::new() };
            (known.path, known.port) = (route.path.into(), port.into());
        }
        &known.text
    }
}

fn write_route(out: &mut Sheet<'_>, route: &RouteTaken<'_>) {
    string(out, text_key!("namespace"), route.namespace.as_bytes());
    string(out, text_key!("ingress"), route.ingress.as_bytes());
    string(out, text_key!("rule_host"), route.host.as_bytes());
    string(out, text_key!("rule_path"), route.path.as_bytes());
    if let Some((service, port)) = route.service {
        string(out, text_key!("service"), service.as_bytes());
        string(out, text_key!("service_port"), port.as_bytes());
    }
}

fn write_try(out: &mut Sheet<'_>, request: &FinishedRequest<'_>, attempt: &Try) {
    out.put(b"{\"endpoint\":\"");
    text::socket(out, attempt.endpoint);
    out.put(b"\"");
    string(out, text_key!("pod"), attempt.pod.as_deref().unwrap_or_default().as_bytes());
    string(out, text_key!("node"), attempt.node.as_deref().unwrap_or_default().as_bytes());
    if let Some(status) = attempt.status {
        number(out, key!("status"), status.into());
    }
    if let Some(error) = attempt.error {
        plain(out, text_key!("error"), error.as_str());
    }
    time(out, key!("start_ms"), attempt.started.saturating_duration_since(request.started));
    time(out, key!("duration_ms"), attempt.ended.saturating_duration_since(attempt.started));
    for (key, part) in [
        (key!("queued_ms"), attempt.queued),
        (key!("connect_ms"), attempt.connect),
        (key!("tls_ms"), attempt.tls),
        (key!("first_byte_ms"), attempt.first_byte),
    ] {
        if let Some(part) = part {
            time(out, key, part);
        }
    }
    out.put(key!("reused"));
    out.put(if attempt.reused { b"true" } else { b"false" });
    number(out, key!("bytes"), attempt.bytes);
    if let Some(span) = attempt.span_id {
        quoted(out, text_key!("span_id"), |out| text::hexadecimal(out, span.get()));
    }
    out.put(b"}");
}

fn write_trace(out: &mut Sheet<'_>, request: &FinishedRequest<'_>) {
    let Some(trace) = request.trace else { return };
    quoted(out, text_key!("trace_id"), |out| {
        text::hexadecimal(out, trace.trace_id.high());
        text::hexadecimal(out, trace.trace_id.low());
    });
    quoted(out, text_key!("span_id"), |out| text::hexadecimal(out, trace.span_id.get()));
    if let Some(parent) = trace.parent {
        quoted(out, text_key!("parent_span_id"), |out| text::hexadecimal(out, parent.get()));
    }
    out.put(key!("sampled"));
    out.put(if trace.sampled { b"true" } else { b"false" });
}

/// A URL as it may be shown: its query without secrets, and no password before its host.
pub(crate) fn write_url(out: &mut Sheet<'_>, url: &[u8], escape: Escape) {
    if memchr::memchr2(b'?', b'@', url).is_none() {
        out.put_escaped(escape, url);
        return;
    }
    let (before, query) = match url.iter().position(|byte| *byte == b'?') {
        Some(at) => url.split_at(at + 1),
        None => (url, &[][..]),
    };
    let authority = before.windows(3).position(|part| part == b"://").map_or(0, |at| at + 3);
    let (scheme, rest) = before.split_at(authority);
    let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    let shown = rest[..end].iter().rposition(|byte| *byte == b'@').map_or(0, |at| at + 1);
    out.put_escaped(escape, scheme);
    out.put_escaped(escape, &rest[shown..]);
    out.put_escaped(escape, &redact::query(query));
}

#[inline(always)]
fn number(out: &mut Sheet<'_>, key: &[u8], number: u64) {
    out.put(key);
    text::integer(out, number);
}

#[inline(always)]
fn time(out: &mut Sheet<'_>, key: &[u8], time: Duration) {
    out.put(key);
    text::milliseconds(out, time);
}

/// Text that strangers chose; nothing where there is none.
#[inline(always)]
fn string(out: &mut Sheet<'_>, key: &[u8], value: &[u8]) {
    if !value.is_empty() {
        quoted(out, key, |out| out.put_escaped(Escape::Json, value));
    }
}

/// Text of ours, which needs no escaping.
#[inline(always)]
fn plain(out: &mut Sheet<'_>, key: &[u8], value: &str) {
    quoted(out, key, |out| out.put(value.as_bytes()));
}

#[inline(always)]
fn quoted(out: &mut Sheet<'_>, key: &[u8], write: impl FnOnce(&mut Sheet<'_>)) {
    out.put(key);
    write(out);
    out.put(b"\"");
}
