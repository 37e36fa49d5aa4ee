//! One watch: everything that there is of a kind, and what becomes of it.

use super::batch::Item;
use super::client::innermost;
use super::contact::{ApiContact, WatchState};
use super::raw::Raw;
use crate::object::{Decoded, Refusal, TypeMeta, decode};
use crate::rights::{WATCH, rule};
use futures_util::StreamExt as _;
use kube::discovery::ApiResource;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, InitialListStrategy, watcher};
use kube::{Api, Client, Resource as _};
use sluicegate_config::{Kind, ObjectRef, Rejection, Verdict};
use sluicegate_translate::ObjectChange;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// A watch is asked for anew this often, in seconds: so long a connection that died without a word goes unnoticed.
const WATCH_SECONDS: u32 = 60;
/// Objects of one page, where the server has no streaming lists.
const PAGE: u32 = 1000;
/// The shortest and the longest pause before another try.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// The same while there is no right to read: rights are given by hand, and each namespace may lack that for 16 Secrets.
const REFUSED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// An error that goes on is logged again after so long.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// What one watch is about.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub kind: Kind,
    /// `None` = all of them, or the kind has none.
    pub namespace: Option<Arc<str>>,
    pub fields: Option<String>,
    pub labels: Option<String>,
}

impl Watched {
    pub fn of(kind: Kind) -> Self {
        Self { kind, namespace: None, fields: None, labels: None }
    }

    /// For people: `services`, `secrets in shop (metadata.name=tls)`.
    fn name(&self) -> Arc<str> {
        let mut name = api_resource(self.kind).plural;
        if let Some(namespace) = &self.namespace {
            name.push_str(" in ");
            name.push_str(namespace);
        }
        if let Some(field) = self.fields.as_deref().and_then(|fields| fields.strip_prefix("metadata.name=")) {
            name.push_str(" named ");
            name.push_str(field);
        }
        if let Some(labels) = &self.labels {
            name.push_str(" with ");
            name.push_str(labels);
        }
        name.into()
    }
}

/// The kind as paths and rights call it.
pub(crate) fn api_resource(kind: Kind) -> ApiResource {
    let group = match kind {
        Kind::Ingress | Kind::IngressClass => "networking.k8s.io",
        Kind::EndpointSlice => "discovery.k8s.io",
        Kind::Service | Kind::Secret | Kind::ConfigMap | Kind::Node | Kind::Namespace | Kind::File => "",
    };
    ApiResource {
        group: group.to_owned(),
        version: "v1".to_owned(),
        api_version: if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") },
        kind: kind.to_string(),
        plural: plural(kind).to_owned(),
    }
}

fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Ingress => "ingresses",
        Kind::IngressClass => "ingressclasses",
        Kind::Service => "services",
        Kind::EndpointSlice => "endpointslices",
        Kind::Secret => "secrets",
        Kind::ConfigMap => "configmaps",
        Kind::Node => "nodes",
        Kind::Namespace => "namespaces",
        Kind::File => "files",
    }
}

/// Starts watches.
#[derive(Clone)]
pub(super) struct Reflector {
    pub client: Client,
    pub changes: mpsc::Sender<Item>,
    pub contact: Arc<ApiContact>,
    /// Counted up when Services are to be read anew ([`super::Wishes::read_again`]).
    pub round: watch::Receiver<u64>,
}

/// A watch that runs. Dropped, it goes on until its runtime ends.
pub(super) struct Running {
    /// What it is about.
    pub kind: Kind,
    /// The round in which all was read last.
    read: watch::Receiver<Option<u64>>,
    names: watch::Receiver<Option<BTreeSet<Arc<str>>>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    /// Until everything that there was has been handed on, or it is known that there is no right to read it.
    pub async fn until_read(&mut self) {
        // A watch that has ended is not waited for.
        let _ended = self.read.wait_for(Option::is_some).await;
    }

    /// The same for what there was after a round began.
    pub fn read_in(&self, round: u64) -> impl Future<Output = ()> + Send + use<> {
        let mut read = self.read.clone();
        async move {
            let _ended = read.wait_for(|read| read.is_some_and(|read| read >= round)).await;
        }
    }

    /// The names of what there is, followed; `None` until it has been read. For kinds that are in no namespace.
    pub fn names(&self) -> watch::Receiver<Option<BTreeSet<Arc<str>>>> {
        self.names.clone()
    }

    /// Ends it, and removes from the controller what it gave.
    pub async fn stop(self) {
        // It may have ended by itself.
        let _ended = self.stop.send(());
        let _ended = self.task.await;
    }
}

impl Reflector {
    pub fn start(&self, watched: Watched) -> Running {
        let (read, is_read) = watch::channel(None);
        let (names, all_names) = watch::channel(None);
        let kind = watched.kind;
        let (stop, stopped) = oneshot::channel();
        let name = watched.name();
        self.contact.set(&name, WatchState::new(plural(watched.kind)));
        let mut reflection = Reflection {
            reflector: self.clone(),
            watched,
            name,
            read,
            names,
            round: 0,
            known: BTreeSet::new(),
            fresh: BTreeSet::new(),
            bad: BTreeSet::new(),
            said: None,
            refused: Pauses::between(REFUSED),
        };
        let task = tokio::spawn(async move {
            tokio::select! {
                () = reflection.run() => {}
                _ = stopped => reflection.withdraw().await,
            }
        });
        Running { kind, read: is_read, names: all_names, stop, task }
    }
}

struct Reflection {
    reflector: Reflector,
    watched: Watched,
    name: Arc<str>,
    read: watch::Sender<Option<u64>>,
    names: watch::Sender<Option<BTreeSet<Arc<str>>>>,
    /// The round that the list under way, or the last one, belongs to.
    round: u64,
    /// What the controller has been given.
    known: BTreeSet<ObjectRef>,
    /// What the list under way has shown so far.
    fresh: BTreeSet<ObjectRef>,
    /// Sources of rejections that stand.
    bad: BTreeSet<Arc<str>>,
    /// The error that was logged last, and when.
    said: Option<(String, Instant)>,
    /// Between tries while there is no right to read it.
    refused: Pauses,
}

/// Why a watch does not go on.
enum Ended {
    /// Nobody takes changes any more.
    Gone,
    /// The server has no streaming lists.
    NoStreamingLists,
    /// The server has forgotten the version and says so before the stream begins, where the watcher expects it within.
    Expired,
    /// All is to be read anew.
    Again,
}

/// Nobody takes changes any more.
struct Gone;

impl Reflection {
    async fn run(&mut self) {
        let resource = api_resource(self.watched.kind);
        let client = self.reflector.client.clone();
        let api: Api<Raw> = match &self.watched.namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        };
        let mut config = watcher::Config::default().timeout(WATCH_SECONDS).page_size(PAGE).streaming_lists();
        config.field_selector.clone_from(&self.watched.fields);
        config.label_selector.clone_from(&self.watched.labels);
        self.round = *self.reflector.round.borrow_and_update();
        let by_pages = |config: &watcher::Config| watcher::Config {
            initial_list_strategy: InitialListStrategy::ListWatch,
            ..config.clone()
        };
        let mut next = config.clone();
        loop {
            let ended = self.follow(api.clone(), next).await;
            next = match ended {
                Ended::Gone => return,
                Ended::NoStreamingLists => {
                    config = by_pages(&config);
                    config.clone()
                }
                // What a stream begins with may be older than the request (version 0); a list is not.
                Ended::Again => by_pages(&config),
                Ended::Expired => config.clone(),
            }
        }
    }

    async fn follow(&mut self, api: Api<Raw>, config: watcher::Config) -> Ended {
        let is_streaming = config.initial_list_strategy == InitialListStrategy::StreamingList;
        let mut events = std::pin::pin!(watcher(api, config).backoff(Pauses::default()));
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = next_round(&mut self.reflector.round, self.watched.kind) => {
                    self.round = *self.reflector.round.borrow_and_update();
                    return Ended::Again;
                }
            };
            let Some(event) = event else { break };
            let goes_on = match event {
                Ok(event) => self.take(event).await,
                Err(error) if is_streaming && self.read.borrow().is_none() && is_unknown_demand(&error) => {
                    return Ended::NoStreamingLists;
                }
                Err(watcher::Error::WatchStartFailed(kube::Error::Api(status))) if status.code == 410 => {
                    return Ended::Expired;
                }
                Err(error) => self.complain(&error).await,
            };
            if goes_on.is_err() {
                break;
            }
        }
        Ended::Gone
    }

    async fn take(&mut self, event: Event<Raw>) -> Result<(), Gone> {
        // A list begins before it is answered.
        if !matches!(event, Event::Init) {
            self.reflector.contact.heard();
        }
        match event {
            Event::Init => self.fresh.clear(),
            Event::InitApply(raw) => {
                if let Some(reference) = self.set(&raw).await? {
                    self.fresh.insert(reference);
                }
            }
            Event::InitDone => {
                self.reflector.contact.listed(plural(self.watched.kind));
                let fresh = std::mem::take(&mut self.fresh);
                for gone in std::mem::replace(&mut self.known, fresh) {
                    if !self.known.contains(&gone) {
                        self.remove(gone).await?;
                    }
                }
                self.well().await?;
                self.name_all(true);
                self.read.send_replace(Some(self.round));
            }
            Event::Apply(raw) => {
                if let Some(reference) = self.set(&raw).await? {
                    self.known.insert(reference);
                }
                self.name_all(false);
                self.well().await?;
            }
            Event::Delete(raw) => {
                if let Some(reference) = self.reference(&raw) {
                    self.known.remove(&reference);
                    self.name_all(false);
                    self.remove(reference).await?;
                }
            }
        }
        Ok(())
    }

    /// Whoever asks for names alone learns of them, once they are complete.
    fn name_all(&self, is_complete: bool) {
        if self.watched.kind != Kind::Namespace || !(is_complete || self.names.borrow().is_some()) {
            return;
        }
        let names: BTreeSet<Arc<str>> = self.known.iter().map(|reference| Arc::clone(&reference.name)).collect();
        self.names.send_if_modified(|shown| {
            let is_other = shown.as_ref() != Some(&names);
            *shown = Some(names);
            is_other
        });
    }

    fn reference(&self, raw: &Raw) -> Option<ObjectRef> {
        let meta = raw.meta();
        let name = meta.name.as_deref()?;
        Some(ObjectRef::new(self.watched.kind, meta.namespace.as_deref().unwrap_or_default(), name))
    }

    /// Hands an object on. One that is not what it says is rejected by itself, and what it was before stays in force.
    async fn set(&mut self, raw: &Raw) -> Result<Option<ObjectRef>, Gone> {
        let resource = api_resource(self.watched.kind);
        // Items of a list do not say what they are.
        let defaults = TypeMeta { api_version: resource.api_version, kind: resource.kind };
        let reference = self.reference(raw);
        let refusal = match decode(&raw.value, &defaults) {
            Decoded::Object(object, _) if object.reference().kind == self.watched.kind => {
                let reference = object.reference();
                self.accept(&source(&reference)).await?;
                self.send(Item::Change(Box::new(ObjectChange::Set(*object)))).await?;
                return Ok(Some(reference));
            }
            Decoded::Object(object, _) => wrong_kind(&object.reference().kind.to_string()),
            Decoded::OtherKind(kind) => wrong_kind(&kind),
            Decoded::Refused(refusal) => refusal,
        };
        let object = refusal.object.or(reference.clone());
        let object = object.unwrap_or_else(|| ObjectRef::new(self.watched.kind, "", ""));
        let rejection = Rejection {
            field: refusal.field,
            verdict: Verdict::Rejected,
            reason: format!("{}; the API server gave it so", refusal.reason),
            remedy: refusal.remedy,
            object: object.clone(),
        };
        self.reject(source(&object), rejection).await?;
        // It is there, so it is not taken for deleted; the controller knows it if it was good before.
        Ok(reference)
    }

    async fn remove(&mut self, reference: ObjectRef) -> Result<(), Gone> {
        self.accept(&source(&reference)).await?;
        self.send(Item::Change(Box::new(ObjectChange::Remove(reference)))).await
    }

    async fn send(&self, item: Item) -> Result<(), Gone> {
        self.reflector.changes.send(item).await.map_err(|_| Gone)
    }

    async fn reject(&mut self, source: Arc<str>, rejection: Rejection) -> Result<(), Gone> {
        self.bad.insert(Arc::clone(&source));
        self.send(Item::Rejected(source, vec![rejection])).await
    }

    async fn accept(&mut self, source: &Arc<str>) -> Result<(), Gone> {
        if self.bad.remove(source) {
            self.send(Item::Rejected(Arc::clone(source), Vec::new())).await?;
        }
        Ok(())
    }

    /// The watch works.
    async fn well(&mut self) -> Result<(), Gone> {
        self.refused.reset();
        if self.said.take().is_some() {
            tracing::info!("{}: read from the API server again", self.name);
        }
        self.reflector
            .contact
            .set(&self.name, WatchState { is_read: true, ..WatchState::new(plural(self.watched.kind)) });
        let name = Arc::clone(&self.name);
        self.accept(&name).await
    }

    /// Says what is wrong, once and again when it lasts. What was read stays in force.
    async fn complain(&mut self, error: &watcher::Error) -> Result<(), Gone> {
        let message = plainly(error);
        let is_new = self.said.as_ref().is_none_or(|(said, when)| *said != message || when.elapsed() > SAY_AGAIN);
        if is_new {
            tracing::warn!(error = %message, "{} cannot be read from the API server; what was read stays in force", self.name);
            self.said = Some((message.clone(), Instant::now()));
        }
        let is_forbidden = status(error).is_some_and(|code| code == 403);
        let is_read = self.read.borrow().is_some() || is_forbidden;
        let error = Some(message.as_str().into());
        let state = WatchState { is_read, error, ..WatchState::new(plural(self.watched.kind)) };
        self.reflector.contact.set(&self.name, state);
        if is_forbidden {
            self.name_missing_right().await?;
            // The rest does not wait for a right that may never come.
            self.read.send_replace(Some(self.round));
            tokio::time::sleep(self.refused.next().unwrap_or(REFUSED.1)).await;
        }
        Ok(())
    }

    async fn name_missing_right(&mut self) -> Result<(), Gone> {
        let resource = api_resource(self.watched.kind);
        let within =
            self.watched.namespace.as_ref().map_or("the cluster".to_owned(), |name| format!("namespace {name}"));
        let rejection = Rejection {
            object: ObjectRef::new(self.watched.kind, self.watched.namespace.as_deref().unwrap_or_default(), "*"),
            field: "(all)".to_owned(),
            verdict: Verdict::Rejected,
            reason: format!("the API server forbids to read {} of {within}", resource.plural),
            remedy: format!("give the service account the rule {}", rule(&resource.group, &resource.plural, WATCH)),
        };
        let name = Arc::clone(&self.name);
        if self.bad.contains(&name) {
            return Ok(());
        }
        self.reject(name, rejection).await
    }

    /// Nobody asks for these objects any more.
    async fn withdraw(&mut self) {
        for reference in std::mem::take(&mut self.known) {
            if self.remove(reference).await.is_err() {
                return;
            }
        }
        for source in std::mem::take(&mut self.bad) {
            if self.send(Item::Rejected(source, Vec::new())).await.is_err() {
                return;
            }
        }
        self.reflector.contact.forget(&self.name);
    }
}

/// What rejections of an object are filed under.
fn source(object: &ObjectRef) -> Arc<str> {
    format!("(API server) {object}").into()
}

fn wrong_kind(kind: &str) -> Refusal {
    Refusal {
        object: None,
        field: "kind".to_owned(),
        reason: format!("it is of kind {kind}"),
        remedy: "look at the API server: it answers with something else than was asked for".to_owned(),
    }
}

/// The status that the server answered with, if it did.
fn status(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => Some(status.code),
        watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

/// `sendInitialEvents` is refused by servers that do not know it: 422 where the feature is off, 400 by validation.
fn is_unknown_demand(error: &watcher::Error) -> bool {
    matches!(status(error), Some(400 | 422))
}

fn plainly(error: &watcher::Error) -> String {
    let happened = innermost(error);
    match status(error) {
        Some(code) => format!("{code} {happened}"),
        None => happened,
    }
}

/// Waits until Services are to be read anew; for ever where it is about something else.
async fn next_round(round: &mut watch::Receiver<u64>, kind: Kind) {
    if kind == Kind::Service && round.changed().await.is_ok() {
        return;
    }
    std::future::pending().await
}

/// Pauses between tries: from short to long, each by chance between half and the whole, so that many gateways do not come
/// back at one moment.
#[derive(Debug)]
pub(crate) struct Pauses {
    next: Duration,
    bounds: (Duration, Duration),
}

impl Pauses {
    fn between(bounds: (Duration, Duration)) -> Self {
        Self { next: bounds.0, bounds }
    }
}

impl Default for Pauses {
    fn default() -> Self {
        Self::between(PAUSES)
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.next;
        self.next = (pause * 2).min(self.bounds.1);
        let mut chance = [0; 1];
        // Without chance it is the whole pause.
        let _filled = rustix::rand::getrandom(&mut chance, rustix::rand::GetRandomFlags::NONBLOCK);
        Some(pause - pause / 2 * u32::from(chance[0]) / 255)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.next = self.bounds.0;
    }
}
