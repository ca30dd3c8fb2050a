//! Outliers on a node: samples in, standings, shares and sentences out.

use super::*;
use crate::outlier::{SAMPLE_EVERY, Sample};
use crate::policy::Need;
use crate::route::{Share, TRIAL_ONE_IN};

/// What a healthy endpoint answers between two samples.
fn good() -> Sample {
    let mut sample = Sample::default();
    (0..20).for_each(|_| sample.answered(ms(2)));
    sample
}

/// The same with four errors in ten.
fn gray() -> Sample {
    let mut sample = Sample::default();
    (0..12).for_each(|_| sample.answered(ms(2)));
    (0..8).for_each(|_| sample.failed());
    sample
}

/// Lets `c1` see so many rounds; nodes not among `sick` answer well.
fn rounds(lab: &mut Lab, n: u32, endpoints: &[&str], sick: &[&str]) {
    for _ in 0..n {
        lab.run(SAMPLE_EVERY);
        let of = |e: &&str| (at(e), if sick.contains(e) { gray() } else { good() });
        let samples: Vec<_> = endpoints.iter().map(of).collect();
        let now = lab.now;
        lab.node("c1").handle_samples(now, &samples);
    }
}

fn is_outlier(lab: &Lab, node: &str) -> bool {
    matches!(lab.standing("c1", node), Standing::Out(Why::Outlier { .. }))
}

fn share(lab: &Lab, node: &str) -> Share {
    let snapshot = lab.nodes[&name("c1")].snapshot();
    let route = &snapshot.services[&ledger()];
    route.candidates.iter().find(|c| c.id == at(node)).unwrap().share
}

#[test]
fn an_endpoint_that_answers_worse_than_its_siblings_is_out_and_explain_says_why() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "h3"]);
    rounds(&mut lab, 4, &["h1", "h2", "h3"], &["h1"]);
    assert!(is_outlier(&lab, "h1"));
    assert_eq!(lab.standing("c1", "h1").why().unwrap().word(), "outlier");
    let view = lab.nodes[&name("c1")].explain_view(&ledger(), lab.now).unwrap();
    let said = view.sentences.join("\n");
    assert!(said.contains("40 % of its answers were bad, most of them errors"), "{said}");
    assert!(said.contains("against 0 % of its siblings'"), "{said}");
}

#[test]
fn an_outlier_returns_on_probation_with_a_small_share_and_in_full_after_good_answers() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "h3"]);
    rounds(&mut lab, 4, &["h1", "h2", "h3"], &["h1"]);
    lab.run(Duration::from_millis(2_500));
    assert_eq!(lab.standing("c1", "h1"), Standing::Ready, "by time alone");
    assert_eq!(share(&lab, "h1"), Share::Trial);
    let view = lab.nodes[&name("c1")].explain_view(&ledger(), lab.now).unwrap();
    let said = view.sentences.join("\n");
    assert!(said.contains(&format!("on trial: one request in {TRIAL_ONE_IN}")), "{said}");
    rounds(&mut lab, 2, &["h1", "h2", "h3"], &[]);
    assert_eq!(share(&lab, "h1"), Share::Full);
}

#[test]
fn one_on_trial_that_flaps_is_kept_in_reserve_and_tried_when_it_counts_again() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "h3"]);
    lab.give_policy(1, ServicePolicy { min_hot: Need::Count(2), ..ServicePolicy::default() });
    rounds(&mut lab, 4, &["h1", "h2", "h3"], &["h1"]);
    lab.run(Duration::from_millis(2_500));
    assert_eq!(share(&lab, "h1"), Share::Trial);
    for _ in 0..3 {
        let now = lab.now;
        lab.node("c1").handle_link(now, &name("h1"), LinkInput::Silent { unanswered: ms(20) });
        lab.run(Duration::from_millis(200));
        let now = lab.now;
        lab.node("c1").handle_link(now, &name("h1"), LinkInput::Heard);
        lab.run(ms(200));
    }
    assert_eq!(share(&lab, "h1"), Share::Spare { on_trial: true });
    assert_eq!(lab.picks("c1"), ["h2", "h3"]);
    lab.run(Duration::from_secs(180));
    assert_eq!(share(&lab, "h1"), Share::Trial);
}

#[test]
fn an_outlier_is_nobodys_loss_and_calls_nobody_up() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "h3", "w1"]);
    rounds(&mut lab, 4, &["h1", "h2", "h3"], &["h1"]);
    assert!(is_outlier(&lab, "h1"));
    lab.run(Duration::from_secs(1));
    assert_eq!(lab.count(activated), 0);
}

#[test]
fn when_another_falls_silent_and_too_few_are_left_the_outlier_is_let_back_in() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "h3"]);
    rounds(&mut lab, 4, &["h1", "h2", "h3"], &["h1"]);
    assert!(is_outlier(&lab, "h1"));
    let (now, unanswered) = (lab.now, ms(20));
    lab.node("c1").handle_link(now, &name("h2"), LinkInput::Silent { unanswered });
    assert_eq!(lab.standing("c1", "h1"), Standing::Ready);
    assert_eq!(share(&lab, "h1"), Share::Full, "it is needed");
}

#[test]
fn one_that_fails_altogether_takes_the_place_of_one_that_fails_in_part() {
    let mut lab = Lab::new(&["c1", "h1", "h2"]);
    rounds(&mut lab, 4, &["h1", "h2"], &["h1"]);
    assert!(is_outlier(&lab, "h1"));
    for _ in 0..EJECT_AFTER {
        let now = lab.now;
        lab.node("c1").handle_outcome(now, &at("h2"), Outcome::Refused);
    }
    assert!(matches!(lab.standing("c1", "h2"), Standing::Out(Why::Ejected { .. })));
    assert_eq!(lab.standing("c1", "h1"), Standing::Ready);
}

#[test]
fn samples_of_what_no_record_offers_leave_nothing_behind() {
    let mut lab = Lab::new(&["c1", "h1", "h2"]);
    let before = lab.nodes[&name("c1")].snapshot().version;
    let now = lab.now;
    lab.node("c1").handle_samples(now, &[(at("made-up"), gray()), (at("h1"), good())]);
    assert!(!lab.nodes[&name("c1")].outcomes.contains_key(&at("made-up")));
    assert_eq!(lab.nodes[&name("c1")].snapshot().version, before, "nothing changed");
}

#[test]
fn errors_of_the_application_count_for_gray_failure_and_never_as_a_crash() {
    let mut lab = Lab::new(&["c1", "h1", "h2"]);
    let all_errors = Sample { failed: 100, ..Sample::default() };
    let now = lab.now;
    lab.node("c1").handle_samples(now, &[(at("h1"), all_errors), (at("h2"), good())]);
    assert_eq!(lab.standing("c1", "h1"), Standing::Ready, "one period is no verdict");
    rounds(&mut lab, 3, &["h1", "h2"], &["h1"]);
    assert!(is_outlier(&lab, "h1"));
}
