//! Who must serve, who does, who is called up: one pure function that every agent computes alike from
//! the same table.
//!
//! The rules are those of section "hot and warm" in ALGORITHM.md. Nothing here has state: an endpoint
//! is called as long as the numbers say so, and released when they no longer do; the owner's lifecycle
//! ([`crate::lifecycle`]) adds the hold times.

use xxhash_rust::xxh3::xxh3_64;

use crate::advert::{Condition, Role};
use crate::ids::EndpointId;
use crate::incident::IncidentKey;
use crate::policy::{Mode, Need, ServicePolicy};

/// What the tally needs to know of one endpoint.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Which.
    pub id: EndpointId,
    /// Declared role.
    pub role: Role,
    /// Its owner's word.
    pub condition: Condition,
    /// Its node is lost, or revoked. Not: ejected, which is one caller's luck with requests.
    pub lost: bool,
    /// Its node started a moment ago and has not served yet: it calls nobody up who is not up already.
    pub starting: bool,
    /// Its node left in good order: it is not declared any longer.
    pub left: bool,
    /// The loss it was activated for.
    pub activated_for: Option<IncidentKey>,
}

/// The numbers of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Declared hot endpoints.
    pub declared: usize,
    /// How many must serve.
    pub needed: usize,
    /// Hot endpoints that serve.
    pub hot: usize,
    /// Hot and called endpoints that serve.
    pub serving: usize,
    /// Warm endpoints called up, in the agreed order.
    pub called: Vec<EndpointId>,
    /// How many more would have to be called than there are.
    pub short: usize,
}

/// Computes the numbers:
///
/// 1. `declared` = hot endpoints that have not left; `needed` = the policy's share of them;
/// 2. `hot` = those of them that serve and are not lost;
/// 3. `deficit` = `needed − hot`; in mode hot-hot nobody is called;
/// 4. available warm ones (not lost, standing by, activating or serving) in the agreed order: those
///    already up first (so that a second loss moves nobody), then declared priority, then
///    rendezvous hash; the first `deficit` are called. One lost, one called: never the whole bench;
/// 5. a hot endpoint that is only just starting keeps whoever is up for it, but calls nobody new: a
///    mesh that starts does not begin by activating its bench, nor does a host that restarts.
pub fn tally(policy: &ServicePolicy, subjects: &[Subject]) -> Tally {
    let hot = |s: &&Subject| s.role == Role::Hot && !s.left;
    let declared = subjects.iter().filter(hot).count();
    let needed = match policy.min_hot {
        _ if policy.mode == Mode::Exclusive => 1,
        Need::Count(n) => usize::try_from(n).unwrap_or(usize::MAX),
        Need::Percent(p) => p.of(declared),
    };
    let serves = |s: &Subject| s.condition == Condition::Serving && !s.lost && !s.left;
    let hot = subjects.iter().filter(hot).filter(|s| serves(s)).count();
    let deficit = match policy.mode {
        // Who serves is not called up but holds the lease: `exclusive`.
        Mode::HotHot | Mode::Exclusive => 0,
        Mode::HotWarm => needed.saturating_sub(hot),
    };
    let mut bench: Vec<(&Subject, u16)> = subjects
        .iter()
        .filter(|s| !s.lost && !s.left)
        .filter_map(|s| match (s.role, s.condition) {
            (
                Role::Warm { priority },
                Condition::Standby | Condition::Activating | Condition::Serving,
            ) => Some((s, priority)),
            _ => None,
        })
        .collect();
    bench.sort_by_key(|(s, priority)| {
        (s.condition == Condition::Standby, *priority, !rendezvous(&s.id), s.id.clone())
    });
    let starting = subjects
        .iter()
        .filter(|s| s.role == Role::Hot && s.starting && !serves(s) && !s.lost && !s.left)
        .count();
    let called: Vec<&Subject> = bench
        .iter()
        .take(deficit)
        .enumerate()
        .filter(|(i, (s, _))| {
            *i < deficit.saturating_sub(starting) || s.condition != Condition::Standby
        })
        .map(|(_, (s, _))| *s)
        .collect();
    Tally {
        declared,
        needed,
        hot,
        serving: hot + called.iter().filter(|s| serves(s)).count(),
        short: deficit.saturating_sub(bench.len()),
        called: called.into_iter().map(|s| s.id.clone()).collect(),
    }
}

/// Highest random weight of an endpoint for its service (Thaler and Ravishankar 1998): everyone orders
/// the bench alike, and different services call different nodes first.
pub(crate) fn rendezvous(id: &EndpointId) -> u64 {
    xxh3_64(id.to_string().as_bytes())
}

#[cfg(test)]
mod tests;
