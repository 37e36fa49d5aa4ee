//! What workers tell of requests that are over: every request, once, with what is true of it.

use crate::support::http2::answer;
use crate::support::tls::{self, Identity, Key};
use crate::support::upgrade::{expect_close, expect_echo, websocket};
use crate::support::{Gateway, Http1, Http2, Ingress, Recorded, Recorder, manifest, service, service_speaking, until};
use http::Method;
use sluicegate_echo::client::EchoClient;
use sluicegate_echo::{EchoBackend, EchoRequest, RawBackend, Step, Tls};
use sluicegate_proxy::{ProxySettings, TraceSettings};
use sluicegate_telemetry::{FaultReason, MethodLabel, Protocol, TlsVersion, UpstreamError};
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

async fn with_echo(adjust: impl FnOnce(&mut ProxySettings)) -> (Gateway, EchoBackend, Recorder) {
    let web = EchoBackend::builder("web").start().await.expect("start");
    let recorder = Recorder::default();
    let gateway = Gateway::recorded_by(&recorder, |settings| {
        settings.workers = 1;
        adjust(settings);
    });
    let services = [service("web", &[web.address()]), service_speaking("web2", "kubernetes.io/h2c", &[web.address()])];
    gateway.apply(&manifest::all(services.iter().map(String::as_str)));
    gateway.apply(&Ingress::new("app.test", "web").path("/shop").yaml());
    gateway.apply(&Ingress::new("*.wild.test", "web2").yaml());
    (gateway, web, recorder)
}

fn route(ingress: &str, host: &str, path: &str, service: &str) -> Option<[String; 5]> {
    Some(["default", ingress, host, path, service].map(str::to_owned))
}

fn reason(recorded: &Recorded) -> Option<FaultReason> {
    recorded.fault.as_ref().map(|(reason, _)| *reason)
}

#[tokio::test]
async fn a_request_over_http1_is_told_with_all_that_is_known_of_it() {
    let trusted = |settings: &mut ProxySettings| {
        settings.trusted = vec!["127.0.0.0/8".parse().expect("a network")];
        settings.trace = Some(TraceSettings::default());
    };
    let (gateway, web, recorder) = with_echo(trusted).await;
    let mut client = gateway.connect().await;
    let head = "POST /shop/cart?id=7&key=secret HTTP/1.1\r\nHost: App.Test:80\r\nUser-Agent: tests\r\n\
                X-Forwarded-For: 198.51.100.7\r\nX-Request-ID: abc\r\nContent-Length: 5\r\n\r\n";
    client.send(format!("{head}hello")).await;
    let response = client.response().await;
    let told = recorder.one().await;
    assert_eq!((told.method.as_str(), told.method_label, told.protocol), ("POST", MethodLabel::Post, Protocol::Http11));
    assert_eq!((told.authority.as_str(), told.path.as_str()), ("App.Test:80", "/shop/cart"));
    assert_eq!(told.query.as_deref(), Some("id=7&key=secret"));
    assert_eq!((told.status, told.grpc_status, &told.fault), (200, None, &None));
    assert_eq!((told.bytes_in, told.bytes_out), (5, response.body.len() as u64));
    assert_eq!(told.request_length, head.len() as u64 + 5);
    assert_eq!((told.user_agent.as_deref(), told.content_type.as_deref()), (Some("tests"), Some("application/json")));
    assert_eq!(told.client.to_string(), "198.51.100.7");
    assert_eq!((told.peer.ip().to_string().as_str(), told.local), ("127.0.0.1", gateway.http()));
    assert_eq!((told.tls, told.is_probe, told.request_id.as_str()), (None, false, "abc"));
    assert_eq!(told.route, route("app-test", "app.test", "/shop", "web:80"));
    let [only] = &told.tries[..] else { panic!("{:?}", told.tries) };
    assert_eq!(
        (only.endpoint, only.pod.as_deref(), only.node.as_deref()),
        (web.address(), Some("web-0"), Some("node-0"))
    );
    assert_eq!((only.reused, only.queued, only.tls, only.error), (false, None, None, None));
    assert_eq!((only.status, only.bytes), (Some(200), told.bytes_out));
    assert!(only.connect.is_some_and(|took| !took.is_zero()) && only.first_byte.is_some_and(|took| !took.is_zero()));
    assert!(told.started <= only.started && only.started < only.ended && only.ended == told.ended);
    let traceparent = response.echoed("traceparent").expect("one");
    let trace = told.trace.expect("a trace");
    assert_eq!(traceparent, format!("00-{}-{}-03", trace.trace_id, only.span_id.expect("a span")));
    assert!(trace.sampled);

    client.send("GET /shop HTTP/1.1\r\nHost: app.test\r\nUser-Agent: kube-probe/1.31\r\n\r\n").await;
    assert_eq!(client.response().await.status, 200);
    let told = recorder.one().await;
    assert!(told.is_probe);
    assert_eq!((told.tries[0].reused, told.tries[0].connect), (true, None));
    assert_eq!(told.request_id.len(), 32);
}

#[tokio::test]
async fn the_time_of_a_request_begins_with_its_first_byte() {
    let (gateway, _web, recorder) = with_echo(|_| {}).await;
    let mut client = gateway.connect().await;
    for _ in 0..2 {
        // A pause between requests is not counted, one within a head is.
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.send("GET /shop HTTP/1.1\r\nHo").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.send("st: app.test\r\n\r\n").await;
        assert_eq!(client.response().await.status, 200);
        let told = recorder.one().await;
        let took = told.ended - told.started;
        assert!(took >= Duration::from_millis(90), "{took:?}");
        assert!(told.tries[0].started - told.started >= Duration::from_millis(90));
    }
}

#[tokio::test]
async fn http2_and_tls_are_told() {
    let (gateway, web, recorder) = with_echo(|_| {}).await;
    let identity = Identity::new(Key::Ecdsa, &["app.test"]);
    let ingress = Ingress::new("app.test", "web").path("/shop").tls("own").yaml();
    gateway.apply(&manifest::all([identity.secret("own").as_str(), ingress.as_str()]));
    let stream = tls::connect(&Arc::new(tls::modern(&["h2"])), gateway.https(), "app.test").await;
    let mut client = Http2::over(stream, "https").await;
    assert_eq!(client.get("app.test", "/shop/a?b").await.status, 200);
    let told = recorder.one().await;
    assert_eq!((told.protocol, told.authority.as_str(), told.path.as_str()), (Protocol::Http2, "app.test", "/shop/a"));
    assert_eq!(told.tls, Some((TlsVersion::Tls13, Some("app.test".to_owned()))));
    assert_eq!((told.local, told.query.as_deref()), (gateway.https(), Some("b")));
    assert!(told.request_length > 20 && told.trace.is_none() && told.tries[0].span_id.is_none());

    // To a host that this connection was not made for.
    let other = Identity::new(Key::Ecdsa, &["other.test"]);
    let ingress = Ingress::new("other.test", "web").tls("other").yaml();
    gateway.apply(&manifest::all([other.secret("other").as_str(), ingress.as_str()]));
    assert_eq!(client.get("other.test", "/").await.status, 421);
    let told = recorder.one().await;
    assert_eq!((reason(&told), told.status), (Some(FaultReason::Misdirected), 421));
    assert_eq!((told.route, told.tries.len(), told.has_response), (None, 0, true));

    // HTTP/2 towards the backend.
    let mut client = Http2::prior_knowledge(gateway.http()).await;
    for reused in [false, true] {
        assert_eq!(client.get("a.wild.test", "/").await.status, 200);
        let told = recorder.one().await;
        assert_eq!(told.route, route("any-wild-test", "*.wild.test", "/", "web2:80"));
        let [only] = &told.tries[..] else { panic!("{:?}", told.tries) };
        assert_eq!((only.endpoint, only.reused, only.connect.is_none()), (web.address(), reused, reused));
    }
}

#[tokio::test]
async fn grpc_calls_are_told_with_their_status() {
    let (gateway, _web, recorder) = with_echo(|_| {}).await;
    let mut client = EchoClient::builder(gateway.http()).authority("a.wild.test").connect().await.expect("connect");
    client.unary(EchoRequest::default()).await.expect("a reply");
    let told = recorder.one().await;
    assert_eq!((told.status, told.grpc_status), (200, Some(0)));
    client.unary(EchoRequest { fail_with: 5, ..EchoRequest::default() }).await.expect_err("a failure");
    assert_eq!(recorder.one().await.grpc_status, Some(5));
    // The gateway's own: a head that is all there is.
    let mut client = EchoClient::builder(gateway.http()).authority("nobody.test").connect().await.expect("connect");
    client.unary(EchoRequest::default()).await.expect_err("no route");
    let told = recorder.one().await;
    assert_eq!((reason(&told), told.grpc_status), (Some(FaultReason::NoRoute), Some(12)));
    // What is no call has none.
    gateway.connect().await.get("app.test", "/shop").await;
    assert_eq!(recorder.one().await.grpc_status, None);
}

#[tokio::test]
async fn an_upgrade_is_told_when_its_tunnel_ends() {
    let (gateway, _web, recorder) = with_echo(|_| {}).await;
    gateway.apply(&Ingress::new("ws.test", "web").yaml());
    let mut socket = websocket(gateway.http(), "ws.test", "/ws").await.expect("opened");
    expect_echo(&mut socket).await;
    assert_eq!(recorder.count(), 0);
    expect_close(socket).await;
    let told = recorder.one().await;
    assert_eq!((told.status, &told.fault), (101, &None));
    assert!(told.bytes_in > 300_000 && told.bytes_out > 300_000, "{told:?}");
    assert_eq!(told.tries[0].status, Some(101));
}

#[tokio::test]
async fn every_try_is_told() {
    let nobody = StdListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("bound");
    let broken = RawBackend::scripted([Step::AwaitHead, Step::Reset]).await.expect("start");
    let good = EchoBackend::builder("web").start().await.expect("start");
    let recorder = Recorder::default();
    let gateway = Gateway::recorded_by(&recorder, |settings| {
        settings.workers = 1;
        settings.trace = Some(TraceSettings::default());
    });
    gateway.set_endpoints("web", &[nobody, broken.address(), good.address()]);
    gateway.apply(&Ingress::any_host("web").yaml());
    let mut client = gateway.connect().await;
    let mut errors = std::collections::BTreeMap::new();
    for _ in 0..3 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let status = client.response().await.status;
        let told = recorder.one().await;
        assert_eq!(told.status, status);
        let spans: Vec<_> = told.tries.iter().filter_map(|tried| tried.span_id).collect();
        assert!(spans.windows(2).all(|pair| pair[0] != pair[1]), "{spans:?}");
        let in_order = told.tries.windows(2).all(|pair| pair[0].ended <= pair[1].started);
        assert!(in_order && told.tries.iter().all(|tried| tried.started <= tried.ended), "{told:#?}");
        for tried in &told.tries {
            errors.insert(tried.endpoint, tried.error);
            if tried.endpoint == nobody {
                assert_eq!((tried.connect, tried.status, tried.first_byte, tried.span_id), (None, None, None, None));
            }
        }
        assert_eq!(told.tries.last().is_some_and(|tried| tried.error.is_some()), told.fault.is_some());
    }
    assert_eq!(errors.get(&nobody), Some(&Some(UpstreamError::Refused)));
    assert_eq!(errors.get(&broken.address()), Some(&Some(UpstreamError::Reset)));
}

#[tokio::test]
async fn tls_towards_a_backend_is_timed() {
    let secure = EchoBackend::builder("web")
        .tls(Tls::self_signed(["web.test"]).expect("a certificate"))
        .start()
        .await
        .expect("start");
    let recorder = Recorder::default();
    let gateway = Gateway::recorded_by(&recorder, |_| {});
    gateway.apply(&service("web", &[secure.address()]));
    gateway.apply(&Ingress::new("one.test", "web").nginx("backend-protocol", "HTTPS").yaml());
    gateway.apply(&Ingress::new("two.test", "web").nginx("backend-protocol", "GRPCS").yaml());
    for host in ["one.test", "two.test"] {
        assert_eq!(gateway.connect().await.get(host, "/").await.status, 200);
        let told = recorder.one().await;
        let (connect, tls) = (told.tries[0].connect.expect("new"), told.tries[0].tls.expect("TLS"));
        assert!(!tls.is_zero() && connect + tls <= told.ended - told.started);
    }
}

#[tokio::test]
async fn what_never_was_a_request_is_told_with_its_reason() {
    let short = |settings: &mut ProxySettings| {
        settings.timeouts.request_head = Duration::from_millis(200);
        settings.limits.max_connections = 2;
    };
    let (gateway, _web, recorder) = with_echo(short).await;
    let cases: [(&str, u16, FaultReason); 4] = [
        ("GET / HTTP/1.1\r\nHost: a\r\nBad name: x\r\n\r\n", 400, FaultReason::BadRequest),
        ("GET / HTTP/1.1\r\nHost: a\r\n", 408, FaultReason::RequestTimeout),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505, FaultReason::Unsupported),
        ("GET /elsewhere HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n", 404, FaultReason::NoRoute),
    ];
    for (bytes, status, expected) in cases {
        let mut client = gateway.connect().await;
        client.send(bytes).await;
        assert_eq!(client.response().await.status, status, "{bytes:?}");
        let told = recorder.one().await;
        assert_eq!((told.status, reason(&told), told.has_response), (status, Some(expected), true), "{bytes:?}");
        assert!(told.fault.is_some_and(|(_, words)| !words.is_empty()));
        assert_eq!((told.request_length, told.tries.len()), (bytes.len() as u64, 0));
        drop(client);
        until("the connection is over", || gateway.proxy().connections() == 0).await;
    }
    // Plain HTTP on the port for HTTPS.
    let mut client = Http1::connect(gateway.https()).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.response().await.status, 400);
    let told = recorder.one().await;
    assert_eq!((told.status, reason(&told), told.local), (400, Some(FaultReason::BadRequest), gateway.https()));
    until("the connection is over", || gateway.proxy().connections() == 0).await;
    // More connections than there may be.
    let held = (gateway.connect().await, gateway.connect().await);
    until("both are here", || gateway.proxy().connections() == 2).await;
    assert_eq!(gateway.connect().await.response().await.status, 503);
    assert_eq!(reason(&recorder.one().await), Some(FaultReason::TooManyConnections));
    drop(held);
}

#[tokio::test]
async fn a_head_of_http2_that_is_refused_is_told() {
    let (gateway, _web, recorder) = with_echo(|_| {}).await;
    let mut client = Http2::prior_knowledge(gateway.http()).await;
    let mut request = client.request(Method::GET, "app.test", "/shop");
    request.headers_mut().insert("host", http::HeaderValue::from_static("other.test"));
    let (response, _) = client.open(request, true).await;
    assert_eq!(answer(response).await.expect("an answer").status, 400);
    let told = recorder.one().await;
    assert_eq!((told.protocol, told.status, reason(&told)), (Protocol::Http2, 400, Some(FaultReason::BadRequest)));
}

#[tokio::test]
async fn a_response_that_is_cut_is_told_with_the_reason() {
    let cut = RawBackend::scripted([
        Step::AwaitHead,
        Step::Send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".into()),
        Step::Close,
    ])
    .await
    .expect("start");
    let recorder = Recorder::default();
    let gateway = Gateway::recorded_by(&recorder, |_| {});
    gateway.apply(&service("web", &[cut.address()]));
    gateway.apply(&Ingress::any_host("web").yaml());
    let mut client = gateway.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let told = recorder.one().await;
    assert_eq!((told.status, reason(&told), told.has_response), (200, Some(FaultReason::UpstreamBadResponse), true));
    assert_eq!((told.bytes_out, told.tries[0].status, told.tries[0].bytes), (4, Some(200), 4));
    assert_eq!(told.tries[0].error, Some(UpstreamError::BadResponse));
    // A client that goes before there is an answer.
    let silent = RawBackend::scripted([Step::AwaitHead, Step::Pause(Duration::from_secs(60))]).await.expect("start");
    gateway.set_endpoints("web", &[silent.address()]);
    let mut client = Http2::prior_knowledge(gateway.http()).await;
    let (response, mut stream) = client.open(client.request(Method::GET, "a", "/"), true).await;
    until("it arrives", || !silent.received().is_empty()).await;
    stream.send_reset(h2::Reason::CANCEL);
    drop(response);
    let told = recorder.one().await;
    assert_eq!((told.status, reason(&told), told.has_response), (499, Some(FaultReason::ClientClosed), false));
    assert_eq!(told.tries[0].error, None, "it is not the endpoint's doing");
}
