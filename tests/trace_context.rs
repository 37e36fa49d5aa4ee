//! The table of the W3C trace-context harness through the program as it is by default: no flag speaks of traces.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not there")]

mod cli_support;
#[path = "../dataplane/trace/tests/w3c_cases/mod.rs"]
mod w3c_cases;

use cli_support::{AT_MOST, Gateway, manifests};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::OnceLock;
use w3c_cases::Pairs;

/// Where the gateway is. Cases are functions without arguments.
static GATEWAY: OnceLock<SocketAddr> = OnceLock::new();

/// What the backend got: it answers with the head that it read.
fn pass(request: &[(&str, &str)]) -> Pairs {
    let mut stream = TcpStream::connect(GATEWAY.get().unwrap()).unwrap();
    stream.set_read_timeout(Some(AT_MOST)).unwrap();
    let fields: String = request.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(stream, "GET / HTTP/1.1\r\nHost: traced.test\r\n{fields}Connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{request:?}: {answer}");
    let fields = body.lines().skip(1).filter_map(|line| line.split_once(": "));
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The same, for three requests with one context.
fn thrice(request: &[(&str, &str)]) -> Vec<Pairs> {
    (0..3).map(|_| pass(request)).collect()
}

/// Answers each request with its head.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || echo(&stream));
        }
    });
    address
}

fn echo(mut stream: &TcpStream) -> Option<()> {
    let mut lines = BufReader::new(stream).lines();
    loop {
        let mut head = format!("{}\n", lines.next()?.ok()?);
        for line in lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()) {
            head += &line;
            head.push('\n');
        }
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len()).ok()?;
    }
}

#[test]
fn the_program_passes_all_cases_without_a_flag() {
    let backend = backend();
    let manifest = format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: traced, namespace: default}}\n\
         spec: {{defaultBackend: {{service: {{name: traced, port: {{number: 80}}}}}}}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: traced, namespace: default}}\nspec: {{ports: [{{port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: traced-1, namespace: default, labels: {{kubernetes.io/service-name: traced}}}}\n\
         addressType: IPv4\nports: [{{name: \"\", port: {}}}]\nendpoints: [{{addresses: [{}]}}]\n",
        backend.port(),
        backend.ip()
    );
    let folder = manifests(&[("traced.yaml", &manifest)]);
    let gateway = Gateway::start(&folder, &[]);
    GATEWAY.set(gateway.http).unwrap();
    w3c_cases::run_all();
}
