//! What must not pass on HTTP/1.1: refused with a status, the connection ended, and not one byte of it, nor of what is
//! pipelined behind it, at a backend. And the controls that look odd and are legal.

use crate::support::wire::{End, converse};
use crate::support::{Gateway, Ingress, service, until};
use sluicegate_echo::{RawBackend, Step};

/// What is pipelined behind each case: it must never be taken for a request.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n";

/// Cases of request lines, with the status. The head is completed with a Host field and an empty line.
#[rustfmt::skip]
const LINES: &[(u16, &str)] = &[
    (400, "GET / HTTP/1.1\n"),
    (400, "\nGET / HTTP/1.1\r\n"),
    (400, "\r\n\r\nGET / HTTP/1.1\r\n"),
    (400, "GET / HTTP/1.1\r\r\n"),
    (400, "\rGET / HTTP/1.1\r\n"),
    (400, " GET / HTTP/1.1\r\n"),
    (400, "GET  / HTTP/1.1\r\n"),
    (400, "GET /  HTTP/1.1\r\n"),
    (400, "GET / HTTP/1.1 \r\n"),
    (400, "GET\t/\tHTTP/1.1\r\n"),
    (400, "GET /a b HTTP/1.1\r\n"),
    (400, "GET /\r\n"),
    (400, "GET\r\n"),
    (400, "GET / HTTP/1.1\0\r\n"),
    (400, "GE(T / HTTP/1.1\r\n"),
    (400, "G\0ET / HTTP/1.1\r\n"),
    (400, "GET / http/1.1\r\n"),
    (400, "GET / HTTP/1.1.1\r\n"),
    (400, "GET / HTTP/11\r\n"),
    (400, "GET / HTTP/+1.1\r\n"),
    (505, "GET / HTTP/0.9\r\n"),
    (505, "GET / HTTP/1.2\r\n"),
    (505, "GET / HTTP/2.0\r\n"),
    (505, "GET / HTTP/3.0\r\n"),
    (400, "GET /\0 HTTP/1.1\r\n"),
    (400, "GET /\x01 HTTP/1.1\r\n"),
    (400, "GET /\x7f HTTP/1.1\r\n"),
    (400, "GET /caf\u{e9} HTTP/1.1\r\n"),
    (400, "GET /#fragment HTTP/1.1\r\n"),
    (400, "GET a HTTP/1.1\r\n"),
    (400, "GET ?a HTTP/1.1\r\n"),
    (400, "GET \\a HTTP/1.1\r\n"),
    (400, "GET * HTTP/1.1\r\n"),
    (400, "OPTIONS *x HTTP/1.1\r\n"),
    (400, "GET app.test:80 HTTP/1.1\r\n"),
    (400, "GET ftp://app.test/ HTTP/1.1\r\n"),
    (400, "GET http:/app.test/ HTTP/1.1\r\n"),
    (400, "GET http://user@app.test/ HTTP/1.1\r\n"),
    (400, "GET http:///a HTTP/1.1\r\n"),
    (400, "GET http://app.test\\@evil.test/ HTTP/1.1\r\n"),
    (400, "GET http://[::1/ HTTP/1.1\r\n"),
    (400, "CONNECT app.test HTTP/1.1\r\n"),
    (400, "CONNECT / HTTP/1.1\r\n"),
];

/// Cases of field lines, behind a good request line and Host.
#[rustfmt::skip]
const FIELDS: &[(u16, &str)] = &[
    (400, "Host: app.test\r\n"),
    (400, "Host: evil.test\r\n"),
    (400, "X: a\n"),
    (400, "X: a\nTransfer-Encoding: chunked\r\n"),
    (400, "X: a\rb\r\n"),
    (400, "X: a\r\rContent-Length: 5\r\n"),
    (400, "X: a\r\n b\r\n"),
    (400, "X: a\r\n\tb\r\n"),
    (400, " X: a\r\n"),
    (400, "Transfer-Encoding:\r\n chunked\r\n"),
    (400, "X: a\0b\r\n"),
    (400, "X\0: a\r\n"),
    (400, "X: a\x0bb\r\n"),
    (400, "X: a\x7fb\r\n"),
    (400, "X: \x1b[31m\r\n"),
    (400, "X : a\r\n"),
    (400, "X\t: a\r\n"),
    (400, "Transfer-Encoding : chunked\r\n"),
    (400, "Content-Length : 5\r\n"),
    (400, ": a\r\n"),
    (400, "X\r\n"),
    (400, "GET /inner HTTP/1.1\r\n"),
    (400, "X Y: a\r\n"),
    (400, "X(Y): a\r\n"),
    (400, "X\u{e9}: a\r\n"),
    (400, "\u{feff}Content-Length: 5\r\n"),
    (400, "Connection: close, content-length\r\nContent-Length: 5\r\n"),
    (400, "Connection: host\r\n"),
    (400, "Connection: a b\r\n"),
    (417, "Expect: 200-ok\r\n"),
];

/// Cases of framing, in a POST with Host. The second part is the body.
#[rustfmt::skip]
const FRAMINGS: &[(u16, &str, &str)] = &[
    // CL.TE, TE.CL and their disguises.
    (400, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    (400, "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
    (400, "Transfer-Encoding: identity\r\nContent-Length: 5\r\n", "hello"),
    (400, "Transfer-Encoding:\r\nContent-Length: 5\r\n", "hello"),
    (400, "Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"),
    (400, "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"),
    (400, "Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
    (400, "Transfer-Encoding: chunked;q=1\r\n", "0\r\n\r\n"),
    (400, "Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"),
    (400, "Transfer-Encoding: ,chunked\r\n", "0\r\n\r\n"),
    (400, "Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"),
    (400, "Transfer-Encoding: chunked\x0c\r\n", "0\r\n\r\n"),
    (400, "Transfer-Encoding: chunked x\r\n", "0\r\n\r\n"),
    (501, "Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
    (501, "Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
    (501, "Transfer-Encoding: identity\r\n", ""),
    // Lengths.
    (400, "Content-Length: 5\r\nContent-Length: 6\r\n", "hello"),
    (400, "Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
    (400, "Content-Length: 5, 5\r\n", "hello"),
    (400, "Content-Length: +5\r\n", "hello"),
    (400, "Content-Length: -5\r\n", "hello"),
    (400, "Content-Length: 0x5\r\n", "hello"),
    (400, "Content-Length: 5 5\r\n", "hello"),
    (400, "Content-Length: 5;\r\n", "hello"),
    (400, "Content-Length: \r\n", ""),
    (400, "Content-Length: 18446744073709551616\r\n", ""),
    (400, "Content-Length: 99999999999999999999999\r\n", ""),
];

/// Bodies of chunked requests. The head is good, so it may be on its way already when the fault is seen.
#[rustfmt::skip]
const CHUNKS: &[&str] = &[
    "\r\n", "\n", "+5\r\nhello\r\n0\r\n\r\n", "-5\r\nhello\r\n0\r\n\r\n", "0x5\r\nhello\r\n0\r\n\r\n",
    " 5\r\nhello\r\n0\r\n\r\n", "5 \r\nhello\r\n0\r\n\r\n", "5_0\r\nhello\r\n0\r\n\r\n", "g\r\nhello\r\n0\r\n\r\n",
    "\x005\r\nhello\r\n0\r\n\r\n", ";a\r\nhello\r\n0\r\n\r\n", "5\nhello\n0\n\n", "5\r\rhello\r\n0\r\n\r\n",
    "10000000000000000\r\n", "fffffffffffffffff\r\n", "00000000000000005\r\nhello\r\n0\r\n\r\n",
    "5;\r\nhello\r\n0\r\n\r\n", "5;a\nhello\r\n0\r\n\r\n", "5;a=\"b\r\nhello\r\n0\r\n\r\n", "5;\x00\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello0\r\n\r\n", "5\r\nhello\n0\r\n\r\n", "5\r\nhelloXX0\r\n\r\n", "5\r\nhello!\r\n0\r\n\r\n",
    "5\r\nhello\r\n\r\n0\r\n\r\n", "0\r\n\n", "0\r\nX: a\n\r\n", "0\r\n X: a\r\n\r\n", "0\r\nX : a\r\n\r\n", "0\r\nX\r\n\r\n",
    "0\r\nContent-Length: 5\r\n\r\n", "0\r\nTransfer-Encoding: chunked\r\n\r\n", "0\r\nHost: evil.test\r\n\r\n",
    "0\r\nGET /inner HTTP/1.1\r\nX: a\r\n\r\n",
];

async fn in_front_of(raw: &RawBackend) -> Gateway {
    let gateway = Gateway::with(|settings| settings.workers = 1);
    gateway.apply(&service("web", &[raw.address()]));
    gateway.apply(&Ingress::any_host("web").yaml());
    gateway
}

async fn answering() -> RawBackend {
    let ok = Step::Send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".into());
    RawBackend::scripted([Step::AwaitHead, ok, Step::Again]).await.expect("start")
}

fn cases() -> Vec<(u16, String)> {
    let mut cases = Vec::new();
    cases.extend(LINES.iter().map(|(status, line)| (*status, format!("{line}Host: app.test\r\n\r\n"))));
    cases.extend(
        FIELDS.iter().map(|(status, lines)| (*status, format!("GET / HTTP/1.1\r\nHost: app.test\r\n{lines}\r\n"))),
    );
    cases.extend(
        FRAMINGS
            .iter()
            .map(|(status, lines, body)| (*status, format!("POST / HTTP/1.1\r\nHost: app.test\r\n{lines}\r\n{body}"))),
    );
    for host in [
        "",
        "Host:\r\n",
        "Host: a b\r\n",
        "Host: a, b\r\n",
        "Host: user@app.test\r\n",
        "Host: app.test/\r\n",
        "Host: app.test:80:80\r\n",
        "Host: app.test:65536\r\n",
        "Host: app.test:+1\r\n",
        "Host: http://app.test\r\n",
        "Host: [::1\r\n",
        "Host: 2001:db8::1\r\n",
        "Host: app.test\u{e9}\r\n",
        "Host: a%2etest\r\n",
        "X-Host: app.test\r\n",
    ] {
        cases.push((400, format!("GET / HTTP/1.1\r\n{host}\r\n")));
    }
    cases.push((400, "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned()));
    cases.push((400, "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\n".to_owned()));
    cases.push((431, format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(70_000))));
    cases.push((431, format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(200))));
    cases.push((414, format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(17_000))));
    cases
}

/// Asserts that one refusal came and nothing else, and returns what was said.
fn assert_refused(received: &[u8], statuses: &[u16], case: &str) {
    let case = case.escape_debug().take(200).collect::<String>();
    let text = String::from_utf8_lossy(received);
    assert!(statuses.iter().any(|status| text.starts_with(&format!("HTTP/1.1 {status} "))), "{case}: {text}");
    assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{case}: {text}");
    assert!(text.contains("\r\nconnection: close\r\n"), "{case}: {text}");
    assert!(!text.contains("smuggled"), "{case}: {text}");
}

#[tokio::test]
async fn what_is_refused_reaches_no_backend() {
    let raw = answering().await;
    let gateway = in_front_of(&raw).await;
    let cases = cases();
    assert!(cases.len() >= 110, "{}", cases.len());
    for (status, case) in &cases {
        let sent = [case.as_bytes(), SMUGGLED.as_bytes()].concat();
        let (received, end) = converse(gateway.http(), &[&sent]).await;
        assert_refused(&received, &[*status], case);
        assert_eq!(end, End::Closed, "{}", case.escape_debug());
    }
    assert!(raw.is_untouched(), "{}", raw.received().concat().escape_ascii());
    assert_eq!(raw.received().len(), 0, "no connection was made for nothing");
    assert_eq!(gateway.sample("sluicegate_faults_total{"), cases.len() as u64);
    until("all are over", || gateway.proxy().connections() == 0).await;
}

#[tokio::test]
async fn how_it_is_cut_into_segments_makes_no_difference() {
    let raw = answering().await;
    let gateway = in_front_of(&raw).await;
    for (status, case) in cases().iter().filter(|(_, case)| case.len() < 1000) {
        let sent = [case.as_bytes(), SMUGGLED.as_bytes()].concat();
        let bytes: Vec<&[u8]> = sent.chunks(1).collect();
        let (received, _) = converse(gateway.http(), &bytes).await;
        // A client that goes on sending may find the connection reset before it reads; it never gets more than a refusal.
        if !received.is_empty() {
            assert_refused(&received, &[*status], case);
        }
    }
    assert!(raw.is_untouched(), "{}", raw.received().concat().escape_ascii());
}

#[tokio::test]
async fn chunks_that_make_no_sense_reach_no_backend() {
    let raw = answering().await;
    let gateway = in_front_of(&raw).await;
    let bomb = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a=b;".repeat(100));
    let trailers = format!("0\r\n{}\r\n", "X: y\r\n".repeat(100));
    let many = format!("{}0\r\n\r\n", "1;abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz=1\r\nx\r\n".repeat(1000));
    for chunks in CHUNKS.iter().copied().chain([bomb.as_str(), trailers.as_str()]) {
        let case = format!("POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        let sent = [case.as_bytes(), SMUGGLED.as_bytes()].concat();
        raw.forget();
        let (received, _) = converse(gateway.http(), &[&sent]).await;
        assert_refused(&received, &[400, 431], &case);
        assert!(raw.is_untouched(), "{}: {}", chunks.escape_debug(), raw.received().concat().escape_ascii());
    }
    // Extensions that are small each and large together: the backend may have seen data, never an end.
    let case = format!("POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n{many}");
    let waiting = RawBackend::scripted([Step::AwaitBytes(usize::MAX >> 1)]).await.expect("start");
    gateway.set_endpoints("web", &[waiting.address()]);
    let (received, _) = converse(gateway.http(), &[case.as_bytes(), SMUGGLED.as_bytes()]).await;
    assert_refused(&received, &[400], &case);
    assert!(!waiting.received().concat().ends_with(b"0\r\n\r\n"));
}

/// Where the head left before the fault was seen, the backend is left with a request that never completes.
#[tokio::test]
async fn a_request_that_turns_bad_is_never_completed() {
    let raw = RawBackend::scripted([Step::AwaitBytes(usize::MAX >> 1)]).await.expect("start");
    let gateway = in_front_of(&raw).await;
    for chunks in CHUNKS {
        raw.forget();
        let mut client = gateway.connect().await;
        client.send("POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n").await;
        until("the backend has the beginning", || raw.received().concat().ends_with(b"4\r\ngood\r\n")).await;
        client.send([chunks.as_bytes(), SMUGGLED.as_bytes()].concat()).await;
        let answer = client.response().await;
        assert_eq!((answer.status, answer.field("connection")), (400, Some("close")), "{}", chunks.escape_debug());
        client.expect_end().await;
        let seen = String::from_utf8_lossy(&raw.received().concat()).into_owned();
        let (_, body) = seen.split_once("\r\n\r\n").expect("a head");
        assert!(!body.contains("0\r\n") && !seen.contains("smuggled") && !seen.contains("inner"), "{seen}");
        assert_eq!(raw.received().len(), 1);
    }
}

/// One good request of the table of legal ones: what is sent, the first line and the body as the backend shall see them.
#[rustfmt::skip]
const LEGAL: &[(&str, &str, &str)] = &[
    ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1", ""),
    ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1", ""),
    ("GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1", ""),
    ("GET http://b.test/x HTTP/1.1\r\nHost: a\r\n\r\n", "GET /x HTTP/1.1", ""),
    ("GET http://b.test HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1", ""),
    ("OPTIONS http://b.test HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * HTTP/1.1", ""),
    ("GET //evil.test/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET //evil.test/ HTTP/1.1", ""),
    ("GET /http://evil.test/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET /http://evil.test/ HTTP/1.1", ""),
    ("X-*!# / HTTP/1.1\r\nHost:a\r\n\r\n", "X-*!# / HTTP/1.1", ""),
    ("get / HTTP/1.1\r\nhOST: \t a \t\r\n\r\n", "get / HTTP/1.1", ""),
    ("GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n", "GET / HTTP/1.1", ""),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "POST / HTTP/1.1", ""),
    ("POST / HTTP/1.1\r\nHost: a\r\ncOntEnt-lEngth: 0005\r\n\r\nhello", "POST / HTTP/1.1", "hello"),
    ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "GET / HTTP/1.1", "hello"),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n", "POST / HTTP/1.1", "5\r\nhello\r\n0\r\n\r\n"),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \tchunked \r\n\r\n0000000000000005\r\nhello\r\n00\r\n\r\n", "POST / HTTP/1.1", "5\r\nhello\r\n0\r\n\r\n"),
    ("DELETE / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n0\r\n\r\n\r\n0\r\n\r\n", "DELETE / HTTP/1.1", "5\r\n0\r\n\r\n\r\n0\r\n\r\n"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a:b \"c\" \u{e9}\t~\r\n\r\n", "GET / HTTP/1.1", ""),
    ("GET / HTTP/1.1\r\nHost: a\r\nConnection: ,close,\r\n\r\n", "GET / HTTP/1.1", ""),
];

#[tokio::test]
async fn what_is_legal_passes_well_formed() {
    for (sent, line, body) in LEGAL {
        let ok = Step::Send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok".into());
        // However the client's pieces are cut into chunks.
        let end = if body.ends_with("0\r\n\r\n") { "\r\n0\r\n\r\n" } else { body };
        let raw = RawBackend::scripted([Step::AwaitHead, Step::AwaitEnd(end.into()), ok]).await.expect("start");
        let gateway = in_front_of(&raw).await;
        for pieces in [vec![sent.as_bytes()], sent.as_bytes().chunks(1).collect()] {
            raw.forget();
            let mut client = gateway.connect().await;
            for piece in pieces {
                client.send(piece).await;
            }
            let answer = client.response().await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{}", sent.escape_debug());
            let [seen] = &raw.received()[..] else { panic!("{}: not one connection", sent.escape_debug()) };
            assert_well_formed(seen, line, body, sent);
        }
    }
}

/// A second reading of what the backend got: one head of one request, and the body that it announces.
fn assert_well_formed(seen: &[u8], line: &str, body: &str, case: &str) {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(used) = request.parse(seen).expect("a request") else {
        panic!("{}: the head is not complete: {}", case.escape_debug(), seen.escape_ascii());
    };
    assert!(seen.starts_with(line.as_bytes()), "{}: {}", case.escape_debug(), seen.escape_ascii());
    let values = |name: &str| {
        request
            .headers
            .iter()
            .filter(|field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value)
            .collect::<Vec<_>>()
    };
    assert_eq!(values("host").len(), 1, "{}", seen.escape_ascii());
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    assert!(lengths.len() + codings.len() <= 1, "{}", seen.escape_ascii());
    let rest = String::from_utf8_lossy(&seen[used..]).into_owned();
    match (&lengths[..], &codings[..]) {
        ([length], []) => {
            assert_eq!((std::str::from_utf8(length), rest.as_str()), (Ok(body.len().to_string().as_str()), body))
        }
        ([], [coding]) => {
            assert_eq!(*coding, b"chunked");
            // However it was cut into chunks, the data and the one end are there.
            assert_eq!(unchunked(&rest), unchunked(body), "{}", case.escape_debug());
        }
        _ => assert_eq!((rest.as_str(), body), ("", "")),
    }
}

fn unchunked(mut text: &str) -> String {
    let mut data = String::new();
    loop {
        let (size, rest) = text.split_once("\r\n").expect("a chunk line");
        let size = usize::from_str_radix(size, 16).expect("a size");
        if size == 0 {
            assert_eq!(rest, "\r\n", "the end of the body");
            return data;
        }
        data.push_str(&rest[..size]);
        text = rest[size..].strip_prefix("\r\n").expect("CRLF");
    }
}
