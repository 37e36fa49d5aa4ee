//! The demo's own client: one request on one connection, with everything about it that is worth looking at.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use serde_json::Value;
use sluicegate_echo::client::ClientTls;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const MOST_BYTES: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// A request to be.
#[derive(Clone)]
pub struct Visit {
    pub to: SocketAddr,
    pub host: String,
    pub path: String,
    /// TLS with these certificates accepted; `None` = in the clear.
    pub tls: Option<ClientTls>,
    pub http2: bool,
    pub headers: Vec<(&'static str, &'static str)>,
}

/// What came back.
pub struct Answer {
    pub status: u16,
    pub version: Version,
    pub headers: http::HeaderMap,
    pub body: Bytes,
    /// The certificate that the server showed.
    pub certificate: Option<Vec<u8>>,
}

impl Answer {
    /// A field of the echo backends' description.
    pub fn said(&self, field: &str) -> String {
        let text = serde_json::from_slice::<Value>(&self.body).ok();
        text.and_then(|value| value.get(field)?.as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// A header field as text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// Goes there and comes back.
pub async fn visit(visit: &Visit) -> anyhow::Result<Answer> {
    visit_over(connect(visit.to).await?, visit).await
}

/// As [`visit`], on a connection that is there.
pub async fn visit_over(stream: TcpStream, visit: &Visit) -> anyhow::Result<Answer> {
    let answer = tokio::time::timeout(PATIENCE, go(stream, visit)).await;
    answer.with_context(|| format!("no answer within {PATIENCE:?}"))?
}

async fn go(stream: TcpStream, visit: &Visit) -> anyhow::Result<Answer> {
    let Some(tls) = &visit.tls else {
        let response = if visit.http2 { send_http2(stream, visit).await? } else { send_http1(stream, visit).await? };
        return collect(response, None).await;
    };
    let stream = secure(stream, &visit.host, tls, if visit.http2 { b"h2" } else { b"http/1.1" }).await?;
    let session = stream.get_ref().1;
    let certificate = session.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.to_vec());
    let response = if visit.http2 { send_http2(stream, visit).await? } else { send_http1(stream, visit).await? };
    collect(response, certificate).await
}

/// A TCP connection without delays.
pub async fn connect(to: SocketAddr) -> anyhow::Result<TcpStream> {
    let connecting = tokio::time::timeout(PATIENCE, TcpStream::connect(to)).await;
    let stream = connecting
        .with_context(|| format!("connecting to {to}: nothing within {PATIENCE:?}"))?
        .with_context(|| format!("connecting to {to}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn secure(stream: TcpStream, host: &str, tls: &ClientTls, alpn: &[u8]) -> anyhow::Result<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(Arc::new(tls.config(&[alpn])?));
    let stream =
        connector.connect(ServerName::try_from(host.to_owned())?, stream).await.context("the TLS handshake")?;
    if stream.get_ref().1.alpn_protocol() != Some(alpn) {
        bail!("the server did not choose {} by ALPN", String::from_utf8_lossy(alpn));
    }
    Ok(stream)
}

async fn send_http1<S>(stream: S, visit: &Visit) -> anyhow::Result<Response<Incoming>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request =
        visit.request(visit.path.clone()).header(http::header::HOST, &visit.host).body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(request).await?)
}

async fn send_http2<S>(stream: S, visit: &Visit) -> anyhow::Result<Response<Incoming>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let scheme = if visit.tls.is_some() { "https" } else { "http" };
    let request = visit.request(format!("{scheme}://{}{}", visit.host, visit.path)).body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(request).await?)
}

impl Visit {
    fn request(&self, uri: String) -> http::request::Builder {
        self.headers.iter().fold(Request::get(uri), |request, (name, value)| request.header(*name, *value))
    }
}

async fn collect(response: Response<Incoming>, certificate: Option<Vec<u8>>) -> anyhow::Result<Answer> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MOST_BYTES).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
    Ok(Answer { status: head.status.as_u16(), version: head.version, headers: head.headers, body, certificate })
}
