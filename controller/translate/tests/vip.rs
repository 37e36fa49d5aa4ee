//! Virtual IPs over time: which of them a change makes dirty, and who has a port when those who ask come and go.

use serde_json::{Value, json};
use sluicegate_config::{Change, Kind, ObjectRef, Readiness, Settings, TransportProtocol, VipBinding};
use sluicegate_translate::{Controller, Object, ObjectChange, Objects};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

const NOW: i64 = 1_800_000_000;

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a Kubernetes object")
}

fn settings() -> Settings {
    Settings { vip_pools: "192.0.2.0/24,2001:db8::/64".parse().expect("pools"), ..Settings::default() }
}

fn vips(lines: &[(&str, &str)]) -> ObjectChange {
    let data: BTreeMap<_, _> = lines.iter().copied().collect();
    ObjectChange::Set(Object::ConfigMap(read(
        json!({"metadata": {"name": "vips", "namespace": "sluicegate-system"}, "data": data}),
    )))
}

fn service(name: &str) -> ObjectChange {
    ObjectChange::Set(Object::Service(read(json!({
        "metadata": {"name": name, "namespace": "default"}, "spec": {"ports": [{"name": "http", "port": 80}]},
    }))))
}

fn balancer(name: &str, created: &str, asks: &str) -> ObjectChange {
    ObjectChange::Set(Object::Service(read(json!({
        "metadata": {
            "name": name, "namespace": "default", "creationTimestamp": created,
            "annotations": {"sluicegate.io/vip": asks},
        },
        "spec": {
            "type": "LoadBalancer", "loadBalancerClass": "sluicegate.io/vip", "ports": [{"name": "http", "port": 80}],
        },
    }))))
}

fn slice(service: &str, number: u8, conditions: Value) -> ObjectChange {
    ObjectChange::Set(Object::EndpointSlice(read(json!({
        "metadata": {
            "name": format!("{service}-{number}"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4", "ports": [{"name": "http", "port": 80}],
        "endpoints": [
            {"addresses": [format!("198.51.100.{number}")], "nodeName": format!("node-{number}"), "conditions": conditions},
        ],
    }))))
}

fn remove(kind: Kind, name: &str) -> ObjectChange {
    ObjectChange::Remove(ObjectRef::new(kind, "default", name))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn bound(controller: &Controller, vip: &str) -> Arc<VipBinding> {
    Arc::clone(&controller.desired().vips[&ip(vip)])
}

/// Who has TCP port 80 of a VIP.
fn holder(controller: &Controller, vip: &str) -> Option<String> {
    let binding = controller.desired().vips.get(&ip(vip))?;
    let has = |service: &&sluicegate_config::VipService| {
        service.ports.iter().any(|port| (port.protocol, port.port) == (TransportProtocol::Tcp, 80))
    };
    binding.services.iter().find(has).map(|service| service.service.to_string())
}

#[test]
fn a_slice_makes_exactly_the_vips_of_its_service_dirty() {
    let mut objects = Objects::new(&settings());
    for change in [
        vips(&[
            ("192.0.2.1", "default/a"),
            ("192.0.2.2", "default/a\ndefault/b"),
            ("192.0.2.3", "default/b"),
            ("192.0.2.4", ""),
        ]),
        service("a"),
        service("b"),
        service("unbound"),
        balancer("asks", "2026-01-01T00:00:00Z", "192.0.2.9,2001:db8::9,203.0.113.9"),
    ] {
        objects.apply(change);
    }
    for (service, dirty) in [
        ("a", &["192.0.2.1", "192.0.2.2"][..]),
        ("b", &["192.0.2.2", "192.0.2.3"]),
        ("asks", &["192.0.2.9", "2001:db8::9"]),
        ("unbound", &[]),
        ("missing", &[]),
    ] {
        let expected: Vec<IpAddr> = dirty.iter().map(|address| ip(address)).collect();
        let came = objects.apply(slice(service, 1, json!({})));
        assert!(came.vips.iter().eq(&expected), "{service}: {:?}", came.vips);
        assert!(came.hosts.is_empty() && came.backends.is_empty() && came.objects.is_empty(), "{service}: {came:?}");
        assert!(objects.apply(slice(service, 1, json!({}))).is_empty(), "{service}: a resync");
        let changed = objects.apply(slice(service, 1, json!({"ready": false, "serving": true, "terminating": true})));
        assert!(changed.vips.iter().eq(&expected), "{service}: {:?}", changed.vips);
        let went = objects.apply(remove(Kind::EndpointSlice, &format!("{service}-1")));
        assert!(went.vips.iter().eq(&expected), "{service}: {:?}", went.vips);
    }
    // A slice that changes hands moves both of its Services.
    objects.apply(slice("a", 7, json!({})));
    let moved = objects.apply(ObjectChange::Set(Object::EndpointSlice(read(json!({
        "metadata": {"name": "a-7", "namespace": "default", "labels": {"kubernetes.io/service-name": "asks"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 80}],
        "endpoints": [{"addresses": ["198.51.100.7"]}],
    })))));
    let both = ["192.0.2.1", "192.0.2.2", "192.0.2.9", "2001:db8::9"].map(ip);
    assert!(moved.vips.iter().eq(&both), "{:?}", moved.vips);
}

#[test]
fn a_line_of_the_configmap_moves_its_vip_alone() {
    let mut objects = Objects::new(&settings());
    let dirty = |objects: &mut Objects, lines: &[(&str, &str)]| -> Vec<String> {
        objects.apply(vips(lines)).vips.iter().map(ToString::to_string).collect()
    };
    let first =
        [("192.0.2.1", "default/a"), ("192.0.2.2", "default/b"), ("192.0.2.3", ""), ("2001-db8--1", "default/a")];
    assert_eq!(dirty(&mut objects, &first).len(), 4);
    assert!(dirty(&mut objects, &first).is_empty());
    let second =
        [("192.0.2.1", "default/a:DR"), ("192.0.2.2", "default/b"), ("192.0.2.4", ""), ("2001-db8--1", "default/a")];
    assert_eq!(dirty(&mut objects, &second), ["192.0.2.1", "192.0.2.3", "192.0.2.4"]);
    assert_eq!(dirty(&mut objects, &second[..3]), ["2001:db8::1"]);
    let slice_of_a = objects.apply(slice("a", 1, json!({})));
    assert!(slice_of_a.vips.iter().eq(&[ip("192.0.2.1")]), "{:?}", slice_of_a.vips);
}

#[test]
fn a_service_that_asks_elsewhere_frees_what_it_had() {
    let mut objects = Objects::new(&settings());
    objects.apply(balancer("asks", "2026-01-01T00:00:00Z", "192.0.2.9"));
    let moved = objects.apply(balancer("asks", "2026-01-01T00:00:00Z", "192.0.2.8"));
    assert!(moved.vips.iter().eq(&["192.0.2.8", "192.0.2.9"].map(ip)), "{:?}", moved.vips);
    assert!(objects.everything().vips.iter().eq(&[ip("192.0.2.8")]));
    let became_plain = objects.apply(service("asks"));
    assert!(became_plain.vips.iter().eq(&[ip("192.0.2.8")]));
    assert!(objects.everything().vips.is_empty());
}

#[test]
fn the_configmap_beats_services_and_the_older_service_the_younger() {
    let mut controller = Controller::new(settings());
    let vip = "192.0.2.9";
    let mut expect = |change: ObjectChange, holds: Option<&str>, rejected: usize| {
        let step = format!("{change:?}");
        controller.apply([change], NOW);
        assert_eq!(holder(&controller, vip).as_deref(), holds, "{step}");
        let rejections: Vec<String> = controller.rejections().map(ToString::to_string).collect();
        assert_eq!(rejections.len(), rejected, "{step}: {rejections:?}");
        let rebuilt = controller.rebuild();
        assert_eq!(rebuilt.desired.vips, controller.desired().vips, "{step}");
    };
    expect(balancer("young", "2026-03-01T00:00:00Z", vip), Some("young"), 0);
    expect(balancer("old", "2026-01-01T00:00:00Z", vip), Some("old"), 1);
    expect(service("chosen"), Some("old"), 1);
    expect(vips(&[(vip, "default/chosen")]), Some("chosen"), 2);
    expect(vips(&[(vip, "default/young")]), Some("young"), 1);
    expect(vips(&[(vip, "")]), Some("old"), 1);
    expect(remove(Kind::Service, "old"), Some("young"), 0);
    expect(remove(Kind::Service, "young"), None, 0);
}

#[test]
fn endpoints_come_drain_and_go() {
    let mut controller = Controller::new(settings());
    controller.apply([vips(&[("192.0.2.1", "default/a")]), service("a")], NOW);
    let reals = |controller: &Controller| -> Vec<(String, Readiness)> {
        let binding = bound(controller, "192.0.2.1");
        let reals = binding.services[0].ports[0].reals.iter();
        reals.map(|real| (real.node.as_deref().unwrap_or_default().to_owned(), real.readiness)).collect()
    };
    let named = |number: u8, readiness| (format!("node-{number}"), readiness);
    let draining = || json!({"ready": false, "serving": true, "terminating": true});
    assert!(reals(&controller).is_empty());
    let update = controller.apply([slice("a", 1, json!({})), slice("a", 2, json!({"ready": true}))], NOW);
    assert!(matches!(update.diff.vips[&ip("192.0.2.1")], Change::Set(_)));
    assert_eq!(reals(&controller), [named(1, Readiness::Ready), named(2, Readiness::Ready)]);
    controller.apply([slice("a", 1, draining())], NOW);
    assert_eq!(reals(&controller), [named(1, Readiness::Draining), named(2, Readiness::Ready)]);
    controller.apply([slice("a", 2, json!({"ready": false}))], NOW);
    assert_eq!(reals(&controller), [named(1, Readiness::Ready)], "the last that serves gets new flows");
    controller.apply([slice("a", 1, json!({"ready": false, "serving": false, "terminating": true}))], NOW);
    assert!(reals(&controller).is_empty());
    let gone = controller.apply([vips(&[])], NOW);
    assert_eq!(gone.diff.vips[&ip("192.0.2.1")], Change::Remove);
}

#[test]
fn one_configmap_binds_a_bounded_number_of_vips() {
    let lines: Vec<(String, &str)> =
        (0..2100_u32).map(|n| (format!("10.0.{}.{}", n >> 8, n & 255), "default/a")).collect();
    let lines: Vec<(&str, &str)> = lines.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    let mut controller = Controller::new(settings());
    controller.apply([vips(&lines), service("a")], NOW);
    assert_eq!(controller.desired().vips.len(), sluicegate_config::vip::MAX_VIPS);
    assert_eq!(controller.rejections().count(), 2100 - sluicegate_config::vip::MAX_VIPS);
}

/// What `docs/vips.md` says about annotations is true: each value that it writes is taken without a word.
#[test]
fn documented_values_of_annotations_are_taken() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/vips.md");
    let text = std::fs::read_to_string(path).expect("docs/vips.md");
    let table = text.split("## Options").nth(1).expect("the section of options");
    let quoted = |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let mut values_tried = 0;
    for row in table.lines().filter(|line| line.starts_with("| `sluicegate.io/")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let key = quoted(cells[0]).remove(0);
        for value in quoted(cells[1]) {
            // A long timeout needs a longer interval.
            let interval = if key == "sluicegate.io/health-timeout" { "1h" } else { "5s" };
            let base = ("sluicegate.io/health-interval", interval);
            let base = if value == "off" { ("other.example/key", "") } else { base };
            let annotations: BTreeMap<&str, &str> = [base, (key.as_str(), value.as_str())].into();
            let mut controller = Controller::new(settings());
            controller.apply(
                [ObjectChange::Set(Object::Service(read(json!({
                    "metadata": {"name": "web", "namespace": "default", "annotations": annotations},
                    "spec": {"ports": [{"name": "tcp", "port": 80}, {"name": "udp", "port": 80, "protocol": "UDP"}]},
                }))))],
                NOW,
            );
            let said: Vec<String> = controller.rejections().map(ToString::to_string).collect();
            assert!(said.is_empty(), "{key}: {value}: {said:?}");
            values_tried += 1;
        }
    }
    assert!(values_tried > 30, "{values_tried} values were found in the table");
}
