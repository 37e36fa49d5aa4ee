//! Random changes: every write leaves tables that lead to living real servers of the right service, and the last one
//! leaves what the fleet says. Whatever happens in between: restarts, sweeps, tables that are too small.

mod plan_support;

use plan_support::{Director, SETTINGS, unreachable, way};
use proptest::prelude::*;
use sluicegate_config::{Method, Scheduler, TransportProtocol, WhenAllFail};
use sluicegate_forward::allocations::{Allocations, Geometry};
use sluicegate_forward::fleet::{Fleet, FleetReal, FleetService, FleetVip, MethodReason, ServiceKey, Status};
use sluicegate_forward::plan::{Plan, plan};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// A fleet in a few words, that edits change.
#[derive(Clone, Debug, Default)]
struct Sketch {
    services: BTreeMap<(u8, u8), Port>,
    macs: [u8; 8],
    unreachable: [bool; 8],
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Port {
    method: u8,
    scheduler: u8,
    probed: bool,
    refuse: bool,
    /// By real server: weight and status.
    reals: BTreeMap<u8, (u16, u8)>,
}

#[derive(Clone, Debug)]
enum Edit {
    Service(u8, u8, Option<Port>),
    Copy((u8, u8), (u8, u8)),
    Vip(u8),
    Real((u8, u8), u8, Option<(u16, u8)>),
    Status(u8, u8),
    Mac(u8, u8),
    Unreachable(u8, bool),
}

#[derive(Clone, Debug)]
enum Event {
    Change(Vec<Edit>),
    Sweep,
    Restart,
}

fn port() -> impl Strategy<Value = Port> {
    let reals = prop::collection::btree_map(0..8_u8, weight_and_status(), 0..6);
    (0..3_u8, 0..3_u8, any::<bool>(), any::<bool>(), reals)
        .prop_map(|(method, scheduler, probed, refuse, reals)| Port { method, scheduler, probed, refuse, reals })
}

fn weight_and_status() -> impl Strategy<Value = (u16, u8)> {
    (prop_oneof![4 => Just(1), 1 => Just(0), 2 => 1..5_u16], prop_oneof![3 => Just(0), 1 => Just(1), 1 => Just(2)])
}

fn place() -> impl Strategy<Value = (u8, u8)> {
    (0..4_u8, 0..3_u8)
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        3 => (place(), prop::option::weighted(0.8, port())).prop_map(|((vip, at), port)| Edit::Service(vip, at, port)),
        2 => (place(), place()).prop_map(|(from, to)| Edit::Copy(from, to)),
        1 => (0..4_u8).prop_map(Edit::Vip),
        4 => (place(), 0..8_u8, prop::option::weighted(0.7, weight_and_status())).prop_map(|(at, real, what)| Edit::Real(at, real, what)),
        4 => (0..8_u8, 0..3_u8).prop_map(|(real, status)| Edit::Status(real, status)),
        1 => (0..8_u8, any::<u8>()).prop_map(|(real, mac)| Edit::Mac(real, mac)),
        1 => (0..8_u8, any::<bool>()).prop_map(|(real, gone)| Edit::Unreachable(real, gone)),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => prop::collection::vec(edit(), 1..5).prop_map(Event::Change),
        2 => Just(Event::Sweep),
        1 => Just(Event::Restart),
    ]
}

impl Sketch {
    fn edit(&mut self, edit: Edit) {
        match edit {
            Edit::Service(vip, port, None) => drop(self.services.remove(&(vip, port))),
            Edit::Service(vip, port, Some(what)) => drop(self.services.insert((vip, port), what)),
            Edit::Copy(from, to) => {
                if let Some(port) = self.services.get(&from).cloned() {
                    self.services.insert(to, port);
                }
            }
            Edit::Vip(vip) => self.services.retain(|(at, _), _| *at != vip),
            Edit::Real(at, real, what) => {
                if let Some(port) = self.services.get_mut(&at) {
                    match what {
                        Some(what) => drop(port.reals.insert(real, what)),
                        None => drop(port.reals.remove(&real)),
                    }
                }
            }
            Edit::Status(real, status) => {
                for reals in self.services.values_mut().filter_map(|port| port.reals.get_mut(&real)) {
                    reals.1 = status;
                }
            }
            Edit::Mac(real, mac) => self.macs[usize::from(real)] = mac,
            Edit::Unreachable(real, gone) => self.unreachable[usize::from(real)] = gone,
        }
    }

    fn fleet(&self) -> Fleet {
        let mut fleet = Fleet::default();
        for ((vip, at), port) in &self.services {
            let address = vip_address(*vip);
            let vip = fleet.vips.entry(address).or_insert_with(|| FleetVip { echo: true, ..FleetVip::default() });
            let key = ServiceKey { vip: address, protocol: TransportProtocol::Tcp, port: 80 + u16::from(*at) };
            vip.services.push(Arc::new(self.service(key, port)));
        }
        fleet
    }

    fn service(&self, key: ServiceKey, port: &Port) -> FleetService {
        let method = [Method::L2, Method::Tunnel, Method::Gue][usize::from(port.method)];
        let mut service = plan_support::service(key, Vec::new());
        service.method = method;
        service.method_reason = MethodReason::Asked;
        service.probed = port.probed;
        service.options.scheduler = [Scheduler::Mh, Scheduler::Wrr, Scheduler::Sh][usize::from(port.scheduler)];
        service.options.when_all_fail = if port.refuse { WhenAllFail::Refuse } else { WhenAllFail::FailOpen };
        service.reals = port.reals.iter().map(|(real, what)| self.real(*real, *what, method)).collect();
        service
    }

    fn real(&self, real: u8, (weight, status): (u16, u8), method: Method) -> FleetReal {
        let address = match real {
            0..6 => IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10 + real)),
            _ => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, u16::from(real))),
        };
        FleetReal {
            address,
            weight,
            configured: weight,
            status: match status {
                0 => Status::Healthy,
                1 => Status::Unhealthy("connection refused".into()),
                _ => Status::Draining,
            },
            delivery: match self.unreachable[usize::from(real)] {
                true => Err(unreachable(address)),
                false => Ok(Arc::new(way(address, method, self.macs[usize::from(real)]))),
            },
        }
    }
}

fn vip_address(vip: u8) -> IpAddr {
    match vip {
        0..2 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10 + vip)),
        _ => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(vip))),
    }
}

fn run(events: Vec<Event>, geometry: Geometry) {
    let mut director = Director::new(geometry);
    let mut sketch = Sketch::default();
    for event in events {
        match event {
            Event::Sweep => director.sweep(),
            Event::Restart => {
                director.restart();
                let again = director.plan_again();
                // What did not fit may fit without the quarantine of the process that is gone.
                let fitted = director.failures.is_empty();
                assert!(again.ops.is_empty() || !fitted, "a restart is no reason to write: {:?}", again.ops);
            }
            Event::Change(edits) => {
                edits.into_iter().for_each(|edit| sketch.edit(edit));
                director.change(sketch.fleet());
            }
        }
    }
    director.sweep();
    director.change(Fleet::default());
    assert_eq!(director.model.count_in_use(), (0, 0, 0), "something is left of an empty fleet");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_write_leaves_tables_that_serve(events in prop::collection::vec(event(), 1..24)) {
        run(events, Geometry::default());
    }

    #[test]
    fn tables_that_are_too_small_lead_nobody_astray(
        events in prop::collection::vec(event(), 1..24),
        rings in 1..6_u32,
        backends in 1..14_u32,
        services in 1..8_u32,
        addresses in 1..5_u32,
    ) {
        run(events, Geometry { addresses, services, backends, rings });
    }

    /// Whoever writes may be killed between any two writes. The next one puts it right.
    #[test]
    fn an_interrupted_plan_is_completed_by_the_next_process(
        first in prop::collection::vec(edit(), 1..12),
        second in prop::collection::vec(edit(), 1..12),
        at in any::<prop::sample::Index>(),
    ) {
        let mut director = Director::new(Geometry::default());
        let mut sketch = Sketch::default();
        first.into_iter().for_each(|edit| sketch.edit(edit));
        director.change(sketch.fleet());
        second.into_iter().for_each(|edit| sketch.edit(edit));
        let next = sketch.fleet();
        let ops = plan(&next, &mut director.allocations, &SETTINGS).ops;
        for op in &ops[..at.index(ops.len() + 1)] {
            director.model.apply(op);
        }
        director.restart();
        director.change(next.clone());
        let same = plan(&next, &mut Allocations::adopt(director.model.read_back(), director.geometry), &SETTINGS);
        prop_assert_eq!(same, Plan::default());
    }
}
