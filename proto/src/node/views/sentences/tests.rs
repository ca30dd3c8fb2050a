use crate::advert::{Condition, Protocol, Role};
use crate::balance::tiers::Place;
use crate::balance::{FULL_WEIGHT, Spread};
use crate::evidence::Standing;
use crate::failover::Tally;
use crate::ids::{EndpointId, Generation, NodeName, ServiceName};
use crate::policy::{Percent, ServicePolicy};
use crate::route::{Candidate, Share};
use crate::time::Span;

use super::*;

const NOW: Wall = Wall(1_000_000_000);

fn service() -> ServiceName {
    ServiceName::parse("ledger").unwrap()
}

fn id(node: &str) -> EndpointId {
    EndpointId { service: service(), node: NodeName::parse(node).unwrap(), instance: 0 }
}

/// A route that goes to `picks`, of three hot ones of which `serving` serve.
fn route(picks: &[&str], serving: usize, called: &[&str]) -> Route {
    let candidate = |node: &&str| Candidate {
        id: id(node),
        address: "192.0.2.1:7940".parse().unwrap(),
        generation: Generation(1),
        protocol: Protocol::Http,
        role: Role::Hot,
        condition: Condition::Serving,
        standing: Standing::Ready,
        via: None,
        share: Share::Full,
        term: None,
        capacity: 100,
        weight: FULL_WEIGHT,
        place: Place::default(),
    };
    let policy = ServicePolicy {
        min_hot: Need::Percent(Percent(67)),
        failback: Failback::After(Span(std::time::Duration::from_secs(5))),
        ..ServicePolicy::default()
    };
    let candidates: Vec<Candidate> = picks.iter().map(candidate).collect();
    let choice = Choice::Serve((0..picks.len()).collect());
    Route {
        service: service(),
        spread: Spread::of(&policy, &candidates, &choice, &Place::default()),
        policy,
        candidates,
        choice,
        reason: format!("{} ready of 5 known", picks.len()),
        tally: Tally {
            declared: 3,
            needed: 3,
            hot: serving,
            serving,
            called: called.iter().map(|node| id(node)).collect(),
            ..Tally::default()
        },
        watched: false,
    }
}

fn endpoint(node: &str, role: &str, condition: &str, standing: &str, why: &str) -> EndpointView {
    EndpointView {
        endpoint: id(node).to_string(),
        service: service(),
        node: NodeName::parse(node).unwrap(),
        role: role.into(),
        condition: condition.into(),
        condition_since: Wall(NOW.0 - 200_000_000),
        standing: standing.into(),
        reason: why.into(),
        standing_since: Wall(NOW.0 - 12_000_000),
        activated_for: None,
        weight: 1_000,
        term: None,
        activations: None,
    }
}

fn incident() -> IncidentView {
    IncidentView {
        id: "ledger-4f1d09ab".into(),
        trace_id: "4f1d09ab00000000000000000000aaaa".into(),
        service: service(),
        lost: "ledger@hot-1".into(),
        reason: "its node is down".into(),
        opened: Wall(NOW.0 - 12_000_000),
        stable: None,
        recovered: None,
        activated: Some("ledger@warm-1".into()),
        policy_version: 2,
        drill: None,
        inputs: Vec::new(),
        spans: Vec::new(),
        timeline: Vec::new(),
    }
}

#[test]
fn a_failover_is_told_as_who_serves_who_is_out_for_how_long_and_why() {
    let warm = EndpointView {
        activated_for: Some("ledger-4f1d09ab".into()),
        ..endpoint("warm-1", "warm", "serving", "ready", "")
    };
    let endpoints = [
        endpoint("hot-1", "hot", "serving", "out", "its node is down"),
        endpoint("hot-2", "hot", "serving", "ready", ""),
        warm,
        endpoint("warm-2", "warm", "standby", "out", "it stands by"),
        endpoint("warm-3", "warm", "standby", "out", "its node is down"),
    ];
    let route = route(&["hot-2", "hot-3", "warm-1"], 3, &["warm-1"]);
    assert_eq!(
        of(&route, &endpoints, &[incident()], 2, NOW),
        [
            "Requests for ledger go to hot-2, hot-3 and warm-1 (3 ready of 5 known), each to the less \
             loaded of two drawn at random.",
            "By policy version 2, 3 must serve (min_hot 67% of 3 hot, rounded up); 3 do.",
            "ledger@hot-1 (hot) has been out for 12 s: its node is down (incident ledger-4f1d09ab).",
            "ledger@hot-2 (hot) serves, ready for 12 s.",
            "ledger@warm-1 (warm) has served for 3 min: called up when ledger@hot-1 was lost (incident \
             ledger-4f1d09ab).",
            "ledger@warm-2 (warm) stands by, for 3 min.",
            "ledger@warm-3 (warm) has been out for 12 s: its node is down; it stood by.",
        ]
    );
}

#[test]
fn a_warm_endpoint_that_is_not_needed_any_more_says_when_it_stands_down() {
    let warm = [endpoint("warm-1", "warm", "serving", "ready", "")];
    let told = |route: &Route| of(route, &warm, &[], 2, NOW).pop().unwrap();
    assert_eq!(
        told(&route(&["hot-1"], 3, &[])),
        "ledger@warm-1 (warm) has served for 3 min: called up because too few hot ones served; not \
         needed any more, stands down when that has been so for 5s."
    );
    let mut never = route(&["hot-1"], 3, &[]);
    never.policy.failback = Failback::Never;
    assert!(told(&never).ends_with("not needed any more, stays up (failback never)."));
    never.policy.failback = Failback::Manual;
    assert!(told(&never).ends_with("stays up until `hearth failback ledger` (failback manual)."));
    assert!(told(&route(&["hot-1"], 2, &["warm-1"])).ends_with("too few hot ones served."));
    let mut lease = route(&["warm-1"], 0, &[]);
    lease.policy.mode = Mode::Exclusive;
    let said = told(&lease);
    assert!(said.contains("served for 3 min: it holds the lease, and hands it to a hot"), "{said}");
    lease.policy.failback = Failback::Manual;
    assert!(told(&lease).ends_with("keeps it until it is drained (failback manual)."));
}

#[test]
fn endpoints_that_flap_are_said_not_to_count() {
    let mut flapping = route(&["hot-1", "warm-1"], 2, &["warm-1"]);
    flapping.tally.damped = 1;
    assert_eq!(
        of(&flapping, &[], &[], 2, NOW)[2],
        "One hot endpoint serves and does not count: it was lost too often of late."
    );
}

#[test]
fn nobody_left_no_bench_and_no_policy_are_said_as_what_they_are() {
    let mut alone = route(&[], 0, &[]);
    (alone.choice, alone.reason) = (Choice::Nobody, "none of 3 endpoints can serve".into());
    alone.tally.short = 3;
    let said = of(&alone, &[], &[], 0, NOW);
    assert_eq!(said[0], "Requests for ledger fail: none of 3 endpoints can serve.");
    assert!(
        said[1].starts_with("By default (no policy was received), 3 must serve"),
        "{}",
        said[1]
    );
    assert_eq!(said[2], "There is no warm endpoint: 3 more would be called up.");
    alone.policy.mode = Mode::HotHot;
    assert_eq!(
        of(&alone, &[], &[], 7, NOW)[1],
        "By policy version 7, nobody is called up (mode hot-hot); 0 of 3 hot serve."
    );
}

#[test]
fn of_many_endpoints_the_first_are_named_and_the_rest_counted() {
    let many = route(&["a", "b", "c", "d", "e", "f", "g", "h"], 8, &[]);
    assert!(of(&many, &[], &[], 1, NOW)[0].contains("go to a, b, c, d, e, f and 2 more ("));
}

fn placed(zones: &[&str], choice: &[usize], policy: ServicePolicy) -> Route {
    let mut route = route(&["a", "b", "c", "d"][..zones.len()], 3, &[]);
    for (c, zone) in route.candidates.iter_mut().zip(zones) {
        c.place = Place { zone: (*zone).into(), region: "r".into() };
    }
    route.choice = Choice::Serve(choice.to_vec());
    let home = Place { zone: "x".into(), region: "r".into() };
    route.policy = policy;
    route.spread = Spread::of(&route.policy, &route.candidates, &route.choice, &home);
    route
}

#[test]
fn how_far_requests_go_is_said_where_it_differs_and_why_some_spill_over() {
    let policy = ServicePolicy::default;
    let zones = ["x", "x", "y", "y"];
    assert_eq!(distance(&placed(&["x"; 4], &[0, 1, 2, 3], policy())), None);
    assert_eq!(
        distance(&placed(&zones, &[0, 1, 2, 3], policy())).unwrap(),
        "What is nearest has enough: 100% stay in this zone (2 of 2 endpoints ready) and 0% go to other \
         zones of this region (2 of 2 endpoints ready)."
    );
    assert_eq!(
        distance(&placed(&zones, &[0, 2, 3], policy())).unwrap(),
        "What is nearest has too little left of what it should have, so part of the requests spills over: \
         70% stay in this zone (1 of 2 endpoints ready) and 30% go to other zones of this region (2 of 2 \
         endpoints ready)."
    );
}

#[test]
fn the_balancer_and_what_keeps_sessions_together_are_said() {
    for (balance, words) in [
        ("peak-ewma", "each to the less loaded of two drawn at random."),
        ("least-request", "each to the one of two drawn at random that has fewer under way."),
        ("round-robin", "to one after the other."),
        ("ring-hash", "those of one session or client to the same."),
    ] {
        let policy = serde_json::from_str(&format!(r#"{{"balance": "{balance}"}}"#)).unwrap();
        let said = traffic(&placed(&["x"; 4], &[0, 1], policy));
        assert!(said.ends_with(words), "{said}");
    }
    let policy = serde_json::from_str(r#"{"affinity": {"cookie": "sid"}}"#).unwrap();
    let said = session(&placed(&["x"; 4], &[0, 1], policy)).unwrap();
    assert!(said.starts_with("Requests of one session (by cookie sid) go to the same"), "{said}");
    assert_eq!(session(&placed(&["x"; 4], &[0, 1], ServicePolicy::default())), None);
}
