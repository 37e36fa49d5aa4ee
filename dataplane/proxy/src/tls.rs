//! TLS towards clients: which certificate answers for a name, the default certificate, and what a session was served.

use crate::settings::ProxySettings;
use crate::worker::Shared;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sluicegate_config::diff::Change;
use sluicegate_config::{Certificate, CertificateId, Diff, TlsTreatment};
use sluicegate_route::RouteTable;
use sluicegate_telemetry::{DownstreamTls, TlsFailure, TlsVersion};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

/// Certificates ready to sign, by the Secret that they come from.
#[derive(Clone, Default)]
pub(crate) struct CertificateTable {
    keys: BTreeMap<CertificateId, Arc<CertifiedKey>>,
}

impl CertificateTable {
    /// Applies what changed. A certificate that the TLS library refuses leaves the former one in place and is named.
    pub(crate) fn with(&self, diff: &Diff) -> (Self, Vec<String>) {
        let mut next = self.clone();
        let mut failures = Vec::new();
        for (id, change) in &diff.certificates {
            match change {
                Change::Remove => {
                    next.keys.remove(id);
                }
                Change::Set(certificate) => match certified_key(certificate) {
                    Ok(key) => {
                        next.keys.insert(id.clone(), Arc::new(key));
                    }
                    Err(error) => {
                        failures.push(format!("Secret {id}: the TLS library refuses the certificate: {error}"))
                    }
                },
            }
        }
        (next, failures)
    }
}

/// Makes a certificate usable by the TLS library.
fn certified_key(certificate: &Certificate) -> Result<CertifiedKey, String> {
    let chain = certificate.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let key = PrivateKeyDer::try_from(certificate.key.secret_der().to_vec()).map_err(str::to_owned)?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|error| error.to_string())
}

/// Why no TLS configuration could be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// The default certificate is not usable.
    #[error("the default certificate cannot be used: {0}; give another one with --default-ssl-certificate")]
    DefaultCertificate(String),
    /// The TLS library refuses its own defaults.
    #[error("TLS cannot be set up: {0}")]
    Library(String),
}

/// The server configuration that all workers share. ALPN offers HTTP/2 first.
pub(crate) fn server_config(
    settings: &ProxySettings,
    shared: &Arc<Shared>,
) -> Result<Arc<ServerConfig>, TlsSetupError> {
    let library = |error: rustls::Error| TlsSetupError::Library(error.to_string());
    let resolver = Resolver {
        shared: Arc::clone(shared),
        default: settings.default_certificate.clone(),
        self_signed: Arc::new(self_signed()?),
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(library)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(library)?;
    // Resumption is stateless: one ticket is enough for a client, and a session store would be memory and a lock.
    config.send_tls13_tickets = 1;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// The certificate for names that no Ingress lists, made anew at each start.
fn self_signed() -> Result<CertifiedKey, TlsSetupError> {
    let failed = |error: rcgen::Error| TlsSetupError::DefaultCertificate(error.to_string());
    let mut params = rcgen::CertificateParams::new(vec!["sluicegate.invalid".to_owned()]).map_err(failed)?;
    params.distinguished_name.push(rcgen::DnType::CommonName, "Sluicegate Default Certificate");
    let key = rcgen::KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    CertifiedKey::from_der(vec![certificate.der().clone()], key, &aws_lc_rs::default_provider())
        .map_err(|error| TlsSetupError::DefaultCertificate(error.to_string()))
}

/// Finds the certificate at each handshake in the tables as they are then, so that a renewed one is used at once.
struct Resolver {
    shared: Arc<Shared>,
    /// For names that have no certificate of their own.
    default: Option<CertificateId>,
    /// Where that one is not there either.
    self_signed: Arc<CertifiedKey>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let certificates = self.shared.certificates.load();
        let own = || certificates.keys.get(&certificate_for(&self.shared.table.load(), hello.server_name()?)?);
        let found = own().or_else(|| certificates.keys.get(self.default.as_ref()?));
        Some(Arc::clone(found.unwrap_or(&self.self_signed)))
    }
}

/// The certificate that a server name is served with; `None` is the default certificate.
fn certificate_for(table: &RouteTable, name: &str) -> Option<CertificateId> {
    match &table.server_name(name)?.treatment {
        TlsTreatment::Certificate(id) => Some(id.clone()),
        TlsTreatment::DefaultCertificate | TlsTreatment::Passthrough(_) => None,
    }
}

/// What a terminated TLS connection was served with.
#[derive(Debug)]
pub(crate) struct TlsSession {
    version: TlsVersion,
    server_name: Option<Box<str>>,
    certificate: Option<CertificateId>,
}

impl TlsSession {
    pub(crate) fn new(server_name: Option<Box<str>>, version: TlsVersion, table: &RouteTable) -> Self {
        let certificate = server_name.as_deref().and_then(|name| certificate_for(table, name));
        Self { version, server_name, certificate }
    }

    /// How it is told to whoever records requests.
    pub(crate) fn told(&self) -> DownstreamTls<'_> {
        DownstreamTls { version: self.version, server_name: self.server_name.as_deref() }
    }

    /// True if the client never named a host that we know: it was served the default certificate.
    pub(crate) fn is_default(&self) -> bool {
        self.certificate.is_none()
    }

    /// RFC 9110 section 15.5.20: a request for a host whose TLS settings are not those that this connection was made
    /// under. A client that named no host (an address in the URL) chose none, so nothing is misdirected.
    pub(crate) fn is_misdirected(&self, table: &RouteTable, host: &[u8]) -> bool {
        let Some(name) = &self.server_name else {
            return false;
        };
        if host.eq_ignore_ascii_case(name.as_bytes()) {
            return false;
        }
        let Ok(host) = std::str::from_utf8(host) else {
            return true;
        };
        match table.server_name(&host.to_ascii_lowercase()).map(|found| &found.treatment) {
            Some(TlsTreatment::Passthrough(_)) => true,
            Some(TlsTreatment::Certificate(id)) => self.certificate.as_ref() != Some(id),
            Some(TlsTreatment::DefaultCertificate) | None => self.certificate.is_some(),
        }
    }
}

/// Sorts a failed handshake for the counters.
pub(crate) fn failure_of(error: &io::Error) -> TlsFailure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(_)) => TlsFailure::ClientAlert,
        Some(rustls::Error::PeerIncompatible(_)) => TlsFailure::NoCommonParameters,
        Some(rustls::Error::NoApplicationProtocol) => TlsFailure::NoCommonAlpn,
        Some(rustls::Error::PeerMisbehaved(_) | rustls::Error::InvalidMessage(_) | rustls::Error::DecryptError) => {
            TlsFailure::Malformed
        }
        Some(_) => TlsFailure::Other,
        None if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            TlsFailure::ClientClosed
        }
        None => TlsFailure::Other,
    }
}
