//! The thread: changes are told, the way is asked, stopping is quick. Servers are on loopback.

use sluicegate_config::{HealthCheck, ProbeKind, TransportProtocol};
use sluicegate_health::{Change, Failure, Health, HealthSettings, Target, Way};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Long enough for the slowest machine; nothing waits for it that goes right.
const LONG: Duration = Duration::from_secs(60);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn target(port: u16) -> Target {
    Target { vip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)), protocol: TransportProtocol::Tcp, port, real: LOOPBACK }
}

fn check(interval: Duration, fall: u8) -> Arc<HealthCheck> {
    Arc::new(HealthCheck { kind: ProbeKind::Tcp, port: None, interval, timeout: LONG, rise: 1, fall })
}

fn direct(_: &Target) -> Way {
    Way::Direct
}

fn start(route: impl Fn(&Target) -> Way + Send + 'static) -> (Health, mpsc::Receiver<Change>) {
    let (sender, receiver) = mpsc::channel();
    let tell = move |change| {
        let _ = sender.send(change);
    };
    (Health::start(HealthSettings::default(), route, tell).expect("it starts"), receiver)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_server_that_goes_and_comes_back_is_told() {
    let listener = TcpListener::bind((LOOPBACK, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (health, changes) = start(direct);
    health.set_targets(BTreeMap::from([(target(port), check(Duration::from_millis(20), 2))]));
    until("a good probe", || health.snapshot()[&target(port)].last.is_some());
    assert!(health.is_healthy(&target(port)));
    drop(listener);
    let change = changes.recv_timeout(LONG).expect("a change");
    assert_eq!((change.target, change.verdict.healthy), (target(port), false));
    assert_eq!(change.verdict.reason, Some(Failure::Refused));
    assert!(!health.is_healthy(&target(port)));
    let _listener = TcpListener::bind((LOOPBACK, port)).expect("the port again");
    let change = changes.recv_timeout(LONG).expect("a change");
    assert!(change.verdict.healthy && change.verdict.reason.is_none());
    assert!(health.snapshot()[&target(port)].verdict.healthy);
}

#[test]
fn the_way_is_asked_before_each_probe() {
    let reachable = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&reachable);
    let (health, changes) = start(move |_: &Target| match asked.load(Ordering::Relaxed) {
        0 => Way::Unknown,
        _ => Way::Unreachable("no next hop".into()),
    });
    health.set_targets(BTreeMap::from([(target(9), check(Duration::from_millis(10), 1))]));
    until("a probe that was put off", || health.snapshot()[&target(9)].last.is_some());
    let status = health.snapshot().remove(&target(9)).expect("a target");
    assert!(status.verdict.healthy && matches!(status.last.map(|last| last.result), Some(Err(Failure::Local(_)))));
    reachable.store(1, Ordering::Relaxed);
    let change = changes.recv_timeout(LONG).expect("a change");
    assert_eq!(change.verdict.reason.map(|reason| reason.to_string()).as_deref(), Some("unreachable: no next hop"));
}

#[test]
fn targets_that_left_are_forgotten_and_what_is_no_target_is_healthy() {
    let (health, changes) = start(|_: &Target| Way::Unreachable("no next hop".into()));
    assert!(health.is_healthy(&target(1)));
    health.set_targets(BTreeMap::from([(target(1), check(Duration::from_millis(10), 1))]));
    changes.recv_timeout(LONG).expect("a change");
    assert!(!health.is_healthy(&target(1)));
    health.set_targets(BTreeMap::new());
    assert!(health.is_healthy(&target(1)) && health.snapshot().is_empty());
}

#[test]
fn stopping_cuts_off_what_hangs() {
    // The backlog accepts connections, nobody answers.
    let listener = TcpListener::bind((LOOPBACK, 0)).expect("a port");
    let SocketAddr::V4(address) = listener.local_addr().expect("an address") else { panic!("an IPv4 address") };
    let kind = ProbeKind::Http { path: "/".into(), host: None, tls: false };
    let hanging = HealthCheck { kind, ..(*check(Duration::from_millis(1), 1)).clone() };
    let (health, changes) = start(direct);
    health.set_targets(BTreeMap::from([(target(address.port()), Arc::new(hanging))]));
    // Held, or its end would be an answer.
    let _held = listener.accept().expect("the probe");
    let began = Instant::now();
    drop(health);
    assert!(began.elapsed() < LONG / 6);
    assert_eq!(changes.recv_timeout(LONG).ok(), None, "its end is no verdict");
}
