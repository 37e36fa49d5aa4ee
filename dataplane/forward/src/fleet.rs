//! What is to be served and by what: each VIP, its services, and every real server with its status and the way to it.
//!
//! [`Fleet::survey`] brings together what is wished ([`VipBinding`]), what the network looks like ([`Topology`]) and what
//! was observed (probes, operators, flow counts). It asks nobody and knows no ids of tables: [`crate::plan`] does.

use crate::failure::{NoSecondChance, PlanFailure};
use crate::shared_list::{SharedList, SharedLists};
use crate::topology::{LinkKind, Mac, NoNextHop, Topology, VlanTag, Way};
use sluicegate_config::{
    Method, PodTunnel, Readiness, RealServer, Scheduler, TransportProtocol, VipBinding, VipOptions, VipPort,
    VipService, WhenAllFail,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

/// A port of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The VIP.
    pub vip: IpAddr,
    /// Transport.
    pub protocol: TransportProtocol,
    /// Port number.
    pub port: u16,
}

impl fmt::Display for ServiceKey {
    /// `192.0.2.10:80/TCP`, an IPv6 address in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vip {
            IpAddr::V4(vip) => write!(f, "{vip}:{}/{}", self.port, self.protocol),
            IpAddr::V6(vip) => write!(f, "[{vip}]:{}/{}", self.port, self.protocol),
        }
    }
}

/// A verdict of the probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// As many good answers in a row as it takes.
    Healthy,
    /// As many bad ones, and what the last one was.
    Unhealthy(Arc<str>),
}

/// What was observed from outside of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Verdicts of the probes. A real server without one counts as healthy: Kubernetes or the operator lists it.
    pub health: Arc<BTreeMap<(ServiceKey, IpAddr), Health>>,
    /// Real servers that the operator drains: their flows stay, new ones go elsewhere.
    pub drained: Arc<BTreeSet<IpAddr>>,
    /// Weights for `lc` and `wlc` that follow the flow counts ([`crate::weights`]); without one the configured weight
    /// counts.
    pub weights: Arc<BTreeMap<(ServiceKey, IpAddr), u16>>,
}

/// Everything that is to be served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    /// The VIPs.
    pub vips: BTreeMap<IpAddr, FleetVip>,
    /// What cannot be served, or not as it was asked for, whatever the state of the tables; and why. Sorted.
    pub rejected: Vec<PlanFailure>,
}

/// A VIP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetVip {
    /// This machine has the address too (on `lo`: director and backend at once).
    pub local: bool,
    /// ICMP echo to it is answered.
    pub echo: bool,
    /// What is bound to it, by (protocol, port).
    pub services: Vec<Arc<FleetService>>,
}

/// A port of a VIP, and what serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetService {
    /// Where it listens.
    pub key: ServiceKey,
    /// Namespace of the Service.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub service: Arc<str>,
    /// How it is served.
    pub options: VipOptions,
    /// Probes decide about its real servers, not readiness alone.
    pub probed: bool,
    /// How packets reach the real servers.
    pub method: Method,
    /// What is done to them on the way there: the method itself, but with POD a tunnel to the node.
    pub carrier: Method,
    /// Why that method.
    pub method_reason: MethodReason,
    /// The real servers, by address. Services with the same ones share the list.
    pub reals: SharedList<FleetReal>,
}

/// Why a service has its method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MethodReason {
    /// The binding names it.
    Asked,
    /// The endpoints are pods, which hold no VIP.
    IntoPods,
    /// Every real server is on a link of this director.
    AllOnLink,
    /// This one is behind a router, or there is no route to it.
    BehindRouter(IpAddr),
}

impl fmt::Display for MethodReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("asked for"),
            Self::IntoPods => f.write_str("the endpoints are pods"),
            Self::AllOnLink => f.write_str("every real server is on a link of this director"),
            Self::BehindRouter(real) => write!(f, "{real} is not on a link of this director"),
        }
    }
}

/// A real server of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetReal {
    /// Where packets go.
    pub address: IpAddr,
    /// Its share among the others, 0..=65535; 0 = no new flows.
    pub weight: u16,
    /// The share that was configured (1 where the scheduler does not look at weights), which `weight` departs from where
    /// it follows flow counts.
    pub configured: u16,
    /// Whether it answers.
    pub status: Status,
    /// How packets reach it, or why they do not.
    pub delivery: Result<Arc<Delivery>, NoDelivery>,
}

impl Hash for FleetReal {
    /// Of what tells lists apart most often; the rest is compared.
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.address, self.weight, std::mem::discriminant(&self.status), self.delivery.is_ok()).hash(state);
    }
}

impl FleetReal {
    /// Why it does not get new flows, as far as it is its own doing.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match (&self.delivery, &self.status) {
            (Err(why), _) => Some(why.to_string()),
            (Ok(_), Status::Unhealthy(why)) => Some(why.to_string()),
            (Ok(_), Status::Draining) => Some("draining".to_owned()),
            (Ok(_), Status::NoAgent) => Some("its node has no agent that is ready".to_owned()),
            (Ok(_), Status::Healthy) => (self.weight == 0).then(|| "weight 0".to_owned()),
        }
    }
}

/// Whether a real server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is ready, and no probe says otherwise.
    Healthy,
    /// Its probes fail; what the last one said.
    Unhealthy(Arc<str>),
    /// It finishes the flows that it has. Probes do not count: who terminates often stops accepting before the last
    /// flow is over, and that must not cut the flow.
    Draining,
    /// A node without an agent that is ready: its programs go on with the flows that they know, and nobody answers for more.
    NoAgent,
}

/// What the packet path does with a real server, all things considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// New flows go there.
    InRing,
    /// It keeps its flows and gets no new ones.
    Kept,
    /// Its flows are selected anew.
    Dead,
}

impl FleetService {
    /// True where a packet of a flow that is not known carries the former owner of its slot: TCP alone, as nothing else says
    /// whether a flow is known.
    #[must_use]
    pub fn has_second_chance(&self) -> bool {
        self.options.second_chance
            && self.method == Method::Gue
            && self.key.protocol == TransportProtocol::Tcp
            && !takes_turns(self.options.scheduler)
    }

    /// The standing of each real server, in their order.
    ///
    /// While none that has a weight is healthy, [`WhenAllFail::FailOpen`] takes those that are ready as if they were.
    /// A real server without a way to it is dead in any case.
    pub fn standings(&self) -> impl Iterator<Item = (&FleetReal, Standing)> {
        let open = self.fails_open();
        self.reals.iter().map(move |real| {
            let standing = match (&real.delivery, &real.status) {
                (Err(_), _) => Standing::Dead,
                (Ok(_), Status::Draining | Status::NoAgent) => Standing::Kept,
                (Ok(_), Status::Unhealthy(_)) if !open => Standing::Dead,
                (Ok(_), Status::Healthy | Status::Unhealthy(_)) if real.weight == 0 => Standing::Kept,
                (Ok(_), Status::Healthy | Status::Unhealthy(_)) => Standing::InRing,
            };
            (real, standing)
        })
    }

    /// True while the probes of all its ready real servers fail and they are used all the same.
    #[must_use]
    pub fn fails_open(&self) -> bool {
        let reachable = || self.reals.iter().filter(|real| real.weight > 0 && real.delivery.is_ok());
        self.options.when_all_fail == WhenAllFail::FailOpen
            && !reachable().any(|real| real.status == Status::Healthy)
            && reachable().any(|real| matches!(real.status, Status::Unhealthy(_)))
    }
}

/// How packets reach a real server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// What is done to them.
    pub kind: DeliveryKind,
    /// Interface index of the port to leave by; 0 = the one that the packet came in on.
    pub egress: u32,
    /// Sender's MAC address.
    pub source_mac: Mac,
    /// The next hop's MAC address.
    pub destination_mac: Mac,
    /// VLAN tags of the way, outermost first, two at most.
    pub tags: Vec<VlanTag>,
    /// Largest IP packet on the link, in bytes.
    pub mtu: u32,
}

/// What is done to a packet on its way to a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryKind {
    /// New MAC addresses.
    L2,
    /// IP in IP.
    Tunnel {
        /// This machine's address, of the real server's family.
        source: IpAddr,
    },
    /// IP in UDP.
    Gue {
        /// This machine's address, of the real server's family.
        source: IpAddr,
    },
    /// Nothing: the real server is this machine.
    Local,
}

/// Why packets cannot be delivered to a real server: an operator reads it as the reason why it is unhealthy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoDelivery {
    /// The network has no way.
    #[error(transparent)]
    NoNextHop(#[from] NoNextHop),
    /// L2 needs the real server on a link of the director.
    #[error("{real} is behind router {router}, which L2 cannot pass: use TUNNEL or GUE, or a director on its link")]
    NotOnLink {
        /// The real server.
        real: IpAddr,
        /// The router.
        router: IpAddr,
    },
    /// A tunnel needs an address to come from.
    #[error("no address of this machine can be the source of a tunnel to {0}: give its interface one of that family")]
    NoSource(IpAddr),
    /// The way takes more VLAN tags than the packet path writes.
    #[error("the way to {0} takes more than two VLAN tags")]
    TooManyTags(IpAddr),
    /// The link is too small for the outer headers.
    #[error("the MTU of the way to {real} is {mtu} bytes, too little for any packet with outer headers: raise it")]
    MtuTooSmall {
        /// The real server.
        real: IpAddr,
        /// Of the way.
        mtu: u32,
    },
}

impl Fleet {
    /// What is to be served.
    #[must_use]
    pub fn survey(bindings: &BTreeMap<IpAddr, Arc<VipBinding>>, topology: &Topology, observed: &Observed) -> Self {
        Self::survey_sharing(bindings, topology, observed, &mut SharedLists::default())
    }

    /// [`Fleet::survey`]; lists of real servers that were surveyed before are taken from `lists`.
    pub(crate) fn survey_sharing(
        bindings: &BTreeMap<IpAddr, Arc<VipBinding>>,
        topology: &Topology,
        observed: &Observed,
        lists: &mut SharedLists<FleetReal>,
    ) -> Self {
        let mut fleet = Self::default();
        fleet.survey_these(bindings.iter().map(|(vip, binding)| (*vip, &**binding)), topology, observed, lists);
        fleet
    }

    /// Looks again at these VIPs alone, where the network is what it was and so is everything about the others. The result is
    /// that of [`Fleet::survey`].
    pub fn survey_again(
        &mut self,
        vips: &BTreeSet<IpAddr>,
        bindings: &BTreeMap<IpAddr, Arc<VipBinding>>,
        topology: &Topology,
        observed: &Observed,
    ) {
        self.survey_again_sharing(vips, bindings, topology, observed, &mut SharedLists::default());
    }

    /// [`Fleet::survey_again`]; lists of real servers that were surveyed before are taken from `lists`.
    pub(crate) fn survey_again_sharing(
        &mut self,
        vips: &BTreeSet<IpAddr>,
        bindings: &BTreeMap<IpAddr, Arc<VipBinding>>,
        topology: &Topology,
        observed: &Observed,
        lists: &mut SharedLists<FleetReal>,
    ) {
        self.vips.retain(|vip, _| !vips.contains(vip));
        self.rejected.retain(|failure| !vips.contains(&failure.vip()));
        let bound = vips.iter().filter_map(|vip| Some((*vip, &**bindings.get(vip)?)));
        self.survey_these(bound, topology, observed, lists);
    }

    fn survey_these<'a>(
        &mut self,
        bindings: impl Iterator<Item = (IpAddr, &'a VipBinding)>,
        topology: &Topology,
        observed: &Observed,
        lists: &mut SharedLists<FleetReal>,
    ) {
        let mut survey = Survey { topology, observed, lists, deliveries: BTreeMap::new() };
        for (vip, binding) in bindings {
            match survey.vip(vip, binding, &mut self.rejected) {
                Ok(surveyed) => drop(self.vips.insert(vip, surveyed)),
                Err(failure) => self.rejected.push(failure),
            }
        }
        self.rejected.sort();
    }

    /// All services.
    pub fn services(&self) -> impl Iterator<Item = &FleetService> {
        self.vips.values().flat_map(|vip| &vip.services).map(Arc::as_ref)
    }
}

/// One run of [`Fleet::survey`].
struct Survey<'a> {
    topology: &'a Topology,
    observed: &'a Observed,
    lists: &'a mut SharedLists<FleetReal>,
    /// The same real servers stand behind many ports: the way to each is looked up once.
    deliveries: BTreeMap<(IpAddr, Method), Result<Arc<Delivery>, NoDelivery>>,
}

impl Survey<'_> {
    fn vip(
        &mut self,
        vip: IpAddr,
        binding: &VipBinding,
        rejected: &mut Vec<PlanFailure>,
    ) -> Result<FleetVip, PlanFailure> {
        if self.topology.is_gateway(vip) {
            return Err(PlanFailure::VipIsRouter { vip });
        }
        if let Some(interface) = self.interface_with(vip) {
            return Err(PlanFailure::VipIsOwn { vip, interface });
        }
        let mut surveyed = FleetVip { local: self.topology.is_local(vip), echo: true, services: Vec::new() };
        for service in &binding.services {
            if let Some(why) = no_second_chance(service) {
                let (namespace, service) = (service.namespace.clone(), service.service.clone());
                rejected.push(PlanFailure::SecondChanceUnavailable { vip, namespace, service, why });
            }
            for port in &service.ports {
                surveyed.services.push(Arc::new(self.service(vip, service, port)));
            }
        }
        surveyed.services.sort_by_key(|service| service.key);
        Ok(surveyed)
    }

    /// The interface that has the VIP as its own address. On `lo` it belongs: so a backend has it.
    fn interface_with(&self, vip: IpAddr) -> Option<String> {
        let mut links = self.topology.links().filter(|link| link.kind != LinkKind::Loopback);
        let found = links.find(|link| self.topology.addresses_of(link.index).any(|own| own.address == vip))?;
        Some(found.name.clone())
    }

    fn service(&mut self, vip: IpAddr, service: &VipService, port: &VipPort) -> FleetService {
        let key = ServiceKey { vip, protocol: port.protocol, port: port.port };
        let (method, method_reason) = self.method(service, &port.reals);
        let carrier = if method == Method::Pod { service.options.pod_tunnel.method() } else { method };
        let reals = port.reals.iter().map(|real| self.real(key, &service.options, carrier, real)).collect();
        FleetService {
            key,
            namespace: service.namespace.clone(),
            service: service.service.clone(),
            options: service.options.clone(),
            probed: service.health_of(port).is_some(),
            method,
            carrier,
            method_reason,
            reals: self.lists.share(reals),
        }
    }

    /// The method that was asked for, POD into pods, else by routes alone: a neighbour that does not answer for a while must
    /// not turn L2 into tunnels.
    fn method(&self, service: &VipService, reals: &[RealServer]) -> (Method, MethodReason) {
        if let Some(asked) = service.method {
            return (asked, MethodReason::Asked);
        }
        if service.into_pods {
            return (Method::Pod, MethodReason::IntoPods);
        }
        let near = |address| self.topology.is_local(address) || self.topology.on_link(address).is_some();
        match reals.iter().find(|real| !near(real.address)) {
            Some(far) => (Method::Tunnel, MethodReason::BehindRouter(far.address)),
            None => (Method::L2, MethodReason::AllOnLink),
        }
    }

    fn real(&mut self, key: ServiceKey, options: &VipOptions, carrier: Method, real: &RealServer) -> FleetReal {
        let observed = (key, real.address);
        let status = if real.readiness == Readiness::Draining || self.observed.drained.contains(&real.address) {
            Status::Draining
        } else if real.readiness == Readiness::NoAgent {
            Status::NoAgent
        } else if let Some(Health::Unhealthy(reason)) = self.observed.health.get(&observed) {
            Status::Unhealthy(reason.clone())
        } else {
            Status::Healthy
        };
        let configured = match options.scheduler {
            // Its pods are in turn, not the nodes.
            Scheduler::Rr | Scheduler::Lc if real.weight > 0 => {
                u16::try_from(real.pods.unwrap_or(1)).unwrap_or(u16::MAX)
            }
            Scheduler::Rr | Scheduler::Lc => 0,
            Scheduler::Mh | Scheduler::Wrr | Scheduler::Sh | Scheduler::Dh | Scheduler::Wlc => {
                u16::try_from(real.weight).unwrap_or(u16::MAX)
            }
        };
        let measured = self.observed.weights.get(&observed).filter(|_| configured > 0);
        FleetReal {
            address: real.address,
            weight: measured.copied().filter(|_| follows_flows(options.scheduler)).unwrap_or(configured),
            configured,
            status,
            delivery: self.delivery(real.address, carrier),
        }
    }

    fn delivery(&mut self, real: IpAddr, method: Method) -> Result<Arc<Delivery>, NoDelivery> {
        let topology = self.topology;
        self.deliveries.entry((real, method)).or_insert_with(|| deliver(topology, real, method).map(Arc::new)).clone()
    }
}

/// Why a Service does not get the second chance that it asks for.
fn no_second_chance(service: &VipService) -> Option<NoSecondChance> {
    match service.method {
        _ if !service.options.second_chance => None,
        _ if service.into_pods => Some(NoSecondChance::Method),
        Some(Method::Gue) if takes_turns(service.options.scheduler) => Some(NoSecondChance::Scheduler),
        Some(Method::Gue) => None,
        _ => Some(NoSecondChance::Method),
    }
}

/// True where a flow has no slot of its own.
const fn takes_turns(scheduler: Scheduler) -> bool {
    matches!(scheduler, Scheduler::Rr | Scheduler::Wrr)
}

/// True where weights follow flow counts.
pub(crate) const fn follows_flows(scheduler: Scheduler) -> bool {
    matches!(scheduler, Scheduler::Lc | Scheduler::Wlc)
}

/// How `real` is reached by `method`; a node with POD by what carries that where nobody says otherwise.
///
/// # Errors
/// Why it is not.
pub fn deliver(topology: &Topology, real: IpAddr, method: Method) -> Result<Delivery, NoDelivery> {
    let next = match topology.delivery(real)? {
        Way::Out(next) => next,
        Way::Local => {
            let (mac, mtu) = ([0; 6], u32::from(u16::MAX));
            let kind = DeliveryKind::Local;
            return Ok(Delivery { kind, egress: 0, source_mac: mac, destination_mac: mac, tags: Vec::new(), mtu });
        }
    };
    let source = || next.source.filter(|source| source.is_ipv4() == real.is_ipv4()).ok_or(NoDelivery::NoSource(real));
    let kind = match method {
        Method::L2 => match next.gateway {
            Some(router) => return Err(NoDelivery::NotOnLink { real, router }),
            None => DeliveryKind::L2,
        },
        Method::Tunnel => DeliveryKind::Tunnel { source: source()? },
        Method::Gue => DeliveryKind::Gue { source: source()? },
        Method::Pod => return deliver(topology, real, PodTunnel::default().method()),
    };
    if next.tags.len() > crate::head::MOST_TAGS {
        return Err(NoDelivery::TooManyTags(real));
    }
    // RFC 791: every link takes 68 bytes; what is left must hold that much.
    if next.mtu < crate::head::outer_bytes(kind) + 68 {
        return Err(NoDelivery::MtuTooSmall { real, mtu: next.mtu });
    }
    Ok(Delivery {
        kind,
        egress: next.egress.unwrap_or(0),
        source_mac: next.source_mac,
        destination_mac: next.destination_mac,
        tags: next.tags,
        mtu: next.mtu,
    })
}
