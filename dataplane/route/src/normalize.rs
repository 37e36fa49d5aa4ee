//! The form of a path in which it is compared with routes.
//!
//! - `strict`: RFC 3986 section 6.2.2. Escapes of unreserved characters are decoded, the hex digits of all others are
//!   upper case, dot segments are resolved. An encoded slash stays data and slashes are not merged. A byte that
//!   no URI may hold is escaped (as RFC 3987 section 3.1 maps an IRI), so `/café` in a manifest is what
//!   clients send as `/caf%C3%A9`.
//! - `nginx`: everything is decoded once, then slashes are merged and dot segments resolved; an encoded slash or dot
//!   counts as one.
//!
//! Most paths are already in that form: one pass over the bytes finds out, and nothing is copied.

use sluicegate_config::Dialect;
use smallvec::SmallVec;

/// Why a path is nothing that routes can be compared with. Such a request gets 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BadPath {
    /// It does not begin with `/` (and is neither empty nor `*`).
    NotAbsolute,
    /// Its dot segments climb above the root.
    AboveRoot,
    /// A `%` without two hexadecimal digits behind it (RFC 3986 section 2.1).
    Escape,
    /// A NUL, escaped or not.
    Nul,
    /// A regular expression with look-around or back-references needed more steps for it than it is given.
    Costly,
}

impl std::fmt::Display for BadPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotAbsolute => "the path does not begin with /",
            Self::AboveRoot => "the path's dot segments climb above the root",
            Self::Escape => "the path has a % without two hexadecimal digits",
            Self::Nul => "the path has a NUL",
            Self::Costly => "a regular expression needs too many steps for the path",
        })
    }
}

/// Where a path is built that was not in normal form. It lives on the stack unless the path is long.
pub(crate) type Scratch = SmallVec<[u8; 256]>;

/// The path in the dialect's normal form: `raw` itself where it is that already, else built in `scratch`.
///
/// The empty path is `/` (RFC 3986 section 6.2.3). `*` (of `OPTIONS *`) stays as it is.
#[inline]
pub(crate) fn normalize<'a>(dialect: Dialect, raw: &'a [u8], scratch: &'a mut Scratch) -> Result<&'a [u8], BadPath> {
    match raw.first() {
        Some(b'/') if is_normal(dialect, raw) => Ok(raw),
        Some(b'/') => {
            build(dialect, raw, scratch)?;
            Ok(scratch)
        }
        None => Ok(b"/"),
        Some(b'*') if raw.len() == 1 => Ok(raw),
        Some(_) => Err(BadPath::NotAbsolute),
    }
}

/// A literal path of a manifest in the form that request paths are brought to.
///
/// The nginx dialect compares it as it is written. In the strict dialect a `%` that begins no escape stands for itself;
/// a path that climbs above the root is kept and matches nothing.
pub(crate) fn normalize_literal(dialect: Dialect, text: &str) -> Vec<u8> {
    if dialect == Dialect::Nginx || !text.starts_with('/') {
        return text.as_bytes().to_vec();
    }
    let mut escaped = Vec::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        if byte == b'%' && !begins_escape(&text.as_bytes()[at..]) {
            push_escaped(byte, &mut escaped)
        } else {
            escaped.push(byte)
        }
    }
    let mut scratch = Scratch::new();
    normalize(dialect, &escaped, &mut scratch).map_or_else(|_| text.as_bytes().to_vec(), <[u8]>::to_vec)
}

/// True for `%` and two hexadecimal digits (RFC 3986 section 2.1).
pub(crate) fn begins_escape(text: &[u8]) -> bool {
    matches!(text, [b'%', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
}

/// `unreserved` of RFC 3986 section 2.3.
pub(crate) const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What may stand in a path unescaped: `pchar` of RFC 3986 section 3.3 and the slash, without `%`.
pub(crate) const fn is_path_byte(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
        || matches!(byte, b':' | b'@' | b'/')
}

/// Appends `%XX` with upper-case digits.
pub(crate) fn push_escaped(byte: u8, out: &mut impl Extend<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

/// A byte that a normal form does not have.
const SPECIAL: u8 = 1;
/// A byte that may not be normal behind a slash: the dot, and where slashes are merged the slash.
const SUSPECT: u8 = 2;
const SLASH: u8 = 4;

const STRICT_CLASSES: [u8; 256] = classes(true);
const NGINX_CLASSES: [u8; 256] = classes(false);

const fn classes(strict: bool) -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        table[byte] = match b {
            b'/' if strict => SLASH,
            b'/' => SLASH | SUSPECT,
            b'.' => SUSPECT,
            b'%' | 0 => SPECIAL,
            _ if strict && !is_path_byte(b) => SPECIAL,
            _ => 0,
        };
        byte += 1;
    }
    table
}

#[inline]
fn is_normal(dialect: Dialect, path: &[u8]) -> bool {
    let classes = match dialect {
        Dialect::Strict => &STRICT_CLASSES,
        Dialect::Nginx => &NGINX_CLASSES,
    };
    // Without a branch on the bytes, which nobody could predict.
    let (found, _) = path.iter().fold((0, 0), |(found, behind_slash), byte| {
        let class = classes[usize::from(*byte)];
        (found | (class & (SPECIAL | behind_slash)), (class & SLASH) / 2)
    });
    found == 0 || (found & SPECIAL == 0 && has_normal_segments(dialect, path))
}

/// Looks closely where a dot or slash follows a slash: `/.well-known` is normal.
#[cold]
fn has_normal_segments(dialect: Dialect, path: &[u8]) -> bool {
    let merges = dialect == Dialect::Nginx;
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    let mut behind = slashes.filter_map(|(at, _)| path.get(at + 1..));
    !behind.any(|rest| begins_with_dot_segment(rest) || (merges && rest.first() == Some(&b'/')))
}

fn begins_with_dot_segment(rest: &[u8]) -> bool {
    matches!(rest, [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..])
}

#[cold]
fn build(dialect: Dialect, raw: &[u8], out: &mut Scratch) -> Result<(), BadPath> {
    out.clear();
    let mut rest = raw.iter().copied();
    while let Some(byte) = rest.next() {
        let escaped = byte == b'%';
        let byte = if escaped { escape(rest.next(), rest.next()).ok_or(BadPath::Escape)? } else { byte };
        if byte == 0 {
            return Err(BadPath::Nul);
        }
        let as_it_is = match dialect {
            Dialect::Nginx => true,
            Dialect::Strict if escaped => is_unreserved(byte),
            Dialect::Strict => is_path_byte(byte),
        };
        if as_it_is { out.push(byte) } else { push_escaped(byte, out) }
    }
    let len = resolve_segments(out, dialect == Dialect::Nginx)?;
    out.truncate(len);
    Ok(())
}

fn escape(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high?)? << 4 | digit(low?)?)
}

/// Resolves `.` and `..` (RFC 3986 section 5.2.4) and merges slashes if asked to, in place. Returns the new length.
///
/// The RFC lets `..` at the root stand for the root; here it is an error, because no honest client sends it.
fn resolve_segments(path: &mut [u8], merge: bool) -> Result<usize, BadPath> {
    let mut read = 0;
    let mut write = 0;
    // `path[read]` is a slash, and what was written is empty or begins with one.
    while read < path.len() {
        let end = path[read + 1..].iter().position(|byte| *byte == b'/').map_or(path.len(), |at| read + 1 + at);
        let last = end == path.len();
        let dots = match &path[read + 1..end] {
            b"." => true,
            b".." => {
                write = path[..write].iter().rposition(|byte| *byte == b'/').ok_or(BadPath::AboveRoot)?;
                true
            }
            b"" if merge && !last => {
                read = end;
                continue;
            }
            _ => false,
        };
        if dots && last {
            path[write] = b'/';
            write += 1;
        } else if !dots {
            path.copy_within(read..end, write);
            write += end - read;
        }
        read = end;
    }
    Ok(write)
}
