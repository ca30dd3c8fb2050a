//! What foca holds, by name.
//!
//! foca keeps its members in a list, finds each by walking it, and notifies nobody of a suspicion or of its
//! refutation. This is a copy of that list in the order of names. It is never computed from updates: whoever
//! an input may have changed is *touched*, and read anew from foca's list afterwards, so that the copy costs
//! a walk only where there was news. It decides which update is news at all, by foca's own rules. Only a member
//! that begins in a whole mesh takes what foca was given, and shares it with others ([`Known::share`]).

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use foca::{Identity, Member, State};
use rpds::RedBlackTreeMapSync;

use crate::digest::Tree;
use crate::ids::NodeName;
use crate::table::MAX_NODES;

use super::{MemberId, MemberRecord};

type Members = RedBlackTreeMapSync<NodeName, MemberRecord>;

/// Members that all live, to be shared by those who know them.
#[derive(Clone, Debug, Default)]
pub struct Everybody {
    members: Members,
    tree: Tree,
}

impl Everybody {
    /// Adds a member.
    pub fn add(&mut self, id: MemberId) {
        let record = MemberRecord::of(&Member::new(id, 0, State::Alive));
        let old = self.members.get(&record.id.name);
        for record in old.into_iter().chain([&record]) {
            self.tree.toggle(&record.id.name, record.hash());
        }
        self.members.insert_mut(record.id.name.clone(), record);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &MemberRecord> {
        self.members.values()
    }
}

/// Who is known, for the handler of rumours, which foca owns and lends to nobody: as of the last step.
#[derive(Clone, Debug, Default)]
pub(super) struct View(Arc<Mutex<Members>>);

impl View {
    pub(super) fn set(&self, members: &Members) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = members.clone();
    }

    pub(super) fn get(&self, name: &NodeName) -> Option<MemberRecord> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

/// The copy, and what changed in it.
#[derive(Default)]
pub(super) struct Known {
    members: Members,
    view: View,
    /// Over those who are not down. The dead are forgotten at different times by everybody.
    tree: Tree,
    touched: BTreeSet<NodeName>,
    changed: BTreeSet<NodeName>,
}

impl Known {
    /// What is known, for others to look at.
    pub(super) fn view(&self) -> View {
        self.view.clone()
    }

    /// What foca holds of a node.
    pub(super) fn get(&self, name: &NodeName) -> Option<&MemberRecord> {
        self.members.get(name)
    }

    /// All of it by name, in two parts: up to `name`, with it, and what follows.
    pub(super) fn around(
        &self,
        name: &NodeName,
    ) -> (impl Iterator<Item = &MemberRecord>, impl Iterator<Item = &MemberRecord>) {
        let upto = (Bound::Unbounded, Bound::Included(name.clone()));
        let behind = (Bound::Excluded(name.clone()), Bound::Unbounded);
        let within = |bounds| self.members.range(bounds).map(|(_, record)| record);
        (within(upto), within(behind))
    }

    /// All of it by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &MemberRecord> {
        self.members.values()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.members.size()
    }

    /// What foca holds now is everybody but `me`: no copy of its list is made, but a share of theirs taken.
    pub(super) fn share(&mut self, everybody: &Everybody, me: &NodeName) {
        let Everybody { members, tree } = everybody.clone();
        (self.members, self.tree) = (members, tree);
        if let Some(ours) = self.members.get(me).cloned() {
            self.sum(&ours);
            self.members.remove_mut(me);
        }
        self.touched.clear();
        self.changed.clear();
        self.view.set(&self.members);
    }

    /// Whether foca must be told this: if it is about us or would change anything. Whoever it is about is
    /// touched then, and what else is said of it in the same step is told as well, since the copy is behind.
    /// Of more members than there may be nothing is told: a peer may not fill our memory with some it made up.
    pub(super) fn note(&mut self, update: &Member<MemberId>, me: &NodeName) -> bool {
        let name = &update.id().name;
        let room = || self.members.size() + self.touched.len() < MAX_NODES;
        let tell = name == me
            || self.touched.contains(name)
            || self.is_news(update) && (self.members.contains_key(name) || room());
        if tell {
            self.touch(name);
        }
        tell
    }

    /// Whether foca would change anything if it were told this of somebody other than us (the order of
    /// preference in section 4.2 of the SWIM paper; of two identities of one node the newer, and what
    /// neither wins is replaced).
    fn is_news(&self, update: &Member<MemberId>) -> bool {
        let id = update.id();
        let Some(held) = self.members.get(&id.name) else { return true };
        if held.id != *id {
            return !held.id.win_addr_conflict(id);
        }
        match (held.state(), update.state()) {
            (State::Down, _) => false,
            (_, State::Down) => true,
            (State::Alive, State::Suspect) => update.incarnation() >= held.incarnation,
            (State::Alive | State::Suspect, _) => update.incarnation() > held.incarnation,
        }
    }

    /// What foca holds of this node may change now.
    pub(super) fn touch(&mut self, name: &NodeName) {
        if !self.touched.contains(name) {
            self.touched.insert(name.clone());
        }
    }

    /// Reads whoever was touched anew from foca's list.
    /// Returns who that was.
    pub(super) fn refresh<'a>(
        &mut self,
        list: impl Iterator<Item = &'a Member<MemberId>>,
    ) -> BTreeSet<NodeName> {
        let all = std::mem::take(&mut self.touched);
        if all.is_empty() {
            return all;
        }
        let mut touched = all.clone();
        for member in list {
            if touched.is_empty() {
                break;
            }
            let name = &member.id().name;
            if !touched.remove(name) {
                continue;
            }
            let record = MemberRecord::of(member);
            if self.members.get(name) != Some(&record) {
                if let Some(old) = self.members.get(name).cloned() {
                    self.sum(&old);
                }
                self.sum(&record);
                self.members.insert_mut(name.clone(), record);
                self.changed.insert(name.clone());
            }
        }
        // Whoever is left over is in the list no longer: foca has forgotten its death.
        for name in touched {
            if let Some(old) = self.members.get(&name).cloned() {
                self.sum(&old);
                self.members.remove_mut(&name);
                self.changed.insert(name);
            }
        }
        self.view.set(&self.members);
        all
    }

    /// Adds a record to the sums, or takes it out.
    pub(super) fn sum(&mut self, record: &MemberRecord) {
        if !record.is_down() {
            self.tree.toggle(&record.id.name, record.hash());
        }
    }

    /// The hashes of all that are not down, with whatever else was added.
    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// What is said of a node changed, though not what foca holds.
    pub(super) fn changed(&mut self, name: &NodeName) {
        if self.members.contains_key(name) && !self.changed.contains(name) {
            self.changed.insert(name.clone());
        }
    }

    /// Whether any entry changed since the last call of [`take_changed`](Self::take_changed).
    pub(super) fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Whose entries changed since the last call, by name.
    pub(super) fn take_changed(&mut self) -> BTreeSet<NodeName> {
        std::mem::take(&mut self.changed)
    }
}
