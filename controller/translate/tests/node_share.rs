//! What one node does for the virtual IPs: which pods it hands packets to, and which addresses it holds.

use proptest::prelude::*;
use serde_json::{Value, json};
use sluicegate_config::{NamespacedName, PodTunnel, Readiness, Settings, TransportProtocol};
use sluicegate_translate::node_share::{NodeShare, PodShare, hosts_behind};
use sluicegate_translate::{Controller, Object, ObjectChange};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const NOW: i64 = 1_800_000_000;
const VIP: &str = "192.0.2.10";
const VIP6: &str = "2001:db8::10";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a Kubernetes object")
}

fn node(name: &str, addresses: &[&str]) -> ObjectChange {
    let addresses: Vec<Value> =
        addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
    ObjectChange::Set(Object::Node(read(json!({"metadata": {"name": name}, "status": {"addresses": addresses}}))))
}

fn vips(line: &str) -> ObjectChange {
    let data: BTreeMap<_, _> = [VIP.to_owned(), VIP6.replace(':', "-")].map(|vip| (vip, line)).into();
    ObjectChange::Set(Object::ConfigMap(read(
        json!({"metadata": {"name": "vips", "namespace": "sluicegate-system"}, "data": data}),
    )))
}

fn service(annotations: Value) -> ObjectChange {
    ObjectChange::Set(Object::Service(read(json!({
        "metadata": {"name": "web", "namespace": "default", "annotations": annotations},
        "spec": {"ports": [
            {"name": "http", "port": 80, "targetPort": "http"},
            {"name": "dns", "port": 53, "targetPort": 5353, "protocol": "UDP"},
        ]},
    }))))
}

/// (address, node, ready) of each endpoint.
fn slice(name: &str, of: &str, endpoints: &[(&str, &str, bool)]) -> ObjectChange {
    let family = if endpoints.iter().any(|(address, ..)| address.contains(':')) { "IPv6" } else { "IPv4" };
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, node, ready)| {
            let conditions = json!({"ready": ready, "serving": true, "terminating": !ready});
            json!({"addresses": [address], "nodeName": node, "conditions": conditions, "targetRef": {"kind": "Pod", "name": "p"}})
        })
        .collect();
    let (namespace, service) = of.split_once('/').expect("namespace/name");
    ObjectChange::Set(Object::EndpointSlice(read(json!({
        "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "addressType": family, "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"}],
    }))))
}

fn cluster(more: impl IntoIterator<Item = ObjectChange>) -> Controller {
    let nodes =
        [node("a", &["198.51.100.1", "2001:db8:1::1"]), node("b", &["198.51.100.2"]), node("c", &["198.51.100.3"])];
    let mut controller = Controller::new(Settings::default());
    controller.apply(nodes.into_iter().chain(more), NOW);
    controller
}

fn share(controller: &Controller, vip: &str, node: &str) -> NodeShare {
    NodeShare::of(controller.objects(), &controller.desired().vips[&ip(vip)], node)
}

/// `address:port`, with `-` before those that drain.
fn shown(share: &NodeShare, protocol: TransportProtocol) -> Vec<String> {
    let ports = share.ports.iter().filter(|port| port.protocol == protocol);
    let pod = |pod: &PodShare| format!("{}{}:{}", if pod.is_draining { "-" } else { "" }, pod.address, pod.port);
    ports.flat_map(|port| port.pods.iter().map(pod)).collect()
}

#[test]
fn a_node_hands_packets_to_its_own_pods() {
    use TransportProtocol::{Tcp, Udp};
    let controller = cluster([
        vips("default/web"),
        service(json!({})),
        slice(
            "web-1",
            "default/web",
            &[
                ("10.244.1.2", "a", true),
                ("10.244.1.1", "a", true),
                ("10.244.1.3", "a", false),
                ("10.244.2.1", "b", false),
                ("198.51.100.1", "a", true),
            ],
        ),
        slice("web-2", "default/web", &[("10.244.1.3", "a", false), ("10.244.1.2", "a", false)]),
        slice("web-3", "default/web", &[("2001:db8:f1::1", "a", true)]),
    ]);
    let a = share(&controller, VIP, "a");
    assert_eq!(shown(&a, Tcp), ["10.244.1.1:8080", "10.244.1.2:8080", "-10.244.1.3:8080", "198.51.100.1:8080"]);
    assert_eq!(shown(&a, Udp), ["10.244.1.1:5353", "10.244.1.2:5353", "-10.244.1.3:5353", "198.51.100.1:5353"]);
    assert!(!a.is_held, "the address is nobody's");
    assert_eq!(a.ports.iter().map(|port| (port.protocol, port.port)).collect::<Vec<_>>(), [(Tcp, 80), (Udp, 53)]);
    assert_eq!(shown(&share(&controller, VIP, "b"), Tcp), ["-10.244.2.1:8080"], "others are ready elsewhere");
    assert!(share(&controller, VIP, "c").is_empty() && share(&controller, VIP, "nobody").is_empty());
    assert_eq!(shown(&share(&controller, VIP6, "a"), Tcp), ["[2001:db8:f1::1]:8080".replace(['[', ']'], "")]);
}

#[test]
fn what_directors_take_for_ready_in_want_of_better_the_node_does_too() {
    let controller = cluster([
        vips("default/web"),
        service(json!({})),
        slice("web-1", "default/web", &[("10.244.1.1", "a", false), ("10.244.2.1", "b", false)]),
    ]);
    let reals = &controller.desired().vips[&ip(VIP)].services[0].ports[0].reals;
    assert!(reals.iter().all(|real| real.readiness == Readiness::Ready), "{reals:?}");
    assert_eq!(shown(&share(&controller, VIP, "b"), TransportProtocol::Tcp), ["10.244.2.1:8080"]);
}

#[test]
fn options_of_the_service_are_the_nodes_too() {
    let of = |annotations: Value| {
        let controller = cluster([
            vips("default/web"),
            service(annotations),
            slice("web-1", "default/web", &[("10.244.1.1", "a", true)]),
        ]);
        let share = share(&controller, VIP, "a");
        (share.ports[0].by_client_alone, share.ports[0].tunnel)
    };
    assert_eq!(of(json!({})), (false, PodTunnel::Gue));
    assert_eq!(of(json!({"sluicegate.io/pod-tunnel": "ipip"})), (false, PodTunnel::Ipip));
    assert_eq!(of(json!({"sluicegate.io/persistence": "300s"})), (true, PodTunnel::Gue));
    assert_eq!(of(json!({"sluicegate.io/scheduler": "sh"})), (true, PodTunnel::Gue));
}

#[test]
fn a_host_holds_what_it_is_a_real_server_of() {
    let held = |line: &str, endpoints: &[(&str, &str, bool)], node: &str| {
        let ports = json!({"ports": [{"name": "http", "port": 8080}]});
        let plain = ObjectChange::Set(Object::Service(read(
            json!({"metadata": {"name": "web", "namespace": "default"}, "spec": ports}),
        )));
        let controller = cluster([vips(line), plain, slice("web-1", "default/web", endpoints)]);
        let share = share(&controller, VIP, node);
        assert!(share.ports.is_empty());
        share.is_held
    };
    let by_address = [("198.51.100.1", "", true)];
    let by_name = [("203.0.113.7", "a", true)];
    for line in ["default/web:TUNNEL", "default/web:DR", "default/web:GUE", "default/web"] {
        assert!(held(line, &by_address, "a") && !held(line, &by_address, "b"), "{line}");
    }
    assert!(held("default/web:TUNNEL", &by_name, "a") && !held("default/web:TUNNEL", &by_name, "b"));
}

#[test]
fn directors_are_known_by_all_addresses_of_their_hosts() {
    let service = NamespacedName::new("sluicegate-system", "directors");
    let settings = Settings {
        director_service: Some(service.clone()),
        watch_namespace: Some("default".into()),
        ..Settings::default()
    };
    let mut controller = Controller::new(settings);
    controller.apply(
        [
            node("a", &["198.51.100.1", "2001:db8:1::1"]),
            node("b", &["198.51.100.2"]),
            slice(
                "directors-1",
                "sluicegate-system/directors",
                &[("198.51.100.1", "a", true), ("203.0.113.9", "x", true)],
            ),
        ],
        NOW,
    );
    let expected: BTreeSet<IpAddr> = ["198.51.100.1", "2001:db8:1::1", "203.0.113.9"].map(ip).into();
    assert_eq!(hosts_behind(controller.objects(), &service), expected);
}

#[test]
fn pods_that_change_places_on_a_node_are_told_though_nothing_moves_for_directors() {
    let mut controller =
        cluster([vips("default/web"), service(json!({})), slice("web-1", "default/web", &[("10.244.1.1", "a", true)])]);
    let update = controller.apply([slice("web-1", "default/web", &[("10.244.1.9", "a", true)])], NOW);
    assert!(update.diff.is_empty(), "one pod as before");
    assert_eq!(update.vips, [ip(VIP), ip(VIP6)].into());
    assert_eq!(shown(&share(&controller, VIP, "a"), TransportProtocol::Tcp), ["10.244.1.9:8080"]);
    let update = controller.apply([slice("other-1", "default/other", &[("10.244.1.9", "a", true)])], NOW);
    assert!(update.vips.is_empty());
}

proptest! {
    /// Directors and nodes agree: who is sent new flows has pods that take them, and every pod that counts is on its node.
    #[test]
    fn a_node_that_gets_flows_has_pods_for_them(
        of in prop::collection::vec((0..5_u8, 0..3_u8, any::<bool>()), 0..16),
    ) {
        let names = ["a", "b", "c"];
        let endpoints: Vec<(String, &str, bool)> = of
            .iter()
            .map(|(number, node, ready)| (format!("10.244.{node}.{number}"), names[usize::from(*node)], *ready))
            .collect();
        let borrowed: Vec<(&str, &str, bool)> =
            endpoints.iter().map(|(address, node, ready)| (address.as_str(), *node, *ready)).collect();
        let controller = cluster([vips("default/web"), service(json!({})), slice("web-1", "default/web", &borrowed)]);
        for port in &controller.desired().vips[&ip(VIP)].services[0].ports {
            for name in names {
                let share = share(&controller, VIP, name);
                let pods: Vec<PodShare> = share
                    .ports
                    .iter()
                    .filter(|of| (of.protocol, of.port) == (port.protocol, port.port))
                    .flat_map(|of| of.pods.clone())
                    .collect();
                let real = port.reals.iter().find(|real| real.node.as_deref() == Some(name));
                prop_assert_eq!(real.is_some(), !pods.is_empty());
                let Some(real) = real else { continue };
                let ready = pods.iter().filter(|pod| !pod.is_draining).count();
                prop_assert_eq!(real.readiness == Readiness::Ready, ready > 0);
                if real.readiness == Readiness::Ready {
                    prop_assert_eq!(real.pods, u32::try_from(ready).ok());
                }
            }
        }
    }
}
