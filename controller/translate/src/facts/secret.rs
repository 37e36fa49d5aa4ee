//! Secret: a certificate chain and the key that fits, or what is wrong with it.
//!
//! Only `tls.crt` and `tls.key` are looked at, and nothing else of a Secret is kept.

use aws_lc_rs::digest;
use k8s_openapi::api::core::v1 as api;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sluicegate_config::{Certificate, CertificateId, PrivateKey};
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// More certificates than any chain has: every handshake carries all of them.
const LONGEST_CHAIN: usize = 16;

const CERTIFICATE: &str = "data[\"tls.crt\"]";
const KEY: &str = "data[\"tls.key\"]";

/// What a Secret amounts to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Secret {
    Good(GoodSecret),
    Broken(BrokenSecret),
}

/// A certificate that can be served.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct GoodSecret {
    pub(crate) certificate: Arc<Certificate>,
    /// Start of validity, seconds since the Unix epoch.
    pub(crate) not_before: i64,
}

/// Why there is no certificate to serve. Texts never hold key material.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BrokenSecret {
    pub(crate) field: &'static str,
    pub(crate) reason: String,
    pub(crate) remedy: &'static str,
}

impl Secret {
    pub(crate) fn read(object: &api::Secret, id: CertificateId) -> Self {
        match parse(object, id) {
            Ok(good) => Self::Good(good),
            Err(broken) => Self::Broken(broken),
        }
    }

    pub(crate) fn good(&self) -> Option<&GoodSecret> {
        match self {
            Self::Good(good) => Some(good),
            Self::Broken(_) => None,
        }
    }

    /// The names that it covers, if it is good: all that the choice of a certificate by host depends on.
    pub(crate) fn names(&self) -> Option<&[String]> {
        self.good().map(|good| good.certificate.names.as_slice())
    }
}

fn parse(object: &api::Secret, id: CertificateId) -> Result<GoodSecret, BrokenSecret> {
    let chain = chain(entry(object, "tls.crt").ok_or(BrokenSecret {
        field: CERTIFICATE,
        reason: "the Secret has no tls.crt".to_owned(),
        remedy: "create it with `kubectl create secret tls`",
    })?)?;
    let key = key(entry(object, "tls.key").ok_or(BrokenSecret {
        field: KEY,
        reason: "the Secret has no tls.key".to_owned(),
        remedy: "create it with `kubectl create secret tls`",
    })?)?;
    let leaf = leaf(&chain, 0)?;
    let fits = public_key(&key)?;
    if leaf.public_key().raw != fits.as_slice() {
        return Err(mismatch(&chain, &fits));
    }
    let validity = leaf.validity();
    let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let names = names(&leaf);
    let fingerprint = hex(digest::digest(&digest::SHA256, &chain[0]).as_ref());
    let key = PrivateKey::new(key.secret_der().to_vec());
    Ok(GoodSecret { certificate: Arc::new(Certificate { id, chain, key, names, not_after, fingerprint }), not_before })
}

/// `stringData` is what people write in manifests; an API server has merged it into `data`.
fn entry<'a>(object: &'a api::Secret, key: &str) -> Option<&'a [u8]> {
    let written = object.string_data.as_ref().and_then(|all| all.get(key)).map(|text| text.as_bytes());
    let stored = object.data.as_ref().and_then(|all| all.get(key)).map(|bytes| bytes.0.as_slice());
    written.or(stored).filter(|bytes| !bytes.is_empty())
}

fn chain(pem: &[u8]) -> Result<Vec<Vec<u8>>, BrokenSecret> {
    let bad = |reason: String| BrokenSecret {
        field: CERTIFICATE,
        reason,
        remedy: "put the certificate in PEM there, followed by its intermediates",
    };
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|why| bad(format!("tls.crt is not PEM: {why}")))?;
        if chain.len() == LONGEST_CHAIN {
            return Err(bad(format!("tls.crt holds more than {LONGEST_CHAIN} certificates")));
        }
        chain.push(certificate.to_vec());
    }
    if chain.is_empty() {
        return Err(bad("tls.crt holds no certificate".to_owned()));
    }
    for index in 0..chain.len() {
        leaf(&chain, index)?;
    }
    Ok(chain)
}

fn leaf(chain: &[Vec<u8>], index: usize) -> Result<X509Certificate<'_>, BrokenSecret> {
    match X509Certificate::from_der(&chain[index]) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(BrokenSecret {
            field: CERTIFICATE,
            reason: format!("certificate {} of tls.crt is not X.509", index + 1),
            remedy: "put the certificate in PEM there, followed by its intermediates",
        }),
    }
}

fn key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, BrokenSecret> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
        let encrypted = pem.windows(9).any(|window| window == b"ENCRYPTED");
        BrokenSecret {
            field: KEY,
            reason: if encrypted { "tls.key is encrypted" } else { "tls.key holds no private key in PEM" }.to_owned(),
            remedy: "put the unencrypted key in PEM there (PKCS#8, PKCS#1 or SEC1)",
        }
    })
}

/// The public half as SubjectPublicKeyInfo, in DER.
fn public_key(key: &PrivateKeyDer<'static>) -> Result<Vec<u8>, BrokenSecret> {
    rustls::crypto::aws_lc_rs::sign::any_supported_type(key)
        .ok()
        .and_then(|key| key.public_key().map(|public| public.as_ref().to_vec()))
        .ok_or(BrokenSecret {
            field: KEY,
            reason: "tls.key is damaged or of a kind that TLS does not use".to_owned(),
            remedy: "use an RSA (2048 bits or more), ECDSA (P-256, P-384, P-521) or Ed25519 key",
        })
}

fn mismatch(chain: &[Vec<u8>], fits: &[u8]) -> BrokenSecret {
    let position = (1..chain.len()).find(|index| leaf(chain, *index).is_ok_and(|other| other.public_key().raw == fits));
    match position {
        Some(index) => BrokenSecret {
            field: CERTIFICATE,
            reason: format!("tls.key fits certificate {} of tls.crt and not the first", index + 1),
            remedy: "put the server's own certificate first",
        },
        None => BrokenSecret {
            field: KEY,
            reason: "tls.key does not fit the certificate in tls.crt".to_owned(),
            remedy: "store the key that the certificate was issued for",
        },
    }
}

/// Subject alternative names; the common name counts only where there is none (RFC 6125 section 6.4.4).
fn names(leaf: &X509Certificate<'_>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    if let Ok(Some(extension)) = leaf.subject_alternative_name() {
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.push(name.to_ascii_lowercase()),
                GeneralName::IPAddress(bytes) => names.extend(address(bytes).map(|address| match address {
                    IpAddr::V4(address) => address.to_string(),
                    // As a HostName is written.
                    IpAddr::V6(address) => format!("[{address}]"),
                })),
                _ => {}
            }
        }
    } else {
        names.extend(
            leaf.subject()
                .iter_common_name()
                .filter_map(|name| name.as_str().ok())
                .map(|name| name.to_ascii_lowercase()),
        );
    }
    names.sort_unstable();
    names.dedup();
    names
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(octets.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
