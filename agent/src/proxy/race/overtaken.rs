//! Attempts that another one got ahead of: what is held against those that let a request wait, and how they
//! may show afterwards that they only were late.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use hearth_proto::evidence::Outcome;
use tokio::time::timeout;

use super::outcome::Verdict;
use super::{Race, Standing};

/// For so long an attempt that was overtaken may still answer: longer than TCP's least time-out, after which
/// what was only lost on its way is there.
const HEAR_OUT: Duration = Duration::from_millis(500);

impl Race<'_> {
    /// The race has an answer. Whoever still runs is heard out for a moment, in a task of its own: an endpoint
    /// that is overtaken at each request could else never show that it lives.
    pub(super) fn won(&mut self) {
        self.blame_overdue();
        self.request.decided.store(true, Ordering::Relaxed);
        let mut attempts = std::mem::take(&mut self.attempts);
        // A body that comes from the client may be asked for by nobody any more.
        if attempts.is_empty() || !self.request.supply.is_kept() {
            return;
        }
        let (inner, service) = (self.inner.clone(), self.service.clone());
        let tries = std::mem::take(&mut self.tries);
        tokio::spawn(timeout(HEAR_OUT, async move {
            while let Some((n, end)) = attempts.next().await {
                let Ok(answer) = end else { continue };
                let t = &tries[n];
                let watched = inner.route(&service).is_some_and(|r| r.watched);
                let lives = matches!(Verdict::of(&answer), Verdict::Well | Verdict::Troubled);
                if lives && (t.load.recovered() || watched) {
                    let latency = answer.since.elapsed();
                    inner.report(&t.target.id, Outcome::Answered { latency });
                }
            }
        }));
    }

    /// Tells on whoever let a request wait far beyond the usual and has not answered yet.
    fn blame_overdue(&mut self) {
        let now = Instant::now();
        for n in 0..self.tries.len() {
            let t = &mut self.tries[n];
            let waited = now.saturating_duration_since(t.started);
            // A silent link is the node's affair, and the links' to tell: not held against the endpoint.
            if matches!(t.standing, Standing::Running)
                && !t.silent
                && waited >= self.learnt.latencies.hedge_delay(now)
            {
                t.standing = Standing::Ended { at: now };
                t.load.observe(now, waited);
                self.report(n, Outcome::TimedOut);
            }
        }
    }
}

impl Drop for Race<'_> {
    /// The time was over, or the client left.
    fn drop(&mut self) {
        self.blame_overdue();
    }
}
