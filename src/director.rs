//! The director: forwarder, probes and ownership of VIPs, each with a thread of its own, and the loop that carries word
//! between them. What is served it is told; whether packets flow it shows.
//!
//! Nothing starts before there is a VIP, or tables of a process before this one: a gateway without VIPs needs no rights for
//! the network.

mod membership;
mod node;
mod readiness;
mod shown;

pub use membership::LeaseSettings;
pub use node::NodeMarks;

use crate::ownership;
use anyhow::Context as _;
use membership::Leases;
use node::NodeCordon;
use sluicegate_admin::director::{CordonError, DirectorState, MembershipState};
use sluicegate_admin::state::LiveRealServer;
use sluicegate_announce::{
    AnnounceSettings, Announcer, DirectorId, FenceError, FenceSink, Fitness, Joins, Moment, OnIsolation, Port, Secret,
    Timing, VipView,
};
use sluicegate_backend::{ClassifierMode, ProbeEgress, ProbeEgressSettings, let_answers_in};
use sluicegate_config::{Readiness, TransportProtocol, VipBinding};
use sluicegate_dsr::layout::mark;
use sluicegate_forward::engine::xdp::Fences;
use sluicegate_forward::fleet::{Health as Verdict, ServiceKey, Standing};
use sluicegate_forward::forwarder::{Forwarder, ForwarderSettings, Inquiry};
use sluicegate_forward::pins::Pins;
use sluicegate_forward::status::{EngineState, ForwarderStatus, RealReading, RealStatus, ServiceStatus, VipStatus};
use sluicegate_health::{Health, HealthSettings, Target, Way, targets};
use sluicegate_l4::layout::map;
use sluicegate_telemetry::Metrics;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often fitness and ports are looked at where nobody gives word.
const PULSE: Duration = Duration::from_millis(100);
/// How long the peers may take to hear of a hand-over.
const HAND_OVER: Duration = Duration::from_secs(2);
/// Routing table of marked probes, and the priority of the rule that leads there: before the main table.
const PROBE_TABLE: u32 = 0x5347;
const PROBE_PRIORITY: u32 = 20_000;
/// Words that may wait; they say only that there is something to see.
const QUEUE: usize = 4;

/// The VIPs that are to be served.
pub type Bindings = BTreeMap<IpAddr, Arc<VipBinding>>;

/// What a director is started with.
pub struct DirectorSettings {
    pub forwarder: ForwarderSettings,
    /// Its name among directors.
    pub name: DirectorId,
    /// The name of the Node that it runs on.
    pub node: Arc<str>,
    /// The others, with their addresses.
    pub peers: BTreeMap<DirectorId, Vec<SocketAddr>>,
    /// They come from a cluster instead.
    pub leases: Option<LeaseSettings>,
    /// Where it listens for them.
    pub listen: Vec<SocketAddr>,
    /// What they all know; random where there are none.
    pub secret: Secret,
    pub failback: bool,
    /// It holds no VIP until it is uncordoned.
    pub cordoned: bool,
    pub on_isolation: OnIsolation,
    /// For how long the flows of a VIP that is bound to nothing any more are forwarded before it is released.
    pub vip_drain: Duration,
    /// Without forwarding this process is of no use: it is not ready then.
    pub must_forward: bool,
}

/// The director. Dropping it hands its VIPs over and leaves the tables to who comes next.
pub struct Director {
    name: DirectorId,
    node: Arc<str>,
    words: SyncSender<Word>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

enum Word {
    /// These are to be served.
    Serve(Arc<Bindings>),
    /// There is a verdict, or another status.
    Look,
    /// Others are to hold the VIPs.
    HandOver,
    /// Hand over and end.
    Stop,
}

/// What the loop shows.
#[derive(Default)]
struct Shared {
    view: Mutex<View>,
    /// As an operator last said.
    cordoned: AtomicBool,
    /// What the Node of this machine says.
    marks: Mutex<NodeMarks>,
}

/// What others see of the director.
#[derive(Clone, Default)]
struct View {
    forwarder: Option<Arc<ForwarderStatus>>,
    ownership: Option<sluicegate_announce::Status>,
    membership: Option<MembershipState>,
    /// Why the Node of this machine keeps it from holding VIPs.
    kept_by_node: Option<String>,
    /// For questions about packets.
    inquiry: Option<Inquiry>,
    /// What is to be served.
    bindings: Arc<Bindings>,
    /// Why nothing has started.
    trouble: Option<String>,
    /// Nothing else is done here, or forwarding was asked for by name: without it this is not ready.
    must_forward: bool,
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        locked(&self.view)
    }
}

impl Director {
    /// Starts the loop.
    ///
    /// # Errors
    /// Where there is no thread to be had.
    pub fn start(settings: DirectorSettings, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let (words, inbox) = sync_channel(QUEUE);
        let (name, node) = (settings.name.clone(), Arc::clone(&settings.node));
        let shared = Arc::new(Shared { cordoned: AtomicBool::new(settings.cordoned), ..Shared::default() });
        shared.view().must_forward = settings.must_forward;
        let work = Work {
            settings,
            shared: Arc::clone(&shared),
            words: words.clone(),
            bindings: Arc::default(),
            leaving: BTreeMap::new(),
            parts: None,
            announcer: None,
            leases: None,
            node_cordon: NodeCordon::default(),
            complained: false,
            metrics,
        };
        let thread = std::thread::Builder::new().name("director".to_owned()).spawn(move || work.run(&inbox));
        Ok(Self { name, node, words, shared, thread: Some(thread.context("the director's thread")?) })
    }

    /// Serves these VIPs and no others.
    pub fn serve(&self, bindings: &Bindings) {
        let bindings = Arc::new(bindings.clone());
        // At once, so that nobody is told that all is served before the loop has read it.
        self.shared.view().bindings = Arc::clone(&bindings);
        // A loop that is gone has said why.
        let _gone = self.words.send(Word::Serve(bindings));
    }

    /// The name of the Node that it runs on.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// What the Node says, from now on.
    pub fn set_node_marks(&self, marks: NodeMarks) {
        if std::mem::replace(&mut *locked(&self.shared.marks), marks) != marks {
            // A loop that has other words to read looks at the mark all the same.
            let _full = self.words.try_send(Word::Look);
        }
    }

    /// Gives the VIPs to others for good; what still comes in is forwarded.
    pub fn hand_over(&self) {
        let _gone = self.words.send(Word::HandOver);
    }

    /// True where this director holds the VIP and packets for it are forwarded.
    pub fn serves(&self, vip: IpAddr) -> bool {
        let view = self.shared.view();
        let is_in_tables = view.forwarder.as_ref().is_some_and(|status| has(status, vip));
        let holds = view
            .ownership
            .as_ref()
            .is_some_and(|status| status.vips.iter().any(|view| view.vip == vip && view.fence > Duration::ZERO));
        is_in_tables && holds
    }

    /// Gives the VIPs to others and goes on forwarding and voting, or takes part again.
    ///
    /// # Errors
    /// Where nobody else would hold the VIPs, unless it is forced.
    pub fn cordon(&self, cordoned: bool, force: bool) -> Result<DirectorState, CordonError> {
        let has_successor = || self.shared.view().ownership.as_ref().is_some_and(ownership::has_successor);
        if cordoned && !force && !has_successor() {
            return Err(CordonError::Alone);
        }
        if self.shared.cordoned.swap(cordoned, Ordering::Relaxed) != cordoned {
            tracing::info!(director = %self.name, cordoned, "an operator decided whether this director holds VIPs");
        }
        // A loop that has other words to read looks at the mark all the same.
        let _full = self.words.try_send(Word::Look);
        Ok(self.state())
    }

    /// This director among its peers.
    pub fn state(&self) -> DirectorState {
        let cordoned = self.shared.cordoned.load(Ordering::Relaxed);
        let view = self.shared.view();
        let state = ownership::director(&self.name, cordoned, view.ownership.as_ref(), view.membership.clone());
        match &view.kept_by_node {
            Some(why) if !cordoned => DirectorState { reason: Some(why.clone()), ..state },
            _ => state,
        }
    }

    /// Who owns a VIP, and who else claims it.
    pub fn vip(&self, vip: IpAddr) -> Option<VipView> {
        let view = self.shared.view();
        let vips = &view.ownership.as_ref()?.vips;
        vips.binary_search_by_key(&vip, |view| view.vip).ok().and_then(|place| vips.get(place)).cloned()
    }

    /// What is known of a real server.
    pub fn real_server(
        &self,
        vip: IpAddr,
        protocol: TransportProtocol,
        port: u16,
        address: IpAddr,
    ) -> Option<LiveRealServer> {
        let status = self.shared.view().forwarder.clone()?;
        let (service, real) = find(&status, ServiceKey { vip, protocol, port }, address)?;
        let reading = status.reading(real);
        Some(LiveRealServer {
            method: service.method.to_string(),
            healthy: Some(real.standing != Standing::Dead),
            reason: real.reason.as_deref().map(str::to_owned),
            connections: reading.traffic.flows,
            established: reading.established,
            packets: reading.traffic.packets,
            bytes: reading.traffic.bytes,
        })
    }
}

impl Drop for Director {
    fn drop(&mut self) {
        let _gone = self.words.send(Word::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the director ended by a panic");
        }
    }
}

fn has(status: &ForwarderStatus, vip: IpAddr) -> bool {
    matches!(status.engine, EngineState::On(_))
        && status.vips.iter().any(|known| known.address == vip && known.id.is_some())
}

fn find(status: &ForwarderStatus, key: ServiceKey, real: IpAddr) -> Option<(&ServiceStatus, &RealStatus)> {
    let vip = status.vips.iter().find(|vip| vip.address == key.vip)?;
    let service = vip.services.iter().find(|service| service.key == key)?;
    Some((service, service.reals.iter().find(|known| known.address == real)?))
}

/// The parts that run once there is a VIP.
struct Parts {
    forwarder: Forwarder,
    health: Health,
    /// A verdict of the probes has turned, and the forwarder does not know.
    turned: Arc<AtomicBool>,
    /// Until the announcer takes them.
    fences: Option<Fences>,
    /// Marked probes are delivered as packets of clients are.
    marked: Arc<AtomicBool>,
    /// There is no such program to be had: probes go past it. Before either is known they wait, or a real server that
    /// listens on the VIP alone would fail them.
    direct: Arc<AtomicBool>,
    /// This machine's addresses towards real servers, by family (true = IPv4), for VIPs that probes have a way for.
    sources: Sources,
    /// Interfaces that were told to take answers from VIPs that this machine has too, or refused it.
    let_in: BTreeSet<String>,
    /// What was said of ports that a real server's program keeps.
    complaints: BTreeSet<String>,
}

type Sources = Arc<Mutex<BTreeMap<bool, IpAddr>>>;

impl Parts {
    /// Starts the program that delivers marked packets, anew where VIPs of another family have come.
    fn give_probes_a_way(&mut self, status: &ForwarderStatus, settings: &ForwarderSettings) {
        let reals = status.vips.iter().flat_map(|vip| &vip.services).flat_map(|service| {
            service.reals.iter().filter(|real| real.id.is_some()).map(|real| (service.key.vip.is_ipv4(), real.address))
        });
        let towards: BTreeMap<bool, IpAddr> = reals.filter(|(is_ipv4, real)| *is_ipv4 == real.is_ipv4()).collect();
        let mut services = status.vips.iter().flat_map(|vip| &vip.services);
        if towards.is_empty() && services.any(|service| service.reals.iter().any(|real| real.id.is_some())) {
            // Real servers of the other family alone: the program has no way to them.
            self.direct.store(true, Ordering::Relaxed);
        }
        self.let_answers_in(status);
        let sources = {
            let mut known = locked(&self.sources);
            let new = towards.iter().filter(|(family, _)| !known.contains_key(family));
            let new: Vec<_> = new.filter_map(|(family, real)| Some((*family, own_address(*real)?))).collect();
            if new.is_empty() {
                return;
            }
            known.extend(new);
            known.values().copied().collect()
        };
        let wanted = probe_egress(&settings.pin_root, settings.version, sources);
        let started = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(anyhow::Error::from)
            .and_then(|runtime| Ok(runtime.block_on(ProbeEgress::start(&wanted))?));
        match started {
            Ok(_stays_pinned) => self.marked.store(true, Ordering::Relaxed),
            Err(error) => {
                self.direct.store(true, Ordering::Relaxed);
                tracing::warn!("probes go to real servers directly, which does not show a lost VIP: {error:#}")
            }
        }
    }

    /// Where this machine is a real server too, others answer its probes from an address that it has itself.
    fn let_answers_in(&mut self, status: &ForwarderStatus) {
        if !status.vips.iter().any(|vip| vip.held && vip.address.is_ipv4()) {
            return;
        }
        for port in status.ports.iter().filter(|port| port.mode.is_some()) {
            if !self.let_in.contains(&port.asked_as) {
                self.let_in.insert(port.asked_as.clone());
                match let_answers_in(&port.asked_as) {
                    Ok(true) => tracing::info!(
                        interface = %port.asked_as,
                        "accept_local set: real servers answer probes from VIPs that this machine has too"
                    ),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(%error, "probes over IPv4 of other real servers get no answers"),
                }
            }
        }
    }
}

/// A lock whose holder panicked has what it had.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A VIP that is to go once its flows are over.
struct Leaving {
    /// As it was, with real servers that get no new flows.
    binding: Arc<VipBinding>,
    /// When it goes in any case.
    until: Instant,
    /// Sweeps of the flow table when it began to leave.
    sweeps: u64,
}

impl Leaving {
    fn new(binding: &VipBinding, until: Instant, sweeps: u64) -> Self {
        let mut binding = binding.clone();
        let ports = binding.services.iter_mut().flat_map(|service| &mut service.ports);
        for real in ports.flat_map(|port| &mut port.reals) {
            real.readiness = Readiness::Draining;
        }
        Self { binding: Arc::new(binding), until, sweeps }
    }

    /// True when its time is over, or a whole sweep has found that its real servers have no flows.
    fn is_over(&self, status: &ForwarderStatus, now: Instant) -> bool {
        let vip = status.vips.iter().find(|vip| vip.address == self.binding.address);
        let mut reals = vip.into_iter().flat_map(|vip| &vip.services).flat_map(|service| &service.reals);
        let swept = status.flows.sweeps >= self.sweeps + 2;
        let has_none = |reading: RealReading| reading.established == 0 && reading.tentative == 0;
        now >= self.until || swept && reals.all(|real| has_none(status.reading(real)))
    }
}

struct Work {
    settings: DirectorSettings,
    shared: Arc<Shared>,
    words: SyncSender<Word>,
    bindings: Arc<Bindings>,
    /// VIPs that are in no binding any more and still have flows.
    leaving: BTreeMap<IpAddr, Leaving>,
    parts: Option<Parts>,
    announcer: Option<Announcer>,
    /// Its Lease, where directors come from a cluster.
    leases: Option<Leases>,
    /// Whether the Node of this machine keeps it from holding VIPs.
    node_cordon: NodeCordon,
    /// Starting failed, and that was said.
    complained: bool,
    metrics: Arc<Metrics>,
}

impl Work {
    fn run(mut self, inbox: &Receiver<Word>) {
        loop {
            match inbox.recv_timeout(PULSE) {
                Ok(Word::Serve(bindings)) => self.serve(bindings),
                Ok(Word::Look) => {}
                Ok(Word::HandOver) => self.hand_over(),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Word::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            }
            // The word of a verdict may have found no room, its mark stays.
            if self.parts.as_ref().is_some_and(|parts| parts.turned.swap(false, Ordering::Relaxed)) {
                self.carry_verdicts();
            }
            self.release();
            self.look();
        }
        self.hand_over();
        // Votes end with it, and only then the Lease.
        self.announcer = None;
        if let Some(leases) = self.leases.take() {
            leases.release();
        }
    }

    fn hand_over(&self) {
        if let Some(announcer) = &self.announcer
            && !announcer.release(HAND_OVER)
        {
            tracing::warn!("a peer was not told that this director gives its VIPs up; it waits for the lease");
        }
    }

    fn serve(&mut self, bindings: Arc<Bindings>) {
        let before = std::mem::replace(&mut self.bindings, bindings);
        self.leave(&before);
        if self.parts.is_none() && (!self.bindings.is_empty() || self.settings.forwarder.pin_root.exists()) {
            match self.start() {
                Ok(parts) => {
                    let mut view = self.shared.view();
                    (view.inquiry, view.trouble) = (Some(parts.forwarder.inquiry()), None);
                    self.parts = Some(parts);
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    self.shared.view().trouble = Some(error.clone());
                    if !self.complained && !self.bindings.is_empty() {
                        tracing::error!(%error, "VIPs are not served");
                        self.complained = true;
                    }
                    return;
                }
            }
        }
        if let Some(parts) = &self.parts {
            parts.health.set_targets(targets(self.bindings.values().map(Arc::as_ref)));
            // Targets that are gone are forgotten without a word, and what was said of them must not outlive them.
            parts.forwarder.apply_with_health(&self.wished(), verdicts(&parts.health));
        }
    }

    /// VIPs that were bound before and are not any more begin to leave.
    fn leave(&mut self, before: &Bindings) {
        self.leaving.retain(|vip, _| !self.bindings.contains_key(vip));
        let Some(parts) = &self.parts else { return };
        let (until, sweeps) = (Instant::now() + self.settings.vip_drain, parts.forwarder.status().flows.sweeps);
        for (vip, binding) in before.iter().filter(|(vip, _)| !self.bindings.contains_key(*vip)) {
            tracing::info!(%vip, at_most = ?self.settings.vip_drain, "the VIP takes no new flows and is released when those that it has are over");
            self.leaving.insert(*vip, Leaving::new(binding, until, sweeps));
        }
    }

    /// Lets go of VIPs whose flows are over.
    fn release(&mut self) {
        let Some(parts) = &self.parts else { return };
        if self.leaving.is_empty() {
            return;
        }
        let (status, now, before) = (parts.forwarder.status(), Instant::now(), self.leaving.len());
        self.leaving.retain(|vip, leaving| {
            let over = leaving.is_over(&status, now);
            if over {
                tracing::info!(%vip, "the VIP is released");
            }
            !over
        });
        if self.leaving.len() < before {
            parts.forwarder.apply(&self.wished());
        }
    }

    /// What is to be in the tables.
    fn wished(&self) -> Bindings {
        let mut wished = Bindings::clone(&self.bindings);
        wished.extend(self.leaving.iter().map(|(vip, leaving)| (*vip, Arc::clone(&leaving.binding))));
        wished
    }

    fn start(&self) -> anyhow::Result<Parts> {
        let mut forwarder = Forwarder::start(self.settings.forwarder.clone()).context("the forwarder")?;
        let fences = forwarder.take_fences();
        let status = forwarder.subscribe();
        let marked = Arc::new(AtomicBool::new(false));
        let is_marked = Arc::clone(&marked);
        let direct = Arc::new(AtomicBool::new(false));
        let is_direct = Arc::clone(&direct);
        let sources = Sources::default();
        let of_probes = Arc::clone(&sources);
        let route = move |target: &Target| {
            let source = locked(&of_probes).get(&target.vip.is_ipv4()).copied();
            let marked = is_marked.load(Ordering::Relaxed).then_some(source);
            way(&status.borrow(), target, marked, is_direct.load(Ordering::Relaxed))
        };
        let words = self.words.clone();
        let turned = Arc::new(AtomicBool::new(false));
        let has_turned = Arc::clone(&turned);
        let on_change = move |_| {
            has_turned.store(true, Ordering::Relaxed);
            // A word that finds no room is not needed: the loop has others to read, and looks at the mark after each.
            let _full = words.try_send(Word::Look);
        };
        let health = Health::start(HealthSettings::default(), route, on_change).context("health checks")?;
        health.presume_failed(forwarder.found_dead().clone());
        Ok(Parts {
            forwarder,
            health,
            turned,
            fences,
            marked,
            direct,
            sources,
            let_in: BTreeSet::new(),
            complaints: BTreeSet::new(),
        })
    }

    /// Tells the forwarder what the probes say.
    fn carry_verdicts(&self) {
        if let Some(parts) = &self.parts {
            parts.forwarder.set_health(verdicts(&parts.health));
        }
    }

    /// Tells the announcer what the forwarder is able to do.
    fn look(&mut self) {
        let Some(parts) = &mut self.parts else { return };
        let status = parts.forwarder.status();
        let ports: Vec<Port> = status
            .ports
            .iter()
            .filter(|port| port.mode.is_some())
            .map(|port| Port { index: port.index, mac: port.mac })
            .collect();
        if self.announcer.is_none()
            && !ports.is_empty()
            && let Some(fences) = parts.fences.take()
        {
            let sink = Sink { fences, status: parts.forwarder.subscribe() };
            let (leases, joins) = self.settings.leases.clone().map(Leases::new).unzip();
            match Announcer::start(announce_settings(&self.settings, joins, ports.clone()), sink) {
                Ok(announcer) => {
                    self.leases = leases.map(|mut leases| {
                        leases.start(&self.settings.name, announcer.incarnation());
                        leases
                    });
                    self.announcer = Some(announcer);
                }
                Err(error) => tracing::error!(%error, "VIPs are not announced"),
            }
        }
        for port in status.ports.iter().filter(|port| port.mode.is_none()) {
            take_from_own_real_server(&port.name, &mut parts.complaints);
        }
        if matches!(status.engine, EngineState::On(_)) && !ports.is_empty() {
            parts.give_probes_a_way(&status, &self.settings.forwarder);
        }
        if let (Some(announcer), Some(leases)) = (&self.announcer, &mut self.leases) {
            leases.carry(announcer);
        }
        let ownership = self.announcer.as_ref().map(Announcer::status);
        let marks = *locked(&self.shared.marks);
        let before = ownership.as_ref().map_or(0, ownership::present_before);
        let successor = ownership.as_ref().is_some_and(ownership::has_successor);
        let kept_by_node = self.node_cordon.reason(marks, successor, before, Instant::now());
        if let Some(announcer) = &self.announcer {
            let carrier = status.ports.iter().any(|port| port.mode.is_some() && port.carrier);
            announcer.set_ports(ports);
            announcer.set_vips(self.able(&status));
            announcer.set_fitness(Fitness {
                carrier,
                attached: status.ports.iter().any(|port| port.mode.is_some()),
                cordoned: kept_by_node.is_some() || self.shared.cordoned.load(Ordering::Relaxed),
            });
        }
        let mut view = self.shared.view();
        let is_counted = view.forwarder.as_ref().map(|before| before.counted) != Some(status.counted);
        if view.kept_by_node != kept_by_node {
            let holds_nothing_because = kept_by_node.as_deref().unwrap_or("nothing: its Node does not mind");
            tracing::info!(director = %self.settings.name, holds_nothing_because, "the Node decided whether this director holds VIPs");
        }
        view.kept_by_node = kept_by_node;
        view.ownership = ownership;
        view.membership = self.leases.as_ref().map(|leases| leases.state(view.ownership.as_ref()));
        view.forwarder = Some(status);
        if is_counted {
            let view = view.clone();
            if let Some(counts) = view.counts() {
                self.metrics.set_packets(counts);
            }
        }
    }

    /// The VIPs that are in the tables, each with whether it can be served.
    fn able(&self, status: &ForwarderStatus) -> BTreeMap<IpAddr, bool> {
        let known = status.vips.iter().filter(|vip| vip.id.is_some());
        let able = |vip: &VipStatus| match self.bindings.contains_key(&vip.address) {
            true => Some(is_able(vip)),
            // Held until its flows are over.
            false => self.leaving.contains_key(&vip.address).then_some(true),
        };
        known.filter_map(|vip| Some((vip.address, able(vip)?))).collect()
    }
}

/// What the probes say, as the forwarder takes it.
fn verdicts(health: &Health) -> BTreeMap<(ServiceKey, IpAddr), Verdict> {
    let verdicts = health.snapshot().into_iter().map(|(target, status)| {
        let key = ServiceKey { vip: target.vip, protocol: target.protocol, port: target.port };
        let verdict = match status.verdict.reason {
            Some(reason) => Verdict::Unhealthy(reason.to_string().into()),
            None => Verdict::Healthy,
        };
        ((key, target.real), verdict)
    });
    verdicts.collect()
}

/// Where this machine is a real server too, its program may have the port: it moves behind XDP, and the forwarder, which
/// tries again each second, finds the place free.
fn take_from_own_real_server(interface: &str, complaints: &mut BTreeSet<String>) {
    match sluicegate_backend::make_room(&sluicegate_backend::default_pins(), interface) {
        Ok(true) => {
            tracing::info!(%interface, "the real server's program of this machine made room for the director's")
        }
        Ok(false) => {}
        Err(error) => {
            if complaints.insert(format!("{interface}: {error}")) {
                tracing::warn!(%interface, %error, "the real server's program of this machine stays in XDP");
            }
        }
    }
}

/// A VIP that is bound to nothing is announced for its own sake.
fn is_able(vip: &VipStatus) -> bool {
    let mut reals = vip.services.iter().flat_map(|service| &service.reals);
    vip.services.is_empty() || reals.any(|real| real.standing == Standing::InRing)
}

fn announce_settings(settings: &DirectorSettings, joins: Option<Joins>, ports: Vec<Port>) -> AnnounceSettings {
    AnnounceSettings {
        me: settings.name.clone(),
        peers: settings.peers.clone(),
        joins,
        listen: settings.listen.clone(),
        secret: settings.secret.clone(),
        ports,
        timing: Timing::default(),
        failback: settings.failback,
        on_isolation: settings.on_isolation,
    }
}

/// The way of a probe: that of the packets (`marked`, with this machine's address of the VIP's family), else to the real
/// server's own address.
fn way(status: &ForwarderStatus, target: &Target, marked: Option<Option<IpAddr>>, direct: bool) -> Way {
    let key = ServiceKey { vip: target.vip, protocol: target.protocol, port: target.port };
    let is_held = || status.vips.iter().any(|vip| vip.address == target.vip && vip.held);
    match find(status, key, target.real) {
        Some((_, real)) => match (real.id, &real.reason, marked) {
            // The route of probes names the source of others.
            (Some(id), _, Some(source)) => {
                let source = source.filter(|_| is_held());
                mark(id).map_or(Way::Direct, |mark| Way::Marked { mark, source })
            }
            (Some(_), _, None) if direct => Way::Direct,
            (Some(_), _, None) => Way::Unknown,
            (None, Some(reason), _) => Way::Unreachable(reason.clone()),
            (None, None, _) => Way::Unknown,
        },
        None => Way::Unknown,
    }
}

/// The program of probes and the routing that leads to it, for who starts it and for who takes it away.
pub fn probe_egress(root: &Path, version: u32, sources: Vec<IpAddr>) -> ProbeEgressSettings {
    ProbeEgressSettings {
        pins: root.join("probe"),
        backends: Pins::new(root, version).tables().join(map::BACKENDS),
        sources,
        table: PROBE_TABLE,
        priority: PROBE_PRIORITY,
        classifiers: ClassifierMode::Auto,
    }
}

/// This machine's address towards another one, as the routing table says; no packet is sent.
pub fn own_address(towards: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if towards.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((towards, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Writes the fences where the packet path reads them.
struct Sink {
    fences: Fences,
    status: tokio::sync::watch::Receiver<Arc<ForwarderStatus>>,
}

impl FenceSink for Sink {
    fn set_fence(&mut self, vip: IpAddr, until: Moment) -> Result<(), FenceError> {
        let id = self.status.borrow().vips.iter().find(|known| known.address == vip).and_then(|known| known.id);
        match id {
            Some(id) => Ok(self.fences.hold_until(id, || until - Moment::now())?),
            // A VIP that is in no table is answered for by nobody.
            None if until <= Moment::now() => Ok(()),
            None => Err(format!("{vip} is not in the tables").into()),
        }
    }
}
