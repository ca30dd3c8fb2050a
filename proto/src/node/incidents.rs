//! Incidents on a node: opened with a loss, followed while the service moves, closed when it is steady.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::advert::Condition;
use crate::drill::DrillId;
use crate::evidence::{LinkState, Standing, Why};
use crate::ids::{EndpointId, ServiceName};
use crate::incident::IncidentKey;
use crate::record::{GIVE_UP, Record, STEADY};
use crate::route::{Choice, Route};
use crate::time::Time;
use crate::wire::{Hint, Message};

use super::{Event, MAX_INCIDENTS, Node};

/// A host that answers again says within so long how its endpoints are.
const A_WORD: Duration = Duration::from_secs(2);

impl Node {
    pub(super) fn open_incident(&mut self, now: Time, key: IncidentKey, why: Why, route: &Route) {
        match self.incidents.iter().position(|r| r.key == key) {
            Some(known) if self.incidents[known].is_open() => return,
            _ if self.goes_on(&key.lost, &why, now) => return,
            // Lost again before its owner could renew its advert: one name, the later loss is kept.
            Some(known) => drop(self.incidents.remove(known)),
            None => {}
        }
        let last_good = match &why {
            Why::Silent { since } => *since,
            _ => now,
        };
        // A loss made on purpose says nothing of how often any befalls the service.
        let befell = !matches!(why, Why::Drill { .. });
        if befell && let Some(state) = self.services.get_mut(&key.lost.service) {
            // What a link tells of has a beginning; of what others say, or a check, only the end is known.
            state.history.lost((last_good < now).then(|| now.since(last_good)));
        }
        let mut record = Record::open(key.clone(), why, last_good, now);
        record.policy_version = self.policy_version;
        record.decision = format!(
            "{} ({}); {} of {} needed serve, called: {}",
            route.choice.word(),
            route.reason,
            route.tally.serving,
            route.tally.needed,
            words(&route.tally.called),
        );
        record.inputs = self.inputs(&key, route, now);
        record.reports = self.config.interest.contains(&key.lost.service);
        record.note(now, "decide", record.decision.clone());
        self.events.push_back(Event::IncidentOpened {
            key,
            reason: record.why.word(),
            decision: record.decision.clone(),
        });
        if self.incidents.len() >= MAX_INCIDENTS {
            let oldest = self.incidents.iter().position(|r| !r.is_open()).unwrap_or(0);
            self.incidents.remove(oldest);
        }
        self.incidents.push_back(record);
    }

    /// The service is looked at again when an open incident may have become stable.
    pub(super) fn schedule_incidents(&mut self, now: Time, service: &ServiceName) {
        let open = self.incidents.iter().filter(|r| r.key.lost.service == *service && r.is_open());
        let next = open
            .map(|r| if r.moved + STEADY > now { r.moved + STEADY } else { r.opened + GIVE_UP })
            .min();
        if let (Some(next), Some(state)) = (next, self.services.get_mut(service)) {
            state.recheck = Some(state.recheck.map_or(next, |r| r.min(next)));
        }
    }

    /// Whether an earlier loss goes on: its host answered again a moment ago, and its owner says that the endpoint
    /// is not ready. As a host that was started again does.
    fn goes_on(&mut self, lost: &EndpointId, why: &Why, now: Time) -> bool {
        if !matches!(why, Why::Condition(_)) {
            return false;
        }
        let earlier = self.incidents.iter_mut().rev().find(|r| r.key.lost == *lost);
        let Some(record) = earlier.filter(|r| r.recovered.is_some_and(|t| now < t + A_WORD)) else {
            return false;
        };
        let took = record.recovered.take().map_or(Duration::ZERO, |t| t.since(record.opened));
        record.note(now, "still-lost", format!("it answers again, but {why}"));
        if record.drill.is_none()
            && let Some(state) = self.services.get_mut(&lost.service)
        {
            state.history.not_mended(took);
        }
        true
    }

    /// Brings the service's incidents up to date with its new route.
    pub(super) fn follow_incidents(
        &mut self,
        now: Time,
        service: &ServiceName,
        route: &Route,
        moved: bool,
    ) {
        let mut closed = Vec::new();
        let mut found = Vec::new();
        let (mut replaced, mut mended) = (Vec::new(), Vec::new());
        let activated = self.activations(service, now);
        let drilling: Vec<DrillId> =
            self.drills.iter().filter(|h| h.over.is_none()).map(|h| h.plan.id).collect();
        for record in self.incidents.iter_mut().filter(|r| r.key.lost.service == *service) {
            let lost = route.candidates.iter().find(|c| c.id == record.key.lost);
            let ready = lost.is_some_and(|c| c.standing == Standing::Ready);
            if ready && record.recovered.is_none() {
                record.recovered = Some(now);
                if record.drill.is_none() {
                    mended.push(now.since(record.opened));
                }
                record.note(now, "recovered", format!("{} is ready again", record.key.lost));
                found.push(record.key.clone());
            }
            let drill_over = record.drill.is_some_and(|id| !drilling.contains(&id));
            let told = || record.timeline.iter().any(|(_, event, _)| event == "still-lost");
            if drill_over && !ready && record.recovered.is_none() && !told() {
                let why = lost.and_then(|c| c.standing.why()).map(ToString::to_string);
                let detail = why.unwrap_or_else(|| "it is not offered any more".to_owned());
                record.note(now, "still-lost", format!("the drill is over, but {detail}"));
            }
            if let Some((warm, condition)) = activated.get(&record.key)
                && record.activated.as_ref() != Some(warm)
                && record.recovered.is_none()
            {
                record.activated = Some(warm.clone());
                record.note(now, "call-up", format!("{warm} is {}", condition.word()));
            }
            if let Some((warm, Condition::Serving)) = activated.get(&record.key)
                && record.activated.as_ref() == Some(warm)
                && record.served.is_none()
            {
                record.served = Some(now);
                if record.recovered.is_none() {
                    replaced.push(now.since(record.opened));
                }
                record.note(now, "serves", format!("{warm} serves"));
            }
            if !record.is_open() {
                continue;
            }
            if moved {
                record.moved = now;
            }
            let settled = settled(route) && now >= record.moved + STEADY;
            if settled {
                record.stable = Some(now);
                let detail = format!("{}: {}", route.choice.word(), route.reason);
                record.note(now, "stable", detail);
            } else if now >= record.opened + GIVE_UP {
                record.gave_up = true;
                record.note(now, "gave-up", format!("not stable: {}", route.reason));
            } else {
                continue;
            }
            closed.push(record.clone());
        }
        if let Some(state) = self.services.get_mut(service) {
            replaced.into_iter().for_each(|took| state.history.replaced(took));
            mended.into_iter().for_each(|took| state.history.mended(took));
        }
        for key in found {
            let generation = key.version.generation;
            let hint = Hint { node: key.lost.node.clone(), generation };
            self.send(&key.lost.node, Message::Hint(hint));
            self.events.push_back(Event::IncidentChanged { key });
        }
        for record in closed {
            self.events.push_back(Event::IncidentClosed {
                key: record.key.clone(),
                after: now.since(record.opened),
                stable: record.stable.is_some(),
            });
            if record.reports {
                let spans = record.spans(&self.config.name, self.config.clock, now);
                self.events.push_back(Event::Spans(spans));
            }
        }
    }

    /// What the decision on a loss rests on, as numbers and words.
    fn inputs(
        &self,
        key: &IncidentKey,
        route: &Route,
        now: Time,
    ) -> Vec<(Cow<'static, str>, String)> {
        let mut inputs: Vec<(Cow<'static, str>, String)> = Vec::new();
        let mut put = |name: &'static str, value: String| inputs.push((name.into(), value));
        let node = self.node_evidence(&key.lost.node, now);
        put("membership says", format!("{:?}", node.swim).to_lowercase());
        put("our link", format!("{:?}", node.link).to_lowercase());
        if node.link == LinkState::Silent {
            let ms = |d: std::time::Duration| format!("{:.1} ms", d.as_secs_f64() * 1e3);
            put("silent for", ms(now.since(node.link_since)));
            put("confirmed after", ms(node.confirmed.since(node.link_since)));
        }
        if let Some(heard) = node.heard {
            put("last heard", format!("{:.1} ms before", now.since(heard).as_secs_f64() * 1e3));
        }
        let tally = &route.tally;
        put("declared hot", tally.declared.to_string());
        put("needed", tally.needed.to_string());
        put("hot serving", tally.hot.to_string());
        put("called", words(&tally.called));
        put("missing on the bench", tally.short.to_string());
        let policy = &route.policy;
        put("mode", format!("{:?}", policy.mode).to_lowercase());
        put("panic threshold", policy.panic.to_string());
        put("policy version", self.policy_version.to_string());
        inputs
    }

    /// Which warm endpoint is up for which loss. One whose node is lost is up for nothing.
    fn activations(
        &self,
        service: &ServiceName,
        now: Time,
    ) -> BTreeMap<IncidentKey, (EndpointId, Condition)> {
        let mut found = BTreeMap::new();
        for (name, entry) in self.table.offering(service) {
            if self.is_lost(name, now).unwrap_or(false) {
                continue;
            }
            for e in entry.advert.endpoints.iter().filter(|e| e.service == *service) {
                if let Some(key) = &e.activated_for {
                    found.insert(key.clone(), (entry.advert.endpoint_id(e), e.condition));
                }
            }
        }
        found
    }

    /// For which loss `endpoint` is called: losses without an activation, in order, are dealt out to the
    /// called endpoints that are not up yet, in order. Everyone with the same table deals alike.
    pub(super) fn assignment(
        &self,
        service: &ServiceName,
        endpoint: &EndpointId,
        now: Time,
    ) -> Option<IncidentKey> {
        let state = self.services.get(service)?;
        let activated = self.activations(service, now);
        let up = |id: &EndpointId| activated.values().any(|(warm, _)| warm == id);
        if let Some((key, _)) = activated.iter().find(|(_, (warm, _))| warm == endpoint) {
            return Some(key.clone());
        }
        let mut losses: Vec<&IncidentKey> = self
            .incidents
            .iter()
            .filter(|r| r.key.lost.service == *service && r.recovered.is_none())
            .map(|r| &r.key)
            .filter(|key| !activated.contains_key(key))
            .collect();
        losses.sort();
        let waiting = state.route.tally.called.iter().filter(|id| !up(id));
        let nth = waiting.take_while(|id| *id != endpoint).count();
        losses.get(nth).or(losses.first()).map(|key| (*key).clone())
    }
}

/// Nothing is left to be done: the numbers are met, or everything that could be called serves.
fn settled(route: &Route) -> bool {
    let called_serve = route.tally.called.iter().all(|id| {
        route.candidates.iter().any(|c| c.id == *id && c.condition == Condition::Serving)
    });
    matches!(route.choice, Choice::Serve(_) | Choice::Relay(_)) && called_serve
}

fn words(ids: &[EndpointId]) -> String {
    match ids {
        [] => "nobody".to_owned(),
        _ => ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}
