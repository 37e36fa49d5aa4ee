//! A client that asks one thing after the other, in the clear or over TLS: for checks before a measurement, and to see a
//! change become true. It loads nothing; `http` does that.

use anyhow::{Context as _, bail};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is read of one answer at most.
const MOST: usize = 16 << 20;

/// One answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status code.
    pub status: u16,
    /// Its body, without a transfer coding.
    pub body: Vec<u8>,
    /// The server said that it closes the connection.
    pub last: bool,
}

/// What listens on this machine's loopback address at a port.
pub const fn here(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Says on standard output, in a line of its own, where a server of the bench listens: who asked for any free port learns it
/// so, which no look for a free port before the start can promise.
///
/// # Errors
/// Where nobody can be told.
pub fn announce(listener: SocketAddr) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "listening on {listener}")?;
    output.flush()
}

/// A connection to a port of this machine.
///
/// # Errors
/// Where nobody listens.
pub fn connect(port: u16) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(here(port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Asks once, on a connection of its own.
///
/// # Errors
/// Where nobody listens, or what comes back is no answer.
pub fn ask_once(port: u16, host: &str, path: &str) -> anyhow::Result<Answer> {
    ask(&mut connect(port)?, host, path)
}

/// Asks on a connection, and reads the answer to its end.
///
/// # Errors
/// Where it is closed, or what comes back is no answer.
pub fn ask(stream: &mut (impl Read + Write), host: &str, path: &str) -> anyhow::Result<Answer> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
    let mut reader = Reader { stream, received: Vec::new() };
    let head = reader.until(b"\r\n\r\n")?.to_ascii_lowercase();
    let head = String::from_utf8_lossy(&head).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("an answer without a status")?;
    let field = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(field, _)| *field == name).map(|(_, value)| value.trim().to_owned())
    };
    let body = match (field("transfer-encoding").as_deref(), field("content-length")) {
        (Some("chunked"), _) => reader.chunks()?,
        (_, Some(length)) => reader.exactly(length.parse().context("a length that is no number")?)?,
        _ => bail!("an answer {status} with neither a length nor chunks"),
    };
    Ok(Answer { status, body, last: field("connection").as_deref() == Some("close") })
}

struct Reader<'a, S> {
    stream: &'a mut S,
    received: Vec<u8>,
}

impl<S: Read> Reader<'_, S> {
    fn more(&mut self) -> anyhow::Result<()> {
        let mut piece = [0; 16 << 10];
        let length = self.stream.read(&mut piece)?;
        if length == 0 {
            bail!("the connection was closed in the middle of an answer");
        }
        self.received.extend_from_slice(&piece[..length]);
        if self.received.len() > MOST {
            bail!("an answer of more than {MOST} bytes");
        }
        Ok(())
    }

    fn until(&mut self, end: &[u8]) -> anyhow::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.received.windows(end.len()).position(|window| window == end) {
                let rest = self.received.split_off(at + end.len());
                return Ok(std::mem::replace(&mut self.received, rest));
            }
            self.more()?;
        }
    }

    fn exactly(&mut self, length: usize) -> anyhow::Result<Vec<u8>> {
        if length > MOST {
            bail!("an answer of {length} bytes");
        }
        while self.received.len() < length {
            self.more()?;
        }
        let rest = self.received.split_off(length);
        Ok(std::mem::replace(&mut self.received, rest))
    }

    fn chunks(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.until(b"\r\n")?;
            let size = String::from_utf8_lossy(&line);
            let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16);
            let size = size.context("a chunk without a size")?;
            body.extend(self.exactly(size)?);
            self.until(b"\r\n")?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
}

/// What a client needs to speak TLS with all contestants: they have one certificate.
#[derive(Clone)]
pub struct Trust(RootCertStore);

impl Trust {
    /// Trusts this certificate alone.
    ///
    /// # Errors
    /// Where it is none.
    pub fn new(certificate: &str) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(certificate.as_bytes())?)?;
        Ok(Self(roots))
    }

    /// A session that offers one protocol.
    ///
    /// # Errors
    /// Where nobody listens, or the handshake fails.
    pub fn connect(
        &self,
        port: u16,
        host: &str,
        protocol: &str,
    ) -> anyhow::Result<StreamOwned<ClientConnection, TcpStream>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = builder.with_root_certificates(self.0.clone()).with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let session = ClientConnection::new(Arc::new(config), ServerName::try_from(host.to_owned())?)?;
        let mut stream = StreamOwned::new(session, connect(port)?);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }
}

/// Asks on a kept connection until the answer is another one. A connection that the server closed is opened again.
pub struct Asker {
    port: u16,
    host: String,
    connection: Option<TcpStream>,
    /// Requests that had no answer, or one that is not 200.
    pub failures: u64,
}

impl Asker {
    /// Not connected yet.
    pub fn new(port: u16, host: &str) -> Self {
        Self { port, host: host.to_owned(), connection: None, failures: 0 }
    }

    /// The body of the answer, if it is 200.
    pub fn ask(&mut self) -> Option<Vec<u8>> {
        let answer = self.try_ask();
        match answer {
            Ok(answer) if answer.status == 200 => return Some(answer.body),
            Ok(_) => {}
            Err(_) => self.connection = None,
        }
        self.failures += 1;
        None
    }

    fn try_ask(&mut self) -> anyhow::Result<Answer> {
        let stream = match &mut self.connection {
            Some(stream) => stream,
            none => none.insert(connect(self.port)?),
        };
        let answer = ask(stream, &self.host, "/")?;
        if answer.last {
            self.connection = None;
        }
        Ok(answer)
    }

    /// How long after `since` the first answer that is the wanted one was there; none where that took longer than `within`.
    pub fn until(&mut self, wanted: &str, since: Instant, within: Duration) -> Option<Duration> {
        while since.elapsed() < within {
            if self.ask().is_some_and(|body| body == wanted.as_bytes()) {
                return Some(since.elapsed());
            }
        }
        None
    }
}
