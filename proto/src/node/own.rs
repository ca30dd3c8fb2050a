//! A node's own endpoints: driven through their lives, put into the advert, reported when activated.

use std::sync::Arc;
use std::time::Duration;

use crate::activation::Activations;
use crate::advert::traits::{self, Traits};
use crate::advert::{Advert, Condition, EndpointAdvert, Role, SignedAdvert, extension};
use crate::evidence::{Standing, Why};
use crate::ids::{EndpointId, Identity, NodeName, ServiceName, Version};
use crate::lifecycle::{Action, Event as Life, Lifecycle};
use crate::policy::Mode;
use crate::record::Span;
use crate::route::Choice;
use crate::time::Time;
use crate::view::FailbackView;
use crate::wire::{Failback, Message, Wake};

use super::pace::is_move;
use super::{EndpointConfig, Event, Forced, Node, Own, UnderWay};

/// Least time between two adverts of ours: a flapping check must not flood the mesh. The first
/// change after a quiet while goes out at once.
const PUBLISH_GAP: Duration = Duration::from_millis(20);
/// Least time between an advert and one that only renews it: all who lost us say so at once.
const RENEW_GAP: Duration = Duration::from_millis(250);
/// How long an urgent wake holds without being renewed. The caller renews it every half second while it
/// has nobody else.
pub(super) const FORCE: Duration = Duration::from_secs(3);
/// An urgent wake that our own view contradicts is believed once it is repeated so much later: a caller
/// that was cut off itself still has its old wakes delivered when it returns, and a moment later it
/// needs nobody. Callers repeat every half second.
const INSIST: Duration = Duration::from_millis(400);
/// Parents kept for activations that have not begun; the oldest goes first.
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
                Some(own) => {
                    own.config = config.clone();
                    own.life.set_activation(config.activation);
                }
                None => {
                    let terms = self.terms(&config.id.service);
                    let mut life = Lifecycle::new(config.role, config.activation, now);
                    if self.draining {
                        life.handle(&Life::Drain, &terms, now);
                    }
                    let own = Own { config: config.clone(), life, under_way: None };
                    self.own.insert(config.id.clone(), own);
                }
            }
        }
        self.config.endpoints = endpoints;
        self.stale_advert = true;
    }

    /// Gives one of our endpoints an event and does what follows.
    pub(super) fn drive(&mut self, now: Time, id: &EndpointId, event: &Life) {
        let terms = self.terms(&id.service);
        let Some(own) = self.own.get_mut(id) else { return };
        let before = own.life.condition();
        let action = own.life.handle(event, &terms, now);
        let after = own.life.condition();
        let shown = (self.gated(id, before), self.gated(id, after));
        let Some(own) = self.own.get_mut(id) else { return };
        let incident = own.life.activated_for().cloned();
        let warm = own.config.role != Role::Hot;
        if before != Condition::Activating && after == Condition::Activating {
            let of = |key| self.parents.iter().find(|(of, _)| of == key).map(|(_, span)| *span);
            let parent = incident.as_ref().and_then(of);
            let incident = incident.clone();
            own.under_way = Some(UnderWay { order: 0, began: now, incident, parent, error: None });
        }
        if let (Some(Action::Activate { .. }), Some(under_way)) = (action, &mut own.under_way) {
            self.orders += 1;
            under_way.order = self.orders;
        }
        let order = own.under_way.as_ref().map(|under_way| under_way.order).unwrap_or_default();
        let endpoint = id.clone();
        self.events.extend(action.map(|action| match action {
            Action::Activate { attempt, within } => {
                Event::Activate { endpoint, order, incident, attempt, within }
            }
            Action::WarmUp { within } => Event::WarmUp { endpoint, order, within },
            Action::Deactivate(stop) => Event::Deactivate { endpoint, stop },
            Action::Check => Event::Check { endpoint },
        }));
        if before == after {
            return;
        }
        if warm && is_move(before, after) {
            self.pace.budget.take(self.policy.moves, now);
        }
        self.stale_advert = true;
        self.stale_services.insert(id.service.clone());
        let activation = if before == Condition::Activating {
            self.end_activation(now, id, after)
        } else {
            None
        };
        self.events.push_back(Event::Condition {
            endpoint: id.clone(),
            from: shown.0.word(),
            to: shown.1.word(),
            activation,
        });
    }

    /// An activation came to its end: it is measured and reported. Returns how long it took, if it serves.
    fn end_activation(&mut self, now: Time, id: &EndpointId, after: Condition) -> Option<Duration> {
        let under_way = self.own.get(id).and_then(|own| own.under_way.as_ref())?;
        let (took, error) = (now.since(under_way.began), under_way.error.clone());
        let activations = self.activations.entry(id.clone()).or_default();
        match after {
            Condition::Serving => {
                activations.succeeded(took);
                self.report_activation(now, id, None);
            }
            // Taken back meanwhile: that says nothing of how well it can be activated.
            Condition::Draining | Condition::Standby => {
                let why = match after {
                    Condition::Draining => "drained before it served",
                    _ => "the lease was lost before it served",
                };
                self.report_activation(now, id, Some(why.to_owned()));
                return None;
            }
            _ => {
                activations.gave_up();
                let why = error.unwrap_or_else(|| "not ready before the deadline".to_owned());
                self.report_activation(now, id, Some(why));
            }
        }
        self.events.push_back(Event::SaveActivations);
        (after == Condition::Serving).then_some(took)
    }

    /// The `activate` span, under the trace of the loss it was for.
    pub(super) fn report_activation(&mut self, now: Time, id: &EndpointId, error: Option<String>) {
        let Some(own) = self.own.get_mut(id) else { return };
        let Some(UnderWay { began, incident, parent, .. }) = own.under_way.take() else { return };
        let Some(incident) = incident else { return };
        let parent = parent.unwrap_or_else(|| {
            // Nobody woke us: our own view of the loss is the trace's root here.
            if let Some(record) = self.incidents.iter_mut().find(|r| r.key == incident) {
                record.reports = true;
            }
            incident.span_id("failover", &self.config.name)
        });
        let clock = self.config.clock;
        let mut events =
            vec![(clock.wall(began), "called".into(), format!("{id} for {}", incident.lost))];
        if error.is_none() {
            events.push((clock.wall(now), "promote".into(), format!("{id} serves")));
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
        if !self.parents.iter().any(|(of, _)| *of == wake.incident) {
            self.parents.push_back((wake.incident.clone(), wake.parent_span));
            if self.parents.len() > MAX_PARENTS {
                self.parents.pop_front();
            }
        }
        self.stale_services.insert(wake.endpoint.service.clone());
        if wake.urgent {
            let held = self.forced.get(&wake.endpoint);
            let since = held.map_or(now, |f| f.since);
            let believed = held.is_some_and(|f| f.believed)
                || now >= since + INSIST
                || !self.is_behind(now) && self.doubts(&wake.endpoint.service);
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
        let isolated = self.is_isolated(now);
        let somebody = matches!(state.route.choice, Choice::Serve(_) | Choice::Relay(_));
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
                self.drive(now, &id, &Life::Unsure);
                continue;
            }
            if !called.contains(&id) && forced.is_none() {
                self.drive(now, &id, &Life::NotCalled);
                continue;
            }
            // Where others serve meanwhile, too much may have moved of late.
            let budget = somebody.then(|| self.pace.budget.room(self.policy.moves));
            let room = budget.unwrap_or_default().max(self.caught_up);
            if forced.is_none() && now < room && self.stands_by(&id) {
                self.recheck_at(service, room);
                continue;
            }
            let incident = forced.or_else(|| self.assignment(service, &id, now));
            self.drive(now, &id, &Life::Called(incident));
        }
    }

    pub(super) fn stands_by(&self, id: &EndpointId) -> bool {
        self.own.get(id).is_some_and(|own| own.life.condition() == Condition::Standby)
    }

    /// Has activated endpoints of a service stand down that are not needed as far as we see: ours at once,
    /// others by a word to their owners, who judge by their own view.
    pub(super) fn order_failback(&mut self, now: Time, service: &ServiceName) -> FailbackView {
        let mut view = FailbackView {
            service: service.clone(),
            told: Vec::new(),
            needed: Vec::new(),
            refused: None,
        };
        if self.policy.service(service).mode == Mode::Exclusive {
            view.refused = Some(format!(
                "{service} is exclusive: who holds its lease serves, and a drain hands it on \
                 (`hearth drain` on the holder's node, then `hearth drain --off`)"
            ));
            return view;
        }
        let Some(route) = self.services.get(service).map(|s| s.route.clone()) else { return view };
        let up = route.candidates.iter().filter(|c| {
            let reachable = !matches!(c.standing.why(), Some(Why::Left | Why::Revoked));
            c.role != Role::Hot && c.condition == Condition::Serving && reachable
        });
        for c in up {
            if route.tally.called.contains(&c.id) {
                view.needed.push(c.id.to_string());
                continue;
            }
            view.told.push(c.id.to_string());
            if c.id.node == self.config.name {
                self.drive(now, &c.id, &Life::Release);
            } else {
                self.send(&c.id.node, Message::Failback(Failback { endpoint: c.id.clone() }));
            }
        }
        view
    }

    /// An operator's word by way of another agent. It cannot hurt: who is needed by our own view stays.
    pub(super) fn take_failback(&mut self, now: Time, from: &NodeName, word: &Failback) {
        if self.own.contains_key(&word.endpoint) {
            self.drive(now, &word.endpoint, &Life::Release);
        } else {
            let detail = format!("failback of {} by {from}: no endpoint of ours", word.endpoint);
            self.refuse("failback", "not_ours", Identity::Node(from.clone()), detail);
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
        self.table.insert(signed.clone(), Arc::new(advert), now);
        self.touch_node(&self.config.name.clone());
        let me = self.config.name.clone();
        self.pass_on(now, &me, &signed);
        // Callers that hold requests for us hear it first hand.
        let waiting: std::collections::BTreeSet<NodeName> =
            self.forced.values().map(|f| f.by.clone()).filter(|by| *by != me).collect();
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
            extension: self.extension(),
        }
    }

    /// What is said of our endpoints besides, in their order.
    fn extension(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        extension::add_weights(&mut bytes, self.own.values().map(|own| own.config.weight));
        for (place, (id, own)) in (0..=u8::MAX).zip(&self.own) {
            let deadline = own.config.activation.deadline.as_millis();
            let said = Traits {
                check: own.config.check,
                hook: own.config.hook,
                deadline_ms: u32::try_from(deadline).unwrap_or(u32::MAX),
                activations: self.activations.get(id).map(Activations::times).unwrap_or_default(),
            };
            traits::append(&mut bytes, place, &said);
        }
        self.add_leases(&mut bytes);
        bytes
    }
}
