//! Which service has which ring. Services with the same real servers and weights share one. A ring changes in place, only
//! in the lines that differ, where all services that have it want the same change; else the change gets a ring of its own,
//! so that no service is led to real servers of another one, not for a moment.

use super::formers::Owners;
use super::{Admitted, Planner};
use crate::allocations::{BackendKey, RINGS_KEPT, RingKey, narrow};
use crate::failure::{PlanFailure, Waiting};
use crate::fleet::{FleetService, Standing};
use crate::head::{address_from_words, address_octets};
use crate::tables::{Filling, MapOp, Tables, lines_of_slots};
use sluicegate_config::Scheduler;
use sluicegate_l4::layout::{RING_SLOTS, RingLine, Service};
use sluicegate_l4::maglev::{Claimant, identity};
use std::collections::{BTreeMap, BTreeSet};

/// What a service without a real server has.
const NO_RING: (u32, u32) = (0, 0);

impl Planner<'_> {
    /// Fills the rings that are wanted and gives (ring, slots) for each service, and who had the slots before.
    pub(super) fn rings(&mut self, admitted: &Admitted<'_>) -> (BTreeMap<u16, (u32, u32)>, Owners) {
        let mut given = BTreeMap::new();
        let mut moving: BTreeMap<u16, RingKey> = BTreeMap::new();
        for (id, service) in &admitted.services {
            match self.ring_wanted(*id, service) {
                None => drop(given.insert(*id, NO_RING)),
                Some(key) => match self.ring_held(*id).filter(|(_, held)| **held == key) {
                    Some((ring, held)) => drop(given.insert(*id, (ring, held.slots()))),
                    None => drop(moving.insert(*id, key)),
                },
            }
        }
        let owners = self.owners(admitted, &moving);
        let changing = self.changing_in_place(&moving);
        for (id, key) in &moving {
            let ring = match self.ring_of(key, &changing) {
                Some(ring) => (ring, key.slots()),
                None => match admitted.services.get(id) {
                    Some(service) => self.without_ring(*id, service),
                    None => NO_RING,
                },
            };
            given.insert(*id, ring);
        }
        (given, owners)
    }

    /// The ring that a service has, with its content.
    fn ring_held(&self, id: u16) -> Option<(u32, &RingKey)> {
        let service = self.allocations.tables.services.get(&id).filter(|service| service.ring_slots > 0)?;
        Some((service.ring, self.allocations.rings.key_of(service.ring)?))
    }

    /// The ring that a service should have; `None` = it has no real server.
    fn ring_wanted(&mut self, id: u16, service: &FleetService) -> Option<RingKey> {
        if let Some(known) = self.allocations.demand.ring_of(id) {
            return known.clone();
        }
        let ids = &self.allocations.backends;
        let mut members = Vec::new();
        let mut left_out = 0;
        for (real, _) in service.standings().filter(|(_, standing)| *standing == Standing::InRing) {
            match ids.get(&BackendKey::of(service, real)) {
                Some(id) => members.push((narrow(id), real.weight)),
                None => left_out += 1,
            }
        }
        members.sort_unstable();
        let common = members.iter().fold(0, |common, (_, weight)| greatest_common_divisor(common, *weight));
        for (_, weight) in &mut members {
            *weight /= common.max(1);
        }
        let turns = matches!(service.options.scheduler, Scheduler::Rr | Scheduler::Wrr);
        let slots = if turns { self.settings.turn_slots } else { self.settings.hash_slots }.min(RING_SLOTS);
        let wanted = (!members.is_empty()).then(|| RingKey::Filled { turns, slots, members: members.into() });
        let wanted = wanted.map(|key| self.allocations.rings.shared(key));
        if left_out > 0 {
            let (key, most, waiting) = (service.key, ids.most(), Waiting(ids.waiting()));
            self.failures.push(PlanFailure::TooManyBackends { key, left_out, most, waiting });
        } else {
            self.allocations.demand.keep_ring(id, wanted.clone());
        }
        wanted
    }

    /// Rings that become another one in place, by what they become: all services that have such a ring move to the same one, and
    /// nobody moves to what it holds.
    fn changing_in_place(&self, moving: &BTreeMap<u16, RingKey>) -> BTreeMap<RingKey, u32> {
        let mut left: BTreeSet<u32> =
            moving.keys().filter_map(|id| self.ring_held(*id)).map(|(ring, _)| ring).collect();
        let wanted: BTreeSet<&RingKey> = moving.values().collect();
        left.retain(|ring| self.allocations.rings.key_of(*ring).is_some_and(|key| !wanted.contains(key)));
        let mut users: BTreeMap<u32, Vec<(u16, &Service)>> = BTreeMap::new();
        for (id, service) in &self.allocations.tables.services {
            if service.ring_slots > 0 && left.contains(&service.ring) {
                users.entry(service.ring).or_default().push((*id, service));
            }
        }
        let mut changing = BTreeMap::new();
        for (ring, users) in &users {
            let Some(next) = users.first().and_then(|(id, _)| moving.get(id)) else { continue };
            if users.iter().all(|(id, service)| service.ring_slots == next.slots() && moving.get(id) == Some(next)) {
                changing.entry(next.clone()).or_insert(*ring);
            }
        }
        changing
    }

    /// The ring with this content, which it has from here on; `None` where there is none left.
    pub(super) fn ring_of(&mut self, key: &RingKey, changing: &BTreeMap<RingKey, u32>) -> Option<u32> {
        if let Some(ring) = self.allocations.rings.get(key) {
            return Some(ring);
        }
        let (ring, former) = match changing.get(key) {
            Some(ring) => {
                let former = self.allocations.rings.key_of(*ring)?.clone();
                let lines = lines_of_slots(&self.allocations.slots(*ring));
                self.allocations.rings.rekey(&former, key.clone());
                (*ring, lines)
            }
            None => {
                let ring = self.allocations.rings.claim(key.clone())?;
                // Lines of more are not kept: they would be in memory for the writes alone.
                if self.stages.rings.len() >= RINGS_KEPT
                    && let Some(filling) = filling_of(&self.allocations.tables, key)
                {
                    self.stages.rings.push(MapOp::NewRing { ring, filling });
                    return Some(ring);
                }
                (ring, Vec::new())
            }
        };
        let next = lines_of_slots(&slots_of(&self.allocations.tables, key));
        let differs = |(at, line): &(u32, &RingLine)| former.get(*at as usize) != Some(*line);
        let lines: Vec<(u32, RingLine)> = (0..).zip(&next).filter(differs).map(|(at, line)| (at, *line)).collect();
        if !lines.is_empty() {
            let stage = match key {
                RingKey::Formers(_) => &mut self.stages.formers,
                _ => &mut self.stages.rings,
            };
            stage.push(MapOp::Ring { ring, lines });
        }
        self.allocations.keep_lines(ring, next);
        Some(ring)
    }

    /// True where a ring leads to nobody else than these.
    fn leads_only_to(&self, former: &Service, usable: &BTreeSet<u16>) -> bool {
        let slots = self.allocations.slots(former.ring);
        slots.iter().take(former.ring_slots as usize).all(|slot| usable.contains(slot))
    }

    /// What a service gets while no ring is free: the one that it has, if all in it may still be used by it.
    fn without_ring(&mut self, id: u16, service: &FleetService) -> (u32, u32) {
        let (most, waiting) = (self.allocations.rings.most(), Waiting(self.allocations.rings.waiting()));
        self.failures.push(PlanFailure::TooManyRings { key: service.key, most, waiting });
        let Some(former) = self.allocations.tables.services.get(&id).filter(|former| former.ring_slots > 0) else {
            return NO_RING;
        };
        let usable: BTreeSet<u16> = service
            .standings()
            .filter(|(_, standing)| *standing != Standing::Dead)
            .filter_map(|(real, _)| self.allocations.backend_id(service, real))
            .collect();
        if self.leads_only_to(former, &usable) { (former.ring, former.ring_slots) } else { NO_RING }
    }
}

impl RingKey {
    /// How many slots are filled.
    fn slots(&self) -> u32 {
        match self {
            Self::Filled { slots, .. } => *slots,
            Self::Formers(slots) => slots.len() as u32,
            Self::Found(_) => 0,
        }
    }
}

/// Fills a ring.
pub(crate) fn slots_of(tables: &Tables, key: &RingKey) -> Vec<u16> {
    match key {
        RingKey::Formers(slots) => slots.to_vec(),
        key => filling_of(tables, key).map(|filling| filling.slots()).unwrap_or_default(),
    }
}

/// What a ring is filled from; `None` where its slots are known, or nothing is.
fn filling_of(tables: &Tables, key: &RingKey) -> Option<Filling> {
    let RingKey::Filled { turns, slots, members } = key else { return None };
    let claimant = |(id, weight): &(u16, u16)| {
        let address = tables.backends.get(id).map_or([0; 4], |backend| backend.address);
        Claimant::new(*id, *weight, identity(address_octets(address_from_words(address))))
    };
    Some(Filling { turns: *turns, slots: *slots, claimants: members.iter().map(claimant).collect() })
}

fn greatest_common_divisor(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
