//! Packets that take the fast lane end as those that do not: the same frame with a VLAN tag takes the general path, and the
//! tag is all that it differs by, before and after.

mod memory;

use memory::{MemoryFrame, MemoryTables};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use sluicegate_l4::forward;
use sluicegate_l4::layout::{Backend, Service, Traffic};
use sluicegate_l4::verdict::{Reason, Verdict};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

const INGRESS: u32 = 1;
const TAG: [u8; 4] = [0x81, 0, 0, 9];
const VIP4: [u8; 4] = [192, 0, 2, 10];
const VIP6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
const TCP: u8 = 6;
const UDP: u8 = 17;
const STAMP: u64 = 1 << 11;

/// A backend whose head has no tags and that leaves by the port of the packet, so that a frame keeps its tag.
fn backend(kind: u8, mtu: u16) -> Backend {
    let mut head = [0; 72];
    let length: u8 = match kind {
        Backend::KIND_IP4 => 34,
        Backend::KIND_GUE4 => 42,
        Backend::KIND_IP6 => 54,
        Backend::KIND_GUE6 => 62,
        _ => 14,
    };
    for (at, byte) in head.iter_mut().enumerate().take(usize::from(length)) {
        *byte = at as u8 + 1;
    }
    Backend { kind, alive: 1, mtu, head_len: length, head, checksum: 0x1234, ..Backend::default() }
}

fn tables() -> MemoryTables {
    let mut tables = MemoryTables::new(16);
    let kinds = [
        Backend::KIND_L2,
        Backend::KIND_IP4,
        Backend::KIND_IP6,
        Backend::KIND_GUE4,
        Backend::KIND_GUE6,
        Backend::KIND_LOCAL,
    ];
    let ids = kinds.map(|kind| tables.add_backend(backend(kind, 1400)));
    let slots: Vec<u16> = (0..101).map(|slot| ids[slot * 7 % ids.len()]).collect();
    let ring = tables.add_ring(&slots);
    let service = Service { ring, ring_slots: 101, ..Service::default() };
    let sticky = Service { persistence_stamps: 3, persistence_prefix4: 24, persistence_prefix6: 64, ..service };
    for address in [std::net::IpAddr::from(VIP4), std::net::IpAddr::from(VIP6)] {
        let vip = tables.add_vip(address, 0);
        tables.add_service(vip, TCP, 80, service);
        tables.add_service(vip, TCP, 81, sticky);
        tables.add_service(vip, TCP, 82, Service::default());
        tables.add_service(vip, UDP, 80, Service { udp_idle_stamps: 1, ..service });
        tables.add_service(vip, UDP, 53, Service { flags: Service::FLAG_ONE_PACKET, ..service });
        tables.add_service(vip, UDP, 0, Service { flags: Service::FLAG_FRAGMENTS, ..service });
    }
    tables
}

/// What a frame is made of.
#[derive(Clone, Debug)]
struct Sent {
    v6: bool,
    client: u8,
    protocol: u8,
    ports: (u16, u16),
    flags: u8,
    class: u8,
    hops: u8,
    payload: usize,
    padding: usize,
    /// Bytes of the frame that are damaged: (place, new value).
    damage: Vec<(usize, u8)>,
    /// Stamps that pass before it.
    pause: u64,
}

fn sent() -> impl Strategy<Value = Sent> {
    let what = (any::<bool>(), 0..2_u8, prop_oneof![4 => Just(TCP), 4 => Just(UDP), 1 => any::<u8>()]);
    let ports = (1..3_u16, prop_oneof![6 => Just(80_u16), 1 => Just(81), 1 => Just(82), 1 => Just(53), 1 => Just(9)]);
    let head = (prop_oneof![3 => Just(0x10_u8), 1 => Just(2), 1 => Just(4)], any::<u8>(), 0..5_u8);
    let damage = prop_oneof![4 => Just(Vec::new()), 1 => prop::collection::vec((12..70_usize, any::<u8>()), 1..3)];
    let size = (prop_oneof![8 => 0..40_usize, 1 => 1300..1420_usize], 0..8_usize);
    (what, ports, head, size, damage, 0..2_u64).prop_map(
        |((v6, client, protocol), ports, (flags, class, hops), (payload, padding), damage, pause)| Sent {
            v6,
            client,
            protocol,
            ports,
            flags,
            class,
            hops: if hops == 0 { 1 } else { 64 },
            payload,
            padding,
            damage,
            pause,
        },
    )
}

fn frame(sent: &Sent) -> Vec<u8> {
    let mut transport = [sent.ports.0.to_be_bytes(), sent.ports.1.to_be_bytes()].concat();
    transport.extend(if sent.protocol == TCP {
        vec![0, 0, 0, 0, 0, 0, 0, 0, 0x50, sent.flags, 0, 0, 0, 0, 0, 0]
    } else {
        vec![0; 4]
    });
    transport.extend(std::iter::repeat_n(0x5a, sent.payload));
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    if sent.v6 {
        frame.extend([0x86, 0xdd, 0x60 | sent.class >> 4, sent.class << 4, 0, 0]);
        frame.extend((transport.len() as u16).to_be_bytes());
        frame.extend([sent.protocol, sent.hops]);
        frame.extend([0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, sent.client]);
        frame.extend(VIP6);
    } else {
        frame.extend([8, 0, 0x45, sent.class]);
        frame.extend((20 + transport.len() as u16).to_be_bytes());
        frame.extend([0, 1, 0x40, 0, sent.hops, sent.protocol, 0, 0, 198, 51, 100, sent.client]);
        frame.extend(VIP4);
        let sum: u32 = frame[14..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        frame[24..26].copy_from_slice(&(!sluicegate_l4::checksum::fold(sum)).to_be_bytes());
    }
    frame.extend(transport);
    frame.extend(std::iter::repeat_n(0, sent.padding));
    for (place, byte) in &sent.damage {
        if let Some(old) = frame.get_mut(*place) {
            *old = *byte;
        }
    }
    frame
}

fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &TAG, &frame[12..]].concat()
}

fn run(tables: &MemoryTables, frame: &[u8]) -> (Verdict, Vec<u8>) {
    let mut packet = MemoryFrame::new(frame, INGRESS);
    let verdict = forward(&mut packet, tables);
    (verdict, packet.bytes().to_vec())
}

fn flows(tables: &MemoryTables) -> Vec<u64> {
    tables.flows.iter().flatten().map(|word| word.load(Ordering::Relaxed)).collect()
}

/// Packets and flows; the bytes differ by the tag.
fn counted(traffic: &BTreeMap<u16, Traffic>) -> Vec<(u16, u64, u64)> {
    traffic.iter().map(|(id, row)| (*id, row.packets, row.flows)).collect()
}

/// The same packets, one after another, through two directors.
fn agree(packets: &[Sent], hits: &Cell<u64>) -> Result<(), TestCaseError> {
    let (lane, general) = (tables(), tables());
    for sent in packets {
        for tables in [&lane, &general] {
            tables.now.set(tables.now.get() + sent.pause * STAMP);
        }
        let frame = frame(sent);
        // A frame that damage made a tagged one, or no IP, says nothing.
        if !matches!(frame[12..14], [8, 0] | [0x86, 0xdd]) {
            continue;
        }
        let (verdict, after) = run(&lane, &frame);
        let (other, other_after) = run(&general, &tagged(&frame));
        prop_assert_eq!(verdict, other, "{:02x?}", frame);
        if matches!(verdict, Verdict::Transmit(_)) {
            prop_assert_eq!(tagged(&after), other_after, "{:02x?}", frame);
        }
    }
    prop_assert_eq!(flows(&lane), flows(&general));
    prop_assert_eq!(&*lane.reasons.borrow(), &*general.reasons.borrow());
    prop_assert_eq!(counted(&lane.service_traffic.borrow()), counted(&general.service_traffic.borrow()));
    prop_assert_eq!(counted(&lane.backend_traffic.borrow()), counted(&general.backend_traffic.borrow()));
    hits.set(hits.get() + lane.reason(Reason::FlowHit));
    Ok(())
}

#[test]
fn the_lane_and_the_general_path_agree() {
    let hits = Cell::new(0);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(2000));
    runner
        .run(&prop::collection::vec(sent(), 1..60), |packets| agree(&packets, &hits))
        .unwrap_or_else(|failure| panic!("{failure}"));
    assert!(hits.get() > 2_000, "only {} packets were of flows that were known", hits.get());
}
