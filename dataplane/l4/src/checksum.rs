//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624). Sums are of 16-bit numbers in network order.

use crate::access::Packet;
use crate::field::be16;

/// Folds a sum to 16 bits, which is enough of it for sums below 2³².
#[inline(always)]
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The checksum after one 16-bit word under it changed (RFC 1624, equation 3).
#[inline(always)]
#[must_use]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(!checksum as u32 + !old as u32 + new as u32)
}

/// Sum of a view; `N` is even.
#[inline(always)]
#[must_use]
pub fn sum<const N: usize>(view: &[u8; N]) -> u32 {
    let mut sum = 0;
    let mut at = 0;
    while at < N {
        sum += u32::from(be16(view, at));
        at += 2;
    }
    sum
}

/// Sum of the 20 bytes of an IPv4 header without options, as 32-bit words as they lie: the order of bytes does not matter to
/// whether it is right. `N` is at least 20.
#[inline(always)]
pub(crate) fn header_sum<const N: usize>(header: &[u8; N]) -> u64 {
    let mut sum = 0;
    let mut at = 0;
    while at < 20 {
        sum += u64::from(crate::field::ne32(header, at));
        at += 4;
    }
    sum
}

/// Does a sum of 32-bit words say that the checksum under it is right? It does if it is a multiple of 0xffff other than 0,
/// which is asked by the inverse of an odd number: multiples of d, and they alone, come to at most 2⁶⁴ / d when they are
/// multiplied with the inverse of d modulo 2⁶⁴.
#[inline(always)]
pub(crate) const fn is_valid(sum: u64) -> bool {
    const INVERSE: u64 = 0xfffe_fffe_fffe_ffff;
    const _: () = assert!(INVERSE.wrapping_mul(0xffff) == 1);
    sum != 0 && sum.wrapping_mul(INVERSE) <= u64::MAX / 0xffff
}

/// Sum of the pseudo-header of an upper-layer message over IPv6 (RFC 8200, section 8.1).
#[inline(always)]
pub(crate) fn pseudo_header(source: &[u32; 4], destination: &[u32; 4], length: u16, protocol: u8) -> u32 {
    let mut sum = u32::from(length) + u32::from(protocol);
    for words in [source, destination] {
        for word in words {
            let number = u32::from_be(*word);
            sum += (number >> 16) + (number & 0xffff);
        }
    }
    sum
}

/// Sum of up to `4 * WORDS` bytes of the packet; `None` if it ends before. An odd byte at the end counts as padded with 0.
#[inline(always)]
pub(crate) fn region<const WORDS: usize, P: Packet>(packet: &P, offset: usize, length: usize) -> Option<u32> {
    let mut sum = 0;
    for word in 0..WORDS {
        let at = word * 4;
        if at >= length {
            break;
        }
        let bytes = match length - at {
            1 => [packet.view::<1>(offset + at)?[0], 0, 0, 0],
            2 => {
                let [first, second] = *packet.view::<2>(offset + at)?;
                [first, second, 0, 0]
            }
            3 => {
                let [first, second, third] = *packet.view::<3>(offset + at)?;
                [first, second, third, 0]
            }
            _ => *packet.view::<4>(offset + at)?,
        };
        sum += u32::from(be16(&bytes, 0)) + u32::from(be16(&bytes, 2));
    }
    Some(sum)
}
