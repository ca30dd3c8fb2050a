//! A chain over a limited time, from its start: is it down at the end, and for what share on average.
//!
//! By uniformisation (Jensen 1953): with q at least the fastest rate, e^{Qt} is a Poisson mixture of
//! powers of P = I + Q/q; the mean over the interval takes the Poisson tails instead. Everything is
//! a sum of non-negative terms, so small results keep their digits.
//!
//! A mesh is stiff: takeovers in 0.2 s and a year's horizon make q·t over 10⁸ turns. So there are
//! two ways through time, and the cheaper one is taken: turn by turn with the sparse matrix, or, for
//! chains of moderate size, one short step as a dense matrix that is doubled until it is `t` long,
//! its rows brought back to a sum of 1 each time.

use thiserror::Error;

use super::chain::Chain;
use super::input::Hours;

/// Multiplications one answer may cost: a few seconds.
const WORK_LIMIT: f64 = 2e10;
/// Poisson turns at once, turn by turn: e^-256 is far from underflow.
const TURNS_AT_ONCE: f64 = 256.0;
/// Poisson tail at which the sum ends, a million times below the 1e-12 that would do for
/// availability: it is the unavailability that must be right.
const TAIL: f64 = 1e-18;

/// Why an interval could not be computed.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum TransientError {
    /// Too many states and too long a time for how fast the fastest rate is.
    #[error(
        "cannot follow {states} states over {hours} h: the fastest rate makes that {turns:.1e} turns; \
         ask for a shorter time or fewer endpoints, or use the steady state, which differs \
         only over times that are not long against the repair"
    )]
    TooStiff {
        /// How many states there are.
        states: usize,
        /// The time asked for.
        hours: f64,
        /// Fastest rate times that time.
        turns: f64,
    },
}

/// What a limited time from the start looks like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Probability to be down at its end.
    pub down_at_end: f64,
    /// Expected share of it spent down: one minus the interval availability.
    pub down_share: f64,
}

/// Follows `chain` from state 0 over `time`.
pub fn over(chain: &Chain, time: Hours) -> Result<Span, TransientError> {
    let states = chain.states();
    let fastest = fastest(chain);
    let hours = time.hours();
    let turns = fastest * hours;
    if states == 0 || turns == 0.0 {
        let down = if states == 0 || chain.is_up(0) { 0.0 } else { 1.0 };
        return Ok(Span { down_at_end: down, down_share: down });
    }
    let rates: usize = (0..states).map(|state| chain.rates_from(state).len() + 1).sum();
    let size = states as f64;
    let doublings = turns.log2().ceil().max(0.0);
    let walking = (turns + TURNS_AT_ONCE) * rates as f64;
    let doubling = size.powi(3) * (doublings + 20.0);
    if walking.min(doubling) > WORK_LIMIT {
        return Err(TransientError::TooStiff { states, hours, turns });
    }
    let turn = Turn { chain, fastest };
    Ok(if walking <= doubling {
        walk(&turn, hours)
    } else {
        // At most 2^40 by the work limit and the ranges of rates and times; exact as an i32.
        double(&turn, hours, doublings as i32)
    })
}

/// Turn by turn whatever it costs: the two ways must agree.
#[cfg(test)]
pub(super) fn walked(chain: &Chain, hours: f64) -> Span {
    walk(&Turn { chain, fastest: fastest(chain) }, hours)
}

/// By doubling whatever it costs.
#[cfg(test)]
pub(super) fn doubled(chain: &Chain, hours: f64) -> Span {
    let fastest = fastest(chain);
    double(&Turn { chain, fastest }, hours, (fastest * hours).log2().ceil() as i32)
}

fn fastest(chain: &Chain) -> f64 {
    (0..chain.states()).map(|state| chain.leaving(state)).fold(0.0, f64::max)
}

/// One turn of the uniformised chain: P = I + Q/q.
struct Turn<'a> {
    chain: &'a Chain,
    fastest: f64,
}

impl Turn<'_> {
    fn stays(&self, state: usize) -> f64 {
        (1.0 - self.chain.leaving(state) / self.fastest).max(0.0)
    }

    /// pi P: where the chain is a turn later.
    fn forward(&self, pi: &[f64]) -> Vec<f64> {
        let mut next = vec![0.0; pi.len()];
        for (from, &share) in pi.iter().enumerate().filter(|(_, share)| **share > 0.0) {
            next[from] += share * self.stays(from);
            for &(to, rate) in self.chain.rates_from(from) {
                next[to] += share * rate / self.fastest;
            }
        }
        next
    }

    /// P v: the expected value of `v` a turn later, per state.
    fn backward(&self, v: &[f64]) -> Vec<f64> {
        (0..v.len())
            .map(|from| {
                let moved: f64 =
                    self.chain.rates_from(from).iter().map(|&(to, rate)| rate * v[to]).sum();
                moved / self.fastest + v[from] * self.stays(from)
            })
            .collect()
    }
}

/// Poisson probabilities of 0, 1, … turns, and of more than so many.
fn poisson(mean: f64) -> (Vec<f64>, Vec<f64>) {
    let mut weights = vec![(-mean).exp()];
    let mut last = weights[0];
    while (weights.len() as f64) < mean || last > TAIL {
        last *= mean / weights.len() as f64;
        weights.push(last);
    }
    let mut more = vec![0.0; weights.len()];
    for n in (1..weights.len()).rev() {
        more[n - 1] = more[n] + weights[n];
    }
    (weights, more)
}

/// Turn by turn, in steps of equal length.
fn walk(turn: &Turn<'_>, hours: f64) -> Span {
    let steps = (turn.fastest * hours / TURNS_AT_ONCE).ceil().max(1.0);
    let (weights, more) = poisson(turn.fastest * hours / steps);
    let mut pi = vec![0.0; turn.chain.states()];
    pi[0] = 1.0;
    let mut down_hours = 0.0;
    let mut step = 0.0;
    while step < steps {
        let mut end = vec![0.0; pi.len()];
        for (weight, more) in weights.iter().zip(&more) {
            down_hours += turn.chain.unavailability(&pi) * more / turn.fastest;
            end.iter_mut().zip(&pi).for_each(|(sum, share)| *sum += weight * share);
            pi = turn.forward(&pi);
        }
        let total: f64 = end.iter().sum();
        pi = end.into_iter().map(|share| share / total).collect();
        step += 1.0;
    }
    Span { down_at_end: turn.chain.unavailability(&pi), down_share: down_hours / hours }
}

/// One step of 2^-doublings of the time, then twice as long and twice as long again.
fn double(turn: &Turn<'_>, hours: f64, doublings: i32) -> Span {
    let states = turn.chain.states();
    let step = hours * 2f64.powi(-doublings);
    let (weights, more) = poisson(turn.fastest * step);
    // Per starting state: down at the end of the step, and hours down within it.
    let mut power: Vec<f64> =
        (0..states).map(|state| if turn.chain.is_up(state) { 0.0 } else { 1.0 }).collect();
    let mut down = vec![0.0; states];
    let mut down_hours = vec![0.0; states];
    for (weight, more) in weights.iter().zip(&more) {
        for state in 0..states {
            down[state] += weight * power[state];
            down_hours[state] += more / turn.fastest * power[state];
        }
        power = turn.backward(&power);
    }
    let mut matrix: Vec<Vec<f64>> =
        (0..states).map(|start| row_after(turn, start, &weights)).collect();
    for done in 0..doublings {
        let later = times_vector(&matrix, &down_hours);
        down_hours.iter_mut().zip(later).for_each(|(sum, more)| *sum += more);
        down = times_vector(&matrix, &down);
        if done + 1 < doublings {
            matrix = squared(&matrix);
        }
    }
    Span { down_at_end: down[0], down_share: down_hours[0] / hours }
}

fn row_after(turn: &Turn<'_>, start: usize, weights: &[f64]) -> Vec<f64> {
    let mut pi = vec![0.0; turn.chain.states()];
    pi[start] = 1.0;
    let mut row = vec![0.0; pi.len()];
    for weight in weights {
        row.iter_mut().zip(&pi).for_each(|(sum, share)| *sum += weight * share);
        pi = turn.forward(&pi);
    }
    row
}

fn times_vector(matrix: &[Vec<f64>], vector: &[f64]) -> Vec<f64> {
    matrix.iter().map(|row| row.iter().zip(vector).map(|(m, v)| m * v).sum()).collect()
}

fn squared(matrix: &[Vec<f64>]) -> Vec<Vec<f64>> {
    matrix
        .iter()
        .map(|row| {
            let mut next = vec![0.0; row.len()];
            for (middle, &share) in row.iter().enumerate().filter(|(_, share)| **share > 0.0) {
                next.iter_mut().zip(&matrix[middle]).for_each(|(sum, m)| *sum += share * m);
            }
            // Without this a rounding of 1e-16 would double with the matrix, thirty times over.
            let total: f64 = next.iter().sum();
            next.iter_mut().for_each(|share| *share /= total);
            next
        })
        .collect()
}
