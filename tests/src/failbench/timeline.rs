//! The result as a picture: a row per fault, a panel per side; latency of GETs over time, failures on top.
//!
//! Each stroke stands for 50 ms and shows the slowest request scheduled in it, in the worst run. Latency is
//! logarithmic, from 1 ms to 1 s.

use std::fmt::Write as _;

use super::fault::Fault;
use super::figures::{MOMENT, Moment};
use super::subject::Subject;
use super::verdict::Row;

const NAMES: f64 = 190.0;
const PANEL: (f64, f64) = (210.0, 84.0);
const GAP: f64 = 14.0;
const TITLE: f64 = 76.0;
/// Latencies at the bottom and at the top, ms.
const RANGE: (f64, f64) = (1.0, 1000.0);

/// An SVG of all rows. `note` stands below the title.
#[must_use]
#[allow(clippy::cast_precision_loss)] // Pixels.
pub fn svg(rows: &[(Fault, Row<'_>)], note: &str) -> String {
    let mut subjects: Vec<Subject> = rows.iter().flat_map(|(_, row)| row.keys().copied()).collect();
    subjects.sort_unstable();
    subjects.dedup();
    let width = NAMES + subjects.len() as f64 * (PANEL.0 + GAP);
    let height = TITLE + rows.len() as f64 * (PANEL.1 + GAP);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" font-family=\"system-ui, sans-serif\" \
         font-size=\"12\" fill=\"#24292f\">\n<rect width=\"100%\" height=\"100%\" \
         fill=\"#ffffff\"/>\n<text x=\"12\" y=\"24\" font-size=\"16\" font-weight=\"600\">What the \
         caller feels when a host is lost</text>\n<text x=\"12\" y=\"42\" fill=\"#57606a\">{}</text>\n",
        escaped(note)
    );
    // Writing to a String cannot fail.
    for (n, subject) in subjects.iter().enumerate() {
        let x = NAMES + n as f64 * (PANEL.0 + GAP);
        let title = subject.title();
        let _ = writeln!(text, "<text x=\"{x}\" y=\"66\" font-weight=\"600\">{title}</text>");
    }
    for (n, (fault, row)) in rows.iter().enumerate() {
        let y = TITLE + n as f64 * (PANEL.1 + GAP);
        let name = escaped(fault.title());
        let (before, after) = name.split_once(": ").unwrap_or((&name, ""));
        let _ = writeln!(text, "<text x=\"12\" y=\"{}\">{before}</text>", y + 20.0);
        let _ = writeln!(text, "<text x=\"12\" y=\"{}\">{after}</text>", y + 36.0);
        for (m, subject) in subjects.iter().enumerate() {
            let x = NAMES + m as f64 * (PANEL.0 + GAP);
            let runs = row.get(subject).map(Vec::as_slice).unwrap_or_default();
            panel(&mut text, &worst(runs.iter().map(|figures| &figures.timeline[..])), (x, y));
        }
    }
    text.push_str("</svg>\n");
    text
}

/// The worst of all runs, moment by moment.
fn worst<'a>(runs: impl Iterator<Item = &'a [Moment]>) -> Vec<Moment> {
    let mut all: Vec<Moment> = runs.flatten().copied().collect();
    all.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
    let mut merged: Vec<Moment> = Vec::new();
    for moment in all {
        match merged.last_mut().filter(|last| moment.at_s - last.at_s < MOMENT.as_secs_f64() / 2.0)
        {
            Some(last) => {
                last.slowest_ms = last.slowest_ms.max(moment.slowest_ms);
                last.failed = last.failed.max(moment.failed);
            }
            None => merged.push(moment),
        }
    }
    merged
}

fn panel(text: &mut String, moments: &[Moment], (x, y): (f64, f64)) {
    let (width, height) = PANEL;
    let _ = writeln!(
        text,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"#f6f8fa\"/>"
    );
    let (Some(first), Some(last)) = (moments.first(), moments.last()) else { return };
    let span = (last.at_s - first.at_s + MOMENT.as_secs_f64()).max(MOMENT.as_secs_f64());
    let across = |at_s: f64| x + (at_s - first.at_s) / span * width;
    for line in [10.0, 100.0] {
        let level = y + height - share(line) * height;
        let _ = writeln!(
            text,
            "<line x1=\"{x}\" x2=\"{:.1}\" y1=\"{level:.1}\" y2=\"{level:.1}\" stroke=\"#d0d7de\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"8\" fill=\"#57606a\">{line} ms</text>",
            x + width,
            x + 2.0,
            level - 2.0
        );
    }
    let fault = across(0.0);
    let _ = writeln!(
        text,
        "<line x1=\"{fault:.1}\" x2=\"{fault:.1}\" y1=\"{y}\" y2=\"{:.1}\" stroke=\"#57606a\" \
         stroke-dasharray=\"2 2\"/>",
        y + height
    );
    let (mut fine, mut bad) = (String::new(), String::new());
    for moment in moments {
        let at = across(moment.at_s + MOMENT.as_secs_f64() / 2.0);
        let _ =
            write!(fine, "M{at:.1} {:.1}v-{:.1}", y + height, share(moment.slowest_ms) * height);
        if moment.failed > 0 {
            let _ = write!(bad, "M{at:.1} {y:.1}v8");
        }
    }
    let _ = writeln!(text, "<path d=\"{fine}\" stroke=\"#0969da\" stroke-width=\"0.8\"/>");
    let _ = writeln!(text, "<path d=\"{bad}\" stroke=\"#cf222e\" stroke-width=\"1.2\"/>");
}

/// How high a latency is drawn, 0 to 1.
fn share(ms: f64) -> f64 {
    let (low, high) = RANGE;
    ((ms.clamp(low, high) / low).ln() / (high / low).ln()).max(0.02)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::{Moment, share, worst};

    #[test]
    fn moments_of_several_runs_become_the_worst_of_each() {
        let moment = |at_s, slowest_ms, failed| Moment { at_s, slowest_ms, failed };
        let one = [moment(-0.05, 3.0, 0), moment(0.0, 21.0, 0)];
        let two = [moment(-0.05, 2.0, 0), moment(0.0, 4.0, 2), moment(0.05, 1.0, 0)];
        let merged = worst([&one[..], &two[..]].into_iter());
        assert_eq!(merged, [moment(-0.05, 3.0, 0), moment(0.0, 21.0, 2), moment(0.05, 1.0, 0)]);
    }

    #[test]
    fn a_second_is_at_the_top_and_what_is_later_does_not_leave_the_panel() {
        assert!((share(1000.0) - 1.0).abs() < 1e-9 && (share(5000.0) - 1.0).abs() < 1e-9);
        assert!(share(0.1) < 0.05);
    }
}
