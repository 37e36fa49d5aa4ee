//! Random sequences of object changes: after each one, what was made incrementally equals what is made from nothing.
//!
//! Names come from a small universe, so that objects collide. A failure prints the shrunk sequence and keeps its seed in
//! `tests/incremental.proptest-regressions`, which is replayed first on every later run.

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::FileFailurePersistence;
use serde_json::{Value, json};
use sluicegate_config::{Desired, Generation, Growth, Kind, ObjectRef, Rejection, Settings, Verdict, VipPools, diff};
use sluicegate_translate::{Controller, Object, ObjectChange};
use std::collections::BTreeMap;
use std::sync::OnceLock;

const NOW: i64 = 1_800_000_000;
const CLASSES: [&str; 3] = ["sluicegate", "nginx", "other"];
const NAMESPACES: [&str; 2] = ["n0", "n1"];
const SERVICES: [&str; 3] = ["s0", "s1", "s2"];
const NODES: [&str; 2] = ["k0", "k1"];
const SECRETS: [&str; 2] = ["c0", "c1"];

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 192,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn incremental_equals_rebuild(settings in settings(), steps in prop::collection::vec(step(true), 1..40)) {
        run(settings, steps, false)?;
    }

    /// Without certificates that go bad there is no memory, and a controller that only sees the outcome agrees too.
    #[test]
    fn history_leaves_no_trace(settings in settings(), steps in prop::collection::vec(step(false), 1..30)) {
        // What is chosen without statuses depends on who came first.
        run(Settings { addresses_by_status: true, ..settings }, steps, true)?;
    }

    /// What is said of an object before it is written is what comes of it, and asking leaves no trace.
    #[test]
    fn what_if_says_what_comes(
        settings in settings(),
        steps in prop::collection::vec(step(true), 0..20),
        asked in prop::collection::vec(object(true), 1..8),
    ) {
        let mut controller = Controller::new(settings);
        let steps = steps.into_iter().flatten().map(|change| match change {
            ObjectChange::Set(object) => ObjectChange::Set(without_status(object)),
            remove => remove,
        });
        controller.apply(steps, NOW);
        for object in asked {
            ask_then_apply(&mut controller, without_status(object))?;
        }
    }
}

fn counted(desired: &Desired) -> Growth {
    let sum = |sizes: &mut dyn Iterator<Item = usize>| i64::try_from(sizes.sum::<usize>()).expect("few");
    let hosts = &mut desired.routes.values().map(|host| host.routes.len() + usize::from(host.fallback.is_some()));
    Growth { routes: sum(hosts), endpoints: sum(&mut desired.backends.values().map(|backend| backend.endpoints.len())) }
}

/// Who writes an object does not write its status.
fn without_status(object: Object) -> Object {
    match object {
        Object::Service(service) => Object::Service(k8s_openapi::api::core::v1::Service { status: None, ..service }),
        other => other,
    }
}

fn ask_then_apply(controller: &mut Controller, object: Object) -> Result<(), TestCaseError> {
    let reference = object.reference();
    let before: Vec<Rejection> = controller.rejections().cloned().collect();
    let (desired, rebuilt) = (controller.desired().clone(), controller.rebuild());

    let said = controller.what_if(object.clone(), NOW);
    prop_assert_eq!(&desired, controller.desired());
    prop_assert_eq!(&before, &controller.rejections().cloned().collect::<Vec<_>>());
    prop_assert_eq!(&rebuilt, &controller.rebuild(), "the objects are as they were");
    prop_assert_eq!(&said, &controller.what_if(object.clone(), NOW), "asked again");

    let update = controller.apply([ObjectChange::Set(object)], NOW);
    let after: Vec<Rejection> = controller.rejections().cloned().collect();
    let all = [&said.refused[..], &said.remarks, &said.effects].concat();
    if !matches!(reference.kind, Kind::Ingress | Kind::Service | Kind::ConfigMap) {
        prop_assert!(all.is_empty(), "{reference} is not judged");
        return Ok(());
    }
    for rejection in &all {
        prop_assert!(after.contains(rejection), "it did not come: {rejection}");
    }
    for rejection in &update.new_rejections {
        let is_of_others = rejection.object == reference && rejection.verdict == Verdict::Ignored;
        prop_assert!(is_of_others || all.contains(rejection), "it was not said: {rejection}");
    }
    for rejection in &said.refused {
        prop_assert!(rejection.object == reference && update.new_rejections.contains(rejection), "{rejection}");
    }
    prop_assert!(said.effects.iter().all(|rejection| rejection.object != reference));
    Ok(())
}

fn run(settings: Settings, steps: Vec<Vec<ObjectChange>>, compare_fresh: bool) -> Result<(), TestCaseError> {
    let mut controller = Controller::new(settings.clone());
    let mut mirror = Desired::default();
    let mut seen: Vec<Rejection> = Vec::new();
    let mut objects: BTreeMap<ObjectRef, Object> = BTreeMap::new();
    for (number, changes) in steps.into_iter().enumerate() {
        if !compare_fresh {
            let turned = controller.give_addresses(number % 5 != 3, NOW);
            mirror.apply(&turned.diff);
            seen = controller.rejections().cloned().collect();
        }
        for change in &changes {
            match change {
                ObjectChange::Set(object) => objects.insert(object.reference(), object.clone()),
                ObjectChange::Remove(reference) => objects.remove(reference),
            };
        }
        let update = controller.apply(changes, NOW);

        prop_assert_eq!(&diff(&mirror, controller.desired()), &update.diff, "the diff is exactly what moved");
        mirror.apply(&update.diff);
        prop_assert_eq!(&mirror, controller.desired());
        prop_assert_eq!(controller.size(), counted(controller.desired()));
        prop_assert_eq!(update.generation, controller.desired().generation);

        let rejections: Vec<Rejection> = controller.rejections().cloned().collect();
        let new: Vec<Rejection> = rejections.iter().filter(|now| !seen.contains(now)).cloned().collect();
        prop_assert_eq!(&new, &update.new_rejections);
        prop_assert_eq!(rejections != seen, update.rejections_changed);

        let rebuilt = controller.rebuild();
        prop_assert_eq!(without_generation(&rebuilt.desired), without_generation(controller.desired()));
        prop_assert_eq!(&rebuilt.rejections, &rejections);

        if compare_fresh {
            // As a source brings a first state: in parts, of which the last one makes it complete.
            let mut fresh = Controller::new(settings.clone());
            let mut all = objects.values().cloned().map(ObjectChange::Set);
            fresh.gather(all.by_ref().take(objects.len() / 2));
            prop_assert!(fresh.desired().routes.is_empty(), "nothing is made of a part");
            fresh.apply(all, NOW);
            fresh.pack();
            prop_assert_eq!(without_generation(fresh.desired()), without_generation(controller.desired()));
            let of_fresh: Vec<Rejection> = fresh.rejections().cloned().collect();
            prop_assert_eq!(&of_fresh, &rejections);
        }
        seen = rejections;
    }
    Ok(())
}

fn without_generation(desired: &Desired) -> Desired {
    Desired { generation: Generation(0), ..desired.clone() }
}

fn settings() -> impl Strategy<Value = Settings> {
    (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(folder, take_over, classless, load_balancer, agents)| Settings {
            backend_service: agents.then(|| "n1/s2".parse().expect("a name")),
            take_over_ingress_nginx: take_over,
            watch_ingress_without_class: classless,
            default_load_balancer: load_balancer,
            vip_pools: VipPools::new(
                ["192.0.2.0/28,2001:db8::/64,gold=198.51.100.0/30".parse().expect("ranges")],
                ["gold=tier=gold".parse().expect("namespaces")],
            )
            .expect("pools"),
            tcp_services_configmap: Some("n0/tcp".parse().expect("a name")),
            ..if folder { Settings::for_folder() } else { Settings::default() }
        },
    )
}

/// One batch: usually one change, sometimes several.
fn step(broken_secrets: bool) -> impl Strategy<Value = Vec<ObjectChange>> {
    prop::collection::vec(change(broken_secrets), 1..4)
}

fn object(broken_secrets: bool) -> impl Strategy<Value = Object> {
    prop_oneof![
        6 => ingress(),
        2 => class(),
        4 => service(),
        4 => slice(),
        2 => node(),
        2 => secret(broken_secrets),
        1 => tcp_services(),
        2 => vips(),
        1 => namespace(),
    ]
}

fn change(broken_secrets: bool) -> impl Strategy<Value = ObjectChange> {
    (object(broken_secrets), 0..4_u8).prop_map(|(object, dice)| match dice {
        0 => ObjectChange::Remove(object.reference()),
        _ => ObjectChange::Set(object),
    })
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a Kubernetes object")
}

fn created() -> impl Strategy<Value = Option<&'static str>> {
    select(vec![None, Some("2025-01-01T00:00:00Z"), Some("2025-02-01T00:00:00Z")])
}

fn backend() -> impl Strategy<Value = Value> {
    prop_oneof![
        8 => (select(&SERVICES), select(vec![json!({"number": 80}), json!({"name": "http"}), json!({"number": 81})]))
            .prop_map(|(name, port)| json!({"service": {"name": name, "port": port}})),
        1 => Just(json!({"resource": {"kind": "Bucket", "name": "files"}})),
        1 => Just(json!({})),
    ]
}

fn host() -> impl Strategy<Value = &'static str> {
    select(vec!["", "a.test", "b.test", "*.test", "bad host"])
}

fn rule() -> impl Strategy<Value = Value> {
    let path = (
        select(vec!["/", "/foo", "/foo/", "/foo/bar", "", "bad", "/(?!x)", "/v(.*)"]),
        select(vec!["Exact", "Prefix", "ImplementationSpecific", ""]),
        backend(),
    )
        .prop_map(|(path, path_type, backend)| json!({"path": path, "pathType": path_type, "backend": backend}));
    (host(), prop::option::weighted(0.9, prop::collection::vec(path, 0..4))).prop_map(|(host, paths)| match paths {
        Some(paths) => json!({"host": host, "http": {"paths": paths}}),
        None => json!({"host": host}),
    })
}

fn tls() -> impl Strategy<Value = Value> {
    (prop::collection::vec(host(), 0..3), prop::option::weighted(0.8, select(&SECRETS)))
        .prop_map(|(hosts, secret)| json!({"hosts": hosts, "secretName": secret}))
}

fn annotation() -> impl Strategy<Value = (&'static str, &'static str)> {
    select(vec![
        ("nginx.ingress.kubernetes.io/rewrite-target", "/$1"),
        ("nginx.ingress.kubernetes.io/rewrite-target", "/foo"),
        ("nginx.ingress.kubernetes.io/use-regex", "true"),
        ("nginx.ingress.kubernetes.io/whitelist-source-range", "192.0.2.0/24"),
        ("nginx.ingress.kubernetes.io/enable-cors", "true"),
        ("nginx.ingress.kubernetes.io/canary", "true"),
        ("nginx.ingress.kubernetes.io/proxy-body-size", "8m"),
        ("nginx.ingress.kubernetes.io/ssl-passthrough", "true"),
        ("nginx.ingress.kubernetes.io/backend-protocol", "GRPC"),
        ("sluicegate.io/load-balance", "ewma"),
        ("kubernetes.io/ingress.class", "nginx"),
        ("kubernetes.io/ingress.class", "other"),
    ])
}

fn ingress() -> impl Strategy<Value = Object> {
    (
        (select(&NAMESPACES), select(vec!["i0", "i1", "i2"]), created()),
        prop::option::weighted(0.7, select(&CLASSES)),
        prop::option::weighted(0.3, backend()),
        prop::collection::vec(rule(), 0..3),
        prop::collection::vec(tls(), 0..3),
        prop::collection::vec(annotation(), 0..2),
    )
        .prop_map(|((namespace, name, created), class, default, rules, tls, annotations)| {
            let annotations: BTreeMap<_, _> = annotations.into_iter().collect();
            Object::Ingress(read(json!({
                "metadata": {"name": name, "namespace": namespace, "creationTimestamp": created, "annotations": annotations},
                "spec": {"ingressClassName": class, "defaultBackend": default, "rules": rules, "tls": tls},
            })))
        })
}

fn class() -> impl Strategy<Value = Object> {
    (
        select(&CLASSES),
        select(vec!["sluicegate.io/ingress", "k8s.io/ingress-nginx", "example.test/other"]),
        select(vec!["true", "false"]),
        select(vec![None, Some("nginx"), Some("strict"), Some("apache")]),
        created(),
    )
        .prop_map(|(name, controller, default, dialect, created)| {
            let mut annotations = BTreeMap::from([("ingressclass.kubernetes.io/is-default-class", default)]);
            annotations.extend(dialect.map(|dialect| ("sluicegate.io/dialect", dialect)));
            Object::IngressClass(read(json!({
                "metadata": {"name": name, "creationTimestamp": created, "annotations": annotations},
                "spec": {"controller": controller},
            })))
        })
}

fn service() -> impl Strategy<Value = Object> {
    (
        select(&NAMESPACES),
        select(&SERVICES),
        select(vec![
            json!({"ports": [{"name": "http", "port": 80}]}),
            json!({"ports": [{"name": "http", "port": 80, "targetPort": 8080}, {"name": "more", "port": 81, "appProtocol": "kubernetes.io/h2c"}]}),
            json!({"ports": [{"name": "http", "port": 80, "targetPort": "web"}]}),
            json!({"type": "ExternalName", "externalName": "api.example"}),
            json!({"type": "ExternalName", "externalName": "localhost"}),
            json!({"ports": [{"port": 0}]}),
            json!({"ports": [{"name": "http", "port": 80}], "sessionAffinity": "ClientIP"}),
            json!({"type": "LoadBalancer", "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}),
            json!({"type": "LoadBalancer", "loadBalancerClass": "sluicegate.io/vip", "ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]}),
            json!({"type": "LoadBalancer", "loadBalancerIP": "192.0.2.10", "ports": [{"name": "http", "port": 80, "targetPort": "web"}]}),
            json!({"type": "LoadBalancer", "loadBalancerClass": "sluicegate.io/vip", "loadBalancerIP": "192.0.2.11", "ports": [{"port": 80}]}),
            json!({"type": "LoadBalancer", "loadBalancerClass": "sluicegate.io/vip", "loadBalancerIP": "192.0.2.99", "ports": [{"port": 80}]}),
        ]),
        prop::collection::vec(service_annotation(), 0..3),
        created(),
        shown(),
    )
        .prop_map(|(namespace, name, spec, annotations, created, shown)| {
            let annotations: BTreeMap<_, _> = annotations.into_iter().collect();
            Object::Service(read(json!({
                "metadata": {"name": name, "namespace": namespace, "annotations": annotations, "creationTimestamp": created},
                "spec": spec, "status": {"loadBalancer": {"ingress": shown}},
            })))
        })
}

fn namespace() -> impl Strategy<Value = Object> {
    (select(&NAMESPACES), select(vec!["gold", "lead"]))
        .prop_map(|(name, tier)| Object::Namespace(read(json!({"metadata": {"name": name, "labels": {"tier": tier}}}))))
}

/// What an API server shows: nothing, what may have been chosen, and what others wrote.
fn shown() -> impl Strategy<Value = Value> {
    let address = select(vec!["192.0.2.1", "192.0.2.2", "192.0.2.10", "2001:db8::1", "198.51.100.1", "203.0.113.1"]);
    prop::collection::vec(address, 0..3)
        .prop_map(|addresses| addresses.into_iter().map(|address| json!({"ip": address, "ipMode": "Proxy"})).collect())
}

fn service_annotation() -> impl Strategy<Value = (&'static str, &'static str)> {
    select(vec![
        ("sluicegate.io/vip", "192.0.2.10,2001:db8::10"),
        ("sluicegate.io/vip", "192.0.2.11,192.0.2.99,nonsense"),
        ("sluicegate.io/vip-pool", "gold"),
        ("sluicegate.io/method", "TUNNEL"),
        ("sluicegate.io/method", "NAT"),
        ("sluicegate.io/method", "POD"),
        ("sluicegate.io/pod-tunnel", "ipip"),
        ("sluicegate.io/when-all-fail", "refuse"),
        ("sluicegate.io/scheduler", "rr"),
        ("sluicegate.io/weights", "192.0.2.1=3,192.0.2.2=0,x"),
        ("sluicegate.io/health-check", "icmp"),
    ])
}

fn slice() -> impl Strategy<Value = Object> {
    let endpoint = (
        select(vec!["192.0.2.1", "192.0.2.2", "192.0.2.10", "2001:db8::1", "2001:db8::2", "nonsense"]),
        select(vec![json!({}), json!({"ready": false}), json!({"ready": false, "serving": true, "terminating": true})]),
        prop::option::weighted(0.7, select(&NODES)),
        any::<bool>(),
    )
        .prop_map(|(address, conditions, node, is_pod)| {
            let target = is_pod.then(|| json!({"kind": "Pod", "name": "p"}));
            json!({"addresses": [address], "conditions": conditions, "nodeName": node, "targetRef": target})
        });
    (
        select(&NAMESPACES),
        select(vec!["e0", "e1"]),
        prop::option::weighted(0.9, select(&SERVICES)),
        select(vec!["IPv4", "IPv4", "IPv6", "FQDN"]),
        select(vec![json!([{"name": "http", "port": 8080}]), json!([{"name": "http", "port": 80}]), json!([])]),
        prop::collection::vec(endpoint, 0..4),
    )
        .prop_map(|(namespace, name, service, family, ports, endpoints)| {
            let labels: BTreeMap<_, _> = service.into_iter().map(|name| ("kubernetes.io/service-name", name)).collect();
            Object::EndpointSlice(read(json!({
                "metadata": {"name": name, "namespace": namespace, "labels": labels},
                "addressType": family, "ports": ports, "endpoints": endpoints,
            })))
        })
}

/// One of them has the address of an endpoint, as a host's network gives it to pods.
fn node() -> impl Strategy<Value = Object> {
    let address = (
        select(vec!["InternalIP", "InternalIP", "ExternalIP", "Hostname"]),
        select(vec!["192.0.2.1", "198.51.100.1", "2001:db8:1::1", "n0"]),
    );
    (select(&NODES), prop::collection::vec(address, 0..3), any::<bool>()).prop_map(|(name, addresses, excluded)| {
        let addresses: Vec<Value> =
            addresses.into_iter().map(|(kind, address)| json!({"type": kind, "address": address})).collect();
        let labels = excluded.then(|| json!({"node.kubernetes.io/exclude-from-external-load-balancers": ""}));
        Object::Node(read(json!({"metadata": {"name": name, "labels": labels}, "status": {"addresses": addresses}})))
    })
}

/// Certificates for `a.test` and `*.test`, made once.
fn pairs() -> &'static [(String, String); 2] {
    static PAIRS: OnceLock<[(String, String); 2]> = OnceLock::new();
    PAIRS.get_or_init(|| {
        ["a.test", "*.test"].map(|name| {
            let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
            (made.cert.pem(), made.signing_key.serialize_pem())
        })
    })
}

fn secret(broken: bool) -> impl Strategy<Value = Object> {
    let data = if broken { 0..4_usize } else { 0..2_usize };
    (select(&NAMESPACES), select(&SECRETS), data).prop_map(|(namespace, name, which)| {
        let [(cert_a, key_a), (cert_b, key_b)] = pairs();
        let data = match which {
            0 => json!({"tls.crt": cert_a, "tls.key": key_a}),
            1 => json!({"tls.crt": cert_b, "tls.key": key_b}),
            2 => json!({"tls.crt": cert_a, "tls.key": key_b}),
            _ => json!({}),
        };
        Object::Secret(read(json!({"metadata": {"name": name, "namespace": namespace}, "stringData": data})))
    })
}

fn tcp_services() -> impl Strategy<Value = Object> {
    let line =
        (select(vec!["5432", "5433", "443"]), select(vec!["n0/s0:80", "n1/s1:http", "n0/s2:81:PROXY", "nonsense"]));
    prop::collection::vec(line, 0..3).prop_map(|lines| configmap("n0", "tcp", lines))
}

fn vips() -> impl Strategy<Value = Object> {
    let line = (
        select(vec!["192.0.2.10", "192.0.2.11", "2001-db8--10", "2001-DB8--10", "127.0.0.1", "nonsense"]),
        select(vec![
            "",
            "n0/s0",
            "n0/s0:DR\nn1/s1",
            "n0/s1:TUNNEL",
            "n0/s1:POD",
            "n0/s0:NAT",
            "n0/s0\nn0/s1\nn1/s0:GUE",
        ]),
    );
    prop::collection::vec(line, 0..4).prop_map(|lines| configmap("sluicegate-system", "vips", lines))
}

fn configmap(namespace: &str, name: &str, lines: Vec<(&str, &str)>) -> Object {
    let data: BTreeMap<_, _> = lines.into_iter().collect();
    Object::ConfigMap(read(json!({"metadata": {"name": name, "namespace": namespace}, "data": data})))
}
