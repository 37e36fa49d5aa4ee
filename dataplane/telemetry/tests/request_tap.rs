//! Watching live requests.

mod request_support;

use request_support::Request;
use sluicegate_telemetry::{RequestFilter, RequestSinks as _, RequestTap, RequestTaps, TooManyTaps};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

fn lines(tap: &mut RequestTap) -> Vec<String> {
    match tap.poll_lines(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(text) => String::from_utf8(text).expect("UTF-8").lines().map(str::to_owned).collect(),
        Poll::Pending => Vec::new(),
    }
}

fn filter(text: &str) -> RequestFilter {
    text.parse().expect("a filter")
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn who_watches_gets_what_the_filter_takes_from_every_worker() {
    let taps = RequestTaps::default();
    let (mut first, mut second) = (taps.of_worker(0), taps.of_worker(1));
    Request::default().finish(|request| first.finished(request));
    let mut all = taps.watch(RequestFilter::default()).expect("a tap");
    let mut failed = taps.watch(filter("status>=500")).expect("a tap");
    assert!(lines(&mut all).is_empty(), "what was before is not seen");
    let broken = Request { status: 502, ..Request::default() };
    let probe = Request { is_probe: true, ..Request::default() };
    Request::default().finish(|request| first.finished(request));
    broken.finish(|request| second.finished(request));
    probe.finish(|request| second.finished(request));
    let (of_all, of_failed) = (lines(&mut all), lines(&mut failed));
    assert_eq!((of_all.len(), of_failed.len()), (2, 1), "{of_all:?}");
    assert_eq!(of_all[1], of_failed[0]);
    let value: serde_json::Value = serde_json::from_str(&of_failed[0]).expect("JSON");
    assert_eq!((&value["status"], &value["path"]), (&502.into(), &"/cart/7".into()));
    drop(failed);
    broken.finish(|request| second.finished(request));
    assert_eq!(lines(&mut all).len(), 1, "others go on");
    drop(all);
    broken.finish(|request| second.finished(request));
}

#[test]
fn a_reader_is_woken_once_for_what_waits() {
    let taps = RequestTaps::default();
    let mut worker = taps.of_worker(0);
    let mut tap = taps.watch(RequestFilter::default()).expect("a tap");
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    assert!(tap.poll_lines(&mut Context::from_waker(&waker)).is_pending());
    for _ in 0..3 {
        Request::default().finish(|request| worker.finished(request));
    }
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    assert_eq!(lines(&mut tap).len(), 3);
}

#[test]
fn a_slow_reader_loses_and_is_told_how_many() {
    let taps = RequestTaps::default();
    let mut worker = taps.of_worker(0);
    let mut tap = taps.watch(RequestFilter::default()).expect("a tap");
    let request = Request { path: vec![b'x'; 10_000], ..Request::default() };
    for _ in 0..1000 {
        request.finish(|request| worker.finished(request));
    }
    let got = lines(&mut tap);
    assert!(got.len() > 50 && got.iter().all(|line| line.ends_with('}')), "{}", got.len());
    assert_eq!(got.len() as u64 + tap.lost(), 1000);
    request.finish(|request| worker.finished(request));
    assert_eq!(lines(&mut tap).len(), 1, "there is room again");
}

#[test]
fn readers_are_bounded() {
    let taps = RequestTaps::default();
    let mut open: Vec<_> = (0..16).map(|_| taps.watch(RequestFilter::default()).expect("a tap")).collect();
    assert_eq!(taps.watch(RequestFilter::default()).expect_err("one too many"), TooManyTaps);
    open.pop();
    assert!(taps.watch(RequestFilter::default()).is_ok());
}
