//! The result as text: a block per fault, a line per side; then every promise that was not kept and every
//! figure in which somebody else was better.

use std::fmt::Write as _;

use super::fault::Fault;
use super::figures::Figures;
use super::subject::Subject;
use super::verdict::{Figure, Row, Verdict};
use crate::bench::figures::Spread;
use crate::bench::table::number;

/// Width of a figure's column.
const COLUMN: usize = 21;

/// One fault.
#[must_use]
pub fn block(fault: Fault, row: &Row<'_>) -> String {
    let mut text = format!("{}\n{:<15}", fault.title(), "");
    // Writing to a String cannot fail.
    for figure in Figure::ALL {
        let _ = write!(text, "{:>COLUMN$}", figure.title());
    }
    let _ = writeln!(text, "{:>COLUMN$}{:>COLUMN$}", "slowest before ms", "client late ms");
    for (subject, runs) in row {
        let _ = write!(text, "{:<15}", subject.title());
        for figure in Figure::ALL {
            let _ = write!(text, "{:>COLUMN$}", cell(figure, figure.spread(runs)));
        }
        let surroundings: [fn(&Figures) -> f64; 2] = [|f| f.before.slowest_ms, |f| f.late_ms];
        for of in surroundings {
            let spread = Spread::of(runs.iter().map(|figures| of(figures)));
            let _ = write!(text, "{:>COLUMN$}", cell(Figure::Slowest, spread));
        }
        text.push('\n');
    }
    text
}

/// What is to be said about Hearth, and nothing where all is well.
#[must_use]
pub fn verdicts(all: &[Verdict]) -> String {
    let said: Vec<String> =
        all.iter().filter(|verdict| !verdict.is_good()).map(Verdict::text).collect();
    let promised = all.iter().filter(|verdict| verdict.kept.is_some()).count();
    let kept = all.iter().filter(|verdict| verdict.kept == Some(true)).count();
    let mut text = format!("{}: {kept} of {promised} promises kept\n", Subject::Hearth.title());
    for line in said {
        let _ = writeln!(text, "  {line}");
    }
    text
}

/// A median, and the range where there is one.
fn cell(figure: Figure, spread: Option<Spread>) -> String {
    let count =
        matches!(figure, Figure::Failed | Figure::Over100 | Figure::PostsFailed | Figure::Twice);
    let word = |value: f64| if count { format!("{value:.0}") } else { number(value) };
    match spread {
        None => "–".to_owned(),
        Some(s) if word(s.min) == word(s.max) => word(s.median),
        Some(s) => format!("{} [{}–{}]", word(s.median), word(s.min), word(s.max)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Figure, Spread, cell};

    #[test]
    fn a_range_is_shown_where_runs_differ_and_counts_are_whole() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(cell(Figure::Failed, spread(&[0.0, 0.0])), "0");
        assert_eq!(cell(Figure::Over100, spread(&[3.0, 430.0, 13.0])), "13 [3–430]");
        assert_eq!(cell(Figure::Slowest, spread(&[21.26, 250.4, 22.0])), "22.0 [21.3–250]");
        assert_eq!(cell(Figure::Slowest, spread(&[])), "–");
    }
}
