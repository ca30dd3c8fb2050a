//! All we hold of one peer: its connections, what waits for one, and what was sensed of it.
//!
//! Owns the state behind one lock per peer; each method takes it once and awaits nothing. Which event
//! follows from a change is decided here and delivered by the caller.

mod state;

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
use super::data::DataDial;
use super::lane::Lane;
use super::lane::choose::{self, Carrier, Losses};
use super::lane::pool::{MAX_LANES, Slots};
use super::line::{Given, Line};
use super::sense::{Sense, Tracked, TrackedLane};
use super::settle::{Contender, On, Verdict, settle};
use super::{CloseCode, Farewell, Kind, LinkHealth, lock};

#[cfg(test)]
pub(crate) use state::AT_REST;
pub(crate) use state::{Mesh, STALE_AFTER, State};

/// Datagrams kept while a dial is under way.
const KEPT_DATAGRAMS: usize = 8;
/// Messages kept while a dial is under way.
const KEPT_MESSAGES: usize = 64;
/// A link over QUIC that is younger than this works, whatever was dialled beside it over TCP: to give up one
/// that does not takes longer.
const YOUNG: Duration = Duration::from_millis(500);
/// Connections of one peer at once. A mesh link and a data connection in each direction, those that were
/// replaced, and room; beyond it somebody opens them without end.
const MAX_CONNECTIONS: usize = 32;

/// Where something to be sent went.
pub(crate) enum Sent {
    /// To the transport.
    Now,
    /// Into the queue; perhaps an older one was dropped for it.
    Kept { dropped: bool },
    /// Nowhere.
    Dropped,
}

/// One peer.
pub(crate) struct Peer {
    pub(crate) name: NodeName,
    pub(crate) state: Mutex<State>,
    /// The lanes we dialled. Taken after `state` where both are.
    pub(crate) slots: Mutex<Slots>,
    /// Whether `auto` means QUIC on the path to it.
    prefers_quic: AtomicBool,
    /// Whether the mesh link had to be made over TCP.
    udp_blocked: AtomicBool,
    /// Requests of ours so far.
    pub(crate) begun: AtomicUsize,
    /// Requests of ours under way.
    pub(crate) in_flight: AtomicUsize,
    /// Those of them that are on lanes.
    pub(crate) on_lanes: AtomicUsize,
    /// Requests of ours that wait for a data connection.
    pub(crate) waiting: AtomicUsize,
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
    pub(crate) retired: Option<Line>,
}

/// What follows from an answer to a ping.
pub(crate) struct Ponged {
    /// The driver is to be told.
    pub(crate) news: bool,
    /// It ended a silence that was none.
    pub(crate) false_alarm: bool,
}

/// What ended with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Nothing that matters.
    Nothing,
    /// The mesh link; the peer is alive all the same, by what is heard on its lanes.
    Quietly,
    /// The mesh link, and with it all we know of the peer.
    Link {
        /// What its end says of the peer.
        farewell: Farewell,
        /// We gave it up for want of answers.
        given_up: bool,
    },
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
                lanes: Vec::new(),
                relayed: Vec::new(),
                dialling: false,
                watched: false,
                told_down: false,
                owes_down: false,
                backoff: Backoff::default(),
                not_before: None,
                sense: Sense::default(),
                losses: Losses::default(),
                unused: 0,
                datagrams: VecDeque::new(),
                messages: VecDeque::new(),
            }),
            slots: Mutex::default(),
            prefers_quic: AtomicBool::new(false),
            udp_blocked: AtomicBool::new(false),
            begun: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            on_lanes: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
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
            match mesh.line.send_datagram(bytes.clone()) {
                Given::Sent => return Sent::Now,
                Given::Gone => {}
                Given::Refused(why) => {
                    // Too large is a bug in whoever made it; the bound is the wire module's.
                    tracing::error!(peer = %self.name, size = bytes.len(), why, "datagram not sent");
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
            || state.owes_down
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
        line: &Line,
        dialled_here: bool,
        hello: &wire::Hello,
        address: SocketAddr,
        outbox: mpsc::Sender<Bytes>,
    ) -> Registered {
        let mut state = lock(&self.state);
        let on = if line.is_quic() { On::Quic { young: true } } else { On::Tcp };
        let new = Contender { generation: hello.generation, dialled_here, silent: false, on };
        let current = state.mesh.as_ref().map(|m| Contender {
            generation: m.generation,
            dialled_here: m.dialled_here,
            silent: state.sense.silence.is_some() || !m.line.is_open(),
            on: match &m.line {
                Line::Quic(_) => On::Quic { young: m.since.elapsed() < YOUNG },
                Line::Lane(_) => On::Tcp,
            },
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
        match line {
            Line::Quic(connection) => {
                state.connections.push(Tracked::new(connection.clone(), Kind::Mesh));
            }
            Line::Lane(lane) => state.lanes.push(TrackedLane::new(lane.clone())),
        }
        if verdict == Verdict::Keep {
            return registered;
        }
        let owed = std::mem::take(&mut state.owes_down);
        registered.up = state.mesh.is_none() && !owed || verdict == Verdict::Supersede;
        registered.retired = state.mesh.take().map(|m| m.line);
        if verdict == Verdict::Supersede {
            if state.newest > Generation(0)
                && let Some(data) = state.data.take()
            {
                // It most likely belongs to the start that is gone: new requests get a fresh one.
                data.retire();
            }
            state.newest = hello.generation;
            lock(&self.slots).retire_older(hello.generation);
            state.question_data();
        }
        state.expire(Instant::now());
        registered.datagrams = state.datagrams.drain(..).map(|(_, b)| b).collect();
        registered.messages = state.messages.drain(..).map(|(_, b)| b).collect();
        state.mesh = Some(Mesh {
            line: line.clone(),
            dialled_here,
            generation: hello.generation,
            outbox,
            since: Instant::now(),
        });
        self.udp_blocked.store(!line.is_quic(), Ordering::Relaxed);
        state.address = address;
        state.told_down = false;
        state.data_dial.forgive();
        lock(&self.slots).forgive();
        // Two Hellos crossed: both directions work.
        state.revive();
        self.publish(&state);
        registered
    }

    /// Forgets a connection that is closed.
    pub(crate) fn unregister(&self, line: &Line, mut farewell: Farewell) -> Lost {
        let mut state = lock(&self.state);
        let mut given_up = false;
        match line {
            Line::Quic(connection) => {
                let id = connection.stable_id();
                let is = |t: &Tracked| t.connection.stable_id() == id;
                given_up = state.connections.iter().any(|t| is(t) && t.given_up);
                if given_up {
                    farewell = Farewell::None;
                }
                state.connections.retain(|t| !is(t));
                if state.data.as_ref().is_some_and(|d| d.connection.stable_id() == id) {
                    state.data = None;
                }
            }
            Line::Lane(lane) => state.lanes.retain(|t| !Arc::ptr_eq(&t.lane, lane)),
        }
        let mut lost = Lost::Nothing;
        if let Some(mesh) = state.mesh.take_if(|m| m.line.is(line)) {
            state.pace(mesh.since.elapsed());
            let lives_on = match farewell {
                Farewell::Said => false,
                // It has just been heard, though perhaps on nothing else: we may have been stopped.
                Farewell::GivenUp => state.has_lanes() || state.data.is_some(),
                Farewell::None => state.hears_lanes(Instant::now()),
            };
            if farewell != Farewell::GivenUp {
                state.close_data();
            }
            lost = if lives_on {
                // UDP is blocked, or another link is on its way: the next dial will tell.
                (state.owes_down, state.backoff, state.not_before) =
                    (true, Backoff::default(), None);
                Lost::Quietly
            } else {
                state.told_down = true;
                state.close_dialled();
                Lost::Link { farewell, given_up }
            };
        }
        state.forget_sense_if_alone();
        self.publish(&state);
        lost
    }

    pub(crate) fn track_lane(&self, lane: &Arc<Lane>) {
        let mut state = lock(&self.state);
        state.lanes.push(TrackedLane::new(lane.clone()));
        self.publish(&state);
    }

    pub(crate) fn untrack_lane(&self, lane: &Arc<Lane>) {
        let mut state = lock(&self.state);
        state.lanes.retain(|t| !Arc::ptr_eq(&t.lane, lane));
        state.forget_sense_if_alone();
        self.publish(&state);
    }

    /// A lane to or from it that a third agent relays.
    pub(crate) fn keep_relayed(&self, lane: &Arc<Lane>) {
        lock(&self.state).relayed.push(lane.clone());
    }

    pub(crate) fn forget_relayed(&self, lane: &Arc<Lane>) {
        lock(&self.state).relayed.retain(|l| !Arc::ptr_eq(l, lane));
    }

    pub(crate) fn close_lanes(&self, code: CloseCode, reason: &str) {
        lock(&self.state).all_lanes().for_each(|lane| lane.close(code, reason));
    }

    /// Its lanes give back memory that they do not use at the moment.
    pub(crate) fn rest(&self) {
        lock(&self.state).all_lanes().for_each(|lane| lane.rest());
    }

    /// What `auto` means on the path to it.
    pub(crate) fn auto(&self) -> Carrier {
        if self.prefers_quic.load(Ordering::Relaxed) { Carrier::Quic } else { Carrier::Tcp }
    }

    /// Whether UDP does not get through to it, as far as is known.
    pub(crate) fn is_udp_blocked(&self) -> bool {
        self.udp_blocked.load(Ordering::Relaxed)
    }

    /// Judges the path anew by what the mesh link and QUIC's data connections lost.
    pub(crate) fn judge_path(&self, state: &mut State) {
        let (mut sent, mut lost) = (0, 0);
        for tracked in &mut state.connections {
            let (s, l) = tracked.losses();
            (sent, lost) = (sent + s, lost + l);
        }
        state.losses.add(sent, lost);
        let Some(mesh) = &state.mesh else { return };
        let carrier = choose::auto(self.auto(), mesh.line.least_rtt(), state.losses);
        self.prefers_quic.store(carrier == Carrier::Quic, Ordering::Relaxed);
    }

    pub(crate) fn track(&self, connection: &Connection, kind: Kind) {
        let mut state = lock(&self.state);
        state.connections.push(Tracked::new(connection.clone(), kind));
        self.publish(&state);
    }

    /// Whether it may open one more connection.
    pub(crate) fn has_room(&self) -> bool {
        let state = lock(&self.state);
        state.connections.len() < MAX_CONNECTIONS && state.all_lanes().count() < MAX_LANES
    }

    /// Whether this is the `times`th sweep in a row that finds nothing here that anybody needs.
    pub(crate) fn is_forgotten(&self, times: u32) -> bool {
        let mut state = lock(&self.state);
        state.expire(Instant::now());
        let used = state.watched
            || state.dialling
            || state.data_dial.is_under_way()
            || state.is_connected()
            || !state.relayed.is_empty()
            || lock(&self.slots).is_under_way()
            || !state.datagrams.is_empty()
            || !state.messages.is_empty();
        state.unused = if used { 0 } else { state.unused + 1 };
        state.unused >= times
    }

    pub(crate) fn close_all(&self, code: CloseCode, reason: &str) {
        for tracked in &lock(&self.state).connections {
            tracked.connection.close(code.code(), reason.as_bytes());
        }
        self.close_lanes(code, reason);
    }

    /// An answer to one of our pings.
    pub(crate) fn pong(&self, number: u64, now: Instant) -> Ponged {
        let mut state = lock(&self.state);
        let (mut news, mut false_alarm) = (false, false);
        if let Some(silence) = state.sense.silence.filter(|s| number >= s.floor) {
            false_alarm = silence.was_false(now);
            state.revive();
            news = true;
        }
        if state.sense.probing.is_some_and(|floor| number >= floor) {
            state.sense.probing = None;
            state.sense.answered = true;
            news = true;
        }
        self.publish(&state);
        Ponged { news, false_alarm }
    }

    /// Makes the state of the connections known to requests under way.
    pub(crate) fn publish(&self, state: &State) {
        let health = match state.sense.silence {
            _ if !state.is_connected() => LinkHealth::Down,
            Some(silence) if silence.due().is_none() => LinkHealth::Lost,
            Some(_) => LinkHealth::Silent,
            None => LinkHealth::Up,
        };
        self.health.send_if_modified(|h| std::mem::replace(h, health) != health);
    }

    pub(crate) fn view(&self) -> Option<view::LinkView> {
        let state = lock(&self.state);
        let first = state.connections.first();
        let (rtt, carrier) = match (&state.mesh, first) {
            (Some(mesh), _) => (mesh.line.rtt(), mesh.line.carrier()),
            (None, Some(tracked)) => (tracked.connection.rtt(), "quic"),
            (None, None) => return None,
        };
        Some(view::LinkView {
            node: self.name.clone(),
            state: if state.sense.silence.is_some() { "silent" } else { "up" }.into(),
            rtt_us: u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX),
            carrier: carrier.into(),
            via: None,
        })
    }

    pub(crate) fn requests(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}
