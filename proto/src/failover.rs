//! Who must serve, who does, who is called up: one pure function that every agent computes alike from
//! the same table.
//!
//! The rules are those of section "hot and warm" in ALGORITHM.md. Nothing here has state: an endpoint
//! is called as long as the numbers say so, and released when they no longer do; the owner's lifecycle
//! ([`crate::lifecycle`]) adds the hold times.

use xxhash_rust::xxh3::xxh3_64;

use serde::{Deserialize, Serialize};

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
    /// Its capacity; see [`crate::advert::extension::WEIGHT`].
    pub weight: u16,
    /// Something speaks against its node, though it is not lost.
    pub doubtful: bool,
    /// It was lost too often of late ([`crate::damping`]).
    pub damped: bool,
}

/// The numbers of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Declared hot endpoints.
    pub declared: usize,
    /// How many must serve.
    pub needed: usize,
    /// Hot endpoints that serve, without those that are damped.
    pub hot: usize,
    /// Hot and called endpoints that serve.
    pub serving: usize,
    /// Warm endpoints called up, in the agreed order.
    pub called: Vec<EndpointId>,
    /// Warm endpoints that would be called up if those hot ones that are starting took longer, in the agreed
    /// order: for a caller that has nobody meanwhile.
    pub reserve: Vec<EndpointId>,
    /// Warm endpoints that are called up if the doubts about hot ones prove right: callers connect with them
    /// meanwhile.
    pub next: Vec<EndpointId>,
    /// How many more would have to be called than there are.
    pub short: usize,
    /// Warm endpoints that are up and not called: they stand down when they have not been needed for the
    /// hold, or two views differ.
    pub surplus: usize,
    /// Hot endpoints that serve and do not count, since they were lost too often of late.
    pub damped: usize,
    /// The capacity that must serve, by the weights of the declared hot endpoints.
    pub load: u64,
}

/// Computes the numbers:
///
/// 1. `declared` = hot endpoints that have not left; `needed` = the policy's share of them: a count of
///    endpoints, or a percentage of their capacity;
/// 2. `hot` = those of them that serve, are not lost and not damped;
/// 3. `deficit` = `needed − hot`, in endpoints or in capacity; in mode hot-hot nobody is called;
/// 4. available warm ones (not lost, standing by, activating or serving) in the agreed order: those that
///    serve (who is only on the way may never arrive, and sends nobody away before it has), those on the way
///    (so that a second loss moves nobody), then those of whose nodes nothing is doubted and that do not
///    flap, then declared priority, then rendezvous hash; as many are called as cover the deficit and no
///    more. One lost, one called: never the whole bench;
/// 5. a hot endpoint that is only just starting keeps whoever is up for it, but calls nobody new: a
///    mesh that starts does not begin by activating its bench, nor does a host that restarts. Who would be
///    called for it is the reserve. Nor does a damped one that serves call anybody new: its replacement was called
///    when it was lost, and whoever judges it damped for longer than others must not call the next.
pub fn tally(policy: &ServicePolicy, subjects: &[Subject]) -> Tally {
    let capacity = |s: &Subject| match policy.min_hot {
        Need::Count(_) => 1,
        Need::Percent(_) => u64::from(s.weight),
    };
    let hot: Vec<&Subject> = subjects.iter().filter(|s| s.role == Role::Hot && !s.left).collect();
    let sum = |of: &dyn Fn(&Subject) -> bool| -> u64 {
        hot.iter().filter(|s| of(s)).map(|s| capacity(s)).sum()
    };
    let serves = |s: &Subject| s.condition == Condition::Serving && !s.lost && !s.left;
    let wanted = match policy.min_hot {
        Need::Count(n) => u64::from(n),
        Need::Percent(p) => (sum(&|_| true) * u64::from(p.0)).div_ceil(100),
    };
    let deficit = match policy.mode {
        // In mode exclusive who serves is not called up but holds the lease: `exclusive`.
        Mode::HotHot | Mode::Exclusive => 0,
        Mode::HotWarm => wanted.saturating_sub(sum(&|s| serves(s) && !s.damped)),
    };
    let starting = sum(&|s| s.starting && !serves(s) && !s.lost && !s.damped);
    // Who does not count keeps who is up for it, and calls nobody new.
    let fresh = deficit.saturating_sub(sum(&|s| serves(s) && s.damped));
    let bench = bench(subjects);
    let (mut called, mut reserve, mut covered) = (Vec::new(), Vec::new(), 0);
    for s in &bench {
        if covered < fresh.saturating_sub(starting)
            || covered < deficit && s.condition != Condition::Standby
        {
            called.push(*s);
        } else if covered < fresh {
            reserve.push(s.id.clone());
        }
        covered += capacity(s);
    }
    let up = bench.iter().filter(|s| s.condition != Condition::Standby).count();
    let called_up = called.iter().filter(|s| s.condition != Condition::Standby).count();
    let count = hot.iter().filter(|s| serves(s) && !s.damped).count();
    let all: u64 = hot.iter().map(|s| u64::from(s.weight)).sum();
    Tally {
        declared: hot.len(),
        needed: needed(policy, hot.len()),
        hot: count,
        serving: count + called.iter().filter(|s| serves(s)).count(),
        short: missing(deficit.saturating_sub(covered), sum(&|_| true), hot.len()),
        surplus: up - called_up,
        damped: hot.iter().filter(|s| serves(s) && s.damped).count(),
        load: match policy.min_hot {
            Need::Count(n) => u64::from(n) * all.div_ceil(hot.len().max(1) as u64),
            Need::Percent(_) => wanted,
        },
        called: called.into_iter().map(|s| s.id.clone()).collect(),
        reserve,
        next: next(policy, subjects),
    }
}

/// Who is called once those in doubt are lost.
fn next(policy: &ServicePolicy, subjects: &[Subject]) -> Vec<EndpointId> {
    let in_doubt = |s: &Subject| s.role == Role::Hot && s.doubtful && !s.lost;
    if !subjects.iter().any(in_doubt) {
        return Vec::new();
    }
    let lost = |s: &Subject| Subject { lost: s.lost || in_doubt(s), ..s.clone() };
    tally(policy, &subjects.iter().map(lost).collect::<Vec<_>>()).called
}

/// Warm endpoints that can be called, in the agreed order.
fn bench(subjects: &[Subject]) -> Vec<&Subject> {
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
        let waits = s.condition == Condition::Standby;
        let serves = s.condition == Condition::Serving;
        // Doubt moves nobody who is up: it often passes, and a replacement costs an activation.
        let last = waits && (s.doubtful || s.damped);
        (waits, !serves, last, *priority, !rendezvous(&s.id), s.id.clone())
    });
    bench.into_iter().map(|(s, _)| s).collect()
}

/// Missing capacity as a number of endpoints, of the mean size of the declared ones.
fn missing(capacity: u64, declared: u64, endpoints: usize) -> usize {
    let mean = (declared / (endpoints.max(1) as u64)).max(1);
    usize::try_from(capacity.div_ceil(mean)).unwrap_or(usize::MAX)
}

/// How many must serve of so many declared hot ones.
pub fn needed(policy: &ServicePolicy, declared: usize) -> usize {
    match policy.min_hot {
        _ if policy.mode == Mode::Exclusive => 1,
        Need::Count(n) => usize::try_from(n).unwrap_or(usize::MAX),
        Need::Percent(p) => p.of(declared),
    }
}

/// Highest random weight of an endpoint for its service (Thaler and Ravishankar 1998): everyone orders
/// the bench alike, and different services call different nodes first.
pub(crate) fn rendezvous(id: &EndpointId) -> u64 {
    xxh3_64(id.to_string().as_bytes())
}

#[cfg(test)]
mod tests;
