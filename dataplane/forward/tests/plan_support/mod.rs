//! What the tests of planning share: fleets that are written in a few words, and a naive model of the tables that asks
//! of them what the packet path asks.
#![allow(dead_code, reason = "each test file uses a part of it")]

use sluicegate_config::{Method, TransportProtocol, VipOptions};
use sluicegate_forward::allocations::{Allocations, Geometry, protocol_number};
use sluicegate_forward::failure::PlanFailure;
use sluicegate_forward::fleet::{
    Delivery, DeliveryKind, Fleet, FleetReal, FleetService, FleetVip, MethodReason, NoDelivery, ServiceKey, Standing,
    Status,
};
use sluicegate_forward::head::address_words;
use sluicegate_forward::plan::{Plan, PlanSettings, plan};
use sluicegate_forward::tables::{MapOp, Tables, lines_of};
use sluicegate_forward::topology::NoNextHop;
use sluicegate_l4::directory::{address_buckets, service_buckets};
use sluicegate_l4::layout::{AddressEntry, Backend, RingLine, Service, service_key};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Rings so short that thousands of plans take no time.
pub const SETTINGS: PlanSettings = PlanSettings {
    hash_slots: 251,
    turn_slots: 60,
    udp_idle: std::time::Duration::from_secs(300),
    stamp: std::time::Duration::from_millis(8192),
};

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address of the test")
}

pub fn key(vip: &str, port: u16) -> ServiceKey {
    ServiceKey { vip: ip(vip), protocol: TransportProtocol::Tcp, port }
}

/// A real server that is on the link, healthy, of weight 1.
pub fn real(address: &str) -> FleetReal {
    let address = ip(address);
    FleetReal {
        address,
        weight: 1,
        configured: 1,
        status: Status::Healthy,
        delivery: Ok(Arc::new(way(address, Method::L2, 1))),
    }
}

/// A way to a real server whose next hop has a MAC address that ends so.
pub fn way(address: IpAddr, method: Method, mac: u8) -> Delivery {
    let source = if address.is_ipv4() { ip("198.51.100.1") } else { ip("2001:db8:1::1") };
    Delivery {
        kind: match method {
            Method::L2 | Method::Pod => DeliveryKind::L2,
            Method::Tunnel => DeliveryKind::Tunnel { source },
            Method::Gue => DeliveryKind::Gue { source },
        },
        egress: 7,
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 1, mac],
        tags: Vec::new(),
        mtu: 1500,
    }
}

pub fn service(key: ServiceKey, reals: Vec<FleetReal>) -> FleetService {
    FleetService {
        key,
        namespace: "shop".into(),
        service: "web".into(),
        options: VipOptions::default(),
        probed: false,
        method: Method::L2,
        carrier: Method::L2,
        method_reason: MethodReason::Asked,
        reals: reals.into(),
    }
}

pub fn fleet(services: impl IntoIterator<Item = FleetService>) -> Fleet {
    let mut fleet = Fleet::default();
    for service in services {
        let vip = fleet.vips.entry(service.key.vip).or_insert_with(|| FleetVip { echo: true, ..FleetVip::default() });
        vip.services.push(Arc::new(service));
        vip.services.sort_by_key(|service| service.key);
    }
    fleet
}

pub fn unreachable(address: IpAddr) -> NoDelivery {
    NoDelivery::NoNextHop(NoNextHop::NoRoute(address))
}

/// The tables, plainly.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Model {
    addresses: Vec<[AddressEntry; 3]>,
    words: Vec<[u64; 8]>,
    pub services: BTreeMap<u16, Service>,
    pub lines: BTreeMap<(u32, u32), RingLine>,
    pub backends: BTreeMap<u16, Backend>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            addresses: vec![Default::default(); 2048],
            words: vec![Default::default(); 2048],
            services: BTreeMap::new(),
            lines: BTreeMap::new(),
            backends: BTreeMap::new(),
        }
    }
}

impl Model {
    /// One line of a ring at a time: that is what the kernel sees.
    pub fn steps(op: &MapOp) -> Vec<MapOp> {
        match op {
            MapOp::Ring { ring, lines } => {
                lines.iter().map(|line| MapOp::Ring { ring: *ring, lines: vec![*line] }).collect()
            }
            MapOp::NewRing { ring, filling } => {
                (0..).zip(filling.lines()).map(|line| MapOp::Ring { ring: *ring, lines: vec![line] }).collect()
            }
            op => vec![op.clone()],
        }
    }

    /// Writes; true where that changed something.
    pub fn apply(&mut self, op: &MapOp) -> bool {
        match op {
            MapOp::Backend { id, value } => self.backends.insert(*id, *value).unwrap_or_default() != *value,
            MapOp::Service { id, value } => self.services.insert(*id, *value) != Some(*value),
            MapOp::Ring { ring, lines } => {
                let write = |line: &(u32, RingLine)| self.lines.insert((*ring, line.0), line.1) != Some(line.1);
                lines.iter().map(write).filter(|changed| *changed).count() > 0
            }
            op @ MapOp::NewRing { .. } => Self::steps(op).iter().filter(|step| self.apply(step)).count() > 0,
            MapOp::ServiceWord { bucket, way, word } => {
                std::mem::replace(&mut self.words[*bucket as usize][*way as usize], *word) != *word
            }
            MapOp::Address { bucket, way, entry } => {
                std::mem::replace(&mut self.addresses[*bucket as usize][*way as usize], *entry) != *entry
            }
        }
    }

    /// What a process reads back that finds these tables.
    pub fn read_back(&self) -> Tables {
        let mut tables = Tables::default();
        for (bucket, entries) in self.addresses.iter().enumerate() {
            tables.addresses[bucket].entries = *entries;
        }
        for (bucket, words) in self.words.iter().enumerate() {
            tables.service_index[bucket].words = *words;
        }
        tables.services = self.services.clone();
        tables.backends = self.backends.clone();
        for service in self.services.values().filter(|service| service.ring_slots > 0) {
            let lines = (0..lines_of(service.ring_slots)).map(|line| self.line(service.ring, line)).collect();
            tables.rings.insert(service.ring, lines);
            let formers = (0..lines_of(service.ring_slots)).map(|line| self.line(service.former_ring, line)).collect();
            if service.former_ring != u32::MAX {
                tables.rings.insert(service.former_ring, formers);
            }
        }
        tables
    }

    fn line(&self, ring: u32, line: u32) -> RingLine {
        self.lines.get(&(ring, line)).copied().unwrap_or_default()
    }

    pub fn vip(&self, vip: IpAddr) -> Option<AddressEntry> {
        let words = address_words(vip);
        let buckets = address_buckets(&words).map(|bucket| self.addresses[bucket as usize]);
        buckets.into_iter().flatten().find(|entry| entry.id != 0 && entry.address == words)
    }

    pub fn service(&self, key: ServiceKey) -> Option<(u16, Service)> {
        let wanted = service_key(self.vip(key.vip)?.id, protocol_number(key.protocol), key.port);
        let buckets = service_buckets(wanted).map(|bucket| self.words[bucket as usize]);
        let word = buckets.into_iter().flatten().find(|word| *word != 0 && word & !0xffff == wanted)?;
        let id = word as u16;
        Some((id, self.services.get(&id).copied().unwrap_or_default()))
    }

    pub fn slots(&self, service: &Service) -> Vec<u16> {
        self.slots_of(service.ring, service.ring_slots)
    }

    pub fn slots_of(&self, ring: u32, count: u32) -> Vec<u16> {
        let lines = (0..lines_of(count)).map(|line| self.line(ring, line));
        lines.flat_map(|line| line.slots).take(count as usize).collect()
    }

    /// Where a service leads: records by id.
    pub fn led_to(&self, key: ServiceKey) -> BTreeMap<u16, Backend> {
        let Some((_, service)) = self.service(key) else { return BTreeMap::new() };
        let record = |id| (id, self.backends.get(&id).copied().unwrap_or_default());
        self.slots(&service).into_iter().map(record).collect()
    }

    /// Every VIP, word, service and line that is in use.
    pub fn count_in_use(&self) -> (usize, usize, usize) {
        let vips = self.addresses.iter().flatten().filter(|entry| entry.id != 0).count();
        let words = self.words.iter().flatten().filter(|word| **word != 0).count();
        let records = self.backends.values().filter(|backend| backend.kind != Backend::KIND_NONE).count();
        (vips, words, records)
    }
}

/// A director: a fleet, what is allocated, and the tables in the kernel.
pub struct Director {
    pub fleet: Fleet,
    pub allocations: Allocations,
    pub model: Model,
    pub geometry: Geometry,
    pub failures: Vec<PlanFailure>,
}

impl Director {
    pub fn new(geometry: Geometry) -> Self {
        let (fleet, model) = (Fleet::default(), Model::default());
        Self { fleet, allocations: Allocations::new(geometry), model, geometry, failures: Vec::new() }
    }

    /// Plans and writes, and looks at the tables after each step.
    pub fn change(&mut self, next: Fleet) -> Plan {
        let mut forgetful = self.allocations.clone();
        forgetful.forget();
        let plan = plan(&next, &mut self.allocations, &SETTINGS);
        assert_eq!(plan, sluicegate_forward::plan::plan(&next, &mut forgetful, &SETTINGS), "what was kept misleads");
        let watch = Watch::new(&self.model, &self.fleet, &next, &plan);
        let before = self.model.backends.clone();
        for step in plan.ops.iter().flat_map(Model::steps) {
            // A ring that was in use before may hold a line by chance.
            let changed = self.model.apply(&step);
            assert!(changed || matches!(step, MapOp::Ring { .. }), "a write that changes nothing: {step:?}");
            watch.step(&self.model, &step);
        }
        watch.outcome(&self.model, &next, &before);
        self.fleet = next;
        self.failures = plan.failures.clone();
        // What this plan let go of may be what it lacked: a ring becomes another one in place only when its last other
        // user is gone.
        let again = self.plan_again();
        assert!(
            again.ops.is_empty() || !self.failures.is_empty(),
            "what was planned is planned again: {:?}",
            again.ops
        );
        plan
    }

    /// What is there to do though nothing changed?
    pub fn plan_again(&mut self) -> Plan {
        let (mut same, mut forgetful) = (self.allocations.clone(), self.allocations.clone());
        forgetful.forget();
        let again = plan(&self.fleet, &mut same, &SETTINGS);
        assert_eq!(again, plan(&self.fleet, &mut forgetful, &SETTINGS), "what was kept misleads");
        again
    }

    /// The process is gone and another one comes.
    pub fn restart(&mut self) {
        self.allocations = Allocations::adopt(self.model.read_back(), self.geometry);
    }

    pub fn sweep(&mut self) {
        let sweep = self.allocations.begin_sweep();
        self.allocations.swept(sweep);
    }
}

/// What must hold while one plan is carried out.
struct Watch {
    /// Real servers that a service may lead to: those that were or will be good for it.
    allowed: BTreeMap<ServiceKey, BTreeSet<[u32; 4]>>,
    /// Services that lead somewhere all the time.
    unbroken: BTreeSet<ServiceKey>,
    failed: BTreeSet<ServiceKey>,
}

impl Watch {
    fn new(model: &Model, old: &Fleet, next: &Fleet, plan: &Plan) -> Self {
        let mut allowed: BTreeMap<ServiceKey, BTreeSet<[u32; 4]>> = BTreeMap::new();
        for service in old.services().chain(next.services()) {
            let good = service.standings().filter(|(_, standing)| *standing != Standing::Dead);
            allowed.entry(service.key).or_default().extend(good.map(|(real, _)| address_words(real.address)));
        }
        let failed: BTreeSet<ServiceKey> = next
            .services()
            .map(|service| service.key)
            .filter(|key| plan.failures.iter().any(|failure| concerns(failure, *key)))
            .collect();
        let served = |service: &&FleetService| !model.led_to(service.key).is_empty() && !in_ring(service).is_empty();
        let unbroken = next.services().filter(served).map(|service| service.key).filter(|key| !failed.contains(key));
        Self { unbroken: unbroken.collect(), allowed, failed }
    }

    fn step(&self, model: &Model, step: &MapOp) {
        for (key, allowed) in &self.allowed {
            let led_to = model.led_to(*key);
            for (id, backend) in &led_to {
                let alive = backend.alive == 1 && backend.kind != Backend::KIND_NONE;
                assert!(alive, "{key} leads to {id}, which is dead, after {step:?}");
                assert!(allowed.contains(&backend.address), "{key} leads to {id} of another service after {step:?}");
            }
            assert!(!self.unbroken.contains(key) || !led_to.is_empty(), "{key} is not served after {step:?}");
        }
    }

    /// The tables say what the fleet says, no more; who keeps its flows has kept id and generation, who lost them has not.
    fn outcome(&self, model: &Model, next: &Fleet, before: &BTreeMap<u16, Backend>) {
        for service in next.services().filter(|service| !self.failed.contains(&service.key)) {
            let led_to: BTreeSet<[u32; 4]> =
                model.led_to(service.key).values().map(|backend| backend.address).collect();
            assert_eq!(led_to, in_ring(service), "{}", service.key);
        }
        for key in self.allowed.keys().filter(|key| !next.services().any(|service| service.key == **key)) {
            assert_eq!(model.service(*key), None, "{key} is gone");
        }
        for (id, former) in before.iter().filter(|(_, former)| former.alive == 1) {
            let record = model.backends[id];
            let same = record.address == former.address && record.kind == former.kind && record.alive == 1;
            assert_eq!(same, record.generation == former.generation, "backend {id}: {former:?} became {record:?}");
        }
        let wanted = next.vips.keys().filter(|vip| model.vip(**vip).is_some()).count();
        assert_eq!(model.count_in_use().0, wanted, "VIPs that nobody wants are left, or one lies twice");
    }
}

/// Addresses of the real servers that get new flows.
fn in_ring(service: &FleetService) -> BTreeSet<[u32; 4]> {
    let standings = service.standings().filter(|(_, standing)| *standing == Standing::InRing);
    standings.map(|(real, _)| address_words(real.address)).collect()
}

fn concerns(failure: &PlanFailure, wanted: ServiceKey) -> bool {
    match failure {
        PlanFailure::SecondChanceUnavailable { .. } => false,
        PlanFailure::VipIsRouter { vip }
        | PlanFailure::VipIsOwn { vip, .. }
        | PlanFailure::TooManyVips { vip, .. }
        | PlanFailure::NoAddressBucket { vip } => *vip == wanted.vip,
        PlanFailure::TooManyServices { key, .. }
        | PlanFailure::TooManyBackends { key, .. }
        | PlanFailure::TooManyRings { key, .. }
        | PlanFailure::NoRingOfFormers { key, .. }
        | PlanFailure::NoServiceBucket { key } => *key == wanted,
    }
}
