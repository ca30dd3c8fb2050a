//! `hearth plan`: from options, and what an agent has seen, to a forecast; and from a refusal to the option
//! that caused it.
//!
//! The mathematics is `hearth_proto::plan`'s, the layout [`show_plan`](super::show_plan)'s.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use hearth_proto::ids::ServiceName;
use hearth_proto::plan::basis::{self, Basis, Given};
use hearth_proto::plan::chain::ChainError;
use hearth_proto::plan::chart::{Chart, svg};
use hearth_proto::plan::input::{Hours, InputError, Parameter, SECONDS_PER_HOUR};
use hearth_proto::plan::report::duration;
use hearth_proto::plan::{PlanError, Report};
use hearth_proto::time::Span;
use hearth_proto::view::PlanView;
use serde::Serialize;

use crate::failure::{Exit, Failure};

/// Options of the scenario.
const SCENARIO: &str = "The service";
/// Options of the rates and times.
const RATES: &str = "Failures and repairs";
/// Options of what is shown.
const SHOWN: &str = "What is shown";

#[derive(Args)]
pub(super) struct PlanArgs {
    /// Take counts, times and losses as the agent on this host has seen them; options below go before
    #[arg(long, value_name = "SERVICE", help_heading = SCENARIO)]
    pub(super) from_live: Option<ServiceName>,
    /// Endpoints that serve when all is well [default: 3]
    #[arg(long, value_name = "N", help_heading = SCENARIO)]
    hot: Option<u32>,
    /// Endpoints that stand by [default: 1]
    #[arg(long, value_name = "M", help_heading = SCENARIO)]
    warm: Option<u32>,
    /// How many must serve for the service to be up [default: all hot ones]
    #[arg(long, value_name = "K", help_heading = SCENARIO)]
    needed: Option<u32>,
    /// Mean time from repaired to failed, of one endpoint [default: 30d]
    #[arg(long, value_name = "DURATION", value_parser = Span::parse, conflicts_with = "mtbf",
        help_heading = RATES)]
    mttf: Option<Span>,
    /// Mean time from failure to failure, the repair included; instead of --mttf
    #[arg(long, value_name = "DURATION", value_parser = Span::parse, help_heading = RATES)]
    mtbf: Option<Span>,
    /// Mean time from a failure that is known to its repair [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = Span::parse, help_heading = RATES)]
    mttr: Option<Span>,
    /// How many are repaired at once [default: all that failed]
    #[arg(long, value_name = "N", help_heading = RATES)]
    crews: Option<u32>,
    /// Mean time from a loss to its being known [default: 100ms]
    #[arg(long, value_name = "DURATION", value_parser = Span::parse, help_heading = RATES)]
    detection: Option<Span>,
    /// Mean time from call-up to serving, of a warm endpoint [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = Span::parse, help_heading = RATES)]
    activation: Option<Span>,
    /// Share of failures that the mesh notices by itself, 0.99 or 99% [default: 1]
    #[arg(long, value_name = "SHARE", value_parser = share, help_heading = RATES)]
    coverage: Option<f64>,
    /// Mean time until one it did not notice is found otherwise [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = Span::parse, help_heading = RATES)]
    recovery: Option<Span>,
    /// Share of failures that strike all endpoints together [default: 0]
    #[arg(long, value_name = "SHARE", value_parser = share, help_heading = RATES)]
    common_cause: Option<f64>,
    /// How fast one that stands by fails, as a share of one that serves [default: 1]
    #[arg(long, value_name = "SHARE", value_parser = share, help_heading = RATES)]
    warm_failures: Option<f64>,
    /// The interval, from "all is well", that is looked at beside the long run
    #[arg(long, value_name = "DURATION", value_parser = Span::parse, default_value = "365d",
        help_heading = SHOWN)]
    over: Span,
    /// The curve: over activation time, over the number of warm endpoints, or none
    #[arg(long, value_enum, default_value = "activation", help_heading = SHOWN)]
    chart: Axis,
    /// Draw the curve into a file as well
    #[arg(long, value_name = "FILE", help_heading = SHOWN)]
    svg: Option<PathBuf>,
    /// All textbook shortcuts beside what they stand for
    #[arg(long, help_heading = SHOWN)]
    pub(super) shortcuts: bool,
}

/// What a chart's x is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Axis {
    Activation,
    Warm,
    None,
}

/// A plan, solved.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Plan {
    /// What an agent has seen, where one was asked.
    pub(super) seen: Option<PlanView>,
    /// Where each number comes from.
    pub(super) basis: Vec<Basis>,
    /// What follows.
    pub(super) report: Report,
    /// The curve, where one was asked for.
    pub(super) chart: Option<Chart>,
}

/// A share as people write it.
fn share(text: &str) -> Result<f64, String> {
    let bad = || format!("{text:?} is no share; write for example 0.99 or 99%");
    match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|p| p / 100.0).map_err(|_| bad()),
        None => text.parse().map_err(|_| bad()),
    }
}

fn seconds(span: Option<Span>) -> Option<f64> {
    span.map(|span| span.0.as_secs_f64())
}

fn hours(span: Option<Span>) -> Option<f64> {
    seconds(span).map(|seconds| seconds / SECONDS_PER_HOUR)
}

impl PlanArgs {
    fn given(&self) -> Given {
        Given {
            hot: self.hot,
            warm: self.warm,
            needed: self.needed,
            mttf_hours: hours(self.mttf),
            mtbf_hours: hours(self.mtbf),
            warm_failure_share: self.warm_failures,
            mttr_hours: hours(self.mttr),
            crews: self.crews,
            detection_seconds: seconds(self.detection),
            activation_seconds: seconds(self.activation),
            coverage: self.coverage,
            recovery_seconds: seconds(self.recovery),
            common_cause_share: self.common_cause,
        }
    }

    /// Solves it, with what an agent has seen where it was asked.
    pub(super) fn solve(&self, seen: Option<PlanView>) -> Result<Plan, Failure> {
        let gathered = basis::gather(&self.given(), seen.as_ref());
        let scenario = gathered.spec.parse().map_err(|e| self.refused(&e))?;
        let over = self.over.0.as_secs_f64() / SECONDS_PER_HOUR;
        let horizon = Hours::new(Parameter::HorizonHours, over).map_err(|e| self.refused(&e))?;
        let report = Report::new(scenario, horizon).map_err(|e| unsolved(&e))?;
        let chart = match self.chart {
            Axis::Activation => Some(Chart::by_activation(&scenario)),
            Axis::Warm => Some(Chart::by_warm(&scenario)),
            Axis::None => None,
        };
        let chart = chart.transpose().map_err(|e| unsolved(&PlanError::from(e)))?;
        Ok(Plan { seen, basis: gathered.basis, report, chart })
    }

    /// Writes the curve, if that was asked for.
    pub(super) fn draw(&self, plan: &Plan) -> Result<(), Failure> {
        let Some(file) = &self.svg else { return Ok(()) };
        let Some(chart) = &plan.chart else {
            return Err(Failure::new(
                Exit::Usage,
                "--svg has nothing to draw with --chart none",
                "choose --chart activation or --chart warm",
            ));
        };
        std::fs::write(file, svg::render(chart)).map_err(|e| unwritable(file, &e))
    }

    /// The option by which a parameter is given.
    fn option(&self, parameter: Parameter) -> &'static str {
        match parameter {
            Parameter::Hot => "--hot",
            Parameter::Warm => "--warm",
            Parameter::Needed => "--needed",
            Parameter::MttfHours if self.mtbf.is_some() => "--mtbf less --mttr:",
            Parameter::MttfHours => "--mttf",
            Parameter::WarmFailureShare => "--warm-failures",
            Parameter::MttrHours => "--mttr",
            Parameter::Crews => "--crews",
            Parameter::DetectionSeconds => "--detection",
            Parameter::ActivationSeconds => "--activation",
            Parameter::Coverage => "--coverage",
            Parameter::RecoverySeconds => "--recovery",
            Parameter::CommonCauseShare => "--common-cause",
            Parameter::HorizonHours => "--over",
        }
    }

    /// A refusal in the words of the command line.
    fn refused(&self, error: &InputError) -> Failure {
        match error {
            InputError::OutOfRange { parameter, value, least, most } => {
                let say = |value: f64| written(*parameter, value);
                Failure::new(
                    Exit::Usage,
                    format!("cannot plan with {} {}", self.option(*parameter), say(*value)),
                    format!("allowed is {} to {}", say(*least), say(*most)),
                )
            }
            InputError::NeededExceedsHot { needed, hot } => Failure::new(
                Exit::Usage,
                format!("cannot plan with --needed {needed} of --hot {hot}"),
                format!(
                    "allowed is 1 to {hot}: only hot endpoints serve while all is well, warm ones \
                     replace lost ones"
                ),
            ),
        }
    }
}

/// A parameter's value in the unit people write it in.
pub(super) fn written(parameter: Parameter, value: f64) -> String {
    match parameter {
        Parameter::MttfHours | Parameter::MttrHours | Parameter::HorizonHours => {
            duration(value * SECONDS_PER_HOUR)
        }
        Parameter::DetectionSeconds | Parameter::ActivationSeconds | Parameter::RecoverySeconds => {
            duration(value)
        }
        Parameter::Hot
        | Parameter::Warm
        | Parameter::Needed
        | Parameter::Crews
        | Parameter::Coverage
        | Parameter::CommonCauseShare
        | Parameter::WarmFailureShare => format!("{value}"),
    }
}

fn unsolved(error: &PlanError) -> Failure {
    let hint = match error {
        PlanError::Chain(ChainError::TooManyStates { .. }) => {
            "fewer --hot or --warm, or --coverage 1, make it smaller"
        }
        PlanError::Chain(_) => "",
        PlanError::Transient(_) => "a shorter --over can be solved; the long run needs none",
    };
    Failure::new(Exit::Data, error, hint)
}

fn unwritable(file: &Path, error: &std::io::Error) -> Failure {
    Failure::new(
        Exit::CannotCreate,
        format!("cannot write the chart {}: {error}", file.display()),
        "check the path and its directory",
    )
}

#[cfg(test)]
mod tests;
