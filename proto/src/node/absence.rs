//! What follows from our own absence: we were stopped, starved or moved, and go on.
//!
//! What we know is then as old as the absence was long, links have died of it that nobody was there to keep
//! alive, and what lies unread is older than it looks. Until that is caught up with we count nobody lost whom we
//! had not lost before, and neither call up an endpoint of ours nor have one stand down. Traffic does not wait: a
//! silent link is doubted at once, as ever.
//!
//! Noticed by SWIM's timers, the earliest of which is never far off; see [`crate::member`]. A recording holds
//! what they said.

use std::time::Duration;

use crate::lifecycle::Event as Life;
use crate::time::Time;

use super::Node;

/// What piled up meanwhile is worked off in about as long as the absence was, and every link dialled anew within
/// a dial's limit: no absence takes longer to catch up with.
pub const CATCH_UP: Duration = Duration::from_secs(1);

impl Node {
    /// Every input and command starts here.
    pub(super) fn begin(&mut self, now: Time) {
        let nodes = &mut self.nodes;
        self.unconfirmed.retain(|name| nodes.get_mut(name).is_some_and(|e| !e.look(now)));
        let Some(absence) = self.member.begin(now) else { return };
        let (left, until) = (now - absence, now + absence.min(CATCH_UP));
        self.caught_up = self.caught_up.max(until);
        for name in self.nodes.keys().cloned().collect::<Vec<_>>() {
            if let Some(evidence) = self.nodes.get_mut(&name) {
                evidence.spare(left, until);
            }
        }
        // Whoever asked before is asked again if it still waits.
        self.forced.retain(|_, forced| forced.until > now);
        // Shorter ones are daily life on a busy host, where a hold would else never end.
        if absence >= CATCH_UP {
            for id in self.own.keys().cloned().collect::<Vec<_>>() {
                self.drive(now, &id, &Life::Unsure);
            }
        }
        self.stale_services.extend(self.services.keys().cloned());
    }

    /// Whether we have not caught up yet with an absence of ours.
    pub(super) fn is_behind(&self, now: Time) -> bool {
        now < self.caught_up
    }
}
