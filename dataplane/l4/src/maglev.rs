//! Filling rings: weighted Maglev for everything that is picked by hash, smooth interleaving for what goes in turn.
//!
//! Maglev is "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section 3.4: each backend has a
//! permutation of all slots of its own, and they take turns to claim the next slot of theirs that is free. Two things
//! differ. The turns follow the weights: the next claim is that of the backend whose claims so far, divided by its
//! weight, are the fewest. And the order among equals is that of the backends' identities, not of a list, so that all
//! directors fill the same ring whatever order they heard of the backends in.
//!
//! Nothing of this may change without a new [`crate::layout::VERSION`]: directors of different versions, and the same one
//! after an upgrade, must pick the same backend.

/// A backend that takes part in a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// What is written into the slots; not 0, which means "none".
    pub id: u16,
    /// Share of the slots relative to the others, 0..=65535; 0 = no slots.
    pub weight: u16,
    /// [`identity`] of its address: the order among equals, and the permutation.
    pub identity: u64,
    /// Slots claimed so far.
    claimed: u32,
    /// Place in the permutation that is tried next.
    next: u32,
    /// Step from one place of the permutation to the one after.
    step: u32,
}

impl Claimant {
    /// A backend that has claimed nothing yet.
    #[must_use]
    pub const fn new(id: u16, weight: u16, identity: u64) -> Self {
        Self { id, weight, identity, claimed: 0, next: 0, step: 0 }
    }

    /// True if the turn of `self` is before that of `other`: `(2 · claimed + phase) / weight` is less, without dividing.
    fn before(&self, other: &Self, phase: u64) -> bool {
        let own = (2 * u64::from(self.claimed) + phase) * u64::from(other.weight);
        let others = (2 * u64::from(other.claimed) + phase) * u64::from(self.weight);
        (own, self.identity, self.id) < (others, other.identity, other.id)
    }
}

/// Identity of a backend: a fixed hash of its address in network order (IPv4 as `::ffff:a.b.c.d`). Method, ports and
/// what a director numbers by itself are not part of it, so that all directors agree.
#[must_use]
pub const fn identity(address: [u8; 16]) -> u64 {
    let word = u128::from_be_bytes(address);
    mix(mix((word >> 64) as u64 ^ 0x736c_7569_6365_0001) ^ word as u64)
}

/// Fills the ring: every slot gets the id of one claimant, so many as its weight says, rounded up. Nobody gets one whole slot
/// more than that, nobody stays without while there are slots for all, and what rounding gives to the light ones is taken
/// from all in proportion. Without a claimant of weight above 0, and in a ring shorter than two, all slots are 0.
///
/// The length of the ring must be a prime (65,537 in the tables): else permutations miss slots, and what they miss is
/// given to whoever's turn it is, in the order of the slots. The claimants are reordered; two must not share an id.
pub fn fill(claimants: &mut [Claimant], ring: &mut [u16]) {
    ring.fill(0);
    let slots = ring.len() as u64;
    let heap = begin(claimants, AT_ONCE);
    if heap.is_empty() || !(2..=u64::from(u32::MAX)).contains(&slots) {
        return;
    }
    for claimant in heap.iter_mut() {
        claimant.next = (mix(claimant.identity ^ 0x6f66_6673_6574_0001) % slots) as u32;
        claimant.step = (mix(claimant.identity ^ 0x7374_6570_0000_0001) % (slots - 1)) as u32 + 1;
    }
    if heap.iter().all(|claimant| claimant.weight == heap[0].weight) {
        return fill_evenly(heap, ring);
    }
    for _ in 0..slots {
        let Some(first) = heap.first_mut() else { return };
        if let Some(slot) = claim(first, ring) {
            *slot = first.id;
        }
        first.claimed += 1;
        sink(heap, 0, AT_ONCE);
    }
}

/// Equal weights: whose turn it is goes round in the order among equals, without a heap.
fn fill_evenly(claimants: &mut [Claimant], ring: &mut [u16]) {
    claimants.sort_unstable_by_key(|claimant| (claimant.identity, claimant.id));
    let mut left = ring.len();
    while left > 0 {
        for claimant in claimants.iter_mut().take(left) {
            if let Some(slot) = claim(claimant, ring) {
                *slot = claimant.id;
            }
        }
        left -= left.min(claimants.len());
    }
}

/// Fills a ring that is walked in turn: a sequence in which each claimant appears as often as its weight says, spread as
/// evenly as can be (weights 4, 1, 1 make `a a c b a a`), repeated to the end of the ring. Where one round of the
/// weights is longer than the ring, weights are scaled down, to no less than one turn a round. A ring that has fewer
/// slots than there are claimants leaves the last ones out. Without a claimant of weight above 0 all slots are 0.
///
/// The claimants are reordered and their weights may be scaled; two must not share an id.
pub fn fill_turns(claimants: &mut [Claimant], ring: &mut [u16]) {
    ring.fill(0);
    let heap = begin(claimants, MIDDLE);
    if heap.is_empty() {
        return;
    }
    scale_to(heap, ring.len());
    let round: usize = heap.iter().map(|claimant| usize::from(claimant.weight)).sum();
    let (sequence, rest) = ring.split_at_mut(round.min(ring.len()));
    for slot in sequence.iter_mut() {
        let Some(first) = heap.first_mut() else { return };
        *slot = first.id;
        first.claimed += 1;
        sink(heap, 0, MIDDLE);
    }
    for repeated in rest.chunks_mut(sequence.len().max(1)) {
        let length = repeated.len();
        repeated.copy_from_slice(&sequence[..length]);
    }
}

/// Turns begin at once: everybody's first claim comes before anybody's second, so that nobody stays without.
const AT_ONCE: u64 = 0;
/// Turns lie in the middle of their share of the round: a light one comes in the midst of the heavy one's turns.
const MIDDLE: u64 = 1;

/// Those with a weight, as a heap of whose turn is first.
fn begin(claimants: &mut [Claimant], phase: u64) -> &mut [Claimant] {
    claimants.sort_unstable_by_key(|claimant| (claimant.weight == 0, claimant.identity, claimant.id));
    let weighty = claimants.iter().position(|claimant| claimant.weight == 0).unwrap_or(claimants.len());
    let heap = &mut claimants[..weighty];
    for claimant in heap.iter_mut() {
        claimant.claimed = 0;
    }
    order(heap, phase);
    heap
}

/// Makes a heap of any order.
fn order(heap: &mut [Claimant], phase: u64) {
    for index in (0..heap.len() / 2).rev() {
        sink(heap, index, phase);
    }
}

/// Divides the weights by what they have in common, and scales them down until a round fits into `slots`.
fn scale_to(heap: &mut [Claimant], slots: usize) {
    let common = heap.iter().fold(0, |common, claimant| greatest_common_divisor(common, claimant.weight)).max(1);
    let mut round: u64 = 0;
    for claimant in heap.iter_mut() {
        claimant.weight /= common;
        round += u64::from(claimant.weight);
    }
    let slots = slots as u64;
    if round > slots {
        // One turn each is set aside, so that rounding up to it cannot make the round longer than the ring.
        let spare = slots.saturating_sub(heap.len() as u64);
        for claimant in heap.iter_mut() {
            claimant.weight = (u64::from(claimant.weight) * spare / round).max(1) as u16;
        }
    }
    order(heap, MIDDLE);
}

const fn greatest_common_divisor(a: u16, b: u16) -> u16 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The next free slot in the permutation of `claimant`.
fn claim<'ring>(claimant: &mut Claimant, ring: &'ring mut [u16]) -> Option<&'ring mut u16> {
    let slots = ring.len() as u64;
    for _ in 0..slots {
        let place = claimant.next as usize;
        let next = u64::from(claimant.next) + u64::from(claimant.step);
        claimant.next = (if next >= slots { next - slots } else { next }) as u32;
        if ring[place] == 0 {
            return Some(&mut ring[place]);
        }
    }
    // Only where the length is no prime.
    ring.iter_mut().find(|slot| **slot == 0)
}

/// Restores the heap below `index`, whose turn has moved back.
fn sink(heap: &mut [Claimant], mut index: usize, phase: u64) {
    loop {
        let mut first = index;
        for child in [2 * index + 1, 2 * index + 2] {
            if child < heap.len() && heap[child].before(&heap[first], phase) {
                first = child;
            }
        }
        if first == index {
            return;
        }
        heap.swap(index, first);
        index = first;
    }
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): every bit of the input decides about every bit of the output.
const fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
