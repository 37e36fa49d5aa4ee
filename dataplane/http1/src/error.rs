//! What a peer did wrong, one variant an offence.

use thiserror::Error;

macro_rules! offences {
    (
        $(#[$meta:meta])*
        $name:ident { $( $(#[$doc:meta])* $variant:ident = $status:literal, $reason:literal, $message:literal; )* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
        #[non_exhaustive]
        pub enum $name {
            $( $(#[$doc])* #[error($message)] $variant, )*
        }

        impl $name {
            /// Every variant, in the order of declaration, so that metrics can register all labels at start.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The status with which a server answers a request that has this fault. A fault in a *response* is the
            /// backend's, and a gateway answers 502 whatever this says.
            pub fn status(&self) -> u16 {
                match self { $( Self::$variant => $status, )* }
            }

            /// A stable `snake_case` label for metrics and logs.
            pub fn reason(&self) -> &'static str {
                match self { $( Self::$variant => $reason, )* }
            }
        }
    };
}

offences! {
    /// Why a message head was refused. After an error the connection cannot be reused: where the next message would
    /// begin is unknown.
    HeadError {
        /// A line ends in LF alone (RFC 9112 section 2.2 allows recipients to take it; that is how heads are smuggled).
        LfWithoutCr = 400, "lf_without_cr", "head: a line ends in LF without CR; end every line with CRLF";
        /// A CR that no LF follows (RFC 9112 section 2.2).
        BareCr = 400, "bare_cr", "head: a CR is not followed by LF; remove it";
        /// A line that begins with white space (RFC 9112 sections 2.2 and 5.2).
        ObsFold = 400, "obs_fold", "head: a line begins with white space; send each field on one line";
        /// A NUL in a field line (RFC 9110 section 5.5).
        NulInField = 400, "nul_in_field", "head: a field line holds a NUL; remove it";
        /// White space between a field name and the colon (RFC 9112 section 5.1).
        SpaceBeforeColon = 400, "space_before_colon", "head: white space before the colon of a field; remove it";
        /// A field line that begins with the colon.
        EmptyName = 400, "empty_name", "head: a field has no name; name it";
        /// A field line without a colon.
        MissingColon = 400, "missing_colon", "head: a field line has no colon; write `name: value`";
        /// A field name that is not a token (RFC 9110 section 5.1), or has upper case letters in HTTP/2.
        InvalidName = 400, "invalid_name", "head: a field name holds a character that is not allowed; use token characters";
        /// A control character in a field value or reason phrase (RFC 9110 section 5.5).
        InvalidValue = 400, "invalid_value", "head: a field value holds a control character; remove it";
        /// No Host in an HTTP/1.1 or HTTP/2 request (RFC 9112 section 3.2).
        MissingHost = 400, "missing_host", "request: no Host field; send one";
        /// More than one Host (RFC 9112 section 3.2).
        MultipleHosts = 400, "multiple_hosts", "request: several Host fields; send one";
        /// A Host or authority that is empty or is not `name[:port]` or `[v6][:port]` (RFC 9112 section 3.2).
        InvalidHost = 400, "invalid_host", "request: the host is not a name or address with an optional port; correct it";
        /// Not `method SP target SP version` (RFC 9112 section 3).
        BadRequestLine = 400, "bad_request_line", "request: the first line is not `method target version` with single spaces";
        /// A method that is not a token of at most 64 bytes (RFC 9110 section 9.1).
        InvalidMethod = 400, "invalid_method", "request: the method is not a token; use letters";
        /// A target of none of the four forms, or with characters that must be percent-encoded (RFC 9112 section 3.2).
        InvalidTarget = 400, "invalid_target", "request: the target is not valid for the method; percent-encode what is not visible ASCII and drop the fragment";
        /// `user@` in the target's authority (RFC 9110 section 4.2.4).
        UserinfoInTarget = 400, "userinfo_in_target", "request: the target holds user information; send an Authorization field instead";
        /// Something else where `HTTP/1.1` should stand (RFC 9112 section 2.3).
        InvalidVersion = 400, "invalid_version", "head: the version is not of the form HTTP/1.1";
        /// A version of HTTP other than 1.0 and 1.1.
        UnsupportedVersion = 505, "unsupported_version", "head: only HTTP/1.0 and HTTP/1.1 are spoken in this form";
        /// Not `version SP status [SP reason]` (RFC 9112 section 4).
        BadStatusLine = 400, "bad_status_line", "response: the first line is not `version status reason`";
        /// A status that is not three digits from 100 to 999 (RFC 9110 section 15).
        InvalidStatus = 400, "invalid_status", "response: the status is not a number from 100 to 999";
        /// Both framings at once (RFC 9112 section 6.1): the sign of request smuggling.
        ContentLengthAndTransferEncoding = 400, "content_length_and_transfer_encoding", "head: both Content-Length and Transfer-Encoding; send one of them";
        /// A Content-Length that is not a plain decimal number of at most 20 digits below 2^64 (RFC 9112 section 6.3).
        BadContentLength = 400, "bad_content_length", "head: Content-Length is not one plain number; correct it";
        /// Several Content-Length fields that disagree, or one that contradicts the framing given by HTTP/2.
        DifferingContentLengths = 400, "differing_content_lengths", "head: Content-Length fields disagree; send one";
        /// Several Content-Length fields that agree.
        RepeatedContentLength = 400, "repeated_content_length", "head: Content-Length is repeated; send it once";
        /// `chunked` that is not last, is repeated or has parameters, or a malformed list (RFC 9112 section 6.1).
        BadTransferEncoding = 400, "bad_transfer_encoding", "head: Transfer-Encoding is malformed; send `chunked` once and alone";
        /// A transfer coding other than `chunked` (RFC 9112 section 6.1).
        UnsupportedTransferEncoding = 501, "unsupported_transfer_encoding", "head: the transfer coding is not implemented; send `chunked` alone";
        /// Transfer-Encoding in an HTTP/1.0 message (RFC 9112 section 6.1).
        TransferEncodingInHttp10 = 400, "transfer_encoding_in_http10", "head: HTTP/1.0 has no Transfer-Encoding; send Content-Length";
        /// Content in CONNECT or TRACE (RFC 9110 sections 9.3.6 and 9.3.8).
        ContentForbidden = 400, "content_forbidden", "request: the method allows no content; send none";
        /// A Connection option that is not a token, or that names Host or Content-Length (RFC 9110 section 7.6.1).
        BadConnection = 400, "bad_connection", "head: Connection names something that is not an option; list hop-by-hop fields alone";
        /// An expectation other than `100-continue` (RFC 9110 section 10.1.1).
        UnsupportedExpectation = 417, "unsupported_expectation", "request: only `Expect: 100-continue` can be met";
        /// A connection-specific field in HTTP/2 (RFC 9113 section 8.2.2).
        ConnectionFieldInHttp2 = 400, "connection_field_in_http2", "head: HTTP/2 allows no connection-specific fields; remove them";
        /// The target exceeds [`HeadLimits::max_target_bytes`](crate::HeadLimits::max_target_bytes).
        TargetTooLong = 414, "target_too_long", "request: the target is longer than the limit";
        /// The head exceeds [`HeadLimits::max_head_bytes`](crate::HeadLimits::max_head_bytes).
        HeadTooLarge = 431, "head_too_large", "head: larger than the limit";
        /// More fields than [`HeadLimits::max_fields`](crate::HeadLimits::max_fields).
        TooManyFields = 431, "too_many_fields", "head: more fields than the limit";
    }
}

offences! {
    /// Why a message body was refused. After an error the connection cannot be reused.
    BodyError {
        /// A chunk size that does not begin with a hexadecimal digit, or goes on with something other than digits, an
        /// extension or CRLF (RFC 9112 section 7.1).
        BadChunkSize = 400, "bad_chunk_size", "body: a chunk size is not a plain hexadecimal number";
        /// A chunk size of more than 16 digits.
        ChunkSizeOverflow = 400, "chunk_size_overflow", "body: a chunk size has more than 16 digits";
        /// A chunk extension outside the grammar of RFC 9112 section 7.1.1.
        BadChunkExtension = 400, "bad_chunk_extension", "body: a chunk extension is malformed; send none";
        /// More than 256 bytes of extension on one chunk, or more extension than data after the first 16 KiB.
        ChunkExtensionTooLong = 400, "chunk_extension_too_long", "body: chunk extensions are longer than the limit; send none";
        /// A chunk-size line, or the end of the body, that ends in something other than CRLF.
        BadChunkLineEnd = 400, "bad_chunk_line_end", "body: a chunk line does not end in CRLF";
        /// Chunk data that is not followed by exactly CRLF (RFC 9112 section 7.1).
        MissingChunkCrlf = 400, "missing_chunk_crlf", "body: chunk data is not followed by CRLF";
        /// A trailer line that would be refused in a head, or one that claims framing (RFC 9110 section 6.5.1).
        BadTrailer = 400, "bad_trailer", "body: a trailer field is malformed or claims framing";
        /// Trailers of more than 16 KiB or 64 fields.
        TrailersTooLarge = 431, "trailers_too_large", "body: trailers are larger than the limit";
        /// The peer closed before the body was complete (RFC 9112 section 8).
        Truncated = 400, "truncated", "body: the connection closed before the body was complete";
    }
}
