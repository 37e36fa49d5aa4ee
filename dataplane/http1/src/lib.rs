//! A strict HTTP/1.1 codec (RFC 9112, RFC 9110): heads, bodies and their serialisation, for both sides of a proxy.
//! It contains no I/O, no clock and no runtime, and it is not a lenient parser: what RFC 9112 forbids is refused by
//! name ([`HeadError`], [`BodyError`]) and never repaired, so that two parties cannot read one message in two ways.
//!
//! The flow of a message: bytes that the caller has read → [`RequestHead::parse`] or [`ResponseHead::parse`] →
//! [`Framing`] → [`BodyDecoder::decode`] over what follows. The way out is the `write_*` functions, which append to a
//! `Vec<u8>`.
//!
//! Heads own their bytes in one buffer that is kept between messages, so a connection in steady state allocates
//! nothing; `shrink` gives the buffer back while the connection is idle.
//!
//! Where RFC 9112 leaves a choice, this crate chose:
//!
//! - exactly one empty line before a request line is skipped (section 2.2), two are refused;
//! - a `Content-Length` that is repeated is refused even where the values agree;
//! - the only transfer coding is `chunked`, alone and once; HTTP/1.0 messages may not carry one;
//! - host names are unreserved characters, IPv4, or a bracketed IPv6 address; percent-encoding, sub-delimiters, user
//!   information and an empty host are refused;
//! - request targets may hold every visible ASCII character except `#`, because browsers send `|`, `{` and `"` raw;
//! - status codes 100 to 999 are passed on, below 100 is refused; a missing space before an absent reason is accepted;
//! - white space around a chunk size is refused.

#![forbid(unsafe_code)]

mod authority;
mod chunked;
mod error;
mod field;
mod framing;
mod head;
mod limits;
mod request;
mod response;
mod syntax;
mod target;
mod trailers;
mod write;

pub use chunked::{BodyDecoder, Decoded};
pub use error::{BodyError, HeadError};
pub use field::{Field, FieldName};
pub use framing::{Framing, Version};
pub use head::Fields;
pub use limits::HeadLimits;
pub use request::RequestHead;
pub use response::ResponseHead;
pub use target::TargetForm;
pub use trailers::{Trailers, allowed_in_trailers};
pub use write::{
    CHUNK_END, canonical_reason, write_chunk_head, write_field, write_last_chunk, write_own_field, write_request_line,
    write_status_line,
};
