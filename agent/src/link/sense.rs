//! What is sensed of a peer: its connections' counters, its silences, pings and pongs.
//!
//! Reads counters and makes datagrams; the arithmetic is [`super::silence`]'s, the acting the
//! monitor's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_proto::wire;
use quinn::Connection;

use super::lane::Lane;
use super::silence::{PathFacts, Silence, Window, threshold};
use super::{CloseCode, Kind, socket};

/// Kinds of datagram that are the links' own; SWIM packets are kind 0.
const PING: u8 = 255;
const PONG: u8 = 254;

/// A connection and what it had sent and heard when last looked at.
pub(crate) struct Tracked {
    pub(crate) connection: Connection,
    pub(crate) kind: Kind,
    pub(crate) window: Window,
    pub(crate) sent: u64,
    pub(crate) heard: u64,
    /// We closed it for want of answers.
    pub(crate) given_up: bool,
    /// Frames of streams that came in.
    worked: u64,
    packets: u64,
    lost: u64,
}

impl Tracked {
    pub(crate) fn new(connection: Connection, kind: Kind) -> Self {
        let mut tracked = Self {
            connection,
            kind,
            window: Window::default(),
            sent: 0,
            heard: 0,
            given_up: false,
            worked: 0,
            packets: 0,
            lost: 0,
        };
        // What the handshake sent and heard is no evidence.
        tracked.moved();
        tracked
    }

    /// Closes it: nothing is acknowledged here, while the peer answers elsewhere.
    pub(crate) fn give_up(&mut self) {
        self.given_up = true;
        self.connection.close(CloseCode::Stale.code(), b"nothing is acknowledged here");
    }

    /// Packets sent since this was last asked, and how many of all sent are known to be lost since.
    pub(crate) fn losses(&mut self) -> (u64, u64) {
        let path = self.connection.stats().path;
        let since = (path.sent_packets - self.packets, path.lost_packets - self.lost);
        (self.packets, self.lost) = (path.sent_packets, path.lost_packets);
        since
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
        (moved.0, moved.1, answer_within(&stats))
    }

    /// Whether anything came in for a request since this was last asked.
    pub(crate) fn worked(&mut self) -> bool {
        let frames = match self.kind {
            Kind::Data => self.connection.stats().frame_rx.stream,
            Kind::Mesh => 0,
        };
        std::mem::replace(&mut self.worked, frames) < frames
    }

    /// How long an answer may take.
    pub(crate) fn threshold(&self) -> Duration {
        answer_within(&self.connection.stats())
    }
}

fn answer_within(stats: &quinn::ConnectionStats) -> Duration {
    let told = stats.frame_tx.ack_frequency > 0;
    let ack_delay = if told { socket::ACK_DELAY } else { socket::ACK_DELAY_UNTOLD };
    threshold(PathFacts { rtt: stats.path.rtt, min_rtt: stats.path.min_rtt, ack_delay })
}

/// A lane and what had been asked and heard on it when last looked at.
pub(crate) struct TrackedLane {
    pub(crate) lane: Arc<Lane>,
    pub(crate) window: Window,
    asked: u64,
    heard: u64,
    worked: u64,
}

impl TrackedLane {
    pub(crate) fn new(lane: Arc<Lane>) -> Self {
        let (asked, heard) = (lane.asked(), lane.heard());
        Self { lane, window: Window::default(), asked, heard, worked: 0 }
    }

    /// Whether anything came in for a request since this was last asked.
    pub(crate) fn worked(&mut self) -> bool {
        let worked = self.lane.worked();
        std::mem::replace(&mut self.worked, worked) < worked
    }

    /// What moved since the last look: pings sent, anything heard. What else was sent is no question to the
    /// peer's agent: its kernel acknowledges it.
    pub(crate) fn moved(&mut self) -> (bool, bool) {
        let (asked, heard) = (self.lane.asked(), self.lane.heard());
        let moved = (asked > self.asked, heard > self.heard);
        (self.asked, self.heard) = (asked, heard);
        moved
    }
}

/// What was sensed of the peer.
#[derive(Default)]
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
    /// It has not been seen to leave: connections send when their own tasks run.
    pub(crate) unsent: bool,
    /// When a look last found that something had been heard, on whatever connection.
    pub(crate) heard: Option<Instant>,
    /// When something was last heard on a lane.
    pub(crate) lane_heard: Option<Instant>,
    /// Since the last ping a request was sent or something was heard on a lane.
    pub(crate) stirred: bool,
    /// When a request last began, or something last moved on one.
    pub(crate) used: Option<Instant>,
    /// The requests that had begun by then.
    pub(crate) begun: usize,
    /// When its path was last judged.
    pub(crate) judged: Option<Instant>,
}

/// The ping of this number.
pub(crate) fn ping(number: u64) -> Bytes {
    numbered(PING, number)
}

fn numbered(kind: u8, number: u64) -> Bytes {
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
        PING => Heard::Ping(numbered(PONG, number)),
        PONG => Heard::Pong(number),
        _ => Heard::Other,
    }
}
