//! Membership: foca's SWIM, wrapped.
//!
//! Decides nothing about traffic: it says which nodes the members take for alive, suspect or down. It
//! owns foca, the timers (a heap in memory, so that none is ever lost or out of order: a lost one ends
//! failure detection for good) and the outbox. The view is level-triggered: it is read from foca's
//! state after each step, never assembled from its notifications, since foca notifies neither a
//! suspicion nor its refutation.
//!
//! Terms are those of SWIM (Das, Gupta, Motivala, DSN 2002).

mod codec;
mod rumour;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use foca::{Foca, Header, Notification, PeriodicParams, State};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use crate::evidence::Swim;
use crate::ids::{Generation, NodeName};
use crate::table;
use crate::time::Time;
use crate::wire;

pub use rumour::Rumour;

use codec::WireCodec;
use rumour::Rumours;

/// A member as SWIM knows it: unique by name, the higher generation wins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberId {
    /// The node.
    pub name: NodeName,
    /// The start of its agent.
    pub generation: Generation,
    /// Counts the times it had to refute its own death within that start.
    pub rejoin: u32,
    /// Where it said it is reached. Unsigned: good enough to dial, the certificate decides.
    pub address: SocketAddr,
    /// Reserved for later versions; zero.
    pub extension: u8,
}

impl foca::Identity for MemberId {
    type Addr = NodeName;

    fn renew(&self) -> Option<Self> {
        Some(Self { rejoin: self.rejoin.checked_add(1)?, ..self.clone() })
    }

    fn addr(&self) -> NodeName {
        self.name.clone()
    }

    fn win_addr_conflict(&self, other: &Self) -> bool {
        (self.generation, self.rejoin) > (other.generation, other.rejoin)
    }
}

/// One member as carried by push-pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Who.
    pub id: MemberId,
    /// SWIM's incarnation.
    pub incarnation: u16,
    /// 0 alive, 1 suspect, 2 down.
    pub state: u8,
}

impl MemberRecord {
    fn of(member: &foca::Member<MemberId>) -> Self {
        let state = match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        };
        Self { id: member.id().clone(), incarnation: member.incarnation(), state }
    }

    fn member(self) -> foca::Member<MemberId> {
        let state = match self.state {
            0 => State::Alive,
            1 => State::Suspect,
            _ => State::Down,
        };
        foca::Member::new(self.id, self.incarnation, state)
    }
}

/// How fast membership works. All agents of a mesh should agree.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct SwimConfig {
    /// One random member is probed in every period (SWIM's T').
    pub probe_period: Duration,
    /// How long a direct probe may take before others are asked to try.
    pub probe_rtt: Duration,
    /// From suspicion to death in a mesh of ten or fewer; grows with log10 of the size.
    pub suspicion: Duration,
}

impl Default for SwimConfig {
    /// Faster than memberlist's LAN profile (1 s, 500 ms, 4 s): a verdict about a killed node spreads in
    /// about 2 s among five. Traffic never waits for it.
    fn default() -> Self {
        Self {
            probe_period: Duration::from_millis(500),
            probe_rtt: Duration::from_millis(200),
            suspicion: Duration::from_millis(1500),
        }
    }
}

/// Members gossiped to at once, and asked to probe in our stead (SWIM's k).
const FANOUT: NonZeroUsize = NonZeroUsize::new(3).expect("3 is not 0");
const ONE: NonZeroUsize = NonZeroUsize::new(1).expect("1 is not 0");
const SWIM_PACKET: NonZeroUsize = NonZeroUsize::new(wire::MAX_SWIM).expect("1150 is not 0");
/// Gossip rounds: memberlist's LAN value.
const GOSSIP_PERIOD: Duration = Duration::from_millis(200);
/// A timer so much later than due says that *we* did not run (stopped, swapped, starved): answers may lie
/// unread. The time lost is then added to every timer, so that no peer is accused of our own absence.
/// Half of the default probe time-out.
const LATE: Duration = Duration::from_millis(100);
/// How long the dead are remembered (memberlist and foca: 24 h): an old record must not revive them.
pub const REMEMBER_DOWN: Duration = Duration::from_secs(24 * 3600);

impl SwimConfig {
    fn foca(&self, size: usize) -> foca::Config {
        let n = size.max(3) as f64;
        // 4·log10(n+1) transmissions, as memberlist; never fewer than foca's own value for ten members.
        let sends = ((4.0 * (n + 1.0).log10()) as u8).max(4);
        foca::Config {
            probe_period: self.probe_period,
            probe_rtt: self.probe_rtt,
            num_indirect_probes: FANOUT,
            max_transmissions: NonZeroU8::new(sends).unwrap_or(NonZeroU8::MAX),
            suspect_to_down_after: self.suspicion.mul_f64(n.log10().max(1.0)),
            remove_down_after: Some(REMEMBER_DOWN),
            max_packet_size: SWIM_PACKET,
            notify_down_members: true,
            periodic_announce: Some(PeriodicParams {
                frequency: Duration::from_secs(10),
                num_members: ONE,
            }),
            periodic_announce_to_down_members: Some(PeriodicParams {
                frequency: Duration::from_secs(3),
                num_members: FANOUT,
            }),
            periodic_gossip: Some(PeriodicParams { frequency: GOSSIP_PERIOD, num_members: FANOUT }),
        }
    }
}

/// A timer in the heap: earliest first, then foca's own order for ties, then first come first served.
struct Due {
    at: Time,
    seq: u64,
    timer: foca::Timer<MemberId>,
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
struct Effects {
    now: Time,
    seq: u64,
    timers: BinaryHeap<Due>,
    outbox: VecDeque<(MemberId, Bytes)>,
    idle: bool,
    changed: bool,
    probe_failed: u64,
    rejoined: u64,
}

impl foca::Runtime<MemberId> for &mut Effects {
    fn notify(&mut self, notification: Notification<'_, MemberId>) {
        match notification {
            Notification::MemberUp(_) | Notification::MemberDown(_) | Notification::Rename(..) => {
                self.changed = true;
            }
            Notification::Idle => self.idle = true,
            Notification::Active => self.idle = false,
            Notification::ProbeFailed(..) => self.probe_failed += 1,
            Notification::Rejoin(_) => self.rejoined += 1,
            _ => {}
        }
    }

    fn send_to(&mut self, to: MemberId, data: &[u8]) {
        self.outbox.push_back((to, Bytes::copy_from_slice(data)));
    }

    fn submit_after(&mut self, timer: foca::Timer<MemberId>, after: Duration) {
        self.seq += 1;
        self.timers.push(Due { at: self.now + after, seq: self.seq, timer });
    }
}

/// Why a SWIM packet was refused. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SwimRefused {
    /// Sent by one, signed in the name of another.
    #[error("a SWIM packet of {claimed} came over the link of {from}")]
    OtherSender {
        /// The authenticated peer.
        from: NodeName,
        /// The packet's source.
        claimed: NodeName,
    },
    /// foca refused it.
    #[error("a SWIM packet of {0} cannot be read: {1}")]
    Malformed(NodeName, String),
}

impl SwimRefused {
    /// One word for the counter's `reason` label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::OtherSender { .. } => "other_sender",
            Self::Malformed(..) => "malformed",
        }
    }
}

/// What SWIM says of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberState {
    /// Its identity.
    pub id: MemberId,
    /// Its state.
    pub swim: Swim,
}

/// A member of a SWIM group: foca, its timers, its outbox.
///
/// Call order: any `handle_*` or command, then [`poll_transmit`](Self::poll_transmit) until `None`, then
/// [`view`](Self::view) if wanted, then arm [`poll_timeout`](Self::poll_timeout).
pub struct Member {
    foca: Foca<MemberId, WireCodec, StdRng, Rumours>,
    effects: Effects,
    rumours: mpsc::Receiver<Rumour>,
    config: SwimConfig,
    bucket: u32,
    left: bool,
}

impl Member {
    /// A member that knows nobody yet.
    pub fn new(id: MemberId, config: SwimConfig, seed: u64) -> Self {
        let (fresh, rumours) = mpsc::channel();
        let foca = Foca::with_custom_broadcast(
            id,
            config.foca(1),
            StdRng::seed_from_u64(seed),
            WireCodec,
            Rumours::new(fresh),
        );
        let effects = Effects { idle: true, ..Effects::default() };
        Self { foca, effects, rumours, config, bucket: 0, left: false }
    }

    /// Our present identity.
    pub fn id(&self) -> &MemberId {
        self.foca.identity()
    }

    /// Every input starts here: time in which we did not run does not count.
    fn begin(&mut self, now: Time) {
        self.effects.now = now;
        let Some(late) = self.effects.timers.peek().map(|due| now.since(due.at)) else { return };
        if late > LATE {
            let timers = std::mem::take(&mut self.effects.timers).into_iter();
            self.effects.timers = timers.map(|due| Due { at: due.at + late, ..due }).collect();
        }
    }

    /// Takes in a packet that came over the link of `from`.
    pub fn handle_packet(
        &mut self,
        now: Time,
        from: &NodeName,
        packet: &[u8],
    ) -> Result<(), SwimRefused> {
        self.begin(now);
        let malformed = |e: String| SwimRefused::Malformed(from.clone(), e);
        let (header, used): (Header<MemberId>, usize) =
            wire::decode_prefix(packet).map_err(|e| malformed(e.to_string()))?;
        // Behind the header stands the number of membership updates. Only those can carry a suspicion,
        // of which foca notifies nobody.
        if packet.get(used..used + 2).is_some_and(|n| n != [0, 0]) {
            self.effects.changed = true;
        }
        if header.src.name != *from {
            return Err(SwimRefused::OtherSender { from: from.clone(), claimed: header.src.name });
        }
        let result = self.foca.handle_data(packet, &mut self.effects);
        self.resize();
        result.map_err(|e| malformed(e.to_string()))
    }

    /// Fires every timer that is due.
    pub fn handle_timeout(&mut self, now: Time) {
        self.begin(now);
        while self.effects.timers.peek().is_some_and(|due| due.at <= now) {
            let Some(due) = self.effects.timers.pop() else { break };
            // The only error is an unfinished probe cycle, which says that we are late: foca has
            // started the next cycle by then.
            let _ = self.foca.handle_timer(due.timer, &mut self.effects);
        }
        self.resize();
    }

    /// Asks a node to let us in. Only its name must be right.
    pub fn announce(&mut self, now: Time, name: NodeName, address: SocketAddr) {
        if self.left {
            return;
        }
        self.begin(now);
        let to = MemberId { name, generation: Generation(0), rejoin: 0, address, extension: 0 };
        // Fails only if the packet cannot be encoded, which its fixed size excludes.
        let _ = self.foca.announce(to, &mut self.effects);
    }

    /// Takes in another node's whole view.
    pub fn merge(&mut self, now: Time, members: Vec<MemberRecord>) {
        if self.left {
            return;
        }
        self.begin(now);
        // A peer may not fill our memory with members it made up.
        let known = self.view();
        let room = table::MAX_NODES.saturating_sub(known.len());
        let (old, new): (Vec<_>, Vec<_>) =
            members.into_iter().partition(|m| known.contains_key(&m.id.name));
        let members = old.into_iter().chain(new.into_iter().take(room)).map(MemberRecord::member);
        let _ = self.foca.apply_many(members, true, &mut self.effects);
        self.resize();
    }

    /// Spreads a rumour of our own or one learnt over a stream.
    pub fn spread(&mut self, rumour: &Rumour) {
        if let Ok(bytes) = wire::encode_body(rumour) {
            let _ = self.foca.add_broadcast(&bytes);
        }
    }

    /// Leaves in good order: says so, several times, since foca says it once and packets get lost.
    pub fn leave(&mut self, now: Time) {
        self.begin(now);
        if !self.left {
            self.left = true;
            let _ = self.foca.leave_cluster(&mut self.effects);
        }
        let _ = self.foca.gossip(&mut self.effects);
    }

    /// The next packet to send.
    pub fn poll_transmit(&mut self) -> Option<(MemberId, Bytes)> {
        self.effects.outbox.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) must be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.effects.timers.peek().map(|due| due.at)
    }

    /// Rumours heard since the last call, also those given to [`spread`](Self::spread).
    pub fn take_rumours(&mut self) -> Vec<Rumour> {
        self.rumours.try_iter().collect()
    }

    /// Whether the view may have changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.effects.changed)
    }

    /// Where membership heard a node is reached.
    pub fn address(&self, name: &NodeName) -> Option<SocketAddr> {
        let mut all = self.foca.iter_membership_state();
        all.find(|m| m.id().name == *name).map(|m| m.id().address)
    }

    /// Everybody SWIM knows but ourselves, by name.
    pub fn view(&self) -> BTreeMap<NodeName, MemberState> {
        let mut view = BTreeMap::new();
        for m in self.foca.iter_membership_state() {
            let swim = match m.state() {
                State::Alive => Swim::Alive,
                State::Suspect => Swim::Suspect,
                State::Down => Swim::Down,
            };
            view.insert(m.id().name.clone(), MemberState { id: m.id().clone(), swim });
        }
        view
    }

    /// Our whole view including ourselves, for push-pull.
    pub fn records(&self) -> Vec<MemberRecord> {
        let mut records: Vec<_> = self.foca.iter_membership_state().map(MemberRecord::of).collect();
        if !self.left {
            records.push(MemberRecord { id: self.id().clone(), incarnation: 0, state: 0 });
        }
        records.sort_by(|a, b| a.id.name.cmp(&b.id.name));
        records
    }

    /// Nobody is known to be alive: foca rests and must be woken by [`announce`](Self::announce).
    pub fn is_idle(&self) -> bool {
        self.effects.idle
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

    /// foca's constants follow the size of the mesh, in steps of half a decade.
    fn resize(&mut self) {
        let size = self.foca.num_members() + 1;
        let bucket = (2.0 * (size as f64).log10()).ceil() as u32;
        if bucket != self.bucket {
            self.bucket = bucket;
            let upper = 10f64.powf(f64::from(bucket) / 2.0) as usize;
            // Accepted: only sizes and delays change that foca allows to change.
            let _ = self.foca.set_config(self.config.foca(upper));
        }
    }
}
