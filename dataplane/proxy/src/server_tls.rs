//! TLS towards clients over one TCP connection, without buffers of its own: ciphertext passes through scratch memory of the
//! thread, and only what is cut off in the middle of a record, or what the other side does not take, is kept. So a connection
//! on which nothing happens holds the session alone, and large bodies are read and written many records at a time.
//!
//! It chooses no certificate and knows nothing of HTTP.

use crate::transport::PrefixedStream;
use bytes::{Buf, BytesMut};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{CommonState, ServerConfig};
use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Plaintext of the largest record (RFC 8446 section 5.1).
const RECORD: usize = 16 * 1024;
/// A record on the wire: TLS 1.2 may add 2 KiB and a header (RFC 5246 section 6.2.3).
const RECORD_ON_WIRE: usize = 5 + RECORD + 2048;
/// Plaintext that one write takes.
const WRITE: usize = 4 * RECORD;
/// Scratch memory: pieces that are gathered for one record, and what encryption adds to [`WRITE`] with some room for
/// messages of TLS itself.
const SCRATCH: usize = RECORD + WRITE + 4096;

thread_local! {
    static SCRATCH_MEMORY: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

/// The server's end of a TLS connection.
pub struct ServerTlsStream {
    socket: TcpStream,
    tls: Session,
    /// Ciphertext that ends in the middle of a record.
    incoming: BytesMut,
    /// Decrypted bytes for which the reader had no room.
    plaintext: BytesMut,
}

impl ServerTlsStream {
    /// Does the handshake, in which the bytes that were read already come first.
    ///
    /// # Errors
    /// Those of the socket; [`io::ErrorKind::UnexpectedEof`] where the client closes; a [`rustls::Error`] in one of
    /// [`io::ErrorKind::InvalidData`] where the handshake fails. The client is sent the alert.
    pub async fn accept(config: Arc<ServerConfig>, stream: PrefixedStream) -> io::Result<Self> {
        let (socket, read) = stream.into_parts();
        let session = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        let tls = Session { session, outgoing: BytesMut::new(), peer_closed: false, has_closed: false, failed: false };
        let mut stream = Self { socket, tls, incoming: read.into(), plaintext: BytesMut::new() };
        poll_fn(|cx| stream.poll_handshake(cx)).await?;
        Ok(stream)
    }

    /// What was agreed on.
    pub fn session(&self) -> &CommonState {
        &self.tls.session
    }

    /// The socket underneath.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Ready when a read would get something, or may.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.plaintext.is_empty() && !self.tls.peer_closed && !self.tls.failed {
            self.socket.poll_read_ready(cx)
        } else {
            Poll::Ready(Ok(()))
        }
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut no_reader = ReadBuf::new(&mut []);
        loop {
            let mut input = std::mem::take(&mut self.incoming);
            let used = self.take_in(cx, &mut input, &mut no_reader)?;
            input.advance(used);
            self.keep_incoming(&input);
            if !self.tls.session.is_handshaking() {
                return self.poll_write_out(cx);
            }
            ready!(self.poll_write_out(cx))?;
            ready!(self.poll_fetch(cx, &mut no_reader))?;
        }
    }

    /// Reads once from the socket, and gives the reader what is decrypted, as far as it has room.
    fn poll_fetch(&mut self, cx: &mut Context<'_>, reader: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.tls.failed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        SCRATCH_MEMORY.with_borrow_mut(|scratch| {
            let kept = self.incoming.len();
            // More than a record is read only where the reader has room for it.
            let most = reader.remaining().max(kept + RECORD_ON_WIRE).min(scratch.len());
            if kept >= most {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a message of TLS that is too long",
                )));
            }
            scratch[..kept].copy_from_slice(&self.incoming);
            let mut read = ReadBuf::new(&mut scratch[kept..most]);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut read))?;
            let end = kept + read.filled().len();
            if end == kept {
                let without = "the client closed the connection without a close_notify";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, without)));
            }
            let used = self.take_in(cx, &mut scratch[..end], reader)?;
            self.keep_incoming(&scratch[used..end]);
            Poll::Ready(Ok(()))
        })
    }

    fn keep_incoming(&mut self, rest: &[u8]) {
        // An empty one holds no memory.
        self.incoming = BytesMut::new();
        self.incoming.extend_from_slice(rest);
    }

    /// Returns how much of the input was used. What is to be said to the client because of it is sent, or begun to be.
    fn take_in(&mut self, cx: &mut Context<'_>, input: &mut [u8], reader: &mut ReadBuf<'_>) -> io::Result<usize> {
        let plaintext = &mut self.plaintext;
        let taken = self.tls.take_in(
            input,
            |record| {
                let (fits, rest) = record.split_at(record.len().min(reader.remaining()));
                reader.put_slice(fits);
                plaintext.extend_from_slice(rest);
            },
            |_| Ok(()),
        );
        if !self.tls.outgoing.is_empty() {
            // The rest goes out with the next write; an error of the socket shows there too.
            let _ = self.poll_write_out(cx);
        }
        taken
    }

    /// Writes what is encrypted already.
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outgoing = &mut self.tls.outgoing;
        while !outgoing.is_empty() {
            let count = ready!(Pin::new(&mut self.socket).poll_write(cx, outgoing))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            outgoing.advance(count);
        }
        // An empty one holds no memory.
        *outgoing = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// Encrypts some of the pieces and writes; what the socket does not take is kept. Returns how many bytes were taken.
    fn encrypt_and_write(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        SCRATCH_MEMORY.with_borrow_mut(|scratch| {
            let (gathered, encrypted) = scratch.split_at_mut(RECORD);
            let (mut taken, mut end) = (0, 0);
            self.write_by(|traffic| {
                let mut encrypt = |piece: &[u8]| {
                    end += traffic.encrypt(piece, &mut encrypted[end..])?;
                    taken += piece.len();
                    Ok(())
                };
                match gather(pieces, gathered) {
                    Some(record) => encrypt(record),
                    None => first_bytes(pieces, WRITE).try_for_each(encrypt),
                }
            })?;
            if taken == 0 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let mut written = 0;
            while self.tls.outgoing.is_empty() && written < end {
                match Pin::new(&mut self.socket).poll_write(cx, &encrypted[written..end])? {
                    Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(count) => written += count,
                    Poll::Pending => break,
                }
            }
            self.tls.outgoing.extend_from_slice(&encrypted[written..end]);
            Ok(taken)
        })
    }

    /// Lends the means to encrypt, where the session has them. What came and was not taken in lies before the session
    /// again: it remembers where in it it has stopped.
    fn write_by(
        &mut self,
        write: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>) -> Result<(), EncryptError>,
    ) -> io::Result<()> {
        let mut input = std::mem::take(&mut self.incoming);
        let plaintext = &mut self.plaintext;
        let used = self.tls.take_in(&mut input, |record| plaintext.extend_from_slice(record), write)?;
        input.advance(used);
        self.incoming = input;
        Ok(())
    }

    /// Says to the client that nothing more is sent.
    fn say_closed(&mut self) -> io::Result<()> {
        if self.tls.failed || std::mem::replace(&mut self.tls.has_closed, true) {
            return Ok(());
        }
        let mut alert = [0; 256];
        let mut length = 0;
        self.write_by(|traffic| {
            length = traffic.queue_close_notify(&mut alert)?;
            Ok(())
        })?;
        self.tls.outgoing.extend_from_slice(&alert[..length]);
        Ok(())
    }
}

/// All of the pieces side by side, where several of them fit into one record.
fn gather<'a>(pieces: &[IoSlice<'_>], room: &'a mut [u8]) -> Option<&'a [u8]> {
    let total: usize = pieces.iter().map(|piece| piece.len()).sum();
    if total > room.len() || pieces.iter().filter(|piece| !piece.is_empty()).count() < 2 {
        return None;
    }
    let mut end = 0;
    for piece in pieces {
        room[end..end + piece.len()].copy_from_slice(piece);
        end += piece.len();
    }
    Some(&room[..end])
}

/// The first `most` bytes of the pieces.
fn first_bytes<'a>(pieces: &'a [IoSlice<'_>], most: usize) -> impl Iterator<Item = &'a [u8]> {
    let mut left = most;
    pieces.iter().map(move |piece| {
        let part = &piece[..piece.len().min(left)];
        left -= part.len();
        part
    })
}

/// The library's session, and what it wants to be sent.
struct Session {
    session: UnbufferedServerConnection,
    /// Encrypted, and not written yet.
    outgoing: BytesMut,
    /// The client has said that it sends nothing more.
    peer_closed: bool,
    /// We have.
    has_closed: bool,
    /// It is not to be asked again.
    failed: bool,
}

impl Session {
    /// Has the session look at what came. `plain` is given each decrypted record; `write`, once, the means to encrypt,
    /// where there are keys for that. Returns how much of the input was used: the rest is a part of a message, and must
    /// be in front of what is given next. On an error `outgoing` holds the alert that tells the client.
    fn take_in(
        &mut self,
        input: &mut [u8],
        mut plain: impl FnMut(&[u8]),
        write: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>) -> Result<(), EncryptError>,
    ) -> io::Result<usize> {
        if self.failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = self.advance(input, &mut plain, write);
        if taken.is_err() {
            self.failed = true;
            self.take_alert();
        }
        taken
    }

    fn advance(
        &mut self,
        input: &mut [u8],
        plain: &mut impl FnMut(&[u8]),
        write: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>) -> Result<(), EncryptError>,
    ) -> io::Result<usize> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let mut used = 0;
        loop {
            let UnbufferedStatus { discard, state, .. } = self.session.process_tls_records(&mut input[used..]);
            used += discard;
            match state.map_err(invalid)? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(invalid)?;
                        plain(record.payload);
                        used += record.discard;
                    }
                }
                ConnectionState::EncodeTlsData(message) => encode(message, &mut self.outgoing)?,
                // From `outgoing` it will be.
                ConnectionState::TransmitTlsData(sent) => sent.done(),
                ConnectionState::PeerClosed => self.peer_closed = true,
                ConnectionState::WriteTraffic(mut traffic) => {
                    write(&mut traffic).map_err(io::Error::other)?;
                    return Ok(used);
                }
                ConnectionState::BlockedHandshake | ConnectionState::Closed => return Ok(used),
                // Data before the end of the handshake is not offered.
                _ => return Err(io::ErrorKind::Unsupported.into()),
            }
        }
    }

    /// What a session that has failed still says. It gives that away before it looks at input again, which it must not.
    fn take_alert(&mut self) {
        while self.session.wants_write() {
            let state = self.session.process_tls_records(&mut []).state;
            let Ok(ConnectionState::EncodeTlsData(message)) = state else { return };
            if encode(message, &mut self.outgoing).is_err() {
                return;
            }
        }
    }
}

/// Appends a message of TLS itself.
fn encode(mut message: EncodeTlsData<'_, ServerConnectionData>, outgoing: &mut BytesMut) -> io::Result<()> {
    let at = outgoing.len();
    match message.encode(&mut []) {
        Err(EncodeError::InsufficientSize(needed)) => outgoing.resize(at + needed.required_size, 0),
        // It was empty, or it is no message any more.
        Ok(_) | Err(EncodeError::AlreadyEncoded) => return Ok(()),
    }
    message.encode(&mut outgoing[at..]).map_err(io::Error::other)?;
    Ok(())
}

impl fmt::Debug for ServerTlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTlsStream").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl AsyncRead for ServerTlsStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        while buf.filled().len() == before && buf.remaining() > 0 {
            if !this.plaintext.is_empty() {
                let length = this.plaintext.len().min(buf.remaining());
                buf.put_slice(&this.plaintext[..length]);
                this.plaintext.advance(length);
                if this.plaintext.is_empty() {
                    this.plaintext = BytesMut::new();
                }
            } else if this.tls.peer_closed {
                break;
            } else {
                ready!(this.poll_fetch(cx, buf))?;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ServerTlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_write_out(cx))?;
        if bufs.iter().all(|piece| piece.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        Poll::Ready(this.encrypt_and_write(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_write_out(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.say_closed()?;
        ready!(this.poll_write_out(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}
