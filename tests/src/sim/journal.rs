//! What each seed of the failover scenario came to, one line of JSON each, on disk as soon as it is known: a
//! run of hours may be ended at any moment, and the next one goes on where it was.
//!
//! A line is worth what the program was worth that wrote it: who changes the program begins a new journal.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::episode::{Episode, Kind};
use super::run::Report;

/// What one seed came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) seed: u64,
    pub(super) nodes: usize,
    pub(super) virtual_s: u64,
    pub(super) requests: u64,
    pub(super) failed: u64,
    pub(super) avoidable: u64,
    pub(super) errors: u64,
    pub(super) healthy_out: usize,
    pub(super) violations: Vec<String>,
    pub(super) faults: Vec<Struck>,
}

/// What one fault came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Struck {
    pub(super) kind: Kind,
    /// From the fault to the last misdirected request of any caller; `None` if there was none.
    pub(super) last_us: Option<u64>,
    pub(super) misdirected: u32,
    /// Callers that never turned away.
    pub(super) unturned: usize,
    pub(super) probes: u64,
}

impl Line {
    pub(super) fn of(report: &Report, nodes: usize) -> Self {
        let struck = |e: &Episode| Struck {
            kind: e.kind,
            last_us: e.last_misdirected(),
            misdirected: e.callers.values().map(|s| s.misdirected).sum(),
            unturned: e.unturned(),
            probes: e.callers.values().map(|s| u64::from(s.probes)).sum(),
        };
        Self {
            seed: report.seed,
            nodes,
            virtual_s: report.virtual_time.as_secs(),
            requests: report.stats.requests,
            failed: report.stats.failed,
            avoidable: report.stats.avoidable,
            errors: report.stats.errors,
            healthy_out: report.healthy_out,
            violations: report.violations.clone(),
            faults: report.episodes.iter().map(struck).collect(),
        }
    }
}

/// The lines so far, and where the next one goes.
pub(super) struct Journal {
    kept: Vec<Line>,
    file: File,
}

impl Journal {
    /// Reads what there is.
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = File::options().read(true).append(true).create(true).open(path)?;
        let mut kept = Vec::new();
        let mut whole = true;
        for line in BufReader::new(&file).lines() {
            // A line that was cut off is of a seed that runs again.
            let line = serde_json::from_str(&line?);
            whole = line.is_ok();
            kept.extend(line.ok());
        }
        if !whole {
            file.write_all(b"\n")?;
        }
        Ok(Self { kept, file })
    }

    /// Hands over what was read.
    pub(super) fn take(&mut self) -> Vec<Line> {
        std::mem::take(&mut self.kept)
    }

    /// Adds a line.
    pub(super) fn write(&mut self, line: &Line) -> std::io::Result<()> {
        let text = serde_json::to_string(line)? + "\n";
        self.file.write_all(text.as_bytes())
    }
}
