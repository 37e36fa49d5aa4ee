//! A CA, a collector that it vouches for, and a client that it vouches for.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;

/// Certificates and keys in PEM.
#[derive(Clone, Debug)]
pub struct Identities {
    /// The CA's certificate.
    pub ca: String,
    /// The client's certificate.
    pub client_certificate: String,
    /// Its key.
    pub client_key: String,
    server_certificate: String,
    server_key: String,
}

impl Identities {
    /// New ones; the collector is `localhost` and 127.0.0.1.
    pub fn new() -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).unwrap().pem();
        let issuer = Issuer::new(params, ca_key);
        let signed = |names: &[&str]| {
            let key = KeyPair::generate().unwrap();
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
            (certificate.pem(), key.serialize_pem())
        };
        let (server_certificate, server_key) = signed(&["localhost", "127.0.0.1"]);
        let (client_certificate, client_key) = signed(&["gateway.test"]);
        Self { ca, client_certificate, client_key, server_certificate, server_key }
    }

    pub(crate) fn server(&self) -> ServerConfig {
        let provider = Arc::new(default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes()).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let chain = vec![CertificateDer::from_pem_slice(self.server_certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(self.server_key.as_bytes()).unwrap();
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config =
            builder.with_client_cert_verifier(verifier.build().unwrap()).with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }
}

impl Default for Identities {
    fn default() -> Self {
        Self::new()
    }
}
