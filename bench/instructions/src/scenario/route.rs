//! Look-ups in the routing table: small, of 5,000 virtual hosts, and of 20,000 Ingresses.

use super::{Row, Sequence, Work};
use sluicegate_config::{
    Action, Backend, BackendId, Balance, Change, Dialect, Diff, HostPattern, Kind, Matching, ObjectRef, PathMatch,
    Policy, PortRef, Rewrite, Route, RuleRef, UpstreamProtocol, VirtualHost,
};
use sluicegate_route::{Outcome, RouteTable, rewrite};
use std::cell::LazyCell;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;

pub(super) const SCENARIOS: &[Row] = &[
    ("route/1-host-prefix", || find(&table(1), 1, "host-N.example.test", "/team/items/17")),
    ("route/5000-hosts-prefix", || find(&table(5_000), 5_000, "host-N.example.test", "/team/items/17")),
    ("route/20000-ingresses-prefix", || find(&large(), LARGE, "host-N.example.test", "/team/items/17")),
    ("route/20000-ingresses-exact", || find(&large(), LARGE, "host-N.example.test", "/login")),
    ("route/20000-ingresses-default", || find(&large(), LARGE, "host-N.example.test", "/index.html")),
    ("route/20000-ingresses-wildcard", || find(&large(), LARGE / 10, "a.wild-N.example.test", "/index.html")),
    ("route/20000-ingresses-dirty-path", || find(&large(), LARGE, "host-N.example.test", "/team/./items/%7e17")),
    ("route/1-host-regex-idiom", || find(&regexes("/svc-N(/|$)(.*)"), 1, "regex.example.test", "/svc-7/items/17")),
    ("route/1-host-regex-automaton", || {
        find(&regexes("/svc-N/[a-z]+/(\\d+)"), 1, "regex.example.test", "/svc-7/items/17")
    }),
    ("route/rewrite", rewriting),
];

const LARGE: usize = 20_000;
const SEED: u64 = 7;

thread_local! {
    /// It takes the most time to make, so it is made once.
    static TABLE_OF_20000: LazyCell<Rc<RouteTable>> = LazyCell::new(|| table(LARGE));
}

fn large() -> Rc<RouteTable> {
    TABLE_OF_20000.with(|table| Rc::clone(table))
}

/// Looks up a path on one of so many hosts, in no order; `N` in the host's name is its number.
fn find(table: &Rc<RouteTable>, hosts: usize, host: &str, path: &'static str) -> Work {
    let table = Rc::clone(table);
    // Names are made before: what is counted is the look-up.
    let names: Vec<Box<str>> = (0..hosts).map(|n| host.replace('N', &n.to_string()).into()).collect();
    let mut order = Sequence(1);
    Box::new(move || {
        let name = &names[order.next() as usize % names.len()];
        matches!(table.find(black_box(name.as_bytes()), black_box(path.as_bytes())), Outcome::Route(_))
    })
}

fn rewriting() -> Work {
    let table = regexes("/svc-N(/|$)(.*)");
    let mut out = Vec::with_capacity(256);
    let path = b"/svc-7/items/17/details";
    let outcome = table.find(b"regex.example.test", path);
    Box::new(move || {
        let Outcome::Route(id) = outcome else { return false };
        out.clear();
        rewrite(table.route(id), black_box(path), Some(b"a=1"), &mut out) && out == b"/items/17/details?a=1"
    })
}

/// So many hosts with four paths each, and a tenth as many wildcards.
fn table(hosts: usize) -> Rc<RouteTable> {
    let mut diff = Diff::default();
    for n in 0..hosts {
        let paths = [
            PathMatch::Exact("/login".into()),
            PathMatch::Prefix("/team/items".into()),
            PathMatch::Prefix("/team".into()),
            PathMatch::Prefix("/".into()),
        ];
        add(&mut diff, &format!("host-{n}.example.test"), n, paths.into(), Matching::LongestPath);
    }
    for n in 0..hosts / 10 {
        let paths = vec![PathMatch::Prefix("/".into())];
        add(&mut diff, &format!("*.wild-{n}.example.test"), hosts + n, paths, Matching::LongestPath);
    }
    Rc::new(RouteTable::empty_with_seed(SEED).with(&diff))
}

/// One host with eight regular expressions, of which the last one matches.
fn regexes(pattern: &str) -> Rc<RouteTable> {
    let mut diff = Diff::default();
    let paths = (0..8).map(|n| PathMatch::Regex(pattern.replace('N', &n.to_string()).into())).collect();
    add(&mut diff, "regex.example.test", 0, paths, Matching::FirstRegex);
    Rc::new(RouteTable::empty_with_seed(SEED).with(&diff))
}

fn add(diff: &mut Diff, host: &str, n: usize, paths: Vec<PathMatch>, matching: Matching) {
    let Ok(host) = HostPattern::parse(host) else { return };
    let id = BackendId {
        namespace: "default".into(),
        service: format!("web-{n}").into(),
        port: PortRef::Number(80),
        protocol: None,
        balance: Balance::RoundRobin,
    };
    let protocol = UpstreamProtocol::Http1;
    let backend = Backend { id: id.clone(), protocol, endpoints: Vec::new(), external: None, unavailable: None };
    let is_regex = matching == Matching::FirstRegex;
    let rewrite = is_regex.then(|| Rewrite { target: "/$2".into() });
    let policy = Arc::new(Policy { rewrite, ..Policy::default() });
    let ingress = ObjectRef::new(Kind::Ingress, "default", format!("web-{n}"));
    let route = |path| Route {
        path,
        action: Action::Forward(id.clone()),
        policy: Arc::clone(&policy),
        origin: RuleRef { ingress: ingress.clone(), field: "spec.rules[0].http.paths[0]".into() },
    };
    let dialect = if is_regex { Dialect::Nginx } else { Dialect::Strict };
    let routes = paths.into_iter().map(route).collect();
    let host = VirtualHost { host, dialect, matching, routes, fallback: None };
    diff.routes.insert(host.host.clone(), Change::Set(Arc::new(host)));
    diff.backends.insert(id, Change::Set(Arc::new(backend)));
}
