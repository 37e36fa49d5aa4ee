//! What requests become as spans, read back with the messages that collectors read them with.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not there")]

mod request_support;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ScopeSpans, Span};
use proptest::prelude::*;
use prost::Message as _;
use request_support::{Fields, Request, attempt, failed_attempt, trace};
use sluicegate_telemetry::span::{MAX_SPANS, MAX_TEXT, Spans};
use sluicegate_telemetry::{
    DropReason, FaultReason, Protocol, RequestSinks as _, SpanQueue, SpanSinks, TlsVersion, UpstreamError,
};
use sluicegate_trace::{RemoteContext, Sampled, SpanId, TraceId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

/// When every request here ended.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(1_800_000_000_123_456_789)
}

fn spans(request: &Request) -> Vec<Span> {
    let mut bytes = Vec::new();
    let count = request.finish(|request| Spans::default().write(request, now(), &mut bytes));
    let spans = ScopeSpans::decode(bytes.as_slice()).unwrap().spans;
    assert_eq!(spans.len(), count);
    spans
}

/// The attributes, as text with the kind of their value in front where it is not text.
fn attributes(span: &Span) -> BTreeMap<String, String> {
    let shown = span.attributes.iter().map(|pair| {
        let value = match pair.value.as_ref().and_then(|value| value.value.as_ref()).unwrap() {
            Value::StringValue(text) => text.clone(),
            Value::IntValue(number) => format!("int {number}"),
            Value::DoubleValue(number) => format!("double {number}"),
            Value::BoolValue(flag) => format!("bool {flag}"),
            other => panic!("{}: {other:?}", pair.key),
        };
        (pair.key.clone(), value)
    });
    let map: BTreeMap<_, _> = shown.collect();
    assert_eq!(map.len(), span.attributes.len(), "no key twice: {:?}", span.attributes);
    map
}

#[track_caller]
fn assert_attributes(span: &Span, expected: &[(&str, &str)]) {
    let expected = expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    assert_eq!(attributes(span), expected);
}

#[track_caller]
fn assert_status(span: &Span, code: StatusCode, message: &str) {
    let status = span.status.clone().unwrap_or_default();
    assert_eq!((status.code(), status.message.as_str()), (code, message), "{}", span.name);
}

#[test]
fn a_request_and_its_try_are_two_spans_with_everything_that_is_known() {
    let [server, client] = <[Span; 2]>::try_from(spans(&Request::default())).unwrap();

    assert_eq!(server.name, "GET /cart");
    assert_eq!(server.kind(), SpanKind::Server);
    assert_eq!(server.trace_id, trace().trace_id.get().to_be_bytes());
    assert_eq!(server.span_id, trace().span_id.get().to_be_bytes());
    assert_eq!(server.parent_span_id, trace().parent.unwrap().get().to_be_bytes());
    assert_eq!(server.flags, 0x303, "recorded, of a random id, with a parent elsewhere");
    assert_eq!(server.end_time_unix_nano, 1_800_000_000_123_456_789);
    assert_eq!(server.end_time_unix_nano - server.start_time_unix_nano, 20_000_000);
    assert_status(&server, StatusCode::Unset, "");
    assert_attributes(
        &server,
        &[
            ("client.address", "203.0.113.7"),
            ("http.request.method", "GET"),
            ("http.response.body.size", "int 120"),
            ("http.response.status_code", "int 200"),
            ("http.route", "/cart"),
            ("k8s.ingress.name", "front"),
            ("k8s.namespace.name", "shop"),
            ("k8s.service.name", "cart"),
            ("network.peer.address", "198.51.100.7"),
            ("network.peer.port", "int 40000"),
            ("network.protocol.version", "1.1"),
            ("server.address", "shop.example"),
            ("server.port", "int 80"),
            ("sluicegate.request.id", "0123456789abcdef0123456789abcdef"),
            ("sluicegate.service.port", "80"),
            ("url.path", "/cart/7"),
            ("url.scheme", "http"),
            ("user_agent.original", "curl/8.5.0"),
        ],
    );

    assert_eq!(client.name, "GET");
    assert_eq!(client.kind(), SpanKind::Client);
    assert_eq!(client.trace_id, server.trace_id);
    assert_eq!(client.span_id, 0x0a0b_0c0d_0e0f_0001_u64.to_be_bytes());
    assert_eq!(client.parent_span_id, server.span_id);
    assert_eq!(client.flags, 0x103, "its parent is here");
    assert_eq!(client.start_time_unix_nano - server.start_time_unix_nano, 1_000_000);
    assert_eq!(server.end_time_unix_nano - client.end_time_unix_nano, 1_000_000);
    assert_status(&client, StatusCode::Unset, "");
    assert_attributes(
        &client,
        &[
            ("http.request.method", "GET"),
            ("http.response.status_code", "int 200"),
            ("k8s.namespace.name", "shop"),
            ("k8s.node.name", "node-a"),
            ("k8s.pod.name", "cart-1"),
            ("k8s.service.name", "cart"),
            ("network.peer.address", "192.0.2.101"),
            ("network.peer.port", "int 8080"),
            ("network.protocol.version", "1.1"),
            ("server.address", "cart.shop"),
            ("server.port", "int 80"),
            ("sluicegate.connect.duration", "double 0.002"),
            ("sluicegate.connection.reused", "bool false"),
            ("sluicegate.first_byte.duration", "double 0.012"),
            ("sluicegate.queue.duration", "double 0.00025"),
            ("sluicegate.service.port", "80"),
            ("url.full", "http://shop.example/cart/7"),
        ],
    );
}

#[test]
fn what_is_not_recorded_becomes_nothing() {
    let unsampled =
        Request { trace: Some(sluicegate_trace::Trace { sampled: false, ..trace() }), ..Request::default() };
    let untraced = Request { trace: None, ..Request::default() };
    let probe = Request { is_probe: true, ..Request::default() };
    for request in [unsampled, untraced, probe] {
        assert!(spans(&request).is_empty());
    }
}

#[test]
fn every_try_is_a_span_and_says_why_it_followed() {
    let plain = Request::default();
    let started = plain.started;
    let mut last = attempt(started, 3);
    (last.reused, last.connect, last.status) = (true, None, Some(503));
    let tries = vec![
        failed_attempt(started, 1, UpstreamError::Refused),
        failed_attempt(started, 2, UpstreamError::Reset),
        last,
    ];
    let request = Request { tries, status: 503, ..plain };
    let spans = spans(&request);
    let ids: Vec<&[u8]> = spans.iter().map(|span| span.span_id.as_slice()).collect();
    assert!(ids.iter().enumerate().all(|(place, id)| !ids[..place].contains(id)), "{ids:?}");
    let told = |span: &Span| {
        let attributes = attributes(span);
        ["http.request.resend_count", "sluicegate.retry.reason", "error.type", "http.response.status_code"]
            .map(|key| attributes.get(key).cloned().unwrap_or_default())
    };
    assert_eq!(told(&spans[1]), ["", "", "refused", ""]);
    assert_eq!(told(&spans[2]), ["int 1", "refused", "reset", ""]);
    assert_eq!(told(&spans[3]), ["int 2", "reset", "503", "int 503"]);
    assert_eq!(attributes(&spans[3])["sluicegate.connection.reused"], "bool true");
    assert_eq!(attributes(&spans[3]).get("sluicegate.connect.duration"), None);
    spans[1..].iter().for_each(|span| assert_status(span, StatusCode::Error, ""));
    assert_eq!(told(&spans[0]), ["", "", "503", "int 503"]);
    assert_status(&spans[0], StatusCode::Error, "");
}

#[test]
fn of_very_many_tries_the_first_and_the_last_are_kept() {
    let plain = Request::default();
    let tries: Vec<_> = (0..100).map(|number| failed_attempt(plain.started, number, UpstreamError::Refused)).collect();
    let spans = spans(&Request { tries, ..plain });
    assert_eq!(spans.len(), MAX_SPANS);
    let peers: Vec<String> = spans[1..].iter().map(|span| attributes(span)["network.peer.address"].clone()).collect();
    assert_eq!((peers[0].as_str(), peers[MAX_SPANS - 2].as_str()), ("192.0.2.100", "192.0.2.199"));
}

#[test]
fn an_error_is_what_the_server_is_to_blame_for() {
    let fault = |reason, words: &str| Some((reason, words.to_owned()));
    let of = |status, fault| spans(&Request { status, fault, tries: Vec::new(), ..Request::default() }).remove(0);
    let shown = |span: &Span| {
        let attributes = attributes(span);
        ["error.type", "sluicegate.fault.reason", "http.response.status_code"]
            .map(|key| attributes.get(key).cloned().unwrap_or_default())
    };

    let span = of(404, fault(FaultReason::NoRoute, "no Ingress claims the host"));
    assert_eq!(shown(&span), ["", "no_route", "int 404"]);
    assert_status(&span, StatusCode::Unset, "");

    let span = of(502, fault(FaultReason::ConnectRefused, "192.0.2.1:80 refused"));
    assert_eq!(shown(&span), ["connect_refused", "connect_refused", "int 502"]);
    assert_status(&span, StatusCode::Error, "192.0.2.1:80 refused");

    // The head was sent, and then the backend went.
    let span = of(200, fault(FaultReason::UpstreamReset, "cut"));
    assert_eq!(shown(&span), ["upstream_reset", "upstream_reset", "int 200"]);
    assert_status(&span, StatusCode::Error, "cut");

    // Nobody was sent a 499.
    let span = of(499, fault(FaultReason::ClientClosed, "gone"));
    assert_eq!(shown(&span), ["", "client_closed", ""]);
    assert_status(&span, StatusCode::Unset, "");

    let span = of(501, None);
    assert_eq!(shown(&span), ["501", "", "int 501"]);
    assert_status(&span, StatusCode::Error, "");

    // For whoever asks, 4xx is one too.
    let plain = Request::default();
    let refused = sluicegate_telemetry::Try { status: Some(404), ..attempt(plain.started, 1) };
    let spans = spans(&Request { status: 404, tries: vec![refused], ..plain });
    assert_status(&spans[0], StatusCode::Unset, "");
    assert_status(&spans[1], StatusCode::Error, "");
    assert_eq!(attributes(&spans[1])["error.type"], "404");
}

#[test]
fn grpc_calls_are_named_and_judged_by_grpc() {
    let call = |grpc_status| Request {
        method: b"POST".to_vec(),
        path: b"/shop.v1.Cart/Add".to_vec(),
        protocol: Protocol::Http2,
        request_fields: Fields::default().with("content-type", "application/grpc+proto"),
        grpc_status,
        ..Request::default()
    };
    let ok = spans(&call(Some(0)));
    for span in &ok {
        assert_eq!(span.name, "shop.v1.Cart/Add");
        let attributes = attributes(span);
        let shown =
            ["rpc.system", "rpc.service", "rpc.method", "rpc.grpc.status_code"].map(|key| attributes[key].as_str());
        assert_eq!(shown, ["grpc", "shop.v1.Cart", "Add", "int 0"]);
        assert_status(span, StatusCode::Unset, "");
    }
    assert_eq!(attributes(&ok[0])["network.protocol.version"], "2");
    for (status, server, name) in [
        (5, StatusCode::Unset, "NOT_FOUND"),
        (13, StatusCode::Error, "INTERNAL"),
        (14, StatusCode::Error, "UNAVAILABLE"),
        (99, StatusCode::Unset, "_OTHER"),
    ] {
        let spans = spans(&call(Some(status)));
        assert_status(&spans[0], server, "");
        assert_status(&spans[1], StatusCode::Error, "");
        assert_eq!(attributes(&spans[1])["error.type"], name);
    }
}

#[test]
fn secrets_of_queries_stay_out() {
    let request = Request {
        query: Some(b"file=a&X-Amz-Signature=0011&sig=2233".to_vec()),
        authority: b"user:hunter2@shop.example:8443".to_vec(),
        ..Request::default()
    };
    let spans = spans(&request);
    assert_eq!(attributes(&spans[0])["url.query"], "file=a&X-Amz-Signature=REDACTED&sig=REDACTED");
    assert_eq!(attributes(&spans[0])["server.address"], "shop.example");
    assert_eq!(attributes(&spans[0])["server.port"], "int 8443");
    assert_eq!(
        attributes(&spans[1])["url.full"],
        "http://shop.example:8443/cart/7?file=a&X-Amz-Signature=REDACTED&sig=REDACTED"
    );
    let all = format!("{spans:?}");
    assert!(["0011", "2233", "hunter2"].iter().all(|secret| !all.contains(secret)), "{all}");
}

#[test]
fn tls_and_addresses_of_both_families_are_told() {
    let request = Request {
        tls: Some((TlsVersion::Tls13, Some("shop.example".to_owned()))),
        protocol: Protocol::Http2,
        authority: b"[2001:db8::10]".to_vec(),
        client: "[2001:db8::7]:1".parse().unwrap(),
        peer: "[::ffff:198.51.100.9]:5".parse().unwrap(),
        method: b"PROPFIND".to_vec(),
        route: None,
        tries: Vec::new(),
        status: 0,
        ..Request::default()
    };
    let span = spans(&request).remove(0);
    assert_eq!(span.name, "HTTP");
    assert_attributes(
        &span,
        &[
            ("client.address", "2001:db8::7"),
            ("http.request.method", "_OTHER"),
            ("http.request.method_original", "PROPFIND"),
            ("http.response.body.size", "int 120"),
            ("network.peer.address", "198.51.100.9"),
            ("network.peer.port", "int 5"),
            ("network.protocol.version", "2"),
            ("server.address", "2001:db8::10"),
            ("server.port", "int 443"),
            ("sluicegate.request.id", "0123456789abcdef0123456789abcdef"),
            ("tls.client.server_name", "shop.example"),
            ("tls.protocol.version", "1.3"),
            ("url.path", "/cart/7"),
            ("url.scheme", "https"),
            ("user_agent.original", "curl/8.5.0"),
        ],
    );
}

#[test]
fn a_trace_that_began_anew_is_linked_to_the_one_outside() {
    let outside = RemoteContext {
        trace_id: TraceId::from_random(7),
        span_id: SpanId::new(9),
        sampled: Sampled::Yes,
        random: false,
        short_id: false,
    };
    let with = |link| {
        let trace = sluicegate_trace::Trace { parent: None, link: Some(link), ..trace() };
        spans(&Request { trace: Some(trace), ..Request::default() })
    };
    let spans = with(outside);
    assert!(spans[0].parent_span_id.is_empty());
    assert_eq!(spans[0].flags, 0x103);
    let [link] = spans[0].links.as_slice() else { panic!("{:?}", spans[0].links) };
    assert_eq!(link.trace_id, 7_u128.to_be_bytes());
    assert_eq!(link.span_id, 9_u64.to_be_bytes());
    assert_eq!(link.flags, 0x301);
    assert!(spans[1].links.is_empty());
    assert!(with(RemoteContext { span_id: None, ..outside })[0].links.is_empty());
}

#[test]
fn what_is_remembered_of_one_request_does_not_stand_in_another() {
    let plain = Request::default;
    let route = |change: fn(&mut request_support::Route)| {
        let mut request = Request::default();
        change(request.route.as_mut().unwrap());
        request
    };
    let attempted = |change: fn(&mut sluicegate_telemetry::Try)| {
        let mut request = Request::default();
        change(&mut request.tries[0]);
        request
    };
    let requests = [
        plain(),
        Request { authority: b"blog.example".to_vec(), ..plain() },
        Request { method: b"PUT".to_vec(), ..plain() },
        Request { protocol: Protocol::Http2, ..plain() },
        Request { tls: Some((TlsVersion::Tls12, None)), ..plain() },
        Request { route: None, ..plain() },
        route(|route| route.namespace = "other".into()),
        route(|route| route.ingress = "other".into()),
        route(|route| route.path = "/other".to_owned()),
        route(|route| route.service = None),
        route(|route| route.service = Some(("cart".into(), "http".to_owned()))),
        attempted(|attempt| attempt.pod = None),
        attempted(|attempt| attempt.node = Some("node-b".into())),
        attempted(|attempt| attempt.endpoint = "[2001:db8::65]:8080".parse().unwrap()),
        attempted(|attempt| attempt.protocol = Protocol::Http2),
    ];
    let mut one = Spans::default();
    for request in requests.iter().chain(requests.iter().rev()) {
        let (mut fresh, mut again) = (Vec::new(), Vec::new());
        request.finish(|request| {
            Spans::default().write(request, now(), &mut fresh);
            one.write(request, now(), &mut again);
        });
        assert_eq!(ScopeSpans::decode(again.as_slice()).unwrap(), ScopeSpans::decode(fresh.as_slice()).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever clients send, a collector can read it, and it is bounded.
    #[test]
    fn any_bytes_become_a_span_that_can_be_read(
        method in proptest::collection::vec(any::<u8>(), 0..40),
        authority in proptest::collection::vec(any::<u8>(), 0..300),
        path in proptest::collection::vec(any::<u8>(), 0..5000),
        query in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..5000)),
        agent in proptest::collection::vec(any::<u8>(), 0..5000),
        status in any::<u16>(),
        bytes in any::<u64>(),
    ) {
        let fields = Fields(vec![("user-agent", agent)]);
        let request = Request {
            method, authority, path, query, status, request_fields: fields, bytes_in: bytes, ..Request::default()
        };
        for span in spans(&request) {
            for text in attributes(&span).values() {
                prop_assert!(text.len() <= MAX_TEXT);
            }
        }
        let mut written = Vec::new();
        request.finish(|request| Spans::default().write(request, now(), &mut written));
        prop_assert!(written.len() < 16 * MAX_TEXT, "{}", written.len());
    }
}

#[test]
fn a_full_queue_drops_and_counts_and_a_batch_wakes_the_exporter() {
    let woken = Arc::new(AtomicUsize::new(0));
    let waker = Arc::clone(&woken);
    let queue = Arc::new(SpanQueue::new(100, 40, move || {
        waker.fetch_add(1, Ordering::Relaxed);
    }));
    let mut sink = SpanSinks::new(Arc::clone(&queue)).of_worker(0);
    let request = Request::default();
    let mut send = |times| (0..times).for_each(|_| request.finish(|request| sink.finished(request)));
    send(19);
    assert_eq!((queue.counts().queued(), woken.load(Ordering::Relaxed)), (38, 0));
    send(2);
    assert_eq!((queue.counts().queued(), woken.load(Ordering::Relaxed)), (42, 1), "once, when a batch is there");
    send(40);
    assert_eq!(queue.counts().queued(), 100);
    assert_eq!(queue.counts().dropped(DropReason::QueueFull), 22);

    let batch = queue.take_batch();
    let taken: usize = batch.iter().map(|record| record.spans).sum();
    assert!((24..=40).contains(&taken), "{taken}");
    assert_eq!(queue.counts().queued(), 100 - taken);
    let bytes: Vec<u8> = batch.iter().flat_map(|record| record.bytes.iter().copied()).collect();
    assert_eq!(ScopeSpans::decode(bytes.as_slice()).unwrap().spans.len(), taken, "records stand in a row");
    let mut rest = 0;
    while let records @ [_, ..] = queue.take_batch().as_slice() {
        rest += records.iter().map(|record| record.spans).sum::<usize>();
    }
    assert_eq!((taken + rest, queue.counts().queued()), (100, 0));
    send(1);
    assert_eq!(queue.counts().queued(), 2, "there is room again");
}
