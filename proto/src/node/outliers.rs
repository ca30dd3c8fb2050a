//! Outliers on a node: samples of what endpoints answered go to the judgement of their service, and come
//! back in when too few others are left.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;

use crate::evidence::{Standing, Why};
use crate::ids::{EndpointId, ServiceName};
use crate::outlier::{self, Limits, Sample, Track};
use crate::policy::ServicePolicy;
use crate::route::Candidate;
use crate::time::Time;

use super::Node;

/// Whether an endpoint should serve as far as its node and its owner go: it counts where shares are counted.
pub(super) fn should_serve(standing: &Standing) -> bool {
    match standing {
        Standing::Ready | Standing::Doubtful(_) => true,
        Standing::Out(why) => matches!(why, Why::Ejected { .. } | Why::Outlier { .. }),
    }
}

impl Node {
    /// Takes in a round of samples, and judges each service that was sampled.
    pub(super) fn take_samples(&mut self, now: Time, samples: &[(EndpointId, Sample)]) {
        let mut services = BTreeSet::new();
        for (id, sample) in samples {
            let known = self.services.get(&id.service).is_some_and(|s| {
                // Of those alone: a name that no record has leaves nothing behind.
                s.route.candidates.iter().any(|c| c.id == *id)
            });
            if known {
                self.outcomes.entry(id.clone()).or_default().outlier.take(now, sample);
                services.insert(id.service.clone());
            }
        }
        for service in services {
            self.judge_service(now, &service);
        }
    }

    fn judge_service(&mut self, now: Time, service: &ServiceName) {
        let Some(state) = self.services.get(service) else { return };
        let candidates = &state.route.candidates;
        let should = candidates.iter().filter(|c| should_serve(&c.standing)).count();
        let ready: BTreeMap<&EndpointId, Option<u64>> = candidates
            .iter()
            .enumerate()
            .filter(|(_, c)| c.standing == Standing::Ready)
            .map(|(i, c)| (&c.id, state.route.spread.part(i)))
            .collect();
        let needed = state.route.policy.panic.of(should);
        let limits = Limits { should, not_ready: should - ready.len(), needed };
        let jitter = self.rng.random::<f64>();
        let mut tracks: Vec<&mut Track> = self
            .outcomes
            .iter_mut()
            .filter_map(|(id, e)| {
                let part = ready.get(id)?;
                e.outlier.expect(*part);
                Some(&mut e.outlier)
            })
            .collect();
        if !outlier::judge(now, &mut tracks, limits, jitter).is_empty() {
            self.stale_services.insert(service.clone());
        }
    }

    /// When fewer are ready than the panic threshold's share of those that should serve, outliers are let
    /// back in until it is met, those first that had the shortest time to go: one that is half sick is
    /// better than survivors that are overloaded. Returns whether any was.
    pub(super) fn readmit_outliers(
        &mut self,
        now: Time,
        policy: &ServicePolicy,
        candidates: &[Candidate],
    ) -> bool {
        let should = candidates.iter().filter(|c| should_serve(&c.standing)).count();
        let ready = candidates.iter().filter(|c| c.standing == Standing::Ready).count();
        let wanted = policy.panic.of(should).max(1).saturating_sub(ready);
        let mut outliers: Vec<(Time, &EndpointId)> = candidates
            .iter()
            .filter_map(|c| match c.standing {
                Standing::Out(Why::Outlier { until, .. }) => Some((until, &c.id)),
                _ => None,
            })
            .collect();
        outliers.sort_unstable();
        let back: Vec<&EndpointId> = outliers.into_iter().take(wanted).map(|(_, id)| id).collect();
        for id in &back {
            if let Some(e) = self.outcomes.get_mut(*id) {
                e.outlier.readmit(now);
            }
        }
        !back.is_empty()
    }
}
