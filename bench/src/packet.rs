//! `packet`: what the XDP program costs per packet, without a driver.
//!
//! `BPF_PROG_TEST_RUN` repeats a program on what the run before left, so a small program runs first: it takes away what
//! was pushed, writes the headers of the next flow and tail-calls the program under test. What that costs by itself (the
//! floor: the same small program in front of a bare push and `XDP_TX`) is measured in turn with it and subtracted.

pub(crate) mod frames;
pub(crate) mod harness;
mod report;
pub(crate) mod scenario;
pub(crate) mod tables;

use crate::report::Output;
use anyhow::{Context as _, bail};
use clap::Args;
use harness::Harness;
use report::{Figures, Measured};
use scenario::{Delivery, Scenario};

/// Name of its reports.
const NAME: &str = "packet";

/// What to measure.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Scenarios to run; all if none is named
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// How packets are delivered; both if it is not given (GUE scenarios are what they are)
    #[arg(long, value_enum)]
    method: Option<Delivery>,
    /// Runs of each program, in turn with its floor
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Packets of one run
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..=100_000_000))]
    packets: u32,
    /// CPU to run on
    #[arg(long, default_value_t = 0)]
    cpu: usize,
    /// Leave the program of the last scenario with its tables pinned, and print the path
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    output: Output,
}

/// Measures, and prints the report on standard output; progress goes to standard error.
///
/// # Errors
/// Where a scenario is unknown, rights are missing, or a scenario did not do what it says (its packets must end for the
/// reason that it measures).
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let wanted = wanted(arguments)?;
    if !rustix::process::geteuid().is_root() {
        bail!("loading eBPF programs needs root (CAP_BPF and CAP_NET_ADMIN)");
    }
    arguments.output.check(NAME)?;
    let mut report = report::begin();
    harness::pin_to(arguments.cpu)?;
    let mut figures = Figures::new(&report.machine, arguments.rounds, arguments.packets);
    let mut last = None;
    for scenario in &wanted {
        eprintln!("{scenario}: {} rounds of {} packets", arguments.rounds, arguments.packets);
        let mut harness = Harness::set_up(scenario).with_context(|| scenario.to_string())?;
        let runs = harness.measure(arguments.rounds, arguments.packets).with_context(|| scenario.to_string())?;
        figures.add(Measured::new(scenario, &runs));
        last = Some((scenario, harness));
    }
    if arguments.keep
        && let Some((scenario, mut harness)) = last
    {
        let path = harness.keep()?;
        eprintln!(
            "{scenario}: the program and its maps are pinned below {}; remove the folder to free them",
            path.display()
        );
    }
    figures.fill(&mut report);
    arguments.output.deliver(&report, &figures)
}

fn wanted(arguments: &Arguments) -> anyhow::Result<Vec<Scenario>> {
    let all = scenario::all();
    for name in &arguments.scenarios {
        if !all.iter().any(|scenario| scenario.name == name) {
            let mut names: Vec<&str> = all.iter().map(|scenario| scenario.name).collect();
            names.dedup();
            bail!("{name}: there is no such scenario; there are {}", names.join(" "));
        }
    }
    Ok(all
        .into_iter()
        .filter(|scenario| {
            (arguments.scenarios.is_empty() || arguments.scenarios.iter().any(|name| name == scenario.name))
                && arguments
                    .method
                    .is_none_or(|method| method == scenario.delivery || scenario.delivery == Delivery::Gue)
        })
        .collect())
}
