//! What the tables say about traffic: flows of each backend, by walking the flow table, and rates, by difference.

use crate::engine::{Counters, FlowTable};
use sluicegate_l4::layout::{Traffic, flow_word, overflow_mark};
use sluicegate_l4::verdict::Reason;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Stamps after which an idle entry is removed: 7/8 of the range of a stamp, about four hours. Stamps wrap around, and an
/// entry that nobody touches would look fresh again.
pub const IDLE_STAMPS: u16 = 7 << (flow_word::STAMP_BITS - 3);

/// A word of the flow table, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEntry {
    /// Backend id, 1...
    pub backend: u16,
    /// Generation that the backend had.
    pub generation: u8,
    /// The flow had a second packet.
    pub confirmed: bool,
    /// Stamp of the last packet.
    pub stamp: u16,
}

impl FlowEntry {
    /// `None` for a free word.
    #[must_use]
    pub fn read(word: u64) -> Option<Self> {
        let field = |shift: u32, bits: u32| (word >> shift) & ((1 << bits) - 1);
        let backend = field(0, flow_word::BACKEND_BITS) as u16;
        (backend != 0).then(|| Self {
            backend,
            generation: field(flow_word::GENERATION_SHIFT, flow_word::GENERATION_BITS) as u8,
            confirmed: word & flow_word::CONFIRMED != 0,
            stamp: field(flow_word::STAMP_SHIFT, flow_word::STAMP_BITS) as u16,
        })
    }

    /// Stamps since the last packet.
    #[must_use]
    pub fn idle(&self, present: u16) -> u16 {
        present.wrapping_sub(self.stamp) & ((1 << flow_word::STAMP_BITS) - 1)
    }
}

/// What a sweep found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Flows that had a second packet and are not idle, by backend. Clients of services with persistence are among them.
    pub established: BTreeMap<u16, u64>,
    /// Flows with one packet so far, by backend.
    pub tentative: BTreeMap<u16, u64>,
    /// Entries of backends that are dead, gone or of another generation, removed.
    pub stale: u64,
    /// Entries idle for too long, removed.
    pub idle: u64,
    /// Words of the table.
    pub capacity: u64,
}

impl Swept {
    /// All flows of a backend.
    #[must_use]
    pub fn flows_of(&self, backend: u16) -> u64 {
        let of = |flows: &BTreeMap<u16, u64>| flows.get(&backend).copied().unwrap_or(0);
        of(&self.established) + of(&self.tentative)
    }
}

/// Walks the flow table once, counts, and removes what nothing can use any more. `generation_of` gives the generation of
/// a backend that is alive.
///
/// The packet path writes at the same time: a word is removed only as it was read.
pub fn sweep(table: &FlowTable<'_>, generation_of: impl Fn(u16) -> Option<u8>) -> Swept {
    let mut swept = Swept { capacity: table.words.len() as u64, ..Swept::default() };
    // A million flows are looked up by index, not by key.
    let generations: Vec<Option<u8>> = (0..BACKENDS).map(|id| generation_of(id as u16)).collect();
    let mut established = vec![0; BACKENDS];
    let mut tentative = vec![0; BACKENDS];
    age_marks(table);
    for word in table.words {
        let held = word.load(Ordering::Relaxed);
        let Some(entry) = FlowEntry::read(held) else { continue };
        let removed = if generations[usize::from(entry.backend)] != Some(entry.generation) {
            &mut swept.stale
        } else if entry.idle(table.stamp) >= IDLE_STAMPS && entry.idle(table.stamp) < IDLE_CEILING {
            &mut swept.idle
        } else {
            let flows = if entry.confirmed { &mut established } else { &mut tentative };
            flows[usize::from(entry.backend)] += 1;
            continue;
        };
        if word.compare_exchange(held, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            *removed += 1;
        }
    }
    let counted = |flows: Vec<u64>| (0..).zip(flows).filter(|(_, flows)| *flows > 0).collect();
    (swept.established, swept.tentative) = (counted(established), counted(tentative));
    swept
}

/// Removes the marks of sets whose flows in second sets have all been idle for as long as entries may be.
fn age_marks(table: &FlowTable<'_>) {
    let present = overflow_mark(table.stamp);
    for mark in table.overflows {
        let held = mark.load(Ordering::Relaxed);
        let age = present.wrapping_sub(held) & MARK_AGES;
        // A mark forgets the lower bits of its stamp: at this age the entry that it was made for is older still. One that was
        // made since the clock was read looks as old as can be.
        if held != 0 && age > OLDEST_MARK && age < MARK_AGES {
            // It changed: it is in use.
            let _used = mark.compare_exchange(held, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// Ages that a mark tells apart.
const MARK_AGES: u8 = 0x7f;

/// [`IDLE_STAMPS`] as the age of a mark.
const OLDEST_MARK: u8 = (IDLE_STAMPS >> (flow_word::STAMP_BITS - 7)) as u8;

/// Ids that a flow's word can name.
const BACKENDS: usize = 1 << flow_word::BACKEND_BITS;

/// An entry that was stamped between reading the clock and reading the word looks as idle as can be.
const IDLE_CEILING: u16 = (1 << flow_word::STAMP_BITS) - 2;

/// What a reason means for the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It went to a real server.
    Forwarded,
    /// The director answered by itself.
    Answered,
    /// It is left to the machine's own stack.
    Passed,
    /// The end of it.
    Dropped,
}

impl Outcome {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 4] = [Self::Forwarded, Self::Answered, Self::Passed, Self::Dropped];

    /// What the reason is counted as.
    #[must_use]
    pub const fn of(reason: Reason) -> Self {
        match reason {
            Reason::NotIp
            | Reason::NotVip
            | Reason::Expired
            | Reason::LocalBackend
            | Reason::LocalAddress
            | Reason::NotOwned
            | Reason::NdpOther
            | Reason::OtherHost => Self::Passed,
            Reason::FlowHit
            | Reason::FlowNew
            | Reason::FlowUntracked
            | Reason::FlowMoved
            | Reason::Persistent
            | Reason::OnePacket
            | Reason::Fragment
            | Reason::IcmpError
            | Reason::SecondChance => Self::Forwarded,
            Reason::ArpAnswered | Reason::NdpAnswered | Reason::EchoAnswered | Reason::TooBigAnswered => Self::Answered,
            Reason::Truncated
            | Reason::BadHeader
            | Reason::TooManyHeaders
            | Reason::BadChecksum
            | Reason::TtlExpired
            | Reason::NoService
            | Reason::NoBackend
            | Reason::DeadBackend
            | Reason::UnknownProtocol
            | Reason::FragmentUnwanted
            | Reason::FragmentUnknown
            | Reason::IcmpUnknownFlow
            | Reason::IcmpUnsupported
            | Reason::TooBig
            | Reason::BroadcastSource
            | Reason::NoRoom
            | Reason::TableFault => Self::Dropped,
        }
    }

    /// The word in metrics, tables and captures.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Answered => "answered",
            Self::Passed => "passed",
            Self::Dropped => "dropped",
        }
    }
}

/// Packets, bytes and new flows a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Packets a second.
    pub packets: f64,
    /// Bytes a second.
    pub bytes: f64,
    /// New flows a second.
    pub flows: f64,
}

/// The rate between two readings of a counter; a counter that went back (its id was given out anew) counts from 0.
#[must_use]
pub fn rate(before: Traffic, after: Traffic, elapsed: Duration) -> Rate {
    let seconds = elapsed.as_secs_f64();
    if seconds <= 0.0 {
        return Rate::default();
    }
    let of = |before: u64, after: u64| after.checked_sub(before).unwrap_or(after) as f64 / seconds;
    Rate {
        packets: of(before.packets, after.packets),
        bytes: of(before.bytes, after.bytes),
        flows: of(before.flows, after.flows),
    }
}

/// Rates of everything between two readings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    /// By service id.
    pub services: BTreeMap<u16, Rate>,
    /// By backend id.
    pub backends: BTreeMap<u16, Rate>,
}

/// Rates between two readings. What was not read before has none yet.
#[must_use]
pub fn rates(before: &Counters, after: &Counters, elapsed: Duration) -> Rates {
    let of = |before: &BTreeMap<u16, Traffic>, after: &BTreeMap<u16, Traffic>| {
        after.iter().filter_map(|(id, now)| Some((*id, rate(*before.get(id)?, *now, elapsed)))).collect()
    };
    Rates { services: of(&before.services, &after.services), backends: of(&before.backends, &after.backends) }
}
