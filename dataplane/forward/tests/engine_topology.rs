//! How a frame reaches an address, and to which ports the program is attached: tables in, answers out. Bonds and VLAN
//! devices are here alone, because the kernels of the test machines cannot create them.

use proptest::prelude::*;
use sluicegate_forward::ports::{NoPort, resolve};
use sluicegate_forward::topology::{
    Hop, Link, LinkKind, Neighbour, NextHop, NoNextHop, Prefix, Route, RouteAction, Topology, VlanTag, Way,
};
use std::collections::BTreeSet;
use std::net::IpAddr;

const TAG: VlanTag = VlanTag { protocol: 0x8100, id: 100 };

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').expect("a prefix");
    Prefix::new(ip(address), length.parse().expect("a length"))
}

fn link(index: u32, name: &str, kind: LinkKind) -> Link {
    let mac = [2, 0, 0, 0, 0, index as u8];
    Link { index, name: name.to_owned(), mac, mtu: 1500, up: true, carrier: true, kind, ..Link::default() }
}

fn route(destination: &str, hops: &[(u32, Option<&str>)]) -> Route {
    let hops = hops.iter().map(|(interface, gateway)| Hop { interface: *interface, gateway: gateway.map(ip) });
    Route {
        destination: prefix(destination),
        metric: 0,
        source: None,
        action: RouteAction::Send(hops.collect()),
        mtu: None,
    }
}

/// eth0 with a subnet, a default route and a neighbour in each family.
fn plain() -> Topology {
    let mut topology = Topology::default();
    topology.set_link(Link { kind: LinkKind::Loopback, ..link(1, "lo", LinkKind::Loopback) });
    topology.set_link(link(2, "eth0", LinkKind::Port));
    topology.set_address(2, ip("192.0.2.11"), 24);
    topology.set_address(2, ip("2001:db8:1::11"), 64);
    topology.set_address(2, ip("fe80::11"), 64);
    topology.set_routes([
        route("192.0.2.0/24", &[(2, None)]),
        route("0.0.0.0/0", &[(2, Some("192.0.2.1"))]),
        route("2001:db8:1::/64", &[(2, None)]),
        route("::/0", &[(2, Some("fe80::1"))]),
    ]);
    topology.set_neighbour(2, ip("192.0.2.1"), Neighbour::Known([1; 6]));
    topology.set_neighbour(2, ip("192.0.2.21"), Neighbour::Known([21; 6]));
    topology.set_neighbour(2, ip("fe80::1"), Neighbour::Known([6; 6]));
    topology
}

fn out(topology: &Topology, to: &str) -> NextHop {
    match topology.delivery(ip(to)) {
        Ok(Way::Out(next)) => next,
        other => panic!("{to}: {other:?}"),
    }
}

#[test]
fn on_link_by_router_and_local() {
    let topology = plain();
    let near = out(&topology, "192.0.2.21");
    assert_eq!(
        near,
        NextHop {
            egress: Some(2),
            logical: 2,
            tags: Vec::new(),
            source_mac: [2, 0, 0, 0, 0, 2],
            destination_mac: [21; 6],
            mtu: 1500,
            source: Some(ip("192.0.2.11")),
            gateway: None,
        }
    );
    let far = out(&topology, "203.0.113.9");
    assert_eq!((far.destination_mac, far.gateway), ([1; 6], Some(ip("192.0.2.1"))));
    assert_eq!(
        out(&topology, "2001:db8:9::1").source,
        Some(ip("2001:db8:1::11")),
        "link-local is no source of a tunnel"
    );
    assert_eq!(topology.delivery(ip("192.0.2.11")), Ok(Way::Local));
    assert_eq!(topology.delivery(ip("127.0.0.1")), Ok(Way::Local));
    assert!(topology.is_gateway(ip("192.0.2.1")) && !topology.is_gateway(ip("192.0.2.21")));
    assert_eq!(topology.on_link(ip("192.0.2.100")), Some(2));
    assert_eq!(topology.on_link(ip("203.0.113.9")), None);
}

#[test]
fn every_reason_why_there_is_no_way() {
    let interface = || "eth0".to_owned();
    type Change = fn(&mut Topology);
    let cases: [(&str, Change, NoNextHop); 7] = [
        ("203.0.113.9", |t| t.set_routes([]), NoNextHop::NoRoute(ip("203.0.113.9"))),
        (
            "203.0.113.9",
            |t| t.set_routes([Route { action: RouteAction::Refuse, ..route("203.0.113.0/24", &[]) }]),
            NoNextHop::Refused(ip("203.0.113.9")),
        ),
        ("192.0.2.21", |t| t.remove_link(2), NoNextHop::LinkGone(2)),
        (
            "192.0.2.21",
            |t| t.set_link(Link { carrier: false, ..link(2, "eth0", LinkKind::Port) }),
            NoNextHop::LinkDown("eth0".to_owned()),
        ),
        ("192.0.2.21", |t| t.set_link(link(2, "tun0", LinkKind::Other)), NoNextHop::UnsupportedLink("tun0".to_owned())),
        (
            "192.0.2.22",
            |_| {},
            NoNextHop::NeighbourUnknown { address: ip("192.0.2.22"), interface: interface(), index: 2 },
        ),
        (
            "203.0.113.9",
            |t| t.set_neighbour(2, ip("192.0.2.1"), Neighbour::Failed),
            NoNextHop::NeighbourSilent { address: ip("192.0.2.1"), interface: interface(), index: 2 },
        ),
    ];
    for (to, change, reason) in cases {
        let mut topology = plain();
        change(&mut topology);
        assert_eq!(topology.delivery(ip(to)), Err(reason.clone()));
        let asks = matches!(reason, NoNextHop::NeighbourUnknown { .. } | NoNextHop::NeighbourSilent { .. });
        assert_eq!(reason.neighbour().is_some(), asks, "{reason}");
    }
}

#[test]
fn the_lowest_metric_wins_and_the_first_usable_hop_of_several() {
    let mut topology = plain();
    topology.set_link(link(3, "eth1", LinkKind::Port));
    topology.set_neighbour(3, ip("198.51.100.1"), Neighbour::Known([3; 6]));
    let by_both = route("203.0.113.0/24", &[(3, Some("198.51.100.1")), (2, Some("192.0.2.1"))]);
    topology.set_routes([
        Route { metric: 50, ..route("203.0.113.0/24", &[(2, Some("192.0.2.1"))]) },
        Route { mtu: Some(1400), source: Some(ip("192.0.2.11")), ..by_both },
    ]);
    let next = out(&topology, "203.0.113.9");
    assert_eq!((next.egress, next.mtu, next.source), (Some(3), 1400, Some(ip("192.0.2.11"))));
    topology.set_link(Link { up: false, ..link(3, "eth1", LinkKind::Port) });
    assert_eq!(out(&topology, "203.0.113.9").egress, Some(2), "the other hop is used while the first one is down");
}

/// vlan100 on bond0 of eth0 and eth1; br0 of eth2 and eth3.
fn stacked(active: Option<u32>) -> Topology {
    let mut topology = Topology::default();
    for (index, name) in [(2, "eth0"), (3, "eth1")] {
        topology.set_link(Link { controller: Some(4), ..link(index, name, LinkKind::Port) });
    }
    topology.set_link(Link { active_port: active, ..link(4, "bond0", LinkKind::Bond) });
    topology.set_link(Link { lower: Some(4), mtu: 1400, ..link(5, "bond0.100", LinkKind::Vlan(TAG)) });
    for (index, name) in [(6, "eth2"), (7, "eth3")] {
        topology.set_link(Link { controller: Some(8), ..link(index, name, LinkKind::Port) });
    }
    topology.set_link(link(8, "br0", LinkKind::Bridge));
    topology.set_routes([route("192.0.2.0/24", &[(5, None)]), route("198.51.100.0/24", &[(8, None)])]);
    topology.set_neighbour(5, ip("192.0.2.21"), Neighbour::Known([21; 6]));
    topology.set_neighbour(8, ip("198.51.100.21"), Neighbour::Known([22; 6]));
    topology
}

#[test]
fn tags_bonds_and_bridges_are_followed_down_to_a_port() {
    let by_hash = out(&stacked(None), "192.0.2.21");
    assert_eq!((by_hash.egress, by_hash.tags, by_hash.mtu), (None, vec![TAG], 1400), "any port of the bond");
    assert_eq!(out(&stacked(Some(3)), "192.0.2.21").egress, Some(3), "the active one of an active-backup bond");

    let mut topology = stacked(None);
    let unknown = NoNextHop::PortUnknown { bridge: "br0".to_owned(), address: ip("198.51.100.21") };
    assert_eq!(topology.delivery(ip("198.51.100.21")), Err(unknown));
    topology.set_station(8, [22; 6], 7);
    assert_eq!(out(&topology, "198.51.100.21").egress, Some(7));
}

#[test]
fn a_loop_of_links_and_three_tags_end_in_a_reason() {
    let mut topology = stacked(None);
    topology.set_link(Link { active_port: Some(5), ..link(4, "bond0", LinkKind::Bond) });
    let reason = NoNextHop::UnsupportedLink("bond0.100".to_owned());
    assert_eq!(topology.delivery(ip("192.0.2.21")), Err(reason.clone()));
    topology.set_link(Link { controller: Some(4), lower: Some(9), ..link(4, "bond0", LinkKind::Vlan(TAG)) });
    topology.set_link(Link { lower: Some(2), ..link(9, "eth0.1", LinkKind::Vlan(TAG)) });
    assert_eq!(topology.delivery(ip("192.0.2.21")), Err(reason));
}

#[test]
fn what_is_asked_for_becomes_ports() {
    let topology = stacked(None);
    let names = |asked: &[&str]| {
        let asked: Vec<String> = asked.iter().map(|name| (*name).to_owned()).collect();
        let found = resolve(&topology, &asked, &BTreeSet::new());
        (found.ports.into_values().map(|port| (port.name, port.mac[5], port.mtu)).collect::<Vec<_>>(), found.failures)
    };
    let port = |name: &str, mac: u8| (name.to_owned(), mac, 1500);
    assert_eq!(names(&["eth0"]).0, [port("eth0", 4)], "it answers with the MAC address of its bond");
    assert_eq!(names(&["bond0.100"]).0, [port("eth0", 4), port("eth1", 4)]);
    assert_eq!(names(&["br0", "eth2"]).0, [port("eth2", 8), port("eth3", 8)]);
    assert_eq!(names(&["eth9"]), (Vec::new(), vec![NoPort::Unknown("eth9".to_owned())]));

    let all = resolve(&topology, &["bond0".to_owned(), "br0".to_owned()], &BTreeSet::new()).ports;
    let taken = |index: u32| all[&index].macs.iter().map(|mac| mac[5]).collect::<Vec<_>>();
    assert_eq!((taken(2), taken(3)), (vec![2, 4, 5], vec![3, 4, 5]), "its own, the bond's and the VLAN device's");
    assert_eq!((taken(6), taken(7)), (vec![6, 8], vec![7, 8]));
}

#[test]
fn without_a_name_the_interfaces_of_default_routes_and_of_those_served() {
    let mut topology = plain();
    topology.set_link(link(3, "eth1", LinkKind::Port));
    let found = |also: &[u32]| {
        let also = also.iter().copied().collect();
        resolve(&topology, &[], &also).ports.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(found(&[]), [2]);
    assert_eq!(found(&[3]), [2, 3]);
    assert_eq!(found(&[1, 2]), [2], "loopback has no frames from outside");
}

#[test]
fn a_bond_without_ports_and_loopback_are_refused_by_name() {
    let mut topology = plain();
    topology.set_link(link(4, "bond0", LinkKind::Bond));
    let failures = |name: &str| resolve(&topology, &[name.to_owned()], &BTreeSet::new()).failures;
    assert_eq!(failures("bond0"), [NoPort::Empty("bond0".to_owned())]);
    assert_eq!(failures("lo"), [NoPort::Unsupported("lo".to_owned())]);
}

proptest! {
    /// Longest prefix match against the naive one: look at every route.
    #[test]
    fn the_longest_prefix_wins(
        routes in prop::collection::btree_map((any::<u32>(), 0_u8..=32), 3_u32..40, 1..40),
        to in any::<u32>(),
        near in any::<prop::sample::Index>(),
        flip in 0_u32..32,
    ) {
        let mut topology = Topology::default();
        let mut known = std::collections::BTreeMap::new();
        for ((address, length), interface) in &routes {
            known.insert(Prefix::new(IpAddr::V4((*address).into()), *length), *interface);
        }
        topology.set_routes(known.iter().map(|(destination, interface)| Route {
            destination: *destination,
            metric: 0,
            source: None,
            action: RouteAction::Send(vec![Hop { interface: *interface, gateway: None }]),
            mtu: None,
        }));
        // Near a route's own address, so that several prefixes cover it.
        let (close, _) = routes.keys().nth(near.index(routes.len())).expect("one");
        for to in [to, *close, close ^ (1 << flip)] {
            let to = IpAddr::V4(to.into());
            let naive = known.iter().filter(|(prefix, _)| prefix.contains(to)).max_by_key(|(prefix, _)| prefix.length);
            prop_assert_eq!(topology.on_link(to), naive.map(|(_, interface)| *interface));
        }
    }
}
