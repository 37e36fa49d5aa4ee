//! Spans on their way to a collector that takes them, is not there, is slow, full or no collector at all.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not there")]

use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use sluicegate_collector::{AT_MOST, Collector, Identities, Received, Reply};
use sluicegate_otlp::{Compression, Endpoint, Exporter, Headers, OtlpProtocol, OtlpSettings, TlsFiles};
use sluicegate_telemetry::span::SpanRecord;
use sluicegate_telemetry::{DropReason, ExportFailure};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const BOTH: [OtlpProtocol; 2] = [OtlpProtocol::Grpc, OtlpProtocol::HttpProtobuf];

fn settings(address: SocketAddr, protocol: OtlpProtocol) -> OtlpSettings {
    let endpoint = Endpoint::for_all_signals(&format!("http://{address}"), Some(protocol)).unwrap();
    let resource = vec![("service.name".to_owned(), "edge".to_owned())];
    OtlpSettings { delay: Duration::from_millis(20), resource, ..OtlpSettings::new(endpoint) }
}

/// A span as a worker writes it, with its number as its name.
fn record(number: usize) -> SpanRecord {
    let span = Span { trace_id: vec![1; 16], span_id: vec![2; 8], name: number.to_string(), ..Span::default() };
    let mut bytes = vec![0x12];
    bytes.extend(span.encode_length_delimited_to_vec());
    SpanRecord { spans: 1, bytes: bytes.into() }
}

fn put(exporter: &Exporter, numbers: std::ops::Range<usize>) {
    numbers.for_each(|number| exporter.queue().push(record(number)));
}

fn numbers(spans: &[Span]) -> Vec<usize> {
    spans.iter().map(|span| span.name.parse().unwrap()).collect()
}

#[track_caller]
fn until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < AT_MOST, "{what}: not within {AT_MOST:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[track_caller]
fn until_dropped(exporter: &Exporter, reason: DropReason, count: u64) {
    until(&format!("{count} dropped as {reason}"), || exporter.queue().counts().dropped(reason) == count);
}

fn dropped_at_all(exporter: &Exporter) -> u64 {
    DropReason::ALL.iter().map(|reason| exporter.queue().counts().dropped(*reason)).sum()
}

#[test]
fn spans_arrive_over_both_protocols_plain_and_compressed() {
    for protocol in BOTH {
        for compression in [Compression::None, Compression::Gzip] {
            let collector = Collector::start();
            let mut headers = Headers::default();
            headers.add("authorization=Bearer abcdef").unwrap();
            let exporter =
                Exporter::start(OtlpSettings { headers, compression, ..settings(collector.address(), protocol) })
                    .unwrap();
            put(&exporter, 0..3);
            assert_eq!(numbers(&collector.wait_for_spans(3)), [0, 1, 2]);
            let Received { headers, resource, scope, .. } = collector.received().remove(0);
            assert_eq!(headers["authorization"], "Bearer abcdef");
            assert_eq!(headers["user-agent"], concat!("sluicegate/", env!("CARGO_PKG_VERSION")));
            assert_eq!(resource["service.name"], "edge");
            assert_eq!((scope.0.as_str(), scope.1.as_str()), ("sluicegate", env!("CARGO_PKG_VERSION")));
            assert!(scope.2.starts_with("https://opentelemetry.io/schemas/"), "{scope:?}");
            let encoding = if protocol == OtlpProtocol::Grpc { "grpc-encoding" } else { "content-encoding" };
            assert_eq!(headers.contains_key(encoding), compression == Compression::Gzip);
            until("all are counted", || exporter.queue().counts().exported() == 3);
            assert_eq!(dropped_at_all(&exporter), 0);
        }
    }
}

#[test]
fn batches_have_their_size_and_do_not_wait_for_the_clock() {
    let collector = Collector::start();
    let base = settings(collector.address(), OtlpProtocol::Grpc);
    let exporter = Exporter::start(OtlpSettings { batch: 64, delay: Duration::from_secs(600), ..base }).unwrap();
    put(&exporter, 0..400);
    collector.wait_for_spans(64);
    exporter.shut_down(AT_MOST);
    let spans = collector.spans();
    assert_eq!(numbers(&spans), (0..400).collect::<Vec<_>>(), "what is left is sent at the end");
    assert!(collector.received().iter().all(|request| request.spans.len() <= 64));
}

#[test]
fn tls_asks_for_who_signed_and_shows_a_certificate() {
    let identities = Identities::new();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| -> Option<PathBuf> {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let ours = TlsFiles {
        ca: file("ca.pem", &identities.ca),
        certificate: file("cert.pem", &identities.client_certificate),
        key: file("key.pem", &identities.client_key),
    };
    for protocol in BOTH {
        let collector = Collector::with_tls(&identities);
        let url = format!("https://localhost:{}", collector.address().port());
        let endpoint = Endpoint::for_all_signals(&url, Some(protocol)).unwrap();
        let with = |tls| OtlpSettings { tls, endpoint: endpoint.clone(), ..settings(collector.address(), protocol) };
        let exporter = Exporter::start(with(ours.clone())).unwrap();
        put(&exporter, 0..1);
        collector.wait_for_spans(1);

        // Without a certificate the collector ends the handshake; by another CA we do.
        let nobody = TlsFiles { certificate: None, key: None, ..ours.clone() };
        let stranger = TlsFiles { ca: file("other.pem", &Identities::new().ca), ..ours.clone() };
        for tls in [nobody, stranger] {
            let exporter = Exporter::start(with(tls)).unwrap();
            put(&exporter, 1..2);
            until("the handshake fails", || {
                ExportFailure::ALL.iter().any(|f| exporter.queue().counts().failures(*f) > 0)
            });
            assert_eq!(exporter.queue().counts().exported(), 0);
        }
        assert_eq!(collector.spans().len(), 1);
    }
    let half = TlsFiles { key: None, ..ours };
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    let error = Exporter::start(OtlpSettings { tls: half, ..settings(address, OtlpProtocol::Grpc) }).unwrap_err();
    assert!(error.to_string().contains("--otlp-key"), "{error}");
}

#[test]
fn a_busy_collector_gets_the_batch_again_when_it_said() {
    let http = Reply::Http { status: 429, retry_after: Some("2") };
    let grpc = Reply::Grpc { code: 8, message: "slow down", retry_after: Some(Duration::from_secs(2)) };
    for (protocol, busy) in [(OtlpProtocol::HttpProtobuf, http), (OtlpProtocol::Grpc, grpc)] {
        let collector = Collector::start();
        collector.script([busy]);
        let exporter = Exporter::start(settings(collector.address(), protocol)).unwrap();
        put(&exporter, 0..5);
        assert_eq!(numbers(&collector.wait_for_spans(5)), [0, 1, 2, 3, 4]);
        let received = collector.received();
        assert_eq!(received.len(), 2);
        assert!(received[1].at - received[0].at >= Duration::from_secs(2), "not before it was asked for");
        assert_eq!(exporter.queue().counts().failures(ExportFailure::Busy), 1);
        assert_eq!(dropped_at_all(&exporter), 0);
    }
}

#[test]
fn what_will_never_be_taken_is_dropped_and_the_next_batch_has_its_turn() {
    for (protocol, refusal, failure) in [
        (OtlpProtocol::HttpProtobuf, Reply::Http { status: 400, retry_after: None }, ExportFailure::Refused),
        (OtlpProtocol::HttpProtobuf, Reply::Page, ExportFailure::Malformed),
        (OtlpProtocol::Grpc, Reply::Grpc { code: 16, message: "who?", retry_after: None }, ExportFailure::Refused),
        (OtlpProtocol::Grpc, Reply::Page, ExportFailure::Malformed),
    ] {
        let collector = Collector::start();
        collector.script([refusal.clone()]);
        let exporter = Exporter::start(settings(collector.address(), protocol)).unwrap();
        put(&exporter, 0..5);
        until_dropped(&exporter, DropReason::Refused, 5);
        assert_eq!(exporter.queue().counts().failures(failure), 1, "{refusal:?}");
        put(&exporter, 5..7);
        assert_eq!(numbers(&collector.wait_for_spans(2)), [5, 6], "{refusal:?}");
    }
}

#[test]
fn partial_success_is_counted() {
    for protocol in BOTH {
        let collector = Collector::start();
        collector.script([Reply::Partly { refused: 2, words: "too old" }]);
        let exporter = Exporter::start(settings(collector.address(), protocol)).unwrap();
        put(&exporter, 0..5);
        until_dropped(&exporter, DropReason::PartialSuccess, 2);
        until("the rest is counted", || exporter.queue().counts().exported() == 3);
        assert_eq!(collector.received().len(), 1, "it is not sent again");
    }
}

#[test]
fn a_collector_that_is_down_or_hangs_costs_spans_and_nothing_else() {
    for protocol in BOTH {
        // Down: the address was free a moment ago.
        let address = Collector::start().address();
        let exporter = Exporter::start(OtlpSettings { queue: 20, batch: 10, ..settings(address, protocol) }).unwrap();
        let begun = Instant::now();
        put(&exporter, 0..10_000);
        assert!(begun.elapsed() < Duration::from_secs(10), "nobody waits");
        let counts = exporter.queue().counts();
        assert!(counts.dropped(DropReason::QueueFull) >= 9_900, "{counts:?}");
        assert!(counts.queued() <= 20);
        until("it was tried", || counts.failures(ExportFailure::Connect) > 0);
        let begun = Instant::now();
        drop(exporter);
        assert!(begun.elapsed() < Duration::from_secs(10), "the end does not wait for it either");

        // It hangs, and then it does not.
        let collector = Collector::start();
        collector.script([Reply::Never]);
        let timeout = Duration::from_millis(200);
        let exporter = Exporter::start(OtlpSettings { timeout, ..settings(collector.address(), protocol) }).unwrap();
        put(&exporter, 0..3);
        assert_eq!(numbers(&collector.wait_for_spans(3)), [0, 1, 2]);
        assert_eq!(exporter.queue().counts().failures(ExportFailure::Timeout), 1);
        assert_eq!(dropped_at_all(&exporter), 0);
    }
}

#[test]
fn garbage_is_no_answer_and_a_collector_that_comes_back_is_found() {
    for protocol in BOTH {
        let garbage = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = garbage.local_addr().unwrap();
        let exporter = Exporter::start(settings(address, protocol)).unwrap();
        put(&exporter, 0..3);
        let (mut stream, _) = garbage.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"\x15\x03\x01 what do you want?\r\n\r\n").unwrap();
        drop(stream);
        until("it is a failure", || ExportFailure::ALL.iter().any(|f| exporter.queue().counts().failures(*f) > 0));
        drop(garbage);
        let collector = Collector::listen(address, None);
        assert_eq!(numbers(&collector.wait_for_spans(3)), [0, 1, 2]);
        assert_eq!(dropped_at_all(&exporter), 0);
    }
}

#[test]
fn the_end_sends_what_is_there_within_its_time() {
    let collector = Collector::start();
    let base = settings(collector.address(), OtlpProtocol::HttpProtobuf);
    let never = Duration::from_secs(600);
    let exporter = Exporter::start(OtlpSettings { delay: never, ..base.clone() }).unwrap();
    put(&exporter, 0..100);
    exporter.shut_down(AT_MOST);
    assert_eq!(collector.spans().len(), 100);

    collector.always(Reply::Never);
    let exporter = Exporter::start(OtlpSettings { delay: never, ..base }).unwrap();
    put(&exporter, 0..100);
    let queue = std::sync::Arc::clone(exporter.queue());
    let begun = Instant::now();
    exporter.shut_down(Duration::from_millis(300));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!((queue.counts().dropped(DropReason::Shutdown), queue.counts().queued()), (100, 0));
}
