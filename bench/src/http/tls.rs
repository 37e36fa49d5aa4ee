//! TLS over buffers of the caller, for both ends. It contains no sockets.

use super::exchange::Fault;
use super::plan::{Plan, Protocol, Trust};
use anyhow::{Context as _, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientConnectionData, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
    UnbufferedClientConnection, WebPkiServerVerifier, verify_server_name,
};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, DigitallySignedStruct, NamedGroup, RootCertStore, SignatureScheme};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// One end of a TLS connection: [`UnbufferedClientConnection`] or [`UnbufferedServerConnection`].
pub trait End {
    /// What rustls keeps for this end.
    type Data;

    /// Works on records.
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl End for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

impl End for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

/// A connection with what is left of its last, incomplete record.
pub struct Layer<E> {
    /// The connection.
    pub end: E,
    /// Bytes that the caller puts in front of what it reads next.
    pub rest: Vec<u8>,
    /// Whether data may be encrypted.
    pub ready: bool,
}

impl<E: End> Layer<E> {
    /// A connection on which nothing has happened.
    pub fn new(end: E) -> Self {
        Self { end, rest: Vec::new(), ready: false }
    }

    /// Decrypts records (`incoming` begins with [`Self::rest`]); what has to be sent goes to `out`. Gives whether the peer
    /// has closed.
    pub fn receive(
        &mut self,
        incoming: &mut [u8],
        out: &mut Vec<u8>,
        mut plain: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<bool, Fault> {
        let mut at = 0;
        let mut closed = false;
        loop {
            let UnbufferedStatus { mut discard, state } = self.end.process(&mut incoming[at..]);
            let mut settled = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut records)) => {
                    while let Some(record) = records.next_record() {
                        let record = record?;
                        discard += record.discard;
                        plain(record.payload)?;
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut state)) => append(out, |room| match state.encode(room) {
                    Ok(written) => Ok(written),
                    Err(EncodeError::InsufficientSize(needed)) => Err(needed.required_size),
                    Err(EncodeError::AlreadyEncoded) => Ok(0),
                }),
                Ok(ConnectionState::TransmitTlsData(state)) => state.done(),
                Ok(ConnectionState::BlockedHandshake) => settled = true,
                Ok(ConnectionState::WriteTraffic(_)) => {
                    self.ready = true;
                    settled = true;
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    closed = true;
                    settled = true;
                }
                Ok(_) => return Err(Fault::Malformed("early data of TLS")),
                Err(error) => return Err(error.into()),
            }
            at = (at + discard).min(incoming.len());
            if settled {
                self.rest.clear();
                self.rest.extend_from_slice(&incoming[at..]);
                return Ok(closed);
            }
        }
    }

    /// Encrypts into `out`; nothing happens before the handshake is done.
    pub fn encrypt(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        let UnbufferedStatus { state, .. } = self.end.process(&mut self.rest);
        if let Ok(ConnectionState::WriteTraffic(mut state)) = state {
            // A record has 5 bytes of header, 1 of type and 16 of tag for at most 16 KiB.
            out.reserve(plain.len() + (plain.len() / 0x4000 + 1) * 32);
            append(out, |room| match state.encrypt(plain, room) {
                Ok(written) => Ok(written),
                Err(EncryptError::InsufficientSize(needed)) => Err(needed.required_size),
                Err(EncryptError::EncryptExhausted) => Ok(0),
            });
        }
    }

    /// Tells the peer that nothing more comes.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        let UnbufferedStatus { state, .. } = self.end.process(&mut self.rest);
        if let Ok(ConnectionState::WriteTraffic(mut state)) = state {
            append(out, |room| match state.queue_close_notify(room) {
                Ok(written) => Ok(written),
                Err(EncryptError::InsufficientSize(needed)) => Err(needed.required_size),
                Err(EncryptError::EncryptExhausted) => Ok(0),
            });
        }
    }
}

/// Lets `write` fill the end of `out`, with as much room as it says that it needs.
fn append(out: &mut Vec<u8>, mut write: impl FnMut(&mut [u8]) -> Result<usize, usize>) {
    let before = out.len();
    let mut room = (out.capacity() - before).max(256);
    for _ in 0..2 {
        out.resize(before + room, 0);
        match write(&mut out[before..]) {
            Ok(written) => {
                out.truncate(before + written);
                return;
            }
            Err(needed) => room = needed,
        }
    }
    out.truncate(before);
}

/// The client's side for one thread: its own cache of tickets, if it resumes.
///
/// # Errors
/// Where certificates cannot be read, or the name is none.
pub fn client(plan: &Plan, resume: bool) -> anyhow::Result<Client> {
    // The same key exchange with every server: those that know post-quantum ones would do more than the others.
    let kx_groups = vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1];
    let provider = Arc::new(CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() });
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("TLS 1.3 is not to be had")?;
    let mut config = match &plan.trust {
        Trust::Everything => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(algorithms(&provider))))
            .with_no_client_auth(),
        Trust::System => builder.with_root_certificates(roots_of_the_system()?).with_no_client_auth(),
        Trust::File(path) => {
            let named = Named::read(path, &provider)?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(named)).with_no_client_auth()
        }
    };
    config.alpn_protocols = match plan.protocol {
        Protocol::Http2 | Protocol::Grpc => vec![b"h2".to_vec()],
        Protocol::Http1 | Protocol::WebSocket => vec![b"http/1.1".to_vec()],
        Protocol::Handshake(_) => Vec::new(),
    };
    let tickets = Arc::new(Tickets::default());
    config.resumption = if resume { Resumption::store(tickets.clone()) } else { Resumption::disabled() };
    let name =
        plan.server_name.as_deref().or_else(|| plan.targets.first().map(|target| target.host())).unwrap_or_default();
    let name = ServerName::try_from(name.to_owned()).with_context(|| format!("{name}: no name for TLS"))?;
    Ok(Client { config: Arc::new(config), name, tickets })
}

/// What connections of one thread are made with.
#[derive(Debug)]
pub struct Client {
    /// Versions, trust, ALPN.
    pub config: Arc<ClientConfig>,
    /// Who is asked for.
    pub name: ServerName<'static>,
    /// Tickets that servers gave; stays empty where nothing is resumed.
    pub tickets: Arc<Tickets>,
}

fn roots_of_the_system() -> anyhow::Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        bail!("this system has no certificate authorities: say with --ca which one is believed, or --insecure");
    }
    Ok(roots)
}

fn algorithms(provider: &CryptoProvider) -> WebPkiSupportedAlgorithms {
    provider.signature_verification_algorithms
}

/// Believes what leads to a certificate of a file, and the certificates of the file themselves: one that a server signed for
/// itself is often marked as an authority's, and such a one does not count as a server's (RFC 5280, 4.2.1.9).
#[derive(Debug)]
struct Named {
    certificates: Vec<CertificateDer<'static>>,
    verifier: Arc<WebPkiServerVerifier>,
}

impl Named {
    fn read(path: &Path, provider: &Arc<CryptoProvider>) -> anyhow::Result<Self> {
        let said = || format!("{}: no PEM certificates", path.display());
        let mut roots = RootCertStore::empty();
        let mut certificates = Vec::new();
        for certificate in CertificateDer::pem_file_iter(path).with_context(said)? {
            let certificate = certificate.with_context(said)?;
            roots.add(certificate.clone()).with_context(said)?;
            certificates.push(certificate);
        }
        if certificates.is_empty() {
            bail!(said());
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .with_context(said)?;
        Ok(Self { certificates, verifier })
    }
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.certificates.iter().any(|certificate| certificate == end_entity) {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// Believes every certificate, and checks that the server has its key, as every client does.
#[derive(Debug)]
struct Anyone(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anyone {
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
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// TLS 1.3 tickets of one thread, each used once (RFC 8446, C.4). The lock is what rustls's trait asks for; no other
/// thread takes it.
#[derive(Debug, Default)]
pub struct Tickets(Mutex<Stock>);

#[derive(Debug, Default)]
struct Stock {
    received: u64,
    tickets: Vec<Tls13ClientSessionValue>,
    hint: Option<NamedGroup>,
}

impl Tickets {
    /// More than any thread has connections; what comes beyond is not kept.
    const MOST: usize = 65_536;

    /// How many have come.
    pub fn received(&self) -> u64 {
        self.stock(|stock| stock.received)
    }

    fn stock<T>(&self, with: impl FnOnce(&mut Stock) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _server_name: ServerName<'static>, group: NamedGroup) {
        self.stock(|stock| stock.hint = Some(group));
    }

    fn kx_hint(&self, _server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.stock(|stock| stock.hint)
    }

    fn set_tls12_session(&self, _server_name: ServerName<'static>, _value: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _server_name: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _server_name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.stock(|stock| {
            stock.received += 1;
            if stock.tickets.len() < Self::MOST {
                stock.tickets.push(value);
            }
        });
    }

    fn take_tls13_ticket(&self, _server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.stock(|stock| stock.tickets.pop())
    }
}
