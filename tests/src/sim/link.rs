//! The agent's link layer as a model, with its constants: dials, silence, pings, queues.
//!
//! A [`Side`] is what one host keeps of its link with another. Anything heard closes the window of a
//! pending silence; a silence that was told ends only by the answer to a ping sent after it, so that the
//! proof goes both ways. What is sent without a connection waits in a short queue while it is dialled.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hearth_proto::ids::NodeName;
use hearth_proto::node::LinkInput;
use hearth_proto::wire::Hello;
use rand::RngExt;

use super::world::{Life, What, World};
use super::{At, MS, S};

/// No silence earlier than this.
const FLOOR: u64 = 20 * MS;
const ACK_DELAY: u64 = 2 * MS;
const PING_WATCHED: u64 = 250 * MS;
const PING_SILENT: u64 = 100 * MS;
const STALE_AFTER: u64 = 300 * MS;
const KEEP_ALIVE: u64 = 5 * S;
const IDLE: u64 = 10 * S;
const DIAL_LIMIT: u64 = S;
/// A dial's first packet is repeated so long after it.
const DIAL_AGAIN: [u64; 3] = [0, 300 * MS, 900 * MS];
const QUEUE: usize = 64;
const CONNS: usize = 4;

/// What travels on a connection.
#[derive(Clone, Debug)]
pub enum Frame {
    /// A SWIM datagram.
    Datagram(Bytes),
    /// A message on a stream of its own.
    Message(Arc<[u8]>),
    /// Are you there?
    Ping(u64),
    /// The answer.
    Pong(u64),
    /// Something was received.
    Ack,
    /// The connection ends in good order.
    Close,
}

/// One host's side of its link with another.
#[derive(Debug, Default)]
pub struct Side {
    /// Connections that are up, newest last.
    conns: Vec<u64>,
    /// Connections accepted whose first frame has not come.
    accepting: Vec<(u64, Hello)>,
    dialling: Option<u64>,
    failures: u32,
    address: Option<SocketAddr>,
    window: Option<At>,
    doubted: bool,
    silence: Option<(At, u64)>,
    probing: Option<u64>,
    watched: Option<At>,
    told_down: bool,
    pings: u64,
    last_sent: At,
    last_ping: At,
    last_heard: At,
    last_ack: At,
    tick: Option<At>,
    queue: VecDeque<Frame>,
}

impl Side {
    /// Whether a silence is told.
    pub fn is_silent(&self) -> bool {
        self.silence.is_some()
    }

    /// Whether a connection is up.
    pub fn is_up(&self) -> bool {
        !self.conns.is_empty()
    }

    /// Since when the peer is watched.
    pub fn watched(&self) -> Option<At> {
        self.watched
    }
}

impl World {
    pub(super) fn side(&mut self, host: usize, peer: usize) -> &mut Side {
        let now = self.now;
        let fresh = || Side { last_heard: now, ..Side::default() };
        self.hosts[host].sides.entry(peer).or_insert_with(fresh)
    }

    fn threshold(&self, host: usize, peer: usize) -> u64 {
        let rtt = self.net.rtt(host, peer);
        let variation = (rtt / 16).max((rtt as f64 * self.net.jitter / 2.0) as u64 / 2);
        (rtt + 4 * variation + ACK_DELAY).max(FLOOR)
    }

    fn input(&mut self, host: usize, peer: usize, input: LinkInput) {
        let name = self.hosts[peer].name.clone();
        let kind = match &input {
            LinkInput::Up(_) => 10,
            LinkInput::Heard => 11,
            LinkInput::Silent { .. } => 12,
            LinkInput::Closed { .. } => 13,
        };
        self.note(kind, peer, host, &[]);
        self.step(host, |node, now| node.handle_link(now, &name, input));
    }

    // ---- sending -------------------------------------------------------------------------------

    /// Sends a frame, dialling first where there is no connection.
    pub(super) fn send(&mut self, from: usize, to: usize, address: SocketAddr, frame: Frame) {
        if from == to {
            return;
        }
        let side = self.side(from, to);
        side.address = Some(address);
        let Some(conn) = side.conns.last().copied() else {
            if side.queue.len() >= QUEUE {
                side.queue.pop_front();
            }
            side.queue.push_back(frame);
            self.dial(from, to, address);
            return;
        };
        self.sense(from, to);
        self.emit(from, to, conn, frame);
    }

    /// Something that must be acknowledged leaves.
    fn sense(&mut self, from: usize, to: usize) {
        let now = self.now;
        let side = self.side(from, to);
        side.last_sent = now;
        if side.conns.is_empty() {
            return;
        }
        if side.window.is_none() {
            side.window = Some(now);
            side.doubted = false;
        }
        self.arm_side(from, to);
    }

    fn emit(&mut self, from: usize, to: usize, conn: u64, frame: Frame) {
        if let Frame::Message(_) = frame {
            let latency = self.net.stream(from, to, &mut self.rng);
            self.after(latency, What::Frame { from, to, conn, frame, tries: 0 });
            return;
        }
        for latency in self.net.datagram(from, to, &mut self.rng).into_iter().flatten() {
            let frame = frame.clone();
            self.after(latency, What::Frame { from, to, conn, frame, tries: 0 });
        }
    }

    pub(super) fn ping(&mut self, host: usize, peer: usize, sensed: bool) {
        let now = self.now;
        let side = self.side(host, peer);
        side.pings += 1;
        side.last_ping = now;
        let (number, conns) = (side.pings, side.conns.clone());
        if sensed {
            self.sense(host, peer);
        }
        for conn in conns {
            self.emit(host, peer, conn, Frame::Ping(number));
        }
    }

    // ---- arriving ------------------------------------------------------------------------------

    pub(super) fn arrive(&mut self, what: What) {
        match what {
            What::Frame { from, to, conn, frame, tries } => {
                self.frame(from, to, conn, frame, tries);
            }
            What::Syn { from, to, dial, address, hello } => {
                self.syn(from, to, dial, address, hello)
            }
            What::SynAck { from, to, dial, hello } => self.syn_ack(from, to, dial, hello),
            _ => {}
        }
    }

    fn frame(&mut self, from: usize, to: usize, conn: u64, frame: Frame, tries: u32) {
        if self.net.blocked(from, to).is_some() {
            // A stream is sent again until its connection is given up; a datagram was lost on leaving.
            if let Frame::Message(_) = frame
                && tries < 12
            {
                let wait = (50 * MS << tries.min(5)).min(S);
                self.after(wait, What::Frame { from, to, conn, frame, tries: tries + 1 });
            }
            return;
        }
        let side = self.side(to, from);
        if let Some(i) = side.accepting.iter().position(|(c, _)| *c == conn) {
            let (_, hello) = side.accepting.swap_remove(i);
            self.established(to, from, conn, hello);
        }
        let now = self.now;
        let side = self.side(to, from);
        if !side.conns.contains(&conn) {
            return;
        }
        side.window = None;
        side.last_heard = now;
        match frame {
            Frame::Ack => {}
            Frame::Pong(number) => self.pong(to, from, number),
            Frame::Ping(number) => self.emit(to, from, conn, Frame::Pong(number)),
            Frame::Close => {
                let side = self.side(to, from);
                side.conns.retain(|c| *c != conn);
                if side.conns.is_empty() {
                    self.input(to, from, LinkInput::Closed { orderly: true });
                }
            }
            Frame::Datagram(bytes) => {
                self.acknowledge(to, from, conn);
                self.take_datagram(from, to, &bytes);
            }
            Frame::Message(bytes) => {
                self.acknowledge(to, from, conn);
                self.take_message(from, to, &bytes);
            }
        }
    }

    fn acknowledge(&mut self, host: usize, peer: usize, conn: u64) {
        let now = self.now;
        let side = self.side(host, peer);
        if now >= side.last_ack + MS {
            side.last_ack = now;
            self.emit(host, peer, conn, Frame::Ack);
        }
    }

    fn pong(&mut self, host: usize, peer: usize, number: u64) {
        let side = self.side(host, peer);
        let revived = side.silence.is_some_and(|(_, floor)| number >= floor);
        let answered = side.probing.is_some_and(|floor| number >= floor);
        if revived {
            side.silence = None;
        }
        if answered {
            side.probing = None;
        }
        if revived || answered {
            self.input(host, peer, LinkInput::Heard);
        }
    }

    // ---- dialling ------------------------------------------------------------------------------

    /// Makes sure the peer is being dialled.
    pub(super) fn dial(&mut self, host: usize, peer: usize, address: SocketAddr) {
        let dial = self.fresh();
        let side = self.side(host, peer);
        side.address = Some(address);
        if side.dialling.is_some() || (side.is_up() && !side.is_silent()) {
            return;
        }
        side.dialling = Some(dial);
        let Some(hello) = self.hosts[host].node.as_ref().map(hearth_proto::node::Node::hello)
        else {
            return;
        };
        for again in DIAL_AGAIN {
            if let [Some(latency), _] = self.net.datagram(host, peer, &mut self.rng) {
                let hello = hello.clone();
                let syn = What::Syn { from: host, to: peer, dial, address, hello };
                self.after(again + latency, syn);
            }
        }
        let epoch = self.hosts[host].epoch;
        self.after(DIAL_LIMIT, What::DialLimit { host, peer, epoch, dial });
    }

    fn refuses(&self, host: usize, peer: &NodeName) -> bool {
        let known = self.hosts[host].revoked.lock().unwrap_or_else(PoisonError::into_inner);
        known.contains_key(peer)
    }

    fn syn(&mut self, from: usize, to: usize, dial: u64, address: SocketAddr, hello: Hello) {
        let refused = self.refuses(to, &self.hosts[from].name.clone());
        if refused || self.net.blocked(from, to).is_some() || self.hosts[to].address != address {
            return;
        }
        let Some(ours) = self.hosts[to].node.as_ref().map(hearth_proto::node::Node::hello) else {
            return;
        };
        let side = self.side(to, from);
        if !side.accepting.iter().any(|(c, _)| *c == dial) && !side.conns.contains(&dial) {
            side.accepting.push((dial, hello));
            if side.accepting.len() > CONNS {
                side.accepting.remove(0);
            }
        }
        if let [Some(latency), _] = self.net.datagram(to, from, &mut self.rng) {
            self.after(latency, What::SynAck { from: to, to: from, dial, hello: ours });
        }
    }

    fn syn_ack(&mut self, from: usize, to: usize, dial: u64, hello: Hello) {
        let refused = self.refuses(to, &self.hosts[from].name.clone());
        let side = self.side(to, from);
        if side.dialling != Some(dial) || refused {
            return;
        }
        side.dialling = None;
        self.established(to, from, dial, hello);
        // The last packet of the handshake: the peer learns that the connection stands.
        self.ping(to, from, true);
    }

    fn established(&mut self, host: usize, peer: usize, conn: u64, hello: Hello) {
        let now = self.now;
        let side = self.side(host, peer);
        side.conns.push(conn);
        if side.conns.len() > CONNS {
            side.conns.remove(0);
        }
        side.window = None;
        side.silence = None;
        side.probing = None;
        side.told_down = false;
        side.failures = 0;
        side.last_heard = now;
        let queue = std::mem::take(&mut side.queue);
        for frame in queue {
            self.sense(host, peer);
            self.emit(host, peer, conn, frame);
        }
        self.arm_side(host, peer);
        self.input(host, peer, LinkInput::Up(hello));
    }

    pub(super) fn dial_limit(&mut self, host: usize, peer: usize, dial: u64) {
        let side = self.side(host, peer);
        if side.dialling != Some(dial) {
            return;
        }
        side.dialling = None;
        side.failures += 1;
        side.queue.clear();
        let probed = side.probing.take().is_some();
        let tell = side.conns.is_empty() && (probed || side.watched.is_some() && !side.told_down);
        side.told_down |= tell;
        let cap = if side.watched.is_some() { S } else { 2 * S };
        let wait = (100 * MS << side.failures.min(6)).min(cap);
        let wanted = side.watched.is_some() || side.is_silent();
        if wanted {
            let wait = wait / 2 + (wait as f64 / 2.0 * self.rng.random::<f64>()) as u64;
            let epoch = self.hosts[host].epoch;
            self.after(wait, What::Redial { host, peer, epoch });
        }
        if tell {
            self.input(host, peer, LinkInput::Closed { orderly: false });
        }
    }

    pub(super) fn redial(&mut self, host: usize, peer: usize) {
        let side = self.side(host, peer);
        if let (Some(address), true) = (side.address, side.watched.is_some() || side.is_silent()) {
            self.dial(host, peer, address);
        }
    }

    // ---- the monitor ---------------------------------------------------------------------------

    fn arm_side(&mut self, host: usize, peer: usize) {
        let threshold = self.threshold(host, peer);
        let now = self.now;
        let epoch = self.hosts[host].epoch;
        let side = self.side(host, peer);
        if side.conns.is_empty() && side.watched.is_none() {
            return;
        }
        let window = side.window.filter(|_| side.silence.is_none());
        let due = [
            window.map(|w| w + if side.doubted { threshold } else { threshold / 2 }),
            side.silence.map(|_| side.last_ping + PING_SILENT),
            side.watched.map(|_| side.last_sent.max(side.last_ping) + PING_WATCHED),
            Some(side.last_heard + KEEP_ALIVE).filter(|t| *t > now),
            Some(side.last_heard + IDLE),
        ];
        // The monitor looks every few milliseconds, never more often than each.
        let due = due.into_iter().flatten().min().unwrap_or(now + IDLE).max(now + MS);
        if side.tick.is_none_or(|t| t <= now || t > due) {
            side.tick = Some(due);
            self.at(due, What::Side { host, peer, epoch });
        }
    }

    pub(super) fn tick_side(&mut self, host: usize, peer: usize) {
        let now = self.now;
        if self.side(host, peer).tick != Some(now) {
            return;
        }
        self.side(host, peer).tick = None;
        let threshold = self.threshold(host, peer);
        let side = self.side(host, peer);
        if side.conns.is_empty() {
            if let (Some(address), Some(_)) = (side.address, side.watched)
                && side.failures == 0
            {
                self.dial(host, peer, address);
            }
            let side = self.side(host, peer);
            side.last_ping = now;
            side.last_heard = now;
            self.arm_side(host, peer);
            return;
        }
        if now >= side.last_heard + IDLE {
            self.lost(host, peer);
            return;
        }
        let age = side.window.map(|w| now - w);
        match (side.silence, age) {
            (None, Some(age)) if age >= threshold => {
                side.silence = Some((now - age, side.pings + 1));
                self.stats.silences += 1;
                self.ping(host, peer, true);
                self.fail_tries(host, peer);
                let unanswered = Duration::from_micros(age);
                self.input(host, peer, LinkInput::Silent { unanswered });
            }
            (None, Some(age)) if age >= threshold / 2 && !side.doubted => {
                side.doubted = true;
                self.ping(host, peer, true);
            }
            (Some((opened, _)), _) => {
                let beside = now >= opened + STALE_AFTER;
                let address = side.address;
                if now >= side.last_ping + PING_SILENT {
                    self.ping(host, peer, true);
                }
                if let (true, Some(address)) = (beside, address) {
                    self.dial(host, peer, address);
                }
            }
            _ => {
                let idle = now - side.last_sent.max(side.last_ping).min(now);
                let quiet = now - side.last_heard;
                if side.watched.is_some() && idle >= PING_WATCHED {
                    self.ping(host, peer, true);
                } else if quiet >= KEEP_ALIVE && idle >= KEEP_ALIVE / 2 {
                    self.ping(host, peer, false);
                }
            }
        }
        self.arm_side(host, peer);
    }

    /// Nothing was heard for the idle time-out: the connections are gone.
    fn lost(&mut self, host: usize, peer: usize) {
        let now = self.now;
        let side = self.side(host, peer);
        side.conns.clear();
        side.silence = None;
        side.window = None;
        side.last_heard = now;
        let again = side.watched.and(side.address);
        self.input(host, peer, LinkInput::Closed { orderly: false });
        if let Some(address) = again {
            self.dial(host, peer, address);
            self.arm_side(host, peer);
        }
    }

    // ---- the core's wishes ---------------------------------------------------------------------

    pub(super) fn look(&mut self, host: usize, peer: usize, address: SocketAddr) {
        let side = self.side(host, peer);
        side.address = Some(address);
        side.probing = Some(side.pings + 1);
        if side.is_up() {
            self.ping(host, peer, true);
        } else {
            self.dial(host, peer, address);
        }
    }

    pub(super) fn watch(&mut self, host: usize, peers: &[(NodeName, SocketAddr)]) {
        let wanted: Vec<(usize, SocketAddr)> =
            peers.iter().filter_map(|(n, a)| Some((self.index(n)?, *a))).collect();
        let now = self.now;
        for (peer, side) in &mut self.hosts[host].sides {
            if !wanted.iter().any(|(w, _)| w == peer) {
                side.watched = None;
            }
        }
        for (peer, address) in wanted {
            let side = self.side(host, peer);
            side.watched = side.watched.or(Some(now));
            side.address = Some(address);
            if !side.is_up() {
                self.dial(host, peer, address);
            }
            self.arm_side(host, peer);
        }
    }

    pub(super) fn cut(&mut self, host: usize, peer: usize) {
        let side = self.side(host, peer);
        let conns = std::mem::take(&mut side.conns);
        *side = Side { last_heard: side.last_heard, ..Side::default() };
        for conn in &conns {
            self.emit(host, peer, *conn, Frame::Close);
        }
        if !conns.is_empty() {
            self.input(host, peer, LinkInput::Closed { orderly: true });
        }
    }

    pub(super) fn close_links(&mut self, host: usize) {
        let peers: Vec<usize> = self.hosts[host].sides.keys().copied().collect();
        for peer in peers {
            for conn in std::mem::take(&mut self.side(host, peer).conns) {
                self.emit(host, peer, conn, Frame::Close);
            }
        }
    }

    /// After a pause: what was not read meanwhile is our fault. Judgement starts anew.
    pub(super) fn excuse_links(&mut self, host: usize) {
        let now = self.now;
        let peers: Vec<usize> = self.hosts[host].sides.keys().copied().collect();
        for peer in peers {
            let side = self.side(host, peer);
            if side.window.is_some() {
                side.window = Some(now);
                side.doubted = false;
            }
            side.tick = None;
            let wanted = side.dialling.take().is_some() || side.watched.is_some() && !side.is_up();
            if let (Some(address), true) = (side.address, wanted) {
                self.dial(host, peer, address);
            }
            self.arm_side(host, peer);
        }
        debug_assert_eq!(self.hosts[host].life, Life::Running);
    }
}
