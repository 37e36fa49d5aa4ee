//! The exposition as a scraper sees it: read back with a strict parser and compared with what was counted.

mod parser;
mod request_support;

use parser::{Exposed, parse_openmetrics, parse_text};
use proptest::prelude::*;
use sluicegate_telemetry::metrics::{MetricKind, TABLE};
use sluicegate_telemetry::packets::{Counted, DirectorCounts, PacketCounts, RealServerCounts, ServiceCounts};
use sluicegate_telemetry::source::SourceCounts;
use sluicegate_telemetry::*;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

fn sample(status: u16) -> RequestSample {
    RequestSample {
        protocol: Protocol::Http11,
        method: MethodLabel::Get,
        status,
        duration: Duration::from_micros(300),
        upstream_duration: Some(Duration::from_micros(200)),
        bytes_in: 3,
        bytes_out: 5,
    }
}

/// Of a queue that lost and sent some spans, and holds one.
fn access_log() -> Arc<AccessLog> {
    let target = LogTarget::File("/dev/null".into());
    let settings = AccessLogSettings {
        target,
        format: "json".parse().expect("a format"),
        sample: None,
        filters: vec![],
        skip: vec![],
    };
    AccessLog::start(settings).expect("a log")
}

fn span_queue() -> Arc<SpanQueue> {
    let queue = SpanQueue::new(100, 10, || {});
    queue.push(SpanRecord { spans: 1, bytes: [0].into() });
    queue.counts().count_exported(5);
    queue.counts().count_dropped(DropReason::Refused, 3);
    queue.counts().count_failure(ExportFailure::Busy);
    Arc::new(queue)
}

fn both(metrics: &Metrics) -> [Exposed; 2] {
    let open = metrics.expose(Exposition::OpenMetrics);
    let text = metrics.expose(Exposition::Text);
    [
        parse_openmetrics(&open).unwrap_or_else(|error| panic!("{error}\n{open}")),
        parse_text(&text).unwrap_or_else(|error| panic!("{error}\n{text}")),
    ]
}

/// Exercises everything that a worker can count, so that every family has samples.
fn count_everything(worker: &WorkerMetrics) {
    for protocol in Protocol::ALL {
        for method in MethodLabel::ALL {
            for status in 0..700 {
                worker.request(RequestSample { protocol: *protocol, method: *method, ..sample(status) });
            }
        }
    }
    ListenerKind::ALL.iter().for_each(|kind| worker.connection_opened(*kind));
    TlsVersion::ALL.iter().for_each(|version| worker.tls_handshake(Ok(*version)));
    TlsFailure::ALL.iter().for_each(|failure| worker.tls_handshake(Err(*failure)));
    FaultReason::ALL.iter().for_each(|reason| worker.fault(*reason));
    LimitName::ALL.iter().for_each(|limit| worker.limit(*limit));
    UpstreamError::ALL.iter().for_each(|error| worker.upstream_error(*error));
    for kind in StreamKind::ALL {
        worker.stream_opened(*kind);
        worker.stream_bytes(*kind, 1, 2);
        StreamEnd::ALL.iter().for_each(|how| worker.stream_ended(*kind, *how));
    }
    for kind in UpgradeKind::ALL {
        worker.upgrade_opened(*kind);
        worker.upgrade_closed(*kind, 1, 2);
    }
}

/// A director's reading.
fn packet_counts() -> PacketCounts {
    let counted = Counted { packets: 7, bytes: 448, flows: 3 };
    PacketCounts {
        reasons: vec![("forwarded", "flow_hit", 4), ("dropped", "no_service", 2)],
        services: vec![ServiceCounts {
            vip: "2001:db8::10".to_owned(),
            port: "TCP/80".to_owned(),
            service: "shop/web".to_owned(),
            counted,
        }],
        real_servers: vec![RealServerCounts {
            real_server: "192.0.2.101".to_owned(),
            method: "TUNNEL".to_owned(),
            port: "*".to_owned(),
            counted,
        }],
        owned: vec![("192.0.2.10".to_owned(), true), ("2001:db8::10".to_owned(), false)],
        take_overs: 5,
        directors: Some(DirectorCounts { record: 7, recorded: 3, heard: 2, lease_age: Some(4) }),
        flows: (11, 12),
        flow_capacity: 64,
        ..PacketCounts::default()
    }
}

/// What an API server is asked.
fn source_counts() -> SourceCounts {
    SourceCounts {
        outage: Duration::from_millis(2_500),
        age: Some(Duration::from_secs(3)),
        clock_ahead: Some(-40),
        watches: vec![("services", "well", 1), ("services", "failing", 2)],
        lists: vec![("services", 4)],
        watch_errors: vec![("services", 5)],
        requests: vec![("watch", "services", "2xx", 6), ("patch", "ingresses/status", "none", 7)],
    }
}

#[test]
fn what_is_asked_of_an_api_server_is_exposed_where_there_is_one() {
    let metrics = Metrics::new(1);
    for exposed in both(&metrics) {
        for name in ["sluicegate_source_outage_seconds", "sluicegate_admission_reviews_total"] {
            assert!(exposed.families[name].samples.is_empty(), "{name} without an API server");
        }
    }
    metrics.set_source(Arc::new(source_counts));
    metrics.set_spans(span_queue());
    metrics.expect_reviews();
    metrics.reviewed(ReviewEnd::Refused, Duration::from_millis(2));
    for exposed in both(&metrics) {
        assert_eq!(exposed.value("sluicegate_source_outage_seconds", &[]), Some(2.5));
        assert_eq!(exposed.value("sluicegate_source_contact_age_seconds", &[]), Some(3.0));
        assert_eq!(exposed.value("sluicegate_source_clock_ahead_seconds", &[]), Some(-40.0));
        let failing = [("resource", "services"), ("state", "failing")];
        assert_eq!(exposed.value("sluicegate_source_watches", &failing), Some(2.0));
        assert_eq!(exposed.value("sluicegate_source_lists_total", &[("resource", "services")]), Some(4.0));
        assert_eq!(exposed.value("sluicegate_source_watch_errors_total", &[("resource", "services")]), Some(5.0));
        let patch = [("verb", "patch"), ("resource", "ingresses/status"), ("code", "none")];
        assert_eq!(exposed.value("sluicegate_source_requests_total", &patch), Some(7.0));
        assert_eq!(exposed.value("sluicegate_spans_exported_total", &[]), Some(5.0));
        assert_eq!(exposed.value("sluicegate_spans_dropped_total", &[("reason", "refused")]), Some(3.0));
        assert_eq!(exposed.value("sluicegate_spans_dropped_total", &[("reason", "queue_full")]), Some(0.0));
        assert_eq!(exposed.value("sluicegate_spans_queued", &[]), Some(1.0));
        assert_eq!(exposed.value("sluicegate_span_export_failures_total", &[("reason", "busy")]), Some(1.0));
        assert_eq!(exposed.value("sluicegate_admission_reviews_total", &[("verdict", "refused")]), Some(1.0));
        assert_eq!(exposed.value("sluicegate_admission_reviews_total", &[("verdict", "allowed")]), Some(0.0));
        assert_eq!(exposed.histogram_count("sluicegate_admission_review_duration_seconds", &[]), Some(1.0));
    }
}

#[test]
fn what_a_director_counts_stands_under_its_vips_and_real_servers() {
    let metrics = Metrics::new(1);
    for exposed in both(&metrics) {
        assert!(exposed.families["sluicegate_packets_total"].samples.is_empty(), "no director, no series");
    }
    metrics.set_packets(packet_counts());
    for exposed in both(&metrics) {
        let dropped = [("verdict", "dropped"), ("reason", "no_service")];
        assert_eq!(exposed.value("sluicegate_packets_total", &dropped), Some(2.0));
        let port = [("vip", "2001:db8::10"), ("port", "TCP/80"), ("service", "shop/web")];
        assert_eq!(exposed.value("sluicegate_vip_packets_total", &port), Some(7.0));
        assert_eq!(exposed.value("sluicegate_vip_bytes_total", &port), Some(448.0));
        assert_eq!(exposed.value("sluicegate_vip_flows_total", &port), Some(3.0));
        let real = [("real_server", "192.0.2.101"), ("method", "TUNNEL"), ("port", "*")];
        assert_eq!(exposed.value("sluicegate_real_server_bytes_total", &real), Some(448.0));
        assert_eq!(exposed.value("sluicegate_vip_owned", &[("vip", "192.0.2.10")]), Some(1.0));
        assert_eq!(exposed.value("sluicegate_vip_owned", &[("vip", "2001:db8::10")]), Some(0.0));
        assert_eq!(exposed.value("sluicegate_vip_take_overs_total", &[]), Some(5.0));
        assert_eq!(exposed.value("sluicegate_directors", &[("state", "heard")]), Some(2.0));
        assert_eq!(exposed.value("sluicegate_director_record", &[]), Some(7.0));
        assert_eq!(exposed.value("sluicegate_director_lease_age_seconds", &[]), Some(4.0));
        assert_eq!(exposed.value("sluicegate_flow_entries", &[("state", "tentative")]), Some(12.0));
    }
}

#[test]
fn every_metric_of_the_table_is_exposed_and_nothing_else() {
    let metrics = Metrics::new(2);
    count_everything(&metrics.worker(1));
    metrics.set_objects([("hosts", 3)]);
    metrics.set_certificates([CertificateExpiry { not_after: 7, namespace: "n".into(), name: "c".into() }]);
    metrics.set_packets(packet_counts());
    metrics.set_source(Arc::new(source_counts));
    metrics.expect_reviews();
    metrics.set_node_packets([("to_pod", 6)]);
    metrics.set_spans(span_queue());
    metrics.set_access_log(access_log());
    metrics.set_pools([control::PoolAddresses { pool: "default".into(), used: 3, free: 253.0 }]);
    let request = request_support::Request::default();
    let mut worker = metrics.route_sinks().of_worker(0);
    request.finish(|finished| worker.finished(finished));
    let endpoint = metrics.worker(0).endpoint(EndpointLabels {
        namespace: "n".into(),
        service: "s".into(),
        pod: "p".into(),
        node: "m".into(),
        endpoint: Some(([192, 0, 2, 101], 80).into()),
    });
    endpoint.started();
    for exposed in both(&metrics) {
        assert_eq!(exposed.value("sluicegate_node_packets_total", &[("reason", "to_pod")]), Some(6.0));
        let free = [("pool", "default"), ("state", "free")];
        assert_eq!(exposed.value("sluicegate_vip_pool_addresses", &free), Some(253.0));
        let families: BTreeSet<&str> = exposed.families.keys().map(String::as_str).collect();
        let table: BTreeSet<&str> = TABLE.iter().map(|info| info.name).collect();
        assert_eq!(families, table);
        for info in TABLE {
            let family = &exposed.families[info.name];
            assert!(!family.samples.is_empty(), "{} has no sample", info.name);
            let labels: BTreeSet<&str> = info.labels.iter().copied().collect();
            for sample in &family.samples {
                let of_sample: BTreeSet<&str> =
                    sample.labels.keys().map(String::as_str).filter(|label| *label != "le").collect();
                assert_eq!(of_sample, labels, "{}", info.name);
            }
        }
    }
}

#[test]
fn the_table_follows_the_naming_rules() {
    let mut names = BTreeSet::new();
    for info in TABLE {
        assert!(names.insert(info.name), "{} is there twice", info.name);
        assert!(info.name.starts_with("sluicegate_"), "{}", info.name);
        assert!(info.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{}", info.name);
        assert_eq!(info.kind == MetricKind::Counter, info.name.ends_with("_total"), "{}", info.name);
        assert!(!info.name.contains("millis") && !info.name.contains("kilo"), "{} is in base units", info.name);
        assert!(info.help.ends_with('.') && !info.help.contains(['\n', '\\']), "{}", info.name);
    }
}

#[test]
fn workers_add_up_and_reasons_are_found_again() {
    let metrics = Metrics::new(3);
    for index in 0..3 {
        let worker = metrics.worker(index);
        worker.request(sample(200));
        worker.request(sample(503));
        worker.fault(FaultReason::NoEndpoints);
        worker.limit(LimitName::UriLength);
        worker.connection_opened(ListenerKind::Https);
    }
    // A connection that is closed by another thread than it was opened by.
    metrics.worker(0).connection_closed(ListenerKind::Https);
    let extra = metrics.add_thread();
    extra.connection_opened(ListenerKind::Https);
    extra.connection_closed(ListenerKind::Https);
    assert_eq!(metrics.requests(), 6);
    assert_eq!(metrics.faults(FaultReason::NoEndpoints), 3);
    assert_eq!(metrics.faults(FaultReason::NoRoute), 0);
    assert_eq!(metrics.limits(LimitName::UriLength), 3);
    assert_eq!(metrics.connections(ListenerKind::Https), 2);
    for exposed in both(&metrics) {
        let get = [("protocol", "http/1.1"), ("method", "GET")];
        assert_eq!(exposed.value("sluicegate_requests_total", &[get[0], get[1], ("code", "200")]), Some(3.0));
        assert_eq!(exposed.value("sluicegate_requests_total", &[get[0], get[1], ("code", "503")]), Some(3.0));
        assert_eq!(exposed.families["sluicegate_requests_total"].samples.len(), 2);
        assert_eq!(exposed.value("sluicegate_faults_total", &[("reason", "no_endpoints")]), Some(3.0));
        assert_eq!(exposed.value("sluicegate_faults_total", &[("reason", "no_route")]), Some(0.0));
        assert_eq!(exposed.value("sluicegate_connections_active", &[("listener", "https")]), Some(2.0));
        assert_eq!(exposed.value("sluicegate_connections_total", &[("listener", "https")]), Some(4.0));
        assert_eq!(exposed.value("sluicegate_request_body_bytes_total", &[get[0]]), Some(18.0));
        assert_eq!(exposed.value("sluicegate_response_body_bytes_total", &[get[0]]), Some(30.0));
    }
}

#[test]
fn control_values_are_exposed() {
    let metrics = Metrics::new(1);
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_500);
    metrics.applied(4, at, Duration::from_millis(3), 0);
    metrics.applied(5, at, Duration::from_millis(30), 2);
    metrics.set_rejections(RejectionCounts { rejected: 1, ignored: 2, warning: 3 });
    metrics.set_objects([("hosts", 10), ("backends", 20)]);
    metrics.set_objects([("hosts", 11)]);
    for exposed in both(&metrics) {
        assert_eq!(exposed.value("sluicegate_generation", &[]), Some(5.0));
        assert_eq!(exposed.value("sluicegate_generation_applied_timestamp_seconds", &[]), Some(1_700_000_000.5));
        assert_eq!(exposed.value("sluicegate_apply_failures_total", &[]), Some(2.0));
        assert_eq!(exposed.histogram_count("sluicegate_apply_duration_seconds", &[]), Some(2.0));
        assert_eq!(exposed.value("sluicegate_rejections", &[("verdict", "warning")]), Some(3.0));
        assert_eq!(exposed.value("sluicegate_objects", &[("kind", "hosts")]), Some(11.0));
        assert_eq!(exposed.value("sluicegate_objects", &[("kind", "backends")]), None);
        assert_eq!(exposed.value("sluicegate_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), Some(1.0));
    }
}

#[test]
fn certificates_are_bounded_by_those_that_expire_first() {
    let metrics = Metrics::new(1);
    let certificates = (0..5_000i64).map(|index| CertificateExpiry {
        not_after: 5_000 - index,
        namespace: "shop".into(),
        name: format!("cert-{index}").into(),
    });
    metrics.set_certificates(certificates);
    for exposed in both(&metrics) {
        let family = &exposed.families["sluicegate_certificate_not_after_seconds"];
        assert_eq!(family.samples.len(), 1_000);
        assert!(family.samples.iter().all(|sample| sample.value <= 1_000.0));
    }
}

#[test]
fn label_values_that_objects_choose_are_escaped() {
    let metrics = Metrics::new(1);
    let name = "a\"b\\c\nd";
    metrics.set_certificates([CertificateExpiry { not_after: -1, namespace: "n".into(), name: name.into() }]);
    for exposed in both(&metrics) {
        let labels = [("namespace", "n"), ("name", name)];
        assert_eq!(exposed.value("sluicegate_certificate_not_after_seconds", &labels), Some(-1.0));
    }
}

#[test]
fn all_that_traffic_can_do_makes_a_bounded_number_of_series() {
    let metrics = Metrics::new(2);
    count_everything(&metrics.worker(0));
    count_everything(&metrics.worker(1));
    for slot in 0..100_000 {
        metrics.worker(0).backend(slot).started();
    }
    let started = Instant::now();
    let text = metrics.expose(Exposition::OpenMetrics);
    let took = started.elapsed();
    let exposed = parse_openmetrics(&text).expect("valid");
    let series: usize = exposed.families.values().map(|family| family.samples.len()).sum();
    assert!((1_000..2_000).contains(&series), "{series}");
    println!("{series} series: {took:?}, {} bytes", text.len());
    // 10 ms is the target of an optimised build; this one is not, and shares its machine.
    assert!(took < Duration::from_millis(250), "{took:?}");
}

#[test]
fn backend_totals_follow_the_slot_and_begin_again_with_its_next_owner() {
    let metrics = Metrics::new(2);
    let (a, b) = (metrics.worker(0), metrics.worker(1));
    for worker in [&a, &b] {
        worker.backend(7).started();
        worker.backend(7).started();
        worker.backend(7).finished(true);
    }
    a.backend(8).started();
    assert_eq!(metrics.backend(7), BackendTotals { requests: 4, errors: 2, active: 2 });
    assert_eq!(metrics.backend(8), BackendTotals { requests: 1, errors: 0, active: 1 });
    assert_eq!(metrics.backend(9), BackendTotals::default());

    a.backend(7).finished(false);
    b.backend(7).finished(false);
    metrics.restart_backend(7);
    assert_eq!(metrics.backend(7), BackendTotals::default());
    b.backend(7).started();
    assert_eq!(metrics.backend(7), BackendTotals { requests: 1, errors: 0, active: 1 });

    // Slots past the end are counted nowhere, and cost nothing.
    a.backend(MAX_BACKEND_SLOTS).started();
    a.backend(u32::MAX).started();
    assert_eq!(metrics.backend(MAX_BACKEND_SLOTS), BackendTotals::default());
    assert_eq!(metrics.backend(MAX_BACKEND_SLOTS - 1), BackendTotals::default());
}

#[test]
fn a_scrape_while_workers_count_sees_no_negative_gauge_and_loses_nothing() {
    const EACH: u64 = 200_000;
    let metrics = Metrics::new(2);
    std::thread::scope(|scope| {
        for index in 0..2 {
            let worker = metrics.worker(index);
            scope.spawn(move || {
                for _ in 0..EACH {
                    worker.connection_opened(ListenerKind::Http);
                    worker.request(sample(200));
                    worker.connection_closed(ListenerKind::Http);
                }
            });
        }
        let mut before = 0.0;
        for _ in 0..20 {
            let exposed = parse_openmetrics(&metrics.expose(Exposition::OpenMetrics)).expect("valid");
            let active = exposed.value("sluicegate_connections_active", &[("listener", "http")]).expect("there");
            assert!((0.0..=2.0 * EACH as f64).contains(&active), "{active}");
            let total = exposed.value("sluicegate_connections_total", &[("listener", "http")]).expect("there");
            assert!(total >= before, "a counter went back");
            before = total;
        }
    });
    assert_eq!(metrics.requests(), 2 * EACH);
    assert_eq!(metrics.connections(ListenerKind::Http), 0);
}

#[test]
fn the_format_follows_the_accept_header() {
    let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
    let table = [
        (None, Exposition::Text),
        (Some(""), Exposition::Text),
        (Some("*/*"), Exposition::Text),
        (Some("text/plain"), Exposition::Text),
        (Some("application/openmetrics-text;q=0, text/plain"), Exposition::Text),
        (Some("application/openmetrics-textual"), Exposition::Text),
        (Some("Application/OpenMetrics-Text"), Exposition::OpenMetrics),
        (Some(prometheus), Exposition::OpenMetrics),
    ];
    for (accept, want) in table {
        assert_eq!(Exposition::negotiate(accept), want, "{accept:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// Every status falls into exactly one series, its own or its class's, and every duration into its bucket.
    #[test]
    fn requests_land_where_they_belong(
        samples in proptest::collection::vec((any::<u16>(), 0u64..100_000_000_000, any::<bool>()), 0..40)
    ) {
        let metrics = Metrics::new(1);
        let worker = metrics.worker(0);
        for (status, nanoseconds, upstream) in &samples {
            let duration = Duration::from_nanos(*nanoseconds);
            worker.request(RequestSample {
                duration,
                upstream_duration: upstream.then_some(duration),
                ..sample(*status)
            });
        }
        let exposed = parse_text(&metrics.expose(Exposition::Text)).expect("valid");
        for wanted in &exposed.families["sluicegate_requests_total"].samples {
            let code = &wanted.labels["code"];
            let expected = samples.iter().filter(|(status, ..)| {
                let own = status.to_string();
                let class = if (100..600).contains(status) { format!("{}xx", status / 100) } else { "other".into() };
                let has_own = exposed.value(
                    "sluicegate_requests_total",
                    &[("protocol", "http/1.1"), ("method", "GET"), ("code", &own)],
                ).is_some();
                if has_own { own == *code } else { class == *code }
            }).count();
            prop_assert_eq!(wanted.value, expected as f64, "{}", code);
        }
        prop_assert_eq!(metrics.requests(), samples.len() as u64);
        let labels = [("protocol", "http/1.1")];
        for (le, count) in exposed.buckets("sluicegate_request_duration_seconds", &labels) {
            let expected = samples.iter().filter(|(_, nanoseconds, _)| *nanoseconds as f64 / 1e9 <= le).count();
            prop_assert_eq!(count, expected as f64, "le {}", le);
        }
        let answered = samples.iter().filter(|(_, _, upstream)| *upstream).count();
        prop_assert_eq!(exposed.histogram_count("sluicegate_upstream_duration_seconds", &[]), Some(answered as f64));
    }
}
