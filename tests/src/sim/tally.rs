//! Many seeds of the failover scenario: run, added up, printed as a table, written as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;

use super::MS;
use super::episode::{KINDS, Kind};
use super::journal::{Journal, Line, Struck};
use super::run;
use super::scenario::Scenario;

/// What one kind of fault came to over all seeds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// Faults struck.
    pub faults: usize,
    /// Those after which no request at all went there: the endpoint was out already, or nobody called.
    pub untouched: usize,
    /// From the fault to the last misdirected request, in milliseconds.
    pub last_misdirected_ms: Quantiles,
    /// Misdirected requests of one fault.
    pub misdirected: Quantiles,
    /// Pairs of fault and caller that never turned away.
    pub unturned: usize,
    /// Requests sent on purpose to see whether a fault is over.
    pub probes: u64,
}

/// Of some numbers.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Quantiles {
    /// The median.
    pub p50: f64,
    /// 99 of 100 are no larger.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Quantiles {
    /// Of these; all zero of none.
    pub fn of(mut numbers: Vec<f64>) -> Self {
        numbers.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let rank = (share * numbers.len() as f64).ceil() as usize;
            numbers.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
        };
        Self { p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

/// What all seeds came to.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The seeds.
    pub seeds: (u64, u64),
    /// Hosts of each mesh.
    pub nodes: usize,
    /// Virtual seconds in all.
    pub virtual_s: u64,
    /// Seconds it took, without the seeds the journal had, and on how many threads.
    pub took_s: f64,
    /// Threads.
    pub threads: usize,
    /// Requests made.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those that failed though an endpoint served, in reach, all the while.
    pub avoidable: u64,
    /// Those answered by an error of an application under a gray fault.
    pub errors: u64,
    /// Pairs of a caller and a healthy endpoint it held for less than ready at the end.
    pub healthy_out: usize,
    /// Seeds in which an invariant was violated.
    pub violated: Vec<u64>,
    /// By kind of fault, and over all.
    pub faults: BTreeMap<&'static str, Row>,
}

fn row<'a>(faults: impl Iterator<Item = &'a Struck> + Clone) -> Row {
    let last = faults.clone().filter_map(|f| f.last_us).map(|us| us as f64 / MS as f64);
    let last: Vec<f64> = last.collect();
    let misdirected = faults.clone().map(|f| f64::from(f.misdirected)).collect();
    let count = faults.clone().count();
    Row {
        faults: count,
        untouched: count - last.len(),
        last_misdirected_ms: Quantiles::of(last),
        misdirected: Quantiles::of(misdirected),
        unturned: faults.clone().map(|f| f.unturned).sum(),
        probes: faults.map(|f| f.probes).sum(),
    }
}

/// Runs the seeds on all cores, but for those the journal has. Prints each that violates an invariant.
pub fn many(
    seeds: Range<u64>,
    nodes: usize,
    scenario: &'static Scenario,
    journal: Option<&Path>,
) -> std::io::Result<Outcome> {
    let began = Instant::now();
    let mut journal = journal.map(Journal::open).transpose()?;
    let kept = journal.as_mut().map(Journal::take).unwrap_or_default();
    let mut lines: BTreeMap<u64, Line> = kept
        .into_iter()
        .filter(|l| l.nodes == nodes && seeds.contains(&l.seed))
        .map(|l| (l.seed, l))
        .collect();
    let missing: Vec<u64> = seeds.clone().filter(|seed| !lines.contains_key(seed)).collect();
    let fresh = Mutex::new((Vec::new(), journal, Ok(())));
    let threads = run::each(&missing, nodes, scenario, |report| {
        let line = Line::of(&report, nodes);
        let mut fresh = fresh.lock().unwrap_or_else(PoisonError::into_inner);
        let (lines, journal, written) = &mut *fresh;
        if written.is_ok()
            && let Some(journal) = journal
        {
            *written = journal.write(&line);
        }
        lines.push(line);
    });
    let (fresh, _, written) = fresh.into_inner().unwrap_or_else(PoisonError::into_inner);
    written?;
    lines.extend(fresh.into_iter().map(|line| (line.seed, line)));
    let lines: Vec<Line> = lines.into_values().collect();
    Ok(sum(&lines, seeds, nodes, (began.elapsed().as_secs_f64(), threads)))
}

fn sum(lines: &[Line], seeds: Range<u64>, nodes: usize, took: (f64, usize)) -> Outcome {
    let all = lines.iter().flat_map(|line| &line.faults);
    let of = |kind: Kind| row(all.clone().filter(move |f| f.kind == kind));
    let mut faults: BTreeMap<&'static str, Row> =
        KINDS.iter().map(|kind| (kind.word(), of(*kind))).collect();
    faults.insert("all", row(all.clone()));
    Outcome {
        seeds: (seeds.start, seeds.end),
        nodes,
        virtual_s: lines.iter().map(|l| l.virtual_s).sum(),
        took_s: took.0,
        threads: took.1,
        requests: lines.iter().map(|l| l.requests).sum(),
        failed: lines.iter().map(|l| l.failed).sum(),
        avoidable: lines.iter().map(|l| l.avoidable).sum(),
        errors: lines.iter().map(|l| l.errors).sum(),
        healthy_out: lines.iter().map(|l| l.healthy_out).sum(),
        violated: lines.iter().filter(|l| !l.violations.is_empty()).map(|l| l.seed).collect(),
        faults,
    }
}

impl Outcome {
    /// Whether everything that must hold did.
    pub fn holds(&self) -> bool {
        self.violated.is_empty() && self.healthy_out == 0
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let head = "time from the fault to the last misdirected request, over all callers, in ms";
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{head}");
        let _ = writeln!(
            text,
            "{:13} {:>6} {:>9} {:>9} {:>9}   {:>5} {:>5}  {:>8} {:>7}",
            "fault", "faults", "p50", "p99", "max", "p50", "max", "unturned", "probes"
        );
        for name in KINDS.iter().map(|k| k.word()).chain(["all"]) {
            let Some(row) = self.faults.get(name) else { continue };
            let (t, n) = (row.last_misdirected_ms, row.misdirected);
            let _ = writeln!(
                text,
                "{name:13} {:>6} {:>9.1} {:>9.1} {:>9.1}   {:>5} {:>5}  {:>8} {:>7}",
                row.faults, t.p50, t.p99, t.max, n.p50, n.max, row.unturned, row.probes
            );
        }
        let _ = writeln!(
            text,
            "{} seeds of {} nodes: {} virtual hours in {:.0} s on {} threads; {} requests, {} failed \
             ({} avoidable), {} errors of gray applications; healthy endpoints out at the end: {}; \
             seeds that violate an invariant: {}",
            self.seeds.1 - self.seeds.0,
            self.nodes,
            self.virtual_s / 3_600,
            self.took_s,
            self.threads,
            self.requests,
            self.failed,
            self.avoidable,
            self.errors,
            self.healthy_out,
            self.violated.len()
        );
        text
    }

    /// Writes it as JSON.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, serde_json::to_string_pretty(self)? + "\n")
    }
}
