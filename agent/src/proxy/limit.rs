//! What an endpoint takes on: how many requests at once, and how many of each caller in a time.
//!
//! Counted by the endpoint's own agent, which sees all its callers. Who is let in, waits or is turned away
//! is decided by [`hearth_proto::balance::gate`]; here is the time of those who wait, and their way to be
//! told. What is turned away is untouched, so that callers go elsewhere. Callers that come too often are
//! refused for good. A service without limits costs one look at its policy.
//!
//! Under a fixed number a request counts until its answer has ended. Where the number is found out it counts
//! until the head of the answer: how long the rest takes is up to who reads it, and a stream of events may
//! last for hours; connections and sessions, which are nothing else, are not limited by it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hearth_proto::balance::gate::{Arrival, Ended, Gate, Rule, Ticket, Told};
use hearth_proto::balance::limit::Limit;
use hearth_proto::ids::{EndpointId, NodeName};
use hearth_proto::policy::{Ceiling, Rate, ServicePolicy};
use hearth_proto::time::Time;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use super::frame::{Cause, Refused};
use super::metrics::ProxyMetrics;
use crate::counted::Counted;
use crate::link::lock;

type Waiter = oneshot::Sender<Told>;

/// A waiter that goes at this very moment finds its word (see [`Waiting`]); one that is gone needs none.
fn tell(waiter: Waiter, told: Told) {
    let _ = waiter.send(told);
}

/// The gate of one endpoint, and the time by which it goes.
#[derive(Debug)]
struct Gated {
    gate: Mutex<Gate<Waiter>>,
    ceiling: Ceiling,
    origin: Instant,
    /// The limit that the gauge shows; 0: none.
    shown: AtomicUsize,
    gauge: Gauge,
}

fn rule(ceiling: Ceiling, now: Time) -> Rule {
    match ceiling {
        Ceiling::At(most) => Rule::Fixed(usize::try_from(most).unwrap_or(usize::MAX)),
        Ceiling::Auto => Rule::Adaptive(Box::new(Limit::new(now))),
        Ceiling::None => Rule::Fixed(usize::MAX),
    }
}

impl Gated {
    fn new(ceiling: Ceiling, gauge: Gauge) -> Self {
        let gate = Mutex::new(Gate::new(rule(ceiling, Time(0))));
        Self { gate, ceiling, origin: Instant::now(), shown: AtomicUsize::new(0), gauge }
    }

    fn time(&self, at: Instant) -> Time {
        let us = at.saturating_duration_since(self.origin).as_micros();
        Time(u64::try_from(us).unwrap_or(u64::MAX))
    }

    fn instant(&self, at: Time) -> Instant {
        self.origin + Duration::from_micros(at.0)
    }

    /// Tells the gauge, if there is news.
    fn show(&self, gate: &Gate<Waiter>) {
        let limit = gate.limit().unwrap_or(0);
        if self.shown.load(Ordering::Relaxed) != limit {
            self.shown.store(limit, Ordering::Relaxed);
            self.gauge.set(i64::try_from(limit).unwrap_or(i64::MAX));
        }
    }

    fn arrive(&self, now: Instant, attempts: u8, left: Duration) -> (Arrival, Waiting<'_>) {
        let mut gate = lock(&self.gate);
        let mut told = None;
        let token = || {
            let (sender, receiver) = oneshot::channel();
            told = Some(receiver);
            sender
        };
        let arrival = gate.arrive(self.time(now), attempts, left, token, tell);
        self.show(&gate);
        let ticket = match arrival {
            Arrival::Waits(ticket, _) => Some(ticket),
            Arrival::In | Arrival::Full => None,
        };
        (arrival, Waiting { gated: self, ticket, told })
    }

    fn leave(&self, began: Instant, how: Ended) {
        let mut gate = lock(&self.gate);
        let (now, began) = (self.time(Instant::now()), self.time(began));
        gate.leave(now, began, how, tell);
        self.show(&gate);
    }

    /// `true`: it was still waiting.
    fn give_up(&self, ticket: Ticket, late: bool) -> bool {
        lock(&self.gate).give_up(self.time(Instant::now()), ticket, late, tell)
    }
}

/// One that waits, or would have if it had to. Whoever stops waiting gives its place in the queue, or the
/// one it was let in to meanwhile, to the next.
struct Waiting<'a> {
    gated: &'a Gated,
    ticket: Option<Ticket>,
    told: Option<oneshot::Receiver<Told>>,
}

impl Waiting<'_> {
    /// Waits for its turn. `false`: it did not come in time, or somebody else's went before.
    async fn turn(mut self, until: Time) -> bool {
        let (Some(told), Some(ticket)) = (self.told.as_mut(), self.ticket) else { return false };
        let told = match timeout_at(self.gated.instant(until).into(), &mut *told).await {
            Ok(told) => told.ok(),
            Err(_) if self.gated.give_up(ticket, true) => None,
            // It was told at the last moment.
            Err(_) => told.try_recv().ok(),
        };
        self.ticket = None;
        told == Some(Told::In)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        if !self.gated.give_up(ticket, false)
            && self.told.as_mut().and_then(|told| told.try_recv().ok()) == Some(Told::In)
        {
            self.gated.leave(Instant::now(), Ended::Failed);
        }
    }
}

/// A place among the requests that an endpoint works on; to be held until its answer has ended.
#[derive(Debug, Default)]
pub(crate) struct Place {
    taken: Option<Taken>,
    /// Whatever its limit counts, the endpoint is not idle before this ends.
    pub(crate) under_way: Option<Counted>,
}

#[derive(Debug)]
struct Taken {
    gated: Arc<Gated>,
    began: Instant,
}

impl Place {
    fn taken(gated: &Arc<Gated>) -> Self {
        let taken = Taken { gated: gated.clone(), began: Instant::now() };
        Self { taken: Some(taken), under_way: None }
    }

    /// The head of the application's answer is here.
    pub(crate) fn headed(&mut self, status: u16) {
        self.ended(if status < 500 { Ended::Answered } else { Ended::Failed });
    }

    /// There is none, or none that says how fast the application is.
    pub(crate) fn failed(&mut self, cause: Cause) {
        self.ended(match cause {
            Cause::AppSilent => Ended::GivenUp,
            _ => Ended::Failed,
        });
    }

    /// Gives the place back where it is for the time until the head only.
    fn ended(&mut self, how: Ended) {
        if self.taken.as_ref().is_some_and(|t| t.gated.ceiling == Ceiling::Auto)
            && let Some(taken) = self.taken.take()
        {
            taken.gated.leave(taken.began, how);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(taken) = self.taken.take() {
            taken.gated.leave(taken.began, Ended::GivenUp);
        }
    }
}

/// A caller's share: a bucket that fills with time.
#[derive(Clone, Copy, Debug)]
struct Share {
    tokens: f64,
    at: Instant,
}

/// Whose place is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Comer<'a> {
    pub(crate) caller: &'a NodeName,
    /// How often the request was tried before, wherever.
    pub(crate) attempts: u8,
    /// For how long it can wait.
    pub(crate) left: Duration,
    /// It is a connection or a session rather than a request.
    pub(crate) lasts: bool,
}

/// The limits of this host's endpoints.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    gates: ArcSwap<HashMap<EndpointId, Arc<Gated>>>,
    shares: Mutex<HashMap<(EndpointId, NodeName), Share>>,
    metrics: ProxyMetrics,
}

impl Limits {
    pub(crate) fn new(metrics: ProxyMetrics) -> Self {
        Self { gates: ArcSwap::default(), shares: Mutex::default(), metrics }
    }

    /// Lets a request in, or says why not. Waits for a place if there will be one.
    pub(crate) async fn enter(
        &self,
        id: &EndpointId,
        who: Comer<'_>,
        policy: &ServicePolicy,
    ) -> Result<Place, Refused> {
        if let Rate::Of { times, per } = policy.rate_limit
            && !self.within_share(id, who.caller, times, per.0, Instant::now())
        {
            let detail = format!("at most {} to {id}", policy.rate_limit);
            return Err(Refused { executed: false, cause: Cause::TooOften, detail });
        }
        if matches!(policy.max_requests, Ceiling::None)
            || policy.max_requests == Ceiling::Auto && who.lasts
        {
            return Ok(Place::default());
        }
        let gated = self.gate_of(id, policy.max_requests);
        let (arrival, waiting) = gated.arrive(Instant::now(), who.attempts, who.left);
        let came = match arrival {
            Arrival::In => true,
            Arrival::Waits(_, until) => waiting.turn(until).await,
            Arrival::Full => false,
        };
        if came {
            return Ok(Place::taken(&gated));
        }
        let what = match arrival {
            Arrival::Full => "as many wait",
            _ => "its turn did not come in time",
        };
        let limit = lock(&gated.gate).limit();
        let limit = limit.map_or_else(|| "many".to_owned(), |n| n.to_string());
        let detail = format!("{id} works on {limit} requests and {what}");
        Err(Refused { executed: false, cause: Cause::Busy, detail })
    }

    fn gate_of(&self, id: &EndpointId, ceiling: Ceiling) -> Arc<Gated> {
        let fits = |gated: &&Arc<Gated>| gated.ceiling == ceiling;
        if let Some(gated) = self.gates.load().get(id).filter(fits) {
            return gated.clone();
        }
        // The policy changed; requests under way keep the places they have beside the new ones.
        let gauge = self.metrics.limit_of(&id.service);
        let fresh = Arc::new(Gated::new(ceiling, gauge));
        self.gates.rcu(|gates| {
            let mut gates = HashMap::clone(gates);
            // Somebody else may have been first.
            if !gates.get(id).is_some_and(|g| g.ceiling == ceiling) {
                gates.insert(id.clone(), fresh.clone());
            }
            gates
        });
        self.gates.load().get(id).filter(fits).cloned().unwrap_or(fresh)
    }

    fn within_share(
        &self,
        id: &EndpointId,
        caller: &NodeName,
        times: u32,
        per: Duration,
        now: Instant,
    ) -> bool {
        let most = f64::from(times);
        let mut shares = lock(&self.shares);
        let fresh = Share { tokens: most, at: now };
        let share = shares.entry((id.clone(), caller.clone())).or_insert(fresh);
        let passed = now.saturating_duration_since(share.at).as_secs_f64();
        share.tokens = (share.tokens + passed * most / per.as_secs_f64()).min(most);
        share.at = share.at.max(now);
        let within = share.tokens >= 1.0;
        if within {
            share.tokens -= 1.0;
        }
        within
    }

    /// Forgets endpoints for which `keep` says no.
    pub(crate) fn retain(&self, keep: impl Fn(&EndpointId) -> bool) {
        if !self.gates.load().keys().all(&keep) {
            self.gates.rcu(|gates| {
                let mut gates = HashMap::clone(gates);
                gates.retain(|id, _| keep(id));
                gates
            });
        }
        lock(&self.shares).retain(|(id, _), _| keep(id));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use hearth_proto::ids::ServiceName;
    use hearth_proto::time::Span;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn id() -> EndpointId {
        let service = ServiceName::parse("s").unwrap();
        EndpointId { service, node: node("n"), instance: 0 }
    }

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).unwrap()
    }

    fn at_most(n: u32) -> ServicePolicy {
        ServicePolicy { max_requests: Ceiling::At(n), ..Default::default() }
    }

    async fn enter(
        limits: &Limits,
        policy: &ServicePolicy,
        attempts: u8,
    ) -> Result<Place, Refused> {
        let caller = node("a");
        let who = Comer { caller: &caller, attempts, left: MINUTE, lasts: false };
        limits.enter(&id(), who, policy).await
    }

    fn waiting(limits: &Limits) -> usize {
        limits.gates.load().values().map(|g| lock(&g.gate).waiting()).sum()
    }

    fn under_way(limits: &Limits) -> usize {
        limits.gates.load().values().map(|g| lock(&g.gate).under_way()).sum()
    }

    #[tokio::test]
    async fn as_many_as_are_worked_on_wait_and_the_rest_goes_elsewhere() {
        let (limits, two) = (Limits::default(), at_most(2));
        let enter = || enter(&limits, &two, 0);
        let first = enter().await.unwrap();
        let second = enter().await.unwrap();
        let (third, fourth, fifth, ()) = tokio::join!(enter(), enter(), enter(), async {
            tokio::task::yield_now().await;
            drop((first, second));
        });
        assert!(third.is_ok() && fourth.is_ok());
        let refused = fifth.unwrap_err();
        assert_eq!((refused.executed, refused.cause), (false, Cause::Busy));
    }

    #[tokio::test]
    async fn nobody_waits_for_a_place_without_end() {
        let (limits, one) = (Limits::default(), at_most(1));
        let _held = enter(&limits, &one, 0).await.unwrap();
        let late = enter(&limits, &one, 0).await;
        assert_eq!(late.unwrap_err().cause, Cause::Busy);
        assert_eq!(waiting(&limits), 0);
    }

    #[tokio::test]
    async fn a_request_that_failed_elsewhere_gets_the_place_of_one_that_comes_fresh() {
        let (limits, one) = (Limits::default(), at_most(1));
        let held = enter(&limits, &one, 0).await.unwrap();
        let (fresh, again, ()) =
            tokio::join!(enter(&limits, &one, 0), enter(&limits, &one, 1), async {
                while waiting(&limits) == 0 {
                    tokio::task::yield_now().await;
                }
                drop(held);
            });
        assert_eq!(fresh.unwrap_err().cause, Cause::Busy);
        assert!(again.is_ok());
    }

    #[tokio::test]
    async fn a_caller_that_leaves_gives_its_turn_to_the_next_and_no_place_is_lost() {
        let (limits, two) = (Limits::default(), at_most(2));
        let held = (enter(&limits, &two, 0).await.unwrap(), enter(&limits, &two, 0).await.unwrap());
        let mut leaves = Box::pin(enter(&limits, &two, 0));
        assert!((&mut leaves).now_or_never().is_none());
        let mut stays = Box::pin(enter(&limits, &two, 0));
        assert!((&mut stays).now_or_never().is_none());
        // Let in, and gone before it hears of it.
        drop(held.0);
        drop(leaves);
        let place = stays.await.unwrap();
        assert_eq!((under_way(&limits), waiting(&limits)), (2, 0));
        drop((held.1, place));
        assert_eq!(under_way(&limits), 0);
    }

    #[tokio::test]
    async fn where_the_number_is_found_out_a_place_is_free_with_the_head_else_with_the_end() {
        for (policy, left) in [(Ceiling::Auto, 0), (Ceiling::At(5), 1)] {
            let limits = Limits::default();
            let policy = ServicePolicy { max_requests: policy, ..Default::default() };
            let mut place = enter(&limits, &policy, 0).await.unwrap();
            assert_eq!(under_way(&limits), 1);
            place.headed(200);
            assert_eq!(under_way(&limits), left);
            drop(place);
            assert_eq!(under_way(&limits), 0);
        }
    }

    #[tokio::test]
    async fn connections_are_limited_by_a_fixed_number_only() {
        let (limits, caller) = (Limits::default(), node("a"));
        let who = Comer { caller: &caller, attempts: 0, left: MINUTE, lasts: true };
        let auto = ServicePolicy { max_requests: Ceiling::Auto, ..Default::default() };
        let _open = limits.enter(&id(), who, &auto).await.unwrap();
        assert_eq!(under_way(&limits), 0);
        let _open = limits.enter(&id(), who, &at_most(1)).await.unwrap();
        assert_eq!(under_way(&limits), 1);
    }

    #[test]
    fn each_caller_has_its_own_share_and_gets_it_back_with_time() {
        let (limits, id, now) = (Limits::default(), id(), Instant::now());
        let second = Span(Duration::from_secs(1)).0;
        let ask = |who: &str, at| limits.within_share(&id, &node(who), 3, second, at);
        assert_eq!((0..5).filter(|_| ask("a", now)).count(), 3);
        assert!(ask("b", now));
        assert!(!ask("a", now + second / 4));
        assert!(ask("a", now + second / 2));
        assert!(!ask("a", now + second / 2));
        let later = now + 60 * second;
        assert_eq!((0..5).filter(|_| ask("a", later)).count(), 3);
    }
}
