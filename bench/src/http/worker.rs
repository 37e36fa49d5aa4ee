//! One thread of the generator: its connections, its schedule, its loop.

use super::connection::{Connection, Fate, Io, Traffic};
use super::exchange::{Begun, Fault};
use super::pace::{Next, Pacer, Random, Span};
use super::plan::{Handshake, Order, Plan, Protocol};
use super::tally::{self, Tally};
use super::tls;
use anyhow::Context as _;
use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

/// Connections that a thread opens at a time before load begins: no listener's queue overflows.
const AT_ONCE: usize = 64;

/// How often it looks for more answers before it sends.
const MOST_POLLS: usize = 4;

/// How often requests are looked at for their timeout, in ns.
const SWEEP: u64 = 100_000_000;

const SECOND: u64 = 1_000_000_000;

/// What a thread says to the one that started it.
#[derive(Debug)]
pub enum Said {
    /// Connections are open, or why none is.
    Ready(Result<(), Fault>),
    /// A second under load.
    Second(Box<Second>),
    /// All is counted.
    Finished(Box<Tally>),
}

/// What a thread did in a second.
#[derive(Debug)]
pub struct Second {
    /// Answers.
    pub answered: u64,
    /// Failures.
    pub failed: u64,
    /// Latencies, µs.
    pub latency: Histogram<u64>,
}

/// Which thread of how many.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// From 0.
    pub thread: usize,
    /// All of them.
    pub threads: usize,
}

impl Share {
    /// This thread's part of a number of things.
    pub fn of(self, all: usize) -> usize {
        all / self.threads + usize::from(self.thread < all % self.threads)
    }
}

/// Loads: opens connections, waits for the word to begin (in ns of `clock`), and counts.
///
/// # Errors
/// Where the thread cannot run on its CPU, or has no epoll.
pub fn work(
    plan: &Plan,
    address: SocketAddr,
    tls: Option<tls::Client>,
    share: Share,
    clock: Instant,
    said: &Sender<Said>,
    begin: &Receiver<Span>,
) -> anyhow::Result<()> {
    pin(plan, share)?;
    // Sleeps end when they are to end, not up to 50 µs later.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let mut worker = Worker::new(plan, address, tls, share, clock)?;
    let ready = worker.set_up();
    if said.send(Said::Ready(ready)).is_err() {
        return Ok(());
    }
    let Ok(span) = begin.recv() else { return Ok(()) };
    let tally = worker.load(span, share, said);
    // Who does not listen has given up.
    let _ = said.send(Said::Finished(Box::new(tally)));
    Ok(())
}

fn pin(plan: &Plan, share: Share) -> anyhow::Result<()> {
    if plan.cpus.is_empty() {
        return Ok(());
    }
    pin_to(plan.cpus[share.thread % plan.cpus.len()])
}

/// Keeps the calling thread on one CPU.
///
/// # Errors
/// Where there is no such CPU, or the process may not run there.
pub fn pin_to(cpu: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    anyhow::ensure!(cpu < CpuSet::MAX_CPU, "CPU {cpu}: there is no such CPU");
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("CPU {cpu}: this process may not run there"))
}

struct Worker {
    io: Io,
    connections: Vec<Connection>,
    /// Connections on which a request may begin.
    free: VecDeque<usize>,
    /// Connections to which something was written.
    touched: Vec<usize>,
    turn: Turn,
    clock: Instant,
    events: Vec<epoll::Event>,
    tally: Tally,
    second: Option<Second>,
    /// Requests begun and not over.
    in_flight: usize,
    /// Connections that failed, and the first reason.
    failed: usize,
    first_fault: Option<Fault>,
}

impl Worker {
    fn new(
        plan: &Plan,
        address: SocketAddr,
        tls: Option<tls::Client>,
        share: Share,
        clock: Instant,
    ) -> anyhow::Result<Self> {
        let io = Io::new(plan, address, tls)?;
        Ok(Self {
            connections: (0..share.of(plan.connections)).map(|key| Connection::new(key as u64)).collect(),
            free: VecDeque::new(),
            touched: Vec::new(),
            turn: Turn::new(plan, share),
            clock,
            events: Vec::with_capacity(1024),
            tally: Tally::new(plan.expect_length),
            second: None,
            in_flight: 0,
            failed: 0,
            first_fault: None,
            io,
        })
    }

    fn now(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    /// Opens every connection that is kept, or one as a trial. A fault is why none of them opened.
    fn set_up(&mut self) -> Result<(), Fault> {
        let kept = self.io.plan.keep_alive && self.io.plan.protocol != Protocol::Handshake(Handshake::Full);
        let wanted = if kept { self.connections.len() } else { 1 };
        let mut asked = 0;
        let mut sweep = self.now() + SWEEP;
        loop {
            let settled = self.io.traffic.established as usize + self.failed;
            if settled >= wanted || (self.failed > 0 && self.io.traffic.established == 0) {
                break;
            }
            let now = self.now();
            while asked < wanted && asked - settled.min(asked) < AT_ONCE {
                if let Err(fault) = self.connections[asked].open(now, &mut self.io) {
                    self.fail(asked, now, &fault);
                }
                asked += 1;
            }
            self.wait(now, now + SWEEP / 10);
            self.handle_events(None);
            if self.now() >= sweep {
                self.expire();
                sweep += SWEEP;
            }
        }
        match self.first_fault.take() {
            Some(fault) if self.io.traffic.established == 0 => Err(fault),
            _ => {
                if !kept {
                    for connection in &mut self.connections {
                        connection.close(&mut self.io);
                    }
                }
                Ok(())
            }
        }
    }

    /// Loads for the span, and gives what it counted.
    fn load(mut self, span: Span, share: Share, said: &Sender<Said>) -> Tally {
        let quota = self.io.plan.requests.map(|all| {
            let (all, threads, thread) = (all, share.threads as u64, share.thread as u64);
            all / threads + u64::from(thread < all % threads)
        });
        let mut pacer = Pacer::new(self.io.plan.pace, span, quota, share.thread, share.threads);
        let timeout = self.io.plan.timeout.as_nanos() as u64;
        self.second = Some(Second { answered: 0, failed: 0, latency: tally::histogram() });
        let mut clocks = Clocks { sweep: span.from, second: span.from + SECOND, counting: None };
        (0..self.connections.len()).for_each(|at| self.line_up(at, span.from));
        loop {
            let now = self.now();
            if now >= span.counted_from && clocks.counting.is_none() {
                clocks.counting = Some((now, cpu_time(), self.io.traffic));
            }
            if now >= clocks.sweep {
                clocks.sweep = now + SWEEP;
                self.expire();
                (0..self.connections.len()).for_each(|at| self.line_up(at, now));
            }
            if now >= clocks.second {
                clocks.second += SECOND;
                self.tell(said);
            }
            let mut next = self.begin_due(&mut pacer, now);
            self.flush(now);
            if span.until.is_some_and(|until| now >= until + timeout) {
                // Who is that far behind will not catch up.
                self.tally.blame(Fault::NeverBegun, pacer.clone().owed(now));
                next = Next::Over;
            }
            if next == Next::Over && self.in_flight == 0 {
                break;
            }
            let due = if let Next::At(moment) = next { moment } else { u64::MAX };
            let counting = if clocks.counting.is_none() { span.counted_from } else { u64::MAX };
            self.wait(now, due.min(clocks.sweep).min(clocks.second).min(counting));
            self.handle_events(Some(&mut pacer));
        }
        self.sum_up(span, &clocks)
    }

    fn sum_up(mut self, span: Span, clocks: &Clocks) -> Tally {
        let now = self.now();
        let (from, cpu, traffic) = clocks.counting.unwrap_or((now, cpu_time(), self.io.traffic));
        let mut tally = self.tally;
        tally.settle();
        tally.cpu = cpu_time().saturating_sub(cpu);
        tally.span = now - from;
        tally.sent = self.io.traffic.sent - traffic.sent;
        tally.received = self.io.traffic.received - traffic.received;
        tally.opened = self.io.traffic.opened - traffic.opened;
        tally.handshakes = self.io.traffic.handshakes;
        tally.last = tally.last.max(span.counted_from);
        for connection in &mut self.connections {
            connection.close(&mut self.io);
        }
        tally
    }

    /// Begins what is due on connections that are free; [`Self::flush`] sends it.
    fn begin_due(&mut self, pacer: &mut Pacer, now: u64) -> Next {
        let mut next = Next::At(u64::MAX);
        while let Some(&at) = self.free.front() {
            if !self.connections[at].is_free(now) {
                self.free.pop_front();
                self.connections[at].queued = false;
                continue;
            }
            next = pacer.next(now);
            let Next::Begin { intended, counted } = next else { break };
            let begun = Begun { intended, started: now, counted, target: self.turn.next() };
            self.in_flight += 1;
            if let Err(fault) = self.connections[at].begin(begun, &mut self.io) {
                self.fail(at, now, &fault);
            }
            self.touched.push(at);
            // Others come first the next time, so that open loops use all connections.
            self.free.rotate_left(1);
        }
        if self.free.is_empty() {
            next = if pacer_is_over(pacer, now) { Next::Over } else { Next::At(u64::MAX) };
        }
        next
    }

    /// Sends what was begun.
    fn flush(&mut self, now: u64) {
        let mut touched = std::mem::take(&mut self.touched);
        touched.dedup();
        for at in touched.drain(..) {
            if let Err(fault) = self.connections[at].flush(&mut self.io) {
                self.fail(at, now, &fault);
            }
        }
        self.touched = touched;
    }

    /// Puts a connection in line if it is free and does not stand there.
    fn line_up(&mut self, at: usize, now: u64) {
        let connection = &mut self.connections[at];
        if !connection.queued && connection.is_free(now) {
            connection.queued = true;
            self.free.push_back(at);
        }
    }

    /// Waits for events until a moment at the latest.
    fn wait(&mut self, now: u64, until: u64) {
        let left = until.saturating_sub(now);
        let timeout = Timespec { tv_sec: (left / SECOND) as i64, tv_nsec: (left % SECOND) as i64 };
        self.events.clear();
        // Interrupted: nothing happened.
        let _ = epoll::wait(&self.io.epoll, spare_capacity(&mut self.events), Some(&timeout));
    }

    /// Reads what is there and begins what may begin. On connections that multiplex, all answers are read before the next
    /// requests are sent, so that these go in few writes, as those of h2load and of browsers do.
    fn handle_events(&mut self, mut pacer: Option<&mut Pacer>) {
        let polls = if self.io.plan.protocol.multiplexes() { MOST_POLLS } else { 0 };
        for left in (0..=polls).rev() {
            self.handle_batch(pacer.as_deref_mut(), polls == 0);
            if left > 0 {
                self.wait(0, 0);
                if self.events.is_empty() {
                    break;
                }
            }
        }
        if !self.touched.is_empty() {
            self.flush(self.now());
        }
    }

    fn handle_batch(&mut self, mut pacer: Option<&mut Pacer>, at_once: bool) {
        let events = std::mem::take(&mut self.events);
        for event in &events {
            let at = event.data.u64() as usize;
            let fate = self.connections[at].advance(event.flags, &mut self.io);
            let now = self.now();
            match fate {
                Ok(Fate::Stays) => {}
                Ok(Fate::Over) => self.connections[at].close(&mut self.io),
                Err(fault) => self.fail(at, now, &fault),
            }
            self.count(now);
            if let Some(pacer) = pacer.as_deref_mut() {
                self.line_up(at, now);
                self.begin_due(pacer, now);
                if at_once {
                    self.flush(now);
                }
            }
        }
        self.events = events;
    }

    /// Counts what is over.
    fn count(&mut self, now: u64) {
        for done in self.io.done.drain(..) {
            self.in_flight = self.in_flight.saturating_sub(1);
            let (micros, answered) = self.tally.count(&done, now);
            if let Some(second) = &mut self.second {
                if answered {
                    second.answered += 1;
                    second.latency.saturating_record(micros);
                } else {
                    second.failed += 1;
                }
            }
        }
    }

    fn fail(&mut self, at: usize, now: u64, fault: &Fault) {
        let before = self.io.done.len();
        self.connections[at].fail(now, fault, &mut self.io);
        self.failed += 1;
        // What nobody waits for and nobody is told of would be lost: the server broke the protocol between requests.
        let idle = self.io.done.len() == before && self.second.is_some();
        if idle && matches!(fault, Fault::Malformed(_) | Fault::Unasked | Fault::Tls(_)) {
            self.tally.blame(fault.clone(), 1);
        }
        if self.first_fault.is_none() {
            self.first_fault = Some(fault.clone());
        }
        self.count(now);
    }

    fn expire(&mut self) {
        let now = self.now();
        let Some(before) = now.checked_sub(self.io.plan.timeout.as_nanos() as u64) else { return };
        for at in 0..self.connections.len() {
            if !self.connections[at].is_down()
                && let Err(fault) = self.connections[at].expire(before, &mut self.io)
            {
                self.fail(at, now, &fault);
            }
        }
        self.count(now);
    }

    fn tell(&mut self, said: &Sender<Said>) {
        let fresh = Second { answered: 0, failed: 0, latency: tally::histogram() };
        if let Some(second) = self.second.replace(fresh) {
            // Who does not listen does not want to know.
            let _ = said.send(Said::Second(Box::new(second)));
        }
    }
}

/// Moments of a loop, in ns of the run's clock.
struct Clocks {
    sweep: u64,
    second: u64,
    /// Since when it counts, with CPU time and traffic at that moment.
    counting: Option<(u64, u64, Traffic)>,
}

/// Whether nothing more is ever due, without taking anything.
fn pacer_is_over(pacer: &Pacer, now: u64) -> bool {
    pacer.clone().next(now) == Next::Over
}

/// CPU time of the calling thread, ns.
fn cpu_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * SECOND + time.tv_nsec as u64
}

/// Whose turn it is.
#[derive(Debug)]
enum Turn {
    One,
    Each { next: usize, step: usize, count: usize },
    Random { random: Random, count: usize },
}

impl Turn {
    fn new(plan: &Plan, share: Share) -> Self {
        let count = plan.targets.len();
        match plan.order {
            _ if count <= 1 => Self::One,
            Order::InTurn => Self::Each { next: share.thread % count, step: share.threads, count },
            Order::Random(seed) => Self::Random { random: Random::new(seed.wrapping_add(share.thread as u64)), count },
        }
    }

    fn next(&mut self) -> usize {
        match self {
            Self::One => 0,
            Self::Each { next, step, count } => {
                let this = *next;
                *next = (this + *step) % *count;
                this
            }
            Self::Random { random, count } => random.below(*count),
        }
    }
}
