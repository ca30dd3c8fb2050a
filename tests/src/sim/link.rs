//! The agent's link layer as a model, with its constants: dials, silence, pings, queues.
//!
//! A [`Side`] is what one host keeps of its link with another. Anything heard closes the window of a
//! pending silence; a silence that was told ends only by the answer to a ping sent after it, so that the
//! proof goes both ways. What is sent without a connection waits in a short queue while it is dialled.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hearth_proto::evidence::confirmed_after;
use hearth_proto::ids::NodeName;
use hearth_proto::node::LinkInput;
use hearth_proto::wire::Hello;

use super::host::Life;
use super::world::{What, World};
use super::{At, MS, S};

/// No silence earlier than this.
const FLOOR: u64 = 20 * MS;
const ACK_DELAY: u64 = 2 * MS;
const PING_WATCHED: u64 = 250 * MS;
const PING_SILENT: u64 = 100 * MS;
/// A silence is asked about so often before it is confirmed.
const QUESTIONS: u64 = 6;
const STALE_AFTER: u64 = 300 * MS;
/// Connections with a peer that has been silent for so long end.
const GIVE_UP: u64 = 10 * S;
/// A link that nobody watches is kept so long from one packet to the next.
const IDLE: u64 = 15 * 60 * S;
const QUEUE: usize = 64;
pub(super) const CONNS: usize = 4;

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
    pub(super) conns: Vec<u64>,
    /// Connections accepted whose first frame has not come.
    pub(super) accepting: Vec<(u64, Hello)>,
    pub(super) dialling: Option<u64>,
    pub(super) failures: u32,
    pub(super) address: Option<SocketAddr>,
    pub(super) window: Option<At>,
    pub(super) doubted: bool,
    pub(super) silence: Option<(At, u64)>,
    pub(super) probing: Option<u64>,
    pub(super) watched: Option<At>,
    pub(super) told_down: bool,
    pub(super) pings: u64,
    pub(super) last_sent: At,
    pub(super) last_ping: At,
    pub(super) last_heard: At,
    pub(super) last_ack: At,
    pub(super) tick: Option<At>,
    pub(super) queue: VecDeque<Frame>,
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

/// How often a peer that has been silent for `age` is asked: several times before that is confirmed.
fn ask_every(age: u64, threshold: u64) -> u64 {
    let confirmed = confirmed_after(Duration::from_micros(threshold)).as_micros() as u64;
    if age < confirmed { (confirmed - threshold) / QUESTIONS } else { PING_SILENT }
}

impl World {
    pub(super) fn side(&mut self, host: usize, peer: usize) -> &mut Side {
        let now = self.now;
        let fresh = || Side { last_heard: now, ..Side::default() };
        self.hosts[host].sides.of(peer, fresh)
    }

    fn threshold(&self, host: usize, peer: usize) -> u64 {
        let rtt = self.net.rtt(host, peer);
        let variation = (rtt / 16).max((rtt as f64 * self.net.jitter / 2.0) as u64 / 2);
        (rtt + 4 * variation + ACK_DELAY).max(FLOOR)
    }

    pub(super) fn input(&mut self, host: usize, peer: usize, input: LinkInput) {
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
    pub(super) fn sense(&mut self, from: usize, to: usize) {
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

    pub(super) fn emit(&mut self, from: usize, to: usize, conn: u64, frame: Frame) {
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

    pub(super) fn ping(&mut self, host: usize, peer: usize) {
        let now = self.now;
        let side = self.side(host, peer);
        side.pings += 1;
        side.last_ping = now;
        let (number, conns) = (side.pings, side.conns.clone());
        self.sense(host, peer);
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
                self.syn(from, to, dial, address, hello);
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
                let wait = ((50 * MS) << tries.min(5)).min(S);
                self.after(wait, What::Frame { from, to, conn, frame, tries: tries + 1 });
            }
            return;
        }
        let now = self.now;
        let mut side = self.side(to, from);
        if let Some(i) = side.accepting.iter().position(|(c, _)| *c == conn) {
            let (_, hello) = side.accepting.swap_remove(i);
            self.established(to, from, conn, hello);
            side = self.side(to, from);
        }
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

    // ---- the monitor ---------------------------------------------------------------------------

    pub(super) fn arm_side(&mut self, host: usize, peer: usize) {
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
            side.silence.map(|(opened, _)| side.last_ping + ask_every(now - opened, threshold)),
            side.watched.map(|_| side.last_sent.max(side.last_ping) + PING_WATCHED),
            side.silence.map(|(opened, _)| opened + GIVE_UP),
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
        let given_up = side.silence.is_some_and(|(opened, _)| now >= opened + GIVE_UP);
        if given_up || now >= side.last_heard + IDLE {
            self.lost(host, peer);
            return;
        }
        let age = side.window.map(|w| now - w);
        match (side.silence, age) {
            (None, Some(age)) if age >= threshold => {
                side.silence = Some((now - age, side.pings + 1));
                self.stats.silences += 1;
                self.ping(host, peer);
                self.fail_tries(host, peer);
                let unanswered = Duration::from_micros(age);
                self.input(host, peer, LinkInput::Silent { unanswered });
            }
            (None, Some(age)) if age >= threshold / 2 && !side.doubted => {
                side.doubted = true;
                self.ping(host, peer);
            }
            (Some((opened, _)), _) => {
                let beside = now >= opened + STALE_AFTER;
                let address = side.address;
                if now >= side.last_ping + ask_every(now - opened, threshold) {
                    self.ping(host, peer);
                }
                if let (true, Some(address)) = (beside, address) {
                    self.dial(host, peer, address);
                }
            }
            _ => {
                let idle = now - side.last_sent.max(side.last_ping).min(now);
                if side.watched.is_some() && idle >= PING_WATCHED {
                    self.ping(host, peer);
                }
            }
        }
        self.arm_side(host, peer);
    }

    /// Nothing was heard for too long: the connections are gone.
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
            self.ping(host, peer);
        } else {
            self.dial(host, peer, address);
        }
    }

    pub(super) fn watch(&mut self, host: usize, peers: &[(NodeName, SocketAddr)]) {
        let wanted: Vec<(usize, SocketAddr)> =
            peers.iter().filter_map(|(n, a)| Some((self.index(n)?, *a))).collect();
        let now = self.now;
        for (peer, side) in self.hosts[host].sides.iter_mut() {
            if !wanted.iter().any(|(w, _)| *w == peer) {
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
        for peer in self.hosts[host].sides.peers() {
            for conn in std::mem::take(&mut self.side(host, peer).conns) {
                self.emit(host, peer, conn, Frame::Close);
            }
        }
    }

    /// After a pause: what was not read meanwhile is our fault. Judgement starts anew.
    pub(super) fn excuse_links(&mut self, host: usize) {
        let now = self.now;
        for peer in self.hosts[host].sides.peers() {
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
