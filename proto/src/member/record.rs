//! Who a member is, and what is known of it.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use foca::State;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xxhash_rust::xxh3::xxh3_64;

use crate::evidence::Swim;
use crate::ids::{Generation, NodeName};

/// A member as SWIM knows it: unique by name, the higher generation wins. Copies share what they say: foca makes
/// many, and everybody knows everybody.
#[derive(Clone, PartialEq, Eq)]
pub struct MemberId {
    /// Of the name: foca finds a member by walking its list.
    key: u64,
    parts: Arc<MemberParts>,
}

impl MemberId {
    /// A start of a node's agent that did not have to refute its death.
    pub fn new(name: NodeName, generation: Generation, address: SocketAddr) -> Self {
        Self::from(MemberParts { name, generation, rejoin: 0, address, extension: 0 })
    }
}

impl From<MemberParts> for MemberId {
    fn from(parts: MemberParts) -> Self {
        Self { key: xxh3_64(parts.name.as_str().as_bytes()), parts: Arc::new(parts) }
    }
}

impl Deref for MemberId {
    type Target = MemberParts;

    fn deref(&self) -> &MemberParts {
        &self.parts
    }
}

impl fmt::Debug for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.fmt(f)
    }
}

impl Serialize for MemberId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.parts.serialize(to)
    }
}

impl<'de> Deserialize<'de> for MemberId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        MemberParts::deserialize(from).map(Self::from)
    }
}

/// What a [`MemberId`] says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberParts {
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
    /// The hash of the name. Two of 20,000 names share one in a mesh out of 10^11; foca would take them for one.
    type Addr = u64;

    fn renew(&self) -> Option<Self> {
        let rejoin = self.rejoin.checked_add(1)?;
        Some(MemberParts { rejoin, ..MemberParts::clone(self) }.into())
    }

    fn addr(&self) -> u64 {
        self.key
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
    /// A suspect in this incarnation.
    pub(super) fn suspect(id: MemberId, incarnation: u16) -> Self {
        Self { id, incarnation, state: 1 }
    }

    pub(super) fn of(member: &foca::Member<MemberId>) -> Self {
        let state = match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        };
        Self { id: member.id().clone(), incarnation: member.incarnation(), state }
    }

    pub(super) fn state(&self) -> State {
        match self.state {
            0 => State::Alive,
            1 => State::Suspect,
            _ => State::Down,
        }
    }

    pub(super) fn summary(&self) -> MemberState {
        let swim = match self.state() {
            State::Alive => Swim::Alive,
            State::Suspect => Swim::Suspect,
            State::Down => Swim::Down,
        };
        MemberState { generation: self.id.generation, address: self.id.address, swim }
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.state() == State::Suspect
    }

    pub(super) fn is_down(&self) -> bool {
        self.state() == State::Down
    }

    /// Equal records have equal hashes, on all hosts.
    pub(super) fn hash(&self) -> u64 {
        let MemberParts { name, generation: Generation(generation), rejoin, address, .. } =
            &*self.id;
        let (incarnation, state) = (self.incarnation, self.state);
        let text = format!("{name}|{generation}|{rejoin}|{address}|{incarnation}|{state}");
        xxh3_64(text.as_bytes())
    }

    pub(super) fn member(self) -> foca::Member<MemberId> {
        let state = self.state();
        foca::Member::new(self.id, self.incarnation, state)
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
