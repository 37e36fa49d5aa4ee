//! Turns, and what may be said of them: medians, spread, and whether the machine was quiet enough to tell. It contains no I/O.

use serde::Serialize;

/// One turn of a contestant in a scenario.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sample {
    /// CPU of the proxy for each request (or handshake), in µs.
    pub cost: f64,
    /// Answers a second.
    pub per_second: f64,
    /// Latency in µs.
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    /// Answers, and requests that failed or had an error's status.
    pub answered: u64,
    pub errors: u64,
    /// How busy the proxy kept its core, as a share.
    pub busy: f64,
    /// What others, or the host, took of the proxy's core, and of the load generator's.
    pub disturbance: f64,
    pub load_disturbance: f64,
    /// More than is allowed.
    pub disturbed: bool,
}

/// One contestant in one scenario.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// The scenario's key.
    pub scenario: String,
    pub contestant: String,
    /// Sluicegate itself.
    pub own: bool,
    /// What counts, one for each round.
    pub samples: Vec<Sample>,
    /// Turns that were put aside.
    pub aside: Vec<Sample>,
}

impl Row {
    /// Where repeats ran out, disturbed turns stand in: of all that were taken, the least disturbed are the better ones.
    pub fn settle(&mut self) {
        if !self.samples.iter().any(|sample| sample.disturbed) {
            return;
        }
        let count = self.samples.len();
        let mut taken = std::mem::take(&mut self.samples);
        taken.append(&mut self.aside);
        taken.sort_by(|one, other| {
            one.disturbed.cmp(&other.disturbed).then(one.disturbance.total_cmp(&other.disturbance))
        });
        self.aside = taken.split_off(count.min(taken.len()));
        self.samples = taken;
    }

    /// Whether most of what counts was disturbed.
    pub fn is_noisy(&self) -> bool {
        2 * self.disturbed() > self.samples.len()
    }

    /// How many of what counts were disturbed.
    pub fn disturbed(&self) -> usize {
        self.samples.iter().filter(|sample| sample.disturbed).count()
    }

    /// Of the CPU for each request.
    pub fn cost(&self) -> Option<Spread> {
        Spread::of(self.samples.iter().map(|sample| sample.cost))
    }

    /// Median of anything.
    pub fn median(&self, of: impl Fn(&Sample) -> f64) -> Option<f64> {
        Some(Spread::of(self.samples.iter().map(of))?.median)
    }

    /// Requests that failed, in all turns that count.
    pub fn errors(&self) -> u64 {
        self.samples.iter().map(|sample| sample.errors).sum()
    }
}

/// Median, least and most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    /// Of some values; none of nothing.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let at = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[at] } else { f64::midpoint(values[at - 1], values[at]) };
        Some(Self { median, least, most })
    }

    fn half(&self) -> f64 {
        (self.most - self.least) / 2.0
    }
}

/// Whether figures say what they seem to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// They do.
    Told,
    /// Others, or the host, took too much of the core in most of the turns of one of the two.
    Disturbed,
    /// Rounds differ by more than what is to be told.
    Spread,
}

impl Judgement {
    /// Whether the first one's cost is on one side or the other of so many times the second one's.
    pub fn of(own: &Row, peer: &Row, times: f64) -> Self {
        if own.is_noisy() || peer.is_noisy() {
            return Self::Disturbed;
        }
        let (Some(own), Some(peer)) = (own.cost(), peer.cost()) else { return Self::Spread };
        let difference = (own.median - times * peer.median).abs();
        if own.half().max(times * peer.half()) > difference { Self::Spread } else { Self::Told }
    }

    /// For a cell.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Told => "",
            Self::Disturbed => "too noisy to tell: others had too much of the core",
            Self::Spread => "too noisy to tell: rounds differ by more",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(costs: &[f64]) -> Row {
        Row {
            samples: costs.iter().map(|cost| Sample { cost: *cost, ..Sample::default() }).collect(),
            ..Row::default()
        }
    }

    #[test]
    fn medians_and_spread() {
        for (values, expected) in [
            (&[][..], None),
            (&[f64::NAN], None),
            (&[3.0], Some((3.0, 3.0, 3.0))),
            (&[9.0, 1.0, 2.0], Some((2.0, 1.0, 9.0))),
            (&[4.0, 1.0, 2.0, 8.0], Some((3.0, 1.0, 8.0))),
        ] {
            let spread = Spread::of(values.iter().copied()).map(|spread| (spread.median, spread.least, spread.most));
            assert_eq!(spread, expected, "{values:?}");
        }
    }

    #[test]
    fn it_is_told_only_what_the_rounds_agree_on() {
        for (own, peer, times, expected) in [
            // Half of the peer, and rounds are close together.
            (&[10.0, 10.2, 9.9][..], &[20.0, 20.4, 19.8][..], 1.0, Judgement::Told),
            // 0.8 of the peer, with a goal of 0.85 that the spread of the peer reaches across.
            (&[16.0, 16.0, 16.0], &[20.0, 17.0, 21.0], 0.85, Judgement::Spread),
            // The same without doubt that it is less.
            (&[16.0, 16.0, 16.0], &[20.0, 17.0, 21.0], 1.0, Judgement::Told),
            // One turn of the own is far off.
            (&[10.0, 19.0, 10.0], &[12.0, 12.0, 12.0], 1.0, Judgement::Spread),
            (&[], &[12.0], 1.0, Judgement::Spread),
        ] {
            assert_eq!(Judgement::of(&row(own), &row(peer), times), expected, "{own:?} {peer:?} {times}");
        }
    }

    #[test]
    fn what_others_disturbed_tells_nothing() {
        let quiet = row(&[10.0, 10.0, 10.0]);
        for (disturbed, expected) in [(0, Judgement::Told), (1, Judgement::Told), (2, Judgement::Disturbed)] {
            let mut peer = row(&[20.0, 20.0, 20.0]);
            peer.samples.iter_mut().take(disturbed).for_each(|sample| sample.disturbed = true);
            assert_eq!(Judgement::of(&quiet, &peer, 1.0), expected, "{disturbed}");
            assert_eq!(Judgement::of(&peer, &quiet, 1.0), expected, "{disturbed}");
        }
    }

    #[test]
    fn the_least_disturbed_turns_count_where_repeats_ran_out() {
        let turn =
            |cost, disturbance: f64| Sample { cost, disturbance, disturbed: disturbance > 0.06, ..Sample::default() };
        let mut quiet = Row { samples: vec![turn(1.0, 0.01)], aside: vec![turn(2.0, 0.5)], ..Row::default() };
        quiet.settle();
        assert_eq!((quiet.samples[0].cost, quiet.aside.len()), (1.0, 1));

        let mut loud = Row {
            samples: vec![turn(1.0, 0.9), turn(2.0, 0.05)],
            aside: vec![turn(3.0, 0.2), turn(4.0, 0.8)],
            ..Row::default()
        };
        loud.settle();
        let costs = |samples: &[Sample]| samples.iter().map(|sample| sample.cost).collect::<Vec<_>>();
        assert_eq!((costs(&loud.samples), costs(&loud.aside)), (vec![2.0, 3.0], vec![4.0, 1.0]));
        assert_eq!((loud.disturbed(), loud.is_noisy()), (1, false));
    }
}
