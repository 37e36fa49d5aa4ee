//! The four forms of a request target (RFC 9112 section 3.2).

use std::ops::Range;

use crate::authority::{self, Authority};
use crate::error::HeadError;
use crate::framing::Version;
use crate::syntax;

/// Which of the four forms a request target has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TargetForm {
    /// `/path?query`
    #[default]
    Origin,
    /// `http://host/path?query`
    Absolute,
    /// `host:port`, with CONNECT alone.
    Authority,
    /// `*`, with OPTIONS alone.
    Asterisk,
}

/// Where the parts of a target lie within it.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) form: TargetForm,
    /// The authority that the target itself names.
    pub(crate) authority: Option<(Range<usize>, Authority)>,
    /// Path and query.
    pub(crate) path: PathAndQuery,
}

#[derive(Debug)]
pub(crate) enum PathAndQuery {
    /// A part of the target.
    Within(Range<usize>),
    /// `/`, then this part of the target (a query or nothing): the target's own path is empty.
    Rooted(Range<usize>),
    /// `*`, which an OPTIONS for a whole server is forwarded as (RFC 9112 section 3.2.4).
    Asterisk,
}

pub(crate) fn parse(method: &[u8], version: Version, target: &[u8]) -> Result<Target, HeadError> {
    if !syntax::is_target(target) {
        return Err(HeadError::InvalidTarget);
    }
    let connect = method == b"CONNECT";
    match target {
        // Extended CONNECT (RFC 8441 section 4) has a path.
        [b'/', ..] if !connect || version == Version::Http2 => {
            Ok(Target { form: TargetForm::Origin, authority: None, path: PathAndQuery::Within(0..target.len()) })
        }
        b"*" if method == b"OPTIONS" => {
            Ok(Target { form: TargetForm::Asterisk, authority: None, path: PathAndQuery::Within(0..1) })
        }
        _ if connect => authority_form(target),
        _ => absolute_form(method, target),
    }
}

/// RFC 9112 section 3.2.3: the port is not optional.
fn authority_form(target: &[u8]) -> Result<Target, HeadError> {
    if memchr::memchr(b'@', target).is_some() {
        return Err(HeadError::UserinfoInTarget);
    }
    let authority = authority::parse(target).map_err(|_| HeadError::InvalidTarget)?;
    if authority.port.is_none() {
        return Err(HeadError::InvalidTarget);
    }
    Ok(Target {
        form: TargetForm::Authority,
        authority: Some((0..target.len(), authority)),
        path: PathAndQuery::Rooted(target.len()..target.len()),
    })
}

fn absolute_form(method: &[u8], target: &[u8]) -> Result<Target, HeadError> {
    let start = after_scheme(target).ok_or(HeadError::InvalidTarget)?;
    let end = memchr::memchr2(b'/', b'?', &target[start..]).map_or(target.len(), |n| start + n);
    let authority = &target[start..end];
    if memchr::memchr(b'@', authority).is_some() {
        return Err(HeadError::UserinfoInTarget);
    }
    let authority = authority::parse(authority)?;
    let path = match target.get(end) {
        Some(b'/') => PathAndQuery::Within(end..target.len()),
        None if method == b"OPTIONS" => PathAndQuery::Asterisk,
        _ => PathAndQuery::Rooted(end..target.len()),
    };
    Ok(Target { form: TargetForm::Absolute, authority: Some((start..end, authority)), path })
}

/// Schemes are compared without regard to case (RFC 3986 section 3.1). A gateway is the origin of these two alone.
fn after_scheme(target: &[u8]) -> Option<usize> {
    [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
        .map(<[u8]>::len)
}
