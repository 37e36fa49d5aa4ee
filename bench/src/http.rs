//! `http`: a load generator for HTTP/1.1, HTTP/2, WebSocket, gRPC and TLS handshakes.
//!
//! A thread a core, each with connections, schedule and histogram of its own: nothing is shared while it loads. Latency
//! counts from the moment at which a request was meant to begin, so that a server that stalls is charged for every request
//! that had to wait.

mod arguments;
mod ceiling;
mod connection;
mod exchange;
mod h1;
mod h2;
pub mod outcome;
mod pace;
mod payload;
pub mod plan;
pub mod progress;
mod tally;
mod terminal;
mod tls;
mod websocket;
mod worker;

pub use arguments::Arguments;

use anyhow::{Context as _, bail};
use outcome::{Generator, Latency, Outcome};
use pace::Span;
use plan::{Handshake, Plan, Protocol};
use progress::Progress;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tally::Tally;
use worker::{Said, Share};

/// Name of its reports.
const NAME: &str = "http";

/// Loads as the command line says, and reports.
///
/// # Errors
/// Those of [`run`]; where a file cannot be written, nothing was answered, or more failed than was accepted.
pub fn command(arguments: &Arguments) -> anyhow::Result<()> {
    let plan = arguments.plan()?;
    arguments.output.check(NAME)?;
    let outcome = run(&plan, &terminal::Live::new())?;
    arguments.output.deliver(&terminal::report(&outcome), &outcome)?;
    if let (Some(file), Some(histogram)) = (&arguments.hdr, &outcome.histogram) {
        terminal::write_hdr(file, histogram)?;
    }
    if outcome.answered == 0 {
        bail!("{}: nothing was answered", outcome.url);
    }
    if outcome.failed > arguments.max_errors {
        bail!(
            "{} of {} {}s failed; --max-errors {} accepts fewer",
            outcome.failed,
            outcome.begun,
            outcome.unit,
            arguments.max_errors
        );
    }
    Ok(())
}

/// Loads a server as planned, and counts.
///
/// # Errors
/// Where the plan contradicts itself, a name has no address, certificates cannot be read, or no connection could be made;
/// what fails once load has begun is counted in [`Outcome::errors`].
pub fn run(plan: &Plan, progress: &dyn Progress) -> anyhow::Result<Outcome> {
    plan.check()?;
    raise_limit_of_files(plan.connections);
    let address = address(plan)?;
    let tally = load(plan, address, progress)?;
    let mut outcome = outcome(plan, address, &tally);
    if plan.ceiling && outcome.answered > 0 {
        outcome.ceiling = Some(ceiling::measure(plan, &outcome).context("the generator's own ceiling")?);
    }
    Ok(outcome)
}

/// Takes as many open files as the connections need and the hard limit allows; where that is too few, connections say so.
fn raise_limit_of_files(connections: usize) {
    let needed = connections as u64 * 2 + 256;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < needed) {
        let current = Some(limit.maximum.map_or(needed, |most| needed.min(most)));
        let _ = setrlimit(Resource::Nofile, Rlimit { current, ..limit });
    }
}

fn address(plan: &Plan) -> anyhow::Result<SocketAddr> {
    if let Some(address) = plan.connect {
        return Ok(address);
    }
    let target = plan.targets.first().context("no target")?;
    let (host, port) = (target.host(), target.port());
    let mut found =
        (host, port).to_socket_addrs().with_context(|| format!("{host}: no address; say one with --connect"))?;
    found.next().with_context(|| format!("{host}: no address; say one with --connect"))
}

/// What all threads counted, and how busy the busiest was.
struct Counted {
    tally: Tally,
    busiest: f64,
    from: u64,
}

/// Threads that load.
struct Crew {
    clock: Instant,
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
    begins: Vec<Sender<Span>>,
    said: Receiver<Said>,
}

fn load(plan: &Plan, address: SocketAddr, progress: &dyn Progress) -> anyhow::Result<Counted> {
    let crew = Crew::start(plan, address)?;
    crew.get_ready(plan, address)?;
    let from = crew.clock.elapsed() + Duration::from_millis(1);
    let counted_from = from + plan.warm_up;
    let span = Span {
        from: from.as_nanos() as u64,
        counted_from: counted_from.as_nanos() as u64,
        until: plan.duration.map(|duration| (counted_from + duration).as_nanos() as u64),
    };
    for begin in &crew.begins {
        // A thread that is gone says why when it is joined.
        let _ = begin.send(span);
    }
    crew.watch(span, progress)
}

impl Crew {
    fn start(plan: &Plan, address: SocketAddr) -> anyhow::Result<Self> {
        let clock = Instant::now();
        let (say, said) = mpsc::channel();
        let (mut threads, mut begins) = (Vec::new(), Vec::new());
        let resume = plan.protocol == Protocol::Handshake(Handshake::Resumed);
        for thread in 0..plan.threads {
            let tls = plan.targets[0].tls.then(|| tls::client(plan, resume)).transpose()?;
            let share = Share { thread, threads: plan.threads };
            let (begin, begins_at) = mpsc::channel();
            let (plan, say) = (plan.clone(), say.clone());
            let body = move || worker::work(&plan, address, tls, share, clock, &say, &begins_at);
            threads.push(thread::Builder::new().name(format!("load-{thread}")).spawn(body).context("no thread")?);
            begins.push(begin);
        }
        Ok(Self { clock, threads, begins, said })
    }

    /// Waits until every thread has its connections.
    fn get_ready(&self, plan: &Plan, address: SocketAddr) -> anyhow::Result<()> {
        let (mut ready, mut fault) = (0, None);
        for _ in 0..plan.threads {
            // Threads that cannot even start end the channel, or are missing in it.
            match self.said.recv_timeout(plan.timeout * 4 + Duration::from_secs(60)) {
                Ok(Said::Ready(Ok(()))) => ready += 1,
                Ok(Said::Ready(Err(found))) => fault = Some(found),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        match fault {
            Some(fault) if ready == 0 => {
                let target = &plan.targets[0];
                bail!("{address} ({}): {fault}", target.authority)
            }
            _ => Ok(()),
        }
    }

    fn watch(self, span: Span, progress: &dyn Progress) -> anyhow::Result<Counted> {
        let mut all = Tally::new(None);
        let (mut finished, mut busiest, mut begun) = (0, 0.0_f64, false);
        let mut second = progress::Gatherer::default();
        while finished < self.threads.len() {
            let now = self.clock.elapsed().as_nanos() as u64;
            if !begun && now >= span.counted_from {
                begun = true;
                progress.begins();
            }
            let patience =
                if begun { Duration::from_millis(100) } else { Duration::from_nanos(span.counted_from - now) };
            match self.said.recv_timeout(patience.min(Duration::from_millis(100))) {
                Ok(Said::Finished(tally)) => {
                    finished += 1;
                    busiest = busiest.max(tally.cpu as f64 / tally.span.max(1) as f64);
                    all.add(&tally);
                }
                Ok(Said::Second(part)) => second.add(&part),
                Ok(Said::Ready(_)) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let elapsed = Duration::from_nanos(now.saturating_sub(span.from));
            // A second ends a moment after the warm-up that it was part of.
            let warming_up = now < span.counted_from + 500_000_000;
            if let Some(second) = second.take(self.threads.len(), elapsed, warming_up) {
                progress.second(&second);
            }
        }
        progress.ends();
        for thread in self.threads {
            thread.join().map_err(|_| anyhow::anyhow!("a thread of the generator panicked"))??;
        }
        all.last = all.last.max(span.until.unwrap_or_default());
        Ok(Counted { tally: all, busiest, from: span.counted_from })
    }
}

fn outcome(plan: &Plan, address: SocketAddr, counted: &Counted) -> Outcome {
    let Counted { tally, busiest, from } = counted;
    let seconds = (tally.last - from) as f64 / 1e9;
    let target = &plan.targets[0];
    let scheme = if target.tls { "https" } else { "http" };
    let per = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    Outcome {
        protocol: plan.protocol.name().to_owned(),
        unit: plan.protocol.unit().to_owned(),
        url: format!("{scheme}://{}{}", target.authority, target.path),
        targets: plan.targets.len(),
        address,
        tls: target.tls,
        connections: plan.connections,
        streams: plan.streams,
        asked_per_second: plan.pace.rate(),
        seconds,
        begun: tally.begun,
        answered: tally.answered,
        failed: tally.faults.values().sum(),
        per_second: per(tally.answered),
        bytes_sent: tally.sent,
        bytes_received: tally.received,
        body_bytes: tally.body_bytes,
        statuses: tally.statuses.clone(),
        errors: tally.faults.iter().map(|(fault, count)| (fault.to_string(), *count)).collect(),
        latency: Latency::of(&tally.latency),
        lateness: Latency::of(&tally.lateness),
        reopened: tally.opened,
        handshakes: tally.handshakes,
        generator: Generator {
            threads: plan.threads,
            cpus: plan.cpus.clone(),
            cpu_us_per_answer: tally.cpu as f64 / 1e3 / tally.answered.max(1) as f64,
            busiest: *busiest,
        },
        ceiling: None,
        histogram: Some(tally.latency.clone()),
    }
}
