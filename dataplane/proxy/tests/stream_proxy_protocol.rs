//! PROXY protocol headers by hand, by a second implementation (the crate `ppp`) and by chance.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use sluicegate_proxy::proxy_protocol::{
    MAX_V1, MAX_V2_PAYLOAD, ProxyHeader, ProxyProtocolError, parse, write_v1, write_v2, write_v2_local,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

type Parsed = Result<Option<(ProxyHeader, usize)>, ProxyProtocolError>;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

#[test]
fn version_1_lines() {
    let long = format!("PROXY UNKNOWN {}\r\n", "f".repeat(MAX_V1 - 16));
    let too_long = format!("PROXY UNKNOWN {}\r\n", "f".repeat(MAX_V1 - 15));
    let accepted = [
        ("PROXY TCP4 192.0.2.1 198.51.100.2 40000 443\r\n", Some(("192.0.2.1:40000", "198.51.100.2:443"))),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            Some(("255.255.255.255:65535", "255.255.255.255:65535")),
        ),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 0 0\r\n", Some(("192.0.2.1:0", "198.51.100.2:0"))),
        ("PROXY TCP6 2001:db8::1 2001:DB8::2 40000 443\r\n", Some(("[2001:db8::1]:40000", "[2001:db8::2]:443"))),
        (
            "PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 40000 443\r\n",
            Some(("192.0.2.1:40000", "198.51.100.2:443")),
        ),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN ffff:f... anything 65535\r\n", None),
        (&long, None),
    ];
    for (line, addresses) in accepted {
        let parsed = drip(line.as_bytes()).unwrap().unwrap();
        assert_eq!(parsed, (header(addresses), line.len()), "{line}");
        let with_tail = [line.as_bytes(), b"GET / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(parse(&with_tail), Ok(Some(parsed)), "{line}");
    }
    assert_eq!(drip(too_long.as_bytes()), Err(ProxyProtocolError::TooLong));
    for line in [
        "PROXY TCP4 192.0.2.1 198.51.100.2 40000 443\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 40000 443\r\r\n",
        "PROXY TCP4  192.0.2.1 198.51.100.2 40000 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 40000 443 \r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 40000 443 1\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 40000\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 40000 65536\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 040000 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 +40000 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 -1 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2  443\r\n",
        "PROXY TCP4 192.0.2.01 198.51.100.2 40000 443\r\n",
        "PROXY TCP4 192.0.2.256 198.51.100.2 40000 443\r\n",
        "PROXY TCP4 2001:db8::1 2001:db8::2 40000 443\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.2 40000 443\r\n",
        "PROXY TCP6 [2001:db8::1] 2001:db8::2 40000 443\r\n",
        "PROXY TCP6 fe80::1%eth0 2001:db8::2 40000 443\r\n",
        "PROXY tcp4 192.0.2.1 198.51.100.2 40000 443\r\n",
        "PROXY UDP4 192.0.2.1 198.51.100.2 40000 443\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY TCP4 192.0.2.1\t198.51.100.2 40000 443\r\n",
        "PROXY \r\n",
        "PROXY \u{e9}\r\n",
    ] {
        assert!(matches!(drip(line.as_bytes()), Err(ProxyProtocolError::Malformed(_))), "{line:?}");
    }
}

#[test]
fn version_2_headers() {
    let inet = [192, 0, 2, 1, 198, 51, 100, 2, 0x9c, 0x40, 0x01, 0xbb];
    let inet_addresses = Some(("192.0.2.1:40000", "198.51.100.2:443"));
    let mut inet6 = Vec::new();
    for address in ["2001:db8::1", "2001:db8::2"] {
        inet6.extend(address.parse::<Ipv6Addr>().unwrap().octets());
    }
    inet6.extend(&inet[8..]);
    let mut mapped = Vec::new();
    for address in ["::ffff:192.0.2.1", "::ffff:198.51.100.2"] {
        mapped.extend(address.parse::<Ipv6Addr>().unwrap().octets());
    }
    mapped.extend(&inet[8..]);
    let with = |addresses: &[u8], tlvs: &[u8]| [addresses, tlvs].concat();

    for (what, command, family, payload, expected) in [
        ("TCP over IPv4", 0x21, 0x11, inet.to_vec(), inet_addresses),
        ("TCP over IPv6", 0x21, 0x21, inet6.clone(), Some(("[2001:db8::1]:40000", "[2001:db8::2]:443"))),
        ("mapped", 0x21, 0x21, mapped, inet_addresses),
        ("TLVs", 0x21, 0x11, with(&inet, b"\x01\0\x02h2\x04\0\0\xea\0\x01x"), inet_addresses),
        ("4 KiB of TLVs", 0x21, 0x11, with(&inet, &tlv(0x04, &[0; 4093])), inet_addresses),
        ("LOCAL", 0x20, 0, vec![], None),
        ("LOCAL with a payload", 0x20, 0x11, inet.to_vec(), None),
        ("LOCAL with anything", 0x20, 0xff, vec![7; 99], None),
        ("unspecified", 0x21, 0, vec![], None),
        ("unspecified with TLVs", 0x21, 0, b"\x04\0\x01x".to_vec(), None),
        ("Unix", 0x21, 0x31, vec![b'/'; 216], None),
        ("UDP over IPv4", 0x21, 0x12, inet.to_vec(), None),
    ] {
        let bytes = v2(command, family, &payload);
        let parsed = drip(&bytes);
        assert_eq!(parsed, Ok(Some((header(expected), bytes.len()))), "{what}");
        assert_eq!(parse(&[&bytes[..], b"\x16\x03\x01"].concat()), parsed, "{what}");
    }
    for (what, command, family, payload) in [
        ("version 1", 0x11, 0x11, inet.to_vec()),
        ("version 3", 0x31, 0x11, inet.to_vec()),
        ("unknown command", 0x22, 0x11, inet.to_vec()),
        ("unknown family", 0x21, 0x41, inet.to_vec()),
        ("unknown transport", 0x21, 0x13, inet.to_vec()),
        ("short IPv4", 0x21, 0x11, inet[..11].to_vec()),
        ("short IPv6", 0x21, 0x21, inet6[..35].to_vec()),
        ("short Unix", 0x21, 0x31, vec![0; 215]),
        ("TLV header cut short", 0x21, 0x11, with(&inet, &[4, 0])),
        ("TLV cut short", 0x21, 0x11, with(&inet, &[4, 0, 2, 0])),
        ("CRC32C of 3 bytes", 0x21, 0x11, with(&inet, &[3, 0, 3, 0, 0, 0])),
    ] {
        let bytes = v2(command, family, &payload);
        assert!(matches!(drip(&bytes), Err(ProxyProtocolError::Malformed(_))), "{what}");
    }
    // Known from the length, before the rest came.
    let long = v2(0x21, 0x11, &[0; MAX_V2_PAYLOAD + 1]);
    assert_eq!(parse(&long[..16]), Err(ProxyProtocolError::TooLong));
}

/// The checksum of a header as computed by hand: bit by bit, over the header with zeros in its place.
#[test]
fn the_checksum_is_verified_where_it_is_there() {
    let payload = |sum: [u8; 4]| {
        let addresses = [192, 0, 2, 1, 198, 51, 100, 2, 0x9c, 0x40, 0x01, 0xbb];
        [&addresses[..], &tlv(4, b"noop"), &tlv(3, &sum), &tlv(1, b"h2")].concat()
    };
    assert_eq!(bitwise_crc32c(b"123456789"), 0xe306_9283);
    let sum = bitwise_crc32c(&v2(0x21, 0x11, &payload([0; 4])));
    let good = v2(0x21, 0x11, &payload(sum.to_be_bytes()));
    assert!(matches!(parse(&good), Ok(Some(_))));
    for at in 16..good.len() {
        for bit in 0..8 {
            let mut damaged = good.clone();
            damaged[at] ^= 1 << bit;
            // Damage to a TLV's type or length may also break the structure, or hide the checksum as another type.
            let hidden = at == 16 + 12 + 7;
            assert!(parse(&damaged).is_err() || hidden, "bit {bit} of byte {at}");
        }
    }
    let twice = [&good[16..], &tlv(3, &[0; 4])].concat();
    assert!(parse(&v2(0x21, 0x11, &twice)).is_err());
}

#[test]
fn connections_without_a_header_are_refused_at_their_first_wrong_byte() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x16\x03\x01\x02\0",
        b"POST",
        b"PROXz",
        b"PROXY\r\n",
        b"\r\n\r\n\0\r\nQUIt",
        b"\r\nGET",
        b"proxy UNKNOWN\r\n",
        b"\0",
    ] {
        assert_eq!(drip(bytes), Err(ProxyProtocolError::Missing), "{bytes:?}");
    }
    for bytes in [&b""[..], b"P", b"PROXY", b"PROXY TCP4 192.", b"\r", SIGNATURE] {
        assert_eq!(parse(bytes), Ok(None), "{bytes:?}");
    }
}

#[test]
fn our_own_connections_carry_no_address() {
    let mut bytes = Vec::new();
    write_v2_local(&mut bytes);
    assert_eq!(parse(&bytes), Ok(Some((header(None), 16))));
}

/// A header has one family, so an IPv4 end is mapped where the other end is not IPv4.
#[test]
fn mixed_families_are_written_as_ipv6() {
    let (v4, v6) = ("192.0.2.1:1", "[2001:db8::2]:2");
    for (source, destination) in [(v4, v6), (v6, v4)] {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        let (mut first, mut second) = (Vec::new(), Vec::new());
        write_v1(&mut first, source, destination);
        write_v2(&mut second, source, destination);
        assert!(first.starts_with(b"PROXY TCP6 "));
        assert_eq!(second[13], 0x21);
        for bytes in [first, second] {
            let (parsed, _) = parse(&bytes).unwrap().unwrap();
            assert_eq!(parsed.source, Some(source));
            assert_eq!(parsed.destination, Some(destination));
        }
    }
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::from(Ipv4Addr::from(bits))),
        any::<u128>().prop_map(|bits| IpAddr::from(Ipv6Addr::from(bits))),
        any::<u32>().prop_map(|bits| IpAddr::from(Ipv4Addr::from(bits).to_ipv6_mapped())),
    ];
    (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

proptest! {
    /// What is written is read back, by us and by another implementation, wherever it is cut.
    #[test]
    fn headers_survive_a_round_trip(source in address(), destination in address()) {
        let (mut first, mut second) = (b"kept".to_vec(), b"kept".to_vec());
        write_v1(&mut first, source, destination);
        write_v2(&mut second, source, destination);
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let expected = ProxyHeader {
            source: Some(canonical(source)),
            destination: Some(canonical(destination)),
        };
        for bytes in [&first, &second] {
            prop_assert_eq!(&bytes[..4], b"kept");
            let bytes = &bytes[4..];
            prop_assert_eq!(drip(bytes), Ok(Some((expected, bytes.len()))));
            prop_assert_eq!(by_ppp(bytes).unwrap(), expected);
        }
    }

    #[test]
    fn garbage_does_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(drip(&bytes).ok(), parse(&bytes).ok());
        let _ = parse(&[b"PROXY ", &bytes[..]].concat());
        let _ = parse(&[SIGNATURE, &bytes[..]].concat());
    }

    /// No damaged line that we accept means something else to another implementation.
    #[test]
    fn lines_mean_the_same_to_others(
        source in address(),
        destination in address(),
        at in 6..60_usize,
        to in prop_oneof![Just(b' '), Just(b'.'), Just(b':'), Just(b'+'), b'0'..=b'9', b'a'..=b'f'],
    ) {
        let mut line = Vec::new();
        write_v1(&mut line, source, destination);
        let at = at.min(line.len() - 3);
        line[at] = to;
        if let Ok(Some((found, length))) = parse(&line) {
            prop_assert_eq!(length, line.len());
            prop_assert_eq!(Some(found), by_ppp(&line));
        }
    }
}

/// What the crate `ppp` reads, in our terms.
fn by_ppp(bytes: &[u8]) -> Option<ProxyHeader> {
    use ppp::{HeaderResult, v1, v2};
    let endpoint = |ip: IpAddr, port| Some(SocketAddr::new(ip.to_canonical(), port));
    let both = |source, destination| ProxyHeader { source, destination };
    Some(match HeaderResult::parse(bytes) {
        HeaderResult::V1(Ok(header)) => match header.addresses {
            v1::Addresses::Tcp4(a) => both(
                endpoint(a.source_address.into(), a.source_port),
                endpoint(a.destination_address.into(), a.destination_port),
            ),
            v1::Addresses::Tcp6(a) => both(
                endpoint(a.source_address.into(), a.source_port),
                endpoint(a.destination_address.into(), a.destination_port),
            ),
            v1::Addresses::Unknown => both(None, None),
        },
        HeaderResult::V2(Ok(header)) => match header.addresses {
            v2::Addresses::IPv4(a) => both(
                endpoint(a.source_address.into(), a.source_port),
                endpoint(a.destination_address.into(), a.destination_port),
            ),
            v2::Addresses::IPv6(a) => both(
                endpoint(a.source_address.into(), a.source_port),
                endpoint(a.destination_address.into(), a.destination_port),
            ),
            _ => both(None, None),
        },
        _ => return None,
    })
}

/// Byte by byte, until there is an answer.
fn drip(bytes: &[u8]) -> Parsed {
    (0..=bytes.len()).map(|end| parse(&bytes[..end])).find(|parsed| *parsed != Ok(None)).unwrap_or(Ok(None))
}

fn header(addresses: Option<(&str, &str)>) -> ProxyHeader {
    ProxyHeader {
        source: addresses.map(|(source, _)| source.parse().unwrap()),
        destination: addresses.map(|(_, destination)| destination.parse().unwrap()),
    }
}

fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, payload].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind], &length[..], value].concat()
}

fn bitwise_crc32c(bytes: &[u8]) -> u32 {
    let mut sum = !0_u32;
    for &byte in bytes {
        sum ^= u32::from(byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !sum
}
