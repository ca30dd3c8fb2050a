//! The transition table: every state of either role under every event. What stands here is the rule;
//! whoever changes a transition changes its cell.

use super::*;
use crate::ids::{EndpointId, Generation, NodeName, ServiceName, Version};
use crate::time::Span;
use proptest::prelude::*;

const NOW: Time = Time(1_000_000_000);
const DUE: Time = Time(1_000_000_000 - 1);
const LATER: Time = Time(1_000_000_000 + 1);
const HOLD: Failback = Failback::After(Span(Duration::from_secs(30)));
const LIMIT: Duration = Duration::from_secs(10);
const WARM: Role = Role::Warm { priority: 0 };

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
        activation_deadline: LIMIT,
    }
}

/// A state in one word, with the data that matters to the table.
fn word(state: &State) -> &'static str {
    match state {
        State::Unready => "unready",
        State::Cooling { .. } => "cooling",
        State::Standby => "standby",
        State::Activating { hook_done: false, .. } => "activating",
        State::Activating { hook_done: true, .. } => "activated",
        State::Serving { unneeded: None } => "serving",
        State::Serving { unneeded: Some(_) } => "unneeded",
        State::StandingDown { .. } => "down",
        State::Draining => "draining",
    }
}

fn action(action: Option<Action>) -> &'static str {
    match action {
        None => "",
        Some(Action::Activate) => "!activate",
        Some(Action::Deactivate) => "!deactivate",
        Some(Action::Check) => "!check",
    }
}

/// Columns: healthy, unhealthy, called, not called, hook done, hook failed, drain, undrain, tick.
fn events() -> [Event; 9] {
    [
        Event::Healthy,
        Event::Unhealthy,
        Event::Called(Some(loss())),
        Event::NotCalled,
        Event::HookDone,
        Event::HookFailed,
        Event::Drain,
        Event::Undrain,
        Event::Tick,
    ]
}

type Row = (State, [&'static str; 9]);

/// `-` is "nothing happens".
fn check_table(role: Role, healthy: bool, failback: Failback, rows: &[Row]) {
    for (from, cells) in rows {
        for (event, expected) in events().iter().zip(cells) {
            let mut life = in_state(role, from, healthy);
            let done = life.handle(event, failback, NOW);
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
            //                                   healthy  unhealthy  called not  hook failed drain     undrain tick
            (State::Unready,                    ["serving", "-",       "-", "-", "-", "-", "draining", "-",  "-"]),
            (State::Serving { unneeded: None }, ["-",       "unready", "-", "-", "-", "-", "draining", "-",  "-"]),
            (State::Draining,                   ["-",       "-",       "-", "-", "-", "-", "-",        back, "-"]),
        ]);
    }
}

#[test]
#[rustfmt::skip]
fn the_life_of_a_warm_endpoint_is_this_table() {
    let act = |hook_done, deadline| State::Activating { hook_done, deadline };
    let due = NOW - Duration::from_secs(30);
    for healthy in [false, true] {
        check_table(WARM, healthy, HOLD, &[
            //                                        healthy  unhealthy               called                not called  hook done          hook failed  drain                   undrain    tick
            (State::Standby,                         ["-",       "-",                  "activating!activate", "-",        "-",               "-",         "draining",             "-",       "-"]),
            (act(false, LATER),                      ["-",       "-",                  "-",                   "-",        "activated!check", "cooling",   "draining",             "-",       "-"]),
            (act(false, NOW),                        ["-",       "-",                  "-",                   "-",        "activated!check", "cooling",   "draining",             "-",       "cooling!deactivate"]),
            (act(true, LATER),                       ["serving", "-",                  "-",                   "-",        "activated!check", "cooling",   "draining",             "-",       "-"]),
            (act(true, NOW),                         ["serving", "-",                  "-",                   "-",        "activated!check", "cooling",   "draining",             "-",       "cooling!deactivate"]),
            (State::Serving { unneeded: None },      ["-",       "cooling!deactivate", "serving",             "unneeded", "-",               "-",         "draining!deactivate",  "-",       "-"]),
            (State::Serving { unneeded: Some(DUE) }, ["-",       "cooling!deactivate", "serving",             "-",        "-",               "-",         "draining!deactivate",  "-",       "-"]),
            (State::Serving { unneeded: Some(due) }, ["-",       "cooling!deactivate", "serving",             "down",     "-",               "-",         "draining!deactivate",  "-",       "down"]),
            (State::StandingDown { until: LATER },   ["-",       "-",                  "serving",             "-",        "-",               "-",         "draining!deactivate",  "-",       "-"]),
            (State::StandingDown { until: NOW },     ["-",       "-",                  "serving",             "-",        "-",               "-",         "draining!deactivate",  "-",       "standby!deactivate"]),
            (State::Cooling { until: LATER },        ["-",       "-",                  "-",                   "-",        "-",               "-",         "draining",             "-",       "-"]),
            (State::Cooling { until: NOW },          ["-",       "-",                  "-",                   "-",        "-",               "-",         "draining",             "-",       "standby"]),
            (State::Draining,                        ["-",       "-",                  "-",                   "-",        "-",               "-",         "-",                    "standby", "-"]),
        ].map(|(state, cells)| (state.clone(), cells.map(|c| unchanged(&state, c)))));
    }
}

/// A transition into the state it came from, without an action, is no change.
fn unchanged(state: &State, cell: &'static str) -> &'static str {
    if *state == (State::Serving { unneeded: None }) && cell == "serving" { "-" } else { cell }
}

#[test]
fn with_failback_never_a_warm_endpoint_serves_until_somebody_drains_it() {
    let long_ago = State::Serving { unneeded: Some(Time(0)) };
    let mut life = in_state(WARM, &long_ago, true);
    assert_eq!(life.handle(&Event::Tick, Failback::Never, NOW), None);
    assert_eq!(life.handle(&Event::NotCalled, Failback::Never, NOW), None);
    assert_eq!(life.state, long_ago);
    assert_eq!(life.deadline(Failback::Never), None, "and nobody waits for it");
}

#[test]
fn the_hold_of_failback_starts_anew_when_the_endpoint_is_needed_again() {
    let mut life = in_state(WARM, &State::Serving { unneeded: None }, true);
    let at = |s: u64| Time(s * 1_000_000);
    life.handle(&Event::NotCalled, HOLD, at(0));
    life.handle(&Event::Called(None), HOLD, at(29));
    life.handle(&Event::NotCalled, HOLD, at(30));
    life.handle(&Event::Tick, HOLD, at(59));
    assert_eq!(life.condition(), Condition::Serving);
    assert_eq!(life.deadline(HOLD), Some(at(60)));
    life.handle(&Event::Tick, HOLD, at(60));
    assert_eq!(life.condition(), Condition::Draining);
    assert_eq!(life.handle(&Event::Tick, HOLD, at(60) + DRAIN), Some(Action::Deactivate));
    assert_eq!(life.condition(), Condition::Standby);
}

#[test]
fn the_loss_an_endpoint_was_activated_for_is_kept_until_it_stands_by_again() {
    let mut life = in_state(WARM, &State::Standby, false);
    let at = |s: u64| Time(s * 1_000_000);
    life.handle(&Event::Called(Some(loss())), HOLD, at(0));
    life.handle(&Event::HookDone, HOLD, at(1));
    life.handle(&Event::Healthy, HOLD, at(1));
    assert_eq!(life.activated_for(), Some(&loss()));
    life.handle(&Event::NotCalled, HOLD, at(2));
    life.handle(&Event::Tick, HOLD, at(32));
    assert_eq!(life.activated_for(), Some(&loss()), "while it drains it still serves for it");
    life.handle(&Event::Tick, HOLD, at(33));
    assert_eq!((life.condition(), life.activated_for()), (Condition::Standby, None));
}

#[test]
fn a_condition_keeps_its_since_through_changes_within_it() {
    let mut life = in_state(WARM, &State::Serving { unneeded: None }, true);
    life.since = Time(7);
    life.handle(&Event::NotCalled, HOLD, NOW);
    assert_eq!(life.since(), Time(7), "still serving");
    life.handle(&Event::Unhealthy, HOLD, NOW);
    assert_eq!(life.since(), NOW);
}

fn any_event() -> impl Strategy<Value = Event> {
    proptest::sample::select(events().to_vec())
}

proptest! {
    /// No sequence of events puts a hot endpoint on the bench, or a warm one into service without its
    /// hook and a passed check after it.
    #[test]
    fn no_history_leads_where_a_role_may_not_be(
        warm: bool,
        history in prop::collection::vec((any_event(), 0u64..20), 1..60),
    ) {
        let role = if warm { WARM } else { Role::Hot };
        let mut life = Lifecycle::new(role, LIMIT, Time(0));
        let (mut now, mut hooked) = (Time(0), false);
        for (event, seconds) in history {
            now = now + Duration::from_secs(seconds);
            let before = life.condition();
            let done = life.handle(&event, HOLD, now);
            match done {
                Some(Action::Activate) => hooked = false,
                Some(Action::Check) => hooked = true,
                _ => {}
            }
            if !warm {
                prop_assert_eq!(done, None);
                prop_assert!(!matches!(life.condition(), Condition::Standby | Condition::Activating));
            } else if before != Condition::Serving && life.condition() == Condition::Serving {
                let returned = before == Condition::Draining && matches!(event, Event::Called(_));
                prop_assert!(returned || (hooked && event == Event::Healthy));
            }
            if let Some(deadline) = life.deadline(HOLD) {
                prop_assert!(deadline > now || event != Event::Tick, "a tick must move its deadline");
            }
        }
    }
}
