//! `tracestate` of W3C Trace Context level 2: what vendors say of a trace, passed on by everybody.

use crate::context::TraceId;
use crate::extract::Claim;
use crate::fields::TraceFields;
use crate::format::Format;
use crate::text::{Case, hex, split_once, trim_ows};
use smallvec::SmallVec;

/// Members of a list.
const MOST_MEMBERS: usize = 32;

/// Bytes that everybody has to pass on.
pub(crate) const SHORTEST_LIMIT: usize = 512;

/// Members beyond this many bytes go first where a list is shortened.
const LONG_MEMBER: usize = 128;

/// A list that follows the grammar and has a member.
#[derive(Clone, Copy, Debug)]
pub struct TraceState<'f> {
    values: &'f [&'f [u8]],
}

impl TraceFields<'_> {
    /// The `tracestate` of the request, where it is valid and its `traceparent` names this trace: of another trace it says
    /// nothing.
    pub fn trace_state(&self, trace_id: TraceId) -> Option<TraceState<'_>> {
        if self.tracestate().is_empty() {
            return None;
        }
        match Format::W3c.read(self) {
            Ok(Claim::Context(context)) if context.trace_id == trace_id => TraceState::parse(self.tracestate()),
            _ => None,
        }
    }
}

impl<'f> TraceState<'f> {
    /// Reads the values of all `tracestate` fields as one list. `None` for a list that is empty, or invalid in any part:
    /// then nothing of it is passed on.
    pub fn parse(values: &'f [&'f [u8]]) -> Option<Self> {
        let state = Self { values };
        let mut count = 0;
        for text in state.texts() {
            count += 1;
            let (key, value) = split_once(text, b'=')?;
            if count > MOST_MEMBERS || !is_key(key) || !is_value(value) {
                return None;
            }
        }
        (count > 0).then_some(state)
    }

    /// Key and value of each member, left (the latest) to right.
    pub fn members(self) -> impl Iterator<Item = (&'f [u8], &'f [u8])> {
        self.texts().filter_map(|text| split_once(text, b'='))
    }

    /// The value of a key; the left-most where it is repeated.
    pub fn get(self, key: &[u8]) -> Option<&'f [u8]> {
        self.members().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// The explicit randomness of OpenTelemetry's samplers (`ot=rv:` and 14 digits), which stands in for that of the trace id.
    pub(crate) fn randomness(self) -> Option<u64> {
        let mut entries = self.get(b"ot")?.split(|byte| *byte == b';');
        let digits = entries.find_map(|entry| entry.strip_prefix(b"rv:"))?;
        if digits.len() == 14 { hex(digits, Case::Lower).map(|value| value as u64) } else { None }
    }

    /// Appends the list as one value: `own` on the left and without others of its key, at most 32 members, and at most
    /// `limit` bytes (512 at least). Whole members are left out: first, from the right, those beyond 128 bytes, then from
    /// the right whatever they are. `own` stays.
    pub fn write(self, own: Option<&Member>, limit: usize, out: &mut Vec<u8>) {
        if let ([value], None) = (self.values, own)
            && value.len() <= limit
            && value.len() == joined(self.texts())
        {
            return out.extend_from_slice(value);
        }
        let is_ours =
            |text: &&[u8]| own.is_some_and(|own| split_once(text, b'=').is_some_and(|(key, _)| key == own.key()));
        let mut kept: SmallVec<[&[u8]; 36]> = own.iter().map(|own| own.text.as_bytes()).collect();
        let first = kept.len();
        kept.extend(self.texts().filter(|text| !is_ours(text)));
        kept.truncate(MOST_MEMBERS);
        let limit = limit.max(SHORTEST_LIMIT);
        while joined(kept.iter().copied()) > limit && kept.len() > first {
            let long = kept.iter().skip(first).rposition(|text| text.len() > LONG_MEMBER);
            kept.remove(long.map_or(kept.len() - 1, |at| at + first));
        }
        for (at, text) in kept.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.extend_from_slice(text);
        }
    }

    fn texts(self) -> impl Iterator<Item = &'f [u8]> {
        list_members(self.values)
    }
}

/// The members of a list that stands in several fields; empty ones are legal and mean nothing.
pub(crate) fn list_members<'f>(values: &'f [&'f [u8]]) -> impl Iterator<Item = &'f [u8]> {
    values.iter().flat_map(|value| value.split(|byte| *byte == b',')).map(trim_ows).filter(|member| !member.is_empty())
}

/// The length of members with commas between.
pub(crate) fn joined<'f>(members: impl Iterator<Item = &'f [u8]>) -> usize {
    members.map(|member| member.len() + 1).sum::<usize>().saturating_sub(1)
}

/// Level 2: a lower-case letter or digit, then up to 255 of those and `_-*/@`.
fn is_key(key: &[u8]) -> bool {
    let is_begin = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_rest = |byte: &u8| is_begin(*byte) || matches!(byte, b'_' | b'-' | b'*' | b'/' | b'@');
    key.len() <= 256 && key.split_first().is_some_and(|(first, rest)| is_begin(*first) && rest.iter().all(is_rest))
}

/// 1 to 256 printable characters without comma and equals sign, the last of them no blank.
fn is_value(value: &[u8]) -> bool {
    let is_allowed = |byte: &u8| matches!(byte, 0x20..=0x7e) && !matches!(byte, b',' | b'=');
    (1..=256).contains(&value.len()) && value.iter().all(is_allowed) && value.last() != Some(&b' ')
}

/// A member of our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    text: Box<str>,
    key: usize,
}

/// Why a member cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// The key breaks the grammar.
    #[error("tracestate key `{0}`: use 1 to 256 characters of a-z 0-9 _ - * / @, the first a letter or a digit")]
    Key(String),
    /// The value breaks the grammar.
    #[error("tracestate value `{0}`: use 1 to 256 printable ASCII characters without , and =, and no blank at the end")]
    Value(String),
}

impl Member {
    /// Checks the two parts.
    pub fn new(key: &str, value: &str) -> Result<Self, MemberError> {
        if !is_key(key.as_bytes()) {
            return Err(MemberError::Key(key.to_owned()));
        }
        if !is_value(value.as_bytes()) {
            return Err(MemberError::Value(value.to_owned()));
        }
        Ok(Self { text: format!("{key}={value}").into(), key: key.len() })
    }

    fn key(&self) -> &[u8] {
        &self.text.as_bytes()[..self.key]
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}
