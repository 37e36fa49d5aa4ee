//! Where an address or a service lies in its directory: which VIP is this, and what is bound to its port?
//!
//! Both directories are buckets of a cache line, and a key is in one of two of them. Who fills the tables puts a new key
//! into the emptier one. The hashes are local to a machine (they read words in its byte order), but fixed: the process of
//! the next version finds what this one wrote.

use crate::Tables;
use crate::layout::{ADDRESS_BUCKETS, Address, AddressEntry, SERVICE_BUCKETS, service_key};

/// Odd, half of its bits set, without pattern: the golden ratio and a prime of the xxHash family.
const MIX_A: u64 = 0x9e37_79b9_7f4a_7c15;
const MIX_B: u64 = 0xc2b2_ae3d_27d4_eb4f;

/// The two buckets in which an address may be. They may be the same one.
#[inline(always)]
#[must_use]
pub const fn address_buckets(address: &Address) -> [u32; 2] {
    let [first, second, third, fourth] = *address;
    let high = first as u64 | (second as u64) << 32;
    let low = fourth as u64 | (third as u64) << 32;
    buckets(low.wrapping_add(high.wrapping_mul(MIX_B)), ADDRESS_BUCKETS)
}

/// The two buckets in which the word of a [`service_key`] may be. They may be the same one.
#[inline(always)]
#[must_use]
pub const fn service_buckets(key: u64) -> [u32; 2] {
    buckets(key, SERVICE_BUCKETS)
}

/// The upper half of a product depends on all lower bits of the key; the fold brings in the upper ones.
#[inline(always)]
const fn buckets(key: u64, number: u32) -> [u32; 2] {
    let hash = (key ^ (key >> 29)).wrapping_mul(MIX_A);
    let mask = number - 1;
    [(hash >> 32) as u32 & mask, (hash >> 48) as u32 & mask]
}

const _: () = assert!(ADDRESS_BUCKETS.is_power_of_two() && ADDRESS_BUCKETS <= 1 << 16);
const _: () = assert!(SERVICE_BUCKETS.is_power_of_two() && SERVICE_BUCKETS <= 1 << 16);

/// A VIP that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(8))]
pub struct Vip {
    /// Its id, not 0.
    pub id: u16,
    /// [`AddressEntry::ECHO`] …
    pub flags: u16,
}

impl Vip {
    /// Is this VIP an address of this machine too?
    #[must_use]
    pub const fn is_local(self) -> bool {
        self.flags & AddressEntry::LOCAL != 0
    }
}

/// The VIP with this address.
#[inline(always)]
pub fn find_address<T: Tables>(tables: &T, address: &Address) -> Option<Vip> {
    let [one, other] = address_buckets(address);
    match address_in(tables, one, address) {
        Some(vip) => Some(vip),
        None => address_in(tables, other, address),
    }
}

#[inline(always)]
fn address_in<T: Tables>(tables: &T, bucket: u32, address: &Address) -> Option<Vip> {
    let bucket = tables.address_bucket(bucket)?;
    let [first, second, third] = &bucket.entries;
    for entry in [first, second, third] {
        // The last word first: it differs most.
        if entry.address[3] == address[3]
            && entry.address[2] == address[2]
            && entry.address[1] == address[1]
            && entry.address[0] == address[0]
            && entry.id != 0
        {
            return Some(Vip { id: entry.id, flags: entry.flags });
        }
    }
    None
}

/// The id of the service that is bound to the port, to any port of the protocol, or to everything of the VIP, in this
/// order.
#[inline(always)]
pub fn find_service<T: Tables>(tables: &T, vip: Vip, protocol: u8, port: u16) -> Option<u16> {
    if let Some(service) = find_port(tables, vip, protocol, port) {
        return Some(service);
    }
    match service_of(tables, service_key(vip.id, protocol, 0)) {
        Some(service) => Some(service),
        None => service_of(tables, service_key(vip.id, 0, 0)),
    }
}

/// The id of the service that is bound to this very port.
#[inline(always)]
pub(crate) fn find_port<T: Tables>(tables: &T, vip: Vip, protocol: u8, port: u16) -> Option<u16> {
    service_of(tables, service_key(vip.id, protocol, port))
}

#[inline(always)]
fn service_of<T: Tables>(tables: &T, key: u64) -> Option<u16> {
    let [one, other] = service_buckets(key);
    match service_in(tables, one, key) {
        Some(service) => Some(service),
        None => service_in(tables, other, key),
    }
}

#[inline(always)]
fn service_in<T: Tables>(tables: &T, bucket: u32, key: u64) -> Option<u16> {
    let bucket = tables.service_bucket(bucket)?;
    for word in &bucket.words {
        let id = (*word ^ key) as u16;
        if (*word ^ key) >> 16 == 0 && id != 0 {
            return Some(id);
        }
    }
    None
}
