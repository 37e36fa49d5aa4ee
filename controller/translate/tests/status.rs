//! Which statuses are to be written: those that differ, of objects that are ours, and no other.

use k8s_openapi::serde_json::{self, Value, json};
use sluicegate_config::{Kind, NamespacedName, ObjectRef, Settings};
use sluicegate_translate::{Controller, Object, ObjectChange, PublishSettings, StatusWrite};

/// A controller as the program has it in a cluster, and what Ingresses are to show.
struct World {
    controller: Controller,
    publish: PublishSettings,
}

impl World {
    fn new(publish: PublishSettings) -> Self {
        let settings = Settings { vip_pools: vec!["192.0.2.0/24".parse().expect("a pool")], ..Settings::default() };
        let mut this = Self { controller: Controller::new(settings), publish };
        this.apply(json!({"kind": "IngressClass", "metadata": {"name": "ours", "uid": "c"},
            "spec": {"controller": "sluicegate.io/ingress"}}));
        this
    }

    fn addresses(addresses: &[&str]) -> Self {
        let addresses = addresses.iter().map(|address| address.parse().expect("anything is one")).collect();
        Self::new(PublishSettings { service: None, addresses })
    }

    /// Takes an object, and says which statuses are to be written after it.
    fn apply(&mut self, object: Value) -> Vec<String> {
        let object = match object["kind"].as_str() {
            Some("Ingress") => Object::Ingress(serde_json::from_value(object).expect("an Ingress")),
            Some("IngressClass") => Object::IngressClass(serde_json::from_value(object).expect("an IngressClass")),
            Some("Service") => Object::Service(serde_json::from_value(object).expect("a Service")),
            Some("ConfigMap") => Object::ConfigMap(serde_json::from_value(object).expect("a ConfigMap")),
            other => panic!("{other:?}"),
        };
        self.change(ObjectChange::Set(object))
    }

    fn change(&mut self, change: ObjectChange) -> Vec<String> {
        self.controller.apply([change], 0);
        self.writes()
    }

    fn writes(&mut self) -> Vec<String> {
        let show = |write: StatusWrite| {
            let addresses: Vec<String> = write.addresses.iter().map(ToString::to_string).collect();
            format!("{}: {}", write.object, addresses.join(" "))
        };
        self.controller.take_status_writes(&self.publish).into_iter().map(show).collect()
    }
}

fn ingress(name: &str, class: &str, shown: &Value) -> Value {
    json!({"kind": "Ingress", "metadata": {"namespace": "shop", "name": name, "uid": "u"},
        "spec": {"ingressClassName": class, "defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}},
        "status": {"loadBalancer": {"ingress": shown}}})
}

fn balancer(asks: &str, shown: &Value) -> Value {
    json!({"kind": "Service", "metadata": {"namespace": "shop", "name": "web", "uid": "s",
            "annotations": {"sluicegate.io/vip": asks}},
        "spec": {"type": "LoadBalancer", "loadBalancerClass": "sluicegate.io/vip", "ports": [{"port": 80}]},
        "status": {"loadBalancer": {"ingress": shown}}})
}

const NONE: [&str; 0] = [];

#[test]
fn an_ingress_shows_what_is_published_and_is_written_once() {
    let mut world = World::addresses(&["edge.example", "192.0.2.9", "2001:db8::9"]);
    let write = "Ingress shop/web: 192.0.2.9 2001:db8::9 edge.example";
    assert_eq!(world.apply(ingress("web", "ours", &json!([]))), [write]);
    assert_eq!(world.writes(), NONE, "it is asked for once");
    let shown = json!([{"hostname": "edge.example"}, {"ip": "2001:db8::9"}, {"ip": "192.0.2.9"}]);
    assert_eq!(world.apply(ingress("web", "ours", &shown)), NONE, "in any order");
    world.controller.touch_statuses();
    assert_eq!(world.writes(), NONE, "for a new leader too");
    assert_eq!(world.apply(ingress("web", "ours", &json!([{"ip": "192.0.2.1"}]))), [write], "somebody else wrote it");
}

#[test]
fn what_is_not_ours_is_left_alone_and_what_was_is_taken_back() {
    let mut world = World::addresses(&["192.0.2.9"]);
    let shown = json!([{"ip": "192.0.2.9"}]);
    assert_eq!(world.apply(ingress("other", "theirs", &json!([{"ip": "192.0.2.1"}]))), NONE);
    assert_eq!(world.apply(ingress("web", "ours", &shown)), NONE);
    assert_eq!(world.apply(ingress("web", "theirs", &shown)), ["Ingress shop/web: "]);
    assert_eq!(world.apply(ingress("web", "theirs", &json!([{"ip": "192.0.2.1"}]))), NONE);
    let class = ObjectRef::new(Kind::IngressClass, "", "ours");
    assert_eq!(world.apply(ingress("again", "ours", &shown)), NONE);
    assert_eq!(world.change(ObjectChange::Remove(class)), ["Ingress shop/again: "], "its class is gone");
    let mut unsaid = World::addresses(&[]);
    assert_eq!(unsaid.apply(ingress("web", "ours", &shown)), NONE, "nobody said what to show");
}

#[test]
fn ingresses_show_the_vips_of_a_service_and_follow_them() {
    let service = Some(NamespacedName::new("shop", "web"));
    let mut world = World::new(PublishSettings { service, addresses: Vec::new() });
    let vips = |data: Value| json!({"kind": "ConfigMap", "metadata": {"namespace": "sluicegate-system", "name": "vips", "uid": "v"}, "data": data});
    let gateway = |shown: Value| {
        json!({"kind": "Service", "metadata": {"namespace": "shop", "name": "web", "uid": "s"},
            "spec": {"ports": [{"port": 80}]}, "status": {"loadBalancer": {"ingress": shown}}})
    };
    assert_eq!(world.apply(ingress("a", "ours", &json!([]))), NONE);
    assert_eq!(world.apply(gateway(json!([{"hostname": "lb.example"}]))), ["Ingress shop/a: lb.example"]);
    assert_eq!(world.apply(vips(json!({"192.0.2.7": "shop/web"}))), ["Ingress shop/a: 192.0.2.7"]);
    let both = world.apply(vips(json!({"192.0.2.7": "shop/web", "2001-db8--7": "shop/web"})));
    assert_eq!(both, ["Ingress shop/a: 192.0.2.7 2001:db8::7"]);
    assert_eq!(world.apply(vips(json!({}))), ["Ingress shop/a: lb.example"]);
}

#[test]
fn a_service_of_ours_shows_its_vips_as_those_of_a_proxy() {
    let mut world = World::addresses(&[]);
    assert_eq!(world.apply(balancer("192.0.2.20", &json!([]))), ["Service shop/web: 192.0.2.20"]);
    let plain = json!([{"ip": "192.0.2.20"}]);
    assert_eq!(
        world.apply(balancer("192.0.2.20", &plain)),
        ["Service shop/web: 192.0.2.20"],
        "kube-proxy would take it"
    );
    let proxy = json!([{"ip": "192.0.2.20", "ipMode": "Proxy"}]);
    assert_eq!(world.apply(balancer("192.0.2.20", &proxy)), NONE);
    assert_eq!(world.apply(balancer("198.51.100.1", &proxy)), ["Service shop/web: "], "of no pool");
    let mut other = balancer("192.0.2.20", &json!([{"ip": "203.0.113.1"}]));
    other["spec"]["loadBalancerClass"] = json!("example.com/other");
    let mut world = World::addresses(&[]);
    assert_eq!(world.apply(other), NONE, "another one's");
}

#[test]
fn what_comes_from_a_folder_is_answered_nowhere() {
    let mut world = World::addresses(&["192.0.2.9"]);
    let mut object = ingress("web", "ours", &json!([]));
    object["metadata"].as_object_mut().expect("an object").remove("uid");
    assert_eq!(world.apply(object), NONE);
}
