//! Numbers as the formats write them.

/// Which digits hexadecimal may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    /// Lower case alone (W3C).
    Lower,
    /// Either.
    Any,
}

/// The value of a hexadecimal number of 1 to 32 digits; `None` if it is anything else.
pub(crate) fn hex(text: &[u8], case: Case) -> Option<u128> {
    if text.is_empty() || text.len() > 32 {
        return None;
    }
    text.iter().try_fold(0, |value: u128, byte| Some(value << 4 | u128::from(digit(*byte, case)?)))
}

/// As [`hex`], with exactly 16 digits.
pub(crate) fn hex64(text: &[u8], case: Case) -> Option<u64> {
    (text.len() == 16).then(|| hex(text, case)).flatten().map(|value| value as u64)
}

/// As [`hex`], with 16 or 32 digits, and whether it was 16.
pub(crate) fn hex_id(text: &[u8]) -> Option<(u128, bool)> {
    matches!(text.len(), 16 | 32).then(|| hex(text, Case::Any)).flatten().map(|value| (value, text.len() == 16))
}

fn digit(byte: u8, case: Case) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' if case == Case::Any => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// An unsigned decimal number of 64 bits, without a sign.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 {
        return None;
    }
    text.iter().try_fold(0u64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// 16 digits.
pub(crate) fn hex_of(value: u64) -> [u8; 16] {
    let mut text = [0; 16];
    text[..8].copy_from_slice(&eight_digits((value >> 32) as u32));
    text[8..].copy_from_slice(&eight_digits(value as u32));
    text
}

/// All digits in one go, each in a byte of a word: every request is sent with sixty of them.
fn eight_digits(value: u32) -> [u8; 8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mut digits = u64::from(value);
    digits = (digits | digits << 16) & 0x0000_ffff_0000_ffff;
    digits = (digits | digits << 8) & 0x00ff_00ff_00ff_00ff;
    digits = (digits | digits << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    // 1 in each byte that is a letter.
    let letters = (digits + 6 * ONES) >> 4 & ONES;
    (digits + 0x30 * ONES + letters * u64::from(b'a' - b'0' - 10)).to_be_bytes()
}

/// Room for a decimal number.
#[derive(Default)]
pub(crate) struct DecimalText([u8; Self::LONGEST]);

impl DecimalText {
    /// Digits of the greatest number of 64 bits.
    pub(crate) const LONGEST: usize = 20;

    pub(crate) fn write(&mut self, mut value: u64) -> &[u8] {
        let mut start = Self::LONGEST;
        loop {
            start -= 1;
            self.0[start] = b'0' + (value % 10) as u8;
            value /= 10;
            if value == 0 {
                return &self.0[start..];
            }
        }
    }
}

/// Without the white space that RFC 9110 allows around a value and around members of a list.
pub(crate) fn trim_ows(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// Splits at the first `separator`.
pub(crate) fn split_once(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|byte| *byte == separator)?;
    Some((&text[..at], &text[at + 1..]))
}

/// True if a field may carry the text as we write it: visible ASCII and blanks.
pub(crate) fn is_printable(text: &[u8]) -> bool {
    text.iter().all(|byte| matches!(byte, 0x20..=0x7e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_written_as_the_standard_library_writes_it() {
        let every_digit = [0x0123_4567_89ab_cdef_u64, 0xfedc_ba98_7654_3210, 0, u64::MAX];
        let one_digit = (0..64).map(|bit| 1 << bit);
        for value in every_digit.into_iter().chain(one_digit) {
            assert_eq!(hex_of(value).as_slice(), format!("{value:016x}").as_bytes());
        }
    }
}
