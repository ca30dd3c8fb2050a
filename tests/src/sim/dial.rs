//! Dials: a handshake of three packets, its limit, the waits between tries.

use std::net::SocketAddr;
use std::sync::PoisonError;

use hearth_proto::ids::NodeName;
use hearth_proto::node::LinkInput;
use hearth_proto::wire::Hello;
use rand::RngExt;

use super::link::CONNS;
use super::world::{What, World};
use super::{MS, S};

const DIAL_LIMIT: u64 = S;
/// A dial's first packet is repeated so long after it.
const DIAL_AGAIN: [u64; 3] = [0, 300 * MS, 900 * MS];

impl World {
    /// Makes sure the peer is being dialled.
    pub(super) fn dial(&mut self, host: usize, peer: usize, address: SocketAddr) {
        let dial = self.fresh();
        let side = self.side(host, peer);
        side.address = Some(address);
        if side.dialling.is_some() || (side.is_up() && !side.is_silent()) {
            return;
        }
        side.dialling = Some(dial);
        let Some(hello) = self.hosts[host].node.as_ref().map(|n| n.hello()) else {
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

    pub(super) fn refuses(&self, host: usize, peer: &NodeName) -> bool {
        let known = self.hosts[host].revoked.lock().unwrap_or_else(PoisonError::into_inner);
        known.contains_key(peer)
    }

    pub(super) fn syn(
        &mut self,
        from: usize,
        to: usize,
        dial: u64,
        address: SocketAddr,
        hello: Hello,
    ) {
        let refused = self.refuses(to, &self.hosts[from].name.clone());
        if refused || self.net.blocked(from, to).is_some() || self.hosts[to].address != address {
            return;
        }
        let Some(ours) = self.hosts[to].node.as_ref().map(|n| n.hello()) else {
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

    pub(super) fn syn_ack(&mut self, from: usize, to: usize, dial: u64, hello: Hello) {
        let refused = self.refuses(to, &self.hosts[from].name.clone());
        let side = self.side(to, from);
        if side.dialling != Some(dial) || refused {
            return;
        }
        side.dialling = None;
        self.established(to, from, dial, hello);
        // The last packet of the handshake: the peer learns that the connection stands.
        self.ping(to, from);
    }

    pub(super) fn established(&mut self, host: usize, peer: usize, conn: u64, hello: Hello) {
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
        let wait = ((100 * MS) << side.failures.min(6)).min(cap);
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
}
