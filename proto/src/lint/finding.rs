//! The findings: what is so, how bad it is, how to mend it. Wording only, one place for all who show it.

use std::fmt;
use std::time::Duration;

use crate::ids::{EndpointId, NodeName, ServiceName};
use crate::time::Span;

/// How bad a finding is; the worst is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something could not be judged.
    Note,
    /// A loss is answered worse than it could be.
    Warning,
    /// There is a loss that no failover will answer.
    Error,
}

impl Severity {
    /// The word used in tables and JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What is lost together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Domain {
    /// One host.
    Host(NodeName),
    /// One zone.
    Zone(String),
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(node) => write!(f, "host {node}"),
            Self::Zone(zone) => write!(f, "zone {zone}"),
        }
    }
}

/// One weakness of one service, with the numbers it rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is described by its sentence below, and shown by a test of its own
pub enum Finding {
    NotOffered { meant: Option<String> },
    NobodyMayCall,
    UnknownCaller { node: NodeName, meant: Option<String> },
    NothingHot { warm: usize },
    OneEndpoint { endpoint: EndpointId },
    FewOwners { owners: usize },
    UnknownOwner { node: NodeName, meant: Option<String> },
    NobodyMayHold,
    NoOwners { endpoints: Vec<EndpointId> },
    MajorityTogether { domain: Domain, left: usize, needed: usize },
    WarmNeverCalled { warm: usize },
    NeverShort { warm: usize },
    Unreachable { needed: usize, hot: usize, warm: usize },
    AlwaysShort { needed: usize, hot: usize },
    BenchTooSmall { needed: usize, hot: usize, warm: usize },
    BenchTooLight { lost: EndpointId, left: u64, needed: u64 },
    OneHost { host: NodeName, endpoints: usize },
    OneZone { zone: String, endpoints: usize },
    ZonesUnknown { endpoints: usize },
    DomainNotCovered { domain: Domain, left: usize, needed: usize },
    NoHealthSignal { endpoints: Vec<EndpointId> },
    ShallowCheck { endpoints: Vec<EndpointId> },
    UnansweredCheck { endpoints: Vec<EndpointId> },
    OwnerSaysNothing { endpoints: Vec<EndpointId> },
    ActivationFails { endpoint: EndpointId, failed: u32, attempts: u32 },
    ActivationTooSlow { endpoint: EndpointId, p95: Duration, budget: Duration, alone: bool },
    NeverRehearsed { endpoint: EndpointId, most: Option<Duration>, budget: Duration },
    RetriesOff,
    NoTimeToRetry { per_try: Duration, timeout: Duration },
    OnlyOnce { seen: u64 },
    TrafficUnknown { service: ServiceName },
    CeilingTooLow { most: u32, peak: u32, left: u32 },
}

/// Endpoints named in one sentence; of more their number is said.
const NAMED: usize = 4;

impl Finding {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Self::NobodyMayCall
            | Self::NothingHot { .. }
            | Self::OneEndpoint { .. }
            | Self::FewOwners { .. }
            | Self::NobodyMayHold
            | Self::MajorityTogether { .. }
            | Self::NeverShort { .. }
            | Self::Unreachable { .. }
            | Self::OneHost { .. }
            | Self::NoHealthSignal { .. }
            | Self::ActivationFails { .. }
            | Self::ActivationTooSlow { alone: true, .. } => Severity::Error,
            Self::DomainNotCovered { left: 0, .. } => Severity::Error,
            Self::NotOffered { .. }
            | Self::UnknownCaller { .. }
            | Self::UnknownOwner { .. }
            | Self::NoOwners { .. }
            | Self::WarmNeverCalled { .. }
            | Self::AlwaysShort { .. }
            | Self::BenchTooSmall { .. }
            | Self::BenchTooLight { .. }
            | Self::OneZone { .. }
            | Self::DomainNotCovered { .. }
            | Self::ShallowCheck { .. }
            | Self::UnansweredCheck { .. }
            | Self::ActivationTooSlow { .. }
            | Self::RetriesOff
            | Self::NoTimeToRetry { .. }
            | Self::OnlyOnce { .. }
            | Self::CeilingTooLow { .. } => Severity::Warning,
            Self::NeverRehearsed { most: Some(_), .. } => Severity::Warning,
            Self::ZonesUnknown { .. }
            | Self::OwnerSaysNothing { .. }
            | Self::NeverRehearsed { .. }
            | Self::TrafficUnknown { .. } => Severity::Note,
        }
    }

    /// The rule's name, for programs.
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::NotOffered { .. } => "not-offered",
            Self::NobodyMayCall => "nobody-may-call",
            Self::UnknownCaller { .. } => "unknown-caller",
            Self::NothingHot { .. } => "nothing-hot",
            Self::OneEndpoint { .. } => "one-endpoint",
            Self::FewOwners { .. } => "few-owners",
            Self::UnknownOwner { .. } => "unknown-owner",
            Self::NobodyMayHold => "nobody-may-hold",
            Self::NoOwners { .. } => "no-owners",
            Self::MajorityTogether { .. } => "majority-together",
            Self::WarmNeverCalled { .. } => "warm-never-called",
            Self::NeverShort { .. } => "never-short",
            Self::Unreachable { .. } => "unreachable",
            Self::AlwaysShort { .. } => "always-short",
            Self::BenchTooSmall { .. } => "bench-too-small",
            Self::BenchTooLight { .. } => "bench-too-light",
            Self::OneHost { .. } => "one-host",
            Self::OneZone { .. } => "one-zone",
            Self::ZonesUnknown { .. } => "zones-unknown",
            Self::DomainNotCovered { .. } => "domain-not-covered",
            Self::NoHealthSignal { .. } => "no-health-signal",
            Self::ShallowCheck { .. } => "shallow-check",
            Self::UnansweredCheck { .. } => "unanswered-check",
            Self::OwnerSaysNothing { .. } => "owner-says-nothing",
            Self::ActivationFails { .. } => "activation-fails",
            Self::ActivationTooSlow { .. } => "activation-too-slow",
            Self::NeverRehearsed { .. } => "never-rehearsed",
            Self::RetriesOff => "retries-off",
            Self::NoTimeToRetry { .. } => "no-time-to-retry",
            Self::OnlyOnce { .. } => "only-once",
            Self::TrafficUnknown { .. } => "traffic-unknown",
            Self::CeilingTooLow { .. } => "ceiling-too-low",
        }
    }

    /// What is so.
    pub fn sentence(&self) -> String {
        match self {
            Self::NotOffered { meant } => {
                format!("The policy names it, but no node offers it{}.", did_you_mean(meant))
            }
            Self::NobodyMayCall => "The policy lets nobody call it: allow is empty.".into(),
            Self::UnknownCaller { node, meant } => {
                format!("The policy lets {node} call it, which no node here is{}.", did_you_mean(meant))
            }
            Self::NothingHot { warm } => format!(
                "It has {}, and no hot endpoint: nobody serves before somebody calls in vain.",
                count(*warm, "warm endpoint")
            ),
            Self::OneEndpoint { endpoint } => {
                format!("{endpoint} is its only endpoint: there is nobody to fail over to.")
            }
            Self::FewOwners { owners } => format!(
                "Its lease has {}, and a majority takes {}: no loss is survived.",
                count(*owners, "owner"),
                if *owners == 1 { "that one" } else { "both" }
            ),
            Self::UnknownOwner { node, meant } => {
                format!("Its lease names the owner {node}, which no node here is{}.", did_you_mean(meant))
            }
            Self::NobodyMayHold => {
                "None of the owners of its lease offers it: nobody serves.".into()
            }
            Self::NoOwners { endpoints } => format!(
                "{} on nodes that are no owners of its lease, and never serve.",
                listed(endpoints)
            ),
            Self::MajorityTogether { domain, left, needed } => format!(
                "Without {domain} {} of its lease are left and {needed} must grant it: nobody serves.",
                count(*left, "owner")
            ),
            Self::WarmNeverCalled { warm } => format!(
                "Its mode is hot-hot, so its {} never called up.",
                are(*warm, "warm endpoint")
            ),
            Self::NeverShort { warm } => format!(
                "Its min_hot comes to 0, so nobody is missing when hot endpoints are lost: its {} called \
                 up only by callers that have nobody left.",
                are(*warm, "warm endpoint")
            ),
            Self::Unreachable { needed, hot, warm } => format!(
                "Its min_hot asks for {needed} that serve; {hot} hot and {warm} warm are declared, so \
                 it is short for ever."
            ),
            Self::AlwaysShort { needed, hot } => format!(
                "Its min_hot asks for {needed} that serve, and {hot} hot are declared: warm endpoints \
                 are called up for good and are missing when one is lost."
            ),
            Self::BenchTooSmall { needed, hot, warm } => format!(
                "{needed} of {hot} hot must serve and {warm} stand by: a single loss leaves too few, \
                 with nobody to call up."
            ),
            Self::BenchTooLight { lost, left, needed } => format!(
                "Without {lost}, its largest, a capacity of {left} is left with the whole bench, and \
                 min_hot asks for {needed}."
            ),
            Self::OneHost { host, endpoints } => {
                format!("All {endpoints} endpoints are on {host}: with that host all are lost.")
            }
            Self::OneZone { zone, endpoints } => format!(
                "All {endpoints} endpoints are in zone {zone}: what takes the zone takes the service."
            ),
            Self::ZonesUnknown { endpoints } => format!(
                "{} on nodes that name no zone: whether one failure takes all cannot be known.",
                are(*endpoints, "endpoint")
            ),
            Self::DomainNotCovered { domain, left, needed } => {
                format!("Without {domain} {left} are left to serve, and {needed} must.")
            }
            Self::NoHealthSignal { endpoints } => format!(
                "Nothing tells the owner of {} whether the application is well.",
                names(endpoints)
            ),
            Self::ShallowCheck { endpoints } => format!(
                "{} checked by a connection only: an application that hangs still accepts those.",
                listed(endpoints)
            ),
            Self::UnansweredCheck { endpoints } => format!(
                "{} checked by whether the port is closed only: an application that hangs looks well.",
                listed(endpoints)
            ),
            Self::OwnerSaysNothing { endpoints } => format!(
                "The owner of {} does not say how it is checked and activated: its agent is of an \
                 earlier version.",
                names(endpoints)
            ),
            Self::ActivationFails { endpoint, failed, attempts } => {
                format!("{failed} of {attempts} activations of {endpoint} did not end in serving.")
            }
            Self::ActivationTooSlow { endpoint, p95, budget, alone } => format!(
                "Activating {endpoint} takes {} (95 of 100), callers wait {} at most{}.",
                length(*p95),
                length(*budget),
                if *alone { ", and meanwhile nobody else serves" } else { "" }
            ),
            Self::NeverRehearsed { endpoint, most: None, .. } => format!(
                "No activation of {endpoint} is on record: how long it takes is not known."
            ),
            Self::NeverRehearsed { endpoint, most: Some(most), budget } => format!(
                "No activation of {endpoint} is on record; its hook may take {}, callers wait {} at most.",
                length(*most),
                length(*budget)
            ),
            Self::RetriesOff => {
                "Its retries are 0: requests under way to an endpoint that is lost fail, and none is \
                 hedged."
                    .into()
            }
            Self::NoTimeToRetry { per_try, timeout } => format!(
                "One try may take {}, all of them together {}: there is no time for a second.",
                length(*per_try),
                length(*timeout)
            ),
            Self::OnlyOnce { seen } => format!(
                "None of the {seen} requests that passed here may be repeated: those a loss meets fail \
                 rather than go elsewhere."
            ),
            Self::TrafficUnknown { service } => format!(
                "No request for {service} passed here: whether its requests may be repeated cannot be \
                 known on this node."
            ),
            Self::CeilingTooLow { most, peak, left } => format!(
                "Up to {peak} requests at once were under way from here alone; after a loss {left} \
                 with max_requests {most} take {}.",
                u64::from(*left) * u64::from(*most)
            ),
        }
    }

    /// How to mend it.
    pub fn mend(&self) -> String {
        match self {
            Self::NotOffered { .. } => {
                "correct the name in the policy, or delete it: hearth policy apply".into()
            }
            Self::NobodyMayCall => "allow = [\"*\"], or the nodes that shall call it".into(),
            Self::UnknownCaller { .. } => "correct allow, or have that node join".into(),
            Self::NothingHot { .. } => "role = \"hot\" for at least one [[endpoint]]".into(),
            Self::OneEndpoint { .. } | Self::OneHost { .. } => {
                "offer it on a second host, hot or warm ([[endpoint]] there)".into()
            }
            Self::FewOwners { .. } => {
                "three owners, or five: a node that offers nothing may be one, and votes".into()
            }
            Self::UnknownOwner { .. } => {
                "correct exclusive.owners with a new number, or have that node join".into()
            }
            Self::NobodyMayHold | Self::NoOwners { .. } => {
                "name their nodes in exclusive.owners, with a new number".into()
            }
            Self::MajorityTogether { .. } => "spread the owners over three zones".into(),
            Self::WarmNeverCalled { .. } => {
                "mode = \"hot-warm\" in the policy, or role = \"hot\" for them".into()
            }
            Self::NeverShort { .. } => "min_hot = \"100%\", or the number that must serve".into(),
            Self::Unreachable { hot, warm, .. } => {
                format!("min_hot = {} at most, or more endpoints", hot + warm)
            }
            Self::AlwaysShort { hot, .. } => {
                format!("min_hot = {hot}, or role = \"hot\" for those that serve anyway")
            }
            Self::BenchTooSmall { .. } => {
                "one more warm endpoint (role = \"warm\"), or a smaller min_hot if the others carry the \
                 load"
                    .into()
            }
            Self::BenchTooLight { .. } => {
                "warm endpoints of more weight, or one more; or a smaller min_hot if the others carry the \
                 load"
                    .into()
            }
            Self::OneZone { .. } => "offer it in a second zone".into(),
            Self::ZonesUnknown { .. } => "zone = \"…\" in the agents' configuration".into(),
            Self::DomainNotCovered { .. } => {
                "move endpoints elsewhere, or add warm ones outside of it".into()
            }
            Self::NoHealthSignal { .. } => "an [endpoint.check] for each".into(),
            Self::ShallowCheck { .. } => {
                "[endpoint.check] path = \"/healthz\", or kind = \"grpc\"".into()
            }
            Self::UnansweredCheck { .. } => {
                "have the application answer health requests over HTTP or TCP, as an endpoint of its own"
                    .into()
            }
            Self::OwnerSaysNothing { .. } => "update the agents there".into(),
            Self::ActivationFails { .. } => {
                "look at the hook: journalctl -u hearth-agent there says why".into()
            }
            Self::ActivationTooSlow { .. } => {
                "make it faster or keep it hot; a longer timeout helps up to 10 s, for which requests \
                 are held"
                    .into()
            }
            Self::NeverRehearsed { .. } => {
                "rehearse a loss while all is well: hearth drill SERVICE --lose NODE --for 60s".into()
            }
            Self::RetriesOff => {
                "retries = 3; only requests that may be repeated are".into()
            }
            Self::NoTimeToRetry { .. } => {
                "a per_try_timeout well below timeout, or \"off\"".into()
            }
            Self::OnlyOnce { .. } => {
                "make them repeatable (PUT instead of POST); clients must expect to repeat them \
                 themselves"
                    .into()
            }
            Self::TrafficUnknown { .. } => "hearth check on a node that calls it".into(),
            Self::CeilingTooLow { peak, left, .. } => {
                format!("max_requests = {} at least, or more endpoints", peak.div_ceil(*left))
            }
        }
    }
}

fn did_you_mean(meant: &Option<String>) -> String {
    meant.as_ref().map_or_else(String::new, |meant| format!("; {meant} is meant, perhaps"))
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// `1 warm endpoint is`, `3 warm endpoints are`.
fn are(n: usize, what: &str) -> String {
    format!("{} {}", count(n, what), if n == 1 { "is" } else { "are" })
}

fn names(ids: &[EndpointId]) -> String {
    let named: Vec<String> = ids.iter().take(NAMED).map(ToString::to_string).collect();
    match ids.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

fn listed(ids: &[EndpointId]) -> String {
    format!("{} {}", names(ids), if ids.len() == 1 { "is" } else { "are" })
}

/// To the millisecond: what is measured is no finer.
fn length(d: Duration) -> String {
    Span(Duration::from_millis(u64::try_from(d.as_millis()).unwrap_or(u64::MAX))).to_string()
}
