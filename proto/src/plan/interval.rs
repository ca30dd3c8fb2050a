//! How much a count of losses says about their rate: exact limits for a Poisson count.
//!
//! Losses are rare, so that the usual "plus or minus two standard errors" does not do: no loss at all is
//! no rate of zero. The limits are Garwood's (Biometrika 28, 1936): the lower one is the mean with which so
//! many or more are just improbable, the upper one that with which so few or fewer are.

/// The mean count's limits after `seen` events, each missed with at most half of 1 − `level`.
pub fn of_count(seen: u64, level: f64) -> (f64, f64) {
    let tail = (1.0 - level.clamp(0.0, 1.0 - 1e-12)) / 2.0;
    let low = match seen.checked_sub(1) {
        None => 0.0,
        // P(N ≥ seen) = tail, so P(N ≤ seen − 1) = 1 − tail.
        Some(fewer) => mean_with(fewer, 1.0 - tail),
    };
    (low, mean_with(seen, tail))
}

/// The mean μ with P(N ≤ `most`) = `share`, by bisection: the probability falls with μ.
fn mean_with(most: u64, share: f64) -> f64 {
    let n = most as f64;
    let (mut low, mut high) = (0.0, n + 10.0 * (n + 1.0).sqrt() + 40.0);
    // Each step halves: 100 leave nothing of a double.
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        if at_most(most, middle) > share { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

/// P(N ≤ `most`) for a mean of `mean`, summed by logarithms so that large means do not vanish.
fn at_most(most: u64, mean: f64) -> f64 {
    if mean <= 0.0 {
        return 1.0;
    }
    let mut logarithm = -mean;
    let mut sum = logarithm.exp();
    for i in 1..=most {
        logarithm += mean.ln() - (i as f64).ln();
        sum += logarithm.exp();
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_a_count_are_those_of_the_tables() {
        // 95 %: published with Garwood's paper and in every table since (chi-square quantiles).
        for (seen, low, high) in [
            (0, 0.0, 3.689),
            (1, 0.0253, 5.572),
            (2, 0.242, 7.225),
            (5, 1.623, 11.668),
            (10, 4.795, 18.390),
            (100, 81.364, 121.627),
        ] {
            let (l, h) = of_count(seen, 0.95);
            assert!((l - low).abs() < 1e-3 && (h - high).abs() < 1e-3, "{seen}: {l} .. {h}");
        }
    }

    #[test]
    fn more_certainty_is_wider_and_many_events_narrow_it() {
        let width = |seen: u64, level| {
            let (low, high) = of_count(seen, level);
            (high - low) / seen as f64
        };
        assert!(width(10, 0.99) > width(10, 0.95));
        assert!(width(10_000, 0.95) < 0.05);
    }
}
