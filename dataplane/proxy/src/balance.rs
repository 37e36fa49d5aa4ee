//! Which endpoint takes a request. Pure: time and random numbers are arguments; it owns no socket, no clock and
//! no source of randomness, and it does not know what a connection is.

use sluicegate_config::backend::Balance;
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// What a pick needs to know of an endpoint.
pub trait Candidate {
    /// Where it is; what `tried` is compared with.
    fn address(&self) -> SocketAddr;
    /// [`address_seed`] of its address, computed once.
    fn seed(&self) -> u64;
    /// Requests that it is working on for this worker.
    fn in_flight(&self) -> u32;
    /// Peak-EWMA cost: the lower, the better.
    fn cost(&self, now: Instant) -> f64;
    /// True while it is out for having failed.
    fn is_ejected(&self, now: Instant) -> bool;
}

impl<C: Candidate + ?Sized> Candidate for Rc<C> {
    fn address(&self) -> SocketAddr {
        (**self).address()
    }
    fn seed(&self) -> u64 {
        (**self).seed()
    }
    fn in_flight(&self) -> u32 {
        (**self).in_flight()
    }
    fn cost(&self, now: Instant) -> f64 {
        (**self).cost(now)
    }
    fn is_ejected(&self, now: Instant) -> bool {
        (**self).is_ejected(now)
    }
}

/// What one pick depends on beside the endpoints.
#[derive(Clone, Copy, Debug)]
pub struct PickContext<'a> {
    /// [`hash_key`] of what the request is kept together by. `None` where the request does not carry it (the header
    /// is missing): such requests are spread at random and do not all fall on one endpoint.
    pub hash: Option<u64>,
    /// Endpoints that this request has been to. They are not picked again.
    pub tried: &'a [SocketAddr],
    /// The present.
    pub now: Instant,
    /// A random number, uniform over all of `u64`.
    pub random: u64,
}

/// Chooses endpoints for one backend of one worker.
#[derive(Debug)]
pub struct Picker {
    method: Method,
    cursor: Cell<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    RoundRobin,
    LeastRequests,
    Ewma,
    Hash,
}

impl Picker {
    /// A picker for a method. `start` is where round robin begins: random, so that workers and gateways that start
    /// together do not all send their first request to the first endpoint.
    pub fn new(balance: &Balance, start: u64) -> Self {
        let method = match balance {
            Balance::RoundRobin => Method::RoundRobin,
            Balance::LeastRequests => Method::LeastRequests,
            Balance::Ewma => Method::Ewma,
            Balance::ConsistentHash(_) => Method::Hash,
        };
        Self { method, cursor: Cell::new((start >> 32) as usize) }
    }

    /// The index of the endpoint that takes the request.
    ///
    /// Ejected endpoints are passed over while another is left that this request has not tried. Where none is, they
    /// are used all the same: ejection is a guess, and a guess must not turn a bad minute into an outage.
    /// `None` means that there are no endpoints or that all have been tried.
    pub fn pick<C: Candidate>(&self, candidates: &[C], context: &PickContext<'_>) -> Option<usize> {
        let untried = |candidate: &C| context.tried.is_empty() || !context.tried.contains(&candidate.address());
        let turn = self.take_turn(candidates.len())?;
        self.pick_among(candidates, turn, context, |candidate| !candidate.is_ejected(context.now) && untried(candidate))
            .or_else(|| self.pick_among(candidates, turn, context, untried))
    }

    fn pick_among<C: Candidate>(
        &self,
        candidates: &[C],
        turn: usize,
        context: &PickContext<'_>,
        eligible: impl Fn(&C) -> bool,
    ) -> Option<usize> {
        match self.method {
            Method::RoundRobin => in_turn(candidates, turn, context.random, eligible),
            Method::LeastRequests => {
                two_choices(candidates, context.random, eligible, |candidate| f64::from(candidate.in_flight()))
            }
            Method::Ewma => two_choices(candidates, context.random, eligible, |candidate| candidate.cost(context.now)),
            Method::Hash => highest_score(candidates, context.hash.unwrap_or(context.random), eligible),
        }
    }

    /// Whose turn it is: once a pick, however many passes over the endpoints the pick takes.
    fn take_turn(&self, count: usize) -> Option<usize> {
        let turn = self.cursor.get().checked_rem(count)?;
        self.cursor.set(turn + 1);
        Some(turn)
    }
}

/// The endpoint whose turn it is. Where it is not eligible a random other one stands in: the next in line would get
/// twice its share for as long as its neighbour is out.
fn in_turn<C>(candidates: &[C], turn: usize, random: u64, eligible: impl Fn(&C) -> bool) -> Option<usize> {
    if eligible(&candidates[turn]) {
        return Some(turn);
    }
    let count = candidates.iter().filter(|candidate| eligible(candidate)).count();
    nth_eligible(candidates, scale(random as u32, count)?, eligible)
}

/// The better of two that are chosen at random: nearly as even as comparing all, at a constant price, and without
/// every worker rushing to the one endpoint that looks idle.
fn two_choices<C>(
    candidates: &[C],
    random: u64,
    eligible: impl Fn(&C) -> bool,
    load: impl Fn(&C) -> f64,
) -> Option<usize> {
    let better = |a: usize, b: usize| if load(&candidates[b]) < load(&candidates[a]) { b } else { a };
    let (a, b) = two_ranks(random, candidates.len())?;
    if eligible(&candidates[a]) && eligible(&candidates[b]) {
        return Some(better(a, b));
    }
    let count = candidates.iter().filter(|candidate| eligible(candidate)).count();
    let (a, b) = two_ranks(random, count)?;
    Some(better(nth_eligible(candidates, a, &eligible)?, nth_eligible(candidates, b, &eligible)?))
}

/// Rendezvous hashing: the key scores every endpoint and the highest takes it. A key moves only if its endpoint goes
/// or a new one outbids it, whatever else is ejected, tried or changed; the order of the endpoints does not matter
/// and there is no table to rebuild. The price is one multiplication or two an endpoint.
fn highest_score<C: Candidate>(candidates: &[C], key: u64, eligible: impl Fn(&C) -> bool) -> Option<usize> {
    let mut best: Option<(u64, usize)> = None;
    for (index, candidate) in candidates.iter().enumerate() {
        let score = mix(key ^ candidate.seed());
        if best.is_none_or(|(highest, _)| score > highest) && eligible(candidate) {
            best = Some((score, index));
        }
    }
    best.map(|(_, index)| index)
}

fn nth_eligible<C>(candidates: &[C], rank: usize, eligible: impl Fn(&C) -> bool) -> Option<usize> {
    candidates.iter().enumerate().filter(|(_, candidate)| eligible(candidate)).nth(rank).map(|(index, _)| index)
}

/// Two different ranks below `count` (the same one twice where `count` is 1).
fn two_ranks(random: u64, count: usize) -> Option<(usize, usize)> {
    let a = scale(random as u32, count)?;
    let b = scale((random >> 32) as u32, count - 1).unwrap_or(a);
    Some((a, if count > 1 && b >= a { b + 1 } else { b }))
}

/// Maps 32 random bits to `0..count`; `None` if that is empty.
fn scale(random: u32, count: usize) -> Option<usize> {
    (count > 0).then(|| ((u128::from(random) * count as u128) >> 32) as usize)
}

/// Hashes the key of a request for consistent hashing. The same on every worker, gateway, version and platform: a
/// client that comes in by another gateway stays with its endpoint.
pub fn hash_key(key: &[u8]) -> u64 {
    // FNV-1a, whose weak high bits `mix` repairs. A client may well choose its endpoint: that is what a key is.
    let folded = key
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    mix(folded)
}

/// The number that stands for an endpoint in consistent hashing: a function of its address alone.
pub fn address_seed(address: SocketAddr) -> u64 {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
    .to_bits();
    mix(mix(mix(ip as u64) ^ (ip >> 64) as u64) ^ u64::from(address.port()))
}

/// A 64-bit finaliser (the one of SplitMix64): each bit of the input moves half of the output's.
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// After this long without a sample an average has lost all but 1/e of its weight.
const DECAY: Duration = Duration::from_secs(10);

/// Cost of an endpoint of which nothing is known but that it has not answered yet, in seconds: above any real one,
/// so that a new endpoint gets one request at first and the rest once it has shown how fast it is.
const UNKNOWN: f64 = 1e6;

/// A latency average that jumps up to a peak at once and forgets it slowly.
#[derive(Debug, Default)]
pub struct PeakEwma {
    seconds: Cell<f64>,
    observed: Cell<Option<Instant>>,
}

impl PeakEwma {
    /// Takes a sample in.
    pub fn observe(&self, latency: Duration, now: Instant) {
        let sample = latency.as_secs_f64();
        let average = self.seconds.get();
        let weight = self.weight(now);
        let peak = self.observed.get().is_none() || sample > average;
        self.seconds.set(if peak { sample } else { average * weight + sample * (1.0 - weight) });
        self.observed.set(Some(now));
    }

    /// The average as it was at the last sample; zero if there was none.
    pub fn average(&self) -> Duration {
        Duration::try_from_secs_f64(self.seconds.get()).unwrap_or_default()
    }

    /// The average, decayed until `now`, times the requests that a further one would wait among.
    pub fn cost(&self, in_flight: u32, now: Instant) -> f64 {
        match self.observed.get() {
            None => UNKNOWN * f64::from(in_flight),
            Some(_) => self.seconds.get() * self.weight(now) * f64::from(in_flight.saturating_add(1)),
        }
    }

    fn weight(&self, now: Instant) -> f64 {
        let Some(observed) = self.observed.get() else { return 0.0 };
        (-now.saturating_duration_since(observed).as_secs_f64() / DECAY.as_secs_f64()).exp()
    }
}
