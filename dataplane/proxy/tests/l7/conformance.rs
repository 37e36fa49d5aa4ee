//! The scenarios of the Ingress conformance suite (default backend, host rules, path rules, class, load balancing),
//! replayed over sockets with the suite's own client rules: a redirect is followed to the same address, the final
//! status is judged, and the echoed service says who served.

use crate::support::tls::{self, Identity, Key, leaf};
use crate::support::{Gateway, Http1, Response, service};
use sluicegate_echo::EchoBackend;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

const CLASS: &str = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: sluicegate}\n\
    spec: {controller: sluicegate.io/ingress}\n";

async fn backends(gateway: &Gateway, names: &[&str]) -> Vec<EchoBackend> {
    gateway.apply(CLASS);
    let mut started = Vec::new();
    for name in names {
        let echo = EchoBackend::builder(name).start().await.expect("start");
        gateway.apply(&service(name, &[echo.address()]));
        started.push(echo);
    }
    started
}

fn ingress(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, namespace: default}}\n\
         spec: {{ingressClassName: sluicegate, {spec}}}\n"
    )
}

fn path(path: &str, kind: &str, service: &str) -> String {
    format!("{{path: \"{path}\", pathType: {kind}, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}")
}

fn rule(host: &str, paths: &[String]) -> String {
    format!("{{host: \"{host}\", http: {{paths: [{}]}}}}", paths.join(", "))
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    client: &mut Http1<S>,
    method: &str,
    host: &str,
    path: &str,
) -> Response {
    let length = if matches!(method, "POST" | "PUT" | "PATCH") { "content-length: 0\r\n" } else { "" };
    client
        .send(format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: Go-http-client/1.1\r\n{length}\r\n"))
        .await;
    client.response_to(method).await
}

/// GETs as the suite does and returns the final status and who served.
async fn get(address: SocketAddr, host: &str, path: &str) -> (u16, String) {
    let mut target = path.to_owned();
    for _ in 0..5 {
        let mut client = Http1::connect(address).await;
        let answer = ask(&mut client, "GET", host, &target).await;
        match answer.field("location").filter(|_| matches!(answer.status, 301 | 302 | 303 | 307 | 308)) {
            Some(location) => target = location.to_owned(),
            None if answer.status == 200 => {
                return (200, answer.json()["service"].as_str().expect("a service").to_owned());
            }
            None => return (answer.status, String::new()),
        }
    }
    panic!("redirected without end: {host}{path}");
}

async fn expect(gateway: &Gateway, cases: &[(&str, &str, &str, Option<&str>)]) {
    for (row, host, path, served) in cases {
        let expected = served.map_or((404, String::new()), |service| (200, service.to_owned()));
        assert_eq!(get(gateway.http(), host, path).await, expected, "{row}: {host}{path}");
    }
}

#[tokio::test]
async fn db1_to_db6_the_default_backend_serves_every_host_path_and_method() {
    let gateway = Gateway::start();
    let _echo = backends(&gateway, &["echo-service"]).await;
    gateway.apply(&ingress("default-backend", "defaultBackend: {service: {name: echo-service, port: {number: 80}}}"));
    let address = gateway.http().to_string();
    let cases = [
        ("GET", "my-host", "/"),
        ("GET", "my-host", "/sub-path"),
        ("POST", "some-host", "/"),
        ("PUT", &*address, "/resource"),
        ("DELETE", "some-host", "/resource"),
        ("PATCH", "my-host", "/resource"),
    ];
    for (method, host, path) in cases {
        let mut client = gateway.connect().await;
        let answer = ask(&mut client, method, host, path).await;
        assert_eq!((answer.status, answer.version), (200, 1), "{method} {host}{path}");
        for name in ["content-length", "content-type", "date", "server"] {
            assert!(answer.field(name).is_some_and(|value| !value.is_empty()), "{name}: {:?}", answer.fields);
        }
        let echoed = answer.json();
        assert_eq!(echoed["service"], "echo-service");
        assert_eq!((echoed["method"].as_str(), echoed["path"].as_str()), (Some(method), Some(path)));
        assert_eq!(echoed["proto"], "HTTP/1.1");
        assert_eq!(echoed["host"], host);
        assert_eq!(answer.echoed("user-agent").as_deref(), Some("Go-http-client/1.1"));
    }
}

#[tokio::test]
async fn hr1_to_hr6_hosts_wildcards_and_tls() {
    let gateway = Gateway::start();
    let _echo = backends(&gateway, &["wildcard-foo-com", "foo-bar-com"]).await;
    let identity = Identity::new(Key::Ecdsa, &["foo.bar.com"]);
    gateway.apply(&identity.secret("conformance-tls"));
    let by_name = "{path: /, pathType: Prefix, backend: {service: {name: foo-bar-com, port: {name: main}}}}".to_owned();
    let rules =
        [rule("*.foo.com", &[path("/", "Prefix", "wildcard-foo-com")]), rule("foo.bar.com", &[by_name])].join(", ");
    let tls = "tls: [{hosts: [foo.bar.com], secretName: conformance-tls}]";
    gateway.apply(&ingress("host-rules", &format!("{tls}, rules: [{rules}]")));

    let config = Arc::new(tls::modern(&["http/1.1"]));
    let stream = tls::connect(&config, gateway.https(), "foo.bar.com").await;
    assert_eq!(leaf(&stream), identity.der, "HR1");
    let answer = ask(&mut Http1::new(stream), "GET", "foo.bar.com", "/").await;
    assert_eq!((answer.status, answer.json()["service"].as_str()), (200, Some("foo-bar-com")), "HR1");
    assert_eq!(answer.json()["host"], "foo.bar.com", "HR1");
    expect(
        &gateway,
        &[
            ("HR2", "foo.bar.com", "/", Some("foo-bar-com")),
            ("HR3", "subdomain.bar.com", "/", None),
            ("HR4", "bar.foo.com", "/", Some("wildcard-foo-com")),
            ("HR5", "baz.bar.foo.com", "/", None),
            ("HR6", "foo.com", "/", None),
        ],
    )
    .await;
}

#[tokio::test]
async fn pr1_to_pr15_paths() {
    let gateway = Gateway::start();
    let names = [
        "foo-exact",
        "foo-prefix",
        "aaa-slash-bbb-prefix",
        "aaa-prefix",
        "aaa-slash-bbb-slash-prefix",
        "foo-slash-exact",
    ];
    let _echo = backends(&gateway, &names).await;
    let rules = [
        rule("exact-path-rules", &[path("/foo", "Exact", "foo-exact")]),
        rule(
            "prefix-path-rules",
            &[
                path("/foo", "Prefix", "foo-prefix"),
                path("/aaa/bbb", "Prefix", "aaa-slash-bbb-prefix"),
                path("/aaa", "Prefix", "aaa-prefix"),
            ],
        ),
        rule("mixed-path-rules", &[path("/foo", "Prefix", "foo-prefix"), path("/foo", "Exact", "foo-exact")]),
        rule(
            "trailing-slash-path-rules",
            &[path("/aaa/bbb/", "Prefix", "aaa-slash-bbb-slash-prefix"), path("/foo/", "Exact", "foo-slash-exact")],
        ),
    ]
    .join(", ");
    gateway.apply(&ingress("path-rules", &format!("rules: [{rules}]")));
    expect(
        &gateway,
        &[
            ("PR1", "exact-path-rules", "/foo", Some("foo-exact")),
            ("PR2", "exact-path-rules", "/foo/", None),
            ("PR3", "exact-path-rules", "/FOO", None),
            ("PR4", "exact-path-rules", "/bar", None),
            ("PR5", "prefix-path-rules", "/foo", Some("foo-prefix")),
            ("PR6", "prefix-path-rules", "/foo/", Some("foo-prefix")),
            ("PR7", "prefix-path-rules", "/FOO", None),
            ("PR8", "prefix-path-rules", "/aaa/bbb", Some("aaa-slash-bbb-prefix")),
            ("PR9", "prefix-path-rules", "/aaa/bbb/ccc", Some("aaa-slash-bbb-prefix")),
            ("PR10", "prefix-path-rules", "/aaa/ccc", Some("aaa-prefix")),
            ("PR11", "prefix-path-rules", "/aaaccc", None),
            ("PR12", "mixed-path-rules", "/foo", Some("foo-exact")),
            ("PR13", "trailing-slash-path-rules", "/aaa/bbb", Some("aaa-slash-bbb-slash-prefix")),
            ("PR14", "trailing-slash-path-rules", "/aaa/bbb/", Some("aaa-slash-bbb-slash-prefix")),
            ("PR15", "trailing-slash-path-rules", "/foo", None),
        ],
    )
    .await;
}

#[tokio::test]
async fn ic1_another_class_is_nobodys_here() {
    let gateway = Gateway::start();
    let _echo = backends(&gateway, &["echo-service"]).await;
    let spec = format!("rules: [{}]", rule("test-ingress-class", &[path("/", "Prefix", "echo-service")]));
    let foreign =
        ingress("foreign", &spec).replace("ingressClassName: sluicegate", "ingressClassName: some-invalid-class-name");
    let (_, rejections) = gateway.apply_with_rejections(&foreign);
    assert!(rejections.iter().any(|rejection| rejection.reason.contains("some-invalid-class-name")), "{rejections:?}");
    expect(&gateway, &[("IC1", "test-ingress-class", "/", None)]).await;
}

#[tokio::test]
async fn lb1_one_hundred_requests_reach_all_ten_endpoints() {
    let gateway = Gateway::start();
    gateway.apply(CLASS);
    let mut pods = Vec::new();
    for number in 0..10 {
        let pod = EchoBackend::builder("echo-service").pod(&format!("echo-{number}")).start().await.expect("start");
        pods.push(pod);
    }
    let addresses: Vec<_> = pods.iter().map(EchoBackend::address).collect();
    gateway.apply(&service("echo-service", &addresses));
    gateway.apply(&ingress("load-balancing", "defaultBackend: {service: {name: echo-service, port: {number: 80}}}"));
    let mut seen = BTreeSet::new();
    for _ in 0..100 {
        let answer = ask(&mut gateway.connect().await, "GET", "load-balancing", "/").await;
        assert_eq!(answer.status, 200);
        seen.insert(answer.json()["pod"].as_str().expect("a pod").to_owned());
    }
    assert_eq!(seen.len(), 10, "{seen:?}");
}
