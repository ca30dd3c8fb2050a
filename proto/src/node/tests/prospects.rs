//! What a node says of prospects: history and activations for a plan, and what it finds wanting.

use super::*;
use crate::lint::Traffic;

fn rules(lab: &Lab, traffic: BTreeMap<ServiceName, Traffic>) -> Vec<String> {
    let view = lab.nodes[&name("c1")].check_view(None, traffic);
    view.findings.into_iter().map(|f| f.rule).collect()
}

#[test]
fn losses_and_how_long_they_took_are_in_the_plan_s_view_with_the_time_in_which_there_were_none() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    lab.run(Duration::from_secs(10));
    lab.lose("h1");
    lab.run(ms(200));
    assert_eq!(lab.condition("w1"), Condition::Activating);
    lab.run(ms(1_800));
    let now = lab.now;
    lab.hook("w1", Ok(()));
    lab.node("w1").handle_health(now, &at("w1"), true);
    lab.run(Duration::from_secs(2));
    let view = |lab: &Lab| lab.nodes[&name("c1")].plan_view(&ledger(), lab.now).unwrap();
    let seen = view(&lab);
    assert_eq!((seen.hot, seen.warm, seen.needed, seen.serving), (2, 1, 2, 2));
    assert_eq!((seen.losses, seen.detection.count, seen.takeover.count), (1, 1, 1));
    assert!((seen.detection.mean_s - 0.05).abs() < 0.01, "{seen:?}");
    assert!((seen.takeover.mean_s - 1.95).abs() < 0.1, "{seen:?}");
    // Timed by its owner, from the call-up on, and told in its advert.
    assert_eq!(seen.activation.count, 1);
    assert!((seen.activation.mean_s - 1.95).abs() < 0.1, "{seen:?}");
    // Two endpoints for the first ten seconds, one for two, two again.
    assert!(seen.served_s > 25.0 && seen.served_s < 2.0 * seen.watched_s - 1.5, "{seen:?}");
    assert_eq!(seen.repair.count, 0, "it is not back yet");
    lab.gone.clear();
    let now = lab.now;
    for other in ["c1", "h2", "w1"] {
        lab.node(other).handle_link(now, &name("h1"), LinkInput::Heard);
    }
    lab.run(Duration::from_secs(10));
    let mended = view(&lab).repair;
    assert_eq!(mended.count, 1);
    assert!(mended.mean_s >= 3.9, "{mended:?}");
}

/// Its link is heard before its owner's word is: what the owner says then is of the same loss.
#[test]
fn a_host_that_answers_again_and_says_that_it_is_not_ready_was_lost_once_and_is_not_mended() {
    let mut lab = Lab::new(&["c1", "h1", "h2"]);
    lab.run(Duration::from_secs(2));
    lab.lose("h1");
    lab.run(Duration::from_secs(4));
    let seen = |lab: &Lab| {
        let view = lab.nodes[&name("c1")].plan_view(&ledger(), lab.now).unwrap();
        (view.losses, view.repair.count)
    };
    assert_eq!(seen(&lab), (1, 0));
    lab.gone.clear();
    let now = lab.now;
    for other in ["c1", "h2"] {
        lab.node(other).handle_link(now, &name("h1"), LinkInput::Heard);
    }
    lab.run(ms(20));
    assert_eq!(seen(&lab), (1, 1));
    let now = lab.now;
    lab.node("h1").handle_health(now, &at("h1"), false);
    lab.run(Duration::from_secs(1));
    assert_eq!(lab.standing("c1", "h1"), Standing::Out(Why::Condition(Condition::Unready)));
    assert_eq!(seen(&lab), (1, 0));
    let now = lab.now;
    lab.node("h1").handle_health(now, &at("h1"), true);
    lab.run(Duration::from_secs(1));
    assert_eq!(seen(&lab), (1, 1));
}

#[test]
fn a_node_has_no_plan_for_a_service_it_does_not_know() {
    let lab = Lab::new(&["c1", "h1"]);
    let mail = ServiceName::parse("mail").unwrap();
    assert_eq!(lab.nodes[&name("c1")].plan_view(&mail, lab.now), None);
}

#[test]
fn a_node_finds_what_is_wanting_in_the_mesh_and_owners_say_how_they_check() {
    let mut lab = Lab::new(&["c1", "h1", "h2"]);
    // Checked by requests, says the owner; no zones, no bench, and nobody called it from here.
    assert_eq!(
        rules(&lab, BTreeMap::new()),
        ["bench-too-small", "zones-unknown", "traffic-unknown"]
    );
    let traffic = Traffic { repeatable: 0, once: 30, peak: 3 };
    let seen = BTreeMap::from([(ledger(), traffic)]);
    assert_eq!(rules(&lab, seen), ["bench-too-small", "only-once", "zones-unknown"]);
    lab.give_policy(1, ServicePolicy { allow: Vec::new(), ..ServicePolicy::default() });
    assert_eq!(rules(&lab, BTreeMap::new())[0], "nobody-may-call");
}

#[test]
fn what_left_in_good_order_is_no_part_of_what_is_judged() {
    let mut lab = Lab::new(&["c1", "h1", "h2"]);
    let now = lab.now;
    lab.node("h2").leave(now);
    lab.run(Duration::from_secs(2));
    assert_eq!(rules(&lab, BTreeMap::new())[0], "one-endpoint");
}
