//! Attempts that another one got ahead of: what is held against those that let a request wait, and how they
//! may show afterwards that they only were late.
//!
//! A request that is over has one answer and up to a few attempts that still run. Whoever of them let it wait far
//! beyond the usual has failed as far as the core is concerned: enough of those in a row eject an endpoint. But
//! an endpoint whose answers are cut off whenever a hedge is quicker could never show that it lives. So those
//! attempts go on for a moment in a task of their own, which says so when an answer comes.
//!
//! The task owns the attempts and what they hold: streams, the place among the endpoint's requests, a body that is
//! kept whole. It ends with the last of them or after [`HEAR_OUT`]; nothing waits for it, and when it is aborted
//! with its runtime, the attempts are as cut off as they were before. At most `MAX_HEARD` requests are heard
//! out at once; beyond, attempts are cut off and counted (`hearth_dropped_total{queue="overtaken"}`).

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::time::timeout;

use super::outcome::Verdict;
use super::{Race, Standing};

/// For so long an attempt that was overtaken may still answer: longer than TCP's least time-out, after which
/// what was only lost on its way is there.
const HEAR_OUT: Duration = Duration::from_millis(500);

impl Race<'_> {
    /// The race has an answer. Whoever still runs is heard out for a moment, in a task of its own: an endpoint
    /// that is overtaken at each request could else never show that it lives.
    pub(super) fn hear_out(&mut self) {
        let overdue = self.blame_overdue();
        self.request.decided.store(true, Ordering::Relaxed);
        // A body that comes from the client may be asked for by nobody any more.
        if !overdue || !self.request.supply.is_kept() {
            return;
        }
        let Ok(place) = self.inner.heard_out.clone().try_acquire_owned() else {
            self.inner.metrics.drop("overtaken");
            return;
        };
        let mut attempts = std::mem::take(&mut self.attempts);
        let inner = self.inner.clone();
        let tries = std::mem::take(&mut self.tries);
        tokio::spawn(timeout(HEAR_OUT, async move {
            let _place = place;
            while let Some((n, end)) = attempts.next().await {
                let Ok(answer) = end else { continue };
                let t = &tries[n];
                if matches!(Verdict::of(&answer), Verdict::Well | Verdict::Troubled) {
                    inner.succeeded(&t.target.id, &t.load, answer.since.elapsed());
                }
            }
        }));
    }

    /// Tells on whoever let a request wait far beyond the usual and has not answered yet. Returns whether there is
    /// somebody.
    fn blame_overdue(&mut self) -> bool {
        let mut overdue = false;
        for t in &mut self.tries {
            // A silent link is the node's affair, and the links' to tell: not held against the endpoint.
            if matches!(t.standing, Standing::Running)
                && !t.silent
                && self.inner.blame_if_overdue((&t.target.id, &t.load), &self.learnt, t.started)
            {
                t.standing = Standing::Ended { at: Instant::now() };
                overdue = true;
            }
        }
        overdue
    }
}

impl Drop for Race<'_> {
    /// The time was over, or the client left; of a race that was won everybody was told on.
    fn drop(&mut self) {
        self.blame_overdue();
    }
}
