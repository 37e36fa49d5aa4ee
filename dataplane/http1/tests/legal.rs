//! Messages that must pass, and what is understood from them.

mod support;

use sluicegate_http1::{
    BodyDecoder, BodyError, Decoded, Field, FieldName, Framing, HeadError, HeadLimits, RequestHead, ResponseHead,
    TargetForm, Version, allowed_in_trailers, canonical_reason, write_chunk_head, write_field, write_last_chunk,
    write_request_line, write_status_line,
};

fn request(input: &[u8]) -> RequestHead {
    let mut head = RequestHead::new();
    let parsed = head.parse(input, &HeadLimits::default());
    assert!(matches!(parsed, Ok(Some(_))), "{parsed:?}: {}", input.escape_ascii());
    head
}

/// A GET of HTTP/1.1 with these lines.
fn with(lines: &str) -> RequestHead {
    request(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n").as_bytes())
}

fn response(input: &[u8], head_request: bool, connect: bool) -> ResponseHead {
    let mut head = ResponseHead::new();
    let parsed = head.parse(input, head_request, connect, &HeadLimits::default());
    assert_eq!(parsed, Ok(Some(input.len())), "{}", input.escape_ascii());
    head
}

#[test]
fn targets() {
    use TargetForm::{Absolute, Asterisk, Authority, Origin};
    #[rustfmt::skip]
    let cases = [
        // method, target, form, path and query, path, query, authority, host, port
        ("GET", "/", Origin, "/", "/", None, "h.test:8080", "h.test", Some(8080)),
        ("GET", "/a/b?c=d?e", Origin, "/a/b?c=d?e", "/a/b", Some("c=d?e"), "h.test:8080", "h.test", Some(8080)),
        ("GET", "/?", Origin, "/?", "/", Some(""), "h.test:8080", "h.test", Some(8080)),
        ("GET", "//x/", Origin, "//x/", "//x/", None, "h.test:8080", "h.test", Some(8080)),
        ("GET", "/a|b{c}^`\"<>\\[]%", Origin, "/a|b{c}^`\"<>\\[]%", "/a|b{c}^`\"<>\\[]%", None, "h.test:8080", "h.test", Some(8080)),
        ("GET", "/http://b.test/", Origin, "/http://b.test/", "/http://b.test/", None, "h.test:8080", "h.test", Some(8080)),
        ("OPTIONS", "*", Asterisk, "*", "*", None, "h.test:8080", "h.test", Some(8080)),
        ("GET", "http://B.test/a?b", Absolute, "/a?b", "/a", Some("b"), "B.test", "B.test", None),
        ("GET", "HTTPS://b.test:443/a", Absolute, "/a", "/a", None, "b.test:443", "b.test", Some(443)),
        ("GET", "http://b.test", Absolute, "/", "/", None, "b.test", "b.test", None),
        ("GET", "http://b.test?q=/", Absolute, "/?q=/", "/", Some("q=/"), "b.test", "b.test", None),
        ("GET", "http://b.test:/", Absolute, "/", "/", None, "b.test:", "b.test", None),
        ("GET", "http://[2001:db8::1]:80/x", Absolute, "/x", "/x", None, "[2001:db8::1]:80", "[2001:db8::1]", Some(80)),
        ("OPTIONS", "http://b.test:8001", Absolute, "*", "*", None, "b.test:8001", "b.test", Some(8001)),
        ("OPTIONS", "http://b.test/", Absolute, "/", "/", None, "b.test", "b.test", None),
        ("CONNECT", "b.test:443", Authority, "/", "/", None, "b.test:443", "b.test", Some(443)),
        ("CONNECT", "[2001:db8::1]:443", Authority, "/", "/", None, "[2001:db8::1]:443", "[2001:db8::1]", Some(443)),
    ];
    for (method, target, form, path_and_query, path, query, authority, host, port) in cases {
        let head = request(format!("{method} {target} HTTP/1.1\r\nHost: h.test:8080\r\n\r\n").as_bytes());
        assert_eq!(head.target(), target.as_bytes());
        assert_eq!(head.form(), form, "{target}");
        assert_eq!(head.path_and_query(), path_and_query.as_bytes(), "{target}");
        assert_eq!(head.path(), path.as_bytes(), "{target}");
        assert_eq!(head.query(), query.map(str::as_bytes), "{target}");
        assert_eq!(head.authority(), authority.as_bytes(), "{target}");
        assert_eq!(head.host(), host.as_bytes(), "{target}");
        assert_eq!(head.port(), port, "{target}");
    }
}

#[test]
fn hosts() {
    for host in
        ["a", "a.test", "A.Test.", "a-b_c~d.test:80", "192.0.2.1:1", "[::1]", "[2001:db8::192.0.2.1]:65535", "a:"]
    {
        let head = request(format!("GET / HTTP/1.1\r\nHost: \t {host} \t\r\n\r\n").as_bytes());
        assert_eq!(head.authority(), host.as_bytes());
    }
    let head = request(b"GET / HTTP/1.0\r\n\r\n");
    assert_eq!((head.authority(), head.host(), head.port()), (&b""[..], &b""[..], None));
}

#[test]
fn one_empty_line_before_a_request() {
    let input = b"\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\nGET";
    let mut head = RequestHead::new();
    assert_eq!(head.parse(input, &HeadLimits::default()), Ok(Some(input.len() - 3)));
    assert_eq!(head.method(), b"GET");
}

#[test]
fn methods() {
    for (method, idempotent) in [
        ("GET", true),
        ("HEAD", true),
        ("OPTIONS", true),
        ("TRACE", true),
        ("PUT", true),
        ("DELETE", true),
        ("POST", false),
        ("PATCH", false),
        ("get", false),
        ("M-SEARCH", false),
        ("*!#", false),
    ] {
        let head = request(format!("{method} / HTTP/1.1\r\nHost: a.test\r\n\r\n").as_bytes());
        assert_eq!(head.method(), method.as_bytes());
        assert_eq!(head.is_idempotent(), idempotent, "{method}");
        assert_eq!(head.is_head(), method == "HEAD");
        assert!(!head.is_connect());
    }
}

#[test]
fn framing_of_requests() {
    for (lines, framing) in [
        ("", Framing::None),
        ("Content-Length: 0\r\n", Framing::Length(0)),
        ("Content-Length: 5\r\n", Framing::Length(5)),
        ("content-length:\t005 \r\n", Framing::Length(5)),
        ("CONTENT-LENGTH: 18446744073709551615\r\n", Framing::Length(u64::MAX)),
        ("Transfer-Encoding: chunked\r\n", Framing::Chunked),
        ("transfer-encoding:CHUNKED\t\r\n", Framing::Chunked),
        ("Transfer_Encoding: chunked\r\n", Framing::None),
    ] {
        assert_eq!(with(lines).framing(), framing, "{lines}");
    }
}

#[test]
fn connection_options() {
    for (version, lines, keep_alive, upgrade) in [
        ("1.1", "", true, None),
        ("1.1", "Connection: close\r\n", false, None),
        ("1.1", "Connection: keep-alive\r\nConnection: ,CLOSE,\r\n", false, None),
        ("1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n", true, Some("websocket")),
        ("1.1", "Connection: keep-alive , uPGRADE\r\nUpgrade: h2c, websocket\r\n", true, Some("h2c, websocket")),
        ("1.1", "Upgrade: websocket\r\n", true, None),
        ("1.1", "Connection: upgrade\r\n", true, None),
        ("1.1", "Connection: upgrade\r\nUpgrade:\r\n", true, None),
        ("1.1", "Proxy-Connection: close\r\n", true, None),
        ("1.0", "", false, None),
        ("1.0", "Connection: Keep-Alive\r\n", true, None),
        ("1.0", "Connection: keep-alive, close\r\n", false, None),
        ("1.0", "Connection: keep-alive, upgrade\r\nUpgrade: websocket\r\n", true, None),
    ] {
        let head = request(format!("GET / HTTP/{version}\r\nHost: a.test\r\n{lines}\r\n").as_bytes());
        assert_eq!(head.keep_alive(), keep_alive, "{version} {lines}");
        assert_eq!(head.upgrade(), upgrade.map(str::as_bytes), "{version} {lines}");
    }
    let head = with("Connection: x-secret, Te\r\nconnection: close\r\nTE: trailers;q=0.5, Trailers\r\n");
    for name in ["X-Secret", "te", "close"] {
        assert!(head.is_connection_option(name.as_bytes()), "{name}");
    }
    assert!(!head.is_connection_option(b"x-other"));
    assert!(head.te_trailers());
    assert!(!with("TE: gzip\r\n").te_trailers());
}

#[test]
fn expectations() {
    let body = "Content-Length: 5\r\nExpect: 100-Continue\r\n";
    assert!(with(body).expects_continue());
    assert!(with("Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n").expects_continue());
    assert!(!with("Expect: 100-continue\r\n").expects_continue());
    assert!(!with("Content-Length: 5\r\n").expects_continue());
    let old = request(format!("POST / HTTP/1.0\r\n{body}\r\n").as_bytes());
    assert!(!old.expects_continue());
}

#[test]
fn fields_are_found_by_name_and_in_order() {
    let head = with("X-A: 1\r\nCookie:a=b\r\nx-a:\t2  3 \r\ncookie: c=d\r\nEmpty:\r\nUtf: \u{e9}\r\n");
    let names: Vec<_> = head.fields().map(|f| f.name).collect();
    assert_eq!(names, [&b"Host"[..], b"X-A", b"Cookie", b"x-a", b"cookie", b"Empty", b"Utf"]);
    assert_eq!(head.len_fields(), 7);
    assert_eq!(head.field(FieldName::Cookie), Some(&b"a=b"[..]));
    assert_eq!(head.fields_named(FieldName::Cookie).collect::<Vec<_>>(), [b"a=b", b"c=d"]);
    assert_eq!(head.field(FieldName::Te), None);
    assert_eq!(head.field_by_name(b"X-a"), Some(&b"1"[..]));
    assert_eq!(head.field_by_name(b"COOKIE"), Some(&b"a=b"[..]));
    assert_eq!(head.field_by_name(b"empty"), Some(&b""[..]));
    assert_eq!(head.field_by_name(b"utf"), Some("\u{e9}".as_bytes()));
    assert_eq!(head.field_by_name(b"none"), None);
    assert_eq!(head.fields_named(FieldName::Other).count(), 4);
}

#[test]
fn known_names_resolve_in_any_case() {
    for id in FieldName::known() {
        let name = id.as_str().expect("a known name has a text");
        assert_eq!(name, name.to_ascii_lowercase());
        assert_eq!(FieldName::of(name.as_bytes()), id);
        assert_eq!(FieldName::of(name.to_ascii_uppercase().as_bytes()), id);
        assert_eq!(FieldName::of(format!("{name}x").as_bytes()), FieldName::Other);
        assert_eq!(FieldName::of(&name.as_bytes()[1..]), FieldName::Other);
        let disguise = name.replace('-', "_");
        let expected = (disguise != name).then_some(id);
        assert_eq!(FieldName::disguised(disguise.as_bytes()), expected, "{disguise}");
    }
    for name in [&b""[..], b"x", b"content\rlength", b"content_length", b"x_forwarded_for_me_and_for_all_others"] {
        assert_eq!(FieldName::of(name), FieldName::Other);
    }
    assert_eq!(FieldName::Other.as_str(), None);
    assert_eq!(FieldName::disguised(b"X_Forwarded-FOR"), Some(FieldName::XForwardedFor));
    assert_eq!(FieldName::disguised(b"x-forwarded-for"), None);
    assert_eq!(FieldName::disguised(b"x_custom"), None);
}

#[test]
fn framing_of_responses() {
    use Framing::{Chunked, Length, None, UntilClose};
    for (head, lines, framing, keep_alive) in [
        ("HTTP/1.1 200 OK", "", UntilClose, false),
        ("HTTP/1.1 200 OK", "Connection: keep-alive\r\n", UntilClose, false),
        ("HTTP/1.1 200 OK", "Content-Length: 5\r\n", Length(5), true),
        ("HTTP/1.1 200 OK", "Content-Length: 5\r\nConnection: close\r\n", Length(5), false),
        ("HTTP/1.1 200 OK", "Transfer-Encoding: Chunked\r\n", Chunked, true),
        ("HTTP/1.0 200 OK", "Content-Length: 5\r\n", Length(5), false),
        ("HTTP/1.0 200 OK", "Content-Length: 5\r\nConnection: keep-alive\r\n", Length(5), true),
        ("HTTP/1.1 204 No Content", "Content-Length: 5\r\n", None, true),
        ("HTTP/1.1 204 No Content", "Transfer-Encoding: chunked\r\n", None, true),
        ("HTTP/1.1 304 Not Modified", "Content-Length: 5\r\n", None, true),
        ("HTTP/1.1 100 Continue", "", None, true),
        ("HTTP/1.1 103 Early Hints", "Content-Length: 5\r\n", None, true),
        ("HTTP/1.1 999 Odd", "Content-Length: 5\r\n", Length(5), true),
        ("HTTP/1.1 200", "Content-Length: 5\r\n", Length(5), true),
        ("HTTP/1.1 200 ", "Content-Length: 5\r\n", Length(5), true),
    ] {
        let response = response(format!("{head}\r\n{lines}\r\n").as_bytes(), false, false);
        assert_eq!(response.framing(), framing, "{head} {lines}");
        assert_eq!(response.keep_alive(), keep_alive, "{head} {lines}");
    }
    let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(response(bytes, true, false).framing(), None);
    assert_eq!(response(bytes, false, true).framing(), None);
    assert_eq!(response(b"HTTP/1.1 407 No\r\nContent-Length: 5\r\n\r\n", false, true).framing(), Length(5));
}

#[test]
fn status_lines() {
    let head = response(b"HTTP/1.0 404 Not  Here \xe9\r\nServer: x\r\n\r\n", false, false);
    assert_eq!((head.version(), head.status()), (Version::Http10, 404));
    assert_eq!(head.reason(), b"Not  Here \xe9");
    assert_eq!(head.field(FieldName::Server), Some(&b"x"[..]));
    for (input, reason) in [(&b"HTTP/1.1 200\r\n\r\n"[..], &b""[..]), (b"HTTP/1.1 200 \r\n\r\n", b"")] {
        assert_eq!(response(input, false, false).reason(), reason);
    }
    for (status, informational, interim) in
        [(100, true, true), (101, true, false), (103, true, true), (200, false, false)]
    {
        let head = response(format!("HTTP/1.1 {status} x\r\n\r\n").as_bytes(), false, false);
        assert_eq!((head.is_informational(), head.is_interim()), (informational, interim));
    }
    let head = response(b"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", false, false);
    assert_eq!(head.upgrade(), Some(&b"websocket"[..]));
}

#[test]
fn bodies_of_each_framing() {
    let end = |framing, input: &[u8]| support::body(framing, input, &[]);
    for framing in [Framing::None, Framing::Length(0)] {
        assert_eq!(end(framing, b"next").end, Ok((0, true)));
        assert!(BodyDecoder::new(framing).is_done());
    }
    let body = end(Framing::Length(5), b"hellonext");
    assert_eq!((body.data, body.end), (b"hello".to_vec(), Ok((5, true))));
    let body = end(Framing::UntilClose, b"0\r\n\r\nall of it");
    assert_eq!((body.data.len(), body.end), (14, Ok((14, false))));
    let input = b"5;a=\"\\\"\";b = c\r\nhello\r\nA\r\n, my world\r\n000\r\nX-T: 1\r\n\r\nnext";
    let body = end(Framing::Chunked, input);
    assert_eq!(body.data, b"hello, my world");
    assert_eq!(body.trailers, [(b"X-T".to_vec(), b"1".to_vec())]);
    assert_eq!(body.end, Ok((input.len() - "next".len(), true)));
}

#[test]
fn the_end_of_the_connection_ends_or_truncates() {
    let mut decoder = BodyDecoder::new(Framing::UntilClose);
    assert_eq!(decoder.decode(b"x"), Ok(Decoded::Data { skip: 0, len: 1 }));
    assert!(!decoder.is_done());
    assert_eq!(decoder.eof(), Ok(()));
    assert!(decoder.is_done());
    for framing in [Framing::Length(2), Framing::Chunked] {
        let mut decoder = BodyDecoder::new(framing);
        assert!(decoder.decode(b"1").is_ok());
        assert_eq!(decoder.eof(), Err(BodyError::Truncated));
        assert_eq!(decoder.decode(b"1"), Err(BodyError::Truncated));
        decoder.reset(Framing::Length(1));
        assert_eq!(decoder.decode(b"1"), Ok(Decoded::Data { skip: 0, len: 1 }));
        assert!(decoder.is_done());
        assert_eq!(decoder.eof(), Ok(()));
    }
}

#[test]
fn trailers_keep_what_may_stand_there() {
    let input =
        b"0\r\nGrpc-Status: 0\r\nCookie: a\r\nContent-Type: a/b\r\nContent-Digest: x\r\nX-Forwarded-For: 192.0.2.1\r\n\
        X_Forwarded_For: 192.0.2.1\r\nAuthorization: b\r\nX-Checksum:  y \r\nConnection: close\r\n\r\n";
    let mut decoder = BodyDecoder::new(Framing::Chunked);
    assert_eq!(decoder.decode(input), Ok(Decoded::End { skip: input.len() }));
    let trailers = decoder.trailers();
    let kept: Vec<_> = trailers.fields().map(|f| (f.name, f.value)).collect();
    assert_eq!(kept, [(&b"Grpc-Status"[..], &b"0"[..]), (b"Content-Digest", b"x"), (b"X-Checksum", b"y")]);
    assert_eq!((trailers.len_fields(), trailers.dropped(), trailers.is_empty()), (3, 6, false));
    assert_eq!(trailers.field_by_name(b"x-checksum"), Some(&b"y"[..]));
    assert_eq!(trailers.fields().next().map(|f| f.id), Some(FieldName::GrpcStatus));
    decoder.reset(Framing::Chunked);
    assert!(decoder.trailers().is_empty());
    assert_eq!(decoder.trailers().dropped(), 0);
}

#[test]
fn heads_built_by_hand() {
    let limits = HeadLimits::default();
    let mut head = RequestHead::new();
    head.begin(Version::Http2, b"POST", b"/a?b").expect("start");
    for (name, value) in [("host", "a.test:1"), ("content-type", " x "), ("te", "trailers"), ("content-length", "5")] {
        head.push(name.as_bytes(), value.as_bytes()).expect(name);
    }
    head.finish(&limits).expect("a good head");
    assert_eq!((head.version(), head.framing()), (Version::Http2, Framing::Length(5)));
    assert_eq!((head.path(), head.query(), head.authority()), (&b"/a"[..], Some(&b"b"[..]), &b"a.test:1"[..]));
    assert_eq!(head.field(FieldName::ContentType), Some(&b"x"[..]));
    assert!(head.keep_alive() && head.te_trailers());

    head.set_framing(Framing::Length(6));
    assert_eq!(head.finish(&limits), Err(HeadError::DifferingContentLengths));
    head.set_framing(Framing::Chunked);
    assert_eq!(head.finish(&limits), Ok(()));
    assert_eq!(head.framing(), Framing::Chunked);

    let small = HeadLimits { max_head_bytes: 40, ..limits };
    assert_eq!(head.finish(&small), Err(HeadError::HeadTooLarge));
    assert_eq!(head.finish(&HeadLimits { max_fields: 3, ..limits }), Err(HeadError::TooManyFields));
    assert_eq!(head.finish(&HeadLimits { max_target_bytes: 3, ..limits }), Err(HeadError::TargetTooLong));

    head.begin(Version::Http11, b"GET", b"http://b.test?q").expect("start");
    head.push(b"Host", b"a.test").expect("host");
    assert_eq!((head.finish(&limits), head.finish(&limits)), (Ok(()), Ok(())));
    assert_eq!((head.path_and_query(), head.authority()), (&b"/?q"[..], &b"b.test"[..]));
    assert_eq!(head.framing(), Framing::None);

    let mut response = ResponseHead::new();
    response.begin(Version::Http2, 200, b"").expect("start");
    response.push(b"server", b"x").expect("field");
    response.finish(&limits).expect("a good head");
    assert_eq!(response.framing(), Framing::Chunked);
}

#[test]
fn memory_is_kept_between_messages_and_given_back_when_idle() {
    let limits = HeadLimits::default();
    let input = b"GET /a HTTP/1.1\r\nHost: a.test\r\nAccept: */*\r\n\r\n";
    let mut head = RequestHead::new();
    assert_eq!(head.capacity_bytes(), 0);
    assert!(head.parse(input, &limits).is_ok());
    let steady = head.capacity_bytes();
    assert!(steady > 0);
    for _ in 0..100 {
        head.clear();
        assert_eq!(head.len_fields(), 0);
        assert!(head.parse(input, &limits).is_ok());
        assert_eq!(head.capacity_bytes(), steady);
    }
    // Without `clear`, a complete head is replaced by the next.
    assert_eq!(head.parse(input, &limits), Ok(Some(input.len())));
    assert_eq!(head.len_fields(), 2);
    head.shrink();
    assert_eq!(head.capacity_bytes(), 0);
}

#[test]
fn debug_output_holds_no_credentials() {
    let head = request(
        b"GET /p?token=SECRET HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer SECRET\r\nCookie: s=SECRET\r\n\
          proxy-authorization: SECRET\r\nAccept: visible\r\n\r\n",
    );
    let text = format!("{head:?}");
    assert!(!text.contains("SECRET"), "{text}");
    assert!(text.contains("visible") && text.contains("/p"), "{text}");
    let head = response(b"HTTP/1.1 200 OK\r\nSet-Cookie: SECRET\r\n\r\n", false, false);
    assert!(!format!("{head:?}").contains("SECRET"));
}

#[test]
fn serialising() {
    let mut out = Vec::new();
    assert!(write_request_line(&mut out, b"GET", b"/a?b", Version::Http11));
    assert!(write_field(&mut out, b"host", b"a.test"));
    assert!(write_field(&mut out, b"x", b""));
    assert_eq!(out, b"GET /a?b HTTP/1.1\r\nhost: a.test\r\nx: \r\n");

    out.clear();
    write_status_line(&mut out, 404, canonical_reason(404).as_bytes(), Version::Http10);
    write_status_line(&mut out, 7, b"", Version::Http2);
    write_status_line(&mut out, 200, b"OK\r\nx: y", Version::Http11);
    assert_eq!(out, b"HTTP/1.0 404 Not Found\r\nHTTP/1.1 007 \r\nHTTP/1.1 200 \r\n");

    out.clear();
    for len in [0, 1, 9, 10, 15, 16, 0xabcdef, usize::MAX] {
        write_chunk_head(&mut out, len);
    }
    let expected = format!("1\r\n9\r\na\r\nf\r\n10\r\nabcdef\r\n{:x}\r\n", usize::MAX);
    assert_eq!(out, expected.as_bytes());

    out.clear();
    write_last_chunk(&mut out, std::iter::empty());
    let trailers = [
        Field::new(b"grpc-status", b"0"),
        Field::new(b"content-length", b"5"),
        Field::new(b"x", b"a\r\nb: c"),
        Field::new(b"x", b"y"),
    ];
    write_last_chunk(&mut out, trailers.into_iter());
    assert_eq!(out, b"0\r\n\r\n0\r\ngrpc-status: 0\r\nx: y\r\n\r\n");
    assert!(!allowed_in_trailers(trailers[1]) && allowed_in_trailers(trailers[3]));
    assert_eq!((canonical_reason(200), canonical_reason(299)), ("OK", ""));
}

#[test]
fn nothing_that_ends_a_line_is_written() {
    let mut out = Vec::new();
    for bad in [&b"a\rb"[..], b"a\nb", b"a\0b", b"a\x7f"] {
        assert!(!write_field(&mut out, b"x", bad));
        assert!(!write_field(&mut out, bad, b"x"));
        assert!(!write_request_line(&mut out, b"GET", bad, Version::Http11));
        assert!(!write_request_line(&mut out, bad, b"/", Version::Http11));
    }
    for bad in [&b""[..], b"a b", b"\xc3\xa9"] {
        assert!(!write_request_line(&mut out, b"GET", bad, Version::Http11));
        assert!(!write_field(&mut out, bad, b"x"));
    }
    assert!(out.is_empty());
}
