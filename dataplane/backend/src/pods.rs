//! Services of a real server that end in pods: what is to be programmed.

use sluicegate_dsr::layout::{MAX_POD_PORTS, MAX_PODS};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// What is carried into pods. SCTP is not: its checksum covers the ports, and cannot be made up for where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TransportProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port of a VIP that ends in pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodPort {
    /// The VIP. It is not put on `lo`.
    pub vip: IpAddr,
    /// TCP or UDP.
    pub protocol: TransportProtocol,
    /// Its port, not 0.
    pub port: u16,
}

/// The pods of this host behind a port of a VIP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodService {
    /// Those of this host, in any order. Without one that is ready, new flows are dropped and counted
    /// (`pod_none_ready`): a director sends none to a host without.
    pub pods: Vec<Pod>,
    /// All flows of a client's address go to one pod (`sessionAffinity: ClientIP`, persistence).
    pub by_client_alone: bool,
    /// Largest IP packet in bytes that fits into the director's tunnel, as of [`crate::BackendState::vips`]; `None` = the MSS
    /// is left alone. Of several ports of one VIP the smallest counts for all.
    pub room: Option<u16>,
}

/// A pod of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pod {
    /// Where this host reaches it: its own address, or the host's with `hostNetwork`. Of the VIP's family.
    pub address: IpAddr,
    /// The port that it listens on (`targetPort`), not 0.
    pub port: u16,
    /// Keeps its flows and gets no new ones.
    pub draining: bool,
}

/// Why services cannot be programmed.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// It was started without.
    #[error("{0}: this host was started without delivery into pods (no room for flows): start it with")]
    NotStarted(PodPort),
    /// More ports of VIPs than there are rows.
    #[error("{0} ports of VIPs end in pods of this host, {MAX_POD_PORTS} can: bind fewer")]
    TooManyPorts(usize),
    /// More pods than there are rows.
    #[error("more than {} pods (one for each port that it is behind) on this host: bind fewer", MAX_PODS - 1)]
    TooManyPods,
    /// A pod and its VIP differ in family.
    #[error("{port}: the pod {pod} is of another IP family than the VIP: give the pods' addresses of the VIP's family")]
    Family {
        /// Of which port.
        port: PodPort,
        /// The pod.
        pod: SocketAddr,
    },
    /// A port is 0.
    #[error("{0}: port 0 is none, neither of a VIP nor of a pod: give a port from 1 to 65535")]
    PortZero(PodPort),
}

impl fmt::Display for TransportProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for PodPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.vip, self.port), self.protocol)
    }
}

/// Refuses what no program could do.
pub(crate) fn check(services: &BTreeMap<PodPort, PodService>, flows: u32) -> Result<(), PodError> {
    for (port, service) in services {
        if port.port == 0 || service.pods.iter().any(|pod| pod.port == 0) {
            return Err(PodError::PortZero(*port));
        }
        if let Some(pod) = service.pods.iter().find(|pod| pod.address.is_ipv4() != port.vip.is_ipv4()) {
            return Err(PodError::Family { port: *port, pod: SocketAddr::new(pod.address, pod.port) });
        }
    }
    match services.keys().next() {
        Some(port) if flows == 0 => Err(PodError::NotStarted(*port)),
        _ => Ok(()),
    }
}
