//! What would become of a packet, and why: the packet path itself runs on a frame that is made up, over the tables as they
//! are, and remembers nothing.
//!
//! So the answer is that of [`sluicegate_l4::forward`] and not of a second opinion. It runs up to three times: as the
//! flow table is, without the flow's own entry (what a client's persistence says), and with an empty one (what the ring
//! says).

mod probe;
mod told;

use crate::allocations::{Allocations, protocol_number};
use crate::dissect::{Dissection, Network};
use crate::engine::Passing;
use crate::failure::PlanFailure;
use crate::fleet::{Fleet, FleetReal, FleetService, FleetVip, MethodReason, Observed, ServiceKey, Standing};
use crate::head::{address_from_words, address_words};
use crate::packet_tuple::{PacketProtocol, PacketTuple};
use crate::plan::{PlanSettings, plan};
use crate::ports::Port;
use crate::stats::FlowEntry;
use crate::topology::{Hop, Link, LinkKind, Neighbour, Prefix, Route, RouteAction, Topology};
use probe::{Memory, Probe, Run};
use sluicegate_config::{TransportProtocol, VipBinding};
use sluicegate_l4::hash;
use sluicegate_l4::layout::{Backend, Control, FLOW_WAYS, Service, flow_word};
use sluicegate_l4::verdict::{Reason, Verdict};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use told::Lost;
pub use told::{Bound, Candidate, Client, Explanation, FlowSeen, Outer, RealSeen, RingSeen, VipSeen, WayOut};

/// Services of other VIPs that are listed as candidates.
const MOST_ELSEWHERE: usize = 16;
/// Candidates that are listed.
const MOST_CANDIDATES: usize = 128;
/// Real servers that are listed.
const MOST_REALS: usize = 256;

/// What an answer is made of.
pub struct Facts<'a> {
    /// What is to be served.
    pub fleet: &'a Fleet,
    /// What of it is not.
    pub failures: &'a [PlanFailure],
    /// The tables, and what their ids mean.
    pub allocations: &'a Allocations,
    /// Switches, time and flow table.
    pub passing: Passing<'a>,
    /// How far ahead the fence of a VIP lies, by its id.
    pub fence: &'a dyn Fn(u16) -> Duration,
    /// The ports; the packet comes in by the first one.
    pub ports: &'a BTreeMap<u32, Port>,
}

/// What would become of the packet.
#[must_use]
pub fn explain(packet: &PacketTuple, facts: &Facts<'_>) -> Explanation {
    let probe = Probe::new(packet, facts);
    let run = probe.run(Memory::AsItIs);
    let key = key_of(packet);
    let vip = facts.fleet.vips.get(&packet.destination.ip());
    let won = vip.and_then(|vip| winner(vip, &run, facts));
    let fresh = won.map(|(id, _)| probe.run(Memory::Without(flow_hash(packet, id, facts))));
    let ring = won.map(|_| probe.run(Memory::Empty));
    let backend = facts.allocations.tables().backends.get(&run.backend).filter(|_| run.backend != 0);
    Explanation {
        packet: packet.to_string(),
        result: told::result(&run.verdict, backend.map(|backend| address_from_words(backend.address))),
        verdict: told::outcome(run.verdict.reason()).as_str().to_owned(),
        reason: run.verdict.reason().as_str().to_owned(),
        real_server: backend.filter(|_| !run.in_turn).map(|backend| address_from_words(backend.address)),
        vip: vip.map(|vip| vip_seen(packet.destination.ip(), vip, facts)),
        not_served: failures_of(packet.destination.ip(), facts),
        service: won.map(|(_, service)| bound(service)),
        flow: won.map(|(id, _)| flow_seen(packet, id, &run, facts)),
        client: won.and_then(|(_, service)| client(packet, service, fresh.as_ref()?, facts)),
        ring: won.and_then(|(id, service)| ring_seen(id, service, ring.as_ref()?, facts)),
        leaves: backend.and_then(|backend| way_out(backend, &run, facts)),
        candidates: candidates(key, packet, won.map(|(_, service)| service.key), facts),
        omitted: 0,
        real_servers: won.map(|(id, service)| reals(id, service, facts)).unwrap_or_default(),
        offline: false,
        assumptions: won.and_then(|(id, _)| opening(packet, id, &run, facts)).into_iter().collect(),
    }
    .bounded(MOST_CANDIDATES)
}

/// What a director that has just started would make of the packet: rings as the same plan fills them, no flow known, every
/// ready real server healthy and reachable.
#[must_use]
pub fn explain_offline(
    packet: &PacketTuple,
    bindings: &BTreeMap<IpAddr, Arc<VipBinding>>,
    settings: &PlanSettings,
) -> Explanation {
    let fleet = Fleet::survey(bindings, &everything_on_link(bindings), &Observed::default());
    let mut allocations = Allocations::default();
    let failures = plan(&fleet, &mut allocations, settings).failures;
    let flows: [AtomicU64; FLOW_WAYS] = Default::default();
    let control = Control { live_until: u64::MAX, flow_secret: 1, ..Control::default() };
    let facts = Facts {
        fleet: &fleet,
        failures: &failures,
        allocations: &allocations,
        passing: Passing { control, now: 0, flows: &flows, overflows: &[], stamp_length: settings.stamp },
        fence: &|_| Duration::ZERO,
        ports: &BTreeMap::new(),
    };
    let mut explained = explain(packet, &facts);
    explained.name_nodes(bindings);
    // Where frames leave by, and who owns the VIP, is known to running directors alone.
    explained.leaves = None;
    explained.offline = true;
    explained.assumptions.insert(
        0,
        "no director was asked: every ready real server counts as healthy and reachable, and no flow is known"
            .to_owned(),
    );
    if explained.service.as_ref().is_some_and(|service| service.method_because == MethodReason::AllOnLink.to_string()) {
        explained
            .assumptions
            .push("no method is asked for: L2 where every real server is a neighbour, else TUNNEL".to_owned());
    }
    explained
}

/// A network in which every real server is a neighbour. Rings depend on addresses and weights alone, not on ways.
fn everything_on_link(bindings: &BTreeMap<IpAddr, Arc<VipBinding>>) -> Topology {
    const LINK: u32 = 1;
    let mut topology = Topology::default();
    topology.set_link(Link {
        index: LINK,
        name: "assumed".to_owned(),
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        up: true,
        carrier: true,
        kind: LinkKind::Port,
        controller: None,
        lower: None,
        active_port: None,
        xdp_program: None,
    });
    topology.set_routes([IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()].map(|any| Route {
        destination: Prefix::new(any, 0),
        metric: 0,
        source: Some(any),
        action: RouteAction::Send(vec![Hop { interface: LINK, gateway: None }]),
        mtu: None,
    }));
    let ports = bindings.values().flat_map(|binding| &binding.services).flat_map(|service| &service.ports);
    for real in ports.flat_map(|port| &port.reals) {
        topology.set_neighbour(LINK, real.address, Neighbour::Known([2, 0, 0, 0, 0, 2]));
    }
    topology
}

/// The port of the VIP that the packet is for; `None` for ICMP, which belongs to no port.
fn key_of(packet: &PacketTuple) -> Option<ServiceKey> {
    let protocol = match packet.protocol {
        PacketProtocol::Tcp => TransportProtocol::Tcp,
        PacketProtocol::Udp => TransportProtocol::Udp,
        PacketProtocol::Sctp => TransportProtocol::Sctp,
        PacketProtocol::Icmp => return None,
    };
    Some(ServiceKey { vip: packet.destination.ip(), protocol, port: packet.destination.port() })
}

/// The service that the packet path looked up, with its id.
fn winner<'f>(vip: &'f FleetVip, run: &Run, facts: &Facts<'_>) -> Option<(u16, &'f FleetService)> {
    let ids = vip.services.iter().map(|service| (facts.allocations.service_id(&service.key), service));
    ids.filter_map(|(id, service)| Some((id?, service.as_ref()))).find(|(id, _)| Some(*id) == run.service)
}

fn flow_hash(packet: &PacketTuple, service: u16, facts: &Facts<'_>) -> u64 {
    let ([a, b], [c, d]) = (packet.source.port().to_be_bytes(), packet.destination.port().to_be_bytes());
    let protocol = key_of(packet).map_or(0, |key| protocol_number(key.protocol));
    let tuple = hash::tuple(&address_words(packet.source.ip()), u32::from_le_bytes([a, b, c, d]), protocol);
    hash::flow(tuple, service, facts.passing.control.flow_secret)
}

fn vip_seen(address: IpAddr, vip: &FleetVip, facts: &Facts<'_>) -> VipSeen {
    let id = facts.allocations.address_id(&address);
    let fence = id.map(facts.fence).unwrap_or_default();
    VipSeen {
        address,
        in_tables: id.is_some(),
        answered_for_ms: u64::try_from(fence.as_millis()).unwrap_or(u64::MAX),
        own_address: vip.local,
        owner: None,
    }
}

/// Why a VIP is not served, or not wholly.
fn failures_of(vip: IpAddr, facts: &Facts<'_>) -> Vec<String> {
    facts.failures.iter().filter(|failure| failure.vip() == vip).map(ToString::to_string).collect()
}

fn bound(service: &FleetService) -> Bound {
    Bound {
        address: service.key.to_string(),
        service: format!("{}/{}", service.namespace, service.service),
        scheduler: service.options.scheduler.to_string(),
        method: service.method.to_string(),
        method_because: service.method_reason.to_string(),
        fails_open: service.fails_open(),
    }
}

/// What the flow table holds of the flow.
fn flow_seen(packet: &PacketTuple, service: u16, run: &Run, facts: &Facts<'_>) -> FlowSeen {
    let hash = flow_hash(packet, service, facts);
    let passing = &facts.passing;
    let found = passing
        .places(hash)
        .map(|word| word.load(Ordering::Relaxed))
        .find(|word| (word ^ hash) >> flow_word::SIGNATURE_SHIFT == 0);
    let Some(entry) = found.and_then(FlowEntry::read) else { return FlowSeen::default() };
    let idle = passing.stamp_length * u32::from(entry.idle(passing.stamp()));
    let backend = facts.allocations.tables().backends.get(&entry.backend);
    FlowSeen {
        in_table: true,
        real_server: backend.map(|backend| address_from_words(backend.address)),
        confirmed: entry.confirmed,
        idle_seconds: Some(idle.as_secs()),
        followed: run.verdict.reason() == Reason::FlowHit,
    }
}

/// What would be otherwise if the packet did not open its flow: the former owner of its slot is named only then.
fn opening(packet: &PacketTuple, service: u16, run: &Run, facts: &Facts<'_>) -> Option<String> {
    let row = facts.allocations.tables().services.get(&service)?;
    let matters = packet.protocol == PacketProtocol::Tcp
        && row.flags & Service::FLAG_SECOND_CHANCE != 0
        && run.verdict.reason() != Reason::FlowHit;
    matters.then(|| {
        "the packet opens its connection: one in the middle of a flow that is not known goes to the same real server with \
         the former owner of its slot, where there is one, in the tunnel's header (second_chance)"
            .to_owned()
    })
}

/// What persistence says of the client.
fn client(packet: &PacketTuple, service: &FleetService, fresh: &Run, facts: &Facts<'_>) -> Option<Client> {
    let persistence = service.options.persistence?;
    let backend = facts.allocations.tables().backends.get(&fresh.backend);
    Some(Client {
        seconds: persistence.timeout.as_secs(),
        prefix: if packet.source.is_ipv4() { persistence.prefix4 } else { persistence.prefix6 },
        real_server: backend
            .filter(|_| fresh.verdict.reason() == Reason::Persistent)
            .map(|backend| address_from_words(backend.address)),
    })
}

/// What the ring gives who is not known.
fn ring_seen(id: u16, service: &FleetService, run: &Run, facts: &Facts<'_>) -> Option<RingSeen> {
    let tables = facts.allocations.tables();
    let row = tables.services.get(&id).filter(|row| row.ring_slots > 0)?;
    let of_slot = run.slot.and_then(|slot| tables.slots(row.ring).nth(slot as usize));
    let backend = of_slot.and_then(|backend| tables.backends.get(&backend));
    let one_packet = row.flags & Service::FLAG_ONE_PACKET != 0;
    Some(RingSeen {
        slots: row.ring_slots,
        by: told::picked_by(row.select, service.options.one_packet && one_packet),
        slot: run.slot.filter(|_| !run.in_turn),
        real_server: backend.filter(|_| !run.in_turn).map(|backend| address_from_words(backend.address)),
    })
}

/// How the frame would leave, read from the frame that the packet path made.
fn way_out(backend: &Backend, run: &Run, facts: &Facts<'_>) -> Option<WayOut> {
    let out = match run.verdict {
        Verdict::Transmit(_) => run.ingress,
        Verdict::Redirect(_, port) => port,
        Verdict::Pass(_) | Verdict::Drop(_) => return None,
    };
    let frame = Dissection::of(&run.frame)?;
    let outer = match &frame.network {
        Network::Ip(packet) => packet.inside.as_ref().map(|_| Outer {
            kind: if packet.ports.is_some() { "GUE" } else { "IPIP" }.to_owned(),
            source: packet.source,
            destination: packet.destination,
        }),
        Network::Arp { .. } | Network::Other(_) => None,
    };
    Some(WayOut {
        interface: facts.ports.get(&out).map_or_else(|| format!("#{out}"), |port| port.name.clone()),
        source_mac: told::mac(frame.source_mac),
        destination_mac: told::mac(frame.destination_mac),
        vlans: frame.vlans,
        outer,
        largest_packet: backend.mtu,
    })
}

/// Everything that could have taken the packet.
fn candidates(
    key: Option<ServiceKey>,
    packet: &PacketTuple,
    won: Option<ServiceKey>,
    facts: &Facts<'_>,
) -> Vec<Candidate> {
    let here = packet.destination.ip();
    let of_vip = |vip: &IpAddr| facts.fleet.vips.get(vip).into_iter().flat_map(|vip| &vip.services).map(Arc::as_ref);
    let mut all: Vec<Candidate> = of_vip(&here)
        .map(|service| {
            let lost = match key {
                _ if won == Some(service.key) => Lost::Won,
                _ if facts.allocations.service_id(&service.key).is_none() => Lost::NotInTables,
                None => Lost::Icmp,
                Some(key) if service.key.protocol != key.protocol => Lost::OtherProtocol(service.key.protocol),
                Some(_) if service.key.port == 0 => Lost::AnyPort,
                Some(_) => Lost::OtherPort(service.key.port),
            };
            Candidate::new(service, lost)
        })
        .collect();
    // Who won stands first, then by port.
    all.sort_by_key(|candidate| candidate.code != "won");
    // Where somebody took it, those are of no interest.
    let wanted = key.filter(|_| won.is_none());
    let elsewhere = facts.fleet.services().filter(|service| {
        service.key.vip != here
            && wanted.is_some_and(|key| (key.protocol, key.port) == (service.key.protocol, service.key.port))
    });
    let elsewhere = elsewhere.take(MOST_ELSEWHERE);
    all.extend(elsewhere.map(|service| Candidate::new(service, Lost::OtherVip(service.key.vip))));
    all
}

fn reals(id: u16, service: &FleetService, facts: &Facts<'_>) -> Vec<RealSeen> {
    let tables = facts.allocations.tables();
    let mut slots: BTreeMap<u16, u32> = BTreeMap::new();
    if let Some(row) = tables.services.get(&id) {
        for backend in tables.slots(row.ring).take(row.ring_slots as usize) {
            *slots.entry(backend).or_default() += 1;
        }
    }
    let seen = service.standings().take(MOST_REALS).map(|(real, standing)| RealSeen {
        address: real.address,
        weight: real.weight,
        gets: match standing {
            Standing::InRing => "new flows",
            Standing::Kept => "its flows",
            Standing::Dead => "nothing",
        }
        .to_owned(),
        slots: share(service, real, &slots, facts),
        because: real.trouble(),
        node: None,
        pods: None,
    });
    seen.collect()
}

fn share(service: &FleetService, real: &FleetReal, slots: &BTreeMap<u16, u32>, facts: &Facts<'_>) -> u32 {
    facts.allocations.backend_id(service, real).and_then(|id| slots.get(&id).copied()).unwrap_or(0)
}
