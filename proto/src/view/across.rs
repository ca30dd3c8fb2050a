//! What several agents say of one thing, laid together: an incident across hosts, a drill's report.
//!
//! Each host speaks by its own clock; lines are ordered by what those clocks show, and a clock that is wrong
//! by more than an incident lasts shows in the order. Nothing is corrected.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::IncidentView;
use crate::ids::{NodeName, ServiceName};
use crate::time::{Span, Wall};

/// Whether a host said something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answered {
    /// It saw it.
    Saw,
    /// It answered that it knows nothing of it.
    KnowsNothing,
    /// It did not answer in time: lost, or of an earlier version.
    NoAnswer,
}

/// What one host says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part<T> {
    /// The host.
    pub node: NodeName,
    /// Whether it answered.
    pub answered: Answered,
    /// What.
    pub view: Option<T>,
}

/// A line of the common timeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AcrossEntry {
    /// When, by that host's clock.
    pub at: Wall,
    /// Who.
    pub node: NodeName,
    /// What, as in [`super::IncidentEntry`].
    pub event: String,
    /// In words.
    pub detail: String,
}

/// `GET /v1/incidents/{id}/mesh`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AcrossView {
    /// Short id.
    pub id: String,
    /// W3C trace id.
    pub trace_id: String,
    /// The service.
    pub service: ServiceName,
    /// What was lost.
    pub lost: String,
    /// The drill that made the loss.
    pub drill: Option<String>,
    /// The earliest evidence anybody had.
    pub opened: Wall,
    /// When the last of those that saw it had it stable; `None` while anybody has not.
    pub stable: Option<Wall>,
    /// What each host says.
    pub hosts: Vec<Part<IncidentView>>,
    /// Members that were not asked: there are too many.
    pub not_asked: usize,
    /// All timelines in one.
    pub timeline: Vec<AcrossEntry>,
}

impl AcrossView {
    /// Lays the parts together. `None` if nobody saw it.
    pub fn of(mut hosts: Vec<Part<IncidentView>>, not_asked: usize) -> Option<Self> {
        let rank = |part: &Part<IncidentView>| part.view.as_ref().map_or(u64::MAX, |v| v.opened.0);
        hosts.sort_by_key(|part| (rank(part), part.node.clone()));
        let seen: Vec<(&NodeName, &IncidentView)> =
            hosts.iter().filter_map(|p| Some((&p.node, p.view.as_ref()?))).collect();
        let (_, first) = *seen.first()?;
        let stable: Option<Vec<Wall>> = seen.iter().map(|(_, v)| v.stable).collect();
        let mut timeline: Vec<AcrossEntry> = Vec::new();
        for (node, view) in &seen {
            timeline.extend(view.timeline.iter().map(|entry| AcrossEntry {
                at: entry.at,
                node: (*node).clone(),
                event: entry.event.clone(),
                detail: entry.detail.clone(),
            }));
        }
        // Stable: the lines of one host keep their order.
        timeline.sort_by_key(|entry| entry.at);
        Some(Self {
            id: first.id.clone(),
            trace_id: first.trace_id.clone(),
            service: first.service.clone(),
            lost: first.lost.clone(),
            drill: seen.iter().find_map(|(_, v)| v.drill.clone()),
            opened: first.opened,
            stable: stable.and_then(|all| all.into_iter().max()),
            not_asked,
            timeline,
            hosts,
        })
    }
}

/// A drill as one agent sees it: one of `GET /v1/drills`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrillView {
    /// Its id, the same on every agent.
    pub id: String,
    /// The service.
    pub service: ServiceName,
    /// What is lost: `node NAME` or `zone NAME`.
    pub lose: String,
    /// The member on which it was begun.
    pub by: NodeName,
    /// When, by that member's clock.
    pub started: Wall,
    /// How long it lasts, in seconds.
    pub length_s: f64,
    /// How much of it is left here, in seconds.
    pub left_s: f64,
    /// The share of failed requests above which it ends, in percent.
    pub abort_above_percent: Option<f64>,
    /// Whether it runs here.
    pub running: bool,
    /// Why it does not.
    pub why_over: Option<String>,
    /// What this agent measured.
    pub part: DrillPart,
}

/// What one agent measured of a drill. Moments by its own clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrillPart {
    /// The agent.
    pub node: NodeName,
    /// When it learnt of the drill.
    pub learnt: Wall,
    /// Endpoints it took for lost.
    pub lost: Vec<String>,
    /// When it had them for lost.
    pub detected: Option<Wall>,
    /// When a first request of its clients was answered elsewhere.
    pub shifted: Option<Wall>,
    /// Warm endpoints called up.
    pub called: Vec<String>,
    /// When the last of them served.
    pub activated: Option<Wall>,
    /// When the service was stable.
    pub stable: Option<Wall>,
    /// When the drill was over here.
    pub over: Option<Wall>,
    /// When the last of what was lost was ready again.
    pub back: Option<Wall>,
    /// Requests of its clients while the drill ran.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// The incidents it made.
    pub incidents: Vec<String>,
}

/// `GET /v1/drills/{id}/mesh`: a drill as all agents saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrillReport {
    /// As the answering agent sees it.
    pub drill: DrillView,
    /// What each host says, itself included. Those that know nothing of it did not take part.
    pub hosts: Vec<Part<DrillView>>,
    /// Members that were not asked: there are too many.
    pub not_asked: usize,
    /// Requests of all agents' clients while it ran.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// Whether it is over on every agent that took part.
    pub over: bool,
}

impl DrillReport {
    /// Lays the parts together.
    pub fn of(drill: DrillView, mut hosts: Vec<Part<DrillView>>, not_asked: usize) -> Self {
        hosts.sort_by(|a, b| a.node.cmp(&b.node));
        let views = || hosts.iter().filter_map(|p| p.view.as_ref());
        let requests = views().map(|v| v.part.requests).sum();
        let failed = views().map(|v| v.part.failed).sum();
        let over = views().all(|v| !v.running);
        Self { drill, requests, failed, over, not_asked, hosts }
    }
}

/// Body of `POST /v1/drills`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillRequest {
    /// The service.
    pub service: ServiceName,
    /// Lose its endpoints on this node …
    #[serde(default)]
    pub node: Option<NodeName>,
    /// … or on all nodes of this zone.
    #[serde(default)]
    pub zone: Option<String>,
    /// For how long, such as `60s`.
    #[serde(rename = "for")]
    pub length: Span,
    /// End it when more than so many percent of an agent's requests fail.
    #[serde(default)]
    pub abort_above_percent: Option<f64>,
    /// Also where nobody would be left.
    #[serde(default)]
    pub force: bool,
}

/// Body of `POST /v1/drills/{id}/stop`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillStop {
    /// Why, for the record.
    pub why: String,
}

/// The parts of those that were asked, answered or not.
pub fn parts<T>(asked: &[NodeName], mut answers: BTreeMap<NodeName, Option<T>>) -> Vec<Part<T>> {
    let part = |node: &NodeName| match answers.remove(node) {
        Some(Some(view)) => Part { node: node.clone(), answered: Answered::Saw, view: Some(view) },
        Some(None) => Part { node: node.clone(), answered: Answered::KnowsNothing, view: None },
        None => Part { node: node.clone(), answered: Answered::NoAnswer, view: None },
    };
    asked.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::IncidentEntry;

    fn name(n: &str) -> NodeName {
        NodeName::parse(n).unwrap()
    }

    fn seen(opened: u64, stable: Option<u64>, lines: &[u64]) -> IncidentView {
        let entry = |at: &u64| IncidentEntry {
            at: Wall(*at),
            event: "decide".into(),
            detail: at.to_string(),
        };
        IncidentView {
            id: "ledger-00000001".into(),
            trace_id: String::new(),
            service: ServiceName::parse("ledger").unwrap(),
            lost: "ledger@h1".into(),
            reason: "silent".into(),
            opened: Wall(opened),
            stable: stable.map(Wall),
            recovered: None,
            activated: None,
            policy_version: 1,
            drill: None,
            inputs: Vec::new(),
            spans: Vec::new(),
            timeline: lines.iter().map(entry).collect(),
        }
    }

    #[test]
    fn timelines_of_all_hosts_are_one_and_who_did_not_answer_is_named() {
        let asked = ["a", "b", "c", "d"].map(name);
        let answers = BTreeMap::from([
            (name("a"), Some(seen(20, Some(90), &[20, 40]))),
            (name("b"), Some(seen(10, Some(70), &[10, 30, 50]))),
            (name("c"), None),
        ]);
        let view = AcrossView::of(parts(&asked, answers), 3).unwrap();
        let order: Vec<(u64, &str)> =
            view.timeline.iter().map(|e| (e.at.0, e.node.as_str())).collect();
        assert_eq!(order, [(10, "b"), (20, "a"), (30, "b"), (40, "a"), (50, "b")]);
        assert_eq!((view.opened, view.stable), (Wall(10), Some(Wall(90))));
        let hosts: Vec<(&str, Answered)> =
            view.hosts.iter().map(|p| (p.node.as_str(), p.answered)).collect();
        assert_eq!(
            hosts,
            [
                ("b", Answered::Saw),
                ("a", Answered::Saw),
                ("c", Answered::KnowsNothing),
                ("d", Answered::NoAnswer)
            ]
        );
        assert_eq!(view.not_asked, 3);
    }

    #[test]
    fn an_incident_is_not_stable_while_one_host_has_it_open() {
        let answers = BTreeMap::from([
            (name("a"), Some(seen(1, Some(5), &[]))),
            (name("b"), Some(seen(2, None, &[]))),
        ]);
        assert_eq!(AcrossView::of(parts(&["a", "b"].map(name), answers), 0).unwrap().stable, None);
        assert_eq!(
            AcrossView::of(parts(&["a".into()].map(|n: String| name(&n)), BTreeMap::new()), 0),
            None
        );
    }
}
