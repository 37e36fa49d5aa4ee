//! The webhook over TLS: good reviews, bad ones, slow ones, many at once, and a certificate that is renewed.

mod client;

use client::{AT_MOST, Files, connect, receive, send};
use serde_json::{Value, json};
use sluicegate_admission::{Judge, StartError, Unjudged, Webhook, WebhookSettings};
use sluicegate_telemetry::{Exposition, Metrics};
use sluicegate_translate::{Object, WhatIf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Counts nothing and refuses nothing; an object of the name `busy` keeps it waiting.
struct Lenient;

impl Judge for Lenient {
    fn judge(&self, object: Object) -> Result<WhatIf, Unjudged> {
        match &*object.reference().name {
            "busy" => Err(Unjudged::Busy),
            "panic" => panic!("as the test wants it"),
            _ => Ok(WhatIf::default()),
        }
    }
}

fn settings(files: &Files) -> WebhookSettings {
    WebhookSettings {
        address: "127.0.0.1:0".parse().expect("an address"),
        certificate: files.certificate(),
        key: files.key(),
    }
}

fn start(files: &Files) -> (Webhook, Arc<Metrics>) {
    let metrics = Metrics::new(1);
    (Webhook::start(settings(files), Arc::new(Lenient), Arc::clone(&metrics)).expect("it starts"), metrics)
}

fn review(name: &str) -> Vec<u8> {
    let object = json!({"metadata": {"namespace": "shop", "name": name}, "spec": {}});
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u1", "operation": "CREATE", "object": object, "dryRun": true,
        "kind": {"group": "networking.k8s.io", "version": "v1", "kind": "Ingress"}}});
    review.to_string().into_bytes()
}

fn on_a_runtime<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(AT_MOST, work).await.expect("in time") })
}

/// One request on a connection of its own.
async fn ask(webhook: &Webhook, files: &Files, head: &str, body: &[u8]) -> (u16, String) {
    let mut stream = connect(webhook.address(), &files.certificate).await.expect("TLS");
    send(&mut stream, head, body).await.expect("sent");
    let (status, body) = receive(&mut stream).await.expect("an answer");
    (status, String::from_utf8(body).expect("text"))
}

#[test]
fn a_connection_carries_many_reviews() {
    let files = Files::new();
    let (webhook, metrics) = start(&files);
    on_a_runtime(async {
        let mut stream = connect(webhook.address(), &files.certificate).await.expect("TLS");
        for _ in 0..50 {
            // API servers add their timeout.
            send(&mut stream, "POST /validate?timeout=10s", &review("web")).await.expect("sent");
            let (status, body) = receive(&mut stream).await.expect("an answer");
            let answer: Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!((status, &answer["response"]), (200, &json!({"uid": "u1", "allowed": true})));
        }
    });
    let text = metrics.expose(Exposition::Text);
    assert!(text.contains("sluicegate_admission_reviews_total{verdict=\"allowed\"} 50"), "{text}");
}

#[test]
fn what_is_no_review_is_refused_in_words() {
    let files = Files::new();
    let (webhook, metrics) = start(&files);
    let large = vec![b' '; (7 << 20) + 1];
    let cases: [(&str, &[u8], u16, &str); 6] = [
        ("POST /validate", b"{}", 400, "AdmissionReview"),
        ("POST /validate", b"\x00\xff garbage", 400, "no AdmissionReview"),
        ("POST /validate", b"", 400, "no AdmissionReview"),
        ("GET /validate", b"", 405, "POST"),
        ("POST /", b"{}", 404, "/validate"),
        ("POST /validate", &large, 413, "7 MiB"),
    ];
    on_a_runtime(async {
        for (head, body, status, part) in cases {
            let mut stream = connect(webhook.address(), &files.certificate).await.expect("TLS");
            // The answer may come, and the connection close, before all of the body was sent.
            let _cut = send(&mut stream, head, body).await;
            let (got, text) = receive(&mut stream).await.expect("an answer");
            let text = String::from_utf8(text).expect("text");
            assert!(got == status && text.contains(part), "{head}: {got} {text}");
        }
        let (status, body) = ask(&webhook, &files, "POST /validate", &review("busy")).await;
        assert!(status == 200 && body.contains("\"allowed\":true") && body.contains("the gateway is busy"), "{body}");
        let (status, _) = ask(&webhook, &files, "POST /validate", &review("panic")).await;
        assert_eq!(status, 500);
        let (status, _) = ask(&webhook, &files, "POST /validate", &review("web")).await;
        assert_eq!(status, 200, "it goes on");
    });
    let text = metrics.expose(Exposition::Text);
    for (verdict, count) in [("malformed", 4), ("unchecked", 1), ("allowed", 1), ("refused", 0)] {
        assert!(text.contains(&format!("reviews_total{{verdict=\"{verdict}\"}} {count}\n")), "{verdict}: {text}");
    }
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    let files = Files::new();
    let (webhook, _) = start(&files);
    on_a_runtime(async {
        // More of them than there are turns.
        let mut slow = Vec::new();
        for _ in 0..6 {
            let mut stream = connect(webhook.address(), &files.certificate).await.expect("TLS");
            let head = "POST /validate HTTP/1.1\r\nHost: webhook.test\r\nContent-Length: 100\r\n\r\n{";
            stream.write_all(head.as_bytes()).await.expect("sent");
            slow.push(stream);
        }
        for stream in &mut slow {
            let (status, _) = receive(stream).await.expect("an answer");
            assert_eq!(status, 408);
        }
        assert_eq!(ask(&webhook, &files, "POST /validate", &review("web")).await.0, 200);
    });
}

/// A hundred clients that connect and say nothing do not keep the API server out, nor cut its kept connection.
#[test]
fn silent_connections_make_room() {
    let files = Files::new();
    let (webhook, _) = start(&files);
    on_a_runtime(async {
        let mut kept = connect(webhook.address(), &files.certificate).await.expect("TLS");
        send(&mut kept, "POST /validate", &review("web")).await.expect("sent");
        assert_eq!(receive(&mut kept).await.expect("an answer").0, 200);
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(tokio::net::TcpStream::connect(webhook.address()).await.expect("TCP"));
        }
        assert_eq!(ask(&webhook, &files, "POST /validate", &review("web")).await.0, 200);
        send(&mut kept, "POST /validate", &review("web")).await.expect("sent");
        assert_eq!(receive(&mut kept).await.expect("an answer").0, 200, "the kept connection is there");
        // Whoever says nothing is hung up on.
        let mut byte = [0; 1];
        let ended = silent[99].read(&mut byte).await;
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    });
}

#[test]
fn a_renewed_certificate_is_served_and_a_broken_one_is_not() {
    let mut files = Files::new();
    let (webhook, _) = start(&files);
    on_a_runtime(async {
        let former = files.certificate.clone();
        std::fs::write(files.key(), "no key").expect("written");
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert!(connect(webhook.address(), &former).await.is_ok(), "the former pair is used");
        files.renew();
        let begun = Instant::now();
        while connect(webhook.address(), &files.certificate).await.is_err() {
            assert!(begun.elapsed() < AT_MOST, "the new certificate is not served");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(connect(webhook.address(), &former).await.is_err());
    });
}

#[test]
fn what_cannot_start_names_its_flag() {
    let files = Files::new();
    let failing = |settings: WebhookSettings| -> String {
        let error = Webhook::start(settings, Arc::new(Lenient), Metrics::new(1)).expect_err("it cannot start");
        error.to_string()
    };
    let gone = files.folder.path().join("gone");
    assert!(failing(WebhookSettings { certificate: gone.clone(), ..settings(&files) }).contains("--webhook-cert"));
    assert!(failing(WebhookSettings { key: gone, ..settings(&files) }).contains("--webhook-key"));
    // The certificate where the key belongs.
    assert!(failing(WebhookSettings { key: files.certificate(), ..settings(&files) }).contains("--webhook-key"));
    let other = Files::new();
    let unmatched = failing(WebhookSettings { key: other.key(), ..settings(&files) });
    assert!(unmatched.contains("--webhook-cert") && unmatched.contains("kubernetes.io/tls"), "{unmatched}");
    let (webhook, _) = start(&files);
    let taken = Webhook::start(
        WebhookSettings { address: webhook.address(), ..settings(&files) },
        Arc::new(Lenient),
        Metrics::new(1),
    );
    assert!(matches!(taken, Err(StartError::Listen { .. })));
}
