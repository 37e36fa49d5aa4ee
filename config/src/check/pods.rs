//! Delivery into pods: the nodes that stand for them, and which checks can be made by way of a node.

use super::vip::{LeftOut, Problem, label};
use crate::draft::{NodeDraft, RealServerDraft, VipPortDraft};
use crate::vip::{
    HealthCheck, MAX_WEIGHT, ProbeKind, Readiness, RealServer, TransportProtocol, VipPort, WhenAllFail, unreachable,
};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// The agents of nodes rewrite ports, which the checksum of SCTP covers as a whole.
pub(super) fn carried(port: &VipPortDraft) -> Result<(), Problem> {
    match port.protocol {
        TransportProtocol::Tcp | TransportProtocol::Udp => Ok(()),
        TransportProtocol::Sctp => Err(Problem::new(
            format!("method POD carries TCP and UDP, and not {}", label(port)),
            "bind the Service by TUNNEL to hosts that hold the virtual IP",
        )),
    }
}

/// The nodes of a port's pods, sorted by address, each once; and what was left out.
///
/// A pod counts by its address of the VIP's family: the agent hands packets over as they are but for address and port. The
/// node may be of the other family, which is the outer header's alone.
pub(super) fn nodes(
    vip: IpAddr,
    when_all_fail: WhenAllFail,
    port: &VipPortDraft,
) -> (Vec<RealServer>, LeftOut, Option<Problem>) {
    let mut left_out = LeftOut::default();
    let mut nodes: BTreeMap<IpAddr, NodePods> = BTreeMap::new();
    let of_family = || port.reals.iter().filter(|pod| pod.real.address.is_ipv4() == vip.is_ipv4());
    for pod in of_family() {
        match place(vip, pod) {
            Ok((address, has_agent)) => nodes.entry(address).or_default().add(pod, has_agent),
            Err((why, remedy)) => left_out.add(why, remedy, pod.real.address),
        }
    }
    let mut reals: Vec<RealServer> = nodes.into_iter().map(|(address, pods)| pods.real_server(address)).collect();
    let mut problem = None;
    if of_family().next().is_none() && !port.reals.is_empty() {
        let (family, other) = if vip.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
        problem = Some(Problem::new(
            format!("the pods of {} have no {family} addresses, as {vip} is one", label(port)),
            match other {
                "IPv4" => "set spec.ipFamilyPolicy: PreferDualStack on the Service, or bind it to an IPv4 address",
                _ => "set spec.ipFamilyPolicy: PreferDualStack on the Service, or bind it to an IPv6 address",
            },
        ));
    }
    if !reals.iter().any(|real| real.readiness == Readiness::Ready) {
        problem = problem.or(use_what_is_left(&mut reals, when_all_fail, port));
    }
    (reals, left_out, problem)
}

/// The check of a Service into pods, as far as a node passes probes on: to ports of the virtual IP.
pub(super) fn askable(check: Option<HealthCheck>, ports: &[VipPort]) -> Result<Option<HealthCheck>, Problem> {
    let Some(check) = check else { return Ok(None) };
    let protocol = match check.kind {
        ProbeKind::Icmp => {
            return Err(Problem::new(
                "with method POD nothing on a node answers ICMP echo for the virtual IP: readiness alone counts"
                    .to_owned(),
                "set sluicegate.io/health-check: tcp, http:/PATH or off",
            ));
        }
        ProbeKind::Udp => TransportProtocol::Udp,
        ProbeKind::Tcp | ProbeKind::Http { .. } | ProbeKind::Grpc { .. } => TransportProtocol::Tcp,
    };
    match check.port {
        Some(asked) if !ports.iter().any(|port| (port.protocol, port.port) == (protocol, asked)) => Err(Problem::new(
            format!(
                "with method POD probes reach ports of the virtual IP alone, and {asked}/{protocol} of \
                 sluicegate.io/health-port is none: readiness alone counts"
            ),
            "name a port of the Service, or remove sluicegate.io/health-port",
        )),
        _ => Ok(Some(check)),
    }
}

/// Where a pod is reached by directors, or why nowhere and the remedy.
fn place(vip: IpAddr, pod: &RealServerDraft) -> Result<(IpAddr, bool), (String, &'static str)> {
    let name = pod.real.node.as_deref().unwrap_or_default();
    if pod.real.address == vip {
        return Err(("it is the virtual IP itself".to_owned(), "let the Service select pods"));
    }
    if let Some(why) = unreachable(pod.real.address) {
        return Err((why.to_owned(), "let the Service select pods"));
    }
    match pod.node {
        NodeDraft::At { address, .. } if address == vip => Err((
            format!("the virtual IP is the address of its node {name}"),
            "bind another address, which no host has",
        )),
        NodeDraft::At { address, has_agent } => Ok((address, has_agent)),
        NodeDraft::Unnamed => Err((
            "it names no node, by way of which method POD could reach it".to_owned(),
            "let the Service select pods, write nodeName into a hand-made EndpointSlice, or use TUNNEL or L2",
        )),
        NodeDraft::Unknown => {
            Err((format!("there is no Node {name}"), "allow to list and watch nodes, or add the Node to the manifests"))
        }
        NodeDraft::NoAddress => Err((
            format!("Node {name} has no address of type InternalIP that directors could send to"),
            "give the kubelet of the node its --node-ip",
        )),
    }
}

/// What becomes of a port of whose nodes none takes new flows by itself. Kubernetes sends traffic to what still serves where
/// nothing else is left (KEP-1669); and nodes whose agents are all away may have its programs all the same, which go on
/// without it.
fn use_what_is_left(reals: &mut [RealServer], when_all_fail: WhenAllFail, port: &VipPortDraft) -> Option<Problem> {
    let drains = reals.iter().any(|real| real.readiness == Readiness::Draining);
    let instead = match when_all_fail {
        _ if drains => Readiness::Draining,
        WhenAllFail::FailOpen => Readiness::NoAgent,
        WhenAllFail::Refuse => return None,
    };
    let chosen = reals.iter_mut().filter(|real| real.readiness == instead);
    let count = chosen.map(|real| real.readiness = Readiness::Ready).count();
    (count > 0 && !drains).then(|| {
        Problem::warning(
            format!("no node with a pod of {} has an agent that is ready: all of them are used", label(port)),
            "see why the pods of --backend-service are not ready",
        )
    })
}

/// The pods of a node. Two slices may name one of them while it moves between them: it is ready if one says so.
#[derive(Default)]
struct NodePods {
    name: Option<Arc<str>>,
    has_agent: bool,
    pods: BTreeMap<(IpAddr, u16), (Readiness, u32)>,
}

impl NodePods {
    fn add(&mut self, pod: &RealServerDraft, has_agent: bool) {
        // Nodes that share an address are one real server, under the first name.
        self.name = match (self.name.take(), pod.real.node.clone()) {
            (Some(known), Some(name)) => Some(known.min(name)),
            (known, name) => known.or(name),
        };
        self.has_agent |= has_agent;
        let known = self.pods.entry((pod.real.address, pod.port)).or_insert((pod.real.readiness, pod.real.weight));
        known.0 = known.0.min(pod.real.readiness);
    }

    fn real_server(self, address: IpAddr) -> RealServer {
        let is_any_ready = self.pods.values().any(|(readiness, _)| *readiness == Readiness::Ready);
        let counting = if is_any_ready { Readiness::Ready } else { Readiness::Draining };
        let weights = || self.pods.values().filter(|(readiness, _)| *readiness == counting).map(|(_, weight)| *weight);
        let pods = u32::try_from(weights().count()).unwrap_or(u32::MAX);
        RealServer {
            address,
            weight: weights().fold(0, u32::saturating_add).min(MAX_WEIGHT),
            readiness: if self.has_agent { counting } else { Readiness::NoAgent },
            node: self.name,
            pods: Some(pods),
        }
    }
}
