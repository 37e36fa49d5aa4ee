//! How endpoints are chosen: properties of each method over many picks, with seeded numbers for dice.

use proptest::prelude::*;
use sluicegate_config::backend::{Balance, HashKey};
use sluicegate_proxy::balance::{Candidate, PeakEwma, PickContext, Picker, address_seed, hash_key};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

#[derive(Clone, Debug)]
struct Fake {
    address: SocketAddr,
    in_flight: u32,
    cost: f64,
    is_ejected: bool,
}

impl Candidate for Fake {
    fn address(&self) -> SocketAddr {
        self.address
    }
    fn seed(&self) -> u64 {
        address_seed(self.address)
    }
    fn in_flight(&self) -> u32 {
        self.in_flight
    }
    fn cost(&self, _now: Instant) -> f64 {
        self.cost
    }
    fn is_ejected(&self, _now: Instant) -> bool {
        self.is_ejected
    }
}

fn address(number: usize) -> SocketAddr {
    let host = u32::from(Ipv4Addr::new(192, 0, 2, 0)) + number as u32;
    SocketAddr::from((Ipv4Addr::from(host), 8080))
}

fn fakes(count: usize) -> Vec<Fake> {
    (0..count).map(|number| Fake { address: address(number), in_flight: 0, cost: 0.0, is_ejected: false }).collect()
}

/// A small generator of the test's own (xorshift64*), so that what fails can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn counts(picker: &Picker, candidates: &[Fake], picks: usize, tried: &[SocketAddr]) -> Vec<usize> {
    let mut dice = Dice(0x5eed);
    let mut counts = vec![0; candidates.len()];
    for _ in 0..picks {
        let context = PickContext { hash: None, tried, now: Instant::now(), random: dice.roll() };
        counts[picker.pick(candidates, &context).expect("there is one to pick")] += 1;
    }
    counts
}

fn methods() -> [Balance; 4] {
    [Balance::RoundRobin, Balance::LeastRequests, Balance::Ewma, Balance::ConsistentHash(HashKey::Host)]
}

#[test]
fn round_robin_gives_each_endpoint_its_turn() {
    for start in [0, 7 << 32, u64::MAX] {
        let picker = Picker::new(&Balance::RoundRobin, start);
        assert_eq!(counts(&picker, &fakes(10), 100, &[]), vec![10; 10], "start {start:#x}");
    }
}

#[test]
fn round_robin_begins_where_the_worker_was_told() {
    let context = PickContext { hash: None, tried: &[], now: Instant::now(), random: 0 };
    let firsts: BTreeSet<_> =
        (0..10u64).map(|start| Picker::new(&Balance::RoundRobin, start << 32).pick(&fakes(10), &context)).collect();
    assert_eq!(firsts.len(), 10);
}

#[test]
fn the_neighbour_of_an_ejected_endpoint_does_not_get_its_share() {
    let mut candidates = fakes(5);
    candidates[2].is_ejected = true;
    let counts = counts(&Picker::new(&Balance::RoundRobin, 0), &candidates, 5_000, &[]);
    assert_eq!(counts[2], 0);
    for index in [0, 1, 3, 4] {
        assert!((1_150..=1_350).contains(&counts[index]), "{counts:?}");
    }
}

#[test]
fn every_method_spreads_over_equal_endpoints() {
    for balance in methods() {
        let counts = counts(&Picker::new(&balance, 0), &fakes(8), 8_000, &[]);
        assert!(counts.iter().all(|count| (800..=1_200).contains(count)), "{balance:?}: {counts:?}");
    }
}

#[test]
fn least_requests_favours_the_idle_and_spares_the_busiest() {
    let mut candidates = fakes(4);
    for (index, candidate) in candidates.iter_mut().enumerate() {
        candidate.in_flight = index as u32;
    }
    let counts = counts(&Picker::new(&Balance::LeastRequests, 0), &candidates, 6_000, &[]);
    // Of the six pairs the idlest wins three, the next two, the next one, the busiest none.
    for (index, expected) in [3_000, 2_000, 1_000, 0].into_iter().enumerate() {
        assert!(counts[index].abs_diff(expected) <= 200, "{counts:?}");
    }
}

#[test]
fn ewma_goes_to_the_cheaper_of_two() {
    let mut candidates = fakes(2);
    (candidates[0].cost, candidates[1].cost) = (0.2, 0.1);
    assert_eq!(counts(&Picker::new(&Balance::Ewma, 0), &candidates, 100, &[]), [0, 100]);
}

#[test]
fn an_average_jumps_to_a_peak_and_forgets_it_slowly() {
    let start = Instant::now();
    let second = Duration::from_secs(1);
    let average = PeakEwma::default();
    assert_eq!(average.cost(0, start), 0.0, "a new endpoint is tried at once");
    average.observe(Duration::from_millis(10), start);
    average.observe(Duration::from_millis(500), start + second);
    assert_eq!(average.average(), Duration::from_millis(500), "a peak counts in full");
    assert_eq!(average.cost(1, start + second), 1.0, "half a second, for two requests");

    // Without samples it fades: after the decay time 1/e is left.
    let faded = average.cost(0, start + 11 * second);
    assert!((faded - 0.5 / std::f64::consts::E).abs() < 1e-9, "{faded}");

    // A fast answer at once after the peak hardly counts, one after a long time does.
    average.observe(Duration::from_millis(10), start + second + Duration::from_millis(10));
    assert!(average.average() > Duration::from_millis(495), "{:?}", average.average());
    average.observe(Duration::from_millis(10), start + 60 * second);
    assert!(average.average() < Duration::from_millis(15), "{:?}", average.average());
}

#[test]
fn an_endpoint_that_has_not_answered_yet_gets_one_request() {
    let now = Instant::now();
    let (known, unknown) = (PeakEwma::default(), PeakEwma::default());
    known.observe(Duration::from_secs(5), now);
    assert!(unknown.cost(0, now) < known.cost(100, now));
    assert!(unknown.cost(1, now) > known.cost(100, now));
}

#[test]
fn ejected_endpoints_are_used_when_nothing_else_is_left() {
    for balance in methods() {
        let picker = Picker::new(&balance, 0);
        let mut candidates = fakes(4);
        candidates.iter_mut().for_each(|candidate| candidate.is_ejected = true);
        assert!(counts(&picker, &candidates, 400, &[]).iter().all(|count| *count > 0), "{balance:?}");

        // The only healthy one has been tried: an ejected one is the better bet.
        candidates[0].is_ejected = false;
        let counts = counts(&picker, &candidates, 400, &[address(0)]);
        assert_eq!(counts[0], 0, "{balance:?}");
        assert!(counts[1..].iter().all(|count| *count > 0), "{balance:?}: {counts:?}");
    }
}

#[test]
fn nothing_is_picked_of_nothing() {
    for balance in methods() {
        let picker = Picker::new(&balance, 3);
        let all: Vec<_> = (0..3).map(address).collect();
        let context = |tried| PickContext { hash: Some(1), tried, now: Instant::now(), random: 1 };
        assert_eq!(picker.pick::<Fake>(&[], &context(&[])), None);
        assert_eq!(picker.pick(&fakes(3), &context(&all)), None);
    }
}

#[test]
fn a_hash_key_means_the_same_everywhere() {
    // Fixed values: a gateway of another version must send the same key to the same endpoint.
    assert_eq!(hash_key(b"session-1"), 16_069_246_975_747_962_578);
    assert_eq!(address_seed(address(1)), 2_297_343_328_520_911_481);
    let mapped = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped(), 8080));
    assert_eq!(address_seed(address(1)), address_seed(mapped));
    assert_ne!(address_seed(address(1)), address_seed(SocketAddr::from((Ipv6Addr::LOCALHOST, 8080))));
}

#[test]
fn consistent_hashing_is_even() {
    let candidates = fakes(10);
    let picker = Picker::new(&Balance::ConsistentHash(HashKey::Host), 0);
    let mut counts = [0; 10];
    for key in 0..20_000 {
        let hash = Some(hash_key(format!("user-{key}").as_bytes()));
        let context = PickContext { hash, tried: &[], now: Instant::now(), random: 0 };
        counts[picker.pick(&candidates, &context).expect("there are endpoints")] += 1;
    }
    assert!(counts.iter().all(|count| (1_800..=2_200).contains(count)), "{counts:?}");
}

fn owners(candidates: &[Fake], keys: usize) -> BTreeMap<usize, SocketAddr> {
    let picker = Picker::new(&Balance::ConsistentHash(HashKey::Host), 0);
    let pick = |key: usize| {
        let hash = Some(hash_key(&key.to_be_bytes()));
        let context = PickContext { hash, tried: &[], now: Instant::now(), random: 0 };
        candidates[picker.pick(candidates, &context).expect("there are endpoints")].address
    };
    (0..keys).map(|key| (key, pick(key))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Taking an endpoint away moves its own keys and no other, whatever order the rest is in; and those are about
    /// one in as many as there were.
    #[test]
    fn removing_an_endpoint_moves_its_own_keys_alone(count in 2..40usize, gone in any::<prop::sample::Index>()) {
        const KEYS: usize = 2_000;
        let before = owners(&fakes(count), KEYS);
        let gone = address(gone.index(count));
        let mut rest = fakes(count);
        rest.retain(|candidate| candidate.address != gone);
        rest.reverse();
        let after = owners(&rest, KEYS);
        let mut moved = 0;
        for (key, owner) in &before {
            if *owner == gone {
                moved += 1;
            } else {
                prop_assert_eq!(after[key], *owner);
            }
        }
        // Six standard deviations above the mean.
        let mean = KEYS as f64 / count as f64;
        prop_assert!((moved as f64) < mean + 6.0 * mean.sqrt(), "{} of {} keys moved", moved, KEYS);
    }

    /// Ejecting an endpoint moves the same keys as removing it does, and they come back when it does.
    #[test]
    fn ejection_moves_keys_as_removal_does(count in 2..20usize, out in any::<prop::sample::Index>()) {
        let out = out.index(count);
        let mut ejected = fakes(count);
        ejected[out].is_ejected = true;
        let mut rest = fakes(count);
        rest.remove(out);
        prop_assert_eq!(owners(&ejected, 500), owners(&rest, 500));
    }

    /// Whatever the state: what was tried is never picked, and nothing ejected while something healthy is left.
    #[test]
    fn no_method_picks_what_it_must_not(
        method in 0..4usize,
        ejected in prop::collection::vec(any::<bool>(), 1..12),
        tried in prop::collection::vec(any::<bool>(), 12),
        hash in any::<Option<u64>>(),
        random in any::<u64>(),
    ) {
        let mut candidates = fakes(ejected.len());
        for (candidate, is_ejected) in candidates.iter_mut().zip(&ejected) {
            candidate.is_ejected = *is_ejected;
        }
        let tried: Vec<_> = (0..candidates.len()).filter(|index| tried[*index]).map(address).collect();
        let picker = Picker::new(&methods()[method], random.rotate_left(17));
        let context = PickContext { hash, tried: &tried, now: Instant::now(), random };
        let untried: Vec<_> = candidates.iter().filter(|fake| !tried.contains(&fake.address)).collect();
        match picker.pick(&candidates, &context) {
            None => prop_assert!(untried.is_empty()),
            Some(index) => {
                prop_assert!(!tried.contains(&candidates[index].address));
                prop_assert!(!candidates[index].is_ejected || untried.iter().all(|fake| fake.is_ejected));
            }
        }
    }
}
