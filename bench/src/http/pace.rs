//! When requests of one thread are meant to begin. It contains no clock: the time is an argument.

use super::plan::Pace;

/// The span in which requests begin, in ns of the run's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// When load begins.
    pub from: u64,
    /// When it begins to count.
    pub counted_from: u64,
    /// When it ends; without it, when the quota is used up.
    pub until: Option<u64>,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A request, which was meant to begin at `intended`.
    Begin {
        /// ns of the run's clock; not after now.
        intended: u64,
        /// Whether it counts.
        counted: bool,
    },
    /// Nothing before that moment.
    At(u64),
    /// Nothing more, ever.
    Over,
}

/// The schedule of one of several threads.
#[derive(Clone, Debug)]
pub struct Pacer {
    span: Span,
    left: Option<u64>,
    schedule: Schedule,
}

#[derive(Clone, Debug)]
enum Schedule {
    Closed,
    /// The `next`th moment of `every` ns each, from `first`.
    Constant {
        first: f64,
        every: f64,
        next: u64,
    },
    Poisson {
        mean: f64,
        at: f64,
        random: Random,
    },
}

impl Pacer {
    /// The share of thread number `thread` of `threads`, which begins `quota` counted requests at most.
    pub fn new(pace: Pace, span: Span, quota: Option<u64>, thread: usize, threads: usize) -> Self {
        let share = threads as f64;
        let schedule = match pace {
            Pace::Closed => Schedule::Closed,
            Pace::Constant(rate) => {
                let between = 1e9 / rate;
                Schedule::Constant {
                    first: span.from as f64 + between * thread as f64,
                    every: between * share,
                    next: 0,
                }
            }
            Pace::Poisson { rate, seed } => {
                let mut random = Random::new(seed.wrapping_add((thread as u64) << 32));
                let mean = 1e9 * share / rate;
                Schedule::Poisson { mean, at: span.from as f64 + random.interval(mean), random }
            }
        };
        Self { span, left: quota, schedule }
    }

    /// What is to be done at `now`. A request that is given is gone from the schedule.
    pub fn next(&mut self, now: u64) -> Next {
        let intended = match &self.schedule {
            Schedule::Closed => now.max(self.span.from),
            Schedule::Constant { first, every, next } => (first + every * *next as f64) as u64,
            Schedule::Poisson { at, .. } => *at as u64,
        };
        if self.span.until.is_some_and(|until| intended >= until) {
            return Next::Over;
        }
        let counted = intended >= self.span.counted_from;
        if counted && self.left == Some(0) {
            return Next::Over;
        }
        if intended > now {
            return Next::At(intended);
        }
        if counted && let Some(left) = &mut self.left {
            *left -= 1;
        }
        match &mut self.schedule {
            Schedule::Closed => {}
            Schedule::Constant { next, .. } => *next += 1,
            Schedule::Poisson { mean, at, random } => *at += random.interval(*mean),
        }
        Next::Begin { intended, counted }
    }

    /// How many counted requests were due by `now` and were never taken. Closed loops owe none.
    pub fn owed(mut self, now: u64) -> u64 {
        if matches!(self.schedule, Schedule::Closed) {
            return 0;
        }
        let mut owed = 0;
        while let Next::Begin { counted, .. } = self.next(now) {
            owed += u64::from(counted);
        }
        owed
    }
}

/// SplitMix64: small, seeded, good enough for schedules and the choice of targets.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence by its seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound.max(1) as u64) as usize
    }

    /// The time to the next of events that do not know of each other.
    fn interval(&mut self, mean: f64) -> f64 {
        let unit = ((self.bits() >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        -unit.ln() * mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn span(warm_up: u64, until: u64) -> Span {
        Span { from: 0, counted_from: warm_up, until: Some(until) }
    }

    /// Every moment until the end, with whether it counts.
    fn drain(pacer: &mut Pacer, now: u64) -> Vec<(u64, bool)> {
        let mut moments = Vec::new();
        while let Next::Begin { intended, counted } = pacer.next(now) {
            moments.push((intended, counted));
        }
        moments
    }

    #[test]
    fn a_constant_rate_knows_its_moments_however_late_they_are_taken() {
        let mut pacer = Pacer::new(Pace::Constant(1000.0), span(0, SECOND), None, 0, 1);
        assert_eq!(pacer.next(0), Next::Begin { intended: 0, counted: true });
        assert_eq!(pacer.next(0), Next::At(1_000_000));
        let rest = drain(&mut pacer, 5 * SECOND);
        assert_eq!(rest.len(), 999);
        assert_eq!(rest.last(), Some(&(999_000_000, true)));
        assert_eq!(pacer.next(5 * SECOND), Next::Over);
    }

    #[test]
    fn threads_share_a_rate_without_meeting() {
        let mut all: Vec<u64> = (0..4)
            .flat_map(|thread| drain(&mut Pacer::new(Pace::Constant(1000.0), span(0, SECOND), None, thread, 4), SECOND))
            .map(|(moment, _)| moment)
            .collect();
        all.sort_unstable();
        assert_eq!(all, (0..1000).map(|at| at * 1_000_000).collect::<Vec<_>>());
    }

    #[test]
    fn the_warm_up_is_not_counted_and_uses_up_no_quota() {
        let span = Span { from: 0, counted_from: SECOND, until: None };
        let mut pacer = Pacer::new(Pace::Constant(10.0), span, Some(5), 0, 1);
        let moments = drain(&mut pacer, 10 * SECOND);
        assert_eq!(moments.iter().filter(|(_, counted)| !counted).count(), 10);
        assert_eq!(moments.iter().filter(|(_, counted)| *counted).count(), 5);
        assert_eq!(pacer.next(10 * SECOND), Next::Over);
    }

    #[test]
    fn a_closed_loop_begins_at_once_until_its_end() {
        let mut pacer = Pacer::new(Pace::Closed, span(10, 100), Some(2), 0, 1);
        assert_eq!(pacer.next(5), Next::Begin { intended: 5, counted: false });
        assert_eq!(pacer.next(50), Next::Begin { intended: 50, counted: true });
        assert_eq!(pacer.next(50), Next::Begin { intended: 50, counted: true });
        assert_eq!(pacer.next(50), Next::Over);
        let mut pacer = Pacer::new(Pace::Closed, span(0, 100), None, 0, 1);
        assert_eq!(pacer.next(100), Next::Over);
        assert_eq!(pacer.owed(1000), 0);
    }

    #[test]
    fn what_was_due_and_not_taken_is_owed() {
        let mut pacer = Pacer::new(Pace::Constant(1000.0), span(0, SECOND), None, 0, 1);
        for _ in 0..100 {
            assert!(matches!(pacer.next(SECOND), Next::Begin { .. }));
        }
        assert_eq!(pacer.owed(SECOND), 900);
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_their_kind_and_repeat_by_seed() {
        let pace = Pace::Poisson { rate: 10_000.0, seed: 7 };
        let moments = drain(&mut Pacer::new(pace, span(0, 10 * SECOND), None, 0, 1), 10 * SECOND);
        assert!((99_000..101_000).contains(&moments.len()), "{}", moments.len());
        let gaps: Vec<f64> = moments.windows(2).map(|pair| (pair[1].0 - pair[0].0) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!(
            (0.97..1.03).contains(&(deviation / mean)),
            "an exponential's deviation is its mean: {}",
            deviation / mean
        );
        assert_eq!(moments, drain(&mut Pacer::new(pace, span(0, 10 * SECOND), None, 0, 1), 10 * SECOND));
    }
}
