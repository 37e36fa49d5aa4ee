//! What each format is read as, what is refused of it, and what it looks like on the way out.

mod support;

use sluicegate_trace::{Format, FormatSet, InjectionSettings, Malformed, RemoteContext, Sampled, SpanId, TraceId};
use support::{Gateway, Pairs, collect, value, values};

const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
const SPAN: u64 = 0x00f0_67aa_0ba9_02b7;

fn context(trace: u128, sampled: Sampled) -> RemoteContext {
    RemoteContext {
        trace_id: TraceId::new(trace).expect("an id"),
        span_id: SpanId::new(SPAN),
        sampled,
        random: false,
        short_id: trace >> 64 == 0,
    }
}

/// Reads one format alone.
fn read(format: Format, request: &[(&str, &str)]) -> Result<Option<RemoteContext>, Malformed> {
    let extracted = collect(request).extract(&[format]);
    match extracted.malformed {
        Some((_, why)) => Err(why),
        None => Ok(extracted.context),
    }
}

#[test]
fn b3_in_one_header() {
    let b3 = |text: &str| read(Format::B3, &[("b3", text)]);
    for (text, trace, sampled) in [
        ("4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7", TRACE, Sampled::Undecided),
        ("4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0", TRACE, Sampled::No),
        ("4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1", TRACE, Sampled::Yes),
        ("4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-d", TRACE, Sampled::Debug),
        ("4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1-05e3ac9a4f6e3b90", TRACE, Sampled::Yes),
        ("4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-1", TRACE, Sampled::Yes),
        ("a3ce929d0e0e4736-00f067aa0ba902b7-1", TRACE & u128::from(u64::MAX), Sampled::Yes),
    ] {
        assert_eq!(b3(text), Ok(Some(context(trace, sampled))), "{text}");
    }
    for (text, why) in [
        ("", Malformed::Incomplete),
        ("2", Malformed::Incomplete),
        ("4bf92f3577b34da6a3ce929d0e0e4736", Malformed::Incomplete),
        ("4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7", Malformed::Syntax),
        ("4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b", Malformed::Syntax),
        ("4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-", Malformed::Syntax),
        ("4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-2", Malformed::Syntax),
        ("4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1-5", Malformed::Syntax),
        ("4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1-05e3ac9a4f6e3b90-", Malformed::Syntax),
        ("xbf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1", Malformed::Syntax),
        ("00000000000000000000000000000000-00f067aa0ba902b7-1", Malformed::ZeroId),
        ("4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-1", Malformed::ZeroId),
    ] {
        assert_eq!(b3(text), Err(why), "{text}");
    }
    let twice = [("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"); 2];
    assert_eq!(read(Format::B3, &twice), Err(Malformed::Repeated));
}

#[test]
fn b3_in_several_headers() {
    let ids = [("X-B3-TraceId", "4bf92f3577b34da6a3ce929d0e0e4736"), ("X-B3-SpanId", "00f067aa0ba902b7")];
    let with = |more: &[(&'static str, &'static str)]| read(Format::B3Multi, &[&ids[..], more].concat());
    for (more, sampled) in [
        (&[][..], Sampled::Undecided),
        (&[("x-b3-sampled", "1")], Sampled::Yes),
        (&[("x-b3-sampled", "0")], Sampled::No),
        (&[("x-b3-sampled", "true")], Sampled::Yes),
        (&[("x-b3-sampled", "False")], Sampled::No),
        (&[("x-b3-flags", "1")], Sampled::Debug),
        (&[("x-b3-flags", "1"), ("x-b3-sampled", "0")], Sampled::Debug),
        (&[("x-b3-flags", "0"), ("x-b3-sampled", "1")], Sampled::Yes),
        (&[("x-b3-parentspanid", "whatever")], Sampled::Undecided),
    ] {
        assert_eq!(with(more), Ok(Some(context(TRACE, sampled))), "{more:?}");
    }
    assert_eq!(with(&[("x-b3-sampled", "yes")]), Err(Malformed::Syntax));
    assert_eq!(with(&[("x-b3-spanid", "00f067aa0ba902b7")]), Err(Malformed::Repeated));
    assert_eq!(read(Format::B3Multi, &ids[..1]), Err(Malformed::Incomplete));
    assert_eq!(read(Format::B3Multi, &ids[1..]), Err(Malformed::Incomplete));
    assert_eq!(read(Format::B3Multi, &[("x-b3-parentspanid", "05e3ac9a4f6e3b90")]), Ok(None));
}

#[test]
fn jaeger() {
    let jaeger = |text: &str| read(Format::Jaeger, &[("Uber-Trace-Id", text)]);
    let padded = context(TRACE, Sampled::Yes);
    assert_eq!(jaeger("4bf92f3577b34da6a3ce929d0e0e4736:00f067aa0ba902b7:0:1"), Ok(Some(padded)));
    assert_eq!(jaeger("4bf92f3577b34da6a3ce929d0e0e4736:f067aa0ba902b7:0:1"), Ok(Some(padded)), "without padding");
    assert_eq!(jaeger("4bf92f3577b34da6a3ce929d0e0e4736%3Af067aa0ba902b7%3a0%3A01"), Ok(Some(padded)), "escaped");
    for (flags, sampled) in [("0", Sampled::No), ("1", Sampled::Yes), ("3", Sampled::Debug), ("8", Sampled::No)] {
        let text = format!("4bf92f3577b34da6a3ce929d0e0e4736:f067aa0ba902b7:0:{flags}");
        assert_eq!(jaeger(&text), Ok(Some(context(TRACE, sampled))));
    }
    let short = RemoteContext { trace_id: TraceId::new(0xabc).expect("an id"), short_id: true, ..padded };
    assert_eq!(jaeger("abc:f067aa0ba902b7:0:1"), Ok(Some(short)));
    for (text, why) in [
        ("", Malformed::Syntax),
        ("abc", Malformed::Incomplete),
        ("abc:1:0", Malformed::Incomplete),
        ("abc:1:0:1:2", Malformed::Syntax),
        ("abc:1:0:100", Malformed::Syntax),
        ("abc:11111111111111111:0:1", Malformed::Syntax),
        ("0:1:0:1", Malformed::ZeroId),
        ("abc:0:0:1", Malformed::ZeroId),
        ("abc:1::1", Malformed::Syntax),
        ("+abc:1:0:1", Malformed::Syntax),
    ] {
        assert_eq!(jaeger(text), Err(why), "{text}");
    }
}

#[test]
fn opentracing() {
    let request = |trace: &'static str, sampled: &'static str| {
        [("ot-tracer-traceid", trace), ("ot-tracer-spanid", "f067aa0ba902b7"), ("ot-tracer-sampled", sampled)]
    };
    let low = TRACE & u128::from(u64::MAX);
    for (trace, id) in [("a3ce929d0e0e4736", low), ("4bf92f3577b34da6a3ce929d0e0e4736", TRACE)] {
        for (text, sampled) in [("true", Sampled::Yes), ("false", Sampled::No), ("1", Sampled::Yes), ("0", Sampled::No)]
        {
            assert_eq!(read(Format::OpenTracing, &request(trace, text)), Ok(Some(context(id, sampled))));
        }
    }
    assert_eq!(
        read(Format::OpenTracing, &request("a3ce929d0e0e4736", "")[..2]),
        Ok(Some(context(low, Sampled::Undecided)))
    );
    assert_eq!(read(Format::OpenTracing, &request("a3ce929d0e0e4736", "maybe")), Err(Malformed::Syntax));
    assert_eq!(read(Format::OpenTracing, &request("a3ce", "true")), Err(Malformed::Syntax));
    assert_eq!(read(Format::OpenTracing, &request("a3ce929d0e0e4736", "true")[1..]), Err(Malformed::Incomplete));
}

#[test]
fn datadog() {
    // 0xa3ce929d0e0e4736 and 0x00f067aa0ba902b7 in decimal.
    let ids = [("x-datadog-trace-id", "11803532876627986230"), ("x-datadog-parent-id", "67667974448284343")];
    let with = |more: &[(&'static str, &'static str)]| read(Format::Datadog, &[&ids[..], more].concat());
    let low = TRACE & u128::from(u64::MAX);
    assert_eq!(with(&[]), Ok(Some(context(low, Sampled::Undecided))));
    for (priority, sampled) in [("-1", Sampled::No), ("0", Sampled::No), ("1", Sampled::Yes), ("2", Sampled::Yes)] {
        assert_eq!(with(&[("x-datadog-sampling-priority", priority)]), Ok(Some(context(low, sampled))), "{priority}");
    }
    let tags = "_dd.p.dm=-4,_dd.p.tid=4bf92f3577b34da6";
    assert_eq!(with(&[("x-datadog-tags", tags)]), Ok(Some(context(TRACE, Sampled::Undecided))));
    for bad in ["_dd.p.tid=4bf92f35", "_dd.p.tid=4BF92F3577B34DA6", "x_dd.p.tid=4bf92f3577b34da6", ","] {
        assert_eq!(with(&[("x-datadog-tags", bad)]), Ok(Some(context(low, Sampled::Undecided))), "{bad}");
    }
    let alone = context(low, Sampled::Undecided);
    assert_eq!(read(Format::Datadog, &ids[..1]), Ok(Some(RemoteContext { span_id: None, ..alone })));
    assert_eq!(with(&[("x-datadog-sampling-priority", "high")]), Err(Malformed::Syntax));
    assert_eq!(read(Format::Datadog, &ids[1..]), Err(Malformed::Incomplete));
    for (text, why) in [
        ("0", Malformed::ZeroId),
        ("-1", Malformed::Syntax),
        ("+1", Malformed::Syntax),
        ("18446744073709551616", Malformed::Syntax),
        ("a3ce", Malformed::Syntax),
    ] {
        assert_eq!(read(Format::Datadog, &[("x-datadog-trace-id", text)]), Err(why), "{text}");
    }
}

#[test]
fn aws() {
    let xray = |text: &str| read(Format::XRay, &[("X-Amzn-Trace-Id", text)]);
    let root = "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736";
    let parent = "Parent=00f067aa0ba902b7";
    for (text, sampled) in [
        (format!("{root};{parent};Sampled=1"), Sampled::Yes),
        (format!("{root}; {parent}; Sampled=0"), Sampled::No),
        (format!("{parent};Sampled=?;{root}"), Sampled::Undecided),
        (format!("Self=1-67891234-12456789abcdef012345678;{root};{parent};Lineage=a:1|b:2;"), Sampled::Undecided),
        ("root=1-4BF92F35-77B34DA6A3CE929D0E0E4736;parent=00F067AA0BA902B7;sampled=1".to_owned(), Sampled::Yes),
    ] {
        assert_eq!(xray(&text), Ok(Some(context(TRACE, sampled))), "{text}");
    }
    let balancer = RemoteContext { span_id: None, ..context(TRACE, Sampled::Undecided) };
    assert_eq!(xray(root), Ok(Some(balancer)), "a balancer names the trace alone");
    for (text, why) in [
        (String::new(), Malformed::Incomplete),
        (parent.to_owned(), Malformed::Incomplete),
        (format!("{root};{root}"), Malformed::Repeated),
        (format!("{root};Parent=0"), Malformed::Syntax),
        (format!("{root};Parent=0000000000000000"), Malformed::ZeroId),
        (format!("{root};{parent};Sampled=2"), Malformed::Syntax),
        (format!("{root};{parent};Sampled"), Malformed::Syntax),
        ("Root=2-4bf92f35-77b34da6a3ce929d0e0e4736".to_owned(), Malformed::Syntax),
        ("Root=1-4bf92f35-77b34da6a3ce929d0e0e473".to_owned(), Malformed::Syntax),
        ("Root=1-00000000-000000000000000000000000".to_owned(), Malformed::ZeroId),
    ] {
        assert_eq!(xray(&text), Err(why), "{text}");
    }
}

#[test]
fn google() {
    let google = |text: &str| read(Format::Google, &[("X-Cloud-Trace-Context", text)]);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    for (rest, sampled) in
        [("", Sampled::Undecided), (";o=1", Sampled::Yes), (";o=0", Sampled::No), (";o=3", Sampled::Yes)]
    {
        assert_eq!(google(&format!("{trace}/67667974448284343{rest}")), Ok(Some(context(TRACE, sampled))), "{rest}");
    }
    let no_span = RemoteContext { span_id: None, ..context(TRACE, Sampled::Yes) };
    assert_eq!(google(&format!("{trace};o=1")), Ok(Some(no_span)));
    assert_eq!(google(&format!("{trace}/0;o=1")), Ok(Some(no_span)));
    for (text, why) in [
        ("".to_owned(), Malformed::Syntax),
        (format!("{trace}/"), Malformed::Syntax),
        (format!("{trace}/f0;o=1"), Malformed::Syntax),
        (format!("{trace}/1;o="), Malformed::Syntax),
        (format!("{trace}/1;x=1"), Malformed::Syntax),
        (format!("{}/1;o=1", "0".repeat(32)), Malformed::ZeroId),
        (format!("{}/1;o=1", &trace[1..]), Malformed::Syntax),
    ] {
        assert_eq!(google(&text), Err(why), "{text}");
    }
}

#[test]
fn grpc_trace_bin() {
    let bin = |text: &str| read(Format::GrpcTraceBin, &[("grpc-trace-bin", text)]);
    // 00 | 00 4bf9…4736 | 01 00f0…02b7 | 02 01
    let sampled = "AABL+S81d7NNpqPOkp0ODkc2AQDwZ6oLqQK3AgE";
    assert_eq!(bin(sampled), Ok(Some(context(TRACE, Sampled::Yes))));
    assert_eq!(bin(&format!("{sampled}=")), Ok(Some(context(TRACE, Sampled::Yes))), "with padding");
    assert_eq!(bin("AABL+S81d7NNpqPOkp0ODkc2AQDwZ6oLqQK3AgA"), Ok(Some(context(TRACE, Sampled::No))));
    assert_eq!(bin(&sampled[..36]), Ok(Some(context(TRACE, Sampled::Undecided))), "without options");
    for (text, why) in [
        ("", Malformed::Incomplete),
        ("AAA", Malformed::Incomplete),
        ("AQBL+S81d7NNpqPOkp0ODkc2AQDwZ6oLqQK3AgE", Malformed::Version),
        ("AABL-S81d7NNpqPOkp0ODkc2AQDwZ6oLqQK3AgE", Malformed::Syntax),
        ("AABL+S81d7NNpqPOkp0ODkc2AQDwZ6oLqQK3A", Malformed::Syntax),
        ("AAAAAAAAAAAAAAAAAAAAAAAAAQDwZ6oLqQK3AgE", Malformed::ZeroId),
    ] {
        assert_eq!(bin(text), Err(why), "{text}");
    }
    assert_eq!(bin(&sampled.repeat(10)), Err(Malformed::Syntax), "longer than anything that is decoded");
}

/// The whole of what is sent where a W3C context came in and every format is configured.
#[test]
fn every_format_as_it_is_written() {
    let settings = InjectionSettings { formats: FormatSet::from_iter(Format::ALL), ..InjectionSettings::default() };
    let gateway = Gateway { settings, ..Gateway::default() };
    let request = [("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03")];
    let tries = gateway.tries(&request, &[u64::MAX, 0x00f0_67aa_0ba9_02b7]);
    let expected: Pairs = [
        ("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1"),
        ("grpc-trace-bin", "AABL+S81d7NNpqPOkp0ODkc2AQDwZ6oLqQK3AgE"),
        ("ot-tracer-sampled", "true"),
        ("ot-tracer-spanid", "00f067aa0ba902b7"),
        ("ot-tracer-traceid", "a3ce929d0e0e4736"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03"),
        ("uber-trace-id", "4bf92f3577b34da6a3ce929d0e0e4736:00f067aa0ba902b7:0:1"),
        ("x-amzn-trace-id", "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=1"),
        ("x-b3-sampled", "1"),
        ("x-b3-spanid", "00f067aa0ba902b7"),
        ("x-b3-traceid", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("x-cloud-trace-context", "4bf92f3577b34da6a3ce929d0e0e4736/67667974448284343;o=1"),
        ("x-datadog-parent-id", "67667974448284343"),
        ("x-datadog-sampling-priority", "1"),
        ("x-datadog-tags", "_dd.p.tid=4bf92f3577b34da6"),
        ("x-datadog-trace-id", "11803532876627986230"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    assert_eq!(tries[1], expected, "the shorter span id leaves nothing of the longer one");
    assert_eq!(value(&tries[0], "x-cloud-trace-context"), "4bf92f3577b34da6a3ce929d0e0e4736/18446744073709551615;o=1");
    let debug = gateway.pass(&[("b3", "a3ce929d0e0e4736-00f067aa0ba902b7-d")]);
    assert_eq!(value(&debug, "b3"), "a3ce929d0e0e4736-aaaabbbbccccdddd-d", "16 digits come back as 16 digits");
    assert_eq!(value(&debug, "x-b3-flags"), "1");
    assert_eq!(values(&debug, "x-b3-sampled"), [""; 0]);
    assert_eq!(value(&debug, "uber-trace-id"), "a3ce929d0e0e4736:aaaabbbbccccdddd:0:3");
    assert_eq!(value(&debug, "x-datadog-sampling-priority"), "2");
    assert_eq!(value(&debug, "traceparent"), "00-0000000000000000a3ce929d0e0e4736-aaaabbbbccccdddd-01");
    assert_eq!(values(&debug, "x-datadog-tags"), [""; 0]);
}

#[test]
fn formats_have_names() {
    for format in Format::ALL {
        assert_eq!(format.to_string().parse(), Ok(format));
    }
    assert_eq!("w3c".parse(), Ok(Format::W3c));
    let error = "b4".parse::<Format>().expect_err("no format");
    assert!(error.to_string().starts_with("`b4` is not a trace format; use tracecontext, b3,"), "{error}");
}
