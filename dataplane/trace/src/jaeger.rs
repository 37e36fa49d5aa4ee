//! Jaeger's own format: `uber-trace-id: TRACE:SPAN:PARENT:FLAGS`. Its baggage (`uberctx-KEY`, `jaeger-baggage`) names no
//! spans and crosses untouched.

use crate::b3::push_trace_id;
use crate::context::{RemoteContext, Sampled, SpanId, TraceId};
use crate::decide::Trace;
use crate::extract::{Claim, Malformed};
use crate::fields::{Header, HeaderSet, TraceFields};
use crate::inject::Block;
use crate::text::{Case, hex};
use smallvec::SmallVec;

pub(crate) const HEADERS: HeaderSet = HeaderSet::of(&[Header::UberTraceId, Header::JaegerDebugId]);

const SAMPLED: u128 = 1;
const DEBUG: u128 = 2;

/// 32, 16, 16 and 2 digits and three separators that are escaped.
const LONGEST: usize = 32 + 16 + 16 + 2 + 3 * 3;

pub(crate) fn read(fields: &TraceFields<'_>) -> Result<Claim, Malformed> {
    if !fields.has(HEADERS) {
        return Ok(Claim::Nothing);
    }
    if fields.repeats(HEADERS) {
        return Err(Malformed::Repeated);
    }
    match fields.value(Header::UberTraceId) {
        Some(value) => uber_trace_id(value),
        // Sent by hand to have one request traced: a new trace, recorded for sure.
        None => Ok(Claim::Decision(Sampled::Debug)),
    }
}

fn uber_trace_id(value: &[u8]) -> Result<Claim, Malformed> {
    if value.len() > LONGEST {
        return Err(Malformed::Syntax);
    }
    let plain = without_escapes(value);
    let mut parts = plain.split(|byte| *byte == b':');
    let mut next = |longest: usize| {
        let text = parts.next().ok_or(Malformed::Incomplete)?;
        let number = if text.len() <= longest { hex(text, Case::Any) } else { None };
        Ok((number.ok_or(Malformed::Syntax)?, text.len()))
    };
    let (trace_id, digits) = next(32)?;
    let (span_id, _) = next(16)?;
    // Deprecated; clients write 0.
    next(16)?;
    let (flags, _) = next(2)?;
    if parts.next().is_some() {
        return Err(Malformed::Syntax);
    }
    let sampled = if flags & DEBUG != 0 { Sampled::Debug } else { Sampled::of(flags & SAMPLED != 0) };
    Ok(Claim::Context(RemoteContext {
        trace_id: TraceId::new(trace_id).ok_or(Malformed::ZeroId)?,
        span_id: Some(SpanId::new(span_id as u64).ok_or(Malformed::ZeroId)?),
        sampled,
        random: false,
        short_id: digits <= 16,
    }))
}

/// Some clients encode the value as part of a URL, where `:` is `%3A`.
fn without_escapes(value: &[u8]) -> SmallVec<[u8; 96]> {
    let mut plain = SmallVec::new();
    let mut rest = value;
    while let Some((first, tail)) = rest.split_first() {
        if let [b'%', b'3', b'A' | b'a', behind @ ..] = rest {
            plain.push(b':');
            rest = behind;
        } else {
            plain.push(*first);
            rest = tail;
        }
    }
    plain
}

pub(crate) fn write(trace: &Trace, block: &mut Block) {
    block.begin(Header::UberTraceId);
    push_trace_id(trace, block);
    block.push(b":");
    block.push_span();
    block.push(match (trace.sampled, trace.debug) {
        (true, true) => b":0:3",
        (true, false) => b":0:1",
        (false, _) => b":0:0",
    });
    block.end();
}
