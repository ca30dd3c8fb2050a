//! How long to wait before the next dial: doubling from 100 ms, jittered, capped. Pure.

use std::time::Duration;

/// First wait.
const FIRST: Duration = Duration::from_millis(100);
/// Longest wait for a peer that nobody watches.
const CAP: Duration = Duration::from_secs(2);
/// Longest wait for a watched peer: with a dial that repeats its first packet after 300 ms it is
/// reached within about two seconds after its path heals.
const CAP_WATCHED: Duration = Duration::from_secs(1);

/// The failures in a row of one peer's dials.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure. `random` spreads it over half to all of its length, so that a
    /// fleet does not dial in step.
    pub(crate) fn failed(&mut self, random: u64, watched: bool) -> Duration {
        let cap = if watched { CAP_WATCHED } else { CAP };
        let full = FIRST.saturating_mul(1 << self.failures.min(10)).min(cap);
        self.failures = self.failures.saturating_add(1);
        let half = full / 2;
        half + half.mul_f64(random as f64 / u64::MAX as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_never_fall_below_half() {
        let mut b = Backoff::default();
        let ms: Vec<u128> = (0..7).map(|_| b.failed(u64::MAX, false).as_millis()).collect();
        assert_eq!(ms, [100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(b.failed(0, false).as_millis(), 1000);
        assert_eq!(b.failed(u64::MAX, true).as_millis(), 1000);
    }
}
