//! How far this agent trusts its own view of others: the local health multiplier of Lifeguard (Dadgar, Phillips,
//! Currey, DSN-W 2018, section III.A).
//!
//! Whoever gets no answers, is late or has to refute its own death again and again is more likely slow itself
//! than surrounded by the dead: it then probes at a slower rate and waits longer for each answer.

use std::time::Duration;

/// Highest score (memberlist's `AwarenessMaxMultiplier` is one more).
const WORST: u32 = 8;

/// The score: 0 is in good health, [`WORST`] is not to be trusted much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Awareness(u32);

impl Awareness {
    /// A probe of ours failed, we were late, or somebody suspected us.
    pub(super) fn worse(&mut self) {
        self.0 = (self.0 + 1).min(WORST);
    }

    /// A probe of ours was answered.
    pub(super) fn better(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }

    /// How long to take for what takes `time` in good health.
    pub(super) fn stretch(self, time: Duration) -> Duration {
        time * (self.0 + 1)
    }

    /// The score.
    pub(super) fn score(self) -> u32 {
        self.0
    }
}
