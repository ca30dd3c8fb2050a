//! When a voter that has lost its memory may vote again.
//!
//! A voter whose disk was wiped may have promised the lease to somebody a moment ago, under a term it does
//! not know. Voting at once, it could help a second holder to a majority, or help one to a term that is
//! not the greatest. So it votes again when
//!
//! 1. *the longest lease anybody can have had of it is over*, and it has then heard from so many others
//!    that each majority it was part of has a member among them (as in Viewstamped Replication's recovery,
//!    Liskov and Cowling 2012), or from all others; what they know is the least it must know; or
//! 2. *everybody else is blank as well*: only owners hold leases, and one that holds or wants one has a
//!    memory. This is the first start of a service.
//!
//! Not covered: a majority that loses its memory at once. Terms then start from the claimant's wall clock
//! ([`super::core`]), as generations do.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::NodeName;
use crate::time::Time;

use super::Timing;
use super::electorate::{Electorate, majority};
use super::message::{Round, Tell, Vote};
use super::promise::Book;

/// A voter without memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Blank {
    /// Since when: its start.
    pub(super) since: Time,
    /// Its question that is open, and when it was asked.
    pub(super) asked: Option<(Round, Time)>,
    pub(super) heard: BTreeMap<NodeName, Tell>,
}

impl Blank {
    /// It has just started without a memory.
    pub fn new(now: Time) -> Self {
        Self { since: now, asked: None, heard: BTreeMap::new() }
    }

    /// It asks everybody; answers to earlier questions count no longer.
    pub fn ask(&mut self, now: Time, round: Round) {
        self.asked = Some((round, now));
        self.heard.clear();
    }

    /// An answer arrived.
    pub fn tell(&mut self, from: &NodeName, tell: &Tell) {
        if self.asked.is_some_and(|(round, _)| round == tell.round) {
            self.heard.insert(from.clone(), tell.clone());
        }
    }

    /// When the longest lease is over.
    pub fn over(&self, timing: &Timing) -> Time {
        self.since + timing.longest
    }

    /// What it knows when it may vote again; `None` before.
    pub fn book(&self, me: &NodeName, electorate: &Electorate, timing: &Timing) -> Option<Book> {
        let (_, asked) = self.asked?;
        let mut others = electorate.voters();
        others.remove(me);
        let blank = |name: &NodeName| self.heard.get(name).is_some_and(|t| t.vote == Vote::Blank);
        let all_blank = others.iter().all(blank);
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
        let unheard = |name: &NodeName| name != me && !self.heard.contains_key(name);
        electorate.voters().into_iter().filter(unheard).collect()
    }
}
