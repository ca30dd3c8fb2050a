//! The reference cases, from exact fractions (worked out once with rational arithmetic), by closed form
//! and by the general model; the solvers against each other; what is refused; what shortcuts say.

use super::chain::{Chain, ChainError, MAX_STATES};
use super::closed;
use super::forecast::{Forecast, unavailability};
use super::input::{Hours, InputError, Parameter, Rate, Scenario, Share, Spec};
use super::model::Model;
use super::report::{Report, duration, percent};
use super::sensitivity::{self, Lever, Purchase};
use super::shortcut;
use super::transient::{self, TransientError};

const EXACT: f64 = 1e-9;

#[track_caller]
fn close(found: f64, expected: f64, tolerance: f64) {
    let off = (found / expected - 1.0).abs();
    assert!(off <= tolerance, "found {found:e}, expected {expected:e}, off by {off:e}");
}

fn every(hours: f64) -> Rate {
    Rate::once_per_hours(Parameter::MttfHours, hours).unwrap()
}

fn share(value: f64) -> Share {
    Share::new(Parameter::Coverage, value).unwrap()
}

fn hours(value: f64) -> Hours {
    Hours::new(Parameter::HorizonHours, value).unwrap()
}

fn solve(spec: &Spec) -> f64 {
    unavailability(spec.parse().unwrap()).unwrap()
}

/// λ = 1/1000, μ = 1/10.
fn r1(hot: u32, warm: u32, crews: Option<u32>, warm_failure_share: f64) -> Spec {
    Spec { crews, warm_failure_share, ..Spec::new(hot, warm, 1, 1_000.0, 10.0) }
}

fn mttf(spec: &Spec) -> f64 {
    let model = Model::new(spec.parse().unwrap()).unwrap();
    model.chain().mean_time_to_outage().unwrap().unwrap()
}

#[test]
fn r1_pairs_hot_warm_and_cold_by_formula_and_by_the_general_model() {
    let (l, m) = (every(1_000.0), every(10.0));
    let two = closed::hot_pair_with_two_crews(l, m);
    close(two.unavailability, 1.0 / 10_201.0, EXACT);
    close(solve(&r1(2, 0, None, 0.0)), 1.0 / 10_201.0, EXACT);
    close(mttf(&r1(2, 0, None, 0.0)), 51_500.0, EXACT);
    for (a, u, t, hot, warm) in [
        (1.0, 1.0 / 5_101.0, 51_500.0, 2, 0),
        (1.0, 1.0 / 5_101.0, 51_500.0, 1, 1),
        (0.0, 1.0 / 10_101.0, 102_000.0, 1, 1),
        (0.25, 1.0 / 8_101.0, 81_800.0, 1, 1),
    ] {
        let pair = closed::pair_with_one_crew(l, share(a), m);
        close(pair.unavailability, u, EXACT);
        close(pair.mttf_hours, t, EXACT);
        close(solve(&r1(hot, warm, Some(1), a)), u, EXACT);
        close(mttf(&r1(hot, warm, Some(1), a)), t, EXACT);
    }
    let counted = closed::birth_death(&[every(500.0), l], &[m, m]);
    close(counted[2], 1.0 / 5_101.0, EXACT);
}

#[test]
fn r2_k_of_n_with_99_percent_each() {
    let single = share(0.01);
    // MTTF 99, MTTR 1: A = 0.99.
    for (needed, of, available) in
        [(2, 3, 0.999_702), (3, 5, 0.999_990_149_4), (4, 5, 0.999_019_850_4)]
    {
        close(closed::k_of_n_availability(needed, of, single), available, EXACT);
        close(closed::k_of_n_unavailability(needed, of, single), 1.0 - available, EXACT);
        close(solve(&Spec::new(of, 0, needed, 99.0, 1.0)), 1.0 - available, EXACT);
    }
}

#[test]
fn r3_one_percent_of_missed_failovers_halves_the_mttf() {
    let (l, m) = (every(1_000.0), every(10.0));
    for (c, expected) in [(1.0, 51_500.0), (0.99, 25_745.0), (0.9, 51_400.0 / 11.0)] {
        close(closed::covered_pair_mttf_hours(l, m, share(c)), expected, EXACT);
        // The chain that formula is for: an unnoticed first failure takes the pair down.
        let rates =
            [(0, 1, 2e-3 * c), (0, 2, 2e-3 * (1.0 - c)), (1, 0, 0.1), (1, 2, 1e-3), (2, 0, 1.0)];
        let chain = Chain::new(vec![true, true, false], rates).unwrap();
        close(chain.mean_time_to_outage().unwrap().unwrap(), expected, EXACT);
    }
}

#[test]
fn r4_disk_arrays_as_published_and_exactly() {
    let (l, m) = (every(30_000.0), every(1.0));
    let of_groups =
        |members, groups| closed::group_mttf_rule_of_thumb_hours(members, l, m) / groups;
    close(of_groups(2, 100.0), 4_500_000.0, EXACT);
    close(of_groups(14, 10.0), 494_505.494_505_494_5, EXACT);
    close(of_groups(11, 10.0), 818_181.818_181_818_2, EXACT);
    // As printed in 1988: 4,500,000; 494,500; 820,000.
    assert_eq!((of_groups(14, 10.0) / 100.0).round() * 100.0, 494_500.0);
    assert_eq!((of_groups(11, 10.0) / 10_000.0).round() * 10_000.0, 820_000.0);
    close(of_groups(11, 1.0), 8_181_818.181_818_182, EXACT);
    close(closed::group_mttf_hours(11, 1, l, m, 1), 90_063_000.0 / 11.0, EXACT);
    close(closed::group_mttf_hours(12, 2, l, m, 1), 225_165_090_500.0 / 11.0, EXACT);
    close(closed::group_mttf_hours(12, 2, l, m, 2), 450_255_090_500.0 / 11.0, EXACT);
    for (members, needed, crews, expected) in [
        (11, 10, 1, 90_063_000.0 / 11.0),
        (12, 10, 1, 225_165_090_500.0 / 11.0),
        (12, 10, 2, 450_255_090_500.0 / 11.0),
    ] {
        let spec = Spec { crews: Some(crews), ..Spec::new(members, 0, needed, 30_000.0, 1.0) };
        close(mttf(&spec), expected, EXACT);
    }
}

/// The four states of R5: all well; activating; hot alone; none.
fn r5_chain(l: f64, lw: f64, m: f64, d: f64) -> Chain {
    let rates =
        [(0, 1, l), (0, 2, lw), (1, 2, d), (1, 3, lw), (1, 0, m), (2, 3, l), (2, 0, m), (3, 2, m)];
    Chain::new(vec![true, false, true, false], rates).unwrap()
}

#[test]
fn r5_a_hot_and_a_warm_endpoint_with_activation() {
    for (mttf, mttr, seconds, expected) in [
        (1_000.0, 10.0, 60.0, 272_161.0 / 1_947_488_261.0),
        (720.0, 1.0, 30.0, 2_005_633.0 / 144_773_293_393.0),
        (720.0, 1.0, 0.2, 53_500_033.0 / 21_537_658_323_793.0),
        (8_760.0, 4.0, 30.0, 782_233.0 / 647_046_393_463.0),
        (8_760.0, 4.0, 0.2, 25_842_841.0 / 96_856_499_808_631.0),
    ] {
        let chain = r5_chain(1.0 / mttf, 0.25 / mttf, 1.0 / mttr, 3_600.0 / seconds);
        close(chain.unavailability(&chain.steady().unwrap()), expected, EXACT);
        let delta = Rate::once_per_hours(Parameter::MttrHours, seconds / 3_600.0).unwrap();
        let pair = closed::activated_pair(every(mttf), share(0.25), every(mttr), delta);
        close(pair.total(), expected, EXACT);
    }
    let delta = Rate::once_per_hours(Parameter::MttrHours, 1.0 / 60.0).unwrap();
    let pair = closed::activated_pair(every(1_000.0), share(0.25), every(10.0), delta);
    close(pair.taking_over, 1.643_142_125_209_452e-5, EXACT);
    close(pair.exhausted, 1.233_183_299_788_735e-4, EXACT);
    let first = closed::first_order_budget(
        every(1_000.0),
        share(0.25),
        every(10.0),
        delta,
        Share::ALL,
        every(1.0),
    );
    close(first.total(), pair.total(), 0.03);
}

fn r6(hot: u32, warm: u32, needed: u32, activation_seconds: f64) -> Spec {
    Spec {
        warm_failure_share: 0.25,
        activation_seconds,
        recovery_seconds: 60.0,
        ..Spec::new(hot, warm, needed, 720.0, 1.0)
    }
}

#[test]
fn r6_the_general_model() {
    // Exact solutions in rational arithmetic, rounded to a double at the end.
    for (hot, warm, needed, seconds, expected) in [
        (3, 0, 2, 0.2, 2_161.0 / 374_805_361.0),
        (3, 1, 3, 0.2, 9.600_580_011_864_078e-6),
        (3, 1, 3, 30.0, 4.391_738_115_875_944e-5),
        (3, 2, 3, 0.2, 2.466_528_701_507_859_3e-7),
        (3, 2, 3, 30.0, 3.473_613_124_546_326e-5),
        (10, 2, 10, 0.2, 1.246_625_179_920_313_6e-6),
        (10, 2, 10, 30.0, 1.161_956_786_013_034_4e-4),
        (10, 2, 9, 0.2, 1.483_617_732_742_973_4e-9),
        (10, 2, 9, 30.0, 7.591_150_470_469_255e-9),
    ] {
        close(solve(&r6(hot, warm, needed, seconds)), expected, EXACT);
    }
    for (coverage, expected) in [
        (1.0, 1.280_528_339_587_016_3e-6),
        (0.99, 1.511_851_360_572_721_4e-6),
        (0.9, 3.593_753_733_517_501_5e-6),
    ] {
        close(solve(&Spec { coverage, ..r6(1, 1, 1, 0.2) }), expected, EXACT);
    }
}

/// Dense LU with partial pivoting on πQ = 0 with one column replaced by the sum: what the models are
/// usually solved with, as an independent second opinion.
fn by_lu(chain: &Chain) -> Vec<f64> {
    let q = chain.generator();
    let n = q.len();
    let mut a: Vec<Vec<f64>> =
        (0..n).map(|i| (0..n).map(|j| if i == n - 1 { 1.0 } else { q[j][i] }).collect()).collect();
    let mut b = vec![0.0; n];
    b[n - 1] = 1.0;
    for k in 0..n {
        let pivot = (k..n).max_by(|&i, &j| a[i][k].abs().total_cmp(&a[j][k].abs())).unwrap();
        a.swap(k, pivot);
        b.swap(k, pivot);
        for i in k + 1..n {
            let factor = a[i][k] / a[k][k];
            let (above, below) = a.split_at_mut(i);
            below[0].iter_mut().zip(&above[k]).skip(k).for_each(|(x, y)| *x -= factor * y);
            b[i] -= factor * b[k];
        }
    }
    for k in (0..n).rev() {
        let known: f64 = (k + 1..n).map(|j| a[k][j] * b[j]).sum();
        b[k] = (b[k] - known) / a[k][k];
    }
    b
}

#[test]
fn elimination_without_subtraction_agrees_with_lu_where_lu_is_good() {
    let spec = Spec { coverage: 0.95, common_cause_share: 0.01, ..r6(4, 2, 3, 30.0) };
    let model = Model::new(spec.parse().unwrap()).unwrap();
    let (gth, lu) = (model.chain().steady().unwrap(), by_lu(model.chain()));
    for (g, l) in gth.iter().zip(&lu) {
        assert!((g - l).abs() < 1e-14, "{g:e} {l:e}");
    }
}

#[test]
fn elimination_without_subtraction_keeps_the_digits_lu_loses() {
    // Ten hot endpoints of which one must do: U is the tenth power of 1/(1 + μ/λ), about 1e-40.
    let spec = Spec::new(10, 0, 1, 10_000.0, 1.0);
    let exact = (1.0 / 10_001.0f64).powi(10);
    close(solve(&spec), exact, 1e-13);
    let model = Model::new(spec.parse().unwrap()).unwrap();
    let lu = model.chain().unavailability(&by_lu(model.chain()));
    assert!(
        (lu / exact - 1.0).abs() > 1.0,
        "LU got {lu:e} right; then this module could be simpler"
    );
}

#[test]
fn a_single_endpoint_over_time_follows_the_formula_both_ways() {
    let (l, m) = (every(1_000.0), every(10.0));
    let chain = Chain::new(vec![true, false], [(0, 1, 1e-3), (1, 0, 0.1)]).unwrap();
    for t in [0.001, 1.0, 10.0, 100.0, 2_000.0, 1e6] {
        let span = transient::over(&chain, hours(t)).unwrap();
        // The interval's integral, in a form without cancellation for small times: expm1.
        let both: f64 = 0.101;
        let down_share = 1e-3 / both * (1.0 + (-both * t).exp_m1() / (both * t));
        let down = -(1e-3 / both) * (-both * t).exp_m1();
        close(span.down_at_end, down, EXACT);
        if t >= 1.0 {
            close(span.down_share, down_share, EXACT);
        }
        close(1.0 - span.down_at_end, closed::single_availability_at(l, m, hours(t)), EXACT);
    }
}

#[test]
fn a_stiff_chain_over_a_year_is_doubled_and_agrees_with_turn_by_turn() {
    // 0.2 s and a year: 1.6e8 turns. The mean over a long time is U plus a term in 1/t, so that a
    // difference of two horizons must give the steady state itself.
    let model = Model::new(r6(3, 1, 3, 0.2).parse().unwrap()).unwrap();
    let steady = model.chain().unavailability(&model.chain().steady().unwrap());
    let over = |t: f64| transient::over(model.chain(), hours(t)).unwrap();
    let (one, two) = (over(8_760.0), over(17_520.0));
    close(2.0 * two.down_share - one.down_share, steady, EXACT);
    close(one.down_at_end, steady, EXACT);
    assert!(one.down_share < steady, "begun with all well");
    // The same chain, short enough to walk and long enough to double.
    let walked = transient::walked(model.chain(), 0.5);
    let doubled = transient::doubled(model.chain(), 0.5);
    close(walked.down_share, doubled.down_share, EXACT);
    close(walked.down_at_end, doubled.down_at_end, EXACT);
}

#[test]
fn a_chain_too_large_and_too_fast_is_refused_with_what_to_do() {
    let spec = Spec { coverage: 0.9, ..r6(14, 3, 12, 0.001) };
    let model = Model::new(spec.parse().unwrap()).unwrap();
    let error = transient::over(model.chain(), hours(1e7)).unwrap_err();
    assert!(matches!(error, TransientError::TooStiff { .. }), "{error}");
    assert!(error.to_string().contains("shorter time"), "{error}");
    let huge = Spec { coverage: 0.9, ..r6(60, 30, 50, 1.0) }.parse().unwrap();
    assert_eq!(Model::new(huge).unwrap_err(), ChainError::TooManyStates { limit: MAX_STATES });
}

#[test]
fn chains_that_are_none_are_refused() {
    let bad = Chain::new(vec![true, false], [(0, 2, 1.0)]).unwrap_err();
    assert!(matches!(bad, ChainError::BadRate { to: 2, .. }), "{bad}");
    let stuck = Chain::new(vec![true, false], [(0, 1, 1.0)]).unwrap();
    assert_eq!(stuck.steady().unwrap_err(), ChainError::NoWayBack { state: 1 });
    let never = Chain::new(vec![true, true], [(0, 1, 1.0), (1, 0, 1.0)]).unwrap();
    assert_eq!(never.mean_time_to_outage().unwrap(), None);
}

#[test]
fn a_generator_s_rows_sum_to_zero() {
    let model = Model::new(r6(3, 2, 3, 30.0).parse().unwrap()).unwrap();
    for row in model.chain().generator() {
        let size: f64 = row.iter().map(|rate| rate.abs()).sum();
        assert!(row.iter().sum::<f64>().abs() <= 1e-15 * size);
    }
}

#[test]
fn a_refusal_names_the_parameter_the_value_and_what_is_allowed() {
    let good = r6(3, 1, 2, 0.2);
    for (spec, words) in [
        (Spec { mttf_hours: 0.0, ..good.clone() }, ["mttf_hours = 0", "0.001 to 1000000000"]),
        (Spec { mttr_hours: f64::NAN, ..good.clone() }, ["mttr_hours = NaN", "1000000"]),
        (Spec { coverage: 1.5, ..good.clone() }, ["coverage = 1.5", "0 to 1"]),
        (Spec { hot: 0, ..good.clone() }, ["hot = 0", "1 to 200"]),
        (Spec { crews: Some(0), ..good.clone() }, ["crews = 0", "1 to 400"]),
        (Spec { activation_seconds: -1.0, ..good.clone() }, ["activation_seconds = -1", "0 to"]),
        (Spec { recovery_seconds: 0.0, ..good.clone() }, ["recovery_seconds = 0", "0.001 to"]),
        (Spec { common_cause_share: f64::INFINITY, ..good.clone() }, ["common_cause", "0 to 1"]),
        (Spec { needed: 4, ..good.clone() }, ["needed = 4 of hot = 3", "1 to 3"]),
    ] {
        let error: InputError = spec.parse().unwrap_err();
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
    assert!(good.parse().is_ok());
}

#[test]
fn a_spec_is_read_with_defaults_and_unknown_keys_are_refused() {
    let text = r#"{"hot": 3, "needed": 2, "mttf_hours": 720, "mttr_hours": 1}"#;
    let spec: Spec = serde_json::from_str(text).unwrap();
    assert_eq!(spec, Spec::new(3, 0, 2, 720.0, 1.0));
    let wrong = r#"{"hot": 3, "needed": 2, "mtbf": 720, "mttr_hours": 1}"#;
    assert!(serde_json::from_str::<Spec>(wrong).unwrap_err().to_string().contains("mtbf"));
}

#[test]
fn one_minus_f_t_goes_negative_where_the_availability_is_99_percent() {
    let it = shortcut::one_minus_ft(every(1_000.0), every(10.0), hours(2_000.0));
    close(it.says, -1.0, EXACT);
    close(it.truth, 0.1 / 0.101, EXACT);
    close(closed::reliability(every(1_000.0), hours(2_000.0)), (-2.0f64).exp(), EXACT);
    assert!(it.lesson.contains("0.1353") && it.lesson.contains("1/f = 1000 h"), "{}", it.lesson);
}

#[test]
fn other_shortcuts_and_their_numbers() {
    // One percent in common weighs as much as the whole independent pair.
    let pair = r1(2, 0, None, 0.0).parse().unwrap();
    let list = shortcut::all(&pair, hours(8_760.0)).unwrap();
    let common = list.iter().find(|it| it.formula == "b = 0").unwrap();
    assert!(common.truth - common.says > 0.9e-4 && common.factor().unwrap() > 1.9);
    // Thirty seconds to take over: several times what the product says.
    let slow = r6(1, 1, 1, 30.0).parse().unwrap();
    let list = shortcut::all(&slow, hours(8_760.0)).unwrap();
    let product = list.iter().find(|it| it.name == "redundancy as a product").unwrap();
    assert!(product.factor().unwrap() > 5.0, "{product:?}");
    let mission = list.iter().find(|it| it.name.contains("mission")).unwrap();
    assert!(mission.truth < mission.says, "{mission:?}");
    // Survivors and false ejections.
    close(shortcut::survivor_utilisation(3, 1, share(0.7)).unwrap(), 1.05, EXACT);
    assert_eq!(shortcut::survivor_utilisation(1, 1, share(0.7)), None);
    assert!(shortcut::survivors_carry_on(3, share(0.7)).unwrap().lesson.contains("below 0.667"));
    close(shortcut::ejected_share(every(24.0), hours(0.5)), 0.5 / 24.0, EXACT);
}

#[test]
fn requests_lost_to_detection_do_not_depend_on_how_many_peers_there_are() {
    for (seconds, expected) in
        [(0.05, 1.9e-8), (0.2, 7.7e-8), (14.0, 5.4e-6), (40.0, 1.5e-5), (340.0, 1.3e-4)]
    {
        let detection = Hours::from_seconds(Parameter::DetectionSeconds, seconds).unwrap();
        close(closed::request_loss(every(720.0), detection), expected, 0.03);
        for peers in [3, 10] {
            let spec = Spec { detection_seconds: seconds, ..Spec::new(peers, 0, 1, 720.0, 0.1) };
            let forecast = Forecast::new(spec.parse().unwrap(), hours(1.0)).unwrap();
            close(forecast.request_loss, expected, 0.03);
        }
    }
}

#[test]
fn a_forecast_s_parts_add_up() {
    let spec = Spec {
        coverage: 0.95,
        common_cause_share: 0.01,
        detection_seconds: 0.1,
        ..r6(3, 1, 3, 30.0)
    };
    let forecast = Forecast::new(spec.parse().unwrap(), hours(8_760.0)).unwrap();
    let blame = forecast.blame;
    let parts = blame.taking_over + blame.unnoticed + blame.exhausted + blame.common_cause;
    close(parts, forecast.unavailability, 1e-12);
    close(
        forecast.outages_per_year * forecast.outage_seconds,
        forecast.downtime_seconds_per_year,
        1e-12,
    );
    // R5's 7.29 minutes per year, up to what the general model does differently.
    let pair = Forecast::new(r6(1, 1, 1, 30.0).parse().unwrap(), hours(8_760.0)).unwrap();
    close(pair.downtime_seconds_per_year / 60.0, 7.29, 0.2);
}

#[test]
fn what_buys_most_is_sorted_and_elasticities_add_up() {
    let scenario: Scenario = r6(3, 1, 3, 30.0).parse().unwrap();
    let all = sensitivity::elasticities(&scenario).unwrap();
    let of = |lever| all.iter().find(|it| it.lever == lever).unwrap().elasticity;
    assert!(all.windows(2).all(|pair| pair[0].elasticity.abs() >= pair[1].elasticity.abs()));
    // U does not change when all rates grow alike: the elasticities of the rates and times cancel.
    let time_scale = of(Lever::FailureRate) - of(Lever::RepairTime) - of(Lever::ActivationTime);
    assert!(time_scale.abs() < 1e-6, "{time_scale:e}");
    // A pair at first order: U ~ λ².
    let pair = sensitivity::elasticities(&r1(2, 0, None, 0.0).parse().unwrap()).unwrap();
    close(pair[0].elasticity, 2.0 * 0.1 / 0.101, 1e-6);
    let gains = sensitivity::gains(&scenario).unwrap();
    assert!(gains.windows(2).all(|g| g[0].seconds_saved_per_year >= g[1].seconds_saved_per_year));
    let warm = gains.iter().find(|gain| gain.purchase == Purchase::OneMoreWarm).unwrap();
    close(warm.unavailability, 3.473_613_124_546_326e-5, EXACT);
    // A hot one more, none needed more: a loss is no outage any longer. That beats all else.
    assert_eq!(gains[0].purchase, Purchase::OneMoreHot);
}

#[test]
fn a_report_is_tables_with_as_many_cells_as_headings() {
    let spec = Spec { coverage: 0.99, detection_seconds: 0.2, ..r6(3, 1, 3, 30.0) };
    let report = Report::new(spec.parse().unwrap(), hours(8_760.0)).unwrap();
    let sections = report.sections();
    assert_eq!(sections.len(), 6);
    for section in &sections {
        assert!(!section.rows.is_empty(), "{}", section.title);
        assert!(section.rows.iter().all(|row| row.len() == section.columns.len()));
    }
    assert!(serde_json::to_string(&report).unwrap().contains("\"unavailability\""));
}

#[test]
fn a_takeover_slower_than_repair_is_called_out() {
    let slow = r6(1, 1, 1, 7_200.0).parse().unwrap();
    let notes = &Report::new(slow, hours(8_760.0)).unwrap().sections()[1].notes;
    assert!(notes.iter().any(|note| note.contains("no faster than repair")), "{notes:?}");
}

#[test]
fn numbers_are_written_as_people_read_them() {
    for (unavailability, text) in
        [(0.0, "100 %"), (0.5, "50.00 %"), (1.38536e-5, "99.9986 %"), (2e-9, "99.99999980 %")]
    {
        assert_eq!(percent(unavailability), text);
    }
    for (seconds, text) in [
        (0.0, "0 s"),
        (0.2, "200 ms"),
        (30.0, "30 s"),
        (436.9, "7.28 min"),
        (-7_300.0, "-2.03 h"),
        (1e7, "116 d"),
        (3e-5, "30 µs"),
    ] {
        assert_eq!(duration(seconds), text);
    }
}
