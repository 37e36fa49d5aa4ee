//! The bytes of a span as OTLP has them: message `Span` of `opentelemetry/proto/trace/v1/trace.proto`, in protobuf's wire
//! format. Written straight into a buffer: building the messages out of strings first would cost more than the rest of a
//! request.

use sluicegate_trace::{RemoteContext, Sampled, SpanId, TraceId};
use std::borrow::Cow;
use std::net::IpAddr;

/// Bytes of the longest text of an attribute, name or message; the rest is cut off.
pub const MAX_TEXT: usize = 1024;

/// Field 2, length-delimited: a span within `ScopeSpans`, so that spans can be put together by putting them in a row.
const SPAN_IN_SCOPE: u8 = 0x12;
const NAME: u8 = 0x2a;
const ATTRIBUTE: u8 = 0x4a;
const LINK: u8 = 0x6a;
const STATUS: u8 = 0x7a;
/// Bytes of the length of a span: a varint with padding, since it is known only at the end. Holds 2 MiB.
const LENGTH_BYTES: usize = 3;
/// `flags`: the bit that says whether a parent is remote is meant.
const KNOWS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;
const SAMPLED: u32 = 1;
const RANDOM: u32 = 2;
/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;

/// Who spoke to whom, as `SpanKind` numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Server = 2,
    Client = 3,
}

/// What every span has.
#[derive(Clone, Copy, Debug)]
pub struct Heading {
    pub kind: Kind,
    pub trace_id: TraceId,
    pub span_id: SpanId,
    pub parent: Option<SpanId>,
    pub parent_is_remote: bool,
    pub random: bool,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970.
    pub end: u64,
}

/// The name of an attribute, as it stands in a `KeyValue`, up to the length of the value.
#[derive(Clone, Copy, Debug)]
pub struct Key(pub &'static [u8]);

/// Declares keys; the bytes around a name are put there by the compiler.
macro_rules! keys {
    ($($name:ident = $text:literal;)+) => {
        $(const $name: $crate::span::wire::Key = $crate::span::wire::Key(&{
            const LENGTH: usize = $text.len();
            // So that the length of a pair with a number is one byte.
            const { assert!(LENGTH < 100) };
            let mut bytes = [0; LENGTH + 3];
            bytes[0] = 0x0a;
            bytes[1] = LENGTH as u8;
            let mut at = 0;
            while at < LENGTH {
                bytes[at + 2] = $text.as_bytes()[at];
                at += 1;
            }
            bytes[LENGTH + 2] = 0x12;
            bytes
        });)+
    };
}
pub(crate) use keys;

/// Writes one span. It counts as written when [`SpanWriter::finish`] was called.
pub struct SpanWriter<'a> {
    out: &'a mut Vec<u8>,
    begin: usize,
}

impl<'a> SpanWriter<'a> {
    /// Begins a span behind what is in the buffer.
    pub fn begin(out: &'a mut Vec<u8>, heading: &Heading) -> Self {
        let flags = SAMPLED
            | if heading.random { RANDOM } else { 0 }
            | KNOWS_REMOTE
            | if heading.parent_is_remote { IS_REMOTE } else { 0 };
        let mut head = [0; 58];
        head[0] = SPAN_IN_SCOPE;
        head[4..6].copy_from_slice(&[0x0a, 16]);
        head[6..22].copy_from_slice(&heading.trace_id.get().to_be_bytes());
        head[22..24].copy_from_slice(&[0x12, 8]);
        head[24..32].copy_from_slice(&heading.span_id.get().to_be_bytes());
        head[32..34].copy_from_slice(&[0x30, heading.kind as u8]);
        head[34] = 0x39;
        head[35..43].copy_from_slice(&heading.start.to_le_bytes());
        head[43] = 0x41;
        head[44..52].copy_from_slice(&heading.end.to_le_bytes());
        head[52..54].copy_from_slice(&[0x85, 0x01]);
        head[54..58].copy_from_slice(&flags.to_le_bytes());
        let begin = out.len();
        out.extend_from_slice(&head);
        if let Some(parent) = heading.parent {
            let mut field = [0x22, 8, 0, 0, 0, 0, 0, 0, 0, 0];
            field[2..].copy_from_slice(&parent.get().to_be_bytes());
            out.extend_from_slice(&field);
        }
        Self { out, begin }
    }

    /// The name, out of parts that stand one behind the other.
    pub fn name<const N: usize>(&mut self, parts: [&str; N]) {
        let (parts, length) = cut_parts(parts);
        self.out.push(NAME);
        varint(self.out, length);
        parts.iter().for_each(|part| self.out.extend_from_slice(part.as_bytes()));
    }

    /// An attribute with a text.
    pub fn text(&mut self, key: Key, value: &str) {
        if !self.short(key, value.as_bytes()) {
            self.joined(key, [value]);
        }
    }

    /// An attribute with a text that is UTF-8; false, and nothing written, where it is a long one.
    #[inline]
    fn short(&mut self, key: Key, value: &[u8]) -> bool {
        let (name, length) = (key.0, value.len());
        if name.len() + length >= 0x80 - 3 {
            return false;
        }
        // All lengths are one byte: most texts are that short.
        self.out.extend_from_slice(&[ATTRIBUTE, (name.len() + 3 + length) as u8]);
        self.out.extend_from_slice(name);
        self.out.extend_from_slice(&[(length + 2) as u8, 0x0a, length as u8]);
        self.out.extend_from_slice(value);
        true
    }

    /// An attribute with a text out of parts that stand one behind the other.
    pub fn joined<const N: usize>(&mut self, key: Key, parts: [&str; N]) {
        let (parts, length) = cut_parts(parts);
        let any = 1 + varint_length(length) + length;
        let pair = key.0.len() + varint_length(any) + any;
        if pair < 0x80 {
            self.out.extend_from_slice(&[ATTRIBUTE, pair as u8]);
            self.out.extend_from_slice(key.0);
            self.out.extend_from_slice(&[any as u8, 0x0a, length as u8]);
        } else {
            self.out.push(ATTRIBUTE);
            varint(self.out, pair);
            self.out.extend_from_slice(key.0);
            varint(self.out, any);
            self.out.push(0x0a);
            varint(self.out, length);
        }
        parts.iter().for_each(|part| self.out.extend_from_slice(part.as_bytes()));
    }

    /// An attribute with what should be text and came from outside.
    pub fn bytes(&mut self, key: Key, value: &[u8]) {
        // Most of it is ASCII, which is found out faster than that it is UTF-8.
        let is_written = value.is_ascii() && self.short(key, value);
        if !is_written {
            self.text(key, &readable(value));
        }
    }

    /// An attribute with an address.
    pub fn address(&mut self, key: Key, value: IpAddr) {
        match value {
            IpAddr::V4(address) => {
                let (text, length) = dotted(address.octets());
                // Digits and dots, and few of them.
                self.short(key, &text[..length]);
            }
            // One that a socket for both families accepted is shown as the client knows it.
            IpAddr::V6(address) => match address.to_ipv4_mapped() {
                Some(mapped) => self.address(key, IpAddr::V4(mapped)),
                None => self.text(key, &address.to_string()),
            },
        }
    }

    /// An attribute with a number.
    pub fn integer(&mut self, key: Key, value: u64) {
        // `int64`; nothing that is counted here comes near its end.
        let digits = varint_length_u64(value);
        self.out.extend_from_slice(&[ATTRIBUTE, (key.0.len() + 2 + digits) as u8]);
        self.out.extend_from_slice(key.0);
        self.out.extend_from_slice(&[(1 + digits) as u8, 0x18]);
        varint_u64(self.out, value);
    }

    /// An attribute with the text of a status: three digits.
    pub fn status(&mut self, key: Key, status: u16) {
        let digits = [status / 100 % 10, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8);
        self.short(key, &digits);
    }

    /// An attribute with a fraction.
    pub fn double(&mut self, key: Key, value: f64) {
        self.out.extend_from_slice(&[ATTRIBUTE, (key.0.len() + 10) as u8]);
        self.out.extend_from_slice(key.0);
        let mut any = [9, 0x21, 0, 0, 0, 0, 0, 0, 0, 0];
        any[2..].copy_from_slice(&value.to_le_bytes());
        self.out.extend_from_slice(&any);
    }

    /// An attribute that is yes or no.
    pub fn flag(&mut self, key: Key, value: bool) {
        self.out.extend_from_slice(&[ATTRIBUTE, (key.0.len() + 3) as u8]);
        self.out.extend_from_slice(key.0);
        self.out.extend_from_slice(&[2, 0x10, u8::from(value)]);
    }

    /// Attributes that were written before, as they are.
    pub fn attributes(&mut self, written: &[u8]) {
        self.out.extend_from_slice(written);
    }

    /// A link to a span of another trace.
    pub fn link(&mut self, to: &RemoteContext) {
        // Some balancers name a trace and no span in it; there is nothing that could be linked to.
        let Some(span_id) = to.span_id else { return };
        let flags = if matches!(to.sampled, Sampled::Yes | Sampled::Debug) { SAMPLED } else { 0 }
            | if to.random { RANDOM } else { 0 }
            | KNOWS_REMOTE
            | IS_REMOTE;
        let mut link = [0; 35];
        link[..4].copy_from_slice(&[LINK, 33, 0x0a, 16]);
        link[4..20].copy_from_slice(&to.trace_id.get().to_be_bytes());
        link[20..22].copy_from_slice(&[0x12, 8]);
        link[22..30].copy_from_slice(&span_id.get().to_be_bytes());
        link[30] = 0x35;
        link[31..35].copy_from_slice(&flags.to_le_bytes());
        self.out.extend_from_slice(&link);
    }

    /// The span ended in an error; the message may be empty.
    pub fn error(&mut self, message: &str) {
        let message = cut(message, MAX_TEXT);
        let text = if message.is_empty() { 0 } else { 1 + varint_length(message.len()) + message.len() };
        self.out.push(STATUS);
        varint(self.out, text + 2);
        if text > 0 {
            self.out.push(0x12);
            varint(self.out, message.len());
            self.out.extend_from_slice(message.as_bytes());
        }
        self.out.extend_from_slice(&[0x18, ERROR]);
    }

    /// Ends it: its length is known now.
    pub fn finish(self) {
        let length = self.out.len() - self.begin - 1 - LENGTH_BYTES;
        let digits = [length as u8 | 0x80, (length >> 7) as u8 | 0x80, (length >> 14) as u8 & 0x7f];
        self.out[self.begin + 1..][..LENGTH_BYTES].copy_from_slice(&digits);
    }
}

/// Attributes alone, to be kept and put into spans.
pub fn attributes(write: impl FnOnce(&mut SpanWriter<'_>)) -> Box<[u8]> {
    let mut out = Vec::new();
    write(&mut SpanWriter { out: &mut out, begin: 0 });
    out.into_boxed_slice()
}

/// Text as protobuf demands it, UTF-8.
pub fn readable(bytes: &[u8]) -> Cow<'_, str> {
    let bytes = &bytes[..bytes.len().min(MAX_TEXT)];
    // Nearly all is, and finding that out takes a fraction of what repairing it does.
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

/// As much of them as a text may have, and how much that is.
fn cut_parts<const N: usize>(parts: [&str; N]) -> ([&str; N], usize) {
    let mut length = 0;
    let parts = parts.map(|part| {
        let part = cut(part, MAX_TEXT - length);
        length += part.len();
        part
    });
    (parts, length)
}

fn cut(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

fn varint_length(value: usize) -> usize {
    varint_length_u64(value as u64)
}

fn varint_length_u64(value: u64) -> usize {
    // Seven bits a byte, and one byte for zero.
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn varint(out: &mut Vec<u8>, value: usize) {
    varint_u64(out, value as u64);
}

fn varint_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// `192.0.2.1`, without the formatting machinery: addresses stand in every span.
fn dotted(octets: [u8; 4]) -> ([u8; 15], usize) {
    let mut text = [b'.'; 15];
    let mut at = 0;
    for (place, octet) in octets.into_iter().enumerate() {
        at += usize::from(place > 0);
        for power in [100, 10, 1] {
            if octet >= power || power == 1 {
                text[at] = b'0' + octet / power % 10;
                at += 1;
            }
        }
    }
    (text, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_the_library_does() {
        for octets in [[0, 0, 0, 0], [192, 0, 2, 1], [10, 100, 101, 255], [255; 4], [1, 20, 99, 9]] {
            let (text, length) = dotted(octets);
            assert_eq!(std::str::from_utf8(&text[..length]), Ok(std::net::Ipv4Addr::from(octets).to_string().as_str()));
        }
    }

    #[test]
    fn lengths_of_numbers() {
        for (value, length) in [(0, 1), (1, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (u64::MAX, 10)] {
            let mut out = Vec::new();
            varint_u64(&mut out, value);
            assert_eq!((varint_length_u64(value), out.len()), (length, length), "{value}");
        }
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("aäb", 2), "a");
        assert_eq!(cut("ää", 0), "");
    }
}
