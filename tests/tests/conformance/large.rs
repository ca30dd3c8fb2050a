//! Large bodies and very many small ones, each byte checked at both ends.

use std::sync::atomic::{AtomicU64, Ordering};

use hearth_tests::conformance::noise::Noise;
use hearth_tests::conformance::transfer::{Announced, Client};
use libtest_mimic::Trial;

use crate::world::{self, World};

const MIB: u64 = 1 << 20;
/// Clients that send small requests at once.
const CLIENTS: u64 = 8;

type Told = fn(&World) -> Result<(), String>;

/// One body.
fn large() -> u64 {
    if world::full() { 1024 * MIB } else { 64 * MIB }
}

/// Requests in all.
fn many() -> u64 {
    if world::full() { 100_000 } else { 20_000 }
}

pub(crate) fn trials() -> Vec<Trial> {
    let tests: [(&str, Told); 9] = [
        ("a_download_with_length", |w| download(w, "noise")),
        ("a_download_in_chunks", |w| download(w, "chunked")),
        ("a_download_up_to_the_connections_end", |w| download(w, "close")),
        ("an_upload_with_length", |w| upload(w, Announced::Length)),
        ("an_upload_in_chunks", |w| upload(w, Announced::Chunks)),
        ("up_and_down_at_once", up_and_down_at_once),
        ("sizes_around_every_power_of_two_up_and_down", sizes),
        ("small_requests_of_all_sizes", small_requests),
        ("small_requests_pipelined", pipelined),
    ];
    let trial = |(name, test): (&'static str, Told)| {
        Trial::test(format!("large::{name}"), move || {
            let _turn = world::lane()?;
            test(world::world()?).map_err(Into::into)
        })
    };
    tests.into_iter().map(trial).collect()
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn said(error: std::io::Error) -> String {
    error.to_string()
}

fn download(world: &World, kind: &str) -> Result<(), String> {
    let mut client = Client::open(world.source_entry).map_err(said)?;
    client.ask(&format!("/{kind}/5/{}", large())).map_err(said)?;
    client.noise(5, large())
}

fn upload(world: &World, announced: Announced) -> Result<(), String> {
    let mut client = Client::open(world.source_entry).map_err(said)?;
    put(&mut client, 6, large(), announced)
}

fn put(client: &mut Client, seed: u64, length: u64, announced: Announced) -> Result<(), String> {
    client.put(seed, length, announced).map_err(|e| format!("{length} bytes up: {e}"))?;
    match client.text()? {
        (200, text) if text == format!("{length} good") => Ok(()),
        (status, text) => Err(format!("{length} bytes up: {status} {text}")),
    }
}

fn up_and_down_at_once(world: &World) -> Result<(), String> {
    let each = large() / 4;
    std::thread::scope(|scope| {
        let work = |n: u64| {
            move || {
                let mut client = Client::open(world.source_entry).map_err(said)?;
                if n.is_multiple_of(2) {
                    return put(&mut client, n, each, Announced::Length);
                }
                client.ask(&format!("/noise/{n}/{each}")).map_err(said)?;
                client.noise(n, each)
            }
        };
        let running: Vec<_> = (0..4).map(|n| scope.spawn(work(n))).collect();
        running
            .into_iter()
            .try_for_each(|r| r.join().map_err(|_| "a client panicked".to_owned())?)
    })
}

/// Where a buffer, a window or a frame ends, one byte more or less has its own way.
fn sizes(world: &World) -> Result<(), String> {
    let mut client = Client::open(world.source_entry).map_err(said)?;
    for power in 0..=21 {
        for size in [(1u64 << power) - 1, 1 << power, (1 << power) + 1] {
            put(&mut client, size, size, Announced::Length)?;
            put(&mut client, size, size, Announced::Chunks)?;
            for kind in ["noise", "chunked"] {
                client.ask(&format!("/{kind}/{size}/{size}")).map_err(said)?;
                client.noise(size, size).map_err(|e| format!("{size} bytes {kind}: {e}"))?;
            }
        }
    }
    Ok(())
}

/// Each request has a body of its own, which must come back.
fn small_requests(world: &World) -> Result<(), String> {
    let done = AtomicU64::new(0);
    let client = |n: u64| {
        let done = &done;
        move || -> Result<(), String> {
            let mut client = Client::open(world.source_entry).map_err(said)?;
            for i in 0..many() / CLIENTS {
                let number = (n << 32) | i;
                let body = body(number);
                client.write(&post(number, &body)).map_err(said)?;
                echoed(&mut client, number, &body)?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }
    };
    each_client(client)?;
    println!("small requests: {} came back bit for bit", done.load(Ordering::Relaxed));
    Ok(())
}

/// Sixteen at a time are written before the first answer is read.
fn pipelined(world: &World) -> Result<(), String> {
    const DEPTH: u64 = 16;
    let client = |n: u64| {
        move || -> Result<(), String> {
            let mut client = Client::open(world.source_entry).map_err(said)?;
            for batch in 0..many() / 4 / CLIENTS / DEPTH {
                let numbers = || (0..DEPTH).map(move |i| (n << 32) | (batch * DEPTH + i));
                let all: Vec<u8> =
                    numbers().flat_map(|number| post(number, &body(number))).collect();
                client.write(&all).map_err(said)?;
                numbers().try_for_each(|number| echoed(&mut client, number, &body(number)))?;
            }
            Ok(())
        }
    };
    each_client(client)
}

fn each_client<W>(work: impl Fn(u64) -> W) -> Result<(), String>
where
    W: FnOnce() -> Result<(), String> + Send,
{
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(work(n))).collect();
        running
            .into_iter()
            .try_for_each(|r| r.join().map_err(|_| "a client panicked".to_owned())?)
    })
}

/// 0 to 2,046 bytes of the request's own.
fn body(number: u64) -> Vec<u8> {
    let mut body = vec![0; (number % 2_047) as usize];
    Noise::new(number).fill(&mut body);
    body
}

fn post(number: u64, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /echo/{number} HTTP/1.1\r\nHost: svc\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn echoed(client: &mut Client, number: u64, body: &[u8]) -> Result<(), String> {
    let (status, head) = client.head().map_err(|e| format!("request {number}: {e}"))?;
    let mut all = Vec::new();
    client.content(&head, |bytes| {
        all.extend_from_slice(bytes);
        Ok(())
    })?;
    match status == 200 && all == body {
        true => Ok(()),
        false => Err(format!(
            "request {number}: {} with {} bytes, sent {}",
            head.line,
            all.len(),
            body.len()
        )),
    }
}
