//! When to probe, and what the answers mean. No socket, no clock, no randomness: time comes in, due probes and changes of
//! verdicts go out.
//!
//! ```text
//!             fall bad in a row                 a probe that this machine could not send counts for nothing
//!  healthy ───────────────────────► unhealthy   a good answer while healthy, or a bad one while unhealthy,
//!     ▲  ◄───────────────────────────  │        begins the count anew
//!     │       rise good in a row       │
//!     └── a new target                 └── latest failure = reason
//! ```
//!
//! A new target is healthy: Kubernetes calls it ready, so it is used at once, and a probe that fails `fall` times takes it
//! out. The other choice (unhealthy until probed) would black-hole every new pod for `rise` intervals, and every service
//! after a restart of the director. Those that a process before this one left dead are the exception: they prove themselves
//! first ([`Checker::presume_failed`]). A target whose check changed keeps its verdict and begins its count anew.

use crate::failure::Failure;
use crate::target::{Change, LastProbe, Status, Target, Verdict};
use sluicegate_config::{HealthCheck, TransportProtocol};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest that a new target waits for its first probe, however long its interval.
const FIRST_WITHIN: Duration = Duration::from_secs(1);
/// Intervals outside of these are taken as the nearer one: below, a probe that fails at once would keep the thread busy;
/// above, instants could overflow.
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(24 * 3600);

/// The state of all targets, and the queue of what is due.
#[derive(Debug)]
pub struct Checker {
    seed: u64,
    entries: BTreeMap<Target, Entry>,
    /// Targets that wait for their time.
    waiting: BTreeSet<(Instant, Target)>,
    /// Probes that were handed out, by ticket.
    running: BTreeMap<Ticket, Target>,
    next_ticket: u64,
    /// Real servers whose first target begins as unhealthy.
    presumed: BTreeSet<RealPort>,
}

/// A port of a real server: its address, the transport and the port of the service.
pub type RealPort = (IpAddr, TransportProtocol, u16);

/// Names one probe that was handed out by [`Checker::poll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(crate) u64);

/// A probe whose time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueProbe {
    /// To be given back with the answer.
    pub ticket: Ticket,
    /// What is probed.
    pub target: Target,
    /// How.
    pub check: Arc<HealthCheck>,
}

#[derive(Debug)]
struct Entry {
    status: Status,
    phase: Phase,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Waiting { until: Instant },
    Running { ticket: Ticket, began: Instant },
}

impl Checker {
    /// Without targets. `seed` spreads the probes over time; directors with different seeds do not probe in step.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            entries: BTreeMap::new(),
            waiting: BTreeSet::new(),
            running: BTreeMap::new(),
            next_ticket: 0,
            presumed: BTreeSet::new(),
        }
    }

    /// The next targets of these begin as unhealthy, where there is doubt: a process before this one found them dead.
    pub fn presume_failed(&mut self, reals: BTreeSet<RealPort>) {
        self.presumed = reals;
    }

    /// Replaces the targets. Those that stay keep their verdict, and where the check stays too, their place in time.
    pub fn set_targets(&mut self, targets: BTreeMap<Target, Arc<HealthCheck>>, now: Instant) {
        let gone: Vec<Target> = self.entries.keys().filter(|target| !targets.contains_key(target)).copied().collect();
        for target in gone {
            self.forget(&target);
        }
        for (target, check) in targets {
            match self.entries.get_mut(&target) {
                Some(entry) if entry.status.check == check => {}
                Some(entry) => {
                    let verdict = entry.status.verdict.clone();
                    self.forget(&target);
                    self.add(target, check, verdict, now);
                }
                None => {
                    let failed = self.presumed.contains(&(target.real, target.protocol, target.port));
                    let reason = failed.then_some(Failure::Before);
                    self.add(target, check, Verdict { healthy: !failed, reason, since: now }, now);
                }
            }
        }
        self.presumed.clear();
    }

    /// Probes that are due, the longest overdue first, at most `room`. Each is under way until [`Checker::handle`] gets
    /// its answer; a target has one probe under way at a time.
    pub fn poll(&mut self, now: Instant, room: usize) -> Vec<DueProbe> {
        let mut due = Vec::new();
        while due.len() < room
            && let Some(&(until, target)) = self.waiting.first()
            && until <= now
        {
            self.waiting.pop_first();
            let ticket = Ticket(self.next_ticket);
            self.next_ticket += 1;
            let Some(entry) = self.entries.get_mut(&target) else { continue };
            entry.phase = Phase::Running { ticket, began: now };
            self.running.insert(ticket, target);
            due.push(DueProbe { ticket, target, check: Arc::clone(&entry.status.check) });
        }
        due
    }

    /// When the next probe is due; `None` while nothing waits.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.waiting.first().map(|(until, _)| *until)
    }

    /// The answer to a probe. Says when it turned the verdict. The answer to a probe whose target has gone or has another
    /// check by then is ignored.
    pub fn handle(&mut self, ticket: Ticket, result: Result<(), Failure>, now: Instant) -> Option<Change> {
        let target = self.running.remove(&ticket)?;
        let entry = self.entries.get_mut(&target)?;
        let Phase::Running { began, .. } = entry.phase else { return None };
        let interval = jittered(entry.status.check.interval, self.seed, &target, ticket.0);
        let until = (began + interval).max(now);
        entry.phase = Phase::Waiting { until };
        self.waiting.insert((until, target));

        let turned = entry.status.take_in(&result, now);
        entry.status.last = Some(LastProbe { at: now, took: now.saturating_duration_since(began), result });
        turned.then(|| Change { target, verdict: entry.status.verdict.clone() })
    }

    /// What is known of one target.
    #[must_use]
    pub fn status(&self, target: &Target) -> Option<&Status> {
        self.entries.get(target).map(|entry| &entry.status)
    }

    /// What is known of all, by target.
    pub fn statuses(&self) -> impl Iterator<Item = (&Target, &Status)> {
        self.entries.iter().map(|(target, entry)| (target, &entry.status))
    }

    fn add(&mut self, target: Target, check: Arc<HealthCheck>, verdict: Verdict, now: Instant) {
        let until = now + first_delay(check.interval, self.seed, &target);
        let status = Status { check, verdict, streak: 0, last: None };
        self.entries.insert(target, Entry { status, phase: Phase::Waiting { until } });
        self.waiting.insert((until, target));
    }

    fn forget(&mut self, target: &Target) {
        match self.entries.remove(target).map(|entry| entry.phase) {
            Some(Phase::Waiting { until }) => {
                self.waiting.remove(&(until, *target));
            }
            Some(Phase::Running { ticket, .. }) => {
                self.running.remove(&ticket);
            }
            None => {}
        }
    }
}

impl Status {
    /// Counts an answer; says whether it turned the verdict.
    fn take_in(&mut self, result: &Result<(), Failure>, now: Instant) -> bool {
        let failure = match result {
            Ok(()) => None,
            Err(failure) if failure.is_local() => return false,
            Err(failure) => Some(failure.clone()),
        };
        let good = failure.is_none();
        if !good && !self.verdict.healthy {
            self.verdict.reason.clone_from(&failure);
        }
        if good == self.verdict.healthy {
            self.streak = 0;
            return false;
        }
        self.streak = self.streak.saturating_add(1);
        let needed = if good { self.check.rise } else { self.check.fall };
        if self.streak < needed {
            return false;
        }
        self.streak = 0;
        self.verdict = Verdict { healthy: good, reason: failure, since: now };
        true
    }
}

/// Where in its first interval a target begins.
fn first_delay(interval: Duration, seed: u64, target: &Target) -> Duration {
    interval.min(FIRST_WITHIN).mul_f64(fraction(seed, target, u64::MAX))
}

/// The interval, 10 % more or less: probes that once fell together do not stay together.
fn jittered(interval: Duration, seed: u64, target: &Target, round: u64) -> Duration {
    interval.clamp(*INTERVALS.start(), *INTERVALS.end()).mul_f64(0.9 + 0.2 * fraction(seed, target, round))
}

/// A number in 0..1 that depends on nothing but the arguments.
fn fraction(seed: u64, target: &Target, round: u64) -> f64 {
    let mut hasher = DefaultHasher::new();
    (seed, target, round).hash(&mut hasher);
    // 53 bits are what an f64 holds exactly.
    (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64
}
