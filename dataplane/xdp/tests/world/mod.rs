//! One world for both worlds: tables in memory, the same in the maps of a loaded director, and frames to send at them.

#![allow(dead_code, reason = "not every test that includes this module uses all of it")]

#[path = "../../../l4/tests/memory/mod.rs"]
pub mod memory;

use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use memory::MemoryTables;
use sluicegate_l4::layout::{AddressEntry, Backend, FLOW_WAYS, GUE_PORT, Interface, PortMacs, Service, map};
use sluicegate_l4::verdict::Reason;
use sluicegate_xdp::row::Row;
use std::net::IpAddr;

/// Index of the loopback interface, which test runs come in on.
pub const INGRESS: u32 = 1;
/// A port that no map knows.
pub const ELSEWHERE: u32 = 77;
pub const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const DIRECTOR: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Above the director's port.
pub const BRIDGE: [u8; 6] = [2, 0, 0, 0, 0, 4];
pub const REAL: [u8; 6] = [2, 0, 0, 0, 0, 3];
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// A backend of this kind, with these tags and this port.
pub fn backend(kind: u8, tags: &[u8], egress: u32) -> Backend {
    let mut head = Vec::new();
    head.extend(REAL);
    head.extend(DIRECTOR);
    head.extend(tags);
    head.extend(if matches!(kind, Backend::KIND_IP6 | Backend::KIND_GUE6) { [0x86, 0xdd] } else { [0x08, 0x00] });
    let mut checksum = 0;
    let is_gue = matches!(kind, Backend::KIND_GUE4 | Backend::KIND_GUE6);
    match kind {
        Backend::KIND_IP4 | Backend::KIND_GUE4 => {
            let protocol = if is_gue { UDP } else { 4 };
            let outer = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 198, 51, 100, 1, 198, 51, 100, 9];
            let sum: u32 = outer.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
            checksum = ((sum & 0xffff) + (sum >> 16)) as u16;
            head.extend(outer);
        }
        Backend::KIND_IP6 | Backend::KIND_GUE6 => {
            head.extend([0x60, 0, 0, 0, 0, 0, if is_gue { UDP } else { 41 }, 64]);
            head.extend("2001:db8:f::1".parse::<std::net::Ipv6Addr>().expect("an address").octets());
            head.extend("2001:db8:f::9".parse::<std::net::Ipv6Addr>().expect("an address").octets());
        }
        _ => {}
    }
    if is_gue {
        head.extend([0, 0]);
        head.extend(GUE_PORT.to_be_bytes());
        head.extend([0, 0, 0, 0]);
    }
    let mut row =
        Backend { kind, alive: 1, mtu: 1400, checksum, egress, head_len: head.len() as u8, ..Backend::default() };
    row.head[..head.len()].copy_from_slice(&head);
    row
}

/// Two VIPs with services on all kinds of backends.
pub fn tables(flow_sets: u32) -> MemoryTables {
    let mut tables = MemoryTables::new(flow_sets);
    // No time passes: stamps are all 0, whatever the kernel's clock says.
    tables.control.stamp_shift = 62;
    let kinds = [
        (Backend::KIND_L2, &[][..], 0),
        (Backend::KIND_IP4, &[], 0),
        (Backend::KIND_IP6, &[], 0),
        (Backend::KIND_GUE4, &[], 0),
        (Backend::KIND_GUE6, &[], 0),
        (Backend::KIND_L2, &[], ELSEWHERE),
        (Backend::KIND_IP4, &[0x81, 0, 0, 7], 0),
        (Backend::KIND_GUE6, &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8], ELSEWHERE),
        (Backend::KIND_LOCAL, &[], 0),
    ];
    let mut ids = Vec::new();
    for (kind, tags, egress) in kinds {
        ids.push(tables.add_backend(backend(kind, tags, egress)));
    }
    let dead = tables.add_backend(Backend { alive: 0, ..backend(Backend::KIND_L2, &[], 0) });
    let slots: Vec<u16> = (0..101).map(|slot| ids[slot * 7 % ids.len()]).collect();
    let ring = tables.add_ring(&slots);
    let holes = tables.add_ring(&[ids[0], 0, dead, ids[1], 20_000]);
    let (chance, former) = second_chance_rings(&mut tables);
    let service = |flags, select| Service { ring, ring_slots: 101, flags, select, ..Service::default() };
    let vip4 = tables.add_vip("192.0.2.10".parse().expect("an address"), AddressEntry::ECHO);
    let vip6 = tables.add_vip("2001:db8::10".parse().expect("an address"), AddressEntry::ECHO);
    let local = tables.add_vip("192.0.2.11".parse().expect("an address"), AddressEntry::LOCAL);
    let fenced = tables.add_vip("192.0.2.12".parse().expect("an address"), 0);
    tables.fences.insert(fenced, 0);
    for vip in [vip4, vip6] {
        tables.add_service(vip, TCP, 80, service(0, Service::SELECT_TUPLE));
        tables.add_service(vip, UDP, 80, service(Service::FLAG_FRAGMENTS, Service::SELECT_TUPLE));
        let sticky = Service {
            persistence_stamps: 10,
            persistence_prefix4: 24,
            persistence_prefix6: 64,
            ..service(0, Service::SELECT_SOURCE)
        };
        tables.add_service(vip, TCP, 81, sticky);
        tables.add_service(vip, UDP, 53, service(Service::FLAG_ONE_PACKET, Service::SELECT_DESTINATION));
        tables.add_service(vip, TCP, 82, Service { ring: holes, ring_slots: 5, ..Service::default() });
        tables.add_service(vip, TCP, 83, Service::default());
        let flags = Service::FLAG_SECOND_CHANCE;
        let second = Service { ring: chance, ring_slots: 8, former_ring: former, flags, ..Service::default() };
        tables.add_service(vip, TCP, 85, second);
        tables.add_service(vip, 132, 0, service(0, Service::SELECT_TUPLE));
    }
    tables.add_service(local, 0, 0, service(Service::FLAG_FRAGMENTS, Service::SELECT_TUPLE));
    tables.interfaces.insert(INGRESS, Interface { mac: DIRECTOR, mtu: 1500 });
    let mut macs = PortMacs { ifindex: INGRESS, ..PortMacs::default() };
    (macs.macs[0], macs.macs[6]) = (PortMacs::word(BRIDGE), PortMacs::word(DIRECTOR));
    tables.macs.insert(PortMacs::row_of(INGRESS), macs);
    tables
}

/// Owners of slots behind GUE, and former owners: of the same family, of the other one, dead, the same, nobody.
fn second_chance_rings(tables: &mut MemoryTables) -> (u32, u32) {
    let mut add = |kind, tags: &[u8], egress, alive, address: &str| {
        let address = memory::words(address.parse().expect("an address"));
        tables.add_backend(Backend { alive, address, ..backend(kind, tags, egress) })
    };
    let four = [
        add(Backend::KIND_GUE4, &[], 0, 1, "203.0.113.21"),
        add(Backend::KIND_GUE4, &[0x81, 0, 0, 7], 0, 1, "203.0.113.22"),
        add(Backend::KIND_GUE4, &[], ELSEWHERE, 0, "203.0.113.23"),
    ];
    let six = [
        add(Backend::KIND_GUE6, &[], 0, 1, "2001:db8:2::21"),
        add(Backend::KIND_GUE6, &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8], ELSEWHERE, 1, "2001:db8:2::22"),
    ];
    let present = [four[0], four[1], six[0], six[1], four[0], four[0], four[0], six[0]];
    let former = [four[1], four[0], six[1], six[0], six[0], four[2], four[0], 0];
    (tables.add_ring(&present), tables.add_ring(&former))
}

/// Loads the director and writes these tables into its maps.
pub fn load(tables: &MemoryTables) -> Ebpf {
    let mut object = EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::STATS)
        .map_max_entries(map::FLOWS, tables.flows.len() as u32)
        .map_max_entries(map::RINGS, tables.rings.len() as u32 + 1)
        .load(sluicegate_xdp::DIRECTOR)
        .expect("the maps are made");
    rows(&mut object, map::CONTROL, &[tables.control]);
    rows(&mut object, map::ADDRESSES, &tables.addresses);
    rows(&mut object, map::SERVICE_INDEX, &tables.service_index);
    rows(&mut object, map::SERVICES, &tables.services);
    rows(&mut object, map::RINGS, &tables.rings);
    rows(&mut object, map::BACKENDS, &tables.backends);
    let mut fences = Array::<_, u64>::try_from(map_of(&mut object, map::FENCES)).expect("an array");
    for (id, fence) in &tables.fences {
        fences.set(u32::from(*id), fence, 0).expect("written");
    }
    let mut ports = HashMap::<_, u32, Row<Interface>>::try_from(map_of(&mut object, map::INTERFACES)).expect("a map");
    for (index, interface) in &tables.interfaces {
        ports.insert(index, Row(*interface), 0).expect("written");
    }
    let mut macs = Array::<_, Row<PortMacs>>::try_from(map_of(&mut object, map::MACS)).expect("an array");
    for (row, port) in &tables.macs {
        macs.set(*row, Row(*port), 0).expect("written");
    }
    let program: &mut Xdp = object.program_mut("director").expect("a program").try_into().expect("XDP");
    program.load().unwrap_or_else(|why| panic!("{why:?}"));
    object
}

fn map_of<'a>(object: &'a mut Ebpf, name: &str) -> &'a mut aya::maps::Map {
    object.map_mut(name).unwrap_or_else(|| panic!("no map {name}"))
}

fn rows<T: Copy + 'static>(object: &mut Ebpf, name: &str, rows: &[T])
where
    Row<T>: aya::Pod,
{
    let mut array: Array<&mut MapData, Row<T>> = Array::try_from(map_of(object, name)).expect("an array");
    for (index, row) in rows.iter().enumerate() {
        array.set(index as u32, Row(*row), 0).expect("written");
    }
}

/// The words of the flow table, and which sets are marked as overflowed.
pub fn flows(object: &Ebpf, sets: usize) -> (Vec<[u64; FLOW_WAYS]>, Vec<bool>) {
    let map = object.map(map::FLOWS).expect("a map");
    let words = Array::<_, [u64; FLOW_WAYS]>::try_from(map).expect("an array");
    let map = object.map(map::OVERFLOWS).expect("a map");
    let lines = Array::<_, [u8; 64]>::try_from(map).expect("an array");
    let words = (0..sets).map(|set| words.get(&(set as u32), 0).expect("a row")).collect();
    let mark = |set: usize| lines.get(&(set as u32 / 64), 0).expect("a row")[set % 64];
    (words, (0..sets).map(|set| mark(set) != 0).collect())
}

/// Packets by reason, of all CPUs.
pub fn reasons(object: &Ebpf) -> Vec<u64> {
    let map = object.map(map::REASONS).expect("a map");
    let counters = PerCpuArray::<_, u64>::try_from(map).expect("an array");
    Reason::ALL.iter().map(|reason| counters.get(&reason.index(), 0).expect("a row").iter().sum()).collect()
}

/// One's complement sum of bytes, the slow and obvious way.
pub fn naive_checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A frame around an IP payload, with a right IPv4 checksum.
#[derive(Clone)]
pub struct Ip<'a> {
    pub source: &'a str,
    pub destination: &'a str,
    pub protocol: u8,
    pub hops: u8,
    pub class: u8,
    /// IPv4: flags and offset.
    pub fragment: u16,
    pub tags: &'a [u8],
    pub payload: Vec<u8>,
}

impl Default for Ip<'_> {
    fn default() -> Self {
        Self {
            source: "198.51.100.7",
            destination: "192.0.2.10",
            protocol: TCP,
            hops: 61,
            class: 0,
            fragment: 0x4000,
            tags: &[],
            payload: tcp(40_000, 80, 0x10, 20),
        }
    }
}

impl Ip<'_> {
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(DIRECTOR);
        frame.extend(ROUTER);
        frame.extend(self.tags);
        frame.extend(match self.destination.parse::<IpAddr>().expect("an address") {
            IpAddr::V4(_) => [0x08, 0x00],
            IpAddr::V6(_) => [0x86, 0xdd],
        });
        frame.extend(self.packet());
        frame
    }

    pub fn packet(&self) -> Vec<u8> {
        let source: IpAddr = self.source.parse().expect("an address");
        let destination: IpAddr = self.destination.parse().expect("an address");
        let mut packet = Vec::new();
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                packet.extend([0x45, self.class]);
                packet.extend((20 + self.payload.len() as u16).to_be_bytes());
                packet.extend([0x12, 0x34]);
                packet.extend(self.fragment.to_be_bytes());
                packet.extend([self.hops, self.protocol, 0, 0]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
                let sum = naive_checksum(&packet);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                packet.extend((6_u32 << 28 | u32::from(self.class) << 20).to_be_bytes());
                packet.extend((self.payload.len() as u16).to_be_bytes());
                packet.extend([self.protocol, self.hops]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
            }
            _ => panic!("mixed families"),
        }
        packet.extend(&self.payload);
        packet
    }
}

/// A TCP segment with this flag byte and so many bytes of data.
pub fn tcp(source: u16, destination: u16, flags: u8, data: usize) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(source.to_be_bytes());
    segment.extend(destination.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 1, 0, 0xab, 0xcd, 0, 0]);
    segment.resize(20 + data, 0x5a);
    segment
}

/// A UDP datagram.
pub fn udp(source: u16, destination: u16, data: usize) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(source.to_be_bytes());
    datagram.extend(destination.to_be_bytes());
    datagram.extend((8 + data as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.resize(8 + data, 0x77);
    datagram
}

/// An ICMP message (IPv4) with a right checksum.
pub fn icmp(kind: u8, code: u8, rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    message.extend(body);
    let sum = naive_checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// An ICMPv6 message with a right checksum.
pub fn icmp6(source: &str, destination: &str, kind: u8, rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(rest);
    message.extend(body);
    let sum = naive_checksum(&[pseudo(source, destination, message.len(), 58), message.clone()].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// The pseudo-header of IPv6.
pub fn pseudo(source: &str, destination: &str, length: usize, protocol: u8) -> Vec<u8> {
    let octets = |address: &str| address.parse::<std::net::Ipv6Addr>().expect("an address").octets();
    let mut bytes = Vec::new();
    bytes.extend(octets(source));
    bytes.extend(octets(destination));
    bytes.extend((length as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes
}

/// An ARP request.
pub fn arp(sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(ROUTER);
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(ROUTER);
    frame.extend(sender);
    frame.extend([0; 6]);
    frame.extend(target);
    frame.resize(60, 0);
    frame
}
