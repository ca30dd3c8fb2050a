//! What requests for a service taught, and what they may spend: latencies, and budgets for retries and
//! hedges.
//!
//! By service, so that one that fails throughout does not use up the retries of the others. Only for
//! services a route knows: names that clients make up leave nothing behind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use hearth_proto::balance::Draw;
use hearth_proto::ids::ServiceName;
use hearth_proto::policy::{Balance, ServicePolicy};

use super::budget::{self, Budget};
use super::latency::Latencies;

/// What is kept of one service.
#[derive(Debug)]
pub(crate) struct Learnt {
    pub(crate) latencies: Latencies,
    pub(crate) retries: Budget,
    pub(crate) moves: Budget,
    pub(crate) hedges: Budget,
    /// Requests that may be repeated, and those that may not.
    repeatable: AtomicU64,
    once: AtomicU64,
    /// Whose turn it is, where turns are taken.
    turn: AtomicU64,
}

impl Learnt {
    fn new(now: Instant) -> Self {
        Self {
            latencies: Latencies::new(now),
            retries: Budget::new(budget::RETRIES, now),
            moves: Budget::new(budget::MOVES, now),
            hedges: Budget::new(budget::HEDGES, now),
            repeatable: AtomicU64::new(0),
            once: AtomicU64::new(0),
            // Callers that begin together are not to begin with the same endpoint.
            turn: AtomicU64::new(rand::random::<u64>() >> 1),
        }
    }
}

impl Learnt {
    /// A request came, that may be repeated or not: it pays for retries and hedges to come.
    pub(crate) fn deposit(&self, repeatable: bool) {
        if repeatable { &self.repeatable } else { &self.once }.fetch_add(1, Ordering::Relaxed);
        self.retries.deposit();
        self.moves.deposit();
        self.hedges.deposit();
    }

    /// What a pick is made by for a request that belongs to `session`. Only those that take turns share a
    /// counter.
    pub(crate) fn draw(&self, policy: &ServicePolicy, session: Option<u64>) -> Draw {
        let turn = match policy.balance {
            Balance::RoundRobin => self.turn.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
        Draw { random: rand::random(), turn, session }
    }
}

/// All services that were called from here.
#[derive(Debug, Default)]
pub(crate) struct Services(ArcSwap<BTreeMap<ServiceName, Arc<Learnt>>>);

impl Services {
    /// What is kept of `service`; kept from now on if it is `known`.
    pub(crate) fn of(&self, service: &ServiceName, known: bool, now: Instant) -> Arc<Learnt> {
        if let Some(kept) = self.0.load().get(service) {
            return kept.clone();
        }
        let fresh = Arc::new(Learnt::new(now));
        if !known {
            return fresh;
        }
        self.0.rcu(|map| {
            let mut map = BTreeMap::clone(map);
            map.entry(service.clone()).or_insert_with(|| fresh.clone());
            map
        });
        // Somebody else may have been first.
        self.0.load().get(service).cloned().unwrap_or(fresh)
    }

    /// Whether it was called from here.
    pub(crate) fn is_used(&self, service: &ServiceName) -> bool {
        self.0.load().contains_key(service)
    }

    /// How many requests came for each, that may be repeated and that may not.
    pub(crate) fn seen(&self) -> Vec<(ServiceName, u64, u64)> {
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let all = self.0.load();
        all.iter().map(|(name, l)| (name.clone(), count(&l.repeatable), count(&l.once))).collect()
    }

    /// Forgets the services for which `keep` says no.
    pub(crate) fn retain(&self, keep: impl Fn(&ServiceName) -> bool) {
        if self.0.load().keys().all(&keep) {
            return;
        }
        self.0.rcu(|map| {
            let mut map = BTreeMap::clone(map);
            map.retain(|service, _| keep(service));
            map
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServiceName {
        ServiceName::parse(text).unwrap()
    }

    #[test]
    fn a_service_that_fails_throughout_leaves_the_others_their_retries() {
        let (services, now) = (Services::default(), Instant::now());
        let failing = services.of(&name("failing"), true, now);
        while failing.retries.withdraw(now) {}
        assert!(!services.of(&name("failing"), true, now).retries.withdraw(now));
        assert!(services.of(&name("well"), true, now).retries.withdraw(now));
    }

    #[test]
    fn requests_are_counted_by_whether_they_may_be_repeated() {
        let (services, now) = (Services::default(), Instant::now());
        let ledger = services.of(&name("ledger"), true, now);
        [true, false, true].into_iter().for_each(|repeatable| ledger.deposit(repeatable));
        assert_eq!(services.seen(), [(name("ledger"), 2, 1)]);
    }

    #[test]
    fn services_nobody_knows_leave_nothing_behind() {
        let (services, now) = (Services::default(), Instant::now());
        let _ = services.of(&name("made-up"), false, now);
        assert!(services.0.load().is_empty());
        let _ = services.of(&name("real"), true, now);
        services.retain(|_| false);
        assert!(services.0.load().is_empty());
    }
}
