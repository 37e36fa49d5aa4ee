//! Traces of an application behind the gateway, as a collector gets them.
//!
//! The application is three services that know nothing of tracing but what their frameworks do anyway: they pass on the
//! trace headers that a request came with when they call the next service, and they do so through the gateway.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not there")]

mod cli_support;

use cli_support::{AT_MOST, Gateway, get, manifests};
use sluicegate_collector::{Collector, Span, SpanKind, attributes, hex};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What applications pass on, by the list that service meshes ask them to.
const TRACE_HEADERS: [&str; 8] = [
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
];

const SERVICES: [&str; 3] = ["web", "api", "store"];

/// Trace headers of a request, in the order in which they came.
type Headers = Vec<(String, String)>;

/// A service that calls the next one, if there is one, through the gateway, and answers with what it was told.
struct Service {
    address: SocketAddr,
    /// The trace headers of each request.
    seen: Arc<Mutex<Vec<Headers>>>,
}

impl Service {
    fn start(next: Option<&'static str>, gateway: Arc<Mutex<Option<SocketAddr>>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Headers>>>::default();
        let known = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (gateway, seen) = (Arc::clone(&gateway), Arc::clone(&known));
                std::thread::spawn(move || serve(&stream, next, &gateway, &seen));
            }
        });
        Self { address, seen }
    }
}

/// Requests of one connection, until it is closed.
fn serve(
    mut stream: &TcpStream,
    next: Option<&str>,
    gateway: &Mutex<Option<SocketAddr>>,
    seen: &Mutex<Vec<Headers>>,
) -> Option<()> {
    let mut lines = BufReader::new(stream).lines();
    loop {
        lines.next()?.ok()?;
        let mut headers = Headers::new();
        for line in lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap();
            if TRACE_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
                headers.push((name.to_ascii_lowercase(), value.to_owned()));
            }
        }
        seen.lock().unwrap().push(headers.clone());
        let answer = match next {
            Some(next) => {
                let gateway = gateway.lock().unwrap().unwrap();
                call(gateway, next, &headers)
            }
            None => "stored".to_owned(),
        };
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len()).ok()?;
    }
}

/// What a service answers that is called through the gateway.
fn call(gateway: SocketAddr, service: &str, headers: &Headers) -> String {
    let mut stream = TcpStream::connect(gateway).unwrap();
    stream.set_read_timeout(Some(AT_MOST)).unwrap();
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(
        stream,
        "GET /{service}/items?id=7&sig=abc HTTP/1.1\r\nHost: {service}.test\r\n{headers}Connection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{service}: {answer}");
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// An Ingress, its Service and the EndpointSlice of its pod.
fn manifest(service: &str, pod: SocketAddr) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {service}-ingress, namespace: app}}\nspec:\n  rules:\n  - host: {service}.test\n    http:\n      paths:\n      \
         - {{path: /{service}, pathType: Prefix, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: {service}, namespace: app}}\nspec: {{ports: [{{port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {service}-1, namespace: app, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         addressType: IPv4\nports: [{{name: \"\", port: {port}}}]\n\
         endpoints: [{{addresses: [{ip}], nodeName: node-1, targetRef: {{kind: Pod, name: {service}-pod, namespace: app}}}}]\n",
        port = pod.port(),
        ip = pod.ip()
    )
}

/// The three services and their manifests; the gateway's address comes when it is known.
struct Application {
    services: Vec<Service>,
    gateway: Arc<Mutex<Option<SocketAddr>>>,
    folder: TempDir,
}

impl Application {
    fn start() -> Self {
        let gateway = Arc::<Mutex<Option<SocketAddr>>>::default();
        let next = SERVICES.iter().skip(1).copied().map(Some).chain([None]);
        let services: Vec<Service> = next.map(|next| Service::start(next, Arc::clone(&gateway))).collect();
        let files: Vec<(String, String)> = SERVICES
            .iter()
            .zip(&services)
            .map(|(name, service)| (format!("{name}.yaml"), manifest(name, service.address)))
            .collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        Self { folder: manifests(&files), services, gateway }
    }

    fn behind(&self, gateway: &Gateway) {
        *self.gateway.lock().unwrap() = Some(gateway.http);
    }
}

/// The path of a trace through the application: server and client spans in turn, from the outside inwards. Fails where the
/// spans are not one chain.
#[track_caller]
fn chain(spans: Vec<Span>) -> Vec<Span> {
    assert_eq!(spans.len(), 2 * SERVICES.len(), "{:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>());
    let trace = spans[0].trace_id.clone();
    assert!(spans.iter().all(|span| span.trace_id == trace), "one trace");
    let mut by_parent: BTreeMap<Vec<u8>, Span> = BTreeMap::new();
    let ids: Vec<Vec<u8>> = spans.iter().map(|span| span.span_id.clone()).collect();
    for span in spans {
        assert_eq!(by_parent.insert(span.parent_span_id.clone(), span), None, "nobody has two children");
    }
    let root = by_parent.keys().find(|parent| !ids.contains(parent)).unwrap().clone();
    let mut chain = Vec::new();
    let mut next = by_parent.remove(&root);
    while let Some(span) = next {
        next = by_parent.remove(&span.span_id);
        chain.push(span);
    }
    assert!(by_parent.is_empty(), "all spans are connected: {by_parent:?}");
    chain
}

#[track_caller]
fn assert_shows(span: &Span, expected: &[(&str, &str)]) {
    let attributes = attributes(&span.attributes);
    for (key, value) in expected {
        assert_eq!(attributes.get(*key).map(String::as_str), Some(*value), "{key} of {}: {attributes:?}", span.name);
    }
}

/// Every span of the chain tells of its service.
#[track_caller]
fn assert_tells_of_the_application(chain: &[Span], application: &Application) {
    for (place, service) in SERVICES.iter().enumerate() {
        let [server, client] = &chain[2 * place..][..2] else { panic!("two spans a service") };
        assert_eq!((server.kind(), client.kind()), (SpanKind::Server, SpanKind::Client));
        assert_eq!(server.name, format!("GET /{service}"));
        assert_eq!(client.name, "GET");
        let (host, path) = (format!("{service}.test"), format!("/{service}/items"));
        let ingress = format!("{service}-ingress");
        let common = [
            ("http.request.method", "GET"),
            ("http.response.status_code", "int 200"),
            ("k8s.namespace.name", "app"),
            ("k8s.service.name", service),
        ];
        assert_shows(server, &common);
        assert_shows(
            server,
            &[
                ("http.route", &format!("/{service}")),
                ("k8s.ingress.name", &ingress),
                ("server.address", &host),
                ("url.path", &path),
                ("url.query", "id=7&sig=REDACTED"),
                ("url.scheme", "http"),
                ("client.address", "127.0.0.1"),
                ("network.protocol.version", "1.1"),
            ],
        );
        let address = application.services[place].address;
        assert_shows(client, &common);
        assert_shows(
            client,
            &[
                ("k8s.pod.name", &format!("{service}-pod")),
                ("k8s.node.name", "node-1"),
                ("network.peer.address", "127.0.0.1"),
                ("network.peer.port", &format!("int {}", address.port())),
                ("server.address", &format!("{service}.app")),
                ("url.full", &format!("http://{host}{path}?id=7&sig=REDACTED")),
            ],
        );
        for (inner, outer) in
            [(client, server)].into_iter().chain(chain.get(2 * place + 2).map(|inner| (inner, client)))
        {
            assert!(inner.start_time_unix_nano >= outer.start_time_unix_nano, "{} begins within", inner.name);
            assert!(inner.start_time_unix_nano <= inner.end_time_unix_nano);
        }
    }
}

/// The headers of the one request that a service got.
fn told(application: &Application, place: usize) -> BTreeMap<String, String> {
    let seen = application.services[place].seen.lock().unwrap();
    let [headers] = seen.as_slice() else { panic!("one request: {seen:?}") };
    headers.iter().cloned().collect()
}

#[test]
fn an_unmodified_application_yields_one_connected_trace_in_w3c() {
    let collector = Collector::start();
    let application = Application::start();
    let endpoint = format!("http://{}", collector.address());
    let flags = ["--otlp-endpoint", &endpoint, "--otlp-protocol", "grpc", "--otlp-delay", "50ms", "--otlp-header"];
    let flags = [&flags[..], &["authorization=Bearer sesame", "--otlp-compression", "gzip"]].concat();
    let gateway = Gateway::start(&application.folder, &flags);
    application.behind(&gateway);

    let outside =
        vec![("traceparent".to_owned(), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned())];
    assert_eq!(call(gateway.http, "web", &outside), "stored");
    let chain = chain(collector.wait_for_spans(6));
    assert_eq!(hex(&chain[0].trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(hex(&chain[0].parent_span_id), "00f067aa0ba902b7");
    assert_tells_of_the_application(&chain, &application);
    for place in 0..SERVICES.len() {
        let expected = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", hex(&chain[2 * place + 1].span_id));
        assert_eq!(told(&application, place)["traceparent"], expected, "{}", SERVICES[place]);
    }
    let request = collector.received().remove(0);
    assert_eq!(request.headers["authorization"], "Bearer sesame");
    assert_eq!(request.resource["service.name"], "sluicegate");
    assert_eq!(request.resource["service.instance.id"].len(), 36);
    assert!(request.resource.contains_key("host.name") && request.resource.contains_key("service.version"));
}

#[test]
fn an_unmodified_application_yields_one_connected_trace_in_b3() {
    let collector = Collector::start();
    let application = Application::start();
    let folder = application.folder.path().to_str().unwrap();
    let endpoint = format!("http://{}", collector.address());
    let any = "127.0.0.1:0";
    let gateway = Gateway::start_with(
        &[
            "--manifests",
            folder,
            "--http",
            any,
            "--https",
            any,
            "--metrics",
            any,
            "--admin",
            any,
            "--log-format",
            "json",
            "--trace-propagation",
            "b3",
        ],
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
            ("OTEL_SERVICE_NAME", "edge"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
            ("POD_NAME", "sluicegate-0"),
            ("POD_NAMESPACE", "sluicegate-system"),
            ("NODE_NAME", "node-9"),
        ],
    );
    application.behind(&gateway);

    assert_eq!(call(gateway.http, "web", &Headers::new()), "stored");
    let chain = chain(collector.wait_for_spans(6));
    assert!(chain[0].parent_span_id.is_empty(), "it begins here");
    assert_tells_of_the_application(&chain, &application);
    let trace = hex(&chain[0].trace_id);
    for place in 0..SERVICES.len() {
        let headers = told(&application, place);
        let client = hex(&chain[2 * place + 1].span_id);
        assert!(headers["b3"].starts_with(&format!("{trace}-{client}-1")), "{headers:?}");
        assert!(!headers.contains_key("traceparent"), "{headers:?}");
    }
    let request = collector.received().remove(0);
    assert_eq!(request.path, "/v1/traces");
    let resource =
        ["service.name", "deployment.environment.name", "k8s.pod.name", "k8s.namespace.name", "k8s.node.name"];
    let resource = resource.map(|key| request.resource[key].as_str());
    assert_eq!(resource, ["edge", "test", "sluicegate-0", "sluicegate-system", "node-9"]);
}

#[test]
fn a_collector_that_is_down_costs_no_request_and_its_secrets_stay_secret() {
    let address = Collector::start().address();
    let application = Application::start();
    let endpoint = format!("http://{address}");
    let secret = "authorization=Bearer 0penSesame";
    let flags = [
        "--otlp-endpoint",
        &endpoint,
        "--otlp-header",
        secret,
        "--otlp-queue",
        "16",
        "--otlp-batch",
        "4",
        "--otlp-delay",
        "10ms",
        "--log-level",
        "debug",
    ];
    let mut gateway = Gateway::start(&application.folder, &flags);
    application.behind(&gateway);
    for _ in 0..20 {
        assert_eq!(call(gateway.http, "web", &Headers::new()), "stored");
    }
    let metric = |name: &str| -> f64 {
        let metrics = get(gateway.metrics, "localhost", "/metrics");
        metrics
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            .unwrap_or_else(|| panic!("{name}: {metrics}"))
    };
    let start = Instant::now();
    while metric("sluicegate_spans_dropped_total{reason=\"queue_full\"}") < 50.0 {
        assert!(start.elapsed() < AT_MOST);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(metric("sluicegate_spans_queued") <= 16.0);
    assert!(metric("sluicegate_span_export_failures_total{reason=\"connect\"}") >= 1.0);
    assert_eq!(metric("sluicegate_spans_exported_total"), 0.0);
    let state = get(gateway.admin, &gateway.admin.to_string(), "/api/v1/state");
    assert!(!state.contains("Sesame"), "{state}");
    let warning = gateway.wait_for("\"why\":");
    assert!(!warning.contains("Sesame"), "{warning}");
    gateway.signal("TERM");
    gateway.signal("TERM");
    gateway.end();
}

#[test]
fn what_waits_is_sent_when_the_gateway_ends() {
    let collector = Collector::start();
    let application = Application::start();
    let endpoint = format!("http://{}", collector.address());
    let flags = ["--otlp-endpoint", &endpoint, "--otlp-delay", "10m", "--lame-duck", "0", "--drain", "5s"];
    let mut gateway = Gateway::start(&application.folder, &flags);
    application.behind(&gateway);
    assert_eq!(call(gateway.http, "web", &Headers::new()), "stored");
    gateway.signal("TERM");
    assert_eq!(gateway.end(), Some(0));
    chain(collector.spans());
}
