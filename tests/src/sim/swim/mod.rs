//! Membership alone, under a virtual clock: many [`Member`]s and the paths between them, without links,
//! tables or traffic. What is measured here is SWIM and what is laid around it, against formulas and papers.
//!
//! | module | owns |
//! |---|---|
//! | this | the group, its loop, who was taken for what by whom and when |
//! | [`theory`] | first suspicions and dissemination, beside the formulas |
//! | [`lifeguard`] | slow members, as in Lifeguard's evaluation |
//! | [`rapid`] | many crashes at once, and members that half work, as in Rapid's |

pub mod lifeguard;
pub mod rapid;
pub mod theory;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use hearth_proto::evidence::Swim;
use hearth_proto::ids::{Generation, NodeName};
use hearth_proto::member::{Member, MemberId, MemberRecord, SwimConfig};
use hearth_proto::time::Time;
use hearth_proto::wire;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::agenda::Agenda;
use super::{At, MS, S};

/// What is lost of a stream is sent again after this, then twice that.
const RESENT: At = 100 * MS;
/// Until the connection is.
const GIVEN_UP: At = 10 * S;

/// How often a member compares its view with another's, if it does (the agents' digests).
const COMPARED: At = 2 * S;

/// What is under way between two members.
#[derive(Clone, Debug)]
enum Parcel {
    /// A SWIM datagram.
    Datagram(Bytes),
    /// What lies in the leaves in which two views differ, on a stream.
    View(Vec<MemberRecord>),
    /// What is known of somebody, on a stream: a suspect is told so, who told us an old one is corrected.
    Told(MemberRecord),
}

#[derive(Clone, Debug)]
enum What {
    Wake {
        peer: usize,
    },
    Arrive {
        from: usize,
        to: usize,
        parcel: Parcel,
    },
    /// A member compares its view with another's.
    Compare {
        peer: usize,
    },
    /// The scenario's own.
    Script(u64),
}

/// One member, and whether it can talk.
struct Peer {
    member: Option<Member>,
    wake: Option<At>,
    /// While its messages are held back, both ways, they wait here; its timers run.
    held: Option<VecDeque<(bool, usize, Parcel)>>,
    /// Share lost of what comes to it, and of what it sends.
    lost: (f64, f64),
}

/// Somebody took somebody for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// When.
    pub at: At,
    /// Who.
    pub by: usize,
    /// Whom.
    pub of: usize,
    /// For what.
    pub swim: Swim,
}

/// A group of members.
pub struct Group {
    /// Now.
    pub now: At,
    /// All draws.
    pub rng: StdRng,
    /// Every change of anybody's view, in order; whoever reads it may empty it.
    pub verdicts: Vec<Verdict>,
    /// Messages sent, and their bytes.
    pub sent: (u64, u64),
    peers: Vec<Peer>,
    ids: Vec<MemberId>,
    by_name: BTreeMap<NodeName, usize>,
    agenda: Agenda<What>,
    latency: u64,
    loss: f64,
}

fn id(peer: usize) -> MemberId {
    #[expect(clippy::expect_used, reason = "m and digits are a label")]
    let name = NodeName::parse(&format!("m{peer:05}")).expect("a label");
    let address = ([10, (peer >> 16) as u8, (peer >> 8) as u8, peer as u8], 7940).into();
    MemberId::new(name, Generation(1), address)
}

impl Group {
    /// `n` members who know each other, started at random moments of one probe period, all before zero.
    /// One way takes `latency` microseconds and up to a half more.
    pub fn new(seed: u64, n: usize, config: SwimConfig, latency: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let ids: Vec<MemberId> = (0..n).map(id).collect();
        let records: Vec<MemberRecord> = ids
            .iter()
            .map(|id| MemberRecord { id: id.clone(), incarnation: 0, state: 0 })
            .collect();
        let period = config.probe_period.as_micros() as u64;
        let mut agenda = Agenda::new();
        let peers = ids.iter().enumerate().map(|(i, id)| {
            let mut member = Member::new(id.clone(), config, rng.random());
            let start = Time(rng.random_range(0..period));
            let mut others = records.clone();
            others.remove(i);
            // Each knows the others in an order of its own.
            rand::seq::SliceRandom::shuffle(others.as_mut_slice(), &mut rng);
            member.merge(start, others);
            let _ = member.changes();
            agenda.arm(start.0, What::Wake { peer: i });
            Peer { member: Some(member), wake: Some(start.0), held: None, lost: (0.0, 0.0) }
        });
        let peers = peers.collect();
        let by_name = ids.iter().enumerate().map(|(i, id)| (id.name.clone(), i)).collect();
        let (verdicts, sent, loss) = (Vec::new(), (0, 0), 0.0);
        Self { now: 0, rng, verdicts, sent, peers, ids, by_name, agenda, latency, loss }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Whether a member's process is there.
    pub fn lives(&self, peer: usize) -> bool {
        self.peers[peer].member.is_some()
    }

    /// What one thinks of another.
    pub fn view(&self, by: usize, of: usize) -> Option<Swim> {
        let member = self.peers[by].member.as_ref()?;
        member.state(&self.ids[of].name).map(|state| state.swim)
    }

    /// The process of a member is gone.
    pub fn crash(&mut self, peer: usize) {
        self.peers[peer].member = None;
    }

    /// From now on a member's messages are held back, both ways; its clock goes on.
    pub fn hold(&mut self, peer: usize) {
        self.peers[peer].held.get_or_insert_default();
    }

    /// They flow again, those that were held back first.
    pub fn release(&mut self, peer: usize) {
        for (outward, other, parcel) in self.peers[peer].held.take().into_iter().flatten() {
            if outward {
                self.send(peer, other, parcel);
            } else {
                self.arrive(other, peer, parcel);
            }
        }
    }

    /// From now on these shares are lost of what comes to a member and of what it sends.
    pub fn lose(&mut self, peer: usize, incoming: f64, outgoing: f64) {
        self.peers[peer].lost = (incoming, outgoing);
    }

    /// From now on members compare their views as agents do, each with another one in every [`COMPARED`].
    pub fn compare_views(&mut self) {
        for peer in 0..self.peers.len() {
            let at = self.now + self.rng.random_range(0..COMPARED);
            self.agenda.arm(at, What::Compare { peer });
        }
    }

    /// Where two views differ, each is told the other's. What tells them so, a few hashes, is not sent here.
    fn compare(&mut self, peer: usize) {
        self.agenda.arm(self.now + COMPARED, What::Compare { peer });
        let other = self.rng.random_range(0..self.peers.len());
        let cut = |p: &Peer| p.held.is_some() || p.lost.0 >= 1.0 || p.lost.1 >= 1.0;
        let (a, b) = (&self.peers[peer], &self.peers[other]);
        let (Some(ours), Some(theirs)) = (&a.member, &b.member) else { return };
        if cut(a) || cut(b) {
            // It takes a question and an answer.
            return;
        }
        let branches = ours.tree().leaves_where(&theirs.tree().branches());
        let leaves = theirs.tree().differing(&branches);
        if peer == other || leaves.is_empty() {
            return;
        }
        let (ours, theirs) = (ours.records_in(&leaves), theirs.records_in(&leaves));
        self.post(peer, other, Parcel::View(ours));
        self.post(other, peer, Parcel::View(theirs));
    }

    /// The scenario is called at `at`.
    pub fn script(&mut self, at: At, number: u64) {
        self.agenda.arm(at.max(self.now), What::Script(number));
    }

    /// Runs until `end`, or until something of the scenario is due, which is returned.
    pub fn run_until(&mut self, end: At) -> Option<u64> {
        while let Some((at, what)) = self.agenda.next(end) {
            self.now = at;
            match what {
                What::Wake { peer } => {
                    if self.peers[peer].wake == Some(at) {
                        self.peers[peer].wake = None;
                        self.step(peer, Member::handle_timeout);
                    }
                }
                What::Arrive { from, to, parcel } => self.arrive(from, to, parcel),
                What::Compare { peer } => self.compare(peer),
                What::Script(number) => return Some(number),
            }
        }
        self.now = end;
        None
    }

    fn arrive(&mut self, from: usize, to: usize, parcel: Parcel) {
        if let Some(held) = &mut self.peers[to].held {
            held.push_back((false, from, parcel));
            return;
        }
        let name = self.ids[from].name.clone();
        let mut correction = None;
        self.step(to, |member, now| match parcel {
            Parcel::Datagram(bytes) => {
                if let Some(packet) = wire::decode_swim(&bytes) {
                    let _ = member.handle_packet(now, &name, packet);
                }
            }
            Parcel::View(records) => member.merge(now, records),
            Parcel::Told(record) => {
                member.merge(now, vec![record.clone()]);
                correction = member.correction(&[record]);
            }
        });
        if let Some(correction) = correction {
            self.post(to, from, Parcel::Told(correction));
        }
    }

    /// Gives a member an input, and does what follows.
    fn step(&mut self, peer: usize, input: impl FnOnce(&mut Member, Time)) {
        let Some(member) = self.peers[peer].member.as_mut() else { return };
        input(member, Time(self.now));
        let mut parcels = Vec::new();
        while let Some((to, bytes)) = member.poll_transmit() {
            parcels.push((to.name.clone(), Parcel::Datagram(bytes)));
        }
        while let Some(suspect) = member.poll_warning() {
            parcels.push((suspect.id.name.clone(), Parcel::Told(suspect)));
        }
        let _ = member.take_rumours();
        if member.has_changed() {
            for name in member.changes() {
                let (Some(of), Some(state)) = (self.by_name.get(&name), member.state(&name)) else {
                    continue;
                };
                let (at, of, swim) = (self.now, *of, state.swim);
                self.verdicts.push(Verdict { at, by: peer, of, swim });
            }
        }
        let due = member.poll_timeout().map(|due| due.0.max(self.now));
        if let Some(due) = due
            && self.peers[peer].wake != Some(due)
        {
            self.peers[peer].wake = Some(due);
            self.agenda.arm(due, What::Wake { peer });
        }
        for (to, parcel) in parcels {
            if let Some(to) = self.by_name.get(&to).copied() {
                self.post(peer, to, parcel);
            }
        }
    }

    fn post(&mut self, from: usize, to: usize, parcel: Parcel) {
        match &mut self.peers[from].held {
            Some(held) => held.push_back((true, to, parcel)),
            None => self.send(from, to, parcel),
        }
    }

    fn send(&mut self, from: usize, to: usize, parcel: Parcel) {
        let bytes = match &parcel {
            Parcel::Datagram(bytes) => bytes.len(),
            Parcel::Told(record) => wire::encode_body(record).map_or(0, |bytes| bytes.len()),
            Parcel::View(records) => wire::encode_body(records).map_or(0, |bytes| bytes.len()),
        };
        self.sent = (self.sent.0 + 1, self.sent.1 + bytes as u64);
        let kept =
            (1.0 - self.loss) * (1.0 - self.peers[from].lost.1) * (1.0 - self.peers[to].lost.0);
        let (mut late, mut again) = (0, RESENT);
        while kept < 1.0 && !self.rng.random_bool(kept) {
            // A stream sends again, ever later, until the connection is given up.
            (late, again) = (late + again, 2 * again);
            if matches!(parcel, Parcel::Datagram(_)) || late > GIVEN_UP {
                return;
            }
        }
        let latency = self.latency + self.rng.random_range(0..=self.latency / 2);
        self.agenda.arm(self.now + late + latency, What::Arrive { from, to, parcel });
    }
}
