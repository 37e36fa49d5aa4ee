//! A stream of an HTTP/2 connection to a backend as a [`Peer`].

use crate::http2_body::{ReceiveBody, SendBody};
use crate::peer::{Filled, Peer, PeerError, TrailerFields, Upstream};
use bytes::Bytes;
use h2::SendStream;
use h2::client::ResponseFuture;
use http::Response;
use sluicegate_http1::{
    FieldName, Framing, HeadError, HeadLimits, RequestHead, ResponseHead, Version, canonical_reason,
};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// See the module.
pub(crate) struct Http2Upstream {
    response: ResponseFuture,
    send: SendBody,
    receive: Option<ReceiveBody>,
    answered: bool,
}

impl Http2Upstream {
    /// `ends`: the request has no body, its head ended the stream.
    pub(crate) fn new(response: ResponseFuture, stream: SendStream<Bytes>, ends: bool) -> Self {
        Self { response, send: SendBody::new(stream, ends), receive: None, answered: false }
    }

    /// Nobody wants the rest.
    pub(crate) fn cancel(&mut self) {
        self.send.reset(h2::Reason::CANCEL);
    }
}

impl Peer for Http2Upstream {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<Filled, PeerError>> {
        match &mut self.receive {
            Some(receive) => receive.poll_fill(cx),
            None => Poll::Ready(Ok(Filled::End)),
        }
    }

    fn chunk(&self) -> &[u8] {
        self.receive.as_ref().map_or(&[], ReceiveBody::chunk)
    }

    fn consume(&mut self, count: usize) {
        if let Some(receive) = &mut self.receive {
            receive.consume(count);
        }
    }

    fn take(&mut self, max: usize) -> Bytes {
        self.receive.as_mut().map_or_else(Bytes::new, |receive| receive.take(max))
    }

    fn trailers(&self) -> TrailerFields<'_> {
        self.receive.as_ref().map_or(TrailerFields::None, ReceiveBody::trailers)
    }

    fn ends_with_chunk(&self) -> bool {
        self.receive.as_ref().is_none_or(ReceiveBody::ends_with_chunk)
    }

    fn poll_send<S: Peer>(&mut self, cx: &mut Context<'_>, source: &mut S) -> Poll<Result<(), PeerError>> {
        self.send.poll_send(cx, source)
    }

    fn finish(&mut self, trailers: TrailerFields<'_>) -> Result<(), PeerError> {
        self.send.finish(trailers)
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), PeerError>> {
        // The connection's own task writes.
        Poll::Ready(Ok(()))
    }

    fn enter_tunnel(&mut self) {}
}

impl Upstream for Http2Upstream {
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        request: &RequestHead,
        head: &mut ResponseHead,
        limits: &HeadLimits,
    ) -> Poll<Result<(), PeerError>> {
        if let Poll::Ready(Some(interim)) = self.response.poll_informational(cx) {
            // An error of the connection comes this way too, and is no answer.
            let interim = interim?;
            self.answered = true;
            return Poll::Ready(fill_head(&interim, Framing::None, head, limits).map_err(PeerError::from));
        }
        let response = ready!(Pin::new(&mut self.response).poll(cx))?;
        self.answered = true;
        let (parts, body) = response.into_parts();
        let ends = body.is_end_stream();
        let status = parts.status.as_u16();
        let response = Response::from_parts(parts, ());
        let framing = if ends || request.is_head() || matches!(status, 204 | 304) {
            Framing::None
        } else {
            length_of(&response)?.map_or(Framing::UntilClose, Framing::Length)
        };
        fill_head(&response, framing, head, limits)?;
        // Servers exist that send data in answer to HEAD; nobody wants it, and reading it would be an error.
        self.receive = (framing != Framing::None).then(|| ReceiveBody::new(body, false));
        Poll::Ready(Ok(()))
    }

    fn has_answered(&self) -> bool {
        self.answered
    }
}

fn length_of(response: &Response<()>) -> Result<Option<u64>, HeadError> {
    match response.headers().get(http::header::CONTENT_LENGTH) {
        None => Ok(None),
        Some(value) => {
            let digits = value.as_bytes();
            let valid = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
            let length = std::str::from_utf8(digits).ok().filter(|_| valid).and_then(|text| text.parse().ok());
            length.map(Some).ok_or(HeadError::BadContentLength)
        }
    }
}

fn fill_head(
    response: &Response<()>,
    framing: Framing,
    head: &mut ResponseHead,
    limits: &HeadLimits,
) -> Result<(), HeadError> {
    let status = response.status().as_u16();
    head.clear();
    head.begin(Version::Http2, status, canonical_reason(status).as_bytes())?;
    for (name, value) in response.headers() {
        // Framing is told by the stream; the field stays for HEAD and 304, where it describes what is not sent.
        let is_length = FieldName::of(name.as_str().as_bytes()) == FieldName::ContentLength;
        if is_length && framing != Framing::None {
            continue;
        }
        head.push(name.as_str().as_bytes(), value.as_bytes())?;
    }
    head.set_framing(framing);
    head.finish(limits)
}
