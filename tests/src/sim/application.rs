//! Applications behind endpoints: their health checks, and the hooks that activate and stop them.
//!
//! What a hook does and what its agent says of it are two things: one that was broken off does nothing any more, and
//! its end may be told all the same.

use hearth_proto::advert::Role;
use hearth_proto::ids::EndpointId;
use hearth_proto::lifecycle::{DRAIN, Stop};
use hearth_proto::node::HookFailed;
use rand::RngExt;

use super::host::Life;
use super::world::{What, World};
use super::{At, MS, S};

/// Between two health checks of an endpoint, ± 10 %.
const CHECK: u64 = S;
/// Failed checks in a row after which an endpoint is unhealthy.
const FALL: u32 = 2;
/// From the order to stop an application to its stop.
const GRACE: u64 = DRAIN.as_micros() as u64;
/// An application behind an endpoint.
#[derive(Clone, Debug)]
pub struct App {
    role: Role,
    /// Its process runs.
    pub up: bool,
    /// A warm one was activated.
    pub activated: bool,
    /// The order of the activation hook that runs; broken off, it does nothing to the application.
    hook: Option<u64>,
    /// The deactivation that waits for requests to finish.
    stop: Option<u64>,
    /// When it last went up or down.
    pub changed: At,
    /// When its owner last said that it serves.
    pub served: At,
    /// It takes requests and answers none.
    pub hung: bool,
    /// How gray it is.
    pub gray: Gray,
    failures: u32,
}

/// How badly an application answers that answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gray {
    /// The share of its answers that are errors.
    pub errors: f64,
    /// How many times longer than usual it takes.
    pub slower: u64,
}

/// As an application should be.
pub const WELL: Gray = Gray { errors: 0.0, slower: 1 };

impl App {
    /// An application that runs.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            up: true,
            activated: false,
            hook: None,
            stop: None,
            changed: 0,
            served: 0,
            hung: false,
            gray: WELL,
            failures: 0,
        }
    }

    /// Its agent is gone, and with it what it was about to do.
    pub(super) fn orphan(&mut self) {
        (self.hook, self.stop) = (None, None);
    }

    /// Whether it accepts requests.
    pub fn accepts(&self) -> bool {
        self.up && (self.role == Role::Hot || self.activated)
    }

    /// Whether it answers.
    pub fn answers(&self) -> bool {
        self.accepts() && !self.hung
    }
}

impl World {
    pub(super) fn check_app(&mut self, host: usize, endpoint: &EndpointId, again: bool) {
        if again {
            let epoch = self.hosts[host].epoch;
            let next = self.rng.random_range(CHECK * 9 / 10..CHECK * 11 / 10);
            let endpoint = endpoint.clone();
            self.after(next, What::Check { host, endpoint, epoch, again: true });
        }
        if self.hosts[host].life != Life::Running {
            return;
        }
        let Some(app) = self.hosts[host].apps.get_mut(endpoint) else { return };
        let healthy = app.answers();
        app.failures = if healthy { 0 } else { app.failures + 1 };
        if healthy || app.failures >= FALL {
            self.step(host, |node, now| node.handle_health(now, endpoint, healthy));
        }
    }

    pub(super) fn run_hook(&mut self, host: usize, endpoint: EndpointId, order: u64) {
        let slow = self.rng.random_bool(0.1);
        let longest = if slow || self.slow_hooks { 3 * S } else { 600 * MS };
        let long = self.rng.random_range(20 * MS..longest);
        let long = self.hook_time.unwrap_or(long);
        let ok = !self.rng.random_bool(self.hook_failure);
        let epoch = self.hosts[host].epoch;
        let Some(app) = self.hosts[host].apps.get_mut(&endpoint) else { return };
        app.hook = Some(order);
        // Called before it was stopped, it goes on.
        app.stop = None;
        self.after(long, What::Hook { host, endpoint, epoch, order, ok });
    }

    /// The end of a hook that was broken off is told all the same: it may have been on its way already.
    pub(super) fn hook_ended(&mut self, host: usize, endpoint: &EndpointId, order: u64, ok: bool) {
        if self.hosts[host].life == Life::Paused {
            let (epoch, endpoint) = (self.hosts[host].epoch, endpoint.clone());
            self.after(50 * MS, What::Hook { host, endpoint, epoch, order, ok });
            return;
        }
        let Some(app) = self.hosts[host].apps.get_mut(endpoint) else { return };
        if app.hook == Some(order) {
            app.hook = None;
            app.activated = ok && app.up;
            self.stats.hooks_failed += u64::from(!ok);
        }
        let failed = HookFailed::Once("the hook failed".to_owned());
        let result = if ok { Ok(()) } else { Err(failed) };
        self.step(host, |node, now| node.handle_hook(now, endpoint, order, result));
    }

    /// Breaks an activation off, and stops the application: at once, or when its callers have heard of it. No
    /// request takes longer here.
    pub(super) fn deactivate(&mut self, host: usize, endpoint: EndpointId, when: Stop) {
        let (epoch, stop) = (self.hosts[host].epoch, self.fresh());
        let Some(app) = self.hosts[host].apps.get_mut(&endpoint) else { return };
        app.hook = None;
        match when {
            Stop::Now => {
                app.stop = None;
                app.activated = false;
            }
            Stop::Idle => {
                app.stop = Some(stop);
                self.after(GRACE, What::Stop { host, endpoint, epoch, stop });
            }
        }
    }

    pub(super) fn stop_due(&mut self, host: usize, endpoint: &EndpointId, stop: u64) {
        if self.hosts[host].life == Life::Paused {
            let (epoch, endpoint) = (self.hosts[host].epoch, endpoint.clone());
            self.after(50 * MS, What::Stop { host, endpoint, epoch, stop });
            return;
        }
        let app = self.hosts[host].apps.get_mut(endpoint);
        if let Some(app) = app.filter(|app| app.stop == Some(stop)) {
            app.stop = None;
            app.activated = false;
        }
    }
}
