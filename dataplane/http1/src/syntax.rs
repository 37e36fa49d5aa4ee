//! Character classes and the scan for the end of a line, the two inner loops of every head.

const fn class(members: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut i = 0;
    while i < members.len() {
        table[members[i] as usize] = true;
        i += 1;
    }
    table
}

/// `tchar` (RFC 9110 section 5.6.2).
static TOKEN: [bool; 256] = class(b"!#$%&'*+-.^_`|~");

/// `unreserved` (RFC 3986 section 2.3), all that a registered name may hold here.
static HOST: [bool; 256] = class(b"-._~");

#[inline]
pub(crate) fn is_token_char(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

#[inline]
pub(crate) fn is_host_char(byte: u8) -> bool {
    HOST[usize::from(byte)]
}

#[inline]
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| is_token_char(*b))
}

/// Field values and reason phrases: tab, visible characters, space and `obs-text` (RFC 9110 section 5.5).
#[inline]
pub(crate) fn is_value(bytes: &[u8]) -> bool {
    find_control(bytes, 0) == bytes.len()
}

/// Request targets: visible ASCII without the fragment mark (RFC 9112 section 3.2). Folded without an early exit,
/// which the compiler turns into vector instructions.
#[inline]
pub(crate) fn is_target(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().fold(true, |good, b| good & (*b > b' ') & (*b < 0x7f) & (*b != b'#'))
}

#[inline]
pub(crate) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Without leading and trailing `OWS` (RFC 9110 section 5.6.3).
#[inline]
pub(crate) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is_space(*first)
    {
        bytes = rest;
    }
    while let [rest @ .., last] = bytes
        && is_space(*last)
    {
        bytes = rest;
    }
    bytes
}

/// The elements of a comma-separated list, trimmed, without empty ones (RFC 9110 section 5.6.1).
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(trim).filter(|element| !element.is_empty())
}

/// The number that `digits` writes, where they are 1 to 20 decimal digits and nothing else.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 20 {
        return None;
    }
    digits.iter().try_fold(0_u64, |sum, digit| {
        if !digit.is_ascii_digit() {
            return None;
        }
        sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })
}

const fn repeat(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Marks the lanes that hold a byte below 0x20 or 0x7f. Borrows can mark a lane too much, but only above one that is
/// marked rightly, so the lowest mark is exact.
#[inline]
const fn control_lanes(word: u64) -> u64 {
    let below_space = word.wrapping_sub(repeat(0x20)) & !word;
    let delete = word ^ repeat(0x7f);
    let is_delete = delete.wrapping_sub(repeat(0x01)) & !delete;
    (below_space | is_delete) & repeat(0x80)
}

/// The first control character at or after `from` that is not a tab, or the length of `bytes`.
#[inline]
pub(crate) fn find_control(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    loop {
        let Some(rest) = bytes.get(at..) else {
            return bytes.len();
        };
        at += first_control(rest);
        if bytes.get(at) != Some(&b'\t') {
            return at;
        }
        at += 1;
    }
}

#[inline]
fn first_control(bytes: &[u8]) -> usize {
    let (words, tail) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let lanes = control_lanes(u64::from_le_bytes(*word));
        if lanes != 0 {
            return i * 8 + lanes.trailing_zeros() as usize / 8;
        }
    }
    let in_tail = tail.iter().position(|b| *b < b' ' || *b == 0x7f);
    words.len() * 8 + in_tail.unwrap_or(tail.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(bytes: &[u8], from: usize) -> usize {
        (from..bytes.len())
            .find(|i| (bytes[*i] < b' ' && bytes[*i] != b'\t') || bytes[*i] == 0x7f)
            .unwrap_or(bytes.len())
    }

    proptest! {
        #[test]
        fn the_word_scan_finds_what_a_loop_finds(
            bytes in proptest::collection::vec(prop_oneof![4 => Just(b'a'), 2 => Just(0x80), 1 => any::<u8>(), 1 => Just(b'\t')], 0..80),
            from in 0_usize..90,
        ) {
            let from = from.min(bytes.len());
            prop_assert_eq!(find_control(&bytes, from), naive(&bytes, from));
        }
    }

    #[test]
    fn every_byte_in_every_lane() {
        for byte in 0..=255_u8 {
            for lane in 0..20 {
                let mut bytes = [b'x'; 20];
                bytes[lane] = byte;
                assert_eq!(find_control(&bytes, 0), naive(&bytes, 0), "{byte} in {lane}");
            }
        }
    }
}
