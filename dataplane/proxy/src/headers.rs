//! Which fields cross the proxy, and which it sets itself: RFC 9110 section 7.6, forwarding headers, request ids, trace headers.

use crate::trace::Propagation;
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use sluicegate_http1::{Field, FieldName, RequestHead, ResponseHead, write_field, write_own_field};
use sluicegate_trace::Trust;
use smallvec::SmallVec;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

/// Takes fields one by one: text for HTTP/1.1, a map for HTTP/2.
pub(crate) trait FieldSink {
    fn field(&mut self, name: &[u8], value: &[u8]);

    /// A field of our own.
    fn own(&mut self, name: &'static str, value: &[u8]);

    /// Those fields of a request that cross.
    fn request(&mut self, head: &RequestHead, crosses: impl FnMut(&Field<'_>) -> bool) {
        head.fields().filter(crosses).for_each(|field| self.field(field.name, field.value));
    }

    /// Those fields of a response that cross.
    fn response(&mut self, head: &ResponseHead, crosses: impl FnMut(&Field<'_>) -> bool) {
        head.fields().filter(crosses).for_each(|field| self.field(field.name, field.value));
    }
}

impl FieldSink for Vec<u8> {
    fn field(&mut self, name: &[u8], value: &[u8]) {
        write_field(self, name, value);
    }

    fn own(&mut self, name: &'static str, value: &[u8]) {
        write_own_field(self, name, value);
    }

    fn request(&mut self, head: &RequestHead, crosses: impl FnMut(&Field<'_>) -> bool) {
        head.write_fields(self, crosses);
    }

    fn response(&mut self, head: &ResponseHead, crosses: impl FnMut(&Field<'_>) -> bool) {
        head.write_fields(self, crosses);
    }
}

impl FieldSink for HeaderMap {
    fn own(&mut self, name: &'static str, value: &[u8]) {
        self.field(name.as_bytes(), value);
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        // Both were checked by the codec that read them, so this cannot fail; if it does, the field does not cross.
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            let _ = self.try_append(name, value);
        }
    }
}

/// What is known of a client connection, the same for each of its requests.
#[derive(Debug)]
pub(crate) struct ClientIdentity {
    /// The client as the socket or the PROXY header has it.
    pub(crate) peer: SocketAddr,
    /// Its address as text.
    pub(crate) peer_text: Box<str>,
    /// Where the client connected to.
    pub(crate) local: SocketAddr,
    /// The connection is TLS here.
    pub(crate) https: bool,
    /// How far the traces of its requests are believed.
    pub(crate) trust: Trust,
    /// `X-Forwarded-*` from this peer is believed.
    pub(crate) trusted: bool,
}

impl ClientIdentity {
    pub(crate) fn new(peer: SocketAddr, local: SocketAddr, https: bool, trust: Trust, trusted: &[IpNet]) -> Self {
        let address = peer.ip().to_canonical();
        Self {
            peer: SocketAddr::new(address, peer.port()),
            peer_text: address.to_string().into(),
            local: SocketAddr::new(local.ip().to_canonical(), local.port()),
            https,
            trust,
            trusted: trusted.iter().any(|net| net.contains(&address)),
        }
    }
}

/// What the forwarding fields of one request are made of.
pub(crate) struct Forwarding<'a> {
    pub(crate) client: &'a ClientIdentity,
    /// The networks whose entries in `X-Forwarded-For` are skipped when the client's address is looked for.
    pub(crate) trusted: &'a [IpNet],
    pub(crate) request_id: &'a [u8],
    /// Send RFC 7239 `Forwarded` too.
    pub(crate) forwarded: bool,
    /// The trace that the request belongs to.
    pub(crate) trace: &'a Propagation,
}

/// The client's address: the right-most entry of `X-Forwarded-For` that no trusted proxy has, if the peer is trusted;
/// the peer itself else. What a client writes in front of that entry is never believed.
#[inline]
pub(crate) fn client_address(request: &RequestHead, client: &ClientIdentity, trusted: &[IpNet]) -> IpAddr {
    if client.trusted { forwarded_address(request, client, trusted) } else { client.peer.ip() }
}

fn forwarded_address(request: &RequestHead, client: &ClientIdentity, trusted: &[IpNet]) -> IpAddr {
    let mut address = client.peer.ip();
    let values: SmallVec<[&[u8]; 4]> = request.fields_named(FieldName::XForwardedFor).collect();
    for entry in values.iter().rev().flat_map(|value| value.rsplit(|byte| *byte == b',')) {
        let Some(parsed) = parse_address(entry) else {
            return address;
        };
        address = parsed;
        if !trusted.iter().any(|net| net.contains(&address)) {
            return address;
        }
    }
    address
}

fn parse_address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    text.parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
        .map(|address| address.to_canonical())
}

/// Fields that end at this hop, or that the proxy writes itself.
fn stays_behind(id: FieldName) -> bool {
    matches!(
        id,
        FieldName::Connection
            | FieldName::KeepAlive
            | FieldName::ProxyConnection
            | FieldName::TransferEncoding
            | FieldName::Te
            | FieldName::Upgrade
            | FieldName::ContentLength
            | FieldName::Host
            | FieldName::Http2Settings
            | FieldName::Proxy
            | FieldName::ProxyAuthorization
            | FieldName::XForwardedFor
            | FieldName::XForwardedProto
            | FieldName::XForwardedHost
            | FieldName::XForwardedPort
            | FieldName::XRealIp
            | FieldName::XRequestId
            | FieldName::Forwarded
    )
}

/// Fields by which a proxy in front describes the request; from anybody else they are forged.
fn is_proxy_claim(id: FieldName, name: &[u8]) -> bool {
    matches!(
        id,
        FieldName::XScheme
            | FieldName::XForwardedScheme
            | FieldName::XOriginalForwardedFor
            | FieldName::XForwardedPrefix
    ) || (id == FieldName::Other && name.len() > 12 && name[..12].eq_ignore_ascii_case(b"x-forwarded-"))
}

/// True for spellings with `_` of fields that end here or that we set: many servers read `X_Forwarded_For` and
/// `X-Forwarded-For` as one (CGI).
fn imitates_ours(name: &[u8]) -> bool {
    FieldName::disguised(name).is_some_and(stays_behind)
}

/// Writes the fields of a request for a backend, `Host` and framing excepted.
pub(crate) fn request_fields(request: &RequestHead, forwarding: &Forwarding<'_>, sink: &mut impl FieldSink) {
    sink.request(request, |field| request_field_crosses(field, request, forwarding));
    forwarding_fields(request, forwarding, sink);
    for (name, value) in forwarding.trace.fields() {
        sink.own(name, value);
    }
}

fn request_field_crosses(field: &Field<'_>, request: &RequestHead, forwarding: &Forwarding<'_>) -> bool {
    let unknown = field.id == FieldName::Other;
    !stays_behind(field.id)
        && !(unknown && (request.is_connection_option(field.name) || imitates_ours(field.name)))
        && (forwarding.client.trusted || !is_proxy_claim(field.id, field.name))
        && !forwarding.trace.replaces(field)
}

type Text = SmallVec<[u8; 256]>;

fn forwarding_fields(request: &RequestHead, forwarding: &Forwarding<'_>, sink: &mut impl FieldSink) {
    let client = forwarding.client;
    let believed = |name| request.field(name).filter(|_| client.trusted);
    let scheme: &[u8] = if client.https { b"https" } else { b"http" };
    if client.trusted {
        let mut chain = Text::new();
        for value in request.fields_named(FieldName::XForwardedFor).filter(|value| !value.is_empty()) {
            chain.extend_from_slice(value);
            chain.extend_from_slice(b", ");
        }
        chain.extend_from_slice(client.peer_text.as_bytes());
        sink.own("x-forwarded-for", &chain);
        let mut address = SmallText::default();
        // Writing into a SmallText cannot fail.
        let _ = write!(address, "{}", client_address(request, client, forwarding.trusted));
        sink.own("x-real-ip", &address.0);
    } else {
        sink.own("x-forwarded-for", client.peer_text.as_bytes());
        sink.own("x-real-ip", client.peer_text.as_bytes());
    }
    let proto = believed(FieldName::XForwardedProto).unwrap_or(scheme);
    sink.own("x-forwarded-proto", proto);
    let host = believed(FieldName::XForwardedHost).unwrap_or(request.authority());
    if !host.is_empty() {
        sink.own("x-forwarded-host", host);
    }
    let mut port = itoa::Buffer::new();
    let port = port.format(client.local.port()).as_bytes();
    sink.own("x-forwarded-port", believed(FieldName::XForwardedPort).unwrap_or(port));
    sink.own("x-request-id", forwarding.request_id);
    if forwarding.forwarded {
        forwarded_field(request, client, proto, host, sink);
    }
}

/// RFC 7239: our element, behind those of trusted proxies.
fn forwarded_field(
    request: &RequestHead,
    client: &ClientIdentity,
    proto: &[u8],
    host: &[u8],
    sink: &mut impl FieldSink,
) {
    let mut element = Text::new();
    if client.trusted {
        for value in request.fields_named(FieldName::Forwarded).filter(|value| !value.is_empty()) {
            element.extend_from_slice(value);
            element.extend_from_slice(b", ");
        }
    }
    element.extend_from_slice(b"for=");
    if client.peer.is_ipv6() {
        element.extend_from_slice(b"\"[");
        element.extend_from_slice(client.peer_text.as_bytes());
        element.extend_from_slice(b"]\"");
    } else {
        element.extend_from_slice(client.peer_text.as_bytes());
    }
    if !host.is_empty() {
        element.extend_from_slice(b";host=\"");
        element.extend_from_slice(host);
        element.push(b'"');
    }
    element.extend_from_slice(b";proto=");
    element.extend_from_slice(proto);
    sink.own("forwarded", &element);
}

/// Writes the fields of a response for a client, framing excepted.
pub(crate) fn response_fields(response: &ResponseHead, sink: &mut impl FieldSink) {
    sink.response(response, |field| {
        let stays = matches!(
            field.id,
            FieldName::Connection
                | FieldName::KeepAlive
                | FieldName::ProxyConnection
                | FieldName::TransferEncoding
                | FieldName::Te
                | FieldName::Upgrade
                | FieldName::ContentLength
                | FieldName::Http2Settings
        );
        !stays && (field.id != FieldName::Other || !response.is_connection_option(field.name))
    });
}

/// A short text that is written with `write!` without allocation.
#[derive(Default)]
pub(crate) struct SmallText(pub(crate) SmallVec<[u8; 64]>);

impl std::fmt::Write for SmallText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// True for a request id that may be passed on: 1 to 128 visible ASCII characters.
pub(crate) fn is_request_id(value: &[u8]) -> bool {
    (1..=128).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic)
}

/// The value of a cookie, RFC 6265 section 4.2.
pub(crate) fn cookie<'a>(request: &'a RequestHead, name: &[u8]) -> Option<&'a [u8]> {
    request.fields_named(FieldName::Cookie).flat_map(|value| value.split(|byte| *byte == b';')).find_map(|pair| {
        let pair = pair.trim_ascii();
        let split = memchr::memchr(b'=', pair)?;
        (&pair[..split] == name).then(|| &pair[split + 1..])
    })
}
