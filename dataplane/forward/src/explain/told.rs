//! The answer, and its words.

use crate::fleet::{FleetService, ServiceKey};
use crate::stats::Outcome;
use serde::{Deserialize, Serialize};
use sluicegate_config::{TransportProtocol, VipBinding, VipPort};
use sluicegate_l4::layout::Service;
use sluicegate_l4::verdict::{Reason, Verdict};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// What would become of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The packet, as it was asked for.
    pub packet: String,
    /// One sentence.
    pub result: String,
    /// `forwarded`, `answered`, `passed` or `dropped`.
    pub verdict: String,
    /// The reason under which it is counted.
    pub reason: String,
    /// The real server that it goes to; null where it goes to none, or to the next one in turn.
    pub real_server: Option<IpAddr>,
    /// The VIP; null where the destination is none.
    pub vip: Option<VipSeen>,
    /// What of the VIP is not served, with what to do.
    pub not_served: Vec<String>,
    /// The service that takes it.
    pub service: Option<Bound>,
    /// What the flow table holds of it.
    pub flow: Option<FlowSeen>,
    /// What persistence says; null where the service has none.
    pub client: Option<Client>,
    /// What the ring gives a flow that is not known; null where the service has no real server.
    pub ring: Option<RingSeen>,
    /// How the frame leaves; null where it does not.
    pub leaves: Option<WayOut>,
    /// Everything that could have taken it: who did, then the others of the VIP; where nobody did, the same port of other
    /// VIPs too.
    pub candidates: Vec<Candidate>,
    /// Candidates that are not listed.
    pub omitted: u64,
    /// The real servers of the service, by address.
    pub real_servers: Vec<RealSeen>,
    /// No director was asked: who owns the VIP, and what flows there are, is not known.
    #[serde(default)]
    pub offline: bool,
    /// What the answer takes for granted.
    pub assumptions: Vec<String>,
}

/// A VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipSeen {
    /// The address.
    pub address: IpAddr,
    /// It is in the tables.
    pub in_tables: bool,
    /// For how long from here ARP and NDP are answered for it; the owner keeps pushing that ahead.
    pub answered_for_ms: u64,
    /// It is an address of this machine too.
    pub own_address: bool,
    /// The director that owns it, as far as this one knows.
    pub owner: Option<String>,
}

/// A port of a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// `192.0.2.10:80/TCP`.
    pub address: String,
    /// `namespace/name` of the Service.
    pub service: String,
    /// IPVS's name of how packets are spread.
    pub scheduler: String,
    /// `L2`, `TUNNEL`, `GUE` or `POD`.
    pub method: String,
    /// Why that method.
    pub method_because: String,
    /// All real servers fail their probes and are used all the same.
    pub fails_open: bool,
}

/// What the flow table holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowSeen {
    /// There is an entry.
    pub in_table: bool,
    /// Whose it is.
    pub real_server: Option<IpAddr>,
    /// It had a second packet.
    pub confirmed: bool,
    /// Since the last packet, in steps of about 8 s.
    pub idle_seconds: Option<u64>,
    /// The packet follows it. Without that its real server is gone, or it is too old.
    pub followed: bool,
}

/// Persistence of the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// How long after its last packet.
    pub seconds: u64,
    /// Bits of the address that make one client.
    pub prefix: u8,
    /// Where the client's new flows go; null where it is not known.
    pub real_server: Option<IpAddr>,
}

/// The ring of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingSeen {
    /// How many slots.
    pub slots: u32,
    /// What picks the slot.
    pub by: String,
    /// The slot; null where they are walked in turn.
    pub slot: Option<u32>,
    /// Who stands in it.
    pub real_server: Option<IpAddr>,
}

/// How a frame leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayOut {
    /// Name of the port.
    pub interface: String,
    /// Source MAC address.
    pub source_mac: String,
    /// Destination MAC address: the real server's, or the next router's.
    pub destination_mac: String,
    /// VLAN ids, outermost first.
    pub vlans: Vec<u16>,
    /// The tunnel.
    pub outer: Option<Outer>,
    /// Bytes of the largest IP packet of a client that fits.
    pub largest_packet: u16,
}

/// Outer header of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outer {
    /// `IPIP` or `GUE`.
    pub kind: String,
    /// This director.
    pub source: IpAddr,
    /// The real server.
    pub destination: IpAddr,
}

/// What could have taken the packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// `192.0.2.10:80/TCP`.
    pub address: String,
    /// `namespace/name` of the Service.
    pub service: String,
    /// `won`, `other_port`, `other_protocol`, `any_port`, `other_vip`, `icmp` or `not_in_tables`.
    pub code: String,
    /// The same in words.
    pub because: String,
}

/// A real server of the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RealSeen {
    /// Address.
    pub address: IpAddr,
    /// Share among the others.
    pub weight: u16,
    /// `new flows`, `its flows` (those that it has) or `nothing`.
    pub gets: String,
    /// Slots of the ring that it stands in.
    pub slots: u32,
    /// Why it does not get new flows.
    pub because: Option<String>,
    /// The node that it is or runs on, where that is known.
    #[serde(default)]
    pub node: Option<String>,
    /// How many pods of the node stand behind it, with method POD.
    #[serde(default)]
    pub pods: Option<u32>,
}

/// Why a candidate lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    Won,
    NotInTables,
    Icmp,
    OtherProtocol(TransportProtocol),
    OtherPort(u16),
    AnyPort,
    OtherVip(IpAddr),
}

impl Candidate {
    pub(super) fn new(service: &FleetService, lost: Lost) -> Self {
        let (code, because) = match lost {
            Lost::Won => ("won", "takes it".to_owned()),
            Lost::NotInTables => ("not_in_tables", "is not in the tables, the log says why".to_owned()),
            Lost::Icmp => ("icmp", "ICMP belongs to the VIP and to no port".to_owned()),
            Lost::OtherProtocol(protocol) => ("other_protocol", format!("is bound to {protocol}")),
            Lost::OtherPort(port) => ("other_port", format!("is bound to port {port}")),
            Lost::AnyPort => {
                ("any_port", "is bound to any port; the binding of the port itself comes first".to_owned())
            }
            Lost::OtherVip(vip) => ("other_vip", format!("is bound to VIP {vip}")),
        };
        Self {
            address: service.key.to_string(),
            service: format!("{}/{}", service.namespace, service.service),
            code: code.to_owned(),
            because,
        }
    }
}

impl Explanation {
    /// Says of each real server which node it is, or runs on, as the bindings know it: tables do not.
    pub fn name_nodes(&mut self, bindings: &BTreeMap<IpAddr, Arc<VipBinding>>) {
        let binding = self.vip.as_ref().and_then(|vip| bindings.get(&vip.address));
        let (Some(binding), Some(service)) = (binding, &self.service) else { return };
        let key = |port: &VipPort| ServiceKey { vip: binding.address, protocol: port.protocol, port: port.port };
        let mut ports = binding.services.iter().flat_map(|service| &service.ports);
        let Some(port) = ports.find(|port| key(port).to_string() == service.address) else { return };
        for seen in &mut self.real_servers {
            if let Ok(place) = port.reals.binary_search_by_key(&seen.address, |real| real.address) {
                seen.node = port.reals[place].node.as_deref().map(str::to_owned);
                seen.pods = port.reals[place].pods;
            }
        }
    }

    /// Keeps so many candidates.
    pub(super) fn bounded(mut self, most: usize) -> Self {
        self.omitted = self.candidates.len().saturating_sub(most) as u64;
        self.candidates.truncate(most);
        self
    }
}

/// What picks the slot.
pub(super) fn picked_by(select: u8, one_packet: bool) -> String {
    let by = match select {
        Service::SELECT_SOURCE => "hash of the source address",
        Service::SELECT_DESTINATION => "hash of the destination address",
        Service::SELECT_TURN => "turn, which each CPU of the director counts for itself",
        _ => "hash of source address, source port, destination port and protocol",
    };
    if one_packet { format!("{by}, for each packet by itself") } else { by.to_owned() }
}

/// A MAC address as it is written.
pub(super) fn mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// What a reason means for the packet.
pub(super) fn outcome(reason: Reason) -> Outcome {
    Outcome::of(reason)
}

/// The verdict in a sentence.
pub(super) fn result(verdict: &Verdict, real: Option<IpAddr>) -> String {
    let reason = verdict.reason();
    let what = match (Outcome::of(reason), real) {
        (Outcome::Forwarded, Some(real)) => format!("forwarded to {real}"),
        (outcome, _) => outcome.as_str().to_owned(),
    };
    format!("{what}: {}", sentence(reason))
}

/// A reason in words, for packets that a client could send.
fn sentence(reason: Reason) -> &'static str {
    match reason {
        Reason::NotIp => "it is not IP",
        Reason::NotVip => "the destination is no VIP of this director",
        Reason::Expired => "nobody has renewed the tables, so the director leaves packets alone",
        Reason::LocalBackend => "the real server is this machine",
        Reason::LocalAddress => "nothing is bound there, and the VIP is an address of this machine too",
        Reason::NotOwned => "this director does not answer for the VIP",
        Reason::NdpOther => "it is neighbour discovery that is not ours to answer",
        Reason::OtherHost => "the frame is for the MAC address of another machine",
        Reason::FlowHit => "the flow is in the table",
        Reason::FlowNew => "a new flow, which is remembered",
        Reason::FlowUntracked => "a new flow, which finds no place in the flow table",
        Reason::FlowMoved => "the flow is in the table, its real server is gone, and another one is selected",
        Reason::Persistent => "a new flow of a client that stays with its real server",
        Reason::OnePacket => "each packet is scheduled by itself",
        Reason::Fragment => "a fragment follows its first one",
        Reason::IcmpError => "an ICMP error follows the flow that it quotes",
        Reason::SecondChance => "a flow that is not known, with the former owner of its slot in the tunnel's header",
        Reason::ArpAnswered | Reason::NdpAnswered => "the director says where the VIP is",
        Reason::EchoAnswered => "the director answers the echo request itself",
        Reason::TooBigAnswered => "it is too big for the way, and the sender is told the MTU",
        Reason::Truncated => "the frame ends inside of a header",
        Reason::BadHeader => "a header contradicts itself",
        Reason::TooManyHeaders => "there are more IPv6 extension headers than are followed",
        Reason::BadChecksum => "the IPv4 header checksum is wrong",
        Reason::TtlExpired => "its hops are used up",
        Reason::NoService => "nothing is bound to this protocol and port of the VIP",
        Reason::NoBackend => "the service has no real server that takes new flows",
        Reason::DeadBackend => "the ring leads to a real server that is dead",
        Reason::UnknownProtocol => "the protocol is not forwarded",
        Reason::FragmentUnwanted => "the service takes no fragments",
        Reason::FragmentUnknown => "the first fragment was not seen",
        Reason::IcmpUnknownFlow => "the ICMP error quotes no flow of the VIP",
        Reason::IcmpUnsupported => "no other ICMP message to a VIP is taken",
        Reason::TooBig => "it is too big for the way, and the sender cannot be told",
        Reason::BroadcastSource => "no answer can reach its source address",
        Reason::NoRoom => "the frame cannot be grown or shrunk",
        Reason::TableFault => "a table does not hold what another one refers to",
    }
}
