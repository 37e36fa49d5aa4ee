//! What is said of an object before it is written: refused, remarked upon, or passed over.

use serde_json::{Value, json};
use sluicegate_config::{Rejection, Settings};
use sluicegate_translate::{Controller, Object, ObjectChange, WhatIf};

const NOW: i64 = 1_800_000_000;

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a Kubernetes object")
}

/// A class of ours, one of others, a Service, and the Ingress `shop/old` with `a.test/`.
fn cluster() -> Controller {
    let mut controller =
        Controller::new(Settings { vip_pools: "192.0.2.0/28".parse().expect("a pool"), ..Settings::default() });
    let class = |name: &str, controller: &str| {
        Object::IngressClass(read(json!({"metadata": {"name": name}, "spec": {"controller": controller}})))
    };
    let objects = [
        class("ours", "sluicegate.io/ingress"),
        class("theirs", "example.test/other"),
        service("web", json!({"ports": [{"name": "http", "port": 80}]})),
        ingress("old", "2025-01-01T00:00:00Z", json!({}), "a.test", "/", "web"),
    ];
    controller.apply(objects.map(ObjectChange::Set), NOW);
    assert_eq!(controller.rejections().count(), 0);
    controller
}

fn service(name: &str, spec: Value) -> Object {
    Object::Service(read(json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec})))
}

fn ingress(name: &str, created: &str, more: Value, host: &str, path: &str, service: &str) -> Object {
    let mut value = json!({
        "metadata": {"namespace": "shop", "name": name, "creationTimestamp": created, "annotations": more["annotations"]},
        "spec": {"ingressClassName": more["class"].as_str().unwrap_or("ours"), "tls": more["tls"], "rules": [{
            "host": host,
            "http": {"paths": [{"path": path, "pathType": "Prefix", "backend": {"service": {"name": service, "port": {"number": 80}}}}]},
        }]},
    });
    if more["tls"].is_null() {
        value["spec"].as_object_mut().expect("an object").remove("tls");
    }
    Object::Ingress(read(value))
}

fn vips(data: Value) -> Object {
    Object::ConfigMap(read(json!({"metadata": {"namespace": "sluicegate-system", "name": "vips"}, "data": data})))
}

fn reasons(of: &[Rejection]) -> Vec<&str> {
    of.iter().map(|rejection| rejection.reason.as_str()).collect()
}

/// One answer: what each list has to contain, one after the other, and nothing else.
#[track_caller]
fn says(said: &WhatIf, refused: &[&str], remarks: &[&str], effects: &[&str]) {
    for (list, expected) in [(&said.refused, refused), (&said.remarks, remarks), (&said.effects, effects)] {
        let reasons = reasons(list);
        assert_eq!(reasons.len(), expected.len(), "{said:#?}");
        for (reason, part) in reasons.iter().zip(expected) {
            assert!(reason.contains(part), "{reason:?} does not contain {part:?}");
        }
    }
}

const LATER: &str = "2026-01-01T00:00:00Z";

#[test]
fn what_is_good_is_passed_over() {
    let mut controller = cluster();
    says(&controller.what_if(ingress("new", LATER, json!({}), "b.test", "/", "web"), NOW), &[], &[], &[]);
    says(&controller.what_if(ingress("old", LATER, json!({}), "a.test", "/v2", "web"), NOW), &[], &[], &[]);
    says(&controller.what_if(service("web", json!({"ports": [{"name": "http", "port": 80}]})), NOW), &[], &[], &[]);
}

#[test]
fn what_is_wrong_with_an_ingress_is_refused() {
    let mut controller = cluster();
    let said = controller.what_if(ingress("new", LATER, json!({}), "bad host", "/", "web"), NOW);
    says(&said, &["bad host"], &[], &[]);
    let said = controller.what_if(ingress("new", LATER, json!({}), "b.test", "no-slash", "web"), NOW);
    says(&said, &["does not begin with `/`"], &[], &[]);
    assert_eq!(said.refused[0].field, "spec.rules[0].http.paths[0].path");
}

#[test]
fn a_path_that_an_older_ingress_has_is_refused() {
    let mut controller = cluster();
    controller.apply([ObjectChange::Set(service("other", json!({"ports": [{"port": 80}]})))], NOW);
    let said = controller.what_if(ingress("new", LATER, json!({}), "a.test", "/", "other"), NOW);
    says(&said, &["already claimed by Ingress shop/old"], &[], &[]);
}

#[test]
fn who_is_older_is_told_what_others_lose() {
    let mut controller = cluster();
    controller.apply([ObjectChange::Set(service("other", json!({"ports": [{"port": 80}]})))], NOW);
    let said = controller.what_if(ingress("older", "2020-01-01T00:00:00Z", json!({}), "a.test", "/", "other"), NOW);
    says(&said, &[], &[], &["already claimed by Ingress shop/older"]);
    assert_eq!(&*said.effects[0].object.name, "old");
}

#[test]
fn what_may_still_come_is_no_reason_to_refuse() {
    let mut controller = cluster();
    let tls = json!({"tls": [{"hosts": ["b.test"], "secretName": "soon"}]});
    let said = controller.what_if(ingress("new", LATER, tls, "b.test", "/", "web"), NOW);
    says(&said, &[], &["Secret shop/soon does not exist"], &[]);
    let said = controller.what_if(ingress("new", LATER, json!({}), "b.test", "/", "soon"), NOW);
    says(&said, &[], &["Service shop/soon does not exist"], &[]);
}

#[test]
fn what_was_rejected_before_does_not_keep_an_object_from_changing() {
    let mut controller = cluster();
    controller.apply([ObjectChange::Set(ingress("new", LATER, json!({}), "b.test", "no-slash", "web"))], NOW);
    let annotated = json!({"annotations": {"nginx.ingress.kubernetes.io/proxy-body-size": "8m"}});
    let said = controller.what_if(ingress("new", LATER, annotated, "b.test", "no-slash", "web"), NOW);
    says(&said, &[], &["does not begin with `/`"], &[]);
}

#[test]
fn ingresses_of_others_and_kinds_that_are_not_judged_are_passed_over() {
    let mut controller = cluster();
    for class in ["theirs", "missing"] {
        let said = controller.what_if(ingress("new", LATER, json!({"class": class}), "bad host", "x", "web"), NOW);
        says(&said, &[], &[], &[]);
    }
    let other = Object::ConfigMap(read(json!({"metadata": {"namespace": "shop", "name": "vips"}, "data": {"x": "y"}})));
    says(&controller.what_if(other, NOW), &[], &[], &[]);
    let class = json!({"metadata": {"name": "ours", "annotations": {"sluicegate.io/dialect": "apache"}},
        "spec": {"controller": "sluicegate.io/ingress"}});
    says(&controller.what_if(Object::IngressClass(read(class)), NOW), &[], &[], &[]);
}

#[test]
fn bindings_of_virtual_ips_are_judged() {
    let mut controller = cluster();
    says(&controller.what_if(vips(json!({"192.0.2.10": "shop/web"})), NOW), &[], &[], &[]);
    says(&controller.what_if(vips(json!({"192.0.2.10": "shop/soon"})), NOW), &[], &["does not exist"], &[]);
    let said = controller.what_if(vips(json!({"127.0.0.1": "shop/web", "nonsense": "shop/web"})), NOW);
    assert_eq!(said.refused.len(), 2, "{said:#?}");
    let asking = json!({"type": "LoadBalancer", "loadBalancerClass": "sluicegate.io/vip", "loadBalancerIP": "192.0.2.10",
        "ports": [{"port": 80}]});
    controller.apply([ObjectChange::Set(service("asking", asking.clone()))], NOW);
    // The ConfigMap comes first, so the Service loses the port.
    let said = controller.what_if(vips(json!({"192.0.2.10": "shop/web"})), NOW);
    says(&said, &[], &[], &["already bound to shop/web"]);
    let said = controller.what_if(service("late", asking), NOW);
    says(&said, &["already bound to shop/asking"], &[], &[]);
}

#[test]
fn who_uses_a_service_is_told_of_a_port_that_goes() {
    let mut controller = cluster();
    let said = controller.what_if(service("web", json!({"ports": [{"name": "http", "port": 81}]})), NOW);
    says(&said, &[], &[], &["Service shop/web has no TCP port 80"]);
}
