//! Links: connections between agents, who is at their other end, and whether it still answers.
//!
//! Decides: which of two connections to a peer stays ([`settle`]), when a peer is silent and when that is
//! confirmed ([`silence`]), when to dial again ([`backoff`]). Owns: the mesh port, every connection on it, the
//! bounded queues in front of connections that are not up yet. Does not: judge what a silence means for traffic or
//! membership (the core does), read what messages say, or retry requests (the proxy does).
//!
//! Two kinds of connection, told apart by ALPN: one *mesh link* per pair (SWIM datagrams, messages),
//! and *data connections* (a bi stream per request), dialled by the caller when it first needs one. Beside
//! them [`lane`]s: requests over TLS on TCP, which cost less where the path is good, and where our own path is
//! bad, through a third agent ([`relay`]). A peer is its name, proven by its certificate, plus the generation its Hello presents; never an
//! address.
//!
//! Tasks: one acceptor, one silence monitor ([`monitor`]), per peer at most one mesh dialler and one data
//! dialler, per connection a few readers. No lock is held over an await. All tasks end when the endpoint
//! is closed; aborting any of them loses connections, never state that others rely on.
//!
//! Every queue is bounded. Datagrams are dropped when the driver is behind (SWIM lives with loss) and
//! counted; messages wait for it, which holds the peer back by QUIC's flow control.

mod accept;
mod backoff;
mod data;
mod dial;
mod health;
pub mod lane;
mod lateness;
mod line;
mod mesh;
mod metrics;
mod monitor;
mod patience;
mod peer;
mod relay;
mod sense;
mod settle;
mod silence;
mod socket;
mod stream;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hearth_proto::ids::{Identity, NodeName};
use hearth_proto::node::{RelayInput, RelayWish};
use hearth_proto::{view, wire};
use quinn::{Endpoint, VarInt};
use tokio::io::DuplexStream;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::identity::Credentials;

pub use data::InFlight;
pub use health::{LinkHealth, lost};
pub use lane::choose::LaneChoice;
pub(crate) use lateness::Lateness;
pub use metrics::{Labelled, LinkMetrics};
pub use stream::{DataStream, Receiver, Sender, StreamError};

use monitor::Monitor;
use peer::Peer;

/// Dials under way at once, for mesh links and for data connections each.
const MAX_DIALS: usize = 16;
/// QUIC handshakes of others under way at once; beyond it they are refused.
const MAX_HANDSHAKES: usize = 256;
/// How long a closing endpoint waits for its peers to take note.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Why a connection is closed, as its peer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum CloseCode {
    /// This agent leaves.
    Leaving = 0,
    /// Another link of the pair stays.
    Retired = 1,
    /// An older generation than was seen.
    OldGeneration = 2,
    /// A newer start of the peer took over.
    Superseded = 3,
    /// The peer does what its identity or the protocol does not allow.
    Refused = 4,
    /// Trust was withdrawn.
    Cut = 5,
    /// Nothing is acknowledged on it while the peer answers elsewhere.
    Stale = 6,
    /// A link to ourselves.
    Own = 7,
}

impl CloseCode {
    pub(crate) fn code(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }

    /// What the peer says by this code.
    pub(crate) fn farewell(code: u64) -> Farewell {
        let gives_up = code == Self::Retired as u64 || code == Self::Stale as u64;
        if gives_up { Farewell::GivenUp } else { Farewell::Said }
    }
}

/// How a connection ended, as far as that says something of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// By somebody's word.
    Said,
    /// The peer gave the connection up for its own sake: it is there, and wants to go on with us.
    GivenUp,
    /// Without one: for want of answers, or broken.
    None,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Mesh,
    Data,
}

impl Kind {
    pub(crate) fn alpn(self) -> &'static [u8] {
        match self {
            Self::Mesh => wire::ALPN_MESH,
            Self::Data => wire::ALPN_DATA,
        }
    }
}

/// What links tell the driver.
#[derive(Debug)]
pub enum LinkEvent {
    /// A mesh link is up, or its peer came back as a newer generation.
    Up {
        /// Who.
        peer: NodeName,
        /// What it said of itself.
        hello: wire::Hello,
        /// Where it is reached.
        address: SocketAddr,
    },
    /// The mesh link is gone, or a dial of a watched or probed peer failed.
    Down {
        /// Who.
        peer: NodeName,
        /// Why, in words.
        reason: String,
        /// It ended by somebody's word, not for want of answers.
        orderly: bool,
    },
    /// What we send to the peer goes unanswered.
    Silent {
        /// Who.
        peer: NodeName,
        /// For how long the oldest send has been unanswered.
        since: Duration,
    },
    /// A silent peer answered again, or a probed one did.
    Heard {
        /// Who.
        peer: NodeName,
    },
    /// How it stands with a relay that was wished for.
    Relay {
        /// Which.
        wish: RelayWish,
        /// How.
        input: RelayInput,
    },
    /// A datagram of the peer.
    Datagram {
        /// Who sent it, by its certificate.
        from: NodeName,
        /// The whole datagram, envelope included.
        bytes: Bytes,
    },
    /// A message of the peer.
    Message {
        /// Who sent it, by its certificate.
        from: Identity,
        /// What it says.
        message: wire::Message,
        /// Where the answer goes, when one is awaited.
        reply: Option<oneshot::Sender<wire::Message>>,
    },
}

/// Why a link does not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkError {
    /// The mesh port could not be opened.
    #[error(
        "cannot listen on the mesh port {listen} ({protocol}, mesh.listen): {why}\n  hint: `ss -l{}np \
         'sport = :{}'` names who holds the port; set mesh.listen to another port, or to an address of \
         this host", &protocol[..1], listen.port()
    )]
    Bind {
        /// The port.
        listen: SocketAddr,
        /// `udp` or `tcp`.
        protocol: &'static str,
        /// What the system said.
        why: String,
    },
    /// No connection could be made.
    #[error("cannot reach {peer} at {address}: {why}")]
    Unreachable {
        /// Who, or `a seed`.
        peer: String,
        /// Where.
        address: SocketAddr,
        /// What happened.
        why: String,
    },
    /// Too much is under way to the peer already.
    #[error("{peer} is busy: {why}")]
    Busy {
        /// Who.
        peer: NodeName,
        /// What is exhausted.
        why: &'static str,
    },
    /// The connection broke.
    #[error("the connection to {peer} broke: {why}")]
    Lost {
        /// Who.
        peer: NodeName,
        /// What happened.
        why: String,
    },
    /// The links are being closed.
    #[error("this agent is shutting down")]
    Closed,
}

/// Where tasks run. A busy data path must not make a probe late, so the mesh has its own.
#[derive(Clone, Debug)]
pub struct Runtimes {
    /// The endpoint, mesh links and the silence monitor.
    pub mesh: Handle,
    /// Data connections and lanes: one for each data thread, by its [`crate::threads::slot`]. Never empty.
    pub data: Vec<Handle>,
}

impl Runtimes {
    /// Everything on the runtime of the caller. Panics outside of one, as tokio does.
    pub fn current() -> Self {
        Self { mesh: Handle::current(), data: vec![Handle::current()] }
    }

    /// The data thread of this slot; slots beyond the last begin again with the first.
    fn data_of(&self, slot: usize) -> &Handle {
        &self.data[slot % self.data.len()]
    }
}

type StreamHandler = Box<dyn Fn(NodeName, DataStream) + Send + Sync>;

/// What all tasks of the links share.
pub(crate) struct Shared {
    endpoint: Endpoint,
    credentials: Credentials,
    hello: wire::Hello,
    events: mpsc::Sender<LinkEvent>,
    metrics: LinkMetrics,
    runtimes: Runtimes,
    peers: Mutex<BTreeMap<NodeName, Arc<Peer>>>,
    seeds: Mutex<HashSet<SocketAddr>>,
    mesh_dials: Semaphore,
    data_dials: Semaphore,
    handshakes: Arc<Semaphore>,
    doorstep: lane::Doorstep,
    handler: OnceLock<StreamHandler>,
    monitor: Monitor,
    closed: AtomicBool,
    /// The same, to be awaited.
    ended: watch::Sender<bool>,
    /// Third agents that carry for us.
    relays: relay::Relays,
    /// What the windows of lanes may grow by.
    budget: Arc<lane::Budget>,
    choice: AtomicU8,
}

/// A lock that outlives a panic elsewhere: what it guards is valid between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn own(&self) -> &NodeName {
        self.credentials.node()
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    async fn ended(&self) {
        // The sender lives as long as we do.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    fn choice(&self) -> LaneChoice {
        match self.choice.load(Ordering::Relaxed) {
            1 => LaneChoice::Quic,
            2 => LaneChoice::Tcp,
            _ => LaneChoice::Auto,
        }
    }

    fn peer(&self, name: &NodeName, address: SocketAddr) -> Arc<Peer> {
        lock(&self.peers)
            .entry(name.clone())
            .or_insert_with(|| Arc::new(Peer::new(name.clone(), address)))
            .clone()
    }

    fn known(&self, name: &NodeName) -> Option<Arc<Peer>> {
        lock(&self.peers).get(name).cloned()
    }

    fn all(&self) -> Vec<Arc<Peer>> {
        lock(&self.peers).values().cloned().collect()
    }
}

/// The links of an agent. Clones are handles to the same.
#[derive(Clone)]
pub struct Links {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").field("node", self.shared.own()).finish_non_exhaustive()
    }
}

impl Links {
    /// Opens the mesh port and starts accepting. Installs itself as the credentials' observer of
    /// refused handshakes.
    pub fn bind(
        listen: SocketAddr,
        credentials: Credentials,
        hello: wire::Hello,
        events: mpsc::Sender<LinkEvent>,
        metrics: LinkMetrics,
        runtimes: Runtimes,
    ) -> Result<Self, LinkError> {
        let failed = |why: String| LinkError::Bind { listen, protocol: "udp", why };
        let config = socket::server_config(&credentials).map_err(|e| failed(e.to_string()))?;
        let socket = socket::open(listen).map_err(|e| failed(e.to_string()))?;
        let endpoint = {
            let _context = runtimes.mesh.enter();
            Endpoint::new(
                socket::endpoint_config(),
                Some(config),
                socket,
                Arc::new(quinn::TokioRuntime),
            )
            .map_err(|e| failed(e.to_string()))?
        };
        // An endpoint asked for any port has been given one.
        let listen = endpoint.local_addr().unwrap_or(listen);
        let listener = lane::open_listener(listen).map_err(|e| LinkError::Bind {
            listen,
            protocol: "tcp",
            why: e.to_string(),
        })?;
        let counted = metrics.clone();
        credentials.on_refusal(move |refusal| counted.refuse(refusal.reason()));
        let shared = Arc::new(Shared {
            endpoint,
            credentials,
            hello,
            events,
            metrics,
            runtimes,
            peers: Mutex::default(),
            seeds: Mutex::default(),
            mesh_dials: Semaphore::new(MAX_DIALS),
            data_dials: Semaphore::new(MAX_DIALS),
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
            doorstep: lane::Doorstep::default(),
            handler: OnceLock::new(),
            monitor: Monitor::default(),
            closed: AtomicBool::new(false),
            ended: watch::Sender::new(false),
            relays: relay::Relays::default(),
            budget: Arc::default(),
            choice: AtomicU8::new(0),
        });
        shared.runtimes.mesh.spawn(accept::run(shared.clone()));
        shared.runtimes.mesh.spawn(lane::accept(shared.clone(), listener));
        shared.runtimes.mesh.spawn(monitor::run(shared.clone()));
        Ok(Self { shared })
    }

    /// The address the mesh port is bound to.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.shared.endpoint.local_addr().ok()
    }

    /// Who serves the streams of data connections that others dialled. Set once, before the first of
    /// them can arrive; streams that come while nobody serves are reset, a later call changes nothing.
    pub fn serve_streams(&self, handler: impl Fn(NodeName, DataStream) + Send + Sync + 'static) {
        if self.shared.handler.set(Box::new(handler)).is_err() {
            tracing::error!("streams are served by somebody already");
        }
    }

    /// Dials an address whose owner is not known yet, once. [`LinkEvent::Up`] follows when it answers.
    /// Does nothing when the address is our own, or is being dialled.
    pub fn dial_seed(&self, address: SocketAddr) {
        dial::seed(&self.shared, address);
    }

    /// Sends a datagram without waiting. Without a link it is kept for a moment, with a few others, and
    /// the peer is dialled.
    pub fn send_datagram(&self, to: &NodeName, address: SocketAddr, bytes: Bytes) {
        let peer = self.shared.peer(to, address);
        match peer.send_datagram(address, bytes) {
            peer::Sent::Now => self.shared.monitor.look(&peer),
            peer::Sent::Kept { dropped } => {
                if dropped {
                    self.shared.metrics.drop("datagrams_out");
                }
                dial::want_mesh(&self.shared, &peer);
            }
            peer::Sent::Dropped => self.shared.metrics.drop("datagrams_out"),
        }
    }

    /// Sends a message on a stream of its own, without waiting. Without a link it is kept for a few
    /// seconds, and the peer is dialled.
    pub fn send_message(&self, to: &NodeName, address: SocketAddr, message: &wire::Message) {
        let bytes = match message.encode() {
            Ok(bytes) if bytes.len() <= wire::MAX_MESSAGE => bytes,
            Ok(bytes) => {
                tracing::error!(message = message.name(), size = bytes.len(), "message too large");
                self.shared.metrics.drop("messages_out");
                return;
            }
            Err(error) => {
                tracing::error!(message = message.name(), %error, "message not encoded");
                return;
            }
        };
        let peer = self.shared.peer(to, address);
        match peer.send_message(address, bytes.into()) {
            peer::Sent::Now => self.shared.monitor.look(&peer),
            peer::Sent::Kept { dropped } => {
                if dropped {
                    self.shared.metrics.drop("messages_out");
                }
                dial::want_mesh(&self.shared, &peer);
            }
            peer::Sent::Dropped => self.shared.metrics.drop("messages_out"),
        }
    }

    /// The peers to keep a link with and to sense even when idle. Replaces the earlier list.
    pub fn watch(&self, peers: Vec<(NodeName, SocketAddr)>) {
        let wanted: BTreeMap<NodeName, SocketAddr> =
            peers.into_iter().filter(|(name, _)| name != self.shared.own()).collect();
        for peer in self.shared.all() {
            if !wanted.contains_key(&peer.name) {
                peer.unwatch();
            }
        }
        let mut watched = Vec::with_capacity(wanted.len());
        for (name, address) in wanted {
            let peer = self.shared.peer(&name, address);
            peer.watch(address);
            dial::want_mesh(&self.shared, &peer);
            watched.push(peer);
        }
        self.shared.monitor.watch(watched);
    }

    /// Looks at a peer now. [`LinkEvent::Heard`], [`LinkEvent::Silent`] or, when it cannot be dialled,
    /// [`LinkEvent::Down`] follows.
    pub fn probe(&self, to: &NodeName, address: SocketAddr) {
        let peer = self.shared.peer(to, address);
        if !peer.probe(address) {
            dial::want_mesh(&self.shared, &peer);
        }
        self.shared.monitor.look(&peer);
    }

    /// Closes every connection with a peer, because trust in it was withdrawn. Whether it may come back
    /// is the credentials' business.
    pub fn cut(&self, peer: &NodeName, reason: &str) {
        if let Some(peer) = self.shared.known(peer) {
            tracing::warn!(peer = %peer.name, reason, "links cut");
            peer.close_all(CloseCode::Cut, reason);
        }
    }

    /// Every peer there is a connection with.
    pub fn views(&self) -> Vec<view::LinkView> {
        let mut views = self.shared.all().iter().filter_map(|p| p.view()).collect();
        self.shared.relays.show(&mut views);
        views
    }

    /// Who asks third agents for a way to a peer. Set once, before the first wish; a later call changes nothing.
    pub fn relay_by(
        &self,
        open: impl Fn(RelayWish) -> BoxFuture<'static, Result<DuplexStream, String>>
        + Send
        + Sync
        + 'static,
    ) {
        self.shared.relays.open_by(Box::new(open));
    }

    /// Has exactly these third agents carry for us. [`LinkEvent::Relay`] follows for each.
    pub fn relay(&self, wishes: Vec<RelayWish>) {
        relay::wish(&self.shared, wishes);
    }

    /// Opens a stream to `to` that `via` relays, if it does at this moment.
    pub fn open_stream_through(
        &self,
        to: &NodeName,
        via: &NodeName,
    ) -> Result<DataStream, LinkError> {
        relay::open(&self.shared, to, via)
    }

    /// How it stands with a peer through a relay, to be awaited.
    pub fn health_through(&self, to: &NodeName, via: &NodeName) -> watch::Receiver<LinkHealth> {
        relay::health(&self.shared, to, via)
    }

    /// What carries requests whose policy does not say.
    pub fn prefer(&self, choice: LaneChoice) {
        self.shared.choice.store(choice as u8, Ordering::Relaxed);
    }

    /// Whether the silence of peers is sensed, as it is from the start. Off, nobody is pinged: a peer that
    /// falls silent is found by membership and by the time-outs of requests, in seconds.
    pub fn sense(&self, on: bool) {
        if !on {
            tracing::warn!("mesh.sensing is off: hosts that fall silent are found in seconds");
        }
        self.shared.monitor.sense(on);
    }

    /// Opens a stream to `to`, dialling it when there is no connection for it.
    pub async fn open_stream(
        &self,
        to: &NodeName,
        address: SocketAddr,
    ) -> Result<DataStream, LinkError> {
        self.open_stream_by(to, address, self.shared.choice()).await
    }

    /// Opens a stream to `to` on a lane that is chosen by whoever asks.
    pub async fn open_stream_by(
        &self,
        to: &NodeName,
        address: SocketAddr,
        choice: LaneChoice,
    ) -> Result<DataStream, LinkError> {
        let peer = self.shared.peer(to, address);
        data::open(&self.shared, &peer, address, choice).await
    }

    /// Connects with `to` for requests to come, on every data thread. Returns when that stands, or failed.
    pub async fn prepare(&self, to: &NodeName, address: SocketAddr) {
        let peer = self.shared.peer(to, address);
        data::prepare(&self.shared, &peer, address, self.shared.choice()).await;
    }

    /// Whether what began at `began` took long until `now` because this agent itself was stopped or starved:
    /// it proves nothing about others.
    pub fn excuses(&self, began: Instant, now: Instant) -> bool {
        self.shared.monitor.lateness.excuses(began, now)
    }

    /// How it stands with a peer, to be awaited.
    pub fn health(&self, peer: &NodeName) -> watch::Receiver<LinkHealth> {
        // Whoever dials brings its address.
        self.shared.peer(peer, relay::NOWHERE).health()
    }

    /// Since when a peer has left us without an answer, if it is silent.
    pub fn silent_since(&self, peer: &NodeName) -> Option<Instant> {
        let peer = self.shared.known(peer)?;
        let silence = lock(&peer.state).sense.silence;
        silence.map(|s| s.opened)
    }

    /// Forgets peers that nobody needed for long: nodes come and go over the months. To be called now and
    /// then; a peer is forgotten after `times` calls in a row that found it unused.
    ///
    /// Lanes give back the memory that they do not use at the moment.
    pub fn sweep(&self, times: u32) {
        self.shared.all().iter().for_each(|peer| peer.rest());
        // Whoever holds a peer got it from this map: one that only the map holds, under its lock, is
        // held by nobody.
        lock(&self.shared.peers).retain(|_, p| Arc::strong_count(p) > 1 || !p.is_forgotten(times));
    }

    /// Closes all links and tells the peers.
    pub async fn close(&self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        self.shared.ended.send_replace(true);
        self.shared.monitor.wake();
        for peer in self.shared.all() {
            peer.close_lanes(CloseCode::Leaving, "leaving");
        }
        self.shared.endpoint.close(CloseCode::Leaving.code(), b"leaving");
        // A peer that does not take note learns when it next asks.
        let _ = tokio::time::timeout(CLOSE_LIMIT, self.shared.endpoint.wait_idle()).await;
    }
}
