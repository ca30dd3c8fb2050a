//! Requests over lanes, between agents on loopback.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::link::{DataStream, LaneChoice, LinkError, Receiver, Sender, StreamError};

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
async fn more_streams_than_a_lane_carries_are_busy_until_some_end() {
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
    };
    assert!(matches!(refused, LinkError::Busy { .. }), "{refused}");
    assert_eq!(open.len(), 1024);
    open.truncate(1000);
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
