//! The end: what is under way finishes, what is idle closes, what takes too long is cut and counted.

use crate::support::upgrade::{expect_echo, websocket};
use crate::support::{Gateway, Http2, Ingress, service, soon, until};
use futures_util::StreamExt;
use http::Method;
use sluicegate_echo::EchoBackend;
use sluicegate_telemetry::LimitName;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

async fn with_echo() -> (Gateway, EchoBackend) {
    let web = EchoBackend::builder("web").start().await.expect("start");
    let gateway = Gateway::start();
    gateway.apply(&service("web", &[web.address()]));
    gateway.apply(&Ingress::any_host("web").yaml());
    (gateway, web)
}

#[tokio::test]
async fn without_connections_it_is_over_at_once() {
    let (gateway, _web) = with_echo().await;
    let address = gateway.http();
    let drained = gateway.shutdown(Duration::from_secs(20)).await;
    assert_eq!(drained.cut, 0);
    assert!(drained.took < Duration::from_secs(2), "{drained:?}");
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    // Twice does no harm.
    assert_eq!(gateway.shutdown(Duration::from_secs(20)).await.cut, 0);
}

#[tokio::test]
async fn what_is_under_way_finishes_and_what_is_idle_closes() {
    let (gateway, web) = with_echo().await;
    let mut idle = Vec::new();
    for _ in 0..10 {
        let mut client = gateway.connect().await;
        assert_eq!(client.get("app.test", "/").await.status, 200);
        idle.push(client);
    }
    let mut working = Vec::new();
    for path in ["/delay/1s", "/drip?bytes=10&every=100ms&length=1", "/drip?bytes=10&every=100ms"] {
        let mut client = gateway.connect().await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n\r\n")).await;
        working.push(client);
    }
    let mut uploading = gateway.connect().await;
    uploading.send("POST /echo HTTP/1.1\r\nHost: app.test\r\nContent-Length: 10\r\n\r\nhello").await;
    let mut http2 = Http2::prior_knowledge(gateway.http()).await;
    let request = http2.request(Method::GET, "app.test", "/drip?bytes=10&every=100ms");
    let (response, _) = http2.open(request, true).await;
    until("all are at work", || web.requests().total == 15).await;

    let begun = Instant::now();
    let draining = gateway.shutdown(Duration::from_secs(20));
    let rest = async {
        for client in idle {
            client.expect_end().await;
        }
        assert!(begun.elapsed() < Duration::from_millis(900), "idle connections close at once: {:?}", begun.elapsed());
        uploading.send("world").await;
        let answer = uploading.response().await;
        assert_eq!(answer.text(), "helloworld");
        uploading.expect_end().await;
        for mut client in working {
            let answer = client.response().await;
            assert_eq!(answer.status, 200);
            client.expect_end().await;
        }
        let answer = crate::support::http2::answer(response).await.expect("an answer");
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 10));
        soon("the end", http2.connection).await.expect("no panic").expect("in good order");
    };
    let (drained, ()) = tokio::join!(draining, rest);
    assert_eq!(drained.cut, 0);
    assert!(drained.took < Duration::from_secs(15), "{drained:?}");
    assert_eq!(gateway.limits(LimitName::Drain), 0);
}

#[tokio::test]
async fn responses_that_begin_during_the_drain_say_so() {
    let (gateway, web) = with_echo().await;
    let mut client = gateway.connect().await;
    client.send("GET /delay/500ms HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    until("it is at work", || web.requests().total == 1).await;
    let (drained, answer) = tokio::join!(gateway.shutdown(Duration::from_secs(20)), client.response());
    assert_eq!((drained.cut, answer.status, answer.field("connection")), (0, 200, Some("close")));
}

/// A connection that was made just before the listener closed may still bring its request.
#[tokio::test]
async fn a_connection_without_a_request_has_a_moment_to_bring_one() {
    let (gateway, _web) = with_echo().await;
    let mut client = gateway.connect().await;
    until("it is accepted", || gateway.proxy().connections() == 1).await;
    let late = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.get("app.test", "/").await
    };
    let (drained, answer) = tokio::join!(gateway.shutdown(Duration::from_secs(20)), late);
    assert_eq!((drained.cut, answer.status, answer.field("connection")), (0, 200, Some("close")));
}

#[tokio::test]
async fn what_takes_too_long_is_cut_and_counted() {
    let (gateway, web) = with_echo().await;
    let mut socket = websocket(gateway.http(), "app.test", "/ws").await.expect("opened");
    expect_echo(&mut socket).await;
    let mut download = gateway.connect().await;
    download.send("GET /drip?bytes=1000000&every=50ms&length=1 HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    let mut half = download.head("GET").await.expect("a head");
    let mut http2 = Http2::prior_knowledge(gateway.http()).await;
    let request = http2.request(Method::GET, "app.test", "/delay/60s");
    let (response, _) = http2.open(request, true).await;
    until("all are at work", || web.requests().total == 3).await;
    let drained = gateway.shutdown(Duration::from_millis(500)).await;
    assert_eq!(drained.cut, 3);
    assert!((500..2000).contains(&drained.took.as_millis()), "{drained:?}");
    assert_eq!(gateway.limits(LimitName::Drain), 3);
    while let Some(Ok(_)) = soon("the end", socket.next()).await {}
    assert!(download.body(&mut half).await.is_err());
    assert!(crate::support::http2::answer(response).await.is_err());
    until("the backend is free", || web.requests().open == 0).await;
}
