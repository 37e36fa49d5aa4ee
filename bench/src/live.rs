//! `live`: packets per second through a veth on one core, beside others in the same run.
//!
//! Frames of 64 bytes are made in the kernel (`BPF_F_TEST_XDP_LIVE_FRAMES`), sent by one end of a wire, taken by whoever is under
//! test at the other end, sent back and dropped at the first. One core does all of it, so what is counted is the whole
//! round; the bare `XDP_TX` is its ceiling.

mod contestant;
mod katran;
mod report;
pub(crate) mod rig;
mod user_space;

use crate::packet::scenario::FLOOD;
use crate::report::Output;
use anyhow::{Context as _, bail};
use clap::Args;
use contestant::Contestant;
use report::{Figures, Row};
use rig::{Load, Rig, Turn};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Name of its reports.
const NAME: &str = "live";

/// What to measure.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Katran's balancer object (balancer.bpf.o): without it Katran does not take part
    #[arg(long, value_name = "OBJECT")]
    katran: Option<PathBuf>,
    /// Turns of each contestant, interleaved
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Packets of one turn
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(10_000..=100_000_000))]
    packets: u32,
    /// Numbers of flows, each a power of two; a SYN flood among the flows of the first number comes last
    #[arg(long, value_name = "N,N…", value_delimiter = ',', default_values_t = [1 << 10, 1 << 16, 1 << 20], value_parser = flows)]
    flows: Vec<u64>,
    /// Only contestants whose names contain one of these words
    #[arg(long, value_name = "WORD,WORD…", value_delimiter = ',')]
    only: Vec<String>,
    /// CPU to run on
    #[arg(long, default_value_t = 0)]
    cpu: usize,
    #[command(flatten)]
    output: Output,
}

/// Share of the packets that must come back for a rate to be one.
const MOST: f64 = 0.9;

/// Until whoever has its place forwards.
const PATIENCE: Duration = Duration::from_secs(30);

/// Measures, and prints the report on standard output; progress goes to standard error.
///
/// # Errors
/// Where rights are missing, an object does not load, or packets do not come back from a bare `XDP_TX`.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("namespaces and eBPF programs need root");
    }
    arguments.output.check(NAME)?;
    let mut report = report::begin();
    let mut rig = Rig::build(arguments.cpu)?;
    let (mut contestants, absent) = contestant::all(&rig, arguments.katran.as_deref())?;
    let named =
        |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|word| name.contains(word.as_str()));
    contestants.retain(|contestant| named(contestant.name()));
    if contestants.is_empty() {
        bail!("--only {}: nobody is called so", arguments.only.join(","));
    }
    for absence in &absent {
        eprintln!("{absence}");
    }
    let loads = loads(arguments);
    let mut rows: Vec<Row> = Vec::new();
    for contestant in &contestants {
        rows.extend(loads.iter().map(|load| Row::new(contestant.name(), *load)));
    }
    for round in 1..=arguments.rounds {
        for (index, contestant) in contestants.iter_mut().enumerate() {
            for (at, load) in loads.iter().enumerate() {
                let turn = turn(&mut rig, contestant, *load, arguments.packets)
                    .with_context(|| format!("{}, {load}", contestant.name()))?;
                let share = turn.came_back(arguments.packets);
                eprintln!(
                    "round {round}: {}, {load}: {:.2} Mpps, {:.0} % came back",
                    contestant.name(),
                    turn.rate() / 1e6,
                    share * 100.0
                );
                if share < MOST && contestant.is_floor() {
                    bail!(
                        "{}: {:.0} % of the packets came back: the wire does not work",
                        contestant.name(),
                        share * 100.0
                    );
                }
                rows[index * loads.len() + at].turns.push(turn);
            }
        }
    }
    let figures = Figures::new(arguments.rounds, arguments.packets, absent, &rows);
    figures.fill(&mut report);
    arguments.output.deliver(&report, &figures)
}

/// Flows by the numbers that were asked for, and a flood.
fn loads(arguments: &Arguments) -> Vec<Load> {
    let calm = arguments.flows.iter().map(|flows| Load { flows: *flows, flood: 0 });
    let flood = arguments.flows.first().map(|flows| Load { flows: *flows, flood: FLOOD });
    calm.chain(flood).collect()
}

/// One turn, after every flow was seen twice.
fn turn(rig: &mut Rig, contestant: &mut Contestant, load: Load, packets: u32) -> anyhow::Result<Turn> {
    contestant.begin(rig)?;
    let measured = settled(rig, contestant, load).and_then(|()| rig.send(load, packets, contestant.part()));
    contestant.end(rig)?;
    measured
}

/// Waits until packets come back, and sends what must be known before anything is timed.
fn settled(rig: &mut Rig, contestant: &Contestant, load: Load) -> anyhow::Result<()> {
    const FEW: u32 = 1_000;
    let begun = Instant::now();
    let calm = Load { flood: 0, ..load };
    while rig.send(calm, FEW, contestant.part())?.came_back(FEW) < MOST {
        if begun.elapsed() > PATIENCE {
            bail!("packets did not come back within {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    rig.send(calm, u32::try_from(load.flows * 2).unwrap_or(u32::MAX), contestant.part())?;
    Ok(())
}

fn flows(text: &str) -> Result<u64, String> {
    let flows: u64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    match flows.is_power_of_two() && (1..=1 << 24).contains(&flows) {
        true => Ok(flows),
        false => Err("not a power of two up to 16777216".to_owned()),
    }
}
