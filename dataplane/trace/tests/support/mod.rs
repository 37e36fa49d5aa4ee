//! A gateway of one function: fields in, fields out.
#![allow(dead_code, reason = "each test binary uses a part")]

use sluicegate_trace::{
    Edit, Format, FreshIds, Injection, InjectionSettings, Policy, SpanId, Trace, TraceFields, TraceId, decide,
};

pub type Pairs = Vec<(String, String)>;

/// Random bits of the ids that a gateway makes here.
pub const NEW_TRACE: u128 = 0x6666_5555_4444_3333_2222_1111_0000_ffff;
pub const NEW_SPAN: u64 = 0xaaaa_bbbb_cccc_dddd;

pub fn fresh() -> FreshIds {
    FreshIds { trace_id: TraceId::from_random(NEW_TRACE), span_id: SpanId::from_random(NEW_SPAN) }
}

/// How requests are treated.
#[derive(Clone, Debug)]
pub struct Gateway {
    pub order: Vec<Format>,
    pub policy: Policy,
    pub settings: InjectionSettings,
    pub honours: bool,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            order: Format::ALL.to_vec(),
            policy: Policy::default(),
            settings: InjectionSettings::default(),
            honours: true,
        }
    }
}

impl Gateway {
    pub fn decide(&self, request: &[(&str, &str)]) -> Trace {
        let fields = collect(request);
        decide(&fields, &fields.extract(&self.order), &self.policy, fresh(), || self.honours)
    }

    /// What a backend gets, sorted; each of `spans` is one try.
    pub fn tries(&self, request: &[(&str, &str)], spans: &[u64]) -> Vec<Pairs> {
        let fields = collect(request);
        let extracted = fields.extract(&self.order);
        let trace = decide(&fields, &extracted, &self.policy, fresh(), || self.honours);
        let mut injection = Injection::default();
        injection.prepare(&fields, &extracted, &trace, &self.settings);
        let one_try = |span: &u64| {
            injection.set_span(SpanId::from_random(*span));
            let passed = apply(&injection, request);
            assert_eq!(passed, apply_edits(&injection, request), "edits say the same");
            passed
        };
        spans.iter().map(one_try).collect()
    }

    pub fn pass(&self, request: &[(&str, &str)]) -> Pairs {
        self.tries(request, &[NEW_SPAN]).remove(0)
    }
}

pub fn collect<'a>(request: &[(&'a str, &'a str)]) -> TraceFields<'a> {
    TraceFields::collect(request.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
}

/// As the proxy does it: one walk over the fields, then those that are added.
fn apply(injection: &Injection, request: &[(&str, &str)]) -> Pairs {
    let kept = request.iter().filter(|(name, _)| !injection.replaces(name.as_bytes()));
    let mut passed: Pairs = kept.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    passed.extend(injection.fields().map(|(name, value)| (name.to_owned(), text(value))));
    passed.sort();
    passed
}

fn apply_edits(injection: &Injection, request: &[(&str, &str)]) -> Pairs {
    let mut passed: Pairs = request.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    for edit in injection.edits() {
        match edit {
            Edit::Remove(name) => passed.retain(|(other, _)| plain(other) != name),
            Edit::RemovePrefix(prefix) => {
                passed.retain(|(other, _)| plain(other).strip_prefix(prefix).is_none_or(str::is_empty));
            }
            Edit::Set(name, value) => {
                passed.retain(|(other, _)| plain(other) != name);
                passed.push((name.to_owned(), text(value)));
            }
        }
    }
    passed.sort();
    passed
}

/// How edits compare names.
fn plain(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

fn text(value: &[u8]) -> String {
    let text = std::str::from_utf8(value).expect("values that we write are ASCII");
    assert!(text.bytes().all(|byte| matches!(byte, 0x20..=0x7e)), "{text:?} fits into a field");
    text.to_owned()
}

/// The values of a header, whatever its case.
pub fn values<'a>(fields: &'a Pairs, name: &str) -> Vec<&'a str> {
    fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
}

/// The value of a header that must stand once.
pub fn value<'a>(fields: &'a Pairs, name: &str) -> &'a str {
    match values(fields, name)[..] {
        [value] => value,
        ref found => panic!("one {name} was expected in {fields:?}, not {}", found.len()),
    }
}
