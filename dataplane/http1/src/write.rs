//! Serialising: one canonical form of each message, appended to a buffer.
//!
//! Nothing that could end a line early is ever written, wherever it came from: a part that holds such bytes is left out
//! whole, and the function says so.

use crate::field::Field;
use crate::framing::Version;
use crate::syntax;
use crate::trailers::allowed_in_trailers;

/// What follows the data of each chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// Appends a request line. `false`, and nothing appended, where the method is not a token or the target holds anything
/// but visible ASCII, which a rewritten target might.
pub fn write_request_line(out: &mut Vec<u8>, method: &[u8], target: &[u8], version: Version) -> bool {
    if !syntax::is_token(method) || !syntax::is_target(target) {
        return false;
    }
    out.reserve(method.len() + target.len() + 12);
    out.extend_from_slice(method);
    out.push(b' ');
    out.extend_from_slice(target);
    out.push(b' ');
    out.extend_from_slice(version_text(version));
    out.extend_from_slice(b"\r\n");
    true
}

/// Appends a status line; the status is taken modulo 1000. A reason with control characters is left out.
pub fn write_status_line(out: &mut Vec<u8>, status: u16, reason: &[u8], version: Version) {
    let digit = |divisor: u16| b'0' + (status / divisor % 10) as u8;
    out.reserve(reason.len() + 15);
    out.extend_from_slice(version_text(version));
    out.extend_from_slice(&[b' ', digit(100), digit(10), digit(1), b' ']);
    if syntax::is_value(reason) {
        out.extend_from_slice(reason);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends `name: value` and CRLF. `false`, and nothing appended, where the name is not a token or the value holds
/// control characters. The end of the head is one more CRLF, which the caller writes.
pub fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) -> bool {
    if !syntax::is_token(name) || !syntax::is_value(value) {
        return false;
    }
    write_checked(out, name, value);
    true
}

/// As [`write_field`], for a name that is part of the program, a token, and is not looked at again.
pub fn write_own_field(out: &mut Vec<u8>, name: &'static str, value: &[u8]) -> bool {
    debug_assert!(syntax::is_token(name.as_bytes()), "{name:?}");
    if !syntax::is_value(value) {
        return false;
    }
    write_checked(out, name.as_bytes(), value);
    true
}

fn write_checked(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends the line before a chunk of `len` bytes. Nothing for 0, which would end the body:
/// [`write_last_chunk`] does that.
pub fn write_chunk_head(out: &mut Vec<u8>, len: usize) {
    if len == 0 {
        return;
    }
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4);
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[len >> (place * 4) & 0xf]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the end of a chunked body with its trailers. Those that [`allowed_in_trailers`] does not pass, or that
/// [`write_field`] would not write, are left out.
pub fn write_last_chunk<'a>(out: &mut Vec<u8>, trailers: impl Iterator<Item = Field<'a>>) {
    out.extend_from_slice(b"0\r\n");
    for field in trailers.filter(|field| allowed_in_trailers(*field)) {
        write_field(out, field.name, field.value);
    }
    out.extend_from_slice(b"\r\n");
}

/// HTTP/2 messages are written in the form of HTTP/1.1.
fn version_text(version: Version) -> &'static [u8] {
    match version {
        Version::Http10 => b"HTTP/1.0",
        Version::Http11 | Version::Http2 => b"HTTP/1.1",
    }
}

/// The registered reason phrase of a status; empty where there is none.
pub fn canonical_reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        510 => "Not Extended",
        511 => "Network Authentication Required",
        _ => "",
    }
}
