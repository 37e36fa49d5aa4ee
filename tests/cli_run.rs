//! The gateway as a process, over real sockets: live changes, bad input beside good, probes, signals, the demo.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not there")]

mod cli_support;

use cli_support::{AT_MOST, Gateway, get, manifests, run_to_end, try_get};
use sluicegate_echo::EchoBackend;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// An Ingress, a Service and the EndpointSlice of one pod.
fn site(host: &str, service: &str, pod: SocketAddr) -> String {
    format!("{}---\n{}", ingress(host, service), endpoints(service, pod))
}

fn ingress(host: &str, service: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {host}}}\nspec:\n  rules:\n  - host: {host}\n    http:\n      paths:\n      \
         - {{path: /, pathType: Prefix, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}\n"
    )
}

fn endpoints(service: &str, pod: SocketAddr) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {service}}}\nspec: {{ports: [{{port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {service}-1, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         addressType: IPv4\nports: [{{name: \"\", port: {}}}]\nendpoints: [{{addresses: [{}]}}]\n",
        pod.port(),
        pod.ip()
    )
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < AT_MOST, "{what}: not within {AT_MOST:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

struct World {
    _runtime: Runtime,
    a: EchoBackend,
    b: EchoBackend,
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let start = |service: &str| runtime.block_on(EchoBackend::builder(service).start()).unwrap();
        let (a, b) = (start("a"), start("b"));
        let folder = manifests(&[
            ("web.yaml", &site("web.example", "a", a.address())),
            ("b.yaml", &endpoints("b", b.address())),
        ]);
        Self { _runtime: runtime, a, b, folder }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }
}

#[test]
fn a_change_of_a_file_is_served_and_a_broken_file_costs_nothing() {
    let world = World::new();
    let gateway = Gateway::start(&world.folder, &[]);
    let served_by =
        |service: &str| get(gateway.http, "web.example", "/").contains(&format!("\"service\":\"{service}\""));
    assert!(served_by("a"));

    world.write("web.yaml", &format!("{}---\n{}", ingress("web.example", "b"), endpoints("a", world.a.address())));
    until("b serves", || served_by("b"));

    world.write("web.yaml", "kind: Ingress\nspec: [");
    let said = gateway.wait_for("document 1");
    assert!(said.contains("rejected: File ") && said.contains("web.yaml"), "{said}");
    assert!(served_by("b"));
    world.write("other.yaml", &ingress("other.example", "a"));
    until("a new file is served beside a broken one", || status(&get(gateway.http, "other.example", "/")) == "200");
    let state = get(gateway.admin, &gateway.admin.to_string(), "/api/v1/state?section=rejections");
    assert!(state.contains("web.yaml") && state.contains("remedy"), "{state}");

    world.write("web.yaml", &site("web.example", "a", world.a.address()));
    until("a serves again", || served_by("a"));
    until("nothing is rejected any more", || {
        !get(gateway.admin, &gateway.admin.to_string(), "/api/v1/state?section=rejections").contains("web.yaml")
    });
    fs::remove_file(world.folder.path().join("other.yaml")).unwrap();
    until("a removed file is not served", || status(&get(gateway.http, "other.example", "/")) == "404");
    assert!(world.b.requests().total > 0);
}

#[test]
fn a_change_is_served_because_it_happened_and_not_because_somebody_looked() {
    let world = World::new();
    let gateway = Gateway::start(&world.folder, &[]);
    let both = |service: &str| format!("{}---\n{}", ingress("web.example", service), endpoints("a", world.a.address()));
    let mut times = (0..20)
        .map(|round| {
            let service = if round % 2 == 0 { "b" } else { "a" };
            let start = Instant::now();
            world.write("web.yaml", &both(service));
            until("the change", || {
                get(gateway.http, "web.example", "/").contains(&format!("\"service\":\"{service}\""))
            });
            start.elapsed()
        })
        .collect::<Vec<_>>();
    times.sort();
    // It takes 10 ms; looking once a second would take 500 ms on average. In between is room for a busy machine.
    assert!(times[5] < Duration::from_millis(250), "{times:?}");
}

#[test]
fn tables_of_the_running_gateway() {
    let world = World::new();
    let gateway = Gateway::start(&world.folder, &[]);
    assert_eq!(status(&get(gateway.http, "web.example", "/")), "200");
    let admin = gateway.admin.to_string();
    let ask = |arguments: &[&str]| {
        let end = run_to_end(&[arguments, &["--admin", &admin]].concat());
        assert_eq!(end.code, Some(0), "{arguments:?}: {}", end.stderr);
        end.stdout
    };
    let routes = ask(&["routes"]);
    assert!(routes.starts_with("HOST") && routes.contains("default/a:80"), "{routes}");
    let backends = ask(&["backends"]);
    let endpoint = world.a.address().to_string();
    let row = backends.lines().find(|line| line.contains(&endpoint)).unwrap_or_else(|| panic!("{backends}"));
    assert!(row.contains(" up ") && row.split_whitespace().any(|cell| cell == "1"), "{row}");
    assert!(ask(&["vips"]).starts_with("no virtual IPs"));
    assert!(ask(&["explain", "http://web.example/x"]).contains("->"));
    let json: serde_json::Value = serde_json::from_str(&ask(&["routes", "-o", "json"])).unwrap();
    assert_eq!(json["routes"][0]["host"], "web.example");
    let metrics = get(gateway.metrics, &gateway.metrics.to_string(), "/metrics");
    assert!(metrics.contains("sluicegate_generation 1") && metrics.contains("sluicegate_requests_total"), "{metrics}");
}

#[test]
fn the_default_certificate_is_a_secret_of_the_manifests() {
    let world = World::new();
    let pair = rcgen::generate_simple_self_signed(vec!["default.example".to_owned()]).unwrap();
    let block = |text: String| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    world.write(
        "secret.yaml",
        &format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: cert, namespace: edge}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
            block(pair.cert.pem()),
            block(pair.signing_key.serialize_pem())
        ),
    );
    let gateway = Gateway::start(&world.folder, &["--default-ssl-certificate", "edge/cert"]);
    let runtime = Runtime::new().unwrap();
    let shown = runtime.block_on(async {
        let config = sluicegate_echo::client::ClientTls::insecure().config(&[b"http/1.1"]).unwrap();
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        let stream = tokio::net::TcpStream::connect(gateway.https).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("nobody.example").unwrap();
        let stream = connector.connect(name, stream).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    });
    assert_eq!(shown, pair.cert.der().to_vec());

    world.write(
        "secret.yaml",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: cert, namespace: edge}\nstringData: {tls.crt: x, tls.key: y}\n",
    );
    let path = world.folder.path().to_str().unwrap();
    let any = "127.0.0.1:0";
    let end = run_to_end(&[
        "run",
        "--manifests",
        path,
        "--http",
        any,
        "--https",
        any,
        "--metrics",
        any,
        "--admin",
        any,
        "--default-ssl-certificate",
        "edge/cert",
    ]);
    assert_eq!(end.code, Some(1));
    assert!(
        end.stderr.lines().last().is_some_and(|line| line.starts_with("error: --default-ssl-certificate edge/cert: ")),
        "{}",
        end.stderr
    );
}

#[test]
fn the_first_signal_drains_and_the_second_ends() {
    let world = World::new();
    let mut gateway = Gateway::start(&world.folder, &["--lame-duck", "1s", "--drain", "20s"]);
    let ready = |gateway: &Gateway| status(&get(gateway.metrics, &gateway.metrics.to_string(), "/readyz")).to_owned();
    assert_eq!(ready(&gateway), "200");
    // A response that takes longer than the lame duck.
    let mut slow = TcpStream::connect(gateway.http).unwrap();
    slow.set_read_timeout(Some(AT_MOST)).unwrap();
    write!(slow, "GET /delay/2500ms HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\n\r\n").unwrap();
    until("the slow request is under way", || world.a.requests().open > 0);
    gateway.signal("TERM");
    gateway.wait_for("SIGTERM");
    assert_eq!(ready(&gateway), "503");
    assert_eq!(status(&get(gateway.http, "web.example", "/")), "200", "it accepts while it is a lame duck");
    until("nothing is accepted any more", || try_get(gateway.http, "web.example", "/").is_err());
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert_eq!(status(&answer), "200", "{answer}");
    assert_eq!(gateway.end(), Some(0));

    let mut gateway = Gateway::start(&world.folder, &["--lame-duck", "60s"]);
    gateway.signal("INT");
    gateway.wait_for("SIGINT");
    gateway.signal("TERM");
    let start = Instant::now();
    assert_eq!(gateway.end(), Some(1));
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn the_demo_drives_every_path_and_leaves_nothing() {
    let place = TempDir::new().unwrap();
    let end = cli_support::run_to_end_in(
        place.path(),
        &["demo", "--once", "--no-packets", "-o", "json", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0"],
    );
    let report: serde_json::Value =
        serde_json::from_str(&end.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", end.stdout, end.stderr));
    let failed = report["steps"].as_array().unwrap().iter().filter(|step| step["ok"] != true).collect::<Vec<_>>();
    assert_eq!((failed, end.code), (Vec::new(), Some(0)));
    assert!(report["steps"].as_array().unwrap().len() > 20);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "the demo's folder is still there");
}
