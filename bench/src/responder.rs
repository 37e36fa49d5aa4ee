//! The backend that the bench brings along: one thread that gives canned answers, sends upgraded bytes back, and does nothing
//! else. It stands in for nginx where there is none, and is what changes lead to, for its answers tell who they are.
//!
//! `/static/64k` and `/static/1m` are as long as they say; every other path has the port's own answer. Requests have no
//! bodies.

use crate::asker::{announce, here};
use anyhow::Context as _;
use clap::Args;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The answer of 128 bytes.
pub const BODY: &str = "hello from the backend of the bench, in one hundred and twenty-eight bytes of text that nobody has to read to \
                        the end..........\n";

/// Which ports to listen on. They are all of the loopback address.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A port and what is answered on it; 128 bytes of text if nothing is said. Port 0 is any free one, and printed
    #[arg(long = "listen", value_name = "PORT[=BODY]", required = true)]
    listen: Vec<String>,
    /// A port for TLS, with 128 bytes of text
    #[arg(long, value_name = "PORT", requires = "certificate")]
    tls: Option<u16>,
    /// A folder with tls.crt and tls.key
    #[arg(long, value_name = "DIR")]
    certificate: Option<PathBuf>,
}

/// A request head may be so long.
const LONGEST_HEAD: usize = 64 << 10;

/// Serves until it is ended.
///
/// # Errors
/// Where a port is taken.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        for port in &arguments.listen {
            let (port, body) = port.split_once('=').unwrap_or((port, BODY));
            let answers = Arc::new(Answers::new(body));
            let number = port.parse().with_context(|| format!("--listen {port}: no port, which is 0 to 65535"))?;
            let listener = TcpListener::bind(here(number)).await.with_context(|| format!("--listen {port}"))?;
            announce(listener.local_addr()?)?;
            tokio::task::spawn_local(accept(listener, answers, None));
        }
        if let (Some(port), Some(folder)) = (arguments.tls, &arguments.certificate) {
            let chain = vec![CertificateDer::from_pem_file(folder.join("tls.crt"))?];
            let key = PrivateKeyDer::from_pem_file(folder.join("tls.key"))?;
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
            let config = builder.with_no_client_auth().with_single_cert(chain, key)?;
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            let listener = TcpListener::bind(here(port)).await?;
            announce(listener.local_addr()?)?;
            tokio::task::spawn_local(accept(listener, Arc::new(Answers::new(BODY)), Some(acceptor)));
        }
        std::future::pending::<()>().await;
        Ok(())
    })
}

/// Whole answers, head and body.
struct Answers {
    usual: Vec<u8>,
    medium: Vec<u8>,
    large: Vec<u8>,
}

impl Answers {
    fn new(body: &str) -> Self {
        let of = |body: &[u8]| {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", body.len());
            [head.as_bytes(), body].concat()
        };
        let pattern = |length: usize| of(&b"0123456789abcdef".repeat(length / 16));
        Self { usual: of(body.as_bytes()), medium: pattern(64 << 10), large: pattern(1 << 20) }
    }

    fn to(&self, head: &[u8]) -> &[u8] {
        match head.split(|byte| *byte == b' ').nth(1) {
            Some(b"/static/64k") => &self.medium,
            Some(b"/static/1m") => &self.large,
            _ => &self.usual,
        }
    }
}

async fn accept(listener: TcpListener, answers: Arc<Answers>, tls: Option<tokio_rustls::TlsAcceptor>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // Without it answers are only later.
        let _refused = stream.set_nodelay(true);
        let (answers, tls) = (Arc::clone(&answers), tls.clone());
        // Whoever goes away in the middle is not missed.
        tokio::task::spawn_local(async move { drop(begin(stream, &answers, tls).await) });
    }
}

async fn begin(stream: TcpStream, answers: &Answers, tls: Option<tokio_rustls::TlsAcceptor>) -> std::io::Result<()> {
    match tls {
        Some(tls) => serve(tls.accept(stream).await?, answers).await,
        None => serve(stream, answers).await,
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answers: &Answers) -> std::io::Result<()> {
    let (mut received, mut piece) = (Vec::new(), vec![0; 16 << 10]);
    loop {
        let length = stream.read(&mut piece).await?;
        if length == 0 || received.len() > LONGEST_HEAD {
            return Ok(());
        }
        received.extend_from_slice(&piece[..length]);
        while let Some(at) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = received.split_off(at + 4);
            let head = std::mem::replace(&mut received, rest);
            match websocket_key(&head) {
                Some(key) => return echo(stream, &key, &received).await,
                None => stream.write_all(answers.to(&head)).await?,
            }
            stream.flush().await?;
        }
    }
}

fn websocket_key(head: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(head);
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key")).map(|(_, value)| value.trim().to_owned())
}

/// Frames come back as they are, still masked (RFC 6455 section 5.1 forbids that to servers; who measures only compares bytes).
async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin, key: &str, rest: &[u8]) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    stream.write_all(&[head.as_bytes(), rest].concat()).await?;
    let mut piece = vec![0; 4096];
    loop {
        let length = stream.read(&mut piece).await?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&piece[..length]).await?;
    }
}
