//! An HTTP/1.1 connection as a [`Peer`]: the codec of `sluicegate-http1` put on a [`Transport`]. Used on both sides.

use crate::buffer::{BufferPool, LARGE, MEDIUM, ReadBuffer, SMALL, WriteBuffer};
use crate::headers;
use crate::peer::{Downstream, Filled, Peer, PeerError, TrailerFields, Upstream};
use crate::pool::Lease;
use crate::transport::Transport;
use bytes::Bytes;
use sluicegate_http1::{
    BodyDecoder, Decoded, FieldName, Framing, HeadError, HeadLimits, RequestHead, ResponseHead, Version,
    write_chunk_head, write_field, write_status_line,
};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

/// Pieces up to this size are gathered in the write buffer, so that head and small bodies leave in one system call;
/// larger ones are written from where they were read, together with what waits.
const GATHER: usize = 4 * 1024;
/// The write buffer takes no more pieces beyond this.
const GATHER_TOTAL: usize = 16 * 1024;

/// Whatever holds the connection: the transport itself downstream, the pool's lease upstream.
pub(crate) trait HoldsTransport {
    fn transport(&mut self) -> &mut Transport;
    fn socket(&self) -> Option<&TcpStream>;
}

impl HoldsTransport for Transport {
    fn transport(&mut self) -> &mut Transport {
        self
    }

    fn socket(&self) -> Option<&TcpStream> {
        self.plain_socket()
    }
}

impl HoldsTransport for Lease {
    fn transport(&mut self) -> &mut Transport {
        &mut self.connection
    }

    fn socket(&self) -> Option<&TcpStream> {
        self.connection.plain_socket()
    }
}

/// How the outgoing body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoder {
    /// Nothing (more) to send.
    Done,
    /// This many bytes remain.
    Length(u64),
    /// Chunked; this many bytes remain of the chunk whose head is out.
    Chunked { open: usize },
    /// Until the connection closes.
    UntilClose,
    /// Opaque bytes.
    Tunnel,
}

/// One HTTP/1.1 connection and where it stands in the current message of either direction.
pub(crate) struct Http1Io<T> {
    pub(crate) owner: T,
    pub(crate) pool: Rc<BufferPool>,
    pub(crate) rbuf: ReadBuffer,
    pub(crate) out: WriteBuffer,
    decoder: BodyDecoder,
    /// How the incoming body is framed.
    framing: Framing,
    /// Bytes at the front of `rbuf` that are body data.
    decoded: usize,
    /// Bytes of the incoming body that were decoded, those included.
    decoded_total: u64,
    read_end: bool,
    encoder: Encoder,
    shutdown: Shutdown,
    /// Where the request body begins in `rbuf`, while all of it that was used is still there.
    body_mark: Option<usize>,
    answered: bool,
    /// How large the buffer is made for the next read.
    read_size: usize,
    /// How large it is made for the head of a response.
    head_size: usize,
    /// The head that was sent last says that the connection ends.
    closing: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shutdown {
    No,
    Wanted,
    Done,
}

impl<T: HoldsTransport> Http1Io<T> {
    pub(crate) fn new(owner: T, pool: Rc<BufferPool>) -> Self {
        Self {
            owner,
            pool,
            rbuf: ReadBuffer::default(),
            out: WriteBuffer::default(),
            decoder: BodyDecoder::new(Framing::None),
            framing: Framing::None,
            decoded: 0,
            decoded_total: 0,
            read_end: true,
            encoder: Encoder::Done,
            shutdown: Shutdown::No,
            body_mark: None,
            answered: false,
            read_size: SMALL,
            head_size: MEDIUM,
            closing: false,
        }
    }

    /// Long bodies go past the buffer: no more of them is read with the head than what makes a short body whole.
    pub(crate) fn expect_splice(&mut self) {
        self.head_size = SMALL;
    }

    /// The head of an incoming message was consumed; its body follows.
    pub(crate) fn begin_read(&mut self, framing: Framing) {
        self.decoder = BodyDecoder::new(framing);
        self.framing = framing;
        self.read_size = SMALL;
        (self.decoded, self.decoded_total) = (0, 0);
        self.read_end = matches!(framing, Framing::None | Framing::Length(0));
        self.body_mark = Some(self.rbuf.mark());
    }

    /// The head of an outgoing message was queued; its body follows.
    pub(crate) fn begin_write(&mut self, framing: Framing) {
        self.encoder = match framing {
            Framing::None => Encoder::Done,
            Framing::Length(length) => Encoder::Length(length),
            Framing::Chunked => Encoder::Chunked { open: 0 },
            Framing::UntilClose => Encoder::UntilClose,
        };
    }

    /// True if the incoming message was read to its end.
    pub(crate) fn read_complete(&self) -> bool {
        self.read_end
    }

    /// True if only the end of the connection ends the outgoing message.
    pub(crate) fn is_close_delimited(&self) -> bool {
        self.encoder == Encoder::UntilClose
    }

    /// True if the other side was told that the connection ends with this message.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// The write buffer, to append a head to.
    pub(crate) fn out_bytes(&mut self) -> &mut Vec<u8> {
        self.out.bytes(&self.pool)
    }

    /// Gives the buffers back, whatever they hold: the connection is done with.
    pub(crate) fn discard(&mut self) {
        self.rbuf.discard(&self.pool);
        self.out.clear();
        self.out.release(&self.pool);
    }

    /// Gives the buffers back that hold nothing.
    pub(crate) fn release(&mut self) {
        self.rbuf.release(&self.pool);
        self.out.release(&self.pool);
    }

    /// Reads once into the buffer. It grows where it is full, and where the last read filled it: a message that is
    /// longer than the buffer is read with fewer system calls. `Ok(0)`: the stream ended.
    fn poll_read_more(&mut self, cx: &mut Context<'_>, start_size: usize) -> Poll<io::Result<usize>> {
        // Nothing of the body was used yet: it stays whole, but what follows may move it.
        let whole = self.body_mark == Some(self.rbuf.mark());
        if self.rbuf.is_empty() {
            self.rbuf.ensure(&self.pool, start_size.max(self.read_size));
        } else if self.rbuf.is_full() {
            let Some(size) = self.rbuf.next_size() else {
                return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
            };
            self.rbuf.ensure(&self.pool, size);
        }
        let polled = self.rbuf.poll_fill(cx, self.owner.transport());
        if polled.is_pending() {
            self.rbuf.release(&self.pool);
        } else if self.rbuf.is_full() {
            self.read_size = self.rbuf.next_size().unwrap_or(LARGE);
        }
        self.body_mark = whole.then(|| self.rbuf.mark());
        polled
    }

    /// Drives one read of head bytes: used by the connection loop while it waits for a request.
    pub(crate) fn poll_read_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.poll_read_more(cx, SMALL)
    }
}

impl<T: HoldsTransport> Peer for Http1Io<T> {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<Filled, PeerError>> {
        loop {
            if self.decoded > 0 {
                return Poll::Ready(Ok(Filled::Data));
            }
            if self.read_end {
                return Poll::Ready(Ok(Filled::End));
            }
            match self.decoder.decode(self.rbuf.unread())? {
                Decoded::Data { skip, len } => {
                    self.rbuf.consume(skip);
                    self.decoded = len;
                    self.decoded_total += len as u64;
                }
                Decoded::End { skip } => {
                    self.rbuf.consume(skip);
                    self.read_end = true;
                }
                Decoded::NeedMore { skip } => {
                    self.rbuf.consume(skip);
                    if ready!(self.poll_read_more(cx, SMALL))? == 0 {
                        self.decoder.eof()?;
                        self.read_end = true;
                    }
                }
            }
        }
    }

    fn chunk(&self) -> &[u8] {
        &self.rbuf.unread()[..self.decoded]
    }

    fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.decoded);
        self.decoded -= count;
        self.rbuf.consume(count);
    }

    fn take(&mut self, max: usize) -> Bytes {
        let piece = Bytes::copy_from_slice(&self.chunk()[..self.decoded.min(max)]);
        self.consume(piece.len());
        piece
    }

    fn trailers(&self) -> TrailerFields<'_> {
        TrailerFields::Http1(self.decoder.trailers())
    }

    fn ends_with_chunk(&self) -> bool {
        matches!(self.framing, Framing::Length(length) if length == self.decoded_total)
    }

    fn poll_send<S: Peer>(&mut self, cx: &mut Context<'_>, source: &mut S) -> Poll<Result<(), PeerError>> {
        let available = source.chunk().len();
        let count = self.frame(available)?;
        if count <= GATHER && self.out.pending().len() + count <= GATHER_TOTAL {
            self.out.bytes(&self.pool).extend_from_slice(&source.chunk()[..count]);
            source.consume(count);
            self.framed(count);
            return Poll::Ready(Ok(()));
        }
        let waiting = self.out.pending().len();
        let slices = [IoSlice::new(self.out.pending()), IoSlice::new(&source.chunk()[..count])];
        let skip_empty = usize::from(waiting == 0);
        let written = ready!(Pin::new(self.owner.transport()).poll_write_vectored(cx, &slices[skip_empty..]))?;
        if written == 0 {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
        }
        self.out.advance(written.min(waiting));
        let of_piece = written - written.min(waiting);
        source.consume(of_piece);
        self.framed(of_piece);
        Poll::Ready(Ok(()))
    }

    fn finish(&mut self, trailers: TrailerFields<'_>) -> Result<(), PeerError> {
        match self.encoder {
            Encoder::Done | Encoder::Length(0) | Encoder::UntilClose => {}
            Encoder::Length(_) => return Err(PeerError::Closed),
            Encoder::Chunked { .. } => {
                let out = self.out.bytes(&self.pool);
                out.extend_from_slice(b"0\r\n");
                trailers.for_each(|name, value| {
                    write_field(out, name, value);
                });
                out.extend_from_slice(b"\r\n");
            }
            Encoder::Tunnel => self.shutdown = Shutdown::Wanted,
        }
        self.encoder = Encoder::Done;
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PeerError>> {
        ready!(self.out.poll_write(cx, self.owner.transport()))?;
        let mut io = Pin::new(self.owner.transport());
        ready!(io.as_mut().poll_flush(cx))?;
        if self.shutdown == Shutdown::Wanted {
            ready!(io.poll_shutdown(cx))?;
            self.shutdown = Shutdown::Done;
        }
        Poll::Ready(Ok(()))
    }

    fn enter_tunnel(&mut self) {
        self.begin_read(Framing::UntilClose);
        self.encoder = Encoder::Tunnel;
    }

    fn plain_socket(&self) -> Option<&TcpStream> {
        self.owner.socket()
    }

    fn known_ahead(&self) -> u64 {
        if self.decoded == 0 && self.rbuf.is_empty() { self.decoder.known_ahead() } else { 0 }
    }

    fn skip(&mut self, count: u64) {
        self.decoder.skip(count);
        self.decoded_total += count;
        self.read_end = self.decoder.is_done();
        self.body_mark = None;
    }

    fn known_room(&self) -> u64 {
        match self.encoder {
            Encoder::Length(remaining) if self.out.is_empty() => remaining,
            _ => 0,
        }
    }

    fn skip_room(&mut self, count: u64) {
        if let Encoder::Length(remaining) = &mut self.encoder {
            *remaining = remaining.saturating_sub(count);
        }
    }
}

impl<T: HoldsTransport> Http1Io<T> {
    /// How much of a piece may be sent under the current framing; opens a chunk where one is needed.
    fn frame(&mut self, available: usize) -> Result<usize, PeerError> {
        match &mut self.encoder {
            Encoder::Length(remaining) => {
                if available as u64 > *remaining {
                    return Err(PeerError::Overflow);
                }
                Ok(available)
            }
            Encoder::Chunked { open } => {
                if *open == 0 {
                    *open = available;
                    write_chunk_head(self.out.bytes(&self.pool), available);
                }
                Ok(available.min(*open))
            }
            Encoder::UntilClose | Encoder::Tunnel => Ok(available),
            Encoder::Done => Err(PeerError::Overflow),
        }
    }

    fn framed(&mut self, count: usize) {
        match &mut self.encoder {
            Encoder::Length(remaining) => *remaining -= count as u64,
            Encoder::Chunked { open } => {
                *open -= count;
                if *open == 0 && count > 0 {
                    self.out.bytes(&self.pool).extend_from_slice(b"\r\n");
                }
            }
            _ => {}
        }
    }
}

impl Downstream for Http1Io<Transport> {
    fn send_interim(&mut self, head: &ResponseHead) {
        let out = self.out.bytes(&self.pool);
        write_status_line(out, head.status(), head.reason(), Version::Http11);
        headers::response_fields(head, out);
        out.extend_from_slice(b"\r\n");
    }

    fn send_head(&mut self, request: &RequestHead, head: &ResponseHead, close: bool) -> Result<(), PeerError> {
        let out = self.out.bytes(&self.pool);
        write_status_line(out, head.status(), head.reason(), Version::Http11);
        headers::response_fields(head, out);
        let mut framing = head.framing();
        let mut close = close;
        if head.status() == 101 {
            out.extend_from_slice(b"connection: upgrade\r\n");
            if let Some(protocol) = head.upgrade() {
                write_field(out, b"upgrade", protocol);
            }
            out.extend_from_slice(b"\r\n");
            self.begin_write(Framing::None);
            return Ok(());
        }
        match framing {
            Framing::Length(length) => {
                out.extend_from_slice(b"content-length: ");
                out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
                out.extend_from_slice(b"\r\n");
            }
            Framing::None => {
                if let Some(length) =
                    head.field(FieldName::ContentLength).filter(|_| request.is_head() || head.status() == 304)
                {
                    write_field(out, b"content-length", length);
                } else if !request.is_head() && !matches!(head.status(), 204 | 304) {
                    out.extend_from_slice(b"content-length: 0\r\n");
                }
            }
            Framing::Chunked | Framing::UntilClose if request.version() == Version::Http10 => {
                framing = Framing::UntilClose;
                close = true;
            }
            Framing::Chunked | Framing::UntilClose => {
                framing = Framing::Chunked;
                out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            }
        }
        self.closing = close;
        if close {
            out.extend_from_slice(b"connection: close\r\n");
        } else if request.version() == Version::Http10 {
            out.extend_from_slice(b"connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
        self.begin_write(framing);
        Ok(())
    }

    fn rewind(&mut self) -> bool {
        let Some(mark) = self.body_mark else {
            return false;
        };
        self.rbuf.rewind(mark);
        self.begin_read(self.framing);
        true
    }

    fn has_read_request(&self) -> bool {
        self.read_end
    }

    fn poll_gone(&mut self, _cx: &mut Context<'_>) -> Poll<PeerError> {
        // A client may close its sending half and still wait for the answer; only a failed write tells that it is gone.
        Poll::Pending
    }
}

impl Upstream for Http1Io<Lease> {
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        request: &RequestHead,
        head: &mut ResponseHead,
        limits: &HeadLimits,
    ) -> Poll<Result<(), PeerError>> {
        loop {
            if !self.rbuf.is_empty()
                && let Some(used) = head.parse(self.rbuf.unread(), request.is_head(), false, limits)?
            {
                self.rbuf.consume(used);
                self.begin_read(head.framing());
                return Poll::Ready(Ok(()));
            }
            match ready!(self.poll_read_more(cx, self.head_size)) {
                Ok(0) => return Poll::Ready(Err(PeerError::Closed)),
                Ok(_) => self.answered = true,
                Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
                    return Poll::Ready(Err(HeadError::HeadTooLarge.into()));
                }
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn has_answered(&self) -> bool {
        self.answered
    }
}
