//! `flows`: how many of 100,000 established flows change their real server when something happens to the director.
//!
//! A process of its own programs the tables (it can be killed), in a laboratory of namespaces. Flows are packets that go
//! through the very program that is attached there, by `BPF_PROG_TEST_RUN` over the live tables: the frame that comes
//! back says by its MAC address to whom it goes. For the engine in user space they go over the wire. Beside them real connections are held, which must go on.

mod frames;
mod laboratory;
mod probe;
pub mod programmer;
mod report;
mod ring;

use crate::report::Output;
use anyhow::{Context as _, bail};
use clap::Args;
use frames::Flow;
use laboratory::{Laboratory, REALS};
use probe::Probe;
use programmer::{Engine, Programmer, Release, Wish};
use report::{Event, Events};
use ring::Ring;
use sluicegate_netlab::traffic::TcpClient;
use std::time::{Duration, Instant};

/// What to measure.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Established flows: a quarter each of TCP and UDP over IPv4 and IPv6
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(4..=1_000_000))]
    flows: u32,
    /// Connections of real sockets beside them
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    connections: u32,
    /// What forwards; `packet` keeps its tables in the process, so that it is not killed here
    #[arg(long, value_enum, default_value_t)]
    engine: Engine,
    #[command(flatten)]
    output: Output,
}

/// Runs all events, and prints the report on standard output; progress goes to standard error.
///
/// # Errors
/// Where rights are missing, the laboratory does not work, or a flow moved or broke that must not.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("network namespaces and eBPF programs need root");
    }
    arguments.output.check(report::name(arguments.engine))?;
    let mut report = report::begin(arguments.engine);
    let mut bench = Bench::set_up(arguments, Events::new(&report.machine, arguments.flows, arguments.connections))?;
    bench.changes()?;
    if arguments.engine == Engine::Xdp {
        bench.deaths()?;
    }
    bench.take_over(arguments.flows)?;
    bench.events.fill(&mut report);
    arguments.output.deliver(&report, &bench.events)?;
    match bench.events.missed() {
        0 => Ok(()),
        missed => bail!("{missed} events moved or broke flows that must stay"),
    }
}

/// A flow and the real server that it was given.
struct Established {
    flow: Flow,
    real: usize,
}

struct Bench {
    engine: Engine,
    laboratory: Laboratory,
    programmer: Programmer,
    probe: Probe,
    flows: Vec<Established>,
    connections: Vec<TcpClient>,
    /// Weights of the real servers as they are; 0 = not listed.
    weights: [u16; REALS],
    events: Events,
}

impl Bench {
    /// All real servers but the last, with equal weights.
    fn set_up(arguments: &Arguments, events: Events) -> anyhow::Result<Self> {
        let laboratory = Laboratory::new().context("the laboratory")?;
        let mut weights = [1; REALS];
        weights[REALS - 1] = 0;
        let mut programmer = Programmer::start(&laboratory, 0, Release::present(), arguments.engine)?;
        programmer.serve(&laboratory.wish(&weights))?;
        let probe = Probe::of(&laboratory, 0, arguments.engine)?;
        eprintln!("opening {} flows", arguments.flows);
        let flows = open(&laboratory, &probe, &weights, 0..arguments.flows)?;
        let connections = laboratory.connect(arguments.connections)?;
        Ok(Self { engine: arguments.engine, laboratory, programmer, probe, flows, connections, weights, events })
    }

    /// Real servers that come, go, and weigh differently.
    fn changes(&mut self) -> anyhow::Result<()> {
        let mut weights = self.weights;
        weights[REALS - 1] = 1;
        self.change("a real server is added", weights)?;
        weights[0] = 0;
        self.change("another one is removed", weights)?;
        for (weight, more) in weights.iter_mut().skip(1).zip([1, 2, 5, 1, 3]) {
            *weight = more;
        }
        self.change("weights change", weights)
    }

    /// The process that programs the tables ends, and another one begins.
    fn deaths(&mut self) -> anyhow::Result<()> {
        let present = Release::present();
        let next = Release { version: present.version + 1, compatible: Some(present.version) };
        for (name, release) in [
            ("and started again", present),
            ("upgraded: another version of the tables", next),
            ("and downgraded to the version before", present),
        ] {
            self.programmer.kill()?;
            self.look("the director is killed", Duration::ZERO)?;
            let begun = Instant::now();
            self.programmer = Programmer::start(&self.laboratory, 0, release, self.engine)?;
            let wish = self.laboratory.wish(&self.weights);
            self.programmer.serve(&wish)?;
            self.probe = Probe::of(&self.laboratory, 0, self.engine)?;
            self.look(name, begun.elapsed())?;
        }
        Ok(())
    }

    /// New flows of the first director, continued by a second one that never saw them.
    fn take_over(&mut self, flows: u32) -> anyhow::Result<()> {
        self.flows = open(&self.laboratory, &self.probe, &self.weights, flows..2 * flows)?;
        self.connections.clear();
        let begun = Instant::now();
        let mut second = Programmer::start(&self.laboratory, 1, Release::present(), self.engine)?;
        second.serve(&self.laboratory.wish(&self.weights))?;
        self.probe = Probe::of(&self.laboratory, 1, self.engine)?;
        self.look("take-over by a director with equal real servers", begun.elapsed())
    }

    /// Brings the real servers to other weights and looks at all flows but those of real servers that went.
    fn change(&mut self, name: &'static str, weights: [u16; REALS]) -> anyhow::Result<()> {
        let begun = Instant::now();
        let wish: Wish = self.laboratory.wish(&weights);
        self.programmer.serve(&wish)?;
        let took = begun.elapsed();
        self.weights = weights;
        self.flows.retain(|established| weights[established.real] > 0);
        self.connections.retain(|held| weights[self.laboratory.number(held.server())] > 0);
        self.look(name, took)
    }

    /// Sends one more packet of each flow.
    fn look(&mut self, event: &'static str, took: Duration) -> anyhow::Result<()> {
        let flows: Vec<Flow> = self.flows.iter().map(|held| held.flow).collect();
        let picked = self.probe.pick(&self.laboratory, &flows, false)?;
        let moved = self.flows.iter().zip(picked).filter(|(held, picked)| *picked != Some(held.real)).count();
        let ring = Ring::new(&self.laboratory, &self.weights);
        let by_ring_alone = self.flows.iter().filter(|held| ring.pick(&held.flow) != Some(held.real)).count();
        let broken = self.connections.iter_mut().filter_map(|held| held.echo(b"still there?").err()).count();
        let event = Event {
            event,
            took_ms: took.as_secs_f64() * 1e3,
            flows: self.flows.len(),
            moved,
            by_ring_alone,
            connections: self.connections.len(),
            broken,
        };
        eprintln!("{}: {} of {} flows moved, {} connections broke", event.event, moved, event.flows, broken);
        self.events.add(event);
        Ok(())
    }
}

/// Opens flows: the first packet, and one that confirms it. Both must go where the ring says.
fn open(
    laboratory: &Laboratory,
    probe: &Probe,
    weights: &[u16; REALS],
    numbers: std::ops::Range<u32>,
) -> anyhow::Result<Vec<Established>> {
    let flows: Vec<Flow> = numbers.map(Flow::new).collect();
    let ring = Ring::new(laboratory, weights);
    let mut established = Vec::with_capacity(flows.len());
    for opens in [true, false] {
        let picked = probe.pick(laboratory, &flows, opens)?;
        established.clear();
        for (flow, real) in flows.iter().zip(picked) {
            if real.is_none() || real != ring.pick(flow) {
                bail!("{flow:?} went to {real:?} and not to {:?}, which its slot says", ring.pick(flow));
            }
            established.extend(real.map(|real| Established { flow: *flow, real }));
        }
    }
    Ok(established)
}
