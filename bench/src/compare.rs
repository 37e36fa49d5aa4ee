//! `compare`: Sluicegate beside other proxies in one run: CPU per request, requests/s, latency at a fixed rate, memory of idle
//! connections.
//!
//! The proxy runs alone on one core, load generator and backend on the other. Contestants take turns (A B C A B C …), so
//! that whatever changes on the machine changes for all. A turn that others disturbed is put aside and taken again. CPU per
//! request is the figure to compare; the rate depends on the load generator's core too.

mod arguments;
mod checks;
mod idle;
mod rounds;
mod scenario;
mod tables;
mod turns;

pub use arguments::Arguments;

use crate::certificate::Certificate;
use crate::daemon::{self, Placement, SessionPriority};
use crate::gateway;
use crate::http::outcome::Ceiling;
use crate::interrupt::Interrupt;
use crate::proxies::{Kind, Proxy, Routes};
use crate::report::Output;
use crate::upstream::Upstream;
use anyhow::bail;
use rounds::Row;
use scenario::{Field, Scenario};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use tempfile::TempDir;

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub struct Measured {
    /// Who takes part, and in which version.
    pub versions: BTreeMap<String, String>,
    /// Rounds, and seconds of each turn.
    pub rounds: u32,
    pub seconds: u32,
    /// Share of a core that others may take in a turn.
    pub noise: f64,
    /// Who is missing or was left out, and why.
    pub notes: Vec<String>,
    /// One for each contestant in each scenario.
    pub rows: Vec<Row>,
    /// What the load generator could have done, by scenario.
    pub ceilings: BTreeMap<String, Ceiling>,
    pub fixed_rate: Option<turns::FixedRate>,
    pub idle: Vec<idle::Idle>,
}

/// Runs what is asked for, and gives the report out.
///
/// # Errors
/// Where nobody can be measured, or something that is needed does not come up.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if let Some(folder) = &arguments.render {
        return render(arguments, folder);
    }
    arguments.output.check("compare")?;
    let mut report = tables::begun();
    let mut bench = Bench::new(arguments)?;
    let ended = bench.measure();
    let measured = bench.end();
    tables::fill(&mut report, &measured);
    if let Err(error) = ended {
        // What there is may be an hour's work; it is shown, and not written anywhere.
        Output::default().deliver(&report, &measured)?;
        return Err(error);
    }
    arguments.output.deliver(&report, &measured)?;
    if measured.rows.is_empty() {
        bail!("nothing was measured: {}", measured.notes.join("; "));
    }
    Ok(())
}

/// Writes what every contestant would be configured with.
fn render(arguments: &Arguments, folder: &std::path::Path) -> anyhow::Result<()> {
    let certificate = Certificate::make()?;
    let routes = routes(arguments, 0);
    for (at, kind) in arguments.contestants()?.into_iter().enumerate() {
        let below = std::path::absolute(folder.join(kind.program()))?;
        let port = arguments.port_of(at);
        let proxy =
            Proxy::find(kind, port, &arguments.programs, &PathBuf::new()).unwrap_or_else(|| Proxy::absent(kind, port));
        proxy.write(&below, &routes, &certificate)?;
        println!("{}", below.display());
    }
    Ok(())
}

fn routes(arguments: &Arguments, others: usize) -> Routes {
    let first = arguments.port;
    Routes { hosts: Routes::hosts(others), upstream: first, upstream_tls: first + 1, changing: first }
}

/// One run: who takes part, and what was measured.
struct Bench<'a> {
    arguments: &'a Arguments,
    scenarios: Vec<&'static Scenario>,
    contestants: Vec<Proxy>,
    certificate: Certificate,
    folder: TempDir,
    upstream: Upstream,
    placement: Placement,
    _priority: SessionPriority,
    interrupt: Interrupt,
    measured: Measured,
}

impl<'a> Bench<'a> {
    fn new(arguments: &'a Arguments) -> anyhow::Result<Self> {
        daemon::raise_file_limit();
        let scenarios = arguments.scenarios()?;
        let interrupt = Interrupt::watch()?;
        let own = gateway::program(arguments.sluicegate.as_deref())?;
        let mut measured = Measured {
            rounds: arguments.rounds(),
            seconds: arguments.seconds(),
            noise: arguments.noise / 100.0,
            ..Measured::default()
        };
        let mut kinds = arguments.contestants()?;
        let fields: Vec<Field> = scenarios.iter().map(|scenario| scenario.field).collect();
        let own_asked = kinds.contains(&Kind::Sluicegate);
        kinds.extend((own_asked && fields.contains(&Field::Tracing)).then_some(Kind::Untraced));
        kinds.extend(fields.contains(&Field::Passing).then_some(Kind::Relay));
        let mut contestants = Vec::new();
        for (at, kind) in kinds.into_iter().enumerate() {
            match Proxy::find(kind, arguments.port_of(at), &arguments.programs, &own) {
                Some(proxy) => contestants.push(proxy),
                None => measured.notes.push(missing(kind)),
            }
        }
        if !contestants.iter().any(|proxy| Kind::NAMED.contains(&proxy.kind)) {
            bail!("{}", measured.notes.join("; "));
        }
        let last = contestants.iter().map(|proxy| proxy.ports.last()).fold(arguments.port, u16::max);
        daemon::expect_free(arguments.port, last)?;
        for proxy in contestants.iter().filter(|proxy| Kind::NAMED.contains(&proxy.kind)) {
            let version = match proxy.kind {
                Kind::Sluicegate => gateway::version(&own),
                _ => proxy.version(),
            };
            measured.versions.insert(proxy.kind.name().to_owned(), version);
        }
        let folder = tempfile::Builder::new().prefix("sluicegate-compare-").tempdir()?;
        readable(&folder)?;
        let load = Placement { cores: vec![arguments.load_core], nice: arguments.nice };
        // The generator's threads, and everything else that the bench does, stay on the load core.
        daemon::place(&load)?;
        let priority = SessionPriority::take(arguments.nice);
        let certificate = Certificate::make()?;
        let upstream =
            Upstream::start(&folder.path().join("upstream"), arguments.port, &certificate, &arguments.programs, &load)?;
        measured.versions.insert("backend".to_owned(), upstream.what.clone());
        let placement = Placement { cores: vec![arguments.proxy_core], nice: arguments.nice };
        Ok(Self {
            arguments,
            scenarios,
            contestants,
            certificate,
            folder,
            upstream,
            placement,
            _priority: priority,
            interrupt,
            measured,
        })
    }

    /// All scenarios: first those with one host, then those with 5,000.
    fn measure(&mut self) -> anyhow::Result<()> {
        for vhosts in [false, true] {
            let wanted: Vec<&Scenario> =
                self.scenarios.iter().copied().filter(|scenario| scenario.vhosts == vhosts).collect();
            if wanted.is_empty() {
                continue;
            }
            let mut ready = self.start_all(vhosts)?;
            for scenario in wanted {
                self.measure_scenario(scenario, &ready)?;
            }
            if !vhosts && self.arguments.fixed_rate() {
                self.measure_fixed_rate(&ready)?;
            }
            if !vhosts && self.arguments.idle() {
                self.measure_idle(&mut ready)?;
            }
        }
        Ok(())
    }

    fn end(self) -> Measured {
        if self.arguments.keep {
            eprintln!("configurations and logs: {}", self.folder.keep().display());
        }
        self.measured
    }

    fn note(&mut self, text: String) {
        eprintln!("{text}");
        self.measured.notes.push(text);
    }
}

/// Who is not there, and how to have it.
fn missing(kind: Kind) -> String {
    format!("{} is not in this run: not installed ({})", kind.name(), kind.remedy())
}

/// nginx's workers are not root.
fn readable(folder: &TempDir) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))
}
