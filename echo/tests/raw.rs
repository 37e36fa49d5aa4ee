//! The raw backend: what it sends is what was scripted, what it says it received is what came.

mod common;

use std::io::ErrorKind;
use std::time::Duration;

use common::*;
use proptest::prelude::*;
use sluicegate_echo::{RawBackend, Step};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn wait_for(backend: &RawBackend, expected: &[&[u8]]) {
    let arrived = async {
        while backend.received() != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, arrived).await.is_err() {
        panic!("{:?}", backend.received());
    }
}

#[tokio::test]
async fn an_answer_goes_out_as_it_is_after_the_head() {
    let wrong = b"HTTP/1.1 200 OK\nContent-Length: 5\r\n folded\r\nTransfer-Encoding: chunked\r\n\r\nhello";
    let backend = RawBackend::answering(&wrong[..]).await.expect("start");
    let mut tcp = TcpStream::connect(backend.address()).await.expect("connect");
    tcp.write_all(b"GET / HTTP/1.1\r\n").await.expect("sent");
    let early = tokio::time::timeout(Duration::from_millis(100), tcp.read_u8()).await;
    assert!(early.is_err(), "half a head gets no answer");
    tcp.write_all(b"\r\nmore").await.expect("sent");
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).await.expect("a plain end");
    assert_eq!(answer, wrong);
    wait_for(&backend, &[b"GET / HTTP/1.1\r\n\r\nmore"]).await;
}

#[tokio::test]
async fn connections_are_recorded_one_by_one_and_silent_ones_too() {
    let backend = RawBackend::answering("bye").await.expect("start");
    assert!(backend.received().is_empty() && backend.is_untouched());
    let silent = TcpStream::connect(backend.address()).await.expect("connect");
    wait_for(&backend, &[b""]).await;
    assert!(backend.is_untouched());
    assert_eq!(exchange(backend.address(), b"A\r\n\r\n").await.expect("answer"), b"bye");
    assert_eq!(exchange(backend.address(), b"B\r\n\r\n").await.expect("answer"), b"bye");
    wait_for(&backend, &[b"", b"A\r\n\r\n", b"B\r\n\r\n"]).await;
    assert!(!backend.is_untouched());
    backend.forget();
    assert!(backend.received().is_empty());
    drop(silent);
}

#[tokio::test]
async fn scripts_close_reset_pause_and_repeat() {
    let early = RawBackend::scripted([Step::Close]).await.expect("start");
    let mut tcp = TcpStream::connect(early.address()).await.expect("connect");
    assert_eq!(tcp.read(&mut [0; 8]).await.expect("a plain end"), 0);

    let reset =
        RawBackend::scripted([Step::AwaitHead, Step::Send("HTTP/1.1 2".into()), Step::Reset]).await.expect("start");
    let mut tcp = TcpStream::connect(reset.address()).await.expect("connect");
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
    let mut all = Vec::new();
    assert_eq!(tcp.read_to_end(&mut all).await.expect_err("a reset").kind(), ErrorKind::ConnectionReset);

    let repeat = RawBackend::scripted([
        Step::AwaitHead,
        Step::AwaitBytes(3),
        Step::Pause(Duration::from_millis(20)),
        Step::Send("ok".into()),
        Step::Again,
    ]);
    let repeat = repeat.await.expect("start");
    let mut tcp = TcpStream::connect(repeat.address()).await.expect("connect");
    for _ in 0..3 {
        tcp.write_all(b"A\r\n\r\nabc").await.expect("sent");
        assert_eq!(read_until(&mut tcp, b"ok").await, b"ok");
    }
    tcp.shutdown().await.expect("finished");
    assert_eq!(tcp.read(&mut [0; 8]).await.expect("a plain end"), 0);
}

#[tokio::test]
async fn a_kill_refuses_and_resets() {
    let backend = RawBackend::scripted([Step::AwaitHead]).await.expect("start");
    let mut tcp = TcpStream::connect(backend.address()).await.expect("connect");
    tcp.write_all(b"x").await.expect("sent");
    wait_for(&backend, &[b"x"]).await;
    backend.kill();
    let refused = TcpStream::connect(backend.address()).await;
    assert_eq!(refused.expect_err("refused").kind(), ErrorKind::ConnectionRefused);
    let read = tokio::time::timeout(PATIENCE, tcp.read(&mut [0; 8])).await.expect("at once");
    assert_eq!(read.expect_err("a reset").kind(), ErrorKind::ConnectionReset);
    assert_eq!(backend.received(), [b"x"], "what came before stays on record");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn an_echo_loses_nothing_however_it_is_cut(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20_000), 1..8)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let backend = RawBackend::scripted([Step::Echo]).await.expect("start");
            let tcp = TcpStream::connect(backend.address()).await.expect("connect");
            let (mut reader, mut writer) = tcp.into_split();
            let sent = pieces.concat();
            let writing = async {
                for piece in &pieces {
                    writer.write_all(piece).await.expect("sent");
                    writer.flush().await.expect("sent");
                }
                writer.shutdown().await.expect("finished");
            };
            let mut echoed = Vec::new();
            let reading = async { reader.read_to_end(&mut echoed).await.expect("a plain end") };
            tokio::join!(writing, reading);
            assert_eq!(echoed, sent);
            assert_eq!(backend.received(), [sent]);
        });
    }
}
