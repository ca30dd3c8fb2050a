//! Requests over lanes, between agents on loopback.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::link::line::Line;
use crate::link::mesh::ended;
use crate::link::peer::{Lost, Peer};
use crate::link::{DataStream, Farewell, LaneChoice, LinkError, Receiver, Sender, StreamError};

/// `a`, and `b` that serves streams with `serve`.
async fn pair<F>(serve: impl Fn(DataStream) -> F + Send + Sync + 'static) -> (Agent, Agent)
where
    F: Future<Output = ()> + Send + 'static,
{
    let authority = Authority::new("mesh.example");
    let (a, b) = (Agent::start(&authority, "a"), Agent::start(&authority, "b"));
    b.links.serve_streams(move |_, stream| drop(tokio::spawn(serve(stream))));
    (a, b)
}

/// A stream that surely is on a lane.
pub(super) async fn on_lane(a: &Agent, b: &Agent) -> DataStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let opened = a.links.open_stream_by(&b.name, b.address, LaneChoice::Tcp).await;
        match opened {
            Ok(stream) if is_on_lane(&stream) => return stream,
            other => assert!(Instant::now() < deadline, "no lane: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn is_on_lane(stream: &DataStream) -> bool {
    format!("{stream:?}").contains("LaneSender")
}

async fn echo(mut stream: DataStream) {
    while let Ok(Some(chunk)) = stream.recv.read_chunk(usize::MAX).await {
        if stream.send.write_chunk(chunk).await.is_err() {
            return;
        }
    }
    stream.send.finish();
}

async fn read_all(recv: &mut Receiver) -> Result<Vec<u8>, StreamError> {
    let mut all = Vec::new();
    while let Some(chunk) = recv.read_chunk(usize::MAX).await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

/// Bytes that tell where they belong.
fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ seed).collect()
}

async fn timed<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited for {what}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_and_its_answer_cross_a_lane() {
    let (a, b) = pair(echo).await;
    let mut stream = on_lane(&a, &b).await;
    stream.send.write_last(b"hello").await.unwrap();
    assert_eq!(timed("the answer", read_all(&mut stream.recv)).await.unwrap(), b"hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_request_takes_whatever_is_up_first_and_later_ones_the_lane() {
    let (a, b) = pair(echo).await;
    let mut first = a.links.open_stream(&b.name, b.address).await.unwrap();
    first.send.write_last(b"x").await.unwrap();
    assert_eq!(timed("the answer", read_all(&mut first.recv)).await.unwrap(), b"x");
    on_lane(&a, &b).await;
    assert!(is_on_lane(&a.links.open_stream(&b.name, b.address).await.unwrap()));
    let quic = a.links.open_stream_by(&b.name, b.address, LaneChoice::Quic).await.unwrap();
    assert!(!is_on_lane(&quic));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_cross_bit_exact_in_both_directions_side_by_side() {
    let (a, b) = pair(echo).await;
    let mut tasks = Vec::new();
    for seed in 0..8 {
        let stream = on_lane(&a, &b).await;
        tasks.push(tokio::spawn(async move {
            let body = pattern(5_000_003, seed);
            let sent = Bytes::from(body.clone());
            let DataStream { mut send, mut recv, guard } = stream;
            let out = async {
                // Pieces of every size.
                let (mut rest, mut size) = (sent, 1);
                while !rest.is_empty() {
                    let piece = rest.split_to(size.min(rest.len()));
                    send.write_chunk(piece).await.unwrap();
                    size = size * 3 % 100_003 + 1;
                }
                send.finish();
            };
            let ((), back) = tokio::join!(out, read_all(&mut recv));
            assert!(back.unwrap() == body, "body {seed} came back changed");
            drop(guard);
        }));
    }
    for task in tasks {
        timed("a body", task).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_small_requests_are_answered_each_by_its_own() {
    let (a, b) = pair(echo).await;
    on_lane(&a, &b).await;
    let (a, b) = (Arc::new(a), Arc::new(b));
    let mut tasks = Vec::new();
    for worker in 0..50u32 {
        let (a, b) = (a.clone(), b.clone());
        tasks.push(tokio::spawn(async move {
            for i in 0..200u32 {
                let body = (worker * 1000 + i).to_be_bytes();
                let mut stream = a.links.open_stream(&b.name, b.address).await.unwrap();
                stream.send.write_last(&body).await.unwrap();
                assert_eq!(read_all(&mut stream.recv).await.unwrap(), body);
            }
        }));
    }
    for task in tasks {
        timed("a worker", task).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_dropped_before_its_end_is_a_reset_at_the_other_side() {
    let (told, mut seen) = mpsc::channel(1);
    let (a, b) = pair(move |mut stream: DataStream| {
        let told = told.clone();
        async move {
            let _ = told.send(read_all(&mut stream.recv).await).await;
        }
    })
    .await;
    let mut stream = on_lane(&a, &b).await;
    stream.send.write(b"half of").await.unwrap();
    drop(stream.send);
    assert_eq!(timed("the reset", seen.recv()).await, Some(Err(StreamError::Reset)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_dropped_before_the_end_stops_the_sender() {
    let (told, mut seen) = mpsc::channel(1);
    let (a, b) = pair(move |stream: DataStream| {
        let told = told.clone();
        async move {
            let DataStream { send, recv, .. } = stream;
            let stopped = send.stopped();
            drop(recv);
            let _ = told.send(stopped.await).await;
        }
    })
    .await;
    let mut stream = on_lane(&a, &b).await;
    stream.send.write(b"x").await.unwrap();
    // `b` reads no more either.
    assert!(timed("the stop at a", stream.send.stopped()).await);
    assert_eq!(stream.send.write(b"y").await, Err(StreamError::Reset));
    drop(stream.recv);
    assert_eq!(timed("the stop at b", seen.recv()).await, Some(true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_holds_back_its_own_stream_and_no_other() {
    let (a, b) = pair(|mut stream: DataStream| async move {
        let first = stream.recv.read_chunk(1).await;
        if first == Ok(Some(Bytes::from_static(b"s"))) {
            // Never reads on.
            std::future::pending::<()>().await;
        }
        echo(stream).await;
    })
    .await;
    let mut slow = on_lane(&a, &b).await;
    let mut body = vec![0; 4 * 1024 * 1024];
    body[0] = b's';
    let stuck = tokio::time::timeout(Duration::from_millis(300), slow.send.write(&body)).await;
    assert!(stuck.is_err(), "four megabytes went to somebody who does not read");
    let mut other = on_lane(&a, &b).await;
    let sent = async {
        other.send.write(b"x").await.unwrap();
        other.send.write_last(&body).await.unwrap();
    };
    let ((), back) =
        timed("the other stream", async { tokio::join!(sent, read_all(&mut other.recv)) }).await;
    assert_eq!(back.unwrap().len(), body.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_left_and_taken_up_again_goes_on_where_it_was() {
    let (go, read) = tokio::sync::watch::channel(false);
    let (a, b) = pair(move |mut stream: DataStream| {
        let mut read = read.clone();
        async move {
            let _ = read.wait_for(|read| *read).await;
            let all = read_all(&mut stream.recv).await.unwrap();
            let _ = stream.send.write_last(&all).await;
        }
    })
    .await;
    for choice in [LaneChoice::Tcp, LaneChoice::Quic] {
        let mut stream = match choice {
            LaneChoice::Tcp => on_lane(&a, &b).await,
            other => a.links.open_stream_by(&b.name, b.address, other).await.unwrap(),
        };
        go.send_replace(false);
        // More than any window, so that it is surely left before its end.
        let (body, mut written) = (pattern(24_000_000, 7), 0);
        let mut left = 0;
        let sending = async {
            loop {
                let write = stream.send.write_last_from(&body, &mut written);
                match tokio::time::timeout(Duration::from_millis(20), write).await {
                    Ok(written) => return written.unwrap(),
                    Err(_) => left += 1,
                }
                if left == 5 {
                    go.send_replace(true);
                }
            }
        };
        let back = async {
            let ((), back) = tokio::join!(sending, read_all(&mut stream.recv));
            back.unwrap()
        };
        let back = timed("the body", back).await;
        assert!(left >= 5 && back == body, "left {left} times, {} came back", back.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_streams_than_a_lane_carries_take_further_lanes_and_quic_until_all_are_full() {
    // Four lanes and a QUIC connection, with 1024 each.
    const ALL: usize = 5 * 1024;
    let (a, b) = pair(|stream: DataStream| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let mut open = vec![on_lane(&a, &b).await];
    let refused = loop {
        match a.links.open_stream_by(&b.name, b.address, LaneChoice::Tcp).await {
            Ok(stream) => open.push(stream),
            Err(error) => break error,
        }
        assert!(open.len() <= ALL, "more than there is room for");
    };
    assert!(matches!(refused, LinkError::Busy { .. }), "{refused}");
    // Some of QUIC's went before there was a lane.
    assert!(open.len() > 4 * 1024, "{} are open", open.len());
    let one = open.iter().rposition(is_on_lane).unwrap();
    drop(open.remove(one));
    assert!(a.links.open_stream_by(&b.name, b.address, LaneChoice::Tcp).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_end_with_the_word_of_a_peer_that_leaves() {
    let (a, b) = pair(echo).await;
    let mut stream: DataStream = on_lane(&a, &b).await;
    stream.send.write(b"x").await.unwrap();
    assert!(timed("the echo", stream.recv.read_chunk(1)).await.unwrap().is_some());
    b.links.close().await;
    let error = timed("the end", stream.recv.read_chunk(1)).await.unwrap_err();
    assert!(
        matches!(&error, StreamError::Lost { why, .. } if why.contains("leaving")),
        "{error:?}"
    );
    let mut send: Sender = stream.send;
    assert!(send.write(b"y").await.is_err());
    assert!(!timed("stopped", send.stopped()).await, "nobody stopped it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_peer_loses_its_lanes() {
    let (a, b) = pair(echo).await;
    let mut stream = on_lane(&a, &b).await;
    stream.send.write(b"x").await.unwrap();
    assert!(timed("the echo", stream.recv.read_chunk(1)).await.unwrap().is_some());
    b.links.cut(&a.name, "trust was withdrawn");
    assert!(timed("the end", stream.recv.read_chunk(1)).await.is_err());
}

/// A runtime of its own for one agent, that can be stopped as a frozen process is.
fn on_own_thread(authority: &Authority, node: &str) -> (tokio::runtime::Handle, Agent) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    let _context = handle.enter();
    (handle.clone(), Agent::start(authority, node))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_agent_is_silent_although_its_kernel_goes_on_acknowledging() {
    let authority = Authority::new("mesh.example");
    let mut a = Agent::start(&authority, "a");
    let (at_b, b) = on_own_thread(&authority, "b");
    b.links.serve_streams(|_, stream| drop(tokio::spawn(echo(stream))));
    a.links.watch(vec![(b.name.clone(), b.address)]);
    a.up(&b.name).await;
    let mut stream = on_lane(&a, &b).await;
    stream.send.write(b"x").await.unwrap();
    assert!(timed("the echo", stream.recv.read_chunk(1)).await.unwrap().is_some());
    healthy(&a, &b.name, LinkHealth::Up).await;
    let (froze, frozen) = tokio::sync::oneshot::channel();
    at_b.spawn(async move {
        froze.send(Instant::now()).unwrap();
        std::thread::sleep(Duration::from_millis(900));
    });
    let since = frozen.await.unwrap();
    stream.send.write(b"y").await.unwrap();
    healthy(&a, &b.name, LinkHealth::Silent).await;
    let took = since.elapsed();
    println!("silent after {took:?}");
    assert!(took < Duration::from_millis(900), "only noticed when it was over: {took:?}");
    // It thaws, and answers.
    healthy(&a, &b.name, LinkHealth::Up).await;
    assert!(timed("the late echo", stream.recv.read_chunk(1)).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_is_slow_on_a_lane_is_not_called_silent() {
    let (mut a, b) = pair(|mut stream: DataStream| async move {
        let _ = stream.recv.read_chunk(1).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        echo(stream).await;
    })
    .await;
    a.links.watch(vec![(b.name.clone(), b.address)]);
    a.up(&b.name).await;
    let mut stream = on_lane(&a, &b).await;
    stream.send.write_last(b"xy").await.unwrap();
    assert_eq!(timed("the answer", read_all(&mut stream.recv)).await.unwrap(), b"y");
    assert_eq!(a.metrics.silences.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_of_an_older_start_get_no_new_requests() {
    let authority = Authority::new("mesh.example");
    let mut a = Agent::start(&authority, "a");
    let first = Agent::with(authority.node("b"), 1, None);
    first.links.serve_streams(|_, stream| drop(tokio::spawn(echo(stream))));
    a.links.watch(vec![(first.name.clone(), first.address)]);
    a.up(&first.name).await;
    let mut before = on_lane(&a, &first).await;
    before.send.write(b"x").await.unwrap();
    let second = Agent::with(authority.node("b"), 2, None);
    let (arrived, mut seen) = mpsc::channel(1);
    second.links.serve_streams(move |_, _| _ = arrived.try_send(()));
    second.links.probe(&a.name, a.address);
    a.expect("the new start", |e| match e {
        LinkEvent::Up { hello, .. } if hello.generation == Generation(2) => Some(()),
        _ => None,
    })
    .await;
    let mut after = on_lane(&a, &second).await;
    after.send.write(b"y").await.unwrap();
    assert_eq!(timed("a stream at the new start", seen.recv()).await, Some(()));
    // What is under way on the old one goes on.
    assert!(timed("the echo", before.recv.read_chunk(1)).await.unwrap().is_some());
}

/// After a stop of ours the peer has dialled anew and given the old link up, while nothing was heard on lanes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_outlive_a_mesh_link_that_their_peer_gave_up_however_long_they_were_not_heard() {
    let (a, b) = pair(echo).await;
    let (peer, line, mut stream) = unheard(&a, &b).await;
    assert_eq!(peer.unregister(&line, Farewell::GivenUp), Lost::Quietly);
    stream.send.write_last(b"y").await.unwrap();
    assert_eq!(timed("the answer", read_all(&mut stream.recv)).await.unwrap(), b"xy");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_that_were_not_heard_end_with_a_broken_mesh_link_unless_we_were_stopped_ourselves() {
    for stopped in [true, false] {
        let (a, b) = pair(echo).await;
        let (peer, line, mut stream) = unheard(&a, &b).await;
        if stopped {
            let lag = Duration::from_secs(2);
            a.links.shared.monitor.lateness.came(Instant::now(), lag);
        }
        ended(&a.links.shared, &peer, &line, "it broke".into(), Farewell::None).await;
        let sent = stream.send.write_last(b"y").await;
        let answer = timed("the answer or the end", read_all(&mut stream.recv)).await;
        assert_eq!(answer.ok().as_deref(), stopped.then_some(&b"xy"[..]), "sent: {sent:?}");
    }
}

/// A peer with a mesh link and a stream under way on a lane that has not been heard lately.
async fn unheard(a: &Agent, b: &Agent) -> (Arc<Peer>, Line, DataStream) {
    a.links.watch(vec![(b.name.clone(), b.address)]);
    let mut stream = on_lane(a, b).await;
    stream.send.write(b"x").await.unwrap();
    let peer = a.links.shared.known(&b.name).unwrap();
    let line = until("a mesh link", || {
        crate::link::lock(&peer.state).mesh.as_ref().map(|m| m.line.clone()).ok_or("none")
    })
    .await;
    crate::link::lock(&peer.state).sense.lane_heard = None;
    (peer, line, stream)
}
