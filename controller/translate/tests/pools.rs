//! Addresses that are chosen for Services: from which pool, for whom, how long they are kept, and what is said where there
//! is none.

use serde_json::{Value, json};
use sluicegate_config::{Kind, ObjectRef, Settings, VipPools};
use sluicegate_translate::{Controller, Object, ObjectChange, PoolUsage, PublishSettings};
use std::net::IpAddr;

const NOW: i64 = 1_800_000_000;

fn pools(ranges: &[&str], namespaces: &[&str]) -> VipPools {
    let ranges = ranges.iter().map(|text| text.parse().expect("ranges"));
    VipPools::new(ranges, namespaces.iter().map(|text| text.parse().expect("namespaces"))).expect("pools")
}

/// An API server in front of one director that leads, unless it is a follower: what is written comes back at once.
struct Cluster {
    controller: Controller,
    objects: Vec<Value>,
}

impl Cluster {
    fn new(vip_pools: VipPools) -> Self {
        Self { controller: Controller::new(Settings { vip_pools, ..Settings::default() }), objects: Vec::new() }
    }

    fn leading(vip_pools: VipPools) -> Self {
        let mut this = Self::new(vip_pools);
        this.controller.give_addresses(true, NOW);
        this
    }

    fn folder(vip_pools: VipPools) -> Self {
        Self { controller: Controller::new(Settings { vip_pools, ..Settings::for_folder() }), objects: Vec::new() }
    }

    /// Applies an object; what was shown before stays.
    fn apply(&mut self, mut object: Value) {
        if let Some(known) = self.objects.iter_mut().find(|known| same(known, &object)) {
            if object["status"].is_null() {
                object["status"] = known["status"].clone();
            }
            *known = object.clone();
        } else {
            self.objects.push(object.clone());
        }
        self.controller.apply([ObjectChange::Set(read(object))], NOW);
    }

    fn delete(&mut self, kind: Kind, name: &str) {
        self.objects.retain(|known| known["kind"] != kind.to_string() || known["metadata"]["name"] != name);
        let namespace = if kind == Kind::ConfigMap { "sluicegate-system" } else { "shop" };
        self.controller.apply([ObjectChange::Remove(ObjectRef::new(kind, namespace, name))], NOW);
    }

    /// Everything that is to be written is written, and seen.
    fn settle(&mut self) {
        for _ in 0..10 {
            let writes = self.controller.take_status_writes(&PublishSettings::default());
            if writes.is_empty() {
                return;
            }
            for write in writes {
                let object = self.objects.iter().find(|known| known["metadata"]["name"] == *write.object.name);
                let mut object = object.expect("it is there").clone();
                object["status"] = match write.shown {
                    None => json!({}),
                    Some(shown) => {
                        let shown_ips: Vec<Value> = shown
                            .addresses
                            .iter()
                            .map(|one| json!({"ip": one.to_string(), "ipMode": "Proxy"}))
                            .collect();
                        let condition = shown.condition.expect("Services have one");
                        json!({"loadBalancer": {"ingress": shown_ips}, "conditions": [{
                            "type": "sluicegate.io/Ready", "status": if condition.is_ready { "True" } else { "False" },
                            "reason": condition.reason, "message": condition.message,
                            "lastTransitionTime": "2027-01-15T08:00:00Z",
                        }]})
                    }
                };
                self.apply(object);
            }
        }
        panic!("it never comes to rest");
    }

    fn with(mut self, objects: impl IntoIterator<Item = Value>) -> Self {
        objects.into_iter().for_each(|object| self.apply(object));
        self.settle();
        self
    }

    fn object(&self, name: &str) -> &Value {
        self.objects.iter().find(|known| known["metadata"]["name"] == name).expect("it is there")
    }

    /// What the status of a Service shows.
    fn shown(&self, name: &str) -> Vec<String> {
        let shown = self.object(name)["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        shown.iter().map(|one| one["ip"].as_str().unwrap_or_default().to_owned()).collect()
    }

    fn reason(&self, name: &str) -> String {
        self.object(name)["status"]["conditions"][0]["reason"].as_str().unwrap_or_default().to_owned()
    }

    /// Who is served at an address.
    fn at(&self, address: &str) -> Vec<String> {
        let address: IpAddr = address.parse().expect("an address");
        let services = self.controller.desired().vips.get(&address).into_iter().flat_map(|vip| &vip.services);
        services.map(|service| service.service.to_string()).collect()
    }

    fn said(&self, part: &str) -> bool {
        self.controller.rejections().any(|rejection| rejection.to_string().contains(part))
    }
}

fn same(known: &Value, object: &Value) -> bool {
    known["kind"] == object["kind"] && known["metadata"]["name"] == object["metadata"]["name"]
}

fn read(object: Value) -> Object {
    let fails = "an object";
    match object["kind"].as_str() {
        Some("Service") => Object::Service(serde_json::from_value(object).expect(fails)),
        Some("ConfigMap") => Object::ConfigMap(serde_json::from_value(object).expect(fails)),
        Some("Namespace") => Object::Namespace(serde_json::from_value(object).expect(fails)),
        other => panic!("{other:?}"),
    }
}

fn service(name: &str, more: Value) -> Value {
    let mut service = json!({"kind": "Service", "metadata": {"namespace": "shop", "name": name, "uid": name, "annotations": {}},
        "spec": {"type": "LoadBalancer", "loadBalancerClass": "sluicegate.io/vip", "ports": [{"port": 80}]}});
    for (key, value) in more.as_object().expect("fields") {
        match key.strip_prefix('@') {
            Some(annotation) => {
                service["metadata"]["annotations"][format!("sluicegate.io/{annotation}")] = value.clone()
            }
            None if key == "created" => service["metadata"]["creationTimestamp"] = value.clone(),
            None if key == "shown" => {
                service["status"] = json!({"loadBalancer": {"ingress": [{"ip": value, "ipMode": "Proxy"}]}});
            }
            None => service["spec"][key] = value.clone(),
        }
    }
    service
}

fn configmap(data: Value) -> Value {
    json!({"kind": "ConfigMap", "metadata": {"namespace": "sluicegate-system", "name": "vips"}, "data": data})
}

#[test]
fn a_chosen_address_is_served_once_the_status_shows_it() {
    let mut cluster = Cluster::leading(pools(&["192.0.2.0/29"], &[]));
    cluster.apply(service("web", json!({})));
    assert!(cluster.controller.desired().vips.is_empty(), "nobody else knows of it yet");
    cluster.settle();
    assert_eq!(cluster.shown("web"), ["192.0.2.1"]);
    assert_eq!(cluster.at("192.0.2.1"), ["web"]);
    assert_eq!(cluster.reason("web"), "Bound");
    // A follower chooses nothing, and serves what it sees.
    let mut follower = Cluster::new(pools(&["192.0.2.0/29"], &[]));
    follower.apply(service("other", json!({})));
    follower.apply(cluster.object("web").clone());
    assert_eq!(follower.controller.desired().vips.keys().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.1"]);
    let others = follower.controller.take_status_writes(&PublishSettings::default());
    assert!(
        others.iter().all(|write| write.shown.as_ref().is_some_and(|shown| shown.addresses.is_empty())
            || *write.object.name == *"web")
    );
}

#[test]
fn those_who_come_and_go_move_nobody() {
    let mut cluster = Cluster::leading(pools(&["192.0.2.1-192.0.2.4"], &[]));
    for name in ["c", "b", "a"] {
        cluster = cluster.with([service(name, json!({}))]);
    }
    let all = |cluster: &Cluster| ["a", "b", "c"].map(|name| cluster.shown(name).join(" "));
    assert_eq!(all(&cluster), ["192.0.2.3", "192.0.2.2", "192.0.2.1"], "in the order in which they came");
    cluster.delete(Kind::Service, "c");
    let mut cluster = cluster.with([service("d", json!({"created": "2020-01-01T00:00:00Z"}))]);
    assert_eq!(["a", "b", "d"].map(|name| cluster.shown(name).join(" ")), ["192.0.2.3", "192.0.2.2", "192.0.2.1"]);
    // A process that begins with all of it, in any order, and one that asks for nothing before all were read.
    let mut objects = cluster.objects.clone();
    objects.insert(0, service("aa", json!({})));
    let mut again = Cluster::new(pools(&["192.0.2.1-192.0.2.4"], &[]));
    objects.iter().for_each(|object| again.apply(object.clone()));
    assert_eq!(again.controller.desired().vips.len(), 3);
    again.controller.give_addresses(true, NOW);
    again.settle();
    assert_eq!(
        ["a", "aa", "b", "d"].map(|name| again.shown(name).join(" ")),
        ["192.0.2.3", "192.0.2.4", "192.0.2.2", "192.0.2.1"]
    );
    cluster.controller.touch_statuses();
    assert!(cluster.controller.take_status_writes(&PublishSettings::default()).is_empty(), "all is as it should be");
}

#[test]
fn the_first_pool_that_a_namespace_may_use_or_the_one_that_is_named() {
    let all = || {
        pools(
            &["gold=192.0.2.1", "lead=198.51.100.0/30", "free=203.0.113.7"],
            &["gold=team=gold", "lead=kubernetes.io/metadata.name in (shop)"],
        )
    };
    let mut cluster = Cluster::leading(all()).with([
        service("first", json!({})),
        service("named", json!({"@vip-pool": "free"})),
        service("wrong", json!({"@vip-pool": "gold"})),
        service("unknown", json!({"@vip-pool": "silver"})),
        service("both", json!({"@vip-pool": "free", "@vip": "198.51.100.2"})),
        service("asks", json!({"@vip": "192.0.2.1"})),
    ]);
    assert_eq!(cluster.shown("first"), ["198.51.100.1"], "gold is for others");
    assert_eq!(cluster.shown("named"), ["203.0.113.7"]);
    assert_eq!((cluster.shown("wrong").len(), cluster.reason("wrong").as_str()), (0, "NoPool"));
    assert!(cluster.said("pool gold is not for namespace shop") && cluster.said("there is no pool \"silver\""));
    assert_eq!(cluster.shown("both"), ["198.51.100.2"], "it names its address itself");
    assert!(cluster.said("the Service names its addresses itself"));
    assert_eq!(cluster.reason("asks"), "AddressNotAllowed");
    assert!(cluster.said("192.0.2.1 lies in a pool that is not for namespace shop"));
    // Labels decide, and follow.
    cluster.apply(json!({"kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "gold"}}}));
    cluster.settle();
    assert_eq!(cluster.shown("first"), ["198.51.100.1"], "who has an address that it may have keeps it");
    assert_eq!(cluster.at("192.0.2.1"), ["asks"], "and who asks comes before who gets any");
    assert_eq!(cluster.reason("wrong"), "PoolExhausted");
    cluster.delete(Kind::Service, "asks");
    cluster.settle();
    assert_eq!(cluster.shown("wrong"), ["192.0.2.1"]);
    cluster.apply(json!({"kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "lead"}}}));
    cluster.settle();
    assert_eq!((cluster.shown("wrong").len(), cluster.reason("wrong").as_str()), (0, "NoPool"), "taken away");
}

#[test]
fn families_are_those_that_are_wanted() {
    let policy = |policy: &str| json!({"ipFamilyPolicy": policy});
    let mut cluster =
        Cluster::leading(pools(&["four=192.0.2.1-192.0.2.3", "six=2001:db8::1-2001:db8::2"], &[])).with([
            service("either", json!({})),
            service("six", json!({"ipFamilies": ["IPv6"]})),
            service("both", policy("RequireDualStack")),
            // As on a cluster of one family: the API server has decided.
            service(
                "decided",
                json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4"], "clusterIPs": ["10.0.0.1"]}),
            ),
        ]);
    assert_eq!(cluster.shown("either"), ["192.0.2.1"]);
    assert_eq!(cluster.shown("six"), ["2001:db8::1"]);
    assert_eq!(cluster.shown("both"), ["192.0.2.2", "2001:db8::2"]);
    assert_eq!(cluster.shown("decided"), ["192.0.2.3"]);
    // Of both families one is left, which is enough for who prefers and too little for who requires.
    cluster.delete(Kind::Service, "decided");
    let mut cluster =
        cluster.with([service("requires", policy("RequireDualStack")), service("prefers", policy("PreferDualStack"))]);
    assert_eq!((cluster.shown("requires").len(), cluster.reason("requires").as_str()), (0, "PoolExhausted"));
    assert!(cluster.said("no IPv6 address is free in pools four (192.0.2.1-192.0.2.3), six (2001:db8::1-2001:db8::2)"));
    assert_eq!(
        (cluster.shown("prefers").join(" "), cluster.reason("prefers")),
        ("192.0.2.3".to_owned(), "Bound".to_owned())
    );
    cluster.delete(Kind::Service, "six");
    cluster.settle();
    assert_eq!(cluster.shown("prefers"), ["192.0.2.3", "2001:db8::1"], "the other one when there is one");
    // Who wants one family less gives the other one back, and keeps the rest.
    let mut cluster = cluster.with([service("both", json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]}))]);
    assert_eq!(cluster.shown("both"), ["192.0.2.2"]);
    cluster.delete(Kind::Service, "either");
    cluster.settle();
    assert_eq!(cluster.shown("requires"), ["192.0.2.1", "2001:db8::2"]);
}

#[test]
fn an_exhausted_pool_is_said_and_over_when_an_address_is_free() {
    let cluster = Cluster::leading(pools(&["192.0.2.8/30"], &[])).with([
        service("a", json!({})),
        service("b", json!({})),
        service("c", json!({})),
    ]);
    assert_eq!(cluster.shown("b"), ["192.0.2.10"]);
    let why = "Service shop/c (spec.type): no IPv4 or IPv6 address is free in pool default (192.0.2.8/30)";
    assert!(cluster.said(why));
    assert_eq!((cluster.reason("c").as_str(), cluster.shown("c").len()), ("PoolExhausted", 0));
    assert_eq!(cluster.controller.pool_usage(), [PoolUsage { pool: "default".into(), used: 2, free: 0.0 }]);
    let asked = service("d", json!({"@vip": "192.0.2.11"}));
    let mut cluster = cluster.with([asked]);
    assert_eq!(cluster.at("192.0.2.11"), ["d"], "the last address of a network can be asked for");
    cluster.delete(Kind::Service, "a");
    cluster.settle();
    assert!(!cluster.said("is free in pool"));
    assert_eq!((cluster.shown("c").join(" "), cluster.reason("c")), ("192.0.2.9".to_owned(), "Bound".to_owned()));
}

#[test]
fn of_two_statuses_the_older_service_has_the_address() {
    let mut cluster = Cluster::leading(pools(&["192.0.2.1-192.0.2.2"], &[]));
    cluster.apply(service("younger", json!({"created": "2026-02-01T00:00:00Z", "shown": "192.0.2.1"})));
    assert_eq!(cluster.at("192.0.2.1"), ["younger"]);
    cluster.apply(service("older", json!({"created": "2026-01-01T00:00:00Z", "shown": "192.0.2.1"})));
    assert_eq!(cluster.at("192.0.2.1"), ["older"]);
    assert!(cluster.said("192.0.2.1 belongs to Service shop/older, and is not served for this Service"));
    cluster.settle();
    assert_eq!(cluster.shown("younger"), ["192.0.2.2"]);
    assert!(!cluster.said("belongs to"));
    // What another controller's Service shows is left to it.
    let mut foreign = service("foreign", json!({"shown": "192.0.2.1"}));
    foreign["spec"]["loadBalancerClass"] = json!("example.com/other");
    let mut cluster = Cluster::leading(pools(&["192.0.2.1-192.0.2.2"], &[])).with([foreign]);
    cluster = cluster.with([service("web", json!({}))]);
    assert_eq!(cluster.shown("web"), ["192.0.2.2"]);
}

#[test]
fn who_asks_for_what_was_given_comes_too_late() {
    let mut cluster = Cluster::leading(pools(&["192.0.2.1-192.0.2.2"], &[])).with([service("given", json!({}))]);
    let asks = |name: &str, port: u16| {
        service(name, json!({"@vip": "192.0.2.1", "created": "2020-01-01T00:00:00Z", "ports": [{"port": port}]}))
    };
    cluster = cluster.with([asks("asks", 443)]);
    assert_eq!(cluster.at("192.0.2.1"), ["given"], "though it is younger, and though the ports differ");
    assert!(cluster.said("192.0.2.1 has been given to Service shop/given"));
    assert_eq!((cluster.reason("asks").as_str(), cluster.shown("asks").len()), ("AddressTaken", 0));
    cluster.delete(Kind::Service, "given");
    cluster.settle();
    assert_eq!(cluster.shown("asks"), ["192.0.2.1"]);
    // Two that ask for it share it, as long as their ports differ.
    cluster = cluster.with([asks("too", 80), asks("third", 443)]);
    assert_eq!(cluster.at("192.0.2.1"), ["asks", "too"]);
    assert_eq!((cluster.reason("too").as_str(), cluster.reason("third").as_str()), ("Bound", "PortConflict"));
    // Who ceases to ask keeps what it had, alone: those that still ask and have it come first.
    cluster = cluster.with([service("too", json!({}))]);
    assert_eq!(cluster.shown("too"), ["192.0.2.2"]);
    cluster.delete(Kind::Service, "third");
    cluster = cluster.with([service("asks", json!({"created": "2020-01-01T00:00:00Z"}))]);
    assert_eq!(cluster.shown("asks"), ["192.0.2.1"], "nobody else is there");
}

#[test]
fn whom_the_configmap_binds_gets_nothing_of_the_pools() {
    let mut cluster = Cluster::leading(pools(&["192.0.2.1-192.0.2.3"], &[]));
    cluster.apply(configmap(json!({"192.0.2.1": "", "192.0.2.9": "shop/bound"})));
    cluster = cluster.with([service("bound", json!({})), service("web", json!({}))]);
    assert_eq!(cluster.shown("bound"), ["192.0.2.9"]);
    assert_eq!(cluster.shown("web"), ["192.0.2.2"], "the ConfigMap has the first");
    // Its line goes: the address is of no pool, so another one is chosen.
    cluster.apply(configmap(json!({"192.0.2.3": "shop/bound"})));
    cluster.settle();
    assert_eq!(cluster.shown("bound"), ["192.0.2.3"]);
    cluster.delete(Kind::ConfigMap, "vips");
    cluster.settle();
    assert_eq!(cluster.shown("bound"), ["192.0.2.3"], "it is of a pool, so the Service keeps it");
    cluster.apply(configmap(json!({"192.0.2.2": "shop/bound"})));
    cluster.settle();
    assert_eq!(cluster.at("192.0.2.2"), ["bound"], "the ConfigMap comes first");
    assert_eq!(
        (cluster.shown("web").join(" "), cluster.reason("web")),
        ("192.0.2.2".to_owned(), "PortConflict".to_owned())
    );
}

#[test]
fn an_address_is_free_when_its_service_is_ours_no_more() {
    let mut cluster = Cluster::leading(pools(&["192.0.2.1"], &[])).with([service("web", json!({}))]);
    assert_eq!(cluster.shown("web"), ["192.0.2.1"]);
    for more in
        [json!({"type": "ClusterIP", "loadBalancerClass": null}), json!({"loadBalancerClass": "example.com/other"})]
    {
        cluster = cluster.with([service("web", more), service("other", json!({}))]);
        assert!(cluster.shown("web").is_empty() && cluster.object("web")["status"] == json!({}));
        assert_eq!(cluster.shown("other"), ["192.0.2.1"]);
        cluster.delete(Kind::Service, "other");
        cluster = cluster.with([service("web", json!({}))]);
        assert_eq!(cluster.shown("web"), ["192.0.2.1"]);
    }
    // Restricting clients is not implemented, so the Service is closed instead of opened, and its address is free.
    cluster = cluster.with([service("web", json!({"loadBalancerSourceRanges": ["198.51.100.0/24"]}))]);
    assert_eq!((cluster.shown("web").len(), cluster.reason("web").as_str()), (0, "SourceRangesNotImplemented"));
    // `Local` asks for no second hop, and there never is one; node ports are left alone.
    let local =
        json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 30000, "allocateLoadBalancerNodePorts": false});
    cluster = cluster.with([service("web", local)]);
    assert_eq!((cluster.shown("web").join(" "), cluster.reason("web")), ("192.0.2.1".to_owned(), "Bound".to_owned()));
    assert_eq!(cluster.controller.rejections().count(), 0);
}

#[test]
fn who_ceases_to_lead_gives_no_more() {
    let mut cluster = Cluster::leading(pools(&["192.0.2.1-192.0.2.2"], &[]));
    cluster.apply(service("web", json!({})));
    cluster.controller.give_addresses(false, NOW);
    let writes = cluster.controller.take_status_writes(&PublishSettings::default());
    assert!(
        writes.iter().all(|write| write.shown.as_ref().is_some_and(|shown| shown.addresses.is_empty())),
        "{writes:?}"
    );
    // Another one has given it to somebody else meanwhile.
    cluster.apply(service("other", json!({"shown": "192.0.2.1"})));
    cluster.controller.give_addresses(true, NOW);
    cluster.settle();
    assert_eq!(cluster.shown("web"), ["192.0.2.2"]);
}

#[test]
fn in_a_folder_names_decide_at_first_and_then_nobody_is_moved() {
    let mut folder = Cluster::folder(pools(&["192.0.2.1-192.0.2.3"], &[]));
    for name in ["c", "b"] {
        folder.apply(service(name, json!({})));
    }
    folder.apply(service("kept", json!({"shown": "192.0.2.2"})));
    assert_eq!(folder.controller.desired().vips.len(), 1, "not before all were read");
    folder.controller.give_addresses(true, NOW);
    assert_eq!((folder.at("192.0.2.1"), folder.at("192.0.2.3")), (vec!["b".to_owned()], vec!["c".to_owned()]));
    assert_eq!(folder.at("192.0.2.2"), ["kept"], "a manifest may bring its status along");
    folder.apply(service("a", json!({})));
    assert!(folder.said("no IPv4 or IPv6 address is free"));
    assert_eq!(folder.at("192.0.2.1"), ["b"]);
    // A file that is replaced by another one with the same object.
    let object = ObjectRef::new(Kind::Service, "shop", "b");
    let again = ObjectChange::Set(read(service("b", json!({"ports": [{"port": 81}]}))));
    folder.controller.apply([ObjectChange::Remove(object), again], NOW);
    assert_eq!(folder.at("192.0.2.1"), ["b"]);
    folder.delete(Kind::Service, "b");
    assert_eq!(folder.at("192.0.2.1"), ["a"], "who waited for it has it at once");
}

#[test]
fn usage_is_counted_by_pool() {
    let cluster = Cluster::leading(pools(&["four=192.0.2.0/29", "six=2001:db8::/64"], &[]))
        .with([service("a", json!({})), service("b", json!({"@vip": "192.0.2.0,2001:db8::9"}))]);
    let usage = cluster.controller.pool_usage();
    assert_eq!((&*usage[0].pool, usage[0].used, usage[0].free), ("four", 2, 5.0), "of six that can be chosen one is");
    assert_eq!((&*usage[1].pool, usage[1].used), ("six", 1));
    assert!(usage[1].free > 1.8e19);
}
