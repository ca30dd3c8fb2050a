//! A service that is well has no finding; each rule is shown by the least that breaks it.

use super::*;
use crate::advert::traits::ActivationTimes;
use crate::policy::{Need, Percent};
use crate::time::Span;

fn service() -> ServiceName {
    ServiceName::parse("ledger").unwrap()
}

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

fn id(on: &str) -> EndpointId {
    EndpointId { service: service(), node: node(on), instance: 0 }
}

fn endpoint(on: &str, role: Role, zone: &str) -> EndpointFacts {
    let activations =
        ActivationTimes { attempts: 4, failed: 0, mean_ms: 300, p50_ms: 250, p95_ms: 700 };
    EndpointFacts {
        id: id(on),
        role,
        protocol: Protocol::Http,
        zone: zone.to_owned(),
        weight: 100,
        traits: Some(Traits {
            check: CheckKind::Http,
            hook: true,
            deadline_ms: 5_000,
            activations,
        }),
    }
}

const WARM: Role = Role::Warm { priority: 0 };

/// Three hot and two warm ones over three zones, called from here, everything as it should be.
fn well() -> Facts {
    let endpoints = vec![
        endpoint("a", Role::Hot, "z1"),
        endpoint("b", Role::Hot, "z2"),
        endpoint("c", Role::Hot, "z3"),
        endpoint("d", WARM, "z1"),
        endpoint("e", WARM, "z2"),
    ];
    let traffic = Traffic { repeatable: 900, once: 100, peak: 12 };
    Facts {
        policy: Policy {
            services: [(service(), ServicePolicy::default())].into(),
            ..Policy::default()
        },
        nodes: ["a", "b", "c", "d", "e", "web-1"].into_iter().map(node).collect(),
        endpoints,
        traffic: [(service(), traffic)].into(),
    }
}

fn with(change: impl FnOnce(&mut Facts)) -> Facts {
    let mut facts = well();
    change(&mut facts);
    facts
}

fn with_policy(change: impl FnOnce(&mut ServicePolicy)) -> Facts {
    with(|facts| change(facts.policy.services.get_mut(&service()).unwrap()))
}

fn traits(facts: &mut Facts, at: usize) -> &mut Traits {
    facts.endpoints[at].traits.as_mut().unwrap()
}

fn found(facts: &Facts) -> Vec<Finding> {
    check(facts, None).into_iter().map(|(_, finding)| finding).collect()
}

/// Exactly this is found; its words hold `words`.
#[track_caller]
fn finds(facts: &Facts, expected: &Finding, severity: Severity, words: [&str; 2]) {
    assert_eq!(found(facts), std::slice::from_ref(expected));
    assert_eq!(expected.severity(), severity);
    let (said, mend) = (expected.sentence(), expected.mend());
    assert!(said.contains(words[0]), "{said}");
    assert!(mend.contains(words[1]), "{mend}");
}

use Severity::{Error, Note, Warning};

#[test]
fn a_service_that_is_well_has_no_finding() {
    assert_eq!(found(&well()), []);
}

#[test]
fn one_service_is_looked_at_where_one_is_asked_for_and_the_worst_comes_first() {
    let facts = with(|f| {
        f.policy.services.get_mut(&service()).unwrap().retries = 0;
        f.policy.services.get_mut(&service()).unwrap().allow.clear();
        let other = ServiceName::parse("mail").unwrap();
        f.policy.services.insert(other, ServicePolicy::default());
    });
    let rules: Vec<_> = check(&facts, None).iter().map(|(_, f)| f.rule()).collect();
    assert_eq!(rules, ["nobody-may-call", "retries-off", "not-offered"]);
    assert_eq!(check(&facts, Some(&service())).len(), 2);
}

#[test]
fn a_policy_for_a_service_nobody_offers_is_found_with_the_name_that_is_meant() {
    let facts = with(|f| {
        let misspelt = ServiceName::parse("legder").unwrap();
        f.policy.services.insert(misspelt, ServicePolicy::default());
    });
    let expected = Finding::NotOffered { meant: Some("ledger".into()) };
    finds(&facts, &expected, Warning, ["ledger is meant", "policy"]);
}

#[test]
fn a_service_nobody_may_call_is_an_error() {
    let facts = with_policy(|p| p.allow.clear());
    finds(&facts, &Finding::NobodyMayCall, Error, ["lets nobody", "allow ="]);
}

#[test]
fn a_caller_that_is_no_node_is_found_with_the_name_that_is_meant() {
    let facts = with_policy(|p| p.allow = vec![Caller::Node(node("wbe-1"))]);
    let expected = Finding::UnknownCaller { node: node("wbe-1"), meant: Some("web-1".into()) };
    finds(&facts, &expected, Warning, ["web-1 is meant", "allow"]);
}

#[test]
fn a_service_without_a_hot_endpoint_is_an_error() {
    let facts = with(|f| f.endpoints.iter_mut().for_each(|e| e.role = WARM));
    finds(&facts, &Finding::NothingHot { warm: 5 }, Error, ["no hot", "role = \"hot\""]);
}

#[test]
fn a_single_endpoint_has_nobody_to_fail_over_to() {
    let facts = with(|f| f.endpoints.truncate(1));
    finds(&facts, &Finding::OneEndpoint { endpoint: id("a") }, Error, ["only", "second host"]);
}

#[test]
fn warm_endpoints_of_a_hot_hot_service_are_never_called() {
    let facts = with_policy(|p| p.mode = Mode::HotHot);
    let expected = Finding::WarmNeverCalled { warm: 2 };
    finds(&facts, &expected, Warning, ["2 warm endpoints are never", "hot-warm"]);
}

#[test]
fn a_service_that_needs_none_never_misses_one() {
    let facts = with_policy(|p| p.min_hot = Need::Percent(Percent(0)));
    finds(&facts, &Finding::NeverShort { warm: 2 }, Error, ["comes to 0", "min_hot"]);
}

#[test]
fn a_threshold_beyond_all_endpoints_is_unreachable() {
    let facts = with_policy(|p| p.min_hot = Need::Count(6));
    let expected = Finding::Unreachable { needed: 6, hot: 3, warm: 2 };
    // Its zones cannot be covered either: that follows, and is said beside it.
    assert_eq!(found(&facts)[0], expected);
    assert_eq!(expected.severity(), Error);
    assert!(expected.mend().contains("min_hot = 5 at most"));
}

#[test]
fn a_threshold_beyond_the_hot_ones_uses_the_bench_up_for_good() {
    let facts = with_policy(|p| p.min_hot = Need::Count(4));
    let expected = Finding::AlwaysShort { needed: 4, hot: 3 };
    assert!(found(&facts).contains(&expected));
    assert_eq!(expected.severity(), Warning);
    assert!(expected.sentence().contains("called up for good"));
    // With one lost four are left; with two zones' worth, fewer.
    let within = with_policy(|p| p.min_hot = Need::Count(3));
    assert!(!found(&within).contains(&expected));
}

#[test]
fn a_bench_that_does_not_cover_one_loss_is_too_small() {
    let facts = with(|f| f.endpoints.truncate(3));
    let expected = Finding::BenchTooSmall { needed: 3, hot: 3, warm: 0 };
    assert_eq!(found(&facts)[0], expected);
    assert_eq!(expected.severity(), Warning);
    assert!(expected.sentence().contains("a single loss leaves too few"));
    assert!(expected.mend().contains("one more warm"));
}

#[test]
fn a_bench_that_is_smaller_than_the_largest_it_must_replace_is_too_light() {
    let facts = with(|f| {
        f.endpoints[0].weight = 400;
        f.endpoints[3].weight = 150;
    });
    let expected = Finding::BenchTooLight { lost: id("a"), left: 450, needed: 600 };
    finds(&facts, &expected, Warning, ["a capacity of 450 is left", "more weight"]);
    let enough = with(|f| {
        f.endpoints[0].weight = 400;
        f.endpoints[3].weight = 300;
    });
    assert_eq!(found(&enough), []);
    let counted = with(|f| {
        f.endpoints[0].weight = 400;
        f.policy.services.get_mut(&service()).unwrap().min_hot = Need::Count(3);
    });
    assert_eq!(found(&counted), [], "it asks for a number");
}

#[test]
fn a_udp_port_that_is_not_closed_says_little() {
    let facts = with(|f| {
        f.endpoints[1].protocol = Protocol::Udp;
        traits(f, 1).check = CheckKind::Udp;
    });
    let expected = Finding::UnansweredCheck { endpoints: vec![id("b")] };
    finds(&facts, &expected, Warning, ["an application that hangs looks well", "over HTTP or TCP"]);
}

#[test]
fn all_endpoints_on_one_host_are_lost_together() {
    let facts = with(|f| {
        for (instance, e) in (0..).zip(&mut f.endpoints) {
            e.id = EndpointId { instance, ..id("a") };
        }
    });
    let expected = Finding::OneHost { host: node("a"), endpoints: 5 };
    finds(&facts, &expected, Error, ["All 5 endpoints are on a", "second host"]);
}

#[test]
fn a_host_with_more_endpoints_than_the_bench_covers_is_found() {
    let facts = with(|f| {
        for (instance, e) in (0..).zip(&mut f.endpoints[..3]) {
            e.id = EndpointId { instance, ..id("a") };
        }
    });
    let domain = Domain::Host(node("a"));
    let expected = Finding::DomainNotCovered { domain, left: 2, needed: 3 };
    finds(&facts, &expected, Warning, ["Without host a 2 are left", "elsewhere"]);
}

#[test]
fn all_endpoints_in_one_zone_are_a_single_failure_domain() {
    let facts = with(|f| f.endpoints.iter_mut().for_each(|e| e.zone = "z1".into()));
    let expected = Finding::OneZone { zone: "z1".into(), endpoints: 5 };
    finds(&facts, &expected, Warning, ["in zone z1", "second zone"]);
}

#[test]
fn a_zone_that_takes_more_than_the_bench_covers_is_found_and_an_error_where_nothing_is_left() {
    let facts = with(|f| f.endpoints[1].zone = "z1".into());
    let domain = Domain::Zone("z1".into());
    let expected = Finding::DomainNotCovered { domain: domain.clone(), left: 2, needed: 3 };
    finds(&facts, &expected, Warning, ["Without zone z1 2 are left", "elsewhere"]);
    let nothing = Finding::DomainNotCovered { domain, left: 0, needed: 1 };
    assert_eq!(nothing.severity(), Error);
}

#[test]
fn in_mode_hot_hot_one_survivor_covers_a_zone() {
    let facts = with(|f| {
        f.endpoints.truncate(3);
        f.endpoints[1].zone = "z1".into();
        f.policy.services.get_mut(&service()).unwrap().mode = Mode::HotHot;
    });
    assert_eq!(found(&facts), []);
}

#[test]
fn without_zones_it_is_said_that_failure_domains_cannot_be_known() {
    let facts = with(|f| f.endpoints[4].zone.clear());
    finds(&facts, &Finding::ZonesUnknown { endpoints: 1 }, Note, ["cannot be known", "zone ="]);
}

#[test]
fn an_endpoint_without_any_health_signal_is_an_error() {
    let facts = with(|f| traits(f, 2).check = CheckKind::None);
    let expected = Finding::NoHealthSignal { endpoints: vec![id("c")] };
    finds(&facts, &expected, Error, ["ledger@c", "[endpoint.check]"]);
}

#[test]
fn a_check_by_connection_is_shallow_for_http_and_all_there_is_for_tcp() {
    let mut facts = with(|f| traits(f, 0).check = CheckKind::Tcp);
    let expected = Finding::ShallowCheck { endpoints: vec![id("a")] };
    finds(&facts, &expected, Warning, ["ledger@a is checked by a connection", "path ="]);
    facts.endpoints[0].protocol = Protocol::Tcp;
    assert_eq!(found(&facts), []);
}

#[test]
fn an_owner_that_says_nothing_is_told_of_and_not_guessed_at() {
    let facts = with(|f| f.endpoints[3].traits = None);
    let expected = Finding::OwnerSaysNothing { endpoints: vec![id("d")] };
    finds(&facts, &expected, Note, ["ledger@d", "update"]);
}

#[test]
fn activations_that_mostly_fail_are_an_error_and_one_failure_is_chance() {
    let mut facts = with(|f| traits(f, 3).activations.failed = 3);
    let expected = Finding::ActivationFails { endpoint: id("d"), failed: 3, attempts: 4 };
    finds(&facts, &expected, Error, ["3 of 4 activations", "hook"]);
    traits(&mut facts, 3).activations.failed = 1;
    assert_eq!(found(&facts), []);
}

#[test]
fn an_activation_slower_than_callers_wait_is_found_and_an_error_where_nobody_else_serves() {
    let mut facts = with(|f| traits(f, 3).activations.p95_ms = 12_000);
    let slow = |alone| Finding::ActivationTooSlow {
        endpoint: id("d"),
        p95: Duration::from_secs(12),
        budget: CALLER_HOLD,
        alone,
    };
    finds(&facts, &slow(false), Warning, ["takes 12s", "keep it hot"]);
    facts.endpoints.drain(1..3);
    assert_eq!(found(&facts), [slow(true)]);
    assert_eq!(slow(true).severity(), Error);
}

#[test]
fn the_time_callers_wait_is_the_policy_s_where_that_is_shorter() {
    let facts = with_policy(|p| p.timeout = Span(Duration::from_millis(500)));
    let expected = |on| Finding::ActivationTooSlow {
        endpoint: id(on),
        p95: Duration::from_millis(700),
        budget: Duration::from_millis(500),
        alone: false,
    };
    assert_eq!(found(&facts), [expected("d"), expected("e")]);
}

#[test]
fn a_warm_endpoint_that_was_never_activated_is_told_of_and_warned_of_where_it_may_take_too_long() {
    let mut facts = with(|f| traits(f, 4).activations = ActivationTimes::default());
    let never = |most| Finding::NeverRehearsed { endpoint: id("e"), most, budget: CALLER_HOLD };
    finds(&facts, &never(None), Note, ["is on record", "hearth drill"]);
    traits(&mut facts, 4).deadline_ms = 30_000;
    finds(&facts, &never(Some(Duration::from_secs(30))), Warning, ["may take 30s", "hearth drill"]);
}

#[test]
fn retries_that_are_off_are_found() {
    let facts = with_policy(|p| p.retries = 0);
    finds(&facts, &Finding::RetriesOff, Warning, ["lost fail", "retries = 3"]);
}

#[test]
fn a_try_that_may_take_all_the_time_leaves_none_for_another() {
    let long = Duration::from_secs(15);
    let facts = with_policy(|p| p.per_try_timeout = Patience::For(Span(long)));
    let expected = Finding::NoTimeToRetry { per_try: long, timeout: long };
    finds(&facts, &expected, Warning, ["no time for a second", "well below"]);
}

#[test]
fn traffic_none_of_which_may_be_repeated_is_found_once_there_is_enough_of_it() {
    let seen = |once| {
        with(|f| {
            f.traffic.insert(service(), Traffic { repeatable: 0, once, peak: 1 });
        })
    };
    finds(&seen(20), &Finding::OnlyOnce { seen: 20 }, Warning, ["None of the 20", "PUT"]);
    assert_eq!(found(&seen(19)), []);
}

#[test]
fn where_no_request_passed_it_is_said_that_it_cannot_be_known() {
    let facts = with(|f| f.traffic.clear());
    let expected = Finding::TrafficUnknown { service: service() };
    finds(&facts, &expected, Note, ["cannot be known", "on a node that calls it"]);
}

#[test]
fn a_ceiling_that_fewer_endpoints_would_hit_is_found() {
    let at = |most| {
        with(|f| {
            f.policy.services.get_mut(&service()).unwrap().max_requests = Ceiling::At(most);
        })
    };
    let expected = Finding::CeilingTooLow { most: 5, peak: 12, left: 2 };
    finds(&at(5), &expected, Warning, ["take 10", "max_requests = 6 at least"]);
    assert_eq!(found(&at(6)), []);
}

/// Three owners over three zones; the policy is changed by the test.
fn exclusive(owners: &[&str]) -> Facts {
    with(|facts| {
        facts.endpoints.truncate(3);
        let policy = facts.policy.services.get_mut(&service()).unwrap();
        policy.mode = Mode::Exclusive;
        policy.exclusive = Some(Exclusive {
            owners: owners.iter().map(|owner| node(owner)).collect(),
            lease: Span(Duration::from_secs(5)),
            number: 1,
            former: Vec::new(),
        });
    })
}

#[test]
fn an_exclusive_service_with_three_owners_in_three_zones_has_no_finding() {
    assert_eq!(found(&exclusive(&["a", "b", "c"])), []);
}

#[test]
fn an_exclusive_service_with_fewer_than_three_owners_survives_no_loss() {
    let mut facts = exclusive(&["a", "b"]);
    facts.endpoints.truncate(2);
    finds(
        &facts,
        &Finding::FewOwners { owners: 2 },
        Error,
        ["no loss is survived", "three owners"],
    );
}

#[test]
fn owners_of_a_lease_that_nobody_is_and_endpoints_that_never_serve_are_found() {
    let facts = exclusive(&["a", "b", "web-2"]);
    let unknown = Finding::UnknownOwner { node: node("web-2"), meant: Some("web-1".into()) };
    let never = Finding::NoOwners { endpoints: vec![id("c")] };
    assert_eq!(found(&facts), [unknown, never]);
    let nobody = exclusive(&["d", "e", "web-1"]);
    finds(&nobody, &Finding::NobodyMayHold, Error, ["nobody serves", "exclusive.owners"]);
}

#[test]
fn a_zone_that_holds_a_majority_of_the_owners_takes_the_service() {
    let mut facts = exclusive(&["a", "b", "c"]);
    facts.endpoints[1].zone = "z1".into();
    let domain = Domain::Zone("z1".into());
    let together = Finding::MajorityTogether { domain, left: 1, needed: 2 };
    finds(&facts, &together, Error, ["nobody serves", "three zones"]);
}
