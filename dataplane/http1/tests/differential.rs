//! Against a second parser: what passes here, httparse reads in the same way; what it passes and we do not is refused
//! for one of the reasons listed here, each of them on purpose.

mod support;

use proptest::prelude::*;
use sluicegate_http1::{BodyDecoder, Decoded, Framing, HeadError, HeadLimits};

/// Why a request that httparse takes is refused.
const STRICTER_ON_REQUESTS: &[HeadError] = &[
    // Line ends.
    HeadError::LfWithoutCr,
    HeadError::BadRequestLine,
    // Characters.
    HeadError::InvalidTarget,
    HeadError::UserinfoInTarget,
    HeadError::InvalidMethod,
    // What the fields say, which httparse does not look at.
    HeadError::MissingHost,
    HeadError::MultipleHosts,
    HeadError::InvalidHost,
    HeadError::ContentLengthAndTransferEncoding,
    HeadError::BadContentLength,
    HeadError::DifferingContentLengths,
    HeadError::RepeatedContentLength,
    HeadError::BadTransferEncoding,
    HeadError::UnsupportedTransferEncoding,
    HeadError::TransferEncodingInHttp10,
    HeadError::ContentForbidden,
    HeadError::BadConnection,
    HeadError::UnsupportedExpectation,
];

/// Why a response that httparse takes is refused.
const STRICTER_ON_RESPONSES: &[HeadError] = &[
    HeadError::LfWithoutCr,
    HeadError::BadStatusLine,
    HeadError::InvalidStatus,
    HeadError::InvalidVersion,
    HeadError::ContentLengthAndTransferEncoding,
    HeadError::BadContentLength,
    HeadError::DifferingContentLengths,
    HeadError::RepeatedContentLength,
    HeadError::BadTransferEncoding,
    HeadError::UnsupportedTransferEncoding,
    HeadError::TransferEncodingInHttp10,
    HeadError::BadConnection,
];

const MAX_FIELDS: usize = 128;

fn pick(from: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(from).prop_map(|text| text.as_bytes().to_vec())
}

fn line_end() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![30 => Just(b"\r\n".to_vec()), 1 => pick(&["\n", "\r", "\r\r\n", "\r\n ", "\n\r", ""])]
}

fn field_line() -> impl Strategy<Value = Vec<u8>> {
    let name = pick(&[
        "Host",
        "host",
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "Expect",
        "Upgrade",
        "TE",
        "X-A",
        "Accept",
        "x_y",
        "Cookie",
        "",
        "a b",
        "a(",
    ]);
    let colon = prop_oneof![20 => pick(&[":", ": ", ":\t ", ":  "]), 1 => pick(&[" :", "\t: ", "", "::"])];
    let value = pick(&[
        "a.test",
        "a.test:80",
        "[::1]",
        "a,b",
        "5",
        "5, 5",
        "+5",
        "0",
        "chunked",
        "Chunked",
        "gzip, chunked",
        "identity",
        "close",
        "keep-alive",
        "x y",
        "100-continue",
        "",
        "trailing \t ",
        "\u{e9}",
        "in\tside",
        "nul\0",
        "bell\x07",
    ]);
    (name, colon, value, line_end()).prop_map(|(name, colon, value, end)| [name, colon, value, end].concat())
}

fn fields() -> impl Strategy<Value = Vec<u8>> {
    let good = prop::collection::vec(
        pick(&["X-A: b\r\n", "Accept:*/*\r\n", "Cookie: a=b \r\n", "Content-Length: 5\r\n"]),
        0..4,
    );
    let mixed = prop::collection::vec(field_line(), 0..5);
    (prop_oneof![3 => Just(b"Host: a.test\r\n".to_vec()), 1 => Just(Vec::new())], good, mixed)
        .prop_map(|(host, good, mixed)| [host, good.concat(), mixed.concat()].concat())
}

/// Damages a byte of some heads.
fn damaged(head: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"\r\n \t:\0/".to_vec())];
    (head, prop::option::weighted(0.4, (any::<prop::sample::Index>(), byte, 0..3_u8))).prop_map(|(mut head, damage)| {
        let Some((at, byte, how)) = damage else {
            return head;
        };
        let at = at.index(head.len());
        match how {
            0 => head[at] = byte,
            1 => head.insert(at, byte),
            _ => {
                head.remove(at);
            }
        }
        head
    })
}

fn requests() -> impl Strategy<Value = Vec<u8>> {
    let start = prop_oneof![20 => Just(Vec::new()), 1 => pick(&["\r\n", "\n", "\r\n\r\n", " "])];
    let method = pick(&["GET", "POST", "OPTIONS", "CONNECT", "get", "TRACE", "M-X"]);
    let space = || prop_oneof![30 => Just(b" ".to_vec()), 1 => pick(&["  ", "\t", ""])];
    let target = pick(&[
        "/",
        "/",
        "/a?b=c",
        "*",
        "http://a.test/x",
        "http://a.test",
        "a.test:443",
        "/a#b",
        "/\u{e9}",
        "/{}|\"<>",
        "",
        "http://u@a.test/",
    ]);
    let version = prop_oneof![10 => pick(&["HTTP/1.1", "HTTP/1.0"]), 1 => pick(&["HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 ", ""])];
    let head = (start, method, space(), target, space(), version, line_end(), fields(), line_end())
        .prop_map(|(a, b, c, d, e, f, g, h, i)| [a, b, c, d, e, f, g, h, i].concat());
    damaged(head)
}

fn responses() -> impl Strategy<Value = Vec<u8>> {
    let start = prop_oneof![20 => Just(Vec::new()), 1 => pick(&["\r\n", "\n"])];
    let version = prop_oneof![10 => pick(&["HTTP/1.1", "HTTP/1.0"]), 1 => pick(&["HTTP/1.2", "http/1.1", ""])];
    let status = pick(&[
        " 200 OK",
        " 204 No Content",
        " 304 ",
        " 200",
        " 999 x",
        " 099 x",
        " 20 OK",
        " 2000",
        "  200 OK",
        " 200 \u{e9}",
    ]);
    let head = (start, version, status, line_end(), fields(), line_end())
        .prop_map(|(a, b, c, d, e, f)| [a, b, c, d, e, f].concat());
    damaged(head)
}

/// What httparse says: complete with these fields, more, or no.
enum Theirs<T> {
    Complete(T),
    More,
    Refused,
}

struct TheirHead {
    len: usize,
    first: Vec<u8>,
    second: Vec<u8>,
    version: u8,
    fields: support::Pairs,
}

fn their_fields(fields: &[httparse::Header<'_>]) -> support::Pairs {
    fields.iter().map(|f| (f.name.as_bytes().to_vec(), f.value.to_vec())).collect()
}

fn their_request(input: &[u8]) -> Theirs<TheirHead> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut head = httparse::Request::new(&mut fields);
    match head.parse(input) {
        Ok(httparse::Status::Complete(len)) => Theirs::Complete(TheirHead {
            len,
            first: head.method.unwrap_or_default().as_bytes().to_vec(),
            second: head.path.unwrap_or_default().as_bytes().to_vec(),
            version: head.version.unwrap_or_default(),
            fields: their_fields(head.headers),
        }),
        Ok(httparse::Status::Partial) => Theirs::More,
        Err(_) => Theirs::Refused,
    }
}

fn their_response(input: &[u8]) -> Theirs<TheirHead> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut head = httparse::Response::new(&mut fields);
    match head.parse(input) {
        Ok(httparse::Status::Complete(len)) => Theirs::Complete(TheirHead {
            len,
            first: head.code.unwrap_or_default().to_string().into_bytes(),
            second: head.reason.unwrap_or_default().as_bytes().to_vec(),
            version: head.version.unwrap_or_default(),
            fields: their_fields(head.headers),
        }),
        Ok(httparse::Status::Partial) => Theirs::More,
        Err(_) => Theirs::Refused,
    }
}

/// A comparison says something only where both answers are common.
#[test]
fn the_generators_make_good_and_bad_heads() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let limits = HeadLimits::default();
    let (mut accepted, mut stricter) = ([0; 2], [0; 2]);
    for _ in 0..2000 {
        let request = requests().new_tree(&mut runner).expect("no filters").current();
        let ours = support::request(&request, &[], &limits);
        accepted[0] += usize::from(matches!(ours, Ok(Some(_))));
        stricter[0] += usize::from(ours.is_err() && matches!(their_request(&request), Theirs::Complete(_)));
        let response = responses().new_tree(&mut runner).expect("no filters").current();
        let ours = support::response(&response, &[], &limits);
        accepted[1] += usize::from(matches!(ours, Ok(Some(_))));
        stricter[1] += usize::from(ours.is_err() && matches!(their_response(&response), Theirs::Complete(_)));
    }
    assert!(accepted.iter().chain(&stricter).all(|n| *n > 50), "{accepted:?} {stricter:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

    #[test]
    fn requests_are_read_alike(input in requests()) {
        let ours = support::request(&input, &[], &HeadLimits::default());
        match (ours, their_request(&input)) {
            (Ok(Some(ours)), Theirs::Complete(theirs)) => {
                prop_assert_eq!(ours.len, theirs.len);
                prop_assert_eq!(ours.method, theirs.first);
                prop_assert_eq!(ours.target, theirs.second);
                prop_assert_eq!(ours.fields, theirs.fields);
                prop_assert!(theirs.version <= 1);
            }
            (Ok(Some(_)), _) => prop_assert!(false, "only we accept {}", input.escape_ascii()),
            (Ok(None), Theirs::Complete(_)) => prop_assert!(false, "only they are done with {}", input.escape_ascii()),
            (Err(error), Theirs::Complete(_)) => {
                prop_assert!(STRICTER_ON_REQUESTS.contains(&error), "{}: {}", error.reason(), input.escape_ascii());
            }
            (Ok(None), Theirs::More | Theirs::Refused) | (Err(_), Theirs::More | Theirs::Refused) => {}
        }
    }

    #[test]
    fn responses_are_read_alike(input in responses()) {
        let ours = support::response(&input, &[], &HeadLimits::default());
        match (ours, their_response(&input)) {
            (Ok(Some(ours)), Theirs::Complete(theirs)) => {
                prop_assert_eq!(ours.len, theirs.len);
                prop_assert_eq!(ours.status.to_string().into_bytes(), theirs.first);
                // It gives no reason that is not ASCII.
                if ours.reason.is_ascii() {
                    prop_assert_eq!(ours.reason, theirs.second);
                }
                prop_assert_eq!(ours.fields, theirs.fields);
            }
            (Ok(Some(_)), _) => prop_assert!(false, "only we accept {}", input.escape_ascii()),
            (Ok(None), Theirs::Complete(_)) => prop_assert!(false, "only they are done with {}", input.escape_ascii()),
            (Err(error), Theirs::Complete(_)) => {
                prop_assert!(STRICTER_ON_RESPONSES.contains(&error), "{}: {}", error.reason(), input.escape_ascii());
            }
            (Ok(None), Theirs::More | Theirs::Refused) | (Err(_), Theirs::More | Theirs::Refused) => {}
        }
    }

    #[test]
    fn chunk_sizes_are_read_alike(
        size in "(0{0,3}[0-9a-fA-F]{1,2}|[0-9a-fA-F]{0,20})",
        tail in prop::sample::select(vec!["", "", ";a", ";a=b", " ", "\t;a", "x", "\r"]),
        end in prop::sample::select(vec!["\r\n", "\r\n", "\n", "\r"]),
    ) {
        let line = format!("{size}{tail}{end}");
        let input = [line.as_bytes(), &[b'x'; 400]].concat();
        let theirs = httparse::parse_chunk_size(line.as_bytes());
        match BodyDecoder::new(Framing::Chunked).decode(&input) {
            Ok(Decoded::Data { skip, len }) => {
                let wanted = usize::try_from(u64::from_str_radix(&size, 16)?).unwrap_or(usize::MAX).min(400);
                prop_assert_eq!((skip, len), (line.len(), wanted));
                prop_assert!(matches!(theirs, Ok(httparse::Status::Complete((n, s))) if n == skip && s as usize >= len), "{}", line);
            }
            // The last chunk, behind which a trailer line begins.
            Ok(Decoded::NeedMore { .. }) => prop_assert_eq!(theirs, Ok(httparse::Status::Complete((line.len(), 0)))),
            Ok(Decoded::End { .. }) => prop_assert!(false, "{line:?} is no end"),
            Err(_) => {}
        }
    }
}
