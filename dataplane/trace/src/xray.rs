//! AWS X-Ray: `x-amzn-trace-id: Root=1-8hex-24hex;Parent=16hex;Sampled=1`, with fields of balancers (`Self`, `Lineage`) beside.

use crate::context::{RemoteContext, Sampled, SpanId, TraceId};
use crate::decide::Trace;
use crate::extract::{Claim, Malformed};
use crate::fields::{Header, HeaderSet, TraceFields};
use crate::inject::Block;
use crate::text::{Case, hex, hex_of, hex64, is_printable, split_once, trim_ows};

pub(crate) const HEADERS: HeaderSet = HeaderSet::of(&[Header::AmznTraceId]);

/// Longest value of which fields of others are kept.
const LONGEST: usize = 512;

pub(crate) fn read(fields: &TraceFields<'_>) -> Result<Claim, Malformed> {
    let Some(value) = fields.value(Header::AmznTraceId) else {
        return Ok(Claim::Nothing);
    };
    if fields.repeats(HEADERS) {
        return Err(Malformed::Repeated);
    }
    let (mut root, mut parent, mut sampled) = (None, None, None);
    for part in parts(value) {
        let (key, text) = split_once(part, b'=').ok_or(Malformed::Syntax)?;
        let place = match Part::of(key) {
            Part::Root => &mut root,
            Part::Parent => &mut parent,
            Part::Sampled => &mut sampled,
            Part::Other => continue,
        };
        if place.replace(text).is_some() {
            return Err(Malformed::Repeated);
        }
    }
    let span_id = match parent {
        None => None,
        Some(text) => {
            let id = hex64(text, Case::Any).ok_or(Malformed::Syntax)?;
            Some(SpanId::new(id).ok_or(Malformed::ZeroId)?)
        }
    };
    let sampled = match sampled {
        None | Some(b"?") => Sampled::Undecided,
        Some(b"1") => Sampled::Yes,
        Some(b"0") => Sampled::No,
        Some(_) => return Err(Malformed::Syntax),
    };
    let trace_id = trace_id(root.ok_or(Malformed::Incomplete)?).ok_or(Malformed::Syntax)?;
    Ok(Claim::Context(RemoteContext {
        trace_id: TraceId::new(trace_id).ok_or(Malformed::ZeroId)?,
        span_id,
        sampled,
        random: false,
        short_id: false,
    }))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Root,
    Parent,
    Sampled,
    Other,
}

impl Part {
    fn of(key: &[u8]) -> Self {
        match key {
            _ if key.eq_ignore_ascii_case(b"root") => Self::Root,
            _ if key.eq_ignore_ascii_case(b"parent") => Self::Parent,
            _ if key.eq_ignore_ascii_case(b"sampled") => Self::Sampled,
            _ => Self::Other,
        }
    }
}

fn parts(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b';').map(trim_ows).filter(|part| !part.is_empty())
}

/// `1-`, 8 digits of seconds since 1970, `-`, 24 digits.
fn trace_id(root: &[u8]) -> Option<u128> {
    let (epoch, rest) = split_once(root.strip_prefix(b"1-")?, b'-')?;
    if epoch.len() != 8 || rest.len() != 24 {
        return None;
    }
    Some(hex(epoch, Case::Any)? << 96 | hex(rest, Case::Any)?)
}

/// What balancers added is kept where the header spoke of this trace.
pub(crate) fn write(trace: &Trace, fields: &TraceFields<'_>, block: &mut Block) {
    let (high, low) = (hex_of(trace.trace_id.high()), hex_of(trace.trace_id.low()));
    block.begin(Header::AmznTraceId);
    block.push(b"Root=1-");
    block.push(&high[..8]);
    block.push(b"-");
    block.push(&high[8..]);
    block.push(&low);
    block.push(b";Parent=");
    block.push_span();
    block.push(if trace.sampled { b";Sampled=1" } else { b";Sampled=0" });
    let same_trace = matches!(read(fields), Ok(Claim::Context(theirs)) if theirs.trace_id == trace.trace_id);
    let value = fields.value(Header::AmznTraceId).unwrap_or_default();
    if same_trace && value.len() <= LONGEST && is_printable(value) {
        let is_other = |part: &&[u8]| split_once(part, b'=').is_some_and(|(key, _)| Part::of(key) == Part::Other);
        for part in parts(value).filter(is_other) {
            block.push(b";");
            block.push(part);
        }
    }
    block.end();
}
