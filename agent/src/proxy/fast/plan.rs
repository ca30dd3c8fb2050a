//! What a request needs to know of its service's route, put together once per change of the route instead
//! of looked up for each request: loads beside candidates, budgets, counters.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hearth_proto::advert::Protocol;
use hearth_proto::ids::ServiceName;
use hearth_proto::policy::{Hedge, Patience};
use hearth_proto::route::Route;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use super::super::Inner;
use super::super::learnt::Learnt;
use super::super::load::Load;
use crate::link::lock;

/// A route and what is kept beside it.
pub(crate) struct Plan {
    pub(crate) route: Arc<Route>,
    pub(crate) learnt: Arc<Learnt>,
    /// Of the candidates, in their order.
    loads: Vec<Arc<Load>>,
    ok: Counter,
    client_error: Counter,
    duration: Histogram,
}

impl Plan {
    fn new(inner: &Inner, route: Arc<Route>, now: Instant) -> Self {
        let service = &route.service;
        let loads = route.candidates.iter().map(|c| inner.loads.of(&c.id)).collect();
        let count = |outcome: &str| inner.metrics.requests_of(service, outcome);
        Self {
            learnt: inner.learnt(service, now),
            loads,
            ok: count("ok"),
            client_error: count("client_error"),
            duration: inner.metrics.duration_of(service),
            route,
        }
    }

    /// Whether requests for the service can be carried by the fast path at all.
    pub(super) fn is_plain(&self) -> bool {
        let policy = &self.route.policy;
        self.route.candidates.first().is_none_or(|c| c.protocol == Protocol::Http)
            // Nothing here watches over a single try or a quiet body.
            && policy.per_try_timeout == Patience::Endless
            && policy.idle_timeout == Patience::Endless
    }

    /// The endpoint for a first attempt of a request of `session`, by its index, and why.
    pub(super) fn pick(&self, now: Instant, session: Option<u64>) -> (Option<usize>, &'static str) {
        let draw = self.learnt.draw(&self.route.policy, session);
        self.route.pick_index(draw, |_| false, |i, what| self.loads[i].measure(what, now))
    }

    pub(super) fn load(&self, index: usize) -> &Arc<Load> {
        &self.loads[index]
    }

    /// After which time without an answer a request is asked elsewhere too.
    pub(super) fn hedge_delay(&self, now: Instant) -> Option<Duration> {
        match self.route.policy.hedge {
            Hedge::Off => None,
            Hedge::After(span) => Some(span.0),
            Hedge::Auto => Some(self.learnt.latencies.recent_hedge_delay(now)),
        }
    }

    /// Counts an answer of the application below 500.
    pub(super) fn count(&self, status: u16, took: Duration) {
        if status >= 400 { &self.client_error } else { &self.ok }.inc();
        self.duration.observe(took.as_secs_f64());
    }
}

/// The plans of all services that were called from here.
#[derive(Default)]
pub(crate) struct Plans(Mutex<BTreeMap<ServiceName, Arc<Plan>>>);

impl Plans {
    /// The plan for the service's route of this moment; `kept` is what its asker had before. `None`: no
    /// route is known.
    pub(super) fn of(
        &self,
        inner: &Inner,
        service: &str,
        kept: Option<&Arc<Plan>>,
        now: Instant,
    ) -> Option<Arc<Plan>> {
        let snapshot = inner.mesh.snapshot.load();
        let route = snapshot.services.get(service)?;
        let fits = |plan: &&Arc<Plan>| Arc::ptr_eq(&plan.route, route);
        if let Some(plan) = kept.filter(fits) {
            return Some(plan.clone());
        }
        let mut plans = lock(&self.0);
        if let Some(plan) = plans.get(service).filter(fits) {
            return Some(plan.clone());
        }
        let plan = Arc::new(Plan::new(inner, route.clone(), now));
        plans.insert(route.service.clone(), plan.clone());
        Some(plan)
    }

    /// Forgets the services for which `keep` says no.
    pub(crate) fn retain(&self, keep: impl Fn(&ServiceName) -> bool) {
        lock(&self.0).retain(|service, _| keep(service));
    }
}
