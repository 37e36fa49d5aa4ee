//! A report as Markdown.

use super::figure::{Figure, Unit, Verdict};
use super::model::{Cell, Column, Note, Report, Section, Table};
use std::fmt::Write as _;

/// For a file: no spaces that a change of one figure would move.
pub fn compact(report: &Report) -> String {
    document(report, false)
}

/// For a terminal: columns are aligned.
pub fn aligned(report: &Report) -> String {
    document(report, true)
}

fn document(report: &Report, aligned: bool) -> String {
    let versions: Vec<String> = report.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let mut blocks = vec![format!("{}. {}. `{}`", report.at, report.machine, report.command), versions.join(", ")];
    blocks.extend(report.notes.iter().map(note));
    for part in &report.sections {
        section(part, aligned, &mut blocks);
    }
    blocks.retain(|block| !block.is_empty());
    let mut text = blocks.join("\n\n");
    text.push('\n');
    text
}

fn section(section: &Section, aligned: bool, blocks: &mut Vec<String>) {
    if section.notes.is_empty() && section.tables.is_empty() {
        // Plots alone are for the page.
        return;
    }
    if !section.title.is_empty() {
        blocks.push(format!("**{}**", section.title));
    }
    blocks.extend(section.notes.iter().map(note));
    for one in &section.tables {
        if !one.title.is_empty() {
            blocks.push(format!("{}:", one.title));
        }
        blocks.push(table(one, aligned));
    }
}

fn note(note: &Note) -> String {
    if note.warns { format!("**Warning:** {}", note.text) } else { note.text.clone() }
}

fn table(table: &Table, aligned: bool) -> String {
    let head: Vec<String> = table.columns.iter().map(column).collect();
    let mut rows = vec![head];
    for row in &table.rows {
        rows.push(table.columns.iter().zip(row).map(|(column, one)| escaped(&cell(one, column.unit))).collect());
    }
    let widths: Vec<usize> = (0..table.columns.len())
        .map(|at| if aligned { rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0).max(3) } else { 0 })
        .collect();
    let to_right: Vec<bool> =
        (0..table.columns.len()).map(|at| table.rows.iter().any(|row| matches!(row[at], Cell::Figure(_)))).collect();
    let mut lines = Vec::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).zip(&to_right).map(|((text, width), to_right)| {
            if *to_right { format!("{text:>width$}") } else { format!("{text:<width$}") }
        });
        lines.push(format!("| {} |", cells.collect::<Vec<_>>().join(" | ")));
    }
    let rule = widths.iter().zip(&to_right).map(|(width, to_right)| {
        let dashes = "-".repeat(width.saturating_sub(1).max(2));
        if *to_right { format!("{dashes}:") } else { format!("{dashes}-") }
    });
    lines.insert(1, format!("| {} |", rule.collect::<Vec<_>>().join(" | ")));
    lines.join("\n")
}

/// The head of a column with its unit.
fn column(column: &Column) -> String {
    let sign = column.unit.map_or("", Unit::sign);
    match (column.name.is_empty(), sign.is_empty() || column.unit == Some(Unit::Share)) {
        (_, true) => escaped(&column.name),
        (true, false) => sign.to_owned(),
        (false, false) => escaped(&format!("{}, {sign}", column.name)),
    }
}

/// What stands in a cell, in a column of that unit.
pub fn cell(cell: &Cell, of_column: Option<Unit>) -> String {
    match cell {
        Cell::Text(text) => text.clone(),
        Cell::Missing(why) if why.is_empty() => "-".to_owned(),
        Cell::Missing(why) => format!("- ({why})"),
        Cell::Figure(one) => figure(one, of_column),
        Cell::Figures(several) => {
            let each = several.iter().map(|(name, one)| format!("{name} {}", figure(one, of_column)));
            each.collect::<Vec<_>>().join(", ")
        }
    }
}

/// `14.3 (11.8 to 14.4)`, with the product's share of it and whether it is where it should be.
fn figure(figure: &Figure, of_column: Option<Unit>) -> String {
    let said = of_column == Some(figure.unit);
    let mut text = if said { figure.unit.number(figure.median) } else { figure.unit.text(figure.median) };
    if let (Some(least), Some(most)) = (figure.least, figure.most) {
        // Writing to a String does not fail.
        let _ok = write!(text, " ({} to {})", figure.unit.number(least), figure.unit.number(most));
    }
    if let Some(ratio) = figure.ratio {
        let _ok = write!(text, " [{}]", Unit::Ratio.number(ratio));
    }
    if let (Some(goal), Some(verdict)) = (&figure.goal, figure.verdict()) {
        let said = match verdict {
            Verdict::Reached => verdict.text(),
            Verdict::Missed(_) => format!("**{}**", verdict.text()),
        };
        let _ok = write!(text, ", {said} ({})", goal.text(figure.unit));
    }
    text
}

/// What would end a cell or a line does not.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
