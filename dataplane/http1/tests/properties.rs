//! What holds for all messages: the answer does not depend on how the bytes were split, what is accepted is written
//! again as the same message, and no bytes at all make the codec panic.

mod support;

use proptest::prelude::*;
use sluicegate_http1::{
    BodyDecoder, CHUNK_END, Decoded, Field, Framing, HeadLimits, RequestHead, ResponseHead, write_chunk_head,
    write_field, write_last_chunk, write_request_line, write_status_line,
};

/// Pieces of heads, good and bad, so that random concatenations come near to messages.
const PIECES: &[&str] = &[
    "GET",
    "POST",
    " ",
    " ",
    "/",
    "/a?b",
    "*",
    "http://a.test",
    "HTTP/1.1",
    "HTTP/1.0",
    "\r\n",
    "\r\n",
    "\r\n",
    "\r\n\r\n",
    "\r",
    "\n",
    ":",
    ": ",
    "Host",
    "Host: a.test\r\n",
    "Host: a.test\r\n",
    "Content-Length: 5\r\n",
    "Content-Length",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding",
    "chunked",
    "Connection: close\r\n",
    "x",
    "5",
    "0",
    "\t",
    "\0",
    "\u{e9}",
    ",",
    ";",
    "HTTP/1.1 200 OK\r\n",
    "GET / HTTP/1.1\r\n",
    "GET / HTTP/1.1\r\n",
    "Expect: 100-continue\r\n",
    "Upgrade: websocket\r\n",
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    "A;b=c\r\n0123456789\r\n",
    "X-T: y\r\n",
    "CONNECT",
    "a.test:80",
];

fn soup() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        9 => prop::sample::select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..4),
    ];
    prop::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0_usize..200, 0..8).prop_map(|mut cuts| {
        cuts.sort_unstable();
        cuts
    })
}

fn limits() -> impl Strategy<Value = HeadLimits> {
    let small = (1_usize..120, 0_usize..4, 0_usize..20).prop_map(|(head, fields, target)| HeadLimits {
        max_head_bytes: head,
        max_fields: fields,
        max_target_bytes: target,
    });
    prop_oneof![Just(HeadLimits::default()), small]
}

fn token() -> impl Strategy<Value = String> {
    "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,24}"
}

fn value() -> impl Strategy<Value = String> {
    "([!-~\u{a0}-\u{ff}]([ \t!-~]{0,30}[!-~])?)?"
}

/// Fields that say nothing about framing or routing.
fn fields() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec((token().prop_map(|name| format!("x-{name}")), value()), 0..10)
}

fn chunks() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6)
}

fn encode(chunks: &[Vec<u8>], trailers: &[(String, String)]) -> Vec<u8> {
    let mut wire = Vec::new();
    for chunk in chunks {
        write_chunk_head(&mut wire, chunk.len());
        wire.extend_from_slice(chunk);
        wire.extend_from_slice(CHUNK_END);
    }
    let trailers = trailers.iter().map(|(name, value)| Field::new(name.as_bytes(), value.as_bytes()));
    write_last_chunk(&mut wire, trailers);
    wire
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]

    #[test]
    fn requests_do_not_depend_on_the_split(input in soup(), cuts in cuts(), limits in limits()) {
        let whole = support::request(&input, &[], &limits);
        prop_assert_eq!(&support::request(&input, &cuts, &limits), &whole);
        prop_assert_eq!(&support::request(&input, &support::byte_by_byte(&input), &limits), &whole);
    }

    #[test]
    fn responses_do_not_depend_on_the_split(input in soup(), cuts in cuts(), limits in limits()) {
        let input = [b"HTTP/1.1 200 OK\r\n".to_vec(), input].concat();
        let whole = support::response(&input, &[], &limits);
        prop_assert_eq!(&support::response(&input, &cuts, &limits), &whole);
        prop_assert_eq!(&support::response(&input, &support::byte_by_byte(&input), &limits), &whole);
    }

    #[test]
    fn bodies_do_not_depend_on_the_split(input in soup(), cuts in cuts()) {
        let whole = support::body(Framing::Chunked, &input, &[]);
        prop_assert_eq!(&support::body(Framing::Chunked, &input, &cuts), &whole);
        prop_assert_eq!(&support::body(Framing::Chunked, &input, &support::byte_by_byte(&input)), &whole);
    }

    /// One damaged byte in a good body must not make two readings of it either.
    #[test]
    fn damaged_bodies_do_not_depend_on_the_split(
        chunks in chunks(), trailers in fields(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cuts in cuts(),
    ) {
        let mut input = encode(&chunks, &trailers);
        let at = at.index(input.len());
        input[at] = byte;
        let whole = support::body(Framing::Chunked, &input, &[]);
        prop_assert_eq!(&support::body(Framing::Chunked, &input, &cuts), &whole);
        prop_assert_eq!(&support::body(Framing::Chunked, &input, &support::byte_by_byte(&input)), &whole);
    }

    #[test]
    fn what_was_encoded_is_decoded(chunks in chunks(), trailers in fields(), cuts in cuts(), next in soup()) {
        let mut wire = encode(&chunks, &trailers);
        let len = wire.len();
        wire.extend_from_slice(&next);
        let body = support::body(Framing::Chunked, &wire, &cuts);
        prop_assert_eq!(body.data, chunks.concat());
        prop_assert_eq!(body.end, Ok((len, true)));
        let sent: support::Pairs = trailers
            .iter()
            .filter(|(name, _)| sluicegate_http1::FieldName::disguised(name.as_bytes()).is_none())
            .map(|(name, value)| (name.clone().into_bytes(), value.clone().into_bytes()))
            .collect();
        prop_assert_eq!(body.trailers, sent);
    }

    #[test]
    fn a_body_of_known_length_is_that_long(input in prop::collection::vec(any::<u8>(), 0..60), length in 0_u64..50, cuts in cuts()) {
        let body = support::body(Framing::Length(length), &input, &cuts);
        let len = input.len().min(length as usize);
        prop_assert_eq!(&body.data, &input[..len]);
        prop_assert_eq!(body.end, Ok((len, len as u64 == length)));
    }

    /// Data that goes past the decoder counts as what it was given does, and only as far as the body goes.
    #[test]
    fn data_that_goes_past_the_decoder_counts(length in 1_u64..50, seen in 0_usize..60, past in 0_u64..60) {
        let mut decoder = BodyDecoder::new(Framing::Length(length));
        if seen > 0 {
            let len = seen.min(length as usize);
            prop_assert_eq!(decoder.decode(&vec![b'x'; seen]), Ok(Decoded::Data { skip: 0, len }));
        }
        let ahead = length.saturating_sub(seen as u64);
        prop_assert_eq!(decoder.known_ahead(), ahead);
        decoder.skip(past);
        if ahead > 0 && past > ahead {
            prop_assert!(decoder.decode(b"x").is_err());
        } else {
            prop_assert_eq!(decoder.known_ahead(), ahead.saturating_sub(past));
            prop_assert_eq!(decoder.is_done(), past >= ahead);
        }
        // Nobody knows how much is ahead of other framings, so nothing goes past.
        for framing in [Framing::Chunked, Framing::UntilClose, Framing::None] {
            prop_assert_eq!(BodyDecoder::new(framing).known_ahead(), 0);
        }
    }

    #[test]
    fn requests_are_written_as_they_were_read(
        method in token(), path in "/[!-\"$-~]{0,40}", host in "[a-z0-9.-]{1,20}(:[0-9]{1,4})?", fields in fields(),
    ) {
        prop_assume!(method != "CONNECT");
        let mut wire = Vec::new();
        prop_assert!(write_request_line(&mut wire, method.as_bytes(), path.as_bytes(), sluicegate_http1::Version::Http11));
        prop_assert!(write_field(&mut wire, b"Host", host.as_bytes()));
        for (name, value) in &fields {
            prop_assert!(write_field(&mut wire, name.as_bytes(), value.as_bytes()));
        }
        wire.extend_from_slice(b"\r\n");
        let limits = HeadLimits::default();
        let mut head = RequestHead::new();
        prop_assert_eq!(head.parse(&wire, &limits), Ok(Some(wire.len())));
        prop_assert_eq!(head.method(), method.as_bytes());
        prop_assert_eq!(head.path_and_query(), path.as_bytes());
        prop_assert_eq!(head.authority(), host.as_bytes());
        let read: Vec<_> = head.fields().skip(1).map(|f| (f.name, f.value)).collect();
        let sent: Vec<_> = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        prop_assert_eq!(read, sent);

        // Built by hand, it is the same head.
        let mut built = RequestHead::new();
        built.begin(head.version(), head.method(), head.target()).expect("it was parsed");
        for field in head.fields() {
            built.push(field.name, field.value).expect("it was parsed");
        }
        built.finish(&limits).expect("it was parsed");
        prop_assert_eq!(format!("{built:?}"), format!("{head:?}"));
    }

    #[test]
    fn fields_that_are_kept_are_written_as_one_by_one(
        fields in fields(), spaces in prop::collection::vec(("[ \t]{0,2}", "[ \t]{0,2}"), 20), kept in prop::collection::vec(any::<bool>(), 24),
    ) {
        let mut lines = String::from("Host: a.test\r\n");
        for ((name, value), (before, behind)) in fields.iter().zip(spaces.iter().cycle()) {
            lines += &format!("{name}:{before}{value}{behind}\r\n");
        }
        let (mut request, mut response) = (RequestHead::new(), ResponseHead::new());
        let limits = HeadLimits::default();
        let wire = format!("GET / HTTP/1.1\r\n{lines}\r\n");
        prop_assert!(request.parse(wire.as_bytes(), &limits).is_ok_and(|end| end.is_some()));
        let wire = format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
        prop_assert!(response.parse(wire.as_bytes(), false, false, &limits).is_ok_and(|end| end.is_some()));
        // A field that did not come from the wire.
        response.push(b"x-own", b"own").expect("a good field");

        let one_by_one = |all: Vec<Field<'_>>| {
            let mut out = b"before\r\n".to_vec();
            for (field, _) in all.iter().zip(kept.iter().cycle()).filter(|(_, kept)| **kept) {
                assert!(write_field(&mut out, field.name, field.value));
            }
            out
        };
        let mut out = b"before\r\n".to_vec();
        let mut keeps = kept.iter().cycle();
        request.write_fields(&mut out, |_| keeps.next() == Some(&true));
        prop_assert_eq!(out, one_by_one(request.fields().collect()));
        let mut out = b"before\r\n".to_vec();
        let mut keeps = kept.iter().cycle();
        response.write_fields(&mut out, |_| keeps.next() == Some(&true));
        prop_assert_eq!(out, one_by_one(response.fields().collect()));
    }

    #[test]
    fn responses_are_written_as_they_were_read(status in 200_u16..1000, reason in value(), fields in fields()) {
        let mut wire = Vec::new();
        write_status_line(&mut wire, status, reason.as_bytes(), sluicegate_http1::Version::Http11);
        for (name, value) in &fields {
            prop_assert!(write_field(&mut wire, name.as_bytes(), value.as_bytes()));
        }
        wire.extend_from_slice(b"\r\n");
        let mut head = ResponseHead::new();
        prop_assert_eq!(head.parse(&wire, false, false, &HeadLimits::default()), Ok(Some(wire.len())));
        prop_assert_eq!((head.status(), head.reason()), (status, reason.as_bytes()));
        let read: Vec<_> = head.fields().map(|f| (f.name, f.value)).collect();
        let sent: Vec<_> = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        prop_assert_eq!(read, sent);
    }

    /// A caller that breaks the rule of growing input gets some answer.
    #[test]
    fn changing_the_input_between_calls_does_not_panic(inputs in prop::collection::vec(soup(), 1..6), limits in limits()) {
        let (mut request, mut response) = (RequestHead::new(), ResponseHead::new());
        let mut body = BodyDecoder::new(Framing::Chunked);
        for input in &inputs {
            let first = request.parse(input, &limits);
            let shown = format!("{request:?}");
            prop_assert!(shown.len() > 2);
            let second = response.parse(input, false, false, &limits);
            let shown = format!("{response:?}");
            prop_assert!(shown.len() > 2);
            if first.is_err() {
                request.clear();
            }
            if second.is_err() {
                response.clear();
            }
            if let Ok(Decoded::Data { skip, len }) = body.decode(input) {
                prop_assert!(skip + len <= input.len());
            }
        }
    }
}
