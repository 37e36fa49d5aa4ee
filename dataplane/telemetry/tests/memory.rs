//! What telemetry holds at most, beside what `docs/operating.md` says that it is.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not there")]

mod request_support;

use request_support::{Fields, Request, Route};
use sluicegate_telemetry::{
    DEFAULT_SERIES_LIMIT, FaultReason, ROUTE_CELL_BYTES, RequestSinks as _, SpanQueue, SpanSinks, TlsVersion,
};
use std::sync::Arc;

const MIB: f64 = (1 << 20) as f64;

/// The figure of a row of the table, in MiB.
fn stated(row: &str) -> f64 {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operating.md");
    let text = std::fs::read_to_string(path).unwrap();
    let row = text.lines().find(|line| line.starts_with(&format!("| {row} |"))).unwrap();
    let figure = row.split('|').nth(2).unwrap().trim().strip_suffix(" MiB").unwrap();
    figure.parse().unwrap()
}

#[track_caller]
fn assert_is_stated(row: &str, bytes: usize) {
    let (most, stated) = (bytes as f64 / MIB, stated(row));
    assert!(most <= stated && stated <= most * 1.5 + 1.0, "{row}: {most:.1} MiB where {stated} MiB are stated");
}

#[test]
fn rows_of_routes_take_what_is_stated() {
    assert_is_stated("Metrics of routes, a worker", ROUTE_CELL_BYTES * DEFAULT_SERIES_LIMIT);
}

/// Everything that strangers can make long is longer than is kept of it.
#[test]
fn spans_take_what_is_stated() {
    const SPANS: usize = 2048;
    let long = || vec![b'a'; 20_000];
    let text = || "a".repeat(20_000);
    let plain = Request::default();
    let request = Request {
        method: long(),
        authority: long(),
        path: [b"/".to_vec(), long()].concat(),
        query: Some(long()),
        request_fields: Fields::default().with("user-agent", &text()),
        request_id: long(),
        tls: Some((TlsVersion::Tls13, Some(text()))),
        route: Some(Route { path: text(), host: text(), ..plain.route.unwrap() }),
        // A server's span is the longest.
        tries: Vec::new(),
        fault: Some((FaultReason::NoEndpoints, text())),
        status: 503,
        ..Request::default()
    };
    let queue = Arc::new(SpanQueue::new(SPANS, SPANS, || ()));
    let mut sink = SpanSinks::new(Arc::clone(&queue)).of_worker(0);
    (0..SPANS).for_each(|_| request.finish(|request| sink.finished(request)));
    assert!(queue.counts().queued() > SPANS - 16, "it is full");
    let mut held = 0;
    while let records @ [_, ..] = queue.take_batch().as_slice() {
        held += records.iter().map(|record| record.bytes.len() + size_of_val(record)).sum::<usize>();
    }
    assert_is_stated("Spans", held);
}
