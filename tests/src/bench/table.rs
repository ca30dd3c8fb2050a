//! The result as text: one table of all figures, one of the goals.

use std::fmt::Write as _;

use super::figures::{Against, Fate, Metric, Spread, Summary, Verdict};
use super::peers::Subject;

/// A line per figure that was taken, a column per pair: median, and the range where there was more than
/// one round.
#[must_use]
pub fn figures(summary: &Summary, ranges: bool) -> String {
    let subjects: Vec<Subject> = summary.keys().copied().collect();
    let mut text = format!("{:<26}", "");
    let width = if ranges { 26 } else { 22 };
    // Writing to a String cannot fail.
    for subject in &subjects {
        let _ = write!(text, "{:>width$}", subject.title());
    }
    text.push('\n');
    let taken = |metric: &Metric| summary.values().any(|of| of.contains_key(metric));
    for metric in Metric::ALL.into_iter().filter(taken) {
        let _ = write!(text, "{:<26}", metric.title());
        for subject in &subjects {
            let cell = summary[subject].get(&metric).map_or("–".to_owned(), |s| cell(*s, ranges));
            let _ = write!(text, "{cell:>width$}");
        }
        text.push('\n');
    }
    text
}

fn cell(spread: Spread, ranges: bool) -> String {
    match ranges {
        false => number(spread.median),
        true => {
            let (min, max) = (number(spread.min), number(spread.max));
            format!("{} [{min}–{max}]", number(spread.median))
        }
    }
}

/// Three significant digits.
#[must_use]
pub fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// One line per goal.
#[must_use]
pub fn goals(verdicts: &[Verdict]) -> String {
    let mut text = format!(
        "{:<26}{:>10}  {:<32}{:>8} {:<16}{:>8}\n",
        "goal", "Hearth", "held against", "ratio", "[rounds]", "bound"
    );
    for verdict in verdicts {
        let against = match (verdict.goal.against, verdict.other, verdict.others) {
            (Against::Nothing, ..) => "a number".to_owned(),
            (_, Some(subject), Some(value)) => format!("{} ({})", subject.title(), number(value)),
            _ => "–".to_owned(),
        };
        let sign = if verdict.goal.metric.more_is_better() { "≥" } else { "≤" };
        let bound = verdict.goal.bound.map_or("–".to_owned(), |bound| format!("{sign} {bound}"));
        let range = format!("[{:.2}–{:.2}]", verdict.ratio.min, verdict.ratio.max);
        let _ = writeln!(
            text,
            "{:<26}{:>10}  {against:<32}{:>8.2} {range:<16}{bound:>8}  {}",
            verdict.goal.metric.title(),
            number(verdict.hearth),
            verdict.ratio.median,
            match verdict.fate {
                Fate::Met => "met",
                Fate::Missed => "MISSED",
                Fate::NoGoal => "no goal set",
            }
        );
    }
    text
}
