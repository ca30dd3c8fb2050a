//! What we hold of a peer, behind its lock: connections, what waits for one, and what was sensed.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_proto::ids::Generation;
use quinn::Connection;
use tokio::sync::mpsc;

use crate::link::backoff::{self, Backoff};
use crate::link::data::{DataConnection, DataDial};
use crate::link::lane::Lane;
use crate::link::lane::choose::Losses;
use crate::link::lane::mux::End;
use crate::link::line::Line;
use crate::link::sense::{Sense, Tracked, TrackedLane, ping};
use crate::link::silence::Window;
use crate::link::{CloseCode, Kind};

/// Datagrams kept for a dial are worth nothing after this: a SWIM packet older than its probe is worse than none.
const DATAGRAM_TTL: Duration = Duration::from_secs(1);
/// Messages kept for a dial.
const MESSAGE_TTL: Duration = Duration::from_secs(5);
/// A link that has been silent for so long is dialled anew beside, and a data connection gets no new
/// requests: its congestion control is far in its backoff.
pub(crate) const STALE_AFTER: Duration = Duration::from_secs(1);
/// A link that ended sooner than this did not work out: a peer that refuses us right after the handshake
/// must not be dialled in a tight loop.
const WORKED_OUT: Duration = Duration::from_secs(2);
/// A peer is at rest when nothing of ours was under way there for so long.
pub(crate) const AT_REST: Duration = Duration::from_secs(1);
/// Lanes on which something was heard within this are alive, though the mesh link may be dead.
const LIVELY: Duration = Duration::from_millis(1500);

/// The current mesh link.
pub(crate) struct Mesh {
    pub(crate) line: Line,
    pub(crate) dialled_here: bool,
    pub(crate) generation: Generation,
    pub(crate) outbox: mpsc::Sender<Bytes>,
    pub(super) since: Instant,
}

pub(crate) struct State {
    pub(crate) address: SocketAddr,
    pub(crate) newest: Generation,
    pub(crate) mesh: Option<Mesh>,
    pub(crate) data: Option<Arc<DataConnection>>,
    pub(crate) data_dial: DataDial,
    pub(crate) connections: Vec<Tracked>,
    /// Lanes, whoever dialled them.
    pub(crate) lanes: Vec<TrackedLane>,
    /// Lanes that a third agent relays, whoever dialled them: what is heard on them says nothing of our path.
    pub(super) relayed: Vec<Arc<Lane>>,
    pub(crate) dialling: bool,
    pub(crate) watched: bool,
    pub(crate) told_down: bool,
    /// The mesh link is gone, which the driver is told if no other can be had: lanes go on.
    pub(crate) owes_down: bool,
    pub(crate) backoff: Backoff,
    /// No dial before this.
    pub(crate) not_before: Option<Instant>,
    pub(crate) sense: Sense,
    /// What the path to it lost lately.
    pub(super) losses: Losses,
    /// How often in a row a sweep found nothing here that anybody needs.
    pub(super) unused: u32,
    pub(super) datagrams: VecDeque<(Instant, Bytes)>,
    pub(super) messages: VecDeque<(Instant, Bytes)>,
}

impl State {
    /// Whether there is a mesh link that needs no second one.
    pub(crate) fn linked(&self, now: Instant) -> bool {
        let stale = self
            .sense
            .silence
            .is_some_and(|s| now.saturating_duration_since(s.opened) >= STALE_AFTER);
        !stale && self.mesh.as_ref().is_some_and(|m| m.line.is_open())
    }

    /// A link ended that had lasted so long: when may the next be dialled?
    pub(super) fn pace(&mut self, lasted: Duration) {
        if lasted >= WORKED_OUT {
            let wait = backoff::spread(rand::random());
            (self.backoff, self.not_before) = (Backoff::default(), Some(Instant::now() + wait));
        } else {
            let wait = self.backoff.failed(rand::random(), self.watched);
            self.not_before = Some(Instant::now() + wait);
        }
    }

    pub(super) fn expire(&mut self, now: Instant) {
        let fresh = |t: &Instant, ttl| now.saturating_duration_since(*t) < ttl;
        self.datagrams.retain(|(t, _)| fresh(t, DATAGRAM_TTL));
        self.messages.retain(|(t, _)| fresh(t, MESSAGE_TTL));
    }

    /// For how long no request of ours has begun, and nothing has moved on any.
    pub(crate) fn quiet(&self, now: Instant) -> Duration {
        let linked = self.mesh.as_ref().map(|m| m.since);
        let used = self.sense.used.max(linked);
        used.map_or(Duration::ZERO, |t| now.saturating_duration_since(t))
    }

    /// Whether nobody waits for an answer here: no request was under way of late, and nobody asked for a look.
    pub(crate) fn is_at_rest(&self, now: Instant) -> bool {
        self.sense.probing.is_none() && self.quiet(now) >= AT_REST
    }

    pub(super) fn all_lanes(&self) -> impl Iterator<Item = &Arc<Lane>> {
        self.lanes.iter().map(|tracked| &tracked.lane).chain(&self.relayed)
    }

    /// Whether there is any connection with it.
    pub(crate) fn is_connected(&self) -> bool {
        !self.connections.is_empty() || !self.lanes.is_empty()
    }

    /// Whether a lane for requests has been heard a moment ago.
    pub(crate) fn hears_lanes(&self, now: Instant) -> bool {
        let lately = |t: Instant| now.saturating_duration_since(t) < LIVELY;
        self.sense.lane_heard.is_some_and(lately) && self.has_lanes()
    }

    pub(super) fn has_lanes(&self) -> bool {
        self.lanes.iter().any(|t| t.lane.kind == Kind::Data && t.lane.is_open())
    }

    /// Whether the mesh link runs on a lane.
    pub(crate) fn is_on_tcp(&self) -> bool {
        self.mesh.as_ref().is_some_and(|m| !m.line.is_quic())
    }

    /// What is under way on connections of ours moves at once: without a mesh link nothing senses for it.
    pub(crate) fn close_dialled(&mut self) {
        self.close_data();
        let dialled = |t: &&TrackedLane| t.lane.end == End::Dialled && t.lane.kind == Kind::Data;
        for tracked in self.lanes.iter().filter(dialled) {
            tracked.lane.close(CloseCode::Stale, "the mesh link is gone");
        }
    }

    pub(super) fn close_data(&mut self) {
        if let Some(data) = self.data.take() {
            data.connection.close(CloseCode::Stale.code(), b"the mesh link is gone");
        }
    }

    /// What was sensed on connections that are all gone says nothing about the next one.
    pub(super) fn forget_sense_if_alone(&mut self) {
        if !self.is_connected() {
            self.sense.silence = None;
            self.sense.told = false;
            self.sense.window = Window::default();
        }
    }

    /// It answers again. What its single connections left unanswered meanwhile was the silence of all, and is not
    /// held against one, which may be read later than another. What they had left unanswered before is.
    pub(super) fn revive(&mut self) {
        self.sense.window = Window::default();
        let now = Instant::now();
        let silent = self.sense.silence.take().map(|s| now.saturating_duration_since(s.opened));
        let connections = self.connections.iter_mut().map(|t| &mut t.window);
        for window in connections.chain(self.lanes.iter_mut().map(|t| &mut t.window)) {
            match silent {
                Some(silent) => window.forgive(now, silent),
                None => window.excuse(now),
            }
        }
    }

    /// The peer restarted. Data connections do not say which start of it they belong to: a ping on
    /// each tells soon which ones are dead.
    pub(super) fn question_data(&mut self) {
        for tracked in self.connections.iter().filter(|t| t.kind == Kind::Data) {
            let _ = tracked.connection.send_datagram(ping(0));
        }
        self.lanes.iter().for_each(|t| t.lane.ping(0));
    }

    /// Answers a ping that came on `connection`. The answer is a question too, which opens the window, for nothing
    /// of what was heard until now is its acknowledgement: a peer that hears us no longer asks ever again, and
    /// each time that is heard. (It asks every 100 ms in the end: where an answer may take longer, one-way loss is
    /// found by the end of the connection, which the peer gives up.)
    pub(crate) fn answer(&mut self, connection: &Connection, answer: Bytes, now: Instant) {
        let same = |t: &&mut Tracked| t.connection.stable_id() == connection.stable_id();
        // Read after its end, it is nobody's.
        let Some(tracked) = self.connections.iter_mut().find(same) else { return };
        tracked.heard = connection.stats().udp_rx.datagrams;
        tracked.window = Window::default();
        self.sense.heard = Some(now);
        self.sense.window.renew(now);
        // A full buffer drops an older datagram; pings are repeated.
        let _ = connection.send_datagram(answer);
    }

    /// Sends a ping on the mesh link, and on every connection when `everywhere` or when there is no
    /// link. `false`: there is no connection to send it on.
    pub(crate) fn ping(&mut self, now: Instant, everywhere: bool) -> bool {
        let number = self.sense.next_ping;
        let link = self.mesh.as_ref().map(|m| m.line.clone());
        let asked = |line: Line| everywhere || link.as_ref().is_none_or(|link| link.is(&line));
        let mut sent = false;
        for tracked in &mut self.connections {
            if asked(Line::Quic(tracked.connection.clone())) {
                // What was heard before this ping is no answer to it.
                tracked.heard = tracked.connection.stats().udp_rx.datagrams;
                sent |= tracked.connection.send_datagram(ping(number)).is_ok();
            }
        }
        for tracked in &self.lanes {
            if asked(Line::Lane(tracked.lane.clone())) {
                tracked.lane.ping(number);
                sent = true;
            }
        }
        if sent {
            self.sense.next_ping += 1;
            self.sense.last_ping = Some(now);
            self.sense.unsent = true;
            self.sense.stirred = false;
        }
        sent
    }
}
