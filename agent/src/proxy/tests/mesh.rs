//! Agents with real links and proxies on loopback, routes made by hand, and an application that does
//! what a request tells it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use hearth_proto::advert::{Condition, Protocol, Role};
use hearth_proto::balance::tiers::Place;
use hearth_proto::balance::{FULL_WEIGHT, Spread};
use hearth_proto::evidence::Standing;
use hearth_proto::failover::Tally;
use hearth_proto::ids::{EndpointId, Generation, ServiceName};
use hearth_proto::policy::ServicePolicy;
use hearth_proto::route::{Candidate, Choice, Route, Share, Snapshot};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::super::{Entry, LocalEndpoint, MeshHandle, Proxy, ProxyMetrics};
use crate::config::HttpVersion;
use crate::driver::{Origin, PathReport};
use crate::identity::authority::Authority;
use crate::link::tests::{Agent, Relay, loopback, name};
use crate::pipe::AppAddress;

pub(super) fn ledger() -> ServiceName {
    ServiceName::parse("ledger").unwrap()
}

pub(super) fn endpoint(node: &str) -> EndpointId {
    EndpointId { service: ledger(), node: name(node), instance: 0 }
}

/// An agent with a proxy and routes that a test sets.
pub(super) struct Host {
    pub(super) agent: Agent,
    pub(super) proxy: Proxy,
    pub(super) metrics: ProxyMetrics,
    pub(super) reports: mpsc::Receiver<PathReport>,
    pub(super) upstream: SocketAddr,
    pub(super) shared: SocketAddr,
    snapshot: Arc<ArcSwap<Snapshot>>,
    changed: watch::Sender<u64>,
}

impl Host {
    pub(super) async fn start(authority: &Authority, node: &str, app: Option<SocketAddr>) -> Self {
        Self::over(Agent::start(authority, node), app, Protocol::Http).await
    }

    pub(super) async fn over(agent: Agent, app: Option<SocketAddr>, protocol: Protocol) -> Self {
        let http = HttpVersion::of(protocol);
        Self::with(agent, app.map(|address| (address.into(), protocol, http))).await
    }

    pub(super) async fn offering(
        agent: Agent,
        app: AppAddress,
        protocol: Protocol,
        http: HttpVersion,
    ) -> Self {
        Self::with(agent, Some((app, protocol, http))).await
    }

    async fn with(agent: Agent, app: Option<(AppAddress, Protocol, HttpVersion)>) -> Self {
        let empty = Snapshot::empty(agent.name.clone());
        let id = endpoint(agent.name.as_str());
        let snapshot = Arc::new(ArcSwap::from_pointee(empty));
        let (changed, seen) = watch::channel(0);
        let (sender, reports) = mpsc::channel(1024);
        let mesh = MeshHandle {
            snapshot: snapshot.clone(),
            changed: seen,
            reports: sender,
            links: agent.links.clone(),
            origin: Origin::now(),
        };
        let locals = app
            .map(|(address, protocol, http)| LocalEndpoint { id, address, protocol, http })
            .into_iter()
            .collect();
        let metrics = ProxyMetrics::default();
        let proxy = Proxy::new(mesh, locals, metrics.clone(), vec![Handle::current()]);
        let upstream = proxy.listen(loopback(0), Entry::Upstream(ledger())).await.unwrap();
        let shared = proxy.listen(loopback(0), Entry::Shared).await.unwrap();
        let host = Self { agent, proxy, metrics, reports, upstream, shared, snapshot, changed };
        host.condition(Condition::Serving);
        host.route(&[], plain());
        host
    }

    /// Changes what is published.
    pub(super) fn publish(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut next = Snapshot::clone(&self.snapshot.load());
        next.version += 1;
        change(&mut next);
        let version = next.version;
        self.snapshot.store(Arc::new(next));
        self.changed.send_replace(version);
    }

    /// Publishes what its own endpoint is in.
    pub(super) fn condition(&self, condition: Condition) {
        let id = endpoint(self.agent.name.as_str());
        self.publish(|s| {
            s.own.insert(id, condition);
        });
    }

    /// Publishes a route to these, in this order.
    pub(super) fn route(&self, to: &[(&str, SocketAddr)], policy: ServicePolicy) {
        self.choose(to, policy, Choice::Serve);
    }

    pub(super) fn choose(
        &self,
        to: &[(&str, SocketAddr)],
        policy: ServicePolicy,
        choice: impl FnOnce(Vec<usize>) -> Choice,
    ) {
        let candidates: Vec<Candidate> = to
            .iter()
            .map(|(node, address)| Candidate {
                id: endpoint(node),
                address: *address,
                generation: Generation(1),
                protocol: Protocol::Http,
                role: Role::Hot,
                condition: Condition::Serving,
                standing: Standing::Ready,
                via: None,
                share: Share::Full,
                term: None,
                capacity: 100,
                weight: FULL_WEIGHT,
                place: Place::default(),
            })
            .collect();
        self.put(candidates, policy, choice);
    }

    pub(super) fn candidates(&self) -> Vec<Candidate> {
        self.snapshot.load().services[&ledger()].candidates.clone()
    }

    pub(super) fn put(
        &self,
        candidates: Vec<Candidate>,
        policy: ServicePolicy,
        choice: impl FnOnce(Vec<usize>) -> Choice,
    ) {
        let choice = choice((0..candidates.len()).collect());
        let route = Route {
            service: ledger(),
            spread: Spread::of(&policy, &candidates, &choice, &Place::default()),
            policy,
            choice,
            candidates,
            reason: "set by the test".into(),
            tally: Tally::default(),
            watched: false,
        };
        self.publish(|s| s.services = BTreeMap::from([(ledger(), Arc::new(route))]));
    }

    pub(super) fn retries(&self, reason: &str) -> u64 {
        let labels = [("service", "ledger".to_owned()), ("reason", reason.to_owned())];
        self.metrics.retries.get_or_create(&labels).get()
    }
}

/// The policy of most tests: no hedging, so that only what is under test happens.
pub(super) fn plain() -> ServicePolicy {
    ServicePolicy { hedge: hearth_proto::policy::Hedge::Off, ..ServicePolicy::default() }
}

/// What came back to a client.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

pub(super) fn client() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

pub(super) async fn send(
    to: SocketAddr,
    method: Method,
    path: &str,
    fields: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Reply {
    let mut request = Request::new(Full::new(body.into()));
    *request.method_mut() = method;
    *request.uri_mut() = format!("http://{to}{path}").parse().unwrap();
    for (field, value) in fields {
        let name: http::HeaderName = field.parse().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let response = tokio::time::timeout(Duration::from_secs(20), client().request(request));
    let (parts, body) = response.await.expect("an answer in time").unwrap().into_parts();
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    Reply { status: parts.status, headers: parts.headers, body: collected.to_bytes(), trailers }
}

pub(super) async fn get(to: SocketAddr, path: &str) -> Reply {
    send(to, Method::GET, path, &[], "").await
}

/// A tiny application: it says its name, echoes, waits, fails or hangs as the path tells.
pub(super) struct App {
    pub(super) address: SocketAddr,
    pub(super) requests: Arc<AtomicUsize>,
    pub(super) dropped: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

/// Counts a request that ended before its answer.
struct Unanswered(Arc<AtomicUsize>, bool);

impl Drop for Unanswered {
    fn drop(&mut self) {
        if !self.1 {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl App {
    pub(super) async fn start(says: &'static str) -> Self {
        let listener = TcpListener::bind(loopback(0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let dropped = Arc::new(AtomicUsize::new(0));
        let counted = (requests.clone(), dropped.clone());
        let task = tokio::spawn(async move {
            // Dropping the set with the task closes every connection.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let counted = counted.clone();
                connections.spawn(async move {
                    let service = service_fn(move |r| {
                        counted.0.fetch_add(1, Ordering::SeqCst);
                        respond(says, r, counted.1.clone())
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { address, requests, dropped, task }
    }

    /// What `kill -9` does: no listener, no connections.
    pub(super) async fn kill(&self) {
        self.task.abort();
        while tokio::net::TcpStream::connect(self.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    /// Requests that were dropped before they were answered.
    pub(super) fn dropped(&self) -> usize {
        self.dropped.load(Ordering::SeqCst)
    }

    pub(super) fn seen(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn respond(
    says: &'static str,
    request: Request<Incoming>,
    dropped: Arc<AtomicUsize>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut unanswered = Unanswered(dropped, false);
    let path = request.uri().path().to_owned();
    let target = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
    let fields: String = format!("\n:path: {target}\n")
        + &request
            .headers()
            .iter()
            .map(|(n, v)| format!("{n}: {}\n", v.to_str().unwrap()))
            .collect::<String>();
    let mut response = Response::new(Full::new(Bytes::from(says)));
    response.headers_mut().insert("connection", "x-hop".parse().unwrap());
    response.headers_mut().insert("x-hop", "1".parse().unwrap());
    // What follows a second stroke is meant for the one of that name.
    let (task, whom) = path[1..].split_once('/').unwrap_or((&path[1..], says));
    match task {
        _ if whom != says => {}
        "echo" => {
            let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes);
            *response.body_mut() = Full::new(body.unwrap_or_default());
        }
        "fields" => *response.body_mut() = Full::new(fields.into()),
        "slow" => tokio::time::sleep(Duration::from_millis(300)).await,
        "hang" => tokio::time::sleep(Duration::from_secs(60)).await,
        "wrong" => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
        "busy" => {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response.headers_mut().insert("retry-after", "1".parse().unwrap());
        }
        "big" => *response.body_mut() = Full::new(vec![7; 3_000_000].into()),
        _ => {}
    }
    unanswered.1 = true;
    Ok(response)
}

/// An owner `node` with an application, reached over a relay.
pub(super) async fn relayed(authority: &Authority, node: &str, app: &App) -> (Host, Relay) {
    relayed_to(authority, node, app.address, Protocol::Http).await
}

/// An owner `node` of whatever listens at `app`, reached over a relay.
pub(super) async fn relayed_to(
    authority: &Authority,
    node: &str,
    app: SocketAddr,
    protocol: Protocol,
) -> (Host, Relay) {
    let target = Arc::new(std::sync::OnceLock::new());
    let known = target.clone();
    let relay = Relay::start(move || *known.get().unwrap()).await;
    let agent = Agent::with(authority.node(node), 1, Some(relay.address));
    target.set(agent.address).unwrap();
    (Host::over(agent, Some(app), protocol).await, relay)
}
