//! What the demo saw, for people and machines: what was sent, which way it went, what came back.

use crate::cli::OutputFormat;
use crate::output::Table;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Columns of a table that goes to no terminal.
const COLUMNS: usize = 118;
/// Narrower than that, cells would be unreadable; lines may then be longer than the terminal.
const FEWEST_COLUMNS: usize = 80;

/// From so many columns on, what was sent and which way it went have room beside each other.
const SIDE_BY_SIDE: usize = 110;

/// Steps that belong together.
pub struct Part {
    title: &'static str,
    rows: Vec<Row>,
}

struct Row {
    what: String,
    sent: String,
    way: String,
    back: String,
    took: Duration,
    ok: bool,
}

impl Row {
    fn took(&self) -> String {
        format!("{:.1} ms", self.took.as_secs_f64() * 1e3)
    }

    fn result(&self) -> &'static str {
        if self.ok { "ok" } else { "FAIL" }
    }
}

impl Part {
    /// Without steps at first.
    pub fn new(title: &'static str) -> Self {
        Self { title, rows: Vec::new() }
    }

    /// Adds a step that ends here, with the way and what came back, or what went wrong.
    pub fn add(
        &mut self,
        what: impl Into<String>,
        sent: String,
        start: Instant,
        result: anyhow::Result<(String, String)>,
    ) {
        self.add_timed(what, sent, start.elapsed(), result);
    }

    /// As [`add`](Self::add), for steps that are judged later than they end.
    pub fn add_timed(
        &mut self,
        what: impl Into<String>,
        sent: String,
        took: Duration,
        result: anyhow::Result<(String, String)>,
    ) {
        let (way, back, ok) = match result {
            Ok((way, back)) => (way, back, true),
            Err(error) => (String::new(), told(&error), false),
        };
        self.rows.push(Row { what: what.into(), sent, way, back, took, ok });
    }

    fn failures(&self) -> usize {
        self.rows.iter().filter(|row| !row.ok).count()
    }

    fn table(&self, columns: usize) -> String {
        if columns < SIDE_BY_SIDE { self.stacked(columns) } else { self.side_by_side(columns) }
    }

    /// Two lines a step.
    fn side_by_side(&self, columns: usize) -> String {
        let mut table = Table::new(&["WHAT", "WAY", ">TOOK", "RESULT"]);
        table.row([below("SENT"), below("CAME BACK"), String::new(), String::new()]);
        for row in &self.rows {
            table.row([&row.what as &str, &row.way, &row.took(), row.result()]);
            table.row([below(&row.sent), below(&row.back), String::new(), String::new()]);
        }
        table.render_within(columns)
    }

    /// A line for each that there is to say, where the terminal is narrow.
    fn stacked(&self, columns: usize) -> String {
        let mut table = Table::new(&["RESULT", ">TOOK", "WHAT, SENT, WAY, CAME BACK"]);
        for row in &self.rows {
            table.row([row.result(), &row.took(), &row.what]);
            for text in [&row.sent, &row.way, &row.back].into_iter().filter(|text| !text.is_empty()) {
                table.row([String::new(), String::new(), below(text)]);
            }
        }
        table.render_within(columns)
    }

    fn steps(&self) -> impl Iterator<Item = Value> {
        self.rows.iter().map(|row| {
            json!({"part": self.title, "what": row.what, "sent": row.sent, "way": row.way, "came_back": row.back,
                   "took_ms": row.took.as_secs_f64() * 1e3, "ok": row.ok})
        })
    }
}

/// A line that belongs to the one above.
fn below(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("  {text}") }
}

/// An error with its causes, without those that it tells itself.
pub fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text.as_str() {
        "" => cause,
        _ if text.ends_with(&cause) => text,
        _ => format!("{text}: {cause}"),
    })
}

/// True if all went as it should.
pub fn is_ok(parts: &[Part]) -> bool {
    parts.iter().all(|part| part.failures() == 0)
}

/// All parts, and their sum.
pub fn render(parts: &[Part], format: OutputFormat) -> String {
    if format == OutputFormat::Json {
        let steps: Vec<Value> = parts.iter().flat_map(Part::steps).collect();
        return format!("{:#}\n", json!({"ok": is_ok(parts), "steps": steps}));
    }
    let columns = crate::output::terminal_columns().map_or(COLUMNS, |columns| columns.max(FEWEST_COLUMNS));
    let tables = parts.iter().map(|part| format!("{}\n\n{}\n", part.title, part.table(columns)));
    let failed: usize = parts.iter().map(Part::failures).sum();
    let sum = if failed == 0 { "all ok".to_owned() } else { format!("{failed} FAILED") };
    let steps: usize = parts.iter().map(|part| part.rows.len()).sum();
    format!("{}{steps} steps, {sum}\n", tables.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_gets_the_same() {
        let mut part = Part::new("Part");
        let [sent, way, back] =
            ["GET /a/rather/long/path", "by this way and no other one", "came back"].map(str::to_owned);
        part.add_timed("what was tried", sent, Duration::from_millis(5), Ok((way, back)));
        for columns in [80, 120] {
            let text = part.table(columns);
            for cell in
                ["GET /a/rather/long/path", "by this way and no other one", "came back", "what was tried", "5.0 ms"]
            {
                assert!(text.contains(cell), "{cell}: {text}");
            }
            assert!(text.lines().all(|line| line.chars().count() <= columns), "{text}");
        }
    }

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow::anyhow!("refused").context("making it: refused").context("the network");
        assert_eq!(told(&error), "the network: making it: refused");
    }

    #[test]
    fn one_failure_is_a_failure() {
        let mut part = Part::new("Part");
        part.add_timed("a", "GET /".to_owned(), Duration::ZERO, Ok(("way".to_owned(), "200".to_owned())));
        assert!(is_ok(std::slice::from_ref(&part)));
        part.add_timed("b", "GET /".to_owned(), Duration::ZERO, Err(anyhow::anyhow!("no answer")));
        let parts = [part];
        assert!(!is_ok(&parts));
        let text = render(&parts, OutputFormat::Table);
        assert!(text.ends_with("2 steps, 1 FAILED\n") && text.contains("no answer"), "{text}");
        let json: Value = serde_json::from_str(&render(&parts, OutputFormat::Json)).expect("JSON");
        assert_eq!((&json["ok"], &json["steps"][1]["ok"]), (&json!(false), &json!(false)));
    }
}
