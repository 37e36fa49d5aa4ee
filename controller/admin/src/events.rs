//! `/api/v1/events`: traffic as it happens, by server-sent events. One sampler serves all who watch; while nobody does, it
//! keeps the history alone, so that a page has one when it is opened.
//!
//! Bounded: [`MOST_VIEWERS`] watch at a time, and who does not read for [`BACKLOG`] seconds is sent away. A page comes back
//! by itself.

use crate::body::Lines;
use crate::director::DirectorState;
use crate::history::{COARSE_STEP, COLUMNS, FINE_STEP, History, Point, Reading};
use crate::leaders::{Counted, Leader, Leaders, STEP};
use crate::source::SourceState;
use crate::traffic::{Pulse, RequestCounts, TrafficVisitor};
use crate::view::{Readiness, StateView};
use bytes::Bytes;
use serde::Serialize;
use sluicegate_telemetry::Metrics;
use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

/// Who may watch at a time.
pub(crate) const MOST_VIEWERS: usize = 32;
/// Events that wait for one who does not read.
const BACKLOG: usize = 16;

/// What was sampled, and who watches.
#[derive(Debug)]
pub(crate) struct Hub {
    begun: Instant,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    history: History,
    hosts: Leaders,
    backends: Leaders,
    vips: Leaders,
    named_at: Option<Duration>,
    /// The last `status`, as it was sent or would have been.
    status: Option<Bytes>,
    viewers: Vec<mpsc::Sender<Bytes>>,
    is_over: bool,
}

/// As many watch as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MOST_VIEWERS} watch already; close a status page, or ask /api/v1/state")]
pub(crate) struct TooMany;

impl Hub {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { begun: Instant::now(), known: Mutex::default() })
    }

    /// Events from here on, after one with the history.
    pub(crate) fn watch(&self) -> Result<Box<dyn Lines>, TooMany> {
        let mut known = self.locked();
        known.viewers.retain(|viewer| !viewer.is_closed());
        if known.viewers.len() >= MOST_VIEWERS {
            return Err(TooMany);
        }
        let (events, receiver) = mpsc::channel(BACKLOG);
        let first = [Some(known.past()), Some(known.names()), known.status.clone()];
        for event in first.into_iter().flatten() {
            // There is room: nobody else has the channel yet.
            let _sent = events.try_send(event);
        }
        if !known.is_over {
            known.viewers.push(events);
        }
        Ok(Box::new(Feed { receiver }))
    }

    /// Takes a sample, and tells it to whoever watches.
    fn sample(&self, view: &dyn StateView, metrics: &Metrics) {
        let (pulse, readiness, totals) = (view.pulse(), view.ready(), metrics.totals());
        let (now, unix_ms) = (self.begun.elapsed(), unix_millis());
        let mut known = self.locked();
        let added = known.history.take(Reading::new(now, unix_ms, totals, &pulse));
        let is_due = known.named_at.is_none_or(|at| now.saturating_sub(at) + FINE_STEP / 2 >= STEP);
        if is_due {
            known.named_at = Some(now);
            known.look(view, now);
        }
        let status = Status::new(&pulse, &readiness, metrics, unix_ms).event();
        if !known.viewers.is_empty() {
            if let Some(added) = added {
                let point = Sample { fine: added.fine, coarse: added.coarse };
                known.tell(&event("sample", &point));
            }
            if is_due {
                let names = known.names();
                known.tell(&names);
            }
            known.tell(&status);
        }
        known.status = Some(status);
    }

    /// Nobody is told anything any more.
    fn end(&self) {
        let mut known = self.locked();
        known.is_over = true;
        known.viewers.clear();
    }

    fn locked(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Samples once a second until it is told to stop. The reading itself is done beside the thread that answers probes.
pub(crate) async fn keep_sampling(
    hub: Arc<Hub>,
    view: Arc<dyn StateView>,
    metrics: Arc<Metrics>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut ticks = tokio::time::interval(FINE_STEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped.wait_for(|stop| *stop) => break,
        }
        let (hub, view, metrics) = (Arc::clone(&hub), Arc::clone(&view), Arc::clone(&metrics));
        let sampled = tokio::task::spawn_blocking(move || hub.sample(view.as_ref(), &metrics)).await;
        if let Err(error) = sampled {
            tracing::error!(%error, "traffic could not be sampled for the status page");
        }
    }
    hub.end();
}

impl Known {
    fn look(&mut self, view: &dyn StateView, now: Duration) {
        let Self { hosts, backends, vips, .. } = self;
        [&mut *hosts, &mut *backends, &mut *vips].into_iter().for_each(Leaders::begin);
        let mut look = Look { at: now.as_secs_f64(), hosts, backends, vips, text: String::new() };
        view.visit_traffic(&mut look);
        [hosts, backends, vips].into_iter().for_each(Leaders::end);
    }

    fn past(&self) -> Bytes {
        event(
            "history",
            &Past {
                columns: COLUMNS,
                fine_step_ms: FINE_STEP.as_millis(),
                fine: self.history.fine().collect(),
                coarse_step_ms: COARSE_STEP.as_millis(),
                coarse: self.history.coarse().collect(),
            },
        )
    }

    fn names(&self) -> Bytes {
        let names = Names {
            step_ms: STEP.as_millis(),
            hosts: self.hosts.busiest(),
            backends: self.backends.busiest(),
            vips: self.vips.busiest(),
        };
        event("names", &names)
    }

    /// Who is gone, or has not read for too long, is told nothing any more.
    fn tell(&mut self, event: &Bytes) {
        self.viewers.retain(|viewer| viewer.try_send(event.clone()).is_ok());
    }
}

/// Puts what it is shown where it belongs.
struct Look<'a> {
    at: f64,
    hosts: &'a mut Leaders,
    backends: &'a mut Leaders,
    vips: &'a mut Leaders,
    text: String,
}

impl TrafficVisitor for Look<'_> {
    fn host(&mut self, host: &str, counts: RequestCounts) {
        self.hosts.take(host, Counted { at: self.at, first: counts.requests, second: counts.errors });
    }

    fn backend(&mut self, id: &dyn Display, counts: RequestCounts) {
        self.text.clear();
        // Writing into a String cannot fail.
        let _written = write!(self.text, "{id}");
        self.backends.take(&self.text, Counted { at: self.at, first: counts.requests, second: counts.errors });
    }

    fn vip(&mut self, address: IpAddr, counted_ms: u64, packets: u64, bytes: u64) {
        self.text.clear();
        // Writing into a String cannot fail.
        let _written = write!(self.text, "{address}");
        let at = counted_ms as f64 / 1_000.0;
        self.vips.take(&self.text, Counted { at, first: packets, second: bytes.saturating_mul(8) });
    }
}

#[derive(Serialize)]
struct Past<'a> {
    columns: [&'static str; COLUMNS.len()],
    fine_step_ms: u128,
    fine: Vec<&'a Point>,
    coarse_step_ms: u128,
    coarse: Vec<&'a Point>,
}

#[derive(Serialize)]
struct Sample {
    fine: Point,
    coarse: Option<Point>,
}

#[derive(Serialize)]
struct Names<'a> {
    step_ms: u128,
    hosts: Vec<Leader<'a>>,
    backends: Vec<Leader<'a>>,
    vips: Vec<Leader<'a>>,
}

#[derive(Serialize)]
struct Status<'a> {
    version: &'static str,
    now_ms: u64,
    generation: u64,
    applied_ms: Option<u64>,
    ready: bool,
    reasons: &'a [String],
    remarks: &'a [String],
    rejected: u64,
    ignored: u64,
    warnings: u64,
    last_change: u64,
    /// What is served, by kind: `hosts`, `routes`, `backends` …
    objects: BTreeMap<&'static str, u64>,
    source: Option<&'a SourceState>,
    director: Option<&'a DirectorState>,
}

impl<'a> Status<'a> {
    fn new(pulse: &'a Pulse, readiness: &'a Readiness, metrics: &Metrics, now_ms: u64) -> Self {
        let (generation, applied_at) = metrics.generation();
        let rejections = metrics.rejections();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            now_ms,
            generation,
            applied_ms: (applied_at > 0.0).then_some((applied_at * 1_000.0) as u64),
            ready: readiness.is_ready(),
            reasons: readiness.reasons(),
            remarks: readiness.remarks(),
            rejected: rejections.rejected,
            ignored: rejections.ignored,
            warnings: rejections.warning,
            last_change: pulse.last_change,
            objects: metrics.objects(),
            source: pulse.source.as_ref(),
            director: pulse.director.as_ref(),
        }
    }

    fn event(&self) -> Bytes {
        event("status", self)
    }
}

/// One event as it is sent: JSON has no line feeds of its own.
fn event(name: &str, data: &impl Serialize) -> Bytes {
    match serde_json::to_string(data) {
        Ok(data) => format!("event: {name}\ndata: {data}\n\n").into(),
        Err(error) => {
            tracing::error!(%error, name, "an event could not be written as JSON");
            Bytes::from_static(b": see the log\n\n")
        }
    }
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The events of one who watches.
struct Feed {
    receiver: mpsc::Receiver<Bytes>,
}

impl Lines for Feed {
    fn poll_line(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.receiver.poll_recv(context)
    }
}
