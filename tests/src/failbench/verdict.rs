//! Where Hearth stands: against its own promises, and against the best of its peers.
//!
//! Pure. A promise must hold in every run, so the worst run is held against it; one of which there is no run is
//! missed. Peers are compared by medians.

use std::collections::BTreeMap;

use serde::Serialize;

use super::behind::{Ahead, Why};
use super::fault::{Fault, Promise};
use super::figures::Figures;
use super::subject::Subject;
use crate::bench::figures::Spread;
use crate::bench::table::number;

/// All runs of each side under one fault.
pub type Row<'a> = BTreeMap<Subject, Vec<&'a Figures>>;

/// A figure that is judged. Less is better in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Figure {
    /// GETs failed.
    Failed,
    /// The slowest GET that was answered, ms.
    Slowest,
    /// 99.9 % of GETs were faster, ms.
    P999,
    /// GETs over 100 ms.
    Over100,
    /// Until the last slow or failed GET, s.
    Normal,
    /// POSTs failed.
    PostsFailed,
    /// POSTs failed that were not in flight on a lost host.
    Beyond,
    /// Until the last failed POST was told, ms.
    Told,
    /// POSTs executed more than once.
    Twice,
}

impl Figure {
    /// All, in the order of the table.
    pub const ALL: [Self; 9] = [
        Self::Failed,
        Self::Slowest,
        Self::P999,
        Self::Over100,
        Self::Normal,
        Self::PostsFailed,
        Self::Beyond,
        Self::Told,
        Self::Twice,
    ];

    /// As it is printed.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Slowest => "slowest ms",
            Self::P999 => "p99.9 ms",
            Self::Over100 => "over 100 ms",
            Self::Normal => "normal after s",
            Self::PostsFailed => "POSTs failed",
            Self::Beyond => "not in flight",
            Self::Told => "told after ms",
            Self::Twice => "twice",
        }
    }

    /// Of one cell; none where there is nothing to be told.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // Counts of requests.
    pub fn of(self, figures: &Figures) -> Option<f64> {
        Some(match self {
            Self::Told if figures.posts.failed == 0 => return None,
            Self::Failed => figures.gets.failed as f64,
            Self::Slowest => figures.gets.slowest_ms,
            Self::P999 => figures.gets.p999_ms,
            Self::Over100 => figures.gets.over_100_ms as f64,
            Self::Normal => figures.gets.normal_after_ms / 1e3,
            Self::PostsFailed => figures.posts.failed as f64,
            Self::Beyond => figures.flight.beyond as f64,
            Self::Told => figures.told_ms,
            Self::Twice => figures.twice as f64,
        })
    }

    /// Over all runs.
    #[must_use]
    pub fn spread(self, runs: &[&Figures]) -> Option<Spread> {
        Spread::of(runs.iter().filter_map(|figures| self.of(figures)))
    }

    fn promised(self, promise: Promise) -> Option<f64> {
        match self {
            Self::Failed => Some(promise.failed),
            Self::Slowest => promise.slowest_ms,
            Self::Beyond => Some(promise.beyond),
            Self::Told => promise.told_ms,
            Self::Twice => Some(promise.twice),
            Self::P999 | Self::Over100 | Self::Normal | Self::PostsFailed => None,
        }
    }
}

/// One figure of Hearth's under one fault.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// The fault.
    pub fault: Fault,
    /// The figure.
    pub figure: Figure,
    /// Hearth's; none where no cell ran, or none had anything to tell it by.
    pub hearth: Option<Spread>,
    /// So many runs of Hearth's it rests on.
    pub runs: usize,
    /// What was promised.
    pub bound: Option<f64>,
    /// Whether there was a run and every one kept it; none without a promise.
    pub kept: Option<bool>,
    /// Who was better in the median, how good, and why.
    pub ahead: Vec<Ahead>,
}

/// One verdict per figure that was promised or can be compared. The row is one in which Hearth was to be measured:
/// if it was not, everything promised is missed.
#[must_use]
pub fn verdicts(fault: Fault, promise: Promise, row: &Row<'_>) -> Vec<Verdict> {
    let runs = row.get(&Subject::Hearth).map(Vec::as_slice).unwrap_or_default();
    let judge = |figure: Figure| {
        let (ours, bound) = (figure.spread(runs), figure.promised(promise));
        if ours.is_none() && bound.is_none() {
            return None;
        }
        // Where no POST failed, none was told late.
        let holds = |bound| ours.map_or(!runs.is_empty(), |ours| ours.max <= bound);
        Some(Verdict {
            fault,
            figure,
            hearth: ours,
            runs: runs.len(),
            bound,
            kept: bound.map(holds),
            ahead: ours.map(|ours| ahead(figure, ours, row)).unwrap_or_default(),
        })
    };
    Figure::ALL.into_iter().filter_map(judge).collect()
}

/// Who was better than `ours` in the median.
fn ahead(figure: Figure, ours: Spread, row: &Row<'_>) -> Vec<Ahead> {
    let hearth = row.get(&Subject::Hearth).map(Vec::as_slice).unwrap_or_default();
    let better = |(&subject, runs): (&Subject, &Vec<&Figures>)| {
        let theirs = figure.spread(runs)?;
        let is_ahead = theirs.median < ours.median && figure.is_fair(row, subject);
        let why = Why::of(figure, hearth, runs).filter(|_| is_ahead)?;
        Some(Ahead { subject, theirs, why })
    };
    row.iter().filter(|(subject, _)| **subject != Subject::Hearth).filter_map(better).collect()
}

impl Figure {
    /// Who lets more requests fail is not ahead because the others were fast: latencies are of answered
    /// requests only.
    fn is_fair(self, row: &Row<'_>, peer: Subject) -> bool {
        let median = |figure: Self, subject: Subject| {
            row.get(&subject).and_then(|runs| figure.spread(runs)).map_or(0.0, |s| s.median)
        };
        let no_more = |figure| median(figure, peer) <= median(figure, Subject::Hearth);
        match self {
            Self::Slowest | Self::P999 | Self::Over100 => no_more(Self::Failed),
            Self::PostsFailed | Self::Beyond => no_more(Self::Twice),
            Self::Failed | Self::Normal | Self::Told | Self::Twice => true,
        }
    }
}

impl Verdict {
    /// Nothing to say: kept, and nobody ahead.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.kept != Some(false) && self.ahead.is_empty()
    }

    /// In words.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{}: {}", self.fault.title(), self.figure.title());
        text += &match (self.hearth, self.runs) {
            (_, 0) => " NOT RUN".to_owned(),
            (None, _) => " nothing to tell".to_owned(),
            (Some(ours), 1) => format!(" {} (one run)", number(ours.median)),
            (Some(ours), runs) => {
                format!(" {} (worst of {runs} runs {})", number(ours.median), number(ours.max))
            }
        };
        if let (Some(bound), Some(kept)) = (self.bound, self.kept) {
            text +=
                &format!(", promised {}: {}", number(bound), if kept { "kept" } else { "MISSED" });
        }
        if let Some(ours) = self.hearth {
            for ahead in &self.ahead {
                text += &format!("; {}", ahead.text(ours));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Fault, Figure, Figures, Row, Subject, Verdict, verdicts};
    use crate::failbench::figures::{Stream, figures};
    use crate::failbench::flight::Losses;
    use crate::failbench::plan::Plan;

    fn cell(failed: usize, slowest_ms: f64) -> Figures {
        let none = Stream { samples: Vec::new(), mark: Duration::ZERO, until: Duration::ZERO };
        let mut cell = figures(&none, &none, Duration::ZERO, &Losses::default(), &[]);
        cell.gets.failed = failed;
        cell.gets.slowest_ms = slowest_ms;
        cell
    }

    fn slowest(hearth: &[Figures], peer: &Figures) -> Verdict {
        let row =
            Row::from([(Subject::Hearth, hearth.iter().collect()), (Subject::Haproxy, vec![peer])]);
        let all = verdicts(Fault::BlackHole, Fault::BlackHole.promise(&Plan::whole()), &row);
        all.into_iter().find(|verdict| verdict.figure == Figure::Slowest).unwrap()
    }

    #[test]
    fn one_run_that_breaks_a_promise_breaks_it() {
        let runs = [cell(0, 20.0), cell(0, 41.0), cell(0, 22.0)];
        let verdict = slowest(&runs, &cell(0, 250.0));
        assert_eq!((verdict.kept, verdict.ahead.len()), (Some(false), 0));
        assert!(verdict.text().contains("MISSED"), "{}", verdict.text());
    }

    #[test]
    fn a_post_that_failed_and_was_in_flight_on_no_lost_host_breaks_a_promise() {
        let (fine, mut bad) = (cell(0, 20.0), cell(0, 20.0));
        bad.flight.beyond = 1;
        for fault in Fault::ALL {
            let of = |run| {
                let row = Row::from([(Subject::Hearth, vec![run])]);
                let all = verdicts(fault, fault.promise(&Plan::whole()), &row);
                all.into_iter().find(|verdict| verdict.figure == Figure::Beyond).unwrap().kept
            };
            assert_eq!((of(&fine), of(&bad)), (Some(true), Some(false)), "{fault:?}");
        }
    }

    #[test]
    fn a_promise_about_what_did_not_happen_is_kept_by_a_run_and_missed_without_one() {
        let promise = Fault::BlackHole.promise(&Plan::whole());
        let told = |row: &Row<'_>| {
            let all = verdicts(Fault::BlackHole, promise, row);
            all.into_iter().find(|verdict| verdict.figure == Figure::Told).unwrap()
        };
        let quiet = cell(0, 20.0);
        let ran = told(&Row::from([(Subject::Hearth, vec![&quiet])]));
        assert_eq!((ran.kept, ran.runs, ran.is_good()), (Some(true), 1, true));
        let lost = told(&Row::from([(Subject::Haproxy, vec![&quiet])]));
        assert_eq!((lost.kept, lost.runs), (Some(false), 0));
        assert!(lost.text().contains("NOT RUN, promised 100: MISSED"), "{}", lost.text());
    }

    #[test]
    fn who_answers_fast_by_failing_often_is_not_ahead() {
        assert!(slowest(&[cell(0, 20.0)], &cell(600, 5.0)).is_good());
        let behind = slowest(&[cell(0, 20.0)], &cell(0, 5.0));
        assert_eq!((behind.ahead.len(), behind.ahead[0].subject), (1, Subject::Haproxy));
        assert!(behind.text().contains("BEHIND HAProxy (5.00): one run"), "{}", behind.text());
    }
}
