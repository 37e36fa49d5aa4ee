//! TLS towards a collector.

use crate::settings::{OtlpError, TlsFiles};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;

/// The settings, out of files that are read now.
pub fn config(files: &TlsFiles) -> Result<ClientConfig, OtlpError> {
    let builder =
        ClientConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions()?;
    let builder = builder.with_root_certificates(roots(files.ca.as_deref())?);
    match (&files.certificate, &files.key) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(certificate), Some(key)) => {
            let chain = certificates("--otlp-cert", certificate)?;
            let key_der = PrivateKeyDer::from_pem_slice(&read("--otlp-key", key)?)
                .map_err(|error| pem("--otlp-key", key, error.to_string()))?;
            Ok(builder.with_client_auth_cert(chain, key_der)?)
        }
        _ => Err(OtlpError::HalfPair),
    }
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, OtlpError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in certificates("--otlp-ca", path)? {
                roots.add(certificate).map_err(|error| pem("--otlp-ca", path, error.to_string()))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            // Some of what a system holds is too old to be read.
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let why = found.errors.first().map_or("there are none".to_owned(), ToString::to_string);
                return Err(OtlpError::NoRoots(why));
            }
        }
    }
    Ok(roots)
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, OtlpError> {
    let text = read(what, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(pem(what, path, "it holds no certificate".to_owned())),
        Err(error) => Err(pem(what, path, error.to_string())),
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, OtlpError> {
    std::fs::read(path).map_err(|source| OtlpError::File { what, path: path.to_owned(), source })
}

fn pem(what: &'static str, path: &Path, why: String) -> OtlpError {
    OtlpError::Pem { what, path: path.to_owned(), why }
}
