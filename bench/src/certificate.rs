//! One ECDSA P-256 certificate for all contestants, as today's public ones are. Made for each run, gone with its folder.

use anyhow::Context as _;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use std::fs;
use std::path::Path;

/// The name of what is asked; `*.` of it are the others.
pub const HOST: &str = "bench.test";

/// Certificate and key as PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub chain: String,
    /// Its private key.
    pub key: String,
}

impl Certificate {
    /// A new one, signed by itself, valid for the hosts of the bench.
    ///
    /// # Errors
    /// Where the machine has no randomness.
    pub fn make() -> anyhow::Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("a key")?;
        let names = [HOST.to_owned(), format!("*.{HOST}")];
        let mut parameters = CertificateParams::new(names)?;
        parameters.distinguished_name.push(DnType::CommonName, HOST);
        let certificate = parameters.self_signed(&key)?;
        Ok(Self { chain: certificate.pem(), key: key.serialize_pem() })
    }

    /// Writes `tls.crt`, `tls.key`, and both in `tls.pem`.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        fs::write(folder.join("tls.crt"), &self.chain)?;
        fs::write(folder.join("tls.key"), &self.key)?;
        fs::write(folder.join("tls.pem"), format!("{}{}", self.chain, self.key))
    }
}
