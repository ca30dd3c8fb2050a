//! How a node's table becomes equal to the others': eager push of what is new, rumours and pulls for
//! what a push missed, digests for what both missed; and push-pull for the membership itself.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt;

use crate::advert::SignedAdvert;
use crate::evidence::{LinkState, NodeEvidence, Swim};
use crate::ids::{Identity, NodeName};
use crate::member::Rumour;
use crate::table::{Merged, REMEMBER};
use crate::time::Time;
use crate::wire::{Digest, Hint, Members, Message, Versions};

use super::{Event, Node, Transmit, Wanted};

/// Peers to which a record is pushed that is new to us. Infect and forward with fanout 4 reaches 98 % of
/// the mesh in a few hops (knowledge: 1 − e^(−f·x)); rumours and digests reach the rest.
pub(super) const PUSH_FANOUT: usize = 4;
/// After a rumour, the push it announces gets so much time before the record is pulled.
pub(super) const PULL_DELAY: Duration = Duration::from_millis(100);
/// A digest goes to one random member in every such period, ± 25 %.
const DIGEST_PERIOD: Duration = Duration::from_secs(2);
/// The whole membership goes to one random member in every such period, ± 25 %: rumours alone left
/// stragglers for minutes when 200 nodes started at once.
const SYNC_PERIOD: Duration = Duration::from_secs(5);
/// While nobody is known to be alive the seeds are dialled this often, ± 25 %.
const LONELY_PERIOD: Duration = Duration::from_secs(1);
/// A record that was asked for and did not come is asked for again.
const WANT_AGAIN: Duration = Duration::from_secs(1);
/// How often a record that a rumour announced is asked for: whoever made the rumour up must not keep us
/// asking for ever, and digests find what exists.
const WANT_TRIES: u8 = 5;
/// Records in one message; 64 of the largest fill a quarter of it.
const BATCH: usize = 64;

impl Node {
    fn jittered(&mut self, period: Duration) -> Duration {
        period.mul_f64(0.75 + 0.5 * self.rng.random::<f64>())
    }

    pub(super) fn tick_gossip(&mut self, now: Time) {
        if now >= self.digest_at {
            self.digest_at = now + self.jittered(DIGEST_PERIOD);
            let me = self.config.name.clone();
            for peer in self.some_alive(1, &me) {
                let digest = self.digest();
                self.send(&peer, Message::Digest(digest));
            }
        }
        if now >= self.sync_at {
            self.sync_at = now + self.jittered(SYNC_PERIOD);
            self.seek_unheard(now);
            let me = self.config.name.clone();
            for peer in self.some_alive(1, &me) {
                self.send_members(&peer, true);
            }
        }
        if self.member.is_idle() && now >= self.lonely_at && !self.left {
            self.lonely_at = now + self.jittered(LONELY_PERIOD);
            self.events.push_back(Event::Lonely);
            // Whoever was known once may have an address that is still right.
            let known: Vec<_> = self
                .table
                .iter()
                .filter(|(name, e)| **name != self.config.name && !e.advert.left)
                .map(|(name, e)| (name.clone(), e.advert.address))
                .collect();
            for _ in 0..known.len().min(PUSH_FANOUT) {
                let (name, address) = known[self.rng.random_range(0..known.len())].clone();
                self.member.announce(now, name, address);
            }
        }
        self.pull(now);
        self.forget(now);
    }

    /// Forgets nodes that left or are down for longer than anybody's old record lives.
    fn forget(&mut self, now: Time) {
        if now < self.forget_at {
            return;
        }
        // Whoever is lost later is forgotten later than this.
        self.forget_at = now + REMEMBER;
        let mut gone = Vec::new();
        for (name, e) in &self.nodes {
            if !matches!(e.swim, Swim::Down | Swim::Unheard) {
                continue;
            }
            let due = e.swim_since + REMEMBER;
            if e.link != LinkState::Up && due <= now {
                gone.push(name.clone());
            }
            self.forget_at = self.forget_at.min(due);
        }
        for node in gone {
            self.touch_node(&node);
            self.table.forget(&node, now);
            self.nodes.remove(&node);
            // Membership may know it still.
            self.recordless.insert(node.clone());
            self.outcomes.retain(|id, _| id.node != node);
        }
    }

    /// Asks one node that is known from disk or from records only, whether it lives: two halves of a mesh
    /// that were restarted apart find each other again.
    fn seek_unheard(&mut self, now: Time) {
        let unheard: Vec<_> = self
            .table
            .iter()
            .filter(|(name, e)| **name != self.config.name && !e.advert.left)
            .filter(|(name, _)| self.nodes.get(*name).is_none_or(|e| e.swim == Swim::Unheard))
            .map(|(name, e)| (name.clone(), e.advert.address))
            .collect();
        if !unheard.is_empty() && !self.left {
            let (name, address) = unheard[self.rng.random_range(0..unheard.len())].clone();
            self.member.announce(now, name, address);
        }
    }

    /// Asks for records that rumours announced and that did not come by themselves: their owner if it
    /// lives, else anybody.
    fn pull(&mut self, now: Time) {
        self.wanted.retain(|_, w| w.tries < WANT_TRIES || w.at > now);
        let due: Vec<NodeName> =
            self.wanted.iter().filter(|(_, w)| w.at <= now).map(|(n, _)| n.clone()).collect();
        for node in due {
            let owner_lives = self.nodes.get(&node).is_some_and(NodeEvidence::lives);
            let me = self.config.name.clone();
            let whom = if owner_lives { Some(node.clone()) } else { self.some_alive(1, &me).pop() };
            match whom {
                Some(peer) => {
                    if let Some(w) = self.wanted.get_mut(&node) {
                        *w = Wanted { at: now + WANT_AGAIN, tries: w.tries + 1 };
                    }
                    self.send(&peer, Message::Want(vec![node]));
                }
                None => {
                    self.wanted.remove(&node);
                }
            }
        }
    }

    pub(super) fn digest(&self) -> Digest {
        let documents = self.documents.iter().map(|(kind, (s, _))| (*kind, s.version)).collect();
        Digest { buckets: self.table.digest(), documents }
    }

    pub(super) fn send_digest_to(&mut self, peer: &NodeName, address: std::net::SocketAddr) {
        let message = Message::Digest(self.digest());
        self.outbox.push_back(Transmit::Message { to: peer.clone(), address, message });
    }

    pub(super) fn send_members(&mut self, peer: &NodeName, reply: bool) {
        if let Some(address) = self.address(peer) {
            self.send_members_to(peer, address, reply);
        }
    }

    pub(super) fn send_members_to(
        &mut self,
        peer: &NodeName,
        address: std::net::SocketAddr,
        reply: bool,
    ) {
        let message = Message::Members(Members { reply, members: self.member.records() });
        self.outbox.push_back(Transmit::Message { to: peer.clone(), address, message });
    }

    /// Somebody's digest: answer with what we hold where it differs.
    pub(super) fn take_digest(&mut self, _now: Time, from: &NodeName, digest: &Digest) {
        let buckets = self.table.differing(&digest.buckets);
        if !buckets.is_empty() {
            let entries = self.table.versions_in(&buckets);
            self.send(from, Message::Versions(Versions { buckets, entries }));
        }
        self.compare_documents(from, &digest.documents);
    }

    /// Somebody's versions: send what it lacks, ask for what we lack.
    pub(super) fn take_versions(&mut self, from: &NodeName, versions: &Versions) {
        let (mut want, owed) = self.table.compare(&versions.buckets, &versions.entries);
        want.retain(|node| *node != self.config.name);
        self.send_adverts(from, &owed);
        if !want.is_empty() {
            self.send(from, Message::Want(want));
        }
    }

    pub(super) fn send_wanted(&mut self, to: &NodeName, nodes: &[NodeName]) {
        // Each once, however often it was named.
        let nodes: BTreeSet<&NodeName> = nodes.iter().collect();
        let owed = nodes.into_iter().filter_map(|n| self.table.get(n)).map(|e| e.signed.clone());
        let owed: Vec<SignedAdvert> = owed.collect();
        self.send_adverts(to, &owed);
    }

    fn send_adverts(&mut self, to: &NodeName, adverts: &[SignedAdvert]) {
        for batch in adverts.chunks(BATCH) {
            self.send(to, Message::Adverts(batch.to_vec()));
        }
    }

    pub(super) fn take_adverts(&mut self, now: Time, from: &NodeName, adverts: Vec<SignedAdvert>) {
        for advert in adverts {
            self.merge_advert(now, from, &advert, false);
        }
    }

    /// Merges one record; what is new is passed on.
    pub(super) fn merge_advert(
        &mut self,
        now: Time,
        from: &NodeName,
        signed: &SignedAdvert,
        from_disk: bool,
    ) {
        let node = signed.node.clone();
        if node == self.config.name {
            // Our own words of an earlier life come back: whatever they say, we say something newer.
            if signed.version > self.version() && signed.open(&*self.keyring, true).is_ok() {
                self.revision = self.revision.max(signed.version.revision + 1);
                self.stale_advert = true;
            }
            return;
        }
        let version = signed.version;
        let before = self.table.get(&node).map(|e| e.advert.clone());
        // Behind the first hop the certificate may have expired on the way; its owner, if it lives,
        // signs anew with its next change.
        match self.table.merge(signed.clone(), &*self.keyring, from_disk, now) {
            Ok(Merged::Newer) => {}
            Ok(Merged::Same | Merged::Older) => {
                self.wanted.remove(&node);
                return;
            }
            Err(e) => {
                self.wanted.remove(&node);
                let (reason, from) = (e.reason(), Identity::Node(from.clone()));
                self.refuse("advert", reason, from, e.to_string());
                return;
            }
        }
        self.wanted.remove(&node);
        let e = self.evidence(now, &node);
        if !from_disk {
            // It verified under the revocations in force: its certificate is younger than they are.
            e.revoked = false;
        }
        let generation_changed =
            before.as_ref().is_none_or(|b| b.version.generation != version.generation);
        if generation_changed {
            // A new start is a new endpoint to us: old failures are not held against it.
            self.outcomes.retain(|id, _| id.node != node);
        }
        if let Some(before) = before {
            self.stale_services.extend(before.endpoints.iter().map(|e| e.service.clone()));
        }
        self.touch_node(&node);
        self.events.push_back(Event::SaveTable);
        if !from_disk {
            self.member.spread(&Rumour { node: node.clone(), version });
            self.push(from, signed);
        }
    }

    /// Sends a record to a few of the living.
    pub(super) fn push(&mut self, except: &NodeName, signed: &SignedAdvert) {
        for peer in self.some_alive(PUSH_FANOUT, except) {
            if peer != signed.node {
                self.send(&peer, Message::Adverts(vec![signed.clone()]));
            }
        }
    }

    /// Our link to `node` went silent: let those look who stand by for its services.
    pub(super) fn hint(&mut self, node: &NodeName) {
        let Some(entry) = self.table.get(node) else { return };
        let generation = entry.advert.version.generation;
        let services: Vec<_> = entry.advert.endpoints.iter().map(|e| e.service.clone()).collect();
        let standing_by: Vec<NodeName> = services
            .iter()
            .filter_map(|s| self.services.get(s))
            .flat_map(|s| s.route.candidates.iter())
            .filter(|c| c.role != crate::advert::Role::Hot)
            .map(|c| c.id.node.clone())
            .filter(|n| n != node && *n != self.config.name)
            .take(PUSH_FANOUT)
            .collect();
        for peer in standing_by {
            self.send(&peer, Message::Hint(Hint { node: node.clone(), generation }));
        }
    }
}
