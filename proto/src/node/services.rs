//! Routes and incidents: what follows for a service when anything about its endpoints changed.
//!
//! A refresh is level-triggered: it rebuilds the route of a service from the table, the evidence and the
//! policy, compares it with the one before, and opens, moves or closes incidents accordingly.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;

use crate::advert::{Condition, Role};
use crate::balance::tiers::Place;
use crate::balance::{FULL_WEIGHT, Spread};
use crate::evidence::{
    self, CONFIRM_SILENCE, EndpointEvidence, NodeEvidence, Outcome, Standing, Swim, Why,
};
use crate::failover::{self, Subject, Tally};
use crate::history::History;
use crate::ids::{EndpointId, NodeName, ServiceName, Version};
use crate::incident::IncidentKey;
use crate::policy::{Relay, ServicePolicy};
use crate::route::{self, Candidate, Choice, Route, Share, Snapshot};
use crate::time::Time;
use crate::wire::{Message, Wake};

use super::outliers::should_serve;
use super::pace::Since;
use super::{Event, Forced, Node, ServiceState};

/// How long a hot endpoint that has not served yet counts as only starting: nobody is called up for it.
const START_GRACE: Duration = Duration::from_secs(10);
/// A caller that has nobody waits so long for hot endpoints that are only starting; then it has a warm one
/// called all the same. A start whose checks pass takes less, and the activation is still to come.
const START_PATIENCE: Duration = Duration::from_secs(1);
/// A wake that was not heeded is sent again after so long.
const WAKE_AGAIN: Duration = Duration::from_millis(500);

/// The endpoints of one service as a refresh found them.
#[derive(Default)]
pub(super) struct Survey {
    pub(super) candidates: Vec<Candidate>,
    pub(super) subjects: Vec<Subject>,
    versions: BTreeMap<EndpointId, Version>,
    pub(super) since: Since,
    pub(super) recheck: Option<Time>,
}

impl Node {
    /// Refreshes every service that something happened to, and publishes the snapshot.
    pub(super) fn refresh_services(&mut self, now: Time) {
        if self.stale_services.is_empty() {
            return;
        }
        for service in std::mem::take(&mut self.stale_services) {
            self.refresh(now, &service);
            self.call_up(now, &service);
        }
        self.update_watch();
        self.update_relays(now);
        let services =
            self.services.iter().map(|(name, s)| (name.clone(), s.route.clone())).collect();
        let own = self
            .own
            .iter()
            .map(|(id, o)| (id.clone(), self.gated(id, o.life.condition())))
            .collect();
        let running = self.drills.iter().filter(|held| held.over.is_none());
        let drilled = running.map(|held| held.plan.service.clone()).collect();
        self.snapshot = Arc::new(Snapshot {
            version: self.snapshot.version + 1,
            node: self.config.name.clone(),
            policy_version: self.policy_version,
            services,
            drilled,
            own,
            leases: self.seats.held().clone(),
        });
    }

    pub(super) fn node_evidence(&self, node: &NodeName, now: Time) -> NodeEvidence {
        if *node == self.config.name {
            let mut me = NodeEvidence::unheard(self.started);
            me.swim = Swim::Alive;
            return me;
        }
        self.nodes.get(node).cloned().unwrap_or_else(|| NodeEvidence::unheard(now))
    }

    /// Where this node is.
    fn home(&self) -> Place {
        Place { zone: self.config.zone.clone(), region: self.config.region.clone() }
    }

    /// Looks at every endpoint of a service.
    fn survey(&self, service: &ServiceName, relay: Relay, now: Time) -> Survey {
        let mut survey = Survey::default();
        for (name, entry) in self.table.offering(service) {
            let advert = &entry.advert;
            let (weights, leases) = (advert.weights(), advert.leases());
            let offers =
                advert.endpoints.iter().zip(weights).filter(|(e, _)| e.service == *service);
            let node = self.node_evidence(name, now);
            let drill = self.drilled(service, name);
            // A drill is of the paths too.
            let relayed = relay == Relay::LastResort && drill.is_none();
            let via = self.relays.via(name, &node, now).filter(|_| relayed);
            for (e, capacity) in offers {
                let id = advert.endpoint_id(e);
                let outcome = self.outcomes.get(&id);
                let mut standing =
                    evidence::standing(&node, advert.left, e.condition, outcome, now);
                let mut drilled = false;
                if let Some(held) = drill {
                    let lost = held.learnt + CONFIRM_SILENCE;
                    drilled = now >= lost;
                    let next = if drilled { held.until } else { lost };
                    survey.recheck = Some(survey.recheck.map_or(next, |r| r.min(next)));
                    standing = self.drill_standing(held, standing, now);
                }
                let lost = if via.is_some() { Ok(false) } else { node.lost(now) };
                let node_lost = lost.unwrap_or_else(|at| {
                    survey.recheck = Some(survey.recheck.map_or(at, |r| r.min(at)));
                    false
                });
                if let Some(until) = node.pending(now) {
                    survey.recheck = Some(survey.recheck.map_or(until, |r| r.min(until)));
                }
                if let Some(until) = outcome.and_then(|o| o.recheck(now)) {
                    survey.recheck = Some(survey.recheck.map_or(until, |r| r.min(until)));
                }
                let starting = self.starting_until(&id, advert.version, e.condition, now);
                if let Some(until) = starting {
                    survey.recheck = Some(survey.recheck.map_or(until, |r| r.min(until)));
                }
                survey.subjects.push(Subject {
                    id: id.clone(),
                    role: e.role,
                    condition: e.condition,
                    lost: node_lost || drilled,
                    starting: starting.is_some(),
                    left: advert.left,
                    activated_for: e.activated_for.clone(),
                    weight: capacity,
                    doubtful: matches!(node.standing(now), Standing::Doubtful(_)),
                    damped: false,
                });
                survey.versions.insert(id.clone(), advert.version);
                survey.since.insert(id.clone(), e.since);
                survey.candidates.push(Candidate {
                    term: Self::claimed_term(&leases, &id),
                    id,
                    address: advert.address,
                    generation: advert.version.generation,
                    protocol: e.protocol,
                    role: e.role,
                    condition: e.condition,
                    share: outcome.map(share).unwrap_or_default(),
                    capacity,
                    weight: FULL_WEIGHT,
                    place: Place { zone: advert.zone.clone(), region: advert.region.clone() },
                    standing,
                    via: via.cloned(),
                });
            }
        }
        survey.candidates.sort_by(|a, b| a.id.cmp(&b.id));
        survey
    }

    /// Until when an endpoint that does not serve yet counts as one that is only starting.
    fn starting_until(
        &self,
        id: &EndpointId,
        version: Version,
        condition: Condition,
        now: Time,
    ) -> Option<Time> {
        if condition != Condition::Unready {
            return None;
        }
        let seen = self.services.get(&id.service).and_then(|s| s.starting.get(id));
        let since = match seen {
            Some((generation, since)) if *generation == version.generation => (*since)?,
            _ => now,
        };
        let until = since + START_GRACE;
        (now < until).then_some(until)
    }

    fn refresh(&mut self, now: Time, service: &ServiceName) {
        self.expire_ejections(now, service);
        let policy = self.policy.service(service);
        let mut survey = self.survey(service, policy.relay, now);
        if self.readmit_outliers(now, &policy, &survey.candidates) {
            survey = self.survey(service, policy.relay, now);
        }
        self.damp(now, &policy, &mut survey);
        self.note_serving(now, &survey);
        let tally = failover::tally(&policy, &survey.subjects);
        let (choice, mut reason) = route::choose(&policy, &survey.candidates, &tally);
        if let Some(held) = self.drills.running(service) {
            reason = format!("{reason}; {}: {} taken for lost", held.plan.id, held.plan.lose);
        }
        let grows = self.weigh(now, &policy, &tally, &mut survey, &choice);
        let Survey { candidates, subjects, versions, recheck, .. } = survey;
        let recheck = [recheck, grows].into_iter().flatten().min();
        self.forget_pace(service, &candidates);
        if let Some(before) = self.services.get(service).map(|s| s.route.clone()) {
            self.count_moves(now, &before, &candidates);
        }
        let gone: BTreeSet<EndpointId> =
            subjects.into_iter().filter(|s| s.lost).map(|s| s.id).collect();
        let spread = Spread::of(&policy, &candidates, &choice, &self.home());
        let route = Route {
            service: service.clone(),
            policy,
            candidates,
            choice,
            spread,
            reason,
            tally,
            watched: false,
        };
        let known = self.services.contains_key(service);
        if route.candidates.is_empty() && !known && !self.config.interest.contains(service) {
            return;
        }
        let state = self.services.entry(service.clone()).or_insert_with(|| ServiceState {
            route: Arc::new(empty_route(service, route.policy.clone())),
            since: BTreeMap::new(),
            was_ready: BTreeMap::new(),
            woken: BTreeMap::new(),
            starting: BTreeMap::new(),
            waiting: None,
            recheck: None,
            history: History::new(now),
        });
        state.recheck = recheck;
        let served = matches!(route.choice, Choice::Serve(_) | Choice::Panic(_) | Choice::Relay(_));
        if served || route.tally.reserve.is_empty() {
            state.waiting = None;
        }
        let ready = route.candidates.iter().filter(|c| c.standing == Standing::Ready);
        state.history.look(now, ready.count());
        let moved = note_standings(state, &route, now);
        note_starting(state, &route, now);
        let lost = lost_since(state, &route, &gone);
        remember_ready(state, &route, &versions, &gone);
        for (key, why) in lost {
            self.open_incident(now, key, why, &route);
        }
        self.follow_incidents(now, service, &route, moved);
        let watched = self
            .incidents
            .iter()
            .any(|r| r.key.lost.service == *service && r.is_open() && r.shifted.is_none());
        let route = Arc::new(Route { watched, ..route });
        if let Some(state) = self.services.get_mut(service) {
            state.route = route.clone();
        }
        self.schedule_incidents(now, service);
        self.wake_called(now, &route);
    }

    // ---- waking --------------------------------------------------------------------------------

    /// Tells the owners of called endpoints, if our own traffic is concerned.
    fn wake_called(&mut self, now: Time, route: &Route) {
        let service = &route.service;
        if !self.config.interest.contains(service) {
            return;
        }
        let urgent = !matches!(route.choice, Choice::Serve(_) | Choice::Relay(_));
        let mut wanted = route.tally.called.clone();
        wanted.extend(self.reserve_due(now, route));
        for id in &wanted {
            if id.node == self.config.name {
                // Called by the numbers it needs no waking; called by our own callers alone it does.
                self.wake_own(now, id, route);
                continue;
            }
            let standing_by =
                route.candidates.iter().any(|c| c.id == *id && c.condition == Condition::Standby);
            let incident = self.assignment(service, id, now).or_else(|| self.missed_loss(route));
            let Some(incident) = incident.filter(|_| standing_by) else { continue };
            let Some(state) = self.services.get_mut(service) else { return };
            let recheck = now + WAKE_AGAIN;
            state.recheck = Some(state.recheck.map_or(recheck, |r| r.min(recheck)));
            if state.woken.get(id).is_some_and(|at| now < *at + WAKE_AGAIN) {
                continue;
            }
            state.woken.insert(id.clone(), now);
            let parent_span = incident.span_id("failover", &self.config.name);
            if let Some(record) = self.incidents.iter_mut().find(|r| r.key == incident) {
                let how = if urgent { "nobody else is left" } else { "for its owner to look" };
                record.note(now, "wake", format!("{id} asked to serve, {how}"));
            }
            let wake = Wake { endpoint: id.clone(), incident, parent_span, urgent };
            self.send(&id.node, Message::Wake(wake));
        }
    }

    /// A caller has had nobody for a while, since the hot endpoints are only starting: whom it has called.
    fn reserve_due(&mut self, now: Time, route: &Route) -> Option<EndpointId> {
        let first = route.tally.reserve.first()?;
        let state = self.services.get_mut(&route.service)?;
        let due = state.waiting? + START_PATIENCE;
        if now < due {
            state.recheck = Some(state.recheck.map_or(due, |r| r.min(due)));
        }
        (now >= due).then(|| first.clone())
    }

    /// Our own callers have nobody, and the reserve is an endpoint of this node.
    fn wake_own(&mut self, now: Time, id: &EndpointId, route: &Route) {
        if route.tally.reserve.contains(id)
            && let Some(incident) = self.missed_loss(route)
        {
            let (since, until, by) = (now, now + super::own::FORCE, self.config.name.clone());
            let forced = Forced { incident, since, until, by, believed: true };
            self.forced.insert(id.clone(), forced);
        }
    }

    /// Requests of this node wait for a service that nobody serves.
    pub(super) fn note_waiting(&mut self, now: Time, service: &ServiceName) {
        let Some(state) = self.services.get_mut(service) else { return };
        // From the moment there is somebody to call: a mesh whose records are still coming in is no outage.
        let somebody = !state.route.tally.reserve.is_empty();
        if matches!(state.route.choice, Choice::Wake(_)) && somebody && state.waiting.is_none() {
            state.waiting = Some(now);
            self.stale_services.insert(service.clone());
        }
    }

    /// The name of a loss that this agent did not see itself, since it started later: the first hot endpoint
    /// that does not serve, in the version of its advert that is known.
    fn missed_loss(&self, route: &Route) -> Option<IncidentKey> {
        let missing = |c: &&Candidate| c.role == Role::Hot && c.standing != Standing::Ready;
        let lost = route.candidates.iter().find(missing)?.id.clone();
        let version = self.table.version(&lost.node)?;
        Some(IncidentKey { lost, version })
    }

    // ---- evidence from requests ----------------------------------------------------------------

    pub(super) fn observe_outcome(&mut self, now: Time, id: &EndpointId, outcome: Outcome) {
        self.set_interest(&id.service);
        if !self.table.get(&id.node).is_some_and(|e| {
            e.advert.endpoints.iter().any(|x| x.service == id.service && x.instance == id.instance)
        }) {
            return;
        }
        if let Outcome::Answered { .. } = outcome {
            for record in &mut self.incidents {
                let same = record.key.lost.service == id.service && record.key.lost != *id;
                if same && record.is_open() && record.shifted.is_none() {
                    record.shifted = Some(now);
                    record.note(now, "shift", format!("a request was answered by {id}"));
                    self.stale_services.insert(id.service.clone());
                }
            }
        }
        let may_eject = self.may_eject(&id.service)
            && !(outcome == Outcome::TimedOut && self.all_stall(now, id));
        let jitter = self.rng.random::<f64>();
        let e = self.outcomes.entry(id.clone()).or_default();
        let before = (e.is_ejected(now), e.on_probation());
        e.observe(outcome, now, jitter, may_eject);
        if (e.is_ejected(now), e.on_probation()) != before {
            self.stale_services.insert(id.service.clone());
        }
    }

    /// Never more than half of those that should serve are out, and never the last: a capped share, as Envoy's
    /// `max_ejection_percent`. Those that stand by are no part of it: nobody is called up for an ejection.
    fn may_eject(&self, service: &ServiceName) -> bool {
        let Some(state) = self.services.get(service) else { return false };
        // An outlier makes room: what fails altogether is worse.
        let ready = |c: &&Candidate| {
            matches!(c.standing, Standing::Ready | Standing::Out(Why::Outlier { .. }))
        };
        let candidates = &state.route.candidates;
        let should = candidates.iter().filter(|c| should_serve(&c.standing)).count();
        let ready = candidates.iter().filter(ready).count();
        ready > 1 && 2 * (should - ready + 1) <= should
    }

    /// Most of an endpoint's siblings fail as it does: there is too much to do, or what all of them call is
    /// slow. Who is ejected then leaves its part to those who are no better.
    fn all_stall(&self, now: Time, id: &EndpointId) -> bool {
        let Some(state) = self.services.get(&id.service) else { return false };
        let siblings = state.route.candidates.iter().filter(|c| {
            c.id != *id && c.condition == Condition::Serving && c.standing == Standing::Ready
        });
        let (mut all, mut failing) = (0, 0);
        for sibling in siblings {
            all += 1;
            failing +=
                usize::from(self.outcomes.get(&sibling.id).is_some_and(|e| e.is_failing(now)));
        }
        2 * failing > all
    }

    fn expire_ejections(&mut self, now: Time, service: &ServiceName) {
        for (id, e) in &mut self.outcomes {
            if id.service == *service {
                e.expire(now);
            }
        }
    }

    /// A service is to be looked at again at `at`, if not earlier.
    pub(super) fn recheck_at(&mut self, service: &ServiceName, at: Time) {
        if let Some(state) = self.services.get_mut(service) {
            state.recheck = Some(state.recheck.map_or(at, |r| r.min(at)));
        }
    }

    // ---- time ----------------------------------------------------------------------------------

    pub(super) fn tick_services(&mut self, now: Time) {
        let due = self.services.iter().filter(|(_, s)| s.recheck.is_some_and(|at| at <= now));
        let due: Vec<ServiceName> = due.map(|(name, _)| name.clone()).collect();
        self.stale_services.extend(due);
    }

    /// Which peers are to be sensed: those with endpoints of services we call, or stand by for.
    fn update_watch(&mut self) {
        let stand_by = self.own.values().filter(|o| o.config.role != Role::Hot);
        let mut services: Vec<&ServiceName> = stand_by.map(|o| &o.config.id.service).collect();
        services.extend(self.config.interest.iter());
        let mut watch: Vec<_> = services
            .iter()
            .filter_map(|s| self.services.get(*s))
            .flat_map(|s| s.route.candidates.iter())
            .filter(|c| c.id.node != self.config.name)
            .filter(|c| !matches!(c.standing.why(), Some(Why::Left | Why::Revoked)))
            .map(|c| (c.id.node.clone(), c.address))
            .collect();
        watch.sort();
        watch.dedup();
        if watch != self.watch {
            self.watch = watch.clone();
            self.events.push_back(Event::Watch(watch));
        }
    }
}

fn share(evidence: &EndpointEvidence) -> Share {
    let tried = evidence.outlier.on_trial() || evidence.on_probation();
    if tried { Share::Trial } else { Share::Full }
}

fn empty_route(service: &ServiceName, policy: ServicePolicy) -> Route {
    Route {
        service: service.clone(),
        policy,
        candidates: Vec::new(),
        choice: Choice::Nobody,
        spread: Spread::default(),
        reason: String::new(),
        tally: Tally::default(),
        watched: false,
    }
}

/// Records since when each endpoint has its standing. Returns whether any changed.
fn note_standings(state: &mut ServiceState, route: &Route, now: Time) -> bool {
    let mut moved = false;
    for c in &route.candidates {
        let kind = |s: &Standing| (s.word(), s.why().map(Why::word));
        match state.since.get(&c.id) {
            Some((before, _)) if kind(before) == kind(&c.standing) => {}
            _ => {
                moved = true;
                state.since.insert(c.id.clone(), (c.standing.clone(), now));
            }
        }
    }
    state.since.retain(|id, _| route.candidates.iter().any(|c| c.id == *id));
    moved
}

/// Keeps for each endpoint whether it has served in its present generation, and since when it is known.
fn note_starting(state: &mut ServiceState, route: &Route, now: Time) {
    for c in &route.candidates {
        let entry = state.starting.entry(c.id.clone()).or_insert((c.generation, Some(now)));
        if entry.0 != c.generation {
            *entry = (c.generation, Some(now));
        }
        if c.condition == Condition::Serving {
            entry.1 = None;
        }
    }
    state.starting.retain(|id, _| route.candidates.iter().any(|c| c.id == *id));
}

/// Endpoints that were ready and are not, by a loss rather than by plan. A silence is none before it is
/// confirmed: requests have left already, but on a lossy path that is daily life.
fn lost_since(
    state: &ServiceState,
    route: &Route,
    gone: &BTreeSet<EndpointId>,
) -> Vec<(IncidentKey, Why)> {
    let mut lost = Vec::new();
    for c in &route.candidates {
        let Some(version) = state.was_ready.get(&c.id) else { continue };
        let planned = |why: &Why| {
            matches!(
                why,
                Why::Left
                    | Why::Condition(
                        Condition::Draining | Condition::Standby | Condition::Activating
                    )
            )
        };
        match c.standing.why() {
            Some(why) if is_open(why) && !gone.contains(&c.id) => {}
            Some(why) if !planned(why) => {
                let key = IncidentKey { lost: c.id.clone(), version: *version };
                lost.push((key, why.clone()));
            }
            _ => {}
        }
    }
    lost
}

/// Whether a node of which this is said may yet turn out not to be lost.
fn is_open(why: &Why) -> bool {
    matches!(why, Why::Silent { .. } | Why::Down { .. } | Why::Drill { .. })
}

fn remember_ready(
    state: &mut ServiceState,
    route: &Route,
    versions: &BTreeMap<EndpointId, Version>,
    gone: &BTreeSet<EndpointId>,
) {
    for c in &route.candidates {
        match (&c.standing, versions.get(&c.id)) {
            // Lost for us alone, and reached all the same: when its relay is lost, it is lost anew.
            (Standing::Doubtful(Why::Silent { .. }), Some(version)) if c.via.is_some() => {
                state.was_ready.insert(c.id.clone(), *version);
            }
            (standing, _) if standing.why().is_some_and(is_open) && !gone.contains(&c.id) => {}
            (Standing::Ready, Some(version)) => {
                state.was_ready.insert(c.id.clone(), *version);
            }
            _ => {
                state.was_ready.remove(&c.id);
            }
        }
    }
    state.was_ready.retain(|id, _| versions.contains_key(id));
}
