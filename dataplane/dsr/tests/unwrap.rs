//! The end of the tunnel on a real server.

mod support;

use proptest::prelude::*;
use sluicegate_dsr::hand_over::{Segment, Socket, Sockets, readdress};
use sluicegate_dsr::layout::HostControl;
use sluicegate_dsr::{Reason, Verdict, unwrap};
use std::sync::LazyLock;
use support::{
    Always, CLIENT4, CLIENT6, Case, DIRECTOR4, DIRECTOR6, Frame, HOST4, HOST6, PEER4, PEER6, STRANGER4, Tables, VIP4,
    VIP6, address, checksum, client4, client6, frame, gue_with_former, ip, unwrap_cases, variant1,
};

#[test]
fn each_case_becomes_what_it_must() {
    let tables = Tables::of_host();
    for case in unwrap_cases() {
        let mut packet = Frame(case.before);
        assert_eq!(unwrap(&mut packet, &tables, &Always(Socket::Listener)), case.verdict, "{}", case.name);
        if !matches!(case.verdict, Verdict::Drop(_)) {
            assert_eq!(packet.0, case.after, "{}", case.name);
        }
    }
}

#[test]
fn a_flow_that_is_known_stays_here() {
    let packets = [(DIRECTOR4, HOST4, PEER4, client4(0)), (DIRECTOR6, HOST6, PEER6, client6(0))];
    for (director, host, peer, packet) in packets {
        let before = frame(&[], &ip(director, host, 17, 0, &gue_with_former(peer, &packet)));
        for (socket, known) in
            [(Socket::Connection, true), (Socket::Cookie, true), (Socket::Listener, false), (Socket::None, false)]
        {
            let mut packet_here = Frame(before.clone());
            let verdict = unwrap(&mut packet_here, &Tables::of_host(), &Always(socket));
            if known {
                assert_eq!(verdict, Verdict::Pass(Reason::UnwrappedGue), "{socket:?}");
                assert_eq!(packet_here.0, frame(&[], &packet), "{socket:?}");
            } else {
                assert_eq!(verdict, Verdict::HandOver(Reason::HandedOver), "{socket:?}");
            }
        }
    }
}

/// Keeps what was asked.
#[derive(Default)]
struct Asked(std::cell::RefCell<Vec<Segment>>);

impl Sockets for Asked {
    fn find(&self, segment: &Segment) -> Socket {
        self.0.borrow_mut().push(*segment);
        Socket::Connection
    }
}

#[test]
fn the_host_is_asked_for_the_segment_of_the_client_and_for_others_not() {
    let asked = Asked::default();
    let send = |packet: &[u8]| {
        let mut packet = Frame(frame(&[], &ip(DIRECTOR4, HOST4, 17, 0, &gue_with_former(PEER4, packet))));
        unwrap(&mut packet, &Tables::of_host(), &asked);
    };
    send(&client4(0));
    send(&client6(0));
    let segment = |at: usize, packet: &[u8]| *packet[at..].first_chunk::<20>().expect("a header");
    let wanted = [
        Segment { source: address(CLIENT4), destination: address(VIP4), ipv6: false, header: segment(20, &client4(0)) },
        Segment { source: address(CLIENT6), destination: address(VIP6), ipv6: true, header: segment(40, &client6(0)) },
    ];
    assert_eq!(*asked.0.borrow(), wanted);
    let plain = frame(&[], &ip(DIRECTOR4, HOST4, 17, 0, &support::gue(None, &client4(0))));
    unwrap(&mut Frame(plain), &Tables::of_host(), &asked);
    assert_eq!(asked.0.borrow().len(), 2, "nothing is looked for where there is no second chance");
}

/// What becomes of a packet that is handed over: a fresh outer header, with a hop less than the director's.
fn handed_over(host: &str, peer: &str, class: u8, packet: &[u8]) -> Vec<u8> {
    let mut outer = ip(host, peer, 17, class, &variant1(packet));
    if outer[0] >> 4 == 4 {
        outer[4..6].fill(0);
        outer[8] -= 1;
        outer[10..12].fill(0);
        let sum = checksum(&[&outer[..20]]).to_be_bytes();
        outer[10..12].copy_from_slice(&sum);
    } else {
        outer[7] -= 1;
    }
    outer
}

#[test]
fn what_is_handed_over_comes_from_this_host_and_has_a_hop_less() {
    for tags in [&[][..], &[7], &[100, 7]] {
        for (director, host, peer) in [(DIRECTOR4, HOST4, PEER4), (DIRECTOR6, HOST6, PEER6)] {
            for inner in [client4(0), client6(0)] {
                let before = ip(director, host, 17, 0b1011_1010, &gue_with_former(peer, &inner));
                let mut packet = Frame(frame(tags, &before));
                assert_eq!(readdress(&mut packet), Verdict::HandOver(Reason::HandedOver));
                assert_eq!(packet.0, frame(tags, &handed_over(host, peer, 0b1011_1010, &inner)), "{host} {tags:?}");
            }
        }
    }
}

#[test]
fn what_cannot_be_handed_over_is_dropped_by_name() {
    for (at, before) in [
        (22, ip(DIRECTOR4, HOST4, 17, 0, &gue_with_former(PEER4, &client4(0)))),
        (21, ip(DIRECTOR6, HOST6, 17, 0, &gue_with_former(PEER6, &client6(0)))),
    ] {
        let good = frame(&[], &before);
        let mut spent = good.clone();
        spent[at] = 1;
        assert_eq!(readdress(&mut Frame(spent)), Verdict::Drop(Reason::HopsUsedUp));
        let headers = good.len() - 14 - before.len() + if at == 22 { 14 + 28 + 12 } else { 14 + 48 + 24 };
        for length in 0..headers {
            assert_eq!(readdress(&mut Frame(good[..length].to_vec())), Verdict::Drop(Reason::Truncated), "{length}");
        }
    }
    let plain = frame(&[], &ip(DIRECTOR4, HOST4, 17, 0, &support::gue(None, &client4(0))));
    assert_eq!(readdress(&mut Frame(plain)), Verdict::Drop(Reason::Truncated));
}

#[test]
fn what_was_handed_over_is_not_handed_over_again() {
    let before = frame(&[], &ip(DIRECTOR4, HOST4, 17, 0, &gue_with_former(PEER4, &client4(0))));
    let mut packet = Frame(before);
    let tables = Tables::of_host();
    assert_eq!(unwrap(&mut packet, &tables, &Always(Socket::None)), Verdict::HandOver(Reason::HandedOver));
    assert_eq!(readdress(&mut packet), Verdict::HandOver(Reason::HandedOver));
    let mut there = Tables::of_host();
    there.endpoints = [PEER4, PEER6].map(address).into();
    assert_eq!(unwrap(&mut packet, &there, &Always(Socket::None)), Verdict::Pass(Reason::UnwrappedGue));
    assert_eq!(packet.0, frame(&[], &client4(0)));
}

#[test]
fn every_director_is_believed_only_where_that_was_said() {
    let mut tables = Tables::of_host();
    let before = frame(&[], &ip(STRANGER4, HOST4, 4, 0, &client4(0)));
    let mut packet = Frame(before.clone());
    assert_eq!(unwrap(&mut packet, &tables, &Always(Socket::Listener)), Verdict::Pass(Reason::UnknownDirector));
    assert_eq!(packet.0, before);
    tables.control.flags = HostControl::ANY_DIRECTOR;
    assert_eq!(unwrap(&mut packet, &tables, &Always(Socket::Listener)), Verdict::Pass(Reason::UnwrappedIp));
    assert_eq!(packet.0, frame(&[], &client4(0)));
}

#[test]
fn a_tunnel_in_a_tunnel_is_unwrapped_once() {
    let inner = ip(DIRECTOR4, VIP4, 4, 0, &client4(0));
    let mut packet = Frame(frame(&[], &ip(DIRECTOR4, HOST4, 4, 0, &inner)));
    let tables = Tables::of_host();
    assert_eq!(unwrap(&mut packet, &tables, &Always(Socket::Listener)), Verdict::Pass(Reason::UnwrappedIp));
    assert_eq!(packet.0, frame(&[], &inner));
    assert_eq!(unwrap(&mut packet, &tables, &Always(Socket::Listener)), Verdict::Pass(Reason::NotEndpoint));
}

#[test]
fn reasons_are_numbered_in_order_and_named_once() {
    let mut names: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    for (number, reason) in Reason::ALL.iter().enumerate() {
        assert_eq!(reason.index() as usize, number);
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Reason::ALL.len());
}

static CASES: LazyLock<Vec<Case>> = LazyLock::new(unwrap_cases);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// Frames that are cut and damaged anywhere: nothing panics, and what is not unwrapped is as it was.
    #[test]
    fn damaged_frames_are_unwrapped_or_left_alone(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        keep in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut before = which.get(&CASES).before.clone();
        for (at, value) in damage {
            let at = at.index(before.len());
            before[at] = value;
        }
        if cut {
            before.truncate(keep.index(before.len() + 1));
        }
        let mut packet = Frame(before.clone());
        match unwrap(&mut packet, &Tables::of_host(), &Always(Socket::None)) {
            Verdict::HandOver(_) => {
                prop_assert_eq!(&packet.0, &before);
                if let Verdict::HandOver(_) = readdress(&mut packet) {
                    prop_assert!(packet.0.len() < before.len());
                }
            }
            Verdict::Pass(Reason::UnwrappedIp | Reason::UnwrappedGue | Reason::NoPeer) => {
                prop_assert!(packet.0.len() < before.len());
                prop_assert_eq!(&packet.0[..12], &before[..12]);
                prop_assert!(before.ends_with(&packet.0[packet.0.len() - 4..]));
            }
            Verdict::Pass(_) => prop_assert_eq!(packet.0, before),
            Verdict::Drop(_) => {}
        }
    }

    /// The incremental update of the inner header agrees with a checksum over the whole of it.
    #[test]
    fn the_inner_header_checksum_stays_right(class in any::<u8>(), outer in 0u8..4) {
        let inner = ip(CLIENT4, VIP4, 17, class, &[0; 8]);
        let mut packet = Frame(frame(&[], &ip(DIRECTOR4, HOST4, 4, outer, &inner)));
        if let Verdict::Pass(reason) = unwrap(&mut packet, &Tables::of_host(), &Always(Socket::None)) {
            prop_assert_eq!(reason, Reason::UnwrappedIp);
            prop_assert_eq!(checksum(&[&packet.0[14..34]]), 0);
            prop_assert_eq!(packet.0[15] & !3, class & !3);
        } else {
            prop_assert_eq!((class & 3, outer), (0, 3));
        }
    }
}
