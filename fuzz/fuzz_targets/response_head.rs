//! Response heads: the answer does not depend on the split, and what is accepted says the same when it is written
//! again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluicegate_http1::{Framing, HeadError, HeadLimits, ResponseHead, write_field, write_status_line};

fuzz_target!(|data: &[u8]| {
    // The first byte says what the request was, and whether the limits are tight, so that they are reached.
    let Some((first, input)) = data.split_first() else {
        return;
    };
    let request = Request { was_head: first & 1 != 0, was_connect: first & 2 != 0 };
    let limits = if first & 12 == 0 {
        HeadLimits { max_head_bytes: 200, max_fields: 5, ..HeadLimits::default() }
    } else {
        HeadLimits::default()
    };
    let mut head = ResponseHead::new();
    let whole = head.parse(input, request.was_head, request.was_connect, &limits);
    let step = if input.len() <= 1024 { 1 } else { 1 + usize::from(*first) };
    assert_eq!(in_steps(input, step, request, &limits), whole);
    let Ok(Some(len)) = whole else {
        return;
    };
    assert!(len <= input.len() && len <= limits.max_head_bytes && head.len_fields() <= limits.max_fields);
    assert!(input[..len].ends_with(b"\r\n\r\n"));
    assert!((100..1000).contains(&head.status()));
    if request.was_head || head.is_informational() || matches!(head.status(), 204 | 304) {
        assert_eq!(head.framing(), Framing::None);
    }
    assert!(!head.keep_alive() || head.framing() != Framing::UntilClose);
    written_again(&head, request);
});

#[derive(Clone, Copy)]
struct Request {
    was_head: bool,
    was_connect: bool,
}

fn in_steps(input: &[u8], step: usize, request: Request, limits: &HeadLimits) -> Result<Option<usize>, HeadError> {
    let mut head = ResponseHead::new();
    for end in (0..input.len()).step_by(step) {
        if let Some(len) = head.parse(&input[..end], request.was_head, request.was_connect, limits)? {
            return Ok(Some(len));
        }
    }
    head.parse(input, request.was_head, request.was_connect, limits)
}

fn written_again(head: &ResponseHead, request: Request) {
    let mut wire = Vec::new();
    write_status_line(&mut wire, head.status(), head.reason(), head.version());
    let start = wire.len();
    for field in head.fields() {
        assert!(write_field(&mut wire, field.name, field.value));
    }
    let mut at_once = Vec::new();
    head.write_fields(&mut at_once, |_| true);
    assert_eq!(at_once, wire[start..]);
    wire.extend_from_slice(b"\r\n");
    let generous = HeadLimits { max_head_bytes: 16 << 20, max_fields: usize::MAX, ..HeadLimits::default() };
    let mut again = ResponseHead::new();
    let parsed = again.parse(&wire, request.was_head, request.was_connect, &generous);
    assert_eq!(parsed, Ok(Some(wire.len())), "{}", wire.escape_ascii());
    assert_eq!((again.status(), again.reason()), (head.status(), head.reason()));
    assert!(again.fields().eq(head.fields()));
    assert_eq!(again.framing(), head.framing());
    assert_eq!(again.keep_alive(), head.keep_alive());
    assert_eq!(again.upgrade(), head.upgrade());
}
