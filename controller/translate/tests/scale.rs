//! Twenty thousand Ingresses with their Services and a hundred thousand endpoints: time.
//!
//! Ignored by default, because the figures mean something in release alone:
//! `cargo test --release -p sluicegate-translate --test scale -- --include-ignored --nocapture`.

mod big;

use big::{ENDPOINTS_EACH, INGRESSES, NOW, SECRETS, everything, ingress, secrets, slice};
use sluicegate_config::{BackendId, Change, Settings};
use sluicegate_translate::Controller;
use std::time::{Duration, Instant};

fn measured<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}

fn report(what: &str, bound: Duration, took: Duration) {
    println!("{what}: {took:?} (to reach: {bound:?})");
    if !cfg!(debug_assertions) {
        assert!(took <= bound, "{what} took {took:?}");
    }
}

/// For work of one thread that takes long: its own time, whatever else the machine does.
fn timed<T>(what: &str, bound: Duration, work: impl FnOnce() -> T) -> T {
    let before = on_cpu();
    let (wall, result) = measured(work);
    println!("{what}: {wall:?} by the clock");
    report(what, bound, on_cpu().saturating_sub(before));
    result
}

/// Time that this thread has run, by the kernel's account.
fn on_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("/proc");
    Duration::from_nanos(text.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("nanoseconds"))
}

/// The median of 21 rounds: a neighbour on the machine costs single rounds milliseconds.
fn median(what: &str, bound: Duration, round: impl FnMut(usize) -> Duration) {
    let mut all: Vec<Duration> = (0..21).map(round).collect();
    all.sort_unstable();
    report(what, bound, all[all.len() / 2]);
}

#[test]
#[ignore = "needs a release build and some seconds"]
fn one_change_among_twenty_thousand() {
    let all = everything();
    let mut controller = Controller::new(Settings::default());
    let update = timed("first full state", Duration::from_secs(2), || controller.apply(all, NOW));
    assert_eq!(update.diff.routes.len(), INGRESSES);
    assert_eq!(update.diff.backends.len(), INGRESSES);
    assert_eq!(update.diff.server_names.len(), INGRESSES);
    assert_eq!(update.diff.certificates.len(), SECRETS);
    let endpoints: usize = controller.desired().backends.values().map(|backend| backend.endpoints.len()).sum();
    assert_eq!(endpoints, INGRESSES * ENDPOINTS_EACH);
    assert_eq!(controller.rejections().count(), 0);

    let millisecond = Duration::from_millis(1);
    median("one Ingress", millisecond, |round| {
        let n = 7_777 + round;
        let change = ingress(n, "/new");
        let (took, update) = measured(|| controller.apply([change], NOW));
        let hosts: Vec<_> = update.diff.routes.keys().map(ToString::to_string).collect();
        assert_eq!(hosts, [format!("web-{n}.apps.example.test")]);
        let rest = &update.diff;
        assert!(rest.backends.is_empty() && rest.server_names.is_empty() && rest.certificates.is_empty());
        took
    });
    median("one EndpointSlice", millisecond, |round| {
        let n = 12_345 + round;
        let change = slice(n, 1_000_000);
        let (took, update) = measured(|| controller.apply([change], NOW));
        let backends: Vec<_> = update.diff.backends.keys().map(BackendId::to_string).collect();
        assert_eq!(backends, [format!("team-{}/web-{n}:http", n % 100)]);
        assert!(update.diff.routes.is_empty() && update.diff.server_names.is_empty());
        took
    });
    let renewed = secrets();
    median("one Secret, renewed", millisecond * 5, |round| {
        let change = renewed[round].clone();
        let (took, update) = measured(|| controller.apply([change], NOW));
        assert!(matches!(update.diff.certificates.values().collect::<Vec<_>>()[..], [Change::Set(_)]));
        assert!(update.diff.routes.is_empty() && update.diff.server_names.is_empty());
        took
    });

    let rebuilt = timed("full rebuild", Duration::from_secs(2), || controller.rebuild());
    assert_eq!(rebuilt.desired.routes, controller.desired().routes);
    assert_eq!(rebuilt.desired.backends, controller.desired().backends);
}
