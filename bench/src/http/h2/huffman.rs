//! The Huffman code of HPACK (RFC 7541, appendix B): a canonical code, so that the lengths say all of it. It contains no
//! I/O.

use std::sync::LazyLock;

/// Bits of the code of each byte, and of the end of a string.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

const LONGEST: usize = 30;

static CODE: LazyLock<Code> = LazyLock::new(Code::new);

/// Decodes a string; `None` where it is none.
pub fn decode(bytes: &[u8], mut byte: impl FnMut(u8)) -> Option<()> {
    let code = &*CODE;
    let (mut window, mut bits, mut source) = (0_u64, 0_u32, bytes.iter());
    loop {
        while bits <= 32 {
            let Some(next) = source.next() else { break };
            window = window << 8 | u64::from(*next);
            bits += 8;
        }
        if bits == 0 {
            return Some(());
        }
        // Left-aligned, and filled with ones behind its end as encoders pad.
        let aligned = window << (64 - bits) | ((1_u128 << (64 - bits)) - 1) as u64;
        let (symbol, length) = code.symbol(aligned);
        if length > bits {
            // Padding: less than a byte, all ones, the beginning of the end (RFC 7541, 5.2).
            return (bits < 8 && aligned == u64::MAX).then_some(());
        }
        byte(u8::try_from(symbol).ok()?);
        bits -= length;
        window &= (1 << bits) - 1;
    }
}

/// The code by length, with a table for codes of a byte or less.
struct Code {
    short: [(u16, u8); 256],
    /// For each length: the first code behind those of this length, left-aligned in 32 bits.
    ends: [u64; LONGEST + 1],
    /// For each length: its first code, and where its symbols begin in `symbols`.
    first: [(u32, usize); LONGEST + 1],
    symbols: Vec<u16>,
}

impl Code {
    fn new() -> Self {
        let mut built =
            Self { short: [(0, 0); 256], ends: [0; LONGEST + 1], first: [(0, 0); LONGEST + 1], symbols: Vec::new() };
        let mut code = 0_u32;
        for length in 1..=LONGEST {
            built.first[length] = (code, built.symbols.len());
            for (symbol, _) in LENGTHS.iter().enumerate().filter(|(_, of)| usize::from(**of) == length) {
                if length <= 8 {
                    let from = (code as usize) << (8 - length);
                    built.short[from..from + (1 << (8 - length))].fill((symbol as u16, length as u8));
                }
                built.symbols.push(symbol as u16);
                code += 1;
            }
            built.ends[length] = u64::from(code) << (32 - length);
            code <<= 1;
        }
        built
    }

    /// The first symbol, and how many bits it has.
    fn symbol(&self, aligned: u64) -> (u16, u32) {
        let (symbol, length) = self.short[(aligned >> 56) as usize];
        if length > 0 {
            return (symbol, u32::from(length));
        }
        let top = aligned >> 32;
        for length in 9..=LONGEST {
            if top < self.ends[length] {
                let (first, from) = self.first[length];
                let at = from + ((top >> (32 - length)) as u32 - first) as usize;
                return (self.symbols[at], length as u32);
            }
        }
        // All ones: longer than any code.
        (256, LONGEST as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> Option<String> {
        let mut decoded = Vec::new();
        decode(bytes, |byte| decoded.push(byte))?;
        String::from_utf8(decoded).ok()
    }

    #[test]
    fn strings_of_the_rfc_are_read() {
        // RFC 7541, appendix C.4 and C.6.
        let cases: [(&[u8], &str); 4] = [
            (&[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff], "www.example.com"),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (&[0x64, 0x02], "302"),
            (
                &[
                    0xd0, 0x7a, 0xbe, 0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b, 0x81, 0x66,
                    0xe0, 0x82, 0xa6, 0x2d, 0x1b, 0xff,
                ],
                "Mon, 21 Oct 2013 20:13:21 GMT",
            ),
        ];
        for (bytes, wanted) in cases {
            assert_eq!(text(bytes).as_deref(), Some(wanted));
        }
    }

    #[test]
    fn wrong_padding_and_the_end_symbol_are_refused() {
        assert_eq!(text(&[0xff, 0xff, 0xff, 0xff]), None, "the end symbol");
        assert_eq!(text(&[0x64, 0x02, 0xff]), None, "a byte of padding");
        assert_eq!(text(&[0b0010_1000]), None, "padding of zeros");
        assert_eq!(text(&[]).as_deref(), Some(""));
    }

    #[test]
    fn every_byte_has_a_code_that_is_read_back() {
        for wanted in 0..=255_u8 {
            let length = u32::from(LENGTHS[usize::from(wanted)]);
            let (first, from) = CODE.first[length as usize];
            let at = CODE.symbols[from..].iter().position(|symbol| *symbol == u16::from(wanted)).expect("a code");
            let code = u64::from(first + at as u32);
            let bytes = (code << (64 - length) | (u64::MAX >> length)).to_be_bytes();
            let mut decoded = Vec::new();
            assert_eq!(decode(&bytes[..length.div_ceil(8) as usize], |byte| decoded.push(byte)), Some(()));
            assert_eq!(decoded, [wanted]);
        }
    }
}
