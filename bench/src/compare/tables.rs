//! What was measured, as tables and plots.

use super::Measured;
use super::idle::{COUNTS, Idle};
use super::rounds::{Judgement, Row, Sample, Spread};
use super::scenario::{Field, SCENARIOS, Scenario};
use super::turns::{FixedRate, FixedRow};
use crate::proxies::Kind;
use crate::report::{
    Bar, Bars, Cell, Column, Curve, Figure, Group, Note, Percentiles, Plot, Report, Section, Table, Unit,
};

/// KiB of an idle connection to reach: plain, and with TLS.
const IDLE_GOALS: [f64; 2] = [2.0, 8.0];
/// More CPU for 5,000 virtual hosts than for one.
const VHOST_GOAL: f64 = 0.03;
/// µs that trace context may cost.
const TRACE_GOAL: f64 = 0.3;
/// Scenarios whose costs are of one size, for plots: title and keys.
const SIZES: [(&str, &[&str]); 5] = [
    ("small answers", &["s1", "s2", "s4"]),
    // Some take hundreds of times as much for it.
    ("5,000 virtual hosts", &["s7"]),
    ("full handshakes", &["s3"]),
    ("64 KiB", &["s5"]),
    ("1 MiB", &["s6", "s6p"]),
];
/// The same of those that pass TLS on.
const PASSED_ON: [(&str, &[&str]); 2] = [("TLS passed on, 64 KiB", &["tcp"]), ("TLS passed on, 1 MiB", &["tcp1m"])];

/// Of this command, at this moment.
pub fn begun() -> Report {
    Report::new("compare", "Beside other proxies")
}

/// Puts everything into the report.
pub fn fill(report: &mut Report, measured: &Measured) {
    report.versions.extend(measured.versions.clone());
    report.notes.push(Note::new(format!(
        "{} rounds of {} s, interleaved; the proxy alone on its core, load generator and backend on another one.",
        measured.rounds, measured.seconds
    )));
    report.notes.extend(measured.notes.iter().map(|text| Note::new(format!("{text}."))));
    report.notes.extend(noise(measured));
    let names = names(measured);
    report.sections.extend(costs(measured, &names));
    report.sections.extend(passing(measured));
    report.sections.extend(tracing(measured));
    report.sections.extend(details(measured, &names));
    report.sections.extend(ceilings(measured));
    report.sections.extend(measured.fixed_rate.as_ref().map(fixed_rate));
    report.sections.extend(idle(measured));
}

/// Contestants in the order of turns.
fn names(measured: &Measured) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for row in &measured.rows {
        if !names.contains(&row.contestant) {
            names.push(row.contestant.clone());
        }
    }
    names
}

fn row_of<'a>(measured: &'a Measured, key: &str, name: &str) -> Option<&'a Row> {
    measured.rows.iter().find(|row| row.scenario == key && row.contestant == name)
}

fn own_of<'a>(measured: &'a Measured, key: &str) -> Option<&'a Row> {
    row_of(measured, key, Kind::Sluicegate.name())
}

fn asked(measured: &Measured, field: Field) -> Vec<&'static Scenario> {
    let has = |scenario: &&Scenario| measured.rows.iter().any(|row| row.scenario == scenario.key);
    SCENARIOS.iter().filter(|scenario| scenario.field == field).filter(has).collect()
}

fn costs(measured: &Measured, names: &[String]) -> Option<Section> {
    let scenarios = asked(measured, Field::Proxies);
    let runners: Vec<&String> =
        names.iter().filter(|name| Kind::NAMED.iter().any(|kind| kind.name() == **name)).collect();
    if scenarios.is_empty() {
        return None;
    }
    let mut section = Section::new("CPU of the proxy per request, median");
    section.notes.push(Note::new(
        "A handshake in s3, by X25519. In brackets: Sluicegate's as a share of that peer's; below 1 is less CPU. Closer than 10 % is a tie.",
    ));
    let mut columns = vec![Column::new("")];
    columns.extend(runners.iter().map(|name| Column::of(name, Unit::Microseconds)));
    columns.push(Column::of("against the best peer", Unit::Ratio));
    let mut table = Table::new("", columns);
    for scenario in &scenarios {
        let own = own_of(measured, scenario.key);
        let mut cells = vec![Cell::from(format!("{} {}", scenario.key, scenario.title))];
        cells.extend(runners.iter().map(|name| cost(row_of(measured, scenario.key, name), own)));
        cells.push(against_best(measured, scenario, own));
        table.row(cells);
    }
    section.tables.push(table);
    section.notes.extend(many_hosts(measured));
    section.plots = SIZES.iter().flat_map(|(title, keys)| bars(measured, title, keys)).collect();
    Some(section)
}

/// What the load generator could have done with a core to itself, beside the most that was asked of it.
fn ceilings(measured: &Measured) -> Option<Section> {
    if measured.ceilings.is_empty() {
        return None;
    }
    let mut section = Section::new("The load generator's own ceiling");
    section.notes.push(Note::new(
        "The same load against canned answers, by the generator's CPU for each; the backend takes its share of the same core.",
    ));
    let columns = vec![
        Column::new(""),
        Column::of("CPU of the generator", Unit::Microseconds),
        Column::of("at most", Unit::PerSecond),
        Column::of("fastest contestant", Unit::PerSecond),
        Column::of("of the ceiling", Unit::Share),
    ];
    let mut table = Table::new("", columns);
    for (key, ceiling) in &measured.ceilings {
        let rates = measured.rows.iter().filter(|row| row.scenario == *key);
        let fastest = rates.filter_map(|row| row.median(|sample| sample.per_second)).reduce(f64::max);
        let Some(fastest) = fastest else { continue };
        table.row(vec![
            key.as_str().into(),
            Figure::exact(Unit::Microseconds, ceiling.cpu_us_per_answer).into(),
            Figure::exact(Unit::PerSecond, ceiling.per_second).into(),
            Figure::exact(Unit::PerSecond, fastest).into(),
            Figure::exact(Unit::Share, fastest / ceiling.per_second.max(1e-9)).into(),
        ]);
    }
    section.tables.push(table);
    Some(section)
}

fn cost(row: Option<&Row>, own: Option<&Row>) -> Cell {
    let Some(spread) = row.and_then(Row::cost) else { return Cell::Missing(String::new()) };
    let figure = Figure::exact(Unit::Microseconds, spread.median);
    match (row.is_some_and(|row| row.own), own.and_then(Row::cost)) {
        (false, Some(own)) => figure.with_ratio(own.median / spread.median).into(),
        _ => figure.into(),
    }
}

/// The ratio, and whether the goal was reached where that can be told.
fn against(own: &Row, peer: &Row, goal: Option<f64>) -> Option<Cell> {
    let ratio = own.cost()?.median / peer.cost()?.median;
    Some(match Judgement::of(own, peer, goal.unwrap_or(1.0)) {
        Judgement::Told => match goal {
            Some(goal) => Figure::exact(Unit::Ratio, ratio).at_most(goal).into(),
            None => Figure::exact(Unit::Ratio, ratio).into(),
        },
        noisy => Cell::Text(format!("{}, {}", Unit::Ratio.number(ratio), noisy.reason())),
    })
}

fn against_best(measured: &Measured, scenario: &Scenario, own: Option<&Row>) -> Cell {
    let peers = measured.rows.iter().filter(|row| row.scenario == scenario.key && !row.own);
    let peers = peers.filter_map(|row| Some((row.cost()?.median, row)));
    let best = peers.min_by(|one, other| one.0.total_cmp(&other.0));
    let cell = own.zip(best).and_then(|(own, (_, best))| against(own, best, scenario.goal));
    cell.unwrap_or_else(|| Cell::Missing(String::new()))
}

fn many_hosts(measured: &Measured) -> Option<Note> {
    let (one, many) = (own_of(measured, "s1")?, own_of(measured, "s7")?);
    let more = many.cost()?.median / one.cost()?.median - 1.0;
    let verdict = match Judgement::of(many, one, 1.0 + VHOST_GOAL) {
        Judgement::Told => Figure::exact(Unit::Share, more).at_most(VHOST_GOAL).verdict()?.text(),
        noisy => noisy.reason().to_owned(),
    };
    Some(Note::new(format!(
        "5,000 virtual hosts against one, Sluicegate: {} CPU per request, {verdict} (≤ 3 %).",
        Unit::Share.number(more)
    )))
}

/// One round has no spread.
fn figure(unit: Unit, spread: Spread) -> Figure {
    let several = spread.least < spread.most;
    Figure {
        least: several.then_some(spread.least),
        most: several.then_some(spread.most),
        ..Figure::exact(unit, spread.median)
    }
}

fn bars(measured: &Measured, title: &str, keys: &[&str]) -> Vec<Plot> {
    let plot = |what: &str, unit, of: &dyn Fn(&Sample) -> f64| {
        let group = |key: &&str| {
            let rows = measured.rows.iter().filter(|row| row.scenario == **key);
            let bars: Vec<Bar> = rows
                .filter_map(|row| {
                    let spread = Spread::of(row.samples.iter().map(of))?;
                    Some(Bar { name: row.contestant.clone(), figure: figure(unit, spread) })
                })
                .collect();
            let scenario = SCENARIOS.iter().find(|scenario| scenario.key == *key)?;
            (!bars.is_empty()).then(|| Group { name: format!("{key} {}", scenario.title), bars })
        };
        let groups: Vec<Group> = keys.iter().filter_map(group).collect();
        (!groups.is_empty()).then(|| Plot::Bars(Bars { title: format!("{what}: {title}"), unit, groups }))
    };
    let cpu = plot("CPU per request", Unit::Microseconds, &|sample| sample.cost);
    let rate = plot("Throughput", Unit::PerSecond, &|sample| sample.per_second);
    [cpu, rate].into_iter().flatten().collect()
}

fn passing(measured: &Measured) -> Option<Section> {
    let scenarios = asked(measured, Field::Passing);
    if scenarios.is_empty() {
        return None;
    }
    let mut section = Section::new("TLS that is passed on, beside a bare splice relay");
    section.notes.push(Note::new(
        "The relay looks at nothing: it is the least that this can cost. The others look at the server name first.",
    ));
    let mut table = Table::new(
        "",
        vec![
            Column::new(""),
            Column::new(""),
            Column::of("CPU per request", Unit::Microseconds),
            Column::of("against the relay", Unit::Ratio),
            Column::of("requests", Unit::PerSecond),
            Column::of("core", Unit::Share),
        ],
    );
    for scenario in scenarios {
        let relay = row_of(measured, scenario.key, Kind::Relay.name());
        for row in measured.rows.iter().filter(|row| row.scenario == scenario.key) {
            let goal = scenario.goal.filter(|_| row.own);
            let ratio =
                relay.filter(|_| row.contestant != Kind::Relay.name()).and_then(|relay| against(row, relay, goal));
            table.row(vec![
                format!("{} {}", scenario.key, scenario.title).into(),
                row.contestant.as_str().into(),
                Cell::or_missing(row.cost().map(|spread| figure(Unit::Microseconds, spread)), ""),
                ratio.unwrap_or_else(|| Cell::Missing(String::new())),
                median(row, Unit::PerSecond, |sample| sample.per_second),
                median(row, Unit::Share, |sample| sample.busy),
            ]);
        }
    }
    section.tables.push(table);
    section.plots = PASSED_ON.iter().flat_map(|(title, keys)| bars(measured, title, keys)).collect();
    Some(section)
}

fn tracing(measured: &Measured) -> Option<Section> {
    let with = own_of(measured, "trace")?;
    let without = row_of(measured, "trace", Kind::Untraced.name())?;
    let more = with.cost()?.median - without.cost()?.median;
    // Costs differ by what the goal allows.
    let limit = 1.0 + TRACE_GOAL / without.cost()?.median;
    let difference = match Judgement::of(with, without, limit) {
        Judgement::Told => Figure::exact(Unit::Microseconds, more).at_most(TRACE_GOAL).into(),
        noisy => Cell::Text(format!("{}, {}", Unit::Microseconds.text(more), noisy.reason())),
    };
    let mut section = Section::new("Trace context, s1");
    let mut table = Table::new(
        "",
        vec![
            Column::of("with", Unit::Microseconds),
            Column::of("without", Unit::Microseconds),
            Column::of("costs", Unit::Microseconds),
        ],
    );
    let cell = |row: &Row| Cell::or_missing(row.cost().map(|spread| figure(Unit::Microseconds, spread)), "");
    table.row(vec![cell(with), cell(without), difference]);
    section.tables.push(table);
    Some(section)
}

fn median(row: &Row, unit: Unit, of: impl Fn(&Sample) -> f64) -> Cell {
    Cell::or_missing(row.median(of).map(|value| Figure::exact(unit, value)), "")
}

fn details(measured: &Measured, names: &[String]) -> Option<Section> {
    let scenarios = asked(measured, Field::Proxies);
    if scenarios.is_empty() {
        return None;
    }
    let mut section = Section::new("Everything");
    section.notes.push(Note::new(
        "Median, and least to most of the rounds. Requests/s and latency have the core of load generator and backend as the other \
         limit; `core` is how busy the proxy's was.",
    ));
    let mut table = Table::new(
        "",
        vec![
            Column::new(""),
            Column::new(""),
            Column::of("CPU per request", Unit::Microseconds),
            Column::of("requests", Unit::PerSecond),
            Column::of("p50", Unit::Milliseconds),
            Column::of("p99", Unit::Milliseconds),
            Column::of("core", Unit::Share),
            Column::of("errors", Unit::Count),
            Column::new("turns taken again"),
        ],
    );
    for scenario in scenarios {
        for row in names.iter().filter_map(|name| row_of(measured, scenario.key, name)) {
            let again = match row.disturbed() {
                0 => row.aside.len().to_string(),
                kept => format!("{}, {kept} disturbed ones kept", row.aside.len()),
            };
            table.row(vec![
                scenario.key.into(),
                row.contestant.as_str().into(),
                Cell::or_missing(row.cost().map(|spread| figure(Unit::Microseconds, spread)), ""),
                median(row, Unit::PerSecond, |sample| sample.per_second),
                median(row, Unit::Milliseconds, |sample| sample.p50 / 1e3),
                median(row, Unit::Milliseconds, |sample| sample.p99 / 1e3),
                median(row, Unit::Share, |sample| sample.busy),
                Figure::count(row.errors()).into(),
                again.into(),
            ]);
        }
    }
    section.tables.push(table);
    Some(section)
}

fn fixed_rate(fixed: &FixedRate) -> Section {
    let mut section = Section::new("At a fixed rate");
    section.notes.push(Note::new(format!(
        "{} requests/s (half of what the best peer took in s1), Poisson arrivals, latency from the scheduled moment. `late`: how late \
         requests began, for want of a free connection or of the generator's core.",
        Unit::Count.number(fixed.rate)
    )));
    let best = fixed.rows.iter().filter(|row| !row.bare && !row.row.own);
    let best = best.filter_map(|fixed| fixed.row.median(|sample| sample.p99)).reduce(f64::min);
    let noisy = fixed.rows.iter().map(|fixed| fixed.row.disturbed()).sum::<usize>();
    if noisy > 0 {
        section.notes.push(Note::warning(format!(
            "in {noisy} of these turns others disturbed one of the two cores: too noisy to tell, latency is not to be compared."
        )));
    }
    if !fixed.unable.is_empty() {
        section.notes.push(Note::new(format!("Not able to take this rate: {}.", fixed.unable.join(", "))));
    }
    let mut table = Table::new(
        "",
        vec![
            Column::new(""),
            Column::of("p50", Unit::Milliseconds),
            Column::of("p99", Unit::Milliseconds),
            Column::of("p99.9", Unit::Milliseconds),
            Column::of("CPU per request", Unit::Microseconds),
            Column::of("late, p99", Unit::Milliseconds),
            Column::of("failed", Unit::Count),
        ],
    );
    for one in &fixed.rows {
        table.row(fixed_row(one, best.filter(|_| noisy == 0)));
    }
    section.tables.push(table);
    let curves =
        fixed.rows.iter().filter_map(|one| Some(Curve { name: one.row.contestant.clone(), points: curve(one)? }));
    section.plots.push(Plot::Percentiles(Percentiles {
        title: "Latency at a fixed rate, the turn with the median p99".to_owned(),
        unit: Unit::Milliseconds,
        curves: curves.collect(),
    }));
    section
}

fn fixed_row(fixed: &FixedRow, best: Option<f64>) -> Vec<Cell> {
    let row = &fixed.row;
    let spread = Spread::of(row.samples.iter().map(|sample| sample.p99 / 1e3));
    let p99 = spread.map(|spread| figure(Unit::Milliseconds, spread)).map(|figure| match best.filter(|_| row.own) {
        Some(best) => figure.at_most(best / 1e3),
        None => figure,
    });
    let late = Spread::of(fixed.lateness.iter().map(|late| *late as f64 / 1e3));
    vec![
        row.contestant.as_str().into(),
        median(row, Unit::Milliseconds, |sample| sample.p50 / 1e3),
        Cell::or_missing(p99, ""),
        median(row, Unit::Milliseconds, |sample| sample.p999 / 1e3),
        if fixed.bare { Cell::Missing(String::new()) } else { median(row, Unit::Microseconds, |sample| sample.cost) },
        Cell::or_missing(late.map(|late| Figure::exact(Unit::Milliseconds, late.median)), ""),
        Figure::count(row.errors()).into(),
    ]
}

/// Of the turn in the middle.
fn curve(fixed: &FixedRow) -> Option<Vec<(f64, f64)>> {
    let mut turns: Vec<_> = fixed.latencies.iter().filter(|latency| latency.count > 0).collect();
    turns.sort_by_key(|latency| latency.p99_us);
    let middle = turns.get(turns.len() / 2)?;
    Some(middle.curve.iter().map(|(percentile, us)| (percentile / 100.0, *us as f64 / 1e3)).collect())
}

fn idle(measured: &Measured) -> Option<Section> {
    if measured.idle.is_empty() {
        return None;
    }
    let mut section = Section::new("Idle connections");
    section.notes.push(Note::new("Resident memory for each connection that was used once and rests."));
    let kinds = [("plain", false), ("TLS", true)];
    let mut columns = vec![Column::new("")];
    for (kind, _) in kinds {
        columns.extend(
            COUNTS.map(|count| Column::of(&format!("{} {kind}", Unit::Count.number(count as f64)), Unit::Kibibytes)),
        );
    }
    let mut table = Table::new("", columns);
    let mut names: Vec<&String> = measured.idle.iter().map(|idle| &idle.contestant).collect();
    names.dedup();
    for name in &names {
        let mut cells = vec![Cell::from(name.as_str())];
        for ((_, tls), goal) in kinds.into_iter().zip(IDLE_GOALS) {
            cells.extend(COUNTS.map(|count| {
                let found = measured
                    .idle
                    .iter()
                    .find(|idle| (&idle.contestant, idle.tls, idle.connections) == (*name, tls, count));
                found.map_or_else(|| Cell::Missing(String::new()), |idle| idle_cell(idle, goal))
            }));
        }
        table.row(cells);
    }
    section.tables.push(table);
    let bars = |tls| {
        let of = measured.idle.iter().filter(move |idle| idle.tls == tls && idle.connections == COUNTS[1]);
        of.filter_map(|idle| {
            Some(Bar { name: idle.contestant.clone(), figure: Figure::exact(Unit::Kibibytes, idle.each? / 1024.0) })
        })
        .collect::<Vec<_>>()
    };
    let groups = kinds.map(|(kind, tls)| Group { name: kind.to_owned(), bars: bars(tls) });
    let groups: Vec<Group> = groups.into_iter().filter(|group| !group.bars.is_empty()).collect();
    if !groups.is_empty() {
        let title = "Memory of each of 10,000 idle connections".to_owned();
        section.plots.push(Plot::Bars(Bars { title, unit: Unit::Kibibytes, groups }));
    }
    Some(section)
}

fn idle_cell(idle: &Idle, goal: f64) -> Cell {
    let Some(each) = idle.each else { return Cell::Missing(idle.why_not.clone().unwrap_or_default()) };
    let figure = Figure::exact(Unit::Kibibytes, each / 1024.0);
    if idle.own { figure.at_most(goal).into() } else { figure.into() }
}

/// Whether the machine was quiet enough.
fn noise(measured: &Measured) -> Vec<Note> {
    let samples: Vec<&Sample> = measured.rows.iter().flat_map(|row| &row.samples).collect();
    if samples.is_empty() {
        return vec![Note::warning("nothing was measured.")];
    }
    let mut notes = Vec::new();
    if samples.iter().any(|sample| sample.errors > 0) {
        notes.push(Note::warning("rows with errors did other work than the rest and are not comparable."));
    }
    let aside: usize = measured.rows.iter().map(|row| row.aside.len()).sum();
    let noisy = samples.iter().filter(|sample| sample.disturbed).count();
    let allowed = Unit::Share.number(measured.noise);
    notes.push(match noisy {
        0 => Note::new(format!(
            "Quiet enough: in no turn that counts did others take more than {allowed} of the proxy's core ({aside} turns were taken again)."
        )),
        _ => Note::warning(format!(
            "too noisy: in {noisy} of {} turns others took more than {allowed} of the proxy's core, and repeats ran out ({aside} turns \
             were put aside). The figures are a direction; repeat them on a quiet machine.",
            samples.len()
        )),
    });
    let loaded = samples.iter().filter(|sample| sample.load_disturbance > measured.noise).count();
    if loaded > 0 {
        notes.push(Note::new(format!(
            "In {loaded} turns others took as much of the load generator's core: rates and latencies suffer from that, CPU per request hardly."
        )));
    }
    notes
}
