//! Places in the two directories: a key is in one of two buckets. A new one goes into the emptier; where both are full,
//! one of their entries moves to its other bucket, copied before it is removed.

use crate::tables::{MapOp, Tables};
use sluicegate_l4::directory::{address_buckets, service_buckets};
use sluicegate_l4::layout::{Address, AddressEntry};

/// Puts the VIP into its place, or its flags right; `None` where there is no room. The image has it then.
pub(super) fn place_address(tables: &mut Tables, entry: AddressEntry) -> Option<Vec<MapOp>> {
    let mut directory = Addresses(tables);
    match find(&directory, &entry, |held| held.address == entry.address) {
        Some((_, held)) if held == entry => Some(Vec::new()),
        Some((place, _)) => Some(directory.write(&[(place, entry)])),
        None => place(&mut directory, entry),
    }
}

/// Puts the word of a service into its place; `None` where there is no room. The image has it then.
pub(super) fn place_word(tables: &mut Tables, word: u64) -> Option<Vec<MapOp>> {
    place(&mut Words(tables), word)
}

/// Frees the entry of a VIP.
pub(super) fn remove_address(tables: &mut Tables, address: Address) -> Vec<MapOp> {
    let gone = AddressEntry { address, ..AddressEntry::default() };
    remove(&mut Addresses(tables), &gone, |held| held.address == address)
}

/// Frees the word of a service.
pub(super) fn remove_word(tables: &mut Tables, word: u64) -> Vec<MapOp> {
    remove(&mut Words(tables), &word, |held| *held == word)
}

/// Bucket and way.
type Place = (u32, usize);

/// What the directories have in common.
trait Directory {
    type Entry: Copy + Default + PartialEq;

    fn buckets(entry: &Self::Entry) -> [u32; 2];
    fn bucket(&self, bucket: u32) -> &[Self::Entry];
    fn set(&mut self, place: Place, entry: Self::Entry) -> MapOp;

    fn write(&mut self, entries: &[(Place, Self::Entry)]) -> Vec<MapOp> {
        entries.iter().map(|(place, entry)| self.set(*place, *entry)).collect()
    }

    /// The first free way of a bucket and how many ways are free.
    fn free(&self, bucket: u32) -> Option<(usize, usize)> {
        let free = |entry: &&Self::Entry| **entry == Self::Entry::default();
        let ways = self.bucket(bucket);
        let first = ways.iter().position(|entry| free(&entry))?;
        Some((ways.iter().filter(free).count(), first))
    }
}

fn place<D: Directory>(directory: &mut D, entry: D::Entry) -> Option<Vec<MapOp>> {
    let buckets = D::buckets(&entry);
    let emptier = buckets
        .into_iter()
        .filter_map(|bucket| directory.free(bucket).map(|(free, way)| (free, bucket, way)))
        .max_by_key(|(free, bucket, _)| (*free, std::cmp::Reverse(*bucket)));
    if let Some((_, bucket, way)) = emptier {
        return Some(directory.write(&[((bucket, way), entry)]));
    }
    let (from, to) = buckets.into_iter().find_map(|bucket| movable(directory, bucket))?;
    let moved = directory.bucket(from.0)[from.1];
    Some(directory.write(&[(to, moved), (from, D::Entry::default()), (from, entry)]))
}

/// An entry of a full bucket that has room in its other one: from where to where.
fn movable<D: Directory>(directory: &D, bucket: u32) -> Option<(Place, Place)> {
    (0..).zip(directory.bucket(bucket)).find_map(|(way, entry)| {
        let other = D::buckets(entry).into_iter().find(|other| *other != bucket)?;
        let (_, free) = directory.free(other)?;
        Some(((bucket, way), (other, free)))
    })
}

fn remove<D: Directory>(directory: &mut D, like: &D::Entry, gone: impl Fn(&D::Entry) -> bool) -> Vec<MapOp> {
    match find(directory, like, gone) {
        Some((place, _)) => directory.write(&[(place, D::Entry::default())]),
        None => Vec::new(),
    }
}

/// The entry in one of the two buckets of `like`.
fn find<D: Directory>(directory: &D, like: &D::Entry, wanted: impl Fn(&D::Entry) -> bool) -> Option<(Place, D::Entry)> {
    D::buckets(like).into_iter().find_map(|bucket| {
        let held = |entry: &D::Entry| *entry != D::Entry::default() && wanted(entry);
        let way = directory.bucket(bucket).iter().position(held)?;
        Some(((bucket, way), directory.bucket(bucket)[way]))
    })
}

struct Addresses<'a>(&'a mut Tables);

impl Directory for Addresses<'_> {
    type Entry = AddressEntry;

    fn buckets(entry: &AddressEntry) -> [u32; 2] {
        address_buckets(&entry.address)
    }

    fn bucket(&self, bucket: u32) -> &[AddressEntry] {
        self.0.addresses.get(bucket as usize).map_or(&[], |bucket| &bucket.entries)
    }

    fn set(&mut self, (bucket, way): Place, entry: AddressEntry) -> MapOp {
        let op = MapOp::Address { bucket, way: way as u32, entry };
        self.0.apply(&op);
        op
    }
}

struct Words<'a>(&'a mut Tables);

impl Directory for Words<'_> {
    type Entry = u64;

    fn buckets(word: &u64) -> [u32; 2] {
        service_buckets(word & !0xffff)
    }

    fn bucket(&self, bucket: u32) -> &[u64] {
        self.0.service_index.get(bucket as usize).map_or(&[], |bucket| &bucket.words)
    }

    fn set(&mut self, (bucket, way): Place, word: u64) -> MapOp {
        let op = MapOp::ServiceWord { bucket, way: way as u32, word };
        self.0.apply(&op);
        op
    }
}
