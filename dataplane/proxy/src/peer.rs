//! The two ends of an exchange as the relay sees them: something that yields a message body and takes one.
//!
//! HTTP/1.1 and HTTP/2 implement these traits on both sides, so that one relay ([`crate::relay`]) serves every combination.

use bytes::Bytes;
use http::HeaderMap;
use sluicegate_http1::{
    BodyError, Field, HeadError, HeadLimits, RequestHead, ResponseHead, Trailers, allowed_in_trailers,
};
use std::io;
use std::task::{Context, Poll};
use tokio::net::TcpStream;

/// What a peer has for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// [`Peer::chunk`] is not empty.
    Data,
    /// The message is complete; [`Peer::trailers`] are known.
    End,
}

/// Why a peer cannot go on. Which of the two peers it was is known by who asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    /// The connection broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The connection ended in the middle of a message, or before one began.
    #[error("connection closed early")]
    Closed,
    /// The head breaks the protocol.
    #[error("{0}")]
    Head(#[from] HeadError),
    /// The body breaks the protocol.
    #[error("{0}")]
    Body(#[from] BodyError),
    /// HTTP/2 trouble: a reset stream, a connection error.
    #[error("{0}")]
    Http2(#[from] h2::Error),
    /// The backend did not switch to the protocol of an extended CONNECT, and did not say that it failed either.
    #[error("the backend did not accept the upgrade")]
    NotUpgraded,
    /// The peer sends more than it announced.
    #[error("more bytes than announced")]
    Overflow,
}

/// Trailer fields in the shape in which they arrived.
#[derive(Clone, Copy)]
pub(crate) enum TrailerFields<'a> {
    None,
    Http1(&'a Trailers),
    Http2(&'a HeaderMap),
}

impl TrailerFields<'_> {
    /// Calls `each` with name and value of every field.
    pub(crate) fn for_each(self, mut each: impl FnMut(&[u8], &[u8])) {
        match self {
            Self::None => {}
            Self::Http1(trailers) => trailers.fields().for_each(|field| each(field.name, field.value)),
            Self::Http2(map) => map
                .iter()
                .map(|(name, value)| Field::new(name.as_str().as_bytes(), value.as_bytes()))
                .filter(|field| allowed_in_trailers(*field))
                .for_each(|field| each(field.name, field.value)),
        }
    }
}

/// One end of an exchange: yields a body and takes a body.
pub(crate) trait Peer {
    /// Makes the next piece of the incoming body available.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<Filled, PeerError>>;
    /// The piece that [`Self::poll_fill`] announced.
    fn chunk(&self) -> &[u8];
    /// Takes bytes off the front of the piece.
    fn consume(&mut self, count: usize);
    /// Takes up to `max` bytes off the front of the piece, without a copy where the peer can.
    fn take(&mut self, max: usize) -> Bytes;
    /// Trailers of the incoming message, known after [`Filled::End`].
    fn trailers(&self) -> TrailerFields<'_>;
    /// True if the piece at hand is known to be the last and no trailers follow it.
    fn ends_with_chunk(&self) -> bool;

    /// Sends some of the piece that `source` has ready. What is sent may wait in a buffer until [`Self::poll_flush`].
    fn poll_send<S: Peer>(&mut self, cx: &mut Context<'_>, source: &mut S) -> Poll<Result<(), PeerError>>;
    /// Ends the outgoing message.
    fn finish(&mut self, trailers: TrailerFields<'_>) -> Result<(), PeerError>;
    /// Gets everything out that is waiting; in a tunnel also the end of the stream.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PeerError>>;
    /// From here on bytes are opaque in both directions, until closed.
    fn enter_tunnel(&mut self);

    /// The socket, where the bytes of bodies cross it as they are: HTTP/1.1 in the clear.
    fn plain_socket(&self) -> Option<&TcpStream> {
        None
    }
    /// Bytes of the incoming body that come next from [`Self::plain_socket`] and that nobody has to look at: 0 where its
    /// length is not known, or some of it waits in a buffer.
    fn known_ahead(&self) -> u64 {
        0
    }
    /// So many of them were taken from the socket.
    fn skip(&mut self, _count: u64) {}
    /// Bytes of the outgoing body that may be put into [`Self::plain_socket`] as they are: 0 while something waits before
    /// them.
    fn known_room(&self) -> u64 {
        0
    }
    /// So many of them were put there.
    fn skip_room(&mut self, _count: u64) {}
}

/// The client's end.
pub(crate) trait Downstream: Peer {
    /// Queues an interim (1xx) response.
    fn send_interim(&mut self, head: &ResponseHead);
    /// Queues the head of the final response; `head`'s framing says what follows. `close`: this connection ends with it.
    fn send_head(&mut self, request: &RequestHead, head: &ResponseHead, close: bool) -> Result<(), PeerError>;
    /// Makes the whole request body unread again, for another try. False if some of it is gone.
    fn rewind(&mut self) -> bool;
    /// True if nothing of the request is left that would stand between it and the next one on the connection.
    fn has_read_request(&self) -> bool;
    /// Ready when the client has given the exchange up.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<PeerError>;
}

/// The backend's end.
pub(crate) trait Upstream: Peer {
    /// Reads the next response head, interim ones included.
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        request: &RequestHead,
        head: &mut ResponseHead,
        limits: &HeadLimits,
    ) -> Poll<Result<(), PeerError>>;
    /// True once any byte of a response has arrived.
    fn has_answered(&self) -> bool;
}
