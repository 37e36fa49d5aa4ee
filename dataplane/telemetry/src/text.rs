//! Writing into a line of bytes: numbers, times, addresses and text that strangers chose.
//!
//! All of it runs on the threads that serve traffic, so it allocates nothing and formats no `Display` where a few lines do.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
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
pub(crate) fn integer(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// A number of thousandths, with three decimals: `12.034`.
fn thousandths(out: &mut Vec<u8>, number: u64) {
    let (whole, rest) = (number / 1000, (number % 1000) as u16);
    let digit = |number: u16| b'0' + number as u8;
    let decimals = [b'.', digit(rest / 100), digit(rest / 10 % 10), digit(rest % 10)];
    if whole < 10 {
        out.extend_from_slice(&[b'0' + whole as u8, b'.', decimals[1], decimals[2], decimals[3]]);
    } else {
        integer(out, whole);
        out.extend_from_slice(&decimals);
    }
}

/// Milliseconds with three decimals.
pub(crate) fn milliseconds(out: &mut Vec<u8>, time: Duration) {
    thousandths(out, time.as_secs().saturating_mul(1_000_000).saturating_add(time.subsec_micros().into()));
}

/// Seconds with three decimals, as nginx writes them.
pub(crate) fn seconds(out: &mut Vec<u8>, time: Duration) {
    thousandths(out, time.as_secs().saturating_mul(1000).saturating_add(time.subsec_millis().into()));
}

/// A number in 16 hexadecimal digits.
pub(crate) fn hexadecimal(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 16];
    digits[..8].copy_from_slice(&hexadecimal_digits((number >> 32) as u32));
    digits[8..].copy_from_slice(&hexadecimal_digits(number as u32));
    out.extend_from_slice(&digits);
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
pub(crate) fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address.to_canonical() {
        IpAddr::V4(address) => ipv4(out, address, None),
        // Writing into memory cannot fail.
        IpAddr::V6(address) => drop(write!(out, "{address}")),
    }
}

/// An address with its port: `192.0.2.1:80`, `[2001:db8::1]:80`.
pub(crate) fn socket(out: &mut Vec<u8>, of: SocketAddr) {
    match of.ip().to_canonical() {
        IpAddr::V4(address) => ipv4(out, address, Some(of.port())),
        IpAddr::V6(address) => drop(write!(out, "[{address}]:{}", of.port())),
    }
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

fn ipv4(out: &mut Vec<u8>, address: Ipv4Addr, port: Option<u16>) {
    let mut text = [0; 16];
    let mut at = 0;
    for part in address.octets() {
        let (digits, length) = OCTETS[usize::from(part)];
        text[at..at + 4].copy_from_slice(&digits);
        at += usize::from(length);
    }
    // The last one has a dot too.
    out.extend_from_slice(&text[..at - 1]);
    if let Some(port) = port {
        out.push(b':');
        integer(out, port.into());
    }
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
    pub(crate) fn write_rfc3339(&mut self, out: &mut Vec<u8>, instant: Instant) {
        let time = self.since_epoch(instant);
        let mut text = *b"1970-01-01T00:00:00.000Z";
        text[..19].copy_from_slice(self.text(time.as_secs()));
        let milliseconds = time.subsec_millis() as u16;
        let digit = |unit: u16| b'0' + (milliseconds / unit % 10) as u8;
        text[20..23].copy_from_slice(&[digit(100), digit(10), digit(1)]);
        out.extend_from_slice(&text);
    }

    /// `2026-01-31T23:59:59+00:00`, nginx's `$time_iso8601`.
    pub(crate) fn write_iso8601(&mut self, out: &mut Vec<u8>, instant: Instant) {
        let time = self.since_epoch(instant);
        out.extend_from_slice(self.text(time.as_secs()));
        out.extend_from_slice(b"+00:00");
    }

    /// `31/Jan/2026:23:59:59 +0000`, nginx's `$time_local` where the machine's time is UTC.
    pub(crate) fn write_common_log(&mut self, out: &mut Vec<u8>, instant: Instant) {
        const MONTHS: [&[u8; 3]; 12] =
            [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
        let time = self.since_epoch(instant);
        let text = self.text(time.as_secs());
        let month = usize::from((text[5] - b'0') * 10 + text[6] - b'0');
        out.extend_from_slice(&[text[8], text[9], b'/']);
        out.extend_from_slice(MONTHS[(month + 11) % 12]);
        out.extend_from_slice(&[b'/', text[0], text[1], text[2], text[3], b':']);
        out.extend_from_slice(&text[11..]);
        out.extend_from_slice(b" +0000");
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

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn every_byte_at_every_place_is_escaped_or_plain() {
        for byte in 0..=u8::MAX {
            for (length, at) in (1..=20).flat_map(|length| (0..length).map(move |at| (length, at))) {
                let mut text = vec![b'a'; length];
                text[at] = byte;
                let is_plain = (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
                for escape in [Escape::Nginx, Escape::Json] {
                    let line = written(|out| escape.write(out, &text));
                    assert_eq!(line.as_bytes() == text, is_plain, "{byte} at {at}: {line}");
                    assert!(line.bytes().all(|byte| (0x20..0x7f).contains(&byte) || byte > 0x9f), "{line:?}");
                }
            }
        }
    }

    #[test]
    fn numbers_times_and_addresses() {
        assert_eq!(written(|out| milliseconds(out, Duration::from_nanos(12_034_999))), "12.034");
        assert_eq!(written(|out| seconds(out, Duration::from_millis(61_007))), "61.007");
        assert_eq!(written(|out| hexadecimal(out, 0x0123_4567_89ab_cdef)), "0123456789abcdef");
        for (text, shown) in [
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("10.9.99.100:65535", "10.9.99.100:65535"),
            ("255.249.200.0:10000", "255.249.200.0:10000"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
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
