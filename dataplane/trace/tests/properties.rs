//! What holds for every request: nothing panics, what is written can be read, and no header contradicts another.

mod support;

use proptest::prelude::*;
use sluicegate_trace::{
    Foreign, Format, FormatSet, Injection, InjectionSettings, Member, Policy, Sampler, SpanId, TraceFields, TraceState,
    Trust, decide,
};
use support::{Gateway, Pairs, collect, fresh};

const NAMES: &[&str] = &[
    "traceparent",
    "Tracestate",
    "baggage",
    "b3",
    "X-B3-TraceId",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "uber-trace-id",
    "jaeger-debug-id",
    "jaeger-baggage",
    "ot-tracer-traceid",
    "ot-tracer-spanid",
    "ot-tracer-sampled",
    "x-datadog-trace-id",
    "x-datadog-parent-id",
    "x-datadog-sampling-priority",
    "x-datadog-origin",
    "x-datadog-tags",
    "x-amzn-trace-id",
    "x-cloud-trace-context",
    "grpc-trace-bin",
    "uberctx-a",
    "uberctx-",
    "ot-baggage-b",
    "x_b3_traceid",
    "host",
    "x-request-id",
    "",
];

/// Values that are right for some header, often enough to get behind the first check.
fn value() -> impl Strategy<Value = String> {
    const ID: &str = "(4bf92f3577b34da6a3ce929d0e0e4736|a3ce929d0e0e4736|0{32}|[0-9a-f]{32}|[0-9A-Fa-f]{1,33})";
    const SPAN: &str = "(00f067aa0ba902b7|0{16}|[0-9a-f]{16}|[0-9a-f]{1,17})";
    let texts = [
        "(00|cc|ff)-ID-SPAN-0[0-3]",
        "ID-SPAN(-[01d](-SPAN)?)?",
        "ID(:|%3A)SPAN:0:[0-3]",
        "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=SPAN;Sampled=[01?];Self=a",
        "ID/[0-9]{1,20}(;o=[01])?",
        "ID",
        "SPAN",
        "[0-9]{1,20}",
        "[01d]",
        "(true|false|-1|2)",
        "[a-z]{1,3}=[a-z]{1,3}(,[a-zA-Z@]{1,3}=[a-z ]{0,3}){0,4}",
        "_dd.p.tid=[0-9a-f]{16}",
        "A[A-Za-z0-9+/]{38}",
        "[ -~]{0,80}",
        "[ -~]{0,2}(a=[b-z]{0,200},){0,50}",
    ];
    let parse = |text: &str| {
        let text = text.replace("ID", ID).replace("SPAN", SPAN);
        proptest::string::string_regex(&text).expect("an expression").boxed()
    };
    proptest::strategy::Union::new(texts.map(parse))
}

fn request() -> impl Strategy<Value = Pairs> {
    let name = prop::sample::select(NAMES).prop_map(str::to_owned);
    prop::collection::vec((name, value()), 0..12)
}

fn formats() -> impl Strategy<Value = Vec<Format>> {
    prop::sample::subsequence(Format::ALL.to_vec(), 0..=Format::ALL.len()).prop_shuffle()
}

fn gateway() -> impl Strategy<Value = Gateway> {
    let trust = prop::sample::select(&[Trust::Continue, Trust::Restart, Trust::Ignore][..]);
    let sampler = prop::sample::select(&[Sampler::Always, Sampler::Never][..]);
    let foreign = prop::sample::select(&[Foreign::Rewrite, Foreign::Remove, Foreign::Keep][..]);
    let flags = any::<[bool; 5]>();
    (formats(), formats(), trust, sampler, foreign, flags).prop_map(|(order, sent, trust, sampler, foreign, flags)| {
        let [parent_based, same_as_received, strip_baggage, honours, member] = flags;
        let settings = InjectionSettings {
            formats: sent.into_iter().collect(),
            same_as_received,
            foreign,
            strip_baggage,
            member: member.then(|| Member::new("sg", "1").expect("a member")),
            ..InjectionSettings::default()
        };
        Gateway { order, policy: Policy { trust, sampler, parent_based }, settings, honours }
    })
}

fn borrowed(fields: &Pairs) -> Vec<(&str, &str)> {
    fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    /// Whatever came, every format that the backend can read names our trace, our span and our decision.
    #[test]
    fn no_header_contradicts_another(gateway in gateway(), request in request(), span in 1u64..) {
        let request = borrowed(&request);
        let trace = gateway.decide(&request);
        let sent = gateway.tries(&request, &[u64::MAX, span]).remove(1);
        let sent = borrowed(&sent);
        let fields = collect(&sent);
        for format in gateway.settings.formats.iter() {
            let names_it = trace.trace_id.low() != 0 || !matches!(format, Format::Datadog | Format::OpenTracing);
            prop_assert_eq!(fields.formats().contains(format), names_it);
        }
        let ours = if gateway.settings.foreign == Foreign::Keep { gateway.settings.formats } else { fields.formats() };
        for format in ours.iter().filter(|format| fields.formats().contains(*format)) {
            let extracted = fields.extract(&[format]);
            prop_assert_eq!(extracted.malformed, None);
            let read = extracted.context.expect("a context");
            prop_assert_eq!(read.trace_id.low(), trace.trace_id.low(), "{}", format);
            let narrow = format == Format::OpenTracing;
            prop_assert_eq!(read.trace_id.high(), if narrow { 0 } else { trace.trace_id.high() }, "{}", format);
            prop_assert_eq!(read.span_id, SpanId::new(span), "{}", format);
            prop_assert_eq!(read.sampled.decided(), Some(trace.sampled), "{}", format);
        }
    }

    /// What is no trace header crosses as it is, and nothing is sent twice.
    #[test]
    fn other_fields_cross_and_ours_stand_once(gateway in gateway(), request in request()) {
        let request = borrowed(&request);
        let sent = gateway.pass(&request);
        for name in ["host", "x-request-id", ""] {
            let came = request.iter().filter(|(other, _)| *other == name).count();
            prop_assert_eq!(sent.iter().filter(|(other, _)| other == name).count(), came);
        }
        for format in gateway.settings.formats.iter() {
            let of_format = Gateway {
                order: vec![],
                settings: InjectionSettings { formats: FormatSet::EMPTY.with(format), ..Default::default() },
                ..Gateway::default()
            };
            for (name, _) in of_format.pass(&[]) {
                prop_assert!(support::values(&sent, &name).len() <= 1, "{} in {:?}", name, sent);
            }
        }
        if gateway.settings.strip_baggage {
            prop_assert!(!sent.iter().any(|(name, _)| name.starts_with("uberctx-a") || name == "baggage"));
        }
    }

    /// A second gateway behind the first continues its trace, and its tracestate is stable.
    #[test]
    fn two_gateways_make_one_trace(request in request()) {
        let gateway = Gateway::default();
        let request = borrowed(&request);
        let first = gateway.pass(&request);
        let second = gateway.pass(&borrowed(&first));
        prop_assert_eq!(support::value(&first, "traceparent"), support::value(&second, "traceparent"));
        prop_assert_eq!(support::values(&first, "tracestate"), support::values(&second, "tracestate"));
        prop_assert_eq!(support::values(&first, "baggage"), support::values(&second, "baggage"));
    }

    /// Bytes that no header should hold neither panic nor get out again.
    #[test]
    fn arbitrary_bytes_are_harmless(
        gateway in gateway(),
        values in prop::collection::vec((0..NAMES.len(), prop::collection::vec(any::<u8>(), 0..600)), 0..8),
    ) {
        let fields = TraceFields::collect(values.iter().map(|(name, value)| (NAMES[*name].as_bytes(), value.as_slice())));
        let extracted = fields.extract(&gateway.order);
        let trace = decide(&fields, &extracted, &gateway.policy, fresh(), || true);
        let mut injection = Injection::default();
        injection.prepare(&fields, &extracted, &trace, &gateway.settings);
        for (name, value) in injection.fields().filter(|(name, _)| *name != "baggage") {
            prop_assert!(value.iter().all(|byte| matches!(byte, 0x20..=0x7e)), "{}: {}", name, value.escape_ascii());
        }
    }

    /// Written lists are lists: within the bound, of members that were there, in their order.
    #[test]
    fn a_shortened_tracestate_is_a_part_of_the_list(
        members in prop::collection::vec(("[a-z][a-z0-9]{0,9}", "[!-+]{1,150}"), 1..=32),
        limit in 0usize..3000,
        fields in 1usize..5,
    ) {
        let texts: Vec<String> = members.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let values: Vec<String> = texts.chunks(texts.len().div_ceil(fields)).map(|chunk| chunk.join(" ,\t")).collect();
        let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
        let mut out = Vec::new();
        TraceState::parse(&values).expect("a list").write(None, limit, &mut out);
        prop_assert!(out.len() <= limit.max(512));
        let text = String::from_utf8(out).expect("ASCII");
        let mut rest = texts.iter();
        for member in text.split(',').filter(|member| !member.is_empty()) {
            prop_assert!(rest.any(|other| other == member), "{} in its place", member);
        }
        let whole: usize = texts.iter().map(|text| text.len() + 1).sum();
        prop_assert!(whole > 513.max(limit + 1) || text == texts.join(","));
    }
}

/// Nothing is allocated for a request like the one before it: the buffers are there.
#[test]
fn the_next_request_needs_no_new_buffer() {
    let request = [
        ("host", "a.example"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("tracestate", "dd=s:2,es=s:1"),
        ("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1"),
    ];
    let gateway = Gateway::default();
    let mut injection = Injection::default();
    assert_eq!(injection.capacity_bytes(), 0);
    let mut capacities = Vec::new();
    for number in 0..1000 {
        let fields = collect(&request[..1 + number % 4]);
        let extracted = fields.extract(&gateway.order);
        let trace = decide(&fields, &extracted, &gateway.policy, fresh(), || true);
        injection.prepare(&fields, &extracted, &trace, &gateway.settings);
        injection.set_span(SpanId::from_random(number as u64));
        capacities.push(injection.capacity_bytes());
    }
    assert!(capacities[3] < 1024, "{} bytes", capacities[3]);
    assert!(capacities[3..].iter().all(|capacity| *capacity == capacities[3]), "grown after the first four");
    assert!(size_of::<Injection>() <= 160 && size_of::<TraceFields<'_>>() <= 520, "what lies on the stack");
}
