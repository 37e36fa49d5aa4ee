//! What `http` shows: a line while it loads, the report behind it, and the file for HdrHistogram's plotter.

use super::outcome::{Latency, Outcome};
use super::progress::{Progress, Second};
use crate::report::{Cell, Column, Curve, Figure, Note, Percentiles, Plot, Report, Section, Table, Unit};
use anyhow::Context as _;
use hdrhistogram::Histogram;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

/// A line of standard error that is written over each second, where that is a terminal.
#[derive(Debug)]
pub struct Live {
    shown: bool,
    colours: bool,
}

impl Live {
    /// Looks at what standard error is, and at NO_COLOR.
    pub fn new() -> Self {
        let shown = std::io::stderr().is_terminal();
        let colours = shown && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { shown, colours }
    }

    fn line(&self, text: &str) {
        if self.shown {
            // A terminal that is gone wants no progress.
            let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
        }
    }
}

impl Progress for Live {
    fn second(&self, second: &Second) {
        let errors = match second.failed {
            0 => "0 failed".to_owned(),
            failed if self.colours => format!("\x1b[31m{failed} failed\x1b[0m"),
            failed => format!("{failed} failed"),
        };
        let phase = if second.warming_up { "  warming up" } else { "" };
        let p99 = Unit::Microseconds.text(second.p99_us as f64);
        self.line(&format!(
            "{:>4.0} s  {} answers/s  {errors}  p99 {p99}{phase}",
            second.elapsed.as_secs_f64(),
            second.answered
        ));
    }

    fn ends(&self) {
        self.line("");
    }
}

/// The outcome as a report.
pub fn report(outcome: &Outcome) -> Report {
    let mut report = Report::new(super::NAME, "Load of one server");
    let mut section = Section::new(&format!("{} at {}", outcome.protocol, outcome.url));
    section.notes.push(Note::new(setting(outcome)));
    section.notes.extend(warnings(outcome).into_iter().map(Note::warning));
    section.tables.push(counts(outcome));
    section.tables.push(latencies(outcome));
    if !outcome.errors.is_empty() || !outcome.statuses.is_empty() {
        section.tables.push(kinds(outcome));
    }
    section.tables.push(generator(outcome));
    if outcome.latency.count > 0 {
        let points = outcome.latency.curve.iter().map(|(percent, micros)| (percent / 100.0, *micros as f64));
        section.plots.push(Plot::Percentiles(Percentiles {
            title: "Latency by percentile".to_owned(),
            unit: Unit::Microseconds,
            curves: vec![Curve { name: outcome.protocol.clone(), points: points.collect() }],
        }));
    }
    report.sections.push(section);
    report
}

/// How it was loaded, in a sentence.
fn setting(outcome: &Outcome) -> String {
    let mut text = match outcome.asked_per_second {
        Some(rate) => format!("Open loop, {rate} {}s a second asked for", outcome.unit),
        None => "Closed loop".to_owned(),
    };
    let _ = write!(text, ", {} connections", outcome.connections);
    if outcome.streams > 1 {
        let _ = write!(text, " of {} streams", outcome.streams);
    }
    let _ = write!(text, " to {}", outcome.address);
    if outcome.targets > 1 {
        let _ = write!(text, ", {} targets", outcome.targets);
    }
    if outcome.tls {
        text.push_str(", TLS 1.3");
    }
    text.push('.');
    text
}

/// What makes the figures say less than they seem to.
fn warnings(outcome: &Outcome) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(ceiling) = &outcome.ceiling
        && ceiling.may_limit
    {
        warnings.push(format!(
            "The generator, not the server, may be the limit: this is {} of what its threads can do. Give it more of them.",
            Unit::Share.text(ceiling.reached)
        ));
    }
    if let Some(asked) = outcome.asked_per_second
        && outcome.per_second < asked * 0.98
    {
        warnings.push(format!(
            "{:.0} of the {asked:.0} {}s a second that were asked for were answered.",
            outcome.per_second, outcome.unit
        ));
    }
    if outcome.refused() > 0 {
        warnings.push(format!(
            "{} answers have statuses of errors; their latencies count like those of others.",
            outcome.refused()
        ));
    }
    warnings
}

fn counts(outcome: &Outcome) -> Table {
    let columns = vec![
        Column::of(&format!("{}s", outcome.unit), Unit::Count),
        Column::of("answered", Unit::Count),
        Column::of("failed", Unit::Count),
        Column::of("time", Unit::Seconds),
        Column::of("answers", Unit::PerSecond),
        Column::of("sent", Unit::Megabytes),
        Column::of("received", Unit::Megabytes),
        Column::of("bodies", Unit::Megabytes),
    ];
    let mut table = Table::new("", columns);
    let megabytes = |bytes: u64| Cell::Figure(Figure::exact(Unit::Megabytes, bytes as f64 / 1e6));
    table.row(vec![
        Cell::Figure(Figure::count(outcome.begun)),
        Cell::Figure(Figure::count(outcome.answered)),
        Cell::Figure(Figure::count(outcome.failed)),
        Cell::Figure(Figure::exact(Unit::Seconds, outcome.seconds)),
        Cell::Figure(Figure::exact(Unit::PerSecond, outcome.per_second)),
        megabytes(outcome.bytes_sent),
        megabytes(outcome.bytes_received),
        megabytes(outcome.body_bytes),
    ]);
    table
}

fn latencies(outcome: &Outcome) -> Table {
    let names = ["mean", "p50", "p90", "p99", "p99.9", "max"];
    let columns = std::iter::once(Column::new("")).chain(names.iter().map(|name| Column::of(name, Unit::Microseconds)));
    let mut table = Table::new("", columns.collect());
    let mut row = |name: &str, latency: &Latency| {
        let mut cells = vec![Cell::Text(name.to_owned())];
        if latency.count > 0 {
            let figures = [
                latency.mean_us,
                latency.p50_us as f64,
                latency.p90_us as f64,
                latency.p99_us as f64,
                latency.p999_us as f64,
                latency.max_us as f64,
            ];
            cells.extend(figures.map(|micros| Cell::Figure(Figure::exact(Unit::Microseconds, micros))));
        }
        table.row(cells);
    };
    row("latency from the intended start", &outcome.latency);
    if outcome.asked_per_second.is_some() {
        row("begun later than intended", &outcome.lateness);
    }
    table
}

fn kinds(outcome: &Outcome) -> Table {
    let mut table = Table::new("", vec![Column::new("answer or error"), Column::of("count", Unit::Count)]);
    let statuses = outcome.statuses.iter().map(|(status, count)| (format!("status {status}"), *count));
    let errors = outcome.errors.iter().map(|(kind, count)| (kind.clone(), *count));
    for (name, count) in statuses.chain(errors) {
        table.row(vec![Cell::Text(name), Cell::Figure(Figure::count(count))]);
    }
    table
}

fn generator(outcome: &Outcome) -> Table {
    let columns = vec![
        Column::new("the generator itself"),
        Column::of("threads", Unit::Count),
        Column::of("CPU an answer", Unit::Microseconds),
        Column::of("busiest thread", Unit::Share),
        Column::of("answers", Unit::PerSecond),
        Column::of("reached", Unit::Share),
    ];
    let mut table = Table::new("", columns);
    let own = &outcome.generator;
    table.row(vec![
        Cell::Text("in this run".to_owned()),
        Cell::Figure(Figure::count(own.threads as u64)),
        Cell::Figure(Figure::exact(Unit::Microseconds, own.cpu_us_per_answer)),
        Cell::Figure(Figure::exact(Unit::Share, own.busiest)),
        Cell::Figure(Figure::exact(Unit::PerSecond, outcome.per_second)),
    ]);
    if let Some(ceiling) = &outcome.ceiling {
        table.row(vec![
            Cell::Text("ceiling: a CPU for each thread, canned answers".to_owned()),
            Cell::Figure(Figure::count(own.threads as u64)),
            Cell::Figure(Figure::exact(Unit::Microseconds, ceiling.cpu_us_per_answer)),
            Cell::Missing(String::new()),
            Cell::Figure(Figure::exact(Unit::PerSecond, ceiling.per_second)),
            Cell::Figure(Figure::exact(Unit::Share, ceiling.reached)),
        ]);
    }
    table
}

/// Writes the percentile distribution of HdrHistogram, in ms: <https://hdrhistogram.github.io/HdrHistogram/plotFiles.html>.
///
/// # Errors
/// Where the file cannot be written.
pub fn write_hdr(file: &Path, histogram: &Histogram<u64>) -> anyhow::Result<()> {
    std::fs::write(file, distribution(histogram)).with_context(|| format!("--hdr {}", file.display()))
}

fn distribution(histogram: &Histogram<u64>) -> String {
    let mut text = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    for step in histogram.iter_quantiles(5) {
        let (quantile, value) = (step.quantile_iterated_to(), step.value_iterated_to().min(histogram.max()));
        let count = histogram.count_between(0, step.value_iterated_to());
        let _ = write!(text, "{:>12.3} {quantile:>14.12} {count:>10}", value as f64 / 1e3);
        let _ = if quantile < 1.0 { writeln!(text, " {:>14.2}", 1.0 / (1.0 - quantile)) } else { writeln!(text) };
    }
    let _ = writeln!(
        text,
        "#[Mean    = {:>12.3}, StdDeviation   = {:>12.3}]",
        histogram.mean() / 1e3,
        histogram.stdev() / 1e3
    );
    let _ =
        writeln!(text, "#[Max     = {:>12.3}, Total count    = {:>12}]", histogram.max() as f64 / 1e3, histogram.len());
    let buckets = (64 - (histogram.high() / 2048).leading_zeros()) + 1;
    let _ = writeln!(text, "#[Buckets = {buckets:>12}, SubBuckets     = {:>12}]", 2048);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tally;

    #[test]
    fn the_distribution_is_what_the_plotter_reads() {
        let mut histogram = tally::histogram();
        (1..=1000).for_each(|value| histogram.saturating_record(value * 1000));
        let text = distribution(&histogram);
        let rows: Vec<Vec<&str>> = text
            .lines()
            .skip(2)
            .take_while(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert!(text.starts_with("       Value     Percentile TotalCount 1/(1-Percentile)\n\n"), "{text}");
        let median = rows.iter().find(|row| row[1] == "0.500000000000").expect("a median");
        assert!((499.0..502.0).contains(&median[0].parse::<f64>().expect("ms")), "{median:?}");
        assert_eq!((median[2].parse::<u64>().expect("a count") + 5) / 10, 50, "{median:?}");
        let last = rows.last().expect("rows");
        assert_eq!((last[1], last[2], last.len()), ("1.000000000000", "1000", 3));
    }
}
