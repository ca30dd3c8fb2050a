//! Call-up and failback on whole nodes, rule by rule: attempts and warm-up, starts, doubt, flaps, ramps,
//! orders, the budget of moves.

use super::*;
use crate::balance::FULL_WEIGHT;
use crate::policy::{Failback, Patience, Rate};
use crate::time::Span;

fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn span(d: Duration) -> Patience {
    Patience::For(Span(d))
}

fn quick() -> ServicePolicy {
    ServicePolicy {
        failback: Failback::After(Span(s(4))),
        ramp: Patience::Endless,
        ..Default::default()
    }
}

impl Lab {
    /// Everybody hears of a lost host again.
    fn find(&mut self, n: &str) {
        self.gone.remove(&name(n));
        let now = self.now;
        let others: Vec<NodeName> = self.nodes.keys().filter(|o| **o != name(n)).cloned().collect();
        for other in others {
            self.node(other.as_str()).handle_link(now, &name(n), LinkInput::Heard);
            self.node(n).handle_link(now, &other, LinkInput::Heard);
        }
        self.pump();
    }

    /// A called endpoint's hook ends well and its check passes.
    fn activate(&mut self, n: &str) {
        let now = self.now;
        self.hook(n, Ok(()));
        self.node(n).handle_health(now, &at(n), true);
        self.pump();
    }

    fn weight(&self, seen_by: &str, n: &str) -> u16 {
        let snapshot = self.nodes[&name(seen_by)].snapshot();
        let route = &snapshot.services[&ledger()];
        route.candidates.iter().find(|c| c.id == at(n)).unwrap().weight
    }

    fn reason(&self, n: &str) -> String {
        self.nodes[&name(n)].snapshot().services[&ledger()].reason.clone()
    }

    pub(super) fn picks(&self, n: &str) -> Vec<String> {
        let route = self.nodes[&name(n)].snapshot().services[&ledger()].clone();
        let ids = route.choice.indices().iter().map(|i| route.candidates[*i].id.node.to_string());
        ids.collect()
    }
}

#[test]
fn a_hook_is_tried_again_within_its_deadline_and_the_next_is_called_when_it_is_given_up() {
    let mut lab = Lab::new(&["c1", "h1", "w1", "w2"]);
    lab.lose("h1");
    lab.run(ms(100));
    let first = lab.events.iter().find(|(_, e)| activated(e)).unwrap().0.to_string();
    for attempt in 1..=3 {
        assert_eq!(lab.count(activated), attempt, "attempt {attempt}");
        assert_eq!(lab.condition(&first), Condition::Activating);
        let failed = Err(HookFailed::Once(format!("no {attempt}")));
        lab.hook(&first, failed);
        lab.run(ms(500));
    }
    assert_eq!(lab.condition(&first), Condition::Unready);
    let second = if first == "w1" { "w2" } else { "w1" };
    assert_eq!(lab.condition(second), Condition::Activating);
    let record = lab.nodes[&name(&first)].activation_records()[&at(&first)].clone();
    assert_eq!((record.count, record.failures), (0, 1));
    let told = lab.events.iter().find_map(|(_, e)| match e {
        Event::Spans(spans) => spans.iter().find(|s| s.name == "activate").cloned(),
        _ => None,
    });
    assert_eq!(told.unwrap().error.as_deref(), Some("no 3"));
}

#[test]
fn an_endpoint_serves_real_requests_only_after_those_that_warm_it_up() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    let mut endpoint = config("w1", Some(Role::Warm { priority: 0 }), false).endpoints[0].clone();
    endpoint.activation.warm_up = true;
    let now = lab.now;
    lab.node("w1").apply(now, vec![endpoint], BTreeSet::new());
    lab.lose("h1");
    lab.run(ms(100));
    lab.activate("w1");
    assert_eq!(lab.condition("w1"), Condition::Activating);
    assert_eq!(lab.count(|e| matches!(e, Event::WarmUp { .. })), 1);
    let (now, order) = (lab.now, lab.order("w1"));
    lab.node("w1").handle_warmed(now, &at("w1"), order + 1);
    assert_eq!(lab.condition("w1"), Condition::Activating, "of another order");
    lab.node("w1").handle_warmed(now, &at("w1"), order);
    lab.pump();
    assert_eq!(lab.condition("w1"), Condition::Serving);
    let record = &lab.nodes[&name("w1")].activation_records()[&at("w1")];
    assert_eq!((record.count, record.failures), (1, 0));
    assert!(lab.count(|e| matches!(e, Event::SaveActivations)) == 1);
}

#[test]
fn a_caller_that_has_nobody_gets_a_warm_one_even_while_hot_ones_are_only_starting() {
    let mut lab = Lab::new(&["c1", "h1", "w1", "w2"]);
    // A new start of the hot host: unready, and given time to come up.
    let restarted =
        NodeConfig { generation: Generation(2), ..config("h1", Some(Role::Hot), false) };
    let keys = Hash(Identity::Node(name("h1")));
    lab.nodes.insert(name("h1"), Node::new(restarted, Box::new(keys), lab.now));
    lab.linked.retain(|(a, b)| *a != name("h1") && *b != name("h1"));
    for other in ["c1", "w1", "w2"] {
        lab.link(&name("h1"), &name(other));
        lab.link(&name(other), &name("h1"));
    }
    lab.run(ms(500));
    assert!(matches!(lab.choice("c1"), Choice::Wake(_)), "{}", lab.reason("c1"));
    assert!(lab.reason("c1").contains("starting"), "{}", lab.reason("c1"));
    lab.run(s(2));
    assert_eq!(lab.count(activated), 0, "nobody waits for it");
    let now = lab.now;
    lab.node("c1").handle_need(now, &ledger());
    lab.run(ms(900));
    assert_eq!(lab.count(activated), 0, "a start gets a moment");
    lab.run(ms(200));
    assert_eq!(lab.count(activated), 1, "one, though two stand by");
}

#[test]
fn a_caller_beside_the_only_warm_endpoint_has_it_called_while_hot_ones_are_starting() {
    let mut lab = Lab::new(&["c1", "h1", "w1"]);
    let restarted =
        NodeConfig { generation: Generation(2), ..config("h1", Some(Role::Hot), false) };
    let keys = Hash(Identity::Node(name("h1")));
    lab.nodes.insert(name("h1"), Node::new(restarted, Box::new(keys), lab.now));
    lab.linked.retain(|(a, b)| *a != name("h1") && *b != name("h1"));
    for other in ["c1", "w1"] {
        lab.link(&name("h1"), &name(other));
        lab.link(&name(other), &name("h1"));
    }
    lab.run(ms(500));
    let now = lab.now;
    lab.node("w1").handle_need(now, &ledger());
    lab.run(ms(1_100));
    assert_eq!(lab.condition("w1"), Condition::Activating);
}

#[test]
fn a_caller_that_started_during_an_outage_wakes_the_called_endpoint_too() {
    let mut lab = Lab::new(&["c1", "h1", "w1"]);
    lab.lose("h1");
    lab.events.clear();
    // Cut off from h1 alone, which the others still hear: a caller that never saw it ready.
    let mut late = Lab::new(&["h1", "w1"]);
    late.lose("h1");
    let keys = Hash(Identity::Node(name("c2")));
    let now = late.now;
    late.nodes.insert(name("c2"), Node::new(config("c2", None, true), Box::new(keys), now));
    late.link(&name("c2"), &name("w1"));
    late.link(&name("w1"), &name("c2"));
    late.run(s(1));
    late.sent.clear();
    let silent = LinkInput::Silent { unanswered: ms(20) };
    let now = late.now;
    late.node("c2").handle_link(now, &name("h1"), silent);
    late.hook("w1", Err(HookFailed::Hopeless("no".into())));
    late.run(s(6));
    let woken = late.sent.iter().any(|(from, t)| {
        *from == name("c2") && matches!(t, Transmit::Message { message: Message::Wake(_), .. })
    });
    assert!(woken, "{}", late.reason("c2"));
}

#[test]
fn a_bench_that_is_too_small_is_said_in_the_routes_reason() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "h3", "w1"]);
    lab.lose("h1");
    lab.lose("h2");
    lab.run(ms(200));
    assert!(lab.reason("c1").ends_with("the bench is too small: 1 more would be called up"));
    let view = lab.nodes[&name("c1")].routes_view().remove(0);
    assert_eq!((view.short, view.surplus), (1, 0));
}

#[test]
fn a_new_endpoint_grows_into_its_share_and_its_replacement_stays_until_it_has() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    let failback = Failback::After(Span(s(10)));
    lab.give_policy(1, ServicePolicy { failback, ramp: span(s(60)), ..quick() });
    lab.run(s(20));
    let now = lab.now;
    lab.node("h1").handle_health(now, &at("h1"), false);
    lab.run(ms(100));
    lab.activate("w1");
    lab.run(s(15));
    assert_eq!((lab.weight("c1", "w1"), lab.weight("c1", "h2")), (FULL_WEIGHT, FULL_WEIGHT));
    lab.healthy("h1");
    lab.run(ms(100));
    assert_eq!(lab.weight("c1", "h1"), 100);
    lab.run(s(5));
    assert_eq!(lab.weight("c1", "h1"), 600);
    assert_eq!(lab.condition("w1"), Condition::Serving);
    lab.run(ms(4_850));
    assert_eq!((lab.weight("c1", "h1"), lab.condition("w1")), (FULL_WEIGHT, Condition::Serving));
    lab.run(s(2));
    assert_eq!(lab.condition("w1"), Condition::Standby);
}

#[test]
fn an_agent_that_starts_ramps_nobody_who_has_served_all_the_while() {
    let mut lab = Lab::new(&["c1", "h1", "h2"]);
    lab.run(s(20));
    let keys = Hash(Identity::Node(name("c2")));
    let now = lab.now;
    let mut late = config("c2", None, true);
    late.clock = Clock::default();
    lab.nodes.insert(name("c2"), Node::new(late, Box::new(keys), now));
    for h in ["h1", "h2"] {
        lab.link(&name("c2"), &name(h));
        lab.link(&name(h), &name("c2"));
    }
    lab.run(ms(500));
    assert_eq!((lab.weight("c2", "h1"), lab.weight("c2", "h2")), (FULL_WEIGHT, FULL_WEIGHT));
}

#[test]
fn a_recovered_hot_endpoint_is_used_at_once_in_full_when_nobody_serves() {
    let mut lab = Lab::new(&["c1", "h1"]);
    let now = lab.now;
    lab.node("h1").handle_health(now, &at("h1"), false);
    lab.run(s(30));
    assert_eq!(lab.choice("c1"), Choice::Nobody);
    lab.healthy("h1");
    assert_eq!(lab.picks("c1"), ["h1"]);
    assert_eq!(lab.weight("c1", "h1"), FULL_WEIGHT);
}

#[test]
fn weights_travel_and_a_large_endpoint_lost_calls_as_many_as_replace_it() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1", "w2"]);
    let mut endpoint = config("h1", Some(Role::Hot), false).endpoints[0].clone();
    endpoint.weight = 200;
    let now = lab.now;
    lab.node("h1").apply(now, vec![endpoint], BTreeSet::new());
    lab.run(s(15));
    assert_eq!((lab.weight("c1", "h1"), lab.weight("c1", "h2")), (2 * FULL_WEIGHT, FULL_WEIGHT));
    lab.lose("h1");
    lab.run(ms(200));
    assert_eq!(lab.count(activated), 2);
}

#[test]
fn who_flaps_is_lost_for_the_numbers_and_kept_in_reserve_until_it_has_been_quiet() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "h3", "w1"]);
    lab.give_policy(1, ServicePolicy { damping: span(s(60)), ..quick() });
    let flap = |lab: &mut Lab, away: u64| {
        lab.lose("h1");
        lab.run(s(away));
        if lab.condition("w1") == Condition::Activating {
            lab.activate("w1");
        }
        lab.find("h1");
        lab.run(ms(100));
    };
    for _ in 0..2 {
        flap(&mut lab, 1);
        assert_eq!(lab.picks("c1").len(), 4);
        lab.run(s(10));
        assert_eq!(lab.condition("w1"), Condition::Standby, "so far it is bad luck");
    }
    for _ in 0..6 {
        flap(&mut lab, 1);
        assert_eq!(lab.picks("c1"), ["h2", "h3", "w1"], "{}", lab.reason("c1"));
        lab.run(s(29));
        assert_eq!(lab.condition("w1"), Condition::Serving);
    }
    assert_eq!(lab.count(activated), 3);
    let view = lab.nodes[&name("c1")].routes_view().remove(0);
    assert_eq!((view.serving, view.damped), (3, 1));
    lab.run(s(180));
    assert_eq!(lab.condition("w1"), Condition::Standby);
    assert_eq!(lab.picks("c1"), ["h1", "h2", "h3"]);
}

#[test]
fn who_flaps_is_used_all_the_same_where_too_few_others_serve() {
    let mut lab = Lab::new(&["c1", "h1", "h2"]);
    for _ in 0..3 {
        lab.lose("h1");
        lab.run(s(1));
        lab.find("h1");
        lab.run(s(1));
    }
    assert_eq!(lab.picks("c1"), ["h1", "h2"]);
    assert!(lab.reason("c1").contains("though they flapped"), "{}", lab.reason("c1"));
}

#[test]
fn an_agents_own_outages_make_no_flappers_of_others() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "h3", "w1"]);
    for _ in 0..4 {
        let now = lab.now;
        for peer in ["h1", "h2", "h3", "c1"] {
            lab.node("w1").handle_link(now, &name(peer), LinkInput::Silent { unanswered: ms(20) });
        }
        lab.run(s(1));
        let now = lab.now;
        for peer in ["h1", "h2", "h3", "c1"] {
            lab.node("w1").handle_link(now, &name(peer), LinkInput::Heard);
        }
        lab.run(s(1));
    }
    let damped = lab.nodes[&name("w1")].snapshot().services[&ledger()].tally.damped;
    assert_eq!(damped, 0);
}

#[test]
fn with_manual_failback_an_operators_word_to_any_agent_releases_who_is_not_needed() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1", "w2"]);
    lab.give_policy(1, ServicePolicy { failback: Failback::Manual, ..quick() });
    lab.lose("h1");
    lab.run(ms(200));
    let up = ["w1", "w2"].into_iter().find(|n| lab.condition(n) == Condition::Activating).unwrap();
    lab.activate(up);
    lab.run(s(1));
    let order = |lab: &mut Lab, by: &str| {
        let now = lab.now;
        let view = lab.node(by).failback(now, &ledger());
        lab.run(s(2));
        view
    };
    let view = order(&mut lab, "c1");
    assert_eq!((view.told.len(), view.needed), (0, vec![at(up).to_string()]));
    assert_eq!(lab.condition(up), Condition::Serving);
    lab.find("h1");
    lab.run(s(600));
    assert_eq!(lab.condition(up), Condition::Serving, "not by itself");
    let view = order(&mut lab, "c1");
    assert_eq!((view.told, view.needed.len()), (vec![at(up).to_string()], 0));
    assert_eq!(lab.condition(up), Condition::Standby);
}

#[test]
fn an_order_to_stand_down_changes_nothing_where_the_owner_sees_a_need() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    lab.lose("h1");
    lab.run(ms(200));
    lab.activate("w1");
    let now = lab.now;
    let word = Message::Failback(wire::Failback { endpoint: at("w1") });
    lab.node("w1").handle_message(now, &Identity::Node(name("c1")), word.clone());
    assert_eq!(lab.condition("w1"), Condition::Serving);
    lab.node("h2").handle_message(now, &Identity::Node(name("c1")), word);
    lab.pump();
    assert_eq!(lab.count(|e| matches!(e, Event::Refused { what: "failback", .. })), 1);
}

#[test]
fn over_the_budget_call_ups_wait_while_somebody_serves_and_not_when_nobody_does() {
    let per = |times| Rate::Of { times, per: Span(s(60)) };
    for (hot, at_once) in
        [(&["c1", "h1", "h2", "h3", "w1", "w2"][..], 1), (&["c1", "h1", "h2", "w1", "w2"], 2)]
    {
        let mut lab = Lab::new(hot);
        let services = BTreeMap::from([(ledger(), quick())]);
        lab.give("c1", 1, Content::Policy(Policy { services, moves: per(1) }));
        lab.run(ms(500));
        lab.lose("h1");
        lab.run(ms(200));
        assert_eq!(lab.count(activated), 1);
        lab.lose("h2");
        lab.run(ms(200));
        assert_eq!(lab.count(activated), at_once, "{hot:?}");
        lab.run(s(61));
        assert!(lab.count(activated) >= 2);
    }
}

#[test]
fn an_agent_that_is_cut_off_does_not_stand_down_by_what_it_cannot_see() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "w1"]);
    lab.give_policy(1, quick());
    lab.lose("h1");
    lab.run(ms(200));
    lab.activate("w1");
    lab.find("h1");
    lab.run(s(3));
    let now = lab.now;
    for peer in ["h1", "h2", "c1"] {
        lab.node("w1").handle_link(now, &name(peer), LinkInput::Silent { unanswered: ms(20) });
    }
    lab.run(s(10));
    assert_eq!(lab.condition("w1"), Condition::Serving);
}
