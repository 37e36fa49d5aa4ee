//! `sluicegate-instructions`: counts the instructions of hot paths under callgrind and holds them to bounds. It measures no
//! time: what it counts is the same on a busy machine and on a quiet one.

mod bounds;
mod callgrind;
mod proxied;
mod scenario;
mod telemetry;

use anyhow::{Context as _, bail};
use bounds::{Bounds, Toolchain};
use callgrind::Threads;
use clap::{Args, Parser, Subcommand, ValueEnum};
use proxied::Part;
use scenario::Scenario;
use std::path::PathBuf;
use std::process::ExitCode;

/// That of the program that is counted.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Requests of the two runs whose difference is a row `proxy/`.
const REQUESTS: (u32, u32) = (500, 1500);
/// Calls before those that are counted: buffers have grown, and what is filled at first is filled.
const WARM: usize = 200;
/// Runs, of which the one with the fewest instructions counts.
const RUNS: usize = 4;
/// Calls that are counted.
const CALLS: usize = 1000;

/// Counts instructions of hot paths, and fails where there are more than accepted (needs valgrind).
#[derive(Debug, Parser)]
#[command(
    name = "sluicegate-instructions",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  sluicegate-instructions                    # every row, against its bound\n  \
                  sluicegate-instructions packet/ route/     # the rows whose names begin so\n  \
                  sluicegate-instructions --accept           # what is counted becomes the bound\n  \
                  sluicegate-instructions telemetry          # what propagation, metrics, log and spans add to a request\n\n\
                  Exit codes: 0 success, 1 a row takes too much or something did not work, 2 wrong usage."
)]
struct Cli {
    #[command(flatten)]
    check: Check,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct Check {
    /// Beginnings of names of rows; all rows if there is none
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// The file of accepted figures
    #[arg(long, value_name = "FILE", default_value = "bench/instructions/bounds.yaml")]
    bounds: PathBuf,
    /// Write what is counted into the file of accepted figures
    #[arg(long)]
    accept: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

/// How a result is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    /// A table of Markdown.
    #[default]
    Table,
    /// One JSON document.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Count what trace context, metrics, the access log and spans add to a request of the real proxy
    Telemetry(telemetry::Arguments),
    /// What runs under callgrind: rows without sockets
    #[command(hide = true)]
    Count {
        /// Names of rows
        names: Vec<String>,
    },
    /// What runs under callgrind: the gateway
    #[command(hide = true)]
    Serve(proxied::Gateway),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        None => check(&cli.check),
        Some(Command::Telemetry(arguments)) => telemetry::run(&arguments),
        Some(Command::Count { names }) => count_here(&names),
        Some(Command::Serve(gateway)) => gateway.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("sluicegate-instructions: {failure:#}");
            ExitCode::FAILURE
        }
    }
}

/// Counts, compares and says so.
fn check(arguments: &Check) -> anyhow::Result<()> {
    let toolchain = toolchain()?;
    let is_wanted =
        |name: &str| arguments.names.is_empty() || arguments.names.iter().any(|part| name.starts_with(part));
    let scenarios: Vec<Scenario> = scenario::all().into_iter().filter(|row| is_wanted(row.name)).collect();
    let mut counted = least(&scenarios)?;
    for (name, part) in [("proxy/request", Part::Nothing), ("proxy/request-by-default", Part::Taps)] {
        if is_wanted(name) {
            let cost = proxied::measure(part, REQUESTS.0, REQUESTS.1).with_context(|| name.to_owned())?;
            counted.push((name.to_owned(), cost.worker.round() as u64));
        }
    }
    if counted.is_empty() {
        bail!("there is no row whose name begins with {}", arguments.names.join(" or "));
    }
    if arguments.accept {
        return accept(arguments, counted, toolchain);
    }
    let judgement = Bounds::read(&arguments.bounds)?.judge(&counted, &toolchain);
    match arguments.output {
        OutputFormat::Table => print!("{}", judgement.table()),
        OutputFormat::Json => println!("{}", serde_json::to_string_pretty(&judgement)?),
    }
    let exceeded = judgement.exceeded();
    if !exceeded.is_empty() {
        bail!(
            "more instructions than accepted: {}. Find what made it so (callgrind_annotate), or if it is worth its price, \
             run `cargo run --release -p sluicegate-instructions -- --accept` and commit {}",
            exceeded.join(", "),
            arguments.bounds.display()
        );
    }
    Ok(())
}

fn accept(arguments: &Check, counted: Vec<(String, u64)>, toolchain: Toolchain) -> anyhow::Result<()> {
    let mut bounds = match arguments.names.is_empty() {
        // All rows are new: names that are gone go from the file.
        true => Bounds::new(toolchain.clone()),
        false => Bounds::read(&arguments.bounds)?,
    };
    if bounds.toolchain != toolchain {
        bail!("the other rows were counted by another toolchain: accept all rows, without naming any");
    }
    for (name, count) in counted {
        println!("{name}: {}", bounds::thousands(count));
        bounds.instructions.insert(name, count);
    }
    bounds.write(&arguments.bounds)
}

/// By what is counted here.
fn toolchain() -> anyhow::Result<Toolchain> {
    Ok(Toolchain {
        rustc: env!("SLUICEGATE_RUSTC").to_owned(),
        valgrind: callgrind::version()?,
        machine: std::env::consts::ARCH.to_owned(),
    })
}

/// Of several runs the least: what other threads do in between, such as the log's writer, only adds.
fn least(scenarios: &[Scenario]) -> anyhow::Result<Vec<(String, u64)>> {
    let mut least = count(scenarios)?;
    for _ in 1..RUNS {
        for (known, (_, again)) in least.iter_mut().zip(count(scenarios)?) {
            known.1 = known.1.min(again);
        }
    }
    Ok(least)
}

/// Instructions of one call of each row.
fn count(scenarios: &[Scenario]) -> anyhow::Result<Vec<(String, u64)>> {
    if scenarios.is_empty() {
        return Ok(Vec::new());
    }
    let folder = tempfile::tempdir().context("a folder for what callgrind writes")?;
    let out = folder.path().join("callgrind.out");
    let arguments: Vec<&str> = std::iter::once("count").chain(scenarios.iter().map(|row| row.name)).collect();
    let status = callgrind::command(Threads::Together, &out, &arguments)?.status().context("valgrind")?;
    if !status.success() {
        bail!("the rows under callgrind ended with {status}");
    }
    let parts = callgrind::read(&out)?;
    // Each row ends two parts, what prepared it and itself; the last part is the program's end.
    if parts.len() != 2 * scenarios.len() + 1 {
        bail!("callgrind wrote {} parts for {} rows: the marks were not found", parts.len(), scenarios.len());
    }
    let counts = parts.iter().skip(1).step_by(2).map(|part| part.instructions / CALLS as u64);
    Ok(scenarios.iter().map(|row| row.name.to_owned()).zip(counts).collect())
}

/// Under callgrind: does the work of each row between two marks.
fn count_here(names: &[String]) -> anyhow::Result<()> {
    let all = scenario::all();
    for (number, name) in names.iter().enumerate() {
        let row = all.iter().find(|row| row.name == name).with_context(|| format!("there is no row {name}"))?;
        let mut work = (row.prepare)();
        let mut is_done = (0..WARM).all(|_| work());
        callgrind::boundary(2 * number);
        for _ in 0..CALLS {
            is_done &= work();
        }
        callgrind::boundary(2 * number + 1);
        if !is_done {
            bail!("{name}: it did not do what its name says, so that its count means nothing");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn every_row_does_what_its_name_says() {
        for row in scenario::all() {
            let mut work = (row.prepare)();
            assert!((0..3).all(|_| work()), "{}", row.name);
        }
    }

    #[test]
    fn rows_have_names_of_their_own() {
        let rows = scenario::all();
        let mut names: Vec<&str> = rows.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), rows.len());
    }
}
