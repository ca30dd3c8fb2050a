//! What the agent's admin API says: one set of types for the agent that writes it and the command line
//! that reads it. JSON, stable within a major version; fields are only added.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{NodeName, ServiceName};
use crate::time::Wall;

mod across;

pub use across::*;

/// `GET /v1/status`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// This node.
    pub node: NodeName,
    /// Version of the agent.
    pub agent_version: String,
    /// Its start.
    pub generation: u64,
    /// `joining`, `serving`, `draining` or `leaving`.
    pub phase: String,
    /// Since when the agent runs.
    pub started: Wall,
    /// Where others reach it.
    pub address: String,
    /// Members by state: alive, suspect, unsteady, down.
    pub alive: usize,
    /// Suspected members.
    pub suspect: usize,
    /// Members that come and go, or that many cannot reach.
    #[serde(default)]
    pub unsteady: usize,
    /// Members held for down.
    pub down: usize,
    /// Records in the table.
    pub records: usize,
    /// Policy version in force; 0 where none was ever received.
    pub policy_version: u64,
    /// When that policy was signed.
    pub policy_issued: Option<Wall>,
    /// End of validity of our certificate.
    pub certificate_expires: Option<Wall>,
    /// Links that are up, and which of them are silent now.
    pub links: Vec<LinkView>,
    /// Incidents that are not stable yet.
    pub open_incidents: usize,
    /// Drills that run.
    #[serde(default)]
    pub drills: Vec<DrillView>,
    /// This node's seats among the owners of exclusive services.
    #[serde(default)]
    pub leases: Vec<LeaseView>,
    /// Endpoints of this node.
    pub endpoints: Vec<EndpointView>,
}

/// A node's seat among the owners of an exclusive service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeaseView {
    /// The service.
    pub service: ServiceName,
    /// One of [`Status::WORDS`](crate::exclusive::Status::WORDS).
    pub seat: String,
    /// The term of the lease that this node holds.
    pub term: Option<u64>,
    /// In words.
    pub sentence: String,
}

/// A link to a peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkView {
    /// The peer.
    pub node: NodeName,
    /// `up` or `silent`.
    pub state: String,
    /// Smoothed round-trip time in microseconds.
    pub rtt_us: u64,
    /// What it runs on: `quic`, or `tcp (udp blocked)`.
    #[serde(default)]
    pub carrier: String,
    /// Who carries requests to it, while our own path to it is bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<NodeName>,
}

/// One of `GET /v1/members`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberView {
    /// The node.
    pub node: NodeName,
    /// `alive`, `suspect`, `unsteady`, `down`, `left` or `unheard` (known from disk or others, not yet heard).
    pub state: String,
    /// Since when, as seen here.
    pub since: Wall,
    /// Its start.
    pub generation: u64,
    /// Where it is reached.
    pub address: String,
    /// What our link to it runs on, as in [`LinkView::carrier`]; empty where there is none.
    #[serde(default)]
    pub link: String,
    /// Zone.
    pub zone: String,
    /// Policy version in force there.
    pub policy_version: u64,
    /// Seconds since its record was last confirmed here: it came, its owner was heard, or another's table was found to
    /// hold the same.
    pub record_age_s: f64,
    /// Its endpoints.
    pub endpoints: Vec<EndpointView>,
}

impl MemberView {
    /// Whether it is taken for alive, however steady.
    pub fn lives(&self) -> bool {
        matches!(self.state.as_str(), "alive" | "unsteady")
    }
}

/// An endpoint as seen from the answering agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointView {
    /// `service@node` or `service@node#instance`.
    pub endpoint: String,
    /// Its service.
    pub service: ServiceName,
    /// Its node.
    pub node: NodeName,
    /// `hot` or `warm`.
    pub role: String,
    /// `unready`, `standby`, `activating`, `serving` or `draining`.
    pub condition: String,
    /// Since when it is in that condition.
    pub condition_since: Wall,
    /// `ready`, `doubtful` or `out`, as seen from here.
    pub standing: String,
    /// Why, in words; empty when ready.
    pub reason: String,
    /// Since when it has that standing here.
    pub standing_since: Wall,
    /// The incident it was activated for.
    pub activated_for: Option<String>,
    /// Its part of the requests, in thousandths of a whole endpoint's: less while it starts slowly.
    #[serde(default)]
    pub weight: u16,
    /// In mode exclusive: the term of the lease that its owner says it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<u64>,
    /// How long its activations took, where the answering agent is its owner.
    #[serde(default)]
    pub activations: Option<ActivationView>,
}

/// How long activations of an endpoint took, of the last 64.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActivationView {
    /// Those that ended in serving.
    pub count: u64,
    /// Those that were given up.
    pub failures: u64,
    /// Median, in seconds.
    pub p50_s: Option<f64>,
    /// 95th percentile, in seconds.
    pub p95_s: Option<f64>,
    /// The longest, in seconds.
    pub max_s: Option<f64>,
}

/// `POST /v1/failback`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailbackView {
    /// The service.
    pub service: ServiceName,
    /// Activated endpoints whose owners were told to stand down; they do if they are not needed by their own
    /// view.
    pub told: Vec<String>,
    /// Activated endpoints that are needed and stay.
    pub needed: Vec<String>,
    /// Why nobody was told, where that is not for the service to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Body of `POST /v1/failback`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailbackRequest {
    /// The service.
    pub service: ServiceName,
}

/// One of `GET /v1/routes`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouteView {
    /// The service.
    pub service: ServiceName,
    /// `serve`, `panic`, `wake` or `none`.
    pub decision: String,
    /// Why, in words.
    pub reason: String,
    /// Whom requests may go to now.
    pub picks: Vec<String>,
    /// How many must serve.
    pub needed: usize,
    /// How many do.
    pub serving: usize,
    /// Warm endpoints called up now.
    pub called: Vec<String>,
    /// How many more would be called up if there were more.
    #[serde(default)]
    pub short: usize,
    /// Warm endpoints that are up and not called any more, or not in this agent's view.
    #[serde(default)]
    pub surplus: usize,
    /// Hot endpoints that serve and do not count, since they were lost too often of late.
    #[serde(default)]
    pub damped: usize,
}

/// `GET /v1/explain/{service}`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainView {
    /// The service.
    pub service: ServiceName,
    /// Seen from this node.
    pub node: NodeName,
    /// The policy version the answer rests on.
    pub policy_version: u64,
    /// The route.
    pub route: RouteView,
    /// Every endpoint with standing and reason.
    pub endpoints: Vec<EndpointView>,
    /// The answer in sentences: who serves, who stands by, who is out, since when and why.
    pub sentences: Vec<String>,
    /// The latest incidents of the service.
    pub incidents: Vec<IncidentView>,
}

/// One of `GET /v1/incidents`; whole with `GET /v1/incidents/{id}`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IncidentView {
    /// Short id, the same on every agent.
    pub id: String,
    /// W3C trace id, 32 hex digits, the same on every agent.
    pub trace_id: String,
    /// The service.
    pub service: ServiceName,
    /// The endpoint that was lost.
    pub lost: String,
    /// The first evidence, in words.
    pub reason: String,
    /// When this agent first had evidence.
    pub opened: Wall,
    /// When the service was stable again as seen here.
    pub stable: Option<Wall>,
    /// When the lost endpoint was ready again.
    pub recovered: Option<Wall>,
    /// The warm endpoint called up for it, as far as known here.
    pub activated: Option<String>,
    /// Policy version the decisions rest on.
    pub policy_version: u64,
    /// The drill that made the loss.
    #[serde(default)]
    pub drill: Option<String>,
    /// What the decision rests on here: evidence, thresholds, numbers.
    #[serde(default)]
    pub inputs: Vec<IncidentInput>,
    /// How long what took, as in the trace.
    #[serde(default)]
    pub spans: Vec<SpanView>,
    /// What was seen and decided here, in order.
    pub timeline: Vec<IncidentEntry>,
}

/// One of the things a decision rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IncidentInput {
    /// What.
    pub name: String,
    /// How much, in words.
    pub value: String,
}

/// A span of an incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpanView {
    /// `failover`, `detect`, `decide`, `shift` or `stabilise`.
    pub name: String,
    /// From.
    pub starts: Wall,
    /// To.
    pub ends: Wall,
}

/// One line of an incident's record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IncidentEntry {
    /// When.
    pub at: Wall,
    /// `evidence`, `decide`, `call-up`, `shift`, `stable`, `recovered`, …
    pub event: String,
    /// In words, with the numbers it rests on.
    pub detail: String,
}

/// `GET /v1/plan/{service}`: what this agent has seen of a service, for `hearth plan --from-live`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanView {
    /// The service.
    pub service: ServiceName,
    /// Seen from this node.
    pub node: NodeName,
    /// Declared hot endpoints.
    pub hot: u32,
    /// Declared warm endpoints.
    pub warm: u32,
    /// How many must serve, by policy.
    pub needed: u32,
    /// How many do.
    pub serving: u32,
    /// Seconds for which this agent has looked.
    pub watched_s: f64,
    /// Seconds in which endpoints were ready, summed over them.
    pub served_s: f64,
    /// Endpoints that were ready and were lost.
    pub losses: u64,
    /// From the last answer to the evidence of a loss, where a link told it.
    pub detection: TimesView,
    /// From that evidence to the replacement serving, as seen from here.
    pub takeover: TimesView,
    /// From that evidence to the lost endpoint being ready again.
    pub repair: TimesView,
    /// From call-up to serving, as the owners of the warm endpoints timed it.
    pub activation: TimesView,
    /// Activations that did not end in serving.
    pub activations_failed: u64,
}

/// Times of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TimesView {
    /// How many there were.
    pub count: u64,
    /// The mean of the latest, in seconds; 0 where there were none.
    pub mean_s: f64,
    /// Half of them took no longer.
    pub p50_s: f64,
    /// Nineteen of twenty took no longer.
    pub p95_s: f64,
}

/// `GET /v1/check`, of one service with `?service=`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckView {
    /// Seen from this node.
    pub node: NodeName,
    /// The policy version it rests on.
    pub policy_version: u64,
    /// What was looked at.
    pub services: Vec<ServiceName>,
    /// What was found, by service, the worst first.
    pub findings: Vec<FindingView>,
}

/// One weakness.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FindingView {
    /// The service.
    pub service: ServiceName,
    /// The rule's name.
    pub rule: String,
    /// `error`, `warning` or `note`.
    pub severity: String,
    /// What is so, in a sentence.
    pub sentence: String,
    /// How to mend it.
    pub mend: String,
}

/// What is counted of a node at one moment, for its metrics. Not an answer of the API: it exists because
/// counting the views above would make all of them at each scrape, within the core's only task.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Census {
    /// Members alive, ourselves included.
    pub alive: usize,
    /// Suspected members.
    pub suspect: usize,
    /// Members that come and go, or that many cannot reach.
    pub unsteady: usize,
    /// Members held for down; those that left in good order are not.
    pub down: usize,
    /// Records in the table.
    pub records: usize,
    /// The longest time since a living member's record was confirmed here: by its arrival, by its owner being heard
    /// over our link, or by somebody whose table was found to hold the same.
    pub oldest_record: Duration,
    /// Policy version in force; 0 where none was ever received.
    pub policy_version: u64,
    /// Version of the trust bundle in force; 0 where none was ever received.
    pub trust_version: u64,
    /// Incidents that are not stable yet.
    pub open_incidents: usize,
    /// Drills that run.
    pub drills: usize,
    /// Suspicions that this node raised: its probes that failed.
    pub suspicions: u64,
    /// Times this node refuted that it is suspect.
    pub refutations: u64,
    /// Times this node was declared down while it lived, and joined again.
    pub rejoins: u64,
    /// How slow this node takes itself to be: 0 in good health, 8 at most.
    pub health_score: u32,
}

/// Body of `POST /v1/drain`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// Start (`true`) or end draining.
    pub on: bool,
}

/// Any failure of an API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorView {
    /// What went wrong.
    pub error: String,
    /// What to do.
    pub hint: String,
}
