//! What request and response heads share: one buffer, spans into it, and the walk over lines that can be interrupted
//! after any byte.

use std::ops::Range;
use std::slice;

use crate::error::HeadError;
use crate::field::{Field, FieldName};
use crate::limits::HeadLimits;
use crate::syntax;
use crate::write::write_field;

/// Enough for most heads, so that a new connection grows its list of fields once.
const USUAL_FIELDS: usize = 16;

/// Spans are 32 bits wide; heads that are built, not parsed, stop here.
const LARGEST_BUILT: usize = 32 << 20;

/// A part of the buffer of a [`Head`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) len: u32,
}

impl Span {
    pub(crate) fn of(range: Range<usize>) -> Self {
        Self { start: range.start as u32, len: range.len() as u32 }
    }
}

#[derive(Clone, Copy, Debug)]
struct FieldSpan {
    name: u32,
    value: u32,
    value_len: u32,
    name_len: u16,
    id: FieldName,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    #[default]
    StartLine,
    Fields,
    Complete,
    /// Made by `begin`, not by `parse`.
    Built,
    /// Refused; it stays so until it is cleared.
    Refused(HeadError),
}

/// Why a line has no good end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LineFault {
    Ending(HeadError),
    /// A control character, at this place of the input.
    Control(usize),
    /// No end within the bound.
    Full,
}

/// While a head is parsed, `bytes` mirrors the input up to `line_start`, so a span means the same in both.
#[derive(Clone)]
pub(crate) struct Head {
    bytes: Vec<u8>,
    fields: Vec<FieldSpan>,
    present: u128,
    pub(crate) stage: Stage,
    /// Where the first line that has not been taken begins.
    pub(crate) line_start: usize,
    /// How far the search for the end of that line has come; what lies before is not looked at again.
    scanned: usize,
}

impl Default for Head {
    fn default() -> Self {
        Self::new()
    }
}

impl Head {
    pub(crate) const fn new() -> Self {
        Self { bytes: Vec::new(), fields: Vec::new(), present: 0, stage: Stage::StartLine, line_start: 0, scanned: 0 }
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.fields.clear();
        self.present = 0;
        self.stage = Stage::StartLine;
        self.line_start = 0;
        self.scanned = 0;
    }

    pub(crate) fn capacity_bytes(&self) -> usize {
        self.bytes.capacity() + self.fields.capacity() * size_of::<FieldSpan>()
    }

    pub(crate) fn is_fresh_for(&self, input: &[u8]) -> bool {
        matches!(self.stage, Stage::StartLine | Stage::Fields) && self.scanned <= input.len()
    }

    /// The bytes of a span; nothing where they were never taken over, because the head was refused.
    pub(crate) fn slice(&self, span: Span) -> &[u8] {
        let start = span.start as usize;
        self.bytes.get(start..start + span.len as usize).unwrap_or_default()
    }

    /// Adds bytes of the owner (not of a field) and says where they lie.
    pub(crate) fn keep(&mut self, bytes: &[u8]) -> Span {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        Span::of(start..self.bytes.len())
    }

    /// As [`Head::keep`], from bytes that are there already.
    pub(crate) fn keep_again(&mut self, span: Span) -> Span {
        let start = span.start as usize;
        let end = self.bytes.len();
        self.bytes.extend_from_within(start..start + span.len as usize);
        Span::of(end..self.bytes.len())
    }

    /// Takes over the lines that have been accepted.
    pub(crate) fn mirror(&mut self, input: &[u8]) {
        if let Some(accepted) = input.get(self.bytes.len()..self.line_start) {
            self.bytes.extend_from_slice(accepted);
        }
    }

    /// The next line without its CRLF; `None` when its end is not there yet. It counts as taken only when
    /// [`Head::take_line`] is called.
    #[inline]
    pub(crate) fn next_line(&mut self, input: &[u8], bound: usize) -> Result<Option<Range<usize>>, LineFault> {
        let window = &input[..input.len().min(bound)];
        let at = syntax::find_control(window, self.scanned);
        self.scanned = at;
        match (window.get(at), window.get(at + 1)) {
            (Some(b'\r'), Some(b'\n')) => {
                self.scanned = at + 2;
                Ok(Some(self.line_start..at))
            }
            (Some(b'\r'), Some(_)) => Err(LineFault::Ending(HeadError::BareCr)),
            (Some(b'\n'), _) => Err(LineFault::Ending(HeadError::LfWithoutCr)),
            (None | Some(b'\r'), _) if window.len() == bound => Err(LineFault::Full),
            (None | Some(b'\r'), _) => Ok(None),
            (Some(_), _) => Err(LineFault::Control(at)),
        }
    }

    pub(crate) fn take_line(&mut self) {
        self.line_start = self.scanned;
    }

    /// Takes field lines up to the empty line and says where that one ends; `None` when more bytes are needed.
    pub(crate) fn read_fields(&mut self, input: &[u8], limits: &HeadLimits) -> Result<Option<usize>, HeadError> {
        let bound = limits.head_bytes();
        loop {
            let line = match self.next_line(input, bound) {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(None),
                Err(LineFault::Ending(error)) => return Err(error),
                Err(LineFault::Full) => return Err(HeadError::HeadTooLarge),
                Err(LineFault::Control(at)) => {
                    return Err(control_in_field(&input[self.line_start..at], input[at]));
                }
            };
            if line.is_empty() {
                return Ok(Some(self.scanned));
            }
            if self.fields.len() >= limits.max_fields {
                return Err(HeadError::TooManyFields);
            }
            self.add_line(&input[line.clone()], line.start)?;
            self.take_line();
        }
    }

    /// Takes one field line, which lies at `start` of the buffer or will when it is mirrored.
    #[inline]
    fn add_line(&mut self, line: &[u8], start: usize) -> Result<(), HeadError> {
        let parts = split_field_line(line)?;
        let name = &line[..parts.name_len];
        self.add_span(name, start, start + parts.value.start, parts.value.len())
    }

    #[inline]
    fn add_span(&mut self, name: &[u8], name_at: usize, value_at: usize, value_len: usize) -> Result<(), HeadError> {
        let id = FieldName::of(name);
        if self.fields.capacity() == 0 {
            self.fields.reserve_exact(USUAL_FIELDS);
        }
        self.fields.push(FieldSpan {
            name: name_at as u32,
            value: value_at as u32,
            value_len: value_len as u32,
            name_len: u16::try_from(name.len()).map_err(|_| HeadError::HeadTooLarge)?,
            id,
        });
        self.present |= id.bit();
        Ok(())
    }

    /// Adds a field that did not come from the wire, checked as if it had.
    pub(crate) fn push(&mut self, name: &[u8], value: &[u8]) -> Result<(), HeadError> {
        if name.is_empty() {
            return Err(HeadError::EmptyName);
        }
        if !syntax::is_token(name) {
            return Err(HeadError::InvalidName);
        }
        let value = syntax::trim(value);
        if memchr::memchr(0, value).is_some() {
            return Err(HeadError::NulInField);
        }
        if !syntax::is_value(value) {
            return Err(HeadError::InvalidValue);
        }
        if self.bytes.len() + name.len() + value.len() > LARGEST_BUILT {
            return Err(HeadError::HeadTooLarge);
        }
        let name_at = self.keep(name).start as usize;
        let value_at = self.keep(value).start as usize;
        self.add_span(name, name_at, value_at, value.len())
    }

    /// Holds a head that was built to the same limits as one that was parsed.
    pub(crate) fn check_limits(&self, limits: &HeadLimits) -> Result<(), HeadError> {
        if self.fields.len() > limits.max_fields {
            return Err(HeadError::TooManyFields);
        }
        // Each line adds a colon, a space and CRLF.
        if self.bytes.len() + 4 * self.fields.len() > limits.head_bytes() {
            return Err(HeadError::HeadTooLarge);
        }
        Ok(())
    }

    /// Makes a field of the line that begins at `start` of the buffer and ends in LF at its end, if `accept` wants it;
    /// else the line is dropped.
    pub(crate) fn end_trailer(
        &mut self,
        start: usize,
        accept: impl FnOnce(Field<'_>) -> bool,
    ) -> Result<(), HeadError> {
        let line = self.bytes[start..].strip_suffix(b"\r\n").ok_or(HeadError::LfWithoutCr)?;
        if !syntax::is_value(line) {
            return Err(HeadError::InvalidValue);
        }
        let parts = split_field_line(line)?;
        let field = Field::new(&line[..parts.name_len], &line[parts.value.clone()]);
        if !accept(field) {
            self.bytes.truncate(start);
            return Ok(());
        }
        let span = FieldSpan {
            name: start as u32,
            value: (start + parts.value.start) as u32,
            value_len: parts.value.len() as u32,
            name_len: u16::try_from(parts.name_len).map_err(|_| HeadError::HeadTooLarge)?,
            id: field.id,
        };
        self.present |= field.id.bit();
        self.fields.push(span);
        Ok(())
    }

    pub(crate) fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of the head on the wire, as far as it was read; of one that was built, those of its parts.
    pub(crate) fn wire_len(&self) -> usize {
        if self.stage == Stage::Built { self.bytes.len() } else { self.scanned }
    }

    pub(crate) fn len_fields(&self) -> usize {
        self.fields.len()
    }

    /// Appends the fields that are kept, as lines. Lines that have the canonical form already are copied as they lie,
    /// neighbours in one go: they were checked when they were read.
    pub(crate) fn write_fields(&self, out: &mut Vec<u8>, mut keeps: impl FnMut(&Field<'_>) -> bool) {
        let mut run = 0..0;
        for (field, span) in self.fields().zip(&self.fields) {
            if !keeps(&field) {
                continue;
            }
            let line = self.canonical_line(span);
            if let Some(line) = &line
                && line.start == run.end
            {
                run.end = line.end;
                continue;
            }
            out.extend_from_slice(&self.bytes[run]);
            run = line.unwrap_or_else(|| {
                write_field(out, field.name, field.value);
                0..0
            });
        }
        out.extend_from_slice(&self.bytes[run]);
    }

    /// Where a field lies as `name: value` and CRLF, if it does.
    fn canonical_line(&self, span: &FieldSpan) -> Option<Range<usize>> {
        let (start, value) = (span.name as usize, span.value as usize);
        let end = value + span.value_len as usize;
        let canonical = value == start + usize::from(span.name_len) + 2
            && self.bytes.get(value - 2..value) == Some(b": ")
            && self.bytes.get(end..end + 2) == Some(b"\r\n");
        canonical.then_some(start..end + 2)
    }

    pub(crate) fn fields(&self) -> Fields<'_> {
        Fields { bytes: &self.bytes, spans: self.fields.iter() }
    }

    #[inline]
    pub(crate) fn has(&self, id: FieldName) -> bool {
        self.present & id.bit() != 0
    }

    pub(crate) fn has_any(&self, ids: &[FieldName]) -> bool {
        ids.iter().any(|id| self.has(*id))
    }

    /// The values of a field, in order.
    pub(crate) fn values(&self, id: FieldName) -> impl Iterator<Item = &[u8]> + Clone {
        // Absent names cost nothing.
        let spans = if self.has(id) { &self.fields[..] } else { &[] };
        spans.iter().filter(move |span| span.id == id).map(|span| self.value_of(span))
    }

    pub(crate) fn value(&self, id: FieldName) -> Option<&[u8]> {
        self.values(id).next()
    }

    pub(crate) fn value_by_name(&self, name: &[u8]) -> Option<&[u8]> {
        match FieldName::of(name) {
            FieldName::Other => {
                self.fields().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
            }
            known => self.value(known),
        }
    }

    /// Where the value of the first field of this name lies.
    pub(crate) fn value_span(&self, id: FieldName) -> Option<Span> {
        let span = self.fields.iter().find(|span| span.id == id)?;
        Some(Span { start: span.value, len: span.value_len })
    }

    fn value_of(&self, span: &FieldSpan) -> &[u8] {
        let start = span.value as usize;
        &self.bytes[start..start + span.value_len as usize]
    }
}

/// The fields of a head or of trailers, in the order in which they were received.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    spans: slice::Iter<'a, FieldSpan>,
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    #[inline]
    fn next(&mut self) -> Option<Field<'a>> {
        let span = self.spans.next()?;
        let (name, value) = (span.name as usize, span.value as usize);
        Some(Field {
            id: span.id,
            name: &self.bytes[name..name + usize::from(span.name_len)],
            value: &self.bytes[value..value + span.value_len as usize],
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.spans.size_hint()
    }
}

impl ExactSizeIterator for Fields<'_> {}

struct FieldParts {
    name_len: usize,
    value: Range<usize>,
}

/// `field-line = field-name ":" OWS field-value OWS` (RFC 9112 section 5). The line has no control characters.
#[inline]
fn split_field_line(line: &[u8]) -> Result<FieldParts, HeadError> {
    let name_len = syntax::token_len(line);
    if name_len == line.len() {
        return Err(HeadError::MissingColon);
    }
    if line[name_len] != b':' || name_len == 0 {
        return Err(fault_of_name(line, name_len));
    }
    let mut value = name_len + 1..line.len();
    while !value.is_empty() && syntax::is_space(line[value.start]) {
        value.start += 1;
    }
    while !value.is_empty() && syntax::is_space(line[value.end - 1]) {
        value.end -= 1;
    }
    Ok(FieldParts { name_len, value })
}

/// What is wrong with a line whose name ends at `name_len` in something other than a colon, or is empty.
#[cold]
fn fault_of_name(line: &[u8], name_len: usize) -> HeadError {
    let rest = syntax::trim(&line[name_len..]);
    if name_len == 0 && line[0] == b':' {
        HeadError::EmptyName
    } else if name_len == 0 && syntax::is_space(line[0]) {
        HeadError::ObsFold
    } else if syntax::is_space(line[name_len]) && rest.first() == Some(&b':') {
        HeadError::SpaceBeforeColon
    } else if memchr::memchr(b':', line).is_none() {
        HeadError::MissingColon
    } else {
        HeadError::InvalidName
    }
}

#[cold]
fn control_in_field(line_before: &[u8], byte: u8) -> HeadError {
    if byte == 0 {
        HeadError::NulInField
    } else if memchr::memchr(b':', line_before).is_some() {
        HeadError::InvalidValue
    } else {
        HeadError::InvalidName
    }
}
