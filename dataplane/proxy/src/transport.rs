//! The byte stream under an HTTP connection, towards clients and towards backends: TCP, or TLS over it. It knows
//! nothing of HTTP, makes no connection and keeps no pool.

use crate::server_tls::ServerTlsStream;
use bytes::{Buf, Bytes};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client;

/// A TCP connection some of whose first bytes were read already (a ClientHello that was looked at, what came in one
/// segment with a PROXY header): they are read again before the socket is.
#[derive(Debug)]
pub struct PrefixedStream {
    prefix: Bytes,
    stream: TcpStream,
}

impl PrefixedStream {
    /// Puts `prefix` back in front of what the socket still holds.
    pub fn new(stream: TcpStream, prefix: impl Into<Bytes>) -> Self {
        Self { prefix: prefix.into(), stream }
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// The socket, and what of the prefix was not read.
    pub fn into_parts(self) -> (TcpStream, Bytes) {
        (self.stream, self.prefix)
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() { self.stream.poll_read_ready(cx) } else { Poll::Ready(Ok(())) }
    }

    fn is_readable(&self) -> bool {
        !self.prefix.is_empty() || is_readable(&self.stream)
    }
}

impl From<TcpStream> for PrefixedStream {
    fn from(stream: TcpStream) -> Self {
        Self::new(stream, Bytes::new())
    }
}

impl AsyncRead for PrefixedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let length = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..length]);
        self.prefix.advance(length);
        if self.prefix.is_empty() {
            // Gives the memory back: the connection may live for days.
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PrefixedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The stream under an HTTP connection, of either side. TLS sessions are boxed: they are large, and rare beside
/// plain connections to backends.
#[derive(Debug)]
pub enum Transport {
    /// TCP.
    Plain(TcpStream),
    /// TCP from a client, of which the first bytes were read already.
    Prefixed(PrefixedStream),
    /// TLS to a backend.
    Tls(Box<client::TlsStream<TcpStream>>),
    /// TLS from a client.
    ServerTls(Box<ServerTlsStream>),
}

impl Transport {
    /// Ready when a read would get something: bytes, the end or an error. No buffer is needed to wait, so that an
    /// idle connection holds none.
    ///
    /// It may be ready too early (a TLS record that carries no application data, for one). A read then waits as
    /// usual.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_read_ready(cx),
            Self::Prefixed(stream) => stream.poll_readable(cx),
            Self::Tls(stream) => {
                let (socket, session) = stream.get_ref();
                if session.wants_read() { socket.poll_read_ready(cx) } else { Poll::Ready(Ok(())) }
            }
            Self::ServerTls(stream) => stream.poll_readable(cx),
        }
    }

    /// Waits until [`poll_readable`](Self::poll_readable) is ready. Cancel-safe.
    pub async fn readable(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// True if a connection that should be silent was closed, failed or spoke: it must not carry another request.
    ///
    /// It makes no system call while the reactor has reported nothing on the socket. TLS messages that are no
    /// application data (session tickets) are taken in and do not count. What it reads is lost, so it is only for
    /// connections that are idle in the pool.
    pub fn try_is_stale(&mut self) -> bool {
        match self {
            Self::Plain(stream) => is_readable(stream),
            Self::Prefixed(stream) => stream.is_readable(),
            Self::Tls(stream) => speaks(stream.as_mut()),
            Self::ServerTls(stream) => speaks(stream.as_mut()),
        }
    }

    /// The other end's address.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket().peer_addr()
    }

    /// This end's address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket().local_addr()
    }

    /// Turns Nagle's algorithm off or on (`TCP_NODELAY`).
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.socket().set_nodelay(nodelay)
    }

    /// The TCP socket underneath.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Prefixed(stream) => stream.socket(),
            Self::Tls(stream) => stream.get_ref().0,
            Self::ServerTls(stream) => stream.socket(),
        }
    }

    /// The TCP socket underneath, where the next bytes that are read or written are those that cross it.
    pub fn plain_socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Prefixed(stream) => stream.prefix.is_empty().then_some(&stream.stream),
            Self::Tls(_) | Self::ServerTls(_) => None,
        }
    }

    /// True if it is encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_) | Self::ServerTls(_))
    }

    /// The protocol that ALPN settled on (RFC 7301), if it did.
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) | Self::Prefixed(_) => None,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol(),
            Self::ServerTls(stream) => stream.session().alpn_protocol(),
        }
    }

    /// The bare socket, for relays that copy in the kernel, and what was read from it before and not consumed.
    ///
    /// # Errors
    /// Gives the transport back if it is encrypted.
    pub fn into_plain(self) -> Result<(TcpStream, Bytes), Self> {
        match self {
            Self::Plain(stream) => Ok((stream, Bytes::new())),
            Self::Prefixed(stream) => Ok(stream.into_parts()),
            tls @ (Self::Tls(_) | Self::ServerTls(_)) => Err(tls),
        }
    }
}

fn is_readable(stream: &TcpStream) -> bool {
    !matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Polls for one byte. No task needs waking: whoever waits for the stream next registers itself anew.
fn speaks<S: AsyncRead + Unpin>(stream: &mut S) -> bool {
    let mut byte = [0];
    let mut cx = Context::from_waker(Waker::noop());
    Pin::new(stream).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_ready()
}

impl From<TcpStream> for Transport {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream)
    }
}

impl From<PrefixedStream> for Transport {
    /// A prefix that is empty costs nothing on later reads.
    fn from(stream: PrefixedStream) -> Self {
        if stream.prefix.is_empty() { Self::Plain(stream.stream) } else { Self::Prefixed(stream) }
    }
}

impl From<client::TlsStream<TcpStream>> for Transport {
    fn from(stream: client::TlsStream<TcpStream>) -> Self {
        Self::Tls(Box::new(stream))
    }
}

impl From<ServerTlsStream> for Transport {
    fn from(stream: ServerTlsStream) -> Self {
        Self::ServerTls(Box::new(stream))
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Prefixed(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::ServerTls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Prefixed(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::ServerTls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Prefixed(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::ServerTls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Prefixed(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::ServerTls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Prefixed(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::ServerTls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Prefixed(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::ServerTls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
