//! The steps of the demo: each a fault, what must come of it, and until when that is waited for.
//!
//! Decides what counts as a problem; a step that goes wrong is noted and the story goes on, so that
//! one run tells everything. Only a lab that cannot be driven ends it early.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use hearth_proto::view::{ExplainView, IncidentView};

use super::narrator::{Narrator, Pulse};
use super::summary::{Row, Summary};
use super::traces;
use crate::lab::mesh::{Mesh, MeshSpec, Node, SERVICE, active_warm, sketch};
use crate::lab::wait::wait_for;
use crate::lab::web::Kind;
use crate::lab::{Lab, LabError};
use crate::load::Load;

/// How long anything but the demo's own faults may take.
const SOON: Duration = Duration::from_secs(30);
/// Failback waits for the lost endpoint to be steady first.
const FAILBACK: Duration = Duration::from_secs(60);
/// This long without a failed or slow request, and a fault is over.
const QUIET: Duration = Duration::from_secs(2);

/// The policy applied in the last step.
const CHANGED: &str =
    "[services.ledger]\nmode = \"hot-warm\"\nmin_hot = \"67%\"\nfailback = \"5s\"\n";

/// Runs all steps; `afterwards` is called with everything still running.
pub(super) fn tell(
    lab: &Lab,
    say: &Narrator,
    afterwards: impl FnOnce(&Mesh),
) -> Result<Summary, LabError> {
    let spec = MeshSpec::default();
    let kind = match spec.kind {
        Kind::Nginx => "nginx",
        _ => "lab-app (nginx is not installed)",
    };
    say.line(&format!(
        "starting {} hot hosts with {kind}, {} warm ones, a caller, a control plane and a trace \
         receiver, each in a network namespace",
        spec.hot, spec.warm
    ));
    let mesh = Mesh::start(lab, &spec)?;
    say.line("every agent has joined, sees all others and has the policy in force");
    let load = Arc::new(mesh.load()?);
    let mut story =
        Story { mesh: &mesh, load: &load, say: *say, rows: Vec::new(), problems: Vec::new() };
    {
        let _pulse = Pulse::start(*say, Arc::clone(&load));
        story.begin()?;
        story.application_killed()?;
        story.host_silent()?;
        story.control_killed()?;
        story.all_hot_silent()?;
        story.healed()?;
        story.control_back()?;
    }
    let summary = story.end();
    print!("{}", summary.table());
    print!("{}", summary.trees);
    if let Err(error) = summary.write() {
        say.line(&format!("cannot write the summary: {error}"));
    }
    afterwards(&mesh);
    Ok(summary)
}

struct Story<'a> {
    mesh: &'a Mesh,
    load: &'a Load,
    say: Narrator,
    rows: Vec<Row>,
    problems: Vec<String>,
}

impl Story<'_> {
    fn begin(&mut self) -> Result<(), LabError> {
        self.say.heading("500 requests a second from the caller, through its agent, from now on");
        self.row("no fault", &[], |_| Ok(()), |mesh| mesh.steady(SOON))
    }

    fn application_killed(&mut self) -> Result<(), LabError> {
        let node = &self.mesh.hot[0];
        self.say.heading("1. kill -9 of the application on hot-1");
        self.row(
            "application killed",
            &[node],
            |mesh| mesh.hot[0].app().process().kill(),
            |mesh| mesh.wait_warm(1, SOON),
        )?;
        self.say.heading("   the application is started again: failback");
        self.row(
            "application back",
            &[],
            |mesh| mesh.hot[0].app().restart(),
            |mesh| mesh.steady(FAILBACK),
        )
    }

    fn host_silent(&mut self) -> Result<(), LabError> {
        let node = &self.mesh.hot[1];
        self.say.heading("2. black hole: hot-2 is silent, no reset, no ICMP");
        self.row(
            "hot host black-holed",
            &[node],
            |mesh| mesh.hot[1].host.black_hole(),
            |mesh| mesh.wait_warm(1, SOON),
        )
    }

    fn control_killed(&mut self) -> Result<(), LabError> {
        self.say.heading("3. kill -9 of the control plane");
        self.row(
            "control plane killed",
            &[],
            |mesh| mesh.control.kill(),
            |mesh| mesh.wait_warm(1, SOON),
        )
    }

    fn all_hot_silent(&mut self) -> Result<(), LabError> {
        let (one, three) = (&self.mesh.hot[0], &self.mesh.hot[2]);
        self.say
            .heading("4. black hole: hot-1 and hot-3 too, nobody hot is left, no control plane");
        self.row(
            "all hot black-holed",
            &[one, three],
            |mesh| {
                mesh.hot[0].host.black_hole()?;
                mesh.hot[2].host.black_hole()
            },
            |mesh| {
                mesh.wait_view("both warm to serve alone", SOON, |view| {
                    active_warm(view).len() == 2 && view.route.picks.len() == 2
                })
            },
        )
    }

    fn healed(&mut self) -> Result<(), LabError> {
        self.say.heading("5. all links are healed: the hot ones return, the warm ones go to sleep");
        self.row(
            "healed, failback",
            &[],
            |mesh| mesh.hot.iter().try_for_each(|node| node.host.heal()),
            |mesh| mesh.steady(FAILBACK),
        )
    }

    fn control_back(&mut self) -> Result<(), LabError> {
        self.say.heading("6. the control plane is started again and a changed policy applied");
        let applied = Cell::new(0);
        self.row(
            "control plane back, policy changed",
            &[],
            |mesh| {
                mesh.control.serve()?;
                applied.set(mesh.apply(CHANGED)?);
                Ok(())
            },
            |mesh| {
                let told = |m: &&hearth_proto::view::MemberView| m.policy_version == applied.get();
                let all = mesh.nodes().count();
                wait_for("the caller to see it in force everywhere", SOON, || {
                    let members = mesh.caller.agent.members().map_err(|e| e.to_string())?;
                    let there = members.iter().filter(told).count();
                    if there >= all { Ok(()) } else { Err(format!("{there} of {all}")) }
                })?;
                mesh.explain()
            },
        )?;
        let version = applied.get();
        self.say.line(&format!("policy version {version} is in force on every agent"));
        Ok(())
    }

    /// One step: the fault, its outcome, quiet, and a row of figures. What does not come about is
    /// a problem; only a fault that cannot be made is an error.
    fn row(
        &mut self,
        name: &str,
        lost: &[&Node],
        fault: impl FnOnce(&Mesh) -> Result<(), LabError>,
        outcome: impl FnOnce(&Mesh) -> Result<ExplainView, LabError>,
    ) -> Result<(), LabError> {
        let mark = self.load.mark();
        if let Some(before) = self.rows.last_mut() {
            before.until = mark;
        }
        fault(self.mesh)?;
        if let Err(error) = outcome(self.mesh) {
            self.problem(name, &error);
        }
        let quiet = wait_for("normal traffic", SOON, || {
            let enough = self.load.quiet_for() >= QUIET && self.load.mark() >= mark + QUIET;
            if enough { Ok(()) } else { Err(format!("{:?}", self.load.lately(QUIET))) }
        });
        if let Err(error) = quiet {
            self.problem(name, &error);
        }
        let mut incidents: Vec<IncidentView> = Vec::new();
        for node in lost {
            match self.mesh.incident(node, Duration::from_secs(5)) {
                Ok(incident) => incidents.push(incident),
                Err(error) => self.problem(name, &error),
            }
        }
        let report = self.load.since(mark);
        let view = self.mesh.explain()?;
        self.say.line(&format!(
            "{} sent, {} failed, slowest {:.1} ms, normal after {:.0} ms",
            report.sent, report.failed, report.slowest_ms, report.normal_after_ms
        ));
        self.say.line(&format!("{}: {}", view.route.reason, sketch(&view)));
        let until = self.load.mark();
        let mut serving = view.route.picks.clone();
        serving.sort();
        let why = view.route.reason.clone();
        self.rows.push(Row { name: name.to_owned(), mark, until, report, serving, why, incidents });
        Ok(())
    }

    fn problem(&mut self, step: &str, error: &LabError) {
        self.say.line(&format!("PROBLEM: {step}: {error}"));
        self.problems.push(format!("{step}: {error}"));
    }

    /// Counts every request once more, now that all are on record, and judges.
    fn end(mut self) -> Summary {
        self.say.heading("the traces of the incidents are collected");
        let until = self.load.mark();
        if let Some(last) = self.rows.last_mut() {
            last.until = until;
        }
        for row in &mut self.rows {
            row.report = self.load.between(row.mark, row.until);
            if row.report.failed > 0 {
                let (name, failed) = (&row.name, row.report.failed);
                let reasons = &row.report.errors;
                self.problems.push(format!("{name}: {failed} requests failed: {reasons:?}"));
            }
        }
        let incidents: Vec<IncidentView> =
            self.rows.iter().flat_map(|row| row.incidents.clone()).collect();
        let traces = traces::collect(self.mesh, &incidents);
        self.problems.extend(traces.missing);
        if traces.activated == 0 {
            let none = format!("no incident of {SERVICE} activated a warm endpoint");
            self.problems.push(none);
        }
        Summary { rows: self.rows, problems: self.problems, trees: traces.trees }
    }
}
