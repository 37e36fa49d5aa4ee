//! HPACK (RFC 7541) for a load generator: requests are rendered once, and of answers only the status and `grpc-status` are
//! kept. It contains no I/O.

use super::huffman;
use crate::http::exchange::Fault;
use crate::http::plan::{Plan, Target};
use std::collections::VecDeque;

const WRONG: Fault = Fault::Malformed("HPACK");

/// Entries of the static table (RFC 7541, appendix A).
const STATIC: usize = 61;

/// What an entry of the dynamic table costs beside its text (RFC 7541, 4.1).
const OVERHEAD: usize = 32;

/// What both ends begin with (RFC 9113, 6.5.2).
const TABLE: usize = 4096;

/// The fields of a request, rendered.
#[derive(Clone, Debug)]
pub struct Block {
    /// For a table in which nothing is: every field that repeats is put into it.
    pub first: Vec<u8>,
    /// For one in which `first` is the last that was put in.
    pub next: Vec<u8>,
    /// For servers that want no table.
    pub plain: Vec<u8>,
}

impl Block {
    /// Renders the fields of a target. `alone`: whether every request of the run is this one, so that all of it repeats.
    pub fn new(target: &Target, plan: &Plan, grpc: bool, alone: bool) -> Self {
        let fields = fields(target, plan, grpc);
        let plain = fields.iter().flat_map(|field| field.literal(0x00)).collect();
        let (mut first, mut next) = (Vec::new(), Vec::new());
        let inserted = fields.iter().filter(|field| field.whole == 0).count();
        let size: usize = fields.iter().map(|field| field.name.len() + field.value.len() + OVERHEAD).sum();
        if !alone || size > TABLE {
            return Self { first: Vec::clone(&plain), next: Vec::clone(&plain), plain };
        }
        let mut older = inserted;
        for field in &fields {
            if field.whole > 0 {
                first.extend(field.literal(0));
                next.extend(field.literal(0));
            } else {
                first.extend(field.literal(0x40));
                append_integer(&mut next, 0x80, 7, STATIC + older);
                older -= 1;
            }
        }
        Self { first, next, plain }
    }
}

/// A field of a request, with what the static table has of it.
struct Field {
    name: String,
    value: String,
    /// The index of name and value, or 0.
    whole: usize,
    /// The index of the name, or 0.
    named: usize,
}

impl Field {
    /// Bytes of it: as an index, or as a literal of the given kind (0x40 is put into the table, 0x00 is not).
    fn literal(&self, kind: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.whole > 0 {
            append_integer(&mut bytes, 0x80, 7, self.whole);
            return bytes;
        }
        append_integer(&mut bytes, kind, if kind == 0x40 { 6 } else { 4 }, self.named);
        if self.named == 0 {
            append_text(&mut bytes, &self.name);
        }
        append_text(&mut bytes, &self.value);
        bytes
    }
}

fn fields(target: &Target, plan: &Plan, grpc: bool) -> Vec<Field> {
    let field = |name: &str, value: &str, whole, named| Field {
        name: name.to_ascii_lowercase(),
        value: value.to_owned(),
        whole,
        named,
    };
    let method = if grpc { "POST" } else { &target.method };
    let method = match method {
        "GET" => field(":method", "GET", 2, 0),
        "POST" => field(":method", "POST", 3, 0),
        other => field(":method", other, 0, 2),
    };
    let scheme = if target.tls { field(":scheme", "https", 7, 0) } else { field(":scheme", "http", 6, 0) };
    let path = field(":path", &target.path, if target.path == "/" { 4 } else { 0 }, 4);
    let mut fields = vec![method, scheme, path, field(":authority", &target.authority, 0, 1)];
    if grpc {
        fields.push(field("content-type", "application/grpc", 0, 31));
        fields.push(field("te", "trailers", 0, 0));
    } else if plan.upload > 0 {
        fields.push(field("content-length", &plan.upload.to_string(), 0, 28));
    }
    fields.extend(plan.headers.iter().map(|(name, value)| field(name, value, 0, 0)));
    fields
}

/// RFC 7541, 5.1: an integer with a prefix of so many bits.
fn append_integer(bytes: &mut Vec<u8>, kind: u8, bits: u32, value: usize) {
    let most = (1 << bits) - 1;
    if value < most {
        bytes.push(kind | value as u8);
        return;
    }
    bytes.push(kind | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
}

fn append_text(bytes: &mut Vec<u8>, text: &str) {
    append_integer(bytes, 0, 7, text.len());
    bytes.extend_from_slice(text.as_bytes());
}

/// What is read of a block of fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// `:status`.
    pub status: Option<u16>,
    /// `grpc-status`.
    pub grpc_status: Option<u32>,
}

/// The decoder of one connection, with its dynamic table.
#[derive(Debug, Default)]
pub struct Decoder {
    table: VecDeque<Entry>,
    size: usize,
    /// Less than [`TABLE`] by so much, as the encoder said last.
    smaller: usize,
}

/// An entry: what it is, and what it costs.
#[derive(Clone, Copy, Debug)]
struct Entry {
    name: Name,
    value: u32,
    name_length: usize,
    size: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Status,
    GrpcStatus,
    Other,
}

impl Decoder {
    /// Reads one block.
    pub fn read(&mut self, mut block: &[u8]) -> Result<Fields, Fault> {
        let mut fields = Fields::default();
        while let Some(kind) = block.first().copied() {
            if kind & 0x80 != 0 {
                let index = integer(&mut block, 7)?;
                let entry = self.entry(index)?;
                fields.take(entry.name, entry.value);
            } else if kind & 0xe0 == 0x20 {
                let limit = integer(&mut block, 5)?;
                self.smaller = TABLE.checked_sub(limit).ok_or(WRONG)?;
                self.evict(0);
            } else {
                let insert = kind & 0x40 != 0;
                let index = integer(&mut block, if insert { 6 } else { 4 })?;
                let (name, name_length) = if index == 0 {
                    read_name(&mut block)?
                } else {
                    self.entry(index).map(|entry| (entry.name, entry.name_length))?
                };
                let (value, value_length) = read_value(&mut block, name, insert)?;
                fields.take(name, value);
                if insert {
                    self.insert(Entry { name, value, name_length, size: name_length + value_length + OVERHEAD });
                }
            }
        }
        Ok(fields)
    }

    fn entry(&self, index: usize) -> Result<Entry, Fault> {
        match index {
            0 => Err(WRONG),
            1..=STATIC => Ok(static_entry(index)),
            _ => self.table.get(index - STATIC - 1).copied().ok_or(WRONG),
        }
    }

    fn insert(&mut self, entry: Entry) {
        self.evict(entry.size);
        if entry.size <= TABLE - self.smaller {
            self.size += entry.size;
            self.table.push_front(entry);
        }
    }

    /// Makes room (RFC 7541, 4.4).
    fn evict(&mut self, room: usize) {
        while self.size + room > TABLE - self.smaller {
            let Some(oldest) = self.table.pop_back() else { break };
            self.size -= oldest.size;
        }
    }
}

impl Fields {
    fn take(&mut self, name: Name, value: u32) {
        match name {
            Name::Status => self.status = u16::try_from(value).ok(),
            Name::GrpcStatus => self.grpc_status = Some(value),
            Name::Other => {}
        }
    }
}

/// Of the static table, statuses have values that matter here, and all names have lengths.
fn static_entry(index: usize) -> Entry {
    const STATUSES: [u32; 7] = [200, 204, 206, 304, 400, 404, 500];
    const NAME_LENGTHS: [u8; STATIC] = [
        10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13, 12, 6,
        4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3, 16,
    ];
    let name_length = usize::from(NAME_LENGTHS[index - 1]);
    match index {
        8..=14 => Entry { name: Name::Status, value: STATUSES[index - 8], name_length, size: 0 },
        _ => Entry { name: Name::Other, value: 0, name_length, size: 0 },
    }
}

fn integer(block: &mut &[u8], bits: u32) -> Result<usize, Fault> {
    let most = (1 << bits) - 1;
    let (head, mut rest) = block.split_first().ok_or(WRONG)?;
    let mut value = usize::from(*head) & most;
    if value == most {
        let mut shift = 0;
        loop {
            let (digit, behind) = rest.split_first().ok_or(WRONG)?;
            rest = behind;
            value += usize::from(digit & 0x7f) << shift;
            if digit & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > 28 {
                return Err(WRONG);
            }
        }
    }
    *block = rest;
    Ok(value)
}

/// The bytes of a text, and whether they are Huffman's.
fn text<'a>(block: &mut &'a [u8]) -> Result<(&'a [u8], bool), Fault> {
    let coded = block.first().ok_or(WRONG)? & 0x80 != 0;
    let length = integer(block, 7)?;
    let (bytes, rest) = block.split_at_checked(length).ok_or(WRONG)?;
    *block = rest;
    Ok((bytes, coded))
}

fn read_name(block: &mut &[u8]) -> Result<(Name, usize), Fault> {
    const WANTED: [(&[u8], Name); 2] = [(b"grpc-status", Name::GrpcStatus), (b":status", Name::Status)];
    let (bytes, coded) = text(block)?;
    let mut length = 0;
    let mut fits = [true; WANTED.len()];
    let mut take = |byte: u8| {
        for (fits, (name, _)) in fits.iter_mut().zip(WANTED) {
            *fits &= name.get(length) == Some(&byte);
        }
        length += 1;
    };
    if coded {
        huffman::decode(bytes, take).ok_or(WRONG)?;
    } else {
        bytes.iter().for_each(|byte| take(*byte));
    }
    let found = fits.iter().zip(WANTED).find(|(fits, (name, _))| **fits && name.len() == length);
    Ok((found.map_or(Name::Other, |(_, (_, name))| name), length))
}

/// A number where the name wants one, and the length of the text where it is `measured`.
fn read_value(block: &mut &[u8], name: Name, measured: bool) -> Result<(u32, usize), Fault> {
    let (bytes, coded) = text(block)?;
    if name == Name::Other && !(measured && coded) {
        return Ok((0, bytes.len()));
    }
    let (mut value, mut length, mut number) = (0_u32, 0, true);
    let mut take = |byte: u8| {
        number &= byte.is_ascii_digit();
        value = value.wrapping_mul(10).wrapping_add(u32::from(byte.wrapping_sub(b'0')));
        length += 1;
    };
    if coded {
        huffman::decode(bytes, take).ok_or(WRONG)?;
    } else {
        bytes.iter().for_each(|byte| take(*byte));
    }
    if name != Name::Other && !(number && (1..=9).contains(&length)) {
        return Err(Fault::Malformed("a status that is no number"));
    }
    Ok((value, length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::plan::Protocol;

    #[test]
    fn blocks_of_the_rfc_are_read_with_their_table() {
        // RFC 7541, C.6.1 to C.6.3 have a table of 256 bytes; C.5's texts with 4,096 bytes need no eviction.
        let mut decoder = Decoder::default();
        let first = [&[0x48, 0x03][..], b"302", &[0x58, 0x07], b"private"].concat();
        assert_eq!(decoder.read(&first).expect("a block").status, Some(302));
        // 63 is the status that was put in first.
        assert_eq!(decoder.read(&[0xbf]).expect("a block").status, Some(302));
        assert_eq!(decoder.read(&[0x88]).expect("a block").status, Some(200));
        // A table of size 0 forgets all.
        assert!(decoder.read(&[0x20, 0xbf]).is_err());
        assert!(decoder.read(&[0x3f, 0xff, 0xff, 0xff, 0x7f]).is_err(), "larger than was offered");
    }

    #[test]
    fn a_full_table_forgets_its_oldest() {
        let mut decoder = Decoder::default();
        let status = [&[0x48, 0x03][..], b"503"].concat();
        decoder.read(&status).expect("a block");
        let other = [&[0x40, 0x01][..], b"x", &[0x7f, 0xd1, 0x0e], &[b'y'; 2000]].concat();
        assert_eq!(decoder.table.len(), 1);
        let before = decoder.size;
        decoder.read(&other).expect("a block");
        assert_eq!(decoder.size, before + 1 + 2000 + OVERHEAD);
        decoder.read(&other).expect("a block");
        decoder.read(&other).expect("a block");
        assert_eq!(decoder.table.len(), 2, "two of 2,033 bytes fit");
        assert!(decoder.table.iter().all(|entry| entry.name == Name::Other));
    }

    #[test]
    fn trailers_of_grpc_are_read_in_either_coding() {
        let plain = [&[0x00, 0x0b][..], b"grpc-status", &[0x02], b"14"].concat();
        assert_eq!(Decoder::default().read(&plain).expect("a block").grpc_status, Some(14));
        // The same in Huffman's code, as nghttp2 writes it.
        let coded = [0x00, 0x88, 0x9a, 0xca, 0xc8, 0xb2, 0x12, 0x34, 0xda, 0x8f, 0x01, b'0'];
        assert_eq!(Decoder::default().read(&coded).expect("a block").grpc_status, Some(0));
    }

    #[test]
    fn what_is_rendered_for_the_second_time_refers_to_the_first() {
        let target = Target::parse("GET", "https://bench.test/static").expect("a URL");
        let plan = Plan::new(Protocol::Http2, vec![target.clone()]);
        let block = Block::new(&target, &plan, false, true);
        assert_eq!(block.next, [0x82, 0x87, 0xbf, 0xbe], ":path went in before :authority");
        assert!(block.first.windows(10).any(|text| text == b"bench.test"));
        assert_eq!(Block::new(&target, &plan, false, false).next, block.plain);
    }
}
