//! What buys most: how far each number of a scenario moves its unavailability, and what one more
//! endpoint or crew would.
//!
//! Two questions, two answers. *Elasticity*: by how many percent the unavailability changes per
//! percent of a parameter, by central differences in the logarithm. *Purchases*: what is left of the
//! downtime if one thing is bought, each solved anew, so that nothing is extrapolated.

use std::num::NonZeroU32;

use serde::Serialize;

use super::chain::ChainError;
use super::forecast::{downtime_seconds_per_year, unavailability};
use super::input::{Counts, Crews, Scenario};

/// Half the width of the differences, in the logarithm: the error is its square, 1e-8, and the
/// rounding 1e-15 divided by it, because the steady state keeps its digits.
const STEP: f64 = 1e-4;

/// A parameter that can be better or worse; more of it is worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lever {
    /// λ, and with it a·λ and b·λ.
    FailureRate,
    /// a.
    WarmFailureShare,
    /// 1/μ.
    RepairTime,
    /// Detection.
    DetectionTime,
    /// Activation.
    ActivationTime,
    /// 1 − c.
    MissedShare,
    /// 1/β.
    RecoveryTime,
    /// b.
    CommonCauseShare,
}

impl Lever {
    /// All of them, in the order of the scenario.
    pub const ALL: [Self; 8] = [
        Self::FailureRate,
        Self::WarmFailureShare,
        Self::RepairTime,
        Self::DetectionTime,
        Self::ActivationTime,
        Self::MissedShare,
        Self::RecoveryTime,
        Self::CommonCauseShare,
    ];

    /// In words.
    pub const fn label(self) -> &'static str {
        match self {
            Self::FailureRate => "failure rate",
            Self::WarmFailureShare => "failures while standing by",
            Self::RepairTime => "repair time",
            Self::DetectionTime => "detection time",
            Self::ActivationTime => "activation time",
            Self::MissedShare => "share of unnoticed failures",
            Self::RecoveryTime => "time until an unnoticed failure is found",
            Self::CommonCauseShare => "share of common causes",
        }
    }

    /// `scenario` with `factor` times as much of this; shares stop at 1.
    pub fn times(self, scenario: &Scenario, factor: f64) -> Scenario {
        let mut other = *scenario;
        match self {
            Self::FailureRate => other.failure = other.failure.scaled(factor),
            Self::WarmFailureShare => other.warm_share = other.warm_share.scaled(factor),
            Self::RepairTime => other.repair = other.repair.scaled(1.0 / factor),
            Self::DetectionTime => other.detection = other.detection.scaled(factor),
            Self::ActivationTime => other.activation = other.activation.scaled(factor),
            Self::MissedShare => other.missed = other.missed.scaled(factor),
            Self::RecoveryTime => other.recovery = other.recovery.scaled(1.0 / factor),
            Self::CommonCauseShare => other.common_cause = other.common_cause.scaled(factor),
        }
        other
    }

    /// Whether there is any of it, so that a change can matter.
    fn present(self, scenario: &Scenario) -> bool {
        let standing_by = scenario.counts.warm() > 0;
        match self {
            Self::FailureRate | Self::RepairTime => true,
            Self::WarmFailureShare => standing_by && scenario.warm_share.value() > 0.0,
            Self::DetectionTime => standing_by && scenario.detection.hours() > 0.0,
            Self::ActivationTime => standing_by && scenario.activation.hours() > 0.0,
            Self::MissedShare | Self::RecoveryTime => scenario.missed.value() > 0.0,
            Self::CommonCauseShare => scenario.common_cause.value() > 0.0,
        }
    }

    /// The largest factor up to `wanted` that leaves a share a share.
    fn room(self, scenario: &Scenario, wanted: f64) -> f64 {
        let share = match self {
            Self::WarmFailureShare => scenario.warm_share.value(),
            Self::MissedShare => scenario.missed.value(),
            Self::CommonCauseShare => scenario.common_cause.value(),
            _ => return wanted,
        };
        wanted.min(1.0 / share)
    }
}

/// How strongly a parameter acts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Elasticity {
    /// Which.
    pub lever: Lever,
    /// Percent of unavailability per percent of the parameter.
    pub elasticity: f64,
}

/// The elasticities of a scenario's unavailability, strongest first; what is zero already (no
/// bench, full coverage) is left out.
pub fn elasticities(scenario: &Scenario) -> Result<Vec<Elasticity>, ChainError> {
    let mut all = Vec::new();
    for lever in Lever::ALL.into_iter().filter(|lever| lever.present(scenario)) {
        let (more, less) = (lever.room(scenario, STEP.exp()), (-STEP).exp());
        let above = unavailability(lever.times(scenario, more))?;
        let below = unavailability(lever.times(scenario, less))?;
        // An unavailability too small for a double has no elasticity to speak of.
        if below > 0.0 {
            let elasticity = (above / below).ln() / (more / less).ln();
            all.push(Elasticity { lever, elasticity });
        }
    }
    all.sort_by(|a, b| b.elasticity.abs().total_cmp(&a.elasticity.abs()));
    Ok(all)
}

/// Something that can be bought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Purchase {
    /// Half as much of a parameter.
    Half(Lever),
    /// One more endpoint that stands by.
    OneMoreWarm,
    /// One more that serves, with as many needed as before.
    OneMoreHot,
    /// One more crew.
    OneMoreCrew,
}

impl Purchase {
    /// In words.
    pub fn label(self) -> String {
        match self {
            Self::Half(lever) => format!("half the {}", lever.label()),
            Self::OneMoreWarm => "one more warm endpoint".into(),
            Self::OneMoreHot => "one more hot endpoint".into(),
            Self::OneMoreCrew => "one more repair crew".into(),
        }
    }

    fn applied(self, scenario: &Scenario) -> Option<Scenario> {
        let counts = scenario.counts;
        let mut other = *scenario;
        match self {
            Self::Half(lever) if !lever.present(scenario) => return None,
            Self::Half(lever) => return Some(lever.times(scenario, 0.5)),
            Self::OneMoreWarm => {
                other.counts =
                    Counts::new(counts.hot(), counts.warm() + 1, counts.needed()).ok()?;
            }
            Self::OneMoreHot => {
                other.counts =
                    Counts::new(counts.hot() + 1, counts.warm(), counts.needed()).ok()?;
            }
            Self::OneMoreCrew => match scenario.crews {
                Crews::Shared(crews) if crews.get() < counts.total() => {
                    other.crews = Crews::Shared(NonZeroU32::new(crews.get() + 1)?);
                }
                Crews::Shared(_) | Crews::EachItsOwn => return None,
            },
        }
        Some(other)
    }
}

/// What a purchase brings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gain {
    /// What is bought.
    pub purchase: Purchase,
    /// Unavailability with it.
    pub unavailability: f64,
    /// Seconds of downtime per year it saves; negative where it costs some.
    pub seconds_saved_per_year: f64,
}

/// Every purchase that applies to `scenario`, the one that saves most first.
///
/// A purchase that makes the model too large to solve is left out; the scenario itself must not be.
pub fn gains(scenario: &Scenario) -> Result<Vec<Gain>, ChainError> {
    let now = unavailability(*scenario)?;
    let halves = Lever::ALL.into_iter().map(Purchase::Half);
    let more = [Purchase::OneMoreWarm, Purchase::OneMoreHot, Purchase::OneMoreCrew];
    let mut gains = Vec::new();
    for purchase in halves.chain(more) {
        let Some(other) = purchase.applied(scenario) else { continue };
        let then = match unavailability(other) {
            Ok(then) => then,
            Err(ChainError::TooManyStates { .. }) => continue,
            Err(error) => return Err(error),
        };
        gains.push(Gain {
            purchase,
            unavailability: then,
            seconds_saved_per_year: downtime_seconds_per_year(now - then),
        });
    }
    gains.sort_by(|a, b| b.seconds_saved_per_year.total_cmp(&a.seconds_saved_per_year));
    Ok(gains)
}
