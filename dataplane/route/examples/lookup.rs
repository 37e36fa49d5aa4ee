//! Times the routing table: `cargo run --release -p sluicegate-route --example lookup`.
//!
//! Queries come in random order. Each figure is the first decile over rounds of 1,000 on one thread, so that
//! what else the machine does counts little, less what writing the queries takes.

use sluicegate_config::{
    Action, Backend, BackendId, Balance, Change, Dialect, Diff, HostPattern, Kind, Matching, ObjectRef, PathMatch,
    Policy, PortRef, Route, RuleRef, UpstreamProtocol, VirtualHost,
};
use sluicegate_route::{Outcome, RouteTable, rewrite};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

const ROUND: usize = 1_000;
const ROUNDS: usize = 500;

fn main() {
    println!("{:<52} {:>10}", "find", "ns");
    for hosts in [1, 5_000, 20_000] {
        let table = table(&state(hosts, |_| prefixes(1)));
        let path = |_, path: &mut Query| _ = path.text("/index.html");
        print("1 path, hosts", hosts, time_find(&table, hosts, path));
    }
    for paths in [8, 9, 100, 5_000] {
        let table = table(&state(1, |_| prefixes(paths)));
        let path = |n: usize, path: &mut Query| {
            path.text("/team-").number(n % paths % 7).text("/service/").number(n % paths).text("/item");
        };
        print("1 host, Prefix paths", paths, time_find(&table, 1, path));
    }
    let three = table(&state(20_000, |_| prefixes(3)));
    let clean = |n: usize, path: &mut Query| {
        path.text("/team-").number(n % 3).text("/service/").number(n % 3).text("/item");
    };
    print("3 paths, hosts", 20_000, time_find(&three, 20_000, clean));
    let dirty = |n: usize, path: &mut Query| {
        path.text("/team-").number(n % 3).text("/./service/%7e/").number(n % 3);
    };
    print("3 paths, path not in normal form, hosts", 20_000, time_find(&three, 20_000, dirty));
    regexes();
    changes();
}

fn table(state: &Diff) -> RouteTable {
    RouteTable::empty_with_seed(7).with(state)
}

fn regexes() {
    for (name, pattern) in [("idiom", "/svc-N(/|$)(.*)"), ("automaton", "/svc-N/[a-z]+/(\\d+)")] {
        for paths in [1, 8, 100, 5_000] {
            let table = table(&state(1, |_| patterns(paths, pattern)));
            let path = |n: usize, path: &mut Query| {
                path.text("/svc-").number(n % paths).text("/items/").number(n % 1_000);
            };
            print(&format!("1 host, regular expressions ({name})"), paths, time_find(&table, 1, path));
        }
    }
    let table = table(&state(1, |_| patterns(1, "/svc-N(/|$)(.*)")));
    let Outcome::Route(id) = table.find(b"host-0.example.test", b"/svc-0/items") else { return };
    let mut out = Vec::with_capacity(256);
    let time = decile(ROUNDS, || {
        for _ in 0..ROUND {
            out.clear();
            black_box(rewrite(table.route(id), black_box(b"/svc-0/items/17/details"), Some(b"a=1"), &mut out));
        }
    });
    println!("{:<52} {:>10.1}", "rewrite /svc-0(/|$)(.*) to /$2", time / ROUND as f64);
}

fn changes() {
    println!("\n{:<52} {:>10}", "with, 20,000 hosts on 20,000 backends", "us");
    let first = state(20_000, |_| prefixes(3));
    let started = Instant::now();
    let table = RouteTable::empty_with_seed(7).with(&first);
    println!("{:<52} {:>10.0}", "first load", started.elapsed().as_secs_f64() * 1e6);
    let mut n = 0;
    let mut step = |change: &mut dyn FnMut(usize) -> Diff| {
        let mut times: Vec<f64> = (0..200)
            .map(|_| {
                n = (n + 7_919) % 20_000;
                let diff = change(n);
                let started = Instant::now();
                let next = table.with(&diff);
                let time = started.elapsed().as_secs_f64() * 1e6;
                drop(black_box(next));
                time
            })
            .collect();
        times.sort_by(f64::total_cmp);
        times[100]
    };
    let replace = step(&mut |n| only_host(n, Change::Set(virtual_host(n, prefixes(3)))));
    println!("{:<52} {replace:>10.1}", "replace a host");
    let add = step(&mut |n| only_host(n + 50_000, Change::Set(virtual_host(n, prefixes(3)))));
    println!("{:<52} {add:>10.1}", "add a host");
    let remove = step(&mut |n| only_host(n, Change::Remove));
    println!("{:<52} {remove:>10.1}", "remove a host");
    let endpoints =
        step(&mut |n| Diff { backends: [(backend_id(n), Change::Set(backend(n)))].into(), ..Diff::default() });
    println!("{:<52} {endpoints:>10.1}", "replace a backend's endpoints");
}

fn print(what: &str, count: usize, ns: f64) {
    println!("{:<52} {ns:>10.1}", format!("{what} = {count}"));
}

/// Nanoseconds per look-up.
fn time_find(table: &RouteTable, hosts: usize, path: impl Fn(usize, &mut Query)) -> f64 {
    let mut random = 1_u64;
    let mut next = || {
        // A generator of full period stands in for randomness.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize
    };
    let mut run = |find: bool| {
        decile(ROUNDS, || {
            for _ in 0..ROUND {
                let n = next();
                let mut host = Query::default();
                host.text("host-").number(n % hosts).text(".example.test");
                let mut target = Query::default();
                path(n, &mut target);
                let (host, target) = (black_box(host), black_box(target));
                if find {
                    let outcome = table.find(host.bytes(), target.bytes());
                    assert!(matches!(outcome, Outcome::Route(_)), "{:?}", std::str::from_utf8(target.bytes()));
                }
            }
        })
    };
    (run(true) - run(false)) / ROUND as f64
}

/// First decile of the nanoseconds that a call takes.
fn decile(rounds: usize, mut call: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let started = Instant::now();
            call();
            started.elapsed().as_secs_f64() * 1e9
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[rounds / 10]
}

/// Text on the stack, written as fast as can be.
struct Query {
    bytes: [u8; 48],
    len: usize,
}

impl Default for Query {
    fn default() -> Self {
        Self { bytes: [0; 48], len: 0 }
    }
}

impl Query {
    fn text(&mut self, text: &str) -> &mut Self {
        self.bytes[self.len..self.len + text.len()].copy_from_slice(text.as_bytes());
        self.len += text.len();
        self
    }

    fn number(&mut self, number: usize) -> &mut Self {
        if number >= 10 {
            self.number(number / 10);
        }
        self.bytes[self.len] = b'0' + (number % 10) as u8;
        self.len += 1;
        self
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

fn prefixes(count: usize) -> Vec<PathMatch> {
    let many = (1..count).map(|n| PathMatch::Prefix(format!("/team-{}/service/{n}", n % 7).into()));
    many.chain([PathMatch::Prefix("/".into())]).collect()
}

fn patterns(count: usize, pattern: &str) -> Vec<PathMatch> {
    (0..count).map(|n| PathMatch::Regex(pattern.replace('N', &n.to_string()).into())).collect()
}

fn state(hosts: usize, paths: impl Fn(usize) -> Vec<PathMatch>) -> Diff {
    let mut diff = Diff::default();
    for n in 0..hosts {
        diff.routes.insert(pattern(n), Change::Set(virtual_host(n, paths(n))));
        diff.backends.insert(backend_id(n), Change::Set(backend(n)));
    }
    diff
}

fn only_host(n: usize, change: Change<VirtualHost>) -> Diff {
    Diff { routes: [(pattern(n), change)].into(), ..Diff::default() }
}

fn pattern(n: usize) -> HostPattern {
    HostPattern::parse(&format!("host-{n}.example.test")).expect("a host name")
}

fn virtual_host(n: usize, paths: Vec<PathMatch>) -> Arc<VirtualHost> {
    let regex = matches!(paths.first(), Some(PathMatch::Regex(_)));
    let ingress = ObjectRef::new(Kind::Ingress, "default", format!("web-{n}"));
    let policy = Policy { rewrite: Some(sluicegate_config::Rewrite { target: "/$2".into() }), ..Policy::default() };
    let policy = if regex { Arc::new(policy) } else { Arc::default() };
    let route = |path| Route {
        path,
        action: Action::Forward(backend_id(n)),
        policy: Arc::clone(&policy),
        origin: RuleRef { ingress: ingress.clone(), field: "spec.rules[0].http.paths[0]".into() },
    };
    Arc::new(VirtualHost {
        host: pattern(n),
        dialect: if regex { Dialect::Nginx } else { Dialect::Strict },
        matching: if regex { Matching::FirstRegex } else { Matching::LongestPath },
        routes: paths.into_iter().map(route).collect(),
        fallback: None,
    })
}

fn backend_id(n: usize) -> BackendId {
    BackendId {
        namespace: "default".into(),
        service: format!("web-{n}").into(),
        port: PortRef::Number(80),
        protocol: None,
        balance: Balance::RoundRobin,
    }
}

fn backend(n: usize) -> Arc<Backend> {
    let protocol = UpstreamProtocol::Http1;
    let endpoints = Vec::new();
    Arc::new(Backend { id: backend_id(n), protocol, endpoints, external: None, unavailable: None })
}
