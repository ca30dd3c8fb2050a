//! Paths between hosts: how long, how lossy, whether at all. Each direction is a path of its own.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::rngs::StdRng;

use super::{At, MS};

/// One direction of one pair.
#[derive(Clone, Copy, Debug, Default)]
struct Path {
    /// Latency without jitter.
    base: u64,
    /// Faults that block it now.
    blocked: u32,
    since: At,
    until: At,
}

/// All paths, and what applies to all of them.
pub struct Net {
    n: usize,
    paths: Vec<Path>,
    /// Share of datagrams lost, 0 to 1.
    pub loss: f64,
    /// The same of all that comes from or goes to a host, in addition.
    lossy: BTreeMap<usize, f64>,
    /// Largest addition to latency, as a share of it.
    pub jitter: f64,
    /// Share of datagrams that are late by several latencies, and so arrive out of order.
    pub reorder: f64,
    /// Share of datagrams that arrive twice.
    pub duplicate: f64,
}

impl Net {
    /// Paths between `n` hosts; `base` gives the latency of each direction.
    pub fn new(n: usize, mut base: impl FnMut(usize, usize) -> u64) -> Self {
        let mut paths = Vec::with_capacity(n * n);
        for from in 0..n {
            for to in 0..n {
                paths.push(Path { base: base(from, to).max(20), ..Path::default() });
            }
        }
        Self {
            n,
            paths,
            loss: 0.0,
            lossy: BTreeMap::new(),
            jitter: 0.3,
            reorder: 0.002,
            duplicate: 0.002,
        }
    }

    fn path(&self, from: usize, to: usize) -> &Path {
        &self.paths[from * self.n + to]
    }

    /// Blocks or frees one direction. Blocks add up.
    pub fn block(&mut self, from: usize, to: usize, on: bool, now: At) {
        let path = &mut self.paths[from * self.n + to];
        match on {
            true => {
                if path.blocked == 0 {
                    path.since = now;
                }
                path.blocked += 1;
            }
            false => {
                path.blocked = path.blocked.saturating_sub(1);
                path.until = now;
            }
        }
    }

    /// Loses this share of all that comes from or goes to a host; 0 ends it.
    pub fn lose(&mut self, host: usize, share: f64) {
        if share > 0.0 {
            self.lossy.insert(host, share);
        } else {
            self.lossy.remove(&host);
        }
    }

    /// Whether anything is lost anywhere, but for what is blocked.
    pub fn is_lossy(&self) -> bool {
        self.loss > 0.0 || !self.lossy.is_empty()
    }

    fn loss_of(&self, from: usize, to: usize) -> f64 {
        let kept = |host: usize| 1.0 - self.lossy.get(&host).copied().unwrap_or(0.0);
        1.0 - (1.0 - self.loss) * kept(from) * kept(to)
    }

    /// Frees everything.
    pub fn heal(&mut self, now: At) {
        self.loss = 0.0;
        self.lossy.clear();
        for path in &mut self.paths {
            if path.blocked > 0 {
                path.blocked = 0;
                path.until = now;
            }
        }
    }

    /// Since when a direction is blocked.
    pub fn blocked(&self, from: usize, to: usize) -> Option<At> {
        let path = self.path(from, to);
        (path.blocked > 0).then_some(path.since)
    }

    /// When a direction last came free.
    pub fn freed(&self, from: usize, to: usize) -> At {
        self.path(from, to).until
    }

    /// Round trip without jitter.
    pub fn rtt(&self, a: usize, b: usize) -> u64 {
        self.path(a, b).base + self.path(b, a).base
    }

    /// One draw of the latency.
    pub fn latency(&self, from: usize, to: usize, rng: &mut StdRng) -> u64 {
        let base = self.path(from, to).base;
        base + (base as f64 * self.jitter * rng.random::<f64>()) as u64
    }

    /// When datagrams sent now arrive: none, one or two.
    pub fn datagram(&self, from: usize, to: usize, rng: &mut StdRng) -> [Option<u64>; 2] {
        if self.path(from, to).blocked > 0 || rng.random_bool(self.loss_of(from, to)) {
            return [None, None];
        }
        let mut first = self.latency(from, to, rng);
        if rng.random_bool(self.reorder) {
            first += self.path(from, to).base * rng.random_range(1..5);
        }
        let second = rng.random_bool(self.duplicate).then(|| self.latency(from, to, rng) + MS);
        [Some(first), second]
    }

    /// How long a message on a stream takes: lost packets are sent again after a probe time-out each.
    pub fn stream(&self, from: usize, to: usize, rng: &mut StdRng) -> u64 {
        let mut latency = self.latency(from, to, rng);
        let mut pto = self.rtt(from, to) + 5 * MS;
        let loss = self.loss_of(from, to);
        while loss > 0.0 && rng.random_bool(loss) {
            latency += pto;
            pto = (pto * 2).min(500 * MS);
        }
        latency
    }
}
