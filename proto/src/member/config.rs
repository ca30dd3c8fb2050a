//! How fast membership works, and foca's own constants, which follow the size of the mesh.

use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::PeriodicParams;
use serde::{Deserialize, Serialize};

use crate::wire;

/// How fast membership works. All agents of a mesh should agree.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct SwimConfig {
    /// One random member is probed in every period (SWIM's T').
    pub probe_period: Duration,
    /// How long a direct probe may take before others are asked to try.
    pub probe_rtt: Duration,
    /// For so long a host may stand still without being declared down.
    pub forgive: Duration,
    /// With what Lifeguard adds. Without, as SWIM is in its paper: one whose probe failed waits for the shortest
    /// suspicion, nobody doubts himself. For comparison only.
    pub lifeguard: bool,
}

impl Default for SwimConfig {
    /// A member is probed twice as often as in memberlist's LAN profile. Traffic never waits for a verdict: it
    /// only has to be right.
    fn default() -> Self {
        Self {
            probe_period: Duration::from_millis(500),
            probe_rtt: Duration::from_millis(200),
            forgive: Duration::from_millis(2500),
            lifeguard: true,
        }
    }
}

/// Members gossiped to at once, and asked to probe in our stead (SWIM's k).
const FANOUT: NonZeroUsize = NonZeroUsize::new(3).expect("3 is not 0");
const SWIM_PACKET: NonZeroUsize = NonZeroUsize::new(wire::MAX_SWIM).expect("1150 is not 0");
/// Gossip rounds: memberlist's LAN value.
const GOSSIP_PERIOD: Duration = Duration::from_millis(200);
/// A timer so much later than due says that *we* did not run (stopped, swapped, starved): answers may lie
/// unread. The time lost is then added to every timer, so that no peer is accused of our own absence.
/// Half of the default probe time-out.
pub(super) const LATE: Duration = Duration::from_millis(100);
/// Probe periods without a packet of anybody after which we are deaf: a member hears some four in each.
pub(super) const DEAF: u32 = 4;
/// More members than this, learnt at once from another's view, are known to the mesh already.
pub(super) const MUCH: usize = 16;
/// How long the dead are remembered (memberlist and foca: 24 h): an old record must not revive them.
pub const REMEMBER_DOWN: Duration = Duration::from_secs(24 * 3600);

impl SwimConfig {
    /// The shortest suspicion among `size` members: the stop that is forgiven, the time in which the suspicion
    /// reaches everybody, and that in which its refutation does. Push gossip with fanout f takes
    /// log_{f+1} n + ln n / f rounds (Pittel, SIAM J. Appl. Math. 47(1), 1987).
    pub fn shortest_suspicion(&self, size: usize) -> Duration {
        let (n, f) = (size.max(2) as f64, FANOUT.get() as f64);
        let rounds = n.ln() / (f + 1.0).ln() + n.ln() / f;
        self.forgive + GOSSIP_PERIOD.mul_f64(2.0 * rounds)
    }

    /// foca's constants in a mesh of this size.
    pub(super) fn foca(&self, size: usize) -> foca::Config {
        let n = size.max(3) as f64;
        // 4·log10(n+1) transmissions, as memberlist; never fewer than foca's own value for ten members.
        let sends = ((4.0 * (n + 1.0).log10()) as u8).max(4);
        foca::Config {
            probe_period: self.probe_period,
            probe_rtt: self.probe_rtt,
            num_indirect_probes: FANOUT,
            max_transmissions: NonZeroU8::new(sends).unwrap_or(NonZeroU8::MAX),
            suspect_to_down_after: self.shortest_suspicion(size),
            remove_down_after: Some(REMEMBER_DOWN),
            max_packet_size: SWIM_PACKET,
            notify_down_members: true,
            // What it is for, digests do with fewer bytes.
            periodic_announce: None,
            periodic_announce_to_down_members: Some(PeriodicParams {
                frequency: Duration::from_secs(3),
                num_members: FANOUT,
            }),
            periodic_gossip: Some(PeriodicParams { frequency: GOSSIP_PERIOD, num_members: FANOUT }),
        }
    }
}
