//! The two halves of an HTTP/2 stream's body, the same for client and backend side: flow control in, flow control out.

use crate::peer::{Filled, Peer, PeerError, TrailerFields};
use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue};
use sluicegate_http1::BodyError;
use std::task::{Context, Poll, ready};

/// Most bytes that one DATA frame is asked to carry; beyond it the window of one stream would starve the others.
const PIECE: usize = 64 * 1024;
/// Most bytes of a request body that are kept for another try.
const REPLAY: usize = 64 * 1024;
/// Fields that must not stand in trailers (RFC 9110 section 6.5.1) and that would mislead whoever merges them.
const CLAIMS: [HeaderName; 3] = [http::header::CONTENT_LENGTH, http::header::TRANSFER_ENCODING, http::header::HOST];

/// The incoming half.
pub(crate) struct ReceiveBody {
    stream: RecvStream,
    chunk: Bytes,
    trailers: Option<HeaderMap>,
    end: bool,
    /// What was consumed, while all of it is still known.
    replay: Option<Vec<Bytes>>,
    replayed: usize,
    again: Vec<Bytes>,
}

impl ReceiveBody {
    pub(crate) fn new(stream: RecvStream, keep_for_replay: bool) -> Self {
        let end = stream.is_end_stream();
        Self {
            stream,
            chunk: Bytes::new(),
            trailers: None,
            end,
            replay: keep_for_replay.then(Vec::new),
            replayed: 0,
            again: Vec::new(),
        }
    }

    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<Filled, PeerError>> {
        while self.chunk.is_empty() {
            if let Some(piece) = self.again.pop() {
                self.chunk = piece;
                continue;
            }
            if self.end {
                return Poll::Ready(Ok(Filled::End));
            }
            match ready!(self.stream.poll_data(cx)) {
                Some(piece) => {
                    let piece = piece?;
                    // The window is opened again as soon as the piece is here: what it may hold is bounded by the
                    // relay, which takes no further piece before this one has left.
                    self.stream.flow_control().release_capacity(piece.len())?;
                    self.chunk = piece;
                }
                None => {
                    self.trailers = ready!(self.stream.poll_trailers(cx))?;
                    self.end = true;
                    // As on HTTP/1.1: only an attack claims framing or a host in trailers.
                    if self.trailers.as_ref().is_some_and(|map| CLAIMS.iter().any(|name| map.contains_key(name))) {
                        return Poll::Ready(Err(BodyError::BadTrailer.into()));
                    }
                }
            }
        }
        Poll::Ready(Ok(Filled::Data))
    }

    pub(crate) fn chunk(&self) -> &[u8] {
        &self.chunk
    }

    pub(crate) fn take(&mut self, max: usize) -> Bytes {
        let piece = self.chunk.split_to(max.min(self.chunk.len()));
        self.remember(&piece);
        piece
    }

    pub(crate) fn consume(&mut self, count: usize) {
        if self.replay.is_some() {
            let _ = self.take(count);
        } else {
            self.chunk.advance(count);
        }
    }

    fn remember(&mut self, piece: &Bytes) {
        self.replayed += piece.len();
        if self.replayed > REPLAY {
            self.replay = None;
        }
        if let Some(kept) = &mut self.replay {
            kept.push(piece.clone());
        }
    }

    /// True once the last piece is at hand and no trailers follow it.
    pub(crate) fn ends_with_chunk(&self) -> bool {
        self.again.is_empty() && (self.end || self.stream.is_end_stream()) && self.trailers.is_none()
    }

    pub(crate) fn trailers(&self) -> TrailerFields<'_> {
        self.trailers.as_ref().map_or(TrailerFields::None, TrailerFields::Http2)
    }

    /// Puts everything back that was consumed.
    pub(crate) fn rewind(&mut self) -> bool {
        let Some(kept) = &mut self.replay else {
            return self.replayed == 0;
        };
        if !self.chunk.is_empty() {
            self.again.push(std::mem::take(&mut self.chunk));
        }
        self.again.extend(kept.drain(..).rev());
        self.replayed = 0;
        true
    }
}

/// The outgoing half.
pub(crate) struct SendBody {
    stream: SendStream<Bytes>,
    done: bool,
}

impl SendBody {
    /// `done`: the head ended the stream already.
    pub(crate) fn new(stream: SendStream<Bytes>, done: bool) -> Self {
        Self { stream, done }
    }

    pub(crate) fn poll_send<S: Peer>(&mut self, cx: &mut Context<'_>, source: &mut S) -> Poll<Result<(), PeerError>> {
        if self.done {
            return Poll::Ready(Err(PeerError::Overflow));
        }
        let wanted = source.chunk().len().min(PIECE);
        self.stream.reserve_capacity(wanted);
        let mut capacity = self.stream.capacity();
        while capacity == 0 {
            capacity = match ready!(self.stream.poll_capacity(cx)) {
                Some(granted) => granted?,
                None => return Poll::Ready(Err(PeerError::Closed)),
            };
        }
        let last = capacity >= source.chunk().len() && wanted == source.chunk().len() && source.ends_with_chunk();
        let piece = source.take(capacity.min(wanted));
        self.stream.send_data(piece, last)?;
        self.done = last;
        Poll::Ready(Ok(()))
    }

    pub(crate) fn finish(&mut self, trailers: TrailerFields<'_>) -> Result<(), PeerError> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(());
        }
        let mut map = HeaderMap::new();
        trailers.for_each(|name, value| {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                map.append(name, value);
            }
        });
        if map.is_empty() {
            self.stream.send_data(Bytes::new(), true)?;
        } else {
            self.stream.send_trailers(map)?;
        }
        Ok(())
    }

    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<PeerError> {
        match ready!(self.stream.poll_reset(cx)) {
            Ok(reason) => Poll::Ready(PeerError::Http2(reason.into())),
            Err(error) => Poll::Ready(PeerError::Http2(error)),
        }
    }

    pub(crate) fn reset(&mut self, reason: h2::Reason) {
        self.stream.send_reset(reason);
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done
    }
}
