//! What is printed.

use super::rig::Turn;
use serde::Serialize;
use std::fmt::Write as _;

/// One contestant with one number of flows.
pub struct Row {
    name: &'static str,
    flows: u64,
    /// One a round, in their order.
    pub turns: Vec<Turn>,
}

impl Row {
    /// Without a turn.
    pub const fn new(name: &'static str, flows: u64) -> Self {
        Self { name, flows, turns: Vec::new() }
    }

    fn rates(&self) -> Vec<f64> {
        self.turns.iter().map(Turn::rate).collect()
    }
}

/// Everything that was measured.
#[derive(Serialize)]
pub struct Report {
    rounds: u32,
    packets: u32,
    rows: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    name: &'static str,
    flows: u64,
    /// Packets a second of CPU time.
    median: f64,
    least: f64,
    most: f64,
    /// Median over the rounds of the share of the core that it had.
    busy: f64,
    /// Median over the rounds of the ratio to the contestant of that name in the same round.
    against: Vec<Against>,
}

#[derive(Serialize)]
struct Against {
    name: &'static str,
    ratio: f64,
    least: f64,
    most: f64,
}

/// Whom all are compared with.
const COMPARED: [&str; 3] = ["bare XDP_TX", "Katran, IPIP", "kernel routing"];

impl Report {
    /// Of these rows.
    pub fn new(rounds: u32, packets: u32, rows: Vec<Row>) -> Self {
        let lines = rows.iter().map(|row| line(row, &rows)).collect();
        Self { rounds, packets, rows: lines }
    }

    /// In Markdown.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{} rounds of {} packets, interleaved; median (least to most)\n\n\
             | | flows | Mpps, of CPU time | core | of bare | of Katran | of routing |\n| --- | --- | --- | --- | --- | --- | --- |\n",
            self.rounds, self.packets
        );
        for line in &self.rows {
            let ratios: Vec<String> = COMPARED
                .iter()
                .map(|name| line.against.iter().find(|against| against.name == *name))
                .map(|against| match against {
                    Some(Against { ratio, least, most, .. }) => format!("{ratio:.2} ({least:.2} to {most:.2})"),
                    None => "-".to_owned(),
                })
                .collect();
            let _infallible = writeln!(
                text,
                "| {} | {} | {:.2} ({:.2} to {:.2}) | {:.0}% | {} |",
                line.name,
                line.flows,
                line.median / 1e6,
                line.least / 1e6,
                line.most / 1e6,
                line.busy * 100.0,
                ratios.join(" | ")
            );
        }
        text
    }
}

fn line(row: &Row, rows: &[Row]) -> Line {
    let (median, least, most) = spread(row.rates());
    let (busy, ..) = spread(row.turns.iter().map(Turn::share).collect());
    let against = rows
        .iter()
        .filter(|other| other.flows == row.flows && other.name != row.name && COMPARED.contains(&other.name));
    let against = against.map(|other| {
        let (ratio, least, most) =
            spread(row.rates().iter().zip(other.rates()).map(|(own, other)| own / other).collect());
        Against { name: other.name, ratio, least, most }
    });
    Line { name: row.name, flows: row.flows, median, least, most, busy, against: against.collect() }
}

/// Median, least and most.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    (at(values.len() / 2), at(0), at(values.len().saturating_sub(1)))
}
