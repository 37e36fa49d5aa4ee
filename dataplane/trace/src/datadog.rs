//! Datadog's headers: ids in decimal, 64 bits each. The upper half of a trace id travels as `_dd.p.tid` in `x-datadog-tags`.

use crate::context::{RemoteContext, Sampled, SpanId, TraceId};
use crate::decide::Trace;
use crate::extract::{Claim, Malformed};
use crate::fields::{Header, HeaderSet, TraceFields};
use crate::inject::Block;
use crate::text::{Case, decimal, hex_of, hex64, is_printable, split_once, trim_ows};

pub(crate) const HEADERS: HeaderSet = HeaderSet::of(&[
    Header::DatadogTraceId,
    Header::DatadogParentId,
    Header::DatadogPriority,
    Header::DatadogOrigin,
    Header::DatadogTags,
]);

const UPPER_HALF: &[u8] = b"_dd.p.tid";

/// Longest `x-datadog-tags` that Datadog's tracers take.
const LONGEST_TAGS: usize = 512;

pub(crate) fn read(fields: &TraceFields<'_>) -> Result<Claim, Malformed> {
    if !fields.has(HEADERS) {
        return Ok(Claim::Nothing);
    }
    if fields.repeats(HEADERS) {
        return Err(Malformed::Repeated);
    }
    let trace = fields.value(Header::DatadogTraceId).ok_or(Malformed::Incomplete)?;
    let low = decimal(trace).ok_or(Malformed::Syntax)?;
    if low == 0 {
        return Err(Malformed::ZeroId);
    }
    // Browsers and synthetic tests name a trace without a span.
    let span = fields.value(Header::DatadogParentId).map_or(Some(0), decimal).ok_or(Malformed::Syntax)?;
    let high = upper_half(fields.value(Header::DatadogTags).unwrap_or_default());
    Ok(Claim::Context(RemoteContext {
        trace_id: TraceId::new(u128::from(high.unwrap_or(0)) << 64 | u128::from(low)).ok_or(Malformed::ZeroId)?,
        span_id: SpanId::new(span),
        sampled: fields.value(Header::DatadogPriority).map_or(Ok(Sampled::Undecided), priority)?,
        random: false,
        short_id: high.is_none(),
    }))
}

/// -1 (a user's refusal), 0, 1, 2 (a user's wish).
fn priority(text: &[u8]) -> Result<Sampled, Malformed> {
    match text {
        b"1" | b"2" => Ok(Sampled::Yes),
        b"0" | b"-1" => Ok(Sampled::No),
        _ => Err(Malformed::Syntax),
    }
}

fn tags(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b',').map(trim_ows).filter(|tag| !tag.is_empty())
}

fn is_upper_half(tag: &[u8]) -> bool {
    split_once(tag, b'=').is_some_and(|(key, _)| key == UPPER_HALF)
}

/// Nothing where the tag is not there or wrong, as Datadog's tracers have it.
fn upper_half(text: &[u8]) -> Option<u64> {
    let tag = tags(text).find(|tag| is_upper_half(tag))?;
    hex64(split_once(tag, b'=')?.1, Case::Lower)
}

/// Origin, tags and the finer priority are kept where the headers spoke of this trace. Writes nothing where the lower half
/// of the trace id is zero: the format cannot name such a trace.
pub(crate) fn write(trace: &Trace, fields: &TraceFields<'_>, block: &mut Block) {
    if trace.trace_id.low() == 0 {
        return;
    }
    let same_trace = match read(fields) {
        Ok(Claim::Context(theirs)) if is_same(&theirs, trace) => Some(theirs),
        _ => None,
    };
    block.begin(Header::DatadogTraceId);
    block.push_decimal(trace.trace_id.low());
    block.end();
    block.begin(Header::DatadogParentId);
    block.push_span_decimal(b"");
    block.end();
    let agreed = same_trace.is_some_and(|theirs| theirs.sampled.decided() == Some(trace.sampled));
    let priority = fields.value(Header::DatadogPriority).filter(|_| agreed);
    let ours: &[u8] = match (trace.sampled, trace.debug) {
        (true, true) => b"2",
        (true, false) => b"1",
        (false, _) => b"0",
    };
    block.field(Header::DatadogPriority, priority.unwrap_or(ours));
    let kept = |header| fields.value(header).filter(|value| same_trace.is_some() && is_printable(value));
    if let Some(origin) = kept(Header::DatadogOrigin) {
        block.field(Header::DatadogOrigin, origin);
    }
    write_tags(trace, kept(Header::DatadogTags).unwrap_or_default(), block);
}

/// Headers without the upper half may still speak of the trace.
fn is_same(theirs: &RemoteContext, trace: &Trace) -> bool {
    theirs.trace_id == trace.trace_id || (theirs.short_id && theirs.trace_id.low() == trace.trace_id.low())
}

fn write_tags(trace: &Trace, kept: &[u8], block: &mut Block) {
    let high = trace.trace_id.high();
    let kept = if kept.len() + ",_dd.p.tid=".len() + 16 <= LONGEST_TAGS { kept } else { &[] };
    let mut others = tags(kept).filter(|tag| !is_upper_half(tag)).peekable();
    if high == 0 && others.peek().is_none() {
        return;
    }
    block.begin(Header::DatadogTags);
    let mut separator: &[u8] = b"";
    for tag in others {
        block.push(separator);
        block.push(tag);
        separator = b",";
    }
    if high != 0 {
        block.push(separator);
        block.push(UPPER_HALF);
        block.push(b"=");
        block.push(&hex_of(high));
    }
    block.end();
}
