//! What starts or ends attempts beside those that run: peers that fall silent, and hedges.

use std::time::Instant;

use hearth_proto::policy::Hedge;
use tokio::sync::watch;

use super::super::attempt::{Fault, FaultKind, Target};
use super::super::safety::Reach;
use super::{LOOK_AGAIN, Payer, Race, Standing, Turn, Won};
use crate::link::LinkHealth;

impl Race<'_> {
    /// Learns how it stands with the peer of attempt `n` from now on.
    pub(super) fn watch(&mut self, n: usize, target: &Target) {
        // What is silent already was picked for want of better; only a change is news.
        let known = *self.inner.mesh.links.health(&target.id.node).borrow();
        self.follow(n, known, target);
    }

    /// Learns when it no longer stands as is known with the peer of attempt `n`.
    pub(super) fn follow(&mut self, n: usize, known: LinkHealth, target: &Target) {
        self.await_turn(n, known, self.inner.mesh.links.health(&target.id.node));
    }

    fn await_turn(&mut self, n: usize, known: LinkHealth, mut health: watch::Receiver<LinkHealth>) {
        self.turns.push(Box::pin(async move {
            let turned = health.wait_for(|h| *h != known).await.map(|h| *h);
            match turned {
                Ok(now) => (n, now, health),
                Err(_) => std::future::pending().await,
            }
        }));
    }

    /// It stands otherwise with the peer of an attempt.
    pub(super) fn turned(&mut self, (n, now, health): Turn) -> Option<Won> {
        self.await_turn(n, now, health);
        match now {
            LinkHealth::Silent => self.fell_silent(n),
            // A short silence may have been confirmed before anybody looked.
            LinkHealth::Lost if !self.tries[n].doubtful => {
                self.fell_silent(n).or_else(|| self.lost(n))
            }
            LinkHealth::Lost => self.lost(n),
            LinkHealth::Up => {
                self.tries[n].doubtful = false;
                None
            }
            // What was under way there breaks by itself.
            LinkHealth::Down => None,
        }
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
        (self.tries[n].silent, self.tries[n].doubtful) = (true, true);
        if !running || self.hopeful() || !self.may_resend(Reach::Unknown) {
            return None;
        }
        self.extra += 1;
        let failure = self.launch("silent", Payer::Loss)?;
        if self.running() { None } else { Some(self.give_up(failure)) }
    }

    /// The silence of the peer of attempt `n` is confirmed. Where the request may not be sent elsewhere, the
    /// client is told now: nobody can say whether it was executed, and nobody will soon.
    fn lost(&mut self, n: usize) -> Option<Won> {
        let running = matches!(self.tries[n].standing, Standing::Running);
        let target = self.tries[n].target.clone();
        // What was sent there for want of better has nothing better to wait for.
        if !running || target.silent || self.hopeful() || self.want.is_some() {
            return None;
        }
        if self.may_resend(Reach::Unknown) {
            return None;
        }
        let why = format!(
            "the connection to {} was lost while the request was in flight: it may or may not have been \
             executed",
            target.id.node
        );
        self.last = Some((target, Fault::unknown(FaultKind::Silent, why)));
        Some(self.unrepeated())
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
        let draw = self.learnt.draw(&route.policy, self.request.session);
        let decision = route.pick(draw, &exclude, |id, what| loads.measure(id, what, now));
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
