//! Randomness for spreading work in time: many agents must not do the same thing at the same moment.
//!
//! Nothing secret or decisive comes from here.

use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

/// A share from 0 to 1. A half where the system gives no randomness.
pub fn share() -> f64 {
    let mut bytes = [0; 4];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

/// `d`, a tenth more or less.
pub fn about(d: Duration) -> Duration {
    d.mul_f64(0.9 + 0.2 * share())
}

/// Waiting times that double from `first` to `longest`, each cut by up to a half.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    next: Duration,
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// Starts at `first`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first, first, longest }
    }

    /// How long to wait before the next attempt.
    pub fn wait(&mut self) -> Duration {
        let wait = self.next.mul_f64(0.5 + 0.5 * share());
        self.next = (self.next * 2).min(self.longest);
        wait
    }

    /// The attempt succeeded: the next failure waits `first` again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_bound_and_starts_over() {
        let s = Duration::from_secs;
        let mut backoff = Backoff::new(s(1), s(5));
        for bound in [1, 2, 4, 5, 5] {
            let wait = backoff.wait();
            assert!(wait <= s(bound) && wait >= s(bound) / 2, "{wait:?} of {bound}");
        }
        backoff.reset();
        assert!(backoff.wait() <= s(1));
    }

    #[test]
    fn about_is_a_tenth_more_or_less() {
        for _ in 0..100 {
            let d = about(Duration::from_secs(10));
            assert!((9.0..=11.0).contains(&d.as_secs_f64()), "{d:?}");
        }
    }
}
