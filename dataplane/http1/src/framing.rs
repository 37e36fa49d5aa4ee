//! What the fields of a head say about its body and its connection.

use crate::error::HeadError;
use crate::field::FieldName;
use crate::head::Head;
use crate::syntax;

/// The version of HTTP that a message was sent in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
    /// HTTP/2: such a head is built with `begin`, never parsed here.
    Http2,
}

/// How the length of a body is determined (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Framing {
    /// There is no body.
    #[default]
    None,
    /// This many bytes.
    Length(u64),
    /// The chunked transfer coding. In an HTTP/2 head: a body of unknown length.
    Chunked,
    /// All that comes until the connection closes; responses only.
    UntilClose,
}

impl Framing {
    /// Whether no body bytes can follow.
    pub fn is_empty(self) -> bool {
        matches!(self, Self::None | Self::Length(0))
    }
}

/// What Content-Length and Transfer-Encoding claim, checked.
pub(crate) fn claimed(head: &Head, version: Version) -> Result<Option<Framing>, HeadError> {
    let coded = head.has(FieldName::TransferEncoding);
    if coded && version == Version::Http2 {
        return Err(HeadError::ConnectionFieldInHttp2);
    }
    if coded && head.has(FieldName::ContentLength) {
        return Err(HeadError::ContentLengthAndTransferEncoding);
    }
    if !coded {
        return Ok(content_length(head)?.map(Framing::Length));
    }
    if version == Version::Http10 {
        return Err(HeadError::TransferEncodingInHttp10);
    }
    check_chunked(head)?;
    Ok(Some(Framing::Chunked))
}

fn content_length(head: &Head) -> Result<Option<u64>, HeadError> {
    let mut values = head.values(FieldName::ContentLength);
    let Some(first) = values.next() else {
        return Ok(None);
    };
    let first = syntax::decimal(first).ok_or(HeadError::BadContentLength)?;
    let mut repeated = false;
    for value in values {
        if syntax::decimal(value).ok_or(HeadError::BadContentLength)? != first {
            return Err(HeadError::DifferingContentLengths);
        }
        repeated = true;
    }
    if repeated {
        return Err(HeadError::RepeatedContentLength);
    }
    Ok(Some(first))
}

/// One field with the one word `chunked` passes; the rest is told apart only to name it.
fn check_chunked(head: &Head) -> Result<(), HeadError> {
    let mut values = head.values(FieldName::TransferEncoding);
    let only = values.next().unwrap_or_default();
    if values.next().is_none() && only.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let (mut chunked, mut misplaced, mut others) = (false, false, false);
    for coding in head.values(FieldName::TransferEncoding).flat_map(syntax::list) {
        if !syntax::is_token(coding) {
            return Err(HeadError::BadTransferEncoding);
        }
        misplaced |= chunked;
        if coding.eq_ignore_ascii_case(b"chunked") {
            chunked = true;
        } else {
            others = true;
        }
    }
    if misplaced || !others {
        return Err(HeadError::BadTransferEncoding);
    }
    Err(HeadError::UnsupportedTransferEncoding)
}

/// The options of the Connection field (RFC 9110 section 7.6.1) that a codec must know.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ConnectionOptions {
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    pub(crate) upgrade: bool,
}

impl ConnectionOptions {
    pub(crate) fn of(head: &Head) -> Result<Self, HeadError> {
        let mut options = Self::default();
        for option in head.values(FieldName::Connection).flat_map(syntax::list) {
            if !syntax::is_token(option) {
                return Err(HeadError::BadConnection);
            }
            match FieldName::of(option) {
                FieldName::KeepAlive => options.keep_alive = true,
                FieldName::Upgrade => options.upgrade = true,
                FieldName::Other if option.eq_ignore_ascii_case(b"close") => options.close = true,
                // Naming these would take from the message what says where it goes and where it ends.
                FieldName::Host | FieldName::ContentLength => return Err(HeadError::BadConnection),
                _ => {}
            }
        }
        Ok(options)
    }

    /// RFC 9112 section 9.3.
    pub(crate) fn keep_alive(self, version: Version) -> bool {
        match version {
            Version::Http10 => self.keep_alive && !self.close,
            Version::Http11 => !self.close,
            Version::Http2 => true,
        }
    }
}

/// Whether the Connection field lists `name`.
pub(crate) fn is_connection_option(head: &Head, name: &[u8]) -> bool {
    head.values(FieldName::Connection).flat_map(syntax::list).any(|option| option.eq_ignore_ascii_case(name))
}

/// Whether TE lists `trailers` (RFC 9110 section 10.1.4).
pub(crate) fn te_trailers(head: &Head) -> bool {
    head.values(FieldName::Te).flat_map(syntax::list).any(|member| member.eq_ignore_ascii_case(b"trailers"))
}

/// The Upgrade value, where Connection asks for it and the version has it (RFC 9110 section 7.8).
pub(crate) fn has_upgrade(head: &Head, options: ConnectionOptions, version: Version) -> bool {
    version == Version::Http11
        && options.upgrade
        && head.value(FieldName::Upgrade).is_some_and(|value| !value.is_empty())
}

/// RFC 9113 section 8.2.2.
pub(crate) fn check_http2(head: &Head) -> Result<(), HeadError> {
    let connection_specific = [
        FieldName::Connection,
        FieldName::KeepAlive,
        FieldName::ProxyConnection,
        FieldName::TransferEncoding,
        FieldName::Upgrade,
    ];
    let te_is_foreign = head.values(FieldName::Te).any(|value| !value.eq_ignore_ascii_case(b"trailers"));
    if head.has_any(&connection_specific) || te_is_foreign {
        return Err(HeadError::ConnectionFieldInHttp2);
    }
    Ok(())
}
