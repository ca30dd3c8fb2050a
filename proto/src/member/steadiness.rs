//! Members that half work: alive, and not to be relied on.
//!
//! SWIM knows only the living and the dead. A member whose incoming path comes and goes is buried, returns, and is
//! buried again; one that loses most of what it sends refutes every suspicion and is never buried. Rapid (Suresh
//! et al., USENIX ATC 2018) puts such members out for good, by the reports of many observers. Here they are
//! *unsteady*, which puts them behind those that are not, until they were quiet for a while.
//!
//! Two things make a member unsteady: that it was declared down and turned out to be alive in the same start of its
//! process, and that [`MANY`] different members got no answer from it within [`WINDOW`], however often it
//! refuted. Only members that hear others accuse ([`super::Member`]), so that one that is cut off makes nobody
//! unsteady.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::{Generation, NodeName};
use crate::table;
use crate::time::Time;

use super::MemberRecord;

/// Who was not suspected for so long is steady again. Longer than Rapid's paths that come and go in turns of 20 s
/// are well, and than the suspicion after it takes.
const QUIET: Duration = Duration::from_secs(40);
/// Different accusers within [`WINDOW`] that make a member unsteady: two thirds of Rapid's high watermark (9 of 10),
/// since a member here is probed by whom chance picks.
const MANY: usize = 6;
/// How long an accusation counts.
const WINDOW: Duration = Duration::from_secs(30);

/// What is held against one member.
#[derive(Debug)]
struct Mark {
    generation: Generation,
    /// It was declared down.
    buried: bool,
    /// Who got no answer from it, and when last.
    accusers: BTreeMap<NodeName, Time>,
    /// It is unsteady until then.
    until: Option<Time>,
}

/// What is held against everybody.
#[derive(Debug, Default)]
pub(super) struct Steadiness {
    marks: BTreeMap<NodeName, Mark>,
}

impl Steadiness {
    fn mark(&mut self, name: &NodeName, generation: Generation) -> Option<&mut Mark> {
        if self.marks.len() >= table::MAX_NODES && !self.marks.contains_key(name) {
            return None;
        }
        let fresh = || Mark { generation, buried: false, accusers: BTreeMap::new(), until: None };
        let mark = self.marks.entry(name.clone()).or_insert_with(fresh);
        if mark.generation < generation {
            // Its process is another.
            *mark = fresh();
        }
        Some(mark)
    }

    /// What is known of a member changed.
    /// Who is down to one that is `deaf` may be alive to everybody else.
    pub(super) fn follow(
        &mut self,
        now: Time,
        name: &NodeName,
        record: Option<&MemberRecord>,
        deaf: bool,
    ) {
        let Some(record) = record else {
            self.marks.remove(name);
            return;
        };
        // Of whom nothing is held, nothing is kept.
        if !record.is_down() && !self.marks.contains_key(name) {
            return;
        }
        let down = record.is_down();
        let Some(mark) = self.mark(name, record.id.generation) else { return };
        if down {
            *mark = Mark { buried: !deaf, accusers: BTreeMap::new(), until: None, ..*mark };
        } else if std::mem::take(&mut mark.buried) || record.is_suspect() && mark.until.is_some() {
            mark.until = Some(now + QUIET);
        }
    }

    /// A member got no answer from another, which lives in this start. Returns whether that made it unsteady.
    pub(super) fn accused(
        &mut self,
        now: Time,
        by: &NodeName,
        of: &NodeName,
        life: Generation,
    ) -> bool {
        self.forget(now);
        let Some(mark) = self.mark(of, life).filter(|mark| !mark.buried) else { return false };
        if mark.accusers.len() < MANY || mark.accusers.contains_key(by) {
            mark.accusers.insert(by.clone(), now);
        }
        if mark.accusers.len() < MANY {
            return false;
        }
        mark.until.replace(now + QUIET).is_none()
    }

    /// Forgets accusations that are too long ago, and those of whom nothing is left.
    fn forget(&mut self, now: Time) {
        self.marks.retain(|_, mark| {
            mark.accusers.retain(|_, at| now.since(*at) < WINDOW);
            mark.buried || mark.until.is_some() || !mark.accusers.is_empty()
        });
    }

    /// Whether a member is unsteady.
    pub(super) fn is_unsteady(&self, name: &NodeName) -> bool {
        self.marks.get(name).is_some_and(|mark| mark.until.is_some())
    }

    /// When [`Self::end`] has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.marks.values().filter_map(|mark| mark.until).min()
    }

    /// Who is steady again.
    pub(super) fn end(&mut self, now: Time) -> Vec<NodeName> {
        let mut ended = Vec::new();
        for (name, mark) in &mut self.marks {
            if mark.until.is_some_and(|until| until <= now) {
                mark.until = None;
                ended.push(name.clone());
            }
        }
        if !ended.is_empty() {
            self.forget(now);
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::MemberId;

    const T: Time = Time(1_000_000_000);

    fn name(text: &str) -> NodeName {
        NodeName::parse(text).unwrap()
    }

    fn record(generation: u64, state: u8) -> MemberRecord {
        let address = ([10, 0, 0, 1], 7940).into();
        let id = MemberId::new(name("x"), Generation(generation), address);
        MemberRecord { id, incarnation: 0, state }
    }

    fn follow(s: &mut Steadiness, at: Time, generation: u64, state: u8) -> bool {
        s.follow(at, &name("x"), Some(&record(generation, state)), false);
        s.is_unsteady(&name("x"))
    }

    #[test]
    fn who_was_buried_alive_is_unsteady_until_it_was_quiet_for_a_while() {
        let mut s = Steadiness::default();
        assert!(!follow(&mut s, T, 1, 2), "down is another thing");
        assert!(follow(&mut s, T, 1, 0));
        let later = T + Duration::from_secs(20);
        assert!(follow(&mut s, later, 1, 1), "suspected again, which is not quiet");
        assert!(follow(&mut s, later, 1, 0), "nor is it over with that");
        assert_eq!(s.end(T + QUIET), []);
        assert_eq!(s.poll_timeout(), Some(later + QUIET));
        assert_eq!(s.end(later + QUIET), [name("x")]);
        assert!(!s.is_unsteady(&name("x")) && s.marks.is_empty());
    }

    #[test]
    fn whose_process_is_another_returns_as_good_as_new() {
        let mut s = Steadiness::default();
        follow(&mut s, T, 1, 2);
        assert!(!follow(&mut s, T, 2, 0));
    }

    #[test]
    fn whom_one_buries_that_hears_nobody_was_not_proven_to_half_work() {
        let mut s = Steadiness::default();
        s.follow(T, &name("x"), Some(&record(1, 2)), true);
        assert!(!follow(&mut s, T, 1, 0));
    }

    #[test]
    fn many_different_accusers_within_the_window_make_a_member_unsteady() {
        let mut s = Steadiness::default();
        let accuse = |s: &mut Steadiness, by: usize, at: Time| {
            s.accused(at, &name(&format!("by{by}")), &name("x"), Generation(1));
            s.is_unsteady(&name("x"))
        };
        for n in 0..20 {
            assert!(!accuse(&mut s, n % (MANY - 1), T), "too few, however often");
        }
        assert!(!accuse(&mut s, MANY, T + WINDOW), "the others are too long ago");
        for by in 0..MANY - 2 {
            assert!(!accuse(&mut s, by, T + WINDOW));
        }
        assert!(accuse(&mut s, MANY + 1, T + WINDOW));
        s.accused(T, &name("a"), &name("y"), Generation(1));
        assert_eq!(s.end(T + WINDOW + QUIET), [name("x")]);
        assert!(s.marks.is_empty(), "and what was held against others is too long ago");
    }
}
