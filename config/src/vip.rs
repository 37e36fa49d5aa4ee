//! Virtual IPs and the Services bound to them.

use crate::object::ObjectRef;
use serde::Serialize;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

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

/// How packets are spread over the real servers: IPVS's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheduler {
    /// Weighted Maglev by address and ports: any director picks the same one without shared state.
    #[default]
    Mh,
    /// In turn.
    Rr,
    /// In turn, by weight.
    Wrr,
    /// By source address.
    Sh,
    /// By destination address.
    Dh,
    /// Fewest flows: Maglev whose weights follow the measured flows, an approximation.
    Lc,
    /// The same, by weight.
    Wlc,
}

/// A client stays with its real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Persistence {
    /// How long after the last packet.
    pub timeout: Duration,
    /// Bits of an IPv4 address that make one client, 0..=32.
    pub prefix4: u8,
    /// Bits of an IPv6 address that make one client, 0..=128.
    pub prefix6: u8,
}

/// What happens while all real servers of a port fail their checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenAllFail {
    /// All that Kubernetes calls ready are used: a probe that is wrong must not take the service down.
    #[default]
    FailOpen,
    /// Packets are dropped, and the VIP is not owned for the sake of this service.
    Refuse,
}

/// What is asked of a real server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeKind {
    /// A TCP connection that opens.
    Tcp,
    /// An HTTP request that is answered with 200 to 399.
    Http {
        /// Origin form.
        path: Arc<str>,
        /// `Host`; `None` = the VIP.
        host: Option<Arc<str>>,
        /// Over TLS; the certificate is not verified.
        tls: bool,
    },
    /// `grpc.health.v1.Health/Check` that says SERVING.
    Grpc {
        /// Name of the gRPC service, may be empty.
        service: Arc<str>,
    },
    /// A datagram to the port that no ICMP error answers.
    Udp,
    /// ICMP echo.
    Icmp,
}

/// How a real server is probed, from the director, along the way of the packets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct HealthCheck {
    /// What is asked.
    pub kind: ProbeKind,
    /// Where; `None` = the service's port.
    pub port: Option<u16>,
    /// From one probe to the next.
    pub interval: Duration,
    /// For one answer.
    pub timeout: Duration,
    /// Good answers in a row that make it healthy, 1...
    pub rise: u8,
    /// Bad answers in a row that make it unhealthy, 1...
    pub fall: u8,
}

/// What is known of a real server without probing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Readiness {
    /// Gets new flows.
    Ready,
    /// Terminating and still serving: keeps its flows, gets no new ones.
    Draining,
}

/// One real server behind one port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RealServer {
    /// Where packets go: the endpoint's address.
    pub address: IpAddr,
    /// 0..=65535; 0 = no new flows.
    pub weight: u32,
    /// Ready or draining; others are not listed.
    pub readiness: Readiness,
    /// The node that it runs on, where that is known.
    pub node: Option<Arc<str>>,
}

/// One port of a Service on a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VipPort {
    /// Transport.
    pub protocol: TransportProtocol,
    /// Number, on the VIP and on the real servers.
    pub port: u16,
    /// Sorted by address, each address once.
    pub reals: Vec<RealServer>,
}

/// How a Service on a VIP is served: its annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VipOptions {
    /// How packets are spread.
    pub scheduler: Scheduler,
    /// Whether clients stay with their real server.
    pub persistence: Option<Persistence>,
    /// Each UDP packet is scheduled by itself.
    pub one_packet: bool,
    /// Fragments follow their first one; else they are dropped by name.
    pub fragments: bool,
    /// A real server hands a packet whose flow it does not know to the slot's former owner.
    pub second_chance: bool,
    /// How real servers are probed; `None` = readiness alone counts.
    pub health: Option<HealthCheck>,
    /// What happens while all fail.
    pub when_all_fail: WhenAllFail,
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
    /// How it is served.
    pub options: VipOptions,
    /// The ports that this VIP takes, sorted by (protocol, port). Empty while the Service does not exist.
    pub ports: Vec<VipPort>,
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
