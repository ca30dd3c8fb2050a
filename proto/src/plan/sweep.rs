//! One parameter walked through a range, everything else as in the scenario: curves as data.

use serde::Serialize;

use super::chain::ChainError;
use super::forecast::unavailability;
use super::input::{Counts, Hours, Scenario};

/// Curves longer than this are cut: each point is a model solved.
pub const MAX_POINTS: u32 = 500;

/// One solved point of a curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// The parameter's value.
    pub x: f64,
    /// Share of time down with it.
    pub unavailability: f64,
}

/// Unavailability over activation time (x in seconds), `points` of them (2 to [`MAX_POINTS`]) spaced
/// evenly in the logarithm between two times.
pub fn by_activation(
    scenario: &Scenario,
    from: Hours,
    to: Hours,
    points: u32,
) -> Result<Vec<Point>, ChainError> {
    // A logarithm needs a positive time; a microsecond counts as none (`Scenario::takeover`).
    let (low, high) = (from.seconds().max(1e-6), to.seconds().max(1e-6));
    let last = points.clamp(2, MAX_POINTS) - 1;
    (0..=last)
        .map(|i| {
            let factor = (high / low).powf(f64::from(i) / f64::from(last));
            let activation = Hours::ZERO.plus_seconds(low * factor);
            let other = Scenario { activation, ..*scenario };
            Ok(Point { x: low * factor, unavailability: unavailability(other)? })
        })
        .collect()
}

/// Unavailability over the number of endpoints that stand by, none to `most` (at most 200; ends
/// earlier where the model gets too large).
pub fn by_warm(scenario: &Scenario, most: u32) -> Result<Vec<Point>, ChainError> {
    let mut curve = Vec::new();
    for warm in 0..=most {
        let counts = scenario.counts;
        let Ok(counts) = Counts::new(counts.hot(), warm, counts.needed()) else { break };
        match unavailability(Scenario { counts, ..*scenario }) {
            Ok(unavailability) => curve.push(Point { x: f64::from(warm), unavailability }),
            Err(ChainError::TooManyStates { .. }) if !curve.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(curve)
}
