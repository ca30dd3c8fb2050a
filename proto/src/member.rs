//! Membership: foca's SWIM, wrapped.
//!
//! Decides nothing about traffic: it says which nodes the members take for alive, suspect, unsteady or
//! down. It owns foca, the timers (a heap in memory, so that none is ever lost or out of order: a lost one ends
//! failure detection for good), the outbox, and a copy of foca's list by name (`known`). The copy is read
//! from foca's list after each step, for those whom the step may have changed: foca notifies neither a
//! suspicion nor its refutation. What says nothing new is kept from foca, which walks its list for each.
//!
//! What foca lacks of Lifeguard is laid around it: how much an agent trusts itself (`awareness`), suspicions
//! that everybody keeps and that accusers shorten (`suspicion`), and a word to the accused itself
//! ([`Member::poll_warning`]). Beyond Lifeguard: who half works (`steadiness`).
//!
//! Terms are those of SWIM (Das, Gupta, Motivala, DSN 2002) and Lifeguard (Dadgar, Phillips, Currey, DSN-W 2018).

mod awareness;
mod codec;
mod config;
mod effects;
mod known;
mod record;
mod rumour;
mod steadiness;
mod suspicion;
mod view;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use foca::{Foca, Header, State};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::ids::{Generation, NodeName};
use crate::time::Time;
use crate::wire;

pub use config::{REMEMBER_DOWN, SwimConfig};
pub use known::Everybody;
pub use record::{MemberId, MemberParts, MemberRecord, MemberState};
pub use rumour::Rumour;

use codec::WireCodec;
use config::{DEAF, LATE, MUCH};
use effects::Effects;
use rumour::{Item, Rumours};
use steadiness::Steadiness;
use suspicion::{Accusation, Suspicions, Terms};

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

/// A member of a SWIM group: foca, its timers, its outbox.
///
/// Call order: any `handle_*` or command, then [`poll_transmit`](Self::poll_transmit) until `None`, then
/// [`changes`](Self::changes) if wanted, then arm [`poll_timeout`](Self::poll_timeout).
pub struct Member {
    foca: Foca<MemberId, WireCodec, StdRng, Rumours>,
    effects: Effects,
    items: mpsc::Receiver<Item>,
    rumours: Vec<Rumour>,
    suspicions: Suspicions,
    steadiness: Steadiness,
    /// Suspects who are to be told so.
    warnings: VecDeque<MemberRecord>,
    /// Our own record as it lies in the sums.
    summed: Option<MemberRecord>,
    refuted: u64,
    /// When anything of anybody arrived last.
    heard: Time,
    config: SwimConfig,
    bucket: u32,
    /// The shortest suspicion in a mesh of this size.
    shortest: Duration,
    left: bool,
}

impl Member {
    /// A member that knows nobody yet.
    pub fn new(id: MemberId, config: SwimConfig, seed: u64) -> Self {
        let (fresh, items) = mpsc::channel();
        let effects = Effects::new(config.lifeguard);
        let rumours = Rumours::new(id.name.clone(), effects.known.view(), fresh);
        let rng = StdRng::seed_from_u64(seed);
        let foca = Foca::with_custom_broadcast(id, config.foca(1), rng, WireCodec, rumours);
        let mut member = Self {
            foca,
            effects,
            items,
            rumours: Vec::new(),
            suspicions: Suspicions::default(),
            steadiness: Steadiness::default(),
            warnings: VecDeque::new(),
            summed: None,
            refuted: 0,
            heard: Time(0),
            config,
            bucket: 0,
            shortest: Duration::ZERO,
            left: false,
        };
        member.sum_ourselves();
        member
    }

    /// A member that has known long since that everybody lives. No agent starts so.
    pub fn in_whole(
        id: MemberId,
        config: SwimConfig,
        seed: u64,
        now: Time,
        everybody: &Everybody,
    ) -> Self {
        let me = id.name.clone();
        let mut member = Self::new(id, config, seed);
        (member.effects.now, member.heard) = (now, now);
        let others = everybody.iter().filter(|record| record.id.name != me);
        let others = others.cloned().map(MemberRecord::member);
        let taken = member.foca.apply_many(others, false, &mut member.effects);
        debug_assert!(taken.is_ok(), "foca refuses nobody of a list without ourselves: {taken:?}");
        member.effects.known.share(everybody, &me);
        debug_assert_eq!(member.foca.num_members(), member.effects.known.len());
        member.summed = None;
        member.refresh();
        member
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
        if late <= LATE || !self.config.lifeguard {
            return None;
        }
        self.effects.awareness.worse();
        self.suspicions.postpone(late);
        self.heard = self.heard + late;
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
            return Err(SwimRefused::OtherSender {
                from: from.clone(),
                claimed: header.src.name.clone(),
            });
        }
        self.heard(now);
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
            self.note_accused(&update);
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
            let probes = matches!(due.timer, foca::Timer::ProbeRandomMember(_));
            // The only error is an unfinished probe cycle, which says that we are late: foca has
            // started the next cycle by then.
            let done = self.foca.handle_timer(due.timer, &mut self.effects);
            if probes && self.config.lifeguard {
                self.probed(done.is_ok());
            }
        }
        for name in self.steadiness.end(now) {
            self.effects.known.changed(&name);
        }
        self.warnings.extend(self.suspicions.ask_again(now));
        self.end_suspicions(now);
        self.refresh();
    }

    /// A probe is over, and the next one has begun.
    fn probed(&mut self, whole: bool) {
        let failed = self.effects.failed.take();
        match &failed {
            Some(_) => self.effects.awareness.worse(),
            None if whole => self.effects.awareness.better(),
            None => {}
        }
        // foca has made a suspect of whom it failed.
        self.refresh();
        if let Some(id) = failed {
            self.suspicions.failed(self.effects.now, &id.name);
            self.accuse(self.effects.now, &id.name);
        }
        // Whom we ask now we tell what is said of it (Lifeguard's buddy system).
        if let Some((to, _)) = self.effects.outbox.back() {
            let record = self.effects.known.get(&to.name).filter(|record| record.is_suspect());
            self.warnings.extend(record.cloned());
        }
    }

    /// We got no answer from a suspect ourselves, which makes us one more accuser; unless we hear nobody at all.
    pub fn accuse(&mut self, now: Time, name: &NodeName) {
        if !self.config.lifeguard || self.left {
            return;
        }
        self.begin(now);
        if self.is_deaf(now) {
            return;
        }
        let me = self.foca.identity().name.clone();
        if let Some(accusation) = self.suspicions.accuse(&me, name) {
            self.warnings.extend(self.effects.known.get(name).cloned());
            self.broadcast(&Item::Accused(accusation));
        }
        self.refresh();
    }

    /// Something of another's arrived. If it is the first in a long time, that time was nobody else's silence.
    fn heard(&mut self, now: Time) {
        if self.config.lifeguard && self.is_deaf(now) {
            self.suspicions.postpone(now.since(self.heard));
            self.effects.awareness.worse();
        }
        self.heard = now;
    }

    /// Nobody at all is heard, though there is more than one to be heard: it is we who are cut off. Whoever
    /// takes itself to be slow asks at a slower rate, and hears less.
    fn is_deaf(&self, now: Time) -> bool {
        let bound = self.effects.awareness.stretch(self.config.probe_period * DEAF);
        now.since(self.heard) > bound && self.foca.num_members() > 1
    }

    /// Declares those down of whom nothing was heard in all the time of their suspicion.
    fn end_suspicions(&mut self, now: Time) {
        let me = self.foca.identity().name.clone();
        let deaf = self.is_deaf(now);
        let again = self.config.probe_period;
        for (id, incarnation, ours) in self.suspicions.end(now, &me, deaf, again) {
            self.effects.known.touch(&id.name);
            if let Some(token) = self.effects.token.filter(|_| ours) {
                // Its accusers tell it, should it hear. Void if nobody else is known to be alive.
                let told =
                    foca::Timer::ChangeSuspectToDown { member_id: id.clone(), incarnation, token };
                let _ = self.foca.handle_timer(told, &mut self.effects);
            }
            let down = foca::Member::new(id, incarnation, State::Down);
            let _ = self.foca.apply_many(std::iter::once(down), true, &mut self.effects);
        }
    }

    /// Notes what an update says of ourselves: that we are suspect, which foca refutes, or down.
    fn note_accused(&mut self, update: &foca::Member<MemberId>) {
        if update.id() != self.foca.identity() || update.state() == State::Alive {
            return;
        }
        self.effects.reads_incarnation = true;
        if update.state() == State::Suspect && update.incarnation() >= self.effects.incarnation {
            self.refuted += 1;
            if self.config.lifeguard {
                self.effects.awareness.worse();
            }
        }
    }

    /// Asks a node to let us in. Only its name must be right.
    pub fn announce(&mut self, now: Time, name: NodeName, address: SocketAddr) {
        if self.left {
            return;
        }
        self.begin(now);
        let to = MemberId::new(name, Generation(0), address);
        // Fails only if the packet cannot be encoded, which its fixed size excludes.
        let _ = self.foca.announce(to, &mut self.effects);
    }

    /// Takes in another node's whole view.
    pub fn merge(&mut self, now: Time, members: Vec<MemberRecord>) {
        if self.left {
            return;
        }
        self.begin(now);
        self.heard(now);
        // Of whom we have never heard it is no news that they are dead: forgotten by everybody at another
        // time, they would be for ever.
        let known = &self.effects.known;
        let news = |m: &MemberRecord| !m.is_down() || known.get(&m.id.name).is_some();
        let members = members.into_iter().filter(news).map(MemberRecord::member).collect();
        self.apply(members);
        self.refresh();
    }

    /// Gives foca what is news to it. Much at once is news to nobody else: it is not spread.
    fn apply(&mut self, members: Vec<foca::Member<MemberId>>) {
        for member in &members {
            self.note_accused(member);
        }
        let me = &self.foca.identity().name;
        let known = &mut self.effects.known;
        let news: Vec<_> = members.into_iter().filter(|member| known.note(member, me)).collect();
        let spread = news.len() <= MUCH;
        let _ = self.foca.apply_many(news.into_iter(), spread, &mut self.effects);
    }

    /// Spreads a rumour of our own or one learnt over a stream.
    pub fn spread(&mut self, rumour: &Rumour) {
        self.broadcast(&Item::Said(rumour.clone()));
    }

    fn broadcast(&mut self, item: &Item) {
        if let Ok(bytes) = item.encode() {
            let _ = self.foca.add_broadcast(&bytes);
        }
    }

    /// Somebody suspect to be told so, on a way of its own: then it refutes at once.
    pub fn poll_warning(&mut self) -> Option<MemberRecord> {
        self.warnings.pop_front()
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
        let timer = self.effects.timers.peek().map(|due| due.at);
        let ours = self.suspicions.poll_timeout().into_iter().chain(self.steadiness.poll_timeout());
        timer.into_iter().chain(ours).min()
    }

    /// Rumours heard since the last call, also those given to [`spread`](Self::spread).
    pub fn take_rumours(&mut self) -> Vec<Rumour> {
        self.hear();
        std::mem::take(&mut self.rumours)
    }

    /// What follows from whatever foca was given.
    fn refresh(&mut self) {
        self.read();
        self.hear();
        self.effects.failed = None;
        self.effects.reads_incarnation = false;
        self.sum_ourselves();
        self.resize();
    }

    /// Reads from foca's list what has changed there.
    fn read(&mut self) {
        let touched = self.effects.known.refresh(self.foca.iter_membership_state());
        if self.config.lifeguard && !touched.is_empty() {
            let (now, deaf) = (self.effects.now, self.is_deaf(self.effects.now));
            for name in touched {
                let record = self.effects.known.get(&name);
                self.suspicions.follow(now, &name, record);
                self.steadiness.follow(now, &name, record, deaf);
            }
        }
    }

    /// Takes in the rumours that came.
    fn hear(&mut self) {
        while let Ok(item) = self.items.try_recv() {
            match item {
                Item::Said(rumour) => self.rumours.push(rumour),
                Item::Accused(accusation) => self.take_accusation(&accusation),
            }
        }
    }

    /// Whoever is accused is suspect.
    fn take_accusation(&mut self, accusation: &Accusation) {
        if !self.config.lifeguard {
            return;
        }
        let Accusation { by, of, incarnation } = accusation;
        let known = self.effects.known.get(&of.name).is_some() || *of == *self.foca.identity();
        if known {
            self.apply(vec![foca::Member::new(of.clone(), *incarnation, State::Suspect)]);
            self.read();
        }
        self.suspicions.confirm(accusation);
        let known = &self.effects.known;
        let accuses = *by == self.foca.identity().name || known.get(by).is_some();
        let lives = |held: &MemberRecord| held.id.generation == of.generation && !held.is_down();
        if accuses
            && known.get(&of.name).is_some_and(lives)
            && self.steadiness.accused(self.effects.now, by, &of.name, of.generation)
        {
            self.effects.known.changed(&of.name);
        }
    }

    /// Keeps our own record in the sums.
    fn sum_ourselves(&mut self) {
        let is_ours = |record: &MemberRecord| {
            record.id == *self.foca.identity() && record.incarnation == self.effects.incarnation
        };
        if self.summed.as_ref().map_or(self.left, |summed| !self.left && is_ours(summed)) {
            return;
        }
        let ours = (!self.left).then(|| self.ourselves());
        for record in [&ours, &self.summed].into_iter().flatten() {
            self.effects.known.sum(record);
        }
        self.summed = ours;
    }

    /// foca's constants follow the size of the mesh, in steps of half a decade; how many confirm a suspicion
    /// follows how many can.
    fn resize(&mut self) {
        let size = self.foca.num_members() + 1;
        let bucket = (2.0 * (size as f64).log10()).ceil() as u32;
        if bucket != self.bucket {
            self.bucket = bucket;
            let upper = 10f64.powf(f64::from(bucket) / 2.0) as usize;
            // Accepted: only sizes and delays change that foca allows to change.
            let _ = self.foca.set_config(self.config.foca(upper));
            self.shortest = self.config.shortest_suspicion(upper);
        }
        let accusers = size.saturating_sub(self.suspicions.len());
        self.suspicions.set_terms(Terms::new(self.shortest, accusers));
    }
}

#[cfg(test)]
mod proptests;
#[cfg(test)]
mod tests;
