//! What was measured, as tables and plots.

use super::reloads::Reloads;
use super::{Measured, changes};
use crate::http::outcome::Latency;
use crate::report::{Bar, Bars, Cell, Column, Figure, Group, Note, Plot, Report, Section, Table, Unit};

/// What is to be reached: ms of a change at p99, seconds until the first full state, MiB for 1,000 Ingresses.
const CHANGE_GOAL: f64 = 10.0;
const FIRST_STATE_GOAL: f64 = 2.0;
const MEMORY_GOAL: f64 = 4.0;
const MIB: f64 = 1_048_576.0;

/// Of this command, at this moment.
pub fn begun() -> Report {
    Report::new("control", "Changes and large clusters")
}

/// Puts everything into the report.
pub fn fill(report: &mut Report, measured: &Measured) {
    report.versions.extend(measured.versions.clone());
    report.notes.push(Note::new(format!(
        "{} of all cores idle before the start; nothing is pinned, and every process has a worker for each core.",
        Unit::Share.number(measured.idle)
    )));
    report.notes.extend(measured.notes.iter().map(|text| Note::new(format!("{text}."))));
    report.sections.push(own(measured));
    if !measured.reloads.is_empty() {
        report.sections.push(reloads(&measured.reloads));
    }
}

fn own(measured: &Measured) -> Section {
    let count = |value: u32| Unit::Count.number(f64::from(value));
    let size = measured.size;
    let mut section = Section::new("Sluicegate");
    let title = format!("{} Ingresses, {} endpoints", count(size.ingresses), count(size.endpoints));
    let mut table = Table::new("", vec![Column::new(&title), Column::new("measured")]);
    first_states(measured, &mut table);
    let changes = &measured.changes;
    for (what, times) in [("EndpointSlice", &changes.endpoint_slice), ("Ingress", &changes.ingress)] {
        let goal = Some(CHANGE_GOAL);
        table.row(vec![
            format!("change of one {what} → socket ({} changes)", times.len()).into(),
            times_cell(times, goal),
        ]);
    }
    if let Some(packets) = &measured.packets {
        let times = &packets.effects;
        table.row(vec![
            format!("change of one EndpointSlice → packet through XDP ({} changes)", times.len()).into(),
            times_cell(times, Some(CHANGE_GOAL)),
        ]);
        table.row(vec![
            "the same, to a real server that the director has not met".into(),
            match packets.unmet {
                Some(seconds) => Figure::exact(Unit::Milliseconds, seconds * 1e3).into(),
                None => Cell::Missing("it never came true".to_owned()),
            },
        ]);
        table.row(vec![
            "start of a director → first packet forwarded".into(),
            Figure::exact(Unit::Seconds, packets.first_packet).into(),
        ]);
    }
    under_load(measured, &mut table);
    section.tables.push(table);
    let plot = changes_plot(measured);
    section.plots.push(plot);
    section
}

fn first_states(measured: &Measured, table: &mut Table) {
    for state in [&measured.many_files, &measured.large_files] {
        let name = format!(
            "first full state, {} files ({})",
            Unit::Count.number(state.files as f64),
            Unit::Mebibytes.text(state.bytes as f64 / MIB)
        );
        table.row(vec![
            name.into(),
            Cell::Figures(vec![
                ("ready after".to_owned(), Figure::exact(Unit::Seconds, state.seconds).at_most(FIRST_STATE_GOAL)),
                ("CPU".to_owned(), Figure::exact(Unit::Seconds, state.cpu_seconds)),
            ]),
        ]);
    }
    let (full, empty) = (&measured.many_files, &measured.empty);
    let mib = |bytes: u64| Figure::exact(Unit::Mebibytes, bytes as f64 / MIB);
    table.row(vec![
        "memory, resident".into(),
        Cell::Figures(vec![
            ("with the cluster".to_owned(), mib(full.resident)),
            ("without".to_owned(), mib(empty.resident)),
            ("most, while reading".to_owned(), mib(full.peak)),
        ]),
    ]);
    let each = (full.resident as f64 - empty.resident as f64) / MIB / (f64::from(measured.size.ingresses) / 1000.0);
    table.row(vec![
        "memory for each 1,000 Ingresses with Services and endpoints".into(),
        Figure::exact(Unit::Mebibytes, each).at_most(MEMORY_GOAL).into(),
    ]);
}

fn under_load(measured: &Measured, table: &mut Table) {
    let load = &measured.under_load;
    let count = |value: u64| Unit::Count.number(value as f64);
    table.row(vec![
        format!("under load: change of one EndpointSlice → socket ({} changes)", load.endpoint_slice.len()).into(),
        times_cell(&load.endpoint_slice, None),
    ]);
    let failed = load.load.failed + load.asker_failed + measured.changes.failed;
    table.row(vec![
        format!(
            "requests failed in {} changes under load ({} requests, {})",
            count(load.changes.into()),
            count(load.load.answered),
            Unit::PerSecond.text(load.load.per_second)
        )
        .into(),
        Figure::count(failed).at_most(0.0).into(),
    ]);
    table.row(vec![
        format!(
            "WebSockets broken in these changes ({} open, {} frames there and back on each)",
            load.websockets, load.frames
        )
        .into(),
        Figure::count(load.websockets_broken).at_most(0.0).into(),
    ]);
    let p99 = |latency: &Latency| Figure::exact(Unit::Milliseconds, latency.p99_us as f64 / 1e3);
    table.row(vec![
        "p99 of requests, saturated".into(),
        Cell::Figures(vec![
            ("without changes".to_owned(), p99(&load.calm.latency)),
            ("with them".to_owned(), p99(&load.load.latency)),
        ]),
    ]);
    table.row(vec![
        "requests, saturated".into(),
        Cell::Figures(vec![
            ("without changes".to_owned(), Figure::exact(Unit::PerSecond, load.calm.per_second)),
            ("with them".to_owned(), Figure::exact(Unit::PerSecond, load.load.per_second)),
        ]),
    ]);
}

fn reloads(all: &[Reloads]) -> Section {
    let mut section = Section::new("Beside it: a rewritten configuration and a reload for each change");
    let vhosts = all.first().map_or(0, |one| one.vhosts);
    let title = format!("{} virtual hosts", Unit::Count.number(vhosts.into()));
    let mut columns = vec![Column::new(&title)];
    columns.extend(all.iter().map(|one| Column::new(&one.name)));
    let mut table = Table::new("", columns);
    let mut row = |name: String, of: &dyn Fn(&Reloads) -> Cell| {
        table.row(std::iter::once(name.into()).chain(all.iter().map(of)).collect());
    };
    let count = all.first().map_or(0, |one| one.effects.len());
    row(format!("change → socket ({count} reloads, no load)"), &|one| times_cell(&one.effects, None));
    row(format!("change → socket ({count} reloads, under load)"), &|one| times_cell(&one.effects_under_load, None));
    row("requests in the reloads under load".to_owned(), &|one| {
        Cell::Figures(vec![
            ("failed".to_owned(), Figure::count(one.load.failed + one.asker_failed)),
            ("of".to_owned(), Figure::count(one.load.answered)),
        ])
    });
    row("memory of all processes, resident".to_owned(), &|one| {
        let mib = |bytes: u64| Figure::exact(Unit::Mebibytes, bytes as f64 / MIB);
        Cell::Figures(vec![("before".to_owned(), mib(one.resident)), ("most".to_owned(), mib(one.peak))])
    });
    section.tables.push(table);
    section
}

/// p50, p99 and most in ms; what never came true is named.
fn times_cell(times: &[Option<f64>], goal: Option<f64>) -> Cell {
    let found = sorted(times);
    let lost = times.len() - found.len();
    if found.is_empty() {
        return Cell::Missing(format!("none of {} came true", times.len()));
    }
    let of = |share: f64| Figure::exact(Unit::Milliseconds, percentile(&found, share));
    let p99 = match goal {
        // One that never came true is later than any limit.
        Some(limit) if lost > 0 => Figure::exact(Unit::Milliseconds, f64::INFINITY).at_most(limit),
        Some(limit) => of(0.99).at_most(limit),
        None => of(0.99),
    };
    let mut figures = vec![("p50".to_owned(), of(0.5)), ("p99".to_owned(), p99), ("most".to_owned(), of(1.0))];
    if lost > 0 {
        figures.push(("never came true".to_owned(), Figure::count(lost as u64)));
    }
    Cell::Figures(figures)
}

/// Those that came true, in ms.
fn sorted(times: &[Option<f64>]) -> Vec<f64> {
    let mut found: Vec<f64> = times.iter().flatten().map(|seconds| seconds * 1e3).collect();
    found.sort_by(f64::total_cmp);
    found
}

/// Nearest rank.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

fn changes_plot(measured: &Measured) -> Plot {
    let changes::Changes { endpoint_slice, ingress, .. } = &measured.changes;
    let packets = measured.packets.as_ref().map(|packets| &packets.effects);
    let kinds = [
        ("EndpointSlice → socket", Some(endpoint_slice)),
        ("Ingress → socket", Some(ingress)),
        ("EndpointSlice → packet", packets),
        ("EndpointSlice → socket, under load", Some(&measured.under_load.endpoint_slice)),
    ];
    let bar = |(name, times): (&str, Option<&Vec<Option<f64>>>)| {
        let figure = Figure::of_rounds(Unit::Milliseconds, sorted(times?))?;
        Some(Bar { name: name.to_owned(), figure })
    };
    let bars = kinds.into_iter().filter_map(bar).collect();
    Plot::Bars(Bars {
        title: "From a change to its effect, median and least to most".to_owned(),
        unit: Unit::Milliseconds,
        groups: vec![Group { name: String::new(), bars }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        for (values, share, expected) in
            [(&hundred[..], 0.5, 50.0), (&hundred, 0.99, 99.0), (&hundred, 1.0, 100.0), (&hundred[..1], 0.99, 1.0)]
        {
            assert_eq!(percentile(values, share), expected, "{} values, {share}", values.len());
        }
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn what_never_came_true_has_missed_its_goal() {
        let Cell::Figures(figures) = times_cell(&[Some(0.001), None], Some(10.0)) else { panic!("figures") };
        let verdicts: Vec<Option<String>> =
            figures.iter().map(|(_, figure)| figure.verdict().map(|verdict| verdict.text())).collect();
        assert_eq!(verdicts, [None, Some("missed".to_owned()), None, None]);
        assert_eq!(times_cell(&[None, None], None), Cell::Missing("none of 2 came true".to_owned()));
    }
}
