//! Plain SWIM beside the formulas: when the first member suspects one that is gone, and how fast the suspicion
//! is everywhere.
//!
//! *First suspicion.* Each of m living members probes one random member in each period T', out of step with the
//! others: the first probe of a given one comes after X ~ Exp(T'·(N−1)/m), and its verdict with the end of the
//! period (foca): at X + T' (SWIM, section 5; knowledge: "theoretical limits").
//!
//! *Dissemination.* A suspicion rides on gossip (f members every g) and on what answers or asks (a ping and an
//! ack per T'), and further members find out by themselves as the first did. What that comes to has no closed
//! form with the phases that real timers have: a model of its own, the process simulated without foca, packets
//! or members' lists, says what to expect; beside it stands Pittel's log_{f+1} N + ln N / f rounds for gossip in
//! lockstep.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use hearth_proto::evidence::Swim;
use hearth_proto::member::SwimConfig;
use rand::rngs::StdRng;
use rand::seq::index;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use super::super::parallel;
use super::super::tally::Quantiles;
use super::super::{At, S};
use super::Group;

/// One way, in microseconds: a LAN.
const LATENCY: u64 = 250;
/// Members that crash in each seed.
const CRASHES: usize = 60;
/// So long they are watched: the latest of a thousand first probes, and the spread.
const WATCHED: At = 9 * S;
/// Members told in a gossip round, and its length in seconds: the core's own constants.
const FANOUT: usize = 3;
const ROUND: f64 = 0.2;
/// Who finds out by itself after so many seconds has long been told.
const FINDERS: f64 = 5.0;
/// Largest deviation from what is expected.
pub const TOLERANCE: f64 = 0.05;
/// Suspicions that do not reach everybody, per thousand: difference from what is expected.
const MISSED: f64 = 5.0;

/// Measured beside expected, in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What.
    pub what: &'static str,
    /// As the simulator's members did.
    pub measured: f64,
    /// As the formula or the model says.
    pub expected: f64,
}

impl Row {
    fn deviation(&self) -> f64 {
        self.measured / self.expected - 1.0
    }
}

/// What a check against the formulas came to.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Members of each group.
    pub nodes: usize,
    /// Groups.
    pub seeds: u64,
    /// Suspicions that were watched.
    pub crashes: usize,
    /// What was compared.
    pub rows: Vec<Row>,
    /// Suspicions that did not reach everybody: updates are sent so often and no more.
    pub missed: usize,
    /// As many of the model's, per thousand.
    pub missed_per_mille: f64,
    /// Pittel's time for gossip in lockstep, in seconds.
    pub pittel_s: f64,
}

/// One suspicion: after how long it was there first, and when it was known to a half, to 99 % and to all.
#[derive(Clone, Copy, Debug)]
struct Spread {
    first: At,
    half: Option<At>,
    most: Option<At>,
    all: Option<At>,
}

fn plain() -> SwimConfig {
    SwimConfig { lifeguard: false, ..SwimConfig::default() }
}

/// Runs one group, and watches what becomes of those that crash.
fn run(seed: u64, nodes: usize) -> Vec<Option<Spread>> {
    let mut group = Group::new(seed, nodes, plain(), LATENCY);
    group.run_until(20 * S);
    group.verdicts.clear();
    let gone: Vec<usize> = index::sample(&mut group.rng, nodes, CRASHES).into_vec();
    for peer in &gone {
        group.crash(*peer);
    }
    let began = group.now;
    group.run_until(began + WATCHED);
    let living = nodes - CRASHES;
    gone.iter()
        .map(|peer| {
            let mut knows = vec![false; nodes];
            let mut times = Vec::new();
            for v in group.verdicts.iter().filter(|v| v.of == *peer && v.swim == Swim::Suspect) {
                if !std::mem::replace(&mut knows[v.by], true) {
                    times.push(v.at);
                }
            }
            let first = *times.first()?;
            let nth = |n: usize| times.get(n - 1).map(|at| at - first);
            Some(Spread {
                first: first - began,
                half: nth(living.div_ceil(2)),
                most: nth((living * 99).div_ceil(100)),
                all: nth(living),
            })
        })
        .collect()
}

/// The same dissemination without members: whoever knows tells `FANOUT` others in each gossip round and one
/// with each probe that it sends or answers, until it has told it as often as updates are sent.
struct Model {
    rng: StdRng,
    nodes: usize,
    /// When each of the living learnt it.
    known: Vec<Option<f64>>,
    /// Microseconds, who, and how it tells.
    due: BTreeSet<(u64, usize, Way)>,
    left: Vec<usize>,
    /// When who finds out by itself, the last first.
    finders: Vec<(f64, usize)>,
}

/// How one tells others, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Gossip,
    Ping,
    Ack,
}

impl Way {
    /// How many at a time, and how often.
    fn rate(self) -> (usize, f64) {
        match self {
            Self::Gossip => (FANOUT, ROUND),
            Self::Ping | Self::Ack => (1, period()),
        }
    }
}

impl Model {
    /// What happens next; whoever finds out before it does so.
    fn next(&mut self) -> Option<(u64, usize, Way)> {
        loop {
            let due = self.due.first().map(|(at, ..)| *at as f64 / 1e6);
            match self.finders.last().copied() {
                Some((at, who)) if due.is_none_or(|due| at <= due) => {
                    self.finders.pop();
                    // With its verdict it asks the next member, and tells it so.
                    self.learn(who, at, 0.0);
                }
                _ => return self.due.pop_first(),
            }
        }
    }

    fn new(seed: u64, nodes: usize) -> Self {
        let living = nodes - CRASHES;
        // The core's constants follow the size in steps of half a decade.
        let upper = 10.0_f64.powf((2.0 * (nodes as f64).log10()).ceil() / 2.0).trunc();
        let sends = (4.0 * (upper + 1.0).log10()) as usize;
        Self {
            rng: StdRng::seed_from_u64(seed),
            nodes,
            known: vec![None; living],
            due: BTreeSet::new(),
            left: vec![sends; living],
            finders: Vec::new(),
        }
    }

    /// Somebody learns it, who asks another member `ping` of a period later.
    fn learn(&mut self, who: usize, at: f64, ping: f64) {
        if self.known[who].is_some() {
            return;
        }
        self.known[who] = Some(at);
        for way in [Way::Gossip, Way::Ping, Way::Ack] {
            let phase = if way == Way::Ping { ping } else { self.rng.random() };
            let first = at + way.rate().1 * phase;
            self.due.insert(((first * 1e6) as u64, who, way));
        }
    }

    /// Until when a half, 99 % and all know it.
    fn run(mut self) -> [f64; 3] {
        // Those who find out by themselves, the first at zero.
        let mut found = 0.0;
        let living = self.left.len();
        while found < FINDERS {
            let who = self.rng.random_range(0..living);
            self.finders.push((found, who));
            found -= probed_every(self.nodes) * self.rng.random::<f64>().ln();
        }
        self.finders.reverse();
        while let Some((at, who, way)) = self.next() {
            let now = at as f64 / 1e6;
            let (mut told, again) = way.rate();
            // Who asks one that is gone then asks others to ask it.
            let gone = self.rng.random_bool(CRASHES as f64 / self.nodes as f64);
            told += if way == Way::Ping && gone { FANOUT } else { 0 };
            for _ in 0..told.min(self.left[who]) {
                self.left[who] -= 1;
                let whom = self.rng.random_range(0..self.nodes);
                if whom < self.known.len() && whom != who {
                    let phase = self.rng.random();
                    self.learn(whom, now + 1.25 * LATENCY as f64 / 1e6, phase);
                }
            }
            if self.left[who] > 0 {
                self.due.insert((((now + again) * 1e6) as u64, who, way));
            }
        }
        let mut times: Vec<f64> = self.known.into_iter().flatten().collect();
        times.sort_by(f64::total_cmp);
        let nth = |n: usize| times.get(n - 1).copied().unwrap_or(f64::INFINITY);
        [nth(living.div_ceil(2)), nth((living * 99).div_ceil(100)), nth(living)]
    }
}

fn period() -> f64 {
    plain().probe_period.as_secs_f64()
}

/// Mean time from one probe of a member to the next, by whomever.
fn probed_every(nodes: usize) -> f64 {
    period() * (nodes - 1) as f64 / (nodes - CRASHES) as f64
}

/// Runs all seeds on all cores and compares.
pub fn check(seeds: std::ops::Range<u64>, nodes: usize) -> Outcome {
    let count = seeds.end.saturating_sub(seeds.start);
    let seeds: Vec<u64> = seeds.collect();
    let runs = parallel::map(&seeds, |seed| run(*seed, nodes));
    let spreads: Vec<Option<Spread>> = runs.into_iter().flatten().collect();
    let crashes = spreads.len();
    let seen: Vec<Spread> = spreads.into_iter().flatten().collect();
    let seconds = |of: &dyn Fn(&Spread) -> Option<At>| {
        Quantiles::of(seen.iter().filter_map(of).map(|us| us as f64 / S as f64).collect())
    };
    let (first, half, most, all) = (
        seconds(&|s| Some(s.first)),
        seconds(&|s| s.half),
        seconds(&|s| s.most),
        seconds(&|s| s.all),
    );
    let modelled = parallel::map(&(0..2_000).collect::<Vec<_>>(), |i| Model::new(*i, nodes).run());
    let expected = |i: usize| Quantiles::of(modelled.iter().map(|m| m[i]).collect());
    let exponential = |share: f64| period() - probed_every(nodes) * (1.0 - share).ln();
    let row = |what, measured, expected| Row { what, measured, expected };
    let rows = vec![
        row("first suspicion, p50", first.p50, exponential(0.5)),
        row("first suspicion, p99", first.p99, exponential(0.99)),
        row("known to a half, p50", half.p50, expected(0).p50),
        row("known to 99 %, p50", most.p50, expected(1).p50),
        row("known to 99 %, p99", most.p99, expected(1).p99),
        row("known to all, p50", all.p50, expected(2).p50),
    ];
    let n = nodes as f64;
    let lost = modelled.iter().filter(|m| m[2].is_infinite()).count();
    let missed_per_mille = 1_000.0 * lost as f64 / modelled.len() as f64;
    let missed = crashes - seen.iter().filter(|s| s.all.is_some()).count();
    let pittel_s = ROUND * (n.ln() / (FANOUT as f64 + 1.0).ln() + n.ln() / FANOUT as f64);
    Outcome { nodes, seeds: count, crashes, rows, missed, missed_per_mille, pittel_s }
}

impl Outcome {
    /// Whether everything is as expected.
    pub fn holds(&self) -> bool {
        let missed = 1_000.0 * self.missed as f64 / self.crashes.max(1) as f64;
        (missed - self.missed_per_mille).abs() <= MISSED
            && self.rows.iter().all(|row| row.deviation().abs() <= TOLERANCE)
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut out = format!(
            "plain SWIM, {} members, {} seeds, {} crashes; seconds\n{:24} {:>9} {:>9} {:>9}\n",
            self.nodes, self.seeds, self.crashes, "", "measured", "expected", "deviation"
        );
        for row in &self.rows {
            let off = 100.0 * row.deviation();
            let flag = if off.abs() > 100.0 * TOLERANCE { "  !" } else { "" };
            let (what, measured, expected) = (row.what, row.measured, row.expected);
            let _ = writeln!(out, "{what:24} {measured:>9.3} {expected:>9.3} {off:>+8.1}%{flag}");
        }
        let _ = writeln!(
            out,
            "suspicions that did not reach everybody (no digest helps here): {}, of the model {:.1} per thousand; \
             Pittel, in lockstep: {:.2} s to all",
            self.missed, self.missed_per_mille, self.pittel_s
        );
        out
    }
}
