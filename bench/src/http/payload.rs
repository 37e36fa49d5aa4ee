//! The body of every request: fixed bytes, rendered once. It contains no I/O.

use std::sync::LazyLock;

/// Bytes from which bodies are cut.
const PATTERN: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-\n";

/// At most so much of a body is put into a buffer at a time.
pub const PORTION: usize = 64 * 1024;

/// The pattern, often enough for a portion that begins anywhere in it.
static REPEATED: LazyLock<Vec<u8>> = LazyLock::new(|| PATTERN.repeat(PORTION / PATTERN.len() + 1));

/// Appends `length` bytes of the body that begin `from` bytes into it.
pub fn append(out: &mut Vec<u8>, from: u64, length: usize) {
    let (mut at, mut left) = ((from % PATTERN.len() as u64) as usize, length);
    while left > 0 {
        let piece = &REPEATED[at..REPEATED.len().min(at + left)];
        out.extend_from_slice(piece);
        left -= piece.len();
        // The pattern ends where what is repeated ends.
        at = 0;
    }
}

/// A protobuf message of `length` bytes that is valid whatever the service expects of field 1, if it is bytes or text;
/// one of a single byte does not exist and is empty.
pub fn protobuf(length: usize) -> Vec<u8> {
    let mut message = Vec::with_capacity(length);
    if length < 2 {
        return message;
    }
    // Tag and length take 1 byte each up to 127 bytes of value, then more for the length (base 128).
    let prefix = (1..=5).find(|digits| length - 1 - digits < 1 << (7 * digits)).unwrap_or(5);
    let mut value = length - 1 - prefix;
    message.push(0x0a);
    for digit in 1..=prefix {
        let more = if digit < prefix { 0x80 } else { 0 };
        message.push((value & 0x7f) as u8 | more);
        value >>= 7;
    }
    append(&mut message, 0, length - 1 - prefix);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_of_a_body_join() {
        let (mut whole, mut parts) = (Vec::new(), Vec::new());
        append(&mut whole, 0, 1000);
        append(&mut parts, 0, 333);
        append(&mut parts, 333, 667);
        assert_eq!(whole, parts);
        let (mut whole, mut parts) = (Vec::new(), Vec::new());
        append(&mut whole, 0, 3 * PORTION);
        append(&mut parts, 0, 100_001);
        append(&mut parts, 100_001, 3 * PORTION - 100_001);
        assert!(whole == parts, "beyond what is repeated");
    }

    #[test]
    fn messages_have_the_length_that_was_asked_for() {
        for length in [2, 3, 100, 128, 129, 130, 131, 16_386, 16_387, 16_388, 70_000] {
            let message = protobuf(length);
            assert_eq!((message.len(), message[0]), (length, 0x0a));
            let digits = message[1..].iter().position(|byte| byte & 0x80 == 0).expect("an end of the length") + 1;
            let value = message[1..=digits].iter().rev().fold(0, |sum, byte| sum << 7 | usize::from(byte & 0x7f));
            assert_eq!(1 + digits + value, length);
        }
    }
}
