//! How much more may be sent than was asked for: a bucket of tokens. Pure but for the lock.
//!
//! Each request puts a share of a token in, time puts some in, each extra attempt takes one out. A
//! retry storm is thereby bounded by what the clients send, and a quiet service still gets its retries.

use std::sync::Mutex;
use std::time::Instant;

use crate::link::lock;

/// What a budget grants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Per request.
    pub(crate) share: f64,
    /// Per second.
    pub(crate) per_second: f64,
    /// At most saved up, and there from the start.
    pub(crate) burst: f64,
}

/// Retries: a fifth of the requests, as Finagle and linkerd have it, and ten a second. The burst covers
/// what is under way to a host at 1,000 requests per second when it falls silent, several times over.
pub(crate) const RETRIES: Terms = Terms { share: 0.2, per_second: 10.0, burst: 200.0 };
/// Hedges: a tenth of the requests.
pub(crate) const HEDGES: Terms = Terms { share: 0.1, per_second: 1.0, burst: 20.0 };

/// A budget.
#[derive(Debug)]
pub(crate) struct Budget {
    terms: Terms,
    state: Mutex<(f64, Instant)>,
}

impl Budget {
    pub(crate) fn new(terms: Terms, now: Instant) -> Self {
        Self { terms, state: Mutex::new((terms.burst, now)) }
    }

    /// A request came.
    pub(crate) fn deposit(&self, now: Instant) {
        let mut state = lock(&self.state);
        self.age(&mut state, now);
        state.0 = (state.0 + self.terms.share).min(self.terms.burst);
    }

    /// Whether one more attempt is granted.
    pub(crate) fn withdraw(&self, now: Instant) -> bool {
        let mut state = lock(&self.state);
        self.age(&mut state, now);
        let granted = state.0 >= 1.0;
        if granted {
            state.0 -= 1.0;
        }
        granted
    }

    fn age(&self, state: &mut (f64, Instant), now: Instant) {
        let passed = now.saturating_duration_since(state.1).as_secs_f64();
        state.0 = (state.0 + passed * self.terms.per_second).min(self.terms.burst);
        state.1 = state.1.max(now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TERMS: Terms = Terms { share: 0.2, per_second: 10.0, burst: 5.0 };

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
        (0..5).for_each(|_| b.deposit(t));
        assert!(b.withdraw(t));
        assert!(!b.withdraw(t));
        assert!(b.withdraw(t + Duration::from_millis(100)));
        assert_eq!((0..99).filter(|_| b.withdraw(t + Duration::from_secs(60))).count(), 5);
    }
}
