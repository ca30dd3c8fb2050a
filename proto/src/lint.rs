//! What can never fail over, or not as its policy means it, and how to mend it.
//!
//! One pure function: facts about services in, [`Finding`]s out, each an enum variant with the numbers it
//! rests on. The rules are those of `hearth check`, one function each below, in the order of the tests.
//! Nothing is guessed: where a fact is not known (an owner of an earlier version, traffic that does not
//! pass here) the rule says that it cannot be known, or nothing.
//!
//! An *error* means that there is a loss no failover will answer; a *warning*, that one is answered worse
//! than it could be; a *note*, that something could not be judged.

mod finding;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use finding::{Domain, Finding, Severity};

use crate::advert::traits::{CheckKind, Traits};
use crate::advert::{Protocol, Role};
use crate::exclusive::electorate::majority;
use crate::failover;
use crate::ids::{EndpointId, NodeName, ServiceName};
use crate::policy::{Caller, Ceiling, Exclusive, Mode, Need, Patience, Policy, ServicePolicy};
use crate::settings::nearest;

/// How long a caller's agent holds a request whose service is being activated.
pub const CALLER_HOLD: Duration = Duration::from_secs(10);
/// Requests from which on it means something that none of them may be repeated.
const TELLING: u64 = 20;
/// Failed activations from which on an endpoint is told of whose activations mostly fail: one may be chance.
const FAILS_OFTEN: u32 = 2;

/// One endpoint.
#[derive(Clone, Debug)]
pub struct EndpointFacts {
    /// Which.
    pub id: EndpointId,
    /// Declared role.
    pub role: Role,
    /// What it speaks.
    pub protocol: Protocol,
    /// Its node's zone, may be empty.
    pub zone: String,
    /// Its capacity; see [`crate::advert::extension::WEIGHT`].
    pub weight: u16,
    /// What its owner says of it; `None`: an owner of an earlier version.
    pub traits: Option<Traits>,
}

/// What passed the agent that answers, since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests that may be repeated (GET, PUT and the like).
    pub repeatable: u64,
    /// Requests that may not (POST and the like).
    pub once: u64,
    /// Most under way at once, as looked at four times a second.
    pub peak: u32,
}

/// A mesh as one agent knows it.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The policy in force.
    pub policy: Policy,
    /// Every endpoint of every node that has not left.
    pub endpoints: Vec<EndpointFacts>,
    /// Every node that has not left.
    pub nodes: BTreeSet<NodeName>,
    /// By service, what passed here; a service that is not in it was not called from here.
    pub traffic: BTreeMap<ServiceName, Traffic>,
}

/// One service, as its rules see it.
struct Service<'a> {
    name: &'a ServiceName,
    policy: &'a ServicePolicy,
    hot: Vec<&'a EndpointFacts>,
    warm: Vec<&'a EndpointFacts>,
    /// By policy.
    needed: usize,
    nodes: &'a BTreeSet<NodeName>,
    traffic: Option<Traffic>,
}

/// Looks at every service that is offered or named by the policy, or at one. The worst comes first for
/// each service.
pub fn check(facts: &Facts, only: Option<&ServiceName>) -> Vec<(ServiceName, Finding)> {
    let mut found = Vec::new();
    for name in services(facts).into_iter().filter(|name| only.is_none_or(|only| only == name)) {
        let mut of_service = check_service(facts, &name);
        of_service.sort_by_key(|finding| std::cmp::Reverse(finding.severity()));
        found.extend(of_service.into_iter().map(|finding| (name.clone(), finding)));
    }
    found
}

/// The services there are to look at.
pub fn services(facts: &Facts) -> BTreeSet<ServiceName> {
    let offered = facts.endpoints.iter().map(|e| &e.id.service);
    offered.chain(facts.policy.services.keys()).cloned().collect()
}

fn check_service(facts: &Facts, name: &ServiceName) -> Vec<Finding> {
    let of_it: Vec<&EndpointFacts> =
        facts.endpoints.iter().filter(|e| e.id.service == *name).collect();
    let policy = facts.policy.service(name);
    let (hot, warm): (Vec<_>, Vec<_>) = of_it.iter().copied().partition(|e| e.role == Role::Hot);
    let service = Service {
        name,
        needed: failover::needed(&policy, hot.len()),
        policy: &policy,
        hot,
        warm,
        nodes: &facts.nodes,
        traffic: facts.traffic.get(name).copied(),
    };
    let mut found = callers(&service);
    if of_it.is_empty() {
        found.push(not_offered(facts, name));
        return found;
    }
    found.extend(redundancy(&service));
    found.extend(domains(&service));
    found.extend(health(&service));
    found.extend(activation(&service));
    found.extend(requests(&service));
    found
}

/// A policy for a service that nobody offers: most likely a misspelt name.
fn not_offered(facts: &Facts, name: &ServiceName) -> Finding {
    let offered: BTreeSet<&str> = facts.endpoints.iter().map(|e| e.id.service.as_str()).collect();
    let meant = nearest(name.as_str(), offered.into_iter()).map(ToOwned::to_owned);
    Finding::NotOffered { meant }
}

/// Who may call at all.
fn callers(s: &Service<'_>) -> Vec<Finding> {
    let named: Vec<&NodeName> = s
        .policy
        .allow
        .iter()
        .filter_map(|caller| match caller {
            Caller::Anyone => None,
            Caller::Node(node) => Some(node),
        })
        .collect();
    if s.policy.allow.is_empty() {
        return vec![Finding::NobodyMayCall];
    }
    let unknown = |node: &&&NodeName| !s.nodes.contains(**node);
    named
        .iter()
        .filter(unknown)
        .map(|node| {
            let known = s.nodes.iter().map(NodeName::as_str);
            let meant = nearest(node.as_str(), known).map(ToOwned::to_owned);
            Finding::UnknownCaller { node: (*node).clone(), meant }
        })
        .collect()
}

/// Whether there is anybody to fail over to, and whether the numbers can be met.
fn redundancy(s: &Service<'_>) -> Vec<Finding> {
    let (hot, warm, needed) = (s.hot.len(), s.warm.len(), s.needed);
    let mut found = Vec::new();
    if let (Mode::Exclusive, Some(lease)) = (s.policy.mode, &s.policy.exclusive) {
        return owners(s, lease);
    }
    if hot == 0 {
        return vec![Finding::NothingHot { warm }];
    }
    if hot + warm == 1 {
        return vec![Finding::OneEndpoint { endpoint: s.hot[0].id.clone() }];
    }
    match s.policy.mode {
        Mode::HotHot if warm > 0 => found.push(Finding::WarmNeverCalled { warm }),
        Mode::HotHot | Mode::Exclusive => {}
        Mode::HotWarm if needed == 0 && warm > 0 => found.push(Finding::NeverShort { warm }),
        Mode::HotWarm if needed > hot + warm => {
            found.push(Finding::Unreachable { needed, hot, warm });
        }
        Mode::HotWarm if needed > hot => found.push(Finding::AlwaysShort { needed, hot }),
        Mode::HotWarm if hot - 1 + warm < needed => {
            found.push(Finding::BenchTooSmall { needed, hot, warm });
        }
        Mode::HotWarm => found.extend(too_light(s)),
    }
    found
}

/// Whether a hot endpoint is so much larger than the bench that its loss is not covered, though their number is.
fn too_light(s: &Service<'_>) -> Option<Finding> {
    let Need::Percent(percent) = s.policy.min_hot else { return None };
    let capacity = |all: &[&EndpointFacts]| all.iter().map(|e| u64::from(e.weight)).sum::<u64>();
    let (hot, warm) = (capacity(&s.hot), capacity(&s.warm));
    let needed = (hot * u64::from(percent.0)).div_ceil(100);
    let largest = s.hot.iter().max_by_key(|e| e.weight)?;
    let left = hot - u64::from(largest.weight) + warm;
    (left < needed).then(|| Finding::BenchTooLight { lost: largest.id.clone(), left, needed })
}

/// Whether somebody may hold the lease of an exclusive service, and whether that survives the loss of an owner.
fn owners(s: &Service<'_>, lease: &Exclusive) -> Vec<Finding> {
    let mut found = Vec::new();
    if lease.owners.len() < 3 {
        found.push(Finding::FewOwners { owners: lease.owners.len() });
    }
    let known = || s.nodes.iter().map(NodeName::as_str);
    found.extend(lease.owners.iter().filter(|owner| !s.nodes.contains(*owner)).map(|owner| {
        let meant = nearest(owner.as_str(), known()).map(ToOwned::to_owned);
        Finding::UnknownOwner { node: owner.clone(), meant }
    }));
    let all = || s.hot.iter().chain(&s.warm);
    if !all().any(|e| lease.owners.contains(&e.id.node)) {
        found.push(Finding::NobodyMayHold);
        return found;
    }
    let never: Vec<EndpointId> =
        all().filter(|e| !lease.owners.contains(&e.id.node)).map(|e| e.id.clone()).collect();
    if !never.is_empty() {
        found.push(Finding::NoOwners { endpoints: never });
    }
    found
}

/// What shares a host or a zone is lost together.
fn domains(s: &Service<'_>) -> Vec<Finding> {
    let all: Vec<&EndpointFacts> = s.hot.iter().chain(&s.warm).copied().collect();
    if all.len() < 2 {
        return Vec::new();
    }
    let hosts: BTreeSet<&NodeName> = all.iter().map(|e| &e.id.node).collect();
    if hosts.len() == 1 {
        let host = all[0].id.node.clone();
        return vec![Finding::OneHost { host, endpoints: all.len() }];
    }
    let mut found: Vec<Finding> = hosts
        .into_iter()
        .filter_map(|host| left_without(s, Domain::Host(host.clone()), |e| e.id.node == *host))
        .collect();
    let zones: BTreeSet<&str> = all.iter().map(|e| e.zone.as_str()).collect();
    if zones.contains("") {
        found.push(Finding::ZonesUnknown {
            endpoints: all.iter().filter(|e| e.zone.is_empty()).count(),
        });
    } else if zones.len() == 1 {
        found.push(Finding::OneZone { zone: all[0].zone.clone(), endpoints: all.len() });
    } else {
        let lost = zones
            .into_iter()
            .filter_map(|zone| left_without(s, Domain::Zone(zone.to_owned()), |e| e.zone == *zone));
        found.extend(lost);
    }
    found
}

/// Whether too few are left when everything that `lost` says is gone, and that is more than one: a single
/// endpoint is what counting them looks at.
fn left_without(
    s: &Service<'_>,
    domain: Domain,
    lost: impl Fn(&EndpointFacts) -> bool,
) -> Option<Finding> {
    if s.hot.iter().chain(&s.warm).filter(|e| lost(e)).count() < 2 {
        return None;
    }
    if let (Mode::Exclusive, Some(lease)) = (s.policy.mode, &s.policy.exclusive) {
        let gone = |owner: &&NodeName| {
            s.hot.iter().chain(&s.warm).any(|e| e.id.node == **owner && lost(e))
        };
        let left = lease.owners.len() - lease.owners.iter().filter(gone).count();
        let needed = majority(lease.owners.len());
        return (left < needed).then_some(Finding::MajorityTogether { domain, left, needed });
    }
    let left = |all: &[&EndpointFacts]| all.iter().filter(|e| !lost(e)).count();
    let bench = match s.policy.mode {
        Mode::HotHot => 0,
        Mode::HotWarm | Mode::Exclusive => left(&s.warm),
    };
    let left = left(&s.hot) + bench;
    // In mode hot-hot the survivors absorb, as long as there are any.
    let needed = match s.policy.mode {
        Mode::HotHot => 1,
        Mode::HotWarm | Mode::Exclusive => s.needed,
    };
    (left < needed).then_some(Finding::DomainNotCovered { domain, left, needed })
}

/// Whether an owner learns that its endpoint is not well.
fn health(s: &Service<'_>) -> Vec<Finding> {
    let all = || s.hot.iter().chain(&s.warm);
    let with = |fits: &dyn Fn(&EndpointFacts, CheckKind) -> bool| -> Vec<EndpointId> {
        all().filter(|e| e.traits.is_some_and(|t| fits(e, t.check))).map(|e| e.id.clone()).collect()
    };
    let mut found = Vec::new();
    let unchecked = with(&|_, check| check == CheckKind::None);
    if !unchecked.is_empty() {
        found.push(Finding::NoHealthSignal { endpoints: unchecked });
    }
    let shallow = with(&|e, check| {
        check == CheckKind::Tcp && matches!(e.protocol, Protocol::Http | Protocol::Grpc)
    });
    if !shallow.is_empty() {
        found.push(Finding::ShallowCheck { endpoints: shallow });
    }
    let unanswered = with(&|_, check| check == CheckKind::Udp);
    if !unanswered.is_empty() {
        found.push(Finding::UnansweredCheck { endpoints: unanswered });
    }
    let silent: Vec<EndpointId> =
        all().filter(|e| e.traits.is_none()).map(|e| e.id.clone()).collect();
    if !silent.is_empty() {
        found.push(Finding::OwnerSaysNothing { endpoints: silent });
    }
    found
}

/// Whether warm endpoints serve in time when they are called.
fn activation(s: &Service<'_>) -> Vec<Finding> {
    let budget = s.policy.timeout.0.min(CALLER_HOLD);
    let ms = |ms: u32| Duration::from_millis(ms.into());
    let mut found = Vec::new();
    for e in &s.warm {
        let (Some(t), endpoint) = (e.traits, e.id.clone()) else { continue };
        let a = t.activations;
        if a.failed >= FAILS_OFTEN && 2 * a.failed > a.attempts {
            let (failed, attempts) = (a.failed, a.attempts);
            found.push(Finding::ActivationFails { endpoint, failed, attempts });
        } else if a.succeeded() > 0 && ms(a.p95_ms) > budget {
            let (p95, alone) = (ms(a.p95_ms), s.hot.len() == 1);
            found.push(Finding::ActivationTooSlow { endpoint, p95, budget, alone });
        } else if a.succeeded() == 0 {
            let most = (t.hook && ms(t.deadline_ms) > budget).then(|| ms(t.deadline_ms));
            found.push(Finding::NeverRehearsed { endpoint, most, budget });
        }
    }
    found
}

/// Whether the requests that a loss meets can go elsewhere.
fn requests(s: &Service<'_>) -> Vec<Finding> {
    let p = s.policy;
    let mut found = Vec::new();
    if p.retries == 0 {
        found.push(Finding::RetriesOff);
    }
    if let Patience::For(per_try) = p.per_try_timeout
        && per_try >= p.timeout
    {
        found.push(Finding::NoTimeToRetry { per_try: per_try.0, timeout: p.timeout.0 });
    }
    let all = || s.hot.iter().chain(&s.warm);
    if all().any(|e| matches!(e.protocol, Protocol::Http)) {
        found.extend(match s.traffic {
            None => Some(Finding::TrafficUnknown { service: s.name.clone() }),
            Some(Traffic { repeatable: 0, once, .. }) if once >= TELLING => {
                Some(Finding::OnlyOnce { seen: once })
            }
            Some(_) => None,
        });
    }
    if let (Ceiling::At(most), Some(Traffic { peak, .. })) = (p.max_requests, s.traffic) {
        let serving = u32::try_from(s.hot.len()).unwrap_or(u32::MAX);
        let left = serving.saturating_sub(1).max(1);
        if serving > 1 && u64::from(peak) > u64::from(left) * u64::from(most) {
            found.push(Finding::CeilingTooLow { most, peak, left });
        }
    }
    found
}
