//! Two thousand targets on one thread, with few probes at a time. It is alone in its process, so that threads and sockets
//! can be counted. Servers are on loopback.

use sluicegate_config::{HealthCheck, ProbeKind, TransportProtocol};
use sluicegate_health::{Health, HealthSettings, Target, Way};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Long enough for the slowest machine; nothing waits for it that goes right.
const LONG: Duration = Duration::from_secs(60);
const CONCURRENCY: usize = 64;

#[test]
fn two_thousand_targets_on_one_thread() {
    // Half of them are served, by addresses of loopback that all reach one listener; half are refused.
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
    let open = listener.local_addr().expect("an address").port();
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|taken| taken.local_addr());
    let closed = closed.expect("an address").port();
    thread::spawn(move || listener.incoming().for_each(drop));
    let target = |number: u16| Target {
        vip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)),
        protocol: TransportProtocol::Tcp,
        port: if number < 1000 { open } else { closed },
        real: IpAddr::V4(Ipv4Addr::from(0x7f01_0000 + u32::from(number))),
    };
    let interval = Duration::from_millis(500);
    let check = HealthCheck { kind: ProbeKind::Tcp, port: None, interval, timeout: LONG, rise: 1, fall: 2 };
    let check = Arc::new(check);

    let (threads_before, sockets_before) = (threads(), sockets());
    let (sender, changes) = mpsc::channel();
    let tell = move |change| {
        let _ = sender.send(change);
    };
    let settings = HealthSettings { concurrency: CONCURRENCY, ..HealthSettings::default() };
    let health = Health::start(settings, |_: &Target| Way::Direct, tell).expect("it starts");
    health.set_targets((0..2000).map(|number| (target(number), Arc::clone(&check))).collect());

    let (mut failed, mut most_sockets) = (0, 0);
    let deadline = Instant::now() + LONG;
    while failed < 1000 || health.snapshot().values().any(|status| status.last.is_none()) {
        assert!(Instant::now() < deadline, "{failed} of 1000 were found to fail");
        failed += changes.try_iter().inspect(|change| assert!(!change.verdict.healthy, "{change:?}")).count();
        most_sockets = most_sockets.max(sockets());
        assert_eq!(threads(), threads_before + 1, "one thread for all targets");
        thread::sleep(Duration::from_millis(5));
    }
    // And one that the listener has just accepted, and a few of the runtime itself.
    assert!(most_sockets <= sockets_before + CONCURRENCY + 8, "{most_sockets} sockets");
    for (target, status) in health.snapshot() {
        assert_eq!(status.verdict.healthy, target.port == open, "{target}: {status:?}");
    }
    let began = Instant::now();
    drop(health);
    assert!(began.elapsed() < LONG / 6, "stopping waits for no probe");
}

/// Threads of this process.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("procfs").count()
}

/// Open sockets of this process.
fn sockets() -> usize {
    let open = std::fs::read_dir("/proc/self/fd").expect("procfs").flatten();
    let links = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}
