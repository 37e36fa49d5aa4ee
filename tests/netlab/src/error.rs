//! What can go wrong, and what to do about it.

use std::io;
use std::time::Duration;

use rustix::io::Errno;

/// Why the laboratory could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A name that cannot be one of a namespace or an interface, or is taken. The caller picks another.
    #[error("{name:?} cannot be used as {what}: {reason}")]
    Name {
        /// What was to be named.
        what: &'static str,
        /// The name that was given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An address that is not written as `address/prefix length`.
    #[error("{0:?} is not an address with a prefix length, such as 192.0.2.1/24 or 2001:db8::1/64")]
    Prefix(String),
    /// The kernel refused a request over netlink.
    #[error("{what}: {source} (is this root, with CAP_NET_ADMIN?)")]
    Netlink {
        /// What was asked for.
        what: String,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The interface is not there.
    #[error("{namespace} has no interface {interface:?}")]
    NoInterface {
        /// The namespace that was looked into.
        namespace: String,
        /// The name that was looked for.
        interface: String,
    },
    /// A host that was named is not attached to the bridge.
    #[error("{host} has no port at the bridge {bridge}: attach it first")]
    NoPort {
        /// The bridge.
        bridge: String,
        /// The host.
        host: String,
    },
    /// A packet program was not loaded or not attached.
    #[error(
        "packet program {program}: {reason} (is this root, with CAP_BPF, on a kernel with native XDP for veth and tcx, 6.6 or newer?)"
    )]
    Program {
        /// The name of the program.
        program: String,
        /// What the loader said, with the verifier's words.
        reason: String,
    },
    /// The other side did not answer in time.
    #[error("{what}: nothing within {waited:?}")]
    Silence {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
    },
    /// The other side answered something else than it should.
    #[error("{what}: got {got}")]
    Unexpected {
        /// What was asked.
        what: String,
        /// What came.
        got: String,
    },
}

impl LabError {
    /// Whether the kernel refused it for want of rights, as containers do to their root.
    pub fn is_denied(&self) -> bool {
        let denied = [Errno::PERM, Errno::ACCESS, Errno::ROFS];
        match self {
            Self::Netlink { source: rtnetlink::Error::NetlinkError(error), .. } => {
                denied.iter().any(|errno| error.raw_code() == -errno.raw_os_error())
            }
            Self::System { source, .. } => Errno::from_io_error(source).is_some_and(|errno| denied.contains(&errno)),
            _ => false,
        }
    }

    /// For `map_err`: says what was tried.
    pub(crate) fn system<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::System { what: what.into(), source: source.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_rights_is_told_from_other_failures() {
        let failed = |errno: Errno| LabError::System { what: "trying".to_owned(), source: errno.into() };
        assert!(failed(Errno::PERM).is_denied() && failed(Errno::ROFS).is_denied());
        assert!(!failed(Errno::NOENT).is_denied() && !LabError::Prefix("x".to_owned()).is_denied());
    }
}
