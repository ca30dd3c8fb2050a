//! Where a node's membership comes from: SWIM as it runs, or what it was heard to say when a recording is
//! replayed.
//!
//! foca's state cannot be written down, so a recording does not hold SWIM's inputs but its outputs: after
//! each step what this node looked at, the [`Hearsay`]. Played back, the rest of the core cannot tell the
//! difference. Live, nothing is added but a note of what was looked at while somebody listens.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use crate::digest::Tree;
use crate::ids::NodeName;
use crate::member::{Member, MemberId, MemberRecord, MemberState, Rumour, SwimRefused};
use crate::time::Time;

/// What membership told the rest of the core in one step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hearsay {
    /// The view was looked at.
    looked: bool,
    /// How it differed from the one before: new states, `None` for who was forgotten.
    changes: Vec<(NodeName, Option<MemberState>)>,
    /// Rumours that came out.
    rumours: Vec<Rumour>,
    /// Nobody is known to be alive.
    idle: bool,
    /// How long this agent did not run before the step, by SWIM's timers.
    stopped: Option<Duration>,
}

/// Membership, live or played.
pub(super) enum Membership {
    /// SWIM runs.
    Live(Box<Live>),
    /// A recording is replayed.
    Played(Played),
}

/// SWIM, and what it said in this step if somebody listens.
pub(super) struct Live {
    member: Member,
    listener: Option<Listener>,
}

#[derive(Default)]
struct Listener {
    step: Hearsay,
}

/// What membership said, played back.
#[derive(Default)]
pub(super) struct Played {
    view: BTreeMap<NodeName, MemberState>,
    changed: BTreeSet<NodeName>,
    looked: bool,
    idle: bool,
    rumours: Vec<Rumour>,
    stopped: Option<Duration>,
    /// Of nobody: no digest is compared in a replay.
    tree: Tree,
}

impl Membership {
    pub(super) fn live(member: Member) -> Self {
        Self::Live(Box::new(Live { member, listener: None }))
    }

    pub(super) fn played(view: BTreeMap<NodeName, MemberState>, idle: bool) -> Self {
        Self::Played(Played { view, idle, ..Played::default() })
    }

    // ---- recording and replaying -----------------------------------------------------------------

    /// From now on [`Self::take_hearsay`] says what was told in each step.
    pub(super) fn listen(&mut self) {
        if let Self::Live(live) = self {
            live.listener = Some(Listener::default());
        }
    }

    /// What the rest of the core was told since the last call.
    pub(super) fn take_hearsay(&mut self) -> Hearsay {
        match self {
            Self::Live(live) => {
                let idle = live.member.is_idle();
                let step = live.listener.as_mut().map(|l| std::mem::take(&mut l.step));
                Hearsay { idle, ..step.unwrap_or_default() }
            }
            Self::Played(_) => Hearsay::default(),
        }
    }

    /// What is told in the next step of a replay.
    pub(super) fn play(&mut self, hearsay: Hearsay) {
        let Self::Played(played) = self else { return };
        let Hearsay { looked, changes, rumours, idle, stopped } = hearsay;
        for (name, state) in changes {
            match state {
                Some(state) => drop(played.view.insert(name.clone(), state)),
                None => drop(played.view.remove(&name)),
            }
            played.changed.insert(name);
        }
        played.looked = looked;
        played.rumours = rumours;
        played.idle = idle;
        played.stopped = stopped;
    }

    /// The whole view. At the end of a step: the one that the rest of the core has looked at.
    pub(super) fn known(&self) -> BTreeMap<NodeName, MemberState> {
        match self {
            Self::Live(live) => live.member.states(),
            Self::Played(played) => played.view.clone(),
        }
    }

    // ---- what the rest of the core asks ----------------------------------------------------------

    /// A step begins. Returns how long this agent did not run before it, if it was stopped.
    pub(super) fn begin(&mut self, now: Time) -> Option<Duration> {
        match self {
            Self::Live(live) => {
                let stopped = live.member.begin(now);
                if let Some(listener) = &mut live.listener {
                    listener.step.stopped = stopped;
                }
                stopped
            }
            Self::Played(played) => played.stopped.take(),
        }
    }

    /// Of whom something else is said than when it was last looked at, if there is reason to look: `stale`, or
    /// there was news.
    pub(super) fn look(&mut self, stale: bool) -> Option<BTreeSet<NodeName>> {
        match self {
            Self::Live(live) => {
                if !stale && !live.member.has_changed() {
                    return None;
                }
                let names = live.member.changes();
                if let Some(listener) = &mut live.listener {
                    listener.step.looked = true;
                    let said = names.iter().map(|name| (name.clone(), live.member.state(name)));
                    listener.step.changes.extend(said);
                }
                Some(names)
            }
            Self::Played(played) => {
                let changed = std::mem::take(&mut played.changed);
                std::mem::take(&mut played.looked).then_some(changed)
            }
        }
    }

    /// What is said of a node; `None` if nothing is known.
    pub(super) fn state(&self, name: &NodeName) -> Option<MemberState> {
        match self {
            Self::Live(live) => live.member.state(name),
            Self::Played(played) => played.view.get(name).copied(),
        }
    }

    /// Somebody by chance, dead or alive; nobody in a replay.
    pub(super) fn draw(&self, rng: &mut StdRng) -> Option<&NodeName> {
        match self {
            Self::Live(live) => live.member.draw(rng),
            Self::Played(_) => None,
        }
    }

    pub(super) fn take_rumours(&mut self) -> Vec<Rumour> {
        match self {
            Self::Live(live) => {
                let rumours = live.member.take_rumours();
                if let Some(listener) = &mut live.listener {
                    listener.step.rumours.extend(rumours.iter().cloned());
                }
                rumours
            }
            Self::Played(played) => std::mem::take(&mut played.rumours),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        match self {
            Self::Live(live) => live.member.is_idle(),
            Self::Played(played) => played.idle,
        }
    }

    /// Where membership heard a node is reached.
    pub(super) fn address(&self, name: &NodeName) -> Option<SocketAddr> {
        match self {
            Self::Live(live) => live.member.address(name),
            Self::Played(played) => played.view.get(name).map(|m| m.address),
        }
    }

    // ---- SWIM's own business: nothing to do in a replay -------------------------------------------

    pub(super) fn handle_packet(
        &mut self,
        now: Time,
        from: &NodeName,
        packet: &[u8],
    ) -> Result<(), SwimRefused> {
        match self {
            Self::Live(live) => live.member.handle_packet(now, from, packet),
            Self::Played(_) => Ok(()),
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Time) {
        if let Self::Live(live) = self {
            live.member.handle_timeout(now);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        match self {
            Self::Live(live) => live.member.poll_timeout(),
            Self::Played(_) => None,
        }
    }

    pub(super) fn announce(&mut self, now: Time, name: NodeName, address: SocketAddr) {
        if let Self::Live(live) = self {
            live.member.announce(now, name, address);
        }
    }

    pub(super) fn merge(&mut self, now: Time, members: Vec<MemberRecord>) {
        if let Self::Live(live) = self {
            live.member.merge(now, members);
        }
    }

    pub(super) fn spread(&mut self, rumour: &Rumour) {
        if let Self::Live(live) = self {
            live.member.spread(rumour);
        }
    }

    pub(super) fn leave(&mut self, now: Time) {
        if let Self::Live(live) = self {
            live.member.leave(now);
        }
    }

    pub(super) fn poll_transmit(&mut self) -> Option<(MemberId, Bytes)> {
        match self {
            Self::Live(live) => live.member.poll_transmit(),
            Self::Played(_) => None,
        }
    }

    pub(super) fn accuse(&mut self, now: Time, name: &NodeName) {
        if let Self::Live(live) = self {
            live.member.accuse(now, name);
        }
    }

    pub(super) fn poll_warning(&mut self) -> Option<MemberRecord> {
        match self {
            Self::Live(live) => live.member.poll_warning(),
            Self::Played(_) => None,
        }
    }

    pub(super) fn correction(&self, told: &[MemberRecord]) -> Option<MemberRecord> {
        match self {
            Self::Live(live) => live.member.correction(told),
            Self::Played(_) => None,
        }
    }

    pub(super) fn record(&self, name: &NodeName) -> Option<MemberRecord> {
        match self {
            Self::Live(live) => live.member.record(name),
            Self::Played(_) => None,
        }
    }

    pub(super) fn records_in(&self, leaves: &[u16]) -> Vec<MemberRecord> {
        match self {
            Self::Live(live) => live.member.records_in(leaves),
            Self::Played(_) => Vec::new(),
        }
    }

    pub(super) fn tree(&self) -> &Tree {
        match self {
            Self::Live(live) => live.member.tree(),
            Self::Played(played) => &played.tree,
        }
    }

    pub(super) fn timers(&self) -> usize {
        match self {
            Self::Live(live) => live.member.timers(),
            Self::Played(_) => 0,
        }
    }

    pub(super) fn probes_failed(&self) -> u64 {
        match self {
            Self::Live(live) => live.member.probes_failed(),
            Self::Played(_) => 0,
        }
    }

    pub(super) fn refutations(&self) -> u64 {
        match self {
            Self::Live(live) => live.member.refutations(),
            Self::Played(_) => 0,
        }
    }

    pub(super) fn rejoins(&self) -> u64 {
        match self {
            Self::Live(live) => live.member.rejoins(),
            Self::Played(_) => 0,
        }
    }

    pub(super) fn active(&self) -> usize {
        match self {
            Self::Live(live) => live.member.active(),
            Self::Played(played) => played.view.values().filter(|m| m.swim.is_active()).count(),
        }
    }

    pub(super) fn health_score(&self) -> u32 {
        match self {
            Self::Live(live) => live.member.health_score(),
            Self::Played(_) => 0,
        }
    }
}
