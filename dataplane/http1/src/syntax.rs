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
    !bytes.is_empty() && token_len(bytes) == bytes.len()
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

/// Marks the lanes whose byte lies between two others. Exact where every byte is ASCII; others can be marked wrongly.
#[inline]
const fn lanes_between(word: u64, low: u8, high: u8) -> u64 {
    let from_low = word.wrapping_add(repeat(0x80 - low));
    let above_high = word.wrapping_add(repeat(0x7f - high));
    from_low & !above_high
}

/// The length of the token that `bytes` begins with. Letters, digits and `-`, of which nearly all names consist, are
/// taken eight at a time, which spares a branch a byte.
#[inline]
pub(crate) fn token_len(bytes: &[u8]) -> usize {
    let mut len = 0;
    while let Some(word) = bytes.get(len..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*word);
        let ascii = word & repeat(0x7f);
        let usual = lanes_between(ascii | repeat(0x20), b'a', b'z')
            | lanes_between(ascii, b'0', b'9')
            | lanes_between(ascii, b'-', b'-');
        let others = !(usual & !word) & repeat(0x80);
        if others != 0 {
            len += others.trailing_zeros() as usize / 8;
            break;
        }
        len += 8;
    }
    len + bytes[len..].iter().position(|b| !is_token_char(*b)).unwrap_or(bytes.len() - len)
}

/// Whether `name` is `text` but for the case of letters. `text` consists of lower-case letters, digits and `-`.
#[inline]
pub(crate) fn is_name(name: &[u8], text: &[u8]) -> bool {
    if name.len() != text.len() {
        return false;
    }
    match (name.last_chunk::<8>(), text.last_chunk::<8>()) {
        (Some(name_end), Some(text_end)) => {
            let (name_words, _) = name.as_chunks::<8>();
            let (text_words, _) = text.as_chunks::<8>();
            // The last word overlaps the one before it, so that no bytes are left over.
            is_name_word(*name_end, *text_end) && name_words.iter().zip(text_words).all(|(n, t)| is_name_word(*n, *t))
        }
        _ => name.eq_ignore_ascii_case(text),
    }
}

/// Setting bit 5 makes letters lower case and leaves digits and `-` alone, but makes those of some control characters
/// too: they are told by having neither bit 5 nor bit 6.
#[inline]
const fn is_name_word(name: [u8; 8], text: [u8; 8]) -> bool {
    let (name, text) = (u64::from_le_bytes(name), u64::from_le_bytes(text));
    (name | repeat(0x20)) == text && (name | name << 1) & repeat(0x40) == repeat(0x40)
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
    match bytes.last_chunk::<8>() {
        // The last word overlaps the one before it, in which there was none.
        Some(last) if !tail.is_empty() => {
            let lanes = control_lanes(u64::from_le_bytes(*last));
            bytes.len() - 8 + lanes.trailing_zeros() as usize / 8
        }
        _ => {
            let in_tail = tail.iter().position(|b| *b < b' ' || *b == 0x7f);
            words.len() * 8 + in_tail.unwrap_or(tail.len())
        }
    }
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
            bytes in proptest::collection::vec(prop_oneof![40 => Just(b'a'), 2 => Just(0x80), 1 => any::<u8>(), 1 => Just(b'\t')], 0..80),
            from in 0_usize..90,
        ) {
            let from = from.min(bytes.len());
            prop_assert_eq!(find_control(&bytes, from), naive(&bytes, from));
        }
    }

    proptest! {
        #[test]
        fn the_word_scan_measures_tokens_as_a_loop_does(name in "[a-zA-Z0-9_!-]{0,30}", rest in prop::collection::vec(any::<u8>(), 0..12)) {
            let bytes = [name.as_bytes(), &rest].concat();
            let naive = bytes.iter().take_while(|b| is_token_char(**b)).count();
            prop_assert_eq!(token_len(&bytes), naive);
        }
    }

    #[test]
    fn every_byte_in_every_place_of_a_name() {
        let text = b"sec-websocket-v2";
        for len in 1..=text.len() {
            for place in 0..len {
                for byte in 0..=255_u8 {
                    let mut name = text[..len].to_vec();
                    name[place] = byte;
                    assert_eq!(is_name(&name, &text[..len]), name.eq_ignore_ascii_case(&text[..len]), "{byte}");
                    assert_eq!(token_len(&name), if is_token_char(byte) { len } else { place }, "{byte}");
                }
            }
        }
    }

    #[test]
    fn every_byte_in_every_lane() {
        for byte in 0..=255_u8 {
            for lane in 0..75 {
                let mut bytes = [b'x'; 75];
                bytes[lane] = byte;
                assert_eq!(find_control(&bytes, 0), naive(&bytes, 0), "{byte} in {lane}");
            }
        }
    }
}
