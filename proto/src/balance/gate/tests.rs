//! Who waits, who goes first, who has to go.

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(60);

fn at(ms: u64) -> Time {
    Time(ms * 1000)
}

/// Lets `n` in.
fn full(n: usize) -> Gate<u32> {
    let mut gate = Gate::new(Rule::Fixed(n));
    for _ in 0..n {
        assert_eq!(arrive(&mut gate, 0, 0, 0).0, Arrival::In);
    }
    gate
}

fn arrive(gate: &mut Gate<u32>, ms: u64, attempts: u8, name: u32) -> (Arrival, Vec<u32>) {
    let mut away = Vec::new();
    let arrival = gate.arrive(
        at(ms),
        attempts,
        LONG,
        || name,
        |t, told| {
            assert_eq!(told, Told::Away);
            away.push(t);
        },
    );
    (arrival, away)
}

fn leave(gate: &mut Gate<u32>, ms: u64) -> Vec<u32> {
    let mut let_in = Vec::new();
    gate.leave(at(ms), at(0), Ended::Answered, |t, told| {
        assert_eq!(told, Told::In);
        let_in.push(t);
    });
    let_in
}

#[test]
fn as_many_as_are_let_in_wait_and_the_rest_is_turned_away() {
    let mut gate = full(2);
    for name in 1..=2 {
        assert!(
            matches!(arrive(&mut gate, 0, 0, name).0, Arrival::Waits(_, until) if until == at(500))
        );
    }
    assert_eq!(arrive(&mut gate, 0, 0, 3), (Arrival::Full, vec![]));
    assert_eq!(leave(&mut gate, 1), [1]);
    assert_eq!((gate.under_way(), gate.waiting()), (2, 1));
}

#[test]
fn who_failed_elsewhere_goes_before_who_comes_fresh() {
    let mut gate = full(3);
    for (name, attempts) in [(1, 0), (2, 1), (3, 2)] {
        arrive(&mut gate, 0, attempts, name);
    }
    assert_eq!([leave(&mut gate, 1), leave(&mut gate, 1), leave(&mut gate, 1)], [[3], [2], [1]]);
}

#[test]
fn a_full_queue_turns_the_last_fresh_one_away_for_one_that_failed_elsewhere() {
    let mut gate = full(2);
    arrive(&mut gate, 0, 0, 1);
    arrive(&mut gate, 0, 0, 2);
    let (arrival, away) = arrive(&mut gate, 0, 1, 3);
    assert!(matches!(arrival, Arrival::Waits(..)));
    assert_eq!(away, [2]);
    assert_eq!(arrive(&mut gate, 0, 0, 4), (Arrival::Full, vec![]));
    let (_, away) = arrive(&mut gate, 0, 1, 5);
    assert_eq!(away, [1]);
    assert_eq!(arrive(&mut gate, 0, 1, 6), (Arrival::Full, vec![]), "its like wait longer");
}

#[test]
fn where_one_that_failed_elsewhere_waited_in_vain_no_fresh_one_stays() {
    let mut gate = full(3);
    arrive(&mut gate, 0, 0, 1);
    let (Arrival::Waits(ticket, _), _) = arrive(&mut gate, 0, 1, 2) else { panic!("not full") };
    arrive(&mut gate, 0, 2, 3);
    let mut away = Vec::new();
    assert!(gate.give_up(at(1), ticket, true, |t, _| away.push(t)));
    assert_eq!((away, gate.waiting()), (vec![1], 1));
    assert!(!gate.give_up(at(1), ticket, true, |_, _| panic!("nobody is left to go")));
}

#[test]
fn a_caller_that_goes_by_itself_turns_nobody_away() {
    let mut gate = full(3);
    arrive(&mut gate, 0, 0, 1);
    let (Arrival::Waits(ticket, _), _) = arrive(&mut gate, 0, 1, 2) else { panic!("not full") };
    assert!(gate.give_up(at(1), ticket, false, |_, _| panic!("turned away")));
    assert_eq!(leave(&mut gate, 1), [1]);
}

#[test]
fn nobody_waits_longer_than_it_has_time() {
    let mut gate = full(1);
    let arrival = gate.arrive(at(10), 0, 5 * MS, || 1, |_, _| {});
    assert!(matches!(arrival, Arrival::Waits(_, until) if until == at(15)), "{arrival:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Over any history: never more under way than may be, nobody waits while there is room, nobody is turned
    /// away while one that was tried less often stays, nobody is lost or told twice.
    #[test]
    fn the_priority_of_the_failing_is_never_inverted_and_nobody_is_lost(
        most in 1usize..5, ops in prop::collection::vec((0u8..8, 0u8..4, any::<prop::sample::Index>()), 1..200),
    ) {
        let mut gate: Gate<u32> = Gate::new(Rule::Fixed(most));
        let mut waiting: Vec<(Ticket, u32, u8)> = Vec::new();
        let (mut under_way, mut name) = (0usize, 0u32);
        for (ms, (op, attempts, which)) in ops.into_iter().enumerate() {
            let ms = ms as u64;
            let mut away: Vec<(u32, u8)> = Vec::new();
            match op {
                0..=3 => {
                    name += 1;
                    let (arrival, gone) = arrive(&mut gate, ms, attempts, name);
                    for g in gone {
                        let i = waiting.iter().position(|w| w.1 == g).unwrap();
                        let w = waiting.remove(i);
                        prop_assert!(w.2 < attempts, "turned away for its like");
                        away.push((w.1, w.2));
                    }
                    match arrival {
                        Arrival::In => {
                            prop_assert!(waiting.is_empty());
                            under_way += 1;
                        }
                        Arrival::Waits(ticket, _) => waiting.push((ticket, name, attempts)),
                        Arrival::Full => away.push((name, attempts)),
                    }
                }
                4..=5 if under_way > 0 => {
                    under_way -= 1;
                    for n in leave(&mut gate, ms) {
                        let best = waiting.iter().map(|w| w.0).min();
                        let i = waiting.iter().position(|w| w.1 == n).unwrap();
                        prop_assert_eq!(Some(waiting.remove(i).0), best);
                        under_way += 1;
                    }
                }
                6..=7 if !waiting.is_empty() => {
                    let (ticket, n, attempts) = waiting.remove(which.index(waiting.len()));
                    let mut gone = Vec::new();
                    prop_assert!(gate.give_up(at(ms), ticket, op == 6, |t, _| gone.push(t)));
                    for g in gone {
                        let i = waiting.iter().position(|w| w.1 == g).unwrap();
                        let w = waiting.remove(i);
                        away.push((w.1, w.2));
                    }
                    if op == 6 {
                        away.push((n, attempts));
                    }
                }
                _ => {}
            }
            let least = waiting.iter().map(|w| w.2).min().unwrap_or(u8::MAX);
            for (_, attempts) in &away {
                // The one that made room for a retry is as young a fresh one as there was.
                prop_assert!(*attempts <= least, "{attempts} had to go, {least} stays");
            }
            prop_assert_eq!((gate.under_way(), gate.waiting()), (under_way, waiting.len()));
            prop_assert!(under_way <= most);
            prop_assert!(waiting.is_empty() || under_way == most, "room, and somebody waits");
        }
    }
}
