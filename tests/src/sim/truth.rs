//! What is really so in a world: who runs, who reaches whom, who could serve.

use hearth_proto::advert::{Condition, Role};
use hearth_proto::ids::{EndpointId, ServiceName};

use super::At;
use super::application::App;
use super::host::Life;
use super::world::World;

impl World {
    /// All endpoints of a service with their hosts.
    pub fn endpoints(&self, service: &ServiceName) -> Vec<(usize, EndpointId, Role)> {
        let mut all = Vec::new();
        for (i, host) in self.hosts.iter().enumerate() {
            for e in host.spec.endpoints.iter().filter(|e| e.id.service == *service) {
                all.push((i, e.id.clone(), e.role));
            }
        }
        all
    }

    /// All services.
    pub fn services(&self) -> Vec<ServiceName> {
        let mut all: Vec<ServiceName> = self
            .hosts
            .iter()
            .flat_map(|h| h.spec.endpoints.iter().map(|e| e.id.service.clone()))
            .collect();
        all.sort();
        all.dedup();
        all
    }

    /// Whether an endpoint's host runs and its application accepts.
    pub fn could_serve(&self, host: usize, endpoint: &EndpointId) -> bool {
        let h = &self.hosts[host];
        h.life == Life::Running && h.apps.get(endpoint).is_some_and(App::answers)
    }

    /// The owner's own word on an endpoint, while it runs.
    pub fn condition(&self, host: usize, endpoint: &EndpointId) -> Option<Condition> {
        let snapshot = self.hosts[host].node.as_ref().map(|n| n.snapshot())?;
        snapshot.own.get(endpoint).copied()
    }

    /// Since when nothing of `target` can be heard by `caller` and nothing heard there: off, paused, or cut
    /// off both ways. `None` if something passes.
    pub fn unreachable_since(&self, caller: usize, target: usize) -> Option<At> {
        if caller == target {
            return None;
        }
        let host = &self.hosts[target];
        let gone = (host.life != Life::Running).then_some(host.since);
        let cut = self.net.blocked(caller, target).zip(self.net.blocked(target, caller));
        let cut = cut.map(|(there, back)| there.max(back));
        gone.into_iter().chain(cut).min()
    }

    /// Whether anything about the hot endpoints of a service, or anybody's paths to them, is or was wrong
    /// within `window`: only then may a warm one be called up.
    pub fn was_troubled(&self, service: &ServiceName, window: u64) -> bool {
        let recent = |at: At| at > 0 && self.now < at + window;
        if self.net.is_lossy() || recent(self.checks.loss_ended) || recent(self.checks.drilled) {
            return true;
        }
        let all = self.endpoints(service);
        let who_cares: Vec<usize> = (0..self.hosts.len())
            .filter(|i| {
                self.hosts[*i].spec.interest.contains(service)
                    || all.iter().any(|(h, _, role)| h == i && *role != Role::Hot)
            })
            .collect();
        all.iter().filter(|(_, _, role)| *role == Role::Hot).any(|(host, id, _)| {
            let h = &self.hosts[*host];
            let app_changed = h.apps.get(id).is_none_or(|app| recent(app.changed));
            !self.could_serve(*host, id)
                || self.checks.revoked.contains(host)
                || self.condition(*host, id) != Some(Condition::Serving)
                || recent(h.since)
                || app_changed
                || who_cares.iter().any(|w| {
                    w != host
                        && (self.net.blocked(*w, *host).is_some()
                            || self.net.blocked(*host, *w).is_some()
                            || recent(self.net.freed(*w, *host))
                            || recent(self.net.freed(*host, *w)))
                })
        })
    }

    /// Whether a warm endpoint on `host` has a reason of its own to serve: a hot one does not, did not a
    /// moment ago, or cannot be reached from there.
    pub fn is_needed(&self, host: usize, service: &ServiceName) -> bool {
        let recent = |at: At| at > 0 && self.now < at + 3 * super::S;
        self.endpoints(service).iter().filter(|(_, _, role)| *role == Role::Hot).any(
            |(h, id, _)| {
                let changed = self.hosts[*h].apps.get(id).is_none_or(|app| recent(app.changed));
                changed
                    || recent(self.hosts[*h].since)
                    || self.condition(*h, id) != Some(Condition::Serving)
                    || !self.could_serve(*h, id)
                    || self.net.blocked(host, *h).is_some()
                    || self.net.blocked(*h, host).is_some()
            },
        )
    }

    /// Hot endpoints of a service that do not serve: how many warm ones are needed with `min_hot = 100%`.
    /// Those whose nodes left are not counted, as they are not declared.
    pub fn deficit(&self, service: &ServiceName) -> usize {
        let hot = |(_, _, role): &&(usize, EndpointId, Role)| *role == Role::Hot;
        let all = self.endpoints(service);
        let missing = all.iter().filter(hot).filter(|(host, id, _)| {
            !self.checks.has_left(*host) && self.condition(*host, id) != Some(Condition::Serving)
        });
        missing.count()
    }
}
