//! The hashes of flows. The ring hash decides which backend a flow gets, so all directors of all versions must agree on
//! it: it is fixed by golden vectors, and reads addresses and ports as little-endian numbers on every machine. The flow
//! hash decides only where this machine remembers the flow, and is keyed with a secret so that nobody outside can aim.

use crate::layout::Address;

/// Odd constants without pattern (xxHash, MurmurHash3).
const MIX_A: u64 = 0x9e37_79b9_7f4a_7c15;
const MIX_B: u64 = 0xc2b2_ae3d_27d4_eb4f;
const FINAL_A: u64 = 0xff51_afd7_ed55_8ccd;
const FINAL_B: u64 = 0xc4ce_b9fe_1a85_ec53;

/// What identifies a flow besides its service, in 64 bits: of IPv4 all of it; of IPv6 the address is mixed down.
///
/// `ports` is source and destination port as they lie in the packet, read as one little-endian number.
#[inline(always)]
#[must_use]
pub fn tuple(source: &Address, ports: u32, protocol: u8) -> u64 {
    client(source) ^ u64::from(ports) << 32 ^ u64::from(protocol).wrapping_mul(MIX_B)
}

/// An address in 64 bits: an IPv4 address as it is, an IPv6 address mixed down.
#[inline(always)]
#[must_use]
pub fn client(address: &Address) -> u64 {
    let [first, second, third, fourth] = address.map(u32::to_le);
    if first | second == 0 && third == 0xffff_0000 {
        return u64::from(fourth);
    }
    let high = u64::from(first) | u64::from(second) << 32;
    let low = u64::from(third) | u64::from(fourth) << 32;
    let mixed = (high ^ MIX_A).wrapping_mul(MIX_B);
    ((mixed ^ mixed >> 32) ^ low).wrapping_mul(MIX_A).rotate_left(32)
}

/// The hash that picks a slot of a ring: of a [`tuple()`], or of one address.
#[inline(always)]
#[must_use]
pub const fn ring(key: u64) -> u64 {
    let hash = (key ^ key >> 33).wrapping_mul(FINAL_A);
    let hash = (hash ^ hash >> 33).wrapping_mul(FINAL_B);
    hash ^ hash >> 33
}

/// The slot of a ring of `slots` slots, without division: the upper half of the hash is taken as a fraction.
#[inline(always)]
#[must_use]
pub const fn slot(ring_hash: u64, slots: u32) -> u32 {
    ((ring_hash >> 32).wrapping_mul(slots as u64) >> 32) as u32
}

/// The hash under which a flow is remembered: its lower bits pick the set, the upper 34 are its signature. For one
/// service and IPv4 it is a bijection of the tuple.
#[inline(always)]
#[must_use]
pub const fn flow(tuple: u64, service: u16, secret: u64) -> u64 {
    let hash = (tuple ^ (service as u64).wrapping_mul(FINAL_A)).wrapping_mul(secret | 1);
    let hash = (hash ^ hash >> 32).wrapping_mul(MIX_A);
    hash ^ hash >> 29
}
