//! Places to count in: whose requests share one, and what a change of the table leaves where it was.

mod support;

use sluicegate_config::{Action, Change, Dialect, Diff, Redirect, Route, VirtualHost};
use sluicegate_route::{Outcome, RouteTable, SeriesSlot};
use std::collections::BTreeSet;
use std::sync::Arc;
use support::{host, pattern, prefix, route, table};

fn series(table: &RouteTable, host: &str, path: &str) -> SeriesSlot {
    let Outcome::Route(id) = table.find(host.as_bytes(), path.as_bytes()) else { panic!("{host}{path} is routed") };
    table.route(id).series.clone()
}

fn set(hosts: Vec<VirtualHost>) -> Diff {
    let routes = hosts.into_iter().map(|host| (host.host.clone(), Change::Set(Arc::new(host))));
    Diff { routes: routes.collect(), ..Diff::default() }
}

fn web(name: &str, routes: Vec<Route>) -> VirtualHost {
    host(name, Dialect::Strict, routes, None)
}

fn of_ingress(name: &str, mut route: Route) -> Route {
    route.origin.ingress.name = name.into();
    route
}

#[test]
fn one_host_ingress_and_service_share_a_place() {
    let redirect = Route { action: Action::Redirect(Redirect::AppendSlash), ..route(prefix("/go"), "web") };
    let routes = vec![
        route(prefix("/a"), "web"),
        route(prefix("/b"), "web"),
        route(prefix("/c"), "api"),
        of_ingress("other", route(prefix("/d"), "web")),
        redirect,
    ];
    let table = table([web("web.test", routes), web("api.test", vec![route(prefix("/"), "web")])]);
    let of = |path| series(&table, "web.test", path);
    assert_eq!(of("/a").index, of("/b").index);
    assert!(Arc::ptr_eq(&of("/a").tenure, &of("/b").tenure));
    let all: BTreeSet<u32> = ["/a", "/c", "/d", "/go"].iter().map(|path| of(path).index).collect();
    assert_eq!(all.len(), 4, "service, Ingress and redirect tell them apart");
    let other = series(&table, "api.test", "/").index;
    assert!(!all.contains(&other), "so does the host");
    assert!(all.iter().chain([&other]).all(|index| *index < 5), "places are dense");
}

#[test]
fn a_change_of_the_host_moves_nothing_that_stays() {
    let before = table([web("web.test", vec![route(prefix("/a"), "web"), route(prefix("/c"), "api")])]);
    let changed = vec![route(prefix("/c"), "new"), route(prefix("/x"), "web")];
    let after = before.with(&set(vec![web("web.test", changed)]));
    let (old, new) = (series(&before, "web.test", "/a"), series(&after, "web.test", "/x"));
    assert_eq!(old.index, new.index);
    assert!(Arc::ptr_eq(&old.tenure, &new.tenure));
    let (gone, came) = (series(&before, "web.test", "/c"), series(&after, "web.test", "/c"));
    assert!(!Arc::ptr_eq(&gone.tenure, &came.tenure), "what another Service counts is not its");
    assert_ne!(gone.index, came.index, "and begins in another place");
}

#[test]
fn a_tenure_ends_with_the_last_table_that_has_the_route() {
    let before = table([web("web.test", vec![route(prefix("/"), "web")]), web("api.test", vec![])]);
    let first = series(&before, "web.test", "/");
    let (index, tenure) = (first.index, Arc::downgrade(&first.tenure));
    drop(first);
    let without = before.with(&Diff { routes: [(pattern("web.test"), Change::Remove)].into(), ..Diff::default() });
    assert!(tenure.strong_count() > 0, "requests may still be under way by the older table");
    drop(before);
    assert_eq!(tenure.strong_count(), 0);
    let back = without.with(&set(vec![web("new.test", vec![route(prefix("/"), "web")])]));
    assert_eq!(series(&back, "new.test", "/").index, index, "the place is given out again");
}

#[test]
fn places_are_given_out_again_however_often_hosts_change() {
    let mut table = table([web("web.test", vec![route(prefix("/"), "web")])]);
    for round in 0..1_000 {
        let service = format!("web-{round}");
        table = table.with(&set(vec![web("web.test", vec![route(prefix("/"), &service)])]));
        assert!(series(&table, "web.test", "/").index < 2, "round {round}");
    }
}
