//! What a node says of itself and the mesh when asked: pure reading, nothing changes.

use std::time::Duration;

use crate::activation::Activations;
use crate::advert::{EndpointAdvert, SignedAdvert};
use crate::document::{DocumentKind, SignedDocument};
use crate::evidence::{LinkState, Swim};
use crate::ids::{NodeName, ServiceName};
use crate::record::Record;
use crate::route::{Candidate, Route, Share, TRIAL_ONE_IN};
use crate::table::Entry;
use crate::time::Time;
use crate::view::{
    Census, EndpointView, ExplainView, IncidentEntry, IncidentInput, IncidentView, MemberView,
    RouteView, SpanView, StatusView,
};

use super::Node;

mod sentences;

/// Incidents shown with an explanation.
const EXPLAIN_INCIDENTS: usize = 5;

impl Node {
    /// Every record held, to be kept on disk.
    pub fn table_records(&self) -> Vec<SignedAdvert> {
        self.table.iter().map(|(_, e)| e.signed.clone()).collect()
    }

    /// Every document held, to be kept on disk.
    pub fn document_records(&self) -> Vec<SignedDocument> {
        self.documents.values().map(|(signed, _)| signed.clone()).collect()
    }

    /// `GET /v1/status`, without what only the shell knows (links, certificate).
    pub fn status_view(&self, now: Time) -> StatusView {
        let members = self.members_view(now);
        let count = |state: &str| members.iter().filter(|m| m.state == state).count();
        let phase = match (self.left, self.draining, self.member.is_idle()) {
            (true, _, _) => "leaving",
            (_, true, _) => "draining",
            (_, _, true) => "joining",
            _ => "serving",
        };
        let policy = self.documents.get(&DocumentKind::Policy);
        StatusView {
            node: self.config.name.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            generation: self.config.generation.0,
            phase: phase.to_owned(),
            started: self.config.clock.wall(self.started),
            address: self.config.address.to_string(),
            alive: count("alive"),
            suspect: count("suspect"),
            unsteady: count("unsteady"),
            down: count("down"),
            records: self.table.len(),
            policy_version: self.policy_version,
            policy_issued: policy.map(|(_, d)| d.issued),
            certificate_expires: None,
            links: Vec::new(),
            open_incidents: self.incidents.iter().filter(|r| r.is_open()).count(),
            drills: self.drill_views(now).into_iter().filter(|d| d.running).collect(),
            leases: self.leases_view(now),
            endpoints: self
                .table
                .get(&self.config.name)
                .map(|e| self.endpoint_views(e))
                .unwrap_or_default(),
        }
    }

    /// `GET /v1/members`, ourselves included.
    pub fn members_view(&self, now: Time) -> Vec<MemberView> {
        let mut views: Vec<MemberView> =
            self.table.iter().map(|(name, e)| self.member_view(name, e, now)).collect();
        for (name, e) in &self.nodes {
            if self.table.get(name).is_none() && e.swim != Swim::Unheard {
                views.push(self.bare_member(name, now));
            }
        }
        views.sort_by(|a, b| a.node.cmp(&b.node));
        views
    }

    /// What metrics count: one pass over members and table, no text is made.
    pub fn census(&self, now: Time) -> Census {
        let trust = self.documents.get(&DocumentKind::Trust);
        let mut census = Census {
            records: self.table.len(),
            policy_version: self.policy_version,
            trust_version: trust.map_or(0, |(signed, _)| signed.version),
            open_incidents: self.incidents.iter().filter(|r| r.is_open()).count(),
            drills: self.drills.iter().filter(|held| held.over.is_none()).count(),
            suspicions: self.member.probes_failed(),
            refutations: self.member.refutations(),
            rejoins: self.member.rejoins(),
            health_score: self.member.health_score(),
            ..Census::default()
        };
        let mut count = |state| match state {
            "alive" => census.alive += 1,
            "suspect" => census.suspect += 1,
            "unsteady" => census.unsteady += 1,
            "down" => census.down += 1,
            _ => {}
        };
        for (name, _) in self.table.iter().filter(|(_, entry)| !entry.advert.left) {
            count(self.member_state(name).0);
        }
        for name in self.nodes.keys().filter(|name| self.table.get(name).is_none()) {
            count(self.member_state(name).0);
        }
        let living = self.table.iter().filter(|(name, entry)| {
            **name != self.config.name && !entry.advert.left && self.member_state(name).0 == "alive"
        });
        let ages = living.map(|(name, entry)| self.record_age(now, name, entry));
        census.oldest_record = ages.max().unwrap_or_default();
        census
    }

    /// How long nothing has confirmed a record: it came, its owner was heard over our link, or somebody's table was
    /// found to hold the same.
    fn record_age(&self, now: Time, name: &NodeName, entry: &Entry) -> Duration {
        let heard = self.nodes.get(name).and_then(|e| e.heard);
        let confirmed = entry.received.max(self.gossip.agreed.of(name));
        now.since(heard.map_or(confirmed, |heard| heard.max(confirmed)))
    }

    fn member_state(&self, name: &NodeName) -> (&'static str, Time) {
        if *name == self.config.name {
            return ("alive", self.started);
        }
        let Some(e) = self.nodes.get(name) else { return ("unheard", self.started) };
        let state = match (e.swim, e.link) {
            (Swim::Alive, _) | (Swim::Unheard, LinkState::Up) => "alive",
            (Swim::Suspect, _) => "suspect",
            (Swim::Unsteady, _) => "unsteady",
            (Swim::Down, _) => "down",
            (Swim::Unheard, _) => "unheard",
        };
        (state, e.swim_since)
    }

    fn member_view(&self, name: &NodeName, entry: &Entry, now: Time) -> MemberView {
        let (state, since) = self.member_state(name);
        let advert = &entry.advert;
        MemberView {
            node: name.clone(),
            state: if advert.left { "left" } else { state }.to_owned(),
            since: self.config.clock.wall(since),
            generation: advert.version.generation.0,
            address: advert.address.to_string(),
            link: String::new(),
            zone: advert.zone.clone(),
            policy_version: advert.policy_version,
            record_age_s: self.record_age(now, name, entry).as_secs_f64(),
            endpoints: self.endpoint_views(entry),
        }
    }

    /// A member whose record has not arrived yet.
    fn bare_member(&self, name: &NodeName, _now: Time) -> MemberView {
        let (state, since) = self.member_state(name);
        MemberView {
            node: name.clone(),
            state: state.to_owned(),
            since: self.config.clock.wall(since),
            generation: 0,
            address: self.member.address(name).map(|a| a.to_string()).unwrap_or_default(),
            link: String::new(),
            zone: String::new(),
            policy_version: 0,
            record_age_s: 0.0,
            endpoints: Vec::new(),
        }
    }

    fn endpoint_views(&self, entry: &Entry) -> Vec<EndpointView> {
        let advert = &entry.advert;
        let views = advert.endpoints.iter().filter_map(|e| {
            let id = advert.endpoint_id(e);
            let state = self.services.get(&e.service)?;
            let candidate = state.route.candidates.iter().find(|c| c.id == id)?;
            Some(self.endpoint_view(e, candidate, state.since.get(&id).map(|(_, t)| *t)))
        });
        views.collect()
    }

    fn endpoint_view(
        &self,
        e: &EndpointAdvert,
        candidate: &Candidate,
        since: Option<Time>,
    ) -> EndpointView {
        EndpointView {
            endpoint: candidate.id.to_string(),
            service: e.service.clone(),
            node: candidate.id.node.clone(),
            role: e.role.word().to_owned(),
            condition: e.condition.word().to_owned(),
            condition_since: e.since,
            standing: candidate.standing.word().to_owned(),
            reason: reason(candidate),
            standing_since: self.config.clock.wall(since.unwrap_or(self.started)),
            activated_for: e.activated_for.as_ref().map(ToString::to_string),
            weight: candidate.weight,
            term: candidate.term,
            activations: self.activations.get(&candidate.id).and_then(Activations::view),
        }
    }

    /// `GET /v1/routes`
    pub fn routes_view(&self) -> Vec<RouteView> {
        self.services.values().map(|s| route_view(&s.route)).collect()
    }

    /// `GET /v1/explain/{service}`; `None` if nobody offers or calls the service.
    pub fn explain_view(&self, service: &ServiceName, now: Time) -> Option<ExplainView> {
        let state = self.services.get(service)?;
        let endpoints: Vec<EndpointView> = self
            .table
            .iter()
            .flat_map(|(_, e)| self.endpoint_views(e))
            .filter(|v| v.service == *service)
            .collect();
        let incidents: Vec<IncidentView> = self
            .incidents
            .iter()
            .rev()
            .filter(|r| r.key.lost.service == *service)
            .take(EXPLAIN_INCIDENTS)
            .map(|r| self.incident_view(r))
            .collect();
        let route = route_view(&state.route);
        let wall = self.config.clock.wall(now);
        let sentences =
            sentences::of(&state.route, &endpoints, &incidents, self.policy_version, wall);
        let seat = self.seat_status(service, now);
        let sentences = sentences.into_iter().chain(seat.as_ref().map(sentences::seat)).collect();
        Some(ExplainView {
            service: service.clone(),
            node: self.config.name.clone(),
            policy_version: self.policy_version,
            route,
            endpoints,
            sentences,
            incidents,
        })
    }

    /// The record of one incident, under its short or its trace id.
    pub fn incident_by(&self, id: &str) -> Option<IncidentView> {
        let is =
            |r: &&Record| r.key.to_string() == id || format!("{:032x}", r.key.trace_id()) == id;
        self.incidents.iter().rev().find(is).map(|r| self.incident_view(r))
    }

    /// Members taken for alive, without this node.
    pub fn alive_members(&self) -> Vec<NodeName> {
        self.nodes.iter().filter(|(_, e)| e.lives()).map(|(name, _)| name.clone()).collect()
    }

    /// `GET /v1/incidents`, newest first.
    pub fn incidents_view(&self) -> Vec<IncidentView> {
        self.incidents.iter().rev().map(|r| self.incident_view(r)).collect()
    }

    fn incident_view(&self, r: &Record) -> IncidentView {
        let wall = |t: Time| self.config.clock.wall(t);
        IncidentView {
            id: r.key.to_string(),
            trace_id: format!("{:032x}", r.key.trace_id()),
            service: r.key.lost.service.clone(),
            lost: r.key.lost.to_string(),
            reason: r.why.to_string(),
            opened: wall(r.opened),
            stable: r.stable.map(wall),
            recovered: r.recovered.map(wall),
            activated: r.activated.as_ref().map(ToString::to_string),
            policy_version: r.policy_version,
            drill: r.drill.map(|id| id.to_string()),
            inputs: r
                .inputs
                .iter()
                .map(|(name, value)| IncidentInput { name: name.to_string(), value: value.clone() })
                .collect(),
            spans: r
                .spans(&self.config.name, self.config.clock, r.closed())
                .into_iter()
                .map(|s| SpanView { name: s.name.to_owned(), starts: s.start, ends: s.end })
                .collect(),
            timeline: r
                .timeline
                .iter()
                .map(|(at, event, detail)| IncidentEntry {
                    at: wall(*at),
                    event: event.to_string(),
                    detail: detail.clone(),
                })
                .collect(),
        }
    }
}

/// Why an endpoint is not ready, or not in full.
fn reason(candidate: &Candidate) -> String {
    match (candidate.standing.why(), candidate.share) {
        (Some(why), _) => match &candidate.via {
            Some(via) => format!("{why}; it answers through {via}"),
            None => why.to_string(),
        },
        (None, Share::Trial) => {
            format!("on trial: one request in {TRIAL_ONE_IN} is to tell how well it answers")
        }
        (None, Share::Spare { .. }) => {
            "kept in reserve: it was lost too often of late, and others serve steadily".to_owned()
        }
        (None, Share::Full) => match &candidate.via {
            Some(via) => {
                format!("still relayed through {via}, until our own path has held for a while")
            }
            None => String::new(),
        },
    }
}

fn route_view(route: &Route) -> RouteView {
    RouteView {
        service: route.service.clone(),
        decision: route.choice.word().to_owned(),
        reason: route.reason.clone(),
        picks: route.choice.indices().iter().map(|i| route.candidates[*i].id.to_string()).collect(),
        needed: route.tally.needed,
        serving: route.tally.serving,
        called: route.tally.called.iter().map(ToString::to_string).collect(),
        short: route.tally.short,
        surplus: route.tally.surplus,
        damped: route.tally.damped,
    }
}
