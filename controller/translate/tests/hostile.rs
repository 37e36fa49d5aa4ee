//! Any text in any field: nothing panics, everything that is said names a reason and a remedy, and a neighbour lives on.

use proptest::prelude::*;
use serde_json::{Value, json};
use sluicegate_config::{HostPattern, Settings};
use sluicegate_translate::{Controller, Object, ObjectChange};

const NOW: i64 = 1_800_000_000;

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a Kubernetes object")
}

fn good() -> Vec<Object> {
    vec![
        Object::Ingress(read(json!({
            "metadata": {"name": "good", "namespace": "default", "creationTimestamp": "2020-01-01T00:00:00Z"},
            "spec": {"ingressClassName": "sluicegate", "rules": [{"host": "good.test", "http": {"paths": [
                {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "good", "port": {"number": 80}}}},
            ]}}]},
        }))),
        Object::IngressClass(read(json!({
            "metadata": {"name": "sluicegate", "annotations": {"sluicegate.io/dialect": "nginx"}},
            "spec": {"controller": "sluicegate.io/ingress"},
        }))),
        Object::Service(read(
            json!({"metadata": {"name": "good", "namespace": "default"}, "spec": {"ports": [{"port": 80}]}}),
        )),
    ]
}

/// Text that means something to some parser, and text that means nothing.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => r"[ -~]{0,24}",
        2 => r"[/$(){}\[\]?*+^|.\\a0:;,#%-]{0,16}",
        1 => any::<String>(),
        1 => Just("x".repeat(10_000)),
        1 => r"(192\.0\.2\.[0-9]{1,3}|2001-db8--[0-9a-f]{1,4}|[0-9]{1,6})",
        1 => r"[a-z]{1,8}/[a-z]{1,8}(:[A-Za-z0-9]{0,6}){0,4}",
    ]
}

const KEYS: [&str; 14] = [
    "rewrite-target",
    "use-regex",
    "backend-protocol",
    "load-balance",
    "upstream-hash-by",
    "proxy-body-size",
    "proxy-connect-timeout",
    "proxy-read-timeout",
    "ssl-passthrough",
    "canary",
    "configuration-snippet",
    "whitelist-source-range",
    "enable-cors",
    "auth-url",
];

const SERVICE_KEYS: [&str; 12] = [
    "vip",
    "method",
    "scheduler",
    "weights",
    "persistence",
    "health-check",
    "health-interval",
    "health-timeout",
    "health-rise",
    "health-port",
    "health-host",
    "when-all-fail",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_survived(
        texts in prop::collection::vec(text(), 16),
        key in prop::sample::select(&KEYS),
        service_key in prop::sample::select(&SERVICE_KEYS),
        path_type in prop::sample::select(vec!["Exact", "Prefix", "ImplementationSpecific", ""]),
        number in any::<i32>(),
    ) {
        let t = |index: usize| texts[index].as_str();
        let hostile = vec![
            Object::Ingress(read(json!({
                "metadata": {"name": "bad", "namespace": "default", "annotations": {
                    format!("nginx.ingress.kubernetes.io/{key}"): t(0),
                    format!("nginx.ingress.kubernetes.io/{}", t(1)): t(2),
                    "sluicegate.io/load-balance": t(3), "sluicegate.io/hash-by": t(4),
                }},
                "spec": {
                    "ingressClassName": "sluicegate",
                    "tls": [{"hosts": [t(5), "bad.test"], "secretName": t(6)}],
                    "rules": [
                        {"host": t(7), "http": {"paths": [{"path": t(8), "pathType": path_type, "backend": {"service": {"name": t(9), "port": {"number": number}}}}]}},
                        {"host": "bad.test", "http": {"paths": [{"path": format!("/{}", t(8)), "pathType": path_type, "backend": {"service": {"name": "odd", "port": {"name": t(10)}}}}]}},
                    ],
                },
            }))),
            Object::Service(read(json!({
                "metadata": {"name": "odd", "namespace": "default"},
                "spec": {"type": t(11), "externalName": t(12), "ports": [{"name": t(10), "port": number, "targetPort": t(13), "protocol": t(14)}]},
            }))),
            Object::Service(read(json!({
                "metadata": {"name": "asks", "namespace": "default", "annotations": {
                    format!("sluicegate.io/{service_key}"): t(0), format!("sluicegate.io/{}", t(1)): t(2),
                    "sluicegate.io/persistence": t(3),
                }},
                "spec": {
                    "type": "LoadBalancer", "loadBalancerClass": "sluicegate.io/vip", "loadBalancerIP": t(4),
                    "ports": [{"port": 80}], "sessionAffinity": "ClientIP",
                    "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": number}},
                },
            }))),
            Object::Service(read(json!({"metadata": {"name": t(9), "namespace": "default"}, "spec": {"type": "ExternalName", "externalName": t(12)}}))),
            Object::EndpointSlice(read(json!({
                "metadata": {"name": "odd", "namespace": "default", "labels": {"kubernetes.io/service-name": "odd"}},
                "addressType": "IPv4", "ports": [{"name": t(10), "port": number}], "endpoints": [{"addresses": [t(15), "192.0.2.1"]}],
            }))),
            Object::Secret(read(json!({"metadata": {"name": t(6), "namespace": "default"}, "stringData": {"tls.crt": t(0), "tls.key": t(1)}}))),
            Object::ConfigMap(read(json!({"metadata": {"name": "vips", "namespace": "sluicegate-system"}, "data": {t(2): t(3), "192.0.2.10": t(4)}}))),
            Object::ConfigMap(read(json!({"metadata": {"name": "tcp", "namespace": "gateway"}, "data": {t(2): t(3), "5432": t(5)}}))),
        ];
        let settings = Settings {
            tcp_services_configmap: Some("gateway/tcp".parse().expect("a name")),
            vip_pools: "0.0.0.0/0,::/0".parse().expect("pools"),
            ..Settings::default()
        };
        let mut controller = Controller::new(settings);
        controller.apply(good().into_iter().chain(hostile).map(ObjectChange::Set), NOW);

        for rejection in controller.rejections() {
            prop_assert!(!rejection.reason.is_empty() && !rejection.remedy.is_empty() && !rejection.field.is_empty(), "{rejection}");
            prop_assert!(rejection.object.name.as_ref() != "good", "{rejection}");
        }
        let host = HostPattern::parse("good.test").expect("a host");
        prop_assert!(controller.desired().routes[&host].routes.iter().any(|route| route.origin.ingress.name.as_ref() == "good"));
        prop_assert_eq!(controller.rebuild().rejections, controller.rejections().cloned().collect::<Vec<_>>());
    }
}
