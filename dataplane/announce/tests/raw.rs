//! What really leaves an interface, and what is taken in from one: two namespaces and the wire between them.

use sluicegate_announce::frame::{announcement, claim};
use sluicegate_announce::{
    AnnounceSettings, Announcer, DirectorId, FenceError, FenceSink, Fitness, Moment, OnIsolation, Port, Secret, Timing,
};
use sluicegate_netlab::{Lab, Namespace, WireOptions};
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

/// For what must happen, on a machine of any load.
const SURELY: Duration = Duration::from_secs(20);

const VIP4: &str = "192.0.2.10";
const VIP6: &str = "2001:db8::12:3456";
/// The solicited-node group of [`VIP6`], as the kernel lists it.
const GROUP: &str = "ff0200000000000000000001ff123456";

struct Nowhere;

impl FenceSink for Nowhere {
    fn set_fence(&mut self, _: IpAddr, _: Moment) -> Result<(), FenceError> {
        Ok(())
    }
}

struct Link {
    director: Namespace,
    neighbour: Namespace,
    mac: [u8; 6],
    /// Last, so that it goes after what is in it.
    _lab: Lab,
}

fn link() -> Link {
    let mut lab = Lab::new("sg-announce").expect("root");
    let director = lab.namespace("director").expect("a namespace");
    let neighbour = lab.namespace("neighbour").expect("a namespace");
    lab.connect(&director, "eth0", &neighbour, "eth0", WireOptions::default()).expect("a wire");
    let mac = director.mac("eth0").expect("a MAC address");
    Link { director, neighbour, mac, _lab: lab }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn port(link: &Link) -> Port {
    Port { index: link.director.ifindex("eth0").expect("an interface"), mac: link.mac }
}

fn announcer(link: &Link) -> Announcer {
    let settings = AnnounceSettings {
        me: DirectorId::new("director").expect("a name"),
        peers: BTreeMap::new(),
        joins: None,
        listen: Vec::new(),
        secret: Secret::new(&[7; 32]).expect("a secret"),
        ports: vec![port(link)],
        timing: Timing::default(),
        failback: false,
        on_isolation: OnIsolation::Release,
    };
    let announcer = link.director.run(|| Announcer::start(settings, Nowhere)).expect("an announcer");
    announcer.set_vips([(address(VIP4), true), (address(VIP6), true)].into());
    announcer
}

fn wait(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < SURELY, "waited for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn is_member(link: &Link) -> bool {
    link.director.run(|| fs::read_to_string("/proc/thread-self/net/igmp6").is_ok_and(|groups| groups.contains(GROUP)))
}

#[test]
#[ignore = "needs root: network namespaces and raw sockets"]
fn a_take_over_is_told_and_the_group_joined() {
    let link = link();
    let capture = link.neighbour.capture("eth0").expect("a capture");
    let announcer = announcer(&link);
    announcer.set_fitness(Fitness::FIT);
    for vip in [VIP4, VIP6] {
        let told = capture.wait_for(|frame| claim(&frame.bytes) == Some((address(vip), link.mac)), SURELY);
        assert!(told.is_some(), "{vip} was not announced");
    }
    // An MLDv2 report (RFC 9777, section 5.2) behind a hop-by-hop header, with the group as its first record's address.
    let group: Vec<u8> = (0..16).map(|at| u8::from_str_radix(&GROUP[2 * at..2 * at + 2], 16).expect("hex")).collect();
    let reported = capture.wait_for(
        |frame| frame.bytes.get(62) == Some(&143) && frame.bytes.windows(16).any(|part| part == group),
        SURELY,
    );
    assert!(reported.is_some(), "snooping switches were not told");
    assert!(is_member(&link));
    announcer.set_fitness(Fitness { cordoned: true, ..Fitness::FIT });
    wait("the group to be left", || !is_member(&link));
}

/// The packet sockets of the director's host, by inode.
fn sockets(link: &Link) -> Vec<String> {
    let lines = link.director.run(|| fs::read_to_string("/proc/thread-self/net/packet")).expect("a list");
    lines.lines().skip(1).filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect()
}

#[test]
#[ignore = "needs root: network namespaces and raw sockets"]
fn a_port_that_stays_is_left_alone() {
    let link = link();
    let announcer = announcer(&link);
    announcer.set_fitness(Fitness::FIT);
    wait("the group to be joined", || is_member(&link));
    let before = sockets(&link);
    assert!(!before.is_empty());
    for _ in 0..10 {
        announcer.set_ports(vec![port(&link)]);
    }
    // Obeyed after them.
    announcer.set_fitness(Fitness { cordoned: true, ..Fitness::FIT });
    wait("the group to be left", || !is_member(&link));
    assert_eq!(sockets(&link), before, "sockets were closed and opened");
    announcer.set_ports(Vec::new());
    wait("the sockets to be closed", || sockets(&link).is_empty());
    announcer.set_ports(vec![port(&link)]);
    wait("the sockets to be opened", || sockets(&link).len() == before.len());
}

#[test]
#[ignore = "needs root: network namespaces and raw sockets"]
fn a_stranger_is_reported_and_answered() {
    let link = link();
    let announcer = announcer(&link);
    announcer.set_fitness(Fitness::FIT);
    wait("the VIPs to be owned", || announcer.status().take_overs == 2);
    let capture = link.neighbour.capture("eth0").expect("a capture");
    let stranger = link.neighbour.frame_sender("eth0").expect("a sender");
    let mac = [2, 0, 0, 0, 0, 0x66];
    for vip in [VIP4, VIP6] {
        for frame in announcement(mac, address(vip)) {
            stranger.send(&frame).expect("sent");
        }
    }
    wait("both conflicts to be counted", || announcer.status().conflicts == 2);
    for vip in [VIP4, VIP6] {
        let defended = capture.wait_for(|frame| claim(&frame.bytes) == Some((address(vip), link.mac)), SURELY);
        assert!(defended.is_some(), "{vip} was not defended");
    }
    assert_eq!(announcer.status().losses, 0, "nothing is given up to a stranger");
}

#[test]
#[ignore = "needs root: network namespaces and raw sockets"]
fn a_standby_finds_who_has_its_vip() {
    let link = link();
    link.neighbour.add_address("eth0", &format!("{VIP4}/24")).expect("an address");
    link.neighbour.add_address("eth0", &format!("{VIP6}/64")).expect("an address");
    let capture = link.neighbour.capture("eth0").expect("a capture");
    // Not fit: it stands by, and asks.
    let announcer = announcer(&link);
    wait("both conflicts to be found", || announcer.status().conflicts >= 2);
    assert_eq!(
        capture.count(|frame| claim(&frame.bytes).is_some_and(|(_, mac)| mac == link.mac)),
        0,
        "it claims nothing"
    );
}
