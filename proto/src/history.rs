//! What one agent has seen of a service's losses: how long endpoints served while it looked, how often one
//! was lost, how long it took to notice, to replace and to mend.
//!
//! Owns sums and the latest times; decides nothing. It is what `hearth plan --from-live` rests on, so it
//! counts exposure too: a loss means little without the time in which there was none. Begins when the
//! agent starts or first hears of the service.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Time;

/// Times kept: enough for a 95th percentile that a single slow one does not make.
pub const KEPT: usize = 128;

/// One service's history.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct History {
    since: Time,
    looked: Time,
    /// How many were ready at the last look.
    ready: usize,
    served: Duration,
    losses: u64,
    /// From the last answer to the evidence, where a link told it.
    detection: Times,
    /// From the evidence to the replacement serving.
    takeover: Times,
    /// From the evidence to the lost one being ready again.
    repair: Times,
}

impl History {
    /// Nothing was seen before `now`.
    pub fn new(now: Time) -> Self {
        Self {
            since: now,
            looked: now,
            ready: 0,
            served: Duration::ZERO,
            losses: 0,
            detection: Times::default(),
            takeover: Times::default(),
            repair: Times::default(),
        }
    }

    /// So many are ready from now on.
    pub fn look(&mut self, now: Time, ready: usize) {
        self.served = self.served(now);
        self.looked = now;
        self.ready = ready;
    }

    /// One that was ready is lost; `detection`: how long that went unnoticed, where it is known.
    pub fn lost(&mut self, detection: Option<Duration>) {
        self.losses += 1;
        if let Some(detection) = detection {
            self.detection.add(detection);
        }
    }

    /// A lost one's replacement serves.
    pub fn replaced(&mut self, took: Duration) {
        self.takeover.add(took);
    }

    /// A lost one is ready again.
    pub fn mended(&mut self, took: Duration) {
        self.repair.add(took);
    }

    /// One that seemed to be ready again after so long is not.
    pub fn not_mended(&mut self, took: Duration) {
        self.repair.take_back(took);
    }

    /// Time looked at.
    pub fn watched(&self, now: Time) -> Duration {
        now.since(self.since)
    }

    /// Time ready, summed over endpoints.
    pub fn served(&self, now: Time) -> Duration {
        let ready = u32::try_from(self.ready).unwrap_or(u32::MAX);
        self.served.saturating_add(now.since(self.looked).saturating_mul(ready))
    }

    /// How many were lost.
    pub fn losses(&self) -> u64 {
        self.losses
    }

    /// From the last answer to the evidence.
    pub fn detection(&self) -> &Times {
        &self.detection
    }

    /// From the evidence to the replacement serving.
    pub fn takeover(&self) -> &Times {
        &self.takeover
    }

    /// From the evidence to the lost one being ready again.
    pub fn repair(&self) -> &Times {
        &self.repair
    }
}

/// The latest [`KEPT`] times of something, and how many there were in all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

    /// Takes the last one that was as long out again.
    pub fn take_back(&mut self, took: Duration) {
        if let Some(at) = self.latest.iter().rposition(|t| *t == took) {
            self.latest.remove(at);
            self.count -= 1;
        }
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

    const S: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn time_counts_for_each_endpoint_that_was_ready_in_it() {
        let begin = Time(5_000_000);
        let mut h = History::new(begin);
        h.look(begin, 3);
        h.look(begin + 10 * S, 2);
        assert_eq!(h.served(begin + 14 * S), 38 * S);
        assert_eq!(h.watched(begin + 14 * S), 14 * S);
    }

    #[test]
    fn what_seemed_mended_is_taken_back_once() {
        let mut h = History::new(Time(0));
        [S, MS, S].into_iter().for_each(|took| h.mended(took));
        h.not_mended(S);
        h.not_mended(2 * S);
        assert_eq!((h.repair().count(), h.repair().mean()), (2, Some((S + MS) / 2)));
    }

    #[test]
    fn a_loss_whose_beginning_nobody_saw_counts_without_a_time() {
        let mut h = History::new(Time(0));
        h.lost(None);
        h.lost(Some(S));
        assert_eq!((h.losses(), h.detection().count()), (2, 1));
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
