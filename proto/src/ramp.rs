//! Slow start: an endpoint that begins to serve takes its share of requests step by step, so that caches fill
//! and code warms before the whole load comes, as in Envoy (`slow_start_config`) and HAProxy (`slowstart`).
//!
//! Pure functions over times and capacities. The ramp never costs capacity: where those that are up to speed
//! could not carry the rest, whoever is new takes as much more as is missing, at once.

use std::time::Duration;

use crate::balance::FULL_WEIGHT;

/// A ramp has so many steps, the first of which is taken at once: Envoy's `min_weight_percent` of 10.
const STEPS: u32 = 10;
/// Those up to speed carry at most this many hundredths of what they are counted for, Envoy's default
/// overprovisioning factor.
const OVERPROVISION: u64 = 140;

/// The share, in thousandths, of an endpoint that has served for so long.
pub fn share(ramp: Duration, served: Duration) -> u16 {
    if served >= ramp {
        return FULL_WEIGHT;
    }
    let step = (served.as_micros() * u128::from(STEPS) / ramp.as_micros()) as u16 + 1;
    step * (FULL_WEIGHT / STEPS as u16)
}

/// In how long its share grows again; `None` once it is whole.
pub fn next(ramp: Duration, served: Duration) -> Option<Duration> {
    let step = ramp / STEPS;
    if served >= ramp || step.is_zero() {
        return None;
    }
    let taken = u32::try_from(served.as_micros() / step.as_micros()).unwrap_or(STEPS);
    Some((step * (taken + 1)).saturating_sub(served).max(Duration::from_micros(1)))
}

/// A ready endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Its declared weight.
    pub capacity: u16,
    /// By how long it has served, in thousandths.
    pub share: u16,
}

/// The weights by which requests go to ready endpoints: 1,000 for a whole endpoint of weight 100. `needed` is
/// the capacity that the policy wants to serve, taken for the load.
///
/// The ramp holds as far as those up to speed have room: with `needed` = L and F the capacity up to speed, they
/// can carry 1.4·F; what is missing, L − 1.4·F, goes to the ramping, whatever their age. Without anybody up to
/// speed all are whole.
pub fn weights(needed: u64, ready: &[Ready]) -> Vec<u16> {
    let sum = |whole: bool| -> u64 {
        ready
            .iter()
            .filter(|r| (r.share >= FULL_WEIGHT) == whole)
            .map(|r| u64::from(r.capacity))
            .sum()
    };
    let (full, ramping) = (sum(true), sum(false));
    let room = full * OVERPROVISION / 100;
    let missing = needed.saturating_sub(room);
    // Of `needed` the ramping get R/(F + R) when their weights sum to R: that shall be what is missing.
    let least = match (missing, room.min(needed)) {
        (0, _) => 0,
        (_, 0) => u64::from(FULL_WEIGHT),
        (missing, carried) => {
            let wanted = missing * full;
            (wanted * u64::from(FULL_WEIGHT)).div_ceil((carried * ramping).max(1))
        }
    };
    let alone = full == 0;
    let weight = |r: &Ready| {
        let share = u64::from(r.share).max(least).min(u64::from(FULL_WEIGHT));
        let share = if alone { u64::from(FULL_WEIGHT) } else { share };
        u16::try_from((u64::from(r.capacity) * share / 100).max(1)).unwrap_or(u16::MAX)
    };
    ready.iter().map(weight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RAMP: Duration = Duration::from_secs(10);

    fn one(share: u16) -> Ready {
        Ready { capacity: 100, share }
    }

    #[test]
    fn a_share_grows_by_tenths_from_a_tenth_to_the_whole() {
        for (ms, expected) in [(0, 100), (999, 100), (1_000, 200), (5_500, 600), (9_999, 1_000)] {
            assert_eq!(share(RAMP, Duration::from_millis(ms)), expected, "{ms}");
        }
        assert_eq!(share(RAMP, RAMP), FULL_WEIGHT);
        assert_eq!(share(Duration::ZERO, Duration::ZERO), FULL_WEIGHT);
    }

    #[test]
    fn the_next_step_is_told_until_the_share_is_whole() {
        let mut served = Duration::ZERO;
        let mut shares = Vec::new();
        while let Some(wait) = next(RAMP, served) {
            shares.push(share(RAMP, served));
            served += wait;
        }
        assert_eq!(shares, [100, 200, 300, 400, 500, 600, 700, 800, 900, 1_000]);
        assert_eq!(served, RAMP);
        assert_eq!(next(Duration::ZERO, Duration::ZERO), None);
    }

    #[test]
    fn a_returned_endpoint_starts_slowly_beside_those_that_carry_the_load() {
        // Three hot and the replacement of one of them, which returns.
        assert_eq!(
            weights(300, &[one(1000), one(1000), one(1000), one(100)]),
            [1000, 1000, 1000, 100]
        );
    }

    #[test]
    fn an_endpoint_that_is_alone_has_no_ramp_nor_have_those_that_are_all_new() {
        assert_eq!(weights(100, &[one(100)]), [1000]);
        assert_eq!(weights(300, &[one(100), one(400)]), [1000, 1000]);
    }

    #[test]
    fn a_replacement_takes_at_once_what_the_survivors_have_no_room_for() {
        // Two of three carry 280 of 300; a fourteenth of 300 goes to the third: 143 of 2,143.
        assert_eq!(weights(300, &[one(1000), one(1000), one(100)]), [1000, 1000, 143]);
        // One of three carries 140; its replacement cannot begin slowly.
        assert_eq!(weights(300, &[one(1000), one(100)]), [1000, 1000]);
    }

    #[test]
    fn a_single_warm_endpoint_that_takes_a_large_share_grows_into_it() {
        // Half of the load may stay with the survivor of two, as long as it has room for it.
        assert_eq!(weights(100, &[one(1000), one(100)]), [1000, 100]);
    }

    #[test]
    fn capacity_scales_the_weight() {
        let big = Ready { capacity: 250, share: FULL_WEIGHT };
        let small = Ready { capacity: 50, share: 500 };
        assert_eq!(weights(200, &[big, small]), [2500, 250]);
        let most = Ready { capacity: crate::advert::extension::MAX_WEIGHT, share: FULL_WEIGHT };
        assert_eq!(weights(1, &[most]), [50_000]);
    }

    proptest! {
        /// Whoever is up to speed is never asked for more than 1.4 times its part while the ramping have
        /// capacity; no weight is nought or above its capacity's.
        #[test]
        fn the_ramp_never_costs_capacity(
            ready in prop::collection::vec((1u16..=500, 1u16..=10), 1..8), needed in 1u64..3_000,
        ) {
            let ready: Vec<Ready> = ready
                .into_iter()
                .map(|(capacity, tenths)| Ready { capacity, share: tenths * 100 })
                .collect();
            let weights = weights(needed, &ready);
            let all: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            for (r, w) in ready.iter().zip(&weights) {
                prop_assert!(*w >= 1 && *w <= r.capacity * 10);
            }
            let whole = |r: &Ready| r.share >= FULL_WEIGHT;
            let full: u64 = ready.iter().filter(|r| whole(r)).map(|r| u64::from(r.capacity)).sum();
            let given: u64 =
                ready.iter().zip(&weights).filter(|(r, _)| whole(r)).map(|(_, w)| u64::from(*w)).sum();
            let ramped = ready.iter().zip(&weights).any(|(r, w)| !whole(r) && *w < r.capacity * 10);
            // Rounding of weights to thousandths, of at most eight endpoints.
            if full > 0 && ramped {
                prop_assert!(needed * given <= full * 140 * all / 100 + needed * 80, "{weights:?}");
            }
        }
    }
}
