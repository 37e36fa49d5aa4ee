//! Builders of desired state for the tests, and what a table answered in terms of the desired state.
#![allow(dead_code, reason = "each test file is a crate of its own and uses a part")]

use sluicegate_config::{
    Action, Backend, BackendId, Balance, Change, Desired, Dialect, Diff, HostPattern, Kind, Matching, ObjectRef,
    PathMatch, Policy, PortRef, Redirect, Rewrite, Route, RuleRef, UpstreamProtocol, VirtualHost,
};
use sluicegate_route::{Outcome, RouteTable, Target};
use std::sync::Arc;

pub mod model;

pub fn exact(text: &str) -> PathMatch {
    PathMatch::Exact(text.into())
}

pub fn prefix(text: &str) -> PathMatch {
    PathMatch::Prefix(text.into())
}

pub fn string_prefix(text: &str) -> PathMatch {
    PathMatch::StringPrefix(text.into())
}

pub fn regex(text: &str) -> PathMatch {
    PathMatch::Regex(text.into())
}

pub fn pattern(text: &str) -> HostPattern {
    HostPattern::parse(text).expect("a host pattern")
}

pub fn backend_id(service: &str) -> BackendId {
    BackendId {
        namespace: "default".into(),
        service: service.into(),
        port: PortRef::Number(80),
        protocol: None,
        balance: Balance::RoundRobin,
    }
}

/// A backend; `port` tells two versions of one backend apart.
pub fn backend(service: &str, port: u16) -> Arc<Backend> {
    let id = backend_id(service);
    let external = Some(("backend.test".into(), port));
    Arc::new(Backend { id, protocol: UpstreamProtocol::Http1, endpoints: Vec::new(), external, unavailable: None })
}

/// A route to a service of the given name, which its origin repeats.
pub fn route(path: PathMatch, service: &str) -> Route {
    Route {
        path,
        action: Action::Forward(backend_id(service)),
        policy: Arc::default(),
        origin: RuleRef { ingress: ObjectRef::new(Kind::Ingress, "default", "test"), field: service.into() },
    }
}

pub fn append_slash(path: PathMatch, name: &str) -> Route {
    Route { action: Action::Redirect(Redirect::AppendSlash), ..route(path, name) }
}

pub fn rewriting(path: PathMatch, target: &str) -> Route {
    let policy = Policy { rewrite: Some(Rewrite { target: target.into() }), ..Policy::default() };
    Route { policy: Arc::new(policy), ..route(path, "rewritten") }
}

pub fn host(name: &str, dialect: Dialect, routes: Vec<Route>, fallback: Option<Route>) -> VirtualHost {
    let is_regex = |route: &Route| matches!(route.path, PathMatch::Regex(_));
    let regex = !routes.is_empty() && routes.iter().all(is_regex);
    let matching = if regex { Matching::FirstRegex } else { Matching::LongestPath };
    VirtualHost { host: pattern(name), dialect, matching, routes, fallback }
}

pub fn desired(hosts: impl IntoIterator<Item = VirtualHost>) -> Desired {
    let mut desired = Desired::default();
    for host in hosts {
        for route in host.routes.iter().chain(&host.fallback) {
            if let Action::Forward(id) = &route.action {
                desired.backends.entry(id.clone()).or_insert_with(|| backend(&id.service, 80));
            }
        }
        desired.routes.insert(host.host.clone(), Arc::new(host));
    }
    desired
}

pub fn table_of(desired: &Desired) -> RouteTable {
    RouteTable::empty_with_seed(0xfeed).with(&sluicegate_config::diff(&Desired::default(), desired))
}

pub fn table(hosts: impl IntoIterator<Item = VirtualHost>) -> RouteTable {
    table_of(&desired(hosts))
}

/// What `find` answered: the service of the route, or the outcome's name.
pub fn answer(table: &RouteTable, host: &[u8], path: &[u8]) -> String {
    name(table, table.find(host, path))
}

pub fn name(table: &RouteTable, outcome: Outcome) -> String {
    match outcome {
        Outcome::Route(id) => {
            let route = table.route(id);
            if let Target::Forward(slot) = route.target {
                let backend = table.backend(slot).expect("its backend is in the table");
                assert_eq!(backend.slot as usize, slot.index());
                assert_eq!(&*backend.backend.id.service, &*route.origin.field, "the slot holds the route's backend");
            }
            route.origin.field.to_string()
        }
        Outcome::NoHost => "NoHost".into(),
        Outcome::NoPath => "NoPath".into(),
        Outcome::BadPath => "BadPath".into(),
    }
}

pub fn set_backend(service: &str, port: u16) -> Diff {
    let change = Change::Set(backend(service, port));
    Diff { backends: [(backend_id(service), change)].into(), ..Diff::default() }
}

pub fn remove_backend(service: &str) -> Diff {
    Diff { backends: [(backend_id(service), Change::Remove)].into(), ..Diff::default() }
}
