//! Each kind of probe against servers on loopback that answer, refuse, hang, talk nonsense, trickle or hang up. Real
//! servers are loopback addresses, and probes go to them directly.

use sluicegate_config::{HealthCheck, ProbeKind, TransportProtocol};
use sluicegate_echo::{EchoBackend, RawBackend, Step as Scripted, Tls};
use sluicegate_health::{Checker, DueProbe, Failure, Prober, Target, Way};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;

/// For answers that come: longer than the slowest machine takes.
const PATIENT: Duration = Duration::from_secs(30);
/// For answers that do not come.
const SHORT: Duration = Duration::from_millis(300);

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));

fn due_on(vip: IpAddr, address: SocketAddr, kind: ProbeKind, timeout: Duration) -> DueProbe {
    let target = Target { vip, protocol: TransportProtocol::Tcp, port: address.port(), real: address.ip() };
    let interval = Duration::from_secs(1);
    let check = HealthCheck { kind, port: None, interval, timeout, rise: 1, fall: 1 };
    let now = Instant::now();
    let mut checker = Checker::new(0);
    checker.set_targets(BTreeMap::from([(target, Arc::new(check))]), now);
    checker.poll(now + interval, 1).remove(0)
}

async fn ask(address: SocketAddr, kind: ProbeKind, timeout: Duration) -> Result<(), Failure> {
    Prober::new().probe(&due_on(VIP, address, kind, timeout), &Way::Direct).await
}

fn http(path: &str) -> ProbeKind {
    ProbeKind::Http { path: path.into(), host: None, tls: false }
}

fn https(path: &str) -> ProbeKind {
    ProbeKind::Http { path: path.into(), host: Some("shop.example".into()), tls: true }
}

fn grpc(service: &str) -> ProbeKind {
    ProbeKind::Grpc { service: service.into() }
}

/// The kinds that ask something over TCP.
fn questions() -> [ProbeKind; 3] {
    [http("/"), https("/"), grpc("")]
}

fn text(result: Result<(), Failure>) -> String {
    result.map_or_else(|failure| failure.to_string(), |()| "good".to_owned())
}

async fn free_port() -> SocketAddr {
    let backend = RawBackend::scripted([]).await.expect("a port");
    backend.address()
}

async fn scripted(script: impl Into<Vec<Scripted>>) -> RawBackend {
    RawBackend::scripted(script).await.expect("a backend")
}

async fn echo(tls: bool) -> EchoBackend {
    let tls = tls.then(|| Tls::self_signed(["other.example"]).expect("a certificate"));
    EchoBackend::builder("shop").tls(tls).start().await.expect("a backend")
}

#[tokio::test]
async fn tcp() {
    let silent = scripted([Scripted::Pause(PATIENT)]).await;
    assert_eq!(ask(silent.address(), ProbeKind::Tcp, PATIENT).await, Ok(()));
    assert_eq!(ask(free_port().await, ProbeKind::Tcp, PATIENT).await, Err(Failure::Refused));
}

#[tokio::test]
async fn the_port_of_the_check_replaces_that_of_the_service() {
    let backend = scripted([]).await;
    let mut due = due_on(VIP, free_port().await, ProbeKind::Tcp, PATIENT);
    due.check = Arc::new(HealthCheck { port: Some(backend.address().port()), ..(*due.check).clone() });
    assert_eq!(Prober::new().probe(&due, &Way::Direct).await, Ok(()));
}

#[tokio::test]
async fn http_by_status() {
    let backend = echo(false).await;
    assert_eq!(ask(backend.address(), http("/healthz"), PATIENT).await, Ok(()));
    backend.set_healthy(false);
    assert_eq!(text(ask(backend.address(), http("/healthz"), PATIENT).await), "HTTP 503");
    for (status, expected) in [(204, "good"), (302, "good"), (399, "good"), (404, "HTTP 404"), (500, "HTTP 500")] {
        let result = ask(backend.address(), http(&format!("/status/{status}")), PATIENT).await;
        assert_eq!(text(result), expected, "{status}");
    }
    assert_eq!(ask(backend.address(), http("/early-hints?link=%3C/a%3E"), PATIENT).await, Ok(()));
    // The status decides; what comes after it does not delay the verdict.
    assert_eq!(ask(backend.address(), http("/drip?bytes=100&every=1s"), PATIENT).await, Ok(()));
}

#[tokio::test]
async fn https_takes_any_certificate_and_shows_the_host() {
    let backend = echo(true).await;
    assert_eq!(ask(backend.address(), https("/healthz"), PATIENT).await, Ok(()));
    backend.set_healthy(false);
    assert_eq!(ask(backend.address(), https("/healthz"), PATIENT).await, Err(Failure::HttpStatus(503)));
    // Without a name there is no SNI, and that is taken too.
    let unnamed = ProbeKind::Http { path: "/".into(), host: None, tls: true };
    assert_eq!(ask(backend.address(), unnamed, PATIENT).await, Ok(()));
    let plain = echo(false).await;
    let result = text(ask(plain.address(), https("/"), PATIENT).await);
    assert!(result.starts_with("TLS: "), "{result}");
}

#[tokio::test]
async fn the_request_names_the_vip_or_the_host() {
    let six: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10));
    let rows =
        [(VIP, None, "192.0.2.10:PORT"), (six, None, "[2001:db8::10]:PORT"), (VIP, Some("a.example"), "a.example")];
    for (vip, host, expected) in rows {
        let backend = RawBackend::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.expect("a backend");
        let kind = ProbeKind::Http { path: "/up?a=b".into(), host: host.map(Into::into), tls: false };
        let due = due_on(vip, backend.address(), kind, PATIENT);
        assert_eq!(Prober::new().probe(&due, &Way::Direct).await, Ok(()));
        let received = backend.received().concat();
        let request = String::from_utf8(received).expect("text");
        let host = expected.replace("PORT", &backend.address().port().to_string());
        assert!(request.starts_with(&format!("GET /up?a=b HTTP/1.1\r\nHost: {host}\r\n")), "{request}");
        assert!(request.ends_with("\r\nConnection: close\r\n\r\n"), "{request}");
    }
}

#[tokio::test]
async fn what_would_not_be_a_request_is_not_sent() {
    let backend = scripted([]).await;
    for (path, host) in
        [("", None), ("up", None), ("/a b", None), ("/\r\nX: y", None), ("/", Some("a\r\nX: y")), ("/", Some(""))]
    {
        let kind = ProbeKind::Http { path: path.into(), host: host.map(Into::into), tls: false };
        let failure = ask(backend.address(), kind, PATIENT).await.expect_err("no request");
        assert!(failure.is_local(), "{path:?} {host:?}: {failure}");
    }
    assert!(backend.received().is_empty());
}

#[tokio::test]
async fn http_answers_of_every_shape() {
    let long = format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "x".repeat(20_000));
    let rows = [
        ("HTTP/1.1 200 OK\r\n\r\n", "good"),
        ("HTTP/1.0 200 OK\r\n\r\n", "good"),
        ("HTTP/1.1 200\r\n\r\n", "good"),
        // Only the status is asked for: heads that a strict codec refuses are no reason to take a server out.
        ("HTTP/1.1 200 OK\n\n", "good"),
        ("HTTP/1.1 200 OK\r\nbad field\r\n", "good"),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            "good",
        ),
        ("HTTP/1.1 100 Continue\n\nHTTP/1.1 500 No\n\n", "HTTP 500"),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "HTTP 101"),
        ("HTTP/1.1 199 Odd\r\n\r\n", "connection closed before the answer"),
        ("HTTP/1.1 999 Odd\r\n\r\n", "HTTP 999"),
        ("HTTP/1.1 099 Odd\r\n\r\n", "the answer is not HTTP/1"),
        ("HTTP/1.1 2000 OK\r\n\r\n", "the answer is not HTTP/1"),
        ("HTTP/1.1 20 OK\r\n\r\n", "the answer is not HTTP/1"),
        ("HTTP/2.0 200 OK\r\n\r\n", "the answer is not HTTP/1"),
        ("HTTP/1.\n", "the answer is not HTTP/1"),
        ("SSH-2.0-OpenSSH_9.9\r\n", "the answer is not HTTP/1"),
        ("\0\x01\x02", "the answer is not HTTP/1"),
        ("HTTP/1.1 200 O", "connection closed before the answer"),
        ("HTT", "connection closed before the answer"),
        ("", "connection closed before the answer"),
        (long.as_str(), "HTTP head of more than 16384 bytes"),
    ];
    for (answer, expected) in rows {
        let backend = RawBackend::answering(answer.to_owned()).await.expect("a backend");
        assert_eq!(text(ask(backend.address(), http("/"), PATIENT).await), expected, "{answer:.60}");
    }
}

#[tokio::test]
async fn grpc_health() {
    let backend = echo(false).await;
    for service in ["", "sluicegate.echo.v1.Echo"] {
        backend.set_healthy(true);
        assert_eq!(ask(backend.address(), grpc(service), PATIENT).await, Ok(()), "{service}");
        backend.set_healthy(false);
        assert_eq!(text(ask(backend.address(), grpc(service), PATIENT).await), "gRPC health: NOT_SERVING", "{service}");
    }
    let unknown = ask(backend.address(), grpc("other"), PATIENT).await;
    assert_eq!(text(unknown), "gRPC status 5 (NOT_FOUND)");
    // An HTTP/1.1 server.
    let other =
        RawBackend::answering("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await.expect("a backend");
    let result = text(ask(other.address(), grpc(""), PATIENT).await);
    assert!(result.starts_with("HTTP/2: "), "{result}");
}

#[tokio::test]
async fn refusing_and_resetting() {
    for kind in questions() {
        assert_eq!(ask(free_port().await, kind.clone(), PATIENT).await, Err(Failure::Refused), "{kind:?}");
        let resets = scripted([Scripted::AwaitBytes(1), Scripted::Reset]).await;
        let failure = ask(resets.address(), kind.clone(), PATIENT).await.expect_err("no answer");
        assert!(matches!(failure, Failure::Reset(_)), "{kind:?}: {failure:?}");
        let closes = scripted([Scripted::AwaitBytes(1), Scripted::Close]).await;
        let failure = ask(closes.address(), kind.clone(), PATIENT).await.expect_err("no answer");
        // Closing with bytes unread is a reset on the wire.
        assert!(matches!(failure, Failure::Reset(_) | Failure::Closed(_)), "{kind:?}: {failure:?}");
        let finishes = scripted([]).await;
        let failure = ask(finishes.address(), kind.clone(), PATIENT).await.expect_err("no answer");
        assert!(matches!(failure, Failure::Closed(_) | Failure::Reset(_) | Failure::Http2(_)), "{kind:?}: {failure:?}");
    }
}

#[tokio::test]
async fn the_deadline_holds_against_silence_and_trickle() {
    // A byte now and then keeps no probe alive: each answer here takes longer than all of the time.
    let trickle = |answer: &'static [u8]| {
        answer.chunks(1).flat_map(|byte| [Scripted::Send(byte.into()), Scripted::Pause(SHORT / 4)]).collect::<Vec<_>>()
    };
    let http1 = trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    // A TLS record header of a handshake message; the SETTINGS frame of HTTP/2, then an endless one.
    let tls = trickle(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03abcdefgh");
    let http2 = trickle(b"\0\0\0\x04\0\0\0\0\0\0\x40\0\x04\0\0\0\0\0");
    let silent = vec![Scripted::Pause(PATIENT)];
    let at_answer = "timed out after 300 ms before the answer";
    let rows = [
        (http("/"), silent.clone(), at_answer),
        (https("/"), silent.clone(), "timed out after 300 ms in the TLS handshake"),
        (grpc(""), silent, at_answer),
        (http("/"), http1, at_answer),
        (https("/"), tls, "timed out after 300 ms in the TLS handshake"),
        (grpc(""), http2, at_answer),
    ];
    for (kind, script, expected) in rows {
        let backend = scripted(script).await;
        let began = Instant::now();
        assert_eq!(text(ask(backend.address(), kind.clone(), SHORT).await), expected, "{kind:?}");
        assert!(began.elapsed() < PATIENT, "{kind:?}");
    }
}

#[tokio::test]
async fn slow_answers_in_time_are_good() {
    let answer = b"HTTP/1.1 200 OK\r\n\r\n";
    let script: Vec<_> = answer
        .chunks(1)
        .flat_map(|byte| [Scripted::Send(byte.into()), Scripted::Pause(Duration::from_millis(5))])
        .collect();
    let backend = scripted(script).await;
    assert_eq!(ask(backend.address(), http("/"), PATIENT).await, Ok(()));
}

#[tokio::test]
async fn udp() {
    let closed = UdpSocket::bind("127.0.0.1:0").await.and_then(|socket| socket.local_addr()).expect("an address");
    assert_eq!(ask(closed, ProbeKind::Udp, PATIENT).await, Err(Failure::Refused));
    // Silence is good, once the time is over.
    let silent = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let began = Instant::now();
    assert_eq!(ask(silent.local_addr().expect("an address"), ProbeKind::Udp, SHORT).await, Ok(()));
    assert!(began.elapsed() >= SHORT);
    // An answer is good at once.
    let address = silent.local_addr().expect("an address");
    let answering = tokio::spawn(async move {
        loop {
            let (length, peer) = silent.recv_from(&mut [0; 16]).await.expect("a datagram");
            silent.send_to(b"answer", peer).await.expect("sent");
            if length > 0 {
                return;
            }
        }
    });
    assert_eq!(ask(address, ProbeKind::Udp, PATIENT).await, Ok(()));
    answering.abort();
}

#[tokio::test]
async fn ways_that_send_nothing() {
    let backend = scripted([]).await;
    let due = due_on(VIP, backend.address(), ProbeKind::Tcp, PATIENT);
    let prober = Prober::new();
    let unknown = prober.probe(&due, &Way::Unknown).await.expect_err("no probe");
    assert!(unknown.is_local(), "{unknown}");
    let unreachable = prober.probe(&due, &Way::Unreachable("no next hop".into())).await.expect_err("no probe");
    assert_eq!(unreachable.to_string(), "unreachable: no next hop");
    assert!(!unreachable.is_local());
    assert!(backend.received().is_empty());
}

#[tokio::test]
#[ignore = "needs root: opens sockets for ICMP"]
async fn icmp() {
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        assert_eq!(ask(SocketAddr::new(address, 0), ProbeKind::Icmp, PATIENT).await, Ok(()), "{address}");
    }
    // Many at a time do not take one another's answers.
    let probes = async {
        let mut probes = tokio::task::JoinSet::new();
        for last in 1..=50_u8 {
            let address = SocketAddr::from(([127, 0, 1, last], 0));
            probes.spawn_local(ask(address, ProbeKind::Icmp, PATIENT));
        }
        probes.join_all().await
    };
    let results = tokio::task::LocalSet::new().run_until(probes).await;
    assert_eq!(results, vec![Ok(()); 50]);
}

#[tokio::test]
#[ignore = "needs root: marks sockets"]
async fn marked_probes_go_to_the_vip() {
    // The VIP is a loopback address here, and the real server is one where nobody listens.
    let backend = scripted([]).await;
    let vip = backend.address();
    let nobody = SocketAddr::from(([127, 0, 0, 9], vip.port()));
    let due = due_on(vip.ip(), nobody, ProbeKind::Tcp, PATIENT);
    let prober = Prober::new();
    let marked = |source| Way::Marked { mark: 0x5106_0001, source };
    assert_eq!(prober.probe(&due, &marked(None)).await, Ok(()));
    let elsewhere = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let not_ours = prober.probe(&due, &marked(Some(elsewhere))).await.expect_err("this machine does not have it");
    assert!(not_ours.is_local(), "{not_ours}");
    assert_eq!(prober.probe(&due, &Way::Direct).await, Err(Failure::Refused));
    let failing = due_on(nobody.ip(), vip, ProbeKind::Udp, SHORT);
    assert_eq!(prober.probe(&failing, &marked(Some(Ipv4Addr::LOCALHOST.into()))).await, Err(Failure::Refused));
}
