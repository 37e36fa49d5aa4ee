//! Lying bars with their names at the left, their values at the right, and whiskers from least to most.

use super::scale::Scale;
use super::{Drawing, WIDTH, stroke, style, width, words};
use crate::report::escape::Escaped;
use crate::report::figure::{Figure, Unit};
use crate::report::model::{Bars, Group};
use std::fmt::Write as _;

/// From one bar to the next.
const PITCH: f64 = 20.0;
const THICK: f64 = 12.0;
/// The name of a group, and the room above it.
const HEAD: f64 = 18.0;
const GAP: f64 = 8.0;
/// Room for values.
const RIGHT: f64 = 58.0;
/// Names that need more stand above their bars.
const LEFT: f64 = 150.0;
/// More names are not told apart by colour: then it says who is ours.
const COLOURS: usize = 5;
const OURS: &str = "Sluicegate";
/// The class of who is not, then.
const OTHERS: usize = 6;
/// Groups whose greatest bars differ by more have a scale each.
const ONE_SCALE: f64 = 40.0;

/// Draws them.
pub fn drawn(bars: &Bars) -> Drawing {
    let longest = names(bars).map(width).fold(0.0, f64::max) + 10.0;
    let above = longest > LEFT;
    let left = if above { 4.0 } else { longest };
    let common = common_scale(bars);
    let mut canvas = Canvas { left, above, unit: bars.unit, y: 4.0, shapes: String::new() };
    let order = order(bars);
    for group in &bars.groups {
        let scale = common.unwrap_or_else(|| Scale::from_zero(extent(group)));
        canvas.group(group, scale, &order);
    }
    if let Some(scale) = common {
        canvas.axis(scale);
    }
    let count = bars.groups.iter().map(|group| group.bars.len()).sum::<usize>();
    Drawing {
        height: canvas.y + 4.0,
        shapes: canvas.shapes,
        description: format!("{count} bars, {}. The values follow as a table.", unit(bars.unit)),
    }
}

/// What must be known to read them rightly.
pub fn remark(bars: &Bars) -> Option<&'static str> {
    let marked = bars.groups.iter().flat_map(|group| &group.bars).any(|bar| bar.figure.goal.is_some());
    match (common_scale(bars), marked) {
        (None, false) => Some("each group has a scale of its own"),
        (None, true) => Some("each group has a scale of its own; dashed marks: what is to be reached"),
        (Some(_), true) => Some("dashed marks: what is to be reached"),
        (Some(_), false) => None,
    }
}

/// The scale of all groups, where they are near enough to be compared on one.
fn common_scale(bars: &Bars) -> Option<Scale> {
    let tops: Vec<f64> =
        bars.groups.iter().map(|group| extent(group).fold(0.0, f64::max)).filter(|top| *top > 0.0).collect();
    let (least, most) =
        tops.iter().fold((f64::INFINITY, 0.0_f64), |(least, most), top| (least.min(*top), most.max(*top)));
    (tops.is_empty() || most <= least * ONE_SCALE).then(|| Scale::from_zero(bars.groups.iter().flat_map(extent)))
}

struct Canvas {
    left: f64,
    /// Names stand above bars.
    above: bool,
    unit: Unit,
    y: f64,
    shapes: String,
}

impl Canvas {
    fn group(&mut self, group: &Group, scale: Scale, order: &[&str]) {
        if !group.name.is_empty() {
            self.y += HEAD;
            words(&mut self.shapes, (0.0, self.y - 5.0), "head", &group.name);
        }
        for bar in &group.bars {
            let class = match order.iter().position(|name| *name == bar.name) {
                Some(at) if order.len() <= COLOURS => style(at),
                _ if bar.name.starts_with(OURS) => 0,
                _ => OTHERS,
            };
            self.bar(group, &bar.name, &bar.figure, scale, class);
        }
        self.y += GAP;
    }

    fn bar(&mut self, group: &Group, name: &str, figure: &Figure, scale: Scale, class: usize) {
        if self.above {
            self.y += 14.0;
            words(&mut self.shapes, (self.left, self.y - 2.0), "start", name);
        } else {
            words(&mut self.shapes, (self.left - 6.0, self.y + PITCH / 2.0 + 4.0), "end", name);
        }
        let (top, middle) = (self.y + (PITCH - THICK) / 2.0, self.y + PITCH / 2.0);
        let (from, to) = (self.left, self.at(scale, figure.median));
        let of = if group.name.is_empty() { String::new() } else { format!("{}, ", group.name) };
        // Writing to a String does not fail.
        let _ok = write!(
            self.shapes,
            "<g class=\"s{class}\"><title>{}</title><rect class=\"bar\" x=\"{from:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{THICK}\"/>",
            Escaped(&format!("{of}{name}: {}", hover(figure))),
            (to - from).max(0.5)
        );
        let mut end = to;
        if let (Some(least), Some(most)) = (figure.least, figure.most) {
            let (low, high) = (self.at(scale, least), self.at(scale, most));
            stroke(&mut self.shapes, "whisker", (low, middle), (high, middle));
            for x in [low, high] {
                stroke(&mut self.shapes, "whisker", (x, middle - 3.0), (x, middle + 3.0));
            }
            end = end.max(high);
        }
        self.shapes.push_str("</g>");
        if let Some(goal) = &figure.goal {
            let x = self.at(scale, goal.limit);
            stroke(&mut self.shapes, "goal", (x, top - 3.0), (x, top + THICK + 3.0));
            let text = width(&self.unit.number(figure.median)) + 8.0;
            end = if (end - 2.0..end + text).contains(&x) { x } else { end };
        }
        words(&mut self.shapes, (end + 5.0, middle + 4.0), "start value", &self.unit.number(figure.median));
        self.y += PITCH;
    }

    fn axis(&mut self, scale: Scale) {
        let (top, bottom) = (2.0, self.y);
        let mut grid = String::new();
        for tick in scale.ticks() {
            let x = self.at(scale, tick);
            stroke(&mut grid, "grid", (x, top), (x, bottom));
            words(&mut self.shapes, (x, bottom + 13.0), "middle tick", &tick_text(self.unit, tick));
        }
        words(&mut self.shapes, (WIDTH, bottom + 13.0), "end tick", self.unit.sign());
        // Behind the bars.
        self.shapes.insert_str(0, &grid);
        self.y = bottom + 16.0;
    }

    fn at(&self, scale: Scale, value: f64) -> f64 {
        self.left + scale.share(value) * (WIDTH - RIGHT - self.left)
    }
}

/// A figure in words.
fn hover(figure: &Figure) -> String {
    let mut text = figure.unit.text(figure.median);
    if let (Some(least), Some(most)) = (figure.least, figure.most) {
        text += &format!(" ({} to {})", figure.unit.number(least), figure.unit.number(most));
    }
    if let (Some(goal), Some(verdict)) = (&figure.goal, figure.verdict()) {
        text += &format!(", {} ({})", verdict.text(), goal.text(figure.unit));
    }
    text
}

fn names(bars: &Bars) -> impl Iterator<Item = &str> {
    bars.groups.iter().flat_map(|group| group.bars.iter().map(|bar| bar.name.as_str()))
}

/// Names in the order in which they first appear: each has one colour.
fn order(bars: &Bars) -> Vec<&str> {
    let mut order = Vec::new();
    for name in names(bars) {
        if !order.contains(&name) {
            order.push(name);
        }
    }
    order
}

/// Everything that must find room in a group.
fn extent(group: &Group) -> impl Iterator<Item = f64> {
    group.bars.iter().flat_map(|bar| {
        let figure = &bar.figure;
        [Some(figure.median), figure.most, figure.goal.map(|goal| goal.limit)].into_iter().flatten()
    })
}

fn tick_text(unit: Unit, tick: f64) -> String {
    if unit == Unit::Share { format!("{:.0}", tick * 100.0) } else { super::curves::round_text(tick) }
}

fn unit(unit: Unit) -> String {
    if unit.sign().is_empty() { "without a unit".to_owned() } else { format!("in {}", unit.sign()) }
}
