//! `cluster`: the program on an API server with many Ingresses: how long until it serves, what it holds, how long a change
//! takes to the socket, and how many requests it sends for it.
//!
//! The API server is the one of the tests, in this process, or with `--kubeconfig` any other that nobody else needs: a
//! namespace is made there and filled. The backends are two listeners that answer with a letter.

mod backends;
mod program;
mod server;

use crate::report::{Cell, Column, Curve, Figure, Output, Percentiles, Plot, Report, Section, Table, Unit};
use anyhow::bail;
use backends::Backends;
use clap::Args;
use program::Program;
use serde::Serialize;
use server::Server;
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
    #[command(flatten)]
    output: Output,
}

/// Name of its reports.
const NAME: &str = "cluster";

impl Arguments {
    /// Applications that are changed and asked have the backend alone: the other endpoints are nobody.
    fn endpoints_of(&self, number: u32) -> u32 {
        if number < 2 * self.changes { 1 } else { self.endpoints }
    }
}

/// What came out.
#[derive(Debug, Serialize)]
struct Measured {
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
    p90: f64,
    p99: f64,
    most: f64,
}

impl Times {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        let at = |part: f64| all[((all.len() - 1) as f64 * part).round() as usize].as_secs_f64() * 1e3;
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), most: at(1.0) }
    }

    fn points(&self) -> Vec<(f64, f64)> {
        vec![(0.5, self.p50), (0.9, self.p90), (0.99, self.p99), (1.0, self.most)]
    }

    fn cell(&self) -> Cell {
        let milliseconds = |value: f64| Figure::exact(Unit::Milliseconds, value);
        let figures = [
            ("p50", milliseconds(self.p50)),
            ("p99", milliseconds(self.p99).at_most(10.0)),
            ("most", milliseconds(self.most)),
        ];
        Cell::Figures(figures.map(|(name, figure)| (name.to_owned(), figure)).into())
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
    arguments.output.check(NAME)?;
    let mut report = Report::new(NAME, "From an API server to the socket");
    let measured = measure(arguments, &program)?;
    measured.fill(&mut report);
    arguments.output.deliver(&report, &measured)
}

fn measure(arguments: &Arguments, program: &std::path::Path) -> anyhow::Result<Measured> {
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
    Ok(Measured {
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

impl Measured {
    /// What of it people read.
    fn fill(&self, report: &mut Report) {
        let (ingresses, endpoints) =
            (Unit::Count.number(f64::from(self.ingresses)), Unit::Count.number(f64::from(self.endpoints)));
        let title = format!("{ingresses} Ingresses, {endpoints} endpoints, from an API server");
        let mut table = Table::new("", vec![Column::new(&title), Column::new("measured")]);
        for (name, cell) in self.rows() {
            table.row(vec![name.into(), cell]);
        }
        let mut section = Section::new("");
        section.tables.push(table);
        section.plots.push(Plot::Percentiles(Percentiles {
            title: "From a change at the server to the socket".to_owned(),
            unit: Unit::Milliseconds,
            curves: [("EndpointSlice", &self.endpoint_change), ("Ingress", &self.ingress_change)]
                .map(|(name, times)| Curve { name: name.to_owned(), points: times.points() })
                .into(),
        }));
        report.sections.push(section);
    }

    fn rows(&self) -> Vec<(&'static str, Cell)> {
        const NOT_COUNTED: &str = "this server does not count requests";
        let seconds = |seconds: f64| Figure::exact(Unit::Seconds, seconds);
        let mebibytes = |bytes: u64| Figure::exact(Unit::Mebibytes, bytes as f64 / f64::from(1 << 20));
        let counted =
            |count: Option<f64>| Cell::or_missing(count.map(|count| Figure::exact(Unit::Count, count)), NOT_COUNTED);
        let whole = |count: Option<usize>| count.map(|count| Figure::count(count as u64));
        let none = |count: Option<usize>| Cell::or_missing(whole(count).map(|figure| figure.at_most(0.0)), NOT_COUNTED);
        let each = self.resident.saturating_sub(self.empty) * 1_000 / u64::from(self.ingresses.max(1));
        let memory = [("", self.resident), ("without the cluster", self.empty), ("at most", self.peak)];
        let memory = memory.map(|(name, bytes)| (name.to_owned(), mebibytes(bytes)));
        vec![
            ("first full state", seconds(self.first_state).at_most(5.0).into()),
            ("every status written, after it", seconds(self.statuses).into()),
            ("status requests for each Ingress", counted(self.status_requests)),
            ("first full state after a restart", seconds(self.restart).at_most(5.0).into()),
            ("status writes after a restart", none(self.restart_writes)),
            ("memory, resident", Cell::Figures(memory.into())),
            ("memory for each 1,000 Ingresses with Services and endpoints", mebibytes(each).at_most(4.0).into()),
            ("change of one EndpointSlice → socket", self.endpoint_change.cell()),
            ("change of one Ingress → socket", self.ingress_change.cell()),
            ("API requests for each change of an EndpointSlice", counted(self.endpoint_requests)),
            ("API requests for each change of an Ingress", counted(self.ingress_requests)),
            (
                "API requests in a minute without changes (leases and watches)",
                Cell::or_missing(whole(self.idle_requests), NOT_COUNTED),
            ),
            (
                "status writes in relists of everything",
                self.relists.map_or_else(|| none(None), |(_, writes)| none(Some(writes))),
            ),
        ]
    }
}
