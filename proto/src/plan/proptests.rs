//! Laws of availability, over random designs.
//!
//! More failures or slower repair never help, *as long as taking over is faster than repair*. Beyond
//! that the model's rule 4 (a repaired endpoint waits on the bench while another activates) lets a
//! bench do harm. Slower takeover or more unnoticed failures never help *where all that serve are
//! needed*; where more serve, a delay can spare a cold bench. Both limits have tests, at the end.

use proptest::prelude::*;

use super::closed;
use super::forecast::{Forecast, unavailability};
use super::input::{Hours, Parameter, Scenario, Share, Spec};
use super::model::{Model, State};
use super::sensitivity::Lever;
use super::transient;

/// What rounding may do to a comparison of two solved models.
const ROUNDING: f64 = 1e-11;

prop_compose! {
    /// Designs up to 5 + 3 with failures from every few hours to once in years, repair in minutes to
    /// days but faster than failure, and takeover at least ten times faster than repair.
    fn designs()(
        hot in 1u32..=5,
        warm in 0u32..=3,
        needed_of in 0.0..1.0f64,
        mttr_exponent in -1.0..2.0f64,
        failure_exponent in 0.5..4.0f64,
        takeover_exponent in 1.0..5.0f64,
        warm_failure_share in 0.0..=1.0f64,
        crews in prop::option::of(1u32..=4),
        missed in prop_oneof![Just(0.0), 0.0..0.5f64],
        recovery_exponent in -2.0..1.0f64,
        common_cause_share in prop_oneof![3 => Just(0.0), 1 => 0.0..0.3f64],
        detected in 0.0..1.0f64,
    ) -> Spec {
        let mttr_hours = 10f64.powf(mttr_exponent);
        let takeover = mttr_hours * 3_600.0 * 10f64.powf(-takeover_exponent);
        Spec {
            warm,
            warm_failure_share,
            crews,
            detection_seconds: takeover * detected,
            activation_seconds: takeover * (1.0 - detected),
            coverage: 1.0 - missed,
            recovery_seconds: mttr_hours * 3_600.0 * 10f64.powf(recovery_exponent),
            common_cause_share,
            ..Spec::new(
                hot,
                0,
                1 + (needed_of * f64::from(hot)) as u32,
                mttr_hours * 10f64.powf(failure_exponent),
                mttr_hours,
            )
        }
    }
}

fn small() -> impl Strategy<Value = Spec> {
    designs().prop_map(|spec| Spec {
        hot: spec.hot.min(3),
        warm: spec.warm.min(1),
        needed: spec.needed.min(3),
        ..spec
    })
}

fn scenario(spec: &Spec) -> Scenario {
    spec.parse().unwrap()
}

fn solve(scenario: Scenario) -> f64 {
    unavailability(scenario).unwrap()
}

fn no_less(more: f64, less: f64) -> Result<(), TestCaseError> {
    prop_assert!(more >= less * (1.0 - ROUNDING), "{more:e} < {less:e}");
    Ok(())
}

fn alike(a: f64, b: f64, tolerance: f64) -> Result<(), TestCaseError> {
    prop_assert!((a - b).abs() <= tolerance * a.max(b), "{a:e} is not {b:e}");
    Ok(())
}

/// Everything noticed, struck one by one.
fn plain(spec: &Spec) -> Spec {
    Spec { coverage: 1.0, common_cause_share: 0.0, ..spec.clone() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn probabilities_are_probabilities_and_balance(spec in designs()) {
        let model = Model::new(scenario(&spec)).unwrap();
        let chain = model.chain();
        let pi = chain.steady().unwrap();
        prop_assert!(pi.iter().all(|share| *share >= 0.0 && share.is_finite()));
        alike(pi.iter().sum(), 1.0, 1e-12)?;
        // What flows into each state flows out of it.
        for state in 0..chain.states() {
            let into: f64 = (0..chain.states())
                .flat_map(|from| chain.rates_from(from).iter().map(move |rate| (from, rate)))
                .filter(|(_, (to, _))| *to == state)
                .map(|(from, (_, rate))| pi[from] * rate)
                .sum();
            alike(into, pi[state] * chain.leaving(state), 1e-9)?;
        }
    }

    #[test]
    fn nobody_is_lost_from_the_count_and_all_well_comes_first(spec in designs()) {
        let model = Model::new(scenario(&spec)).unwrap();
        for (index, state) in model.states().iter().enumerate() {
            let State::Counted(it) = state else { continue };
            let total = it.hot + it.activating + it.warm + it.unnoticed + it.failed();
            prop_assert_eq!(total, spec.hot + spec.warm);
            prop_assert!(it.hot + it.activating + it.unnoticed <= spec.hot);
            prop_assert_eq!(index == 0, it.hot == spec.hot && it.failed() == 0 && it.warm == spec.warm);
            // Nobody stands by while a place is open.
            prop_assert!(it.warm == 0 || it.hot + it.activating + it.unnoticed == spec.hot);
        }
    }

    #[test]
    fn worse_is_never_better(spec in designs(), factor in 1.01..3.0f64) {
        let it = scenario(&spec);
        let now = solve(it);
        for lever in Lever::ALL {
            let holds = match lever {
                // More of a shared cause may help where each alone is worse (k = N: ten failures at
                // once are one outage); failures while standing by have a law of their own.
                Lever::CommonCauseShare | Lever::WarmFailureShare => false,
                // What stands by or activates fails less often than what serves: where more serve than
                // must, whatever delays a takeover spares the bench. (See the test below.)
                Lever::DetectionTime
                | Lever::ActivationTime
                | Lever::MissedShare
                | Lever::RecoveryTime => spec.needed == spec.hot,
                Lever::FailureRate | Lever::RepairTime => true,
            };
            let then = solve(lever.times(&it, factor));
            prop_assert!(!holds || then >= now * (1.0 - ROUNDING), "{lever:?}: {then:e} < {now:e}");
        }
    }

    #[test]
    fn an_endpoint_more_never_hurts(spec in designs()) {
        let now = solve(scenario(&spec));
        let warm = Spec { warm: spec.warm + 1, ..spec.clone() };
        no_less(now, solve(scenario(&warm)))?;
        if spec.needed > 1 {
            let fewer = Spec { needed: spec.needed - 1, ..spec.clone() };
            no_less(now, solve(scenario(&fewer)))?;
        }
    }

    #[test]
    fn cold_is_no_worse_than_warm_and_warm_no_worse_than_hot(spec in designs()) {
        let with = |share| solve(scenario(&Spec { warm_failure_share: share, ..plain(&spec) }));
        let (cold, warm, hot) = (with(0.0), with(spec.warm_failure_share), with(1.0));
        no_less(warm, cold)?;
        no_less(hot, warm)?;
    }

    #[test]
    fn without_a_bench_and_with_a_crew_each_it_is_k_of_n(spec in designs()) {
        let it = scenario(&Spec { warm: 0, crews: None, ..plain(&spec) });
        let single = closed::single_unavailability(it.failure, it.repair);
        let single = Share::new(Parameter::Coverage, single).unwrap();
        alike(solve(it), closed::k_of_n_unavailability(spec.needed, spec.hot, single), 1e-9)?;
    }

    #[test]
    fn a_takeover_ever_faster_tends_to_the_pair_s_formula(spec in designs()) {
        let pair = Spec { hot: 1, warm: 1, needed: 1, crews: Some(1), ..plain(&spec) };
        let at = |seconds| {
            solve(scenario(&Spec {
                detection_seconds: 0.0, activation_seconds: seconds, ..pair.clone()
            }))
        };
        let it = scenario(&pair);
        let formula =
            closed::pair_with_one_crew(it.failure, it.warm_share, it.repair).unavailability;
        alike(at(0.0), formula, 1e-9)?;
        let (slow, fast) = (at(1e-2) - formula, at(1e-5) - formula);
        // The rest shrinks with the time, as λ/δ does.
        prop_assert!(slow >= 0.0 && fast <= slow * 2e-3 + formula * 1e-9, "{slow:e} {fast:e}");
    }

    #[test]
    fn a_common_cause_is_a_floor(spec in designs()) {
        let it = scenario(&spec);
        let single = closed::single_unavailability(it.failure, it.repair);
        no_less(solve(it), it.common_cause.value() * single)?;
    }

    #[test]
    fn whatever_is_said_is_refused_by_name_or_solved(
        counts in (0u32..300, 0u32..300, 0u32..300),
        numbers in prop::array::uniform7(prop_oneof![
            any::<f64>(), 0.0..=1.0f64, Just(0.0), Just(f64::INFINITY), 1.0..1e4f64
        ]),
    ) {
        let [mttf_hours, mttr_hours, share, detection_seconds, activation_seconds, coverage, b] =
            numbers;
        let spec = Spec {
            warm: counts.1,
            warm_failure_share: share,
            detection_seconds,
            activation_seconds,
            coverage,
            common_cause_share: b,
            ..Spec::new(counts.0, 0, counts.2, mttf_hours, mttr_hours)
        };
        match spec.parse() {
            Err(error) => prop_assert!(error.to_string().contains("allowed is")),
            // Small ones are solved; large ones may be refused, but never panic.
            Ok(it) if it.counts.total() <= 8 => {
                let u = solve(it);
                prop_assert!((0.0..=1.0 + 1e-12).contains(&u), "{u:e}");
            }
            Ok(_) => {}
        }
    }
}

proptest! {
    // Following a chain through time costs seconds in a debug build: few designs, and small ones.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_fresh_start_is_no_worse_than_the_long_run_and_tends_to_it(spec in small()) {
        let model = Model::new(scenario(&spec)).unwrap();
        let chain = model.chain();
        let steady = chain.unavailability(&chain.steady().unwrap());
        let over = |mttrs: f64| {
            let time = Hours::new(Parameter::HorizonHours, spec.mttr_hours * mttrs).unwrap();
            transient::over(chain, time).unwrap()
        };
        no_less(steady, over(0.1).down_share)?;
        no_less(steady, over(1e4).down_share)?;
        alike(over(1e4).down_at_end, steady, 1e-8)?;
    }

    #[test]
    fn a_forecast_is_of_one_piece(spec in small()) {
        let horizon = Hours::new(Parameter::HorizonHours, spec.mttr_hours).unwrap();
        let it = Forecast::new(scenario(&spec), horizon).unwrap();
        let parts = it.blame.taking_over
            + it.blame.unnoticed
            + it.blame.exhausted
            + it.blame.common_cause;
        alike(parts, it.unavailability, 1e-12)?;
        prop_assert!(it.request_loss >= 0.0 && it.request_loss <= 1.0);
        alike(it.outages_per_year * it.outage_seconds, it.downtime_seconds_per_year, 1e-12)?;
        prop_assert!(it.mttf_hours.unwrap() > 0.0);
    }
}

#[test]
fn a_bench_slower_than_repair_does_harm() {
    // Activation takes ten times the repair: the repaired one waits while the other activates.
    let alone = Spec::new(1, 0, 1, 720.0, 1.0);
    let slow = Spec { warm: 1, activation_seconds: 36_000.0, ..alone.clone() };
    assert!(solve(scenario(&slow)) > 2.0 * solve(scenario(&alone)));
    let quick = Spec { activation_seconds: 360.0, ..slow };
    assert!(solve(scenario(&quick)) < solve(scenario(&alone)));
}

#[test]
fn where_more_serve_than_must_a_slow_takeover_can_spare_a_cold_bench() {
    // Three serve, one must, the fourth fails only once it serves: waiting keeps it whole.
    let quick = Spec { warm: 1, activation_seconds: 5.0, ..Spec::new(3, 0, 1, 3.0, 1.0) };
    let slow = Spec { activation_seconds: 50.0, ..quick.clone() };
    assert!(solve(scenario(&slow)) < solve(scenario(&quick)));
    // Where all are needed, it costs what one expects.
    let all = |spec: Spec| solve(scenario(&Spec { needed: 3, ..spec }));
    assert!(all(slow) > all(quick));
}
