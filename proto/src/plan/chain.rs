//! A continuous-time Markov chain with states that are up or down, and its long run.
//!
//! Decides nothing about redundancy: [`model`](super::model) says which states and rates there are, this
//! module says how often the chain is where. State 0 is the start, with everything in order.
//!
//! The steady state is found by GTH elimination (Grassmann, Taksar, Heyman, "Regenerative analysis
//! and steady state distributions for Markov chains", Operations Research 33, 1985) and not by LU.
//! Both take the same n³/3 steps, but GTH never subtracts: every number is a sum, product or
//! quotient of non-negative ones, so each probability keeps almost all of its digits however small
//! it is (O'Cinneide, Numerische Mathematik 65, 1993). LU has to form `a - b` of nearly equal
//! numbers and guarantees only the error of the *largest* probability; here the small ones, 1e-9
//! and less, are the answer, and differences of them are the sensitivities.

use thiserror::Error;

/// More states than this are refused: the elimination is dense, and 2,500² numbers are 50 MB.
pub const MAX_STATES: usize = 2_500;

/// Why a chain could not be built or solved.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ChainError {
    /// Too many states for a dense solution.
    #[error(
        "the model has more than {limit} states, too many to solve exactly: plan with fewer \
         endpoints (one zone instead of all), or with coverage 1"
    )]
    TooManyStates {
        /// The most that is accepted.
        limit: usize,
    },
    /// A rate that is no rate, or between states that do not exist.
    #[error(
        "cannot use the rate {rate} from state {from} to state {to}: it must be finite, not \
         negative, and between two different states below {states}"
    )]
    BadRate {
        /// Where the transition leaves.
        from: usize,
        /// Where it leads.
        to: usize,
        /// The rate per hour as given.
        rate: f64,
        /// How many states there are.
        states: usize,
    },
    /// From some state there is no way back to the start, so that there is no long run to speak of.
    #[error(
        "state {state} has no way back to state 0, so the chain has no steady state: every failed \
         or unnoticed state needs a rate out of it"
    )]
    NoWayBack {
        /// The first state found without one.
        state: usize,
    },
}

/// A chain: rates between states, and which of them are up. State 0 is where it starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Chain {
    /// Per state, the transitions out of it, by target, each target once.
    rows: Vec<Vec<(usize, f64)>>,
    up: Vec<bool>,
}

impl Chain {
    /// A chain of `up.len()` states with the given `(from, to, rate per hour)`; several between the
    /// same two states add up.
    pub fn new(
        up: Vec<bool>,
        rates: impl IntoIterator<Item = (usize, usize, f64)>,
    ) -> Result<Self, ChainError> {
        let states = up.len();
        if states > MAX_STATES {
            return Err(ChainError::TooManyStates { limit: MAX_STATES });
        }
        let mut rows: Vec<Vec<(usize, f64)>> = vec![Vec::new(); states];
        for (from, to, rate) in rates {
            if !rate.is_finite() || rate < 0.0 || from == to || from.max(to) >= states {
                return Err(ChainError::BadRate { from, to, rate, states });
            }
            match rows[from].iter_mut().find(|(known, _)| *known == to) {
                _ if rate == 0.0 => {}
                Some((_, sum)) => *sum += rate,
                None => rows[from].push((to, rate)),
            }
        }
        for row in &mut rows {
            row.sort_unstable_by_key(|&(to, _)| to);
        }
        Ok(Self { rows, up })
    }

    /// How many states there are.
    pub fn states(&self) -> usize {
        self.up.len()
    }

    /// Whether `state` is up.
    pub fn is_up(&self, state: usize) -> bool {
        self.up[state]
    }

    /// The transitions out of `state`: target and rate per hour, by target.
    pub fn rates_from(&self, state: usize) -> &[(usize, f64)] {
        &self.rows[state]
    }

    /// The rate at which `state` is left.
    pub fn leaving(&self, state: usize) -> f64 {
        self.rows[state].iter().map(|&(_, rate)| rate).sum()
    }

    /// The generator matrix, dense: rates off the diagonal, rows that sum to zero.
    pub fn generator(&self) -> Vec<Vec<f64>> {
        let states = self.states();
        (0..states)
            .map(|from| {
                let mut row = vec![0.0; states];
                for &(to, rate) in &self.rows[from] {
                    row[to] = rate;
                }
                row[from] = -self.leaving(from);
                row
            })
            .collect()
    }

    /// The share of time spent in each state in the long run.
    pub fn steady(&self) -> Result<Vec<f64>, ChainError> {
        let states = self.states();
        let mut dense: Vec<Vec<f64>> = vec![vec![0.0; states]; states];
        for (from, row) in self.rows.iter().enumerate() {
            for &(to, rate) in row {
                dense[from][to] = rate;
            }
        }
        eliminate(&mut dense)?;
        let mut pi = vec![0.0; states];
        for state in 0..states {
            // What `eliminate` left in the upper triangle: flow into `state` per time spent before.
            let inflow: f64 = (0..state).map(|from| pi[from] * dense[from][state]).sum();
            pi[state] = if state == 0 { 1.0 } else { inflow };
        }
        let total: f64 = pi.iter().sum();
        pi.iter_mut().for_each(|share| *share /= total);
        Ok(pi)
    }

    /// The share of time down, summed over the down states (never as 1 minus the up ones).
    pub fn unavailability(&self, pi: &[f64]) -> f64 {
        pi.iter().zip(&self.up).filter(|(_, up)| !**up).map(|(share, _)| share).sum()
    }

    /// Outages per hour in the long run: the flow from up states into down ones.
    pub fn outages_per_hour(&self, pi: &[f64]) -> f64 {
        let mut flow = 0.0;
        for (from, row) in self.rows.iter().enumerate().filter(|(from, _)| self.up[*from]) {
            flow += pi[from]
                * row.iter().filter(|(to, _)| !self.up[*to]).map(|(_, rate)| rate).sum::<f64>();
        }
        flow
    }

    /// Mean hours from the start to the first outage (MTTF); `None` when there can be none.
    ///
    /// Found without subtraction too: all down states become one that returns to the start at rate
    /// 1; time up per time down in that chain is the mean time to get there.
    pub fn mean_time_to_outage(&self) -> Result<Option<f64>, ChainError> {
        if self.up.first() != Some(&true) {
            return Ok(Some(0.0));
        }
        let reached = self.reached_while_up();
        let down = reached.len();
        let mut rates = vec![(down, 0, 1.0)];
        for (at, &state) in reached.iter().enumerate() {
            for &(to, rate) in &self.rows[state] {
                let to = reached.binary_search(&to).unwrap_or(down);
                rates.push((at, to, rate));
            }
        }
        if !rates.iter().any(|&(_, to, _)| to == down) {
            return Ok(None);
        }
        let mut up = vec![true; down];
        up.push(false);
        let pi = Self::new(up, rates)?.steady()?;
        Ok(Some(pi[..down].iter().sum::<f64>() / pi[down]))
    }

    /// The up states that can be reached from the start without going down, in order.
    fn reached_while_up(&self) -> Vec<usize> {
        let mut seen = vec![false; self.states()];
        let mut waiting = vec![0];
        while let Some(state) = waiting.pop() {
            if !self.up[state] || std::mem::replace(&mut seen[state], true) {
                continue;
            }
            waiting.extend(self.rows[state].iter().map(|&(to, _)| to));
        }
        (0..self.states()).filter(|&state| seen[state]).collect()
    }
}

/// GTH elimination in place, from the last state to the second: a chain that skips the eliminated
/// state is left each time. Afterwards `rates[i][n]` for i < n is i's rate into n divided by n's rate
/// to the states before it.
fn eliminate(rates: &mut [Vec<f64>]) -> Result<(), ChainError> {
    for state in (1..rates.len()).rev() {
        let (before, rest) = rates.split_at_mut(state);
        // Rows are sparse until fill-in; walking only what is there makes banded models cheap.
        let row: Vec<(usize, f64)> = rest[0][..state]
            .iter()
            .enumerate()
            .filter(|(_, rate)| **rate > 0.0)
            .map(|(to, rate)| (to, *rate))
            .collect();
        let leaving: f64 = row.iter().map(|(_, rate)| rate).sum();
        if leaving == 0.0 {
            return Err(ChainError::NoWayBack { state });
        }
        for (from, line) in before.iter_mut().enumerate() {
            if line[state] == 0.0 {
                continue;
            }
            let share = line[state] / leaving;
            line[state] = share;
            for &(to, rate) in row.iter().filter(|(to, _)| *to != from) {
                line[to] += share * rate;
            }
        }
    }
    Ok(())
}
