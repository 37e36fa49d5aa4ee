//! Connections to endpoints: TCP, the TLS handshake and the HTTP/2 preface, all within one deadline. It chooses no
//! endpoint, keeps no connection and sends no request.

use crate::endpoint::Failure;
use crate::transport::Transport;
use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use h2::{Ping, PingPong};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

/// Why there is no connection to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The endpoint's host answered that nobody listens.
    #[error("connection refused: nothing listens on the endpoint's port; compare targetPort with the container's port")]
    Refused,
    /// No connection (or no TLS session) within the connect timeout.
    #[error("no connection within the connect timeout; look for a network policy or a node that is gone")]
    Timeout,
    /// There is no route to the endpoint, or something on the way forbids it.
    #[error("the endpoint is unreachable from this host; check routes and network policies")]
    Unreachable,
    /// The connection was reset while it was being made.
    #[error("the endpoint reset the connection while it was being made")]
    Reset,
    /// The TLS handshake failed.
    #[error("TLS handshake with the endpoint failed: {0}; check the backend protocol of the Service port")]
    Tls(String),
    /// The endpoint closed HTTP/2 connections before a request could be sent.
    #[error("HTTP/2 with the endpoint failed: {0}; check that the Service port speaks HTTP/2")]
    Http2(String),
    /// The name of an ExternalName Service did not lead to a usable address.
    #[error("{0}")]
    Resolve(String),
    /// The backend has no endpoint (left) to try.
    #[error("the backend has no endpoint to send to; check the Service's selector and the readiness of its pods")]
    NoEndpoints,
    /// The endpoint was removed while a connection to it was being made.
    #[error("the endpoint was removed while a connection to it was being made")]
    EndpointRemoved,
    /// All HTTP/2 connections that the settings allow are full, and so is the queue.
    #[error("all HTTP/2 connections to the endpoint are full; add endpoints or raise the connection limit")]
    Overloaded,
    /// This process has no file descriptor left.
    #[error("no file descriptor left for a connection; raise the limit of open files (ulimit -n)")]
    TooManyFiles,
    /// This host has no local port left towards the endpoint.
    #[error("no local port left for a connection to the endpoint; widen net.ipv4.ip_local_port_range")]
    NoLocalPort,
    /// Anything else that the operating system said.
    #[error("cannot connect to the endpoint: {0}")]
    Io(String),
}

impl ConnectError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "connect_timeout",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::Tls(_) => "tls",
            Self::Http2(_) => "http2",
            Self::Resolve(_) => "resolve",
            Self::NoEndpoints => "no_endpoints",
            Self::EndpointRemoved => "endpoint_removed",
            Self::Overloaded => "overloaded",
            Self::TooManyFiles => "too_many_files",
            Self::NoLocalPort => "no_local_port",
            Self::Io(_) => "io",
        }
    }

    /// True if another endpoint may do better. No byte of the request was sent, so that any method may be retried.
    pub fn is_retryable(&self) -> bool {
        self.failure().is_some() || matches!(self, Self::EndpointRemoved | Self::Overloaded)
    }

    /// What the endpoint is to blame for; `None` where the fault lies elsewhere: with this host, the DNS, the settings.
    pub fn failure(&self) -> Option<Failure> {
        match self {
            Self::Refused => Some(Failure::Refused),
            Self::Timeout => Some(Failure::Timeout),
            Self::Unreachable => Some(Failure::Unreachable),
            Self::Reset | Self::Io(_) => Some(Failure::Reset),
            Self::Tls(_) | Self::Http2(_) => Some(Failure::Protocol),
            Self::Resolve(_)
            | Self::NoEndpoints
            | Self::EndpointRemoved
            | Self::Overloaded
            | Self::TooManyFiles
            | Self::NoLocalPort => None,
        }
    }
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        const ENFILE: i32 = 23;
        const EMFILE: i32 = 24;
        if matches!(error.raw_os_error(), Some(ENFILE | EMFILE)) {
            return Self::TooManyFiles;
        }
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::TimedOut => Self::Timeout,
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => Self::Reset,
            ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::PermissionDenied => Self::Unreachable,
            ErrorKind::AddrNotAvailable => Self::NoLocalPort,
            _ => Self::Io(error.to_string()),
        }
    }
}

/// How TLS towards one backend is spoken.
#[derive(Clone, Debug)]
pub struct TlsTarget {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl TlsTarget {
    fn server_name(&self, address: SocketAddr) -> ServerName<'static> {
        self.server_name.clone().unwrap_or_else(|| ServerName::IpAddress(address.ip().into()))
    }
}

/// The TLS client settings of a worker.
///
/// As in ingress-nginx (`proxy-ssl-verify: off`) any certificate is taken unless roots are given: backends in a
/// cluster have self-signed ones as a rule. The connection then is private against listeners but not against someone
/// who can put themselves in between. That the endpoint holds the key of the certificate it shows is checked always.
///
/// The name that is sent (SNI), and compared where certificates are verified, is `<service>.<namespace>.svc`, which
/// is what service meshes and cert-manager put into certificates of Services; for an ExternalName it is that name.
#[derive(Clone, Debug)]
pub struct UpstreamTls {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

impl UpstreamTls {
    /// Settings that verify certificates against `roots`, or take any where there are none.
    pub fn new(roots: Option<Arc<RootCertStore>>) -> Self {
        Self { http1: client_config(roots.clone(), b"http/1.1"), http2: client_config(roots, b"h2") }
    }

    /// TLS for a backend. `server_name` is a DNS name or an IP address; with another text no SNI is sent and
    /// certificates are compared with the endpoint's address.
    pub fn target(&self, http2: bool, server_name: &str) -> TlsTarget {
        TlsTarget {
            config: Arc::clone(if http2 { &self.http2 } else { &self.http1 }),
            server_name: ServerName::try_from(server_name.trim_end_matches('.').to_owned()).ok(),
        }
    }
}

fn client_config(roots: Option<Arc<RootCertStore>>, alpn: &[u8]) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)
        .expect("the provider has cipher suites for the default versions");
    let mut config = match roots {
        Some(roots) => builder.with_root_certificates(roots).with_no_client_auth(),
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate { provider }))
            .with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}

/// Takes any certificate, but only from an endpoint that proves to hold its key.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Connects to an endpoint, with TLS if `tls` says how. `limit` bounds connection and handshake together.
///
/// # Errors
/// Why there is no connection.
pub async fn connect(
    address: SocketAddr,
    tls: Option<&TlsTarget>,
    limit: Duration,
) -> Result<(Transport, Handshake), ConnectError> {
    timeout(limit, establish(address, tls)).await.unwrap_or(Err(ConnectError::Timeout))
}

/// How long it took until a connection could be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshake {
    /// Until TCP was established.
    pub tcp: Duration,
    /// From then on, until TLS was; `None` in the clear.
    pub tls: Option<Duration>,
}

async fn establish(address: SocketAddr, tls: Option<&TlsTarget>) -> Result<(Transport, Handshake), ConnectError> {
    let begun = Instant::now();
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let connected = Instant::now();
    let handshake = Handshake { tcp: connected.duration_since(begun), tls: None };
    let Some(tls) = tls else { return Ok((Transport::Plain(stream), handshake)) };
    let connector = TlsConnector::from(Arc::clone(&tls.config));
    match connector.connect(tls.server_name(address), stream).await {
        Ok(stream) => Ok((Transport::from(stream), Handshake { tls: Some(connected.elapsed()), ..handshake })),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(ConnectError::Reset),
        Err(error) => Err(ConnectError::Tls(error.to_string())),
    }
}

/// How HTTP/2 is spoken to endpoints.
#[derive(Clone, Debug)]
pub struct Http2Settings {
    /// Connections to one endpoint by one worker. A further one is opened when all are full. Default 8.
    pub max_connections: usize,
    /// Streams on one connection, where the endpoint allows as many. Default 256.
    pub max_streams: usize,
    /// What one stream may send before we have taken it in, in bytes. Default 1 MiB.
    pub stream_window: u32,
    /// What all streams of a connection may send before we have taken it in, in bytes. Default 4 MiB.
    pub connection_window: u32,
    /// The largest header list of a response, in bytes as RFC 9113 section 6.5.2 counts. Default 64 KiB.
    pub max_header_list: u32,
    /// After this long without a byte from an endpoint that owes an answer a PING is sent. Default 30 s.
    pub keepalive: Duration,
    /// After this long without an answer to a PING the connection is given up. Default 10 s.
    pub keepalive_timeout: Duration,
}

impl Default for Http2Settings {
    fn default() -> Self {
        Self {
            max_connections: 8,
            max_streams: 256,
            stream_window: 1 << 20,
            connection_window: 4 << 20,
            max_header_list: 64 << 10,
            keepalive: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
        }
    }
}

/// Streams assumed to be allowed until the endpoint says (RFC 9113 section 6.5.2 recommends to allow no fewer).
const STREAMS_BEFORE_SETTINGS: usize = 100;

/// gRPC servers by default close connections that are pinged more often than this while they send nothing
/// (`too_many_pings`).
const QUIET_PING_INTERVAL: Duration = Duration::from_secs(5 * 60 + 10);

/// What the driver of an HTTP/2 connection and those who use it tell each other.
#[derive(Debug, Default)]
pub(crate) struct Http2Status {
    /// Streams in use.
    pub(crate) active: Cell<usize>,
    /// Counts reads that got something.
    pub(crate) heard: Cell<u64>,
    /// Set when the connection has ended, or is not trusted with further streams.
    pub(crate) ended: Cell<bool>,
    /// How it was opened; all zero before it is.
    pub(crate) handshake: Cell<Handshake>,
}

/// Opens an HTTP/2 connection and leaves a task that drives it until it is closed or the last handle is dropped.
pub(crate) async fn connect_http2(
    address: SocketAddr,
    tls: Option<&TlsTarget>,
    limit: Duration,
    settings: &Http2Settings,
) -> Result<(SendRequest<Bytes>, Rc<Http2Status>), ConnectError> {
    let status = Rc::new(Http2Status::default());
    let opened = timeout(limit, async {
        let (transport, handshake) = establish(address, tls).await?;
        status.handshake.set(handshake);
        let io = Listening { transport, status: Rc::clone(&status) };
        // Writes the preface and does not wait for the endpoint's.
        let handshake = Builder::new()
            .enable_push(false)
            .initial_max_send_streams(STREAMS_BEFORE_SETTINGS)
            .initial_window_size(settings.stream_window)
            .initial_connection_window_size(settings.connection_window)
            .max_header_list_size(settings.max_header_list)
            .handshake(io);
        handshake.await.map_err(|error| ConnectError::Http2(error.to_string()))
    });
    let (sender, connection) = opened.await.unwrap_or(Err(ConnectError::Timeout))?;
    tokio::task::spawn_local(drive(connection, Rc::clone(&status), settings.clone()));
    Ok((sender, status))
}

async fn drive(mut connection: Connection<Listening, Bytes>, status: Rc<Http2Status>, settings: Http2Settings) {
    let pings = connection.ping_pong();
    tokio::select! {
        result = connection => if let Err(error) = result {
            tracing::debug!(%error, "HTTP/2 connection to an endpoint ended");
        },
        () = silence(pings, &status, &settings) => {
            tracing::debug!("HTTP/2 connection to an endpoint fell silent and is given up");
        }
    }
    status.ended.set(true);
}

/// Returns when the endpoint is silent although it owes answers and does not answer a PING either.
async fn silence(pings: Option<PingPong>, status: &Http2Status, settings: &Http2Settings) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    let mut heard = status.heard.get();
    let mut pinged: Option<Instant> = None;
    loop {
        sleep(settings.keepalive).await;
        if status.heard.get() != heard {
            heard = status.heard.get();
            pinged = None;
            continue;
        }
        let too_soon = pinged.is_some_and(|at| at.elapsed() < QUIET_PING_INTERVAL);
        if status.active.get() == 0 || too_soon {
            continue;
        }
        pinged = Some(Instant::now());
        if pings.send_ping(Ping::opaque()).is_err() {
            continue;
        }
        match timeout(settings.keepalive_timeout, poll_fn(|cx| pings.poll_pong(cx))).await {
            Ok(Ok(_)) => heard = status.heard.get(),
            // The connection has failed by itself; its own future says so.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) if status.heard.get() != heard => {}
            Err(_) => return,
        }
    }
}

/// Counts what is heard from the endpoint.
#[derive(Debug)]
struct Listening {
    transport: Transport,
    status: Rc<Http2Status>,
}

impl AsyncRead for Listening {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.transport).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.status.heard.set(self.status.heard.get().wrapping_add(1));
        }
        result
    }
}

impl AsyncWrite for Listening {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}
