//! Trust and sampling: which trace a request belongs to from here on, and whether it is recorded.

mod support;

use sluicegate_trace::{
    FreshIds, Policy, Ratio, RatioError, Sampler, SamplingBudget, SpanId, Trace, TraceId, Trust, decide,
};
use std::time::{Duration, Instant};
use support::{Gateway, NEW_SPAN, NEW_TRACE, collect, fresh};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-00f067aa0ba902b7-{flags}")
}

fn policy(trust: Trust, sampler: Sampler, parent_based: bool) -> Policy {
    Policy { trust, sampler, parent_based }
}

/// The decision, and whether the caller's wish had to be honoured for it.
fn decided(policy: Policy, honours: bool, request: &[(&str, &str)]) -> (Trace, bool) {
    let fields = collect(request);
    let mut asked = false;
    let extracted = fields.extract(&Gateway::default().order);
    let trace = decide(&fields, &extracted, &policy, fresh(), || {
        asked = true;
        honours
    });
    (trace, asked)
}

#[test]
fn a_believed_trace_goes_on() {
    let trace = Gateway::default().decide(&[("traceparent", &parent("03"))]);
    assert_eq!(trace.trace_id.to_string(), TRACE);
    assert_eq!(trace.parent.map(|id| id.to_string()).as_deref(), Some("00f067aa0ba902b7"));
    assert_eq!(trace.span_id.get(), NEW_SPAN);
    assert!(trace.sampled && trace.random && trace.link.is_none());
}

#[test]
fn a_restart_links_the_trace_outside_and_ignoring_does_not() {
    for (trust, linked) in [(Trust::Restart, true), (Trust::Ignore, false)] {
        let request = [("traceparent", &*parent("01"))];
        let (trace, asked) = decided(policy(trust, Sampler::Never, true), true, &request);
        assert_eq!(trace.trace_id.get(), NEW_TRACE);
        assert_eq!((trace.parent, trace.sampled, asked), (None, false, false), "strangers decide nothing");
        assert!(trace.random);
        assert_eq!(trace.link.map(|link| link.trace_id.to_string()).as_deref(), linked.then_some(TRACE));
    }
}

#[test]
fn who_decides_on_recording() {
    let (on, off) = (Sampler::Always, Sampler::Never);
    // The caller's flag, the sampler, whether the caller counts, whether its wish is granted: recorded, asked for the grant.
    for (flag, sampler, parent_based, honours, sampled, asked) in [
        ("01", on, true, false, true, false),
        ("01", off, true, true, true, true),
        ("01", off, true, false, false, true),
        ("00", on, true, true, false, false),
        ("00", off, true, true, false, false),
        ("01", off, false, true, false, false),
        ("00", on, false, true, true, false),
    ] {
        let request = [("traceparent", &*parent(flag))];
        let (trace, was_asked) = decided(policy(Trust::Continue, sampler, parent_based), honours, &request);
        assert_eq!((trace.sampled, was_asked), (sampled, asked), "{flag} {sampler:?} {parent_based} {honours}");
    }
    for sampler in [on, off] {
        let request = [("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1")];
        let (trace, asked) = decided(policy(Trust::Continue, sampler, true), true, &request);
        assert_eq!((trace.sampled, asked), (sampler == on, false), "undecided");
    }
}

#[test]
fn decisions_come_without_ids_too() {
    for (header, sampled, debug) in [
        (("b3", "0"), false, false),
        (("b3", "1"), true, false),
        (("b3", "d"), true, true),
        (("x-b3-sampled", "0"), false, false),
        (("x-b3-flags", "1"), true, true),
        (("jaeger-debug-id", "by-hand"), true, true),
    ] {
        let (trace, asked) = decided(policy(Trust::Continue, Sampler::Never, true), true, &[header]);
        assert_eq!((trace.sampled, trace.debug), (sampled, debug), "{header:?}");
        assert_eq!(asked, sampled);
        assert_eq!((trace.trace_id.get(), trace.parent), (NEW_TRACE, None));
    }
    let mixed = [("b3", "0"), ("uber-trace-id", "abc:1:0:1")];
    let trace = Gateway::default().decide(&mixed);
    assert!(trace.sampled && trace.trace_id.get() == 0xabc, "a context says more than a decision");
}

#[test]
fn debug_needs_the_grant_although_the_sampler_agrees() {
    let request = [("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-d")];
    for honours in [true, false] {
        let (trace, asked) = decided(policy(Trust::Continue, Sampler::Always, true), honours, &request);
        assert_eq!((trace.sampled, trace.debug, asked), (true, honours, true));
    }
}

fn ratio(part: f64) -> Sampler {
    Sampler::Ratio(Ratio::new(part).expect("a ratio"))
}

#[test]
fn a_ratio_takes_the_upper_part_of_56_bits() {
    let id = |randomness: u64| TraceId::new(1 << 100 | u128::from(randomness)).expect("an id");
    let half = 1 << 55;
    assert!(ratio(0.5).samples(id(half), None));
    assert!(!ratio(0.5).samples(id(half - 1), None));
    assert!(!ratio(0.5).samples(id((half - 1) | (0xff << 56)), None), "the byte in front is not looked at");
    assert!(ratio(1.0).samples(id(0), None));
    assert!(!ratio(0.0).samples(id((1 << 56) - 1), None));
    assert!(ratio(0.5).samples(id(0), Some(half)), "explicit randomness stands in for the id");
    for bad in [-0.1, 1.1, f64::INFINITY] {
        assert_eq!(Ratio::new(bad), Err(RatioError(bad)));
    }
    assert!(Ratio::new(f64::NAN).is_err());
}

#[test]
fn a_greater_ratio_takes_all_of_a_lesser_one() {
    // A sequence that visits all parts of the range (Weyl, with the golden ratio).
    let ids = (1..=20_000u128)
        .map(|number| TraceId::from_random(number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)));
    let (mut few, mut many) = (0, 0);
    for id in ids {
        let (in_few, in_many) = (ratio(0.01).samples(id, None), ratio(0.25).samples(id, None));
        assert!(in_many || !in_few, "{id}");
        few += u32::from(in_few);
        many += u32::from(in_many);
    }
    assert!((150..250).contains(&few) && (4800..5200).contains(&many), "{few} {many} of 20000");
}

#[test]
fn explicit_randomness_is_read_from_the_tracestate_of_the_trace() {
    let decide = |trace: &str, state: &str| {
        let parent = format!("00-{trace}-00f067aa0ba902b7-00");
        let request = [("traceparent", &*parent), ("tracestate", state)];
        decided(policy(Trust::Continue, ratio(0.5), false), true, &request).0.sampled
    };
    let low = "4bf92f3577b34da6a300000000000001";
    assert!(!decide(low, "a=1"));
    assert!(decide(low, "a=1,ot=th:0;rv:80000000000000"));
    assert!(!decide(low, "ot=rv:7fffffffffffff"));
    assert!(!decide(low, "ot=rv:8000000000000"), "13 digits are not 14");
    assert!(!decide(low, "ot=rv:80000000000000,BAD=1"), "an invalid list says nothing");
}

#[test]
fn a_budget_grants_a_burst_and_then_a_rate() {
    let start = Instant::now();
    let mut budget = SamplingBudget::new(10, 3);
    let mut granted =
        |after: u64, count: usize| (0..count).filter(|_| budget.take(start + Duration::from_millis(after))).count();
    assert_eq!(granted(0, 10), 3);
    assert_eq!(granted(50, 10), 0);
    assert_eq!(granted(100, 10), 1);
    assert_eq!(granted(1_000_000, 10), 3, "idle time does not add up beyond the burst");
    let second: usize = (0..1000).map(|millisecond| granted(2_000_000 + millisecond, 5)).sum();
    assert!((12..=13).contains(&second), "{second} in a second at 10 a second and a burst of 3");
    assert_eq!(granted(0, 10), 0, "a clock that goes back grants nothing");
    assert!(!SamplingBudget::new(0, 100).take(start));
    assert!(SamplingBudget::new(1, 0).take(start), "a burst is 1 at least");
}

#[test]
fn new_ids_can_be_carried_by_every_format() {
    for random in [0, 1, 1 << 64, u128::MAX] {
        assert_ne!(TraceId::from_random(random).low(), 0);
        let dated = TraceId::from_epoch(0x6912_3456, random);
        assert_eq!(dated.get() >> 96, 0x6912_3456);
        assert_ne!(dated.low(), 0);
    }
    assert_eq!(TraceId::from_random(NEW_TRACE).get(), NEW_TRACE);
    assert_ne!(SpanId::from_random(0).get(), 0);
    assert_eq!((TraceId::new(0), SpanId::new(0)), (None, None));
    assert_eq!(TraceId::from_random(1).to_string().len(), 32);
    let ids = FreshIds { trace_id: TraceId::from_random(5), span_id: SpanId::from_random(6) };
    assert_eq!(format!("{ids:?}").matches("0006").count(), 1);
}
