//! The thread of the checks: one for all targets, with a task for each probe that is under way.

use crate::checker::{Checker, DueProbe, RealPort, Ticket};
use crate::failure::Failure;
use crate::probe::Prober;
use crate::route::ProbeRoute;
use crate::target::{Change, Status, Target};
use sluicegate_config::HealthCheck;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::task::{Id, JoinError, JoinSet, LocalSet};

/// How the checks run.
#[derive(Clone, Copy, Debug)]
pub struct HealthSettings {
    /// Most probes under way at a time; each takes one file descriptor. Those that find no room wait, the longest overdue
    /// goes first, so that intervals grow when the number is too small. Default 1024.
    pub concurrency: usize,
    /// Spreads the probes over time. Give each director another one, so that they do not probe in step. Default 0.
    pub seed: u64,
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self { concurrency: 1024, seed: 0 }
    }
}

/// Why the checks did not start. The machine's fault: it is out of threads, memory or file descriptors.
#[derive(Debug, Error)]
pub enum StartError {
    /// The runtime.
    #[error("the health checks have no event loop ({0}); raise the limit of open files")]
    Runtime(#[source] io::Error),
    /// The thread.
    #[error("the health checks have no thread ({0}); raise the limit of processes")]
    Thread(#[source] io::Error),
}

/// Running health checks. Dropping it ends them: probes under way are cut off.
#[derive(Debug)]
pub struct Health {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug)]
struct State {
    checker: Checker,
    stopping: bool,
}

impl Health {
    /// Starts the thread, without targets. `route` tells the way of each probe; `on_change` gets each verdict that turned,
    /// in order. Both are called in that thread and must not block; they may call back into this.
    ///
    /// # Errors
    /// When the thread or its event loop cannot be had.
    pub fn start(
        settings: HealthSettings,
        route: impl ProbeRoute + Send + 'static,
        on_change: impl FnMut(Change) + Send + 'static,
    ) -> Result<Self, StartError> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Runtime)?;
        let state = State { checker: Checker::new(settings.seed), stopping: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: Notify::new() });
        let shell = Shell {
            shared: Arc::clone(&shared),
            prober: Prober::new(),
            route,
            on_change,
            concurrency: settings.concurrency.max(1),
            probes: JoinSet::new(),
            tickets: BTreeMap::new(),
        };
        let thread = thread::Builder::new()
            .name("health".to_owned())
            .spawn(move || LocalSet::new().block_on(&runtime, shell.run()))
            .map_err(StartError::Thread)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The targets that are set next begin as unhealthy where a process before this one left their real server dead.
    pub fn presume_failed(&self, reals: BTreeSet<RealPort>) {
        self.shared.lock().checker.presume_failed(reals);
    }

    /// Replaces the targets. Those that stay keep their verdict; a new one is healthy until probes say otherwise. One that
    /// is not among them any more is forgotten, without a [`Change`].
    pub fn set_targets(&self, targets: BTreeMap<Target, Arc<HealthCheck>>) {
        self.shared.lock().checker.set_targets(targets, Instant::now());
        self.shared.wake.notify_one();
    }

    /// What is known of all targets.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<Target, Status> {
        self.shared.lock().checker.statuses().map(|(target, status)| (*target, status.clone())).collect()
    }

    /// Whether a real server should get packets. One that is no target is healthy: nothing speaks against it.
    #[must_use]
    pub fn is_healthy(&self, target: &Target) -> bool {
        self.shared.lock().checker.status(target).is_none_or(|status| status.verdict.healthy)
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.wake.notify_one();
        // Dropped by its own callback, the thread must not wait for itself.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != thread::current().id())
            && thread.join().is_err()
        {
            tracing::error!("the thread of the health checks had panicked");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The checker is whole between its calls; a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What lives in the thread.
struct Shell<R, C> {
    shared: Arc<Shared>,
    prober: Prober,
    route: R,
    on_change: C,
    concurrency: usize,
    probes: JoinSet<Result<(), Failure>>,
    /// Which probe each task is: one that panics gives nothing back.
    tickets: BTreeMap<Id, Ticket>,
}

impl<R: ProbeRoute, C: FnMut(Change)> Shell<R, C> {
    async fn run(mut self) {
        loop {
            let room = self.concurrency - self.probes.len().min(self.concurrency);
            let (due, next) = {
                let mut state = self.shared.lock();
                if state.stopping {
                    return;
                }
                (state.checker.poll(Instant::now(), room), state.checker.next_due())
            };
            let is_full = due.len() == room;
            for probe in due {
                self.begin(probe);
            }
            let next = next.filter(|_| !is_full).map(tokio::time::Instant::from_std);
            let until_next = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(ended) = self.probes.join_next_with_id() => self.take_in(ended),
                () = until_next => {}
                () = self.shared.wake.notified() => {}
            }
        }
    }

    fn begin(&mut self, due: DueProbe) {
        let way = self.route.way(&due.target);
        let ticket = due.ticket;
        let prober = self.prober.clone();
        let task = self.probes.spawn_local(async move { prober.probe(&due, &way).await });
        self.tickets.insert(task.id(), ticket);
    }

    fn take_in(&mut self, ended: Result<(Id, Result<(), Failure>), JoinError>) {
        let (id, result) = match ended {
            Ok(ended) => ended,
            Err(error) => (error.id(), Err(Failure::Local(error.to_string().into()))),
        };
        let Some(ticket) = self.tickets.remove(&id) else { return };
        let change = self.shared.lock().checker.handle(ticket, result, Instant::now());
        if let Some(change) = change {
            match &change.verdict.reason {
                Some(reason) => tracing::warn!(target = %change.target, %reason, "real server failed its health check"),
                None => tracing::info!(target = %change.target, "real server passes its health check"),
            }
            (self.on_change)(change);
        }
    }
}
