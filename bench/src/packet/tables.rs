//! The tables that every scenario is measured with: a VIP of each family, 100 real servers of each.

use super::scenario::{Delivery, Scenario};
use anyhow::Context as _;
use aya::maps::{Array, MapData};
use aya::{Ebpf, Pod};
use sluicegate_forward::fleet::{Delivery as Way, DeliveryKind};
use sluicegate_forward::head;
use sluicegate_l4::directory::{address_buckets, service_buckets};
use sluicegate_l4::layout::{
    AddressBucket, AddressEntry, Backend, Control, FLOW_SETS, PortMacs, RING_LINE_SLOTS, RING_LINES, RING_SLOTS,
    RingLine, Service, ServiceBucket, map, service_key, service_word,
};
use sluicegate_l4::maglev::{Claimant, fill, identity};
use sluicegate_xdp::row::Row;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The VIP of IPv4 scenarios.
pub const VIP4: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 1);
/// The VIP of IPv6 scenarios.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfc00, 1, 0, 0, 0, 0, 0, 1);

const REALS: u16 = 100;
const TCP: u8 = 6;
const UDP: u8 = 17;
const PORT: u16 = 80;
const MTU: u32 = 1500;
/// The MAC address that frames are for.
pub const OWN_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// Where the kernel says that the frames of a test run come in.
const LOOPBACK: u32 = 1;

/// Fills the maps of a loaded director.
pub fn fill_maps(director: &mut Ebpf, scenario: &Scenario) -> anyhow::Result<()> {
    set(director, map::CONTROL, 0, Row(control()))?;
    let mut macs = PortMacs { ifindex: LOOPBACK, ..PortMacs::default() };
    macs.macs[0] = PortMacs::word(OWN_MAC);
    set(director, map::MACS, PortMacs::row_of(LOOPBACK), Row(macs))?;
    for (address, first, id) in [(IpAddr::V4(VIP4), 1_u16, 1_u16), (IpAddr::V6(VIP6), 1 + REALS, 2)] {
        for number in 0..REALS {
            set(director, map::BACKENDS, u32::from(first + number), Row(backend(scenario, address, number)))?;
        }
        fill_ring(director, u32::from(id) - 1, first, address)?;
        let service = Service { ring: u32::from(id) - 1, ring_slots: RING_SLOTS, ..Service::default() };
        set(director, map::SERVICES, u32::from(id), Row(service))?;
        let words = head::address_words(address);
        let entry = AddressEntry { address: words, id, flags: AddressEntry::ECHO };
        let bucket = AddressBucket { entries: [entry, AddressEntry::default(), AddressEntry::default()], reserved: 0 };
        set(director, map::ADDRESSES, address_buckets(&words)[0], Row(bucket))?;
        for protocol in [TCP, UDP] {
            let key = service_key(id, protocol, PORT);
            let mut bucket = ServiceBucket::default();
            bucket.words[0] = service_word(key, id);
            set(director, map::SERVICE_INDEX, service_buckets(key)[0], Row(bucket))?;
        }
    }
    Ok(())
}

fn control() -> Control {
    Control {
        live_until: u64::MAX,
        // Any odd number does; a fixed one makes runs alike.
        flow_secret: 0x5851_f42d_4c95_7f2d,
        flow_mask: FLOW_SETS - 1,
        stamp_shift: 11,
        ..Control::default()
    }
}

fn real(vip: IpAddr, number: u16) -> IpAddr {
    match vip {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(198, 51, 100, number as u8 + 1)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number + 1)),
    }
}

fn backend(scenario: &Scenario, vip: IpAddr, number: u16) -> Backend {
    let source = match vip {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1)),
    };
    let kind = match scenario.delivery {
        Delivery::L2 => DeliveryKind::L2,
        Delivery::Tunnel => DeliveryKind::Tunnel { source },
        Delivery::Gue => DeliveryKind::Gue { source },
    };
    let way = Way {
        kind,
        egress: 0,
        source_mac: OWN_MAC,
        destination_mac: [0x02, 0, 0, 0, 1, number as u8],
        tags: Vec::new(),
        mtu: MTU,
    };
    Backend { alive: 1, ..head::record(real(vip, number), &way) }
}

fn fill_ring(director: &mut Ebpf, ring: u32, first: u16, vip: IpAddr) -> anyhow::Result<()> {
    let mut claimants: Vec<Claimant> = (0..REALS)
        .map(|number| Claimant::new(first + number, 1, identity(head::address_octets(real(vip, number)))))
        .collect();
    let mut slots = vec![0_u16; RING_SLOTS as usize];
    fill(&mut claimants, &mut slots);
    for (line, slots) in (0..).zip(slots.chunks(RING_LINE_SLOTS as usize)) {
        let mut value = RingLine::default();
        value.slots[..slots.len()].copy_from_slice(slots);
        set(director, map::RINGS, ring * RING_LINES + line, Row(value))?;
    }
    Ok(())
}

/// Puts a value into an array map.
pub fn set<T: Copy + 'static>(ebpf: &mut Ebpf, name: &str, index: u32, value: Row<T>) -> anyhow::Result<()>
where
    Row<T>: Pod,
{
    let map = ebpf.map_mut(name).with_context(|| format!("the object has no map {name}"))?;
    let mut array: Array<&mut MapData, Row<T>> = Array::try_from(map).with_context(|| format!("map {name}"))?;
    array.set(index, value, 0).with_context(|| format!("map {name}, index {index}"))
}
