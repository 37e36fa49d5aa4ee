//! The door to desired state: what comes through it, in which order, and what it says about the rest.

use proptest::prelude::*;
use sluicegate_config::draft::{
    BackendDraft, BackendSource, CertificateDraft, EndpointDraft, HostDraft, RouteDraft, ServerNameDraft, TlsWish,
    WantedTls,
};
use sluicegate_config::{
    Action, BackendId, Balance, Certificate, CertificateId, Desired, Dialect, Draft, HostPattern, Kind, Matching,
    ObjectRef, PathMatch, PortRef, PrivateKey, RuleRef, UpstreamProtocol, Verdict, check,
};
use std::sync::Arc;

fn ingress() -> ObjectRef {
    ObjectRef::new(Kind::Ingress, "default", "web")
}

fn host(name: &str) -> HostPattern {
    HostPattern::parse(name).expect("a host")
}

fn backend_id() -> BackendId {
    BackendId {
        namespace: "default".into(),
        service: "web".into(),
        port: PortRef::Number(80),
        protocol: None,
        balance: Balance::RoundRobin,
    }
}

fn route(path: PathMatch, implied: bool) -> RouteDraft {
    RouteDraft {
        path,
        action: Action::Forward(backend_id()),
        policy: Arc::default(),
        origin: RuleRef { ingress: ingress(), field: "spec.rules[0].http.paths[0]".into() },
        implied,
    }
}

fn draft_of(matching: Matching, routes: Vec<RouteDraft>) -> Draft {
    let mut draft = Draft::default();
    draft.hosts.insert(
        host("web.test"),
        Some(HostDraft { dialect: Dialect::Strict, matching, routes, fallbacks: Vec::new() }),
    );
    draft
}

fn paths(matching: Matching, routes: Vec<RouteDraft>) -> Vec<String> {
    let mut desired = Desired::default();
    desired.apply(&check(draft_of(matching, routes), &Desired::default()).diff);
    desired.routes[&host("web.test")].routes.iter().map(|route| route.path.to_string()).collect()
}

fn exact(path: &str) -> PathMatch {
    PathMatch::Exact(path.into())
}

fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.into())
}

fn string_prefix(path: &str) -> PathMatch {
    PathMatch::StringPrefix(path.into())
}

fn regex(path: &str) -> PathMatch {
    PathMatch::Regex(path.into())
}

/// One row for every tie of the written order.
#[test]
fn precedence_of_paths() {
    for (first, second) in [
        (prefix("/foo/bar"), exact("/foo")),
        (exact("/foo"), prefix("/foo")),
        (exact("/foo"), string_prefix("/foo")),
        (prefix("/foo"), string_prefix("/foo")),
        // A trailing slash does not make a Prefix longer than the Exact path that it also takes.
        (exact("/foo"), prefix("/foo/")),
        (prefix("/foo/"), prefix("/foo")),
        (exact("/"), prefix("/")),
        (string_prefix("/foo"), prefix("/")),
        (exact("/b"), exact("/a")),
    ] {
        for routes in [[&first, &second], [&second, &first]] {
            let routes = routes.map(|path| route(path.clone(), false)).to_vec();
            assert_eq!(paths(Matching::LongestPath, routes), [first.to_string(), second.to_string()]);
        }
    }
    for (first, second) in [(regex("/foo/"), regex("/foo")), (regex("/b"), regex("/a"))] {
        let routes = vec![route(second.clone(), false), route(first.clone(), false)];
        assert_eq!(paths(Matching::FirstRegex, routes), [first.to_string(), second.to_string()]);
    }
}

#[test]
fn an_implied_route_gives_way_in_silence() {
    let checked = check(
        draft_of(
            Matching::LongestPath,
            vec![route(exact("/a"), true), route(string_prefix("/a"), false), route(exact("/b"), true)],
        ),
        &Desired::default(),
    );
    assert!(checked.rejections.is_empty());
    let paths = paths(
        Matching::LongestPath,
        vec![route(exact("/a"), true), route(string_prefix("/a"), false), route(exact("/b"), true)],
    );
    assert_eq!(paths, ["=/b", "/a*"]);
}

#[test]
fn patterns_run_in_linear_time_and_bounded_memory_or_not_at_all() {
    for (pattern, refused) in [
        (r"/api(/|$)(.*)", None),
        (r"/v\d+/(?P<name>[^/]+)\.html$", None),
        (r"/größe/\p{Greek}+", None),
        (r"/(?!admin)", Some("look-around")),
        (r"/(?<!a)b", Some("look-around")),
        (r"/(a)\1", Some("backreference")),
        (r"/(?>a+)b", Some("atomic group")),
        (r"/a*+b", Some("possessive")),
        (r"/a{2,3}+b", Some("possessive")),
        (r"/(?R)", Some("recursion")),
        (r"/\Kfoo", Some("PCRE escape")),
        (r"/[(?>*+]", None),
        (r"/a)(b", Some("not valid")),
        (r"/(", Some("not valid")),
        (r"/(a{1000}){1000}", Some("too large")),
        (r"api", Some("does not begin")),
        ("", Some("empty")),
    ] {
        let checked = check(draft_of(Matching::FirstRegex, vec![route(regex(pattern), false)]), &Desired::default());
        let reasons: Vec<_> = checked.rejections.iter().map(|note| note.rejection.reason.as_str()).collect();
        match refused {
            None => assert!(reasons.is_empty(), "{pattern}: {reasons:?}"),
            Some(why) => assert!(reasons.len() == 1 && reasons[0].contains(why), "{pattern}: {reasons:?}"),
        }
    }
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    (r"/[ab/]{0,5}", 0..3_u8).prop_map(|(path, kind)| match kind {
        0 => exact(&path),
        1 => prefix(&path),
        _ => string_prefix(&path),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn order_of_routes_does_not_depend_on_the_input(mut all in prop::collection::vec(path_match(), 0..12), seed in any::<usize>()) {
        let forward = paths(Matching::LongestPath, all.iter().map(|path| route(path.clone(), false)).collect());
        if !all.is_empty() {
            let middle = seed % all.len();
            all.rotate_left(middle);
            all.reverse();
        }
        let shuffled = paths(Matching::LongestPath, all.into_iter().map(|path| route(path, false)).collect());
        prop_assert_eq!(forward, shuffled);
    }

    #[test]
    fn what_was_applied_is_no_change(all in prop::collection::vec(path_match(), 0..8)) {
        let draft = || draft_of(Matching::LongestPath, all.iter().map(|path| route(path.clone(), false)).collect());
        let mut desired = Desired::default();
        desired.apply(&check(draft(), &desired).diff);
        prop_assert!(check(draft(), &desired).diff.is_empty());
    }
}

fn certificate(names: &[&str]) -> CertificateDraft {
    CertificateDraft::Good(Arc::new(Certificate {
        id: certificate_id(),
        chain: vec![vec![1]],
        key: PrivateKey::new(vec![2]),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        not_after: 0,
        fingerprint: String::new(),
    }))
}

fn certificate_id() -> CertificateId {
    CertificateId { namespace: "default".into(), name: "tls".into() }
}

#[test]
fn a_certificate_that_does_not_cover_its_host_is_served_with_a_warning() {
    for (name, of, covered) in [
        ("a.test", "a.test", true),
        ("a.test", "b.test", false),
        ("*.a.test", "x.a.test", true),
        ("*.a.test", "a.test", false),
        ("*.a.test", "y.x.a.test", false),
        ("*.a.test", "*.a.test", true),
        ("x.a.test", "*.a.test", false),
        ("192.0.2.1", "192.0.2.1", true),
        ("[2001:db8::1]", "[2001:db8::1]", true),
        ("a.test", "", true),
    ] {
        let mut draft = Draft::default();
        draft.certificates.insert(certificate_id(), Some(certificate(&[name])));
        let wish = TlsWish {
            wanted: WantedTls::Certificate(certificate_id()),
            origin: ingress(),
            field: "spec.tls[0]".to_owned(),
        };
        draft.server_names.insert(host(of), Some(ServerNameDraft { wishes: vec![wish] }));
        let checked = check(draft, &Desired::default());
        let warned = checked.rejections.iter().any(|note| note.rejection.verdict == Verdict::Warning);
        assert_eq!(warned, !covered, "{name} for {of:?}");
        assert_eq!(checked.diff.server_names.len(), 1);
    }
}

#[test]
fn external_names_that_lead_to_the_gateway_are_refused() {
    for (name, good) in [
        ("api.example", Some("api.example")),
        ("API.Example.", Some("api.example")),
        ("198.51.100.7", Some("198.51.100.7")),
        ("[2001:db8::1]", Some("2001:db8::1")),
        ("localhost", None),
        ("LocalHost.", None),
        ("db.localhost", None),
        ("localhost.localdomain", None),
        ("ip6-localhost", None),
        ("127.0.0.1", None),
        ("127.8.8.8", None),
        ("127.1", None),
        ("2130706433", None),
        ("0x7f.1", None),
        ("0x7f000001", None),
        ("127.0.0.0x1", None),
        ("0xdeadbeef.example", Some("0xdeadbeef.example")),
        ("0.0.0.0", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("::", None),
        ("", None),
        ("a b", None),
    ] {
        let mut draft = Draft::default();
        let service = ObjectRef::new(Kind::Service, "default", "web");
        let source = BackendSource::External { service, name: name.into(), port: 80 };
        draft.backends.insert(backend_id(), Some(BackendDraft { protocol: UpstreamProtocol::Http1, source }));
        let mut desired = Desired::default();
        let checked = check(draft, &desired);
        desired.apply(&checked.diff);
        let backend = &desired.backends[&backend_id()];
        assert_eq!(backend.external.as_ref().map(|(name, _)| &**name), good, "{name:?}");
        assert_eq!(backend.unavailable.is_some(), good.is_none(), "{name:?}");
        assert_eq!(checked.rejections.len(), usize::from(good.is_none()), "{name:?}");
    }
}

#[test]
fn terminating_endpoints_serve_only_where_nothing_is_ready() {
    let endpoint = |last: u8, terminating: bool, pod: Option<&str>| EndpointDraft {
        address: ([192, 0, 2, last], 80).into(),
        pod: pod.map(Arc::from),
        node: pod.map(|_| Arc::from("node-1")),
        terminating,
    };
    let usable = |endpoints: Vec<EndpointDraft>| {
        let mut draft = Draft::default();
        let service = ObjectRef::new(Kind::Service, "default", "web");
        let source = BackendSource::Endpoints { service, endpoints };
        draft.backends.insert(backend_id(), Some(BackendDraft { protocol: UpstreamProtocol::Http1, source }));
        let mut desired = Desired::default();
        desired.apply(&check(draft, &desired).diff);
        desired.backends[&backend_id()].clone()
    };
    let some = usable(vec![endpoint(2, false, None), endpoint(1, true, None), endpoint(2, false, Some("pod"))]);
    assert_eq!(some.endpoints.len(), 1);
    assert_eq!(
        (some.endpoints[0].address.to_string().as_str(), some.endpoints[0].pod.as_deref()),
        ("192.0.2.2:80", Some("pod"))
    );
    assert_eq!(some.endpoints[0].node.as_deref(), Some("node-1"), "it comes with the pod");
    let last_resort = usable(vec![endpoint(2, true, None), endpoint(1, true, None)]);
    assert_eq!(last_resort.endpoints.iter().map(|endpoint| endpoint.terminating).collect::<Vec<_>>(), [true, true]);
    assert!(usable(Vec::new()).unavailable.as_ref().is_some_and(|why| why.contains("no ready endpoint")));
}
