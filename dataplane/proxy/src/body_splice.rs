//! Long bodies of known length between two connections in the clear: `splice(2)` moves them through a pipe in the kernel, and
//! their bytes never come into the process.
//!
//! What crosses is what a copy would have sent: lengths are counted on both sides, and no more is taken from the one
//! socket than the body still has.

use crate::peer::{Peer, PeerError};
use crate::stream::{MAX_MOVE, Pipe, poll_io, take_pipe};
use std::io;
use std::task::{Context, Poll, ready};
use tokio::io::Interest;

/// Bodies of which less is to come are copied: a pipe would cost more than it saves.
const LONG: u64 = 32 << 10;

/// Who trickles less than this at a time is copied from: each piece costs two calls either way, and a pipe adds to that.
const TRICKLE: usize = 4 << 10;

/// So many such pieces in a row take a body back to copying.
const MAX_TRICKLES: u8 = 4;

/// One direction of an exchange.
#[derive(Debug, Default)]
pub(crate) struct BodySplice {
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    held: usize,
    /// Part of this body went through a pipe: so does the rest, however short.
    begun: bool,
    trickles: u8,
    /// Nothing of this body can, or is worth to be, moved so.
    given_up: bool,
}

/// Which of the two sockets failed.
#[derive(Debug)]
pub(crate) enum Failed {
    Source(PeerError),
    Sink(PeerError),
}

impl BodySplice {
    /// Bytes are on their way that the sink has not taken.
    pub(crate) fn holds_bytes(&self) -> bool {
        self.held > 0
    }

    /// Moves some of the body from `source` to `sink`, and says how many bytes the sink took. 0: what comes next is to be
    /// copied.
    pub(crate) fn poll_move<S: Peer, K: Peer>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut K,
    ) -> Poll<Result<u64, Failed>> {
        if self.held == 0 && !ready!(self.poll_fill(cx, source, sink)).map_err(|error| Failed::Source(error.into()))? {
            self.give_back();
            return Poll::Ready(Ok(0));
        }
        let moved = ready!(self.poll_drain(cx, sink)).map_err(|error| Failed::Sink(error.into()))?;
        Poll::Ready(Ok(moved))
    }

    /// Fills the empty pipe. False where it cannot be.
    fn poll_fill<S: Peer, K: Peer>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &K,
    ) -> Poll<io::Result<bool>> {
        let ahead = source.known_ahead();
        if self.given_up || ahead == 0 || ahead > sink.known_room() || (ahead < LONG && !self.begun) {
            return Poll::Ready(Ok(false));
        }
        let (Some(from), Some(_)) = (source.plain_socket(), sink.plain_socket()) else {
            return Poll::Ready(Ok(false));
        };
        let Some(pipe) = self.pipe.take().or_else(take_pipe) else {
            self.given_up = true;
            return Poll::Ready(Ok(false));
        };
        let at_most = usize::try_from(ahead).unwrap_or(MAX_MOVE).min(MAX_MOVE);
        let bytes = match poll_io(from, cx, Interest::READABLE, || Ok((pipe.fill_from(from, at_most)?, false))) {
            Poll::Ready(Ok(bytes @ 1..)) => bytes,
            nothing => {
                // While nothing comes nothing is held.
                pipe.give_back();
                self.given_up = nothing.is_ready();
                return match nothing {
                    Poll::Ready(Err(error)) if error.kind() != io::ErrorKind::InvalidInput => Poll::Ready(Err(error)),
                    // The end of the stream, or a socket that cannot be spliced: a read finds out what it means.
                    Poll::Ready(_) => Poll::Ready(Ok(false)),
                    Poll::Pending => Poll::Pending,
                };
            }
        };
        source.skip(bytes as u64);
        self.begun = true;
        self.trickles = if bytes < TRICKLE.min(at_most) { self.trickles + 1 } else { 0 };
        self.given_up = self.trickles == MAX_TRICKLES;
        (self.held, self.pipe) = (bytes, Some(pipe));
        Poll::Ready(Ok(true))
    }

    fn poll_drain<K: Peer>(&mut self, cx: &mut Context<'_>, sink: &mut K) -> Poll<io::Result<u64>> {
        let (Some(pipe), Some(to)) = (&self.pipe, sink.plain_socket()) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let held = self.held;
        let moved = ready!(poll_io(to, cx, Interest::WRITABLE, || {
            let moved = pipe.drain_into(to, held)?;
            // A short splice means that the socket is full.
            Ok((moved, moved < held))
        }))?;
        self.held -= moved;
        sink.skip_room(moved as u64);
        Poll::Ready(Ok(moved as u64))
    }

    /// Gives an empty pipe back. One that holds bytes of a body that broke off is closed with them.
    fn give_back(&mut self) {
        if let Some(pipe) = self.pipe.take_if(|_| self.held == 0) {
            pipe.give_back();
        }
    }
}

impl Drop for BodySplice {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails where something is not there")]
mod tests {
    use super::*;
    use crate::buffer::BufferPool;
    use crate::http1_stream::Http1Io;
    use crate::transport::Transport;
    use sluicegate_http1::Framing;
    use std::future::poll_fn;
    use std::rc::Rc;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    /// A body of `length` bytes that comes from one connection is to leave on another one. What of it was moved, what the
    /// receiver has got, and whether the rest is to be copied.
    async fn moved(length: u64, sent: usize) -> (u64, Vec<u8>, bool) {
        let ((mut backend, from), (to, mut client)) = (pair().await, pair().await);
        let pool = Rc::new(BufferPool::default());
        let mut source = Http1Io::new(Transport::from(from), Rc::clone(&pool));
        let mut sink = Http1Io::new(Transport::from(to), pool);
        source.begin_read(Framing::Length(length));
        sink.begin_write(Framing::Length(length));
        let bytes: Vec<u8> = (0..sent).map(|at| (at % 251) as u8).collect();
        let sending = async {
            backend.write_all(&bytes).await.unwrap();
            backend.shutdown().await.unwrap();
        };
        let moving = async {
            let (mut splice, mut moved) = (BodySplice::default(), 0);
            while source.known_ahead() > 0 || splice.holds_bytes() {
                match poll_fn(|cx| splice.poll_move(cx, &mut source, &mut sink)).await.unwrap() {
                    0 => break,
                    more => moved += more,
                }
            }
            let left = source.known_ahead();
            assert_eq!((left, sink.known_room()), (length - moved, length - moved), "both sides count alike");
            drop(sink);
            (moved, left > 0)
        };
        let mut received = Vec::new();
        let ((), (moved, copied), read) = tokio::join!(sending, moving, client.read_to_end(&mut received));
        read.unwrap();
        assert!(received == bytes[..received.len()], "bytes crossed as they were");
        (moved, received, copied)
    }

    #[tokio::test]
    async fn long_bodies_are_moved_and_no_byte_beyond_them() {
        for (length, sent) in [(LONG, 64 << 10), (1 << 20, 1 << 20), (1 << 20, (1 << 20) + 5000)] {
            let (moved, received, copied) = moved(length, sent).await;
            assert_eq!((moved, received.len() as u64, copied), (length, length, false), "{length} of {sent}");
        }
    }

    #[tokio::test]
    async fn short_bodies_and_what_breaks_off_are_left_to_copying() {
        let (moved_of_short, _, copied) = moved(LONG - 1, 64 << 10).await;
        assert_eq!((moved_of_short, copied), (0, true));
        let (moved_of_broken, received, copied) = moved(1 << 20, 300_000).await;
        assert_eq!((moved_of_broken, received.len(), copied), (300_000, 300_000, true));
    }
}
