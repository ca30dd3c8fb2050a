//! Who a member is, and what is known of it.

use std::net::SocketAddr;

use foca::State;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::evidence::Swim;
use crate::ids::{Generation, NodeName};

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
        let MemberId { name, generation: Generation(generation), rejoin, address, .. } = &self.id;
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
