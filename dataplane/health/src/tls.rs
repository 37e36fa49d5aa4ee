//! TLS of HTTPS probes. No certificate is verified: a probe asks whether the real server serves, and the certificate, which
//! is made for clients of the VIP, is between it and them.

use crate::failure::{Failure, Step};
use crate::probe::Attempt;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The settings that all probes share.
#[derive(Clone, Debug)]
pub(crate) struct ProbeTls {
    config: Arc<ClientConfig>,
}

impl ProbeTls {
    pub(crate) fn new() -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)
            .expect("the provider has cipher suites for the default versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate { provider }))
            .with_no_client_auth();
        // A resumed handshake does not show that the real server still has its key.
        config.resumption = rustls::client::Resumption::disabled();
        Self { config: Arc::new(config) }
    }

    /// The handshake on `stream`. `host` is sent as server name where it is a DNS name.
    pub(crate) async fn handshake(
        &self,
        attempt: &Attempt<'_>,
        stream: TcpStream,
        host: Option<&str>,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        attempt.enter(Step::Handshaking);
        let name = host
            .and_then(|host| ServerName::try_from(without_port(host).to_owned()).ok())
            .unwrap_or_else(|| ServerName::IpAddress(attempt.vip.into()));
        let handshake = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await;
        handshake.map_err(|error| attempt.tls_failed(&error))
    }
}

impl Attempt<'_> {
    /// An error of a TLS connection: of the library, which wraps its own in others, or of the socket.
    pub(crate) fn tls_failed(&self, error: &io::Error) -> Failure {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(error) => Failure::Tls(error.to_string().into()),
            None => self.failed(error),
        }
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Takes any certificate, but only from a server that proves to hold its key.
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
