//! The headers of the OpenTracing basic tracers: `ot-tracer-traceid`, `ot-tracer-spanid`, `ot-tracer-sampled`. Trace ids have
//! 64 bits; of a longer one the lower half is sent, as OpenTelemetry does. Baggage (`ot-baggage-KEY`) crosses untouched.

use crate::context::{RemoteContext, Sampled, SpanId, TraceId};
use crate::decide::Trace;
use crate::extract::{Claim, Malformed};
use crate::fields::{Header, HeaderSet, TraceFields};
use crate::inject::Block;
use crate::text::{Case, hex, hex_id, hex_of};

pub(crate) const HEADERS: HeaderSet = HeaderSet::of(&[Header::OtTraceId, Header::OtSpanId, Header::OtSampled]);

pub(crate) fn read(fields: &TraceFields<'_>) -> Result<Claim, Malformed> {
    if !fields.has(HEADERS) {
        return Ok(Claim::Nothing);
    }
    if fields.repeats(HEADERS) {
        return Err(Malformed::Repeated);
    }
    let (Some(trace), Some(span)) = (fields.value(Header::OtTraceId), fields.value(Header::OtSpanId)) else {
        return Err(Malformed::Incomplete);
    };
    let (trace_id, short_id) = hex_id(trace).ok_or(Malformed::Syntax)?;
    let span_id = if span.len() <= 16 { hex(span, Case::Any) } else { None };
    let span_id = span_id.ok_or(Malformed::Syntax)? as u64;
    let sampled = match fields.value(Header::OtSampled) {
        None => Sampled::Undecided,
        Some(b"1") => Sampled::Yes,
        Some(b"0") => Sampled::No,
        Some(text) if text.eq_ignore_ascii_case(b"true") => Sampled::Yes,
        Some(text) if text.eq_ignore_ascii_case(b"false") => Sampled::No,
        Some(_) => return Err(Malformed::Syntax),
    };
    Ok(Claim::Context(RemoteContext {
        trace_id: TraceId::new(trace_id).ok_or(Malformed::ZeroId)?,
        span_id: Some(SpanId::new(span_id).ok_or(Malformed::ZeroId)?),
        sampled,
        random: false,
        short_id,
    }))
}

/// Writes nothing where the lower half of the trace id is zero: the format cannot name such a trace.
pub(crate) fn write(trace: &Trace, block: &mut Block) {
    if trace.trace_id.low() == 0 {
        return;
    }
    block.field(Header::OtTraceId, &hex_of(trace.trace_id.low()));
    block.begin(Header::OtSpanId);
    block.push_span();
    block.end();
    block.field(Header::OtSampled, if trace.sampled { b"true" } else { b"false" });
}
