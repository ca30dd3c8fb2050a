//! When a voter that has lost its memory may vote again.
//!
//! A voter whose disk was wiped may have promised the lease to somebody a moment ago, under a term it does
//! not know. Voting at once, it could help a second holder to a majority, or help one to a term that is
//! not the greatest. So it votes again when
//!
//! 1. *the longest lease anybody can have had of it is over*, and it has then heard from so many others
//!    that each majority it was part of has a member among them (as in Viewstamped Replication's recovery,
//!    Liskov and Cowling 2012), or from all others; what they know is the least it must know; or
//! 2. *everybody else was blank as well, while it was*: only owners hold leases, and one that holds or wants one
//!    has a memory. This is the first start of a service. It still waits a moment before it votes, so that all get
//!    to hear so: who hears of a memory first waits for the longest lease.
//!
//! Not covered: a majority that loses its memory at once. Terms then start from the claimant's wall clock
//! ([`super::core`]), as generations do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::NodeName;
use crate::time::Time;

use super::Timing;
use super::electorate::{Electorate, majority};
use super::message::{Round, Tell, Vote};
use super::promise::Book;

/// How long a voter that knows all others to be blank stays blank for them: within it each asks twice.
pub(super) const FOUNDING: Duration = Duration::from_millis(1_250);

/// A voter without memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Blank {
    /// Since when: its start.
    pub(super) since: Time,
    /// Its question that is open, and when it was asked.
    pub(super) asked: Option<(Round, Time)>,
    pub(super) heard: BTreeMap<NodeName, Tell>,
    /// All others, and since when they are known to have been blank while this one was.
    pub(super) all_blank: Option<(BTreeSet<NodeName>, Time)>,
}

impl Blank {
    /// It has just started without a memory.
    pub fn new(now: Time) -> Self {
        Self { since: now, asked: None, heard: BTreeMap::new(), all_blank: None }
    }

    /// It asks everybody; answers to earlier questions count no longer.
    pub fn ask(&mut self, now: Time, round: Round) {
        self.asked = Some((round, now));
        self.heard.clear();
    }

    /// An answer arrived at `me`.
    pub fn tell(
        &mut self,
        now: Time,
        me: &NodeName,
        electorate: &Electorate,
        (from, tell): (&NodeName, &Tell),
    ) {
        if self.asked.is_none_or(|(round, _)| round != tell.round) {
            return;
        }
        self.heard.insert(from.clone(), tell.clone());
        let others = others(me, electorate);
        let blank = |name: &NodeName| self.heard.get(name).is_some_and(|t| t.vote == Vote::Blank);
        let known = self.all_blank.as_ref().is_some_and(|(of, _)| *of == others);
        if !known && others.iter().all(blank) {
            self.all_blank = Some((others, now));
        }
    }

    /// When the longest lease is over.
    pub fn over(&self, timing: &Timing) -> Time {
        self.since + timing.longest
    }

    /// What it knows when it may vote again; `None` before.
    pub fn book(
        &self,
        now: Time,
        me: &NodeName,
        electorate: &Electorate,
        timing: &Timing,
    ) -> Option<Book> {
        let (_, asked) = self.asked?;
        let all_blank = self
            .all_blank
            .as_ref()
            .is_some_and(|(of, since)| *of == others(me, electorate) && now >= *since + FOUNDING);
        let most = |field: fn(&Tell) -> u64| self.heard.values().map(field).max().unwrap_or(0);
        let settled = most(|t| t.settled);
        let informed = asked >= self.over(timing)
            && electorate.counted(settled).all(|set| self.informed(me, set));
        if !all_blank && !informed {
            return None;
        }
        let mut book = Book::fresh(electorate, timing);
        book.settled = settled;
        book.term = most(|t| t.term);
        let number = most(|t| t.number);
        if number > book.number {
            // Some electorate that our policy does not know yet: nothing is granted before it does.
            (book.number, book.print) = (number, 0);
        }
        Some(book)
    }

    /// Whether each majority of `set` with us in it has a member that we have heard of.
    fn informed(&self, me: &NodeName, set: &BTreeSet<NodeName>) -> bool {
        if !set.contains(me) {
            return true;
        }
        let others = set.iter().filter(|name| *name != me);
        let heard: Vec<&Tell> = others.filter_map(|name| self.heard.get(name)).collect();
        let with_memory = heard.iter().filter(|t| t.vote != Vote::Blank).count();
        heard.len() + 1 == set.len() || with_memory > set.len() - majority(set.len())
    }

    /// Who has not answered yet.
    pub fn missing(&self, me: &NodeName, electorate: &Electorate) -> Vec<NodeName> {
        let unheard = |name: &NodeName| !self.heard.contains_key(name);
        others(me, electorate).into_iter().filter(unheard).collect()
    }
}

fn others(me: &NodeName, electorate: &Electorate) -> BTreeSet<NodeName> {
    let mut voters = electorate.voters();
    voters.remove(me);
    voters
}
