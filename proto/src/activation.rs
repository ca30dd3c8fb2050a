//! How long the activations of one endpoint took, as its owner timed them: a distribution, not a mean.
//!
//! Owns the last [`KEPT`] times and two counters; decides nothing. Since the agent started: a restart
//! forgets, for hosts, hooks and applications may have changed with it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::advert::traits::ActivationTimes;

/// Times kept: enough for a 95th percentile that a single slow one does not make.
pub const KEPT: usize = 128;

/// The activations of one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activations {
    attempts: u32,
    failed: u32,
    times: Times,
}

impl Activations {
    /// One ended in serving.
    pub fn served(&mut self, took: Duration) {
        self.attempts = self.attempts.saturating_add(1);
        self.times.add(took);
    }

    /// One did not.
    pub fn failed(&mut self) {
        self.attempts = self.attempts.saturating_add(1);
        self.failed = self.failed.saturating_add(1);
    }

    /// What is said of them.
    pub fn summary(&self) -> ActivationTimes {
        let ms = |d: Option<Duration>| {
            d.map_or(0, |d| u32::try_from(d.as_micros().div_ceil(1_000)).unwrap_or(u32::MAX))
        };
        ActivationTimes {
            attempts: self.attempts,
            failed: self.failed,
            mean_ms: ms(self.times.mean()),
            p50_ms: ms(self.times.quantile(0.5)),
            p95_ms: ms(self.times.quantile(0.95)),
        }
    }
}

/// The latest [`KEPT`] times of something, and how many there were in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times {
    count: u64,
    latest: VecDeque<Duration>,
}

impl Times {
    /// Takes one in; the oldest goes.
    pub fn add(&mut self, took: Duration) {
        self.count += 1;
        if self.latest.len() == KEPT {
            self.latest.pop_front();
        }
        self.latest.push_back(took);
    }

    /// How many there were in all.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Of those kept, the mean.
    pub fn mean(&self) -> Option<Duration> {
        let n = u32::try_from(self.latest.len()).ok().filter(|n| *n > 0)?;
        Some(self.latest.iter().sum::<Duration>() / n)
    }

    /// Of those kept, the least that is no smaller than this share of them.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.latest.iter().copied().collect();
        sorted.sort_unstable();
        // At most the number of those kept.
        let rank = (share.clamp(0.0, 1.0) * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn activations_are_told_by_their_quantiles_and_failures_have_no_time() {
        let mut a = Activations::default();
        assert_eq!(a.summary(), ActivationTimes::default());
        for i in 1..=20 {
            a.served(i * 10 * MS);
        }
        a.failed();
        let told = a.summary();
        assert_eq!((told.attempts, told.failed, told.succeeded()), (21, 1, 20));
        assert_eq!((told.mean_ms, told.p50_ms, told.p95_ms), (105, 100, 190));
    }

    #[test]
    fn only_the_latest_times_count_and_the_number_of_all_is_kept() {
        let mut times = Times::default();
        (0..KEPT).for_each(|_| times.add(1_000 * MS));
        (0..KEPT).for_each(|_| times.add(MS));
        assert_eq!(times.quantile(1.0), Some(MS));
        assert_eq!((times.count(), times.mean()), (2 * KEPT as u64, Some(MS)));
        assert_eq!(Times::default().quantile(0.5), None);
    }
}
