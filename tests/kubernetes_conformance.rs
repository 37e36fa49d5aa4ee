//! The scenarios of the Ingress conformance suite on an API server: manifests applied there, statuses read there, requests
//! sent to the program, by the suite's own client rules (a redirect is followed by hand to the same address, the final status is
//! judged, the echoed service says who served).
//!
//! The manifests are those of `tests/golden`; EndpointSlices are made anew for echo backends of this machine.

mod cli_support;
mod cluster_support;

use cli_support::{AT_MOST, Gateway};
use cluster_support::{Cluster, own_address};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use serde::Deserialize as _;
use serde_json::{Value, json};
use sluicegate_echo::EchoBackend;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// What a request came to.
struct Answer {
    status: u16,
    version: String,
    fields: BTreeMap<String, String>,
    echoed: Value,
}

impl Answer {
    fn read(mut stream: impl Read + Write, method: &str, host: &str, path: &str) -> Self {
        let length = if matches!(method, "POST" | "PUT" | "PATCH") { "Content-Length: 0\r\n" } else { "" };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Go-http-client/1.1\r\nConnection: close\r\n{length}\r\n"
        );
        stream.write_all(head.as_bytes()).expect("the request is sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let mut lines = head.lines();
        let first: Vec<&str> = lines.next().expect("a status line").splitn(3, ' ').collect();
        let fields = lines.filter_map(|line| line.split_once(": "));
        Self {
            version: first[0].to_owned(),
            status: first[1].parse().expect("a status"),
            fields: fields.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect(),
            echoed: serde_json::from_str(body).unwrap_or_default(),
        }
    }

    /// Who served, where somebody did.
    fn service(&self) -> Option<&str> {
        self.echoed["service"].as_str()
    }
}

/// One request, redirects followed.
fn ask(gateway: &Gateway, method: &str, host: &str, path: &str) -> Answer {
    let mut target = path.to_owned();
    for _ in 0..5 {
        let stream = TcpStream::connect(gateway.http).expect("the gateway listens");
        stream.set_read_timeout(Some(AT_MOST)).expect("a timeout");
        let answer = Answer::read(stream, method, host, &target);
        match answer.fields.get("location").filter(|_| matches!(answer.status, 301 | 302 | 303 | 307 | 308)) {
            Some(location) => target.clone_from(location),
            None => return answer,
        }
    }
    panic!("redirected without end: {host}{path}");
}

/// A cluster, the program on it, and backends for whatever Services there are.
struct Suite<'a> {
    cluster: &'a Cluster,
    gateway: Gateway,
    runtime: Runtime,
}

/// What one feature applied; removed when it is over.
struct Feature {
    objects: Vec<Value>,
    _backends: Vec<EchoBackend>,
}

impl<'a> Suite<'a> {
    fn start(cluster: &'a Cluster) -> Self {
        for namespace in ["default", "sluicegate-system"] {
            cluster.apply(&json!({"kind": "Namespace", "metadata": {"name": namespace}}));
        }
        let kubeconfig = cluster.kubeconfig();
        let mut arguments = vec!["--kubeconfig", &kubeconfig, "--role", "gateway", "--log-format", "json"];
        for flag in ["--http", "--https", "--metrics", "--admin"] {
            arguments.extend([flag, "127.0.0.1:0"]);
        }
        arguments.extend(["--publish-status-address", "192.0.2.10"]);
        let gateway = Gateway::start_with(&arguments, &[]);
        Self { cluster, gateway, runtime: Runtime::new().expect("a runtime") }
    }

    /// Applies the manifests of a folder below `tests/golden`, with that many endpoints for each Service.
    fn apply(&self, folder: &str, endpoints: usize) -> Feature {
        let mut objects: Vec<Value> = manifests(folder);
        objects.retain(|object| object["kind"] != "EndpointSlice");
        let mut backends = Vec::new();
        for service in objects.clone().iter().filter(|object| object["kind"] == "Service") {
            let name = service["metadata"]["name"].as_str().expect("a name");
            for number in 0..endpoints {
                let echo = EchoBackend::builder(name).pod(&format!("{name}-{number}"));
                let echo = echo.address(SocketAddr::new(own_address(), 0)).start();
                let echo = self.runtime.block_on(echo).expect("an echo backend");
                objects.push(slice(name, number, echo.address()));
                backends.push(echo);
            }
        }
        objects.iter().for_each(|object| self.cluster.apply(object));
        Feature { objects, _backends: backends }
    }

    /// What the suite waits for before each feature.
    fn until_published(&self, ingress: &str) {
        self.until(ingress, || self.published(ingress) == json!([{"ip": "192.0.2.10"}]));
    }

    fn published(&self, ingress: &str) -> Value {
        self.cluster.get("Ingress", "default", ingress)["status"]["loadBalancer"]["ingress"].clone()
    }

    #[track_caller]
    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + AT_MOST;
        while !is_so() {
            assert!(Instant::now() < deadline, "{what} did not come");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn expect(&self, rows: &[(&str, &str, &str, Option<&str>)]) {
        for (row, host, path, served) in rows {
            let answer = ask(&self.gateway, "GET", host, path);
            let expected = (if served.is_some() { 200 } else { 404 }, *served);
            assert_eq!((answer.status, answer.service()), expected, "{row}: {host}{path}");
        }
    }

    /// Removes what a feature applied, and waits until the gateway has heard of it.
    fn clear(&self, feature: &Feature, host: &str) {
        for object in feature.objects.iter().filter(|object| object["kind"] != "IngressClass") {
            let (kind, name) = (&object["kind"], &object["metadata"]["name"]);
            self.cluster.delete(kind.as_str().expect("a kind"), "default", name.as_str().expect("a name"));
        }
        self.until("404 after removal", || ask(&self.gateway, "GET", host, "/").status == 404);
    }
}

fn manifests(folder: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder).join("manifests.yaml");
    let text = std::fs::read_to_string(&path).expect("manifests");
    let documents = yaml_serde::Deserializer::from_str(&text);
    documents.map(|document| Value::deserialize(document).expect("YAML")).filter(|object| !object.is_null()).collect()
}

fn slice(service: &str, number: usize, backend: SocketAddr) -> Value {
    json!({"kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "default", "name": format!("{service}-{number}"),
            "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": backend.port(), "protocol": "TCP"}],
        "endpoints": [{"addresses": [backend.ip().to_string()], "conditions": {"ready": true}}]})
}

/// Takes any certificate and remembers the one that it saw, as the suite's client does.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The answer over TLS, and the certificate that was shown.
fn ask_over_tls(gateway: &Gateway, host: &'static str) -> (Answer, CertificateDer<'static>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    let name = ServerName::try_from(host).expect("a name");
    let session = ClientConnection::new(Arc::new(config), name).expect("a session");
    let mut stream = StreamOwned::new(session, TcpStream::connect(gateway.https).expect("the gateway listens"));
    let answer = Answer::read(&mut stream, "GET", host, "/");
    let shown = stream.conn.peer_certificates().expect("a certificate")[0].clone();
    (answer, shown)
}

fn default_backend(suite: &Suite) {
    let feature = suite.apply("default_backend", 1);
    suite.until_published("default-backend");
    suite.until("the backend", || ask(&suite.gateway, "GET", "my-host", "/").status == 200);
    let address = suite.gateway.http.to_string();
    let rows = [
        ("DB1", "GET", "my-host", "/"),
        ("DB2", "GET", "my-host", "/sub-path"),
        ("DB3", "POST", "some-host", "/"),
        ("DB4", "PUT", &address, "/resource"),
        ("DB5", "DELETE", "some-host", "/resource"),
        ("DB6", "PATCH", "my-host", "/resource"),
    ];
    for (row, method, host, path) in rows {
        let answer = ask(&suite.gateway, method, host, path);
        assert_eq!((answer.status, answer.version.as_str()), (200, "HTTP/1.1"), "{row}");
        for name in ["content-length", "content-type", "date", "server"] {
            assert!(
                answer.fields.get(name).is_some_and(|value| !value.is_empty()),
                "{row}: {name}: {:?}",
                answer.fields
            );
        }
        let echoed = &answer.echoed;
        assert_eq!(echoed["service"], "echo-service", "{row}");
        assert_eq!((&echoed["method"], &echoed["path"], &echoed["host"]), (&method.into(), &path.into(), &host.into()));
        assert_eq!(echoed["proto"], "HTTP/1.1", "{row}");
        assert_eq!(echoed["headers"]["user-agent"][0], "Go-http-client/1.1", "{row}");
    }
    suite.clear(&feature, "my-host");
}

fn host_rules(suite: &Suite) {
    let feature = suite.apply("host_rules", 1);
    suite.until_published("host-rules");
    suite.until("the backend", || ask(&suite.gateway, "GET", "foo.bar.com", "/").status == 200);
    let secret = feature.objects.iter().find(|object| object["kind"] == "Secret").expect("a Secret");
    let pem = secret["stringData"]["tls.crt"].as_str().expect("a certificate");
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
    suite.until("HR1: the certificate", || ask_over_tls(&suite.gateway, "foo.bar.com").1 == certificate);
    let (answer, _) = ask_over_tls(&suite.gateway, "foo.bar.com");
    assert_eq!((answer.status, answer.service()), (200, Some("foo-bar-com")), "HR1");
    assert_eq!(answer.echoed["host"], "foo.bar.com", "HR1");
    suite.expect(&[
        ("HR2", "foo.bar.com", "/", Some("foo-bar-com")),
        ("HR3", "subdomain.bar.com", "/", None),
        ("HR4", "bar.foo.com", "/", Some("wildcard-foo-com")),
        ("HR5", "baz.bar.foo.com", "/", None),
        ("HR6", "foo.com", "/", None),
    ]);
    suite.clear(&feature, "foo.bar.com");
}

fn path_rules(suite: &Suite) {
    let feature = suite.apply("path_rules", 1);
    suite.until_published("path-rules");
    suite.until("the backend", || ask(&suite.gateway, "GET", "exact-path-rules", "/foo").status == 200);
    suite.expect(&[
        ("PR1", "exact-path-rules", "/foo", Some("foo-exact")),
        ("PR2", "exact-path-rules", "/foo/", None),
        ("PR3", "exact-path-rules", "/FOO", None),
        ("PR4", "exact-path-rules", "/bar", None),
        ("PR5", "prefix-path-rules", "/foo", Some("foo-prefix")),
        ("PR6", "prefix-path-rules", "/foo/", Some("foo-prefix")),
        ("PR7", "prefix-path-rules", "/FOO", None),
        ("PR8", "prefix-path-rules", "/aaa/bbb", Some("aaa-slash-bbb-prefix")),
        ("PR9", "prefix-path-rules", "/aaa/bbb/ccc", Some("aaa-slash-bbb-prefix")),
        ("PR10", "prefix-path-rules", "/aaa/ccc", Some("aaa-prefix")),
        ("PR11", "prefix-path-rules", "/aaaccc", None),
        ("PR12", "mixed-path-rules", "/foo", Some("foo-exact")),
        ("PR13", "trailing-slash-path-rules", "/aaa/bbb", Some("aaa-slash-bbb-slash-prefix")),
        ("PR14", "trailing-slash-path-rules", "/aaa/bbb/", Some("aaa-slash-bbb-slash-prefix")),
        ("PR15", "trailing-slash-path-rules", "/foo", None),
    ]);
    suite.clear(&feature, "exact-path-rules");
}

fn ingress_class(suite: &Suite) {
    let feature = suite.apply("ingress_class", 1);
    suite.until_published("ours");
    suite.until("ours", || ask(&suite.gateway, "GET", "ours.test", "/").status == 200);
    suite.expect(&[("IC1", "invalid.test", "/", None), ("IC1", "theirs.test", "/", None)]);
    // A class that an Ingress leaves takes its routes along, and what we said in its status.
    let mut left = feature.objects.iter().find(|object| object["metadata"]["name"] == "ours").expect("it").clone();
    left["spec"]["ingressClassName"] = json!("other");
    suite.cluster.apply(&left);
    suite.until("S9: 404", || ask(&suite.gateway, "GET", "ours.test", "/").status == 404);
    suite.until("S9: no status", || suite.published("ours") == Value::Null);
    assert_eq!((suite.published("invalid"), suite.published("theirs")), (Value::Null, Value::Null), "IC1");
    // Removed and made anew, with another uid: the new one is served and published.
    suite.cluster.delete("Ingress", "default", "ours");
    left["spec"]["ingressClassName"] = json!("sluicegate");
    suite.cluster.apply(&left);
    suite.until_published("ours");
    suite.until("S14: ours again", || ask(&suite.gateway, "GET", "ours.test", "/").status == 200);
    suite.clear(&feature, "ours.test");
}

fn load_balancing(suite: &Suite) {
    let feature = suite.apply("load_balancing", 10);
    suite.until_published("load-balancing");
    let pod = || {
        let answer = ask(&suite.gateway, "GET", "load-balancing", "/");
        answer.echoed["pod"].as_str().unwrap_or_default().to_owned()
    };
    suite.until("the last endpoint", || pod() == "echo-service-9");
    let seen: BTreeSet<String> = (0..100).map(|_| pod()).collect();
    assert_eq!(seen.len(), 10, "LB1: {seen:?}");
    suite.clear(&feature, "load-balancing");
}

fn every_scenario(cluster: &Cluster) {
    let suite = Suite::start(cluster);
    for feature in [default_backend, host_rules, path_rules, ingress_class, load_balancing] {
        feature(&suite);
    }
}

#[test]
fn every_scenario_in_process() {
    every_scenario(&Cluster::in_process());
}

#[test]
#[ignore = "needs kube-apiserver and etcd on the PATH or in KUBEBUILDER_ASSETS"]
fn every_scenario_on_a_real_api_server() {
    every_scenario(&Cluster::real());
}
