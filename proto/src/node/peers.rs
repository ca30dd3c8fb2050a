//! What a node knows of the others: links and membership become evidence, and who is alive follows.

use std::time::Duration;

use rand::RngExt;

use crate::evidence::{LinkState, NodeEvidence};
use crate::ids::NodeName;
use crate::time::Time;
use crate::wire::Hello;

use super::{Event, Node, Transmit, gossip};

/// Whoever is not cut off hears somebody within this: SWIM's probes come and go twice a second, unless somebody
/// is slow.
const LATELY: Duration = Duration::from_secs(5);
/// Among more members than this some are drawn, instead of looking at each: often enough for each that is wanted
/// that somebody who lives is found where a third does.
const MANY: usize = 256;
const DRAWS: usize = 10;

impl Node {
    pub(super) fn evidence(&mut self, now: Time, node: &NodeName) -> &mut NodeEvidence {
        if !self.nodes.contains_key(node) {
            let revoked = self.revoked.contains_key(node);
            let e = NodeEvidence { revoked, ..NodeEvidence::unheard(now) };
            self.nodes.insert_mut(node.clone(), e);
        }
        self.nodes.get_mut(node).expect("it was put in if it was not")
    }

    /// Something of a peer arrived: it lives. A silence goes on, since what *we* send may still be
    /// lost; it ends with an answer.
    pub(super) fn heard(&mut self, now: Time, node: &NodeName) {
        let e = self.evidence(now, node);
        // Of one that is accused the first word since then proves that it lives.
        let proven = e.heard.replace(now).is_some_and(|last| last > e.swim_since);
        let news = e.link == LinkState::None || e.swim.is_accused() && !proven;
        if e.link == LinkState::None {
            e.link = LinkState::Up;
            e.link_since = now;
        }
        if news {
            self.touch_node(node);
        }
    }

    /// A peer answered: both directions work.
    pub(super) fn answered(&mut self, now: Time, node: &NodeName) {
        let e = self.evidence(now, node);
        if e.link == LinkState::Silent {
            e.link = LinkState::Up;
            e.link_since = now;
            self.touch_node(node);
        }
        self.heard(now, node);
    }

    pub(super) fn link_up(&mut self, now: Time, peer: &NodeName, hello: &Hello) {
        self.answered(now, peer);
        if !self.nodes.get(peer).is_some_and(|e| e.swim.lives()) {
            self.member.announce(now, peer.clone(), hello.address);
        }
        // One of the two begins, if it does not meet many.
        if self.config.name < *peer && self.gossip.greets(now) {
            self.send_digest_to(peer, hello.address);
        } else {
            self.gossip.hurry(now);
        }
    }

    pub(super) fn link_silent(&mut self, now: Time, peer: &NodeName, unanswered: Duration) {
        let e = self.evidence(now, peer);
        if e.link == LinkState::Silent {
            return;
        }
        // The silence began when the first unanswered packet left, yet it is never backdated behind
        // the last proof of life.
        let began = now - unanswered;
        e.silence(e.heard.map_or(began, |h| began.max(h)), unanswered);
        self.unconfirmed.insert(peer.clone());
        self.member.accuse(now, peer);
        self.note_isolation(now);
        self.touch_node(peer);
        self.hint(peer);
    }

    /// A link that closed in good order says nothing of its peer. One that broke, or could not be
    /// made when it was wanted, is silent until the next is up.
    pub(super) fn link_closed(&mut self, now: Time, peer: &NodeName, orderly: bool) {
        let e = self.evidence(now, peer);
        let next = if orderly { LinkState::None } else { LinkState::Silent };
        if e.link == next || e.link == LinkState::Silent {
            return;
        }
        if orderly {
            e.link = next;
            e.link_since = now;
        } else {
            e.silence(now, Duration::ZERO);
            self.unconfirmed.insert(peer.clone());
            self.member.accuse(now, peer);
            self.note_isolation(now);
        }
        self.touch_node(peer);
    }

    /// Takes membership's view into the evidence.
    pub(super) fn take_members(&mut self, now: Time) {
        let stale = std::mem::take(&mut self.stale_members);
        // By name: whoever has changed, and each time whoever a record is missing of.
        let Some(mut names) = self.member.look(stale) else { return };
        names.extend(self.recordless.iter().cloned());
        for name in names {
            if name == self.config.name {
                continue;
            }
            self.note_record(&name);
            let Some(state) = self.member.state(&name) else { continue };
            if self.recordless.contains(&name) {
                // It lives, in a start whose advert has not come yet.
                self.want(name.clone(), None, now);
            }
            let e = self.evidence(now, &name);
            if e.swim == state.swim {
                continue;
            }
            self.gossip.learnt();
            let e = self.evidence(now, &name);
            let from = std::mem::replace(&mut e.swim, state.swim);
            e.swim_since = now;
            let accused = state.swim.is_accused();
            match e.link {
                LinkState::Up if accused => self.look(&name),
                // We get no answer either.
                LinkState::Silent if accused => self.member.accuse(now, &name),
                _ => {}
            }
            self.touch_node(&name);
            self.events.push_back(Event::Member { node: name, from, to: state.swim });
        }
    }

    /// Keeps who lives without a record of its present start.
    fn note_record(&mut self, name: &NodeName) {
        let start = self.table.get(name).map(|entry| entry.signed.version.generation);
        let lives = self.member.state(name).is_some_and(|state| {
            state.swim.is_active() && start.is_none_or(|start| start < state.generation)
        });
        if lives {
            self.recordless.insert(name.clone());
        } else {
            self.recordless.remove(name);
        }
    }

    pub(super) fn flush_member(&mut self, now: Time) {
        while let Some((to, bytes)) = self.member.poll_transmit() {
            let address = self.table.get(&to.name).map_or(to.address, |entry| entry.advert.address);
            self.outbox.push_back(Transmit::Datagram { to: to.name.clone(), address, bytes });
        }
        while let Some(suspect) = self.member.poll_warning() {
            let to = suspect.id.name.clone();
            self.send_members(&to, vec![suspect]);
        }
        for rumour in self.member.take_rumours() {
            let known = self.table.version(&rumour.node).is_some_and(|v| v >= rumour.version);
            if !known {
                self.want(rumour.node, Some(rumour.version), now + gossip::PULL_DELAY);
            }
        }
    }

    /// As many of the living as a few draws find, without a walk through all. Where most live that is `n`.
    fn some_of_many(&mut self, n: usize, except: &NodeName) -> Vec<NodeName> {
        let mut some: Vec<NodeName> = Vec::new();
        for _ in 0..DRAWS * n {
            let Some(name) = self.member.draw(&mut self.gossip.rng) else { break };
            let lives = || self.nodes.get(name).is_some_and(NodeEvidence::lives);
            if name != except && !some.contains(name) && lives() {
                some.push(name.clone());
                if some.len() == n {
                    break;
                }
            }
        }
        some
    }

    /// Every peer we had a link with is silent: it is we who are cut off, until one answers. A link that nobody
    /// watches and of which nothing came of late is no proof of the contrary: nobody has asked.
    pub(super) fn is_isolated(&self, now: Time) -> bool {
        let late = |t: Time| now.since(t) > LATELY;
        let unasked = |e: &NodeEvidence| e.heard.is_none_or(late) && late(e.link_since);
        let mut silent = 0;
        let watched = |name| self.watch.iter().any(|(peer, _)| peer == name);
        for (name, e) in self.nodes.iter().filter(|(_, e)| e.link != LinkState::None) {
            if e.link == LinkState::Silent {
                silent += 1;
            } else if !unasked(e) || watched(name) {
                return false;
            }
        }
        silent >= 2
    }

    /// Up to `n` of the living at random, without ourselves.
    pub(super) fn some_alive(&mut self, n: usize, except: &NodeName) -> Vec<NodeName> {
        if self.nodes.size() > MANY {
            let some = self.some_of_many(n, except);
            if some.len() == n {
                return some;
            }
        }
        let living = self.nodes.iter().filter(|(_, e)| e.lives()).map(|(name, _)| name);
        let mut living: Vec<&NodeName> = living.filter(|name| *name != except).collect();
        let take = n.min(living.len());
        for i in 0..take {
            let j = self.gossip.rng.random_range(i..living.len());
            living.swap(i, j);
        }
        living.into_iter().take(take).cloned().collect()
    }
}
