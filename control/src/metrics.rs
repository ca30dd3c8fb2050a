//! What the daemon counts, and where Prometheus reads it.
//!
//! Labels are of bounded sets only (reasons are words of enums). The listener is plain HTTP, answers
//! GET on `/metrics`, `/live` and `/ready`, shows nothing secret and changes nothing; by default it is
//! on loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hearth_proto::time::Wall;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// `result`: `ok` or the reason of the refusal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// `reason`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabel {
    version: &'static str,
}

/// The daemon's counters.
pub struct Metrics {
    joins: Family<ResultLabel, Counter>,
    renewals: Family<ResultLabel, Counter>,
    pushes: Family<ResultLabel, Counter>,
    handshakes_refused: Family<ReasonLabel, Counter>,
    operators_refused: Counter,
    connections_dropped: Counter,
    policy_version: Gauge,
    certificate_expires: Gauge<f64, AtomicU64>,
    agents_known: Gauge,
    agents_current: Gauge,
    last_push: Gauge<f64, AtomicU64>,
    ready: AtomicBool,
    registry: Registry,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut m = Self {
            joins: Family::default(),
            renewals: Family::default(),
            pushes: Family::default(),
            handshakes_refused: Family::default(),
            operators_refused: Counter::default(),
            connections_dropped: Counter::default(),
            policy_version: Gauge::default(),
            certificate_expires: Gauge::default(),
            agents_known: Gauge::default(),
            agents_current: Gauge::default(),
            last_push: Gauge::default(),
            ready: AtomicBool::new(false),
            registry: Registry::with_prefix("hearth_control"),
        };
        let r = &mut m.registry;
        let build = Family::<BuildLabel, Gauge>::default();
        build.get_or_create(&BuildLabel { version: env!("CARGO_PKG_VERSION") }).set(1);
        r.register("build_info", "Version of the daemon", build);
        r.register("joins", "Joins, by result", m.joins.clone());
        r.register("renewals", "Certificate renewals, by result", m.renewals.clone());
        r.register("push", "Attempts to bring documents to an agent, by result", m.pushes.clone());
        r.register(
            "handshakes_refused",
            "TLS handshakes with the API that failed",
            m.handshakes_refused.clone(),
        );
        r.register(
            "operators_refused",
            "Requests with no or a wrong operator token",
            m.operators_refused.clone(),
        );
        r.register(
            "connections_dropped",
            "API connections turned away because too many were open",
            m.connections_dropped.clone(),
        );
        r.register("policy_version", "Policy version in force", m.policy_version.clone());
        r.register(
            "cert_expiry_timestamp_seconds",
            "End of validity of the control certificate",
            m.certificate_expires.clone(),
        );
        r.register("agents_known", "Agents known", m.agents_known.clone());
        r.register(
            "agents_current",
            "Agents last seen with the newest policy version",
            m.agents_current.clone(),
        );
        r.register(
            "last_push_timestamp_seconds",
            "When documents last reached an agent",
            m.last_push.clone(),
        );
        m
    }
}

fn seconds(wall: Wall) -> f64 {
    wall.0 as f64 / 1e6
}

impl Metrics {
    /// Counts a join: `ok` or why not.
    pub fn join(&self, result: &'static str) {
        self.joins.get_or_create(&ResultLabel { result }).inc();
    }

    /// Counts a renewal: `ok` or why not.
    pub fn renewal(&self, result: &'static str) {
        self.renewals.get_or_create(&ResultLabel { result }).inc();
    }

    /// Counts an attempt to push: `ok` or why not.
    pub fn push(&self, result: &'static str) {
        self.pushes.get_or_create(&ResultLabel { result }).inc();
    }

    /// Counts a TLS handshake that failed.
    pub fn handshake_refused(&self, reason: &'static str) {
        self.handshakes_refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts a request without a good operator token.
    pub fn operator_refused(&self) {
        self.operators_refused.inc();
    }

    /// Counts a connection that was turned away.
    pub fn connection_dropped(&self) {
        self.connections_dropped.inc();
    }

    /// Notes the policy version in force.
    pub fn policy_version(&self, version: u64) {
        self.policy_version.set(i64::try_from(version).unwrap_or(i64::MAX));
    }

    /// Notes when the control certificate ends.
    pub fn certificate_expires(&self, at: Wall) {
        self.certificate_expires.set(seconds(at));
    }

    /// Notes how many agents are known, and how many of them have the newest policy.
    pub fn agents(&self, known: usize, current: usize) {
        self.agents_known.set(i64::try_from(known).unwrap_or(i64::MAX));
        self.agents_current.set(i64::try_from(current).unwrap_or(i64::MAX));
    }

    /// Notes when a push reached an agent.
    pub fn pushed(&self, at: Wall) {
        self.last_push.set(seconds(at));
    }

    /// Says whether the API answers.
    pub fn ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    /// The text Prometheus reads.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

async fn metrics(State(metrics): State<Arc<Metrics>>) -> Response {
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, TYPE)], metrics.render()).into_response()
}

async fn ready(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.ready.load(Ordering::Relaxed) {
        true => "ready\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response(),
    }
}

/// Answers on `listener` until dropped.
pub async fn serve(listener: TcpListener, state: Arc<Metrics>) {
    /// Scrapers and probes are few.
    const MAX_CONNECTIONS: usize = 32;
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/ready", get(ready))
        .route("/live", get(|| async { "live\n" }))
        .with_state(state);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(5))
                .serve_connection(TokioIo::new(stream), service);
            // A scraper that goes away is its own business.
            let _ = tokio::time::timeout(Duration::from_secs(300), connection).await;
            drop(permit);
        });
    }
}

/// Binds the metrics port.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}
