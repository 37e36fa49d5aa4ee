//! An OpenTelemetry collector in the process of a test: it takes spans over gRPC and over HTTP, decodes them with the
//! messages of OpenTelemetry and keeps them. It can be told to behave badly. It stores nothing and sends nothing on.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not there")]

mod reply;
mod serve;
mod tls;

pub use reply::Reply;
pub use tls::Identities;

use http::HeaderMap;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
pub use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
pub use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
pub use opentelemetry_proto::tonic::trace::v1::{Span, span::Link};
use std::collections::{BTreeMap, VecDeque};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Longer than anything takes on a busy machine.
pub const AT_MOST: Duration = Duration::from_secs(60);

/// A collector that runs until it is dropped.
pub struct Collector {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A request for export, as it came.
#[derive(Clone, Debug)]
pub struct Received {
    /// Its path: which says whether it was gRPC.
    pub path: String,
    /// Its fields.
    pub headers: HeaderMap,
    /// The bytes of its body as they were sent.
    pub body_bytes: usize,
    /// When its body had been read.
    pub at: Instant,
    /// The resource's attributes.
    pub resource: BTreeMap<String, String>,
    /// Name and version of the scope, and the URL of its schema.
    pub scope: (String, String, String),
    /// The spans.
    pub spans: Vec<Span>,
    /// They were kept: the answer said so.
    pub taken: bool,
}

#[derive(Default)]
struct Shared {
    received: Mutex<Vec<Received>>,
    script: Mutex<VecDeque<Reply>>,
    otherwise: Mutex<Reply>,
}

impl Collector {
    /// A collector on a free loopback port.
    pub fn start() -> Self {
        Self::listen(SocketAddr::from(([127, 0, 0, 1], 0)), None)
    }

    /// As [`Collector::start`], over TLS; whoever connects has to show a certificate of the same CA.
    pub fn with_tls(identities: &Identities) -> Self {
        Self::listen(SocketAddr::from(([127, 0, 0, 1], 0)), Some(identities))
    }

    /// A collector at an address, where one may have been before.
    pub fn listen(address: SocketAddr, identities: Option<&Identities>) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        let (stop, stopped) = oneshot::channel();
        let served = serve::serve(listener, Arc::clone(&shared), identities.map(Identities::server));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = served => {}
                    _ = stopped => {}
                }
            });
            // What is under way ends here as well.
            runtime.shutdown_background();
        });
        Self { address, shared, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next requests are answered so, one after the other.
    pub fn script(&self, replies: impl IntoIterator<Item = Reply>) {
        lock(&self.shared.script).extend(replies);
    }

    /// Requests beyond the script are answered so.
    pub fn always(&self, reply: Reply) {
        *lock(&self.shared.otherwise) = reply;
    }

    /// Every request so far.
    pub fn received(&self) -> Vec<Received> {
        lock(&self.shared.received).clone()
    }

    /// The spans that were taken so far.
    pub fn spans(&self) -> Vec<Span> {
        let received = lock(&self.shared.received);
        received.iter().filter(|request| request.taken).flat_map(|request| request.spans.clone()).collect()
    }

    /// Waits until so many spans were taken.
    #[track_caller]
    pub fn wait_for_spans(&self, count: usize) -> Vec<Span> {
        self.wait(&format!("{count} spans"), || Some(self.spans()).filter(|spans| spans.len() >= count))
    }

    /// Waits until so many requests came.
    #[track_caller]
    pub fn wait_for_requests(&self, count: usize) -> Vec<Received> {
        self.wait(&format!("{count} requests"), || Some(self.received()).filter(|received| received.len() >= count))
    }

    #[track_caller]
    fn wait<T>(&self, what: &str, look: impl Fn() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            let names: Vec<String> = self.spans().into_iter().map(|span| span.name).collect();
            let requests = lock(&self.shared.received).len();
            assert!(start.elapsed() < AT_MOST, "no {what} within {AT_MOST:?}: {requests} requests, {names:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // A thread that has ended wants no word of it.
        let _told = self.stop.take().map(|stop| stop.send(()));
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// Attributes by name, with numbers as `int 5`, fractions as `double 0.5` and yes or no as `bool true`.
pub fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    pairs.iter().map(|pair| (pair.key.clone(), shown(pair.value.as_ref()))).collect()
}

fn shown(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => format!("int {number}"),
        Some(Value::DoubleValue(number)) => format!("double {number}"),
        Some(Value::BoolValue(flag)) => format!("bool {flag}"),
        other => format!("{other:?}"),
    }
}

/// An id as it is written in headers.
pub fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Received {
    fn new(path: &str, headers: HeaderMap, body_bytes: usize, request: ExportTraceServiceRequest) -> Self {
        let mut received = Self {
            path: path.to_owned(),
            headers,
            body_bytes,
            at: Instant::now(),
            resource: BTreeMap::new(),
            scope: Default::default(),
            spans: Vec::new(),
            taken: false,
        };
        for resource in request.resource_spans {
            received.resource.extend(attributes(&resource.resource.unwrap_or_default().attributes));
            for scope in resource.scope_spans {
                let name = scope.scope.unwrap_or_default();
                received.scope = (name.name, name.version, scope.schema_url);
                received.spans.extend(scope.spans);
            }
        }
        received
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}
