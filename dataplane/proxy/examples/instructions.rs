//! What a request costs by itself: one connection in front, one behind, requests one after the other. For
//! counting instructions; two runs with different numbers of requests tell the cost of one.
//!
//! `valgrind --tool=callgrind --separate-threads=yes target/release/examples/instructions REQUESTS [off|on|came [SINK [FILE]]]`
//!
//! `off` leaves trace headers alone, `on` carries trace context, and with `came` requests bring one. SINK is `tap` (live requests that nobody
//! watches), `json`, `nginx` or a template (the access log into FILE); without it nobody is told of requests.

use sluicegate_config::diff::Change;
use sluicegate_config::{
    Action, Backend, BackendId, Balance, Dialect, Diff, Endpoint, Generation, HostPattern, Kind, Matching, ObjectRef,
    PathMatch, PortRef, Route, RuleRef, UpstreamProtocol, VirtualHost,
};
use sluicegate_proxy::{Proxy, ProxySettings, TraceSettings};
use sluicegate_telemetry::{AccessLog, AccessLogSettings, LogTarget, Metrics, RequestSinks, RequestTaps};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const REQUEST: &str = "GET /assets/app.js?v=17 HTTP/1.1\r\nHost: shop.example\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nAccept: */*\r\n\
    Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nReferer: https://shop.example/\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef\r\nSec-Fetch-Dest: script\r\n";
const CONTEXT: &str = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/javascript\r\nCache-Control: max-age=60\r\nContent-Length: 12\r\n\r\nhello world\n";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let count: u32 = arguments.next().ok_or("usage: instructions REQUESTS [off|on|came [SINK [FILE]]]")?.parse()?;
    let mode = arguments.next().unwrap_or_else(|| "on".to_owned());
    let sinks: Option<Arc<dyn RequestSinks>> = match arguments.next().as_deref() {
        None => None,
        Some("tap") => Some(Arc::new(RequestTaps::default())),
        Some(format) => Some(AccessLog::start(AccessLogSettings {
            target: LogTarget::File(arguments.next().ok_or("the access log needs a FILE")?.into()),
            format: format.parse()?,
            sample: None,
            filters: Vec::new(),
            skip: Vec::new(),
        })?),
    };
    let upstream = backend()?;
    let proxy = Proxy::start(
        ProxySettings {
            http: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            workers: 1,
            trace: (mode != "off").then(TraceSettings::default),
            ..ProxySettings::default()
        },
        Metrics::new(1),
        sinks,
    )?;
    proxy.apply(&one_route(upstream), Generation(1));
    let request = format!("{REQUEST}{}\r\n", if mode == "came" { CONTEXT } else { "" });
    let mut client = TcpStream::connect(proxy.addresses().http[0])?;
    client.set_nodelay(true)?;
    let mut buffer = [0; 4096];
    for _ in 0..count {
        client.write_all(request.as_bytes())?;
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
    Ok(())
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
