//! Who is let in to an endpoint, who waits for it, and who is turned away.
//!
//! At most as many requests are under way as the limit says; others wait their turn: as many as may be under
//! way at once, or where the number is found out, as are answered in the time they may wait. Who was tried elsewhere already goes before who comes fresh, in the queue as when somebody has
//! to go: the longer a request has been failing, the less is it put off again. Whoever is turned away was not
//! touched, and its caller asks elsewhere.
//!
//! A moment's burst waits [`BURST`]. Where somebody has waited all of that time, waiting only makes answers
//! late: from then on fresh requests wait [`STANDING`] only (as in Facebook's controlled delay, after CoDel),
//! so that what is served is served at once and the rest is free to go where there is room.
//!
//! A pure state machine over tokens of its owner's (`T`, by which it tells those who wait); the owner keeps
//! the time of those who wait and takes out who waited long enough ([`Gate::give_up`]).

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::time::Time;

use super::limit::Limit;

/// A request waits at most so long: longer than this an endpoint that is not so busy is the better one.
pub const BURST: Duration = Duration::from_millis(500);
/// … and fresh ones so long where somebody has been waiting all the time for [`BURST`].
pub const STANDING: Duration = Duration::from_millis(20);
/// So many may wait however few are answered.
const ROOM: usize = 16;

/// What limits.
#[derive(Clone, Debug)]
pub enum Rule {
    /// A number of the policy's.
    Fixed(usize),
    /// What the endpoint is found to work on.
    Adaptive(Box<Limit>),
}

/// Which of those who wait: who failed more often first, then who came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(Reverse<u8>, u64);

/// What becomes of a request that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It is under way.
    In,
    /// It waits, until this moment at most.
    Waits(Ticket, Time),
    /// Too many wait.
    Full,
}

/// What one that waited is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is under way.
    In,
    /// It has to go.
    Away,
}

/// How a request that was let in ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The application answered.
    Answered,
    /// It did not, or it failed at once: that says nothing of how fast it works.
    Failed,
    /// Its caller waits for it no longer.
    GivenUp,
}

/// The gate of one endpoint.
#[derive(Debug)]
pub struct Gate<T> {
    rule: Rule,
    under_way: usize,
    waiting: BTreeMap<Ticket, T>,
    came: u64,
    /// Somebody has been waiting since.
    standing: Option<Time>,
}

impl<T> Gate<T> {
    /// A gate nobody has come to.
    pub fn new(rule: Rule) -> Self {
        Self { rule, under_way: 0, waiting: BTreeMap::new(), came: 0, standing: None }
    }

    /// What limits.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// Has another rule from now on. Who is under way stays so.
    pub fn set_rule(&mut self, rule: Rule) {
        self.rule = rule;
    }

    /// How many are under way.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many may be under way. `None`: any number.
    pub fn limit(&self) -> Option<usize> {
        match &self.rule {
            Rule::Fixed(n) => Some(*n),
            Rule::Adaptive(limit) => limit.limit(),
        }
    }

    fn has_room(&self) -> bool {
        self.limit().is_none_or(|limit| self.under_way < limit)
    }

    /// A request comes that was tried `attempts` times before and can wait for `left`. Where too many wait,
    /// the last who came of those tried less often makes room. Who waited and does no longer is handed to
    /// `tell`.
    pub fn arrive(
        &mut self,
        now: Time,
        attempts: u8,
        left: Duration,
        token: impl FnOnce() -> T,
        mut tell: impl FnMut(T, Told),
    ) -> Arrival {
        self.passed(now, &mut tell);
        if self.waiting.is_empty() && self.has_room() {
            self.under_way += 1;
            return Arrival::In;
        }
        if let Rule::Adaptive(limit) = &mut self.rule {
            limit.waits(now);
        }
        let room = match &self.rule {
            Rule::Fixed(n) => (*n).max(1),
            Rule::Adaptive(limit) => limit.answered_in(BURST).max(ROOM),
        };
        if self.waiting.len() >= room {
            let Some((last, _)) = self.waiting.last_key_value() else { return Arrival::Full };
            if last.0.0 >= attempts {
                return Arrival::Full;
            }
            if let Some((_, token)) = self.waiting.pop_last() {
                tell(token, Told::Away);
            }
        }
        self.came += 1;
        let ticket = Ticket(Reverse(attempts), self.came);
        self.waiting.insert(ticket, token());
        let since = *self.standing.get_or_insert(now);
        let stands = matches!(self.rule, Rule::Adaptive(_)) && now.since(since) >= BURST;
        let patience = if stands && attempts == 0 { STANDING } else { BURST };
        Arrival::Waits(ticket, now + patience.min(left))
    }

    /// Somebody who was let in at `began` is out. Whoever is let in instead is handed to `tell`.
    pub fn leave(&mut self, now: Time, began: Time, how: Ended, mut tell: impl FnMut(T, Told)) {
        self.under_way = self.under_way.saturating_sub(1);
        if let Rule::Adaptive(limit) = &mut self.rule {
            match how {
                Ended::Answered => limit.answered(now, began, self.under_way),
                Ended::GivenUp => limit.given_up(now, began, self.under_way),
                Ended::Failed => {}
            }
        }
        self.passed(now, &mut tell);
    }

    /// Somebody waits no longer. `true`: it was still waiting; `false`: it was let in or turned away already.
    ///
    /// If it waited its time (`late`), those tried less often who wait still go as well: none of them stays
    /// where who failed more often had to go.
    pub fn give_up(
        &mut self,
        now: Time,
        ticket: Ticket,
        late: bool,
        mut tell: impl FnMut(T, Told),
    ) -> bool {
        if self.waiting.remove(&ticket).is_none() {
            return false;
        }
        if late && ticket.0.0 > 0 {
            let first = Ticket(Reverse(ticket.0.0 - 1), 0);
            let less = self.waiting.split_off(&first);
            less.into_values().for_each(|token| tell(token, Told::Away));
        }
        self.passed(now, &mut tell);
        true
    }

    /// Time passed: lets in who waits, as far as there is room by now.
    fn passed(&mut self, now: Time, tell: &mut impl FnMut(T, Told)) {
        if let Rule::Adaptive(limit) = &mut self.rule {
            limit.passed(now, self.under_way);
        }
        while self.has_room()
            && let Some((_, token)) = self.waiting.pop_first()
        {
            self.under_way += 1;
            tell(token, Told::In);
        }
        if self.waiting.is_empty() {
            self.standing = None;
        }
    }
}

#[cfg(test)]
mod tests;
