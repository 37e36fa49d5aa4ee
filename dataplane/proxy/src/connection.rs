//! One client connection, from accept to close: PROXY header, ClientHello, TLS, and which protocol then speaks.

use crate::client_hello::{ClientHelloError, ClientHelloReader};
use crate::exchange::Session;
use crate::fault::Fault;
use crate::headers::ClientIdentity;
use crate::http1_stream::Http1Io;
use crate::proxy_protocol;
use crate::record::Refusal;
use crate::server_tls::ServerTlsStream;
use crate::tls::{self, TlsSession};
use crate::transport::{PrefixedStream, Transport};
use crate::worker::{Registration, Worker};
use crate::{http1_server, http2_server, stream_proxy};
use bytes::Bytes;
use rustls::{ProtocolVersion, ServerConfig};
use sluicegate_config::{BackendId, StreamListener, TlsTreatment};
use sluicegate_telemetry::{FaultReason, LimitName, ListenerKind, Protocol, StreamKind, TlsFailure, TlsVersion};
use sluicegate_trace::Trust;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What is done with connections of a listener.
#[derive(Clone)]
pub(crate) enum Service {
    Http { proxy_protocol: bool, trust: Trust },
    Https { config: Arc<ServerConfig>, proxy_protocol: bool, trust: Trust },
    Stream(Arc<StreamListener>),
}

impl Service {
    fn kind(&self) -> ListenerKind {
        match self {
            Self::Http { .. } => ListenerKind::Http,
            Self::Https { .. } => ListenerKind::Https,
            Self::Stream(_) => ListenerKind::Stream,
        }
    }

    /// How far the traces of its requests are believed.
    fn trust(&self) -> Trust {
        match self {
            Self::Http { trust, .. } | Self::Https { trust, .. } => *trust,
            Self::Stream(_) => Trust::default(),
        }
    }
}

/// What a client is owed once the preliminaries are over.
enum Established {
    Http1(Transport, Option<TlsSession>),
    Http2(Transport, Option<TlsSession>),
    Stream(TcpStream, Bytes, BackendId, StreamKind, bool),
    /// There is nothing more to do.
    Over,
}

/// Who is at the other end, and where it came in.
#[derive(Clone, Copy)]
struct Ends {
    peer: SocketAddr,
    local: SocketAddr,
}

impl Ends {
    fn identity(&self, worker: &Worker, service: &Service) -> ClientIdentity {
        let https = matches!(service, Service::Https { .. });
        ClientIdentity::new(self.peer, self.local, https, service.trust(), &worker.settings.trusted)
    }
}

/// Starts to serve a connection that was just accepted. Each stage is a task of its own, so that a connection that
/// waits for its next request does not carry what its handshake needed.
pub(crate) fn start(worker: &Rc<Worker>, service: &Service, socket: TcpStream, peer: SocketAddr) {
    let kind = service.kind();
    let Some(registration) = Registration::new(worker, kind) else {
        refuse(worker, service, &socket, peer);
        return;
    };
    // Nagle's algorithm would hold the last segment of each response back; a socket without it is only slower.
    let _ = socket.set_nodelay(true);
    let Ok(local) = socket.local_addr() else {
        return;
    };
    let ends = Ends { peer, local };
    if matches!(service, Service::Http { proxy_protocol: false, .. }) {
        serve(worker, service, Established::Http1(Transport::Plain(socket), None), ends, registration);
    } else {
        tokio::task::spawn_local(begin(Rc::clone(worker), service.clone(), socket, ends, registration));
    }
}

/// Does the preliminaries, and starts what follows.
async fn begin(worker: Rc<Worker>, service: Service, socket: TcpStream, mut ends: Ends, registration: Registration) {
    if let Some(established) = establish(&worker, &service, socket, &mut ends).await {
        serve(&worker, &service, established, ends, registration);
    }
}

fn serve(worker: &Rc<Worker>, service: &Service, established: Established, ends: Ends, registration: Registration) {
    let client = ends.identity(worker, service);
    let worker = Rc::clone(worker);
    match established {
        Established::Http1(transport, tls) => {
            let io = Http1Io::new(transport, Rc::clone(&worker.buffers));
            let connection = http1_server::Connection::new(worker, io, client, tls, registration);
            tokio::task::spawn_local(http1_server::serve(Box::new(connection)));
        }
        Established::Http2(transport, tls) => {
            tokio::task::spawn_local(http2_server::serve(worker, transport, client, tls, registration));
        }
        Established::Stream(socket, prefix, backend, kind, send_proxy_protocol) => {
            let header = send_proxy_protocol.then_some((ends.peer, ends.local));
            tokio::task::spawn_local(stream_proxy::serve(worker, socket, prefix, backend, kind, header, registration));
        }
        Established::Over => {}
    }
}

/// Does the preliminaries within the handshake timeout. `None`: it did not come to anything.
async fn establish(worker: &Rc<Worker>, service: &Service, socket: TcpStream, ends: &mut Ends) -> Option<Established> {
    let deadline = tokio::time::Instant::from_std(Instant::now() + worker.settings.timeouts.handshake);
    match tokio::time::timeout_at(deadline, preliminaries(worker, service, socket, ends)).await {
        Ok(established) => established,
        Err(_) => {
            if matches!(service, Service::Https { .. }) {
                worker.metrics.tls_handshake(Err(TlsFailure::Timeout));
            }
            worker.metrics.limit(LimitName::TlsHandshakeTimeout);
            None
        }
    }
}

async fn preliminaries(
    worker: &Rc<Worker>,
    service: &Service,
    mut socket: TcpStream,
    ends: &mut Ends,
) -> Option<Established> {
    let expects_header = match service {
        Service::Http { proxy_protocol, .. } | Service::Https { proxy_protocol, .. } => *proxy_protocol,
        Service::Stream(listener) => listener.accept_proxy_protocol,
    };
    let mut early = Vec::new();
    if expects_header {
        match read_proxy_header(&mut socket, &mut early, ends).await {
            Ok(()) => {}
            Err(error) => {
                worker.metrics.fault(FaultReason::ProxyProtocol);
                let detail = error.to_string();
                tell(worker, ends, service, &Fault::new(0, FaultReason::ProxyProtocol, detail));
                tracing::info!(peer = %ends.peer, %error, "connection refused: no valid PROXY protocol header");
                return None;
            }
        }
    }
    match service {
        Service::Http { .. } => Some(Established::Http1(PrefixedStream::new(socket, Bytes::from(early)).into(), None)),
        Service::Https { config, .. } => accept_tls(worker, service, config, socket, early, ends).await,
        Service::Stream(listener) => Some(Established::Stream(
            socket,
            Bytes::from(early),
            listener.backend.clone(),
            StreamKind::TcpService,
            listener.send_proxy_protocol,
        )),
    }
}

/// Most bytes that are read before a connection is a connection: a ClientHello of 64 KiB, or a PROXY header.
const EARLY: usize = 64 * 1024 + 8 * 1024;

/// Reads some more of what comes first. An error if the client closed or sends without end.
async fn read_early(socket: &mut TcpStream, early: &mut Vec<u8>) -> io::Result<()> {
    if early.len() >= EARLY {
        return Err(io::ErrorKind::InvalidData.into());
    }
    early.reserve(2048);
    match socket.read_buf(early).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

async fn read_proxy_header(socket: &mut TcpStream, early: &mut Vec<u8>, ends: &mut Ends) -> io::Result<()> {
    loop {
        match proxy_protocol::parse(early) {
            Ok(Some((header, used))) => {
                ends.peer = header.source.unwrap_or(ends.peer);
                ends.local = header.destination.unwrap_or(ends.local);
                early.drain(..used);
                return Ok(());
            }
            Ok(None) => read_early(socket, early).await?,
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}

/// Looks at the ClientHello, and passes the connection through or terminates it.
async fn accept_tls(
    worker: &Rc<Worker>,
    service: &Service,
    config: &Arc<ServerConfig>,
    mut socket: TcpStream,
    mut early: Vec<u8>,
    ends: &Ends,
) -> Option<Established> {
    let mut reader = ClientHelloReader::new();
    let hello = loop {
        match reader.inspect(&early) {
            Ok(Some(hello)) => break hello,
            Ok(None) => {
                if read_early(&mut socket, &mut early).await.is_err() {
                    // A client that connects and says nothing (a health check by TCP) is no failed handshake.
                    if !early.is_empty() {
                        worker.metrics.tls_handshake(Err(TlsFailure::ClientClosed));
                    }
                    return Some(Established::Over);
                }
            }
            Err(error) => return refuse_hello(worker, service, &error, socket, ends).await,
        }
    };
    let table = worker.table();
    if let Some(name) = &hello.server_name
        && let Some(found) = table.server_name(name)
        && let TlsTreatment::Passthrough(backend) = &found.treatment
    {
        return Some(Established::Stream(socket, Bytes::from(early), backend.clone(), StreamKind::Passthrough, false));
    }
    let stream = match ServerTlsStream::accept(Arc::clone(config), PrefixedStream::new(socket, early)).await {
        Ok(stream) => stream,
        Err(error) => {
            let failure = tls::failure_of(&error);
            worker.metrics.tls_handshake(Err(failure));
            tracing::debug!(peer = %ends.peer, %error, reason = failure.as_str(), "TLS handshake failed");
            return None;
        }
    };
    let session = stream.session();
    let version = if session.protocol_version() == Some(ProtocolVersion::TLSv1_2) {
        TlsVersion::Tls12
    } else {
        TlsVersion::Tls13
    };
    worker.metrics.tls_handshake(Ok(version));
    if session.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
        worker.metrics.tls_resumed();
    }
    let facts = TlsSession::new(hello.server_name, version, &table);
    if facts.is_default() {
        worker.metrics.tls_default_certificate();
    }
    let http2 = session.alpn_protocol() == Some(b"h2");
    let transport = Transport::from(stream);
    Some(if http2 { Established::Http2(transport, Some(facts)) } else { Established::Http1(transport, Some(facts)) })
}

const PLAIN_HTTP_ON_TLS_PORT: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 61\r\n\
    connection: close\r\nx-sluicegate-reason: bad_request\r\n\r\nThis port speaks HTTPS; the request came as plain HTTP here.\n";

async fn refuse_hello(
    worker: &Rc<Worker>,
    service: &Service,
    error: &ClientHelloError,
    mut socket: TcpStream,
    ends: &Ends,
) -> Option<Established> {
    let failure = match error {
        ClientHelloError::NotTls { .. } => TlsFailure::NotTls,
        _ => TlsFailure::Malformed,
    };
    worker.metrics.tls_handshake(Err(failure));
    tracing::debug!(peer = %ends.peer, %error, "connection refused: no valid ClientHello");
    if matches!(error, ClientHelloError::NotTls { http: true }) {
        worker.metrics.fault(FaultReason::BadRequest);
        tell(worker, ends, service, &Fault::new(400, FaultReason::BadRequest, "plain HTTP on a TLS port"));
        // Best effort: the client spoke the wrong protocol anyway.
        let _ = socket.write_all(PLAIN_HTTP_ON_TLS_PORT).await;
        let _ = socket.shutdown().await;
    }
    if matches!(error, ClientHelloError::TooLarge) {
        worker.metrics.limit(LimitName::Preamble);
    }
    None
}

const TOO_MANY_CONNECTIONS: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\n\
    connection: close\r\nx-sluicegate-reason: too_many_connections\r\n\r\n";

/// There are too many connections: a plain client is told, the others are closed, since a handshake is what costs.
fn refuse(worker: &Rc<Worker>, service: &Service, socket: &TcpStream, peer: SocketAddr) {
    worker.metrics.limit(LimitName::Connections);
    worker.metrics.fault(FaultReason::TooManyConnections);
    if matches!(service, Service::Http { .. }) {
        // Best effort; the connection ends here.
        let _ = socket.try_write(TOO_MANY_CONNECTIONS);
    }
    if let Ok(local) = socket.local_addr() {
        let status = if matches!(service, Service::Http { .. }) { 503 } else { 0 };
        let fault = Fault::new(status, FaultReason::TooManyConnections, "as many connections as there may be");
        tell(worker, &Ends { peer, local }, service, &fault);
    }
}

/// Tells of a connection that was refused before a request could come on it. Relayed streams are no requests.
fn tell(worker: &Rc<Worker>, ends: &Ends, service: &Service, fault: &Fault) {
    if worker.sink.is_some() && !matches!(service, Service::Stream(_)) {
        let client = ends.identity(worker, service);
        let session = Session { worker, client: &client, tls: None };
        Refusal::of(fault, Instant::now(), Protocol::Http11).tell(&session);
    }
}
