//! Request heads: the answer does not depend on the split, and what is accepted says the same when it is written again,
//! as received and in the form in which a gateway sends it on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluicegate_http1::{
    FieldName, HeadError, HeadLimits, RequestHead, TargetForm, Version, write_field, write_request_line,
};

fuzz_target!(|data: &[u8]| {
    // The first byte says whether the limits are tight, so that they are reached.
    let Some((first, input)) = data.split_first() else {
        return;
    };
    let limits = if first % 4 == 0 {
        HeadLimits { max_head_bytes: 200, max_fields: 5, max_target_bytes: 20 }
    } else {
        HeadLimits::default()
    };
    let mut head = RequestHead::new();
    let whole = head.parse(input, &limits);
    let step = if input.len() <= 1024 { 1 } else { 1 + usize::from(*first) };
    assert_eq!(in_steps(input, step, &limits), whole);
    let Ok(Some(len)) = whole else {
        return;
    };
    assert!(len <= input.len() && len <= limits.max_head_bytes && head.len_fields() <= limits.max_fields);
    // Nothing of the head was left out, and nothing of the body taken in.
    assert!(input[..len].ends_with(b"\r\n\r\n"));
    if len < input.len() {
        let mut exact = RequestHead::new();
        assert_eq!(exact.parse(&input[..len], &limits), Ok(Some(len)));
    }
    written_as_received(&head);
    written_as_forwarded(&head);
});

fn in_steps(input: &[u8], step: usize, limits: &HeadLimits) -> Result<Option<usize>, HeadError> {
    let mut head = RequestHead::new();
    for end in (0..input.len()).step_by(step) {
        if let Some(len) = head.parse(&input[..end], limits)? {
            return Ok(Some(len));
        }
    }
    head.parse(input, limits)
}

fn written_as_received(head: &RequestHead) {
    let mut wire = Vec::new();
    assert!(write_request_line(&mut wire, head.method(), head.target(), head.version()));
    let start = wire.len();
    for field in head.fields() {
        assert!(write_field(&mut wire, field.name, field.value));
    }
    let mut at_once = Vec::new();
    head.write_fields(&mut at_once, |_| true);
    assert_eq!(at_once, wire[start..]);
    wire.extend_from_slice(b"\r\n");
    let again = parse(&wire);
    assert!(again.fields().eq(head.fields()));
    assert_eq!(again.target(), head.target());
    assert_eq!(again.authority(), head.authority());
    assert_eq!(again.framing(), head.framing());
    assert_eq!(again.keep_alive(), head.keep_alive());
    assert_eq!(again.upgrade(), head.upgrade());
}

fn written_as_forwarded(head: &RequestHead) {
    if head.form() == TargetForm::Authority {
        return;
    }
    let mut wire = Vec::new();
    assert!(write_request_line(&mut wire, head.method(), head.path_and_query(), head.version()));
    if !head.authority().is_empty() {
        assert!(write_field(&mut wire, b"host", head.authority()));
    }
    for field in head.fields().filter(|field| field.id != FieldName::Host) {
        assert!(write_field(&mut wire, field.name, field.value));
    }
    wire.extend_from_slice(b"\r\n");
    let again = parse(&wire);
    assert_eq!(again.method(), head.method());
    assert_eq!(again.path(), head.path());
    assert_eq!(again.query(), head.query());
    assert_eq!(again.host(), head.host());
    assert_eq!(again.port(), head.port());
    assert_eq!(again.framing(), head.framing());
    assert_ne!(again.version(), Version::Http2);
}

fn parse(wire: &[u8]) -> RequestHead {
    let generous = HeadLimits { max_head_bytes: 16 << 20, max_fields: usize::MAX, max_target_bytes: 16 << 20 };
    let mut head = RequestHead::new();
    assert_eq!(head.parse(wire, &generous), Ok(Some(wire.len())), "{}", wire.escape_ascii());
    head
}
