//! The rows of the Ingress conformance suite, of the specification and of ingress-nginx's behaviour as tables.

mod support;

use sluicegate_config::{Dialect, Route, VirtualHost};
use support::{answer, append_slash, exact, host, prefix, regex, route, string_prefix, table};

/// Hosts, and what requests to them must get.
struct Case {
    row: &'static str,
    hosts: Vec<VirtualHost>,
    requests: Vec<(&'static str, &'static str, &'static str)>,
}

fn check(cases: Vec<Case>) {
    for case in cases {
        let table = table(case.hosts.clone());
        for (host, path, expected) in case.requests {
            let row = case.row;
            assert_eq!(answer(&table, host.as_bytes(), path.as_bytes()), expected, "{row}: {host}{path}");
            let explained = table.explain(host.as_bytes(), path.as_bytes());
            assert_eq!(explained.outcome, table.find(host.as_bytes(), path.as_bytes()), "{row}: {explained}");
        }
    }
}

fn strict(name: &str, routes: Vec<Route>) -> VirtualHost {
    host(name, Dialect::Strict, routes, None)
}

fn nginx(name: &str, routes: Vec<Route>) -> VirtualHost {
    host(name, Dialect::Nginx, routes, None)
}

/// Path conditions named after themselves, and what `web.test` answers to paths.
fn paths(
    row: &'static str,
    conditions: &[sluicegate_config::PathMatch],
    requests: &[(&'static str, &'static str)],
) -> Case {
    let routes = conditions.iter().map(|path| route(path.clone(), &path.to_string())).collect();
    let requests = requests.iter().map(|(path, expected)| ("web.test", *path, *expected)).collect();
    Case { row, hosts: vec![strict("web.test", routes)], requests }
}

#[test]
fn conformance_path_rules() {
    check(vec![
        paths(
            "PR1-4",
            &[exact("/foo")],
            &[("/foo", "=/foo"), ("/foo/", "NoPath"), ("/FOO", "NoPath"), ("/bar", "NoPath")],
        ),
        paths(
            "PR5-11",
            &[prefix("/foo"), prefix("/aaa/bbb"), prefix("/aaa")],
            &[
                ("/foo", "/foo"),
                ("/foo/", "/foo"),
                ("/FOO", "NoPath"),
                ("/aaa/bbb", "/aaa/bbb"),
                ("/aaa/bbb/ccc", "/aaa/bbb"),
                ("/aaa/ccc", "/aaa"),
                ("/aaaccc", "NoPath"),
            ],
        ),
        paths("PR12", &[prefix("/foo"), exact("/foo")], &[("/foo", "=/foo"), ("/foo/", "/foo")]),
        paths(
            "PR13-15",
            &[prefix("/aaa/bbb/"), exact("/foo/")],
            &[("/aaa/bbb", "/aaa/bbb/"), ("/aaa/bbb/", "/aaa/bbb/"), ("/foo", "NoPath"), ("/foo/", "=/foo/")],
        ),
    ]);
}

#[test]
fn upstream_path_examples() {
    check(vec![
        paths("S1 all", &[prefix("/")], &[("/", "/"), ("/any/path", "/"), ("", "/")]),
        paths("S1 empty", &[prefix("")], &[("/", ""), ("/any/path", "")]),
        paths("S1 Exact /foo", &[exact("/foo")], &[("/foo", "=/foo"), ("/bar", "NoPath"), ("/foo/", "NoPath")]),
        paths("S1 Exact /foo/", &[exact("/foo/")], &[("/foo", "NoPath")]),
        paths("S1 Prefix /foo", &[prefix("/foo")], &[("/foo", "/foo"), ("/foo/", "/foo")]),
        paths("S1 Prefix /foo/", &[prefix("/foo/")], &[("/foo", "/foo/"), ("/foo/", "/foo/")]),
        paths("S1 /aaa/bb", &[prefix("/aaa/bb")], &[("/aaa/bbb", "NoPath")]),
        paths(
            "S1 /aaa/bbb",
            &[prefix("/aaa/bbb")],
            &[
                ("/aaa/bbb", "/aaa/bbb"),
                ("/aaa/bbb/", "/aaa/bbb"),
                ("/aaa/bbb/ccc", "/aaa/bbb"),
                ("/aaa/bbbxyz", "NoPath"),
            ],
        ),
        paths("S1 /aaa/bbb/", &[prefix("/aaa/bbb/")], &[("/aaa/bbb", "/aaa/bbb/"), ("/aaa/bbb/", "/aaa/bbb/")]),
        paths("S1 /, /aaa", &[prefix("/"), prefix("/aaa")], &[("/aaa/ccc", "/aaa"), ("/ccc", "/")]),
        paths(
            "S1 /, /aaa, /aaa/bbb",
            &[prefix("/"), prefix("/aaa"), prefix("/aaa/bbb")],
            &[("/aaa/bbb", "/aaa/bbb"), ("/ccc", "/")],
        ),
        paths("S1 uses default", &[prefix("/aaa")], &[("/ccc", "NoPath")]),
        paths("S1 mixed", &[prefix("/foo"), exact("/foo")], &[("/foo", "=/foo")]),
        paths(
            "S2 three ways",
            &[string_prefix("/foo"), prefix("/foo"), exact("/foo"), string_prefix("/foob"), prefix("/foo/")],
            &[
                ("/foo", "=/foo"),
                ("/foo/", "/foo/"),
                ("/foo/x", "/foo/"),
                ("/fooa", "/foo*"),
                ("/foobar", "/foob*"),
                ("/fo", "NoPath"),
            ],
        ),
        paths(
            "S2 an Exact path was matched as a whole",
            &[prefix("/foo/"), exact("/foo")],
            &[("/foo", "=/foo"), ("/foo/", "/foo/")],
        ),
    ]);
}

#[test]
fn hosts() {
    let rules = || {
        vec![
            strict("*.foo.com", vec![route(prefix("/"), "wildcard-foo-com")]),
            strict("foo.bar.com", vec![route(prefix("/"), "foo-bar-com")]),
        ]
    };
    check(vec![
        Case {
            row: "HR1-6",
            hosts: rules(),
            requests: vec![
                ("foo.bar.com", "/", "foo-bar-com"),
                ("subdomain.bar.com", "/", "NoHost"),
                ("bar.foo.com", "/", "wildcard-foo-com"),
                ("baz.bar.foo.com", "/", "NoHost"),
                ("foo.com", "/", "NoHost"),
                (".foo.com", "/", "NoHost"),
            ],
        },
        Case {
            row: "S3, 6",
            hosts: rules(),
            requests: vec![
                ("FOO.Bar.com", "/", "foo-bar-com"),
                ("foo.bar.com:8080", "/", "foo-bar-com"),
                ("foo.bar.com:", "/", "foo-bar-com"),
                ("foo.bar.com.", "/", "foo-bar-com"),
                ("foo.bar.com.:443", "/", "foo-bar-com"),
                ("foo.bar.com..", "/", "NoHost"),
                ("foo.bar.com:80x", "/", "NoHost"),
                ("XN--BCHER-KVA.foo.com:443", "/", "wildcard-foo-com"),
                ("a_b-9.foo.com", "/", "wildcard-foo-com"),
                ("a@b.foo.com", "/", "NoHost"),
                ("", "/", "NoHost"),
                (":80", "/", "NoHost"),
                (".", "/", "NoHost"),
            ],
        },
        Case {
            row: "addresses",
            hosts: vec![
                strict("192.0.2.7", vec![route(prefix("/"), "v4")]),
                strict("[2001:db8::7]", vec![route(prefix("/"), "v6")]),
            ],
            requests: vec![
                ("192.0.2.7:80", "/", "v4"),
                ("[2001:DB8:0:0::7]", "/", "v6"),
                ("[2001:db8::7]:443", "/", "v6"),
                ("[2001:db8::8]", "/", "NoHost"),
                ("[2001:db8::7", "/", "NoHost"),
                ("2001:db8::7", "/", "NoHost"),
                ("[2001:db8::7]x", "/", "NoHost"),
            ],
        },
        Case {
            row: "4.1 an exact host beats a wildcard as a whole",
            hosts: vec![
                strict("*.foo.com", vec![route(prefix("/wild"), "wild")]),
                strict("a.foo.com", vec![route(prefix("/own"), "own")]),
            ],
            requests: vec![
                ("a.foo.com", "/own", "own"),
                ("a.foo.com", "/wild", "NoPath"),
                ("b.foo.com", "/wild", "wild"),
            ],
        },
    ]);
}

#[test]
fn catch_all_and_fallbacks() {
    let fallback = |name: &str| Some(route(prefix("/"), name));
    let catch_all = |dialect| host("", dialect, vec![route(prefix("/any"), "any")], fallback("default"));
    let own = |dialect, fallback| host("own.test", dialect, vec![route(prefix("/own"), "own")], fallback);
    check(vec![
        Case {
            row: "S4, S5 strict",
            hosts: vec![catch_all(Dialect::Strict), own(Dialect::Strict, None)],
            requests: vec![
                ("else.test", "/any", "any"),
                ("else.test", "/x", "default"),
                ("", "/any", "any"),
                ("own.test", "/own", "own"),
                ("own.test", "/any", "default"),
                ("own.test", "/x", "default"),
            ],
        },
        Case {
            row: "4.4 its own fallback comes first",
            hosts: vec![catch_all(Dialect::Strict), own(Dialect::Strict, fallback("own-default"))],
            requests: vec![("own.test", "/x", "own-default"), ("else.test", "/x", "default")],
        },
        Case {
            row: "4.1 nginx does not fall through",
            hosts: vec![catch_all(Dialect::Nginx), own(Dialect::Nginx, None)],
            requests: vec![("own.test", "/x", "NoPath"), ("own.test", "/any", "NoPath"), ("e.test", "/x", "default")],
        },
        Case {
            row: "S5 no default at all",
            hosts: vec![own(Dialect::Strict, None)],
            requests: vec![("own.test", "/x", "NoPath"), ("else.test", "/own", "NoHost")],
        },
    ]);
}

#[test]
fn nginx_paths() {
    let literal = |routes: Vec<Route>, requests| Case { row: "", hosts: vec![nginx("web.test", routes)], requests };
    check(vec![
        Case {
            row: "4.10, 4.11, 4.12",
            ..literal(
                vec![
                    route(prefix("/foo"), "foo"),
                    append_slash(exact("/bar"), "redirect"),
                    route(prefix("/bar/"), "bar"),
                    route(string_prefix("/img"), "img"),
                ],
                vec![
                    ("web.test", "/foo", "foo"),
                    ("web.test", "/foo/x", "foo"),
                    ("web.test", "/foobar", "NoPath"),
                    ("web.test", "/bar", "redirect"),
                    ("web.test", "/bar/", "bar"),
                    ("web.test", "/bar/x", "bar"),
                    ("web.test", "/img", "img"),
                    ("web.test", "/images", "NoPath"),
                    ("web.test", "/img-2/x", "img"),
                ],
            )
        },
        Case {
            row: "4.13, 4.14",
            ..literal(
                vec![
                    route(regex("/api"), "api"),
                    route(regex("/API/v[0-9]+"), "versioned"),
                    route(regex("/static/(?!private)"), "static"),
                    route(regex(r"/(\w)\1/"), "twice"),
                ],
                vec![
                    ("web.test", "/apix", "api"),
                    ("web.test", "/Api/V12/x", "versioned"),
                    ("web.test", "/api/vx", "api"),
                    ("web.test", "/x/api", "NoPath"),
                    ("web.test", "/static/public", "static"),
                    ("web.test", "/static/private", "NoPath"),
                    ("web.test", "/aa/", "twice"),
                    ("web.test", "/ab/", "NoPath"),
                ],
            )
        },
        Case {
            row: "4.9 the longer pattern first, then the greater text",
            ..literal(
                vec![route(regex("/a.c"), "dot"), route(regex("/abc"), "abc"), route(regex("/ab"), "ab")],
                vec![("web.test", "/abc", "abc"), ("web.test", "/axc", "dot"), ("web.test", "/abx", "ab")],
            )
        },
        Case {
            row: "4.15",
            ..literal(
                vec![route(exact("/uuid"), "uuid"), route(prefix("/a b"), "space")],
                vec![
                    ("web.test", "/x/../uuid", "uuid"),
                    ("web.test", "//uuid", "uuid"),
                    ("web.test", "/./uuid", "uuid"),
                    ("web.test", "/%2e/%75uid", "uuid"),
                    ("web.test", "/x%2F..%2fuuid", "uuid"),
                    ("web.test", "/a%20b/c", "space"),
                    ("web.test", "/uuid/..", "NoPath"),
                    ("web.test", "/../uuid", "BadPath"),
                    ("web.test", "/x/%2e%2e/%2e%2E/uuid", "BadPath"),
                    ("web.test", "/uuid%", "BadPath"),
                    ("web.test", "/uuid%0", "BadPath"),
                    ("web.test", "/uuid%zz", "BadPath"),
                    ("web.test", "/uuid%00", "BadPath"),
                    ("web.test", "/uuid\0", "BadPath"),
                ],
            )
        },
    ]);
}

#[test]
fn strict_paths_are_compared_as_rfc_3986_says() {
    check(vec![
        paths(
            "6.2.2",
            &[
                exact("/~user/a"),
                exact("/caf\u{e9}"),
                exact("/100%"),
                exact("/a b"),
                exact("/x%2fy"),
                prefix("/.well-known"),
            ],
            &[
                ("/%7Euser/%61", "=/~user/a"),
                ("/~user/./b/../a", "=/~user/a"),
                ("/~user/%2E/a", "=/~user/a"),
                ("/~user//a", "NoPath"),
                ("/caf%C3%A9", "=/caf\u{e9}"),
                ("/caf%c3%a9", "=/caf\u{e9}"),
                ("/caf\u{e9}", "=/caf\u{e9}"),
                ("/100%25", "=/100%"),
                ("/a%20b", "=/a b"),
                ("/x%2Fy", "=/x%2fy"),
                ("/x/y", "NoPath"),
                ("/.well-known/acme-challenge/x", "/.well-known"),
                ("/...", "NoPath"),
            ],
        ),
        paths(
            "bad paths",
            &[prefix("/")],
            &[
                ("/..", "BadPath"),
                ("/a/../..", "BadPath"),
                ("/%2e%2E/x", "BadPath"),
                ("/a//../..", "/"),
                ("/..a/..", "/"),
                ("/%", "BadPath"),
                ("/%4", "BadPath"),
                ("/%+1", "BadPath"),
                ("/%00", "BadPath"),
                ("/a\0", "BadPath"),
                ("x", "BadPath"),
                ("http://web.test/", "BadPath"),
                ("*", "/"),
            ],
        ),
    ]);
}

#[test]
fn pattern_that_gives_up_refuses_the_request() {
    // Exponential for a backtracking engine; the look-ahead keeps it off the linear one.
    let hosts = vec![nginx(
        "web.test",
        vec![route(regex("/(?=a)(a+)+(a+)+(a+)+(a+)+$(?<!b)"), "costly"), route(regex("/"), "all")],
    )];
    let table = table(hosts);
    let path = format!("/{}!", "a".repeat(200));
    assert_eq!(answer(&table, b"web.test", path.as_bytes()), "BadPath");
    assert_eq!(answer(&table, b"web.test", b"/aaaa"), "costly");
    assert_eq!(answer(&table, b"web.test", b"/x"), "all");
    let explained = table.explain(b"web.test", path.as_bytes());
    assert!(explained.result.contains("too many steps"), "{explained}");
}

#[test]
fn pattern_that_cannot_be_compiled_matches_nothing_and_says_so() {
    for broken in ["/a(", "/[z-a]", "/a{1000}{1000}", "*"] {
        assert!(sluicegate_route::check_pattern(broken).is_err(), "{broken}");
        let table = table([nginx("web.test", vec![route(regex(broken), "broken"), route(regex("/a"), "good")])]);
        assert_eq!(answer(&table, b"web.test", b"/a("), "good");
        let explained = table.explain(b"web.test", b"/a").to_string();
        assert!(explained.contains("the regular expression"), "{explained}");
    }
    for good in ["/a(/|$)(.*)", "/(?!x)y", r"/(a)\1", r"/\d+", "/\u{e9}[\u{e9}]", "^/a$", ""] {
        assert_eq!(sluicegate_route::check_pattern(good), Ok(()), "{good}");
    }
}
