use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    plan: PlanArgs,
}

#[track_caller]
fn args(words: &[&str]) -> PlanArgs {
    match Line::try_parse_from([&["plan"][..], words].concat()) {
        Ok(line) => line.plan,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_refusal_names_the_option_the_value_and_what_is_allowed() {
    for (words, what, hint) in [
        (&["--coverage", "1.5"][..], "with --coverage 1.5", "0 to 1"),
        (&["--mttf", "0s"][..], "with --mttf 0 s", "allowed is 3.6 s to"),
        (&["--mtbf", "1h", "--mttr", "2h"][..], "with --mtbf less --mttr: -1 h", "allowed is 3.6 s"),
        (&["--needed", "4"][..], "--needed 4 of --hot 3", "allowed is 1 to 3"),
        (&["--hot", "0"][..], "with --hot 0", "allowed is 1 to 200"),
        (&["--crews", "0"][..], "with --crews 0", "allowed is 1 to 400"),
        (&["--recovery", "0s"][..], "with --recovery 0 s", "allowed is 1 ms"),
        (&["--over", "0s"][..], "with --over 0 s", "allowed is 3.6 ms"),
    ] {
        let failure = args(words).solve(None).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage, "{failure}");
        assert!(failure.what.contains(what) && failure.hint.contains(hint), "{failure}");
    }
}

#[test]
fn a_model_too_large_says_what_makes_it_smaller() {
    let large = args(&["--hot", "60", "--warm", "30", "--coverage", "90%"]).solve(None);
    let failure = large.unwrap_err();
    assert_eq!(failure.exit, Exit::Data);
    assert!(failure.hint.contains("--coverage 1"), "{failure}");
}

#[test]
fn a_share_is_written_with_or_without_a_percent_sign() {
    assert_eq!((share("0.99"), share("99%"), share("2.5 %")), (Ok(0.99), Ok(0.99), Ok(0.025)));
    assert!(share("most").unwrap_err().contains("0.99 or 99%"));
}

#[test]
fn the_time_to_failure_is_given_in_one_of_two_ways() {
    assert!(Line::try_parse_from(["plan", "--mttf", "30d", "--mtbf", "30d"]).is_err());
    let plan = args(&["--mtbf", "101h", "--mttr", "1h"]).solve(None).unwrap();
    let failure = plan.report.forecast.scenario.failure;
    assert!((failure.mean().hours() - 100.0).abs() < 1e-9);
}

#[test]
fn the_curve_is_written_where_it_is_asked_for() {
    let file = std::env::temp_dir().join(format!("hearth-plan-{}.svg", std::process::id()));
    let name = file.to_str().unwrap();
    let asked = args(&["--svg", name, "--chart", "warm"]);
    asked.draw(&asked.solve(None).unwrap()).unwrap();
    let drawn = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(drawn.starts_with("<svg ") && drawn.contains("warm endpoints"));
    let nowhere = args(&["--svg", "/nonexistent/plan.svg"]);
    let failure = nowhere.draw(&nowhere.solve(None).unwrap()).unwrap_err();
    assert_eq!(failure.exit, Exit::CannotCreate);
    let nothing = args(&["--svg", name, "--chart", "none"]);
    let failure = nothing.draw(&nothing.solve(None).unwrap()).unwrap_err();
    assert_eq!(failure.exit, Exit::Usage);
}

#[test]
fn a_plan_is_json_with_the_source_of_each_number() {
    let plan = args(&["--hot", "2"]).solve(None).unwrap();
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["basis"][0]["parameter"], "hot");
    assert_eq!(json["basis"][0]["source"], "given");
    assert!(json["basis"][3]["source"]["assumed"].is_string());
    assert!(json["report"]["forecast"]["unavailability"].is_f64());
    assert!(json["chart"]["series"].is_array());
    assert!(json["seen"].is_null());
}
