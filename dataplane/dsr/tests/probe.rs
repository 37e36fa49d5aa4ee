//! Probes on the packets' way: what the director sends must be what a real server unwraps.

mod support;

use sluicegate_dsr::hand_over::Socket;
use sluicegate_dsr::layout::{MARK_BASE, MARK_MASK, mark, marked_backend};
use sluicegate_dsr::{ProbeVerdict, Reason, Verdict, probe, unwrap};
use sluicegate_l4::layout::{Backend, MAX_BACKENDS};
use support::{Always, CLIENT4, Frame, Tables, VIP4, backend, client4, client6, frame, ip};

fn probed(packet: &mut Frame, backend: &Backend) -> ProbeVerdict {
    let mark = mark(7).expect("an id");
    probe(packet, mark, |id| (id == 7).then_some(backend))
}

/// Delivery takes a hop, as it does from clients.
fn one_hop_on(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes[14] >> 4 == 6 {
        bytes[21] -= 1;
        return bytes;
    }
    bytes[22] -= 1;
    bytes[24..26].fill(0);
    let sum = support::checksum(&[&bytes[14..34]]).to_be_bytes();
    bytes[24..26].copy_from_slice(&sum);
    bytes
}

#[test]
fn what_is_wrapped_here_is_unwrapped_there() {
    for kind in [Backend::KIND_IP4, Backend::KIND_IP6, Backend::KIND_GUE4, Backend::KIND_GUE6] {
        for class in [0, 0b1011_1010] {
            for inner in [client4(class), client6(class)] {
                let before = frame(&[], &inner);
                let mut packet = Frame(before.clone());
                let sent = probed(&mut packet, &backend(kind));
                assert_eq!(sent, ProbeVerdict::Redirect(Reason::Probed, 9), "kind {kind}");
                assert_eq!(packet.0.len(), before.len() + usize::from(backend(kind).head_len) - 14);
                let verdict = unwrap(&mut packet, &Tables::of_host(), &Always(Socket::None));
                assert!(
                    matches!(verdict, Verdict::Pass(Reason::UnwrappedIp | Reason::UnwrappedGue)),
                    "kind {kind}: {verdict:?}"
                );
                assert_eq!(packet.0, one_hop_on(before), "kind {kind}");
            }
        }
    }
}

#[test]
fn the_outer_header_says_the_inner_class() {
    let mut packet = Frame(frame(&[], &client4(0b1011_1010)));
    probed(&mut packet, &backend(Backend::KIND_IP4));
    assert_eq!(packet.0[15], 0b1011_1010);
    assert_eq!(support::checksum(&[&packet.0[14..34]]), 0);
    let mut packet = Frame(frame(&[], &client4(0b1011_1010)));
    probed(&mut packet, &backend(Backend::KIND_GUE6));
    assert_eq!((packet.0[14], packet.0[15] & 0xf0), (0x6b, 0xa0));
    let udp = &packet.0[54..62];
    assert_eq!(usize::from(u16::from_be_bytes([udp[4], udp[5]])), packet.0.len() - 54);
    assert!(udp[0] >= 0xc0 && udp[6..] == [0, 0]);
}

#[test]
fn on_a_link_only_the_addresses_change() {
    let mut packet = Frame(frame(&[], &client6(0)));
    packet.0[..12].fill(0);
    assert_eq!(probed(&mut packet, &backend(Backend::KIND_L2)), ProbeVerdict::Redirect(Reason::Probed, 9));
    assert_eq!(packet.0, one_hop_on(frame(&[], &client6(0))));
}

#[test]
fn what_cannot_be_probed_has_a_name() {
    let small = Backend { mtu: 40, ..backend(Backend::KIND_GUE4) };
    let local = Backend { kind: Backend::KIND_LOCAL, ..Backend::default() };
    let here = Backend { egress: 0, ..backend(Backend::KIND_L2) };
    let there = Backend { egress: 1, ..backend(Backend::KIND_L2) };
    let odd = Backend { head_len: 37, ..backend(Backend::KIND_IP4) };
    let good = || Frame(frame(&[], &client4(0)));
    let cut = || Frame(frame(&[], &client4(0)[..30]));
    for (name, mut packet, backend, expected) in [
        ("too big", good(), small, ProbeVerdict::Drop(Reason::ProbeTooBig)),
        ("this machine", good(), local, ProbeVerdict::Stay(Reason::ProbedLocal)),
        ("the interface where it is", good(), there, ProbeVerdict::Stay(Reason::Probed)),
        ("this interface", good(), here, ProbeVerdict::Stay(Reason::Probed)),
        ("no such backend", good(), Backend::default(), ProbeVerdict::Drop(Reason::ProbeUnknown)),
        ("a head of an odd length", good(), odd, ProbeVerdict::Drop(Reason::ProbeUnknown)),
        ("cut off", cut(), backend(Backend::KIND_IP4), ProbeVerdict::Drop(Reason::ProbeMalformed)),
    ] {
        assert_eq!(probed(&mut packet, &backend), expected, "{name}");
    }
    let verdict = probe(&mut good(), mark(8).expect("an id"), |_| None::<&Backend>);
    assert_eq!(verdict, ProbeVerdict::Drop(Reason::ProbeUnknown));
}

#[test]
fn other_marks_are_left_alone() {
    let before = frame(&[], &ip(CLIENT4, VIP4, 17, 0, &[0; 8]));
    for mark in [0, 7, 0x4000, 0x8000, MARK_BASE, MARK_BASE | 0x4007, MARK_BASE | 0x8007, !MARK_MASK, u32::MAX] {
        let mut packet = Frame(before.clone());
        let verdict = probe(&mut packet, mark, |_| Some(Box::new(backend(Backend::KIND_IP4))));
        assert_eq!(verdict, ProbeVerdict::Untouched, "{mark:#x}");
        assert_eq!(packet.0, before);
    }
}

#[test]
fn marks_name_every_backend_and_nothing_else() {
    for id in 1..=u16::try_from(MAX_BACKENDS).expect("few") {
        assert_eq!(marked_backend(mark(id).expect("an id")), Some(id));
    }
    assert_eq!((mark(0), mark(16_384), mark(u16::MAX)), (None, None, None));
}
