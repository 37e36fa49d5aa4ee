//! `cluster`: the program on an API server with many Ingresses: how long until it serves, what it holds, how long a change
//! takes to the socket, and how many requests it sends for it.
//!
//! The API server is the one of the tests, in this process, or with `--kubeconfig` any other that nobody else needs: a
//! namespace is made there and filled. The backends are two listeners that answer with a letter.

mod backends;
mod program;
mod server;

use anyhow::bail;
use backends::Backends;
use clap::{Args, ValueEnum};
use program::Program;
use serde::Serialize;
use server::Server;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What to measure.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Ingresses, each with a Service
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    ingresses: u32,
    /// Endpoints of each Service
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    endpoints: u32,
    /// Changes of each kind that are timed
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    changes: u32,
    /// An API server to fill, instead of the one in this process
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The program; the one beside this one if it is not given
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

impl Arguments {
    /// Applications that are changed and asked have the backend alone: the other endpoints are nobody.
    fn endpoints_of(&self, number: u32) -> u32 {
        if number < 2 * self.changes { 1 } else { self.endpoints }
    }
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

/// What came out.
#[derive(Debug, Serialize)]
struct Report {
    ingresses: u32,
    endpoints: u32,
    /// Seconds from the start of the process until the first full state is served.
    first_state: f64,
    /// Seconds from then until every status was written, and requests for each.
    statuses: f64,
    status_requests: Option<f64>,
    /// The same after a restart, with all statuses right.
    restart: f64,
    restart_writes: Option<usize>,
    /// Bytes resident: without the cluster, with it, and at most.
    empty: u64,
    resident: u64,
    peak: u64,
    endpoint_change: Times,
    ingress_change: Times,
    /// Requests to the API server for each of these changes, the Lease's left out.
    endpoint_requests: Option<f64>,
    ingress_requests: Option<f64>,
    /// While nothing changes, in a minute.
    idle_requests: Option<usize>,
    /// Relists of every kind, and the writes that they led to.
    relists: Option<(usize, usize)>,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Times {
    p50: f64,
    p99: f64,
    most: f64,
}

impl Times {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        let at = |part: f64| all[((all.len() - 1) as f64 * part).round() as usize].as_secs_f64() * 1e3;
        Self { p50: at(0.5), p99: at(0.99), most: at(1.0) }
    }
}

/// Runs the measurement and prints it.
///
/// # Errors
/// Where a server or program cannot be started or does not do what it is asked for.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let program = match &arguments.program {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("sluicegate"),
    };
    if !program.exists() {
        bail!("{} is not there: build it (cargo build --release), or name it with --program", program.display());
    }
    if arguments.ingresses < 2 * arguments.changes {
        bail!("{} changes of each kind need {} Ingresses", arguments.changes, 2 * arguments.changes);
    }
    let report = measure(arguments, &program)?;
    match arguments.output {
        OutputFormat::Table => print!("{}", table(&report)),
        OutputFormat::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(())
}

fn measure(arguments: &Arguments, program: &std::path::Path) -> anyhow::Result<Report> {
    let backends = Backends::start()?;
    let server = Server::start(arguments.kubeconfig.as_deref())?;
    server.prepare()?;
    let empty = Program::start(program, &server)?;
    let nothing = empty.memory()?.0;
    drop(empty);
    server.wait_for_lease();

    eprintln!("filling the API server");
    server.fill(arguments.ingresses, |number| arguments.endpoints_of(number), &backends)?;

    let before = server.requests();
    let running = Program::start(program, &server)?;
    let first_state = running.started_in;
    let begun = Instant::now();
    server.until_published(arguments.ingresses)?;
    let statuses = begun.elapsed();
    let status_requests = writes_since(&server, before).map(|writes| writes as f64 / f64::from(arguments.ingresses));
    let (resident, peak) = running.memory()?;

    eprintln!("changing endpoints and paths");
    let before = server.requests();
    let endpoint_change = endpoint_changes(arguments, &server, &backends, &running)?;
    let endpoint_requests = each(&server, before, arguments.changes);
    let before = server.requests();
    let ingress_change = ingress_changes(arguments, &server, &running)?;
    let ingress_requests = each(&server, before, arguments.changes);

    let (idle_requests, relists) = quiet(&server);
    drop(running);
    server.wait_for_lease();
    let before = server.requests();
    let again = Program::start(program, &server)?;
    let restart = again.started_in;
    // Long enough for it to lead and to look at every status.
    std::thread::sleep(Duration::from_secs(5));
    let restart_writes = writes_since(&server, before);
    Ok(Report {
        ingresses: arguments.ingresses,
        endpoints: (0..arguments.ingresses).map(|number| arguments.endpoints_of(number)).sum(),
        first_state: first_state.as_secs_f64(),
        statuses: statuses.as_secs_f64(),
        status_requests,
        restart: restart.as_secs_f64(),
        restart_writes,
        empty: nothing,
        resident,
        peak,
        endpoint_change,
        ingress_change,
        endpoint_requests,
        ingress_requests,
        idle_requests,
        relists,
    })
}

/// One slice gets another backend; timed until the first request to its host is answered by that one.
fn endpoint_changes(
    arguments: &Arguments,
    server: &Server,
    backends: &Backends,
    program: &Program,
) -> anyhow::Result<Times> {
    let mut times = Vec::new();
    for change in 0..arguments.changes {
        let object = server::slice(change, 1, backends.address(1));
        times.push(timed(server, program, &object, change, "/", backends.answer(1))?);
    }
    Ok(Times::of(times))
}

/// One Ingress gets another path; timed until that is served.
fn ingress_changes(arguments: &Arguments, server: &Server, program: &Program) -> anyhow::Result<Times> {
    let mut times = Vec::new();
    for change in 0..arguments.changes {
        let number = arguments.changes + change;
        let path = format!("/changed-{change}");
        let object = server::ingress(number, &path);
        times.push(timed(server, program, &object, number, &path, "200")?);
    }
    Ok(Times::of(times))
}

fn timed(
    server: &Server,
    program: &Program,
    object: &serde_json::Value,
    number: u32,
    path: &str,
    expected: &str,
) -> anyhow::Result<Duration> {
    let host = server::host(number);
    let mut connection = program.connect()?;
    let begun = Instant::now();
    server.apply(object)?;
    while !connection.ask(&host, path)?.contains(expected) {
        if begun.elapsed() > Duration::from_secs(30) {
            bail!("{host}{path} was not served within 30 s of its change");
        }
    }
    // Changes that follow each other at once would be measured together.
    let took = begun.elapsed();
    std::thread::sleep(Duration::from_millis(5));
    Ok(took)
}

/// A minute without changes, then relists of everything.
fn quiet(server: &Server) -> (Option<usize>, Option<(usize, usize)>) {
    const RELISTS: usize = 20;
    let Some(before) = server.requests() else { return (None, None) };
    eprintln!("a minute without changes");
    std::thread::sleep(Duration::from_secs(60));
    let idle = server.count_since(before).map(|(all, _)| all);
    eprintln!("{RELISTS} relists of everything");
    let before = server.requests().unwrap_or_default();
    for _ in 0..RELISTS {
        server.forget_versions();
        std::thread::sleep(Duration::from_secs(3));
    }
    let writes = writes_since(server, Some(before));
    (idle, writes.map(|writes| (RELISTS, writes)))
}

fn writes_since(server: &Server, before: Option<usize>) -> Option<usize> {
    server.count_since(before?).map(|(_, writes)| writes)
}

fn each(server: &Server, before: Option<usize>, changes: u32) -> Option<f64> {
    server.count_since(before?).map(|(all, _)| all as f64 / f64::from(changes))
}

fn table(report: &Report) -> String {
    const MIB: f64 = 1_048_576.0;
    let mib = |bytes: u64| bytes as f64 / MIB;
    let counted = |count: Option<f64>| count.map_or_else(|| "not counted".to_owned(), |count| format!("{count:.2}"));
    let times = |of: &Times| format!("p50 {:.2}, p99 {:.2}, most {:.1}", of.p50, of.p99, of.most);
    let per = |bytes: u64| mib(bytes) / f64::from(report.ingresses) * 1e3;
    let mut rows = vec![
        ("first full state".to_owned(), format!("{:.2} s", report.first_state)),
        ("every status written".to_owned(), format!("{:.1} s after it", report.statuses)),
        ("status requests for each Ingress".to_owned(), counted(report.status_requests)),
        ("first full state after a restart".to_owned(), format!("{:.2} s", report.restart)),
    ];
    if let Some(writes) = report.restart_writes {
        rows.push(("status writes after a restart".to_owned(), writes.to_string()));
    }
    rows.extend([
        (
            "memory, resident".to_owned(),
            format!(
                "{:.0} MiB ({:.0} without the cluster; {:.0} at most)",
                mib(report.resident),
                mib(report.empty),
                mib(report.peak)
            ),
        ),
        (
            "memory for each 1,000 Ingresses with Services and endpoints".to_owned(),
            format!("{:.1} MiB", per(report.resident.saturating_sub(report.empty))),
        ),
        ("change of one EndpointSlice → socket, ms".to_owned(), times(&report.endpoint_change)),
        ("change of one Ingress → socket, ms".to_owned(), times(&report.ingress_change)),
        ("API requests for each change of an EndpointSlice".to_owned(), counted(report.endpoint_requests)),
        ("API requests for each change of an Ingress".to_owned(), counted(report.ingress_requests)),
    ]);
    if let Some(idle) = report.idle_requests {
        rows.push(("API requests in a minute without changes (leases and watches)".to_owned(), idle.to_string()));
    }
    if let Some((relists, writes)) = report.relists {
        rows.push((format!("status writes in {relists} relists of everything"), writes.to_string()));
    }
    let mut text = format!(
        "| {} Ingresses, {} endpoints, from an API server | measured |\n| --- | --- |\n",
        report.ingresses, report.endpoints
    );
    for (name, value) in rows {
        // Writing to a String does not fail.
        let _written = writeln!(text, "| {name} | {value} |");
    }
    text
}
