//! The end of the tunnel on a real server.

mod support;

use proptest::prelude::*;
use sluicegate_dsr::layout::HostControl;
use sluicegate_dsr::{Reason, Verdict, unwrap};
use support::{CLIENT4, DIRECTOR4, Frame, HOST4, STRANGER4, Tables, checksum, client4, frame, ip, unwrap_cases};

#[test]
fn each_case_becomes_what_it_must() {
    let tables = Tables::of_host();
    for case in unwrap_cases() {
        let mut packet = Frame(case.before);
        assert_eq!(unwrap(&mut packet, &tables), case.verdict, "{}", case.name);
        if matches!(case.verdict, Verdict::Pass(_)) {
            assert_eq!(packet.0, case.after, "{}", case.name);
        }
    }
}

#[test]
fn every_director_is_believed_only_where_that_was_said() {
    let mut tables = Tables::of_host();
    let before = frame(&[], &ip(STRANGER4, HOST4, 4, 0, &client4(0)));
    let mut packet = Frame(before.clone());
    assert_eq!(unwrap(&mut packet, &tables), Verdict::Pass(Reason::UnknownDirector));
    assert_eq!(packet.0, before);
    tables.control.flags = HostControl::ANY_DIRECTOR;
    assert_eq!(unwrap(&mut packet, &tables), Verdict::Pass(Reason::UnwrappedIp));
    assert_eq!(packet.0, frame(&[], &client4(0)));
}

#[test]
fn a_tunnel_in_a_tunnel_is_unwrapped_once() {
    let inner = ip(DIRECTOR4, support::VIP4, 4, 0, &client4(0));
    let mut packet = Frame(frame(&[], &ip(DIRECTOR4, HOST4, 4, 0, &inner)));
    let tables = Tables::of_host();
    assert_eq!(unwrap(&mut packet, &tables), Verdict::Pass(Reason::UnwrappedIp));
    assert_eq!(packet.0, frame(&[], &inner));
    assert_eq!(unwrap(&mut packet, &tables), Verdict::Pass(Reason::NotEndpoint));
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
        let cases = unwrap_cases();
        let mut before = which.get(&cases).before.clone();
        for (at, value) in damage {
            let at = at.index(before.len());
            before[at] = value;
        }
        if cut {
            before.truncate(keep.index(before.len() + 1));
        }
        let mut packet = Frame(before.clone());
        match unwrap(&mut packet, &Tables::of_host()) {
            Verdict::Pass(Reason::UnwrappedIp | Reason::UnwrappedGue) => {
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
        let inner = ip(CLIENT4, support::VIP4, 17, class, &[0; 8]);
        let mut packet = Frame(frame(&[], &ip(DIRECTOR4, HOST4, 4, outer, &inner)));
        if let Verdict::Pass(reason) = unwrap(&mut packet, &Tables::of_host()) {
            prop_assert_eq!(reason, Reason::UnwrappedIp);
            prop_assert_eq!(checksum(&[&packet.0[14..34]]), 0);
            prop_assert_eq!(packet.0[15] & !3, class & !3);
        } else {
            prop_assert_eq!((class & 3, outer), (0, 3));
        }
    }
}
