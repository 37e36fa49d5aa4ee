//! What becomes of established flows while everything around them changes: a director that is killed, replaced by another
//! version or not at all, real servers that come, go, drain and fail, manifests that never rest. With the program itself,
//! in a laboratory of namespaces.

mod l4_flows_support;

use l4_flows_support::traffic::{Protocol, Traffic};
use l4_flows_support::{Manifests, Member, PATIENCE, READY, Site, UDP_PORT, vips};
use sluicegate_netlab::Frame;
use sluicegate_netlab::traffic::TcpEcho;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Held connections and sockets of a test, for each VIP.
const CONNECTIONS: usize = 150;
const SOCKETS: usize = 10;

/// A director with three real servers, and flows from when the third was not there yet: who selects them anew moves some.
fn with_history() -> (Site, Traffic) {
    let site = Site::new(&Manifests::with([0, 1]));
    let traffic = Traffic::start(site.client(), &vips(), CONNECTIONS, SOCKETS);
    site.change(&Manifests::with([0, 1, 2]));
    all_three_are_reached(&site);
    traffic.assert_all_whole("a real server was added");
    traffic.reset();
    (site, traffic)
}

fn all_three_are_reached(site: &Site) {
    all_are_reached(site, &["backend0", "backend1", "backend2"]);
}

fn all_are_reached(site: &Site, names: &[&str]) {
    for vip in vips() {
        site.wait_until_reached(vip, names);
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_killed_director_is_followed_by_one_that_adopts_what_flows() {
    let (mut site, traffic) = with_history();
    site.director.kill().expect("killed");
    std::thread::sleep(Duration::from_millis(1500));
    traffic.assert_all_whole("killed, and nobody there");
    traffic.reset();
    site.come_back(&[]);
    all_three_are_reached(&site);
    traffic.assert_all_whole("started again");
}

/// The kernel forgets neighbours that it sends nothing to by itself. Who starts then must not take real servers for dead.
#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_director_that_knows_no_neighbour_adopts_what_flows() {
    let (mut site, traffic) = with_history();
    site.director.kill().expect("killed");
    site.forget_neighbours();
    site.come_back(&[]);
    all_three_are_reached(&site);
    traffic.assert_all_whole("started without neighbours");
}

/// A director that begins takes real servers for healthy, but not those that the one before found dead.
#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_dead_real_server_stays_dead_when_the_director_starts_again() {
    let manifests = Manifests::with([0, 1])
        .annotated("health-interval", "3s")
        .annotated("health-timeout", "1s")
        .annotated("health-fall", "1")
        .annotated("health-rise", "1");
    let mut site = Site::new(&manifests);
    all_are_reached(&site, &["backend0", "backend1"]);
    for vip in vips() {
        site.lab.backends[1].namespace.drop_vip(vip).expect("dropped");
    }
    let found_dead = |site: &Site| site.shown().to_string().matches("\"healthy\":false").count() == 2;
    site.wait("found dead", || found_dead(&site));
    site.director.kill().expect("killed");
    let client: BTreeSet<IpAddr> = vips().map(|vip| site.lab.clients[0].address_like(vip)).into();
    let asks = move |frame: &Frame| !frame.outgoing && frame.ip_source().is_some_and(|from| client.contains(&from));
    let capture = site.lab.backends[1].namespace.capture_if("eth0", asks).expect("a capture");
    site.come_back(&[]);
    for vip in vips() {
        assert!(!site.reached(vip, 16).contains("backend1"));
    }
    assert_eq!(capture.stop().len(), 0, "new connections are led to a dead real server");
    for vip in vips() {
        site.lab.backends[1].namespace.hold_vip(vip).expect("held");
    }
    all_are_reached(&site, &["backend0", "backend1"]);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn versions_replace_each_other_under_traffic() {
    let (mut site, traffic) = with_history();
    // Up, and back again.
    for flags in [&["--tables-version", "1000"][..], &[]] {
        traffic.reset();
        site.director.signal(rustix::process::Signal::TERM).expect("told");
        site.director.wait(PATIENCE).expect("it ends");
        site.come_back(flags);
        all_three_are_reached(&site);
        let what = if flags.is_empty() { "back to the version before" } else { "another version" };
        traffic.assert_all_whole(what);
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_real_server_that_terminates_keeps_its_flows_until_it_is_gone() {
    let site = Site::new(&Manifests::with([0, 1, 2]));
    let traffic = Traffic::start(site.client(), &vips(), CONNECTIONS, SOCKETS);
    let mut manifests = Manifests::with([0, 1, 2]);
    manifests.members.insert(1, Member { terminating: true, ..READY });
    site.change(&manifests);
    for vip in vips() {
        site.wait_until_reached(vip, &["backend0", "backend2"]);
    }
    traffic.assert_all_whole("a real server terminates");
    let on_it = traffic.flows().filter(|flow| flow.server() == "backend1").count();
    assert!(on_it > CONNECTIONS / 4, "it had {on_it} flows");

    site.change(&Manifests::with([0, 2]));
    site.wait("its connections are selected anew", || {
        let mut its = traffic.flows().filter(|flow| flow.server() == "backend1");
        its.all(|flow| flow.trouble().is_some())
    });
    traffic.assert_whole("it is gone", |flow| flow.server() != "backend1");
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn changes_without_end_leave_stable_real_servers_their_flows() {
    let site = Site::new(&Manifests::with([0, 1, 2]));
    let traffic = Traffic::start(site.client(), &vips(), CONNECTIONS, SOCKETS);
    let begun = Instant::now();
    for round in 0..200_u32 {
        let mut manifests = Manifests::with([0, 1]);
        // Two real servers stay with changing weights; the other two come and go.
        for (number, weight) in [(0, round % 5 + 1), (1, round / 3 % 4 + 1)] {
            manifests.members.insert(number, Member { weight: weight as u16, ..READY });
        }
        for number in [2, 3].into_iter().filter(|number| round >> (number - 2) & 1 == 0) {
            manifests.members.insert(number, READY);
        }
        site.change(&manifests);
        let due = begun + Duration::from_millis(50) * (round + 1);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    println!("200 changes in {:.1} s", begun.elapsed().as_secs_f64());
    site.change(&Manifests::with([0, 1, 3]));
    for vip in vips() {
        site.wait_until_reached(vip, &["backend0", "backend1", "backend3"]);
    }
    traffic.assert_whole("200 changes", |flow| ["backend0", "backend1"].contains(&flow.server().as_str()));
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_vip_that_is_bound_no_more_drains_and_is_released() {
    let drain = Duration::from_secs(8);
    let mut manifests = Manifests::with([0, 1]);
    let site = Site::with_flags(&manifests, &["--drain", "8s"]);
    let [gone, stays] = vips();
    let traffic = Traffic::start(site.client(), &vips(), CONNECTIONS / 2, SOCKETS);
    let claims = move |frame: &Frame| !frame.outgoing && frame.claims(gone);
    let capture = site.lab.lan.capture_if(&site.lab.directors[0].namespace, claims).expect("a capture");

    manifests.vips = vec![stays];
    site.change(&manifests);
    let begun = Instant::now();
    site.wait("no new connections", || site.connect(gone, Duration::from_millis(500)).is_err());
    traffic.assert_all_whole("a VIP is unbound");
    assert!(begun.elapsed() < drain, "too slow a machine to see it drain: {:?}", begun.elapsed());
    site.lab.router.forget_neighbours("lan").expect("forgotten");
    traffic.assert_all_whole("a VIP drains and is still announced");

    site.wait("released", || site.log().contains("the VIP is released"));
    assert!(begun.elapsed() >= drain);
    println!("released {:.1} s after it was unbound", begun.elapsed().as_secs_f64());
    // The tables follow the word within milliseconds, on a loaded machine somewhat later.
    std::thread::sleep(Duration::from_secs(1));
    let released = SystemTime::now();
    site.lab.router.forget_neighbours("lan").expect("forgotten");
    assert!(site.connect(gone, Duration::from_secs(2)).is_err(), "nobody forwards it any more");
    let late = capture.stop().into_iter().filter_map(|frame| frame.at.duration_since(released).ok());
    assert_eq!(late.collect::<Vec<_>>(), [], "answers for a VIP that was released");
    traffic.assert_whole("a VIP was released", |flow| flow.vip == stays);
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_real_server_that_fails_loses_its_flows_and_comes_back() {
    let manifests = Manifests::with([0, 1, 2])
        .annotated("health-check", "tcp")
        .annotated("health-port", "7070")
        .annotated("health-interval", "1s")
        .annotated("health-timeout", "1s");
    let listen = |site: &Site, number: usize| -> Vec<TcpEcho> {
        let host = &site.lab.backends[number].namespace;
        vips().map(|vip| TcpEcho::start(host, "probed", (vip, 7070).into()).expect("a listener")).into()
    };
    let site = Site::new(&manifests);
    let mut listeners: Vec<Vec<TcpEcho>> = (0..3).map(|number| listen(&site, number)).collect();
    all_three_are_reached(&site);
    let traffic = Traffic::start(site.client(), &vips(), CONNECTIONS, 0);

    let begun = Instant::now();
    listeners[1].clear();
    site.wait_until_reached(vips()[0], &["backend0", "backend2"]);
    println!("a listener stopped: taken out after at most {} ms", begun.elapsed().as_millis());
    traffic.assert_whole("a listener stopped", |flow| flow.server() != "backend1");
    site.wait("its connections are selected anew", || {
        let mut its = traffic.flows().filter(|flow| flow.server() == "backend1");
        its.all(|flow| flow.trouble().is_some())
    });
    let begun = Instant::now();
    listeners[1] = listen(&site, 1);
    all_three_are_reached(&site);
    println!("a listener came back: taken in after at most {} ms", begun.elapsed().as_millis());
    traffic.assert_whole("a listener came back", |flow| flow.server() != "backend1");

    let begun = Instant::now();
    for vip in vips() {
        site.lab.backends[2].namespace.drop_vip(vip).expect("dropped");
    }
    for vip in vips() {
        // It takes no packet any more: a connection that is led there fails, and is not counted.
        site.wait("nobody is led to it", || {
            (0..24).all(|_| site.connect(vip, Duration::from_millis(500)).is_ok_and(|held| held.server() != "backend2"))
        });
    }
    println!("a VIP was lost: taken out after at most {} ms", begun.elapsed().as_millis());
    traffic.assert_whole("a VIP was lost", |flow| flow.server() == "backend0");
    for vip in vips() {
        site.lab.backends[2].namespace.hold_vip(vip).expect("held");
    }
    all_three_are_reached(&site);

    // All fail: used all the same, unless that is refused.
    listeners.clear();
    site.wait("all probes fail", || site.shown().to_string().matches("connection refused").count() == 12);
    all_three_are_reached(&site);
    let refusing = manifests.clone().annotated("when-all-fail", "refuse");
    site.change(&refusing);
    for vip in vips() {
        site.wait("refused", || site.connect(vip, Duration::from_millis(300)).is_err());
    }
    let _listeners: Vec<Vec<TcpEcho>> = (0..3).map(|number| listen(&site, number)).collect();
    all_three_are_reached(&site);
}

/// A director that nobody starts again falls silent, and flows go on once somebody does.
#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn the_dead_man_falls_silent_and_what_he_left_is_taken_up_or_away() {
    let (mut site, traffic) = with_history();
    let vip = vips()[0];
    site.director.kill().expect("killed");
    let killed = Instant::now();
    traffic.assert_all_whole("killed");
    site.wait("packets pass", || site.connect(vip, Duration::from_millis(300)).is_err());
    println!("silent {:.1} s after the kill", killed.elapsed().as_secs_f64());
    assert!(killed.elapsed() > Duration::from_secs(5), "the fence alone does not stop what flows");
    let claims = move |frame: &Frame| !frame.outgoing && vips().into_iter().any(|vip| frame.claims(vip));
    let capture = site.lab.lan.capture_if(&site.lab.directors[0].namespace, claims).expect("a capture");
    site.lab.router.forget_neighbours("lan").expect("forgotten");
    assert!(site.connect(vip, Duration::from_secs(1)).is_err());
    assert_eq!(capture.stop().len(), 0, "answers for a VIP of a dead director");

    site.come_back(&[]);
    for vip in vips() {
        site.wait_until_served(vip);
    }
    traffic.assert_whole("taken up", |flow| flow.protocol == Protocol::Tcp);

    site.director.kill().expect("killed");
    assert!(site.ask(&["detach"]).contains("removed the director's programs and tables"));
    assert_eq!(site.ask(&["detach"]), "nothing to remove\n");
    assert!(site.connect(vip, Duration::from_secs(1)).is_err(), "nobody forwards any more");
}

/// From the rename of a manifest to the first packet that goes where it says.
#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_change_is_live_in_milliseconds() {
    let only = |number| Manifests::with([number]).annotated("health-check", "off").annotated("one-packet", "true");
    let site = Site::new(&only(0));
    let vip = vips()[0];
    let over = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&over);
    let asking = site.client().spawn(move || {
        let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).expect("a socket");
        socket.connect((vip, UDP_PORT)).expect("connected");
        while !ended.load(Ordering::Relaxed) {
            let _told = socket.send(b"ask");
            std::thread::sleep(Duration::from_micros(200));
        }
    });
    let mut took = Vec::new();
    for change in 1..=50_usize {
        let number = change % 2;
        let asks = move |frame: &Frame| {
            !frame.outgoing
                && frame.ip_destination() == Some(vip)
                && frame.ports().is_some_and(|(_, to)| to == UDP_PORT)
        };
        let capture = site.lab.backends[number].namespace.capture_if("eth0", asks).expect("a capture");
        let begun = SystemTime::now();
        site.change(&only(number));
        let first = capture.wait_for(|frame| frame.at > begun, PATIENCE).expect("the change is live");
        took.push(first.at.duration_since(begun).unwrap_or_default());
        drop(capture);
        std::thread::sleep(Duration::from_millis(20));
    }
    over.store(true, Ordering::Relaxed);
    asking.join().expect("no panic");
    took.sort_unstable();
    let [p50, p99, most] = [took[took.len() / 2], took[took.len() * 99 / 100], took[took.len() - 1]];
    println!("live after p50 {p50:.1?}, p99 {p99:.1?}, at most {most:.1?} ({} changes)", took.len());
    assert!(p50 < Duration::from_millis(500), "{took:?}");
}
