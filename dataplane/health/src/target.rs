//! What is checked, and what is known of it.

use crate::failure::Failure;
use sluicegate_config::{HealthCheck, TransportProtocol};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A real server behind one port of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The virtual IP.
    pub vip: IpAddr,
    /// Transport of the service port.
    pub protocol: TransportProtocol,
    /// The service port.
    pub port: u16,
    /// Address of the real server.
    pub real: IpAddr,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vip, protocol, port, real } = self;
        let protocol = match protocol {
            TransportProtocol::Tcp => "TCP",
            TransportProtocol::Udp => "UDP",
            TransportProtocol::Sctp => "SCTP",
        };
        match vip {
            IpAddr::V4(vip) => write!(f, "{protocol} {vip}:{port} -> {real}"),
            IpAddr::V6(vip) => write!(f, "{protocol} [{vip}]:{port} -> {real}"),
        }
    }
}

/// What the probes of a target have shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it should get packets. A target that was never probed is healthy, unless a process before this one left it
    /// dead.
    pub healthy: bool,
    /// Why not: the latest failure. `None` while healthy.
    pub reason: Option<Failure>,
    /// Since when it is healthy or not; for one that never changed, since it became a target.
    pub since: Instant,
}

/// A verdict that turned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose.
    pub target: Target,
    /// From here on.
    pub verdict: Verdict,
}

/// Everything that is known of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// How it is probed.
    pub check: Arc<HealthCheck>,
    /// Whether it should get packets.
    pub verdict: Verdict,
    /// Answers in a row that speak against the verdict; at `rise` or `fall` it turns.
    pub streak: u8,
    /// The latest probe that ended; `None` = there was none, the verdict is the benefit of the doubt, or
    /// that of a process before.
    pub last: Option<LastProbe>,
}

/// One probe that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastProbe {
    /// When it ended.
    pub at: Instant,
    /// How long it took.
    pub took: Duration,
    /// What it showed.
    pub result: Result<(), Failure>,
}
