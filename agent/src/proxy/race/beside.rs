//! What starts or ends attempts beside those that run: peers that fall silent, and hedges.

use std::time::{Duration, Instant};

use hearth_proto::evidence::{self, Why};
use hearth_proto::ids::EndpointId;
use hearth_proto::policy::Hedge;
use hearth_proto::route::Route;
use tokio::sync::watch;

use super::super::attempt::{Fault, FaultKind, Target};
use super::super::safety::Reach;
use super::{BESIDE, LOOK_AGAIN, Payer, Race, Standing, Turn, Won};
use crate::link::LinkHealth;

/// A hedge that was not granted is asked for again so soon: an ejection, which frees it, may come any moment.
const HEDGE_WAIT: Duration = Duration::from_millis(10);
/// After so many times the delay a hedge is overdue.
const OVERDUE: u32 = 2;

impl Race<'_> {
    /// Learns how it stands with the peer of attempt `n` from now on.
    pub(super) fn watch(&mut self, n: usize, target: &Target) {
        // What is silent already was picked for want of better; only a change is news.
        let known = *target.health(self.inner).borrow();
        self.follow(n, known, target);
    }

    /// Learns when it no longer stands as is known with the peer of attempt `n`.
    pub(super) fn follow(&mut self, n: usize, known: LinkHealth, target: &Target) {
        self.await_turn(n, known, target.health(self.inner));
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
        if !running || self.hopeful() {
            return None;
        }
        let payer = if self.was_sent_into_silence(n) && self.may_repeat(Reach::Unknown) {
            Payer::Nobody
        } else if self.may_resend(Reach::Unknown) {
            self.extra += 1;
            Payer::Loss
        } else {
            return None;
        };
        let failure = self.launch(BESIDE, payer)?;
        if self.running() { None } else { Some(self.give_up(failure)) }
    }

    /// Whether attempt `n` was sent when its host answered nobody any more. What goes through a relay was sent
    /// because it answers there, however our own link to it stands.
    fn was_sent_into_silence(&self, n: usize) -> bool {
        let t = &self.tries[n];
        if t.target.via.is_some() {
            return false;
        }
        let since = self.inner.mesh.links.silent_since(&t.target.id.node);
        since.is_some_and(|since| since <= t.started)
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

    /// Whether the budgets grant a hedge. One that is long overdue is as good as a retry.
    fn may_hedge(&self, now: Instant) -> bool {
        let last = self.tries.iter().map(|t| t.started).max();
        let waited = last.map_or(Duration::ZERO, |t| now.saturating_duration_since(t));
        let overdue = || waited >= self.learnt.latencies.recent_hedge_delay(now) * OVERDUE;
        self.learnt.hedges.withdraw(now) || overdue() && self.learnt.retries.withdraw(now)
    }

    /// Whether all that runs waits for endpoints that were ejected: what is under way there is as much as one
    /// moment had, and no more is sent after it.
    fn is_caught(&self, route: &Route) -> bool {
        let ejected = |id: &EndpointId| {
            let candidate = route.candidates.iter().find(|c| c.id == *id);
            candidate
                .is_some_and(|c| matches!(c.standing, evidence::Standing::Out(Why::Ejected { .. })))
        };
        let mut running =
            self.tries.iter().filter(|t| matches!(t.standing, Standing::Running)).peekable();
        running.peek().is_some() && running.all(|t| ejected(&t.target.id))
    }

    pub(super) fn hedge(&mut self) -> Option<Won> {
        let now = Instant::now();
        self.hedge_at = None;
        if !self.may_resend(Reach::Unknown) || self.want.is_some() {
            return None;
        }
        let route = self.inner.route(self.service)?;
        let (exclude, _) = self.excluded(&route, now);
        let loads = &self.inner.loads;
        let draw = self.learnt.draw(&route.policy, self.request.session);
        let decision = route.pick(draw, &exclude, |id, what| loads.measure(id, what, now));
        let Some(candidate) = decision.pick else {
            // Nobody else to ask; a change of routes will be seen when the hedge is due again.
            self.hedge_at = Some(now + LOOK_AGAIN);
            return None;
        };
        let caught = self.is_caught(&route);
        let free = caught && !std::mem::replace(&mut self.spared, true);
        if !free && !self.may_hedge(now) {
            self.hedge_at = Some(now + HEDGE_WAIT);
            return None;
        }
        self.extra += 1;
        let target = Target::of(candidate);
        self.start(target, "hedge", now);
        None
    }
}
