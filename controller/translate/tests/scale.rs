//! Twenty thousand Ingresses with their Services and a hundred thousand endpoints: time and memory.
//!
//! Ignored by default, because the figures mean something in release alone:
//! `cargo test --release -p sluicegate-translate --test scale -- --include-ignored --nocapture --test-threads 1`.

use serde_json::{Value, json};
use sluicegate_config::{BackendId, Change, Settings};
use sluicegate_translate::{Controller, Object, ObjectChange};
use std::time::{Duration, Instant};

const NOW: i64 = 1_800_000_000;
const INGRESSES: usize = 20_000;
const ENDPOINTS_EACH: usize = 5;
const SECRETS: usize = 200;

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a Kubernetes object")
}

/// As an API server hands it over, with what `kubectl apply` and controllers leave in it.
fn ingress(n: usize, path: &str) -> ObjectChange {
    ObjectChange::Set(Object::Ingress(read(json!({
        "metadata": {
            "name": format!("web-{n}"),
            "namespace": format!("team-{}", n % 100),
            "creationTimestamp": "2025-01-01T00:00:00Z",
            "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "x".repeat(900),
                "nginx.ingress.kubernetes.io/proxy-body-size": "8m",
            },
            "managedFields": [{"manager": "kubectl", "operation": "Apply", "fieldsV1": {"f:metadata": {"f:name": {}}}}],
        },
        "spec": {
            "ingressClassName": "sluicegate",
            "tls": [{"hosts": [format!("web-{n}.apps.example.test")], "secretName": format!("tls-{}", n / 100 % (SECRETS / 100))}],
            "rules": [{"host": format!("web-{n}.apps.example.test"), "http": {"paths": [
                {"path": path, "pathType": "Prefix", "backend": {"service": {"name": format!("web-{n}"), "port": {"name": "http"}}}},
                {"path": "/api", "pathType": "Prefix", "backend": {"service": {"name": format!("web-{n}"), "port": {"name": "http"}}}},
            ]}}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.10"}]}},
    }))))
}

fn service(n: usize) -> ObjectChange {
    ObjectChange::Set(Object::Service(read(json!({
        "metadata": {"name": format!("web-{n}"), "namespace": format!("team-{}", n % 100)},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}], "selector": {"app": format!("web-{n}")}},
    }))))
}

fn slice(n: usize, shift: usize) -> ObjectChange {
    let endpoints: Vec<Value> = (0..ENDPOINTS_EACH)
        .map(|at| {
            let id = n * ENDPOINTS_EACH + at + shift;
            json!({
                "addresses": [format!("10.{}.{}.{}", id >> 16 & 255, id >> 8 & 255, id & 255)],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("node-{}", id % 500),
                "targetRef": {"kind": "Pod", "name": format!("web-{n}-7d4b9c6f5-{id:05}")},
            })
        })
        .collect();
    ObjectChange::Set(Object::EndpointSlice(read(json!({
        "metadata": {
            "name": format!("web-{n}-x7k2p"),
            "namespace": format!("team-{}", n % 100),
            "labels": {"kubernetes.io/service-name": format!("web-{n}")},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    }))))
}

fn class() -> ObjectChange {
    ObjectChange::Set(Object::IngressClass(read(json!({
        "metadata": {"name": "sluicegate"}, "spec": {"controller": "sluicegate.io/ingress"},
    }))))
}

/// One certificate under many names: what is measured is not rcgen.
fn secrets() -> Vec<ObjectChange> {
    let made = rcgen::generate_simple_self_signed(["*.apps.example.test".to_owned()]).expect("a certificate");
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    (0..SECRETS)
        .map(|n| {
            ObjectChange::Set(Object::Secret(read(json!({
                "metadata": {"name": format!("tls-{}", n / 100), "namespace": format!("team-{}", n % 100)},
                "type": "kubernetes.io/tls", "stringData": {"tls.crt": cert, "tls.key": key},
            }))))
        })
        .collect()
}

fn everything() -> Vec<ObjectChange> {
    let mut all = vec![class()];
    all.extend(secrets());
    for n in 0..INGRESSES {
        all.extend([ingress(n, "/"), service(n), slice(n, 0)]);
    }
    all
}

fn timed<T>(what: &str, bound: Duration, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    let took = start.elapsed();
    println!("{what}: {took:?} (to reach: {bound:?})");
    if !cfg!(debug_assertions) {
        assert!(took <= bound, "{what} took {took:?}");
    }
    result
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
    let change = ingress(7_777, "/new");
    let update = timed("one Ingress", millisecond, || controller.apply([change], NOW));
    let hosts: Vec<_> = update.diff.routes.keys().map(ToString::to_string).collect();
    assert_eq!(hosts, ["web-7777.apps.example.test"]);
    assert!(
        update.diff.backends.is_empty() && update.diff.server_names.is_empty() && update.diff.certificates.is_empty()
    );

    let change = slice(12_345, 1_000_000);
    let update = timed("one EndpointSlice", millisecond, || controller.apply([change], NOW));
    let backends: Vec<_> = update.diff.backends.keys().map(BackendId::to_string).collect();
    assert_eq!(backends, ["team-45/web-12345:http"]);
    assert!(update.diff.routes.is_empty() && update.diff.server_names.is_empty());

    let change = secrets().swap_remove(3);
    let update = timed("one Secret, renewed", millisecond * 5, || controller.apply([change], NOW));
    assert_eq!(update.diff.certificates.len(), 1);
    assert!(matches!(update.diff.certificates.values().next(), Some(Change::Set(_))));
    assert!(update.diff.routes.is_empty() && update.diff.server_names.is_empty());

    let rebuilt = timed("full rebuild", Duration::from_secs(2), || controller.rebuild());
    assert_eq!(rebuilt.desired.routes, controller.desired().routes);
    assert_eq!(rebuilt.desired.backends, controller.desired().backends);
}

#[test]
#[ignore = "needs a process of its own and /proc"]
fn memory_per_thousand_ingresses() {
    let mut controller = Controller::new(Settings::default());
    controller.apply([class()].into_iter().chain(secrets()), NOW);
    let before = resident();
    // Small batches, as from a watch: what is measured is what is kept, not what was handed over.
    for n in 0..INGRESSES {
        controller.apply([service(n), slice(n, 0), ingress(n, "/")], NOW);
    }
    let grown = resident().saturating_sub(before);
    let per_thousand = grown / (INGRESSES / 1000);
    println!("objects and desired state: {} KiB per 1,000 Ingresses (to reach: 4096)", per_thousand / 1024);
    assert!(per_thousand <= 4 << 20, "{per_thousand} bytes per 1,000 Ingresses");
    assert_eq!(controller.desired().routes.len(), INGRESSES);
}

/// Resident memory in bytes. The workspace forbids unsafe code, and with it a counting allocator.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    let kib: usize = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number");
    kib << 10
}
