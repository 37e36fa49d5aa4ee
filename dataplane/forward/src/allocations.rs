//! Which id stands for what, what is in quarantine, and an image of the tables as they were last planned.

use crate::fleet::{DeliveryKind, FleetReal, FleetService, ServiceKey};
use crate::head::{address_from_words, kind_number};
use crate::plan::demand::Demand;
use crate::plan::formers::{NO_FORMERS, formers_of};
use crate::plan::rings::slots_of;
use crate::tables::{MapOp, Tables, lines_of, lines_of_slots};
use sluicegate_config::{Method, TransportProtocol};
use sluicegate_l4::directory::{address_buckets, service_buckets};
use sluicegate_l4::layout::{
    AddressEntry, Backend, MAX_ADDRESSES, MAX_BACKENDS, MAX_RINGS, MAX_SERVICES, RingLine, Service, service_key,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

/// How much fits into the tables. What is larger than the layout counts as the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// VIPs.
    pub addresses: u32,
    /// Ports of VIPs.
    pub services: u32,
    /// Real servers, by method.
    pub backends: u32,
    /// Rings.
    pub rings: u32,
}

impl Default for Geometry {
    /// The layout's.
    fn default() -> Self {
        Self { addresses: MAX_ADDRESSES, services: MAX_SERVICES, backends: MAX_BACKENDS, rings: MAX_RINGS }
    }
}

/// What makes a record of a real server: those that agree in it share one.
///
/// Records are shared by all services, so that services with the same real servers share a ring. But where probes decide,
/// a record serves one (protocol, port): when that port of the real server dies, its flows must go, and those of its
/// other ports stay. Several VIPs that disagree about the same port of a real server share its record all the same: while one
/// of them finds it alive it is, and the others give it no new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackendKey {
    /// Address of the real server.
    pub address: IpAddr,
    /// `KIND_*`.
    pub kind: u8,
    /// [`Backend::owner`]: where probes decide, protocol << 16 | port; else 0.
    pub owner: u32,
}

impl BackendKey {
    /// Of a real server of a service.
    #[must_use]
    pub fn of(service: &FleetService, real: &FleetReal) -> Self {
        let kind = match &real.delivery {
            Ok(delivery) => delivery.kind,
            Err(_) => match service.carrier {
                Method::L2 => DeliveryKind::L2,
                // The source does not matter to the number.
                Method::Tunnel | Method::Pod => DeliveryKind::Tunnel { source: real.address },
                Method::Gue => DeliveryKind::Gue { source: real.address },
            },
        };
        let owner = match service.probed {
            true => u32::from(protocol_number(service.key.protocol)) << 16 | u32::from(service.key.port),
            false => 0,
        };
        Self { address: real.address, kind: kind_number(real.address, kind), owner }
    }

    fn of_record(record: &Backend) -> Self {
        Self { address: address_from_words(record.address), kind: record.kind, owner: record.owner }
    }
}

/// IANA's number.
#[must_use]
pub const fn protocol_number(protocol: TransportProtocol) -> u8 {
    match protocol {
        TransportProtocol::Tcp => 6,
        TransportProtocol::Udp => 17,
        TransportProtocol::Sctp => 132,
    }
}

/// What probes found dead; `None` where the record is alive, free, or not one that probes decide about.
pub(crate) fn dead_port(record: &Backend) -> Option<(IpAddr, TransportProtocol, u16)> {
    let dead = record.alive == 0 && record.kind != Backend::KIND_NONE && record.owner != 0;
    let protocol = protocol_of((record.owner >> 16) as u8).filter(|_| dead)?;
    Some((address_from_words(record.address), protocol, record.owner as u16))
}

fn protocol_of(number: u8) -> Option<TransportProtocol> {
    [TransportProtocol::Tcp, TransportProtocol::Udp, TransportProtocol::Sctp]
        .into_iter()
        .find(|protocol| protocol_number(*protocol) == number)
}

/// What makes a ring: services that agree in it share one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RingKey {
    /// Filled by this process.
    Filled {
        /// In turn, not by hash.
        turns: bool,
        /// How many.
        slots: u32,
        /// (Id, weight divided by what all have in common), by id.
        members: Arc<[(u16, u16)]>,
    },
    /// Former owners by slot, 0 = none.
    Formers(Arc<[u16]>),
    /// Found in the tables by this number.
    Found(u32),
}

/// Ids of the tables.
///
/// An id that went out of use is not used again before a whole sweep of the flow table began and ended after it: flows
/// that name it are gone then. Ids are given out in rotation, so that one comes back as late as can be.
#[derive(Clone, Debug)]
pub struct Allocations {
    pub(crate) addresses: Ids<IpAddr>,
    pub(crate) services: Ids<ServiceKey>,
    pub(crate) backends: Ids<BackendKey>,
    pub(crate) rings: Ids<RingKey>,
    pub(crate) tables: Tables,
    /// Writes that undo what an interrupted predecessor left; they are safe at any time.
    pub(crate) strays: Vec<MapOp>,
    /// Services that no word of the directory leads to.
    pub(crate) stray_services: Vec<u16>,
    /// Second records of a key.
    pub(crate) stray_backends: Vec<u16>,
    pub(crate) epoch: u64,
    /// What services wanted of real servers when it was planned last.
    pub(crate) demand: Demand,
    /// Rings whose lines are kept, the latest last.
    lately: VecDeque<u32>,
}

/// A sweep of the flow table that has begun ([`Allocations::begin_sweep`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "ids stay in quarantine until the sweep is finished"]
pub struct Sweep(u64);

impl Default for Allocations {
    fn default() -> Self {
        Self::new(Geometry::default())
    }
}

impl Allocations {
    /// For tables that are all zero.
    #[must_use]
    pub fn new(geometry: Geometry) -> Self {
        Self {
            addresses: Ids::new(1..=geometry.addresses.min(MAX_ADDRESSES)),
            services: Ids::new(1..=geometry.services.min(MAX_SERVICES)),
            backends: Ids::new(1..=geometry.backends.min(MAX_BACKENDS)),
            rings: Ids::new(0..=geometry.rings.min(MAX_RINGS).saturating_sub(1)),
            tables: Tables::default(),
            strays: Vec::new(),
            stray_services: Vec::new(),
            stray_backends: Vec::new(),
            epoch: 0,
            demand: Demand::default(),
            lately: VecDeque::new(),
        }
    }

    /// Takes over tables that were read back: whatever stands in them keeps its id, and a plan of the same fleet has no
    /// operations. What contradicts itself (somebody was interrupted between two writes) is put right by the next plan.
    ///
    /// This is also the way on after a write failed: what the tables hold is known again then.
    #[must_use]
    pub fn adopt(tables: Tables, geometry: Geometry) -> Self {
        let mut adopted = Self::new(geometry);
        adopted.tables = tables;
        adopted.adopt_addresses();
        adopted.adopt_services();
        adopted.adopt_rings();
        adopted.adopt_backends();
        adopted
    }

    /// Forgets what was wanted when it was planned last: the next plan looks at everything. Its operations are the same.
    pub fn forget(&mut self) {
        self.demand = Demand::default();
    }

    /// A sweep of the flow table begins: call it after the operations of all plans so far were applied.
    pub fn begin_sweep(&mut self) -> Sweep {
        self.epoch += 1;
        Sweep(self.epoch)
    }

    /// The sweep has removed every flow of a backend that is dead or of another generation: what went out of use before
    /// it began may be used again.
    pub fn swept(&mut self, sweep: Sweep) {
        self.addresses.release(sweep.0);
        self.services.release(sweep.0);
        self.backends.release(sweep.0);
        self.rings.release(sweep.0);
    }

    /// True while something waits for a sweep.
    #[must_use]
    pub fn awaits_sweep(&self) -> bool {
        let waiting =
            [self.addresses.waiting(), self.services.waiting(), self.backends.waiting(), self.rings.waiting()];
        waiting.iter().any(|waiting| *waiting > 0)
    }

    /// Id of a VIP, the index of its fence.
    #[must_use]
    pub fn address_id(&self, vip: &IpAddr) -> Option<u16> {
        self.addresses.get(vip).map(narrow)
    }

    /// Id of a service, the index of its counters.
    #[must_use]
    pub fn service_id(&self, key: &ServiceKey) -> Option<u16> {
        self.services.get(key).map(narrow)
    }

    /// Id of a real server's record as a service uses it, the index of its counters.
    #[must_use]
    pub fn backend_id(&self, service: &FleetService, real: &FleetReal) -> Option<u16> {
        self.backends.get(&BackendKey::of(service, real)).map(narrow)
    }

    /// All VIPs in the tables with their ids.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, u16)> + '_ {
        self.addresses.iter().map(|(vip, id)| (*vip, narrow(id)))
    }

    /// All services in the tables with their ids.
    pub fn services(&self) -> impl Iterator<Item = (ServiceKey, u16)> + '_ {
        self.services.iter().map(|(key, id)| (*key, narrow(id)))
    }

    /// All records of real servers in the tables with their ids.
    pub fn backends(&self) -> impl Iterator<Item = (BackendKey, u16)> + '_ {
        self.backends.iter().map(|(key, id)| (*key, narrow(id)))
    }

    /// The tables as they are when every operation was applied; of the rings those that were filled lately.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The slots of a ring, as many as are filled or more: as they are kept, else filled once more.
    #[must_use]
    pub fn slots(&self, ring: u32) -> Vec<u16> {
        if self.tables.rings.contains_key(&ring) {
            return self.tables.slots(ring).collect();
        }
        self.rings.key_of(ring).map(|key| slots_of(&self.tables, key)).unwrap_or_default()
    }

    /// Has the lines of the rings of a VIP's services in [`Allocations::tables`], of some of them where there are many.
    pub fn recall(&mut self, vip: IpAddr) {
        let services: Vec<u16> = self.services().filter(|(key, _)| key.vip == vip).map(|(_, id)| id).collect();
        let rows = services.iter().filter_map(|id| self.tables.services.get(id)).filter(|row| row.ring_slots > 0);
        let rings: BTreeSet<u32> = rows.flat_map(|row| [Some(row.ring), formers_of(row)]).flatten().collect();
        for ring in rings.into_iter().take(RINGS_KEPT) {
            self.keep_lines(ring, lines_of_slots(&self.slots(ring)));
        }
    }

    /// Keeps the lines of a ring, and lets go of those of an older one. A ring is two thousand lines, and there may be
    /// hundreds: what is let go of is filled once more where somebody asks. A service with the second chance asks at each plan.
    pub(crate) fn keep_lines(&mut self, ring: u32, lines: Vec<RingLine>) {
        self.lately.retain(|kept| *kept != ring);
        self.lately.push_back(ring);
        self.tables.rings.insert(ring, lines);
        if self.lately.len() <= RINGS_KEPT {
            return;
        }
        let Some(oldest) = self.lately.pop_front() else { return };
        let asked = |row: &Service| formers_of(row).is_some() && (row.ring == oldest || row.former_ring == oldest);
        if !self.tables.services.values().any(asked) {
            self.tables.rings.remove(&oldest);
        }
    }

    fn adopt_addresses(&mut self) {
        let mut strays = Vec::new();
        for (bucket, held) in (0..).zip(&self.tables.addresses) {
            for (way, entry) in (0..).zip(&held.entries) {
                let address = address_from_words(entry.address);
                let known = entry.id != 0
                    && address_buckets(&entry.address).contains(&bucket)
                    && self.addresses.take(address, u32::from(entry.id));
                if !known && *entry != AddressEntry::default() {
                    strays.push(MapOp::Address { bucket, way, entry: AddressEntry::default() });
                }
            }
        }
        self.stray(strays);
    }

    fn adopt_services(&mut self) {
        let vips: BTreeMap<u16, IpAddr> = self.addresses().map(|(vip, id)| (id, vip)).collect();
        let mut strays = Vec::new();
        for (bucket, held) in (0..).zip(&self.tables.service_index) {
            for (way, word) in (0..).zip(held.words) {
                let id = u32::from(word as u16);
                let known = service_of_word(word, &vips).is_some_and(|key| {
                    service_buckets(word & !0xffff).contains(&bucket) && self.services.take(key, id)
                });
                if !known && word != 0 {
                    strays.push(MapOp::ServiceWord { bucket, way, word: 0 });
                }
            }
        }
        self.stray(strays);
        let led_to: BTreeSet<u16> = self.services().map(|(_, id)| id).collect();
        let stray = |(id, service): (&u16, &Service)| (service.ring_slots > 0 && !led_to.contains(id)).then_some(*id);
        self.stray_services = self.tables.services.iter().filter_map(stray).collect();
        for id in led_to {
            self.tables.services.entry(id).or_default();
        }
        for id in &self.stray_services {
            self.services.block(u32::from(*id));
        }
    }

    /// A ring that a service has but that was not read, or in part, is written anew: the service is taken to have none.
    fn adopt_rings(&mut self) {
        for service in self.tables.services.values_mut().filter(|service| service.ring_slots > 0) {
            let lines = self.tables.rings.get(&service.ring).map_or(0, Vec::len);
            let whole = lines as u32 == lines_of(service.ring_slots);
            let key = RingKey::Found(service.ring);
            if !whole || (self.rings.get(&key).is_none() && !self.rings.take(key, service.ring)) {
                service.ring_slots = 0;
            }
        }
        for service in self.tables.services.values_mut() {
            let Some(ring) = formers_of(service) else { continue };
            let lines = self.tables.rings.get(&ring).map_or(0, Vec::len);
            let whole = lines as u32 == lines_of(service.ring_slots);
            let key = RingKey::Found(ring);
            if !whole || (self.rings.get(&key).is_none() && !self.rings.take(key, ring)) {
                service.former_ring = NO_FORMERS;
            }
        }
        let found: BTreeSet<u32> = self.rings.iter().map(|(_, ring)| ring).collect();
        self.tables.rings.retain(|ring, _| found.contains(ring));
    }

    fn adopt_backends(&mut self) {
        for (id, record) in &self.tables.backends {
            if record.kind != Backend::KIND_NONE && !self.backends.take(BackendKey::of_record(record), u32::from(*id)) {
                self.stray_backends.push(*id);
            }
        }
        // Not to be given out while they are still in a ring.
        for id in &self.stray_backends {
            self.backends.block(u32::from(*id));
        }
    }

    fn stray(&mut self, ops: Vec<MapOp>) {
        for op in &ops {
            self.tables.apply(op);
        }
        self.strays.extend(ops);
    }
}

/// Rings of which the lines are kept: 2 MB.
pub(crate) const RINGS_KEPT: usize = 16;

/// The service that a word of the directory means; `None` where it means none.
fn service_of_word(word: u64, vips: &BTreeMap<u16, IpAddr>) -> Option<ServiceKey> {
    let (address, number, port) = ((word >> 48) as u16, (word >> 32) as u8, (word >> 16) as u16);
    let key = ServiceKey { vip: *vips.get(&address)?, protocol: protocol_of(number)?, port };
    (service_key(address, number, port) == word & !0xffff).then_some(key)
}

/// Ids of all tables but the rings' fit into 16 bits: [`Geometry`] is bounded by the layout.
pub(crate) const fn narrow(id: u32) -> u16 {
    id as u16
}

const _: () = assert!(MAX_ADDRESSES <= 0xffff && MAX_SERVICES <= 0xffff && MAX_BACKENDS <= 0xffff);

/// Which ids of a table are used by what, and which wait for a sweep.
#[derive(Clone, Debug)]
pub(crate) struct Ids<K> {
    used: BTreeMap<K, u32>,
    /// Used ones with their keys, and those in quarantine without.
    taken: BTreeMap<u32, Option<K>>,
    waiting: VecDeque<(u64, u32)>,
    range: std::ops::RangeInclusive<u32>,
    /// Where the search for a free one begins.
    cursor: u32,
}

impl<K: Ord + Clone> Ids<K> {
    fn new(range: std::ops::RangeInclusive<u32>) -> Self {
        let cursor = *range.start();
        Self { used: BTreeMap::new(), taken: BTreeMap::new(), waiting: VecDeque::new(), range, cursor }
    }

    pub(crate) fn get(&self, key: &K) -> Option<u32> {
        self.used.get(key).copied()
    }

    pub(crate) fn key_of(&self, id: u32) -> Option<&K> {
        self.taken.get(&id)?.as_ref()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, u32)> {
        self.used.iter().map(|(key, id)| (key, *id))
    }

    /// How many fit.
    pub(crate) fn most(&self) -> usize {
        (self.range.end() + 1).saturating_sub(*self.range.start()) as usize
    }

    /// How many are in quarantine.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A new id; `None` while all are used or in quarantine.
    pub(crate) fn claim(&mut self, key: K) -> Option<u32> {
        if self.taken.len() >= self.most() {
            return None;
        }
        let (first, last) = (*self.range.start(), *self.range.end());
        let free = |id: &u32| !self.taken.contains_key(id);
        let id = (self.cursor..=last).find(free).or_else(|| (first..self.cursor).find(free))?;
        self.cursor = if id == last { first } else { id + 1 };
        self.taken.insert(id, Some(key.clone()));
        self.used.insert(key, id);
        Some(id)
    }

    /// Takes this very id; false where it is out of range, or it or the key is in use.
    fn take(&mut self, key: K, id: u32) -> bool {
        if !self.range.contains(&id) || self.taken.contains_key(&id) || self.used.contains_key(&key) {
            return false;
        }
        self.taken.insert(id, Some(key.clone()));
        self.used.insert(key, id);
        self.cursor = if id == *self.range.end() { *self.range.start() } else { self.cursor.max(id + 1) };
        true
    }

    /// Takes the claim back, as if it had not been: nothing names the id.
    pub(crate) fn unclaim(&mut self, key: &K) {
        if let Some(id) = self.used.remove(key) {
            self.taken.remove(&id);
        }
    }

    /// The key in the memory that is used already, where it is.
    pub(crate) fn shared(&self, key: K) -> K {
        self.used.get_key_value(&key).map_or(key, |(used, _)| used.clone())
    }

    /// Goes on under another key.
    pub(crate) fn rekey(&mut self, old: &K, new: K) {
        if let Some(id) = self.used.remove(old) {
            self.taken.insert(id, Some(new.clone()));
            self.used.insert(new, id);
        }
    }

    /// Out of use, and into quarantine.
    pub(crate) fn retire(&mut self, key: &K, epoch: u64) {
        if let Some(id) = self.used.remove(key) {
            self.taken.insert(id, None);
            self.waiting.push_back((epoch, id));
        }
    }

    /// Not to be given out, though nothing uses it.
    fn block(&mut self, id: u32) {
        self.taken.insert(id, None);
    }

    /// What was blocked is in quarantine from here on.
    pub(crate) fn unblock(&mut self, id: u32, epoch: u64) {
        self.waiting.push_back((epoch, id));
    }

    fn release(&mut self, sweep: u64) {
        while let Some((_, id)) = self.waiting.pop_front_if(|(epoch, _)| *epoch < sweep) {
            self.taken.remove(&id);
        }
    }
}
