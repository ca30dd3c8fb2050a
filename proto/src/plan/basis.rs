//! Where each number of a plan comes from: given by whoever asks, measured in a mesh, declared there, or
//! assumed.
//!
//! Decides which of them counts, in that order, and says so for each number: a forecast is as good as what
//! it rests on. Owns the assumptions; each has its reason.

use serde::Serialize;

use super::input::{Parameter, SECONDS_PER_HOUR, Spec};
use super::interval;
use crate::view::PlanView;

/// How certain the limits of a measured rate are.
const LEVEL: f64 = 0.95;

/// What was asked for, as far as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs)] // each as the field of the same name in `Spec`
pub struct Given {
    pub hot: Option<u32>,
    pub warm: Option<u32>,
    pub needed: Option<u32>,
    pub mttf_hours: Option<f64>,
    /// From failure to failure; the time to failure follows from it and the repair.
    pub mtbf_hours: Option<f64>,
    pub warm_failure_share: Option<f64>,
    pub mttr_hours: Option<f64>,
    pub crews: Option<u32>,
    pub detection_seconds: Option<f64>,
    pub activation_seconds: Option<f64>,
    pub coverage: Option<f64>,
    pub recovery_seconds: Option<f64>,
    pub common_cause_share: Option<f64>,
}

/// Where a number comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// It was asked for.
    Given,
    /// By the mesh's configuration and policy.
    Declared,
    /// Out of so many observations.
    Measured {
        /// How many.
        count: u64,
        /// Limits within which the true one is with 95 %, where they are known.
        limits: Option<(f64, f64)>,
    },
    /// Neither; with the reason.
    Assumed(&'static str),
}

/// One number of the plan and its source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Basis {
    /// Which.
    pub parameter: Parameter,
    /// Its value, in the parameter's unit; `None`: as many crews as endpoints.
    pub value: Option<f64>,
    /// Where it comes from.
    pub source: Source,
}

/// A plan's input with the sources of all its numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gathered {
    /// The input.
    pub spec: Spec,
    /// In the order of the input.
    pub basis: Vec<Basis>,
}

const DESIGN: &str = "a small service, every hot endpoint needed";
const EVERY_MONTH: &str = "a host or its application fails once a month";
const AN_HOUR: &str = "somebody mends it within the hour";
const AS_A_HOST: &str = "a host fails no less for standing by";
const SILENCE: &str =
    "a silent link is confirmed after some 50 ms, the call-up made after some 100 ms";
const A_START: &str = "a process that starts and warms up";
const ALL_NOTICED: &str = "nobody can measure what nobody notices: an upper bound";
const FOUND: &str = "an hour until somebody calls";
const INDEPENDENT: &str = "shared causes are too rare to be measured: an upper bound";
const OWN_CREWS: &str = "each is mended by itself";

/// A number and its source, before it has a name.
struct Pick {
    value: f64,
    source: Source,
}

fn pick(given: Option<f64>, seen: Option<Pick>, assumed: (f64, &'static str)) -> Pick {
    match (given, seen) {
        (Some(value), _) => Pick { value, source: Source::Given },
        (None, Some(seen)) => seen,
        (None, None) => Pick { value: assumed.0, source: Source::Assumed(assumed.1) },
    }
}

/// Chooses each number; `seen` is what an agent has seen, where it was asked.
pub fn gather(given: &Given, seen: Option<&PlanView>) -> Gathered {
    let mut basis = Vec::new();
    let mut note = |parameter, pick: Pick| {
        basis.push(Basis { parameter, value: Some(pick.value), source: pick.source });
        pick.value
    };
    let counts = |given: Option<u32>, of: fn(&PlanView) -> u32, assumed: u32| {
        let declared = |view| Pick { value: f64::from(of(view)), source: Source::Declared };
        pick(given.map(f64::from), seen.map(declared), (f64::from(assumed), DESIGN))
    };
    // Whole numbers from u32 all of them: exact.
    let hot = note(Parameter::Hot, counts(given.hot, |v| v.hot, 3)) as u32;
    let warm = note(Parameter::Warm, counts(given.warm, |v| v.warm, 1)) as u32;
    let needed = note(Parameter::Needed, counts(given.needed, |v| v.needed, hot)) as u32;
    let mttr = pick(given.mttr_hours, seen.and_then(repair), (1.0, AN_HOUR));
    let of_mtbf = given.mtbf_hours.map(|mtbf| mtbf - mttr.value);
    let asked = given.mttf_hours.or(of_mtbf);
    let mttf_hours =
        note(Parameter::MttfHours, pick(asked, seen.and_then(failure), (720.0, EVERY_MONTH)));
    let warm_failure_share =
        note(Parameter::WarmFailureShare, pick(given.warm_failure_share, None, (1.0, AS_A_HOST)));
    let mttr_hours = note(Parameter::MttrHours, mttr);
    let detection_seconds = note(
        Parameter::DetectionSeconds,
        pick(given.detection_seconds, seen.and_then(detection), (0.1, SILENCE)),
    );
    let activation_seconds = note(
        Parameter::ActivationSeconds,
        pick(given.activation_seconds, seen.and_then(activation), (10.0, A_START)),
    );
    let coverage = note(Parameter::Coverage, pick(given.coverage, None, (1.0, ALL_NOTICED)));
    let recovery_seconds = note(
        Parameter::RecoverySeconds,
        pick(given.recovery_seconds, None, (SECONDS_PER_HOUR, FOUND)),
    );
    let common_cause_share =
        note(Parameter::CommonCauseShare, pick(given.common_cause_share, None, (0.0, INDEPENDENT)));
    let source = given.crews.map_or(Source::Assumed(OWN_CREWS), |_| Source::Given);
    basis.push(Basis { parameter: Parameter::Crews, value: given.crews.map(f64::from), source });
    let spec = Spec {
        warm_failure_share,
        crews: given.crews,
        detection_seconds,
        activation_seconds,
        coverage,
        recovery_seconds,
        common_cause_share,
        warm,
        ..Spec::new(hot, warm, needed, mttf_hours, mttr_hours)
    };
    Gathered { spec, basis }
}

/// Time served per loss, with the limits that a count of losses has.
fn failure(view: &PlanView) -> Option<Pick> {
    if view.losses == 0 || view.served_s <= 0.0 {
        return None;
    }
    let hours = view.served_s / SECONDS_PER_HOUR;
    let (few, many) = interval::of_count(view.losses, LEVEL);
    let limits = Some((hours / many, hours / few));
    let source = Source::Measured { count: view.losses, limits };
    Some(Pick { value: hours / view.losses as f64, source })
}

fn repair(view: &PlanView) -> Option<Pick> {
    measured(view.repair.count, view.repair.mean_s / SECONDS_PER_HOUR)
}

fn detection(view: &PlanView) -> Option<Pick> {
    measured(view.detection.count, view.detection.mean_s)
}

/// By the owners' own clocks; else what a caller saw from the evidence on, which is a little longer.
fn activation(view: &PlanView) -> Option<Pick> {
    measured(view.activation.count, view.activation.mean_s)
        .or_else(|| measured(view.takeover.count, view.takeover.mean_s))
}

fn measured(count: u64, value: f64) -> Option<Pick> {
    (count > 0).then_some(Pick { value, source: Source::Measured { count, limits: None } })
}

/// The least mean time to failure, in hours, that `seen` leaves probable when nothing was lost; `None`:
/// something was, or nothing was seen at all.
pub fn at_least_without_loss(seen: &PlanView) -> Option<f64> {
    let hours = seen.served_s / SECONDS_PER_HOUR;
    (seen.losses == 0 && hours > 0.0).then(|| hours / interval::of_count(0, LEVEL).1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NodeName, ServiceName};
    use crate::view::TimesView;

    fn seen() -> PlanView {
        let times = |count, mean_s| TimesView { count, mean_s, p50_s: mean_s, p95_s: 2.0 * mean_s };
        PlanView {
            service: ServiceName::parse("ledger").unwrap(),
            node: NodeName::parse("web-1").unwrap(),
            hot: 4,
            warm: 2,
            needed: 3,
            serving: 4,
            watched_s: 36_000.0,
            served_s: 144_000.0,
            losses: 5,
            detection: times(4, 0.055),
            takeover: times(5, 2.5),
            repair: times(3, 1_800.0),
            activation: times(7, 2.0),
            activations_failed: 1,
        }
    }

    fn source(gathered: &Gathered, of: Parameter) -> &Source {
        &gathered.basis.iter().find(|b| b.parameter == of).unwrap().source
    }

    #[test]
    fn without_a_mesh_what_was_not_given_is_assumed_and_says_why() {
        let gathered = gather(&Given { hot: Some(5), ..Given::default() }, None);
        assert_eq!((gathered.spec.hot, gathered.spec.needed), (5, 5), "all of them, as by default");
        assert_eq!(source(&gathered, Parameter::Hot), &Source::Given);
        assert_eq!(source(&gathered, Parameter::MttfHours), &Source::Assumed(EVERY_MONTH));
        assert!(gathered.spec.parse().is_ok());
        assert_eq!(gathered.basis.len(), 12, "every number of a spec has a source");
    }

    #[test]
    fn what_is_given_goes_before_what_was_measured_before_what_is_assumed() {
        let given = Given { activation_seconds: Some(9.0), ..Given::default() };
        let gathered = gather(&given, Some(&seen()));
        let spec = &gathered.spec;
        assert_eq!((spec.hot, spec.warm, spec.needed), (4, 2, 3));
        assert_eq!((spec.mttf_hours, spec.mttr_hours), (8.0, 0.5));
        assert_eq!((spec.detection_seconds, spec.activation_seconds), (0.055, 9.0));
        assert_eq!(source(&gathered, Parameter::ActivationSeconds), &Source::Given);
        assert_eq!(source(&gathered, Parameter::Needed), &Source::Declared);
        assert!(matches!(source(&gathered, Parameter::Coverage), Source::Assumed(_)));
        let Source::Measured { count: 5, limits: Some((low, high)) } =
            source(&gathered, Parameter::MttfHours)
        else {
            panic!("{gathered:?}")
        };
        assert!((low - 40.0 / 11.668).abs() < 1e-3 && (high - 40.0 / 1.623).abs() < 0.01);
    }

    #[test]
    fn where_nothing_was_lost_the_rate_is_assumed_and_what_was_seen_bounds_it() {
        let none = TimesView::default();
        let calm = PlanView {
            losses: 0,
            detection: none,
            takeover: none,
            repair: none,
            activation: none,
            ..seen()
        };
        let gathered = gather(&Given::default(), Some(&calm));
        assert_eq!(source(&gathered, Parameter::MttfHours), &Source::Assumed(EVERY_MONTH));
        assert!((at_least_without_loss(&calm).unwrap() - 40.0 / 3.689).abs() < 1e-2);
        assert_eq!(at_least_without_loss(&seen()), None);
    }

    #[test]
    fn where_no_owner_timed_an_activation_what_was_seen_of_takeovers_stands_in() {
        let view = PlanView { activation: TimesView::default(), ..seen() };
        let gathered = gather(&Given::default(), Some(&view));
        assert_eq!(gathered.spec.activation_seconds, 2.5);
    }

    #[test]
    fn the_time_between_failures_holds_the_repair() {
        let given = Given { mtbf_hours: Some(101.0), mttr_hours: Some(1.0), ..Given::default() };
        assert_eq!(gather(&given, None).spec.mttf_hours, 100.0);
    }
}
