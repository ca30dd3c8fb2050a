//! Each rule of the tally, then what must hold for any table.

use super::*;
use crate::ids::{Generation, NodeName, ServiceName, Version};
use crate::policy::Percent;
use proptest::prelude::*;

fn id(node: &str) -> EndpointId {
    EndpointId {
        service: ServiceName::parse("ledger").unwrap(),
        node: NodeName::parse(node).unwrap(),
        instance: 0,
    }
}

fn hot(node: &str) -> Subject {
    Subject {
        id: id(node),
        role: Role::Hot,
        condition: Condition::Serving,
        lost: false,
        starting: false,
        left: false,
        activated_for: None,
        weight: 100,
        doubtful: false,
        damped: false,
    }
}

fn warm(node: &str, priority: u16) -> Subject {
    Subject { role: Role::Warm { priority }, condition: Condition::Standby, ..hot(node) }
}

fn lost(s: Subject) -> Subject {
    Subject { lost: true, ..s }
}

fn having(condition: Condition, s: Subject) -> Subject {
    Subject { condition, ..s }
}

fn policy() -> ServicePolicy {
    ServicePolicy::default()
}

fn called(subjects: &[Subject]) -> Vec<String> {
    tally(&policy(), subjects).called.iter().map(|id| id.node.to_string()).collect()
}

#[test]
fn while_all_hot_serve_nobody_is_called() {
    let t = tally(&policy(), &[hot("h1"), hot("h2"), hot("h3"), warm("w1", 0), warm("w2", 0)]);
    assert_eq!((t.declared, t.needed, t.hot, t.serving, t.short), (3, 3, 3, 3, 0));
    assert_eq!(t.called, []);
}

#[test]
fn one_lost_calls_one_never_the_whole_bench() {
    let s = [hot("h1"), hot("h2"), lost(hot("h3")), warm("w1", 0), warm("w2", 1)];
    assert_eq!(called(&s), ["w1"]);
}

#[test]
fn the_lower_priority_number_is_called_first_and_the_hash_decides_among_equals() {
    assert_eq!(called(&[lost(hot("h1")), warm("w1", 5), warm("w2", 3)]), ["w2"]);
    let (a, b) = (warm("w1", 0), warm("w2", 0));
    let first = if rendezvous(&a.id) > rendezvous(&b.id) { "w1" } else { "w2" };
    assert_eq!(called(&[lost(hot("h1")), a, b]), [first]);
}

#[test]
fn who_is_up_already_stays_called_before_one_of_better_priority() {
    for up in [Condition::Activating, Condition::Serving] {
        let s = [lost(hot("h1")), hot("h2"), having(up, warm("w2", 9)), warm("w1", 0)];
        assert_eq!(called(&s), ["w2"]);
    }
}

#[test]
fn who_serves_stays_called_while_one_of_better_priority_is_only_on_its_way() {
    let slow = having(Condition::Activating, warm("w1", 0));
    let up = having(Condition::Serving, warm("w2", 9));
    // Both were called for two losses; one returned.
    assert_eq!(called(&[lost(hot("h1")), hot("h2"), slow.clone(), up.clone()]), ["w2"]);
    assert_eq!(called(&[lost(hot("h1")), lost(hot("h2")), slow.clone(), up.clone()]), ["w2", "w1"]);
    // Once it has arrived, priority decides again who stands down.
    assert_eq!(called(&[lost(hot("h1")), hot("h2"), having(Condition::Serving, slow), up]), ["w1"]);
}

#[test]
fn who_would_be_called_for_those_in_doubt_is_next_and_not_called() {
    let doubtful = |s: Subject| Subject { doubtful: true, ..s };
    let sure = [hot("h1"), hot("h2"), warm("w1", 0), warm("w2", 9)];
    assert_eq!(tally(&ServicePolicy::default(), &sure).next, []);
    let [h1, h2, w1, w2] = sure;
    let one = tally(&ServicePolicy::default(), &[doubtful(h1), h2.clone(), w1.clone(), w2.clone()]);
    assert_eq!((one.called, one.next), (vec![], vec![w1.id.clone()]));
    let both = [lost(hot("h1")), doubtful(h2), w1.clone(), w2.clone()];
    let both = tally(&ServicePolicy::default(), &both);
    assert_eq!((both.called, both.next), (vec![w1.id.clone()], vec![w1.id, w2.id]));
}

#[test]
fn a_second_loss_calls_up_exactly_one_more_warm_endpoint() {
    let up = having(Condition::Serving, warm("w2", 9));
    let s = [lost(hot("h1")), lost(hot("h2")), hot("h3"), up, warm("w1", 0), warm("w3", 0)];
    let called = called(&s);
    assert_eq!(called.len(), 2);
    assert_eq!(called[0], "w2");
}

#[test]
fn a_lost_warm_endpoint_is_replaced_by_the_next() {
    let s = [lost(hot("h1")), lost(having(Condition::Serving, warm("w1", 0))), warm("w2", 1)];
    assert_eq!(called(&s), ["w2"]);
}

#[test]
fn who_is_unready_or_drains_or_left_is_not_on_the_bench() {
    let s = [
        lost(hot("h1")),
        having(Condition::Unready, warm("w1", 0)),
        having(Condition::Draining, warm("w2", 0)),
        Subject { left: true, ..warm("w3", 0) },
        warm("w4", 9),
    ];
    assert_eq!(called(&s), ["w4"]);
}

#[test]
fn a_hot_endpoint_that_is_unready_or_drains_is_missing_too() {
    for condition in [Condition::Unready, Condition::Draining] {
        assert_eq!(called(&[having(condition, hot("h1")), hot("h2"), warm("w1", 0)]), ["w1"]);
    }
}

#[test]
fn who_left_in_good_order_is_no_longer_declared_and_calls_nobody() {
    let t =
        tally(&policy(), &[Subject { left: true, ..lost(hot("h1")) }, hot("h2"), warm("w1", 0)]);
    assert_eq!((t.declared, t.needed, t.called.len()), (1, 1, 0));
}

#[test]
fn hot_hot_calls_nobody_whatever_is_lost() {
    let hot_hot = ServicePolicy { mode: Mode::HotHot, ..policy() };
    let t = tally(&hot_hot, &[lost(hot("h1")), lost(hot("h2")), warm("w1", 0)]);
    assert_eq!((t.needed, t.hot), (2, 0));
    assert_eq!(t.called, []);
}

#[test]
fn with_a_lower_need_the_survivors_are_enough() {
    let two_thirds = ServicePolicy { min_hot: Need::Percent(Percent(66)), ..policy() };
    let s = [hot("h1"), hot("h2"), lost(hot("h3")), warm("w1", 0)];
    assert_eq!(tally(&two_thirds, &s).called, []);
    let two = ServicePolicy { min_hot: Need::Count(2), ..policy() };
    assert_eq!(tally(&two, &s).called, []);
    let three = ServicePolicy { min_hot: Need::Count(3), ..policy() };
    assert_eq!(tally(&three, &s).called, [id("w1")]);
}

#[test]
fn a_count_above_what_is_declared_keeps_warm_ones_up_for_good() {
    let three = ServicePolicy { min_hot: Need::Count(3), ..policy() };
    let t = tally(&three, &[hot("h1"), hot("h2"), warm("w1", 0), warm("w2", 1)]);
    assert_eq!((t.declared, t.needed, t.called), (2, 3, vec![id("w1")]));
}

#[test]
fn a_bench_that_is_too_small_is_said() {
    let t = tally(&policy(), &[lost(hot("h1")), lost(hot("h2")), lost(hot("h3")), warm("w1", 0)]);
    assert_eq!((t.called.len(), t.short), (1, 2));
}

#[test]
fn a_mesh_that_starts_does_not_begin_by_activating_its_bench() {
    let starting = |n| Subject { starting: true, ..having(Condition::Unready, hot(n)) };
    let s = [starting("h1"), starting("h2"), starting("h3"), warm("w1", 0), warm("w2", 0)];
    let t = tally(&policy(), &s);
    assert_eq!((t.needed, t.hot, t.called.len(), t.short), (3, 0, 0, 1));
}

#[test]
fn a_host_that_restarts_keeps_its_replacement_up_and_calls_nobody_else() {
    let starting = Subject { starting: true, ..having(Condition::Unready, hot("h1")) };
    let up = having(Condition::Serving, warm("w2", 9));
    assert_eq!(called(&[starting.clone(), hot("h2"), up, warm("w1", 0)]), ["w2"]);
    assert!(called(&[starting.clone(), hot("h2"), warm("w1", 0)]).is_empty());
    assert_eq!(called(&[starting, lost(hot("h2")), warm("w1", 0), warm("w3", 1)]), ["w1"]);
}

#[test]
fn nothing_is_needed_where_nothing_is_declared() {
    let t = tally(&policy(), &[warm("w1", 0)]);
    assert_eq!((t.declared, t.needed, t.called.len()), (0, 0, 0));
    assert_eq!(tally(&policy(), &[]), Tally::default());
}

#[test]
fn simultaneous_losses_call_as_many_at_once() {
    let s =
        [lost(hot("h1")), lost(hot("h2")), hot("h3"), warm("w1", 0), warm("w2", 1), warm("w3", 2)];
    assert_eq!(called(&s), ["w1", "w2"]);
}

#[test]
fn one_lost_while_it_is_being_activated_is_replaced_by_the_next() {
    let activating = having(Condition::Activating, warm("w1", 0));
    assert_eq!(called(&[lost(hot("h1")), lost(activating), warm("w2", 1)]), ["w2"]);
}

#[test]
fn a_warm_endpoint_whose_node_is_doubted_goes_last_but_goes_when_it_is_the_only_one() {
    let doubted = Subject { doubtful: true, ..warm("w1", 0) };
    assert_eq!(called(&[lost(hot("h1")), doubted.clone(), warm("w2", 9)]), ["w2"]);
    assert_eq!(called(&[lost(hot("h1")), doubted]), ["w1"]);
}

#[test]
fn doubt_about_a_warm_endpoint_that_is_up_moves_nobody() {
    for condition in [Condition::Activating, Condition::Serving] {
        let up = Subject { doubtful: true, damped: true, ..having(condition, warm("w1", 9)) };
        let t = tally(&policy(), &[lost(hot("h1")), up, warm("w2", 0)]);
        assert_eq!((t.called, t.surplus), (vec![id("w1")], 0));
    }
}

#[test]
fn agents_that_doubt_different_hosts_call_at_most_one_more_for_each_doubted_one() {
    let doubted = |n: &str, by: &[&str]| Subject { doubtful: by.contains(&n), ..warm(n, 0) };
    let view = |by: &[&str]| {
        let benched = ["w1", "w2", "w3"].map(|n| doubted(n, by));
        let mut all = vec![lost(hot("h1")), hot("h2")];
        all.extend(benched);
        called(&all)
    };
    let first = view(&[])[0].clone();
    let second = view(&[&first])[0].clone();
    assert_ne!(first, second);
    // Once both are up, everybody calls the same one, and the other is told to stand down.
    let up = |n: &str| having(Condition::Serving, warm(n, 0));
    for doubt in [false, true] {
        let a = Subject { doubtful: doubt, ..up(&first) };
        let t = tally(&policy(), &[lost(hot("h1")), hot("h2"), a, up(&second)]);
        assert_eq!((t.called, t.surplus), (vec![id(&first)], 1));
    }
}

#[test]
fn a_flapping_hot_endpoint_does_not_count_so_that_its_replacement_stays_up() {
    let flapping = Subject { damped: true, ..hot("h1") };
    let up = having(Condition::Serving, warm("w1", 0));
    let t = tally(&policy(), &[flapping.clone(), hot("h2"), up]);
    assert_eq!((t.hot, t.damped, t.serving, t.called), (1, 1, 2, vec![id("w1")]));
    // Where that has stood down already, since others judge otherwise, nobody new is called.
    assert_eq!(called(&[flapping.clone(), hot("h2"), warm("w1", 0)]), [] as [&str; 0]);
    // Nor does it count as one that is only starting.
    let back = Subject { starting: true, ..having(Condition::Unready, flapping) };
    assert_eq!(called(&[back, hot("h2"), warm("w2", 0)]), ["w2"]);
}

#[test]
fn a_share_is_of_capacity_so_a_large_one_lost_calls_as_many_small_ones_as_replace_it() {
    let sized = |weight, s: Subject| Subject { weight, ..s };
    let small = |n| sized(50, warm(n, 0));
    let s = [lost(sized(200, hot("h1"))), hot("h2"), small("w1"), small("w2"), small("w3")];
    let t = tally(&policy(), &s);
    // Of 300, 200 are missing and 150 are there; the mean hot one is 150.
    assert_eq!((t.load, t.called.len(), t.short), (300, 3, 1));
    let two_thirds = ServicePolicy { min_hot: Need::Percent(Percent(50)), ..policy() };
    assert_eq!(tally(&two_thirds, &s).called.len(), 1);
    // A count is of endpoints, whatever their size.
    let two = ServicePolicy { min_hot: Need::Count(2), ..policy() };
    assert_eq!(tally(&two, &s).called.len(), 1);
}

#[test]
fn who_would_be_called_for_hot_endpoints_that_are_starting_is_the_reserve() {
    let starting = |n| Subject { starting: true, ..having(Condition::Unready, hot(n)) };
    let s = [starting("h1"), lost(hot("h2")), warm("w1", 0), warm("w2", 1), warm("w3", 2)];
    let t = tally(&policy(), &s);
    assert_eq!((t.called, t.reserve), (vec![id("w1")], vec![id("w2")]));
}

fn any_condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        Just(Condition::Unready),
        Just(Condition::Standby),
        Just(Condition::Activating),
        Just(Condition::Serving),
        Just(Condition::Draining),
    ]
}

fn any_subjects() -> impl Strategy<Value = Vec<Subject>> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let one = (any::<Option<u16>>(), any_condition(), flags, 0u8..10);
    prop::collection::vec(one, 0..24).prop_map(|all| {
        all.into_iter()
            .enumerate()
            .map(|(i, (priority, condition, (lost, starting, doubtful, damped), left))| {
                let node = format!("n{i}");
                let role = priority.map_or(Role::Hot, |priority| Role::Warm { priority });
                let activated_for = matches!(condition, Condition::Activating).then(|| {
                    let version = Version { generation: Generation(1), revision: i as u64 };
                    IncidentKey { lost: id("n0"), version }
                });
                let left = left == 0;
                let base = Subject { role, condition, lost, starting, left, ..hot(&node) };
                Subject { activated_for, doubtful, damped, ..base }
            })
            .collect()
    })
}

fn any_need() -> impl Strategy<Value = Need> {
    prop_oneof![
        (0u32..12).prop_map(Need::Count),
        (0u8..=100).prop_map(|p| Need::Percent(Percent(p)))
    ]
}

proptest! {
    #[test]
    fn called_never_exceeds_the_deficit_and_only_the_fit_are_called(
        subjects in any_subjects(), min_hot in any_need(),
    ) {
        let t = tally(&ServicePolicy { min_hot, ..policy() }, &subjects);
        let deficit = t.needed.saturating_sub(t.hot);
        prop_assert!(t.called.len() <= deficit);
        prop_assert!(t.called.len() + t.short <= deficit);
        prop_assert!(t.serving >= t.hot && t.serving <= t.hot + t.called.len());
        for id in &t.called {
            let s = subjects.iter().find(|s| s.id == *id).unwrap();
            let is_warm = s.role != Role::Hot;
            prop_assert!(is_warm && !s.lost && !s.left);
            prop_assert!(!matches!(s.condition, Condition::Unready | Condition::Draining));
        }
    }

    #[test]
    fn everyone_calls_alike_in_whatever_order_the_table_is_read(
        subjects in any_subjects(), min_hot in any_need(), seed in any::<u64>(),
    ) {
        let policy = ServicePolicy { min_hot, ..policy() };
        let mut shuffled = subjects.clone();
        shuffled.sort_by_key(|s| xxh3_64(format!("{seed}{}", s.id).as_bytes()));
        prop_assert_eq!(tally(&policy, &subjects), tally(&policy, &shuffled));
    }

    /// With a bench that is deep enough: one more lost, one more called, and nobody who is up is moved.
    #[test]
    fn one_more_lost_calls_one_more_and_moves_nobody_who_is_up(
        hots in 1usize..10, lost_before in 0usize..9, ups in 0usize..4, priorities in prop::collection::vec(0u16..4, 10),
    ) {
        let lost_before = lost_before.min(hots - 1);
        let ups = ups.min(lost_before);
        let table = |lost_now: usize| -> Vec<Subject> {
            let hots = (0..hots).map(|i| {
                let s = hot(&format!("h{i}"));
                if i < lost_now { lost(s) } else { s }
            });
            let warms = priorities.iter().enumerate().map(|(i, p)| {
                let s = warm(&format!("w{i}"), *p);
                if i < ups { having(Condition::Serving, s) } else { s }
            });
            hots.chain(warms).collect()
        };
        let before = tally(&policy(), &table(lost_before)).called;
        let after = tally(&policy(), &table(lost_before + 1)).called;
        prop_assert_eq!(before.len(), lost_before);
        prop_assert_eq!(after.len(), lost_before + 1);
        prop_assert!(before.iter().all(|id| after.contains(id)), "{:?} then {:?}", before, after);
        for i in 0..ups {
            let up = id(&format!("w{i}"));
            prop_assert!(after.contains(&up));
        }
    }

    /// Once the called are up, asking again calls the same ones: the rule has a fixed point.
    #[test]
    fn who_was_called_stays_called_when_up(subjects in any_subjects(), min_hot in any_need()) {
        let policy = ServicePolicy { min_hot, ..policy() };
        let first = tally(&policy, &subjects).called;
        let mut up = subjects;
        for s in up.iter_mut().filter(|s| first.contains(&s.id)) {
            s.condition = Condition::Serving;
        }
        let mut again = tally(&policy, &up).called;
        let mut first = first;
        first.sort();
        again.sort();
        prop_assert_eq!(first, again);
    }

    /// Whatever the weights: who is called covers what is missing, and without the last of them it does not.
    #[test]
    fn as_much_is_called_as_covers_the_missing_capacity_and_no_more(
        mut subjects in any_subjects(), weights in prop::collection::vec(1u16..500, 24), percent in 0u8..=100,
    ) {
        for (s, w) in subjects.iter_mut().zip(weights) {
            (s.weight, s.starting, s.damped) = (w, false, false);
        }
        let policy = ServicePolicy { min_hot: Need::Percent(Percent(percent)), ..policy() };
        let t = tally(&policy, &subjects);
        let weight = |id: &EndpointId| -> u64 {
            subjects.iter().find(|s| s.id == *id).map_or(0, |s| s.weight.into())
        };
        let hot: u64 = subjects
            .iter()
            .filter(|s| s.role == Role::Hot && s.condition == Condition::Serving)
            .filter(|s| !s.lost && !s.left && !s.damped)
            .map(|s| u64::from(s.weight))
            .sum();
        let missing = t.load.saturating_sub(hot);
        let covered: u64 = t.called.iter().map(weight).sum();
        prop_assert_eq!(covered >= missing, t.short == 0);
        if let Some(last) = t.called.last() {
            prop_assert!(covered - weight(last) < missing);
        }
        prop_assert!(t.reserve.is_empty());
    }

    /// The called and the reserve together are what the deficit calls when nobody is starting.
    #[test]
    fn the_reserve_is_what_starting_hot_ones_hold_back(
        subjects in any_subjects(), min_hot in any_need(),
    ) {
        let policy = ServicePolicy { min_hot, ..policy() };
        let t = tally(&policy, &subjects);
        let late: Vec<Subject> =
            subjects.into_iter().map(|s| Subject { starting: false, ..s }).collect();
        let mut held = [t.called, t.reserve].concat();
        let mut called = tally(&policy, &late).called;
        held.sort();
        called.sort();
        prop_assert_eq!(held, called);
    }

    #[test]
    fn hot_hot_never_calls_for_any_table(subjects in any_subjects(), min_hot in any_need()) {
        let hot_hot = ServicePolicy { mode: Mode::HotHot, min_hot, ..policy() };
        prop_assert!(tally(&hot_hot, &subjects).called.is_empty());
    }
}
