//! `report`: several runs on one page.

use super::{files, markdown};
use clap::Args;
use std::path::PathBuf;

/// Which reports, and where to.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Folders that were given to --report, in the order in which they are to be shown
    #[arg(value_name = "DIR", required = true)]
    folders: Vec<PathBuf>,
    /// Write report.json and index.html of all of them into this folder; without it they are printed as Markdown
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
}

/// Reads them all, and prints or writes them.
///
/// # Errors
/// Where one cannot be read, or the page cannot be written.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut reports = Vec::new();
    for folder in &arguments.folders {
        reports.extend(files::read_reports(folder)?);
    }
    match &arguments.report {
        Some(folder) => {
            files::write_report(folder, &reports)?;
            eprintln!("{} reports: {}", reports.len(), folder.join("index.html").display());
        }
        None => {
            let each = reports.iter().map(|report| format!("## {}\n\n{}", report.title, markdown::compact(report)));
            print!("{}", each.collect::<Vec<_>>().join("\n"));
        }
    }
    Ok(())
}
