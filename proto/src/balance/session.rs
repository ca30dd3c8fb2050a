//! Which endpoint a session belongs to: the same for everybody who knows the same endpoints, without a word
//! between them and without memory.
//!
//! Consistent hashing by highest random weight (Thaler and Ravishankar 1998): each endpoint has a score for
//! each key, the highest has the session. When an endpoint is lost, each of its sessions goes to whoever is
//! second for it, spread over all that are left; no other session moves. When it is back, they return. (A
//! ring of virtual nodes, from which the policy's word comes, does the same less evenly and needs a layout.)
//!
//! Loads are bounded as by Mirrokni, Thorup and Zadimoghaddam (2018): one that has a quarter more under way
//! than its part is passed over for the next. Below [`ROOM`] requests that is luck, and no reason to part a
//! session from its endpoint.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::route::Candidate;

use super::{Member, Picked, mix};

/// An endpoint takes at most so many percent of its part of all requests under way …
const BOUND: u128 = 125;
/// … but always so many.
pub const ROOM: u64 = 16;

/// The key of a session.
pub fn key(text: &[u8]) -> u64 {
    xxh3_64(text)
}

/// Who may have sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sessions {
    /// Beside each what makes its scores differ from the others'.
    members: Vec<(Member, u64)>,
}

impl Sessions {
    pub(crate) fn of(candidates: &[Candidate], indices: &[usize]) -> Self {
        let member = |i: &usize| {
            let c = &candidates[*i];
            let index = u32::try_from(*i).unwrap_or(u32::MAX);
            let seed = xxh3_64(c.id.to_string().as_bytes());
            (Member { index, weight: c.weight.max(1) }, seed)
        };
        Self { members: indices.iter().map(member).collect() }
    }

    /// The endpoint with the highest score of those that are neither `exclude`d nor `spared` and have room;
    /// if none has, of those without; if all are spared, of those.
    pub(crate) fn pick(
        &self,
        key: u64,
        exclude: &impl Fn(usize) -> bool,
        spared: impl Fn(usize) -> bool,
        under_way: impl Fn(usize) -> u64,
    ) -> Option<Picked> {
        let open = || self.members.iter().filter(|(m, _)| !exclude(m.at()));
        let total: u128 = 1 + open().map(|(m, _)| u128::from(under_way(m.at()))).sum::<u128>();
        let weights: u128 = open().map(|(m, _)| u128::from(m.weight)).sum::<u128>().max(1);
        let has_room = |m: &Member| {
            let part = (total * u128::from(m.weight) * BOUND).div_ceil(weights * 100);
            let bound = part.max(u128::from(ROOM) * u128::from(m.weight) / 1000).max(1);
            u128::from(under_way(m.at())) < bound
        };
        let score = |seed: u64| mix(seed ^ mix(key));
        let mut own: Option<(u64, usize)> = None;
        let mut full: Option<(u64, usize)> = None;
        let mut best: Option<(u64, usize)> = None;
        for (m, seed) in open() {
            let score = Some((score(*seed), m.at()));
            own = own.max(score);
            if score > best && !spared(m.at()) {
                full = full.max(score);
                if has_room(m) {
                    best = score;
                }
            }
        }
        let (_, index) = best.or(full).or(own)?;
        let why = match own {
            Some((_, first)) if first == index => "its session's endpoint",
            _ => "its session's endpoint has no room: the next one",
        };
        Some(Picked { index, why })
    }
}
