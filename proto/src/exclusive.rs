//! Exclusive mode: at most one node serves a service, by a lease that a majority of its owners grants.
//!
//! Decides who may hold the lease of a service, under which *term*, and until when by the holder's own
//! clock. The protocol is that of a lease-based leader election: a claim under a term higher than any
//! seen, a promise of each voter to one holder for a time, renewal, release.
//!
//! | module | decides |
//! |---|---|
//! | [`electorate`] | whose word counts, and what majority that is; how it changes safely |
//! | [`promise`] | a voter: what it may grant, what it must remember |
//! | [`memory`] | when a voter that has lost its memory may vote again |
//! | [`claim`] | a claimant: what it has been granted, until when it holds |
//! | [`core`] | the two together on one node: the machine whose safety is explored and simulated |
//! | [`seat`] | when to claim, renew, give up, hand over: timers and order, none of which safety rests on |
//! | [`message`] | what owners say to each other |
//!
//! Time comes in as an argument, per node and monotone; no clock is shared. What must survive a restart
//! ([`promise::Book`]) goes out as [`core::Out::Save`], and nothing that rests on it is said before
//! [`core::Core::saved`]. The safety argument stands in ALGORITHM.md, section "Exclusive".

pub mod claim;
pub mod core;
pub mod electorate;
pub mod memory;
pub mod message;
pub mod promise;
pub mod seat;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::core::{Lost, Out};
pub use electorate::Electorate;
pub use promise::Book;
pub use seat::{Candidacy, Seat, Status};

/// The longest lease that may be asked for or promised. A voter without memory waits so long.
pub const MAX_LEASE: Duration = Duration::from_secs(60);
/// The shortest lease a policy may name: renewals must fit into it several times over any path.
pub const MIN_LEASE: Duration = Duration::from_secs(1);

/// How long promises last, and how much of them a holder uses.
///
/// With rates of clocks within a tenth of real time a promise of `promise` lasts at least `promise / 1.1`,
/// and a holder that stops after `hold` has stopped after `hold / 0.9`, counted from before it asked. So
/// `hold ≤ promise · 9/11` makes the holder stop before the promise ends, whoever's clock is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Timing {
    /// How long a voter keeps its promise, from when it received the claim.
    pub promise: Duration,
    /// How long a holder believes in it, from when it first sent the claim.
    pub hold: Duration,
    /// How long a voter without memory waits before it may vote: the longest promise anybody can have had
    /// of it.
    pub longest: Duration,
}

impl Timing {
    /// The timing of a lease.
    pub fn of(lease: Duration) -> Self {
        let lease = lease.clamp(MIN_LEASE, MAX_LEASE);
        Self { promise: lease, hold: lease * 9 / 11, longest: MAX_LEASE }
    }
}

#[cfg(test)]
mod explore;
#[cfg(test)]
mod tests;
