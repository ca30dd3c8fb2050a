//! Why a peer is better in a figure, as far as the figures themselves tell.
//!
//! Pure. The first rule that holds says it; each states what was measured and supposes nothing:
//!
//! 1. One run of either: no difference can be told from noise.
//! 2. The ranges of the runs overlap: a difference of medians may be noise.
//! 3. Of a latency, the gap between the ranges is no more than the client itself was late in Hearth's cells.
//! 4. Of the latency of GETs, Hearth's were as slow before the fault.
//! 5. Every run of Hearth's was worse than every run of the peer's.

use serde::Serialize;

use super::figures::Figures;
use super::subject::Subject;
use super::verdict::Figure;
use crate::bench::figures::Spread;
use crate::bench::table::number;

/// A side that was better than Hearth in the median.
#[derive(Debug, Clone, Serialize)]
pub struct Ahead {
    /// Who.
    pub subject: Subject,
    /// Its figure.
    pub theirs: Spread,
    /// Why.
    pub why: Why,
}

/// What the figures say of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// One run of either side.
    OneRun,
    /// The ranges overlap.
    Overlap,
    /// A gap that is no more than what the client itself was late by, ms.
    ClientLate {
        /// Between the ranges.
        gap: f64,
        /// The client, at most.
        late: f64,
    },
    /// As slow before the fault: the slowest then, in the median, ms.
    Before {
        /// That.
        slowest: f64,
    },
    /// Worse in every run.
    Apart,
}

impl Why {
    /// By the runs of Hearth's and `theirs`.
    #[must_use]
    pub fn of(figure: Figure, hearth: &[&Figures], theirs: &[&Figures]) -> Option<Self> {
        let (ours, other) = (figure.spread(hearth)?, figure.spread(theirs)?);
        if hearth.len() == 1 || theirs.len() == 1 {
            return Some(Self::OneRun);
        }
        let gap = ours.min - other.max;
        if gap <= 0.0 {
            return Some(Self::Overlap);
        }
        let (of_gets, of_posts) =
            (matches!(figure, Figure::Slowest | Figure::P999), figure == Figure::Told);
        let late = Spread::of(hearth.iter().map(|run| run.late_ms))?.max;
        if (of_gets || of_posts) && gap <= late {
            return Some(Self::ClientLate { gap, late });
        }
        let slowest = Spread::of(hearth.iter().map(|run| run.before.slowest_ms))?.median;
        if of_gets && slowest >= ours.median {
            return Some(Self::Before { slowest });
        }
        Some(Self::Apart)
    }
}

impl Ahead {
    /// In words, beside Hearth's figure.
    #[must_use]
    pub fn text(&self, ours: Spread) -> String {
        let range = |s: Spread| match number(s.min) == number(s.max) {
            true => number(s.min),
            false => format!("{}–{}", number(s.min), number(s.max)),
        };
        let (we, they) = (range(ours), range(self.theirs));
        let why = match self.why {
            Why::OneRun => "one run of either tells no difference from noise".to_owned(),
            Why::Overlap => format!("may be noise, ranges overlap: {we} and {they}"),
            Why::ClientLate { gap, late } => format!(
                "the gap of {} ms is no more than the client itself was late by (up to {} ms): {we} and \
                 {they}",
                number(gap),
                number(late)
            ),
            Why::Before { slowest } => {
                format!("as slow before the fault ({} ms): {we} and {they}", number(slowest))
            }
            Why::Apart => format!("worse in every run: {we} against {they}"),
        };
        format!("BEHIND {} ({}): {why}", self.subject.title(), number(self.theirs.median))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Ahead, Figure, Figures, Spread, Subject, Why};
    use crate::failbench::figures::{Stream, figures};
    use crate::failbench::flight::Losses;

    /// A run with this slowest GET after the fault and before it, and a client late by so much, ms.
    fn run(slowest: f64, before: f64, late: f64) -> Figures {
        let none = Stream { samples: Vec::new(), mark: Duration::ZERO, until: Duration::ZERO };
        let mut run = figures(&none, &none, Duration::ZERO, &Losses::default(), &[]);
        (run.gets.slowest_ms, run.before.slowest_ms, run.late_ms) = (slowest, before, late);
        run
    }

    fn why(ours: &[Figures], theirs: &[Figures]) -> Why {
        let (ours, theirs): (Vec<_>, Vec<_>) = (ours.iter().collect(), theirs.iter().collect());
        Why::of(Figure::Slowest, &ours, &theirs).unwrap()
    }

    #[test]
    fn ranges_that_overlap_may_be_noise() {
        let ours = [run(20.0, 2.0, 1.0), run(30.0, 2.0, 1.0)];
        assert_eq!(why(&ours, &[run(10.0, 2.0, 1.0), run(20.0, 2.0, 1.0)]), Why::Overlap);
        assert_eq!(why(&ours, &[run(10.0, 2.0, 1.0), run(11.0, 2.0, 1.0)]), Why::Apart);
    }

    #[test]
    fn one_run_says_nothing_of_noise() {
        let ours = [run(20.0, 2.0, 1.0)];
        assert_eq!(why(&ours, &[run(1.0, 2.0, 1.0), run(1.0, 2.0, 1.0)]), Why::OneRun);
    }

    #[test]
    fn what_the_client_was_late_by_itself_explains_no_more_than_that() {
        let theirs = [run(10.0, 2.0, 0.0), run(12.0, 2.0, 0.0)];
        let late = |late| why(&[run(15.0, 2.0, 1.0), run(16.0, 2.0, late)], &theirs);
        assert_eq!(late(3.5), Why::ClientLate { gap: 3.0, late: 3.5 });
        assert_eq!(late(2.5), Why::Apart);
    }

    #[test]
    fn who_was_as_slow_without_the_fault_is_not_slow_by_it() {
        let theirs = [run(3.0, 2.0, 0.0), run(4.0, 2.0, 0.0)];
        let before = |before| why(&[run(15.0, before, 1.0), run(16.0, before, 1.0)], &theirs);
        assert_eq!(before(16.0), Why::Before { slowest: 16.0 });
        assert_eq!(before(14.0), Why::Apart);
    }

    #[test]
    fn what_is_said_has_both_ranges() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied()).unwrap();
        let theirs = spread(&[3.0, 4.0, 5.0]);
        let ahead = Ahead { subject: Subject::Haproxy, theirs, why: Why::Apart };
        let text = ahead.text(spread(&[8.0, 9.0, 12.0]));
        assert_eq!(text, "BEHIND HAProxy (4.00): worse in every run: 8.00–12.0 against 3.00–5.00");
    }
}
