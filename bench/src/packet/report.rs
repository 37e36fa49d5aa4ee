//! The report: medians and least values over the rounds, the floor beside, and what is to be reached.

use super::harness::Runs;
use super::scenario::{FLOOD, Scenario};
use crate::report::{Bar, Bars, Cell, Column, Figure, Group, Machine, Note, Plot, Report, Section, Table, Unit};
use serde::Serialize;

/// Share of established packets that must find their flow in a flood.
const KEPT: f64 = 0.999;

/// Everything that was measured, as `-o json` prints it.
#[derive(Debug, Serialize)]
pub struct Figures {
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
    ns: Nanoseconds,
    /// Most nanoseconds net that are good.
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<f64>,
    /// How packets ended.
    reasons: Vec<(&'static str, u64)>,
    /// Under a flood: the share of packets of established flows that found their flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<f64>,
    /// Nanoseconds net of each round.
    #[serde(skip)]
    net: Vec<f64>,
}

/// Nanoseconds per packet.
#[derive(Clone, Copy, Debug, Serialize)]
struct Nanoseconds {
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

/// A report without figures, of this moment.
pub fn begin() -> Report {
    let mut report = Report::new(super::NAME, "Nanoseconds per packet");
    report.versions.insert("tables of the packet path".to_owned(), sluicegate_l4::layout::VERSION.to_string());
    report
}

impl Measured {
    /// From the rounds, of which there is at least one.
    pub fn new(scenario: &Scenario, runs: &Runs) -> Self {
        let whole = sorted(runs.rounds.iter().map(|(whole, _)| *whole));
        let floor = sorted(runs.rounds.iter().map(|(_, floor)| *floor));
        let net = sorted(runs.rounds.iter().map(|(whole, floor)| whole - floor));
        let ns = Nanoseconds {
            total: at(&whole, 0.5),
            total_least: at(&whole, 0.0),
            floor: at(&floor, 0.5),
            net: at(&net, 0.5),
            net_least: at(&whole, 0.0) - at(&floor, 0.0),
            spread: (at(&net, 0.75) - at(&net, 0.25)) / 2.0,
        };
        let reasons = runs.reasons.iter().map(|(reason, packets)| (reason.as_str(), *packets)).collect();
        Self {
            name: scenario.name,
            method: scenario.method(),
            ns,
            goal: scenario.goal(),
            reasons,
            kept: runs.kept,
            net,
        }
    }

    /// Net, of all rounds.
    fn net(&self) -> Option<Figure> {
        let net = Figure::of_rounds(Unit::Nanoseconds, self.net.iter().copied())?;
        Some(match self.goal {
            Some(most) => net.at_most(most),
            None => net,
        })
    }

    /// `flow_hit 98.9 %, flow_new 1.1 %`.
    fn ended(&self) -> String {
        let all: u64 = self.reasons.iter().map(|(_, packets)| packets).sum();
        let share = |packets: &u64| Unit::Share.number(*packets as f64 / all.max(1) as f64);
        let ended: Vec<String> =
            self.reasons.iter().map(|(reason, packets)| format!("{reason} {}", share(packets))).collect();
        ended.join(", ")
    }
}

impl Figures {
    /// None yet.
    pub fn new(machine: &Machine, rounds: u32, packets: u32) -> Self {
        let (kernel, cpu) = (machine.kernel.clone(), machine.processor.clone());
        Self { kernel, cpu, rounds, packets, scenarios: Vec::new() }
    }

    /// One more scenario.
    pub fn add(&mut self, measured: Measured) {
        self.scenarios.push(measured);
    }

    /// Puts them into a report.
    pub fn fill(&self, report: &mut Report) {
        let mut section = Section::new("");
        section.notes.push(Note::new(format!(
            "Medians of {} rounds of {} packets, program and floor in turn, with the least and the most of the rounds. `net` is \
             the program alone: `total` less the `floor`, which is the same replaying program in front of a bare push and \
             `XDP_TX`. `least` is the least total less the least floor.",
            self.rounds,
            Unit::Count.number(f64::from(self.packets))
        )));
        section.tables.push(self.table());
        section.plots.push(plot(&self.scenarios));
        report.sections.push(section);
        if let Some(flood) = self.flood() {
            report.sections.push(flood);
        }
    }

    fn table(&self) -> Table {
        let ns = |name| Column::of(name, Unit::Nanoseconds);
        let head = [ns("net"), ns("least"), ns("total"), ns("floor"), Column::new("packets ended")];
        let names = [Column::new("scenario"), Column::new("method")];
        let mut table = Table::new("", names.into_iter().chain(head).collect());
        let exact = |value| Figure::exact(Unit::Nanoseconds, value).into();
        for one in &self.scenarios {
            table.row(vec![
                one.name.into(),
                one.method.into(),
                Cell::or_missing(one.net(), ""),
                exact(one.ns.net_least),
                exact(one.ns.total),
                exact(one.ns.floor),
                one.ended().into(),
            ]);
        }
        table
    }

    /// What a SYN flood does to flows that were there before, where that was measured.
    fn flood(&self) -> Option<Section> {
        let mut section = Section::new("Established flows under a SYN flood");
        section.notes.push(Note::new(format!(
            "{} of {} packets are SYNs of sources that never return; the others are of the flows that the scenario names, \
             established before the flood came.",
            FLOOD - 1,
            FLOOD
        )));
        let columns = ["scenario", "method"].map(Column::new).into_iter();
        let figures = [
            Column::of("established packets that found their flow", Unit::Share),
            Column::of("net", Unit::Nanoseconds),
        ];
        let mut table = Table::new("", columns.chain(figures).collect());
        for one in &self.scenarios {
            let Some(kept) = one.kept else { continue };
            let kept = Figure::exact(Unit::Share, kept).at_least(KEPT);
            table.row(vec![one.name.into(), one.method.into(), kept.into(), Cell::or_missing(one.net(), "")]);
        }
        let measured = !table.rows.is_empty();
        section.tables.push(table);
        measured.then_some(section)
    }
}

/// A group of bars for each scenario.
fn plot(scenarios: &[Measured]) -> Plot {
    let mut groups: Vec<Group> = Vec::new();
    for one in scenarios {
        let Some(figure) = one.net() else { continue };
        let bar = Bar { name: one.method.to_owned(), figure };
        match groups.last_mut().filter(|group| group.name == one.name) {
            Some(group) => group.bars.push(bar),
            None => groups.push(Group { name: one.name.to_owned(), bars: vec![bar] }),
        }
    }
    Plot::Bars(Bars { title: "Nanoseconds per packet, net".to_owned(), unit: Unit::Nanoseconds, groups })
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
