//! The webhook's certificate and key: two files, read again when they change.

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A Secret holds no more.
const LARGEST: u64 = 1 << 20;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// One of the files.
    #[error("{flag} {}: cannot be read; give a file in PEM that this process may read", .path.display())]
    Unreadable {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What is in it.
    #[error("{flag} {}: {reason}; the files of a Secret of type kubernetes.io/tls do", .path.display())]
    Unusable {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The two files.
#[derive(Debug)]
pub(crate) struct Files {
    certificate: PathBuf,
    key: PathBuf,
    seen: [Stamp; 2],
}

/// What differs where a file was written or another one put in its place.
type Stamp = (u64, i64, i64, u64);

const CERTIFICATE: &str = "--webhook-cert";
const KEY: &str = "--webhook-key";

impl Files {
    /// Reads them for the first time.
    pub(crate) fn read(certificate: PathBuf, key: PathBuf) -> Result<(Self, Arc<ServerConfig>), CertificateError> {
        let seen = [stamp(CERTIFICATE, &certificate)?, stamp(KEY, &key)?];
        let files = Self { certificate, key, seen };
        let config = files.load()?;
        Ok((files, config))
    }

    /// The settings of TLS, where the files are others than at the last call. `None` = they are the same.
    ///
    /// The two are not read at one moment: a pair that does not fit together is an error and is read again at the next
    /// call, when whoever writes them is done.
    pub(crate) fn changed(&mut self) -> Result<Option<Arc<ServerConfig>>, CertificateError> {
        let stamps = [stamp(CERTIFICATE, &self.certificate)?, stamp(KEY, &self.key)?];
        if self.seen == stamps {
            return Ok(None);
        }
        let config = self.load()?;
        self.seen = stamps;
        Ok(Some(config))
    }

    fn load(&self) -> Result<Arc<ServerConfig>, CertificateError> {
        let unusable =
            |flag, path: &Path, reason: String| CertificateError::Unusable { flag, path: path.to_owned(), reason };
        let text = read(CERTIFICATE, &self.certificate)?;
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&text)
            .collect::<Result<_, _>>()
            .map_err(|error| unusable(CERTIFICATE, &self.certificate, error.to_string()))?;
        if chain.is_empty() {
            return Err(unusable(CERTIFICATE, &self.certificate, "there is no certificate in it".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_slice(&read(KEY, &self.key)?)
            .map_err(|error| unusable(KEY, &self.key, error.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map(|builder| builder.with_no_client_auth())
            // It compares the key with the certificate.
            .and_then(|builder| builder.with_single_cert(chain, key))
            .map_err(|error| unusable(CERTIFICATE, &self.certificate, error.to_string()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn stamp(flag: &'static str, path: &Path) -> Result<Stamp, CertificateError> {
    let found = fs::metadata(path).map_err(|source| unreadable(flag, path, source))?;
    Ok((found.ino(), found.mtime(), found.mtime_nsec(), found.size()))
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, CertificateError> {
    let mut text = Vec::new();
    let file = File::open(path).map_err(|source| unreadable(flag, path, source))?;
    file.take(LARGEST).read_to_end(&mut text).map_err(|source| unreadable(flag, path, source))?;
    Ok(text)
}

fn unreadable(flag: &'static str, path: &Path, source: io::Error) -> CertificateError {
    CertificateError::Unreadable { flag, path: path.to_owned(), source }
}
