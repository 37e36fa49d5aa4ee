//! One request and what became of it, the same for every protocol. It contains no I/O.

use thiserror::Error;

/// A request that was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// When it was meant to begin, in ns of the run's clock: latency counts from here.
    pub intended: u64,
    /// When it did begin.
    pub started: u64,
    /// Whether it counts: it was meant to begin after the warm-up.
    pub counted: bool,
    /// Which target it asks.
    pub target: usize,
}

/// A request that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The request.
    pub begun: Begun,
    /// A whole answer, or why there is none.
    pub verdict: Result<Answer, Fault>,
}

/// A whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status; 0 where the protocol has none.
    pub status: u16,
    /// Bytes of its body.
    pub body: u64,
}

/// Why a request has no answer, or not the right one. The text is the kind under which it is counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum Fault {
    /// Nobody listens.
    #[error("connection refused")]
    Refused,
    /// The making of the connection took longer than the timeout.
    #[error("no connection in time")]
    NotConnected,
    /// This host has no free port left for the server's address.
    #[error("no free local port (too many connections were closed in the last minute)")]
    NoPort,
    /// This process may not have more open files.
    #[error("too many open files (raise ulimit -n)")]
    NoDescriptor,
    /// Another error of a socket.
    #[error("socket: {0}")]
    Socket(String),
    /// The server closed before the first byte of the answer.
    #[error("closed before the answer")]
    Closed,
    /// The server closed inside the answer.
    #[error("closed inside the answer")]
    Truncated,
    /// The server reset the connection.
    #[error("connection reset")]
    Reset,
    /// What came is not the protocol.
    #[error("malformed answer: {0}")]
    Malformed(&'static str),
    /// Bytes came for which nobody asked.
    #[error("bytes after the answer")]
    Unasked,
    /// The body has another length than the plan demands.
    #[error("body of another length")]
    WrongLength,
    /// The answer took longer than the timeout.
    #[error("no answer in time")]
    TimedOut,
    /// TLS, by what it says.
    #[error("TLS: {0}")]
    Tls(String),
    /// The server does not speak the protocol over TLS.
    #[error("the server chose another protocol by ALPN")]
    Alpn,
    /// The server made a full handshake where a ticket was offered.
    #[error("not resumed")]
    NotResumed,
    /// The server gave no ticket, so that nothing can be resumed.
    #[error("no session ticket in time")]
    NoTicket,
    /// HTTP/2: the server reset the stream, by RFC 9113's code.
    #[error("stream reset: {}", error_code(*.0))]
    StreamReset(u32),
    /// HTTP/2: the server ended the connection before it took the request.
    #[error("connection ended: {}", error_code(*.0))]
    GoneAway(u32),
    /// gRPC: a status that is not OK.
    #[error("grpc-status {0}")]
    GrpcStatus(u32),
    /// gRPC: an answer without a status.
    #[error("no grpc-status")]
    NoGrpcStatus,
    /// WebSocket: the server did not upgrade.
    #[error("not upgraded: status {0}")]
    NotUpgraded(u16),
    /// WebSocket: an echo that differs from what was sent.
    #[error("another message than was sent")]
    WrongEcho,
    /// WebSocket: the server closed the conversation.
    #[error("closed by a close frame")]
    CloseFrame,
    /// Due, and never begun: every connection was taken until the end.
    #[error("never begun (no free connection)")]
    NeverBegun,
}

impl From<rustix::io::Errno> for Fault {
    fn from(errno: rustix::io::Errno) -> Self {
        use rustix::io::Errno;
        match errno {
            Errno::CONNREFUSED => Self::Refused,
            Errno::CONNRESET | Errno::PIPE => Self::Reset,
            Errno::TIMEDOUT => Self::NotConnected,
            Errno::ADDRNOTAVAIL => Self::NoPort,
            Errno::MFILE | Errno::NFILE => Self::NoDescriptor,
            other => Self::Socket(other.to_string()),
        }
    }
}

impl From<rustls::Error> for Fault {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol) => Self::Alpn,
            other => Self::Tls(other.to_string()),
        }
    }
}

/// RFC 9113, 7.
fn error_code(code: u32) -> &'static str {
    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    NAMES.get(code as usize).copied().unwrap_or("unknown code")
}
