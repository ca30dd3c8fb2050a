//! Paths between hosts: how long, how lossy, whether at all. Each direction is a path of its own.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::rngs::StdRng;

use super::{At, MS};

/// When one direction of one pair was last blocked and freed.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    since: At,
    until: At,
}

/// All paths, and what applies to all of them.
pub struct Net {
    n: usize,
    /// By path: latency without jitter. What is asked with each frame lies close together.
    base: Vec<u32>,
    /// By path: faults that block it now.
    blocked: Vec<u8>,
    /// Of the paths that ever were.
    blocks: BTreeMap<usize, Block>,
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
        let pairs = (0..n).flat_map(|from| (0..n).map(move |to| (from, to)));
        let latency = |(from, to)| u32::try_from(base(from, to).max(20)).unwrap_or(u32::MAX);
        Self {
            n,
            base: pairs.map(latency).collect(),
            blocked: vec![0; n * n],
            blocks: BTreeMap::new(),
            loss: 0.0,
            lossy: BTreeMap::new(),
            jitter: 0.3,
            reorder: 0.002,
            duplicate: 0.002,
        }
    }

    fn path(&self, from: usize, to: usize) -> usize {
        from * self.n + to
    }

    fn base(&self, from: usize, to: usize) -> u64 {
        u64::from(self.base[self.path(from, to)])
    }

    /// Blocks or frees one direction. Blocks add up.
    pub fn block(&mut self, from: usize, to: usize, on: bool, now: At) {
        let path = self.path(from, to);
        let block = self.blocks.entry(path).or_default();
        let faults = &mut self.blocked[path];
        match on {
            true => {
                if *faults == 0 {
                    block.since = now;
                }
                *faults += 1;
            }
            false => {
                *faults = faults.saturating_sub(1);
                block.until = now;
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
        for (path, block) in &mut self.blocks {
            if std::mem::take(&mut self.blocked[*path]) > 0 {
                block.until = now;
            }
        }
    }

    /// Since when a direction is blocked.
    pub fn blocked(&self, from: usize, to: usize) -> Option<At> {
        let path = self.path(from, to);
        (self.blocked[path] > 0).then(|| self.blocks.get(&path).map_or(0, |block| block.since))
    }

    /// When a direction last came free.
    pub fn freed(&self, from: usize, to: usize) -> At {
        self.blocks.get(&self.path(from, to)).map_or(0, |block| block.until)
    }

    /// Round trip without jitter.
    pub fn rtt(&self, a: usize, b: usize) -> u64 {
        self.base(a, b) + self.base(b, a)
    }

    /// One draw of the latency.
    pub fn latency(&self, from: usize, to: usize, rng: &mut StdRng) -> u64 {
        let base = self.base(from, to);
        base + (base as f64 * self.jitter * rng.random::<f64>()) as u64
    }

    /// When datagrams sent now arrive: none, one or two.
    pub fn datagram(&self, from: usize, to: usize, rng: &mut StdRng) -> [Option<u64>; 2] {
        if self.blocked[self.path(from, to)] > 0 || rng.random_bool(self.loss_of(from, to)) {
            return [None, None];
        }
        let mut first = self.latency(from, to, rng);
        if rng.random_bool(self.reorder) {
            first += self.base(from, to) * rng.random_range(1..5);
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
