//! TLS towards clients: which certificate answers, versions, resumption, and certificates that change or break.

use crate::support::tls::{self, Identity, Key, leaf, secret};
use crate::support::wire::converse;
use crate::support::{Gateway, Http1, Ingress, manifest, service, until};
use rustls::client::Resumption;
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ProtocolVersion};
use sluicegate_config::Kind;
use sluicegate_echo::EchoBackend;
use sluicegate_telemetry::{FaultReason, LimitName};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

async fn with_echo() -> (Gateway, EchoBackend) {
    let web = EchoBackend::builder("web").start().await.expect("start");
    let gateway = Gateway::with(|settings| settings.timeouts.handshake = Duration::from_secs(2));
    gateway.apply(&service("web", &[web.address()]));
    (gateway, web)
}

#[tokio::test]
async fn the_server_name_chooses_the_certificate() {
    let (gateway, _web) = with_echo().await;
    let hosts = [
        ("rsa.test", "rsa", Identity::new(Key::Rsa, &["rsa.test"])),
        ("ecdsa.test", "ecdsa", Identity::new(Key::Ecdsa, &["ecdsa.test"])),
        ("ed25519.test", "ed25519", Identity::new(Key::Ed25519, &["ed25519.test"])),
        ("*.wild.test", "wild", Identity::new(Key::Ecdsa, &["*.wild.test"])),
        ("exact.wild.test", "exact", Identity::new(Key::Ecdsa, &["exact.wild.test"])),
    ];
    for (host, name, identity) in &hosts {
        gateway.apply(&manifest::all([
            identity.secret(name).as_str(),
            Ingress::new(host, "web").tls(name).yaml().as_str(),
        ]));
    }
    gateway.apply(&Ingress::new("plain.test", "web").yaml());
    let der = |index: usize| Some(&hosts[index].2.der);
    let cases = [
        ("rsa.test", der(0)),
        ("ecdsa.test", der(1)),
        ("ed25519.test", der(2)),
        ("a.wild.test", der(3)),
        ("exact.wild.test", der(4)),
        ("EXACT.wild.test", der(4)),
        // One label alone stands for the asterisk.
        ("a.b.wild.test", None),
        ("wild.test", None),
        ("plain.test", None),
        ("nobody.test", None),
        ("127.0.0.1", None),
    ];
    for version in [&TLS12, &TLS13] {
        let config = Arc::new(tls::config(&[version], &["http/1.1"]));
        let mut default = None;
        for (name, expected) in cases {
            let stream = tls::connect(&config, gateway.https(), name).await;
            assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
            let shown = leaf(&stream);
            match expected {
                Some(expected) => assert!(&shown == expected, "{name}"),
                // Always the same, and none of those.
                None => {
                    assert!(hosts.iter().all(|(_, _, identity)| identity.der != shown), "{name}");
                    assert_eq!(default.get_or_insert_with(|| shown.clone()), &shown, "{name}");
                }
            }
            let host = if name == "127.0.0.1" { "rsa.test" } else { name };
            let answer = Http1::new(stream).get(host, "/").await;
            let known = !matches!(name, "a.b.wild.test" | "wild.test" | "nobody.test");
            assert_eq!(answer.status, if known { 200 } else { 404 }, "{name}");
            if known {
                assert_eq!(answer.echoed("x-forwarded-proto").as_deref(), Some("https"));
                let port = gateway.https().port().to_string();
                assert_eq!(answer.echoed("x-forwarded-port").as_deref(), Some(port.as_str()));
            }
        }
    }
    assert_eq!(gateway.sample("sluicegate_tls_handshakes_total{version=\"1.2\""), cases.len() as u64);
    assert_eq!(gateway.sample("sluicegate_tls_handshakes_total{version=\"1.3\""), cases.len() as u64);
    assert_eq!(gateway.sample("sluicegate_tls_default_certificate_total"), 10);
}

#[tokio::test]
async fn a_default_certificate_can_be_given() {
    let id = sluicegate_config::CertificateId { namespace: "default".into(), name: "default".into() };
    let gateway = Gateway::with(|settings| settings.default_certificate = Some(id));
    // The second one renews the first.
    for _ in 0..2 {
        let identity = Identity::new(Key::Ecdsa, &["default.test"]);
        gateway.apply(&identity.secret("default"));
        let stream = tls::connect(&Arc::new(tls::modern(&[])), gateway.https(), "nobody.test").await;
        assert_eq!(leaf(&stream), identity.der);
    }
}

#[tokio::test]
async fn sessions_are_resumed_by_tickets() {
    let (gateway, _web) = with_echo().await;
    gateway.apply(&Ingress::any_host("web").yaml());
    for version in [&TLS12, &TLS13] {
        let mut config = tls::config(&[version], &["http/1.1"]);
        config.resumption = Resumption::in_memory_sessions(8);
        let config = Arc::new(config);
        let mut kinds = Vec::new();
        for _ in 0..3 {
            let stream = tls::connect(&config, gateway.https(), "app.test").await;
            kinds.push(stream.get_ref().1.handshake_kind().expect("done"));
            let mut client = Http1::new(stream);
            // The ticket of TLS 1.3 comes behind the handshake.
            assert_eq!(client.get("app.test", "/").await.status, 200);
        }
        assert_eq!(kinds[1..], [HandshakeKind::Resumed; 2], "{version:?}: {kinds:?}");
    }
    assert_eq!(gateway.sample("sluicegate_tls_resumed_total"), 4);
}

#[tokio::test]
async fn a_renewed_certificate_answers_the_next_handshake() {
    let (gateway, _web) = with_echo().await;
    let (old, new) = (Identity::new(Key::Ecdsa, &["app.test"]), Identity::new(Key::Rsa, &["app.test"]));
    gateway.apply(&manifest::all([
        old.secret("app").as_str(),
        Ingress::new("app.test", "web").tls("app").yaml().as_str(),
    ]));
    let config = Arc::new(tls::modern(&["http/1.1"]));
    let stream = tls::connect(&config, gateway.https(), "app.test").await;
    assert_eq!(leaf(&stream), old.der);
    let mut client = Http1::new(stream);
    assert_eq!(client.get("app.test", "/").await.status, 200);

    gateway.apply(&new.secret("app"));
    assert_eq!(leaf(&tls::connect(&Arc::new(tls::modern(&[])), gateway.https(), "app.test").await), new.der);
    assert_eq!(client.get("app.test", "/").await.status, 200, "the old connection goes on");

    // A broken one costs nothing but itself.
    for broken in [
        secret("app", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &new.key),
        secret("app", &new.certificate, &old.key),
        secret("app", "", ""),
        secret("app", &new.certificate, "no key"),
    ] {
        let (applied, rejections) = gateway.apply_with_rejections(&broken);
        assert!(!rejections.is_empty() && applied.failures.is_empty(), "{rejections:?} {applied:?}");
        assert_eq!(leaf(&tls::connect(&Arc::new(tls::modern(&[])), gateway.https(), "app.test").await), new.der);
    }
    gateway.apply(&old.secret("app"));
    assert_eq!(leaf(&tls::connect(&Arc::new(tls::modern(&[])), gateway.https(), "app.test").await), old.der);

    // Without an Ingress nobody has the name.
    gateway.delete(Kind::Ingress, "app-test");
    let stream = tls::connect(&Arc::new(tls::modern(&["http/1.1"])), gateway.https(), "app.test").await;
    assert_ne!(leaf(&stream), old.der);
    assert_eq!(client.get("app.test", "/").await.status, 404, "and the old connection finds no route");
}

#[tokio::test]
async fn plain_http_on_the_tls_port_is_told_so() {
    let (gateway, web) = with_echo().await;
    gateway.apply(&Ingress::any_host("web").yaml());
    for request in [
        "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 3\r\n\r\nabc",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut client = Http1::connect(gateway.https()).await;
        client.send(request).await;
        let answer = client.response().await;
        assert_eq!((answer.status, answer.field("x-sluicegate-reason")), (400, Some("bad_request")));
        assert!(answer.text().contains("HTTPS"), "{}", answer.text());
        assert!(answer.text().ends_with('\n'), "the length is right: {:?}", answer.text());
        client.expect_end().await;
    }
    assert_eq!(web.requests().connections, 0);
    assert_eq!(gateway.sample("sluicegate_tls_handshake_failures_total{reason=\"not_tls\""), 3);
}

#[tokio::test]
async fn what_is_neither_http_nor_tls_is_closed() {
    let (gateway, _web) = with_echo().await;
    for bytes in [&b"\0\0\0\0\0\0\0\0"[..], b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", b"\x16\x03\x01\xff\xff"] {
        let (received, _) = converse(gateway.https(), &[bytes]).await;
        assert!(!received.starts_with(b"HTTP/"), "{}", received.escape_ascii());
    }
    until("all are over", || gateway.proxy().connections() == 0).await;
}

#[tokio::test]
async fn a_handshake_that_does_not_come_to_an_end_is_cut() {
    let (gateway, _web) = with_echo().await;
    let mut silent = TcpStream::connect(gateway.https()).await.expect("connect");
    let mut slow = TcpStream::connect(gateway.https()).await.expect("connect");
    slow.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await.expect("sent");
    crate::support::wire::expect_silence_and_end(&mut silent).await;
    crate::support::wire::expect_silence_and_end(&mut slow).await;
    until("both are counted", || gateway.limits(LimitName::TlsHandshakeTimeout) == 2).await;
}

#[tokio::test]
async fn requests_over_tls_have_the_same_forms() {
    let (gateway, _web) = with_echo().await;
    gateway.apply(&Ingress::any_host("web").yaml());
    for version in [ProtocolVersion::TLSv1_2, ProtocolVersion::TLSv1_3] {
        let version = if version == ProtocolVersion::TLSv1_2 { &TLS12 } else { &TLS13 };
        let config = Arc::new(tls::config(&[version], &["http/1.1"]));
        let mut client = Http1::new(tls::connect(&config, gateway.https(), "app.test").await);
        // Pipelined, in records of their own and in one.
        client.send("GET /1 HTTP/1.1\r\nHost: app.test\r\n\r\nGET /2 HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
        client.send("GET /3 HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
        for path in ["/1", "/2", "/3"] {
            assert_eq!(client.response().await.json()["path"], path);
        }
        client.send("POST /echo HTTP/1.1\r\nHost: app.test\r\nContent-Length: 3000000\r\n\r\n").await;
        let (stream, _) = client.into_parts();
        let (reader, mut writer) = tokio::io::split(stream);
        let sending = tokio::spawn(async move {
            writer.write_all(&vec![b'z'; 3_000_000]).await.expect("sent");
            writer.flush().await.expect("sent");
            writer
        });
        let mut client = Http1::new(tokio::io::join(reader, tokio::io::sink()));
        let answer = client.response().await;
        assert!(answer.body.len() == 3_000_000 && answer.body.iter().all(|byte| *byte == b'z'));
        drop(sending.await.expect("sent"));
        // A refusal is readable to the end although the client sends on.
        let mut client = Http1::new(tls::connect(&config, gateway.https(), "app.test").await);
        client
            .send("GET / HTTP/1.1\r\nHost: app.test\r\nHost: b\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
        let answer = client.response().await;
        assert_eq!((answer.status, answer.field("connection")), (400, Some("close")));
        client.expect_end().await;
        // An upstream that breaks off breaks this connection off, without TLS's close_notify that would make it look whole.
        let mut client = Http1::new(tls::connect(&config, gateway.https(), "app.test").await);
        client.send("GET /half?bytes=1000&sent=500&chunked=1 HTTP/1.0\r\nHost: app.test\r\n\r\n").await;
        assert!(client.try_response("GET").await.is_err());
    }
    assert_eq!(gateway.faults(FaultReason::BadRequest), 2);
}
