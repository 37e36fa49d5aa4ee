//! ClientHellos by hand, by rustls and by chance.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use sluicegate_proxy::client_hello::{ClientHello, ClientHelloError, ClientHelloReader, MAX_CLIENT_HELLO};
use std::sync::Arc;

/// What it is, its extensions, and the name that is read out of it.
type Row = (&'static str, Vec<u8>, Result<Option<String>, ()>);

type Inspected = Result<Option<ClientHello>, ClientHelloError>;

#[test]
fn hellos_of_rustls_are_read_wherever_they_are_split() {
    for (versions, large) in [(rustls::ALL_VERSIONS, true), (&[&rustls::version::TLS12][..], false)] {
        let hello = rustls_hello("Shop.Example.TEST", &[b"h2", b"http/1.1"], versions);
        // With its post-quantum key share it exceeds one packet.
        assert_eq!(hello.len() > 1400, large, "{}", hello.len());
        for split in 0..hello.len() {
            let mut reader = ClientHelloReader::new();
            assert_eq!(reader.inspect(&hello[..split]), Ok(None), "split at {split}");
            let found = reader.inspect(&hello).unwrap().unwrap();
            assert_eq!(found.server_name.as_deref(), Some("shop.example.test"));
            assert!(found.alpn().eq([&b"h2"[..], b"http/1.1"]), "split at {split}");
        }
    }
}

#[test]
fn hellos_are_read_out_of_any_records() {
    let hello = rustls_hello("a.test", &[b"h2"], rustls::ALL_VERSIONS);
    let expected = once(&hello);
    for size in [1, 2, 3, 4, 5, 100, 1000] {
        let split = in_records(&hello[5..], size);
        assert_eq!(once(&split), expected, "records of {size}");
        assert_eq!(drip(&split), expected, "records of {size}, byte by byte");
    }
}

#[test]
fn bytes_behind_the_hello_are_left_alone() {
    let hello = rustls_hello("a.test", &[], rustls::ALL_VERSIONS);
    let expected = once(&hello);
    for tail in [&b"\x14\x03\x03\0\x01\x01"[..], b"anything", &[0; 100_000]] {
        assert_eq!(once(&[&hello, tail].concat()), expected);
    }
}

#[test]
fn names_and_protocols() {
    let found = |name: Option<&str>| Ok(name.map(str::to_owned));
    let malformed = Err(());
    let long_label = format!("{}.test", "a".repeat(64));
    let long_name = format!("{}.test", ["a".repeat(60).as_str(); 5].join("."));
    let rows: Vec<Row> = vec![
        ("no extensions", extensions(&[]), found(None)),
        ("a name", sni(&[(0, b"a.test")]), found(Some("a.test"))),
        ("capitals", sni(&[(0, b"WWW.A.Test")]), found(Some("www.a.test"))),
        ("trailing dot", sni(&[(0, b"a.test.")]), found(Some("a.test"))),
        ("underscore", sni(&[(0, b"_a.test")]), found(Some("_a.test"))),
        ("punycode", sni(&[(0, b"xn--bcher-kva.test")]), found(Some("xn--bcher-kva.test"))),
        ("IPv4 literal", sni(&[(0, b"192.0.2.1")]), found(None)),
        ("IPv6 literal", sni(&[(0, b"2001:db8::1")]), found(None)),
        ("other name type", sni(&[(7, b"\xff")]), found(None)),
        ("other name type, then a host", sni(&[(7, b"x"), (0, b"a.test")]), found(Some("a.test"))),
        ("two hosts", sni(&[(0, b"a.test"), (0, b"b.test")]), malformed.clone()),
        ("the same host twice", sni(&[(0, b"a.test"), (0, b"a.test")]), malformed.clone()),
        ("empty list", sni(&[]), malformed.clone()),
        ("empty name", sni(&[(0, b"")]), malformed.clone()),
        ("a dot", sni(&[(0, b".")]), malformed.clone()),
        ("two trailing dots", sni(&[(0, b"a.test..")]), malformed.clone()),
        ("empty label", sni(&[(0, b"a..test")]), malformed.clone()),
        ("long label", sni(&[(0, long_label.as_bytes())]), malformed.clone()),
        ("long name", sni(&[(0, long_name.as_bytes())]), malformed.clone()),
        ("space", sni(&[(0, b"a test")]), malformed.clone()),
        ("NUL", sni(&[(0, b"a.test\0.b.test")]), malformed.clone()),
        ("not ASCII", sni(&[(0, "b\u{fc}cher.test".as_bytes())]), malformed.clone()),
        ("not UTF-8", sni(&[(0, b"\xff.test")]), malformed.clone()),
        ("wildcard", sni(&[(0, b"*.test")]), malformed.clone()),
        ("two extensions", [sni(&[(0, b"a.test")]), sni(&[(0, b"a.test")])].concat(), malformed.clone()),
        ("bytes behind the list", extension(0, b"\0\x09\0\0\x06a.test!"), malformed.clone()),
        ("list cut short", extension(0, b"\0\x09\0\0\x07a.test"), malformed.clone()),
        ("empty server_name", extension(0, b""), malformed.clone()),
        ("empty ALPN", extension(16, b"\0\0"), malformed.clone()),
        ("empty protocol", extension(16, b"\0\x04\0\x02h2"), malformed.clone()),
        ("protocol cut short", extension(16, b"\0\x03\x03h2"), malformed.clone()),
        ("two ALPN extensions", [alpn(&[b"h2"]), alpn(&[b"h2"])].concat(), malformed),
    ];
    for (what, extensions, expected) in rows {
        let found = drip(&record(&message(&extensions)));
        let name = match found {
            Ok(Some(hello)) => Ok(hello.server_name.map(String::from)),
            Err(ClientHelloError::Malformed(_)) => Err(()),
            other => panic!("{what}: {other:?}"),
        };
        assert_eq!(name, expected, "{what}");
    }
}

#[test]
fn acme_challenges_are_recognised() {
    for (protocols, expected) in [
        (&[&b"acme-tls/1"[..]][..], true),
        (&[b"h2", b"acme-tls/1"], true),
        (&[b"acme-tls/2"], false),
        (&[b"h2", b"http/1.1"], false),
    ] {
        let hello = once(&record(&message(&alpn(protocols)))).unwrap().unwrap();
        assert_eq!(hello.is_acme_tls(), expected);
        assert!(hello.alpn().eq(protocols.iter().copied()));
    }
    assert_eq!(once(&record(&message(b""))).unwrap().unwrap().alpn().count(), 0);
}

#[test]
fn a_hello_of_old_has_no_extensions_at_all() {
    let body = body_without_extensions();
    let hello = once(&record(&handshake(1, &body))).unwrap().unwrap();
    assert_eq!((hello.server_name.clone(), hello.alpn().count()), (None, 0));
}

/// What is not TLS is known from its first bytes, so that the client can be answered at once.
#[test]
fn other_protocols_are_told_apart() {
    let http = Err(ClientHelloError::NotTls { http: true });
    let other = Err(ClientHelloError::NotTls { http: false });
    for (bytes, expected) in [
        (&b"G"[..], &http),
        (b"GET / HTTP/1.1\r\n\r\n", &http),
        (b"PRI * HTTP/2.0\r\n", &http),
        (b"SSH-2.0-x\r\n", &http),
        (b"\x80\x2e\x01\x03\x01", &other),
        (b"\0", &other),
        (b"\x15\x03\x01\0\x02", &other),
        (b"\x16\x02", &other),
        (b"\x16\x03", &Ok(None)),
        (b"", &Ok(None)),
    ] {
        assert_eq!(&once(bytes), expected, "{bytes:?}");
    }
}

#[test]
fn broken_structures_are_refused() {
    let body = body_without_extensions();
    let with = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut body = body.clone();
        edit(&mut body);
        record(&handshake(1, &body))
    };
    let two_records = [record(&message(b"")[..10]), b"\x15\x03\x03\0\x02\x01\0".to_vec()].concat();
    for (what, bytes) in [
        ("another message", record(&handshake(2, &body))),
        ("an empty record", b"\x16\x03\x01\0\0".to_vec()),
        ("a record beyond the maximum", b"\x16\x03\x01\x40\x01".to_vec()),
        ("an alert in between", two_records),
        ("an empty hello", record(&handshake(1, b""))),
        (
            "a long session id",
            with(&|body| {
                body[34] = 33;
                body.splice(35..35, [0; 33]);
            }),
        ),
        ("odd cipher suites", with(&|body| body[36] = 1)),
        (
            "no cipher suites",
            with(&|body| {
                body.drain(37..39);
                body[36] = 0;
            }),
        ),
        (
            "no compression method",
            with(&|body| {
                body.pop();
                *body.last_mut().unwrap() = 0;
            }),
        ),
        ("half a length", with(&|body| body.push(0))),
        ("bytes behind the extensions", with(&|body| body.extend([0, 0, 1]))),
        ("extensions cut short", with(&|body| body.extend([0, 9, 0, 0]))),
    ] {
        assert!(matches!(drip(&bytes), Err(ClientHelloError::Malformed(_))), "{what}: {:?}", drip(&bytes));
    }
}

#[test]
fn a_hello_has_a_largest_size() {
    // The record headers are what makes the larger one too large.
    let padding = |bytes: usize| message(&extension(21, &vec![0; bytes]));
    let fits = in_records(&padding(60_000), 16_384);
    assert!(matches!(drip(&fits), Ok(Some(_))));
    let in_small_records = in_records(&padding(60_000), 10);
    assert_eq!(drip(&in_small_records), Err(ClientHelloError::TooLarge));
    // Known from its length, before the rest came.
    let claims = record(&[1, 0xff, 0xff, 0xff]);
    assert_eq!(once(&claims), Err(ClientHelloError::TooLarge));
    let never_ends = in_records(&vec![1; MAX_CLIENT_HELLO], 3);
    assert!(once(&never_ends).is_err());
}

/// A client that drips its hello, in records of a byte, costs its bytes and not their square.
#[test]
fn dripping_is_linear() {
    let hello = in_records(&message(&extension(21, &[0; 9000])), 1);
    assert!(hello.len() > 50_000);
    let began = std::time::Instant::now();
    assert!(matches!(drip(&hello), Ok(Some(_))));
    // Quadratic work would be 2.5 thousand million steps.
    assert!(began.elapsed().as_secs() < 2, "{:?}", began.elapsed());
}

proptest! {
    #[test]
    fn garbage_does_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let dripped = drip(&bytes);
        prop_assert_eq!(once(&bytes), dripped);
        let _ = drip(&record(&bytes));
        let _ = drip(&record(&handshake(1, &bytes)));
    }

    #[test]
    fn damaged_hellos_do_no_harm(at in 0..300_usize, to in any::<u8>(), size in 1..400_usize) {
        let mut body = message(&[sni(&[(0, b"a.test")]), alpn(&[b"h2", b"http/1.1"]), extension(21, &[0; 200])].concat());
        let at = at % body.len();
        body[at] = to;
        let bytes = in_records(&body, size);
        prop_assert_eq!(once(&bytes), drip(&bytes));
    }

    #[test]
    fn segments_and_records_make_no_difference(
        record_size in 1..2000_usize,
        mut cuts in proptest::collection::vec(0..2000_usize, 0..20),
    ) {
        let message = message(&[sni(&[(0, b"a.test")]), extension(21, &[0; 1200])].concat());
        let bytes = in_records(&message, record_size);
        cuts.sort_unstable();
        let mut reader = ClientHelloReader::new();
        for cut in cuts.into_iter().filter(|&cut| cut < bytes.len()) {
            prop_assert_eq!(reader.inspect(&bytes[..cut]), Ok(None));
        }
        let hello = reader.inspect(&bytes).unwrap().unwrap();
        prop_assert_eq!(hello.server_name.as_deref(), Some("a.test"));
    }
}

fn once(bytes: &[u8]) -> Inspected {
    ClientHelloReader::new().inspect(bytes)
}

/// Byte by byte, until there is an answer.
fn drip(bytes: &[u8]) -> Inspected {
    let mut reader = ClientHelloReader::new();
    (0..=bytes.len())
        .map(|end| reader.inspect(&bytes[..end]))
        .find(|inspected| *inspected != Ok(None))
        .unwrap_or(Ok(None))
}

fn rustls_hello(name: &str, protocols: &[&[u8]], versions: &[&'static SupportedProtocolVersion]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut hello).unwrap();
    }
    hello
}

fn in_records(handshake: &[u8], size: usize) -> Vec<u8> {
    handshake.chunks(size).flat_map(record).collect()
}

fn record(payload: &[u8]) -> Vec<u8> {
    [&[22, 3, 1], &length(payload.len())[..], payload].concat()
}

fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 0], &length(body.len())[..], body].concat()
}

/// A ClientHello with these extensions.
fn message(extensions: &[u8]) -> Vec<u8> {
    let body = [&body_without_extensions()[..], &length(extensions.len()), extensions].concat();
    handshake(1, &body)
}

fn body_without_extensions() -> Vec<u8> {
    [&[3, 3][..], &[9; 32], &[0], &[0, 2, 0x13, 0x01], &[1, 0]].concat()
}

fn extensions(list: &[Vec<u8>]) -> Vec<u8> {
    list.concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &length(data.len()), data].concat()
}

fn sni(names: &[(u8, &[u8])]) -> Vec<u8> {
    let list: Vec<u8> =
        names.iter().flat_map(|(kind, name)| [&[*kind][..], &length(name.len()), name].concat()).collect();
    extension(0, &[&length(list.len())[..], &list].concat())
}

fn alpn(protocols: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> =
        protocols.iter().flat_map(|protocol| [&[protocol.len() as u8][..], protocol].concat()).collect();
    extension(16, &[&length(list.len())[..], &list].concat())
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap().to_be_bytes()
}
