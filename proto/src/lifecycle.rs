//! The life of one endpoint, as its owner drives it. Nobody else may.
//!
//! A state machine of values: [`Lifecycle::handle`] takes an event and returns what the shell must do.
//! Hot endpoints follow their health check. Warm ones stand by until they are called, are activated
//! by a hook within a deadline, serve, and stand down once they have not been needed for the policy's
//! hold time. The transition table is the test.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::advert::{Condition, Role};
use crate::incident::IncidentKey;
use crate::policy::Failback;
use crate::time::Time;

/// How long a warm endpoint that could not be activated, or failed while serving, is not called again:
/// long enough for the next in order to take over, short enough to return when it is the last.
pub const COOL_DOWN: Duration = Duration::from_secs(5);
/// How long an endpoint that stands down finishes what it has.
pub const DRAIN: Duration = Duration::from_secs(1);

/// What happens to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its health check passes.
    Healthy,
    /// Its health check fails, or its application refuses connections.
    Unhealthy,
    /// The numbers call it up, for this loss.
    Called(Option<IncidentKey>),
    /// The numbers do not call it.
    NotCalled,
    /// The hook ended well.
    HookDone,
    /// The hook failed or ran out of time.
    HookFailed,
    /// Its node drains, or an operator wants it out.
    Drain,
    /// Its node no longer drains.
    Undrain,
    /// Time passed.
    Tick,
}

/// What the shell must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run the activation hook, then report `HookDone` or `HookFailed`.
    Activate,
    /// Run the deactivation hook; nobody waits for it.
    Deactivate,
    /// Run the health check now.
    Check,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    Unready,
    /// A warm endpoint that failed: not called before `until`.
    Cooling {
        until: Time,
    },
    Standby,
    Activating {
        hook_done: bool,
        deadline: Time,
    },
    Serving {
        unneeded: Option<Time>,
    },
    /// A warm endpoint stands down.
    StandingDown {
        until: Time,
    },
    /// The node drains.
    Draining,
}

/// One endpoint of this node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lifecycle {
    role: Role,
    state: State,
    since: Time,
    healthy: bool,
    activated_for: Option<IncidentKey>,
    activation_deadline: Duration,
}

impl Lifecycle {
    /// A fresh endpoint: hot ones wait for their check, warm ones stand by. `activation_deadline` bounds
    /// hook and readiness together.
    pub fn new(role: Role, activation_deadline: Duration, now: Time) -> Self {
        let state = match role {
            Role::Hot => State::Unready,
            Role::Warm { .. } => State::Standby,
        };
        Self { role, state, since: now, healthy: false, activated_for: None, activation_deadline }
    }

    /// What the advert says.
    pub fn condition(&self) -> Condition {
        match self.state {
            State::Unready | State::Cooling { .. } => Condition::Unready,
            State::Standby => Condition::Standby,
            State::Activating { .. } => Condition::Activating,
            State::Serving { .. } => Condition::Serving,
            State::StandingDown { .. } | State::Draining => Condition::Draining,
        }
    }

    /// Since when it is in that condition.
    pub fn since(&self) -> Time {
        self.since
    }

    /// The loss it was activated for.
    pub fn activated_for(&self) -> Option<&IncidentKey> {
        self.activated_for.as_ref()
    }

    /// When a [`Event::Tick`] is due.
    pub fn deadline(&self, failback: Failback) -> Option<Time> {
        match self.state {
            State::Cooling { until } | State::StandingDown { until } => Some(until),
            State::Activating { deadline, .. } => Some(deadline),
            State::Serving { unneeded: Some(since) } => match failback {
                Failback::Never => None,
                Failback::After(hold) => Some(since + hold.0),
            },
            _ => None,
        }
    }

    fn enter(&mut self, state: State, now: Time) {
        let before = self.condition();
        self.state = state;
        if self.condition() != before {
            self.since = now;
        }
        if !matches!(
            self.state,
            State::Activating { .. } | State::Serving { .. } | State::StandingDown { .. }
        ) {
            self.activated_for = None;
        }
    }

    /// Takes in an event and returns what to do.
    pub fn handle(&mut self, event: &Event, failback: Failback, now: Time) -> Option<Action> {
        match event {
            Event::Healthy => self.healthy = true,
            Event::Unhealthy => self.healthy = false,
            _ => {}
        }
        match self.role {
            Role::Hot => self.handle_hot(event, now),
            Role::Warm { .. } => self.handle_warm(event, failback, now),
        }
    }

    fn handle_hot(&mut self, event: &Event, now: Time) -> Option<Action> {
        let next = match (&self.state, event) {
            (State::Unready, Event::Healthy) => State::Serving { unneeded: None },
            (State::Serving { .. }, Event::Unhealthy) => State::Unready,
            (State::Unready | State::Serving { .. }, Event::Drain) => State::Draining,
            (State::Draining, Event::Undrain) if self.healthy => State::Serving { unneeded: None },
            (State::Draining, Event::Undrain) => State::Unready,
            _ => return None,
        };
        self.enter(next, now);
        None
    }

    fn handle_warm(&mut self, event: &Event, failback: Failback, now: Time) -> Option<Action> {
        let cooling = State::Cooling { until: now + COOL_DOWN };
        let (next, action) = match (&self.state, event) {
            (State::Draining, Event::Undrain) => (State::Standby, None),
            (State::Draining, _) => return None,
            (State::Serving { .. } | State::StandingDown { .. }, Event::Drain) => {
                (State::Draining, Some(Action::Deactivate))
            }
            (_, Event::Drain) => (State::Draining, None),

            (State::Standby, Event::Called(incident)) => {
                self.activated_for.clone_from(incident);
                let deadline = now + self.activation_deadline;
                (State::Activating { hook_done: false, deadline }, Some(Action::Activate))
            }
            (State::Activating { deadline, .. }, Event::HookDone) => {
                (State::Activating { hook_done: true, deadline: *deadline }, Some(Action::Check))
            }
            (State::Activating { hook_done: true, .. }, Event::Healthy) => {
                (State::Serving { unneeded: None }, None)
            }
            (State::Activating { .. }, Event::HookFailed) => (cooling, None),
            (State::Activating { deadline, .. }, Event::Tick) if now >= *deadline => {
                (cooling, Some(Action::Deactivate))
            }

            (State::Serving { .. }, Event::Unhealthy) => (cooling, Some(Action::Deactivate)),
            (State::Serving { .. }, Event::Called(_)) => (State::Serving { unneeded: None }, None),
            (State::Serving { unneeded: None }, Event::NotCalled) => {
                (State::Serving { unneeded: Some(now) }, None)
            }
            (State::Serving { unneeded: Some(since) }, Event::Tick | Event::NotCalled) => {
                match failback {
                    Failback::After(hold) if now >= *since + hold.0 => {
                        (State::StandingDown { until: now + DRAIN }, None)
                    }
                    _ => return None,
                }
            }

            (State::StandingDown { .. }, Event::Called(_)) => {
                (State::Serving { unneeded: None }, None)
            }
            (State::StandingDown { until }, Event::Tick) if now >= *until => {
                (State::Standby, Some(Action::Deactivate))
            }
            (State::Cooling { until }, Event::Tick) if now >= *until => (State::Standby, None),
            _ => return None,
        };
        self.enter(next, now);
        action
    }
}

#[cfg(test)]
mod tests;
