//! HTTP/2 towards clients: streams, flow control, trailers, cancellation, budgets, and the end of a connection.

use crate::support::http2::{Fate, Frames, GOAWAY, HEADERS, PING, RST_STREAM, answer, send_all};
use crate::support::tls::{Identity, Key};
use crate::support::{Gateway, Http2, Ingress, manifest, service, service_speaking, soon, tls, until};
use bytes::Bytes;
use futures_util::future::join_all;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Method};
use sluicegate_echo::{EchoBackend, RawBackend, checksum, pattern_byte};
use sluicegate_proxy::ProxySettings;
use sluicegate_telemetry::{FaultReason, LimitName};
use std::sync::Arc;
use std::time::Duration;

/// The same backend as `app.test` over HTTP/1.1 and as `h2c.test` over HTTP/2.
async fn with_echo(adjust: impl FnOnce(&mut ProxySettings)) -> (Gateway, EchoBackend) {
    let web = EchoBackend::builder("web").start().await.expect("start");
    let gateway = Gateway::with(adjust);
    let services = [service("web", &[web.address()]), service_speaking("web2", "kubernetes.io/h2c", &[web.address()])];
    gateway.apply(&manifest::all(services.iter().map(String::as_str)));
    gateway.apply(&Ingress::new("app.test", "web").yaml());
    gateway.apply(&Ingress::new("h2c.test", "web2").yaml());
    (gateway, web)
}

const BOTH: [&str; 2] = ["app.test", "h2c.test"];

fn pattern(length: usize) -> Vec<u8> {
    let period: Vec<u8> = (0..251).map(pattern_byte).collect();
    period.iter().copied().cycle().take(length).collect()
}

#[tokio::test]
async fn prior_knowledge_and_alpn_lead_to_http2() {
    let (gateway, _web) = with_echo(|_| {}).await;
    let mut client = Http2::prior_knowledge(gateway.http()).await;
    for (host, proto) in [("app.test", "HTTP/1.1"), ("h2c.test", "HTTP/2.0")] {
        let answer = client.get(host, "/path?query").await;
        assert_eq!(answer.status, 200);
        let json = answer.json();
        assert_eq!(
            (&json["proto"], &json["host"], &json["path"]),
            (&proto.into(), &host.into(), &"/path?query".into())
        );
        assert_eq!(json["headers"]["x-forwarded-proto"][0], "http");
        assert!(answer.fields.contains_key("date"));
    }
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1", "h2"], Some(b"h2")),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let config = Arc::new(tls::modern(offered));
        let stream = tls::connect(&config, gateway.https(), "app.test").await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen, "{offered:?}");
        let json = if chosen == Some(b"h2") {
            Http2::over(stream, "https").await.get("app.test", "/").await.json()
        } else {
            crate::support::Http1::new(stream).get("app.test", "/").await.json()
        };
        assert_eq!(json["headers"]["x-forwarded-proto"][0], "https");
    }
    // The preface in small pieces is a preface all the same.
    let (received, _) = {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0";
        let pieces: Vec<&[u8]> = preface.chunks(1).collect();
        crate::support::wire::converse(gateway.http(), &pieces).await
    };
    assert_eq!(received.get(3), Some(&4), "SETTINGS: {}", received.escape_ascii());
}

#[tokio::test]
async fn streams_do_not_wait_for_each_other() {
    let (gateway, web) = with_echo(|settings| settings.workers = 1).await;
    let mut client = Http2::prior_knowledge(gateway.http()).await;
    let mut first = Vec::new();
    for host in BOTH {
        // One stream that nobody reads, and as many others as fit beside it.
        let request = client.request(Method::GET, host, "/bytes/100000000");
        let (response, _) = client.open(request, true).await;
        first.push(soon("a response", response).await.expect("a response"));
        let begun = std::time::Instant::now();
        let mut all = Vec::new();
        for number in 0..100 {
            let request = client.request(Method::GET, host, &format!("/{number}?do=delay/100ms"));
            all.push(answer(client.open(request, true).await.0));
        }
        for (number, answer) in join_all(all).await.into_iter().enumerate() {
            let answer = answer.expect("an answer");
            assert_eq!(answer.json()["path"], format!("/{number}?do=delay/100ms"));
        }
        assert!(begun.elapsed() < Duration::from_secs(8), "one after the other would take 10 s");
    }
    assert!(web.requests().http2 >= 101, "{:?}", web.requests());
    assert!(web.requests().connections <= 105, "the HTTP/2 backend has one or two: {:?}", web.requests());
}

#[tokio::test]
async fn large_bodies_cross_unharmed() {
    let (gateway, _web) = with_echo(|_| {}).await;
    let body = pattern(20 << 20);
    let mut client = Http2::prior_knowledge(gateway.http()).await;
    for host in BOTH {
        let answer = client.post(host, "/echo", Bytes::from(body.clone())).await.expect("an answer");
        assert_eq!(answer.status, 200);
        assert!(answer.body == body, "{host}: {} bytes", answer.body.len());
    }
    // Length and end are told.
    let answer = client.get("app.test", "/bytes/1000").await;
    assert_eq!((answer.field("content-length"), answer.body.len()), (Some("1000"), 1000));
}

#[tokio::test]
async fn trailers_cross_in_both_directions() {
    let (gateway, _web) = with_echo(|_| {}).await;
    let mut client = Http2::prior_knowledge(gateway.http()).await;
    let sum = format!("{:x}", checksum(&pattern(300)));
    for host in BOTH {
        let mut request = client.request(Method::GET, host, "/chunked/3x100?trailers=1");
        request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        let trailers = client.send(request).await.trailers.expect("trailers");
        let value = trailers["x-checksum"].to_str().expect("text").trim_start_matches('0');
        assert_eq!(value, sum, "{host}");

        let mut request = client.request(Method::POST, host, "/echo");
        request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        request.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
        let (response, mut stream) = client.open(request, false).await;
        stream.send_data(Bytes::from_static(b"hello"), false).expect("sent");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("abc"));
        stream.send_trailers(trailers).expect("sent");
        let answer = answer(response).await.expect("an answer");
        assert_eq!(answer.body, b"hello");
        assert_eq!(answer.trailers.expect("trailers")["x-sum"], "abc", "{host}");
    }
}

#[tokio::test]
async fn responses_without_a_body() {
    let (gateway, _web) = with_echo(|_| {}).await;
    let mut client = Http2::prior_knowledge(gateway.http()).await;
    for host in BOTH {
        let request = client.request(Method::HEAD, host, "/bytes/1000");
        let (response, _) = client.open(request, true).await;
        let answer = answer(response).await.expect("an answer");
        assert_eq!((answer.status.as_u16(), answer.field("content-length"), answer.body.len()), (200, Some("1000"), 0));
        for status in [204, 304] {
            let answer = client.get(host, &format!("/status/{status}")).await;
            assert_eq!((answer.status.as_u16(), answer.body.len()), (status, 0));
        }
    }
}

#[tokio::test]
async fn fields_of_http1_connections_do_not_leak() {
    let bytes = "HTTP/1.1 200 OK\r\nConnection: close, x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\n\
        Transfer-Encoding: chunked\r\nX-End: 1\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let raw = RawBackend::answering(bytes).await.expect("start");
    let gateway = Gateway::start();
    gateway.apply(&service("web", &[raw.address()]));
    gateway.apply(&Ingress::any_host("web").yaml());
    let mut client = Http2::prior_knowledge(gateway.http()).await;
    let answer = client.get("app.test", "/").await;
    assert_eq!((answer.body.as_slice(), answer.field("x-end")), (&b"ok"[..], Some("1")));
    for name in ["connection", "x-hop", "keep-alive", "proxy-connection", "transfer-encoding"] {
        assert_eq!(answer.field(name), None, "{name}");
    }
}

#[tokio::test]
async fn interim_responses_pass() {
    let (gateway, _web) = with_echo(|_| {}).await;
    let mut client = Http2::prior_knowledge(gateway.http()).await;
    let request = client.request(Method::GET, "app.test", "/early-hints?link=%3C/a.css%3E&delay=200ms");
    let (mut response, _) = client.open(request, true).await;
    let interim = soon("103", std::future::poll_fn(|cx| response.poll_informational(cx))).await;
    let interim = interim.expect("103").expect("no error");
    assert_eq!((interim.status().as_u16(), interim.headers()["link"].as_bytes()), (103, &b"</a.css>"[..]));
    assert_eq!(answer(response).await.expect("an answer").status, 200);
}

/// RFC 9113 section 8.2.3.
#[tokio::test]
async fn cookie_crumbs_are_joined() {
    let (gateway, _web) = with_echo(|_| {}).await;
    let mut client = Http2::prior_knowledge(gateway.http()).await;
    for host in BOTH {
        let mut request = client.request(Method::GET, host, "/");
        for crumb in ["a=1", "b=2", "c=3; d=4"] {
            request.headers_mut().append("cookie", HeaderValue::from_static(crumb));
        }
        let json = client.send(request).await.json();
        assert_eq!(json["headers"]["cookie"], serde_json::json!(["a=1; b=2; c=3; d=4"]));
    }
}

#[tokio::test]
async fn limits_and_errors_are_told_on_the_stream() {
    let (gateway, _web) = with_echo(|settings| {
        settings.limits.max_body_bytes = 1000;
        settings.limits.max_target_bytes = 1024;
        settings.limits.max_fields = 20;
        settings.timeouts.upstream_read = Duration::from_millis(200);
        settings.timeouts.request_body = Duration::from_millis(200);
    })
    .await;
    let mut client = Http2::prior_knowledge(gateway.http()).await;
    let reason = |answer: &crate::support::http2::Answer| answer.field("x-sluicegate-reason").map(str::to_owned);
    let answered = client.get("nobody.test", "/").await;
    assert_eq!((answered.status.as_u16(), reason(&answered).as_deref()), (404, Some("no_route")));
    for host in BOTH {
        let answered = client.get(host, "/delay/5s").await;
        assert_eq!((answered.status.as_u16(), reason(&answered).as_deref()), (504, Some("upstream_read_timeout")));
        // By its length, and by its data where no length is told.
        let mut request = client.request(Method::POST, host, "/");
        request.headers_mut().insert("content-length", HeaderValue::from_static("1001"));
        let (response, _stream) = client.open(request, false).await;
        assert_eq!(answer(response).await.expect("an answer").status, 413);
        let request = client.request(Method::POST, host, "/");
        let (response, mut stream) = client.open(request, false).await;
        stream.send_data(Bytes::from(vec![b'x'; 1001]), true).expect("sent");
        assert_eq!(answer(response).await.expect("an answer").status, 413);
        let request = client.request(Method::POST, host, "/");
        let (response, _stream) = client.open(request, false).await;
        assert_eq!(answer(response).await.expect("an answer").status, 408);
    }
    assert_eq!(client.get("app.test", &format!("/{}", "a".repeat(1100))).await.status, 414);
    let mut request = client.request(Method::GET, "app.test", "/");
    for number in 0..25 {
        let name = http::HeaderName::try_from(format!("x-{number}")).expect("a name");
        request.headers_mut().insert(name, HeaderValue::from_static("y"));
    }
    assert_eq!(client.send(request).await.status, 431);
    assert_eq!(client.get("app.test", "/").await.status, 200, "the connection goes on");
    assert_eq!((gateway.limits(LimitName::BodySize), gateway.limits(LimitName::BodyTimeout)), (4, 2));
    assert_eq!((gateway.limits(LimitName::UriLength), gateway.limits(LimitName::HeaderCount)), (1, 1));
}

#[tokio::test]
async fn a_stream_that_the_client_takes_back_ends_at_the_backend() {
    let (gateway, web) = with_echo(|_| {}).await;
    let mut client = Http2::prior_knowledge(gateway.http()).await;
    let request = client.request(Method::GET, "app.test", "/drip?bytes=1000000&size=10&every=5ms");
    let (response, mut stream) = client.open(request, true).await;
    let response = soon("a head", response).await.expect("a head");
    stream.send_reset(Reason::CANCEL);
    until("the backend's connection is over", || web.requests().open == 0).await;
    until("it is counted", || gateway.faults(FaultReason::ClientClosed) == 1).await;
    drop(response);
    // Before the answer, and in the middle of its own body.
    let request = client.request(Method::GET, "app.test", "/delay/60s");
    let (_response, mut stream) = client.open(request, true).await;
    until("the backend has it", || web.requests().total == 2).await;
    stream.send_reset(Reason::CANCEL);
    until("the backend's connection is over", || web.requests().open == 0).await;
    let request = client.request(Method::POST, "app.test", "/");
    let (_response, mut stream) = client.open(request, false).await;
    stream.send_data(Bytes::from_static(b"half"), false).expect("sent");
    until("the backend has it", || web.requests().total == 3).await;
    stream.send_reset(Reason::CANCEL);
    until("the backend's connection is over", || web.requests().open == 0).await;
    assert_eq!(client.get("app.test", "/").await.status, 200, "the connection goes on");
}

/// CVE-2023-44487.
#[tokio::test]
async fn rapid_reset_ends_the_connection() {
    let get: [(&[u8], &[u8]); 4] =
        [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"app.test"), (b":path", b"/delay/60s")];
    for pause in [false, true] {
        let (gateway, web) = with_echo(|settings| settings.limits.max_resets = 50).await;
        let mut frames = Frames::connect(gateway.http()).await;
        for number in 0..400 {
            let stream = frames.open(&get, true).await;
            if pause && number < 60 {
                // Each is at work already when it is taken back.
                let what = format!("stream {number} is at work");
                let over = || gateway.proxy().connections() == 0;
                until(&what, || web.requests().total > number || over()).await;
            }
            frames.write(RST_STREAM, 0, stream, &8u32.to_be_bytes()).await;
        }
        assert_eq!(frames.fate(u32::MAX).await, Fate::GoAway(u32::from(Reason::ENHANCE_YOUR_CALM)));
        until("it is counted", || gateway.faults(FaultReason::RapidReset) == 1).await;
        assert_eq!(gateway.limits(LimitName::Resets), 1);
        until("the backend is left alone", || web.requests().open == 0).await;
        assert!(web.requests().total < 200, "{:?}", web.requests());
        // Others are not harmed.
        assert_eq!(Http2::prior_knowledge(gateway.http()).await.get("app.test", "/").await.status, 200);
    }
}

/// A client that changes its mind now and then does no harm.
#[tokio::test]
async fn resets_among_finished_requests_are_fine() {
    let (gateway, _web) = with_echo(|settings| settings.limits.max_resets = 10).await;
    let mut client = Http2::prior_knowledge(gateway.http()).await;
    for _ in 0..50 {
        let request = client.request(Method::GET, "app.test", "/delay/60s");
        let (_, mut stream) = client.open(request, true).await;
        stream.send_reset(Reason::CANCEL);
        assert_eq!(client.get("app.test", "/").await.status, 200);
    }
    assert_eq!(gateway.faults(FaultReason::RapidReset), 0);
}

#[tokio::test]
async fn failures_of_a_backend_are_not_counted_against_the_client() {
    let (gateway, _web) = with_echo(|settings| settings.limits.max_resets = 5).await;
    let mut client = Http2::prior_knowledge(gateway.http()).await;
    for host in BOTH {
        for _ in 0..20 {
            let request = client.request(Method::GET, host, "/half?bytes=1000&sent=500");
            let (response, _) = client.open(request, true).await;
            let error = answer(response).await.expect_err("broken off");
            assert!(error.is_reset() && error.reason() != Some(Reason::NO_ERROR), "{error}");
        }
    }
    assert_eq!(client.get("app.test", "/").await.status, 200);
    assert_eq!(gateway.faults(FaultReason::RapidReset), 0);
}

#[tokio::test]
async fn streams_above_the_limit_are_refused() {
    let (gateway, _web) = with_echo(|settings| settings.limits.max_streams = 5).await;
    let mut frames = Frames::connect(gateway.http()).await;
    let get: [(&[u8], &[u8]); 4] =
        [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"app.test"), (b":path", b"/delay/300ms")];
    let mut streams = Vec::new();
    for _ in 0..6 {
        streams.push(frames.open(&get, true).await);
    }
    assert_eq!(frames.fate(streams[5]).await, Fate::Reset(u32::from(Reason::REFUSED_STREAM)));
    assert_eq!(frames.fate(streams[4]).await, Fate::Status(200));
}

#[tokio::test]
async fn a_drain_says_goodbye_in_two_steps() {
    let (gateway, _web) = with_echo(|_| {}).await;
    let mut frames = Frames::connect(gateway.http()).await;
    let get: [(&[u8], &[u8]); 4] =
        [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"app.test"), (b":path", b"/delay/1s")];
    let stream = frames.open(&get, true).await;
    until("it is at work", || gateway.proxy().connections() == 1).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let draining = gateway.shutdown(Duration::from_secs(20));
    let watching = async {
        let mut goodbyes = Vec::new();
        let mut status = None;
        while let Some(frame) = frames.read().await {
            match frame.kind {
                GOAWAY => {
                    let last = u32::from_be_bytes(frame.payload[..4].try_into().expect("four bytes"));
                    let code = u32::from_be_bytes(frame.payload[4..8].try_into().expect("four bytes"));
                    goodbyes.push((last, code));
                }
                PING if frame.flags == 0 => frames.write(PING, 1, 0, &frame.payload).await,
                HEADERS => status = Some(frame.stream),
                RST_STREAM => panic!("{frame:?}"),
                _ => {}
            }
        }
        (goodbyes, status)
    };
    let (drained, (goodbyes, status)) = tokio::join!(draining, watching);
    assert_eq!(goodbyes, [(0x7fff_ffff, 0), (stream, 0)]);
    assert_eq!((status, drained.cut), (Some(stream), 0));
    assert!(drained.took < Duration::from_secs(15), "{drained:?}");
}

/// RFC 9110 section 15.5.20: a connection may be used for other hosts only under the same TLS settings.
#[tokio::test]
async fn hosts_of_another_certificate_are_misdirected() {
    let (gateway, _web) = with_echo(|_| {}).await;
    let (one, two) = (Identity::new(Key::Ecdsa, &["a.test", "b.test"]), Identity::new(Key::Ecdsa, &["c.test"]));
    gateway.apply(&manifest::all([one.secret("one").as_str(), two.secret("two").as_str()]));
    for (host, secret) in [("a.test", "one"), ("b.test", "one"), ("c.test", "two")] {
        gateway.apply(&Ingress::new(host, "web").tls(secret).yaml());
    }
    let config = Arc::new(tls::modern(&["h2"]));
    let mut client = Http2::over(tls::connect(&config, gateway.https(), "a.test").await, "https").await;
    for (host, status) in
        [("a.test", 200), ("A.test", 200), ("b.test", 200), ("c.test", 421), ("app.test", 421), ("a.test:443", 200)]
    {
        let answer = client.get(host, "/").await;
        assert_eq!(answer.status.as_u16(), status, "{host}");
    }
    assert_eq!(gateway.faults(FaultReason::Misdirected), 2);
    let config = Arc::new(tls::modern(&["http/1.1"]));
    let mut client = crate::support::Http1::new(tls::connect(&config, gateway.https(), "nobody.test").await);
    for (host, status) in [("a.test", 421), ("app.test", 200), ("nobody.test", 404)] {
        assert_eq!(client.get(host, "/").await.status, status, "{host}");
    }
}

#[tokio::test]
async fn an_idle_connection_ends_in_good_order() {
    let (gateway, _web) = with_echo(|settings| settings.timeouts.idle = Duration::from_millis(200)).await;
    let mut client = Http2::prior_knowledge(gateway.http()).await;
    // A stream at work is not idleness.
    assert_eq!(client.get("app.test", "/delay/600ms").await.status, 200);
    let end = soon("the end", client.connection).await.expect("no panic");
    end.expect("in good order");
    assert_eq!(gateway.limits(LimitName::IdleTimeout), 1);
}

#[tokio::test]
async fn a_client_that_takes_nothing_loses_the_stream_alone() {
    let (gateway, web) = with_echo(|settings| settings.timeouts.client_write = Duration::from_millis(300)).await;
    let mut client = Http2::prior_knowledge(gateway.http()).await;
    let request = client.request(Method::GET, "app.test", "/bytes/100000000");
    let (response, _) = client.open(request, true).await;
    let mut body = soon("a head", response).await.expect("a head").into_body();
    until("the limit is counted", || gateway.limits(LimitName::ClientSendTimeout) == 1).await;
    until("the backend is free again", || web.requests().open == 0).await;
    let error = loop {
        match soon("data", body.data()).await.expect("not the end of a good body") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(error.is_reset(), "{error}");
    assert_eq!(client.get("app.test", "/").await.status, 200);
}

#[tokio::test]
async fn early_answers_do_not_need_the_whole_request() {
    let (gateway, _web) = with_echo(|_| {}).await;
    let mut client = Http2::prior_knowledge(gateway.http()).await;
    for host in BOTH {
        let request = client.request(Method::POST, host, "/status/503?unread=1");
        let (response, stream) = client.open(request, false).await;
        let sending = tokio::spawn(send_all(stream, Bytes::from(vec![b'x'; 8 << 20])));
        assert_eq!(answer(response).await.expect("an answer").status, 503, "{host}");
        let _ = soon("the sender hears of it", sending).await;
    }
    assert_eq!(client.get("app.test", "/").await.status, 200);
}
