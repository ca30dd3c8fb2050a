//! What a run measures, how long and how often.

use clap::ValueEnum;
use serde::Serialize;

use super::speech::Speech;

/// A thing that is measured of a pair. The order is the order in which it is done: memory at rest comes
/// before any load, idle connections after it because they leave the most behind; what is not plain
/// HTTP/1.1 is measured on processes of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Memory before any load.
    Rest,
    /// Closed loop at 32 and at 64 connections: requests per second, their cost, memory under load.
    Capacity,
    /// Open loop at a fixed rate: latency and cost.
    Rate,
    /// Large downloads: bytes per second and their cost.
    Bulk,
    /// Many idle connections: memory and cost.
    Idle,
    /// gRPC in closed loop: calls, messages of streams, echoes on streams, and their cost.
    Grpc,
    /// WebSocket in closed loop: echoes, and their cost.
    Websocket,
}

impl Measure {
    /// All, in order.
    pub const ALL: [Self; 7] = [
        Self::Rest,
        Self::Capacity,
        Self::Rate,
        Self::Bulk,
        Self::Idle,
        Self::Grpc,
        Self::Websocket,
    ];

    /// What is spoken meanwhile.
    #[must_use]
    pub fn speech(self) -> Speech {
        match self {
            Self::Rest | Self::Capacity | Self::Rate | Self::Bulk | Self::Idle => Speech::Http,
            Self::Grpc => Speech::Grpc,
            Self::Websocket => Speech::WebSocket,
        }
    }
}

/// How long and how much.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// What is measured, in any order.
    pub measures: Vec<Measure>,
    /// Rounds; every pair is measured once in each.
    pub rounds: usize,
    /// Seconds before a window opens.
    pub warm: f64,
    /// Seconds of a window.
    pub seconds: f64,
    /// Idle connections.
    pub idle: usize,
    /// Seconds for memory to settle.
    pub settle: f64,
}

impl Plan {
    /// A whole run, as the goals are held against it.
    #[must_use]
    pub fn whole() -> Self {
        let measures = Measure::ALL.to_vec();
        Self { measures, rounds: 5, warm: 1.0, seconds: 4.0, idle: 10_000, settle: 1.5 }
    }

    /// One round with short windows: shows that everything works, and differences of a tenth or more.
    #[must_use]
    pub fn quick() -> Self {
        Self { rounds: 1, warm: 0.3, seconds: 0.5, idle: 1_000, settle: 0.3, ..Self::whole() }
    }

    /// What is asked for and spoken so, in the order in which it is done.
    pub fn measures(&self, speech: Speech) -> impl Iterator<Item = Measure> {
        let asked = Measure::ALL.into_iter().filter(|measure| self.measures.contains(measure));
        asked.filter(move |measure| measure.speech() == speech)
    }
}
