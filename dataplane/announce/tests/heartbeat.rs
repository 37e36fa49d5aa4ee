//! The codec of heartbeats, and the order of directors that all versions agree on.

use proptest::prelude::*;
use sluicegate_announce::{Beat, BeatError, Deciding, DirectorId, Incarnation, Member, Membership, VipState, ranking};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|n| Ipv4Addr::from(n).into()),
        any::<u128>().prop_map(|n| Ipv6Addr::from(n).into())
    ]
}

fn members() -> impl Strategy<Value = BTreeMap<DirectorId, Member>> {
    let id = "[-._A-Za-z0-9]{1,63}".prop_map(|name| DirectorId::new(&name).expect("a name"));
    let addresses = prop::collection::vec((address(), any::<u16>()).prop_map(SocketAddr::from), 0..5);
    let member = (any::<u64>(), addresses).prop_map(|(life, addresses)| Member { life: Incarnation(life), addresses });
    prop::collection::btree_map(id, member, 0..17)
}

prop_compose! {
    fn beats()(
        numbers: [u64; 4],
        number: u64,
        members in members(),
        tags in (0..4u8, any::<bool>(), any::<bool>()),
        mac: [u8; 6],
        vips in prop::collection::btree_map(address(), any::<[bool; 3]>(), 0..40),
        granted in prop::collection::btree_set(address(), 0..40),
    ) -> Beat {
        let state = |(vip, [able, claims, holds]): (IpAddr, [bool; 3])| VipState { vip, able, claims, holds };
        Beat {
            incarnation: Incarnation(numbers[0]),
            sequence: numbers[1],
            acknowledged: tags.1.then_some((Incarnation(numbers[2]), numbers[3])),
            deciding: [Deciding::Unknown, Deciding::Mine, Deciding::Conceded(Incarnation(numbers[3])), Deciding::Changing]
                [usize::from(tags.0)],
            fit: tags.2,
            mac,
            vips: vips.into_iter().map(state).collect(),
            granted: granted.into_iter().collect(),
            number,
            membership: (!members.is_empty()).then_some(Membership { number, members }),
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(beat in beats()) {
        let bytes = beat.encode();
        prop_assert!(bytes.len() <= Beat::LONGEST);
        prop_assert_eq!(Beat::decode(&bytes), Ok(beat));
        prop_assert!(Beat::decode(&bytes[..bytes.len() - 1]).is_err());
        prop_assert!(Beat::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn no_bytes_break_it(beat in beats(), place: prop::sample::Index, byte: u8, noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = beat.encode();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        if let Ok(read) = Beat::decode(&bytes) {
            prop_assert_eq!(Beat::decode(&read.encode()), Ok(read));
        }
        let _ = Beat::decode(&noise);
    }
}

#[test]
fn another_version_is_named() {
    assert_eq!(Beat::decode(&[9; 64]), Err(BeatError::Version(9)));
}

fn directors(count: usize) -> BTreeSet<DirectorId> {
    (0..count).map(|number| DirectorId::new(&format!("director-{number}")).expect("a name")).collect()
}

#[test]
fn directors_of_all_versions_agree_on_the_order() {
    let directors = directors(3);
    let order = |vip: &str| {
        ranking(vip.parse().expect("an address"), &directors)
            .iter()
            .map(|id| id.as_str().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(order("192.0.2.10"), GOLDEN[0]);
    assert_eq!(order("192.0.2.11"), GOLDEN[1]);
    assert_eq!(order("2001:db8::10"), GOLDEN[2]);
}

/// Computed by another program. It never changes.
const GOLDEN: [[&str; 3]; 3] = [
    ["director-2", "director-1", "director-0"],
    ["director-2", "director-0", "director-1"],
    ["director-2", "director-0", "director-1"],
];

#[test]
fn directors_share_evenly_and_keep_what_they_have() {
    let four = directors(4);
    let three: BTreeSet<DirectorId> = directors(3);
    let mut share: BTreeMap<&str, usize> = BTreeMap::new();
    for number in 0..4_000_u32 {
        let vip = IpAddr::from(Ipv4Addr::from(0xc633_6400 + number));
        let best = ranking(vip, &four)[0];
        *share.entry(best.as_str()).or_default() += 1;
        if three.contains(best) {
            assert_eq!(ranking(vip, &three)[0], best, "the loss of another one moves nothing");
        }
    }
    assert!(share.len() == 4 && share.values().all(|count| (850..1_150).contains(count)), "{share:?}");
}

#[test]
fn names_are_checked() {
    for bad in ["", "a b", "ä", &"x".repeat(64)] {
        assert!(DirectorId::new(bad).is_err(), "{bad:?}");
    }
    assert!(DirectorId::new(&"x".repeat(63)).is_ok());
}
