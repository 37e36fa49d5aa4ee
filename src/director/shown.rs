//! What the director shows: answers about packets, counters for tables and metrics, and whether it does what it should.

use super::{Director, View};
use sluicegate_admin::packets::{FlowCounts, PacketsState, PortState, PortTraffic, ReasonCount};
use sluicegate_admin::traffic::PacketTotals;
use sluicegate_announce::VipView;
use sluicegate_config::TransportProtocol;
use sluicegate_forward::explain::Explanation;
use sluicegate_forward::fleet::{ServiceKey, Standing};
use sluicegate_forward::forwarder::{Inquiry, NoAnswer};
use sluicegate_forward::packet_tuple::PacketTuple;
use sluicegate_forward::sampling::{NoTap, Selection, Tap};
use sluicegate_forward::stats::Outcome;
use sluicegate_forward::status::{EngineState, ForwarderStatus};
use sluicegate_l4::layout::Traffic;
use sluicegate_telemetry::packets::{Counted, DirectorCounts, PacketCounts, RealServerCounts, ServiceCounts};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

impl Director {
    /// What would become of a packet, by the tables as they are.
    ///
    /// # Errors
    /// Where nothing is forwarded here, or nobody has time.
    pub fn explain(&self, packet: PacketTuple) -> Result<Explanation, NoAnswer> {
        let mut explained = self.inquiry().ok_or(NoAnswer::Off)?.explain(packet)?;
        explained.name_nodes(&self.shared.view().bindings);
        if let Some(vip) = &mut explained.vip {
            vip.owner = self.owner(vip.address);
        }
        Ok(explained)
    }

    /// Sampled packets, from here on.
    ///
    /// # Errors
    /// Where nothing is forwarded here, or as many read already as may.
    pub fn tap(&self, selection: Selection) -> Result<Tap, NoTap> {
        self.inquiry().ok_or(NoTap::Off)?.tap(selection)
    }

    fn inquiry(&self) -> Option<Inquiry> {
        self.shared.view().inquiry.clone()
    }

    /// Name of the director that owns the VIP, as far as this one knows.
    pub fn owner(&self, vip: IpAddr) -> Option<String> {
        let view = self.shared.view();
        let known = view.ownership.as_ref()?.vips.iter().find(|known| known.vip == vip)?;
        known.owner.as_ref().map(ToString::to_string)
    }

    /// What a port of a VIP got.
    pub fn port(&self, vip: IpAddr, protocol: TransportProtocol, port: u16) -> Option<PortTraffic> {
        let status = self.shared.view().forwarder.clone()?;
        let key = ServiceKey { vip, protocol, port };
        let known = status.vips.iter().find(|known| known.address == vip)?;
        let service = known.services.iter().find(|service| service.key == key)?;
        Some(PortTraffic {
            port: format!("{protocol}/{port}"),
            method: service.method.to_string(),
            method_because: service.method_reason.to_string(),
            connections: service.traffic.flows,
            packets: service.traffic.packets,
            bytes: service.traffic.bytes,
        })
    }

    /// All that is not about one VIP.
    pub fn packets(&self) -> PacketsState {
        let view = self.shared.view().clone();
        let mut state = PacketsState { off: view.trouble.clone(), ..PacketsState::default() };
        let Some(status) = view.forwarder else {
            state.off.get_or_insert_with(|| "no virtual IP is bound yet".to_owned());
            return state;
        };
        if let EngineState::Off(why) = &status.engine {
            state.off = Some(why.clone());
        }
        state.ports = status
            .ports
            .iter()
            .map(|port| PortState {
                name: port.name.clone(),
                mode: port.mode.map(|mode| mode.to_string()),
                carrier: port.carrier,
            })
            .collect();
        state.counted_ms = status.counted.map(milliseconds);
        state.reasons = reasons(&status)
            .map(|(verdict, reason, packets)| ReasonCount {
                verdict: verdict.to_owned(),
                reason: reason.to_owned(),
                packets,
            })
            .collect();
        state.flows = FlowCounts {
            capacity: status.flows.capacity,
            established: status.flows.established,
            tentative: status.flows.tentative,
        };
        state.failures = status.failures.iter().map(ToString::to_string).collect();
        state.problems.clone_from(&status.problems);
        state
    }

    /// What was counted of all VIPs together; `None` before counters were read.
    pub fn packet_totals(&self) -> Option<PacketTotals> {
        let status = self.shared.view().forwarder.clone()?;
        let mut totals = PacketTotals { counted_ms: milliseconds(status.counted?), ..PacketTotals::default() };
        for service in status.vips.iter().flat_map(|vip| &vip.services) {
            totals.packets += service.traffic.packets;
            totals.bytes += service.traffic.bytes;
            totals.flows += service.traffic.flows;
        }
        let dropped = status.reasons.iter().filter(|(reason, _)| matches!(Outcome::of(*reason), Outcome::Dropped));
        totals.dropped = dropped.map(|(_, packets)| packets).sum();
        Some(totals)
    }

    /// Shows each VIP with when its counters were read, frames and bytes, all its ports together.
    pub fn visit_vips(&self, visit: &mut dyn FnMut(IpAddr, u64, u64, u64)) {
        let Some(status) = self.shared.view().forwarder.clone() else { return };
        let Some(counted) = status.counted.map(milliseconds) else { return };
        for vip in &status.vips {
            let traffic = || vip.services.iter().map(|service| service.traffic);
            let packets = traffic().map(|traffic| traffic.packets).sum();
            visit(vip.address, counted, packets, traffic().map(|traffic| traffic.bytes).sum());
        }
    }

    /// What of the bindings cannot be done here, VIP by VIP.
    pub fn failures(&self) -> BTreeSet<(IpAddr, String)> {
        let view = self.shared.view();
        let failures = view.forwarder.iter().flat_map(|status| &status.failures);
        failures.map(|failure| (failure.vip(), failure.to_string())).collect()
    }

    /// Why this director does not do what it should; nothing where it serves all that it should own, or stands by.
    pub fn shortcomings(&self) -> Vec<String> {
        self.shared.view().shortcomings()
    }
}

impl View {
    /// What metrics say.
    pub(super) fn counts(&self) -> Option<PacketCounts> {
        let status = self.forwarder.as_ref()?;
        let ownership = self.ownership.as_ref();
        let services = || status.vips.iter().flat_map(|vip| &vip.services);
        let owned = ownership.map(|ownership| {
            let mine = |view: &VipView| view.owner.as_ref() == Some(&ownership.me);
            ownership.vips.iter().map(|view| (view.vip.to_string(), mine(view))).collect()
        });
        let present = ownership.map_or(0, |ownership| ownership.peers.iter().filter(|peer| peer.present).count());
        let heard = present + usize::from(self.membership.as_ref().is_some_and(|membership| membership.is_member));
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        Some(PacketCounts {
            reasons: reasons(status).collect(),
            services: services()
                .filter(|service| service.id.is_some())
                .map(|service| ServiceCounts {
                    vip: service.key.vip.to_string(),
                    port: format!("{}/{}", service.key.protocol, service.key.port),
                    service: format!("{}/{}", service.namespace, service.service),
                    counted: counted(service.traffic),
                })
                .collect(),
            real_servers: real_servers(status),
            owned: owned.unwrap_or_default(),
            take_overs: ownership.map_or(0, |ownership| ownership.take_overs),
            losses: ownership.map_or(0, |ownership| ownership.losses),
            conflicts: ownership.map_or(0, |ownership| ownership.conflicts),
            directors: self.membership.as_ref().map(|membership| DirectorCounts {
                record: membership.number,
                recorded: count(membership.members.len()),
                heard: count(heard),
                lease_age: membership.renewed_seconds_ago,
            }),
            flows: (status.flows.established, status.flows.tentative),
            flow_capacity: status.flows.capacity,
        })
    }
}

fn reasons(status: &ForwarderStatus) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
    status.reasons.iter().map(|(reason, packets)| (Outcome::of(*reason).as_str(), reason.as_str(), *packets))
}

/// A record is shared by services: it is counted once, under its port where it has one.
fn real_servers(status: &ForwarderStatus) -> Vec<RealServerCounts> {
    let mut records: BTreeMap<u16, (IpAddr, String, BTreeSet<String>, Traffic)> = BTreeMap::new();
    for service in status.vips.iter().flat_map(|vip| &vip.services) {
        for real in &service.reals {
            let traffic = status.reading(real).traffic;
            if real.standing == Standing::Dead && traffic.packets == 0 {
                continue;
            }
            let Some(id) = real.id else { continue };
            let (_, _, ports, _) = records
                .entry(id)
                .or_insert_with(|| (real.address, service.method.to_string(), BTreeSet::new(), traffic));
            ports.insert(format!("{}/{}", service.key.protocol, service.key.port));
        }
    }
    let mut series: BTreeMap<(IpAddr, String, String), Counted> = BTreeMap::new();
    for (address, method, ports, traffic) in records.into_values() {
        let port = if ports.len() == 1 { ports.into_iter().collect() } else { "*".to_owned() };
        let sum = series.entry((address, method, port)).or_default();
        sum.packets += traffic.packets;
        sum.bytes += traffic.bytes;
        sum.flows += traffic.flows;
    }
    let one = |((address, method, port), counted): ((IpAddr, String, String), Counted)| RealServerCounts {
        real_server: address.to_string(),
        method,
        port,
        counted,
    };
    series.into_iter().map(one).collect()
}

fn counted(traffic: Traffic) -> Counted {
    Counted { packets: traffic.packets, bytes: traffic.bytes, flows: traffic.flows }
}

/// Of a clock of this process that only grows, from 1 s on.
fn milliseconds(at: Instant) -> u64 {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    let begin = *BEGIN.get_or_init(|| at.checked_sub(Duration::from_secs(1)).unwrap_or(at));
    u64::try_from(at.saturating_duration_since(begin).as_millis()).unwrap_or(u64::MAX)
}
