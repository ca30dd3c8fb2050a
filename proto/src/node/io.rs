//! What goes into a [`Node`](super::Node) and what comes out of it: values only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use serde::{Deserialize, Serialize};

use crate::advert::traits::CheckKind;
use crate::advert::{Protocol, Role};
use crate::drill::DrillId;
use crate::evidence::Swim;
use crate::exclusive::Book;
use crate::ids::{EndpointId, Generation, Identity, NodeName, ServiceName};
use crate::incident::IncidentKey;
use crate::lifecycle::{Activation, Stop};
use crate::member::SwimConfig;
use crate::record::Span;
use crate::time::{Clock, Wall};
use crate::wire::{Hello, Message};

/// What a node is told when it starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeConfig {
    /// Its name.
    pub name: NodeName,
    /// Its start; on disk before the first packet.
    pub generation: Generation,
    /// Where others reach it.
    pub address: SocketAddr,
    /// Zone, may be empty.
    pub zone: String,
    /// Region, may be empty.
    pub region: String,
    /// How fast membership works.
    pub swim: SwimConfig,
    /// Seeds all randomness of the core.
    pub seed: u64,
    /// Maps the core's time to wall time.
    pub clock: Clock,
    /// What it offers.
    pub endpoints: Vec<EndpointConfig>,
    /// What its applications call.
    pub interest: BTreeSet<ServiceName>,
}

/// One endpoint as configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointConfig {
    /// Which.
    pub id: EndpointId,
    /// Declared role.
    pub role: Role,
    /// What it speaks.
    pub protocol: Protocol,
    /// How it is activated, if it is warm.
    pub activation: Activation,
    /// Its capacity, of [`WEIGHT`](crate::advert::extension::WEIGHT) as the usual one.
    pub weight: u16,
    /// How it is checked. For others to know; what the check says comes by `handle_health`.
    pub check: CheckKind,
    /// A hook activates it. For others to know.
    pub hook: bool,
}

/// Why an attempt of an activation hook failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HookFailed {
    /// Another attempt may succeed.
    Once(String),
    /// None can.
    Hopeless(String),
}

/// What a link tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkInput {
    /// A mesh link is up and the peer has introduced itself.
    Up(Hello),
    /// Something was heard after a silence, or a look was answered.
    Heard,
    /// What was sent since `unanswered` ago is not acknowledged.
    Silent {
        /// How long ago the first unanswered packet left.
        unanswered: Duration,
    },
    /// The last link to the peer is closed.
    Closed {
        /// It ended by somebody's word. Otherwise it broke, or could not be made.
        orderly: bool,
    },
}

/// A relay that is to carry our streams to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayWish {
    /// The peer.
    pub to: NodeName,
    /// Who is to carry.
    pub via: NodeName,
    /// Where that one is reached.
    pub address: SocketAddr,
}

/// How it stands with a relay that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RelayInput {
    /// The peer answers through it.
    Up,
    /// It refused, the peer could not be reached through it, or it no longer answers there: why, in words.
    Down(String),
}

/// Something to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// An unreliable datagram on the mesh link.
    Datagram {
        /// To whom.
        to: NodeName,
        /// Where it is reached.
        address: SocketAddr,
        /// Enveloped.
        bytes: Bytes,
    },
    /// A message on a stream of the mesh link.
    Message {
        /// To whom.
        to: NodeName,
        /// Where it is reached.
        address: SocketAddr,
        /// What.
        message: Message,
    },
    /// Find out now whether the peer answers; `Heard` or `Silent` follows.
    Look {
        /// At whom.
        node: NodeName,
        /// Where it is reached.
        address: SocketAddr,
    },
    /// Cut every link with the peer: it is trusted no longer.
    Cut {
        /// Whose.
        node: NodeName,
    },
}

/// Something the shell must do or may want to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Run the endpoint's activation hook once, then call
    /// [`Node::handle_hook`](super::Node::handle_hook).
    Activate {
        /// Which endpoint.
        endpoint: EndpointId,
        /// Counts orders, and goes back with the result: that of an earlier order decides nothing.
        order: u64,
        /// For which loss.
        incident: Option<IncidentKey>,
        /// Which attempt, from 1.
        attempt: u32,
        /// For at most so long.
        within: Duration,
    },
    /// Make the requests that warm the endpoint up, then call
    /// [`Node::handle_warmed`](super::Node::handle_warmed).
    WarmUp {
        /// Which endpoint.
        endpoint: EndpointId,
        /// The order of the hook before it, which goes back with the result.
        order: u64,
        /// For at most so long.
        within: Duration,
    },
    /// End the endpoint's activation, if one is under way, and run its deactivation hook.
    Deactivate {
        /// Which endpoint.
        endpoint: EndpointId,
        /// When.
        stop: Stop,
    },
    /// Run the endpoint's health check now.
    Check {
        /// Which endpoint.
        endpoint: EndpointId,
    },
    /// Nobody is known to be alive: dial the seeds.
    Lonely,
    /// Membership says something else of a node than before.
    Member {
        /// Of which node.
        node: NodeName,
        /// Until now.
        from: Swim,
        /// From now on.
        to: Swim,
    },
    /// Keep a link with exactly these and sense them.
    Watch(Vec<(NodeName, SocketAddr)>),
    /// Have exactly these relays carry; [`Node::handle_relay`](super::Node::handle_relay) is told how it stands
    /// with each.
    Relay(Vec<RelayWish>),
    /// The table changed in a way worth keeping.
    SaveTable,
    /// The documents changed: keep them.
    SaveDocuments,
    /// An activation ended: keep what was measured.
    SaveActivations,
    /// Promises of leases changed: put all of these on disk, durably, then call
    /// [`Node::handle_promises_saved`](super::Node::handle_promises_saved) with the number. Nothing that rests
    /// on them is said before.
    SavePromises {
        /// The number; a later one makes an earlier one superfluous.
        serial: u64,
        /// By service.
        books: Vec<(ServiceName, Book)>,
    },
    /// The lease of an exclusive service came to this node, or went.
    Lease {
        /// Of which service.
        service: ServiceName,
        /// Under which term.
        term: u64,
        /// It is held for this endpoint, or not any longer and why, in one word.
        held: Result<EndpointId, &'static str>,
    },
    /// The trust bundle in force changed.
    Trust(Vec<Vec<u8>>),
    /// The revocations in force changed.
    Revoked(BTreeMap<NodeName, Wall>),
    /// Spans to export.
    Spans(Vec<Span>),
    /// Something was refused; nothing changed.
    Refused {
        /// `advert`, `document`, `swim` or `wake`.
        what: &'static str,
        /// One word.
        reason: &'static str,
        /// Who brought it.
        from: Identity,
        /// In words.
        detail: String,
    },
    /// An endpoint of ours changed its condition.
    Condition {
        /// Which endpoint.
        endpoint: EndpointId,
        /// From.
        from: &'static str,
        /// To.
        to: &'static str,
        /// An activation's time, on reaching `serving` from `activating`.
        activation: Option<Duration>,
    },
    /// An incident was opened.
    IncidentOpened {
        /// Which.
        key: IncidentKey,
        /// The evidence, one word.
        reason: &'static str,
        /// The decision, in words.
        decision: String,
    },
    /// An incident is closed.
    IncidentClosed {
        /// Which.
        key: IncidentKey,
        /// From evidence to stable.
        after: Duration,
        /// It did become stable.
        stable: bool,
    },
    /// What an incident lost is ready again, or its record says more than when it was closed.
    IncidentChanged {
        /// Which.
        key: IncidentKey,
    },
    /// A drill begins here.
    DrillBegan {
        /// Which.
        id: DrillId,
        /// Of which service.
        service: ServiceName,
        /// What is lost.
        lose: String,
    },
    /// A drill is over here.
    DrillOver {
        /// Which.
        id: DrillId,
        /// Of which service.
        service: ServiceName,
        /// Why.
        why: String,
    },
}

/// See [`Node::sizes`](super::Node::sizes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Timers of membership.
    pub timers: usize,
    /// Others that membership takes for alive or suspect.
    pub members: usize,
    /// Nodes something is known of.
    pub nodes: usize,
    /// Records to be asked for.
    pub wanted: usize,
    /// Endpoints of ours that somebody's urgent word keeps up.
    pub forced: usize,
    /// Callers' spans kept for activations.
    pub parents: usize,
    /// Incidents remembered.
    pub incidents: usize,
    /// Transmits not polled yet.
    pub outbox: usize,
    /// Events not polled yet.
    pub events: usize,
}
