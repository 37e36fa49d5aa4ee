//! The header of GUE that carries the former owner of a slot, for the second chance (draft-ietf-intarea-gue-09, section 3).
//!
//! ```text
//!  0                   1                   2                   3
//!  | 0 |C|   Hlen  | Proto         |             Flags             |   variant 0, C = 0, no flags: no extension fields,
//!  |    'S'        |    'G'        |     kind 1    |       0       |   so that all of Hlen is private data
//!  |  address of the former owner: 1 word (IPv4) or 4 (IPv6)       |
//! ```
//!
//! The address is of the family of the outer header, so that who hands the packet on need not change that. Who does not
//! know the private data skips it by Hlen and delivers the packet, which is what a tunnel without it does.

use crate::field::{address, ne32, put, put_address};
use crate::layout::Address;
use crate::parse::mapped;

/// Bytes that it adds to a packet where the outer header is IPv4.
pub const FORMER4: usize = 12;
/// The same where it is IPv6.
pub const FORMER6: usize = 24;

/// First word of the private data: whose it is, and that a former owner follows.
const PRIVATE: [u8; 4] = [b'S', b'G', 1, 0];
/// Variant 0, not control, and so many words behind the first one.
const WORDS4: u8 = 2;
const WORDS6: u8 = 5;

/// The header in front of an inner packet of `protocol` (4 or 41), with outer headers of IPv4.
#[inline(always)]
#[must_use]
pub fn former4(protocol: u8, former: &Address) -> [u8; FORMER4] {
    let mut header = [0; FORMER4];
    put(&mut header, 0, [WORDS4, protocol, 0, 0]);
    put(&mut header, 4, PRIVATE);
    put(&mut header, 8, former[3].to_ne_bytes());
    header
}

/// The same with outer headers of IPv6.
#[inline(always)]
#[must_use]
pub fn former6(protocol: u8, former: &Address) -> [u8; FORMER6] {
    let mut header = [0; FORMER6];
    put(&mut header, 0, [WORDS6, protocol, 0, 0]);
    put(&mut header, 4, PRIVATE);
    put_address(&mut header, 8, *former);
    header
}

/// The former owner that [`former4`] wrote; `None` if this is another header.
#[inline(always)]
#[must_use]
pub fn read4(header: &[u8; FORMER4]) -> Option<Address> {
    let is_ours = header[0] == WORDS4 && header[2] == 0 && header[3] == 0 && ne32(header, 4) == PRIVATE_WORD;
    if is_ours { Some(mapped(ne32(header, 8))) } else { None }
}

/// The former owner that [`former6`] wrote; `None` if this is another header.
#[inline(always)]
#[must_use]
pub fn read6(header: &[u8; FORMER6]) -> Option<Address> {
    let is_ours = header[0] == WORDS6 && header[2] == 0 && header[3] == 0 && ne32(header, 4) == PRIVATE_WORD;
    if is_ours { Some(address(header, 8)) } else { None }
}

const PRIVATE_WORD: u32 = u32::from_ne_bytes(PRIVATE);
