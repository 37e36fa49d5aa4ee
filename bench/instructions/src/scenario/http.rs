//! Heads of HTTP/1.1: read, and written again. What the proxy leaves out and adds in between is counted through the proxy
//! itself, in the rows `proxy/`.

use super::{Row, Work};
use sluicegate_http1::{HeadLimits, RequestHead, ResponseHead, Version, write_field, write_request_line};
use std::hint::black_box;

pub(super) const SCENARIOS: &[Row] = &[
    ("http1/read-small-request", || read_request(SMALL)),
    ("http1/read-browser-request", || read_request(BROWSER)),
    ("http1/read-response", read_response),
    ("http1/write-browser-request", write_request),
];

const SMALL: &[u8] = b"GET / HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: load\r\nAccept: */*\r\n\r\n";

/// What a browser sends.
const BROWSER: &[u8] = b"GET /assets/app.js?v=17 HTTP/1.1\r\nHost: shop.example\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nAccept: */*\r\n\
    Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nReferer: https://shop.example/\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef\r\nSec-Fetch-Dest: script\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: echo\r\nDate: Sun, 22 Nov 2026 19:28:00 GMT\r\n\
    Content-Type: application/json\r\nContent-Length: 64\r\nCache-Control: no-store\r\nConnection: keep-alive\r\n\r\n";

fn read_request(bytes: &'static [u8]) -> Work {
    let limits = HeadLimits::default();
    let mut head = RequestHead::new();
    Box::new(move || {
        head.clear();
        head.parse(black_box(bytes), &limits) == Ok(Some(bytes.len()))
    })
}

fn read_response() -> Work {
    let limits = HeadLimits::default();
    let mut head = ResponseHead::new();
    Box::new(move || {
        head.clear();
        head.parse(black_box(RESPONSE), false, false, &limits) == Ok(Some(RESPONSE.len()))
    })
}

fn write_request() -> Work {
    let mut head = RequestHead::new();
    let is_read = head.parse(BROWSER, &HeadLimits::default()) == Ok(Some(BROWSER.len()));
    let mut out = Vec::with_capacity(1024);
    Box::new(move || {
        let head = black_box(&head);
        out.clear();
        write_request_line(&mut out, head.method(), head.path_and_query(), Version::Http11);
        for field in head.fields() {
            write_field(&mut out, field.name, field.value);
        }
        out.extend_from_slice(b"\r\n");
        is_read && black_box(&out).len() == BROWSER.len()
    })
}
