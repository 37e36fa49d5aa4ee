//! What the running gateway tells of requests: the access log and `tap`.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not there")]

mod cli_support;

use cli_support::{AT_MOST, Gateway, free_address, get, manifests, run_to_end};
use serde_json::Value;
use sluicegate_echo::EchoBackend;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// An Ingress with its Service and pods; `more` stands in its metadata.
fn site(host: &str, pods: &[SocketAddr], more: &str) -> String {
    let name = host.split('.').next().unwrap();
    let mut text = format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, namespace: shop{more}}}\nspec:\n  rules:\n  - host: {host}\n    \
         http:\n      paths:\n      - {{path: /, pathType: Prefix, backend: {{service: {{name: {name}, port: {{number: 80}}}}}}}}\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{{port: 80}}]}}\n"
    );
    for (index, pod) in pods.iter().enumerate() {
        text.push_str(&format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-{index}, namespace: shop, \
             labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports: [{{name: \"\", port: {}}}]\n\
             endpoints: [{{addresses: [{}], nodeName: node-{index}, targetRef: {{kind: Pod, name: {name}-pod-{index}}}}}]\n",
            pod.port(),
            pod.ip()
        ));
    }
    text
}

struct World {
    _runtime: Runtime,
    _pod: EchoBackend,
    folder: TempDir,
    logs: TempDir,
}

impl World {
    /// web answers, gone has a pod where nobody listens, quiet wants no access log.
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let pod = runtime.block_on(EchoBackend::builder("web").start()).unwrap();
        let folder = manifests(&[
            ("web.yaml", &site("web.example", &[pod.address()], "")),
            ("gone.yaml", &site("gone.example", &[free_address()], "")),
            ("empty.yaml", &site("empty.example", &[], "")),
            (
                "quiet.yaml",
                &site(
                    "quiet.example",
                    &[pod.address()],
                    ", annotations: {nginx.ingress.kubernetes.io/enable-access-log: \"false\"}",
                ),
            ),
        ]);
        Self { _runtime: runtime, _pod: pod, folder, logs: TempDir::new().unwrap() }
    }

    fn log(&self) -> PathBuf {
        self.logs.path().join("access.log")
    }

    fn start(&self, more: &[&str]) -> Gateway {
        let log = self.log();
        // Lines of several workers are in no order.
        let mut arguments = vec!["--access-log", log.to_str().unwrap(), "--lame-duck", "0s", "--workers", "1"];
        arguments.extend(more);
        Gateway::start(&self.folder, &arguments)
    }
}

#[track_caller]
fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(start.elapsed() < AT_MOST, "{what}: not within {AT_MOST:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The lines of a file, once there are so many.
#[track_caller]
fn lines(path: &Path, count: usize) -> Vec<String> {
    until("lines of the access log", || {
        let text = fs::read_to_string(path).ok()?;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count && text.ends_with('\n')).then_some(lines)
    })
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// Sends a request as it stands and reads the answer.
fn send(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(AT_MOST)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn every_request_is_a_line_with_where_it_went_and_why_it_failed() {
    let world = World::new();
    let mut gateway = world.start(&["--trace-propagation", "tracecontext"]);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = format!(
        "POST /cart?token=hush&a=b HTTP/1.1\r\nHost: web.example\r\nUser-Agent: test \"1\"\r\nAuthorization: Bearer hush\r\n\
         Cookie: a=hush\r\nX-Request-ID: req-1\r\ntraceparent: 00-{trace}-00f067aa0ba902b7-01\r\nContent-Length: 5\r\n\
         Connection: close\r\n\r\nhello"
    );
    assert!(send(gateway.http, &request).starts_with("HTTP/1.1 200"));
    let line = json(&lines(&world.log(), 1)[0]);
    for (field, value) in [
        ("status", 200.into()),
        ("method", "POST".into()),
        ("host", "web.example".into()),
        ("path", "/cart".into()),
        ("query", "token=REDACTED&a=b".into()),
        ("protocol", "http/1.1".into()),
        ("client", "127.0.0.1".into()),
        ("local", gateway.http.to_string().into()),
        ("bytes_in", 5.into()),
        ("namespace", "shop".into()),
        ("ingress", "web".into()),
        ("rule_host", "web.example".into()),
        ("service", "web".into()),
        ("service_port", "80".into()),
        ("user_agent", "test \"1\"".into()),
        ("request_id", "req-1".into()),
        ("trace_id", trace.into()),
        ("parent_span_id", "00f067aa0ba902b7".into()),
    ] {
        let value: Value = value;
        assert_eq!(line[field], value, "{field}: {line}");
    }
    let tries = line["tries"].as_array().unwrap();
    assert_eq!((tries.len(), &tries[0]["pod"], &tries[0]["status"]), (1, &"web-pod-0".into(), &200.into()), "{line}");
    assert_ne!(tries[0]["span_id"], line["span_id"], "each try is a span of its own");
    assert!(!line.to_string().contains("hush"), "{line}");

    get(gateway.http, "gone.example", "/");
    get(gateway.http, "empty.example", "/");
    get(gateway.http, "unknown.example", "/");
    send(gateway.http, "GET / HTTP/1.1\nHost: web.example\r\n\r\n");
    get(gateway.http, "quiet.example", "/");
    get(gateway.http, "web.example", "/last");
    let told: Vec<Value> = lines(&world.log(), 6)[1..].iter().map(|line| json(line)).collect();
    let reasons: Vec<_> = told.iter().map(|line| (line["status"].clone(), line["reason"].clone())).collect();
    let expected: Vec<(Value, Value)> = vec![
        (502.into(), "connect_refused".into()),
        (503.into(), "no_endpoints".into()),
        (404.into(), "no_route".into()),
        (400.into(), "bad_request".into()),
        (200.into(), Value::Null),
    ];
    assert_eq!(reasons, expected, "an Ingress that wants no line has none");
    assert_eq!(told[0]["tries"][0]["error"], "refused", "{}", told[0]);
    assert!(told[0]["trace_id"].as_str().is_some_and(|id| id.len() == 32), "{}", told[0]);

    // What waits is written before the process ends.
    get(gateway.http, "web.example", "/drained");
    gateway.signal("TERM");
    assert_eq!(gateway.end(), Some(0));
    assert!(fs::read_to_string(world.log()).unwrap().contains("\"path\":\"/drained\""));
}

#[test]
fn the_line_of_ingress_nginx_filters_and_samples() {
    let world = World::new();
    let gateway = world.start(&["--access-log-format", "nginx"]);
    send(
        gateway.http,
        "GET /a?b=c HTTP/1.1\r\nHost: web.example\r\nX-Request-ID: 7\r\nUser-Agent: curl\r\nConnection: close\r\n\r\n",
    );
    let line = lines(&world.log(), 1).remove(0);
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    assert!(line.contains("] \"GET /a?b=c HTTP/1.1\" 200 ") && line.contains(" \"-\" \"curl\" "), "{line}");
    assert!(line.contains(" [shop-web-80] [] 127.0.0.1:") && line.ends_with(" 200 7"), "{line}");
    drop(gateway);
    fs::remove_file(world.log()).unwrap();

    let filters = ["--access-log-filter", "status>=500&ingress=shop/*", "--access-log-filter", "path=/kept/*"];
    let rest =
        ["--access-log-skip-url", "/kept/not", "--access-log-sample", "0", "--access-log-format", "$status $uri"];
    let gateway = world.start(&[&filters[..], &rest[..]].concat());
    for (host, path) in [
        ("web.example", "/"),
        ("gone.example", "/"),
        ("gone.example", "/kept/not"),
        ("web.example", "/kept/a"),
        ("gone.example", "/end"),
    ] {
        get(gateway.http, host, path);
    }
    assert_eq!(lines(&world.log(), 2), ["502 /", "502 /end"]);
    let metrics = get(gateway.metrics, &gateway.metrics.to_string(), "/metrics");
    assert!(metrics.contains("sluicegate_access_log_lines_total{outcome=\"written\"} 2"), "{metrics}");
}

#[test]
fn a_hang_up_opens_the_file_anew() {
    let world = World::new();
    let gateway = world.start(&["--access-log-format", "$uri"]);
    get(gateway.http, "web.example", "/before");
    lines(&world.log(), 1);
    let old = world.logs.path().join("access.log.1");
    fs::rename(world.log(), &old).unwrap();
    gateway.signal("HUP");
    gateway.wait_for("opened anew");
    until("a new file", || world.log().exists().then_some(()));
    get(gateway.http, "web.example", "/after");
    assert_eq!(lines(&world.log(), 1), ["/after"]);
    assert_eq!(lines(&old, 1), ["/before"]);
}

#[test]
fn a_full_disk_and_a_pipe_without_a_reader_cost_no_request() {
    let world = World::new();
    let pipe = world.logs.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for target in ["/dev/full", pipe.to_str().unwrap()] {
        let mut gateway = Gateway::start(&world.folder, &["--access-log", target, "--lame-duck", "0s"]);
        let long = format!("/{}", "x".repeat(8000));
        for _ in 0..40 {
            assert!(get(gateway.http, "web.example", &long).starts_with("HTTP/1.1 200"), "{target}");
        }
        if target == "/dev/full" {
            let line = gateway.wait_for("lines of the access log were lost");
            assert!(line.contains("No space left"), "{line}");
            until("what was dropped is counted", || {
                let metrics = get(gateway.metrics, &gateway.metrics.to_string(), "/metrics");
                metrics.contains("lines_total{outcome=\"dropped\"} 40").then_some(())
            });
        }
        gateway.signal("TERM");
        assert_eq!(gateway.end(), Some(0), "{target}: it ends all the same");
    }
}

#[test]
fn what_cannot_be_is_said_at_the_start() {
    let folder = manifests(&[]);
    let run = |more: &[&str]| run_to_end(&[&["run", "--manifests", folder.path().to_str().unwrap()], more].concat());
    for (more, code, part) in [
        (&["--access-log-format", "$statsu"][..], 2, "no variable $statsu; there are "),
        (&["--access-log-format", "$http_cookie"], 2, "never written to a log"),
        (&["--access-log-filter", "statsu=1"], 2, "the property is none of"),
        (&["--access-log-skip-url", "~healthz"], 2, "/assets/*"),
        (&["--access-log-sample", "2"], 2, "from 0 (none) to 1 (all)"),
        (
            &[
                "--access-log",
                "/nowhere/access.log",
                "--http",
                "127.0.0.1:0",
                "--https",
                "127.0.0.1:0",
                "--metrics",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
            ],
            1,
            "--access-log /nowhere/access.log: cannot be opened",
        ),
    ] {
        let end = run(more);
        assert_eq!(end.code, Some(code), "{more:?}: {}", end.stderr);
        assert!(
            end.stderr.starts_with("error: ") && end.stderr.lines().count() == 1 && end.stderr.contains(part),
            "{more:?}: {}",
            end.stderr
        );
    }
}

/// Runs `tap` while requests are made, until it ends by itself.
fn tapped(gateway: &Gateway, more: &[&str]) -> cli_support::End {
    let admin = gateway.admin.to_string();
    let arguments: Vec<&str> = ["tap", "--admin", &admin].into_iter().chain(more.iter().copied()).collect();
    std::thread::scope(|scope| {
        let tap = scope.spawn(|| run_to_end(&arguments));
        let start = Instant::now();
        while !tap.is_finished() {
            assert!(start.elapsed() < AT_MOST, "{more:?}: tap does not end");
            for (host, path) in
                [("web.example", "/a"), ("web.example", "/b?x=1"), ("gone.example", "/a"), ("quiet.example", "/a")]
            {
                get(gateway.http, host, path);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        tap.join().unwrap()
    })
}

#[test]
fn tap_shows_live_requests_that_somebody_asks_for() {
    let world = World::new();
    let gateway = Gateway::start(&world.folder, &["--access-log", "off", "--trace-propagation", "b3"]);
    let end = tapped(&gateway, &["--count", "3", "--host", "web.example", "--path", "/b", "-o", "json"]);
    assert_eq!(end.code, Some(0), "{}", end.stderr);
    let shown: Vec<Value> = end.stdout.lines().map(json).collect();
    assert_eq!(shown.len(), 3, "{}", end.stdout);
    for line in &shown {
        assert_eq!(
            (&line["host"], &line["path"], &line["query"]),
            (&"web.example".into(), &"/b".into(), &"x=1".into())
        );
        assert_eq!(line["tries"][0]["pod"], "web-pod-0");
    }
    assert!(end.stderr.contains("3 requests, 0 lost"), "{}", end.stderr);

    let end = tapped(&gateway, &["--count", "2", "--status", "5xx"]);
    assert_eq!(end.stdout.lines().count(), 2, "{}", end.stdout);
    for line in end.stdout.lines() {
        assert!(line.contains(" 502 ") && line.contains("GET      gone.example/a  127.0.0.1 > gone-pod-0"), "{line}");
        assert!(line.contains("connect_refused") && line.contains("shop/gone trace "), "{line}");
        assert!(!line.contains('\x1b'), "{line}");
    }
    let end = tapped(&gateway, &["--count", "1", "--ingress", "shop/quiet", "--method", "GET"]);
    assert!(end.stdout.contains("quiet.example/a"), "{}", end.stdout);
    let end = tapped(&gateway, &["--for", "300ms", "--slow", "1m"]);
    assert_eq!((end.code, end.stdout.as_str()), (Some(0), ""), "{}", end.stderr);

    for (more, part) in [
        (&["--status", "6yy"][..], "a class such as 5xx"),
        (&["--ingress", "web"], "namespace/name"),
        (&["--slow", "1"], "a number with a unit"),
    ] {
        let end = run_to_end(&[&["tap", "--admin", &gateway.admin.to_string()], more].concat());
        assert_eq!(end.code, Some(1), "{more:?}");
        assert!(end.stderr.contains(part), "{more:?}: {}", end.stderr);
    }
}
