//! Plots as SVG that stands in the page. Colours, dashes and fonts are the page's: here are shapes and their classes.

mod bars;
mod curves;
mod scale;

use super::escape::Escaped;
use super::model::Plot;
use std::fmt::Write as _;

/// Width of every plot in its own units, which are pixels on a small screen: letters stay legible there.
const WIDTH: f64 = 420.0;
/// Colours and dashes that the page knows; further ones begin anew.
const STYLES: usize = 8;

/// A plot as one `svg` element, labelled by elements of its own that are named after `id`.
pub fn svg(plot: &Plot, id: &str) -> String {
    let drawing = match plot {
        Plot::Bars(bars) => bars::drawn(bars),
        Plot::Percentiles(percentiles) => curves::percentiles(percentiles),
        Plot::Lines(lines) => curves::lines(lines),
    };
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-labelledby=\"{id}-title {id}-desc\"><title id=\"{id}-title\">{}</title>\
         <desc id=\"{id}-desc\">{}</desc>{}</svg>",
        drawing.height,
        Escaped(title(plot)),
        Escaped(&drawing.description),
        drawing.shapes
    )
}

/// What a plot shows.
pub fn title(plot: &Plot) -> &str {
    match plot {
        Plot::Bars(bars) => &bars.title,
        Plot::Percentiles(percentiles) => &percentiles.title,
        Plot::Lines(lines) => &lines.title,
    }
}

/// What must be known to read a plot rightly.
pub fn remark(plot: &Plot) -> Option<&'static str> {
    match plot {
        Plot::Bars(bars) => bars::remark(bars),
        Plot::Percentiles(_) | Plot::Lines(_) => None,
    }
}

/// Names and classes of what has no label in the drawing itself.
pub fn legend(plot: &Plot) -> Vec<(&str, usize)> {
    let names: Vec<&str> = match plot {
        // Each bar has its name beside it.
        Plot::Bars(_) => Vec::new(),
        Plot::Percentiles(percentiles) => percentiles.curves.iter().map(|curve| curve.name.as_str()).collect(),
        Plot::Lines(lines) => lines.lines.iter().map(|line| line.name.as_str()).collect(),
    };
    names.into_iter().enumerate().map(|(at, name)| (name, style(at))).collect()
}

/// What one kind of plot comes to.
struct Drawing {
    height: f64,
    shapes: String,
    /// For who does not see it.
    description: String,
}

/// The class of the series of that number.
const fn style(series: usize) -> usize {
    series % STYLES
}

/// About how wide words are.
fn width(text: &str) -> f64 {
    text.chars().map(|sign| if sign.is_uppercase() { 8.3 } else { 6.2 }).sum()
}

/// Words at a place; `class` says which end of them is there.
fn words(shapes: &mut String, (x, y): (f64, f64), class: &str, text: &str) {
    // Writing to a String does not fail.
    let _ok = write!(shapes, "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{}</text>", Escaped(text));
}

/// A straight line.
fn stroke(shapes: &mut String, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let _ok = write!(shapes, "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>");
}
