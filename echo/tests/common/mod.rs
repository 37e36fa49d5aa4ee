//! What the tests of the echo backend share: wire-level and HTTP clients on loopback.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use sluicegate_echo::EchoBackend;
use sluicegate_echo::client::ClientTls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Nothing on loopback takes longer unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub type TestBody = BoxBody<Bytes, hyper::Error>;

pub async fn backend() -> EchoBackend {
    EchoBackend::builder("coffee").pod("coffee-7").start().await.expect("a free loopback port")
}

pub fn body(bytes: &'static [u8]) -> TestBody {
    Full::new(Bytes::from_static(bytes)).map_err(|never| match never {}).boxed()
}

pub fn empty() -> TestBody {
    Empty::new().map_err(|never| match never {}).boxed()
}

pub fn get(uri: &str) -> Request<TestBody> {
    Request::get(uri).header("host", "coffee.test").body(empty()).expect("a request")
}

/// The same as [`get`] in the form of HTTP/2, which has an authority instead of Host.
pub fn get2(path: &str) -> Request<TestBody> {
    Request::get(format!("http://coffee.test{path}")).body(empty()).expect("a request")
}

pub async fn http1(address: SocketAddr) -> http1::SendRequest<TestBody> {
    let tcp = TcpStream::connect(address).await.expect("connect");
    let (sender, connection) = http1::handshake(TokioIo::new(tcp)).await.expect("handshake");
    tokio::spawn(connection.with_upgrades());
    sender
}

pub async fn http2(address: SocketAddr) -> http2::SendRequest<TestBody> {
    let tcp = TcpStream::connect(address).await.expect("connect");
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.expect("handshake");
    tokio::spawn(connection);
    sender
}

pub async fn tls(address: SocketAddr, name: &str, trusted: &str, alpn: &[&[u8]]) -> TlsStream<TcpStream> {
    let config = ClientTls::trust(trusted).expect("PEM").config(alpn).expect("a TLS configuration");
    let tcp = TcpStream::connect(address).await.expect("connect");
    let name = name.to_owned().try_into().expect("a server name");
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.expect("TLS handshake")
}

/// Body and trailers, or the error that ended them and what had come by then.
pub async fn collect(response: Response<Incoming>) -> (Vec<u8>, HeaderMap, Option<hyper::Error>) {
    let mut incoming = response.into_body();
    let (mut bytes, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = incoming.frame().await {
        match frame {
            Ok(frame) => match frame.into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
            },
            Err(error) => return (bytes, trailers, Some(error)),
        }
    }
    (bytes, trailers, None)
}

pub async fn json(response: Response<Incoming>) -> Value {
    let (bytes, _, error) = collect(response).await;
    assert!(error.is_none(), "{error:?}");
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&bytes)))
}

/// Sends `request` as it is and returns all that comes until the server closes, or the error
/// (such as a reset) that came instead.
pub async fn exchange(address: SocketAddr, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut tcp = TcpStream::connect(address).await?;
    tcp.write_all(request).await?;
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, tcp.read_to_end(&mut answer)).await.expect("the server closes")?;
    Ok(answer)
}

/// Reads until `end` has come; panics where the connection ends first.
pub async fn read_until(stream: &mut (impl AsyncReadExt + Unpin), end: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    let reading = async {
        while !answer.ends_with(end) {
            answer.push(stream.read_u8().await.expect("more bytes"));
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("an answer in time");
    answer
}
