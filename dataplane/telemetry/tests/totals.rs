//! Sums of workers, and quantiles of what they took.

use sluicegate_telemetry::{DurationTotals, ListenerKind, MethodLabel, Metrics, Protocol, RequestSample};
use std::time::Duration;

fn sample(status: u16, millis: u64) -> RequestSample {
    RequestSample {
        protocol: Protocol::Http11,
        method: MethodLabel::Get,
        status,
        duration: Duration::from_millis(millis),
        upstream_duration: None,
        bytes_in: 10,
        bytes_out: 100,
    }
}

#[test]
fn totals_are_those_of_all_workers_by_class() {
    let metrics = Metrics::new(2);
    let (first, second) = (metrics.worker(0), metrics.worker(1));
    for status in [200, 204, 299, 101, 302, 404, 499] {
        first.request(sample(status, 1));
    }
    for status in [200, 503, 599, 0, 700] {
        second.request(sample(status, 1));
    }
    first.connection_opened(ListenerKind::Http);
    second.connection_opened(ListenerKind::Https);
    second.connection_closed(ListenerKind::Https);
    let totals = metrics.totals();
    assert_eq!(totals.by_class, [1, 4, 1, 2, 2, 2]);
    assert_eq!((totals.requests(), totals.client_errors(), totals.server_errors()), (12, 2, 2));
    assert_eq!(totals.requests(), metrics.requests());
    assert_eq!((totals.bytes_in, totals.bytes_out, totals.connections), (120, 1_200, 1));
    assert_eq!(totals.durations.count(), 12);
}

#[test]
fn quantiles_lie_in_the_bucket_of_their_rank() {
    let mut durations = DurationTotals::default();
    assert_eq!(durations.quantile(0.5), None);
    for _ in 0..90 {
        durations.add(Duration::from_millis(3));
    }
    for _ in 0..10 {
        durations.add(Duration::from_millis(700));
    }
    let milliseconds = |share| durations.quantile(share).map(|found| found.as_secs_f64() * 1_000.0);
    let median = milliseconds(0.5).expect("a median");
    assert!((2.5..5.0).contains(&median), "{median}");
    // The middle of 90 requests between 2.5 and 5 ms.
    assert!((median - (2.5 + 2.5 * 50.0 / 90.0)).abs() < 0.01, "{median}");
    let slow = milliseconds(0.99).expect("a quantile");
    assert!((500.0..=1_000.0).contains(&slow), "{slow}");
    assert_eq!(milliseconds(1.0), Some(1_000.0));
    let mut endless = DurationTotals::default();
    endless.add(Duration::from_secs(3_600));
    assert_eq!(endless.quantile(0.5), Some(Duration::from_secs(60)));
}

#[test]
fn a_difference_holds_what_came_in_between() {
    let mut earlier = DurationTotals::default();
    earlier.add(Duration::from_millis(700));
    let mut later = earlier.clone();
    later.add(Duration::from_micros(50));
    let between = later.since(&earlier);
    assert_eq!(between.count(), 1);
    assert!(between.quantile(0.99).is_some_and(|found| found <= Duration::from_micros(100)));
    assert_eq!(earlier.since(&later).count(), 0);
}
