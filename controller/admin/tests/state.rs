//! The document of `/api/v1/state`, built from desired state.

use sluicegate_admin::changes::{ChangeState, ChangedName, MovedState, NamedChanges};
use sluicegate_admin::state::*;
use sluicegate_admin::{Readiness, Section};
use sluicegate_config::vip::TransportProtocol;
use sluicegate_config::*;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn id(service: &str) -> BackendId {
    BackendId {
        namespace: "shop".into(),
        service: service.into(),
        port: PortRef::Number(80),
        protocol: None,
        balance: Balance::RoundRobin,
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("address")
}

fn route(path: PathMatch, action: Action, field: &str) -> Route {
    let ingress = ObjectRef::new(Kind::Ingress, "shop", "web");
    Route { path, action, policy: Arc::default(), origin: RuleRef { ingress, field: field.into() } }
}

fn endpoint(text: &str, pod: Option<&str>, terminating: bool) -> Endpoint {
    Endpoint { address: address(text), pod: pod.map(Into::into), node: None, terminating }
}

fn desired() -> Desired {
    let mut desired = Desired { generation: Generation(7), ..Desired::default() };
    let hosts = [
        VirtualHost {
            host: HostPattern::Any,
            dialect: Dialect::Strict,
            matching: Matching::LongestPath,
            routes: Vec::new(),
            fallback: Some(route(PathMatch::Prefix("/".into()), Action::Forward(id("web")), "spec.defaultBackend")),
        },
        VirtualHost {
            host: HostPattern::parse("web.example").expect("host"),
            dialect: Dialect::Nginx,
            matching: Matching::LongestPath,
            routes: vec![
                route(PathMatch::Exact("/x".into()), Action::Deny("needs auth".into()), "spec.rules[0].http.paths[2]"),
                route(PathMatch::Regex("/a.*".into()), Action::Forward(id("web")), "spec.rules[0].http.paths[0]"),
                route(
                    PathMatch::StringPrefix("/b".into()),
                    Action::Redirect(Redirect::AppendSlash),
                    "spec.rules[0].http.paths[1]",
                ),
            ],
            fallback: None,
        },
    ];
    desired.routes = hosts.into_iter().map(|host| (host.host.clone(), Arc::new(host))).collect();
    let backends = [
        Backend {
            id: id("web"),
            protocol: UpstreamProtocol::H2c,
            endpoints: vec![
                endpoint("192.0.2.1:8080", Some("web-1"), false),
                endpoint("192.0.2.2:8080", None, true),
                endpoint("192.0.2.3:8080", None, false),
            ],
            external: None,
            unavailable: None,
        },
        Backend {
            id: id("outside"),
            protocol: UpstreamProtocol::Https,
            endpoints: Vec::new(),
            external: Some(("api.example".into(), 443)),
            unavailable: None,
        },
        Backend {
            id: id("gone"),
            protocol: UpstreamProtocol::Http1,
            endpoints: Vec::new(),
            external: None,
            unavailable: Some("Service shop/gone does not exist".into()),
        },
    ];
    desired.backends = backends.into_iter().map(|backend| (backend.id.clone(), Arc::new(backend))).collect();
    let certificate = CertificateId { namespace: "shop".into(), name: "tls".into() };
    let origin = ObjectRef::new(Kind::Ingress, "shop", "web");
    for (name, treatment) in [
        ("web.example", TlsTreatment::Certificate(certificate.clone())),
        ("*.web.example", TlsTreatment::Certificate(certificate.clone())),
        ("raw.example", TlsTreatment::Passthrough(id("web"))),
        ("other.example", TlsTreatment::DefaultCertificate),
    ] {
        let server_name = ServerName { treatment, origin: origin.clone() };
        desired.server_names.insert(HostPattern::parse(name).expect("host"), Arc::new(server_name));
    }
    desired.certificates.insert(
        certificate.clone(),
        Arc::new(Certificate {
            id: certificate,
            chain: vec![b"DER-OF-THE-CHAIN".to_vec()],
            key: PrivateKey::new(b"DER-OF-THE-KEY".to_vec()),
            names: vec!["web.example".to_owned()],
            not_after: 1_900_000_000,
            fingerprint: "ab".repeat(32),
        }),
    );
    let stream = StreamListener {
        port: 5432,
        backend: id("web"),
        accept_proxy_protocol: true,
        send_proxy_protocol: false,
        origin: ObjectRef::new(Kind::ConfigMap, "system", "tcp"),
    };
    desired.listeners.insert(5432, Arc::new(stream));
    let vip = VipBinding {
        address: "2001:db8::10".parse().expect("address"),
        services: vec![VipService {
            namespace: "shop".into(),
            service: "web".into(),
            method: Some(Method::Tunnel),
            into_pods: false,
            options: VipOptions {
                scheduler: Scheduler::Wrr,
                persistence: Some(Persistence { timeout: Duration::from_secs(300), prefix4: 24, prefix6: 64 }),
                fragments: true,
                health: Some(HealthCheck {
                    kind: ProbeKind::Http { path: "/ready".into(), host: Some("web.example".into()), tls: true },
                    port: Some(8443),
                    interval: Duration::from_millis(500),
                    ..HealthCheck::default()
                }),
                ..VipOptions::default()
            },
            ports: [(TransportProtocol::Tcp, 80), (TransportProtocol::Udp, 53)]
                .map(|(protocol, port)| VipPort {
                    protocol,
                    port,
                    reals: vec![
                        RealServer {
                            address: "2001:db8:1::1".parse().expect("address"),
                            weight: 3,
                            readiness: sluicegate_config::Readiness::Ready,
                            node: Some("node-a".into()),
                            pods: None,
                        },
                        RealServer {
                            address: "2001:db8:1::2".parse().expect("address"),
                            weight: 1,
                            readiness: sluicegate_config::Readiness::Draining,
                            node: None,
                            pods: None,
                        },
                    ],
                })
                .into(),
        }],
        origin: ObjectRef::new(Kind::ConfigMap, "system", "vips"),
    };
    desired.vips.insert(vip.address, Arc::new(vip));
    desired
}

/// A data plane that ejected one endpoint, still holds one that went, and resolved a name.
struct Running;

impl Live for Running {
    fn changes(&self) -> Vec<ChangeState> {
        let named =
            NamedChanges { count: 1, first: vec![ChangedName { name: "Ingress shop/web".to_owned(), gone: true }] };
        let moved = vec![MovedState { kind: "hosts".to_owned(), names: named.clone() }];
        vec![ChangeState { number: 1, objects: named, moved, ..ChangeState::default() }]
    }
    fn listeners(&self) -> Vec<(ListenerProtocol, SocketAddr)> {
        vec![(ListenerProtocol::Https, address("[::]:443")), (ListenerProtocol::Http, address("[::]:80"))]
    }
    fn backend(&self, asked: &BackendId) -> Option<Traffic> {
        (*asked == id("web")).then_some(Traffic { active: 1, requests: 9, errors: 2 })
    }
    fn endpoints(&self, asked: &BackendId) -> BTreeMap<SocketAddr, LiveEndpoint> {
        let at = |ejected, requests| LiveEndpoint { ejected, traffic: Traffic { active: 0, requests, errors: 0 } };
        if *asked == id("web") {
            BTreeMap::from([
                (address("192.0.2.0:8080"), at(true, 1)),
                (address("192.0.2.1:8080"), at(true, 2)),
                (address("192.0.2.2:8080"), at(false, 3)),
            ])
        } else if *asked == id("outside") {
            BTreeMap::from([(address("198.51.100.1:443"), at(false, 4)), (address("198.51.100.2:443"), at(true, 5))])
        } else {
            BTreeMap::new()
        }
    }
    fn real_server(
        &self,
        vip: IpAddr,
        protocol: TransportProtocol,
        port: u16,
        address: IpAddr,
    ) -> Option<LiveRealServer> {
        let known = vip.to_string() == "2001:db8::10" && (protocol, port) == (TransportProtocol::Tcp, 80);
        (known && address.to_string() == "2001:db8:1::1").then(|| LiveRealServer {
            method: "TUNNEL".to_owned(),
            healthy: Some(true),
            reason: None,
            connections: 3,
            established: 2,
            packets: 7,
            bytes: 448,
        })
    }

    fn vip_is_served(&self, _address: IpAddr) -> bool {
        true
    }
}

fn whole(live: &impl Live) -> State {
    State::build(&desired(), &[], live, &Readiness::ready(), None)
}

#[test]
fn routes_say_where_they_come_from_and_where_they_go_in_order_of_precedence() {
    let routes = whole(&()).routes.expect("asked for");
    let rows: Vec<_> = routes
        .iter()
        .map(|route| {
            let backend = route.backend.as_deref().unwrap_or("-");
            format!("{} {} {} {:?} {} {backend}", route.host, route.dialect, route.matching, route.path, route.action)
        })
        .collect();
    assert_eq!(
        rows,
        [
            "web.example nginx exact \"/x\" deny -",
            "web.example nginx regex \"/a.*\" forward shop/web:80",
            "web.example nginx string_prefix \"/b\" redirect_append_slash -",
            "* strict default \"\" forward shop/web:80",
        ]
    );
    assert_eq!(routes[0].reason.as_deref(), Some("needs auth"));
    assert_eq!((routes[1].ingress.as_str(), routes[1].field.as_str()), ("shop/web", "spec.rules[0].http.paths[0]"));
}

#[test]
fn endpoints_are_those_of_the_service_and_those_that_the_workers_still_hold() {
    let backends = whole(&Running).backends.expect("asked for");
    let rows: Vec<_> = backends
        .iter()
        .flat_map(|backend| {
            backend.endpoints.iter().map(move |endpoint| {
                let requests = endpoint.traffic.map(|traffic| traffic.requests);
                format!("{} {} {:?} {requests:?}", backend.id, endpoint.address, endpoint.state)
            })
        })
        .collect();
    assert_eq!(
        rows,
        [
            "shop/outside:80 198.51.100.1:443 Up Some(4)",
            "shop/outside:80 198.51.100.2:443 Ejected Some(5)",
            "shop/web:80 192.0.2.0:8080 Removed Some(1)",
            "shop/web:80 192.0.2.1:8080 Ejected Some(2)",
            "shop/web:80 192.0.2.2:8080 Terminating Some(3)",
            "shop/web:80 192.0.2.3:8080 Up None",
        ]
    );
    let gone = &backends[0];
    assert_eq!(gone.unavailable.as_deref(), Some("Service shop/gone does not exist"));
    assert_eq!(backends[1].external.as_deref(), Some("api.example:443"));
    assert_eq!((backends[2].protocol.as_str(), backends[2].traffic.map(|traffic| traffic.errors)), ("h2c", Some(2)));
}

#[test]
fn who_knows_nothing_of_the_workers_says_null_and_not_zero() {
    let state = whole(&());
    let backends = state.backends.expect("asked for");
    assert!(backends.iter().all(|backend| backend.traffic.is_none()));
    assert!(backends.iter().flat_map(|backend| &backend.endpoints).all(|endpoint| endpoint.traffic.is_none()));
    assert!(!state.vips.expect("asked for")[0].served);
}

#[test]
fn certificates_server_names_listeners_and_vips_are_listed() {
    let state = whole(&Running);
    let certificates = state.certificates.expect("asked for");
    assert_eq!(certificates[0].used_by, ["web.example", "*.web.example"]);
    let names: Vec<_> =
        state.server_names.expect("asked for").into_iter().map(|name| (name.name, name.treatment)).collect();
    let expected = [
        ("other.example", "default_certificate"),
        ("raw.example", "passthrough"),
        ("web.example", "certificate"),
        ("*.web.example", "certificate"),
    ];
    assert_eq!(names, expected.map(|(name, treatment)| (name.to_owned(), treatment.to_owned())));
    let listeners = state.listeners.expect("asked for");
    let rows: Vec<_> = listeners.iter().map(|one| (one.protocol, one.port, one.origin.as_deref())).collect();
    assert_eq!(
        rows,
        [
            (ListenerProtocol::Http, 80, None),
            (ListenerProtocol::Https, 443, None),
            (ListenerProtocol::Tcp, 5432, Some("ConfigMap system/tcp")),
        ]
    );
    let vips = state.vips.expect("asked for");
    assert!(vips[0].served);
    assert_eq!(vips[0].services[0].ports, ["TCP/80", "UDP/53"]);
    assert_eq!(vips[0].services[0].method.as_deref(), Some("TUNNEL"));
}

#[test]
fn real_servers_are_listed_by_port_with_what_the_director_knows() {
    let service = whole(&Running).vips.expect("asked for").remove(0).services.remove(0);
    let text = serde_json::to_value(&service).expect("a document");
    assert_eq!(text["scheduler"], "wrr");
    assert_eq!(text["persistence"], serde_json::json!({"seconds": 300, "prefix4": 24, "prefix6": 64}));
    assert_eq!(text["when_all_fail"], "fail-open");
    assert_eq!((&text["one_packet"], &text["fragments"]), (&false.into(), &true.into()));
    assert_eq!(
        text["health_check"],
        serde_json::json!({
            "kind": "https:/ready", "host": "web.example", "port": 8443,
            "interval_ms": 500, "timeout_ms": 3000, "rise": 2, "fall": 3,
        })
    );
    let rows: Vec<_> = service
        .real_servers
        .iter()
        .map(|real| {
            let packets = real.live.as_ref().map(|live| live.packets);
            (real.port.as_str(), real.address.to_string(), real.weight, real.readiness.as_str(), packets)
        })
        .collect();
    let (first, second) = ("2001:db8:1::1".to_owned(), "2001:db8:1::2".to_owned());
    assert_eq!(
        rows,
        [
            ("TCP/80", first.clone(), 3, "ready", Some(7)),
            ("TCP/80", second.clone(), 1, "draining", None),
            ("UDP/53", first, 3, "ready", None),
            ("UDP/53", second, 1, "draining", None),
        ]
    );
    assert_eq!(service.real_servers[0].node.as_deref(), Some("node-a"));
}

#[test]
fn rejections_are_sorted_and_have_the_shape_of_the_vocabulary() {
    let rejection = |name: &str, field: &str| Rejection {
        object: ObjectRef::new(Kind::Ingress, "shop", name),
        field: field.to_owned(),
        verdict: Verdict::Rejected,
        reason: "it is wrong".to_owned(),
        remedy: "make it right".to_owned(),
    };
    let given = [rejection("b", "spec"), rejection("a", "spec.z"), rejection("a", "spec.a")];
    let state = State::build(&desired(), &given, &(), &Readiness::ready(), Some(Section::Rejections));
    let mut sorted = given.to_vec();
    sorted.sort();
    let shown = serde_json::to_value(state.rejections.expect("asked for")).expect("JSON");
    assert_eq!(shown, serde_json::to_value(&sorted).expect("JSON"));
}

#[test]
fn one_section_brings_only_itself_and_the_head() {
    for section in Section::ALL {
        let state = State::build(&desired(), &[], &(), &Readiness::not_ready("draining"), Some(section));
        let json = serde_json::to_value(&state).expect("JSON");
        let mut keys: Vec<&str> = json.as_object().expect("object").keys().map(String::as_str).collect();
        keys.sort_unstable();
        let mut expected = vec!["generation", "not_ready_reasons", "ready", "version", section.as_str()];
        expected.sort_unstable();
        assert_eq!(keys, expected);
        assert_eq!((json["generation"].as_u64(), json["ready"].as_bool()), (Some(7), Some(false)));
        assert_eq!(section.as_str().parse(), Ok(section));
    }
    assert!("route".parse::<Section>().is_err_and(|error| error.to_string().contains("rejections")));
}

#[test]
fn the_document_is_read_back_as_it_was_and_has_no_key_material() {
    for live in [true, false] {
        let state = if live { whole(&Running) } else { whole(&()) };
        let text = serde_json::to_string(&state).expect("JSON");
        assert_eq!(serde_json::from_str::<State>(&text).expect("JSON"), state);
        for secret in ["DER-OF-THE-KEY", "DER-OF-THE-CHAIN", "68,69,82"] {
            assert!(!text.contains(secret), "{secret}");
        }
    }
}

#[test]
fn the_schema_is_documented() {
    let document = include_str!("../../../docs/admin-api.md");
    let mut undocumented = Vec::new();
    collect_keys(&serde_json::to_value(whole(&Running)).expect("JSON"), &mut |key| {
        if !document.contains(&format!("`{key}`")) {
            undocumented.push(key.to_owned());
        }
    });
    assert!(undocumented.is_empty(), "docs/admin-api.md does not have {undocumented:?}");
}

fn collect_keys(value: &serde_json::Value, found: &mut impl FnMut(&str)) {
    match value {
        serde_json::Value::Object(members) => members.iter().for_each(|(key, value)| {
            found(key);
            collect_keys(value, found);
        }),
        serde_json::Value::Array(values) => values.iter().for_each(|value| collect_keys(value, found)),
        _ => {}
    }
}

#[test]
fn twenty_thousand_hosts_are_written_fast_enough() {
    let mut desired = Desired::default();
    for number in 0..20_000 {
        let host = HostPattern::parse(&format!("host-{number}.example")).expect("host");
        let backend = id(&format!("service-{number}"));
        let field = "spec.rules[0].http.paths[0]";
        let virtual_host = VirtualHost {
            host: host.clone(),
            dialect: Dialect::Strict,
            matching: Matching::LongestPath,
            routes: vec![route(PathMatch::Prefix("/".into()), Action::Forward(backend), field)],
            fallback: None,
        };
        desired.routes.insert(host, Arc::new(virtual_host));
    }
    let started = Instant::now();
    let state = State::build(&desired, &[], &(), &Readiness::ready(), Some(Section::Routes));
    let text = serde_json::to_vec(&state).expect("JSON");
    let took = started.elapsed();
    assert_eq!(state.routes.map(|routes| routes.len()), Some(20_000));
    assert!(text.len() > 2_000_000);
    // 200 ms is the target of an optimised build; this one is not, and shares its machine.
    println!("20,000 routes: {took:?}, {} bytes", text.len());
    assert!(took < Duration::from_secs(2), "{took:?}");
}
