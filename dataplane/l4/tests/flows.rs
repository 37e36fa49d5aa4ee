//! The hashes are what they were, and the flow table keeps what it must.

mod memory;

use memory::{MemoryFrame, MemoryTables, words};
use proptest::prelude::*;
use sluicegate_l4::layout::{Backend, Service};
use sluicegate_l4::verdict::{Reason, Verdict};
use sluicegate_l4::{IDLE_STAMPS, forward, hash};
use std::collections::BTreeMap;

const VIP: [u8; 4] = [192, 0, 2, 10];
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const RST: u8 = 0x04;
const JIFFIES_OF_A_STAMP: u64 = 1 << 11;

fn tables(sets: u32, backends: u16, service: Service) -> MemoryTables {
    let mut tables = MemoryTables::new(sets);
    let mut head = [0; 72];
    head[..14].copy_from_slice(&[2, 0, 0, 0, 0, 3, 2, 0, 0, 0, 0, 2, 8, 0]);
    let row = Backend { kind: Backend::KIND_L2, alive: 1, mtu: 1500, head_len: 14, head, ..Backend::default() };
    let slots: Vec<u16> = (0..backends).map(|_| tables.add_backend(row)).collect();
    let ring = tables.add_ring(&slots);
    let vip = tables.add_vip(std::net::IpAddr::from(VIP), 0);
    tables.add_service(vip, 6, 80, Service { ring, ring_slots: u32::from(backends), ..service });
    tables
}

/// Sends one segment; why it went where it went.
fn send(tables: &MemoryTables, client: u32, port: u16, flags: u8) -> Reason {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
    frame.extend(client.to_be_bytes());
    frame.extend(VIP);
    let sum: u32 = frame[14..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = !sluicegate_l4::checksum::fold(sum);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend([0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
    match forward(&mut MemoryFrame::new(&frame, 1), tables) {
        Verdict::Transmit(reason) => reason,
        other => panic!("{other:?}"),
    }
}

/// The backend of the last packet, by what was counted.
fn backend_of(tables: &MemoryTables, send: impl FnOnce()) -> u16 {
    tables.backend_traffic.borrow_mut().clear();
    send();
    *tables.backend_traffic.borrow().keys().next().expect("a packet was counted")
}

fn pass(tables: &MemoryTables, stamps: u32) {
    tables.now.set(tables.now.get() + u64::from(stamps) * JIFFIES_OF_A_STAMP);
}

#[test]
fn hashes_are_golden() {
    let four = words("198.51.100.7".parse().expect("an address"));
    let six = words("2001:db8:1::7".parse().expect("an address"));
    let ports = u32::from_le_bytes([0x9c, 0x40, 0, 80]);
    let golden = [
        (hash::client(&four), GOLDEN[0]),
        (hash::client(&six), GOLDEN[1]),
        (hash::ring(hash::tuple(&four, ports, 6)), GOLDEN[2]),
        (hash::ring(hash::tuple(&six, ports, 6)), GOLDEN[3]),
        (hash::ring(hash::tuple(&four, ports, 17)), GOLDEN[4]),
        (u64::from(hash::slot(hash::ring(hash::tuple(&four, ports, 6)), 65_537)), GOLDEN[5]),
    ];
    let (found, wanted): (Vec<u64>, Vec<u64>) = golden.into_iter().unzip();
    assert_eq!(found, wanted, "{found:#x?}");
}

/// A change of any of these moves flows between directors of different versions.
const GOLDEN: [u64; 6] =
    [0x0764_33c6, 0x4367_7d45_eed1_9fa4, 0xf863_adb0_19ea_4d4d, 0x8a6a_83a8_a54b_a93c, 0x63eb_ecb4_8412_648e, 0xf864];

#[test]
fn a_flow_stays_while_the_ring_changes() {
    let mut tables = tables(1024, 7, Service::default());
    let before: Vec<u16> = (0..100)
        .map(|port| backend_of(&tables, || assert_eq!(send(&tables, 1 << 24, port, ACK), Reason::FlowNew)))
        .collect();
    // All slots lead elsewhere.
    let elsewhere = tables.backends.len() as u16;
    tables.add_backend(tables.backends[1]);
    tables.rings.iter_mut().for_each(|line| line.slots.fill(elsewhere));
    for (port, backend) in before.iter().enumerate() {
        let after = backend_of(&tables, || assert_eq!(send(&tables, 1 << 24, port as u16, ACK), Reason::FlowHit));
        assert_eq!(after, *backend);
    }
}

#[test]
fn a_dead_backend_loses_its_flows_and_a_new_generation_too() {
    let mut tables = tables(1024, 1, Service::default());
    assert_eq!(send(&tables, 5, 1, SYN), Reason::FlowNew);
    assert_eq!(send(&tables, 5, 1, ACK), Reason::FlowHit);
    tables.backends[1].generation = 1;
    assert_eq!(send(&tables, 5, 1, ACK), Reason::FlowMoved);
    assert_eq!(send(&tables, 5, 1, ACK), Reason::FlowHit);
    let other = tables.add_backend(tables.backends[1]);
    tables.backends[1].alive = 0;
    tables.rings[0].slots[0] = other;
    assert_eq!(backend_of(&tables, || assert_eq!(send(&tables, 5, 1, ACK), Reason::FlowMoved)), other);
}

#[test]
fn a_flood_of_attempts_displaces_no_established_flow() {
    let tables = tables(256, 3, Service::default());
    let established: Vec<u16> = (0..1000).collect();
    for port in &established {
        send(&tables, 9, *port, SYN);
        send(&tables, 9, *port, ACK);
    }
    // Those that found both of their sets full stay untracked; the others are there.
    let tracked: Vec<u16> =
        established.into_iter().filter(|port| send(&tables, 9, *port, ACK) == Reason::FlowHit).collect();
    assert!(tracked.len() > 998, "{} of 1000 flows in 2048 places", tracked.len());
    for attempt in 0..50_000_u32 {
        send(&tables, 0x0b00_0000 + attempt, 7, SYN);
    }
    pass(&tables, IDLE_STAMPS - 1);
    for attempt in 0..50_000_u32 {
        send(&tables, 0x0c00_0000 + attempt, 7, SYN);
    }
    let lost = tracked.iter().filter(|port| send(&tables, 9, **port, ACK) != Reason::FlowHit).count();
    assert_eq!(lost, 0);
}

/// As full as the table of a million flows: one set in twenty is full, and its flows go to their second ones.
#[test]
fn a_table_half_full_tracks_all_but_one_in_a_thousand_through_a_flood() {
    let tables = tables(4096, 3, Service::default());
    let flows = 4 * 4096;
    let open = |flow: u16| {
        send(&tables, 9, flow, SYN);
        send(&tables, 9, flow, ACK)
    };
    let tracked = (0..flows).filter(|flow| open(*flow) == Reason::FlowHit).count();
    let overflowed = tables.overflows.iter().filter(|mark| mark.get() != 0).count();
    assert!((20..400).contains(&overflowed), "{overflowed} of 4096 sets overflowed");
    for attempt in 0..200_000_u32 {
        send(&tables, 0x0b00_0000 + attempt, 7, SYN);
    }
    let found = (0..flows).filter(|flow| send(&tables, 9, *flow, ACK) == Reason::FlowHit).count();
    assert_eq!(found, tracked, "the flood displaced nobody");
    assert!(found * 1000 >= usize::from(flows) * 999, "{found} of {flows}");
}

/// Flows that nobody saw begin (a director took over) are seen from their second packets on, and do not push out each other
/// for ever.
#[test]
fn flows_that_were_known_elsewhere_are_all_tracked_after_some_packets() {
    let tables = tables(4096, 3, Service::default());
    let flows = 4 * 4096;
    let found = || (0..flows).filter(|flow| send(&tables, 9, *flow, ACK) == Reason::FlowHit).count();
    let rounds: Vec<usize> = (0..6).map(|_| found()).collect();
    assert!(rounds[5] * 1000 >= usize::from(flows) * 999, "{rounds:?} of {flows}");
    println!("{rounds:?}");
}

/// A set that never had to turn a flow away is all that is looked at.
#[test]
fn sets_without_a_mark_end_the_search() {
    let tables = tables(64, 1, Service::default());
    for port in 0..100 {
        assert_eq!(send(&tables, 9, port, SYN), Reason::FlowNew);
        assert_eq!(send(&tables, 9, port, ACK), Reason::FlowHit);
    }
    assert!(tables.overflows.iter().all(|mark| mark.get() == 0), "100 flows in 64 sets of 8");
    // As if all of them lay in second sets: without marks nobody finds them there.
    let mut moved = tables;
    moved.flows.rotate_left(1);
    assert!((0..100).all(|port| send(&moved, 9, port, ACK) != Reason::FlowHit));
}

/// What a packet does to a flow of the model.
#[derive(Clone, Copy, Debug)]
enum Step {
    Packet { flow: u16, flags: u8 },
    Pass { stamps: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![2 => Just(SYN), 8 => Just(ACK), 1 => Just(RST)];
    prop_oneof![
        60 => (0..90_u16, flags).prop_map(|(flow, flags)| Step::Packet { flow, flags }),
        1 => (0..40_u32).prop_map(|stamps| Step::Pass { stamps }),
    ]
}

proptest! {
    /// Whatever came in between: a flow that was confirmed, and neither reset nor silent for long, is found, whether it is
    /// in its first set or in its second one.
    #[test]
    fn confirmed_flows_are_found(steps in prop::collection::vec(step(), 1..1500)) {
        let tables = tables(4, 2, Service::default());
        // The stamp of the last packet of each flow that is confirmed.
        let mut confirmed = BTreeMap::new();
        let mut present = 0;
        for step in steps {
            let (flow, flags) = match step {
                Step::Packet { flow, flags } => (flow, flags),
                Step::Pass { stamps } => {
                    pass(&tables, stamps);
                    present += stamps;
                    continue;
                }
            };
            let reason = send(&tables, 77, flow, flags);
            let kept = confirmed.get(&flow).is_some_and(|last| present - last <= IDLE_STAMPS);
            prop_assert!(!kept || reason == Reason::FlowHit, "{reason:?} of flow {flow} at {present}: {confirmed:?}");
            if reason == Reason::FlowHit && flags != RST && (flags == ACK || kept) {
                confirmed.insert(flow, present);
            } else {
                confirmed.remove(&flow);
            }
        }
    }
}

#[test]
fn idle_flows_give_way_and_fresh_ones_do_not() {
    let tables = tables(1, 1, Service::default());
    for port in 0..8 {
        send(&tables, 9, port, SYN);
        send(&tables, 9, port, ACK);
    }
    assert_eq!(send(&tables, 9, 100, SYN), Reason::FlowUntracked);
    pass(&tables, IDLE_STAMPS);
    assert_eq!(send(&tables, 9, 100, SYN), Reason::FlowUntracked);
    pass(&tables, 1);
    assert_eq!(send(&tables, 9, 100, SYN), Reason::FlowNew);
    // A flow that was reset is an attempt again, and the next to go.
    for port in 0..8 {
        send(&tables, 9, port, ACK);
    }
    send(&tables, 9, 3, RST);
    assert_eq!(send(&tables, 9, 200, SYN), Reason::FlowNew);
}

#[test]
fn clients_persist_by_their_prefix_for_a_time() {
    let service = Service { persistence_stamps: 3, persistence_prefix4: 24, ..Service::default() };
    let tables = tables(1024, 50, service);
    let first = backend_of(&tables, || assert_eq!(send(&tables, 0xc633_6401, 1, SYN), Reason::FlowNew));
    for port in 2..40 {
        let client = 0xc633_6400 + u32::from(port);
        assert_eq!(backend_of(&tables, || assert_eq!(send(&tables, client, port, SYN), Reason::Persistent)), first);
        pass(&tables, 1);
    }
    pass(&tables, 4);
    assert_eq!(send(&tables, 0xc633_6401, 99, SYN), Reason::FlowNew);
    assert_eq!(send(&tables, 0xc633_6501, 99, SYN), Reason::FlowNew);
}
