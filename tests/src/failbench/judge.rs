//! Whether a run as a whole is what Hearth promises: it ends the program with an error, or does not.
//!
//! Pure. Peers are measured and compared; nothing they do is a failure of the run, but for a cell that shows the
//! bench itself to be broken.

use serde::Serialize;

use super::verdict::Verdict;

/// What a run comes to. The same for one run of each cell as for many: the worst decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// Promises of Hearth's that were judged.
    pub promised: usize,
    /// Of them not kept.
    pub missed: usize,
    /// Cells of Hearth's.
    pub cells: usize,
    /// Of them without figures.
    pub unmeasured: usize,
    /// Cells of whomever in which a POST was answered that nobody executed.
    pub broken: usize,
    /// Cells of Hearth's with a try set aside in which a POST was executed twice: no disturbance excuses that.
    pub twice_aside: usize,
}

impl Judgement {
    /// Of these verdicts. `cells` are Hearth's, `unmeasured` those of them that gave no figures.
    #[must_use]
    pub fn of(verdicts: &[Verdict], cells: usize, unmeasured: usize) -> Self {
        let promised = verdicts.iter().filter(|verdict| verdict.kept.is_some()).count();
        let missed = verdicts.iter().filter(|verdict| verdict.kept == Some(false)).count();
        Self { promised, missed, cells, unmeasured, ..Self::default() }
    }

    /// Every promise was kept, by figures that are all there and can be true.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.missed + self.unmeasured + self.broken + self.twice_aside == 0
    }

    /// What is wrong, in words; empty where nothing is.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { promised, missed, cells, unmeasured, broken, twice_aside } = self;
        let mut said = Vec::new();
        if *missed > 0 {
            said.push(format!("{missed} of {promised} promises missed"));
        }
        if *unmeasured > 0 {
            said.push(format!("{unmeasured} of {cells} cells of Hearth's not run"));
        }
        if *broken > 0 {
            said.push(format!("{broken} cells by which the bench itself is broken"));
        }
        if *twice_aside > 0 {
            said.push(format!("POSTs executed twice in disturbed tries of {twice_aside} cells"));
        }
        said.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Judgement;
    use crate::failbench::fault::Fault;
    use crate::failbench::figures::{Figures, Stream, figures};
    use crate::failbench::flight::Losses;
    use crate::failbench::plan::Plan;
    use crate::failbench::subject::Subject;
    use crate::failbench::verdict::{Row, Verdict, verdicts};

    fn quiet() -> Figures {
        let none = Stream { samples: Vec::new(), mark: Duration::ZERO, until: Duration::ZERO };
        figures(&none, &none, Duration::ZERO, &Losses::default(), &[])
    }

    fn of(row: &Row<'_>) -> Vec<Verdict> {
        verdicts(Fault::BlackHole, Fault::BlackHole.promise(&Plan::whole()), row)
    }

    #[test]
    fn a_run_in_which_all_went_well_is_good_and_says_nothing() {
        let cell = quiet();
        let all = of(&Row::from([(Subject::Hearth, vec![&cell])]));
        let judgement = Judgement::of(&all, 1, 0);
        assert!(judgement.is_good() && judgement.text().is_empty(), "{judgement:?}");
    }

    #[test]
    fn one_missed_promise_one_cell_not_run_or_one_that_cannot_be_true_is_enough() {
        let (mut cell, fine) = (quiet(), quiet());
        cell.twice = 1;
        let all = of(&Row::from([(Subject::Hearth, vec![&fine, &cell])]));
        let judgement = Judgement::of(&all, 2, 0);
        assert!(!judgement.is_good(), "{judgement:?}");
        assert_eq!((judgement.missed, judgement.promised), (1, 5));
        let good = of(&Row::from([(Subject::Hearth, vec![&fine])]));
        let good = Judgement::of(&good, 1, 0);
        let others = [
            Judgement { unmeasured: 1, ..good },
            Judgement { broken: 1, ..good },
            Judgement { twice_aside: 1, ..good },
        ];
        for bad in others {
            assert!(good.is_good() && !bad.is_good() && !bad.text().is_empty(), "{bad:?}");
        }
    }

    #[test]
    fn a_row_of_which_nothing_ran_is_missed_in_every_promise_and_none_is_left_out() {
        let cell = quiet();
        let ran = Judgement::of(&of(&Row::from([(Subject::Hearth, vec![&cell])])), 1, 0);
        let peer = Row::from([(Subject::Haproxy, vec![&cell])]);
        for row in [Row::new(), peer] {
            let lost = Judgement::of(&of(&row), 1, 1);
            assert_eq!((lost.missed, lost.promised), (ran.promised, ran.promised));
            assert!(lost.text().contains("1 of 1 cells"), "{}", lost.text());
        }
    }
}
