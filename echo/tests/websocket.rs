//! WebSocket and other upgrades. The whole of RFC 6455 is `tests/peers/ws_suite.py`'s part.

mod common;

use std::time::Duration;

use common::*;
use futures_util::{SinkExt, StreamExt};
use http::{Method, Request, Version};
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use sluicegate_echo::EchoBackend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

async fn open(backend: &EchoBackend, path: &str) -> WebSocketStream<TcpStream> {
    let tcp = TcpStream::connect(backend.address()).await.expect("connect");
    let (socket, response) =
        tokio_tungstenite::client_async(format!("ws://coffee.test{path}"), tcp).await.expect("a WebSocket");
    assert_eq!(response.headers()["x-echo-pod"], "coffee-7");
    socket
}

async fn next(socket: &mut WebSocketStream<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>) -> Message {
    let message = tokio::time::timeout(PATIENCE, socket.next()).await.expect("in time");
    message.expect("a message").expect("no error")
}

/// A client frame with a zero mask.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() < 126);
    [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}

#[tokio::test]
async fn messages_come_back_whole_on_any_path() {
    let backend = backend().await;
    for path in ["/ws", "/chat/room?x=1", "/"] {
        let mut socket = open(&backend, path).await;
        for message in [
            Message::text("hällo"),
            Message::text(""),
            Message::binary(vec![0u8, 255, 128]),
            Message::binary(vec![7u8; 1_000_000]),
        ] {
            socket.send(message.clone()).await.expect("sent");
            assert_eq!(next(&mut socket).await, message);
        }
        socket.send(Message::Ping("are you there".into())).await.expect("sent");
        assert_eq!(next(&mut socket).await, Message::Pong("are you there".into()));
        socket.close(None).await.expect("closed");
        assert!(matches!(next(&mut socket).await, Message::Close(_)));
    }
    assert_eq!(backend.requests().websockets, 3);
}

#[tokio::test]
async fn fragments_become_one_message_and_pings_may_come_between() {
    let backend = backend().await;
    let mut tcp = handshake(&backend, "/ws", "").await.0;
    let parts = [frame(0x01, b"frag"), frame(0x89, b"p"), frame(0x00, b"men"), frame(0x80, b"ted")];
    for part in parts {
        tcp.write_all(&part).await.expect("sent");
    }
    let mut answer = [0; 3 + 12];
    tcp.read_exact(&mut answer).await.expect("pong and message");
    assert_eq!(&answer[..3], b"\x8a\x01p");
    assert_eq!(&answer[3..], b"\x81\x0afragmented");
}

#[tokio::test]
async fn violations_get_their_close_code() {
    let backend = backend().await;
    for (bytes, code, what) in [
        (frame(0x81, b"\xff\xfe"), 1007, "text that is no UTF-8"),
        (frame(0xc1, b"x"), 1002, "a reserved bit"),
        (frame(0x83, b"x"), 1002, "a reserved opcode"),
        (frame(0x80, b"x"), 1002, "a continuation of nothing"),
        (frame(0x09, b"x"), 1002, "a fragmented control frame"),
        (b"\x81\x01x".to_vec(), 1002, "an unmasked frame"),
        (frame(0x88, &[0x03, 0xec]), 1002, "a close code that must not be sent"),
        (frame(0x88, &[0x03, 0xe8, b'o', b'k']), 1000, "a good close"),
    ] {
        let mut tcp = handshake(&backend, "/ws", "").await.0;
        tcp.write_all(&bytes).await.expect("sent");
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, tcp.read_to_end(&mut answer)).await.expect("in time").expect("a plain end");
        assert_eq!(answer.first(), Some(&0x88), "{what}: {answer:?}");
        assert_eq!(u16::from_be_bytes([answer[2], answer[3]]), code, "{what}");
    }
}

#[tokio::test]
async fn a_hello_tells_the_handshake_and_a_subprotocol_is_taken() {
    let backend = backend().await;
    let mut request = "ws://coffee.test/ws?hello=1".into_client_request().expect("a request");
    request.headers_mut().insert("sec-websocket-protocol", "chat, other".parse().expect("a value"));
    let tcp = TcpStream::connect(backend.address()).await.expect("connect");
    let (mut socket, response) = tokio_tungstenite::client_async(request, tcp).await.expect("a WebSocket");
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
    let Message::Text(hello) = next(&mut socket).await else { panic!("no text") };
    let told: serde_json::Value = serde_json::from_str(&hello).expect("JSON");
    assert_eq!(told["path"], "/ws?hello=1");
    assert_eq!(told["headers"]["sec-websocket-protocol"][0], "chat, other");
}

#[tokio::test]
async fn a_bad_handshake_is_refused_by_status() {
    let backend = backend().await;
    for (extra, status) in [
        ("", "426"),
        ("Connection: upgrade\r\nUpgrade: websocket\r\n", "426"),
        ("Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 12\r\n", "426"),
        ("Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n", "400"),
        ("Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n", "400"),
    ] {
        let mut tcp = TcpStream::connect(backend.address()).await.expect("connect");
        tcp.write_all(format!("GET /ws HTTP/1.1\r\nHost: a.test\r\n{extra}\r\n").as_bytes()).await.expect("sent");
        let head = read_until(&mut tcp, b"\r\n\r\n").await;
        assert!(head.starts_with(format!("HTTP/1.1 {status}").as_bytes()), "{extra}: {}", head.escape_ascii());
    }
    let (_, head) = handshake(&backend, "/status/503", "").await;
    assert!(head.starts_with(b"HTTP/1.1 503"), "a named behaviour comes before the upgrade");
    assert_eq!(backend.requests().websockets, 0);
}

#[tokio::test]
async fn extended_connect_opens_a_websocket_over_http2() {
    let backend = backend().await;
    let mut client = http2(backend.address()).await;
    let told = json(client.send_request(get2("/")).await.expect("answer")).await;
    assert_eq!(told["proto"], "HTTP/2.0", "the settings have arrived");
    let request = Request::builder()
        .method(Method::CONNECT)
        .version(Version::HTTP_2)
        .uri("http://coffee.test/ws")
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .body(empty())
        .expect("a request");
    let mut response = client.send_request(request).await.expect("answer");
    assert_eq!(response.status(), 200);
    let upgraded = hyper::upgrade::on(&mut response).await.expect("a stream");
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await;
    socket.send(Message::text("over h2")).await.expect("sent");
    assert_eq!(next(&mut socket).await, Message::text("over h2"));
}

#[tokio::test]
async fn a_stopping_backend_says_goodbye() {
    let backend = backend().await;
    let mut socket = open(&backend, "/ws").await;
    socket.send(Message::text("hi")).await.expect("sent");
    next(&mut socket).await;
    let peer = tokio::spawn(async move {
        let Message::Close(Some(frame)) = next(&mut socket).await else { panic!("no close") };
        // Reading on answers the close.
        assert!(socket.next().await.is_none_or(|end| end.is_err()));
        u16::from(frame.code)
    });
    tokio::time::timeout(Duration::from_secs(5), backend.stop()).await.expect("a stop in time");
    assert_eq!(peer.await.expect("no panic"), 1001);
    assert_eq!(backend.requests().open, 0);
}

#[tokio::test]
async fn any_other_upgrade_echoes_bytes() {
    let backend = backend().await;
    let mut tcp = TcpStream::connect(backend.address()).await.expect("connect");
    // The first bytes of the new protocol may come with the request.
    tcp.write_all(b"GET /upgrade HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: Custom/2, x\r\n\r\nfirst")
        .await
        .expect("sent");
    let head = String::from_utf8(read_until(&mut tcp, b"\r\n\r\n").await).expect("text").to_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: custom/2\r\n"), "{head}");
    assert_eq!(read_until(&mut tcp, b"first").await, b"first");
    tcp.write_all(&[0, 1, 2, 255]).await.expect("sent");
    let mut echoed = [0; 4];
    tcp.read_exact(&mut echoed).await.expect("an echo");
    assert_eq!(echoed, [0, 1, 2, 255]);
    tcp.shutdown().await.expect("finished");
    assert_eq!(tcp.read(&mut [0; 8]).await.expect("a plain end"), 0);
}

async fn handshake(backend: &EchoBackend, path: &str, extra: &str) -> (TcpStream, Vec<u8>) {
    let mut tcp = TcpStream::connect(backend.address()).await.expect("connect");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extra}\r\n"
    );
    tcp.write_all(request.as_bytes()).await.expect("sent");
    let head = read_until(&mut tcp, b"\r\n\r\n").await;
    if head.starts_with(b"HTTP/1.1 101") {
        assert!(String::from_utf8_lossy(&head).contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{}", head.escape_ascii());
    }
    (tcp, head)
}
