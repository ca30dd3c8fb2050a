//! One agent's whole core: membership, table, evidence, routes, endpoints and incidents, composed.
//!
//! The surface has four kinds of method, as in quinn-proto:
//!
//! * inputs: [`Node::handle_datagram`], [`Node::handle_message`], [`Node::handle_link`],
//!   [`Node::handle_relay`], [`Node::handle_outcome`], [`Node::handle_samples`], [`Node::handle_health`],
//!   [`Node::handle_hook`], [`Node::handle_warmed`], [`Node::handle_promises_saved`], [`Node::handle_timeout`];
//! * commands: [`Node::drain`], [`Node::failback`], [`Node::leave`], [`Node::apply`], [`Node::set_interest`];
//! * outputs: [`Node::poll_transmit`], [`Node::poll_event`], [`Node::poll_timeout`];
//! * getters: [`Node::snapshot`] and the views.
//!
//! Calling order: any input or command, then both polls until `None`, then publish the snapshot if its
//! version moved, then arm the timeout. A timeout may be late; it must not be lost. No method waits,
//! and nothing is kept outside the struct.

mod absence;
mod checkpoint;
mod documents;
mod drills;
mod exclusive;
mod gossip;
mod incidents;
mod io;
mod membership;
mod outliers;
mod own;
mod pace;
mod peers;
mod prospects;
mod quarantine;
mod relays;
mod services;
mod sync;
mod views;
mod whole;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Serialize};

use crate::activation::Activations;
use crate::advert::Keyring;
use crate::document::{Document, DocumentKind, SignedDocument};
use crate::drill::{DrillId, Drills};
use crate::evidence::{EndpointEvidence, NodeEvidence, Outcome};
use crate::history::History;
use crate::ids::{EndpointId, Generation, Identity, NodeName, ServiceName, Version};
use crate::incident::IncidentKey;
use crate::lifecycle::{self, Lifecycle};
use crate::member::{Member, MemberId};
use crate::outlier::Sample;
use crate::policy::Policy;
use crate::record::Record;
use crate::route::Snapshot;
use crate::table::Table;
use crate::time::{Time, Wall};
use crate::view::FailbackView;
use crate::wire::{self, Hello, Message};

pub use absence::CATCH_UP;
pub use checkpoint::Checkpoint;
pub(crate) use checkpoint::Mark;
pub use drills::DrillAsk;
use gossip::Gossip;
pub use io::{
    EndpointConfig, Event, HookFailed, LinkInput, NodeConfig, RelayInput, RelayWish, Sizes,
    Transmit,
};
pub use membership::Hearsay;
use membership::Membership;
use pace::Pace;
pub use whole::Whole;

/// Incidents remembered by an agent; the oldest closed one goes first.
pub const MAX_INCIDENTS: usize = 256;

/// An endpoint of our own.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Own {
    config: EndpointConfig,
    life: Lifecycle,
    under_way: Option<UnderWay>,
}

/// An activation under way: when it began, for which loss, under whose span, what went wrong last.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct UnderWay {
    /// Its last order of the hook: the result of another says nothing of it.
    order: u64,
    began: Time,
    incident: Option<IncidentKey>,
    parent: Option<u64>,
    error: Option<String>,
}

/// A caller's urgent word that one of our warm endpoints shall serve.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Forced {
    incident: IncidentKey,
    since: Time,
    until: Time,
    by: NodeName,
    /// Our own view agrees, or the caller insisted.
    believed: bool,
}

/// A record that is to be asked for: when, and how often it was asked for already.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Wanted {
    at: Time,
    tries: u8,
}

/// What is kept per service.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ServiceState {
    route: Arc<crate::route::Route>,
    since: BTreeMap<EndpointId, (crate::evidence::Standing, Time)>,
    /// Endpoints that were ready, with the version of the advert that said so.
    was_ready: BTreeMap<EndpointId, crate::ids::Version>,
    woken: BTreeMap<EndpointId, Time>,
    /// Endpoints that have not served yet in this generation, with when they were first seen.
    starting: BTreeMap<EndpointId, (Generation, Option<Time>)>,
    /// Since when requests of this node wait for somebody to serve.
    waiting: Option<Time>,
    recheck: Option<Time>,
    history: History,
}

/// One agent's core. See the module's text for the calling order.
pub struct Node {
    config: NodeConfig,
    keyring: Box<dyn Keyring>,
    rng: StdRng,
    member: Membership,
    table: Table,
    nodes: RedBlackTreeMapSync<NodeName, NodeEvidence>,
    /// Those whose silence is not confirmed yet, or was not a moment ago.
    unconfirmed: BTreeSet<NodeName>,
    /// Who lives by membership, in a start of which no record has come yet.
    recordless: BTreeSet<NodeName>,
    outcomes: BTreeMap<EndpointId, EndpointEvidence>,
    own: BTreeMap<EndpointId, Own>,
    forced: BTreeMap<EndpointId, Forced>,
    activations: BTreeMap<EndpointId, Activations>,
    pace: Pace,
    /// Callers' spans, by the loss they woke us for; the oldest first.
    parents: VecDeque<(IncidentKey, u64)>,
    /// Counts orders of hooks.
    orders: u64,
    revision: u64,
    left: bool,
    draining: bool,
    documents: BTreeMap<DocumentKind, (SignedDocument, Document)>,
    policy: Policy,
    policy_version: u64,
    revoked: BTreeMap<NodeName, Wall>,
    services: BTreeMap<ServiceName, ServiceState>,
    seats: exclusive::Seats,
    incidents: VecDeque<Record>,
    drills: Drills,
    /// Those of which it was told that they began.
    drills_running: Vec<DrillId>,
    drills_at: Time,
    snapshot: Arc<Snapshot>,
    watch: Vec<(NodeName, SocketAddr)>,
    relays: relays::Relays,
    started: Time,
    // What is to be done at the end of a step, and when.
    stale_services: BTreeSet<ServiceName>,
    stale_members: bool,
    stale_advert: bool,
    published: Option<Time>,
    gossip: Gossip,
    /// Before this nobody is to be forgotten.
    forget_at: Time,
    /// Before this what we know may be older than it looks.
    caught_up: Time,
    wanted: BTreeMap<NodeName, Wanted>,
    quarantine: quarantine::Quarantine,
    outbox: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

impl Node {
    /// A node that knows nobody yet. Its first advert is made in the first step.
    pub fn new(config: NodeConfig, keyring: Box<dyn Keyring>, now: Time) -> Self {
        let mut node = Self::bare(config, keyring, now);
        node.begin_endpoints(now);
        node.settle(now);
        node
    }

    fn begin_endpoints(&mut self, now: Time) {
        let endpoints = self.config.endpoints.clone();
        self.set_endpoints(endpoints, now);
    }

    /// Without endpoints, before its first step.
    fn bare(config: NodeConfig, keyring: Box<dyn Keyring>, now: Time) -> Self {
        let id = MemberId::new(config.name.clone(), config.generation, config.address);
        let mut rng = StdRng::seed_from_u64(config.seed);
        let member = Membership::live(Member::new(id, config.swim, rng.random()));
        let gossip_seed = rng.random();
        let snapshot = Arc::new(Snapshot::empty(config.name.clone()));
        Self {
            member,
            rng,
            keyring,
            table: Table::default(),
            nodes: RedBlackTreeMapSync::default(),
            unconfirmed: BTreeSet::new(),
            recordless: BTreeSet::new(),
            outcomes: BTreeMap::new(),
            own: BTreeMap::new(),
            forced: BTreeMap::new(),
            activations: BTreeMap::new(),
            pace: Pace::default(),
            parents: VecDeque::new(),
            orders: 0,
            revision: 0,
            left: false,
            draining: false,
            documents: BTreeMap::new(),
            policy: Policy::default(),
            policy_version: 0,
            revoked: BTreeMap::new(),
            services: BTreeMap::new(),
            seats: exclusive::Seats::default(),
            incidents: VecDeque::new(),
            drills: Drills::default(),
            drills_running: Vec::new(),
            drills_at: now,
            snapshot,
            watch: Vec::new(),
            relays: relays::Relays::default(),
            started: now,
            stale_services: config.interest.clone(),
            stale_members: false,
            stale_advert: true,
            published: None,
            gossip: Gossip::new(gossip_seed, now),
            forget_at: now,
            caught_up: now,
            wanted: BTreeMap::new(),
            quarantine: quarantine::Quarantine::default(),
            outbox: VecDeque::new(),
            events: VecDeque::new(),
            config,
        }
    }

    /// Takes in a SWIM datagram that came over the link of `from`.
    pub fn handle_datagram(&mut self, now: Time, from: &NodeName, datagram: &[u8]) {
        // Of another protocol version: skipped.
        let Some(packet) = wire::decode_swim(datagram) else { return };
        self.begin(now);
        self.heard(now, from);
        if let Err(e) = self.member.handle_packet(now, from, packet) {
            self.refuse("swim", e.reason(), Identity::Node(from.clone()), e.to_string());
        }
        self.settle(now);
    }

    /// Takes in a message that came over the link of `from`. The answer, if any, goes back on the same
    /// stream where it has a way back (the control plane's), else it is sent like any other.
    pub fn handle_message(
        &mut self,
        now: Time,
        from: &Identity,
        message: Message,
    ) -> Option<Message> {
        self.begin(now);
        if let Identity::Node(node) = from {
            self.heard(now, node);
        }
        let answer = self.dispatch(now, from, message);
        self.settle(now);
        answer
    }

    /// Takes in that something of a peer's arrived, as a recording holds it: what it was decided nothing but
    /// through what membership told ([`Node::hear`]).
    pub(crate) fn handle_heard(&mut self, now: Time, from: &NodeName) {
        self.begin(now);
        self.heard(now, from);
        self.settle(now);
    }

    fn dispatch(&mut self, now: Time, from: &Identity, message: Message) -> Option<Message> {
        match (from, message) {
            (_, Message::Documents(documents)) => {
                return Some(self.take_documents(now, from, documents));
            }
            (
                Identity::Node(_),
                Message::Hello(_)
                | Message::DocumentsAck(_)
                // The shells' own business.
                | Message::Ask(_)
                | Message::Answer(_),
            ) => {}
            (Identity::Node(node), Message::Adverts(adverts)) => {
                self.take_adverts(now, node, adverts);
            }
            (Identity::Node(node), Message::Digest(d)) => self.take_digest(now, node, &d),
            (Identity::Node(node), Message::Branches(b)) => self.take_branches(now, node, &b),
            (Identity::Node(node), Message::Leaves(l)) => self.take_leaves(now, node, &l),
            (Identity::Node(node), Message::Versions(v)) => self.take_versions(now, node, &v),
            (Identity::Node(node), Message::Want(nodes)) => self.send_wanted(node, &nodes),
            (Identity::Node(node), Message::Members(m)) => self.take_members_of(now, node, m),
            (Identity::Node(node), Message::Wake(wake)) => self.take_wake(now, node, wake),
            (Identity::Node(node), Message::Drill(words)) => self.take_drills(now, node, words),
            (Identity::Node(node), Message::Failback(f)) => self.take_failback(now, node, &f),
            (Identity::Node(node), Message::Lease(lease)) => self.take_lease(now, node, lease),
            (Identity::Node(_), Message::Hint(hint)) if hint.node == self.config.name => {
                self.renew_advert(now);
            }
            (Identity::Node(_), Message::Hint(hint)) => self.look(&hint.node),
            (Identity::Control(_), other) => {
                let detail = format!("the control plane may not send {}", other.name());
                self.refuse("message", "role", from.clone(), detail);
            }
        }
        None
    }

    /// Takes in what a link tells.
    pub fn handle_link(&mut self, now: Time, peer: &NodeName, input: LinkInput) {
        self.begin(now);
        match input {
            LinkInput::Up(hello) => self.link_up(now, peer, &hello),
            LinkInput::Heard => self.answered(now, peer),
            LinkInput::Silent { unanswered } => self.link_silent(now, peer, unanswered),
            LinkInput::Closed { orderly } => self.link_closed(now, peer, orderly),
        }
        self.settle(now);
    }

    /// Takes in how it stands with a relay that was asked for ([`Event::Relay`]).
    pub fn handle_relay(&mut self, now: Time, wish: &RelayWish, input: &RelayInput) {
        self.take_relay(now, &wish.to, &wish.via, input);
        self.settle(now);
    }

    /// Takes in how a request to an endpoint ended.
    pub fn handle_outcome(&mut self, now: Time, endpoint: &EndpointId, outcome: Outcome) {
        self.begin(now);
        self.observe_outcome(now, endpoint, outcome);
        self.settle(now);
    }

    /// Takes in what endpoints answered in the [`outlier::SAMPLE_EVERY`](crate::outlier::SAMPLE_EVERY) before
    /// `now`. All of one round in one call: they are compared with each other.
    pub fn handle_samples(&mut self, now: Time, samples: &[(EndpointId, Sample)]) {
        self.begin(now);
        self.take_samples(now, samples);
        self.settle(now);
    }

    /// The traffic path found nobody serving: whoever is called up is asked again.
    pub fn handle_need(&mut self, now: Time, service: &ServiceName) {
        self.begin(now);
        self.set_interest(service);
        self.stale_services.insert(service.clone());
        self.settle(now);
        self.note_waiting(now, service);
        self.settle(now);
    }

    /// Takes in the result of a health check of our own endpoint.
    pub fn handle_health(&mut self, now: Time, endpoint: &EndpointId, healthy: bool) {
        self.begin(now);
        let event = if healthy { lifecycle::Event::Healthy } else { lifecycle::Event::Unhealthy };
        self.drive(now, endpoint, &event);
        self.settle(now);
    }

    /// Takes in how an attempt of an activation hook ended, that was ordered by this
    /// [`Event::Activate`]. An activation that is over, or has another order by now, is not told of it.
    pub fn handle_hook(
        &mut self,
        now: Time,
        endpoint: &EndpointId,
        order: u64,
        result: Result<(), HookFailed>,
    ) {
        self.begin(now);
        let spread = self.rng.random_range(0..=1_000);
        let (event, error) = match result {
            Ok(()) => (lifecycle::Event::HookDone, None),
            Err(HookFailed::Once(why)) => (lifecycle::Event::HookFailed { spread }, Some(why)),
            Err(HookFailed::Hopeless(why)) => (lifecycle::Event::HookHopeless, Some(why)),
        };
        if let Some(under_way) = self.under_way(endpoint, order) {
            under_way.error = error;
            self.drive(now, endpoint, &event);
        }
        self.settle(now);
    }

    /// The requests that warm an endpoint of ours up were made, with whatever success. `order` as in
    /// [`handle_hook`](Self::handle_hook).
    pub fn handle_warmed(&mut self, now: Time, endpoint: &EndpointId, order: u64) {
        self.begin(now);
        if self.under_way(endpoint, order).is_some() {
            self.drive(now, endpoint, &lifecycle::Event::WarmedUp);
        }
        self.settle(now);
    }

    /// The activation of an endpoint of ours, if that is still its order.
    fn under_way(&mut self, endpoint: &EndpointId, order: u64) -> Option<&mut UnderWay> {
        self.own.get_mut(endpoint)?.under_way.as_mut().filter(|under_way| under_way.order == order)
    }

    /// Does everything that is due.
    pub fn handle_timeout(&mut self, now: Time) {
        self.begin(now);
        if self.member.poll_timeout().is_some_and(|t| t <= now) {
            self.member.handle_timeout(now);
            self.stale_members = true;
        }
        self.tick_gossip(now);
        self.tick_drills(now);
        self.tick_own(now);
        self.tick_seats(now);
        self.tick_relays(now);
        self.tick_services(now);
        self.settle(now);
    }

    /// Starts or ends draining this node: its endpoints take nothing new.
    pub fn drain(&mut self, now: Time, on: bool) {
        self.begin(now);
        self.draining = on;
        let event = if on { lifecycle::Event::Drain } else { lifecycle::Event::Undrain };
        for id in self.own.keys().cloned().collect::<Vec<_>>() {
            self.drive(now, &id, &event);
        }
        self.settle(now);
    }

    /// An operator wants activated endpoints of a service to stand down now, if they are not needed. Tells
    /// their owners, who decide by their own view, and says who was told.
    pub fn failback(&mut self, now: Time, service: &ServiceName) -> FailbackView {
        self.begin(now);
        let view = self.order_failback(now, service);
        self.settle(now);
        view
    }

    /// Leaves the mesh in good order. May be called again: each call says so once more, since packets
    /// get lost.
    pub fn leave(&mut self, now: Time) {
        self.begin(now);
        if !self.left {
            self.left = true;
            self.stale_advert = true;
            self.settle(now);
        }
        self.member.leave(now);
        self.flush_member(now);
    }

    /// Takes in what was on disk: candidates, not truth. Nobody in it is taken for alive.
    pub fn restore(
        &mut self,
        now: Time,
        records: Vec<crate::advert::SignedAdvert>,
        documents: Vec<SignedDocument>,
    ) {
        self.begin(now);
        let me = Identity::Node(self.config.name.clone());
        let _ = self.take_documents(now, &me, documents);
        for record in records {
            if record.node == self.config.name {
                continue;
            }
            self.merge_advert(now, &self.config.name.clone(), &record, true);
        }
        self.settle(now);
    }

    /// Takes in how long activations took before this start.
    pub fn restore_activations(&mut self, known: BTreeMap<EndpointId, Activations>) {
        self.activations = known;
        let own = &self.own;
        self.activations.retain(|id, _| own.contains_key(id));
    }

    /// How long activations took, to be kept on disk.
    pub fn activation_records(&self) -> &BTreeMap<EndpointId, Activations> {
        &self.activations
    }

    /// Changes what this node offers and calls, as after a reload.
    pub fn apply(
        &mut self,
        now: Time,
        endpoints: Vec<EndpointConfig>,
        interest: BTreeSet<ServiceName>,
    ) {
        self.begin(now);
        self.set_endpoints(endpoints, now);
        self.stale_services.extend(interest.iter().cloned());
        self.config.interest = interest;
        self.settle(now);
    }

    /// Signs our advert anew, as after a renewal: one under an expired certificate would be refused by nodes
    /// that join later.
    pub fn resign(&mut self, now: Time) {
        self.begin(now);
        self.stale_advert = true;
        self.settle(now);
    }

    /// Notes that this node's applications call `service`.
    pub fn set_interest(&mut self, service: &ServiceName) {
        if !self.config.interest.contains(service) && self.config.interest.len() < 1024 {
            self.config.interest.insert(service.clone());
            self.stale_services.insert(service.clone());
        }
    }

    /// The next thing to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.outbox.pop_front()
    }

    /// The next thing to do or know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) must be called, at the latest.
    pub fn poll_timeout(&self) -> Time {
        let own =
            self.own.values().filter_map(|o| o.life.deadline(&self.terms(&o.config.id.service)));
        let services = self.services.values().filter_map(|s| s.recheck);
        let publish = self.publish_due();
        let gossip = self.gossip.poll_timeout(self.member.is_idle() && !self.left);
        [self.member.poll_timeout(), publish]
            .into_iter()
            .flatten()
            .chain(self.wanted.values().map(|w| w.at))
            .chain(self.forced.values().map(|f| f.until))
            .chain(self.drills_due())
            .chain(self.relays.recheck)
            .chain(own)
            .chain(services)
            .chain(self.seats.poll_timeout())
            .min()
            .map_or(gossip, |due| due.min(gossip))
    }

    /// The routes at this moment.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.clone()
    }

    /// This node's name.
    pub fn name(&self) -> &NodeName {
        &self.config.name
    }

    /// The replicated table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// How much is held in what grows and shrinks: for the simulator's bounds, and for gauges.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            timers: self.member.timers(),
            members: self.member.active(),
            nodes: self.nodes.size(),
            wanted: self.wanted.len(),
            forced: self.forced.len(),
            parents: self.parents.len(),
            incidents: self.incidents.len(),
            outbox: self.outbox.len(),
            events: self.events.len(),
        }
    }

    /// What to say first on a link.
    pub fn hello(&self) -> Hello {
        Hello {
            generation: self.config.generation,
            address: self.config.address,
            protocol: (wire::PROTOCOL, wire::PROTOCOL),
        }
    }

    // ---- within a step -------------------------------------------------------------------------

    /// Brings everything derived up to date. Order matters: members, own endpoints (which depend on
    /// the numbers of services), services, advert, then packets.
    fn settle(&mut self, now: Time) {
        self.take_members(now);
        self.note_drills();
        self.set_seats(now);
        self.drain_seats(now);
        // A refresh can call up an endpoint of ours, whose new advert makes its service stale again;
        // each round moves an endpoint forward in its life, so that a few rounds settle it.
        for _ in 0..8 {
            if self.stale_services.is_empty() && self.publish_due().is_none_or(|at| at > now) {
                break;
            }
            self.publish(now);
            self.refresh_services(now);
        }
        self.push(now);
        self.flush_member(now);
    }

    /// Notes that the record of `node` is to be asked for at `at`, unless it comes by itself or is held back.
    fn want(&mut self, node: NodeName, version: Option<Version>, at: Time) {
        if node != self.config.name && !self.quarantine.bars(at, &node, version) {
            self.wanted.entry(node).or_insert(Wanted { at, tries: 0 });
        }
    }

    /// All services with endpoints on `node`, or on a node that it relays for us to, are to be looked at again.
    fn touch_node(&mut self, node: &NodeName) {
        for node in self.relays.of(node).chain([node]) {
            if let Some(entry) = self.table.get(node) {
                let services = entry.advert.endpoints.iter().map(|e| e.service.clone());
                self.stale_services.extend(services);
            }
        }
    }

    /// Where a node is reached: by its signed advert, else by what membership heard.
    fn address(&self, node: &NodeName) -> Option<SocketAddr> {
        match self.table.get(node) {
            Some(entry) => Some(entry.advert.address),
            None => self.member.address(node),
        }
    }

    fn look(&mut self, node: &NodeName) {
        if let Some(address) = self.address(node).filter(|_| *node != self.config.name) {
            self.outbox.push_back(Transmit::Look { node: node.clone(), address });
        }
    }

    fn send(&mut self, to: &NodeName, message: Message) {
        if let Some(address) = self.address(to) {
            self.outbox.push_back(Transmit::Message { to: to.clone(), address, message });
        }
    }

    fn refuse(&mut self, what: &'static str, reason: &'static str, from: Identity, detail: String) {
        self.events.push_back(Event::Refused { what, reason, from, detail });
    }
}

#[cfg(test)]
mod tests;
