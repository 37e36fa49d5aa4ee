//! Who may ask: the token, and the `Host` check that keeps web pages out.

use http::header::{AUTHORIZATION, HOST};
use http::uri::Authority;
use http::{HeaderMap, Request};
use std::net::{IpAddr, SocketAddr};
use subtle::ConstantTimeEq;

/// A bearer token (RFC 6750). It is never printed.
#[derive(Clone)]
pub(crate) struct Token(Vec<u8>);

/// Shorter tokens could be guessed.
const SHORTEST_TOKEN: usize = 16;

impl Token {
    /// Takes the content of a token file; white space around the token does not count.
    ///
    /// # Errors
    /// Says what is wrong with it, without showing it.
    pub(crate) fn parse(content: &str) -> Result<Self, &'static str> {
        let token = content.trim();
        if token.len() < SHORTEST_TOKEN {
            return Err("the token is shorter than 16 characters");
        }
        if token.len() > 4096 {
            return Err("the token is longer than 4096 characters");
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the token has characters other than visible ASCII");
        }
        Ok(Self(token.as_bytes().to_vec()))
    }

    /// True where the request carries the token, in exactly one `Authorization: Bearer`.
    pub(crate) fn admits(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return false };
        let Some((scheme, given)) = value.as_bytes().split_at_checked("Bearer ".len()) else { return false };
        // The time of the comparison depends on the length of the given token alone, not on how much of it is right.
        scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(given.trim_ascii().ct_eq(&self.0))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// True where the request names this machine as a program on it would.
///
/// A web page can make a browser on this machine ask a loopback address under a name of the page's own (DNS
/// rebinding), and would read the answer; the name in `Host` gives it away.
pub(crate) fn names_this_host<B>(request: &Request<B>, listening: SocketAddr) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    let header = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok(),
        _ => None,
    };
    let Some(header) = header else { return false };
    // RFC 9112 section 3.2.2: the authority of an absolute target takes the place of Host, so both must be good.
    let target = request.uri().authority().map_or(header, Authority::as_str);
    is_local(header, listening) && is_local(target, listening)
}

fn is_local(authority: &str, listening: SocketAddr) -> bool {
    let Ok(authority) = authority.parse::<Authority>() else { return false };
    let host = authority.host();
    // `Authority` also takes user information and ports that are no numbers.
    let has_port = authority.port_u16().is_some();
    if authority.as_str().contains('@') || (authority.as_str() != host && !has_port) {
        return false;
    }
    if host.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    literal.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback() || ip == listening.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        let listening: SocketAddr = "127.0.0.1:10253".parse().expect("address");
        let good =
            ["localhost", "LocalHost:10253", "127.0.0.1", "127.9.9.9:1", "[::1]", "[::1]:10253", "[::ffff:127.0.0.1]"];
        let bad = [
            "",
            "evil.test",
            "localhost.evil.test",
            "127.0.0.1.evil.test",
            "192.0.2.1",
            "[2001:db8::1]",
            "localhost@evil.test",
            "evil.test@127.0.0.1",
            "127.0.0.1:port",
            "local host",
            "::1",
            "0.0.0.0",
        ];
        for authority in good {
            assert!(is_local(authority, listening), "{authority}");
        }
        for authority in bad {
            assert!(!is_local(authority, listening), "{authority}");
        }
    }

    #[test]
    fn tokens_are_checked_where_they_are_read() {
        for bad in ["", "short", "fifteen-letters", "sixteen letters!", "sixteen-letters-ü"] {
            assert!(Token::parse(bad).is_err(), "{bad}");
        }
        let token = Token::parse(" 0123456789abcdef\n").expect("valid");
        assert_eq!(format!("{token:?}"), "Token(…)");
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().expect("header"));
            }
            token.admits(&headers)
        };
        assert!(with(&["Bearer 0123456789abcdef"]) && with(&["bearer 0123456789abcdef"]));
        for bad in [
            "0123456789abcdef",
            "Bearer 0123456789abcdeg",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Basic 0123456789abcdef",
            "Bearer",
            "",
        ] {
            assert!(!with(&[bad]), "{bad}");
        }
        assert!(!with(&[]) && !with(&["Bearer 0123456789abcdef", "Bearer 0123456789abcdef"]));
    }
}
