//! What was measured of one kind of agent. Values only.

use serde::Serialize;

use super::kind::Subject;
use crate::bench::figures::Spread;

/// All of one kind.
#[derive(Debug, Clone, Serialize)]
pub struct Taken {
    /// Whose.
    pub subject: Subject,
    /// How many there were.
    pub agents: usize,
    /// The start of all.
    pub cold: Option<Cold>,
    /// A quiet minute.
    pub quiet: Option<Quiet>,
    /// Members killed.
    pub kills: Vec<Kill>,
    /// Members stopped.
    pub freezes: Vec<Freeze>,
    /// Why it ended before its time.
    pub broke_off: Option<String>,
}

impl Taken {
    /// Nothing yet.
    #[must_use]
    pub fn none(subject: Subject, agents: usize) -> Self {
        let (kills, freezes) = (Vec::new(), Vec::new());
        Self { subject, agents, cold: None, quiet: None, kills, freezes, broke_off: None }
    }
}

/// The start of all: the first is up, the others are started and join by it.
#[derive(Debug, Clone, Serialize)]
pub struct Cold {
    /// Until the last was started, s. The bench's own time.
    pub started_s: f64,
    /// Until everybody saw everybody, s.
    pub whole_s: f64,
}

/// What agents need while nothing happens, over all agents.
#[derive(Debug, Clone, Serialize)]
pub struct Quiet {
    /// From the moment when views were whole until traffic no longer fell, s.
    pub settled_s: f64,
    /// It did within three minutes.
    pub settled: bool,
    /// Length of what was measured, s.
    pub seconds: f64,
    /// Bytes sent a second, with all headers.
    pub bytes: Spread,
    /// Frames sent a second.
    pub frames: Spread,
    /// Resident memory, MiB.
    pub rss: Spread,
    /// The same with shared pages in parts, MiB.
    pub pss: Spread,
    /// Processor seconds a minute.
    pub cpu: Spread,
    /// The same on average over all agents.
    pub cpu_mean: f64,
    /// Cores that everything else on the machine took.
    pub others: f64,
}

/// A member killed and started again.
#[derive(Debug, Clone, Serialize)]
pub struct Kill {
    /// Who.
    pub member: String,
    /// When each other member took it for failed, s from the kill, in order.
    pub learnt_s: Vec<f64>,
    /// From its start until all saw it and it saw all, s.
    pub back_s: f64,
    /// So often one took somebody else for failed meanwhile.
    pub others_failed: usize,
}

impl Kill {
    /// When the first knew, s.
    #[must_use]
    pub fn first(&self) -> f64 {
        self.learnt_s.first().copied().unwrap_or(f64::NAN)
    }

    /// When the last knew, s.
    #[must_use]
    pub fn last(&self) -> f64 {
        self.learnt_s.last().copied().unwrap_or(f64::NAN)
    }
}

/// A member stopped for a moment.
#[derive(Debug, Clone, Serialize)]
pub struct Freeze {
    /// Who.
    pub member: String,
    /// So many of the others took it for failed at some time.
    pub failed: usize,
    /// So many suspected it, or more.
    pub doubted: usize,
    /// So often it was told that it is dead, where it counts that: what no look found is found by this.
    pub rejoined: Option<u64>,
    /// So often one took somebody else for failed meanwhile; the stopped one itself counts.
    pub others_failed: usize,
    /// From its going on until everybody saw everybody, s.
    pub whole_s: f64,
}
