//! Trace context of a request: from the fields that came to those that are sent.

use super::{Row, Sequence, Work};
use sluicegate_trace::{Format, FreshIds, Injection, InjectionSettings, Policy, SpanId, TraceFields, TraceId, decide};
use std::hint::black_box;

pub(super) const SCENARIOS: &[Row] = &[
    ("trace/none-came", || propagate(&[], 1)),
    ("trace/w3c-came", || propagate(W3C, 1)),
    ("trace/w3c-with-state-and-baggage-came", || propagate(W3C_WITH_ALL, 2)),
    ("trace/b3-came", || propagate(B3, 2)),
    ("trace/b3-multi-came", || propagate(B3_MULTI, 4)),
];

type Fields = &'static [(&'static [u8], &'static [u8])];

const W3C: Fields = &[(b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")];
const W3C_WITH_ALL: Fields = &[
    (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    (b"tracestate", b"congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"),
    (b"baggage", b"userId=alice,serverNode=DF%2028,isProduction=false"),
];
const B3: Fields = &[(b"b3", b"4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1")];
const B3_MULTI: Fields = &[
    (b"x-b3-traceid", b"4bf92f3577b34da6a3ce929d0e0e4736"),
    (b"x-b3-spanid", b"00f067aa0ba902b7"),
    (b"x-b3-sampled", b"1"),
];
/// What the proxy leaves to trace context to look at, beside the fields that are of it.
const OTHERS: Fields = &[(b"sec-fetch-dest", b"script"), (b"x-application-version", b"17")];

/// `sent` fields must leave.
fn propagate(came: Fields, sent: usize) -> Work {
    let (policy, settings) = (Policy::default(), InjectionSettings::default());
    let mut injection = Injection::default();
    let mut chance = Sequence(1);
    Box::new(move || {
        let fields = TraceFields::collect(black_box(came).iter().chain(OTHERS).copied());
        let extracted = fields.extract(&Format::ALL);
        let random = u128::from(chance.next()) << 64 | u128::from(chance.next());
        let fresh = FreshIds { trace_id: TraceId::from_random(random), span_id: SpanId::from_random(chance.next()) };
        let trace = decide(&fields, &extracted, &policy, fresh, || true);
        injection.prepare(&fields, &extracted, &trace, &settings);
        injection.set_span(SpanId::from_random(chance.next()));
        black_box(&injection).fields().count() == sent
    })
}
