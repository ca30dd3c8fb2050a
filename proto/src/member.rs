//! Membership: foca's SWIM, wrapped.
//!
//! Decides nothing about traffic: it says which nodes the members take for alive, suspect or down. It
//! owns foca, the timers (a heap in memory, so that none is ever lost or out of order: a lost one ends
//! failure detection for good), the outbox, and a copy of foca's list by name (`known`). The copy is read
//! from foca's list after each step, for those whom the step may have changed: foca notifies neither a
//! suspicion nor its refutation. What says nothing new is kept from foca, which walks its list for each.
//!
//! Terms are those of SWIM (Das, Gupta, Motivala, DSN 2002).

mod codec;
mod effects;
mod known;
mod rumour;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use foca::{Foca, Header, PeriodicParams, State};
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
use effects::Effects;
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

    fn state(&self) -> State {
        match self.state {
            0 => State::Alive,
            1 => State::Suspect,
            _ => State::Down,
        }
    }

    fn summary(&self) -> MemberState {
        let swim = match self.state() {
            State::Alive => Swim::Alive,
            State::Suspect => Swim::Suspect,
            State::Down => Swim::Down,
        };
        MemberState { generation: self.id.generation, address: self.id.address, swim }
    }

    fn member(self) -> foca::Member<MemberId> {
        let state = self.state();
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberState {
    /// The start of its agent.
    pub generation: Generation,
    /// Where it is reached.
    pub address: SocketAddr,
    /// Its state.
    pub swim: Swim,
}

/// A member of a SWIM group: foca, its timers, its outbox.
///
/// Call order: any `handle_*` or command, then [`poll_transmit`](Self::poll_transmit) until `None`, then
/// [`changes`](Self::changes) if wanted, then arm [`poll_timeout`](Self::poll_timeout).
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
        Self { foca, effects: Effects::new(), rumours, config, bucket: 0, left: false }
    }

    /// Our present identity.
    pub fn id(&self) -> &MemberId {
        self.foca.identity()
    }

    /// Every input starts here: time in which we did not run does not count. Returns how long that was, once:
    /// whoever else has to know asks before any other input.
    pub fn begin(&mut self, now: Time) -> Option<Duration> {
        self.effects.now = now;
        let late = self.effects.timers.peek().map(|due| now.since(due.at))?;
        if late <= LATE {
            return None;
        }
        let timers = std::mem::take(&mut self.effects.timers).into_iter();
        self.effects.timers = timers.map(|due| due.postponed(late)).collect();
        Some(late)
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
        if header.src.name != *from {
            return Err(SwimRefused::OtherSender { from: from.clone(), claimed: header.src.name });
        }
        // foca takes in first that its sender lives, which ends a suspicion of it: that alone is news.
        let src = foca::Member::new(header.src, header.src_incarnation, State::Alive);
        self.effects.known.note(&src, &self.foca.identity().name);
        let packet = self.only_news(packet, used, &header.message);
        let result = self.foca.handle_data(&packet, &mut self.effects);
        self.refresh();
        result.map_err(|e| malformed(e.to_string()))
    }

    /// The packet without updates that say nothing new, and notes whom the others are about. foca would walk
    /// its whole list for each and change nothing. `body` is where the header ends.
    fn only_news<'a>(
        &mut self,
        packet: &'a [u8],
        body: usize,
        message: &foca::Message<MemberId>,
    ) -> Cow<'a, [u8]> {
        let (header, updates) = packet.split_at(body);
        // A broadcast carries no updates.
        let some = *message != foca::Message::Broadcast;
        let Some((count, mut rest)) = updates.split_first_chunk::<2>().filter(|_| some) else {
            return Cow::Borrowed(packet);
        };
        let count = u16::from_be_bytes(*count);
        let (mut news, mut kept) = (Vec::new(), 0_u16);
        for _ in 0..count {
            // What cannot be read is foca's to refuse.
            let Ok((update, used)) = wire::decode_prefix::<foca::Member<MemberId>>(rest) else {
                return Cow::Borrowed(packet);
            };
            let (bytes, next) = rest.split_at(used);
            if self.effects.known.note(&update, &self.foca.identity().name) {
                news.extend_from_slice(bytes);
                kept += 1;
            }
            rest = next;
        }
        if kept == count {
            return Cow::Borrowed(packet);
        }
        Cow::Owned([header, &kept.to_be_bytes(), news.as_slice(), rest].concat())
    }

    /// Fires every timer that is due.
    pub fn handle_timeout(&mut self, now: Time) {
        self.begin(now);
        while self.effects.timers.peek().is_some_and(|due| due.at <= now) {
            let Some(due) = self.effects.timers.pop() else { break };
            if let foca::Timer::ChangeSuspectToDown { member_id: id, .. }
            | foca::Timer::RemoveDown(id) = &due.timer
            {
                self.effects.known.touch(&id.name);
            }
            // The only error is an unfinished probe cycle, which says that we are late: foca has
            // started the next cycle by then.
            let _ = self.foca.handle_timer(due.timer, &mut self.effects);
        }
        self.refresh();
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
        let known = &mut self.effects.known;
        let room = table::MAX_NODES.saturating_sub(known.len());
        let (old, new): (Vec<_>, Vec<_>) =
            members.into_iter().partition(|m| known.get(&m.id.name).is_some());
        let members = old.into_iter().chain(new.into_iter().take(room)).map(MemberRecord::member);
        let me = &self.foca.identity().name;
        let members: Vec<_> = members.filter(|member| known.note(member, me)).collect();
        let _ = self.foca.apply_many(members.into_iter(), true, &mut self.effects);
        self.refresh();
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

    /// The next datagram to send.
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
        self.effects.known.get(name).map(MemberRecord::summary)
    }

    /// What SWIM says of everybody but ourselves, by name.
    pub fn states(&self) -> BTreeMap<NodeName, MemberState> {
        let all = self.effects.known.iter();
        all.map(|record| (record.id.name.clone(), record.summary())).collect()
    }

    /// Of whom SWIM says something else than at the last call, by name.
    pub fn changes(&mut self) -> BTreeSet<NodeName> {
        self.effects.known.take_changed()
    }

    /// Our whole view including ourselves, for push-pull.
    pub fn records(&self) -> Vec<MemberRecord> {
        let known = &self.effects.known;
        let mut records = Vec::with_capacity(known.len() + 1);
        // Behind what is known under our name, which is an earlier identity of ours.
        let (before, behind) = known.around(&self.id().name);
        records.extend(before.cloned());
        if !self.left {
            records.push(MemberRecord { id: self.id().clone(), incarnation: 0, state: 0 });
        }
        records.extend(behind.cloned());
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

    /// What follows from whatever foca was given.
    fn refresh(&mut self) {
        self.effects.known.refresh(self.foca.iter_membership_state());
        self.resize();
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

#[cfg(test)]
mod proptests;
