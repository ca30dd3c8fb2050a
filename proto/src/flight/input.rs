//! What a recording consists of: inputs, and what else a step needs to be run again.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use crate::advert::{SignedAdvert, Untrusted};
use crate::document::SignedDocument;
use crate::drill::DrillId;
use crate::evidence::Outcome;
use crate::exclusive::Book;
use crate::ids::{EndpointId, Identity, NodeName, ServiceName};
use crate::node::{
    Checkpoint, DrillAsk, EndpointConfig, Hearsay, HookFailed, LinkInput, Node, RelayInput,
    RelayWish,
};
use crate::outlier::Sample;
use crate::time::Time;
use crate::wire::Message;

/// One thing on the tape.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every entry is a step: a box each would cost more"
)]
pub enum Entry {
    /// The state before the next step. A recording begins with one.
    Checkpoint(Box<Checkpoint>),
    /// A step.
    Step(Step),
    /// Steps that were not kept, since whoever writes them down fell behind. A checkpoint follows.
    Gap {
        /// How many entries.
        dropped: u64,
    },
}

/// One input and what came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// When.
    pub now: Time,
    /// What came in.
    pub input: Input,
    /// How the keyring judged each signature, in order.
    pub verdicts: Vec<Result<(), Untrusted>>,
    /// What membership told.
    pub hearsay: Hearsay,
    /// What was decided.
    pub decided: Vec<String>,
}

/// What may go into a [`Node`], as a value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Input {
    /// Something of a peer's arrived that decides nothing by itself: a SWIM packet, a digest.
    Heard(NodeName),
    /// [`Node::handle_message`]
    Message {
        /// From whom.
        from: Identity,
        /// What.
        message: Sent,
    },
    /// [`Node::handle_link`]
    Link {
        /// The peer.
        peer: NodeName,
        /// What its link tells.
        input: LinkInput,
    },
    /// [`Node::handle_relay`]
    Relay {
        /// Of which relay.
        wish: RelayWish,
        /// How it stands with it.
        input: RelayInput,
    },
    /// [`Node::handle_outcome`]
    Outcome {
        /// Of a request to which endpoint.
        endpoint: EndpointId,
        /// How it ended.
        outcome: Outcome,
    },
    /// [`Node::handle_samples`]
    Samples(Vec<(EndpointId, Sample)>),
    /// [`Node::handle_need`]
    Need(ServiceName),
    /// [`Node::handle_health`]
    Health {
        /// Of which endpoint.
        endpoint: EndpointId,
        /// How it is.
        healthy: bool,
    },
    /// [`Node::handle_hook`]
    Hook {
        /// Of which endpoint.
        endpoint: EndpointId,
        /// By which order.
        order: u64,
        /// How it ended.
        result: Result<(), HookFailed>,
    },
    /// [`Node::handle_warmed`]
    Warmed {
        /// Which endpoint.
        endpoint: EndpointId,
        /// By which order.
        order: u64,
    },
    /// [`Node::failback`]
    Failback(ServiceName),
    /// [`Node::handle_timeout`]
    Timeout,
    /// [`Node::drain`]
    Drain(bool),
    /// [`Node::leave`]
    Leave,
    /// [`Node::restore`]
    Restore {
        /// Records from disk.
        records: Vec<SignedAdvert>,
        /// Documents from disk.
        documents: Vec<SignedDocument>,
    },
    /// [`Node::restore_promises`]
    RestorePromises(Vec<(ServiceName, Book)>),
    /// [`Node::handle_promises_saved`]
    PromisesSaved(u64),
    /// [`Node::apply`]
    Apply {
        /// What is offered.
        endpoints: Vec<EndpointConfig>,
        /// What is called.
        interest: BTreeSet<ServiceName>,
    },
    /// [`Node::resign`]
    Resign,
    /// [`Node::start_drill`]
    StartDrill(DrillAsk),
    /// [`Node::stop_drill`]
    StopDrill {
        /// Which.
        id: DrillId,
        /// Why.
        why: String,
    },
    /// [`Node::handle_toll`]
    Toll(Vec<(ServiceName, u64, u64)>),
}

impl Input {
    /// What is kept of a message: of those that decide nothing, that they came.
    pub(super) fn message(from: &Identity, message: &Message) -> Self {
        match (from, message) {
            (
                Identity::Node(node),
                Message::Hello(_)
                | Message::Digest(_)
                | Message::Branches(_)
                | Message::Leaves(_)
                | Message::Versions(_)
                | Message::Want(_)
                | Message::Members(_)
                | Message::DocumentsAck(_)
                | Message::Ask(_)
                | Message::Answer(_),
            ) => Self::Heard(node.clone()),
            _ => Self::Message { from: from.clone(), message: Sent(message.clone()) },
        }
    }

    /// Puts it into a node.
    pub(super) fn play(self, node: &mut Node, now: Time) {
        match self {
            Self::Heard(from) => node.handle_heard(now, &from),
            Self::Message { from, message } => drop(node.handle_message(now, &from, message.0)),
            Self::Link { peer, input } => node.handle_link(now, &peer, input),
            Self::Relay { wish, input } => node.handle_relay(now, &wish, &input),
            Self::Outcome { endpoint, outcome } => node.handle_outcome(now, &endpoint, outcome),
            Self::Samples(samples) => node.handle_samples(now, &samples),
            Self::Need(service) => node.handle_need(now, &service),
            Self::Health { endpoint, healthy } => node.handle_health(now, &endpoint, healthy),
            Self::Hook { endpoint, order, result } => {
                node.handle_hook(now, &endpoint, order, result);
            }
            Self::Warmed { endpoint, order } => node.handle_warmed(now, &endpoint, order),
            Self::Failback(service) => drop(node.failback(now, &service)),
            Self::Timeout => node.handle_timeout(now),
            Self::Drain(on) => node.drain(now, on),
            Self::Leave => node.leave(now),
            Self::Restore { records, documents } => node.restore(now, records, documents),
            Self::RestorePromises(books) => node.restore_promises(now, books),
            Self::PromisesSaved(serial) => node.handle_promises_saved(now, serial),
            Self::Apply { endpoints, interest } => node.apply(now, endpoints, interest),
            Self::Resign => node.resign(now),
            Self::StartDrill(ask) => drop(node.start_drill(now, ask)),
            Self::StopDrill { id, why } => drop(node.stop_drill(now, id, &why)),
            Self::Toll(tolls) => node.handle_toll(now, &tolls),
        }
    }
}

/// A message in the bytes it has between agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent(pub Message);

impl Serialize for Sent {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.encode().map_err(ser::Error::custom)?.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Sent {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let bytes = Vec::<u8>::deserialize(d)?;
        match Message::decode(&bytes) {
            Ok(Some(message)) => Ok(Self(message)),
            Ok(None) => Err(de::Error::custom("a message of a kind that is not known here")),
            Err(e) => Err(de::Error::custom(e)),
        }
    }
}
