//! How news reaches a node: eager push of what is new, rumours and pulls for what a push missed, digests
//! (`sync`) for what both missed; whom it looks for when it is alone, and when it forgets.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::advert::SignedAdvert;
use crate::budget::Budget;
use crate::evidence::{LinkState, NodeEvidence, Swim};
use crate::ids::{Identity, NodeName};
use crate::member::Rumour;
use crate::policy::Rate;
use crate::table::{Merged, REMEMBER};
use crate::time::{Span, Time};
use crate::wire::{Hint, Message};

use super::sync::{Agreement, BATCH, Feed};
use super::{Event, Node, Wanted};

/// Peers to which a record is pushed that is new to us. Infect and forward with fanout 4 reaches 98 % of
/// the mesh in a few hops (knowledge: 1 − e^(−f·x)); rumours and digests reach the rest.
pub(super) const PUSH_FANOUT: usize = 4;
/// Pushes leave together at most so often: the first at once, and what is new within this after it as one. When
/// everybody starts at once, or a large mesh splits and heals, each record would be a message to four from
/// everybody.
const PUSH_EVERY: Duration = Duration::from_millis(100);
/// Digests said first thing on new links: a burst, then ten a second. Where everybody meets everybody the periodic
/// ones find the same for less.
const GREETINGS: Rate = Rate::Of { times: 16, per: Span(Duration::from_millis(1_600)) };
/// Records asked for one by one: a burst, then ten a second. Each goes to its owner, to whom there may be no link
/// yet: where a thousand are missing, everybody would dial everybody, and digests find them for less.
const PULLS: Rate = Rate::Of { times: 32, per: Span(Duration::from_millis(3_200)) };
/// After a rumour, the push it announces gets so much time before the record is pulled.
pub(super) const PULL_DELAY: Duration = Duration::from_millis(100);
/// A digest goes to one random member in every such period, ± 25 %.
const DIGEST_PERIOD: Duration = Duration::from_secs(2);
/// While much is missing it goes out again after this, ± 25 %: a mesh that starts at once has then seen itself
/// after a few seconds, where rumours alone left stragglers for minutes.
const HURRY: Duration = Duration::from_millis(250);
/// So many hurry though nothing new comes. What two hosts refuse of each other's they would compare for ever.
const FRUITLESS: u8 = 8;
/// Somebody who is known by record only is asked whether it lives in every such period, ± 25 %.
const SEEK_PERIOD: Duration = Duration::from_secs(5);
/// While nobody is known to be alive the seeds are dialled this often, ± 25 %.
const LONELY_PERIOD: Duration = Duration::from_secs(1);
/// A record that was asked for and did not come is asked for again.
const WANT_AGAIN: Duration = Duration::from_secs(1);
/// How often a record that a rumour announced is asked for, or would be if there were room: whoever made the rumour up must not keep us
/// asking for ever, and digests find what exists.
const WANT_TRIES: u8 = 5;

/// Records that were new to us, with who told us, on their way to a few others.
#[derive(Default)]
struct Pushes {
    waiting: Vec<(NodeName, SignedAdvert)>,
    /// None leaves before this.
    next: Time,
}

/// When gossip is due, and its own chance: whom it is sent to decides nothing, so that a recording need not
/// hold it.
pub(super) struct Gossip {
    pub(super) rng: StdRng,
    pub(super) feed: Feed,
    pub(super) agreed: Agreement,
    pushes: Pushes,
    greetings: Budget,
    pulls: Budget,
    /// Digests that hurried since anything new came.
    fruitless: u8,
    digest_at: Time,
    seek_at: Time,
    lonely_at: Time,
}

impl Gossip {
    pub(super) fn new(seed: u64, now: Time) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            feed: Feed::default(),
            agreed: Agreement::none(),
            pushes: Pushes::default(),
            greetings: Budget::default(),
            pulls: Budget::default(),
            fruitless: 0,
            digest_at: now,
            seek_at: now,
            lonely_at: now,
        }
    }

    fn jittered(&mut self, period: Duration) -> Duration {
        period.mul_f64(0.75 + 0.5 * self.rng.random::<f64>())
    }

    /// Much was missing: the next digest need not wait its turn. Unless several did not, and nothing came of it.
    pub(super) fn hurry(&mut self, now: Time) {
        let soon = now + self.jittered(HURRY);
        if soon < self.digest_at && self.fruitless < FRUITLESS {
            self.fruitless += 1;
            self.digest_at = soon;
        }
    }

    /// Something new came.
    pub(super) fn learnt(&mut self) {
        self.fruitless = 0;
    }

    /// Whether a new link may begin with a digest; counted if so.
    pub(super) fn greets(&mut self, now: Time) -> bool {
        self.greetings.withdraw(GREETINGS, now)
    }

    /// When something is due; alone, somebody is looked for.
    pub(super) fn poll_timeout(&self, is_alone: bool) -> Time {
        let mut due = self.digest_at.min(self.seek_at);
        if !self.pushes.waiting.is_empty() {
            due = due.min(self.pushes.next);
        }
        if is_alone { due.min(self.lonely_at) } else { due }
    }
}

impl Node {
    pub(super) fn tick_gossip(&mut self, now: Time) {
        if now >= self.gossip.digest_at {
            self.gossip.digest_at = now + self.gossip.jittered(DIGEST_PERIOD);
            let me = self.config.name.clone();
            for peer in self.some_alive(1, &me) {
                let digest = self.digest();
                self.send(&peer, Message::Digest(digest));
            }
        }
        if now >= self.gossip.seek_at {
            self.gossip.seek_at = now + self.gossip.jittered(SEEK_PERIOD);
            self.seek_unheard(now);
        }
        if self.member.is_idle() && now >= self.gossip.lonely_at && !self.left {
            self.gossip.lonely_at = now + self.gossip.jittered(LONELY_PERIOD);
            self.events.push_back(Event::Lonely);
            // Whoever was known once may have an address that is still right.
            let known: Vec<_> = self
                .table
                .iter()
                .filter(|(name, e)| **name != self.config.name && !e.advert.left)
                .map(|(name, e)| (name.clone(), e.advert.address))
                .collect();
            for _ in 0..known.len().min(PUSH_FANOUT) {
                let (name, address) = known[self.gossip.rng.random_range(0..known.len())].clone();
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
            if e.swim.is_active() {
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
            self.nodes.remove_mut(&node);
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
            let (name, address) = unheard[self.gossip.rng.random_range(0..unheard.len())].clone();
            self.member.announce(now, name, address);
        }
    }

    /// Asks for records that rumours announced and that did not come by themselves: their owner if it
    /// lives, else anybody.
    fn pull(&mut self, now: Time) {
        let in_vain = self.wanted.extract_if(.., |_, w| w.tries >= WANT_TRIES && w.at <= now);
        in_vain.for_each(|(node, _)| self.quarantine.hold(now, &node, None));
        let due = self.wanted.iter().filter(|(_, w)| w.at <= now);
        let mut due: Vec<(u8, NodeName)> = due.map(|(n, w)| (w.tries, n.clone())).collect();
        if due.is_empty() {
            return;
        }
        // Whoever was asked for least comes first; among them chance decides, not the name.
        due.shuffle(&mut self.gossip.rng);
        due.sort_by_key(|(tries, _)| *tries);
        let mut postponed = false;
        for (_, node) in due {
            let owner_lives = self.nodes.get(&node).is_some_and(NodeEvidence::lives);
            let me = self.config.name.clone();
            let whom = if owner_lives { Some(node.clone()) } else { self.some_alive(1, &me).pop() };
            match whom {
                Some(_) if !self.gossip.pulls.withdraw(PULLS, now) => {
                    postponed = true;
                    if let Some(w) = self.wanted.get_mut(&node) {
                        *w = Wanted { at: now + WANT_AGAIN, tries: w.tries + 1 };
                    }
                }
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
        if postponed {
            self.gossip.hurry(now);
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
                self.quarantine.hold(now, &node, Some(version));
                let (reason, from) = (e.reason(), Identity::Node(from.clone()));
                self.refuse("advert", reason, from, e.to_string());
                return;
            }
        }
        self.wanted.remove(&node);
        self.quarantine.release(&node);
        self.gossip.learnt();
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
            self.pass_on(now, from, signed);
        }
    }

    /// Spreads what is new to us: the record to a few, and a rumour of it. Of more than a message holds the rest
    /// is left to digests, which find much at once for less.
    pub(super) fn pass_on(&mut self, now: Time, from: &NodeName, signed: &SignedAdvert) {
        let pushes = &mut self.gossip.pushes;
        if signed.node == self.config.name {
            // Our own news waits for nobody.
            pushes.next = now;
        } else if pushes.waiting.len() >= BATCH {
            self.gossip.hurry(now);
            return;
        }
        self.gossip.pushes.waiting.retain(|(_, record)| record.node != signed.node);
        self.gossip.pushes.waiting.push((from.clone(), signed.clone()));
    }

    /// Sends what waits to a few of the living, if it is time.
    pub(super) fn push(&mut self, now: Time) {
        if self.gossip.pushes.waiting.is_empty() || now < self.gossip.pushes.next {
            return;
        }
        self.gossip.pushes.next = now + PUSH_EVERY;
        let waiting = std::mem::take(&mut self.gossip.pushes.waiting);
        // Not sooner: whoever hears of a record that does not come asks for it.
        for (_, record) in &waiting {
            self.member.spread(&Rumour { node: record.node.clone(), version: record.version });
        }
        let except = match &waiting[..] {
            [(from, _)] => from.clone(),
            _ => self.config.name.clone(),
        };
        for peer in self.some_alive(PUSH_FANOUT, &except) {
            let news = waiting.iter().filter(|(from, record)| *from != peer && record.node != peer);
            let news: Vec<SignedAdvert> = news.map(|(_, record)| record.clone()).collect();
            if !news.is_empty() {
                self.send(&peer, Message::Adverts(news));
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
