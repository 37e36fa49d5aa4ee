//! The MSS of a real server's SYN-ACK.

mod support;

use proptest::prelude::*;
use sluicegate_dsr::{Reason, clamp};
use support::{CLIENT4, CLIENT6, Frame, MTU, Tables, VIP4, VIP6, clamp_cases, frame, ip, tcp, tcp_checksum};

#[test]
fn each_case_becomes_what_it_must() {
    for case in clamp_cases() {
        let mut packet = Frame(case.before.clone());
        assert_eq!(clamp(&mut packet, &Tables::of_host()), case.reason, "{}", case.name);
        if case.reason != Reason::Clamped {
            assert_eq!(packet.0, case.before, "{}", case.name);
        }
        let (start, ends) = if packet.0[14] >> 4 == 4 { (34, (VIP4, CLIENT4)) } else { (54, (VIP6, CLIENT6)) };
        let segment = &packet.0[start..];
        if let Some((at, mss)) = case.mss {
            assert_eq!(u16::from_be_bytes([segment[at], segment[at + 1]]), mss, "{}", case.name);
        }
        if case.reason == Reason::Clamped {
            assert_eq!(tcp_checksum(ends.0, ends.1, segment), 0, "{}", case.name);
        }
    }
}

#[test]
fn a_vip_without_a_tunnel_is_left_alone() {
    let mut tables = Tables::of_host();
    tables.bound.values_mut().for_each(|bound| bound.tunnel_mtu = 0);
    let before = clamp_cases().swap_remove(0).before;
    let mut packet = Frame(before.clone());
    assert_eq!(clamp(&mut packet, &tables), Reason::MssFits);
    assert_eq!(packet.0, before);
}

#[test]
fn nothing_below_the_smallest_mss_is_written() {
    let mut tables = Tables::of_host();
    tables.bound.values_mut().for_each(|bound| bound.tunnel_mtu = 100);
    let mut packet = Frame(clamp_cases().swap_remove(0).before);
    assert_eq!(clamp(&mut packet, &tables), Reason::Clamped);
    assert_eq!(packet.0[56..58], 536u16.to_be_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// Whatever the options are: nothing panics, only the MSS and the checksum change, and the checksum is right.
    #[test]
    fn any_options_keep_the_segment_whole(
        words in prop::collection::vec(any::<[u8; 4]>(), 0..=10),
        mss in any::<u16>(),
        at in 0usize..=36,
    ) {
        let mut options = words.concat();
        if at + 4 <= options.len() {
            options[at..at + 2].copy_from_slice(&[2, 4]);
            options[at + 2..at + 4].copy_from_slice(&mss.to_be_bytes());
        }
        let before = frame(&[], &ip(VIP4, CLIENT4, 6, 0, &tcp(VIP4, CLIENT4, 0x12, &options, b"")));
        let mut packet = Frame(before.clone());
        let reason = clamp(&mut packet, &Tables::of_host());
        let changed: Vec<usize> = (0..before.len()).filter(|&i| packet.0[i] != before[i]).collect();
        prop_assert_eq!(tcp_checksum(VIP4, CLIENT4, &packet.0[34..]), 0);
        if reason == Reason::Clamped {
            let options: Vec<usize> = changed.into_iter().filter(|at| !(50..52).contains(at)).collect();
            prop_assert!(options.len() <= 2);
            let found = packet.0[54..].windows(4).any(|w| w[..2] == [2, 4] && w[2..] == (MTU - 40).to_be_bytes());
            prop_assert!(found);
        } else {
            prop_assert_eq!(reason, Reason::MssFits);
            prop_assert!(changed.is_empty());
        }
    }
}
