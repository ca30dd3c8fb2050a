//! What foca does to us during a step: timers it arms, packets it sends, what it notifies.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use foca::{Header, Notification};

use crate::time::Time;
use crate::wire;

use super::MemberId;
use super::awareness::Awareness;
use super::known::Known;

/// A timer in the heap: earliest first, then foca's own order for ties, then first come first served.
pub(super) struct Due {
    pub(super) at: Time,
    seq: u64,
    pub(super) timer: foca::Timer<MemberId>,
}

impl Due {
    pub(super) fn postponed(self, by: Duration) -> Self {
        Self { at: self.at + by, ..self }
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    // Reversed: BinaryHeap pops its greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        other
            .at
            .cmp(&self.at)
            .then_with(|| other.timer.cmp(&self.timer))
            .then_with(|| other.seq.cmp(&self.seq))
    }
}

/// What foca may do to us during a step.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) now: Time,
    seq: u64,
    pub(super) timers: BinaryHeap<Due>,
    /// Datagrams.
    pub(super) outbox: VecDeque<(MemberId, Bytes)>,
    pub(super) known: Known,
    pub(super) awareness: Awareness,
    /// foca's own deadlines of suspicions, which are ours to set (`suspicion`): none is armed.
    pub(super) keeps_suspicions: bool,
    /// Whose probe failed in this step.
    pub(super) failed: Option<MemberId>,
    /// Packets of this step tell our incarnation: it may have changed.
    pub(super) reads_incarnation: bool,
    /// Our own incarnation, as packets say it.
    pub(super) incarnation: u16,
    /// Whichever foca armed last: timers of an earlier one are void.
    pub(super) token: Option<foca::TimerToken>,
    pub(super) idle: bool,
    pub(super) probe_failed: u64,
    pub(super) rejoined: u64,
}

impl Effects {
    /// Nobody is known yet.
    pub(super) fn new(keeps_suspicions: bool) -> Self {
        Self { idle: true, keeps_suspicions, ..Self::default() }
    }
}

impl foca::Runtime<MemberId> for &mut Effects {
    fn notify(&mut self, notification: Notification<'_, MemberId>) {
        match notification {
            Notification::MemberUp(id)
            | Notification::MemberDown(id)
            | Notification::Rename(_, id) => self.known.touch(&id.name),
            Notification::Idle => self.idle = true,
            Notification::Active => self.idle = false,
            Notification::ProbeFailed(_, id) => {
                self.probe_failed += 1;
                self.failed = Some(id.clone());
                // It is suspected next, of which foca notifies nobody.
                self.known.touch(&id.name);
            }
            Notification::Rejoin(_) => {
                self.rejoined += 1;
                self.incarnation = 0;
                self.reads_incarnation = true;
            }
            _ => {}
        }
    }

    fn send_to(&mut self, to: MemberId, data: &[u8]) {
        if self.reads_incarnation
            && let Ok((header, _)) = wire::decode_prefix::<Header<MemberId>>(data)
        {
            self.incarnation = header.src_incarnation;
        }
        self.outbox.push_back((to, wire::encode_swim(data).into()));
    }

    fn submit_after(&mut self, timer: foca::Timer<MemberId>, mut after: Duration) {
        match &timer {
            foca::Timer::ProbeRandomMember(token) => {
                self.token = Some(*token);
                after = self.awareness.stretch(after);
            }
            foca::Timer::SendIndirectProbe { .. } => after = self.awareness.stretch(after),
            foca::Timer::ChangeSuspectToDown { .. } if self.keeps_suspicions => return,
            _ => {}
        }
        self.seq += 1;
        self.timers.push(Due { at: self.now + after, seq: self.seq, timer });
    }
}
