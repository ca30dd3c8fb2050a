//! How far away a request may be served: endpoints of the same zone first, then of the same region, then
//! the rest, each as far as its capacity reaches.
//!
//! As Envoy's priority levels do with their overprovisioning factor (1.4): a tier that lacks capacity sends
//! the missing share on, continuously, so that nothing falls off a cliff when one endpoint more is lost.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::advert::Role;
use crate::advert::extension::WEIGHT;
use crate::evidence::Why;
use crate::policy::Locality;
use crate::route::Candidate;

use super::FULL_WEIGHT;

/// All of the draws.
pub const WHOLE: u64 = 1 << 32;

/// A tier that has this part of its capacity, in percent, keeps all of its requests: the rest is taken to be
/// kept in reserve, 1/1.4 as in Envoy.
const OVERPROVISIONED: u64 = 140;

/// The nearest tier should have so many endpoints: one alone has no sibling by which its callers could tell
/// that it is sick ([`crate::outlier`]), and nobody they could turn to at once.
const ENOUGH: u64 = 2;

/// Where a node is. An empty name is none: nothing is near it by that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// A failure domain.
    pub zone: String,
    /// Several of them.
    pub region: String,
}

/// How far an endpoint is from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Tier {
    /// In the same zone.
    Zone,
    /// In the same region.
    Region,
    /// Anywhere.
    Rest,
}

impl Tier {
    /// The word used in metrics and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Zone => "zone",
            Self::Region => "region",
            Self::Rest => "rest",
        }
    }
}

/// What a tier gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierShare {
    /// Which.
    pub tier: Tier,
    /// Its ready capacity, in thousandths of an endpoint.
    pub ready: u64,
    /// What it should have, in the same unit.
    pub should: u64,
    /// Its part of the requests ends here, of [`WHOLE`]; it begins where the one before it ends.
    pub upto: u64,
}

/// How far a candidate is from `home`.
pub fn tier(locality: Locality, home: &Place, c: &Candidate) -> Tier {
    let same = |a: &str, b: &str| !a.is_empty() && a == b;
    // A zone's name says little across regions: "a" is in each.
    let region_fits = home.region == c.place.region;
    match locality {
        Locality::Zone if region_fits && same(&home.zone, &c.place.zone) => Tier::Zone,
        Locality::Zone | Locality::Region if same(&home.region, &c.place.region) => Tier::Region,
        Locality::Zone | Locality::Region | Locality::Off => Tier::Rest,
    }
}

/// What each tier gets, nearest first. Empty if all that are ready are equally near.
///
/// 1. A tier should have what is declared hot in it; the nearest also an even part of the whole service,
///    since callers in every zone do as we do and one endpoint is no match for a zone full of them; and two,
///    if there are so many.
/// 2. Its health is its ready capacity by what it should have, times 1.4, at most 1.
/// 3. The nearest gets its health's share, the next as much of what is left as its own health lets it; if
///    all together cannot take everything, each gets the more in proportion.
pub fn shares(
    locality: Locality,
    home: &Place,
    candidates: &[Candidate],
    ready: &[usize],
) -> Vec<TierShare> {
    const TIERS: [Tier; 3] = [Tier::Zone, Tier::Region, Tier::Rest];
    let at = |i: &usize| tier(locality, home, &candidates[*i]);
    let nearest = ready.iter().map(at).min();
    if nearest == ready.iter().map(at).max() {
        return Vec::new();
    }
    let declared =
        |c: &&Candidate| c.role == Role::Hot && !matches!(c.standing.why(), Some(Why::Left));
    let capacity =
        |c: &Candidate| u64::from(c.capacity) * u64::from(FULL_WEIGHT) / u64::from(WEIGHT);
    let all: u64 = candidates.iter().filter(declared).map(capacity).sum();
    let mean = all / (candidates.iter().filter(declared).count().max(1) as u64);
    let mut shares: Vec<TierShare> = Vec::new();
    for t in TIERS {
        let here = ready.iter().filter(|i| at(i) == t);
        let ready: u64 = here.map(|i| u64::from(candidates[*i].weight.max(1))).sum();
        if ready == 0 {
            continue;
        }
        let own = candidates.iter().filter(declared).filter(|c| tier(locality, home, c) == t);
        let mut should: u64 = own.map(capacity).sum();
        if Some(t) == nearest {
            should = should.max(all / places(t, home, candidates)).max(all.min(ENOUGH * mean));
        }
        shares.push(TierShare { tier: t, ready, should: should.max(1), upto: 0 });
    }
    deal(&mut shares);
    shares
}

/// In how many zones, or regions, somebody is declared; this one included.
fn places(of: Tier, home: &Place, candidates: &[Candidate]) -> u64 {
    let name = |p: &Place| match of {
        Tier::Zone => (p.region.clone(), p.zone.clone()),
        _ => (p.region.clone(), String::new()),
    };
    let hot = candidates.iter().filter(|c| c.role == Role::Hot).map(|c| name(&c.place));
    let all: BTreeSet<(String, String)> = hot.chain([name(home)]).collect();
    all.len() as u64
}

/// Deals everything out.
fn deal(shares: &mut [TierShare]) {
    let health = |s: &TierShare| (WHOLE * s.ready * OVERPROVISIONED / (s.should * 100)).min(WHOLE);
    let total = shares.iter().map(health).sum::<u64>().clamp(1, WHOLE);
    let mut upto = 0;
    for s in shares.iter_mut() {
        // Proof: both factors are at most 2^32.
        let part = u128::from(health(s)) * u128::from(WHOLE) / u128::from(total);
        upto = (upto + u64::try_from(part).unwrap_or(WHOLE)).min(WHOLE);
        s.upto = upto;
    }
    // What rounding left.
    if let Some(last) = shares.last_mut() {
        last.upto = WHOLE;
    }
}

#[cfg(test)]
mod tests;
