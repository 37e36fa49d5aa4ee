//! The flow table: which backend has this flow?
//!
//! A set-associative cache of single words ([`FlowSet`](crate::layout::FlowSet)). A word is read and written whole, by any CPU, without a lock:
//! two CPUs that write the same place at once lose one entry, which the next packet puts back.
//!
//! A new entry is *tentative*; a later packet that does not open a connection confirms it. A new flow takes, in this
//! order: a free place, that of the tentative entry that has been idle longest, and that of the confirmed one that has been
//! idle longest, but this only after [`IDLE_STAMPS`] or if its backend is gone. So a flood of connection attempts displaces
//! only other attempts, and looks at one backend at most.
//!
//! A flow whose set has no such place goes to a second one, by the same rule (so does one that does not begin with an
//! attempt, where it would take the last places that attempts have), and the first set is *marked*: a look-up that
//! fails in a set without a mark ends there, so that one cache line is the price of nearly all packets, known or not.

use crate::access::{FlowPlaces, Tables};
use crate::layout::{Backend, Control, FLOW_WAYS, flow_sets, flow_word, overflow_mark};
use crate::parse::Transport;

/// A confirmed flow that has been silent for so many stamps (of 8 seconds: a quarter of an hour) may lose its place.
pub const IDLE_STAMPS: u32 = 113;

/// An attempt at a connection that is this old has failed.
const ATTEMPT_STAMPS: u32 = 1;

/// Places of a first set that are left to attempts where established flows have the others.
const ATTEMPT_PLACES: u32 = 3;

const STAMP_MASK: u64 = (1 << flow_word::STAMP_BITS) - 1;
const BACKEND_MASK: u64 = (1 << flow_word::BACKEND_BITS) - 1;
const GENERATION_MASK: u64 = (1 << flow_word::GENERATION_BITS) - 1;
const CONFIRMED_SHIFT: u32 = flow_word::CONFIRMED.trailing_zeros();
const LOWER: u64 = (1 << flow_word::SIGNATURE_SHIFT) - 1;

/// The word of one flow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry(pub(crate) u64);

impl Entry {
    /// An entry without its signature.
    #[inline(always)]
    pub(crate) const fn new(backend: u16, generation: u8, stamp: u32, confirmed: bool) -> Self {
        Self(
            (backend as u64 & BACKEND_MASK)
                | (generation as u64 & GENERATION_MASK) << flow_word::GENERATION_SHIFT
                | if confirmed { flow_word::CONFIRMED } else { 0 }
                | (stamp as u64 & STAMP_MASK) << flow_word::STAMP_SHIFT,
        )
    }

    #[inline(always)]
    pub(crate) const fn backend(self) -> u16 {
        (self.0 & BACKEND_MASK) as u16
    }

    /// Does it still mean this backend?
    #[inline(always)]
    pub(crate) fn is_of(self, backend: &Backend) -> bool {
        let generation = self.0 >> flow_word::GENERATION_SHIFT & GENERATION_MASK;
        backend.alive == 1 && u64::from(backend.generation) & GENERATION_MASK == generation
    }

    #[inline(always)]
    pub(crate) const fn is_confirmed(self) -> bool {
        self.0 & flow_word::CONFIRMED != 0
    }

    /// Stamps since its last packet.
    #[inline(always)]
    pub(crate) const fn age(self, stamp: u32) -> u32 {
        (stamp.wrapping_sub((self.0 >> flow_word::STAMP_SHIFT) as u32)) & STAMP_MASK as u32
    }

    #[inline(always)]
    const fn stamp(self) -> u32 {
        (self.0 >> flow_word::STAMP_SHIFT & STAMP_MASK) as u32
    }

    /// What its first set is marked with if it is in the second one.
    #[inline(always)]
    const fn mark(self) -> u8 {
        overflow_mark(self.stamp() as u16)
    }

    /// How ready it is to be replaced: tentative ones before all confirmed ones, each by age.
    #[inline(always)]
    const fn readiness(self, stamp: u32) -> u32 {
        let tentative = !(self.0 >> CONFIRMED_SHIFT) as u32 & 1;
        tentative << flow_word::STAMP_BITS | self.age(stamp)
    }

    /// The same entry after a packet at `stamp`: confirmed, unless that opens the connection or ends it at once.
    #[inline(always)]
    pub(crate) const fn seen(self, stamp: u32, transport: Transport) -> Self {
        let confirmed = self.0 >> CONFIRMED_SHIFT | !transport.opens();
        self.marked(stamp, confirmed & !transport.resets() & 1)
    }

    /// The same entry, with this stamp, and confirmed by 1 or tentative by 0.
    #[inline(always)]
    pub(crate) const fn marked(self, stamp: u32, confirmed: u64) -> Self {
        let kept = self.0 & !(STAMP_MASK << flow_word::STAMP_SHIFT) & !flow_word::CONFIRMED;
        Self(kept | (stamp as u64 & STAMP_MASK) << flow_word::STAMP_SHIFT | confirmed << CONFIRMED_SHIFT)
    }

    #[inline(always)]
    const fn signed(self, hash: u64) -> u64 {
        (self.0 & LOWER) | (hash & !LOWER)
    }
}

/// What a stamp is at this moment.
#[inline(always)]
pub(crate) fn stamp(now: u64, control: &Control) -> u32 {
    (now >> (control.stamp_shift & 63)) as u32 & STAMP_MASK as u32
}

/// An entry that was found, and where.
pub(crate) struct Found<S> {
    pub(crate) entry: Entry,
    set: S,
    way: usize,
    /// Index of the flow's first set.
    home: u32,
    /// It was in the second one.
    overflowed: bool,
}

impl<S: FlowPlaces> Found<S> {
    /// Puts another entry with the same signature there.
    #[inline(always)]
    pub(crate) fn replace<T: Tables>(&self, tables: &T, entry: Entry) {
        self.set.store(self.way, entry.0);
        if self.overflowed {
            // It has a mark already, else the entry would not have been found: this makes it younger.
            let _marked = tables.mark_overflow(self.home, entry.mark());
        }
    }
}

/// The entry of this hash.
#[inline(always)]
pub(crate) fn find<T: Tables>(tables: &T, mask: u32, hash: u64) -> Option<Found<impl FlowPlaces>> {
    let [home, other] = flow_sets(hash, mask);
    match find_in(tables, home, hash) {
        Some((entry, set, way)) => Some(Found { entry, set, way, home, overflowed: false }),
        None if tables.overflow(home) == 0 => None,
        None => {
            let (entry, set, way) = find_in(tables, other, hash)?;
            Some(Found { entry, set, way, home, overflowed: true })
        }
    }
}

/// The entry of this hash if it is in its first set, as nearly all are.
#[inline(always)]
pub(crate) fn find_at_home<T: Tables>(tables: &T, mask: u32, hash: u64) -> Option<Found<impl FlowPlaces>> {
    let [home, _] = flow_sets(hash, mask);
    let (entry, set, way) = find_in(tables, home, hash)?;
    Some(Found { entry, set, way, home, overflowed: false })
}

#[inline(always)]
fn find_in<T: Tables>(tables: &T, index: u32, hash: u64) -> Option<(Entry, impl FlowPlaces, usize)> {
    let set = tables.flow_set(index)?;
    for step in 0..FLOW_WAYS {
        let way = way(hash, step);
        let word = set.load(way);
        if (word ^ hash) >> flow_word::SIGNATURE_SHIFT == 0 {
            let entry = Entry(word);
            return if entry.backend() == 0 { None } else { Some((entry, set, way)) };
        }
    }
    None
}

/// Remembers an entry under a hash. False if both of its sets are full of established flows.
///
/// With `yields`, the last places of the first set that no established flow has are left to attempts. Else flows that were
/// known before (to another director, say) would take them from each other in a circle, none of them ever twice seen.
#[inline(always)]
pub(crate) fn remember<T: Tables>(tables: &T, mask: u32, hash: u64, entry: Entry, yields: bool) -> bool {
    let [home, other] = flow_sets(hash, mask);
    if remember_in(tables, home, hash, entry, yields) {
        return true;
    }
    // The mark comes first: an entry that is in the second set without it would not be found.
    let overflowed = tables.mark_overflow(home, entry.mark()) && remember_in(tables, other, hash, entry, false);
    overflowed || (yields && remember_in(tables, home, hash, entry, false))
}

#[inline(never)]
fn remember_in<T: Tables>(tables: &T, index: u32, hash: u64, entry: Entry, yields: bool) -> bool {
    let Some(set) = tables.flow_set(index) else {
        return false;
    };
    let stamp = entry.stamp();
    let word = entry.signed(hash);
    for step in 0..FLOW_WAYS {
        let way = way(hash, step);
        let old = set.load(way);
        if old == 0 || (old ^ hash) >> flow_word::SIGNATURE_SHIFT == 0 {
            set.store(way, word);
            return true;
        }
    }
    // The place is part of what is compared: one number has the answer. The first of equals wins, by the order of ways.
    let (mut best, mut tentative) = (0, 0);
    for step in 0..FLOW_WAYS {
        let readiness = Entry(set.load(way(hash, step))).readiness(stamp);
        tentative += readiness >> flow_word::STAMP_BITS;
        let worth = readiness << 3 | (FLOW_WAYS - 1 - step) as u32;
        if worth > best {
            best = worth;
        }
    }
    let way = way(hash, FLOW_WAYS - 1 - (best as usize & (FLOW_WAYS - 1)));
    let readiness = best >> 3;
    if yields && tentative <= ATTEMPT_PLACES && readiness <= (1 << flow_word::STAMP_BITS) + ATTEMPT_STAMPS {
        return false;
    }
    if readiness <= IDLE_STAMPS && !is_gone(tables, Entry(set.load(way))) {
        return false;
    }
    set.store(way, word);
    true
}

/// The order in which a flow looks at the places of its set begins with chance: most are found in the first.
#[inline(always)]
const fn way(hash: u64, step: usize) -> usize {
    ((hash >> (flow_word::SIGNATURE_SHIFT - 3)) as usize).wrapping_add(step) & (FLOW_WAYS - 1)
}

#[inline(always)]
fn is_gone<T: Tables>(tables: &T, entry: Entry) -> bool {
    match tables.backend(entry.backend()) {
        Some(backend) => !entry.is_of(&backend),
        None => true,
    }
}
