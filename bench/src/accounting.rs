//! What `/proc` says of processes and cores: CPU time and memory. Network work that the kernel does for a process is part of
//! that process's time; what `ksoftirqd` does is nobody's, and not counted as a disturbance either.

use anyhow::Context as _;
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// A process and all its descendants.
pub fn tree(pid: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for process in processes() {
        // One may end while the others are looked at.
        if let Some(parent) = stat(process).and_then(|fields| fields.get(1)?.parse().ok()) {
            children.entry(parent).or_default().push(process);
        }
    }
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(process) = found.get(at) {
        found.extend(children.get(process).cloned().unwrap_or_default());
        at += 1;
    }
    found
}

/// CPU time of processes, user and system, all their threads, those that ended included. It counts in ticks, of 10 ms mostly.
pub fn cpu_time(pids: &[u32]) -> Duration {
    let ticks = pids.iter().filter_map(|pid| {
        let fields = stat(*pid)?;
        let of = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(of(11)? + of(12)?)
    });
    seconds(ticks.sum())
}

/// Resident memory of processes in bytes; pages that they share are counted in each.
pub fn resident(pids: &[u32]) -> Memory {
    let mut memory = Memory::default();
    for pid in pids {
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        let of = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or_default() * 1024
        };
        memory.now += of("VmRSS:");
        memory.peak += of("VmHWM:");
    }
    memory
}

/// Bytes at the moment, and the most that each process ever had.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// At the moment.
    pub now: u64,
    /// The most until now.
    pub peak: u64,
}

/// Time in which a core did anything, or in which the host ran somebody else on it (steal).
///
/// # Errors
/// Where there is no such core.
pub fn core_busy(core: usize) -> anyhow::Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let name = format!("cpu{core} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    let line = line
        .with_context(|| format!("/proc/stat has no core {core}; choose others with --proxy-core and --load-core"))?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    Ok(seconds([0, 1, 2, 5, 6, 7].iter().filter_map(|at| fields.get(*at)).sum()))
}

/// Two cores: the proxy's, and that of the load generator (this process) and the backend.
pub struct Meter {
    proxy: Vec<u32>,
    others: Vec<u32>,
    cores: [usize; 2],
    softirq: [Vec<u32>; 2],
}

/// What they do between two moments.
pub struct Clock<'a> {
    meter: &'a Meter,
    start: Reading,
    begun: Instant,
}

struct Reading {
    proxy: Duration,
    load: Duration,
    cores: [Duration; 2],
}

/// What [`Clock::stop`] found. Shares are of one core.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// CPU time of the proxy.
    pub proxy: Duration,
    /// How busy it kept its core.
    pub busy: f64,
    /// What others, or the host, took of its core.
    pub disturbance: f64,
    /// What others, or the host, took of the load generator's core.
    pub load_disturbance: f64,
}

impl Meter {
    /// Finds whom to look at, which takes a while; `backend` are the processes that share the load generator's core.
    pub fn new(proxy: Vec<u32>, backend: &[u32], proxy_core: usize, load_core: usize) -> Self {
        let mut others = backend.to_vec();
        others.push(std::process::id());
        let cores = [proxy_core, load_core];
        let softirq = cores.map(|core| softirq_thread(core).into_iter().collect());
        Self { proxy, others, cores, softirq }
    }

    /// Starts counting.
    ///
    /// # Errors
    /// Where the machine has no such cores.
    pub fn start(&self) -> anyhow::Result<Clock<'_>> {
        Ok(Clock { meter: self, start: self.read()?, begun: Instant::now() })
    }

    fn read(&self) -> anyhow::Result<Reading> {
        let busy =
            |at: usize| Ok::<_, anyhow::Error>(core_busy(self.cores[at])?.saturating_sub(cpu_time(&self.softirq[at])));
        Ok(Reading { proxy: cpu_time(&self.proxy), load: cpu_time(&self.others), cores: [busy(0)?, busy(1)?] })
    }
}

impl Clock<'_> {
    /// What was spent since.
    ///
    /// # Errors
    /// As [`Meter::start`].
    pub fn stop(self) -> anyhow::Result<Spent> {
        let wall = self.begun.elapsed().as_secs_f64().max(1e-9);
        let end = self.meter.read()?;
        let proxy = end.proxy.saturating_sub(self.start.proxy);
        let load = end.load.saturating_sub(self.start.load);
        let [on_proxy, on_load] = [0, 1].map(|at| end.cores[at].saturating_sub(self.start.cores[at]));
        Ok(Spent {
            proxy,
            busy: proxy.as_secs_f64() / wall,
            disturbance: on_proxy.saturating_sub(proxy).as_secs_f64() / wall,
            load_disturbance: on_load.saturating_sub(load).as_secs_f64() / wall,
        })
    }
}

/// The kernel's thread that takes over network work of a core when there is much of it.
fn softirq_thread(core: usize) -> Option<u32> {
    let name = format!("ksoftirqd/{core}\n");
    processes().find(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|is| is == name))
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The fields of `/proc/PID/stat` that follow the name, `state` the first (proc_pid_stat(5)).
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain anything, a parenthesis too.
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

fn seconds(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
