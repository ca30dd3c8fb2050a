//! A node's whole state but its membership's, as a value: what a recording begins with.
//!
//! Taken between two steps. What only waits to be polled (outbox, events) is not part of it, nor is SWIM:
//! of that, a replay has what it was heard to say ([`Hearsay`](super::Hearsay)). The randomness is: taking
//! a checkpoint draws a new seed and goes on from it, since a generator's state cannot be written down.
//!
//! Beside it stands what else [`crate::flight`] needs of a node.
//!
//! [`Node::checkpoint`] takes a node apart field by field, so that whoever adds a field is asked here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Serialize};

use crate::activation::Activations;
use crate::advert::{Keyless, Keyring, SignedAdvert};
use crate::document::SignedDocument;
use crate::drill::{DrillId, Drills};
use crate::evidence::{EndpointEvidence, NodeEvidence};
use crate::ids::{EndpointId, NodeName, ServiceName, Version};
use crate::incident::IncidentKey;
use crate::member::MemberState;
use crate::policy::Policy;
use crate::record::Record;
use crate::route::Snapshot;
use crate::table::Table;
use crate::time::{Clock, Time, Wall};
use crate::wire::{self, WireError};

use super::exclusive::Seats;
use super::gossip::Gossip;
use super::membership::{Hearsay, Membership};
use super::pace::Pace;
use super::quarantine::Quarantine;
use super::relays::Relays;
use super::{Event, Forced, Node, NodeConfig, Own, ServiceState, Transmit, Wanted};

/// A node's state between two steps. Opaque: it is made by [`Node::checkpoint`] and ends in a replay.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Checkpoint {
    at: Time,
    version: String,
    config: NodeConfig,
    seed: u64,
    view: BTreeMap<NodeName, MemberState>,
    idle: bool,
    records: Vec<(SignedAdvert, Time)>,
    floors: Vec<(NodeName, Version, Time)>,
    nodes: RedBlackTreeMapSync<NodeName, NodeEvidence>,
    unconfirmed: BTreeSet<NodeName>,
    outcomes: BTreeMap<EndpointId, EndpointEvidence>,
    own: BTreeMap<EndpointId, Own>,
    forced: BTreeMap<EndpointId, Forced>,
    parents: VecDeque<(IncidentKey, u64)>,
    orders: u64,
    revision: u64,
    left: bool,
    draining: bool,
    documents: Vec<SignedDocument>,
    policy: Policy,
    policy_version: u64,
    revoked: BTreeMap<NodeName, Wall>,
    services: BTreeMap<ServiceName, ServiceState>,
    seats: Seats,
    incidents: VecDeque<Record>,
    drills: Drills,
    drills_running: Vec<DrillId>,
    drills_at: Time,
    snapshot: u64,
    watch: Vec<(NodeName, SocketAddr)>,
    relays: Relays,
    started: Time,
    stale_services: BTreeSet<ServiceName>,
    stale_members: bool,
    stale_advert: bool,
    published: Option<Time>,
    wanted: BTreeMap<NodeName, Wanted>,
    quarantine: Quarantine,
    activations: BTreeMap<EndpointId, Activations>,
    pace: Pace,
    recordless: BTreeSet<NodeName>,
    forget_at: Time,
    caught_up: Time,
}

/// A place in the outputs. See [`Node::mark`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    events: usize,
    transmits: usize,
}

impl Checkpoint {
    /// When it was taken, by its node's time.
    pub fn at(&self) -> Time {
        self.at
    }

    /// Whose it is.
    pub fn node(&self) -> &NodeName {
        &self.config.name
    }

    /// The start of that node's agent.
    pub fn generation(&self) -> u64 {
        self.config.generation.0
    }

    /// Maps its node's time to wall time.
    pub fn clock(&self) -> Clock {
        self.config.clock
    }

    /// The version of the software that took it.
    pub fn software(&self) -> &str {
        &self.version
    }

    /// What two nodes that went through the same have in common: everything but signatures, which a replay
    /// cannot make, and the seed, which is drawn anew. For comparing a replay with what was recorded.
    pub fn essence(&self) -> Result<Vec<u8>, WireError> {
        let mut bare = self.clone();
        bare.seed = 0;
        let me = bare.config.name.clone();
        for (record, _) in bare.records.iter_mut().filter(|(r, _)| r.node == me) {
            record.signature = Arc::from([]);
            record.certificate = Arc::from([]);
        }
        bare.drills.without_signatures_of(&me);
        wire::encode_body(&bare)
    }
}

impl Node {
    /// Everything this node goes by, and a new seed for what it will draw.
    pub fn checkpoint(&mut self, at: Time) -> Checkpoint {
        let seed = self.rng.random();
        self.rng = StdRng::seed_from_u64(seed);
        let Self {
            config,
            keyring: _,
            rng: _,
            member,
            table,
            nodes,
            unconfirmed,
            outcomes,
            own,
            forced,
            parents,
            orders,
            revision,
            left,
            draining,
            documents,
            policy,
            policy_version,
            revoked,
            services,
            seats,
            incidents,
            drills,
            drills_running,
            drills_at,
            snapshot,
            watch,
            relays,
            started,
            stale_services,
            stale_members,
            stale_advert,
            published,
            gossip: _,
            wanted,
            quarantine,
            activations,
            pace,
            recordless,
            forget_at,
            caught_up,
            outbox: _,
            events: _,
        } = &*self;
        Checkpoint {
            at,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config: config.clone(),
            seed,
            view: member.known(),
            idle: member.is_idle(),
            records: table.iter().map(|(_, e)| (e.signed.clone(), e.received)).collect(),
            floors: table.floors().map(|(n, v, t)| (n.clone(), v, t)).collect(),
            nodes: nodes.clone(),
            unconfirmed: unconfirmed.clone(),
            outcomes: outcomes.clone(),
            own: own.clone(),
            forced: forced.clone(),
            parents: parents.clone(),
            orders: *orders,
            revision: *revision,
            left: *left,
            draining: *draining,
            documents: documents.values().map(|(signed, _)| signed.clone()).collect(),
            policy: policy.clone(),
            policy_version: *policy_version,
            revoked: revoked.clone(),
            services: services.clone(),
            seats: seats.clone(),
            incidents: incidents.clone(),
            drills: drills.clone(),
            drills_running: drills_running.clone(),
            drills_at: *drills_at,
            snapshot: snapshot.version,
            watch: watch.clone(),
            relays: relays.clone(),
            started: *started,
            stale_services: stale_services.clone(),
            stale_members: *stale_members,
            stale_advert: *stale_advert,
            published: *published,
            wanted: wanted.clone(),
            quarantine: quarantine.clone(),
            activations: activations.clone(),
            pace: pace.clone(),
            recordless: recordless.clone(),
            forget_at: *forget_at,
            caught_up: *caught_up,
        }
    }

    /// The node of a checkpoint, for a replay: its membership says what it is told to say
    /// ([`Node::hear`]). `Err` where what the checkpoint holds cannot be read.
    pub fn resume(checkpoint: Checkpoint, keyring: Box<dyn Keyring>) -> Result<Self, WireError> {
        let c = checkpoint;
        let mut table = Table::default();
        for (signed, received) in c.records {
            let advert = Arc::new(wire::decode_body(&signed.body)?);
            table.insert(signed, advert, received);
        }
        table.set_floors(c.floors);
        let mut documents = BTreeMap::new();
        for signed in c.documents {
            let document = wire::decode_body(&signed.body)?;
            documents.insert(signed.kind, (signed, document));
        }
        let conditions = c.own.iter().map(|(id, o)| (id, o.life.condition()));
        let gated = |id, condition| c.seats.gated((c.policy_version, &c.policy), id, condition);
        let own = conditions.map(|(id, of)| (id.clone(), gated(id, of))).collect();
        let services = c.services.iter().map(|(name, s)| (name.clone(), s.route.clone())).collect();
        let running = c.drills.iter().filter(|held| held.over.is_none());
        let drilled = running.map(|held| held.plan.service.clone()).collect();
        let snapshot = Arc::new(Snapshot {
            version: c.snapshot,
            node: c.config.name.clone(),
            policy_version: c.policy_version,
            services,
            drilled,
            own,
            leases: c.seats.held().clone(),
        });
        Ok(Self {
            member: Membership::played(c.view, c.idle),
            rng: StdRng::seed_from_u64(c.seed),
            keyring,
            table,
            nodes: c.nodes,
            unconfirmed: c.unconfirmed,
            outcomes: c.outcomes,
            own: c.own,
            forced: c.forced,
            parents: c.parents,
            orders: c.orders,
            revision: c.revision,
            left: c.left,
            draining: c.draining,
            documents,
            policy: c.policy,
            policy_version: c.policy_version,
            revoked: c.revoked,
            services: c.services,
            seats: c.seats,
            incidents: c.incidents,
            drills: c.drills,
            drills_running: c.drills_running,
            drills_at: c.drills_at,
            snapshot,
            watch: c.watch,
            relays: c.relays,
            started: c.started,
            stale_services: c.stale_services,
            stale_members: c.stale_members,
            stale_advert: c.stale_advert,
            published: c.published,
            gossip: Gossip::new(c.seed, c.at),
            wanted: c.wanted,
            quarantine: c.quarantine,
            activations: c.activations,
            pace: c.pace,
            recordless: c.recordless,
            forget_at: c.forget_at,
            caught_up: c.caught_up,
            outbox: VecDeque::new(),
            events: VecDeque::new(),
            config: c.config,
        })
    }

    // ---- recording and replaying (`flight`) -----------------------------------------------------

    /// From now on what membership tells is noted, and signatures are judged by the keyring that `witness`
    /// makes of ours.
    pub(crate) fn listen(&mut self, witness: impl FnOnce(Box<dyn Keyring>) -> Box<dyn Keyring>) {
        let inner = std::mem::replace(&mut self.keyring, Box::new(Keyless));
        self.keyring = witness(inner);
        self.member.listen();
    }

    /// What membership told in the last step.
    pub(crate) fn take_hearsay(&mut self) -> Hearsay {
        self.member.take_hearsay()
    }

    /// What membership tells in the next step, of a node that was resumed.
    pub(crate) fn hear(&mut self, hearsay: Hearsay) {
        self.member.play(hearsay);
    }

    /// Where the outputs end now.
    pub(crate) fn mark(&self) -> Mark {
        Mark { events: self.events.len(), transmits: self.outbox.len() }
    }

    /// Events since `mark`, none of which was polled yet.
    pub(crate) fn events_since(&self, mark: Mark) -> impl Iterator<Item = &Event> {
        self.events.iter().skip(mark.events)
    }

    /// What is to be sent since `mark`, none of which was polled yet.
    pub(crate) fn transmits_since(&self, mark: Mark) -> impl Iterator<Item = &Transmit> {
        self.outbox.iter().skip(mark.transmits)
    }

    /// Forgets what is to be sent and told: in a replay nobody polls.
    pub(crate) fn discard_outputs(&mut self) {
        self.events.clear();
        self.outbox.clear();
    }
}
