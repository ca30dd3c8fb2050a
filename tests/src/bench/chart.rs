//! The result as a picture: a panel per figure, a bar per pair, a whisker from the smallest to the largest.

use std::fmt::Write as _;

use super::figures::{Metric, Spread, Summary};
use super::peers::Subject;
use super::table::number;

const PANELS: [Metric; 18] = [
    Metric::Rps32,
    Metric::Rps64,
    Metric::Cpu32,
    Metric::Cpu64,
    Metric::P50,
    Metric::P99,
    Metric::Bulk,
    Metric::CpuPerGib,
    Metric::RssIdleA,
    Metric::RssManyA,
    Metric::Calls,
    Metric::CpuCalls,
    Metric::CallEchoes,
    Metric::CpuCallEchoes,
    Metric::Streamed,
    Metric::CpuStreamed,
    Metric::Messages,
    Metric::CpuMessages,
];
const COLUMNS: usize = 2;
const PANEL: usize = 470;
const NAMES: usize = 150;
const BAR: usize = 220;
const LINE: usize = 20;
const HEAD: usize = 34;
/// Height of the title and the two lines below it.
const TITLE: usize = 72;

/// An SVG of the whole summary. `note` stands below the title, what follows its first `;` on a line of its
/// own.
#[must_use]
pub fn svg(summary: &Summary, note: &str) -> String {
    let pairs: Vec<Subject> = summary.keys().copied().filter(|s| *s != Subject::Direct).collect();
    let (first, second) = note.split_once(';').unwrap_or((note, ""));
    let panel = HEAD + LINE * pairs.len() + 16;
    let taken = |metric: &Metric| summary.values().any(|of| of.contains_key(metric));
    let panels: Vec<Metric> = PANELS.into_iter().filter(taken).collect();
    let (width, height) = (COLUMNS * PANEL, TITLE + panels.len().div_ceil(COLUMNS) * panel);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" font-family=\"system-ui, sans-serif\" \
         font-size=\"12\" fill=\"#24292f\">\n<rect width=\"100%\" height=\"100%\" \
         fill=\"#ffffff\"/>\n<text x=\"12\" y=\"24\" font-size=\"16\" font-weight=\"600\">Cost of a \
         pair of sidecars</text>\n<text x=\"12\" y=\"42\" fill=\"#57606a\">{}</text>\n\
         <text x=\"12\" y=\"58\" fill=\"#57606a\">{}</text>\n",
        escaped(first),
        escaped(second.trim_start())
    );
    for (n, &metric) in panels.iter().enumerate() {
        let (x, y) = ((n % COLUMNS) * PANEL + 12, TITLE + (n / COLUMNS) * panel);
        draw(&mut text, metric, &pairs, summary, x, y);
    }
    text.push_str("</svg>\n");
    text
}

fn draw(text: &mut String, metric: Metric, pairs: &[Subject], all: &Summary, x: usize, y: usize) {
    let found = |subject: &Subject| all[subject].get(&metric).copied();
    let largest = pairs.iter().filter_map(found).map(|s| s.max).fold(f64::MIN_POSITIVE, f64::max);
    let better = if metric.more_is_better() { "more is better" } else { "less is better" };
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "<text x=\"{x}\" y=\"{}\" font-weight=\"600\">{} <tspan font-weight=\"400\" \
         fill=\"#57606a\">({better})</tspan></text>",
        y + 18,
        escaped(metric.title().trim())
    );
    for (n, subject) in pairs.iter().enumerate() {
        let top = y + HEAD + n * LINE - 8;
        let _ = writeln!(text, "<text x=\"{x}\" y=\"{}\">{}</text>", top + 12, subject.title());
        let left = x + NAMES;
        match found(subject) {
            None => {
                let _ = writeln!(text, "<text x=\"{left}\" y=\"{}\">–</text>", top + 12);
            }
            Some(spread) => bar(text, spread, largest, *subject == Subject::Hearth, (left, top)),
        }
    }
}

#[allow(clippy::cast_precision_loss)] // Pixels.
fn bar(text: &mut String, spread: Spread, largest: f64, ours: bool, (x, y): (usize, usize)) {
    let at = |value: f64| value / largest * BAR as f64;
    let colour = if ours { "#d1570b" } else { "#8c959f" };
    let (min, max) = (x as f64 + at(spread.min), x as f64 + at(spread.max));
    let _ = writeln!(
        text,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{:.1}\" height=\"14\" fill=\"{colour}\"/>\
         <line x1=\"{min:.1}\" x2=\"{max:.1}\" y1=\"{2}\" y2=\"{2}\" stroke=\"#24292f\"/>\
         <text x=\"{:.1}\" y=\"{3}\">{4}</text>",
        at(spread.median),
        max + 6.0,
        y + 7,
        y + 12,
        number(spread.median)
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::{Metric, Spread, Subject, svg};

    #[test]
    fn a_pair_without_a_figure_has_a_dash_and_the_note_is_escaped() {
        let spread = Spread { median: 10.0, min: 9.0, max: 12.0 };
        let all =
            [(Subject::Hearth, [(Metric::Cpu64, spread)].into()), (Subject::EnvoyH2, [].into())];
        let text = svg(&all.into(), "a < b");
        assert!(text.contains("a &lt; b") && text.contains("–"));
        assert_eq!(text.matches("#d1570b").count(), 1);
    }
}
