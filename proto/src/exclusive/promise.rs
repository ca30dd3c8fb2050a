//! A voter: what it may grant, and what it must remember to do so.
//!
//! The rules, in the order they are asked:
//!
//! 1. only owners of the electorate in force claim, and only its voters vote;
//! 2. under the number in force, with the same owners, and never under less than was granted under;
//! 3. while a promise lasts, nobody but its holder gets another;
//! 4. a new holder, or the same one anew, needs a term above any promised; under the same term only the
//!    same holder renews, and only what it has not released.
//!
//! The voter does no IO: it hands out its [`Book`] when that changed, and says nothing that rests on it
//! before it is told that the book is on disk.

use serde::{Deserialize, Serialize};

use crate::ids::NodeName;
use crate::time::{Span, Time};

use super::electorate::Electorate;
use super::message::{Claim, Refusal, Vote};
use super::{MAX_LEASE, Timing};

/// What a voter must not forget, of one service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Book {
    /// The greatest electorate number it has granted under.
    pub number: u64,
    /// The print of that electorate.
    pub print: u64,
    /// The greatest number known to be settled.
    pub settled: u64,
    /// The greatest term promised.
    pub term: u64,
    /// To whom; nobody, where the term is only known of.
    pub holder: Option<NodeName>,
    /// The longest promise given under that term.
    pub lease: Span,
}

/// How a promise stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Promise {
    /// There is none.
    None,
    /// To the book's holder, until then; afterwards it may still renew if nobody came between.
    Until(Time),
    /// The holder gave it back: this term is over.
    Released,
}

/// A voter with its memory whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Voter {
    pub(super) book: Book,
    pub(super) promise: Promise,
}

impl Voter {
    /// A voter with the memory it had before this start. How long ago it promised it cannot know, so that a
    /// promise counts from now.
    pub fn restored(book: Book, now: Time) -> Self {
        let promise = match book.holder {
            Some(_) => Promise::Until(now + book.lease.0),
            None => Promise::None,
        };
        Self { book, promise }
    }

    /// What it knows.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// To whom it has promised now, and until when.
    pub fn promised(&self, now: Time) -> Option<(&NodeName, Time)> {
        match (&self.book.holder, self.promise) {
            (Some(holder), Promise::Until(until)) if now < until => Some((holder, until)),
            _ => None,
        }
    }

    /// What it would say to a claim.
    pub fn vote(&self, now: Time) -> Vote {
        match self.promised(now) {
            None => Vote::Free,
            Some((to, until)) => Vote::Promised { to: to.clone(), left: Span(until.since(now)) },
        }
    }

    /// Decides on a claim of `from`. A grant may have changed the book.
    pub fn claim(
        &mut self,
        now: Time,
        me: &NodeName,
        from: &NodeName,
        claim: &Claim,
        electorate: &Electorate,
    ) -> Result<(), Refusal> {
        if !electorate.owners().contains(from) || !electorate.voters().contains(me) {
            return Err(Refusal::NotOwner);
        }
        if claim.lease.0 > MAX_LEASE {
            return Err(Refusal::TooLong);
        }
        let (number, print) = (electorate.number(), electorate.print());
        // A print of 0 is that of a number only heard of.
        let bound = self.book.number == number && ![0, print].contains(&self.book.print);
        if claim.number != number || claim.print != print || self.book.number > number || bound {
            return Err(Refusal::Electorate { number: self.book.number.max(number) });
        }
        if let Some((holder, until)) = self.promised(now)
            && holder != from
        {
            let (by, left) = (holder.clone(), Span(until.since(now)));
            return Err(Refusal::Held { by, term: self.book.term, left });
        }
        let same = self.book.holder.as_ref() == Some(from) && self.promise != Promise::Released;
        if claim.term < self.book.term || (claim.term == self.book.term && !same) {
            return Err(Refusal::Term { seen: self.book.term });
        }
        self.grant(now, from, claim);
        Ok(())
    }

    fn grant(&mut self, now: Time, from: &NodeName, claim: &Claim) {
        let renewed = claim.term == self.book.term;
        let until = now + claim.lease.0;
        // A shorter renewal takes back nothing of a longer one.
        self.promise = match self.promise {
            Promise::Until(before) if renewed => Promise::Until(before.max(until)),
            _ => Promise::Until(until),
        };
        let lease = if renewed { self.book.lease.max(claim.lease) } else { claim.lease };
        self.book = Book {
            number: claim.number,
            print: claim.print,
            settled: self.book.settled.max(claim.settled),
            term: claim.term,
            holder: Some(from.clone()),
            lease,
        };
    }

    /// The holder gives its promise back. Says whether anything changed.
    pub fn release(&mut self, from: &NodeName, term: u64) -> bool {
        let fits = self.book.holder.as_ref() == Some(from) && self.book.term == term;
        if fits {
            self.promise = Promise::Released;
        }
        fits
    }

    /// Takes note of a fact.
    pub fn learn_settled(&mut self, settled: u64) {
        self.book.settled = self.book.settled.max(settled);
    }
}

impl Book {
    /// The book of a voter that has never promised anything, as far as others could tell.
    pub fn fresh(electorate: &Electorate, timing: &Timing) -> Self {
        Self {
            number: electorate.number(),
            print: electorate.print(),
            settled: 0,
            term: 0,
            holder: None,
            lease: Span(timing.promise),
        }
    }
}
