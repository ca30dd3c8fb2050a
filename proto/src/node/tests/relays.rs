//! A caller whose own path to an endpoint is bad, while others reach it.

use super::*;
use crate::policy::Relay;
use crate::relay::{ASK_AGAIN, HOLD, MAX_ASKED, Refusal};
use crate::route::Route;

/// Only `c1`'s path to `h1` is cut, both ways.
fn cut(lab: &mut Lab) {
    let now = lab.now;
    for (a, b) in [("c1", "h1"), ("h1", "c1")] {
        let silent = LinkInput::Silent { unanswered: ms(20) };
        lab.node(a).handle_link(now, &name(b), silent);
    }
    lab.pump();
}

/// Until the silence is confirmed.
fn confirmed(lab: &mut Lab) {
    cut(lab);
    lab.run(CONFIRM_SILENCE);
}

fn heal(lab: &mut Lab) {
    let now = lab.now;
    for (a, b) in [("c1", "h1"), ("h1", "c1")] {
        lab.node(a).handle_link(now, &name(b), LinkInput::Heard);
    }
    lab.pump();
}

/// What `c1` last said of relays.
fn wishes(lab: &Lab) -> Vec<RelayWish> {
    let last = lab.events.iter().rev().find_map(|(n, e)| match e {
        Event::Relay(wishes) if *n == name("c1") => Some(wishes.clone()),
        _ => None,
    });
    last.unwrap_or_default()
}

fn wish(lab: &Lab) -> RelayWish {
    let wishes = wishes(lab);
    assert_eq!(wishes.len(), 1, "{wishes:?}");
    wishes[0].clone()
}

fn tell(lab: &mut Lab, wish: &RelayWish, input: &RelayInput) {
    let now = lab.now;
    lab.node("c1").handle_relay(now, wish, input);
    lab.pump();
}

fn down() -> RelayInput {
    RelayInput::Down("no way".into())
}

fn route(lab: &Lab) -> Arc<Route> {
    lab.nodes[&name("c1")].snapshot().services[&ledger()].clone()
}

#[test]
fn a_silence_of_our_own_path_to_the_only_endpoint_asks_a_third_agent_once_it_is_confirmed() {
    let mut lab = Lab::new(&["c1", "h1", "x1", "x2"]);
    cut(&mut lab);
    assert_eq!(wishes(&lab), []);
    lab.run(CONFIRM_SILENCE);
    let wish = wish(&lab);
    assert_eq!(wish.to, name("h1"));
    assert!([name("x1"), name("x2")].contains(&wish.via), "{wish:?}");
    assert_eq!(wish.address, address(wish.via.as_str()), "by its own record");
    assert_ne!(lab.choice("c1").word(), "relay", "nobody has answered through it yet");
}

#[test]
fn requests_go_through_the_relay_from_the_moment_the_peer_answers_there() {
    let mut lab = Lab::new(&["c1", "h1", "x1"]);
    confirmed(&mut lab);
    let wish = wish(&lab);
    tell(&mut lab, &wish, &RelayInput::Up);
    let route = route(&lab);
    assert_eq!(route.choice, Choice::Relay(vec![0]));
    assert_eq!(route.candidates[0].via, Some(name("x1")));
    assert_eq!(route.reason, "relayed through x1: our own path to h1 is silent");
}

#[test]
fn who_answers_through_a_relay_is_not_lost_and_nobody_is_called_up_in_its_stead() {
    let mut lab = Lab::new(&["c1", "h1", "x1", "w1"]);
    confirmed(&mut lab);
    assert_eq!(route(&lab).tally.called, [at("w1")]);
    let wish = wish(&lab);
    tell(&mut lab, &wish, &RelayInput::Up);
    assert_eq!(route(&lab).tally.called, []);
    lab.run(Duration::from_secs(20));
    assert_eq!(lab.condition("w1"), Condition::Standby);
    assert_eq!(lab.count(activated), 0);
    assert_eq!(lab.choice("c1").word(), "relay");
}

#[test]
fn while_somebody_else_is_ready_no_relay_is_asked() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "x1"]);
    confirmed(&mut lab);
    assert_eq!(lab.choice("c1"), Choice::Serve(vec![1]));
    assert_eq!(wishes(&lab), []);
}

#[test]
fn a_policy_that_says_off_asks_no_relay() {
    let mut lab = Lab::new(&["c1", "h1", "x1"]);
    lab.give_policy(2, ServicePolicy { relay: Relay::Off, ..ServicePolicy::default() });
    confirmed(&mut lab);
    assert_eq!(wishes(&lab), []);
}

#[test]
fn a_host_that_is_gone_is_called_up_for_as_if_there_were_no_relays() {
    let mut lab = Lab::new(&["c1", "h1", "x1", "w1"]);
    lab.lose("h1");
    lab.run(CONFIRM_SILENCE);
    assert_eq!(lab.condition("w1"), Condition::Activating);
}

#[test]
fn a_relay_that_refuses_is_followed_by_another_and_only_so_many_are_asked() {
    let mut lab = Lab::new(&["c1", "h1", "x1", "x2", "x3", "x4", "x5"]);
    confirmed(&mut lab);
    let mut asked = BTreeSet::new();
    for _ in 0..MAX_ASKED {
        let wish = wish(&lab);
        assert!(asked.insert(wish.via.clone()), "{wish:?} was asked before");
        tell(&mut lab, &wish, &down());
    }
    assert_eq!(wishes(&lab), [], "enough for now");
    lab.run(ASK_AGAIN + Duration::from_secs(1));
    assert_eq!(wishes(&lab).len(), 1, "asked again after a while");
}

#[test]
fn a_relay_whose_link_falls_silent_gives_way_to_another_and_its_requests_wait_for_that() {
    let mut lab = Lab::new(&["c1", "h1", "x1", "x2"]);
    confirmed(&mut lab);
    let first = wish(&lab);
    tell(&mut lab, &first, &RelayInput::Up);
    lab.lose(first.via.as_str());
    let second = wish(&lab);
    assert_ne!(second.via, first.via);
    assert_ne!(lab.choice("c1").word(), "relay");
    tell(&mut lab, &first, &RelayInput::Up);
    assert_ne!(lab.choice("c1").word(), "relay", "a late word of the old one says nothing");
    tell(&mut lab, &second, &RelayInput::Up);
    assert_eq!(route(&lab).candidates[0].via, Some(second.via));
}

#[test]
fn requests_go_direct_again_once_our_own_path_has_held_for_a_while() {
    let mut lab = Lab::new(&["c1", "h1", "x1"]);
    confirmed(&mut lab);
    let wish = wish(&lab);
    tell(&mut lab, &wish, &RelayInput::Up);
    lab.run(Duration::from_secs(1));
    heal(&mut lab);
    assert_eq!(lab.choice("c1"), Choice::Serve(vec![0]));
    assert_eq!(route(&lab).candidates[0].via, Some(name("x1")), "not yet");
    // It flaps: nothing moves.
    cut(&mut lab);
    assert_eq!(lab.choice("c1"), Choice::Relay(vec![0]));
    heal(&mut lab);
    lab.run(HOLD + ms(1));
    assert_eq!(lab.choice("c1"), Choice::Serve(vec![0]));
    assert_eq!(route(&lab).candidates[0].via, None);
    assert_eq!(wishes(&lab), []);
}

#[test]
fn the_incident_says_by_whom_the_lost_endpoint_was_reached_and_is_stable_then() {
    let mut lab = Lab::new(&["c1", "h1", "x1"]);
    confirmed(&mut lab);
    let wish = wish(&lab);
    tell(&mut lab, &wish, &RelayInput::Up);
    lab.run(Duration::from_secs(3));
    let incidents = lab.nodes[&name("c1")].incidents_view();
    let told = incidents.iter().find(|i| i.lost == "ledger@h1").unwrap();
    assert!(told.stable.is_some(), "{told:#?}");
    let words = |e: &crate::view::IncidentEntry| e.detail.contains("h1 answers through x1");
    assert!(told.timeline.iter().any(words), "{told:#?}");
    let spans = lab.events.iter().filter_map(|(_, e)| match e {
        Event::Spans(spans) => Some(spans),
        _ => None,
    });
    let attributes: Vec<_> = spans.flatten().flat_map(|s| s.attributes.clone()).collect();
    assert!(attributes.contains(&("hearth.relay", "x1".to_owned())), "{attributes:?}");
}

#[test]
fn a_third_agent_carries_only_to_living_members_it_reaches_itself_and_only_by_policy() {
    let mut lab = Lab::new(&["c1", "h1", "x1"]);
    let may =
        |lab: &Lab, to: &str| lab.nodes[&name("x1")].may_relay(lab.now, &name("c1"), &name(to));
    assert_eq!(may(&lab, "h1"), Ok(address("h1")));
    assert_eq!(may(&lab, "x1"), Err(Refusal::Unknown), "itself");
    assert_eq!(may(&lab, "c1"), Err(Refusal::Unknown), "the caller");
    assert_eq!(may(&lab, "nobody"), Err(Refusal::Unknown));
    let services = |policy| BTreeMap::from([(ledger(), policy)]);
    let mut give = |version, policy| {
        let content = Content::Policy(Policy { services: services(policy), ..Policy::default() });
        lab.give("x1", version, content);
        lab.nodes[&name("x1")].may_relay(lab.now, &name("c1"), &name("h1"))
    };
    let off = ServicePolicy { relay: Relay::Off, ..ServicePolicy::default() };
    assert_eq!(give(2, off), Err(Refusal::Policy));
    let others =
        ServicePolicy { allow: vec![Caller::Node(name("c2"))], ..ServicePolicy::default() };
    assert_eq!(give(3, others), Err(Refusal::Policy), "the caller may not call what is there");
    assert_eq!(give(4, ServicePolicy::default()), Ok(address("h1")));
    lab.lose("h1");
    let may = |lab: &Lab| lab.nodes[&name("x1")].may_relay(lab.now, &name("c1"), &name("h1"));
    assert_eq!(may(&lab), Err(Refusal::Silent));
    let mut alone = Lab::new(&["c1", "h1", "x1"]);
    let now = alone.now;
    alone.node("x1").leave(now);
    assert_eq!(may(&alone), Err(Refusal::Unwilling));
}

#[test]
fn a_relay_that_leaves_gives_way_to_another() {
    let mut lab = Lab::new(&["c1", "h1", "x1", "x2"]);
    confirmed(&mut lab);
    let first = wish(&lab);
    tell(&mut lab, &first, &RelayInput::Up);
    let now = lab.now;
    lab.node(first.via.as_str()).leave(now);
    lab.run(ms(500));
    assert_ne!(wish(&lab).via, first.via);
}

#[test]
fn once_somebody_else_is_ready_the_relay_is_let_go_and_its_endpoint_counts_as_lost_again() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "x1"]);
    let now = lab.now;
    lab.node("h2").handle_health(now, &at("h2"), false);
    lab.run(ms(500));
    confirmed(&mut lab);
    let wish = wish(&lab);
    tell(&mut lab, &wish, &RelayInput::Up);
    assert_eq!((lab.choice("c1"), route(&lab).tally.serving), (Choice::Relay(vec![0]), 1));
    let now = lab.now;
    lab.node("h2").handle_health(now, &at("h2"), true);
    lab.run(ms(500));
    assert_eq!(lab.choice("c1"), Choice::Serve(vec![1]));
    assert_eq!(wishes(&lab), []);
    assert_eq!(route(&lab).candidates[0].via, None);
    assert_eq!(route(&lab).tally.serving, 1, "h2 alone");
}
