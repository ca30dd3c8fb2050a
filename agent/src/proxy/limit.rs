//! What an endpoint takes on: how many requests at once, and how many of each caller in a time.
//!
//! Counted by the endpoint's own agent, which sees all its callers. Requests beyond the ceiling wait their
//! turn, as many as are worked on and no longer than [`QUEUE_LIMIT`]; the rest is refused untouched, so
//! that callers go elsewhere. Callers that come too often are refused for good. A service without limits
//! costs one look at its policy.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hearth_proto::ids::{EndpointId, NodeName};
use hearth_proto::policy::{Ceiling, Rate, ServicePolicy};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::frame::{Cause, Refused};
use crate::link::lock;

/// A request waits at most so long for its turn: longer than this an endpoint that is not so busy is the
/// better one.
const QUEUE_LIMIT: Duration = Duration::from_millis(500);

/// A place among the requests that an endpoint works on; to be held until its answer has ended.
pub(crate) type Place = Option<OwnedSemaphorePermit>;

/// Places of one endpoint.
#[derive(Debug)]
struct Places {
    most: usize,
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Places {
    fn new(most: usize) -> Self {
        Self { most, free: Arc::new(Semaphore::new(most)), waiting: AtomicUsize::new(0) }
    }
}

/// Counts a request that waits while it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A caller's share: a bucket that fills with time.
#[derive(Clone, Copy, Debug)]
struct Share {
    tokens: f64,
    at: Instant,
}

/// The limits of this host's endpoints.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    places: Mutex<HashMap<EndpointId, Arc<Places>>>,
    shares: Mutex<HashMap<(EndpointId, NodeName), Share>>,
}

impl Limits {
    /// Lets a request of `caller` in, or says why not. Waits for a place if there will be one.
    pub(crate) async fn enter(
        &self,
        id: &EndpointId,
        caller: &NodeName,
        policy: &ServicePolicy,
        left: Duration,
    ) -> Result<Place, Refused> {
        if let Rate::Of { times, per } = policy.rate_limit
            && !self.within_share(id, caller, times, per.0, Instant::now())
        {
            let detail = format!("at most {} to {id}", policy.rate_limit);
            return Err(Refused { executed: false, cause: Cause::TooOften, detail });
        }
        let Ceiling::At(most) = policy.max_requests else { return Ok(None) };
        let places = self.places_of(id, usize::try_from(most).unwrap_or(usize::MAX));
        if let Ok(place) = places.free.clone().try_acquire_owned() {
            return Ok(Some(place));
        }
        let busy = |what: &str| {
            let detail = format!("{id} works on {} requests and {what}", places.most);
            Refused { executed: false, cause: Cause::Busy, detail }
        };
        let before = places.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&places.waiting);
        if before >= places.most {
            return Err(busy("as many wait"));
        }
        match timeout(left.min(QUEUE_LIMIT), places.free.clone().acquire_owned()).await {
            Ok(Ok(place)) => Ok(Some(place)),
            _ => Err(busy("none ended in time")),
        }
    }

    fn places_of(&self, id: &EndpointId, most: usize) -> Arc<Places> {
        let most = most.min(Semaphore::MAX_PERMITS);
        let mut all = lock(&self.places);
        match all.get(id) {
            Some(places) if places.most == most => places.clone(),
            // The policy changed; requests under way keep the places they have beside the new ones.
            _ => {
                let places = Arc::new(Places::new(most));
                all.insert(id.clone(), places.clone());
                places
            }
        }
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
        lock(&self.places).retain(|id, _| keep(id));
        lock(&self.shares).retain(|(id, _), _| keep(id));
    }
}

#[cfg(test)]
mod tests {
    use hearth_proto::ids::ServiceName;
    use hearth_proto::time::Span;

    use super::*;

    fn id() -> EndpointId {
        let service = ServiceName::parse("s").unwrap();
        EndpointId { service, node: node("n"), instance: 0 }
    }

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).unwrap()
    }

    #[tokio::test]
    async fn as_many_as_are_worked_on_wait_and_the_rest_goes_elsewhere() {
        let limits = Limits::default();
        let policy = ServicePolicy { max_requests: Ceiling::At(2), ..Default::default() };
        let (id, caller) = (id(), node("a"));
        let enter = || limits.enter(&id, &caller, &policy, Duration::from_secs(60));
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
        let limits = Limits::default();
        let policy = ServicePolicy { max_requests: Ceiling::At(1), ..Default::default() };
        let (id, caller) = (id(), node("a"));
        let _held = limits.enter(&id, &caller, &policy, Duration::from_secs(60)).await.unwrap();
        let late = limits.enter(&id, &caller, &policy, Duration::from_secs(60)).await;
        assert_eq!(late.unwrap_err().cause, Cause::Busy);
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
