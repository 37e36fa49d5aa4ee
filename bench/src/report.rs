//! What every measurement says at its end, in one form: a [`Report`] of sections with tables and plots.
//!
//! Measuring code fills the model and hands it to [`Output::deliver`]; how it looks as Markdown, JSON and on the page is
//! decided here alone. Nothing here measures, and nothing here knows a result in advance.

mod escape;
mod figure;
mod files;
mod machine;
mod markdown;
mod merge;
mod model;
mod page;
mod plot;

pub use figure::{Figure, Unit};
pub use machine::Machine;
pub use merge::{Arguments, run};
pub use model::{
    Axis, Bar, Bars, Cell, Column, Curve, Group, Line, Lines, Note, Percentiles, Plot, Report, Section, Table,
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::path::PathBuf;

/// Where tables of measurements stand in this repository.
const RESULTS: &str = "bench/RESULTS.md";

/// How a report is given out; flattened into the arguments of whatever measures.
#[derive(Clone, Debug, Default, Args)]
pub struct Output {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Also write report.json and a page with plots, index.html, into this folder
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Also replace the tables between this measurement's markers in a Markdown file (bench/RESULTS.md without =FILE)
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = RESULTS)]
    write: Option<PathBuf>,
}

/// What is printed on standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Tables in Markdown.
    #[default]
    Table,
    /// One JSON document: the figures of each measurement in a form of its own.
    Json,
}

impl Output {
    /// Says before anything is measured what would be wrong afterwards: a folder that cannot be made, a file without
    /// markers.
    ///
    /// # Errors
    /// As said.
    pub fn check(&self, name: &str) -> anyhow::Result<()> {
        if let Some(folder) = &self.report {
            std::fs::create_dir_all(folder).with_context(|| format!("--report {}", folder.display()))?;
        }
        if let Some(file) = &self.write {
            files::replaced(file, name, "").context("--write")?;
        }
        Ok(())
    }

    /// Prints the report, or `figures` where JSON is asked for, and writes what is to be written.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn deliver(&self, report: &Report, figures: &impl Serialize) -> anyhow::Result<()> {
        match self.output {
            Format::Table => print!("{}", markdown::aligned(report)),
            Format::Json => println!("{}", serde_json::to_string_pretty(figures)?),
        }
        if let Some(folder) = &self.report {
            files::write_report(folder, std::slice::from_ref(report)).context("--report")?;
        }
        if let Some(file) = &self.write {
            let whole = files::replaced(file, &report.name, &markdown::compact(report)).context("--write")?;
            files::write_whole(file, &whole).context("--write")?;
        }
        Ok(())
    }
}
