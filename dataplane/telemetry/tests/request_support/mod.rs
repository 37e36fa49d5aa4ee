//! Finished requests out of a test's own hand: what is not said is that of a plain `GET` that was answered with 200.

#![allow(dead_code, reason = "every test file uses its own part")]

use sluicegate_telemetry::{
    Downstream, FaultReason, FinishedRequest, HeadFields, MethodLabel, Protocol, RouteTaken, Try, UpstreamError,
};
use sluicegate_trace::{SpanId, Trace, TraceId};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Fields of a head, in a list.
#[derive(Clone, Debug, Default)]
pub struct Fields(pub Vec<(&'static str, Vec<u8>)>);

impl HeadFields for Fields {
    fn field(&self, name: &str) -> Option<&[u8]> {
        let found = self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_slice())
    }
}

impl Fields {
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.0.push((name, value.as_bytes().to_vec()));
        self
    }
}

/// What [`FinishedRequest`] borrows, with the values of a common request; change what the test is about.
pub struct Request {
    pub started: Instant,
    pub took: Duration,
    pub protocol: Protocol,
    pub client: SocketAddr,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub tls: Option<(sluicegate_telemetry::TlsVersion, Option<String>)>,
    pub method: Vec<u8>,
    pub authority: Vec<u8>,
    pub path: Vec<u8>,
    pub query: Option<Vec<u8>>,
    pub request_fields: Fields,
    pub response_fields: Option<Fields>,
    pub status: u16,
    pub grpc_status: Option<u16>,
    pub fault: Option<(FaultReason, String)>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub route: Option<Route>,
    pub tries: Vec<Try>,
    pub request_id: Vec<u8>,
    pub trace: Option<Trace>,
    pub is_probe: bool,
}

/// What [`RouteTaken`] borrows.
pub struct Route {
    pub namespace: Arc<str>,
    pub ingress: Arc<str>,
    pub host: String,
    pub path: String,
    pub service: Option<(Arc<str>, String)>,
    pub series: (u32, Arc<()>),
    pub access_log: bool,
}

impl Default for Request {
    fn default() -> Self {
        let started = Instant::now();
        Self {
            started,
            took: Duration::from_millis(20),
            protocol: Protocol::Http11,
            client: SocketAddr::from(([203, 0, 113, 7], 0)),
            peer: SocketAddr::from(([198, 51, 100, 7], 40_000)),
            local: SocketAddr::from(([192, 0, 2, 10], 80)),
            tls: None,
            method: b"GET".to_vec(),
            authority: b"shop.example".to_vec(),
            path: b"/cart/7".to_vec(),
            query: None,
            request_fields: Fields::default().with("user-agent", "curl/8.5.0"),
            response_fields: Some(Fields::default().with("content-type", "text/plain")),
            status: 200,
            grpc_status: None,
            fault: None,
            bytes_in: 0,
            bytes_out: 120,
            route: Some(Route {
                namespace: "shop".into(),
                ingress: "front".into(),
                host: "shop.example".to_owned(),
                path: "/cart".to_owned(),
                service: Some(("cart".into(), "80".to_owned())),
                series: (0, Arc::default()),
                access_log: true,
            }),
            tries: vec![attempt(started, 1)],
            request_id: b"0123456789abcdef0123456789abcdef".to_vec(),
            trace: Some(trace()),
            is_probe: false,
        }
    }
}

impl Request {
    /// Lends it to a sink.
    pub fn finish<T>(&self, take: impl FnOnce(&FinishedRequest<'_>) -> T) -> T {
        let tls = self.tls.as_ref().map(|(version, name)| sluicegate_telemetry::DownstreamTls {
            version: *version,
            server_name: name.as_deref(),
        });
        take(&FinishedRequest {
            started: self.started,
            ended: self.started + self.took,
            downstream: Downstream {
                protocol: self.protocol,
                client: self.client.ip(),
                peer: self.peer,
                local: self.local,
                tls,
            },
            method: &self.method,
            method_label: MethodLabel::from_bytes(&self.method),
            authority: &self.authority,
            path: &self.path,
            query: self.query.as_deref(),
            request_fields: &self.request_fields,
            response_fields: self.response_fields.as_ref().map(|fields| fields as &dyn HeadFields),
            status: self.status,
            grpc_status: self.grpc_status,
            fault: self.fault.as_ref().map(|(reason, words)| (*reason, words.as_str())),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            request_length: self.bytes_in + 200,
            route: self.route.as_ref().map(|route| RouteTaken {
                namespace: &route.namespace,
                ingress: &route.ingress,
                host: &route.host,
                path: &route.path,
                service: route.service.as_ref().map(|(name, port)| (name, port.as_str())),
                series: (route.series.0, &route.series.1),
                access_log: route.access_log,
            }),
            tries: &self.tries,
            request_id: &self.request_id,
            trace: self.trace.as_ref(),
            operation: None,
            is_probe: self.is_probe,
        })
    }
}

/// A try that was answered with 200, on a new connection; the number tells tries apart.
pub fn attempt(started: Instant, number: u8) -> Try {
    Try {
        started: started + Duration::from_millis(1),
        ended: started + Duration::from_millis(19),
        endpoint: SocketAddr::from(([192, 0, 2, 100 + number], 8080)),
        pod: Some(format!("cart-{number}").into()),
        node: Some("node-a".into()),
        protocol: Protocol::Http11,
        is_tls: false,
        reused: false,
        queued: Some(Duration::from_micros(250)),
        connect: Some(Duration::from_millis(2)),
        tls: None,
        first_byte: Some(Duration::from_millis(12)),
        status: Some(200),
        error: None,
        bytes: 120,
        span_id: SpanId::new(0x0a0b_0c0d_0e0f_0000 + u64::from(number)),
    }
}

/// A try that came to nothing.
pub fn failed_attempt(started: Instant, number: u8, error: UpstreamError) -> Try {
    Try { first_byte: None, status: None, error: Some(error), bytes: 0, ..attempt(started, number) }
}

/// A trace that a caller began and that is recorded.
pub fn trace() -> Trace {
    Trace {
        trace_id: TraceId::from_random(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736),
        span_id: SpanId::from_random(0x1111_2222_3333_4444),
        parent: SpanId::new(0x00f0_67aa_0ba9_02b7),
        sampled: true,
        debug: false,
        random: true,
        short_id: false,
        link: None,
    }
}
