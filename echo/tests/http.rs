//! The HTTP behaviours, over HTTP/1.1, HTTP/2 and TLS.

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::*;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use sluicegate_echo::{EchoBackend, Tls, checksum, pattern_byte};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn is_pattern(bytes: &[u8]) -> bool {
    bytes.iter().enumerate().all(|(offset, byte)| *byte == pattern_byte(offset as u64))
}

#[tokio::test]
async fn a_request_is_described_in_both_versions() {
    let backend = backend().await;
    let request = || {
        Request::post("http://coffee.test/a%20b/?x=%31&y")
            .header("x-Twice", "one")
            .header("x-twice", "two")
            .header("x-latin", HeaderValue::from_bytes(b"caf\xe9").expect("a value"))
    };
    let over1 = request().header("host", "coffee.test:8080").body(body(b"hello")).expect("a request");
    let (mut parts, payload) = over1.into_parts();
    parts.uri = "/a%20b/?x=%31&y".parse().expect("a URI");
    let over1 = http1(backend.address()).await.send_request(Request::from_parts(parts, payload)).await.expect("answer");
    let over2 = request().body(body(b"hello")).expect("a request");
    let over2 = http2(backend.address()).await.send_request(over2).await.expect("answer");
    for (response, proto, host) in [(over1, "HTTP/1.1", "coffee.test:8080"), (over2, "HTTP/2.0", "coffee.test")] {
        assert_eq!(response.status(), StatusCode::OK);
        let headers = response.headers().clone();
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["server"], "sluicegate-echo");
        assert_eq!(headers["x-echo-service"], "coffee");
        assert_eq!(headers["x-echo-pod"], "coffee-7");
        assert!(headers.contains_key("date"));
        let length: usize = headers["content-length"].to_str().expect("text").parse().expect("a number");
        let (bytes, _, _) = collect(response).await;
        assert_eq!(bytes.len(), length);
        let told: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!(told["service"], "coffee");
        assert_eq!(told["pod"], "coffee-7");
        assert_eq!(told["namespace"], "default");
        assert_eq!(told["method"], "POST");
        assert_eq!(told["path"], "/a%20b/?x=%31&y");
        assert_eq!(told["host"], host);
        assert_eq!(told["proto"], proto);
        assert_eq!(told["headers"]["x-twice"], serde_json::json!(["one", "two"]));
        assert_eq!(told["headers"]["x-latin"], serde_json::json!(["caf\u{e9}"]));
        assert_eq!(told["body_bytes"], 5);
        assert!(told["tls"].is_null());
        assert!(told["peer"].as_str().expect("text").starts_with("127.0.0.1:"));
    }
    let counted = backend.requests();
    assert_eq!((counted.total, counted.http1, counted.http2, counted.connections), (2, 1, 1, 2));
}

#[tokio::test]
async fn tls_is_described_and_negotiates_both_versions() {
    let tls_of = Tls::self_signed(["coffee.test"]).expect("a name");
    let backend = EchoBackend::builder("coffee").tls(tls_of.clone()).start().await.expect("start");
    for (alpn, proto, protocol) in [
        (&[&b"h2"[..], b"http/1.1"][..], "HTTP/2.0", "h2"),
        (&[&b"http/1.1"[..]][..], "HTTP/1.1", "http/1.1"),
        (&[][..], "HTTP/1.1", ""),
    ] {
        let stream = tls(backend.address(), "coffee.test", tls_of.certificate_pem(), alpn).await;
        let told = if protocol == "h2" {
            let handshake =
                hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), TokioIo::new(stream));
            let (mut sender, connection) = handshake.await.expect("handshake");
            tokio::spawn(connection);
            json(sender.send_request(get2("/")).await.expect("answer")).await
        } else {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("handshake");
            tokio::spawn(connection);
            json(sender.send_request(get("/")).await.expect("answer")).await
        };
        assert_eq!(told["proto"], proto);
        assert_eq!(told["tls"]["version"], "TLSv1.3");
        assert_eq!(told["tls"]["serverName"], "coffee.test");
        assert_eq!(told["tls"]["negotiatedProtocol"], protocol);
        assert!(told["tls"]["cipherSuite"].as_str().expect("text").starts_with("TLS_"));
    }
    let restricted =
        EchoBackend::builder("old").tls(tls_of.clone().with_alpn(["http/1.1"])).start().await.expect("start");
    let stream = tls(restricted.address(), "coffee.test", tls_of.certificate_pem(), &[b"h2", b"http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[tokio::test]
async fn statuses_and_headers_are_as_asked() {
    let backend = backend().await;
    let mut client = http1(backend.address()).await;
    for code in [200, 204, 304, 404, 429, 503, 599] {
        client.ready().await.expect("a kept connection");
        let response = client.send_request(get(&format!("/status/{code}"))).await.expect("answer");
        assert_eq!(response.status(), code);
        let (bytes, _, error) = collect(response).await;
        assert!(error.is_none());
        assert_eq!(bytes.is_empty(), matches!(code, 204 | 304), "{code}");
    }
    let response = client.send_request(get("/app?do=headers&set-cookie=a%3D1&set-cookie=b%3D2&server=other")).await;
    let response = response.expect("answer");
    let cookies: Vec<_> = response.headers().get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
    assert_eq!(response.headers()["server"], "other");
    assert_eq!(json(response).await["path"], "/app?do=headers&set-cookie=a%3D1&set-cookie=b%3D2&server=other");
    for bad in ["/status/100", "/headers?content-length=1", "/x?do=fly", "/delay/1y"] {
        let response = client.send_request(get(bad)).await.expect("answer");
        assert_eq!(response.status(), 400, "{bad}");
        assert!(!collect(response).await.0.is_empty(), "{bad} says why");
    }
}

#[tokio::test]
async fn health_follows_what_it_was_told() {
    let backend = backend().await;
    let mut client = http1(backend.address()).await;
    for healthy in [true, false, true] {
        backend.set_healthy(healthy);
        let response = client.send_request(get("/healthz")).await.expect("answer");
        assert_eq!(response.status(), if healthy { 200 } else { 503 });
        collect(response).await;
    }
}

#[tokio::test]
async fn a_delay_comes_before_the_head() {
    let backend = backend().await;
    let begun = Instant::now();
    let response = http1(backend.address()).await.send_request(get("/delay/200ms")).await.expect("answer");
    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn pattern_bodies_have_their_length_and_framing() {
    let backend = backend().await;
    for len in [0usize, 1, 250, 251, 64_256, 64_257, 1_000_003] {
        let response =
            http1(backend.address()).await.send_request(get(&format!("/bytes/{len}"))).await.expect("answer");
        assert_eq!(response.headers()["content-length"], len.to_string().as_str());
        let (bytes, _, error) = collect(response).await;
        assert!(error.is_none());
        assert_eq!(bytes.len(), len);
        assert!(is_pattern(&bytes), "{len}");
    }
    let response = http2(backend.address()).await.send_request(get2("/bytes/1000003")).await.expect("answer");
    assert!(is_pattern(&collect(response).await.0));
    let head =
        exchange(backend.address(), b"HEAD /bytes/77 HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await;
    let head = String::from_utf8(head.expect("an answer")).expect("text").to_lowercase();
    assert!(head.contains("content-length: 77\r\n") && head.ends_with("\r\n\r\n"), "{head}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn chunks_carry_the_pattern_and_their_checksum(count in 0u64..40, size in 1usize..70_000) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let backend = backend().await;
            let uri = format!("/chunked/{count}x{size}?trailers=1");
            let mut asked = get(&uri);
            asked.headers_mut().insert("te", HeaderValue::from_static("trailers"));
            let over1 = http1(backend.address()).await.send_request(asked).await.expect("answer");
            assert_eq!(over1.headers()["transfer-encoding"], "chunked");
            let over2 = http2(backend.address()).await.send_request(get2(&uri)).await.expect("answer");
            for response in [over1, over2] {
                let (bytes, trailers, error) = collect(response).await;
                assert!(error.is_none());
                assert_eq!(bytes.len() as u64, count * size as u64);
                assert!(is_pattern(&bytes));
                assert_eq!(trailers["x-checksum"], format!("{:016x}", checksum(&bytes)).as_str());
            }
        });
    }
}

#[tokio::test]
async fn chunks_are_chunks_on_the_wire() {
    let backend = backend().await;
    let request = b"GET /chunked/3x5 HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    let answer = exchange(backend.address(), request).await.expect("an answer");
    let expected =
        b"\r\n\r\n5\r\n\x00\x01\x02\x03\x04\r\n5\r\n\x05\x06\x07\x08\x09\r\n5\r\n\x0a\x0b\x0c\x0d\x0e\r\n0\r\n\r\n";
    assert!(answer.ends_with(expected), "{}", answer.escape_ascii());
}

#[tokio::test]
async fn a_drip_takes_its_time() {
    let backend = backend().await;
    for (uri, length) in [("/drip?bytes=5&every=120ms", None), ("/drip?bytes=5&every=120ms&length=1", Some("5"))] {
        let begun = Instant::now();
        let response = http1(backend.address()).await.send_request(get(uri)).await.expect("answer");
        let head_after = begun.elapsed();
        assert_eq!(response.headers().get("content-length").map(|value| value.to_str().expect("text")), length);
        let (bytes, _, error) = collect(response).await;
        assert!(error.is_none());
        assert_eq!(bytes, [0, 1, 2, 3, 4]);
        assert!(begun.elapsed() >= Duration::from_millis(600));
        assert!(head_after < Duration::from_millis(500), "the head does not wait for the body: {head_after:?}");
    }
}

#[tokio::test]
async fn half_an_answer_is_an_error_after_its_first_half() {
    let backend = backend().await;
    for uri in ["/half", "/half?chunked=1", "/half?bytes=100000&sent=500"] {
        let over1 = http1(backend.address()).await.send_request(get(uri)).await.expect("a head");
        let over2 = http2(backend.address()).await.send_request(get2(uri)).await.expect("a head");
        for response in [over1, over2] {
            assert_eq!(response.status(), 200);
            let version = response.version();
            let (bytes, _, error) = collect(response).await;
            assert_eq!(bytes.len(), 500, "{uri} {version:?}");
            assert!(is_pattern(&bytes));
            assert!(error.is_some(), "{uri} {version:?}");
        }
    }
}

#[tokio::test]
async fn the_end_of_the_connection_delimits_a_body() {
    let backend = backend().await;
    let request = b"GET /until-close?bytes=70000 HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let answer = exchange(backend.address(), request).await.expect("an answer");
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    assert!(head.starts_with("http/1.0 200"), "{head}");
    assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
    assert_eq!(answer.len() - end, 70_000);
    assert!(is_pattern(&answer[end..]));
}

#[tokio::test]
async fn the_mirror_streams_while_the_request_is_still_sent() {
    let backend = backend().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let (feed, queue) = tokio::sync::mpsc::channel::<Frame<Bytes>>(1);
        let frames = stream::unfold(queue, |mut queue| async { queue.recv().await.map(|frame| (Ok(frame), queue)) });
        let body: TestBody = BodyExt::boxed(StreamBody::new(frames));
        let request = Request::post(if version == Version::HTTP_2 { "http://coffee.test/echo" } else { "/echo" })
            .header("host", "coffee.test")
            .header("te", "trailers")
            .header("trailer", "x-sum")
            .header("content-type", "text/x-test")
            .body(body)
            .expect("a request");
        feed.send(Frame::data(Bytes::from_static(b"first"))).await.expect("room");
        let response = if version == Version::HTTP_2 {
            http2(backend.address()).await.send_request(request).await
        } else {
            http1(backend.address()).await.send_request(request).await
        };
        let response = response.expect("a head before the request has ended");
        assert_eq!(response.headers()["content-type"], "text/x-test");
        let mut echoed = response.into_body();
        let data = |frame: Option<Result<Frame<Bytes>, hyper::Error>>| {
            frame.expect("a frame").expect("no error").into_data().expect("data")
        };
        assert_eq!(data(echoed.frame().await), "first");
        feed.send(Frame::data(Bytes::from_static(b"second"))).await.expect("room");
        assert_eq!(data(echoed.frame().await), "second");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("42"));
        feed.send(Frame::trailers(trailers)).await.expect("room");
        let frame = echoed.frame().await.expect("trailers").expect("no error");
        assert_eq!(frame.into_trailers().expect("trailers")["x-sum"], "42");
        drop(feed);
    }
}

#[tokio::test]
async fn early_hints_come_ahead_of_the_answer() {
    let tls_of = Tls::self_signed(["coffee.test"]).expect("a name");
    let plain = backend().await;
    let secure = EchoBackend::builder("coffee").tls(tls_of.clone()).start().await.expect("start");
    let mut tcp = TcpStream::connect(plain.address()).await.expect("connect");
    let mut over_tls = tls(secure.address(), "coffee.test", tls_of.certificate_pem(), &[b"http/1.1"]).await;
    // Twice on each connection: the hint belongs to its own request.
    for _ in 0..2 {
        hinted(&mut tcp).await;
        hinted(&mut over_tls).await;
    }
    let answer = exchange(plain.address(), b"GET /early-hints HTTP/1.0\r\n\r\n").await.expect("an answer");
    assert!(answer.starts_with(b"HTTP/1.0 200"), "HTTP/1.0 knows no interim response");
}

async fn hinted(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) {
    let request = b"GET /early-hints?delay=600ms&link=%3C/a.css%3E HTTP/1.1\r\nHost: a.test\r\n\r\n";
    stream.write_all(request).await.expect("sent");
    let begun = Instant::now();
    let hint = read_until(stream, b"\r\n\r\n").await;
    assert_eq!(hint, b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n");
    assert!(begun.elapsed() < Duration::from_millis(500), "the hint does not wait for the answer");
    let head = read_until(stream, b"\r\n\r\n").await;
    assert!(head.starts_with(b"HTTP/1.1 200 OK\r\n"));
    assert!(String::from_utf8_lossy(&head).contains("link: </a.css>"));
    read_until(stream, b"}\n").await;
}

#[tokio::test]
async fn expect_is_answered_when_the_body_is_wanted() {
    let backend = backend().await;
    let head = |path: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
            .into_bytes()
    };
    let mut tcp = TcpStream::connect(backend.address()).await.expect("connect");
    let begun = Instant::now();
    tcp.write_all(&head("/continue?delay=100ms")).await.expect("sent");
    assert_eq!(read_until(&mut tcp, b"\r\n\r\n").await, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert!(begun.elapsed() >= Duration::from_millis(100));
    tcp.write_all(b"hello").await.expect("sent");
    let answer = String::from_utf8(read_until(&mut tcp, b"}\n").await).expect("text");
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\"body_bytes\":5"), "{answer}");

    let mut tcp = TcpStream::connect(backend.address()).await.expect("connect");
    tcp.write_all(&head("/continue?reject=417")).await.expect("sent");
    assert!(read_until(&mut tcp, b"\r\n\r\n").await.starts_with(b"HTTP/1.1 417 "));
    let mut tcp = TcpStream::connect(backend.address()).await.expect("connect");
    tcp.write_all(&head("/status/413?unread=1")).await.expect("sent");
    assert!(read_until(&mut tcp, b"\r\n\r\n").await.starts_with(b"HTTP/1.1 413 "));
}

#[tokio::test]
async fn close_and_reset_end_the_connection_as_named() {
    let backend = backend().await;
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n").into_bytes();
    assert_eq!(exchange(backend.address(), &request("/close")).await.expect("a plain end"), b"");
    let reset = exchange(backend.address(), &request("/reset")).await.expect_err("a reset");
    assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);

    // Over HTTP/2 a reset ends one stream with the given code; the connection lives on.
    let mut client = http2(backend.address()).await;
    for (uri, reason) in [("/reset", h2::Reason::INTERNAL_ERROR), ("/reset?reason=7", h2::Reason::REFUSED_STREAM)] {
        let error = client.send_request(get2(uri)).await.expect_err("a reset stream");
        let h2 = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<h2::Error>());
        assert_eq!(h2.and_then(h2::Error::reason), Some(reason), "{uri}");
    }
    assert_eq!(client.send_request(get2("/")).await.expect("answer").status(), 200);
    client.send_request(get2("/reset?connection=1")).await.expect_err("the connection is gone");
    assert!(client.ready().await.is_err());
}

#[tokio::test]
async fn one_connection_of_http2_carries_many_requests() {
    let backend = backend().await;
    let client = http2(backend.address()).await;
    let answers =
        stream::iter(0..200)
            .map(|number| {
                let mut client = client.clone();
                async move {
                    json(client.send_request(get2(&format!("/n/{number}?do=delay/5ms"))).await.expect("answer")).await
                }
            })
            .buffer_unordered(100)
            .collect::<Vec<_>>();
    let answers = tokio::time::timeout(PATIENCE, answers).await.expect("in time");
    assert_eq!(answers.len(), 200);
    assert!(answers.iter().all(|told| told["proto"] == "HTTP/2.0"));
    assert_eq!(backend.requests().connections, 1);
    assert_eq!(backend.requests().http2, 200);
}
