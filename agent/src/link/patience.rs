//! How much longer than usual a silence must last, by how often we were wrong lately. Pure.
//!
//! A host that is short of CPU, or sits behind a network that stalls, hears everybody late, whatever its clock
//! says. Each silence that ends as soon as it was declared was nobody's death: it makes this agent more patient
//! with everybody, and calm makes it less so again. (Lifeguard's local health multiplier, Dadgar, Phillips and
//! Currey 2017, section IV-A, on the scale of links instead of probes.) Of what fails meanwhile this agent
//! learns later, from others in time.

use std::time::{Duration, Instant};

/// Lifeguard's bound `S`.
const MOST: u32 = 8;
/// Without a false alarm for so long, one is forgotten.
const CALM: Duration = Duration::from_secs(10);

/// What this agent learnt of its own alarms.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Patience {
    score: u32,
    since: Option<Instant>,
}

impl Patience {
    /// A silence ended right after it was declared.
    pub(crate) fn was_wrong(&mut self, now: Instant) {
        self.forget(now);
        self.score = (self.score + 1).min(MOST);
        self.since = Some(now);
    }

    /// By how much thresholds are stretched: 1 in calm weather, half as much again for each false alarm, at
    /// most 5.
    pub(crate) fn factor(&mut self, now: Instant) -> f64 {
        self.forget(now);
        1.0 + f64::from(self.score) / 2.0
    }

    fn forget(&mut self, now: Instant) {
        while self.score > 0
            && let Some(since) = self.since.map(|t| t + CALM).filter(|t| *t <= now)
        {
            self.score -= 1;
            self.since = Some(since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_false_alarm_stretches_the_threshold_up_to_a_bound_and_calm_shrinks_it() {
        let (mut patience, t) = (Patience::default(), Instant::now());
        let factors: Vec<f64> = (0..10)
            .map(|_| {
                patience.was_wrong(t);
                patience.factor(t)
            })
            .collect();
        assert_eq!(factors, [1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.0, 5.0]);
        assert!((patience.factor(t + 3 * CALM) - 3.5).abs() < 1e-9);
        assert!((patience.factor(t + 8 * CALM) - 1.0).abs() < 1e-9);
        patience.was_wrong(t + 1000 * CALM);
        assert!(
            (patience.factor(t + 1000 * CALM) - 1.5).abs() < 1e-9,
            "what is long ago is forgotten"
        );
    }
}
