//! One measured figure: its median and spread, its unit, and whether it is where it should be.

use serde::{Deserialize, Serialize};

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// ns.
    Nanoseconds,
    /// µs.
    Microseconds,
    /// ms.
    Milliseconds,
    /// s.
    Seconds,
    /// Events per second.
    PerSecond,
    /// Millions of packets per second.
    Mpps,
    /// Bytes.
    Bytes,
    /// 1,024 bytes.
    Kibibytes,
    /// 1,048,576 bytes.
    Mebibytes,
    /// 1,000,000 bytes.
    Megabytes,
    /// A share between 0 and 1, shown in percent.
    Share,
    /// One figure divided by another of the same unit.
    Ratio,
    /// Whole things.
    Count,
    /// Instructions of the processor.
    Instructions,
}

/// A figure over the rounds of a measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// In this unit.
    pub unit: Unit,
    /// Median of the rounds.
    pub median: f64,
    /// Least of the rounds, where there were several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub least: Option<f64>,
    /// Most of the rounds, where there were several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<f64>,
    /// What was measured for the product as a share of this figure, which is a peer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// Where it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<Goal>,
}

/// Where a figure should be, in the figure's unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Goal {
    /// Which side is good.
    pub bound: Bound,
    /// The last good figure.
    pub limit: f64,
}

/// Which side of a limit is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Less is better.
    AtMost,
    /// More is better.
    AtLeast,
}

/// Whether a figure is where it should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// It is.
    Reached,
    /// It is not, by this share of the limit; `None` where the limit is 0.
    Missed(Option<f64>),
}

impl Figure {
    /// Without rounds.
    #[must_use]
    pub const fn exact(unit: Unit, value: f64) -> Self {
        Self { unit, median: value, least: None, most: None, ratio: None, goal: None }
    }

    /// Whole things.
    #[must_use]
    pub const fn count(things: u64) -> Self {
        Self::exact(Unit::Count, things as f64)
    }

    /// Median, least and most of the rounds; `None` of none. What is no number is left out.
    #[must_use]
    pub fn of_rounds(unit: Unit, rounds: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut rounds: Vec<f64> = rounds.into_iter().filter(|value| value.is_finite()).collect();
        rounds.sort_by(f64::total_cmp);
        let (least, most) = (*rounds.first()?, *rounds.last()?);
        let middle = rounds.len() / 2;
        let median =
            if rounds.len() % 2 == 1 { rounds[middle] } else { f64::midpoint(rounds[middle - 1], rounds[middle]) };
        let several = rounds.len() > 1;
        Some(Self { least: several.then_some(least), most: several.then_some(most), ..Self::exact(unit, median) })
    }

    /// The same with a goal: at most that much.
    #[must_use]
    pub const fn at_most(mut self, limit: f64) -> Self {
        self.goal = Some(Goal { bound: Bound::AtMost, limit });
        self
    }

    /// The same with a goal: at least that much.
    #[must_use]
    pub const fn at_least(mut self, limit: f64) -> Self {
        self.goal = Some(Goal { bound: Bound::AtLeast, limit });
        self
    }

    /// The same, with the product's share of it.
    #[must_use]
    pub const fn with_ratio(mut self, ratio: f64) -> Self {
        self.ratio = Some(ratio);
        self
    }

    /// Whether it is where it should be, if anybody said where.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        self.goal.map(|goal| goal.verdict(self.median))
    }
}

impl Goal {
    /// Of a figure in the goal's unit. What is no number has missed it.
    #[must_use]
    pub fn verdict(&self, value: f64) -> Verdict {
        let reached = match self.bound {
            Bound::AtMost => value <= self.limit,
            Bound::AtLeast => value >= self.limit,
        };
        if reached {
            return Verdict::Reached;
        }
        let by = (value - self.limit).abs() / self.limit.abs();
        Verdict::Missed(by.is_finite().then_some(by))
    }

    /// `≤ 30` or `≥ 3`.
    #[must_use]
    pub fn text(&self, unit: Unit) -> String {
        let sign = match self.bound {
            Bound::AtMost => '≤',
            Bound::AtLeast => '≥',
        };
        format!("{sign} {}", unit.limit(self.limit))
    }
}

impl Verdict {
    /// `reached` or `missed by 7 %`.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Reached => "reached".to_owned(),
            Self::Missed(None) => "missed".to_owned(),
            Self::Missed(Some(by)) => format!("missed by {}", Unit::Share.number(*by)),
        }
    }
}

impl Unit {
    /// Its sign; empty where the number says enough.
    #[must_use]
    pub const fn sign(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Microseconds => "µs",
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
            Self::PerSecond => "/s",
            Self::Mpps => "Mpps",
            Self::Bytes => "B",
            Self::Kibibytes => "KiB",
            Self::Mebibytes => "MiB",
            Self::Megabytes => "MB",
            Self::Share => "%",
            Self::Ratio | Self::Count => "",
            Self::Instructions => "instructions",
        }
    }

    /// A value as people read it, without the sign (but for percent): three digits that mean something, whole things whole.
    #[must_use]
    pub fn number(self, value: f64) -> String {
        match self {
            _ if !value.is_finite() => "-".to_owned(),
            Self::Share => format!("{} %", percent(value * 100.0)),
            Self::Count | Self::Bytes | Self::Instructions if value.fract() == 0.0 => grouped(value, 0),
            Self::Ratio if value.abs() < 1.0 => grouped(value, 3),
            _ => grouped(value, decimals(value)),
        }
    }

    /// A value with the sign.
    #[must_use]
    pub fn text(self, value: f64) -> String {
        match self {
            Self::Share | Self::Ratio | Self::Count => self.number(value),
            Self::PerSecond => format!("{}/s", self.number(value)),
            _ => format!("{} {}", self.number(value), self.sign()),
        }
    }

    /// A limit, which somebody chose: all its digits and no more.
    fn limit(self, value: f64) -> String {
        let (value, end) = if self == Self::Share { (value * 100.0, " %") } else { (value, "") };
        let all = format!("{value:.4}");
        let short = all.trim_end_matches('0').trim_end_matches('.');
        let decimals = short.split_once('.').map_or(0, |(_, decimals)| decimals.len());
        format!("{}{end}", grouped(value, decimals))
    }
}

/// Decimals that leave three digits, and two of small values.
fn decimals(value: f64) -> usize {
    match value.abs() {
        0.0 => 0,
        value if value >= 99.95 => 0,
        value if value >= 9.995 => 1,
        value if value >= 0.0995 => 2,
        value if value >= 0.00995 => 3,
        _ => 4,
    }
}

/// More of what is near to nothing and to all.
fn percent(value: f64) -> String {
    match value.abs() {
        value if value == 0.0 || value == 100.0 => format!("{value:.0}"),
        near if near < 1.0 || (99.0 < near && near < 100.0) => format!("{value:.2}"),
        near if near < 10.0 || (95.0 < near && near < 100.0 && near.fract() != 0.0) => format!("{value:.1}"),
        _ => grouped(value, 0),
    }
}

/// With commas between thousands.
fn grouped(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", value.abs());
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let mut out = String::from(if value < 0.0 { "-" } else { "" });
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_mean_something() {
        let cases = [
            (Unit::Nanoseconds, 21.04, "21.0"),
            (Unit::Nanoseconds, 0.0, "0"),
            (Unit::Microseconds, 0.0034, "0.0034"),
            (Unit::Milliseconds, 9.999, "10.0"),
            (Unit::Milliseconds, 1_285.4, "1,285"),
            (Unit::PerSecond, 67_148.3, "67,148"),
            (Unit::Count, 1_609_864.0, "1,609,864"),
            (Unit::Count, 2.5, "2.50"),
            (Unit::Ratio, 0.8542, "0.854"),
            (Unit::Ratio, 3.2, "3.20"),
            (Unit::Share, 0.9993, "99.93 %"),
            (Unit::Share, 0.987, "98.7 %"),
            (Unit::Share, 0.25, "25 %"),
            (Unit::Share, 0.0, "0 %"),
            (Unit::Share, -0.089, "-8.9 %"),
            (Unit::Seconds, f64::NAN, "-"),
        ];
        for (unit, value, expected) in cases {
            assert_eq!(unit.number(value), expected, "{value} {unit:?}");
        }
    }

    #[test]
    fn rounds_come_to_median_and_spread() {
        let of = |rounds: &[f64]| Figure::of_rounds(Unit::Nanoseconds, rounds.iter().copied());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[f64::NAN]), None);
        assert_eq!(of(&[7.0]), Some(Figure::exact(Unit::Nanoseconds, 7.0)));
        let even = of(&[4.0, 1.0, 2.0, 8.0]).expect("of four");
        assert_eq!((even.median, even.least, even.most), (3.0, Some(1.0), Some(8.0)));
    }

    #[test]
    fn goals_say_by_how_much_they_were_missed() {
        let verdict = |figure: Figure| figure.verdict().map(|verdict| verdict.text());
        let ns = |value| Figure::exact(Unit::Nanoseconds, value);
        assert_eq!(verdict(ns(30.0).at_most(30.0)).as_deref(), Some("reached"));
        assert_eq!(verdict(ns(33.0).at_most(30.0)).as_deref(), Some("missed by 10 %"));
        assert_eq!(verdict(ns(33.0).at_least(30.0)).as_deref(), Some("reached"));
        assert_eq!(verdict(ns(1.0).at_most(0.0)).as_deref(), Some("missed"));
        assert_eq!(verdict(ns(f64::NAN).at_most(1.0)).as_deref(), Some("missed"));
        assert_eq!(verdict(ns(1.0)), None);
        let goal = Goal { bound: Bound::AtMost, limit: 0.85 };
        assert_eq!(goal.text(Unit::Ratio), "≤ 0.85");
        assert_eq!(Goal { bound: Bound::AtLeast, limit: 500_000.0 }.text(Unit::PerSecond), "≥ 500,000");
        assert_eq!(Goal { bound: Bound::AtLeast, limit: 0.999 }.text(Unit::Share), "≥ 99.9 %");
    }
}
