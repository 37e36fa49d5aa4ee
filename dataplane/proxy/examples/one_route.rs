//! Serves one backend under every host, without manifests: for profiling the request path by itself.
//!
//! `cargo run --release -p sluicegate-proxy --example one_route -- 127.0.0.1:8080 127.0.0.1:8443 127.0.0.1:9000 [http1|h2c]`

use sluicegate_config::diff::Change;
use sluicegate_config::{
    Action, Backend, BackendId, Balance, Dialect, Diff, Endpoint, Generation, HostPattern, Kind, Matching, ObjectRef,
    PathMatch, PortRef, Route, RuleRef, UpstreamProtocol, VirtualHost,
};
use sluicegate_proxy::{Proxy, ProxySettings};
use sluicegate_telemetry::Metrics;
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("usage: one_route HTTP HTTPS UPSTREAM [http1|h2c]");
    let (http, https, upstream) = (next()?.parse()?, next()?.parse()?, next()?.parse()?);
    let protocol = if next().is_ok_and(|text| text == "h2c") { UpstreamProtocol::H2c } else { UpstreamProtocol::Http1 };
    let settings = ProxySettings { http: vec![http], https: vec![https], workers: 1, ..Default::default() };
    let proxy = Proxy::start(settings, Metrics::new(1), None)?;
    let id = BackendId {
        namespace: "default".into(),
        service: "web".into(),
        port: PortRef::Number(80),
        protocol: None,
        balance: Balance::RoundRobin,
    };
    let endpoints = vec![Endpoint { address: upstream, pod: None, node: None, terminating: false }];
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
    proxy.apply(&diff, Generation(1));
    println!("serving on {:?}", proxy.addresses());
    loop {
        std::thread::park();
    }
}
