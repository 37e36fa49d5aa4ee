//! Slots: what a change of backends does to routes that refer to them.

mod support;

use sluicegate_config::{Action, Change, Dialect, Diff, HostPattern, Kind, ObjectRef, ServerName, TlsTreatment};
use sluicegate_route::{BackendSlot, CompiledRoute, Outcome, RouteId, RouteTable, Target};
use std::sync::Arc;
use support::{backend_id, exact, host, pattern, prefix, remove_backend, route, set_backend, table};

fn found(table: &RouteTable) -> (RouteId, &CompiledRoute) {
    let Outcome::Route(id) = table.find(b"web.test", b"/") else { panic!("it is routed") };
    (id, table.route(id))
}

fn slot(table: &RouteTable) -> BackendSlot {
    let (_, route) = found(table);
    let Target::Forward(slot) = route.target else { panic!("it forwards") };
    slot
}

fn web() -> RouteTable {
    table([host("web.test", Dialect::Strict, vec![route(prefix("/"), "web")], None)])
}

fn without_host() -> Diff {
    Diff { routes: [(pattern("web.test"), Change::Remove)].into(), ..Diff::default() }
}

#[test]
fn new_endpoints_compile_no_host() {
    let before = web();
    let after = before.with(&set_backend("web", 81));
    assert!(std::ptr::eq(before.host_of(found(&before).0), after.host_of(found(&after).0)));
    assert_eq!(slot(&before), slot(&after));
    let (old, new) = (before.backend(slot(&before)), after.backend(slot(&after)));
    let (old, new) = (old.expect("it is there"), new.expect("it is there"));
    assert_eq!(old.incarnation, new.incarnation);
    assert_ne!(old.version, new.version);
    assert_eq!(old.backend.external, Some(("backend.test".into(), 80)), "the older table is untouched");
    assert_eq!(new.backend.external, Some(("backend.test".into(), 81)));
}

#[test]
fn same_backend_again_is_no_change() {
    let first = support::backend("web", 81);
    let set = || Diff { backends: [(backend_id("web"), Change::Set(Arc::clone(&first)))].into(), ..Diff::default() };
    let before = web().with(&set());
    let after = before.with(&set());
    assert_eq!(before.backend(slot(&before)), after.backend(slot(&after)));
}

#[test]
fn removed_backend_leaves_its_slot_to_itself() {
    let before = web();
    let gone = before.with(&remove_backend("web"));
    assert!(gone.backend(slot(&gone)).is_none());
    assert_eq!(gone.backend_slot(&backend_id("web")), Some(slot(&before)), "a route still refers to it");
    assert_eq!(gone.backend_id(slot(&gone)), Some(&backend_id("web")));
    let crowded = gone.with(&set_backend("other", 80));
    assert!(crowded.backend(slot(&crowded)).is_none(), "no other backend moves in");
    let back = crowded.with(&set_backend("web", 80));
    assert_eq!(slot(&back), slot(&before));
    let incarnation = |table: &RouteTable| table.backend(slot(table)).map(|slotted| slotted.incarnation);
    assert_ne!(incarnation(&back), incarnation(&before), "what was kept for the first is not for the second");
}

#[test]
fn slot_is_free_when_nothing_needs_it() {
    let table = web();
    let slot_of_web = slot(&table);
    let unused = table.with(&without_host());
    assert_eq!(unused.backend_slot(&backend_id("web")), Some(slot_of_web), "it exists though nothing refers to it");
    let incarnation = unused.backend(slot_of_web).map(|slotted| slotted.incarnation);
    let free = unused.with(&remove_backend("web"));
    assert_eq!(free.backend_slot(&backend_id("web")), None);
    assert_eq!(free.backends().count(), 0);
    let reused = free.with(&set_backend("other", 80));
    assert_eq!(reused.backend_slot(&backend_id("other")), Some(slot_of_web));
    assert_ne!(reused.backend(slot_of_web).map(|slotted| slotted.incarnation), incarnation);
}

#[test]
fn route_and_backend_may_go_in_either_order_or_together() {
    let host_first = web().with(&without_host()).with(&remove_backend("web"));
    let backend_first = web().with(&remove_backend("web")).with(&without_host());
    let together = web().with(&Diff { backends: remove_backend("web").backends, ..without_host() });
    for table in [host_first, backend_first, together] {
        assert_eq!(table.backend_slot(&backend_id("web")), None);
        assert_eq!(table.find(b"web.test", b"/"), Outcome::NoHost);
    }
}

#[test]
fn denied_routes_reach_no_backend() {
    let mut denied = route(exact("/"), "denied");
    denied.action = Action::Deny("auth-url is not implemented".into());
    let table = table([host("web.test", Dialect::Strict, vec![denied], None)]);
    assert_eq!(found(&table).1.target, Target::Deny("auth-url is not implemented".into()));
    assert_eq!(table.backends().count(), 0);
    assert!(table.explain(b"web.test", b"/").to_string().contains("deny 503: auth-url is not implemented"));
}

#[test]
fn server_names_are_exact_then_one_label_then_none() {
    let named = |text: &str| {
        let origin = ObjectRef::new(Kind::Ingress, "default", text);
        let name = ServerName { treatment: TlsTreatment::DefaultCertificate, origin };
        (pattern(text), Change::Set(Arc::new(name)))
    };
    let table = RouteTable::empty()
        .with(&Diff { server_names: [named("a.test"), named("*.test"), named("*.b.test")].into(), ..Diff::default() });
    let of = |table: &RouteTable, sni: &str| table.server_name(sni).map(|name| name.origin.name.to_string());
    let cases = [
        ("a.test", Some("a.test")),
        ("A.Test.", Some("a.test")),
        ("b.test", Some("*.test")),
        ("x.b.test", Some("*.b.test")),
        ("x.a.test", None),
        ("test", None),
        ("", None),
    ];
    for (sni, expected) in cases {
        assert_eq!(of(&table, sni).as_deref(), expected, "{sni}");
    }
    let changes = [(pattern("a.test"), Change::Remove), (HostPattern::Any, named("").1)];
    let table = table.with(&Diff { server_names: changes.into(), ..Diff::default() });
    assert_eq!(of(&table, "a.test").as_deref(), Some("*.test"));
    assert_eq!(of(&table, "x.a.test").as_deref(), Some(""));
}

#[test]
fn explanation_is_an_aligned_table() {
    let routes =
        vec![route(exact("/foo"), "exact"), route(prefix("/foo"), "prefix"), route(prefix("/foobar"), "longer")];
    let table = table([
        host("web.test", Dialect::Strict, routes, None),
        host("*.test", Dialect::Strict, vec![route(prefix("/"), "wild")], None),
        host("", Dialect::Strict, Vec::new(), Some(route(prefix("/"), "default"))),
    ]);
    let text = table.explain(b"WEB.test:80", b"/x/../foo").to_string();
    let expected = "\
host      WEB.test:80
claimed   by web.test (strict dialect)
path      /x/../foo
compared  /foo
result    default/exact:80 by Ingress default/test exact

    HOST      PATH        TARGET              RULE                          BECAUSE
->  web.test  =/foo       default/exact:80    Ingress default/test exact    takes the request
    web.test  /foobar     default/longer:80   Ingress default/test longer   the path does not match
    web.test  /foo        default/prefix:80   Ingress default/test prefix   =/foo comes before it: an exact match comes before any prefix
    *.test    /           default/wild:80     Ingress default/test wild     web.test claims the host as a whole
    *         (fallback)  default/default:80  Ingress default/test default  is only for what no route takes
";
    assert_eq!(text, expected);
    let json = serde_json::to_value(table.explain(b"web.test", b"/foob")).expect("it is plain data");
    assert_eq!(json["candidates"][2]["reason"]["code"], "path_differs");
    assert_eq!(json["candidates"][2]["reason"]["hint"], "it ends inside an element of the path");
    assert_eq!(json["result"], "default/default:80 by Ingress default/test default");
}
