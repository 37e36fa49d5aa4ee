//! Starting, stopping, killing; and the two kinds of runtime.

mod common;

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use common::*;
use sluicegate_echo::EchoBackend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_stop_finishes_what_is_in_progress_and_frees_the_port() {
    let backend = backend().await;
    let address = backend.address();
    let mut client = http1(address).await;
    let mut multiplexed = http2(address).await;
    let slow = tokio::spawn(async move { client.send_request(get("/delay/300ms")).await.expect("answer").status() });
    let slow2 =
        tokio::spawn(async move { multiplexed.send_request(get2("/delay/300ms")).await.expect("answer").status() });
    while backend.requests().total < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::timeout(PATIENCE, backend.stop()).await.expect("a stop in time");
    assert_eq!(slow.await.expect("no panic"), 200);
    assert_eq!(slow2.await.expect("no panic"), 200);
    assert_eq!(backend.requests().open, 0);
    assert_eq!(TcpStream::connect(address).await.expect_err("nobody listens").kind(), ErrorKind::ConnectionRefused);
    let again = EchoBackend::builder("coffee").address(address).start().await.expect("the port is free");
    assert_eq!(again.address(), address);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_idle_connections() {
    let backend = backend().await;
    let mut tcp = TcpStream::connect(backend.address()).await.expect("connect");
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.expect("sent");
    read_until(&mut tcp, b"}\n").await;
    let begun = Instant::now();
    backend.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(tcp.read(&mut [0; 8]).await.expect("a plain end"), 0);
}

/// On both kinds of runtime, for a request in progress, an idle connection and a WebSocket.
#[test]
fn a_kill_resets_everything_at_once() {
    let current = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let multi = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    for runtime in [current, multi] {
        runtime.block_on(async {
            let backend = backend().await;
            let address = backend.address();
            let mut busy = TcpStream::connect(address).await.expect("connect");
            busy.write_all(b"GET /delay/1m HTTP/1.1\r\nHost: a.test\r\n\r\n").await.expect("sent");
            let mut idle = TcpStream::connect(address).await.expect("connect");
            idle.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.expect("sent");
            read_until(&mut idle, b"}\n").await;
            let mut upgraded = TcpStream::connect(address).await.expect("connect");
            let offer = b"GET /upgrade HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n";
            upgraded.write_all(offer).await.expect("sent");
            read_until(&mut upgraded, b"\r\n\r\n").await;
            while backend.requests().total < 3 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(backend.requests().open, 3);
            backend.kill();
            assert_eq!(TcpStream::connect(address).await.expect_err("refused").kind(), ErrorKind::ConnectionRefused);
            for mut tcp in [busy, idle, upgraded] {
                let read = tokio::time::timeout(PATIENCE, tcp.read(&mut [0; 64])).await.expect("at once");
                assert_eq!(read.expect_err("a reset").kind(), ErrorKind::ConnectionReset);
            }
            assert_eq!(backend.requests().open, 0);
        });
    }
}

#[tokio::test]
async fn dropping_a_backend_kills_it() {
    let address = backend().await.address();
    assert_eq!(TcpStream::connect(address).await.expect_err("refused").kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_taken_port_is_an_error() {
    let backend = backend().await;
    let second = EchoBackend::builder("tea").address(backend.address()).start().await;
    assert_eq!(second.expect_err("taken").kind(), ErrorKind::AddrInUse);
}

#[tokio::test]
async fn connections_above_the_bound_wait_for_a_place() {
    let backend = EchoBackend::builder("coffee").max_connections(1).start().await.expect("start");
    let mut first = http1(backend.address()).await;
    assert_eq!(first.send_request(get("/")).await.expect("answer").status(), 200);
    let mut second = http1(backend.address()).await;
    let waiting = tokio::time::timeout(Duration::from_millis(200), second.send_request(get("/"))).await;
    assert!(waiting.is_err(), "no second connection is served beside the first");
    drop(first);
    let mut third = http1(backend.address()).await;
    let served = tokio::time::timeout(PATIENCE, third.send_request(get("/"))).await;
    assert_eq!(served.expect("in time").expect("answer").status(), 200);
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_time() {
    let backend = EchoBackend::builder("coffee").idle_timeout(Duration::from_millis(150)).start().await.expect("start");
    let mut tcp = TcpStream::connect(backend.address()).await.expect("connect");
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.expect("sent");
    read_until(&mut tcp, b"}\n").await;
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, tcp.read_to_end(&mut rest)).await.expect("closed in time").expect("a plain end");
}
