//! How long to wait before the next dial: doubling from 100 ms, jittered, capped; and a moment before the
//! first. Pure.

use std::time::Duration;

/// First wait.
const FIRST: Duration = Duration::from_millis(100);
/// Longest wait for a peer that nobody watches.
const CAP: Duration = Duration::from_secs(2);
/// Longest wait for a watched peer: with a dial that repeats its first packet after 300 ms it is
/// reached within about two seconds after its path heals.
const CAP_WATCHED: Duration = Duration::from_secs(1);

/// A peer that ends its links, or whose host is lost, is gone for all at once: the first dials of a fleet are
/// spread over this. Short, since requests may wait for the link.
const SPREAD: Duration = Duration::from_millis(50);

/// The wait before a link that had worked is dialled anew.
pub(crate) fn spread(random: u64) -> Duration {
    SPREAD.mul_f64(random as f64 / u64::MAX as f64)
}

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
    fn a_fleet_that_lost_a_peer_does_not_dial_it_in_step() {
        // Evenly drawn, as by a thousand agents.
        let draws = (0..1000_u64).map(|n| n * (u64::MAX / 999));
        let mut at: Vec<Duration> = Vec::new();
        for draw in draws {
            let mut backoff = Backoff::default();
            let mut now = spread(draw);
            at.push(now);
            for round in 1..4_u64 {
                now += backoff.failed(draw.rotate_left(round as u32 * 7), true);
                at.push(now);
            }
        }
        at.sort();
        let window = Duration::from_millis(10);
        let within =
            |from: &Duration| at.iter().filter(|t| *t >= from && **t < *from + window).count();
        let most = at.iter().map(within).max().unwrap();
        // Of 4000 dials within a second, no 10 ms see more than a fifth of the agents' first.
        assert!(most <= 205, "{most} within 10 ms");
    }

    #[test]
    fn waits_double_up_to_the_cap_and_never_fall_below_half() {
        let mut b = Backoff::default();
        let ms: Vec<u128> = (0..7).map(|_| b.failed(u64::MAX, false).as_millis()).collect();
        assert_eq!(ms, [100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(b.failed(0, false).as_millis(), 1000);
        assert_eq!(b.failed(u64::MAX, true).as_millis(), 1000);
    }
}
