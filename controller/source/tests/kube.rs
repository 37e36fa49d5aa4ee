//! The source in front of an API server that is slow, forgetful, forbidding, lying, and away.

use serde_json::{Value, json};
use sluicegate_apiserver::{ApiServer, Fault, Seen};
use sluicegate_config::{Kind, NamespacedName, Rejection, Settings, VipPools};
use sluicegate_source::kube::{ApiContact, MOST_BY_NAME};
use sluicegate_source::rights::{self, Account, Reach, Right};
use sluicegate_source::{Kube, KubeClient, KubeSettings, Login, SourceEvent, Wishes};
use sluicegate_translate::{Controller, ObjectChange};
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Generous: the machines of CI are slow and loaded.
const PATIENCE: Duration = Duration::from_secs(60);
/// 2027-06-01T00:00:00Z.
const NOW: i64 = 1_811_808_000;

const KINDS: [&str; 6] = ["ConfigMap", "EndpointSlice", "Ingress", "IngressClass", "Secret", "Service"];

/// A controller behind the source, as the program has it.
struct Follower {
    kube: Kube,
    wishes: Wishes,
    events: Receiver<SourceEvent>,
    controller: Controller,
    /// The first state has come.
    is_ready: bool,
    /// The last round that was read.
    round: Option<u64>,
}

fn client(server: &ApiServer) -> KubeClient {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("kubeconfig");
    fs::write(&path, server.kubeconfig()).expect("a kubeconfig");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let login = Login { kubeconfig: Some(path), context: None };
    runtime.block_on(KubeClient::new(&login)).expect("a client")
}

impl Follower {
    fn start(server: &ApiServer, kube: KubeSettings, settings: Settings) -> Self {
        let (sender, events) = channel();
        let (wishes, granted) = Wishes::new();
        let sink = move |event| sender.send(event).is_ok();
        let kube = Kube::watch(client(server), kube, granted, sink).expect("it starts");
        Self { kube, wishes, events, controller: Controller::new(settings), is_ready: false, round: None }
    }

    /// Everything of a cluster with a class that is ours.
    fn of(server: &ApiServer) -> Self {
        let mut this = Self::start(server, KubeSettings { secrets: true, ..KubeSettings::default() }, settings());
        this.until("the first state", |this| this.is_ready);
        this
    }

    fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "{what} did not come; {:?}", self.kube.contact());
            self.step(Duration::from_millis(50));
        }
    }

    fn step(&mut self, wait: Duration) {
        match self.events.recv_timeout(wait) {
            Ok(event) => {
                self.controller.apply(event.changes, NOW);
                for (file, rejections) in event.file_rejections {
                    self.controller.set_file_rejections(&file, rejections);
                }
                self.is_ready |= event.initial;
                self.round = event.round.or(self.round);
                self.wishes.want(self.controller.wanted_secrets(), event.number);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => panic!("the source ended"),
        }
    }

    /// For a while nothing may happen.
    fn settle(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.step(Duration::from_millis(20));
        }
    }

    fn hosts(&self) -> Vec<String> {
        self.controller.desired().routes.keys().map(ToString::to_string).collect()
    }

    fn endpoints(&self) -> usize {
        self.controller.desired().backends.values().map(|backend| backend.endpoints.len()).sum()
    }

    fn rejection(&self, contains: &str) -> Option<&Rejection> {
        self.controller.rejections().find(|rejection| rejection.to_string().contains(contains))
    }

    fn contact(&self) -> &Arc<ApiContact> {
        self.kube.contact()
    }
}

fn settings() -> Settings {
    Settings { adopt_without_classes: true, ..Settings::default() }
}

fn application(namespace: &str, name: &str) -> [Value; 3] {
    [
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"namespace": namespace, "name": name},
            "spec": {"rules": [{"host": format!("{name}.example"), "http": {"paths": [{"path": "/", "pathType": "Prefix",
                "backend": {"service": {"name": name, "port": {"number": 80}}}}]}}]}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": name},
            "spec": {"ports": [{"port": 80, "targetPort": 8080}]}}),
        slice(namespace, name, &["192.0.2.1"]),
    ]
}

fn slice(namespace: &str, name: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> =
        addresses.iter().map(|address| json!({"addresses": [address], "conditions": {"ready": true}})).collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": namespace, "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"port": 8080}], "endpoints": endpoints})
}

fn deploy(server: &ApiServer, namespace: &str, name: &str) {
    for object in application(namespace, name) {
        server.put(object).expect("it is taken");
    }
}

fn lists(seen: &[Seen], resource: &str) -> usize {
    let reads_all = |seen: &&Seen| seen.verb == "list" || seen.query.contains("sendInitialEvents=true");
    seen.iter().filter(|seen| seen.resource == resource).filter(reads_all).count()
}

#[test]
fn a_folder_and_an_api_server_give_the_same() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let mut compared = 0;
    for folder in fs::read_dir(root).expect("golden folders").map(|entry| entry.expect("an entry").path()) {
        // An API server keeps no object without namespace and converts old versions; these folders are about that.
        let text = fs::read_to_string(folder.join("manifests.yaml")).expect("manifests");
        let server = ApiServer::start().expect("a server");
        if server.put_yaml(&text).is_err() {
            continue;
        }
        let mut settings = settings();
        settings.take_over_ingress_nginx = true;
        settings.default_load_balancer = true;
        settings.vip_pools = "192.0.2.0/24,2001:db8::/64".parse().expect("pools");
        settings.tcp_services_configmap = Some(NamespacedName::new("ingress-nginx", "tcp-services"));
        let maps = vec![settings.vip_configmap.clone(), NamespacedName::new("ingress-nginx", "tcp-services")];
        let copy = tempfile::tempdir().expect("a folder");
        for (number, object) in KINDS.iter().flat_map(|kind| server.objects(kind)).enumerate() {
            fs::write(copy.path().join(format!("{number}.json")), object.to_string()).expect("a file");
        }
        let mut from_folder = Controller::new(settings.clone());
        let loaded = sluicegate_source::load(&[copy.path().to_owned()]).expect("a folder");
        from_folder.apply(loaded.changes, NOW);
        let kube = KubeSettings { secrets: true, config_maps: maps, ..KubeSettings::default() };
        let mut follower = Follower::start(&server, kube, settings);
        follower.until("the first state", |this| this.is_ready);
        let (a, b) = (from_folder.rebuild().desired, follower.controller.rebuild().desired);
        assert_eq!(a, b, "{}", folder.display());
        compared += 1;
    }
    assert!(compared >= 30, "only {compared} folders were taken by the server");
}

#[test]
fn changes_are_followed() {
    let server = ApiServer::start().expect("a server");
    deploy(&server, "shop", "web");
    let mut follower = Follower::of(&server);
    assert_eq!((follower.hosts(), follower.endpoints()), (vec!["web.example".to_owned()], 1));
    let begun = Instant::now();
    server.put(slice("shop", "web", &["192.0.2.1", "192.0.2.2"])).expect("put");
    follower.until("the second endpoint", |this| this.endpoints() == 2);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    deploy(&server, "blog", "news");
    follower.until("the second host", |this| this.hosts().len() == 2);
    server.remove("Ingress", "shop", "web").expect("removed");
    follower.until("the host gone", |this| this.hosts() == ["news.example"]);
}

#[test]
fn a_server_without_streaming_lists_is_listed_by_pages() {
    let server = ApiServer::start().expect("a server");
    server.faults().set(|seen| {
        let is_streaming = seen.query.contains("sendInitialEvents");
        is_streaming.then_some(Fault::Refuse(http::StatusCode::UNPROCESSABLE_ENTITY, "Invalid"))
    });
    for number in 0..1100 {
        server.put(application("shop", &format!("web{number:04}"))[1].clone()).expect("put");
    }
    deploy(&server, "shop", "web");
    let mut follower = Follower::of(&server);
    assert_eq!(follower.endpoints(), 1);
    let pages = server.seen().iter().filter(|seen| seen.verb == "list" && seen.resource == "services").count();
    assert_eq!(pages, 2, "a page has 1,000 objects");
    server.put(slice("shop", "web", &["192.0.2.1", "192.0.2.2"])).expect("put");
    follower.until("the second endpoint", |this| this.endpoints() == 2);
}

#[test]
fn a_forgotten_version_is_a_new_list_that_loses_nothing() {
    let server = ApiServer::start().expect("a server");
    deploy(&server, "shop", "web");
    deploy(&server, "shop", "api");
    let mut follower = Follower::of(&server);
    server.go_down();
    server.remove("Ingress", "shop", "api").expect("removed while nobody looks");
    deploy(&server, "shop", "new");
    server.store(sluicegate_apiserver::store::Store::compact);
    follower.settle(Duration::from_millis(300));
    assert_eq!(follower.hosts(), ["api.example", "web.example"], "what was read stays in force");
    server.forget();
    server.come_back();
    follower.until("the missed changes", |this| this.hosts() == ["new.example", "web.example"]);
    assert!(lists(&server.seen(), "ingresses") >= 1, "the version was gone");
}

#[test]
fn an_outage_changes_nothing_and_is_known() {
    let server = ApiServer::start().expect("a server");
    deploy(&server, "shop", "web");
    let mut follower = Follower::of(&server);
    let before = follower.controller.desired().clone();
    assert_eq!(follower.contact().outage(Instant::now()), None);
    server.go_down();
    follower.until("word of it", |this| this.contact().outage(Instant::now()).is_some());
    follower.settle(Duration::from_secs(1));
    assert_eq!(*follower.controller.desired(), before);
    let (since, why) = follower.contact().outage(Instant::now()).expect("it is away");
    assert!(since >= Duration::from_secs(1), "{since:?} {why}");
    server.come_back();
    follower.until("word of its return", |this| this.contact().outage(Instant::now()).is_none());
    server.put(slice("shop", "web", &["192.0.2.1", "192.0.2.2"])).expect("put");
    follower.until("the second endpoint", |this| this.endpoints() == 2);
}

#[test]
fn a_clock_that_is_wrong_changes_nothing_and_is_known() {
    let server = ApiServer::start().expect("a server");
    server.set_clock(-3600);
    deploy(&server, "shop", "web");
    let mut follower = Follower::of(&server);
    let ahead = follower.contact().clock_ahead().expect("answers say the time");
    assert!((3600..3660).contains(&ahead), "{ahead}");
    assert_eq!(follower.endpoints(), 1);
    server.set_clock(0);
    server.cut_watches();
    follower.until("the right time", |this| this.contact().clock_ahead() == Some(0));
}

#[test]
fn watches_that_break_and_crawl_lose_nothing() {
    let server = ApiServer::start().expect("a server");
    let mut count = 0;
    server.faults().set(move |seen| {
        count += 1;
        match (seen.verb, count % 3) {
            ("watch", 0) => Some(Fault::CutAfter(2)),
            ("watch", 1) => Some(Fault::Slow(Duration::from_millis(5))),
            ("list", 2) => Some(Fault::Cut),
            _ => None,
        }
    });
    for number in 0..5 {
        deploy(&server, "shop", &format!("web{number}"));
    }
    let mut follower = Follower::of(&server);
    for number in 5..15 {
        deploy(&server, "shop", &format!("web{number}"));
        server.remove("Ingress", "shop", &format!("web{}", number - 5)).expect("removed");
        server.cut_watches();
        follower.settle(Duration::from_millis(50));
    }
    let wanted: Vec<String> = (10..15).map(|number| format!("web{number}.example")).collect();
    follower.until("all changes", |this| this.hosts() == wanted);
    server.faults().clear();
    follower.until("all endpoints", |this| this.controller.desired().backends.len() == 5 && this.endpoints() == 5);
}

#[test]
fn a_missing_right_is_named_and_the_rest_works() {
    let server = ApiServer::start().expect("a server");
    server.faults().set(|seen| {
        let is_forbidden = seen.resource == "endpointslices";
        is_forbidden.then_some(Fault::Refuse(http::StatusCode::FORBIDDEN, "Forbidden"))
    });
    deploy(&server, "shop", "web");
    let mut follower = Follower::of(&server);
    assert_eq!((follower.hosts().len(), follower.endpoints()), (1, 0));
    let rejection = follower.rejection("forbids").expect("it is named").to_string();
    assert!(
        rejection.contains(r#"{apiGroups: ["discovery.k8s.io"], resources: [endpointslices], verbs: [list, watch]}"#),
        "{rejection}"
    );
    // Pauses of 1, 2, 4 s and so on, by half shorter at most: nobody is asked for a right that often.
    std::thread::sleep(Duration::from_secs(3));
    let tries = server.seen().iter().filter(|seen| seen.resource == "endpointslices").count();
    assert!((1..=4).contains(&tries), "{tries} tries");
    server.faults().clear();
    follower.until("the endpoint", |this| this.endpoints() == 1);
    follower.until("no complaint", |this| this.rejection("forbids").is_none());
}

#[test]
fn an_object_that_is_not_what_it_says_is_rejected_by_itself() {
    let server = ApiServer::start().expect("a server");
    deploy(&server, "shop", "web");
    server
        .put(json!({"kind": "Service", "metadata": {"namespace": "shop", "name": "liar"}, "spec": {"ports": "many"}}))
        .expect("put");
    server
        .put(json!({"kind": "Ingress", "metadata": {"namespace": "shop", "name": "liar"}, "spec": [1]}))
        .expect("put");
    let mut follower = Follower::of(&server);
    assert_eq!(follower.endpoints(), 1, "its neighbours are served");
    assert!(follower.rejection("Service shop/liar (spec.ports)").is_some());
    assert!(follower.rejection("Ingress shop/liar (spec)").is_some());
    let [ingress, mut service, _] = application("shop", "web");
    service["spec"]["ports"] = json!(7);
    server.put(service.clone()).expect("put");
    follower.until("a complaint", |this| this.rejection("Service shop/web (spec.ports)").is_some());
    assert_eq!(follower.endpoints(), 1, "what it was before stays in force");
    service["spec"]["ports"] = json!([{"port": 80, "targetPort": 8080}]);
    server.put(service).expect("put");
    server.remove("Service", "shop", "liar").expect("removed");
    server.put(ingress).expect("put");
    follower.until("no complaint", |this| this.rejection("Service").is_none());
}

#[test]
fn only_secrets_that_ingresses_name_are_read() {
    let server = ApiServer::start().expect("a server");
    let certificate = rcgen::generate_simple_self_signed(["web.example".to_owned()]).expect("a certificate");
    let secret = |name: &str| {
        json!({"kind": "Secret", "metadata": {"namespace": "shop", "name": name}, "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": certificate.cert.pem(), "tls.key": certificate.signing_key.serialize_pem()}})
    };
    let with_tls = |name: &str, secret: &str| {
        let [mut ingress, ..] = application("shop", name);
        ingress["spec"]["tls"] = json!([{"hosts": [format!("{name}.example")], "secretName": secret}]);
        ingress
    };
    server.put(secret("tls")).expect("put");
    server.put(secret("unused")).expect("put");
    server.put(with_tls("web", "tls")).expect("put");
    let mut follower = Follower::of(&server);
    assert_eq!(follower.controller.desired().certificates.len(), 1, "it is part of the first state");
    let reads: Vec<Seen> = server.seen().into_iter().filter(|seen| seen.resource == "secrets").collect();
    assert!(!reads.is_empty() && reads.iter().all(|seen| seen.query.contains("metadata.name%3Dtls")), "{reads:?}");
    for number in 0..MOST_BY_NAME {
        server.put(secret(&format!("tls{number}"))).expect("put");
        server.put(with_tls(&format!("web{number}"), &format!("tls{number}"))).expect("put");
    }
    follower.until("all certificates", |this| this.controller.desired().certificates.len() == MOST_BY_NAME + 1);
    let whole = |seen: &Seen| seen.resource == "secrets" && !seen.query.contains("metadata.name");
    assert!(server.seen().iter().any(whole), "so many are read by namespace");
    for number in 0..MOST_BY_NAME {
        server.remove("Ingress", "shop", &format!("web{number}")).expect("removed");
    }
    follower.until("one certificate", |this| this.controller.desired().certificates.len() == 1);
    follower.settle(Duration::from_millis(300));
    assert_eq!(follower.controller.desired().certificates.len(), 1);
    let mut renewed = secret("tls");
    let other = rcgen::generate_simple_self_signed(["web.example".to_owned()]).expect("a certificate");
    renewed["stringData"] = json!({"tls.crt": other.cert.pem(), "tls.key": other.signing_key.serialize_pem()});
    let before = follower.controller.desired().certificates.clone();
    server.put(renewed).expect("put");
    follower.until("the renewed certificate", |this| this.controller.desired().certificates != before);
}

#[test]
fn a_director_reads_no_secret() {
    let server = ApiServer::start().expect("a server");
    let [mut ingress, ..] = application("shop", "web");
    ingress["spec"]["tls"] = json!([{"hosts": ["web.example"], "secretName": "tls"}]);
    server.put(ingress).expect("put");
    let vips = NamespacedName::new("sluicegate-system", "vips");
    let kube = KubeSettings {
        services_alone: true,
        nodes: true,
        config_maps: vec![vips],
        namespace_selector: Some("edge=yes".to_owned()),
        ..KubeSettings::default()
    };
    server.put(json!({"kind": "Namespace", "metadata": {"name": "shop", "labels": {"edge": "yes"}}})).expect("put");
    deploy(&server, "shop", "web");
    let mut follower = Follower::start(&server, kube, settings());
    follower.until("the first state", |this| this.is_ready);
    follower.settle(Duration::from_millis(300));
    assert_eq!((follower.hosts().len(), follower.controller.objects().count(Kind::EndpointSlice)), (0, 1));
    let seen = server.seen();
    assert!(seen.iter().all(|seen| seen.resource != "secrets" && !seen.resource.starts_with("ingress")));
    for seen in &seen {
        let is_allowed = |right: &Right| right.resource == seen.resource && right.verbs.contains(&seen.verb);
        assert!(rights::of(Account::Director).any(is_allowed), "{} {} is in no row", seen.verb, seen.resource);
    }
    // And a director is asked for nothing that it does not use. Leases are read by another part (tests/directors.rs).
    let is_read_here = |right: &&Right| right.verbs.contains(&"watch") && right.reach != Reach::Own;
    for right in rights::of(Account::Director).filter(is_read_here) {
        assert!(seen.iter().any(|seen| seen.resource == right.resource), "{} is not read", right.resource);
    }
}

#[test]
fn nodes_are_read_by_those_who_need_them_and_a_missing_right_to_them_stops_nothing() {
    let server = ApiServer::start().expect("a server");
    let node = |condition: &str| {
        json!({"kind": "Node", "metadata": {"name": "n1"}, "status": {
            "addresses": [{"type": "InternalIP", "address": "192.0.2.11"}, {"type": "Hostname", "address": "n1"}],
            "conditions": [{"type": "Ready", "status": condition}],
        }})
    };
    server.put(node("True")).expect("put");
    deploy(&server, "shop", "web");
    let follower = Follower::of(&server);
    assert!(server.seen().iter().all(|seen| seen.resource != "nodes"), "a gateway does not read them");
    assert!(follower.controller.objects().node("n1").is_none());

    let nodes = KubeSettings { nodes: true, ..KubeSettings::default() };
    server
        .faults()
        .set(|seen| (seen.resource == "nodes").then_some(Fault::Refuse(http::StatusCode::FORBIDDEN, "Forbidden")));
    let mut follower = Follower::start(&server, nodes, settings());
    follower.until("the first state", |this| this.is_ready);
    assert_eq!(follower.endpoints(), 1);
    let rejection = follower.rejection("forbids").expect("it is named").to_string();
    let rule = r#"{apiGroups: [""], resources: [nodes], verbs: [list, watch]}"#;
    assert!(rejection.contains(rule), "{rejection}");
    server.faults().clear();
    let internal = [IpAddr::from([192, 0, 2, 11])];
    follower
        .until("the node", |this| this.controller.objects().node("n1").is_some_and(|node| *node.internal == internal));
    follower.until("no complaint", |this| this.rejection("forbids").is_none());

    let mut cordoned = node("False");
    cordoned["metadata"]["labels"] = json!({"node.kubernetes.io/exclude-from-external-load-balancers": ""});
    cordoned["spec"] = json!({"unschedulable": true});
    server.put(cordoned).expect("put");
    follower.until("its marks", |this| {
        this.controller.objects().node("n1").is_some_and(|node| node.is_excluded && node.is_unschedulable)
    });
    server.remove("Node", "", "n1").expect("removed");
    follower.until("it gone", |this| this.controller.objects().node("n1").is_none());
}

#[test]
fn namespaces_come_and_go_by_their_labels() {
    let server = ApiServer::start().expect("a server");
    let namespace =
        |name: &str, edge: &str| json!({"kind": "Namespace", "metadata": {"name": name, "labels": {"edge": edge}}});
    for (name, edge) in [("shop", "yes"), ("blog", "no")] {
        server.put(namespace(name, edge)).expect("put");
        deploy(&server, name, name);
    }
    let kube = KubeSettings { namespace_selector: Some("edge=yes".to_owned()), ..KubeSettings::default() };
    let mut follower = Follower::start(&server, kube, settings());
    follower.until("the first state", |this| this.is_ready);
    assert_eq!(follower.hosts(), ["shop.example"]);
    server.put(namespace("blog", "yes")).expect("put");
    follower.until("the second namespace", |this| this.hosts().len() == 2);
    server.put(namespace("shop", "no")).expect("put");
    follower.until("the first namespace gone", |this| this.hosts() == ["blog.example"]);
    let named = KubeSettings { namespaces: vec!["shop".into()], ..KubeSettings::default() };
    server.forget();
    let mut follower = Follower::start(&server, named, settings());
    follower.until("the first state", |this| this.is_ready);
    assert_eq!(follower.hosts(), ["shop.example"]);
    let is_cluster_wide = |seen: &Seen| seen.resource == "services" && seen.namespace.is_empty();
    let own = server.seen();
    assert!(own.iter().filter(|seen| seen.namespace == "shop").count() > 0);
    drop(own);
    assert!(!server.seen().iter().filter(|seen| seen.agent.is_empty()).any(is_cluster_wide));
}

#[test]
fn endpoints_of_a_named_service_are_read_beyond_the_namespaces_that_are_watched() {
    let server = ApiServer::start().expect("a server");
    let slice = |name: &str, service: &str| {
        json!({
            "kind": "EndpointSlice", "metadata": {"namespace": "system", "name": name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "ports": [], "endpoints": [{"addresses": ["192.0.2.11"], "nodeName": "n1"}],
        })
    };
    server.put(slice("agents-1", "agents")).expect("put");
    server.put(slice("other-1", "other")).expect("put");
    deploy(&server, "shop", "web");
    let kube = KubeSettings {
        namespaces: vec!["shop".into()],
        endpoints_of: vec![NamespacedName::new("system", "agents"), NamespacedName::new("shop", "web")],
        ..KubeSettings::default()
    };
    let of_system = Settings {
        watch_namespace: Some("shop".into()),
        backend_service: Some(NamespacedName::new("system", "agents")),
        ..settings()
    };
    let mut follower = Follower::start(&server, kube, of_system);
    follower.until("the first state", |this| this.is_ready);
    assert_eq!(follower.controller.objects().count(Kind::EndpointSlice), 2, "that of shop, and that of the agents");
    let twice = |seen: &Seen| seen.namespace == "shop" && seen.query.contains("service-name");
    assert!(!server.seen().iter().any(twice), "what is watched anyhow is watched once");
}

#[test]
fn pools_are_for_namespaces_by_labels_that_are_read_once() {
    let server = ApiServer::start().expect("a server");
    let namespace = |name: &str, team: &str| json!({"kind": "Namespace", "metadata": {"name": name, "labels": {"edge": "yes", "team": team}}});
    let service = |namespace: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": "web",
                "annotations": {"sluicegate.io/vip": "192.0.2.9"}},
            "spec": {"type": "LoadBalancer", "loadBalancerClass": "sluicegate.io/vip", "ports": [{"port": 80}]}})
    };
    for (name, team) in [("shop", "gold"), ("blog", "lead")] {
        server.put(namespace(name, team)).expect("put");
        server.put(service(name)).expect("put");
    }
    let settings = || {
        let ranges = ["gold=192.0.2.0/24".parse().expect("a pool")];
        let pools = VipPools::new(ranges, ["gold=team=gold".parse().expect("namespaces")]);
        Settings { vip_pools: pools.expect("pools"), ..settings() }
    };
    let bound = |follower: &Follower| -> Vec<String> {
        let vips = follower.controller.desired().vips.values();
        vips.flat_map(|vip| vip.services.iter().map(|service| service.namespace.to_string())).collect()
    };
    let own = KubeSettings { namespace_labels: true, ..KubeSettings::default() };
    let shared = KubeSettings { namespace_selector: Some("edge=yes".to_owned()), ..own.clone() };
    let named = KubeSettings { namespaces: vec!["shop".into(), "blog".into()], ..own.clone() };
    for kube in [own, shared, named] {
        server.forget();
        let mut follower = Follower::start(&server, kube, settings());
        follower.until("the first state", |this| this.is_ready);
        assert_eq!(bound(&follower), ["shop"]);
        assert!(follower.rejection("192.0.2.9 lies in a pool that is not for namespace blog").is_some());
        let by_name = server.seen().iter().filter(|seen| seen.query.contains("metadata.name")).count();
        assert!(by_name > 0 || lists(&server.seen(), "namespaces") == 1, "{:?}", server.seen());
        server.put(namespace("blog", "gold")).expect("put");
        follower
            .until("the other one", |this| bound(this).len() == 1 && this.rejection("for namespace blog").is_none());
        server.put(namespace("blog", "lead")).expect("put");
        follower.until("as before", |this| this.rejection("for namespace blog").is_some());
    }
}

/// Whoever begins to lead must know what others wrote until then, however far behind its watch is.
#[test]
fn services_are_read_anew_when_somebody_asks_for_it() {
    let server = ApiServer::start().expect("a server");
    deploy(&server, "shop", "web");
    let mut follower = Follower::of(&server);
    server.forget();
    let round = follower.wishes.read_again();
    follower.until("the round", |this| this.round == Some(round));
    assert_eq!(lists(&server.seen(), "services"), 1);
    let seen = server.seen();
    let list = seen.iter().find(|seen| seen.resource == "services" && seen.verb == "list").expect("it is a list");
    assert!(!list.query.contains("resourceVersion="), "of what there is now: {}", list.query);
    for other in ["ingresses", "endpointslices", "ingressclasses"] {
        assert_eq!(lists(&seen, other), 0, "{other}");
    }
    drop(seen);
    deploy(&server, "shop", "late");
    follower.until("the watch goes on", |this| this.hosts().len() == 2);
    server.put(json!({"kind": "Service", "metadata": {"namespace": "shop", "name": "more"}, "spec": {"ports": [{"port": 80}]}})).expect("put");
    follower.until("Services too", |this| this.controller.objects().count(Kind::Service) == 3);
    let second = follower.wishes.read_again();
    follower.until("another round", |this| this.round == Some(second));
    assert_eq!(second, round + 1);
}

#[test]
fn set_changes_name_what_they_are() {
    // The sink sees the objects themselves, of the kinds that are watched and no other.
    let server = ApiServer::start().expect("a server");
    deploy(&server, "shop", "web");
    server
        .put(json!({"kind": "ConfigMap", "metadata": {"namespace": "shop", "name": "other"}, "data": {}}))
        .expect("put");
    let (sender, events) = channel();
    let kube =
        KubeSettings { config_maps: vec![NamespacedName::new("sluicegate-system", "vips")], ..KubeSettings::default() };
    let (_wishes, granted) = Wishes::new();
    let _kube =
        Kube::watch(client(&server), kube, granted, move |event| sender.send(event).is_ok()).expect("it starts");
    let mut kinds = Vec::new();
    while let Ok(event) = events.recv_timeout(PATIENCE) {
        kinds.extend(event.changes.iter().map(|change| match change {
            ObjectChange::Set(object) => object.reference().to_string(),
            ObjectChange::Remove(reference) => format!("-{reference}"),
        }));
        if event.initial {
            break;
        }
    }
    kinds.sort();
    assert_eq!(kinds, ["EndpointSlice shop/web-1", "Ingress shop/web", "Service shop/web"]);
}
