//! What the gateway answers by itself: a status, a reason that metrics and logs share, and a body in the form that
//! the client speaks (HTML for browsers, `grpc-status` for gRPC, JSON else).

use crate::peer::{Filled, Peer, PeerError, TrailerFields};
use crate::relay::{Break, Waiting};
use bytes::Bytes;
use sluicegate_http1::{
    FieldName, Framing, HeadError, HeadLimits, RequestHead, ResponseHead, Version, canonical_reason,
};
use sluicegate_telemetry::{FaultReason, LimitName, UpstreamError, WorkerMetrics};
use std::task::{Context, Poll};

/// Why a request was not served, and how that is said.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) status: u16,
    pub(crate) reason: FaultReason,
    /// For the log: which codec rule, which error of the operating system.
    pub(crate) detail: String,
    /// The connection cannot be used any more: what follows on it is not known to be a request.
    pub(crate) close: bool,
}

impl Fault {
    pub(crate) fn new(status: u16, reason: FaultReason, detail: impl Into<String>) -> Self {
        Self { status, reason, detail: detail.into(), close: false }
    }

    fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// A request head that the codec refused.
    pub(crate) fn head(error: &HeadError, metrics: &WorkerMetrics) -> Self {
        let status = error.status();
        let reason = match status {
            414 => FaultReason::UriTooLong,
            417 => FaultReason::ExpectationFailed,
            431 => FaultReason::HeaderTooLarge,
            501 | 505 => FaultReason::Unsupported,
            _ => FaultReason::BadRequest,
        };
        match error {
            HeadError::TargetTooLong => metrics.limit(LimitName::UriLength),
            HeadError::TooManyFields => metrics.limit(LimitName::HeaderCount),
            HeadError::HeadTooLarge => metrics.limit(LimitName::HeaderBytes),
            _ => {}
        }
        Self::new(status, reason, error.reason()).closing()
    }

    /// A request that took too long to arrive.
    pub(crate) fn request_timeout(limit: LimitName, metrics: &WorkerMetrics) -> Self {
        metrics.limit(limit);
        Self::new(408, FaultReason::RequestTimeout, limit.as_str()).closing()
    }

    pub(crate) fn body_too_large(metrics: &WorkerMetrics) -> Self {
        metrics.limit(LimitName::BodySize);
        Self::new(413, FaultReason::BodyTooLarge, "request body over the limit of the route").closing()
    }

    /// An exchange that broke before a response head was sent.
    pub(crate) fn broken(cause: Break, metrics: &WorkerMetrics) -> Self {
        match cause {
            Break::BodyTooLarge => Self::body_too_large(metrics),
            Break::Client(error @ (PeerError::Head(_) | PeerError::Body(_) | PeerError::Overflow)) => {
                Self::new(400, FaultReason::BadRequest, error.to_string()).closing()
            }
            Break::Client(error) => Self::new(499, FaultReason::ClientClosed, error.to_string()).closing(),
            Break::Upstream(error) => Self::upstream(&error, metrics),
            Break::TimedOut(Waiting::ClientBody) => Self::request_timeout(LimitName::BodyTimeout, metrics),
            Break::TimedOut(Waiting::ClientWrite) => {
                metrics.limit(LimitName::ClientSendTimeout);
                Self::new(499, FaultReason::ClientSendTimeout, "client takes nothing").closing()
            }
            Break::TimedOut(Waiting::UpstreamSend) => {
                metrics.limit(LimitName::SendTimeout);
                metrics.upstream_error(UpstreamError::SendTimeout);
                Self::new(504, FaultReason::UpstreamSendTimeout, "endpoint takes nothing")
            }
            Break::TimedOut(Waiting::UpstreamRead | Waiting::Tunnel) => {
                metrics.limit(LimitName::ReadTimeout);
                metrics.upstream_error(UpstreamError::ReadTimeout);
                Self::new(504, FaultReason::UpstreamReadTimeout, "endpoint is silent")
            }
        }
    }

    fn upstream(error: &PeerError, metrics: &WorkerMetrics) -> Self {
        let reason = match error {
            PeerError::Head(HeadError::HeadTooLarge | HeadError::TooManyFields) => {
                metrics.limit(LimitName::ResponseHeader);
                FaultReason::UpstreamBadResponse
            }
            PeerError::Head(_) | PeerError::Body(_) | PeerError::Overflow | PeerError::NotUpgraded => {
                FaultReason::UpstreamBadResponse
            }
            PeerError::Closed | PeerError::Io(_) | PeerError::Http2(_) => FaultReason::UpstreamReset,
        };
        Self::new(502, reason, error.to_string())
    }
}

/// The forms in which a client can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Grpc,
    Html,
    Json,
}

fn form(request: &RequestHead) -> Form {
    let starts =
        |value: &[u8], with: &[u8]| value.len() >= with.len() && value[..with.len()].eq_ignore_ascii_case(with);
    if request.field(FieldName::ContentType).is_some_and(|value| starts(value, b"application/grpc")) {
        return Form::Grpc;
    }
    let html = request.fields_named(FieldName::Accept).any(|value| memchr::memmem::find(value, b"text/html").is_some());
    if html { Form::Html } else { Form::Json }
}

/// The gRPC status for an HTTP status, as gRPC's "HTTP to gRPC Status Code Mapping" has it; 413 is a resource limit.
fn grpc_status(status: u16) -> (&'static str, &'static str) {
    match status {
        400 | 431 | 414 => ("13", "INTERNAL"),
        403 => ("7", "PERMISSION_DENIED"),
        404 => ("12", "UNIMPLEMENTED"),
        413 => ("8", "RESOURCE_EXHAUSTED"),
        429 | 502..=504 => ("14", "UNAVAILABLE"),
        _ => ("2", "UNKNOWN"),
    }
}

/// Writes head and body of the answer to a fault into `head`; returns the body.
pub(crate) fn render(
    fault: &Fault,
    request: &RequestHead,
    request_id: &str,
    date: &[u8],
    head: &mut ResponseHead,
) -> Canned {
    let reason = fault.reason.as_str();
    let form = form(request);
    let (status, body, content_type) = match form {
        Form::Grpc => (200, String::new(), "application/grpc"),
        Form::Html => (fault.status, html(fault.status, reason, request_id), "text/html; charset=utf-8"),
        Form::Json => (fault.status, json(fault.status, reason, request_id), "application/json"),
    };
    head.clear();
    // Every text below is ours and valid, the codec's verdict is not needed.
    let _ = head.begin(Version::Http11, status, canonical_reason(status).as_bytes());
    let _ = head.push(b"content-type", content_type.as_bytes());
    if form == Form::Grpc {
        let (code, name) = grpc_status(fault.status);
        let _ = head.push(b"grpc-status", code.as_bytes());
        let _ = head.push(b"grpc-message", format!("{name}: gateway: {reason}").as_bytes());
    }
    let _ = head.push(b"date", date);
    let _ = head.push(b"x-sluicegate-reason", reason.as_bytes());
    if !request_id.is_empty() {
        let _ = head.push(b"x-request-id", request_id.as_bytes());
    }
    if fault.status == 405 {
        let _ = head.push(b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    }
    let body = if request.is_head() { String::new() } else { body };
    head.set_framing(if request.is_head() || form == Form::Grpc {
        Framing::None
    } else {
        Framing::Length(body.len() as u64)
    });
    let _ = head.finish(&HeadLimits::default());
    Canned(Bytes::from(body))
}

fn json(status: u16, reason: &str, request_id: &str) -> String {
    let text = canonical_reason(status);
    format!("{{\"status\":{status},\"error\":\"{text}\",\"reason\":\"{reason}\",\"request_id\":\"{request_id}\"}}\n")
}

fn html(status: u16, reason: &str, request_id: &str) -> String {
    let text = canonical_reason(status);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{status} {text}</title>\
         <style>:root{{color-scheme:light dark}}body{{font:16px/1.5 system-ui,sans-serif;max-width:36rem;margin:15vh auto;\
         padding:0 1rem}}h1{{font-size:1.5rem}}code{{font-size:.9em}}</style></head><body>\
         <h1>{status} {text}</h1><p>Reason: <code>{reason}</code><br>Request: <code>{request_id}</code></p></body></html>\n"
    )
}

/// A body that is there already.
pub(crate) struct Canned(pub(crate) Bytes);

impl Peer for Canned {
    fn poll_fill(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Filled, PeerError>> {
        Poll::Ready(Ok(if self.0.is_empty() { Filled::End } else { Filled::Data }))
    }

    fn chunk(&self) -> &[u8] {
        &self.0
    }

    fn consume(&mut self, count: usize) {
        let _ = self.0.split_to(count.min(self.0.len()));
    }

    fn take(&mut self, max: usize) -> Bytes {
        self.0.split_to(max.min(self.0.len()))
    }

    fn trailers(&self) -> TrailerFields<'_> {
        TrailerFields::None
    }

    fn ends_with_chunk(&self) -> bool {
        true
    }

    fn poll_send<S: Peer>(&mut self, _cx: &mut Context<'_>, source: &mut S) -> Poll<Result<(), PeerError>> {
        let count = source.chunk().len();
        source.consume(count);
        Poll::Ready(Ok(()))
    }

    fn finish(&mut self, _trailers: TrailerFields<'_>) -> Result<(), PeerError> {
        Ok(())
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), PeerError>> {
        Poll::Ready(Ok(()))
    }

    fn enter_tunnel(&mut self) {}
}
