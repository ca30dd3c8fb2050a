//! Routes and incidents: what follows for a service when anything about its endpoints changed.
//!
//! A refresh is level-triggered: it rebuilds the route of a service from the table, the evidence and the
//! policy, compares it with the one before, and opens, moves or closes incidents accordingly.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;

use crate::advert::{Condition, Role, extension};
use crate::balance::tiers::Place;
use crate::balance::{FULL_WEIGHT, Spread};
use crate::evidence::{self, EndpointEvidence, NodeEvidence, Outcome, Standing, Swim, Why};
use crate::failover::{self, Subject, Tally};
use crate::ids::{EndpointId, NodeName, ServiceName, Version};
use crate::incident::IncidentKey;
use crate::policy::{Relay, ServicePolicy};
use crate::route::{self, Candidate, Choice, Route, Share, Snapshot};
use crate::time::Time;
use crate::wire::{Message, Wake};

use super::{Event, Node, ServiceState};

/// How long a hot endpoint that has not served yet counts as only starting: nobody is called up for it.
const START_GRACE: Duration = Duration::from_secs(10);
/// A wake that was not heeded is sent again after so long.
const WAKE_AGAIN: Duration = Duration::from_millis(500);

/// The endpoints of one service as a refresh found them.
struct Survey {
    candidates: Vec<Candidate>,
    subjects: Vec<Subject>,
    versions: BTreeMap<EndpointId, Version>,
    recheck: Option<Time>,
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
        self.snapshot = Arc::new(Snapshot {
            version: self.snapshot.version + 1,
            node: self.config.name.clone(),
            policy_version: self.policy_version,
            services,
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
        let mut survey = Survey {
            candidates: Vec::new(),
            subjects: Vec::new(),
            versions: BTreeMap::new(),
            recheck: None,
        };
        for (name, entry) in self.table.iter() {
            let advert = &entry.advert;
            let leases = extension::leases(&advert.extension);
            let offers = advert.endpoints.iter().filter(|e| e.service == *service);
            for e in offers {
                let id = advert.endpoint_id(e);
                let node = self.node_evidence(name, now);
                let outcome = self.outcomes.get(&id);
                let standing = evidence::standing(&node, advert.left, e.condition, outcome, now);
                let via = self.relays.via(name, &node, now).filter(|_| relay == Relay::LastResort);
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
                    lost: node_lost,
                    starting: starting.is_some(),
                    left: advert.left,
                    activated_for: e.activated_for.clone(),
                });
                survey.versions.insert(id.clone(), advert.version);
                survey.candidates.push(Candidate {
                    term: Self::claimed_term(&leases, &id),
                    id,
                    address: advert.address,
                    generation: advert.version.generation,
                    protocol: e.protocol,
                    role: e.role,
                    condition: e.condition,
                    share: outcome.map(share).unwrap_or_default(),
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
        let tally = failover::tally(&policy, &survey.subjects);
        let (choice, reason) = route::choose(&policy, &survey.candidates, &tally);
        let Survey { candidates, subjects, versions, recheck } = survey;
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
            recheck: None,
        });
        state.recheck = recheck;
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
        for id in &route.tally.called {
            let standing_by = route.candidates.iter().any(|c| {
                c.id == *id
                    && c.condition == Condition::Standby
                    && *id.node.as_str() != *self.config.name.as_str()
            });
            let Some(incident) = self.assignment(service, id, now).filter(|_| standing_by) else {
                continue;
            };
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
        let may_eject = self.services.get(&id.service).is_some_and(|s| {
            // An outlier makes room: what fails altogether is worse.
            let ready = |c: &&Candidate| {
                matches!(c.standing, Standing::Ready | Standing::Out(Why::Outlier { .. }))
            };
            let ready = s.route.candidates.iter().filter(ready).count();
            let serving = s.route.candidates.iter().filter(|c| c.condition == Condition::Serving);
            // Never more than half, and never the last: a capped share, as Envoy's
            // max_ejection_percent.
            ready > 1 && 2 * (serving.count() - ready + 1) <= s.route.candidates.len()
        });
        let jitter = self.rng.random::<f64>();
        let e = self.outcomes.entry(id.clone()).or_default();
        let before = e.is_ejected(now);
        e.observe(outcome, now, jitter, may_eject);
        if e.is_ejected(now) != before {
            self.stale_services.insert(id.service.clone());
        }
    }

    fn expire_ejections(&mut self, now: Time, service: &ServiceName) {
        for (id, e) in &mut self.outcomes {
            if id.service == *service {
                e.expire(now);
            }
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
    if evidence.outlier.on_trial() { Share::Trial } else { Share::Full }
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
            Some(Why::Silent { .. }) if !gone.contains(&c.id) => {}
            Some(why) if !planned(why) => {
                let key = IncidentKey { lost: c.id.clone(), version: *version };
                lost.push((key, why.clone()));
            }
            _ => {}
        }
    }
    lost
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
            (Standing::Doubtful(Why::Silent { .. }), _) if !gone.contains(&c.id) => {}
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
