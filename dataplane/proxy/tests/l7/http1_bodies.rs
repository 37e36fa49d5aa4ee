//! Bodies: framing, trailers, size, pace, and what happens when a side goes away in the middle of one.

use crate::support::{Body, Gateway, Http1, Ingress, service, soon, until};
use sluicegate_echo::{EchoBackend, RawBackend, Step, checksum, pattern_byte};
use sluicegate_telemetry::FaultReason;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

fn gateway_to(address: SocketAddr) -> Gateway {
    let gateway = Gateway::start();
    gateway.apply(&service("web", &[address]));
    gateway.apply(&Ingress::any_host("web").yaml());
    gateway
}

async fn with_echo() -> (Gateway, EchoBackend) {
    let web = EchoBackend::builder("web").start().await.expect("start");
    (gateway_to(web.address()), web)
}

async fn scripted(script: impl Into<Vec<Step>>) -> (Gateway, RawBackend, Http1<TcpStream>) {
    let raw = RawBackend::scripted(script).await.expect("start");
    let gateway = gateway_to(raw.address());
    let client = gateway.connect().await;
    (gateway, raw, client)
}

/// Bytes whose order shows.
fn pattern(length: usize) -> Vec<u8> {
    let period: Vec<u8> = (0..251).map(pattern_byte).collect();
    period.iter().copied().cycle().take(length).collect()
}

#[tokio::test]
async fn chunked_bodies_cross_in_both_directions() {
    let (gateway, _web) = with_echo().await;
    let mut client = gateway.connect().await;
    for _ in 0..3 {
        let head = "POST /echo HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        // Extensions belong to this hop alone, sizes may have zeros in front and either case.
        client.send(format!("{head}5;a=b\r\nhello\r\n0001\r\n \r\n")).await;
        client.send("00A;x=\"y;z\"\r\n0123456789\r\nb\r\nabcdefghijk\r\n0\r\n\r\n").await;
        let answer = client.response().await;
        assert_eq!((answer.framing, answer.text().as_str()), (Body::Chunked, "hello 0123456789abcdefghijk"));
    }
    let answer = client.get("app.test", "/chunked/10x1000").await;
    assert_eq!((answer.framing, answer.body), (Body::Chunked, pattern(10_000)));
    // A body that is framed by its length stays so.
    client.send("POST /echo HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\nhello").await;
    assert_eq!(client.response().await.text(), "hello");
}

#[tokio::test]
async fn chunks_leave_when_they_come() {
    let (gateway, _web) = with_echo().await;
    let mut client = gateway.connect().await;
    client.send("POST /echo HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
    // The answer to the first chunk is here before the second is sent.
    let head = client.head("POST").await.expect("a head");
    assert_eq!((head.status, head.framing), (200, Body::Chunked));
    client.send("6\r\nsecond\r\n0\r\n\r\n").await;
    let mut answer = head;
    client.body(&mut answer).await.expect("a body");
    assert_eq!(answer.text(), "firstsecond");
}

#[tokio::test]
async fn trailers_cross_in_both_directions() {
    let (gateway, _web) = with_echo().await;
    let mut client = gateway.connect().await;
    let answer = client.get_with("app.test", "/chunked/3x100?trailers=1", "TE: trailers\r\n").await;
    let sum = format!("{:x}", checksum(&pattern(300)));
    let [(name, value)] = &answer.trailers[..] else { panic!("{:?}", answer.trailers) };
    assert_eq!((name.as_str(), value.trim_start_matches('0')), ("x-checksum", sum.as_str()));

    client
        .send(
            "POST /echo HTTP/1.1\r\nHost: app.test\r\nTE: trailers\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\nX-Sum: abc\r\n\r\n",
        )
        .await;
    let answer = client.response().await;
    assert_eq!(answer.text(), "hello");
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "abc".to_owned())]);
}

#[tokio::test]
async fn a_body_that_ends_with_the_backends_connection_becomes_chunked() {
    let (gateway, _web) = with_echo().await;
    let mut client = gateway.connect().await;
    let answer = client.get("app.test", "/until-close?bytes=100000").await;
    assert_eq!((answer.version, answer.framing, answer.body.len()), (1, Body::Chunked, 100_000));
    assert_eq!(client.get("app.test", "/").await.status, 200, "the client's connection goes on");
    client.send("GET /until-close?bytes=1000 HTTP/1.0\r\nHost: app.test\r\n\r\n").await;
    let answer = client.response().await;
    assert_eq!((answer.framing, answer.body), (Body::UntilClose, pattern(1000)));
}

/// 50 MiB each way at once, byte for byte, in both framings.
#[tokio::test]
async fn large_bodies_cross_unharmed() {
    const SIZE: usize = 50 << 20;
    let (gateway, _web) = with_echo().await;
    let block = Arc::new(pattern(251 * 1024));
    for chunked in [false, true] {
        let (reader, mut writer) = TcpStream::connect(gateway.http()).await.expect("connect").into_split();
        let sent = Arc::clone(&block);
        let sending = tokio::spawn(async move {
            let framing =
                if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {SIZE}") };
            let head = format!("POST /echo HTTP/1.1\r\nHost: app.test\r\n{framing}\r\n\r\n");
            writer.write_all(head.as_bytes()).await.expect("sent");
            let mut left = SIZE;
            while left > 0 {
                let piece = &sent[..left.min(sent.len())];
                if chunked {
                    writer.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await.expect("sent");
                }
                writer.write_all(piece).await.expect("sent");
                if chunked {
                    writer.write_all(b"\r\n").await.expect("sent");
                }
                left -= piece.len();
            }
            if chunked {
                writer.write_all(b"0\r\n\r\n").await.expect("sent");
            }
            writer
        });
        let mut client = Http1::new(tokio::io::join(reader, tokio::io::sink()));
        let answer = client.response().await;
        assert_eq!(answer.framing, if chunked { Body::Chunked } else { Body::Length(SIZE) });
        assert_eq!(answer.body.len(), SIZE);
        for (number, piece) in answer.body.chunks(block.len()).enumerate() {
            assert!(piece == &block[..piece.len()], "the body differs in block {number}");
        }
        drop(sending.await.expect("sent"));
    }
}

/// Around the lengths at which bodies are read into other buffers, or go past them all; on connections that are kept.
#[tokio::test]
async fn bodies_of_every_length_cross_unharmed() {
    let (gateway, web) = with_echo().await;
    let mut client = gateway.connect().await;
    let edges = [16 << 10, 32 << 10, 48 << 10, 64 << 10, 256 << 10, 1 << 20];
    for length in edges.into_iter().flat_map(|edge: usize| [edge - 1000, edge - 1, edge, edge + 1, edge + 1000]) {
        let body = pattern(length);
        client.send(format!("POST /echo HTTP/1.1\r\nHost: app.test\r\nContent-Length: {length}\r\n\r\n")).await;
        client.send(body.clone()).await;
        let answer = client.response().await;
        assert_eq!((answer.framing, answer.body == body), (Body::Length(length), true), "{length} bytes");
    }
    assert_eq!(web.requests().connections, 1, "no length cost the connection");
}

/// A backend that sends as much of an endless body as is taken, and counts it.
async fn fountain(total: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("bound");
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("accept");
        let mut head = [0; 4096];
        let _ = socket.read(&mut head).await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n");
        socket.write_all(head.as_bytes()).await.expect("sent");
        let block = vec![b'x'; 64 * 1024];
        let mut left = total;
        while left > 0 {
            let Ok(written) = socket.write(&block[..left.min(block.len())]).await else { return };
            left -= written;
            counted.fetch_add(written, Ordering::Relaxed);
        }
        let _ = socket.read(&mut [0; 16]).await;
    });
    (address, count)
}

#[tokio::test]
async fn a_slow_reader_slows_the_backend() {
    const TOTAL: usize = 128 << 20;
    let (address, count) = fountain(TOTAL).await;
    let gateway = gateway_to(address);
    let socket = TcpSocket::new_v4().expect("socket");
    socket.set_recv_buffer_size(64 * 1024).expect("small");
    let mut client = Http1::new(socket.connect(gateway.http()).await.expect("connect"));
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    assert_eq!(client.head("GET").await.expect("a head").framing, Body::Length(TOTAL));
    let mut before = usize::MAX;
    while before != count.load(Ordering::Relaxed) {
        before = count.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // What the kernel holds in four socket buffers, and a little of our own.
    assert!(before < 48 << 20, "{before} bytes were taken from the backend though the client reads nothing");
    let (mut stream, read) = client.into_parts();
    let mut received = read.len();
    let mut buffer = vec![0; 1 << 20];
    while received < TOTAL {
        let count = soon("the rest", stream.read(&mut buffer)).await.expect("read");
        assert!(count > 0, "ended after {received} bytes");
        received += count;
    }
    assert_eq!(received, TOTAL);
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_is_complete() {
    let answer = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n";
    let (_gateway, _raw, mut client) = scripted([Step::AwaitHead, Step::Send(answer.into())]).await;
    client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1000000\r\n\r\n").await;
    client.send(pattern(10_000)).await;
    let answer = client.response().await;
    assert_eq!((answer.status, answer.text().as_str()), (413, "no\n"));
    client.expect_end().await;

    let (gateway, _web) = with_echo().await;
    let mut client = gateway.connect().await;
    client.send("POST /status/503?unread=1 HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1000000\r\n\r\n").await;
    assert_eq!(client.response().await.status, 503);
    client.expect_end().await;
}

#[tokio::test]
async fn a_client_may_close_its_half_and_wait() {
    let (gateway, _web) = with_echo().await;
    let mut client = gateway.connect().await;
    client.send("GET /delay/100ms HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    client.finish().await;
    assert_eq!(client.response().await.status, 200);
    client.expect_end().await;
}

#[tokio::test]
async fn a_client_that_goes_takes_the_backends_connection_with_it() {
    let (gateway, web) = with_echo().await;
    let mut client = gateway.connect().await;
    client.send("GET /drip?bytes=1000000&size=10&every=5ms HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    client.head("GET").await.expect("a head");
    drop(client);
    until("the backend is free again", || web.requests().open == 0).await;
    until("the fault is counted", || gateway.faults(FaultReason::ClientClosed) == 1).await;
    until("the gateway's connection is over", || gateway.proxy().connections() == 0).await;
}

#[tokio::test]
async fn a_client_that_goes_before_its_body_is_complete_completes_nothing() {
    for (framing, part) in [("Content-Length: 100", "half"), ("Transfer-Encoding: chunked", "4\r\nhalf\r\n")] {
        let (gateway, raw, mut client) = scripted([Step::AwaitHead, Step::AwaitBytes(1_000_000)]).await;
        client.send(format!("POST / HTTP/1.1\r\nHost: app.test\r\n{framing}\r\n\r\n{part}")).await;
        until("the backend has the part", || raw.received().concat().ends_with(part.as_bytes())).await;
        drop(client);
        until("the fault is counted", || {
            gateway.faults(FaultReason::ClientClosed) + gateway.faults(FaultReason::BadRequest) == 1
        })
        .await;
        until("the gateway's connection is over", || gateway.proxy().connections() == 0).await;
        assert!(raw.received().concat().ends_with(part.as_bytes()), "nothing was made up");
        assert_eq!(raw.received().len(), 1, "nothing was tried again");
    }
}

#[tokio::test]
async fn a_response_that_breaks_off_looks_broken() {
    let (gateway, _web) = with_echo().await;
    for (path, sent) in [
        ("/half?bytes=1000&sent=500", 500),
        ("/half?bytes=1000&sent=500&chunked=1", 500),
        ("/half?bytes=1000000&sent=500000", 500_000),
    ] {
        let mut client = gateway.connect().await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n\r\n")).await;
        let broken = client.try_response("GET").await.expect_err("broken off");
        assert_eq!((broken.head.expect("a head").status, broken.received), (200, sent), "{path}");
    }
    // HTTP/1.0 knows no other end than that of the connection, so it must be one of the bad kind.
    let mut client = gateway.connect().await;
    client.send("GET /half?bytes=1000&sent=500&chunked=1 HTTP/1.0\r\nHost: app.test\r\n\r\n").await;
    let broken = client.try_response("GET").await.expect_err("broken off");
    assert!(broken.reset);
    assert_eq!(gateway.faults(FaultReason::UpstreamReset) + gateway.faults(FaultReason::UpstreamBadResponse), 4);
    assert_eq!(gateway.connect().await.get("app.test", "/").await.status, 200);
}

#[tokio::test]
async fn bodies_without_length_that_are_reset_look_broken() {
    let script = [
        Step::AwaitHead,
        Step::Send("HTTP/1.1 200 OK\r\n\r\nhalf".into()),
        Step::Pause(Duration::from_millis(100)),
        Step::Reset,
    ];
    let (_gateway, _raw, mut client) = scripted(script).await;
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    let broken = client.try_response("GET").await.expect_err("broken off");
    assert_eq!(broken.received, 4);
}

#[tokio::test]
async fn chunks_of_a_backend_that_make_no_sense_look_broken() {
    for garbage in ["5\r\nhello\r\nzz\r\n", "5\r\nhelloXX0\r\n\r\n", "5\r\nhello\r\n0\r\nbad trailer\r\n\r\n"] {
        let bytes = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{garbage}");
        let (_gateway, _raw, mut client) = scripted([Step::AwaitHead, Step::Send(bytes.into())]).await;
        client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0\r\n\r\n").await;
        assert!(client.try_response("POST").await.is_err(), "{garbage:?}");
    }
}

/// What a backend sends beyond its response answers nobody's question.
#[tokio::test]
async fn bytes_beyond_a_response_reach_nobody() {
    for length in [2, 100_000] {
        let body = "k".repeat(length);
        let twice = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen"
        );
        let (_gateway, raw, mut client) = scripted([Step::AwaitHead, Step::Send(twice.into())]).await;
        for number in 1..=3 {
            assert_eq!(client.get("app.test", "/").await.text(), body);
            assert_eq!(raw.received().len(), number, "the connection is not used again");
        }
    }
}

/// An idempotent request is sent again with all of its body, in however many pieces that came.
#[tokio::test]
async fn a_repeated_request_has_its_whole_body() {
    for pause in [0, 20] {
        let broken = RawBackend::scripted([Step::AwaitBytes(150), Step::Reset]).await.expect("start");
        let good = EchoBackend::builder("web").start().await.expect("start");
        let gateway = Gateway::with(|settings| settings.workers = 1);
        gateway.set_endpoints("web", &[broken.address(), good.address()]);
        gateway.apply(&Ingress::any_host("web").yaml());
        let body = String::from_utf8(vec![b'b'; 300]).expect("ASCII");
        for number in 0..20 {
            let mut client = gateway.connect().await;
            client.send(format!("PUT /echo?{number} HTTP/1.1\r\nHost: app.test\r\nContent-Length: 300\r\n\r\n")).await;
            if pause > 0 {
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            client.send(&body).await;
            let answer = client.response().await;
            // What cannot be sent again is told to the client; what is sent again is sent whole.
            assert!(answer.status == 502 || (answer.status == 200 && answer.text() == body), "{answer:?}");
        }
    }
}
