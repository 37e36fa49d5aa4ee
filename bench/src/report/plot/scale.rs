//! From values to places.

/// How values lie on an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// Equal differences at equal distances, from the first to the second value.
    Linear(f64, f64),
    /// Equal ratios at equal distances, between two positive values.
    Logarithmic(f64, f64),
}

impl Scale {
    /// From 0 to a round value that is no less than any of these.
    pub fn from_zero(values: impl Iterator<Item = f64>) -> Self {
        let most = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
        let step = step(most);
        Self::Linear(0.0, if most > 0.0 { (most / step).ceil() * step } else { 1.0 })
    }

    /// Over the positive ones of these, in whole decades.
    pub fn decades(values: impl Iterator<Item = f64>) -> Self {
        match extent(values.filter(|value| *value > 0.0)) {
            Some((least, most)) => {
                let low = least.log10().floor();
                Self::Logarithmic(10_f64.powf(low), 10_f64.powf(most.log10().ceil().max(low + 1.0)))
            }
            None => Self::Logarithmic(1.0, 10.0),
        }
    }

    /// Over the positive ones of these, from the least to the most by their ratio.
    pub fn over_ratios(values: impl Iterator<Item = f64>) -> Self {
        match extent(values.filter(|value| *value > 0.0)) {
            Some((least, most)) if most > least => Self::Logarithmic(least, most),
            Some((one, _)) => Self::decades([one].into_iter()),
            None => Self::Logarithmic(1.0, 10.0),
        }
    }

    /// Over these, from the least to the most.
    pub fn over(values: impl Iterator<Item = f64>) -> Self {
        match extent(values) {
            Some((least, most)) if least < most => Self::Linear(least, most),
            Some((one, _)) => Self::from_zero([one].into_iter()),
            None => Self::Linear(0.0, 1.0),
        }
    }

    /// Where a value lies: 0 at the beginning, 1 at the end; values outside lie at the nearer end.
    pub fn share(self, value: f64) -> f64 {
        let share = match self {
            Self::Linear(from, to) => (value - from) / (to - from),
            Self::Logarithmic(from, to) => (value.max(from) / from).ln() / (to / from).ln(),
        };
        share.clamp(0.0, 1.0)
    }

    /// Round values between the ends.
    pub fn ticks(self) -> Vec<f64> {
        match self {
            Self::Linear(from, to) => {
                let step = step(to - from);
                let first = (from / step).ceil() as i64;
                (first..first + 12).map(|at| at as f64 * step).take_while(|tick| *tick <= to + step / 1e6).collect()
            }
            Self::Logarithmic(from, to) => {
                let (low, high) = ((from.log10() - 1e-9).ceil() as i32, (to.log10() + 1e-9).floor() as i32);
                // Up to eight decades have a tick each.
                let every = usize::try_from((high - low) / 8 + 1).unwrap_or(1);
                (low..=high).step_by(every).map(|decade| 10_f64.powi(decade)).collect()
            }
        }
    }
}

/// Least and most of what is a number.
fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|value| value.is_finite()).fold(None, |found, value| {
        let (least, most) = found.unwrap_or((value, value));
        Some((value.min(least), value.max(most)))
    })
}

/// The round value, of those that are 1, 2 or 5 times a power of ten, that divides a span into three to six parts.
fn step(span: f64) -> f64 {
    if !(span > 0.0 && span.is_finite()) {
        return 1.0;
    }
    let rough = span / 5.0;
    let decade = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|digit| digit * decade).find(|step| *step >= rough).unwrap_or(rough)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(Scale::from_zero([3.0, 131.0].into_iter()), Scale::Linear(0.0, 150.0));
        assert_eq!(Scale::Linear(0.0, 150.0).ticks(), [0.0, 50.0, 100.0, 150.0]);
        assert_eq!(Scale::from_zero([].into_iter()), Scale::Linear(0.0, 1.0));
        let latency = Scale::decades([0.12, 48.0].into_iter());
        assert_eq!(latency.ticks().len(), 4, "{latency:?}");
        assert_eq!((latency.share(0.1), latency.share(1_000.0), latency.share(0.0)), (0.0, 1.0, 0.0));
        assert_eq!(Scale::over_ratios([1_024.0, 1_048_576.0].into_iter()).ticks(), [1e4, 1e5, 1e6]);
        for many in [1e-9, 7.3, 1e4, 9.9e12] {
            let ticks = Scale::from_zero([many].into_iter()).ticks();
            assert!((3..=8).contains(&ticks.len()), "{many}: {ticks:?}");
        }
    }

    #[test]
    fn what_is_no_number_draws_nothing_absurd() {
        for scale in [
            Scale::from_zero([f64::NAN, f64::INFINITY].into_iter()),
            Scale::decades([f64::NAN, -1.0].into_iter()),
            Scale::over_ratios([0.0].into_iter()),
            Scale::over_ratios([3.0].into_iter()),
            Scale::over([5.0, 5.0].into_iter()),
            Scale::over([].into_iter()),
        ] {
            assert!(scale.share(0.5).is_finite() && !scale.ticks().is_empty(), "{scale:?}");
        }
    }
}
