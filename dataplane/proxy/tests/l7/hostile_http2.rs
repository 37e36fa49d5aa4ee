//! What must not pass on HTTP/2 (RFC 9113 sections 8.1 to 8.3): written frame by frame, since no library would send it.

use crate::support::http2::{DATA, END_HEADERS, END_STREAM, Fate, Frames, HEADERS, literal};
use crate::support::{Gateway, Ingress, service, until};
use sluicegate_echo::{RawBackend, Step};

type Fields = Vec<(&'static [u8], &'static [u8])>;

const PROTOCOL_ERROR: u32 = 1;

/// A good request: what the cases change.
fn good() -> Fields {
    vec![(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"app.test"), (b":path", b"/")]
}

/// The good request with one pseudo-header field replaced.
fn with(name: &'static [u8], value: &'static [u8]) -> Fields {
    good().into_iter().map(|(known, before)| (known, if known == name { value } else { before })).collect()
}

/// The good request without a pseudo-header field.
fn without(name: &[u8]) -> Fields {
    good().into_iter().filter(|(known, _)| *known != name).collect()
}

/// The good request with more fields.
fn and(more: &[(&'static [u8], &'static [u8])]) -> Fields {
    let mut fields = good();
    fields.extend_from_slice(more);
    fields
}

fn malformed() -> Vec<Fields> {
    let mut cases = vec![
        // Section 8.2.1: names.
        and(&[(b"X-Upper", b"a")]),
        and(&[(b"x y", b"a")]),
        and(&[(b"x:y", b"a")]),
        and(&[(b"", b"a")]),
        and(&[(b"x\0", b"a")]),
        and(&[(b"x\r\ny", b"a")]),
        and(&[(b"x\xc3\xa9", b"a")]),
        and(&[(b"x(y)", b"a")]),
        // Section 8.2.1: values.
        and(&[(b"x", b"a\rb")]),
        and(&[(b"x", b"a\nb")]),
        and(&[(b"x", b"a\r\nTransfer-Encoding: chunked")]),
        and(&[(b"x", b"a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")]),
        and(&[(b"x", b"a\0b")]),
        and(&[(b"x", b" a")]),
        and(&[(b"x", b"a ")]),
        and(&[(b"x", b"\ta")]),
        and(&[(b"x", b"a\t")]),
        // Section 8.2.2: fields of a connection.
        and(&[(b"connection", b"close")]),
        and(&[(b"connection", b"keep-alive")]),
        and(&[(b"keep-alive", b"timeout=5")]),
        and(&[(b"proxy-connection", b"close")]),
        and(&[(b"transfer-encoding", b"chunked")]),
        and(&[(b"transfer-encoding", b"identity")]),
        and(&[(b"upgrade", b"websocket")]),
        and(&[(b"te", b"gzip")]),
        and(&[(b"te", b"trailers, deflate")]),
        // Section 8.3: pseudo-header fields.
        without(b":method"),
        without(b":scheme"),
        without(b":path"),
        without(b":authority"),
        and(&[(b":method", b"GET")]),
        and(&[(b":path", b"/other")]),
        and(&[(b":authority", b"app.test")]),
        and(&[(b":authority", b"evil.test")]),
        and(&[(b":scheme", b"https")]),
        and(&[(b":status", b"200")]),
        and(&[(b":unknown", b"x")]),
        and(&[(b"x", b"a"), (b":path", b"/late")]),
        with(b":path", b""),
        with(b":path", b"nowhere"),
        with(b":path", b"*"),
        with(b":path", b"/a b"),
        with(b":path", b"/a\r\nHost: evil.test"),
        with(b":path", b"/\0"),
        with(b":path", b"http://evil.test/"),
        with(b":method", b""),
        with(b":method", b"GE T"),
        with(b":method", b"GET / HTTP/1.1\r\nX:"),
        with(b":scheme", b""),
        with(b":scheme", b"ht tp"),
        with(b":authority", b""),
        with(b":authority", b"user@app.test"),
        with(b":authority", b"app.test, evil.test"),
        with(b":authority", b"app.test/x"),
        with(b":authority", b"app.test:99999"),
        with(b":authority", b"app.test\r\nX: y"),
        and(&[(b"host", b"evil.test")]),
        and(&[(b"host", b"app.test"), (b"host", b"app.test")]),
        and(&[(b"content-length", b"5")]),
        and(&[(b"content-length", b"0"), (b"content-length", b"5")]),
        and(&[(b"content-length", b"+0")]),
        and(&[(b"content-length", b"x")]),
        and(&[(b"expect", b"a-miracle")]),
    ];
    let mut trace = with(b":method", b"TRACE");
    trace.push((b"content-length", b"5"));
    cases.push(trace);
    cases
}

async fn raw() -> (Gateway, RawBackend) {
    let ok = Step::Send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok".into());
    let raw = RawBackend::scripted([Step::AwaitHead, ok]).await.expect("start");
    let gateway = Gateway::with(|settings| settings.workers = 1);
    gateway.apply(&service("web", &[raw.address()]));
    gateway.apply(&Ingress::any_host("web").yaml());
    (gateway, raw)
}

fn is_refused(fate: Fate) -> bool {
    matches!(fate, Fate::Status(400 | 405 | 417) | Fate::Reset(PROTOCOL_ERROR) | Fate::GoAway(PROTOCOL_ERROR))
}

fn shown(fields: &Fields) -> String {
    fields.iter().map(|(name, value)| format!("{}: {}, ", name.escape_ascii(), value.escape_ascii())).collect()
}

#[tokio::test]
async fn malformed_requests_reach_no_backend() {
    let (gateway, raw) = raw().await;
    let cases = malformed();
    assert!(cases.len() >= 60, "{}", cases.len());
    for fields in &cases {
        let mut frames = Frames::connect(gateway.http()).await;
        let stream = frames.open(fields, true).await;
        let fate = frames.fate(stream).await;
        assert!(is_refused(fate), "{}{fate:?}", shown(fields));
        // The fault of a stream is not that of the connection.
        if !matches!(fate, Fate::GoAway(_)) {
            let next = frames.open(&without(b":path"), true).await;
            assert!(is_refused(frames.fate(next).await), "after {}", shown(fields));
        }
    }
    assert!(raw.is_untouched(), "{}", raw.received().concat().escape_ascii());
}

#[tokio::test]
async fn what_is_legal_passes() {
    let (gateway, raw) = raw().await;
    let cases: Vec<(Fields, &str)> = vec![
        (good(), "GET / HTTP/1.1\r\nhost: app.test\r\n"),
        (and(&[(b"host", b"app.test")]), "GET / HTTP/1.1\r\nhost: app.test\r\n"),
        (and(&[(b"host", b"APP.test")]), "GET / HTTP/1.1\r\nhost: app.test\r\n"),
        (and(&[(b"te", b"trailers"), (b"x-empty", b"")]), "GET / HTTP/1.1\r\nhost: app.test\r\n"),
        (with(b":path", b"/a?b=c%20d"), "GET /a?b=c%20d HTTP/1.1\r\nhost: app.test\r\n"),
        // The h2 crate drops a fragment before anybody sees it.
        (with(b":path", b"/a?b#c"), "GET /a?b HTTP/1.1\r\nhost: app.test\r\n"),
        (
            [
                (b":method" as &[u8], b"OPTIONS" as &[u8]),
                (b":scheme", b"http"),
                (b":authority", b"app.test"),
                (b":path", b"*"),
            ]
            .to_vec(),
            "OPTIONS * HTTP/1.1\r\nhost: app.test\r\n",
        ),
        (
            [(b":path" as &[u8], b"/" as &[u8]), (b":scheme", b"http"), (b":method", b"PURGE"), (b"host", b"by.host")]
                .to_vec(),
            "PURGE / HTTP/1.1\r\nhost: by.host\r\n",
        ),
    ];
    for (fields, line) in cases {
        raw.forget();
        let mut frames = Frames::connect(gateway.http()).await;
        let stream = frames.open(&fields, true).await;
        assert_eq!(frames.fate(stream).await, Fate::Status(200), "{}", shown(&fields));
        let seen = raw.received().concat();
        assert!(seen.starts_with(line.as_bytes()), "{}: {}", shown(&fields), seen.escape_ascii());
        assert_eq!(seen.windows(4).filter(|window| window == b"\r\n\r\n").count(), 1, "{}", seen.escape_ascii());
        assert!(
            !seen.windows(19).any(|window| window.eq_ignore_ascii_case(b"transfer-encoding: ")),
            "{}",
            seen.escape_ascii()
        );
    }
}

/// Section 8.1.1: more or less data than Content-Length announces.
#[tokio::test]
async fn a_body_of_another_length_is_never_completed() {
    let raw = RawBackend::scripted([Step::AwaitBytes(usize::MAX >> 1)]).await.expect("start");
    let gateway = Gateway::with(|settings| settings.workers = 1);
    gateway.apply(&service("web", &[raw.address()]));
    gateway.apply(&Ingress::any_host("web").yaml());
    let mut post = with(b":method", b"POST");
    post.push((b"content-length", b"10"));
    for (number, body) in (1..).zip([&b"short"[..], b"much too long", b""]) {
        let mut frames = Frames::connect(gateway.http()).await;
        let stream = frames.open(&post, false).await;
        frames.write(DATA, END_STREAM, stream, body).await;
        let fate = frames.fate(stream).await;
        assert!(is_refused(fate), "{}: {fate:?}", body.escape_ascii());
        until("the exchange is over", || gateway.requests() == number).await;
        for seen in raw.received() {
            if let Some(head) = seen.windows(4).position(|window| window == b"\r\n\r\n") {
                assert!(seen.len() - head - 4 < 10, "{}", seen.escape_ascii());
            }
        }
    }
}

/// A stream whose head and first data are at a backend that answers nothing, and its trailers.
async fn trailed(field: (&[u8], &[u8])) -> (Gateway, RawBackend, Frames, u32) {
    let raw = RawBackend::scripted([Step::AwaitBytes(usize::MAX >> 1)]).await.expect("start");
    let gateway = Gateway::with(|settings| settings.workers = 1);
    gateway.apply(&service("web", &[raw.address()]));
    gateway.apply(&Ingress::any_host("web").yaml());
    let mut frames = Frames::connect(gateway.http()).await;
    let stream = frames.open(&with(b":method", b"POST"), false).await;
    frames.write(DATA, 0, stream, b"hello").await;
    until("the backend has the data", || raw.received().concat().ends_with(b"hello\r\n")).await;
    frames.write(HEADERS, END_HEADERS | END_STREAM, stream, &literal(&[field])).await;
    (gateway, raw, frames, stream)
}

/// Section 8.1: trailers are fields too.
#[tokio::test]
async fn trailers_that_are_malformed_or_claim_framing_complete_nothing() {
    let cases: [(&[u8], &[u8]); 7] = [
        (b"X-Upper", b"a"),
        (b"x", b"a\r\nb"),
        (b"x y", b"a"),
        (b"connection", b"close"),
        (b"transfer-encoding", b"chunked"),
        (b"content-length", b"5"),
        (b"host", b"evil.test"),
    ];
    for field in cases {
        let (_gateway, raw, mut frames, stream) = trailed(field).await;
        let fate = frames.fate(stream).await;
        assert!(is_refused(fate), "{}: {fate:?}", field.0.escape_ascii());
        let seen = raw.received().concat();
        assert!(!seen.ends_with(b"\r\n\r\n"), "{}: {}", field.0.escape_ascii(), seen.escape_ascii());
    }
}

/// What must be known before a body, and what a gateway vouches for, is not passed on behind it.
#[tokio::test]
async fn trailers_that_come_too_late_are_dropped() {
    type Field = (&'static [u8], &'static [u8]);
    let cases: [(Field, &[u8]); 4] = [
        ((b"x-sum", b"abc"), b"0\r\nx-sum: abc\r\n\r\n"),
        ((b"authorization", b"Basic eA=="), b"hello\r\n0\r\n\r\n"),
        ((b"x-forwarded-for", b"203.0.113.7"), b"hello\r\n0\r\n\r\n"),
        ((b":path", b"/other"), b"hello\r\n0\r\n\r\n"),
    ];
    for (field, end) in cases {
        let (_gateway, raw, _frames, _) = trailed(field).await;
        until("the request is complete", || raw.received().concat().ends_with(end)).await;
    }
}
