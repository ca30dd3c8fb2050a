//! `hearth drill`: begins a drill through the agent on this host, watches it, and reports what was measured.
//!
//! The drill is the mesh's from the moment it is begun: if this program ends, or its agent, the drill goes
//! on and ends by itself. Interrupting it (Ctrl-C) ends the drill first.

use std::time::Duration;

use ::http::Method;
use clap::Args;
use hearth_proto::ids::{NodeName, ServiceName};
use hearth_proto::time::Span;
use hearth_proto::view::{DrillReport, DrillRequest, DrillStop, DrillView};
use hyper::body::Bytes;

use super::agent::Agent;
use super::http::{Ask, read};
use super::{Out, show_across};
use crate::failure::{Exit, Failure, print};

pub(super) const AFTER_HELP: &str = "While it lasts every agent takes these endpoints of the service for lost, as after a silence: new\n\
     requests go elsewhere, warm endpoints are called up, an incident opens. What is under way there\n\
     finishes there. Other services on that node are not concerned. It ends by itself, whoever dies.\n\n  \
     hearth drill ledger --lose web-1 --for 60s --abort-if 'error-rate>1%'\n  \
     hearth drill ledger --lose-zone a --for 2m -o json\n  \
     hearth drill --list; hearth drill --stop drill-00c0ffee00c0ffee\n\n\
     A policy with drills = \"off\" forbids it.";

/// How often a drill that runs is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// After a drill is over its end is waited for on all agents, and for the service to be stable.
const AFTER: Duration = Duration::from_secs(3);

#[derive(Args)]
pub(super) struct Drill {
    /// The service
    #[arg(required_unless_present_any = ["list", "stop"])]
    service: Option<ServiceName>,
    /// Take its endpoints on this node for lost
    #[arg(long, value_name = "NODE", conflicts_with = "lose_zone")]
    lose: Option<NodeName>,
    /// Take its endpoints on all nodes of this zone for lost
    #[arg(long, value_name = "ZONE")]
    lose_zone: Option<String>,
    /// How long, from 1s to 10m
    #[arg(long = "for", value_name = "DURATION", default_value = "60s", value_parser = Span::parse)]
    length: Span,
    /// End it when more of any agent's requests fail, such as error-rate>1%
    #[arg(long, value_name = "CONDITION", value_parser = condition)]
    abort_if: Option<f64>,
    /// Also where nobody would be left to serve
    #[arg(long)]
    force: bool,
    /// Show the drills this agent knows
    #[arg(long, conflicts_with_all = ["service", "stop"])]
    list: bool,
    /// End a drill before its time
    #[arg(long, value_name = "ID", conflicts_with = "service")]
    stop: Option<String>,
}

/// `error-rate>1%`, in percent.
fn condition(text: &str) -> Result<f64, String> {
    let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    compact
        .strip_prefix("error-rate>")
        .and_then(|rest| rest.strip_suffix('%'))
        .and_then(|number| number.parse::<f64>().ok())
        .filter(|percent| (0.0..100.0).contains(percent))
        .ok_or_else(|| {
            format!("{text:?} is no condition; write \"error-rate>1%\" (quote it: > means a file to the shell)")
        })
}

pub(super) async fn run(drill: &Drill, agent: &Agent, out: Out) -> Result<(), Failure> {
    if drill.list {
        let body = agent.ask(Ask::get("/v1/drills")).await?;
        return out.agent::<Vec<DrillView>>(&body, |list, page| show_across::drills(list, page));
    }
    if let Some(id) = &drill.stop {
        let body = stop(agent, id, "ended by an operator").await?;
        return out.agent::<DrillView>(&body, |view, _| format!("{} is over\n", view.id));
    }
    let Some(service) = drill.service.clone() else { return Ok(()) };
    if drill.lose.is_none() && drill.lose_zone.is_none() {
        return Err(Failure::new(
            Exit::Usage,
            "nothing is to be lost",
            "--lose NODE or --lose-zone ZONE: hearth explain SERVICE lists its endpoints",
        ));
    }
    let request = DrillRequest {
        service,
        node: drill.lose.clone(),
        zone: drill.lose_zone.clone(),
        length: drill.length,
        abort_above_percent: drill.abort_if,
        force: drill.force,
    };
    let body = agent.ask(Ask::send(Method::POST, "/v1/drills", &request)?).await?;
    let begun: DrillView = read("the agent", &body)?;
    if !out.json {
        print(&show_across::begun(&begun))?;
    }
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => {
            // Without a handler there is nothing to wait for; the drill ends by itself.
            if interrupted.is_ok() {
                stop(agent, &begun.id, "ended by an operator").await?;
            }
        }
        watched = watch(agent, &begun.id) => watched?,
    }
    tokio::time::sleep(AFTER).await;
    let body = report(agent, &begun.id).await?;
    out.agent::<DrillReport>(&body, show_across::report)?;
    let report: DrillReport = read("the agent", &body)?;
    let why = report.drill.why_over.clone().unwrap_or_default();
    match why.starts_with("aborted") {
        true => Err(Failure::new(
            Exit::Temporary,
            format!("the drill was {why}"),
            "hearth incident ID shows what happened",
        )),
        false => Ok(()),
    }
}

async fn stop(agent: &Agent, id: &str, why: &str) -> Result<Bytes, Failure> {
    let body = DrillStop { why: why.to_owned() };
    let path = format!("/v1/drills/{}/stop", super::checked(id)?);
    agent.ask(Ask::send(Method::POST, &path, &body)?).await
}

async fn report(agent: &Agent, id: &str) -> Result<Bytes, Failure> {
    agent.ask(Ask::get(format!("/v1/drills/{}/mesh", super::checked(id)?))).await
}

/// Until the drill is over on this agent.
async fn watch(agent: &Agent, id: &str) -> Result<(), Failure> {
    loop {
        let body = agent.ask(Ask::get("/v1/drills")).await?;
        let list: Vec<DrillView> = read("the agent", &body)?;
        if !list.iter().any(|d| d.id == id && d.running) {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_read_as_people_write_it_and_nothing_else() {
        assert_eq!(condition("error-rate>1%"), Ok(1.0));
        assert_eq!(condition("error-rate > 0.5 %"), Ok(0.5));
        for bad in ["", "1%", "error-rate>1", "error-rate<1%", "error-rate>100%", "error-rate>x%"] {
            assert!(condition(bad).is_err(), "{bad}");
        }
    }
}
