//! The bytes between agents. The only module that knows bincode.
//!
//! Every message is `[protocol version][kind][body]`. A kind or a protocol version this agent does not
//! know is skipped, not an error, so that versions N and N−1 talk to each other. Decoding never panics
//! and never allocates more than [`MAX_MESSAGE`] allows.

pub(crate) mod octets;

use std::net::SocketAddr;

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::enc::write::Writer;
use bincode::error::EncodeError;
use bytes::BufMut;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::advert::SignedAdvert;
use crate::digest::{BranchLeaves, Replica};
use crate::document::{DocumentKind, SignedDocument};
use crate::drill::Said;
use crate::exclusive::message::Body;
use crate::ids::{EndpointId, Generation, NodeName, ServiceName, Version};
use crate::incident::IncidentKey;
use crate::member::MemberRecord;

/// The protocol version this agent speaks.
pub const PROTOCOL: u8 = 1;
/// Largest message on a stream, in bytes.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// Largest value that is read from this host's own files, in bytes.
pub(crate) const MAX_LARGE: usize = 256 * 1024 * 1024;
/// Largest SWIM packet handed to foca, in bytes. A QUIC datagram on a 1,200-byte path holds 1,162; two
/// bytes are our envelope. Receivers refuse more than their own limit, so it is the same everywhere.
pub const MAX_SWIM: usize = 1150;
/// ALPN of mesh links.
pub const ALPN_MESH: &[u8] = b"hearth-mesh/1";
/// ALPN of data links.
pub const ALPN_DATA: &[u8] = b"hearth-data/1";

/// Nearly every value has fewer bytes: room for so many is made at once.
const FEW: usize = 128;

type Config = Configuration<LittleEndian, Varint, Limit<MAX_MESSAGE>>;

fn config() -> Config {
    bincode::config::standard().with_limit::<MAX_MESSAGE>()
}

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The value could not be encoded.
    #[error("cannot encode: {0}")]
    Encode(String),
    /// The bytes do not hold the expected value.
    #[error("cannot decode: {0}")]
    Decode(String),
    /// Bytes are left over behind the value.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// The message is empty or ends within its envelope.
    #[error("the message ends within its envelope")]
    Truncated,
}

/// Encodes a value without an envelope.
pub fn encode_body<T: Serialize>(value: &T) -> Result<Vec<u8>, WireError> {
    let mut bytes = Vec::with_capacity(FEW);
    encode_into(value, &mut bytes)?;
    Ok(bytes)
}

/// Encodes a value without an envelope to where it shall lie. If there is no room, a part of it may lie
/// there.
pub fn encode_into<T: Serialize>(value: &T, to: impl BufMut) -> Result<(), WireError> {
    bincode::serde::encode_into_writer(value, Room(to), config())
        .map_err(|e| WireError::Encode(e.to_string()))
}

struct Room<B>(B);

impl<B: BufMut> Writer for Room<B> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        if self.0.remaining_mut() < bytes.len() {
            return Err(EncodeError::UnexpectedEnd);
        }
        self.0.put_slice(bytes);
        Ok(())
    }
}

/// Decodes a value that must fill `bytes` exactly.
pub fn decode_body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    let (value, used) = decode_prefix(bytes)?;
    match bytes.len() - used {
        0 => Ok(value),
        left => Err(WireError::Trailing(left)),
    }
}

/// Decodes a value of this host's own making, which may be larger than any message: a checkpoint holds a
/// whole table. It must fill `bytes` exactly.
pub(crate) fn decode_large<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    let config = bincode::config::standard().with_limit::<MAX_LARGE>();
    let (value, used) = bincode::serde::decode_from_slice(bytes, config)
        .map_err(|e| WireError::Decode(e.to_string()))?;
    match bytes.len() - used {
        0 => Ok(value),
        left => Err(WireError::Trailing(left)),
    }
}

/// Decodes a value from the front of `bytes` and says how many bytes it took.
pub fn decode_prefix<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), WireError> {
    // Borrowed while it is read: names and bytes are taken from where they lie, without a copy between.
    bincode::serde::borrow_decode_from_slice(bytes, config())
        .map_err(|e| WireError::Decode(e.to_string()))
}

/// What two agents, or the control plane and an agent, say to each other on streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// First on every link, both ways.
    Hello(Hello),
    /// Records, owed or pushed.
    Adverts(Vec<SignedAdvert>),
    /// What we hold, in a hash each.
    Digest(Digest),
    /// Your hash differs from ours: this is what ours is made of.
    Branches(Branches),
    /// What those branches of ours are made of that differ from yours.
    Leaves(Leaves),
    /// The versions we hold in the leaves that differ.
    Versions(Versions),
    /// Send us these.
    Want(Vec<NodeName>),
    /// A part of our view of the membership; answered with what differs when `reply` is set.
    Members(Members),
    /// Serve: a caller has nobody left.
    Wake(Wake),
    /// Somebody's link to a node went silent. Worth a look, not a verdict.
    Hint(Hint),
    /// Signed documents.
    Documents(Vec<SignedDocument>),
    /// Which versions are in force here, and who else could be told.
    DocumentsAck(DocumentsAck),
    /// An operator's word: stand down, if you are not needed.
    Failback(Failback),
    /// Something an agent asks for its operator. Of later agents; the core does not know it.
    Ask(Ask),
    /// Its answer.
    Answer(Answer),
    /// Words on drills.
    Drill(Vec<Said>),
    /// Between the owners of an exclusive service; each body is a kind of its own.
    Lease(Lease),
}

/// A word about the lease of an exclusive service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Which service.
    pub service: ServiceName,
    /// What.
    pub body: Body,
}

/// A question of an agent to another, for an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Names the question to who asks.
    pub nonce: u64,
    /// What: `incident/ID`, `drill/ID`.
    pub what: String,
}

/// The answer to an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// That of the question.
    pub nonce: u64,
    /// JSON, of the type that goes with the question; empty where there is nothing to say.
    pub body: Vec<u8>,
}

/// First message on a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The sender's start.
    pub generation: Generation,
    /// Where it is reached.
    pub address: SocketAddr,
    /// Protocol versions it understands, lowest and highest.
    pub protocol: (u8, u8),
}

/// What an agent holds, in hashes: equal hashes mean that two hold the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Of the table.
    pub table: u64,
    /// Of the membership.
    pub members: u64,
    /// Versions of the documents held.
    pub documents: Vec<(DocumentKind, u64)>,
}

/// What the hash of a set is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branches {
    /// Which set.
    pub of: Replica,
    /// One hash per branch.
    pub branches: Vec<u64>,
}

/// What some branches of a set are made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaves {
    /// Which set.
    pub of: Replica,
    /// By branch, one hash per leaf, or none where nothing lies in it.
    pub leaves: BranchLeaves,
}

/// The versions held in some leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Which leaves.
    pub leaves: Vec<u16>,
    /// Every node in them.
    pub entries: Vec<(NodeName, Version)>,
}

/// A part of a view of the membership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Whether the receiver shall answer with what it holds in these leaves.
    pub reply: bool,
    /// Which leaves this is all of; none if it is a few members of any.
    pub leaves: Vec<u16>,
    /// Everybody known in them, also those down.
    pub members: Vec<MemberRecord>,
}

/// A caller's word to a warm endpoint's owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wake {
    /// Which endpoint shall serve.
    pub endpoint: EndpointId,
    /// For which loss.
    pub incident: IncidentKey,
    /// The caller's `failover` span, parent of the owner's `activate` span.
    pub parent_span: u64,
    /// The caller has no ready endpoint left. Otherwise the owner looks for itself first.
    pub urgent: bool,
}

/// An operator's word to the owner of an activated endpoint, carried by any agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failback {
    /// Which endpoint shall stand down.
    pub endpoint: EndpointId,
}

/// One link of the sender is silent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// The node at the other end.
    pub node: NodeName,
    /// Its start.
    pub generation: Generation,
}

/// The answer to documents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentsAck {
    /// The versions in force here.
    pub versions: Vec<(DocumentKind, u64)>,
    /// Members alive as seen from here: name, address, policy version in force.
    pub members: Vec<(NodeName, SocketAddr, u64)>,
    /// Documents refused, in words.
    pub refused: Vec<String>,
}

impl Message {
    fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::Adverts(_) => 2,
            Self::Digest(_) => 3,
            Self::Versions(_) => 4,
            Self::Want(_) => 5,
            Self::Members(_) => 6,
            Self::Wake(_) => 7,
            Self::Hint(_) => 8,
            Self::Documents(_) => 9,
            Self::DocumentsAck(_) => 10,
            Self::Branches(_) => 11,
            Self::Leaves(_) => 12,
            Self::Failback(_) => 16,
            Self::Ask(_) => 20,
            Self::Answer(_) => 21,
            Self::Drill(_) => 22,
            Self::Lease(lease) => match lease.body {
                Body::Ask(_) => 30,
                Body::Tell(_) => 31,
                Body::Claim(_) => 32,
                Body::Grant(_) => 33,
                Body::Refuse(_) => 34,
                Body::Release(_) => 35,
            },
        }
    }

    /// The message's name, for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Adverts(_) => "adverts",
            Self::Digest(_) => "digest",
            Self::Branches(_) => "branches",
            Self::Leaves(_) => "leaves",
            Self::Versions(_) => "versions",
            Self::Want(_) => "want",
            Self::Members(_) => "members",
            Self::Wake(_) => "wake",
            Self::Hint(_) => "hint",
            Self::Documents(_) => "documents",
            Self::DocumentsAck(_) => "documents_ack",
            Self::Ask(_) => "ask",
            Self::Answer(_) => "answer",
            Self::Drill(_) => "drill",
            Self::Failback(_) => "failback",
            Self::Lease(_) => "lease",
        }
    }

    /// The message with its envelope.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let mut bytes = Vec::with_capacity(FEW);
        bytes.extend_from_slice(&[PROTOCOL, self.kind()]);
        match self {
            Self::Hello(m) => encode_into(m, &mut bytes),
            Self::Adverts(m) => encode_into(m, &mut bytes),
            Self::Digest(m) => encode_into(m, &mut bytes),
            Self::Branches(m) => encode_into(m, &mut bytes),
            Self::Leaves(m) => encode_into(m, &mut bytes),
            Self::Versions(m) => encode_into(m, &mut bytes),
            Self::Want(m) => encode_into(m, &mut bytes),
            Self::Members(m) => encode_into(m, &mut bytes),
            Self::Wake(m) => encode_into(m, &mut bytes),
            Self::Hint(m) => encode_into(m, &mut bytes),
            Self::Documents(m) => encode_into(m, &mut bytes),
            Self::DocumentsAck(m) => encode_into(m, &mut bytes),
            Self::Failback(m) => encode_into(m, &mut bytes),
            Self::Ask(m) => encode_into(m, &mut bytes),
            Self::Answer(m) => encode_into(m, &mut bytes),
            Self::Drill(m) => encode_into(m, &mut bytes),
            Self::Lease(Lease { service, body }) => match body {
                Body::Ask(m) => encode_into(&(service, m), &mut bytes),
                Body::Tell(m) => encode_into(&(service, m), &mut bytes),
                Body::Claim(m) => encode_into(&(service, m), &mut bytes),
                Body::Grant(m) => encode_into(&(service, m), &mut bytes),
                Body::Refuse(m) => encode_into(&(service, m), &mut bytes),
                Body::Release(m) => encode_into(&(service, m), &mut bytes),
            },
        }?;
        Ok(bytes)
    }

    /// Reads a message. `Ok(None)`: of a version or kind that is not known here, to be skipped.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        let [version, kind, body @ ..] = bytes else {
            return Err(WireError::Truncated);
        };
        if *version != PROTOCOL {
            return Ok(None);
        }
        Ok(Some(match kind {
            1 => Self::Hello(decode_body(body)?),
            2 => Self::Adverts(decode_body(body)?),
            3 => Self::Digest(decode_body(body)?),
            4 => Self::Versions(decode_body(body)?),
            5 => Self::Want(decode_body(body)?),
            6 => Self::Members(decode_body(body)?),
            7 => Self::Wake(decode_body(body)?),
            8 => Self::Hint(decode_body(body)?),
            9 => Self::Documents(decode_body(body)?),
            10 => Self::DocumentsAck(decode_body(body)?),
            11 => Self::Branches(decode_body(body)?),
            12 => Self::Leaves(decode_body(body)?),
            16 => Self::Failback(decode_body(body)?),
            20 => Self::Ask(decode_body(body)?),
            21 => Self::Answer(decode_body(body)?),
            22 => Self::Drill(decode_body(body)?),
            30 => lease(body, Body::Ask)?,
            31 => lease(body, Body::Tell)?,
            32 => lease(body, Body::Claim)?,
            33 => lease(body, Body::Grant)?,
            34 => lease(body, Body::Refuse)?,
            35 => lease(body, Body::Release)?,
            _ => return Ok(None),
        }))
    }
}

fn lease<T: DeserializeOwned>(body: &[u8], of: fn(T) -> Body) -> Result<Message, WireError> {
    let (service, said) = decode_body(body)?;
    Ok(Message::Lease(Lease { service, body: of(said) }))
}

/// Wraps a SWIM packet for a datagram.
pub fn encode_swim(packet: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(packet.len() + 2);
    bytes.extend_from_slice(&[PROTOCOL, 0]);
    bytes.extend_from_slice(packet);
    bytes
}

/// The SWIM packet in a datagram; `None` if it is none of this protocol version.
pub fn decode_swim(datagram: &[u8]) -> Option<&[u8]> {
    match datagram {
        [PROTOCOL, 0, packet @ ..] => Some(packet),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
