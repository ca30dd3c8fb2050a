//! Slow members, as in the evaluation of Lifeguard (Dadgar, Phillips, Currey, DSN-W 2018, section V): of 128
//! members C are anomalous at once; each holds all its messages back, both ways, for D, lets them flow for I, and
//! so on for two minutes, while its timers run. A *false positive* is every time that a member takes a healthy
//! one for down; *at healthy members*, by one that is not anomalous itself. Beside it plain SWIM: the same core
//! without awareness, shared suspicions and warnings.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hearth_proto::evidence::Swim;
use hearth_proto::member::SwimConfig;
use rand::RngExt;
use rand::seq::index;
use serde::Serialize;

use super::super::tally::Quantiles;
use super::super::{At, MS, S, parallel};
use super::Group;

/// Members of a group.
const SIZE: usize = 128;
/// One way, in microseconds.
const LATENCY: u64 = 250;
/// How long the anomalies go on.
const LONG: At = 120 * S;
/// Anomalous members.
const CONCURRENT: [usize; 9] = [1, 4, 8, 12, 16, 20, 24, 28, 32];
/// For how long messages are held back, in milliseconds.
const DURATIONS: [u64; 6] = [128, 512, 2_048, 8_192, 16_384, 32_768];
/// For how long they flow in between, in milliseconds.
const INTERVALS: [u64; 8] = [1, 4, 16, 64, 256, 1_024, 4_096, 16_384];
/// Of plain SWIM's false positives, what is left at most: in all, and at healthy members (the paper's 1.53 %
/// and 1.89 %).
const MOST: (f64, f64) = (0.015, 0.019);
/// Messages, as a share of plain SWIM's.
const MESSAGES: f64 = 1.10;

/// One cell of the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cell {
    concurrent: usize,
    duration: u64,
    interval: u64,
    lifeguard: bool,
}

/// What it came to.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Tally {
    /// Healthy members taken for down, by anybody.
    pub false_positives: u64,
    /// By healthy members.
    pub at_healthy: u64,
    /// Messages sent.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.false_positives += other.false_positives;
        self.at_healthy += other.at_healthy;
        self.messages += other.messages;
        self.bytes += other.bytes;
    }
}

fn config(lifeguard: bool) -> SwimConfig {
    SwimConfig { lifeguard, ..SwimConfig::default() }
}

fn run(seed: u64, cell: Cell) -> Tally {
    let mut group = Group::new(seed, SIZE, config(cell.lifeguard), LATENCY);
    group.run_until(10 * S);
    (group.sent, group.verdicts) = ((0, 0), Vec::new());
    let slow = index::sample(&mut group.rng, SIZE, cell.concurrent).into_vec();
    // In step, as in the paper: concurrent anomalies begin and end together.
    let end = group.now + LONG;
    let mut holds = false;
    group.script(group.now, 0);
    while group.run_until(end).is_some() {
        holds = !holds;
        for peer in &slow {
            if holds { group.hold(*peer) } else { group.release(*peer) }
        }
        let next = if holds { cell.duration } else { cell.interval };
        group.script(group.now + next * MS, 0);
    }
    let mut anomalous = [false; SIZE];
    for peer in &slow {
        anomalous[*peer] = true;
    }
    let false_ones = group.verdicts.iter().filter(|v| v.swim == Swim::Down && !anomalous[v.of]);
    Tally {
        false_positives: false_ones.clone().count() as u64,
        at_healthy: false_ones.filter(|v| !anomalous[v.by]).count() as u64,
        messages: group.sent.0,
        bytes: group.sent.1,
    }
}

/// When a member that crashed among the healthy is known to be down: by the first, and by all.
fn detect(seed: u64, lifeguard: bool) -> Option<(f64, f64)> {
    let mut group = Group::new(seed, SIZE, config(lifeguard), LATENCY);
    group.run_until(10 * S);
    group.verdicts.clear();
    let gone = group.rng.random_range(0..SIZE);
    group.crash(gone);
    let began = group.now;
    group.run_until(began + 60 * S);
    let known = group.verdicts.iter().filter(|v| v.of == gone && v.swim == Swim::Down);
    let mut times: Vec<At> = known.map(|v| v.at - began).collect();
    times.sort_unstable();
    let (first, all) = (times.first()?, times.get(SIZE - 2)?);
    Some((*first as f64 / S as f64, *all as f64 / S as f64))
}

/// Plain SWIM and Lifeguard, side by side.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Seeds of each cell.
    pub seeds: u64,
    /// Cells of the grid.
    pub cells: usize,
    /// By anomalous members: plain, Lifeguard.
    pub by_concurrent: BTreeMap<usize, [Tally; 2]>,
    /// By duration and interval in milliseconds: plain, Lifeguard.
    pub by_anomaly: BTreeMap<String, [Tally; 2]>,
    /// All cells.
    pub sum: [Tally; 2],
    /// Seconds until a crash is known to the first: plain, Lifeguard.
    pub first: [Quantiles; 2],
    /// To all.
    pub all: [Quantiles; 2],
    /// Crashes that not all came to know.
    pub missed: usize,
}

/// Runs the grid, or every other line of it in each direction.
pub fn compare(seeds: std::ops::Range<u64>, whole: bool) -> Outcome {
    let step = if whole { 1 } else { 2 };
    let mut runs = Vec::new();
    for concurrent in CONCURRENT.into_iter().rev().step_by(2 * step - 1) {
        for duration in DURATIONS.into_iter().rev().step_by(step) {
            for interval in INTERVALS.into_iter().step_by(2 * step - 1) {
                for seed in seeds.clone() {
                    for lifeguard in [false, true] {
                        runs.push((seed, Cell { concurrent, duration, interval, lifeguard }));
                    }
                }
            }
        }
    }
    let tallies = parallel::map(&runs, |(seed, cell)| run(*seed, *cell));
    let mut sum = [Tally::default(); 2];
    let (mut by_concurrent, mut by_anomaly) = (BTreeMap::new(), BTreeMap::new());
    for ((_, cell), tally) in runs.iter().zip(tallies) {
        let mode = usize::from(cell.lifeguard);
        sum[mode].add(tally);
        by_concurrent.entry(cell.concurrent).or_insert([Tally::default(); 2])[mode].add(tally);
        let anomaly = format!("{:>5}/{:>5}", cell.duration, cell.interval);
        by_anomaly.entry(anomaly).or_insert([Tally::default(); 2])[mode].add(tally);
    }
    let crashes: Vec<u64> = (0..if whole { 400 } else { 100 }).collect();
    let detected =
        [false, true].map(|lifeguard| parallel::map(&crashes, |s| detect(*s, lifeguard)));
    let quantiles = |of: fn(&(f64, f64)) -> f64| {
        [0, 1].map(|mode| Quantiles::of(detected[mode].iter().flatten().map(of).collect()))
    };
    Outcome {
        seeds: seeds.end.saturating_sub(seeds.start),
        cells: runs.len() / 2,
        by_concurrent,
        by_anomaly,
        sum,
        first: quantiles(|d| d.0),
        all: quantiles(|d| d.1),
        missed: detected.iter().flatten().filter(|d| d.is_none()).count(),
    }
}

fn share(of: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { of as f64 / whole as f64 }
}

impl Outcome {
    /// False positives, those at healthy members, and messages, as shares of plain SWIM's.
    fn shares(&self) -> [f64; 3] {
        let [plain, ours] = &self.sum;
        [
            share(ours.false_positives, plain.false_positives),
            share(ours.at_healthy, plain.at_healthy),
            share(ours.messages, plain.messages),
        ]
    }

    /// Whether it is as good as the paper's, and no slower than plain SWIM.
    pub fn holds(&self) -> bool {
        let [all, healthy, messages] = self.shares();
        let quick = self.first[1].p50 <= self.first[0].p50;
        all <= MOST.0 && healthy <= MOST.1 && messages <= MESSAGES && quick && self.missed == 0
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut out = format!(
            "{SIZE} members, anomalies of {} s, {} runs of each mode; false positives (at healthy members)\n\
             {:>13} {:>20} {:>20} {:>18}\n",
            LONG / S,
            self.cells,
            "anomalous",
            "plain SWIM",
            "Hearth",
            "share %"
        );
        let mut line = |name: &str, [plain, ours]: &[Tally; 2]| {
            let cell = |t: &Tally| format!("{} ({})", t.false_positives, t.at_healthy);
            let percent = |of, whole| 100.0 * share(of, whole);
            let shares = format!(
                "{:.2} ({:.2})",
                percent(ours.false_positives, plain.false_positives),
                percent(ours.at_healthy, plain.at_healthy)
            );
            let _ = writeln!(out, "{name:>13} {:>20} {:>20} {shares:>18}", cell(plain), cell(ours));
        };
        for (concurrent, tallies) in &self.by_concurrent {
            line(&concurrent.to_string(), tallies);
        }
        line("held/flow ms", &[Tally::default(); 2]);
        for (anomaly, tallies) in &self.by_anomaly {
            line(anomaly, tallies);
        }
        line("all", &self.sum);
        let [plain, ours] = &self.sum;
        let gib = |t: &Tally| t.bytes as f64 / f64::from(1 << 30);
        let _ = writeln!(
            out,
            "messages {:.2} M and {:.2} M: {:.1} %; {:.2} and {:.2} GiB",
            plain.messages as f64 / 1e6,
            ours.messages as f64 / 1e6,
            100.0 * self.shares()[2],
            gib(plain),
            gib(ours)
        );
        for (what, [plain, ours]) in [("first", &self.first), ("all", &self.all)] {
            let _ = writeln!(
                out,
                "a crash is known to the {what}: plain p50 {:.2} s, p99 {:.2}, max {:.2}; Hearth {:.2}, {:.2}, {:.2}",
                plain.p50, plain.p99, plain.max, ours.p50, ours.p99, ours.max
            );
        }
        let _ = writeln!(out, "crashes that not all came to know: {}", self.missed);
        out
    }
}
