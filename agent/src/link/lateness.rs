//! Whether this agent itself was kept waiting: stopped, starved, or moved to another machine.
//!
//! Whoever measures others by a clock must know when it was not looking at it. The monitor, and each data thread, says
//! when it means to look next and how late it came; requests that were under way meanwhile prove nothing about
//! anybody, and neither do those that came before the backlog was worked off.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Later than this is no scheduling delay of a busy machine: what waited was not judged fairly.
const STALLED: Duration = Duration::from_millis(100);
/// What piled up during a stall is worked off in about as long as it lasted, up to this.
const BACKLOG: Duration = Duration::from_secs(2);

/// When we meant to look, and until when we have an excuse.
#[derive(Debug)]
pub(crate) struct Lateness {
    /// Moments are microseconds since this one, and 0 is none.
    anchor: Instant,
    due: AtomicU64,
    excused: AtomicU64,
}

impl Default for Lateness {
    fn default() -> Self {
        Self { anchor: Instant::now(), due: AtomicU64::new(0), excused: AtomicU64::new(0) }
    }
}

impl Lateness {
    fn micros(&self, t: Instant) -> u64 {
        u64::try_from(t.saturating_duration_since(self.anchor).as_micros()).unwrap_or(u64::MAX)
    }

    /// Its owner means to look at `next`, or has nothing to look at.
    pub(crate) fn expect(&self, next: Option<Instant>) {
        self.due.store(next.map_or(0, |t| self.micros(t)), Ordering::Relaxed);
    }

    /// It looked at `now`, and meant to when it said so last.
    pub(crate) fn looked(&self, now: Instant) {
        let due = self.due.load(Ordering::Relaxed);
        if due > 0 {
            self.came(now, Duration::from_micros(self.micros(now).saturating_sub(due)));
        }
    }

    /// It looked at `now`, so much later than it meant to.
    pub(crate) fn came(&self, now: Instant, lag: Duration) {
        if lag >= STALLED {
            self.excused.fetch_max(self.micros(now + lag.min(BACKLOG)), Ordering::Relaxed);
        }
    }

    /// Whether what began at `began` and is judged at `now` was delayed by ourselves, for all we know.
    pub(crate) fn excuses(&self, began: Instant, now: Instant) -> bool {
        let due = self.due.load(Ordering::Relaxed);
        let overdue = due > 0 && self.micros(now) > due + STALLED.as_micros() as u64;
        overdue || self.micros(began) < self.excused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn what_was_under_way_during_a_stall_or_came_in_its_backlog_is_excused() {
        let lateness = Lateness::default();
        let t = lateness.anchor + 1000 * MS;
        lateness.came(t, 500 * MS);
        assert!(lateness.excuses(t - 600 * MS, t), "under way");
        assert!(lateness.excuses(t + 400 * MS, t + 900 * MS), "of the backlog");
        assert!(!lateness.excuses(t + 501 * MS, t + 900 * MS));
    }

    #[test]
    fn a_stall_that_nobody_has_noticed_yet_excuses_too() {
        let lateness = Lateness::default();
        let t = lateness.anchor + 1000 * MS;
        lateness.expect(Some(t));
        assert!(!lateness.excuses(t, t + 90 * MS));
        assert!(lateness.excuses(t, t + 110 * MS));
        lateness.expect(None);
        assert!(!lateness.excuses(t, t + 10_000 * MS), "nothing to look at is no stall");
    }

    #[test]
    fn a_scheduling_delay_is_no_excuse_and_a_long_one_ends() {
        let lateness = Lateness::default();
        let t = lateness.anchor + 1000 * MS;
        lateness.came(t, 50 * MS);
        assert!(!lateness.excuses(t - MS, t));
        lateness.came(t, 3600 * 1000 * MS);
        assert!(!lateness.excuses(t + 2001 * MS, t + 3000 * MS));
    }
}
