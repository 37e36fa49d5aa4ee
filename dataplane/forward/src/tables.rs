//! An image of the tables, as planning fills them: what is read back after a restart, and what a list of operations
//! makes of it.

use sluicegate_l4::layout::{
    ADDRESS_BUCKETS, AddressBucket, AddressEntry, Backend, RING_LINE_SLOTS, RING_SLOTS, RingLine, SERVICE_BUCKETS,
    Service, ServiceBucket,
};
use sluicegate_l4::maglev::{Claimant, fill, fill_turns};
use std::collections::BTreeMap;

/// One write into a table. A list of them is applied in its order; each step leaves the tables in a state that serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapOp {
    /// `BACKENDS[id]`.
    Backend {
        /// Index.
        id: u16,
        /// What it becomes.
        value: Backend,
    },
    /// Lines of a ring that change, each `RINGS[ring * RING_LINES + line]`.
    Ring {
        /// The ring.
        ring: u32,
        /// (Line within the ring, what it becomes), ascending.
        lines: Vec<(u32, RingLine)>,
    },
    /// All lines of a ring that no service has yet, said by who fills it: a ring is 130 KB, and a first plan has hundreds.
    NewRing {
        /// The ring.
        ring: u32,
        /// What it becomes.
        filling: Filling,
    },
    /// `SERVICES[id]`.
    Service {
        /// Index.
        id: u16,
        /// What it becomes.
        value: Service,
    },
    /// One word of `SERVICE_INDEX[bucket]`; written whole.
    ServiceWord {
        /// Index.
        bucket: u32,
        /// 0..8.
        way: u32,
        /// What it becomes; 0 = free.
        word: u64,
    },
    /// One entry of `ADDRESSES[bucket]`: the id is written last, or first where it becomes 0.
    Address {
        /// Index.
        bucket: u32,
        /// 0..3.
        way: u32,
        /// What it becomes; id 0 = free.
        entry: AddressEntry,
    },
}

/// What a ring is filled from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filling {
    /// In turn, not by hash.
    pub turns: bool,
    /// How many are filled, at most [`RING_SLOTS`].
    pub slots: u32,
    /// Who gets them.
    pub claimants: Box<[Claimant]>,
}

impl Filling {
    /// Fills the slots.
    #[must_use]
    pub fn slots(&self) -> Vec<u16> {
        let mut claimants = self.claimants.clone();
        let mut slots = vec![0; self.slots.min(RING_SLOTS) as usize];
        if self.turns {
            fill_turns(&mut claimants, &mut slots)
        } else {
            fill(&mut claimants, &mut slots)
        }
        slots
    }

    /// The slots as lines; what is left of the last one is 0.
    #[must_use]
    pub fn lines(&self) -> Vec<RingLine> {
        lines_of_slots(&self.slots())
    }
}

/// Slots as lines; what is left of the last one is 0.
pub(crate) fn lines_of_slots(slots: &[u16]) -> Vec<RingLine> {
    let line = |chunk: &[u16]| {
        let mut line = RingLine::default();
        line.slots[..chunk.len()].copy_from_slice(chunk);
        line
    };
    slots.chunks(RING_LINE_SLOTS as usize).map(line).collect()
}

/// What lies in the tables. Entries that are all zero need not be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// `ADDRESSES`, all buckets.
    pub addresses: Vec<AddressBucket>,
    /// `SERVICE_INDEX`, all buckets.
    pub service_index: Vec<ServiceBucket>,
    /// `SERVICES` by id.
    pub services: BTreeMap<u16, Service>,
    /// The rings that a service has, each with the lines that its `ring_slots` take.
    pub rings: BTreeMap<u32, Vec<RingLine>>,
    /// `BACKENDS` by id.
    pub backends: BTreeMap<u16, Backend>,
}

impl Default for Tables {
    /// Tables as a kernel creates them: all zero.
    fn default() -> Self {
        Self {
            addresses: vec![AddressBucket::default(); ADDRESS_BUCKETS as usize],
            service_index: vec![ServiceBucket::default(); SERVICE_BUCKETS as usize],
            services: BTreeMap::new(),
            rings: BTreeMap::new(),
            backends: BTreeMap::new(),
        }
    }
}

impl Tables {
    /// Does what the operation says. What lies outside of the tables is ignored.
    pub fn apply(&mut self, op: &MapOp) {
        match op {
            MapOp::Backend { id, value } => {
                self.backends.insert(*id, *value);
            }
            MapOp::Service { id, value } => {
                self.services.insert(*id, *value);
            }
            MapOp::Ring { ring, lines } => {
                let held = self.rings.entry(*ring).or_default();
                for (line, value) in lines {
                    let line = *line as usize;
                    if held.len() <= line {
                        held.resize(line + 1, RingLine::default());
                    }
                    held[line] = *value;
                }
            }
            MapOp::NewRing { ring, filling } => drop(self.rings.insert(*ring, filling.lines())),
            MapOp::ServiceWord { bucket, way, word } => {
                let bucket = self.service_index.get_mut(*bucket as usize);
                if let Some(held) = bucket.and_then(|bucket| bucket.words.get_mut(*way as usize)) {
                    *held = *word;
                }
            }
            MapOp::Address { bucket, way, entry } => {
                let bucket = self.addresses.get_mut(*bucket as usize);
                if let Some(held) = bucket.and_then(|bucket| bucket.entries.get_mut(*way as usize)) {
                    *held = *entry;
                }
            }
        }
    }

    /// The slots of a ring, as many as its lines hold.
    pub fn slots(&self, ring: u32) -> impl Iterator<Item = u16> + '_ {
        self.rings.get(&ring).into_iter().flatten().flat_map(|line| line.slots)
    }
}

/// Lines that so many slots take.
#[must_use]
pub const fn lines_of(slots: u32) -> u32 {
    slots.div_ceil(RING_LINE_SLOTS)
}
