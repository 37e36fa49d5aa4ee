//! A client over TLS that knows one certificate, and files for a webhook.

#![allow(dead_code, reason = "every test file uses its own part")]

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longer than anything here takes on a busy machine.
pub const AT_MOST: Duration = Duration::from_secs(60);

/// A pair for `webhook.test`, as files in a folder, as a mounted Secret has them.
pub struct Files {
    pub folder: tempfile::TempDir,
    pub certificate: CertificateDer<'static>,
}

impl Files {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let certificate = Self::write(folder.path());
        Self { folder, certificate }
    }

    /// Another pair in place of the one that is there.
    pub fn renew(&mut self) {
        self.certificate = Self::write(self.folder.path());
    }

    fn write(folder: &Path) -> CertificateDer<'static> {
        let made = rcgen::generate_simple_self_signed(["webhook.test".to_owned()]).expect("a certificate");
        std::fs::write(folder.join("tls.crt"), made.cert.pem()).expect("written");
        std::fs::write(folder.join("tls.key"), made.signing_key.serialize_pem()).expect("written");
        made.cert.der().clone()
    }

    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("tls.crt")
    }

    pub fn key(&self) -> PathBuf {
        self.folder.path().join("tls.key")
    }
}

/// Connects, and believes this certificate alone.
pub async fn connect(to: SocketAddr, certificate: &CertificateDer<'static>) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("webhook.test").map_err(io::Error::other)?;
    let stream = TcpStream::connect(to).await?;
    // As the client of an API server does.
    stream.set_nodelay(true)?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Sends a head and a body.
pub async fn send(stream: &mut TlsStream<TcpStream>, head: &str, body: &[u8]) -> io::Result<()> {
    let length = body.len();
    let head = format!("{head} HTTP/1.1\r\nHost: webhook.test\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    stream.flush().await
}

/// Reads one answer: its status and its body.
pub async fn receive(stream: &mut TlsStream<TcpStream>) -> io::Result<(u16, Vec<u8>)> {
    let mut got = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(end) = got.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&got[..end]).to_ascii_lowercase();
            let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            let (Some(status), Some(length)) = (status, length) else { return Err(io::Error::other(head)) };
            while got.len() < end + 4 + length {
                match stream.read(&mut piece).await? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => got.extend_from_slice(&piece[..read]),
                }
            }
            return Ok((status, got.split_off(end + 4)));
        }
        match stream.read(&mut piece).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => got.extend_from_slice(&piece[..read]),
        }
    }
}
