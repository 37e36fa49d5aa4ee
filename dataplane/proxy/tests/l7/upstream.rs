//! Backends that refuse, break, go, come back or are slow, and what a client sees of it: as little as can be.

use crate::support::http2::answer;
use crate::support::{Gateway, Http1, Http2, Ingress, manifest, service, service_speaking, until};
use futures_util::future::join_all;
use http::Method;
use sluicegate_config::{
    Action, Backend, BackendId, Balance, Change, Dialect, Diff, Generation, HostPattern, Kind, Matching, ObjectRef,
    PathMatch, PortRef, Route, RuleRef, UpstreamProtocol, VirtualHost,
};
use sluicegate_echo::client::EchoClient;
use sluicegate_echo::{EchoBackend, EchoRequest, RawBackend, Step, Tls};
use sluicegate_proxy::ProxySettings;
use sluicegate_telemetry::FaultReason;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

async fn pod(name: &str) -> EchoBackend {
    EchoBackend::builder("web").pod(name).start().await.expect("start")
}

fn one_worker(settings: &mut ProxySettings) {
    settings.workers = 1;
}

/// One worker, so that what it has learnt of an endpoint holds for the next request.
fn in_front_of(endpoints: &[SocketAddr]) -> Gateway {
    let gateway = Gateway::with(one_worker);
    gateway.set_endpoints("web", endpoints);
    gateway.apply(&Ingress::any_host("web").yaml());
    gateway
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    StdListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("bound")
}

/// How often each pod answered.
async fn pods(
    client: &mut Http1<TcpStream>,
    count: usize,
    host: &str,
    fields: impl Fn(usize) -> String,
) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    for number in 0..count {
        let answer = client.get_with(host, &format!("/{number}"), &fields(number)).await;
        assert_eq!(answer.status, 200);
        *seen.entry(answer.field("x-echo-pod").expect("a pod").to_owned()).or_default() += 1;
    }
    seen
}

#[tokio::test]
async fn a_refused_connection_is_no_error_while_another_endpoint_takes_it() {
    let good = pod("good").await;
    let gateway = in_front_of(&[nobody(), good.address()]);
    let mut client = gateway.connect().await;
    for method in ["GET", "POST"] {
        for _ in 0..50 {
            client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")).await;
            let answer = client.response().await;
            assert_eq!((answer.status, &answer.json()["body_bytes"]), (200, &2.into()));
        }
    }
    // Once is enough to know it, for a while.
    let refused = gateway.sample("sluicegate_upstream_errors_total{reason=\"refused\"");
    assert!((1..10).contains(&refused), "{refused}");
    assert!(gateway.sample("sluicegate_upstream_ejections_total") >= 1);
    assert_eq!(gateway.sample("sluicegate_upstream_retries_total"), refused);
}

#[tokio::test]
async fn where_all_refuse_the_client_is_told_so() {
    let gateway = in_front_of(&[nobody(), nobody()]);
    let answer = gateway.connect().await.get("a", "/").await;
    assert_eq!((answer.status, answer.field("x-sluicegate-reason")), (502, Some("connect_refused")));
    let gateway = in_front_of(&[nobody()]);
    let mut client = gateway.connect().await;
    // One endpoint is never left out: it may be back.
    for _ in 0..10 {
        let answer = client.get("a", "/").await;
        assert_eq!((answer.status, answer.field("x-sluicegate-reason")), (502, Some("connect_refused")));
    }
}

#[tokio::test]
async fn what_surely_may_be_repeated_is_and_nothing_else() {
    for (method, repeated) in
        [("GET", true), ("PUT", true), ("DELETE", true), ("OPTIONS", true), ("POST", false), ("PATCH", false)]
    {
        let broken = RawBackend::scripted([Step::AwaitHead, Step::Reset]).await.expect("start");
        let good = pod("good").await;
        let gateway = in_front_of(&[broken.address(), good.address()]);
        let mut client = gateway.connect().await;
        let mut failed = 0;
        for _ in 0..4 {
            client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")).await;
            let answer = client.response().await;
            match answer.status {
                200 => {}
                502 => {
                    assert_eq!(answer.field("x-sluicegate-reason"), Some("upstream_reset"));
                    failed += 1;
                }
                other => panic!("{other}"),
            }
        }
        assert_eq!(failed > 0, !repeated, "{method}");
        let seen = broken.received().len();
        assert!(seen > 0, "it had its turn");
        assert_eq!(good.requests().total as usize, 4 - failed);
        assert_eq!(
            gateway.sample("sluicegate_upstream_retries_total") as usize,
            if repeated { seen } else { 0 },
            "{method}"
        );
        // Attempts are counted whether or not another one hid them.
        assert_eq!(gateway.sample("sluicegate_upstream_errors_total{reason=\"reset\"") as usize, seen, "{method}");
    }
}

#[tokio::test]
async fn nothing_is_repeated_once_a_byte_of_the_answer_came() {
    let broken = RawBackend::scripted([
        Step::AwaitHead,
        Step::Send("HTTP/1.1 2".into()),
        Step::Pause(Duration::from_millis(50)),
        Step::Reset,
    ])
    .await
    .expect("start");
    let good = pod("good").await;
    let gateway = in_front_of(&[broken.address(), good.address()]);
    let mut client = gateway.connect().await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(client.get("a", "/").await.status);
    }
    assert!(statuses.contains(&502) && statuses.contains(&200), "{statuses:?}");
    assert_eq!(gateway.sample("sluicegate_upstream_retries_total"), 0);
}

#[tokio::test]
async fn a_connection_that_the_backend_closed_while_it_was_idle_is_not_used() {
    let raw = RawBackend::scripted([Step::AwaitHead, Step::Send(OK.into()), Step::Close]).await.expect("start");
    let gateway = in_front_of(&[raw.address()]);
    let mut client = gateway.connect().await;
    for _ in 0..20 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(client.response().await.status, 200);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(raw.received().len(), 20);
}

/// The race that no look at the socket can exclude: it closes while the request is on its way.
#[tokio::test]
async fn a_connection_that_is_closed_under_a_request_costs_an_idempotent_one_nothing() {
    let script = [Step::AwaitHead, Step::Send(OK.into()), Step::AwaitHead, Step::Reset];
    let raw = RawBackend::scripted(script).await.expect("start");
    let gateway = in_front_of(&[raw.address()]);
    let mut client = gateway.connect().await;
    for _ in 0..10 {
        assert_eq!(client.get("a", "/").await.text(), "ok");
    }
    assert!(gateway.sample("sluicegate_upstream_errors_total{reason=\"stale\"") >= 4);
    // It says nothing about the endpoint.
    assert_eq!(gateway.sample("sluicegate_upstream_ejections_total"), 0);
    assert_eq!(gateway.faults(FaultReason::UpstreamReset), 0);
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_out_and_comes_back() {
    let good = pod("good").await;
    let broken = RawBackend::scripted([Step::AwaitHead, Step::Reset]).await.expect("start");
    let address = broken.address();
    let gateway = in_front_of(&[address, good.address()]);
    let mut client = gateway.connect().await;
    let seen = pods(&mut client, 100, "a", |_| String::new()).await;
    assert_eq!(seen["good"], 100);
    assert!(broken.received().len() <= 10, "{} requests to a backend that fails each", broken.received().len());
    let reports = gateway.proxy().endpoint_states();
    let views = &reports[0].endpoints;
    let view = views.iter().find(|view| view.address == address).expect("reported");
    assert_eq!((view.ejected_by, view.errors > 0), (1, true), "{view:?}");
    drop(broken);
    let back = EchoBackend::builder("web").pod("back").address(address).start().await.expect("the port is free");
    until("its time is over", || {
        let reports = gateway.proxy().endpoint_states();
        reports[0].endpoints.iter().all(|view| view.ejected_by == 0)
    })
    .await;
    let seen = pods(&mut client, 20, "a", |_| String::new()).await;
    assert!(seen.get("back").is_some_and(|count| *count >= 5), "{seen:?}");
    drop(back);
}

#[tokio::test]
async fn a_removed_endpoint_finishes_what_it_has_and_gets_nothing_new() {
    let (old, new) = (pod("old").await, pod("new").await);
    let gateway = in_front_of(&[old.address()]);
    let mut warm = gateway.connect().await;
    assert_eq!(warm.get("a", "/").await.field("x-echo-pod"), Some("old"));
    let mut long = gateway.connect().await;
    long.send("GET /drip?bytes=20&every=50ms&length=1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut half = long.head("GET").await.expect("a head");
    gateway.set_endpoints("web", &[new.address()]);
    let before = old.requests().total;
    let seen = pods(&mut warm, 20, "a", |_| String::new()).await;
    assert_eq!(seen["new"], 20);
    long.body(&mut half).await.expect("whole");
    assert_eq!((half.body.len(), old.requests().total), (20, before));
    until("its connections are over", || old.requests().open == 0).await;
}

#[tokio::test]
async fn without_endpoints_it_is_503_until_there_are_some() {
    let gateway = Gateway::with(one_worker);
    gateway.apply_with_rejections(&Ingress::any_host("web").yaml());
    let mut client = gateway.connect().await;
    // No Service, no endpoints, endpoints, none again.
    let answer = client.get("a", "/").await;
    assert_eq!((answer.status, answer.field("x-sluicegate-reason")), (503, Some("no_endpoints")));
    gateway.set_endpoints("web", &[]);
    assert_eq!(client.get("a", "/").await.status, 503);
    let web = pod("one").await;
    gateway.set_endpoints("web", &[web.address()]);
    assert_eq!(client.get("a", "/").await.status, 200);
    gateway.set_endpoints("web", &[]);
    assert_eq!(client.get("a", "/").await.status, 503);
    assert_eq!(gateway.faults(FaultReason::NoEndpoints), 3);
    gateway.delete(Kind::Ingress, "catch-all");
    assert_eq!(client.get("a", "/").await.status, 404);
}

#[tokio::test]
async fn round_robin_is_even() {
    let backends = [pod("a").await, pod("b").await, pod("c").await];
    let gateway = in_front_of(&backends.each_ref().map(EchoBackend::address));
    let seen = pods(&mut gateway.connect().await, 300, "a", |_| String::new()).await;
    assert_eq!(seen.into_values().collect::<Vec<_>>(), [100, 100, 100]);
}

#[tokio::test]
async fn least_requests_avoids_the_busy_one() {
    let (a, b) = (pod("a").await, pod("b").await);
    let gateway = Gateway::with(one_worker);
    gateway.set_endpoints("web", &[a.address(), b.address()]);
    gateway.apply(&Ingress::new("a.test", "web").own("load-balance", "least_requests").yaml());
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut client = gateway.connect().await;
        client.send("GET /delay/60s HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        waiting.push(client);
    }
    until("all are at work", || a.requests().total + b.requests().total == 20).await;
    assert_eq!(a.requests().total, 10, "two to choose from: the less busy of both takes each");
    // One of the two is relieved; then it takes all.
    a.kill();
    let c = pod("c").await;
    gateway.set_endpoints("web", &[c.address(), b.address()]);
    let seen = pods(&mut gateway.connect().await, 50, "a.test", |_| String::new()).await;
    assert_eq!(seen.get("c"), Some(&50), "{seen:?}");
}

#[tokio::test]
async fn ewma_prefers_the_fast_one() {
    let script = [
        Step::AwaitHead,
        Step::Pause(Duration::from_millis(30)),
        Step::Send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Echo-Pod: slow\r\n\r\n".into()),
        Step::Again,
    ];
    let slow = RawBackend::scripted(script).await.expect("start");
    let fast = pod("fast").await;
    let gateway = Gateway::with(one_worker);
    gateway.set_endpoints("web", &[slow.address(), fast.address()]);
    gateway.apply(&Ingress::new("a.test", "web").nginx("load-balance", "ewma").yaml());
    let mut seen = BTreeMap::new();
    for _ in 0..5 {
        seen = pods(&mut gateway.connect().await, 100, "a.test", |_| String::new()).await;
        if seen["fast"] >= 90 {
            return;
        }
        // A machine that stalled made the fast one slow in truth; the peak is forgotten after a while.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    panic!("{seen:?}");
}

#[tokio::test]
async fn a_hash_keeps_what_belongs_together() {
    let mut backends = vec![pod("a").await, pod("b").await, pod("c").await];
    let gateway = Gateway::start();
    let addresses = |backends: &[EchoBackend]| backends.iter().map(EchoBackend::address).collect::<Vec<_>>();
    gateway.set_endpoints("web", &addresses(&backends));
    for (host, annotation, key) in [
        ("client.test", "load-balance", "hash"),
        ("header.test", "hash-by", "header:X-User"),
        ("cookie.test", "hash-by", "cookie:session"),
        ("uri.test", "hash-by", "uri"),
    ] {
        let ingress = Ingress::new(host, "web").own(annotation, key);
        gateway.apply(&if annotation == "hash-by" { ingress.own("load-balance", "hash") } else { ingress }.yaml());
    }
    // A new connection each time: workers must agree.
    let home = async |host: &str, path: &str, fields: &str| {
        let answer = gateway.connect().await.get_with(host, path, fields).await;
        answer.field("x-echo-pod").expect("a pod").to_owned()
    };
    let first = home("client.test", "/", "").await;
    for number in 0..10 {
        assert_eq!(home("client.test", &format!("/{number}"), &format!("X-User: {number}\r\n")).await, first);
    }
    type Request = fn(usize) -> (String, String);
    let by: [(&str, Request); 3] = [
        ("header.test", |user| ("/".to_owned(), format!("X-User: user-{user}\r\n"))),
        ("cookie.test", |user| ("/".to_owned(), format!("Cookie: a=b; session=user-{user}; c=d\r\n"))),
        ("uri.test", |user| (format!("/user/{user}?x"), String::new())),
    ];
    let mut homes = BTreeMap::new();
    for (host, request) in by {
        for user in 0..30 {
            let (path, fields) = request(user);
            let pod = home(host, &path, &fields).await;
            for _ in 0..2 {
                assert_eq!(home(host, &path, &fields).await, pod, "{host} {user}");
            }
            homes.insert((host, user), pod);
        }
        let used: std::collections::BTreeSet<_> =
            homes.iter().filter(|((at, _), _)| *at == host).map(|(_, pod)| pod).collect();
        assert_eq!(used.len(), 3, "{host}");
    }
    // One more endpoint takes its share and leaves the rest alone.
    backends.push(pod("d").await);
    gateway.set_endpoints("web", &addresses(&backends));
    let mut moved = 0;
    for (host, request) in by {
        for user in 0..30 {
            let (path, fields) = request(user);
            let pod = home(host, &path, &fields).await;
            if pod != homes[&(host, user)] {
                assert_eq!(pod, "d");
                moved += 1;
            }
        }
    }
    assert!((8..45).contains(&moved), "{moved} of 90 moved, a quarter was expected");
}

#[tokio::test]
async fn tls_is_spoken_to_backends_that_ask_for_it() {
    let tls = Tls::self_signed(["web.default.svc"]).expect("a name");
    let web = EchoBackend::builder("web").tls(tls).start().await.expect("start");
    let gateway = Gateway::start();
    gateway.apply(&service("web", &[web.address()]));
    gateway.apply(&Ingress::new("https.test", "web").nginx("backend-protocol", "HTTPS").yaml());
    gateway.apply(&Ingress::new("grpcs.test", "web").nginx("backend-protocol", "GRPCS").yaml());
    let mut client = gateway.connect().await;
    for _ in 0..5 {
        let json = client.get("https.test", "/").await.json();
        assert_eq!((&json["proto"], &json["tls"]["version"]), (&"HTTP/1.1".into(), &"TLSv1.3".into()));
        assert_eq!(json["tls"]["serverName"], "web.default.svc");
    }
    let mut grpc = EchoClient::builder(gateway.http()).authority("grpcs.test").connect().await.expect("connect");
    for _ in 0..5 {
        let request = EchoRequest { message: "hello".to_owned(), ..EchoRequest::default() };
        assert_eq!(grpc.unary(request).await.expect("a reply").into_inner().message, "hello");
    }
    assert!(web.requests().connections <= 4, "connections are kept: {:?}", web.requests());
    // A backend that speaks no TLS is told by its own name.
    let plain = pod("plain").await;
    gateway.set_endpoints("web", &[plain.address()]);
    let answer = client.get("https.test", "/").await;
    assert_eq!((answer.status, answer.field("x-sluicegate-reason")), (502, Some("upstream_tls")));
}

/// Pods that end as Kubernetes ends them, and pods that crash, under load: nobody notices.
#[tokio::test]
async fn a_backend_that_goes_away_costs_no_get_an_error() {
    for protocol in ["http", "kubernetes.io/h2c"] {
        for crash in [false, true] {
            let (stays, goes) = (pod("stays").await, pod("goes").await);
            let gateway = Gateway::start();
            gateway.apply(&service_speaking("web", protocol, &[stays.address(), goes.address()]));
            gateway.apply(&Ingress::any_host("web").yaml());
            let clients = (0..8).map(|_| async {
                let mut client = Http2::prior_knowledge(gateway.http()).await;
                for number in 0..60 {
                    let request = client.request(Method::GET, "a.test", &format!("/{number}?do=delay/5ms"));
                    let answer = answer(client.open(request, true).await.0).await.expect("an answer");
                    assert_eq!(answer.status, 200, "{protocol} {crash} {number}: {answer:?}");
                }
            });
            let going = async {
                until("it is at work", || goes.requests().total > 20).await;
                if crash {
                    goes.kill();
                } else {
                    goes.stop().await;
                }
            };
            tokio::join!(join_all(clients), going);
        }
    }
}

/// By hand, because a manifest with a loopback address is refused before it comes this far.
#[tokio::test]
async fn external_names_lead_where_they_may() {
    let web = pod("external").await;
    for (allowed, status, reason) in [(true, 200, None), (false, 503, Some("upstream_resolve"))] {
        let gateway = Gateway::with(|settings| settings.allow_loopback_external = allowed);
        let id = BackendId {
            namespace: "default".into(),
            service: "external".into(),
            port: PortRef::Number(80),
            protocol: None,
            balance: Balance::RoundRobin,
        };
        let backend = Backend {
            id: id.clone(),
            protocol: UpstreamProtocol::Http1,
            endpoints: Vec::new(),
            external: Some(("127.0.0.1".into(), web.address().port())),
            unavailable: None,
        };
        let route = Route {
            path: PathMatch::Prefix("/".into()),
            action: Action::Forward(id.clone()),
            policy: Arc::default(),
            origin: RuleRef { ingress: ObjectRef::new(Kind::Ingress, "default", "x"), field: "spec.rules[0]".into() },
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
        gateway.proxy().apply(&diff, Generation(1));
        let mut client = gateway.connect().await;
        for _ in 0..3 {
            let answer = client.get("a.test", "/").await;
            assert_eq!((answer.status, answer.field("x-sluicegate-reason")), (status, reason));
        }
    }
    let loopback = "apiVersion: v1\nkind: Service\nmetadata: {name: ext, namespace: default}\n\
        spec: {type: ExternalName, externalName: 127.0.0.1, ports: [{port: 80}]}\n";
    let gateway = Gateway::start();
    let (_, rejections) =
        gateway.apply_with_rejections(&manifest::all([loopback, Ingress::any_host("ext").yaml().as_str()]));
    assert!(!rejections.is_empty());
    assert_eq!(gateway.connect().await.get("a.test", "/").await.status, 503);
}
