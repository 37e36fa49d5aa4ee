//! The thread that writes: a tenth of a second after the first line that waits, or when much does.

use super::lane::{Batch, Lane};
use super::output::{Output, Patience};
use super::{AccessLogError, Shared, lock};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a line may wait for others.
const DELAY: Duration = Duration::from_millis(100);
/// How often is said that lines were lost, or that the file cannot be opened.
const SAY: Duration = Duration::from_secs(60);

/// What the thread owns.
pub(super) struct Writer {
    output: Output,
    shared: Arc<Shared>,
    complaints: Complaints,
}

impl Writer {
    pub(super) fn new(output: Output, shared: Arc<Shared>) -> Self {
        Self { output, shared, complaints: Complaints::default() }
    }

    /// Runs until it is to stop.
    pub(super) fn run(mut self) {
        let mut batch = Batch::default();
        loop {
            let stopping = self.wait_for_lines();
            if self.shared.reopen.swap(false, Ordering::AcqRel) {
                // What was handed over before belongs into the file that there was.
                self.write_all(&mut batch);
                let reopened = self.output.reopen();
                self.complaints.note_open(reopened);
            }
            self.write_all(&mut batch);
            self.complaints.say(&self.shared);
            if stopping {
                return;
            }
        }
    }

    /// Sleeps until lines wait and have had time to become more; true when it is to stop.
    fn wait_for_lines(&mut self) -> bool {
        let shared = &self.shared;
        if !shared.is_called() {
            match self.complaints.due(shared) {
                None => std::thread::park(),
                Some(due) => std::thread::park_timeout(due),
            }
        }
        let until = Instant::now() + DELAY;
        while !shared.is_called() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::park_timeout(left);
        }
        // Cleared before lanes are looked at: who hands over from here on calls again.
        shared.hurry.store(false, Ordering::Release);
        shared.stop_by().is_some()
    }

    fn write_all(&mut self, batch: &mut Batch) {
        let lanes: Vec<Arc<Lane>> = lock(&self.shared.lanes).clone();
        for lane in lanes {
            lane.take(batch);
            if !batch.lines.is_empty() {
                let followed = self.output.follow_name();
                self.complaints.note_open(followed);
                self.write(batch);
            }
        }
    }

    fn write(&mut self, batch: &Batch) {
        let (shared, complaints) = (&self.shared, &mut self.complaints);
        let mut wait = || {
            complaints.say(shared);
            match shared.stop_by() {
                Some(limit) if Instant::now() >= limit => Patience::GiveUp,
                _ => Patience::Wait,
            }
        };
        let lost = match self.output.write(&batch.lines, &mut wait) {
            Ok(()) => 0,
            Err((lost, error)) => {
                self.complaints.reason = Some(error.to_string());
                lost
            }
        };
        self.shared.written.fetch_add(batch.count - lost, Ordering::Relaxed);
        self.shared.lost.fetch_add(lost, Ordering::Relaxed);
    }
}

/// What is to be said, once a minute at most.
#[derive(Debug, Default)]
struct Complaints {
    said: Option<Instant>,
    /// Lost lines that were told.
    told: u64,
    /// Why the last ones were lost.
    reason: Option<String>,
    /// Why the file cannot be opened anew.
    open: Option<String>,
}

impl Complaints {
    fn note_open(&mut self, opened: Result<(), AccessLogError>) {
        self.open = opened.err().map(|error| error.to_string());
    }

    /// When something is to be said that there was no time for yet.
    fn due(&self, shared: &Shared) -> Option<Duration> {
        (shared.dropped() > self.told || self.open.is_some()).then(|| self.left())
    }

    fn left(&self) -> Duration {
        self.said.map_or(Duration::ZERO, |said| SAY.saturating_sub(said.elapsed()))
    }

    fn say(&mut self, shared: &Shared) {
        if !self.left().is_zero() {
            return;
        }
        let dropped = shared.dropped();
        if dropped > self.told {
            let lines = dropped - self.told;
            let reason = self.reason.as_deref().unwrap_or("it takes fewer lines than there are requests");
            tracing::warn!(lines, target = %shared.target, reason, "lines of the access log were lost");
            (self.told, self.said, self.reason) = (dropped, Some(Instant::now()), None);
        }
        if let Some(error) = self.open.take() {
            tracing::warn!("{error}; lines go on into the file that is open");
            self.said = Some(Instant::now());
        }
    }
}
