//! Writing into a line of bytes: numbers, times, addresses and text that strangers chose.
//!
//! All of it runs on the threads that serve traffic, so it allocates nothing and formats no `Display` where a few lines do.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
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

/// How many bytes at the beginning are printable ASCII other than `"` and `\`. Eight are looked at in one go.
fn plain_prefix(text: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let is_zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let (words, _) = text.as_chunks::<8>();
    let mut plain = 0;
    for bytes in words {
        let word = u64::from_le_bytes(*bytes);
        let control = word.wrapping_sub(0x20 * ONES) & !word & HIGH;
        let delete_or_high = (word.wrapping_add(ONES) | word) & HIGH;
        let special = is_zero(word ^ (u64::from(b'"') * ONES)) | is_zero(word ^ (u64::from(b'\\') * ONES));
        if control | delete_or_high | special != 0 {
            break;
        }
        plain += 8;
    }
    plain + text[plain..].iter().take_while(|byte| is_plain(**byte)).count()
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

/// A time in units of a thousand others, with three decimals: `12.034`.
fn thousandths(out: &mut Vec<u8>, number: u64) {
    integer(out, number / 1000);
    let rest = (number % 1000) as u16;
    let digit = |number: u16| b'0' + (number % 10) as u8;
    out.extend_from_slice(&[b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
}

/// Milliseconds with three decimals.
pub(crate) fn milliseconds(out: &mut Vec<u8>, time: Duration) {
    thousandths(out, u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
}

/// Seconds with three decimals, as nginx writes them.
pub(crate) fn seconds(out: &mut Vec<u8>, time: Duration) {
    thousandths(out, u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
}

/// A number in hexadecimal digits, all `DIGITS` of them (at most 32).
pub(crate) fn hexadecimal<const DIGITS: usize>(out: &mut Vec<u8>, number: u128) {
    let mut digits = [0; DIGITS];
    for (at, digit) in digits.iter_mut().rev().enumerate() {
        *digit = HEX_LOWER[(number >> (4 * at) & 15) as usize];
    }
    out.extend_from_slice(&digits);
}

/// An address; one of IPv4 that came in by a socket of IPv6 is shown as what it is.
pub(crate) fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [first, rest @ ..] = address.octets();
            integer(out, first.into());
            for part in rest {
                out.push(b'.');
                integer(out, part.into());
            }
        }
        // Writing into memory cannot fail.
        IpAddr::V6(address) => drop(write!(out, "{address}")),
    }
}

/// An address with its port: `192.0.2.1:80`, `[2001:db8::1]:80`.
pub(crate) fn socket(out: &mut Vec<u8>, of: SocketAddr) {
    let ip = of.ip().to_canonical();
    if ip.is_ipv6() {
        out.push(b'[');
    }
    address(out, ip);
    out.extend_from_slice(if ip.is_ipv6() { b"]:" } else { b":" });
    integer(out, of.port().into());
}

/// Tells the time of day of instants, in UTC.
#[derive(Debug)]
pub(crate) struct WallClock {
    /// An instant, and the time since the Unix epoch at it: read again once a second, because clocks are set.
    anchor: (Instant, Duration),
    /// The last second that was written, and its text.
    shown: (u64, Moment),
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

impl WallClock {
    pub(crate) fn new() -> Self {
        Self { anchor: Self::read(), shown: (0, Moment::of(0)) }
    }

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

    fn moment(&mut self, second: u64) -> Moment {
        if self.shown.0 != second {
            self.shown = (second, Moment::of(second));
        }
        self.shown.1
    }

    /// `2026-01-31T23:59:59.123Z` (RFC 3339).
    pub(crate) fn write_rfc3339(&mut self, out: &mut Vec<u8>, instant: Instant) {
        let time = self.since_epoch(instant);
        self.moment(time.as_secs()).write_date_and_time(out);
        let [hundreds, rest] = [time.subsec_millis() / 100, time.subsec_millis() % 100];
        out.extend_from_slice(&[b'.', b'0' + hundreds as u8]);
        two_digits(out, rest as u8);
        out.push(b'Z');
    }

    /// `2026-01-31T23:59:59+00:00`, nginx's `$time_iso8601`.
    pub(crate) fn write_iso8601(&mut self, out: &mut Vec<u8>, instant: Instant) {
        let time = self.since_epoch(instant);
        self.moment(time.as_secs()).write_date_and_time(out);
        out.extend_from_slice(b"+00:00");
    }

    /// `31/Jan/2026:23:59:59 +0000`, nginx's `$time_local` where the machine's time is UTC.
    pub(crate) fn write_common_log(&mut self, out: &mut Vec<u8>, instant: Instant) {
        const MONTHS: [&[u8; 3]; 12] =
            [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
        let time = self.since_epoch(instant);
        let moment = self.moment(time.as_secs());
        two_digits(out, moment.day);
        out.push(b'/');
        out.extend_from_slice(MONTHS[usize::from(moment.month - 1) % 12]);
        out.push(b'/');
        integer(out, moment.year.into());
        out.push(b':');
        moment.write_time(out);
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

    fn write_date_and_time(self, out: &mut Vec<u8>) {
        integer(out, self.year.into());
        out.push(b'-');
        two_digits(out, self.month);
        out.push(b'-');
        two_digits(out, self.day);
        out.push(b'T');
        self.write_time(out);
    }

    fn write_time(self, out: &mut Vec<u8>) {
        two_digits(out, self.hour);
        out.push(b':');
        two_digits(out, self.minute);
        out.push(b':');
        two_digits(out, self.second);
    }
}

fn two_digits(out: &mut Vec<u8>, number: u8) {
    out.extend_from_slice(&[b'0' + number / 10 % 10, b'0' + number % 10]);
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
            for at in 0..20 {
                let mut text = [b'a'; 20];
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
        assert_eq!(written(|out| hexadecimal::<16>(out, 0xab)), "00000000000000ab");
        for (text, shown) in [
            ("192.0.2.1:80", "192.0.2.1:80"),
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
            assert_eq!(written(|out| Moment::of(second).write_date_and_time(out)), text);
        }
    }
}
