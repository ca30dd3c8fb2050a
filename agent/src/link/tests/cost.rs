//! What a request and a gigabyte cost on each lane: not a test but a measurement, printed.
//!
//! `cargo test --release -p hearth-agent --lib what_a_request_costs -- --ignored --nocapture`

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::link::{DataStream, LaneChoice};

const AT_ONCE: usize = 64;
const REQUESTS: usize = 200_000;
const BULK: usize = 1 << 30;
const ANSWER: &[u8] = &[7; 1024];
const PIECE: &[u8] = &[7; 64 * 1024];

/// An agent on a thread of its own.
fn on_own_thread(authority: &Authority, node: &str) -> (tokio::runtime::Handle, Agent) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    let agent = {
        let _context = handle.enter();
        Agent::start(authority, node)
    };
    (handle, agent)
}

async fn serve(mut stream: DataStream) {
    let Ok(Some(head)) = stream.recv.read_chunk(usize::MAX).await else { return };
    if head[0] == b'b' {
        let mut left = BULK;
        while left > 0 {
            if stream.send.write(PIECE).await.is_err() {
                return;
            }
            left -= PIECE.len();
        }
        stream.send.finish();
    } else {
        let _ = stream.send.write_last(ANSWER).await;
    }
}

fn cpu() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap().into()
}

async fn requests(a: Arc<Agent>, to: (NodeName, SocketAddr), choice: LaneChoice) {
    let mut workers = Vec::new();
    for _ in 0..AT_ONCE {
        let (a, to) = (a.clone(), to.clone());
        workers.push(tokio::spawn(async move {
            let request = Bytes::from_static(&[1; 300]);
            for _ in 0..REQUESTS / AT_ONCE {
                let mut stream = a.links.open_stream_by(&to.0, to.1, choice).await.unwrap();
                stream.send.write_last(&request).await.unwrap();
                while stream.recv.read_chunk(usize::MAX).await.unwrap().is_some() {}
            }
        }));
    }
    for worker in workers {
        worker.await.unwrap();
    }
}

async fn bulk(a: Arc<Agent>, to: (NodeName, SocketAddr), choice: LaneChoice) {
    let mut stream = a.links.open_stream_by(&to.0, to.1, choice).await.unwrap();
    stream.send.write_last(b"b").await.unwrap();
    let mut got = 0;
    while let Some(chunk) = stream.recv.read_chunk(usize::MAX).await.unwrap() {
        got += chunk.len();
    }
    assert_eq!(got, BULK);
}

#[test]
#[ignore = "a measurement"]
fn what_a_request_costs() {
    let authority = Authority::new("mesh.example");
    let (at_a, a) = on_own_thread(&authority, "a");
    let (_, b) = on_own_thread(&authority, "b");
    b.links.serve_streams(|_, stream| drop(tokio::spawn(serve(stream))));
    let a = Arc::new(a);
    let to = (b.name.clone(), b.address);
    let wait = |task: tokio::task::JoinHandle<()>| {
        let (done, finished) = std::sync::mpsc::channel();
        at_a.spawn(async move {
            task.await.unwrap();
            done.send(()).unwrap();
        });
        finished.recv().unwrap();
    };
    {
        let (a, b) = (a.clone(), to.clone());
        wait(at_a.spawn(async move {
            for choice in [LaneChoice::Quic, LaneChoice::Tcp] {
                let stream = a.links.open_stream_by(&b.0, b.1, choice).await;
                drop(stream);
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }));
    }
    for round in 0..3 {
        for choice in [LaneChoice::Tcp, LaneChoice::Quic] {
            let (wall, before) = (Instant::now(), cpu());
            wait(at_a.spawn(requests(a.clone(), to.clone(), choice)));
            let (wall, used) = (wall.elapsed(), cpu() - before);
            println!(
                "round {round} {choice:?}: {:.0} requests/s, {:.1} CPU-s per million",
                REQUESTS as f64 / wall.as_secs_f64(),
                used.as_secs_f64() * 1e6 / REQUESTS as f64
            );
            let (wall, before) = (Instant::now(), cpu());
            wait(at_a.spawn(bulk(a.clone(), to.clone(), choice)));
            let (wall, used) = (wall.elapsed(), cpu() - before);
            println!(
                "round {round} {choice:?}: {:.0} MB/s, {:.2} CPU-s per GiB",
                BULK as f64 / 1e6 / wall.as_secs_f64(),
                used.as_secs_f64()
            );
        }
    }
}
