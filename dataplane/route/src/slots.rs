//! Numbered places that keep their number while they are in use, cheap to copy with one change.
//!
//! The places lie in chunks behind an `Arc` each. A copy shares all chunks; the first change to a chunk copies that
//! chunk and the list of chunks, so one change among 20,000 copies some 300 pointers.

use std::sync::Arc;

/// Places in one chunk. With 20,000 places the list of chunks (157) and a chunk (128) are about equally long, which
/// is where their sum is smallest.
const CHUNK: usize = 128;

type Chunk<T> = Arc<[Option<T>]>;

#[derive(Clone)]
pub(crate) struct Slots<T> {
    chunks: Arc<[Chunk<T>]>,
    /// Places below `used` that hold nothing; taken from the end.
    free: Arc<Vec<u32>>,
    used: u32,
}

impl<T: Clone> Slots<T> {
    pub(crate) fn new() -> Self {
        Self { chunks: Arc::from([]), free: Arc::default(), used: 0 }
    }

    #[inline]
    pub(crate) fn get(&self, slot: u32) -> Option<&T> {
        let slot = slot as usize;
        self.chunks.get(slot / CHUNK)?.get(slot % CHUNK)?.as_ref()
    }

    /// The place's value for change; copies the chunk if a snapshot shares it.
    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.place(slot)?.as_mut()
    }

    /// Puts a value into a free place and returns its number.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        let slot = if self.free.is_empty() {
            let slot = self.used;
            self.used += 1;
            if slot as usize / CHUNK == self.chunks.len() {
                let fresh: Chunk<T> = std::iter::repeat_with(|| None).take(CHUNK).collect();
                self.chunks = self.chunks.iter().cloned().chain([fresh]).collect();
            }
            slot
        } else {
            let free = Arc::make_mut(&mut self.free);
            free.pop().unwrap_or_default()
        };
        if let Some(place) = self.place(slot) {
            debug_assert!(place.is_none(), "a place is given out once");
            *place = Some(value);
        }
        slot
    }

    /// Empties a place; its number may be given out again.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<T> {
        let value = self.place(slot)?.take();
        if value.is_some() {
            Arc::make_mut(&mut self.free).push(slot);
        }
        value
    }

    /// Values with their numbers, in the order of the numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.chunks
            .iter()
            .flat_map(|chunk| chunk.iter())
            .zip(0..)
            .filter_map(|(place, slot)| place.as_ref().map(|value| (slot, value)))
    }

    fn place(&mut self, slot: u32) -> Option<&mut Option<T>> {
        let slot = slot as usize;
        let chunk = Arc::make_mut(&mut self.chunks).get_mut(slot / CHUNK)?;
        Arc::make_mut(chunk).get_mut(slot % CHUNK)
    }
}
