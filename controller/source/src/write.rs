//! What goes back to the API server: statuses and Events, by whoever holds the Lease.
//!
//! Statuses are applied with a field manager of our own; of an object that is written faster than the server takes it, only
//! the last state goes out. Events are told once for each object, field and reason, under a name that follows from these:
//! a restart or another leader says nothing twice. Whoever loses the Lease stops at once.

mod election;

use crate::kube::{KubeClient, Raw, api_resource};
use crate::lease::{Election, ElectionTiming};
use election::Elector;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use sluicegate_config::{Kind, NamespacedName, ObjectRef};
use sluicegate_translate::status::{FIELD_MANAGER, IP_MODE, Published, Shown, StatusWrite};
use sluicegate_translate::{CONDITION_TYPE, Condition};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Requests under way at a time.
const AT_ONCE: usize = 8;
/// One request, at most.
const PATIENCE: Duration = Duration::from_secs(4);
/// After a write that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// Events that wait; more are dropped and counted.
const MOST_EVENTS: usize = 4096;

/// What is written and how.
#[derive(Clone, Debug)]
pub struct WriterSettings {
    /// Name of this process, which no other has; a pod's name does.
    pub identity: Arc<str>,
    /// The Lease of the leader.
    pub lease: NamespacedName,
    /// Its times.
    pub timing: ElectionTiming,
}

/// Something to say about an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remark {
    /// The object.
    pub object: ObjectRef,
    /// Its `metadata.uid`, by which `kubectl describe` finds the Event.
    pub uid: Option<String>,
    /// It is a complaint; else all is well.
    pub is_warning: bool,
    /// One word in CamelCase, such as `Rejected`.
    pub reason: &'static str,
    /// The sentence.
    pub message: String,
    /// It was so before this process led: where it has been said, it is not said again. Else it is counted up.
    pub stands: bool,
}

/// Writes for as long as it leads. Dropped, it gives the Lease back.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    changed: Notify,
    /// A status has been written, or is not to be any more.
    done: Condvar,
}

#[derive(Debug, Default)]
struct Pending {
    leads_until: Option<Instant>,
    /// `None` = nothing of what we wrote is to stay.
    statuses: BTreeMap<ObjectRef, StatusWrite>,
    /// Statuses that are being written.
    under_way: usize,
    remarks: BTreeSet<Remark>,
    dropped: u64,
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits is forgotten by who does not lead any more: the next leader sees for itself.
    fn turn(&self, leads_until: Option<Instant>, has_lost: bool) {
        let mut pending = self.pending();
        pending.leads_until = leads_until;
        if has_lost {
            pending.statuses.clear();
            pending.remarks.clear();
        }
        drop(pending);
        self.done.notify_all();
    }

    fn leads(&self) -> bool {
        self.pending().leads_until.is_some_and(|until| Instant::now() < until)
    }
}

impl Writer {
    /// Takes part in the election from now on, in a thread of its own. `on_turn` hears of every gain and loss: who has
    /// begun to lead is to look at every status again.
    ///
    /// # Errors
    /// Where there is no thread to be had.
    pub fn start(
        client: KubeClient,
        settings: WriterSettings,
        on_turn: impl FnMut(bool) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let within = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("answers".to_owned()).spawn(move || {
            runtime.block_on(async {
                let api = match client.build() {
                    Ok(api) => api,
                    Err(error) => return tracing::error!(%error, "no status is written"),
                };
                let election = Election::new(Arc::clone(&settings.identity), settings.timing);
                let mut elector = Elector::new(api.clone(), &settings, election);
                tokio::select! {
                    () = elector.run(&within, on_turn) => {}
                    () = write(&api, &within, &settings.identity) => {}
                    _ = stopped => {}
                }
                elector.release().await;
            });
        })?;
        Ok(Self { shared, stop: Some(stop), thread: Some(thread) })
    }

    /// True while this process leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.shared.leads()
    }

    /// Writes these statuses; of one object the last counts. Forgotten where this process does not lead.
    pub fn write_statuses(&self, writes: Vec<StatusWrite>) {
        if writes.is_empty() || !self.leads() {
            return;
        }
        self.shared.pending().statuses.extend(writes.into_iter().map(|write| (write.object.clone(), write)));
        self.shared.changed.notify_one();
    }

    /// Waits until every status has been written, or this process leads no more; false where that takes longer than `limit`.
    pub fn flush(&self, limit: Duration) -> bool {
        let is_busy = |pending: &mut Pending| {
            let leads = pending.leads_until.is_some_and(|until| Instant::now() < until);
            leads && (!pending.statuses.is_empty() || pending.under_way > 0)
        };
        let waited = self.shared.done.wait_timeout_while(self.shared.pending(), limit, is_busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Tells these as Events. Forgotten where this process does not lead.
    pub fn tell(&self, remarks: Vec<Remark>) {
        if remarks.is_empty() || !self.leads() {
            return;
        }
        let mut pending = self.shared.pending();
        let room = MOST_EVENTS.saturating_sub(pending.remarks.len());
        let too_many = remarks.len().saturating_sub(room);
        pending.dropped += u64::try_from(too_many).unwrap_or(u64::MAX);
        pending.remarks.extend(remarks.into_iter().take(room));
        drop(pending);
        self.shared.changed.notify_one();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes to the API server panicked");
        }
    }
}

/// One thing to write.
#[derive(Clone, Debug)]
enum Job {
    Status(StatusWrite),
    Remark(Remark),
}

/// Writes what is pending, a few at a time, while this process leads.
async fn write(api: &Client, shared: &Shared, identity: &Arc<str>) {
    let mut under_way = JoinSet::new();
    loop {
        while under_way.len() < AT_ONCE && shared.leads() {
            let Some(job) = next(shared) else { break };
            let (api, identity) = (api.clone(), Arc::clone(identity));
            under_way.spawn(async move {
                let done = tokio::time::timeout(PATIENCE, carry_out(&api, &job, &identity)).await;
                (job, done.unwrap_or(Outcome::Again("the API server does not answer".to_owned())))
            });
        }
        tokio::select! {
            Some(done) = under_way.join_next(), if !under_way.is_empty() => {
                let again = match done {
                    Ok((job, Outcome::Again(why))) => {
                        tracing::warn!("{}: {why}; it is tried again", about(&job));
                        put_back(shared, job);
                        true
                    }
                    Ok((job, Outcome::Done)) => {
                        written(shared, &job);
                        false
                    }
                    Err(_) => false,
                };
                if again {
                    tokio::time::sleep(PAUSE).await;
                }
            }
            () = shared.changed.notified() => {}
        }
    }
}

fn next(shared: &Shared) -> Option<Job> {
    let mut pending = shared.pending();
    if let Some((_, write)) = pending.statuses.pop_first() {
        pending.under_way += 1;
        return Some(Job::Status(write));
    }
    pending.remarks.pop_first().map(Job::Remark)
}

/// A newer state of the same object is the one to write.
fn put_back(shared: &Shared, job: Job) {
    let mut pending = shared.pending();
    match job {
        Job::Status(write) => {
            pending.under_way = pending.under_way.saturating_sub(1);
            pending.statuses.entry(write.object.clone()).or_insert(write);
        }
        Job::Remark(remark) if pending.remarks.len() < MOST_EVENTS => drop(pending.remarks.insert(remark)),
        Job::Remark(_) => pending.dropped += 1,
    }
}

fn written(shared: &Shared, job: &Job) {
    if matches!(job, Job::Status(_)) {
        let mut pending = shared.pending();
        pending.under_way = pending.under_way.saturating_sub(1);
        drop(pending);
        shared.done.notify_all();
    }
}

fn about(job: &Job) -> String {
    match job {
        Job::Status(write) => format!("the status of {}", write.object),
        Job::Remark(remark) => format!("an Event about {}", remark.object),
    }
}

enum Outcome {
    Done,
    Again(String),
}

async fn carry_out(api: &Client, job: &Job, identity: &str) -> Outcome {
    let result = match job {
        Job::Status(write) => write_status(api, write).await,
        Job::Remark(remark) => tell(api, remark, identity).await,
    };
    match result {
        Ok(()) => Outcome::Done,
        // Who is gone needs no status.
        Err(kube::Error::Api(status)) if status.code == 404 => Outcome::Done,
        // The object has moved since this was decided; it is decided anew when that is read.
        Err(kube::Error::Api(status)) if status.code == 409 && is_of_a_version(job) => Outcome::Done,
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => {
            // Trying again changes nothing about it.
            tracing::warn!(
                "{}: the API server refuses it: {}{}",
                about(job),
                status.message,
                missing_right(job, status.code)
            );
            Outcome::Done
        }
        Err(error) => Outcome::Again(error.to_string()),
    }
}

fn is_of_a_version(job: &Job) -> bool {
    matches!(job, Job::Status(StatusWrite { version: Some(_), .. }))
}

fn missing_right(job: &Job, code: u16) -> &'static str {
    match (job, code) {
        (Job::Status(StatusWrite { object: ObjectRef { kind: Kind::Service, .. }, .. }), 403) => {
            "; give the service account the rule {apiGroups: [\"\"], resources: [services/status], verbs: [patch]}"
        }
        (Job::Status(_), 403) => {
            "; give the service account the rule {apiGroups: [networking.k8s.io], resources: [ingresses/status], verbs: [patch]}"
        }
        (Job::Remark(_), 403) => {
            "; give the service account the rule {apiGroups: [\"\"], resources: [events], verbs: [create, get, patch]}"
        }
        _ => "",
    }
}

async fn write_status(api: &Client, write: &StatusWrite) -> Result<(), kube::Error> {
    let object = &write.object;
    let resource = api_resource(object.kind);
    let mut body = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": object.name, "namespace": object.namespace},
        "status": write.shown.as_ref().map_or_else(|| json!({}), |shown| status(object.kind, shown)),
    });
    if let Some(version) = &write.version {
        body["metadata"]["resourceVersion"] = (**version).into();
    }
    let objects: Api<Raw> = Api::namespaced_with(api.clone(), &object.namespace, &resource);
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    objects.patch_status(&object.name, &parameters, &Patch::Apply(body)).await.map(drop)
}

fn status(kind: Kind, shown: &Shown) -> Value {
    let mut status = json!({"loadBalancer": load_balancer(kind, &shown.addresses)});
    if let Some(shown) = &shown.condition {
        status["conditions"] = json!([condition(shown)]);
    }
    status
}

fn condition(shown: &Condition) -> Value {
    let since = Timestamp::from_second(shown.since).unwrap_or(Timestamp::UNIX_EPOCH);
    let mut condition = json!({
        "type": CONDITION_TYPE,
        "status": if shown.is_ready { "True" } else { "False" },
        "reason": shown.reason,
        "message": shown.message,
        "lastTransitionTime": Time(since),
    });
    if let Some(generation) = shown.generation {
        condition["observedGeneration"] = generation.into();
    }
    condition
}

fn load_balancer(kind: Kind, addresses: &[Published]) -> Value {
    if addresses.is_empty() {
        return json!({});
    }
    let addresses = addresses.iter().map(|address| match address {
        Published::Ip(address) if kind == Kind::Service => json!({"ip": address.to_string(), "ipMode": IP_MODE}),
        Published::Ip(address) => json!({"ip": address.to_string()}),
        Published::Hostname(name) => json!({"hostname": &**name}),
    });
    json!({"ingress": addresses.collect::<Vec<_>>()})
}

async fn tell(api: &Client, remark: &Remark, identity: &str) -> Result<(), kube::Error> {
    let object = &remark.object;
    // Events about what has no namespace are in this one.
    let namespace = if object.namespace.is_empty() { "default" } else { &*object.namespace };
    let resource = api_resource(object.kind);
    let now = Time(Timestamp::now());
    let mut event = Event {
        involved_object: ObjectReference {
            api_version: Some(resource.api_version),
            kind: Some(resource.kind),
            name: Some(object.name.to_string()),
            namespace: (!object.namespace.is_empty()).then(|| object.namespace.to_string()),
            uid: remark.uid.clone(),
            ..ObjectReference::default()
        },
        type_: Some(if remark.is_warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(remark.reason.to_owned()),
        message: Some(remark.message.chars().take(1024).collect()),
        source: Some(EventSource { component: Some(FIELD_MANAGER.to_owned()), host: Some(identity.to_owned()) }),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        ..Event::default()
    };
    event.metadata.name = Some(name(remark));
    event.metadata.namespace = Some(namespace.to_owned());
    let events: Api<Event> = Api::namespaced(api.clone(), namespace);
    match events.create(&PostParams::default(), &event).await {
        // It has been said, here or by the leader before.
        Err(kube::Error::Api(status)) if status.code == 409 && remark.stands => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => count_up(&events, &name(remark)).await,
        result => result.map(drop),
    }
}

async fn count_up(events: &Api<Event>, name: &str) -> Result<(), kube::Error> {
    let count = events.get(name).await?.count.unwrap_or(1).saturating_add(1);
    let patch = json!({"count": count, "lastTimestamp": Time(Timestamp::now())});
    events.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

/// The same remark has the same name, whoever makes it.
fn name(remark: &Remark) -> String {
    let hasher = foldhash::quality::FixedState::with_seed(0);
    let of = (&remark.object.kind, &remark.object.namespace, &remark.uid, remark.reason, &remark.message);
    let hash = hasher.hash_one(of);
    // A name is at most 253 bytes, and an object's may be as long.
    let object: String = remark.object.name.chars().take(200).collect();
    format!("{}.{hash:016x}", object.trim_end_matches(['.', '-']))
}
