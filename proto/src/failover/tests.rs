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
    let one = (any::<Option<u16>>(), any_condition(), any::<bool>(), any::<bool>(), 0u8..10);
    prop::collection::vec(one, 0..24).prop_map(|all| {
        all.into_iter()
            .enumerate()
            .map(|(i, (priority, condition, lost, starting, left))| {
                let node = format!("n{i}");
                let role = priority.map_or(Role::Hot, |priority| Role::Warm { priority });
                let activated_for = matches!(condition, Condition::Activating).then(|| {
                    let version = Version { generation: Generation(1), revision: i as u64 };
                    IncidentKey { lost: id("n0"), version }
                });
                let left = left == 0;
                let base = Subject { role, condition, lost, starting, left, ..hot(&node) };
                Subject { activated_for, ..base }
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

    #[test]
    fn hot_hot_never_calls_for_any_table(subjects in any_subjects(), min_hot in any_need()) {
        let hot_hot = ServicePolicy { mode: Mode::HotHot, min_hot, ..policy() };
        prop_assert!(tally(&hot_hot, &subjects).called.is_empty());
    }
}
