//! Former owners of slots, for services with the second chance: whoever had a slot before the owner that it has now.
//!
//! They stand in a ring of their own, which only services with this option have, and which those with equal content share.
//! A slot's former owner stays until the slot changes hands again, or until the Service does not list that real server any
//! more. It may be dead for a while: the packet path looks.

use super::{Admitted, Planner};
use crate::allocations::{Allocations, BackendKey, RingKey, narrow};
use crate::failure::{PlanFailure, Waiting};
use crate::fleet::FleetService;
use sluicegate_l4::layout::{MAX_BACKENDS, MAX_RINGS, Service};
use std::collections::{BTreeMap, BTreeSet};

/// What services without former owners have.
pub(crate) const NO_FORMERS: u32 = u32::MAX;

/// Owners of slots before this plan.
#[derive(Default)]
pub(super) struct Owners {
    /// Services that get another ring, or whose ring changes.
    moving: BTreeSet<u16>,
    /// By ring: of rings that a service with the second chance leaves, or that change.
    slots: BTreeMap<u32, Vec<u16>>,
}

impl Planner<'_> {
    /// Remembers the owners of slots that may change hands, before rings are written.
    pub(super) fn owners(&self, admitted: &Admitted<'_>, moving: &BTreeMap<u16, RingKey>) -> Owners {
        let allocations = &*self.allocations;
        let mut owners = Owners { moving: moving.keys().copied().collect(), ..Owners::default() };
        for id in moving.keys() {
            let chosen = admitted.services.get(id).is_some_and(|service| service.has_second_chance());
            let row = allocations.tables.services.get(id).filter(|row| chosen && row.ring_slots > 0);
            if let Some(row) = row {
                owners.slots.entry(row.ring).or_insert_with(|| slots(allocations, row.ring, row.ring_slots));
            }
        }
        owners
    }

    /// Gives the ring of former owners of each service that has some.
    pub(super) fn formers(
        &mut self,
        admitted: &Admitted<'_>,
        rings: &BTreeMap<u16, (u32, u32)>,
        owners: &Owners,
    ) -> BTreeMap<u16, u32> {
        let mut wanted = BTreeMap::new();
        for (id, service) in admitted.services.iter().filter(|(_, service)| service.has_second_chance()) {
            // A service that is as it was, with slots that stay where they are, keeps its former owners.
            let kept = self.allocations.demand.formers_of(*id).filter(|_| !owners.moving.contains(id)).cloned();
            let key = kept.unwrap_or_else(|| {
                let ring = rings.get(id).copied().unwrap_or_default();
                let content = self.content(*id, service, ring, owners);
                content.map(|content| self.allocations.rings.shared(RingKey::Formers(content.into())))
            });
            match key {
                Some(key) => drop(wanted.insert(*id, key)),
                None => self.allocations.demand.keep_formers(*id, Some(None)),
            }
        }
        let changing = self.formers_changing_in_place(&wanted);
        let mut given = BTreeMap::new();
        for (id, key) in &wanted {
            match self.ring_of(key, &changing) {
                Some(ring) => {
                    given.insert(*id, ring);
                    self.allocations.demand.keep_formers(*id, Some(Some(key.clone())));
                }
                None => {
                    self.allocations.demand.keep_formers(*id, None);
                    let (most, waiting) = (self.allocations.rings.most(), Waiting(self.allocations.rings.waiting()));
                    let Some(service) = admitted.services.get(id) else { continue };
                    self.failures.push(PlanFailure::NoRingOfFormers { key: service.key, most, waiting });
                }
            }
        }
        given
    }

    /// The former owners that a service should have by slot, 0 = none; `None` where no slot has one.
    fn content(&self, id: u16, service: &FleetService, (ring, count): (u32, u32), owners: &Owners) -> Option<Vec<u16>> {
        let row = self.allocations.tables.services.get(&id)?;
        // With another number of slots or another key, a flow's slot was another one.
        if row.ring_slots != count || row.select != super::select_number(service.options.scheduler) {
            return None;
        }
        let known = formers_of(row).map(|formers| slots(self.allocations, formers, count));
        let before = owners.slots.get(&row.ring);
        if known.is_none() && before.is_none() {
            return None;
        }
        let listed = self.listed(service);
        let at = |slots: Option<&Vec<u16>>, slot: usize| slots.and_then(|slots| slots.get(slot)).copied().unwrap_or(0);
        let mut found = false;
        let present = slots(self.allocations, ring, count);
        let content = present.into_iter().enumerate().map(|(slot, present)| {
            let former = match at(before, slot) {
                0 => at(known.as_ref(), slot),
                owner if owner == present => at(known.as_ref(), slot),
                owner => owner,
            };
            let usable = former != present && listed.contains(former);
            found |= usable;
            if usable { former } else { 0 }
        });
        let content: Vec<u16> = content.collect();
        found.then_some(content)
    }

    /// Records of all real servers of a service.
    fn listed(&self, service: &FleetService) -> Listed {
        let mut listed = Listed(vec![false; MAX_BACKENDS as usize + 1]);
        for real in &service.reals {
            let id = self.allocations.backends.get(&BackendKey::of(service, real)).map(narrow);
            if let Some(place) = id.and_then(|id| listed.0.get_mut(usize::from(id))) {
                *place = true;
            }
        }
        listed
    }

    /// Rings of former owners that become another one in place, by what they become: all services that have such a ring want
    /// the same, and nobody wants what it holds.
    fn formers_changing_in_place(&self, wanted: &BTreeMap<u16, RingKey>) -> BTreeMap<RingKey, u32> {
        let still_wanted: BTreeSet<&RingKey> = wanted.values().collect();
        let mut users: BTreeMap<u32, Vec<u16>> = BTreeMap::new();
        for (id, row) in &self.allocations.tables.services {
            if let Some(ring) = formers_of(row) {
                users.entry(ring).or_default().push(*id);
            }
        }
        let mut changing = BTreeMap::new();
        for (ring, users) in &users {
            let Some(next) = users.first().and_then(|id| wanted.get(id)) else { continue };
            let agreed = users.iter().all(|id| wanted.get(id) == Some(next));
            let given_up = self.allocations.rings.key_of(*ring).is_some_and(|key| !still_wanted.contains(key));
            if agreed && given_up {
                changing.entry(next.clone()).or_insert(*ring);
            }
        }
        changing
    }
}

/// The ring of former owners that a service has.
pub(crate) fn formers_of(row: &Service) -> Option<u32> {
    let has = row.ring_slots > 0 && row.flags & Service::FLAG_SECOND_CHANCE != 0 && row.former_ring < MAX_RINGS;
    has.then_some(row.former_ring)
}

fn slots(allocations: &Allocations, ring: u32, count: u32) -> Vec<u16> {
    let mut slots = allocations.slots(ring);
    slots.truncate(count as usize);
    slots
}

/// By id of the record.
struct Listed(Vec<bool>);

impl Listed {
    /// 0 is nobody's.
    fn contains(&self, id: u16) -> bool {
        id != 0 && self.0.get(usize::from(id)).copied().unwrap_or(false)
    }
}
