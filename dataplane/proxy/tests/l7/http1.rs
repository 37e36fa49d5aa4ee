//! HTTP/1.1: messages in all their forms, and the fields that cross, stay behind or are made.

use crate::support::{Body, Gateway, Http1, Ingress, service, service_speaking};
use sluicegate_echo::{EchoBackend, RawBackend};
use tokio::net::TcpStream;

/// A gateway with the Service `web` behind every host.
async fn with_echo(gateway: Gateway) -> (Gateway, EchoBackend) {
    let web = EchoBackend::builder("web").start().await.expect("start");
    gateway.apply(&service("web", &[web.address()]));
    gateway.apply(&Ingress::any_host("web").yaml());
    (gateway, web)
}

/// A gateway in front of a backend that says these bytes to each request, and a client.
async fn answered(bytes: &'static str) -> (Gateway, RawBackend, Http1<TcpStream>) {
    let raw = RawBackend::answering(bytes).await.expect("start");
    let gateway = Gateway::start();
    gateway.apply(&service("web", &[raw.address()]));
    gateway.apply(&Ingress::any_host("web").yaml());
    let client = gateway.connect().await;
    (gateway, raw, client)
}

#[tokio::test]
async fn nothing_applied_yet_is_404() {
    let gateway = Gateway::start();
    let answer = gateway.connect().await.get("app.test", "/").await;
    assert_eq!((answer.status, answer.field("x-sluicegate-reason")), (404, Some("no_route")));
}

#[tokio::test]
async fn one_connection_carries_many_requests_to_one_backend_connection() {
    let (gateway, web) = with_echo(Gateway::with(|settings| settings.workers = 1)).await;
    let mut client = gateway.connect().await;
    for number in 0..50 {
        let answer = client.get("app.test", &format!("/{number}?q=%20")).await;
        assert_eq!(answer.status, 200);
        let json = answer.json();
        assert_eq!(json["path"], format!("/{number}?q=%20"));
        assert_eq!(json["host"], "app.test");
        assert_eq!(json["proto"], "HTTP/1.1");
    }
    assert_eq!(web.requests().connections, 1);
    assert_eq!(gateway.proxy().connections(), 1);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (gateway, _web) = with_echo(Gateway::start()).await;
    let mut client = gateway.connect().await;
    let mut all = String::new();
    for number in 0..20 {
        // The earlier, the slower; and a body now and then, which must not be taken for a request.
        let pause = if number < 3 { 20 - 5 * number } else { 0 };
        let body = if number % 5 == 0 { "GET /body HTTP/1.1\r\nHost: a\r\n\r\n" } else { "" };
        let length = body.len();
        all.push_str(&format!(
            "POST /{number}?do=delay/{pause}ms HTTP/1.1\r\nHost: app.test\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
    }
    client.send(&all).await;
    for number in 0..20 {
        let json = client.response().await.json();
        assert!(json["path"].as_str().expect("text").starts_with(&format!("/{number}?")), "{number}: {json}");
        assert_eq!(json["body_bytes"], if number % 5 == 0 { 31 } else { 0 });
    }
}

#[tokio::test]
async fn http10_closes_unless_it_asks_to_go_on() {
    let (gateway, _web) = with_echo(Gateway::start()).await;
    let mut client = gateway.connect().await;
    client.send("GET /bytes/10 HTTP/1.0\r\nHost: app.test\r\n\r\n").await;
    let answer = client.response().await;
    assert_eq!((answer.status, answer.framing, answer.field("connection")), (200, Body::Length(10), Some("close")));
    client.expect_end().await;

    let mut client = gateway.connect().await;
    for _ in 0..3 {
        client.send("GET /bytes/10 HTTP/1.0\r\nHost: app.test\r\nConnection: Keep-Alive\r\n\r\n").await;
        let answer = client.response().await;
        assert_eq!((answer.status, answer.field("connection")), (200, Some("keep-alive")));
    }
    // A body of unknown length can only end with the connection, whatever was asked for.
    client.send("GET /chunked/3x100 HTTP/1.0\r\nHost: app.test\r\nConnection: keep-alive\r\n\r\n").await;
    let answer = client.response().await;
    assert_eq!((answer.framing, answer.body.len(), answer.field("connection")), (Body::UntilClose, 300, Some("close")));

    // HTTP/1.0 has no need of Host.
    let mut client = gateway.connect().await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.response().await.status, 200);
}

#[tokio::test]
async fn the_client_may_close_the_connection_with_a_request() {
    let (gateway, _web) = with_echo(Gateway::start()).await;
    let mut client = gateway.connect().await;
    client
        .send("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert_eq!(client.response().await.field("connection"), Some("close"));
    client.expect_end().await;
}

#[tokio::test]
async fn the_backend_decides_over_its_own_connection_alone() {
    let (gateway, raw, mut client) =
        answered("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
    for _ in 0..3 {
        let answer = client.get("app.test", "/").await;
        assert_eq!((answer.text().as_str(), answer.field("connection")), ("ok", None));
    }
    assert_eq!(raw.received().len(), 3, "a connection that the backend closes is not used again");
    drop(gateway);
}

#[tokio::test]
async fn responses_without_a_body() {
    let (gateway, web) = with_echo(Gateway::with(|settings| settings.workers = 1)).await;
    let mut client = gateway.connect().await;
    client.send("HEAD /bytes/1000 HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    let answer = client.response_to("HEAD").await;
    assert_eq!((answer.status, answer.field("content-length")), (200, Some("1000")));
    client.send("HEAD /chunked/2x10 HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    assert_eq!(client.response_to("HEAD").await.status, 200);
    for status in [204, 304] {
        let answer = client.get("app.test", &format!("/status/{status}")).await;
        assert_eq!((answer.status, answer.framing), (status, Body::None));
        assert_eq!(answer.field("transfer-encoding"), None);
    }
    // What came was framed right: the connection goes on, on both sides.
    assert_eq!(client.get("app.test", "/bytes/5").await.body.len(), 5);
    assert_eq!(web.requests().connections, 1);
}

#[tokio::test]
async fn lengths_of_what_is_not_sent_are_told() {
    let (_gateway, _raw, mut client) =
        answered("HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\nETag: \"a\"\r\n\r\n").await;
    let answer = client.get("app.test", "/").await;
    assert_eq!((answer.field("content-length"), answer.field("etag")), (Some("1234"), Some("\"a\"")));
}

#[tokio::test]
async fn expect_100_continue_is_answered() {
    let (gateway, web) = with_echo(Gateway::start()).await;
    let mut client = gateway.connect().await;
    for _ in 0..2 {
        client
            .send("POST /continue HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
            .await;
        let interim = client.head("POST").await.expect("100");
        assert_eq!((interim.status, interim.version), (100, 1));
        client.send("hello").await;
        let answer = client.response().await;
        assert_eq!((answer.status, &answer.json()["body_bytes"]), (200, &5.into()));
    }
    client
        .send(
            "POST /continue?reject=401 HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        )
        .await;
    let answer = client.response().await;
    assert_eq!((answer.status, answer.interim.len()), (401, 0));

    let before = web.requests().total;
    let mut client = gateway.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: app.test\r\nExpect: a-miracle\r\nContent-Length: 5\r\n\r\n").await;
    assert_eq!(client.response().await.status, 417);
    client.expect_end().await;
    assert_eq!(web.requests().total, before);
}

#[tokio::test]
async fn expect_100_continue_is_answered_in_front_of_http2_too() {
    let (gateway, web) = with_echo(Gateway::start()).await;
    gateway.apply(&service_speaking("web2", "kubernetes.io/h2c", &[web.address()]));
    gateway.apply(&Ingress::new("h2c.test", "web2").yaml());
    let mut client = gateway.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: h2c.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
    assert_eq!(client.head("POST").await.expect("100").status, 100);
    client.send("hello").await;
    let answer = client.response().await;
    assert_eq!((&answer.json()["body_bytes"], answer.echoed("expect")), (&5.into(), None));
}

/// What HTTP/2 cannot carry is the client's fault, never that of the endpoint.
#[tokio::test]
async fn targets_that_http2_cannot_carry_eject_nobody() {
    let (gateway, web) = with_echo(Gateway::with(|settings| settings.workers = 1)).await;
    gateway.apply(&service_speaking("web2", "kubernetes.io/h2c", &[web.address()]));
    gateway.apply(&Ingress::new("h2c.test", "web2").yaml());
    for _ in 0..10 {
        let mut client = gateway.connect().await;
        let answer = client.get("h2c.test", "/<a>`").await;
        assert_eq!((answer.status, answer.field("x-sluicegate-reason")), (400, Some("bad_request")));
    }
    assert_eq!(gateway.sample("sluicegate_upstream_errors_total"), 0);
    assert_eq!(gateway.connect().await.get("h2c.test", "/a|b\"{}^").await.status, 200);
    let errors: u64 =
        gateway.proxy().endpoint_states().iter().flat_map(|report| &report.endpoints).map(|view| view.errors).sum();
    assert_eq!(errors, 0);
}

#[tokio::test]
async fn interim_responses_pass() {
    let (gateway, _web) = with_echo(Gateway::start()).await;
    let mut client = gateway.connect().await;
    let path = "/early-hints?link=%3C/a.css%3E;%20rel=preload&delay=50ms";
    let answer = client.get("app.test", path).await;
    assert_eq!(answer.status, 200);
    let [(103, fields)] = &answer.interim[..] else { panic!("{:?}", answer.interim) };
    assert!(fields.contains(&("link".to_owned(), "</a.css>; rel=preload".to_owned())), "{fields:?}");

    // RFC 9110 section 15.2: not to HTTP/1.0.
    let (_gateway, _raw, mut client) =
        answered("HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    client.send("GET / HTTP/1.0\r\nHost: app.test\r\n\r\n").await;
    let answer = client.response().await;
    assert_eq!((answer.status, answer.interim.len(), answer.text().as_str()), (200, 0, "ok"));
}

#[tokio::test]
async fn fields_of_one_hop_stay_behind() {
    let (gateway, _web) = with_echo(Gateway::start()).await;
    let mut client = gateway.connect().await;
    let answer = client
        .get_with(
            "app.test",
            "/",
            "Connection: keep-alive, X-Hop, http2-settings\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
             TE: deflate\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nProxy: http://198.51.100.1/\r\n\
             Proxy-Authorization: Basic eA==\r\nX-End: 1\r\nX-End: 2\r\nAuthorization: Basic eQ==\r\nX-Empty:\r\n",
        )
        .await;
    for name in [
        "connection",
        "x-hop",
        "keep-alive",
        "proxy-connection",
        "te",
        "upgrade",
        "http2-settings",
        "proxy",
        "proxy-authorization",
    ] {
        assert_eq!(answer.echoed(name), None, "{name}");
    }
    assert_eq!(answer.echoed("x-end").as_deref(), Some("1|2"));
    assert_eq!(answer.echoed("authorization").as_deref(), Some("Basic eQ=="));
    assert_eq!(answer.echoed("x-empty").as_deref(), Some(""));

    let (_gateway, _raw, mut client) = answered(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: close\r\nTrailer: x\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nServer: apple\r\nX-End: 1\r\n\r\n",
    )
    .await;
    let answer = client.get("app.test", "/").await;
    for name in ["connection", "x-hop", "keep-alive", "proxy-connection"] {
        assert_eq!(answer.field(name), None, "{name}");
    }
    let cookies: Vec<_> = answer.fields.iter().filter(|(name, _)| name == "set-cookie").collect();
    assert_eq!(cookies.len(), 2);
    assert_eq!((answer.field("server"), answer.field("x-end")), (Some("apple"), Some("1")));
}

#[tokio::test]
async fn te_trailers_crosses_as_an_option_of_the_next_hop() {
    let (gateway, _web) = with_echo(Gateway::start()).await;
    let mut client = gateway.connect().await;
    let answer = client.get_with("app.test", "/", "TE: trailers, deflate;q=0.5\r\nConnection: TE\r\n").await;
    assert_eq!(
        (answer.echoed("te").as_deref(), answer.echoed("connection").as_deref()),
        (Some("trailers"), Some("te"))
    );
}

#[tokio::test]
async fn a_date_is_added_where_there_is_none() {
    let (_gateway, _raw, mut client) = answered("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let answer = client.get("app.test", "/").await;
    let date = answer.field("date").expect("a date");
    assert!(date.ends_with(" GMT") && date.len() == 29, "{date}");
    assert_eq!(answer.field("server"), None, "the gateway does not name itself");

    let (_gateway, _raw, mut client) =
        answered("HTTP/1.1 200 Fine\r\nContent-Length: 0\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n").await;
    let answer = client.get("app.test", "/").await;
    assert_eq!(answer.field("date"), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
    assert_eq!((answer.reason.as_str(), answer.version), ("Fine", 1));
}

const FORGED: &str = "X-Forwarded-For: 203.0.113.7, 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: forged.test\r\n\
    X-Forwarded-Port: 443\r\nX-Real-IP: 203.0.113.7\r\nForwarded: for=203.0.113.7\r\nX-Forwarded-Prefix: /x\r\n\
    X-Forwarded-Scheme: https\r\nX-Scheme: https\r\nX-Original-Forwarded-For: 203.0.113.7\r\nX_Forwarded_For: 203.0.113.7\r\n\
    X-Forwarded-User: root\r\n";

#[tokio::test]
async fn strangers_cannot_say_where_they_come_from() {
    let (gateway, _web) = with_echo(Gateway::start()).await;
    let port = gateway.http().port().to_string();
    let answer = gateway.connect().await.get_with("app.test", "/", FORGED).await;
    assert_eq!(answer.echoed("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(answer.echoed("x-real-ip").as_deref(), Some("127.0.0.1"));
    assert_eq!(answer.echoed("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(answer.echoed("x-forwarded-host").as_deref(), Some("app.test"));
    assert_eq!(answer.echoed("x-forwarded-port").as_deref(), Some(port.as_str()));
    for name in [
        "forwarded",
        "x-forwarded-prefix",
        "x-forwarded-scheme",
        "x-scheme",
        "x-original-forwarded-for",
        "x_forwarded_for",
        "x-forwarded-user",
    ] {
        assert_eq!(answer.echoed(name), None, "{name}");
    }
}

#[tokio::test]
async fn trusted_proxies_are_believed_and_added_to() {
    let (gateway, _web) = with_echo(Gateway::with(|settings| {
        settings.trusted = vec!["127.0.0.0/8".parse().expect("a network"), "192.0.2.0/24".parse().expect("a network")];
        settings.forwarded = true;
    }))
    .await;
    let answer = gateway.connect().await.get_with("app.test", "/", FORGED).await;
    assert_eq!(answer.echoed("x-forwarded-for").as_deref(), Some("203.0.113.7, 192.0.2.1, 127.0.0.1"));
    assert_eq!(answer.echoed("x-real-ip").as_deref(), Some("203.0.113.7"), "the last that no trusted proxy has");
    assert_eq!(answer.echoed("x-forwarded-proto").as_deref(), Some("https"));
    assert_eq!(answer.echoed("x-forwarded-host").as_deref(), Some("forged.test"));
    assert_eq!(answer.echoed("x-forwarded-port").as_deref(), Some("443"));
    assert_eq!(answer.echoed("x-forwarded-prefix").as_deref(), Some("/x"));
    assert_eq!(answer.echoed("x_forwarded_for"), None);
    let forwarded = answer.echoed("forwarded").expect("asked for");
    assert_eq!(forwarded, "for=203.0.113.7, for=127.0.0.1;host=\"forged.test\";proto=https");
}

#[tokio::test]
async fn forwarded_is_sent_where_it_is_asked_for() {
    let (gateway, _web) = with_echo(Gateway::with(|settings| settings.forwarded = true)).await;
    let answer = gateway.connect().await.get_with("app.test:8080", "/", FORGED).await;
    assert_eq!(answer.echoed("forwarded").as_deref(), Some("for=127.0.0.1;host=\"app.test:8080\";proto=http"));
}

#[tokio::test]
async fn request_ids_are_kept_or_made() {
    let (gateway, _web) = with_echo(Gateway::start()).await;
    let mut client = gateway.connect().await;
    let answer = client.get_with("app.test", "/", "X-Request-ID: from-outside_1.2\r\n").await;
    assert_eq!(answer.echoed("x-request-id").as_deref(), Some("from-outside_1.2"));
    let mut seen = std::collections::BTreeSet::new();
    let long = format!("X-Request-ID: {}\r\n", "a".repeat(129));
    for field in ["", "X-Request-ID:\r\n", "X-Request-ID: a b\r\n", &long] {
        let answer = client.get_with("app.test", "/", field).await;
        let id = answer.echoed("x-request-id").expect("one is made");
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        assert!(seen.insert(id), "made twice");
    }
}

#[tokio::test]
async fn targets_and_hosts_reach_the_backend_as_they_were_meant() {
    let raw = RawBackend::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .await
        .expect("start");
    let gateway = Gateway::start();
    gateway.apply(&service("web", &[raw.address()]));
    gateway.apply(&Ingress::any_host("web").yaml());
    for (request, seen) in [
        (
            "GET /a%2Fb/../c//d?x=../y HTTP/1.1\r\nHost: App.Test:80",
            "GET /a%2Fb/../c//d?x=../y HTTP/1.1\r\nhost: App.Test:80\r\n",
        ),
        ("GET http://other.test/a?b HTTP/1.1\r\nHost: app.test", "GET /a?b HTTP/1.1\r\nhost: other.test\r\n"),
        ("OPTIONS * HTTP/1.1\r\nHost: app.test", "OPTIONS * HTTP/1.1\r\nhost: app.test\r\n"),
        ("GET /caf\u{65}?\"<>{}|\\^` HTTP/1.1\r\nHost: a", "GET /cafe?\"<>{}|\\^` HTTP/1.1\r\nhost: a\r\n"),
    ] {
        raw.forget();
        let mut client = gateway.connect().await;
        client.send(format!("{request}\r\n\r\n")).await;
        assert_eq!(client.response().await.status, 200, "{request}");
        let received = raw.received().concat();
        assert!(received.starts_with(seen.as_bytes()), "{request}: {}", received.escape_ascii());
    }
}

#[tokio::test]
async fn an_answer_of_the_gateway_itself_leaves_the_connection_usable_or_says_that_it_does_not() {
    let gateway = Gateway::start();
    let mut client = gateway.connect().await;
    for _ in 0..2 {
        let answer = client.get("nobody.test", "/").await;
        assert_eq!((answer.status, answer.field("connection")), (404, None));
    }
    // The body of a refused request is not read; then the connection ends, and the client is told, so that it does not
    // send its next request into a closing connection.
    client.send("POST / HTTP/1.1\r\nHost: nobody.test\r\nContent-Length: 100000\r\n\r\nonly a part").await;
    let answer = client.response().await;
    assert_eq!((answer.status, answer.field("connection")), (404, Some("close")));
    client.expect_end().await;
}
