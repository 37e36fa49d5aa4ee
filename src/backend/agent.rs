//! The loop of `backend`: objects come in, the host becomes what they say, at once and again every two seconds.
//!
//! Nothing is taken away at its end, and nothing while an API server is away: programs and tables go on by themselves.

use super::host::{Host, Typed};
use crate::Failure;
use crate::api_server::ApiServer;
use crate::check::unix_now;
use crate::run::Signals;
use anyhow::{Context as _, anyhow, bail};
use sluicegate_admin::{ExplainError, ProbeServer, Readiness, Section, State, StateView, Unavailable};
use sluicegate_backend::{Addresses, Backend, BackendSettings, Changes};
use sluicegate_config::Settings;
use sluicegate_source::{Directory, DirectorySettings, Kube, KubeClient, KubeSettings, Login, SourceEvent, Wishes};
use sluicegate_telemetry::Metrics;
use sluicegate_translate::Controller;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{Receiver, channel};

/// How often the host is made what it should be though nothing was heard: somebody may have taken an address away.
const REPEAT: Duration = Duration::from_secs(2);
/// Events that may wait; a source that is faster blocks, and its changes gather meanwhile.
const QUEUE: usize = 16;

/// Everything that an agent is started with.
pub struct AgentSettings {
    /// Without interfaces: those that have the node's addresses are taken.
    pub backend: BackendSettings,
    pub typed: Typed,
    pub source: AgentSource,
    pub translate: Settings,
    /// Where probes and metrics are served.
    pub metrics: Vec<SocketAddr>,
    /// Do it once and end.
    pub once: bool,
}

/// Where objects come from.
pub enum AgentSource {
    /// What was typed is all.
    Nothing,
    /// A watched folder.
    Manifests(DirectorySettings),
    /// An API server.
    Cluster(Login, KubeSettings),
}

/// What watches them. Dropped, it ends.
enum Watching {
    Nothing,
    Manifests(#[expect(dead_code, reason = "held while it is to run")] Directory),
    Cluster(
        #[expect(dead_code, reason = "held while it is to run")] Kube,
        #[expect(dead_code, reason = "it ends with it")] Wishes,
    ),
}

/// A running agent.
pub struct Agent {
    watching: Watching,
    events: Receiver<SourceEvent>,
    controller: Controller,
    host: Host,
    backend: Option<Backend>,
    settings: BackendSettings,
    node: Option<Arc<str>>,
    status: Arc<AgentStatus>,
    metrics: Arc<Metrics>,
    _probes: Option<ProbeServer>,
    once: bool,
}

impl Agent {
    /// Serves probes and begins to read; nothing is programmed before [`Agent::run`].
    pub async fn start(settings: AgentSettings) -> anyhow::Result<Self> {
        let metrics = Metrics::new(1);
        let (sender, events) = channel(QUEUE);
        let sink = move |event| sender.blocking_send(event).is_ok();
        let mut api_server = None;
        let watching = match settings.source {
            AgentSource::Nothing => Watching::Nothing,
            AgentSource::Manifests(directory) => {
                Watching::Manifests(Directory::watch(directory, sink).context("--manifests")?)
            }
            AgentSource::Cluster(login, kube) => {
                let client = KubeClient::new(&login).await?;
                let server = ApiServer { address: client.address(), contact: client.contact() };
                tracing::info!(api_server = server.address, "objects come from the cluster");
                let of_metrics = server.clone();
                metrics.set_source(Arc::new(move || of_metrics.counts(Instant::now())));
                api_server = Some(server);
                let (wishes, granted) = Wishes::new();
                Watching::Cluster(Kube::watch(client, kube, granted, sink)?, wishes)
            }
        };
        let status = Arc::new(AgentStatus { api_server, ..AgentStatus::default() });
        let probes = match settings.metrics.as_slice() {
            [] => None,
            addresses => {
                let server = ProbeServer::start(addresses, Arc::<AgentStatus>::clone(&status), Arc::clone(&metrics))?;
                tracing::info!(metrics = ?server.addresses(), "listening");
                Some(server)
            }
        };
        Ok(Self {
            watching,
            events,
            controller: Controller::new(settings.translate),
            node: settings.typed.node.clone(),
            host: Host::new(settings.typed),
            backend: None,
            settings: settings.backend,
            status,
            metrics,
            _probes: probes,
            once: settings.once,
        })
    }

    /// Until a signal comes. VIPs and programs stay.
    pub async fn run(mut self) -> Result<(), Failure> {
        let mut signals = Signals::new()?;
        let mut is_known = matches!(self.watching, Watching::Nothing);
        let mut repeat = tokio::time::interval(REPEAT);
        repeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                name = signals.next() => {
                    self.status.set(|said| said.is_leaving = true);
                    tracing::info!("{name}: VIPs and programs stay; `sluicegate detach` takes them away");
                    return Ok(());
                }
                event = self.events.recv(), if !matches!(self.watching, Watching::Nothing) => {
                    let Some(event) = event else { return Err(anyhow!("nobody follows objects any more; the log says why").into()) };
                    is_known |= event.initial;
                    self.take(event);
                    if !is_known {
                        continue;
                    }
                }
                _ = repeat.tick() => {}
            }
            if is_known {
                self.program().await?;
                if self.once {
                    return Ok(());
                }
            }
        }
    }

    fn take(&mut self, event: SourceEvent) {
        let update = self.controller.apply(event.changes, unix_now());
        for (file, rejections) in event.file_rejections {
            // What is wrong with objects is the directors' and gateways' to say; what cannot be read is this agent's.
            for rejection in self.controller.set_file_rejections(&file, rejections).new_rejections {
                tracing::warn!("{rejection}");
            }
        }
        self.host.take(&self.controller, &update, Instant::now());
        if event.initial && matches!(self.watching, Watching::Manifests(_)) {
            // A folder has no leader that would choose.
            let update = self.controller.give_addresses(true, unix_now());
            self.host.take(&self.controller, &update, Instant::now());
        }
    }

    /// Makes the host what it is to be. The first failure ends the agent, as a setting is wrong then; a later one is said and
    /// tried again.
    async fn program(&mut self) -> anyhow::Result<()> {
        let state = self.host.state(Instant::now());
        let is_first = self.backend.is_none();
        if is_first && !self.attach().await? {
            return Ok(());
        }
        let Some(backend) = &mut self.backend else { return Ok(()) };
        match backend.apply(&state).await {
            Ok(changes) => {
                say(&changes);
                self.status.set(|said| (said.is_applied, said.trouble) = (true, None));
            }
            Err(error) if is_first => return Err(error.into()),
            Err(error) => {
                let why = error.to_string();
                self.status.complain(why);
            }
        }
        if let Ok(counters) = backend.counters() {
            self.metrics.set_node_packets(counters.into_iter().map(|(reason, count)| (reason.as_str(), count)));
        }
        Ok(())
    }

    /// False while it is not known where: a kubelet makes its Node first and says its addresses later.
    async fn attach(&mut self) -> anyhow::Result<bool> {
        if self.settings.interfaces.is_empty() {
            self.settings.interfaces = match self.interfaces_of_the_node().await {
                Ok(found) => found,
                Err(error) if self.once => return Err(error),
                Err(error) => {
                    self.status.complain(error.to_string());
                    return Ok(false);
                }
            };
        }
        let backend = Backend::start(&self.settings).context("this host cannot be a real server")?;
        for attachment in backend.attachments() {
            tracing::info!(?attachment, "attached");
        }
        self.backend = Some(backend);
        Ok(true)
    }

    async fn interfaces_of_the_node(&self) -> anyhow::Result<Vec<String>> {
        let name = self.node.as_deref().unwrap_or_default();
        let Some(node) = self.controller.objects().node(name) else {
            bail!(
                "there is no Node {name}: give --node-name the name of this node, or the interfaces with --interface"
            );
        };
        let wanted: BTreeSet<IpAddr> = node.internal.iter().copied().collect();
        let found = Addresses::open()?.interfaces_with(&wanted).await?;
        if found.is_empty() {
            bail!(
                "no interface has an address of Node {name} ({}): run with the host's network, or give --interface",
                node.internal.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            );
        }
        Ok(found)
    }
}

fn say(changes: &Changes) {
    for vip in &changes.added {
        tracing::info!(%vip, "on lo");
    }
    for vip in &changes.removed {
        tracing::info!(%vip, "taken off lo");
    }
}

/// What probes ask.
#[derive(Default)]
struct AgentStatus {
    said: Mutex<Said>,
    api_server: Option<ApiServer>,
}

#[derive(Default)]
struct Said {
    is_applied: bool,
    is_leaving: bool,
    trouble: Option<String>,
}

impl AgentStatus {
    fn set(&self, change: impl FnOnce(&mut Said)) {
        change(&mut self.said());
    }

    /// Not ready for this reason, which is logged once.
    fn complain(&self, why: String) {
        self.set(|said| {
            if said.trouble.as_deref() != Some(why.as_str()) {
                tracing::error!("the host is not what it should be: {why}");
            }
            said.trouble = Some(why);
        });
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateView for AgentStatus {
    fn state(&self, _section: Option<Section>) -> Result<State, Unavailable> {
        Err(Unavailable("an agent of a node has no state to show: ask its directors".to_owned()))
    }

    fn explain(&self, _url: &str) -> Result<serde_json::Value, ExplainError> {
        Err(ExplainError::Unavailable("an agent of a node serves no URL".to_owned()))
    }

    fn ready(&self) -> Readiness {
        let said = self.said();
        let mut readiness = Readiness::ready();
        if !said.is_applied {
            readiness = readiness.and("the first state is not programmed yet");
        }
        if let Some(trouble) = &said.trouble {
            readiness = readiness.and(trouble.as_str());
        }
        if said.is_leaving {
            readiness = readiness.and("the agent is shutting down");
        }
        match self.api_server.as_ref().and_then(|server| server.remark(Instant::now())) {
            Some(remark) => readiness.remark(remark),
            None => readiness,
        }
    }
}
