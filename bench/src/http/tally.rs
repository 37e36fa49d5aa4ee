//! What one thread counts. It contains no I/O and no clock.

use super::exchange::{Done, Fault};
use super::outcome::Handshakes;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;

/// Latencies of 1 µs to 60 s, to three significant digits; longer ones count as 60 s.
pub fn histogram() -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(1, 60_000_000, 3).unwrap_or_else(|_| empty());
    histogram.auto(false);
    histogram
}

/// What is there if bounds were wrong, which they are not: a histogram that grows.
fn empty() -> Histogram<u64> {
    let Ok(histogram) = Histogram::new(3) else { unreachable!("three digits are between 0 and 5") };
    histogram
}

/// Counts of one thread, of requests that were meant to begin after the warm-up.
#[derive(Debug)]
pub struct Tally {
    /// From intended start to the last byte, µs.
    pub latency: Histogram<u64>,
    /// From intended start to start, µs.
    pub lateness: Histogram<u64>,
    /// Requests begun, or due and never begun.
    pub begun: u64,
    /// Whole answers.
    pub answered: u64,
    /// Bytes of their bodies.
    pub body_bytes: u64,
    /// When the last answer was whole, in ns of the run's clock.
    pub last: u64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Everything else by kind.
    pub faults: BTreeMap<Fault, u64>,
    /// Bytes to and from sockets.
    pub sent: u64,
    /// As `sent`.
    pub received: u64,
    /// Connections opened while it counted.
    pub opened: u64,
    /// Since the thread began.
    pub handshakes: Handshakes,
    /// CPU time of the thread while it counted, ns.
    pub cpu: u64,
    /// How long it counted, ns.
    pub span: u64,
    /// The length that every body has to have.
    expected: Option<u64>,
    /// The status of the answers before, and how many of it are not in `statuses` yet: it is nearly always the same.
    run: (u16, u64),
}

impl Tally {
    /// Nothing is counted yet.
    pub fn new(expected: Option<u64>) -> Self {
        Self {
            latency: histogram(),
            lateness: histogram(),
            begun: 0,
            answered: 0,
            body_bytes: 0,
            last: 0,
            statuses: BTreeMap::new(),
            faults: BTreeMap::new(),
            sent: 0,
            received: 0,
            opened: 0,
            handshakes: Handshakes::default(),
            cpu: 0,
            span: 0,
            expected,
            run: (0, 0),
        }
    }

    /// Counts a request that is over, at `now`. Gives its latency in µs and whether it was answered.
    pub fn count(&mut self, done: &Done, now: u64) -> (u64, bool) {
        let micros = now.saturating_sub(done.begun.intended) / 1000;
        let verdict = match &done.verdict {
            Ok(answer) if self.expected.is_some_and(|length| length != answer.body) => Err(&Fault::WrongLength),
            Ok(answer) => Ok(answer),
            Err(fault) => Err(fault),
        };
        if !done.begun.counted {
            return (micros, verdict.is_ok());
        }
        self.begun += 1;
        self.lateness.saturating_record(done.begun.started.saturating_sub(done.begun.intended) / 1000);
        match verdict {
            Ok(answer) => {
                self.answered += 1;
                self.last = now;
                self.body_bytes += answer.body;
                self.latency.saturating_record(micros);
                if self.run.0 != answer.status {
                    self.settle();
                    self.run.0 = answer.status;
                }
                self.run.1 += 1;
                (micros, true)
            }
            Err(fault) => {
                *self.faults.entry(fault.clone()).or_default() += 1;
                (micros, false)
            }
        }
    }

    /// Counts faults that belong to no request that was begun.
    pub fn blame(&mut self, fault: Fault, requests: u64) {
        if requests > 0 {
            self.begun += requests;
            *self.faults.entry(fault).or_default() += requests;
        }
    }

    /// Puts everything where it is looked for.
    pub fn settle(&mut self) {
        let (status, count) = self.run;
        // Protocols without a status say 0.
        if status != 0 && count > 0 {
            *self.statuses.entry(status).or_default() += count;
        }
        self.run.1 = 0;
    }

    /// Adds what another thread counted.
    pub fn add(&mut self, other: &Self) {
        // Both have the same bounds.
        let _ = self.latency.add(&other.latency);
        let _ = self.lateness.add(&other.lateness);
        self.begun += other.begun;
        self.answered += other.answered;
        self.body_bytes += other.body_bytes;
        self.last = self.last.max(other.last);
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        for (fault, count) in &other.faults {
            *self.faults.entry(fault.clone()).or_default() += count;
        }
        self.sent += other.sent;
        self.received += other.received;
        self.opened += other.opened;
        self.handshakes.full += other.handshakes.full;
        self.handshakes.resumed += other.handshakes.resumed;
        self.cpu += other.cpu;
        self.span = self.span.max(other.span);
    }
}
