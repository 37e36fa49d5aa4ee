//! The table against a naive model, an incremental table against one built from scratch, `explain` against `find`, and
//! arbitrary bytes.

mod support;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use sluicegate_config::{
    Desired, Dialect, Kind, Matching, ObjectRef, PathMatch, Route, ServerName, StreamListener, TlsTreatment,
    VirtualHost, diff,
};
use sluicegate_route::{Outcome, Reason, RouteTable, Target, rewrite};
use std::collections::BTreeMap;
use std::sync::Arc;
use support::{answer, backend, backend_id, desired, model, name, pattern, regex, route, table, table_of};

/// Elements that meet, differ by case, escape, slash or dots.
const ELEMENTS: [&str; 20] = [
    "a",
    "A",
    "ab",
    "b",
    "foo",
    "FOO",
    "%66oo",
    "%46",
    "%2F",
    "%2f",
    "a%2Fb",
    "..",
    ".",
    "",
    "%2e%2E",
    ".a",
    "caf%C3%A9",
    "caf\u{e9}",
    "a b",
    "%",
];

const PATTERNS: [&str; 30] = [
    "/a",
    "/a(/|$)(.*)",
    "/a/(.*)",
    "/ab/?(.*)",
    "/",
    "/.*",
    "/(.*)",
    "/foo$",
    "^/foo",
    "/foo/b(/|$)",
    "/[ab]/x*",
    "/a|/b",
    "/(a|foo)/([^/]+)",
    "/f..",
    "/[^/]+/ab?",
    "/FOO/[a-z]*",
    "/\\w+/b",
    "/a{2}",
    "/b+",
    "/(foo|b).*/a",
    "/x*",
    "/./a",
    "/..",
    "/[f]oo",
    "/a.b",
    "/c?a",
    "/[^a]",
    "/foo/[a]",
    "/(b)/",
    "/%2F[a]",
];

const HOSTS: [&str; 9] =
    ["a.test", "b.test", "a.b.test", "b.b.test", "*.test", "*.b.test", "*.a.b.test", "192.0.2.1", ""];

const AUTHORITIES: [&str; 20] = [
    "a.test",
    "A.TEST",
    "a.test.",
    "a.test:80",
    "a.test.:80",
    "b.test",
    "c.test",
    "a.b.test",
    "B.b.Test:1",
    "c.b.test",
    "x.a.b.test",
    "x.y.b.test",
    "test",
    ".test",
    "192.0.2.1:8080",
    "",
    ":80",
    "a..test",
    "a.test:x",
    "other",
];

fn path() -> impl Strategy<Value = String> {
    vec(prop::sample::select(&ELEMENTS[..]), 0..5).prop_map(|elements| format!("/{}", elements.join("/")))
}

fn literal() -> impl Strategy<Value = PathMatch> {
    (0..3, path()).prop_map(|(kind, path)| match kind {
        0 => PathMatch::Exact(path.into()),
        1 => PathMatch::Prefix(path.into()),
        _ => PathMatch::StringPrefix(path.into()),
    })
}

fn conditions() -> impl Strategy<Value = (Matching, Vec<PathMatch>)> {
    let literals = prop_oneof![vec(literal(), 0..6), vec(literal(), 6..40)];
    let patterns = prop::sample::subsequence(&PATTERNS[..], 0..=PATTERNS.len())
        .prop_shuffle()
        .prop_map(|patterns| patterns.into_iter().map(regex).collect());
    prop_oneof![
        3 => literals.prop_map(|paths| (Matching::LongestPath, paths)),
        1 => patterns.prop_map(|paths| (Matching::FirstRegex, paths)),
    ]
}

fn dialect() -> impl Strategy<Value = Dialect> {
    prop_oneof![Just(Dialect::Strict), Just(Dialect::Nginx)]
}

/// A host whose routes are named after it and their place.
fn virtual_host(name: &'static str) -> impl Strategy<Value = VirtualHost> {
    (dialect(), conditions(), any::<bool>()).prop_map(move |(dialect, (matching, paths), has_fallback)| {
        let named = |at: usize, path| route(path, &format!("{name}-{at}"));
        // "Without duplicates" is what translation promises.
        let mut seen = Vec::new();
        let paths = paths.into_iter().filter(|path| {
            !seen.contains(path) && {
                seen.push(path.clone());
                true
            }
        });
        let routes = paths.enumerate().map(|(at, path)| named(at, path)).collect();
        let fallback = has_fallback.then(|| named(999, PathMatch::Prefix("/".into())));
        VirtualHost { host: pattern(name), dialect, matching, routes, fallback }
    })
}

fn hosts() -> impl Strategy<Value = Vec<VirtualHost>> {
    prop::sample::subsequence(&HOSTS[..], 0..=HOSTS.len())
        .prop_flat_map(|names| names.into_iter().map(virtual_host).collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn answers_as_the_model(hosts in hosts(), paths in vec(path(), 12)) {
        let table = table(hosts.clone());
        let hosts: Vec<&VirtualHost> = hosts.iter().collect();
        for authority in AUTHORITIES {
            for path in &paths {
                let expected = model::answer(&hosts, authority, path.as_bytes());
                // Routes whose normal forms are the same tie; the model and the table list them alike.
                prop_assert_eq!(answer(&table, authority.as_bytes(), path.as_bytes()), expected, "{}{}", authority, path);
            }
        }
    }

    #[test]
    fn explains_what_it_finds(hosts in hosts(), paths in vec(path(), 6)) {
        let table = table(hosts.clone());
        for authority in AUTHORITIES {
            for path in &paths {
                let found = table.find(authority.as_bytes(), path.as_bytes());
                let explained = table.explain(authority.as_bytes(), path.as_bytes());
                prop_assert_eq!(explained.outcome, found, "{}", explained);
                let winners: Vec<_> = explained.candidates.iter().filter(|c| c.reason == Reason::Won).collect();
                match found {
                    Outcome::Route(id) => {
                        prop_assert_eq!(winners.len(), 1, "{}", explained);
                        prop_assert_eq!(&winners[0].origin, &table.route(id).origin, "{}", explained);
                    }
                    Outcome::NoHost | Outcome::NoPath | Outcome::BadPath => prop_assert!(winners.is_empty(), "{}", explained),
                }
                // Who was beaten by precedence wins where the winner is gone.
                for candidate in &explained.candidates {
                    if let Reason::Beaten { .. } = candidate.reason {
                        let owner = explained.claimed_by.as_ref();
                        let alone = hosts.iter().filter(|host| Some(&host.host) == owner).map(|host| {
                            let own = |route: &&Route| route.origin == candidate.origin;
                            VirtualHost { routes: host.routes.iter().filter(own).cloned().collect(), ..host.clone() }
                        });
                        let alone = support::table(alone.collect::<Vec<_>>());
                        let expected = candidate.origin.field.to_string();
                        prop_assert_eq!(answer(&alone, authority.as_bytes(), path.as_bytes()), expected, "{}", explained);
                    }
                }
            }
        }
    }

    #[test]
    fn takes_any_bytes(
        hosts in hosts(),
        odd in vec((any::<PathMatchText>(), option::of(".{0,12}")), 0..12),
        authority in vec(any::<u8>(), 0..300),
        raw in vec(prop_oneof![Just(b'/'), Just(b'.'), Just(b'%'), any::<u8>()], 0..300),
    ) {
        let routes = odd.into_iter().map(|(path, target)| support::rewriting(path.0, target.as_deref().unwrap_or_default()));
        let odd = VirtualHost { routes: routes.collect(), ..support::host("", Dialect::Nginx, Vec::new(), None) };
        let table = table(hosts.into_iter().filter(|host| host.host != odd.host).chain([odd.clone()]));
        let path: Vec<u8> = [b"/", raw.as_slice()].concat();
        for path in [raw.as_slice(), path.as_slice()] {
            let found = table.find(&authority, path);
            let explained = table.explain(&authority, path);
            prop_assert_eq!(explained.outcome, found);
            prop_assert!(serde_json::to_string(&explained).is_ok());
            if let Outcome::Route(id) = found {
                let mut out = Vec::new();
                if rewrite(table.route(id), path, Some(b"q"), &mut out) {
                    prop_assert!(out.starts_with(b"/"));
                    prop_assert!(out.iter().all(|byte| byte.is_ascii_graphic()), "{:?}", String::from_utf8_lossy(&out));
                }
            }
        }
        let _ = table.server_name(&String::from_utf8_lossy(&authority));
    }

    #[test]
    fn idioms_match_as_regular_expressions(at in 0..PATTERNS.len(), elements in vec("[aAbBfFoO/.x\u{e9}\n-]{0,4}", 0..5)) {
        let path = format!("/{}", elements.join("/"));
        let raw: String = path.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>().replacen("%2f", "/", 1);
        let text = PATTERNS[at];
        let host = VirtualHost {
            routes: vec![support::rewriting(regex(text), "/<$1|$2>")],
            ..support::host("a.test", Dialect::Nginx, vec![route(regex(text), "x")], None)
        };
        let table = table([host]);
        let found = table.find(b"a.test", raw.as_bytes());
        let Some(normal) = model::normal(Dialect::Nginx, raw.as_bytes()) else {
            prop_assert_eq!(found, Outcome::BadPath);
            return Ok(());
        };
        let mut pattern = regex::bytes::RegexBuilder::new(&format!("^(?:{text})"));
        let pattern = pattern.case_insensitive(true).unicode(false).build().expect("a pattern");
        let Some(groups) = pattern.captures(&normal) else {
            prop_assert_eq!(found, Outcome::NoPath);
            return Ok(());
        };
        let Outcome::Route(id) = found else { return Err(TestCaseError::fail(format!("{text} takes {path:?}"))) };
        let group = |at| groups.get(at).map(|group| group.as_bytes()).unwrap_or_default();
        let expected = [b"/<", group(1), b"|", group(2), b">"].concat();
        let mut out = Vec::new();
        prop_assert!(rewrite(table.route(id), raw.as_bytes(), None, &mut out));
        let decoded = percent_decode(&out);
        prop_assert_eq!(String::from_utf8_lossy(&decoded), String::from_utf8_lossy(&expected), "{} {:?}", text, path);
    }
}

fn percent_decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        if *byte == b'%' {
            let digits: String = bytes.by_ref().take(2).map(|digit| char::from(*digit)).collect();
            out.push(u8::from_str_radix(&digits, 16).expect("an escape"));
        } else {
            out.push(*byte);
        }
    }
    out
}

#[derive(Clone, Debug)]
struct PathMatchText(PathMatch);

impl Arbitrary for PathMatchText {
    type Parameters = ();
    type Strategy = BoxedStrategy<Self>;

    fn arbitrary_with((): ()) -> Self::Strategy {
        let text = prop_oneof![".{0,10}", "/[a-c().*+?|\\\\\\[\\]{}%/]{0,10}"];
        (0..4, text)
            .prop_map(|(kind, text)| {
                Self(match kind {
                    0 => PathMatch::Exact(text.into()),
                    1 => PathMatch::Prefix(text.into()),
                    2 => PathMatch::StringPrefix(text.into()),
                    _ => PathMatch::Regex(text.into()),
                })
            })
            .boxed()
    }
}

/// Dialect, paths with their services, and the fallback's service.
type HostShape = (Dialect, Vec<(PathMatch, &'static str)>, Option<&'static str>);

/// A state over few names, so that things come, change and go.
fn state() -> impl Strategy<Value = Desired> {
    let services = ["s0", "s1", "s2", "s3", "s4", "s5"];
    let some_host = |names: Vec<&'static str>| {
        let paths = || vec((literal(), prop::sample::select(services.to_vec())), 0..12);
        let one = (dialect(), paths(), option::of(prop::sample::select(services.to_vec())));
        btree_map(prop::sample::select(names), one, 0..6)
    };
    let server_names = btree_map(prop::sample::select(HOSTS.to_vec()), 0..3_u8, 0..5);
    let backends = btree_map(prop::sample::select(services.to_vec()), 1..4_u16, 0..6);
    let listeners = btree_map(1..6_u16, prop::sample::select(services.to_vec()), 0..4);
    (some_host(HOSTS.to_vec()), backends, server_names, listeners).prop_map(|(hosts, backends, names, listeners)| {
        let host = |(name, (dialect, paths, fallback)): (&str, HostShape)| {
            let mut routes: Vec<Route> = Vec::new();
            for (path, service) in paths {
                if routes.iter().all(|route| route.path != path) {
                    routes.push(route(path, service));
                }
            }
            support::host(name, dialect, routes, fallback.map(|service| route(PathMatch::Prefix("/".into()), service)))
        };
        let mut state = desired(hosts.into_iter().map(host));
        for (service, port) in backends {
            state.backends.insert(backend_id(service), backend(service, port));
        }
        let ingress = |name: u8| ObjectRef::new(Kind::Ingress, "default", format!("web-{name}"));
        for (name, version) in names {
            let treatment = TlsTreatment::DefaultCertificate;
            state.server_names.insert(pattern(name), Arc::new(ServerName { treatment, origin: ingress(version) }));
        }
        for (port, service) in listeners {
            let (accept_proxy_protocol, send_proxy_protocol) = (false, true);
            let origin = ObjectRef::new(Kind::ConfigMap, "default", "tcp");
            let backend = backend_id(service);
            let listener = StreamListener { port, backend, accept_proxy_protocol, send_proxy_protocol, origin };
            state.listeners.insert(port, Arc::new(listener));
        }
        state
    })
}

/// Everything that a table answers, without the numbers that may differ.
fn answers(table: &RouteTable, paths: &[String]) -> Vec<String> {
    let mut answers = Vec::new();
    for authority in AUTHORITIES {
        for path in paths {
            let found = table.find(authority.as_bytes(), path.as_bytes());
            let mut line = format!("{authority} {path}: {}", name(table, found));
            if let Outcome::Route(id) = found {
                let route = table.route(id);
                line += &format!(" {} of {}", route.path, table.host_of(id).pattern());
                if let Target::Forward(slot) = route.target {
                    line += &format!(" {:?}", table.backend(slot).map(|slotted| &slotted.backend));
                }
            }
            answers.push(line);
        }
        answers.push(format!("{authority}: {:?}", table.server_name(authority)));
    }
    let mut backends: Vec<String> = table.backends().map(|slotted| format!("{:?}", slotted.backend)).collect();
    backends.sort();
    answers.extend(backends);
    answers.extend(table.hosts().map(|host| format!("{} {} {}", host.pattern(), host.dialect(), host.routes().len())));
    answers.extend(table.listeners().map(|listener| format!("{listener:?}")));
    answers.extend((0..8).map(|port| format!("{port} {:?}", table.listener(port))));
    answers
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn changes_lead_where_a_fresh_start_leads(states in vec(state(), 1..8), paths in vec(path(), 6)) {
        let mut current = Desired::default();
        let mut table = RouteTable::empty_with_seed(1);
        // Whom each incarnation was given to, and what each version stood for.
        let mut incarnations = BTreeMap::new();
        let mut versions = BTreeMap::new();
        for next in states {
            let change = diff(&current, &next);
            let before = answers(&table, &paths);
            let after = table.with(&change);
            prop_assert_eq!(answers(&table, &paths), before, "the older table stays as it is");
            prop_assert_eq!(answers(&after, &paths), answers(&table_of(&next), &paths));
            for slotted in after.backends() {
                let id = slotted.backend.id.clone();
                prop_assert_eq!(after.backend_slot(&id).map(|slot| slot.index()), Some(slotted.slot as usize));
                let owner = (id.clone(), slotted.slot);
                prop_assert_eq!(incarnations.entry(slotted.incarnation).or_insert_with(|| owner.clone()), &owner);
                let was = versions.entry(slotted.version).or_insert_with(|| Arc::clone(&slotted.backend));
                prop_assert_eq!(was, &slotted.backend);
                // A backend that was there and stayed keeps its slot and incarnation; its version tells of a change.
                if let Some(old) = table.backend_slot(&id).and_then(|slot| table.backend(slot)) {
                    prop_assert_eq!((old.slot, old.incarnation), (slotted.slot, slotted.incarnation));
                    prop_assert_eq!(old.version == slotted.version, old.backend == slotted.backend);
                }
            }
            // What did not change is the same memory.
            for (pattern, host) in &next.routes {
                let same = current.routes.get(pattern) == Some(host);
                let place = |table: &RouteTable| {
                    table.hosts().find(|host| host.pattern() == pattern).map(std::ptr::from_ref)
                };
                prop_assert_eq!(same, place(&table) == place(&after));
            }
            (current, table) = (next, after);
        }
        // Nothing is left where everything went.
        let empty = table.with(&diff(&current, &Desired::default()));
        prop_assert_eq!(answers(&empty, &paths), answers(&RouteTable::empty(), &paths));
        prop_assert!(current.backends.keys().all(|id| empty.backend_slot(id).is_none()), "slots are free again");
    }
}
