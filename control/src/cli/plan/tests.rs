use clap::Parser;
use hearth_proto::ids::NodeName;
use hearth_proto::view::TimesView;

use super::super::show_plan;
use super::super::table::Style;
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
        (
            &["--mtbf", "1h", "--mttr", "2h"][..],
            "with --mtbf less --mttr: -1 h",
            "allowed is 3.6 s",
        ),
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

const STYLE: Style = Style { width: 100, colour: false };

/// The line that begins so.
#[track_caller]
fn line<'a>(text: &'a str, begin: &str) -> &'a str {
    text.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("{begin}: {text}"))
}

#[test]
fn a_plan_for_people_says_what_to_expect_what_it_rests_on_and_what_buys_most() {
    let asked = args(&[
        "--hot",
        "3",
        "--warm",
        "1",
        "--mttf",
        "30d",
        "--activation",
        "30s",
        "--detection",
        "0s",
        "--warm-failures",
        "25%",
    ]);
    let plan = asked.solve(None).unwrap();
    let text = show_plan::plan(&plan, false, STYLE);
    // The reference case R6, 3 + 1 with 30 s: 4.3917e-5.
    let available = "available  99.9956 % (4.4 nines), 23.1 min down per year";
    assert_eq!(line(&text, "available"), available);
    assert_eq!(line(&text, "service"), "service    3 hot, 1 warm, 3 needed");
    assert!(line(&text, "time to failure").ends_with("30 d   given"), "{text}");
    assert!(line(&text, "time to repair").contains("assumed: somebody mends it"), "{text}");
    for heading in ["Rests on", "Made of", "What buys most"] {
        assert_eq!(line(&text, heading), heading);
    }
    // The chart, and where shortcuts go wrong, with numbers: 1 - 8760/720.
    assert!(text.contains("◉ this plan"), "{text}");
    assert!(text.contains("A = 1 − f·t says -11.1667 here, it is 0.9986."), "{text}");
    assert!(text.contains("times as much"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    let all = show_plan::plan(&plan, true, STYLE);
    assert!(all.contains("Where shortcuts go wrong") && all.contains("warm as instantly hot"));
}

fn seen(losses: u64) -> PlanView {
    let times = |count| TimesView { count, mean_s: 2.0, p50_s: 2.0, p95_s: 3.0 };
    PlanView {
        service: ServiceName::parse("ledger").unwrap(),
        node: NodeName::parse("web-1").unwrap(),
        hot: 4,
        warm: 2,
        needed: 3,
        serving: 4,
        watched_s: 36_000.0,
        served_s: 144_000.0,
        losses,
        detection: times(losses),
        takeover: times(losses),
        repair: times(losses),
        activation: times(losses),
        activations_failed: 0,
    }
}

#[test]
fn a_plan_from_a_mesh_says_how_much_history_it_rests_on_and_what_it_assumed() {
    let plan = args(&[]).solve(Some(seen(5))).unwrap();
    let text = show_plan::plan(&plan, false, STYLE);
    assert!(
        text.starts_with(
            "ledger as web-1 has seen it for 10 h: 4 serve, 3 must; its endpoints served 40 h in all, \
             with 5\nlosses.\n"
        ),
        "{text}"
    );
    let failure = line(&text, "time to failure");
    assert!(failure.ends_with("8 h    measured, 5 times; 95 %: 3.43 h to 24.6 h"), "{failure}");
    assert!(line(&text, "hot").ends_with("declared in the mesh"), "{text}");
    assert!(line(&text, "failures noticed").contains("assumed: nobody can measure"), "{text}");
    assert!(text.contains("this mesh waits until fewer than 3 serve"), "{text}");
}

#[test]
fn where_no_loss_was_seen_it_is_said_what_that_proves() {
    let plan = args(&[]).solve(Some(seen(0))).unwrap();
    let text = show_plan::plan(&plan, false, STYLE);
    let flat = text.replace('\n', " ");
    assert!(flat.contains("with no loss."), "{text}");
    assert!(flat.contains("a mean time to failure below 10.8 h is improbable"), "{text}");
    assert!(line(&text, "time to failure").contains("assumed: a host or its application fails"));
}
