//! Suspicions: of whom, since when, by whom, and until when they may be refuted (Lifeguard, section III.B).
//!
//! foca lets only the one whose probe failed declare a suspect down, after a fixed time. Here everybody who
//! hears of a suspicion keeps it, for long at first; each further member that *itself* got no answer shortens
//! it. One slow member that suspects everybody is then given the long time to hear that it is wrong, and a
//! host that is really gone, which many find silent, is declared down after the short one.
//!
//! Who is suspect is asked again by those whose probe failed, ever so often: a refutation that passed while they
//! were deaf is not told a second time by itself.
//!
//! Verdicts that are near to each other are given together, so that the loss of a rack is one change to whoever
//! follows the membership (Rapid: Suresh et al., USENIX ATC 2018). Traffic waits for none of them.
//!
//! Time in which we did not run, or heard nobody at all, is nobody else's silence: it does not count. Whoever
//! was cut off so comes back without having buried the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use foca::Identity;
use serde::{Deserialize, Serialize};

use crate::ids::NodeName;
use crate::time::Time;

use super::{MemberId, MemberRecord};

/// So many accusers beside the first make a suspicion as short as it gets (Lifeguard's K).
pub(super) const CONFIRMATIONS: usize = 3;
/// The longest suspicion, as a multiple of the shortest (Lifeguard's beta).
const LONGEST: u32 = 6;
/// Who hears nobody waits no longer than so many times the longest: all others may be gone at once.
const PATIENCE: u32 = 2;

/// Who got no answer from whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Accusation {
    /// The accuser.
    pub(super) by: NodeName,
    /// The accused.
    pub(super) of: MemberId,
    /// In which incarnation: a higher one has refuted it.
    pub(super) incarnation: u16,
}

impl Accusation {
    /// Whether `self` is about a later life than the one given.
    pub(super) fn is_later(&self, id: &MemberId, incarnation: u16) -> bool {
        self.of.win_addr_conflict(id) || self.of == *id && self.incarnation > incarnation
    }
}

/// How long a suspicion lasts, and how many confirm it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    /// The shortest.
    pub(super) shortest: Duration,
    /// Confirmations that make it so.
    pub(super) confirmations: usize,
}

impl Terms {
    /// Terms where so many members can accuse: all who live and are not suspect themselves, with us. Where they
    /// are few, nobody waits for more than there are.
    pub(super) fn new(shortest: Duration, accusers: usize) -> Self {
        Self { shortest, confirmations: CONFIRMATIONS.min(accusers.saturating_sub(1)) }
    }

    /// How long a suspicion lasts that so many have.
    fn lasts(self, accusers: usize) -> Duration {
        let confirmed = accusers.saturating_sub(1);
        if confirmed >= self.confirmations {
            return self.shortest;
        }
        let longest = self.shortest * LONGEST;
        let share = (confirmed as f64 + 1.0).ln() / (self.confirmations as f64 + 1.0).ln();
        longest - (longest - self.shortest).mul_f64(share)
    }
}

#[derive(Debug)]
struct Suspicion {
    of: MemberId,
    incarnation: u16,
    since: Time,
    by: BTreeSet<NodeName>,
    due: Time,
    /// Our own probe failed: we ask it again then.
    ask: Option<Time>,
}

/// Everybody who is suspect now.
#[derive(Debug, Default)]
pub(super) struct Suspicions {
    open: BTreeMap<NodeName, Suspicion>,
    terms: Terms,
}

impl Suspicions {
    /// How many are suspect.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Which terms are in force from now on.
    pub(super) fn set_terms(&mut self, terms: Terms) {
        if self.terms == terms {
            return;
        }
        self.terms = terms;
        for s in self.open.values_mut() {
            s.due = s.since + terms.lasts(s.by.len());
        }
    }

    /// What is known of a node changed.
    pub(super) fn follow(&mut self, now: Time, name: &NodeName, record: Option<&MemberRecord>) {
        let Some(record) = record.filter(|record| record.is_suspect()) else {
            self.open.remove(name);
            return;
        };
        let held = self.open.get(name);
        if held.is_some_and(|s| s.of == record.id && s.incarnation == record.incarnation) {
            return;
        }
        let due = now + self.terms.lasts(0);
        let (of, incarnation) = (record.id.clone(), record.incarnation);
        let fresh = Suspicion { of, incarnation, since: now, by: BTreeSet::new(), due, ask: None };
        self.open.insert(name.clone(), fresh);
    }

    /// Somebody accuses. Nothing follows if nobody is suspect in that life.
    pub(super) fn confirm(&mut self, accusation: &Accusation) {
        let Some(s) = self.open.get_mut(&accusation.of.name) else { return };
        if s.of == accusation.of && s.incarnation == accusation.incarnation {
            s.by.insert(accusation.by.clone());
            s.due = s.since + self.terms.lasts(s.by.len());
        }
    }

    /// A probe of ours failed.
    pub(super) fn failed(&mut self, now: Time, name: &NodeName) {
        if let Some(s) = self.open.get_mut(name) {
            s.ask.get_or_insert(now + self.terms.shortest);
        }
    }

    /// Who did not answer us and was not asked for a while.
    pub(super) fn ask_again(&mut self, now: Time) -> Vec<MemberRecord> {
        let again = now + self.terms.shortest;
        let due = |s: &&mut Suspicion| s.ask.is_some_and(|at| at <= now);
        let suspects = self.open.values_mut().filter(due).map(|s| {
            s.ask = Some(again);
            MemberRecord::suspect(s.of.clone(), s.incarnation)
        });
        suspects.collect()
    }

    /// Our accusation of a suspect, unless it is made already.
    pub(super) fn accuse(&self, me: &NodeName, name: &NodeName) -> Option<Accusation> {
        let s = self.open.get(name).filter(|s| !s.by.contains(me))?;
        Some(Accusation { by: me.clone(), of: s.of.clone(), incarnation: s.incarnation })
    }

    /// For so long nobody could refute anything to us.
    pub(super) fn postpone(&mut self, late: Duration) {
        for s in self.open.values_mut() {
            s.since = s.since + late;
            s.due = s.due + late;
        }
    }

    /// When the next verdict is due, or the next question.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let asked = self.open.values().filter_map(|s| s.ask);
        asked.chain(self.verdict_at()).min()
    }

    /// When the next verdicts are given: the first that is due waits for those confirmed ones that follow within
    /// the shortest suspicion.
    fn verdict_at(&self) -> Option<Time> {
        let first = self.open.values().map(|s| s.due).min()?;
        let until = first + self.terms.shortest;
        let confirmed = |s: &&Suspicion| s.by.len() > self.terms.confirmations;
        let near = self.open.values().filter(confirmed).map(|s| s.due).filter(|due| *due <= until);
        near.chain([first]).max()
    }

    /// Takes out those that end by now: of whom, in which life, and whether `me` is an accuser. If we are deaf
    /// they are looked at again after `again`.
    pub(super) fn end(
        &mut self,
        now: Time,
        me: &NodeName,
        deaf: bool,
        again: Duration,
    ) -> Vec<(MemberId, u16, bool)> {
        let patience = self.terms.shortest * LONGEST * PATIENCE;
        for s in self.open.values_mut().filter(|s| s.due <= now) {
            if deaf && now < s.since + patience {
                s.due = now + again;
            }
        }
        if self.verdict_at().is_none_or(|at| at > now) {
            return Vec::new();
        }
        let ended = self.open.extract_if(.., |_, s| s.due <= now);
        ended.map(|(_, s)| (s.of, s.incarnation, s.by.contains(me))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Generation;

    const SHORTEST: Duration = Duration::from_secs(3);

    fn id(generation: u64) -> MemberId {
        let (name, address) = (NodeName::parse("x").unwrap(), ([10, 0, 0, 1], 7940).into());
        MemberId::new(name, Generation(generation), address)
    }

    fn record(generation: u64, incarnation: u16, state: u8) -> MemberRecord {
        MemberRecord { id: id(generation), incarnation, state }
    }

    fn accusation(by: usize, incarnation: u16) -> Accusation {
        let by = NodeName::parse(&format!("by{by}")).unwrap();
        Accusation { by, of: id(1), incarnation }
    }

    fn me() -> NodeName {
        NodeName::parse("by9").unwrap()
    }

    fn suspected(accusers: usize) -> Suspicions {
        let mut s = Suspicions::default();
        s.set_terms(Terms::new(SHORTEST, accusers));
        s.follow(Time(0), &id(1).name, Some(&record(1, 0, 1)));
        s
    }

    /// Lifeguard's formula: max(Min, Max − (Max − Min)·log(C+1)/log(K+1)), of C confirmations.
    #[test]
    fn each_further_accuser_shortens_a_suspicion_from_the_longest_to_the_shortest() {
        let mut s = suspected(100);
        let mut lasts = vec![s.poll_timeout().unwrap()];
        for by in [0, 1, 1, 2, 3, 4] {
            s.confirm(&accusation(by, 0));
            lasts.push(s.poll_timeout().unwrap());
        }
        let seconds: Vec<f64> = lasts.iter().map(|t| t.0 as f64 / 1e6).collect();
        let of = |c: f64| 18.0 - 15.0 * (c + 1.0).ln() / 4.0_f64.ln();
        let want = [18.0, 18.0, of(1.0), of(1.0), of(2.0), 3.0, 3.0];
        assert!(seconds.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-5), "{seconds:?}");
    }

    #[test]
    fn nobody_waits_for_more_accusers_than_there_can_be() {
        for accusers in 1..=CONFIRMATIONS + 1 {
            let mut s = suspected(accusers);
            for by in 0..accusers {
                let alone = accusers == 1;
                assert_eq!(
                    s.poll_timeout() == Some(Time(0) + SHORTEST),
                    alone,
                    "{by} of {accusers}"
                );
                s.confirm(&accusation(by, 0));
            }
            assert_eq!(s.poll_timeout(), Some(Time(0) + SHORTEST), "all {accusers} accuse");
        }
    }

    #[test]
    fn what_is_refuted_or_of_another_life_confirms_nothing() {
        let mut s = suspected(100);
        s.confirm(&accusation(1, 7));
        assert_eq!(s.poll_timeout(), Some(Time(0) + SHORTEST * LONGEST));
        // The same again is no new suspicion; a higher incarnation is.
        s.follow(Time(9), &id(1).name, Some(&record(1, 0, 1)));
        assert_eq!(s.poll_timeout(), Some(Time(0) + SHORTEST * LONGEST));
        s.follow(Time(9), &id(1).name, Some(&record(1, 1, 1)));
        assert_eq!(s.poll_timeout(), Some(Time(9) + SHORTEST * LONGEST));
        s.follow(Time(9), &id(1).name, Some(&record(1, 2, 0)));
        assert_eq!(s.poll_timeout(), None);
    }

    #[test]
    fn time_in_which_we_did_not_run_is_nobodys_silence() {
        let mut s = suspected(1);
        s.postpone(Duration::from_secs(10));
        assert_eq!(s.end(Time(0) + SHORTEST * 2, &me(), false, SHORTEST), vec![]);
        assert_eq!(s.end(Time(0) + SHORTEST * 5, &me(), false, SHORTEST), vec![(id(1), 0, false)]);
        assert_eq!(s.poll_timeout(), None, "it is over, whatever comes of it");
    }

    #[test]
    fn who_hears_nobody_buries_nobody_until_patience_ends() {
        let mut s = suspected(1);
        assert_eq!(s.end(Time(0) + SHORTEST, &me(), true, SHORTEST), vec![]);
        assert_eq!(s.poll_timeout(), Some(Time(0) + SHORTEST * 2), "asked again, and not at once");
        let end = Time(0) + SHORTEST * LONGEST * PATIENCE;
        assert_eq!(s.end(end, &me(), true, SHORTEST), vec![(id(1), 0, false)]);
    }

    #[test]
    fn we_accuse_a_suspect_once() {
        let mut s = suspected(100);
        let ours = s.accuse(&me(), &id(1).name).unwrap();
        assert_eq!(ours, accusation(9, 0));
        s.confirm(&ours);
        assert!(s.accuse(&me(), &id(1).name).is_none());
        assert!(s.accuse(&me(), &NodeName::parse("y").unwrap()).is_none());
        assert_eq!(s.end(Time(u64::MAX), &me(), false, SHORTEST), vec![(id(1), 0, true)]);
    }

    fn other(n: u8) -> MemberId {
        MemberId::new(NodeName::parse(&format!("x{n}")).unwrap(), Generation(1), id(1).address)
    }

    /// `n` suspects, each a second after the one before and each accused by four.
    fn confirmed(n: u8) -> Suspicions {
        let mut s = Suspicions::default();
        s.set_terms(Terms::new(SHORTEST, 100));
        for n in 0..n {
            let at = Time(0) + Duration::from_secs(n.into());
            s.follow(at, &other(n).name, Some(&MemberRecord::suspect(other(n), 0)));
            for by in 0..4 {
                s.confirm(&Accusation { of: other(n), ..accusation(by, 0) });
            }
        }
        s
    }

    #[test]
    fn verdicts_near_to_each_other_are_given_together() {
        let mut s = confirmed(3);
        let last = Time(0) + SHORTEST + Duration::from_secs(2);
        assert_eq!(s.poll_timeout(), Some(last));
        assert_eq!(s.end(last - Duration::from_secs(1), &me(), false, SHORTEST), vec![]);
        assert_eq!(s.end(last, &me(), false, SHORTEST).len(), 3);
        // Nobody waits longer than the shortest suspicion, however many follow.
        let mut s = confirmed(9);
        let first = Time(0) + SHORTEST * 2;
        assert_eq!(s.poll_timeout(), Some(first));
        assert_eq!(s.end(first, &me(), false, SHORTEST).len(), 4);
    }

    #[test]
    fn nobody_waits_for_a_suspicion_that_is_not_confirmed() {
        let mut s = suspected(100);
        let due = Time(0) + SHORTEST * LONGEST - Duration::from_secs(1);
        s.follow(due - SHORTEST, &other(1).name, Some(&MemberRecord::suspect(other(1), 0)));
        for by in 0..4 {
            s.confirm(&Accusation { of: other(1), ..accusation(by, 0) });
        }
        assert_eq!(s.poll_timeout(), Some(due), "a second before the one that nobody confirms");
    }

    #[test]
    fn who_does_not_answer_us_is_asked_again() {
        let mut s = suspected(100);
        s.confirm(&accusation(0, 0));
        assert_eq!(s.ask_again(Time(0) + SHORTEST), [], "others accuse");
        s.failed(Time(0), &id(1).name);
        assert_eq!(s.poll_timeout(), Some(Time(0) + SHORTEST));
        assert_eq!(s.ask_again(Time(0) + SHORTEST), [record(1, 0, 1)]);
        assert_eq!(s.poll_timeout(), Some(Time(0) + SHORTEST * 2));
    }
}
