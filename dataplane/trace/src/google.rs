//! Google Cloud's balancers: `x-cloud-trace-context: TRACE/SPAN;o=1`, the trace in 32 hexadecimal digits, the span in decimal.

use crate::context::{RemoteContext, Sampled, SpanId, TraceId};
use crate::decide::Trace;
use crate::extract::{Claim, Malformed};
use crate::fields::{Header, HeaderSet, TraceFields};
use crate::inject::Block;
use crate::text::{Case, decimal, hex, hex_of, split_once};

pub(crate) const HEADERS: HeaderSet = HeaderSet::of(&[Header::CloudTraceContext]);

pub(crate) fn read(fields: &TraceFields<'_>) -> Result<Claim, Malformed> {
    let Some(value) = fields.value(Header::CloudTraceContext) else {
        return Ok(Claim::Nothing);
    };
    if fields.repeats(HEADERS) {
        return Err(Malformed::Repeated);
    }
    let (ids, options) = match split_once(value, b';') {
        Some((ids, options)) => (ids, Some(options)),
        None => (value, None),
    };
    let (trace, span) = split_once(ids, b'/').unwrap_or((ids, b"0"));
    if trace.len() != 32 {
        return Err(Malformed::Syntax);
    }
    let trace_id = hex(trace, Case::Any).ok_or(Malformed::Syntax)?;
    let span_id = decimal(span).ok_or(Malformed::Syntax)?;
    let sampled = match options {
        None => Sampled::Undecided,
        Some(options) => {
            let bits = options.strip_prefix(b"o=").and_then(decimal).ok_or(Malformed::Syntax)?;
            Sampled::of(bits & 1 != 0)
        }
    };
    Ok(Claim::Context(RemoteContext {
        trace_id: TraceId::new(trace_id).ok_or(Malformed::ZeroId)?,
        span_id: SpanId::new(span_id),
        sampled,
        random: false,
        short_id: false,
    }))
}

pub(crate) fn write(trace: &Trace, block: &mut Block) {
    block.begin(Header::CloudTraceContext);
    block.push(&hex_of(trace.trace_id.high()));
    block.push(&hex_of(trace.trace_id.low()));
    block.push(b"/");
    block.push_span_decimal(if trace.sampled { b";o=1" } else { b";o=0" });
    block.end();
}
