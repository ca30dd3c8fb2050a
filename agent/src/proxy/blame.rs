//! What requests teach of endpoints, and what is held against nobody since it was our own fault; clients that leave
//! before their answer.
//!
//! Tells the core by [`PathReport`]s and never waits. What fails while this agent was itself stopped or starved
//! proves nothing about anybody: that is counted (`hearth_excused_total`) and goes no further.

use std::time::{Duration, Instant};

use hearth_proto::evidence::Outcome;
use hearth_proto::ids::{EndpointId, ServiceName};

use super::Inner;
use super::learnt::Learnt;
use super::load::Load;
use crate::driver::PathReport;

impl Inner {
    /// Holds a failure against an endpoint and tells the core, unless it is our own fault: what began at
    /// `began` and was kept waiting by ourselves, stopped or starved, or what others gave up on us meanwhile.
    pub(crate) fn blame(&self, endpoint: &EndpointId, outcome: Outcome, began: Instant) {
        let now = Instant::now();
        // The thread that hears of silence, or this one.
        let by_us = || self.mesh.links.excuses(began, now) || self.pulses.excuses(began, now);
        if matches!(outcome, Outcome::TimedOut | Outcome::Broken) && by_us() {
            self.metrics.excused.inc();
            return;
        }
        self.loads.of(endpoint).failed();
        self.report(endpoint, outcome);
    }

    /// Holds it against an endpoint if it has not answered what was sent to it at `began`, and lets it wait far
    /// beyond the usual. Returns whether it does.
    pub(crate) fn blame_if_overdue(
        &self,
        (endpoint, load): (&EndpointId, &Load),
        learnt: &Learnt,
        began: Instant,
    ) -> bool {
        let now = Instant::now();
        let waited = now.saturating_duration_since(began);
        if waited < learnt.latencies.hedge_delay(now) {
            return false;
        }
        load.observe(now, waited);
        self.blame(endpoint, Outcome::TimedOut, began);
        true
    }

    pub(crate) fn report(&self, endpoint: &EndpointId, outcome: Outcome) {
        self.tell(PathReport::Outcome { endpoint: endpoint.clone(), outcome });
    }

    /// An attempt succeeded: news only after a failure, or where somebody watches the service.
    pub(crate) fn succeeded(&self, endpoint: &EndpointId, load: &Load, latency: Duration) {
        if load.recovered() || self.route(&endpoint.service).is_some_and(|r| r.watched) {
            self.report(endpoint, Outcome::Answered { latency });
        }
    }

    /// Counts a request whose client left before its answer, by the name it counts under.
    pub(crate) fn count_left(&self, counted: &ServiceName, started: Instant) {
        self.metrics.request(counted, "left", started.elapsed().as_secs_f64());
    }
}

/// Counts a request as left by its client if it is dropped before it is over: whoever serves a client drops what
/// it does for it when the client leaves.
pub(crate) struct Awaited<'a> {
    inner: &'a Inner,
    counted: &'a ServiceName,
    started: Instant,
    over: bool,
}

impl<'a> Awaited<'a> {
    pub(crate) fn new(inner: &'a Inner, counted: &'a ServiceName, started: Instant) -> Self {
        Self { inner, counted, started, over: false }
    }

    /// It came to something, which others count.
    pub(crate) fn over(mut self) {
        self.over = true;
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.inner.count_left(self.counted, self.started);
        }
    }
}
