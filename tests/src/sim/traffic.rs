//! Callers that pick, retry and report as the proxy does.

use hearth_proto::advert::{Condition, Role};
use hearth_proto::evidence::Outcome;
use hearth_proto::ids::{EndpointId, ServiceName};
use hearth_proto::outlier::{SAMPLE_EVERY, Sample};
use hearth_proto::route::Choice;
use rand::RngExt;
use std::sync::Arc;
use std::time::Duration;

use super::application::{App, WELL};
use super::host::Life;
use super::world::{What, World};
use super::{At, MS, S};

/// One try of a request.
const TRY: u64 = S;
/// A try that a hedge got ahead of is heard out for so long.
const HEAR_OUT: u64 = 500 * MS;
/// Tries of one request.
const TRIES: u32 = 4;
/// An endpoint in reach is known to be so after this: the longest wait between two dials (1 s), a dial's
/// first packet repeated (0.3 s), and as long again for the record.
const KNOWN: u64 = 2_500 * MS;
const OUT_OF_TRIES: &str = "too many tries";
/// A request whose service is being called up is held so long.
const HOLD: u64 = 10 * S;
/// Requests of one caller to one service, per second, unless a scenario says otherwise.
pub(super) const RATE: u64 = 8;
/// Between two samples of what endpoints answered, in microseconds.
const SAMPLE: u64 = SAMPLE_EVERY.as_micros() as u64;

/// A try that a hedge got ahead of.
#[derive(Debug)]
pub struct Overtaken {
    caller: usize,
    target: usize,
    endpoint: EndpointId,
    asked: At,
    until: At,
}

/// What comes back from an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It was not accepted.
    Refused,
    /// An answer.
    Good,
    /// An answer that is an error of the application's.
    Error,
}

/// A request under way.
#[derive(Clone, Debug)]
pub struct Request {
    caller: usize,
    service: ServiceName,
    began: At,
    attempt: u32,
    /// When this attempt began.
    asked: At,
    target: Option<(usize, EndpointId)>,
    tried: Vec<EndpointId>,
    needed: Option<At>,
}

impl World {
    // ---- applications --------------------------------------------------------------------------

    pub(super) fn start_apps(&mut self, host: usize) {
        let epoch = self.hosts[host].epoch;
        let ids: Vec<EndpointId> = self.hosts[host].apps.keys().cloned().collect();
        for endpoint in ids {
            let first = self.rng.random_range(10 * MS..200 * MS);
            self.after(first, What::Check { host, endpoint, epoch, again: true });
        }
        for service in self.hosts[host].spec.interest.clone() {
            let first = self.rng.random_range(0..S / RATE);
            self.after(first, What::Call { host, service, epoch });
        }
        if !self.hosts[host].spec.interest.is_empty() {
            self.after(SAMPLE, What::Samples { host, epoch });
        }
    }

    // ---- callers -------------------------------------------------------------------------------

    pub(super) fn call(&mut self, host: usize, service: ServiceName) {
        let epoch = self.hosts[host].epoch;
        let rate = self.rate;
        let next = self.rng.random_range(S / rate / 2..S * 3 / rate / 2);
        self.after(next, What::Call { host, service: service.clone(), epoch });
        if self.hosts[host].life != Life::Running || !self.calling {
            return;
        }
        let id = self.fresh();
        self.stats.requests += 1;
        let request = Request {
            caller: host,
            service,
            began: self.now,
            attempt: 0,
            asked: self.now,
            target: None,
            tried: Vec::new(),
            needed: None,
        };
        self.requests.insert(id, request);
        self.retry(id);
    }

    /// Picks, tries, or waits.
    pub(super) fn retry(&mut self, id: u64) {
        let Some(request) = self.requests.get(&id) else { return };
        let (caller, service) = (request.caller, request.service.clone());
        if self.hosts[caller].life != Life::Running {
            self.after(20 * MS, What::Retry { request: id });
            return;
        }
        if request.attempt >= TRIES {
            self.fail(id, OUT_OF_TRIES);
            return;
        }
        let snapshot = self.hosts[caller].node.as_ref().map(|n| n.snapshot());
        let Some(route) = snapshot.as_ref().and_then(|s| s.services.get(&service)) else {
            self.fail(id, "no route");
            return;
        };
        let route = Arc::clone(route);
        self.note_view(caller, &route);
        let Some(request) = self.requests.get(&id) else { return };
        match &route.choice {
            Choice::Serve(_) | Choice::Panic(_) | Choice::Relay(_) => {
                let random: u64 = self.rng.random();
                let decision = route.pick(random, &request.tried, |_, _| 0);
                let Some(pick) = decision.pick else {
                    // All were tried: whoever comes up next gets it.
                    self.hold(id, caller, &service, decision.reason);
                    return;
                };
                let (endpoint, certain) =
                    (pick.id.clone(), matches!(route.choice, Choice::Serve(_)));
                self.attempt(id, caller, endpoint, certain);
            }
            Choice::Wake(_) => self.hold(id, caller, &service, "held for too long"),
            Choice::Nobody => {
                self.step(caller, |node, now| node.handle_need(now, &service));
                self.fail(id, "nobody");
            }
        }
    }

    fn hold(&mut self, id: u64, caller: usize, service: &ServiceName, why: &'static str) {
        let now = self.now;
        let Some(request) = self.requests.get_mut(&id) else { return };
        if now >= request.began + HOLD {
            self.fail(id, why);
            return;
        }
        if request.needed.is_none_or(|t| now >= t + 500 * MS) {
            // Who failed it half a second ago may answer now; the number of tries is bounded all the same.
            if request.needed.is_some() {
                request.tried.clear();
            }
            request.needed = Some(now);
            self.step(caller, |node, now| node.handle_need(now, service));
        }
        self.after(10 * MS, What::Retry { request: id });
    }

    fn attempt(&mut self, id: u64, caller: usize, endpoint: EndpointId, certain: bool) {
        let Some(target) = self.index(&endpoint.node) else { return };
        if certain {
            self.check_pick(caller, target, &endpoint);
        }
        self.note_pick(caller, &endpoint);
        let Some(request) = self.requests.get_mut(&id) else { return };
        request.attempt += 1;
        request.asked = self.now;
        request.tried.push(endpoint.clone());
        request.target = Some((target, endpoint.clone()));
        let attempt = request.attempt;
        self.stats.retries += u64::from(attempt > 1);
        let patience = self.hedge.unwrap_or(TRY).min(TRY);
        self.after(patience, What::TryLimit { request: id, attempt });
        let latency = if target == caller {
            50
        } else {
            // Its packets are acknowledged by the agent there, whatever the application does.
            self.ping(caller, target);
            self.net.stream(caller, target, &mut self.rng)
        };
        let arrive = What::Arrive { request: id, attempt, from: caller, to: target, endpoint };
        self.after(latency, arrive);
    }

    pub(super) fn try_arrives(
        &mut self,
        request: u64,
        attempt: u32,
        from: usize,
        to: usize,
        endpoint: EndpointId,
    ) {
        if self.net.blocked(from, to).is_some() && from != to {
            return;
        }
        match self.hosts[to].life {
            Life::Off => {}
            Life::Paused => {
                self.after(50 * MS, What::Arrive { request, attempt, from, to, endpoint });
            }
            Life::Running => {
                let accepted = self.hosts[to].apps.get(&endpoint).is_some_and(App::accepts);
                if !accepted {
                    self.step(to, |node, now| node.handle_health(now, &endpoint, false));
                }
                let (work, reply) = self.work(to, &endpoint, accepted);
                let back = self.net.stream(to, from, &mut self.rng);
                let hung = self.hosts[to].apps.get(&endpoint).is_some_and(|app| app.hung);
                let passes = self.net.blocked(to, from).is_none() || from == to;
                if passes && !(hung && accepted) {
                    self.after(work + back, What::Answer { request, attempt, reply });
                }
            }
        }
    }

    /// How long an endpoint works on a request, and what comes of it.
    fn work(&mut self, host: usize, endpoint: &EndpointId, accepted: bool) -> (u64, Reply) {
        if !accepted {
            return (100, Reply::Refused);
        }
        let work = self.rng.random_range(MS..15 * MS);
        let gray = self.hosts[host].apps.get(endpoint).map_or(WELL, |app| app.gray);
        // Drawn only where it matters, so that other worlds are not changed by it.
        let wrong = gray.errors > 0.0 && self.rng.random_bool(gray.errors);
        (work * gray.slower, if wrong { Reply::Error } else { Reply::Good })
    }

    pub(super) fn try_answered(&mut self, id: u64, attempt: u32, reply: Reply) {
        let Some(request) = self.requests.get(&id).filter(|r| r.attempt == attempt) else {
            self.answered_late(id, attempt, reply);
            return;
        };
        let Some((target, endpoint)) = request.target.clone() else { return };
        let (caller, began, asked) = (request.caller, request.began, request.asked);
        if self.hosts[caller].life == Life::Paused {
            self.after(20 * MS, What::Answer { request: id, attempt, reply });
            return;
        }
        if self.net.blocked(target, caller).is_some() {
            return;
        }
        let latency = Duration::from_micros(self.now - asked);
        match reply {
            Reply::Refused => {
                self.report(caller, &endpoint, Outcome::Refused);
                self.retry(id);
                return;
            }
            Reply::Error => self.sample_of(caller, &endpoint).failed(),
            Reply::Good => self.sample_of(caller, &endpoint).answered(latency),
        }
        self.stats.errors += u64::from(reply == Reply::Error);
        self.requests.remove(&id);
        let heard_out = self.now + HEAR_OUT;
        for (_, late) in self.overtaken.range_mut((id, 0)..=(id, u32::MAX)) {
            late.until = heard_out;
        }
        self.stats.slowest = self.stats.slowest.max(self.now - began);
        let snapshot = self.hosts[caller].node.as_ref().map(|n| n.snapshot());
        let watched = snapshot
            .and_then(|s| s.services.get(&endpoint.service).map(|r| r.watched))
            .unwrap_or(false);
        if watched || self.sour.remove(&(caller, endpoint.clone())) {
            self.report(caller, &endpoint, Outcome::Answered { latency });
        }
    }

    /// Who was overtaken by a hedge and answers soon after was only late.
    fn answered_late(&mut self, id: u64, attempt: u32, reply: Reply) {
        let Some(late) = self.overtaken.get(&(id, attempt)) else { return };
        if self.hosts[late.caller].life == Life::Paused {
            self.after(20 * MS, What::Answer { request: id, attempt, reply });
            return;
        }
        let Some(late) = self.overtaken.remove(&(id, attempt)) else { return };
        let Overtaken { caller, target, endpoint, asked, until } = late;
        let heard = self.net.blocked(target, caller).is_none() || target == caller;
        let lives = heard && self.now <= until && reply != Reply::Refused;
        if lives && self.sour.remove(&(caller, endpoint.clone())) {
            let latency = Duration::from_micros(self.now - asked);
            self.report(caller, &endpoint, Outcome::Answered { latency });
        }
    }

    pub(super) fn try_limit(&mut self, id: u64, attempt: u32) {
        let Some(request) = self.requests.get(&id).filter(|r| r.attempt == attempt) else { return };
        let Some((target, endpoint)) = request.target.clone() else { return };
        let (caller, asked) = (request.caller, request.asked);
        if self.hosts[caller].life == Life::Paused {
            self.after(20 * MS, What::TryLimit { request: id, attempt });
            return;
        }
        if self.hedge.is_some() {
            while self.overtaken.first_entry().is_some_and(|e| e.get().until < self.now) {
                self.overtaken.pop_first();
            }
            // Until another try is answered, and then for as long as it is heard out.
            let until = self.now + TRY;
            let late = Overtaken { caller, target, endpoint: endpoint.clone(), asked, until };
            self.overtaken.insert((id, attempt), late);
        }
        self.report(caller, &endpoint, Outcome::TimedOut);
        self.retry(id);
    }

    /// A link went silent: what is under way there is tried elsewhere at once.
    pub(super) fn fail_tries(&mut self, caller: usize, peer: usize) {
        let broken: Vec<(u64, EndpointId)> = self
            .requests
            .iter()
            .filter(|(_, r)| r.caller == caller)
            .filter_map(|(id, r)| Some((*id, r.target.clone()?)))
            .filter(|(_, (target, _))| *target == peer)
            .map(|(id, (_, endpoint))| (id, endpoint))
            .collect();
        for (id, endpoint) in broken {
            if let Some(r) = self.requests.get_mut(&id) {
                r.target = None;
            }
            self.report(caller, &endpoint, Outcome::Broken);
            // In a turn of its own: the silence itself is still being told.
            self.after(0, What::Retry { request: id });
        }
    }

    fn report(&mut self, caller: usize, endpoint: &EndpointId, outcome: Outcome) {
        if !matches!(outcome, Outcome::Answered { .. }) {
            self.sour.insert((caller, endpoint.clone()));
        }
        if matches!(outcome, Outcome::Refused | Outcome::TimedOut) {
            self.sample_of(caller, endpoint).failed();
        }
        self.step(caller, |node, now| node.handle_outcome(now, endpoint, outcome));
    }

    fn sample_of(&mut self, caller: usize, endpoint: &EndpointId) -> &mut Sample {
        self.hosts[caller].samples.entry(endpoint.clone()).or_default()
    }

    /// Hands what a caller counted to its core, as the agent does.
    pub(super) fn tell_samples(&mut self, host: usize) {
        let epoch = self.hosts[host].epoch;
        self.after(SAMPLE, What::Samples { host, epoch });
        if self.hosts[host].life == Life::Running {
            let samples: Vec<_> =
                std::mem::take(&mut self.hosts[host].samples).into_iter().collect();
            if !samples.is_empty() {
                self.step(host, |node, now| node.handle_samples(now, &samples));
            }
        }
    }

    fn fail(&mut self, id: u64, why: &'static str) {
        let Some(request) = self.requests.remove(&id) else { return };
        self.stats.failed += 1;
        // That its few tries met none but those just lost is bad luck within the policy's bound (seed 54).
        if why != OUT_OF_TRIES
            && let Some(endpoint) = self.would_have_answered(&request)
        {
            self.stats.avoidable += 1;
            let host = &self.hosts[request.caller].name;
            let what =
                format!("a request of {host} failed ({why}) that {endpoint} would have answered");
            self.checks.violate(self.now, &what);
        }
        *self.stats.failures.entry(why).or_default() += 1;
        if self.stats.failed <= 50 {
            let host = self.hosts[request.caller].name.clone();
            let tried = request.tried;
            self.tell(|| {
                format!(
                    "a request of {host} for {} failed: {why}, tried {tried:?}",
                    request.service
                )
            });
        }
    }

    /// An endpoint that served, in reach of its caller, all the time a failed request was under way and long
    /// enough before for the caller to know it.
    fn would_have_answered(&self, request: &Request) -> Option<EndpointId> {
        let (caller, began) = (request.caller, request.began);
        let before = |at: At| at == 0 || at + KNOWN <= began;
        if !before(self.hosts[caller].since)
            || !before(self.checks.loss_ended)
            || self.net.is_lossy()
        {
            return None;
        }
        let fit = |(host, id, _): &(usize, EndpointId, Role)| {
            let h = &self.hosts[*host];
            self.could_serve(*host, id)
                && self.condition(*host, id) == Some(Condition::Serving)
                && before(h.since)
                && h.apps.get(id).is_some_and(|app| before(app.changed) && before(app.served))
                && self.net.blocked(caller, *host).is_none()
                && self.net.blocked(*host, caller).is_none()
                && before(self.net.freed(caller, *host))
                && before(self.net.freed(*host, caller))
        };
        let all = self.endpoints(&request.service);
        all.into_iter().find(fit).map(|(_, id, _)| id)
    }

    pub(super) fn drop_requests_of(&mut self, host: usize) {
        self.requests.retain(|_, r| r.caller != host);
        self.sour.retain(|(h, _)| *h != host);
    }
}
