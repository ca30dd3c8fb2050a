//! Relays on a node: which peers it wants one to, which it asks, and whether it carries for another.
//!
//! A relay is asked for as soon as the silence of the only endpoints of a service we call is confirmed, and
//! counts from the moment the peer has answered through it. Whoever is really gone answers through nobody, so
//! that nothing here delays the warm ones.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::evidence::{LinkState, NodeEvidence, Standing, Swim, Why};
use crate::ids::NodeName;
use crate::policy::Relay;
use crate::relay::{
    self, ASK_AGAIN, Bystander, HEARD_LATELY, HOLD, LOOK_AGAIN, MAX_ASKED, Refusal,
};
use crate::time::Time;

use super::{Event, Node, RelayInput, RelayWish};

/// The way to one peer.
#[derive(Default, Clone, Debug, Serialize, Deserialize)]
struct Way {
    /// Who is asked to carry, and whether the peer answers there.
    asked: Option<(NodeName, bool)>,
    /// Who was asked in vain, and until when that counts.
    failed: BTreeMap<NodeName, Time>,
}

/// The ways to all peers that need or needed one.
#[derive(Default, Clone, Debug, Serialize, Deserialize)]
pub(super) struct Relays {
    ways: BTreeMap<NodeName, Way>,
    wished: Vec<RelayWish>,
    /// When they are to be looked at again.
    pub(super) recheck: Option<Time>,
}

impl Relays {
    /// The relay through which `node` answers, while our own path to it is bad or was until a moment ago.
    pub(super) fn via(
        &self,
        node: &NodeName,
        evidence: &NodeEvidence,
        now: Time,
    ) -> Option<&NodeName> {
        let (via, up) = self.ways.get(node)?.asked.as_ref()?;
        (*up && (is_bad(evidence) || is_fresh(evidence, now))).then_some(via)
    }

    /// The peers that `relay` is asked to carry to.
    pub(super) fn of<'a>(&'a self, relay: &'a NodeName) -> impl Iterator<Item = &'a NodeName> {
        let by = move |way: &Way| way.asked.as_ref().is_some_and(|(via, _)| via == relay);
        self.ways.iter().filter(move |(_, way)| by(way)).map(|(to, _)| to)
    }
}

/// Our own path is bad, and nobody says that the node is down.
fn is_bad(evidence: &NodeEvidence) -> bool {
    evidence.link == LinkState::Silent && evidence.swim != Swim::Down && !evidence.revoked
}

/// Our own path works again, but only just.
fn is_fresh(evidence: &NodeEvidence, now: Time) -> bool {
    evidence.link == LinkState::Up && now < evidence.link_since + HOLD && !evidence.revoked
}

impl Node {
    /// Whether the node is lost, as [`NodeEvidence::lost`] says: not if it answers through a relay.
    pub(super) fn is_lost(&self, node: &NodeName, now: Time) -> Result<bool, Time> {
        let evidence = self.node_evidence(node, now);
        match self.relays.via(node, &evidence, now) {
            Some(_) => Ok(false),
            None => evidence.lost(now),
        }
    }

    /// Whether this agent would carry bytes of `from` to `to`, and where that one is reached: by its own signed
    /// record, never by what the caller says.
    pub fn may_relay(
        &self,
        now: Time,
        from: &NodeName,
        to: &NodeName,
    ) -> Result<SocketAddr, Refusal> {
        if self.left {
            return Err(Refusal::Unwilling);
        }
        let others = to != from && *to != self.config.name;
        let record = self.table.get(to).filter(|e| others && !e.advert.left);
        let advert = &record.ok_or(Refusal::Unknown)?.advert;
        let evidence = self.node_evidence(to, now);
        if evidence.revoked {
            return Err(Refusal::Unknown);
        }
        if evidence.link == LinkState::Silent {
            return Err(Refusal::Silent);
        }
        if evidence.swim != Swim::Alive && evidence.link != LinkState::Up {
            return Err(Refusal::NotAlive);
        }
        let allowed = advert.endpoints.iter().any(|e| {
            let policy = self.policy.service(&e.service);
            policy.relay == Relay::LastResort && policy.allows(from)
        });
        if allowed { Ok(advert.address) } else { Err(Refusal::Policy) }
    }

    pub(super) fn take_relay(
        &mut self,
        now: Time,
        to: &NodeName,
        via: &NodeName,
        input: &RelayInput,
    ) {
        let Some(way) = self.relays.ways.get_mut(to) else { return };
        let Some((_, up)) = way.asked.as_mut().filter(|(asked, _)| asked == via) else { return };
        let (event, detail) = match input {
            RelayInput::Up => {
                *up = true;
                ("relay", format!("{to} answers through {via}: requests go there"))
            }
            RelayInput::Down(why) => {
                way.asked = None;
                way.failed.insert(via.clone(), now + ASK_AGAIN);
                ("relay", format!("{to} is not reached through {via}: {why}"))
            }
        };
        for record in self.incidents.iter_mut().filter(|r| r.is_open() && r.key.lost.node == *to) {
            record.note(now, event, detail.clone());
            if *input == RelayInput::Up {
                record.relayed = Some(via.clone());
                record.moved = now;
                record.shifted.get_or_insert(now);
            }
        }
        self.touch_node(to);
    }

    pub(super) fn tick_relays(&mut self, now: Time) {
        if self.relays.recheck.is_some_and(|at| at <= now) {
            self.relays.recheck = None;
            for node in self.relays.ways.keys().cloned().collect::<Vec<_>>() {
                self.touch_node(&node);
            }
        }
    }

    /// Which relays are to carry for us now. Called when routes have changed.
    pub(super) fn update_relays(&mut self, now: Time) {
        let wanted = self.want_relays(now);
        let mut ways = std::mem::take(&mut self.relays.ways);
        let mut recheck: Option<Time> = None;
        let mut look_at = |at: Time| recheck = Some(recheck.map_or(at, |r| r.min(at)));
        let (mut wishes, mut left) = (Vec::new(), Vec::new());
        for to in ways.keys().cloned().chain(wanted.iter().cloned()).collect::<BTreeSet<_>>() {
            let way = ways.entry(to.clone()).or_default();
            way.failed.retain(|_, until| *until > now);
            let carried = way.asked.clone().filter(|(_, up)| *up);
            if !wanted.contains(&to) {
                way.asked = None;
                way.failed.values().for_each(|until| look_at(*until));
                left.extend(carried.map(|_| to));
                continue;
            }
            // One that carries is sensed as long as it does, however rarely the core hears of it.
            let stays = way.asked.as_ref().is_some_and(|(via, up)| match up {
                true => self.node_evidence(via, now).link == LinkState::Up && self.is_here(via),
                false => self.is_fit(via, now),
            });
            if !stays {
                let via = (way.failed.len() < MAX_ASKED).then(|| self.choose_relay(&to, way, now));
                way.asked = via.flatten().map(|via| (via, false));
                left.extend(carried.map(|_| to.clone()));
            }
            if let Some((via, _)) = &way.asked
                && let Some(address) = self.address(via)
            {
                wishes.push(RelayWish { to: to.clone(), via: via.clone(), address });
            } else {
                look_at(now + LOOK_AGAIN);
            }
            let evidence = self.node_evidence(&to, now);
            if is_fresh(&evidence, now) {
                look_at(evidence.link_since + HOLD);
            }
        }
        ways.retain(|_, way| way.asked.is_some() || !way.failed.is_empty());
        (self.relays.ways, self.relays.recheck) = (ways, recheck);
        // Their routes still lead through a relay that is no more.
        left.iter().for_each(|to| self.touch_node(to));
        if self.relays.wished != wishes {
            self.relays.wished.clone_from(&wishes);
            self.events.push_back(Event::Relay(wishes));
        }
    }

    /// The peers that a relay is wanted to: those with the only endpoints that a service we call could have,
    /// and those that are reached through one until our own path has held for a while.
    fn want_relays(&self, now: Time) -> BTreeSet<NodeName> {
        let mut wanted = BTreeSet::new();
        for route in self.config.interest.iter().filter_map(|s| self.services.get(s)) {
            let route = &route.route;
            let last_resort = route.policy.relay == Relay::LastResort
                && !route.candidates.iter().any(|c| match &c.standing {
                    Standing::Ready => true,
                    Standing::Doubtful(why) => {
                        !matches!(why, Why::Silent { .. } | Why::Drill { .. })
                    }
                    Standing::Out(_) => false,
                });
            let silent = route.candidates.iter().filter(|c| {
                if !matches!(c.standing, Standing::Doubtful(Why::Silent { .. })) {
                    return false;
                }
                let evidence = self.node_evidence(&c.id.node, now);
                // Who is relayed already stays so from the first moment of the next silence.
                is_bad(&evidence) && (c.via.is_some() || evidence.lost(now) == Ok(true))
            });
            if last_resort {
                wanted.extend(silent.map(|c| c.id.node.clone()));
            }
            let held = route
                .candidates
                .iter()
                .filter(|c| c.via.is_some() && is_fresh(&self.node_evidence(&c.id.node, now), now));
            wanted.extend(held.map(|c| c.id.node.clone()));
        }
        wanted
    }

    fn is_here(&self, node: &NodeName) -> bool {
        self.table.get(node).is_some_and(|e| !e.advert.left)
    }

    /// Whether a node may be asked to carry: it lives by everybody's word, ours included.
    fn is_fit(&self, node: &NodeName, now: Time) -> bool {
        let evidence = self.node_evidence(node, now);
        let lately = evidence.heard.is_some_and(|t| now.since(t) < HEARD_LATELY);
        self.is_here(node)
            && lately
            && !evidence.revoked
            && evidence.link == LinkState::Up
            && evidence.swim == Swim::Alive
    }

    fn choose_relay(&self, to: &NodeName, way: &Way, now: Time) -> Option<NodeName> {
        let zone = |node| self.table.get(node).map_or("", |e| e.advert.zone.as_str());
        let fit = self
            .table
            .iter()
            .filter(|(name, _)| !way.failed.contains_key(*name) && self.is_fit(name, now))
            .map(|(name, entry)| Bystander { name, zone: entry.advert.zone.as_str() });
        let me = Bystander { name: &self.config.name, zone: self.config.zone.as_str() };
        relay::choose(me, Bystander { name: to, zone: zone(to) }, fit).cloned()
    }
}
