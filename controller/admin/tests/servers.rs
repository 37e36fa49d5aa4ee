//! The servers over real sockets, asked by a client that is written byte by byte.

use serde_json::{Value, json};
use sluicegate_admin::director::{CordonError, DirectorState};
use sluicegate_admin::*;
use sluicegate_config::{Desired, Rejection};
use sluicegate_telemetry::{FaultReason, Metrics, RequestFilter};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

const TOKEN: &str = "0123456789abcdef-secret";

/// A gateway that is told what to say.
#[derive(Default)]
struct Gateway {
    ready: AtomicBool,
    lame_duck: AtomicBool,
    gone: AtomicBool,
    rejections: Vec<Rejection>,
    /// Views that are being made, and the most at one time.
    busy: AtomicUsize,
    busiest: AtomicUsize,
    hold: Mutex<Option<Arc<Barrier>>>,
    /// Who reads packets, and what was asked for last.
    readers: Arc<AtomicUsize>,
    tapped: Mutex<Option<TapRequest>>,
    requests_tapped: Mutex<Option<RequestFilter>>,
}

/// Readers of packets at a time.
const MOST_READERS: usize = 2;

/// Some lines at once, and then none for as long as somebody reads.
struct Reader {
    readers: Arc<AtomicUsize>,
    left: u32,
}

impl Lines for Reader {
    fn poll_line(&mut self, _context: &mut Context<'_>) -> Poll<Option<bytes::Bytes>> {
        if self.left == 0 {
            return Poll::Pending;
        }
        self.left -= 1;
        Poll::Ready(Some(format!("{{\"left\":{}}}\n", self.left).into()))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.readers.fetch_sub(1, Ordering::SeqCst);
    }
}

impl StateView for Gateway {
    fn state(&self, section: Option<Section>) -> Result<State, Unavailable> {
        if self.gone.load(Ordering::Relaxed) {
            return Err(Unavailable("the controller has ended".to_owned()));
        }
        let now = self.busy.fetch_add(1, Ordering::SeqCst) + 1;
        self.busiest.fetch_max(now, Ordering::SeqCst);
        let hold = self.hold.lock().expect("no panic").clone();
        if let Some(barrier) = hold {
            barrier.wait();
        }
        self.busy.fetch_sub(1, Ordering::SeqCst);
        Ok(State::build(&Desired::default(), &self.rejections, &(), &self.ready(), section))
    }

    fn explain(&self, url: &str) -> Result<Value, ExplainError> {
        if url.starts_with("http") {
            Ok(json!({ "url": url }))
        } else {
            Err(ExplainError::Url(format!("`{url}` is no URL")))
        }
    }

    fn cordon(&self, cordoned: bool, force: bool) -> Result<DirectorState, CordonError> {
        let ready = self.ready.load(Ordering::Relaxed);
        if cordoned && !force && !ready {
            return Err(CordonError::Alone);
        }
        Ok(DirectorState { name: "edge1".to_owned(), cordoned, ..DirectorState::default() })
    }

    fn explain_packet(&self, packet: &str) -> Result<Value, ExplainError> {
        if packet.starts_with("tcp,") {
            Ok(json!({ "packet": packet }))
        } else {
            Err(ExplainError::Packet(format!("`{packet}` is no packet")))
        }
    }

    fn tap_requests(&self, filter: RequestFilter) -> Result<Box<dyn Lines>, TapError> {
        *self.requests_tapped.lock().expect("no panic") = Some(filter);
        Err(TapError("nobody asks for anything here".to_owned()))
    }

    fn tap(&self, request: &TapRequest) -> Result<Box<dyn Lines>, TapError> {
        *self.tapped.lock().expect("no panic") = Some(*request);
        if self.readers.fetch_add(1, Ordering::SeqCst) >= MOST_READERS {
            self.readers.fetch_sub(1, Ordering::SeqCst);
            return Err(TapError("2 readers are there already: end one of them first".to_owned()));
        }
        Ok(Box::new(Reader { readers: Arc::clone(&self.readers), left: 3 }))
    }

    fn ready(&self) -> Readiness {
        let mut readiness = Readiness::ready();
        if !self.ready.load(Ordering::Relaxed) {
            readiness = readiness.and("the first full state is not applied");
        }
        if self.lame_duck.load(Ordering::Relaxed) {
            readiness = readiness.and("draining");
        }
        readiness
    }
}

struct Fixture {
    gateway: Arc<Gateway>,
    metrics: Arc<Metrics>,
    server: AdminServer,
}

fn loopback() -> AdminSettings {
    let any: SocketAddr = "127.0.0.1:0".parse().expect("address");
    AdminSettings { metrics: vec![any], admin: any, token_file: None }
}

fn start_with(gateway: Gateway, settings: AdminSettings) -> Fixture {
    let (gateway, metrics) = (Arc::new(gateway), Metrics::new(1));
    let view: Arc<dyn StateView> = Arc::clone(&gateway) as _;
    let server = AdminServer::start(settings, view, Arc::clone(&metrics)).expect("started");
    Fixture { gateway, metrics, server }
}

fn start() -> Fixture {
    start_with(Gateway::default(), loopback())
}

impl Fixture {
    fn metrics_address(&self) -> SocketAddr {
        self.server.addresses().metrics[0]
    }
    fn admin_address(&self) -> SocketAddr {
        self.server.addresses().admin
    }
}

fn token_file(content: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("token");
    std::fs::write(&path, content).expect("written");
    (folder, path)
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
    fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

fn send(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("answered");
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let (head, mut body) = (String::from_utf8_lossy(&bytes[..end]), bytes[end + 4..].to_vec());
    if head.to_ascii_lowercase().contains("\r\ncontent-encoding: gzip") {
        let compressed = std::mem::take(&mut body);
        flate2::read::GzDecoder::new(&*compressed).read_to_end(&mut body).expect("gzip");
    }
    let body = String::from_utf8(body).expect("UTF-8");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("status");
    Answer { status, head: head.into_owned(), body }
}

fn ask(address: SocketAddr, method: &str, target: &str, extra: &str) -> Answer {
    send(address, &format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{extra}\r\n"))
}

fn get(address: SocketAddr, target: &str) -> Answer {
    ask(address, "GET", target, "")
}

#[test]
fn probes_and_metrics_answer_on_the_metrics_address() {
    let fixture = start();
    let address = fixture.metrics_address();
    let healthy = get(address, "/healthz");
    assert_eq!((healthy.status, healthy.body.as_str()), (200, "ok\n"));
    fixture.metrics.worker(0).fault(FaultReason::NoRoute);
    let plain = get(address, "/metrics");
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(plain.body.contains("# TYPE sluicegate_faults_total counter\n"), "{}", plain.body);
    assert!(plain.body.contains("\nsluicegate_faults_total{reason=\"no_route\"} 1\n"));
    let open = ask(address, "GET", "/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n");
    assert!(open.header("content-type").is_some_and(|kind| kind.starts_with("application/openmetrics-text")));
    assert!(open.body.ends_with("# EOF\n") && open.body.contains("# TYPE sluicegate_faults counter\n"));
    assert_eq!(open.header("cache-control"), Some("no-store"));
}

#[test]
fn metrics_are_compressed_for_who_takes_that() {
    let fixture = start();
    let address = fixture.metrics_address();
    let table = [
        ("gzip", true),
        ("GZIP", true),
        ("deflate, gzip;q=0.5", true),
        ("*", true),
        ("gzip;q=0", false),
        ("gzip;q=0.0, *", false),
        ("*;q=0", false),
        ("identity", false),
        ("gzipped", false),
    ];
    for (value, expected) in table {
        let answer = ask(address, "GET", "/metrics", &format!("Accept-Encoding: {value}\r\n"));
        assert_eq!(answer.header("content-encoding"), expected.then_some("gzip"), "{value}");
        assert_eq!(answer.header("vary"), Some("accept, accept-encoding"));
        let text = &answer.body;
        assert!(
            text.starts_with("# HELP ") && text.ends_with('\n') && text.contains("\nsluicegate_workers "),
            "{value}"
        );
    }
}

#[test]
fn readiness_flips_with_its_reasons() {
    let fixture = start();
    let address = fixture.metrics_address();
    let early = get(address, "/readyz");
    assert_eq!(early.status, 503);
    assert_eq!(early.json(), json!({ "ready": false, "reasons": ["the first full state is not applied"] }));
    fixture.gateway.ready.store(true, Ordering::Relaxed);
    let ready = get(address, "/readyz");
    assert_eq!((ready.status, ready.json()), (200, json!({ "ready": true, "reasons": [] })));
    fixture.gateway.lame_duck.store(true, Ordering::Relaxed);
    let draining = get(address, "/readyz");
    assert_eq!((draining.status, draining.json()["reasons"].clone()), (503, json!(["draining"])));
    // It lives all the same.
    assert_eq!(get(address, "/healthz").status, 200);
}

#[test]
fn the_two_addresses_do_not_serve_each_other() {
    let fixture = start();
    for path in ["/", "/api/v1/state", "/api/v1/explain?url=http://a.example/"] {
        assert_eq!(get(fixture.metrics_address(), path).status, 404, "{path}");
    }
    for path in ["/metrics", "/healthz", "/readyz", "/api", "/api/v1/state/", "/favicon.ico"] {
        let answer = get(fixture.admin_address(), path);
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.json()["remedy"].as_str().is_some_and(|remedy| remedy.contains("/api/v1/state")));
    }
}

#[test]
fn state_comes_whole_or_by_section() {
    let fixture = start();
    let address = fixture.admin_address();
    let whole: State = serde_json::from_str(&get(address, "/api/v1/state").body).expect("the schema");
    assert!(whole.routes.is_some() && whole.rejections.is_some() && whole.listeners.is_some());
    let routes = get(address, "/api/v1/state?section=routes").json();
    assert!(routes.get("routes").is_some() && routes.get("backends").is_none());
    for bad in ["section=route", "section=", "sectoin=routes", "section=routes&section=vips", "section=routes&x=1"] {
        let answer = get(address, &format!("/api/v1/state?{bad}"));
        assert_eq!(answer.status, 400, "{bad}");
        assert!(!answer.json()["error"].as_str().unwrap_or_default().is_empty());
    }
    fixture.gateway.gone.store(true, Ordering::Relaxed);
    let gone = get(address, "/api/v1/state");
    assert_eq!((gone.status, gone.json()["error"].clone()), (503, json!("the controller has ended")));
    // The page tells so by itself.
    assert_eq!(get(address, "/").status, 200);
}

#[test]
fn explain_takes_an_encoded_url() {
    let fixture = start();
    let address = fixture.admin_address();
    let answer = get(address, "/api/v1/explain?url=https%3A%2F%2Fweb.example%2Fa%3Fb%3Dc%26d");
    assert_eq!((answer.status, answer.json()), (200, json!({ "url": "https://web.example/a?b=c&d" })));
    assert_eq!(get(address, "/api/v1/explain?url=https://web.example/a").status, 200);
    let table = [
        ("/api/v1/explain".to_owned(), 400),
        ("/api/v1/explain?url=nonsense".to_owned(), 400),
        ("/api/v1/explain?url=http://a.example/?b&c=d".to_owned(), 400),
        (format!("/api/v1/explain?url=http://a.example/{}", "a".repeat(9_000)), 414),
    ];
    for (target, status) in table {
        assert_eq!(get(address, &target).status, status, "{}", &target[..target.len().min(60)]);
    }
}

#[test]
fn only_get_and_head_and_no_word_for_other_origins() {
    let fixture = start();
    for address in [fixture.metrics_address(), fixture.admin_address()] {
        let path = if address == fixture.metrics_address() { "/metrics" } else { "/api/v1/state" };
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
            let answer = ask(address, method, path, "Origin: http://evil.test\r\n");
            assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method}");
            assert!(!answer.head.to_ascii_lowercase().contains("access-control"), "{answer:?}");
        }
        let head = ask(address, "HEAD", path, "");
        assert_eq!((head.status, head.body.as_str()), (200, ""));
        assert!(head.header("content-length").is_some_and(|length| length != "0"));
    }
}

#[test]
fn a_body_is_not_read_and_ends_the_connection() {
    let fixture = start();
    let address = fixture.admin_address();
    let request =
        format!("POST /api/v1/state HTTP/1.1\r\nHost: {address}\r\nContent-Length: 1000000000\r\n\r\nstart of it");
    let answer = send(address, &request);
    assert_eq!((answer.status, answer.header("connection")), (405, Some("close")));
}

#[test]
fn web_pages_cannot_reach_a_loopback_address_by_a_name_of_their_own() {
    let fixture = start();
    for (address, path) in [(fixture.admin_address(), "/api/v1/state"), (fixture.metrics_address(), "/metrics")] {
        let port = address.port();
        let good =
            [format!("localhost:{port}"), "localhost".into(), format!("127.0.0.1:{port}"), format!("[::1]:{port}")];
        for host in good {
            let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            assert_eq!(send(address, &request).status, 200, "{host}");
        }
        let bad = [
            format!("Host: rebound.evil.test:{port}\r\n"),
            "Host: localhost.evil.test\r\n".into(),
            "Host: 192.0.2.1\r\n".into(),
            "Host: \r\n".into(),
            String::new(),
            "Host: localhost\r\nHost: rebound.evil.test\r\n".into(),
        ];
        for host in bad {
            let answer = send(address, &format!("GET {path} HTTP/1.1\r\n{host}Connection: close\r\n\r\n"));
            assert!(matches!(answer.status, 400 | 421), "{host:?}: {answer:?}");
            assert!(!answer.body.contains("generation"), "{host:?}");
        }
        let absolute =
            format!("GET http://rebound.evil.test{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert_eq!(send(address, &absolute).status, 421);
    }
}

#[test]
fn the_token_guards_the_admin_address_alone() {
    let (_folder, path) = token_file(&format!("{TOKEN}\n"));
    let fixture = start_with(Gateway::default(), AdminSettings { token_file: Some(path), ..loopback() });
    let address = fixture.admin_address();
    for target in ["/api/v1/state", "/api/v1/explain?url=http://a.example/", "/api/v1/events", "/page/", "/nothing"] {
        let without = get(address, target);
        assert_eq!((without.status, without.header("www-authenticate")), (401, Some("Bearer realm=\"sluicegate\"")));
    }
    let with = |value: &str| ask(address, "GET", "/api/v1/state", &format!("Authorization: {value}\r\n")).status;
    assert_eq!(with(&format!("Bearer {TOKEN}")), 200);
    assert_eq!(with(&format!("bearer {TOKEN}")), 200);
    for wrong in
        ["Bearer ", "Bearer 0123456789abcdef-secreT", &format!("Basic {TOKEN}"), TOKEN, &format!("Bearer {TOKEN}x")]
    {
        assert_eq!(with(wrong), 401, "{wrong}");
    }
    assert_eq!(get(fixture.metrics_address(), "/metrics").status, 200);
}

#[test]
fn off_loopback_a_token_is_needed_and_then_any_host_name_will_do() {
    let open = AdminSettings { admin: "0.0.0.0:0".parse().expect("address"), ..loopback() };
    let view: Arc<dyn StateView> = Arc::new(Gateway::default());
    let error = AdminServer::start(open.clone(), view, Metrics::new(1)).expect_err("refused");
    assert!(matches!(error, StartError::TokenNeeded { .. }));
    assert!(error.to_string().contains("--admin-token-file"), "{error}");
    for address in ["[::]:0", "192.0.2.1:0", "[2001:db8::1]:0"] {
        let settings = AdminSettings { admin: address.parse().expect("address"), ..loopback() };
        let started = AdminServer::start(settings, Arc::new(Gateway::default()), Metrics::new(1));
        assert!(matches!(started, Err(StartError::TokenNeeded { .. })), "{address}");
    }

    let (_folder, path) = token_file(TOKEN);
    let fixture = start_with(Gateway::default(), AdminSettings { token_file: Some(path), ..open });
    let address = SocketAddr::from(([127, 0, 0, 1], fixture.admin_address().port()));
    let request = |authorization: &str| {
        format!("GET /api/v1/state HTTP/1.1\r\nHost: gateway.example\r\nConnection: close\r\n{authorization}\r\n")
    };
    assert_eq!(send(address, &request("")).status, 401);
    assert_eq!(send(address, &request(&format!("Authorization: Bearer {TOKEN}\r\n"))).status, 200);
}

#[test]
fn what_keeps_the_servers_from_starting_names_the_flag_and_the_remedy() {
    let refused = |settings: AdminSettings| {
        AdminServer::start(settings, Arc::new(Gateway::default()), Metrics::new(1)).expect_err("refused").to_string()
    };
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("address");
    let error = refused(AdminSettings { admin: address, ..loopback() });
    assert!(error.contains("--admin") && error.contains("in use") && error.contains(&address.to_string()), "{error}");
    let error = refused(AdminSettings { metrics: vec![address], ..loopback() });
    assert!(error.starts_with("--metrics"), "{error}");
    let error = refused(AdminSettings { metrics: vec!["192.0.2.1:0".parse().expect("address")], ..loopback() });
    assert!(error.contains("--metrics") && error.contains("does not have the address"), "{error}");
    let missing = PathBuf::from("/nonexistent/token");
    let error = refused(AdminSettings { token_file: Some(missing), ..loopback() });
    assert!(error.contains("--admin-token-file /nonexistent/token"), "{error}");
    let (_folder, path) = token_file("short");
    let error = refused(AdminSettings { token_file: Some(path), ..loopback() });
    assert!(error.contains("16 characters") && error.contains("openssl rand"), "{error}");
}

#[test]
fn both_families_answer_on_the_unspecified_ipv6_address() {
    let settings = AdminSettings { metrics: vec!["[::]:0".parse().expect("address")], ..loopback() };
    let fixture = start_with(Gateway::default(), settings);
    let port = fixture.metrics_address().port();
    assert_eq!(get(SocketAddr::from(([127, 0, 0, 1], port)), "/healthz").status, 200);
    if fixture.metrics_address().is_ipv6() {
        assert_eq!(get(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port)), "/healthz").status, 200);
    }
}

#[test]
fn probes_are_answered_while_views_are_being_made_and_views_are_bounded() {
    let fixture = start();
    let barrier = Arc::new(Barrier::new(3));
    *fixture.gateway.hold.lock().expect("no panic") = Some(Arc::clone(&barrier));
    let (admin, metrics) = (fixture.admin_address(), fixture.metrics_address());
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..6).map(|_| scope.spawn(move || get(admin, "/api/v1/state").status)).collect();
        let since = Instant::now();
        while fixture.gateway.busy.load(Ordering::SeqCst) < 2 && since.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(fixture.gateway.busy.load(Ordering::SeqCst), 2);
        for path in ["/healthz", "/metrics"] {
            let since = Instant::now();
            assert_eq!(get(metrics, path).status, 200);
            assert!(since.elapsed() < Duration::from_secs(1), "{path} waited");
        }
        // Each round lets the two views through that are held.
        (0..3).for_each(|_| {
            barrier.wait();
        });
        assert!(asking.into_iter().all(|asked| asked.join().expect("no panic") == 200));
    });
    assert_eq!(fixture.gateway.busiest.load(Ordering::SeqCst), 2);
}

#[test]
fn many_idle_connections_do_not_keep_a_probe_out() {
    let fixture = start();
    let address = fixture.metrics_address();
    let idle: Vec<TcpStream> = (0..600)
        .map(|_| {
            let mut stream = TcpStream::connect(address).expect("connected");
            stream.write_all(b"GET /healthz HTTP/1.1\r\n").expect("sent");
            stream
        })
        .collect();
    let since = Instant::now();
    assert_eq!(get(address, "/healthz").status, 200);
    assert!(since.elapsed() < Duration::from_secs(5));
    // The oldest paid for it.
    let mut oldest = &idle[0];
    oldest.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
    assert!(matches!(oldest.read(&mut [0; 16]), Ok(0) | Err(_)));
}

#[test]
fn hostile_requests_are_refused_and_bounded() {
    let fixture = start();
    let address = fixture.admin_address();
    let table = [
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(64 * 1024)),
        format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(200)),
        "GET / HTTP/9.9\r\nHost: localhost\r\n\r\n".to_owned(),
        "\u{0}\u{1}\u{2}\r\n\r\n".to_owned(),
    ];
    for request in table {
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        // The server may close before it has read everything.
        let _sent = stream.write_all(request.as_bytes());
        let mut bytes = Vec::new();
        let _ended = stream.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        let refused = text.is_empty() || ["HTTP/1.1 400", "HTTP/1.1 431"].iter().any(|status| text.starts_with(status));
        assert!(refused, "{text}");
    }
    assert_eq!(get(address, "/api/v1/state").status, 200);
}

#[test]
fn stopping_frees_the_ports_and_ends_idle_connections() {
    let fixture = start();
    let addresses = fixture.server.addresses().clone();
    let mut idle = TcpStream::connect(addresses.admin).expect("connected");
    idle.write_all(format!("GET /api/v1/state HTTP/1.1\r\nHost: {}\r\n\r\n", addresses.admin).as_bytes())
        .expect("sent");
    idle.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    assert!(idle.read(&mut [0; 1]).is_ok_and(|read| read == 1));
    let since = Instant::now();
    fixture.server.stop();
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    let mut rest = Vec::new();
    assert!(idle.read_to_end(&mut rest).is_ok(), "the connection was cut in an answer or is still open");
    let settings = AdminSettings { metrics: addresses.metrics.clone(), admin: addresses.admin, token_file: None };
    let again = start_with(Gateway::default(), settings);
    assert_eq!(again.server.addresses(), &addresses);
}

#[test]
fn a_director_is_cordoned_by_post_and_by_no_web_page() {
    let fixture = start();
    let address = fixture.admin_address();
    let post = |target: &str, extra: &str| ask(address, "POST", target, extra);
    let alone = post("/api/v1/cordon", "");
    assert_eq!(alone.status, 409);
    assert!(alone.body.contains("no other director") && alone.body.contains("force"), "{}", alone.body);
    let forced: Value = serde_json::from_str(&post("/api/v1/cordon?force=true", "").body).expect("JSON");
    assert_eq!((&forced["name"], &forced["cordoned"]), (&json!("edge1"), &json!(true)));
    let back: Value = serde_json::from_str(&post("/api/v1/uncordon", "").body).expect("JSON");
    assert_eq!(back["cordoned"], false);
    fixture.gateway.ready.store(true, Ordering::Relaxed);
    assert_eq!(post("/api/v1/cordon", "").status, 200);
    assert_eq!(post("/api/v1/cordon?force=perhaps", "").status, 400);
    assert_eq!(post("/api/v1/cordon?name=edge1", "").status, 400);
    for origin in ["Origin: https://evil.test\r\n", "Origin: null\r\n"] {
        assert_eq!(post("/api/v1/uncordon", origin).status, 403, "{origin}");
    }
    let read = get(address, "/api/v1/cordon");
    assert_eq!((read.status, read.header("allow")), (405, Some("POST")));
    assert_eq!(post("/api/v1/state", "").status, 405);
    assert_eq!(ask(fixture.metrics_address(), "POST", "/api/v1/cordon", "").status, 405);
}

#[test]
fn explain_takes_a_packet_or_a_url() {
    let fixture = start();
    let address = fixture.admin_address();
    let packet = "tcp,[2001:db8::7]:40000,[2001:db8::10]:80";
    let told = get(address, "/api/v1/explain?packet=tcp,%5B2001:db8::7%5D:40000,%5B2001:db8::10%5D:80");
    assert_eq!((told.status, told.json()), (200, json!({ "packet": packet })));
    let table = [
        ("packet=nonsense", "`nonsense` is no packet"),
        ("packet=", "`` is no packet"),
        ("packet=tcp,a&packet=tcp,b", "the parameter `packet` is there twice"),
        ("packet=tcp,a&url=http://a.example/", "one of the parameters `url` and `packet` is needed"),
        ("paket=tcp,a", "the parameter `paket` is unknown"),
    ];
    for (query, error) in table {
        let answer = get(address, &format!("/api/v1/explain?{query}"));
        assert_eq!((answer.status, answer.json()["error"].as_str()), (400, Some(error)), "{query}");
        assert!(answer.json()["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{query}");
    }
    let long = get(address, &format!("/api/v1/explain?packet=tcp,{}", "a".repeat(9_000)));
    assert_eq!(long.status, 414, "{long:?}");
}

#[test]
fn what_is_asked_of_the_tap_is_checked_and_bounded() {
    let fixture = start();
    let address = fixture.admin_address();
    let table = [
        ("every=0", "`every` is no number from 1 to 4294967295"),
        ("every=ten", "`every` is no number from 1 to 4294967295"),
        ("every=4294967296", "`every` is no number from 1 to 4294967295"),
        ("snap=0", "`snap` is no number from 1 to 232"),
        ("snap=233", "`snap` is no number from 1 to 232"),
        ("snap=-1", "`snap` is no number from 1 to 232"),
        ("vip=web.example", "`vip` is no address"),
        ("vip=", "`vip` is no address"),
        ("all=yes", "`all` is neither true nor false"),
        ("every=1&every=2", "the parameter `every` is there twice"),
        ("count=5", "the parameter `count` is unknown"),
    ];
    for (query, error) in table {
        let answer = get(address, &format!("/api/v1/tap?{query}"));
        assert_eq!((answer.status, answer.json()["error"].as_str()), (400, Some(error)), "{query}");
        assert!(answer.json()["remedy"].as_str().is_some_and(|remedy| remedy.contains("/api/v1/tap?")), "{query}");
    }
    assert!(fixture.gateway.tapped.lock().expect("no panic").is_none(), "nobody read by a bad question");
    let table = [
        ("", TapRequest { every: 1, vip: None, all: false, snap: 128 }),
        (
            "?every=100&vip=2001:db8::10&snap=232&all=true",
            TapRequest { every: 100, vip: "2001:db8::10".parse().ok(), all: true, snap: 232 },
        ),
    ];
    for (query, wanted) in table {
        let _stream = reader(address, query);
        assert_eq!(*fixture.gateway.tapped.lock().expect("no panic"), Some(wanted), "{query}");
    }
}

#[test]
fn what_is_asked_of_live_requests_becomes_a_filter() {
    let fixture = start();
    let address = fixture.admin_address();
    let asked = || fixture.gateway.requests_tapped.lock().expect("no panic").take();
    for (query, filter) in [
        ("", None),
        ("?host=*.web.example", Some("host=*.web.example")),
        ("?status=5xx&slow=200ms&path=/a/*", Some("path=/a/*&duration>=200ms&status=5xx")),
        ("?status=%3E%3D400&method=GET&ingress=shop/web", Some("ingress=shop/web&method=GET&status>=400")),
    ] {
        let filter = filter.map_or_else(RequestFilter::default, |filter| filter.parse().expect("a filter"));
        let answer = get(address, &format!("/api/v1/tap/requests{query}"));
        assert_eq!((answer.status, asked()), (503, Some(filter)), "{query}: {answer:?}");
    }
    for (query, part) in [
        ("status=6yy", "a class such as 5xx"),
        ("slow=1", "a number with a unit"),
        ("host=", "there is no value"),
        ("ingress=web", "namespace/name"),
        ("duration=1s", "the parameter `duration` is unknown"),
    ] {
        let answer = get(address, &format!("/api/v1/tap/requests?{query}"));
        let error = answer.json()["error"].as_str().unwrap_or_default().to_owned();
        assert!(answer.status == 400 && error.contains(part), "{query}: {error}");
    }
    assert_eq!(asked(), None, "nobody watches by a bad question");
}

#[test]
fn readers_of_packets_are_bounded_and_make_room_when_they_go() {
    let fixture = start();
    let address = fixture.admin_address();
    let mut readers: Vec<TcpStream> = (0..MOST_READERS).map(|_| reader(address, "")).collect();
    let refused = get(address, "/api/v1/tap");
    assert_eq!(refused.status, 503);
    assert!(refused.json()["error"].as_str().is_some_and(|error| error.contains("2 readers")), "{refused:?}");
    // Those who read keep nobody from asking something else.
    assert_eq!(get(address, "/api/v1/state").status, 200);
    drop(readers.pop());
    let begun = Instant::now();
    while fixture.gateway.readers.load(Ordering::SeqCst) == MOST_READERS {
        assert!(begun.elapsed() < Duration::from_secs(60), "a reader that is gone is not forgotten");
        std::thread::sleep(Duration::from_millis(10));
    }
    readers.push(reader(address, "?every=10"));
    // A stop does not wait for readers.
    let begun = Instant::now();
    drop(fixture);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

/// Somebody who reads packets, with the first lines read.
fn reader(address: SocketAddr, query: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    write!(stream, "GET /api/v1/tap{query} HTTP/1.1\r\nHost: {address}\r\n\r\n").expect("sent");
    let mut seen = String::new();
    while !seen.contains("{\"left\":0}\n") {
        let mut bytes = [0; 1024];
        let read = stream.read(&mut bytes).expect("lines");
        assert!(read > 0, "the stream has ended: {seen}");
        seen.push_str(std::str::from_utf8(&bytes[..read]).expect("UTF-8"));
    }
    assert!(seen.starts_with("HTTP/1.1 200") && seen.contains("application/x-ndjson"), "{seen}");
    stream
}
