//! The program on a cluster with pools of virtual IPs: addresses are chosen and kept, and Services are told what is missing.
//!
//! Each scenario runs against the API server in this process, and against a real one where there is one.

mod cli_support;
mod cluster_support;

use cli_support::{AT_MOST, Gateway, try_get};
use cluster_support::Cluster;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Two addresses of each family that can be chosen.
const POOL: &str = "public=192.0.2.1-192.0.2.2,2001:db8::1-2001:db8::2";

fn start(cluster: &Cluster, more: &[&str]) -> Gateway {
    let kubeconfig = cluster.kubeconfig();
    let mut arguments =
        vec!["--kubeconfig", &kubeconfig, "--forward", "off", "--log-format", "json", "--lame-duck", "0s"];
    arguments.extend(["--vip-pool", POOL, "--director-leases", "off"]);
    for flag in ["--http", "--https", "--metrics", "--admin"] {
        arguments.extend([flag, "127.0.0.1:0"]);
    }
    arguments.extend(more);
    Gateway::start_with(&arguments, &[])
}

#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + AT_MOST;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn prepare(cluster: &Cluster) {
    for (name, team) in [("shop", "edge"), ("blog", "none"), ("sluicegate-system", "none")] {
        cluster.apply(&json!({"kind": "Namespace", "metadata": {"name": name, "labels": {"team": team}}}));
    }
}

fn service(namespace: &str, name: &str, spec: Value) -> Value {
    let mut service = json!({"kind": "Service", "metadata": {"namespace": namespace, "name": name}, "spec": {
        "type": "LoadBalancer", "loadBalancerClass": "sluicegate.io/vip", "ipFamilyPolicy": "SingleStack",
        "ipFamilies": ["IPv4"], "ports": [{"port": 80, "protocol": "TCP"}]}});
    for (key, value) in spec.as_object().expect("fields") {
        service["spec"][key] = value.clone();
    }
    service
}

fn dual(name: &str) -> Value {
    service("shop", name, json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]}))
}

/// What the status of a Service shows, and the reason of its condition.
fn shown(cluster: &Cluster, name: &str) -> (Vec<String>, String) {
    let object = cluster.get("Service", "shop", name);
    let shown = object["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
    assert!(shown.iter().all(|one| one["ipMode"] == "Proxy"), "{shown:?}");
    let addresses = shown.iter().map(|one| one["ip"].as_str().unwrap_or_default().to_owned()).collect();
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ours = conditions.iter().find(|one| one["type"] == "sluicegate.io/Ready");
    (addresses, ours.map(|one| one["reason"].as_str().unwrap_or_default().to_owned()).unwrap_or_default())
}

#[track_caller]
fn until_shown(cluster: &Cluster, name: &str, addresses: &[&str], reason: &str) {
    let wanted = (addresses.iter().map(|address| (*address).to_owned()).collect::<Vec<_>>(), reason.to_owned());
    let deadline = Instant::now() + AT_MOST;
    while shown(cluster, name) != wanted {
        assert!(Instant::now() < deadline, "{name}: {:?} and not {wanted:?}", shown(cluster, name));
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn versions(cluster: &Cluster) -> Vec<Value> {
    cluster.list("Service", "shop").iter().map(|object| object["metadata"]["resourceVersion"].clone()).collect()
}

fn events(cluster: &Cluster, reason: &str, part: &str) -> usize {
    let events = cluster.list("Event", "shop");
    let is_it =
        |event: &&Value| event["reason"] == reason && event["message"].as_str().is_some_and(|m| m.contains(part));
    events.iter().filter(is_it).count()
}

fn end(mut gateway: Gateway) {
    gateway.signal("TERM");
    assert_eq!(gateway.end(), Some(0));
}

/// Services get addresses and keep them over a restart, one is told that there is none, and has it once there is.
fn addresses_are_chosen_and_kept(cluster: &Cluster) {
    prepare(cluster);
    let gateway = start(cluster, &[]);
    cluster.apply(&service("shop", "first", json!({})));
    until_shown(cluster, "first", &["192.0.2.1"], "Bound");
    cluster.apply(&dual("dual"));
    until_shown(cluster, "dual", &["192.0.2.2", "2001:db8::1"], "Bound");
    cluster.apply(&service("shop", "late", json!({})));
    until_shown(cluster, "late", &[], "PoolExhausted");
    until("the Event", || events(cluster, "Rejected", "no IPv4 address is free in pool public") == 1);
    let mut foreign = service("shop", "foreign", json!({"loadBalancerClass": "example.com/other"}));
    foreign["metadata"]["annotations"] = json!({"sluicegate.io/vip": "192.0.2.1"});
    cluster.apply(&foreign);
    let metrics = || try_get(gateway.metrics, &gateway.metrics.to_string(), "/metrics").unwrap_or_default();
    until("the gauge", || metrics().contains(r#"sluicegate_vip_pool_addresses{pool="public",state="used"} 3"#));
    let state = try_get(gateway.admin, &gateway.admin.to_string(), "/api/v1/state?section=vips").expect("an answer");
    assert!(state.contains(r#""pool":"public""#) || state.contains(r#""pool": "public""#), "{state}");
    end(gateway);

    let before = versions(cluster);
    // By its name it would be the first, but it is younger: ages are counted in seconds.
    std::thread::sleep(Duration::from_millis(1100));
    cluster.apply(&service("shop", "aaa", json!({})));
    let gateway = start(cluster, &[]);
    until_shown(cluster, "aaa", &[], "PoolExhausted");
    assert_eq!(shown(cluster, "first").0, ["192.0.2.1"]);
    assert_eq!(shown(cluster, "dual").0, ["192.0.2.2", "2001:db8::1"]);
    std::thread::sleep(Duration::from_secs(2));
    let after = versions(cluster);
    assert!(before.iter().all(|version| after.contains(version)), "nothing is written that is as it should be");
    assert_eq!(events(cluster, "Rejected", "no IPv4 address is free in pool public"), 2, "each said once");
    assert_eq!(shown(cluster, "foreign"), (Vec::new(), String::new()), "another one's");

    cluster.delete("Service", "shop", "first");
    until_shown(cluster, "late", &["192.0.2.1"], "Bound");
    until("the all-clear", || events(cluster, "Accepted", "no IPv4 address is free in pool public") >= 1);
    let former = cluster.get("Service", "shop", "late")["status"]["conditions"][0]["lastTransitionTime"].clone();
    assert!(former.is_string(), "{former}");
    // It becomes another type: its address goes to who waits, and nothing of ours stays.
    let mut internal = service("shop", "late", json!({}));
    internal["spec"]["type"] = json!("ClusterIP");
    internal["spec"].as_object_mut().expect("fields").remove("loadBalancerClass");
    cluster.apply(&internal);
    until_shown(cluster, "aaa", &["192.0.2.1"], "Bound");
    until_shown(cluster, "late", &[], "");
    end(gateway);
    assert_eq!(shown(cluster, "aaa").0, ["192.0.2.1"], "an end clears nothing");
}

/// Namespaces decide who may use a pool, and who removes the gateway takes everything back.
fn namespaces_decide_and_all_can_be_taken_back(cluster: &Cluster) {
    prepare(cluster);
    let gateway = start(cluster, &["--vip-pool-namespaces", "public=team=edge", "--clear-status-on-shutdown"]);
    cluster.apply(&service("shop", "web", json!({})));
    until_shown(cluster, "web", &["192.0.2.1"], "Bound");
    cluster.apply(&service("blog", "web", json!({})));
    let of_blog = || cluster.get("Service", "blog", "web")["status"].clone();
    until("its condition", || of_blog()["conditions"][0]["reason"] == "NoPool");
    assert_eq!(of_blog()["conditions"][0]["status"], "False");
    cluster.apply(&json!({"kind": "Namespace", "metadata": {"name": "blog", "labels": {"team": "edge"}}}));
    until("its address", || of_blog()["loadBalancer"]["ingress"][0]["ip"] == "192.0.2.2");
    assert_eq!(shown(cluster, "web").0, ["192.0.2.1"]);
    cluster.apply(&json!({"kind": "Namespace", "metadata": {"name": "blog", "labels": {"team": "none"}}}));
    until("it is taken away", || of_blog()["conditions"][0]["reason"] == "NoPool");
    end(gateway);
    assert_eq!(shown(cluster, "web"), (Vec::new(), String::new()), "everything is taken back");
    assert!(of_blog()["conditions"].as_array().is_none_or(Vec::is_empty), "{}", of_blog());
}

#[test]
fn addresses_are_chosen_and_kept_in_process() {
    addresses_are_chosen_and_kept(&Cluster::in_process());
}

#[test]
fn namespaces_decide_in_process() {
    namespaces_decide_and_all_can_be_taken_back(&Cluster::in_process());
}

#[test]
#[ignore = "needs kube-apiserver and etcd on the PATH or in KUBEBUILDER_ASSETS"]
fn addresses_are_chosen_and_kept_on_a_real_api_server() {
    addresses_are_chosen_and_kept(&Cluster::real());
}

#[test]
#[ignore = "needs kube-apiserver and etcd on the PATH or in KUBEBUILDER_ASSETS"]
fn namespaces_decide_on_a_real_api_server() {
    namespaces_decide_and_all_can_be_taken_back(&Cluster::real());
}
