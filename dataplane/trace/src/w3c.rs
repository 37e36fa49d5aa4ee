//! W3C Trace Context level 2: `traceparent`. What becomes of `tracestate` is in `tracestate.rs`.

use crate::context::{RemoteContext, Sampled, SpanId, TraceId};
use crate::decide::Trace;
use crate::extract::{Claim, Malformed};
use crate::fields::{Header, HeaderSet, TraceFields};
use crate::inject::Block;
use crate::text::{Case, hex, hex_of, hex64};

pub(crate) const HEADERS: HeaderSet = HeaderSet::of(&[Header::Traceparent, Header::Tracestate]);

/// `00-` 32 digits `-` 16 digits `-` 2 digits.
const LENGTH: usize = 55;

const SAMPLED: u8 = 0x01;
const RANDOM: u8 = 0x02;

pub(crate) fn read(fields: &TraceFields<'_>) -> Result<Claim, Malformed> {
    let Some(value) = fields.value(Header::Traceparent) else {
        return Ok(Claim::Nothing);
    };
    if fields.repeats(HeaderSet::of(&[Header::Traceparent])) {
        return Err(Malformed::Repeated);
    }
    traceparent(value).map(Claim::Context)
}

fn traceparent(value: &[u8]) -> Result<RemoteContext, Malformed> {
    let fixed: &[u8; LENGTH] = value.first_chunk().ok_or(Malformed::Syntax)?;
    if [fixed[2], fixed[35], fixed[52]] != [b'-'; 3] {
        return Err(Malformed::Syntax);
    }
    let version = hex(&fixed[..2], Case::Lower).ok_or(Malformed::Syntax)?;
    let trace_id = hex(&fixed[3..35], Case::Lower).ok_or(Malformed::Syntax)?;
    let span_id = hex64(&fixed[36..52], Case::Lower).ok_or(Malformed::Syntax)?;
    let flags = hex(&fixed[53..], Case::Lower).ok_or(Malformed::Syntax)? as u8;
    match (version, value.get(LENGTH)) {
        (0xff, _) => return Err(Malformed::Version),
        (_, None) => {}
        // Later versions may say more behind a dash; version 00 says no more.
        (1.., Some(b'-')) => {}
        _ => return Err(Malformed::Syntax),
    }
    Ok(RemoteContext {
        trace_id: TraceId::new(trace_id).ok_or(Malformed::ZeroId)?,
        span_id: Some(SpanId::new(span_id).ok_or(Malformed::ZeroId)?),
        sampled: Sampled::of(flags & SAMPLED != 0),
        // Of a later version only the sampled bit is known to mean the same.
        random: version == 0 && flags & RANDOM != 0,
        short_id: false,
    })
}

pub(crate) fn write(trace: &Trace, block: &mut Block) {
    let mut flags = 0;
    if trace.sampled {
        flags |= SAMPLED;
    }
    if trace.random {
        flags |= RANDOM;
    }
    // In one piece: of all that is written this is what nearly every request is sent with.
    let mut text = *b"00-................................-................-00";
    text[3..19].copy_from_slice(&hex_of(trace.trace_id.high()));
    text[19..35].copy_from_slice(&hex_of(trace.trace_id.low()));
    text[36..52].copy_from_slice(&hex_of(trace.span_id.get()));
    text[54] = b'0' + flags;
    block.begin(Header::Traceparent);
    block.push_with_span(&text, 36);
    block.end();
}
