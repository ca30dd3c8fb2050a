//! The traces of incidents: waited for, checked to be whole, drawn.
//!
//! Whole means: one trace id, the spans `failover` with `detect`, `decide`, `shift` and `stabilise`
//! below it, and where a warm endpoint was called up also `activate`, sent by *that* node's agent.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use hearth_proto::view::IncidentView;

use crate::lab::mesh::Mesh;
use crate::lab::wait::wait_for;
use crate::otlp::{Span, tree};

/// Spans every incident has.
const ALWAYS: [&str; 5] = ["failover", "detect", "decide", "shift", "stabilise"];
/// For all of them together; agents export in batches every few seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Traces {
    /// The drawings.
    pub(super) trees: String,
    /// What is not whole, in words.
    pub(super) missing: Vec<String>,
    /// How many incidents called up a warm endpoint.
    pub(super) activated: usize,
}

/// Waits for the traces of these incidents, as the caller's agent knows them by now.
pub(super) fn collect(mesh: &Mesh, incidents: &[IncidentView]) -> Traces {
    let mut traces = Traces::default();
    let start = Instant::now();
    for early in incidents {
        // Whom it called up may have become known after the step had ended.
        let path = format!("/v1/incidents/{}", early.id);
        let incident = mesh.caller.agent.get(&path).unwrap_or_else(|_| early.clone());
        traces.activated += usize::from(incident.activated.is_some());
        let whole = wait_for("its trace", PATIENCE.saturating_sub(start.elapsed()), || {
            check(&incident, &mesh.otlp.trace(&incident.trace_id))
        });
        if let Err(error) = whole {
            traces.missing.push(format!("incident {}: {error}", incident.id));
        }
        let spans = mesh.otlp.trace(&incident.trace_id);
        // Writing to a String cannot fail.
        let _ = writeln!(
            traces.trees,
            "\n{}: {} lost, {}\ntrace {}\n{}",
            incident.id,
            incident.lost,
            incident.reason,
            incident.trace_id,
            tree::draw(&spans)
        );
    }
    traces
}

/// Says what is missing from an incident's trace.
pub(super) fn check(incident: &IncidentView, spans: &[Span]) -> Result<(), String> {
    let have = |name: &str| spans.iter().any(|s| s.name == name);
    let mut missing: Vec<String> =
        ALWAYS.iter().filter(|name| !have(name)).map(|&name| name.to_owned()).collect();
    if let Some(endpoint) = &incident.activated {
        let node = endpoint.split('@').nth(1).unwrap_or(endpoint);
        let node = node.split('#').next().unwrap_or(node);
        if !spans.iter().any(|s| s.name == "activate" && s.node() == node) {
            missing.push(format!("activate from {node}"));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "trace {} has {} spans, without {}",
        incident.trace_id,
        spans.len(),
        missing.join(", ")
    ))
}
