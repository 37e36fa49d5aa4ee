//! `host[:port]`, as it stands in Host fields and request targets.

use std::net::Ipv6Addr;

use crate::error::HeadError;
use crate::syntax;

/// The parts of an authority: bytes of the host (with its brackets, where it has them), and the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Authority {
    pub(crate) host_len: usize,
    pub(crate) port: Option<u16>,
}

/// Takes `uri-host [ ":" port ]` (RFC 9110 section 7.2) with a host of unreserved characters or a bracketed IPv6
/// address. A colon with nothing behind it means the default port (RFC 3986 section 3.2.3).
pub(crate) fn parse(bytes: &[u8]) -> Result<Authority, HeadError> {
    let host_len = match bytes {
        [b'[', ..] => ipv6_literal_len(bytes).ok_or(HeadError::InvalidHost)?,
        _ => bytes.iter().position(|b| !syntax::is_host_char(*b)).unwrap_or(bytes.len()),
    };
    if host_len == 0 {
        return Err(HeadError::InvalidHost);
    }
    let port = match &bytes[host_len..] {
        [] | [b':'] => None,
        [b':', digits @ ..] => Some(parse_port(digits).ok_or(HeadError::InvalidHost)?),
        _ => return Err(HeadError::InvalidHost),
    };
    Ok(Authority { host_len, port })
}

fn ipv6_literal_len(bytes: &[u8]) -> Option<usize> {
    let close = memchr::memchr(b']', bytes)?;
    let address = std::str::from_utf8(&bytes[1..close]).ok()?;
    address.parse::<Ipv6Addr>().ok()?;
    Some(close + 1)
}

fn parse_port(digits: &[u8]) -> Option<u16> {
    if digits.len() > 5 {
        return None;
    }
    u16::try_from(syntax::decimal(digits)?).ok()
}
