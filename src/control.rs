//! The controller loop: one thread that owns the translation, takes what the source sees and gives the proxy its tables.
//!
//! Everybody else asks it through a channel. What it hands out are copies of maps of `Arc`s; documents are built from
//! them by whoever asked, so that 20,000 routes are never written while a change waits.

use crate::answers::Answers;
use crate::api_server::ApiServer;
use crate::changes::{self, Cause};
use crate::check::unix_now;
use crate::director::{Director, NodeMarks};
use crate::tap::{RequestLines, TapLines};
use crate::telemetry::Telemetry;
use crate::{explain, ownership, pulse};
use sluicegate_admin::director::{ConflictState, CordonError, DirectorState};
use sluicegate_admin::packets::{PacketsState, PortTraffic};
use sluicegate_admin::source::SourceState;
use sluicegate_admin::state::{ListenerProtocol, Live, LiveEndpoint, LiveRealServer, Traffic};
use sluicegate_admin::{
    ChangeLog, ChangeState, ExplainError, Lines, Pulse, Readiness, Section, State, StateView, TapError, TapRequest,
    TrafficVisitor, Unavailable,
};
use sluicegate_config::{BackendId, Change, Desired, Diff, Rejection, Settings, TransportProtocol, Verdict, VipPools};
use sluicegate_forward::forwarder::NoAnswer;
use sluicegate_forward::packet_tuple::NoPacket;
use sluicegate_forward::sampling::{NoTap, Selection};
use sluicegate_proxy::Proxy;
use sluicegate_source::SourceEvent;
use sluicegate_telemetry::control::{CertificateExpiry, PoolAddresses, RejectionCounts};
use sluicegate_telemetry::{Metrics, RequestFilter};
use sluicegate_translate::{Controller, Object, PoolUsage, Update, WhatIf};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// Events and questions that may wait. A source that is faster blocks, and its changes gather meanwhile.
const QUEUE: usize = 16;
/// How long somebody waits for an answer of the loop, which may be in the middle of the first 20,000 Ingresses.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often certificates are looked at for having expired, where nothing else happens.
const TICK: Duration = Duration::from_secs(30);
/// How often the director is asked what it cannot do, where somebody is to be told.
const PULSE: Duration = Duration::from_secs(2);
/// Rejections of one change that are logged one by one; the rest is counted.
const MOST_LOGGED: usize = 100;

/// What the loop is sent.
pub enum Message {
    /// Objects changed.
    Source(SourceEvent),
    /// Somebody wants to see the state, or one section of it.
    Look(Option<Section>, SyncSender<Snapshot>),
    /// Somebody wants to know what would become of an object.
    WhatIf(Box<Object>, SyncSender<WhatIf>),
    /// This process has begun to lead, or has ceased to.
    Turn(bool),
    /// Statuses are to be taken back; what is sent back says that it is done.
    Clear(SyncSender<()>),
    /// It is over.
    Stop,
}

/// A copy of what there is, cheap to make.
pub struct Snapshot {
    desired: Desired,
    rejections: Vec<Rejection>,
}

/// What probes ask, without a lock.
#[derive(Debug, Default)]
pub struct Status {
    applied: AtomicBool,
    leaving: AtomicBool,
}

impl Status {
    /// True once the first full state is served.
    pub fn is_applied(&self) -> bool {
        self.applied.load(Ordering::Acquire)
    }

    /// From here on the gateway is not ready any more.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    fn readiness(&self) -> Readiness {
        let mut readiness = Readiness::ready();
        if !self.is_applied() {
            readiness = readiness.and("the first state is not applied yet");
        }
        if self.leaving.load(Ordering::Acquire) {
            readiness = readiness.and("the gateway is shutting down");
        }
        readiness
    }
}

/// What the loop feeds, and what a view shows.
#[derive(Clone)]
pub struct Parts {
    pub proxy: Arc<Proxy>,
    /// `None` where no requests are served.
    pub telemetry: Option<Arc<Telemetry>>,
    pub director: Option<Arc<Director>>,
    pub metrics: Arc<Metrics>,
    pub status: Arc<Status>,
    /// `None` where objects come from a folder.
    pub api_server: Option<ApiServer>,
    pub pools: Arc<VipPools>,
    pub changes: Arc<ChangeLog>,
}

/// The running loop.
pub struct Control {
    messages: SyncSender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Starts the loop.
    /// `answers` is for a source that is answered.
    pub fn start(settings: Settings, parts: Parts, answers: Option<Answers>) -> io::Result<Self> {
        let (messages, inbox) = sync_channel(QUEUE);
        let Parts { proxy, director, metrics, status, pools, changes, .. } = parts;
        let shell = Loop {
            controller: Controller::new(settings),
            proxy,
            director,
            metrics,
            status,
            answers,
            pools,
            changes,
            lead: Lead::None,
            failures: BTreeSet::new(),
            gathered: None,
        };
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || shell.run(&inbox))?;
        Ok(Self { messages, thread: Some(thread) })
    }

    /// Takes back what was written to statuses, where this process leads.
    pub fn clear_statuses(&self) {
        let (done, is_done) = sync_channel(1);
        if self.messages.send(Message::Clear(done)).is_ok() {
            // A loop that is gone has nothing to take back.
            let _gone = is_done.recv_timeout(PATIENCE);
        }
    }

    /// Where to send events and questions.
    pub fn messages(&self) -> SyncSender<Message> {
        self.messages.clone()
    }

    /// True while the loop runs.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // A loop that is gone needs no telling.
        let _gone = self.messages.send(Message::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the controller loop ended by a panic");
        }
    }
}

/// How far this process is with writing to an API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lead {
    /// It does not lead.
    None,
    /// It leads, and has not read the first state yet.
    Early,
    /// It leads, and reads what leaders before it have written: until this round.
    Reading(u64),
    /// It knows all that there is, and writes.
    Writing,
    /// It has taken back what it wrote, and writes no more.
    Over,
}

struct Loop {
    controller: Controller,
    proxy: Arc<Proxy>,
    director: Option<Arc<Director>>,
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    answers: Option<Answers>,
    pools: Arc<VipPools>,
    changes: Arc<ChangeLog>,
    lead: Lead,
    /// What the director could not do of the bindings when it was last asked.
    failures: BTreeSet<(IpAddr, String)>,
    /// What the parts of the first state were, until all of it is there.
    gathered: Option<Cause>,
}

impl Loop {
    fn run(mut self, inbox: &Receiver<Message>) {
        // A director says by itself what it cannot do, but not to whom.
        let tick = if self.answers.is_some() && self.director.is_some() { PULSE } else { TICK };
        loop {
            match inbox.recv_timeout(tick) {
                Ok(Message::Source(event)) => self.take(event),
                Ok(Message::Look(section, answer)) => {
                    // Whoever asked may have stopped waiting.
                    let _gone = answer.send(self.snapshot(section));
                }
                Ok(Message::WhatIf(object, answer)) => {
                    // Whoever asked may have stopped waiting.
                    let _gone = answer.send(self.controller.what_if(*object, unix_now()));
                }
                // What is there of the first state waits for the rest.
                Err(RecvTimeoutError::Timeout) if self.gathered.is_some() => {}
                Err(RecvTimeoutError::Timeout) => {
                    let update = self.controller.apply([], unix_now());
                    self.serve(&update, Instant::now(), Cause::time());
                    self.tell(&update);
                    self.tell_failures();
                    self.count_pools();
                }
                Ok(Message::Turn(leads)) => self.turn(leads),
                Ok(Message::Clear(done)) => {
                    if let Some(answers) = self.answers.as_ref().filter(|_| self.lead == Lead::Writing) {
                        answers.clear(&self.controller);
                    }
                    self.lead = Lead::Over;
                    // Whoever asked may have stopped waiting.
                    let _gone = done.send(());
                }
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, event: SourceEvent) {
        let mut cause = Cause::objects(&event.changes);
        if let Some(parts) = self.gathered.take() {
            cause = parts.and(cause);
        }
        if event.initial || self.status.is_applied() {
            let update = self.controller.apply(event.changes, unix_now());
            self.serve(&update, event.noticed, cause);
            self.tell(&update);
        } else {
            self.controller.gather(event.changes);
            self.gathered = Some(cause);
        }
        for (file, rejections) in event.file_rejections {
            let update = self.controller.set_file_rejections(&file, rejections);
            self.tell(&update);
        }
        if let Some(answers) = &self.answers {
            answers.want(&self.controller, event.number);
        }
        self.tell_node();
        if event.initial {
            if self.answers.is_none() {
                // Everybody who was there has what it had; whom nobody answers chooses for the rest by himself.
                self.give_addresses(true);
            }
            // Even where there are none: tables of a process before this one may say otherwise.
            self.serve_vips();
            self.count_pools();
            self.status.applied.store(true, Ordering::Release);
            let desired = self.controller.desired();
            tracing::info!(
                hosts = desired.routes.len(),
                backends = desired.backends.len(),
                certificates = desired.certificates.len(),
                took_ms = millis(event.noticed.elapsed()),
                "the first state is served"
            );
            self.controller.pack();
            if self.lead == Lead::Early {
                self.turn(true);
            }
        }
        if let (Lead::Reading(round), Some(read)) = (self.lead, event.round)
            && read >= round
        {
            self.give_addresses(true);
            self.begin();
        }
        if let Some(answers) = self.answers.as_ref().filter(|_| self.lead == Lead::Writing) {
            answers.write(&mut self.controller);
        }
    }

    /// Who begins to lead knows all objects before it writes, and all that others have written before it chooses addresses.
    fn turn(&mut self, leads: bool) {
        let Some(answers) = self.answers.as_ref().filter(|_| self.lead != Lead::Over) else { return };
        if !leads {
            self.lead = Lead::None;
            self.give_addresses(false);
        } else if !self.status.is_applied() {
            self.lead = Lead::Early;
        } else if let Some(round) = answers.read_again(&self.pools) {
            self.lead = Lead::Reading(round);
        } else {
            self.begin();
        }
    }

    fn begin(&mut self) {
        self.lead = Lead::Writing;
        if let Some(answers) = &self.answers {
            answers.begin(&mut self.controller);
        }
    }

    fn give_addresses(&mut self, gives: bool) {
        let update = self.controller.give_addresses(gives, unix_now());
        self.serve(&update, Instant::now(), Cause::pools());
        self.tell(&update);
    }

    /// Whether the Node of this machine is to hold virtual IPs. One that is not there says nothing.
    fn tell_node(&self) {
        if let Some(director) = &self.director {
            let node = self.controller.objects().node(director.node());
            director.set_node_marks(node.map_or_else(NodeMarks::default, |node| NodeMarks {
                is_excluded: node.is_excluded,
                is_unschedulable: node.is_unschedulable,
            }));
        }
    }

    /// Tells the owners of bindings what the director cannot do of them.
    fn tell_failures(&mut self) {
        let (Some(director), Some(answers)) = (&self.director, &self.answers) else { return };
        let failures = director.failures();
        if failures != self.failures {
            answers.tell_failures(&self.controller, &self.failures, &failures);
            self.failures = failures;
        }
    }

    /// Gives the proxy its next tables, and only then looks after everything else.
    fn serve(&self, update: &Update, noticed: Instant, cause: Cause) {
        let Update { diff, generation, .. } = update;
        if diff.is_empty() {
            self.keep(changes::describe(cause, update, noticed.elapsed(), &[""; 0]));
            return;
        }
        let before = self.proxy.table();
        let applied = self.proxy.apply(diff, *generation);
        // Of the first state the director gets all or nothing: what it is not told of it releases.
        if !diff.vips.is_empty() && self.status.is_applied() {
            self.serve_vips();
            self.count_pools();
        }
        let took = noticed.elapsed();
        self.restart_counters(&before, diff);
        for failure in &applied.failures {
            tracing::error!(generation = generation.0, "{failure}");
        }
        let failures = u64::try_from(applied.failures.len()).unwrap_or(u64::MAX);
        self.metrics.applied(generation.0, SystemTime::now(), took, failures);
        self.count_objects();
        if !diff.certificates.is_empty() {
            let certificates = self.controller.desired().certificates.values().map(|certificate| CertificateExpiry {
                not_after: certificate.not_after,
                namespace: Arc::clone(&certificate.id.namespace),
                name: Arc::clone(&certificate.id.name),
            });
            self.metrics.set_certificates(certificates);
        }
        tracing::info!(
            generation = generation.0,
            hosts = diff.routes.len(),
            backends = diff.backends.len(),
            certificates = diff.certificates.len(),
            took_ms = millis(took),
            "applied"
        );
        self.keep(changes::describe(cause, update, took, &applied.failures));
    }

    fn keep(&self, change: Option<ChangeState>) {
        if let Some(change) = change {
            self.changes.add(change);
        }
    }

    fn count_pools(&self) {
        if !self.pools.is_empty() {
            let usage = self.controller.pool_usage().into_iter();
            self.metrics.set_pools(usage.map(|PoolUsage { pool, used, free }| PoolAddresses { pool, used, free }));
        }
    }

    fn serve_vips(&self) {
        if let Some(director) = &self.director {
            director.serve(&self.controller.desired().vips);
        }
    }

    /// A backend that is new takes a slot in which another one may have counted.
    fn restart_counters(&self, before: &sluicegate_route::RouteTable, diff: &Diff) {
        let after = self.proxy.table();
        for (id, change) in &diff.backends {
            if matches!(change, Change::Set(_))
                && before.backend_slot(id).is_none()
                && let Some(slot) = after.backend_slot(id)
            {
                self.metrics.restart_backend(counter(slot));
            }
        }
    }

    fn count_objects(&self) {
        let desired = self.controller.desired();
        let size = self.controller.size();
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let sum = |sum: i64| u64::try_from(sum).unwrap_or(0);
        self.metrics.set_objects([
            ("hosts", count(desired.routes.len())),
            ("routes", sum(size.routes)),
            ("backends", count(desired.backends.len())),
            ("endpoints", sum(size.endpoints)),
            ("server_names", count(desired.server_names.len())),
            ("certificates", count(desired.certificates.len())),
            ("listeners", count(desired.listeners.len())),
            ("vips", count(desired.vips.len())),
        ]);
    }

    /// Logs what was not taken and was taken before, and counts.
    fn tell(&self, update: &Update) {
        if let Some(answers) = self.answers.as_ref().filter(|_| self.lead == Lead::Writing) {
            answers.tell(&self.controller, update);
        }
        for rejection in update.new_rejections.iter().take(MOST_LOGGED) {
            match rejection.verdict {
                Verdict::Ignored => tracing::info!("{rejection}"),
                Verdict::Rejected | Verdict::Warning => tracing::warn!("{rejection}"),
            }
        }
        if update.new_rejections.len() > MOST_LOGGED {
            let more = update.new_rejections.len() - MOST_LOGGED;
            tracing::warn!(
                "{more} more things were rejected or ignored; /api/v1/state and `sluicegate check` name them"
            );
        }
        if update.rejections_changed {
            let mut counts = RejectionCounts::default();
            for rejection in self.controller.rejections() {
                match rejection.verdict {
                    Verdict::Rejected => counts.rejected += 1,
                    Verdict::Ignored => counts.ignored += 1,
                    Verdict::Warning => counts.warning += 1,
                }
            }
            self.metrics.set_rejections(counts);
        }
    }

    /// Copies the maps that the section needs.
    fn snapshot(&self, section: Option<Section>) -> Snapshot {
        let from = self.controller.desired();
        let wanted = |these: &[Section]| section.is_none_or(|section| these.contains(&section));
        let mut desired = Desired { generation: from.generation, ..Desired::default() };
        if wanted(&[Section::Routes]) {
            desired.routes.clone_from(&from.routes);
        }
        if wanted(&[Section::Backends]) {
            desired.backends.clone_from(&from.backends);
        }
        if wanted(&[Section::Certificates, Section::ServerNames]) {
            desired.certificates.clone_from(&from.certificates);
            desired.server_names.clone_from(&from.server_names);
        }
        if wanted(&[Section::Listeners]) {
            desired.listeners.clone_from(&from.listeners);
        }
        if wanted(&[Section::Vips]) {
            desired.vips.clone_from(&from.vips);
        }
        let rejections =
            if wanted(&[Section::Rejections]) { self.controller.rejections().cloned().collect() } else { Vec::new() };
        Snapshot { desired, rejections }
    }
}

/// The gateway as the admin API sees it.
pub struct View {
    messages: SyncSender<Message>,
    parts: Parts,
}

impl View {
    /// Looks at a loop and what it feeds.
    pub fn new(control: &Control, parts: Parts) -> Self {
        Self { messages: control.messages(), parts }
    }
}

impl StateView for View {
    fn state(&self, section: Option<Section>) -> Result<State, Unavailable> {
        let gone = || Unavailable("the controller loop has ended".to_owned());
        let (answer, answers) = sync_channel(1);
        self.messages.send(Message::Look(section, answer)).map_err(|_| gone())?;
        let snapshot = answers.recv_timeout(PATIENCE).map_err(|error| match error {
            RecvTimeoutError::Timeout => Unavailable("the controller loop is busy".to_owned()),
            RecvTimeoutError::Disconnected => gone(),
        })?;
        let live = LiveParts::new(&self.parts, section);
        Ok(State::build(&snapshot.desired, &snapshot.rejections, &live, &self.ready(), section))
    }

    fn explain(&self, url: &str) -> Result<serde_json::Value, ExplainError> {
        explain::by_table(&self.parts.proxy.table(), url).map_err(ExplainError::Url)
    }

    fn cordon(&self, cordoned: bool, force: bool) -> Result<DirectorState, CordonError> {
        self.parts.director.as_ref().ok_or(CordonError::NoDirector)?.cordon(cordoned, force)
    }

    fn explain_packet(&self, packet: &str) -> Result<serde_json::Value, ExplainError> {
        let packet = packet.parse().map_err(|error: NoPacket| ExplainError::Packet(error.to_string()))?;
        let director = self.parts.director.as_ref().ok_or(NoAnswer::Off);
        let explained = director.and_then(|director| director.explain(packet));
        let explained = explained.map_err(|error| ExplainError::Unavailable(error.to_string()))?;
        serde_json::to_value(explained).map_err(|error| ExplainError::Unavailable(error.to_string()))
    }

    fn tap(&self, request: &TapRequest) -> Result<Box<dyn Lines>, TapError> {
        let TapRequest { every, vip, all, snap } = *request;
        let director = self.parts.director.as_ref().ok_or(NoTap::Off);
        match director.and_then(|director| director.tap(Selection { every, vip, all })) {
            Ok(tap) => Ok(Box::new(TapLines::new(tap, snap))),
            Err(error) => Err(TapError(error.to_string())),
        }
    }

    fn tap_requests(&self, filter: RequestFilter) -> Result<Box<dyn Lines>, TapError> {
        let none = || TapError("no requests are served here: that is for a gateway (--role gateway or all)".to_owned());
        let taps = self.parts.telemetry.as_ref().ok_or_else(none)?.taps();
        match taps.watch(filter) {
            Ok(tap) => Ok(Box::new(RequestLines::new(tap))),
            Err(error) => Err(TapError(error.to_string())),
        }
    }

    fn pulse(&self) -> Pulse {
        pulse::pulse(&self.parts)
    }

    fn visit_traffic(&self, visitor: &mut dyn TrafficVisitor) {
        pulse::visit(&self.parts, visitor);
    }

    fn ready(&self) -> Readiness {
        let remark = self.parts.api_server.as_ref().and_then(|server| server.remark(Instant::now()));
        let readiness = self.parts.status.readiness();
        let readiness = match remark {
            Some(remark) => readiness.remark(remark),
            None => readiness,
        };
        let director = self.parts.director.as_ref().filter(|_| self.parts.status.is_applied());
        director.into_iter().flat_map(|director| director.shortcomings()).fold(readiness, Readiness::and)
    }
}

/// What workers and director know, gathered once a question.
struct LiveParts<'a> {
    parts: &'a Parts,
    table: Arc<sluicegate_route::RouteTable>,
    endpoints: BTreeMap<BackendId, BTreeMap<SocketAddr, LiveEndpoint>>,
}

impl<'a> LiveParts<'a> {
    fn new(parts: &'a Parts, section: Option<Section>) -> Self {
        let mut endpoints = BTreeMap::new();
        if section.is_none_or(|section| section == Section::Backends) {
            for report in parts.proxy.endpoint_states() {
                let views = report.endpoints.iter().map(|view| {
                    let traffic = Traffic { active: view.active, requests: view.requests, errors: view.errors };
                    (view.address, LiveEndpoint { ejected: view.ejected_by > 0, traffic })
                });
                endpoints.insert(report.backend.id.clone(), views.collect());
            }
        }
        Self { parts, table: parts.proxy.table(), endpoints }
    }
}

impl Live for LiveParts<'_> {
    fn listeners(&self) -> Vec<(ListenerProtocol, SocketAddr)> {
        let addresses = self.parts.proxy.addresses();
        let http = addresses.http.iter().map(|address| (ListenerProtocol::Http, *address));
        http.chain(addresses.https.iter().map(|address| (ListenerProtocol::Https, *address))).collect()
    }

    fn backend(&self, id: &BackendId) -> Option<Traffic> {
        let totals = self.parts.metrics.backend(counter(self.table.backend_slot(id)?));
        Some(Traffic { active: totals.active, requests: totals.requests, errors: totals.errors })
    }

    fn endpoints(&self, id: &BackendId) -> BTreeMap<SocketAddr, LiveEndpoint> {
        self.endpoints.get(id).cloned().unwrap_or_default()
    }

    fn vip_port(&self, vip: IpAddr, protocol: TransportProtocol, port: u16) -> Option<PortTraffic> {
        self.parts.director.as_ref()?.port(vip, protocol, port)
    }

    fn packets(&self) -> Option<PacketsState> {
        self.parts.director.as_ref().map(|director| director.packets())
    }

    fn vip_is_served(&self, address: IpAddr) -> bool {
        self.parts.director.as_ref().is_some_and(|director| director.serves(address))
    }

    fn vip_owner(&self, address: IpAddr) -> Option<String> {
        self.parts.director.as_ref()?.vip(address)?.owner.map(|owner| owner.to_string())
    }

    fn vip_pool(&self, address: IpAddr) -> Option<String> {
        Some(self.parts.pools.of(address)?.name.to_string())
    }

    fn vip_conflict(&self, address: IpAddr) -> Option<ConflictState> {
        self.parts.director.as_ref()?.vip(address)?.conflict.as_ref().map(ownership::conflict)
    }

    fn source(&self) -> Option<SourceState> {
        Some(self.parts.api_server.as_ref()?.state(Instant::now()))
    }

    fn changes(&self) -> Vec<ChangeState> {
        self.parts.changes.newest_first()
    }

    fn director(&self) -> Option<DirectorState> {
        Some(self.parts.director.as_ref()?.state())
    }

    fn real_server(
        &self,
        vip: IpAddr,
        protocol: TransportProtocol,
        port: u16,
        address: IpAddr,
    ) -> Option<LiveRealServer> {
        self.parts.director.as_ref()?.real_server(vip, protocol, port, address)
    }
}

/// The counters of a slot; slots beyond what 32 bits hold have none.
fn counter(slot: sluicegate_route::BackendSlot) -> u32 {
    u32::try_from(slot.index()).unwrap_or(u32::MAX)
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 100.0
}
