//! A stream of a client's HTTP/2 connection as a [`Peer`], and the translation of its head (RFC 9113 sections 8.2, 8.3).

use crate::headers;
use crate::http2_body::{ReceiveBody, SendBody};
use crate::peer::{Downstream, Filled, Peer, PeerError, TrailerFields};
use bytes::Bytes;
use h2::RecvStream;
use h2::ext::Protocol;
use h2::server::SendResponse;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use sluicegate_http1::{FieldName, Framing, HeadError, HeadLimits, RequestHead, ResponseHead, Version};
use std::task::{Context, Poll, ready};

/// See the module.
pub(crate) struct Http2Downstream {
    respond: SendResponse<Bytes>,
    receive: ReceiveBody,
    send: Option<SendBody>,
}

impl Http2Downstream {
    pub(crate) fn new(respond: SendResponse<Bytes>, body: RecvStream, keep_for_replay: bool) -> Self {
        Self { respond, receive: ReceiveBody::new(body, keep_for_replay), send: None }
    }

    /// Ends the stream without an answer, or in the middle of one.
    pub(crate) fn reset(&mut self, reason: h2::Reason) {
        match &mut self.send {
            Some(send) => send.reset(reason),
            None => self.respond.send_reset(reason),
        }
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.send.as_ref().is_some_and(SendBody::is_done)
    }
}

/// Writes the head of an HTTP/2 request into `head`. An extended CONNECT (RFC 8441) becomes the GET that it stands for;
/// the protocol is returned.
pub(crate) fn read_head(
    request: &Request<RecvStream>,
    head: &mut RequestHead,
    limits: &HeadLimits,
    websocket_key: impl FnOnce() -> String,
) -> Result<Option<Box<str>>, HeadError> {
    let protocol = request.extensions().get::<Protocol>().map(|protocol| protocol.as_str().into());
    let uri = request.uri();
    let target = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    // The h2 crate takes an empty scheme; without an authority it keeps none.
    if uri.authority().is_some() && request.method() != Method::CONNECT && uri.scheme_str().is_none_or(str::is_empty) {
        return Err(HeadError::InvalidTarget);
    }
    let method = if protocol.is_some() { &Method::GET } else { request.method() };
    if method == Method::CONNECT {
        let authority = uri.authority().ok_or(HeadError::InvalidTarget)?.as_str();
        head.begin(Version::Http2, b"CONNECT", authority.as_bytes())?;
    } else {
        head.begin(Version::Http2, method.as_str().as_bytes(), target.as_bytes())?;
    }
    let fields = request.headers();
    push_host(uri, fields, head)?;
    push_fields(fields, head)?;
    if protocol.is_some() && !fields.contains_key("sec-websocket-key") {
        head.push(b"sec-websocket-key", websocket_key().as_bytes())?;
    }
    if request.body().is_end_stream() {
        head.set_framing(if declared_length(fields)? == Some(0) { Framing::Length(0) } else { Framing::None });
    } else if protocol.is_some() {
        head.set_framing(Framing::None);
    } else {
        head.set_framing(declared_length(fields)?.map_or(Framing::Chunked, Framing::Length));
    }
    head.finish(limits)?;
    Ok(protocol)
}

/// RFC 9113 section 8.3.1: `:authority` is the host; a Host field must agree with it.
fn push_host(uri: &http::Uri, fields: &HeaderMap, head: &mut RequestHead) -> Result<(), HeadError> {
    let mut hosts = fields.get_all(http::header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(HeadError::MultipleHosts);
    }
    match (uri.authority(), host) {
        (Some(authority), Some(host)) if !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()) => {
            Err(HeadError::InvalidHost)
        }
        (Some(authority), _) => head.push(b"host", authority.as_str().as_bytes()),
        (None, Some(host)) => head.push(b"host", host.as_bytes()),
        (None, None) => Err(HeadError::MissingHost),
    }
}

fn push_fields(fields: &HeaderMap, head: &mut RequestHead) -> Result<(), HeadError> {
    let mut cookies: Vec<u8> = Vec::new();
    for (name, value) in fields {
        let value = value.as_bytes();
        // Section 8.2.1: white space at an end makes the request malformed, where HTTP/1.1 would trim it.
        if value.first().is_some_and(|byte| matches!(byte, b' ' | b'\t'))
            || value.last().is_some_and(|byte| matches!(byte, b' ' | b'\t'))
        {
            return Err(HeadError::InvalidValue);
        }
        match FieldName::of(name.as_str().as_bytes()) {
            FieldName::Host | FieldName::ContentLength => {}
            // Section 8.2.2: these have no meaning in HTTP/2 and must not be made to have one behind us.
            FieldName::Connection
            | FieldName::KeepAlive
            | FieldName::ProxyConnection
            | FieldName::TransferEncoding
            | FieldName::Upgrade => return Err(HeadError::InvalidName),
            // Section 8.2.3: crumbs are joined before they leave HTTP/2.
            FieldName::Cookie => {
                if !cookies.is_empty() {
                    cookies.extend_from_slice(b"; ");
                }
                cookies.extend_from_slice(value);
            }
            _ => head.push(name.as_str().as_bytes(), value)?,
        }
    }
    if cookies.is_empty() { Ok(()) } else { head.push(b"cookie", &cookies) }
}

fn declared_length(fields: &HeaderMap) -> Result<Option<u64>, HeadError> {
    let mut lengths = fields.get_all(http::header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else {
        return Ok(None);
    };
    if lengths.next().is_some() {
        return Err(HeadError::BadContentLength);
    }
    let digits = length.as_bytes();
    let valid = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let length = std::str::from_utf8(digits).ok().filter(|_| valid).and_then(|text| text.parse().ok());
    length.map(Some).ok_or(HeadError::BadContentLength)
}

impl Peer for Http2Downstream {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<Filled, PeerError>> {
        self.receive.poll_fill(cx)
    }

    fn chunk(&self) -> &[u8] {
        self.receive.chunk()
    }

    fn consume(&mut self, count: usize) {
        self.receive.consume(count);
    }

    fn take(&mut self, max: usize) -> Bytes {
        self.receive.take(max)
    }

    fn trailers(&self) -> TrailerFields<'_> {
        self.receive.trailers()
    }

    fn ends_with_chunk(&self) -> bool {
        self.receive.ends_with_chunk()
    }

    fn poll_send<S: Peer>(&mut self, cx: &mut Context<'_>, source: &mut S) -> Poll<Result<(), PeerError>> {
        match &mut self.send {
            Some(send) => send.poll_send(cx, source),
            None => Poll::Ready(Err(PeerError::Overflow)),
        }
    }

    fn finish(&mut self, trailers: TrailerFields<'_>) -> Result<(), PeerError> {
        self.send.as_mut().map_or(Ok(()), |send| send.finish(trailers))
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), PeerError>> {
        // The connection's own task writes.
        Poll::Ready(Ok(()))
    }

    fn enter_tunnel(&mut self) {}
}

impl Downstream for Http2Downstream {
    fn send_interim(&mut self, head: &ResponseHead) {
        let mut response = Response::new(());
        if let Ok(status) = StatusCode::from_u16(head.status()) {
            *response.status_mut() = status;
            headers::response_fields(head, response.headers_mut());
            // An interim response that does not fit is only a hint lost.
            let _ = self.respond.send_informational(response);
        }
    }

    fn send_head(&mut self, request: &RequestHead, head: &ResponseHead, _close: bool) -> Result<(), PeerError> {
        let switching = head.status() == 101;
        let status = if switching { 200 } else { head.status() };
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).map_err(|_| PeerError::Head(HeadError::BadStatusLine))?;
        *response.version_mut() = http::Version::HTTP_2;
        let fields = response.headers_mut();
        fields.reserve(head.len_fields() + 1);
        headers::response_fields(head, fields);
        let mut ends = !switching;
        match head.framing() {
            Framing::Length(length) => {
                fields.insert(http::header::CONTENT_LENGTH, length.into());
                ends &= length == 0;
            }
            Framing::None => {
                if let Some(length) =
                    head.field(FieldName::ContentLength).filter(|_| request.is_head() || head.status() == 304)
                    && let Ok(length) = http::HeaderValue::from_bytes(length)
                {
                    fields.insert(http::header::CONTENT_LENGTH, length);
                }
            }
            Framing::Chunked | Framing::UntilClose => ends = false,
        }
        if switching {
            // These belong to the handshake of HTTP/1.1 alone (RFC 8441 section 5).
            fields.remove("sec-websocket-accept");
        }
        let stream = self.respond.send_response(response, ends)?;
        self.send = Some(SendBody::new(stream, ends));
        Ok(())
    }

    fn rewind(&mut self) -> bool {
        self.receive.rewind()
    }

    fn has_read_request(&self) -> bool {
        // Streams do not stand in each other's way.
        true
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<PeerError> {
        match &mut self.send {
            Some(send) if send.is_done() => Poll::Pending,
            Some(send) => send.poll_reset(cx),
            None => match ready!(self.respond.poll_reset(cx)) {
                Ok(reason) => Poll::Ready(PeerError::Http2(reason.into())),
                Err(error) => Poll::Ready(PeerError::Http2(error)),
            },
        }
    }
}
