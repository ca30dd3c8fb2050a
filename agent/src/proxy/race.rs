//! From a prepared request to one answer: attempts one after the other and side by side, until the first
//! usable head.
//!
//! What starts a further attempt, and who pays for it:
//!
//! | what happened | may be sent again | paid by |
//! |---|---|---|
//! | nothing reached the application (dial failed, refused) | anything whose body is at hand | the moves' budget |
//! | the attempt broke | safe requests | retry budget and the policy's `retries` |
//! | … since its host was lost, or its lease ended | the same | once nobody, then the same |
//! | the peer fell silent | safe requests; the first attempt keeps racing | once nobody, then the same |
//! | … and had been before the attempt was sent | the same, and it does not count | nobody |
//! | its silence was confirmed | nothing: the client is told that the request may have been executed | |
//! | 503 with Retry-After, or what `retry_on` names | safe requests; the answer is kept, should there be no better | the same |
//! | no answer within the hedge delay | safe requests | hedge budget and `retries` |
//! | … of an endpoint that was ejected meanwhile | the same | once nobody, then the same |
//!
//! When nobody is left to pick the request is held until the routes change or somebody may be tried
//! again, bounded in time and number; the core is told, so that it wakes whom it can. What did not reach an
//! application may wait for its budget, unless every endpoint turned it away for having too much to do: they
//! had it wait already, and who waits on joins those that come after. What may have is not repeated when the budget is used up, for an
//! application that fails half of what it is asked must not be asked twice as much. The loss of a host
//! costs each request that was under way there one repetition: they are as many as one moment had, however
//! long the host stays away, and no budget need cover them. What is sent after its host fell silent can neither be
//! what it died of nor burden its application: such attempts are free, so that a request outlives the loss of
//! several hosts at once. While all attempts that run are silent, every change of the routes is looked at.

mod beside;
mod outcome;
mod overtaken;
mod told;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use hearth_proto::ids::{EndpointId, ServiceName};
use hearth_proto::policy::{Patience, ServicePolicy};
use hearth_proto::route::{Choice, Route};
use tokio::sync::{SemaphorePermit, watch};
use tokio::time::{sleep_until, timeout_at};

use super::Inner;
use super::answer::Failure;
use super::attempt::{Answer, Fault, Prepared, Sent, Target, attempt};
use super::learnt::Learnt;
use super::load::{Load, UnderWay};
use super::pulse::Waits;
use super::safety::{Reach, may_resend};
use crate::link::LinkHealth;

/// An endpoint that failed a request is not tried again for that request before this, then twice that.
const SPACING: Duration = Duration::from_millis(100);
/// A held request looks again at least so often.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How much later than a try's time its owner's word on it may come.
const WORD: Duration = Duration::from_millis(20);
/// A used-up budget is asked again so soon.
const BUDGET_WAIT: Duration = Duration::from_millis(50);
/// A request is held for an activation at most so long.
const HOLD_WAKE: Duration = hearth_proto::lint::CALLER_HOLD;
/// … and so long when nobody is even called up: a failover may be about to begin.
const HOLD_NOBODY: Duration = Duration::from_secs(3);

/// Why a request is sent beside attempts that run: their peers are silent.
const BESIDE: &str = "silent";

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
    /// It still is.
    doubtful: bool,
}

/// Who pays for a further attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Payer {
    /// The first attempt is what was asked for.
    Nobody,
    /// Nothing of the request reached an application.
    Moves,
    /// It may have.
    Retries,
    /// Its host was lost: once nobody, then as [`Payer::Retries`].
    Loss,
}

/// A further attempt is wanted and could not be started yet.
struct Want {
    reason: &'static str,
    payer: Payer,
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
/// How it stands with the peer of an attempt from now on, and what tells of the next turn.
type Turn = (usize, LinkHealth, watch::Receiver<LinkHealth>);

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
    turns: FuturesUnordered<BoxFuture<'static, Turn>>,
    tries: Vec<Try>,
    /// Further attempts of a request that may have reached an application.
    extra: u32,
    /// The loss of a host was made good once.
    spared: bool,
    hedge_at: Option<Instant>,
    want: Option<Want>,
    held: Option<SemaphorePermit<'a>>,
    fallback: Option<Answer>,
    last: Option<(Target, Fault)>,
    /// An agent could not make sense of it.
    malformed: bool,
    /// Why the last pick was made, or could not be.
    decision: String,
    _waits: Waits<'a>,
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
            deadline: request
                .due
                .map_or(started + policy.timeout.0, |due| due.min(started + policy.timeout.0)),
            policy,
            changed,
            attempts: FuturesUnordered::new(),
            turns: FuturesUnordered::new(),
            tries: Vec::new(),
            extra: 0,
            spared: false,
            hedge_at: None,
            want: None,
            held: None,
            fallback: None,
            last: None,
            malformed: false,
            decision: String::new(),
            _waits: inner.pulses.waits(),
        }
    }

    /// Runs to the first usable answer, or to the failure that is to be told.
    pub(crate) async fn run(mut self) -> Won {
        self.learnt.deposit(self.request.is_repeatable());
        if let Some(failure) = self.launch("first", Payer::Nobody) {
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
            doubtful: false,
        });
        let outcome = match first.news {
            News::Ended(ended) => self.ended(0, ended),
            News::Silent(sent) => {
                self.run_on(sent);
                self.arm_hedge(now);
                self.follow(0, LinkHealth::Silent, &first.target);
                self.fell_silent(0)
            }
            News::Late(sent) => {
                self.run_on(sent);
                self.watch(0, &first.target);
                self.hedge()
            }
        };
        match outcome {
            Some(won) => self.settle(won),
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
                Some(turn) = self.turns.next() => self.turned(turn),
                Ok(()) = self.changed.changed(), if self.want.is_some() => self.want_again(),
                () = sleep_until(again.into()), if self.want.is_some() => self.want_again(),
                () = sleep_until(hedge_at.into()), if self.hedge_at.is_some() => self.hedge(),
                () = sleep_until(self.deadline.into()) => {
                    let failure = self.too_late();
                    Some(self.give_up(failure))
                }
            };
            if let Some(won) = outcome {
                return self.settle(won);
            }
        }
    }

    fn settle(&mut self, won: Won) -> Won {
        if won.is_ok() {
            self.hear_out();
        }
        won
    }

    fn running(&self) -> bool {
        self.tries.iter().any(|t| matches!(t.standing, Standing::Running))
    }

    /// Whether an attempt is running that may well answer.
    fn hopeful(&self) -> bool {
        self.tries.iter().any(|t| matches!(t.standing, Standing::Running) && !t.doubtful)
    }

    /// Whether a further attempt is allowed after the ones there were got that far.
    fn may_resend(&self, reach: Reach) -> bool {
        let within = reach == Reach::NotExecuted || self.extra < u32::from(self.policy.retries);
        within && self.may_repeat(reach)
    }

    /// The same, however often the request was sent already.
    fn may_repeat(&self, reach: Reach) -> bool {
        may_resend(self.request.is_repeatable(), self.request.supply.at_hand(), reach)
    }

    /// Starts an attempt at the best endpoint, or notes that one is wanted. `Some`: neither makes sense.
    fn launch(&mut self, reason: &'static str, payer: Payer) -> Option<Failure> {
        let now = Instant::now();
        let Some(route) = self.inner.route(self.service) else {
            self.decision = "no agent is known to offer it".into();
            return self.nobody();
        };
        if !self.paid(payer, now) {
            if payer != Payer::Moves {
                return if self.running() {
                    None
                } else {
                    Some(self.broken("its budget is used up"))
                };
            }
            if let Some(failure) = self.shed(&route) {
                return Some(failure);
            }
            self.decision = "the budget for other endpoints is used up for the moment".into();
            self.wish(reason, payer, now + BUDGET_WAIT, self.deadline);
            return None;
        }
        let (exclude, again) = self.excluded(&route, now);
        let loads = &self.inner.loads;
        let draw = self.learnt.draw(&route.policy, self.request.session);
        let decision = route.pick(draw, &exclude, |id, what| loads.measure(id, what, now));
        let Some(candidate) = decision.pick else {
            self.decision = format!("{}; {}", route.reason, decision.reason);
            // It is paid for, whenever it is made.
            return self.hold(&route, reason, Payer::Nobody, again, now);
        };
        self.decision = format!("{}; {}", route.reason, decision.reason);
        // A request that goes elsewhere goes before those that come fresh.
        let attempts = u8::try_from(self.tries.len()).unwrap_or(u8::MAX);
        let target = Target { attempts, ..Target::of(candidate) };
        if target.silent && self.running() {
            // No better than the one that is waited for.
            return self.hold(&route, reason, Payer::Nobody, again, now);
        }
        self.start(target, reason, now);
        None
    }

    fn paid(&mut self, payer: Payer, now: Instant) -> bool {
        match payer {
            Payer::Nobody => true,
            Payer::Loss if !std::mem::replace(&mut self.spared, true) => true,
            Payer::Moves => self.learnt.moves.withdraw(now),
            Payer::Retries | Payer::Loss => self.learnt.retries.withdraw(now),
        }
    }

    fn start(&mut self, target: Target, reason: &'static str, now: Instant) {
        if !self.tries.is_empty() {
            self.inner.metrics.retry(self.service, reason);
            tracing::debug!(service = %self.service, endpoint = %target.id, reason, "sent again");
        }
        (self.want, self.held) = (None, None);
        let n = self.tries.len();
        let load = self.inner.loads.of(&target.id);
        let due = match self.policy.per_try_timeout {
            Patience::For(span) => self.deadline.min(now + span.0),
            Patience::Endless => self.deadline,
        };
        let run = attempt(
            self.inner.clone(),
            self.request.clone(),
            target.clone(),
            due,
            UnderWay::new(&load),
        );
        self.attempts.push(Box::pin(async move {
            // The owner's own word comes first, if it comes.
            match timeout_at((due + WORD).into(), run).await {
                Ok(end) => (n, end),
                Err(_) => (n, Err(Fault::late())),
            }
        }));
        self.watch(n, &target);
        let doubtful = target.silent;
        self.tries.push(Try {
            target,
            load,
            started: now,
            standing: Standing::Running,
            silent: false,
            doubtful,
        });
        self.arm_hedge(now);
        if !self.hopeful() && self.may_repeat(Reach::Unknown) {
            // Whoever is better, by a relay or by itself, is asked at once.
            self.wish(BESIDE, Payer::Nobody, now + LOOK_AGAIN, self.deadline);
        }
    }

    /// Endpoints not to be picked now, and when the first of them may be tried again.
    fn excluded(&self, route: &Route, now: Instant) -> (Vec<EndpointId>, Instant) {
        let mut again = now + LOOK_AGAIN;
        let mut exclude: Vec<EndpointId> = Vec::new();
        for t in &self.tries {
            let id = &t.target.id;
            let barred = match t.standing {
                Standing::Running => !is_rerouted(t, route),
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
        payer: Payer,
        again: Instant,
        now: Instant,
    ) -> Option<Failure> {
        // A kept answer beats waiting for a better one.
        if self.fallback.is_some() && !self.running() {
            return self.nobody();
        }
        if let Some(failure) = self.shed(route) {
            return Some(failure);
        }
        let limit = match route.choice {
            Choice::Wake(_) => HOLD_WAKE,
            Choice::Serve(_) | Choice::Panic(_) | Choice::Relay(_) => self.policy.timeout.0,
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
        self.wish(reason, payer, again, until.min(self.deadline));
        None
    }

    fn wish(&mut self, reason: &'static str, payer: Payer, again: Instant, until: Instant) {
        self.want = Some(Want { reason, payer, again, until });
    }

    fn want_again(&mut self) -> Option<Won> {
        let (reason, payer) =
            self.want.as_ref().map_or(("held", Payer::Retries), |w| (w.reason, w.payer));
        if reason == BESIDE && self.hopeful() {
            // What was silent answers again.
            (self.want, self.held) = (None, None);
            return None;
        }
        // `want` stays, so that a further wait counts from the beginning of this one.
        self.launch(reason, payer).map(|failure| self.give_up(failure))
    }

    fn give_up(&mut self, failure: Failure) -> Won {
        match self.fallback.take() {
            Some(answer) => Ok(answer),
            None => Err(failure),
        }
    }
}

/// Whether another way leads to the endpoint of a running attempt than the one on which it went silent.
fn is_rerouted(t: &Try, route: &Route) -> bool {
    (t.doubtful || t.target.silent)
        && route.candidates.iter().any(|c| c.id == t.target.id && c.via != t.target.via)
}
