//! What the backend is asked for: rows 15 and 16 of ingress-nginx's behaviour, and the escapes that leave.

mod support;

use sluicegate_config::{Dialect, PathMatch};
use sluicegate_route::{Outcome, redirect_location, rewrite};
use support::{append_slash, exact, host, prefix, regex, rewriting, route, string_prefix, table};

/// The path and query that are sent on, or `raw` where the target stays as it came.
fn sent(dialect: Dialect, path: PathMatch, target: &str, request: &str) -> String {
    let table = table([host("web.test", dialect, vec![rewriting(path, target)], None)]);
    let (raw, query) = match request.split_once('?') {
        Some((raw, query)) => (raw, Some(query.as_bytes())),
        None => (request, None),
    };
    let Outcome::Route(id) = table.find(b"web.test", raw.as_bytes()) else { return "not found".into() };
    let mut out = b"GET ".to_vec();
    if rewrite(table.route(id), raw.as_bytes(), query, &mut out) {
        String::from_utf8(out.split_off(4)).expect("escapes are ASCII")
    } else {
        assert_eq!(out, b"GET ", "nothing is appended where nothing is rewritten");
        "raw".into()
    }
}

#[test]
fn nginx_rewrites() {
    let idiom = "/api(/|$)(.*)";
    let table = [
        // (path, target, request, sent)
        (idiom, "/$2", "/api", "/"),
        (idiom, "/$2", "/api/", "/"),
        (idiom, "/$2", "/api/v1/x", "/v1/x"),
        (idiom, "/$2", "/API/V1", "/V1"),
        (idiom, "/$2", "/apix", "not found"),
        (idiom, "/$2", "/api/v1/a%20b?x=1", "/v1/a%20b?x=1"),
        (idiom, "/$2", "/api/v1/%2e%2e/z", "/z"),
        (idiom, "/$2", "/api//x//y", "/x/y"),
        (idiom, "/$2", "/api/%25%3F%23", "/%25%3F%23"),
        (idiom, "/$2", "/api/caf%c3%a9", "/caf%C3%A9"),
        (idiom, "/$2", "/api/a%0Ab", "/a"),
        (idiom, "/$2", "/api/x?", "/x?"),
        (idiom, "$2", "/api/x", "/x"),
        (idiom, "/new$1$2", "/api/x", "/new/x"),
        (idiom, "/$3-$2", "/api/x", "/-x"),
        (idiom, "/fixed", "/api/x?y", "/fixed?y"),
        (idiom, "/$12", "/api/x", "//2"),
        (idiom, "/$0$x$", "/api/x", "/$0$x$"),
        (idiom, "/a b%20", "/api", "/a%20b%2520"),
        (idiom, idiom, "/api/x", "raw"),
        (idiom, "", "/api/x", "raw"),
        ("/a(.*)", "/b$1", "/a/x", "/b/x"),
        ("/a/?(.*)", "/$1", "/a/x", "/x"),
        ("/a/?(.*)", "/$1", "/ax", "/x"),
        ("/a(/|$)", "/b$1", "/a/x", "/b/"),
        ("/([^/]+)/([0-9]+)(/.*)?", "/$2/$1$3", "/user/42/x", "/42/user/x"),
        ("/([^/]+)/([0-9]+)(/.*)?", "/$2/$1$3", "/user/42", "/42/user"),
        (r"/(\w)(?!b)(.*)", "/$2/$1", "/xyz", "/yz/x"),
        ("/get/(.*)", "/show?id=$1", "/get/a%26b?c=d", "/show?id=a%26b&c=d"),
        ("/get/(.*)", "/show?id=$1&e=%2F", "/get/x", "/show?id=x&e=%2F"),
        ("/get/(.*)", "/show?id=$1?", "/get/x?c=d", "/show?id=x"),
        ("/get/(.*)", "/show/$1?", "/get/x?c=d", "/show/x"),
    ];
    for (path, target, request, expected) in table {
        assert_eq!(sent(Dialect::Nginx, regex(path), target, request), expected, "{path} -> {target}: {request}");
    }
}

#[test]
fn strict_rewrites_keep_escapes() {
    let table = [
        (regex("/api(/|$)(.*)"), "/$2", "/api/a%2fb%7e", "/a%2Fb~"),
        (regex("/api(/|$)(.*)"), "/$2", "/api/a//b", "/a//b"),
        (regex("/api/(..)(.*)"), "/$1", "/api/%2Fx", "/%252"),
        (regex("/get/(.*)"), "/s?q=$1", "/get/a&b=c%26d", "/s?q=a%26b%3Dc%26d"),
        (prefix("/old"), "/new", "/old/x?q", "/new?q"),
        (exact("/old"), "/new%20%zz", "/old", "/new%20%25zz"),
        (string_prefix("/old"), "/n", "/older", "/n"),
        (prefix("/same"), "/same", "/same/x", "raw"),
    ];
    for (path, target, request, expected) in table {
        assert_eq!(sent(Dialect::Strict, path.clone(), target, request), expected, "{path} -> {target}: {request}");
    }
}

#[test]
fn without_a_rewrite_the_target_stays_raw() {
    let table = table([host("web.test", Dialect::Nginx, vec![route(prefix("/a"), "a")], None)]);
    let Outcome::Route(id) = table.find(b"web.test", b"/x/..//a/%62") else { panic!("it matches") };
    let mut out = Vec::new();
    assert!(!rewrite(table.route(id), b"/x/..//a/%62", Some(b"q"), &mut out));
    assert!(out.is_empty());
}

#[test]
fn redirects_stay_on_the_host() {
    let cases = [
        (Dialect::Nginx, "/foo", "/foo", None, "/foo/"),
        (Dialect::Nginx, "/foo", "//foo", Some("x=1"), "/foo/?x=1"),
        (Dialect::Nginx, "/a b", "/a%20b", Some(""), "/a%20b/?"),
        (Dialect::Strict, "//evil.test", "//evil.test", None, "/evil.test/"),
        (Dialect::Nginx, "/\\evil.test", "/%5Cevil.test", None, "/%5Cevil.test/"),
        (Dialect::Nginx, "/a\r\nb", "/a%0d%0ab", None, "/a%0D%0Ab/"),
    ];
    for (dialect, path, raw, query, expected) in cases {
        let table = table([host("web.test", dialect, vec![append_slash(exact(path), "redirect")], None)]);
        let Outcome::Route(id) = table.find(b"web.test", raw.as_bytes()) else { panic!("{raw} matches") };
        let mut out = Vec::new();
        redirect_location(table.route(id), raw.as_bytes(), query.map(str::as_bytes), &mut out);
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}
