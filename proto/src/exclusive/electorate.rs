//! Whose word counts for a lease, and what majority that is.
//!
//! The electorate is written by the operator into signed policy, never read off gossiped adverts: two
//! voters with different tables would count different majorities. It has a *number*, which grows with
//! each change of owners, and names the electorates before it. A claim under number *n* needs a majority
//! of electorate *n* and of every former one that may still be alive; a voter that has granted under *n*
//! never grants under less. An electorate is *settled* once a lease was won under it: all before it are
//! dead then, since a majority of each has granted under a later number.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::ids::NodeName;
use crate::policy::Exclusive;

/// Most owners of one electorate, and most former electorates named.
pub const MAX_OWNERS: usize = 15;
/// See [`MAX_OWNERS`].
pub const MAX_FORMER: usize = 8;

/// The voters of a service, now and before.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Electorate {
    number: u64,
    owners: BTreeSet<NodeName>,
    /// Newest first: number − 1, number − 2, …
    former: Vec<BTreeSet<NodeName>>,
}

/// A count of voices that is not enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Short {
    /// Voices there are.
    pub have: usize,
    /// Voices it takes.
    pub need: usize,
    /// Of so many.
    pub of: usize,
}

impl Electorate {
    /// The electorate `number`, with those before it, newest first.
    pub fn new(
        number: u64,
        owners: impl IntoIterator<Item = NodeName>,
        former: impl IntoIterator<Item = Vec<NodeName>>,
    ) -> Self {
        let former = former.into_iter().map(|f| f.into_iter().collect()).collect();
        Self { number, owners: owners.into_iter().collect(), former }
    }

    /// The electorate a policy names.
    pub fn of(policy: &Exclusive) -> Self {
        Self::new(policy.number, policy.owners.clone(), policy.former.clone())
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Who may hold the lease.
    pub fn owners(&self) -> &BTreeSet<NodeName> {
        &self.owners
    }

    /// Everybody whose word may count, former owners included.
    pub fn voters(&self) -> BTreeSet<NodeName> {
        self.former.iter().chain([&self.owners]).flatten().cloned().collect()
    }

    /// Tells owners apart that stand under one number by mistake: such a claim is refused.
    pub fn print(&self) -> u64 {
        let names: Vec<&str> = self.owners.iter().map(NodeName::as_str).collect();
        xxh3_64(format!("{} {}", self.number, names.join(" ")).as_bytes())
    }

    /// The electorates of which a majority is needed, where `settled` is known to be settled.
    pub fn counted(&self, settled: u64) -> impl Iterator<Item = &BTreeSet<NodeName>> {
        let mut number = self.number;
        let former = self.former.iter().take_while(move |_| {
            number = number.saturating_sub(1);
            number >= settled
        });
        std::iter::once(&self.owners).chain(former)
    }

    /// Whether those who said yes are a majority everywhere they must be.
    pub fn agree(&self, settled: u64, yes: &BTreeSet<NodeName>) -> bool {
        self.short(settled, yes).is_none()
    }

    /// Where most voices are missing; `None` if none are.
    pub fn short(&self, settled: u64, yes: &BTreeSet<NodeName>) -> Option<Short> {
        self.counted(settled)
            .map(|set| Short {
                have: set.intersection(yes).count(),
                need: majority(set.len()),
                of: set.len(),
            })
            .filter(|s| s.have < s.need)
            .max_by_key(|s| s.need - s.have)
    }
}

/// More than half.
pub fn majority(of: usize) -> usize {
    of / 2 + 1
}
