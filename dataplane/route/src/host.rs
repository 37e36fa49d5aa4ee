//! From the authority that a client sent to the form in which host names are stored, without allocation.

use std::fmt::Write;
use std::net::Ipv6Addr;

/// Longest host name, RFC 1035 section 2.3.4.
const MAX_NAME: usize = 253;

/// A host name in lower case, without port and trailing dot; an IPv6 address in its canonical form and in brackets.
pub(crate) struct HostKey {
    bytes: [u8; MAX_NAME],
    len: usize,
}

impl HostKey {
    /// Reads the `Host` field, the `:authority` pseudo-header or a server name. `None` where it cannot name a virtual
    /// host (nothing there, too long, no port behind the colon): only the catch-all serves that.
    #[inline]
    pub(crate) fn parse(authority: &[u8]) -> Option<Self> {
        if authority.first() == Some(&b'[') {
            return Self::parse_ipv6(authority);
        }
        let name = match authority.iter().position(|byte| *byte == b':') {
            Some(colon) => {
                let (name, port) = authority.split_at(colon);
                is_port(port).then_some(name)?
            }
            None => authority,
        };
        let name = name.strip_suffix(b".").unwrap_or(name);
        if name.is_empty() || name.len() > MAX_NAME {
            return None;
        }
        let mut key = Self { bytes: [0; MAX_NAME], len: name.len() };
        let bytes = key.bytes.get_mut(..name.len())?;
        bytes.copy_from_slice(name);
        bytes.make_ascii_lowercase();
        Some(key)
    }

    #[cold]
    fn parse_ipv6(authority: &[u8]) -> Option<Self> {
        let close = authority.iter().position(|byte| *byte == b']')?;
        if !is_port(authority.get(close + 1..)?) {
            return None;
        }
        let address: Ipv6Addr = std::str::from_utf8(authority.get(1..close)?).ok()?.parse().ok()?;
        let mut key = Self { bytes: [0; MAX_NAME], len: 0 };
        write!(key, "[{address}]").ok()?;
        Some(key)
    }

    #[inline]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// What stands behind the first label, if that is a label that a wildcard takes: not empty, of letters, digits,
    /// `-` and `_`.
    pub(crate) fn parent(&self) -> Option<&[u8]> {
        let name = self.as_bytes();
        let dot = name.iter().position(|byte| *byte == b'.')?;
        let (label, rest) = name.split_at(dot);
        let is_label = !label.is_empty() && label.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if is_label { rest.get(1..).filter(|rest| !rest.is_empty()) } else { None }
    }
}

impl Write for HostKey {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// Nothing, or a colon and digits (RFC 3986 section 3.2.3 allows none).
fn is_port(rest: &[u8]) -> bool {
    match rest.split_first() {
        None => true,
        Some((colon, digits)) => *colon == b':' && digits.iter().all(u8::is_ascii_digit),
    }
}
