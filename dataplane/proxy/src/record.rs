//! What is remembered of a request while it is served, and told when it is over: to the counters always, to the
//! worker's sink where there is one.

use crate::connect::Handshake;
use crate::endpoint::EndpointState;
use crate::exchange::Session;
use crate::fault::Fault;
use crate::headers::{SmallText, client_address};
use crate::peer::TrailerFields;
use crate::trace::is_probe;
use crate::worker::Heads;
use sluicegate_config::{OperationPart, OperationVariable, PortRef, UpstreamProtocol};
use sluicegate_http1::{FieldName, RequestHead, ResponseHead, Version};
use sluicegate_route::{RouteId, RouteTable, Target};
use sluicegate_telemetry::{
    Downstream, FaultReason, FinishedRequest, HeadFields, MethodLabel, Protocol, RequestSample, RequestSink,
    RouteTaken, Try, UpstreamError,
};
use sluicegate_trace::SpanId;
use std::time::{Duration, Instant};

/// See the module.
pub(crate) struct Record {
    started: Instant,
    /// What the client was sent, or 499.
    pub(crate) status: u16,
    /// A head was sent.
    pub(crate) has_answered: bool,
    pub(crate) route: Option<RouteId>,
    /// The time to the head of the response that was passed on.
    pub(crate) upstream: Option<Duration>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) fault: Option<(FaultReason, String)>,
    /// The try that is under way, or was the last.
    pub(crate) attempt: Attempt,
    grpc_status: Option<u16>,
    /// When the answer of a backend was passed on to its end; `None` where it was none.
    pub(crate) ended: Option<Instant>,
}

impl Record {
    pub(crate) fn new(started: Instant) -> Self {
        Self {
            started,
            status: 0,
            has_answered: false,
            route: None,
            upstream: None,
            bytes_in: 0,
            bytes_out: 0,
            fault: None,
            attempt: Attempt::default(),
            grpc_status: None,
            ended: None,
        }
    }

    /// Takes the status of a gRPC call out of the trailers, where the response is one.
    pub(crate) fn read_trailers(&mut self, response: &ResponseHead, trailers: TrailerFields<'_>) {
        if is_grpc(response) {
            trailers.for_each(|name, value| {
                if FieldName::of(name) == FieldName::GrpcStatus {
                    self.grpc_status = parse_status(value);
                }
            });
        }
    }

    /// Counts the request, and tells the sink of it. Returns when it was over.
    pub(crate) fn finish(
        &self,
        session: &Session<'_>,
        table: &RouteTable,
        heads: &mut Heads,
        request_id: &SmallText,
    ) -> Instant {
        let worker = session.worker;
        let ended = self.ended.unwrap_or_else(Instant::now);
        let (protocol, method) =
            (protocol_of(heads.request.version()), MethodLabel::from_bytes(heads.request.method()));
        worker.metrics.request(RequestSample {
            protocol,
            method,
            status: self.status,
            duration: ended.saturating_duration_since(self.started),
            upstream_duration: self.upstream,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
        });
        if let Some(sink) = &worker.sink {
            self.tell(&mut **sink.borrow_mut(), session, table, heads, request_id, (ended, protocol, method));
        }
        ended
    }

    fn tell(
        &self,
        sink: &mut dyn RequestSink,
        session: &Session<'_>,
        table: &RouteTable,
        heads: &mut Heads,
        request_id: &SmallText,
        (ended, protocol, method): (Instant, Protocol, MethodLabel),
    ) {
        // A try that came to an answer lasts as long as the answer does.
        if let Some(last) = heads.tries.last_mut().filter(|last| last.error.is_none()) {
            last.ended = ended;
        }
        let mut port = itoa::Buffer::new();
        let route = self.route.map(|id| route_taken(table, id, &mut port));
        let head = &heads.request;
        let operation = self.operation(table, session, heads, route.as_ref());
        let response = self.has_answered.then_some(ResponseFields(&heads.response));
        let trailers_only = || heads.response.field(FieldName::GrpcStatus).and_then(parse_status);
        sink.finished(&FinishedRequest {
            started: self.started,
            ended,
            downstream: session.told(head, protocol),
            method: head.method(),
            method_label: method,
            authority: head.authority(),
            path: head.path(),
            query: head.query(),
            request_fields: &RequestFields(head),
            response_fields: response.as_ref().map(|fields| fields as &dyn HeadFields),
            status: self.status,
            grpc_status: self.grpc_status.or_else(|| response.as_ref().and_then(|_| trailers_only())),
            fault: self.fault.as_ref().map(|(reason, detail)| (*reason, detail.as_str())),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            request_length: head.wire_len() as u64 + self.bytes_in,
            route,
            tries: &heads.tries,
            request_id: &request_id.0,
            trace: heads.trace.trace(),
            operation: operation.as_deref(),
            is_probe: is_probe(head),
        });
    }
}

impl Record {
    /// What the Ingress wants the span to be called, where there is one.
    fn operation(
        &self,
        table: &RouteTable,
        session: &Session<'_>,
        heads: &Heads,
        taken: Option<&RouteTaken<'_>>,
    ) -> Option<String> {
        let (taken, name) = (taken?, table.route(self.route?).policy.trace.operation.as_ref()?);
        let request = &heads.request;
        heads.trace.trace().filter(|trace| trace.sampled)?;
        let mut text = String::new();
        for part in name.parts() {
            let variable = match part {
                OperationPart::Text(literal) => {
                    text.push_str(literal);
                    continue;
                }
                OperationPart::Variable(variable) => variable,
            };
            let (service, port) = taken.service.map_or(("", ""), |(name, port)| (&**name, port));
            match variable {
                OperationVariable::Method => text.push_str(&String::from_utf8_lossy(request.method())),
                OperationVariable::Host => text.push_str(&String::from_utf8_lossy(request.host())),
                OperationVariable::Path => text.push_str(&String::from_utf8_lossy(request.path())),
                OperationVariable::Scheme => text.push_str(if session.client.https { "https" } else { "http" }),
                OperationVariable::Namespace => text.push_str(taken.namespace),
                OperationVariable::Ingress => text.push_str(taken.ingress),
                OperationVariable::Service => text.push_str(service),
                OperationVariable::ServicePort => text.push_str(port),
                OperationVariable::Location => text.push_str(taken.path),
            }
        }
        Some(text)
    }
}

/// One try, as far as it is known before it is over.
#[derive(Default)]
pub(crate) struct Attempt {
    pub(crate) reused: bool,
    /// `None` where the connection was there.
    pub(crate) handshake: Option<Handshake>,
    pub(crate) span_id: Option<SpanId>,
    queued: Option<Duration>,
    answer: Option<(u16, Duration)>,
}

impl Attempt {
    /// It waited for a connection that was opened for it, or for others before it.
    pub(crate) fn waited_for(&mut self, handshake: Handshake, waited: Duration) {
        let rest = waited.saturating_sub(handshake.tcp + handshake.tls.unwrap_or_default());
        self.handshake = Some(handshake);
        self.queued = Some(rest).filter(|rest| !rest.is_zero());
    }

    /// The head of a response came, so long after the request was sent.
    pub(crate) fn answered(&mut self, status: u16, after: Duration) {
        self.answer = Some((status, after));
    }

    /// The try as it is told now that it is over.
    pub(crate) fn told(
        &self,
        (started, ended): (Instant, Instant),
        endpoint: &EndpointState,
        spoken: UpstreamProtocol,
        error: Option<UpstreamError>,
        bytes: u64,
    ) -> Try {
        let whereabouts = endpoint.whereabouts();
        Try {
            started,
            ended,
            endpoint: endpoint.address(),
            pod: whereabouts.pod.clone(),
            node: whereabouts.node.clone(),
            protocol: if spoken.is_http2() { Protocol::Http2 } else { Protocol::Http11 },
            is_tls: spoken.is_tls(),
            reused: self.reused,
            queued: self.queued,
            connect: self.handshake.map(|handshake| handshake.tcp),
            tls: self.handshake.and_then(|handshake| handshake.tls),
            first_byte: self.answer.map(|(_, after)| after),
            status: self.answer.map(|(status, _)| status),
            error,
            bytes,
            span_id: self.span_id,
        }
    }
}

/// What was refused before it was a request.
pub(crate) struct Refusal<'a> {
    pub(crate) started: Instant,
    pub(crate) protocol: Protocol,
    /// The status that was sent; 0 where the connection was closed without a word.
    pub(crate) status: u16,
    pub(crate) reason: FaultReason,
    pub(crate) detail: &'a str,
    /// Bytes that were read of it.
    pub(crate) length: u64,
    /// The answer, if there was one.
    pub(crate) response: Option<&'a ResponseHead>,
}

impl<'a> Refusal<'a> {
    /// Of a fault that was answered.
    pub(crate) fn of(fault: &'a Fault, started: Instant, protocol: Protocol) -> Self {
        let Fault { status, reason, detail, .. } = fault;
        Self { started, protocol, status: *status, reason: *reason, detail, length: 0, response: None }
    }

    /// Tells the sink of it.
    pub(crate) fn tell(&self, session: &Session<'_>) {
        let Some(sink) = &session.worker.sink else { return };
        let nothing = RequestHead::new();
        let response = self.response.map(ResponseFields);
        sink.borrow_mut().finished(&FinishedRequest {
            started: self.started,
            ended: Instant::now(),
            downstream: session.told(&nothing, self.protocol),
            method: b"",
            method_label: MethodLabel::Other,
            authority: b"",
            path: b"",
            query: None,
            request_fields: &RequestFields(&nothing),
            response_fields: response.as_ref().map(|fields| fields as &dyn HeadFields),
            status: self.status,
            grpc_status: None,
            fault: Some((self.reason, self.detail)),
            bytes_in: 0,
            bytes_out: 0,
            request_length: self.length,
            route: None,
            tries: &[],
            request_id: b"",
            trace: None,
            operation: None,
            is_probe: false,
        });
    }
}

impl Session<'_> {
    fn told(&self, request: &RequestHead, protocol: Protocol) -> Downstream<'_> {
        Downstream {
            protocol,
            client: client_address(request, self.client, &self.worker.settings.trusted),
            peer: self.client.peer,
            local: self.client.local,
            tls: self.tls.map(|tls| tls.told()),
        }
    }
}

fn route_taken<'a>(table: &'a RouteTable, id: RouteId, port: &'a mut itoa::Buffer) -> RouteTaken<'a> {
    let route = table.route(id);
    let service = match route.target {
        Target::Forward(slot) => table.backend_id(slot),
        Target::Redirect(_) | Target::Deny(_) => None,
    };
    RouteTaken {
        namespace: &route.origin.ingress.namespace,
        ingress: &route.origin.ingress.name,
        host: table.host_of(id).written(),
        path: route.path.as_str(),
        service: service.map(|id| {
            let port: &str = match &id.port {
                PortRef::Number(number) => port.format(*number),
                PortRef::Name(name) => name,
            };
            (&id.service, port)
        }),
        series: (route.series.index, &route.series.tenure),
        access_log: route.policy.access_log.unwrap_or(true),
    }
}

fn is_grpc(response: &ResponseHead) -> bool {
    response.field(FieldName::ContentType).is_some_and(|value| value.starts_with(b"application/grpc"))
}

fn parse_status(value: &[u8]) -> Option<u16> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn protocol_of(version: Version) -> Protocol {
    match version {
        Version::Http10 => Protocol::Http10,
        Version::Http11 => Protocol::Http11,
        Version::Http2 => Protocol::Http2,
    }
}

struct RequestFields<'a>(&'a RequestHead);

impl HeadFields for RequestFields<'_> {
    fn field(&self, name: &str) -> Option<&[u8]> {
        match name {
            // What every log asks for is found without looking up the name.
            "referer" => self.0.field(FieldName::Referer),
            "user-agent" => self.0.field(FieldName::UserAgent),
            other => self.0.field_by_name(other.as_bytes()),
        }
    }
}

struct ResponseFields<'a>(&'a ResponseHead);

impl HeadFields for ResponseFields<'_> {
    fn field(&self, name: &str) -> Option<&[u8]> {
        self.0.field_by_name(name.as_bytes())
    }
}
