//! From a prepared request to one answer: attempts one after the other and side by side, until the first
//! usable head.
//!
//! What starts a further attempt, and who pays for it:
//!
//! | what happened | may be sent again | paid by |
//! |---|---|---|
//! | nothing reached the application (dial failed, refused) | anything whose body is at hand | retry budget |
//! | the attempt broke | safe requests | retry budget and the policy's `retries` |
//! | the peer fell silent | safe requests; the first attempt keeps racing | the same |
//! | 503 with Retry-After | safe requests; the answer is kept, should there be no better | the same |
//! | no answer within the hedge delay | safe requests | hedge budget and `retries` |
//!
//! When nobody is left to pick the request is held until the routes change or somebody may be tried
//! again, bounded in time and number; the core is told, so that it wakes whom it can. A budget that is
//! used up delays a retry, it never fails a request by itself.

mod told;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use hearth_proto::evidence::Outcome;
use hearth_proto::ids::{EndpointId, ServiceName};
use hearth_proto::policy::{Hedge, ServicePolicy};
use hearth_proto::route::{Choice, Route};
use http::header::RETRY_AFTER;
use tokio::sync::{SemaphorePermit, watch};
use tokio::time::sleep_until;

use super::Inner;
use super::answer::Failure;
use super::attempt::{Answer, Fault, FaultKind, Prepared, Sent, Target, attempt};
use super::frame::Cause;
use super::learnt::Learnt;
use super::load::{Load, UnderWay};
use super::safety::{Reach, may_resend};
use crate::link::LinkHealth;

/// An endpoint that failed a request is not tried again for that request before this, then twice that.
const SPACING: Duration = Duration::from_millis(100);
/// A held request looks again at least so often.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// A used-up budget is asked again so soon.
const BUDGET_WAIT: Duration = Duration::from_millis(50);
/// A request is held for an activation at most so long.
const HOLD_WAKE: Duration = Duration::from_secs(10);
/// … and so long when nobody is even called up: a failover may be about to begin.
const HOLD_NOBODY: Duration = Duration::from_secs(3);

/// How an attempt stands.
enum Standing {
    Running,
    Ended { at: Instant },
}

struct Try {
    target: Target,
    load: Arc<Load>,
    started: Instant,
    standing: Standing,
    /// Its peer fell silent meanwhile.
    silent: bool,
}

/// A further attempt is wanted and could not be started yet.
struct Want {
    reason: &'static str,
    /// The endpoint that is being waited for may be tried at this moment.
    again: Instant,
    /// Until when the request is held.
    until: Instant,
}

/// A first attempt that was made outside of the race, and why it is handed over.
pub(crate) struct First {
    pub(crate) target: Target,
    pub(crate) load: Arc<Load>,
    pub(crate) started: Instant,
    /// Why this endpoint was picked.
    pub(crate) decision: &'static str,
    pub(crate) news: News,
}

/// What happened to a first attempt.
pub(crate) enum News {
    /// It has ended; not with an answer that could be passed on as it is.
    Ended(Result<Answer, Fault>),
    /// Its peer fell silent.
    Silent(Sent),
    /// The delay is over after which a request may be hedged.
    Late(Sent),
}

type Ended = (usize, Result<Answer, Fault>);

/// The race for one request.
pub(crate) struct Race<'a> {
    inner: &'a Arc<Inner>,
    request: &'a Arc<Prepared>,
    service: &'a ServiceName,
    policy: ServicePolicy,
    learnt: Arc<Learnt>,
    started: Instant,
    deadline: Instant,
    changed: watch::Receiver<u64>,
    attempts: FuturesUnordered<BoxFuture<'static, Ended>>,
    silences: FuturesUnordered<BoxFuture<'static, usize>>,
    tries: Vec<Try>,
    /// Further attempts of a request that may have reached an application.
    extra: u32,
    hedge_at: Option<Instant>,
    want: Option<Want>,
    held: Option<SemaphorePermit<'a>>,
    fallback: Option<Answer>,
    last: Option<(Target, Fault)>,
    /// An agent could not make sense of it.
    malformed: bool,
    /// Why the last pick was made, or could not be.
    decision: String,
}

/// What the race ended with.
pub(crate) type Won = Result<Answer, Failure>;

impl<'a> Race<'a> {
    pub(crate) fn new(
        inner: &'a Arc<Inner>,
        request: &'a Arc<Prepared>,
        service: &'a ServiceName,
        started: Instant,
    ) -> Self {
        let mut changed = inner.mesh.changed.clone();
        changed.mark_unchanged();
        let policy = inner.route(service).map(|r| r.policy.clone()).unwrap_or_default();
        Self {
            inner,
            request,
            service,
            learnt: inner.learnt(service, started),
            started,
            deadline: started + policy.timeout.0,
            policy,
            changed,
            attempts: FuturesUnordered::new(),
            silences: FuturesUnordered::new(),
            tries: Vec::new(),
            extra: 0,
            hedge_at: None,
            want: None,
            held: None,
            fallback: None,
            last: None,
            malformed: false,
            decision: String::new(),
        }
    }

    /// Runs to the first usable answer, or to the failure that is to be told.
    pub(crate) async fn run(mut self) -> Won {
        self.learnt.retries.deposit(self.started);
        self.learnt.hedges.deposit(self.started);
        if let Some(failure) = self.launch("first") {
            return Err(failure);
        }
        self.finish().await
    }

    /// Goes on where a first attempt, made outside, did not bring an answer at once.
    pub(crate) async fn take_over(mut self, first: First) -> Won {
        let now = Instant::now();
        self.decision = first.decision.into();
        self.tries.push(Try {
            target: first.target.clone(),
            load: first.load,
            started: first.started,
            standing: Standing::Running,
            silent: false,
        });
        let outcome = match first.news {
            News::Ended(ended) => self.ended(0, ended),
            News::Silent(sent) => {
                self.run_on(sent);
                self.arm_hedge(now);
                self.fell_silent(0)
            }
            News::Late(sent) => {
                self.run_on(sent);
                self.watch(0, &first.target);
                self.hedge()
            }
        };
        match outcome {
            Some(won) => won,
            None => self.finish().await,
        }
    }

    fn run_on(&mut self, sent: Sent) {
        let request = self.request.clone();
        self.attempts.push(Box::pin(async move { (0, sent.answer(&request).await) }));
    }

    async fn finish(mut self) -> Won {
        loop {
            let far = self.deadline + Duration::from_secs(1);
            let hedge_at = self.hedge_at.unwrap_or(far);
            let again = self.want.as_ref().map_or(far, |w| w.again);
            let outcome = tokio::select! {
                biased;
                Some((n, end)) = self.attempts.next() => self.ended(n, end),
                Some(n) = self.silences.next() => self.fell_silent(n),
                Ok(()) = self.changed.changed(), if self.want.is_some() => self.want_again(),
                () = sleep_until(again.into()), if self.want.is_some() => self.want_again(),
                () = sleep_until(hedge_at.into()), if self.hedge_at.is_some() => self.hedge(),
                () = sleep_until(self.deadline.into()) => Some(Err(self.too_late())),
            };
            if let Some(won) = outcome {
                return won;
            }
        }
    }

    fn running(&self) -> bool {
        self.tries.iter().any(|t| matches!(t.standing, Standing::Running))
    }

    /// Whether an attempt is running that may well answer.
    fn hopeful(&self) -> bool {
        self.tries.iter().any(|t| matches!(t.standing, Standing::Running) && !t.silent)
    }

    /// Whether a further attempt is allowed after the ones there were got that far.
    fn may_resend(&self, reach: Reach) -> bool {
        let within = reach == Reach::NotExecuted || self.extra < u32::from(self.policy.retries);
        let repeatable = self.request.is_repeatable();
        within && may_resend(repeatable, self.request.supply.at_hand(), reach)
    }

    /// Starts an attempt at the best endpoint, or notes that one is wanted. `Some`: neither makes sense.
    fn launch(&mut self, reason: &'static str) -> Option<Failure> {
        let now = Instant::now();
        let first = self.tries.is_empty();
        let Some(route) = self.inner.route(self.service) else {
            self.decision = "no agent is known to offer it".into();
            return self.nobody();
        };
        let (exclude, again) = self.excluded(now);
        let loads = &self.inner.loads;
        let decision = route.pick(rand::random(), &exclude, |id| loads.cost(id, now));
        let Some(candidate) = decision.pick else {
            self.decision = format!("{}; {}", route.reason, decision.reason);
            return self.hold(&route, reason, again, now);
        };
        self.decision = format!("{}; {}", route.reason, decision.reason);
        if !first && !self.learnt.retries.withdraw(now) {
            self.decision = "the retry budget is used up for the moment".into();
            self.wish(reason, now + BUDGET_WAIT, self.deadline);
            return None;
        }
        let target = Target::of(candidate);
        self.start(target, reason, now);
        None
    }

    fn start(&mut self, target: Target, reason: &'static str, now: Instant) {
        if !self.tries.is_empty() {
            self.inner.metrics.retry(self.service, reason);
            tracing::debug!(service = %self.service, endpoint = %target.id, reason, "sent again");
        }
        (self.want, self.held) = (None, None);
        let n = self.tries.len();
        let load = self.inner.loads.of(&target.id);
        let run = attempt(
            self.inner.clone(),
            self.request.clone(),
            target.clone(),
            self.deadline,
            UnderWay::new(&load),
        );
        self.attempts.push(Box::pin(async move { (n, run.await) }));
        self.watch(n, &target);
        self.tries.push(Try {
            target,
            load,
            started: now,
            standing: Standing::Running,
            silent: false,
        });
        self.arm_hedge(now);
    }

    /// Learns when the peer of attempt `n` falls silent.
    fn watch(&mut self, n: usize, target: &Target) {
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

    fn arm_hedge(&mut self, now: Instant) {
        let delay = match self.policy.hedge {
            Hedge::Off => None,
            Hedge::After(span) => Some(span.0),
            Hedge::Auto => Some(self.learnt.latencies.hedge_delay(now)),
        };
        self.hedge_at = delay.filter(|_| self.may_resend(Reach::Unknown)).map(|d| now + d);
    }

    /// Endpoints not to be picked now, and when the first of them may be tried again.
    fn excluded(&self, now: Instant) -> (Vec<EndpointId>, Instant) {
        let mut again = now + LOOK_AGAIN;
        let mut exclude: Vec<EndpointId> = Vec::new();
        for t in &self.tries {
            let id = &t.target.id;
            let barred = match t.standing {
                Standing::Running => true,
                Standing::Ended { at } => {
                    let failures = self.failures(id).min(4);
                    let free = at + SPACING * (1 << (failures - 1));
                    if free > now {
                        again = again.min(free);
                    }
                    free > now
                }
            };
            if barred && !exclude.contains(id) {
                exclude.push(id.clone());
            }
        }
        (exclude, again)
    }

    fn failures(&self, id: &EndpointId) -> u32 {
        let failed = |t: &&Try| matches!(t.standing, Standing::Ended { .. }) && &t.target.id == id;
        u32::try_from(self.tries.iter().filter(failed).count()).unwrap_or(u32::MAX)
    }

    /// Nobody can be picked now: hold the request while that may change.
    fn hold(
        &mut self,
        route: &Route,
        reason: &'static str,
        again: Instant,
        now: Instant,
    ) -> Option<Failure> {
        // A kept answer beats waiting for a better one.
        if self.fallback.is_some() && !self.running() {
            return self.nobody();
        }
        let limit = match route.choice {
            Choice::Wake(_) => HOLD_WAKE,
            Choice::Serve(_) | Choice::Panic(_) => self.policy.timeout.0,
            Choice::Nobody if route.candidates.is_empty() => Duration::ZERO,
            Choice::Nobody => HOLD_NOBODY,
        };
        let until = match &self.want {
            // The limit counts from the beginning of the wait, the most patient reason counts.
            Some(want) => want.until.max(self.started + limit),
            None => now + limit,
        };
        if now >= until && !self.running() {
            return self.nobody();
        }
        if self.held.is_none() {
            match self.inner.held.try_acquire() {
                Ok(permit) => self.held = Some(permit),
                Err(_) if self.running() => return None,
                Err(_) => {
                    return Some(Failure::Overloaded { service: self.service.to_string() });
                }
            }
        }
        self.inner.need_wake(self.service, now);
        self.wish(reason, again, until.min(self.deadline));
        None
    }

    fn wish(&mut self, reason: &'static str, again: Instant, until: Instant) {
        self.want = Some(Want { reason, again, until });
    }

    fn want_again(&mut self) -> Option<Won> {
        let reason = self.want.as_ref().map_or("held", |w| w.reason);
        // `want` stays, so that a further wait counts from the beginning of this one.
        self.launch(reason).map(|failure| self.give_up(failure))
    }

    fn give_up(&mut self, failure: Failure) -> Won {
        match self.fallback.take() {
            Some(answer) => Ok(answer),
            None => Err(failure),
        }
    }

    fn ended(&mut self, n: usize, end: Result<Answer, Fault>) -> Option<Won> {
        let now = Instant::now();
        match end {
            Ok(answer) => self.answered(n, answer, now),
            Err(fault) => self.failed(n, fault, now),
        }
    }

    fn answered(&mut self, n: usize, answer: Answer, now: Instant) -> Option<Won> {
        let latency = now.saturating_duration_since(answer.since);
        let gateway_error = matches!(answer.status.as_u16(), 502..=504);
        self.tries[n].load.observe(now, latency);
        self.learnt.latencies.observe(now, latency);
        if gateway_error {
            self.report(n, Outcome::ServerError);
        } else {
            self.succeeded(n, latency);
        }
        let busy = answer.status.as_u16() == 503 && answer.headers.contains_key(RETRY_AFTER);
        self.tries[n].standing = Standing::Ended { at: now };
        if busy && self.may_resend(Reach::Unknown) {
            self.fallback = Some(answer);
            self.extra += 1;
            let failure = self.launch("unavailable")?;
            return Some(self.give_up(failure));
        }
        Some(Ok(answer))
    }

    fn succeeded(&self, n: usize, latency: Duration) {
        let t = &self.tries[n];
        let watched = self.inner.route(self.service).is_some_and(|r| r.watched);
        if t.load.recovered() || watched {
            self.inner.report(&t.target.id, Outcome::Answered { latency });
        }
    }

    fn report(&self, n: usize, outcome: Outcome) {
        let t = &self.tries[n];
        t.load.failed();
        self.inner.report(&t.target.id, outcome);
    }

    fn failed(&mut self, n: usize, fault: Fault, now: Instant) -> Option<Won> {
        let (target, waited) =
            (self.tries[n].target.clone(), now.saturating_duration_since(self.tries[n].started));
        tracing::debug!(service = %self.service, endpoint = %target.id, fault = fault.kind.word(),
            detail = fault.detail, "attempt failed");
        self.tries[n].standing = Standing::Ended { at: now };
        if let Some(why) = self.request.supply.broken() {
            // Says nothing about the endpoint.
            return Some(Err(Failure::BadRequest(format!("its body broke off: {why}"))));
        }
        if !self.tries[n].silent && fault.kind != FaultKind::Silent {
            self.tries[n].load.observe(now, waited);
        }
        match (fault.reach, fault.kind) {
            // Nothing was sent; the links tell of it.
            (_, FaultKind::Silent) => {}
            // The links tell of a silent node; its endpoint may be well.
            (_, FaultKind::Dial | FaultKind::Cut) if self.tries[n].silent => {}
            // Says nothing about the endpoint: it does not serve, or is full.
            (_, FaultKind::Owner(Cause::NotServing | Cause::NotOurs | Cause::Busy)) => {}
            (_, FaultKind::Owner(Cause::Denied | Cause::Malformed) | FaultKind::Lapsed) => {}
            (_, FaultKind::Owner(Cause::AppSilent)) => self.report(n, Outcome::TimedOut),
            (Reach::NotExecuted, _) => self.report(n, Outcome::Refused),
            (Reach::Unknown, _) => self.report(n, Outcome::Broken),
        }
        if let FaultKind::Owner(Cause::Denied) = fault.kind {
            return Some(Err(Failure::Denied { hop: target.id.to_string(), why: fault.detail }));
        }
        if let FaultKind::Owner(Cause::Malformed) = fault.kind {
            // One agent may be of another version; two agree that it is the request.
            if std::mem::replace(&mut self.malformed, true) {
                return Some(Err(Failure::BadRequest(fault.detail)));
            }
        }
        let reason = fault.kind.word();
        let reach = fault.reach;
        self.last = Some((target, fault));
        if !self.may_resend(reach) {
            return if self.running() { None } else { Some(Err(self.broken())) };
        }
        if reach == Reach::Unknown {
            self.extra += 1;
        }
        // A request that is sent elsewhere already has what it needs.
        if self.hopeful() {
            return None;
        }
        let failure = self.launch(reason)?;
        Some(self.give_up(failure))
    }

    /// The peer of a running attempt fell silent: the attempt goes on, and so does the request, elsewhere.
    fn fell_silent(&mut self, n: usize) -> Option<Won> {
        let running = matches!(self.tries[n].standing, Standing::Running);
        self.tries[n].silent = true;
        if !running || self.hopeful() || !self.may_resend(Reach::Unknown) {
            return None;
        }
        self.extra += 1;
        let failure = self.launch("silent")?;
        if self.running() { None } else { Some(self.give_up(failure)) }
    }

    fn hedge(&mut self) -> Option<Won> {
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

impl Drop for Race<'_> {
    /// Whoever let a request wait far beyond the usual is told on, whether the race was won elsewhere, the
    /// time was over or the client left.
    fn drop(&mut self) {
        let now = Instant::now();
        for n in 0..self.tries.len() {
            let t = &self.tries[n];
            let waited = now.saturating_duration_since(t.started);
            // A silent link is the node's affair, and the links' to tell: not held against the endpoint.
            if matches!(t.standing, Standing::Running)
                && !t.silent
                && waited >= self.learnt.latencies.hedge_delay(now)
            {
                t.load.observe(now, waited);
                self.report(n, Outcome::TimedOut);
            }
        }
    }
}
