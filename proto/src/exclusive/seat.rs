//! When to claim, renew, give up and hand over: the seat of one node among the owners of a service.
//!
//! Owns a [`Core`] and its timers. Nothing here is needed for safety: called at any other moments, the core
//! would still let nobody else hold. What it is for:
//!
//! * *order*: who is first in the agreed order of endpoints asks first, the next a step later;
//! * *calm*: it asks before it claims, so that a minority raises no terms and wears no disk, and after each
//!   failure waits longer, by a jittered backoff, so that two claimants do not meet for ever;
//! * *time*: a holder renews four times within its hold, and repeats what is lost on the way.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::ids::NodeName;
use crate::time::{Span, Time};

use super::Timing;
use super::claim::Stand;
use super::core::{Core, Memory, Out};
use super::electorate::{Electorate, Short};
use super::message::{Body, Refusal, Vote};

/// Between the attempts of one rank and the next: a question and a claim over a path of 50 ms.
const STEP: Duration = Duration::from_millis(150);
/// The first wait after a failed attempt; it doubles.
const BACKOFF: Duration = Duration::from_millis(250);
/// A voter without memory asks so often.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// An attempt that is not answered for so long, or a quarter of the hold, has failed.
const ATTEMPT: Duration = Duration::from_secs(1);

/// Whether this node wants the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Candidacy {
    /// It does not: nothing here can serve.
    Out,
    /// It does, as the so-manieth in the agreed order, from 0.
    In(u32),
}

/// Where a seat stands, for people: `explain` says it in these words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// It holds the lease.
    Holds {
        /// Under this term.
        term: u64,
        /// For how long yet, unless renewed.
        left: Span,
    },
    /// It has promised it to another.
    Follows {
        /// To whom.
        holder: NodeName,
        /// Under this term.
        term: u64,
        /// For how long yet, unless renewed.
        left: Span,
    },
    /// It has lost its memory, and may not vote.
    Blank {
        /// How long yet the longest lease might last.
        left: Span,
        /// Who has not answered.
        missing: Vec<NodeName>,
    },
    /// Its promises do not reach the disk.
    Disk,
    /// The electorate of its policy is not the one in force.
    Electorate {
        /// The number that is.
        number: u64,
        /// The number of its policy.
        policy: u64,
    },
    /// Too few owners would grant it: it refuses rather than splits the brain.
    Minority {
        /// How many voices there are, and how many it takes.
        short: Short,
        /// Who did not answer.
        silent: Vec<NodeName>,
    },
    /// Nothing here can serve.
    Aside,
    /// It is about to claim.
    Seeking,
}

impl Status {
    /// The words of all, in the order of the variants.
    pub const WORDS: [&str; 8] =
        ["holds", "follows", "blank", "disk", "electorate", "minority", "aside", "seeking"];

    /// One stable word, for metrics and JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Holds { .. } => "holds",
            Self::Follows { .. } => "follows",
            Self::Blank { .. } => "blank",
            Self::Disk => "disk",
            Self::Electorate { .. } => "electorate",
            Self::Minority { .. } => "minority",
            Self::Aside => "aside",
            Self::Seeking => "seeking",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            |names: &[NodeName]| names.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ");
        match self {
            Self::Holds { term, .. } => write!(f, "this node holds the lease, under term {term}"),
            Self::Follows { holder, term, .. } => {
                write!(f, "this node has promised the lease to {holder}, under term {term}")
            }
            Self::Blank { left, missing } => {
                f.write_str("this node does not vote: it has no memory of what it promised")?;
                if left.0 > Duration::ZERO {
                    write!(
                        f,
                        "; the longest lease it may have granted is over in {} s",
                        left.0.as_secs() + 1
                    )?;
                }
                if !missing.is_empty() {
                    write!(f, "; it has not heard from {}", names(missing))?;
                }
                Ok(())
            }
            Self::Disk => {
                f.write_str("this node does not vote: its disk has not taken its last promise")
            }
            Self::Electorate { number, policy } => write!(
                f,
                "the policy here has owners number {policy}, others know number {number}: owners changed \
                 without a new number, or the newer policy has not arrived"
            ),
            Self::Minority { short, silent } => {
                write!(
                    f,
                    "no majority: {} of {} owners would grant the lease, {} are needed",
                    short.have, short.of, short.need
                )?;
                if !silent.is_empty() {
                    write!(f, "; {} did not answer", names(silent))?;
                }
                f.write_str("; refused here, since the others may have it")
            }
            Self::Aside => f.write_str("no endpoint here can serve, so this node only votes"),
            Self::Seeking => f.write_str("this node is about to claim the lease"),
        }
    }
}

/// See the module's text.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seat {
    core: Core,
    /// Of the next random number. Kept instead of a generator, which cannot be written down.
    seed: u64,
    candidacy: Candidacy,
    /// When something is to be done next; what, follows from where the core stands.
    due: Time,
    /// Attempts that failed in a row.
    failures: u32,
    /// What the last failed attempt found.
    found: Option<Status>,
}

impl Seat {
    /// A seat over a core.
    pub fn new(core: Core, seed: u64, now: Time) -> Self {
        Self { core, seed, candidacy: Candidacy::Out, due: now, failures: 0, found: None }
    }

    /// The machine within.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// The lease, if this node may believe in it at `now`: its term, and until when.
    pub fn holding(&self, now: Time) -> Option<(u64, Time)> {
        self.core.holding(now)
    }

    /// The next thing to do or know.
    pub fn poll(&mut self) -> Option<Out> {
        self.core.poll()
    }

    /// When [`Seat::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Time {
        match self.core.claimant().stand() {
            Stand::Holding { until, .. } => self.due.min(*until),
            Stand::Idle if !self.is_blank() && self.candidacy == Candidacy::Out => Time(u64::MAX),
            _ => self.due,
        }
    }

    /// Takes in what another owner says.
    pub fn handle(&mut self, now: Time, from: &NodeName, body: Body) {
        let released = match &body {
            Body::Release(r) => Some(r.next.clone()),
            _ => None,
        };
        let held = self.holding(now).is_some();
        let before = self.core.promised(now).map(|(to, _, _)| to.clone());
        self.core.handle(now, from, body);
        if held != self.holding(now).is_some() {
            self.moved(now);
        } else if let Some(next) = released
            && before.as_ref() == Some(from)
            && self.core.promised(now).is_none()
        {
            self.freed(now, next.as_ref());
        } else if matches!(self.core.claimant().stand(), Stand::Claiming(_)) && self.is_hopeless() {
            self.fail(now);
        }
    }

    /// Promises up to this number are on disk.
    pub fn saved(&mut self, now: Time, serial: u64) {
        let held = self.holding(now).is_some();
        self.core.saved(now, serial);
        if held != self.holding(now).is_some() {
            self.moved(now);
        }
    }

    /// Says whether this node wants the lease. One that cannot serve gives it up.
    pub fn set_candidacy(&mut self, now: Time, candidacy: Candidacy) {
        let before = std::mem::replace(&mut self.candidacy, candidacy);
        match (before, candidacy) {
            (_, Candidacy::Out) if before != Candidacy::Out => self.core.release(now, None),
            (Candidacy::Out, Candidacy::In(rank)) if !self.is_blank() => {
                self.due = now + self.stagger(rank);
            }
            _ => {}
        }
    }

    /// Hands the lease over.
    pub fn hand_over(&mut self, now: Time, next: Option<NodeName>) {
        if self.holding(now).is_some() {
            self.core.release(now, next);
            // Whoever is to have it gets the time to take it.
            self.due = now + STEP * 8 + self.jitter(STEP);
        }
    }

    /// Another electorate or lease is in force.
    pub fn set_electorate(&mut self, now: Time, electorate: Electorate, timing: Timing) {
        let before = self.core.electorate().number();
        self.core.set_electorate(now, electorate, timing);
        if before != self.core.electorate().number() {
            self.failures = 0;
            self.due = now;
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        let held = matches!(self.core.claimant().stand(), Stand::Holding { .. });
        self.core.expire(now);
        if held && self.holding(now).is_none() {
            return self.moved(now);
        }
        if now < self.due {
            return;
        }
        if self.is_blank() {
            self.core.ask(now);
            self.due = now + ASK_EVERY + self.jitter(ASK_EVERY / 5);
            return;
        }
        match self.core.claimant().stand() {
            Stand::Idle => self.attempt(now),
            Stand::Asking { .. } | Stand::Claiming(_) => self.fail(now),
            Stand::Holding { .. } => self.keep(now),
        }
    }

    /// Where it stands, for people.
    pub fn status(&self, now: Time) -> Status {
        if let Some((term, until)) = self.holding(now) {
            return Status::Holds { term, left: Span(until.since(now)) };
        }
        if let Memory::Blank(blank) = self.core.memory() {
            let missing = blank.missing(&self.core.me, self.core.electorate());
            return Status::Blank {
                left: Span(blank.over(self.core.timing()).since(now)),
                missing,
            };
        }
        if self.core.waits_for_disk() && self.core.claimant().poll().is_none() {
            return Status::Disk;
        }
        match self.core.promised(now) {
            Some((holder, term, until)) if *holder != self.core.me => {
                Status::Follows { holder: holder.clone(), term, left: Span(until.since(now)) }
            }
            _ => match (&self.found, self.candidacy) {
                (_, Candidacy::Out) => Status::Aside,
                (Some(found), _) => found.clone(),
                (None, _) => Status::Seeking,
            },
        }
    }

    // ---- within a step -------------------------------------------------------------------------

    fn is_blank(&self) -> bool {
        matches!(self.core.memory(), Memory::Blank(_))
    }

    fn jitter(&mut self, most: Duration) -> Duration {
        let mut rng = StdRng::seed_from_u64(self.seed);
        self.seed = rng.random();
        most.mul_f64(rng.random::<f64>())
    }

    fn stagger(&mut self, rank: u32) -> Duration {
        // Never now: who is told when it is due has to be able to wait for it.
        STEP * rank.min(16) + self.jitter(STEP / 2) + Duration::from_millis(1)
    }

    fn rank(&self) -> u32 {
        match self.candidacy {
            Candidacy::In(rank) => rank,
            Candidacy::Out => 0,
        }
    }

    fn attempt_limit(&self) -> Duration {
        (self.core.timing().hold / 4).min(ATTEMPT)
    }

    /// The lease was won or lost just now.
    fn moved(&mut self, now: Time) {
        self.failures = 0;
        self.found = None;
        self.due = match self.holding(now) {
            Some(_) => now + self.core.timing().hold / 4,
            None => now + self.stagger(self.rank()),
        };
    }

    /// The holder gave it back.
    fn freed(&mut self, now: Time, next: Option<&NodeName>) {
        self.failures = 0;
        let rank = self.rank();
        self.due = match next {
            Some(name) if *name == self.core.me => now,
            Some(_) => now + STEP * 2 + self.stagger(rank),
            None => now + self.stagger(rank),
        };
    }

    /// Asks for the lease, unless it is known to be promised.
    fn attempt(&mut self, now: Time) {
        if self.candidacy == Candidacy::Out {
            return;
        }
        if !self.core.electorate().owners().contains(&self.core.me) {
            // A former owner votes, and wants nothing.
            self.due = now + self.core.timing().hold;
            return;
        }
        if let Some((holder, _, until)) = self.core.promised(now)
            && *holder != self.core.me
        {
            self.due = until + self.stagger(self.rank());
            return;
        }
        self.due = now + self.attempt_limit();
        self.core.ask(now);
        if self.holding(now).is_some() {
            self.moved(now);
        }
    }

    /// What is open came to nothing.
    fn fail(&mut self, now: Time) {
        self.found = Some(self.finding());
        let free = self.free_in();
        self.core.release(now, None);
        let cap = (self.core.timing().hold / 2).max(BACKOFF);
        let wait = (BACKOFF * 2u32.pow(self.failures.min(8))).min(cap);
        self.failures += 1;
        let wait = (wait / 2 + self.jitter(wait)).max(free);
        self.due = now + wait + self.stagger(self.rank());
    }

    /// In how long the first of those who have promised it to another are free.
    fn free_in(&self) -> Duration {
        let Stand::Asking { told, .. } = self.core.claimant().stand() else {
            return Duration::ZERO;
        };
        let left = told.values().filter_map(|t| match &t.vote {
            Vote::Promised { to, left } if *to != self.core.me => Some(left.0),
            _ => None,
        });
        left.min().unwrap_or_default().min(self.core.timing().promise)
    }

    /// Whether those who refused make a majority impossible.
    fn is_hopeless(&self) -> bool {
        let Some(poll) = self.core.claimant().poll() else { return false };
        let mut may = self.core.electorate().voters();
        may.retain(|name| !poll.no.contains_key(name));
        !self.core.electorate().agree(self.core.claimant().settled, &may)
    }

    /// Why what is open came to nothing.
    fn finding(&self) -> Status {
        let electorate = self.core.electorate();
        let policy = electorate.number();
        let (yes, heard, number): (BTreeSet<NodeName>, BTreeSet<NodeName>, u64) =
            match self.core.claimant().stand() {
                Stand::Asking { told, .. } => (
                    told.iter()
                        .filter(|(_, t)| match &t.vote {
                            Vote::Free => true,
                            Vote::Promised { to, .. } => *to == self.core.me,
                            Vote::Blank => false,
                        })
                        .map(|(n, _)| n.clone())
                        .collect(),
                    told.keys().cloned().collect(),
                    told.values().map(|t| t.number).max().unwrap_or(0),
                ),
                Stand::Claiming(poll) => (
                    poll.yes.clone(),
                    poll.yes.iter().chain(poll.no.keys()).cloned().collect(),
                    poll.no
                        .values()
                        .map(|why| match why {
                            // The same number with other owners is no less another electorate.
                            Refusal::Electorate { number } => (*number).max(policy + 1),
                            _ => 0,
                        })
                        .max()
                        .unwrap_or(0),
                ),
                Stand::Idle | Stand::Holding { .. } => return Status::Seeking,
            };
        if number > policy {
            return Status::Electorate { number, policy };
        }
        let silent = electorate.voters().difference(&heard).cloned().collect();
        match electorate.short(self.core.claimant().settled, &yes) {
            Some(short) => Status::Minority { short, silent },
            None => Status::Seeking,
        }
    }

    /// Renews, and repeats what has not been answered.
    fn keep(&mut self, now: Time) {
        let hold = self.core.timing().hold;
        let open = self.core.claimant().poll().map(|poll| poll.sent);
        // The lease counts from when its last round was sent.
        let next = self.holding(now).map_or(now, |(_, until)| until - hold + hold / 4);
        match open {
            Some(sent) if now.since(sent) < hold / 2 => self.core.repeat(now),
            None if now < next => {
                self.due = next;
                return;
            }
            _ => self.core.renew(now),
        }
        // Under way: again soon, in case something is lost.
        self.due = now + (hold / 12).max(Duration::from_millis(20));
    }
}
