//! OpenCensus over gRPC: `grpc-trace-bin`, 29 bytes in base64: version 0, then fields that are each a number and a value of
//! fixed size (0: trace id, 1: span id, 2: options).

use crate::context::{RemoteContext, Sampled, SpanId, TraceId};
use crate::decide::Trace;
use crate::extract::{Claim, Malformed};
use crate::fields::{Header, HeaderSet, TraceFields};
use crate::inject::Block;
use smallvec::SmallVec;

pub(crate) const HEADERS: HeaderSet = HeaderSet::of(&[Header::GrpcTraceBin]);

/// Bytes of the value.
pub(crate) const LENGTH: usize = 29;
/// Where the span id lies in it.
pub(crate) const SPAN_AT: usize = 19;

/// The value as text: four characters for three bytes, three for the last two.
const TEXT_LENGTH: usize = LENGTH / 3 * 4 + 3;

/// Longest text that is decoded; fields of later versions fit.
const LONGEST: usize = 128;

pub(crate) fn read(fields: &TraceFields<'_>) -> Result<Claim, Malformed> {
    let Some(value) = fields.value(Header::GrpcTraceBin) else {
        return Ok(Claim::Nothing);
    };
    if fields.repeats(HEADERS) {
        return Err(Malformed::Repeated);
    }
    let bytes = decode(value).ok_or(Malformed::Syntax)?;
    let (version, rest) = bytes.split_first().ok_or(Malformed::Incomplete)?;
    if *version != 0 {
        return Err(Malformed::Version);
    }
    let (trace_id, rest) = field::<16>(rest, 0).ok_or(Malformed::Incomplete)?;
    let (span_id, rest) = field::<8>(rest, 1).ok_or(Malformed::Incomplete)?;
    let options = field::<1>(rest, 2).map(|([options], _)| options);
    Ok(Claim::Context(RemoteContext {
        trace_id: TraceId::new(u128::from_be_bytes(trace_id)).ok_or(Malformed::ZeroId)?,
        span_id: Some(SpanId::new(u64::from_be_bytes(span_id)).ok_or(Malformed::ZeroId)?),
        sampled: options.map_or(Sampled::Undecided, |options| Sampled::of(options & 1 != 0)),
        random: false,
        short_id: false,
    }))
}

fn field<const N: usize>(bytes: &[u8], number: u8) -> Option<([u8; N], &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let (value, rest) = rest.split_first_chunk()?;
    (*first == number).then_some((*value, rest))
}

pub(crate) fn write(trace: &Trace, block: &mut Block) {
    let mut bytes = [0; LENGTH];
    bytes[2..18].copy_from_slice(&trace.trace_id.get().to_be_bytes());
    bytes[18] = 1;
    bytes[27] = 2;
    bytes[28] = u8::from(trace.sampled);
    block.binary(Header::GrpcTraceBin, bytes);
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 without padding, as gRPC wants it sent.
pub(crate) fn encode(bytes: &[u8; LENGTH]) -> [u8; TEXT_LENGTH] {
    let mut text = [0; TEXT_LENGTH];
    for (group, digits) in bytes.chunks(3).zip(text.chunks_mut(4)) {
        let byte = |at: usize| group.get(at).copied().map_or(0, u32::from);
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for (at, digit) in digits.iter_mut().enumerate() {
            *digit = ALPHABET[(bits >> (18 - 6 * at) & 63) as usize];
        }
    }
    text
}

/// Reads base64 with or without padding, as gRPC wants it received.
fn decode(text: &[u8]) -> Option<SmallVec<[u8; 96]>> {
    let text = match text {
        [rest @ .., b'=', b'='] | [rest @ .., b'='] if text.len().is_multiple_of(4) => rest,
        _ => text,
    };
    if text.len() > LONGEST || text.len() % 4 == 1 {
        return None;
    }
    let mut bytes = SmallVec::new();
    let (mut bits, mut count) = (0u32, 0);
    for byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}
