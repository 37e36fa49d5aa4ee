//! A frame that is made up, and the tables as the packet path sees them when nothing of it is to be remembered.

use super::Facts;
use crate::engine::Passing;
use crate::engine::packet::frame::RoomyFrame;
use crate::packet_tuple::{PacketProtocol, PacketTuple};
use crate::tables::Tables as Image;
use sluicegate_l4::layout::{
    AddressBucket, Backend, Control, FLOW_WAYS, Interface, MAX_BACKENDS, MAX_SERVICES, PortMacs, RING_LINE_SLOTS,
    Service, ServiceBucket, flow_word,
};
use sluicegate_l4::verdict::{Reason, Verdict};
use sluicegate_l4::{FlowPlaces, Tables, forward};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

/// Room in front of the frame: every outer header fits.
const HEADROOM: usize = 128;
/// Hop limit of the packet.
const HOPS: u8 = 64;
/// Stands in for a port where there is none, as without a running director.
const NO_PORT: u32 = 1;

/// What is known of flows in a run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Memory {
    /// The flow table.
    AsItIs,
    /// All of it but entries with the signature of this hash.
    Without(u64),
    /// Nothing.
    Empty,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) verdict: Verdict,
    /// Service that was looked up.
    pub(super) service: Option<u16>,
    /// Backend that the packet was for; 0 = none.
    pub(super) backend: u16,
    /// Slot of the ring that was asked.
    pub(super) slot: Option<u32>,
    /// The ring is walked in turn: which slot comes next depends on the CPU.
    pub(super) in_turn: bool,
    /// The port that the frame came in by.
    pub(super) ingress: u32,
    /// The frame as it leaves.
    pub(super) frame: Vec<u8>,
}

/// The frame, and what it meets.
pub(super) struct Probe<'a> {
    frame: Vec<u8>,
    ingress: u32,
    image: &'a Image,
    passing: &'a Passing<'a>,
    interfaces: BTreeMap<u32, Interface>,
}

impl<'a> Probe<'a> {
    pub(super) fn new(packet: &PacketTuple, facts: &'a Facts<'_>) -> Self {
        let mut interfaces: BTreeMap<u32, Interface> = facts
            .ports
            .values()
            .map(|port| (port.index, Interface { mac: port.mac, mtu: u16::try_from(port.mtu).unwrap_or(u16::MAX) }))
            .collect();
        if interfaces.is_empty() {
            interfaces.insert(NO_PORT, Interface { mac: [0; 6], mtu: 1500 });
        }
        let (ingress, mac) = interfaces.first_key_value().map_or((NO_PORT, [0; 6]), |(index, port)| (*index, port.mac));
        Self {
            frame: frame(packet, mac),
            ingress,
            image: facts.allocations.tables(),
            passing: &facts.passing,
            interfaces,
        }
    }

    /// Runs the packet path.
    pub(super) fn run(&self, memory: Memory) -> Run {
        let mut buffer = vec![0; HEADROOM];
        buffer.extend_from_slice(&self.frame);
        let bounds = HEADROOM..buffer.len();
        let tables = Sight { probe: self, memory, seen: Seen::default() };
        let (verdict, bounds) = match RoomyFrame::new(&mut buffer, bounds, self.ingress) {
            Some(mut roomy) => (forward(&mut roomy, &tables), roomy.bounds()),
            // The bounds are those of the buffer.
            None => (Verdict::Drop(Reason::NoRoom), 0..0),
        };
        Run {
            verdict,
            service: tables.seen.service.get(),
            backend: tables.seen.backend.get(),
            slot: tables.seen.slot.get(),
            in_turn: tables.seen.in_turn.get(),
            ingress: self.ingress,
            frame: buffer.get(bounds).unwrap_or_default().to_vec(),
        }
    }
}

/// What the packet path asked for on its way.
#[derive(Default)]
struct Seen {
    service: Cell<Option<u16>>,
    backend: Cell<u16>,
    slot: Cell<Option<u32>>,
    in_turn: Cell<bool>,
}

/// The tables, for one run.
struct Sight<'a> {
    probe: &'a Probe<'a>,
    memory: Memory,
    seen: Seen,
}

/// Rows that nobody wrote are zero in the kernel's tables.
static NO_SERVICE: Service = Service {
    ring: 0,
    ring_slots: 0,
    former_ring: 0,
    select: 0,
    flags: 0,
    persistence_prefix4: 0,
    persistence_prefix6: 0,
    persistence_stamps: 0,
    udp_idle_stamps: 0,
    reserved: [0; 44],
};

impl Tables for Sight<'_> {
    fn control(&self) -> Option<impl Deref<Target = Control>> {
        Some(&self.probe.passing.control)
    }

    fn now(&self) -> u64 {
        self.probe.passing.now
    }

    fn address_bucket(&self, index: u32) -> Option<impl Deref<Target = AddressBucket>> {
        self.probe.image.addresses.get(index as usize)
    }

    fn service_bucket(&self, index: u32) -> Option<impl Deref<Target = ServiceBucket>> {
        self.probe.image.service_index.get(index as usize)
    }

    fn service(&self, id: u16) -> Option<impl Deref<Target = Service>> {
        self.seen.service.set(Some(id));
        let held = || self.probe.image.services.get(&id).unwrap_or(&NO_SERVICE);
        (u32::from(id) <= MAX_SERVICES).then(held)
    }

    fn ring_slot(&self, ring: u32, slot: u32) -> Option<u16> {
        self.seen.slot.set(Some(slot));
        let line = self.probe.image.rings.get(&ring)?.get((slot / RING_LINE_SLOTS) as usize)?;
        line.slots.get((slot % RING_LINE_SLOTS) as usize).copied()
    }

    fn backend(&self, id: u16) -> Option<impl Deref<Target = Backend>> {
        let held = self.probe.image.backends.get(&id).copied().unwrap_or_default();
        (u32::from(id) <= MAX_BACKENDS).then(|| Box::new(held))
    }

    fn flow_set(&self, index: u32) -> Option<impl FlowPlaces> {
        let words = self.probe.passing.flows.as_chunks::<FLOW_WAYS>().0.get(index as usize)?;
        Some(Places { words, memory: self.memory })
    }

    fn overflow(&self, set: u32) -> u8 {
        self.probe.passing.overflows.get(set as usize).map_or(0, |mark| mark.load(Ordering::Relaxed))
    }

    fn mark_overflow(&self, _set: u32, _mark: u8) -> bool {
        true
    }

    fn fence(&self, _address: u16) -> u64 {
        // Asked for ARP and NDP alone, which no packet of a client is.
        0
    }

    fn interface(&self, index: u32) -> Option<Interface> {
        self.probe.interfaces.get(&index).copied()
    }

    fn port_macs(&self, _row: u32) -> Option<impl Deref<Target = PortMacs>> {
        // The frame is made for the port.
        None::<&PortMacs>
    }

    fn turn(&self, _service: u16) -> u64 {
        self.seen.in_turn.set(true);
        0
    }

    fn count_traffic(&self, _service: u16, backend: u16, _bytes: usize, _selected: bool) {
        self.seen.backend.set(backend);
    }

    fn count_reason(&self, _reason: Reason) {}
}

/// A set of the flow table that is read and not written.
struct Places<'a> {
    words: &'a [AtomicU64; FLOW_WAYS],
    memory: Memory,
}

impl FlowPlaces for Places<'_> {
    fn load(&self, way: usize) -> u64 {
        let word = self.words.get(way).map_or(0, |word| word.load(Ordering::Relaxed));
        match self.memory {
            Memory::AsItIs => word,
            Memory::Without(hash) if (word ^ hash) >> flow_word::SIGNATURE_SHIFT == 0 => 0,
            Memory::Without(_) => word,
            Memory::Empty => 0,
        }
    }

    fn store(&self, _way: usize, _word: u64) {}
}

/// The smallest frame that is such a packet.
fn frame(packet: &PacketTuple, mac: [u8; 6]) -> Vec<u8> {
    let (number, payload) = transport(packet);
    let mut frame = mac.to_vec();
    // A locally administered address: no client's.
    frame.extend([2, 0, 0, 0, 0, 1]);
    match (packet.source.ip(), packet.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let length = (20 + payload.len()) as u16;
            let mut header = vec![0x45, 0];
            header.extend(length.to_be_bytes());
            header.extend([0, 0, 0x40, 0, HOPS, number, 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend([8, 0]);
            frame.extend(header);
        }
        (source, destination) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((payload.len() as u16).to_be_bytes());
            frame.extend([number, HOPS]);
            frame.extend(crate::head::address_octets(source));
            frame.extend(crate::head::address_octets(destination));
        }
    }
    frame.extend(payload);
    frame
}

/// IANA's number, and the transport header.
fn transport(packet: &PacketTuple) -> (u8, Vec<u8>) {
    let mut ports = packet.source.port().to_be_bytes().to_vec();
    ports.extend(packet.destination.port().to_be_bytes());
    match packet.protocol {
        PacketProtocol::Tcp => (6, [ports, vec![0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]].concat()),
        PacketProtocol::Udp => (17, [ports, vec![0, 8, 0, 0]].concat()),
        // INIT under verification tag 0.
        PacketProtocol::Sctp => (132, [ports, vec![0; 8], vec![1, 0, 0, 20], vec![0; 16]].concat()),
        // The checksum of ICMPv6 covers addresses; the packet path changes it by difference and does not check it.
        PacketProtocol::Icmp if packet.source.is_ipv4() => (1, vec![8, 0, 0xf7, 0xff, 0, 0, 0, 0]),
        PacketProtocol::Icmp => (58, vec![128, 0, 0, 0, 0, 0, 0, 0]),
    }
}

/// The Internet checksum (RFC 1071) of words whose checksum field is 0.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.as_chunks::<2>().0.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
