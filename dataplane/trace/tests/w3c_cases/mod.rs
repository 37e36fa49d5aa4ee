//! The cases of the public W3C trace-context test harness (`w3c/trace-context`, directory `test`), by its names and meaning:
//! 41 tests with `SPEC_LEVEL=2`. There a service is called over HTTP and calls back; here the call back is what a gateway
//! sends on, and several call backs are several tries.

use crate::{pass, thrice};

/// Names and values of fields.
pub type Pairs = Vec<(String, String)>;

/// Every case by its name.
pub const CASES: &[(&str, fn())] = &[
    ("test_both_traceparent_and_tracestate_missing", trace_context_test::test_both_traceparent_and_tracestate_missing),
    ("test_traceparent_included_tracestate_missing", trace_context_test::test_traceparent_included_tracestate_missing),
    ("test_traceparent_duplicated", trace_context_test::test_traceparent_duplicated),
    ("test_traceparent_header_name", trace_context_test::test_traceparent_header_name),
    ("test_traceparent_header_name_valid_casing", trace_context_test::test_traceparent_header_name_valid_casing),
    ("test_traceparent_version_0x00", trace_context_test::test_traceparent_version_0x00),
    ("test_traceparent_version_0xcc", trace_context_test::test_traceparent_version_0xcc),
    ("test_traceparent_version_0xff", trace_context_test::test_traceparent_version_0xff),
    ("test_traceparent_version_illegal_characters", trace_context_test::test_traceparent_version_illegal_characters),
    ("test_traceparent_version_too_long", trace_context_test::test_traceparent_version_too_long),
    ("test_traceparent_version_too_short", trace_context_test::test_traceparent_version_too_short),
    ("test_traceparent_trace_id_all_zero", trace_context_test::test_traceparent_trace_id_all_zero),
    ("test_traceparent_trace_id_illegal_characters", trace_context_test::test_traceparent_trace_id_illegal_characters),
    ("test_traceparent_trace_id_too_long", trace_context_test::test_traceparent_trace_id_too_long),
    ("test_traceparent_trace_id_too_short", trace_context_test::test_traceparent_trace_id_too_short),
    ("test_traceparent_parent_id_all_zero", trace_context_test::test_traceparent_parent_id_all_zero),
    (
        "test_traceparent_parent_id_illegal_characters",
        trace_context_test::test_traceparent_parent_id_illegal_characters,
    ),
    ("test_traceparent_parent_id_too_long", trace_context_test::test_traceparent_parent_id_too_long),
    ("test_traceparent_parent_id_too_short", trace_context_test::test_traceparent_parent_id_too_short),
    (
        "test_traceparent_trace_flags_illegal_characters",
        trace_context_test::test_traceparent_trace_flags_illegal_characters,
    ),
    ("test_traceparent_trace_flags_too_long", trace_context_test::test_traceparent_trace_flags_too_long),
    ("test_traceparent_trace_flags_too_short", trace_context_test::test_traceparent_trace_flags_too_short),
    ("test_traceparent_ows_handling", trace_context_test::test_traceparent_ows_handling),
    ("test_tracestate_included_traceparent_missing", trace_context_test::test_tracestate_included_traceparent_missing),
    (
        "test_tracestate_included_traceparent_included",
        trace_context_test::test_tracestate_included_traceparent_included,
    ),
    ("test_tracestate_header_name", trace_context_test::test_tracestate_header_name),
    ("test_tracestate_header_name_valid_casing", trace_context_test::test_tracestate_header_name_valid_casing),
    ("test_tracestate_empty_header", trace_context_test::test_tracestate_empty_header),
    (
        "test_tracestate_multiple_headers_different_keys",
        trace_context_test::test_tracestate_multiple_headers_different_keys,
    ),
    ("test_tracestate_duplicated_keys", trace_context_test::test_tracestate_duplicated_keys),
    ("test_tracestate_all_allowed_characters", trace_context_test::test_tracestate_all_allowed_characters),
    ("test_tracestate_ows_handling", trace_context_test::test_tracestate_ows_handling),
    ("test_tracestate_key_illegal_characters", trace_context_test::test_tracestate_key_illegal_characters),
    ("test_tracestate_key_illegal_vendor_format", trace_context_test::test_tracestate_key_illegal_vendor_format),
    ("test_tracestate_member_count_limit", trace_context_test::test_tracestate_member_count_limit),
    ("test_tracestate_key_length_limit", trace_context_test::test_tracestate_key_length_limit),
    ("test_tracestate_value_illegal_characters", trace_context_test::test_tracestate_value_illegal_characters),
    ("test_multiple_requests_with_valid_traceparent", advanced_test::test_multiple_requests_with_valid_traceparent),
    ("test_multiple_requests_without_traceparent", advanced_test::test_multiple_requests_without_traceparent),
    ("test_multiple_requests_with_illegal_traceparent", advanced_test::test_multiple_requests_with_illegal_traceparent),
    ("test_propagates_random_flag", trace_context_2_test::test_propagates_random_flag),
];

/// Runs every case, and fails with the names of those that failed.
pub fn run_all() {
    assert_eq!(CASES.len(), 41, "as many as the harness has");
    let failed: Vec<&str> =
        CASES.iter().filter(|(_, case)| std::panic::catch_unwind(case).is_err()).map(|(name, _)| *name).collect();
    assert!(failed.is_empty(), "{} of {} cases failed: {failed:?}", failed.len(), CASES.len());
}

/// The values of a header, whatever its case.
fn values<'a>(fields: &'a Pairs, name: &str) -> Vec<&'a str> {
    fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
}

/// The value of a header that must stand once.
fn value<'a>(fields: &'a Pairs, name: &str) -> &'a str {
    match values(fields, name)[..] {
        [value] => value,
        ref found => panic!("one {name} was expected in {fields:?}, not {}", found.len()),
    }
}

const TRACE: &str = "12345678901234567890123456789012";
const PARENT: &str = "1234567890123456";
const UNSAMPLED: (&str, &str) = ("traceparent", "00-12345678901234567890123456789012-1234567890123456-00");

/// A `traceparent` that was sent, checked as the harness checks it.
struct Traceparent {
    trace_id: String,
    parent_id: String,
    flags: u8,
}

fn traceparent(sent: &Pairs) -> Traceparent {
    let text = value(sent, "traceparent");
    let parts: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    assert_eq!(lengths, [2, 32, 16, 2], "{text}");
    assert!(text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-')), "{text}");
    assert_eq!(parts[0], "00");
    assert_ne!(parts[1], "0".repeat(32));
    assert_ne!(parts[2], "0".repeat(16));
    assert!(sent.iter().any(|(name, _)| name == "traceparent"), "the name is sent in lower case");
    Traceparent {
        trace_id: parts[1].to_owned(),
        parent_id: parts[2].to_owned(),
        flags: u8::from_str_radix(parts[3], 16).expect("flags"),
    }
}

/// The members that were sent. All `tracestate` fields must be one.
fn tracestate(sent: &Pairs) -> Vec<(String, String)> {
    let found = values(sent, "tracestate");
    assert!(found.len() <= 1, "{sent:?}");
    let members = found.iter().flat_map(|value| value.split(','));
    members
        .map(|member| {
            let (key, value) = member.split_once('=').expect("a member");
            (key.to_owned(), value.to_owned())
        })
        .collect()
}

fn sent(request: &[(&str, &str)]) -> (Traceparent, Vec<(String, String)>) {
    let sent = pass(request);
    (traceparent(&sent), tracestate(&sent))
}

fn member<'a>(state: &'a [(String, String)], key: &str) -> Option<&'a str> {
    state.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

/// The trace is another one after each of these values.
fn restarts(values: &[&str]) {
    for value in values {
        let (parent, state) = sent(&[("traceparent", value), ("tracestate", "foo=1")]);
        assert_ne!(parent.trace_id, TRACE, "{value}");
        assert!(!value.contains(&parent.trace_id), "{value}");
        assert_eq!(state, [], "{value}");
    }
}

/// The trace is the same after each of these values.
fn continues(values: &[&str]) {
    for value in values {
        let (parent, _) = sent(&[("traceparent", value)]);
        assert_eq!(parent.trace_id, TRACE, "{value:?}");
        assert_ne!(parent.parent_id, PARENT, "{value:?}");
    }
}

/// What is sent for a valid `traceparent` with these `tracestate` fields.
fn state_of(values: &[&str]) -> Vec<(String, String)> {
    let mut request = vec![UNSAMPLED];
    request.extend(values.iter().map(|value| ("tracestate", *value)));
    let (parent, state) = sent(&request);
    assert_eq!(parent.trace_id, TRACE, "a tracestate never invalidates the traceparent: {values:?}");
    state
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

mod trace_context_test {
    use super::*;

    pub fn test_both_traceparent_and_tracestate_missing() {
        let (_, state) = sent(&[]);
        assert_eq!(state, []);
    }

    pub fn test_traceparent_included_tracestate_missing() {
        continues(&["00-12345678901234567890123456789012-1234567890123456-01"]);
    }

    pub fn test_traceparent_duplicated() {
        let (parent, _) = sent(&[
            ("traceparent", "00-12345678901234567890123456789011-1234567890123456-01"),
            ("traceparent", "00-12345678901234567890123456789012-1234567890123456-01"),
        ]);
        assert_ne!(parent.trace_id, "12345678901234567890123456789011");
        assert_ne!(parent.trace_id, TRACE);
        // Not even where they agree: the rule is about the number.
        let (parent, _) = sent(&[UNSAMPLED, UNSAMPLED]);
        assert_ne!(parent.trace_id, TRACE);
    }

    pub fn test_traceparent_header_name() {
        for name in ["trace-parent", "trace.parent"] {
            let (parent, _) = sent(&[(name, UNSAMPLED.1)]);
            assert_ne!(parent.trace_id, TRACE, "{name}");
        }
    }

    pub fn test_traceparent_header_name_valid_casing() {
        for name in ["TraceParent", "TrAcEpArEnT", "TRACEPARENT"] {
            let (parent, _) = sent(&[(name, UNSAMPLED.1)]);
            assert_eq!(parent.trace_id, TRACE, "{name}");
        }
    }

    pub fn test_traceparent_version_0x00() {
        restarts(&[
            "00-12345678901234567890123456789012-1234567890123456-01.",
            "00-12345678901234567890123456789012-1234567890123456-01-what-the-future-will-be-like",
        ]);
    }

    pub fn test_traceparent_version_0xcc() {
        continues(&[
            "cc-12345678901234567890123456789012-1234567890123456-01",
            "cc-12345678901234567890123456789012-1234567890123456-01-what-the-future-will-be-like",
        ]);
        restarts(&["cc-12345678901234567890123456789012-1234567890123456-01.what-the-future-will-be-like"]);
    }

    pub fn test_traceparent_version_0xff() {
        restarts(&["ff-12345678901234567890123456789012-1234567890123456-01"]);
    }

    pub fn test_traceparent_version_illegal_characters() {
        restarts(&[
            ".0-12345678901234567890123456789012-1234567890123456-01",
            "0.-12345678901234567890123456789012-1234567890123456-01",
        ]);
    }

    pub fn test_traceparent_version_too_long() {
        restarts(&[
            "000-12345678901234567890123456789012-1234567890123456-01",
            "0000-12345678901234567890123456789012-1234567890123456-01",
        ]);
    }

    pub fn test_traceparent_version_too_short() {
        restarts(&["0-12345678901234567890123456789012-1234567890123456-01"]);
    }

    pub fn test_traceparent_trace_id_all_zero() {
        restarts(&["00-00000000000000000000000000000000-1234567890123456-01"]);
    }

    pub fn test_traceparent_trace_id_illegal_characters() {
        restarts(&[
            "00-.2345678901234567890123456789012-1234567890123456-01",
            "00-1234567890123456789012345678901.-1234567890123456-01",
            "00-A2345678901234567890123456789012-1234567890123456-01",
        ]);
    }

    pub fn test_traceparent_trace_id_too_long() {
        restarts(&["00-123456789012345678901234567890123-1234567890123456-01"]);
    }

    pub fn test_traceparent_trace_id_too_short() {
        restarts(&["00-1234567890123456789012345678901-1234567890123456-01"]);
    }

    pub fn test_traceparent_parent_id_all_zero() {
        restarts(&["00-12345678901234567890123456789012-0000000000000000-01"]);
    }

    pub fn test_traceparent_parent_id_illegal_characters() {
        restarts(&[
            "00-12345678901234567890123456789012-.234567890123456-01",
            "00-12345678901234567890123456789012-123456789012345.-01",
        ]);
    }

    pub fn test_traceparent_parent_id_too_long() {
        restarts(&["00-12345678901234567890123456789012-12345678901234567-01"]);
    }

    pub fn test_traceparent_parent_id_too_short() {
        restarts(&["00-12345678901234567890123456789012-123456789012345-01"]);
    }

    pub fn test_traceparent_trace_flags_illegal_characters() {
        restarts(&[
            "00-12345678901234567890123456789012-1234567890123456-.0",
            "00-12345678901234567890123456789012-1234567890123456-0.",
        ]);
    }

    pub fn test_traceparent_trace_flags_too_long() {
        restarts(&["00-12345678901234567890123456789012-1234567890123456-001"]);
    }

    pub fn test_traceparent_trace_flags_too_short() {
        restarts(&["00-12345678901234567890123456789012-1234567890123456-1"]);
    }

    pub fn test_traceparent_ows_handling() {
        continues(&[
            " 00-12345678901234567890123456789012-1234567890123456-01",
            "\t00-12345678901234567890123456789012-1234567890123456-01",
            "00-12345678901234567890123456789012-1234567890123456-01 ",
            "00-12345678901234567890123456789012-1234567890123456-01\t",
            "\t 00-12345678901234567890123456789012-1234567890123456-01 \t",
        ]);
    }

    pub fn test_tracestate_included_traceparent_missing() {
        for value in ["foo=1", "foo=1,bar=2"] {
            let (_, state) = sent(&[("tracestate", value)]);
            assert_eq!(state, [], "{value}");
        }
    }

    pub fn test_tracestate_included_traceparent_included() {
        assert_eq!(state_of(&["foo=1,bar=2"]), pairs(&[("foo", "1"), ("bar", "2")]));
    }

    pub fn test_tracestate_header_name() {
        for name in ["trace-state", "trace.state"] {
            let (_, state) = sent(&[UNSAMPLED, (name, "foo=1")]);
            assert_eq!(state, [], "{name}");
        }
    }

    pub fn test_tracestate_header_name_valid_casing() {
        for name in ["TraceState", "TrAcEsTaTe", "TRACESTATE"] {
            let sent = pass(&[UNSAMPLED, (name, "foo=1")]);
            assert_eq!(tracestate(&sent), pairs(&[("foo", "1")]), "{name}");
            assert!(sent.iter().any(|(name, _)| name == "tracestate"), "the name is sent in lower case: {sent:?}");
        }
    }

    pub fn test_tracestate_empty_header() {
        assert_eq!(values(&pass(&[UNSAMPLED, ("tracestate", "")]), "tracestate"), [""; 0]);
        assert_eq!(state_of(&["foo=1", ""]), pairs(&[("foo", "1")]));
        assert_eq!(state_of(&["", "foo=1"]), pairs(&[("foo", "1")]));
    }

    pub fn test_tracestate_multiple_headers_different_keys() {
        let state = state_of(&["foo=1,bar=2", "rojo=1,congo=2", "baz=3"]);
        assert_eq!(state, pairs(&[("foo", "1"), ("bar", "2"), ("rojo", "1"), ("congo", "2"), ("baz", "3")]));
    }

    pub fn test_tracestate_duplicated_keys() {
        for (fields, kept) in [
            (&["foo=1,foo=1"][..], "1"),
            (&["foo=1,foo=2"], "1"),
            (&["foo=1", "foo=1"], "1"),
            (&["foo=1", "foo=2"], "1"),
        ] {
            assert_eq!(member(&state_of(fields), "foo"), Some(kept), "{fields:?}");
        }
    }

    pub fn test_tracestate_all_allowed_characters() {
        let letters: String = ('a'..='z').collect();
        let key = format!("{letters}0123456789_-*/");
        let value: String = (' '..='~').filter(|character| !matches!(character, ',' | '=')).collect();
        for key in [key.clone(), format!("{key}@a-z0-9_-*/")] {
            let text = format!("{key}={value}");
            assert_eq!(member(&state_of(&[&text]), &key), Some(value.as_str()));
        }
    }

    pub fn test_tracestate_ows_handling() {
        let all = pairs(&[("foo", "1"), ("bar", "2"), ("baz", "3")]);
        assert_eq!(state_of(&["foo=1 \t , \t bar=2, \t baz=3"]), all);
        assert_eq!(state_of(&["foo=1\t \t,\t \tbar=2,\t \tbaz=3"]), all);
        for value in [" foo=1", "\tfoo=1", "foo=1 ", "foo=1\t", "\t foo=1 \t"] {
            assert_eq!(state_of(&[value]), pairs(&[("foo", "1")]), "{value:?}");
        }
    }

    pub fn test_tracestate_key_illegal_characters() {
        for value in ["foo =1", "FOO=1", "foo.bar=1"] {
            assert_eq!(state_of(&[value]), [], "{value}");
        }
    }

    pub fn test_tracestate_key_illegal_vendor_format() {
        for key in ["foo@", "foo@@bar", "foo@bar@baz"] {
            let text = format!("{key}=1,bar=2");
            assert_eq!(state_of(&[&text]), pairs(&[(key, "1"), ("bar", "2")]));
        }
        assert_eq!(state_of(&["@foo=1,bar=2"]), []);
    }

    pub fn test_tracestate_member_count_limit() {
        let members: Vec<String> = (1..=33).map(|number| format!("bar{number:02}={number:02}")).collect();
        let fields = |count: usize| members[..count].chunks(10).map(|chunk| chunk.join(",")).collect::<Vec<_>>();
        let state = |count| state_of(&fields(count).iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(state(32).len(), 32);
        assert_eq!(member(&state(32), "bar01"), Some("01"));
        assert_eq!(state(33), []);
    }

    pub fn test_tracestate_key_length_limit() {
        let (t, v) = ("t", "v");
        for key in [
            "z".repeat(256),
            format!("{}@{}", t.repeat(241), v.repeat(14)),
            t.repeat(242) + "@v",
            format!("t@{}", v.repeat(15)),
        ] {
            let state = state_of(&["foo=1", &format!("{key}=1")]);
            assert_eq!(state, pairs(&[("foo", "1"), (&key, "1")]));
        }
        assert_eq!(state_of(&["foo=1", &format!("{}=1", "z".repeat(257))]), []);
    }

    pub fn test_tracestate_value_illegal_characters() {
        assert_eq!(state_of(&["foo=bar=baz"]), []);
        assert_eq!(state_of(&["foo=,bar=3"]), []);
    }
}

mod advanced_test {
    use super::*;

    /// Trace ids and parent ids of three call backs.
    fn ids_of(request: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let tries = thrice(request);
        let unique = |mut ids: Vec<String>| {
            ids.sort();
            ids.dedup();
            ids
        };
        let sent: Vec<Traceparent> = tries.iter().map(traceparent).collect();
        (
            unique(sent.iter().map(|parent| parent.trace_id.clone()).collect()),
            unique(sent.iter().map(|parent| parent.parent_id.clone()).collect()),
        )
    }

    pub fn test_multiple_requests_with_valid_traceparent() {
        let (traces, parents) = ids_of(&[UNSAMPLED]);
        assert_eq!(traces, [TRACE]);
        assert_eq!(parents.len(), 3);
    }

    pub fn test_multiple_requests_without_traceparent() {
        let (_, parents) = ids_of(&[]);
        assert_eq!(parents.len(), 3);
    }

    pub fn test_multiple_requests_with_illegal_traceparent() {
        let (traces, parents) = ids_of(&[("traceparent", "00-00000000000000000000000000000000-1234567890123456-01")]);
        assert!(!traces.contains(&"0".repeat(32)));
        assert_eq!(parents.len(), 3);
    }
}

mod trace_context_2_test {
    use super::*;

    pub fn test_propagates_random_flag() {
        let (parent, _) = sent(&[("traceparent", "00-12345678901234567890123456789012-1234567890123456-02")]);
        assert_eq!(parent.trace_id, TRACE);
        assert_ne!(parent.parent_id, PARENT);
        assert_eq!(parent.flags & 2, 2);
        // It is never made up for ids of others, and all flags that nobody knows are sent as 0.
        let (parent, _) = sent(&[("traceparent", "00-12345678901234567890123456789012-1234567890123456-fd")]);
        assert_eq!(parent.flags, 1);
    }
}
