//! How much more may be sent than was asked for: a bucket of tokens. No lock, no clock.
//!
//! Each request puts a share of a token in, time puts some in, each extra attempt takes one out. A
//! retry storm is thereby bounded by what the clients send, and a quiet service still gets its retries.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

/// Tokens are counted in thousandths.
const TOKEN: i64 = 1000;

/// What a budget grants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Per thousand requests.
    pub(crate) per_mille: i64,
    /// Per second.
    pub(crate) per_second: i64,
    /// At most saved up, and there from the start.
    pub(crate) burst: i64,
}

/// Repetitions of what may have been executed: a tenth of the requests, so that an application that fails
/// half of them is asked not a fifth more than its clients ask. The burst covers what was under way at
/// an application that breaks off now and then.
pub(crate) const RETRIES: Terms = Terms { per_mille: 100, per_second: 1, burst: 50 };
/// Requests that reached no application and go elsewhere: as many as there are requests. They are no load
/// for any application; the bound is for our own work when nobody takes them.
pub(crate) const MOVES: Terms = Terms { per_mille: 1000, per_second: 50, burst: 1000 };
/// Hedges: four of a hundred requests, so that with the burst they stay below five.
pub(crate) const HEDGES: Terms = Terms { per_mille: 40, per_second: 0, burst: 10 };

/// A budget.
#[derive(Debug)]
pub(crate) struct Budget {
    terms: Terms,
    tokens: AtomicI64,
    origin: Instant,
    /// Up to when time has paid, in milliseconds since `origin`.
    paid: AtomicU64,
}

impl Budget {
    pub(crate) fn new(terms: Terms, now: Instant) -> Self {
        let tokens = AtomicI64::new(terms.burst * TOKEN);
        Self { terms, tokens, origin: now, paid: AtomicU64::new(0) }
    }

    /// A request came.
    pub(crate) fn deposit(&self) {
        self.put(self.terms.per_mille);
    }

    /// Whether one more attempt is granted.
    pub(crate) fn withdraw(&self, now: Instant) -> bool {
        self.age(now);
        let take = |tokens: i64| (tokens >= TOKEN).then_some(tokens - TOKEN);
        self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn put(&self, thousandths: i64) {
        let most = self.terms.burst * TOKEN;
        // Full most of the time, and then nothing is written.
        if thousandths > 0 && self.tokens.load(Ordering::Relaxed) < most {
            let add = |tokens: i64| Some(tokens.saturating_add(thousandths).min(most));
            let _ = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        }
    }

    fn age(&self, now: Instant) {
        let passed = now.saturating_duration_since(self.origin).as_millis();
        let now = u64::try_from(passed).unwrap_or(u64::MAX);
        let before = self.paid.fetch_max(now, Ordering::Relaxed);
        let passed = i64::try_from(now.saturating_sub(before)).unwrap_or(i64::MAX);
        // A token a second is a thousandth a millisecond.
        self.put(passed.saturating_mul(self.terms.per_second));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TERMS: Terms = Terms { per_mille: 200, per_second: 10, burst: 5 };

    #[test]
    fn the_burst_is_there_and_ends() {
        let t = Instant::now();
        let b = Budget::new(TERMS, t);
        assert_eq!((0..10).filter(|_| b.withdraw(t)).count(), 5);
    }

    #[test]
    fn five_requests_pay_for_one_retry_and_time_pays_too() {
        let t = Instant::now();
        let b = Budget::new(TERMS, t);
        while b.withdraw(t) {}
        (0..5).for_each(|_| b.deposit());
        assert!(b.withdraw(t));
        assert!(!b.withdraw(t));
        assert!(b.withdraw(t + Duration::from_millis(100)));
        assert_eq!((0..99).filter(|_| b.withdraw(t + Duration::from_secs(60))).count(), 5);
    }

    #[test]
    fn a_storm_is_repeated_by_a_tenth_and_hedges_stay_below_five_of_a_hundred() {
        let t = Instant::now();
        for (terms, most) in [(RETRIES, 1200), (HEDGES, 1050)] {
            let b = Budget::new(terms, t);
            let sent: u64 = (0..1000)
                .map(|i| {
                    b.deposit();
                    1 + u64::from(b.withdraw(t + Duration::from_millis(5 * i)))
                })
                .sum();
            assert!(sent <= most, "{terms:?} made {sent} of 1000");
        }
    }
}
