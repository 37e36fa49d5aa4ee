//! Field names that are resolved once, when a field is read, so that everything after is a match on an id.

use std::fmt;

use crate::syntax;

macro_rules! known_fields {
    ($($variant:ident = $text:literal,)*) => {
        /// The name of a field, where it is one that a gateway treats by name; everything else is [`FieldName::Other`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        #[repr(u8)]
        pub enum FieldName {
            $(#[doc = concat!("`", $text, "`")] $variant,)*
            /// A name that is none of the above.
            Other,
        }

        const KNOWN: &[(FieldName, &str)] = &[$((FieldName::$variant, $text),)*];
    };
}

known_fields! {
    Host = "host",
    Connection = "connection",
    KeepAlive = "keep-alive",
    ProxyConnection = "proxy-connection",
    TransferEncoding = "transfer-encoding",
    Te = "te",
    Trailer = "trailer",
    Upgrade = "upgrade",
    ContentLength = "content-length",
    ContentType = "content-type",
    ContentEncoding = "content-encoding",
    ContentRange = "content-range",
    Expect = "expect",
    XForwardedFor = "x-forwarded-for",
    XForwardedProto = "x-forwarded-proto",
    XForwardedHost = "x-forwarded-host",
    XForwardedPort = "x-forwarded-port",
    XForwardedPrefix = "x-forwarded-prefix",
    XForwardedScheme = "x-forwarded-scheme",
    XForwardedServer = "x-forwarded-server",
    XForwardedSsl = "x-forwarded-ssl",
    XOriginalForwardedFor = "x-original-forwarded-for",
    XOriginalUrl = "x-original-url",
    XRewriteUrl = "x-rewrite-url",
    XRealIp = "x-real-ip",
    XRequestId = "x-request-id",
    XScheme = "x-scheme",
    Forwarded = "forwarded",
    Via = "via",
    Proxy = "proxy",
    ProxyAuthenticate = "proxy-authenticate",
    ProxyAuthorization = "proxy-authorization",
    WwwAuthenticate = "www-authenticate",
    Authorization = "authorization",
    Http2Settings = "http2-settings",
    SecWebsocketKey = "sec-websocket-key",
    SecWebsocketVersion = "sec-websocket-version",
    SecWebsocketAccept = "sec-websocket-accept",
    SecWebsocketProtocol = "sec-websocket-protocol",
    SecWebsocketExtensions = "sec-websocket-extensions",
    Date = "date",
    Server = "server",
    Location = "location",
    Refresh = "refresh",
    SetCookie = "set-cookie",
    Cookie = "cookie",
    Accept = "accept",
    AcceptEncoding = "accept-encoding",
    AcceptLanguage = "accept-language",
    UserAgent = "user-agent",
    Origin = "origin",
    Referer = "referer",
    CacheControl = "cache-control",
    Pragma = "pragma",
    Age = "age",
    Expires = "expires",
    Etag = "etag",
    LastModified = "last-modified",
    Vary = "vary",
    Range = "range",
    IfMatch = "if-match",
    IfNoneMatch = "if-none-match",
    IfModifiedSince = "if-modified-since",
    IfUnmodifiedSince = "if-unmodified-since",
    IfRange = "if-range",
    MaxForwards = "max-forwards",
    RetryAfter = "retry-after",
    StrictTransportSecurity = "strict-transport-security",
    AltSvc = "alt-svc",
    Traceparent = "traceparent",
    Tracestate = "tracestate",
    Baggage = "baggage",
    B3 = "b3",
    GrpcTimeout = "grpc-timeout",
    GrpcEncoding = "grpc-encoding",
    GrpcStatus = "grpc-status",
    GrpcMessage = "grpc-message",
}

impl FieldName {
    /// Every known name, in the order of declaration.
    pub fn known() -> impl Iterator<Item = Self> {
        KNOWN.iter().map(|(id, _)| *id)
    }

    /// Resolves a name, without regard to case. One hash of four bytes and one comparison.
    #[inline]
    pub fn of(name: &[u8]) -> Self {
        if name.len() < 2 {
            return Self::Other;
        }
        match KNOWN.get(usize::from(SLOTS[slot(name)])) {
            Some((id, text)) if syntax::is_name(name, text.as_bytes()) => *id,
            _ => Self::Other,
        }
    }

    /// The name in its canonical, lower-case form; `None` for [`FieldName::Other`].
    pub fn as_str(self) -> Option<&'static str> {
        KNOWN.get(self as usize).map(|(_, text)| *text)
    }

    /// Whether the field speaks of the connection alone and is never forwarded, whatever `Connection` lists
    /// (RFC 9110 section 7.6.1, RFC 9113 section 8.2.2).
    pub fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::TransferEncoding
                | Self::Te
                | Self::Upgrade
                | Self::Http2Settings
        )
    }

    /// The known field that `name` turns into at a backend that maps `_` to `-` (CGI, WSGI, PHP), where it is not that
    /// field already. Such a field slips past every rule for the known one, so a gateway drops it.
    pub fn disguised(name: &[u8]) -> Option<Self> {
        if memchr::memchr(b'_', name).is_none() || name.len() > LONGEST {
            return None;
        }
        let mut plain = [0; LONGEST];
        let plain = &mut plain[..name.len()];
        for (to, from) in plain.iter_mut().zip(name) {
            *to = if *from == b'_' { b'-' } else { *from };
        }
        Some(Self::of(plain)).filter(|id| *id != Self::Other)
    }

    /// The bit of this name in a set of names.
    #[inline]
    pub(crate) fn bit(self) -> u128 {
        1 << (self as u32)
    }
}

/// One field line of a head or of trailers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name, resolved.
    pub id: FieldName,
    /// The name as received, in the sender's spelling.
    pub name: &'a [u8],
    /// The value without leading and trailing white space. Bytes from 0x80 up may occur (`obs-text`).
    pub value: &'a [u8],
}

impl<'a> Field<'a> {
    /// A field from its parts. Nothing is checked here; the writers refuse what must not go on the wire.
    pub fn new(name: &'a [u8], value: &'a [u8]) -> Self {
        Self { id: FieldName::of(name), name, value }
    }
}

impl fmt::Debug for Field<'_> {
    /// Values that are credentials are not printed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = matches!(
            self.id,
            FieldName::Authorization | FieldName::ProxyAuthorization | FieldName::Cookie | FieldName::SetCookie
        );
        write!(f, "{}: ", self.name.escape_ascii())?;
        if secret {
            write!(f, "({} bytes not shown)", self.value.len())
        } else {
            write!(f, "{}", self.value.escape_ascii())
        }
    }
}

const SLOT_BITS: u32 = 9;
const EMPTY: u8 = u8::MAX;

/// A perfect hash of the known names, proved so when it is compiled: a collision stops the build, and then another odd
/// multiplier has to be found for [`slot`].
const SLOTS: [u8; 1 << SLOT_BITS] = {
    let mut slots = [EMPTY; 1 << SLOT_BITS];
    let mut i = 0;
    while i < KNOWN.len() {
        let slot = slot(KNOWN[i].1.as_bytes());
        assert!(slots[slot] == EMPTY, "two known field names share a slot");
        slots[slot] = i as u8;
        i += 1;
    }
    assert!(KNOWN.len() < 127, "sets of names are 128 bits wide");
    slots
};

const LONGEST: usize = {
    let (mut longest, mut i) = (0, 0);
    while i < KNOWN.len() {
        if KNOWN[i].1.len() > longest {
            longest = KNOWN[i].1.len();
        }
        i += 1;
    }
    longest
};

/// Length, first byte and last two bytes tell all known names apart. `name` has at least two bytes.
#[inline]
const fn slot(name: &[u8]) -> usize {
    let n = name.len();
    let key = (n as u32 & 0xff)
        | ((name[0] | 0x20) as u32) << 8
        | ((name[n - 2] | 0x20) as u32) << 16
        | ((name[n - 1] | 0x20) as u32) << 24;
    (key.wrapping_mul(0xf5c7_b9ab) >> (32 - SLOT_BITS)) as usize
}
