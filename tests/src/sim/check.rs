//! The invariants, checked while a world runs and when it has come to rest.
//!
//! Bounds are those of `proto/ALGORITHM.md`; each constant says where it comes from. A violation is kept
//! as text with its moment; the first one of a run is what its seed is remembered for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use hearth_proto::advert::{Condition, Role};
use hearth_proto::ids::{EndpointId, NodeName, Version};
use hearth_proto::policy::Failback;
use hearth_proto::wire;

use super::host::Life;
use super::keyring::fingerprint;
use super::world::World;
use super::{At, MS, S};

/// Deadlines that one core of so many may reach in one second of virtual time: probes, gossip, digests and
/// rechecks are some twenty, and it may meet all others in one second. A hundredfold of it is a loop.
pub fn most_turns(hosts: usize) -> u32 {
    2_000 + 2 * u32::try_from(hosts).unwrap_or_default()
}

/// Events per host in one second of virtual time: a mesh under faults makes a few hundred.
pub const MAX_EVENTS: u64 = 10_000;
/// A caller with a link picks a dead endpoint no longer than this after its death: at most a watched
/// peer's ping interval (250 ms) until something is sent, the silence threshold (20 ms, or about 1.5 round
/// trips), and a tick.
const PICK_BOUND: u64 = 300 * MS;
/// Without a link: a dial's limit (1 s) and the longest wait between two dials (1 s) more.
const PICK_BOUND_UNLINKED: u64 = PICK_BOUND + 2_200 * MS;
/// A caller that began to watch, or to run, needs a moment to have links and a view.
const SETTLE: u64 = 3 * S;
/// After trouble is over a call-up may still be under way: SWIM's verdict, a hook, a wake held (10 s of
/// start grace are the longest).
const TROUBLE: u64 = 15 * S;
/// Largest deviation of a failback from the hold, by what the owner learns late.
const LATE_VIEW: u64 = 3 * S;

/// Records by their origin: which version, and its bytes.
type Held = BTreeMap<NodeName, (Version, Arc<[u8]>)>;

/// The state of the checks.
pub struct Checks {
    /// What was violated, and when.
    pub violations: Vec<String>,
    /// When a drill last began; 0 where none did.
    pub drilled: At,
    /// When loss of packets last ended.
    pub loss_ended: At,
    /// Whether warm endpoints called up are held against the truth: partitions give each side its own.
    pub strict: bool,
    /// The hold of failback in force.
    pub failback: u64,
    /// Faults so far.
    pub faults: u32,
    /// By host: each record it held when it was looked at last.
    held: Vec<Held>,
    /// Hosts whose certificate was withdrawn.
    pub revoked: BTreeSet<usize>,
    left: BTreeSet<usize>,
    last_deficit: BTreeMap<String, At>,
    changes: BTreeMap<EndpointId, u32>,
    /// Call-ups by service.
    pub activations: BTreeMap<String, u32>,
}

impl Checks {
    /// For a world of `n` hosts.
    pub fn new(n: usize) -> Self {
        Self {
            violations: Vec::new(),
            drilled: 0,
            loss_ended: 0,
            strict: true,
            failback: 30 * S,
            faults: 0,
            held: vec![BTreeMap::new(); n],
            revoked: BTreeSet::new(),
            left: BTreeSet::new(),
            last_deficit: BTreeMap::new(),
            changes: BTreeMap::new(),
            activations: BTreeMap::new(),
        }
    }

    /// Keeps a violation.
    pub fn violate(&mut self, now: At, what: &str) {
        if self.violations.len() < 20 {
            self.violations.push(format!("{:.3}s: {what}", now as f64 / S as f64));
        }
    }

    /// A host started: its view begins anew.
    pub fn started(&mut self, host: usize) {
        self.held[host].clear();
        self.left.remove(&host);
    }

    /// A host left in good order.
    pub fn leaving(&mut self, host: usize) {
        self.left.insert(host);
    }

    /// Whether it did.
    pub fn has_left(&self, host: usize) -> bool {
        self.left.contains(&host)
    }

    pub(super) fn activated(&mut self, _now: At, endpoint: &EndpointId) {
        *self.activations.entry(endpoint.service.to_string()).or_default() += 1;
    }
}

impl World {
    /// A certain pick: it must not be of an endpoint that is dead for longer than the bound.
    pub(super) fn check_pick(&mut self, caller: usize, target: usize, endpoint: &EndpointId) {
        let Some(dead) = self.unreachable_since(caller, target) else { return };
        let now = self.now;
        let side = self.side(caller, target);
        let watched = side.watched().unwrap_or(now);
        let linked = side.is_up();
        let rtt = self.net.rtt(caller, target);
        let bound = if linked { PICK_BOUND } else { PICK_BOUND_UNLINKED } + 2 * rtt;
        let since = dead.max(self.hosts[caller].since + SETTLE).max(watched + SETTLE);
        if self.now > since + bound {
            let late = (self.now - since) / MS;
            let name = self.hosts[caller].name.clone();
            let e = format!("{name} picked {endpoint}, dead for {late} ms (linked: {linked})");
            self.checks.violate(self.now, &e);
        }
    }

    pub(super) fn condition_changed(
        &mut self,
        host: usize,
        endpoint: &EndpointId,
        from: &'static str,
        to: &'static str,
    ) {
        let (faults, now) = (self.checks.faults, self.now);
        if let Some(app) = self.hosts[host].apps.get_mut(endpoint).filter(|_| to == "serving") {
            app.served = now;
        }
        let changes = self.checks.changes.entry(endpoint.clone()).or_default();
        *changes += 1;
        let n = *changes;
        // Up and down again is five changes; each fault may cause it once, a failing hook once more.
        if n > 12 + 12 * faults {
            let what = format!("{endpoint} changed its condition {n} times over {faults} faults");
            self.checks.violate(self.now, &what);
        }
        if (from, to) == ("standby", "activating") {
            let service = endpoint.service.clone();
            if !self.was_troubled(&service, TROUBLE) {
                let what = format!("{endpoint} was called up though nothing was lost");
                self.checks.violate(self.now, &what);
            }
        }
        let role = self.hosts[host].spec.endpoints.iter().find(|e| e.id == *endpoint);
        let warm = role.is_some_and(|e| e.role != Role::Hot);
        if warm && (from, to) == ("serving", "draining") && !self.checks.has_left(host) {
            self.check_failback(host, endpoint);
        }
    }

    /// A warm endpoint stands down: not before the hold after it was last needed.
    fn check_failback(&mut self, host: usize, endpoint: &EndpointId) {
        if !self.checks.strict {
            return;
        }
        let service = endpoint.service.to_string();
        let last = self.checks.last_deficit.get(&service).copied().unwrap_or(0);
        let hold = self.checks.failback;
        let others = self.endpoints(&endpoint.service).into_iter().filter(|(h, id, role)| {
            *role != Role::Hot && *h != host && self.condition(*h, id) == Some(Condition::Serving)
        });
        let others = others.count();
        if self.now + LATE_VIEW < last + hold && others < self.deficit(&endpoint.service) {
            let early = (last + hold - self.now) / MS;
            let what = format!("{endpoint} stood down {early} ms before its hold was over");
            self.checks.violate(self.now, &what);
        }
    }

    /// Once a second: the laws that hold at any moment.
    pub(super) fn sample(&mut self) {
        for service in self.services() {
            if self.deficit(&service) > 0 {
                self.checks.last_deficit.insert(service.to_string(), self.now);
            }
        }
        if self.stats.datagram > wire::MAX_SWIM + 2 {
            let size = self.stats.datagram;
            self.checks.violate(self.now, &format!("a datagram of {size} bytes"));
        }
        if self.stats.message > wire::MAX_MESSAGE {
            let size = self.stats.message;
            self.checks.violate(self.now, &format!("a message of {size} bytes"));
        }
        for host in 0..self.hosts.len() {
            if self.hosts[host].life == Life::Running {
                self.check_sizes(host);
                self.check_records(host);
            }
        }
    }

    fn check_sizes(&mut self, host: usize) {
        let n = self.hosts.len();
        let Some(sizes) = self.hosts[host].node.as_ref().map(|n| n.sizes()) else { return };
        // Six periodic ones, one suspicion per probe and one removal per death of each member.
        let timers = 32 + 8 * n + 4 * self.checks.faults as usize;
        let bad = sizes.timers > timers
            || sizes.nodes > n
            || sizes.wanted > n
            || sizes.outbox > 0
            || sizes.events > 0
            || sizes.incidents > hearth_proto::node::MAX_INCIDENTS;
        if bad {
            self.checks.violate(self.now, &format!("host {host} holds {sizes:?}"));
        }
    }

    /// Every record is one its owner signed, and no version goes back.
    fn check_records(&mut self, host: usize) {
        let mut found = Vec::new();
        let Some(node) = &self.hosts[host].node else { return };
        let mut held = std::mem::take(&mut self.checks.held[host]);
        for (name, entry) in node.table().iter() {
            let (version, body) = (entry.signed.version, &entry.signed.body);
            let before = held.get(name);
            // The very record that was looked at before.
            if before.is_some_and(|(v, b)| *v == version && Arc::ptr_eq(b, body)) {
                continue;
            }
            if before.is_some_and(|(before, _)| *before > version) {
                found.push(format!("on host {host} the version of {name} went back to {version}"));
            }
            let owner = self.index(name).map(|i| &self.hosts[i].signed);
            let print = fingerprint(body);
            let said = owner
                .is_some_and(|s| s.lock().unwrap_or_else(PoisonError::into_inner).contains(&print));
            if !said {
                found.push(format!("host {host} holds a record of {name} that it never signed"));
            }
            held.insert(name.clone(), (version, body.clone()));
        }
        self.checks.held[host] = held;
        for what in found {
            self.checks.violate(self.now, &what);
        }
    }

    /// At rest: every view is the truth, and as many warm endpoints serve as are needed.
    pub fn check_rest(&mut self) {
        let running: Vec<usize> =
            (0..self.hosts.len()).filter(|i| self.hosts[*i].life == Life::Running).collect();
        let mut found = Vec::new();
        let digests: Vec<(usize, wire::Digest)> = running
            .iter()
            .filter_map(|i| Some((*i, self.hosts[*i].node.as_ref()?.digest())))
            .collect();
        if let Some((first, digest)) = digests.first() {
            for (other, theirs) in &digests[1..] {
                if theirs.table != digest.table {
                    found.push(format!("the tables of hosts {first} and {other} differ"));
                }
                if theirs.members != digest.members {
                    found.push(format!("the members of hosts {first} and {other} differ"));
                }
            }
        }
        for i in &running {
            let now = self.local(*i);
            let Some(node) = &self.hosts[*i].node else { continue };
            for member in node.members_view(now) {
                let truth = self.index(&member.node).is_some_and(|h| running.contains(&h));
                // Who was cut off is unsteady for a while after it is back.
                if member.lives() != truth {
                    let (who, state) = (&member.node, &member.state);
                    found.push(format!("host {i} takes {who} for {state}; it runs: {truth}"));
                }
            }
            let known = node.members_view(now).len();
            if known < running.len() {
                found.push(format!("host {i} knows {known} of {} members", running.len()));
            }
        }
        self.check_bench(&mut found);
        self.check_benched(&mut found);
        for what in found {
            self.checks.violate(self.now, &what);
        }
    }

    /// No application is activated whose endpoint stands by, whatever became of the agent that activated it.
    fn check_benched(&self, found: &mut Vec<String>) {
        for host in self.hosts.iter().filter(|h| h.life == Life::Running) {
            let Some(snapshot) = host.node.as_ref().map(|node| node.snapshot()) else { continue };
            for (id, _) in host.apps.iter().filter(|(_, app)| app.activated) {
                if snapshot.own.get(id) == Some(&Condition::Standby) {
                    found.push(format!("{id} stands by, and its application is activated"));
                }
            }
        }
    }

    fn check_bench(&self, found: &mut Vec<String>) {
        for service in self.services() {
            let all = self.endpoints(&service);
            let warm: Vec<_> = all.iter().filter(|(_, _, role)| *role != Role::Hot).collect();
            let able = warm.iter().filter(|(h, id, _)| {
                self.hosts[*h].life == Life::Running && self.hosts[*h].apps[id].up
            });
            let up = warm.iter().filter(|(h, id, _)| {
                matches!(self.condition(*h, id), Some(Condition::Serving | Condition::Activating))
            });
            let (able, up) = (able.count(), up.count());
            let need = self.deficit(&service).min(able);
            if up != need {
                found.push(format!("{service}: {up} warm endpoints are up, {need} are needed"));
            }
        }
    }

    /// The failback hold of the policy that is being given out.
    pub fn expect_failback(&mut self, failback: Failback) {
        self.checks.failback = match failback {
            Failback::Never | Failback::Manual => u64::MAX / 2,
            Failback::After(span) => u64::try_from(span.0.as_micros()).unwrap_or(u64::MAX / 2),
        };
    }
}
