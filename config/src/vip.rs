//! Virtual IPs and the Services bound to them.

use crate::object::ObjectRef;
use serde::Serialize;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// How packets for a VIP reach a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// Rewrite the destination MAC (`DR`, `L2`): direct server return on one link.
    L2,
    /// IP in IP (`TUNNEL`, `IPIP`).
    Tunnel,
    /// Generic UDP encapsulation.
    Gue,
    /// To the node, and from there into the pod.
    Pod,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::L2 => "L2",
            Self::Tunnel => "TUNNEL",
            Self::Gue => "GUE",
            Self::Pod => "POD",
        })
    }
}

/// One Service bound to a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VipService {
    /// Namespace of the Service.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub service: Arc<str>,
    /// The method that was asked for; `None` = chosen from where the backends are.
    pub method: Option<Method>,
    /// `(protocol, port)` pairs of the Service that this VIP takes, sorted. Empty while the Service does not exist.
    pub ports: Vec<(TransportProtocol, u16)>,
}

/// A transport protocol of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TransportProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A VIP and what is bound to it. No service at all means that the VIP is announced alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VipBinding {
    /// The address.
    pub address: IpAddr,
    /// The Services, in the order of the ConfigMap; their ports do not overlap.
    pub services: Vec<VipService>,
    /// The ConfigMap.
    pub origin: ObjectRef,
}
