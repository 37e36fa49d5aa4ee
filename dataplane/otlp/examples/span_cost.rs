//! What spans cost a request: one connection in front, one behind, requests one after the other, spans sent to a collector
//! that takes everything. For counting instructions; two runs with different numbers of requests tell the cost of one.
//!
//! `valgrind --tool=callgrind --separate-threads=yes target/release/examples/span_cost REQUESTS [off|RATIO]`
//!
//! `off` carries trace context and makes no spans; with a ratio that part of all traces is recorded and sent. The thread of
//! the worker and the exporter's (`otlp`) are the gateway's; the others are clients and servers.

use sluicegate_config::diff::Change;
use sluicegate_config::{
    Action, Backend, BackendId, Balance, Dialect, Diff, Endpoint, Generation, HostPattern, Kind, Matching, ObjectRef,
    PathMatch, PortRef, Route, RuleRef, UpstreamProtocol, VirtualHost,
};
use sluicegate_otlp::{Endpoint as Collector, Exporter, OtlpSettings};
use sluicegate_proxy::{Proxy, ProxySettings, TraceSettings};
use sluicegate_telemetry::{DropReason, Metrics, RequestSinks, SpanSinks};
use sluicegate_trace::{Ratio, Sampler};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const REQUEST: &str = "GET /assets/app.js?v=17 HTTP/1.1\r\nHost: shop.example\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nAccept: */*\r\n\
    Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nReferer: https://shop.example/\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef\r\nSec-Fetch-Dest: script\r\n\r\n";
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/javascript\r\nCache-Control: max-age=60\r\nContent-Length: 12\r\n\r\nhello world\n";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let count: u32 = arguments.next().ok_or("usage: span_cost REQUESTS [off|RATIO]")?.parse()?;
    let ratio = arguments.next().filter(|mode| mode != "off").map(|ratio| ratio.parse::<f64>()).transpose()?;
    let mut trace = TraceSettings::default();
    let mut exporter = None;
    let mut sinks = None;
    if let Some(ratio) = ratio {
        trace.policy.sampler = Sampler::Ratio(Ratio::new(ratio)?);
        let endpoint = Collector::for_all_signals(&format!("http://{}", collector()?), None)?;
        let started = Exporter::start(OtlpSettings::new(endpoint))?;
        sinks = Some(Arc::new(SpanSinks::new(Arc::clone(started.queue()))) as Arc<dyn RequestSinks>);
        exporter = Some(started);
    }
    let http = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    let settings = ProxySettings { http, workers: 1, trace: Some(trace), ..ProxySettings::default() };
    let proxy = Proxy::start(settings, Metrics::new(1), sinks)?;
    proxy.apply(&one_route(backend()?), Generation(1));
    let mut client = TcpStream::connect(proxy.addresses().http[0])?;
    client.set_nodelay(true)?;
    let mut buffer = [0; 4096];
    for _ in 0..count {
        client.write_all(REQUEST.as_bytes())?;
        let mut read = 0;
        while !buffer[..read].ends_with(b"hello world\n") {
            match client.read(&mut buffer[read..])? {
                0 => return Err("the gateway closed the connection".into()),
                more => read += more,
            }
        }
    }
    drop(client);
    proxy.shutdown(Duration::from_secs(5));
    if let Some(exporter) = exporter {
        let queue = Arc::clone(exporter.queue());
        exporter.shut_down(Duration::from_secs(60));
        let dropped: u64 = DropReason::ALL.iter().map(|reason| queue.counts().dropped(*reason)).sum();
        println!("{} spans sent, {dropped} dropped", queue.counts().exported());
    }
    Ok(())
}

/// Takes every batch and looks at none.
fn collector() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || take(&stream));
        }
    });
    Ok(address)
}

fn take(mut stream: &TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            if line == "\r\n" {
                break;
            }
        }
        std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink())?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    }
}

/// Answers every head on its connections, one thread for each.
fn backend() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || answer(stream));
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 8192];
    let mut read = 0;
    loop {
        match stream.read(&mut buffer[read..])? {
            0 => return Ok(()),
            more => read += more,
        }
        if buffer[..read].ends_with(b"\r\n\r\n") {
            stream.write_all(RESPONSE)?;
            read = 0;
        }
    }
}

fn one_route(upstream: SocketAddr) -> Diff {
    let id = BackendId {
        namespace: "default".into(),
        service: "web".into(),
        port: PortRef::Number(80),
        protocol: None,
        balance: Balance::RoundRobin,
    };
    let endpoints = vec![Endpoint { address: upstream, pod: None, node: None, terminating: false }];
    let protocol = UpstreamProtocol::Http1;
    let backend = Backend { id: id.clone(), protocol, endpoints, external: None, unavailable: None };
    let ingress = ObjectRef::new(Kind::Ingress, "default", "web");
    let route = Route {
        path: PathMatch::Prefix("/".into()),
        action: Action::Forward(id.clone()),
        policy: Arc::default(),
        origin: RuleRef { ingress, field: "spec.rules[0].http.paths[0]".into() },
    };
    let host = VirtualHost {
        host: HostPattern::Any,
        dialect: Dialect::Strict,
        matching: Matching::LongestPath,
        routes: vec![route],
        fallback: None,
    };
    let mut diff = Diff::default();
    diff.backends.insert(id, Change::Set(Arc::new(backend)));
    diff.routes.insert(HostPattern::Any, Change::Set(Arc::new(host)));
    diff
}
