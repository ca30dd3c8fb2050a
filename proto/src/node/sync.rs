//! How what two nodes hold becomes equal: by the hashes of `digest`, from the root down, for the table and for
//! the membership alike.
//!
//! `Digest` (roots) → `Branches` → `Leaves` → what lies in the leaves that differ: `Versions`, then the records
//! that either lacks; or `Members`, answered with what differs. A few hundred bytes find one difference among
//! thousands of nodes; equal roots cost one message.
//!
//! What a node feeds to others in a second is bounded. Who joins through a busy one is told of a few others
//! instead, and asks them: a seed's bytes grow with the number of those that join, not with its square.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use crate::advert::SignedAdvert;
use crate::digest::{self, BranchLeaves, FAN, LeafSet, Replica};
use crate::ids::NodeName;
use crate::member::MemberRecord;
use crate::policy::Rate;
use crate::time::{Span, Time};
use crate::wire::{Branches, Digest, Leaves, Members, Message, Versions};

use super::{Node, Transmit};

/// Records in one message; 64 of the largest fill a quarter of it.
pub(super) const BATCH: usize = 64;
/// So many records, or their versions, go out whatever the feed: few are news, many are a newcomer's hunger.
const FEW: usize = 64;
/// What is fed to newcomers: members and versions, as a rate. About 100 KB/s.
const FEED: Rate = Rate::Of { times: 2_000, per: Span(Duration::from_secs(1)) };
/// Members of whom a newcomer is told by a node that cannot feed it.
const REDIRECT: usize = 16;
/// Leaves that differ of which it is said that much is missing.
const MUCH: usize = 8;

/// What is left of the feed.
#[derive(Default)]
pub(super) struct Feed {
    /// When it would be whole again if nothing more went out.
    whole: Time,
}

impl Feed {
    /// Whether `records` may go out now; they are counted if so. More than the whole feed may once it is whole.
    fn take(&mut self, now: Time, records: usize) -> bool {
        let Rate::Of { times, per } = FEED else { return true };
        if records <= FEW {
            return true;
        }
        let cost = per.0.mul_f64(records as f64 / f64::from(times));
        let whole = self.whole.max(now);
        if whole.since(now) + cost > per.0.max(cost) {
            return false;
        }
        self.whole = whole + cost;
        true
    }
}

/// When our table was last the same as somebody else's, branch by branch: how stale a record may be. A record that
/// has not changed for weeks is as fresh as the last comparison that found it alike.
#[derive(Clone, Copy)]
pub(super) struct Agreement([Time; FAN]);

impl Agreement {
    /// Nothing was compared yet.
    pub(super) fn none() -> Self {
        Self([Time(0); FAN])
    }

    fn note(&mut self, now: Time, alike: impl Fn(usize) -> bool) {
        (0..FAN).filter(|branch| alike(*branch)).for_each(|branch| self.0[branch] = now);
    }

    /// When the branch of this record was last alike.
    pub(super) fn of(&self, node: &NodeName) -> Time {
        self.0[digest::leaf(node) / FAN]
    }
}

impl Node {
    /// What this node holds, in hashes: two that know the same say the same.
    pub fn digest(&self) -> Digest {
        let documents = self.documents.iter().map(|(kind, (s, _))| (*kind, s.version)).collect();
        let (table, members) = (self.table.tree().root(), self.member.tree().root());
        Digest { table, members, documents }
    }

    pub(super) fn send_digest_to(&mut self, peer: &NodeName, address: SocketAddr) {
        let message = Message::Digest(self.digest());
        self.outbox.push_back(Transmit::Message { to: peer.clone(), address, message });
    }

    /// Somebody's digest: where it differs from ours, what ours is made of.
    pub(super) fn take_digest(&mut self, now: Time, from: &NodeName, digest: &Digest) {
        if digest.table == self.table.tree().root() {
            self.gossip.agreed.note(now, |_| true);
        }
        for (of, theirs) in [(Replica::Members, digest.members), (Replica::Table, digest.table)] {
            if self.tree(of).root() != theirs {
                let branches = self.tree(of).branches();
                self.send(from, Message::Branches(Branches { of, branches }));
            }
        }
        self.compare_documents(from, &digest.documents);
    }

    fn tree(&self, of: Replica) -> &crate::digest::Tree {
        match of {
            Replica::Table => self.table.tree(),
            Replica::Members => self.member.tree(),
        }
    }

    pub(super) fn take_branches(&mut self, now: Time, from: &NodeName, said: &Branches) {
        let leaves = self.tree(said.of).leaves_where(&said.branches);
        self.note_alike(now, said.of, &leaves);
        if !leaves.is_empty() {
            self.send(from, Message::Leaves(Leaves { of: said.of, leaves }));
        }
    }

    /// The branches of which no leaves were told are alike.
    fn note_alike(&mut self, now: Time, of: Replica, told: &BranchLeaves) {
        if of == Replica::Table {
            let differs = |branch| told.iter().any(|(b, _)| usize::from(*b) == branch);
            self.gossip.agreed.note(now, |branch| !differs(branch));
        }
    }

    pub(super) fn take_leaves(&mut self, now: Time, from: &NodeName, said: &Leaves) {
        self.note_alike(now, said.of, &said.leaves);
        let leaves = self.tree(said.of).differing(&said.leaves);
        if leaves.is_empty() {
            return;
        }
        if leaves.len() > MUCH {
            self.gossip.hurry(now);
        }
        match said.of {
            Replica::Table => {
                let mut entries = self.table.versions_in(&leaves);
                let asked = LeafSet::new(&leaves);
                let refused = self.quarantine.versions(now).filter(|(node, _)| asked.holds(node));
                entries.extend(refused.map(|(node, version)| (node.clone(), version)));
                if self.gossip.feed.take(now, entries.len()) {
                    self.send(from, Message::Versions(Versions { leaves, entries }));
                }
            }
            Replica::Members => {
                let members = self.member.records_in(&leaves);
                if self.gossip.feed.take(now, members.len()) {
                    self.send(from, Message::Members(Members { reply: true, leaves, members }));
                } else {
                    self.redirect(from);
                }
            }
        }
    }

    /// Tells a newcomer of a few others who can feed it.
    fn redirect(&mut self, newcomer: &NodeName) {
        let others = self.some_alive(REDIRECT, newcomer);
        let members = others.iter().filter_map(|name| self.member.record(name)).collect();
        self.send_members(newcomer, members);
    }

    /// Tells somebody of a few members.
    pub(super) fn send_members(&mut self, to: &NodeName, members: Vec<MemberRecord>) {
        let message = Message::Members(Members { reply: false, leaves: Vec::new(), members });
        self.send(to, message);
    }

    /// Somebody's view of a part of the membership. Asked for it, what we know better, and what it lacks.
    pub(super) fn take_members_of(&mut self, now: Time, from: &NodeName, said: Members) {
        let Members { reply, leaves, members: theirs } = said;
        if leaves.len() > MUCH {
            self.gossip.hurry(now);
        }
        let asked = reply && !leaves.is_empty();
        self.stale_members = true;
        if !asked {
            let of_us = |record: &&MemberRecord| record.id.name == self.config.name;
            let of_us: Vec<MemberRecord> = theirs.iter().filter(of_us).cloned().collect();
            self.member.merge(now, theirs);
            // It was told of a suspicion, and did not hear us refute it.
            if let Some(ours) = self.member.correction(&of_us) {
                self.send_members(from, vec![ours]);
            }
            return;
        }
        self.member.merge(now, theirs.clone());
        let theirs: BTreeMap<&NodeName, &MemberRecord> =
            theirs.iter().map(|record| (&record.id.name, record)).collect();
        let mut ours = self.member.records_in(&leaves);
        ours.retain(|record| theirs.get(&record.id.name) != Some(&record));
        if !ours.is_empty() && self.gossip.feed.take(now, ours.len()) {
            self.send_members(from, ours);
        }
    }

    /// Somebody's versions: send what it lacks, ask for what we lack.
    pub(super) fn take_versions(&mut self, now: Time, from: &NodeName, versions: &Versions) {
        let (mut want, owed) = self.table.compare(&versions.leaves, &versions.entries);
        want.retain(|(node, version)| {
            *node != self.config.name && !self.quarantine.bars(now, node, Some(*version))
        });
        if want.len() > MUCH {
            self.gossip.hurry(now);
        }
        self.send_adverts(from, &owed);
        if !want.is_empty() {
            let want = want.into_iter().map(|(node, _)| node).collect();
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feed_bounds_what_newcomers_get_in_a_second_and_never_stops_a_few() {
        let mut feed = Feed::default();
        let now = Time(5_000_000);
        assert!(feed.take(now, 1_500) && !feed.take(now, 1_500), "a second one waits");
        assert!((0..1_000).all(|_| feed.take(now, FEW)), "news goes out");
        let later = now + Duration::from_millis(1_100);
        assert!(feed.take(later, 1_500));
        // A mesh larger than the feed is fed when nobody else is.
        let later = later + Duration::from_secs(2);
        assert!(feed.take(later, 10_000) && !feed.take(later, 100));
        assert!(!feed.take(later + Duration::from_secs(4), 2_000), "it is paid for");
        assert!(feed.take(later + Duration::from_secs(5), 2_000));
    }
}
