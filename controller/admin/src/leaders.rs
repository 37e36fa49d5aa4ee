//! Who has the most traffic by name: hosts, backends and virtual IPs, with a short history of each. Pure.
//!
//! Bounded whatever there is: at most [`MOST_NAMES`] names of a kind are remembered, [`MOST_SERIES`] of them with a
//! history, [`MOST_SHOWN`] are shown.

use crate::history::round;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// From one look at all names to the next.
pub const STEP: Duration = Duration::from_secs(5);
/// Points of a history: five minutes.
pub const POINTS: usize = 60;
/// Names of a kind whose last counters are remembered; those beyond it are left out.
pub const MOST_NAMES: usize = 32_768;
/// Names of a kind with a history.
pub const MOST_SERIES: usize = 256;
/// Names of a kind that are shown.
pub const MOST_SHOWN: usize = 20;

/// Two counters that only grow, and when they were read: seconds of a clock that only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counted {
    /// When.
    pub at: f64,
    /// Requests, or frames.
    pub first: u64,
    /// Errors, or bytes.
    pub second: u64,
}

/// One name as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Leader<'a> {
    /// What it is called.
    pub name: &'a str,
    /// Requests or frames, a second.
    pub first: f64,
    /// Errors or bytes, a second.
    pub second: f64,
    /// The first of them over the last five minutes, the oldest first, [`STEP`] apart.
    pub series: Vec<f64>,
}

#[derive(Debug)]
struct Known {
    counted: Counted,
    round: u64,
}

#[derive(Debug, Default)]
struct Series {
    points: VecDeque<[f64; 2]>,
    /// Sum of the first of the points.
    weight: f64,
    round: u64,
}

/// The names of one kind.
#[derive(Debug, Default)]
pub struct Leaders {
    known: BTreeMap<Box<str>, Known>,
    series: BTreeMap<Box<str>, Series>,
    round: u64,
}

impl Leaders {
    /// A look at all names begins.
    pub fn begin(&mut self) {
        self.round += 1;
    }

    /// One name of this look. Counters that went back began anew.
    pub fn take(&mut self, name: &str, now: Counted) {
        let round = self.round;
        let Some(known) = self.known.get_mut(name) else {
            if self.known.len() < MOST_NAMES {
                self.known.insert(name.into(), Known { counted: now, round });
            }
            return;
        };
        let before = std::mem::replace(&mut known.counted, now);
        known.round = round;
        let seconds = now.at - before.at;
        let rates = if seconds <= 0.0 {
            // Nobody has counted since: what was holds.
            self.series.get(name).and_then(|series| series.points.back().copied()).unwrap_or_default()
        } else {
            [(before.first, now.first), (before.second, now.second)]
                .map(|(before, after)| after.checked_sub(before).unwrap_or(after) as f64 / seconds)
        };
        if let Some(series) = self.series.get_mut(name) {
            series.add(rates, round);
        } else if rates[0] > 0.0 {
            self.admit(name, rates);
        }
    }

    /// A name without a history gets one where there is room, or where another one's is lighter.
    fn admit(&mut self, name: &str, rates: [f64; 2]) {
        if self.series.len() >= MOST_SERIES {
            let lightest = self.series.iter().map(|(name, series)| (series.weight, name));
            let Some((weight, lightest)) = lightest.min_by(|a, b| a.0.total_cmp(&b.0)) else { return };
            if weight >= rates[0] {
                return;
            }
            let lightest = lightest.clone();
            self.series.remove(&lightest);
        }
        let mut series = Series::default();
        series.add(rates, self.round);
        self.series.insert(name.into(), series);
    }

    /// The look is over: names that were not in it are forgotten, and so are histories in which nothing happened.
    pub fn end(&mut self) {
        let round = self.round;
        self.known.retain(|_, known| known.round == round);
        self.series.retain(|_, series| series.round == round && series.points.iter().any(|[first, _]| *first > 0.0));
    }

    /// How many names are remembered.
    pub fn names(&self) -> usize {
        self.known.len()
    }

    /// Those with the most traffic over the last five minutes, the busiest first; ties by name.
    pub fn busiest(&self) -> Vec<Leader<'_>> {
        let mut order: Vec<(f64, &str, &Series)> =
            self.series.iter().map(|(name, series)| (series.weight, &**name, series)).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        let leaders = order.into_iter().take(MOST_SHOWN).map(|(_, name, series)| {
            let [first, second] = series.points.back().copied().unwrap_or_default().map(round);
            Leader { name, first, second, series: series.points.iter().map(|[first, _]| round(*first)).collect() }
        });
        leaders.collect()
    }
}

impl Series {
    fn add(&mut self, rates: [f64; 2], round: u64) {
        if self.points.len() == POINTS {
            self.points.pop_front();
        }
        self.points.push_back(rates);
        self.weight = self.points.iter().map(|[first, _]| first).sum();
        self.round = round;
    }
}
