//! The forwarder as the program holds it: told what is to be served, it makes the packet path do it, on a thread of its
//! own.
//!
//! What is told replaces what was told before, so nothing queues up. The thread folds changes that come within
//! milliseconds into one plan.

mod control;
mod neighbours;
mod own_way;
mod surveyor;
mod views;

use crate::allocations::dead_port;
use crate::engine::packet::{PacketEngine, PacketSettings};
use crate::engine::xdp::{Fences, Found, XdpEngine, XdpSettings};
use crate::engine::{Engine, EngineError, Samples};
use crate::explain::Explanation;
use crate::fleet::{Health, Observed, ServiceKey};
use crate::netlink::{NetlinkError, NetworkWatch};
use crate::packet_tuple::PacketTuple;
use crate::pins::{DEFAULT_ROOT, PinError, Pins};
use crate::plan::PlanSettings;
use crate::sampling::{Hub, NoTap, Selection, Tap};
use crate::status::{EngineState, ForwarderStatus};
use control::Control;
use sluicegate_config::{TransportProtocol, VipBinding};
use sluicegate_l4::layout;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// `--forward`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardMode {
    /// Native XDP, else generic, else off with the reason.
    #[default]
    Auto,
    /// XDP or an error.
    Xdp,
    /// User space over packet sockets.
    Packet,
    /// Nothing is forwarded.
    Off,
}

/// What the forwarder is started with.
#[derive(Clone, Debug)]
pub struct ForwarderSettings {
    /// Which engine.
    pub mode: ForwardMode,
    /// Interfaces to attach to; empty = those of default routes, VIPs and real servers.
    pub interfaces: Vec<String>,
    /// Ask drivers first; without, ports are attached to generically, as where no driver takes XDP.
    pub native: bool,
    /// Where programs and tables are pinned: in a BPF file system.
    pub pin_root: PathBuf,
    /// Version of the tables. Another one than [`layout::VERSION`] is for tests of upgrades.
    pub version: u32,
    /// Versions whose tables may be taken over where their geometry is the same.
    pub compatible: Vec<u32>,
    /// How long the tables stay live without a renewal, at least 3 s. Renewed each second.
    pub dead_man: Duration,
    /// Sets of eight flows, a power of two. A table that is there keeps its size.
    pub flow_sets: u32,
    /// From one sweep of the flow table to the next.
    pub sweep_interval: Duration,
    /// How long tables of other versions are kept, for a way back.
    pub retire_after: Duration,
    /// How rings are filled.
    pub plan: PlanSettings,
}

impl Default for ForwarderSettings {
    fn default() -> Self {
        Self {
            mode: ForwardMode::Auto,
            interfaces: Vec::new(),
            native: true,
            pin_root: PathBuf::from(DEFAULT_ROOT),
            version: layout::VERSION,
            compatible: layout::COMPATIBLE.to_vec(),
            dead_man: Duration::from_secs(10),
            flow_sets: layout::FLOW_SETS,
            sweep_interval: Duration::from_secs(5),
            retire_after: Duration::from_secs(600),
            plan: PlanSettings::default(),
        }
    }
}

/// Why there is no forwarder.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The network cannot be followed.
    #[error(transparent)]
    Network(#[from] NetlinkError),
    /// Threads or runtimes.
    #[error("cannot start the forwarder's thread: {0}")]
    Thread(#[source] io::Error),
}

/// What is wished, whole.
#[derive(Clone, Debug, Default)]
struct Wish {
    /// Counts every change.
    generation: u64,
    /// `None` = nobody has said anything yet: the tables are left as they were found.
    bindings: Option<Arc<BTreeMap<IpAddr, Arc<VipBinding>>>>,
    observed: Observed,
    sample_every: u32,
    stop: bool,
}

/// What the thread and its owner share.
#[derive(Default)]
struct Shared {
    wish: Mutex<Wish>,
    questions: Mutex<Vec<Question>>,
    changed: Notify,
}

/// Somebody wants to know what would become of a packet.
struct Question {
    packet: PacketTuple,
    answer: SyncSender<Explanation>,
}

/// Questions that wait at most; who asks one more is refused.
const MOST_QUESTIONS: usize = 16;
/// How long an answer may take: the thread may be filling rings.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a packet was not explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// The engine is off, or the thread has ended.
    #[error("no packets are forwarded here; `sluicegate vips` and the log say why")]
    Off,
    /// Too many questions, or one thing that takes long.
    #[error("the forwarder is busy; ask again")]
    Busy,
}

/// Asks a forwarder from any thread, for as long as that runs.
#[derive(Clone)]
pub struct Inquiry {
    shared: Arc<Shared>,
    hub: Arc<Hub>,
    runs: bool,
}

impl Inquiry {
    /// Sampled packets, from here on.
    ///
    /// # Errors
    /// Where nothing is forwarded, or as many read already as may.
    pub fn tap(&self, selection: Selection) -> Result<Tap, NoTap> {
        self.hub.open(selection)
    }

    /// What would become of a packet, by the tables as they are. It blocks for a moment.
    ///
    /// # Errors
    /// Where nothing is forwarded, or nobody has time.
    pub fn explain(&self, packet: PacketTuple) -> Result<Explanation, NoAnswer> {
        if !self.runs {
            return Err(NoAnswer::Off);
        }
        let (answer, answered) = sync_channel(1);
        {
            let mut questions = self.shared.questions.lock().unwrap_or_else(PoisonError::into_inner);
            if questions.len() >= MOST_QUESTIONS {
                return Err(NoAnswer::Busy);
            }
            questions.push(Question { packet, answer });
        }
        self.shared.changed.notify_one();
        answered.recv_timeout(PATIENCE).map_err(|error| match error {
            RecvTimeoutError::Timeout => NoAnswer::Busy,
            RecvTimeoutError::Disconnected => NoAnswer::Off,
        })
    }
}

impl Shared {
    /// Changes the wish and gives word; the number of the new one.
    fn wish(&self, change: impl FnOnce(&mut Wish)) -> u64 {
        let generation = {
            let mut wish = self.wished();
            change(&mut wish);
            wish.generation += 1;
            wish.generation
        };
        self.changed.notify_one();
        generation
    }

    fn wished(&self) -> MutexGuard<'_, Wish> {
        self.wish.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the questions that wait.
    fn questions(&self) -> Vec<Question> {
        std::mem::take(&mut *self.questions.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The running forwarder. Dropped, it stops and leaves programs and tables in place: they forward until the dead man's
/// deadline, and a forwarder that starts before finds them.
pub struct Forwarder {
    shared: Arc<Shared>,
    status: watch::Receiver<Arc<ForwarderStatus>>,
    hub: Arc<Hub>,
    fences: Option<Fences>,
    found_dead: BTreeSet<(IpAddr, TransportProtocol, u16)>,
    root: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Starts in the network namespace of the caller. Nothing is attached before the first [`Forwarder::apply`]; what a
    /// process before this one left goes on.
    ///
    /// # Errors
    /// Where the engine cannot start; in the mode `auto` that is a state of it instead ([`EngineState::Off`]).
    pub fn start(settings: ForwarderSettings) -> Result<Self, ForwardError> {
        let shared = Arc::new(Shared::default());
        let (state, engine, fences, samples) = start_engine(&settings)?;
        let status = ForwarderStatus { engine: state, ..ForwarderStatus::default() };
        let (publish, subscribe) = watch::channel(Arc::new(status));
        let root = settings.pin_root.clone();
        let mut thread = None;
        let mut found_dead = BTreeSet::new();
        if let Some(engine) = engine {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(ForwardError::Thread)?;
            let network = runtime.block_on(NetworkWatch::start())?;
            let tables = engine.read()?;
            found_dead = tables.backends.values().filter_map(dead_port).collect();
            let control = Control::new(settings, engine, network, tables, shared.clone(), publish);
            let spawned =
                std::thread::Builder::new().name("forwarder".to_owned()).spawn(move || runtime.block_on(control.run()));
            thread = Some(spawned.map_err(ForwardError::Thread)?);
        }
        let of_readers = shared.clone();
        let hub = Hub::new(samples, subscribe.clone(), move |every| {
            of_readers.wish(|wish| wish.sample_every = every);
        });
        Ok(Self { shared, status: subscribe, hub, fences, found_dead, root, thread })
    }

    /// Serves these VIPs and no others. The number that comes back is that of the wish: once
    /// [`ForwarderStatus::applied`] has reached it, it is in the tables.
    pub fn apply(&self, bindings: &BTreeMap<IpAddr, Arc<VipBinding>>) -> u64 {
        self.wish(|wish| wish.bindings = Some(Arc::new(bindings.clone())))
    }

    /// [`Forwarder::apply`] and [`Forwarder::set_health`] in one: no plan sees the one without the other.
    pub fn apply_with_health(
        &self,
        bindings: &BTreeMap<IpAddr, Arc<VipBinding>>,
        health: BTreeMap<(ServiceKey, IpAddr), Health>,
    ) -> u64 {
        self.wish(|wish| {
            wish.bindings = Some(Arc::new(bindings.clone()));
            wish.observed.health = Arc::new(health);
        })
    }

    /// Ports of real servers (address, transport, port of the service) that probes of a process before this one had found
    /// dead, as the tables said at the start.
    #[must_use]
    pub fn found_dead(&self) -> &BTreeSet<(IpAddr, TransportProtocol, u16)> {
        &self.found_dead
    }

    /// Takes all verdicts of the probes; what is not among them counts as healthy.
    pub fn set_health(&self, health: BTreeMap<(ServiceKey, IpAddr), Health>) -> u64 {
        self.wish(|wish| wish.observed.health = Arc::new(health))
    }

    /// Drains these real servers and no others: they keep their flows and get no new ones.
    pub fn set_drained(&self, drained: BTreeSet<IpAddr>) -> u64 {
        self.wish(|wish| wish.observed.drained = Arc::new(drained))
    }

    /// The state at this moment; counters are at most about a second old.
    #[must_use]
    pub fn status(&self) -> Arc<ForwarderStatus> {
        self.status.borrow().clone()
    }

    /// Follows the state.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<ForwarderStatus>> {
        self.status.clone()
    }

    /// For who asks about packets.
    #[must_use]
    pub fn inquiry(&self) -> Inquiry {
        Inquiry { shared: self.shared.clone(), hub: self.hub.clone(), runs: self.thread.is_some() }
    }

    /// The fences, once: for who decides about the ownership of VIPs. Ids of VIPs are in [`ForwarderStatus::vips`].
    /// `None` where nothing is forwarded, and at the second call.
    pub fn take_fences(&mut self) -> Option<Fences> {
        self.fences.take()
    }

    /// Stops and removes programs, links and tables. Nothing of it is left.
    ///
    /// # Errors
    /// Where pins cannot be removed.
    pub fn detach(mut self) -> Result<(), PinError> {
        self.stop();
        detach(&self.root).map(|_| ())
    }

    fn wish(&self, change: impl FnOnce(&mut Wish)) -> u64 {
        self.shared.wish(change)
    }

    fn stop(&mut self) {
        self.hub.end();
        self.wish(|wish| wish.stop = true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the forwarder's thread had ended by a panic");
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Removes what a forwarder left below `root`: links, programs, tables of all versions. False where there was nothing.
///
/// # Errors
/// Where another process uses them, or a pin cannot be removed.
pub fn detach(root: &Path) -> Result<bool, PinError> {
    if let Err(error) = crate::own_clients::detach() {
        tracing::warn!(%error, "the way of this machine's own clients may be left");
    }
    // Routes of a packet engine that was killed; pins are the greater part, so they go whatever becomes of these.
    if let Err(error) = crate::engine::packet::detach() {
        tracing::warn!(%error, "blackhole routes of VIPs may be left");
    }
    crate::pins::detach(root)
}

type Started = (EngineState, Option<Box<dyn Engine>>, Option<Fences>, Option<Samples>);

fn start_engine(settings: &ForwarderSettings) -> Result<Started, ForwardError> {
    match settings.mode {
        ForwardMode::Off => return Ok((EngineState::Off("--forward off".to_owned()), None, None, None)),
        ForwardMode::Packet => {
            let wanted = PacketSettings { flow_sets: settings.flow_sets, ..PacketSettings::default() };
            let engine = PacketEngine::start(&wanted)?;
            let (fences, samples) = (engine.fences(), engine.samples());
            return Ok((EngineState::On(Found::Fresh), Some(Box::new(engine)), Some(fences), Some(samples)));
        }
        ForwardMode::Auto | ForwardMode::Xdp => {}
    }
    let wanted = XdpSettings {
        pins: Pins::new(settings.pin_root.clone(), settings.version),
        compatible: settings.compatible.clone(),
        flow_sets: settings.flow_sets,
    };
    let started = XdpEngine::start(&wanted).and_then(|engine| {
        let (found, fences, samples) = (engine.found().clone(), engine.fences()?, engine.samples());
        Ok((EngineState::On(found), Some(Box::new(engine) as Box<dyn Engine>), Some(fences), Some(samples)))
    });
    match started {
        Err(error) if settings.mode == ForwardMode::Auto => {
            tracing::error!(%error, "packets are not forwarded");
            Ok((EngineState::Off(error.to_string()), None, None, None))
        }
        started => Ok(started?),
    }
}
