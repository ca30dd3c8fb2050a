//! Who is picked from, rule by rule, and how the draw falls.

use super::*;
use crate::balance::FULL_WEIGHT;
use crate::evidence::{LinkState, NodeEvidence, Swim};
use crate::policy::Percent;
use crate::time::Time;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn id(node: &str) -> EndpointId {
    EndpointId {
        service: ServiceName::parse("ledger").unwrap(),
        node: NodeName::parse(node).unwrap(),
        instance: 0,
    }
}

fn candidate(node: &str, standing: Standing) -> Candidate {
    let condition = match &standing {
        Standing::Out(Why::Condition(c)) => *c,
        _ => Condition::Serving,
    };
    Candidate {
        id: id(node),
        address: "10.0.0.1:7940".parse().unwrap(),
        generation: Generation(1),
        protocol: Protocol::Http,
        role: Role::Hot,
        condition,
        standing,
        via: None,
        share: Share::Full,
        term: None,
        capacity: 100,
        weight: FULL_WEIGHT,
        place: Place::default(),
    }
}

fn ready(node: &str) -> Candidate {
    candidate(node, Standing::Ready)
}

fn accused(node: &str) -> Candidate {
    candidate(node, Standing::Doubtful(Why::Suspect { since: Time(1) }))
}

fn silent(node: &str) -> Candidate {
    candidate(node, Standing::Doubtful(Why::Silent { since: Time(1) }))
}

fn relayed(node: &str, via: &str) -> Candidate {
    Candidate { via: Some(NodeName::parse(via).unwrap()), ..silent(node) }
}

fn down(node: &str) -> Candidate {
    candidate(node, Standing::Out(Why::Down { since: Time(1) }))
}

fn standby(node: &str) -> Candidate {
    candidate(node, Standing::Out(Why::Condition(Condition::Standby)))
}

fn chosen(candidates: &[Candidate], called: &[&str]) -> Choice {
    let called = called.iter().map(|n| id(n)).collect();
    let tally = Tally { called, ..Tally::default() };
    choose(&ServicePolicy::default(), candidates, &tally).0
}

fn route(candidates: Vec<Candidate>) -> Route {
    let policy = ServicePolicy::default();
    let tally = Tally::default();
    let (choice, reason) = choose(&policy, &candidates, &tally);
    routed(policy, candidates, choice, reason, tally)
}

fn routed(
    policy: ServicePolicy,
    candidates: Vec<Candidate>,
    choice: Choice,
    reason: String,
    tally: Tally,
) -> Route {
    let service = ServiceName::parse("ledger").unwrap();
    let spread = Spread::of(&policy, &candidates, &choice, &Place::default());
    Route { service, policy, candidates, choice, spread, reason, tally, watched: false }
}

fn idle(_: &EndpointId, _: Measure) -> u64 {
    0
}

#[test]
fn the_ready_are_picked_from_as_long_as_enough_are_ready() {
    assert_eq!(chosen(&[ready("a"), ready("b"), down("c")], &[]), Choice::Serve(vec![0, 1]));
    assert_eq!(chosen(&[ready("a"), accused("b")], &[]), Choice::Serve(vec![0]), "50 % of 2 is 1");
}

#[test]
fn below_the_panic_threshold_those_accused_by_hearsay_are_used_too_the_ready_first() {
    assert_eq!(
        chosen(&[accused("a"), accused("b"), ready("c")], &[]),
        Choice::Panic(vec![2, 0, 1])
    );
}

#[test]
fn a_silent_endpoint_never_dilutes_those_that_answer() {
    assert_eq!(chosen(&[ready("a"), silent("b"), silent("c")], &[]), Choice::Serve(vec![0]));
}

#[test]
fn with_a_panic_threshold_of_zero_one_ready_endpoint_is_enough_but_none_is_not() {
    let policy = ServicePolicy { panic: Percent(0), ..ServicePolicy::default() };
    let choose = |c: &[Candidate]| choose(&policy, c, &Tally::default()).0;
    assert_eq!(choose(&[ready("a"), accused("b"), accused("c")]), Choice::Serve(vec![0]));
    assert_eq!(choose(&[accused("b")]), Choice::Panic(vec![0]));
}

#[test]
fn nobody_ready_and_somebody_called_is_a_wake() {
    let activating = candidate("w", Standing::Out(Why::Condition(Condition::Activating)));
    assert_eq!(chosen(&[down("a"), standby("w")], &["w"]), Choice::Wake(vec![1]));
    assert_eq!(chosen(&[silent("a"), activating], &["w"]), Choice::Wake(vec![1]));
    assert_eq!(chosen(&[down("a"), standby("w")], &[]), Choice::Nobody, "it was not called");
}

fn ejected(node: &str) -> Candidate {
    candidate(node, Standing::Out(Why::Ejected { failures: 3, until: Time(9) }))
}

#[test]
fn where_nobody_else_is_left_those_that_failed_are_tried_but_not_before_a_warm_one_is_woken() {
    assert_eq!(chosen(&[ejected("a"), down("b")], &[]), Choice::Panic(vec![0]));
    assert_eq!(chosen(&[silent("a"), ejected("b")], &[]), Choice::Panic(vec![1, 0]));
    assert_eq!(chosen(&[ejected("a"), standby("w")], &["w"]), Choice::Wake(vec![1]));
    assert_eq!(chosen(&[ejected("a"), accused("b")], &[]), Choice::Panic(vec![1]));
    let route = route(vec![ejected("a"), down("b")]);
    assert_eq!(route.pick(1, &[], idle).pick, Some(&ejected("a")));
}

#[test]
fn a_called_endpoint_whose_node_is_down_is_not_waited_for() {
    assert_eq!(chosen(&[down("a"), down("w")], &["w"]), Choice::Nobody);
}

#[test]
fn known_from_disk_only_is_better_than_waiting() {
    let unheard = candidate("a", Standing::Doubtful(Why::Unheard));
    assert_eq!(chosen(&[unheard, standby("w")], &["w"]), Choice::Panic(vec![0]));
}

#[test]
fn when_all_are_silent_and_nobody_can_be_called_they_are_tried_all_the_same() {
    assert_eq!(chosen(&[silent("a"), silent("b")], &[]), Choice::Panic(vec![0, 1]));
}

#[test]
fn who_answers_through_a_relay_is_used_before_anybody_is_woken_and_instead_of_those_who_do_not() {
    let all = [relayed("a", "c"), silent("b"), standby("w")];
    assert_eq!(chosen(&all, &["w"]), Choice::Relay(vec![0]));
    let (_, reason) = choose(&ServicePolicy::default(), &all, &Tally::default());
    assert_eq!(reason, "relayed through c: our own path to a is silent");
}

#[test]
fn a_relay_is_the_last_resort_whoever_is_ready_or_only_accused_comes_first() {
    assert_eq!(chosen(&[relayed("a", "c"), ready("b")], &[]), Choice::Serve(vec![1]));
    assert_eq!(chosen(&[relayed("a", "c"), accused("b")], &[]), Choice::Panic(vec![1]));
}

#[test]
fn an_endpoint_that_is_ready_again_is_ready_though_it_is_still_reached_through_a_relay() {
    let held = Candidate { standing: Standing::Ready, ..relayed("a", "c") };
    assert_eq!(chosen(&[held], &[]), Choice::Serve(vec![0]));
}

#[test]
fn the_holder_of_a_lease_that_answers_through_a_relay_is_used_though_others_stand_by() {
    let owners = ["a", "w"].map(|n| NodeName::parse(n).unwrap()).to_vec();
    let lease = crate::time::Span(std::time::Duration::from_secs(5));
    let exclusive = crate::policy::Exclusive { owners, lease, number: 1, former: Vec::new() };
    let policy = ServicePolicy {
        mode: Mode::Exclusive,
        exclusive: Some(exclusive),
        ..ServicePolicy::default()
    };
    let choice = |holder| {
        let all = [Candidate { term: Some(3), ..holder }, standby("w")];
        choose(&policy, &all, &Tally::default()).0
    };
    assert_eq!(choice(relayed("a", "c")), Choice::Relay(vec![0]));
    assert_eq!(choice(silent("a")), Choice::Wake(vec![1]));
}

#[test]
fn nobody_left_has_a_name_and_a_reason() {
    let tally = Tally::default();
    let policy = ServicePolicy::default();
    let (choice, reason) = choose(&policy, &[], &tally);
    assert_eq!((choice, reason.as_str()), (Choice::Nobody, "no agent offers this service"));
    let (choice, reason) = choose(&policy, &[down("a")], &tally);
    assert_eq!(choice, Choice::Nobody);
    assert!(reason.starts_with("none of 1 endpoints can serve"), "{reason}");
}

#[test]
fn of_two_drawn_the_less_loaded_is_picked() {
    let r = route(vec![ready("a"), ready("b")]);
    let load = |e: &EndpointId, _| u64::from(e.node.as_str() == "a");
    for random in 0..100u64 {
        let random = random << 32 | random;
        let pick = r.pick(random, &[], load).pick.unwrap();
        assert_eq!(pick.id, id("b"));
    }
}

#[test]
fn what_a_request_has_met_already_is_not_picked_again() {
    let r = route(vec![ready("a"), ready("b"), ready("c")]);
    for random in [0, u64::MAX, 1 << 40, 12345] {
        let pick = r.pick(random, &[id("a"), id("c")], idle).pick.unwrap();
        assert_eq!(pick.id, id("b"));
    }
    let none = r.pick(7, &[id("a"), id("b"), id("c")], idle);
    assert_eq!((none.pick, none.reason), (None, "every candidate was tried"));
}

#[test]
fn a_route_that_wakes_or_has_nobody_picks_nobody_and_says_why() {
    let mut r = route(vec![standby("w")]);
    r.choice = Choice::Wake(vec![0]);
    assert_eq!(r.pick(1, &[], idle), Decision { pick: None, reason: "being called up" });
    r.choice = Choice::Nobody;
    assert_eq!(r.pick(1, &[], idle), Decision { pick: None, reason: "nobody is left" });
}

/// With equal loads power of two choices is a uniform draw: χ² over 7 endpoints and 70,000 draws; 30 is
/// the 99.99 % quantile for 6 degrees of freedom (27.9), rounded up.
#[test]
fn draws_are_uniform() {
    let r = route(["a", "b", "c", "d", "e", "f", "g"].map(ready).to_vec());
    let mut rng = StdRng::seed_from_u64(7);
    let mut counts = BTreeMap::new();
    for _ in 0..70_000 {
        let pick = r.pick(rng.random::<u64>(), &[], idle).pick.unwrap();
        *counts.entry(pick.id.clone()).or_insert(0f64) += 1.0;
    }
    let chi: f64 = counts.values().map(|n| (n - 10_000.0).powi(2) / 10_000.0).sum();
    assert_eq!(counts.len(), 7);
    assert!(chi < 30.0, "χ² = {chi}: {counts:?}");
}

/// The two draws are distinct: with one loaded endpoint among n it is picked never, for it always
/// stands against another.
#[test]
fn the_two_draws_are_distinct() {
    let r = route(["a", "b", "c"].map(ready).to_vec());
    let mut rng = StdRng::seed_from_u64(8);
    let load = |e: &EndpointId, _| u64::from(e.node.as_str() == "b");
    for _ in 0..10_000 {
        assert_ne!(r.pick(rng.random::<u64>(), &[], load).pick.unwrap().id, id("b"));
    }
}

fn any_standing() -> impl Strategy<Value = Standing> {
    let swim = prop_oneof![
        Just(Swim::Unheard),
        Just(Swim::Alive),
        Just(Swim::Suspect),
        Just(Swim::Unsteady),
        Just(Swim::Down)
    ];
    let link = prop_oneof![Just(LinkState::None), Just(LinkState::Up), Just(LinkState::Silent)];
    (swim, link, any::<bool>(), any::<bool>()).prop_map(|(swim, link, heard, standby)| {
        let node = NodeEvidence { swim, link, ..NodeEvidence::unheard(Time(5)) };
        let node = NodeEvidence { heard: heard.then_some(Time(6)), ..node };
        let condition = if standby { Condition::Standby } else { Condition::Serving };
        crate::evidence::standing(&node, false, condition, None, Time(7))
    })
}

proptest! {
    #[test]
    fn nobody_out_is_ever_picked_and_nobody_excluded_and_the_draw_never_panics(
        standings in prop::collection::vec(any_standing(), 0..12),
        called in any::<u16>(), random in any::<u64>(), excluded in any::<u16>(), loads in any::<u64>(),
    ) {
        let all: Vec<Candidate> =
            standings.into_iter().enumerate().map(|(i, s)| candidate(&format!("n{i}"), s)).collect();
        let some = |bits: u16| -> Vec<EndpointId> {
            let of = all.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1);
            of.map(|(_, c)| c.id.clone()).collect()
        };
        let tally = Tally { called: some(called), ..Tally::default() };
        let policy = ServicePolicy::default();
        let (choice, reason) = choose(&policy, &all, &tally);
        prop_assert!(!reason.is_empty());
        if let Choice::Serve(v) = &choice {
            prop_assert!(!v.is_empty());
            prop_assert!(v.iter().all(|i| all[*i].standing == Standing::Ready));
        }
        if all.iter().any(|c| c.standing == Standing::Ready) {
            prop_assert!(matches!(choice.word(), "serve" | "panic"), "{:?}", choice);
        }
        let excluded = some(excluded);
        let picked_from: Vec<usize> = choice.indices().to_vec();
        let r = routed(policy, all, choice, reason, tally);
        let decision = r.pick(random, &excluded, |e, _| loads >> (e.node.as_str().len() * 7) & 3);
        if let Some(pick) = decision.pick {
            prop_assert!(!excluded.contains(&pick.id));
            prop_assert!(!matches!(pick.standing, Standing::Out(_)));
        } else if matches!(r.choice.word(), "serve" | "panic") {
            prop_assert!(picked_from.iter().all(|i| excluded.contains(&r.candidates[*i].id)));
        }
    }
}

fn on_trial(node: &str) -> Candidate {
    Candidate { share: Share::Trial, ..ready(node) }
}

/// Picks of many draws by a caller to whom `busy` is ever so expensive.
fn picks(candidates: Vec<Candidate>, exclude: &[EndpointId], busy: &str) -> BTreeMap<String, u64> {
    let route = route(candidates);
    let mut rng = StdRng::seed_from_u64(4);
    let mut picks = BTreeMap::new();
    for _ in 0..16_000 {
        let cost = |id: &EndpointId, _| if id.node.as_str() == busy { 1_000_000 } else { 1 };
        let decision = route.pick(rng.random::<u64>(), exclude, cost);
        let node = decision.pick.map_or("nobody".to_owned(), |c| c.id.node.to_string());
        *picks.entry(node).or_default() += 1;
    }
    picks
}

#[test]
fn an_endpoint_on_trial_gets_one_pick_in_sixteen_whatever_the_balancer_thinks_of_it() {
    for busy in ["nobody", "c", "a"] {
        let picks = picks(vec![ready("a"), ready("b"), on_trial("c")], &[], busy);
        assert!((850..1_150).contains(&picks["c"]), "{busy} is expensive: {picks:?}");
    }
}

#[test]
fn a_repetition_takes_no_trial_while_somebody_else_is_left() {
    let all = || vec![ready("a"), ready("b"), on_trial("c")];
    assert!(!picks(all(), &[id("a")], "nobody").contains_key("c"));
    assert_eq!(picks(all(), &[id("a"), id("b")], "nobody")["c"], 16_000);
}

#[test]
fn where_all_are_on_trial_all_are_picked_in_full() {
    let picks = picks(vec![on_trial("a"), on_trial("b")], &[], "nobody");
    assert!(picks.values().all(|n| *n > 7_000), "{picks:?}");
}
