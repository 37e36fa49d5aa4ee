//! From what is to be served to the writes that make the tables say so. Pure: no I/O, no clock.
//!
//! The writes are ordered so that each of them leaves tables that serve: what is led to is there before the one that
//! leads to it, and goes after it. Real servers come to life, then rings, services, the directory's words, VIPs; then in
//! reverse what is removed, and the dead are buried last, when no ring holds them any more.

pub(crate) mod demand;
mod directory;
pub(crate) mod formers;
pub(crate) mod rings;

use crate::allocations::{Allocations, BackendKey, RingKey, narrow, protocol_number};
use crate::failure::{PlanFailure, Waiting};
use crate::fleet::{Fleet, FleetService, FleetVip, ServiceKey};
use crate::head::{address_words, record};
use crate::tables::MapOp;
use formers::{NO_FORMERS, formers_of};
use sluicegate_config::{Scheduler, TransportProtocol};
use sluicegate_l4::layout::{AddressEntry, Backend, RING_SLOTS, Service, service_key, service_word};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// What planning has to know beside the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanSettings {
    /// Slots of a ring that is picked from by hash: a prime, at most [`RING_SLOTS`]. All directors of a VIP must have the
    /// same.
    pub hash_slots: u32,
    /// Slots of a ring that is walked in turn, at most [`RING_SLOTS`].
    pub turn_slots: u32,
    /// Idle time after which a UDP flow may be selected anew.
    pub udp_idle: Duration,
    /// How long one stamp of the flow table lasts: jiffies `1 << Control::stamp_shift`.
    pub stamp: Duration,
}

impl Default for PlanSettings {
    /// 65,537 slots by hash. 55,440 in turn: the rounds of up to twelve equal real servers, and of many other numbers, go
    /// into it without a rest, so that the seam of the ring is as even as the rest of it. IPVS's 5 minutes for UDP.
    fn default() -> Self {
        Self {
            hash_slots: RING_SLOTS,
            turn_slots: 55_440,
            udp_idle: Duration::from_secs(300),
            stamp: Duration::from_millis(8192),
        }
    }
}

/// What to write, and what cannot be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be applied in this order. Where one fails: stop, read the tables back, [`Allocations::adopt`], plan again.
    pub ops: Vec<MapOp>,
    /// Parts of the fleet that the tables do not serve, sorted. Everything else is served.
    pub failures: Vec<PlanFailure>,
}

/// Brings `allocations` to `fleet` and says which writes do the same to the tables. Where nothing differs there are none.
///
/// `allocations` knows what was planned last: services that are as they were cost a comparison of addresses where the fleet
/// shares them with the one before, and their real servers are not looked at again.
#[must_use]
pub fn plan(fleet: &Fleet, allocations: &mut Allocations, settings: &PlanSettings) -> Plan {
    let whole = allocations.demand.begin(settings);
    let mut planner = Planner { allocations, settings, stages: Stages::default(), failures: fleet.rejected.clone() };
    planner.put_strays_right();
    let admitted = planner.admit(fleet);
    planner.note_demand(&admitted);
    let touched = planner.touched(whole);
    planner.backends(&touched);
    let (rings, owners) = planner.rings(&admitted);
    let formers = planner.formers(&admitted, &rings, &owners);
    planner.services(&admitted, &rings, &formers);
    planner.remove_services(&admitted);
    planner.remove_vips(&admitted);
    planner.retire_rings();
    planner.bury(&touched);
    let Planner { stages, mut failures, .. } = planner;
    failures.sort();
    Plan { ops: stages.in_order(), failures }
}

/// The operations by what they must come before.
#[derive(Default)]
struct Stages {
    strays: Vec<MapOp>,
    alive: Vec<MapOp>,
    /// Former owners, before slots change hands.
    formers: Vec<MapOp>,
    rings: Vec<MapOp>,
    services: Vec<MapOp>,
    words: Vec<MapOp>,
    vips: Vec<MapOp>,
    vips_removed: Vec<MapOp>,
    words_removed: Vec<MapOp>,
    services_removed: Vec<MapOp>,
    dead: Vec<MapOp>,
}

impl Stages {
    fn in_order(self) -> Vec<MapOp> {
        let built = [self.strays, self.alive, self.formers, self.rings, self.services, self.words, self.vips];
        let removed = [self.vips_removed, self.words_removed, self.services_removed, self.dead];
        built.into_iter().chain(removed).flatten().collect()
    }
}

struct Planner<'a> {
    allocations: &'a mut Allocations,
    settings: &'a PlanSettings,
    stages: Stages,
    failures: Vec<PlanFailure>,
}

/// What of the fleet has its ids and its place in the directories.
struct Admitted<'a> {
    vips: BTreeMap<IpAddr, &'a FleetVip>,
    /// By service id.
    services: BTreeMap<u16, &'a Arc<FleetService>>,
}

impl Planner<'_> {
    fn put_strays_right(&mut self) {
        self.stages.strays.append(&mut self.allocations.strays);
        for id in std::mem::take(&mut self.allocations.stray_services) {
            self.clear_service(id);
            self.allocations.services.unblock(u32::from(id), self.allocations.epoch);
        }
    }

    /// Gives ids and places to what is new.
    fn admit<'f>(&mut self, fleet: &'f Fleet) -> Admitted<'f> {
        let mut admitted = Admitted { vips: BTreeMap::new(), services: BTreeMap::new() };
        for (vip, wanted) in &fleet.vips {
            let id = match self.admit_vip(*vip, wanted) {
                Ok(id) => id,
                Err(failure) => {
                    self.failures.push(failure);
                    continue;
                }
            };
            admitted.vips.insert(*vip, wanted);
            for service in &wanted.services {
                match self.admit_service(id, service.key) {
                    Ok(id) => {
                        admitted.services.insert(id, service);
                    }
                    Err(failure) => self.failures.push(failure),
                }
            }
        }
        admitted
    }

    fn admit_vip(&mut self, vip: IpAddr, wanted: &FleetVip) -> Result<u16, PlanFailure> {
        let flag = |set, flag| if set { flag } else { 0 };
        let flags = flag(wanted.echo, AddressEntry::ECHO) | flag(wanted.local, AddressEntry::LOCAL);
        let known = self.allocations.addresses.get(&vip);
        let ids = &mut self.allocations.addresses;
        let (most, waiting) = (ids.most(), Waiting(ids.waiting()));
        let id = known.or_else(|| ids.claim(vip)).ok_or(PlanFailure::TooManyVips { vip, most, waiting })?;
        let entry = AddressEntry { address: address_words(vip), id: narrow(id), flags };
        match directory::place_address(&mut self.allocations.tables, entry) {
            Some(ops) => self.stages.vips.extend(ops),
            None => {
                self.allocations.addresses.unclaim(&vip);
                return Err(PlanFailure::NoAddressBucket { vip });
            }
        }
        Ok(narrow(id))
    }

    fn admit_service(&mut self, address: u16, key: ServiceKey) -> Result<u16, PlanFailure> {
        if let Some(id) = self.allocations.services.get(&key) {
            return Ok(narrow(id));
        }
        let ids = &mut self.allocations.services;
        let (most, waiting) = (ids.most(), Waiting(ids.waiting()));
        let id = narrow(ids.claim(key).ok_or(PlanFailure::TooManyServices { key, most, waiting })?);
        let word_key = service_key(address, protocol_number(key.protocol), key.port);
        match directory::place_word(&mut self.allocations.tables, service_word(word_key, id)) {
            Some(ops) => {
                self.stages.words.extend(ops);
                Ok(id)
            }
            None => {
                self.allocations.services.unclaim(&key);
                Err(PlanFailure::NoServiceBucket { key })
            }
        }
    }

    /// Services that changed say what they want of real servers; those that are gone want nothing.
    fn note_demand(&mut self, admitted: &Admitted<'_>) {
        for (id, service) in &admitted.services {
            self.allocations.demand.update(*id, service);
        }
        let gone: Vec<u16> = self.allocations.services().map(|(_, id)| id).collect();
        for id in gone.into_iter().filter(|id| !admitted.services.contains_key(id)) {
            self.allocations.demand.remove(id);
        }
    }

    /// The records to look at: those that services changed their mind about, or all.
    fn touched(&mut self, whole: bool) -> BTreeSet<BackendKey> {
        let mut touched = self.allocations.demand.take_touched();
        if whole {
            touched.extend(self.allocations.backends().map(|(key, _)| key));
        }
        touched
    }

    /// Real servers come to life, or get a new way in place.
    fn backends(&mut self, touched: &BTreeSet<BackendKey>) {
        for key in touched {
            let Some(backend) = self.allocations.demand.wanted(key).filter(|backend| backend.alive) else { continue };
            let Some(delivery) = &backend.delivery else { continue };
            // Who finds no id is reported where rings miss it.
            let id = match self.allocations.backends.get(key) {
                None if backend.in_ring => self.allocations.backends.claim(*key),
                known => known,
            };
            let Some(id) = id.map(narrow) else {
                if backend.in_ring {
                    self.allocations.demand.without_id(*key);
                }
                continue;
            };
            let former = self.allocations.tables.backends.get(&id).copied().unwrap_or_default();
            let value =
                Backend { alive: 1, generation: former.generation, owner: key.owner, ..record(key.address, delivery) };
            if value != former {
                write(self.allocations, &mut self.stages.alive, MapOp::Backend { id, value });
            }
        }
    }

    /// Writes the services as they are with these rings.
    fn services(&mut self, admitted: &Admitted<'_>, rings: &BTreeMap<u16, (u32, u32)>, formers: &BTreeMap<u16, u32>) {
        for (id, service) in &admitted.services {
            let Some((ring, ring_slots)) = rings.get(id).copied() else { continue };
            let former_ring = formers.get(id).copied().unwrap_or(NO_FORMERS);
            let value = Service { former_ring, ..service_value(service, ring, ring_slots, self.settings) };
            if self.allocations.tables.services.get(id) != Some(&value) {
                write(self.allocations, &mut self.stages.services, MapOp::Service { id: *id, value });
            }
        }
    }

    fn remove_services(&mut self, admitted: &Admitted<'_>) {
        let mut gone: Vec<(ServiceKey, u16)> = self.allocations.services().collect();
        gone.retain(|(_, id)| !admitted.services.contains_key(id));
        for (key, id) in gone {
            let address = self.allocations.address_id(&key.vip).unwrap_or(0);
            let word = service_word(service_key(address, protocol_number(key.protocol), key.port), id);
            let ops = directory::remove_word(&mut self.allocations.tables, word);
            self.stages.words_removed.extend(ops);
            self.clear_service(id);
            self.allocations.services.retire(&key, self.allocations.epoch);
        }
    }

    fn clear_service(&mut self, id: u16) {
        let value = Service::default();
        if self.allocations.tables.services.get(&id).is_some_and(|former| *former != value) {
            write(self.allocations, &mut self.stages.services_removed, MapOp::Service { id, value });
        }
    }

    fn remove_vips(&mut self, admitted: &Admitted<'_>) {
        let mut gone: Vec<(IpAddr, u16)> = self.allocations.addresses().collect();
        gone.retain(|(vip, _)| !admitted.vips.contains_key(vip));
        for (vip, _) in gone {
            let ops = directory::remove_address(&mut self.allocations.tables, address_words(vip));
            self.stages.vips_removed.extend(ops);
            self.allocations.addresses.retire(&vip, self.allocations.epoch);
        }
    }

    /// Rings that no service has any more.
    fn retire_rings(&mut self) {
        let tables = &self.allocations.tables;
        let in_use = tables.services.values().filter(|service| service.ring_slots > 0);
        let used: BTreeSet<u32> =
            in_use.flat_map(|service| [Some(service.ring), formers_of(service)]).flatten().collect();
        let gone: Vec<(RingKey, u32)> = (self.allocations.rings.iter())
            .filter(|(_, ring)| !used.contains(ring))
            .map(|(key, ring)| (key.clone(), ring))
            .collect();
        for (key, ring) in gone {
            self.allocations.rings.retire(&key, self.allocations.epoch);
            self.allocations.tables.rings.remove(&ring);
        }
    }

    /// Those that are not alive: their flows are selected anew. Those that nobody lists any more lose their id too.
    fn bury(&mut self, touched: &BTreeSet<BackendKey>) {
        for id in std::mem::take(&mut self.allocations.stray_backends) {
            self.bury_one(id, true);
            self.allocations.backends.unblock(u32::from(id), self.allocations.epoch);
        }
        for key in touched {
            let Some(id) = self.allocations.backends.get(key).map(narrow) else { continue };
            match self.allocations.demand.wanted(key) {
                Some(backend) if backend.alive && backend.delivery.is_some() => {}
                Some(_) => self.bury_one(id, false),
                None => {
                    self.bury_one(id, true);
                    self.allocations.backends.retire(key, self.allocations.epoch);
                }
            }
        }
    }

    fn bury_one(&mut self, id: u16, forget: bool) {
        let Some(former) = self.allocations.tables.backends.get(&id).copied() else { return };
        let generation = (former.generation + former.alive) % GENERATIONS;
        let value = match forget {
            true => Backend { generation, ..Backend::default() },
            false => Backend { generation, alive: 0, ..former },
        };
        if value != former {
            write(self.allocations, &mut self.stages.dead, MapOp::Backend { id, value });
        }
    }
}

/// Generations of a backend's id, as many as its bits in a flow word tell apart.
const GENERATIONS: u8 = 1 << sluicegate_l4::layout::flow_word::GENERATION_BITS;

/// One operation: to the list and to the image.
fn write(allocations: &mut Allocations, stage: &mut Vec<MapOp>, op: MapOp) {
    allocations.tables.apply(&op);
    stage.push(op);
}

/// Stamps are compared modulo 2048; a timeout keeps clear of the wrap.
const LONGEST_STAMPS: u128 = 1920;

fn service_value(service: &FleetService, ring: u32, ring_slots: u32, settings: &PlanSettings) -> Service {
    let options = &service.options;
    let udp = service.key.protocol == TransportProtocol::Udp;
    let mut flags = 0;
    if options.one_packet && udp {
        flags |= Service::FLAG_ONE_PACKET;
    }
    if options.fragments {
        flags |= Service::FLAG_FRAGMENTS;
    }
    if service.has_second_chance() {
        flags |= Service::FLAG_SECOND_CHANCE;
    }
    let mut value = Service {
        ring,
        ring_slots,
        select: select_number(options.scheduler),
        flags,
        udp_idle_stamps: if udp { stamps(settings.udp_idle, settings.stamp) } else { 0 },
        ..Service::default()
    };
    if let Some(persistence) = options.persistence {
        value.persistence_prefix4 = persistence.prefix4.min(32);
        value.persistence_prefix6 = persistence.prefix6.min(128);
        value.persistence_stamps = stamps(persistence.timeout, settings.stamp).max(1);
    }
    value
}

/// `SELECT_*` of a scheduler.
const fn select_number(scheduler: Scheduler) -> u8 {
    match scheduler {
        Scheduler::Mh | Scheduler::Lc | Scheduler::Wlc => Service::SELECT_TUPLE,
        Scheduler::Sh => Service::SELECT_SOURCE,
        Scheduler::Dh => Service::SELECT_DESTINATION,
        Scheduler::Rr | Scheduler::Wrr => Service::SELECT_TURN,
    }
}

/// A duration in stamps, rounded up.
fn stamps(duration: Duration, stamp: Duration) -> u16 {
    let stamps = duration.as_nanos().div_ceil(stamp.as_nanos().max(1));
    u16::try_from(stamps.min(LONGEST_STAMPS)).unwrap_or(u16::MAX)
}
