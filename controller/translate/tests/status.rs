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
        let settings = Settings { vip_pools: "192.0.2.0/24".parse().expect("a pool"), ..Settings::default() };
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
        self.change(ObjectChange::Set(read(object)))
    }

    fn change(&mut self, change: ObjectChange) -> Vec<String> {
        self.controller.apply([change], 0);
        self.writes()
    }

    fn writes(&mut self) -> Vec<String> {
        let show = |write: StatusWrite| {
            let Some(shown) = write.shown else { return format!("{}: nothing of ours", write.object) };
            let addresses: Vec<String> = shown.addresses.iter().map(ToString::to_string).collect();
            format!("{}: {}", write.object, addresses.join(" "))
        };
        self.controller.take_status_writes(&self.publish).into_iter().map(show).collect()
    }
}

fn read(object: Value) -> Object {
    match object["kind"].as_str() {
        Some("Ingress") => Object::Ingress(serde_json::from_value(object).expect("an Ingress")),
        Some("IngressClass") => Object::IngressClass(serde_json::from_value(object).expect("an IngressClass")),
        Some("Service") => Object::Service(serde_json::from_value(object).expect("a Service")),
        Some("ConfigMap") => Object::ConfigMap(serde_json::from_value(object).expect("a ConfigMap")),
        other => panic!("{other:?}"),
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
    assert_eq!(world.apply(ingress("web", "theirs", &shown)), ["Ingress shop/web: nothing of ours"]);
    assert_eq!(world.apply(ingress("web", "theirs", &json!([{"ip": "192.0.2.1"}]))), NONE);
    let class = ObjectRef::new(Kind::IngressClass, "", "ours");
    assert_eq!(world.apply(ingress("again", "ours", &shown)), NONE);
    assert_eq!(world.change(ObjectChange::Remove(class)), ["Ingress shop/again: nothing of ours"], "its class is gone");
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

fn with_condition(mut service: Value, status: &str, reason: &str, message: &str) -> Value {
    service["metadata"]["generation"] = json!(3);
    service["status"]["conditions"] = json!([
        {"type": "example.com/Other", "status": "False", "reason": "X", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        {"type": "sluicegate.io/Ready", "status": status, "reason": reason, "message": message,
            "observedGeneration": 3, "lastTransitionTime": "2026-01-01T00:00:00Z"},
    ]);
    service
}

#[test]
fn a_service_of_ours_shows_its_vips_as_those_of_a_proxy() {
    let mut world = World::addresses(&[]);
    assert_eq!(world.apply(balancer("192.0.2.20", &json!([]))), ["Service shop/web: 192.0.2.20"]);
    let bound =
        |shown: Value| with_condition(balancer("192.0.2.20", &shown), "True", "Bound", "192.0.2.20 (pool default)");
    let plain = json!([{"ip": "192.0.2.20"}]);
    assert_eq!(world.apply(bound(plain)), ["Service shop/web: 192.0.2.20"], "kube-proxy would take it");
    let proxy = json!([{"ip": "192.0.2.20", "ipMode": "Proxy"}]);
    assert_eq!(world.apply(bound(proxy.clone())), NONE);
    assert_eq!(world.apply(balancer("198.51.100.1", &proxy)), ["Service shop/web: "], "of no pool");
    let mut other = balancer("192.0.2.20", &json!([{"ip": "203.0.113.1"}]));
    other["spec"]["loadBalancerClass"] = json!("example.com/other");
    let mut world = World::addresses(&[]);
    assert_eq!(world.apply(other), NONE, "another one's");
}

#[test]
fn a_condition_is_written_when_it_says_something_else() {
    let mut world = World::addresses(&[]);
    let proxy = json!([{"ip": "192.0.2.20", "ipMode": "Proxy"}]);
    let condition = |world: &mut World, object: Value| {
        let Object::Service(service) = read(object) else { panic!("a Service") };
        world.controller.apply([ObjectChange::Set(Object::Service(service))], 1_800_000_000);
        let writes = world.controller.take_status_writes(&world.publish);
        writes.into_iter().next().and_then(|write| write.shown?.condition)
    };
    let first = condition(&mut world, balancer("192.0.2.20", &proxy)).expect("there is none yet");
    assert_eq!((first.is_ready, first.reason.as_str(), first.since), (true, "Bound", 1_800_000_000));
    let bound = with_condition(balancer("192.0.2.20", &proxy), "True", "Bound", "192.0.2.20 (pool default)");
    assert_eq!(condition(&mut world, bound.clone()), None, "it says the same");
    let mut other = bound.clone();
    other["metadata"]["generation"] = json!(4);
    let other = condition(&mut world, other).expect("of another generation");
    assert_eq!((other.generation, other.since), (Some(4), 1_767_225_600), "the status has not changed since");
    let mut asks = bound;
    asks["metadata"]["annotations"]["sluicegate.io/vip"] = json!("192.0.2.20,203.0.113.9");
    let asks = condition(&mut world, asks).expect("one is of no pool");
    assert_eq!((asks.is_ready, asks.reason.as_str(), asks.since), (false, "AddressNotAllowed", 1_800_000_000));
    assert!(asks.message.contains("203.0.113.9 lies in no pool"), "{}", asks.message);
}

/// A process that was not there when it was ours takes back what its predecessor wrote, where nobody else can have done so.
#[test]
fn what_is_left_over_of_a_former_life_is_taken_back() {
    let fields = json!([{"manager": "sluicegate", "operation": "Apply", "subresource": "status", "apiVersion": "v1",
        "fieldsType": "FieldsV1", "fieldsV1": {"f:status": {}}}]);
    let left = |class: Value, kind: &str, fields: &Value| {
        let mut left = balancer("192.0.2.20", &json!([{"ip": "192.0.2.20", "ipMode": "Proxy"}]));
        left["metadata"]["managedFields"] = fields.clone();
        left["spec"]["type"] = json!(kind);
        left["spec"]["loadBalancerClass"] = class;
        left
    };
    let gone = ["Service shop/web: nothing of ours"];
    assert_eq!(World::addresses(&[]).apply(left(json!("example.com/other"), "LoadBalancer", &fields)), gone);
    assert_eq!(World::addresses(&[]).apply(left(json!(null), "ClusterIP", &fields)), gone);
    assert_eq!(World::addresses(&[]).apply(left(json!(null), "ClusterIP", &json!([]))), NONE, "another one wrote it");
    // Another gateway, with --default-load-balancer, may serve it.
    assert_eq!(World::addresses(&[]).apply(left(json!(null), "LoadBalancer", &fields)), NONE);
}

#[test]
fn all_that_was_written_can_be_taken_back() {
    let mut world = World::addresses(&["192.0.2.9"]);
    let proxy = json!([{"ip": "192.0.2.20", "ipMode": "Proxy"}]);
    world.apply(balancer("192.0.2.20", &proxy));
    world.apply(ingress("web", "ours", &json!([{"ip": "192.0.2.9"}])));
    world.apply(ingress("unwritten", "ours", &json!([])));
    world.apply(ingress("other", "theirs", &json!([{"ip": "192.0.2.1"}])));
    let cleared: Vec<String> = world.controller.clear_statuses().iter().map(|write| write.object.to_string()).collect();
    assert_eq!(cleared, ["Ingress shop/web", "Service shop/web"]);
    assert!(world.controller.clear_statuses().iter().all(|write| write.shown.is_none()));
}

#[test]
fn what_comes_from_a_folder_is_answered_nowhere() {
    let mut world = World::addresses(&["192.0.2.9"]);
    let mut object = ingress("web", "ours", &json!([]));
    object["metadata"].as_object_mut().expect("an object").remove("uid");
    assert_eq!(world.apply(object), NONE);
}
