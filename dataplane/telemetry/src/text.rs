//! Writing into a line of bytes: numbers, times, addresses and text that strangers chose.
//!
//! All of it runs on the threads that serve traffic, so it allocates nothing and formats no `Display` where a few lines do.

use crate::sheet::Sheet;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

const HEX_LOWER: &[u8; 16] = b"0123456789abcdef";
const HEX_UPPER: &[u8; 16] = b"0123456789ABCDEF";

/// How text that strangers chose is made harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Escape {
    /// As nginx's `escape=default`: `"`, `\` and all but printable ASCII become `\xHH`.
    Nginx,
    /// As inside of a JSON string (RFC 8259 section 7). The result is always UTF-8: bytes that are none become U+FFFD.
    Json,
}

impl Escape {
    /// Writes the text.
    pub(crate) fn write(self, out: &mut Vec<u8>, text: &[u8]) {
        let plain = plain_prefix(text);
        out.extend_from_slice(&text[..plain]);
        if plain < text.len() {
            match self {
                Self::Nginx => write_nginx(out, &text[plain..]),
                Self::Json => write_json(out, &text[plain..]),
            }
        }
    }
}

/// How many bytes at the beginning are printable ASCII other than `"` and `\`, or fewer where there are others: sixteen are
/// looked at in one go.
fn plain_prefix(text: &[u8]) -> usize {
    let (blocks, rest) = text.as_chunks::<16>();
    for (index, block) in blocks.iter().enumerate() {
        if !are_plain(block) {
            return 16 * index;
        }
    }
    let rest_is_plain = if rest.is_empty() {
        true
    } else if let Some(last) = text.last_chunk::<16>() {
        // Some of them once more, which costs less than one after the other.
        are_plain(last)
    } else if let (Some(first), Some(last)) = (text.first_chunk::<8>(), text.last_chunk::<8>()) {
        are_plain(first) && are_plain(last)
    } else if let (Some(first), Some(last)) = (text.first_chunk::<4>(), text.last_chunk::<4>()) {
        are_plain(first) && are_plain(last)
    } else {
        rest.iter().all(|byte| is_plain(*byte))
    };
    if rest_is_plain { text.len() } else { text.len() - rest.len() }
}

/// Copies text into memory of the same length; false where it has to be escaped, and then what was copied is of no use.
/// The last bytes overlap those before, which costs less than one after the other.
#[inline]
pub(crate) fn copy_plain(text: &[u8], to: &mut [u8]) -> bool {
    match text.len() {
        16.. => copy_blocks(text, to),
        8.. => {
            let (first, last) = copy_ends::<8>(text, to);
            special_lanes(u64::from_le_bytes(first)) | special_lanes(u64::from_le_bytes(last)) == 0
        }
        4.. => {
            let (first, last) = copy_ends::<4>(text, to);
            special_lanes(u64::from(u32::from_le_bytes(first)) | u64::from(u32::from_le_bytes(last)) << 32) == 0
        }
        _ => text.iter().zip(to).fold(true, |all_plain, (byte, to)| {
            *to = *byte;
            all_plain & is_plain(*byte)
        }),
    }
}

/// Marks of all blocks are gathered and looked at once.
fn copy_blocks(text: &[u8], to: &mut [u8]) -> bool {
    let mut marks = [0; 16];
    let mut mark = |from: &[u8; 16], to: &mut [u8; 16]| {
        let special = special_bytes(from);
        marks = std::array::from_fn(|at| marks[at] | special[at]);
        *to = *from;
    };
    let ((blocks, _), (to_blocks, _)) = (text.as_chunks::<16>(), to.as_chunks_mut::<16>());
    blocks.iter().zip(to_blocks).for_each(|(from, to)| mark(from, to));
    if let (Some(from), Some(to)) = (text.last_chunk::<16>(), to.last_chunk_mut::<16>()) {
        mark(from, to);
    }
    u128::from_ne_bytes(marks) == 0
}

/// Copies the first and the last bytes, of which there are so many, and gives them.
#[inline(always)]
fn copy_ends<const N: usize>(text: &[u8], to: &mut [u8]) -> ([u8; N], [u8; N]) {
    let (Some(first), Some(last)) = (text.first_chunk::<N>(), text.last_chunk::<N>()) else {
        return ([0; N], [0; N]);
    };
    if let Some(to) = to.first_chunk_mut::<N>() {
        *to = *first;
    }
    if let Some(to) = to.last_chunk_mut::<N>() {
        *to = *last;
    }
    (*first, *last)
}

/// Not 0 where a byte has to be escaped.
#[inline(always)]
fn special_bytes(bytes: &[u8; 16]) -> [u8; 16] {
    std::array::from_fn(|at| {
        let byte = bytes[at];
        byte.wrapping_sub(0x20).saturating_sub(0x7e - 0x20) | u8::from(byte == b'"') | u8::from(byte == b'\\')
    })
}

/// Not 0 where one of the eight bytes has to be escaped. Borrows mark bytes too much, but only beside one that is marked
/// rightly.
#[inline(always)]
fn special_lanes(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let is_byte = |byte: u8| {
        let word = word ^ (ONES * u64::from(byte));
        word.wrapping_sub(ONES) & !word
    };
    let is_control = word.wrapping_sub(ONES * 0x20) & !word;
    (is_control | word | is_byte(0x7f) | is_byte(b'"') | is_byte(b'\\')) & (ONES * 0x80)
}

/// Without a branch, so that it becomes a few instructions on all bytes together.
#[inline(always)]
fn are_plain<const N: usize>(bytes: &[u8; N]) -> bool {
    !bytes.iter().fold(false, |special, byte| {
        special | (byte.wrapping_sub(0x20) > 0x7e - 0x20) | (*byte == b'"') | (*byte == b'\\')
    })
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e) && byte != b'"' && byte != b'\\'
}

fn write_nginx(out: &mut Vec<u8>, text: &[u8]) {
    for byte in text {
        if is_plain(*byte) {
            out.push(*byte);
        } else {
            out.extend_from_slice(b"\\x");
            out.extend_from_slice(&[HEX_UPPER[usize::from(byte >> 4)], HEX_UPPER[usize::from(byte & 15)]]);
        }
    }
}

fn write_json(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                // Those of Unicode too: 0x9b begins a command of terminals as ESC [ does; and what turns the direction
                // of writing, or begins a line where JavaScript reads it, is not left to whoever shows the log.
                '\0'..='\x1f'
                | '\x7f'..='\u{9f}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}' => {
                    let code = letter as u32 as u16;
                    out.extend_from_slice(b"\\u");
                    out.extend([12, 8, 4, 0].map(|shift| HEX_LOWER[usize::from(code >> shift & 15)]));
                }
                letter => out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// A number in decimal digits.
#[inline]
pub(crate) fn integer(out: &mut Sheet<'_>, number: u64) {
    let digit = |number: u64| b'0' + (number % 10) as u8;
    match number {
        0..10 => out.put(&[digit(number)]),
        10..100 => out.put(&[digit(number / 10), digit(number)]),
        100..1000 => out.put(&[digit(number / 100), digit(number / 10), digit(number)]),
        _ => out.put(itoa::Buffer::new().format(number).as_bytes()),
    }
}

/// A number of thousandths, with three decimals: `12.034`.
#[inline]
fn thousandths(out: &mut Sheet<'_>, number: u64) {
    let (whole, rest) = (number / 1000, (number % 1000) as u32);
    let digit = |number: u32| b'0' + (number % 10) as u8;
    if whole < 10 {
        out.put(&[b'0' + whole as u8, b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
    } else {
        integer(out, whole);
        out.put(&[b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
    }
}

/// Milliseconds with three decimals.
#[inline]
pub(crate) fn milliseconds(out: &mut Sheet<'_>, time: Duration) {
    thousandths(out, time.as_secs().saturating_mul(1_000_000).saturating_add(time.subsec_micros().into()));
}

/// Seconds with three decimals, as nginx writes them.
#[inline]
pub(crate) fn seconds(out: &mut Sheet<'_>, time: Duration) {
    thousandths(out, time.as_secs().saturating_mul(1000).saturating_add(time.subsec_millis().into()));
}

/// A number in 16 hexadecimal digits.
#[inline]
pub(crate) fn hexadecimal(out: &mut Sheet<'_>, number: u64) {
    out.put(&hexadecimal_digits((number >> 32) as u32));
    out.put(&hexadecimal_digits(number as u32));
}

/// All digits in one go, each in a byte of a word.
fn hexadecimal_digits(number: u32) -> [u8; 8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mut digits = u64::from(number);
    digits = (digits | digits << 16) & 0x0000_ffff_0000_ffff;
    digits = (digits | digits << 8) & 0x00ff_00ff_00ff_00ff;
    digits = (digits | digits << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    // 1 in each byte that is a letter.
    let letters = (digits + 6 * ONES) >> 4 & ONES;
    (digits + 0x30 * ONES + letters * u64::from(b'a' - b'0' - 10)).to_be_bytes()
}

/// An address; one of IPv4 that came in by a socket of IPv6 is shown as what it is.
pub(crate) fn address(out: &mut Sheet<'_>, address: IpAddr) {
    match address.to_canonical() {
        IpAddr::V4(address) => ipv4(out, address),
        IpAddr::V6(address) => ipv6(out, address, None),
    }
}

/// An address with its port: `192.0.2.1:80`, `[2001:db8::1]:80`.
pub(crate) fn socket(out: &mut Sheet<'_>, of: SocketAddr) {
    match of.ip().to_canonical() {
        IpAddr::V4(address) => {
            ipv4(out, address);
            out.put(b":");
            integer(out, of.port().into());
        }
        IpAddr::V6(address) => ipv6(out, address, Some(of.port())),
    }
}

fn ipv6(out: &mut Sheet<'_>, address: Ipv6Addr, port: Option<u16>) {
    let mut text = [0; 48];
    let mut rest = text.as_mut_slice();
    // The longest one with its port has 47 bytes.
    let _ = match port {
        None => write!(rest, "{address}"),
        Some(port) => write!(rest, "[{address}]:{port}"),
    };
    let left = rest.len();
    out.put(&text[..text.len() - left]);
}

/// `0.` to `255.`, and how long each is.
const OCTETS: [([u8; 4], u8); 256] = {
    let mut octets = [([b'.'; 4], 0); 256];
    let mut number = 0;
    while number < 256 {
        let digits = [b'0' + (number / 100) as u8, b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8];
        octets[number] = match number {
            100.. => ([digits[0], digits[1], digits[2], b'.'], 4),
            10.. => ([digits[1], digits[2], b'.', b'.'], 3),
            _ => ([digits[2], b'.', b'.', b'.'], 2),
        };
        number += 1;
    }
    octets
};

fn ipv4(out: &mut Sheet<'_>, address: Ipv4Addr) {
    let mut text = [0; 16];
    let mut at = 0;
    for part in address.octets() {
        let (digits, length) = OCTETS[usize::from(part)];
        text[at..at + 4].copy_from_slice(&digits);
        at += usize::from(length);
    }
    // The last one has a dot too.
    out.put_first(&text, at - 1);
}

/// Tells the time of day of instants, in UTC.
#[derive(Debug)]
pub(crate) struct WallClock {
    /// An instant, and the time since the Unix epoch at it: read again once a second, because clocks are set.
    anchor: (Instant, Duration),
    /// The last second that was written, and its text: `2026-01-31T23:59:59`.
    shown: (u64, [u8; 19]),
}

/// A second of a day.
#[derive(Clone, Copy, Debug)]
struct Moment {
    year: u16,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl Default for WallClock {
    fn default() -> Self {
        Self { anchor: Self::read(), shown: (0, Moment::of(0).text()) }
    }
}

impl WallClock {
    fn read() -> (Instant, Duration) {
        (Instant::now(), SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
    }

    /// The time since the Unix epoch at an instant.
    pub(crate) fn since_epoch(&mut self, instant: Instant) -> Duration {
        if instant.saturating_duration_since(self.anchor.0) > Duration::from_secs(1) {
            self.anchor = Self::read();
        }
        let (anchor, wall) = self.anchor;
        match instant.checked_duration_since(anchor) {
            Some(after) => wall + after,
            None => wall.saturating_sub(anchor.duration_since(instant)),
        }
    }

    fn text(&mut self, second: u64) -> &[u8; 19] {
        if self.shown.0 != second {
            self.shown = (second, Moment::of(second).text());
        }
        &self.shown.1
    }

    /// `2026-01-31T23:59:59.123Z` (RFC 3339).
    pub(crate) fn write_rfc3339(&mut self, out: &mut Sheet<'_>, instant: Instant) {
        let time = self.since_epoch(instant);
        let mut text = *b"1970-01-01T00:00:00.000Z";
        text[..19].copy_from_slice(self.text(time.as_secs()));
        let milliseconds = time.subsec_millis() as u16;
        let digit = |unit: u16| b'0' + (milliseconds / unit % 10) as u8;
        text[20..23].copy_from_slice(&[digit(100), digit(10), digit(1)]);
        out.put(&text);
    }

    /// `2026-01-31T23:59:59+00:00`, nginx's `$time_iso8601`.
    pub(crate) fn write_iso8601(&mut self, out: &mut Sheet<'_>, instant: Instant) {
        let time = self.since_epoch(instant);
        out.put(self.text(time.as_secs()));
        out.put(b"+00:00");
    }

    /// `31/Jan/2026:23:59:59 +0000`, nginx's `$time_local` where the machine's time is UTC.
    pub(crate) fn write_common_log(&mut self, out: &mut Sheet<'_>, instant: Instant) {
        const MONTHS: [&[u8; 3]; 12] =
            [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
        let time = self.since_epoch(instant);
        let text = self.text(time.as_secs());
        let month = usize::from((text[5] - b'0') * 10 + text[6] - b'0');
        out.put(&[text[8], text[9], b'/']);
        out.put(MONTHS[(month + 11) % 12].as_slice());
        out.put(&[b'/', text[0], text[1], text[2], text[3], b':']);
        out.put(&text[11..]);
        out.put(b" +0000");
    }
}

impl Moment {
    /// The Gregorian calendar from the days since 1970, by eras of 400 years that begin in March.
    fn of(since_epoch: u64) -> Self {
        let days = since_epoch / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let time = since_epoch % 86_400;
        Self {
            year: (era * 400 + year_of_era + u64::from(month <= 2)) as u16,
            month: month as u8,
            day: (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u8,
            hour: (time / 3600) as u8,
            minute: (time / 60 % 60) as u8,
            second: (time % 60) as u8,
        }
    }

    fn text(self) -> [u8; 19] {
        let mut text = *b"1970-01-01T00:00:00";
        for (at, number) in [
            (0, (self.year / 100) as u8),
            (2, (self.year % 100) as u8),
            (5, self.month),
            (8, self.day),
            (11, self.hour),
            (14, self.minute),
            (17, self.second),
        ] {
            text[at] = b'0' + number / 10 % 10;
            text[at + 1] = b'0' + number % 10;
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sheet::Paper;

    fn written(write: impl FnOnce(&mut Sheet<'_>)) -> String {
        let (mut paper, mut out) = (Paper::default(), Vec::new());
        let mut sheet = Sheet::begin(&mut paper, &mut out);
        write(&mut sheet);
        sheet.finish();
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn a_line_of_any_length_is_whole() {
        let words = ["plain", "a \"quoted\" one", "sixteen letters!", "and some more than thirty-two of them"];
        for count in [1, 100, 109, 400] {
            let (mut shown, mut numbers) = (String::new(), 0..count);
            let line = written(|out| {
                for (number, word) in numbers.by_ref().zip(words.iter().cycle()) {
                    out.put_escaped(Escape::Json, word.as_bytes());
                    integer(out, number);
                    socket(out, SocketAddr::from(([192, 0, 2, 1], 80)));
                    out.put(b"|");
                    shown += &format!("{}{number}192.0.2.1:80|", word.replace('"', "\\\""));
                }
            });
            assert_eq!(line, shown, "{count} parts");
        }
    }

    #[test]
    fn every_byte_at_every_place_is_escaped_or_plain() {
        for byte in 0..=u8::MAX {
            for (length, at) in (1..=20).flat_map(|length| (0..length).map(move |at| (length, at))) {
                let mut text = vec![b'a'; length];
                text[at] = byte;
                let is_plain = (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
                for escape in [Escape::Nginx, Escape::Json] {
                    let line = written(|out| out.put_escaped(escape, &text));
                    assert_eq!(line.as_bytes() == text, is_plain, "{byte} at {at}: {line}");
                    assert!(line.bytes().all(|byte| (0x20..0x7f).contains(&byte) || byte > 0x9f), "{line:?}");
                }
            }
        }
    }

    #[test]
    fn numbers_times_and_addresses() {
        for number in [0, 9, 10, 99, 100, 999, 1000, u64::MAX] {
            assert_eq!(written(|out| integer(out, number)), number.to_string());
        }
        assert_eq!(written(|out| milliseconds(out, Duration::from_nanos(12_034_999))), "12.034");
        assert_eq!(written(|out| seconds(out, Duration::from_millis(61_007))), "61.007");
        assert_eq!(written(|out| hexadecimal(out, 0x0123_4567_89ab_cdef)), "0123456789abcdef");
        for (text, shown) in [
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("10.9.99.100:65535", "10.9.99.100:65535"),
            ("255.249.200.0:10000", "255.249.200.0:10000"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
            ("[2001:db8:1111:2222:3333:4444:5555:6666]:65535", "[2001:db8:1111:2222:3333:4444:5555:6666]:65535"),
            ("[::ffff:192.0.2.1]:80", "192.0.2.1:80"),
        ] {
            assert_eq!(written(|out| socket(out, text.parse().expect("an address"))), shown);
        }
    }

    #[test]
    fn days_of_the_calendar() {
        for (second, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_709_251_199, "2024-02-29T23:59:59"),
            (1_735_689_599, "2024-12-31T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            assert_eq!(String::from_utf8_lossy(&Moment::of(second).text()), text);
        }
    }
}
