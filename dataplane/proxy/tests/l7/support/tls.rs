//! Certificates, and a TLS client that takes any of them and shows which one it was given.

use super::soon;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Kinds of key.
#[derive(Clone, Copy, Debug)]
pub enum Key {
    Rsa,
    Ecdsa,
    Ed25519,
}

/// A self-signed certificate with its key.
pub struct Identity {
    pub certificate: String,
    pub key: String,
    pub der: Vec<u8>,
}

impl Identity {
    /// A new one for these names.
    pub fn new(kind: Key, names: &[&str]) -> Self {
        let algorithm = match kind {
            Key::Rsa => &rcgen::PKCS_RSA_SHA256,
            Key::Ecdsa => &rcgen::PKCS_ECDSA_P256_SHA256,
            Key::Ed25519 => &rcgen::PKCS_ED25519,
        };
        let key = rcgen::KeyPair::generate_for(algorithm).expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = rcgen::CertificateParams::new(names).expect("names").self_signed(&key).expect("signed");
        Self { certificate: certificate.pem(), key: key.serialize_pem(), der: certificate.der().to_vec() }
    }

    /// As a Secret of type `kubernetes.io/tls`.
    pub fn secret(&self, name: &str) -> String {
        secret(name, &self.certificate, &self.key)
    }
}

/// A Secret with these texts, whatever they are.
pub fn secret(name: &str, certificate: &str, key: &str) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default}}\ntype: kubernetes.io/tls\nstringData:\n"
    );
    for (field, value) in [("tls.crt", certificate), ("tls.key", key)] {
        let _ = writeln!(text, "  {field}: |");
        for line in value.lines() {
            let _ = writeln!(text, "    {line}");
        }
    }
    text
}

/// A client configuration that takes any certificate.
pub fn config(versions: &[&'static SupportedProtocolVersion], alpn: &[&str]) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TakesAnything(provider)))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}

/// The defaults of the library, offering these protocols.
pub fn modern(alpn: &[&str]) -> ClientConfig {
    config(rustls::ALL_VERSIONS, alpn)
}

/// Connects with a server name; an address sends none.
pub async fn connect(config: &Arc<ClientConfig>, address: SocketAddr, name: &str) -> TlsStream<TcpStream> {
    try_connect(config, address, name).await.expect("a handshake")
}

/// The same, where it may fail.
pub async fn try_connect(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let name = ServerName::try_from(name.to_owned()).expect("a name or an address");
    soon("the handshake", TlsConnector::from(Arc::clone(config)).connect(name, socket)).await
}

/// The certificate that the server showed.
pub fn leaf(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().expect("certificates")[0].to_vec()
}

#[derive(Debug)]
struct TakesAnything(Arc<CryptoProvider>);

impl ServerCertVerifier for TakesAnything {
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
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
