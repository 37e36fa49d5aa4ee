//! The program against clients that are not ours: curl, h2load, grpcio and the Autobahn cases of kosoku.
//!
//! They need tools that a bare machine does not have, so they are ignored by default; run with `--ignored`, a tool that
//! is missing is a failure.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not there")]

mod cli_support;

use cli_support::{Gateway, manifests};
use sluicegate_echo::{EchoBackend, pattern_byte};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The gateway in front of one echo backend: `app.test` over HTTP/1.1, `h2c.test` over HTTP/2, both with TLS too.
struct World {
    _runtime: Runtime,
    backend: EchoBackend,
    folder: TempDir,
    gateway: Gateway,
}

impl World {
    fn new(more: &[&str]) -> Self {
        let runtime = Runtime::new().unwrap();
        let backend = runtime.block_on(EchoBackend::builder("web").start()).unwrap();
        let made = rcgen::generate_simple_self_signed(["app.test".to_owned(), "h2c.test".to_owned()]).unwrap();
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let text = [
            service("web", "http", backend.address()),
            service("web2", "kubernetes.io/h2c", backend.address()),
            secret("both", &certificate, &key),
            ingress("app.test", "web"),
            ingress("h2c.test", "web2"),
            // kosoku has the address alone as its host.
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: any}\nspec:\n  \
             defaultBackend: {service: {name: web, port: {number: 80}}}\n"
                .to_owned(),
        ]
        .join("---\n");
        let folder = manifests(&[("all.yaml", &text), ("ca.pem.txt", &certificate)]);
        let gateway = Gateway::start(&folder, more);
        Self { _runtime: runtime, backend, folder, gateway }
    }

    fn ca(&self) -> String {
        self.folder.path().join("ca.pem.txt").display().to_string()
    }

    /// Runs curl with the names of the hosts resolved to the gateway. Returns what it printed of the response, and the body.
    fn curl(&self, arguments: &[&str]) -> (Output, Vec<u8>) {
        let body = self.folder.path().join("body.out");
        let _ = std::fs::remove_file(&body);
        let mut command = tool("curl");
        command.args(["--silent", "--show-error", "--max-time", "60", "--noproxy", "*", "--cacert", &self.ca()]);
        command.arg("--output").arg(&body).args(["--write-out", "%{http_version} %{response_code}"]);
        for (host, at) in
            [("app.test", self.gateway.http), ("app.test", self.gateway.https), ("h2c.test", self.gateway.https)]
        {
            command.args(["--resolve", &format!("{host}:{}:{}", at.port(), at.ip())]);
        }
        command.args(["--resolve", &format!("h2c.test:{0}:127.0.0.1", self.gateway.http.port())]);
        command.args(["--resolve", &format!("nobody.test:{0}:127.0.0.1", self.gateway.https.port())]);
        let output = command.args(arguments).output().unwrap();
        (output, std::fs::read(&body).unwrap_or_default())
    }

    /// `scheme` and host and port.
    fn at(&self, scheme: &str, host: &str) -> String {
        let address = if scheme == "https" { self.gateway.https } else { self.gateway.http };
        format!("{scheme}://{host}:{}", address.port())
    }
}

fn service(name: &str, protocol: &str, pod: SocketAddr) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80, appProtocol: {protocol}}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: [{{name: \"\", port: {}}}]\nendpoints: [{{addresses: [{}]}}]\n",
        pod.port(),
        pod.ip()
    )
}

fn secret(name: &str, certificate: &str, key: &str) -> String {
    let indented = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        indented(certificate),
        indented(key)
    )
}

fn ingress(host: &str, service: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {host}}}\nspec:\n  tls: [{{hosts: [{host}], secretName: both}}]\n  \
         rules:\n  - host: {host}\n    http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}]}}\n"
    )
}

/// A program that must be there.
fn tool(name: &str) -> Command {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|folder| folder.join(name).is_file());
    assert!(found, "{name} is not on the PATH; install it (curl, nghttp2-client)");
    Command::new(name)
}

/// Runs a script of `tests/peers` with the interpreter that has its packages.
fn python(script: &str, arguments: &[&str]) -> Output {
    let interpreter = std::env::var_os("SLUICEGATE_PEERS_PYTHON").unwrap_or_else(|| "python3".into());
    let script: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(script);
    Command::new(interpreter).arg(script).args(arguments).output().unwrap()
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
#[ignore = "needs curl with HTTP/2"]
fn curl_speaks_every_protocol() {
    let world = World::new(&[]);
    // The last part is how the backend was reached.
    let cases: [(&[&str], &str, &str, &str, &str); 10] = [
        (&["--http1.1"], "http", "app.test", "1.1 200", "HTTP/1.1"),
        (&["--http1.0"], "http", "app.test", "1.1 200", "HTTP/1.1"),
        (&["--http1.1"], "http", "h2c.test", "1.1 200", "HTTP/2.0"),
        // The upgrade to h2c is not taken; the request is answered all the same.
        (&["--http2"], "http", "app.test", "1.1 200", "HTTP/1.1"),
        (&["--http2-prior-knowledge"], "http", "app.test", "2 200", "HTTP/1.1"),
        (&["--http2-prior-knowledge"], "http", "h2c.test", "2 200", "HTTP/2.0"),
        (&["--http2"], "https", "app.test", "2 200", "HTTP/1.1"),
        (&["--http2", "--tls-max", "1.2"], "https", "h2c.test", "2 200", "HTTP/2.0"),
        (&["--http1.1", "--tlsv1.3"], "https", "app.test", "1.1 200", "HTTP/1.1"),
        (&["--no-alpn"], "https", "app.test", "1.1 200", "HTTP/1.1"),
    ];
    for (options, scheme, host, expected, protocol) in cases {
        let url = format!("{}/some/path?q=1", world.at(scheme, host));
        let (output, body) = world.curl(&[options, &[&url]].concat());
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{options:?} {url}: {}", told(&output));
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&json["proto"], &json["path"]), (&protocol.into(), &"/some/path?q=1".into()), "{options:?} {url}");
        assert_eq!(json["headers"]["x-forwarded-proto"][0], scheme);
    }
    let (output, _) = world.curl(&[&world.at("https", "nobody.test")]);
    assert_eq!(output.status.code(), Some(60), "the default certificate is nobody's: {}", told(&output));
    let (output, _) = world.curl(&["--insecure", "--http1.1", &world.at("https", "nobody.test")]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1.1 200", "{}", told(&output));
}

#[test]
#[ignore = "needs curl with HTTP/2"]
fn curl_carries_bodies_both_ways() {
    let world = World::new(&[]);
    let file = world.folder.path().join("upload.bin");
    let bytes: Vec<u8> = (0..5_000_000).map(pattern_byte).collect();
    std::fs::write(&file, &bytes).unwrap();
    let upload = file.display().to_string();
    for (options, scheme) in [(["--http1.1"], "http"), (["--http2-prior-knowledge"], "http"), (["--http2"], "https")] {
        for host in ["app.test", "h2c.test"] {
            let echo = format!("{}/echo", world.at(scheme, host));
            // With a length, and without one.
            for more in [
                &["--upload-file", &upload][..],
                &[
                    "--request",
                    "POST",
                    "--header",
                    "Transfer-Encoding: chunked",
                    "--data-binary",
                    &format!("@{upload}"),
                ],
            ] {
                if options[0] != "--http1.1" && more.len() > 2 {
                    continue;
                }
                let (output, body) = world.curl(&[&options[..], more, &[&echo]].concat());
                assert!(
                    String::from_utf8_lossy(&output.stdout).ends_with(" 200"),
                    "{options:?} {echo}: {}",
                    told(&output)
                );
                assert!(body == bytes, "{options:?} {echo}: {} bytes", body.len());
            }
            let (output, body) =
                world.curl(&[&options[..], &[&format!("{}/bytes/5000000", world.at(scheme, host))]].concat());
            assert!(output.status.success() && body == bytes, "{options:?} {host}: {}", told(&output));
            let (output, _) =
                world.curl(&[&options[..], &["--head", &format!("{}/bytes/5000000", world.at(scheme, host))]].concat());
            assert!(output.status.success(), "{options:?} {host}: {}", told(&output));
            // A response that breaks off is an error to curl, however it was framed.
            for path in ["half?bytes=1000&sent=500", "half?bytes=1000&sent=500&chunked=1"] {
                let (output, _) =
                    world.curl(&[&options[..], &[&format!("{}/{path}", world.at(scheme, host))]].concat());
                assert!(!output.status.success(), "{options:?} {host} {path}");
            }
        }
    }
}

#[test]
#[ignore = "needs curl with HTTP/2"]
fn curl_is_told_to_go_on() {
    let world = World::new(&[]);
    let url = format!("{}/", world.at("http", "app.test"));
    let begun = Instant::now();
    let data = "x".repeat(100_000);
    let (output, body) = world.curl(&[
        "--http1.1",
        "--header",
        "Expect: 100-continue",
        "--expect100-timeout",
        "30",
        "--data",
        &data,
        &url,
    ]);
    assert!(String::from_utf8_lossy(&output.stdout).ends_with(" 200"), "{}", told(&output));
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(json["body_bytes"], 100_000);
    assert!(begun.elapsed() < Duration::from_secs(20), "100 came, nobody waited: {:?}", begun.elapsed());
    let (output, _) = world.curl(&["--http1.1", "--header", "Expect: a-miracle", "--data", "x", &url]);
    assert!(String::from_utf8_lossy(&output.stdout).ends_with(" 417"), "{}", told(&output));
}

#[test]
#[ignore = "needs curl with HTTP/2"]
fn curl_sends_a_proxy_header() {
    let world = World::new(&["--proxy-protocol"]);
    for (options, scheme) in [(&["--http1.1"][..], "http"), (&["--http2"], "https")] {
        let url = format!("{}/", world.at(scheme, "app.test"));
        let (output, body) = world.curl(&[options, &["--haproxy-protocol", &url]].concat());
        assert!(String::from_utf8_lossy(&output.stdout).ends_with(" 200"), "{options:?}: {}", told(&output));
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(json["headers"]["x-forwarded-for"][0], "127.0.0.1");
        let (output, _) = world.curl(&[options, &[&url]].concat());
        assert!(!output.status.success(), "{options:?}: without the header nothing is served");
    }
}

#[test]
#[ignore = "needs h2load"]
fn h2load_sees_no_failure() {
    let world = World::new(&[]);
    for (options, scheme, host) in [
        (&[][..], "http", "app.test"),
        (&[], "http", "h2c.test"),
        (&[], "https", "app.test"),
        (&["--h1"], "http", "app.test"),
        (&["--h1"], "https", "h2c.test"),
    ] {
        let address = if scheme == "https" { world.gateway.https } else { world.gateway.http };
        let mut command = tool("h2load");
        command.args(["-n", "2000", "-c", "10", "-m", "10"]).args(options);
        command.arg(format!("--connect-to={address}"));
        let output = command.arg(format!("{scheme}://{host}:{}/bytes/1000", address.port())).output().unwrap();
        let text = told(&output);
        assert!(output.status.success(), "{scheme} {host}: {text}");
        assert!(text.contains("2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{scheme} {host}: {text}");
        assert!(text.contains("status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{scheme} {host}: {text}");
    }
    assert_eq!(world.backend.requests().total, 10_000);
}

#[test]
#[ignore = "needs python3 with grpcio, see tests/peers/requirements.txt"]
fn grpcio_passes_through() {
    let world = World::new(&[]);
    let plain = world.gateway.http.to_string();
    let output = python("grpc_client.py", &[&plain, "--authority", "h2c.test", "--service", "web"]);
    assert!(output.status.success(), "{}", told(&output));
    let secure = world.gateway.https.to_string();
    let output = python("grpc_client.py", &[&secure, "--authority", "h2c.test", "--tls-insecure-ca", &world.ca()]);
    assert!(output.status.success(), "{}", told(&output));
    assert!(world.backend.requests().grpc > 0);
}

#[test]
#[ignore = "needs python3 with kosoku, see tests/peers/requirements.txt"]
fn the_websocket_cases_end_as_without_the_gateway() {
    let world = World::new(&[]);
    let (through, direct) = (format!("ws://{}/ws", world.gateway.http), format!("ws://{}/ws", world.backend.address()));
    let output = python("ws_suite.py", &[&through, "--direct", &direct]);
    assert!(output.status.success(), "{}", told(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["cases"].as_u64().is_some_and(|cases| cases >= 300), "{report}");
}
