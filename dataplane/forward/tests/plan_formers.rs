//! Former owners of slots: who had a slot before stands there until it changes hands again or the real server is gone.

mod plan_support;

use plan_support::{Director, fleet, key, real, service, way};
use proptest::prelude::*;
use sluicegate_config::{Method, Scheduler, TransportProtocol};
use sluicegate_forward::allocations::Geometry;
use sluicegate_forward::failure::PlanFailure;
use sluicegate_forward::fleet::{FleetReal, FleetService, ServiceKey, Status};
use sluicegate_l4::layout::Service;
use std::collections::BTreeMap;
use std::sync::Arc;

const PORT: u16 = 80;

fn http() -> ServiceKey {
    key("192.0.2.10", PORT)
}

fn gue(number: u8) -> FleetReal {
    let real = real(&format!("198.51.100.{}", 10 + number));
    FleetReal { delivery: Ok(Arc::new(way(real.address, Method::Gue, number))), ..real }
}

fn chance(key: ServiceKey, reals: impl IntoIterator<Item = u8>) -> FleetService {
    let mut service = service(key, reals.into_iter().map(gue).collect());
    service.method = Method::Gue;
    service.options.second_chance = true;
    service
}

fn director(service: FleetService) -> Director {
    let mut director = Director::new(Geometry::default());
    director.change(fleet([service]));
    director
}

/// Owners and former owners by slot, as the last byte of their address less 10; `None` = nobody.
type Slots = Vec<(Option<u8>, Option<u8>)>;

fn slots(director: &Director, key: ServiceKey) -> Slots {
    let (_, row) = director.model.service(key).expect("served");
    let number = |id: &u16| {
        let record = director.model.backends.get(id).filter(|_| *id != 0)?;
        Some(record.address[3].to_ne_bytes()[3] - 10)
    };
    let owners = director.model.slots(&row);
    let has = row.flags & Service::FLAG_SECOND_CHANCE != 0 && row.former_ring != u32::MAX;
    let formers = match has {
        true => director.model.slots_of(row.former_ring, row.ring_slots),
        false => vec![0; owners.len()],
    };
    owners.iter().zip(&formers).map(|(owner, former)| (number(owner), number(former))).collect()
}

/// What must stand there after a change, slot by slot.
fn followed(before: &Slots, after: &Slots, listed: &[u8]) {
    for (slot, ((owner, former), (next, next_former))) in before.iter().zip(after).enumerate() {
        let expected = if owner == next { *former } else { *owner };
        let expected = expected.filter(|former| listed.contains(former) && Some(*former) != *next);
        assert_eq!(*next_former, expected, "slot {slot}: {owner:?} after {former:?} became {next:?}");
    }
}

fn moved(slots: &Slots) -> usize {
    slots.iter().filter(|(_, former)| former.is_some()).count()
}

#[test]
fn a_new_real_server_takes_slots_whose_former_owners_stand_there() {
    let mut director = director(chance(http(), 0..4));
    let before = slots(&director, http());
    assert_eq!(moved(&before), 0, "nobody had a slot before");
    director.change(fleet([chance(http(), 0..5)]));
    let after = slots(&director, http());
    followed(&before, &after, &[0, 1, 2, 3, 4]);
    assert!(after.iter().all(|(owner, former)| *owner != Some(4) || former.is_some()), "{after:?}");
    assert!(moved(&after) > before.len() / 8);
    // The next one takes slots of all five; where it does not, the former owners stay.
    director.change(fleet([chance(http(), 0..6)]));
    let last = slots(&director, http());
    followed(&after, &last, &[0, 1, 2, 3, 4, 5]);
    assert!(moved(&last) > moved(&after));
}

#[test]
fn weights_and_draining_move_slots_and_removal_forgets() {
    let mut director = director(chance(http(), 0..3));
    let mut heavy = chance(http(), 0..3);
    heavy.reals[1].weight = 3;
    let before = slots(&director, http());
    director.change(fleet([heavy.clone()]));
    let weighted = slots(&director, http());
    followed(&before, &weighted, &[0, 1, 2]);
    assert!(weighted.contains(&(Some(1), Some(0))) && weighted.contains(&(Some(1), Some(2))));
    // It gets no new flows, but has some.
    heavy.reals[0].status = Status::Draining;
    director.change(fleet([heavy.clone()]));
    let draining = slots(&director, http());
    followed(&weighted, &draining, &[0, 1, 2]);
    assert!(draining.iter().any(|(_, former)| *former == Some(0)));
    // It dies: it still stands there, as it may come back.
    heavy.reals[0].status = Status::Unhealthy("timed out".into());
    director.change(fleet([heavy.clone()]));
    assert_eq!(slots(&director, http()), draining);
    heavy.reals = heavy.reals[1..].to_vec().into();
    director.change(fleet([heavy]));
    let removed = slots(&director, http());
    followed(&draining, &removed, &[1, 2]);
    assert!(removed.iter().all(|(_, former)| *former != Some(0)));
}

#[test]
fn services_without_it_have_no_former_owners() {
    let plain = |change: fn(&mut FleetService)| {
        let with = |reals| {
            let mut service = chance(http(), reals);
            change(&mut service);
            service
        };
        let mut director = director(with(0..3));
        director.change(fleet([with(0..4)]));
        let key = with(0..1).key;
        let (_, row) = director.model.service(key).expect("served");
        (row.flags & Service::FLAG_SECOND_CHANCE, row.former_ring)
    };
    assert_ne!(plain(|_| {}).1, u32::MAX, "this test could fail");
    assert_eq!(plain(|service| service.options.second_chance = false), (0, u32::MAX));
    assert_eq!(plain(|service| service.method = Method::Tunnel), (0, u32::MAX));
    assert_eq!(plain(|service| service.options.scheduler = Scheduler::Wrr), (0, u32::MAX));
    assert_eq!(plain(|service| service.key.protocol = TransportProtocol::Udp), (0, u32::MAX));
}

#[test]
fn equal_histories_share_a_ring_which_goes_with_the_last_user() {
    let keys = [http(), key("192.0.2.10", 443), key("2001:db8::10", 443)];
    let all = |reals: std::ops::Range<u8>| fleet(keys.map(|key| chance(key, reals.clone())));
    let mut director = Director::new(Geometry { rings: 2, ..Geometry::default() });
    director.change(all(0..3));
    director.change(all(0..4));
    assert_eq!(director.failures, []);
    let rings = keys.map(|key| director.model.service(key).expect("served").1.former_ring);
    assert_eq!(rings, [rings[0]; 3]);
    assert_ne!(rings[0], u32::MAX);
    let mut without = keys.map(|key| chance(key, 0..4));
    without.iter_mut().for_each(|service| service.options.second_chance = false);
    director.change(fleet(without));
    assert!(director.allocations.awaits_sweep(), "nobody has it any more");
    assert_eq!(director.model.service(http()).expect("served").1.former_ring, u32::MAX);
}

#[test]
fn without_a_free_ring_there_is_no_second_chance_and_it_is_said() {
    let mut director = Director::new(Geometry { rings: 1, ..Geometry::default() });
    director.change(fleet([chance(http(), 0..3)]));
    director.change(fleet([chance(http(), 0..4)]));
    assert!(matches!(&director.failures[..], [PlanFailure::NoRingOfFormers { .. }]), "{:?}", director.failures);
    assert_eq!(moved(&slots(&director, http())), 0);
    assert_eq!(slots(&director, http()).iter().filter(|(owner, _)| owner.is_none()).count(), 0, "it is served");
}

#[derive(Clone, Debug)]
enum Event {
    /// A real server's weight (0 = no new flows), by its number.
    Weight(u8, u16),
    Dies(u8),
    Removed(u8),
    Restart,
    Sweep,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..6_u8, 0..4_u16).prop_map(|(number, weight)| Event::Weight(number, weight)),
        1 => (0..6_u8).prop_map(Event::Dies),
        1 => (0..6_u8).prop_map(Event::Removed),
        1 => Just(Event::Restart),
        1 => Just(Event::Sweep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever changes, former owners follow slot by slot, and restarts forget nothing.
    #[test]
    fn former_owners_follow_every_change(events in prop::collection::vec(event(), 1..25)) {
        let mut reals: BTreeMap<u8, (u16, Status)> = [(0, (1, Status::Healthy)), (1, (1, Status::Healthy))].into();
        // A neighbour with the same real servers, which shares what can be shared.
        let other = key("192.0.2.11", PORT);
        let now = |reals: &BTreeMap<u8, (u16, Status)>| {
            let mut service = chance(http(), reals.keys().copied());
            for (real, (weight, status)) in service.reals.iter_mut().zip(reals.values()) {
                (real.weight, real.configured, real.status) = (*weight, *weight, status.clone());
            }
            fleet([FleetService { key: other, ..service.clone() }, service])
        };
        let mut director = Director::new(Geometry::default());
        director.change(now(&reals));
        for event in events {
            match event {
                Event::Weight(number, weight) => drop(reals.insert(number, (weight, Status::Healthy))),
                Event::Dies(number) => {
                    if let Some(real) = reals.get_mut(&number) {
                        real.1 = Status::Unhealthy("timed out".into());
                    }
                }
                Event::Removed(number) => drop(reals.remove(&number)),
                Event::Restart => director.restart(),
                Event::Sweep => director.sweep(),
            }
            let before = slots(&director, http());
            director.change(now(&reals));
            prop_assert_eq!(&director.failures, &[]);
            let after = slots(&director, http());
            let listed: Vec<u8> = reals.keys().copied().collect();
            if !before.is_empty() && !after.is_empty() {
                followed(&before, &after, &listed);
            }
            prop_assert_eq!(slots(&director, other), after);
        }
    }
}
