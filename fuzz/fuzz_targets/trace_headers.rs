//! Trace headers: whatever came, every format that is sent names the same trace and the same span, and what is sent can be
//! sent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluicegate_trace::{
    Foreign, Format, FreshIds, Injection, InjectionSettings, Limits, Policy, Ratio, Sampler, SpanId, TraceFields,
    TraceId, Trust, decide,
};

// Two bytes of knobs, then lines of `name: value`.
fuzz_target!(|data: &[u8]| {
    let [first, second, text @ ..] = data else {
        return;
    };
    let settings = settings(*first, *second);
    let mut order = Format::ALL;
    order.rotate_left(usize::from(second % 9));
    let fields = TraceFields::collect(lines(text));
    let extracted = fields.extract(&order);
    let fresh = FreshIds { trace_id: TraceId::from_random(1 << 90 | 7), span_id: SpanId::from_random(9) };
    let trace = decide(&fields, &extracted, &policy(*first), fresh, || first % 2 == 0);
    let mut injection = Injection::default();
    injection.prepare(&fields, &extracted, &trace, &settings);
    for span in [u64::MAX, 1, 0x0123_4567_89ab_cdef].map(SpanId::from_random) {
        injection.set_span(span);
        let kept = lines(text).filter(|(name, _)| !injection.replaces(name));
        let sent: Vec<_> = kept.chain(injection.fields().map(|(name, value)| (name.as_bytes(), value))).collect();
        let read = TraceFields::collect(sent.iter().copied());
        for format in Format::ALL.into_iter().filter(|format| read.formats().contains(*format)) {
            let read = read.extract(&[format]);
            assert_eq!(read.malformed, None, "{format}");
            let context = read.context.expect("a context was sent");
            assert_eq!(context.trace_id.low(), trace.trace_id.low(), "{format}");
            assert_eq!(context.span_id, Some(span), "{format}");
            assert_eq!(context.sampled.decided(), Some(trace.sampled), "{format}");
        }
    }
    for (name, value) in injection.fields().filter(|(name, _)| *name != "baggage") {
        assert!(value.iter().all(|byte| matches!(byte, 0x20..=0x7e)), "{name}: {}", value.escape_ascii());
    }
});

fn lines(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    text.split(|byte| *byte == b'\n').map(|line| {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        (&line[..colon], line.get(colon + 1..).unwrap_or_default())
    })
}

fn settings(first: u8, second: u8) -> InjectionSettings {
    InjectionSettings {
        formats: Format::ALL.into_iter().filter(|format| second >> (*format as u8 % 8) & 1 == 1).collect(),
        same_as_received: first & 4 != 0,
        foreign: if first & 8 == 0 { Foreign::Rewrite } else { Foreign::Remove },
        strip_baggage: first & 16 != 0,
        limits: if first & 32 == 0 {
            Limits::default()
        } else {
            Limits { tracestate_bytes: 0, baggage_bytes: 40, baggage_members: 3 }
        },
        ..InjectionSettings::default()
    }
}

fn policy(first: u8) -> Policy {
    Policy {
        trust: [Trust::Continue, Trust::Continue, Trust::Restart, Trust::Ignore][usize::from(first >> 6)],
        sampler: Ratio::new(0.5).map_or(Sampler::Never, Sampler::Ratio),
        parent_based: first & 2 != 0,
    }
}
