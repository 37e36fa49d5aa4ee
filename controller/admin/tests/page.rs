//! The status page and its events over real sockets: what browsers are told, and what is sent to who watches.

use serde_json::Value;
use sluicegate_admin::source::SourceState;
use sluicegate_admin::traffic::PacketTotals;
use sluicegate_admin::*;
use sluicegate_config::Desired;
use sluicegate_telemetry::{MethodLabel, Metrics, Protocol, RequestSample};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const AT_MOST: Duration = Duration::from_secs(60);
const TOKEN: &str = "0123456789abcdef-secret";

/// A gateway with one host and one virtual IP.
#[derive(Default)]
struct Gateway {
    requests: AtomicU64,
    looks: AtomicU64,
}

impl StateView for Gateway {
    fn state(&self, section: Option<Section>) -> Result<State, Unavailable> {
        Ok(State::build(&Desired::default(), &[], &(), &self.ready(), section))
    }

    fn explain(&self, _url: &str) -> Result<Value, ExplainError> {
        Ok(Value::Null)
    }

    fn pulse(&self) -> Pulse {
        let looks = self.looks.fetch_add(1, Ordering::SeqCst) + 1;
        Pulse {
            source: Some(SourceState { outage_seconds: Some(7), ..SourceState::default() }),
            director: None,
            packets: Some(PacketTotals { counted_ms: looks * 1_000, packets: looks * 50, ..PacketTotals::default() }),
            last_change: 3,
        }
    }

    fn visit_traffic(&self, visitor: &mut dyn TrafficVisitor) {
        let requests = self.requests.fetch_add(500, Ordering::SeqCst);
        visitor.host("<b>shop.example</b>", RequestCounts { requests, errors: 0 });
        visitor.backend(&"shop/web:http", RequestCounts { requests, errors: requests / 10 });
    }

    fn ready(&self) -> Readiness {
        Readiness::not_ready("the first state is not applied yet").remark("a remark")
    }
}

fn start(token: Option<&str>) -> (AdminServer, Arc<Metrics>, Arc<Gateway>) {
    let (metrics, gateway) = (Metrics::new(1), Arc::new(Gateway::default()));
    let folder = tempfile::tempdir().expect("folder");
    let token_file = token.map(|token| {
        let path = folder.path().join("token");
        std::fs::write(&path, token).expect("written");
        path
    });
    let admin: SocketAddr = "127.0.0.1:0".parse().expect("address");
    let settings = AdminSettings { metrics: Vec::new(), admin, token_file };
    let server = AdminServer::start(settings, Arc::clone(&gateway) as _, Arc::clone(&metrics)).expect("started");
    (server, metrics, gateway)
}

fn open(address: SocketAddr, target: &str, extra: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(AT_MOST)).expect("set");
    write!(stream, "GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{extra}\r\n").expect("sent");
    BufReader::new(stream)
}

/// Status, head and body.
fn get(address: SocketAddr, target: &str, extra: &str) -> (u16, String, String) {
    let mut text = String::new();
    open(address, target, extra).read_to_string(&mut text).expect("answered");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, head.to_ascii_lowercase(), body.to_owned())
}

/// The next event and its data.
fn event(stream: &mut BufReader<TcpStream>) -> (String, Value) {
    let mut name = None;
    loop {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).expect("an event") > 0, "the events have ended");
        if let Some(event) = line.strip_prefix("event: ") {
            name = Some(event.trim().to_owned());
        } else if let (Some(data), Some(name)) = (line.strip_prefix("data: "), &name) {
            return (name.clone(), serde_json::from_str(data).expect("JSON"));
        }
    }
}

fn wait_for(stream: &mut BufReader<TcpStream>, wanted: &str, mut is_it: impl FnMut(&Value) -> bool) -> Value {
    let begun = Instant::now();
    while begun.elapsed() < AT_MOST {
        let (name, data) = event(stream);
        if name == wanted && is_it(&data) {
            return data;
        }
    }
    panic!("no such {wanted} within {AT_MOST:?}");
}

/// Every file that the page names, beginning with itself.
fn files(address: SocketAddr) -> Vec<(String, String, String)> {
    let mut wanted = vec!["/".to_owned()];
    let mut seen = BTreeSet::new();
    let mut files = Vec::new();
    while let Some(path) = wanted.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let (status, head, body) = get(address, &path, "");
        assert_eq!(status, 200, "{path}");
        for piece in body.split('"').filter(|piece| !piece.contains(['\n', ' ', '<'])) {
            if piece.starts_with("/page/") {
                wanted.push(piece.to_owned());
            } else if let Some(module) = piece.strip_prefix("./") {
                wanted.push(format!("/page/{module}"));
            }
        }
        files.push((path, head, body));
    }
    files
}

#[test]
fn the_page_is_files_of_this_server_alone_under_a_strict_policy() {
    let (server, ..) = start(None);
    let files = files(server.addresses().admin);
    assert!(files.len() >= 10, "{}", files.len());
    for (path, head, body) in &files {
        let policy = head.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).expect("a policy");
        let directives: BTreeSet<&str> = policy.split(';').map(str::trim).collect();
        for directive in
            ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "base-uri 'none'"]
        {
            assert!(directives.contains(directive), "{path}: {policy}");
        }
        for directive in ["frame-ancestors 'none'", "form-action 'none'", "require-trusted-types-for 'script'"] {
            assert!(directives.contains(directive), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"), "{path}: {policy}");
        for header in ["x-content-type-options: nosniff", "cache-control: no-store", "referrer-policy: no-referrer"] {
            assert!(head.contains(header), "{path}: {head}");
        }
        let kind = match path.rsplit_once('.').map(|(_, extension)| extension) {
            None => "text/html",
            Some("css") => "text/css",
            Some("js") => "text/javascript",
            Some("svg") => "image/svg+xml",
            Some(other) => panic!("{path}: {other}"),
        };
        assert!(head.contains(&format!("content-type: {kind}")), "{path}: {head}");
        // Nothing from elsewhere, and nothing that makes markup or code of a text. Addresses in texts are examples, and
        // the namespace of SVG is a name.
        let loads = body.replace("http://www.w3.org/2000/svg", "");
        for foreign in ["src=\"http", "href=\"http", "from \"http", "import(", "url(", "@import", "fetch(\"http"] {
            assert!(!loads.contains(foreign), "{path}: {foreign}");
        }
        for markup in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "srcdoc"]
        {
            assert!(!body.contains(markup), "{path}: {markup}");
        }
        let html = path == "/";
        let handlers =
            [" onclick=", " onload=", " onerror=", " onsubmit=", " style=", "<style", "<script>", "javascript:"];
        assert!(!html || handlers.iter().all(|handler| !body.contains(handler)), "{path} has something inline");
    }
}

#[test]
fn every_file_beside_the_page_is_embedded() {
    let (server, ..) = start(None);
    let served: BTreeSet<String> = files(server.addresses().admin).into_iter().map(|(path, ..)| path).collect();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/page");
    for file in std::fs::read_dir(folder).expect("the folder") {
        let name = file.expect("a file").file_name().into_string().expect("UTF-8");
        let path = if name == "index.html" { "/".to_owned() } else { format!("/page/{name}") };
        assert!(served.contains(&path), "{name} is written and not used");
    }
}

#[test]
fn the_page_comes_without_the_token_and_what_it_shows_does_not() {
    let (server, ..) = start(Some(TOKEN));
    let address = server.addresses().admin;
    for (path, _, body) in files(address) {
        assert!(!body.contains(env!("CARGO_PKG_VERSION")) && !body.contains(TOKEN), "{path} tells something");
    }
    for target in ["/api/v1/events", "/api/v1/state?section=routes", "/page/", "/page/../api/v1/state", "//"] {
        assert_eq!(get(address, target, "").0, 401, "{target}");
    }
    let mut events = open(address, "/api/v1/events", &format!("Authorization: Bearer {TOKEN}\r\n"));
    assert_eq!(event(&mut events).0, "history");
}

#[test]
fn events_begin_with_the_history_and_go_on_with_what_is_sampled() {
    let (server, metrics, gateway) = start(None);
    let address = server.addresses().admin;
    // The sampler runs while nobody watches.
    let begun = Instant::now();
    while gateway.looks.load(Ordering::SeqCst) < 3 {
        assert!(begun.elapsed() < AT_MOST, "nothing is sampled");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut events = open(address, "/api/v1/events", "");
    let (name, history) = event(&mut events);
    assert_eq!(name, "history");
    let columns: Vec<&str> = history["columns"].as_array().expect("columns").iter().filter_map(Value::as_str).collect();
    assert_eq!(&columns[..2], ["at_ms", "requests"]);
    let points = history["fine"].as_array().expect("points");
    assert!(!points.is_empty() && points.iter().all(|point| point.as_array().map(Vec::len) == Some(columns.len())));
    let status = wait_for(&mut events, "status", |_| true);
    assert_eq!((&status["ready"], &status["last_change"]), (&Value::Bool(false), &Value::from(3)));
    assert_eq!(status["reasons"][0], "the first state is not applied yet");
    assert_eq!(
        (&status["remarks"][0], &status["source"]["outage_seconds"]),
        (&Value::from("a remark"), &Value::from(7))
    );
    // What is counted is seen, in the second in which it was.
    for status in [200, 200, 200, 503] {
        metrics.worker(0).request(RequestSample {
            protocol: Protocol::Http11,
            method: MethodLabel::Get,
            status,
            duration: Duration::from_millis(3),
            upstream_duration: None,
            bytes_in: 0,
            bytes_out: 0,
        });
    }
    let column = |name: &str| columns.iter().position(|column| *column == name).expect("a column");
    let sample = wait_for(&mut events, "sample", |sample| sample["fine"][column("requests")].as_f64() > Some(0.0));
    let value = |name: &str| sample["fine"][column(name)].as_f64().expect("a number");
    assert!((value("requests") - 4.0 * value("server_errors")).abs() < 0.01, "{sample}");
    assert!((2.5..=5.0).contains(&value("p50_ms")), "{sample}");
    assert!((value("packets") - 50.0).abs() < 0.01, "{sample}");
    let names = wait_for(&mut events, "names", |names| !names["hosts"].as_array().expect("hosts").is_empty());
    assert_eq!(names["hosts"][0]["name"], "<b>shop.example</b>");
    let backend = &names["backends"][0];
    let (rate, failed) = (backend["first"].as_f64().expect("a rate"), backend["second"].as_f64().expect("a rate"));
    assert!(rate > 10.0 && (failed * 10.0 - rate).abs() < rate / 5.0, "{backend}");
}

#[test]
fn who_watches_is_bounded_and_a_stop_ends_the_events() {
    let (server, ..) = start(None);
    let address = server.addresses().admin;
    let mut watching: Vec<BufReader<TcpStream>> = (0..32)
        .map(|_| {
            let mut events = open(address, "/api/v1/events", "");
            assert_eq!(event(&mut events).0, "history");
            events
        })
        .collect();
    let (status, _, body) = get(address, "/api/v1/events", "");
    assert_eq!(status, 503);
    assert!(body.contains("32 watch already"), "{body}");
    assert_eq!(get(address, "/api/v1/events?every=1", "").0, 400);
    // Who goes makes room.
    drop(watching.pop());
    let begun = Instant::now();
    let mut one = loop {
        assert!(begun.elapsed() < AT_MOST, "a page that is gone is not forgotten");
        let mut events = open(address, "/api/v1/events", "");
        let mut line = String::new();
        events.read_line(&mut line).expect("answered");
        if line.contains(" 200 ") {
            break events;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let begun = Instant::now();
    server.stop();
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    let mut rest = Vec::new();
    assert!(one.read_to_end(&mut rest).is_ok() && rest.ends_with(b"0\r\n\r\n"), "the events were cut");
}
