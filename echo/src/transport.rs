//! One accepted connection as the HTTP server sees it: plain or TLS, closable by a
//! reset, and able to slip an interim response in front of the next write.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Says whether closing a connection sends RST instead of FIN.
#[derive(Debug, Clone, Default)]
pub(crate) struct ResetSwitch {
    connection: Arc<AtomicBool>,
    everywhere: Arc<AtomicBool>,
}

impl ResetSwitch {
    /// A switch of one more connection, which `everywhere` throws too.
    pub(crate) fn of(everywhere: &Arc<AtomicBool>) -> ResetSwitch {
        ResetSwitch { connection: Arc::default(), everywhere: Arc::clone(everywhere) }
    }

    pub(crate) fn throw(&self) {
        self.connection.store(true, Ordering::Release);
    }

    fn thrown(&self) -> bool {
        self.connection.load(Ordering::Acquire) || self.everywhere.load(Ordering::Acquire)
    }
}

/// A TCP connection that looks at its switch when it is dropped.
#[derive(Debug)]
pub(crate) struct Wire {
    tcp: TcpStream,
    reset: ResetSwitch,
}

impl Wire {
    pub(crate) fn new(tcp: TcpStream, reset: ResetSwitch) -> Wire {
        Wire { tcp, reset }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.reset.thrown() {
            // Where the socket is gone already there is nothing left to reset.
            let _ = self.tcp.set_zero_linger();
        }
    }
}

/// Bytes of an interim response that wait for the connection's next flush.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interim(Arc<Pending>);

#[derive(Debug, Default)]
struct Pending {
    waiting: AtomicBool,
    bytes: Mutex<BytesMut>,
}

impl Interim {
    pub(crate) fn push(&self, bytes: &[u8]) {
        self.0.bytes.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        self.0.waiting.store(true, Ordering::Release);
    }
}

enum Stream {
    Plain(Wire),
    Tls(Box<TlsStream<Wire>>),
}

/// See the module.
pub(crate) struct Transport {
    stream: Stream,
    interim: Interim,
}

impl Transport {
    pub(crate) fn plain(wire: Wire, interim: Interim) -> Transport {
        Transport { stream: Stream::Plain(wire), interim }
    }

    pub(crate) fn tls(stream: TlsStream<Wire>, interim: Interim) -> Transport {
        Transport { stream: Stream::Tls(Box::new(stream)), interim }
    }

    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.interim.0.waiting.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        let mut bytes = self.interim.0.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        while !bytes.is_empty() {
            let written = match &mut self.stream {
                Stream::Plain(wire) => ready!(Pin::new(wire).poll_write(cx, &bytes))?,
                Stream::Tls(tls) => ready!(Pin::new(tls).poll_write(cx, &bytes))?,
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            bytes.advance(written);
        }
        self.interim.0.waiting.store(false, Ordering::Release);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(wire) => Pin::new(wire).poll_read(cx, buffer),
            Stream::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        match &mut self.stream {
            Stream::Plain(wire) => Pin::new(wire).poll_write(cx, bytes),
            Stream::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        match &mut self.stream {
            Stream::Plain(wire) => Pin::new(wire).poll_write_vectored(cx, slices),
            Stream::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(wire) => wire.is_write_vectored(),
            Stream::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_interim(cx))?;
        match &mut self.stream {
            Stream::Plain(wire) => Pin::new(wire).poll_flush(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_interim(cx))?;
        match &mut self.stream {
            Stream::Plain(wire) => Pin::new(wire).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
