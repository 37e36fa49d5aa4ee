//! What telemetry adds to a request: the same requests with more and more of it on, through the real proxy. It knows the
//! goals, and no result.

use crate::bounds::thousands;
use crate::proxied::{self, Cost, Part};
use clap::Args;
use std::fmt::Write as _;

/// What to count.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Requests of the shorter one of two runs; the longer one has three times as many
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    requests: u32,
}

/// A row: what is on, what it is compared with, and how much more it may take, in per cent.
struct Row {
    says: &'static str,
    part: Part,
    beside: Option<(usize, Option<f64>)>,
}

const fn row(says: &'static str, part: Part, beside: Option<(usize, Option<f64>)>) -> Row {
    Row { says, part, beside }
}

const ROWS: &[Row] = &[
    row("forwarding alone", Part::Nothing, None),
    row("and trace context is carried through", Part::Propagation, Some((0, Some(2.0)))),
    row("and each request is told when it is over, to nobody", Part::Telling, Some((1, None))),
    row("and metrics of routes", Part::Metrics, Some((2, Some(2.0)))),
    row("and live taps that nobody watches: the default", Part::Taps, Some((3, None))),
    row("the default and the access log, JSON into a file", Part::LogJson, Some((4, Some(5.0)))),
    row("the default and the access log, the line of ingress-nginx", Part::LogNginx, Some((4, Some(5.0)))),
    row("the default and spans of 1 % of traces", Part::SpansOfSome, Some((4, Some(3.0)))),
    row("the default and spans of all traces", Part::SpansOfAll, Some((4, Some(15.0)))),
];

/// Counts and prints a table of Markdown.
///
/// # Errors
/// Where a run fails or callgrind is missing.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut costs = Vec::new();
    for row in ROWS {
        eprintln!("{}", row.says);
        costs.push(proxied::measure(row.part, arguments.requests, 3 * arguments.requests)?);
    }
    print!("{}", table(&costs));
    Ok(())
}

fn table(costs: &[Cost]) -> String {
    let mut text =
        String::from("| | worker | other threads | more than | by | goal |\n| --- | --- | --- | --- | --- | --- |\n");
    for (row, cost) in ROWS.iter().zip(costs) {
        let whole = |number: f64| thousands(number.max(0.0).round() as u64);
        let (beside, by, goal) = match row.beside.and_then(|(index, goal)| Some((index, costs.get(index)?, goal))) {
            None => ("-".to_owned(), "-".to_owned(), "-".to_owned()),
            Some((index, other, goal)) => {
                let more = cost.total() - other.total();
                let part = more / other.total() * 100.0;
                let goal = goal.map_or_else(
                    || "-".to_owned(),
                    |goal| format!("≤ {goal} %: {}", if part <= goal { "reached" } else { "**missed**" }),
                );
                (format!("row {}", index + 1), format!("{more:+.0} ({part:+.1} %)"), goal)
            }
        };
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {beside} | {by} | {goal} |",
            row.says,
            whole(cost.worker),
            whole(cost.others)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_compared_with_one_before_it() {
        for (place, row) in ROWS.iter().enumerate() {
            assert!(row.beside.is_none_or(|(other, _)| other < place), "{}", row.says);
        }
    }

    #[test]
    fn goals_are_judged_by_all_threads() {
        let cost = |worker, others| Cost { worker, others };
        let costs =
            [(30_000.0, 0.0), (30_500.0, 50.0), (30_550.0, 0.0), (31_500.0, 0.0)].map(|(own, rest)| cost(own, rest));
        let table = table(&costs);
        assert!(table.contains("| 30,500 | 50 | row 1 | +550 (+1.8 %) | ≤ 2 %: reached |"), "{table}");
        assert!(table.contains("| row 2 | +0 (+0.0 %) | - |"), "{table}");
        assert!(table.contains("| row 3 | +950 (+3.1 %) | ≤ 2 %: **missed** |"), "{table}");
    }
}
