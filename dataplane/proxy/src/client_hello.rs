//! What the first bytes of a TLS connection say about where it wants to go.
//!
//! This module reads a ClientHello without answering it: it holds no key, does no I/O, and the bytes that it looked
//! at stay with the caller, who passes them on to a backend (passthrough) or feeds them to rustls (termination).
//!
//! A hello arrives in any number of TCP segments and TLS records: those with a post-quantum key share do not fit one
//! packet, and some clients split records on purpose. [`ClientHelloReader`] remembers how far it got, so a hello that
//! comes byte by byte costs as much as one that comes at once.

use rustls_pki_types::DnsName;
use std::net::IpAddr;
use thiserror::Error;

/// The most bytes of a connection that are read in search of its ClientHello, record headers included.
pub const MAX_CLIENT_HELLO: usize = 64 * 1024;

/// The ALPN protocol of the ACME challenge `tls-alpn-01` (RFC 8737 section 6.2).
pub const ACME_TLS_ALPN: &[u8] = b"acme-tls/1";

/// The parts of a ClientHello that a connection can be routed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// The DNS name of the `server_name` extension, in lower case and without a trailing dot.
    ///
    /// `None` where the client sent no name, or an IP literal, which RFC 6066 section 3 does not allow as a name
    /// and which therefore names no host.
    pub server_name: Option<Box<str>>,
    /// `ProtocolNameList` without its length: checked when read, so that walking it cannot fail.
    alpn: Box<[u8]>,
}

impl ClientHello {
    /// The protocols of the ALPN extension in the client's order (RFC 7301 section 3.1); empty without the extension.
    pub fn alpn(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = Bytes(&self.alpn);
        std::iter::from_fn(move || rest.vector_u8())
    }

    /// Whether the client validates an ACME challenge instead of speaking the service's protocol (RFC 8737).
    pub fn is_acme_tls(&self) -> bool {
        self.alpn().any(|protocol| protocol == ACME_TLS_ALPN)
    }
}

/// Why no ClientHello can come out of these bytes, however many follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ClientHelloError {
    /// The connection does not begin with a TLS handshake record. Known from the first one to two bytes.
    #[error("the connection does not begin with a TLS handshake{}", if *http { ": it looks like plain HTTP" } else { "" })]
    NotTls {
        /// The first byte could begin an HTTP request, so the client deserves an answer that it can read (400).
        http: bool,
    },
    /// The ClientHello is larger than [`MAX_CLIENT_HELLO`].
    #[error("the ClientHello is larger than {MAX_CLIENT_HELLO} bytes")]
    TooLarge,
    /// It is TLS, but not as the RFCs have it.
    #[error("malformed ClientHello: {0}")]
    Malformed(&'static str),
}

/// Reads one connection's ClientHello out of a growing prefix of what the client sent.
#[derive(Debug, Default)]
pub struct ClientHelloReader {
    /// Where the next record header begins; everything before it was taken.
    next_record: usize,
    /// Handshake bytes of the records before `next_record`. Stays empty for a hello in one record.
    fragments: Vec<u8>,
}

impl ClientHelloReader {
    /// A reader for a connection of which nothing was seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at everything that the client has sent so far, from its first byte on, and says what its ClientHello
    /// asks for. `None` means that it is not complete: call again with more bytes behind the same ones.
    ///
    /// Bytes behind the ClientHello are not looked at. Work is linear in the bytes, however they are split over calls.
    pub fn inspect(&mut self, bytes_so_far: &[u8]) -> Result<Option<ClientHello>, ClientHelloError> {
        refuse_other_protocols(bytes_so_far)?;
        loop {
            let Some((payload, end)) = record_at(bytes_so_far, self.next_record)? else {
                return match bytes_so_far.len() < MAX_CLIENT_HELLO {
                    true => Ok(None),
                    false => Err(ClientHelloError::TooLarge),
                };
            };
            if end > MAX_CLIENT_HELLO {
                return Err(ClientHelloError::TooLarge);
            }
            self.next_record = end;
            if self.fragments.is_empty() {
                // The common case: a hello in a single record is parsed where it lies.
                if let Some(body) = client_hello_body(payload)? {
                    return parse(body).map(Some);
                }
            }
            self.fragments.extend_from_slice(payload);
            if let Some(body) = client_hello_body(&self.fragments)? {
                return parse(body).map(Some);
            }
        }
    }
}

/// The first two bytes tell TLS from everything else, before a whole record header is there.
fn refuse_other_protocols(bytes: &[u8]) -> Result<(), ClientHelloError> {
    const HANDSHAKE: u8 = 22;
    const MAJOR_VERSION: u8 = 3;
    match bytes {
        [] | [HANDSHAKE] | [HANDSHAKE, MAJOR_VERSION, ..] => Ok(()),
        // Methods are tokens, and every registered one begins with a capital letter (RFC 9110 section 9.1).
        [first, ..] => Err(ClientHelloError::NotTls { http: first.is_ascii_uppercase() }),
    }
}

/// The payload of the handshake record at `at`, and where the record ends; `None` while it is incomplete.
fn record_at(bytes: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, ClientHelloError> {
    const HEADER: usize = 5;
    const MAX_PLAINTEXT: usize = 1 << 14;
    let Some(&[content_type, major, _, high, low]) = bytes.get(at..at + HEADER) else {
        return Ok(None);
    };
    if (content_type, major) != (22, 3) {
        return Err(ClientHelloError::Malformed("another record interrupts the ClientHello"));
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    // RFC 8446 section 5.1 forbids both: they would also let a client keep the reader busy with nothing.
    if length == 0 {
        return Err(ClientHelloError::Malformed("empty handshake record"));
    }
    if length > MAX_PLAINTEXT {
        return Err(ClientHelloError::Malformed("record longer than 16384 bytes"));
    }
    let start = at + HEADER;
    let end = start + length;
    Ok(bytes.get(start..end).map(|payload| (payload, end)))
}

/// The body of the ClientHello message that `handshake` begins with; `None` while it is incomplete.
fn client_hello_body(handshake: &[u8]) -> Result<Option<&[u8]>, ClientHelloError> {
    const CLIENT_HELLO: u8 = 1;
    if handshake.first().is_some_and(|&kind| kind != CLIENT_HELLO) {
        return Err(ClientHelloError::Malformed("the first handshake message is not a ClientHello"));
    }
    let Some(&[_, a, b, c]) = handshake.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    if length > MAX_CLIENT_HELLO {
        return Err(ClientHelloError::TooLarge);
    }
    Ok(handshake.get(4..4 + length))
}

/// RFC 8446 section 4.1.2, which describes the hellos of TLS 1.0 to 1.2 as well.
fn parse(body: &[u8]) -> Result<ClientHello, ClientHelloError> {
    const SERVER_NAME: u16 = 0;
    const ALPN: u16 = 16;
    const TRUNCATED: ClientHelloError = ClientHelloError::Malformed("a field is cut short");
    let mut body = Bytes(body);
    body.take(2 + 32).ok_or(TRUNCATED)?; // legacy_version, random
    if body.vector_u8().ok_or(TRUNCATED)?.len() > 32 {
        return Err(ClientHelloError::Malformed("session id longer than 32 bytes"));
    }
    let cipher_suites = body.vector_u16().ok_or(TRUNCATED)?;
    if cipher_suites.is_empty() || cipher_suites.len() % 2 != 0 {
        return Err(ClientHelloError::Malformed("the cipher suites are not a list of pairs"));
    }
    if body.vector_u8().ok_or(TRUNCATED)?.is_empty() {
        return Err(ClientHelloError::Malformed("no compression method"));
    }

    let mut server_name = None;
    let mut alpn = None;
    if !body.0.is_empty() {
        let mut extensions = Bytes(body.vector_u16().ok_or(TRUNCATED)?);
        if !body.0.is_empty() {
            return Err(ClientHelloError::Malformed("bytes behind the extensions"));
        }
        while !extensions.0.is_empty() {
            let kind = extensions.u16().ok_or(TRUNCATED)?;
            let data = extensions.vector_u16().ok_or(TRUNCATED)?;
            // Two of a kind are forbidden (RFC 8446 section 4.2), and this reader and the backend could pick
            // different ones.
            match kind {
                SERVER_NAME if server_name.is_some() => {
                    return Err(ClientHelloError::Malformed("two server_name extensions"));
                }
                SERVER_NAME => server_name = Some(parse_server_name(data)?),
                ALPN if alpn.is_some() => {
                    return Err(ClientHelloError::Malformed("two ALPN extensions"));
                }
                ALPN => alpn = Some(parse_alpn(data)?),
                _ => {}
            }
        }
    }
    Ok(ClientHello { server_name: server_name.flatten(), alpn: alpn.unwrap_or_default() })
}

/// RFC 6066 section 3: a list with at most one name of each type, of which only DNS names are defined.
fn parse_server_name(data: &[u8]) -> Result<Option<Box<str>>, ClientHelloError> {
    const HOST_NAME: u8 = 0;
    const BAD_LIST: ClientHelloError = ClientHelloError::Malformed("server_name is not a list of names");
    let mut data = Bytes(data);
    let mut list = Bytes(data.vector_u16().ok_or(BAD_LIST)?);
    if list.0.is_empty() || !data.0.is_empty() {
        return Err(BAD_LIST);
    }
    let mut host = None;
    while !list.0.is_empty() {
        let kind = list.u8().ok_or(BAD_LIST)?;
        // Names of types yet to come begin with a 16-bit length too, so that they can be skipped.
        let name = list.vector_u16().ok_or(BAD_LIST)?;
        if kind == HOST_NAME && host.replace(name).is_some() {
            return Err(ClientHelloError::Malformed("server_name has two host names"));
        }
    }
    host.map_or(Ok(None), parse_host_name)
}

fn parse_host_name(name: &[u8]) -> Result<Option<Box<str>>, ClientHelloError> {
    const NOT_DNS: ClientHelloError = ClientHelloError::Malformed("server_name is not a DNS name");
    let name = std::str::from_utf8(name).map_err(|_| NOT_DNS)?;
    if name.parse::<IpAddr>().is_ok() {
        return Ok(None);
    }
    // A fully qualified name may end in a dot, which is no part of it; a second one belongs to an empty label.
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.ends_with('.') {
        return Err(NOT_DNS);
    }
    DnsName::try_from(name).map_err(|_| NOT_DNS)?;
    Ok(Some(name.to_ascii_lowercase().into()))
}

/// RFC 7301 section 3.1: a list of protocol names, none empty.
fn parse_alpn(data: &[u8]) -> Result<Box<[u8]>, ClientHelloError> {
    const BAD_LIST: ClientHelloError = ClientHelloError::Malformed("ALPN is not a list of protocols");
    let mut data = Bytes(data);
    let list = data.vector_u16().ok_or(BAD_LIST)?;
    if list.is_empty() || !data.0.is_empty() {
        return Err(BAD_LIST);
    }
    let mut rest = Bytes(list);
    while !rest.0.is_empty() {
        if rest.vector_u8().ok_or(BAD_LIST)?.is_empty() {
            return Err(ClientHelloError::Malformed("empty protocol name in ALPN"));
        }
    }
    Ok(list.into())
}

/// The rest of a TLS structure. What is not there in full is not taken.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
    }

    /// `opaque field<0..2^8-1>`
    fn vector_u8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }

    /// `opaque field<0..2^16-1>`
    fn vector_u16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}
