//! Latencies of a window, by nearest rank over all of them (no histogram, no rounding).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half were faster.
    pub p50: f64,
    /// 99 % were faster.
    pub p99: f64,
    /// 99.9 % were faster.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

impl Latency {
    /// Of these, in any order.
    #[must_use]
    pub fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        // In range: a share of the length.
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        let rank = |share: f64| {
            let rank = (all.len() as f64 * share).ceil() as usize;
            let found = all.get(rank.saturating_sub(1)).copied().unwrap_or_default();
            found.as_secs_f64() * 1e3
        };
        Self { p50: rank(0.5), p99: rank(0.99), p999: rank(0.999), max: rank(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Latency};

    #[test]
    fn ranks_are_of_the_sorted_list() {
        let all = (1..=1000).rev().map(Duration::from_millis).collect();
        let latency = Latency::of(all);
        assert_eq!((latency.p50, latency.p99), (500.0, 990.0));
        assert_eq!((latency.p999, latency.max), (999.0, 1000.0));
        assert_eq!(Latency::of(Vec::new()), Latency::default());
    }
}
