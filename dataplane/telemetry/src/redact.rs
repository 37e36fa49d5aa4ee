//! Queries without their secrets: for spans, logs and taps.

use std::borrow::Cow;

/// What stands in the place of a value (OpenTelemetry's conventions for HTTP spans, `url.query`).
const REDACTED: &[u8] = b"REDACTED";

/// Parameters whose values let whoever reads them in: signatures of object stores (those that OpenTelemetry's conventions
/// name, first), tokens, keys and passwords. Compared without regard to case.
pub const SECRET: &[&[u8]] = &[
    b"awsaccesskeyid",
    b"signature",
    b"sig",
    b"x-goog-signature",
    b"x-amz-signature",
    b"x-amz-credential",
    b"x-amz-security-token",
    b"x-goog-credential",
    b"access_token",
    b"accesstoken",
    b"refresh_token",
    b"id_token",
    b"id_token_hint",
    b"client_secret",
    b"client_assertion",
    b"assertion",
    b"samlresponse",
    b"api_key",
    b"api-key",
    b"apikey",
    b"subscription-key",
    b"auth",
    b"authorization",
    b"bearer",
    b"code",
    b"code_verifier",
    b"jwt",
    b"key",
    b"passwd",
    b"password",
    b"pwd",
    b"secret",
    b"session",
    b"sessionid",
    b"token",
    b"private_token",
];

/// The longest name of [`SECRET`].
const LONGEST: usize = 20;

/// The query with the values of secret parameters replaced, in its order. Names may be percent-encoded.
pub fn query(query: &[u8]) -> Cow<'_, [u8]> {
    if !parameters(query).any(|(name, value)| value.is_some() && is_secret(name)) {
        return Cow::Borrowed(query);
    }
    let mut out = Vec::with_capacity(query.len());
    for (place, (name, value)) in parameters(query).enumerate() {
        if place > 0 {
            out.push(b'&');
        }
        out.extend_from_slice(name);
        if let Some(value) = value {
            out.push(b'=');
            out.extend_from_slice(if is_secret(name) { REDACTED } else { value });
        }
    }
    Cow::Owned(out)
}

fn parameters(query: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    query.split(|byte| *byte == b'&').map(|pair| match pair.iter().position(|byte| *byte == b'=') {
        Some(at) => (&pair[..at], Some(&pair[at + 1..])),
        None => (pair, None),
    })
}

/// A bit for each length that a name of [`SECRET`] has: most names are none of them by that alone.
const LENGTHS: u32 = {
    let (mut lengths, mut at) = (0, 0);
    while at < SECRET.len() {
        lengths |= 1 << SECRET[at].len();
        at += 1;
    }
    lengths
};

fn is_secret(name: &[u8]) -> bool {
    if name.len() < 32 && LENGTHS >> name.len() & 1 == 0 && !name.contains(&b'%') {
        return false;
    }
    if name.len() > 3 * LONGEST {
        return false;
    }
    if !name.contains(&b'%') {
        return name.len() <= LONGEST && SECRET.iter().any(|secret| secret.eq_ignore_ascii_case(name));
    }
    let mut decoded = [0; 3 * LONGEST];
    let mut length = 0;
    let mut rest = name;
    while let [first, tail @ ..] = rest {
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => hexadecimal(*high).zip(hexadecimal(*low)),
            _ => None,
        };
        let (byte, used) = escaped.map_or((*first, 1), |(high, low)| (high << 4 | low, 3));
        decoded[length] = byte;
        length += 1;
        rest = &rest[used..];
    }
    SECRET.iter().any(|secret| secret.eq_ignore_ascii_case(&decoded[..length]))
}

fn hexadecimal(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn becomes(from: &str, to: &str) {
        assert_eq!(String::from_utf8_lossy(&query(from.as_bytes())), to, "{from}");
    }

    #[test]
    fn values_of_secrets_are_replaced() {
        becomes("q=color&sig=8f3b", "q=color&sig=REDACTED");
        becomes("AWSAccessKeyId=AKIA&Signature=x%3D&Expires=1", "AWSAccessKeyId=REDACTED&Signature=REDACTED&Expires=1");
        becomes(
            "X-Goog-Signature=ab==&X-Amz-Security-Token=",
            "X-Goog-Signature=REDACTED&X-Amz-Security-Token=REDACTED",
        );
        becomes("a=1&PASSWORD=p&b", "a=1&PASSWORD=REDACTED&b");
        becomes("&token=a&&", "&token=REDACTED&&");
    }

    #[test]
    fn an_encoded_name_hides_nothing() {
        becomes("s%69g=1", "s%69g=REDACTED");
        becomes("%73%69%67=1&%zz=2&%7=3", "%73%69%67=REDACTED&%zz=2&%7=3");
    }

    #[test]
    fn the_rest_is_left_as_it_is() {
        for same in ["", "a", "sig", "a=b&c=d", "signs=1", "=x", "&&", "keys=1", "%=1", "na%6De=x"] {
            assert!(matches!(query(same.as_bytes()), Cow::Borrowed(_)), "{same}");
        }
    }

    #[test]
    fn no_secret_is_longer_than_what_is_compared() {
        assert!(SECRET.iter().all(|secret| secret.len() <= LONGEST && secret.to_ascii_lowercase() == **secret));
    }
}
