//! How the requests for a service are spread over those of its endpoints that are picked from.
//!
//! Decides which of them takes a request: first how far away it may be ([`tiers`]), then who ([`Balance`]):
//! the cheaper of two drawn at random, the next in turn ([`rotation`]), or the one a session belongs to
//! ([`session`]). Who is picked from at all is [`crate::route::choose`]'s business; nobody else is ever
//! picked here. Beside it, what an owner lets in at once when too much comes: [`limit`] and [`gate`].
//!
//! A [`Spread`] is compiled once per change of a route. A pick is a pure function of it, of a [`Draw`], and
//! of what its caller knows of each endpoint's load; it allocates nothing, and two draws of a hundred take
//! no longer than of two.

pub mod gate;
pub mod limit;
pub mod rotation;
pub mod session;
pub mod tiers;

use serde::{Deserialize, Serialize};

use crate::policy::{Balance, ServicePolicy};
use crate::route::{Candidate, Choice};

use session::Sessions;
use tiers::{Place, Tier, TierShare};

/// The weight of an endpoint that takes its full share, in thousandths.
pub const FULL_WEIGHT: u16 = 1000;

/// Of so many first picks one goes to the endpoints on trial. Of 500 requests per second that is thirty: a
/// verdict within a quarter second, and few that meet one that is still sick.
pub const TRIAL_ONE_IN: u64 = 16;

/// Pairs are drawn again so often when both are to be left out for their weight.
const REDRAWS: usize = 8;

/// What a pick is made by, beside what is known of the endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Draw {
    /// A random number.
    pub random: u64,
    /// Grows by one with each request of the service, for taking turns.
    pub turn: u64,
    /// The session a request belongs to, hashed by [`session::key`].
    pub session: Option<u64>,
}

impl From<u64> for Draw {
    fn from(random: u64) -> Self {
        Self { random, turn: random, session: None }
    }
}

/// What a pick wants to know of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// What one more request would cost: peak latency times requests under way and this one.
    Cost,
    /// How many requests are under way.
    UnderWay,
}

/// Who was picked, by its index among the candidates, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked {
    /// Which.
    pub index: usize,
    /// Why this one.
    pub why: &'static str,
}

/// One that may be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) index: u32,
    pub(crate) weight: u16,
}

impl Member {
    fn at(self) -> usize {
        self.index as usize
    }
}

/// Some that are equally near.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Pool {
    members: Vec<Member>,
    /// Requests whose draw lies below this, and not below the one before, go here.
    upto: u64,
    /// The greatest weight in it; 0: all have the same.
    heaviest: u16,
    /// Whose turn it is, one after the other; empty unless they take turns.
    rotation: Vec<u32>,
}

/// How well off those are who are picked from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Plight {
    /// Enough are ready.
    #[default]
    None,
    /// Too few are ready.
    Panic,
    /// Nobody is reached but through a relay.
    Relayed,
}

/// Who is picked from, in which proportions: compiled from a route's choice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    balance: Balance,
    pools: Vec<Pool>,
    trial: Pool,
    sessions: Option<Sessions>,
    shares: Vec<TierShare>,
    plight: Plight,
}

impl Spread {
    /// Compiles who is picked from on a node at `home`.
    ///
    /// Those on trial stand apart. In a panic distance does not count: that few are left is reason enough
    /// to take whoever there is. Nor does it among those that are reached through a relay.
    pub fn of(
        policy: &ServicePolicy,
        candidates: &[Candidate],
        choice: &Choice,
        home: &Place,
    ) -> Self {
        let (indices, plight) = match choice {
            Choice::Serve(v) => (v.as_slice(), Plight::None),
            Choice::Panic(v) => (v.as_slice(), Plight::Panic),
            Choice::Relay(v) => (v.as_slice(), Plight::Relayed),
            Choice::Wake(_) | Choice::Nobody => return Self::default(),
        };
        let (trial, full): (Vec<usize>, Vec<usize>) =
            indices.iter().copied().partition(|i| candidates[*i].share.is_trial());
        let turns = policy.balance == Balance::RoundRobin;
        let pool = |of: &[usize], upto| Pool::of(candidates, of, upto, turns);
        let shares = match plight {
            Plight::Panic | Plight::Relayed => Vec::new(),
            Plight::None => tiers::shares(policy.locality, home, candidates, &full),
        };
        let pools = match shares.as_slice() {
            [] if full.is_empty() => Vec::new(),
            [] | [_] => vec![pool(&full, tiers::WHOLE)],
            several => {
                let near = |t: Tier| -> Vec<usize> {
                    let is = |i: &usize| tiers::tier(policy.locality, home, &candidates[*i]) == t;
                    full.iter().copied().filter(is).collect()
                };
                several.iter().map(|s| pool(&near(s.tier), s.upto)).collect()
            }
        };
        let keyed = policy.affinity.is_some() || policy.balance == Balance::RingHash;
        Self {
            balance: policy.balance,
            pools,
            trial: pool(&trial, 0),
            sessions: keyed.then(|| Sessions::of(candidates, indices)),
            shares,
            plight,
        }
    }

    /// How much goes how far, nearest first; empty where distance does not count.
    pub fn shares(&self) -> &[TierShare] {
        &self.shares
    }

    /// An endpoint's part of the requests, of [`tiers::WHOLE`]; `None` for one on trial or not picked from.
    pub fn part(&self, index: usize) -> Option<u64> {
        let mut from = 0;
        self.pools.iter().find_map(|pool| {
            let of_pool = pool.upto - std::mem::replace(&mut from, pool.upto);
            let member = pool.members.iter().find(|m| m.at() == index)?;
            let all: u64 = pool.members.iter().map(|m| u64::from(m.weight)).sum();
            Some(of_pool * u64::from(member.weight) / all.max(1))
        })
    }

    /// Whether requests of a session go to the session's endpoint.
    pub fn keeps_sessions(&self) -> bool {
        self.sessions.is_some()
    }

    /// Picks one, or nobody if all were `exclude`d: what a request has met already.
    ///
    /// 1. One first pick in [`TRIAL_ONE_IN`] goes to those on trial. What was tried elsewhere already takes
    ///    no risk while there is somebody of whom none is known.
    /// 2. What belongs to a session goes to the session's endpoint.
    /// 3. Otherwise a tier is drawn by its share, and in it one is picked by the balancer. Where all of a
    ///    tier were met, the nearest that has somebody left takes its place.
    pub fn pick(
        &self,
        draw: &Draw,
        exclude: impl Fn(usize) -> bool,
        load: impl Fn(usize, Measure) -> u64,
    ) -> Option<Picked> {
        let risky = self.takes_risk(draw.random, &exclude);
        if let (Some(sessions), Some(key)) = (&self.sessions, draw.session) {
            let spared = |i: usize| !risky && self.trial.has(i);
            return sessions.pick(key, &exclude, spared, |i| load(i, Measure::UnderWay));
        }
        let (pool, why) = if risky {
            (&self.trial, "on trial: its answers are to tell how it is")
        } else {
            (self.pool(draw.random, &exclude)?, self.why())
        };
        let index = match pool.rotation.as_slice() {
            [] => pool.cheaper(self.balance, draw.random, &exclude, &load),
            rotation => rotation::turn(rotation, draw.turn, &exclude),
        }?;
        Some(Picked { index, why })
    }

    fn why(&self) -> &'static str {
        match (self.plight, self.balance) {
            (Plight::Panic, _) => "panic: too few are ready",
            (Plight::Relayed, _) => "relayed: our own path to it is silent",
            (Plight::None, Balance::RoundRobin) => "ready, and its turn",
            (Plight::None, _) => "ready, less loaded of two",
        }
    }

    /// Whether those on trial are picked from.
    fn takes_risk(&self, random: u64, exclude: &impl Fn(usize) -> bool) -> bool {
        let open = |pool: &Pool| pool.members.iter().any(|m| !exclude(m.at()));
        if !open(&self.trial) {
            return false;
        }
        let met = |pool: &Pool| pool.members.iter().any(|m| exclude(m.at()));
        let first = !met(&self.trial) && !self.pools.iter().any(met);
        first && is_trial(random) || !self.pools.iter().any(open)
    }

    /// The tier that the draw falls in, or the nearest that has somebody left.
    fn pool(&self, random: u64, exclude: &impl Fn(usize) -> bool) -> Option<&Pool> {
        let at = mix(random) >> 32;
        let drawn = self.pools.iter().find(|p| at < p.upto);
        let open = |p: &&Pool| p.members.iter().any(|m| !exclude(m.at()));
        drawn.filter(open).or_else(|| self.pools.iter().find(open))
    }
}

impl Pool {
    fn of(candidates: &[Candidate], of: &[usize], upto: u64, turns: bool) -> Self {
        let member = |i: &usize| Member {
            // Proof: a service has at most as many endpoints as the mesh has nodes times 64.
            index: u32::try_from(*i).unwrap_or(u32::MAX),
            weight: candidates[*i].weight.max(1),
        };
        let members: Vec<Member> = of.iter().map(member).collect();
        let weights = || members.iter().map(|m| m.weight);
        let alike = weights().min() == weights().max();
        let rotation = if turns { rotation::smooth(&members) } else { Vec::new() };
        let heaviest = if alike { 0 } else { weights().max().unwrap_or(0) };
        Self { members, upto, heaviest, rotation }
    }

    fn has(&self, index: usize) -> bool {
        self.members.iter().any(|m| m.at() == index)
    }

    /// The less loaded of two drawn at random (Mitzenmacher 2001); of two that are alike the first.
    ///
    /// One with less than the greatest weight stands aside in as many of its draws as it lacks: it gets at
    /// most that part of what it would get, however idle it is. Latency then tells what it can take.
    fn cheaper(
        &self,
        balance: Balance,
        random: u64,
        exclude: &impl Fn(usize) -> bool,
        load: &impl Fn(usize, Measure) -> u64,
    ) -> Option<usize> {
        let (mut a, mut b) = self.two(random, exclude)?;
        if self.heaviest > 0 {
            let mut bits = random;
            for _ in 0..REDRAWS {
                bits = mix(bits);
                let takes = |m: Member, bits: u64| {
                    (bits & 0xffff) * u64::from(self.heaviest) < u64::from(m.weight) << 16
                };
                match (takes(a, bits), takes(b, bits >> 16)) {
                    (true, true) => break,
                    (true, false) => return Some(a.at()),
                    (false, true) => return Some(b.at()),
                    (false, false) => (a, b) = self.two(mix(bits), exclude)?,
                }
            }
        }
        if a == b {
            return Some(a.at());
        }
        let less = match balance {
            Balance::LeastRequest => {
                let by = |x: Member, weight: u16| {
                    u128::from(load(x.at(), Measure::UnderWay)) * u128::from(weight)
                };
                by(b, a.weight) < by(a, b.weight)
            }
            _ => load(b.at(), Measure::Cost) < load(a.at(), Measure::Cost),
        };
        Some(if less { b.at() } else { a.at() })
    }

    /// Two distinct draws from one random number, its halves; twice the same where only one is left.
    fn two(&self, random: u64, exclude: &impl Fn(usize) -> bool) -> Option<(Member, Member)> {
        let n = self.members.len();
        let (a, b) = pair(random, n)?;
        let (a, b) = (self.members[a], self.members[b]);
        if !exclude(a.at()) && !exclude(b.at()) {
            return Some((a, b));
        }
        let open = || self.members.iter().filter(|m| !exclude(m.at()));
        // Not of what drew the tier.
        let (a, b) = pair(mix(!random), open().count())?;
        Some((*open().nth(a)?, *open().nth(b)?))
    }
}

/// Two distinct numbers below `n` from the halves of a random one, the second skipping the first; twice 0
/// of 1, none of 0.
fn pair(random: u64, n: usize) -> Option<(usize, usize)> {
    let n = u64::try_from(n).ok()?;
    let scaled = |half: u64, n: u64| (half * n) >> 32;
    let a = scaled(random >> 32, n);
    let b = match n {
        0 => return None,
        1 => 0,
        _ => (a + 1 + scaled(random & 0xffff_ffff, n - 1)) % n,
    };
    Some((usize::try_from(a).ok()?, usize::try_from(b).ok()?))
}

/// Whether this draw is the one in [`TRIAL_ONE_IN`].
fn is_trial(random: u64) -> bool {
    mix(random ^ TRIAL_ONE_IN).is_multiple_of(TRIAL_ONE_IN)
}

/// A number that tells nothing of the one it was made from: the finalizer of splitmix64 (Steele, Lea,
/// Flood 2014).
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests;
