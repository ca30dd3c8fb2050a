//! What a member knows, as others read it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use rand::RngExt;
use rand::rngs::StdRng;

use super::Member;
use super::record::{MemberRecord, MemberState};
use crate::digest::{LeafSet, Tree};
use crate::evidence::Swim;
use crate::ids::NodeName;

impl Member {
    /// Whether [`changes`](Self::changes) has something to say.
    pub fn has_changed(&self) -> bool {
        self.effects.known.has_changed()
    }

    /// Where membership heard a node is reached.
    pub fn address(&self, name: &NodeName) -> Option<SocketAddr> {
        self.effects.known.get(name).map(|m| m.id.address)
    }

    /// What SWIM says of a node; `None` if it knows nothing.
    pub fn state(&self, name: &NodeName) -> Option<MemberState> {
        self.effects.known.get(name).map(|record| self.summary(record))
    }

    fn summary(&self, record: &MemberRecord) -> MemberState {
        let mut state = record.summary();
        if state.swim == Swim::Alive && self.steadiness.is_unsteady(&record.id.name) {
            state.swim = Swim::Unsteady;
        }
        state
    }

    /// What is known of another, as it is passed on.
    pub fn record(&self, name: &NodeName) -> Option<MemberRecord> {
        self.effects.known.get(name).cloned()
    }

    /// Our own record, for somebody who told us an older one: that we are suspect, which we refuted long ago.
    pub fn correction(&self, told: &[MemberRecord]) -> Option<MemberRecord> {
        let ours = self.ourselves();
        let stale = |record: &MemberRecord| record.id.name == ours.id.name && *record != ours;
        (!self.left && told.iter().any(stale)).then_some(ours)
    }

    /// What SWIM says of everybody but ourselves, by name.
    pub fn states(&self) -> BTreeMap<NodeName, MemberState> {
        let all = self.effects.known.iter();
        all.map(|record| (record.id.name.clone(), self.summary(record))).collect()
    }

    /// Of whom SWIM says something else than at the last call, by name.
    pub fn changes(&mut self) -> BTreeSet<NodeName> {
        self.effects.known.take_changed()
    }

    /// What of our view lies in some leaves of its [`tree`](Self::tree), by name, also of the dead, with
    /// ourselves.
    pub fn records_in(&self, leaves: &[u16]) -> Vec<MemberRecord> {
        let asked = LeafSet::new(leaves);
        let known = &self.effects.known;
        // Behind what is known under our name, which is an earlier identity of ours.
        let (before, behind) = known.around(&self.id().name);
        let ours = (!self.left).then(|| self.ourselves());
        let lies = |record: &&MemberRecord| asked.holds(&record.id.name);
        let mut records: Vec<MemberRecord> = before.filter(lies).cloned().collect();
        records.extend(ours.iter().filter(lies).cloned());
        records.extend(behind.filter(lies).cloned());
        records
    }

    /// Somebody of foca's list by chance, dead or alive.
    pub fn draw(&self, rng: &mut StdRng) -> Option<&NodeName> {
        let mut list = self.foca.iter_membership_state();
        let len = list.len();
        let at = (len > 0).then(|| rng.random_range(0..len))?;
        list.nth(at).map(|member| &member.id().name)
    }

    /// The hashes over everybody alive or suspect, with ourselves.
    pub fn tree(&self) -> &Tree {
        self.effects.known.tree()
    }

    pub(super) fn ourselves(&self) -> MemberRecord {
        MemberRecord {
            id: self.foca.identity().clone(),
            incarnation: self.effects.incarnation,
            state: 0,
        }
    }

    /// Nobody is known to be alive: foca rests and must be woken by [`announce`](Self::announce).
    pub fn is_idle(&self) -> bool {
        self.effects.idle
    }

    /// Others that are alive or suspect.
    pub fn active(&self) -> usize {
        self.foca.num_members()
    }

    /// Timers that are armed.
    pub fn timers(&self) -> usize {
        self.effects.timers.len()
    }

    /// Probes of ours that failed so far.
    pub fn probes_failed(&self) -> u64 {
        self.effects.probe_failed
    }

    /// Times we had to refute our own death.
    pub fn rejoins(&self) -> u64 {
        self.effects.rejoined
    }

    /// Times we had to refute that we are suspect.
    pub fn refutations(&self) -> u64 {
        self.refuted
    }

    /// How slow we take ourselves to be: 0 in good health, 8 at most.
    pub fn health_score(&self) -> u32 {
        self.effects.awareness.score()
    }
}
