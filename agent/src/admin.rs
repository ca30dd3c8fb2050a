//! The admin API: what operators, scripts and probes ask of one agent.
//!
//! Everything on the Unix socket, whose permissions (0660) say who may; reading only on the loopback
//! port, for metrics, probes and browsers. Answers are `hearth_proto::view` types as JSON. It reads the
//! core through the driver's queue and works with the control plane dead. `/live` never depends on
//! peers: it says that the driver answers.

mod bundle;
mod history;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path as UrlPath, Query, State};
use axum::http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hearth_proto::ids::ServiceName;
use hearth_proto::node::Node;
use hearth_proto::view::{DrainRequest, ErrorView, FailbackRequest};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::driver::{Command, Gone, Handle};
use crate::exit::Exit;
use crate::identity::Credentials;
use crate::incidents::Incidents;
use crate::link::Links;
use crate::proxy::Proxy;
use crate::questions::Questions;
use crate::run::ReloadRequest;
use crate::telemetry::{self, Metrics};

/// How long the driver may take to answer before `/live` says that it does not.
const LIVE_LIMIT: Duration = Duration::from_secs(2);
/// Largest request body.
const BODY_LIMIT: usize = 64 * 1024;

/// What the API needs.
pub struct Admin {
    /// The core.
    pub handle: Handle,
    /// The links, for their state.
    pub links: Links,
    /// The traffic path, for what passed it.
    pub proxy: Proxy,
    /// Our identity, for its expiry.
    pub credentials: Credentials,
    /// What is counted.
    pub metrics: Metrics,
    /// Where a reload is asked for.
    pub reload: mpsc::Sender<ReloadRequest>,
    /// Rung to leave and stop.
    pub leave: Arc<Notify>,
    /// Incidents, those of earlier starts too.
    pub incidents: Incidents,
    /// What peers are asked.
    pub questions: Questions,
    /// Where the flight recordings are.
    pub state_dir: PathBuf,
    /// The configuration's file.
    pub config_file: PathBuf,
}

/// Why the admin API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The socket could not be made.
    #[error(
        "cannot listen on the admin socket {path}: {source}\n  hint: its directory must exist and be \
         writable for this user; set admin.socket to another path if it is not"
    )]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another agent answers on the socket.
    #[error(
        "another agent already answers on the admin socket {0}\n  hint: stop it, or give this one an \
         admin.socket of its own"
    )]
    Taken(PathBuf),
    /// The port could not be bound.
    #[error(
        "cannot listen on admin.http {address}: {source}\n  hint: `ss -ltnp 'sport = :{}'` names who \
         holds the port; set admin.http to another, or to \"off\"", address.port()
    )]
    Port {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

impl From<&AdminError> for Exit {
    fn from(error: &AdminError) -> Self {
        match error {
            AdminError::Socket { source, .. } | AdminError::Port { source, .. } => {
                Self::of_io(source)
            }
            AdminError::Taken(_) => Self::Unavailable,
        }
    }
}

/// Opens the socket. One left behind by a dead agent is replaced.
pub async fn bind_socket(path: &Path) -> Result<UnixListener, AdminError> {
    let failed = |source| AdminError::Socket { path: path.to_owned(), source };
    if tokio::net::UnixStream::connect(path).await.is_ok() {
        return Err(AdminError::Taken(path.to_owned()));
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let permissions = std::fs::Permissions::from_mode(0o660);
    std::fs::set_permissions(path, permissions).map_err(failed)?;
    Ok(listener)
}

/// Removes our socket at the end, so that whoever asks is told that nobody is there. Should it fail, the next
/// start replaces it.
pub fn remove_socket(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(%error, path = %path.display(), "admin socket not removed");
    }
}

/// Opens the loopback port.
pub async fn bind_port(address: SocketAddr) -> Result<TcpListener, AdminError> {
    TcpListener::bind(address).await.map_err(|source| AdminError::Port { address, source })
}

/// Serves until the task is aborted.
pub async fn serve(admin: Arc<Admin>, socket: UnixListener, port: Option<TcpListener>) {
    let read_only = router(admin.clone()).layer(middleware::from_fn(only_reading));
    let whole = router(admin);
    let port = async {
        match port {
            Some(port) => axum::serve(port, read_only).await,
            None => std::future::pending().await,
        }
    };
    // Both end only with the task; an accept that fails is tried again within axum.
    let _ = tokio::join!(axum::serve(socket, whole), port);
}

fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/members", get(members))
        .route("/v1/routes", get(routes))
        .route("/v1/explain/{service}", get(explain))
        .route("/v1/check", get(check))
        .route("/v1/plan/{service}", get(plan))
        .route("/v1/incidents", get(history::incidents))
        .route("/v1/incidents/{id}", get(history::incident))
        .route("/v1/incidents/{id}/mesh", get(history::across))
        .route("/v1/drills", get(history::drills).post(history::start))
        .route("/v1/drills/{id}/mesh", get(history::report))
        .route("/v1/drills/{id}/stop", post(history::stop))
        .route("/v1/debug/bundle", post(bundle::bundle))
        .route("/v1/drain", post(drain))
        .route("/v1/failback", post(failback))
        .route("/v1/reload", post(reload))
        .route("/v1/leave", post(leave))
        .route("/metrics", get(metrics))
        .route("/live", get(live))
        .route("/livez", get(live))
        .route("/ready", get(ready))
        .route("/readyz", get(ready))
        .route("/healthz", get(ready))
        .fallback(unknown)
        .layer(axum::extract::DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(admin)
}

async fn only_reading(request: Request<axum::body::Body>, next: Next) -> Response {
    match *request.method() {
        Method::GET | Method::HEAD => next.run(request).await,
        _ => problem(
            StatusCode::FORBIDDEN,
            "the loopback port is for reading only",
            "use the admin socket: hearth --socket PATH, or curl --unix-socket PATH",
        ),
    }
}

fn problem(status: StatusCode, error: &str, hint: &str) -> Response {
    let body = ErrorView { error: error.to_owned(), hint: hint.to_owned() };
    (status, Json(body)).into_response()
}

struct Failure(Box<Response>);

impl Failure {
    fn new(status: StatusCode, error: &str, hint: &str) -> Self {
        Self(Box::new(problem(status, error, hint)))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        *self.0
    }
}

impl From<Gone> for Failure {
    fn from(gone: Gone) -> Self {
        let hint = "ask another agent of the mesh";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, &gone.to_string(), hint)
    }
}

type Answer = Result<Response, Failure>;

async fn status(State(admin): State<Arc<Admin>>) -> Answer {
    let mut view = admin.handle.read(Node::status_view).await?;
    view.links = admin.links.views();
    view.certificate_expires = Some(admin.credentials.expires());
    Ok(Json(view).into_response())
}

async fn members(State(admin): State<Arc<Admin>>) -> Answer {
    let mut members = admin.handle.read(Node::members_view).await?;
    for link in admin.links.views() {
        for member in members.iter_mut().filter(|m| m.node == link.node) {
            member.link = match &link.via {
                Some(via) => format!("through {via}"),
                None => link.carrier.clone(),
            };
        }
    }
    Ok(Json(members).into_response())
}

async fn routes(State(admin): State<Arc<Admin>>) -> Answer {
    Ok(Json(admin.handle.read(|node, _| node.routes_view()).await?).into_response())
}

/// What to do about a service's name that is none, or unknown.
const WHICH_SERVICES: &str = "`hearth routes` lists the services known here";

fn service_name(text: &str) -> Result<ServiceName, Failure> {
    ServiceName::parse(text)
        .map_err(|e| Failure::new(StatusCode::BAD_REQUEST, &e.to_string(), WHICH_SERVICES))
}

fn unknown_service(service: &ServiceName) -> Response {
    let error = format!("nobody offers or calls the service \"{service}\" as seen from here");
    problem(StatusCode::NOT_FOUND, &error, WHICH_SERVICES)
}

async fn explain(State(admin): State<Arc<Admin>>, UrlPath(service): UrlPath<String>) -> Answer {
    let name = service_name(&service)?;
    let asked = name.clone();
    let view = admin.handle.read(move |node, now| node.explain_view(&asked, now)).await?;
    Ok(view.map_or_else(|| unknown_service(&name), |view| Json(view).into_response()))
}

async fn plan(State(admin): State<Arc<Admin>>, UrlPath(service): UrlPath<String>) -> Answer {
    let name = service_name(&service)?;
    let asked = name.clone();
    let view = admin.handle.read(move |node, now| node.plan_view(&asked, now)).await?;
    Ok(view.map_or_else(|| unknown_service(&name), |view| Json(view).into_response()))
}

/// What `GET /v1/check` is asked for.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckQuery {
    /// One service; without, all of them.
    service: Option<String>,
}

async fn check(State(admin): State<Arc<Admin>>, Query(query): Query<CheckQuery>) -> Answer {
    let only = query.service.as_deref().map(service_name).transpose()?;
    let traffic = admin.proxy.traffic();
    let view = admin.handle.read(move |node, _| node.check_view(only.as_ref(), traffic)).await?;
    Ok(match view.services.as_slice() {
        [] if query.service.is_some() => problem(
            StatusCode::NOT_FOUND,
            &format!(
                "no node offers the service {:?}, and no policy names it",
                query.service.unwrap_or_default()
            ),
            WHICH_SERVICES,
        ),
        _ => Json(view).into_response(),
    })
}

async fn drain(State(admin): State<Arc<Admin>>, body: String) -> Answer {
    let request: DrainRequest = match serde_json::from_str(&body) {
        Ok(request) => request,
        Err(e) => {
            let error = format!("the body is not a drain request: {e}");
            return Ok(problem(StatusCode::BAD_REQUEST, &error, "send {\"on\": true}"));
        }
    };
    tracing::info!(on = request.on, "drain asked for");
    admin.handle.command(Command::Drain(request.on)).await?;
    status(State(admin)).await
}

async fn failback(State(admin): State<Arc<Admin>>, body: String) -> Answer {
    let request: FailbackRequest = match serde_json::from_str(&body) {
        Ok(request) => request,
        Err(e) => {
            let error = format!("the body is not a failback request: {e}");
            return Ok(problem(StatusCode::BAD_REQUEST, &error, "send {\"service\": \"NAME\"}"));
        }
    };
    tracing::info!(service = %request.service, "failback asked for");
    let (answer, view) = oneshot::channel();
    admin.handle.command(Command::Failback(request.service, answer)).await?;
    Ok(Json(view.await.map_err(|_| Gone)?).into_response())
}

async fn reload(State(admin): State<Arc<Admin>>) -> Answer {
    let (asked, outcome) = oneshot::channel();
    if admin.reload.send(asked).await.is_err() {
        return Err(Gone.into());
    }
    Ok(match outcome.await {
        Ok(Ok(done)) => Json(serde_json::json!({ "reloaded": done })).into_response(),
        Ok(Err(why)) => {
            problem(StatusCode::BAD_REQUEST, &why, "mend the file; the old configuration is kept")
        }
        Err(_) => return Err(Gone.into()),
    })
}

async fn leave(State(admin): State<Arc<Admin>>) -> Answer {
    admin.leave.notify_one();
    Ok((StatusCode::ACCEPTED, Json(serde_json::json!({ "leaving": true }))).into_response())
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Answer {
    // Gauges of the core are read through the driver, so that they are of this moment.
    let (core, expires) = (admin.metrics.clone(), admin.credentials.expires());
    admin.handle.read(move |node, now| core.observe_core(node, now)).await?;
    admin.metrics.cert_expiry(expires);
    let content = HeaderValue::from_static(telemetry::CONTENT_TYPE);
    let mut response = admin.metrics.render().into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, content);
    Ok(response)
}

async fn live(State(admin): State<Arc<Admin>>) -> Response {
    match tokio::time::timeout(LIVE_LIMIT, admin.handle.read(|_, _| ())).await {
        Ok(Ok(())) => "live\n".into_response(),
        _ => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "the driver does not answer",
            "restart the agent; its logs say what it did last",
        ),
    }
}

/// Ready: the core runs and this node is not draining or leaving. Peers are not asked for: an agent that
/// is alone serves with what it knows.
async fn ready(State(admin): State<Arc<Admin>>) -> Answer {
    let phase = admin.handle.read(|node, now| node.status_view(now).phase).await?;
    Ok(match phase.as_str() {
        "draining" | "leaving" => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            &format!("this node is {phase}"),
            "`hearth drain --off` ends draining",
        ),
        _ => "ready\n".into_response(),
    })
}

async fn unknown(uri: Uri) -> Response {
    problem(
        StatusCode::NOT_FOUND,
        &format!("there is no {}", uri.path()),
        "there are /v1/status, /v1/members, /v1/routes, /v1/explain/SERVICE, /v1/incidents, /v1/drills, \
         /v1/check, /v1/plan/SERVICE, /metrics, /live and /ready",
    )
}
