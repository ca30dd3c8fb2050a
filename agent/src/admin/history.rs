//! Incidents and drills: what this agent remembers, and what the others add when asked.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use hearth_proto::drill::{DrillId, DrillRefused, Lose};
use hearth_proto::ids::{NodeName, ServiceName};
use hearth_proto::node::{DrillAsk, Node};
use hearth_proto::time::Wall;
use hearth_proto::view::{
    AcrossView, Answered, DrillReport, DrillRequest, DrillStop, DrillView, IncidentView, Part,
};
use serde::Deserialize;
use tokio::sync::oneshot;

use super::{Admin, Answer, problem};
use crate::driver::{Command, Gone};

/// Which incidents are asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    service: Option<ServiceName>,
    /// Those that opened at this moment or later, in microseconds since 1970.
    since: Option<u64>,
    /// At most so many, the newest first.
    limit: Option<usize>,
}

pub(super) async fn incidents(
    State(admin): State<Arc<Admin>>,
    wanted: Result<Query<Wanted>, axum::extract::rejection::QueryRejection>,
) -> Answer {
    let Query(wanted) = match wanted {
        Ok(wanted) => wanted,
        Err(e) => {
            let hint = "?service=NAME, ?since=MICROSECONDS and ?limit=N are understood";
            return Ok(problem(StatusCode::BAD_REQUEST, &e.body_text(), hint));
        }
    };
    let live = admin.handle.read(|node, _| node.incidents_view()).await?;
    let mut all = admin.incidents.with(live);
    all.retain(|v| wanted.service.as_ref().is_none_or(|s| *s == v.service));
    all.retain(|v| wanted.since.is_none_or(|since| v.opened >= Wall(since)));
    all.truncate(wanted.limit.unwrap_or(usize::MAX));
    Ok(Json(all).into_response())
}

async fn find(admin: &Admin, id: &str) -> Result<Option<IncidentView>, Gone> {
    let wanted = id.to_owned();
    let live = admin.handle.read(move |node, _| node.incident_by(&wanted)).await?;
    Ok(live.or_else(|| admin.incidents.find(id)))
}

fn unknown(id: &str) -> axum::response::Response {
    problem(
        StatusCode::NOT_FOUND,
        &format!("no incident {id:?} is remembered here"),
        "`hearth incidents` lists those that are",
    )
}

pub(super) async fn incident(State(admin): State<Arc<Admin>>, Path(id): Path<String>) -> Answer {
    Ok(match find(&admin, &id).await? {
        Some(view) => Json(view).into_response(),
        None => unknown(&id),
    })
}

async fn own_name(admin: &Admin) -> Result<NodeName, Gone> {
    admin.handle.read(|node, _| node.name().clone()).await
}

fn own_part<T>(node: NodeName, view: Option<T>) -> Part<T> {
    let answered = if view.is_some() { Answered::Saw } else { Answered::KnowsNothing };
    Part { node, answered, view }
}

/// An incident as all members saw it. Known to others alone, it is found all the same.
pub(super) async fn across(State(admin): State<Arc<Admin>>, Path(id): Path<String>) -> Answer {
    let own = own_part(own_name(&admin).await?, find(&admin, &id).await?);
    let asked = admin.questions.ask(&admin.handle, format!("incident/{id}"));
    let (mut hosts, not_asked): (Vec<Part<IncidentView>>, usize) = asked.await?;
    hosts.push(own);
    Ok(match AcrossView::of(hosts, not_asked) {
        Some(view) => Json(view).into_response(),
        None => unknown(&id),
    })
}

pub(super) async fn drills(State(admin): State<Arc<Admin>>) -> Answer {
    Ok(Json(admin.handle.read(Node::drill_views).await?).into_response())
}

async fn find_drill(admin: &Admin, id: String) -> Result<Option<DrillView>, Gone> {
    let find = move |node: &Node, now| node.drill_views(now).into_iter().find(|d| d.id == id);
    admin.handle.read(find).await
}

fn no_drill(id: &str) -> axum::response::Response {
    problem(
        StatusCode::NOT_FOUND,
        &format!("no drill {id:?} is known here"),
        "`hearth drill --list` shows those that are",
    )
}

/// A drill as all members saw it.
pub(super) async fn report(State(admin): State<Arc<Admin>>, Path(id): Path<String>) -> Answer {
    let Some(drill) = find_drill(&admin, id.clone()).await? else { return Ok(no_drill(&id)) };
    let asked = admin.questions.ask(&admin.handle, format!("drill/{id}"));
    let (mut hosts, not_asked): (Vec<Part<DrillView>>, usize) = asked.await?;
    hosts.push(own_part(own_name(&admin).await?, Some(drill.clone())));
    Ok(Json(DrillReport::of(drill, hosts, not_asked)).into_response())
}

pub(super) async fn start(State(admin): State<Arc<Admin>>, body: String) -> Answer {
    let bad = |what: String| {
        let hint = "send {\"service\": …, \"node\" or \"zone\": …, \"for\": \"60s\"}";
        Ok(problem(StatusCode::BAD_REQUEST, &what, hint))
    };
    let request: DrillRequest = match serde_json::from_str(&body) {
        Ok(request) => request,
        Err(e) => return bad(format!("the body is no drill request: {e}")),
    };
    let lose = match (request.node, request.zone) {
        (Some(node), None) => Lose::Node(node),
        (None, Some(zone)) => Lose::Zone(zone),
        _ => return bad("a drill loses a node or a zone, one of the two".to_owned()),
    };
    let percent = request.abort_above_percent;
    if percent.is_some_and(|p| !(0.0..100.0).contains(&p)) {
        return bad(format!("{} % is no share to abort above", percent.unwrap_or_default()));
    }
    let ask = DrillAsk {
        service: request.service,
        lose,
        length: request.length,
        abort_above: percent.map(|p| (p * 100.0).round() as u32),
        force: request.force,
    };
    tracing::info!(service = %ask.service, lose = %ask.lose, length = %ask.length, "drill asked for");
    let (answer, begun) = oneshot::channel();
    admin.handle.command(Command::StartDrill(ask, answer)).await?;
    let id = match begun.await {
        Ok(Ok(id)) => id,
        Ok(Err(refused)) => return Ok(not_begun(&refused)),
        Err(_) => return Err(Gone.into()),
    };
    match find_drill(&admin, id.to_string()).await? {
        Some(view) => Ok(Json(view).into_response()),
        None => Ok(no_drill(&id.to_string())),
    }
}

fn not_begun(refused: &DrillRefused) -> axum::response::Response {
    let (status, hint) = match refused {
        DrillRefused::Forbidden(_) => {
            (StatusCode::FORBIDDEN, "the policy decides: drills = \"on\" allows it")
        }
        DrillRefused::Busy(..) => {
            (StatusCode::CONFLICT, "wait for it, or end it: `hearth drill --stop ID`")
        }
        DrillRefused::LastCapacity(..) => {
            (StatusCode::CONFLICT, "--force makes it all the same; requests will fail")
        }
        DrillRefused::Nothing(..) => (
            StatusCode::NOT_FOUND,
            "`hearth explain SERVICE` lists its endpoints, `hearth members` zones",
        ),
        _ => (StatusCode::BAD_REQUEST, ""),
    };
    problem(status, &refused.to_string(), hint)
}

pub(super) async fn stop(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    body: String,
) -> Answer {
    let why = match serde_json::from_str::<DrillStop>(&body) {
        // It goes to everybody: a line, no more.
        Ok(DrillStop { why }) => why.chars().filter(|c| !c.is_control()).take(200).collect(),
        Err(e) => {
            let error = format!("the body does not say why: {e}");
            return Ok(problem(StatusCode::BAD_REQUEST, &error, "send {\"why\": \"…\"}"));
        }
    };
    let drill: DrillId = match id.parse() {
        Ok(drill) => drill,
        Err(e) => return Ok(problem(StatusCode::BAD_REQUEST, &e, "`hearth drill --list`")),
    };
    let (answer, stopped) = oneshot::channel();
    admin.handle.command(Command::StopDrill(drill, why, answer)).await?;
    let ran = stopped.await.map_err(|_| Gone)?;
    match find_drill(&admin, id.clone()).await? {
        Some(view) if ran || !view.running => Ok(Json(view).into_response()),
        _ => Ok(no_drill(&id)),
    }
}
