//! Connections whose bytes are opaque: TLS passed through by server name, TCP services, and the PROXY protocol.

use crate::support::tls::{self, Identity, Key, leaf};
use crate::support::wire::{converse, expect_silence_and_end};
use crate::support::{Gateway, Http1, Http2, Ingress, manifest, service, soon, until};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use sluicegate_config::Kind;
use sluicegate_echo::{EchoBackend, RawBackend, Step, Tls};
use sluicegate_proxy::StreamEngine;
use sluicegate_telemetry::FaultReason;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const V1: &[u8] = b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 443\r\n";

/// PROXY v2 for the same.
fn v2() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend([203, 0, 113, 7, 192, 0, 2, 1]);
    header.extend(40_000u16.to_be_bytes());
    header.extend(443u16.to_be_bytes());
    header
}

/// `through.test` is passed through to a backend with its own TLS, `ended.test` is terminated.
async fn side_by_side(engine: StreamEngine) -> (Gateway, Identity, [EchoBackend; 2]) {
    let inner = Tls::self_signed(["through.test"]).expect("a name");
    let through = EchoBackend::builder("through").tls(inner).start().await.expect("start");
    let ended = EchoBackend::builder("ended").start().await.expect("start");
    let identity = Identity::new(Key::Ecdsa, &["ended.test"]);
    let gateway = Gateway::with(|settings| settings.stream_engine = engine);
    gateway.apply(&manifest::all([
        service("through", &[through.address()]).as_str(),
        service("ended", &[ended.address()]).as_str(),
        identity.secret("ended").as_str(),
        Ingress::new("through.test", "through").own("tls-passthrough", "true").yaml().as_str(),
        Ingress::new("ended.test", "ended").tls("ended").yaml().as_str(),
    ]));
    (gateway, identity, [through, ended])
}

#[tokio::test]
async fn passthrough_and_termination_live_side_by_side() {
    for engine in [StreamEngine::Copy, StreamEngine::Splice] {
        let (gateway, identity, [through, ended]) = side_by_side(engine).await;
        for alpn in ["http/1.1", "h2"] {
            let config = Arc::new(tls::modern(&[alpn]));
            let stream = tls::connect(&config, gateway.https(), "through.test").await;
            assert_ne!(leaf(&stream), identity.der);
            let json = match alpn {
                "h2" => Http2::over(stream, "https").await.get("through.test", "/").await.json(),
                _ => Http1::new(stream).get("through.test", "/").await.json(),
            };
            // The backend itself ended the TLS, and nothing was added to the request.
            assert_eq!(json["tls"]["serverName"], "through.test");
            assert_eq!((&json["service"], json["headers"].get("x-forwarded-for")), (&"through".into(), None));

            let stream = tls::connect(&config, gateway.https(), "ended.test").await;
            assert_eq!(leaf(&stream), identity.der);
            let json = match alpn {
                "h2" => Http2::over(stream, "https").await.get("ended.test", "/").await.json(),
                _ => Http1::new(stream).get("ended.test", "/").await.json(),
            };
            assert_eq!((&json["service"], json["tls"].is_null()), (&"ended".into(), true));
        }
        assert_eq!((through.requests().connections, ended.requests().total), (2, 2));
        until("both streams are over", || gateway.sample("sluicegate_streams_active{kind=\"passthrough\"") == 0).await;
        assert_eq!(gateway.sample("sluicegate_streams_total{kind=\"passthrough\""), 2);
        // Another host of the pass-through Ingress's connection cannot be asked for on a terminated one.
        let config = Arc::new(tls::modern(&["http/1.1"]));
        let mut client = Http1::new(tls::connect(&config, gateway.https(), "ended.test").await);
        assert_eq!(client.get("through.test", "/").await.status, 421);
    }
}

#[tokio::test]
async fn a_large_body_passes_through_unharmed() {
    let (gateway, _identity, _backends) = side_by_side(StreamEngine::Splice).await;
    let config = Arc::new(tls::modern(&["http/1.1"]));
    let mut client = Http1::new(tls::connect(&config, gateway.https(), "through.test").await);
    let answer = client.get("through.test", "/bytes/20000000").await;
    assert!(answer.body.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8));
    assert_eq!(answer.body.len(), 20_000_000);
}

/// The first flight of a client for `name`, as one record.
fn hello(name: &str, configure: impl FnOnce(&mut rustls::ClientConfig)) -> Vec<u8> {
    let mut config = tls::modern(&["h2", "http/1.1"]);
    configure(&mut config);
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("written");
    bytes
}

/// Splits the handshake message of a record into records of `size` bytes each.
fn fragmented(record: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in record[5..].chunks(size) {
        out.extend_from_slice(&record[..3]);
        out.extend((piece.len() as u16).to_be_bytes());
        out.extend_from_slice(piece);
    }
    out
}

/// However the ClientHello is cut into segments and records, the name in it is found, and every byte passes.
#[tokio::test]
async fn the_client_hello_is_found_however_it_is_cut() {
    let small = hello("through.test", |config| {
        // Without the post-quantum share it fits one segment.
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
        *config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
    });
    let large = hello("through.test", |config| {
        // Larger than any segment: a post-quantum key share, and as many protocols as fit.
        config
            .alpn_protocols
            .extend((0..120).map(|number| format!("protocol-number-{number:03}-{}", "x".repeat(60)).into_bytes()));
    });
    assert!(small.len() < 700 && (10_000..16_000).contains(&large.len()), "{} {}", small.len(), large.len());
    let pieces_of = |bytes: &[u8], size: usize| bytes.chunks(size).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let cases = [
        pieces_of(&small, 1),
        pieces_of(&small, 7),
        pieces_of(&fragmented(&small, 1), 1),
        pieces_of(&fragmented(&small, 33), 100_000),
        pieces_of(&large, 1000),
        pieces_of(&large, 1),
        pieces_of(&fragmented(&large, 1000), 777),
    ];
    for (number, pieces) in cases.iter().enumerate() {
        let raw = RawBackend::scripted([
            Step::AwaitBytes(pieces.concat().len()),
            Step::Send("that will do".into()),
            Step::Close,
        ])
        .await
        .expect("start");
        let gateway = Gateway::start();
        gateway.apply(&manifest::all([
            service("through", &[raw.address()]).as_str(),
            Ingress::new("through.test", "through").nginx("ssl-passthrough", "true").yaml().as_str(),
        ]));
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let (received, _) = converse(gateway.https(), &pieces).await;
        assert_eq!(received, b"that will do", "case {number}");
        assert_eq!(raw.received().concat(), pieces.concat(), "case {number}");
    }
}

#[tokio::test]
async fn passthrough_without_a_backend_is_closed() {
    let gateway = Gateway::start();
    let gone = {
        let listener = StdListener::bind("127.0.0.1:0").expect("bind");
        listener.local_addr().expect("bound")
    };
    for endpoints in [&[][..], &[gone]] {
        gateway.set_endpoints("through", endpoints);
        gateway.apply(&Ingress::new("through.test", "through").own("tls-passthrough", "true").yaml());
        let stream = TcpStream::connect(gateway.https()).await.expect("connect");
        let (reader, mut writer) = stream.into_split();
        writer.write_all(&hello("through.test", |_| {})).await.expect("sent");
        expect_silence_and_end(reader).await;
    }
    until("both are counted", || {
        gateway.sample("sluicegate_streams_ended_total{kind=\"passthrough\",reason=\"no_endpoints\"") == 1
            && gateway.sample("sluicegate_streams_ended_total{kind=\"passthrough\",reason=\"connect_failed\"") == 1
    })
    .await;
}

#[tokio::test]
async fn addresses_of_the_proxy_protocol_are_the_clients() {
    let web = EchoBackend::builder("web").start().await.expect("start");
    let gateway = Gateway::with(|settings| settings.proxy_protocol = true);
    gateway.apply(&service("web", &[web.address()]));
    gateway.apply(&Ingress::any_host("web").yaml());
    for header in [V1.to_vec(), v2()] {
        // Together with the request, and byte by byte.
        for size in [10_000, 1] {
            let mut client = gateway.connect().await;
            let sent = [&header[..], b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"].concat();
            for piece in sent.chunks(size) {
                client.send(piece).await;
            }
            let answer = client.response().await;
            assert_eq!(answer.echoed("x-forwarded-for").as_deref(), Some("203.0.113.7"));
            assert_eq!(answer.echoed("x-real-ip").as_deref(), Some("203.0.113.7"));
            assert_eq!(answer.echoed("x-forwarded-port").as_deref(), Some("443"));
            assert_eq!(client.get("app.test", "/").await.echoed("x-forwarded-for").as_deref(), Some("203.0.113.7"));
        }
        // In front of TLS.
        let mut socket = TcpStream::connect(gateway.https()).await.expect("connect");
        socket.write_all(&header).await.expect("sent");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls::modern(&["http/1.1"])));
        let name = ServerName::try_from("app.test").expect("a name");
        let stream = soon("the handshake", connector.connect(name, socket)).await.expect("a handshake");
        assert_eq!(
            Http1::new(stream).get("app.test", "/").await.echoed("x-forwarded-for").as_deref(),
            Some("203.0.113.7")
        );
    }
    // A health check of the balancer itself (LOCAL) keeps the peer's address.
    let mut client = gateway.connect().await;
    client.send(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").await;
    assert_eq!(client.get("app.test", "/").await.echoed("x-forwarded-for").as_deref(), Some("127.0.0.1"));
}

#[tokio::test]
async fn without_the_header_that_is_demanded_nothing_passes() {
    let web = EchoBackend::builder("web").start().await.expect("start");
    let gateway = Gateway::with(|settings| {
        settings.proxy_protocol = true;
        settings.timeouts.handshake = Duration::from_millis(500);
    });
    gateway.apply(&service("web", &[web.address()]));
    gateway.apply(&Ingress::any_host("web").yaml());
    let long = [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat();
    let cases: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 40000\r\nGET / HTTP/1.1\r\nHost: app.test\r\n\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 443\nGET / HTTP/1.1\r\nHost: app.test\r\n\r\n",
        b"proxy TCP4 203.0.113.7 192.0.2.1 40000 443\r\nGET / HTTP/1.1\r\nHost: app.test\r\n\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0cabcdefghijklGET / HTTP/1.1\r\nHost: app.test\r\n\r\n",
        &long,
        b"PROXY ",
    ];
    for case in cases {
        let (received, _) = converse(gateway.http(), &[case]).await;
        assert!(received.is_empty(), "{}: {}", case.escape_ascii(), received.escape_ascii());
    }
    assert!(gateway.faults(FaultReason::ProxyProtocol) >= 6);
    assert_eq!(web.requests().connections, 0);
    // Where no header is demanded, one is no request.
    let open = Gateway::start();
    open.apply(&service("web", &[web.address()]));
    open.apply(&Ingress::any_host("web").yaml());
    let (received, _) = converse(open.http(), &[V1, b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"]).await;
    assert!(received.starts_with(b"HTTP/1.1 400 "), "{}", received.escape_ascii());
    assert_eq!(web.requests().connections, 0);
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    StdListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("bound").port()
}

fn tcp_services(lines: &[(u16, &str)]) -> String {
    let mut text =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: tcp-services, namespace: default}\ndata:\n".to_owned();
    for (port, target) in lines {
        text.push_str(&format!("  \"{port}\": \"{target}\"\n"));
    }
    if lines.is_empty() {
        text.push_str("  {}\n");
    }
    text
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

async fn echoes(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).await.expect("sent");
    let mut buffer = vec![0; text.len()];
    soon("an echo", stream.read_exact(&mut buffer)).await.expect("read");
    assert_eq!(buffer, text);
}

#[tokio::test]
async fn tcp_services_are_opened_changed_and_closed_live() {
    for engine in [StreamEngine::Copy, StreamEngine::Splice, StreamEngine::Uring] {
        let (one, two) = (
            RawBackend::scripted([Step::Echo]).await.expect("start"),
            RawBackend::scripted([Step::Echo]).await.expect("start"),
        );
        let gateway = Gateway::with(|settings| settings.stream_engine = engine);
        gateway.apply(&manifest::all([
            service("one", &[one.address()]).as_str(),
            service("two", &[two.address()]).as_str(),
        ]));
        let port = free_port();
        gateway.apply(&tcp_services(&[(port, "default/one:80")]));
        let mut old = TcpStream::connect(at(port)).await.expect("connect");
        echoes(&mut old, b"to one").await;
        // Another target: the next connection goes there, the old one goes on where it was.
        gateway.apply(&tcp_services(&[(port, "default/two:80")]));
        let mut new = TcpStream::connect(at(port)).await.expect("connect");
        echoes(&mut new, b"to two").await;
        echoes(&mut old, b" and still").await;
        assert_eq!(
            (one.received().concat(), two.received().concat()),
            (b"to one and still".to_vec(), b"to two".to_vec())
        );
        // An endpoint that changes needs no other listener.
        gateway.set_endpoints("two", &[one.address()]);
        let mut third = TcpStream::connect(at(port)).await.expect("connect");
        echoes(&mut third, b"to one again").await;
        echoes(&mut new, b" until the end").await;
        // Closed: nothing new, and what there is goes on.
        gateway.apply(&tcp_services(&[]));
        let mut refused = false;
        for _ in 0..400 {
            match TcpStream::connect(at(port)).await {
                Err(_) => {
                    refused = true;
                    break;
                }
                Ok(stream) => {
                    drop(stream);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
        assert!(refused, "the port is closed");
        echoes(&mut old, b" after all").await;
        drop((old, new, third));
        until("all streams are over", || gateway.sample("sluicegate_streams_active{kind=\"tcp_service\"") == 0).await;
    }
}

#[tokio::test]
async fn a_port_that_is_taken_costs_only_itself() {
    let taken = StdListener::bind("[::]:0").expect("bind");
    let taken_port = taken.local_addr().expect("bound").port();
    let raw = RawBackend::scripted([Step::Echo]).await.expect("start");
    let gateway = Gateway::start();
    gateway.apply(&service("one", &[raw.address()]));
    let port = free_port();
    let (applied, rejections) =
        gateway.apply_with_rejections(&tcp_services(&[(taken_port, "default/one:80"), (port, "default/one:80")]));
    assert_eq!(rejections, []);
    let [failure] = &applied.failures[..] else { panic!("{applied:?}") };
    assert!(failure.contains(&taken_port.to_string()) && failure.contains("in use"), "{failure}");
    echoes(&mut TcpStream::connect(at(port)).await.expect("connect"), b"hello").await;
}

#[tokio::test]
async fn the_proxy_protocol_is_taken_and_given() {
    let raw = RawBackend::scripted([Step::AwaitHead, Step::Echo]).await.expect("start");
    let gateway = Gateway::start();
    gateway.apply(&service("one", &[raw.address()]));
    let (plain, both) = (free_port(), free_port());
    gateway.apply(&tcp_services(&[(plain, "default/one:80::PROXY"), (both, "default/one:80:PROXY:PROXY")]));
    let mut client = TcpStream::connect(at(plain)).await.expect("connect");
    client.write_all(b"hello\r\n\r\n").await.expect("sent");
    let local = client.local_addr().expect("bound");
    let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {plain}\r\nhello\r\n\r\n", local.port());
    until("it is there", || raw.received().concat().ends_with(b"\r\n\r\n")).await;
    assert_eq!(String::from_utf8_lossy(&raw.received().concat()), expected);

    for header in [V1.to_vec(), v2()] {
        raw.forget();
        let mut client = TcpStream::connect(at(both)).await.expect("connect");
        client.write_all(&[&header[..], b"hello\r\n\r\n"].concat()).await.expect("sent");
        until("it is there", || raw.received().concat().ends_with(b"\r\n\r\n")).await;
        assert_eq!(raw.received().concat(), [V1, b"hello\r\n\r\n"].concat());
    }
    raw.forget();
    let (received, _) = converse(at(both), &[b"no header at all\r\n\r\n"]).await;
    assert!(received.is_empty() && raw.is_untouched());
}

#[tokio::test]
async fn one_listener_demands_the_proxy_protocol_and_another_does_not() {
    let proxied = at(free_port());
    let gateway = Gateway::with(|settings| {
        settings.http.push(proxied);
        settings.proxy_protocol_on = vec![proxied];
    });
    let web = EchoBackend::builder("web").start().await.expect("start");
    gateway.apply(&service("web", &[web.address()]));
    gateway.apply(&Ingress::any_host("web").yaml());
    let plain = gateway.connect().await.get("app.test", "/").await;
    assert_eq!(plain.echoed("x-real-ip").as_deref(), Some("127.0.0.1"));
    let mut client = Http1::connect(proxied).await;
    client.send(b"PROXY TCP4 203.0.113.7 192.0.2.10 4000 80\r\n").await;
    assert_eq!(client.get("app.test", "/").await.echoed("x-real-ip").as_deref(), Some("203.0.113.7"));
    let (received, _) = converse(proxied, &[b"GET / HTTP/1.1\r\nhost: app.test\r\n\r\n"]).await;
    assert!(received.is_empty(), "{}", received.escape_ascii());
}

#[tokio::test]
async fn a_silent_stream_is_closed_and_a_half_closed_one_is_not() {
    let raw = RawBackend::scripted([Step::Echo, Step::Pause(Duration::from_millis(100)), Step::Send(" bye".into())])
        .await
        .expect("start");
    let gateway = Gateway::with(|settings| settings.timeouts.stream_idle = Duration::from_millis(400));
    gateway.apply(&service("one", &[raw.address()]));
    let port = free_port();
    gateway.apply(&tcp_services(&[(port, "default/one:80")]));
    let mut client = TcpStream::connect(at(port)).await.expect("connect");
    client.write_all(b"hello").await.expect("sent");
    client.shutdown().await.expect("shut down");
    let mut all = Vec::new();
    soon("the rest", client.read_to_end(&mut all)).await.expect("read");
    assert_eq!(all, b"hello bye");
    let mut client = TcpStream::connect(at(port)).await.expect("connect");
    echoes(&mut client, b"x").await;
    expect_silence_and_end(client).await;
    until("it is counted", || {
        gateway.sample("sluicegate_streams_ended_total{kind=\"tcp_service\",reason=\"idle_timeout\"") == 1
    })
    .await;
    gateway.delete(Kind::ConfigMap, "tcp-services");
}
