//! Trace context on its way through: over every protocol, a new parent for each try, and untouched where it is off.

use crate::support::{Gateway, Http1, Http2, Ingress, Recorder, manifest, service, service_speaking, until};
use http::{HeaderValue, Method};
use sluicegate_echo::client::EchoClient;
use sluicegate_echo::{EchoBackend, EchoRequest, RawBackend, Step};
use sluicegate_proxy::{ProxySettings, TraceSettings};
use sluicegate_trace::{Sampler, SpanId, Trust};
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener as StdListener};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn traced(adjust: impl FnOnce(&mut TraceSettings)) -> impl FnOnce(&mut ProxySettings) {
    let mut trace = TraceSettings::default();
    adjust(&mut trace);
    move |settings| {
        settings.workers = 1;
        settings.trace = Some(trace);
    }
}

/// The same backend as `app.test` over HTTP/1.1 and as `h2c.test` over HTTP/2.
async fn with_echo(adjust: impl FnOnce(&mut ProxySettings)) -> (Gateway, EchoBackend) {
    let web = EchoBackend::builder("web").start().await.expect("start");
    let gateway = Gateway::with(adjust);
    let services = [service("web", &[web.address()]), service_speaking("web2", "kubernetes.io/h2c", &[web.address()])];
    gateway.apply(&manifest::all(services.iter().map(String::as_str)));
    gateway.apply(&Ingress::new("app.test", "web").yaml());
    gateway.apply(&Ingress::new("h2c.test", "web2").yaml());
    (gateway, web)
}

fn parent() -> String {
    format!("00-{TRACE}-{PARENT}-01")
}

/// Trace id, parent id and flags of a `traceparent`.
fn parts(traceparent: &str) -> (String, String, String) {
    let parts: Vec<&str> = traceparent.split('-').collect();
    let [version, trace, parent, flags] = parts[..] else { panic!("{traceparent}") };
    assert_eq!((version, trace.len(), parent.len(), flags.len()), ("00", 32, 16, 2), "{traceparent}");
    (trace.to_owned(), parent.to_owned(), flags.to_owned())
}

#[tokio::test]
async fn a_trace_goes_on_with_a_parent_of_the_gateway() {
    let (gateway, _web) = with_echo(traced(|_| {})).await;
    let mut client = gateway.connect().await;
    let mut parents = BTreeSet::new();
    for host in ["app.test", "h2c.test", "app.test"] {
        let fields = format!("TraceParent: {}\r\nTracestate: a=1\r\ntracestate: b=2\r\nBaggage: user=1\r\n", parent());
        let answer = client.get_with(host, "/", &fields).await;
        let (trace, span, flags) = parts(&answer.echoed("traceparent").expect("one"));
        assert_eq!((trace.as_str(), flags.as_str()), (TRACE, "01"));
        assert_ne!(span, PARENT);
        assert!(parents.insert(span), "each request has its own");
        assert_eq!(answer.echoed("tracestate").as_deref(), Some("a=1,b=2"));
        assert_eq!(answer.echoed("baggage").as_deref(), Some("user=1"));
    }
    let mut client = Http2::prior_knowledge(gateway.http()).await;
    for host in ["app.test", "h2c.test"] {
        let mut request = client.request(Method::GET, host, "/");
        request.headers_mut().insert("traceparent", HeaderValue::from_str(&parent()).expect("a value"));
        let json = client.send(request).await.json();
        let (trace, span, _) = parts(json["headers"]["traceparent"][0].as_str().expect("one"));
        assert_eq!(trace, TRACE);
        assert!(parents.insert(span));
    }
}

#[tokio::test]
async fn a_trace_begins_where_none_came_or_an_unreadable_one() {
    let (gateway, _web) = with_echo(traced(|_| {})).await;
    let mut client = gateway.connect().await;
    let mut traces = BTreeSet::new();
    let twice = format!("traceparent: {0}\r\ntraceparent: {0}\r\n", parent());
    for fields in ["", "tracestate: a=1\r\n", "traceparent: 00-xyz\r\ntracestate: a=1\r\n", &twice] {
        let answer = client.get_with("app.test", "/", fields).await;
        assert_eq!(answer.status, 200);
        let (trace, _, flags) = parts(&answer.echoed("traceparent").expect("one"));
        assert_ne!(trace, TRACE);
        assert_eq!(flags, "03", "recorded, and of a random id");
        assert_eq!(answer.echoed("tracestate"), None);
        assert!(traces.insert(trace));
    }
}

#[tokio::test]
async fn off_leaves_the_headers_alone() {
    let (gateway, _web) = with_echo(|_| {}).await;
    let mut client = gateway.connect().await;
    let fields = format!("traceparent: {}\r\nb3: 0\r\nx-b3-sampled: 1\r\n", parent());
    let answer = client.get_with("app.test", "/", &fields).await;
    assert_eq!(answer.echoed("traceparent"), Some(parent()));
    assert_eq!(answer.echoed("b3").as_deref(), Some("0"));
    assert_eq!(client.get("app.test", "/").await.echoed("traceparent"), None);
}

#[tokio::test]
async fn b3_goes_out_as_it_came_and_nothing_contradicts_it() {
    let (gateway, _web) = with_echo(traced(|_| {})).await;
    let fields = "X-B3-TraceId: a3ce929d0e0e4736\r\nX-B3-SpanId: 00f067aa0ba902b7\r\nX-B3-ParentSpanId: 05e3ac9a4f6e3b90\r\nX-B3-Sampled: 0\r\nuber-trace-id: 1:2:0:1\r\nX_B3_SpanId: 1\r\n";
    let answer = gateway.connect().await.get_with("app.test", "/", fields).await;
    let (trace, span, flags) = parts(&answer.echoed("traceparent").expect("one"));
    assert_eq!((trace.as_str(), flags.as_str()), ("0000000000000000a3ce929d0e0e4736", "00"));
    assert_eq!(answer.echoed("x-b3-traceid").as_deref(), Some("a3ce929d0e0e4736"));
    assert_eq!(answer.echoed("x-b3-spanid").as_ref(), Some(&span));
    assert_eq!(answer.echoed("x-b3-sampled").as_deref(), Some("0"));
    assert_eq!(answer.echoed("uber-trace-id"), Some(format!("a3ce929d0e0e4736:{span}:0:0")));
    assert_eq!((answer.echoed("x-b3-parentspanid"), answer.echoed("x_b3_spanid")), (None, None));
}

#[tokio::test]
async fn each_try_is_a_span_of_its_own() {
    let broken = RawBackend::scripted([Step::AwaitHead, Step::Reset]).await.expect("start");
    let good = EchoBackend::builder("web").start().await.expect("start");
    let gateway = Gateway::with(traced(|_| {}));
    gateway.set_endpoints("web", &[broken.address(), good.address()]);
    gateway.apply(&Ingress::any_host("web").yaml());
    let mut client = gateway.connect().await;
    let mut echoed = Vec::new();
    for _ in 0..4 {
        let answer = client.get_with("a", "/", &format!("traceparent: {}\r\n", parent())).await;
        assert_eq!(answer.status, 200);
        echoed.push(parts(&answer.echoed("traceparent").expect("one")));
    }
    let failed: Vec<_> = broken.received().iter().map(|head| parts(&line(head, "traceparent: "))).collect();
    assert!(!failed.is_empty(), "it had its turn");
    let all: Vec<_> = echoed.iter().chain(&failed).collect();
    assert!(all.iter().all(|(trace, ..)| trace == TRACE), "{all:?}");
    let spans: BTreeSet<&str> = all.iter().map(|(_, span, _)| span.as_str()).collect();
    assert_eq!(spans.len(), all.len(), "{all:?}");
}

/// The value of a field in a head as it was received.
fn line(head: &[u8], name: &str) -> String {
    let head = String::from_utf8(head.to_vec()).expect("text");
    let mut values = head.lines().filter_map(|line| line.strip_prefix(name));
    let value = values.next().unwrap_or_else(|| panic!("no {name} in {head}")).to_owned();
    assert_eq!(values.next(), None, "{head}");
    value
}

#[tokio::test]
async fn grpc_calls_and_upgrades_belong_to_the_trace() {
    let (gateway, _web) = with_echo(traced(|_| {})).await;
    let mut client = EchoClient::builder(gateway.http()).authority("h2c.test").connect().await.expect("connect");
    let reply = client.unary(EchoRequest::default()).await.expect("a reply").into_inner();
    parts(reply.metadata.get("traceparent").expect("one"));

    let raw =
        RawBackend::answering("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await
            .expect("start");
    gateway.apply(&service("socket", &[raw.address()]));
    gateway.apply(&Ingress::new("socket.test", "socket").yaml());
    let mut client = gateway.connect().await;
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    client.send(format!("GET / HTTP/1.1\r\nHost: socket.test\r\n{upgrade}traceparent: {}\r\n\r\n", parent())).await;
    until("the handshake arrives", || raw.received().iter().any(|head| head.ends_with(b"\r\n\r\n"))).await;
    let (trace, span, _) = parts(&line(&raw.received()[0], "traceparent: "));
    assert_eq!(trace, TRACE);
    assert_ne!(span, PARENT);
}

#[tokio::test]
async fn strangers_force_so_many_traces_and_no_more() {
    let never = |trace: &mut TraceSettings| {
        trace.policy.sampler = Sampler::Never;
        trace.forced_per_second = 3;
    };
    let (gateway, _web) = with_echo(traced(never)).await;
    let mut client = gateway.connect().await;
    let mut recorded = 0;
    let begun = std::time::Instant::now();
    for _ in 0..20 {
        let answer = client.get_with("app.test", "/", &format!("traceparent: {}\r\n", parent())).await;
        let (trace, _, flags) = parts(&answer.echoed("traceparent").expect("one"));
        assert_eq!(trace, TRACE, "the trace goes on, recorded or not");
        recorded += u64::from(flags == "01");
    }
    // The burst, and what was granted meanwhile.
    let most = 3 + 3 * (begun.elapsed().as_secs() + 1);
    assert!((3..=most).contains(&recorded), "{recorded}, at most {most}");
}

#[tokio::test]
async fn an_edge_takes_no_ids_from_outside() {
    let restart = |trace: &mut TraceSettings| {
        trace.policy.trust = Trust::Restart;
        trace.injection.strip_baggage = true;
    };
    let (gateway, _web) = with_echo(traced(restart)).await;
    let fields =
        format!("traceparent: {}\r\ntracestate: a=1\r\nb3: {TRACE}-{PARENT}-d\r\nbaggage: admin=1\r\n", parent());
    let answer = gateway.connect().await.get_with("app.test", "/", &fields).await;
    let (trace, span, _) = parts(&answer.echoed("traceparent").expect("one"));
    assert_ne!(trace, TRACE);
    assert_eq!(answer.echoed("b3"), Some(format!("{trace}-{span}-1")));
    assert_eq!((answer.echoed("tracestate"), answer.echoed("baggage")), (None, None));
}

#[tokio::test]
async fn an_ingress_has_rules_of_its_own() {
    let (gateway, _web) = with_echo(traced(|_| {})).await;
    for (host, annotations) in [
        ("off.test", [("enable-opentelemetry", "false")].as_slice()),
        ("restarts.test", &[("opentelemetry-trust-incoming-span", "false")]),
    ] {
        let ingress = annotations.iter().fold(Ingress::new(host, "web"), |all, (key, value)| all.nginx(key, value));
        gateway.apply(&ingress.yaml());
    }
    for (host, key, value) in [
        ("ignores.test", "trace-trust", "ignore"),
        ("never.test", "trace-sampling", "never"),
        ("b3.test", "trace-propagation", "b3"),
        ("none.test", "trace-propagation", "none"),
    ] {
        gateway.apply(&Ingress::new(host, "web").own(key, value).yaml());
    }
    let mut client = gateway.connect().await;
    let fields = format!("traceparent: {}\r\nbaggage: user=1\r\n", parent());
    for host in ["off.test", "none.test"] {
        let answer = client.get_with(host, "/", &fields).await;
        assert_eq!(answer.echoed("traceparent"), Some(parent()), "{host}: as it came");
        assert_eq!(client.get(host, "/").await.echoed("traceparent"), None, "{host}");
    }
    for host in ["restarts.test", "ignores.test"] {
        let answer = client.get_with(host, "/", &fields).await;
        assert_ne!(parts(&answer.echoed("traceparent").expect("one")).0, TRACE, "{host}");
        assert_eq!(answer.echoed("baggage"), None, "{host}: from strangers");
    }
    let answer = client.get_with("never.test", "/", &fields).await;
    let (trace, _, flags) = parts(&answer.echoed("traceparent").expect("one"));
    assert_eq!((trace.as_str(), flags.as_str()), (TRACE, "00"), "it goes on, unrecorded");
    let answer = client.get("b3.test", "/").await;
    assert_eq!((answer.echoed("b3").is_some(), answer.echoed("traceparent")), (true, None));
    // Beside them, all is as before.
    let answer = client.get_with("app.test", "/", &fields).await;
    assert_eq!(parts(&answer.echoed("traceparent").expect("one")).0, TRACE);
    assert_eq!(answer.echoed("baggage").as_deref(), Some("user=1"));
}

#[tokio::test]
async fn a_listener_has_a_rule_of_its_own_and_an_ingress_beats_it() {
    let free = || StdListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("bound");
    let (inside, edge): (SocketAddr, SocketAddr) = (free(), free());
    let recorder = Recorder::default();
    let web = EchoBackend::builder("web").start().await.expect("start");
    let gateway = Gateway::recorded_by(&recorder, |settings| {
        settings.http = vec![inside, edge];
        settings.trace = Some(TraceSettings { trust_on: vec![(edge, Trust::Restart)], ..TraceSettings::default() });
    });
    gateway.apply(&service("web", &[web.address()]));
    gateway.apply(&Ingress::new("app.test", "web").yaml());
    gateway.apply(&Ingress::new("partner.test", "web").own("trace-trust", "continue").yaml());
    let caller = SpanId::new(0x00f0_67aa_0ba9_02b7);
    for (address, host, goes_on) in [
        (inside, "app.test", true),
        (edge, "app.test", false),
        (edge, "partner.test", true),
        (edge, "nobody.test", false),
    ] {
        let fields = format!("traceparent: {}\r\n", parent());
        let answer = Http1::connect(address).await.get_with(host, "/", &fields).await;
        let told = recorder.one().await;
        let trace = told.trace.expect("a trace");
        assert_eq!(trace.trace_id.to_string() == TRACE, goes_on, "{host}");
        assert_eq!(trace.parent, caller.filter(|_| goes_on), "{host}");
        // A trace that took the place of another remembers it.
        let link = trace.link.and_then(|link| link.span_id);
        assert_eq!(link, caller.filter(|_| !goes_on), "{host}");
        if answer.status == 200 {
            let (id, span, _) = parts(&answer.echoed("traceparent").expect("one"));
            assert_eq!(id, trace.trace_id.to_string());
            assert_eq!(Some(span), told.tries[0].span_id.map(|span| span.to_string()));
        }
    }
}

#[tokio::test]
async fn probes_are_never_recorded() {
    let recorder = Recorder::default();
    let web = EchoBackend::builder("web").start().await.expect("start");
    let gateway = Gateway::recorded_by(&recorder, traced(|trace| trace.policy.sampler = Sampler::Always));
    gateway.apply(&service("web", &[web.address()]));
    gateway.apply(&Ingress::any_host("web").yaml());
    let mut client = gateway.connect().await;
    for (agent, is_probe) in
        [("kube-probe/1.31", true), ("GoogleHC/1.0", true), ("ELB-HealthChecker/2.0", true), ("curl/8", false)]
    {
        let fields = format!("User-Agent: {agent}\r\ntraceparent: {}\r\n", parent());
        assert_eq!(client.get_with("a", "/", &fields).await.status, 200);
        let told = recorder.one().await;
        assert_eq!((told.is_probe, told.trace.expect("a trace").sampled), (is_probe, !is_probe), "{agent}");
    }
}

#[tokio::test]
async fn an_ingress_names_its_spans() {
    let recorder = Recorder::default();
    let web = EchoBackend::builder("web").start().await.expect("start");
    let gateway = Gateway::recorded_by(&recorder, traced(|_| {}));
    gateway.apply(&service("web", &[web.address()]));
    let name = "$request_method $scheme://$host$uri by ${namespace}/$ingress_name$location_path to $service_name:$service_port";
    gateway.apply(&Ingress::new("app.test", "web").path("/shop").nginx("opentelemetry-operation-name", name).yaml());
    gateway.apply(&Ingress::new("plain.test", "web").yaml());
    let mut client = gateway.connect().await;
    assert_eq!(client.get("app.test", "/shop/cart?secret=1").await.status, 200);
    let told = recorder.one().await;
    let expected = "GET http://app.test/shop/cart by default/app-test/shop to web:80";
    assert_eq!(told.operation.as_deref(), Some(expected));
    assert_eq!(client.get("plain.test", "/").await.status, 200);
    assert_eq!(recorder.one().await.operation, None);
}
