//! Why a probe did not succeed, and whose fault that is.

use rustix::io::Errno;
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Why a probe did not succeed. The texts are short: they stand in a column of `vips`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Failure {
    /// The time for one answer was over.
    #[error("timed out after {} {step}", Seconds(*.after))]
    TimedOut {
        /// The timeout of the check.
        after: Duration,
        /// What it was at.
        step: Step,
    },
    /// A TCP reset to a SYN, or an ICMP port-unreachable.
    #[error("connection refused")]
    Refused,
    /// A TCP reset later on.
    #[error("connection reset {0}")]
    Reset(Step),
    /// The connection ended before the answer was complete.
    #[error("connection closed {0}")]
    Closed(Step),
    /// An ICMP error said so, or (with [`Way::Direct`](crate::Way::Direct)) there is no route to the real server.
    #[error("unreachable: {0}")]
    Unreachable(Arc<str>),
    /// The status of an HTTP answer, not 200 to 399.
    #[error("HTTP {0}")]
    HttpStatus(u16),
    /// The answer is not HTTP/1.0 or HTTP/1.1.
    #[error("the answer is not HTTP/1")]
    NotHttp,
    /// More heads or a longer one than any real answer has.
    #[error("HTTP head of more than {0} bytes")]
    HeadTooLong(usize),
    /// What the TLS library says.
    #[error("TLS: {0}")]
    Tls(Arc<str>),
    /// What the HTTP/2 library says.
    #[error("HTTP/2: {0}")]
    Http2(Arc<str>),
    /// `grpc-status` of the answer.
    #[error("gRPC status {0} ({name})", name = grpc_name(*.0))]
    GrpcStatus(u32),
    /// The answer is not one of gRPC: which part is wrong.
    #[error("not a gRPC answer: {0}")]
    NotGrpc(&'static str),
    /// The health service answered something other than SERVING.
    #[error("gRPC health: {0}")]
    NotServing(&'static str),
    /// Another error of the connection.
    #[error("{0} {1}")]
    Other(Arc<str>, Step),

    /// No probe of this process has been answered yet, and a process before it found the real server dead.
    #[error("failed before this process started")]
    Before,

    /// This machine could not send the probe: the real server is not to blame, and the verdict stays.
    #[error("not probed: {0}")]
    Local(Arc<str>),
}

/// What a probe was at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Waiting for the TCP handshake.
    Connecting,
    /// In the TLS handshake.
    Handshaking,
    /// Sending the question, waiting for the answer and reading it.
    Answer,
}

impl Failure {
    /// This machine could not send the probe: it says nothing about the real server.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// What the network or the real server did to a socket at `step`.
    pub(crate) fn remote(error: &io::Error, step: Step) -> Self {
        // The network never says these: a firewall of this machine, or its memory.
        if let Some(Errno::PERM | Errno::NOBUFS | Errno::NOMEM) = Errno::from_io_error(error) {
            return Self::local("cannot send", error);
        }
        // By kind, not by number: the HTTP/2 library keeps only that of the errors it passes on.
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => Self::Reset(step),
            ErrorKind::UnexpectedEof => Self::Closed(step),
            ErrorKind::HostUnreachable => Self::Unreachable("no route to host".into()),
            ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => Self::Unreachable("no route to network".into()),
            ErrorKind::PermissionDenied => Self::Unreachable("administratively prohibited".into()),
            ErrorKind::TimedOut => Self::Unreachable("no answer from the network".into()),
            _ => Self::Other(error.to_string().into(), step),
        }
    }

    /// What this machine says before a packet has left it.
    pub(crate) fn local(doing: &str, error: &io::Error) -> Self {
        let advice = match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE) => "; raise the limit of open files or lower the number of checks",
            Some(Errno::PERM | Errno::ACCESS) => "; the process needs CAP_NET_ADMIN, or a firewall forbids it",
            Some(Errno::ADDRNOTAVAIL) => "; widen net.ipv4.ip_local_port_range or lengthen the interval",
            Some(Errno::NETUNREACH | Errno::HOSTUNREACH) => {
                "; this machine needs a route to the VIP, the default one will do"
            }
            _ => "",
        };
        Self::Local(format!("{doing}: {error}{advice}").into())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "while connecting",
            Self::Handshaking => "in the TLS handshake",
            Self::Answer => "before the answer",
        })
    }
}

/// A duration in the unit that fits.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.subsec_millis() {
            0 if self.0.as_secs() > 0 => write!(f, "{} s", self.0.as_secs()),
            _ => write!(f, "{} ms", self.0.as_millis()),
        }
    }
}

/// Names of the status codes in the gRPC specification.
fn grpc_name(code: u32) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    usize::try_from(code).ok().and_then(|code| NAMES.get(code)).copied().unwrap_or("unknown code")
}
