//! Requests with headers of several formats: which one is believed, and that none is left to contradict it.

mod support;

use sluicegate_trace::{Foreign, Format, FormatSet, Limits, Member, Trust};
use support::{Gateway, Pairs, value, values};

const W3C: (&str, &str) = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
const B3: (&str, &str) = ("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1");
const SENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-aaaabbbbccccdddd-01";

fn only(formats: &[Format]) -> Gateway {
    let mut gateway = Gateway::default();
    gateway.settings.formats = formats.iter().copied().collect();
    gateway
}

fn owned(fields: &[(&str, &str)]) -> Pairs {
    let mut fields: Pairs = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    fields.sort();
    fields
}

#[test]
fn the_format_that_came_in_and_those_configured_go_out() {
    let sent = Gateway::default().pass(&[("accept", "*/*"), B3, ("user-agent", "x")]);
    let expected = [
        ("accept", "*/*"),
        ("b3", "80f198ee56343ba864fe8b2a57d3eff7-aaaabbbbccccdddd-1"),
        ("traceparent", "00-80f198ee56343ba864fe8b2a57d3eff7-aaaabbbbccccdddd-01"),
        ("user-agent", "x"),
    ];
    assert_eq!(sent, owned(&expected));
    let mut gateway = only(&[Format::B3Multi]);
    gateway.settings.same_as_received = false;
    gateway.settings.foreign = Foreign::Remove;
    let sent = gateway.pass(&[B3]);
    let names: Vec<&str> = sent.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["x-b3-sampled", "x-b3-spanid", "x-b3-traceid"], "translated");
}

#[test]
fn nothing_is_sent_where_nothing_is_configured_and_nothing_came() {
    let sent = only(&[]).pass(&[("accept", "*/*")]);
    assert_eq!(sent, owned(&[("accept", "*/*")]));
    assert_eq!(only(&[]).pass(&[B3]).len(), 1, "what came goes on");
}

#[test]
fn the_first_readable_format_of_the_list_is_believed() {
    assert_eq!(value(&Gateway::default().pass(&[B3, W3C]), "traceparent"), SENT);
    let mut gateway = Gateway { order: vec![Format::B3, Format::W3c], ..Gateway::default() };
    assert!(value(&gateway.pass(&[W3C, B3]), "traceparent").contains("80f198ee56343ba864fe8b2a57d3eff7"));
    gateway.order = vec![Format::W3c, Format::B3];
    let broken = ("traceparent", "00-xyz");
    assert!(value(&gateway.pass(&[broken, B3]), "traceparent").contains("80f198ee56343ba864fe8b2a57d3eff7"));
    gateway.order = vec![Format::W3c];
    let sent = gateway.pass(&[B3]);
    let (w3c, b3) = (value(&sent, "traceparent"), value(&sent, "b3"));
    assert!(!w3c.contains("80f198ee"), "a format that is not in the list is not believed");
    assert_eq!(&w3c[3..52], &b3[..49], "and does not contradict");
}

#[test]
fn b3_in_one_header_wins_over_several() {
    let multi = [("x-b3-traceid", "11111111111111112222222222222222"), ("x-b3-spanid", "3333333333333333")];
    let sent = Gateway::default().pass(&[multi[0], multi[1], B3]);
    assert_eq!(value(&sent, "x-b3-traceid"), "80f198ee56343ba864fe8b2a57d3eff7");
    let sent = Gateway::default().pass(&[multi[0], multi[1], ("b3", "nonsense")]);
    assert_eq!(value(&sent, "b3"), "11111111111111112222222222222222-aaaabbbbccccdddd-1");
}

#[test]
fn foreign_headers_are_rewritten_removed_or_kept() {
    let request = [W3C, B3, ("x-b3-parentspanid", "05e3ac9a4f6e3b90"), ("uber-trace-id", "garbage")];
    let mut gateway = Gateway::default();
    let rewritten = gateway.pass(&request);
    assert_eq!(value(&rewritten, "b3"), "4bf92f3577b34da6a3ce929d0e0e4736-aaaabbbbccccdddd-1");
    assert_eq!(value(&rewritten, "uber-trace-id"), "4bf92f3577b34da6a3ce929d0e0e4736:aaaabbbbccccdddd:0:1");
    assert_eq!(values(&rewritten, "x-b3-parentspanid"), [""; 0], "the parent of a span that is not sent");
    gateway.settings.foreign = Foreign::Remove;
    assert_eq!(gateway.pass(&request), owned(&[("traceparent", SENT)]));
    gateway.settings.foreign = Foreign::Keep;
    assert_eq!(gateway.pass(&request), owned(&[("traceparent", SENT), request[1], request[2], request[3]]));
}

#[test]
fn doubles_with_underscores_are_replaced_too() {
    let sent =
        Gateway::default().pass(&[("x-b3-sampled", "0"), ("X_B3_TraceId", "1"), ("x_b3-spanid", "2"), ("a_b", "c")]);
    let names: Vec<&str> = sent.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a_b", "traceparent", "x-b3-sampled", "x-b3-spanid", "x-b3-traceid"]);
}

#[test]
fn a_tracestate_goes_with_its_trace_alone() {
    let state = ("tracestate", "dd=s:2;o:rum;t.dm:-4,es=s:1,ot=th:8");
    assert_eq!(value(&Gateway::default().pass(&[W3C, state]), "tracestate"), state.1, "byte for byte");
    assert_eq!(values(&Gateway::default().pass(&[B3, state]), "tracestate"), [""; 0]);
    let gateway = Gateway { order: vec![Format::B3, Format::W3c], ..Gateway::default() };
    assert_eq!(values(&gateway.pass(&[B3, W3C, state]), "tracestate"), [""; 0], "of another trace");
    let same = ("b3", "4bf92f3577b34da6a3ce929d0e0e4736-e457b5a2e4d86bd1-1");
    let flagged = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03");
    let sent = gateway.pass(&[same, flagged, state]);
    assert_eq!(value(&sent, "tracestate"), state.1, "of the same trace, though B3 was read");
    assert!(value(&sent, "traceparent").ends_with("-03"), "so does the random flag");
}

#[test]
fn our_own_member_stands_first_and_once() {
    let mut gateway = Gateway::default();
    gateway.settings.member = Some(Member::new("sg@edge", "v:1").expect("a member"));
    let state = |request: &[(&str, &str)]| value(&gateway.pass(request), "tracestate").to_owned();
    assert_eq!(state(&[]), "sg@edge=v:1");
    assert_eq!(state(&[W3C, ("tracestate", "a=1,sg@edge=v:0,b=2,sg@edge=old")]), "sg@edge=v:1,a=1,b=2");
    let full: Vec<String> = (0..32).map(|number| format!("k{number}=v")).collect();
    let sent = state(&[W3C, ("tracestate", &full.join(","))]);
    assert_eq!(sent.split(',').count(), 32);
    assert!(sent.starts_with("sg@edge=v:1,k0=v,") && sent.ends_with(",k30=v"), "the right-most goes: {sent}");
    assert!(Member::new("Sg", "1").is_err() && Member::new("sg", "a,b").is_err() && Member::new("sg", "a ").is_err());
}

#[test]
fn a_long_tracestate_loses_long_members_then_the_right_most() {
    let mut gateway = Gateway::default();
    gateway.settings.limits = Limits { tracestate_bytes: 0, ..Limits::default() };
    let long = |key: &str| format!("{key}={}", "x".repeat(200));
    let short = |number: usize| format!("s{number:02}={}", "y".repeat(60));
    let state = |members: &[String]| {
        let joined = members.join(",");
        value(&gateway.pass(&[W3C, ("tracestate", &joined)]), "tracestate").to_owned()
    };
    let within = [long("a"), long("b"), short(1)];
    assert_eq!(state(&within), within.join(","), "512 bytes are always passed on");
    assert_eq!(
        state(&[long("a"), short(1), long("b"), short(2), long("c")]),
        [long("a"), short(1), short(2)].join(","),
        "long ones go first, from the right"
    );
    let many: Vec<String> = (0..12).map(short).collect();
    assert_eq!(state(&many), many[..7].join(","), "then the right-most");
}

#[test]
fn baggage_crosses_within_bounds() {
    let member = |number: usize| format!("key{number:03}=value{number:03};prop=1");
    let all: Vec<String> = (0..180).map(member).collect();
    let request = [("baggage", all[..90].join(",")), ("Baggage", all[90..].join(","))];
    let request: Vec<(&str, &str)> = request.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let sent = Gateway::default().pass(&request);
    assert_eq!(values(&sent, "baggage").len(), 2, "untouched");
    let one_more = [&request[..], &[("baggage", "a=b")]].concat();
    assert_eq!(value(&Gateway::default().pass(&one_more), "baggage"), all.join(","), "181 members are cut to 180");
}

#[test]
fn a_baggage_bomb_is_cut_by_members() {
    let bomb = format!("bomb={}", "x".repeat(9000));
    let sent = Gateway::default().pass(&[("baggage", "a=1"), ("baggage", &bomb), ("baggage", "b=2")]);
    assert_eq!(value(&sent, "baggage"), "a=1,b=2");
    assert_eq!(values(&Gateway::default().pass(&[("baggage", &bomb)]), "baggage"), [""; 0]);
    let whole = format!("k={}", "x".repeat(8190));
    assert_eq!(value(&Gateway::default().pass(&[("baggage", &whole)]), "baggage").len(), 8192);
}

#[test]
fn baggage_of_every_kind_is_stripped_on_demand() {
    let request = [
        W3C,
        ("baggage", "a=1"),
        ("uberctx-user", "1"),
        ("UberCtx-Other", "2"),
        ("ot-baggage-x", "3"),
        ("jaeger-baggage", "b=1"),
    ];
    let mut gateway = Gateway::default();
    assert_eq!(gateway.pass(&request).len(), 6, "forwarded by default");
    gateway.settings.strip_baggage = true;
    assert_eq!(gateway.pass(&request), owned(&[("traceparent", SENT)]));
}

#[test]
fn datadog_keeps_what_belongs_to_its_trace() {
    let ids = [("x-datadog-trace-id", "11803532876627986230"), ("x-datadog-parent-id", "67667974448284343")];
    let more = [
        ("x-datadog-sampling-priority", "2"),
        ("x-datadog-origin", "rum"),
        ("x-datadog-tags", "_dd.p.dm=-4,_dd.p.tid=4bf92f3577b34da6"),
    ];
    let request = [&ids[..], &more].concat();
    let sent = Gateway::default().pass(&request);
    assert_eq!(value(&sent, "traceparent"), SENT);
    assert_eq!(value(&sent, "x-datadog-parent-id"), "12297848147757817309");
    assert_eq!(value(&sent, "x-datadog-sampling-priority"), "2", "a finer grade of yes");
    assert_eq!(value(&sent, "x-datadog-origin"), "rum");
    assert_eq!(value(&sent, "x-datadog-tags"), more[2].1);
    // Headers of 64 bits beside a context of 128: the same trace.
    let sent = Gateway::default().pass(&[&[W3C][..], &ids, &[("x-datadog-tags", "_dd.p.dm=-4")]].concat());
    assert_eq!(value(&sent, "x-datadog-tags"), "_dd.p.dm=-4,_dd.p.tid=4bf92f3577b34da6");
    // Another trace.
    let sent = Gateway::default().pass(&[&[("traceparent", &*W3C.1.replace("4736", "4737"))], &request[..]].concat());
    assert_eq!(value(&sent, "x-datadog-tags"), "_dd.p.tid=4bf92f3577b34da6");
    assert_eq!(value(&sent, "x-datadog-sampling-priority"), "1");
    assert_eq!(values(&sent, "x-datadog-origin"), [""; 0]);
    // Tags beyond what the tracers take.
    let long = format!("_dd.p.x={}", "y".repeat(500));
    let sent = Gateway::default().pass(&[&[W3C][..], &ids, &[("x-datadog-tags", &long)]].concat());
    assert_eq!(value(&sent, "x-datadog-tags"), "_dd.p.tid=4bf92f3577b34da6");
}

#[test]
fn what_balancers_of_aws_added_stays() {
    let root = "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736";
    let header = format!("Self=1-67891234-12456789abcdef012345678;{root};Lineage=a:1");
    let sent = Gateway::default().pass(&[("X-Amzn-Trace-Id", &header)]);
    let ours = format!("{root};Parent=aaaabbbbccccdddd;Sampled=1");
    assert_eq!(value(&sent, "x-amzn-trace-id"), format!("{ours};Self=1-67891234-12456789abcdef012345678;Lineage=a:1"));
    assert_eq!(value(&sent, "traceparent"), SENT, "the trace that the balancer named");
    let other = ("X-Amzn-Trace-Id", "Self=1-2-3;Root=1-4bf92f35-77b34da6a3ce929d0e0e4737");
    assert_eq!(
        value(&Gateway::default().pass(&[W3C, other]), "x-amzn-trace-id"),
        ours,
        "of another trace nothing stays"
    );
}

#[test]
fn a_trace_that_64_bits_cannot_name_leaves_no_header_of_64_bits() {
    let request = [
        ("traceparent", "00-4bf92f3577b34da60000000000000000-00f067aa0ba902b7-01"),
        ("x-datadog-trace-id", "5"),
        ("ot-tracer-traceid", "00000000000000ff"),
    ];
    let sent = Gateway::default().pass(&request);
    assert_eq!(sent, owned(&[("traceparent", "00-4bf92f3577b34da60000000000000000-aaaabbbbccccdddd-01")]));
}

/// In one format, out in W3C and each format: all of them name one trace, one span and one decision.
#[test]
fn every_pair_of_formats_agrees() {
    let mut sample = only(&Format::ALL);
    sample.settings.same_as_received = false;
    let everything = sample.pass(&[W3C]);
    for from in Format::ALL {
        let mut writer = only(&[from]);
        writer.settings.same_as_received = false;
        writer.settings.foreign = Foreign::Remove;
        let came = writer.pass(&[W3C]);
        let request: Vec<(&str, &str)> = came.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        for to in Format::ALL {
            let mut gateway = only(&[to, Format::W3c]);
            gateway.settings.foreign = Foreign::Remove;
            let sent = gateway.pass(&request);
            let fields: Vec<(&str, &str)> = sent.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let expected = FormatSet::EMPTY.with(from).with(to).with(Format::W3c);
            assert_eq!(support::collect(&fields).formats(), expected, "{from} to {to}");
            for format in expected.iter() {
                let read = support::collect(&fields).extract(&[format]).context.expect("a context");
                assert_eq!(read.trace_id.low(), 0xa3ce_929d_0e0e_4736, "{from} to {to}, {format}");
                assert_eq!(read.span_id.map(|id| id.get()), Some(support::NEW_SPAN), "{from} to {to}, {format}");
                assert_eq!(read.sampled.decided(), Some(true), "{from} to {to}, {format}");
            }
        }
    }
    assert_eq!(everything.len(), 16);
}

#[test]
fn an_edge_restarts_in_every_header() {
    let mut gateway = Gateway::default();
    gateway.policy.trust = Trust::Restart;
    let request = [
        W3C,
        ("tracestate", "dd=s:2"),
        B3,
        ("jaeger-debug-id", "please"),
        ("x-datadog-trace-id", "1"),
        ("x-datadog-origin", "rum"),
    ];
    let sent = gateway.pass(&request);
    let trace = "6666555544443333222211110000ffff";
    assert_eq!(value(&sent, "traceparent"), format!("00-{trace}-aaaabbbbccccdddd-03"));
    assert_eq!(value(&sent, "b3"), format!("{trace}-aaaabbbbccccdddd-1"));
    assert_eq!(value(&sent, "uber-trace-id"), format!("{trace}:aaaabbbbccccdddd:0:1"));
    for gone in ["tracestate", "jaeger-debug-id", "x-datadog-origin"] {
        assert_eq!(values(&sent, gone), [""; 0], "{gone}");
    }
}
