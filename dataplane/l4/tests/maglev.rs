//! Rings: balance, weights, disruption, independence of order, and vectors that fix the outcome between versions.

use proptest::prelude::*;
use sluicegate_l4::layout::RING_SLOTS;
use sluicegate_l4::maglev::{Claimant, fill, fill_turns, identity};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Backend `n` of a test: id `n + 1`, an address of its own.
fn backend(n: u16, weight: u16) -> Claimant {
    let address = Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(198, 51, 0, 0)) + u32::from(n));
    Claimant::new(n + 1, weight, identity(octets(address.into())))
}

fn backends(weights: impl IntoIterator<Item = u16>) -> Vec<Claimant> {
    (0..).zip(weights).map(|(n, weight)| backend(n, weight)).collect()
}

fn ring_of(slots: usize, mut claimants: Vec<Claimant>) -> Vec<u16> {
    let mut ring = vec![u16::MAX; slots];
    fill(&mut claimants, &mut ring);
    ring
}

fn turns_of(slots: usize, weights: &[u16]) -> Vec<u16> {
    let mut ring = vec![u16::MAX; slots];
    fill_turns(&mut backends(weights.iter().copied()), &mut ring);
    ring
}

fn counts(ring: &[u16]) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    for id in ring {
        *counts.entry(*id).or_default() += 1;
    }
    counts
}

fn fnv(ring: &[u16]) -> u64 {
    ring.iter()
        .flat_map(|slot| slot.to_be_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

const FULL: usize = RING_SLOTS as usize;

#[test]
fn identities_and_rings_are_the_same_in_every_version() {
    let v4 = identity(octets("192.0.2.10".parse::<IpAddr>().expect("an address")));
    let v6 = identity(octets(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10).into()));
    assert_eq!((v4, v6), (IDENTITY_V4, IDENTITY_V6));
    assert_eq!(ring_of(13, backends([1, 1, 1])), RING_13);
    assert_eq!(fnv(&ring_of(FULL, backends([1; 100]))), RING_100);
    assert_eq!(fnv(&ring_of(FULL, backends(1..=50))), RING_WEIGHTED);
    assert_eq!(turns_of(12, &[4, 1, 1]), TURNS);
}

#[test]
fn a_hundred_backends_are_balanced_within_one_percent() {
    let counts = counts(&ring_of(FULL, backends([1; 100])));
    assert_eq!(counts.len(), 100);
    let (least, most) = (*counts.values().min().expect("some"), *counts.values().max().expect("some"));
    assert!(most - least <= 1, "{least}..{most} slots: equal weights differ by one slot at most");
    assert!((most as f64) < FULL as f64 / 100.0 * 1.01);
}

/// What moves beyond the slots of the backend that comes or goes. The Maglev paper accepts some; measured here: 0.54 % to
/// 0.57 % of the ring for one of 100 at 65,537 slots, asserted with room.
#[test]
fn one_of_a_hundred_that_comes_or_goes_moves_little_else() {
    let before = ring_of(FULL, backends([1; 100]));
    for gone in [0_u16, 17, 50, 99] {
        let without: Vec<_> = backends([1; 100]).into_iter().filter(|claimant| claimant.id != gone + 1).collect();
        let after = ring_of(FULL, without);
        let moved = before.iter().zip(&after).filter(|(old, new)| old != new && **old != gone + 1).count();
        let percent = moved as f64 * 100.0 / FULL as f64;
        println!("without {gone}: {percent:.3} % moved that need not have");
        assert!(percent < 0.8, "{percent:.3} % moved without {gone}");
    }
}

#[test]
fn degenerate_rings_hold_nothing_or_the_only_one() {
    assert_eq!(ring_of(13, vec![]), [0; 13]);
    assert_eq!(ring_of(13, backends([0, 0])), [0; 13]);
    assert_eq!(ring_of(13, backends([0, 7])), [2; 13]);
    assert_eq!(ring_of(1, backends([1])), [0]);
    assert_eq!(ring_of(0, backends([1])), [0; 0]);
    // No prime: filled all the same.
    assert!(ring_of(64, backends([1, 2, 3])).iter().all(|slot| *slot != 0));
    assert_eq!(turns_of(0, &[1]), [0; 0]);
    assert_eq!(turns_of(4, &[]), [0; 4]);
    assert_eq!(turns_of(4, &[0, 9]), [2; 4]);
    assert!(turns_of(2, &[9, 9, 9]).iter().all(|slot| *slot != 0));
}

#[test]
fn the_lightest_beside_the_heaviest_has_a_slot() {
    // A share of 65,537 / 65,536, rounded up.
    assert_eq!(counts(&ring_of(FULL, backends([65_535, 1])))[&2], 2);
    let many = std::iter::once(65_535).chain(std::iter::repeat_n(1, 999));
    assert_eq!(counts(&ring_of(FULL, backends(many))).len(), 1000);
}

#[test]
fn turns_are_spread_and_repeat() {
    let ring = turns_of(60, &[5, 1, 1]);
    for round in ring.chunks_exact(7) {
        assert_eq!(counts(round), BTreeMap::from([(1, 5), (2, 1), (3, 1)]));
        assert_eq!(round, &ring[..7]);
    }
    let (first, second) = (ring.iter().position(|id| *id == 2), ring.iter().position(|id| *id == 3));
    assert!(first.is_some_and(|at| (1..6).contains(&at)) && second.is_some_and(|at| (1..6).contains(&at)), "{ring:?}");
    let equal = turns_of(12, &[7, 7, 7]);
    assert!(equal.windows(3).all(|three| counts(three).len() == 3), "{equal:?}");
}

/// A prime of a few sizes, and weights with many zeros, ones and extremes.
fn claimants() -> impl Strategy<Value = (usize, Vec<u16>)> {
    let weight = prop_oneof![1 => Just(0), 3 => Just(1), 3 => 1..=20_u16, 1 => Just(u16::MAX), 2 => any::<u16>()];
    (prop_oneof![Just(251_usize), Just(1021), Just(4093)], prop::collection::vec(weight, 0..60))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn slots_are_all_filled_in_proportion((slots, weights) in claimants()) {
        let ring = ring_of(slots, backends(weights.iter().copied()));
        let total: f64 = weights.iter().copied().map(f64::from).sum();
        let counts = counts(&ring);
        prop_assert_eq!(counts.contains_key(&0), total == 0.0);
        let taking_part = weights.iter().filter(|weight| **weight != 0).count() as f64;
        for (id, weight) in (1..).zip(&weights) {
            let has = counts.get(&id).copied().unwrap_or(0) as f64;
            let part = if total == 0.0 { 0.0 } else { f64::from(*weight) / total };
            let share = part * slots as f64;
            prop_assert!(has < share + 1.0 + 1e-6, "{has} slots of a share of {share}");
            prop_assert!(has + 1e-6 >= share - taking_part * part, "{has} slots of a share of {share}");
            prop_assert_eq!(*weight == 0, has == 0.0);
        }
    }

    #[test]
    fn the_order_of_the_list_and_the_scale_of_weights_do_not_matter(
        (slots, weights) in claimants(),
        turn in 0..60_usize,
        factor in 1..=3_u16,
    ) {
        let weights: Vec<u16> = weights.into_iter().map(|weight| weight / 3).collect();
        let mut other = backends(weights.iter().map(|weight| weight * factor));
        let length = other.len().max(1);
        other.rotate_left(turn % length);
        other.reverse();
        prop_assert_eq!(ring_of(slots, backends(weights.iter().copied())), ring_of(slots, other));
    }

    #[test]
    fn what_need_not_move_hardly_moves(count in 2..40_u16, gone in 0..40_u16) {
        let gone = gone % count + 1;
        let before = ring_of(4093, backends((0..count).map(|_| 1)));
        let rest = backends((0..count).map(|_| 1)).into_iter().filter(|claimant| claimant.id != gone).collect();
        let after = ring_of(4093, rest);
        let moved = before.iter().zip(&after).filter(|(old, new)| old != new && **old != gone).count();
        // About 0.4 times the share of the one that went is usual; never as much as it had itself and a half.
        let share = 4093.0 / f64::from(count);
        prop_assert!((moved as f64) < share * 1.5 + 8.0, "{moved} moved beside a share of {share}");
    }

    #[test]
    fn turns_follow_weights_exactly_where_a_round_fits(weights in prop::collection::vec(0..=9_u16, 1..30)) {
        let common = weights.iter().fold(0, |a, b| gcd(a, *b));
        prop_assume!(common != 0);
        let round: usize = weights.iter().map(|weight| usize::from(weight / common)).sum();
        let ring = turns_of(round * 3, &weights);
        for (id, weight) in (1..).zip(&weights) {
            let turns = ring[..round].iter().filter(|slot| **slot == id).count();
            prop_assert_eq!(turns, usize::from(weight / common));
        }
        prop_assert_eq!(&ring[..round], &ring[round..2 * round]);
        prop_assert_eq!(&ring[..round], &ring[2 * round..]);
    }

    #[test]
    fn turns_stay_bounded_and_leave_nobody_out(weights in prop::collection::vec(1..=u16::MAX, 1..60)) {
        let ring = turns_of(997, &weights);
        let counts = counts(&ring);
        prop_assert_eq!(counts.len(), weights.len());
        prop_assert!(!counts.contains_key(&0));
    }
}

fn gcd(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[test]
#[ignore = "needs a quiet machine: measures"]
fn a_full_ring_of_a_hundred_takes_a_few_milliseconds() {
    let claimants = backends([1; 100]);
    let mut ring = vec![0; FULL];
    let started = std::time::Instant::now();
    for _ in 0..20 {
        fill(&mut claimants.clone(), &mut ring);
    }
    let each = started.elapsed() / 20;
    println!("100 backends, {FULL} slots: {each:?}");
    // Without optimisation it takes ten times as long; on a loaded machine anything does.
    let bound = if cfg!(debug_assertions) { 500 } else { 50 };
    assert!(each.as_millis() < bound, "{each:?}");
}

const IDENTITY_V4: u64 = 0xf89e_b9e6_6238_21fb;
const IDENTITY_V6: u64 = 0x6182_723c_0eca_d173;
const RING_13: [u16; 13] = [2, 3, 1, 2, 3, 2, 2, 1, 3, 3, 1, 1, 3];
/// FNV-1a over the slots.
const RING_100: u64 = 0x7327_31a7_a894_e790;
const RING_WEIGHTED: u64 = 0xa694_ae9d_a95f_8c9f;
const TURNS: [u16; 12] = [1, 1, 3, 2, 1, 1, 1, 1, 3, 2, 1, 1];
