//! One seed, many seeds, and what is printed of them.

use std::fmt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::S;
use super::episode::Episode;
use super::scenario::Scenario;
use super::world::Stats;
use super::{mesh, parallel};

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Its scenario.
    pub scenario: &'static str,
    /// Hosts.
    pub nodes: usize,
    /// Over every delivered event, in order.
    pub hash: u64,
    /// Virtual time.
    pub virtual_time: Duration,
    /// Numbers.
    pub stats: Stats,
    /// What happened, for people.
    pub story: Vec<String>,
    /// What must not have.
    pub violations: Vec<String>,
    /// The faults that were measured.
    pub episodes: Vec<Episode>,
    /// Pairs of a caller and a healthy endpoint it held for less than ready at the end.
    pub healthy_out: usize,
}

/// Runs one scenario from one seed.
pub fn one(seed: u64, nodes: usize, scenario: &'static Scenario) -> Report {
    let mut world = match scenario.name {
        "random" | "hotwarm" => mesh::random_mesh(seed, nodes.max(8)),
        "failover" => mesh::busy(seed, nodes),
        "availability" => mesh::failing(seed),
        _ => mesh::standard(seed, nodes),
    };
    (scenario.run)(&mut world);
    world.check_flights();
    Report {
        seed,
        scenario: scenario.name,
        nodes: world.hosts.len(),
        hash: world.digest(),
        virtual_time: Duration::from_micros(world.now),
        stats: world.stats.clone(),
        story: std::mem::take(&mut world.story),
        violations: std::mem::take(&mut world.checks.violations),
        episodes: std::mem::take(&mut world.episodes),
        healthy_out: world.healthy_out,
    }
}

impl Report {
    /// The command that runs exactly this again.
    pub fn command(&self) -> String {
        format!(
            "cargo run --profile lab -p hearth-tests --bin sim -- --seed {} --nodes {} --scenario {}",
            self.seed, self.nodes, self.scenario
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = &self.stats;
        writeln!(
            f,
            "seed {} · {} · {} nodes · {} s virtual · hash {:016x}",
            self.seed,
            self.scenario,
            self.nodes,
            self.virtual_time.as_secs(),
            self.hash
        )?;
        writeln!(
            f,
            "  {} events, {} deliveries, {} silences, {} condition changes, {} call-ups ({} needless)",
            s.events, s.delivered, s.silences, s.conditions, s.activations, s.needless
        )?;
        writeln!(
            f,
            "  {} requests, {} failed ({} avoidable), {} retries, slowest {:.3} s; {} incidents, {} not stable",
            s.requests,
            s.failed,
            s.avoidable,
            s.retries,
            s.slowest as f64 / S as f64,
            s.incidents,
            s.unstable
        )?;
        writeln!(
            f,
            "  largest datagram {} B, largest message {} B, most timers {}",
            s.datagram, s.message, s.timers
        )?;
        writeln!(
            f,
            "  {} steps of recordings replayed ({} B), {} decisions",
            s.replayed_steps, s.recorded_bytes, s.replayed_decisions
        )?;
        let at_rest = self.virtual_time.saturating_sub(Duration::from_micros(s.settled));
        let shares = self.nodes as f64 * at_rest.as_secs_f64().max(1.0);
        let per = |n: u64| n as f64 / shares;
        let bytes: u64 = s.sent.values().map(|(_, bytes)| bytes).sum();
        writeln!(f, "  after settling, per host and second: {:.1} B sent, of them", per(bytes))?;
        for (kind, (n, bytes)) in &s.sent {
            writeln!(f, "    {kind}: {:.3} of {:.1} B in all", per(*n), per(*bytes))?;
        }
        for (why, n) in &s.failures {
            writeln!(f, "  failed after settling: {n}, {why}")?;
        }
        for (what, n) in &s.refused {
            writeln!(f, "  refused {what}: {n}")?;
        }
        for v in &self.violations {
            writeln!(f, "  VIOLATED {v}")?;
        }
        Ok(())
    }
}

/// Runs these seeds on all cores and hands over each report, in no order. Prints each failing one with
/// the command that reproduces it. Returns the number of threads.
pub(super) fn each(
    seeds: &[u64],
    nodes: usize,
    scenario: &'static Scenario,
    take: impl Fn(Report) + Sync,
) -> usize {
    parallel::map(seeds, |seed| {
        let report = one(*seed, nodes, scenario);
        if !report.violations.is_empty() {
            print!("{report}");
            println!("  again: {}", report.command());
        }
        take(report);
    });
    parallel::threads()
}

/// Runs a range of seeds on all cores, prints what came of them, and returns how many failed.
pub fn many(seeds: std::ops::Range<u64>, nodes: usize, scenario: &'static Scenario) -> usize {
    let began = Instant::now();
    let seeds: Vec<u64> = seeds.collect();
    let total = seeds.len();
    let failed = Mutex::new(Vec::new());
    let sums = Mutex::new(Stats::default());
    each(&seeds, nodes, scenario, |report| {
        add(&mut sums.lock().unwrap_or_else(PoisonError::into_inner), &report.stats);
        if !report.violations.is_empty() {
            failed.lock().unwrap_or_else(PoisonError::into_inner).push(report.seed);
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let sums = sums.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{total} seeds of {} with {nodes} nodes in {:.1} s: {} failed; {} events, {} requests \
         ({} failed, {} of them avoidable), {} call-ups ({} needless), {} incidents; {} steps of \
         recordings replayed, {} decisions",
        scenario.name,
        began.elapsed().as_secs_f64(),
        failed.len(),
        sums.events,
        sums.requests,
        sums.failed,
        sums.avoidable,
        sums.activations,
        sums.needless,
        sums.incidents,
        sums.replayed_steps,
        sums.replayed_decisions
    );
    println!(
        "  {} failbacks, {} attempts of hooks failed, {} surplus call-ups (views differed), {} flaps",
        sums.failbacks, sums.hooks_failed, sums.surplus, sums.flaps
    );
    for (why, n) in &sums.failures {
        println!("  requests failed after settling: {n}, {why}");
    }
    failed.len()
}

fn add(sum: &mut Stats, one: &Stats) {
    sum.events += one.events;
    sum.requests += one.requests;
    sum.failed += one.failed;
    sum.avoidable += one.avoidable;
    sum.activations += one.activations;
    sum.needless += one.needless;
    sum.incidents += one.incidents;
    sum.replayed_steps += one.replayed_steps;
    sum.replayed_decisions += one.replayed_decisions;
    sum.hooks_failed += one.hooks_failed;
    sum.failbacks += one.failbacks;
    sum.surplus += one.surplus;
    sum.flaps += one.flaps;
    for (why, n) in &one.failures {
        *sum.failures.entry(why).or_default() += n;
    }
}
