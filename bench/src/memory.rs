//! `memory`: what a large fleet costs: memory of the tables in the kernel and of the process, and how long a change takes until
//! it is in the tables.
//!
//! 512 VIPs with two ports and 100 real servers each, all with the same ones (their services share a ring) or each with others
//! (as many rings as there are), and a million flows. The forwarder is the one of the program, in a namespace of its
//! own.

use crate::live::rig::{Load, PORT, Rig, SENDER};
use crate::packet::tables::VIP4;
use crate::report::{Bar, Bars, Cell, Column, Figure, Group, Note, Output, Plot, Report, Section, Table, Unit};
use anyhow::{Context as _, bail};
use aya::maps::MapData;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use sluicegate_config::{
    Kind, Method, ObjectRef, Readiness, RealServer, TransportProtocol, VipBinding, VipOptions, VipPort, VipService,
};
use sluicegate_forward::forwarder::{ForwardMode, Forwarder, ForwarderSettings};
use sluicegate_forward::status::ForwarderStatus;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What to measure.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Real servers of the VIPs; both, each in a process of its own, if it is not given
    #[arg(long, value_enum)]
    sets: Option<Sets>,
    /// Changes that are timed
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    changes: u32,
    /// CPU that sends the flows
    #[arg(long, default_value_t = 0)]
    cpu: usize,
    #[command(flatten)]
    output: Output,
}

/// Name of its reports.
const NAME: &str = "memory";

/// Which real servers VIPs have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Sets {
    /// All have the same ones.
    Equal,
    /// Each has others.
    Different,
}

const VIPS: u32 = 512;
const REALS: u32 = 100;
const FLOWS: u64 = 1 << 20;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What one kind of fleet came to. Memory in bytes, times in microseconds.
#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    sets: Sets,
    rings: usize,
    flows: u64,
    kernel: u64,
    largest: BTreeMap<String, u64>,
    private: u64,
    resident: u64,
    peak: u64,
    first: u64,
    changes: usize,
    median: u64,
    p99: u64,
    most: u64,
}

/// Measures, and prints the report on standard output.
///
/// # Errors
/// Where rights are missing, or the fleet does not come to be served.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("namespaces and eBPF programs need root");
    }
    arguments.output.check(NAME)?;
    let mut report = Report::new(NAME, "Memory of a large fleet");
    let measured = match arguments.sets {
        Some(sets) => vec![measure(sets, arguments)?],
        None => vec![elsewhere("equal", arguments)?, elsewhere("different", arguments)?],
    };
    fill(&mut report, &measured);
    arguments.output.deliver(&report, &measured)
}

/// In a process of its own: what one fleet leaves behind is not counted to the other.
fn elsewhere(sets: &str, arguments: &Arguments) -> anyhow::Result<Measured> {
    let (changes, cpu) = (arguments.changes.to_string(), arguments.cpu.to_string());
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["memory", "--sets", sets, "--changes", &changes, "--cpu", &cpu, "-o", "json"]);
    let output = command.stderr(std::process::Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("the measurement with {sets} sets failed");
    }
    let measured: Vec<Measured> = serde_json::from_slice(&output.stdout)?;
    measured.into_iter().next().context("the measurement printed nothing")
}

fn measure(sets: Sets, arguments: &Arguments) -> anyhow::Result<Measured> {
    let mut rig = Rig::build(arguments.cpu)?;
    let root = PathBuf::from(format!("/sys/fs/bpf/sg-bench-{}", std::process::id()));
    let settings = ForwarderSettings {
        mode: ForwardMode::Xdp,
        pin_root: root.clone(),
        interfaces: vec![PORT.to_owned()],
        ..ForwarderSettings::default()
    };
    let forwarder = rig.under_test.run(|| Forwarder::start(settings))?;
    let measured = fleet(&forwarder, &mut rig, sets, arguments.changes, &root);
    forwarder.detach()?;
    measured
}

fn fleet(forwarder: &Forwarder, rig: &mut Rig, sets: Sets, changes: u32, root: &Path) -> anyhow::Result<Measured> {
    let mut bindings: BTreeMap<IpAddr, Arc<VipBinding>> =
        (0..VIPS).map(|number| (vip(number), Arc::new(binding(sets, number, None)))).collect();
    let first = apply(forwarder, &bindings)?;
    let status = forwarder.status();
    if !status.failures.is_empty() || status.vips.len() != VIPS as usize {
        bail!(
            "{} VIPs are served, {} failures: {:?}",
            status.vips.len(),
            status.failures.len(),
            status.failures.first()
        );
    }
    // The forwarder asks for its next hop at once and then each 10 s; while frames are sent nobody answers.
    std::thread::sleep(Duration::from_secs(2));
    for _ in 0..2 {
        rig.send(Load { flows: FLOWS, flood: 0 }, FLOWS as u32, None)?;
    }
    let sweeps = status.flows.sweeps;
    let swept = wait(forwarder, |status| status.flows.sweeps > sweeps + 1)?;
    let flows = swept.flows.established + swept.flows.tentative;
    // A set of eight overflows here and there.
    if flows * 10 < FLOWS * 9 {
        let real = swept.vips.first().and_then(|vip| vip.services.first()).and_then(|service| service.reals.first());
        bail!(
            "{flows} of {FLOWS} flows are tracked; packets ended as {:?}; the first real server: {real:?}",
            swept.reasons
        );
    }

    let mut times = Vec::new();
    for change in 0..changes {
        // A real server goes from one VIP, and comes back.
        let number = change / 2 % VIPS;
        let without = (change % 2 == 0).then_some(change % REALS);
        bindings.insert(vip(number), Arc::new(binding(sets, number, without)));
        times.push(apply(forwarder, &bindings)?);
        std::thread::sleep(Duration::from_millis(5));
    }
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_micros() as u64;
    let maps = kernel_memory(root)?;
    Ok(Measured {
        sets,
        rings: if sets == Sets::Equal { 1 } else { VIPS as usize },
        flows,
        kernel: maps.values().sum(),
        largest: maps.into_iter().filter(|(_, bytes)| *bytes >= 1 << 20).collect(),
        private: of_process("RssAnon:")?,
        resident: of_process("VmRSS:")?,
        peak: of_process("VmHWM:")?,
        first: first.as_micros() as u64,
        changes: times.len(),
        median: at(50),
        p99: at(99),
        most: at(100),
    })
}

/// From the call to the status that says that it is in the tables.
pub(crate) fn apply(forwarder: &Forwarder, bindings: &BTreeMap<IpAddr, Arc<VipBinding>>) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let wish = forwarder.apply(bindings);
    wait(forwarder, |status| status.applied >= wish)?;
    Ok(began.elapsed())
}

fn wait(forwarder: &Forwarder, reached: impl Fn(&ForwarderStatus) -> bool) -> anyhow::Result<Arc<ForwarderStatus>> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let status = forwarder.status();
        if reached(&status) {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    bail!("the forwarder did not get there within {PATIENCE:?}")
}

/// The first one is asked by the frames of the rig; the others lie in the range for benchmarks (RFC 2544).
pub(crate) fn vip(number: u32) -> IpAddr {
    match number {
        0 => VIP4.into(),
        _ => Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + number).into(),
    }
}

pub(crate) fn binding(sets: Sets, number: u32, without: Option<u32>) -> VipBinding {
    let offset = if sets == Sets::Equal { 0 } else { number * 3 };
    let real = |real: u32| RealServer {
        address: Ipv4Addr::from_bits(Ipv4Addr::new(198, 19, 0, 0).to_bits() + offset + real).into(),
        weight: 1,
        readiness: Readiness::Ready,
        node: None,
        pods: None,
    };
    let reals: Vec<RealServer> = (0..REALS).filter(|real| Some(*real) != without).map(real).collect();
    let port = |port| VipPort { protocol: TransportProtocol::Tcp, port, reals: reals.clone() };
    VipBinding {
        address: vip(number),
        services: vec![VipService {
            namespace: "bench".into(),
            service: format!("service{number}").into(),
            method: Some(Method::Tunnel),
            into_pods: false,
            options: VipOptions::default(),
            ports: vec![port(80), port(443)],
        }],
        origin: ObjectRef::new(Kind::ConfigMap, "bench", "vips"),
    }
}

/// What the kernel charges for each pinned map (`memlock` of its file).
fn kernel_memory(root: &Path) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut memory = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(map) = MapData::from_pin(&path) {
                let file = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                memory.insert(name, field(&std::fs::read_to_string(file)?, "memlock:").unwrap_or(0));
            }
        }
    }
    Ok(memory)
}

/// A field of `/proc/self/status`, which are in KiB.
fn of_process(name: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    Ok(field(&status, name).with_context(|| format!("/proc/self/status has no {name}"))? * 1024)
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What of it people read.
fn fill(report: &mut Report, measured: &[Measured]) {
    let mut section = Section::new("");
    section.notes.push(Note::new(format!(
        "{VIPS} VIPs with 2 ports of {REALS} real servers, behind {SENDER}. Tables are what the kernel charges for them; the process is the \
         bench itself with the forwarder in it. A change is timed from the call to the status that says that it is in the tables."
    )));
    let megabytes = |name| Column::of(name, Unit::Megabytes);
    let mut columns = ["real servers", "rings", "flows"].map(Column::new).to_vec();
    columns.extend(["tables in the kernel", "process", "process, at most", "together"].map(megabytes));
    let mut memory = Table::new("Memory", columns);
    let columns = ["real servers", "changes"].map(Column::new).into_iter();
    let times = ["first state", "a change, median", "p99", "most"].map(|name| Column::of(name, Unit::Milliseconds));
    let mut changes = Table::new("Times", columns.chain(times).collect());
    let mut bars = Vec::new();
    for one in measured {
        let name = if one.sets == Sets::Equal { "the same for all" } else { "others for each VIP" };
        let mega = |bytes: u64| Figure::exact(Unit::Megabytes, bytes as f64 / 1e6);
        let milli = |micros: u64| Figure::exact(Unit::Milliseconds, micros as f64 / 1e3);
        let together = mega(one.kernel + one.private);
        let together = if one.sets == Sets::Equal { together.at_most(128.0) } else { together };
        let mut row: Vec<Cell> =
            vec![name.into(), Figure::count(one.rings as u64).into(), Figure::count(one.flows).into()];
        row.extend([mega(one.kernel), mega(one.private), mega(one.peak), together.clone()].map(Cell::Figure));
        memory.row(row);
        let mut row: Vec<Cell> = vec![name.into(), Figure::count(one.changes as u64).into()];
        row.extend(
            [milli(one.first), milli(one.median), milli(one.p99).at_most(10.0), milli(one.most)].map(Cell::Figure),
        );
        changes.row(row);
        bars.push(Bar { name: name.to_owned(), figure: together });
    }
    section.tables.extend([memory, changes]);
    section.plots.push(Plot::Bars(Bars {
        title: "Tables in the kernel and the process".to_owned(),
        unit: Unit::Megabytes,
        groups: vec![Group { name: String::new(), bars }],
    }));
    report.sections.push(section);
}
