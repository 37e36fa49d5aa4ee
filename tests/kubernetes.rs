//! The program on a cluster: applications become hosts, statuses and Events, and nothing that is served is lost on a bad day.
//!
//! Each scenario runs against the API server in this process, and against a real one where there is one.

mod cli_support;
mod cluster_support;

use cli_support::{AT_MOST, Gateway, try_get};
use cluster_support::{Cluster, own_address};
use serde_json::{Value, json};
use sluicegate_source::rights::{self, Account, Right};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A backend that answers with its name.
fn backend(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((own_address(), 0)).expect("an address of this machine");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut piece = [0; 4096];
                loop {
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read(&mut piece) {
                            Ok(0) | Err(_) => return,
                            Ok(length) => head.extend_from_slice(&piece[..length]),
                        }
                    }
                    head.clear();
                    let length = name.len();
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}");
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn class() -> Value {
    json!({"kind": "IngressClass", "metadata": {"name": "sluicegate"}, "spec": {"controller": "sluicegate.io/ingress"}})
}

fn application(name: &str, backend: SocketAddr) -> [Value; 3] {
    [
        json!({"kind": "Ingress", "metadata": {"namespace": "shop", "name": name}, "spec": {
            "ingressClassName": "sluicegate",
            "rules": [{"host": format!("{name}.example"), "http": {"paths": [{"path": "/", "pathType": "Prefix",
                "backend": {"service": {"name": name, "port": {"number": 80}}}}]}}]}}),
        json!({"kind": "Service", "metadata": {"namespace": "shop", "name": name},
            "spec": {"ports": [{"port": 80, "targetPort": backend.port(), "protocol": "TCP"}]}}),
        slice(name, &[backend]),
    ]
}

/// All backends at one port.
fn slice(name: &str, backends: &[SocketAddr]) -> Value {
    let endpoints: Vec<Value> = backends
        .iter()
        .map(|backend| json!({"addresses": [backend.ip().to_string()], "conditions": {"ready": true}}))
        .collect();
    json!({"kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "shop", "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"port": backends[0].port(), "name": "", "protocol": "TCP"}], "endpoints": endpoints})
}

fn deploy(cluster: &Cluster, name: &str, backend: SocketAddr) {
    application(name, backend).iter().for_each(|object| cluster.apply(object));
}

fn prepare(cluster: &Cluster) {
    for namespace in ["shop", "sluicegate-system"] {
        cluster.apply(&json!({"kind": "Namespace", "metadata": {"name": namespace}}));
    }
    cluster.apply(&class());
}

fn start(cluster: &Cluster, more: &[&str]) -> Gateway {
    let kubeconfig = cluster.kubeconfig();
    let mut arguments = vec!["--kubeconfig", &kubeconfig, "--role", "gateway", "--log-format", "json"];
    for flag in ["--http", "--https", "--metrics", "--admin"] {
        arguments.extend([flag, "127.0.0.1:0"]);
    }
    arguments.extend(more);
    Gateway::start_with(&arguments, &[])
}

fn asked(gateway: &Gateway, host: &str) -> String {
    let answer = try_get(gateway.http, host, "/").unwrap_or_else(|error| error.to_string());
    answer.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned()
}

#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + AT_MOST;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn addresses(cluster: &Cluster, name: &str) -> Value {
    cluster.get("Ingress", "shop", name)["status"]["loadBalancer"]["ingress"].clone()
}

/// Twenty applications become hosts with statuses, a change is live, and what is removed is gone.
fn applications(cluster: &Cluster) {
    prepare(cluster);
    let (one, two) = (backend("one"), backend("two"));
    for number in 0..20 {
        deploy(cluster, &format!("app{number:02}"), one);
    }
    let gateway = start(cluster, &["--publish-status-address", "192.0.2.10,edge.example"]);
    for number in 0..20 {
        assert_eq!(asked(&gateway, &format!("app{number:02}.example")), "one");
    }
    let shown = json!([{"ip": "192.0.2.10"}, {"hostname": "edge.example"}]);
    until("twenty statuses", || (0..20).all(|number| addresses(cluster, &format!("app{number:02}")) == shown));
    let changed = Instant::now();
    let [_, mut service, _] = application("app00", two);
    service["spec"]["ports"][0]["targetPort"] = json!(two.port());
    cluster.apply(&service);
    cluster.apply(&slice("app00", &[two]));
    until("the other backend", || asked(&gateway, "app00.example") == "two");
    println!("changed and served after {:?}", changed.elapsed());
    cluster.delete("Ingress", "shop", "app01");
    until("404", || asked(&gateway, "app01.example") != "one");
    assert_eq!(asked(&gateway, "app02.example"), "one");
}

/// What is wrong with an object is an Event on it, once, and its recovery too.
fn events(cluster: &Cluster) {
    prepare(cluster);
    let web = backend("web");
    deploy(cluster, "web", web);
    let [mut ingress, ..] = application("web", web);
    ingress["spec"]["tls"] = json!([{"hosts": ["web.example"], "secretName": "missing"}]);
    cluster.apply(&ingress);
    let gateway = start(cluster, &[]);
    let told = |reason: &str, part: &str| {
        let events = cluster.list("Event", "shop");
        let is_it =
            |event: &&Value| event["reason"] == reason && event["message"].as_str().is_some_and(|m| m.contains(part));
        events.iter().filter(is_it).count()
    };
    until("the Event", || told("Rejected", "Secret shop/missing does not exist") == 1);
    let event = cluster.list("Event", "shop").remove(0);
    assert_eq!(event["involvedObject"]["uid"], cluster.get("Ingress", "shop", "web")["metadata"]["uid"]);
    assert_eq!(asked(&gateway, "web.example"), "web", "the host is served all the same");
    ingress["spec"].as_object_mut().expect("an object").remove("tls");
    cluster.apply(&ingress);
    until("the all-clear", || told("Accepted", "Secret shop/missing does not exist") == 1);
    drop(gateway);
    ingress["spec"]["tls"] = json!([{"hosts": ["web.example"], "secretName": "missing"}]);
    cluster.apply(&ingress);
    let _again = start(cluster, &[]);
    // Another process leads once the Lease of the killed one has run out.
    until("its lead", || {
        let lease = cluster.get("Lease", "sluicegate-system", "sluicegate-gateway");
        lease["spec"]["leaseTransitions"] == 1
    });
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(told("Rejected", "Secret shop/missing does not exist"), 1, "said once");
}

/// Two gateways and every restart say what stands once, and of what is well nothing, however slowly it is read.
fn restarts(cluster: &Cluster) {
    prepare(cluster);
    let web = backend("web");
    deploy(cluster, "web", web);
    deploy(cluster, "bad", web);
    let pair = rcgen::generate_simple_self_signed(["web.example".to_owned()]).expect("a certificate");
    cluster.apply(
        &json!({"kind": "Secret", "metadata": {"namespace": "shop", "name": "tls"}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": pair.cert.pem(), "tls.key": pair.signing_key.serialize_pem()}}),
    );
    for (name, secret) in [("web", "tls"), ("bad", "missing")] {
        let [mut ingress, ..] = application(name, web);
        ingress["spec"]["tls"] = json!([{"hosts": [format!("{name}.example")], "secretName": secret}]);
        cluster.apply(&ingress);
    }
    let shown = json!([{"ip": "192.0.2.10"}]);
    let flags = ["--publish-status-address", "192.0.2.10", "--lame-duck", "0s"];
    let holder = || cluster.get("Lease", "sluicegate-system", "sluicegate-gateway")["spec"]["holderIdentity"].clone();
    let complaints = || cluster.list("Event", "shop").into_iter().filter(|event| event["type"] == "Warning");
    let mut running = start(cluster, &flags);
    until("the Event", || complaints().count() > 0);
    for _ in 0..3 {
        let before = holder();
        // It stands by, then leads.
        let next = start(cluster, &flags);
        running.signal("TERM");
        assert_eq!(running.end(), Some(0));
        until("another leader", || ![Value::Null, json!(""), before.clone()].contains(&holder()));
        running = next;
    }
    // Nobody else has the Lease: who starts leads before it has read everything.
    running.signal("TERM");
    assert_eq!(running.end(), Some(0));
    let before = holder();
    let _last = start(cluster, &flags);
    until("the last leader", || ![Value::Null, json!(""), before.clone()].contains(&holder()));
    until("the statuses", || ["web", "bad"].iter().all(|name| addresses(cluster, name) == shown));
    std::thread::sleep(Duration::from_secs(2));
    let told: Vec<Value> = complaints().collect();
    let text = |event: &Value| format!("{} {} {}", event["involvedObject"]["name"], event["count"], event["message"]);
    assert_eq!(told.len(), 1, "{:#?}", told.iter().map(text).collect::<Vec<_>>());
    assert!(told[0]["count"] == 1 && told[0]["involvedObject"]["name"] == "bad", "{}", text(&told[0]));
}

/// An API server that is away changes nothing: every request is answered, and changes come with its return.
fn outage(cluster: &mut Cluster, away: Duration) {
    prepare(cluster);
    let (one, two) = (backend("one"), backend("two"));
    deploy(cluster, "web", one);
    let gateway = start(cluster, &["--publish-status-address", "192.0.2.10"]);
    until("the status", || addresses(cluster, "web") != Value::Null);
    let (stop, failed, done) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let load = {
        let (stop, failed, done, http) = (stop.clone(), failed.clone(), done.clone(), gateway.http);
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let is_good = try_get(http, "web.example", "/").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"));
                failed.fetch_add(usize::from(!is_good), Ordering::Relaxed);
                done.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        })
    };
    cluster.go_down();
    std::thread::sleep(away);
    let ready = try_get(gateway.metrics, &gateway.metrics.to_string(), "/readyz").expect("an answer");
    assert!(ready.starts_with("HTTP/1.1 200"), "it stays ready: {ready}");
    assert!(ready.contains("has not answered for") && ready.contains("what was read is served"), "{ready}");
    let state = source(&gateway);
    assert!(state["outage_seconds"].as_u64().is_some_and(|seconds| seconds + 2 >= away.as_secs()), "{state}");
    assert!(state["watches"]["failing"].as_u64().is_some_and(|failing| failing > 0), "{state}");
    // Of these the status page makes its words.
    let is_told =
        |watch: &Value| watch["watch"] == "services" && watch["error"].as_str().is_some_and(|why| !why.is_empty());
    assert!(state["failing"].as_array().is_some_and(|failing| failing.iter().any(is_told)), "{state}");
    assert!(metric(&gateway, "sluicegate_source_outage_seconds") > 1.0);
    assert!(metric(&gateway, "sluicegate_source_watches{resource=\"services\",state=\"failing\"}") == 1.0);
    cluster.come_back();
    for object in &application("web", two)[1..] {
        cluster.apply(object);
    }
    until("the change", || asked(&gateway, "web.example") == "two");
    until("word of its return", || source(&gateway)["outage_seconds"].is_null());
    assert_eq!(metric(&gateway, "sluicegate_source_outage_seconds"), 0.0);
    let ready = try_get(gateway.metrics, &gateway.metrics.to_string(), "/readyz").expect("an answer");
    assert!(!ready.contains("remarks"), "{ready}");
    stop.store(true, Ordering::Relaxed);
    load.join().expect("the load ends");
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {}", done.load(Ordering::Relaxed));
    assert_eq!(addresses(cluster, "web"), json!([{"ip": "192.0.2.10"}]), "a status is not cleared");
}

/// `source` of the state.
fn source(gateway: &Gateway) -> Value {
    let answer =
        try_get(gateway.admin, &gateway.admin.to_string(), "/api/v1/state?section=listeners").expect("an answer");
    let body = answer.rsplit("\r\n\r\n").next().unwrap_or_default();
    serde_json::from_str::<Value>(body).expect("JSON")["source"].clone()
}

/// One sample.
fn metric(gateway: &Gateway, series: &str) -> f64 {
    let text = try_get(gateway.metrics, &gateway.metrics.to_string(), "/metrics").expect("an answer");
    let line = text.lines().find_map(|line| line.strip_prefix(series)).unwrap_or_else(|| panic!("{series} in {text}"));
    line.trim().parse().expect("a number")
}

/// One of two writes, and the other one goes on when it is told to end.
fn two_gateways(cluster: &Cluster) {
    prepare(cluster);
    let web = backend("web");
    deploy(cluster, "web", web);
    let mut one = start(cluster, &["--publish-status-address", "192.0.2.10", "--lame-duck", "0s"]);
    until("the first status", || addresses(cluster, "web") == json!([{"ip": "192.0.2.10"}]));
    let two = start(cluster, &["--publish-status-address", "192.0.2.20"]);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(addresses(cluster, "web"), json!([{"ip": "192.0.2.10"}]), "one leads");
    one.signal("TERM");
    assert_eq!(one.end(), Some(0));
    let ended = Instant::now();
    until("the second one's status", || addresses(cluster, "web") == json!([{"ip": "192.0.2.20"}]));
    println!("the second one writes {:?} after the first has ended", ended.elapsed());
    assert_eq!(asked(&two, "web.example"), "web");
}

#[test]
fn applications_in_process() {
    applications(&Cluster::in_process());
}

#[test]
fn events_in_process() {
    events(&Cluster::in_process());
}

#[test]
fn restarts_in_process() {
    let cluster = Cluster::in_process();
    // The Lease is had at once, and the rest is slow to come.
    cluster.server().faults().set(|seen| {
        let delay = match seen.resource.as_str() {
            "services" => Duration::from_millis(700),
            "endpointslices" => Duration::from_millis(1000),
            "secrets" => Duration::from_millis(500),
            _ => return None,
        };
        matches!(seen.verb, "list" | "watch").then_some(sluicegate_apiserver::Fault::Delay(delay))
    });
    restarts(&cluster);
}

#[test]
fn an_outage_in_process() {
    outage(&mut Cluster::in_process(), Duration::from_secs(5));
}

#[test]
fn two_gateways_in_process() {
    two_gateways(&Cluster::in_process());
}

/// Watches that are cut ten times a second, statuses that nobody asked to change, and not one write too many.
#[test]
fn cut_watches_and_relists_write_nothing() {
    let cluster = Cluster::in_process();
    prepare(&cluster);
    let web = backend("web");
    for number in 0..10 {
        deploy(&cluster, &format!("web{number}"), web);
    }
    let gateway = start(&cluster, &["--publish-status-address", "192.0.2.10"]);
    until("all statuses", || (0..10).all(|number| addresses(&cluster, &format!("web{number}")) != Value::Null));
    cluster.server().forget();
    for _ in 0..30 {
        cluster.server().store(sluicegate_apiserver::store::Store::compact);
        cluster.server().cut_watches();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(asked(&gateway, "web3.example"), "web");
    }
    deploy(&cluster, "late", web);
    until("the late one", || asked(&gateway, "late.example") == "web");
    until("its status", || addresses(&cluster, "late") != Value::Null);
    let seen = cluster.server().seen();
    let writes = seen.iter().filter(|seen| seen.resource.ends_with("/status")).count();
    assert_eq!(writes, 1, "that of the late one");
}

/// The table of rights is what the program asks for.
#[test]
fn nothing_is_asked_for_that_the_table_of_rights_does_not_list() {
    let cluster = Cluster::in_process();
    prepare(&cluster);
    cluster.apply(&json!({"kind": "Namespace", "metadata": {"name": "shop", "labels": {"edge": "yes"}}}));
    let web = backend("web");
    deploy(&cluster, "web", web);
    let [mut ingress, ..] = application("web", web);
    ingress["spec"]["tls"] = json!([{"hosts": ["web.example"], "secretName": "missing"}]);
    cluster.apply(&ingress);
    cluster.server().forget();
    let more = ["--watch-namespace-selector", "edge=yes", "--publish-status-address", "192.0.2.10"];
    let mut gateway = start(&cluster, &[&more[..], &["--lame-duck", "0s"]].concat());
    // Past HTTP: only the program's own requests are to be seen.
    let server = cluster.server();
    let has_status =
        || server.object("Ingress", "shop", "web").is_some_and(|web| web["status"]["loadBalancer"].is_object());
    until("the status", || has_status() && !server.objects("Event").is_empty());
    gateway.signal("TERM");
    assert_eq!(gateway.end(), Some(0));
    let own = server.seen();
    for seen in &own {
        let is_allowed = |right: &Right| right.resource == seen.resource && right.verbs.contains(&seen.verb);
        assert!(rights::of(Account::Gateway).any(is_allowed), "{} {} is in no row", seen.verb, seen.resource);
    }
    for right in rights::of(Account::Gateway) {
        assert!(own.iter().any(|seen| seen.resource == right.resource), "{} is not asked for", right.resource);
    }
}

#[test]
#[ignore = "needs kube-apiserver and etcd on the PATH or in KUBEBUILDER_ASSETS"]
fn applications_on_a_real_api_server() {
    applications(&Cluster::real());
}

#[test]
#[ignore = "needs kube-apiserver and etcd on the PATH or in KUBEBUILDER_ASSETS"]
fn restarts_on_a_real_api_server() {
    restarts(&Cluster::real());
}

#[test]
#[ignore = "needs kube-apiserver and etcd on the PATH or in KUBEBUILDER_ASSETS"]
fn events_on_a_real_api_server() {
    events(&Cluster::real());
}

#[test]
#[ignore = "needs kube-apiserver and etcd on the PATH or in KUBEBUILDER_ASSETS"]
fn an_outage_of_a_real_api_server() {
    outage(&mut Cluster::real(), Duration::from_secs(60));
}

#[test]
#[ignore = "needs kube-apiserver and etcd on the PATH or in KUBEBUILDER_ASSETS"]
fn two_gateways_on_a_real_api_server() {
    two_gateways(&Cluster::real());
}
