//! An endpoint for something that lasts, a connection or a session: one after the other is asked to take it
//! until one does, or until the service's time is over. A silent link is not held against its endpoints: the
//! links tell of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use hearth_proto::evidence::Outcome;
use hearth_proto::ids::{EndpointId, ServiceName};
use tokio::time::timeout;

use super::Inner;
use super::attempt::{Fault, Target};
use super::load::UnderWay;
use super::session::Session;

/// One endpoint has so long to take it.
const TAKE_LIMIT: Duration = Duration::from_secs(2);
/// What nobody takes waits so long for the routes to change.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Who took it, and what came of that.
pub(crate) struct Reached<T> {
    pub(crate) id: EndpointId,
    pub(crate) taken: T,
    /// Counts at the endpoint while it lives.
    pub(crate) under_way: UnderWay,
}

/// Takes note of what a failure says of its endpoint. What is relayed may have failed on the way.
pub(crate) fn failed(inner: &Inner, id: &EndpointId, began: Instant, fault: &Fault) {
    let relayed = inner
        .route(&id.service)
        .is_some_and(|route| route.candidates.iter().any(|c| c.id == *id && c.via.is_some()));
    let silent = inner.mesh.links.health(&id.node).borrow().is_silent() || relayed;
    if let Some(outcome) = fault.outcome(silent) {
        inner.blame(id, outcome, began);
    }
}

/// Asks endpoints of `service` for `client` by `take`, which gets the endpoint and when it is too late. `avoid` is asked
/// only when nobody else is left.
pub(crate) async fn reach<'a, T>(
    inner: &'a Arc<Inner>,
    service: &ServiceName,
    avoid: Option<EndpointId>,
    client: IpAddr,
    take: impl Fn(Target, Instant) -> BoxFuture<'a, Result<T, Fault>>,
) -> Option<Reached<T>> {
    let started = Instant::now();
    let _waits = inner.pulses.waits();
    let limit = inner.route(service).map(|r| r.policy.timeout.0).unwrap_or_default();
    let deadline = started + limit;
    let mut tried: Vec<EndpointId> = avoid.into_iter().collect();
    while Instant::now() < deadline {
        let now = Instant::now();
        let Some(route) = inner.route(service) else { break };
        let session = Session::of_client(&route.policy, client).key();
        let draw = inner.learnt(service, now).draw(&route.policy, session);
        let decision = route.pick(draw, &tried, |id, what| inner.loads.measure(id, what, now));
        let Some(candidate) = decision.pick else {
            tried.clear();
            inner.need_wake(service, now);
            let mut changed = inner.mesh.changed.clone();
            changed.mark_unchanged();
            // Either way it is time to look again.
            let _ = timeout(LOOK_AGAIN, changed.changed()).await;
            continue;
        };
        let attempts = u8::try_from(tried.len()).unwrap_or(u8::MAX);
        let target = Target { attempts, ..Target::of(candidate) };
        let id = candidate.id.clone();
        let load = inner.loads.of(&id);
        let under_way = UnderWay::new(&load);
        let fault = match timeout(TAKE_LIMIT, take(target, deadline)).await {
            Ok(Ok(taken)) => {
                let latency = now.elapsed();
                load.answered(Instant::now(), latency);
                if load.recovered() || route.watched {
                    inner.report(&id, Outcome::Answered { latency });
                }
                inner.metrics.request(service, "ok", started.elapsed().as_secs_f64());
                return Some(Reached { id, taken, under_way });
            }
            Ok(Err(fault)) => fault,
            Err(_) => Fault::late(),
        };
        tracing::debug!(endpoint = %id, why = fault.detail, "connection not taken");
        failed(inner, &id, now, &fault);
        tried.push(id);
    }
    inner.metrics.request(service, "failed", started.elapsed().as_secs_f64());
    None
}
