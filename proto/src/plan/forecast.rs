//! A scenario solved: how available it will be, and what its unavailability is made of.
//!
//! Puts model, chain and transient together; adds nothing to the mathematics.

use serde::Serialize;
use thiserror::Error;

use super::chain::ChainError;
use super::input::{HOURS_PER_YEAR, Hours, SECONDS_PER_HOUR, Scenario};
use super::model::{Cause, Model, State};
use super::transient::{self, TransientError};

/// Why a scenario could not be solved.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum PlanError {
    /// In the long run.
    #[error("cannot solve the plan: {0}")]
    Chain(#[from] ChainError),
    /// Over the interval asked for.
    #[error("cannot solve the plan for that time: {0}")]
    Transient(#[from] TransientError),
}

/// Unavailability by its cause; the parts add up to all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Blame {
    /// Replacements on their way: detection and activation.
    pub taking_over: f64,
    /// Losses the mesh did not notice.
    pub unnoticed: f64,
    /// Too few left.
    pub exhausted: f64,
    /// All struck at once.
    pub common_cause: f64,
}

/// A limited time from "all well".
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// How long, in hours.
    pub hours: f64,
    /// Expected share of it down.
    pub down_share: f64,
    /// Probability to be down at its end.
    pub down_at_end: f64,
}

/// What is to be expected of a scenario.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// What was solved.
    pub scenario: Scenario,
    /// Of how many states the model is.
    pub states: usize,
    /// Share of time in which fewer than k serve, in the long run.
    pub unavailability: f64,
    /// What that is made of.
    pub blame: Blame,
    /// Seconds per year in which fewer than k serve.
    pub downtime_seconds_per_year: f64,
    /// How often fewer than k begin to serve, per year.
    pub outages_per_year: f64,
    /// How long that lasts each time, on average; 0 if never.
    pub outage_seconds: f64,
    /// Mean hours from "all well" to the first outage; `None`: there can be none.
    pub mttf_hours: Option<f64>,
    /// Share of requests lost in the long run, when each is tried once.
    pub request_loss: f64,
    /// The interval asked for.
    pub interval: Interval,
}

impl Forecast {
    /// Solves `scenario`, for the long run and for `horizon` from "all well".
    pub fn new(scenario: Scenario, horizon: Hours) -> Result<Self, PlanError> {
        let model = Model::new(scenario)?;
        let chain = model.chain();
        let pi = chain.steady()?;
        let unavailability = chain.unavailability(&pi);
        let per_hour = chain.outages_per_hour(&pi);
        let span = transient::over(chain, horizon)?;
        Ok(Self {
            scenario,
            states: chain.states(),
            unavailability,
            blame: blame(&model, &pi),
            downtime_seconds_per_year: downtime_seconds_per_year(unavailability),
            outages_per_year: per_hour * HOURS_PER_YEAR,
            outage_seconds: if per_hour > 0.0 {
                unavailability / per_hour * SECONDS_PER_HOUR
            } else {
                0.0
            },
            mttf_hours: chain.mean_time_to_outage()?,
            request_loss: request_loss(&model, &pi),
            interval: Interval {
                hours: horizon.hours(),
                down_share: span.down_share,
                down_at_end: span.down_at_end,
            },
        })
    }

    /// Share of time in which at least k serve.
    pub fn availability(&self) -> f64 {
        1.0 - self.unavailability
    }
}

/// Share of time down in the long run, and no more: what sweeps and sensitivities need.
pub fn unavailability(scenario: Scenario) -> Result<f64, ChainError> {
    let model = Model::new(scenario)?;
    let pi = model.chain().steady()?;
    Ok(model.chain().unavailability(&pi))
}

/// A share of time as seconds in a year.
pub fn downtime_seconds_per_year(unavailability: f64) -> f64 {
    unavailability * HOURS_PER_YEAR * SECONDS_PER_HOUR
}

fn blame(model: &Model, pi: &[f64]) -> Blame {
    let mut blame = Blame::default();
    for (state, share) in model.states().iter().zip(pi) {
        match model.cause(*state) {
            None => {}
            Some(Cause::TakingOver) => blame.taking_over += share,
            Some(Cause::Unnoticed) => blame.unnoticed += share,
            Some(Cause::Exhausted) => blame.exhausted += share,
            Some(Cause::CommonCause) => blame.common_cause += share,
        }
    }
    blame
}

/// What each state loses, and what is sent to a lost endpoint until the loss is noticed.
///
/// The second is λ·T of all requests, whatever N is. It is added only where more than k serve: where
/// k or fewer do, the missing endpoint's share is counted as overload from the moment of the loss.
fn request_loss(model: &Model, pi: &[f64]) -> f64 {
    let scenario = model.scenario();
    let needed = scenario.counts.needed();
    let noticed = scenario.failure.per_hour()
        * scenario.common_cause.rest().value()
        * scenario.missed.rest().value();
    let until_noticed = noticed * scenario.detection.hours();
    let states = model.states().iter().zip(pi);
    states
        .map(|(state, share)| {
            let spare = matches!(state, State::Counted(census) if census.hot > needed);
            share * (model.lost_requests(*state) + if spare { until_noticed } else { 0.0 })
        })
        .sum()
}
