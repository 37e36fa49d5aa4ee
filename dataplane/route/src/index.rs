//! From the hash of a key to a slot, cheap to copy with one change.
//!
//! The keys themselves lie with the values in their slots, so an entry is two numbers and copying a shard is copying
//! memory: no reference count of a host is touched because its neighbour changed.

use foldhash::quality::FixedState;
use hashbrown::HashTable;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

/// What all hashes of one line of tables begin with.
#[derive(Clone, Copy)]
pub(crate) struct Seed(u64);

impl Seed {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    #[inline]
    pub(crate) fn hash(self, text: &[u8]) -> u64 {
        let mut hasher = FixedState::with_seed(self.0).build_hasher();
        hasher.write(text);
        hasher.finish()
    }

    pub(crate) fn hash_value(self, value: &impl Hash) -> u64 {
        FixedState::with_seed(self.0).hash_one(value)
    }
}

/// Shards of an index. With 20,000 keys the list of shards is 256 pointers and a shard some 80 entries.
const SHARDS: usize = 256;

/// The hash's lower half is enough to tell keys apart before they are compared, and an entry of 8 bytes makes the index of
/// 20,000 keys fit the second-level cache.
#[derive(Clone, Copy)]
struct Entry {
    hash: u32,
    slot: u32,
}

impl Entry {
    /// What the table inside a shard goes by.
    #[inline]
    fn spread(hash: u32) -> u64 {
        // The table takes its tag from the top bits, which must hang on all others.
        u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

#[derive(Clone)]
pub(crate) struct Index {
    shards: Arc<[Arc<HashTable<Entry>>]>,
    len: usize,
}

impl Index {
    pub(crate) fn new() -> Self {
        let empty = Arc::new(HashTable::new());
        Self { shards: vec![empty; SHARDS].into(), len: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The slot whose key has this hash and which `is_key` confirms.
    #[inline]
    pub(crate) fn get(&self, hash: u64, is_key: impl Fn(u32) -> bool) -> Option<u32> {
        let shard = self.shards.get(shard_of(hash))?;
        let part = hash as u32;
        shard.find(Entry::spread(part), |entry| entry.hash == part && is_key(entry.slot)).map(|entry| entry.slot)
    }

    /// Adds a key that is not there yet.
    pub(crate) fn insert(&mut self, hash: u64, slot: u32) {
        if let Some(shard) = Arc::make_mut(&mut self.shards).get_mut(shard_of(hash)) {
            let hash = hash as u32;
            let spread = Entry::spread(hash);
            Arc::make_mut(shard).insert_unique(spread, Entry { hash, slot }, |entry| Entry::spread(entry.hash));
            self.len += 1;
        }
    }

    /// Forgets the key that leads to this slot.
    pub(crate) fn remove(&mut self, hash: u64, slot: u32) {
        let Some(shard) = Arc::make_mut(&mut self.shards).get_mut(shard_of(hash)) else { return };
        if let Ok(entry) = Arc::make_mut(shard).find_entry(Entry::spread(hash as u32), |entry| entry.slot == slot) {
            entry.remove();
            self.len -= 1;
        }
    }
}

/// The shard goes by the upper half of the hash, its inside by the lower.
#[inline]
fn shard_of(hash: u64) -> usize {
    (hash >> 40) as usize % SHARDS
}
