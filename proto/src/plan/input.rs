//! What a plan is asked about: counts, rates, shares and times, checked once.
//!
//! Owns the vocabulary ([`Rate`], [`Share`], [`Hours`], [`Counts`]) and the way from what people and
//! files say ([`Spec`]) to what can be solved ([`Scenario`]). Every refusal names the parameter, what
//! was given and what is allowed. A `Scenario` that exists can be enumerated without a further check
//! but that of its size.

use std::fmt;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Seconds in an hour: people say activation in seconds, the model counts hours.
pub const SECONDS_PER_HOUR: f64 = 3_600.0;
/// Hours in a year of 365 days, the usual base of "minutes per year".
pub const HOURS_PER_YEAR: f64 = 8_760.0;

/// Every number a plan takes, by the name it has in a [`Spec`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // each is described at the field of the same name in `Spec`
pub enum Parameter {
    Hot,
    Warm,
    Needed,
    MttfHours,
    WarmFailureShare,
    MttrHours,
    Crews,
    DetectionSeconds,
    ActivationSeconds,
    Coverage,
    RecoverySeconds,
    CommonCauseShare,
    /// The time an interval availability is about; not part of a `Spec`.
    HorizonHours,
}

impl Parameter {
    /// The name in a [`Spec`], in files and in options.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Warm => "warm",
            Self::Needed => "needed",
            Self::MttfHours => "mttf_hours",
            Self::WarmFailureShare => "warm_failure_share",
            Self::MttrHours => "mttr_hours",
            Self::Crews => "crews",
            Self::DetectionSeconds => "detection_seconds",
            Self::ActivationSeconds => "activation_seconds",
            Self::Coverage => "coverage",
            Self::RecoverySeconds => "recovery_seconds",
            Self::CommonCauseShare => "common_cause_share",
            Self::HorizonHours => "horizon_hours",
        }
    }

    /// The smallest and largest value accepted. Wide enough for anything in operation, narrow enough
    /// that no product of them leaves a double's range.
    pub const fn range(self) -> (f64, f64) {
        match self {
            Self::Hot | Self::Needed => (1.0, 200.0),
            Self::Warm => (0.0, 200.0),
            Self::Crews => (1.0, 400.0),
            Self::MttfHours => (1e-3, 1e9),
            Self::MttrHours => (1e-6, 1e6),
            Self::WarmFailureShare | Self::Coverage | Self::CommonCauseShare => (0.0, 1.0),
            Self::DetectionSeconds | Self::ActivationSeconds => (0.0, 1e7),
            Self::RecoverySeconds => (1e-3, 1e9),
            Self::HorizonHours => (1e-6, 1e7),
        }
    }

    fn check(self, value: f64) -> Result<f64, InputError> {
        let (least, most) = self.range();
        if value >= least && value <= most {
            Ok(value)
        } else {
            Err(InputError::OutOfRange { parameter: self, value, least, most })
        }
    }
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a plan's input was refused.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum InputError {
    /// A value outside what is possible or can be computed.
    #[error("cannot plan with {parameter} = {value}: allowed is {least} to {most}")]
    OutOfRange {
        /// What was given.
        parameter: Parameter,
        /// Its value.
        value: f64,
        /// The smallest allowed.
        least: f64,
        /// The largest allowed.
        most: f64,
    },
    /// More endpoints are needed than ever serve.
    #[error(
        "cannot plan with needed = {needed} of hot = {hot}: allowed is 1 to {hot}, as only hot \
         endpoints serve while all is well"
    )]
    NeededExceedsHot {
        /// How many must serve.
        needed: u32,
        /// How many serve when all is well.
        hot: u32,
    },
}

/// A rate per hour, above zero and finite.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize)]
pub struct Rate(f64);

impl Rate {
    /// The rate of what happens once per `hours` on average; `parameter` names it in a refusal.
    pub fn once_per_hours(parameter: Parameter, hours: f64) -> Result<Self, InputError> {
        let (least, most) = parameter.range();
        // A mean of zero would be no rate, whatever the parameter allows.
        if hours > 0.0 {
            parameter.check(hours).map(|hours| Self(1.0 / hours))
        } else {
            Err(InputError::OutOfRange { parameter, value: hours, least, most })
        }
    }

    /// Per hour.
    pub const fn per_hour(self) -> f64 {
        self.0
    }

    /// The mean time until it happens.
    pub fn mean(self) -> Hours {
        Hours(1.0 / self.0)
    }

    /// This rate times a factor, for "what if": the factor must be above zero and finite.
    pub(super) fn scaled(self, factor: f64) -> Self {
        Self(self.0 * factor)
    }
}

/// A share or probability, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize)]
pub struct Share(f64);

impl Share {
    /// Nothing.
    pub const NONE: Self = Self(0.0);
    /// All.
    pub const ALL: Self = Self(1.0);

    /// A share from 0 to 1; `parameter` names it in a refusal.
    pub fn new(parameter: Parameter, value: f64) -> Result<Self, InputError> {
        if (0.0..=1.0).contains(&value) {
            Ok(Self(value))
        } else {
            Err(InputError::OutOfRange { parameter, value, least: 0.0, most: 1.0 })
        }
    }

    /// As a number from 0 to 1.
    pub const fn value(self) -> f64 {
        self.0
    }

    /// What is missing to all of it.
    pub fn rest(self) -> Self {
        Self(1.0 - self.0)
    }

    /// This share times a factor, at most all.
    pub(super) fn scaled(self, factor: f64) -> Self {
        Self((self.0 * factor).clamp(0.0, 1.0))
    }
}

/// A time in hours, zero or more and finite.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize)]
pub struct Hours(f64);

impl Hours {
    /// No time at all.
    pub const ZERO: Self = Self(0.0);

    /// A time in hours; `parameter` names it and its range in a refusal.
    pub fn new(parameter: Parameter, hours: f64) -> Result<Self, InputError> {
        parameter.check(hours).map(Self)
    }

    /// A time from seconds, for a `parameter` that is counted in seconds.
    pub fn from_seconds(parameter: Parameter, seconds: f64) -> Result<Self, InputError> {
        parameter.check(seconds).map(|seconds| Self(seconds / SECONDS_PER_HOUR))
    }

    /// As hours.
    pub const fn hours(self) -> f64 {
        self.0
    }

    /// As seconds.
    pub fn seconds(self) -> f64 {
        self.0 * SECONDS_PER_HOUR
    }

    /// This time and so many seconds more, which must not be negative, and finite.
    pub(super) fn plus_seconds(self, seconds: f64) -> Self {
        Self(self.0 + seconds / SECONDS_PER_HOUR)
    }

    /// This time times a factor, for "what if": the factor must not be negative, and finite.
    pub(super) fn scaled(self, factor: f64) -> Self {
        Self(self.0 * factor)
    }
}

/// How many endpoints there are and how many must serve: 1 ≤ needed ≤ hot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Counts {
    hot: u32,
    warm: u32,
    needed: u32,
}

impl Counts {
    /// `hot` serve, `warm` stand by, and the service is up while at least `needed` serve.
    pub fn new(hot: u32, warm: u32, needed: u32) -> Result<Self, InputError> {
        Parameter::Hot.check(f64::from(hot))?;
        Parameter::Warm.check(f64::from(warm))?;
        Parameter::Needed.check(f64::from(needed))?;
        if needed > hot {
            return Err(InputError::NeededExceedsHot { needed, hot });
        }
        Ok(Self { hot, warm, needed })
    }

    /// N: how many serve when all is well.
    pub const fn hot(self) -> u32 {
        self.hot
    }

    /// M: how many stand by.
    pub const fn warm(self) -> u32 {
        self.warm
    }

    /// k: how many must serve for the service to be up.
    pub const fn needed(self) -> u32 {
        self.needed
    }

    /// All endpoints.
    pub const fn total(self) -> u32 {
        self.hot + self.warm
    }
}

/// Who repairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Crews {
    /// Every failed endpoint is worked on at once (an orchestrator restarts each by itself).
    EachItsOwn,
    /// So many at a time; the others wait.
    Shared(NonZeroU32),
}

impl Crews {
    /// How many of `failed` endpoints are being worked on.
    pub fn busy(self, failed: u32) -> u32 {
        match self {
            Self::EachItsOwn => failed,
            Self::Shared(crews) => failed.min(crews.get()),
        }
    }
}

/// A scenario as people and files write it: plain numbers with their units in their names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// N: endpoints that serve when all is well.
    pub hot: u32,
    /// M: endpoints that stand by.
    #[serde(default)]
    pub warm: u32,
    /// k: how many must serve for the service to be up.
    pub needed: u32,
    /// Mean time to failure of one serving endpoint, 1/λ: from repaired to failed, not from failure
    /// to failure (that would be MTBF, longer by the repair).
    pub mttf_hours: f64,
    /// a: how fast one that stands by fails, as a share of λ: 0 cold, 1 as a hot one.
    #[serde(default)]
    pub warm_failure_share: f64,
    /// Mean time from known failure to repaired, 1/μ.
    pub mttr_hours: f64,
    /// How many are repaired at once; absent: each has a crew of its own.
    #[serde(default)]
    pub crews: Option<u32>,
    /// Mean time from a loss to the mesh knowing of it.
    #[serde(default)]
    pub detection_seconds: f64,
    /// Mean time from being called up to serving; 0: at once.
    #[serde(default)]
    pub activation_seconds: f64,
    /// c: share of failures of serving endpoints that the mesh notices by itself.
    #[serde(default = "all")]
    pub coverage: f64,
    /// 1/β: mean time until a failure it did not notice is found otherwise.
    #[serde(default = "an_hour")]
    pub recovery_seconds: f64,
    /// b: share of λ that strikes all endpoints together (rack, configuration push, version).
    #[serde(default)]
    pub common_cause_share: f64,
}

fn all() -> f64 {
    1.0
}

/// Until somebody calls: the assumption for a failure no check sees.
fn an_hour() -> f64 {
    SECONDS_PER_HOUR
}

impl Spec {
    /// Hot-warm with everything optional at its default: cold bench, own crews, no time lost, full
    /// coverage, independent failures.
    pub fn new(hot: u32, warm: u32, needed: u32, mttf_hours: f64, mttr_hours: f64) -> Self {
        Self {
            hot,
            warm,
            needed,
            mttf_hours,
            warm_failure_share: 0.0,
            mttr_hours,
            crews: None,
            detection_seconds: 0.0,
            activation_seconds: 0.0,
            coverage: all(),
            recovery_seconds: an_hour(),
            common_cause_share: 0.0,
        }
    }

    /// Checks every number; the first that cannot be is named.
    pub fn parse(&self) -> Result<Scenario, InputError> {
        use Parameter as P;
        let crews = match self.crews {
            None => Crews::EachItsOwn,
            Some(crews) => {
                P::Crews.check(f64::from(crews))?;
                NonZeroU32::new(crews).map_or(Crews::EachItsOwn, Crews::Shared)
            }
        };
        P::RecoverySeconds.check(self.recovery_seconds)?;
        Ok(Scenario {
            counts: Counts::new(self.hot, self.warm, self.needed)?,
            failure: Rate::once_per_hours(P::MttfHours, self.mttf_hours)?,
            warm_share: Share::new(P::WarmFailureShare, self.warm_failure_share)?,
            repair: Rate::once_per_hours(P::MttrHours, self.mttr_hours)?,
            crews,
            detection: Hours::from_seconds(P::DetectionSeconds, self.detection_seconds)?,
            activation: Hours::from_seconds(P::ActivationSeconds, self.activation_seconds)?,
            missed: Share::new(P::Coverage, self.coverage)?.rest(),
            recovery: Rate(SECONDS_PER_HOUR / self.recovery_seconds),
            common_cause: Share::new(P::CommonCauseShare, self.common_cause_share)?,
        })
    }
}

/// A checked scenario, ready to be solved.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Scenario {
    /// N, M and k.
    pub counts: Counts,
    /// λ: failures per hour of one serving endpoint, common causes included.
    pub failure: Rate,
    /// a: λ_w = a·λ.
    pub warm_share: Share,
    /// μ.
    pub repair: Rate,
    /// Who repairs.
    pub crews: Crews,
    /// From a loss to the mesh knowing of it.
    pub detection: Hours,
    /// From being called up to serving.
    pub activation: Hours,
    /// 1 − c: share of failures the mesh does not notice.
    pub missed: Share,
    /// β: rate at which an unnoticed failure is found otherwise.
    pub recovery: Rate,
    /// b.
    pub common_cause: Share,
}

impl Scenario {
    /// δ: the rate from a loss to its replacement serving, detection included; `None`: at once.
    pub fn takeover(&self) -> Option<Rate> {
        let hours = self.detection.0 + self.activation.0;
        // Below a microsecond it is instantaneous for every purpose but overflow.
        (hours * SECONDS_PER_HOUR >= 1e-6).then(|| Rate(1.0 / hours))
    }

    /// λ_w: failures per hour of one that stands by or activates.
    pub fn warm_failure_per_hour(&self) -> f64 {
        self.warm_share.0 * self.failure.0
    }
}
