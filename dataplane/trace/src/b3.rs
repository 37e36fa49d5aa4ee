//! Zipkin's B3, in one header and in several (openzipkin/b3-propagation).

use crate::context::{RemoteContext, Sampled, SpanId, TraceId};
use crate::decide::Trace;
use crate::extract::{Claim, Malformed};
use crate::fields::{Header, HeaderSet, TraceFields};
use crate::inject::Block;
use crate::text::{Case, hex_id, hex_of, hex64};

pub(crate) const HEADERS_SINGLE: HeaderSet = HeaderSet::of(&[Header::B3]);

pub(crate) const HEADERS_MULTI: HeaderSet =
    HeaderSet::of(&[Header::B3TraceId, Header::B3SpanId, Header::B3ParentSpanId, Header::B3Sampled, Header::B3Flags]);

/// `b3: TRACE-SPAN[-SAMPLED[-PARENT]]`, or the decision alone.
pub(crate) fn read_single(fields: &TraceFields<'_>) -> Result<Claim, Malformed> {
    let Some(value) = fields.value(Header::B3) else {
        return Ok(Claim::Nothing);
    };
    if fields.repeats(HEADERS_SINGLE) {
        return Err(Malformed::Repeated);
    }
    if let Some(sampled) = decision(value) {
        return Ok(Claim::Decision(sampled));
    }
    let mut parts = value.split(|byte| *byte == b'-');
    let trace = parts.next().unwrap_or_default();
    let span = parts.next().ok_or(Malformed::Incomplete)?;
    let sampled = match parts.next() {
        None => Sampled::Undecided,
        Some(text) => decision(text).ok_or(Malformed::Syntax)?,
    };
    // The parent of the caller's span is of no use to us, but it tells a B3 header from anything else.
    if let Some(parent) = parts.next() {
        hex64(parent, Case::Any).ok_or(Malformed::Syntax)?;
    }
    if parts.next().is_some() {
        return Err(Malformed::Syntax);
    }
    context(trace, span, sampled)
}

fn decision(text: &[u8]) -> Option<Sampled> {
    match text {
        b"0" => Some(Sampled::No),
        b"1" => Some(Sampled::Yes),
        b"d" => Some(Sampled::Debug),
        _ => None,
    }
}

pub(crate) fn read_multi(fields: &TraceFields<'_>) -> Result<Claim, Malformed> {
    if !fields.has(HEADERS_MULTI) {
        return Ok(Claim::Nothing);
    }
    if fields.repeats(HEADERS_MULTI) {
        return Err(Malformed::Repeated);
    }
    // Debug implies sampled, whatever the other header says. Old tracers write true and false.
    let sampled = match (fields.value(Header::B3Flags), fields.value(Header::B3Sampled)) {
        (Some(b"1"), _) => Sampled::Debug,
        (_, None) => Sampled::Undecided,
        (_, Some(b"1")) => Sampled::Yes,
        (_, Some(b"0")) => Sampled::No,
        (_, Some(text)) if text.eq_ignore_ascii_case(b"true") => Sampled::Yes,
        (_, Some(text)) if text.eq_ignore_ascii_case(b"false") => Sampled::No,
        _ => return Err(Malformed::Syntax),
    };
    match (fields.value(Header::B3TraceId), fields.value(Header::B3SpanId)) {
        (Some(trace), Some(span)) => context(trace, span, sampled),
        (None, None) if sampled == Sampled::Undecided => Ok(Claim::Nothing),
        (None, None) => Ok(Claim::Decision(sampled)),
        _ => Err(Malformed::Incomplete),
    }
}

fn context(trace: &[u8], span: &[u8], sampled: Sampled) -> Result<Claim, Malformed> {
    let (trace_id, short_id) = hex_id(trace).ok_or(Malformed::Syntax)?;
    let span_id = hex64(span, Case::Any).ok_or(Malformed::Syntax)?;
    Ok(Claim::Context(RemoteContext {
        trace_id: TraceId::new(trace_id).ok_or(Malformed::ZeroId)?,
        span_id: Some(SpanId::new(span_id).ok_or(Malformed::ZeroId)?),
        sampled,
        random: false,
        short_id,
    }))
}

pub(crate) fn write_single(trace: &Trace, block: &mut Block) {
    block.begin(Header::B3);
    push_trace_id(trace, block);
    block.push(b"-");
    block.push_span();
    block.push(match (trace.sampled, trace.debug) {
        (true, true) => b"-d",
        (true, false) => b"-1",
        (false, _) => b"-0",
    });
    block.end();
}

/// The parent's span id is left out: it is optional, and of use only to tracers that share spans between client and server.
pub(crate) fn write_multi(trace: &Trace, block: &mut Block) {
    block.begin(Header::B3TraceId);
    push_trace_id(trace, block);
    block.end();
    block.begin(Header::B3SpanId);
    block.push_span();
    block.end();
    if trace.sampled && trace.debug {
        // Debug stands instead of sampled, not beside it.
        block.field(Header::B3Flags, b"1");
    } else {
        block.field(Header::B3Sampled, if trace.sampled { b"1" } else { b"0" });
    }
}

/// With 16 digits where the trace came so, else with 32.
pub(crate) fn push_trace_id(trace: &Trace, block: &mut Block) {
    if !(trace.short_id && trace.trace_id.high() == 0) {
        block.push(&hex_of(trace.trace_id.high()));
    }
    block.push(&hex_of(trace.trace_id.low()));
}
