//! Certificates, and which one answers for which server name.

use crate::backend::BackendId;
use crate::object::ObjectRef;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// The Secret that a certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct CertificateId {
    /// Namespace of the Secret (the same as that of the Ingress).
    pub namespace: Arc<str>,
    /// Name of the Secret.
    pub name: Arc<str>,
}

impl fmt::Display for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A private key in DER (PKCS#8, PKCS#1 or SEC1). Never printed, never serialized, wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(Arc<Zeroizing<Vec<u8>>>);

impl PrivateKey {
    /// Takes the DER bytes of a key.
    pub fn new(der: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(der)))
    }

    /// The DER bytes, for the TLS library alone.
    pub fn secret_der(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

/// A certificate chain with a key that is known to fit it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// Where it comes from.
    pub id: CertificateId,
    /// DER certificates, leaf first.
    #[serde(skip)]
    pub chain: Vec<Vec<u8>>,
    /// The leaf's key.
    #[serde(skip)]
    pub key: PrivateKey,
    /// DNS names of the leaf (subjectAltName, or the common name where there is none), lower case, sorted.
    pub names: Vec<String>,
    /// End of validity, seconds since the Unix epoch.
    pub not_after: i64,
    /// SHA-256 of the leaf, lower-case hex: what a user compares with `openssl x509 -fingerprint`.
    pub fingerprint: String,
}

/// What happens to a TLS connection whose ClientHello names a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsTreatment {
    /// Terminate with this certificate.
    Certificate(CertificateId),
    /// Terminate with the default certificate (the Secret is missing or was never good, or none is named).
    DefaultCertificate,
    /// Do not terminate: relay the bytes to this backend.
    Passthrough(BackendId),
}

/// How one server name (SNI) is treated; keyed by [`crate::HostPattern`] in [`crate::Desired`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerName {
    /// What to do with connections for it.
    pub treatment: TlsTreatment,
    /// The Ingress that decided.
    pub origin: ObjectRef,
}
