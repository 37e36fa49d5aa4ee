//! The shell around the Leases of directors.

use super::{
    ADDRESSES, BOOT, DURATION, DirectorMember, DirectorNews, DirectorRecord, LABEL, LIFE, Ledger, MEMBERSHIP, RECORD,
    RENEWAL, annotation, lease_name, lease_of, member_of, record_of,
};
use crate::kube::{KubeClient, Pauses, innermost};
use futures_util::StreamExt as _;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// One request, at most.
const PATIENCE: Duration = Duration::from_secs(4);
/// After one that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// A watch is asked for anew this often, in seconds.
const WATCH_SECONDS: u32 = 240;

/// Which Lease is kept.
#[derive(Clone, Debug)]
pub struct DirectorLeaseSettings {
    /// The namespace of the Leases and of the record.
    pub namespace: Arc<str>,
    /// The name of this director; [`lease_name`] must have one for it.
    pub name: Arc<str>,
    /// This director.
    pub member: DirectorMember,
}

/// Keeps the Lease of a director, until it is released or dropped.
#[derive(Debug)]
pub struct DirectorLeases {
    /// The number of the record that this director knows, to be shown on its Lease.
    number: Arc<AtomicU64>,
    /// True = the Lease is to be given back.
    stop: Option<oneshot::Sender<bool>>,
    thread: Option<JoinHandle<()>>,
}

impl DirectorLeases {
    /// Starts a thread that first takes the Lease and then tells what it reads. Each record that comes by `proposals` is
    /// tried until it, or another one of its number or beyond, is there; that one is told as news.
    ///
    /// # Errors
    /// Where there is no thread to be had.
    pub fn start(
        client: KubeClient,
        settings: DirectorLeaseSettings,
        proposals: mpsc::UnboundedReceiver<DirectorRecord>,
        news: Sender<DirectorNews>,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let number = Arc::new(AtomicU64::new(0));
        let shown = Arc::clone(&number);
        let thread = std::thread::Builder::new().name("leases".to_owned()).spawn(move || {
            runtime.block_on(async {
                let api = match client.build() {
                    Ok(api) => api,
                    Err(error) => return tracing::error!(%error, "the Leases of directors are not read"),
                };
                let mut keeper = Keeper::new(api, settings, shown, news);
                let is_released = tokio::select! {
                    () = keeper.run(proposals) => false,
                    is_released = stopped => is_released.unwrap_or(false),
                };
                if is_released {
                    keeper.release().await;
                }
            });
        })?;
        Ok(Self { number, stop: Some(stop), thread: Some(thread) })
    }

    /// The number of the record that this director knows.
    pub fn set_number(&self, number: u64) {
        self.number.store(number, Ordering::Relaxed);
    }

    /// Gives the Lease back. Only when this director neither holds nor votes any more.
    pub fn release(mut self) {
        self.end(true);
    }

    fn end(&mut self, is_released: bool) {
        if let Some(stop) = self.stop.take() {
            // A thread that is gone holds nothing.
            let _gone = stop.send(is_released);
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that keeps the Lease of this director panicked");
        }
    }
}

impl Drop for DirectorLeases {
    fn drop(&mut self) {
        self.end(false);
    }
}

struct Keeper {
    leases: Api<Lease>,
    settings: DirectorLeaseSettings,
    boot: String,
    number: Arc<AtomicU64>,
    news: Sender<DirectorNews>,
    ledger: Ledger,
    /// The Lease of this director as it was last written.
    own: Option<Lease>,
    /// The Leases of others cannot be read.
    is_blind: bool,
    said: Option<String>,
}

/// Why a Lease is not written.
enum Failure {
    /// It was changed by somebody else meanwhile.
    Conflict,
    Other(String),
}

impl Keeper {
    fn new(api: Client, settings: DirectorLeaseSettings, number: Arc<AtomicU64>, news: Sender<DirectorNews>) -> Self {
        // Where it cannot be read, no two lives are known to be of one machine.
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let leases = Api::namespaced(api, &settings.namespace);
        Self { leases, settings, boot, number, news, ledger: Ledger::default(), own: None, is_blind: false, said: None }
    }

    async fn run(&mut self, mut proposals: mpsc::UnboundedReceiver<DirectorRecord>) {
        self.take().await;
        let config = watcher::Config::default().labels(LABEL).timeout(WATCH_SECONDS);
        let mut events = std::pin::pin!(watcher(self.leases.clone(), config).backoff(Pauses::default()));
        let mut is_read = false;
        let mut fresh = BTreeSet::new();
        let mut renewal = tokio::time::interval(RENEWAL);
        renewal.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut shown, mut pending) = (0, None);
        loop {
            let number = self.number.load(Ordering::Relaxed);
            tokio::select! {
                Some(next) = proposals.recv() => pending = self.propose(next).await,
                () = tokio::time::sleep(PAUSE), if pending.is_some() || number != shown => {
                    if number != shown {
                        renewal.reset_immediately();
                    }
                    if let Some(next) = pending.take() {
                        pending = self.propose(next).await;
                    }
                }
                event = events.next() => match event {
                    Some(Ok(event)) => {
                        if self.is_blind && !matches!(event, Event::Init) {
                            // Renewals of others were not seen.
                            self.ledger.forgive(Instant::now());
                            self.is_blind = false;
                        }
                        is_read |= matches!(event, Event::InitDone);
                        let is_record = self.take_in(event, &mut fresh);
                        if is_read {
                            self.tell(is_record);
                        }
                    }
                    Some(Err(error)) => self.is_blinded(match &error {
                        watcher::Error::InitialListFailed(error)
                        | watcher::Error::WatchStartFailed(error)
                        | watcher::Error::WatchFailed(error) => self.plainly("list, watch", error),
                        error => innermost(error),
                    }),
                    None => return,
                },
                _ = renewal.tick() => {
                    if self.renew().await && is_read && !self.is_blind {
                        self.tell(true);
                    }
                    shown = number;
                }
            }
        }
    }

    /// True where the record is another one.
    fn take_in(&mut self, event: Event<Lease>, fresh: &mut BTreeSet<String>) -> bool {
        let now = Instant::now();
        match event {
            Event::Init => fresh.clear(),
            Event::InitApply(lease) => {
                fresh.extend(lease.metadata.name.clone());
                self.ledger.set(lease, now);
            }
            Event::InitDone => {
                let gone: Vec<String> = self.ledger.names().filter(|name| !fresh.contains(name)).collect();
                for name in gone {
                    self.ledger.remove(&name);
                }
                return true;
            }
            Event::Apply(lease) => return self.ledger.set(lease, now),
            Event::Delete(lease) => return self.ledger.remove(lease.metadata.name.as_deref().unwrap_or_default()),
        }
        false
    }

    /// Whoever listened may be gone; then this ends soon.
    fn tell(&mut self, with_record: bool) {
        let _gone = self.news.send(DirectorNews::Leases(self.ledger.standings(Instant::now())));
        if with_record {
            match self.ledger.record() {
                Ok(record) => drop(self.news.send(DirectorNews::Record(record))),
                Err(why) => self.complain(why),
            }
        }
    }

    fn complain(&mut self, why: String) {
        if self.said.as_ref() != Some(&why) {
            tracing::warn!(%why, "the Leases of directors: those that are known go on among themselves");
            let _gone = self.news.send(DirectorNews::Trouble(Some(why.clone())));
            self.said = Some(why);
        }
    }

    fn is_blinded(&mut self, why: String) {
        self.is_blind = true;
        self.complain(why);
    }

    fn is_well(&mut self) {
        if !self.is_blind && self.said.take().is_some() {
            tracing::info!("the Leases of directors: all is well again");
            let _gone = self.news.send(DirectorNews::Trouble(None));
        }
    }

    /// Makes the Lease this life's, unless another one of another machine renews it.
    async fn take(&mut self) {
        let name = lease_name(&self.settings.name).unwrap_or_default();
        let mut seen: Option<(Option<String>, Instant)> = None;
        loop {
            let found = match self.get(&name).await {
                Ok(found) => found,
                Err(why) => {
                    self.complain(why);
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let version = found.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
            if seen.as_ref().is_none_or(|(seen, _)| *seen != version) {
                seen = Some((version, Instant::now()));
            }
            let since = seen.as_ref().map_or_else(Instant::now, |(_, since)| *since);
            if !self.may_take(found.as_ref(), since.elapsed()) {
                self.complain(format!(
                    "another director is called {}, or was until a moment ago: where two run, give each its own --director-name",
                    self.settings.name
                ));
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            match self.write(self.own_lease(found, true)).await {
                Ok(lease) => {
                    self.own = Some(lease);
                    return;
                }
                Err(Failure::Conflict) => {}
                Err(Failure::Other(why)) => {
                    self.complain(why);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// A former life on this machine is dead: it had the same ports.
    fn may_take(&self, found: Option<&Lease>, unchanged: Duration) -> bool {
        let Some(found) = found else { return true };
        let holder = found.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        let is_here = !self.boot.is_empty() && annotation(found, BOOT) == Some(&self.boot);
        holder.is_empty() || is_here || unchanged >= DURATION
    }

    fn is_own(&self, lease: &Lease) -> bool {
        member_of(lease).is_some_and(|member| member.life == self.settings.member.life)
    }

    /// True where it is renewed.
    async fn renew(&mut self) -> bool {
        let name = lease_name(&self.settings.name).unwrap_or_default();
        let mut failure = None;
        for _ in 0..3 {
            match self.write(self.own_lease(self.own.clone(), true)).await {
                Ok(lease) => {
                    self.own = Some(lease);
                    self.is_well();
                    let _gone = self.news.send(DirectorNews::Renewed(Instant::now()));
                    return true;
                }
                Err(Failure::Other(why)) => {
                    failure = Some(why);
                    break;
                }
                Err(Failure::Conflict) => match self.get(&name).await {
                    Ok(Some(found)) if !self.is_own(&found) => {
                        failure = Some(format!(
                            "another process has taken the name of this director, {}",
                            self.settings.name
                        ));
                        break;
                    }
                    // An operator may have deleted it.
                    Ok(found) => self.own = found,
                    Err(why) => {
                        failure = Some(why);
                        break;
                    }
                },
            }
        }
        self.ledger.forgive(Instant::now());
        self.complain(failure.unwrap_or_else(|| "the Lease of this director is changed all the time".to_owned()));
        false
    }

    /// Gives it back where it is not known what became of it.
    async fn propose(&mut self, next: DirectorRecord) -> Option<DirectorRecord> {
        match self.try_record(&next).await {
            Ok(record) => {
                let _gone = self.news.send(DirectorNews::Record(Some(record)));
                return None;
            }
            // The next look shows who was faster.
            Err(Failure::Conflict) => {}
            Err(Failure::Other(why)) => self.complain(why),
        }
        Some(next)
    }

    async fn try_record(&self, next: &DirectorRecord) -> Result<DirectorRecord, Failure> {
        let found = self.get(RECORD).await.map_err(Failure::Other)?;
        if let Some(found) = &found {
            let record = record_of(found).map_err(Failure::Other)?;
            if record.number >= next.number {
                return Ok(record);
            }
        }
        let lease = lease_of(next, found, Timestamp::now()).map_err(Failure::Other)?;
        self.write(lease).await?;
        Ok(next.clone())
    }

    /// Gives the Lease back, so that others need not wait until it has expired.
    async fn release(&mut self) {
        if self.own.is_none() {
            return;
        }
        let name = lease_name(&self.settings.name).unwrap_or_default();
        let mut found = self.own.take();
        // A renewal that was under way may have arrived.
        for _ in 0..3 {
            let why = match self.write(self.own_lease(found, false)).await {
                Ok(_) => return,
                Err(Failure::Other(why)) => why,
                Err(Failure::Conflict) => match self.get(&name).await {
                    Ok(Some(lease)) if self.is_own(&lease) => {
                        found = Some(lease);
                        continue;
                    }
                    // Another life has it, or an operator has deleted it.
                    Ok(_) => return,
                    Err(why) => why,
                },
            };
            tracing::warn!(%why, "the Lease of this director could not be given back; the others wait until it has expired");
            return;
        }
    }

    async fn get(&self, name: &str) -> Result<Option<Lease>, String> {
        let found = tokio::time::timeout(PATIENCE, self.leases.get_opt(name)).await;
        found.map_err(|_| "the API server does not answer".to_owned())?.map_err(|error| self.plainly("get", &error))
    }

    async fn write(&self, lease: Lease) -> Result<Lease, Failure> {
        let parameters = PostParams::default();
        let name = lease.metadata.name.clone().unwrap_or_default();
        let is_new = lease.metadata.resource_version.is_none();
        let written = async {
            match is_new {
                true => self.leases.create(&parameters, &lease).await,
                false => self.leases.replace(&name, &parameters, &lease).await,
            }
        };
        match tokio::time::timeout(PATIENCE, written).await {
            Ok(Ok(lease)) => Ok(lease),
            // Somebody was faster, or has deleted it.
            Ok(Err(kube::Error::Api(status)))
                if matches!(status.code, 409 | 404) && !(is_new && status.code == 404) =>
            {
                Err(Failure::Conflict)
            }
            Ok(Err(error)) => Err(Failure::Other(self.plainly(if is_new { "create" } else { "update" }, &error))),
            Err(_) => Err(Failure::Other("the API server does not answer".to_owned())),
        }
    }

    /// What is not ours of a Lease stays as it was.
    fn own_lease(&self, found: Option<Lease>, is_held: bool) -> Lease {
        let DirectorLeaseSettings { name, member, .. } = &self.settings;
        let (mut lease, now) = (found.unwrap_or_default(), Timestamp::now());
        let is_acquired = is_held && !self.is_own(&lease);
        lease.metadata.name = lease_name(name);
        lease.metadata.managed_fields = None;
        lease.metadata.labels.get_or_insert_default().insert(LABEL.to_owned(), "member".to_owned());
        let addresses: Vec<String> = member.addresses.iter().map(ToString::to_string).collect();
        let number = if is_held { self.number.load(Ordering::Relaxed) } else { 0 };
        let annotations = [
            (LIFE, format!("{:016x}", member.life)),
            (ADDRESSES, addresses.join(",")),
            (MEMBERSHIP, number.to_string()),
            (BOOT, self.boot.clone()),
        ];
        let annotations = annotations.map(|(key, value)| (key.to_owned(), value));
        lease.metadata.annotations.get_or_insert_default().extend(annotations);
        let spec: &mut LeaseSpec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(if is_held { name.to_string() } else { String::new() });
        spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
        if is_acquired {
            spec.acquire_time = Some(MicroTime(now));
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.renew_time = Some(MicroTime(now));
        lease
    }

    fn plainly(&self, verb: &str, error: &kube::Error) -> String {
        match error {
            kube::Error::Api(status) if status.code == 403 => {
                let verbs = crate::rights::LEASES_OF_DIRECTORS;
                format!(
                    "the API server forbids to {verb} leases in namespace {}; give the service account the rule {} there",
                    self.settings.namespace,
                    crate::rights::rule("coordination.k8s.io", "leases", verbs)
                )
            }
            error => innermost(error),
        }
    }
}
