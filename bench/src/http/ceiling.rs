//! What the generator can do at most: the same load against a responder in this process that gives canned answers.

mod responder;

use super::outcome::{Ceiling, Outcome};
use super::plan::{Pace, Plan, Trust};
use super::progress::Silent;
use responder::{Canned, Crew};
use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

/// Above this share of the ceiling the generator may be what limits a run.
const LIMIT: f64 = 0.8;

/// How long the ceiling is measured.
const TIME: Duration = Duration::from_secs(1);

/// Longer answers are cut: what they cost is their bytes by then.
const LONGEST: u64 = 16 << 20;

/// Measures it for a plan, with answers as long as those of its outcome were on average.
///
/// # Errors
/// Where there is no port on loopback, or the load itself fails.
pub fn measure(plan: &Plan, outcome: &Outcome) -> anyhow::Result<Ceiling> {
    let body = (outcome.body_bytes / outcome.answered.max(1)).min(LONGEST) as usize;
    let crew = Crew::start(plan, Canned::new(plan, body)?, cpus_beside(&plan.cpus))?;
    let same = Plan {
        connect: Some(crew.address()),
        trust: Trust::Everything,
        pace: Pace::Closed,
        warm_up: TIME / 5,
        duration: Some(TIME),
        requests: None,
        expect_length: None,
        ceiling: false,
        ..plan.clone()
    };
    let best = super::run(&same, &Silent);
    crew.stop();
    let best = best?;
    let per_second = usable(plan) as f64 * 1e6 / best.generator.cpu_us_per_answer.max(1e-3);
    let reached = outcome.per_second / per_second;
    Ok(Ceiling {
        per_second,
        measured_per_second: best.per_second,
        cpu_us_per_answer: best.generator.cpu_us_per_answer,
        reached,
        may_limit: reached > LIMIT,
    })
}

/// CPUs that the threads of a plan can fill.
fn usable(plan: &Plan) -> usize {
    let pinned: BTreeSet<_> = plan.cpus.iter().take(plan.threads).collect();
    let here = if pinned.is_empty() { thread::available_parallelism().map_or(1, usize::from) } else { pinned.len() };
    plan.threads.min(here)
}

/// CPUs of this machine that the load does not use; none where the load is not pinned, or uses all.
fn cpus_beside(taken: &[usize]) -> Vec<usize> {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    if taken.is_empty() {
        return Vec::new();
    }
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu) && !taken.contains(cpu)).collect()
}
