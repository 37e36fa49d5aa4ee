//! Echo over TCP. A server greets with its name, so that a client knows which one answered.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use crate::{LabError, Namespace};

/// A server that greets each connection with its name and a newline and then sends everything back. It and its
/// connections end when this is dropped.
#[derive(Debug)]
pub struct TcpEcho {
    accepted: Arc<AtomicU64>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TcpEcho {
    /// Listens at the address in the namespace. One thread serves all connections.
    pub fn start(namespace: &Namespace, name: &str, address: SocketAddr) -> Result<Self, LabError> {
        let what = || format!("listening at {address} in {}", namespace.label());
        let listener = namespace
            .run(|| {
                let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
                socket.set_reuse_address(true)?;
                if address.is_ipv6() {
                    socket.set_only_v6(true)?;
                }
                socket.bind(&address.into())?;
                socket.listen(1024)?;
                socket.set_nonblocking(true)?;
                Ok(std::net::TcpListener::from(socket))
            })
            .map_err(LabError::system::<std::io::Error>(what()))?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(LabError::system(what()))?;
        let accepted = Arc::new(AtomicU64::new(0));
        let (end, ended) = oneshot::channel();
        let greeting: Arc<[u8]> = format!("{name}\n").into_bytes().into();
        let count = Arc::clone(&accepted);
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, greeting, &count) => {}
                    _ = ended => {}
                }
            });
        });
        Ok(Self { accepted, end: Some(end), thread: Some(thread) })
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for TcpEcho {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A server that panicked has ended as well.
            let _ = thread.join();
        }
    }
}

/// A connection to a [`TcpEcho`].
#[derive(Debug)]
pub struct TcpClient {
    server: String,
    stream: BufReader<TcpStream>,
}

impl TcpClient {
    /// Connects from the namespace and reads the greeting. The deadline counts for each of both.
    pub fn connect(namespace: &Namespace, server: SocketAddr, at_most: Duration) -> Result<Self, LabError> {
        Self::open(namespace, None, server, at_most)
    }

    /// As [`connect`](Self::connect), from an address and port of one's own; port 0 is any.
    pub fn connect_from(
        namespace: &Namespace,
        source: SocketAddr,
        server: SocketAddr,
        at_most: Duration,
    ) -> Result<Self, LabError> {
        Self::open(namespace, Some(source), server, at_most)
    }

    fn open(
        namespace: &Namespace,
        source: Option<SocketAddr>,
        server: SocketAddr,
        at_most: Duration,
    ) -> Result<Self, LabError> {
        let what = || format!("connecting from {} to {server}", namespace.label());
        let stream = namespace
            .run(|| {
                let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
                if let Some(source) = source {
                    socket.set_reuse_address(true)?;
                    socket.bind(&source.into())?;
                }
                socket.connect_timeout(&server.into(), at_most)?;
                socket.set_read_timeout(Some(at_most))?;
                socket.set_write_timeout(Some(at_most))?;
                socket.set_tcp_nodelay(true)?;
                Ok(TcpStream::from(socket))
            })
            .map_err(LabError::system::<std::io::Error>(what()))?;
        let mut stream = BufReader::with_capacity(512, stream);
        let mut greeting = String::new();
        stream.read_line(&mut greeting).map_err(LabError::system(what()))?;
        match greeting.strip_suffix('\n') {
            Some(name) => Ok(Self { server: name.to_owned(), stream }),
            None => Err(LabError::Unexpected { what: what(), got: format!("{greeting:?} instead of a greeting") }),
        }
    }

    /// The name of the server that answered.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The client's own address and port.
    pub fn source(&self) -> Result<SocketAddr, LabError> {
        self.stream.get_ref().local_addr().map_err(LabError::system("asking for the source of a connection"))
    }

    /// Sends the bytes and waits until the same ones have come back.
    pub fn echo(&mut self, bytes: &[u8]) -> Result<(), LabError> {
        let what = || format!("an echo of {} bytes from {}", bytes.len(), self.server);
        let mut back = vec![0; bytes.len()];
        let mut written = self.stream.get_ref();
        // In pieces, so that both windows cannot be full at once.
        for (piece, back) in bytes.chunks(16 << 10).zip(back.chunks_mut(16 << 10)) {
            written.write_all(piece).map_err(LabError::system(what()))?;
            self.stream.read_exact(back).map_err(LabError::system(what()))?;
            written = self.stream.get_ref();
        }
        if back == bytes { Ok(()) } else { Err(LabError::Unexpected { what: what(), got: "other bytes".to_owned() }) }
    }
}

async fn serve(listener: std::net::TcpListener, greeting: Arc<[u8]>, accepted: &AtomicU64) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    loop {
        // Too many open files, or a client that left before it was accepted: others may still come.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        accepted.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(echo(stream, Arc::clone(&greeting)));
    }
}

async fn echo(mut stream: tokio::net::TcpStream, greeting: Arc<[u8]>) {
    // Without Nagle's algorithm, small echoes come at once.
    let _ = stream.set_nodelay(true);
    if stream.write_all(&greeting).await.is_err() {
        return;
    }
    let mut buffer = vec![0; 4 << 10];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
