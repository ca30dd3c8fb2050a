//! What the demo says in the end: a table for people, `summary.json` for programs, and with `KEEP=1`
//! the commands to look around with.

use std::fmt::Write as _;
use std::time::Duration;

use hearth_proto::view::IncidentView;
use serde_json::{Value, json};

use crate::lab::LabError;
use crate::lab::binaries::{ours, target_dir};
use crate::lab::mesh::{Mesh, SERVICE, UPSTREAM};
use crate::load::PhaseReport;

/// One step's figures.
#[derive(Debug)]
pub(super) struct Row {
    /// Name of the step.
    pub(super) name: String,
    /// When its fault struck, on the load's clock.
    pub(super) mark: Duration,
    /// When the next step began.
    pub(super) until: Duration,
    /// What became of its requests.
    pub(super) report: PhaseReport,
    /// Whom requests went to in the end.
    pub(super) serving: Vec<String>,
    /// Why, as the caller's agent explains it.
    pub(super) why: String,
    /// The incidents it made.
    pub(super) incidents: Vec<IncidentView>,
}

impl Row {
    fn json(&self) -> Value {
        let ids = |i: &IncidentView| {
            json!({
                "incident_id": i.id, "trace_id": i.trace_id,
                "lost": i.lost, "activated": i.activated, "reason": i.reason,
            })
        };
        json!({
            "name": self.name,
            "sent": self.report.sent,
            "failed": self.report.failed,
            "slowest_ms": self.report.slowest_ms,
            "over_100_ms": self.report.over_100_ms,
            "p50_ms": self.report.p50_ms,
            "p99_ms": self.report.p99_ms,
            "p999_ms": self.report.p999_ms,
            "normal_after_ms": self.report.normal_after_ms,
            "serving": self.serving,
            "why": self.why,
            "served": self.report.served,
            "errors": self.report.errors,
            "incident_id": self.incidents.first().map(|i| i.id.clone()),
            "trace_id": self.incidents.first().map(|i| i.trace_id.clone()),
            "incidents": self.incidents.iter().map(ids).collect::<Vec<_>>(),
        })
    }
}

/// The whole demo's outcome.
#[derive(Debug)]
pub(super) struct Summary {
    /// Every step.
    pub(super) rows: Vec<Row>,
    /// Everything that was not as it must be.
    pub(super) problems: Vec<String>,
    /// The incidents' traces, drawn.
    pub(super) trees: String,
}

impl Summary {
    /// The table.
    pub(super) fn table(&self) -> String {
        let mut text = format!(
            "\n{:<36}{:>6}{:>8}{:>11}{:>11}{:>14}  {}\n",
            "fault", "sent", "failed", "p99", "slowest", "normal after", "serves now"
        );
        for row in &self.rows {
            let r = &row.report;
            let hosts: Vec<&str> =
                row.serving.iter().map(|e| e.split('@').nth(1).unwrap_or(e)).collect();
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{:<36}{:>6}{:>8}{:>8.1} ms{:>8.1} ms{:>11.0} ms  {}",
                row.name,
                r.sent,
                r.failed,
                r.p99_ms,
                r.slowest_ms,
                r.normal_after_ms,
                hosts.join(" ")
            );
            let _ = writeln!(text, "  {}", row.why);
        }
        text
    }

    /// Writes `target/demo/summary.json`.
    pub(super) fn write(&self) -> Result<(), LabError> {
        let dir = target_dir().join("demo");
        std::fs::create_dir_all(&dir).map_err(LabError::file("create", &dir))?;
        let path = dir.join("summary.json");
        let all = json!({
            "ok": self.problems.is_empty(),
            "problems": self.problems,
            "faults": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
        });
        std::fs::write(&path, format!("{all:#}\n")).map_err(LabError::file("write", &path))
    }
}

/// Commands to look around with while everything runs.
pub(super) fn commands(mesh: &Mesh) -> String {
    let hearth = ours("hearth").map_or("hearth".to_owned(), |path| path.display().to_string());
    let socket = mesh.caller.agent.socket().display();
    let inside = |pid: i32| format!("nsenter --target {pid} --net");
    let caller = inside(mesh.caller.agent.process().pid());
    let mut text = format!(
        "\nEverything is running and stays so until Ctrl-C. To look around:\n\n\
         \x20 export HEARTH_SOCKET={socket}\n\
         \x20 {hearth} status\n\
         \x20 {hearth} members\n\
         \x20 {hearth} explain {SERVICE}\n\
         \x20 {hearth} incidents\n\
         \x20 {caller} curl -i http://127.0.0.1:{UPSTREAM}/\n\n"
    );
    for node in mesh.nodes().skip(1) {
        let app = node.app().process().pid();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  kill -9 {app}    # the application on {}; logs in {}",
            node.host.name(),
            node.host.dir().display()
        );
    }
    text.push('\n');
    text
}
