//! Flap damping: an endpoint that is lost and returns again and again stops counting until it has been quiet.
//!
//! As for routes in BGP (RFC 2439): each return after a loss adds to a penalty that decays by half in a
//! half-life; above one threshold the endpoint is *suppressed*, below a lower one it counts again. Suppressed,
//! it is not counted among those that serve, so that its replacement stays up; requests go to it only where
//! those that serve steadily are too few.
//!
//! Each agent judges by what it saw itself, as it does for call-ups: those with the same table and evidence
//! judge alike, and where they differ one endpoint more is up for as long as a suppression lasts. An outage
//! that was this agent's own is no flap of others. Pure: moments come in, nothing is kept but the penalty.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Time;

/// What one flap adds.
pub const FLAP: f64 = 1_000.0;
/// From this on an endpoint is suppressed, as routers do: never by two flaps, by the third of those that come
/// within seven tenths of a half-life of each other.
pub const SUPPRESS: f64 = 2_000.0;
/// Below this it counts again.
pub const REUSE: f64 = 750.0;
/// No penalty is higher: three half-lives of quiet end any suppression.
pub const MOST: f64 = 6_000.0;

/// One endpoint's history, as one agent saw it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Damping {
    presence: Presence,
    penalty: f64,
    at: Time,
    /// Suppressed until then.
    until: Time,
}

/// Whether the endpoint serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Presence {
    /// It is not known to have served.
    New,
    Up,
    /// It is away by plan: it drained, stands by, or left.
    Away,
    Lost {
        /// This agent was itself cut off meanwhile.
        ours: bool,
    },
}

/// What an endpoint does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It serves.
    Up,
    /// It does not, by plan.
    Away,
    /// It does not, by a loss.
    Lost,
}

impl Default for Damping {
    fn default() -> Self {
        Self { presence: Presence::New, penalty: 0.0, at: Time(0), until: Time(0) }
    }
}

impl Damping {
    /// Takes in what the endpoint does. Without a half-life nothing is damped.
    pub fn see(&mut self, seen: Seen, half_life: Option<Duration>, now: Time) {
        let flapped = self.presence == Presence::Lost { ours: false } && seen == Seen::Up;
        match half_life {
            None => (self.penalty, self.until) = (0.0, now),
            Some(half_life) if flapped => self.flap(half_life, now),
            Some(_) => {}
        }
        self.presence = match (seen, self.presence) {
            (Seen::Up, _) => Presence::Up,
            (Seen::Away, Presence::New) => Presence::New,
            (Seen::Away, _) => Presence::Away,
            (Seen::Lost, Presence::Up) => Presence::Lost { ours: false },
            (Seen::Lost, before) => before,
        };
    }

    /// This agent is cut off: losses that it sees now are its own.
    pub fn cut_off(&mut self) {
        if let Presence::Lost { ours } = &mut self.presence {
            *ours = true;
        }
    }

    fn flap(&mut self, half_life: Duration, now: Time) {
        let halves = now.since(self.at).as_secs_f64() / half_life.as_secs_f64().max(1e-6);
        self.penalty = (self.penalty * (-halves).exp2() + FLAP).min(MOST);
        self.at = now;
        if self.penalty >= SUPPRESS || self.is_suppressed(now) {
            self.until = now + half_life.mul_f64((self.penalty / REUSE).log2());
        }
    }

    /// Whether it does not count now.
    pub fn is_suppressed(&self, now: Time) -> bool {
        now < self.until
    }

    /// When that ends, if it is so.
    pub fn until(&self, now: Time) -> Option<Time> {
        self.is_suppressed(now).then_some(self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HALF_LIFE: Option<Duration> = Some(Duration::from_secs(60));

    fn s(seconds: u64) -> Time {
        Time(seconds * 1_000_000)
    }

    /// Up, and lost and back at each of these moments.
    fn flapping(moments: impl IntoIterator<Item = u64>) -> Damping {
        let mut d = Damping::default();
        d.see(Seen::Up, HALF_LIFE, s(0));
        for moment in moments {
            d.see(Seen::Lost, HALF_LIFE, s(moment));
            d.see(Seen::Up, HALF_LIFE, s(moment));
        }
        d
    }

    #[test]
    fn two_losses_suppress_nobody() {
        assert!(!flapping([10]).is_suppressed(s(10)));
        assert!(!flapping([10, 11]).is_suppressed(s(11)));
    }

    #[test]
    fn a_third_loss_within_a_half_life_suppresses_until_it_was_quiet() {
        let d = flapping([10, 40, 70]);
        assert!(d.is_suppressed(s(70)));
        // 2,207 decays to 750 in 1.557 half-lives.
        assert!(d.is_suppressed(s(163)) && !d.is_suppressed(s(164)), "{d:?}");
        assert!(!flapping([10, 52, 94]).is_suppressed(s(94)));
    }

    #[test]
    fn who_flaps_every_thirty_seconds_stays_suppressed_throughout() {
        let flaps = (0..40).map(|n| 10 + 30 * n);
        for known in 3..40 {
            let d = flapping(flaps.clone().take(known));
            let last = 10 + 30 * (known as u64 - 1);
            assert!(d.is_suppressed(s(last)) && d.is_suppressed(s(last + 30)), "{known}: {d:?}");
        }
    }

    #[test]
    fn three_half_lives_of_quiet_end_any_suppression() {
        let d = flapping((0..1_000).map(|n| n / 10));
        assert!(d.is_suppressed(s(99 + 179)) && !d.is_suppressed(s(99 + 181)), "{d:?}");
    }

    #[test]
    fn leaving_and_returning_in_good_order_is_no_flap() {
        let mut d = flapping([]);
        for n in 1..10 {
            d.see(Seen::Away, HALF_LIFE, s(n));
            d.see(Seen::Lost, HALF_LIFE, s(n));
            d.see(Seen::Up, HALF_LIFE, s(n));
        }
        assert!(!d.is_suppressed(s(10)));
    }

    #[test]
    fn an_endpoint_that_never_served_before_is_no_flap_when_it_comes_up() {
        let mut d = Damping::default();
        for n in 0..4 {
            d.see(Seen::Lost, HALF_LIFE, s(n));
        }
        d.see(Seen::Up, HALF_LIFE, s(5));
        assert_eq!(d.penalty, 0.0);
    }

    #[test]
    fn our_own_outage_is_no_flap_of_others() {
        let mut d = flapping([]);
        for n in 1..10 {
            d.see(Seen::Lost, HALF_LIFE, s(n));
            d.cut_off();
            d.see(Seen::Up, HALF_LIFE, s(n));
        }
        assert!(!d.is_suppressed(s(10)));
    }

    #[test]
    fn without_damping_nothing_is_suppressed_and_what_was_is_let_go() {
        let mut d = flapping([1, 2, 3]);
        assert!(d.is_suppressed(s(4)));
        d.see(Seen::Up, None, s(4));
        assert!(!d.is_suppressed(s(4)));
        d.see(Seen::Lost, None, s(5));
        d.see(Seen::Up, None, s(5));
        assert!(!d.is_suppressed(s(5)));
    }

    proptest! {
        /// Whatever happened: no penalty above its bound, no suppression longer than three half-lives, and
        /// one more flap never ends one earlier.
        #[test]
        fn penalties_are_bounded_and_a_flap_never_helps(
            mut moments in prop::collection::vec(0u64..500, 1..30),
        ) {
            moments.sort_unstable();
            let last = *moments.last().unwrap();
            let d = flapping(moments.iter().copied());
            prop_assert!(d.penalty <= MOST);
            prop_assert!(d.until <= s(last + 180) + Duration::from_millis(1));
            let fewer = flapping(moments[..moments.len() - 1].iter().copied());
            prop_assert!(!fewer.is_suppressed(s(last)) || d.until >= fewer.until);
        }
    }
}
