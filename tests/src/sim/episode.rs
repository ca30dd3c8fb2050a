//! One fault, and how long requests still went where it was: what `make sim-failover` measures.
//!
//! A request is *misdirected* when it is sent to an endpoint under a fault by a caller that has not turned
//! away from it yet. A caller has turned away once its route no longer offers the endpoint in full. What it
//! sends there later is a *probe*: the core asks on purpose whether the fault is over. Measured at each
//! request, from what really is, not from what anybody thinks.

use std::collections::BTreeMap;

use hearth_proto::advert::Condition;
use hearth_proto::evidence::Standing;
use hearth_proto::ids::EndpointId;
use hearth_proto::route::{Route, Share};
use serde::{Deserialize, Serialize};

use super::At;
use super::world::World;

/// The kinds of faults, as they are told of in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// The host is gone.
    Kill,
    /// The host is stopped.
    Freeze,
    /// Nothing comes from it or gets there.
    BlackHole,
    /// Nothing gets there.
    OneWayTo,
    /// Nothing comes from it.
    OneWayFrom,
    /// Thirty packets in a hundred are lost, each way.
    Loss,
    /// Its paths come and go.
    Flap,
    /// The application is gone.
    AppCrash,
    /// The application answers nothing.
    AppHang,
    /// Forty answers in a hundred are errors.
    GrayErrors,
    /// Answers take twenty times longer.
    GraySlow,
}

/// All kinds.
pub const KINDS: [Kind; 11] = [
    Kind::Kill,
    Kind::Freeze,
    Kind::BlackHole,
    Kind::OneWayTo,
    Kind::OneWayFrom,
    Kind::Loss,
    Kind::Flap,
    Kind::AppCrash,
    Kind::AppHang,
    Kind::GrayErrors,
    Kind::GraySlow,
];

impl Kind {
    /// One stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Kill => "host-kill",
            Self::Freeze => "freeze",
            Self::BlackHole => "black-hole",
            Self::OneWayTo => "one-way-to",
            Self::OneWayFrom => "one-way-from",
            Self::Loss => "loss-30",
            Self::Flap => "flapping",
            Self::AppCrash => "app-crash",
            Self::AppHang => "app-hang",
            Self::GrayErrors => "gray-errors",
            Self::GraySlow => "gray-slow",
        }
    }
}

/// What one caller did during a fault.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// When it last sent a request there before it turned away.
    pub last: Option<At>,
    /// How many it sent there until then.
    pub misdirected: u32,
    /// It has turned away.
    pub turned: bool,
    /// How many it sent there after that.
    pub probes: u32,
}

/// One fault.
#[derive(Clone, Debug)]
pub struct Episode {
    /// Of which kind.
    pub kind: Kind,
    /// The endpoint that it strikes.
    pub endpoint: EndpointId,
    /// From when.
    pub began: At,
    /// Until when.
    pub ends: At,
    /// What each of its callers did.
    pub callers: BTreeMap<usize, Seen>,
}

impl Episode {
    /// A fault of this kind that is about to begin.
    pub fn new(kind: Kind, endpoint: EndpointId, began: At, ends: At) -> Self {
        Self { kind, endpoint, began, ends, callers: BTreeMap::new() }
    }

    fn is_on(&self, now: At) -> bool {
        (self.began..self.ends).contains(&now)
    }

    /// From the fault to the last misdirected request of any caller, in microseconds; `None` if there was
    /// none.
    pub fn last_misdirected(&self) -> Option<u64> {
        self.callers.values().filter_map(|seen| seen.last).max().map(|last| last - self.began)
    }

    /// Callers that never turned away, though they sent requests there.
    pub fn unturned(&self) -> usize {
        self.callers.values().filter(|seen| !seen.turned && seen.last.is_some()).count()
    }
}

/// Whether a route offers an endpoint like any other.
fn in_full(route: &Route, endpoint: &EndpointId) -> bool {
    route.choice.indices().iter().any(|i| {
        let c = &route.candidates[*i];
        c.id == *endpoint && c.standing == Standing::Ready && c.share == Share::Full
    })
}

impl World {
    /// A caller looks at its route: has it turned away from who is under a fault?
    pub(super) fn note_view(&mut self, caller: usize, route: &Route) {
        let now = self.now;
        for episode in &mut self.episodes {
            if episode.is_on(now)
                && episode.endpoint.service == route.service
                && !in_full(route, &episode.endpoint)
            {
                episode.callers.entry(caller).or_default().turned = true;
            }
        }
    }

    /// A caller sends a request to an endpoint.
    pub(super) fn note_pick(&mut self, caller: usize, endpoint: &EndpointId) {
        let now = self.now;
        for episode in &mut self.episodes {
            if episode.is_on(now) && episode.endpoint == *endpoint {
                let seen = episode.callers.entry(caller).or_default();
                if seen.turned {
                    seen.probes += 1;
                } else {
                    seen.last = Some(now);
                    seen.misdirected += 1;
                }
            }
        }
    }

    /// At rest and with nothing wrong nobody may hold a healthy endpoint for less than ready, nor give it
    /// less than its full share. Returns how many pairs of a caller and an endpoint do; each is a violation.
    pub(super) fn check_healthy(&mut self) -> usize {
        let found = self.unwell();
        for what in &found {
            self.checks.violate(self.now, what);
        }
        found.len()
    }

    /// How many callers hold a healthy endpoint for less.
    pub(super) fn count_unwell(&self) -> usize {
        self.unwell().len()
    }

    /// How many callers do not use this endpoint at all.
    pub(super) fn held_out(&self, endpoint: &EndpointId) -> usize {
        let out = |route: &Route| {
            let is = |i: &usize| route.candidates[*i].id == *endpoint;
            !route.choice.indices().iter().any(is)
        };
        let nodes = self.hosts.iter().filter(|h| h.spec.interest.contains(&endpoint.service));
        let snapshots = nodes.filter_map(|h| h.node.as_ref()).map(|n| n.snapshot());
        snapshots.filter(|s| s.services.get(&endpoint.service).is_some_and(|r| out(r))).count()
    }

    fn unwell(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (caller, host) in self.hosts.iter().enumerate() {
            let Some(snapshot) = host.node.as_ref().map(|n| n.snapshot()) else { continue };
            let routes = host.spec.interest.iter().filter_map(|s| snapshot.services.get(s));
            for route in routes {
                for (owner, id, _) in self.endpoints(&route.service) {
                    let serves = self.could_serve(owner, &id)
                        && self.condition(owner, &id) == Some(Condition::Serving);
                    if serves && !in_full(route, &id) {
                        let c = route.candidates.iter().find(|c| c.id == id);
                        let held = c.map(|c| (&c.standing, c.share));
                        found.push(format!("host {caller} holds the healthy {id} for {held:?}"));
                    }
                }
            }
        }
        found
    }
}
