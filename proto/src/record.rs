//! The record of one incident as one agent lived it: what was seen and decided, when and why, and the
//! spans it makes of that.
//!
//! One source for `hearth incidents`, `explain`, logs and traces. A record decides nothing.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::drill::DrillId;
use crate::evidence::Why;
use crate::ids::{EndpointId, NodeName};
use crate::incident::IncidentKey;
use crate::time::{Clock, Time, Wall};

/// A span as this agent finished it, ready for an exporter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The incident's trace.
    pub trace_id: u128,
    /// This span.
    pub span_id: u64,
    /// Its parent; `None` for the root.
    pub parent: Option<u64>,
    /// `failover`, `detect`, `decide`, `activate`, `shift` or `stabilise`.
    pub name: &'static str,
    /// Start.
    pub start: Wall,
    /// End, not before the start.
    pub end: Wall,
    /// Attributes, in the `hearth.` namespace.
    pub attributes: Vec<(&'static str, String)>,
    /// Events within it: when, name, detail.
    pub events: Vec<(Wall, Cow<'static, str>, String)>,
    /// What went wrong, if something did.
    pub error: Option<String>,
}

/// Longest timeline kept per incident; what comes later is dropped, the last line says so.
const MAX_TIMELINE: usize = 64;
/// An incident is stable when nothing moved for so long.
pub const STEADY: Duration = Duration::from_secs(1);
/// An incident that is not stable by then is closed as such.
pub const GIVE_UP: Duration = Duration::from_secs(60);

/// One incident as this agent lived it: what was seen and decided, when and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub key: IncidentKey,
    /// Last moment before the evidence (start of `detect`).
    pub last_good: Time,
    /// First evidence, and the decision that followed in the same step.
    pub opened: Time,
    /// The evidence.
    pub why: Why,
    /// First request answered elsewhere since.
    pub shifted: Option<Time>,
    /// When the service last moved.
    pub moved: Time,
    /// When it was steady.
    pub stable: Option<Time>,
    /// Closed without becoming steady.
    pub gave_up: bool,
    /// When the lost endpoint was ready again.
    pub recovered: Option<Time>,
    /// The warm endpoint that serves in its stead.
    pub activated: Option<EndpointId>,
    /// When that one served.
    pub served: Option<Time>,
    /// The drill that made the loss.
    pub drill: Option<DrillId>,
    /// What the decision rests on: name and value.
    pub inputs: Vec<(Cow<'static, str>, String)>,
    /// The relay through which the lost endpoint was reached in the end.
    pub relayed: Option<NodeName>,
    /// The policy the decisions rest on.
    pub policy_version: u64,
    /// The decision, in words.
    pub decision: String,
    /// This agent's traffic is concerned: it reports the trace.
    pub reports: bool,
    /// What happened, in order.
    pub timeline: Vec<(Time, Cow<'static, str>, String)>,
}

impl Record {
    /// A new incident.
    pub fn open(key: IncidentKey, why: Why, last_good: Time, now: Time) -> Self {
        let detail = format!("{}: {why}", key.lost);
        Self {
            key,
            last_good: last_good.min(now),
            opened: now,
            shifted: None,
            moved: now,
            stable: None,
            gave_up: false,
            recovered: None,
            activated: None,
            served: None,
            drill: match &why {
                Why::Drill { id, .. } => Some(*id),
                _ => None,
            },
            inputs: Vec::new(),
            relayed: None,
            why,
            policy_version: 0,
            decision: String::new(),
            reports: false,
            timeline: vec![(now, "evidence".into(), detail)],
        }
    }

    /// Whether it is still to become stable.
    pub fn is_open(&self) -> bool {
        self.stable.is_none() && !self.gave_up
    }

    /// When it was closed; when it last moved while it is open.
    pub fn closed(&self) -> Time {
        self.stable.unwrap_or(self.moved)
    }

    /// Adds a line to the timeline.
    pub fn note(&mut self, now: Time, event: &'static str, detail: String) {
        match self.timeline.len() {
            n if n < MAX_TIMELINE => self.timeline.push((now, event.into(), detail)),
            n if n == MAX_TIMELINE => {
                self.timeline.push((now, "cut".into(), "the rest is not kept".to_owned()));
            }
            _ => {}
        }
    }

    /// The spans of this incident as `node` reports them, once it is closed: `failover` over `detect`,
    /// `decide`, `shift`, `stabilise`. `activate` is reported by the warm endpoint's owner.
    pub fn spans(&self, node: &NodeName, clock: Clock, closed: Time) -> Vec<Span> {
        let shifted = self.shifted.unwrap_or(self.opened);
        let root = self.key.span_id("failover", node);
        let span = |name: &'static str, start: Time, end: Time| Span {
            trace_id: self.key.trace_id(),
            span_id: self.key.span_id(name, node),
            parent: (name != "failover").then_some(root),
            name,
            start: clock.wall(start),
            end: clock.wall(end.max(start)),
            attributes: vec![
                ("hearth.service", self.key.lost.service.to_string()),
                ("hearth.incident", self.key.to_string()),
                ("hearth.lost", self.key.lost.to_string()),
                ("hearth.node", node.to_string()),
            ],
            events: Vec::new(),
            error: None,
        };
        let mut failover = span("failover", self.last_good, closed);
        failover.attributes.push(("hearth.reason", self.why.word().to_owned()));
        failover.attributes.push(("hearth.policy.version", self.policy_version.to_string()));
        failover.attributes.push(("hearth.decision", self.decision.clone()));
        if let Some(drill) = self.drill {
            failover.attributes.push(("hearth.drill", drill.to_string()));
        }
        if let Some(warm) = &self.activated {
            failover.attributes.push(("hearth.activated", warm.to_string()));
        }
        if let Some(via) = &self.relayed {
            failover.attributes.push(("hearth.relay", via.to_string()));
        }
        failover.events = self
            .timeline
            .iter()
            .map(|(at, event, detail)| (clock.wall(*at), event.clone(), detail.clone()))
            .collect();
        if self.gave_up {
            failover.error = Some(format!("not stable after {} s", GIVE_UP.as_secs()));
        }
        let mut detect = span("detect", self.last_good, self.opened);
        detect.attributes.push(("hearth.evidence", self.why.word().to_owned()));
        detect.events.push((clock.wall(self.opened), "suspect".into(), self.why.to_string()));
        let mut decide = span("decide", self.opened, self.opened);
        decide.attributes.push(("hearth.decision", self.decision.clone()));
        let shift = span("shift", self.opened, shifted);
        let stabilise = span("stabilise", shifted, closed);
        vec![failover, detect, decide, shift, stabilise]
    }
}
