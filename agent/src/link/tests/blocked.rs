//! Where UDP does not get through: the same link over TCP, by itself, and back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::link::{DataStream, LaneChoice};

const TCP: &str = "tcp (udp blocked)";

/// `a` and `b` with a relay between them that can stop UDP and lets TCP through.
struct Pair {
    a: Agent,
    b: Agent,
    relay: Relay,
}

impl Pair {
    async fn start(blocked: bool) -> Self {
        let authority = Authority::new("mesh.example");
        let a = Agent::start(&authority, "a");
        let target = Arc::new(std::sync::OnceLock::new());
        let known = target.clone();
        let relay = Relay::start(move || *known.get().unwrap()).await;
        let b = Agent::with(authority.node("b"), 1, Some(relay.address));
        target.set(b.address).unwrap();
        Tcp::forward(relay.address, b.address).await;
        b.links.serve_streams(|_, stream| drop(tokio::spawn(echo(stream))));
        if blocked {
            relay.cut();
        }
        a.links.watch(vec![(b.name.clone(), relay.address)]);
        Self { a, b, relay }
    }

    fn carriers(&self) -> Vec<String> {
        self.a.links.views().into_iter().map(|link| link.carrier).collect()
    }

    async fn runs_on(&self, carrier: &str) {
        until(&format!("a link on {carrier}"), || match self.carriers() {
            list if list == [carrier] => Ok(()),
            list => Err(list),
        })
        .await;
    }

    async fn request(&self) -> Result<(), String> {
        // What is under way on QUIC when UDP is cut is lost with it, and is its sender's to repeat.
        let (to, at) = (&self.b.name, self.relay.address);
        let opened = self.a.links.open_stream_by(to, at, LaneChoice::Tcp).await;
        let mut stream = opened.map_err(|e| e.to_string())?;
        stream.send.write_last(b"x").await.map_err(|e| e.to_string())?;
        match stream.recv.read_chunk(usize::MAX).await {
            Ok(Some(answer)) if answer == b"x"[..] => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }
}

async fn echo(mut stream: DataStream) {
    while let Ok(Some(chunk)) = stream.recv.read_chunk(usize::MAX).await {
        if stream.send.write_chunk(chunk).await.is_err() {
            return;
        }
    }
    stream.send.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_udp_never_worked_the_link_comes_up_over_tcp() {
    let started = Instant::now();
    let mut pair = Pair::start(true).await;
    pair.a.up(&pair.b.name).await;
    println!("up over tcp after {:?}", started.elapsed());
    assert_eq!(pair.carriers(), [TCP]);
    pair.b.up(&pair.a.name).await;
    // Datagrams and messages, both ways.
    let swim = bytes::Bytes::from(wire::encode_swim(&[9; wire::MAX_SWIM]));
    pair.a.links.send_datagram(&pair.b.name, pair.relay.address, swim.clone());
    pair.b.links.send_datagram(&pair.a.name, pair.a.address, swim.clone());
    let message = Message::Hint(wire::Hint { node: name("c"), generation: Generation(7) });
    pair.a.links.send_message(&pair.b.name, pair.relay.address, &message);
    pair.b.links.send_message(&pair.a.name, pair.a.address, &message);
    for agent in [&mut pair.a, &mut pair.b] {
        let (mut datagram, mut said) = (None, None);
        while datagram.is_none() || said.is_none() {
            agent
                .expect("a datagram and a message", |e| {
                    match e {
                        LinkEvent::Datagram { bytes, .. } => datagram = Some(bytes),
                        LinkEvent::Message { message, .. } => said = Some(message),
                        _ => return None,
                    }
                    Some(())
                })
                .await;
        }
        assert_eq!((datagram, said), (Some(swim.clone()), Some(message.clone())));
    }
    pair.request().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_whose_udp_is_blocked_goes_on_over_tcp_without_a_failed_request_and_returns() {
    let mut pair = Pair::start(false).await;
    pair.a.up(&pair.b.name).await;
    assert_eq!(pair.carriers(), ["quic"]);
    // On its way over a lane before anything happens.
    let peer = pair.a.links.shared.known(&pair.b.name).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (to, at) = (&pair.b.name, pair.relay.address);
        let _stream = pair.a.links.open_stream_by(to, at, LaneChoice::Tcp).await.unwrap();
        if peer.on_lanes.load(Ordering::Relaxed) > 0 {
            break;
        }
        assert!(Instant::now() < deadline, "no lane");
    }
    let (stop, pair) = (Arc::new(AtomicBool::new(false)), Arc::new(pair));
    let traffic = tokio::spawn({
        let (stop, pair) = (stop.clone(), pair.clone());
        async move {
            let (mut done, mut failed) = (0, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                match tokio::time::timeout(PATIENCE, pair.request()).await {
                    Ok(Ok(())) => done += 1,
                    Ok(Err(why)) => failed.push(why),
                    Err(_) => failed.push("no answer".into()),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            (done, failed)
        }
    });
    pair.relay.cut();
    let cut = Instant::now();
    pair.runs_on(TCP).await;
    println!("over tcp after {:?}", cut.elapsed());
    healthy(&pair.a, &pair.b.name, LinkHealth::Up).await;
    pair.relay.heal();
    let healed = Instant::now();
    let deadline = Instant::now() + 2 * PATIENCE;
    while pair.carriers() != ["quic"] {
        assert!(Instant::now() < deadline, "not back on quic: {:?}", pair.carriers());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("back on quic after {:?}", healed.elapsed());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    stop.store(true, Ordering::Relaxed);
    let (done, failed) = traffic.await.unwrap();
    assert_eq!(failed, Vec::<String>::new());
    assert!(done > 100, "only {done} requests");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_link_whose_udp_is_blocked_goes_over_to_tcp() {
    let mut pair = Pair::start(false).await;
    pair.a.up(&pair.b.name).await;
    pair.relay.cut();
    let cut = Instant::now();
    pair.runs_on(TCP).await;
    println!("over tcp after {:?}", cut.elapsed());
    healthy(&pair.a, &pair.b.name, LinkHealth::Up).await;
    pair.request().await.unwrap();
}
