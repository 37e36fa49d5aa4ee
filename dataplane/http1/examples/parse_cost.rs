//! Prints what the codec costs: nanoseconds per head and per chunk, beside httparse on the same bytes. The best of
//! several rounds, because the machine may be busy.
//!
//! `cargo run --release -p sluicegate-http1 --example parse_cost`

use std::hint::black_box;
use std::time::Instant;

use sluicegate_http1::{
    BodyDecoder, Decoded, Framing, HeadLimits, RequestHead, ResponseHead, Version, write_field, write_request_line,
};

const SMALL: &[u8] = b"GET /api/v1/items HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: wrk/4.2\r\n\
    Accept: */*\r\n\r\n";

const BROWSER: &[u8] = b"GET /wp-content/uploads/2010/03/hello-kitty.jpg?size=large HTTP/1.1\r\n\
    Host: www.kittyhell.test\r\n\
    User-Agent: Mozilla/5.0 (Macintosh; U; Intel Mac OS X 10.6; ja-JP-mac; rv:1.9.2.3) Gecko/20100401 Firefox/3.6.3\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: ja,en-us;q=0.7,en;q=0.3\r\n\
    Accept-Encoding: gzip,deflate\r\n\
    Cache-Control: max-age=0\r\n\
    Connection: keep-alive\r\n\
    Referer: https://www.kittyhell.test/index.html\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    Cookie: wp_ozh_wsa_visits=2; wp_ozh_wsa_visit_lasttime=xxxxxxxxxx; __utma=xxxxxxxxx.xxxxxxxxxx.xxxxxxxxxx\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: echo\r\nDate: Sun, 22 Nov 2026 19:28:00 GMT\r\n\
    Content-Type: application/json\r\nContent-Length: 64\r\nCache-Control: no-store\r\n\
    Connection: keep-alive\r\n\r\n";

fn main() {
    let limits = HeadLimits::default();
    let mut request = RequestHead::new();
    for (name, bytes) in [("small request", SMALL), ("browser request", BROWSER)] {
        let ours = best_of(|| {
            request.clear();
            black_box(request.parse(black_box(bytes), &limits)).ok();
        });
        let theirs = best_of(|| {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut head = httparse::Request::new(&mut fields);
            black_box(head.parse(black_box(bytes))).ok();
        });
        println!(
            "{name}, {} bytes: {ours:.0} ns (httparse, which checks less and keeps nothing: {theirs:.0} ns)",
            bytes.len()
        );
    }
    let mut response = ResponseHead::new();
    let cost = best_of(|| {
        response.clear();
        black_box(response.parse(black_box(RESPONSE), false, false, &limits)).ok();
    });
    println!("response, {} bytes: {cost:.0} ns", RESPONSE.len());

    let mut out = Vec::new();
    let cost = best_of(|| {
        out.clear();
        write_request_line(&mut out, request.method(), request.path_and_query(), Version::Http11);
        for field in request.fields() {
            write_field(&mut out, field.name, field.value);
        }
        out.extend_from_slice(b"\r\n");
        black_box(&out);
    });
    println!("writing the browser request: {cost:.0} ns");

    let mut body = Vec::new();
    for _ in 0..16 {
        body.extend_from_slice(b"400\r\n");
        body.resize(body.len() + 1024, b'x');
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    let cost = best_of(|| {
        black_box(decode(black_box(&body)));
    });
    println!("chunked body, a chunk of 1 KiB: {:.1} ns", cost / 16.0);
}

fn decode(body: &[u8]) -> usize {
    let mut decoder = BodyDecoder::new(Framing::Chunked);
    let (mut at, mut data) = (0, 0);
    while let Ok(Decoded::Data { skip, len }) = decoder.decode(&body[at..]) {
        at += skip + len;
        data += len;
    }
    data
}

/// Nanoseconds per call.
fn best_of(mut work: impl FnMut()) -> f64 {
    const CALLS: u32 = 20_000;
    let round = || {
        let start = Instant::now();
        for _ in 0..CALLS {
            work();
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    std::iter::repeat_with(round).take(15).fold(f64::INFINITY, f64::min)
}
