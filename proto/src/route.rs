//! The compiled answer for one service on this agent: who is picked from, in what order, and why.
//!
//! A [`Route`] is an immutable snapshot. The traffic path reads it without a lock and picks with
//! [`Route::pick`], a pure function. Nothing here changes what anybody thinks of an endpoint.

mod exclusive;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::advert::{Condition, Protocol, Role};
use crate::balance::tiers::Place;
use crate::balance::{Draw, Measure, Spread};
use crate::evidence::{Standing, Why};
use crate::failover::Tally;
use crate::ids::{EndpointId, Generation, NodeName, ServiceName};
use crate::policy::{Mode, Need, ServicePolicy};
use crate::time::Time;

/// All routes of an agent at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Grows with every change.
    pub version: u64,
    /// This node.
    pub node: NodeName,
    /// The policy version the routes rest on.
    pub policy_version: u64,
    /// By service.
    pub services: BTreeMap<ServiceName, Arc<Route>>,
    /// Services of which a drill runs: what their requests come to is to be told.
    pub drilled: BTreeSet<ServiceName>,
    /// What this node's own endpoints are in, for the inbound side.
    pub own: BTreeMap<EndpointId, Condition>,
    /// The leases this node holds, for the inbound side, which looks at the clock itself.
    pub leases: BTreeMap<ServiceName, HeldLease>,
}

/// A lease of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLease {
    /// The endpoint that serves under it.
    pub endpoint: EndpointId,
    /// Its term.
    pub term: u64,
    /// Nothing may be accepted under it from then on.
    pub until: Time,
}

impl Snapshot {
    /// The snapshot before anything is known.
    pub fn empty(node: NodeName) -> Self {
        Self {
            version: 0,
            node,
            policy_version: 0,
            services: BTreeMap::new(),
            drilled: BTreeSet::new(),
            own: BTreeMap::new(),
            leases: BTreeMap::new(),
        }
    }
}

/// The route of one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// The service.
    pub service: ServiceName,
    /// Its policy.
    pub policy: ServicePolicy,
    /// Every endpoint known, ordered by id.
    pub candidates: Vec<Candidate>,
    /// Who is picked from now.
    pub choice: Choice,
    /// In which proportions, by which balancer: compiled from the choice.
    pub spread: Spread,
    /// Why, in words.
    pub reason: String,
    /// How many must serve, do serve, are called up.
    pub tally: Tally,
    /// An incident is open: successes are evidence too and are to be reported.
    pub watched: bool,
}

/// One endpoint as a route sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Which.
    pub id: EndpointId,
    /// The mesh address of its node.
    pub address: SocketAddr,
    /// The start of its node's agent.
    pub generation: Generation,
    /// What it speaks.
    pub protocol: Protocol,
    /// Declared role.
    pub role: Role,
    /// Its owner's word.
    pub condition: Condition,
    /// What we think of it.
    pub standing: Standing,
    /// The relay by which its node answers us while our own path to it is bad, or was a moment ago.
    pub via: Option<NodeName>,
    /// How much of the requests it is to get, while it is ready.
    pub share: Share,
    /// In mode exclusive: the term of the lease its owner says it holds.
    pub term: Option<u64>,
    /// What it can take, as its owner declares it ([`crate::advert::extension::WEIGHT`]).
    pub capacity: u16,
    /// Its part of the requests beside the others': 1,000 for a whole endpoint of capacity 100
    /// ([`crate::balance::FULL_WEIGHT`]), less while it starts slowly ([`crate::ramp`]). Never nought.
    pub weight: u16,
    /// Where its node is.
    pub place: Place,
}

/// How much of a service's requests a ready endpoint is to get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Share {
    /// What the balancer gives it.
    #[default]
    Full,
    /// One request in [`TRIAL_ONE_IN`], whatever the balancer thinks: its answers are to tell how it is.
    Trial,
    /// None while enough others serve: it was lost too often of late ([`crate::damping`]).
    Spare {
        /// Where too few others serve, it is on trial.
        on_trial: bool,
    },
}

impl Share {
    /// The same, of an endpoint that is kept in reserve.
    pub fn spared(self) -> Self {
        Self::Spare { on_trial: self.is_trial() }
    }

    /// Whether it gets no more than its trial needs.
    pub fn is_trial(self) -> bool {
        matches!(self, Self::Trial | Self::Spare { on_trial: true })
    }
}

pub use crate::balance::TRIAL_ONE_IN;

/// Who is picked from. The numbers are indices into [`Route::candidates`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Choice {
    /// The ready ones.
    Serve(Vec<usize>),
    /// Too few are ready: doubtful ones as well, ready ones first.
    Panic(Vec<usize>),
    /// Nobody else can be reached: those whose nodes answer through a relay.
    Relay(Vec<usize>),
    /// Nobody serves: these are called up; hold the request and wake them.
    Wake(Vec<usize>),
    /// Nobody is left.
    Nobody,
}

impl Choice {
    /// `serve`, `panic`, `relay`, `wake` or `none`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Serve(_) => "serve",
            Self::Panic(_) => "panic",
            Self::Relay(_) => "relay",
            Self::Wake(_) => "wake",
            Self::Nobody => "none",
        }
    }

    /// The candidates' indices.
    pub fn indices(&self) -> &[usize] {
        match self {
            Self::Serve(v) | Self::Panic(v) | Self::Relay(v) | Self::Wake(v) => v,
            Self::Nobody => &[],
        }
    }
}

/// Decides who is picked from, by the first rule that fits:
///
/// 1. enough are ready (the panic threshold's share of the ready and those accused by hearsay): the
///    ready; those that are damped only where fewer than must serve are left without them;
/// 2. somebody is ready or accused by hearsay only: panic, both, the ready ones first;
/// 3. somebody is silent on our own link only, and answers through a relay: those;
/// 4. somebody is called up or on its way, or would be if it were not for hot ones that are starting: wake;
/// 5. somebody is out for how it answered, or silent on our own link: panic, those, since the one may be well
///    again, and when everyone is silent the fault is likely ours and ends without notice;
/// 6. nobody.
///
/// A silent link is proof of our own, so a silent endpoint never dilutes those that answer.
pub fn choose(policy: &ServicePolicy, candidates: &[Candidate], tally: &Tally) -> (Choice, String) {
    if policy.mode == Mode::Exclusive {
        return exclusive::choose(policy, candidates);
    }
    let of = |wanted: &dyn Fn(&Candidate) -> bool| -> Vec<usize> {
        (0..candidates.len()).filter(|i| wanted(&candidates[*i])).collect()
    };
    let is_silent =
        |s: &Standing| matches!(s, Standing::Doubtful(Why::Silent { .. } | Why::Drill { .. }));
    let ready = of(&|c| c.standing == Standing::Ready);
    let silent = of(&|c| is_silent(&c.standing));
    let relayed = of(&|c| is_silent(&c.standing) && c.via.is_some());
    let failing =
        of(&|c| matches!(c.standing, Standing::Out(Why::Ejected { .. } | Why::Outlier { .. })));
    let accused = of(&|c| matches!(c.standing, Standing::Doubtful(_)) && !is_silent(&c.standing));
    let waits = |c: &Candidate| {
        matches!(
            c.standing,
            Standing::Out(Why::Condition(Condition::Standby | Condition::Activating))
        )
    };
    let waking = of(&|c| tally.called.contains(&c.id) && waits(c));
    let reserve = of(&|c| tally.reserve.contains(&c.id) && waits(c));
    let should = ready.len() + accused.len();
    if !ready.is_empty() && ready.len() >= policy.panic.of(should) {
        return serve(policy, candidates, ready, tally);
    }
    if should > 0 {
        let reason = format!(
            "panic: only {} of {should} are ready, below {} of them; those accused by others are used \
             as well",
            ready.len(),
            policy.panic
        );
        return (Choice::Panic(ready.into_iter().chain(accused).collect()), reason);
    }
    if !relayed.is_empty() {
        let reason = through(relayed.iter().map(|i| &candidates[*i]));
        return (Choice::Relay(relayed), reason);
    }
    if !waking.is_empty() {
        let reason = "nobody serves; warm endpoints are being called up".to_owned();
        return (Choice::Wake(waking), reason + &bench(tally));
    }
    if !reserve.is_empty() {
        let reason =
            "nobody serves; hot endpoints are starting, and a warm one is called if they take long";
        return (Choice::Wake(reserve), reason.to_owned());
    }
    if !failing.is_empty() {
        let reason = format!(
            "panic: nobody else is left, so {} that failed requests and {} that are silent are tried",
            failing.len(),
            silent.len()
        );
        return (Choice::Panic([failing, silent].concat()), reason);
    }
    if !silent.is_empty() {
        let reason = format!(
            "panic: all {} endpoints that should serve are silent; perhaps it is this host's network",
            silent.len()
        );
        return (Choice::Panic(silent), reason);
    }
    let reason = match candidates.len() {
        0 => "no agent offers this service".to_owned(),
        n => format!("none of {n} endpoints can serve, and no warm one is left to call"),
    };
    (Choice::Nobody, reason)
}

/// The ready, without those that are damped where enough are left.
fn serve(
    policy: &ServicePolicy,
    candidates: &[Candidate],
    ready: Vec<usize>,
    tally: &Tally,
) -> (Choice, String) {
    let known = candidates.len();
    let steady: Vec<usize> = ready
        .iter()
        .copied()
        .filter(|i| !matches!(candidates[*i].share, Share::Spare { .. }))
        .collect();
    let spare = ready.len() - steady.len();
    let enough = !steady.is_empty()
        && match policy.min_hot {
            Need::Count(_) => steady.len() >= tally.needed,
            // Of large ones and small ones the number says little.
            Need::Percent(_) => {
                steady.iter().map(|i| u64::from(candidates[*i].capacity)).sum::<u64>() >= tally.load
            }
        };
    let reason = match spare {
        0 => format!("{} ready of {known} known", ready.len()),
        _ if enough => {
            format!("{} ready of {known} known, and {spare} in reserve that flapped", steady.len())
        }
        _ => format!("{} ready of {known} known, {spare} of them though they flapped", ready.len()),
    };
    (Choice::Serve(if enough { steady } else { ready }), reason + &bench(tally))
}

/// What is to be said of a bench that is too small.
fn bench(tally: &Tally) -> String {
    match tally.short {
        0 => String::new(),
        n => format!("; the bench is too small: {n} more would be called up"),
    }
}

/// `relayed through c-1: our own path to b-1 is silent`.
fn through<'a>(relayed: impl Iterator<Item = &'a Candidate>) -> String {
    let ways: Vec<String> = relayed
        .filter_map(|c| {
            let via = c.via.as_ref()?;
            Some(format!("through {via}: our own path to {} is silent", c.id.node))
        })
        .collect();
    format!("relayed {}", ways.join("; "))
}

/// A pick and its reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision<'a> {
    /// The endpoint, if there is one.
    pub pick: Option<&'a Candidate>,
    /// Why this one, or why none.
    pub reason: &'static str,
}

impl Route {
    /// Picks an endpoint, by the route's [`Spread`]. `exclude` are those this request has met already; if
    /// only they are left, nobody is picked.
    pub fn pick(
        &self,
        draw: impl Into<Draw>,
        exclude: &[EndpointId],
        load: impl Fn(&EndpointId, Measure) -> u64,
    ) -> Decision<'_> {
        let (picked, reason) = self.pick_index(
            draw,
            |i| exclude.contains(&self.candidates[i].id),
            |i, measure| load(&self.candidates[i].id, measure),
        );
        Decision { pick: picked.map(|i| &self.candidates[i]), reason }
    }

    /// [`Route::pick`] by indices into [`Route::candidates`], for who keeps what it knows beside them.
    pub fn pick_index(
        &self,
        draw: impl Into<Draw>,
        exclude: impl Fn(usize) -> bool,
        load: impl Fn(usize, Measure) -> u64,
    ) -> (Option<usize>, &'static str) {
        match &self.choice {
            Choice::Serve(_) | Choice::Panic(_) | Choice::Relay(_) => {}
            Choice::Wake(_) => return (None, "being called up"),
            Choice::Nobody => return (None, "nobody is left"),
        }
        match self.spread.pick(&draw.into(), exclude, load) {
            Some(picked) => (Some(picked.index), picked.why),
            None => (None, "every candidate was tried"),
        }
    }
}

#[cfg(test)]
mod tests;
