//! What a change costs and what it leaves alone: shared rings, few lines, ids in quarantine, full tables, heads.

mod plan_support;

use plan_support::{Director, Model, fleet, ip, key, real, service, way};
use sluicegate_config::{Method, TransportProtocol};
use sluicegate_forward::allocations::{Allocations, Geometry};
use sluicegate_forward::failure::PlanFailure;
use sluicegate_forward::fleet::{Delivery, Fleet, FleetReal, FleetService, Status};
use sluicegate_forward::head::record;
use sluicegate_forward::plan::{PlanSettings, plan};
use sluicegate_forward::tables::MapOp;
use sluicegate_forward::topology::VlanTag;
use sluicegate_l4::layout::Backend;
use std::sync::Arc;

fn reals(count: u8) -> Vec<FleetReal> {
    (0..count).map(|n| real(&format!("198.51.100.{}", n + 10))).collect()
}

fn director(fleet: Fleet) -> Director {
    let mut director = Director::new(Geometry::default());
    director.change(fleet);
    director
}

#[test]
fn equal_services_share_a_ring_and_move_on_together() {
    let web = |reals: Vec<FleetReal>| {
        [("192.0.2.10", 80), ("192.0.2.10", 443), ("2001:db8::10", 80)]
            .map(|(vip, port)| service(key(vip, port), reals.clone()))
    };
    let mut director = director(fleet(web(reals(3))));
    let rings: Vec<u32> =
        web(vec![]).iter().map(|web| director.model.service(web.key).expect("served").1.ring).collect();
    assert_eq!(rings, [rings[0]; 3]);
    let plan = director.change(fleet(web(reals(4))));
    let kinds: Vec<&str> = plan.ops.iter().map(kind).collect();
    assert_eq!(kinds, ["backend", "ring"], "one new real server, one ring in place");

    // One of them parts: it gets a ring of its own, the others stay.
    let mut parting = web(reals(4));
    parting[1].reals = parting[1].reals[..3].to_vec().into();
    let plan = director.change(fleet(parting));
    assert_eq!(plan.ops.iter().map(kind).collect::<Vec<_>>(), ["ring", "service"]);
}

fn kind(op: &MapOp) -> &'static str {
    match op {
        MapOp::Backend { .. } => "backend",
        MapOp::Ring { .. } | MapOp::NewRing { .. } => "ring",
        MapOp::Service { .. } => "service",
        MapOp::ServiceWord { .. } => "word",
        MapOp::Address { .. } => "address",
    }
}

/// The ring that one service gives up is the one that another takes: it is not rewritten under the other's feet.
#[test]
fn services_trade_real_servers() {
    let pool = reals(9);
    let pair = |first: usize, second: usize| {
        let group = |group: usize| pool[3 * group..][..3].to_vec();
        fleet([service(key("192.0.2.10", 80), group(first)), service(key("192.0.2.10", 443), group(second))])
    };
    let kinds = |next| director(pair(0, 1)).change(next).ops.iter().map(kind).collect::<Vec<_>>().join(" ");
    assert_eq!(kinds(pair(1, 0)), "service service");
    let (alive, dead) = ("backend backend backend", "backend backend backend");
    assert_eq!(kinds(pair(1, 2)), format!("{alive} ring service service {dead}"));
    assert_eq!(kinds(pair(2, 0)), format!("{alive} ring service service {dead}"));
    assert_eq!(kinds(pair(1, 1)), format!("service {dead}"));
    assert_eq!(kinds(pair(2, 2)), format!("{alive} ring service {dead} {dead}"));
}

#[test]
fn a_new_next_hop_is_one_write_in_place() {
    let mut service = service(key("192.0.2.10", 80), reals(3));
    let mut director = director(fleet([service.clone()]));
    service.reals[1].delivery = Ok(Arc::new(way(service.reals[1].address, Method::L2, 99)));
    let plan = director.change(fleet([service]));
    let [MapOp::Backend { value, .. }] = &plan.ops[..] else { panic!("{:?}", plan.ops) };
    assert_eq!((value.head[5], value.alive, value.generation), (99, 1, 0));
}

#[test]
fn a_dying_real_server_leaves_the_ring_before_it_is_dead() {
    let mut service = service(key("192.0.2.10", 80), reals(3));
    let mut director = director(fleet([service.clone()]));
    service.reals[0].status = Status::Unhealthy("timed out".into());
    let plan = director.change(fleet([service.clone()]));
    let [MapOp::Ring { .. }, MapOp::Backend { id, value }] = &plan.ops[..] else { panic!("{:?}", plan.ops) };
    assert_eq!((value.alive, value.generation), (0, 1), "its flows are selected anew");
    let id = *id;
    service.reals[0].status = Status::Healthy;
    director.change(fleet([service.clone()]));
    assert_eq!((director.model.backends[&id].alive, director.model.backends[&id].generation), (1, 1));
    for round in 2..40_u8 {
        service.reals[0].status = Status::Unhealthy("timed out".into());
        director.change(fleet([service.clone()]));
        service.reals[0].status = Status::Healthy;
        director.change(fleet([service.clone()]));
        assert_eq!(director.model.backends[&id].generation, round % 16);
    }
}

#[test]
fn a_probed_port_dies_by_itself() {
    let probed = |port, healthy: bool| {
        let mut service = service(key("192.0.2.10", port), reals(2));
        service.probed = true;
        if !healthy {
            service.reals[0].status = Status::Unhealthy("connection refused".into());
        }
        service
    };
    let mut director = director(fleet([probed(80, true), probed(443, true)]));
    let other = director.model.led_to(key("192.0.2.10", 443));
    director.change(fleet([probed(80, false), probed(443, true)]));
    assert_eq!(director.model.led_to(key("192.0.2.10", 80)).len(), 1);
    assert_eq!(director.model.led_to(key("192.0.2.10", 443)), other, "the other port keeps record and flows");
}

#[test]
fn at_full_size_a_change_writes_what_differs() {
    let settings = PlanSettings::default();
    let mut allocations = Allocations::new(Geometry::default());
    let hundred = |count| fleet([service(key("192.0.2.10", 80), reals(count))]);
    let first = plan(&hundred(100), &mut allocations, &settings);
    assert!(first.failures.is_empty());
    let slots = |allocations: &Allocations| allocations.tables().slots(0).take(65_537).collect::<Vec<u16>>();
    let before = slots(&allocations);
    let change = plan(&hundred(99), &mut allocations, &settings);
    let after = slots(&allocations);
    let lines: Vec<u32> = change
        .ops
        .iter()
        .filter_map(|op| match op {
            MapOp::Ring { lines, .. } => Some(lines.iter().map(|(line, _)| *line)),
            _ => None,
        })
        .flatten()
        .collect();
    let differing: Vec<u32> =
        (0..).zip(before.chunks(32).zip(after.chunks(32))).filter(|(_, (a, b))| a != b).map(|(line, _)| line).collect();
    assert_eq!(lines, differing);
    let gone = before.iter().zip(&after).filter(|(a, b)| a != b).count() as f64 / 65_537.0;
    assert!(gone < 0.02, "{gone} of the slots changed: one of a hundred left");
    assert_eq!(
        plan(&hundred(99), &mut Allocations::adopt(allocations.tables().clone(), Geometry::default()), &settings).ops,
        []
    );
}

#[test]
fn ids_wait_for_a_sweep_that_began_after_they_went() {
    let geometry = Geometry { backends: 1, ..Geometry::default() };
    let one = |address| fleet([service(key("192.0.2.10", 80), vec![real(address)])]);
    let mut director = Director::new(geometry);
    director.change(one("198.51.100.10"));
    let early = director.allocations.begin_sweep();
    let refused = director.change(one("198.51.100.11"));
    assert!(matches!(&refused.failures[..], [PlanFailure::TooManyBackends { left_out: 1, .. }]), "{refused:?}");
    director.allocations.swept(early);
    assert!(!director.change(one("198.51.100.11")).failures.is_empty(), "that sweep began too early");
    assert!(director.allocations.awaits_sweep());
    director.sweep();
    assert!(director.change(one("198.51.100.11")).failures.is_empty());
    let backend = director.model.backends[&1];
    assert_eq!((backend.alive, backend.generation), (1, 1), "flows of the former one do not count");
}

#[test]
fn full_tables_are_named_and_the_rest_is_served() {
    let services: Vec<FleetService> =
        (0..3).map(|port| service(key("192.0.2.10", 80 + port), reals(1 + port as u8))).collect();
    let run = |geometry| {
        let mut director = Director::new(geometry);
        let failures = director.change(fleet(services.clone())).failures;
        let served: Vec<bool> = services.iter().map(|service| !director.model.led_to(service.key).is_empty()).collect();
        let texts: Vec<String> = failures.iter().map(ToString::to_string).collect();
        (texts, served)
    };
    let all = Geometry::default();
    let (texts, served) = run(Geometry { services: 2, ..all });
    assert_eq!(served, [true, true, false]);
    assert_eq!(texts, ["192.0.2.10:82/TCP: the table of services is full (2): bind fewer ports"]);
    let (texts, served) = run(Geometry { rings: 2, ..all });
    assert_eq!(served, [true, true, false]);
    assert!(texts[0].starts_with("192.0.2.10:82/TCP: the table of rings is full (2)"), "{texts:?}");
    let (texts, served) = run(Geometry { backends: 2, ..all });
    assert_eq!(served, [true, true, true], "it goes on with those that fit");
    assert!(texts[0].starts_with("192.0.2.10:82/TCP: 1 real servers are left out"), "{texts:?}");
    let (texts, served) = run(Geometry { addresses: 0, ..all });
    assert_eq!(served, [false; 3]);
    assert_eq!(texts, ["VIP 192.0.2.10: the table of VIPs is full (0): bind fewer"]);
}

/// The directory takes as many as it has ids, whatever their addresses: where two buckets are full, entries move.
#[test]
fn the_directories_take_all_that_have_an_id() {
    let services = (0..2048_u16).flat_map(|n| {
        let vip = std::net::IpAddr::from([192, 0, 2 + (n >> 8) as u8, n as u8]);
        let key = |protocol| sluicegate_forward::fleet::ServiceKey { vip, protocol, port: 80 };
        [TransportProtocol::Tcp, TransportProtocol::Udp].map(|protocol| service(key(protocol), reals(1)))
    });
    let fleet = fleet(services.take(4095));
    let mut allocations = Allocations::new(Geometry::default());
    let planned = plan(&fleet, &mut allocations, &plan_support::SETTINGS);
    assert_eq!(planned.failures, []);
    let mut model = Model::default();
    for op in &planned.ops {
        model.apply(op);
    }
    for service in fleet.services() {
        assert!(!model.led_to(service.key).is_empty(), "{}", service.key);
    }
    let again = plan(&fleet, &mut Allocations::adopt(model.read_back(), Geometry::default()), &plan_support::SETTINGS);
    assert_eq!((again.ops, again.failures), (vec![], vec![]));
}

#[test]
fn heads_are_what_goes_in_front_of_a_packet() {
    let hex = |backend: &Backend| -> String {
        let bytes = &backend.head[..usize::from(backend.head_len)];
        assert!(backend.head[usize::from(backend.head_len)..].iter().all(|byte| *byte == 0));
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let four = ip("198.51.100.10");
    let six = ip("2001:db8:1::10");
    let ether = "020000000107020000000001";
    let outer4 = "4500000000004000400400 00c6336401c633640a".replace(' ', "");
    let outer4_udp = outer4.replace("40040000", "40110000");
    let outer6 =
        |next: &str| format!("600000000000{next}4020010db800010000000000000000000120010db8000100000000000000000010");
    let gue = "000017c000000000";

    let l2 = record(four, &way(four, Method::L2, 7));
    assert_eq!(
        (hex(&l2), l2.kind, l2.mtu, l2.checksum, l2.egress),
        (format!("{ether}0800"), Backend::KIND_L2, 1500, 0, 7)
    );
    let ip4 = record(four, &way(four, Method::Tunnel, 7));
    assert_eq!((hex(&ip4), ip4.kind, ip4.mtu), (format!("{ether}0800{outer4}"), Backend::KIND_IP4, 1480));
    // 4500 + 4000 + 4004 + c633 + 6401 + c633 + 640a = 31975: folded 1978.
    assert_eq!(ip4.checksum, 0x1978);
    let gue4 = record(four, &way(four, Method::Gue, 7));
    assert_eq!((hex(&gue4), gue4.kind, gue4.mtu), (format!("{ether}0800{outer4_udp}{gue}"), Backend::KIND_GUE4, 1472));
    let ip6 = record(six, &way(six, Method::Tunnel, 7));
    assert_eq!(
        (hex(&ip6), ip6.kind, ip6.mtu, ip6.checksum),
        (format!("{ether}86dd{}", outer6("04")), Backend::KIND_IP6, 1460, 0)
    );
    let gue6 = record(six, &way(six, Method::Gue, 7));
    assert_eq!(
        (hex(&gue6), gue6.kind, gue6.mtu),
        (format!("{ether}86dd{}{gue}", outer6("11")), Backend::KIND_GUE6, 1452)
    );

    let tags = vec![VlanTag { protocol: 0x88a8, id: 5 }, VlanTag { protocol: 0x8100, id: 10 }];
    let tagged = record(six, &Delivery { tags, mtu: 9000, ..way(six, Method::Gue, 7) });
    assert_eq!(hex(&tagged), format!("{ether}88a80005810 0000a86dd{}{gue}", outer6("11")).replace(' ', ""));
    assert_eq!(usize::from(tagged.head_len), 70);
    assert_eq!(tagged.mtu, 8952);
}

/// More rings than the process keeps in memory: those that it let go of change in place, and only where they differ.
#[test]
fn rings_that_are_not_kept_change_where_they_differ() {
    let of = |number: u8, gone: Option<u8>| {
        let reals = (number..number + 5).filter(|real| Some(*real) != gone);
        let reals = reals.map(|real_number| real(&format!("198.51.100.{}", 10 + real_number)));
        service(key("192.0.2.10", 1000 + u16::from(number)), reals.collect())
    };
    let all = |gone: Option<u8>| fleet((0..40).map(|number| of(number, gone.filter(|_| number % 3 == 0))));
    let mut director = Director::new(Geometry::default());
    director.change(all(None));
    for round in 0..10_u8 {
        let gone = (round % 2 == 0).then_some(round * 4);
        let mut before = director.model.clone();
        for op in director.change(all(gone)).ops.iter().flat_map(Model::steps) {
            assert!(before.apply(&op), "written as it was: {op:?}");
        }
    }
}

/// More rings than are kept in memory are written by what fills them, and change like all others.
#[test]
fn a_fleet_of_many_rings_is_filled_ring_by_ring() {
    let web = |weight: u16| {
        let service = |port: u8| {
            let mut service = service(key("192.0.2.10", u16::from(port)), reals(1 + port));
            service.reals[0].weight = if port == 19 { weight } else { 1 };
            service
        };
        fleet((1..21).map(service))
    };
    let mut director = Director::new(Geometry::default());
    let first = director.change(web(1));
    let told = first.ops.iter().filter(|op| matches!(op, MapOp::NewRing { .. })).count();
    assert_eq!((told, director.failures.len()), (4, 0), "16 are kept");
    let change = director.change(web(2));
    let [MapOp::Ring { lines, .. }] = &change.ops[..] else { panic!("{:?}", change.ops) };
    assert!(!lines.is_empty());
    director.restart();
    assert_eq!(director.plan_again().ops, []);
}

/// A ring does not change under the feet of a service that is about to go; where no other one is free, the next plan has it.
#[test]
fn the_last_ring_changes_once_its_other_service_is_gone() {
    let mut director = Director::new(Geometry { rings: 1, ..Geometry::default() });
    let both = [80, 443].map(|port| service(key("192.0.2.10", port), reals(1)));
    director.change(fleet(both));
    let left = || fleet([service(key("192.0.2.10", 80), reals(2))]);
    director.change(left());
    assert!(matches!(director.failures[..], [PlanFailure::TooManyRings { .. }]), "{:?}", director.failures);
    director.change(left());
    assert_eq!(director.failures, []);
}
