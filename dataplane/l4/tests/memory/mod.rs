//! Tables and frames in plain memory, for tests: what the maps and `xdp_buff`s are to the kernel.

use sluicegate_l4::directory::{address_buckets, service_buckets};
use sluicegate_l4::layout::{
    ADDRESS_BUCKETS, Address, AddressBucket, AddressEntry, Backend, Control, FLOW_WAYS, Interface, PortMacs,
    RING_LINE_SLOTS, RING_LINES, RingLine, SERVICE_BUCKETS, Service, ServiceBucket, Traffic, service_key, service_word,
};
use sluicegate_l4::verdict::Reason;
use sluicegate_l4::{FlowPlaces, Packet, Tables};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

/// All tables, small where the kernel's are large.
pub struct MemoryTables {
    pub control: Control,
    pub now: Cell<u64>,
    pub addresses: Vec<AddressBucket>,
    pub fences: BTreeMap<u16, u64>,
    pub service_index: Vec<ServiceBucket>,
    pub services: Vec<Service>,
    pub rings: Vec<RingLine>,
    pub backends: Vec<Backend>,
    pub flows: Vec<[AtomicU64; FLOW_WAYS]>,
    pub overflows: Vec<Cell<u8>>,
    pub interfaces: BTreeMap<u32, Interface>,
    pub macs: BTreeMap<u32, PortMacs>,
    pub turns: RefCell<BTreeMap<u16, u64>>,
    pub service_traffic: RefCell<BTreeMap<u16, Traffic>>,
    pub backend_traffic: RefCell<BTreeMap<u16, Traffic>>,
    pub reasons: RefCell<BTreeMap<Reason, u64>>,
}

#[allow(dead_code, reason = "not every test that includes this module uses all of it")]
impl MemoryTables {
    /// Empty tables that are live, with so many flow sets (a power of two).
    pub fn new(flow_sets: u32) -> Self {
        assert!(flow_sets.is_power_of_two());
        Self {
            control: Control {
                live_until: u64::MAX,
                flow_secret: 0x1234_5678_9abc_def1,
                flow_mask: flow_sets - 1,
                stamp_shift: 11,
                sample_every: 0,
                reserved: 0,
            },
            now: Cell::new(1 << 20),
            addresses: vec![AddressBucket::default(); ADDRESS_BUCKETS as usize],
            fences: BTreeMap::new(),
            service_index: vec![ServiceBucket::default(); SERVICE_BUCKETS as usize],
            services: vec![Service::default()],
            rings: Vec::new(),
            backends: vec![Backend::default()],
            flows: (0..flow_sets).map(|_| Default::default()).collect(),
            overflows: vec![Cell::new(0); flow_sets as usize],
            interfaces: BTreeMap::new(),
            macs: BTreeMap::new(),
            turns: RefCell::default(),
            service_traffic: RefCell::default(),
            backend_traffic: RefCell::default(),
            reasons: RefCell::default(),
        }
    }

    /// Adds a VIP that this director holds; its id.
    pub fn add_vip(&mut self, address: IpAddr, flags: u16) -> u16 {
        let id = self.fences.len() as u16 + 1;
        let address = words(address);
        let entry = AddressEntry { address, id, flags };
        let [one, other] = address_buckets(&address);
        let place = [one, other]
            .into_iter()
            .flat_map(|bucket| (0..3).map(move |way| (bucket as usize, way)))
            .find(|(bucket, way)| self.addresses[*bucket].entries[*way].id == 0)
            .expect("room in the directory");
        self.addresses[place.0].entries[place.1] = entry;
        self.fences.insert(id, u64::MAX);
        id
    }

    /// Adds a service on a ring; its id.
    pub fn add_service(&mut self, vip: u16, protocol: u8, port: u16, service: Service) -> u16 {
        let id = self.services.len() as u16;
        self.services.push(service);
        self.bind(vip, protocol, port, id);
        id
    }

    /// Binds a port to a service.
    pub fn bind(&mut self, vip: u16, protocol: u8, port: u16, id: u16) {
        let key = service_key(vip, protocol, port);
        let place = service_buckets(key)
            .into_iter()
            .flat_map(|bucket| (0..8).map(move |way| (bucket as usize, way)))
            .find(|(bucket, way)| self.service_index[*bucket].words[*way] == 0)
            .expect("room in the directory");
        self.service_index[place.0].words[place.1] = service_word(key, id);
    }

    /// Adds a ring with these slots; its number.
    pub fn add_ring(&mut self, slots: &[u16]) -> u32 {
        let ring = (self.rings.len() as u32).div_ceil(RING_LINES);
        self.rings.resize((ring * RING_LINES) as usize, RingLine::default());
        for line in slots.chunks(RING_LINE_SLOTS as usize) {
            let mut row = RingLine::default();
            row.slots[..line.len()].copy_from_slice(line);
            self.rings.push(row);
        }
        ring
    }

    /// Adds a backend; its id.
    pub fn add_backend(&mut self, backend: Backend) -> u16 {
        self.backends.push(backend);
        self.backends.len() as u16 - 1
    }

    /// Forgets all flows.
    pub fn forget_flows(&self) {
        for place in self.flows.iter().flatten() {
            place.store(0, Ordering::Relaxed);
        }
        self.overflows.iter().for_each(|mark| mark.set(0));
    }

    /// Packets that ended for this reason.
    pub fn reason(&self, reason: Reason) -> u64 {
        self.reasons.borrow().get(&reason).copied().unwrap_or(0)
    }
}

impl Tables for MemoryTables {
    fn control(&self) -> Option<impl Deref<Target = Control>> {
        Some(&self.control)
    }

    fn now(&self) -> u64 {
        self.now.get()
    }

    fn address_bucket(&self, index: u32) -> Option<impl Deref<Target = AddressBucket>> {
        self.addresses.get(index as usize)
    }

    fn service_bucket(&self, index: u32) -> Option<impl Deref<Target = ServiceBucket>> {
        self.service_index.get(index as usize)
    }

    fn service(&self, id: u16) -> Option<impl Deref<Target = Service>> {
        self.services.get(usize::from(id))
    }

    fn ring_slot(&self, ring: u32, slot: u32) -> Option<u16> {
        let line = self.rings.get((ring * RING_LINES + slot / RING_LINE_SLOTS) as usize)?;
        line.slots.get((slot % RING_LINE_SLOTS) as usize).copied()
    }

    fn backend(&self, id: u16) -> Option<impl Deref<Target = Backend>> {
        self.backends.get(usize::from(id))
    }

    fn flow_set(&self, index: u32) -> Option<impl FlowPlaces> {
        self.flows.get(index as usize)
    }

    fn overflow(&self, set: u32) -> u8 {
        self.overflows.get(set as usize).map_or(0, Cell::get)
    }

    fn mark_overflow(&self, set: u32, mark: u8) -> bool {
        self.overflows.get(set as usize).map(|place| place.set(mark)).is_some()
    }

    fn fence(&self, address: u16) -> u64 {
        self.fences.get(&address).copied().unwrap_or(0)
    }

    fn interface(&self, index: u32) -> Option<Interface> {
        self.interfaces.get(&index).copied()
    }

    fn port_macs(&self, row: u32) -> Option<impl Deref<Target = PortMacs>> {
        self.macs.get(&row)
    }

    fn turn(&self, service: u16) -> u64 {
        let mut turns = self.turns.borrow_mut();
        let turn = turns.entry(service).or_default();
        *turn += 1;
        *turn - 1
    }

    fn count_traffic(&self, service: u16, backend: u16, bytes: usize, selected: bool) {
        for (table, id) in [(&self.service_traffic, service), (&self.backend_traffic, backend)] {
            let mut table = table.borrow_mut();
            let traffic = table.entry(id).or_default();
            traffic.packets += 1;
            traffic.bytes += bytes as u64;
            traffic.flows += u64::from(selected);
        }
    }

    fn count_reason(&self, reason: Reason) {
        *self.reasons.borrow_mut().entry(reason).or_default() += 1;
    }
}

/// A frame with room in front of it.
#[derive(Clone, Debug)]
pub struct MemoryFrame {
    buffer: Vec<u8>,
    head: usize,
    ingress: u32,
}

impl MemoryFrame {
    /// What the kernel leaves in front of a frame.
    const HEADROOM: usize = 256;

    pub fn new(frame: &[u8], ingress: u32) -> Self {
        let mut buffer = vec![0; Self::HEADROOM];
        buffer.extend_from_slice(frame);
        Self { buffer, head: Self::HEADROOM, ingress }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.head..]
    }
}

impl Packet for MemoryFrame {
    fn length(&self) -> usize {
        self.buffer.len() - self.head
    }

    fn ingress(&self) -> u32 {
        self.ingress
    }

    fn view<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.bytes().get(offset..)?.first_chunk()
    }

    fn view_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.buffer.get_mut(self.head + offset..)?.first_chunk_mut()
    }

    fn move_head(&mut self, by: isize) -> bool {
        let Some(head) = self.head.checked_add_signed(-by) else {
            return false;
        };
        // As the kernel: an Ethernet header must be left.
        if head + 14 > self.buffer.len() {
            return false;
        }
        self.head = head;
        true
    }

    fn truncate(&mut self, length: usize) -> bool {
        if length < 14 || length > self.length() {
            return false;
        }
        self.buffer.truncate(self.head + length);
        true
    }
}

/// An address in the form of the tables.
#[must_use]
pub fn words(address: IpAddr) -> Address {
    let octets = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let word = |at: usize| u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
    [word(0), word(4), word(8), word(12)]
}
