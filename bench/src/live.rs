//! `live`: packets per second through a veth in native XDP on one core, beside others in the same run.
//!
//! Frames of 64 bytes are made in the kernel (`BPF_F_TEST_XDP_LIVE_FRAMES`), sent by one end of a wire, taken by whoever is under
//! test at the other end, sent back and dropped at the first. One core does all of it, so what is counted is the whole
//! round; the bare `XDP_TX` is its ceiling.

mod contestant;
mod katran;
mod report;
pub(crate) mod rig;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use contestant::Contestant;
use report::{Report, Row};
use rig::{Rig, Turn};
use std::path::PathBuf;

/// What to measure.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Katran's balancer object (balancer.bpf.o): without it Katran does not take part
    #[arg(long, value_name = "OBJECT")]
    katran: Option<PathBuf>,
    /// Turns of each contestant, interleaved
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Packets of one turn
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(10_000..=100_000_000))]
    packets: u32,
    /// CPU to run on
    #[arg(long, default_value_t = 0)]
    cpu: usize,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    /// A table in Markdown.
    #[default]
    Table,
    /// One JSON document.
    Json,
}

/// Numbers of flows, each a power of two.
const FLOWS: [u64; 2] = [1 << 10, 1 << 16];

/// Share of the packets that must come back.
const MOST: f64 = 0.9;

/// Measures, and prints the report on standard output; progress goes to standard error.
///
/// # Errors
/// Where rights are missing, an object does not load, or packets do not come back.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("namespaces and eBPF programs need root");
    }
    let mut rig = Rig::build(arguments.cpu)?;
    let mut contestants = contestant::all(arguments.katran.as_deref())?;
    let mut rows: Vec<Row> = Vec::new();
    for contestant in &contestants {
        rows.extend(FLOWS.map(|flows| Row::new(contestant.name(), flows)));
    }
    for round in 1..=arguments.rounds {
        for (index, contestant) in contestants.iter_mut().enumerate() {
            for (at, flows) in FLOWS.into_iter().enumerate() {
                let turn = turn(&mut rig, contestant, flows, arguments.packets)
                    .with_context(|| format!("{}, {flows} flows", contestant.name()))?;
                eprintln!("round {round}: {}, {flows} flows: {:.2} Mpps", contestant.name(), turn.rate() / 1e6);
                rows[index * FLOWS.len() + at].turns.push(turn);
            }
        }
    }
    let report = Report::new(arguments.rounds, arguments.packets, rows);
    match arguments.output {
        OutputFormat::Table => print!("{}", report.table()),
        OutputFormat::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(())
}

/// One turn, after every flow was seen twice.
fn turn(rig: &mut Rig, contestant: &mut Contestant, flows: u64, packets: u32) -> anyhow::Result<Turn> {
    contestant.begin(rig)?;
    let measured = rig.send(flows, u32::try_from(flows * 2).unwrap_or(u32::MAX)).and_then(|_| rig.send(flows, packets));
    contestant.end(rig)?;
    let turn = measured?;
    if (turn.returned as f64) < MOST * f64::from(packets) {
        bail!("{} of {packets} packets came back", turn.returned);
    }
    Ok(turn)
}
