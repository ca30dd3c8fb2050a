//! How fast endpoints come and go on a node: who flaps, who starts slowly, how much has moved of late.
//!
//! Keeps what [`damping`](crate::damping), [`ramp`](crate::ramp) and [`budget`](crate::budget) need between two
//! refreshes of a service. All of it is what this agent saw itself, by its own clock; an owner's wall clock is
//! used once, for an endpoint that served already when it was first seen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::advert::{Condition, Role};
use crate::budget::Budget;
use crate::damping::{Damping, Seen};
use crate::failover::{Subject, Tally};
use crate::ids::{EndpointId, Generation, ServiceName};
use crate::lifecycle::Terms;
use crate::policy::ServicePolicy;
use crate::ramp::{self, Ready};
use crate::route::{Candidate, Choice, Route};
use crate::time::{Time, Wall};

use super::Node;
use super::services::Survey;

/// See the module's text.
#[derive(Default, Clone, Debug, Serialize, Deserialize)]
pub(super) struct Pace {
    pub(super) budget: Budget,
    flaps: BTreeMap<EndpointId, Damping>,
    serving: BTreeMap<EndpointId, Serving>,
}

/// Since when an endpoint serves, if it does, in which start of its node.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Serving {
    generation: Generation,
    since: Option<Time>,
}

impl Node {
    /// What policy and mesh ask of our endpoints of a service now.
    pub(super) fn terms(&self, service: &ServiceName) -> Terms {
        let policy = self.policy.service(service);
        Terms {
            failback: policy.failback,
            ramp: policy.ramp(),
            room: self.pace.budget.room(self.policy.moves).max(self.caught_up),
        }
    }

    /// Notes what each endpoint does now, and marks those that flap.
    pub(super) fn damp(&mut self, now: Time, policy: &ServicePolicy, survey: &mut Survey) {
        let half_life = policy.damping.span();
        let isolated = self.is_isolated(now);
        for subject in &mut survey.subjects {
            let damping = self.pace.flaps.entry(subject.id.clone()).or_default();
            damping.see(seen(subject), half_life, now);
            if isolated {
                damping.cut_off();
            }
            subject.damped = damping.is_suppressed(now);
            if let Some(until) = damping.until(now) {
                survey.recheck = Some(survey.recheck.map_or(until, |r| r.min(until)));
            }
        }
        for c in &mut survey.candidates {
            let damped = survey.subjects.iter().any(|s| s.id == c.id && s.damped);
            if damped && c.role == Role::Hot {
                c.share = c.share.spared();
            }
        }
    }

    /// We are cut off: what we lose now comes back without having been away.
    pub(super) fn note_isolation(&mut self, now: Time) {
        if self.is_isolated(now) {
            self.pace.flaps.values_mut().for_each(Damping::cut_off);
        }
    }

    /// Notes since when each endpoint serves. `since` is what owners say.
    pub(super) fn note_serving(&mut self, now: Time, survey: &Survey) {
        let wall = self.config.clock.wall(now);
        for c in &survey.candidates {
            let serves = c.condition == Condition::Serving;
            let new = !self.pace.serving.contains_key(&c.id);
            let entry = self.pace.serving.entry(c.id.clone()).or_insert_with(|| {
                let said = survey.since.get(&c.id).copied().unwrap_or(wall);
                let ago = std::time::Duration::from_micros(wall.0.saturating_sub(said.0));
                Serving { generation: c.generation, since: serves.then_some(now - ago) }
            });
            if !serves {
                entry.since = None;
            } else if !new && (entry.since.is_none() || entry.generation != c.generation) {
                entry.since = Some(now);
            }
            entry.generation = c.generation;
        }
    }

    /// Sets the weights of the ready endpoints of a route. Returns when the next of them grows.
    pub(super) fn weigh(
        &self,
        now: Time,
        policy: &ServicePolicy,
        tally: &Tally,
        survey: &mut Survey,
        choice: &Choice,
    ) -> Option<Time> {
        let ramp = policy.ramp();
        let served = |c: &Candidate| {
            let since = self.pace.serving.get(&c.id).and_then(|s| s.since);
            since.map_or(ramp, |since| now.since(since))
        };
        let picked: Vec<&Candidate> =
            choice.indices().iter().map(|i| &survey.candidates[*i]).collect();
        let ready: Vec<Ready> = picked
            .iter()
            .map(|c| Ready { capacity: c.capacity, share: ramp::share(ramp, served(c)) })
            .collect();
        let next = picked.iter().filter_map(|c| ramp::next(ramp, served(c))).min();
        let weights = ramp::weights(tally.load, &ready);
        for (i, w) in choice.indices().iter().zip(weights) {
            survey.candidates[*i].weight = w;
        }
        next.map(|wait| now + wait)
    }

    /// Counts the moves of others' warm endpoints against the budget, as far as their owners tell them.
    pub(super) fn count_moves(&mut self, now: Time, before: &Route, after: &[Candidate]) {
        let others = after.iter().filter(|c| c.role != Role::Hot && c.id.node != self.config.name);
        for c in others {
            let Ok(i) = before.candidates.binary_search_by(|b| b.id.cmp(&c.id)) else { continue };
            if is_move(before.candidates[i].condition, c.condition) {
                self.pace.budget.take(self.policy.moves, now);
            }
        }
    }

    /// Forgets endpoints of a service that no record has any more.
    pub(super) fn forget_pace(&mut self, service: &ServiceName, known: &[Candidate]) {
        let gone = |id: &EndpointId| {
            id.service == *service && known.binary_search_by(|c| c.id.cmp(id)).is_err()
        };
        self.pace.flaps.retain(|id, _| !gone(id));
        self.pace.serving.retain(|id, _| !gone(id));
    }
}

/// A warm endpoint is called up, or stands down.
pub(super) fn is_move(before: Condition, after: Condition) -> bool {
    match (before, after) {
        (Condition::Standby, after) => {
            matches!(after, Condition::Activating | Condition::Serving)
        }
        (before, after) => before == Condition::Serving && after == Condition::Draining,
    }
}

/// What an endpoint does, for its damping.
fn seen(s: &Subject) -> Seen {
    match s.condition {
        _ if s.left => Seen::Away,
        _ if s.lost => Seen::Lost,
        Condition::Serving => Seen::Up,
        Condition::Unready => Seen::Lost,
        Condition::Standby | Condition::Activating | Condition::Draining => Seen::Away,
    }
}

/// The owner's word on when an endpoint's condition began, by id.
pub(super) type Since = BTreeMap<EndpointId, Wall>;
