//! What is printed.

use super::contestant::{BARE, KATRAN, ROUTING, TUNNEL, USER_SPACE};
use super::rig::{Load, Turn};
use crate::report::{
    Axis, Bar, Bars, Cell, Column, Figure, Group, Line, Lines, Note, Plot, Report, Section, Table, Unit,
};
use serde::Serialize;

/// One contestant with one load.
pub struct Row {
    name: &'static str,
    load: Load,
    /// One a round, in their order.
    pub turns: Vec<Turn>,
}

/// Everything that was measured, as `-o json` prints it.
#[derive(Serialize)]
pub struct Figures {
    rounds: u32,
    packets: u32,
    /// Who did not take part, and why.
    absent: Vec<String>,
    rows: Vec<Measured>,
}

#[derive(Serialize)]
struct Measured {
    name: &'static str,
    flows: u64,
    /// One packet of so many is of these flows; 0 = all are.
    flood: u32,
    #[serde(skip)]
    load: Load,
    /// Packets a second of CPU time.
    rate: Spread,
    /// Median over the rounds of the share of the core that it had.
    busy: f64,
    /// Median over the rounds of the share of the packets that came back.
    came_back: f64,
    /// Of the rounds: the ratio to the contestant of that name in the same round.
    against: Vec<Against>,
}

#[derive(Clone, Copy, Serialize)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

#[derive(Serialize)]
struct Against {
    name: &'static str,
    #[serde(flatten)]
    ratio: Spread,
}

/// Whom all are compared with, and how the column is called.
const COMPARED: [(&str, &str); 3] = [(BARE, "of bare"), (KATRAN, "of Katran"), (ROUTING, "of routing")];

/// A report without figures, of this moment.
pub fn begin() -> Report {
    Report::new(super::NAME, "Packets on a wire")
}

impl Row {
    /// Without a turn.
    pub const fn new(name: &'static str, load: Load) -> Self {
        Self { name, load, turns: Vec::new() }
    }

    fn rates(&self) -> Vec<f64> {
        self.turns.iter().map(Turn::rate).collect()
    }
}

impl Figures {
    /// Of these rows.
    pub fn new(rounds: u32, packets: u32, absent: Vec<String>, rows: &[Row]) -> Self {
        let rows = rows.iter().map(|row| measured(row, rows, packets)).collect();
        Self { rounds, packets, absent, rows }
    }

    /// Puts them into a report.
    pub fn fill(&self, report: &mut Report) {
        report.notes.push(Note::new(format!(
            "Rounds of {} packets of 64 bytes ({}), interleaved; medians, with the least and the most of the rounds. One core sends, \
             forwards and drops; rates are per second of CPU time of all of that, ratios those of the same round. In the SYN flood, \
             one packet of {} is of the established flows.",
            Unit::Count.number(f64::from(self.packets)),
            self.rounds,
            crate::packet::scenario::FLOOD
        )));
        report.notes.extend(self.absent.iter().map(|absent| Note::new(format!("{absent}."))));
        for load in self.loads() {
            report.sections.push(self.section(load));
        }
        report.sections.extend(self.by_flows());
    }

    /// In the order in which they were sent.
    fn loads(&self) -> Vec<Load> {
        let mut loads = Vec::new();
        for row in &self.rows {
            if !loads.contains(&row.load) {
                loads.push(row.load);
            }
        }
        loads
    }

    fn section(&self, load: Load) -> Section {
        let mut section = Section::new(&load.to_string());
        let rows: Vec<&Measured> = self.rows.iter().filter(|row| row.load == load).collect();
        let compared: Vec<(&str, &str)> =
            COMPARED.into_iter().filter(|(name, _)| rows.iter().any(|row| row.name == *name)).collect();
        let mut columns = vec![
            Column::new(""),
            Column::of("rate", Unit::Mpps),
            Column::of("a packet, CPU", Unit::Nanoseconds),
            Column::of("core", Unit::Share),
            Column::of("came back", Unit::Share),
        ];
        columns.extend(compared.iter().map(|(_, column)| Column::of(column, Unit::Ratio)));
        let mut table = Table::new("", columns);
        for row in &rows {
            let cost = Cell::or_missing(row.cost(), "nothing came back");
            let mut cells = vec![row.name.into(), row.rate(), cost];
            cells.extend([row.busy, row.came_back].map(|share| Figure::exact(Unit::Share, share).into()));
            cells.extend(compared.iter().map(|(name, _)| row.ratio(name)));
            table.row(cells);
        }
        section.tables.push(table);
        let bar = |row: &&Measured| Some(Bar { name: row.name.to_owned(), figure: row.cost()? });
        let bars = rows.iter().filter_map(bar).collect();
        section.plots.push(Plot::Bars(Bars {
            title: format!("CPU time of a packet, {load}"),
            unit: Unit::Nanoseconds,
            groups: vec![Group { name: String::new(), bars }],
        }));
        section
    }

    /// How rates hold when flows are many.
    fn by_flows(&self) -> Option<Section> {
        let calm = || self.rows.iter().filter(|row| row.load.flood == 0);
        let mut lines: Vec<Line> = Vec::new();
        for row in calm() {
            let point = (row.flows as f64, row.rate.median / 1e6);
            match lines.iter_mut().find(|line| line.name == row.name) {
                Some(line) => line.points.push(point),
                None => lines.push(Line { name: row.name.to_owned(), points: vec![point] }),
            }
        }
        let several = lines.first().is_some_and(|line| line.points.len() > 1);
        let mut section = Section::new("Rates by flows");
        section.plots.push(Plot::Lines(Lines {
            title: "Packets per second of CPU time".to_owned(),
            x: Axis { name: "flows".to_owned(), unit: Unit::Count, logarithmic: true },
            y: Axis { name: "rate".to_owned(), unit: Unit::Mpps, logarithmic: false },
            lines,
        }));
        several.then_some(section)
    }
}

impl Measured {
    /// Millions a second, with what the engine in user space is to reach.
    fn rate(&self) -> Cell {
        let rate = figure(Unit::Mpps, self.rate, 1e-6);
        if self.name == USER_SPACE && self.flood == 0 { rate.at_least(0.5).into() } else { rate.into() }
    }

    /// CPU time of a packet, where any came back in each round.
    fn cost(&self) -> Option<Figure> {
        let Spread { median, least, most } = self.rate;
        if least <= 0.0 {
            return None;
        }
        let inverse = Spread { median: 1.0 / median, least: 1.0 / most, most: 1.0 / least };
        Some(figure(Unit::Nanoseconds, inverse, 1e9))
    }

    /// Against somebody, with what is to be reached.
    fn ratio(&self, name: &str) -> Cell {
        let Some(against) = self.against.iter().find(|against| against.name == name) else {
            return Cell::Missing(String::new());
        };
        if !against.ratio.most.is_finite() {
            return Cell::Missing("nothing came back".to_owned());
        }
        let ratio = figure(Unit::Ratio, against.ratio, 1.0);
        let goal = match (name, self.flows) {
            _ if self.name != TUNNEL || self.flood != 0 => None,
            (KATRAN, 1_024) => Some(1.4),
            (KATRAN, 65_536) => Some(1.5),
            (ROUTING, 1_024 | 65_536) => Some(3.0),
            _ => None,
        };
        goal.map_or(ratio.clone(), |goal| ratio.at_least(goal)).into()
    }
}

fn figure(unit: Unit, spread: Spread, scale: f64) -> Figure {
    let mut figure = Figure::exact(unit, spread.median * scale);
    if spread.least < spread.most {
        (figure.least, figure.most) = (Some(spread.least * scale), Some(spread.most * scale));
    }
    figure
}

fn measured(row: &Row, rows: &[Row], packets: u32) -> Measured {
    let others = rows.iter().filter(|other| other.load == row.load && other.name != row.name);
    let against = others.filter(|other| COMPARED.iter().any(|(name, _)| *name == other.name)).map(|other| {
        let ratios = row.rates().iter().zip(other.rates()).map(|(own, other)| own / other).collect();
        Against { name: other.name, ratio: spread(ratios) }
    });
    Measured {
        name: row.name,
        flows: row.load.flows,
        flood: row.load.flood,
        load: row.load,
        rate: spread(row.rates()),
        busy: spread(row.turns.iter().map(Turn::share).collect()).median,
        came_back: spread(row.turns.iter().map(|turn| turn.came_back(packets)).collect()).median,
        against: against.collect(),
    }
}

fn spread(mut values: Vec<f64>) -> Spread {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    Spread { median: at(values.len() / 2), least: at(0), most: at(values.len().saturating_sub(1)) }
}
