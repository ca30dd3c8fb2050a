//! Peers that restart, refuse us, flood us, or are gone for good.

use quinn::Endpoint;

use super::*;
use crate::identity::Expected;
use crate::link::{Kind, socket};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_to_a_restarted_peer_do_not_go_to_its_dead_start() {
    let authority = Authority::new("mesh.example");
    let mut a = Agent::start(&authority, "a");
    let b1 = Agent::with(authority.node("b"), 1, None);
    a.links.watch(vec![(b1.name.clone(), b1.address)]);
    a.up(&b1.name).await;
    let before = a.links.open_stream(&b1.name, b1.address).await.unwrap();
    // The first start neither closes its connections nor answers any more, for all that `a` knows.
    let b2 = Agent::with(authority.node("b"), 2, None);
    let (arrived, mut seen) = mpsc::channel(1);
    b2.links.serve_streams(move |from, _stream| drop(arrived.try_send(from)));
    b2.links.probe(&a.name, a.address);
    a.expect("the new start", |e| match e {
        LinkEvent::Up { hello, .. } if hello.generation == Generation(2) => Some(()),
        _ => None,
    })
    .await;
    let mut stream = a.links.open_stream(&b2.name, b2.address).await.unwrap();
    stream.send.write(b"x").await.unwrap();
    let from = tokio::time::timeout(PATIENCE, seen.recv()).await.expect("a stream at the new one");
    assert_eq!(from, Some(a.name.clone()));
    drop(before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_refuses_us_after_the_handshake_is_not_dialled_in_a_loop() {
    let authority = Authority::new("mesh.example");
    let mut b = Agent::start(&authority, "b");
    let newer = Agent::with(authority.node("a"), 2, None);
    newer.links.probe(&b.name, b.address);
    b.up(&newer.name).await;
    newer.links.close().await;
    // A clone of the host, or a clock set back: an older start, refused for good.
    let mut older = Agent::with(authority.node("a"), 1, None);
    older.links.watch(vec![(b.name.clone(), b.address)]);
    // Told at least once; how often depends on whether its refusal overtakes the other's Hello.
    older.down(&b.name).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let dials = older.metrics.dials.get_or_create(&[("result", "connected")]).get();
    assert!(dials < 12, "{dials} dials in a second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_opens_connections_without_end_is_refused_beyond_a_bound() {
    let authority = Authority::new("mesh.example");
    let b = Agent::start(&authority, "b");
    let endpoint = Endpoint::client(loopback(0)).unwrap();
    let mut open = Vec::new();
    for _ in 0..60 {
        let config =
            socket::client_config(&authority.node("x"), Expected::AnyNode, Kind::Data, true)
                .unwrap();
        let connecting = endpoint.connect_with(config, b.address, "hearth").unwrap();
        open.push(connecting.await.unwrap());
    }
    let refused = until("the surplus to be refused", || match b.refusals("too_many") {
        n if n >= 20 => Ok(n),
        n => Err(n),
    })
    .await;
    assert!(refused < 60, "some are let in");
    // Others are not concerned.
    let mut c = Agent::start(&authority, "c");
    c.links.probe(&b.name, b.address);
    c.up(&b.name).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_nobody_needs_for_long_are_forgotten_and_others_are_not() {
    let authority = Authority::new("mesh.example");
    let (mut a, b) = (Agent::start(&authority, "a"), Agent::start(&authority, "b"));
    a.links.watch(vec![(b.name.clone(), b.address)]);
    a.up(&b.name).await;
    let _ = a.links.health(&name("gone"));
    let held = a.links.shared.peer(&name("held"), loopback(1));
    let known = |who: &str| a.links.shared.known(&name(who)).is_some();
    a.links.sweep(2);
    assert!(known("gone"), "not at once");
    a.links.sweep(2);
    assert_eq!((known("gone"), known("held"), known("b")), (false, true, true));
    drop(held);
}
