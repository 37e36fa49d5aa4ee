//! Host names and the patterns of Ingress rules.

use serde::{Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

/// A DNS host name: lower case, no port, no trailing dot, labels of `[a-z0-9_-]`, at most 253 bytes.
///
/// An IP literal is a valid name too (an IPv4 address has the shape of one; an IPv6 address keeps its brackets), so that
/// requests made to an address can be routed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

/// Why a text is not a host name or pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHost {
    /// Nothing there.
    #[error("host is empty")]
    Empty,
    /// RFC 1035 section 2.3.4 bounds a name to 253 visible bytes and a label to 63.
    #[error("host is longer than DNS allows (253 bytes, 63 for a label)")]
    TooLong,
    /// A character that no host name has.
    #[error("host has the character {0:?}, which a DNS name cannot have")]
    Character(char),
    /// Two dots in a row, or one in front.
    #[error("host has an empty label")]
    EmptyLabel,
    /// A label begins or ends with a hyphen (RFC 1123 section 2.1).
    #[error("host has a label that begins or ends with a hyphen")]
    Hyphen,
    /// `*` anywhere but as the whole first label.
    #[error("`*` may stand only as the whole first label, as in `*.example.com`")]
    Wildcard,
}

impl HostName {
    /// Parses a host name; upper case is folded and one trailing dot is dropped.
    ///
    /// # Errors
    /// Says which rule of DNS names the text breaks.
    pub fn parse(text: &str) -> Result<Self, InvalidHost> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err(InvalidHost::Empty);
        }
        if let Some(inner) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let address: std::net::Ipv6Addr = inner.parse().map_err(|_| InvalidHost::Character('['))?;
            return Ok(Self(format!("[{address}]").into()));
        }
        if name.len() > 253 {
            return Err(InvalidHost::TooLong);
        }
        for label in name.split('.') {
            check_label(label)?;
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_label(label: &str) -> Result<(), InvalidHost> {
    if label.is_empty() {
        return Err(InvalidHost::EmptyLabel);
    }
    if label.len() > 63 {
        return Err(InvalidHost::TooLong);
    }
    if let Some(bad) = label.chars().find(|c| !(c.is_ascii_alphanumeric() || *c == '-' || *c == '_')) {
        return Err(if bad == '*' { InvalidHost::Wildcard } else { InvalidHost::Character(bad) });
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(InvalidHost::Hyphen);
    }
    Ok(())
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for HostName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// What a rule's `host` claims.
///
/// The order is that of precedence: an exact host beats a wildcard, which beats the rule without a host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// One host.
    Exact(HostName),
    /// `*.suffix`: exactly one label in front of the suffix held here (without `*.`).
    Wildcard(HostName),
    /// A rule without a host, and the default backends: every host that nobody else claims.
    Any,
}

impl HostPattern {
    /// Parses the `host` of a rule or of `spec.tls[].hosts[]`; an empty text is [`HostPattern::Any`].
    ///
    /// # Errors
    /// As [`HostName::parse`], and for a `*` in the wrong place.
    pub fn parse(text: &str) -> Result<Self, InvalidHost> {
        if text.is_empty() {
            return Ok(Self::Any);
        }
        match text.strip_prefix("*.") {
            Some(suffix) => HostName::parse(suffix).map(Self::Wildcard),
            None => HostName::parse(text).map(Self::Exact),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
