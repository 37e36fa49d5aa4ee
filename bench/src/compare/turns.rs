//! Who is started, and the turns that each takes.

use super::rounds::{Row, Sample};
use super::scenario::{self, Field, SCENARIOS, Scenario, VHOSTS};
use super::{Bench, checks};
use crate::accounting::{Clock, Meter, Spent};
use crate::asker::Trust;
use crate::daemon::Daemon;
use crate::http;
use crate::http::outcome::{Ceiling, Latency, Outcome};
use crate::http::plan::Plan;
use crate::http::progress::{Progress, Silent};
use crate::proxies::{Kind, Proxy, Routes};
use anyhow::{Context as _, bail};
use serde::Serialize;
use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

/// Traefik and Caddy take long for 5,000 hosts.
pub const READY_WITHIN: Duration = Duration::from_secs(120);
/// The first turn is not counted: pools fill and caches warm outside of the measurement.
const FIRST: Duration = Duration::from_secs(1);

/// Latency where nobody is saturated.
#[derive(Debug, Serialize)]
pub struct FixedRate {
    /// Requests a second: half of what the best peer takes in s1.
    pub rate: f64,
    pub rows: Vec<FixedRow>,
    /// Who does not take that rate.
    pub unable: Vec<String>,
}

/// One contestant at the fixed rate.
#[derive(Debug, Default, Serialize)]
pub struct FixedRow {
    /// The turns as in every scenario.
    pub row: Row,
    /// The backend without a proxy.
    pub bare: bool,
    /// How late requests began, in µs at p99, of each round.
    pub lateness: Vec<u64>,
    /// Latency of each turn that was taken, disturbed or not, with the curve.
    pub latencies: Vec<Latency>,
}

impl Bench<'_> {
    pub(super) fn folder_of(&self, proxy: &Proxy, vhosts: bool) -> PathBuf {
        let name = if proxy.kind == Kind::Untraced { "untraced" } else { proxy.kind.program() };
        self.folder.path().join(if vhosts { "many" } else { "one" }).join(name)
    }

    /// Starts all, checks that they do the same, and leaves out who does not.
    pub(super) fn start_all(&mut self, vhosts: bool) -> anyhow::Result<Vec<(Proxy, Daemon)>> {
        let routes = super::routes(self.arguments, if vhosts { VHOSTS } else { 0 });
        let trust = Trust::new(&self.certificate.chain)?;
        let mut ready = Vec::new();
        for proxy in self.contestants.clone() {
            self.interrupt.check()?;
            if vhosts && !Kind::NAMED.contains(&proxy.kind) {
                continue;
            }
            let folder = self.folder_of(&proxy, vhosts);
            proxy.write(&folder, &routes, &self.certificate)?;
            let mut daemon = proxy.start(&folder, &routes, &self.placement)?;
            match same_work(&proxy, &mut daemon, &routes, &trust) {
                Ok(()) => ready.push((proxy, daemon)),
                Err(why) => {
                    let hosts = routes.hosts.len();
                    self.note(format!("{} with {hosts} hosts was left out: {why:#}", proxy.kind.name()));
                }
            }
        }
        if ready.is_empty() {
            bail!("nobody serves what is to be measured: {}", self.measured.notes.join("; "));
        }
        Ok(ready)
    }

    /// All rounds of one scenario.
    pub(super) fn measure_scenario(&mut self, scenario: &Scenario, ready: &[(Proxy, Daemon)]) -> anyhow::Result<()> {
        let mut rows = Vec::new();
        for (proxy, daemon) in ready {
            match takes_part(scenario, proxy) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(why) => {
                    self.note(format!("{} is not in {}: {why}", proxy.kind.name(), scenario.key));
                    continue;
                }
            }
            let row = Row {
                scenario: scenario.key.to_owned(),
                contestant: proxy.kind.name().to_owned(),
                own: proxy.kind == Kind::Sluicegate,
                ..Row::default()
            };
            rows.push((proxy, daemon, row, true));
        }
        let ended = self.take_turns(scenario, &mut rows);
        for (.., mut row, _) in rows {
            row.settle();
            if !row.samples.is_empty() {
                self.measured.rows.push(row);
            }
        }
        ended
    }

    fn take_turns(&mut self, scenario: &Scenario, rows: &mut [(&Proxy, &Daemon, Row, bool)]) -> anyhow::Result<()> {
        let mut ceiling: Option<Ceiling> = None;
        let time = Duration::from_secs(self.arguments.seconds().into());
        for round in 0..=self.arguments.rounds() {
            for (proxy, daemon, row, well) in rows.iter_mut().filter(|(.., well)| *well) {
                self.interrupt.check()?;
                let plan = |time| scenario.plan(proxy, &self.certificate_file(), self.arguments.load_core, time);
                let took = match round {
                    0 => {
                        // What the generator could do is the same for all: it is measured with the first one's answers.
                        let first = Plan { ceiling: ceiling.is_none(), ..plan(FIRST) };
                        http::run(&first, &Silent).map(|outcome| ceiling = ceiling.take().or(outcome.ceiling))
                    }
                    _ => self.take(row, || self.turn(daemon, &plan(time))),
                };
                match (took, row.samples.last()) {
                    (Ok(()), Some(sample)) => {
                        eprintln!("{}", progress(scenario.key, proxy.kind, scenario.unit(), sample))
                    }
                    (Ok(()), None) => {}
                    (Err(why), _) => {
                        *well = false;
                        let text = format!("{} failed in {}: {why:#}", proxy.kind.name(), scenario.key);
                        eprintln!("{text}");
                        self.measured.notes.push(text);
                    }
                }
            }
        }
        if let Some(ceiling) = ceiling {
            self.measured.ceilings.insert(scenario.key.to_owned(), ceiling);
        }
        Ok(())
    }

    /// One turn that counts; disturbed ones are put aside as long as repeats last.
    fn take(&self, row: &mut Row, mut turn: impl FnMut() -> anyhow::Result<Sample>) -> anyhow::Result<()> {
        let repeats = self.arguments.repeats() as usize;
        let mut sample = turn()?;
        while sample.disturbed && row.aside.len() < repeats {
            row.aside.push(sample);
            self.interrupt.check()?;
            sample = turn()?;
        }
        row.samples.push(sample);
        Ok(())
    }

    fn turn(&self, daemon: &Daemon, plan: &Plan) -> anyhow::Result<Sample> {
        let (sample, _) = self.loaded(daemon.pids(), plan)?;
        Ok(Sample { disturbed: sample.disturbance > self.measured.noise, ..sample })
    }

    fn loaded(&self, proxy: Vec<u32>, plan: &Plan) -> anyhow::Result<(Sample, Outcome)> {
        let (proxy_core, load_core) = (self.arguments.proxy_core, self.arguments.load_core);
        let meter = Meter::new(proxy, &self.upstream.pids(), proxy_core, load_core);
        let span = CountedSpan::of(&meter);
        let outcome = http::run(plan, &span)?;
        let spent = span.spent()?;
        let sample = Sample {
            cost: spent.proxy.as_secs_f64() * 1e6 / outcome.answered.max(1) as f64,
            per_second: outcome.per_second,
            p50: outcome.latency.p50_us as f64,
            p99: outcome.latency.p99_us as f64,
            p999: outcome.latency.p999_us as f64,
            answered: outcome.answered,
            errors: outcome.failed + outcome.refused(),
            busy: spent.busy,
            disturbance: spent.disturbance,
            load_disturbance: spent.load_disturbance,
            disturbed: false,
        };
        Ok((sample, outcome))
    }

    fn certificate_file(&self) -> PathBuf {
        self.folder.path().join("upstream/tls.crt")
    }

    /// Latency where nobody is saturated: half of what the best peer takes in s1.
    pub(super) fn measure_fixed_rate(&mut self, ready: &[(Proxy, Daemon)]) -> anyhow::Result<()> {
        let rate_of = |kind: Kind| {
            let row =
                self.measured.rows.iter().find(|row| row.scenario == SCENARIOS[0].key && row.contestant == kind.name());
            row.and_then(|row| row.median(|sample| sample.per_second))
        };
        let runners: Vec<&(Proxy, Daemon)> =
            ready.iter().filter(|(proxy, _)| Kind::NAMED.contains(&proxy.kind)).collect();
        let peers = runners.iter().filter(|(proxy, _)| proxy.kind != Kind::Sluicegate);
        let Some(best) = peers.filter_map(|(proxy, _)| rate_of(proxy.kind)).reduce(f64::max) else {
            self.note("latency at a fixed rate was not measured: it is half of what the best peer takes in s1, and there is none".to_owned());
            return Ok(());
        };
        let rate = ((best / 2.0 / 1000.0).round() * 1000.0).max(1000.0);
        let (able, unable): (Vec<_>, Vec<_>) =
            runners.into_iter().partition(|(proxy, _)| rate_of(proxy.kind).is_some_and(|takes| takes >= 1.2 * rate));
        let mut rows: Vec<FixedRow> = std::iter::once("backend without a proxy")
            .chain(able.iter().map(|(proxy, _)| proxy.kind.name()))
            .map(|name| FixedRow {
                row: Row {
                    scenario: "rate".to_owned(),
                    contestant: name.to_owned(),
                    own: name == Kind::Sluicegate.name(),
                    ..Row::default()
                },
                ..FixedRow::default()
            })
            .collect();
        rows[0].bare = true;
        for _ in 0..self.arguments.rounds() {
            for (at, fixed) in rows.iter_mut().enumerate() {
                self.interrupt.check()?;
                let tested = at.checked_sub(1).map(|at| able[at]);
                self.fixed_turn(fixed, tested, rate)?;
            }
        }
        rows.iter_mut().for_each(|fixed| fixed.row.settle());
        let unable = unable.iter().map(|(proxy, _)| proxy.kind.name().to_owned()).collect();
        self.measured.fixed_rate = Some(FixedRate { rate, rows, unable });
        Ok(())
    }

    fn fixed_turn(&self, fixed: &mut FixedRow, tested: Option<&(Proxy, Daemon)>, rate: f64) -> anyhow::Result<()> {
        let time = Duration::from_secs(self.arguments.seconds().into());
        let port = tested.map_or(self.upstream.port, |(proxy, _)| proxy.ports.http);
        let plan = scenario::fixed_rate(port, self.arguments.load_core, rate, time);
        let FixedRow { row, lateness, latencies, bare } = fixed;
        self.take(row, || {
            let (sample, outcome) = self.loaded(tested.map(|(_, daemon)| daemon.pids()).unwrap_or_default(), &plan)?;
            lateness.push(outcome.lateness.p99_us);
            latencies.push(outcome.latency);
            // Latency suffers from what disturbs either core. Without a proxy its core is nobody's.
            let most = sample.disturbance.max(sample.load_disturbance);
            Ok(Sample { disturbed: !*bare && most > self.measured.noise, disturbance: most, ..sample })
        })?;
        if let Some(sample) = row.samples.last() {
            let [p50, p99, p999] = [sample.p50, sample.p99, sample.p999].map(|latency| latency / 1e3);
            eprintln!(
                "{rate}/s {:24} p50 {p50:.2} p99 {p99:.2} p99.9 {p999:.2} ms, failed {}",
                row.contestant, sample.errors
            );
        }
        Ok(())
    }
}

/// Counts while a run counts: connections are made before.
struct CountedSpan<'a> {
    meter: &'a Meter,
    clock: RefCell<Option<anyhow::Result<Clock<'a>>>>,
    spent: RefCell<Option<anyhow::Result<Spent>>>,
}

impl<'a> CountedSpan<'a> {
    fn of(meter: &'a Meter) -> Self {
        Self { meter, clock: RefCell::default(), spent: RefCell::default() }
    }

    fn spent(self) -> anyhow::Result<Spent> {
        self.spent.into_inner().context("the run ended before it began to count")?
    }
}

impl Progress for CountedSpan<'_> {
    fn begins(&self) {
        self.clock.replace(Some(self.meter.start()));
    }

    fn ends(&self) {
        self.spent.replace(self.clock.take().map(|clock| clock?.stop()));
    }
}

/// Whether it is in this scenario; an error says why one that might be is not.
fn takes_part(scenario: &Scenario, proxy: &Proxy) -> Result<bool, &'static str> {
    Ok(match (scenario.field, proxy.kind) {
        (Field::Proxies, kind) => Kind::NAMED.contains(&kind),
        (Field::Tracing, kind) => matches!(kind, Kind::Sluicegate | Kind::Untraced),
        (Field::Passing, Kind::Untraced) => false,
        (Field::Passing, _) => proxy.passes_through().map(|()| true)?,
    })
}

fn same_work(proxy: &Proxy, daemon: &mut Daemon, routes: &Routes, trust: &Trust) -> anyhow::Result<()> {
    let last = routes.hosts.last().map_or("", String::as_str);
    let is_up = || match proxy.kind {
        Kind::Relay => crate::asker::connect(proxy.through()).is_ok(),
        _ => checks::serves(proxy.ports.http, last),
    };
    if !daemon.wait_until(READY_WITHIN, is_up) {
        bail!("it does not serve: {}", daemon.complaint());
    }
    if proxy.kind != Kind::Relay {
        checks::same_work(proxy, &routes.hosts, trust)?;
    }
    if proxy.passes_through().is_ok() {
        checks::passes_through(proxy, trust)?;
    }
    Ok(())
}

/// One turn, while the bench runs.
fn progress(key: &str, kind: Kind, unit: &str, sample: &Sample) -> String {
    let mut text = format!(
        "{key:5} {:12} {:>8.2} µs/{unit} {:>10.0}/s  p99 {:>6.2} ms  core {:>3.0} %",
        kind.name(),
        sample.cost,
        sample.per_second,
        sample.p99 / 1e3,
        sample.busy * 100.0
    );
    if sample.errors > 0 {
        text += &format!(", {} ERRORS", sample.errors);
    }
    if sample.disturbed {
        text += &format!(", disturbed: others took {:.0} % of the core", sample.disturbance * 100.0);
    }
    text
}
