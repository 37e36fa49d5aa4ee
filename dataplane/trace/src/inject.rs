//! What the backend is told: which fields of the request stay behind, and which are added, ready to be sent again with
//! another span id.

use crate::context::SpanId;
use crate::decide::Trace;
use crate::extract::Extracted;
use crate::fields::{Header, HeaderSet, TraceFields};
use crate::format::{Format, FormatSet};
use crate::text::{DecimalText, hex_of};
use crate::tracestate::Member;
use crate::{b3, baggage, datadog, google, grpc_trace_bin, jaeger, opentracing, w3c, xray};

/// What becomes of formats that a request came with and that are neither configured nor the one that was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Foreign {
    /// They are written anew, so that every header names the same parent.
    #[default]
    Rewrite,
    /// They are removed.
    Remove,
    /// They cross as they are. A backend that reads them sees another parent than one that reads ours.
    Keep,
}

/// Bounds on what crosses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of `tracestate`; under 512, which everybody has to pass on, it counts as 512.
    pub tracestate_bytes: usize,
    /// Bytes of all `baggage` fields together. W3C asks for 8192 at least.
    pub baggage_bytes: usize,
    /// Members of all `baggage` fields together. W3C asks for 64 at least.
    pub baggage_members: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { tracestate_bytes: 4096, baggage_bytes: 8192, baggage_members: 180 }
    }
}

/// What is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectionSettings {
    /// Always written.
    pub formats: FormatSet,
    /// The format that the context was read from is written, too.
    pub same_as_received: bool,
    /// The other formats that came.
    pub foreign: Foreign,
    /// Removes baggage of every kind (`baggage`, `uberctx-`, `ot-baggage-`, `jaeger-baggage`): for the edge, where strangers
    /// could else speak to the applications.
    pub strip_baggage: bool,
    /// Stands first in `tracestate`.
    pub member: Option<Member>,
    /// Bounds.
    pub limits: Limits,
}

impl Default for InjectionSettings {
    fn default() -> Self {
        Self {
            formats: FormatSet::EMPTY.with(Format::W3c),
            same_as_received: true,
            foreign: Foreign::default(),
            strip_baggage: false,
            member: None,
            limits: Limits::default(),
        }
    }
}

/// One change to the fields of a request. Names are compared without regard to case, and `_` counts as `-`
/// ([`Injection::replaces`]); a field that is to be removed need not be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit<'a> {
    /// Every field of this name goes.
    Remove(&'static str),
    /// Every field whose name begins so goes.
    RemovePrefix(&'static str),
    /// This field stands alone under its name.
    Set(&'static str, &'a [u8]),
}

/// What nearly every request is sent with.
const W3C_ALONE: FormatSet = FormatSet::EMPTY.with(Format::W3c);

/// The changes to one request, kept for its tries. It owns its bytes and keeps its buffers, so that whoever keeps it
/// between requests allocates nothing for the next one.
#[derive(Clone, Debug, Default)]
pub struct Injection {
    replaced: HeaderSet,
    block: Block,
}

impl Injection {
    /// Works out the changes for one request; what was there before is forgotten. The span sent is `trace.span_id` until
    /// [`Injection::set_span`] names another.
    pub fn prepare(
        &mut self,
        fields: &TraceFields<'_>,
        extracted: &Extracted,
        trace: &Trace,
        settings: &InjectionSettings,
    ) {
        self.clear();
        let received = fields.formats();
        let mut sent = settings.formats;
        if settings.same_as_received {
            sent = extracted.source.map_or(sent, |source| sent.with(source));
        }
        if settings.foreign == Foreign::Rewrite {
            sent = sent.union(received);
        }
        let gone = if settings.foreign == Foreign::Keep { sent } else { sent.union(received) };
        for format in gone.iter() {
            self.replaced = self.replaced.union(format.headers());
        }
        for format in sent.iter() {
            self.write(format, fields, trace, settings);
        }
        self.baggage(fields, settings);
        // That of W3C stands there already.
        if sent != W3C_ALONE {
            self.set_span(trace.span_id);
        }
    }

    fn write(&mut self, format: Format, fields: &TraceFields<'_>, trace: &Trace, settings: &InjectionSettings) {
        let block = &mut self.block;
        match format {
            Format::W3c => {
                w3c::write(trace, block);
                tracestate(fields, trace, settings, block);
            }
            Format::B3 => b3::write_single(trace, block),
            Format::B3Multi => b3::write_multi(trace, block),
            Format::Jaeger => jaeger::write(trace, block),
            Format::OpenTracing => opentracing::write(trace, block),
            Format::Datadog => datadog::write(trace, fields, block),
            Format::XRay => xray::write(trace, fields, block),
            Format::Google => google::write(trace, block),
            Format::GrpcTraceBin => grpc_trace_bin::write(trace, block),
        }
    }

    fn baggage(&mut self, fields: &TraceFields<'_>, settings: &InjectionSettings) {
        if settings.strip_baggage {
            self.replaced = self.replaced.union(BAGGAGE);
        } else {
            self.shorten_baggage(fields.baggage(), &settings.limits);
        }
    }

    fn shorten_baggage(&mut self, values: &[&[u8]], limits: &Limits) {
        let (bytes, members) = (limits.baggage_bytes, limits.baggage_members);
        if baggage::fits(values, bytes, members) {
            return;
        }
        self.replaced.insert(Header::Baggage);
        self.block.begin(Header::Baggage);
        if baggage::write_shortened(values, bytes, members, &mut self.block.bytes) {
            self.block.end();
        }
    }

    /// Puts the span of the next try into every field: no other byte is written.
    pub fn set_span(&mut self, span: SpanId) {
        self.block.set_span(span);
    }

    /// Whether a field of the request stays behind because it is replaced or removed. So does its double with `_` for `-`,
    /// which many servers read as the same.
    pub fn replaces(&self, name: &[u8]) -> bool {
        if self.replaced.is_empty() {
            return false;
        }
        Header::of(name).or_else(|| Header::disguised(name)).is_some_and(|header| self.replaced.contains(header))
    }

    /// Names, in lower case, and values to add.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        self.block.fields.iter().map(|field| (field.header.as_str(), field.value(&self.block.bytes)))
    }

    /// The same as changes to a list of fields: first what goes, then what is set.
    pub fn edits(&self) -> impl Iterator<Item = Edit<'_>> {
        let is_set = |header| self.block.fields.iter().any(|field| field.header == header);
        let removals = self.replaced.iter().filter(move |header| !is_set(*header)).map(|header| match header {
            Header::UberctxAny | Header::OtBaggageAny => Edit::RemovePrefix(header.as_str()),
            _ => Edit::Remove(header.as_str()),
        });
        removals.chain(self.fields().map(|(name, value)| Edit::Set(name, value)))
    }

    /// Forgets the request; buffers are kept.
    pub fn clear(&mut self) {
        self.replaced = HeaderSet::default();
        self.block.clear();
    }

    /// Bytes on the heap, to decide whether it is worth keeping.
    pub fn capacity_bytes(&self) -> usize {
        self.block.bytes.capacity() + self.block.fields.capacity() * size_of::<Prepared>()
    }
}

const BAGGAGE: HeaderSet =
    HeaderSet::of(&[Header::Baggage, Header::JaegerBaggage, Header::UberctxAny, Header::OtBaggageAny]);

fn tracestate(fields: &TraceFields<'_>, trace: &Trace, settings: &InjectionSettings, block: &mut Block) {
    let own = settings.member.as_ref();
    match (fields.trace_state(trace.trace_id), own) {
        (Some(state), _) => {
            block.begin(Header::Tracestate);
            state.write(own, settings.limits.tracestate_bytes, &mut block.bytes);
            block.end();
        }
        (None, Some(own)) => block.field(Header::Tracestate, own.as_bytes()),
        (None, None) => {}
    }
}

/// The fields to add, one after the other in one buffer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Block {
    bytes: Vec<u8>,
    fields: Vec<Prepared>,
    /// The header, the start and the span's place of the field that is being written.
    open: Option<(Header, usize, Slot)>,
    /// The value of `grpc-trace-bin` before it becomes text.
    binary: [u8; grpc_trace_bin::LENGTH],
}

#[derive(Clone, Copy, Debug)]
struct Prepared {
    header: Header,
    start: usize,
    len: usize,
    slot: Slot,
}

/// Where and how the span id stands in a value. Places count from the beginning of the buffer.
#[derive(Clone, Copy, Debug)]
enum Slot {
    None,
    Hex(usize),
    /// Of varying length, so what follows it moves.
    Decimal(usize, &'static [u8]),
    /// In base64, with the bytes around it.
    Binary,
}

impl Prepared {
    fn value<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.start..self.start + self.len]
    }
}

impl Block {
    fn clear(&mut self) {
        self.bytes.clear();
        self.fields.clear();
        self.open = None;
    }

    /// Begins a field; one that was begun and not ended is forgotten.
    pub(crate) fn begin(&mut self, header: Header) {
        self.open = Some((header, self.bytes.len(), Slot::None));
    }

    pub(crate) fn push(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
    }

    pub(crate) fn push_decimal(&mut self, value: u64) {
        let mut digits = DecimalText::default();
        self.push(digits.write(value));
    }

    /// Text with the span id in 16 digits at a place.
    pub(crate) fn push_with_span(&mut self, text: &[u8], at: usize) {
        self.slot(Slot::Hex(self.bytes.len() + at));
        self.push(text);
    }

    /// The span id in 16 digits.
    pub(crate) fn push_span(&mut self) {
        self.slot(Slot::Hex(self.bytes.len()));
        self.push(&[b'0'; 16]);
    }

    /// The span id in decimal and, as the end of the value, `tail`.
    pub(crate) fn push_span_decimal(&mut self, tail: &'static [u8]) {
        self.slot(Slot::Decimal(self.bytes.len(), tail));
        self.push(&[b'0'; DecimalText::LONGEST]);
        self.push(tail);
    }

    fn slot(&mut self, slot: Slot) {
        if let Some((_, _, place)) = &mut self.open {
            *place = slot;
        }
    }

    pub(crate) fn end(&mut self) {
        if let Some((header, start, slot)) = self.open.take() {
            self.fields.push(Prepared { header, start, len: self.bytes.len() - start, slot });
        }
    }

    pub(crate) fn field(&mut self, header: Header, value: &[u8]) {
        self.begin(header);
        self.push(value);
        self.end();
    }

    /// A field whose value is `grpc-trace-bin`'s bytes in base64.
    pub(crate) fn binary(&mut self, header: Header, bytes: [u8; grpc_trace_bin::LENGTH]) {
        self.binary = bytes;
        self.begin(header);
        self.slot(Slot::Binary);
        self.push(&grpc_trace_bin::encode(&bytes));
        self.end();
    }

    fn set_span(&mut self, span: SpanId) {
        let id = span.get();
        let Self { bytes, fields, binary, .. } = self;
        for field in fields {
            match field.slot {
                Slot::None => {}
                Slot::Hex(at) => bytes[at..at + 16].copy_from_slice(&hex_of(id)),
                Slot::Decimal(at, tail) => {
                    let mut digits = DecimalText::default();
                    let digits = digits.write(id);
                    let end = at + digits.len();
                    bytes[at..end].copy_from_slice(digits);
                    bytes[end..end + tail.len()].copy_from_slice(tail);
                    field.len = end + tail.len() - field.start;
                }
                Slot::Binary => {
                    binary[grpc_trace_bin::SPAN_AT..][..8].copy_from_slice(&id.to_be_bytes());
                    bytes[field.start..][..field.len].copy_from_slice(&grpc_trace_bin::encode(binary));
                }
            }
        }
    }
}
