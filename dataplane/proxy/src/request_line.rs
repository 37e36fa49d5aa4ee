//! Puts a request on its way to a backend: HTTP/1.1 text or an HTTP/2 stream, from one and the same head.

use crate::headers::{FieldSink, Forwarding, SmallText, request_fields};
use crate::http1_stream::Http1Io;
use crate::peer::PeerError;
use crate::pool::Lease;
use crate::upstream_http2::Http2Upstream;
use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Uri};
use sluicegate_http1::{FieldName, Framing, HeadError, RequestHead, Version, write_request_line};
use sluicegate_route::{CompiledRoute, rewrite};

/// The target that the backend sees: rewritten where the route says so, else as the client sent it.
fn target<'a>(request: &'a RequestHead, route: &CompiledRoute, scratch: &'a mut Vec<u8>) -> &'a [u8] {
    if route.policy.rewrite.is_some() && rewrite(route, request.path(), request.query(), scratch) {
        scratch
    } else {
        request.path_and_query()
    }
}

/// Queues the request head on an HTTP/1.1 connection.
pub(crate) fn write(
    upstream: &mut Http1Io<Lease>,
    request: &RequestHead,
    route: &CompiledRoute,
    authority: &SmallText,
    forwarding: &Forwarding<'_>,
    upgrade: bool,
) {
    let mut scratch = Vec::new();
    let target = target(request, route, &mut scratch);
    let out = upstream.out_bytes();
    // Extended CONNECT (RFC 8441) is a GET on HTTP/1.1.
    write_request_line(out, request.method(), target, Version::Http11);
    out.own("host", &authority.0);
    request_fields(request, forwarding, out);
    let framing = match request.framing() {
        Framing::Length(length) => {
            out.own("content-length", itoa::Buffer::new().format(length).as_bytes());
            Framing::Length(length)
        }
        Framing::Chunked | Framing::UntilClose if !upgrade => {
            out.own("transfer-encoding", b"chunked");
            Framing::Chunked
        }
        _ => Framing::None,
    };
    if upgrade {
        out.own("connection", b"upgrade");
        out.own("upgrade", request.upgrade().unwrap_or(b"websocket"));
    } else if request.te_trailers() {
        out.own("te", b"trailers");
        out.own("connection", b"te");
    }
    out.extend_from_slice(b"\r\n");
    upstream.begin_write(framing);
}

/// Opens a stream on an HTTP/2 connection.
pub(crate) fn open_http2(
    mut sender: h2::client::SendRequest<Bytes>,
    request: &RequestHead,
    route: &CompiledRoute,
    authority: &SmallText,
    forwarding: &Forwarding<'_>,
    tls: bool,
) -> Result<Http2Upstream, PeerError> {
    let mut scratch = Vec::new();
    let target = target(request, route, &mut scratch);
    // HTTP/1.1 lets more characters through than the URIs of HTTP/2 are made of.
    let invalid = || PeerError::Head(HeadError::InvalidTarget);
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(Authority::try_from(authority.0.as_slice()).map_err(|_| invalid())?);
    parts.path_and_query = Some(PathAndQuery::try_from(target).map_err(|_| invalid())?);
    let mut message = http::Request::new(());
    *message.method_mut() = Method::from_bytes(request.method()).map_err(|_| invalid())?;
    *message.uri_mut() = Uri::from_parts(parts).map_err(|_| invalid())?;
    *message.version_mut() = http::Version::HTTP_2;
    let mut fields = HeaderMap::with_capacity(request.fields().count() + 8);
    request_fields(request, forwarding, &mut fields);
    // Few servers answer it on HTTP/2, so it was answered here.
    fields.remove(http::header::EXPECT);
    if request.te_trailers() {
        fields.field(b"te", b"trailers");
    }
    if let Framing::Length(length) = request.framing() {
        fields.field(FieldName::ContentLength.as_str().unwrap_or_default().as_bytes(), length.to_string().as_bytes());
    }
    *message.headers_mut() = fields;
    let ends = matches!(request.framing(), Framing::None | Framing::Length(0));
    let (response, stream) = sender.send_request(message, ends)?;
    Ok(Http2Upstream::new(response, stream, ends))
}
