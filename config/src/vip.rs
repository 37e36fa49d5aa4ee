//! Virtual IPs and the Services bound to them.

use crate::object::ObjectRef;
use serde::Serialize;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// VIPs that one ConfigMap may bind: what the forwarder's directory holds.
pub const MAX_VIPS: usize = 2048;
/// Ports of one VIP.
pub const MAX_VIP_PORTS: usize = 1024;
/// Real servers of one port.
pub const MAX_REAL_SERVERS: usize = 4096;
/// Largest weight of a real server, as IPVS tools write them.
pub const MAX_WEIGHT: u32 = 65_535;

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

/// What carries packets to a node with method POD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PodTunnel {
    /// Generic UDP encapsulation: passes where the network knows TCP and UDP alone.
    #[default]
    Gue,
    /// IP in IP: 8 bytes less.
    Ipip,
}

impl PodTunnel {
    /// The method that does the same to a packet.
    pub const fn method(self) -> Method {
        match self {
            Self::Gue => Method::Gue,
            Self::Ipip => Method::Tunnel,
        }
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
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

impl Scheduler {
    /// All of them, in the order of the documents.
    pub const ALL: [Self; 7] = [Self::Mh, Self::Rr, Self::Wrr, Self::Sh, Self::Dh, Self::Lc, Self::Wlc];

    /// IPVS's name of it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mh => "mh",
            Self::Rr => "rr",
            Self::Wrr => "wrr",
            Self::Sh => "sh",
            Self::Dh => "dh",
            Self::Lc => "lc",
            Self::Wlc => "wlc",
        }
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text is not the name of a scheduler.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a scheduler; use mh, rr, wrr, sh, dh, lc or wlc")]
pub struct UnknownScheduler(String);

impl FromStr for Scheduler {
    type Err = UnknownScheduler;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|scheduler| scheduler.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| UnknownScheduler(text.to_owned()))
    }
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

impl fmt::Display for ProbeKind {
    /// As the annotation `sluicegate.io/health-check` writes it; a `Host` of its own is not part of that.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Http { path, tls, .. } => write!(f, "{}:{path}", if *tls { "https" } else { "http" }),
            Self::Grpc { service } if service.is_empty() => f.write_str("grpc"),
            Self::Grpc { service } => write!(f, "grpc:{service}"),
            Self::Udp => f.write_str("udp"),
            Self::Icmp => f.write_str("icmp"),
        }
    }
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

impl Default for HealthCheck {
    /// What keepalived users are used to: a TCP connection every 5 s, 3 s for it to open.
    fn default() -> Self {
        Self {
            kind: ProbeKind::Tcp,
            port: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(3),
            rise: 2,
            fall: 3,
        }
    }
}

/// What is known of a real server without probing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Readiness {
    /// Gets new flows: ready, or still serving while no other real server of the port is ready.
    Ready,
    /// Terminating and still serving: keeps its flows, gets no new ones.
    Draining,
    /// A node whose agent is not ready: keeps its flows, gets no new ones.
    NoAgent,
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::NoAgent => "no agent",
        })
    }
}

/// One real server behind one port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RealServer {
    /// Where packets go: the endpoint's address; with method POD that of its node.
    pub address: IpAddr,
    /// 0..=65535; 0 = no new flows. With method POD the sum of its pods' weights.
    pub weight: u32,
    /// Endpoints that are neither ready nor serving are not listed.
    pub readiness: Readiness,
    /// The node that it runs on, where that is known.
    pub node: Option<Arc<str>>,
    /// With method POD: how many of the node's pods are ready; where none is, how many drain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<u32>,
}

/// One port of a Service on a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VipPort {
    /// Transport.
    pub protocol: TransportProtocol,
    /// Number, on the VIP and on the real servers; with method POD pods may listen elsewhere.
    pub port: u16,
    /// Sorted by address, each address once; without method POD all of one family, which need not be that of the VIP.
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
    /// What carries packets to a node, with method POD.
    #[serde(skip_serializing_if = "PodTunnel::is_default")]
    pub pod_tunnel: PodTunnel,
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
    /// Real servers are the nodes of its pods (method POD): asked for, or because its endpoints are pods.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub into_pods: bool,
    /// How it is served.
    pub options: VipOptions,
    /// The ports that this VIP takes, sorted by (protocol, port). Empty while the Service does not exist.
    pub ports: Vec<VipPort>,
}

impl VipService {
    /// The check of the real servers behind one of its ports; `None` = readiness alone counts.
    ///
    /// A probe says something about the transport that it uses: TCP, HTTP and gRPC probes are for ports of TCP, a UDP
    /// probe for ports of UDP. An ICMP probe, and one with a port of its own, are for the host and so for all ports.
    pub fn health_of(&self, port: &VipPort) -> Option<&HealthCheck> {
        self.options.health.as_ref().filter(|check| {
            check.port.is_some()
                || match check.kind {
                    ProbeKind::Icmp => true,
                    ProbeKind::Udp => port.protocol == TransportProtocol::Udp,
                    ProbeKind::Tcp | ProbeKind::Http { .. } | ProbeKind::Grpc { .. } => {
                        port.protocol == TransportProtocol::Tcp
                    }
                }
        })
    }
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

impl fmt::Display for TransportProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// Why packets cannot be sent to an address from another host; `None` = they can.
///
/// Neither a VIP nor a real server may have such an address.
pub fn unreachable(address: IpAddr) -> Option<&'static str> {
    let (broadcast, link_local, mapped) = match address {
        IpAddr::V4(v4) => (v4.is_broadcast(), v4.is_link_local(), false),
        IpAddr::V6(v6) => (false, v6.is_unicast_link_local(), v6.to_ipv4_mapped().is_some()),
    };
    Some(if address.is_unspecified() {
        "it is unspecified"
    } else if address.is_loopback() {
        "it is a loopback address"
    } else if address.is_multicast() || broadcast {
        "it is not a unicast address"
    } else if link_local {
        "it is valid on one link alone"
    } else if mapped {
        "it is an IPv4 address in IPv6 form"
    } else {
        return None;
    })
}

/// A VIP and what is bound to it. No service at all means that the VIP is announced alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VipBinding {
    /// The address.
    pub address: IpAddr,
    /// The Services: those of the ConfigMap in its order, then those of type LoadBalancer, oldest first. Their ports do
    /// not overlap.
    pub services: Vec<VipService>,
    /// The ConfigMap, or the oldest Service of type LoadBalancer where no ConfigMap binds the address.
    pub origin: ObjectRef,
}
