//! What the owners of an exclusive service say to each other. Each body is a wire kind of its own.

use serde::{Deserialize, Serialize};

use crate::ids::{Generation, NodeName};
use crate::time::Span;

/// One attempt of a claimant to be heard, told apart from all its others, those of earlier starts included.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Round {
    /// The claimant's start.
    pub generation: Generation,
    /// The attempt within it.
    pub count: u64,
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Body {
    /// What would you say to a claim?
    Ask(Ask),
    /// The answer to [`Body::Ask`].
    Tell(Tell),
    /// I want the lease, or want to keep it.
    Claim(Claim),
    /// It is promised to you.
    Grant(Grant),
    /// It is not.
    Refuse(Refuse),
    /// I do not hold it any longer, or give up wanting it.
    Release(Release),
}

/// A question that changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ask {
    /// Comes back with the answer.
    pub round: Round,
}

/// What a voter knows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tell {
    /// The question's.
    pub round: Round,
    /// The greatest electorate number it has granted under, or has by policy.
    pub number: u64,
    /// The greatest number it knows to be settled.
    pub settled: u64,
    /// The greatest term it has promised.
    pub term: u64,
    /// What it would say.
    pub vote: Vote,
}

/// What a voter would say to a claim.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Vote {
    /// Nothing: it has no memory.
    Blank,
    /// Yes to anybody.
    Free,
    /// Yes to one only.
    Promised {
        /// To whom.
        to: NodeName,
        /// For how long yet, by its clock.
        left: Span,
    },
}

/// The wish for a lease.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Claim {
    /// The attempt.
    pub round: Round,
    /// The electorate it is made under.
    pub number: u64,
    /// That electorate's print.
    pub print: u64,
    /// The greatest number the claimant knows to be settled.
    pub settled: u64,
    /// The term.
    pub term: u64,
    /// For how long the promise is wanted.
    pub lease: Span,
}

/// A promise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Grant {
    /// The claim's.
    pub round: Round,
    /// The claim's.
    pub term: u64,
    /// The greatest number the voter knows to be settled.
    pub settled: u64,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Refuse {
    /// The claim's.
    pub round: Round,
    /// Why.
    pub why: Refusal,
}

/// Why a claim is refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Refusal {
    /// The voter has lost its memory, and cannot know what it promised.
    Blank,
    /// The voter knows another electorate.
    Electorate {
        /// The number it knows.
        number: u64,
    },
    /// It is promised to another.
    Held {
        /// To whom.
        by: NodeName,
        /// Under which term.
        term: u64,
        /// For how long yet, by the voter's clock.
        left: Span,
    },
    /// The term is not above what the voter has seen.
    Term {
        /// The greatest it has seen.
        seen: u64,
    },
    /// The claimant, or the voter itself, is no owner.
    NotOwner,
    /// The lease is longer than anybody promises.
    TooLong,
}

/// The end of a lease, or of a claim, by its holder's word.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Release {
    /// The term it was under.
    pub term: u64,
    /// Who should be next, where it is handed over.
    pub next: Option<NodeName>,
}
