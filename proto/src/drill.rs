//! Drills: losses made on purpose, bounded in time, that end by themselves.
//!
//! While a drill runs every agent that knows of it takes some endpoints of *one* service for lost, as after
//! a silence: doubtful at once, lost [`CONFIRM_SILENCE`](crate::evidence::CONFIRM_SILENCE) later. What is
//! under way there is left alone. This module decides which drills run; what follows for routes is
//! [`crate::node`]'s, as after any loss.
//!
//! * A drill ends when its time is over on each agent's own monotonic clock. Nobody can make that later:
//!   what is heard of a drill that is known can only shorten it. A message says how much is *left*, so that
//!   no clock is compared with another; what is on its way longer than that is over on arrival.
//! * An end wins over a beginning, in whatever order they arrive, for [`REMEMBER`].
//! * One drill per service: of two, the one begun first (then the smaller id) goes on, everywhere alike.
//! * A beginning and an end are signed by the member that says so; how much is left is not, and is bounded
//!   by the signed length.
//!
//! Pure: time comes in, deadlines go out.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::advert::{Keyring, MAX_CERTIFICATE, MAX_SIGNATURE, Untrusted};
use crate::ids::{Identity, NodeName, ServiceName};
use crate::time::{Span, Time, Wall};
use crate::wire;

/// Longest drill: longer ones are operations, for which there is `drain`.
pub const MAX_LENGTH: Duration = Duration::from_secs(600);
/// Shortest: a drill must outlast the detection it rehearses.
pub const MIN_LENGTH: Duration = Duration::from_secs(1);
/// How long a drill that is over is remembered: twice as long as any word of it may be on its way and
/// still mean something.
pub const REMEMBER: Duration = Duration::from_secs(1_200);
/// Drills held at once, those that are over included.
pub const MAX_HELD: usize = 64;
/// A breach is told from so many requests on: one failure of two is no rate.
pub const MIN_VOLUME: u64 = 20;
/// Ends are passed on for so long.
const TELL_END: Duration = Duration::from_secs(30);
/// Largest word, encoded.
const MAX_WORD: usize = 2_048;

/// Names a drill in the whole mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DrillId(pub u64);

impl fmt::Display for DrillId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "drill-{:016x}", self.0)
    }
}

impl FromStr for DrillId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("drill-").filter(|d| d.len() == 16);
        let id = digits.and_then(|d| u64::from_str_radix(d, 16).ok());
        id.map(Self).ok_or_else(|| {
            format!("{text:?} is no drill's id; ids read like drill-00c0ffee00c0ffee")
        })
    }
}

/// What is to be lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lose {
    /// The service's endpoints on one node.
    Node(NodeName),
    /// Those on all nodes of a zone.
    Zone(String),
}

impl Lose {
    /// Whether an endpoint on `node` in `zone` is among them.
    pub fn takes(&self, node: &NodeName, zone: &str) -> bool {
        match self {
            Self::Node(name) => name == node,
            Self::Zone(name) => name == zone,
        }
    }
}

impl fmt::Display for Lose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node {name}"),
            Self::Zone(name) => write!(f, "zone {name}"),
        }
    }
}

/// A drill as it was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Its name.
    pub id: DrillId,
    /// Of which service.
    pub service: ServiceName,
    /// What is lost.
    pub lose: Lose,
    /// For how long.
    pub length: Span,
    /// The share of failed requests above which an agent ends it, in ten-thousandths.
    pub abort_above: Option<u32>,
    /// Also where nothing would be left.
    pub force: bool,
    /// The member on which it was begun.
    pub by: NodeName,
    /// When, by that member's clock. For reports, and to settle which of two goes on.
    pub started: Wall,
}

/// What is said of drills.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// It begins.
    Begin(Plan),
    /// It ends before its time.
    End {
        /// Which.
        id: DrillId,
        /// Why, in words.
        why: String,
    },
}

/// A word under its author's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Who said it.
    pub author: NodeName,
    /// The encoded [`Word`].
    pub body: Arc<[u8]>,
    /// The author's certificate, DER.
    pub certificate: Arc<[u8]>,
    /// Over `body`.
    pub signature: Arc<[u8]>,
    /// How much of the drill was left when this message was made. Not signed: every agent that passes a
    /// word on writes its own.
    pub left: Span,
}

/// Why a drill, or a word of one, is refused. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DrillRefused {
    /// The signature is not believed.
    #[error("a word of {0} on a drill: {1}")]
    Untrusted(NodeName, Untrusted),
    /// It cannot be read, or contradicts itself.
    #[error("a word of {0} on a drill cannot be used: {1}")]
    Malformed(NodeName, String),
    /// Too long or too short.
    #[error("a drill of {0} is not one; it lasts from {min} to {max}",
        min = Span(MIN_LENGTH), max = Span(MAX_LENGTH))]
    Length(Span),
    /// The policy does not let this service be drilled.
    #[error("the policy of {0} says drills = \"off\"")]
    Forbidden(ServiceName),
    /// A drill of the service runs already.
    #[error("{1} of {0} runs already; one at a time")]
    Busy(ServiceName, DrillId),
    /// Nothing of the service is there.
    #[error("{0} has no endpoint on {1}, as seen from here")]
    Nothing(ServiceName, Lose),
    /// Nobody would be left.
    #[error(
        "without {1} nobody is left to serve {0}: {2} would neither serve nor could be called up"
    )]
    LastCapacity(ServiceName, Lose, String),
    /// Too many are held.
    #[error("{MAX_HELD} drills are remembered already")]
    Full,
}

impl DrillRefused {
    /// One word for the counter's `reason` label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Untrusted(..) => "untrusted",
            Self::Malformed(..) => "malformed",
            Self::Length(_) => "length",
            Self::Forbidden(_) => "forbidden",
            Self::Busy(..) => "busy",
            Self::Nothing(..) => "nothing",
            Self::LastCapacity(..) => "last_capacity",
            Self::Full => "full",
        }
    }
}

impl Said {
    /// Signs a word in the name of `author`.
    pub fn sign(
        word: &Word,
        author: NodeName,
        keyring: &dyn Keyring,
    ) -> Result<Self, DrillRefused> {
        let body = wire::encode_body(word)
            .map_err(|e| DrillRefused::Malformed(author.clone(), e.to_string()))?;
        Ok(Self {
            signature: keyring.sign(&body).into(),
            certificate: keyring.certificate(),
            body: body.into(),
            author,
            left: Span(Duration::ZERO),
        })
    }

    /// What it says, unverified: cheap, to see whether it is news.
    pub fn peek(&self) -> Result<Word, DrillRefused> {
        let malformed = |why: String| DrillRefused::Malformed(self.author.clone(), why);
        if self.body.len() > MAX_WORD
            || self.certificate.len() > MAX_CERTIFICATE
            || self.signature.len() > MAX_SIGNATURE
        {
            return Err(malformed("it is too large".into()));
        }
        let word: Word = wire::decode_body(&self.body).map_err(|e| malformed(e.to_string()))?;
        match &word {
            Word::Begin(plan) if plan.by != self.author => {
                Err(malformed(format!("it says that {} began it", plan.by)))
            }
            Word::Begin(plan) if !(MIN_LENGTH..=MAX_LENGTH).contains(&plan.length.0) => {
                Err(DrillRefused::Length(plan.length))
            }
            _ => Ok(word),
        }
    }

    /// Whether its author said so.
    pub fn verify(&self, keyring: &dyn Keyring) -> Result<(), DrillRefused> {
        let author = Identity::Node(self.author.clone());
        keyring
            .verify(&author, &self.certificate, &self.body, &self.signature, false)
            .map_err(|e| DrillRefused::Untrusted(self.author.clone(), e))
    }
}

/// A drill that an agent knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// As it was begun.
    pub plan: Plan,
    /// Since when it is known here.
    pub learnt: Time,
    /// When it is over here at the latest.
    pub until: Time,
    /// When and why it ended here.
    pub over: Option<(Time, String)>,
    /// Requests of this agent's clients since.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    said: Said,
}

/// An end that was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct End {
    at: Time,
    said: Said,
}

/// All drills that an agent knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drills {
    held: BTreeMap<DrillId, Held>,
    ends: BTreeMap<DrillId, End>,
}

/// What a word changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// What is taken for lost of this service.
    Of(ServiceName),
}

impl Drills {
    /// Whether `word` can change anything: what cannot is not worth a signature's verification, nor passed on. Where
    /// there is no room to remember it, the end of an unknown drill is none: it would go round for ever.
    pub fn is_news(&self, word: &Word) -> bool {
        match word {
            Word::Begin(plan) => !self.held.contains_key(&plan.id),
            Word::End { id, .. } => {
                let runs = || self.held.get(id).is_some_and(|held| held.over.is_none());
                !self.ends.contains_key(id) && (self.ends.len() < MAX_HELD || runs())
            }
        }
    }

    /// A beginning that was verified and is allowed, of which `said.left` is left.
    pub fn begin(&mut self, now: Time, plan: Plan, said: Said) -> Result<Change, DrillRefused> {
        let left = said.left.0.min(plan.length.0);
        if let Some(held) = self.held.get_mut(&plan.id) {
            // Only ever sooner.
            held.until = held.until.min(now + left);
            return Ok(Change::None);
        }
        if self.held.len() >= MAX_HELD {
            return Err(DrillRefused::Full);
        }
        let service = plan.service.clone();
        let mut held =
            Held { learnt: now, until: now + left, over: None, requests: 0, failed: 0, said, plan };
        let settled = |other: DrillId| format!("{other} of the same service was begun first");
        let rank = |plan: &Plan| (plan.started, plan.id);
        let rival = self.held.values_mut().find(|h| h.over.is_none() && h.plan.service == service);
        if self.ends.contains_key(&held.plan.id) {
            held.over = Some((now, "its end was heard of before its beginning".to_owned()));
        } else if left.is_zero() {
            held.over = Some((now, "it was over when it was heard of".to_owned()));
        } else if let Some(rival) = rival {
            if rank(&rival.plan) < rank(&held.plan) {
                held.over = Some((now, settled(rival.plan.id)));
            } else {
                rival.over = Some((now, settled(held.plan.id)));
            }
        }
        self.held.insert(held.plan.id, held);
        Ok(Change::Of(service))
    }

    /// Sooner, if a word that is known says so.
    pub fn shorten(&mut self, now: Time, id: DrillId, left: Duration) {
        if let Some(held) = self.held.get_mut(&id) {
            held.until = held.until.min(now + left);
        }
    }

    /// An end that was verified.
    pub fn end(&mut self, now: Time, id: DrillId, why: String, said: Said) -> Change {
        if self.ends.len() >= MAX_HELD {
            // The end of a drill that ran here is worth more than one of a drill nobody has heard of.
            let strange = self.ends.keys().find(|id| !self.held.contains_key(id)).copied();
            strange.and_then(|id| self.ends.remove(&id));
        }
        if self.ends.len() < MAX_HELD {
            self.ends.entry(id).or_insert(End { at: now, said });
        }
        match self.held.get_mut(&id) {
            Some(held) if held.over.is_none() => {
                held.over = Some((now, why));
                Change::Of(held.plan.service.clone())
            }
            _ => Change::None,
        }
    }

    /// Ends those whose time is over, forgets those that have long been. Returns the services concerned.
    pub fn expire(&mut self, now: Time) -> Vec<ServiceName> {
        let mut over = Vec::new();
        for held in self.held.values_mut().filter(|h| h.over.is_none() && h.until <= now) {
            held.over = Some((now, "its time is over".to_owned()));
            over.push(held.plan.service.clone());
        }
        let is_old = |at: Time| now >= at + REMEMBER;
        self.held.retain(|_, h| !h.over.as_ref().is_some_and(|(at, _)| is_old(*at)));
        self.ends.retain(|_, end| !is_old(end.at));
        over
    }

    /// Ends a drill that the policy does not allow any more.
    pub fn forbid(&mut self, now: Time, service: &ServiceName) {
        let runs = |h: &&mut Held| h.over.is_none() && h.plan.service == *service;
        if let Some(held) = self.held.values_mut().find(runs) {
            held.over = Some((now, "the policy forbids it now".to_owned()));
        }
    }

    /// When [`Self::expire`] has something to do for a drill that runs.
    pub fn due(&self) -> Option<Time> {
        self.held.values().filter(|h| h.over.is_none()).map(|h| h.until).min()
    }

    /// The drill that runs of `service`.
    pub fn running(&self, service: &ServiceName) -> Option<&Held> {
        self.held.values().find(|h| h.over.is_none() && h.plan.service == *service)
    }

    /// One that is known, by its name.
    pub fn get(&self, id: DrillId) -> Option<&Held> {
        self.held.get(&id)
    }

    /// All that are known.
    pub fn iter(&self) -> impl Iterator<Item = &Held> {
        self.held.values()
    }

    /// Counts what clients of this agent met during a drill. `Some`: the stated breach, in words.
    pub fn toll(
        &mut self,
        service: &ServiceName,
        requests: u64,
        failed: u64,
    ) -> Option<(DrillId, String)> {
        let held =
            self.held.values_mut().find(|h| h.over.is_none() && h.plan.service == *service)?;
        held.requests = held.requests.saturating_add(requests);
        held.failed = held.failed.saturating_add(failed);
        let above = held.plan.abort_above?;
        let breach = held.requests >= MIN_VOLUME
            && u128::from(held.failed) * 10_000 > u128::from(held.requests) * u128::from(above);
        breach.then(|| {
            let why = format!(
                "{} of {} requests failed, more than {} %",
                held.failed,
                held.requests,
                f64::from(above) / 100.0
            );
            (held.plan.id, why)
        })
    }

    /// What there is to tell others, with what is left as of now.
    pub fn words(&self, now: Time) -> Vec<Said> {
        let running = self.held.values().filter(|h| h.over.is_none() && h.until > now);
        let begins = running.map(|h| Said { left: Span(h.until.since(now)), ..h.said.clone() });
        let ends = self.ends.values().filter(|end| now < end.at + TELL_END);
        begins.chain(ends.map(|end| end.said.clone())).collect()
    }

    /// Whether there will be something to tell at `now`.
    pub fn has_words(&self, now: Time) -> bool {
        self.held.values().any(|h| h.over.is_none() && h.until > now)
            || self.ends.values().any(|end| now < end.at + TELL_END)
    }

    /// Without signatures that a replay cannot make.
    pub(crate) fn without_signatures_of(&mut self, node: &NodeName) {
        let all = self.held.values_mut().map(|h| &mut h.said);
        let all = all.chain(self.ends.values_mut().map(|end| &mut end.said));
        for said in all.filter(|said| said.author == *node) {
            said.signature = Arc::from([]);
            said.certificate = Arc::from([]);
        }
    }
}

#[cfg(test)]
mod tests;
