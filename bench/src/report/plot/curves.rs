//! Curves over two axes.

use super::scale::Scale;
use super::{Drawing, WIDTH, stroke, style, words};
use crate::report::escape::Escaped;
use crate::report::figure::Unit;
use crate::report::model::{Axis, Lines, Percentiles};
use std::fmt::Write as _;

const HEIGHT: f64 = 260.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 36.0;
/// Values that differ by more lie on an axis of ratios.
const ONE_DECADE: f64 = 20.0;
/// Further nines than that are not told apart.
const NINES: f64 = 9.0;

/// Latency by percentile: the distance of a share from the left counts the nines in it.
pub fn percentiles(plot: &Percentiles) -> Drawing {
    let values = || plot.curves.iter().flat_map(|curve| curve.points.iter().map(|(_, value)| *value));
    let positive = values().filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
    let most = values().fold(0.0, f64::max);
    let vertical = if most > positive * ONE_DECADE { Scale::decades(values()) } else { Scale::from_zero(values()) };
    let inner = plot.curves.iter().flat_map(|curve| curve.points.iter()).filter(|(share, _)| *share < 1.0);
    let last = inner.map(|(share, _)| nines(*share)).fold(1.0, f64::max);
    let whole = plot.curves.iter().flat_map(|curve| &curve.points).any(|(share, _)| *share >= 1.0);
    // All events lie where another half a nine would.
    let end = if whole { last + 0.5 } else { last };
    let place = |share: f64| if share >= 1.0 { end } else { nines(share).min(last) };
    let mut frame = Frame::new(Scale::Linear(0.0, end), vertical);
    frame.vertical_axis(plot.unit, unit_name(plot.unit));
    for (share, name) in [
        (0.0, "0"),
        (0.5, "50 %"),
        (0.9, "90 %"),
        (0.99, "99 %"),
        (0.999, "99.9"),
        (0.9999, "99.99"),
        (0.99999, "99.999"),
    ] {
        if nines(share) <= last {
            frame.tick(nines(share), name);
        }
    }
    if whole {
        frame.tick(end, "all");
    }
    frame.horizontal_name("share of events, each in at most");
    for (at, curve) in plot.curves.iter().enumerate() {
        let points = curve.points.iter().map(|(share, value)| {
            let said = format!("{}: {} in at most {}", curve.name, percent(*share), plot.unit.text(*value));
            (place(*share), *value, said)
        });
        frame.curve(style(at), points);
    }
    frame.drawing(format!(
        "{} curves of {} by percentile. The values follow as a table.",
        plot.curves.len(),
        unit_name(plot.unit)
    ))
}

/// One thing by another.
pub fn lines(plot: &Lines) -> Drawing {
    let along = |axis: &Axis, values: &mut dyn Iterator<Item = f64>, zero: bool| match (axis.logarithmic, zero) {
        (true, true) => Scale::decades(values),
        (true, false) => Scale::over_ratios(values),
        (false, true) => Scale::from_zero(values),
        (false, false) => Scale::over(values),
    };
    let points = || plot.lines.iter().flat_map(|line| line.points.iter());
    let horizontal = along(&plot.x, &mut points().map(|(x, _)| *x), false);
    let vertical = along(&plot.y, &mut points().map(|(_, y)| *y), true);
    let mut frame = Frame::new(horizontal, vertical);
    frame.vertical_axis(plot.y.unit, &named(&plot.y));
    for tick in horizontal.ticks() {
        frame.tick(tick, &axis_text(plot.x.unit, tick));
    }
    frame.horizontal_name(&named(&plot.x));
    for (at, line) in plot.lines.iter().enumerate() {
        let points = line
            .points
            .iter()
            .map(|(x, y)| (*x, *y, format!("{}: {} at {}", line.name, plot.y.unit.text(*y), plot.x.unit.text(*x))));
        frame.curve(style(at), points);
    }
    frame.drawing(format!(
        "{} by {}, {} lines. The values follow as a table.",
        named(&plot.y),
        named(&plot.x),
        plot.lines.len()
    ))
}

/// `99.9 %` with all its digits.
pub fn percent(share: f64) -> String {
    let text = format!("{:.6}", share * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A round value without digits that say nothing.
pub fn round_text(value: f64) -> String {
    match value.abs() {
        huge if huge >= 1e9 => format!("{}G", short(value / 1e9)),
        large if large >= 1e6 => format!("{}M", short(value / 1e6)),
        many if many >= 1e4 => format!("{}k", short(value / 1e3)),
        _ => short(value),
    }
}

/// Two axes and what lies between them.
struct Frame {
    horizontal: Scale,
    vertical: Scale,
    shapes: String,
}

impl Frame {
    fn new(horizontal: Scale, vertical: Scale) -> Self {
        Self { horizontal, vertical, shapes: String::new() }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + self.horizontal.share(value) * (WIDTH - RIGHT - LEFT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.vertical.share(value) * (HEIGHT - BOTTOM - TOP)
    }

    fn vertical_axis(&mut self, unit: Unit, name: &str) {
        for tick in self.vertical.ticks() {
            let y = self.y(tick);
            stroke(&mut self.shapes, "grid", (LEFT, y), (WIDTH - RIGHT, y));
            words(&mut self.shapes, (LEFT - 5.0, y + 4.0), "end tick", &axis_text(unit, tick));
        }
        words(&mut self.shapes, (0.0, 11.0), "start tick", name);
    }

    /// One of the horizontal axis.
    fn tick(&mut self, at: f64, text: &str) {
        let x = self.x(at);
        stroke(&mut self.shapes, "grid", (x, TOP), (x, HEIGHT - BOTTOM));
        words(&mut self.shapes, (x, HEIGHT - BOTTOM + 14.0), "middle tick", text);
    }

    fn horizontal_name(&mut self, name: &str) {
        words(&mut self.shapes, (WIDTH - RIGHT, HEIGHT - 5.0), "end tick", name);
    }

    /// A line through points, each of which says what it is.
    fn curve(&mut self, class: usize, points: impl Iterator<Item = (f64, f64, String)>) {
        let points: Vec<(f64, f64, String)> = points.filter(|(x, y, _)| x.is_finite() && y.is_finite()).collect();
        let path: Vec<String> = points.iter().map(|(x, y, _)| format!("{:.1},{:.1}", self.x(*x), self.y(*y))).collect();
        // Writing to a String does not fail.
        let _ok =
            write!(self.shapes, "<g class=\"s{class}\"><polyline class=\"curve\" points=\"{}\"/>", path.join(" "));
        for (x, y, said) in &points {
            let (x, y) = (self.x(*x), self.y(*y));
            let _ok = write!(
                self.shapes,
                "<circle class=\"point\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.4\"><title>{}</title></circle>",
                Escaped(said)
            );
        }
        self.shapes.push_str("</g>");
    }

    fn drawing(self, description: String) -> Drawing {
        Drawing { height: HEIGHT, shapes: self.shapes, description }
    }
}

/// How many nines a share below 1 has: 0.9 has one, 0.99 two.
fn nines(share: f64) -> f64 {
    (-(1.0 - share.clamp(0.0, 1.0)).log10()).clamp(0.0, NINES)
}

fn short(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn axis_text(unit: Unit, value: f64) -> String {
    if unit == Unit::Share { percent(value) } else { round_text(value) }
}

fn named(axis: &Axis) -> String {
    let sign = axis.unit.sign();
    if sign.is_empty() || axis.unit == Unit::Share { axis.name.clone() } else { format!("{}, {sign}", axis.name) }
}

fn unit_name(unit: Unit) -> &'static str {
    if unit.sign().is_empty() { "value" } else { unit.sign() }
}
