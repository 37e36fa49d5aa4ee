//! The PROXY protocol, versions 1 (text) and 2 (binary): who the client of a relayed connection really is.
//!
//! Bytes in, addresses out, and the other way round; it owns no socket and decides no trust. A listener that expects
//! the header requires it on every connection: one that only "also accepted" it would let any client claim any
//! address. Rules: <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use thiserror::Error;

/// The longest version 1 header, CR LF included (section 2.1 of the specification).
pub const MAX_V1: usize = 107;

/// The longest version 2 payload that is read: the largest address block and 4 KiB of TLVs.
pub const MAX_V2_PAYLOAD: usize = UNIX_ADDRESSES + 4096;

const V1_PREFIX: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_HEADER: usize = 16;
const INET_ADDRESSES: usize = 12;
const INET6_ADDRESSES: usize = 36;
const UNIX_ADDRESSES: usize = 216;

/// The endpoints of the connection as the proxy in front accepted it.
///
/// Both are `None` where the header says to keep the socket's own addresses: `LOCAL` (the proxy's own connection, such
/// as a health check), `UNKNOWN`, and families that are not TCP over IP. IPv4-mapped IPv6 addresses come out as IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The client.
    pub source: Option<SocketAddr>,
    /// The address that the client connected to.
    pub destination: Option<SocketAddr>,
}

impl ProxyHeader {
    const KEEP_SOCKET: Self = Self { source: None, destination: None };
}

/// Why a connection does not begin with a valid PROXY header. None of them can be cured by more bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProxyProtocolError {
    /// Neither version's signature: the peer does not speak the PROXY protocol.
    #[error(
        "the connection does not begin with a PROXY protocol header; enable it in the balancer in front, or disable \
         it on this listener"
    )]
    Missing,
    /// A version 1 line without its end within [`MAX_V1`] bytes, or a version 2 payload above [`MAX_V2_PAYLOAD`].
    #[error("the PROXY protocol header is too long")]
    TooLong,
    /// The signature is right, what follows is not.
    #[error("malformed PROXY protocol header: {0}")]
    Malformed(&'static str),
    /// The checksum TLV of version 2 does not match the header.
    #[error("the CRC32C of the PROXY protocol header does not match")]
    Checksum,
}

/// Reads the header that `bytes`, everything received so far, begins with, and says how many bytes it takes.
/// `None` while it is incomplete. What follows the header belongs to the connection.
pub fn parse(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyProtocolError> {
    if begins_like(bytes, V1_PREFIX) {
        parse_v1(bytes)
    } else if begins_like(bytes, V2_SIGNATURE) {
        parse_v2(bytes)
    } else {
        Err(ProxyProtocolError::Missing)
    }
}

/// Appends a version 1 header.
///
/// IPv4-mapped addresses are written as IPv4; where one end is IPv4 and the other is not, the IPv4 end is mapped,
/// because a header has one family.
pub fn write_v1(out: &mut Vec<u8>, source: SocketAddr, destination: SocketAddr) {
    let line = match same_family(source.ip(), destination.ip()) {
        Addresses::V4(from, to) => format!("PROXY TCP4 {from} {to} {} {}\r\n", source.port(), destination.port()),
        Addresses::V6(from, to) => format!("PROXY TCP6 {from} {to} {} {}\r\n", source.port(), destination.port()),
    };
    out.extend_from_slice(line.as_bytes());
}

/// Appends a version 2 header without TLVs. Families are treated as by [`write_v1`].
pub fn write_v2(out: &mut Vec<u8>, source: SocketAddr, destination: SocketAddr) {
    const PROXY: u8 = 0x21;
    const TCP4: u8 = 0x11;
    const TCP6: u8 = 0x21;
    out.extend_from_slice(V2_SIGNATURE);
    match same_family(source.ip(), destination.ip()) {
        Addresses::V4(from, to) => {
            out.extend_from_slice(&[PROXY, TCP4, 0, INET_ADDRESSES as u8]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
        Addresses::V6(from, to) => {
            out.extend_from_slice(&[PROXY, TCP6, 0, INET6_ADDRESSES as u8]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
}

/// Appends the version 2 header of a connection that the gateway makes for itself, such as a health check.
pub fn write_v2_local(out: &mut Vec<u8>) {
    const LOCAL: u8 = 0x20;
    out.extend_from_slice(V2_SIGNATURE);
    out.extend_from_slice(&[LOCAL, 0, 0, 0]);
}

/// Whether `bytes` and `signature` agree as far as both go.
fn begins_like(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(a, b)| a == b)
}

fn parse_v1(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyProtocolError> {
    let window = &bytes[..bytes.len().min(MAX_V1)];
    let Some(end) = window.iter().position(|&byte| byte == b'\n') else {
        return match bytes.len() < MAX_V1 {
            true => Ok(None),
            false => Err(ProxyProtocolError::TooLong),
        };
    };
    let line = window[..end]
        .strip_suffix(b"\r")
        .filter(|line| !line.contains(&b'\r'))
        .and_then(|line| line.strip_prefix(V1_PREFIX))
        .ok_or(ProxyProtocolError::Malformed("the line does not end in CR LF"))?;
    Ok(Some((parse_v1_line(line)?, end + 1)))
}

/// What stands between `PROXY ` and CR LF.
fn parse_v1_line(line: &[u8]) -> Result<ProxyHeader, ProxyProtocolError> {
    // The rest of an UNKNOWN line is to be ignored, whatever it is (section 2.1).
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Ok(ProxyHeader::KEEP_SOCKET);
    }
    let line = std::str::from_utf8(line).map_err(|_| ProxyProtocolError::Malformed("the line is not ASCII"))?;
    let mut fields = line.split(' ');
    let mut next = || fields.next().ok_or(ProxyProtocolError::Malformed("a field is missing"));
    let family = next()?;
    let (source, destination) = (next()?, next()?);
    let (source, destination) = match family {
        "TCP4" => (v1_address::<Ipv4Addr>(source)?, v1_address::<Ipv4Addr>(destination)?),
        "TCP6" => (v1_address::<Ipv6Addr>(source)?, v1_address::<Ipv6Addr>(destination)?),
        _ => return Err(ProxyProtocolError::Malformed("the family is not TCP4, TCP6 or UNKNOWN")),
    };
    let (source_port, destination_port) = (v1_port(next()?)?, v1_port(next()?)?);
    if fields.next().is_some() {
        return Err(ProxyProtocolError::Malformed("too many fields"));
    }
    Ok(ProxyHeader {
        source: Some(SocketAddr::new(source, source_port)),
        destination: Some(SocketAddr::new(destination, destination_port)),
    })
}

fn v1_address<T: std::str::FromStr + Into<IpAddr>>(text: &str) -> Result<IpAddr, ProxyProtocolError> {
    let address: IpAddr =
        text.parse::<T>().map_err(|_| ProxyProtocolError::Malformed("an address is not of the line's family"))?.into();
    Ok(address.to_canonical())
}

/// A decimal port without sign or leading zeros.
fn v1_port(text: &str) -> Result<u16, ProxyProtocolError> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or(ProxyProtocolError::Malformed("a port is not a number up to 65535"))
}

fn parse_v2(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyProtocolError> {
    let Some(&[.., command, family, high, low]) = bytes.first_chunk::<V2_HEADER>() else {
        return Ok(None);
    };
    let local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyProtocolError::Malformed("unknown version or command")),
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_V2_PAYLOAD {
        return Err(ProxyProtocolError::TooLong);
    }
    let end = V2_HEADER + length;
    let Some(header) = bytes.get(..end) else {
        return Ok(None);
    };
    // The payload of LOCAL is to be discarded, its family included (section 2.2).
    if local {
        return Ok(Some((ProxyHeader::KEEP_SOCKET, end)));
    }
    let (addresses, tlvs) = parse_v2_addresses(family, &header[V2_HEADER..])?;
    check_tlvs(header, end - tlvs.len())?;
    Ok(Some((addresses, end)))
}

/// The address block of `payload` and the TLVs behind it.
fn parse_v2_addresses(family: u8, payload: &[u8]) -> Result<(ProxyHeader, &[u8]), ProxyProtocolError> {
    let block = match family >> 4 {
        0 => 0,
        1 => INET_ADDRESSES,
        2 => INET6_ADDRESSES,
        3 => UNIX_ADDRESSES,
        _ => return Err(ProxyProtocolError::Malformed("unknown address family")),
    };
    let stream = match family & 0xf {
        0 | 2 => false,
        1 => true,
        _ => return Err(ProxyProtocolError::Malformed("unknown transport")),
    };
    let (block, tlvs) = payload
        .split_at_checked(block)
        .ok_or(ProxyProtocolError::Malformed("the payload is shorter than its addresses"))?;
    let endpoint =
        |address: IpAddr, port: &[u8]| SocketAddr::new(address.to_canonical(), u16::from_be_bytes([port[0], port[1]]));
    let header = match (stream, block.len()) {
        (true, INET_ADDRESSES) => {
            let address = |at: usize| IpAddr::from([block[at], block[at + 1], block[at + 2], block[at + 3]]);
            ProxyHeader {
                source: Some(endpoint(address(0), &block[8..10])),
                destination: Some(endpoint(address(4), &block[10..12])),
            }
        }
        (true, INET6_ADDRESSES) => {
            let address = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&block[at..at + 16]);
                IpAddr::from(octets)
            };
            ProxyHeader {
                source: Some(endpoint(address(0), &block[32..34])),
                destination: Some(endpoint(address(16), &block[34..36])),
            }
        }
        // Unix sockets and datagrams say nothing that a TCP connection could use.
        _ => ProxyHeader::KEEP_SOCKET,
    };
    Ok((header, tlvs))
}

/// Walks the TLVs that begin at `at`. They are skipped, but for the checksum, which section 2.2.4 requires to hold.
fn check_tlvs(header: &[u8], mut at: usize) -> Result<(), ProxyProtocolError> {
    const CRC32C: u8 = 0x03;
    let mut checked = false;
    while at < header.len() {
        let Some(&[kind, high, low]) = header.get(at..at + 3) else {
            return Err(ProxyProtocolError::Malformed("a TLV is cut short"));
        };
        let value = at + 3;
        at = value + usize::from(u16::from_be_bytes([high, low]));
        let Some(value_bytes) = header.get(value..at) else {
            return Err(ProxyProtocolError::Malformed("a TLV is cut short"));
        };
        if kind != CRC32C {
            continue;
        }
        let Ok(expected) = <[u8; 4]>::try_from(value_bytes) else {
            return Err(ProxyProtocolError::Malformed("the CRC32C is not of 4 bytes"));
        };
        // A second one would make the work grow with their number.
        if std::mem::replace(&mut checked, true) {
            return Err(ProxyProtocolError::Malformed("two CRC32C TLVs"));
        }
        // The sum is taken with its own four bytes as zeros.
        let sum = [&header[..value], &[0; 4], &header[at..]].into_iter().fold(!0, crc32c);
        if !sum != u32::from_be_bytes(expected) {
            return Err(ProxyProtocolError::Checksum);
        }
    }
    Ok(())
}

/// Continues the reflected CRC-32 with the Castagnoli polynomial (RFC 9260 appendix A), without the final inversion.
fn crc32c(sum: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = (value >> 1) ^ (if value & 1 == 1 { 0x82f6_3b78 } else { 0 });
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    bytes.iter().fold(sum, |sum, &byte| (sum >> 8) ^ TABLE[usize::from(sum as u8 ^ byte)])
}

/// Two addresses of one family, as a header needs them.
enum Addresses {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

fn same_family(source: IpAddr, destination: IpAddr) -> Addresses {
    let mapped = |address| match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    match (source.to_canonical(), destination.to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Addresses::V4(source, destination),
        (source, destination) => Addresses::V6(mapped(source), mapped(destination)),
    }
}
