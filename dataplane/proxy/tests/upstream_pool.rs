//! Connections to HTTP/1.1 endpoints over real sockets: kept, reused, dropped in time, never used when stale; and
//! endpoints that fail, change and go.

mod upstream_support;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::RootCertStore;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sluicegate_config::backend::UpstreamProtocol;
use sluicegate_proxy::connect::ConnectError;
use sluicegate_proxy::endpoint::{EjectionSettings, Failure};
use sluicegate_proxy::pool::{Lease, UpstreamSettings};
use sluicegate_route::SlottedBackend;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::spawn_local;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use upstream_support::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_connection_carries_one_request_after_the_other() {
    worker(async {
        let server = Server::start().await;
        let (_upstreams, backend) = single(UpstreamSettings::default(), &[server.address], UpstreamProtocol::Http1);
        for request in 0..5 {
            let mut lease = checkout(&backend, &pick(&backend)).await;
            assert_eq!((lease.reused, lease.requests), (request > 0, request));
            assert!(lease.connection.socket().nodelay().expect("the option"));
            exchange(&mut lease).await;
            lease.put_back();
        }
        assert_eq!(server.accepted.get(), 1);
    });
}

#[test]
fn the_connection_used_last_is_used_next() {
    worker(async {
        let server = Server::start().await;
        let (_upstreams, backend) = single(UpstreamSettings::default(), &[server.address], UpstreamProtocol::Http1);
        let endpoint = pick(&backend);
        let (a, b) = (checkout(&backend, &endpoint).await, checkout(&backend, &endpoint).await);
        let last = b.connection.local_addr().expect("its address");
        a.put_back();
        b.put_back();
        let next = checkout(&backend, &endpoint).await;
        assert_eq!(next.connection.local_addr().expect("its address"), last);
    });
}

#[test]
fn a_connection_that_is_not_put_back_is_closed() {
    worker(async {
        let server = Server::start().await;
        let (_upstreams, backend) = single(UpstreamSettings::default(), &[server.address], UpstreamProtocol::Http1);
        drop(checkout(&backend, &pick(&backend)).await);
        eventually("the server sees the end", || server.closed.get() == 1).await;
        assert!(!checkout(&backend, &pick(&backend)).await.reused);
    });
}

#[test]
fn a_connection_that_the_endpoint_closed_or_spoke_on_is_not_reused() {
    for command in [Command::Close, Command::Speak] {
        worker(async {
            let server = Server::start().await;
            let (_upstreams, backend) = single(UpstreamSettings::default(), &[server.address], UpstreamProtocol::Http1);
            let endpoint = pick(&backend);
            let leases = [checkout(&backend, &endpoint).await, checkout(&backend, &endpoint).await];
            for mut lease in leases {
                exchange(&mut lease).await;
                lease.put_back();
            }
            server.command(command).await;
            let mut lease = checkout(&backend, &endpoint).await;
            assert!(!lease.reused);
            exchange(&mut lease).await;
            assert_eq!(server.accepted.get(), 3);
        });
    }
}

#[test]
fn the_sweep_closes_what_the_endpoint_closed() {
    worker(async {
        let server = Server::start().await;
        let (upstreams, backend) = single(UpstreamSettings::default(), &[server.address], UpstreamProtocol::Http1);
        let endpoint = pick(&backend);
        let mut lease = checkout(&backend, &endpoint).await;
        exchange(&mut lease).await;
        lease.put_back();
        upstreams.sweep(Instant::now());
        assert_eq!(endpoint.report(Instant::now()).idle, 1);
        server.command(Command::Close).await;
        upstreams.sweep(Instant::now());
        assert_eq!(endpoint.report(Instant::now()).idle, 0);
    });
}

#[test]
fn idle_connections_are_bounded_in_number_and_time() {
    worker(async {
        let server = Server::start().await;
        let settings = UpstreamSettings { max_idle_per_endpoint: 2, ..UpstreamSettings::default() };
        let (upstreams, backend) = single(settings, &[server.address], UpstreamProtocol::Http1);
        let endpoint = pick(&backend);
        let mut leases = Vec::new();
        for _ in 0..4 {
            leases.push(checkout(&backend, &endpoint).await);
        }
        leases.into_iter().for_each(Lease::put_back);
        let now = Instant::now();
        eventually("two of four are kept", || server.closed.get() == 2).await;

        upstreams.sweep(now + 54 * SECOND);
        assert_eq!(endpoint.report(now).idle, 2);
        upstreams.sweep(now + 55 * SECOND);
        assert_eq!(endpoint.report(now).idle, 0);
        eventually("the others are closed", || server.closed.get() == 4).await;

        // What has been idle for too long is not used either where no sweep came by.
        checkout(&backend, &endpoint).await.put_back();
        let later = backend.checkout(&endpoint, now + 60 * SECOND, LIMIT).await.expect("a connection");
        assert!(!later.reused);
    });
}

#[test]
fn the_sweep_runs_by_itself_and_ends_with_the_worker() {
    worker(async {
        let server = Server::start().await;
        let settings = UpstreamSettings { idle_timeout: Duration::from_millis(50), ..UpstreamSettings::default() };
        let (upstreams, backend) = single(settings, &[server.address], UpstreamProtocol::Http1);
        let task = upstreams.spawn_sweep();
        checkout(&backend, &pick(&backend)).await.put_back();
        eventually("it is closed", || server.closed.get() == 1).await;
        drop(upstreams);
        eventually("the task ends", || task.is_finished()).await;
    });
}

#[test]
fn connections_wear_out() {
    worker(async {
        let server = Server::start().await;
        let settings = UpstreamSettings { max_connection_requests: Some(2), ..UpstreamSettings::default() };
        let (_upstreams, backend) = single(settings, &[server.address], UpstreamProtocol::Http1);
        let endpoint = pick(&backend);
        for reused in [false, true, false] {
            let lease = checkout(&backend, &endpoint).await;
            assert_eq!(lease.reused, reused);
            lease.put_back();
        }
    });
}

#[test]
fn connections_grow_old() {
    worker(async {
        let server = Server::start().await;
        let settings = UpstreamSettings { max_connection_age: Some(20 * SECOND), ..UpstreamSettings::default() };
        let (_upstreams, backend) = single(settings, &[server.address], UpstreamProtocol::Http1);
        let endpoint = pick(&backend);
        let lease = checkout(&backend, &endpoint).await;
        let opened = lease.opened;
        lease.put_back();
        for (age, reused) in [(19, true), (20, false)] {
            let lease = backend.checkout(&endpoint, opened + age * SECOND, LIMIT).await.expect("a connection");
            assert_eq!(lease.reused, reused);
            lease.put_back();
        }
    });
}

#[test]
fn a_new_connection_can_be_asked_for() {
    worker(async {
        let server = Server::start().await;
        let (_upstreams, backend) = single(UpstreamSettings::default(), &[server.address], UpstreamProtocol::Http1);
        let endpoint = pick(&backend);
        checkout(&backend, &endpoint).await.put_back();
        assert!(!backend.checkout_new(&endpoint, LIMIT).await.expect("a connection").reused);
        assert_eq!(server.accepted.get(), 2);
    });
}

#[test]
fn requests_in_flight_are_counted_however_they_end() {
    worker(async {
        let server = Server::start().await;
        let addresses = [server.address, dead_address().await];
        let (_upstreams, backend) = single(UpstreamSettings::default(), &addresses, UpstreamProtocol::Http1);
        let (mut live, mut dead) = (pick(&backend), pick(&backend));
        if live.address() != server.address {
            std::mem::swap(&mut live, &mut dead);
        }
        let (a, b) = (checkout(&backend, &live).await, checkout(&backend, &live).await);
        assert_eq!(live.in_flight(), 2);
        a.put_back();
        assert_eq!(live.in_flight(), 1);
        let (transport, guard) = b.into_parts();
        drop(transport);
        assert_eq!(live.in_flight(), 1, "an upgraded connection counts on");
        drop(guard);
        assert_eq!(live.in_flight(), 0);
        assert!(backend.checkout(&dead, Instant::now(), LIMIT).await.is_err());
        assert_eq!(dead.in_flight(), 0);
    });
}

#[test]
fn a_removed_endpoint_finishes_what_it_has_and_gets_nothing_new() {
    worker(async {
        let (gone, stays) = (Server::start().await, Server::start().await);
        let upstreams = upstreams(UpstreamSettings::default());
        let addresses = [gone.address, stays.address];
        let both = upstreams.backend(&slotted(1, backend(&addresses, UpstreamProtocol::Http1)));
        let endpoint = std::iter::repeat_with(|| pick(&both)).find(|endpoint| endpoint.address() == gone.address);
        let endpoint = endpoint.expect("its turn comes");
        let idle = checkout(&both, &endpoint).await;
        let mut busy = checkout(&both, &endpoint).await;
        idle.put_back();

        let one = upstreams.backend(&slotted(2, backend(&[stays.address], UpstreamProtocol::Http1)));
        eventually("the idle connection is closed at once", || gone.closed.get() == 1).await;
        assert!(endpoint.is_removed());
        assert!((0..10).all(|_| pick(&one).address() == stays.address));
        exchange(&mut busy).await;
        busy.put_back();
        eventually("the busy one is closed when it is done", || gone.closed.get() == 2).await;
        assert!(!checkout(&both, &endpoint).await.reused);
    });
}

#[test]
fn endpoints_that_stay_keep_their_connections_and_their_state() {
    worker(async {
        let (first, second) = (Server::start().await, Server::start().await);
        let upstreams = upstreams(UpstreamSettings::default());
        let before = upstreams.backend(&slotted(1, backend(&[first.address], UpstreamProtocol::Http1)));
        let endpoint = pick(&before);
        checkout(&before, &endpoint).await.put_back();

        let addresses = [first.address, second.address];
        let after = upstreams.backend(&slotted(2, backend(&addresses, UpstreamProtocol::Http1)));
        assert!(Rc::ptr_eq(&before, &after));
        assert_eq!(after.endpoint_count(), 2);
        let again = std::iter::repeat_with(|| pick(&after)).take(4).find(|other| Rc::ptr_eq(other, &endpoint));
        assert!(checkout(&after, &again.expect("the same endpoint")).await.reused);
    });
}

#[test]
fn what_is_not_the_same_is_made_anew() {
    type Changed = fn(SlottedBackend) -> SlottedBackend;
    let table: [(&str, Changed); 3] = [
        ("another pod at the same address", |mut slotted| {
            let backend = Arc::make_mut(&mut slotted.backend);
            backend.endpoints[0].pod = Some("web-2".into());
            slotted
        }),
        ("another protocol", |mut slotted| {
            Arc::make_mut(&mut slotted.backend).protocol = UpstreamProtocol::Https;
            slotted
        }),
        ("another incarnation of the slot", |slotted| SlottedBackend { incarnation: 2, ..slotted }),
    ];
    for (what, change) in table {
        worker(async {
            let server = Server::start().await;
            let upstreams = upstreams(UpstreamSettings::default());
            let before = upstreams.backend(&slotted(1, backend(&[server.address], UpstreamProtocol::Http1)));
            let endpoint = pick(&before);
            checkout(&before, &endpoint).await.put_back();
            let changed = change(slotted(2, backend(&[server.address], UpstreamProtocol::Http1)));
            let after = upstreams.backend(&changed);
            assert!(!Rc::ptr_eq(&pick(&after), &endpoint), "{what}");
            eventually(what, || server.closed.get() == 1).await;
        });
    }
}

#[test]
fn sync_closes_what_the_table_no_longer_has() {
    worker(async {
        let server = Server::start().await;
        let upstreams = upstreams(UpstreamSettings::default());
        let present = slotted(1, backend(&[server.address], UpstreamProtocol::Http1));
        let endpoint = pick(&upstreams.backend(&present));
        checkout(&upstreams.backend(&present), &endpoint).await.put_back();
        upstreams.sync(|slot| (slot == present.slot).then_some(&present));
        assert_eq!(upstreams.report(Instant::now()).len(), 1);
        assert_eq!(endpoint.report(Instant::now()).idle, 1);
        upstreams.sync(|_| None);
        eventually("it is closed", || server.closed.get() == 1).await;
        assert!(upstreams.report(Instant::now()).is_empty());
    });
}

#[test]
fn a_backend_without_endpoints_has_nothing_to_pick() {
    worker(async {
        let (_upstreams, backend) = single(UpstreamSettings::default(), &[], UpstreamProtocol::Http1);
        backend.ready(Instant::now()).await.expect("there is nothing to resolve");
        assert!(pick_at(&backend, Instant::now()).is_none());
    });
}

#[test]
fn refusing_one_connection_ejects() {
    worker(async {
        let server = Server::start().await;
        let addresses = [server.address, dead_address().await];
        let (_upstreams, backend) = single(UpstreamSettings::default(), &addresses, UpstreamProtocol::Http1);
        let start = Instant::now();
        let dead = std::iter::repeat_with(|| pick(&backend)).find(|endpoint| endpoint.address() == addresses[1]);
        let dead = dead.expect("its turn comes");
        let error = backend.checkout(&dead, start, LIMIT).await.expect_err("nobody listens");
        assert_eq!((error.reason(), error.is_retryable()), ("refused", true));
        let now = Instant::now();
        assert!((0..10).all(|_| pick_at(&backend, now).expect("one is left").address() == server.address));
        let later = now + SECOND;
        assert!((0..10).any(|_| pick_at(&backend, later).expect("both").address() == addresses[1]));
        let report = dead.report(now);
        assert_eq!((report.failures, report.requests, report.connections), (1, 1, 0));
    });
}

#[test]
fn a_handshake_that_does_not_come_about_times_out() {
    worker(async {
        // Accepts by its backlog and says nothing.
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("its address");
        let (_upstreams, backend) = single(UpstreamSettings::default(), &[address], UpstreamProtocol::Https);
        let begun = Instant::now();
        let limit = Duration::from_millis(100);
        let error = backend.checkout(&pick(&backend), begun, limit).await.expect_err("no handshake");
        assert_eq!(error, ConnectError::Timeout);
        assert!(begun.elapsed() < SECOND);
    });
}

/// Endpoints that need not exist, for what is decided without connecting.
fn nowhere(count: u8) -> Vec<SocketAddr> {
    (1..=count).map(|host| SocketAddr::from(([192, 0, 2, host], 80))).collect()
}

#[test]
fn ejection_takes_failures_in_a_row_and_grows_until_a_success() {
    worker(async {
        let (_upstreams, backend) = single(UpstreamSettings::default(), &nowhere(2), UpstreamProtocol::Http1);
        let endpoint = pick(&backend);
        let mut now = Instant::now();
        for _ in 0..4 {
            endpoint.failed(Failure::Reset, now);
        }
        endpoint.succeeded(Duration::ZERO, now);
        for _ in 0..4 {
            endpoint.failed(Failure::Timeout, now);
        }
        assert!(!endpoint.is_ejected(now), "a success lies in between");
        for length in [1, 2, 4, 8, 16, 30, 30] {
            endpoint.failed(Failure::Reset, now);
            // What fails while it is out changes nothing.
            endpoint.failed(Failure::Refused, now);
            let end = now + length * SECOND;
            assert!(endpoint.is_ejected(end - Duration::from_millis(1)), "{length} s");
            assert!(!endpoint.is_ejected(end), "{length} s");
            now = end;
        }
        endpoint.failed(Failure::Reset, now);
        assert!(endpoint.is_ejected(now));
        endpoint.succeeded(Duration::ZERO, now);
        assert!(!endpoint.is_ejected(now), "an answer lets it in again");
        endpoint.failed(Failure::Unreachable, now);
        assert!(!endpoint.is_ejected(now + SECOND), "and the length begins anew");
    });
}

#[test]
fn never_more_than_half_are_ejected() {
    for (endpoints, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (9, 4)] {
        worker(async {
            let (_upstreams, backend) =
                single(UpstreamSettings::default(), &nowhere(endpoints), UpstreamProtocol::Http1);
            let now = Instant::now();
            let all: Vec<_> = (0..endpoints).map(|_| pick(&backend)).collect();
            let distinct: BTreeSet<_> = all.iter().map(|endpoint| endpoint.address()).collect();
            assert_eq!(distinct.len(), usize::from(endpoints));
            all.iter().for_each(|endpoint| endpoint.failed(Failure::Refused, now));
            let out = || all.iter().filter(|endpoint| endpoint.is_ejected(now)).count();
            assert_eq!(out(), most, "of {endpoints}");
            if let Some(first) = all.iter().find(|endpoint| endpoint.is_ejected(now)) {
                // Its place is free again for another.
                first.succeeded(Duration::ZERO, now);
                let other = all.iter().rfind(|endpoint| !endpoint.is_ejected(now)).expect("one is in");
                other.failed(Failure::Refused, now);
                assert_eq!(out(), most, "of {endpoints}");
            }
        });
    }
}

#[test]
fn ejection_is_set_as_told() {
    worker(async {
        let ejection =
            EjectionSettings { consecutive_failures: 2, base: 3 * SECOND, max: 4 * SECOND, max_percent: 100 };
        let settings = UpstreamSettings { ejection, ..UpstreamSettings::default() };
        let (_upstreams, backend) = single(settings, &nowhere(3), UpstreamProtocol::Http1);
        let now = Instant::now();
        let all: Vec<_> = (0..3).map(|_| pick(&backend)).collect();
        all.iter().for_each(|endpoint| endpoint.failed(Failure::Protocol, now));
        assert!(all.iter().all(|endpoint| !endpoint.is_ejected(now)));
        all.iter().for_each(|endpoint| endpoint.failed(Failure::Protocol, now));
        assert_eq!(all.iter().filter(|endpoint| endpoint.is_ejected(now)).count(), 2, "one always remains");
        let again = now + 3 * SECOND;
        all[0].failed(Failure::Protocol, again);
        assert!(all[0].is_ejected(again + 3 * SECOND) && !all[0].is_ejected(again + 4 * SECOND));
    });
}

/// What a client asked for in its hello, and got.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    server_name: Option<String>,
    protocol: Option<Vec<u8>>,
}

impl Asked {
    fn of(server_name: &str, protocol: &str) -> Self {
        Self { server_name: Some(server_name.to_owned()), protocol: Some(protocol.as_bytes().to_vec()) }
    }
}

/// A TLS backend that answers bytes.
struct TlsServer {
    address: SocketAddr,
    asked: Rc<RefCell<Vec<Asked>>>,
    certificate: rustls::pki_types::CertificateDer<'static>,
}

impl TlsServer {
    async fn start(name: &str) -> Self {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .expect("a key that fits");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("its address");
        let asked = Rc::new(RefCell::new(Vec::new()));
        let log = Rc::clone(&asked);
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let session = stream.get_ref().1;
                log.borrow_mut().push(Asked {
                    server_name: session.server_name().map(str::to_owned),
                    protocol: session.alpn_protocol().map(<[u8]>::to_vec),
                });
                spawn_local(async move {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).await.is_ok() {
                        if stream.write_all(&byte).await.is_err() || stream.flush().await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { address, asked, certificate: cert.der().clone() }
    }
}

#[test]
fn tls_names_the_service_and_its_connections_are_reused() {
    worker(async {
        let server = TlsServer::start("anything.test").await;
        let (upstreams, backend) = single(UpstreamSettings::default(), &[server.address], UpstreamProtocol::Https);
        for request in 0..3 {
            let mut lease = checkout(&backend, &pick(&backend)).await;
            assert_eq!(lease.reused, request > 0, "session tickets do not make it stale");
            assert!(lease.connection.is_tls());
            if request > 0 {
                exchange(&mut lease).await;
            }
            lease.put_back();
            sleep(Duration::from_millis(20)).await;
            upstreams.sweep(Instant::now());
        }
        assert_eq!(*server.asked.borrow(), [Asked::of("web.default.svc", "http/1.1")]);
    });
}

#[test]
fn http2_over_tls_is_agreed_by_alpn() {
    worker(async {
        let server = TlsServer::start("anything.test").await;
        let (_upstreams, backend) = single(UpstreamSettings::default(), &[server.address], UpstreamProtocol::H2);
        backend.http2(&pick(&backend), Instant::now(), LIMIT).await.expect("a connection");
        eventually("the server has it too", || !server.asked.borrow().is_empty()).await;
        assert_eq!(*server.asked.borrow(), [Asked::of("web.default.svc", "h2")]);
    });
}

#[test]
fn with_roots_the_certificate_must_be_theirs_and_for_the_service() {
    worker(async {
        let good = TlsServer::start("web.default.svc").await;
        let wrong_name = TlsServer::start("other.default.svc").await;
        let stranger = TlsServer::start("web.default.svc").await;
        let mut roots = RootCertStore::empty();
        roots.add(good.certificate.clone()).expect("a root");
        roots.add(wrong_name.certificate.clone()).expect("a root");
        let settings = UpstreamSettings { trusted_roots: Some(Arc::new(roots)), ..UpstreamSettings::default() };
        for (server, is_fine) in [(&good, true), (&wrong_name, false), (&stranger, false)] {
            let (_upstreams, backend) = single(settings.clone(), &[server.address], UpstreamProtocol::Https);
            match backend.checkout(&pick(&backend), Instant::now(), LIMIT).await {
                Ok(mut lease) => exchange(&mut lease).await,
                Err(error) => assert!(!is_fine && matches!(error, ConnectError::Tls(_)), "{error}"),
            }
        }
    });
}

#[test]
fn a_backend_that_speaks_no_tls_is_told_apart() {
    worker(async {
        let server = Server::start().await;
        let (_upstreams, backend) = single(UpstreamSettings::default(), &[server.address], UpstreamProtocol::Https);
        let result = backend.checkout(&pick(&backend), Instant::now(), Duration::from_millis(500)).await;
        let error = result.expect_err("an echo of the ClientHello is no ServerHello");
        assert_eq!(error.reason(), "tls");
    });
}
