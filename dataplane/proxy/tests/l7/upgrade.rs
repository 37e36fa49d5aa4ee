//! Upgrades: WebSocket and others over HTTP/1.1, and WebSocket over a stream of HTTP/2 (RFC 8441).

use crate::support::http2::{Fate, Frames, answer};
use crate::support::upgrade::{client_on, expect_close, expect_echo, tunnel, websocket, websocket_over};
use crate::support::{Gateway, Http2, Ingress, manifest, service, service_speaking, soon, tls, until};
use bytes::Bytes;
use futures_util::StreamExt;
use h2::ext::Protocol;
use http::{Method, Request, StatusCode};
use sluicegate_echo::{EchoBackend, RawBackend, Step};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Error;

async fn with_echo(gateway: Gateway) -> (Gateway, EchoBackend) {
    let web = EchoBackend::builder("web").start().await.expect("start");
    let services = [service("web", &[web.address()]), service_speaking("web2", "kubernetes.io/h2c", &[web.address()])];
    gateway.apply(&manifest::all(services.iter().map(String::as_str)));
    gateway.apply(&Ingress::any_host("web").yaml());
    gateway.apply(&Ingress::new("h2c.test", "web2").yaml());
    (gateway, web)
}

#[tokio::test]
async fn websockets_echo_over_http1() {
    let (gateway, web) = with_echo(Gateway::start()).await;
    let mut socket = websocket(gateway.http(), "app.test", "/ws").await.expect("opened");
    expect_echo(&mut socket).await;
    assert_eq!(gateway.sample("sluicegate_upgrades_active{kind=\"websocket\""), 1);
    expect_close(socket).await;
    until("it is counted out", || gateway.sample("sluicegate_upgrades_active{kind=\"websocket\"") == 0).await;
    assert_eq!((gateway.sample("sluicegate_upgrades_total{kind=\"websocket\""), web.requests().websockets), (1, 1));
    until("the backend's connection is over", || web.requests().open == 0).await;
}

#[tokio::test]
async fn websockets_echo_over_tls() {
    let (gateway, _web) = with_echo(Gateway::start()).await;
    let config = Arc::new(tls::modern(&["http/1.1"]));
    let stream = tls::connect(&config, gateway.https(), "app.test").await;
    let mut socket = websocket_over(stream, "app.test", "/ws").await.expect("opened");
    expect_echo(&mut socket).await;
    expect_close(socket).await;
}

#[tokio::test]
async fn the_end_of_either_side_is_the_end_of_both() {
    let (gateway, web) = with_echo(Gateway::start()).await;
    let socket = websocket(gateway.http(), "app.test", "/ws").await.expect("opened");
    drop(socket);
    until("the backend's connection is over", || web.requests().open == 0).await;
    let mut socket = websocket(gateway.http(), "app.test", "/ws").await.expect("opened");
    web.kill();
    while let Some(Ok(_)) = soon("the end", socket.next()).await {}
    until("the gateway's connection is over", || gateway.proxy().connections() == 0).await;
}

#[tokio::test]
async fn an_upgrade_that_the_backend_refuses_stays_http() {
    let (gateway, _web) = with_echo(Gateway::start()).await;
    let error = websocket(gateway.http(), "app.test", "/status/403").await.expect_err("refused");
    let Error::Http(response) = error else { panic!("{error}") };
    assert_eq!(response.status(), 403);
    let mut client = gateway.connect().await;
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert_eq!(client.get_with("app.test", "/bytes/10", fields).await.body.len(), 10);
    assert_eq!(client.get("app.test", "/bytes/5").await.body.len(), 5, "the connection goes on");
}

#[tokio::test]
async fn other_protocols_are_tunnelled_too() {
    let (gateway, _web) = with_echo(Gateway::start()).await;
    let mut client = gateway.connect().await;
    // What follows the request belongs to the new protocol.
    client.send("GET /upgrade HTTP/1.1\r\nHost: app.test\r\nConnection: upgrade\r\nUpgrade: chat/2\r\n\r\n").await;
    let head = client.head("GET").await.expect("a head");
    assert_eq!((head.status, head.field("connection"), head.field("upgrade")), (101, Some("upgrade"), Some("chat/2")));
    client.send("hello").await;
    let (mut stream, read) = client.into_parts();
    let mut received = read;
    while received.len() < 5 {
        assert!(soon("an echo", stream.read_buf(&mut received)).await.expect("read") > 0);
    }
    assert_eq!(received, b"hello");
    // A half that is closed is closed there too, and the other half goes on until it ends.
    stream.write_all(b" and goodbye").await.expect("sent");
    stream.shutdown().await.expect("shut down");
    let mut rest = Vec::new();
    soon("the rest", stream.read_to_end(&mut rest)).await.expect("read");
    assert_eq!(rest, b" and goodbye");
    assert_eq!(gateway.sample("sluicegate_upgrades_total{kind=\"other\""), 1);
}

#[tokio::test]
async fn bytes_right_behind_the_handshake_are_not_lost() {
    let script = [
        Step::AwaitHead,
        Step::Send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nfirst".into()),
        Step::Echo,
    ];
    let raw = RawBackend::scripted(script).await.expect("start");
    let gateway = Gateway::start();
    gateway.apply(&service("web", &[raw.address()]));
    gateway.apply(&Ingress::any_host("web").yaml());
    let mut client = gateway.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nsecond").await;
    assert_eq!(client.head("GET").await.expect("a head").status, 101);
    let (mut stream, mut received) = client.into_parts();
    while received.len() < 11 {
        assert!(soon("bytes", stream.read_buf(&mut received)).await.expect("read") > 0);
    }
    assert_eq!(received, b"firstsecond");
}

#[tokio::test]
async fn the_last_message_of_a_backend_that_resets_arrives() {
    let script = [
        Step::AwaitHead,
        Step::Send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n".into()),
        Step::AwaitBytes(5),
        Step::Send("last words".into()),
        Step::Reset,
    ];
    let raw = RawBackend::scripted(script).await.expect("start");
    let gateway = Gateway::start();
    gateway.apply(&service("web", &[raw.address()]));
    gateway.apply(&Ingress::any_host("web").yaml());
    for _ in 0..20 {
        let mut client = gateway.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").await;
        assert_eq!(client.head("GET").await.expect("a head").status, 101);
        client.send("hello").await;
        let (mut stream, mut received) = client.into_parts();
        soon("the rest", stream.read_to_end(&mut received)).await.expect("an end in good order");
        assert_eq!(received, b"last words");
    }
}

#[tokio::test]
async fn what_came_of_a_response_before_it_broke_off_arrives() {
    let script =
        [Step::AwaitHead, Step::Send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it".into()), Step::Reset];
    let raw = RawBackend::scripted(script).await.expect("start");
    let gateway = Gateway::start();
    gateway.apply(&service("web", &[raw.address()]));
    gateway.apply(&Ingress::any_host("web").yaml());
    for _ in 0..20 {
        let mut client = gateway.connect().await;
        client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0\r\n\r\n").await;
        let (mut stream, mut received) = client.into_parts();
        // Whether the break shows as an end or as a reset, nobody can take ten bytes for a hundred.
        let _ = soon("the rest", stream.read_to_end(&mut received)).await;
        let text = String::from_utf8_lossy(&received);
        assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("\r\n\r\nhalf of it"), "{text}");
    }
}

#[tokio::test]
async fn h2c_by_upgrade_is_not_offered() {
    let (gateway, web) = with_echo(Gateway::start()).await;
    let mut client = gateway.connect().await;
    let fields = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n";
    let answer = client.get_with("app.test", "/", fields).await;
    assert_eq!((answer.status, answer.echoed("upgrade"), answer.echoed("http2-settings")), (200, None, None));
    assert_eq!(web.requests().http2, 0);
}

#[tokio::test]
async fn a_tunnel_on_which_nothing_moves_is_closed() {
    let (gateway, web) =
        with_echo(Gateway::with(|settings| settings.timeouts.upgraded_idle = Duration::from_millis(200))).await;
    let mut socket = websocket(gateway.http(), "app.test", "/ws").await.expect("opened");
    expect_echo(&mut socket).await;
    while let Some(Ok(_)) = soon("the end", socket.next()).await {}
    until("the backend's connection is over", || web.requests().open == 0).await;
}

/// An extended CONNECT, once the server has said that it knows them.
async fn connect_request(client: &mut Http2, authority: &str, path: &str, protocol: &str) -> Request<()> {
    until("the settings are here", || client.sender.is_extended_connect_protocol_enabled()).await;
    let mut request = client.request(Method::CONNECT, authority, path);
    request.extensions_mut().insert(Protocol::from(protocol));
    request.headers_mut().insert("sec-websocket-version", http::HeaderValue::from_static("13"));
    request
}

#[tokio::test]
async fn websockets_echo_over_http2() {
    let (gateway, web) = with_echo(Gateway::start()).await;
    let mut client = Http2::prior_knowledge(gateway.http()).await;
    let mut sockets = Vec::new();
    for _ in 0..3 {
        let request = connect_request(&mut client, "app.test", "/ws", "websocket").await;
        let (response, send) = client.open(request, false).await;
        let (parts, receive) = soon("a response", response).await.expect("opened").into_parts();
        assert_eq!(parts.status, StatusCode::OK);
        for name in ["sec-websocket-accept", "upgrade", "connection", "transfer-encoding", "content-length"] {
            assert!(!parts.headers.contains_key(name), "{name}");
        }
        sockets.push(client_on(tunnel(send, receive)).await);
    }
    for socket in &mut sockets {
        expect_echo(socket).await;
    }
    assert_eq!(gateway.sample("sluicegate_upgrades_active{kind=\"websocket_h2\""), 3);
    assert_eq!(client.get("app.test", "/bytes/5").await.body.len(), 5, "other streams are not disturbed");
    for socket in sockets {
        expect_close(socket).await;
    }
    until("all are counted out", || gateway.sample("sluicegate_upgrades_active{kind=\"websocket_h2\"") == 0).await;
    assert_eq!(web.requests().websockets, 3);
}

/// RFC 8441 section 5: 2xx means that the tunnel is open, so nothing else must look like it.
#[tokio::test]
async fn what_is_no_websocket_does_not_look_like_one_over_http2() {
    let (gateway, _web) = with_echo(Gateway::start()).await;
    let mut client = Http2::prior_knowledge(gateway.http()).await;
    for (authority, path, status) in [
        ("app.test", "/status/403", 403),
        ("app.test", "/bytes/10", 502),
        ("app.test", "/status/204", 502),
        ("h2c.test", "/bytes/10", 502),
    ] {
        let request = connect_request(&mut client, authority, path, "websocket").await;
        let (response, _send) = client.open(request, false).await;
        let answer = answer(response).await.expect("an answer");
        assert_eq!(answer.status.as_u16(), status, "{authority}{path}");
    }
    let request = connect_request(&mut client, "app.test", "/ws", "connect-udp").await;
    let (response, mut send) = client.open(request, false).await;
    let answered = answer(response).await.expect("an answer");
    assert_eq!(answered.status, StatusCode::NOT_IMPLEMENTED);
    let _ = send.send_data(Bytes::new(), true);
    assert_eq!(client.get("app.test", "/bytes/5").await.body.len(), 5, "the connection goes on");
}

#[tokio::test]
async fn connect_without_a_protocol_is_refused_on_http2() {
    let (gateway, web) = with_echo(Gateway::start()).await;
    let mut frames = Frames::connect(gateway.http()).await;
    let stream = frames.open(&[(b":method", b"CONNECT"), (b":authority", b"app.test:443")], true).await;
    let fate = frames.fate(stream).await;
    assert!(matches!(fate, Fate::Status(405) | Fate::Reset(_)), "{fate:?}");
    assert_eq!(web.requests().total, 0);
}
