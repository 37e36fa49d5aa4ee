//! Frames: whatever comes, the packet path ends with a verdict, counts it once, and touches nothing but the frame; what
//! passes is as it came.
#![no_main]

// The tables of the tests: plain memory.
#[allow(dead_code, reason = "a fuzz target needs a part of them")]
#[path = "../../dataplane/l4/tests/memory/mod.rs"]
mod memory;

use libfuzzer_sys::fuzz_target;
use memory::{MemoryFrame, MemoryTables, words};
use sluicegate_l4::layout::{AddressEntry, Backend, Interface, Service};
use sluicegate_l4::verdict::Verdict;
use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10));

thread_local! {
    static TABLES: RefCell<MemoryTables> = RefCell::new(tables());
}

fuzz_target!(|data: &[u8]| {
    // The first byte chooses a beginning that gets past the first checks.
    let Some((first, rest)) = data.split_first() else { return };
    let mut bytes = beginning(*first);
    bytes.extend_from_slice(rest);
    TABLES.with_borrow(|tables| check(tables, &bytes));
});

fn check(tables: &MemoryTables, bytes: &[u8]) {
    let counted: u64 = tables.reasons.borrow().values().sum();
    let mut frame = MemoryFrame::new(bytes, 1);
    let verdict = sluicegate_l4::forward(&mut frame, tables);
    assert_eq!(tables.reasons.borrow().values().sum::<u64>(), counted + 1, "{verdict:?} is counted once");
    match verdict {
        Verdict::Pass(_) => assert_eq!(frame.bytes(), bytes, "{verdict:?}: what passes is as it came"),
        Verdict::Transmit(_) | Verdict::Redirect(..) => assert!(frame.bytes().len() >= 14, "{verdict:?}"),
        Verdict::Drop(_) => {}
    }
}

/// Ethernet and the beginning of an IP header to a VIP, or nothing.
fn beginning(choice: u8) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    match choice % 4 {
        0 => {
            bytes.extend([8, 0, 0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, choice >> 2, 0, 0, 10, 0, 0, 1, 192, 0, 2, 10]);
            let sum: u32 = bytes[14..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
            let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
            bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        1 => {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, choice >> 2, 64]);
            bytes.extend(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1).octets());
            let IpAddr::V6(vip) = VIP6 else { return bytes };
            bytes.extend(vip.octets());
        }
        2 => bytes.extend([8, 6]),
        _ => bytes.clear(),
    }
    bytes
}

fn tables() -> MemoryTables {
    let mut tables = MemoryTables::new(64);
    tables.interfaces.insert(1, Interface { mac: [2, 0, 0, 0, 0, 1], mtu: 1500 });
    let mut slots = Vec::new();
    for (number, (kind, head_len)) in [
        (Backend::KIND_L2, 14),
        (Backend::KIND_IP4, 34),
        (Backend::KIND_IP6, 54),
        (Backend::KIND_GUE4, 42),
        (Backend::KIND_GUE6, 62),
        (Backend::KIND_LOCAL, 0),
    ]
    .into_iter()
    .enumerate()
    {
        let address = words(IpAddr::V4(Ipv4Addr::new(198, 51, 100, number as u8)));
        slots.push(tables.add_backend(Backend { kind, head_len, alive: 1, mtu: 1400, address, ..Backend::default() }));
    }
    let ring = tables.add_ring(&slots);
    for vip in [VIP4, VIP6] {
        let id = tables.add_vip(vip, AddressEntry::ECHO);
        let service = Service {
            ring,
            ring_slots: slots.len() as u32,
            flags: Service::FLAG_FRAGMENTS,
            persistence_prefix4: 24,
            persistence_prefix6: 64,
            persistence_stamps: 10,
            ..Service::default()
        };
        let bound = tables.add_service(id, 6, 80, service);
        tables.bind(id, 17, 0, bound);
    }
    tables
}
