//! gRPC end to end: every kind of call, to backends that are known by `appProtocol` and by annotation, and the form in
//! which failures are told.

use crate::support::{Gateway, Ingress, manifest, service, service_speaking, until};
use futures_util::{StreamExt, stream};
use sluicegate_echo::client::{ClientTls, Code, EchoClient};
use sluicegate_echo::{EchoBackend, EchoRequest, RawBackend, ServingStatus, Step};

fn request(message: &str) -> EchoRequest {
    EchoRequest { message: message.to_owned(), ..EchoRequest::default() }
}

async fn with_echo() -> (Gateway, EchoBackend) {
    let backend = EchoBackend::builder("grpc").start().await.expect("start");
    let gateway = Gateway::start();
    let services = [
        service("plain", &[backend.address()]),
        service_speaking("speaking", "kubernetes.io/h2c", &[backend.address()]),
        service("empty", &[]),
    ];
    gateway.apply(&manifest::all(services.iter().map(String::as_str)));
    gateway.apply(&Ingress::new("speaking.test", "speaking").yaml());
    gateway.apply(&Ingress::new("annotated.test", "plain").nginx("backend-protocol", "GRPC").yaml());
    gateway.apply(&Ingress::new("empty.test", "empty").nginx("backend-protocol", "GRPC").yaml());
    (gateway, backend)
}

#[tokio::test]
async fn every_kind_of_call_passes() {
    let (gateway, backend) = with_echo().await;
    for (authority, tls) in [("speaking.test", false), ("annotated.test", false), ("speaking.test", true)] {
        let address = if tls { gateway.https() } else { gateway.http() };
        let tls = tls.then(ClientTls::insecure);
        let mut client = EchoClient::builder(address).authority(authority).tls(tls).connect().await.expect("connect");
        let reply = client.unary(request("one")).await.expect("a reply").into_inner();
        assert_eq!((reply.message.as_str(), reply.service.as_str()), ("one", "grpc"));
        assert_eq!(reply.metadata.get("te").map(String::as_str), Some("trailers"));
        assert!(reply.metadata.contains_key("x-request-id"));

        let requests = stream::iter((0..100).map(|number| request(&number.to_string())));
        let reply = client.client_stream(requests).await.expect("a reply").into_inner();
        assert!(reply.message.contains("99"), "{reply:?}");

        let many = EchoRequest { repeat: 1000, ..request("many") };
        let replies = client.server_stream(many).await.expect("replies").into_inner();
        assert_eq!(replies.filter(|reply| std::future::ready(reply.is_ok())).count().await, 1000);

        // Each reply is awaited before the next request is made: nothing waits in between.
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let requests = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
        sender.send(request("0")).expect("open");
        let mut replies = client.bidi(requests).await.expect("replies").into_inner();
        for number in 1..=50 {
            let reply = replies.next().await.expect("a reply").expect("good");
            assert_eq!(reply.message, (number - 1).to_string());
            sender.send(request(&number.to_string())).expect("open");
        }
        drop(sender);
        assert!(replies.next().await.expect("the last").is_ok());
        assert!(replies.next().await.is_none());
        assert_eq!(client.health("").await.expect("health"), ServingStatus::Serving);
    }
    assert_eq!(backend.requests().grpc, backend.requests().http2);
    assert!(backend.requests().connections <= 4, "{:?}", backend.requests());
}

#[tokio::test]
async fn statuses_of_the_backend_pass() {
    let (gateway, _backend) = with_echo().await;
    let mut client = EchoClient::builder(gateway.http()).authority("speaking.test").connect().await.expect("connect");
    for code in [3, 5, 8, 14, 16] {
        let failing = EchoRequest { fail_with: code, ..request("x") };
        let status = client.unary(failing.clone()).await.expect_err("a failure");
        assert_eq!(status.code(), Code::from(i32::try_from(code).expect("small")));
        // After replies, in the trailers.
        let failing = EchoRequest { repeat: 3, ..failing };
        let replies: Vec<_> = client.server_stream(failing).await.expect("replies").into_inner().collect().await;
        let status = replies.last().expect("a status").as_ref().expect_err("a failure");
        assert_eq!(status.code(), Code::from(i32::try_from(code).expect("small")));
    }
}

#[tokio::test]
async fn failures_of_the_gateway_have_a_status_too() {
    let (gateway, backend) = with_echo().await;
    let silent = RawBackend::scripted([Step::AwaitHead, Step::Reset]).await.expect("start");
    gateway.apply(&manifest::all([
        service_speaking("broken", "kubernetes.io/h2c", &[silent.address()]).as_str(),
        Ingress::new("broken.test", "broken").yaml().as_str(),
    ]));
    for (authority, code, reason) in [
        ("empty.test", Code::Unavailable, "no_endpoints"),
        ("nobody.test", Code::Unimplemented, "no_route"),
        ("broken.test", Code::Unavailable, "upstream"),
    ] {
        let mut client = EchoClient::builder(gateway.http()).authority(authority).connect().await.expect("connect");
        let status = client.unary(request("x")).await.expect_err("a failure");
        assert_eq!(status.code(), code, "{authority}: {status}");
        assert!(status.message().contains(reason), "{authority}: {status}");
    }
    // One that dies in the middle of a stream.
    let mut client = EchoClient::builder(gateway.http()).authority("speaking.test").connect().await.expect("connect");
    let endless = EchoRequest { repeat: 100_000, delay_ms: 20, ..request("x") };
    let mut replies = client.server_stream(endless).await.expect("replies").into_inner();
    assert!(replies.next().await.expect("a reply").is_ok());
    backend.kill();
    let end = loop {
        match replies.next().await {
            Some(Ok(_)) => {}
            other => break other,
        }
    };
    let status = end.expect("not the end of a good stream").expect_err("a failure");
    assert_ne!(status.code(), Code::Ok, "{status}");
}

#[tokio::test]
async fn a_call_that_the_client_cancels_ends_at_the_backend() {
    let (gateway, backend) = with_echo().await;
    let mut client = EchoClient::builder(gateway.http()).authority("speaking.test").connect().await.expect("connect");
    let endless = EchoRequest { repeat: 100_000, delay_ms: 20, ..request("x") };
    let mut replies = client.server_stream(endless).await.expect("replies").into_inner();
    assert!(replies.next().await.expect("a reply").is_ok());
    drop(replies);
    let backend_active = || {
        gateway
            .proxy()
            .endpoint_states()
            .iter()
            .flat_map(|report| &report.endpoints)
            .map(|view| view.active)
            .sum::<u64>()
    };
    until("nothing is under way to the backend", || backend_active() == 0).await;
    assert!(client.unary(request("next")).await.is_ok());
    assert_eq!(backend.requests().connections, 1);
}
