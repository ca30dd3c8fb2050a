//! The transition table: every state of either role under every event. What stands here is the rule;
//! whoever changes a transition changes its cell.

use super::*;
use crate::ids::{EndpointId, Generation, NodeName, ServiceName, Version};
use crate::time::Span;
use proptest::prelude::*;

const NOW: Time = Time(1_000_000_000);
const DUE: Time = Time(1_000_000_000 - 1);
const LATER: Time = Time(1_000_000_000 + 1);
const FAR: Time = Time(1_000_000_000 + 10_000_000);
const HOLD: Terms = terms(Failback::After(Span(Duration::from_secs(30))));
const LIMIT: Duration = Duration::from_secs(10);
const WARM: Role = Role::Warm { priority: 0 };
const WARMING: Activation = Activation { deadline: LIMIT, attempts: 3, warm_up: true };
const PLAIN: Activation = Activation { warm_up: false, ..WARMING };

const fn terms(failback: Failback) -> Terms {
    Terms { failback, ramp: Duration::ZERO, room: Time(0) }
}

fn loss() -> IncidentKey {
    let lost = EndpointId {
        service: ServiceName::parse("ledger").unwrap(),
        node: NodeName::parse("hot-1").unwrap(),
        instance: 0,
    };
    IncidentKey { lost, version: Version { generation: Generation(1), revision: 2 } }
}

fn in_state(role: Role, state: &State, healthy: bool) -> Lifecycle {
    Lifecycle {
        role,
        state: state.clone(),
        since: Time(0),
        healthy,
        activated_for: None,
        activation: WARMING,
        failures: 0,
    }
}

/// A state in one word, with the data that matters to the table.
fn word(state: &State) -> &'static str {
    let State::Activating { step, .. } = state else {
        return match state {
            State::Unready => "unready",
            State::Cooling { .. } => "cooling",
            State::Inherited { .. } => "inherited",
            State::Standby => "standby",
            State::Serving { unneeded: None } => "serving",
            State::Serving { unneeded: Some(_) } => "unneeded",
            State::StandingDown { .. } => "down",
            State::Draining | State::Activating { .. } => "draining",
        };
    };
    match step {
        Step::Hook { attempt: 1 } => "hook1",
        Step::Hook { attempt: 2 } => "hook2",
        Step::Hook { .. } => "hook3",
        Step::Pause { .. } => "pause",
        Step::Check => "check",
        Step::WarmUp { .. } => "warming",
    }
}

fn action(action: Option<Action>) -> &'static str {
    match action {
        None => "",
        Some(Action::Activate { .. }) => "!act",
        Some(Action::Deactivate(Stop::Idle)) => "!off",
        Some(Action::Deactivate(Stop::Now)) => "!now",
        Some(Action::Check) => "!check",
        Some(Action::WarmUp { .. }) => "!warm",
    }
}

/// The columns of the table.
fn events() -> [Event; 14] {
    [
        Event::Healthy,
        Event::Unhealthy,
        Event::Called(Some(loss())),
        Event::NotCalled,
        Event::Unsure,
        Event::Release,
        Event::HookDone,
        Event::HookFailed { spread: 1_000 },
        Event::HookHopeless,
        Event::WarmedUp,
        Event::Fenced,
        Event::Drain,
        Event::Undrain,
        Event::Tick,
    ]
}

type Row = (State, [&'static str; 14]);

/// `-` is "nothing happens".
fn check_table(role: Role, healthy: bool, terms: Terms, rows: &[Row]) {
    for (from, cells) in rows {
        for (event, expected) in events().iter().zip(cells) {
            let mut life = in_state(role, from, healthy);
            let done = life.handle(event, &terms, NOW);
            let found = match (life.state == *from, action(done)) {
                (true, "") => "-".to_owned(),
                (_, done) => format!("{}{done}", word(&life.state)),
            };
            assert_eq!(found, *expected, "{role:?} in {from:?} (healthy: {healthy}) on {event:?}");
        }
    }
}

#[test]
#[rustfmt::skip]
fn a_hot_endpoint_follows_its_check_and_nothing_else_but_a_drain() {
    for healthy in [false, true] {
        let back = if healthy { "serving" } else { "unready" };
        check_table(Role::Hot, healthy, HOLD, &[
            //                                   healthy    unhealthy  called not  unsure rel. done fail hopeless warmed fenced drain    undrain tick
            (State::Unready,                    ["serving", "-",       "-",   "-", "-",   "-", "-", "-", "-",     "-",   "-", "draining", "-",  "-"]),
            (State::Serving { unneeded: None }, ["-",       "unready", "-",   "-", "-",   "-", "-", "-", "-",     "-",   "-", "draining", "-",  "-"]),
            (State::Draining,                   ["-",       "-",       "-",   "-", "-",   "-", "-", "-", "-",     "-",   "-", "-",        back, "-"]),
        ]);
    }
}

#[test]
#[rustfmt::skip]
fn the_life_of_a_warm_endpoint_is_this_table() {
    let act = |step, deadline| State::Activating { step, deadline };
    let hook = |attempt| Step::Hook { attempt };
    let pause = |until| Step::Pause { attempt: 1, until };
    let warm = |until| Step::WarmUp { until };
    let serving = |unneeded| State::Serving { unneeded };
    let due = NOW - Duration::from_secs(30);
    for healthy in [false, true] {
        check_table(WARM, healthy, HOLD, &[
            //                                       healthy         unhealthy      called       not         unsure     release hook done      failed         hopeless       warmed up  fenced          drain           undrain    tick
            (State::Inherited { until: LATER },    ["-",            "-",           "hook1!act", "-",        "-",       "-",    "-",           "-",           "-",           "-",       "standby!now",  "draining!off", "-",       "-"]),
            (State::Inherited { until: NOW },      ["-",            "-",           "hook1!act", "-",        "-",       "-",    "-",           "-",           "-",           "-",       "standby!now",  "draining!off", "-",       "standby!off"]),
            (State::Standby,                       ["-",            "-",           "hook1!act", "-",        "-",       "-",    "-",           "-",           "-",           "-",       "-",            "draining",     "-",       "-"]),
            (act(hook(1), FAR),                    ["-",            "-",           "-",         "-",        "-",       "-",    "check!check", "pause",       "cooling!now", "-",       "standby!now",  "draining!now", "-",       "-"]),
            (act(hook(3), FAR),                    ["-",            "-",           "-",         "-",        "-",       "-",    "check!check", "cooling!now", "cooling!now", "-",       "standby!now",  "draining!now", "-",       "-"]),
            (act(hook(1), LATER),                  ["-",            "-",           "-",         "-",        "-",       "-",    "check!check", "cooling!now", "cooling!now", "-",       "standby!now",  "draining!now", "-",       "-"]),
            (act(hook(1), NOW),                    ["-",            "-",           "-",         "-",        "-",       "-",    "check!check", "cooling!now", "cooling!now", "-",       "standby!now",  "draining!now", "-",       "cooling!now"]),
            (act(pause(LATER), FAR),               ["-",            "-",           "-",         "-",        "-",       "-",    "check!check", "-",           "cooling!now", "-",       "standby!now",  "draining!now", "-",       "-"]),
            (act(pause(NOW), FAR),                 ["-",            "-",           "-",         "-",        "-",       "-",    "check!check", "-",           "cooling!now", "-",       "standby!now",  "draining!now", "-",       "hook2!act"]),
            (act(pause(DUE), NOW),                 ["-",            "-",           "-",         "-",        "-",       "-",    "check!check", "-",           "cooling!now", "-",       "standby!now",  "draining!now", "-",       "cooling!now"]),
            (act(Step::Check, FAR),                ["warming!warm", "-",           "-",         "-",        "-",       "-",    "-",           "-",           "-",           "-",       "standby!now",  "draining!now", "-",       "-"]),
            (act(Step::Check, NOW),                ["warming!warm", "-",           "-",         "-",        "-",       "-",    "-",           "-",           "-",           "-",       "standby!now",  "draining!now", "-",       "cooling!now"]),
            (act(warm(LATER), FAR),                ["-",            "check",       "-",         "-",        "-",       "-",    "-",           "-",           "-",           "serving", "standby!now",  "draining!now", "-",       "-"]),
            (act(warm(NOW), FAR),                  ["-",            "check",       "-",         "-",        "-",       "-",    "-",           "-",           "-",           "serving", "standby!now",  "draining!now", "-",       "serving"]),
            (serving(None),                        ["-",            "cooling!now", "-",         "unneeded", "-",       "-",    "-",           "-",           "-",           "-",       "standby!now",  "draining!off", "-",       "-"]),
            (serving(Some(DUE)),                   ["-",            "cooling!now", "serving",   "-",        "serving", "down", "-",           "-",           "-",           "-",       "standby!now",  "draining!off", "-",       "-"]),
            (serving(Some(due)),                   ["-",            "cooling!now", "serving",   "down",     "serving", "down", "-",           "-",           "-",           "-",       "standby!now",  "draining!off", "-",       "down"]),
            (State::StandingDown { until: LATER }, ["-",            "cooling!now", "serving",   "-",        "-",       "-",    "-",           "-",           "-",           "-",       "standby!now",  "draining!off", "-",       "-"]),
            (State::StandingDown { until: NOW },   ["-",            "cooling!now", "serving",   "-",        "-",       "-",    "-",           "-",           "-",           "-",       "standby!now",  "draining!off", "-",       "standby!off"]),
            (State::Cooling { until: LATER },      ["-",            "-",           "-",         "-",        "-",       "-",    "-",           "-",           "-",           "-",       "-",            "draining",     "-",       "-"]),
            (State::Cooling { until: NOW },        ["-",            "-",           "-",         "-",        "-",       "-",    "-",           "-",           "-",           "-",       "-",            "draining",     "-",       "standby"]),
            (State::Draining,                      ["-",            "-",           "-",         "-",        "-",       "-",    "-",           "-",           "-",           "-",       "draining!now", "-",            "standby", "-"]),
        ]);
    }
}

fn at(seconds: u64) -> Time {
    Time(seconds * 1_000_000)
}

#[test]
fn without_warm_up_an_endpoint_serves_as_soon_as_its_check_passes() {
    let checking = State::Activating { step: Step::Check, deadline: FAR };
    let mut life = Lifecycle { activation: PLAIN, ..in_state(WARM, &checking, false) };
    assert_eq!(life.handle(&Event::Healthy, &HOLD, NOW), None);
    assert_eq!(life.condition(), Condition::Serving);
}

#[test]
fn a_hook_is_tried_again_after_growing_pauses_that_differ_by_up_to_a_half() {
    for (spread, factor) in [(0, 0.5), (500, 0.75), (1_000, 1.0), (u16::MAX, 1.0)] {
        for (attempt, whole) in [(1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8), (5, 1.0), (40, 1.0)] {
            let found = pause(attempt, spread).as_secs_f64();
            assert!((found - whole * factor).abs() < 1e-3, "{attempt}, {spread}: {found}");
        }
    }
}

#[test]
fn all_attempts_share_one_deadline_and_each_is_told_what_is_left_of_it() {
    let mut life = Lifecycle::new(WARM, Activation { attempts: 9, ..PLAIN }, at(0));
    let mut left = Vec::new();
    let mut now = at(0);
    let mut done = life.handle(&Event::Called(None), &HOLD, now);
    while let Some(Action::Activate { attempt, within }) = done {
        left.push((attempt, within.as_secs()));
        // Each attempt takes three seconds to fail.
        life.handle(&Event::HookFailed { spread: 1_000 }, &HOLD, now + Duration::from_secs(3));
        now = life.deadline(&HOLD).unwrap();
        done = life.handle(&Event::Tick, &HOLD, now);
    }
    assert_eq!(left, [(1, 10), (2, 6), (3, 3), (4, 0)]);
    assert!(now <= at(20) && life.condition() != Condition::Activating, "{now:?}");
}

#[test]
fn the_cool_down_doubles_with_each_failure_in_a_row_up_to_its_bound() {
    let mut life = Lifecycle::new(WARM, Activation { attempts: 1, ..PLAIN }, at(0));
    let mut now = at(0);
    for seconds in [5, 10, 20, 40, 60, 60] {
        life.handle(&Event::Called(None), &HOLD, now);
        life.handle(&Event::HookFailed { spread: 0 }, &HOLD, now);
        assert_eq!(life.deadline(&HOLD), Some(now + Duration::from_secs(seconds)));
        now = life.deadline(&HOLD).unwrap();
        life.handle(&Event::Tick, &HOLD, now);
        assert_eq!(life.condition(), Condition::Standby);
    }
}

#[test]
fn failures_are_forgotten_once_it_served_long_enough_or_stood_down_in_good_order() {
    let up = |life: &mut Lifecycle, now| {
        life.handle(&Event::Called(None), &HOLD, now);
        life.handle(&Event::HookDone, &HOLD, now);
        life.handle(&Event::Healthy, &HOLD, now);
    };
    let failed = || Lifecycle { failures: 3, ..Lifecycle::new(WARM, PLAIN, at(0)) };
    for (served, cooling) in [(59, 40), (60, 5)] {
        let mut life = failed();
        up(&mut life, at(0));
        life.handle(&Event::Unhealthy, &HOLD, at(served));
        assert_eq!(life.deadline(&HOLD), Some(at(served + cooling)));
    }
    let mut life = failed();
    up(&mut life, at(0));
    life.handle(&Event::NotCalled, &HOLD, at(1));
    life.handle(&Event::Release, &HOLD, at(2));
    life.handle(&Event::Tick, &HOLD, at(3));
    up(&mut life, at(4));
    life.handle(&Event::Unhealthy, &HOLD, at(5));
    assert_eq!(life.deadline(&HOLD), Some(at(10)));
}

#[test]
fn warming_up_is_bounded_by_its_own_time_and_by_the_activations_deadline() {
    for (called, until) in [(0, 3), (8, 2)] {
        let mut life = Lifecycle::new(WARM, WARMING, at(0));
        life.handle(&Event::Called(None), &HOLD, at(0));
        life.handle(&Event::HookDone, &HOLD, at(called));
        let within = Duration::from_secs(until);
        let done = life.handle(&Event::Healthy, &HOLD, at(called));
        assert_eq!(done, Some(Action::WarmUp { within }));
        assert_eq!(life.condition(), Condition::Activating);
        life.handle(&Event::Tick, &HOLD, at(called + until));
        assert_eq!(life.condition(), Condition::Serving, "it is healthy, warm or not");
    }
}

#[test]
fn with_failback_never_or_manual_a_warm_endpoint_serves_until_somebody_says_otherwise() {
    for failback in [Failback::Never, Failback::Manual] {
        let long_ago = State::Serving { unneeded: Some(Time(0)) };
        let mut life = in_state(WARM, &long_ago, true);
        let terms = terms(failback);
        assert_eq!(life.handle(&Event::Tick, &terms, NOW), None);
        assert_eq!(life.handle(&Event::NotCalled, &terms, NOW), None);
        assert_eq!(life.state, long_ago);
        assert_eq!(life.deadline(&terms), None, "and nobody waits for it");
        life.handle(&Event::Release, &terms, NOW);
        assert_eq!(life.condition(), Condition::Draining);
    }
}

#[test]
fn what_an_earlier_agent_left_is_stopped_unless_it_is_called_by_then() {
    let mut life = Lifecycle::new(WARM, PLAIN, at(0));
    assert_eq!((life.condition(), life.deadline(&HOLD)), (Condition::Standby, Some(at(10))));
    let idle = Some(Action::Deactivate(Stop::Idle));
    assert_eq!(life.handle(&Event::Tick, &HOLD, at(10)), idle);
    assert_eq!((life.condition(), life.deadline(&HOLD)), (Condition::Standby, None));

    let mut life = Lifecycle::new(WARM, PLAIN, at(0));
    let done = life.handle(&Event::Called(None), &HOLD, at(3));
    assert!(matches!(done, Some(Action::Activate { attempt: 1, .. })), "{done:?}");
    assert_eq!(life.handle(&Event::Tick, &HOLD, at(10)), None);
}

#[test]
fn failures_before_a_long_time_of_serving_do_not_count_where_it_fails_while_it_stands_down() {
    for (served, cooling) in [(59, 40), (60, 5)] {
        let serving = State::Serving { unneeded: Some(at(0)) };
        let mut life = Lifecycle { failures: 3, ..in_state(WARM, &serving, true) };
        life.handle(&Event::Release, &HOLD, at(served));
        life.handle(&Event::Unhealthy, &HOLD, at(served));
        assert_eq!(life.deadline(&HOLD), Some(at(served + cooling)));
    }
}

#[test]
fn an_operators_word_does_not_release_an_endpoint_that_is_needed() {
    let mut life = in_state(WARM, &State::Serving { unneeded: None }, true);
    life.handle(&Event::Release, &terms(Failback::Manual), NOW);
    assert_eq!(life.condition(), Condition::Serving);
}

#[test]
fn the_hold_is_never_shorter_than_the_ramp_nor_over_before_the_budget_has_room() {
    let hold = Failback::After(Span(Duration::from_secs(4)));
    let unneeded = in_state(WARM, &State::Serving { unneeded: Some(at(100)) }, true);
    for (ramp, room, due) in [(0, 0, 104), (4, 0, 104), (10, 0, 110), (10, 130, 130)] {
        let terms = Terms { failback: hold, ramp: Duration::from_secs(ramp), room: at(room) };
        assert_eq!(unneeded.deadline(&terms), Some(at(due)));
        let mut life = unneeded.clone();
        life.handle(&Event::Tick, &terms, at(due) - Duration::from_micros(1));
        assert_eq!(life.condition(), Condition::Serving);
        life.handle(&Event::Tick, &terms, at(due));
        assert_eq!(life.condition(), Condition::Draining);
    }
}

#[test]
fn the_hold_of_failback_starts_anew_when_the_endpoint_is_needed_again() {
    let mut life = in_state(WARM, &State::Serving { unneeded: None }, true);
    life.handle(&Event::NotCalled, &HOLD, at(0));
    life.handle(&Event::Called(None), &HOLD, at(29));
    life.handle(&Event::NotCalled, &HOLD, at(30));
    life.handle(&Event::Tick, &HOLD, at(59));
    assert_eq!(life.condition(), Condition::Serving);
    assert_eq!(life.deadline(&HOLD), Some(at(60)));
    life.handle(&Event::Tick, &HOLD, at(60));
    assert_eq!(life.condition(), Condition::Draining);
    assert_eq!(
        life.handle(&Event::Tick, &HOLD, at(60) + DRAIN),
        Some(Action::Deactivate(Stop::Idle))
    );
    assert_eq!(life.condition(), Condition::Standby);
}

#[test]
fn the_loss_an_endpoint_was_activated_for_is_kept_until_it_stands_by_again() {
    let mut life = Lifecycle { activation: PLAIN, ..in_state(WARM, &State::Standby, false) };
    life.handle(&Event::Called(Some(loss())), &HOLD, at(0));
    life.handle(&Event::HookDone, &HOLD, at(1));
    life.handle(&Event::Healthy, &HOLD, at(1));
    assert_eq!(life.activated_for(), Some(&loss()));
    life.handle(&Event::NotCalled, &HOLD, at(2));
    life.handle(&Event::Tick, &HOLD, at(32));
    assert_eq!(life.activated_for(), Some(&loss()), "while it drains it still serves for it");
    life.handle(&Event::Tick, &HOLD, at(33));
    assert_eq!((life.condition(), life.activated_for()), (Condition::Standby, None));
}

#[test]
fn a_condition_keeps_its_since_through_changes_within_it() {
    let mut life = in_state(WARM, &State::Serving { unneeded: None }, true);
    life.since = Time(7);
    life.handle(&Event::NotCalled, &HOLD, NOW);
    assert_eq!(life.since(), Time(7), "still serving");
    life.handle(&Event::Unhealthy, &HOLD, NOW);
    assert_eq!(life.since(), NOW);
}

fn any_event() -> impl Strategy<Value = Event> {
    proptest::sample::select(events().to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// No sequence of events puts a hot endpoint on the bench, or a warm one into service without its hook,
    /// a passed check after it, and its warm-up where it has one; no activation outlives its deadline; no
    /// tick leaves its own deadline behind.
    #[test]
    fn no_history_leads_where_a_role_may_not_be(
        warm: bool,
        warm_up: bool,
        attempts in 1u32..4,
        history in prop::collection::vec((any_event(), 0u64..4), 1..80),
    ) {
        let role = if warm { WARM } else { Role::Hot };
        let activation = Activation { deadline: LIMIT, attempts, warm_up };
        let mut life = Lifecycle::new(role, activation, Time(0));
        let (mut now, mut hooked, mut warmed, mut called) = (Time(0), false, false, Time(0));
        for (event, seconds) in history {
            now = now + Duration::from_secs(seconds);
            let before = life.condition();
            let done = life.handle(&event, &HOLD, now);
            match done {
                Some(Action::Activate { attempt, within }) => {
                    if attempt == 1 {
                        called = now;
                    }
                    prop_assert!(attempt <= attempts && now + within == called + LIMIT);
                    (hooked, warmed) = (false, !warm_up);
                }
                Some(Action::Check) => hooked = true,
                Some(Action::WarmUp { .. }) => {
                    prop_assert!(hooked && event == Event::Healthy);
                    warmed = true;
                }
                _ => {}
            }
            let after = life.condition();
            if !warm {
                prop_assert_eq!(done, None);
                prop_assert!(!matches!(after, Condition::Standby | Condition::Activating));
            } else if before != Condition::Serving && after == Condition::Serving {
                let returned = before == Condition::Draining && matches!(event, Event::Called(_));
                prop_assert!(returned || (hooked && warmed));
            }
            prop_assert!(after != Condition::Serving || life.healthy);
            if event == Event::Tick && after == Condition::Activating {
                prop_assert!(now < called + LIMIT);
            }
            if let Some(deadline) = life.deadline(&HOLD) {
                prop_assert!(deadline > now || event != Event::Tick, "a tick must move its deadline");
            }
        }
    }
}
