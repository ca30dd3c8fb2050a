//! A claimant: what it was granted, and until when it may believe in the lease.
//!
//! A lease counts from the moment its round was *first* sent, by the claimant's own clock, so that no delay
//! on the way lengthens it. A round that was closed counts for nothing, however late its grants come: a
//! claimant that gave up never holds by surprise.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::{Generation, NodeName};
use crate::time::Time;

use super::Timing;
use super::electorate::Electorate;
use super::message::{Grant, Refusal, Round, Tell, Vote};

/// A round of claims and what came back.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Poll {
    /// Which.
    pub round: Round,
    /// The term it is for.
    pub term: u64,
    /// When it was first sent: the lease counts from here.
    pub sent: Time,
    /// Who granted.
    pub yes: BTreeSet<NodeName>,
    /// Who refused, and why.
    pub no: BTreeMap<NodeName, Refusal>,
}

/// Where a claimant stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stand {
    /// It wants nothing now.
    Idle,
    /// It asks whether a claim would succeed: a minority so raises no terms.
    Asking {
        /// The question.
        round: Round,
        /// When it was sent.
        sent: Time,
        /// The answers.
        told: BTreeMap<NodeName, Tell>,
    },
    /// It claims.
    Claiming(Poll),
    /// It holds the lease.
    Holding {
        /// Under this term.
        term: u64,
        /// Since then.
        since: Time,
        /// Until then, by its own clock.
        until: Time,
        /// The renewal under way.
        renewal: Option<Poll>,
    },
}

/// A claimant. Its rounds are counted within its node's start.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Claimant {
    pub(super) generation: Generation,
    pub(super) count: u64,
    /// The greatest number known to be settled.
    pub(super) settled: u64,
    pub(super) stand: Stand,
    /// The last round that came to nothing: for `explain`, and for the next term.
    pub(super) failed: Option<Poll>,
}

impl Claimant {
    /// A claimant that holds nothing.
    pub fn new(generation: Generation, settled: u64) -> Self {
        Self { generation, count: 0, settled, stand: Stand::Idle, failed: None }
    }

    /// Where it stands.
    pub fn stand(&self) -> &Stand {
        &self.stand
    }

    /// The lease, if it may believe in it at `now`: its term, and until when.
    pub fn holding(&self, now: Time) -> Option<(u64, Time)> {
        match self.stand {
            Stand::Holding { term, until, .. } if now < until => Some((term, until)),
            _ => None,
        }
    }

    /// Gives up a lease whose time is over. Returns its term.
    pub fn expire(&mut self, now: Time) -> Option<u64> {
        match self.stand {
            Stand::Holding { term, until, .. } if now >= until => {
                self.stand = Stand::Idle;
                Some(term)
            }
            _ => None,
        }
    }

    /// A round of its own.
    pub(super) fn next_round(&mut self) -> Round {
        self.count += 1;
        Round { generation: self.generation, count: self.count }
    }

    /// Asks, unless it holds.
    pub(super) fn ask(&mut self, now: Time) -> Round {
        let round = self.next_round();
        if !matches!(self.stand, Stand::Holding { .. }) {
            self.stand = Stand::Asking { round, sent: now, told: BTreeMap::new() };
        }
        round
    }

    /// An answer. Returns the greatest term anybody told of once a claim would succeed.
    pub(super) fn tell(
        &mut self,
        me: &NodeName,
        from: &NodeName,
        tell: &Tell,
        electorate: &Electorate,
    ) -> Option<u64> {
        self.settled = self.settled.max(tell.settled);
        let settled = self.settled;
        let Stand::Asking { round, told, .. } = &mut self.stand else { return None };
        if *round != tell.round {
            return None;
        }
        told.insert(from.clone(), tell.clone());
        let would = |t: &Tell| match &t.vote {
            Vote::Free => t.number <= electorate.number(),
            Vote::Promised { to, .. } => to == me && t.number <= electorate.number(),
            Vote::Blank => false,
        };
        let yes: BTreeSet<NodeName> =
            told.iter().filter(|(_, t)| would(t)).map(|(name, _)| name.clone()).collect();
        let greatest = told.values().map(|t| t.term).max().unwrap_or(0);
        (yes.contains(me) && electorate.agree(settled, &yes)).then_some(greatest)
    }

    /// Claims under `term`, or renews under it where it holds.
    pub(super) fn open(&mut self, now: Time, term: u64) -> Round {
        let round = self.next_round();
        let poll = Poll { round, term, sent: now, yes: BTreeSet::new(), no: BTreeMap::new() };
        match &mut self.stand {
            Stand::Holding { renewal, .. } => *renewal = Some(poll),
            stand => *stand = Stand::Claiming(poll),
        }
        round
    }

    /// The round of claims that is open.
    pub fn poll(&self) -> Option<&Poll> {
        match &self.stand {
            Stand::Claiming(poll) => Some(poll),
            Stand::Holding { renewal, .. } => renewal.as_ref(),
            Stand::Idle | Stand::Asking { .. } => None,
        }
    }

    fn poll_of(&mut self, round: Round) -> Option<&mut Poll> {
        let poll = match &mut self.stand {
            Stand::Claiming(poll) => Some(poll),
            Stand::Holding { renewal, .. } => renewal.as_mut(),
            Stand::Idle | Stand::Asking { .. } => None,
        };
        poll.filter(|p| p.round == round)
    }

    /// A grant. Returns the term if the lease is won by it, or won under another term than before.
    pub(super) fn grant(
        &mut self,
        now: Time,
        from: &NodeName,
        grant: &Grant,
        electorate: &Electorate,
        timing: &Timing,
    ) -> Option<u64> {
        let settled = self.settled.max(grant.settled);
        let poll = self.poll_of(grant.round).filter(|p| p.term == grant.term)?;
        poll.no.remove(from);
        poll.yes.insert(from.clone());
        let until = poll.sent + timing.hold;
        let (won, term) = (electorate.agree(settled, &poll.yes) && now < until, poll.term);
        self.settled = settled;
        if !won {
            return None;
        }
        self.settled = settled.max(electorate.number());
        self.failed = None;
        let held = match self.stand {
            Stand::Holding { term, since, until, .. } => Some((term, since, until)),
            _ => None,
        };
        let since = held.map_or(now, |(_, since, _)| since);
        let until = held.map_or(until, |(_, _, before)| before.max(until));
        self.stand = Stand::Holding { term, since, until, renewal: None };
        (held.map(|(before, ..)| before) != Some(term)).then_some(term)
    }

    /// A refusal.
    pub(super) fn refuse(&mut self, from: &NodeName, round: Round, why: Refusal) {
        if let Some(poll) = self.poll_of(round)
            && !poll.yes.contains(from)
        {
            poll.no.insert(from.clone(), why);
        }
    }

    /// Closes what is open, the lease included. Returns the term to be released, if there is one.
    pub(super) fn close(&mut self) -> Option<u64> {
        match std::mem::replace(&mut self.stand, Stand::Idle) {
            Stand::Idle | Stand::Asking { .. } => None,
            Stand::Claiming(poll) => {
                let term = poll.term;
                self.failed = Some(poll);
                Some(term)
            }
            Stand::Holding { term, renewal, .. } => {
                Some(renewal.map_or(term, |poll| poll.term.max(term)))
            }
        }
    }

    /// Closes the open renewal, not the lease.
    pub(super) fn close_renewal(&mut self) {
        if let Stand::Holding { renewal, .. } = &mut self.stand {
            self.failed = renewal.take().or(self.failed.take());
        }
    }

    /// The term to renew under: the one it holds, or one above what a voter has seen that refused for
    /// that reason.
    pub(super) fn renewal_term(&self) -> Option<u64> {
        let Stand::Holding { term, renewal, .. } = &self.stand else { return None };
        let tried = renewal.as_ref().or(self.failed.as_ref());
        let seen = tried.into_iter().flat_map(|p| p.no.values()).filter_map(|why| match why {
            Refusal::Term { seen } if seen >= term => Some(seen.saturating_add(1)),
            _ => None,
        });
        let under_way = tried.map_or(0, |p| p.term);
        Some(seen.chain([*term, under_way]).max().unwrap_or(*term))
    }
}
