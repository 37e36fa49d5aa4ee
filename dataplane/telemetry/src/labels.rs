//! The closed sets of label values that the request path can choose from.
//!
//! A value is an index into an array of counters while traffic flows and a text only at scrape. The texts are stable:
//! dashboards and alerts use them. Where a set can grow at its source (methods, upstream errors), it has a member that
//! takes the rest.

use std::fmt;

macro_rules! closed_set {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident => $label:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// Every member, in the order of declaration, which is the order of its counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// How many members there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The label value.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                }
            }

            /// Its place in [`Self::ALL`].
            pub const fn index(self) -> usize {
                self as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

pub(crate) use closed_set;

closed_set! {
    /// The protocol that a client speaks.
    Protocol {
        /// HTTP/1.0.
        Http10 => "http/1.0",
        /// HTTP/1.1.
        Http11 => "http/1.1",
        /// HTTP/2, in the clear or over TLS.
        Http2 => "h2",
    }
}

closed_set! {
    /// The method of a request. Clients may send any token (RFC 9110 section 9.1), so what is not listed is `Other`.
    MethodLabel {
        /// GET.
        Get => "GET",
        /// HEAD.
        Head => "HEAD",
        /// POST.
        Post => "POST",
        /// PUT.
        Put => "PUT",
        /// PATCH (RFC 5789).
        Patch => "PATCH",
        /// DELETE.
        Delete => "DELETE",
        /// OPTIONS.
        Options => "OPTIONS",
        /// CONNECT, also the extended form of RFC 8441.
        Connect => "CONNECT",
        /// TRACE.
        Trace => "TRACE",
        /// Any other token, and requests whose method could not be read.
        Other => "other",
    }
}

impl MethodLabel {
    /// The label of a method as received; methods are case-sensitive.
    pub fn from_bytes(method: &[u8]) -> Self {
        match method {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"PATCH" => Self::Patch,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            b"CONNECT" => Self::Connect,
            b"TRACE" => Self::Trace,
            _ => Self::Other,
        }
    }
}

closed_set! {
    /// The kind of socket that a connection was accepted on.
    ListenerKind {
        /// `--http`.
        Http => "http",
        /// `--https`, also where the connection turned out to be passed through.
        Https => "https",
        /// A port of the TCP services ConfigMap.
        Stream => "stream",
    }
}

closed_set! {
    /// Why the gateway itself answered a request or closed a connection: one member per way.
    ///
    /// A response of a backend, whatever its status, is not a fault. The same text stands in the access log.
    FaultReason {
        /// No virtual host, path or default backend takes the request (404).
        NoRoute => "no_route",
        /// The route's backend has no endpoint to send to: Service or endpoints are missing, or nothing is ready (503).
        NoEndpoints => "no_endpoints",
        /// The name of an ExternalName Service could not be resolved (503).
        UpstreamResolve => "upstream_resolve",
        /// Every endpoint tried refused the connection (502).
        ConnectRefused => "connect_refused",
        /// No endpoint tried took the connection within the connect timeout (504).
        ConnectTimeout => "connect_timeout",
        /// An endpoint could not be reached: no route to host, network down (502).
        ConnectUnreachable => "connect_unreachable",
        /// The TLS handshake with an endpoint failed (502).
        UpstreamTls => "upstream_tls",
        /// The endpoint closed or reset the connection before its answer was complete (502, or the response is cut).
        UpstreamReset => "upstream_reset",
        /// The endpoint was silent for longer than the read timeout (504, or the response is cut).
        UpstreamReadTimeout => "upstream_read_timeout",
        /// The endpoint took no request bytes for longer than the send timeout (504).
        UpstreamSendTimeout => "upstream_send_timeout",
        /// The endpoint answered with something that is not HTTP, or with a head over the limits (502).
        UpstreamBadResponse => "upstream_bad_response",
        /// The request is not valid HTTP (400); the log has the codec's reason.
        BadRequest => "bad_request",
        /// The request's head or body did not arrive in time (408).
        RequestTimeout => "request_timeout",
        /// The body is larger than the route allows (413).
        BodyTooLarge => "body_too_large",
        /// The request target is longer than the limit (414).
        UriTooLong => "uri_too_long",
        /// The head has more bytes or fields than the limits (431).
        HeaderTooLarge => "header_too_large",
        /// The worker has as many connections as it may have (503, or closed on accept).
        TooManyConnections => "too_many_connections",
        /// The HTTP/2 client opened more streams than it was granted (the stream is refused).
        TooManyStreams => "too_many_streams",
        /// The HTTP/2 client reset streams faster than the budget (GOAWAY; CVE-2023-44487).
        RapidReset => "rapid_reset",
        /// Host and SNI belong to different TLS settings (421, RFC 9110 section 15.5.20).
        Misdirected => "misdirected",
        /// A rule of the route forbids the request (403).
        Denied => "denied",
        /// The route asks for something that is not implemented and fails closed (503); `explain` has the reason.
        RouteNotServed => "route_not_served",
        /// The method is one that is not served here, CONNECT to another host or TRACE (405).
        MethodNotAllowed => "method_not_allowed",
        /// The client went before the answer was complete (nothing can be answered; logged as 499).
        ClientClosed => "client_closed",
        /// The client took no response bytes for longer than the send timeout (closed).
        ClientSendTimeout => "client_send_timeout",
        /// An upgrade that the gateway does not pass on or that the route forbids (400, 403 or 501).
        UpgradeRefused => "upgrade_refused",
        /// An expectation other than `100-continue` (417, RFC 9110 section 10.1.1).
        ExpectationFailed => "expectation_failed",
        /// The gateway is shutting down (503, or the connection is closed at the drain deadline).
        Draining => "draining",
        /// Something that HTTP allows and this gateway does not do: an unknown transfer coding or HTTP version (501, 505).
        Unsupported => "unsupported",
        /// The connection does not begin with the PROXY protocol header that its listener demands (closed).
        ProxyProtocol => "proxy_protocol",
        /// The gateway has no file descriptor, memory or buffer left for the request (503).
        Overloaded => "overloaded",
        /// A fault of the gateway itself (500).
        Internal => "internal",
    }
}

closed_set! {
    /// The limits that a client or a backend can run into, by the name of the setting.
    LimitName {
        /// Bytes of a request head (431).
        HeaderBytes => "header_bytes",
        /// Fields of a request head (431).
        HeaderCount => "header_count",
        /// Bytes of the request target (414).
        UriLength => "uri_length",
        /// Time until a request head is complete (408).
        HeaderTimeout => "header_timeout",
        /// Time between two reads of a request body (408).
        BodyTimeout => "body_timeout",
        /// Time that a connection may be idle between requests (closed).
        IdleTimeout => "idle_timeout",
        /// Bytes of a request body (413).
        BodySize => "body_size",
        /// Time that a client may take no response bytes (closed).
        ClientSendTimeout => "client_send_timeout",
        /// Time for a TLS handshake with a client (closed).
        TlsHandshakeTimeout => "tls_handshake_timeout",
        /// Concurrent connections (503 or closed).
        Connections => "connections",
        /// Concurrent HTTP/2 streams of one connection (refused).
        Streams => "streams",
        /// Stream resets of one HTTP/2 connection (GOAWAY).
        Resets => "resets",
        /// Requests on one connection (closed after the answer).
        RequestsPerConnection => "requests_per_connection",
        /// Time to connect to an endpoint (504).
        ConnectTimeout => "connect_timeout",
        /// Time between two reads from an endpoint (504).
        ReadTimeout => "read_timeout",
        /// Time between two writes to an endpoint (504).
        SendTimeout => "send_timeout",
        /// Bytes or fields of a response head (502).
        ResponseHeader => "response_header",
        /// The share of requests that may be retries (the first failure is answered).
        RetryBudget => "retry_budget",
        /// Time that a relayed stream may be silent (closed).
        StreamIdleTimeout => "stream_idle_timeout",
        /// Bytes of a TLS ClientHello or PROXY protocol header (closed).
        Preamble => "preamble",
        /// Time to finish after a shutdown began (cut).
        Drain => "drain",
    }
}

closed_set! {
    /// The version that a TLS handshake with a client agreed on.
    TlsVersion {
        /// TLS 1.2 (RFC 5246).
        Tls12 => "1.2",
        /// TLS 1.3 (RFC 8446).
        Tls13 => "1.3",
    }
}

closed_set! {
    /// Why a TLS handshake with a client failed.
    TlsFailure {
        /// The first bytes are not TLS (plain HTTP on the HTTPS port).
        NotTls => "not_tls",
        /// The ClientHello or a later message is malformed.
        Malformed => "malformed",
        /// No common version, cipher suite or group.
        NoCommonParameters => "no_common_parameters",
        /// No common application protocol (RFC 7301).
        NoCommonAlpn => "no_common_alpn",
        /// The client sent an alert, for example because it does not trust the certificate.
        ClientAlert => "client_alert",
        /// The client closed in the middle.
        ClientClosed => "client_closed",
        /// Not finished in time.
        Timeout => "timeout",
        /// Anything else.
        Other => "other",
    }
}

closed_set! {
    /// What went wrong between the gateway and an endpoint, counted per attempt; a retry may hide it from the client.
    UpstreamError {
        /// The endpoint refused the connection.
        Refused => "refused",
        /// The connection was not established in time.
        ConnectTimeout => "connect_timeout",
        /// No route to the endpoint.
        Unreachable => "unreachable",
        /// The TLS handshake failed.
        Tls => "tls",
        /// A name was not resolved.
        Resolve => "resolve",
        /// There is no endpoint.
        NoEndpoints => "no_endpoints",
        /// The gateway has no file descriptor left.
        TooManyFiles => "too_many_files",
        /// The endpoint closed or reset the connection or the stream.
        Reset => "reset",
        /// A reused connection was closed by the endpoint before the request reached it.
        Stale => "stale",
        /// Nothing was read in time.
        ReadTimeout => "read_timeout",
        /// Nothing was written in time.
        SendTimeout => "send_timeout",
        /// The answer is not valid HTTP.
        BadResponse => "bad_response",
        /// Anything else.
        Other => "other",
    }
}

impl UpstreamError {
    /// The member with this label; a text that is no label is [`Self::Other`].
    pub fn from_label(label: &str) -> Self {
        match label {
            "timeout" => Self::ConnectTimeout,
            _ => Self::ALL.iter().copied().find(|error| error.as_str() == label).unwrap_or(Self::Other),
        }
    }
}

closed_set! {
    /// What a relayed stream is.
    StreamKind {
        /// TLS that is passed through by SNI.
        Passthrough => "passthrough",
        /// A port of the TCP services ConfigMap.
        TcpService => "tcp_service",
    }
}

closed_set! {
    /// How a relayed stream ended.
    StreamEnd {
        /// The client closed first.
        ClientClosed => "client_closed",
        /// The backend closed first.
        BackendClosed => "backend_closed",
        /// The client reset the connection.
        ClientReset => "client_reset",
        /// The backend reset the connection.
        BackendReset => "backend_reset",
        /// Nothing moved for the idle timeout.
        IdleTimeout => "idle_timeout",
        /// There was no endpoint to relay to.
        NoEndpoints => "no_endpoints",
        /// No endpoint took the connection.
        ConnectFailed => "connect_failed",
        /// Cut at the drain deadline.
        Drained => "drained",
        /// Any other error.
        Error => "error",
    }
}

closed_set! {
    /// What a connection or stream was upgraded to.
    UpgradeKind {
        /// WebSocket on HTTP/1.1 (RFC 6455).
        WebSocket => "websocket",
        /// WebSocket by extended CONNECT on HTTP/2 (RFC 8441).
        WebSocketHttp2 => "websocket_h2",
        /// Any other protocol (RFC 9110 section 7.8).
        Other => "other",
    }
}
closed_set! {
    /// What a webhook said of an object.
    ReviewEnd {
        /// It may be written.
        Allowed => "allowed",
        /// It may not.
        Refused => "refused",
        /// It may be written, and nobody has looked: the gateway is not ready to, or too busy.
        Unchecked => "unchecked",
        /// What was asked is no review.
        Malformed => "malformed",
    }
}
