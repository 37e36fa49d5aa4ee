//! A gRPC client for tests: one HTTP/2 connection to a given address under a given
//! authority, plaintext or TLS. It does not reconnect, balance or retry, so that a
//! test sees what happened to the one connection that it made.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use http::uri::PathAndQuery;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::client::Grpc;
pub use tonic::{Code, IntoRequest, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::message::{EchoReply, EchoRequest, HealthCheckRequest, HealthCheckResponse, ServingStatus};

/// A client of `sluicegate.echo.v1.Echo` and `grpc.health.v1.Health`. Clones share the connection.
#[derive(Debug, Clone)]
pub struct EchoClient {
    grpc: Grpc<Channel>,
}

/// Where and how to connect; made by [`EchoClient::builder`].
#[derive(Debug, Clone)]
pub struct Builder {
    address: SocketAddr,
    authority: String,
    tls: Option<ClientTls>,
}

/// Which server certificates a client accepts.
#[derive(Debug, Clone)]
pub struct ClientTls(Accept);

#[derive(Debug, Clone)]
enum Accept {
    Signed(Arc<RootCertStore>),
    Anything,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// TCP or the TLS handshake failed.
    #[error("connect: {0}")]
    Connect(#[from] io::Error),
    /// The HTTP/2 handshake failed.
    #[error("HTTP/2: {0}")]
    Http2(#[from] hyper::Error),
    /// The authority is none.
    #[error("authority {0:?}: write host or host:port")]
    Authority(String),
    /// The host of the authority cannot be a TLS server name.
    #[error("authority: {0}")]
    ServerName(#[from] InvalidDnsNameError),
    /// The TLS library refuses the configuration.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The server did not choose `h2` by ALPN.
    #[error("the server chose {0:?} by ALPN, gRPC needs h2")]
    Alpn(String),
}

impl ClientTls {
    /// Accept what is signed by, or is, one of the certificates in `pem`.
    ///
    /// # Errors
    /// Where `pem` cannot be read or holds no usable certificate.
    pub fn trust(pem: &str) -> io::Result<ClientTls> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
        }
        if roots.is_empty() {
            return Err(io::Error::other("no certificate in the PEM text"));
        }
        Ok(ClientTls(Accept::Signed(Arc::new(roots))))
    }

    /// Accept any certificate: for tests that look at which one was served, not whether to trust it.
    pub fn insecure() -> ClientTls {
        ClientTls(Accept::Anything)
    }

    /// A rustls configuration that accepts accordingly and offers `alpn`.
    ///
    /// # Errors
    /// Where the TLS library refuses it.
    pub fn config(&self, alpn: &[&[u8]]) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
        let mut config = match &self.0 {
            Accept::Signed(roots) => builder.with_root_certificates(Arc::clone(roots)).with_no_client_auth(),
            Accept::Anything => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AcceptAnything(provider)))
                .with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(config)
    }
}

impl EchoClient {
    /// A client that will connect to `address`, by default in plaintext and under that authority.
    pub fn builder(address: SocketAddr) -> Builder {
        Builder { address, authority: address.to_string(), tls: None }
    }

    /// One request, one reply.
    ///
    /// # Errors
    /// The call's grpc-status.
    pub async fn unary(&mut self, request: impl IntoRequest<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        self.ready().await?;
        self.grpc.unary(request.into_request(), echo("Unary"), ProstCodec::default()).await
    }

    /// Many requests, one reply.
    ///
    /// # Errors
    /// The call's grpc-status.
    pub async fn client_stream(
        &mut self,
        requests: impl Stream<Item = EchoRequest> + Send + 'static,
    ) -> Result<Response<EchoReply>, Status> {
        self.ready().await?;
        self.grpc.client_streaming(Request::new(requests), echo("ClientStream"), ProstCodec::default()).await
    }

    /// One request, many replies.
    ///
    /// # Errors
    /// The call's grpc-status, where it ends before the first reply.
    pub async fn server_stream(
        &mut self,
        request: impl IntoRequest<EchoRequest>,
    ) -> Result<Response<Streaming<EchoReply>>, Status> {
        self.ready().await?;
        self.grpc.server_streaming(request.into_request(), echo("ServerStream"), ProstCodec::default()).await
    }

    /// Requests and replies side by side.
    ///
    /// # Errors
    /// The call's grpc-status, where it ends before the first reply.
    pub async fn bidi(
        &mut self,
        requests: impl Stream<Item = EchoRequest> + Send + 'static,
    ) -> Result<Response<Streaming<EchoReply>>, Status> {
        self.ready().await?;
        self.grpc.streaming(Request::new(requests), echo("Bidi"), ProstCodec::default()).await
    }

    /// What the health service says of `service` (empty: of the whole server).
    ///
    /// # Errors
    /// The call's grpc-status, such as `NotFound` for a service that does not exist.
    pub async fn health(&mut self, service: &str) -> Result<ServingStatus, Status> {
        self.ready().await?;
        let request = Request::new(HealthCheckRequest { service: service.to_owned() });
        let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let response: Response<HealthCheckResponse> = self.grpc.unary(request, path, ProstCodec::default()).await?;
        Ok(response.get_ref().status())
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.grpc.ready().await.map_err(|gone| Status::unavailable(format!("connection: {gone}")))
    }
}

impl Builder {
    /// The `:authority` of every call, and with TLS its host as the server name.
    pub fn authority(mut self, authority: &str) -> Builder {
        authority.clone_into(&mut self.authority);
        self
    }

    /// Speak TLS (`None`: plaintext with prior knowledge).
    pub fn tls(mut self, tls: impl Into<Option<ClientTls>>) -> Builder {
        self.tls = tls.into();
        self
    }

    /// Connects on the current tokio runtime.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(self) -> Result<EchoClient, ConnectError> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let bad_authority = || ConnectError::Authority(self.authority.clone());
        let origin = http::Uri::builder().scheme(scheme).authority(self.authority.as_str()).path_and_query("/");
        let origin = origin.build().map_err(|_| bad_authority())?;
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let channel = match &self.tls {
            None => Channel::over(tcp).await?,
            Some(tls) => {
                let host = origin.host().ok_or_else(bad_authority)?.trim_matches(['[', ']']).to_owned();
                let connector = TlsConnector::from(Arc::new(tls.config(&[b"h2"])?));
                let stream = connector.connect(ServerName::try_from(host)?, tcp).await?;
                match stream.get_ref().1.alpn_protocol() {
                    Some(b"h2") => {}
                    other => {
                        return Err(ConnectError::Alpn(
                            String::from_utf8_lossy(other.unwrap_or_default()).into_owned(),
                        ));
                    }
                }
                Channel::over(stream).await?
            }
        };
        Ok(EchoClient { grpc: Grpc::with_origin(channel, origin) })
    }
}

fn echo(method: &'static str) -> PathAndQuery {
    match method {
        "Unary" => PathAndQuery::from_static("/sluicegate.echo.v1.Echo/Unary"),
        "ClientStream" => PathAndQuery::from_static("/sluicegate.echo.v1.Echo/ClientStream"),
        "ServerStream" => PathAndQuery::from_static("/sluicegate.echo.v1.Echo/ServerStream"),
        _ => PathAndQuery::from_static("/sluicegate.echo.v1.Echo/Bidi"),
    }
}

/// The sending half of one HTTP/2 connection, as tonic wants it.
#[derive(Debug, Clone)]
struct Channel(SendRequest<tonic::body::Body>);

impl Channel {
    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Channel, hyper::Error> {
        let handshake =
            http2::Builder::new(TokioExecutor::new()).timer(TokioTimer::new()).handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await?;
        tokio::spawn(async move {
            // Every call that it breaks reports the error itself.
            let _ = connection.await;
        });
        Ok(Channel(sender))
    }
}

impl tower_service::Service<http::Request<tonic::body::Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

#[derive(Debug)]
struct AcceptAnything(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
