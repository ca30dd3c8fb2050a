//! What is to be expected of services: what this node knows for a plan, and what it finds wanting.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::advert::Role;
use crate::advert::traits::ActivationTimes;
use crate::evidence::Why;
use crate::history::Times;
use crate::ids::ServiceName;
use crate::lint::{self, EndpointFacts, Facts, Traffic};
use crate::time::Time;
use crate::view::{CheckView, FindingView, PlanView, TimesView};

use super::Node;

impl Node {
    /// `GET /v1/plan/{service}`; `None` if nobody offers or calls the service.
    pub fn plan_view(&self, service: &ServiceName, now: Time) -> Option<PlanView> {
        let state = self.services.get(service)?;
        let (history, tally) = (&state.history, &state.route.tally);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let warm = state
            .route
            .candidates
            .iter()
            .filter(|c| c.role != Role::Hot && !matches!(c.standing.why(), Some(Why::Left)));
        let activations = self.activation_times(service);
        Some(PlanView {
            service: service.clone(),
            node: self.config.name.clone(),
            hot: count(tally.declared),
            warm: count(warm.count()),
            needed: count(tally.needed),
            serving: count(tally.serving),
            watched_s: history.watched(now).as_secs_f64(),
            served_s: history.served(now).as_secs_f64(),
            losses: history.losses(),
            detection: times(history.detection()),
            takeover: times(history.takeover()),
            repair: times(history.repair()),
            activation: pooled(&activations),
            activations_failed: activations.iter().map(|a| u64::from(a.failed)).sum(),
        })
    }

    /// `GET /v1/check`: every service, or one. `traffic`: what passed this agent.
    pub fn check_view(
        &self,
        only: Option<&ServiceName>,
        traffic: BTreeMap<ServiceName, Traffic>,
    ) -> CheckView {
        let facts = Facts { traffic, ..self.lint_facts() };
        let asked = |name: &ServiceName| only.is_none_or(|only| only == name);
        let findings =
            lint::check(&facts, only).into_iter().map(|(service, finding)| FindingView {
                service,
                rule: finding.rule().to_owned(),
                severity: finding.severity().word().to_owned(),
                sentence: finding.sentence(),
                mend: finding.mend(),
            });
        CheckView {
            node: self.config.name.clone(),
            policy_version: self.policy_version,
            services: lint::services(&facts).into_iter().filter(asked).collect(),
            findings: findings.collect(),
        }
    }

    /// The mesh as this node knows it; nodes that left are no part of it, those that are down still are.
    fn lint_facts(&self) -> Facts {
        let present = || self.table.iter().filter(|(_, entry)| !entry.advert.left);
        let endpoints = present().flat_map(|(_, entry)| {
            let advert = &entry.advert;
            advert.endpoints.iter().zip(advert.weights()).map(|(e, weight)| EndpointFacts {
                id: advert.endpoint_id(e),
                weight,
                role: e.role,
                protocol: e.protocol,
                zone: advert.zone.clone(),
                traits: advert.traits_of(e),
            })
        });
        Facts {
            policy: self.policy.clone(),
            endpoints: endpoints.collect(),
            nodes: present().map(|(name, _)| name.clone()).collect(),
            traffic: BTreeMap::new(),
        }
    }

    /// What the owners of the service's endpoints say of activations.
    fn activation_times(&self, service: &ServiceName) -> Vec<ActivationTimes> {
        let adverts = self.table.iter().map(|(_, entry)| &entry.advert);
        adverts
            .flat_map(|advert| {
                let of_it = advert.endpoints.iter().filter(|e| e.service == *service);
                of_it.filter_map(|e| Some(advert.traits_of(e)?.activations))
            })
            .collect()
    }
}

fn times(times: &Times) -> TimesView {
    let seconds = |d: Option<Duration>| d.unwrap_or_default().as_secs_f64();
    TimesView {
        count: times.count(),
        mean_s: seconds(times.mean()),
        p50_s: seconds(times.quantile(0.5)),
        p95_s: seconds(times.quantile(0.95)),
    }
}

/// Several owners' activations as one: means weighted by number, the slowest's quantiles.
fn pooled(all: &[ActivationTimes]) -> TimesView {
    let count: u64 = all.iter().map(|a| u64::from(a.succeeded())).sum();
    let sum: f64 = all.iter().map(|a| f64::from(a.succeeded()) * f64::from(a.mean_ms)).sum();
    let worst = |of: fn(&ActivationTimes) -> u32| {
        f64::from(all.iter().map(of).max().unwrap_or_default()) / 1e3
    };
    TimesView {
        count,
        mean_s: if count == 0 { 0.0 } else { sum / count as f64 / 1e3 },
        p50_s: worst(|a| a.p50_ms),
        p95_s: worst(|a| a.p95_ms),
    }
}
