//! How an attempt ended, and what follows: what is told of the endpoint, whether the answer is the one, who
//! is asked next.

use std::time::{Duration, Instant};

use hearth_proto::evidence::Outcome;
use hearth_proto::policy::RetryOn;
use http::header::RETRY_AFTER;

use super::super::answer::Failure;
use super::super::attempt::{Answer, Fault, FaultKind};
use super::super::body::observed;
use super::super::frame::Cause;
use super::super::grpc::{self, Pushback};
use super::super::safety::Reach;
use super::{Payer, Race, Standing, Won};

/// What an answer says of who gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It works.
    Well,
    /// It works, but says that something is wrong with it: held against it only if others do better.
    Troubled,
    /// It is a gateway's error: what stands behind the endpoint does not.
    Failing,
    /// gRPC says it in its trailers.
    Open,
}

impl Verdict {
    pub(super) fn of(answer: &Answer) -> Self {
        match (answer.status.as_u16(), grpc::Code::of(&answer.headers)) {
            (502..=504, _) | (_, Some(grpc::Code::UNAVAILABLE)) => Self::Failing,
            (500..=599, _) => Self::Troubled,
            (_, Some(code)) if code.outcome() == "server_error" => Self::Troubled,
            (200, None) if grpc::is_grpc(&answer.headers) => Self::Open,
            _ => Self::Well,
        }
    }
}

impl Race<'_> {
    pub(super) fn ended(&mut self, n: usize, end: Result<Answer, Fault>) -> Option<Won> {
        let now = Instant::now();
        match end {
            Ok(answer) => self.answered(n, answer, now),
            Err(fault) => self.failed(n, fault, now),
        }
    }

    fn answered(&mut self, n: usize, mut answer: Answer, now: Instant) -> Option<Won> {
        let latency = now.saturating_duration_since(answer.since);
        let verdict = Verdict::of(&answer);
        self.tries[n].load.observe(now, latency);
        self.learnt.latencies.observe(now, latency);
        match verdict {
            Verdict::Failing => self.report(n, Outcome::ServerError),
            Verdict::Troubled => {
                self.tries[n].load.count_failure();
                self.succeeded(n, latency);
            }
            Verdict::Well => {
                self.tries[n].load.count(latency);
                self.succeeded(n, latency);
            }
            // What it came to is said at its end.
            Verdict::Open => self.judge_at_end(n, &mut answer, latency),
        }
        self.tries[n].standing = Standing::Ended { at: now };
        let Some(wait) = self.again_after(&answer) else { return Some(Ok(answer)) };
        self.fallback = Some(answer);
        self.extra += 1;
        if wait > Duration::ZERO {
            self.wish("unavailable", Payer::Retries, now + wait, self.deadline);
            return None;
        }
        let failure = self.launch("unavailable", Payer::Retries)?;
        Some(self.give_up(failure))
    }

    /// Whether the request is asked elsewhere after this answer, and how long is to be waited before.
    fn again_after(&self, answer: &Answer) -> Option<Duration> {
        let on = |what| self.policy.retry_on.contains(&what);
        let status = answer.status.as_u16();
        if grpc::Code::of(&answer.headers) == Some(grpc::Code::UNAVAILABLE) {
            // Calls are POST; that these may be repeated the policy has to say.
            let within = self.extra < u32::from(self.policy.retries);
            if !on(RetryOn::GrpcUnavailable) || !within || !self.request.supply.at_hand() {
                return None;
            }
            return match grpc::pushback(&answer.headers) {
                Pushback::None => Some(Duration::ZERO),
                Pushback::After(wait) => Some(wait),
                Pushback::Never => None,
            };
        }
        let busy = status == 503 && answer.headers.contains_key(RETRY_AFTER);
        let again = (busy || on(RetryOn::Status(status))) && self.may_resend(Reach::Unknown);
        again.then_some(Duration::ZERO)
    }

    fn judge_at_end(&self, n: usize, answer: &mut Answer, latency: Duration) {
        let (inner, load) = (self.inner.clone(), self.tries[n].load.clone());
        let id = self.tries[n].target.id.clone();
        let body = std::mem::replace(&mut answer.body, super::super::body::empty());
        answer.body = observed(body, move |trailers| {
            let Some(code) = trailers.and_then(grpc::Code::of) else { return };
            if code == grpc::Code::UNAVAILABLE {
                load.failed();
                inner.report(&id, Outcome::ServerError);
                return;
            }
            match code.outcome() {
                "server_error" => load.count_failure(),
                _ => load.count(latency),
            }
            inner.succeeded(&id, &load, latency);
        });
    }

    fn succeeded(&self, n: usize, latency: Duration) {
        let t = &self.tries[n];
        self.inner.succeeded(&t.target.id, &t.load, latency);
    }

    pub(super) fn report(&self, n: usize, outcome: Outcome) {
        let t = &self.tries[n];
        self.inner.blame(&t.target.id, outcome, t.started);
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
        match fault.kind {
            FaultKind::Silent => {}
            FaultKind::Owner(Cause::Busy) | FaultKind::Full => self.tries[n].load.turned_away(now),
            _ if self.tries[n].silent => {}
            _ => self.tries[n].load.observe(now, waited),
        }
        if let Some(outcome) = fault.outcome(self.tries[n].silent || target.via.is_some()) {
            self.report(n, outcome);
        }
        if let FaultKind::Owner(Cause::Denied) = fault.kind {
            return Some(Err(Failure::Denied { hop: target.id.to_string(), why: fault.detail }));
        }
        if let FaultKind::Owner(Cause::TooOften) = fault.kind {
            // To ask the next one would be to take from each what all were to give.
            return Some(Err(Failure::TooOften { hop: target.id.to_string(), why: fault.detail }));
        }
        if let FaultKind::Owner(Cause::Malformed) = fault.kind {
            // One agent may be of another version; two agree that it is the request.
            if std::mem::replace(&mut self.malformed, true) {
                return Some(Err(Failure::BadRequest(fault.detail)));
            }
        }
        let (reason, reach) = (fault.kind.word(), fault.reach);
        let payer = match (reach, fault.kind) {
            (Reach::NotExecuted, _) => Payer::Moves,
            // The connection to the host broke with all that was under way on it, or its lease ended.
            (Reach::Unknown, FaultKind::Cut | FaultKind::Owner(Cause::Fenced)) => Payer::Loss,
            (Reach::Unknown, _) => Payer::Retries,
        };
        self.last = Some((target, fault));
        if !self.may_resend(reach) {
            let waits = self.running() || self.want.is_some();
            return if waits { None } else { Some(self.unrepeated()) };
        }
        if reach == Reach::Unknown {
            self.extra += 1;
        }
        // A request that is sent elsewhere already has what it needs.
        if self.hopeful() {
            return None;
        }
        let failure = self.launch(reason, payer)?;
        Some(self.give_up(failure))
    }

    /// The failure of a request that may not be repeated.
    pub(super) fn unrepeated(&mut self) -> Won {
        let failure = self.broken("");
        self.give_up(failure)
    }
}
