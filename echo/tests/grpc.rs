//! The gRPC services through the crate's own client; `tests/peers/grpc_client.py` is the second one.

mod common;

use std::time::{Duration, Instant};

use common::*;
use futures_util::stream;
use sluicegate_echo::client::{ClientTls, Code, ConnectError, EchoClient, Request, Streaming};
use sluicegate_echo::{EchoBackend, EchoReply, EchoRequest, MAX_REPEAT, ServingStatus, Tls};

fn say(message: &str) -> EchoRequest {
    EchoRequest { message: message.to_owned(), ..EchoRequest::default() }
}

async fn client(backend: &EchoBackend) -> EchoClient {
    EchoClient::builder(backend.address()).authority("grpc.test").connect().await.expect("connect")
}

/// All messages of a stream and the status that ended it.
async fn drain(mut replies: Streaming<EchoReply>) -> (Vec<String>, Code, String) {
    let mut messages = Vec::new();
    loop {
        match replies.message().await {
            Ok(Some(reply)) => messages.push(reply.message),
            Ok(None) => return (messages, Code::Ok, String::new()),
            Err(status) => return (messages, status.code(), status.message().to_owned()),
        }
    }
}

#[tokio::test]
async fn unary_replies_with_who_answered_and_what_metadata_came() {
    let backend = backend().await;
    let mut client = client(&backend).await;
    let mut request = Request::new(EchoRequest { repeat: 3, ..say("ab") });
    request.metadata_mut().append("x-test", "one".parse().expect("a value"));
    request.metadata_mut().append("x-test", "two".parse().expect("a value"));
    request.metadata_mut().insert_bin("x-raw-bin", tonic::metadata::MetadataValue::from_bytes(&[0, 255]));
    let reply = client.unary(request).await.expect("a reply").into_inner();
    assert_eq!(reply.message, "ababab");
    assert_eq!((reply.service.as_str(), reply.pod.as_str()), ("coffee", "coffee-7"));
    assert_eq!(reply.metadata["x-test"], "one, two");
    assert_eq!(reply.metadata["x-raw-bin"].trim_end_matches('='), "AP8");
    assert_eq!(backend.requests().grpc, 1);
}

#[tokio::test]
async fn every_status_comes_back_with_its_message() {
    let backend = backend().await;
    let mut client = client(&backend).await;
    for code in 1..=16u32 {
        let asked = EchoRequest { fail_with: code, ..say("für 100 % \n") };
        let status = client.unary(asked.clone()).await.expect_err("a failure");
        assert_eq!(status.code() as u32, code);
        assert_eq!(status.message(), "asked to fail: für 100 % \n");
        let replies =
            client.server_stream(EchoRequest { repeat: 2, ..asked }).await.expect("replies first").into_inner();
        let (messages, ended, _) = drain(replies).await;
        assert_eq!((messages.len(), ended as u32), (2, code));
    }
    for bad in [
        EchoRequest { fail_with: 17, ..say("") },
        EchoRequest { repeat: MAX_REPEAT + 1, ..say("") },
        EchoRequest { delay_ms: u32::MAX, ..say("") },
    ] {
        assert_eq!(client.unary(bad).await.expect_err("a refusal").code(), Code::InvalidArgument);
    }
    let large = EchoRequest { repeat: 5_000, ..say(&"x".repeat(1_000)) };
    assert_eq!(client.unary(large).await.expect_err("a refusal").code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn streams_answer_as_the_proto_says() {
    let backend = backend().await;
    let mut client = client(&backend).await;
    let joined = client.client_stream(stream::iter(["a", "b", "c"].map(say))).await.expect("a reply");
    assert_eq!(joined.into_inner().message, "a,b,c");
    let none = client.client_stream(stream::iter([])).await.expect("a reply");
    assert_eq!(none.into_inner().message, "");
    let failed = client.client_stream(stream::iter([say("a"), EchoRequest { fail_with: 9, ..say("b") }])).await;
    assert_eq!(failed.expect_err("a failure").code(), Code::FailedPrecondition);

    let replies = client.server_stream(EchoRequest { repeat: 2_000, ..say("x") }).await.expect("replies");
    let (messages, ended, _) = drain(replies.into_inner()).await;
    assert_eq!((messages.len(), ended), (2_000, Code::Ok));

    let requests = [
        say("a"),
        EchoRequest { repeat: 2, ..say("b") },
        EchoRequest { repeat: 1, fail_with: 5, ..say("c") },
        say("d"),
    ];
    let replies = client.bidi(stream::iter(requests)).await.expect("replies");
    let (messages, ended, message) = drain(replies.into_inner()).await;
    assert_eq!(messages, ["a", "b", "b", "c"]);
    assert_eq!((ended, message.as_str()), (Code::NotFound, "asked to fail: c"));
}

#[tokio::test]
async fn bidi_answers_before_the_caller_has_finished() {
    let backend = backend().await;
    let mut client = client(&backend).await;
    let (feed, queue) = tokio::sync::mpsc::channel(1);
    let requests = stream::unfold(queue, |mut queue| async { queue.recv().await.map(|request| (request, queue)) });
    let mut replies = client.bidi(requests).await.expect("replies").into_inner();
    for word in ["one", "two", "three"] {
        feed.send(say(word)).await.expect("room");
        let reply = tokio::time::timeout(PATIENCE, replies.message()).await.expect("in time");
        assert_eq!(reply.expect("no failure").expect("a reply").message, word);
    }
    drop(feed);
    assert_eq!(replies.message().await.expect("a good end"), None);
}

#[tokio::test]
async fn a_delay_is_waited() {
    let backend = backend().await;
    let begun = Instant::now();
    client(&backend).await.unary(EchoRequest { delay_ms: 150, ..say("x") }).await.expect("a reply");
    assert!(begun.elapsed() >= Duration::from_millis(150));
}

#[tokio::test]
async fn health_says_what_it_was_told() {
    let backend = backend().await;
    let mut client = client(&backend).await;
    for service in ["", "sluicegate.echo.v1.Echo"] {
        backend.set_healthy(true);
        assert_eq!(client.health(service).await.expect("a status"), ServingStatus::Serving);
        backend.set_healthy(false);
        assert_eq!(client.health(service).await.expect("a status"), ServingStatus::NotServing);
    }
    assert_eq!(client.health("other").await.expect_err("unknown").code(), Code::NotFound);
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented_and_no_http_error() {
    let backend = backend().await;
    let request = http::Request::post("http://grpc.test/sluicegate.echo.v1.Echo/Sing")
        .header("content-type", "application/grpc+proto")
        .body(empty())
        .expect("a request");
    let response = http2(backend.address()).await.send_request(request).await.expect("answer");
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "12");
    assert_eq!(response.headers()["content-type"], "application/grpc");
}

#[tokio::test]
async fn tls_needs_trust_and_h2() {
    let tls = Tls::self_signed(["grpc.test"]).expect("a name");
    let backend = EchoBackend::builder("coffee").tls(tls.clone()).start().await.expect("start");
    let at = || EchoClient::builder(backend.address()).authority("grpc.test");
    let trusting = ClientTls::trust(tls.certificate_pem()).expect("PEM");
    for accept in [trusting.clone(), ClientTls::insecure()] {
        let mut client = at().tls(accept).connect().await.expect("connect");
        assert_eq!(client.unary(say("hi")).await.expect("a reply").into_inner().message, "hi");
    }
    let stranger = Tls::self_signed(["grpc.test"]).expect("a name");
    let distrusting = ClientTls::trust(stranger.certificate_pem()).expect("PEM");
    assert!(matches!(at().tls(distrusting).connect().await, Err(ConnectError::Connect(_))));
    let elsewhere =
        EchoClient::builder(backend.address()).authority("other.test").tls(trusting.clone()).connect().await;
    assert!(matches!(elsewhere, Err(ConnectError::Connect(_))), "the certificate is for another name");
    let old = EchoBackend::builder("old").tls(tls.with_alpn(["http/1.1"])).start().await.expect("start");
    let refused = EchoClient::builder(old.address()).authority("grpc.test").tls(trusting).connect().await;
    assert!(refused.is_err(), "gRPC cannot run over HTTP/1.1");
    assert!(matches!(at().authority("a b").connect().await, Err(ConnectError::Authority(_))));
}
