//! Voter and claimant of one service on one node: the machine that safety rests on.
//!
//! It decides nothing about *when* to claim ([`super::seat`] does): whatever is called whenever, no two
//! nodes believe in the lease at once, and terms grow. It is this machine that the exhaustive
//! exploration and the simulator drive.
//!
//! Inputs: [`Core::handle`], [`Core::saved`], [`Core::expire`]; commands: [`Core::ask`],
//! [`Core::claim`], [`Core::renew`], [`Core::release`], [`Core::set_electorate`]; output:
//! [`Core::poll`], to be drained after each of them.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::ids::{Generation, NodeName};
use crate::time::{Clock, Span, Time};

use super::Timing;
use super::claim::Claimant;
use super::electorate::Electorate;
use super::memory::Blank;
use super::message::{Ask, Body, Claim, Grant, Refusal, Refuse, Release, Round, Tell, Vote};
use super::promise::{Book, Voter};

/// What a node remembers of its promises.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Memory {
    /// All of it.
    Whole(Voter),
    /// Nothing: it may not vote yet.
    Blank(Blank),
}

/// What the machine wants done, or tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Out {
    /// Send this.
    Send {
        /// To whom.
        to: NodeName,
        /// What.
        body: Body,
    },
    /// Put this on disk, durably, then call [`Core::saved`].
    Save {
        /// Its number; a later one makes an earlier one superfluous, and is never overwritten by it.
        serial: u64,
        /// What.
        book: Book,
    },
    /// The lease is held from now on, under this term.
    Won {
        /// Under this term.
        term: u64,
    },
    /// It is not held any longer.
    Lost {
        /// The term it was under.
        term: u64,
        /// Why.
        why: Lost,
    },
}

/// Why a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Lost {
    /// Its time was over before a majority renewed it.
    Expired,
    /// It was given up: to hand over, to drain, or because nothing here can serve.
    Released,
}

impl Lost {
    /// The word used in logs and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Released => "released",
        }
    }
}

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Core {
    pub(super) me: NodeName,
    pub(super) electorate: Electorate,
    pub(super) timing: Timing,
    pub(super) memory: Memory,
    pub(super) claimant: Claimant,
    /// Where terms start when every memory is lost: the wall clock, in milliseconds. Nothing else rests on it.
    pub(super) floor: Option<Clock>,
    /// The number of the last change of the book, and of the last one that is on disk.
    pub(super) changed: u64,
    pub(super) on_disk: u64,
    /// Grants that wait for the disk: one per claimant, the latest, with the change it rests on.
    pub(super) unsaid: BTreeMap<NodeName, (u64, Grant)>,
    pub(super) out: VecDeque<Out>,
}

impl Core {
    /// A machine with the memory it had, or without any.
    pub fn new(
        me: NodeName,
        generation: Generation,
        electorate: Electorate,
        timing: Timing,
        (book, floor): (Option<Book>, Option<Clock>),
        now: Time,
    ) -> Self {
        let settled = book.as_ref().map_or(0, |b| b.settled);
        let memory = match book {
            Some(book) => Memory::Whole(Voter::restored(book, now)),
            None => Memory::Blank(Blank::new(now)),
        };
        Self {
            me,
            electorate,
            timing,
            floor,
            memory,
            claimant: Claimant::new(generation, settled),
            changed: 0,
            on_disk: 0,
            unsaid: BTreeMap::new(),
            out: VecDeque::new(),
        }
    }

    /// The lease, if this node may believe in it at `now`: its term, and until when.
    pub fn holding(&self, now: Time) -> Option<(u64, Time)> {
        self.claimant.holding(now)
    }

    /// The electorate in force.
    pub fn electorate(&self) -> &Electorate {
        &self.electorate
    }

    /// The timing in force.
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// The claimant's side.
    pub fn claimant(&self) -> &Claimant {
        &self.claimant
    }

    /// The voter's side.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Whether what was promised waits for the disk.
    pub fn waits_for_disk(&self) -> bool {
        self.on_disk < self.changed
    }

    /// Whom this node's voter has promised to, under which term, until when.
    pub fn promised(&self, now: Time) -> Option<(&NodeName, u64, Time)> {
        let Memory::Whole(voter) = &self.memory else { return None };
        voter.promised(now).map(|(to, until)| (to, voter.book().term, until))
    }

    /// The next thing to do or know.
    pub fn poll(&mut self) -> Option<Out> {
        self.out.pop_front()
    }

    /// Ends a lease whose time is over. Every other input does this first.
    pub fn expire(&mut self, now: Time) {
        if let Some(term) = self.claimant.expire(now) {
            self.out.push_back(Out::Lost { term, why: Lost::Expired });
        }
    }

    /// Takes in what another owner says.
    pub fn handle(&mut self, now: Time, from: &NodeName, body: Body) {
        self.expire(now);
        match body {
            Body::Ask(Ask { round }) => {
                let tell = self.told(now, round);
                self.send(from, Body::Tell(tell));
            }
            Body::Tell(tell) => self.take_tell(now, from, &tell),
            Body::Claim(claim) => self.take_claim(now, from, &claim),
            Body::Grant(grant) => self.take_grant(now, from, &grant),
            Body::Refuse(Refuse { round, why }) => self.claimant.refuse(from, round, why),
            Body::Release(release) => {
                if let Memory::Whole(voter) = &mut self.memory {
                    voter.release(from, release.term);
                }
            }
        }
    }

    /// The book of this number, and all before, are on disk.
    pub fn saved(&mut self, now: Time, serial: u64) {
        self.expire(now);
        self.on_disk = self.on_disk.max(serial);
        let on_disk = self.on_disk;
        let (ready, rest) =
            std::mem::take(&mut self.unsaid).into_iter().partition(|(_, (on, _))| *on <= on_disk);
        self.unsaid = rest;
        let ready: BTreeMap<NodeName, (u64, Grant)> = ready;
        for (to, (_, grant)) in ready {
            self.say(now, &to, grant);
        }
    }

    /// Asks everybody what they would say to a claim, and claims once enough would grant it.
    pub fn ask(&mut self, now: Time) {
        self.expire(now);
        let round = self.claimant.ask(now);
        if let Memory::Blank(blank) = &mut self.memory {
            blank.ask(now, round);
        }
        self.broadcast(&Body::Ask(Ask { round }));
        let tell = self.told(now, round);
        let me = self.me.clone();
        self.take_tell(now, &me, &tell);
    }

    /// Claims the lease under a term of at least `floor`, above any this node has promised.
    pub fn claim(&mut self, now: Time, floor: u64) {
        self.expire(now);
        let Memory::Whole(voter) = &self.memory else { return };
        if self.holding(now).is_some() || !self.electorate.owners().contains(&self.me) {
            return;
        }
        let wall = self.floor.map_or(0, |clock| clock.wall(now).0 / 1_000);
        let term = floor.max(wall).max(voter.book().term.saturating_add(1));
        let round = self.claimant.open(now, term);
        self.put(now, round, term);
    }

    /// Renews the lease in a new round.
    pub fn renew(&mut self, now: Time) {
        self.expire(now);
        let Some(term) = self.claimant.renewal_term() else { return };
        let round = self.claimant.open(now, term);
        self.put(now, round, term);
    }

    /// Says the open round's claim again to those who have not answered.
    pub fn repeat(&mut self, now: Time) {
        self.expire(now);
        let Some(poll) = self.claimant.poll() else { return };
        let claim = self.claim_of(poll.round, poll.term);
        let silent = |name: &NodeName| !poll.yes.contains(name) && !poll.no.contains_key(name);
        let to: Vec<NodeName> =
            self.electorate.voters().into_iter().filter(|n| *n != self.me && silent(n)).collect();
        for name in to {
            self.send(&name, Body::Claim(claim.clone()));
        }
    }

    /// Gives up the lease, the claim, or the question that is open.
    pub fn release(&mut self, now: Time, next: Option<NodeName>) {
        self.expire(now);
        let held = self.holding(now);
        let Some(term) = self.claimant.close() else { return };
        if let Some((term, _)) = held {
            self.out.push_back(Out::Lost { term, why: Lost::Released });
        }
        self.unsaid.remove(&self.me);
        if let Memory::Whole(voter) = &mut self.memory {
            voter.release(&self.me, term);
        }
        self.broadcast(&Body::Release(Release { term, next }));
    }

    /// Another electorate, or another timing, is in force.
    pub fn set_electorate(&mut self, now: Time, electorate: Electorate, timing: Timing) {
        self.expire(now);
        if self.electorate == electorate && self.timing == timing {
            return;
        }
        let stays = electorate.owners().contains(&self.me);
        if self.holding(now).is_some() && stays {
            // The lease goes on; only a round that counts voices the old way does not.
            self.claimant.close_renewal();
        } else {
            self.release(now, None);
        }
        self.electorate = electorate;
        self.timing = timing;
    }

    // ---- within a step -------------------------------------------------------------------------

    fn told(&self, now: Time, round: Round) -> Tell {
        let number = self.electorate.number();
        let settled = self.claimant.settled;
        match &self.memory {
            Memory::Blank(_) => Tell { round, number, settled, term: 0, vote: Vote::Blank },
            Memory::Whole(voter) => Tell {
                round,
                number: number.max(voter.book().number),
                settled: settled.max(voter.book().settled),
                term: voter.book().term,
                vote: voter.vote(now),
            },
        }
    }

    fn take_tell(&mut self, now: Time, from: &NodeName, tell: &Tell) {
        if !self.electorate.voters().contains(from) {
            return;
        }
        if let Memory::Blank(blank) = &mut self.memory {
            blank.tell(now, &self.me, &self.electorate, (from, tell));
            if let Some(book) = blank.book(now, &self.me, &self.electorate, &self.timing) {
                self.memory = Memory::Whole(Voter::restored(book, now));
                self.save();
            }
        }
        let (me, electorate) = (&self.me, &self.electorate);
        if let Some(greatest) = self.claimant.tell(me, from, tell, electorate) {
            self.claim(now, greatest.saturating_add(1));
        }
    }

    fn take_claim(&mut self, now: Time, from: &NodeName, claim: &Claim) {
        let verdict = match &mut self.memory {
            Memory::Blank(_) => Err(Refusal::Blank),
            Memory::Whole(voter) => {
                let before = voter.book().clone();
                voter.learn_settled(self.claimant.settled);
                let verdict = voter.claim(now, &self.me, from, claim, &self.electorate);
                // What was learnt but rests on nothing may wait for the next change.
                if verdict.is_ok() && *voter.book() != before {
                    self.save();
                }
                verdict
            }
        };
        match verdict {
            Err(why) => {
                let refuse = Refuse { round: claim.round, why };
                if *from == self.me {
                    self.claimant.refuse(from, refuse.round, refuse.why);
                } else {
                    self.send(from, Body::Refuse(refuse));
                }
            }
            Ok(()) => {
                let settled = self.claimant.settled;
                let grant = Grant { round: claim.round, term: claim.term, settled };
                if self.waits_for_disk() {
                    self.unsaid.insert(from.clone(), (self.changed, grant));
                } else {
                    self.say(now, from, grant);
                }
            }
        }
    }

    fn take_grant(&mut self, now: Time, from: &NodeName, grant: &Grant) {
        if !self.electorate.voters().contains(from) {
            return;
        }
        let (electorate, timing) = (&self.electorate, &self.timing);
        if let Some(term) = self.claimant.grant(now, from, grant, electorate, timing) {
            self.out.push_back(Out::Won { term });
        }
    }

    /// Says a grant, to ourselves directly.
    fn say(&mut self, now: Time, to: &NodeName, grant: Grant) {
        if *to == self.me {
            let me = self.me.clone();
            self.take_grant(now, &me, &grant);
        } else {
            self.send(to, Body::Grant(grant));
        }
    }

    fn claim_of(&self, round: Round, term: u64) -> Claim {
        Claim {
            round,
            number: self.electorate.number(),
            print: self.electorate.print(),
            settled: self.claimant.settled,
            term,
            lease: Span(self.timing.promise),
        }
    }

    /// Puts a claim to everybody, to ourselves first: who claims has a memory.
    fn put(&mut self, now: Time, round: Round, term: u64) {
        let claim = self.claim_of(round, term);
        let me = self.me.clone();
        self.take_claim(now, &me, &claim);
        self.broadcast(&Body::Claim(claim));
    }

    fn save(&mut self) {
        let Memory::Whole(voter) = &self.memory else { return };
        self.changed += 1;
        self.out.push_back(Out::Save { serial: self.changed, book: voter.book().clone() });
    }

    fn send(&mut self, to: &NodeName, body: Body) {
        self.out.push_back(Out::Send { to: to.clone(), body });
    }

    fn broadcast(&mut self, body: &Body) {
        for name in self.electorate.voters() {
            if name != self.me {
                self.send(&name, body.clone());
            }
        }
    }
}
