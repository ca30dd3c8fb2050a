//! Bringing documents to agents.
//!
//! Whenever a document changes, and at the start, the documents in force are handed to a few agents in
//! random order over the mesh link's ALPN, until [`fanout`](Push::fanout) of them acknowledged; gossip
//! carries them to the rest. Each acknowledgement tells who else is there and with which version, so
//! the push goes on looking, less and less often, until everybody seen has the newest, and then once
//! in a while. It never gives up and never blocks anything else.
//!
//! One task owns it ([`Push::run`]); dropping it is safe at any time: agents take documents whole or
//! not at all, and the next start pushes again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hearth_proto::document::{DocumentKind, SignedDocument};
use hearth_proto::ids::{Identity, NodeName};
use hearth_proto::wire::{ALPN_MESH, DocumentsAck, MAX_MESSAGE, Message, WireError};
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig};
use quinn::{Endpoint, IdleTimeout, TransportConfig, VarInt};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::identity;
use crate::moment;
use crate::plane::Plane;
use crate::store::{AgentRecord, StoreError};
use crate::tls::{self, Expected, TlsError};

/// One agent may take this long, from the first packet to its acknowledgement.
const ATTEMPT: Duration = Duration::from_secs(3);
/// First pause after nobody could be reached.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// Longest pause while nobody can be reached.
const LAST_RETRY: Duration = Duration::from_secs(30);
/// First look whether gossip has reached everybody.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// Pause between looks when everybody has the newest: keeps the status fresh.
const QUIET: Duration = Duration::from_secs(60);

/// Why an agent did not get the documents.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// It did not answer in time.
    #[error("no answer within {} s", ATTEMPT.as_secs())]
    Timeout,
    /// The connection could not be begun.
    #[error("cannot connect: {0}")]
    Connect(#[from] quinn::ConnectError),
    /// The connection broke; a refused certificate shows here too.
    #[error("connection failed: {0}")]
    Connection(#[from] quinn::ConnectionError),
    /// Writing failed.
    #[error("cannot send: {0}")]
    Write(#[from] quinn::WriteError),
    /// Reading the answer failed.
    #[error("cannot read the answer: {0}")]
    Read(#[from] quinn::ReadToEndError),
    /// Messages could not be made or understood.
    #[error("message: {0}")]
    Wire(#[from] WireError),
    /// It answered something else.
    #[error("the answer is no acknowledgement")]
    OtherAnswer,
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// TLS could not be set up for QUIC.
    #[error("TLS for QUIC: {0}")]
    Cipher(#[from] NoInitialCipherSuite),
    /// Whoever answered has no certificate of a node.
    #[error("who answered is no node of this mesh")]
    Nobody,
}

impl PushError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Connect(_) | Self::Connection(quinn::ConnectionError::TimedOut) => "unreachable",
            Self::Connection(quinn::ConnectionError::TransportError(_)) => "handshake",
            Self::Connection(_) | Self::Write(_) | Self::Read(_) => "broken",
            Self::Wire(_) | Self::OtherAnswer => "answer",
            Self::Tls(_) | Self::Cipher(_) | Self::Nobody => "identity",
        }
    }
}

/// Where to push to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    expected: Expected,
    address: SocketAddr,
}

/// An agent's answer.
struct Acknowledged {
    node: NodeName,
    address: SocketAddr,
    ack: DocumentsAck,
}

/// What a round came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    /// Nobody known is to be reached.
    Nobody,
    /// Somebody has the newest, others seen do not yet.
    Spreading,
    /// Everybody seen has the newest.
    Settled,
}

/// Brings documents to agents.
pub struct Push {
    plane: Arc<Plane>,
    endpoint: Endpoint,
    /// Agents configured, by address.
    agents: Vec<SocketAddr>,
    /// How many agents to tell directly.
    pub fanout: usize,
    acknowledged: watch::Sender<(u64, Vec<NodeName>)>,
}

impl Push {
    /// Binds the socket to push from.
    pub fn new(plane: Arc<Plane>, agents: Vec<SocketAddr>, fanout: usize) -> std::io::Result<Self> {
        // Both families where the host has both.
        let endpoint = Endpoint::client(SocketAddr::from(([0u16; 8], 0)))
            .or_else(|_| Endpoint::client(SocketAddr::from(([0u8; 4], 0))))?;
        Ok(Self { plane, endpoint, agents, fanout, acknowledged: watch::Sender::default() })
    }

    /// Who has acknowledged which policy version so far.
    pub fn acknowledged(&self) -> watch::Receiver<(u64, Vec<NodeName>)> {
        self.acknowledged.subscribe()
    }

    /// Pushes for ever.
    pub async fn run(self) {
        let mut changed = self.plane.changed();
        let mut pause = FIRST_RETRY;
        let mut last = None;
        loop {
            changed.mark_unchanged();
            let round = self.round().await.unwrap_or_else(|error| {
                warn!(error = %error, "push_failed");
                Round::Nobody
            });
            if last != Some(round) {
                info!(state = ?round, "push_state");
            }
            pause = match (round, last) {
                (Round::Settled, _) => QUIET,
                (Round::Spreading, Some(Round::Spreading)) => (pause * 2).min(QUIET),
                (Round::Spreading, _) => FIRST_LOOK,
                (Round::Nobody, Some(Round::Nobody)) => (pause * 2).min(LAST_RETRY),
                (Round::Nobody, _) => FIRST_RETRY,
            };
            last = Some(round);
            tokio::select! {
                () = tokio::time::sleep(jittered(pause)) => {}
                gone = changed.changed() => match gone {
                    Ok(()) => last = None,
                    Err(_) => return,
                },
            }
        }
    }

    async fn round(&self) -> Result<Round, StoreError> {
        let plane = self.plane.clone();
        let (documents, known) = blocking(move || {
            Ok::<_, StoreError>((plane.store().documents()?, plane.store().agents()?))
        })
        .await?;
        let newest = version(&documents, DocumentKind::Policy);
        let (message, documents_count) = (Message::Documents(documents.clone()), documents.len());
        let message: Arc<[u8]> = match message.encode() {
            Ok(bytes) => bytes.into(),
            Err(error) => return Err(StoreError::Failed(error.to_string())),
        };
        let mut targets = targets(&self.agents, &known);
        shuffle(&mut targets);
        let answers = self.tell(targets, message).await;
        debug!(answers = answers.len(), documents = documents_count, "push_round");

        let now = moment::now();
        let mut seen = Vec::new();
        let mut holders = Vec::new();
        for Acknowledged { node, address, ack } in answers {
            let theirs = ack_version(&ack);
            if theirs >= newest {
                holders.push(node.clone());
            }
            for why in &ack.refused {
                warn!(node = %node, reason = why, "document_refused");
            }
            let itself = (node, address, theirs);
            seen.extend([itself].into_iter().chain(ack.members).map(
                |(node, address, policy_version)| AgentRecord {
                    node,
                    address: address.to_string(),
                    policy_version,
                    seen: now,
                },
            ));
        }
        if holders.is_empty() {
            return Ok(Round::Nobody);
        }
        let settled = seen.iter().all(|a| a.policy_version >= newest);
        let plane = self.plane.clone();
        blocking(move || plane.pushed(&seen, now)).await?;
        self.acknowledged.send_replace((newest, holders));
        Ok(if settled { Round::Settled } else { Round::Spreading })
    }

    /// Tells targets, `fanout` at a time, until `fanout` acknowledged.
    async fn tell(&self, targets: Vec<Target>, message: Arc<[u8]>) -> Vec<Acknowledged> {
        let mut left = targets.into_iter();
        let mut running = JoinSet::new();
        let mut answers = Vec::new();
        loop {
            while running.len() + answers.len() < self.fanout {
                let Some(target) = left.next() else { break };
                let (plane, endpoint) = (self.plane.clone(), self.endpoint.clone());
                let message = message.clone();
                running.spawn(async move {
                    let told = tell_one(&plane, &endpoint, &target, &message);
                    let told = tokio::time::timeout(ATTEMPT, told).await;
                    (target, told.unwrap_or(Err(PushError::Timeout)))
                });
            }
            match running.join_next().await {
                Some(Ok((target, Ok(answer)))) => {
                    self.plane.metrics().push("ok");
                    debug!(node = %answer.node, address = %target.address, "push_acknowledged");
                    answers.push(answer);
                }
                Some(Ok((target, Err(error)))) => {
                    self.plane.metrics().push(error.reason());
                    let expected = format!("{:?}", target.expected);
                    debug!(expected, address = %target.address, error = %error, "push_refused");
                }
                Some(Err(_)) => self.plane.metrics().push("internal"),
                None => return answers,
            }
        }
    }
}

async fn tell_one(
    plane: &Plane,
    endpoint: &Endpoint,
    target: &Target,
    message: &[u8],
) -> Result<Acknowledged, PushError> {
    let authority = plane.authority();
    let tls = tls::to_agent(
        plane.holder().clone(),
        authority.root(),
        authority.domain(),
        target.expected.clone(),
        ALPN_MESH,
    )?;
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(5_000))));
    config.transport_config(Arc::new(transport));
    // The name is not looked at by either side: identities are SPIFFE ids.
    let connection = endpoint.connect_with(config, target.address, "node.hearth.invalid")?.await?;
    let node = peer(&connection, plane).ok_or(PushError::Nobody)?;
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(message).await?;
    // Only fails on a stream that was finished before.
    let _ = send.finish();
    let answer = receive.read_to_end(MAX_MESSAGE).await?;
    connection.close(VarInt::from_u32(0), b"done");
    match Message::decode(&answer)? {
        Some(Message::DocumentsAck(ack)) => Ok(Acknowledged { node, address: target.address, ack }),
        _ => Err(PushError::OtherAnswer),
    }
}

fn peer(connection: &quinn::Connection, plane: &Plane) -> Option<NodeName> {
    let chain = connection.peer_identity()?;
    let chain = chain.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().ok()?;
    match identity::of(chain.first()?, plane.authority().domain()).ok()? {
        Identity::Node(name) => Some(name),
        Identity::Control(_) => None,
    }
}

/// Runs what blocks on the disk on a thread for that.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::Failed(error.to_string())),
    }
}

fn version(documents: &[SignedDocument], kind: DocumentKind) -> u64 {
    documents.iter().filter(|d| d.kind == kind).map(|d| d.version).max().unwrap_or(0)
}

fn ack_version(ack: &DocumentsAck) -> u64 {
    let of_policy = |(kind, version): &(DocumentKind, u64)| match kind {
        DocumentKind::Policy => Some(*version),
        _ => None,
    };
    ack.versions.iter().filter_map(of_policy).max().unwrap_or(0)
}

/// Whom to try: agents known by name at the address they gave last, and those configured, who may be
/// any node. An address is tried once.
fn targets(configured: &[SocketAddr], known: &[AgentRecord]) -> Vec<Target> {
    let mut all: Vec<Target> = Vec::new();
    let named = known.iter().filter_map(|agent| {
        let address = agent.address.parse().ok()?;
        Some(Target { expected: Expected::Node(agent.node.clone()), address })
    });
    let any = configured.iter().map(|a| Target { expected: Expected::AnyNode, address: *a });
    let mut addresses = std::collections::HashSet::new();
    for target in any.chain(named) {
        if addresses.insert(target.address) {
            all.push(target);
        }
    }
    all
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without random bytes the order is always the same and the pause always the shortest: slower,
    // not wrong.
    let _ = SystemRandom::new().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

fn shuffle<T>(items: &mut [T]) {
    for i in (1..items.len()).rev() {
        let other = random() % (i as u64 + 1);
        items.swap(i, usize::try_from(other).unwrap_or(0));
    }
}

/// Between half of the pause and all of it, so that several never fall into step.
fn jittered(pause: Duration) -> Duration {
    pause / 2 + pause.mul_f64((random() % 1_000) as f64 / 2_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_proto::time::Wall;

    fn agent(name: &str, address: &str) -> AgentRecord {
        let node = NodeName::parse(name).unwrap();
        AgentRecord { node, address: address.into(), policy_version: 0, seen: Wall(0) }
    }

    #[test]
    fn an_address_is_tried_once_and_a_configured_one_may_be_any_node() {
        let configured = ["192.0.2.1:7940".parse().unwrap()];
        let known = [agent("a", "192.0.2.1:7940"), agent("b", "192.0.2.2:7940"), agent("c", "?")];
        let found = targets(&configured, &known);
        assert_eq!(
            found.iter().map(|t| (t.expected.clone(), t.address.port())).collect::<Vec<_>>(),
            [(Expected::AnyNode, 7940), (Expected::Node(NodeName::parse("b").unwrap()), 7940)]
        );
    }

    #[test]
    fn a_pause_is_at_least_half_and_at_most_whole() {
        for _ in 0..100 {
            let pause = jittered(Duration::from_secs(2));
            assert!(
                (Duration::from_secs(1)..=Duration::from_secs(2)).contains(&pause),
                "{pause:?}"
            );
        }
    }
}
