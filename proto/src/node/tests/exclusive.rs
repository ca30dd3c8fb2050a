//! Exclusive services on whole nodes: who serves, whom callers use, what is said about it.

use super::*;
use crate::exclusive::{Book, Electorate, Timing};
use crate::lifecycle::Stop;
use crate::policy::{Exclusive, Failback};
use crate::time::Span;

const LEASE: Duration = Duration::from_secs(5);

fn policy(owners: &[&str]) -> ServicePolicy {
    let exclusive = Exclusive {
        owners: owners.iter().map(|n| name(n)).collect(),
        lease: Span(LEASE),
        number: 1,
        former: Vec::new(),
    };
    ServicePolicy {
        mode: Mode::Exclusive,
        exclusive: Some(exclusive),
        failback: Failback::After(Span(Duration::from_secs(3))),
        ..ServicePolicy::default()
    }
}

/// The owners are up, the policy is everywhere, and somebody has had time to get the lease.
fn lab(owners: &[&str]) -> Lab {
    let mut lab = Lab::new(&[owners, &["c1"]].concat());
    lab.give_policy(1, policy(owners));
    lab.run(Duration::from_secs(3));
    lab
}

fn serving(lab: &Lab) -> Vec<String> {
    let serves = |n: &&NodeName| {
        let snapshot = lab.nodes[*n].snapshot();
        !lab.gone.contains(*n) && snapshot.own.get(&at(n.as_str())) == Some(&Condition::Serving)
    };
    lab.nodes.keys().filter(serves).map(ToString::to_string).collect()
}

fn only(lab: &Lab) -> String {
    let serving = serving(lab);
    assert_eq!(serving.len(), 1, "{serving:?} serve");
    serving[0].clone()
}

fn term(lab: &Lab, n: &str) -> u64 {
    lab.nodes[&name(n)].lease(&ledger()).unwrap().term
}

/// Whom the caller uses.
fn picks(lab: &Lab) -> Vec<String> {
    let snapshot = lab.nodes[&name("c1")].snapshot();
    let route = &snapshot.services[&ledger()];
    match &route.choice {
        Choice::Serve(picks) => {
            picks.iter().map(|i| route.candidates[*i].id.node.to_string()).collect()
        }
        other => vec![other.word().to_owned()],
    }
}

fn says(lab: &Lab, n: &str) -> String {
    lab.nodes[&name(n)].explain_view(&ledger(), lab.now).unwrap().sentences.join("\n")
}

#[test]
fn one_endpoint_serves_and_callers_use_it_alone_under_its_term() {
    let lab = lab(&["h1", "h2", "h3"]);
    let holder = only(&lab);
    assert_eq!(picks(&lab), std::slice::from_ref(&holder));
    let snapshot = lab.nodes[&name("c1")].snapshot();
    let candidates = &snapshot.services[&ledger()].candidates;
    let told = candidates.iter().find(|c| c.id == at(&holder)).unwrap().term;
    assert_eq!(told, Some(term(&lab, &holder)));
    assert!(says(&lab, &holder).contains("this node holds the lease"), "{}", says(&lab, &holder));
    assert!(says(&lab, "c1").contains("holds the lease, term"), "{}", says(&lab, "c1"));
}

#[test]
fn the_holders_snapshot_says_until_when_and_moves_with_each_renewal() {
    let mut lab = lab(&["h1", "h2", "h3"]);
    let holder = only(&lab);
    let until = |lab: &Lab| lab.nodes[&name(&holder)].snapshot().leases[&ledger()].until;
    for _ in 0..20 {
        assert!(until(&lab) > lab.now && until(&lab) <= lab.now + LEASE);
        lab.run(Duration::from_secs(1));
    }
    assert_eq!(only(&lab), holder);
    let saves = lab.count(|e| matches!(e, Event::SavePromises { .. }));
    assert!(saves <= 12, "{saves} writes: renewals need none");
}

#[test]
fn when_the_holder_is_lost_another_serves_once_its_lease_is_over_under_a_greater_term() {
    let mut lab = lab(&["h1", "h2", "h3"]);
    let lost = only(&lab);
    let before = term(&lab, &lost);
    lab.lose(&lost);
    lab.run(ms(500));
    assert_eq!(picks(&lab), ["wake"], "requests wait for its successor");
    lab.run(LEASE + Duration::from_secs(1));
    let next = only(&lab);
    assert_ne!(next, lost);
    assert!(term(&lab, &next) > before);
    assert_eq!(picks(&lab), [next]);
}

#[test]
fn a_minority_stops_serving_in_time_and_explains_why() {
    let mut lab = lab(&["h1", "h2", "h3"]);
    let holder = only(&lab);
    for other in ["h1", "h2", "h3"].iter().filter(|n| **n != holder) {
        lab.lose(other);
    }
    lab.run(LEASE * 9 / 11);
    assert_eq!(serving(&lab), [""; 0]);
    lab.run(Duration::from_secs(4));
    assert_eq!(serving(&lab), [""; 0]);
    let said = says(&lab, &holder);
    assert!(
        said.contains("no majority: 1 of 3 owners would grant the lease, 2 are needed"),
        "{said}"
    );
    assert!(says(&lab, "c1").contains("the lease"), "{}", says(&lab, "c1"));
}

#[test]
fn a_drained_holder_finishes_and_another_follows_within_two_seconds() {
    let mut lab = lab(&["h1", "h2", "h3"]);
    let holder = only(&lab);
    let now = lab.now;
    lab.node(&holder).drain(now, true);
    lab.pump();
    assert_eq!(lab.condition(&holder), Condition::Draining);
    lab.run(ms(900));
    assert_eq!(serving(&lab), [""; 0], "it finishes what it has first");
    lab.run(ms(1_100));
    assert_ne!(only(&lab), holder);
}

/// The only hot owner is lost and a warm one serves: which.
fn warm_serves(lab: &mut Lab) -> String {
    assert_eq!(only(lab), "h1", "hot before warm");
    assert_eq!(lab.count(activated), 0);
    let now = lab.now;
    lab.node("h1").handle_health(now, &at("h1"), false);
    lab.run(Duration::from_secs(2));
    let up: Vec<NodeName> =
        lab.events.iter().filter(|(_, e)| activated(e)).map(|(n, _)| n.clone()).collect();
    assert_eq!(up.len(), 1, "one at a time: {up:?}");
    let warm = up[0].as_str();
    assert_eq!(lab.condition(warm), Condition::Activating);
    let now = lab.now;
    lab.hook(warm, Ok(()));
    lab.node(warm).handle_health(now, &at(warm), true);
    lab.run(Duration::from_secs(1));
    assert_eq!(only(lab), warm);
    lab.events.clear();
    warm.to_owned()
}

fn stopped_now(e: &Event) -> bool {
    matches!(e, Event::Deactivate { stop: Stop::Now, .. })
}

#[test]
fn a_warm_owner_is_activated_only_with_the_lease_and_gives_it_back_after_the_hold() {
    let mut lab = lab(&["h1", "w1", "w2"]);
    let warm = warm_serves(&mut lab);
    let now = lab.now;
    lab.node("h1").handle_health(now, &at("h1"), true);
    lab.run(ms(2_900));
    assert_eq!(only(&lab), warm, "not before the hold");
    lab.run(ms(900));
    assert_eq!(lab.condition(&warm), Condition::Draining, "it finishes what it has first");
    assert_eq!((serving(&lab), lab.count(stopped_now)), (vec![], 0));
    assert!(lab.nodes[&name(&warm)].lease(&ledger()).is_some(), "under its lease");
    lab.run(ms(700));
    assert_eq!(only(&lab), "h1");
    assert_eq!(lab.condition(&warm), Condition::Standby);
    assert_eq!(lab.count(stopped_now), 1);
}

#[test]
fn a_warm_owner_that_was_about_to_give_the_lease_back_serves_on_where_nobody_can_take_it() {
    let mut lab = lab(&["h1", "w1", "w2"]);
    let warm = warm_serves(&mut lab);
    let before = term(&lab, &warm);
    let now = lab.now;
    lab.node("h1").handle_health(now, &at("h1"), true);
    lab.run(ms(3_500));
    assert_eq!(lab.condition(&warm), Condition::Draining);
    let now = lab.now;
    lab.node("h1").handle_health(now, &at("h1"), false);
    lab.run(ms(100));
    assert_eq!((only(&lab), term(&lab, &warm)), (warm.clone(), before));
    lab.run(Duration::from_secs(10));
    assert_eq!((only(&lab), lab.count(stopped_now)), (warm, 0));
}

#[test]
fn what_an_earlier_start_left_of_an_exclusive_service_is_stopped_at_once_and_before_it_is_called() {
    let lab = lab(&["w1", "w2", "w3"]);
    let of_ours: Vec<(&NodeName, bool)> = lab
        .events
        .iter()
        .filter(|(_, e)| stopped_now(e) || activated(e))
        .map(|(n, e)| (n, activated(e)))
        .collect();
    for warm in ["w1", "w2", "w3"] {
        let first = of_ours.iter().find(|(n, _)| n.as_str() == warm);
        assert_eq!(first.map(|(_, up)| *up), Some(false), "{of_ours:?}");
    }
    assert_eq!(of_ours.iter().filter(|(_, up)| *up).count(), 1, "{of_ours:?}");
}

#[test]
fn a_warm_holder_whose_drain_is_taken_back_is_activated_anew() {
    let mut lab = lab(&["h1", "w1", "w2"]);
    let warm = warm_serves(&mut lab);
    let before = term(&lab, &warm);
    let now = lab.now;
    lab.node(&warm).drain(now, true);
    lab.node(&warm).drain(now, false);
    lab.run(ms(100));
    assert_eq!(lab.condition(&warm), Condition::Activating);
    lab.hook(&warm, Ok(()));
    let now = lab.now;
    lab.node(&warm).handle_health(now, &at(&warm), true);
    lab.run(ms(100));
    assert_eq!((only(&lab), term(&lab, &warm)), (warm.clone(), before));
}

#[test]
fn a_drained_warm_holder_finishes_what_it_has_and_is_cut_when_the_lease_goes() {
    let mut lab = lab(&["h1", "w1", "w2"]);
    let warm = warm_serves(&mut lab);
    let now = lab.now;
    lab.node(&warm).drain(now, true);
    lab.run(ms(900));
    let idle = |e: &Event| matches!(e, Event::Deactivate { stop: Stop::Idle, .. });
    assert_eq!((lab.count(idle), lab.count(stopped_now)), (1, 0));
    lab.run(ms(200));
    assert_eq!(lab.count(stopped_now), 1);
}

#[test]
fn who_is_no_owner_never_serves_and_a_policy_without_owners_serves_nobody() {
    let mut lab = Lab::new(&["h1", "h2", "h3", "h4", "c1"]);
    lab.give_policy(1, policy(&["h1", "h2", "h3"]));
    lab.run(Duration::from_secs(3));
    assert_ne!(only(&lab), "h4");
    lab.give_policy(2, ServicePolicy { exclusive: None, ..policy(&["h1"]) });
    lab.run(Duration::from_secs(3));
    assert_eq!(serving(&lab), [""; 0]);
    assert!(says(&lab, "c1").contains("names no owners"), "{}", says(&lab, "c1"));
}

#[test]
fn an_owner_that_has_lost_its_policy_and_not_its_promises_does_not_serve_without_a_lease() {
    let mut lab = Lab::new(&["h1", "c1"]);
    assert_eq!(only(&lab), "h1");
    let owners = ["h1", "h2", "h3"].map(name);
    let book = Book::fresh(&Electorate::new(1, owners, []), &Timing::of(LEASE));
    let now = lab.now;
    lab.node("h1").restore_promises(now, vec![(ledger(), book)]);
    lab.run(Duration::from_secs(3));
    assert_eq!(serving(&lab), [""; 0]);
    lab.give_policy(1, ServicePolicy::default());
    lab.run(Duration::from_secs(3));
    assert_eq!(only(&lab), "h1", "a policy that wants no lease any more is a policy");
}

#[test]
fn a_failback_of_an_exclusive_service_is_refused_with_the_way_to_move_its_lease() {
    let mut lab = lab(&["h1", "w1", "w2"]);
    let now = lab.now;
    let view = lab.node("c1").failback(now, &ledger());
    assert!(view.told.is_empty() && view.needed.is_empty());
    assert!(view.refused.unwrap().contains("hearth drain"));
}
