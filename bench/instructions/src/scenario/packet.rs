//! The packet path in user space: the same code as in the XDP program, on tables in plain memory.

use super::{Row, Sequence, Work};
use sluicegate_l4::directory::{address_buckets, service_buckets};
use sluicegate_l4::layout::{
    ADDRESS_BUCKETS, Address, AddressBucket, AddressEntry, Backend, Control, FLOW_WAYS, HEAD_ROOM, Interface, PortMacs,
    RING_LINE_SLOTS, RingLine, SERVICE_BUCKETS, Service, ServiceBucket, service_key, service_word,
};
use sluicegate_l4::maglev::{Claimant, fill, identity};
use sluicegate_l4::verdict::Reason;
use sluicegate_l4::{FlowPlaces, Packet, Tables, forward};
use std::cell::Cell;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::sync::atomic::AtomicU64;

pub(super) const SCENARIOS: &[Row] = &[
    ("packet/tcp4-hit-l2", || hit(Backend::KIND_L2, frame4(TCP, ACK, VIP4))),
    ("packet/tcp4-hit-tunnel", || hit(Backend::KIND_IP4, frame4(TCP, ACK, VIP4))),
    ("packet/tcp6-hit-tunnel", || hit(Backend::KIND_IP6, frame6(TCP, ACK))),
    ("packet/udp4-hit-tunnel", || hit(Backend::KIND_IP4, frame4(UDP, 0, VIP4))),
    ("packet/tcp4-hit-gue", || hit(Backend::KIND_GUE4, frame4(TCP, ACK, VIP4))),
    ("packet/tcp4-new-ack", || new_flows(ACK)),
    ("packet/tcp4-new-syn", || new_flows(SYN)),
    ("packet/not-a-vip", || elsewhere()),
];

const VIP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
const CLIENT4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7);
const TCP: u8 = 6;
const UDP: u8 = 17;
const ACK: u8 = 0x10;
const SYN: u8 = 0x02;
const PORT: u16 = 80;
const ETHERNET: usize = 14;
/// What the kernel leaves in front of a frame.
const HEADROOM: usize = 256;
const LONGEST: usize = 78;
const BACKENDS: u16 = 100;
/// A prime, as rings are.
const SLOTS: usize = 4093;
const FLOW_SETS: u32 = 1 << 14;

/// A flow that the table knows.
fn hit(kind: u8, frame: Vec<u8>) -> Work {
    let tables = MemoryTables::new(kind);
    let mut packet = Frame::new(&frame);
    forward(&mut packet, &tables);
    Box::new(move || {
        packet.put(black_box(&frame));
        forward(&mut packet, &tables).reason() == Reason::FlowHit
    })
}

/// A flow of its own for each packet.
fn new_flows(flags: u8) -> Work {
    let tables = MemoryTables::new(Backend::KIND_IP4);
    let mut frame = frame4(TCP, flags, VIP4);
    let mut packet = Frame::new(&frame);
    let mut clients = Sequence(1);
    Box::new(move || {
        let client = clients.next() as u32;
        let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) | client >> 15);
        address4(&mut frame, source, VIP4);
        frame[34..36].copy_from_slice(&(client as u16 | 1024).to_be_bytes());
        packet.put(black_box(&frame));
        matches!(forward(&mut packet, &tables).reason(), Reason::FlowNew | Reason::FlowUntracked)
    })
}

fn elsewhere() -> Work {
    let tables = MemoryTables::new(Backend::KIND_IP4);
    let frame = frame4(TCP, ACK, Ipv4Addr::new(203, 0, 113, 77));
    let mut packet = Frame::new(&frame);
    Box::new(move || {
        packet.put(black_box(&frame));
        forward(&mut packet, &tables).reason() == Reason::NotVip
    })
}

fn frame4(protocol: u8, flags: u8, destination: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0; 64];
    ethernet(&mut frame, 0x0800);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&50_u16.to_be_bytes());
    frame[20] = 0x40;
    frame[22..24].copy_from_slice(&[64, protocol]);
    address4(&mut frame, CLIENT4, destination);
    transport(&mut frame[34..], protocol, flags);
    frame
}

/// Writes addresses and checksum.
fn address4(frame: &mut [u8], source: Ipv4Addr, destination: Ipv4Addr) {
    frame[24..26].fill(0);
    frame[26..30].copy_from_slice(&source.octets());
    frame[30..34].copy_from_slice(&destination.octets());
    let (words, _) = frame[14..34].as_chunks::<2>();
    let sum = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    frame[24..26].copy_from_slice(&(!sluicegate_l4::checksum::fold(sum)).to_be_bytes());
}

fn frame6(protocol: u8, flags: u8) -> Vec<u8> {
    let mut frame = vec![0; LONGEST];
    ethernet(&mut frame, 0x86dd);
    frame[14] = 0x60;
    frame[18..20].copy_from_slice(&24_u16.to_be_bytes());
    frame[20..22].copy_from_slice(&[protocol, 64]);
    frame[22..38].copy_from_slice(&CLIENT6.octets());
    frame[38..54].copy_from_slice(&VIP6.octets());
    transport(&mut frame[54..], protocol, flags);
    frame
}

fn ethernet(frame: &mut [u8], kind: u16) {
    frame[0..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    frame[12..14].copy_from_slice(&kind.to_be_bytes());
}

fn transport(out: &mut [u8], protocol: u8, flags: u8) {
    out[0..2].copy_from_slice(&40_000_u16.to_be_bytes());
    out[2..4].copy_from_slice(&PORT.to_be_bytes());
    if protocol == UDP {
        out[4..6].copy_from_slice(&30_u16.to_be_bytes());
    } else {
        out[12..14].copy_from_slice(&[5 << 4, flags]);
    }
}

/// A frame with room in front of it.
struct Frame {
    buffer: [u8; HEADROOM + LONGEST],
    head: usize,
    end: usize,
}

impl Frame {
    fn new(frame: &[u8]) -> Self {
        let mut new = Self { buffer: [0; HEADROOM + LONGEST], head: HEADROOM, end: HEADROOM };
        new.put(frame);
        new
    }

    /// Another frame, as a driver brings it.
    fn put(&mut self, frame: &[u8]) {
        (self.head, self.end) = (HEADROOM, HEADROOM + frame.len());
        self.buffer[HEADROOM..self.end].copy_from_slice(frame);
    }
}

impl Packet for Frame {
    fn length(&self) -> usize {
        self.end - self.head
    }

    fn ingress(&self) -> u32 {
        1
    }

    fn view<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.buffer.get(self.head + offset..self.end)?.first_chunk()
    }

    fn view_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.buffer.get_mut(self.head + offset..self.end)?.first_chunk_mut()
    }

    fn move_head(&mut self, by: isize) -> bool {
        match self.head.checked_add_signed(-by) {
            Some(head) if head + ETHERNET <= self.end => {
                self.head = head;
                true
            }
            _ => false,
        }
    }

    fn truncate(&mut self, length: usize) -> bool {
        let is_less = (ETHERNET..=self.length()).contains(&length);
        if is_less {
            self.end = self.head + length;
        }
        is_less
    }
}

/// A VIP of each family with TCP and UDP on one ring of equal backends.
struct MemoryTables {
    control: Control,
    addresses: Vec<AddressBucket>,
    service_index: Vec<ServiceBucket>,
    service: Service,
    ring: Vec<RingLine>,
    backends: Vec<Backend>,
    flows: Vec<[AtomicU64; FLOW_WAYS]>,
    overflows: Vec<Cell<u8>>,
    packets: Cell<u64>,
    bytes: Cell<u64>,
    reasons: [Cell<u64>; 256],
}

impl MemoryTables {
    fn new(kind: u8) -> Self {
        let mut addresses = vec![AddressBucket::default(); ADDRESS_BUCKETS as usize];
        let mut service_index = vec![ServiceBucket::default(); SERVICE_BUCKETS as usize];
        for (id, address) in [(1, IpAddr::V4(VIP4)), (2, IpAddr::V6(VIP6))] {
            let address = words(address);
            let bucket = &mut addresses[address_buckets(&address)[0] as usize];
            bucket.entries[0] = AddressEntry { address, id, flags: 0 };
            for protocol in [TCP, UDP] {
                let key = service_key(id, protocol, PORT);
                service_index[service_buckets(key)[0] as usize].words[usize::from(protocol == UDP)] =
                    service_word(key, 1);
            }
        }
        let mut claimants: Vec<Claimant> = (1..=BACKENDS)
            .map(|id| Claimant::new(id, 1, identity(Ipv4Addr::new(203, 0, 113, id as u8).to_ipv6_mapped().octets())))
            .collect();
        let mut slots = [0; SLOTS];
        fill(&mut claimants, &mut slots);
        let line = |slots: &[u16]| {
            let mut line = RingLine::default();
            line.slots[..slots.len()].copy_from_slice(slots);
            line
        };
        Self {
            control: Control {
                live_until: u64::MAX,
                flow_secret: 0x5851_f42d_4c95_7f2d,
                flow_mask: FLOW_SETS - 1,
                stamp_shift: 11,
                ..Control::default()
            },
            addresses,
            service_index,
            service: Service { ring: 0, ring_slots: SLOTS as u32, ..Service::default() },
            ring: slots.chunks(RING_LINE_SLOTS as usize).map(line).collect(),
            backends: (0..=BACKENDS).map(|_| backend(kind)).collect(),
            flows: (0..FLOW_SETS).map(|_| Default::default()).collect(),
            overflows: vec![Cell::new(0); FLOW_SETS as usize],
            packets: Cell::new(0),
            bytes: Cell::new(0),
            reasons: [const { Cell::new(0) }; 256],
        }
    }
}

/// With a head of the right length; its content does not matter to what copies it.
fn backend(kind: u8) -> Backend {
    let head_len = match kind {
        Backend::KIND_IP4 => 34,
        Backend::KIND_GUE4 => 42,
        Backend::KIND_IP6 => 54,
        _ => 14,
    };
    Backend { kind, alive: 1, mtu: 1400, head_len, head: [0x5a; HEAD_ROOM], checksum: 0x1234, ..Backend::default() }
}

fn words(address: IpAddr) -> Address {
    let octets = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let (words, _) = octets.as_chunks::<4>();
    std::array::from_fn(|at| u32::from_ne_bytes(words[at]))
}

impl Tables for MemoryTables {
    fn control(&self) -> Option<impl Deref<Target = Control>> {
        Some(&self.control)
    }

    fn now(&self) -> u64 {
        1 << 20
    }

    fn address_bucket(&self, index: u32) -> Option<impl Deref<Target = AddressBucket>> {
        self.addresses.get(index as usize)
    }

    fn service_bucket(&self, index: u32) -> Option<impl Deref<Target = ServiceBucket>> {
        self.service_index.get(index as usize)
    }

    fn service(&self, id: u16) -> Option<impl Deref<Target = Service>> {
        (id == 1).then_some(&self.service)
    }

    fn ring_slot(&self, _ring: u32, slot: u32) -> Option<u16> {
        self.ring.get((slot / RING_LINE_SLOTS) as usize)?.slots.get((slot % RING_LINE_SLOTS) as usize).copied()
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

    fn fence(&self, _address: u16) -> u64 {
        u64::MAX
    }

    fn interface(&self, _index: u32) -> Option<Interface> {
        None
    }

    fn port_macs(&self, _row: u32) -> Option<impl Deref<Target = PortMacs>> {
        None::<&PortMacs>
    }

    fn turn(&self, _service: u16) -> u64 {
        0
    }

    fn count_traffic(&self, _service: u16, _backend: u16, bytes: usize, _selected: bool) {
        self.packets.set(self.packets.get() + 1);
        self.bytes.set(self.bytes.get() + bytes as u64);
    }

    fn count_reason(&self, reason: Reason) {
        let counter = &self.reasons[usize::from(reason as u8)];
        counter.set(counter.get() + 1);
    }
}
