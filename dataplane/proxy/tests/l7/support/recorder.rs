//! Keeps what workers tell of requests that are over.

use sluicegate_telemetry::{
    FaultReason, FinishedRequest, MethodLabel, Protocol, RequestSink, RequestSinks, TlsVersion, Try,
};
use sluicegate_trace::Trace;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A request that is over, in values of its own.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub started: Instant,
    pub ended: Instant,
    pub protocol: Protocol,
    pub client: IpAddr,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub tls: Option<(TlsVersion, Option<String>)>,
    pub method: String,
    pub method_label: MethodLabel,
    pub authority: String,
    pub path: String,
    pub query: Option<String>,
    pub user_agent: Option<String>,
    pub content_type: Option<String>,
    pub has_response: bool,
    pub status: u16,
    pub grpc_status: Option<u16>,
    pub fault: Option<(FaultReason, String)>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub request_length: u64,
    /// Namespace, Ingress, host, path, and Service with port.
    pub route: Option<[String; 5]>,
    pub tries: Vec<Try>,
    pub request_id: String,
    pub trace: Option<Trace>,
    pub operation: Option<String>,
    pub is_probe: bool,
}

/// What the workers have told so far.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<Vec<Recorded>>>);

impl Recorder {
    /// Requests that are over.
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits until there are so many, takes them, and sees to it that no other came.
    pub async fn take(&self, count: usize) -> Vec<Recorded> {
        super::until("the requests are told", || self.count() >= count).await;
        let recorded = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        assert_eq!(recorded.len(), count, "{recorded:#?}");
        recorded
    }

    /// The only one.
    pub async fn one(&self) -> Recorded {
        self.take(1).await.remove(0)
    }
}

impl RequestSinks for Recorder {
    fn of_worker(&self, _index: usize) -> Box<dyn RequestSink> {
        Box::new(self.clone())
    }
}

impl RequestSink for Recorder {
    fn finished(&mut self, request: &FinishedRequest<'_>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(recorded(request));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn recorded(request: &FinishedRequest<'_>) -> Recorded {
    let FinishedRequest { downstream, route, .. } = request;
    Recorded {
        started: request.started,
        ended: request.ended,
        protocol: downstream.protocol,
        client: downstream.client,
        peer: downstream.peer,
        local: downstream.local,
        tls: downstream.tls.map(|tls| (tls.version, tls.server_name.map(str::to_owned))),
        method: text(request.method),
        method_label: request.method_label,
        authority: text(request.authority),
        path: text(request.path),
        query: request.query.map(text),
        user_agent: request.request_fields.field("User-Agent").map(text),
        content_type: request.response_fields.and_then(|fields| fields.field("content-type")).map(text),
        has_response: request.response_fields.is_some(),
        status: request.status,
        grpc_status: request.grpc_status,
        fault: request.fault.map(|(reason, words)| (reason, words.to_owned())),
        bytes_in: request.bytes_in,
        bytes_out: request.bytes_out,
        request_length: request.request_length,
        route: route.map(|route| {
            let service = route.service.map(|(name, port)| format!("{name}:{port}")).unwrap_or_default();
            [route.namespace.to_string(), route.ingress.to_string(), route.host.into(), route.path.into(), service]
        }),
        tries: request.tries.to_vec(),
        request_id: text(request.request_id),
        trace: request.trace.copied(),
        operation: request.operation.map(str::to_owned),
        is_probe: request.is_probe,
    }
}
