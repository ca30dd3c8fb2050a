//! N hot, M warm, k needed: the states such a service can be in, and what moves it between them.
//!
//! Decides the rules of the model, and nothing about how it is solved ([`chain`](super::chain)):
//!
//! 1. A serving endpoint fails at λ. With the coverage c the mesh notices and its place is open;
//!    else it keeps its place, unnoticed, until found at β (each by itself).
//! 2. An open place calls up one that stands by, at once; it serves at δ (detection included).
//! 3. Those that stand by or activate fail at a·λ; a failed activation calls up the next.
//! 4. Repair, `min(failed, crews)·μ`: the repaired one serves at once where a place is open and
//!    nobody is being activated; else it joins the bench (and is called up if places are open).
//! 5. With a common-cause share b, the rates above are (1 − b) of theirs, and at b·λ everything is
//!    struck together; one repair, μ, brings everything back, for the cause is one (β-factor model).
//!
//! The service is up while at least k serve. States are ordered by how many are lost, so that state
//! 0 is "all well" and the matrix is banded.

use std::collections::BTreeMap;

use super::chain::{Chain, ChainError, MAX_STATES};
use super::input::Scenario;

/// How many endpoints are in which condition; the rest is in repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Census {
    /// Failed and unnoticed, or in repair. First, because it orders the states.
    lost: u32,
    /// Failed, but the mesh still counts on it.
    pub unnoticed: u32,
    /// Called up, not serving yet.
    pub activating: u32,
    /// Standing by.
    pub warm: u32,
    /// Serving.
    pub hot: u32,
}

impl Census {
    /// How many are in repair.
    pub fn failed(self) -> u32 {
        self.lost - self.unnoticed
    }
}

/// One state of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Endpoints fail one by one.
    Counted(Census),
    /// A common cause has struck them all.
    Struck,
}

/// Why a state is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Enough would serve if those being activated did: time to take over.
    TakingOver,
    /// Enough would serve if losses had been noticed: coverage.
    Unnoticed,
    /// Too few are left: redundancy.
    Exhausted,
    /// All were struck at once: common cause.
    CommonCause,
}

/// A scenario, enumerated.
#[derive(Clone, Debug)]
pub struct Model {
    scenario: Scenario,
    states: Vec<State>,
    chain: Chain,
}

impl Model {
    /// Finds every state that can be reached, and the rates between them.
    pub fn new(scenario: Scenario) -> Result<Self, ChainError> {
        let rules = Rules { scenario };
        let mut moves: BTreeMap<State, Vec<(State, f64)>> = BTreeMap::new();
        let mut waiting = vec![rules.all_well()];
        while let Some(state) = waiting.pop() {
            if moves.contains_key(&state) {
                continue;
            }
            if moves.len() == MAX_STATES {
                return Err(ChainError::TooManyStates { limit: MAX_STATES });
            }
            let next = rules.moves(state);
            waiting.extend(next.iter().map(|&(to, _)| to));
            moves.insert(state, next);
        }
        let states: Vec<State> = moves.keys().copied().collect();
        let place: BTreeMap<State, usize> = states.iter().copied().zip(0..).collect();
        let up = states.iter().map(|&state| rules.cause(state).is_none()).collect();
        let rates = moves
            .iter()
            .flat_map(|(from, next)| next.iter().map(|(to, rate)| (place[from], place[to], *rate)))
            // Where the bench is empty and the like, a move may lead to where it came from.
            .filter(|(from, to, _)| from != to)
            .collect::<Vec<_>>();
        Ok(Self { scenario, chain: Chain::new(up, rates)?, states })
    }

    /// The scenario this came from.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// The states, in the chain's order.
    pub fn states(&self) -> &[State] {
        &self.states
    }

    /// The chain: rates and which states are up.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Why `state` is down; `None`: it is up.
    pub fn cause(&self, state: State) -> Option<Cause> {
        Rules { scenario: self.scenario }.cause(state)
    }

    /// The share of requests that is not answered in `state`: what fewer than k cannot carry, and
    /// what is sent to those whose failure nobody noticed.
    pub fn lost_requests(&self, state: State) -> f64 {
        let State::Counted(census) = state else { return 1.0 };
        let believed = census.hot + census.unnoticed;
        if census.hot == 0 {
            return 1.0;
        }
        let reached = f64::from(census.hot) / f64::from(believed);
        let needed = f64::from(self.scenario.counts.needed());
        // Products of what is lost, not 1 - what is carried, to keep the digits of small losses.
        let overload = (1.0 - f64::from(census.hot) / needed).max(0.0);
        let astray = f64::from(census.unnoticed) / f64::from(believed);
        overload * reached + astray
    }
}

/// The rules 1 to 5 above for one scenario.
struct Rules {
    scenario: Scenario,
}

impl Rules {
    fn all_well(&self) -> State {
        let counts = self.scenario.counts;
        State::Counted(self.census(counts.hot(), 0, counts.warm(), 0))
    }

    fn census(&self, hot: u32, activating: u32, warm: u32, unnoticed: u32) -> Census {
        let lost = self.scenario.counts.total() - hot - activating - warm;
        Census { lost, unnoticed, activating, warm, hot }
    }

    /// Rule 2: open places are given to those that stand by, as far as they go.
    fn called_up(&self, hot: u32, activating: u32, warm: u32, unnoticed: u32) -> State {
        let open = self.scenario.counts.hot() - hot - activating - unnoticed;
        let called = open.min(warm);
        let census = if self.scenario.takeover().is_some() {
            self.census(hot, activating + called, warm - called, unnoticed)
        } else {
            self.census(hot + called, activating, warm - called, unnoticed)
        };
        State::Counted(census)
    }

    fn moves(&self, state: State) -> Vec<(State, f64)> {
        let State::Counted(census) = state else {
            return vec![(self.all_well(), self.scenario.repair.per_hour())];
        };
        let mut moves = self.losses(census);
        moves.extend(self.gains(census));
        moves.retain(|(_, rate)| *rate > 0.0);
        moves
    }

    fn losses(&self, census: Census) -> Vec<(State, f64)> {
        let Census { unnoticed, activating, warm, hot, .. } = census;
        let alone = self.scenario.common_cause.rest().value();
        let failure = self.scenario.failure.per_hour() * alone;
        let warm_failure = self.scenario.warm_failure_per_hour() * alone;
        let missed = self.scenario.missed;
        let mut moves = vec![(
            State::Struck,
            self.scenario.common_cause.value() * self.scenario.failure.per_hour(),
        )];
        if hot > 0 {
            let all = f64::from(hot) * failure;
            moves.push((
                self.called_up(hot - 1, activating, warm, unnoticed),
                all * missed.rest().value(),
            ));
            let kept = self.census(hot - 1, activating, warm, unnoticed + 1);
            moves.push((State::Counted(kept), all * missed.value()));
        }
        if activating > 0 {
            let next = self.called_up(hot, activating - 1, warm, unnoticed);
            moves.push((next, f64::from(activating) * warm_failure));
        }
        if warm > 0 {
            let next = self.census(hot, activating, warm - 1, unnoticed);
            moves.push((State::Counted(next), f64::from(warm) * warm_failure));
        }
        moves
    }

    fn gains(&self, census: Census) -> Vec<(State, f64)> {
        let Census { unnoticed, activating, warm, hot, .. } = census;
        let mut moves = Vec::new();
        if unnoticed > 0 {
            let found = self.called_up(hot, activating, warm, unnoticed - 1);
            moves.push((found, f64::from(unnoticed) * self.scenario.recovery.per_hour()));
        }
        if let Some(takeover) = self.scenario.takeover().filter(|_| activating > 0) {
            let next = self.census(hot + 1, activating - 1, warm, unnoticed);
            moves.push((State::Counted(next), f64::from(activating) * takeover.per_hour()));
        }
        let failed = census.failed();
        if failed > 0 {
            let open = hot + unnoticed < self.scenario.counts.hot();
            let next = if open && activating == 0 {
                State::Counted(self.census(hot + 1, activating, warm, unnoticed))
            } else {
                self.called_up(hot, activating, warm + 1, unnoticed)
            };
            let busy = self.scenario.crews.busy(failed);
            moves.push((next, f64::from(busy) * self.scenario.repair.per_hour()));
        }
        moves
    }

    fn cause(&self, state: State) -> Option<Cause> {
        let State::Counted(census) = state else { return Some(Cause::CommonCause) };
        let needed = self.scenario.counts.needed();
        if census.hot >= needed {
            None
        } else if census.hot + census.activating >= needed {
            Some(Cause::TakingOver)
        } else if census.hot + census.activating + census.unnoticed >= needed {
            Some(Cause::Unnoticed)
        } else {
            Some(Cause::Exhausted)
        }
    }
}
