//! What starts or ends attempts beside those that run: peers that fall silent, and hedges.

use std::time::{Duration, Instant};

use hearth_proto::policy::Hedge;

use super::super::attempt::{Fault, FaultKind, Target};
use super::super::safety::Reach;
use super::{LOOK_AGAIN, Payer, Race, Standing, Won};
use crate::link::LinkHealth;

/// What must not be repeated waits so long for a silent peer: a path that flaps comes back within it, with
/// the answer; the members' verdict on a host that is gone takes longer.
const LOST_AFTER: Duration = Duration::from_millis(1500);

impl Race<'_> {
    /// Learns when the peer of attempt `n` falls silent.
    pub(super) fn watch(&mut self, n: usize, target: &Target) {
        let mut health = self.inner.mesh.links.health(&target.id.node);
        // What is silent already was picked for want of better; only a change is news.
        health.mark_unchanged();
        self.silences.push(Box::pin(async move {
            loop {
                if health.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                if *health.borrow_and_update() == LinkHealth::Silent {
                    return n;
                }
            }
        }));
    }

    pub(super) fn arm_hedge(&mut self, now: Instant) {
        let delay = match self.policy.hedge {
            Hedge::Off => None,
            Hedge::After(span) => Some(span.0),
            Hedge::Auto => Some(self.learnt.latencies.hedge_delay(now)),
        };
        self.hedge_at = delay.filter(|_| self.may_resend(Reach::Unknown)).map(|d| now + d);
    }

    /// The peer of a running attempt fell silent: the attempt goes on, and so does the request, elsewhere.
    pub(super) fn fell_silent(&mut self, n: usize) -> Option<Won> {
        let running = matches!(self.tries[n].standing, Standing::Running);
        self.tries[n].silent = true;
        if !running || self.hopeful() {
            return None;
        }
        if !self.may_resend(Reach::Unknown) {
            self.doomed = Some((n, Instant::now() + LOST_AFTER));
            return None;
        }
        self.extra += 1;
        let failure = self.launch("silent", Payer::Loss)?;
        if self.running() { None } else { Some(self.give_up(failure)) }
    }

    /// The peer of an attempt that must not be repeated has been silent for long: the client is told, for
    /// nobody can say whether the request was executed.
    pub(super) fn doom(&mut self) -> Option<Won> {
        let (n, _) = self.doomed.take()?;
        let target = self.tries[n].target.clone();
        if self.hopeful() {
            return None;
        }
        if *self.inner.mesh.links.health(&target.id.node).borrow() == LinkHealth::Up {
            // It came back, and so may the answer; it may fall silent again, too.
            self.tries[n].silent = false;
            self.watch(n, &target);
            return None;
        }
        let why = format!("the link to {} fell silent for {LOST_AFTER:?}", target.id.node);
        self.last = Some((target, Fault::unknown(FaultKind::Silent, why)));
        let failure = self.broken("its host was lost with it");
        Some(self.give_up(failure))
    }

    pub(super) fn hedge(&mut self) -> Option<Won> {
        let now = Instant::now();
        self.hedge_at = None;
        if !self.may_resend(Reach::Unknown) || self.want.is_some() {
            return None;
        }
        let route = self.inner.route(self.service)?;
        let (exclude, _) = self.excluded(now);
        let loads = &self.inner.loads;
        let decision = route.pick(rand::random(), &exclude, |id| loads.cost(id, now));
        let Some(candidate) = decision.pick else {
            // Nobody else to ask; a change of routes will be seen when the hedge is due again.
            self.hedge_at = Some(now + LOOK_AGAIN);
            return None;
        };
        if !self.learnt.hedges.withdraw(now) {
            self.arm_hedge(now);
            return None;
        }
        self.extra += 1;
        let target = Target::of(candidate);
        self.start(target, "hedge", now);
        None
    }
}
