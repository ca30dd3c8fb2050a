//! The life of one endpoint, as its owner drives it. Nobody else may.
//!
//! A state machine of values: [`Lifecycle::handle`] takes an event and returns what the shell must do.
//! Hot endpoints follow their health check. Warm ones stand by until they are called; are activated (a hook,
//! tried again with growing pauses within one deadline; a passed check; requests that warm it up); serve;
//! and stand down once they have not been needed for the policy's hold, or by an operator's word. One that
//! could not be activated, or failed while serving, is not called for a time that grows with each failure,
//! so that the next in order is. At the start of an agent nobody knows what an earlier one left running: a warm
//! endpoint that is not called is stopped then. The transition table is the test. Randomness comes in with the event that
//! needs it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::advert::{Condition, Role};
use crate::incident::IncidentKey;
use crate::policy::Failback;
use crate::time::Time;

/// How long a warm endpoint that could not be activated, or failed while serving, is not called again the
/// first time: long enough for the next in order to take over, short enough to return when it is the last.
pub const COOL_DOWN: Duration = Duration::from_secs(5);
/// It doubles with each failure in a row up to this. Not longer: it may be the last there is.
pub const COOL_DOWN_MAX: Duration = Duration::from_secs(60);
/// Failures are forgotten once the endpoint has served for so long, or stood down in good order.
pub const FORGIVEN: Duration = Duration::from_secs(60);
/// How long an endpoint that stands down finishes what it has.
pub const DRAIN: Duration = Duration::from_secs(1);
/// The pause after the first failed attempt of a hook; it doubles with each, and up to half of it is taken
/// off at random, so that endpoints which wait for the same thing do not ask for it in step. An application
/// that starts is ready in tens of milliseconds or in seconds.
pub const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two attempts.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// What an earlier agent may have left running is left alone for so long after a start: by then everybody has
/// told what is lost, and who is called has been activated anew without a stop.
pub const INHERITED: Duration = Duration::from_secs(10);
/// Warming up may take so long: it shall make the first requests fast, not keep them waiting.
pub const WARM_UP: Duration = Duration::from_secs(3);

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
    /// Its agent is cut off, or was away for long, and cannot tell whether it is needed.
    Unsure,
    /// An operator wants it to stand down now, if it is not needed.
    Release,
    /// An attempt of the hook ended well.
    HookDone,
    /// An attempt of the hook failed. `spread`, in thousandths, is how much of the pause's random half is
    /// waited.
    HookFailed {
        /// 0 to 1,000.
        spread: u16,
    },
    /// No attempt of the hook can succeed.
    HookHopeless,
    /// The requests that warm it up were made.
    WarmedUp,
    /// Its service may be served under a lease only, which is not held for it, or not any longer.
    Fenced,
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
    /// Run the activation hook once, for at most so long, then report how it ended.
    Activate {
        /// Counts from 1.
        attempt: u32,
        /// What is left of the deadline.
        within: Duration,
    },
    /// End an activation that is under way and run the deactivation hook; nobody waits for it.
    Deactivate(Stop),
    /// Run the health check now.
    Check,
    /// Make the requests that warm it up, for at most so long, then report `WarmedUp`.
    WarmUp {
        /// The bound.
        within: Duration,
    },
}

/// When the deactivation hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Once callers have had [`DRAIN`] to hear of it and nothing is under way at the endpoint any more, within
    /// the shell's limit. Not at all if it is activated again before.
    Idle,
    /// At once: it has failed, or may not serve any longer.
    Now,
}

/// How an endpoint is activated, by its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activation {
    /// Bounds hook, readiness and warm-up together.
    pub deadline: Duration,
    /// Attempts of the hook; as many as the deadline has room for where that is fewer.
    pub attempts: u32,
    /// Requests are made before it serves.
    pub warm_up: bool,
}

/// What policy and mesh ask at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// When an activated endpoint stands down.
    pub failback: Failback,
    /// How long an endpoint that begins to serve takes to its full share. The hold is never shorter: what
    /// returned has its full share before its replacement goes.
    pub ramp: Duration,
    /// The budget of moves has room from then on, and this agent knows where it stands.
    pub room: Time,
}

impl Terms {
    /// When an endpoint that is not needed since then stands down by itself.
    fn due(&self, unneeded: Time) -> Option<Time> {
        match self.failback {
            Failback::Never | Failback::Manual => None,
            Failback::After(hold) => Some((unneeded + hold.0.max(self.ramp)).max(self.room)),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    Unready,
    /// A warm endpoint that failed: not called before `until`.
    Cooling {
        until: Time,
    },
    /// A warm endpoint at the start of its agent: an earlier one may have left its application activated. It
    /// stands by all the same, and is stopped at `until`, unless it was called.
    Inherited {
        until: Time,
    },
    Standby,
    Activating {
        step: Step,
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

/// How far an activation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Step {
    /// The hook runs, for the n-th time.
    Hook { attempt: u32 },
    /// The n-th attempt failed; the next begins at `until`.
    Pause { attempt: u32, until: Time },
    /// The hook is done; the check has to pass.
    Check,
    /// The check passed; requests are made, until `until` at most.
    WarmUp { until: Time },
}

/// One endpoint of this node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lifecycle {
    role: Role,
    state: State,
    since: Time,
    healthy: bool,
    activated_for: Option<IncidentKey>,
    activation: Activation,
    /// In a row: activations given up, and failures while serving.
    failures: u32,
}

impl Lifecycle {
    /// A fresh endpoint: hot ones wait for their check, warm ones stand by, whatever was left of them.
    pub fn new(role: Role, activation: Activation, now: Time) -> Self {
        let state = match role {
            Role::Hot => State::Unready,
            Role::Warm { .. } => State::Inherited { until: now + INHERITED },
        };
        Self {
            role,
            state,
            since: now,
            healthy: false,
            activated_for: None,
            activation,
            failures: 0,
        }
    }

    /// Changes how it is activated the next time, as after a reload.
    pub fn set_activation(&mut self, activation: Activation) {
        self.activation = activation;
    }

    /// What the advert says. Warming up is the last part of `activating`: callers treat both alike.
    pub fn condition(&self) -> Condition {
        match self.state {
            State::Unready | State::Cooling { .. } => Condition::Unready,
            State::Standby | State::Inherited { .. } => Condition::Standby,
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

    /// Whether its application may be activated, and goes on to be.
    pub fn may_run(&self) -> bool {
        matches!(
            self.state,
            State::Inherited { .. }
                | State::Activating { .. }
                | State::Serving { .. }
                | State::StandingDown { .. }
        )
    }

    /// When a [`Event::Tick`] is due.
    pub fn deadline(&self, terms: &Terms) -> Option<Time> {
        match &self.state {
            State::Inherited { until }
            | State::Cooling { until }
            | State::StandingDown { until } => Some(*until),
            State::Activating { step, deadline } => Some(match step {
                Step::Hook { .. } | Step::Check => *deadline,
                Step::Pause { until, .. } | Step::WarmUp { until } => (*until).min(*deadline),
            }),
            State::Serving { unneeded: Some(since) } => terms.due(*since),
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
    pub fn handle(&mut self, event: &Event, terms: &Terms, now: Time) -> Option<Action> {
        match event {
            Event::Healthy => self.healthy = true,
            Event::Unhealthy => self.healthy = false,
            _ => {}
        }
        let (next, action) = match self.role {
            Role::Hot => self.next_hot(event)?,
            Role::Warm { .. } => self.next_warm(event, terms, now)?,
        };
        self.enter(next, now);
        action
    }

    fn next_hot(&self, event: &Event) -> Option<(State, Option<Action>)> {
        let next = match (&self.state, event) {
            (State::Unready, Event::Healthy) => State::Serving { unneeded: None },
            (State::Serving { .. }, Event::Unhealthy) => State::Unready,
            (State::Unready | State::Serving { .. }, Event::Drain) => State::Draining,
            (State::Draining, Event::Undrain) if self.healthy => State::Serving { unneeded: None },
            (State::Draining, Event::Undrain) => State::Unready,
            _ => return None,
        };
        Some((next, None))
    }

    fn next_warm(
        &mut self,
        event: &Event,
        terms: &Terms,
        now: Time,
    ) -> Option<(State, Option<Action>)> {
        let serving = State::Serving { unneeded: None };
        let stop = |stop| Some(Action::Deactivate(stop));
        Some(match (&self.state, event) {
            (State::Draining, Event::Undrain) => (State::Standby, None),
            // It may wait for requests under way, which are cut now.
            (State::Draining, Event::Fenced) => (State::Draining, stop(Stop::Now)),
            (State::Draining, _) => return None,
            // Nobody has been let in.
            (State::Activating { .. }, Event::Drain) => (State::Draining, stop(Stop::Now)),
            (_, Event::Drain) if self.may_run() => (State::Draining, stop(Stop::Idle)),
            (_, Event::Drain) => (State::Draining, None),
            (_, Event::Fenced) if self.may_run() => (State::Standby, stop(Stop::Now)),

            (State::Inherited { .. } | State::Standby, Event::Called(incident)) => {
                self.activated_for.clone_from(incident);
                self.attempt(1, now + self.activation.deadline, now)
            }
            (State::Inherited { until }, Event::Tick) if now >= *until => {
                (State::Standby, stop(Stop::Idle))
            }
            (State::Activating { step, deadline }, event) => {
                let (step, deadline) = (*step, *deadline);
                return self.next_activating(step, deadline, event, now);
            }

            (State::Serving { .. }, Event::Unhealthy) => self.failed(now),
            (State::Serving { .. }, Event::Called(_) | Event::Unsure) => (serving, None),
            (State::Serving { unneeded: None }, Event::NotCalled) => {
                (State::Serving { unneeded: Some(now) }, None)
            }
            (State::Serving { unneeded: Some(since) }, Event::Tick | Event::NotCalled) => {
                terms.due(*since).filter(|due| now >= *due)?;
                self.stand_down(now)
            }
            (State::Serving { unneeded: Some(_) }, Event::Release) => self.stand_down(now),

            (State::StandingDown { .. }, Event::Unhealthy) => self.failed(now),
            (State::StandingDown { .. }, Event::Called(_)) => (serving, None),
            (State::StandingDown { until }, Event::Tick) if now >= *until => {
                self.failures = 0;
                (State::Standby, stop(Stop::Idle))
            }
            (State::Cooling { until }, Event::Tick) if now >= *until => (State::Standby, None),
            _ => return None,
        })
    }

    /// Within an activation: hook, pause, hook …, check, warm-up, serving; or given up.
    fn next_activating(
        &mut self,
        step: Step,
        deadline: Time,
        event: &Event,
        now: Time,
    ) -> Option<(State, Option<Action>)> {
        let serving = State::Serving { unneeded: None };
        let activating = |step| State::Activating { step, deadline };
        Some(match (step, event) {
            (Step::Hook { .. } | Step::Pause { .. }, Event::HookDone) => {
                (activating(Step::Check), Some(Action::Check))
            }
            (Step::Hook { .. } | Step::Pause { .. }, Event::HookHopeless) => self.failed(now),
            (Step::Hook { attempt }, Event::HookFailed { spread }) => {
                let until = now + pause(attempt, *spread);
                if attempt >= self.activation.attempts || until >= deadline {
                    self.failed(now)
                } else {
                    (activating(Step::Pause { attempt, until }), None)
                }
            }
            (Step::Check, Event::Healthy) if self.activation.warm_up => {
                let until = (now + WARM_UP).min(deadline);
                let within = until.since(now);
                (activating(Step::WarmUp { until }), Some(Action::WarmUp { within }))
            }
            (Step::Check, Event::Healthy) => (serving, None),
            (Step::WarmUp { .. }, Event::Unhealthy) => (activating(Step::Check), None),
            (Step::WarmUp { .. }, Event::WarmedUp) => (serving, None),
            (Step::WarmUp { until }, Event::Tick) if now >= until => (serving, None),
            (Step::WarmUp { .. }, _) => return None,
            (_, Event::Tick) if now >= deadline => self.failed(now),
            (Step::Pause { attempt, until }, Event::Tick) if now >= until => {
                self.attempt(attempt + 1, deadline, now)
            }
            _ => return None,
        })
    }

    fn attempt(&self, attempt: u32, deadline: Time, now: Time) -> (State, Option<Action>) {
        let within = deadline.since(now);
        let state = State::Activating { step: Step::Hook { attempt }, deadline };
        (state, Some(Action::Activate { attempt, within }))
    }

    /// It is not needed: it finishes what it has.
    fn stand_down(&mut self, now: Time) -> (State, Option<Action>) {
        self.forgive(now);
        (State::StandingDown { until: now + DRAIN }, None)
    }

    /// Forgets failures before a time of serving that was long enough.
    fn forgive(&mut self, now: Time) {
        if self.condition() == Condition::Serving && now.since(self.since) >= FORGIVEN {
            self.failures = 0;
        }
    }

    /// It could not be activated, or failed while it served: others come first for a while.
    fn failed(&mut self, now: Time) -> (State, Option<Action>) {
        self.forgive(now);
        self.failures = self.failures.saturating_add(1);
        let doubled = COOL_DOWN.saturating_mul(1 << (self.failures - 1).min(16));
        let until = now + doubled.min(COOL_DOWN_MAX);
        (State::Cooling { until }, Some(Action::Deactivate(Stop::Now)))
    }
}

/// The pause after the n-th failed attempt.
fn pause(attempt: u32, spread: u16) -> Duration {
    let whole = FIRST_PAUSE.saturating_mul(1 << (attempt - 1).min(16)).min(LONGEST_PAUSE);
    whole / 2 + whole / 2 * u32::from(spread.min(1_000)) / 1_000
}

#[cfg(test)]
mod tests;
