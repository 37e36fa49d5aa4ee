//! What goes back to an API server: by one leader at a time, only what differs, and never twice.

use serde_json::{Value, json};
use sluicegate_apiserver::resource::Resource;
use sluicegate_apiserver::{ApiServer, Fault, Seen};
use sluicegate_config::{Kind, NamespacedName, ObjectRef};
use sluicegate_source::lease::ElectionTiming;
use sluicegate_source::write::{Remark, Writer, WriterSettings};
use sluicegate_source::{KubeClient, Login};
use sluicegate_translate::{Condition, Shown, StatusWrite};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Generous: the machines of CI are slow and loaded.
const PATIENCE: Duration = Duration::from_secs(60);

fn client(server: &ApiServer) -> KubeClient {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("kubeconfig");
    fs::write(&path, server.kubeconfig()).expect("a kubeconfig");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(KubeClient::new(&Login { kubeconfig: Some(path), context: None })).expect("a client")
}

fn settings(identity: &str) -> WriterSettings {
    WriterSettings {
        identity: identity.into(),
        lease: NamespacedName::new("sluicegate-system", "leader"),
        timing: ElectionTiming {
            duration: Duration::from_secs(3),
            retry: Duration::from_millis(200),
            margin: Duration::from_secs(1),
        },
    }
}

fn start(server: &ApiServer, identity: &str) -> Writer {
    Writer::start(client(server), settings(identity), |_| {}).expect("it starts")
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn ingress(name: &str) -> Value {
    json!({"kind": "Ingress", "metadata": {"namespace": "shop", "name": name}, "spec": {}})
}

fn status(kind: Kind, name: &str, addresses: &[&str]) -> StatusWrite {
    StatusWrite {
        object: ObjectRef::new(kind, "shop", name),
        shown: Some(Shown {
            addresses: addresses.iter().map(|address| address.parse().expect("anything is one")).collect(),
            condition: None,
        }),
        version: None,
    }
}

fn shown(server: &ApiServer, kind: &str, name: &str) -> Value {
    server.object(kind, "shop", name).map_or(Value::Null, |object| object["status"]["loadBalancer"]["ingress"].clone())
}

fn writes(seen: &[Seen]) -> usize {
    seen.iter().filter(|seen| seen.resource.ends_with("/status")).count()
}

#[test]
fn the_leader_writes_statuses_with_its_own_manager() {
    let server = ApiServer::start().expect("a server");
    server.put(ingress("web")).expect("put");
    server.put(json!({"kind": "Service", "metadata": {"namespace": "shop", "name": "web"}, "spec": {}})).expect("put");
    let writer = start(&server, "one");
    until("the lead", || writer.leads());
    writer.write_statuses(vec![
        status(Kind::Ingress, "web", &["192.0.2.10", "edge.example"]),
        status(Kind::Service, "web", &["192.0.2.10", "2001:db8::10"]),
        status(Kind::Ingress, "gone", &["192.0.2.10"]),
    ]);
    until("the status of the Ingress", || shown(&server, "Ingress", "web") != Value::Null);
    until("the status of the Service", || shown(&server, "Service", "web") != Value::Null);
    assert_eq!(shown(&server, "Ingress", "web"), json!([{"ip": "192.0.2.10"}, {"hostname": "edge.example"}]));
    let proxy = json!([{"ip": "192.0.2.10", "ipMode": "Proxy"}, {"ip": "2001:db8::10", "ipMode": "Proxy"}]);
    assert_eq!(shown(&server, "Service", "web"), proxy);
    let seen = server.seen();
    let patches: Vec<&Seen> = seen.iter().filter(|seen| seen.resource.ends_with("/status")).collect();
    assert!(
        patches.iter().all(|seen| seen.verb == "patch" && seen.query.contains("fieldManager=sluicegate")),
        "{patches:?}"
    );
    writer.write_statuses(vec![status(Kind::Ingress, "web", &[])]);
    until("the status taken back", || shown(&server, "Ingress", "web") == Value::Null);
}

#[test]
fn a_condition_stands_beside_those_of_others_and_goes_with_the_rest() {
    let server = ApiServer::start().expect("a server");
    let theirs = json!({"type": "example.com/Theirs", "status": "True", "reason": "X", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let service = json!({"kind": "Service", "metadata": {"namespace": "shop", "name": "web"}, "spec": {},
        "status": {"conditions": [theirs]}});
    server.put(service.clone()).expect("put");
    let key = (Resource::of_kind("Service").expect("it is served"), "shop".to_owned(), "web".to_owned());
    server.store(|store| store.replace(&key, true, service, "them")).expect("its status");
    let writer = start(&server, "one");
    until("the lead", || writer.leads());
    let condition = Condition {
        is_ready: false,
        reason: "PoolExhausted".to_owned(),
        message: "no IPv4 address is free".to_owned(),
        generation: Some(7),
        since: 1_800_000_000,
    };
    let mut write = status(Kind::Service, "web", &["192.0.2.10"]);
    write.shown.as_mut().expect("it shows something").condition = Some(condition);
    writer.write_statuses(vec![write]);
    assert!(writer.flush(PATIENCE), "it is written");
    let conditions = || server.object("Service", "shop", "web").expect("it is there")["status"]["conditions"].clone();
    let ours = json!({"type": "sluicegate.io/Ready", "status": "False", "reason": "PoolExhausted", "observedGeneration": 7,
        "message": "no IPv4 address is free", "lastTransitionTime": "2027-01-15T08:00:00Z"});
    assert_eq!(conditions(), json!([theirs, ours]));
    let object = ObjectRef::new(Kind::Service, "shop", "web");
    writer.write_statuses(vec![StatusWrite { object, shown: None, version: None }]);
    assert!(writer.flush(PATIENCE), "it is taken back");
    assert_eq!(conditions(), json!([theirs]));
    assert_eq!(shown(&server, "Service", "web"), Value::Null);
    assert!(writer.flush(Duration::ZERO), "nothing is left to be done");
}

#[test]
fn what_was_decided_about_an_older_state_is_not_written() {
    let server = ApiServer::start().expect("a server");
    let service = json!({"kind": "Service", "metadata": {"namespace": "shop", "name": "web"}, "spec": {}});
    let version = |object: &Value| object["metadata"]["resourceVersion"].as_str().expect("a version").into();
    let old: Box<str> = version(&server.put(service.clone()).expect("put"));
    let mut moved = service;
    moved["spec"]["type"] = "ClusterIP".into();
    let new: Box<str> = version(&server.put(moved).expect("put"));
    let writer = start(&server, "one");
    until("the lead", || writer.leads());
    let write = |address, version: &str| StatusWrite {
        version: Some(version.into()),
        ..status(Kind::Service, "web", &[address])
    };
    writer.write_statuses(vec![write("192.0.2.10", &old)]);
    assert!(writer.flush(PATIENCE), "it is refused, and not tried again");
    assert_eq!(shown(&server, "Service", "web"), Value::Null);
    writer.write_statuses(vec![write("192.0.2.11", &new)]);
    assert!(writer.flush(PATIENCE), "it is written");
    assert_eq!(shown(&server, "Service", "web"), json!([{"ip": "192.0.2.11", "ipMode": "Proxy"}]));
}

#[test]
fn one_leads_and_the_other_takes_over() {
    let server = ApiServer::start().expect("a server");
    let turns = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&turns);
    let on_turn = move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
    };
    let one = Writer::start(client(&server), settings("one"), on_turn).expect("it starts");
    until("the lead", || one.leads());
    let two = start(&server, "two");
    std::thread::sleep(Duration::from_secs(4));
    assert!(one.leads() && !two.leads(), "longer than a lease");
    server.put(ingress("web")).expect("put");
    two.write_statuses(vec![status(Kind::Ingress, "web", &["192.0.2.1"])]);
    let begun = Instant::now();
    drop(one);
    until("the second one's lead", || two.leads());
    assert!(begun.elapsed() < Duration::from_millis(2500), "given back, not run out: {:?}", begun.elapsed());
    assert_eq!(writes(&server.seen()), 0, "what was given to one that does not lead is forgotten");
    assert_eq!(turns.load(Ordering::Relaxed), 1);
}

#[test]
fn a_leader_that_is_cut_off_stops_before_another_begins() {
    let server = ApiServer::start().expect("a server");
    let one = start(&server, "one");
    until("the lead", || one.leads());
    server.go_down();
    let begun = Instant::now();
    until("the end of its lead", || !one.leads());
    assert!(
        begun.elapsed() <= Duration::from_millis(2900),
        "the lease of three seconds less a margin: {:?}",
        begun.elapsed()
    );
    server.put(ingress("web")).expect("put");
    one.write_statuses(vec![status(Kind::Ingress, "web", &["192.0.2.1"])]);
    server.come_back();
    until("its lead again", || one.leads());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(shown(&server, "Ingress", "web"), Value::Null, "what it was told in between is forgotten");
}

#[test]
fn a_write_that_fails_is_made_again_with_the_last_state() {
    let server = ApiServer::start().expect("a server");
    server.put(ingress("web")).expect("put");
    let mut left = 3;
    server.faults().set(move |seen| {
        (seen.resource == "ingresses/status" && left > 0).then(|| {
            left -= 1;
            Fault::Refuse(http::StatusCode::INTERNAL_SERVER_ERROR, "InternalError")
        })
    });
    let writer = start(&server, "one");
    until("the lead", || writer.leads());
    writer.write_statuses(vec![status(Kind::Ingress, "web", &["192.0.2.1"])]);
    writer.write_statuses(vec![status(Kind::Ingress, "web", &["192.0.2.2"])]);
    until("the status", || shown(&server, "Ingress", "web") == json!([{"ip": "192.0.2.2"}]));
}

#[test]
fn a_missing_right_is_not_tried_for_ever() {
    let server = ApiServer::start().expect("a server");
    server.put(ingress("web")).expect("put");
    server.faults().set(|seen| {
        (seen.resource == "ingresses/status").then_some(Fault::Refuse(http::StatusCode::FORBIDDEN, "Forbidden"))
    });
    let writer = start(&server, "one");
    until("the lead", || writer.leads());
    writer.write_statuses(vec![status(Kind::Ingress, "web", &["192.0.2.1"])]);
    until("the try", || writes(&server.seen()) == 1);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(writes(&server.seen()), 1);
}

#[test]
fn events_are_told_once_by_whoever_leads() {
    let server = ApiServer::start().expect("a server");
    let remark = |message: &str| Remark {
        object: ObjectRef::new(Kind::Ingress, "shop", "web"),
        uid: Some("u-1".to_owned()),
        is_warning: true,
        reason: "Rejected",
        message: message.to_owned(),
        stands: true,
    };
    for identity in ["one", "two"] {
        let writer = start(&server, identity);
        until("the lead", || writer.leads());
        writer.tell(vec![remark("spec: no rules"), remark("spec: no rules"), remark("spec.tls: no Secret")]);
        until("both tries", || server.seen().iter().filter(|seen| seen.resource == "events").count() >= 2);
        server.forget();
    }
    let events = server.objects("Event");
    let messages: Vec<&Value> = events.iter().map(|event| &event["message"]).collect();
    assert_eq!(events.len(), 2, "{messages:?}");
    let event = events.iter().find(|event| event["message"] == "spec: no rules").expect("it was told");
    assert_eq!(event["involvedObject"]["uid"], "u-1");
    assert_eq!((&event["type"], &event["reason"]), (&json!("Warning"), &json!("Rejected")));
    assert_eq!(event["metadata"]["namespace"], "shop");
    let writer = start(&server, "three");
    until("the lead", || writer.leads());
    writer.tell(vec![Remark { stands: false, ..remark("spec: no rules") }]);
    let counted = || server.objects("Event").iter().any(|event| event["count"] == 2);
    until("it counted as said again", counted);
    assert_eq!(server.objects("Event").len(), 2);
}
