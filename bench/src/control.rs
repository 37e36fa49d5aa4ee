//! `control`: how fast changes of manifests become true, what they cost, and whether anything fails meanwhile.
//!
//! In a folder of 20,000 Ingresses, as many Services and 100,000 endpoints: time to the first full state (many small files, few
//! large ones), memory, single changes one after the other until a socket and until a packet show them, and 1,000 changes
//! under load with WebSockets open. Beside it what an operator does without a table that is swapped: nginx and HAProxy
//! with 5,000 virtual hosts and a reload for each change.

mod changes;
mod fleet;
mod packets;
mod reloads;
mod tables;
mod websockets;

use crate::accounting::{self, Memory};
use crate::asker::{Asker, ask_once};
use crate::certificate::Certificate;
use crate::daemon::{self, Daemon, Placement, SessionPriority};
use crate::gateway;
use crate::interrupt::Interrupt;
use crate::proxies::{CHANGING, Kind, Proxy};
use crate::report::Output;
use anyhow::{Context as _, bail};
use clap::Args;
use fleet::{Watched, WrittenFiles};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What to measure.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sluicegate-bench control --quick                 # a tenth of everything\n  \
                        sluicegate-bench control --write                 # everything, into bench/RESULTS.md\n  \
                        sluicegate-bench control --ingresses 50000 --endpoints 500000 --reloads 0\n\n\
                        Packets need root: they go through XDP in network namespaces. Without it they are left out, and the report says so.")]
pub struct Arguments {
    /// A tenth of everything
    #[arg(long)]
    quick: bool,
    /// Ingresses, each with a Service [default: 20000, quick 2000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=200_000))]
    ingresses: Option<u32>,
    /// Endpoints of all Services together [default: five for each Service]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=2_000_000))]
    endpoints: Option<u32>,
    /// Changes, one after the other, until a socket shows each [default: 200, quick 40]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=100_000))]
    changes: Option<u32>,
    /// Changes until a packet shows each (needs root) [default: 100, quick 20]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100_000))]
    packet_changes: Option<u32>,
    /// Changes under load [default: 1000, quick 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    under_load: Option<u32>,
    /// Reloads of nginx and HAProxy, without load and under it; 0 leaves them out [default: 10, quick 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    reloads: Option<u32>,
    /// Virtual hosts of nginx and HAProxy [default: 5000, quick 500]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    vhosts: Option<u32>,
    /// WebSockets that are open during the changes under load
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=5000))]
    websockets: u32,
    /// Where else nginx and HAProxy are; repeatable
    #[arg(long, value_name = "DIR")]
    programs: Vec<PathBuf>,
    /// The gateway [default: target/release/sluicegate, built if it is not there]
    #[arg(long, value_name = "FILE")]
    sluicegate: Option<PathBuf>,
    /// First of the ports that are used, all of 127.0.0.1
    #[arg(long, default_value_t = 22_000, value_parser = clap::value_parser!(u16).range(1024..=65_000))]
    port: u16,
    /// Priority of everything measured, as -19 on a machine in use
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-20..=19))]
    nice: i32,
    /// Leave manifests, configurations and logs behind
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    output: Output,
}

/// How many of everything.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Size {
    pub ingresses: u32,
    pub endpoints: u32,
    pub changes: u32,
    pub packet_changes: u32,
    pub under_load: u32,
    pub reloads: u32,
    pub vhosts: u32,
    pub websockets: u32,
}

impl Arguments {
    fn size(&self) -> Size {
        let of = |asked: Option<u32>, full: u32, quick: u32| asked.unwrap_or(if self.quick { quick } else { full });
        let ingresses = of(self.ingresses, 20_000, 2_000);
        Size {
            ingresses,
            endpoints: self.endpoints.unwrap_or(5 * ingresses),
            changes: of(self.changes, 200, 40),
            packet_changes: of(self.packet_changes, 100, 20),
            under_load: of(self.under_load, 1000, 100),
            reloads: of(self.reloads, 10, 2),
            vhosts: of(self.vhosts, 5000, 500),
            websockets: self.websockets,
        }
    }
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Measured {
    pub versions: BTreeMap<String, String>,
    pub size: Size,
    /// Share of all cores that nobody used before the start.
    pub idle: f64,
    /// What was left out, and why.
    pub notes: Vec<String>,
    pub empty: FirstState,
    pub large_files: FirstState,
    pub many_files: FirstState,
    pub changes: changes::Changes,
    pub under_load: changes::UnderLoad,
    pub packets: Option<packets::Packets>,
    pub reloads: Vec<reloads::Reloads>,
}

/// From the start of the process until it was ready.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct FirstState {
    pub files: usize,
    /// Of these files.
    pub bytes: u64,
    /// Until `/readyz` said 200.
    pub seconds: f64,
    /// CPU time until then.
    pub cpu_seconds: f64,
    /// Bytes, once they no longer fell.
    pub resident: u64,
    /// The most until then.
    pub peak: u64,
}

/// How long the first state may take.
const READY_WITHIN: Duration = Duration::from_secs(300);
/// How long a change may take until it counts as lost.
pub const EFFECT_WITHIN: Duration = Duration::from_secs(30);

/// Measures, and gives the report out.
///
/// # Errors
/// Where something that is needed does not come up.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    arguments.output.check("control")?;
    let mut report = tables::begun();
    let measured = Control::new(arguments)?.measure()?;
    tables::fill(&mut report, &measured);
    arguments.output.deliver(&report, &measured)
}

/// One run.
struct Control<'a> {
    arguments: &'a Arguments,
    size: Size,
    gateway: PathBuf,
    folder: TempDir,
    certificate: Certificate,
    placement: Placement,
    _priority: SessionPriority,
    interrupt: Interrupt,
    _backends: Daemon,
    notes: Vec<String>,
}

impl<'a> Control<'a> {
    fn new(arguments: &'a Arguments) -> anyhow::Result<Self> {
        daemon::raise_file_limit();
        let interrupt = Interrupt::watch()?;
        let gateway = gateway::program(arguments.sluicegate.as_deref())?;
        let cores = (0..std::thread::available_parallelism()?.get()).collect();
        let placement = Placement { cores, nice: arguments.nice };
        daemon::place(&placement)?;
        daemon::expect_free(arguments.port, arguments.port.saturating_add(39))?;
        let folder = tempfile::Builder::new().prefix("sluicegate-control-").tempdir()?;
        let backends = backends(arguments, folder.path(), &placement)?;
        Ok(Self {
            arguments,
            size: arguments.size(),
            gateway,
            folder,
            certificate: Certificate::make()?,
            placement,
            _priority: SessionPriority::take(arguments.nice),
            interrupt,
            _backends: backends,
            notes: Vec::new(),
        })
    }

    fn measure(mut self) -> anyhow::Result<Measured> {
        let idle = idle_share(self.placement.cores.len())?;
        let (_, _, empty) = self.first_state("empty", |_| Ok(WrittenFiles::default()))?;
        let size = self.size;
        let (_, _, large_files) = self.first_state("large", |folder| fleet::write_large_files(folder, size))?;
        let (daemon, watched, many_files) = self.first_state("many", |folder| fleet::write_many_files(folder, size))?;
        let changes = self.changes(&watched)?;
        let under_load = self.under_load(&watched)?;
        drop(daemon);
        let packets = self.packets(&watched)?;
        let reloads = self.reloads()?;
        let mut versions = BTreeMap::from([(Kind::Sluicegate.name().to_owned(), gateway::version(&self.gateway))]);
        for proxy in [Kind::Nginx, Kind::Haproxy].into_iter().filter_map(|kind| self.peer(kind)) {
            versions.insert(proxy.kind.name().to_owned(), proxy.version());
        }
        if self.arguments.keep {
            eprintln!("manifests, configurations and logs: {}", self.folder.keep().display());
        }
        Ok(Measured {
            versions,
            size,
            idle,
            notes: self.notes,
            empty,
            large_files,
            many_files,
            changes,
            under_load,
            packets,
            reloads,
        })
    }

    fn peer(&self, kind: Kind) -> Option<Proxy> {
        let port = self.http() + if kind == Kind::Nginx { 10 } else { 20 };
        Proxy::find(kind, port, &self.arguments.programs, &self.gateway)
    }

    /// The gateway's port for HTTP; others follow.
    const fn http(&self) -> u16 {
        self.arguments.port + 10
    }

    /// Writes manifests, and starts the gateway on them.
    fn first_state(
        &self,
        name: &str,
        write: impl FnOnce(&Path) -> anyhow::Result<WrittenFiles>,
    ) -> anyhow::Result<(Daemon, Watched, FirstState)> {
        self.interrupt.check()?;
        let folder = self.folder.path().join(name);
        eprintln!("{name}: writing manifests");
        let written = write(&folder.join("cluster"))?;
        let watched = Watched::write(&folder, &self.certificate, fleet::Ports::from(self.arguments.port))?;
        let mut command = Command::new(&self.gateway);
        command.args(["run", "--log-level", "error", "--access-log", "off", "--lame-duck", "0s", "--drain", "1s"]);
        command.arg("--manifests").arg(&folder);
        let flags = ["--http", "--https", "--metrics", "--admin"];
        for (flag, port) in flags.into_iter().zip(self.http()..) {
            command.arg(flag).arg(format!("127.0.0.1:{port}"));
        }
        let metrics = self.http() + 2;
        let begun = Instant::now();
        let mut daemon = Daemon::start(command, &self.folder.path().join(format!("{name}.log")), &self.placement)?;
        if !daemon.wait_until(READY_WITHIN, || {
            ask_once(metrics, "localhost", "/readyz").is_ok_and(|answer| answer.status == 200)
        }) {
            bail!("the gateway does not become ready: {}", daemon.complaint());
        }
        let (seconds, cpu) = (begun.elapsed().as_secs_f64(), accounting::cpu_time(&daemon.pids()));
        let answer = Asker::new(self.http(), CHANGING).ask().context("the gateway is ready and does not answer")?;
        if answer != b"B" {
            bail!("the gateway is ready, but {CHANGING} does not lead to B");
        }
        let memory = settled(&daemon);
        eprintln!("{name}: {} files, ready after {seconds:.2} s, {} MiB", written.files, memory.now >> 20);
        let state = FirstState {
            files: written.files,
            bytes: written.bytes,
            seconds,
            cpu_seconds: cpu.as_secs_f64(),
            resident: memory.now,
            peak: memory.peak,
        };
        Ok((daemon, watched, state))
    }
}

/// Memory, once it no longer falls: what was needed for reading alone is given back by then, or kept for good.
fn settled(daemon: &Daemon) -> Memory {
    let (mut memory, mut still) = (daemon.memory(), 0);
    for _ in 0..15 {
        std::thread::sleep(Duration::from_secs(1));
        let now = daemon.memory();
        still = if now.now < memory.now { 0 } else { still + 1 };
        memory = now;
        if still == 5 {
            break;
        }
    }
    memory
}

/// Backends that say A and B, and one for everything else.
fn backends(arguments: &Arguments, folder: &Path, placement: &Placement) -> anyhow::Result<Daemon> {
    let ports = fleet::Ports::from(arguments.port);
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("respond").arg("--listen").arg(ports.usual.to_string());
    command.arg("--listen").arg(format!("{}=A", ports.a)).arg("--listen").arg(format!("{}=B", ports.b));
    let mut daemon = Daemon::start(command, &folder.join("backends.log"), placement)?;
    if !daemon.wait_until(Duration::from_secs(10), || ask_once(ports.b, "any", "/").is_ok()) {
        bail!("the backends do not come up: {}", daemon.complaint());
    }
    Ok(daemon)
}

/// The share of all cores that nobody uses.
fn idle_share(cores: usize) -> anyhow::Result<f64> {
    let busy = || (0..cores).map(accounting::core_busy).sum::<anyhow::Result<Duration>>();
    let (before, begun) = (busy()?, Instant::now());
    std::thread::sleep(Duration::from_secs(2));
    let busy = busy()?.saturating_sub(before).as_secs_f64();
    Ok((1.0 - busy / begun.elapsed().as_secs_f64() / cores as f64).clamp(0.0, 1.0))
}
