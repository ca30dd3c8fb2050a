//! The client of every comparison: few instructions of its own, one thread, fixed connections.
//!
//! It runs as a process of its own (`bench-speed client SPEC`), so that its cost is told apart from
//! everything else, and prints one JSON [`Report`]. It takes the readings of all processes itself, at the
//! very moments its window opens and closes.
//!
//! Three ways to call: *closed* (each connection sends its next request when it has its answer), *open*
//! (requests are due at a fixed rate, their latency counts from then, whatever became of those before),
//! *idle* (connections that have each been answered once and then stay).
//!
//! What it says: GET of a file, a WebSocket message, a gRPC call (closed loop only).
//!
//! Never retries: a connection that fails is counted and replaced.

mod answer;
mod drive;
pub mod grpc;
mod idle;
mod latency;
mod lines;
pub mod websocket;

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::account::{Memory, Used, Watched};
pub use latency::Latency;

/// Label of the client itself among those watched.
pub const CLIENT: &str = "client";

/// How to call.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The next request follows the answer.
    Closed,
    /// So many requests per second.
    Open {
        /// Requests per second.
        rate: u32,
    },
    /// One request, then nothing.
    Idle,
}

/// What to say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Say {
    /// GET of this path, over HTTP/1.1.
    Get(String),
    /// A WebSocket message, which comes back.
    Message,
    /// A gRPC call.
    Call(Call),
}

/// A method of the gRPC service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// A message there, a message back: each counts.
    Unary,
    /// A message there, many back: each of those counts.
    Stream,
    /// Messages there and back, one at a time: each that came back counts.
    Echo,
}

/// What to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// Whom to call.
    pub target: SocketAddr,
    /// What to say.
    pub say: Say,
    /// Connections; of gRPC, calls at a time.
    pub connections: usize,
    /// How to call.
    pub way: Way,
    /// Seconds before anything counts.
    pub warm: f64,
    /// Seconds that count.
    pub seconds: f64,
    /// Whose cost to take down.
    pub watched: Vec<Watched>,
}

impl Spec {
    fn warm(&self) -> Duration {
        Duration::from_secs_f64(self.warm)
    }

    fn window(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// What came of it. Counts are of the window only.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Requests answered 200 in full.
    pub answered: u64,
    /// Requests that were not.
    pub failed: u64,
    /// The first reason of a failure, also of one before the window.
    pub reason: Option<String>,
    /// Body bytes received.
    pub bytes: u64,
    /// Latencies.
    pub latency: Latency,
    /// Processor time, in the order watched; the client itself is last.
    pub used: Used,
    /// Memory at the end of the window, in the order watched.
    pub memory: Vec<Memory>,
    /// Idle connections that were still there and answered a second time.
    pub alive: u64,
}

/// Runs a spec given as JSON and prints the report as JSON.
///
/// # Errors
/// In words: what the client could not do.
pub fn main(spec: &str) -> Result<(), String> {
    let mut spec: Spec =
        serde_json::from_str(spec).map_err(|e| format!("not a client spec: {e}"))?;
    let own = std::process::id().cast_signed();
    spec.watched.push(Watched { label: CLIENT.to_owned(), pids: vec![own] });
    let text = serde_json::to_string(&run(&spec)?).map_err(|e| e.to_string())?;
    println!("{text}");
    Ok(())
}

/// Runs a spec here.
///
/// # Errors
/// In words: what the client could not do.
pub fn run(spec: &Spec) -> Result<Report, String> {
    let report = match (&spec.say, spec.way) {
        (Say::Call(call), Way::Closed) => grpc::run(spec, *call),
        (Say::Call(_), way) => return Err(format!("gRPC is called in closed loop, not {way:?}")),
        (_, Way::Idle) => idle::run(spec),
        (_, Way::Closed | Way::Open { .. }) => drive::run(spec),
    };
    report.map_err(|e| e.to_string())
}
