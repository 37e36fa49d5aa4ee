//! The thread that takes spans out of the queue and sends them.

use crate::answer::{Answer, Retry};
use crate::backoff::{Backoff, Next};
use crate::client::Client;
use crate::envelope::Envelope;
use crate::settings::{OtlpError, OtlpSettings};
use bytes::Bytes;
use sluicegate_telemetry::{DropReason, SpanQueue};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::MissedTickBehavior;

/// How often what went wrong is logged, at most.
const REPORT: Duration = Duration::from_secs(60);
/// Between two attempts at the end.
const HURRY: Duration = Duration::from_millis(200);

/// Sends spans until it is dropped or shut down.
#[derive(Debug)]
pub struct Exporter {
    queue: Arc<SpanQueue>,
    stop: Option<oneshot::Sender<Duration>>,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    /// Starts the thread. That there is a collector is not asked for: it may come later.
    ///
    /// # Errors
    /// Where files of TLS do not do, or the system gives no thread.
    pub fn start(settings: OtlpSettings) -> Result<Self, OtlpError> {
        let wake = Arc::new(Notify::new());
        let waker = Arc::clone(&wake);
        let queue = Arc::new(SpanQueue::new(settings.queue, settings.batch, move || waker.notify_one()));
        let client = Client::new(&settings)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(OtlpError::Thread)?;
        let trouble = Arc::new(Trouble::default());
        let sender = Sender {
            queue: Arc::clone(&queue),
            envelope: Envelope::new(&settings.resource),
            client,
            trouble: Arc::clone(&trouble),
            pending: None,
            paused_until: None,
            ending: watch::channel(false).1,
        };
        let (stop, stopped) = oneshot::channel();
        let collector = settings.endpoint.shown();
        let reports = report(Arc::clone(&queue), trouble, collector.clone());
        let work = async move {
            tokio::spawn(reports);
            sender.run(wake, stopped, settings.delay).await;
        };
        let thread = std::thread::Builder::new().name("otlp".to_owned()).spawn(move || runtime.block_on(work));
        tracing::info!(collector, protocol = ?settings.endpoint.protocol, "spans are sent");
        Ok(Self { queue, stop: Some(stop), thread: Some(thread.map_err(OtlpError::Thread)?) })
    }

    /// Where spans are put in.
    pub fn queue(&self) -> &Arc<SpanQueue> {
        &self.queue
    }

    /// Sends what is in the queue, for at most so long, and ends. What is left is counted as lost.
    pub fn shut_down(mut self, limit: Duration) {
        self.end(limit);
    }

    fn end(&mut self, limit: Duration) {
        // A thread that has ended wants no word of it.
        let _told = self.stop.take().map(|stop| stop.send(limit));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the exporter of spans ended in a panic");
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

/// A batch that has been taken out of the queue.
struct Batch {
    spans: usize,
    body: Bytes,
    backoff: Backoff,
}

struct Sender {
    queue: Arc<SpanQueue>,
    envelope: Envelope,
    client: Client,
    trouble: Arc<Trouble>,
    /// Kept here, so that one that is under way when time is up is counted.
    pending: Option<Batch>,
    /// The collector asked not to be asked before.
    paused_until: Option<Instant>,
    /// The gateway ends: there is no time for pauses.
    ending: watch::Receiver<bool>,
}

impl Sender {
    async fn run(mut self, wake: Arc<Notify>, stopped: oneshot::Receiver<Duration>, delay: Duration) {
        let mut tick = tokio::time::interval(delay);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (end, ending) = watch::channel(false);
        self.ending = ending;
        {
            // What is under way when the end comes is finished, not begun anew: a collector would have it twice.
            let mut work = std::pin::pin!(self.work(&wake, &mut tick));
            let limit = tokio::select! {
                limit = stopped => limit.unwrap_or_default(),
                () = &mut work => return,
            };
            end.send_replace(true);
            // What is not sent then is lost, and counted.
            let _in_time = tokio::time::timeout(limit, work).await;
        }
        self.give_up_rest();
    }

    /// Sends until the end, and then what is there.
    async fn work(&mut self, wake: &Notify, tick: &mut tokio::time::Interval) {
        loop {
            self.turn(wake, tick).await;
            if *self.ending.borrow() && self.pending.is_none() && self.queue.counts().queued() == 0 {
                return;
            }
        }
    }

    /// Waits until there is something to do, and does it.
    async fn turn(&mut self, wake: &Notify, tick: &mut tokio::time::Interval) {
        let everything = tokio::select! {
            () = wake.notified() => false,
            _ = tick.tick() => true,
            _ = self.ending.wait_for(|ending| *ending) => true,
        };
        if everything {
            // What comes meanwhile has time until the next tick.
            let mut left = self.queue.counts().queued() + self.pending.as_ref().map_or(0, |batch| batch.spans);
            while left > 0 {
                match self.send_next(true).await {
                    0 => break,
                    spans => left = left.saturating_sub(spans),
                }
            }
        }
        while self.send_next(false).await > 0 {}
        self.trouble.look_at(&self.queue);
    }

    /// Sends one batch, for as long as that takes, and says how many spans it had: none where there is no batch. One that
    /// is not full counts where `any` does.
    async fn send_next(&mut self, any: bool) -> usize {
        if let Some(until) = self.paused_until.take() {
            rest(&mut self.ending, until.saturating_duration_since(Instant::now())).await;
        }
        if self.pending.is_none() && (any || self.queue.has_batch()) {
            self.pending = self.next_batch();
        }
        let Some(batch) = &mut self.pending else { return 0 };
        let spans = batch.spans;
        loop {
            let began = Instant::now();
            match self.client.send(batch.body.clone()).await {
                Answer::Taken { refused, words } => {
                    let refused = usize::try_from(refused).unwrap_or(usize::MAX).min(batch.spans);
                    self.queue.counts().count_exported(batch.spans - refused);
                    self.queue.counts().count_dropped(DropReason::PartialSuccess, refused);
                    if refused > 0 || !words.is_empty() {
                        self.trouble.say(format!("the collector refused {refused} spans of a batch: {words}"));
                    }
                    break;
                }
                Answer::Failed(failed) => {
                    self.queue.counts().count_failure(failed.failure);
                    self.trouble.say(failed.words);
                    let reason = match failed.retry {
                        Retry::Never => DropReason::Refused,
                        Retry::Later(asked) => match batch.backoff.after(began.elapsed(), asked, random()) {
                            Next::Again(pause) => {
                                rest(&mut self.ending, pause).await;
                                continue;
                            }
                            Next::GiveUp(pause) => {
                                self.paused_until = Instant::now().checked_add(pause);
                                DropReason::RetriesExhausted
                            }
                        },
                    };
                    self.queue.counts().count_dropped(reason, batch.spans);
                    break;
                }
            }
        }
        self.pending = None;
        spans
    }

    fn next_batch(&self) -> Option<Batch> {
        let records = self.queue.take_batch();
        let spans = records.iter().map(|record| record.spans).sum();
        (spans > 0).then(|| {
            let body = self.client.body(self.envelope.around(&records));
            Batch { spans, body, backoff: Backoff::default() }
        })
    }

    fn give_up_rest(&mut self) {
        let mut lost = self.pending.take().map_or(0, |batch| batch.spans);
        loop {
            let records = self.queue.take_batch();
            if records.is_empty() {
                break;
            }
            lost += records.iter().map(|record| record.spans).sum::<usize>();
        }
        if lost > 0 {
            self.queue.counts().count_dropped(DropReason::Shutdown, lost);
            tracing::warn!(
                spans = lost,
                last = self.trouble.last(),
                "spans could not be sent before the end and are lost"
            );
        }
    }
}

/// A pause that ends early where the gateway begins to end, and is short from then on.
async fn rest(ending: &mut watch::Receiver<bool>, pause: Duration) {
    if *ending.borrow() {
        return tokio::time::sleep(pause.min(HURRY)).await;
    }
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        _ = ending.wait_for(|ending| *ending) => {}
    }
}

/// What went wrong since it was last logged.
#[derive(Default)]
struct Trouble {
    last: Mutex<String>,
    happened: Notify,
}

impl Trouble {
    fn say(&self, words: String) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = words;
        self.happened.notify_one();
    }

    /// A queue that is too small loses spans without any failure.
    fn look_at(&self, queue: &SpanQueue) {
        if queue.counts().dropped(DropReason::QueueFull) > 0 {
            self.happened.notify_one();
        }
    }

    fn last(&self) -> String {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Logs trouble at once, and then once a minute as long as it lasts.
async fn report(queue: Arc<SpanQueue>, trouble: Arc<Trouble>, collector: String) {
    let counts = || DropReason::ALL.iter().map(|reason| queue.counts().dropped(*reason)).collect::<Vec<_>>();
    let mut before = vec![0; DropReason::COUNT];
    let mut said = String::new();
    loop {
        trouble.happened.notified().await;
        let (now, last) = (counts(), trouble.last());
        if now == before && last == said {
            continue;
        }
        let dropped: Vec<String> = DropReason::ALL
            .iter()
            .zip(now.iter().zip(&before))
            .filter(|(_, (now, before))| now > before)
            .map(|(reason, (now, before))| format!("{reason} {}", now - before))
            .collect();
        let queued = queue.counts().queued();
        if dropped.is_empty() {
            tracing::warn!(collector, queued, why = last, "spans cannot be sent; they are kept and tried again");
        } else {
            tracing::warn!(collector, queued, dropped = dropped.join(", "), why = last, "spans were dropped");
        }
        (before, said) = (now, last);
        tokio::time::sleep(REPORT).await;
    }
}

/// Different in every process and at every call; nothing depends on how good it is.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
