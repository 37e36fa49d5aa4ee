//! Rows of routes and endpoints: what is counted where, how many rows there may be, and what becomes of those whose route
//! has left.

mod parser;
mod request_support;

use parser::{Exposed, parse_openmetrics, parse_text};
use proptest::prelude::*;
use request_support::{Request, attempt, failed_attempt, trace};
use sluicegate_telemetry::metrics::TABLE;
use sluicegate_telemetry::*;
use sluicegate_trace::TraceId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const REQUESTS: &str = "sluicegate_route_requests_total";
const DURATION: &str = "sluicegate_route_request_duration_seconds";

fn route(place: u32, host: &str) -> request_support::Route {
    request_support::Route {
        namespace: "shop".into(),
        ingress: "front".into(),
        host: host.to_owned(),
        path: "/".to_owned(),
        service: Some(("cart".into(), "80".to_owned())),
        series: (place, Arc::default()),
        access_log: true,
    }
}

fn request_of(route: request_support::Route) -> Request {
    Request { route: Some(route), trace: None, ..Request::default() }
}

fn send(sink: &mut dyn RequestSink, request: &Request) {
    request.finish(|finished| sink.finished(finished));
}

fn at(metrics: &Metrics, now: Instant) -> Exposed {
    let mut text = String::new();
    metrics.expose_in_pieces(Exposition::Text, now, &mut |piece| text.push_str(piece));
    parse_text(&text).unwrap_or_else(|error| panic!("{error}"))
}

fn both(metrics: &Metrics) -> [Exposed; 2] {
    let open = metrics.expose(Exposition::OpenMetrics);
    let open = parse_openmetrics(&open).unwrap_or_else(|error| panic!("{error}\n{open}"));
    [open, at(metrics, Instant::now())]
}

fn labels(host: &str) -> [(&str, &str); 4] {
    [("namespace", "shop"), ("ingress", "front"), ("service", "cart"), ("host", host)]
}

fn requests(exposed: &Exposed, host: &str, code: &str) -> Option<f64> {
    exposed.value(REQUESTS, &[&labels(host)[..], &[("method", "GET"), ("code", code)]].concat())
}

/// Rows of all metrics that are about routes, and their sum.
fn all_requests(exposed: &Exposed) -> f64 {
    exposed.families[REQUESTS].samples.iter().map(|sample| sample.value).sum()
}

#[test]
fn a_request_is_counted_under_its_route() {
    let metrics = Metrics::new(2);
    let sinks = metrics.route_sinks();
    let mut workers = [sinks.of_worker(0), sinks.of_worker(1)];
    let started = Instant::now();
    let mut request = Request {
        tries: vec![failed_attempt(started, 1, UpstreamError::Reset), attempt(started, 2)],
        bytes_in: 7,
        ..request_of(route(3, "shop.example"))
    };
    workers.iter_mut().for_each(|worker| send(worker.as_mut(), &request));
    request.status = 503;
    request.method = b"POST".to_vec();
    request.took = Duration::from_secs(40);
    send(workers[1].as_mut(), &request);
    request.status = 0;
    send(workers[1].as_mut(), &request);
    for exposed in both(&metrics) {
        let all = labels("shop.example");
        let with = |more: &[(&'static str, &'static str)]| [&all[..], more].concat();
        assert_eq!(requests(&exposed, "shop.example", "2xx"), Some(2.0));
        assert_eq!(exposed.value(REQUESTS, &with(&[("method", "POST"), ("code", "5xx")])), Some(1.0));
        assert_eq!(exposed.value(REQUESTS, &with(&[("method", "POST"), ("code", "other")])), Some(1.0));
        assert_eq!(exposed.histogram_count(DURATION, &all), Some(4.0));
        let buckets = exposed.buckets(DURATION, &all);
        assert_eq!(buckets.iter().find(|(le, _)| *le == 0.01).map(|(_, count)| *count), Some(0.0));
        assert_eq!(buckets.iter().find(|(le, _)| *le == 0.025).map(|(_, count)| *count), Some(2.0), "20 ms");
        assert_eq!(buckets.iter().find(|(le, _)| *le == 10.0).map(|(_, count)| *count), Some(2.0), "40 s are beyond");
        assert_eq!(exposed.value("sluicegate_route_retries_total", &all), Some(4.0));
        assert_eq!(exposed.value("sluicegate_route_request_body_bytes_total", &all), Some(28.0));
        assert_eq!(exposed.value("sluicegate_route_response_body_bytes_total", &all), Some(480.0));
        let upstream = &exposed.families["sluicegate_route_upstream_seconds"];
        let value = |name: &str, phase: &str| {
            let is_it = |sample: &&parser::Sample| sample.name.ends_with(name) && sample.labels["phase"] == phase;
            upstream.samples.iter().find(is_it).map(|sample| (sample.value * 1e6).round() / 1e6)
        };
        assert_eq!(value("_count", "connect"), Some(8.0), "of every try");
        assert_eq!(value("_sum", "connect"), Some(0.016));
        assert_eq!((value("_count", "first_byte"), value("_sum", "first_byte")), (Some(4.0), Some(0.048)));
        assert_eq!((value("_count", "total"), value("_sum", "total")), (Some(4.0), Some(0.072)));
    }
}

#[test]
fn a_host_that_no_route_names_makes_no_series() {
    let metrics = Metrics::new(1);
    let mut worker = metrics.route_sinks().of_worker(0);
    send(worker.as_mut(), &request_of(route(0, "")));
    let mut request = Request { route: None, tries: Vec::new(), status: 404, trace: None, ..Request::default() };
    send(worker.as_mut(), &request);
    let count = |exposed: &Exposed| exposed.families.values().map(|family| family.samples.len()).sum::<usize>();
    let before = count(&at(&metrics, Instant::now()));
    for number in 0..10_000 {
        request.authority = format!("host-{number}.example").into_bytes();
        send(worker.as_mut(), &request);
    }
    let exposed = at(&metrics, Instant::now());
    assert_eq!(count(&exposed), before);
    let unknown = [("namespace", ""), ("ingress", ""), ("service", ""), ("host", "unknown")];
    let with_code = [&unknown[..], &[("method", "GET"), ("code", "4xx")]].concat();
    assert_eq!(exposed.value(REQUESTS, &with_code), Some(10_001.0));
    assert_eq!(requests(&exposed, "*", "2xx"), Some(1.0), "an Ingress without a host");
}

#[test]
fn beyond_the_limit_there_is_one_row() {
    let metrics = Metrics::with(MetricsSettings { series_limit: 3, ..MetricsSettings::of_workers(2) });
    let sinks = metrics.route_sinks();
    let mut workers = [sinks.of_worker(0), sinks.of_worker(1)];
    let all: Vec<Request> = (0..10).map(|place| request_of(route(place, &format!("host-{place}.example")))).collect();
    for request in &all {
        workers.iter_mut().for_each(|worker| send(worker.as_mut(), request));
    }
    let exposed = at(&metrics, Instant::now());
    assert_eq!(all_requests(&exposed), 20.0, "nothing is lost");
    assert_eq!(requests(&exposed, "host-2.example", "2xx"), Some(2.0));
    assert_eq!(requests(&exposed, "host-3.example", "2xx"), None);
    assert_eq!(exposed.value("sluicegate_metrics_overflow_total", &[("of", "routes")]), Some(14.0));
    assert_eq!(exposed.value("sluicegate_metrics_rows", &[("of", "routes")]), Some(3.0));
    assert_eq!(ROUTE_CELL_BYTES, 768, "docs/operating.md says so");
}

#[test]
fn a_row_stays_for_a_while_after_its_route_left_and_never_counts_back() {
    let metrics = Metrics::new(1);
    let mut worker = metrics.route_sinks().of_worker(0);
    let now = Instant::now();
    let old = request_of(route(0, "old.example"));
    (0..5).for_each(|_| send(worker.as_mut(), &old));
    assert_eq!(requests(&at(&metrics, now), "old.example", "2xx"), Some(5.0));

    // The place is another's while a request of the former table is still under way.
    let new = request_of(route(0, "new.example"));
    send(worker.as_mut(), &new);
    send(worker.as_mut(), &old);
    send(worker.as_mut(), &new);
    let exposed = at(&metrics, now);
    assert_eq!(requests(&exposed, "old.example", "2xx"), Some(6.0));
    assert_eq!(requests(&exposed, "new.example", "2xx"), Some(2.0));

    drop(old);
    assert_eq!(requests(&at(&metrics, now), "old.example", "2xx"), Some(6.0));
    let later = now + Duration::from_secs(599);
    assert_eq!(requests(&at(&metrics, later), "old.example", "2xx"), Some(6.0));

    // It comes back in time and goes on from there.
    let back = request_of(route(1, "old.example"));
    send(worker.as_mut(), &back);
    assert_eq!(requests(&at(&metrics, later), "old.example", "2xx"), Some(7.0));
    drop(back);
    let last = later + Duration::from_secs(1);
    assert_eq!(requests(&at(&metrics, last), "old.example", "2xx"), Some(7.0));
    let exposed = at(&metrics, last + Duration::from_secs(600));
    assert_eq!(requests(&exposed, "old.example", "2xx"), None);
    assert_eq!(requests(&exposed, "new.example", "2xx"), Some(2.0), "that one is still configured");
}

#[test]
fn rows_whose_route_left_make_room() {
    let metrics = Metrics::with(MetricsSettings { series_limit: 2, ..MetricsSettings::of_workers(1) });
    let mut worker = metrics.route_sinks().of_worker(0);
    let now = Instant::now();
    for round in 0..20 {
        let request = request_of(route(0, &format!("host-{round}.example")));
        send(worker.as_mut(), &request);
        let exposed = at(&metrics, now);
        assert_eq!(requests(&exposed, &format!("host-{round}.example"), "2xx"), Some(1.0), "round {round}");
        assert!(exposed.value("sluicegate_metrics_rows", &[("of", "routes")]) <= Some(2.0));
    }
    assert_eq!(at(&metrics, now).value("sluicegate_metrics_overflow_total", &[("of", "routes")]), Some(0.0));
}

#[test]
fn recorded_requests_are_exemplars_of_their_durations() {
    let metrics = Metrics::new(1);
    let mut worker = metrics.route_sinks().of_worker(0);
    let mut request = request_of(route(0, "shop.example"));
    for (milliseconds, sampled, id) in [(3, true, 1), (4, true, 2), (300, true, 3), (30, false, 4), (20_000, true, 5)] {
        let trace_id = TraceId::new(id).expect("not zero");
        request.trace = Some(sluicegate_trace::Trace { trace_id, sampled, ..trace() });
        request.took = Duration::from_millis(milliseconds);
        send(worker.as_mut(), &request);
        std::thread::sleep(Duration::from_millis(2));
    }
    let [open, text] = both(&metrics);
    assert!(text.families.values().flat_map(|family| &family.samples).all(|sample| sample.exemplar.is_none()));
    let buckets = open.families[DURATION].samples.iter().filter(|sample| sample.name.ends_with("_bucket"));
    let exemplars: BTreeMap<&str, (u128, f64)> = buckets
        .filter_map(|sample| {
            let (labels, value) = sample.exemplar.as_ref()?;
            assert_eq!(labels.len(), 1);
            let id = u128::from_str_radix(&labels["trace_id"], 16).expect("hexadecimal");
            assert_eq!(labels["trace_id"].len(), 32);
            Some((sample.labels["le"].as_str(), (id, *value)))
        })
        .collect();
    let expected = BTreeMap::from([("0.005", (2, 0.004)), ("0.5", (3, 0.3)), ("+Inf", (5, 20.0))]);
    assert_eq!(exemplars, expected, "the newest of its range, beside the bucket that it fell into");
}

#[test]
fn endpoints_are_counted_with_pod_and_node() {
    let metrics = Metrics::with(MetricsSettings { series_limit: 2, ..MetricsSettings::of_workers(2) });
    let of = |worker: usize, number: u8| {
        metrics.worker(worker).endpoint(EndpointLabels {
            namespace: "shop".into(),
            service: "cart".into(),
            pod: format!("cart-{number}").into(),
            node: "node-a".into(),
            endpoint: Some(([192, 0, 2, number], 8080).into()),
        })
    };
    let counters = [of(0, 1), of(1, 1), of(0, 2), of(0, 3)];
    counters.iter().for_each(EndpointCounters::started);
    counters[0].finished();
    counters[0].failed();
    counters[1].ejected(Some(Instant::now() + Duration::from_secs(3600)));
    let value = |exposed: &Exposed, metric: &str, number: u8| {
        let (pod, endpoint) = (format!("cart-{number}"), format!("192.0.2.{number}:8080"));
        let labels = [("namespace", "shop"), ("service", "cart"), ("pod", &pod), ("node", "node-a")];
        exposed.value(&format!("sluicegate_endpoint_{metric}"), &[&labels[..], &[("endpoint", &endpoint)]].concat())
    };
    for exposed in both(&metrics) {
        assert_eq!(value(&exposed, "requests_total", 1), Some(2.0));
        assert_eq!(value(&exposed, "failures_total", 1), Some(1.0));
        assert_eq!(value(&exposed, "active", 1), Some(1.0));
        assert_eq!(value(&exposed, "ejected", 1), Some(1.0));
        assert_eq!(value(&exposed, "ejected", 2), Some(0.0));
        assert_eq!(value(&exposed, "requests_total", 3), None);
        let empty = [("namespace", ""), ("service", ""), ("pod", ""), ("node", ""), ("endpoint", "other")];
        assert_eq!(exposed.value("sluicegate_endpoint_requests_total", &empty), Some(1.0));
        assert_eq!(exposed.value("sluicegate_metrics_overflow_total", &[("of", "endpoints")]), Some(1.0));
    }
    counters[1].finished();
    drop(counters);
    let now = Instant::now();
    let exposed = at(&metrics, now);
    assert_eq!(value(&exposed, "requests_total", 1), Some(2.0), "it has just left");
    assert_eq!((value(&exposed, "active", 1), value(&exposed, "ejected", 1)), (Some(0.0), Some(0.0)));
    assert_eq!(value(&at(&metrics, now + Duration::from_secs(601)), "requests_total", 1), None);
}

#[test]
fn scrapes_while_workers_count_and_tables_change_see_counters_that_only_grow() {
    let metrics = Metrics::new(2);
    let stop = AtomicBool::new(false);
    let sent: u64 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|index| {
                let (metrics, stop) = (&metrics, &stop);
                scope.spawn(move || {
                    let mut sink = metrics.route_sinks().of_worker(index);
                    let mut sent = 0;
                    while !stop.load(Ordering::Relaxed) {
                        // A new tenure of the same row: its host was removed and came again.
                        let request = request_of(route(0, "shop.example"));
                        for _ in 0..50 {
                            send(sink.as_mut(), &request);
                            sent += 1;
                        }
                        std::thread::sleep(Duration::from_micros(500));
                    }
                    sent
                })
            })
            .collect();
        let mut before = 0.0;
        for _ in 0..40 {
            let now = requests(&at(&metrics, Instant::now()), "shop.example", "2xx").unwrap_or_default();
            assert!(now >= before, "{now} after {before}");
            before = now;
        }
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
    });
    let seen = requests(&at(&metrics, Instant::now()), "shop.example", "2xx");
    assert_eq!(seen, Some(sent as f64), "what threads counted that are gone stays");
}

#[test]
fn the_names_of_ingress_nginx_are_served_where_they_are_wanted() {
    let names = NginxNames {
        class: "k8s.io/ingress-nginx".to_owned(),
        namespace: "ingress".to_owned(),
        pod: "gateway-0".to_owned(),
    };
    let metrics = Metrics::with(MetricsSettings { nginx: Some(names), ..MetricsSettings::of_workers(1) });
    let mut worker = metrics.route_sinks().of_worker(0);
    send(worker.as_mut(), &request_of(route(0, "shop.example")));
    metrics.worker(0).connection_opened(ListenerKind::Http);
    metrics.applied(7, std::time::SystemTime::now(), Duration::from_millis(1), 0);
    metrics.set_certificates([CertificateExpiry { not_after: 99, namespace: "shop".into(), name: "tls".into() }]);
    let constant = [
        ("controller_class", "k8s.io/ingress-nginx"),
        ("controller_namespace", "ingress"),
        ("controller_pod", "gateway-0"),
    ];
    for exposed in both(&metrics) {
        let value = |name: &str, more: &[(&'static str, &'static str)]| {
            exposed.value(&format!("nginx_ingress_controller_{name}"), &[&constant[..], more].concat())
        };
        let route = labels("shop.example");
        assert_eq!(value("requests", &[&route[..], &[("method", "GET"), ("status", "2xx")]].concat()), Some(1.0));
        for histogram in NGINX_TABLE.iter().filter(|metric| metric.kind == metrics::MetricKind::Histogram) {
            let name = format!("nginx_ingress_controller_{}", histogram.name);
            let labels = [&route[..], &constant].concat();
            assert_eq!(exposed.histogram_count(&name, &labels), Some(1.0), "{name}");
        }
        assert_eq!(value("nginx_process_connections", &[("state", "active")]), Some(1.0));
        assert_eq!(value("config_last_reload_successful", &[]), Some(1.0));
        assert_eq!(value("config_hash", &[]), Some(7.0));
        assert_eq!(value("success", &[]), Some(1.0));
        let certificate = [("namespace", "shop"), ("secret_name", "tls")];
        assert_eq!(value("ssl_expire_time_seconds", &certificate), Some(99.0));
        for metric in NGINX_TABLE {
            let family = &exposed.families[&format!("nginx_ingress_controller_{}", metric.name)];
            let sample = family.samples.first().unwrap_or_else(|| panic!("{} has a sample", metric.name));
            for label in metric.labels {
                assert!(sample.labels.contains_key(*label), "{} {label}", metric.name);
            }
        }
    }
    metrics.applied(8, std::time::SystemTime::now(), Duration::from_millis(1), 1);
    let text = metrics.expose(Exposition::Text);
    assert!(text.contains("nginx_ingress_controller_config_last_reload_successful{controller_class=\"k8s.io/ingress-nginx\",controller_namespace=\"ingress\",controller_pod=\"gateway-0\"} 0\n"));
    assert!(!Metrics::new(1).expose(Exposition::Text).contains("nginx_ingress"), "not without being asked for");
}

/// 20,000 routes that two workers serve. The bound holds for an optimised build; the other one shows that it works.
#[test]
fn twenty_thousand_routes_are_scraped_in_a_tenth_of_a_second() {
    const ROUTES: u32 = 20_000;
    let metrics = Metrics::new(2);
    let sinks = metrics.route_sinks();
    let mut workers = [sinks.of_worker(0), sinks.of_worker(1)];
    let held: Vec<Request> =
        (0..ROUTES).map(|place| request_of(route(place, &format!("host-{place}.example.com")))).collect();
    for request in &held {
        workers.iter_mut().for_each(|worker| send(worker.as_mut(), request));
    }
    metrics.expose_in_pieces(Exposition::Text, Instant::now(), &mut |_| {});
    let mut best = Duration::MAX;
    let mut bytes = 0;
    for _ in 0..5 {
        bytes = 0;
        let started = Instant::now();
        metrics.expose_in_pieces(Exposition::OpenMetrics, Instant::now(), &mut |piece| bytes += piece.len());
        best = best.min(started.elapsed());
    }
    println!("{ROUTES} routes: {best:?}, {bytes} bytes, {ROUTE_CELL_BYTES} bytes a row and worker");
    let text = metrics.expose(Exposition::Text);
    let counted = text.lines().filter(|line| line.starts_with(REQUESTS) && line.ends_with(" 2"));
    assert_eq!(counted.count(), ROUTES as usize);
    if !cfg!(debug_assertions) {
        assert!(best < Duration::from_millis(100), "{best:?}");
    }
}

#[test]
fn every_row_has_the_labels_of_the_table() {
    let metrics = Metrics::new(1);
    let mut worker = metrics.route_sinks().of_worker(0);
    send(worker.as_mut(), &request_of(route(0, "shop.example")));
    let exposed = at(&metrics, Instant::now());
    for metric in TABLE.iter().filter(|metric| metric.name.starts_with("sluicegate_route")) {
        for sample in &exposed.families[metric.name].samples {
            let mut have: Vec<&str> = sample.labels.keys().map(String::as_str).filter(|label| *label != "le").collect();
            let mut want = metric.labels.to_vec();
            have.sort_unstable();
            want.sort_unstable();
            assert_eq!(have, want, "{}", metric.name);
        }
    }
}

/// What can happen to rows.
#[derive(Clone, Debug)]
enum Step {
    /// A worker serves a request of what is in a place.
    Serve {
        worker: usize,
        place: u32,
    },
    /// Another host takes a place.
    Move {
        place: u32,
        host: usize,
    },
    Scrape,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..2usize, 0..4u32).prop_map(|(worker, place)| Step::Serve { worker, place }),
        2 => (0..4u32, 0..6usize).prop_map(|(place, host)| Step::Move { place, host }),
        1 => Just(Step::Scrape),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) })]

    /// Against a model that counts by host: the same numbers, whatever moves where.
    #[test]
    fn rows_say_what_a_map_by_host_says(steps in proptest::collection::vec(step(), 1..80)) {
        let metrics = Metrics::new(2);
        let sinks = metrics.route_sinks();
        let mut workers = [sinks.of_worker(0), sinks.of_worker(1)];
        let name = |host: usize| format!("host-{host}.example");
        let mut table: Vec<(usize, Request)> =
            (0..4).map(|place| (place as usize, request_of(route(place, &name(place as usize))))).collect();
        let mut model: BTreeMap<usize, f64> = BTreeMap::new();
        let now = Instant::now();
        for step in steps.into_iter().chain([Step::Scrape]) {
            match step {
                Step::Serve { worker, place } => {
                    let (host, request) = &table[place as usize];
                    *model.entry(*host).or_default() += 1.0;
                    send(workers[worker].as_mut(), request);
                }
                // No two places are the same host's at one time.
                Step::Move { place, host } if table.iter().all(|(taken, _)| *taken != host) => {
                    table[place as usize] = (host, request_of(route(place, &name(host))));
                }
                Step::Move { .. } => {}
                Step::Scrape => {
                    let exposed = at(&metrics, now);
                    for host in 0..6 {
                        prop_assert_eq!(requests(&exposed, &name(host), "2xx"), model.get(&host).copied());
                    }
                }
            }
        }
    }
}

#[test]
fn hosts_are_summed_over_their_routes_and_workers_and_keep_what_left() {
    let metrics = Metrics::new(2);
    let sinks = metrics.route_sinks();
    let mut workers = [sinks.of_worker(0), sinks.of_worker(1)];
    let hosts = |now| {
        let mut hosts = BTreeMap::new();
        metrics.visit_hosts(now, &mut |host, requests, errors| {
            assert!(hosts.insert(host.to_owned(), (requests, errors)).is_none(), "{host} twice");
        });
        hosts
    };
    let now = Instant::now();
    assert_eq!(hosts(now), BTreeMap::from([(NO_ROUTE.to_owned(), (0, 0))]));
    let mut first = request_of(route(0, "shop.example"));
    let mut second = request_of(request_support::Route { ingress: "other".into(), ..route(1, "shop.example") });
    second.status = 503;
    for worker in &mut workers {
        send(worker.as_mut(), &first);
        send(worker.as_mut(), &second);
        send(worker.as_mut(), &request_of(route(2, "")));
        send(worker.as_mut(), &Request { route: None, status: 404, ..Request::default() });
    }
    let expected =
        BTreeMap::from([("shop.example".to_owned(), (4, 2)), ("*".to_owned(), (2, 0)), (NO_ROUTE.to_owned(), (2, 0))]);
    assert_eq!(hosts(now), expected);
    // A route that left keeps what it counted for as long as its row is there.
    (first.route, second.route) = (None, None);
    assert_eq!(hosts(now)["shop.example"], (4, 2));
    assert!(!hosts(now + Duration::from_secs(700)).contains_key("shop.example"));
}
