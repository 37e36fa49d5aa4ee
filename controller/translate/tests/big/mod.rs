//! Twenty thousand Ingresses with their Services and a hundred thousand endpoints.
#![allow(dead_code, reason = "each of the two tests uses its part")]

use serde_json::{Value, json};
use sluicegate_translate::{Object, ObjectChange};

pub const NOW: i64 = 1_800_000_000;
pub const INGRESSES: usize = 20_000;
pub const ENDPOINTS_EACH: usize = 5;
pub const SECRETS: usize = 200;

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a Kubernetes object")
}

/// As an API server hands it over, with what `kubectl apply` and controllers leave in it.
pub fn ingress(n: usize, path: &str) -> ObjectChange {
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

pub fn service(n: usize) -> ObjectChange {
    ObjectChange::Set(Object::Service(read(json!({
        "metadata": {"name": format!("web-{n}"), "namespace": format!("team-{}", n % 100)},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}], "selector": {"app": format!("web-{n}")}},
    }))))
}

pub fn slice(n: usize, shift: usize) -> ObjectChange {
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

pub fn class() -> ObjectChange {
    ObjectChange::Set(Object::IngressClass(read(json!({
        "metadata": {"name": "sluicegate"}, "spec": {"controller": "sluicegate.io/ingress"},
    }))))
}

/// One certificate under many names: what is measured is not rcgen.
pub fn secrets() -> Vec<ObjectChange> {
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

pub fn everything() -> Vec<ObjectChange> {
    let mut all = vec![class()];
    all.extend(secrets());
    for n in 0..INGRESSES {
        all.extend([ingress(n, "/"), service(n), slice(n, 0)]);
    }
    all
}
