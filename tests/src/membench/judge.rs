//! What must not be in a run: it ends the program with an error.
//!
//! Pure. Hearth must take nobody for failed who only stood still, nor anybody whom nothing befell; what others do is
//! measured and compared. A kind that did not run to its end has shown nothing.

use super::figures::{Freeze, Kill, Taken};
use super::kind::Subject;

/// All of it, each in words; nothing where all is as it should be.
#[must_use]
pub fn faults(all: &[Taken]) -> Vec<String> {
    all.iter().flat_map(of).collect()
}

fn of(taken: &Taken) -> Vec<String> {
    let title = taken.subject.title();
    let mut said = Vec::new();
    let mut must_be_none = |count: usize, what: &str| {
        if count > 0 {
            said.push(format!("{title}: {count} {what}"));
        }
    };
    if taken.subject == Subject::Hearth {
        let (kills, freezes) = (&taken.kills, &taken.freezes);
        let stopped = |is: fn(&Freeze) -> bool| freezes.iter().filter(|freeze| is(freeze)).count();
        let others: usize = kills.iter().map(|kill: &Kill| kill.others_failed).sum();
        let others = others + freezes.iter().map(|freeze| freeze.others_failed).sum::<usize>();
        must_be_none(
            freezes.iter().map(|freeze| freeze.failed).sum(),
            "verdicts on stopped agents",
        );
        must_be_none(
            stopped(|f| f.rejoined.is_some_and(|times| times > 0)),
            "stopped agents told that they are dead",
        );
        must_be_none(
            stopped(|f| f.rejoined.is_none()),
            "stopped agents that could not be asked that",
        );
        must_be_none(others, "verdicts on agents whom nothing befell");
    }
    if taken.broke_off.is_some() {
        said.push(format!("{title}: not run to its end"));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::{Freeze, Kill, Subject, Taken, faults};

    fn taken(subject: Subject) -> Taken {
        let freeze = Freeze {
            member: "node-002".to_owned(),
            failed: 0,
            doubted: 9,
            rejoined: Some(0),
            others_failed: 0,
            whole_s: 0.5,
        };
        let kill = Kill {
            member: "node-003".to_owned(),
            learnt_s: vec![2.0],
            back_s: 1.0,
            others_failed: 0,
        };
        let (kills, freezes) = (vec![kill], vec![freeze.clone(), freeze]);
        Taken { kills, freezes, ..Taken::none(subject, 10) }
    }

    /// What is said when one thing is changed in a run that was well.
    fn changed(subject: Subject, change: fn(&mut Taken)) -> Vec<String> {
        let mut taken = taken(subject);
        change(&mut taken);
        faults(&[taken])
    }

    #[test]
    fn stops_that_are_suspected_and_kills_that_are_seen_are_as_they_should_be() {
        assert_eq!(faults(&Subject::ALL.map(taken)), Vec::<String>::new());
    }

    #[test]
    fn a_verdict_on_who_was_stopped_is_a_fault_even_where_no_look_found_it() {
        assert_eq!(changed(Subject::Hearth, |t| t.freezes[1].failed = 3).len(), 1);
        assert_eq!(changed(Subject::Hearth, |t| t.freezes[1].rejoined = Some(1)).len(), 1);
    }

    #[test]
    fn what_could_not_be_asked_is_not_taken_for_good() {
        let said = changed(Subject::Hearth, |t| t.freezes[0].rejoined = None);
        assert!(said.len() == 1 && said[0].contains("1 stopped"), "{said:?}");
    }

    #[test]
    fn a_verdict_on_others_is_a_fault_after_a_kill_as_after_a_stop() {
        assert_eq!(changed(Subject::Hearth, |t| t.kills[0].others_failed = 1).len(), 1);
        assert_eq!(changed(Subject::Hearth, |t| t.freezes[0].others_failed = 1).len(), 1);
    }

    #[test]
    fn what_serf_says_is_no_fault_but_to_break_off_is_one_of_whomever() {
        let worse = |t: &mut Taken| (t.freezes[0].failed, t.freezes[0].rejoined) = (5, None);
        assert_eq!(changed(Subject::Serf, worse), Vec::<String>::new());
        for subject in Subject::ALL {
            assert_eq!(changed(subject, |t| t.broke_off = Some("a reason".to_owned())).len(), 1);
        }
    }
}
