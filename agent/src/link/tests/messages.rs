//! Hellos, messages, datagrams, double dials, restarts, the control plane's visits.

use std::net::SocketAddr;

use bytes::Bytes;
use hearth_proto::ids::Identity;
use hearth_proto::wire::{self, DocumentsAck, Hint, Message};
use quinn::Endpoint;

use super::*;
use crate::identity::{Expected, WallClock};
use crate::link::{Kind, socket};

fn hint(node: &str, generation: u64) -> Message {
    Message::Hint(Hint { node: name(node), generation: Generation(generation) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_and_datagrams_reach_the_peer_under_its_proven_name() {
    let authority = Authority::new("mesh.example");
    let (mut a, mut b) = (Agent::start(&authority, "a"), Agent::start(&authority, "b"));
    a.links.send_message(&b.name, b.address, &hint("c", 7));
    let hello = a.up(&b.name).await;
    assert_eq!(hello.address, b.address);
    b.up(&a.name).await;
    assert_eq!(b.message().await, hint("c", 7));
    // And back, on the link the other side dialled.
    b.links.send_message(&a.name, a.address, &hint("d", 8));
    assert_eq!(a.message().await, hint("d", 8));
    let packet = Bytes::from(wire::encode_swim(&[9; wire::MAX_SWIM]));
    b.links.send_datagram(&a.name, a.address, packet.clone());
    let heard = a
        .expect("a datagram", |e| match e {
            LinkEvent::Datagram { from, bytes } => Some((from, bytes)),
            _ => None,
        })
        .await;
    assert_eq!(heard, (b.name.clone(), packet));
    assert_eq!(a.links.views().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_is_known_by_its_certificate_and_ourselves_are_no_peer() {
    let authority = Authority::new("mesh.example");
    let (mut a, b) = (Agent::start(&authority, "a"), Agent::start(&authority, "b"));
    a.links.dial_seed(a.address);
    a.links.dial_seed(b.address);
    a.up(&b.name).await;
    assert_eq!(a.links.views().len(), 1);
}

fn mesh_connections(agent: &Agent, peer: &NodeName) -> Vec<usize> {
    let peer = agent.links.shared.known(peer).unwrap();
    let state = crate::link::lock(&peer.state);
    let open = |t: &&crate::link::sense::Tracked| {
        t.kind == Kind::Mesh && t.connection.close_reason().is_none()
    };
    state.connections.iter().filter(open).map(|t| t.connection.stable_id()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_double_dial_is_settled_and_no_message_is_lost() {
    let authority = Authority::new("mesh.example");
    for round in 0..5 {
        let (mut a, mut b) = (Agent::start(&authority, "a"), Agent::start(&authority, "b"));
        for n in 0..20 {
            a.links.send_message(&b.name, b.address, &hint("from-a", n));
            b.links.send_message(&a.name, a.address, &hint("from-b", n));
            if n % 4 == round % 4 {
                tokio::task::yield_now().await;
            }
        }
        for agent in [&mut a, &mut b] {
            let mut got = Vec::new();
            while got.len() < 20 {
                let Message::Hint(hint) = agent.message().await else { panic!("no hint") };
                got.push(hint.generation.0);
            }
            got.sort_unstable();
            assert_eq!(got, (0..20).collect::<Vec<u64>>());
        }
        for (agent, peer) in [(&a, &b.name), (&b, &a.name)] {
            until("one link to be left", || match mesh_connections(agent, peer) {
                left if left.len() == 1 => Ok(()),
                more => Err(more),
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_start_of_a_peer_replaces_the_older_and_the_older_is_refused() {
    let authority = Authority::new("mesh.example");
    let mut a = Agent::start(&authority, "a");
    let mut old = Agent::with(authority.node("b"), 5, None);
    old.links.send_message(&a.name, a.address, &hint("x", 0));
    assert_eq!(a.up(&old.name).await.generation.0, 5);
    let new = Agent::with(authority.node("b"), 6, None);
    new.links.send_message(&a.name, a.address, &hint("x", 1));
    assert_eq!(a.up(&old.name).await.generation.0, 6);
    let reason = old.down(&a.name).await;
    assert!(reason.contains("newer start"), "{reason}");
    // The ghost dials again.
    old.links.probe(&a.name, a.address);
    let reason = old.down(&a.name).await;
    assert!(reason.contains("older generation"), "{reason}");
    assert!(a.refusals("old_generation") >= 1);
    assert_eq!(mesh_connections(&a, &old.name).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_leaves_is_down_at_once_with_its_reason() {
    let authority = Authority::new("mesh.example");
    let (mut a, b) = (Agent::start(&authority, "a"), Agent::start(&authority, "b"));
    a.links.dial_seed(b.address);
    a.up(&b.name).await;
    healthy(&a, &b.name, LinkHealth::Up).await;
    b.links.close().await;
    let reason = a.down(&b.name).await;
    assert!(reason.contains("leaving"), "{reason}");
    healthy(&a, &b.name, LinkHealth::Down).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_peer_loses_its_links() {
    let authority = Authority::new("mesh.example");
    let (mut a, mut b) = (Agent::start(&authority, "a"), Agent::start(&authority, "b"));
    a.links.dial_seed(b.address);
    a.up(&b.name).await;
    b.up(&a.name).await;
    a.links.cut(&b.name, "revoked");
    assert!(b.down(&a.name).await.contains("revoked"));
    a.down(&b.name).await;
}

/// Dials as the control plane would.
async fn control(
    authority: &Authority,
    alpn: Kind,
    to: SocketAddr,
) -> (Endpoint, quinn::Connection) {
    let credentials = authority.node_with("ctl", WallClock::system());
    // An authority for tests names nodes; the control plane's name is issued by hand.
    let identity = Identity::Control(name("ctl"));
    let leaf = crate::identity::authority::Leaf::of(&identity, &authority.domain);
    let (key, certificate) = authority.issue(&leaf);
    drop(credentials);
    let tls = client_tls(authority, &key, &certificate, alpn);
    let endpoint = Endpoint::client(loopback(0)).unwrap();
    let config = quinn::ClientConfig::new(std::sync::Arc::new(
        quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap(),
    ));
    let connection = endpoint.connect_with(config, to, "hearth").unwrap().await.unwrap();
    (endpoint, connection)
}

fn client_tls(authority: &Authority, key: &str, leaf: &str, kind: Kind) -> rustls::ClientConfig {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let verifier = authority.node("any").client_config(Expected::AnyNode, kind.alpn());
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(leaf.as_bytes()).unwrap()];
    let provider = verifier.crypto_provider().clone();
    let key = provider.key_provider.load_private_key(key).unwrap();
    let certified = rustls::sign::CertifiedKey::new(chain, key);
    let mut config = (*verifier).clone();
    config.client_auth_cert_resolver =
        std::sync::Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_hands_documents_over_and_reads_the_acknowledgement() {
    let authority = Authority::new("mesh.example");
    let mut a = Agent::start(&authority, "a");
    let (_endpoint, connection) = control(&authority, Kind::Mesh, a.address).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&Message::Documents(Vec::new()).encode().unwrap()).await.unwrap();
    send.finish().unwrap();
    let (from, reply) = a
        .expect("documents", |e| match e {
            LinkEvent::Message { from, message: Message::Documents(_), reply } => {
                Some((from, reply))
            }
            _ => None,
        })
        .await;
    assert_eq!(from, Identity::Control(name("ctl")));
    let ack = Message::DocumentsAck(DocumentsAck {
        versions: Vec::new(),
        members: Vec::new(),
        refused: vec!["none".into()],
    });
    reply.unwrap().send(ack.clone()).unwrap();
    let answer = recv.read_to_end(wire::MAX_MESSAGE).await.unwrap();
    assert_eq!(Message::decode(&answer), Ok(Some(ack)));
    // Anything but documents ends the visit.
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&hint("x", 1).encode().unwrap()).await.unwrap();
    send.finish().unwrap();
    assert!(recv.read_to_end(1024).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_gets_no_data_connection() {
    let authority = Authority::new("mesh.example");
    let a = Agent::start(&authority, "a");
    let (_endpoint, connection) = control(&authority, Kind::Data, a.address).await;
    let closed = tokio::time::timeout(PATIENCE, connection.closed()).await.unwrap();
    assert!(closed.to_string().contains("not for this identity"), "{closed}");
    assert_eq!(a.refusals("protocol"), 1);
    let _ = socket::ACK_DELAY;
}
