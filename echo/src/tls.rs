//! TLS of a backend: its certificate, and what it says about a connection.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ProtocolVersion, ServerConfig, ServerConnection};
use serde::Serialize;

/// A certificate and key for a backend that speaks TLS 1.2 and 1.3, with ALPN `h2` and `http/1.1`.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    certificate_pem: String,
}

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A name that no certificate can carry.
    #[error("certificate names: {0}; write DNS names or IP addresses")]
    Names(#[source] rcgen::Error),
    /// The PEM texts hold no certificate or no key, or cannot be read.
    #[error("certificate or key: {0}; give PEM with a certificate chain and one private key")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// Key and certificate do not belong together, or are of a kind that TLS cannot use.
    #[error("certificate and key: {0}")]
    Unusable(#[source] rustls::Error),
}

impl Tls {
    /// A new self-signed certificate for `names` (DNS names or addresses).
    ///
    /// # Errors
    /// [`TlsError::Names`] where a name cannot stand in a certificate.
    pub fn self_signed<I>(names: I) -> Result<Tls, TlsError>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        let made = rcgen::generate_simple_self_signed(names).map_err(TlsError::Names)?;
        Tls::from_pem(&made.cert.pem(), &made.signing_key.serialize_pem())
    }

    /// A certificate chain and its private key, both PEM.
    ///
    /// # Errors
    /// [`TlsError::Pem`] or [`TlsError::Unusable`].
    pub fn from_pem(certificates: &str, key: &str) -> Result<Tls, TlsError> {
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(certificates.as_bytes()).collect::<Result<_, _>>().map_err(TlsError::Pem)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(TlsError::Pem)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unusable)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(TlsError::Unusable)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Tls { config: Arc::new(config), certificate_pem: certificates.to_owned() })
    }

    /// The same certificate with other ALPN protocols, in the order of preference.
    pub fn with_alpn<I>(mut self, protocols: I) -> Tls
    where
        I: IntoIterator,
        I::Item: Into<Vec<u8>>,
    {
        let mut config = ServerConfig::clone(&self.config);
        config.alpn_protocols = protocols.into_iter().map(Into::into).collect();
        self.config = Arc::new(config);
        self
    }

    /// The certificate chain as PEM: what a client trusts to accept this backend.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

/// The `tls` field of the description, under the names of the conformance suite.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Session {
    version: &'static str,
    server_name: String,
    negotiated_protocol: String,
    cipher_suite: String,
}

impl Session {
    pub(crate) fn of(connection: &ServerConnection) -> Session {
        let cipher_suite = connection.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
        Session {
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "unknown",
            },
            server_name: connection.server_name().unwrap_or_default().to_owned(),
            negotiated_protocol: String::from_utf8_lossy(connection.alpn_protocol().unwrap_or_default()).into_owned(),
            // IANA writes no version into the names of the TLS 1.3 suites.
            cipher_suite: cipher_suite.unwrap_or_default().replace("TLS13_", "TLS_"),
        }
    }
}
