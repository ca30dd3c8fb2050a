//! Large meshes: how fast one sees itself that starts at once from a single seed, and what that costs the seed.

use std::fmt::Write as _;

use rand::RngExt;
use serde::Serialize;

use super::{At, MS, S, mesh};

/// Everybody starts within this time.
const START: At = S;
/// A mesh that has not seen itself by then never will.
const LIMIT: At = 120 * S;
/// How often it is looked at.
const LOOK: At = 100 * MS;
/// A mesh of 2,000 from one seed sees itself within this time (Rapid, ATC 2018, figure 5: 41 to 48 s,
/// memberlist up to 95 s).
const MOST: f64 = 20.0;

/// What a start of all hosts at once came to.
#[derive(Clone, Debug, Serialize)]
pub struct Boot {
    /// Hosts.
    pub nodes: usize,
    /// Seconds from the first start until a half, 99 % and all of the hosts saw all: `None` if never.
    pub half_s: Option<f64>,
    /// See above.
    pub most_s: Option<f64>,
    /// See above.
    pub all_s: Option<f64>,
    /// Different sizes of the mesh that somebody saw at some time when it was looked at.
    pub sizes_seen: usize,
    /// Bytes that the seed sent until all saw all.
    pub seed_bytes: u64,
    /// The same of the others: in the mean.
    pub mean_bytes: u64,
    /// And of the one that sent most.
    pub most_bytes: u64,
    /// What broke.
    pub violations: Vec<String>,
}

/// Starts `nodes` hosts that know one seed.
pub fn boot(seed: u64, nodes: usize) -> Boot {
    let mut world = mesh::standard(seed, nodes);
    world.seeds = vec![0];
    world.calling = false;
    for host in 0..nodes {
        let at = if host == 0 { 0 } else { world.rng.random_range(0..START) };
        world.start_at(at, host);
    }
    let (mut sizes, mut reached) = (std::collections::BTreeSet::new(), [None; 3]);
    let shares = [nodes.div_ceil(2), (nodes * 99).div_ceil(100), nodes];
    while world.now < LIMIT && reached[2].is_none() && world.checks.violations.is_empty() {
        world.run_until(world.now + LOOK);
        let seen = world.views();
        sizes.extend(seen.iter().map(|(members, _)| *members));
        let whole = seen.iter().filter(|(members, records)| members.min(records) >= &nodes).count();
        for (reached, share) in reached.iter_mut().zip(shares) {
            if whole >= share {
                reached.get_or_insert(world.now as f64 / S as f64);
            }
        }
    }
    let bytes: Vec<u64> = world.hosts.iter().map(|h| h.sent.1).collect();
    let others = &bytes[1..];
    Boot {
        nodes,
        half_s: reached[0],
        most_s: reached[1],
        all_s: reached[2],
        sizes_seen: sizes.len(),
        seed_bytes: bytes[0],
        mean_bytes: others.iter().sum::<u64>() / others.len().max(1) as u64,
        most_bytes: others.iter().copied().max().unwrap_or(0),
        violations: std::mem::take(&mut world.checks.violations),
    }
}

/// Starts of meshes of several sizes.
#[derive(Clone, Debug, Serialize)]
pub struct Boots(pub Vec<Boot>);

impl Boots {
    /// Whether each mesh saw itself in time, and the seed's bytes grow no faster than the mesh, by a quarter.
    pub fn holds(&self) -> bool {
        let linear = self.0.windows(2).all(|w| {
            let growth = w[1].nodes as f64 / w[0].nodes as f64;
            (w[1].seed_bytes as f64) < 1.25 * growth * w[0].seed_bytes as f64
        });
        let quick = |b: &Boot| b.violations.is_empty() && b.all_s.is_some_and(|s| s < MOST);
        linear && self.0.iter().all(quick)
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut out = format!(
            "all start within {} s and know one seed; seconds until a share of them saw all, KiB sent until then\n\
             {:>7} {:>7} {:>7} {:>7} {:>11} {:>10} {:>10} {:>10}\n",
            START / S,
            "nodes",
            "half",
            "99 %",
            "all",
            "sizes seen",
            "seed",
            "mean",
            "most"
        );
        for b in &self.0 {
            let s = |s: Option<f64>| s.map_or("never".into(), |s| format!("{s:.1}"));
            let kib = |bytes: u64| bytes / 1_024;
            let _ = writeln!(
                out,
                "{:>7} {:>7} {:>7} {:>7} {:>11} {:>10} {:>10} {:>10}",
                b.nodes,
                s(b.half_s),
                s(b.most_s),
                s(b.all_s),
                b.sizes_seen,
                kib(b.seed_bytes),
                kib(b.mean_bytes),
                kib(b.most_bytes)
            );
            for violation in &b.violations {
                let _ = writeln!(out, "        VIOLATED {violation}");
            }
        }
        out
    }
}
