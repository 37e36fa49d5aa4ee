//! The loop of the forwarder's thread: what happens when.

use super::neighbours::Neighbours;
use super::own_way::{OwnWay, shown_ports, with_own_clients};
use super::surveyor::Surveyor;
use super::views::{Readings, Views};
use super::{ForwardMode, ForwarderSettings, Shared};
use crate::allocations::{Allocations, Geometry};
use crate::engine::{Attachment, Counters, Engine, EngineError, Mode};
use crate::explain::{Facts, explain};
use crate::failure::PlanFailure;
use crate::fleet::{Observed, ServiceKey};
use crate::head::address_from_words;
use crate::netlink::NetworkWatch;
use crate::offload;
use crate::pins::Pins;
use crate::plan::plan;
use crate::ports::{self, Port, Ports};
use crate::stats::{self, Rates, Swept};
use crate::status::{FlowTableStatus, ForwarderStatus, PortStatus};
use crate::tables::Tables;
use crate::topology::{Mac, Topology, Way};
use crate::weights::follow_flows;
use sluicegate_l4::layout::Backend;
use sluicegate_l4::verdict::Reason;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep_until};

/// Changes within this time become one plan.
const FOLD: Duration = Duration::from_millis(1);

/// From one renewal of the dead man's deadline to the next; counters are read as often.
const RENEW: Duration = Duration::from_secs(1);

/// After a failed write or a lost socket.
const RETRY: Duration = Duration::from_secs(1);

/// From one look at neighbours that must be asked to the next.
const ASK: Duration = Duration::from_millis(200);

/// Everything that the thread owns.
pub(super) struct Control {
    settings: ForwarderSettings,
    engine: Box<dyn Engine>,
    network: NetworkWatch,
    shared: Arc<Shared>,
    publish: watch::Sender<Arc<ForwarderStatus>>,
    allocations: Allocations,
    neighbours: Neighbours,
    own_clients: OwnWay,
    /// VIPs or the network are others than when own clients were led last.
    own_clients_moved: bool,
    surveyor: Surveyor,
    views: Views,
    /// The network is another one than it was when it was planned last.
    network_moved: bool,
    /// It was planned with a forgotten neighbour put back.
    patched: bool,
    /// VIPs or real servers are others than when ports were chosen last.
    ports_moved: bool,
    wanted_ports: Ports,
    failures: Vec<PlanFailure>,
    ports: Ports,
    attachments: BTreeMap<u32, Attachment>,
    trouble: Option<String>,
    counters: Counters,
    counted: Instant,
    rates: Rates,
    readings: Readings,
    swept: Swept,
    sweeps: u64,
    applied: u64,
    sampling: u32,
    table_writes: u64,
    /// Weights of `lc` and `wlc`, by the flows of the last sweep.
    weights: Arc<BTreeMap<(ServiceKey, IpAddr), u16>>,
    /// When to plan anew; `None` = nothing changed.
    due: Option<Instant>,
    started: Instant,
    retired: bool,
}

impl Control {
    pub(super) fn new(
        settings: ForwarderSettings,
        engine: Box<dyn Engine>,
        network: NetworkWatch,
        tables: Tables,
        shared: Arc<Shared>,
        publish: watch::Sender<Arc<ForwarderStatus>>,
    ) -> Self {
        let now = Instant::now();
        let neighbours = Neighbours::adopting(next_hops(&tables));
        Self {
            settings,
            engine,
            network,
            shared,
            publish,
            allocations: Allocations::adopt(tables, Geometry::default()),
            neighbours,
            own_clients: OwnWay::default(),
            own_clients_moved: true,
            surveyor: Surveyor::default(),
            views: Views::default(),
            network_moved: true,
            patched: false,
            ports_moved: true,
            wanted_ports: Ports::default(),
            failures: Vec::new(),
            ports: Ports::default(),
            attachments: BTreeMap::new(),
            trouble: None,
            counters: Counters::default(),
            counted: now,
            rates: Rates::default(),
            readings: Readings::default(),
            swept: Swept::default(),
            sweeps: 0,
            applied: 0,
            sampling: 0,
            table_writes: 0,
            weights: Arc::default(),
            due: None,
            started: now,
            retired: false,
        }
    }

    /// Runs until told to stop. Renewal comes before everything else: whatever takes long, the tables stay live.
    pub(super) async fn run(mut self) {
        let mut renewal = ticker(RENEW);
        let mut sweep = ticker(self.settings.sweep_interval.max(RENEW));
        let mut ask = ticker(ASK);
        let shared = self.shared.clone();
        loop {
            let due = self.due;
            tokio::select! {
                biased;
                _ = renewal.tick() => self.renew(),
                () = shared.changed.notified() => {
                    if shared.wished().stop {
                        return;
                    }
                    self.answer();
                    if shared.wished().generation != self.applied {
                        self.plan_within(FOLD);
                    }
                }
                changed = self.network.changed() => match changed {
                    Ok(()) => self.network_changed(),
                    Err(error) => self.follow_anew(&error.to_string()).await,
                },
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {
                    self.replan();
                    self.lead_own_clients().await;
                }
                _ = ask.tick() => {
                    for (interface, address) in self.neighbours.due(Instant::now()) {
                        self.network.ask_for(interface, address).await;
                    }
                }
                _ = sweep.tick() => self.sweep(),
            }
        }
    }

    /// Answers the questions about packets that wait.
    fn answer(&mut self) {
        let questions = self.shared.questions();
        for question in questions {
            self.allocations.recall(question.packet.destination.ip());
            let facts = Facts {
                fleet: self.surveyor.fleet(),
                failures: &self.failures,
                allocations: &self.allocations,
                passing: self.engine.passing(),
                fence: &|address| self.engine.fence(address),
                ports: &self.ports.ports,
            };
            // Whoever asked may have stopped waiting.
            let _gone = question.answer.send(explain(&question.packet, &facts));
        }
    }

    fn plan_within(&mut self, time: Duration) {
        let at = Instant::now() + time;
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    fn network_changed(&mut self) {
        self.network_moved = true;
        self.plan_within(FOLD);
    }

    /// Brings tables and ports to what is wished.
    fn replan(&mut self) {
        self.due = None;
        let wish = self.shared.wished().clone();
        if wish.sample_every != self.sampling && self.report(|engine| engine.sample(wish.sample_every)) {
            self.sampling = wish.sample_every;
        }
        let Some(bindings) = wish.bindings else {
            self.applied = wish.generation;
            self.publish();
            return;
        };
        let observed = Observed { weights: self.weights.clone(), ..wish.observed };
        let now = Instant::now();
        let moved = std::mem::take(&mut self.network_moved);
        if self.surveyor.bind(&bindings) | moved {
            self.neighbours.need(self.network.topology(), self.surveyor.reals(), now);
            (self.ports_moved, self.own_clients_moved) = (true, true);
        }
        let (patched, grace_ends) = self.neighbours.patched(self.network.topology(), now);
        // The network with a neighbour put back is another one than that without.
        let moved = moved | patched.is_some() | std::mem::replace(&mut self.patched, patched.is_some());
        let topology = patched.as_ref().unwrap_or_else(|| self.network.topology());
        if moved | self.ports_moved {
            let interfaces = interfaces_of(&self.surveyor, topology);
            self.wanted_ports = ports::resolve(topology, &self.settings.interfaces, &interfaces);
            self.ports_moved = false;
        }
        let moved = self.surveyor.survey(moved, topology, observed);
        let settled = self.bring_tables_to_fleet();
        self.own_clients_moved |= !settled;
        self.bring_ports_to(with_own_clients(self.wanted_ports.clone(), self.network.topology()));
        self.applied = wish.generation;
        if let Some(end) = grace_ends {
            self.plan_within(end.saturating_duration_since(now));
        }
        // What was not in the tables may have got its ids by a change of something else.
        let moved = moved.filter(|_| settled);
        self.views.renew(moved.as_ref(), self.surveyor.fleet(), &self.allocations, &self.readings);
        self.publish();
    }

    /// True where all of the fleet is in the tables, and was before.
    fn bring_tables_to_fleet(&mut self) -> bool {
        let made = plan(self.surveyor.fleet(), &mut self.allocations, &self.settings.plan);
        let settled = self.failures.is_empty() && made.failures.is_empty();
        self.failures = made.failures;
        if made.ops.is_empty() {
            return settled;
        }
        self.table_writes += made.ops.len() as u64;
        if self.report(|engine| engine.apply(&made.ops)) {
            return settled;
        }
        // What is in the tables is not what was planned: begin with what they hold.
        match self.engine.read() {
            Ok(tables) => self.allocations = Allocations::adopt(tables, Geometry::default()),
            Err(error) => tracing::error!(%error, "the tables cannot be read back"),
        }
        self.plan_within(RETRY);
        false
    }

    fn bring_ports_to(&mut self, ports: Ports) {
        let settled = self.attachments.values().all(|attachment| attachment.mode.is_some());
        if ports == self.ports && settled && self.attachments.len() == ports.ports.len() {
            return;
        }
        for failure in ports.failures.iter().filter(|failure| !self.ports.failures.contains(failure)) {
            tracing::warn!(%failure, "an interface is left out");
        }
        let modes = if self.settings.native { MODES } else { &[Mode::Generic] };
        let before = std::mem::replace(&mut self.attachments, self.engine.set_ports(&ports.ports, modes));
        self.ports = ports;
        for (index, attachment) in &self.attachments {
            if before.get(index).map(|before| before.mode) != Some(attachment.mode)
                && let Some(port) = self.ports.ports.get(index)
            {
                log_attachment(port, attachment);
                if attachment.mode == Some(Mode::Native) {
                    offload::show_frames_as_they_came(&port.name);
                }
            }
        }
        if self.attachments.values().any(|attachment| attachment.mode.is_none()) {
            self.plan_within(RETRY);
        }
    }

    /// Leads what clients on this machine send to VIPs into the program, as soon as that knows the VIPs.
    async fn lead_own_clients(&mut self) {
        if self.settings.mode == ForwardMode::Packet || !std::mem::take(&mut self.own_clients_moved) {
            return;
        }
        let vips = self.surveyor.fleet().vips.keys();
        let served = vips.filter(|vip| self.allocations.address_id(vip).is_some()).copied();
        let ports: Vec<&Port> = shown_ports(&self.ports).collect();
        self.own_clients.lead(served, &ports, self.network.topology()).await;
    }

    fn renew(&mut self) {
        let ahead = self.settings.dead_man.max(3 * RENEW);
        self.report(|engine| engine.renew(ahead));
        self.count();
        self.views.count(self.surveyor.fleet(), &self.allocations, &self.readings);
        self.retire();
        self.publish();
    }

    fn count(&mut self) {
        let services: Vec<u16> = self.allocations.services().map(|(_, id)| id).collect();
        let backends: Vec<u16> = self.allocations.backends().map(|(_, id)| id).collect();
        match self.engine.counters(&services, &backends) {
            Ok(counters) => {
                let now = Instant::now();
                self.rates = stats::rates(&self.counters, &counters, now.saturating_duration_since(self.counted));
                (self.counters, self.counted) = (counters, now);
                self.readings.take(&self.counters, &self.rates, &self.swept);
            }
            Err(error) => tracing::warn!(%error, "counters cannot be read"),
        }
    }

    /// Removes tables of other versions when there is no way back to them any more.
    fn retire(&mut self) {
        if self.retired || self.started.elapsed() < self.settings.retire_after {
            return;
        }
        self.retired = true;
        for other in Pins::new(self.settings.pin_root.clone(), self.settings.version).other_versions() {
            match other.remove_tables() {
                Ok(()) => tracing::info!(version = other.version(), "removed the tables of another version"),
                Err(error) => tracing::warn!(%error, "tables of another version stay"),
            }
        }
    }

    fn sweep(&mut self) {
        let sweep = self.allocations.begin_sweep();
        let backends = &self.allocations.tables().backends;
        let generation_of =
            |id: u16| backends.get(&id).filter(|record| record.alive != 0).map(|record| record.generation);
        let Some(flows) = self.engine.flows() else { return };
        self.swept = stats::sweep(&flows, generation_of);
        self.sweeps += 1;
        self.allocations.swept(sweep);
        let mut observed = Observed { weights: std::mem::take(&mut self.weights), ..Observed::default() };
        let moved = follow_flows(self.surveyor.fleet(), &self.allocations, |id| self.swept.flows_of(id), &mut observed);
        self.weights = observed.weights;
        // What had no room may have some.
        if moved || !self.failures.is_empty() {
            self.plan_within(FOLD);
        }
    }

    /// The socket for changes is gone: a new one, and everything read anew.
    async fn follow_anew(&mut self, error: &str) {
        tracing::error!(%error, "the network cannot be followed, trying again");
        tokio::time::sleep(RETRY / 4).await;
        match NetworkWatch::start().await {
            Ok(network) => {
                self.network = network;
                self.network_changed();
            }
            Err(error) => tracing::error!(%error, "the network cannot be followed"),
        }
    }

    /// Has the engine do something; says once what went wrong.
    fn report(&mut self, act: impl FnOnce(&mut dyn Engine) -> Result<(), EngineError>) -> bool {
        match act(self.engine.as_mut()) {
            Ok(()) => {
                self.trouble = None;
                true
            }
            Err(error) => {
                let trouble = error.to_string();
                if self.trouble.as_ref() != Some(&trouble) {
                    tracing::error!(error = %trouble, "the packet path was not brought up to date");
                }
                self.trouble = Some(trouble);
                false
            }
        }
    }

    fn publish(&self) {
        let mut problems: Vec<String> = self.trouble.iter().cloned().collect();
        problems.extend(self.ports.failures.iter().map(ToString::to_string));
        let status = ForwarderStatus {
            applied: self.applied,
            engine: self.publish.borrow().engine.clone(),
            ports: shown_ports(&self.ports).map(|port| self.port_status(port)).collect(),
            problems,
            vips: self.views.all(),
            readings: self.readings.backends(),
            failures: self.failures.clone(),
            reasons: Reason::ALL
                .iter()
                .zip(&self.counters.reasons)
                .filter(|(_, count)| **count > 0)
                .map(|(reason, count)| (*reason, *count))
                .collect(),
            flows: FlowTableStatus {
                capacity: self.swept.capacity,
                established: self.swept.established.values().sum(),
                tentative: self.swept.tentative.values().sum(),
                sweeps: self.sweeps,
            },
            counted: (!self.counters.reasons.is_empty()).then_some(self.counted),
            table_writes: self.table_writes,
        };
        self.publish.send_replace(Arc::new(status));
    }

    fn port_status(&self, port: &Port) -> PortStatus {
        let attachment = self.attachments.get(&port.index);
        PortStatus {
            index: port.index,
            name: port.name.clone(),
            asked_as: port.asked_as.clone(),
            mac: port.mac,
            carrier: self.network.topology().link(port.index).is_some_and(|link| link.carrier),
            mode: attachment.and_then(|attachment| attachment.mode),
            refused: attachment.map(|attachment| attachment.refused.clone()).unwrap_or_default(),
        }
    }
}

/// The ladder.
const MODES: &[Mode] = &[Mode::Native, Mode::Generic];

fn ticker(period: Duration) -> Interval {
    let mut ticker = interval(period);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}

/// Where the tables send to: by real server, the MAC address that its head begins with.
fn next_hops(tables: &Tables) -> BTreeMap<IpAddr, Mac> {
    let sent = tables.backends.values().filter(|record| record.alive == 1 && record.kind != Backend::KIND_LOCAL);
    sent.filter_map(|record| Some((address_from_words(record.address), *record.head.first_chunk()?))).collect()
}

/// Where VIPs and real servers are: interfaces that packets for them come in or leave by.
fn interfaces_of(surveyor: &Surveyor, topology: &Topology) -> BTreeSet<u32> {
    let mut interfaces: BTreeSet<u32> = surveyor.vips().filter_map(|vip| topology.on_link(*vip)).collect();
    for real in surveyor.reals() {
        if let Ok(Way::Out(next)) = topology.delivery(*real) {
            interfaces.insert(next.logical);
        }
    }
    interfaces
}

fn log_attachment(port: &Port, attachment: &Attachment) {
    for (mode, reason) in &attachment.refused {
        tracing::warn!(interface = %port.name, %mode, %reason, "XDP was refused");
    }
    match attachment.mode {
        Some(mode) => {
            tracing::info!(interface = %port.name, %mode, adopted = attachment.adopted, "packets are taken");
        }
        None => {
            tracing::error!(interface = %port.name, "packets are not taken: clients of this interface are not served")
        }
    }
}
