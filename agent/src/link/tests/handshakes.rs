//! Who is refused, and that it is counted under its reason.

use std::sync::Arc;
use std::time::SystemTime;

use hearth_proto::ids::Identity;
use quinn::Endpoint;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::sign::CertifiedKey;

use super::*;
use crate::identity::authority::Leaf;
use crate::identity::{Expected, WallClock};

/// What became of a probe of `peer` at `b`.
async fn refused(a: &mut Agent, peer: &NodeName, b: &Agent) -> String {
    a.links.probe(peer, b.address);
    a.down(peer).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_under_another_name_than_expected_is_refused_by_the_dialler() {
    let authority = Authority::new("mesh.example");
    let (mut a, b) = (Agent::start(&authority, "a"), Agent::start(&authority, "b"));
    let reason = refused(&mut a, &name("c"), &b).await;
    assert!(reason.contains("node/b") && reason.contains("node/c"), "{reason}");
    assert_eq!(a.refusals("other_identity"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_mesh_is_refused_on_both_sides() {
    let ours = Authority::new("mesh.example");
    let theirs = Authority::new("other.example");
    let (mut a, b) = (Agent::start(&ours, "a"), Agent::start(&theirs, "b"));
    refused(&mut a, &b.name, &b).await;
    assert_eq!(a.refusals("foreign"), 1);
    // One that trusts us is refused by us.
    assert_eq!(b.links.views().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_is_refused_by_the_listener_and_the_dialler_is_told() {
    let authority = Authority::new("mesh.example");
    let b = Agent::start(&authority, "b");
    // The dialler's own clock is off: it thinks that its certificate is still good.
    let hour = Duration::from_secs(3600);
    let mut leaf = Leaf::of(&Identity::Node(name("a")), &authority.domain);
    (leaf.from, leaf.to) = (SystemTime::now() - 3 * hour, SystemTime::now() - 2 * hour);
    let (key, certificate) = authority.issue(&leaf);
    let credentials =
        Credentials::from_pem(&key, &certificate, &authority.bundle_pem(), WallClock::system())
            .unwrap();
    let mut a = Agent::with(credentials, 1, None);
    let reason = refused(&mut a, &b.name, &b).await;
    assert!(reason.contains("expired"), "{reason}");
    assert_eq!(b.refusals("expired"), 1);
}

#[derive(Debug)]
struct Nothing;
impl rustls::client::ResolvesClientCert for Nothing {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }
    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_certificate_is_refused() {
    let authority = Authority::new("mesh.example");
    let b = Agent::start(&authority, "b");
    let shared = authority.node("x").client_config(Expected::AnyNode, wire::ALPN_MESH);
    let mut tls = (*shared).clone();
    tls.client_auth_cert_resolver = Arc::new(Nothing);
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let endpoint = Endpoint::client(loopback(0)).unwrap();
    let connecting = endpoint.connect_with(config, b.address, "hearth").unwrap();
    // In TLS 1.3 the client is done before the server has judged it.
    let closed = match connecting.await {
        Ok(connection) => tokio::time::timeout(PATIENCE, connection.closed()).await.unwrap(),
        Err(error) => error,
    };
    assert!(matches!(closed, quinn::ConnectionError::ConnectionClosed(_)), "{closed}");
    // The client may learn of it before it is counted.
    until("the refusal to be counted", || match b.refusals("no_certificate") {
        1 => Ok(()),
        n => Err(n),
    })
    .await;
    assert_eq!(b.links.views().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_nobody_answers_at_is_down_within_about_a_second() {
    let authority = Authority::new("mesh.example");
    let mut a = Agent::start(&authority, "a");
    // Bound, and deaf.
    let deaf = std::net::UdpSocket::bind(loopback(0)).unwrap();
    let started = Instant::now();
    a.links.probe(&name("b"), deaf.local_addr().unwrap());
    let reason = a.down(&name("b")).await;
    assert!(reason.contains("no answer"), "{reason}");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_that_say_nothing_shut_nobody_out() {
    let authority = Authority::new("mesh.example");
    let mut a = Agent::start(&authority, "a");
    let b = Agent::start(&authority, "b");
    // From several addresses more than there are handshakes at once, for as long as this takes.
    let strangers = tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            for host in 2..=9 {
                for _ in 0..50 {
                    let socket = tokio::net::TcpSocket::new_v4().unwrap();
                    socket.bind((Ipv4Addr::new(127, 0, 0, host), 0).into()).unwrap();
                    open.push(socket.connect(b.address).await);
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            open.drain(..open.len().saturating_sub(400));
        }
    });
    until("the doorstep to be full of them", || match b.links.shared.doorstep.waiting() {
        n if n >= 300 => Ok(()),
        n => Err(n),
    })
    .await;
    a.links.probe(&b.name, b.address);
    a.up(&b.name).await;
    let stream = super::lanes::on_lane(&a, &b).await;
    assert_eq!(b.refusals("busy"), 0);
    drop(stream);
    strangers.abort();
}
