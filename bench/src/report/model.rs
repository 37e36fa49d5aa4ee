//! The model: what was measured, in tables and plots, without a word about how it looks.

use super::figure::{Figure, Unit};
use super::machine::Machine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The form of report.json that is written; another one is refused when reports are read.
pub const FORM: u32 = 1;

/// Said where it holds.
const DEBUG: &str =
    "this is a debug build: whatever runs in user space is slower than what is shipped. `cargo run --release`";

/// One run of one measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The form of this document.
    pub form: u32,
    /// The subcommand: names the markers in RESULTS.md and the anchor on the page.
    pub name: String,
    /// For people.
    pub title: String,
    /// When it began (RFC 3339, UTC).
    pub at: String,
    /// The command that repeats it.
    pub command: String,
    /// What it ran on.
    pub machine: Machine,
    /// Who took part, and in which version.
    pub versions: BTreeMap<String, String>,
    /// What holds for all sections.
    pub notes: Vec<Note>,
    /// In the order in which people read them.
    pub sections: Vec<Section>,
}

/// What belongs together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// May be empty where a report has one section.
    pub title: String,
    /// Before the tables.
    pub notes: Vec<Note>,
    /// In order.
    pub tables: Vec<Table>,
    /// In order; after the tables in text, before them on the page.
    pub plots: Vec<Plot>,
}

/// A sentence or two. Words between backticks are code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The reader must not trust the figures without it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub warns: bool,
    /// Plain text.
    pub text: String,
}

/// Rows and columns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// May be empty where the section's title says enough.
    pub title: String,
    /// From the left.
    pub columns: Vec<Column>,
    /// From the top; each has a cell for each column.
    pub rows: Vec<Vec<Cell>>,
}

/// The head of a column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// What the cells are.
    pub name: String,
    /// The unit of its figures, if they have the same: then the head names it and the cells do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
}

/// What stands in a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cell {
    /// A name, or words.
    Text(String),
    /// A figure.
    Figure(Figure),
    /// Several figures, each with its name: `p50 4.7, p99 14.6`.
    Figures(Vec<(String, Figure)>),
    /// Nothing was measured, for this reason; an empty one where nothing is to be measured.
    Missing(String),
}

/// A picture of figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plot {
    /// Latency by percentile.
    Percentiles(Percentiles),
    /// Medians with whiskers from least to most.
    Bars(Bars),
    /// One thing by another.
    Lines(Lines),
}

/// What share of events took at most how long; the shares stand on an axis of nines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// What was measured.
    pub title: String,
    /// The unit of the values.
    pub unit: Unit,
    /// One for each who took part.
    pub curves: Vec<Curve>,
}

/// A curve by percentile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Whose.
    pub name: String,
    /// The share of events between 0 and 1, ascending, and the most that these took.
    pub points: Vec<(f64, f64)>,
}

/// Bars in groups; names that return in several groups have the same colour.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bars {
    /// What was measured.
    pub title: String,
    /// The unit of the values.
    pub unit: Unit,
    /// From the top.
    pub groups: Vec<Group>,
}

/// Bars that are to be compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// What they have in common; may be empty where there is one group.
    pub name: String,
    /// From the top. Where a figure has a goal, its bar has a mark there.
    pub bars: Vec<Bar>,
}

/// One bar.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    /// Whose.
    pub name: String,
    /// In the unit of the plot.
    pub figure: Figure,
}

/// Lines over two axes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lines {
    /// What was measured.
    pub title: String,
    /// From the left.
    pub x: Axis,
    /// From below.
    pub y: Axis,
    /// One for each who took part.
    pub lines: Vec<Line>,
}

/// An axis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Axis {
    /// What it counts.
    pub name: String,
    /// In this unit.
    pub unit: Unit,
    /// Powers of ten at equal distances; for values above 0.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub logarithmic: bool,
}

/// A line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Whose.
    pub name: String,
    /// Ascending.
    pub points: Vec<(f64, f64)>,
}

impl Report {
    /// An empty one of this command line, on this machine, at this moment.
    #[must_use]
    pub fn new(name: &str, title: &str) -> Self {
        let machine = Machine::here();
        let debug = cfg!(debug_assertions).then(|| DEBUG.to_owned());
        Self {
            form: FORM,
            name: name.to_owned(),
            title: title.to_owned(),
            at: format!("{:.0}", jiff::Timestamp::now()),
            command: command_line(std::env::args()),
            notes: debug.into_iter().chain(machine.is_busy()).map(Note::warning).collect(),
            machine,
            versions: BTreeMap::from([("sluicegate-bench".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
            sections: Vec::new(),
        }
    }

    /// Whether what was read can be shown.
    ///
    /// # Errors
    /// Where it is of another form, or a row has not as many cells as there are columns.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.form != FORM {
            anyhow::bail!("form {} is not {FORM}, which this bench reads: measure again", self.form);
        }
        for table in self.sections.iter().flat_map(|section| &section.tables) {
            if table.rows.iter().any(|row| row.len() != table.columns.len()) {
                anyhow::bail!("{}: table {:?} has rows of other lengths than its head", self.name, table.title);
            }
        }
        Ok(())
    }
}

impl Section {
    /// An empty one.
    #[must_use]
    pub fn new(title: &str) -> Self {
        Self { title: title.to_owned(), ..Self::default() }
    }
}

impl Note {
    /// Something to know.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self { warns: false, text: text.into() }
    }

    /// Something without which the figures would mislead.
    #[must_use]
    pub fn warning(text: impl Into<String>) -> Self {
        Self { warns: true, text: text.into() }
    }
}

impl Table {
    /// Without rows.
    #[must_use]
    pub fn new(title: &str, columns: Vec<Column>) -> Self {
        Self { title: title.to_owned(), columns, rows: Vec::new() }
    }

    /// One more row. Cells that are missing at its end say nothing; what is too much is left out.
    pub fn row(&mut self, mut cells: Vec<Cell>) {
        cells.resize(self.columns.len(), Cell::Missing(String::new()));
        self.rows.push(cells);
    }
}

impl Column {
    /// Of words, or of figures with different units.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), unit: None }
    }

    /// Of figures with this unit.
    #[must_use]
    pub fn of(name: &str, unit: Unit) -> Self {
        Self { name: name.to_owned(), unit: Some(unit) }
    }
}

impl Cell {
    /// A figure, or why there is none.
    #[must_use]
    pub fn or_missing(figure: Option<Figure>, why: &str) -> Self {
        figure.map_or_else(|| Self::Missing(why.to_owned()), Self::Figure)
    }
}

impl From<Figure> for Cell {
    fn from(figure: Figure) -> Self {
        Self::Figure(figure)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// The program by its name alone, arguments as a shell takes them.
fn command_line(mut arguments: impl Iterator<Item = String>) -> String {
    let program = arguments.next().unwrap_or_default();
    let name = program.rsplit('/').next().unwrap_or_default().to_owned();
    let plain =
        |text: &str| !text.is_empty() && text.chars().all(|sign| sign.is_alphanumeric() || "-_=./:,+@%".contains(sign));
    let quoted = arguments.map(|text| if plain(&text) { text } else { format!("'{}'", text.replace('\'', r"'\''")) });
    std::iter::once(name).chain(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_can_be_repeated() {
        let line = |words: &[&str]| command_line(words.iter().map(|word| (*word).to_owned()));
        assert_eq!(
            line(&["target/release/sluicegate-bench", "packet", "--rounds=5"]),
            "sluicegate-bench packet --rounds=5"
        );
        assert_eq!(line(&["bench", "a b", "it's", ""]), r"bench 'a b' 'it'\''s' ''");
    }

    #[test]
    fn every_row_has_a_cell_for_each_column() {
        let mut table = Table::new("", vec![Column::new("a"), Column::new("b")]);
        table.row(vec!["1".into()]);
        table.row(vec!["1".into(), "2".into(), "3".into()]);
        assert_eq!(table.rows.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
    }
}
