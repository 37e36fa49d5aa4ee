//! What is counted of requests by route and by endpoint, from the socket to the exposition.

use crate::support::{Gateway, Ingress, manifest, service, until};
use sluicegate_config::Kind;
use sluicegate_echo::EchoBackend;
use std::net::TcpListener as StdListener;

const ROUTE: &str = r#"namespace="default",ingress="app-test",service="web",host="app.test""#;

async fn web() -> EchoBackend {
    EchoBackend::builder("web").start().await.expect("start")
}

#[tokio::test]
async fn requests_are_counted_by_the_route_that_took_them() {
    let web = web().await;
    let gateway = Gateway::start();
    gateway.apply(&manifest::all([
        service("web", &[web.address()]).as_str(),
        &service("missing", &[]),
        &Ingress::new("app.test", "web").yaml(),
        &Ingress::new("*.wild.test", "web").path("/wild").yaml(),
        &Ingress::new("gone.test", "missing").yaml(),
    ]));
    for host in ["app.test", "APP.test:80", "a.wild.test", "b.wild.test", "gone.test"] {
        let status = gateway.connect().await.get(host, "/wild").await.status;
        assert_eq!(status, if host == "gone.test" { 503 } else { 200 }, "{host}");
    }
    for number in 0..50 {
        let host = format!("host-{number}.example");
        assert_eq!(gateway.connect().await.get(&host, "/").await.status, 404);
    }
    let count = |labels: &str| gateway.sample(&format!("sluicegate_route_requests_total{{{labels}"));
    until("all are counted", || count("") == 55).await;
    assert_eq!(count(&format!(r#"{ROUTE},method="GET",code="2xx""#)), 2);
    let wild = r#"namespace="default",ingress="any-wild-test",service="web",host="*.wild.test""#;
    assert_eq!(count(&format!(r#"{wild},method="GET",code="2xx""#)), 2, "one row for all names of a wildcard");
    let missing = r#"namespace="default",ingress="gone-test",service="missing",host="gone.test""#;
    assert_eq!(count(&format!(r#"{missing},method="GET",code="5xx""#)), 1);
    let unknown = r#"namespace="",ingress="",service="",host="unknown""#;
    assert_eq!(count(&format!(r#"{unknown},method="GET",code="4xx""#)), 50, "and one for all that nobody knows");
    assert_eq!(gateway.sample("sluicegate_metrics_rows{of=\"routes\"}"), 3);
    let timed = format!("sluicegate_route_upstream_seconds_count{{{ROUTE},phase=\"first_byte\"}}");
    assert_eq!(gateway.sample(&timed), 2);
    assert_eq!(gateway.sample(&format!("sluicegate_route_request_duration_seconds_count{{{ROUTE}}}")), 2);
}

#[tokio::test]
async fn a_route_that_comes_again_counts_on() {
    let web = web().await;
    let gateway = Gateway::start();
    gateway.apply(&service("web", &[web.address()]));
    let counted = || gateway.sample(&format!("sluicegate_route_requests_total{{{ROUTE}"));
    for round in 1..=5 {
        gateway.apply(&Ingress::new("app.test", "web").yaml());
        assert_eq!(gateway.connect().await.get("app.test", "/").await.status, 200);
        until("it is counted", || counted() == round).await;
        gateway.delete(Kind::Ingress, "app-test");
        assert_eq!(gateway.connect().await.get("app.test", "/").await.status, 404);
        assert_eq!(counted(), round, "the row stays for a while");
    }
}

#[tokio::test]
async fn endpoints_are_counted_with_what_runs_there() {
    let web = web().await;
    let free = StdListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let gateway = Gateway::with(|settings| settings.workers = 1);
    gateway.apply(&manifest::all([
        service("web", &[web.address(), free]).as_str(),
        &Ingress::new("app.test", "web").yaml(),
    ]));
    let mut client = gateway.connect().await;
    for _ in 0..10 {
        assert_eq!(client.get("app.test", "/").await.status, 200);
    }
    let of = |metric: &str, number: usize, address| {
        let labels = format!(
            r#"namespace="default",service="web",pod="web-{number}",node="node-{number}",endpoint="{address}""#
        );
        gateway.sample(&format!("sluicegate_endpoint_{metric}{{{labels}}}"))
    };
    until("all are over", || of("active", 0, web.address()) == 0).await;
    assert_eq!(of("requests_total", 0, web.address()), 10);
    let tried = of("requests_total", 1, free);
    assert!((1..10).contains(&tried), "{tried}: it is left out after it refused");
    assert_eq!(of("failures_total", 1, free), tried);
    assert_eq!(of("ejected", 1, free), 1);
    assert_eq!(gateway.sample(&format!("sluicegate_route_retries_total{{{ROUTE}}}")), tried);
    assert_eq!(of("failures_total", 0, web.address()), 0);

    gateway.set_endpoints("web", &[web.address()]);
    until("who went is not left out by anybody", || of("ejected", 1, free) == 0).await;
    assert_eq!(of("requests_total", 1, free), tried, "its counts stay for a while");
}
