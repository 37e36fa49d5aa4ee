//! The report: medians and least values over the rounds, the floor beside.

use super::harness::Runs;
use super::scenario::Scenario;
use serde::Serialize;
use std::fmt::Write as _;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What it was measured on.
    kernel: String,
    /// Model name of the CPU.
    cpu: String,
    /// Rounds of each scenario.
    rounds: u32,
    /// Packets of each run.
    packets: u32,
    /// In the order in which they ran.
    scenarios: Vec<Measured>,
}

/// One scenario.
#[derive(Debug, Serialize)]
pub struct Measured {
    name: &'static str,
    method: &'static str,
    /// Nanoseconds per packet.
    ns: Figures,
    /// How packets ended.
    reasons: Vec<(&'static str, u64)>,
}

/// Nanoseconds per packet.
#[derive(Clone, Copy, Debug, Serialize)]
struct Figures {
    /// Median of the program with all around it.
    total: f64,
    /// Least of it.
    total_least: f64,
    /// Median of the floor.
    floor: f64,
    /// Median of the differences between each run and the floor beside it.
    net: f64,
    /// Least run minus least floor.
    net_least: f64,
    /// Half of the range that the middle half of the differences spans.
    spread: f64,
}

impl Measured {
    /// From the rounds, of which there is at least one.
    pub fn new(scenario: &Scenario, runs: &Runs) -> Self {
        let whole = sorted(runs.rounds.iter().map(|(whole, _)| *whole));
        let floor = sorted(runs.rounds.iter().map(|(_, floor)| *floor));
        let net = sorted(runs.rounds.iter().map(|(whole, floor)| whole - floor));
        let ns = Figures {
            total: at(&whole, 0.5),
            total_least: at(&whole, 0.0),
            floor: at(&floor, 0.5),
            net: at(&net, 0.5),
            net_least: at(&whole, 0.0) - at(&floor, 0.0),
            spread: (at(&net, 0.75) - at(&net, 0.25)) / 2.0,
        };
        let reasons = runs.reasons.iter().map(|(reason, packets)| (reason.as_str(), *packets)).collect();
        Self { name: scenario.name, method: scenario.method(), ns, reasons }
    }
}

impl Report {
    /// An empty one about this machine.
    pub fn new(rounds: u32, packets: u32) -> Self {
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let cpu = model.map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned());
        Self { kernel, cpu, rounds, packets, scenarios: Vec::new() }
    }

    /// One more scenario.
    pub fn add(&mut self, measured: Measured) {
        self.scenarios.push(measured);
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ok = writeln!(
            text,
            "Linux {}, {}; nanoseconds per packet, {} rounds of {} packets\n",
            self.kernel, self.cpu, self.rounds, self.packets
        );
        let _ok = writeln!(
            text,
            "{:<10} {:<7} {:>8} {:>8} {:>8} {:>8} {:>8}  packets ended",
            "scenario", "method", "net", "±", "least", "total", "floor"
        );
        for one in &self.scenarios {
            let all: u64 = one.reasons.iter().map(|(_, packets)| packets).sum();
            let ended: Vec<String> = one
                .reasons
                .iter()
                .map(|(reason, packets)| format!("{reason} {:.1}%", *packets as f64 * 100.0 / all.max(1) as f64))
                .collect();
            let _ok = writeln!(
                text,
                "{:<10} {:<7} {:>8.1} {:>8.1} {:>8.1} {:>8.1} {:>8.1}  {}",
                one.name,
                one.method,
                one.ns.net,
                one.ns.spread,
                one.ns.net_least,
                one.ns.total,
                one.ns.floor,
                ended.join(", ")
            );
        }
        text
    }
}

fn sorted(figures: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures
}

/// The figure at a share of the way from the least to the greatest.
fn at(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((share * last as f64).round() as usize).copied().unwrap_or(f64::NAN)
}
