//! Limits, each with its status and its counter, and the form in which the client is told.

use crate::support::{Body, Gateway, Http1, Ingress, manifest, service, until};
use sluicegate_echo::{EchoBackend, RawBackend, Step};
use sluicegate_proxy::{Limits, ProxySettings, Timeouts};
use sluicegate_telemetry::{FaultReason, LimitName};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const SHORT: Duration = Duration::from_millis(200);

async fn with_echo(adjust: impl FnOnce(&mut ProxySettings)) -> (Gateway, EchoBackend) {
    let web = EchoBackend::builder("web").start().await.expect("start");
    let gateway = Gateway::with(adjust);
    gateway.apply(&service("web", &[web.address()]));
    gateway.apply(&Ingress::any_host("web").yaml());
    (gateway, web)
}

fn in_front_of(address: SocketAddr, adjust: impl FnOnce(&mut ProxySettings)) -> Gateway {
    let gateway = Gateway::with(adjust);
    gateway.apply(&service("web", &[address]));
    gateway.apply(&Ingress::any_host("web").yaml());
    gateway
}

/// Asserts status and reason, that the connection is announced as ended, and that it ends.
async fn expect_refusal(mut client: Http1<TcpStream>, status: u16, reason: FaultReason) {
    let answer = client.response().await;
    assert_eq!((answer.status, answer.field("x-sluicegate-reason")), (status, Some(reason.as_str())));
    assert_eq!(answer.field("connection"), Some("close"));
    client.expect_end().await;
}

#[tokio::test]
async fn a_head_that_never_ends_is_408() {
    let (gateway, web) = with_echo(|settings| settings.timeouts.request_head = SHORT).await;
    let mut client = gateway.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\n").await;
    expect_refusal(client, 408, FaultReason::RequestTimeout).await;
    assert_eq!(gateway.limits(LimitName::HeaderTimeout), 1);
    // One byte now and then does not buy time.
    let mut client = gateway.connect().await;
    for byte in b"GET / HTTP/1.1\r\nX: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" {
        if client.try_send([*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(SHORT / 10).await;
    }
    until("the limit is counted", || gateway.limits(LimitName::HeaderTimeout) == 2).await;
    until("the connection is over", || gateway.proxy().connections() == 0).await;
    assert_eq!(web.requests().connections, 0);
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed_without_a_word() {
    let (gateway, _web) = with_echo(|settings| {
        settings.timeouts.request_head = SHORT;
        settings.timeouts.idle = SHORT;
    })
    .await;
    gateway.connect().await.expect_end().await;
    let mut client = gateway.connect().await;
    assert_eq!(client.get("app.test", "/").await.status, 200);
    client.expect_end().await;
    assert_eq!(gateway.limits(LimitName::IdleTimeout), 2);
}

#[tokio::test]
async fn a_body_that_stops_is_408() {
    let (gateway, _web) = with_echo(|settings| settings.timeouts.request_body = SHORT).await;
    for framing in ["Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n5\r\nhel"] {
        let mut client = gateway.connect().await;
        client.send(format!("POST / HTTP/1.1\r\nHost: app.test\r\n{framing}")).await;
        expect_refusal(client, 408, FaultReason::RequestTimeout).await;
    }
    assert_eq!(gateway.limits(LimitName::BodyTimeout), 2);
}

#[tokio::test]
async fn the_backend_is_not_to_blame_for_a_slow_client() {
    let (gateway, _web) = with_echo(|settings| settings.timeouts.upstream_read = SHORT).await;
    let mut client = gateway.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 10\r\n\r\nhello").await;
    tokio::time::sleep(3 * SHORT).await;
    client.send("world").await;
    let answer = client.response().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(gateway.limits(LimitName::ReadTimeout), 0);
}

#[tokio::test]
async fn bodies_over_the_limit_are_413() {
    let (gateway, web) = with_echo(|settings| settings.limits.max_body_bytes = 1000).await;
    gateway.apply(&Ingress::new("large.test", "web").nginx("proxy-body-size", "1m").yaml());
    gateway.apply(&Ingress::new("unlimited.test", "web").nginx("proxy-body-size", "0").yaml());
    let body = "x".repeat(1001);
    for (host, good) in [("app.test", false), ("large.test", true), ("unlimited.test", true)] {
        for framed in [
            format!("Content-Length: 1001\r\n\r\n{body}"),
            format!("Transfer-Encoding: chunked\r\n\r\n3e9\r\n{body}\r\n0\r\n\r\n"),
        ] {
            let mut client = gateway.connect().await;
            client.send(format!("POST / HTTP/1.1\r\nHost: {host}\r\n{framed}")).await;
            if good {
                assert_eq!(client.response().await.json()["body_bytes"], 1001);
            } else {
                expect_refusal(client, 413, FaultReason::BodyTooLarge).await;
            }
        }
    }
    assert_eq!((gateway.limits(LimitName::BodySize), gateway.faults(FaultReason::BodyTooLarge)), (2, 2));
    let mut client = gateway.connect().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1000\r\n\r\n{}", &body[1..])).await;
    assert_eq!(client.response().await.json()["body_bytes"], 1000, "the limit itself is allowed");
    // A length over the limit is refused before the backend hears of it, and before the client has sent it.
    let before = web.requests();
    let mut client = gateway.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\nContent-Length: 5000\r\n\r\n").await;
    expect_refusal(client, 413, FaultReason::BodyTooLarge).await;
    assert_eq!(web.requests().total, before.total);
}

#[tokio::test]
async fn heads_over_the_limits() {
    let limits = Limits { max_head_bytes: 4096, max_fields: 20, max_target_bytes: 1024, ..Limits::default() };
    let (gateway, web) = with_echo(|settings| settings.limits = limits).await;
    let filler = |count: usize| "X-Filler: y\r\n".repeat(count);
    let cases = [
        (
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(1100)),
            414,
            FaultReason::UriTooLong,
            LimitName::UriLength,
        ),
        // The end of the line is not needed to see it.
        (format!("GET /{}", "a".repeat(1100)), 414, FaultReason::UriTooLong, LimitName::UriLength),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(4096)),
            431,
            FaultReason::HeaderTooLarge,
            LimitName::HeaderBytes,
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "a".repeat(4096)),
            431,
            FaultReason::HeaderTooLarge,
            LimitName::HeaderBytes,
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\n{}", filler(20)),
            431,
            FaultReason::HeaderTooLarge,
            LimitName::HeaderCount,
        ),
    ];
    for (request, status, reason, limit) in cases {
        let before = gateway.limits(limit);
        let mut client = gateway.connect().await;
        client.send(&request).await;
        expect_refusal(client, status, reason).await;
        assert_eq!(gateway.limits(limit), before + 1, "{limit:?}");
    }
    assert_eq!(web.requests().connections, 0);
    let mut client = gateway.connect().await;
    client.send(format!("GET /{} HTTP/1.1\r\nHost: a\r\n{}\r\n", "a".repeat(1023), filler(19))).await;
    assert_eq!(client.response().await.status, 200, "the limits themselves are allowed");
}

#[tokio::test]
async fn connections_over_the_limit_are_503() {
    let (gateway, _web) = with_echo(|settings| settings.limits.max_connections = 2).await;
    let (mut first, second) = (gateway.connect().await, gateway.connect().await);
    until("both count", || gateway.proxy().connections() == 2).await;
    let mut third = gateway.connect().await;
    // It is told without having asked.
    let answer = third.response().await;
    assert_eq!((answer.status, answer.field("x-sluicegate-reason")), (503, Some("too_many_connections")));
    third.expect_end().await;
    assert_eq!((gateway.limits(LimitName::Connections), gateway.faults(FaultReason::TooManyConnections)), (1, 1));
    assert_eq!(first.get("app.test", "/").await.status, 200, "the others are not harmed");
    drop(second);
    until("there is room again", || gateway.proxy().connections() == 1).await;
    assert_eq!(gateway.connect().await.get("app.test", "/").await.status, 200);
}

#[tokio::test]
async fn a_silent_backend_is_504() {
    let (gateway, _web) = with_echo(|settings| settings.timeouts.upstream_read = SHORT).await;
    gateway.apply(&Ingress::new("patient.test", "web").nginx("proxy-read-timeout", "30").yaml());
    let mut client = gateway.connect().await;
    let answer = client.get("app.test", "/delay/5s").await;
    assert_eq!((answer.status, answer.field("x-sluicegate-reason")), (504, Some("upstream_read_timeout")));
    assert_eq!(gateway.limits(LimitName::ReadTimeout), 1);
    assert_eq!(client.get("patient.test", "/delay/500ms").await.status, 200, "the route has a timeout of its own");
    // Each byte buys time.
    let answer = client.get("app.test", "/drip?bytes=10&every=50ms&length=1").await;
    assert_eq!((answer.status, answer.body.len()), (200, 10));
    // In the middle of a body there is nothing left to say.
    client.send("GET /drip?bytes=10&every=5s&size=5&length=1 HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    let head = client.try_response("GET").await.expect_err("cut");
    assert!(head.head.is_some() || head.received == 0);
}

/// A listener that the kernel accepts nothing more for: its queue is full.
async fn deaf() -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().expect("socket");
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("bind");
    let listener = socket.listen(1).expect("listen");
    let address = listener.local_addr().expect("bound");
    let mut filling = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(SHORT, TcpStream::connect(address)).await {
        filling.push(stream);
    }
    (listener, filling)
}

#[tokio::test]
async fn an_endpoint_that_does_not_accept_is_504() {
    let (listener, _filling) = deaf().await;
    let gateway = in_front_of(listener.local_addr().expect("bound"), |settings| settings.timeouts.connect = SHORT);
    let answer = gateway.connect().await.get("app.test", "/").await;
    assert_eq!((answer.status, answer.field("x-sluicegate-reason")), (504, Some("connect_timeout")));
    assert_eq!(gateway.sample("sluicegate_upstream_errors_total{reason=\"connect_timeout\"}"), 1);
    assert_eq!(gateway.limits(LimitName::ConnectTimeout), 1);
}

#[tokio::test]
async fn an_endpoint_that_takes_nothing_is_504() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let gateway =
        in_front_of(listener.local_addr().expect("bound"), |settings| settings.timeouts.upstream_send = SHORT);
    let accepting = tokio::spawn(async move { listener.accept().await.expect("accept") });
    let mut client = gateway.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 100000000\r\n\r\n").await;
    let block = vec![b'x'; 1 << 20];
    let answer = loop {
        tokio::select! {
            biased;
            head = client.head("POST") => break head.expect("a head"),
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
        // It stops reading once the backend does; then only the answer is waited for.
        let _ = tokio::time::timeout(SHORT, client.try_send(&block)).await;
    };
    assert_eq!((answer.status, answer.field("x-sluicegate-reason")), (504, Some("upstream_send_timeout")));
    assert_eq!(gateway.limits(LimitName::SendTimeout), 1);
    drop(accepting);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut() {
    let (gateway, web) = with_echo(|settings| settings.timeouts.client_write = SHORT).await;
    let mut client = gateway.connect().await;
    client.send("GET /bytes/200000000 HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    client.head("GET").await.expect("a head");
    until("the limit is counted", || gateway.limits(LimitName::ClientSendTimeout) == 1).await;
    until("the gateway has let go", || gateway.proxy().connections() == 0).await;
    until("the backend is free again", || web.requests().open == 0).await;
}

#[tokio::test]
async fn backends_that_answer_nonsense_are_502() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(5000));
    for (bytes, reason) in [
        ("SSH-2.0-OpenSSH\r\n\r\n", FaultReason::UpstreamBadResponse),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            FaultReason::UpstreamBadResponse,
        ),
        ("HTTP/1.1 200 OK\r\nX: a\nb\r\n\r\n", FaultReason::UpstreamBadResponse),
        (
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
            FaultReason::UpstreamBadResponse,
        ),
        (&long, FaultReason::UpstreamBadResponse),
        ("", FaultReason::UpstreamReset),
        ("HTTP/1.1 200 OK\r\nContent-", FaultReason::UpstreamReset),
    ] {
        let raw = RawBackend::scripted([Step::AwaitHead, Step::Send(bytes.to_owned().into()), Step::Close])
            .await
            .expect("start");
        let gateway = in_front_of(raw.address(), |settings| settings.limits.max_response_head_bytes = 4096);
        let mut client = gateway.connect().await;
        // POST is not tried again, so that there is one try to look at.
        client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0\r\n\r\n").await;
        let answer = client.response().await;
        assert_eq!((answer.status, answer.field("x-sluicegate-reason")), (502, Some(reason.as_str())), "{bytes:?}");
        assert_eq!(gateway.faults(reason), 1);
        let is_long = bytes.len() > 4096;
        assert_eq!(gateway.limits(LimitName::ResponseHeader), u64::from(is_long));
    }
}

/// A backend that sends interim responses without end must not keep a request for ever.
#[tokio::test]
async fn interim_responses_without_end_are_cut() {
    let script = [Step::AwaitHead, Step::Send("HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n".repeat(2000).into())];
    let raw = RawBackend::scripted(script).await.expect("start");
    let gateway = in_front_of(raw.address(), |settings| {
        settings.timeouts = Timeouts { upstream_read: SHORT, ..Timeouts::default() }
    });
    let mut client = gateway.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    let answer = client.response().await;
    assert!(matches!(answer.status, 502 | 504), "{}", answer.status);
    assert!(answer.interim.len() <= 100, "{} interim responses", answer.interim.len());
}

#[tokio::test]
async fn errors_are_told_in_the_form_that_the_client_speaks() {
    let gateway = Gateway::start();
    gateway
        .apply(&manifest::all([service("empty", &[]).as_str(), Ingress::new("empty.test", "empty").yaml().as_str()]));
    let mut client = gateway.connect().await;

    let answer = client.get_with("empty.test", "/", "Accept: text/html,*/*;q=0.8\r\nX-Request-ID: abc\r\n").await;
    assert_eq!((answer.status, answer.field("content-type")), (503, Some("text/html; charset=utf-8")));
    assert!(answer.text().contains("no_endpoints") && answer.text().contains("abc"), "{}", answer.text());

    let answer = client.get_with("empty.test", "/", "Accept: */*\r\nX-Request-ID: abc\r\n").await;
    assert_eq!((answer.status, answer.field("content-type")), (503, Some("application/json")));
    let json = answer.json();
    assert_eq!(
        (&json["status"], &json["reason"], &json["request_id"]),
        (&503.into(), &"no_endpoints".into(), &"abc".into())
    );
    assert_eq!(answer.field("x-request-id"), Some("abc"));
    assert!(answer.field("date").is_some());

    let answer = client.get_with("empty.test", "/", "Content-Type: application/grpc+proto\r\n").await;
    assert_eq!((answer.status, answer.field("grpc-status")), (200, Some("14")));
    assert_eq!(answer.field("content-type"), Some("application/grpc"));
    assert!(answer.field("grpc-message").is_some_and(|message| message.contains("no_endpoints")));

    client.send("HEAD / HTTP/1.1\r\nHost: empty.test\r\n\r\n").await;
    let answer = client.response_to("HEAD").await;
    assert_eq!((answer.status, answer.framing), (503, Body::None));
    assert_eq!(client.get("empty.test", "/").await.status, 503, "the connection goes on");
    assert_eq!(gateway.faults(FaultReason::NoEndpoints), 5);
    until("all requests are counted", || gateway.sample("sluicegate_requests_total{") == 5).await;
}

#[tokio::test]
async fn methods_that_are_not_served() {
    let (gateway, web) = with_echo(|_| {}).await;
    for request in
        ["CONNECT app.test:443 HTTP/1.1\r\nHost: app.test:443\r\n\r\n", "TRACE / HTTP/1.1\r\nHost: app.test\r\n\r\n"]
    {
        let mut client = gateway.connect().await;
        client.send(request).await;
        let answer = client.response().await;
        assert_eq!(
            (answer.status, answer.field("x-sluicegate-reason")),
            (405, Some("method_not_allowed")),
            "{request}"
        );
        assert!(answer.field("allow").is_some());
    }
    assert_eq!(web.requests().total, 0);
    let mut client = gateway.connect().await;
    client.send("PURGE /x HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    assert_eq!(client.response().await.json()["method"], "PURGE");
}
