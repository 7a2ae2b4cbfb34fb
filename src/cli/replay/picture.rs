//! When what was refused, as a picture: SVG that needs nothing beside it, and is read on light and on dark ground.
//!
//! One panel of all requests, and one of each rule that refuses something, those with most differences first. What was refused
//! before is a filled area, what is refused now a line.

use std::fmt::Write;

use super::chart::{moment, number, percent, span};
use super::line::{Cell, Line};
use super::run::Outcome;
use super::tally::{OfRule, share};

/// The most panels, the one of all requests apart.
const MAX_PANELS: usize = 12;

const WIDTH: usize = 960;
const LEFT: usize = 72;
const RIGHT: usize = 24;
const HEAD: usize = 76;
const PANEL: usize = 150;
/// How high the curves of a panel may be, and how far below its top they begin.
const HEIGHT: usize = 90;
const TITLE: usize = 26;

const STYLE: &str = "
  .ground { fill: #ffffff } text { fill: #1f2328; font: 13px system-ui, sans-serif }
  .title { font-size: 17px; font-weight: 600 } .name { font-weight: 600 } .small { font-size: 11px; fill: #59636e }
  .axis { stroke: #d1d9e0; stroke-width: 1 } .asked { fill: #d1d9e0 } .before { fill: #0969da; fill-opacity: .35 }
  .now { fill: none; stroke: #cf222e; stroke-width: 1.6; stroke-linejoin: round } .key { fill: #cf222e }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117 } text { fill: #e6edf3 } .small { fill: #9198a1 } .axis { stroke: #3d444d }
    .asked { fill: #3d444d } .before { fill: #58a6ff; fill-opacity: .55 } .now { stroke: #ff7b72 } .key { fill: #ff7b72 }
  }
";

/// Draws it.
pub(super) fn svg(outcome: &Outcome) -> String {
    let mut picture = String::new();
    // Writing to a String cannot fail.
    let _ = draw(&mut picture, outcome);
    picture
}

fn draw(to: &mut String, outcome: &Outcome) -> std::fmt::Result {
    let tally = &outcome.tally;
    let mut rules: Vec<(&OfRule, &Line)> = tally
        .rules
        .iter()
        .filter_map(|of| Some((of, of.line.as_ref()?)))
        .collect();
    rules.sort_by_key(|(of, _)| {
        let counts = &of.counts;
        std::cmp::Reverse((
            counts.newly_refused + counts.newly_admitted,
            counts.now,
            counts.before,
        ))
    });
    let left_out = rules.len().saturating_sub(MAX_PANELS);
    rules.truncate(MAX_PANELS);
    let height = HEAD + PANEL * (rules.len() + 1) + 28;
    let total = &tally.total;
    writeln!(
        to,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"Refusals over time, before and now\">\n<style>{STYLE}</style>\n\
         <rect class=\"ground\" width=\"{WIDTH}\" height=\"{height}\"/>"
    )?;
    let said = format!(
        "{} requests: {} newly refused ({}), {} newly admitted",
        number(total.asked),
        number(total.newly_refused),
        percent(total.newly_refused_share()),
        number(total.newly_admitted),
    );
    writeln!(
        to,
        "<text class=\"title\" x=\"{LEFT}\" y=\"30\">{said}</text>"
    )?;
    legend(to)?;
    let cells = tally.line.cells.len().max(1);
    let mut top = HEAD;
    let titled = format!(
        "all: {} refused before, {} now",
        percent(share(total.before, total.asked)),
        percent(share(total.now, total.asked))
    );
    panel(to, top, (&titled, &tally.line, cells), true)?;
    for (of, line) in rules {
        top += PANEL;
        let counts = &of.counts;
        let titled = format!(
            "{} {}: {} refused before, {} now",
            of.domain,
            of.name,
            number(counts.before),
            number(counts.now)
        );
        panel(to, top, (&titled, line, cells), false)?;
    }
    axis(to, outcome, (cells, height))?;
    if left_out > 0 {
        let (x, y) = (WIDTH - RIGHT, height - 8);
        writeln!(
            to,
            "<text class=\"small\" text-anchor=\"end\" x=\"{x}\" y=\"{y}\">{left_out} more rules are not drawn</text>"
        )?;
    }
    writeln!(to, "</svg>")
}

fn legend(to: &mut String) -> std::fmt::Result {
    let mut x = LEFT;
    for (class, name) in [
        ("asked", "requests"),
        ("before", "refused before"),
        ("key", "refused now"),
    ] {
        writeln!(
            to,
            "<rect class=\"{class}\" x=\"{x}\" y=\"44\" width=\"12\" height=\"12\"/>\
             <text x=\"{}\" y=\"55\">{name}</text>",
            x + 18
        )?;
        x += 36 + 8 * name.len();
    }
    Ok(())
}

/// A panel: what was refused, of all requests if `with_all`.
fn panel(
    to: &mut String,
    top: usize,
    (name, line, cells): (&str, &Line, usize),
    with_all: bool,
) -> std::fmt::Result {
    let counts = |count: fn(&Cell) -> u64| {
        let mut counts: Vec<u64> = line.cells.iter().map(count).collect();
        counts.resize(cells, 0);
        counts
    };
    let (before, now) = (counts(|cell| cell.before), counts(|cell| cell.now));
    let asked = counts(|cell| cell.asked);
    let most = before
        .iter()
        .chain(&now)
        .chain(asked.iter().filter(|_| with_all));
    let most = most.copied().max().unwrap_or_default().max(1);
    let floor = top + TITLE + HEIGHT;
    let ceiling = floor - HEIGHT;
    let end = WIDTH - RIGHT;
    writeln!(
        to,
        "<g><text class=\"name\" x=\"{LEFT}\" y=\"{}\">{}</text>\
         <line class=\"axis\" x1=\"{LEFT}\" y1=\"{floor}\" x2=\"{end}\" y2=\"{floor}\"/>\
         <line class=\"axis\" x1=\"{LEFT}\" y1=\"{ceiling}\" x2=\"{end}\" y2=\"{ceiling}\" stroke-dasharray=\"2 4\"/>",
        top + 14,
        escaped(name),
    )?;
    for (y, text) in [(ceiling + 4, number(most)), (floor + 4, "0".to_owned())] {
        writeln!(
            to,
            "<text class=\"small\" text-anchor=\"end\" x=\"{}\" y=\"{y}\">{text}</text>",
            LEFT - 8
        )?;
    }
    if with_all {
        area(to, "asked", &asked, (most, floor))?;
    }
    area(to, "before", &before, (most, floor))?;
    write!(to, "<path class=\"now\" d=\"")?;
    steps(to, &now, (most, floor))?;
    writeln!(to, "\"/></g>")
}

fn area(
    to: &mut String,
    class: &str,
    counts: &[u64],
    (most, floor): (u64, usize),
) -> std::fmt::Result {
    if counts.iter().all(|count| *count == 0) {
        return Ok(());
    }
    write!(to, "<path class=\"{class}\" d=\"")?;
    steps(to, counts, (most, floor))?;
    writeln!(to, "L{} {floor}L{LEFT} {floor}Z\"/>", WIDTH - RIGHT)
}

/// A line of steps: each count for as long as its cell.
fn steps(to: &mut String, counts: &[u64], (most, floor): (u64, usize)) -> std::fmt::Result {
    let wide = (WIDTH - LEFT - RIGHT) as f64 / counts.len().max(1) as f64;
    for (place, count) in counts.iter().enumerate() {
        let y = floor as f64 - HEIGHT as f64 * share(*count, most);
        let x = LEFT as f64 + wide * place as f64;
        let draw = if place == 0 { 'M' } else { 'L' };
        write!(to, "{draw}{x:.1} {y:.1}H{:.1}", x + wide)?;
    }
    Ok(())
}

/// When: at the beginning, in the middle, at the end.
fn axis(to: &mut String, outcome: &Outcome, (cells, height): (usize, usize)) -> std::fmt::Result {
    let scale = outcome.tally.scale;
    let y = height - 24;
    let ends = [(0, "start"), (cells / 2, "middle"), (cells, "end")];
    for (place, anchor) in ends {
        let at = scale.start() + crate::time::Micros::new(scale.length().get() * place as u64);
        let x = LEFT as f64 + (WIDTH - LEFT - RIGHT) as f64 * place as f64 / cells as f64;
        writeln!(
            to,
            "<text class=\"small\" text-anchor=\"{anchor}\" x=\"{x:.0}\" y=\"{y}\">{}</text>",
            moment(at)
        )?;
    }
    writeln!(
        to,
        "<text class=\"small\" x=\"{LEFT}\" y=\"{}\">UTC; each step is {}</text>",
        height - 8,
        span(scale.length())
    )
}

/// Text in XML. Names of rules may have anything in them.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() => escaped.push('\u{FFFD}'),
            c => escaped.push(c),
        }
    }
    escaped
}
