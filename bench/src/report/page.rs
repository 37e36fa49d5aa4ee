//! Reports as one page that needs nothing else: styles and plots stand in it, and nothing is asked of any network.
//!
//! Every value of a report is on it, as read by people and, in `data` elements, as it was measured.

use super::escape::Escaped;
use super::figure::{Figure, Unit, Verdict};
use super::model::{Cell, Column, Note, Plot, Report, Section, Table};
use super::plot;
use std::fmt::Write as _;

const STYLE: &str = include_str!("page.css");

/// The page of these reports, in their order.
pub fn page(reports: &[Report]) -> String {
    let title = match reports {
        [one] => format!("{} – Sluicegate bench", one.title),
        _ => "Sluicegate bench".to_owned(),
    };
    let mut page = Page { text: String::new(), plots: 0 };
    page.add(&format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n<meta name=\"viewport\" content=\"width=device-width, \
         initial-scale=1\"/>\n<meta name=\"color-scheme\" content=\"light dark\"/>\n<title>{}</title>\n<style>\n{STYLE}</style>\n\
         </head>\n<body>\n<header>\n",
        Escaped(&title)
    ));
    page.add("<h1>Sluicegate bench</h1>\n<p class=\"lead\">Figures of one machine in one run. Ratios between those who took part in it \
              say more than the figures themselves.</p>\n");
    if reports.len() > 1 {
        page.contents(reports);
    }
    page.add("</header>\n<main>\n");
    for (at, report) in reports.iter().enumerate() {
        page.report(at, report);
    }
    page.add("</main>\n</body>\n</html>\n");
    page.text
}

struct Page {
    text: String,
    plots: usize,
}

impl Page {
    fn add(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn contents(&mut self, reports: &[Report]) {
        self.add("<nav aria-label=\"Measurements\"><ul>\n");
        for (at, report) in reports.iter().enumerate() {
            self.add(&format!("<li><a href=\"#run-{at}\">{}</a></li>\n", Escaped(&report.title)));
        }
        self.add("</ul></nav>\n");
    }

    fn report(&mut self, at: usize, report: &Report) {
        self.add(&format!("<article id=\"run-{at}\">\n<h2>{}</h2>\n<dl>\n", Escaped(&report.title)));
        let versions: Vec<String> = report.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let facts = [
            ("measured", report.at.clone()),
            ("machine", report.machine.to_string()),
            ("versions", versions.join(", ")),
        ];
        for (name, fact) in facts {
            self.add(&format!("<dt>{name}</dt><dd>{}</dd>\n", Escaped(&fact)));
        }
        self.add(&format!("<dt>command</dt><dd><code>{}</code></dd>\n</dl>\n", Escaped(&report.command)));
        report.notes.iter().for_each(|note| self.note(note));
        report.sections.iter().for_each(|section| self.section(section));
        self.add("</article>\n");
    }

    fn section(&mut self, section: &Section) {
        self.add("<section>\n");
        if !section.title.is_empty() {
            self.add(&format!("<h3>{}</h3>\n", Escaped(&section.title)));
        }
        section.notes.iter().for_each(|note| self.note(note));
        if !section.plots.is_empty() {
            self.add("<div class=\"plots\">\n");
            section.plots.iter().for_each(|plot| self.plot(plot));
            self.add("</div>\n");
        }
        section.tables.iter().for_each(|table| self.table(table));
        self.add("</section>\n");
    }

    fn note(&mut self, note: &Note) {
        let (class, lead) = if note.warns { (" class=\"warns\"", "<strong>Warning:</strong> ") } else { ("", "") };
        self.add(&format!("<p{class}>{lead}{}</p>\n", prose(&note.text)));
    }

    fn plot(&mut self, plot: &Plot) {
        self.plots += 1;
        let id = format!("plot-{}", self.plots);
        self.add(&format!("<figure>\n<figcaption>{}", Escaped(plot::title(plot))));
        if let Some(remark) = plot::remark(plot) {
            self.add(&format!(" <small>{remark}</small>"));
        }
        self.add(&format!("</figcaption>\n{}\n", plot::svg(plot, &id)));
        let legend = plot::legend(plot);
        if !legend.is_empty() {
            self.add("<ul class=\"legend\">\n");
            for (name, class) in legend {
                self.add(&format!(
                    "<li class=\"s{class}\"><svg viewBox=\"0 0 30 10\" aria-hidden=\"true\"><polyline class=\"curve\" points=\"0,5 30,5\"/>\
                     <circle class=\"point\" cx=\"15\" cy=\"5\" r=\"3\"/></svg>{}</li>\n",
                    Escaped(name)
                ));
            }
            self.add("</ul>\n");
        }
        self.add("<details><summary>Values of this plot</summary>\n");
        self.table(&values(plot));
        self.add("</details>\n</figure>\n");
    }

    fn table(&mut self, table: &Table) {
        let to_right: Vec<bool> = (0..table.columns.len())
            .map(|at| table.rows.iter().any(|row| matches!(row[at], Cell::Figure(_))))
            .collect();
        let class = |at: usize| if to_right[at] { " class=\"number\"" } else { "" };
        // It scrolls by itself on small screens, and then by the keyboard too.
        self.add("<div class=\"scroll\" tabindex=\"0\"><table>\n");
        if !table.title.is_empty() {
            self.add(&format!("<caption>{}</caption>\n", Escaped(&table.title)));
        }
        self.add("<thead><tr>");
        for (at, column) in table.columns.iter().enumerate() {
            self.add(&format!("<th scope=\"col\"{}>{}</th>", class(at), head(column)));
        }
        self.add("</tr></thead>\n<tbody>\n");
        for row in &table.rows {
            self.add("<tr>");
            for (at, (one, column)) in row.iter().zip(&table.columns).enumerate() {
                let text = cell(one, column.unit);
                let names_row = at == 0 && matches!(one, Cell::Text(_));
                let (open, close) = if names_row { ("th scope=\"row\"", "th") } else { ("td", "td") };
                self.add(&format!("<{open}{}>{text}</{close}>", class(at)));
            }
            self.add("</tr>\n");
        }
        self.add("</tbody>\n</table></div>\n");
    }
}

/// A plot's values as a table: what can be seen in it can be read.
fn values(plot: &Plot) -> Table {
    match plot {
        Plot::Bars(bars) => {
            let grouped = bars.groups.iter().any(|group| !group.name.is_empty());
            let mut columns = if grouped { vec![Column::new("")] } else { Vec::new() };
            columns.extend([Column::new("who"), Column::of("", bars.unit)]);
            let mut table = Table::new("", columns);
            for group in &bars.groups {
                for bar in &group.bars {
                    let mut row: Vec<Cell> = if grouped { vec![group.name.as_str().into()] } else { Vec::new() };
                    row.extend([bar.name.as_str().into(), bar.figure.clone().into()]);
                    table.row(row);
                }
            }
            table
        }
        Plot::Percentiles(plot) => {
            let curves = plot.curves.iter().map(|curve| (curve.name.as_str(), curve.points.as_slice()));
            by_point(("share of events", Unit::Share), plot.unit, &curves.collect::<Vec<_>>())
        }
        Plot::Lines(plot) => {
            let lines = plot.lines.iter().map(|line| (line.name.as_str(), line.points.as_slice()));
            by_point((&plot.x.name, plot.x.unit), plot.y.unit, &lines.collect::<Vec<_>>())
        }
    }
}

/// A row for each place on the horizontal axis, a column for each series.
fn by_point((name, of): (&str, Unit), unit: Unit, series: &[(&str, &[(f64, f64)])]) -> Table {
    let mut places: Vec<f64> = series.iter().flat_map(|(_, points)| points.iter().map(|(x, _)| *x)).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    let mut columns = vec![Column::of(name, of)];
    columns.extend(series.iter().map(|(name, _)| Column::of(name, unit)));
    let mut table = Table::new("", columns);
    for place in places {
        let mut row: Vec<Cell> = vec![Figure::exact(of, place).into()];
        row.extend(series.iter().map(|(_, points)| {
            let found = points.iter().find(|(x, _)| *x == place);
            Cell::or_missing(found.map(|(_, y)| Figure::exact(unit, *y)), "")
        }));
        table.row(row);
    }
    table
}

fn head(column: &Column) -> String {
    let name = Escaped(&column.name);
    match column.unit.map(Unit::sign).filter(|sign| !sign.is_empty() && column.unit != Some(Unit::Share)) {
        None => name.to_string(),
        Some(sign) if column.name.is_empty() => sign.to_owned(),
        Some(sign) => format!("{name}, <small>{sign}</small>"),
    }
}

fn cell(cell: &Cell, of_column: Option<Unit>) -> String {
    match cell {
        Cell::Text(text) => prose(text),
        Cell::Missing(why) if why.is_empty() => "<span class=\"missing\">–</span>".to_owned(),
        Cell::Missing(why) => format!("<span class=\"missing\">{}</span>", Escaped(why)),
        Cell::Figure(one) => figure(one, of_column),
        Cell::Figures(several) => {
            let each = several.iter().map(|(name, one)| format!("{} {}", Escaped(name), figure(one, of_column)));
            each.collect::<Vec<_>>().join(", ")
        }
    }
}

fn figure(figure: &Figure, of_column: Option<Unit>) -> String {
    let unit = figure.unit;
    let said = of_column == Some(unit);
    let shown = if said { unit.number(figure.median) } else { unit.text(figure.median) };
    let mut text = data(figure.median, &shown);
    if let (Some(least), Some(most)) = (figure.least, figure.most) {
        // Writing to a String does not fail.
        let _ok = write!(
            text,
            " <span class=\"spread\">({} to {})</span>",
            data(least, &unit.number(least)),
            data(most, &unit.number(most))
        );
    }
    if let Some(ratio) = figure.ratio {
        let _ok = write!(text, " <span class=\"spread\">[{}]</span>", data(ratio, &Unit::Ratio.number(ratio)));
    }
    if let (Some(goal), Some(verdict)) = (&figure.goal, figure.verdict()) {
        let class = if verdict == Verdict::Reached { "reached" } else { "missed" };
        let limit = data(goal.limit, &goal.text(unit));
        let _ok = write!(text, " <span class=\"verdict {class}\">{} ({limit})</span>", Escaped(&verdict.text()));
    }
    text
}

/// A value as it was measured beside how it is read.
fn data(value: f64, shown: &str) -> String {
    let exact = serde_json::to_string(&value).unwrap_or_default();
    format!("<data value=\"{exact}\">{}</data>", Escaped(shown))
}

/// Words between backticks are code.
fn prose(text: &str) -> String {
    let parts: Vec<&str> = text.split('`').collect();
    let paired = parts.len() % 2 == 1;
    let mut out = String::new();
    for (at, part) in parts.iter().enumerate() {
        let _ok = match (paired, at % 2) {
            (true, 1) => write!(out, "<code>{}</code>", Escaped(part)),
            (false, _) if at > 0 => write!(out, "`{}", Escaped(part)),
            _ => write!(out, "{}", Escaped(part)),
        };
    }
    out
}
