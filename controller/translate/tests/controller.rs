//! What a controller remembers, and what one change may move.

use serde_json::{Value, json};
use sluicegate_config::{
    Action, BackendId, Change, HostPattern, Kind, ObjectRef, Rejection, Settings, TlsTreatment, Verdict,
};
use sluicegate_translate::{Controller, Object, ObjectChange};

const NOW: i64 = 1_800_000_000;

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a Kubernetes object")
}

fn ingress(name: &str, hosts: &[&str], service: &str, secret: Option<&str>) -> ObjectChange {
    let rules: Vec<Value> = hosts
        .iter()
        .map(|host| {
            json!({"host": host, "http": {"paths": [
                {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": service, "port": {"number": 80}}}},
            ]}})
        })
        .collect();
    let tls: Vec<Value> = secret.iter().map(|secret| json!({"hosts": hosts, "secretName": secret})).collect();
    ObjectChange::Set(Object::Ingress(read(json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"rules": rules, "tls": tls},
    }))))
}

fn service(name: &str) -> ObjectChange {
    ObjectChange::Set(Object::Service(read(json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": [{"port": 80, "targetPort": 8080}]},
    }))))
}

fn slice(service: &str, address: &str) -> ObjectChange {
    ObjectChange::Set(Object::EndpointSlice(read(json!({
        "metadata": {"name": format!("{service}-1"), "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": [{"addresses": [address]}],
    }))))
}

fn secret(name: &str, cert: &str, key: &str) -> ObjectChange {
    ObjectChange::Set(Object::Secret(read(json!({
        "metadata": {"name": name, "namespace": "default"}, "stringData": {"tls.crt": cert, "tls.key": key},
    }))))
}

fn remove(kind: Kind, name: &str) -> ObjectChange {
    ObjectChange::Remove(ObjectRef::new(kind, "default", name))
}

fn host(name: &str) -> HostPattern {
    HostPattern::parse(name).expect("a host")
}

fn made(name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn controller(changes: impl IntoIterator<Item = ObjectChange>) -> Controller {
    let mut controller = Controller::new(Settings::for_folder());
    controller.apply(changes, NOW);
    controller
}

#[test]
fn a_change_moves_its_own_keys_alone() {
    let mut all = vec![service("a"), service("b"), slice("a", "127.0.0.1"), slice("b", "127.0.0.2")];
    all.push(ingress("one", &["one.test", "both.test"], "a", None));
    all.push(ingress("two", &["two.test"], "b", None));
    let mut controller = controller(all);

    let update = controller.apply([ingress("one", &["moved.test", "both.test"], "a", None)], NOW);
    let hosts: Vec<_> = update.diff.routes.keys().map(ToString::to_string).collect();
    assert_eq!(hosts, ["moved.test", "one.test"]);
    assert_eq!(update.diff.routes[&host("one.test")], Change::Remove);
    assert!(update.diff.backends.is_empty(), "the backend is what it was");

    let update = controller.apply([slice("b", "127.0.0.3")], NOW);
    let backends: Vec<_> = update.diff.backends.keys().map(BackendId::to_string).collect();
    assert_eq!(backends, ["default/b:80"]);
    assert!(update.diff.routes.is_empty());

    let before = controller.desired().generation;
    let update = controller.apply([slice("b", "127.0.0.3"), ingress("two", &["two.test"], "b", None)], NOW);
    assert!(update.diff.is_empty(), "a resync moves nothing");
    assert_eq!(update.generation, before);
}

#[test]
fn a_warning_goes_when_the_service_comes() {
    let mut controller = Controller::new(Settings::for_folder());
    let update = controller.apply([ingress("one", &["one.test"], "late", None)], NOW);
    assert_eq!(update.new_rejections.len(), 1);
    assert_eq!(update.new_rejections[0].verdict, Verdict::Warning);
    assert_eq!(update.new_rejections[0].field, "spec.rules[0].http.paths[0].backend.service.name");
    let backend = controller.desired().backends.values().next().expect("a backend");
    assert_eq!(backend.unavailable.as_deref(), Some("Service default/late does not exist"));

    let update = controller.apply([service("late"), slice("late", "127.0.0.1")], NOW);
    assert!(update.rejections_changed);
    assert_eq!(controller.rejections().count(), 0);
    let backend = controller.desired().backends.values().next().expect("a backend");
    assert_eq!((backend.unavailable.as_deref(), backend.endpoints.len()), (None, 1));
}

#[test]
fn the_last_good_certificate_stays_while_its_secret_is_broken() {
    let (cert, key) = made("tls.test");
    let (_, other_key) = made("tls.test");
    let mut controller = controller([ingress("one", &["tls.test"], "a", Some("tls")), secret("tls", &cert, &key)]);
    let id = controller.desired().certificates.keys().next().expect("a certificate").clone();
    let good = controller.desired().certificates[&id].clone();

    let update = controller.apply([secret("tls", &cert, &other_key)], NOW);
    assert!(update.diff.is_empty(), "{:?}", update.diff);
    assert_eq!(controller.desired().certificates[&id], good);
    let reason = &update.new_rejections[0].reason;
    assert!(reason.contains("does not fit") && reason.contains("still serving the last good certificate"), "{reason}");

    let (renewed, renewed_key) = made("tls.test");
    let update = controller.apply([secret("tls", &renewed, &renewed_key)], NOW);
    assert_eq!(update.diff.certificates.len(), 1);
    assert!(update.diff.server_names.is_empty(), "the host goes on with the same Secret");
    assert!(update.rejections_changed && update.new_rejections.is_empty());

    controller.apply([remove(Kind::Secret, "tls")], NOW);
    assert!(controller.desired().certificates.is_empty(), "a Secret that is gone is not served on");
    assert_eq!(controller.desired().server_names[&host("tls.test")].treatment, TlsTreatment::DefaultCertificate);
}

#[test]
fn a_secret_that_was_never_good_serves_the_default_certificate() {
    let (cert, _) = made("tls.test");
    let (_, key) = made("tls.test");
    let controller = controller([ingress("one", &["tls.test"], "a", Some("tls")), secret("tls", &cert, &key)]);
    assert_eq!(controller.desired().server_names[&host("tls.test")].treatment, TlsTreatment::DefaultCertificate);
    assert!(controller.rejections().any(|rejection| rejection.reason.contains("the default certificate is served")));
}

#[test]
fn certificates_are_reported_when_they_expire_and_before_they_begin() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(["tls.test".to_owned()]).expect("parameters");
    params.not_before = rcgen::date_time_ymd(2030, 1, 1);
    params.not_after = rcgen::date_time_ymd(2031, 1, 1);
    let cert = params.self_signed(&key).expect("a certificate");
    let begin = params.not_before.unix_timestamp();
    let end = params.not_after.unix_timestamp();
    let mut controller = Controller::new(Settings::for_folder());
    let changes = [
        ingress("one", &["tls.test"], "a", Some("tls")),
        secret("tls", &cert.pem(), &key.serialize_pem()),
        service("a"),
    ];
    let reasons =
        |controller: &Controller| -> Vec<String> { controller.rejections().map(|all| all.reason.clone()).collect() };

    controller.apply(changes, begin - 1);
    assert!(reasons(&controller)[0].contains("is not valid before 2030-01-01T00:00:00Z"), "{:?}", reasons(&controller));
    let update = controller.apply([], begin);
    assert!(update.rejections_changed && update.diff.is_empty());
    assert_eq!(reasons(&controller), Vec::<String>::new());
    assert!(!controller.apply([], end).rejections_changed, "valid at both ends");
    let update = controller.apply([], end + 1);
    assert!(update.new_rejections[0].reason.contains("expired at 2031-01-01T00:00:00Z"));
    assert_eq!(controller.rebuild().rejections, controller.rejections().cloned().collect::<Vec<_>>());
}

#[test]
fn a_class_that_changes_hands_takes_its_ingresses_along() {
    let class = |controller: &str| {
        ObjectChange::Set(Object::IngressClass(read(json!({
            "metadata": {"name": "edge", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}},
            "spec": {"controller": controller},
        }))))
    };
    let mut controller =
        controller([class("sluicegate.io/ingress"), service("a"), ingress("one", &["one.test"], "a", None)]);
    assert_eq!(controller.desired().routes.len(), 1);

    controller.apply([class("example.test/other")], NOW);
    assert!(controller.desired().routes.is_empty() && controller.desired().backends.is_empty());
    assert_eq!(controller.rejections().next().map(|rejection| rejection.verdict), Some(Verdict::Ignored));

    // Deleted and made again under the same name: what counts is what is there.
    controller.apply([remove(Kind::Ingress, "one"), class("sluicegate.io/ingress")], NOW);
    assert_eq!(controller.rejections().count(), 0);
    controller.apply([ingress("one", &["two.test"], "a", None)], NOW);
    let hosts: Vec<_> = controller.desired().routes.keys().map(ToString::to_string).collect();
    assert_eq!(hosts, ["two.test"]);
}

#[test]
fn rejections_of_files_come_and_go() {
    let mut controller = controller([]);
    let broken = Rejection {
        object: ObjectRef::new(Kind::File, "", "a.yaml"),
        field: "line 3".to_owned(),
        verdict: Verdict::Rejected,
        reason: "not YAML".to_owned(),
        remedy: "correct the file".to_owned(),
    };
    let update = controller.set_file_rejections("a.yaml", vec![broken.clone()]);
    assert_eq!(update.new_rejections, std::slice::from_ref(&broken));
    let update = controller.set_file_rejections("a.yaml", vec![broken.clone()]);
    assert!(!update.rejections_changed && update.new_rejections.is_empty());
    assert_eq!(controller.rejections().collect::<Vec<_>>(), [&broken]);
    assert!(controller.set_file_rejections("a.yaml", Vec::new()).rejections_changed);
    assert_eq!(controller.rejections().count(), 0);
}

#[test]
fn every_known_annotation_that_closes_denies_the_path() {
    for (key, value) in [
        ("auth-url", "http://auth.example/"),
        ("auth-secret", "users"),
        ("whitelist-source-range", "192.0.2.0/24"),
        ("denylist-source-range", "192.0.2.0/24"),
        ("limit-connections", "5"),
        ("modsecurity-snippet", "SecRuleEngine On"),
        ("server-snippet", "if ($host = x) { return 403; }"),
        ("configuration-snippet", "more_set_headers \"A: b\"; deny all;"),
    ] {
        let mut value_of = json!({
            "metadata": {"name": "one", "namespace": "default", "annotations": {}},
            "spec": {"rules": [{"host": "one.test", "http": {"paths": [
                {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "a", "port": {"number": 80}}}},
            ]}}]},
        });
        value_of["metadata"]["annotations"][format!("nginx.ingress.kubernetes.io/{key}")] = json!(value);
        let controller = controller([ObjectChange::Set(Object::Ingress(read(value_of))), service("a")]);
        let routes = &controller.desired().routes[&host("one.test")].routes;
        assert!(matches!(&routes[0].action, Action::Deny(_)), "{key}: {:?}", routes[0].action);
        let rejected: Vec<_> =
            controller.rejections().filter(|rejection| rejection.verdict == Verdict::Rejected).collect();
        assert_eq!(rejected.len(), 1, "{key}");
        assert!(rejected[0].field.contains(key));
    }
}
