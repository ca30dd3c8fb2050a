//! What one agent has seen of a service's losses: how long endpoints served while it looked, how often one
//! was lost, how long it took to notice, to replace and to mend.
//!
//! Owns sums and the latest times; decides nothing. It is what `hearth plan --from-live` rests on, so it
//! counts exposure too: a loss means little without the time in which there was none. Begins when the
//! agent starts or first hears of the service.

use std::time::Duration;

use crate::activation::Times;
use crate::time::Time;

/// One service's history.
#[derive(Clone, Debug)]
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

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

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
    fn a_loss_whose_beginning_nobody_saw_counts_without_a_time() {
        let mut h = History::new(Time(0));
        h.lost(None);
        h.lost(Some(S));
        assert_eq!((h.losses(), h.detection().count()), (2, 1));
    }
}
