//! A node's own endpoints: driven through their lives, put into the advert, reported when activated.

use std::sync::Arc;
use std::time::Duration;

use crate::advert::{Advert, Condition, EndpointAdvert, Role, SignedAdvert};
use crate::evidence::Standing;
use crate::ids::{EndpointId, Identity, NodeName, ServiceName, Version};
use crate::lifecycle::{Action, Event as Life, Lifecycle};
use crate::member::Rumour;
use crate::record::Span;
use crate::time::Time;
use crate::wire::{Message, Wake};

use super::{Activation, EndpointConfig, Event, Forced, Node, Own};

/// Least time between two adverts of ours: a flapping check must not flood the mesh. The first
/// change after a quiet while goes out at once.
const PUBLISH_GAP: Duration = Duration::from_millis(20);
/// Least time between an advert and one that only renews it: all who lost us say so at once.
const RENEW_GAP: Duration = Duration::from_millis(250);
/// How long an urgent wake holds without being renewed. The caller renews it every half second while it
/// has nobody else.
const FORCE: Duration = Duration::from_secs(3);
/// An urgent wake that our own view contradicts is believed once it is repeated so much later: a caller
/// that was cut off itself still has its old wakes delivered when it returns, and a moment later it
/// needs nobody. Callers repeat every half second.
const INSIST: Duration = Duration::from_millis(400);
/// Parents kept for activations that have not begun.
const MAX_PARENTS: usize = 256;

impl Node {
    /// Our present version.
    pub(super) fn version(&self) -> Version {
        Version { generation: self.config.generation, revision: self.revision }
    }

    /// Replaces the set of own endpoints; those that stay keep their life.
    pub(super) fn set_endpoints(&mut self, endpoints: Vec<EndpointConfig>, now: Time) {
        let services = self.own.keys().map(|id| id.service.clone());
        self.stale_services.extend(services);
        self.own
            .retain(|id, own| endpoints.iter().any(|e| e.id == *id && e.role == own.config.role));
        for config in &endpoints {
            self.stale_services.insert(config.id.service.clone());
            match self.own.get_mut(&config.id) {
                Some(own) => own.config = config.clone(),
                None => {
                    let mut life = Lifecycle::new(config.role, config.activation_deadline, now);
                    if self.draining {
                        life.handle(&Life::Drain, crate::policy::Failback::Never, now);
                    }
                    let own = Own { config: config.clone(), life, activation: None };
                    self.own.insert(config.id.clone(), own);
                }
            }
        }
        self.config.endpoints = endpoints;
        self.stale_advert = true;
    }

    /// Gives one of our endpoints an event and does what follows.
    pub(super) fn drive(&mut self, now: Time, id: &EndpointId, event: &Life) {
        let failback = self.policy.service(&id.service).failback;
        let Some(own) = self.own.get_mut(id) else { return };
        let before = own.life.condition();
        let action = own.life.handle(event, failback, now);
        let after = own.life.condition();
        let shown = (self.gated(id, before), self.gated(id, after));
        let Some(own) = self.own.get_mut(id) else { return };
        let incident = own.life.activated_for().cloned();
        if before != Condition::Activating && after == Condition::Activating {
            let parent = incident.as_ref().and_then(|key| self.parents.get(key)).copied();
            own.activation = Some(Activation { began: now, incident: incident.clone(), parent });
        }
        match action {
            Some(Action::Activate) => {
                self.events.push_back(Event::Activate { endpoint: id.clone(), incident });
            }
            Some(Action::Deactivate) => {
                self.events.push_back(Event::Deactivate { endpoint: id.clone() });
            }
            Some(Action::Check) => self.events.push_back(Event::Check { endpoint: id.clone() }),
            None => {}
        }
        if before == after {
            return;
        }
        self.stale_advert = true;
        self.stale_services.insert(id.service.clone());
        let activated = before == Condition::Activating && after == Condition::Serving;
        let began = self.own.get(id).and_then(|own| own.activation.as_ref()).map(|a| a.began);
        let activation = began.filter(|_| activated).map(|began| now.since(began));
        self.events.push_back(Event::Condition {
            endpoint: id.clone(),
            from: shown.0.word(),
            to: shown.1.word(),
            activation,
        });
        if activated {
            self.report_activation(now, id, None);
        } else if before == Condition::Activating && matches!(event, Life::Tick) {
            self.report_activation(now, id, Some("not ready before the deadline".to_owned()));
        }
    }

    /// The `activate` span, under the trace of the loss it was for.
    pub(super) fn report_activation(&mut self, now: Time, id: &EndpointId, error: Option<String>) {
        let Some(own) = self.own.get_mut(id) else { return };
        let Some(Activation { began, incident, parent }) = own.activation.take() else { return };
        let Some(incident) = incident else { return };
        let parent = parent.unwrap_or_else(|| {
            // Nobody woke us: our own view of the loss is the trace's root here.
            if let Some(record) = self.incidents.iter_mut().find(|r| r.key == incident) {
                record.reports = true;
            }
            incident.span_id("failover", &self.config.name)
        });
        let clock = self.config.clock;
        let mut events = vec![(clock.wall(began), "called", format!("{id} for {}", incident.lost))];
        if error.is_none() {
            events.push((clock.wall(now), "promote", format!("{id} serves")));
        }
        let span = Span {
            trace_id: incident.trace_id(),
            span_id: incident.span_id(&format!("activate {id}"), &self.config.name),
            parent: Some(parent),
            name: "activate",
            start: clock.wall(began),
            end: clock.wall(now),
            attributes: vec![
                ("hearth.service", id.service.to_string()),
                ("hearth.incident", incident.to_string()),
                ("hearth.lost", incident.lost.to_string()),
                ("hearth.activated", id.to_string()),
                ("hearth.node", self.config.name.to_string()),
            ],
            events,
            error,
        };
        self.events.push_back(Event::Spans(vec![span]));
    }

    /// A caller's word that an endpoint of ours shall serve. Urgent: it has nobody left, so it is
    /// believed for a while. Otherwise it is worth a look at the node it says is lost.
    pub(super) fn take_wake(&mut self, now: Time, from: &NodeName, wake: Wake) {
        let ours = self.own.contains_key(&wake.endpoint);
        let allowed = self.policy.service(&wake.endpoint.service).allows(from);
        if !ours || !allowed {
            let detail = format!(
                "wake of {} by {from}: {}",
                wake.endpoint,
                if ours { "the policy does not let it call" } else { "no endpoint of ours" }
            );
            self.refuse("wake", "not_allowed", Identity::Node(from.clone()), detail);
            return;
        }
        if self.parents.len() < MAX_PARENTS {
            self.parents.entry(wake.incident.clone()).or_insert(wake.parent_span);
        }
        self.stale_services.insert(wake.endpoint.service.clone());
        if wake.urgent {
            let held = self.forced.get(&wake.endpoint);
            let since = held.map_or(now, |f| f.since);
            let believed = held.is_some_and(|f| f.believed)
                || now >= since + INSIST
                || self.doubts(&wake.endpoint.service);
            let (incident, until, by) = (wake.incident, now + FORCE, from.clone());
            self.look(&incident.lost.node);
            self.forced.insert(wake.endpoint, Forced { incident, since, until, by, believed });
        } else {
            self.look(&wake.incident.lost.node);
        }
    }

    /// Whether our own view finds fault with any hot endpoint of a service.
    fn doubts(&self, service: &ServiceName) -> bool {
        self.services.get(service).is_none_or(|s| {
            let hot = s.route.candidates.iter().filter(|c| c.role == Role::Hot);
            s.route.tally.hot < s.route.tally.needed
                || hot.into_iter().any(|c| c.standing != Standing::Ready)
        })
    }

    pub(super) fn tick_own(&mut self, now: Time) {
        for id in self.own.keys().cloned().collect::<Vec<_>>() {
            self.drive(now, &id, &Life::Tick);
        }
        let over: Vec<EndpointId> =
            self.forced.iter().filter(|(_, f)| f.until <= now).map(|(id, _)| id.clone()).collect();
        for id in over {
            self.forced.remove(&id);
            self.stale_services.insert(id.service);
        }
    }

    /// Tells our own endpoints of `service` whether they are called: by the numbers, or by a caller that
    /// has nobody left.
    pub(super) fn call_up(&mut self, now: Time, service: &ServiceName) {
        if self.follow_lease(now, service) {
            return;
        }
        let Some(state) = self.services.get(service) else { return };
        let called = state.route.tally.called.clone();
        let isolated = self.is_isolated();
        let ours: Vec<EndpointId> = self
            .own
            .iter()
            .filter(|(id, own)| id.service == *service && own.config.role != Role::Hot)
            .map(|(id, _)| id.clone())
            .collect();
        for id in ours {
            let believed = self.forced.get(&id).filter(|f| f.believed);
            let forced = believed.map(|f| f.incident.clone());
            if forced.is_none() && isolated {
                // Cut off ourselves, we can neither judge the others nor serve anybody.
                continue;
            }
            if !called.contains(&id) && forced.is_none() {
                self.drive(now, &id, &Life::NotCalled);
                continue;
            }
            let incident = forced.or_else(|| self.assignment(service, &id, now));
            self.drive(now, &id, &Life::Called(incident));
        }
    }

    /// Somebody had lost us and has found us again: a new revision tells the next loss from this one, since
    /// an incident's name is the lost endpoint and its advert's version.
    pub(super) fn renew_advert(&mut self, now: Time) {
        if self.published.is_none_or(|t| now.since(t) >= RENEW_GAP) {
            self.stale_advert = true;
        }
    }

    /// When a changed advert may go out; `None` if there is none.
    pub(super) fn publish_due(&self) -> Option<Time> {
        self.stale_advert.then(|| self.published.map_or(Time(0), |t| t + PUBLISH_GAP))
    }

    /// Signs and spreads our advert, if it changed.
    pub(super) fn publish(&mut self, now: Time) {
        if self.publish_due().is_none_or(|due| due > now) {
            return;
        }
        self.stale_advert = false;
        self.revision += 1;
        let advert = self.advert();
        let signed = match SignedAdvert::sign(&advert, &*self.keyring) {
            Ok(signed) => signed,
            Err(e) => {
                let me = Identity::Node(self.config.name.clone());
                self.refuse("advert", e.reason(), me, e.to_string());
                return;
            }
        };
        self.published = Some(now);
        let version = signed.version;
        self.table.insert(signed.clone(), Arc::new(advert), now);
        self.touch_node(&self.config.name.clone());
        self.member.spread(&Rumour { node: self.config.name.clone(), version });
        let me = self.config.name.clone();
        self.push(&me, &signed);
        // Callers that hold requests for us hear it first hand.
        let waiting: std::collections::BTreeSet<NodeName> =
            self.forced.values().map(|f| f.by.clone()).collect();
        for caller in waiting {
            self.send(&caller, Message::Adverts(vec![signed.clone()]));
        }
        self.events.push_back(Event::SaveTable);
    }

    fn advert(&self) -> Advert {
        let endpoints = self.own.values().map(|own| EndpointAdvert {
            service: own.config.id.service.clone(),
            instance: own.config.id.instance,
            role: own.config.role,
            condition: self.gated(&own.config.id, own.life.condition()),
            protocol: own.config.protocol,
            since: self.config.clock.wall(own.life.since()),
            activated_for: own.life.activated_for().cloned(),
        });
        Advert {
            node: self.config.name.clone(),
            version: self.version(),
            address: self.config.address,
            zone: self.config.zone.clone(),
            region: self.config.region.clone(),
            endpoints: endpoints.collect(),
            policy_version: self.policy_version,
            left: self.left,
            extension: self.lease_adverts(),
        }
    }
}
