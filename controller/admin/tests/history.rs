//! Rates out of counters, and who is shown: what was read is written in the tests, and so is the time.

use sluicegate_admin::history::{COARSE_POINTS, FINE_POINTS, History, Reading};
use sluicegate_admin::leaders::{Counted, Leaders, MOST_NAMES, MOST_SERIES, MOST_SHOWN, POINTS};
use sluicegate_admin::traffic::PacketTotals;
use sluicegate_telemetry::TrafficTotals;
use std::time::Duration;

fn reading(second: u64, requests: u64) -> Reading {
    let mut totals = TrafficTotals { by_class: [0, requests, 0, 0, 0, 0], ..TrafficTotals::default() };
    (0..requests).for_each(|_| totals.durations.add(Duration::from_millis(3)));
    Reading { at: Duration::from_secs(second), unix_ms: 1_000_000 + second * 1_000, totals, packets: None }
}

#[test]
fn rates_are_differences_over_time() {
    let mut history = History::default();
    assert!(history.take(reading(0, 1_000)).is_none());
    let added = history.take(reading(2, 1_100)).expect("a point");
    assert_eq!((added.fine.requests, added.fine.at_ms, added.coarse), (50.0, 1_002_000, None));
    assert!(added.fine.p50_ms.is_some_and(|median| (2.5..=5.0).contains(&median)));
    let quiet = history.take(reading(3, 1_100)).expect("a point");
    assert_eq!((quiet.fine.requests, quiet.fine.p50_ms), (0.0, None));
    // Counters that went back are no negative rates.
    assert_eq!(history.take(reading(4, 5)).expect("a point").fine.requests, 0.0);
}

#[test]
fn rings_are_bounded_and_coarse_points_are_over_ten_seconds() {
    let mut history = History::default();
    let mut coarse = 0;
    for second in 0..5_000_u64 {
        let added = history.take(reading(second, 0));
        coarse += u64::from(added.is_some_and(|added| added.coarse.is_some()));
    }
    assert_eq!((history.fine().len(), history.coarse().len(), coarse), (FINE_POINTS, COARSE_POINTS, 499));
    let times: Vec<u64> = history.coarse().map(|point| point.at_ms).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 10_000));
}

#[test]
fn a_pause_is_a_gap_and_no_rate() {
    let mut history = History::default();
    history.take(reading(0, 0));
    history.take(reading(1, 10));
    assert!(history.take(reading(100, 1_000_000)).is_none());
    assert_eq!(history.take(reading(101, 1_000_007)).expect("a point").fine.requests, 7.0);
}

#[test]
fn packets_have_the_clock_of_the_director() {
    let packets = |counted_ms, packets| {
        Some(PacketTotals { counted_ms, packets, bytes: packets * 100, ..PacketTotals::default() })
    };
    let mut history = History::default();
    history.take(Reading { packets: packets(1_000, 0), ..reading(0, 0) });
    // It reads its counters every two seconds: the rate of the last reading holds in between.
    let mut rates = Vec::new();
    for (second, counted, total) in [(1, 1_000, 0), (2, 3_000, 200), (3, 3_000, 200), (4, 5_000, 600)] {
        let added = history.take(Reading { packets: packets(counted, total), ..reading(second, 0) }).expect("a point");
        rates.push((added.fine.packets, added.fine.bits));
    }
    let rate = |packets: f64| (Some(packets), Some(packets * 800.0));
    assert_eq!(&rates[1..], [rate(100.0), rate(100.0), rate(200.0)]);
    // A director that is gone has none.
    assert_eq!(history.take(reading(5, 0)).expect("a point").fine.packets, None);
}

#[test]
fn points_are_written_in_the_order_of_the_columns() {
    let mut history = History::default();
    history.take(reading(0, 0));
    history.take(reading(1, 1));
    let written = serde_json::to_value(history.fine().collect::<Vec<_>>()).expect("JSON");
    let point = written[0].as_array().expect("a list");
    assert_eq!(point.len(), sluicegate_admin::history::COLUMNS.len());
    assert_eq!((point[0].as_u64(), point[1].as_f64(), point[7].is_null()), (Some(1_001_000), Some(1.0), true));
}

fn look(leaders: &mut Leaders, at: f64, names: &[(&str, u64, u64)]) {
    leaders.begin();
    for (name, first, second) in names {
        leaders.take(name, Counted { at, first: *first, second: *second });
    }
    leaders.end();
}

#[test]
fn the_busiest_come_first_with_their_history() {
    let mut leaders = Leaders::default();
    look(&mut leaders, 0.0, &[("a", 100, 0), ("b", 100, 0), ("idle", 7, 7)]);
    look(&mut leaders, 5.0, &[("a", 150, 5), ("b", 200, 0), ("idle", 7, 7)]);
    look(&mut leaders, 10.0, &[("a", 150, 5), ("b", 250, 0), ("idle", 7, 7)]);
    let shown = leaders.busiest();
    let brief: Vec<(&str, f64, f64)> = shown.iter().map(|one| (one.name, one.first, one.second)).collect();
    assert_eq!(brief, [("b", 10.0, 0.0), ("a", 0.0, 0.0)]);
    assert_eq!((shown[0].series.clone(), shown[1].series.clone()), (vec![20.0, 10.0], vec![10.0, 0.0]));
    // Five minutes of silence, and it is no leader any more; a name that is gone is forgotten.
    for step in 0..=POINTS {
        look(&mut leaders, 15.0 + 5.0 * step as f64, &[("a", 150, 5)]);
    }
    assert!(leaders.busiest().is_empty());
    assert_eq!(leaders.names(), 1);
}

#[test]
fn counters_that_begin_anew_are_no_negative_rates() {
    let mut leaders = Leaders::default();
    look(&mut leaders, 0.0, &[("a", 1_000, 0)]);
    look(&mut leaders, 5.0, &[("a", 10, 0)]);
    assert_eq!(leaders.busiest()[0].first, 2.0);
}

#[test]
fn names_are_bounded_however_many_there_are() {
    let names: Vec<String> = (0..MOST_NAMES + 1_000).map(|number| format!("host-{number:06}.example")).collect();
    let mut leaders = Leaders::default();
    for round in 0..2_u64 {
        leaders.begin();
        for (number, name) in (0_u64..).zip(&names) {
            leaders.take(name, Counted { at: round as f64 * 5.0, first: round * (number + 1), second: 0 });
        }
        leaders.end();
    }
    assert_eq!(leaders.names(), MOST_NAMES);
    let shown = leaders.busiest();
    assert_eq!(shown.len(), MOST_SHOWN);
    const { assert!(MOST_SHOWN <= MOST_SERIES) };
    // The busiest of those that are remembered, although they came last.
    assert_eq!(shown[0].name, names[MOST_NAMES - 1]);
}
