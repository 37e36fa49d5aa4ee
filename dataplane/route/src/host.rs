//! From the authority that a client sent to the form in which host names are stored, without allocation.

use smallvec::SmallVec;
use std::fmt::Write;
use std::net::Ipv6Addr;

/// Longest host name, RFC 1035 section 2.3.4.
const MAX_NAME: usize = 253;

/// Where a name is built that was not sent in the form in which it is stored.
pub(crate) type HostBuffer = SmallVec<[u8; 256]>;

/// A host name in lower case, without port and trailing dot; an IPv6 address in its canonical form and in brackets.
#[derive(Clone, Copy)]
pub(crate) struct HostKey<'a>(&'a [u8]);

impl<'a> HostKey<'a> {
    /// Reads the `Host` field, the `:authority` pseudo-header or a server name. `None` where it cannot name a virtual
    /// host (nothing there, too long): only the catch-all serves that.
    #[inline]
    pub(crate) fn parse(authority: &'a [u8], buffer: &'a mut HostBuffer) -> Option<Self> {
        let name = without_port(authority);
        if name.first() == Some(&b'[') {
            return Self::parse_ipv6(name, buffer);
        }
        let name = name.strip_suffix(b".").unwrap_or(name);
        if name.is_empty() || name.len() > MAX_NAME {
            return None;
        }
        // All bytes are looked at, so that the compiler can look at many at once.
        if !name.iter().fold(false, |found, byte| found | byte.is_ascii_uppercase()) {
            return Some(Self(name));
        }
        buffer.clear();
        buffer.extend_from_slice(name);
        buffer.make_ascii_lowercase();
        Some(Self(buffer))
    }

    #[cold]
    fn parse_ipv6(name: &[u8], buffer: &'a mut HostBuffer) -> Option<Self> {
        struct Sink<'a>(&'a mut HostBuffer);
        impl Write for Sink<'_> {
            fn write_str(&mut self, text: &str) -> std::fmt::Result {
                self.0.extend_from_slice(text.as_bytes());
                Ok(())
            }
        }
        let inner = name.strip_prefix(b"[")?.strip_suffix(b"]")?;
        let address: Ipv6Addr = std::str::from_utf8(inner).ok()?.parse().ok()?;
        buffer.clear();
        write!(Sink(buffer), "[{address}]").ok()?;
        Some(Self(buffer))
    }

    #[inline]
    pub(crate) fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// What stands behind the first label, if that is a label that a wildcard takes: not empty, of letters, digits,
    /// `-` and `_`.
    pub(crate) fn parent(&self) -> Option<&'a [u8]> {
        let name = self.as_bytes();
        let dot = name.iter().position(|byte| *byte == b'.')?;
        let (label, rest) = name.split_at(dot);
        let is_label = !label.is_empty() && label.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if is_label { rest.get(1..).filter(|rest| !rest.is_empty()) } else { None }
    }
}

/// Cuts off a colon with the digits behind it (RFC 3986 section 3.2.3 allows none). A colon elsewhere stays: no
/// virtual host has one in its name, save in the brackets of an IPv6 address.
#[inline]
fn without_port(authority: &[u8]) -> &[u8] {
    let digits = authority.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (name, _) = authority.split_at(authority.len() - digits);
    name.strip_suffix(b":").unwrap_or(authority)
}
