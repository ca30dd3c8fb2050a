//! The REST API's routes: HTTP to operations and back. Decides nothing itself.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Extension, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hearth_proto::api::{
    ControlStatus, Enrolment, JoinRequest, PolicyAnswer, PolicyRequest, PolicyVersion,
    RenewRequest, TokenAnswer, TokenRequest,
};
use hearth_proto::ids::NodeName;
use hearth_proto::time::Wall;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::Peer;
use super::answer::{Refusal, no_such_version};
use crate::moment;
use crate::plane::Plane;

/// Largest body: a policy text, quoted as JSON.
const MAX_BODY: usize = 1024 * 1024;
/// What is read of a body that is too large, and for how long, so that its sender gets to read the refusal:
/// a connection closed with unread bytes is reset, and the answer lost with it.
const DRAIN: usize = 8 * MAX_BODY;
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// A whole request, body and answer.
const REQUEST: Duration = Duration::from_secs(30);
/// How long an apply waits for the first acknowledgement before it answers without.
const FIRST_ACK: Duration = Duration::from_secs(2);

/// What the handlers share.
#[derive(Clone)]
pub struct Shared {
    /// The operations.
    pub plane: Arc<Plane>,
    /// Which policy version was acknowledged by whom.
    pub acknowledged: watch::Receiver<(u64, Vec<NodeName>)>,
    /// Agents are configured, whether or not any has joined yet.
    pub agents_configured: bool,
}

/// The API.
pub fn router(shared: Shared) -> Router {
    Router::new()
        .route("/v1/join", post(join))
        .route("/v1/renew", post(renew))
        .route("/v1/policy", get(policy).put(apply))
        .route("/v1/policy/history", get(history))
        .route("/v1/policy/{version}", get(policy_version))
        .route("/v1/tokens", post(create_token))
        .route("/v1/status", get(status))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(of_bounded_size))
        .layer(middleware::from_fn(in_time))
        .with_state(shared)
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the request was not complete within {} s", REQUEST.as_secs()),
            "send it again",
        )
        .into_response(),
    }
}

/// Refuses a body that says itself that it is too large, after reading what can be read of it. One that does
/// not say is cut off by [`DefaultBodyLimit`].
async fn of_bounded_size(request: Request, next: Next) -> Response {
    if request.body().size_hint().lower() <= MAX_BODY as u64 {
        return next.run(request).await;
    }
    let mut body = request.into_body();
    let drain = async {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > DRAIN {
                break;
            }
        }
    };
    // Whoever sends more, or more slowly, may miss why.
    let _ = tokio::time::timeout(DRAIN_LIMIT, drain).await;
    too_large().into_response()
}

fn too_large() -> Refusal {
    Refusal::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("the body is larger than {MAX_BODY} bytes"),
        "send less",
    )
}

async fn no_such_path(request: Request) -> Refusal {
    let error = format!("there is no {}", request.uri().path());
    Refusal::new(StatusCode::NOT_FOUND, error, "paths begin with /v1/; see hearth --help")
}

async fn no_such_method(request: Request) -> Refusal {
    let error = format!("{} is not for {}", request.method(), request.uri().path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, error, "see hearth --help")
}

fn read<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, Refusal> {
    let body = body.map_err(|e| match e.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(),
        status => Refusal::new(status, e.body_text(), "send it again"),
    })?;
    serde_json::from_slice(&body).map_err(|e| {
        Refusal::new(StatusCode::BAD_REQUEST, format!("the body: {e}"), "send JSON as documented")
    })
}

/// Runs what blocks on the disk on a thread for that.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<Json<T>, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map(Json),
        Err(error) => Err(Refusal::internal(error.to_string())),
    }
}

type Answer<T> = Result<Json<T>, Refusal>;

async fn join(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Enrolment> {
    let request: JoinRequest = read(body)?;
    blocking(move || Ok(shared.plane.join(&request, peer.address.ip(), moment::now())?)).await
}

async fn renew(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Enrolment> {
    let request: RenewRequest = read(body)?;
    blocking(move || {
        let (plane, from) = (&shared.plane, peer.address.ip());
        Ok(plane.renew(&request, peer.identity.as_ref(), from, moment::now())?)
    })
    .await
}

/// The operator's name, from the token in the head.
fn operator(plane: &Plane, head: &HeaderMap, peer: &Peer) -> Result<String, Refusal> {
    let token = head
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    Ok(plane.operator(token, peer.address.ip(), moment::now())?)
}

async fn create_token(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    head: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer<TokenAnswer> {
    blocking(move || {
        let by = operator(&shared.plane, &head, &peer)?;
        let request: TokenRequest = read(body)?;
        let ttl = Duration::from_secs(request.ttl_seconds);
        Ok(shared.plane.create_token(&request.name, ttl, &by, moment::now())?)
    })
    .await
}

async fn status(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    head: HeaderMap,
) -> Answer<ControlStatus> {
    blocking(move || {
        operator(&shared.plane, &head, &peer)?;
        Ok(shared.plane.status()?)
    })
    .await
}

/// What is in force before anybody applied anything: version 0, every service with the defaults.
fn never_applied() -> PolicyVersion {
    PolicyVersion { version: 0, issued: Wall(0), by: String::new(), text: String::new() }
}

async fn policy(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    head: HeaderMap,
) -> Answer<PolicyVersion> {
    blocking(move || {
        operator(&shared.plane, &head, &peer)?;
        Ok(shared.plane.store().policy(None)?.unwrap_or_else(never_applied))
    })
    .await
}

async fn policy_version(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    Path(version): Path<String>,
    head: HeaderMap,
) -> Answer<PolicyVersion> {
    blocking(move || {
        operator(&shared.plane, &head, &peer)?;
        let version: u64 = version.parse().map_err(|_| {
            let error = format!("{version:?} is no version number");
            Refusal::new(StatusCode::BAD_REQUEST, error, "see hearth policy history")
        })?;
        shared.plane.store().policy(Some(version))?.ok_or_else(|| no_such_version(version))
    })
    .await
}

async fn history(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    head: HeaderMap,
) -> Answer<Vec<PolicyVersion>> {
    blocking(move || {
        operator(&shared.plane, &head, &peer)?;
        Ok(shared.plane.store().policies()?)
    })
    .await
}

async fn apply(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    head: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer<PolicyAnswer> {
    let plane = shared.plane.clone();
    let dry_run;
    let Json(mut answer) = {
        let request: PolicyRequest = match read(body) {
            Ok(request) => request,
            // Who is no operator learns only that.
            Err(refusal) => {
                return blocking(move || {
                    operator(&plane, &head, &peer)?;
                    Err(refusal)
                })
                .await;
            }
        };
        dry_run = request.dry_run;
        blocking(move || {
            let by = operator(&plane, &head, &peer)?;
            Ok(plane.apply(&request, &by, moment::now())?)
        })
        .await?
    };
    let plane = shared.plane.clone();
    let Json(anybody) = blocking(move || Ok(!plane.store().agents()?.is_empty())).await?;
    let anybody = anybody || shared.agents_configured;
    if anybody && !dry_run && !answer.changes.is_empty() {
        answer.acknowledged = first_acknowledgement(shared.acknowledged, answer.version).await;
    }
    Ok(Json(answer))
}

/// Who acknowledged `version`, if somebody does so soon.
async fn first_acknowledgement(
    mut acknowledged: watch::Receiver<(u64, Vec<NodeName>)>,
    version: u64,
) -> Vec<NodeName> {
    let arrived = acknowledged.wait_for(|(acknowledged, _)| *acknowledged >= version);
    match tokio::time::timeout(FIRST_ACK, arrived).await {
        Ok(Ok(state)) => state.1.clone(),
        _ => Vec::new(),
    }
}
