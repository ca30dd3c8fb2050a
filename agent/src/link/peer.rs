//! All we hold of one peer: its connections, what waits for one, and what was sensed of it.
//!
//! Owns the state behind one lock per peer; each method takes it once and awaits nothing. Which event
//! follows from a change is decided here and delivered by the caller.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_proto::ids::{Generation, NodeName};
use hearth_proto::{view, wire};
use quinn::Connection;
use tokio::sync::{mpsc, watch};

use super::backoff::Backoff;
use super::data::{DataConnection, DataDial};
use super::settle::{Contender, Verdict, settle};
use super::silence::{PathFacts, Window, threshold};
use super::{CloseCode, Kind, LinkHealth, lock, socket};

/// Datagrams kept while a dial is under way, and for how long: a SWIM packet older than its probe
/// is worse than none.
const KEPT_DATAGRAMS: usize = 8;
const DATAGRAM_TTL: Duration = Duration::from_secs(1);
/// Messages kept while a dial is under way.
const KEPT_MESSAGES: usize = 64;
const MESSAGE_TTL: Duration = Duration::from_secs(5);
/// A link that has been silent for so long is dialled anew beside, and a data connection gets no new
/// requests: its congestion control is far in its backoff.
pub(crate) const STALE_AFTER: Duration = Duration::from_secs(1);

/// Kinds of datagram that are the links' own; SWIM packets are kind 0.
const PING: u8 = 255;
const PONG: u8 = 254;

/// Where something to be sent went.
pub(crate) enum Sent {
    /// To the transport.
    Now,
    /// Into the queue; perhaps an older one was dropped for it.
    Kept { dropped: bool },
    /// Nowhere.
    Dropped,
}

/// A connection and what it had sent and heard when last looked at.
pub(crate) struct Tracked {
    pub(crate) connection: Connection,
    pub(crate) kind: Kind,
    pub(crate) window: Window,
    pub(crate) sent: u64,
    pub(crate) heard: u64,
}

impl Tracked {
    fn new(connection: Connection, kind: Kind) -> Self {
        let mut tracked = Self { connection, kind, window: Window::default(), sent: 0, heard: 0 };
        // What the handshake sent and heard is no evidence.
        tracked.moved();
        tracked
    }

    /// What moved since the last look, ack-eliciting frames sent and datagrams heard, and how long an
    /// answer may take.
    ///
    /// Probes for a larger MTU may be lost on a healthy path and are not counted; neither are frames
    /// that elicit no acknowledgement, nor IMMEDIATE_ACK, which never comes alone.
    pub(crate) fn moved(&mut self) -> (bool, bool, Duration) {
        let stats = self.connection.stats();
        let tx = &stats.frame_tx;
        let all = tx.ack_frequency
            + tx.crypto
            + tx.data_blocked
            + tx.datagram
            + u64::from(tx.handshake_done)
            + tx.max_data
            + tx.max_stream_data
            + tx.max_streams_bidi
            + tx.max_streams_uni
            + tx.new_connection_id
            + tx.new_token
            + tx.path_challenge
            + tx.path_response
            + tx.ping
            + tx.reset_stream
            + tx.retire_connection_id
            + tx.stop_sending
            + tx.stream
            + tx.stream_data_blocked
            + tx.streams_blocked_bidi
            + tx.streams_blocked_uni;
        let sent = all.saturating_sub(stats.path.sent_plpmtud_probes);
        let heard = stats.udp_rx.datagrams;
        let moved = (sent > self.sent, heard > self.heard);
        (self.sent, self.heard) = (sent, heard);
        let ack_delay =
            if tx.ack_frequency > 0 { socket::ACK_DELAY } else { socket::ACK_DELAY_UNTOLD };
        let path = PathFacts { rtt: stats.path.rtt, min_rtt: stats.path.min_rtt, ack_delay };
        (moved.0, moved.1, threshold(path))
    }
}

/// The current mesh link.
pub(crate) struct Mesh {
    pub(crate) connection: Connection,
    pub(crate) dialled_here: bool,
    pub(crate) generation: Generation,
    pub(crate) outbox: mpsc::Sender<Bytes>,
}

/// A silence that was declared and not ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silence {
    /// When the first unanswered send was noticed.
    pub(crate) opened: Instant,
    /// Only a pong to this ping or a later one ends it: one direction may still work.
    pub(crate) floor: u64,
}

/// What was sensed of the peer.
pub(crate) struct Sense {
    pub(crate) window: Window,
    pub(crate) silence: Option<Silence>,
    /// Whether the driver knows of the silence.
    pub(crate) told: bool,
    /// A pong to this ping or a later one is news even if the peer was not silent.
    pub(crate) probing: Option<u64>,
    /// A probe was answered and the driver is to be told.
    pub(crate) answered: bool,
    /// Number of the next ping.
    pub(crate) next_ping: u64,
    /// When something ack-eliciting was last seen to go out.
    pub(crate) last_sent: Option<Instant>,
    pub(crate) last_ping: Option<Instant>,
}

pub(crate) struct State {
    pub(crate) address: SocketAddr,
    pub(crate) newest: Generation,
    pub(crate) mesh: Option<Mesh>,
    pub(crate) data: Option<Arc<DataConnection>>,
    pub(crate) data_dial: DataDial,
    pub(crate) connections: Vec<Tracked>,
    pub(crate) dialling: bool,
    pub(crate) watched: bool,
    pub(crate) told_down: bool,
    pub(crate) backoff: Backoff,
    pub(crate) sense: Sense,
    datagrams: VecDeque<(Instant, Bytes)>,
    messages: VecDeque<(Instant, Bytes)>,
}

/// One peer.
pub(crate) struct Peer {
    pub(crate) name: NodeName,
    pub(crate) state: Mutex<State>,
    /// Requests of ours under way.
    pub(crate) in_flight: AtomicUsize,
    /// Whether the monitor has it on its list.
    pub(crate) looked_at: AtomicBool,
    /// How often somebody asked the monitor to look.
    pub(crate) looks: AtomicUsize,
    health: watch::Sender<LinkHealth>,
}

/// What became of a new mesh link.
pub(crate) struct Registered {
    pub(crate) verdict: Verdict,
    /// The driver is to be told that the peer is up.
    pub(crate) up: bool,
    /// What waited for a link.
    pub(crate) datagrams: Vec<Bytes>,
    pub(crate) messages: Vec<Bytes>,
    /// The link that was replaced.
    pub(crate) retired: Option<Connection>,
}

impl Peer {
    pub(crate) fn new(name: NodeName, address: SocketAddr) -> Self {
        Self {
            name,
            state: Mutex::new(State {
                address,
                newest: Generation(0),
                mesh: None,
                data: None,
                data_dial: DataDial::default(),
                connections: Vec::new(),
                dialling: false,
                watched: false,
                told_down: false,
                backoff: Backoff::default(),
                sense: Sense {
                    window: Window::default(),
                    silence: None,
                    told: false,
                    probing: None,
                    answered: false,
                    next_ping: 0,
                    last_sent: None,
                    last_ping: None,
                },
                datagrams: VecDeque::new(),
                messages: VecDeque::new(),
            }),
            in_flight: AtomicUsize::new(0),
            looked_at: AtomicBool::new(false),
            looks: AtomicUsize::new(0),
            health: watch::Sender::new(LinkHealth::Down),
        }
    }

    pub(crate) fn health(&self) -> watch::Receiver<LinkHealth> {
        self.health.subscribe()
    }

    pub(crate) fn watch(&self, address: SocketAddr) {
        let mut state = lock(&self.state);
        state.address = address;
        state.watched = true;
    }

    pub(crate) fn unwatch(&self) {
        lock(&self.state).watched = false;
    }

    pub(crate) fn send_datagram(&self, address: SocketAddr, bytes: Bytes) -> Sent {
        let mut state = lock(&self.state);
        state.address = address;
        if let Some(mesh) = &state.mesh {
            match mesh.connection.send_datagram(bytes.clone()) {
                Ok(()) => return Sent::Now,
                Err(quinn::SendDatagramError::ConnectionLost(_)) => {}
                Err(error) => {
                    // TooLarge is a bug in whoever made it; the bound is the wire module's.
                    tracing::error!(peer = %self.name, size = bytes.len(), %error, "datagram not sent");
                    return Sent::Dropped;
                }
            }
        }
        let dropped = state.datagrams.len() >= KEPT_DATAGRAMS;
        if dropped {
            state.datagrams.pop_front();
        }
        state.datagrams.push_back((Instant::now(), bytes));
        Sent::Kept { dropped }
    }

    pub(crate) fn send_message(&self, address: SocketAddr, bytes: Bytes) -> Sent {
        let mut state = lock(&self.state);
        state.address = address;
        if let Some(mesh) = &state.mesh {
            match mesh.outbox.try_send(bytes.clone()) {
                Ok(()) => return Sent::Now,
                Err(mpsc::error::TrySendError::Full(_)) => return Sent::Dropped,
                Err(mpsc::error::TrySendError::Closed(_)) => {}
            }
        }
        let dropped = state.messages.len() >= KEPT_MESSAGES;
        if dropped {
            state.messages.pop_front();
        }
        state.messages.push_back((Instant::now(), bytes));
        Sent::Kept { dropped }
    }

    /// Asks for a sign of life. `false`: there is nothing to ask on.
    pub(crate) fn probe(&self, address: SocketAddr) -> bool {
        let mut state = lock(&self.state);
        state.address = address;
        let number = state.sense.next_ping;
        state.sense.probing = Some(number);
        if state.sense.silence.is_some() {
            // Tell again: it still is.
            state.sense.told = false;
        }
        state.ping(Instant::now(), true)
    }

    /// Whether a dial would help, and if not, ends the dialling. One step, so that no wish that comes
    /// meanwhile is lost.
    pub(crate) fn wants_dial(&self, now: Instant) -> Option<SocketAddr> {
        let mut state = lock(&self.state);
        state.expire(now);
        let wanted = state.watched
            || state.sense.probing.is_some()
            || !state.datagrams.is_empty()
            || !state.messages.is_empty();
        if !wanted || state.linked(now) || state.address.port() == 0 {
            state.dialling = false;
            return None;
        }
        Some(state.address)
    }

    /// Takes a mesh link whose Hello is read. Everything that follows from the verdict but closing
    /// the connection has happened when this returns.
    pub(crate) fn register(
        &self,
        own: &NodeName,
        connection: &Connection,
        dialled_here: bool,
        hello: &wire::Hello,
        address: SocketAddr,
        outbox: mpsc::Sender<Bytes>,
    ) -> Registered {
        let mut state = lock(&self.state);
        let new = Contender { generation: hello.generation, dialled_here, silent: false };
        let current = state.mesh.as_ref().map(|m| Contender {
            generation: m.generation,
            dialled_here: m.dialled_here,
            silent: state.sense.silence.is_some() || m.connection.close_reason().is_some(),
        });
        let verdict = settle(own, &self.name, state.newest, current, new);
        let mut registered = Registered {
            verdict,
            up: false,
            datagrams: Vec::new(),
            messages: Vec::new(),
            retired: None,
        };
        if verdict == Verdict::Refuse {
            return registered;
        }
        state.connections.push(Tracked::new(connection.clone(), Kind::Mesh));
        if verdict == Verdict::Keep {
            return registered;
        }
        registered.up = state.mesh.is_none() || verdict == Verdict::Supersede;
        registered.retired = state.mesh.take().map(|m| m.connection);
        if verdict == Verdict::Supersede {
            state.newest = hello.generation;
            state.question_data();
        }
        state.expire(Instant::now());
        registered.datagrams = state.datagrams.drain(..).map(|(_, b)| b).collect();
        registered.messages = state.messages.drain(..).map(|(_, b)| b).collect();
        state.mesh = Some(Mesh {
            connection: connection.clone(),
            dialled_here,
            generation: hello.generation,
            outbox,
        });
        state.address = address;
        state.told_down = false;
        state.backoff = Backoff::default();
        // Two Hellos crossed: both directions work.
        state.revive();
        self.publish(&state);
        registered
    }

    /// Forgets a connection that is closed. `true`: it was the mesh link, and none is left.
    pub(crate) fn unregister(&self, connection: &Connection) -> bool {
        let id = connection.stable_id();
        let mut state = lock(&self.state);
        state.connections.retain(|t| t.connection.stable_id() != id);
        if state.data.as_ref().is_some_and(|d| d.connection.stable_id() == id) {
            state.data = None;
        }
        let was_link = state.mesh.as_ref().is_some_and(|m| m.connection.stable_id() == id);
        if was_link {
            state.mesh = None;
            state.told_down = true;
            // What is under way there moves at once: without a mesh link nothing senses for it.
            if let Some(data) = state.data.take() {
                data.connection.close(CloseCode::Stale.code(), b"the mesh link is gone");
            }
        }
        if state.connections.is_empty() {
            state.sense.silence = None;
            state.sense.told = false;
            state.sense.window = Window::default();
        }
        self.publish(&state);
        was_link
    }

    pub(crate) fn track(&self, connection: &Connection, kind: Kind) {
        let mut state = lock(&self.state);
        state.connections.push(Tracked::new(connection.clone(), kind));
        self.publish(&state);
    }

    pub(crate) fn close_all(&self, code: CloseCode, reason: &str) {
        for tracked in &lock(&self.state).connections {
            tracked.connection.close(code.code(), reason.as_bytes());
        }
    }

    /// An answer to one of our pings. `true`: the driver is to be told.
    pub(crate) fn pong(&self, number: u64) -> bool {
        let mut state = lock(&self.state);
        let mut news = false;
        if state.sense.silence.is_some_and(|s| number >= s.floor) {
            state.revive();
            news = true;
        }
        if state.sense.probing.is_some_and(|floor| number >= floor) {
            state.sense.probing = None;
            state.sense.answered = true;
            news = true;
        }
        self.publish(&state);
        news
    }

    /// Makes the state of the connections known to requests under way.
    pub(crate) fn publish(&self, state: &State) {
        let health = if state.connections.is_empty() {
            LinkHealth::Down
        } else if state.sense.silence.is_some() {
            LinkHealth::Silent
        } else {
            LinkHealth::Up
        };
        self.health.send_if_modified(|h| std::mem::replace(h, health) != health);
    }

    pub(crate) fn view(&self) -> Option<view::LinkView> {
        let state = lock(&self.state);
        let connection = match &state.mesh {
            Some(mesh) => &mesh.connection,
            None => &state.connections.first()?.connection,
        };
        Some(view::LinkView {
            node: self.name.clone(),
            state: if state.sense.silence.is_some() { "silent" } else { "up" }.into(),
            rtt_us: u64::try_from(connection.rtt().as_micros()).unwrap_or(u64::MAX),
        })
    }

    pub(crate) fn requests(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

impl State {
    /// Whether there is a mesh link that needs no second one.
    pub(crate) fn linked(&self, now: Instant) -> bool {
        let stale = self
            .sense
            .silence
            .is_some_and(|s| now.saturating_duration_since(s.opened) >= STALE_AFTER);
        !stale && self.mesh.as_ref().is_some_and(|m| m.connection.close_reason().is_none())
    }

    fn expire(&mut self, now: Instant) {
        let fresh = |t: &Instant, ttl| now.saturating_duration_since(*t) < ttl;
        self.datagrams.retain(|(t, _)| fresh(t, DATAGRAM_TTL));
        self.messages.retain(|(t, _)| fresh(t, MESSAGE_TTL));
    }

    fn revive(&mut self) {
        self.sense.silence = None;
        self.sense.window = Window::default();
    }

    /// The peer restarted. Data connections do not say which start of it they belong to: a ping on
    /// each tells soon which ones are dead.
    fn question_data(&mut self) {
        for tracked in self.connections.iter().filter(|t| t.kind == Kind::Data) {
            let _ = tracked.connection.send_datagram(ping(PING, 0));
        }
    }

    /// Sends a ping on the mesh link, and on every connection when `everywhere` or when there is no
    /// link. `false`: there is no connection to send it on.
    pub(crate) fn ping(&mut self, now: Instant, everywhere: bool) -> bool {
        let number = self.sense.next_ping;
        let link = self.mesh.as_ref().map(|m| m.connection.stable_id());
        let mut sent = false;
        for tracked in &mut self.connections {
            if everywhere || link.is_none_or(|id| id == tracked.connection.stable_id()) {
                // What was heard before this ping is no answer to it.
                tracked.heard = tracked.connection.stats().udp_rx.datagrams;
                sent |= tracked.connection.send_datagram(ping(PING, number)).is_ok();
            }
        }
        if sent {
            self.sense.next_ping += 1;
            self.sense.last_ping = Some(now);
        }
        sent
    }
}

fn ping(kind: u8, number: u64) -> Bytes {
    let mut bytes = Vec::with_capacity(10);
    bytes.extend_from_slice(&[wire::PROTOCOL, kind]);
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.into()
}

/// A datagram as the links see it.
pub(crate) enum Heard {
    /// To be answered with these bytes.
    Ping(Bytes),
    /// Answers our ping of this number.
    Pong(u64),
    /// The driver's.
    Other,
}

/// Sorts out the links' own datagrams.
pub(crate) fn sort(datagram: &[u8]) -> Heard {
    let [wire::PROTOCOL, kind, number @ ..] = datagram else { return Heard::Other };
    let Ok(number) = <[u8; 8]>::try_from(number).map(u64::from_be_bytes) else {
        return Heard::Other;
    };
    match *kind {
        PING => Heard::Ping(ping(PONG, number)),
        PONG => Heard::Pong(number),
        _ => Heard::Other,
    }
}
