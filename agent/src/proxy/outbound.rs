//! The callers' side: listeners on this host, and the request from its head to its answer.
//!
//! One listener per upstream service, and one shared by all where the `Host` names the service. A service
//! whose endpoints speak opaque bytes gets its connections carried as they are; HTTP is spoken by
//! [`super::edge`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hearth_proto::advert::Protocol;
use hearth_proto::ids::ServiceName;
use hearth_proto::policy::Patience;
use http::header::SET_COOKIE;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::answer::Failure;
use super::attempt::Answer;
use super::blame::Awaited;
use super::body::{Body, impatient, mended, observed};
use super::guard::{Ahead, Control};
use super::head::BodyKind;
use super::headers::{in_a_circle, sign_via};
use super::ingress::Gate;
use super::prepare::prepare;
use super::race::{Race, Won};
use super::session::Session;
use super::{Inner, edge, fast, grpc, socks, tcp, upgrade};
use crate::pipe::Pipe;
use crate::threads::slot;

/// After an error that comes from a lack of file descriptors: accepting at once again would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A client from which nothing comes is asked by the kernel whether it is there, first after as long as an
/// idle connection may live; one that has not answered for a minute is gone.
const ASK_AFTER: Duration = Duration::from_secs(90);
const ASK_EVERY: Duration = Duration::from_secs(15);
const ASKED: u32 = 4;

/// What a listener is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// One service, whatever the host says.
    Upstream(ServiceName),
    /// The service that the host names: `<service>.mesh` or `<service>`; tunnels to services too.
    Shared,
    /// The service that a program names in SOCKS.
    Socks,
    /// Services by their names outside the mesh.
    Ingress(Arc<Gate>),
}

/// A listener as others see it: where it leads, and whether it is closed.
pub(crate) struct Door {
    leads: ArcSwap<Entry>,
    closed: watch::Sender<bool>,
}

impl Door {
    pub(crate) fn new(leads: Entry, closed: bool) -> Self {
        Self { leads: ArcSwap::from_pointee(leads), closed: watch::Sender::new(closed) }
    }

    /// A door that leads elsewhere and closes with this one.
    pub(crate) fn towards(&self, leads: Entry) -> Self {
        Self { leads: ArcSwap::from_pointee(leads), closed: self.closed.clone() }
    }

    pub(crate) fn redirect(&self, leads: Entry) {
        self.leads.store(Arc::new(leads));
    }

    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Where it leads now.
    pub(crate) fn leads(&self) -> Arc<Entry> {
        self.leads.load_full()
    }

    /// Returns once it is closed.
    pub(crate) async fn closed(&self) {
        // The door holds the sender: waiting cannot fail.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }
}

impl Inner {
    /// What a connection through a door that leads there takes its place among.
    fn room(&self, entry: &Entry) -> Arc<Semaphore> {
        match entry {
            Entry::Ingress(_) => self.strangers.clone(),
            Entry::Upstream(_) | Entry::Shared | Entry::Socks => self.connections.clone(),
        }
    }
}

/// Has the kernel find out clients that vanished without a word, on every connection that it will accept
/// here: connections inherit it (tcp(7)). What it refuses costs memory of such clients, not correctness.
pub(crate) fn keep_alive(listener: &TcpListener) {
    let asks =
        TcpKeepalive::new().with_time(ASK_AFTER).with_interval(ASK_EVERY).with_retries(ASKED);
    if let Err(error) = SockRef::from(listener).set_tcp_keepalive(&asks) {
        tracing::debug!(%error, "clients that vanish will not be noticed");
    }
}

/// Accepts until the door is closed, and deals connections out to the data threads in turn.
pub(crate) async fn accept(
    inner: Arc<Inner>,
    listener: TcpListener,
    door: Arc<Door>,
    runtimes: Arc<[Handle]>,
) {
    let mut closed = door.closed.subscribe();
    let mut turn = 0;
    loop {
        let next = async {
            let permit = inner.room(&door.leads()).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            biased;
            _ = closed.wait_for(|c| *c) => return,
            next = next => next,
        };
        // The semaphore is never closed.
        let Ok(permit) = permit else { return };
        match accepted {
            Ok((stream, client)) => {
                let serve =
                    |stream| connection(inner.clone(), stream, client, door.clone(), permit);
                turn = (turn + 1) % runtimes.len();
                if turn == slot() {
                    tokio::spawn(serve(stream));
                    continue;
                }
                // Its readiness is to be told to the thread that serves it.
                let Ok(stream) = stream.into_std() else { continue };
                let _context = runtimes[turn].enter();
                if let Ok(stream) = TcpStream::from_std(stream) {
                    runtimes[turn].spawn(serve(stream));
                }
            }
            Err(error) => {
                let entry = door.leads.load();
                tracing::warn!(%error, ?entry, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    inner: Arc<Inner>,
    stream: TcpStream,
    client: SocketAddr,
    door: Arc<Door>,
    permit: OwnedSemaphorePermit,
) {
    let _permit = permit;
    let gauge = inner.metrics.connections.clone();
    gauge.inc();
    // Answers are written whole; waiting for more only delays them.
    let _ = stream.set_nodelay(true);
    match &*door.leads() {
        Entry::Socks => Box::pin(socks::serve(&inner, stream, client, &door)).await,
        Entry::Ingress(gate) => {
            Box::pin(gate.clone().serve(&inner, stream, client, &door)).await;
        }
        _ => serve(&inner, Pipe::Tcp(stream), client, &door).await,
    }
    gauge.dec();
}

/// Serves bytes that came through `door`, by whatever way, to their end.
pub(crate) async fn serve(inner: &Arc<Inner>, pipe: Pipe, client: SocketAddr, door: &Arc<Door>) {
    match (&*door.leads(), pipe) {
        (Entry::Upstream(service), pipe) if inner.protocol(service) == Some(Protocol::Tcp) => {
            Box::pin(tcp::carry(inner, service, pipe, client.ip())).await;
        }
        (Entry::Upstream(_) | Entry::Shared, Pipe::Tcp(stream)) => {
            match fast::client::serve(inner, door, stream, client).await {
                fast::client::After::Closed => {}
                fast::client::After::Unusual(stream, read, since) => {
                    let (pipe, ahead) = (Pipe::Tcp(stream), Ahead { read, since });
                    Box::pin(edge::serve(inner, pipe, ahead, client, door)).await;
                }
            }
        }
        (_, pipe) => Box::pin(edge::serve(inner, pipe, Ahead::default(), client, door)).await,
    }
}

/// One request of a client.
pub(crate) async fn handle(
    inner: &Arc<Inner>,
    entry: &Entry,
    client: SocketAddr,
    mut request: Request<Incoming>,
    control: &Arc<Control>,
) -> Response<Body> {
    let started = Instant::now();
    let node = inner.node().as_str();
    let named = match entry {
        Entry::Ingress(gate) => gate.receive(&mut request, client.ip()),
        _ => named(entry, &request),
    };
    let service = match named {
        Ok(service) => service,
        Err(failure) => return failure.respond(node),
    };
    let version = request.version();
    // Names that clients make up must not become time series.
    let counted = match inner.route(&service) {
        None if !matches!(entry, Entry::Upstream(_)) => inner.unknown.clone(),
        _ => service.clone(),
    };
    let grpc = grpc::is_grpc(request.headers());
    let awaited = Awaited::new(inner, &counted, started);
    let won = answer(inner, &service, client, request, started, control).await;
    awaited.over();
    let told = won.as_ref().err().filter(|_| grpc).map(|failure| failure.respond_grpc(node));
    let response = concluded(inner, &service, &counted, client, version, won, started);
    told.unwrap_or(response)
}

/// Counts and tells what a request came to, and makes its answer. `counted` is the name it counts under.
pub(crate) fn concluded(
    inner: &Inner,
    service: &ServiceName,
    counted: &ServiceName,
    client: SocketAddr,
    version: Version,
    won: Won,
    started: Instant,
) -> Response<Body> {
    let node = inner.node().as_str();
    let seconds = started.elapsed().as_secs_f64();
    match won.map(Answer::into_response) {
        Ok(mut response) => {
            sign_via(response.headers_mut(), version, node);
            match outcome(&response) {
                Some(outcome) => inner.metrics.request(counted, outcome, seconds),
                None => return counted_at_end(inner, counted, response, seconds),
            }
            response
        }
        Err(failure) => {
            let outcome = match failure.status() {
                StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN | StatusCode::LOOP_DETECTED => {
                    "client_error"
                }
                _ if matches!(failure, Failure::Shed { .. }) => "shed",
                _ => "failed",
            };
            inner.metrics.request(counted, outcome, seconds);
            tracing::info!(%service, %client, status = failure.status().as_u16(),
                detail = %failure, "request failed");
            failure.respond(node)
        }
    }
}

/// How an answer is counted; `None`: gRPC says it at the end.
fn outcome(response: &Response<Body>) -> Option<&'static str> {
    let code = grpc::Code::of(response.headers());
    match response.status() {
        s if s.is_server_error() => Some("server_error"),
        s if s.is_client_error() => Some("client_error"),
        _ if code.is_some() => code.map(grpc::Code::outcome),
        _ if grpc::is_grpc(response.headers()) => None,
        _ => Some("ok"),
    }
}

fn counted_at_end(
    inner: &Inner,
    counted: &ServiceName,
    response: Response<Body>,
    seconds: f64,
) -> Response<Body> {
    let (metrics, counted) = (inner.metrics.clone(), counted.clone());
    response.map(|body| {
        // A client of gRPC takes a stream that is reset for a fault of the mesh's HTTP.
        let body = mended(body, |error| grpc::broken_off(&format!("hearth: {error}")));
        observed(body, move |trailers| {
            let code = trailers.and_then(grpc::Code::of);
            // A call that ends without a status was given up by its client, or broke on the way.
            let outcome = code.map_or("failed", grpc::Code::outcome);
            metrics.request(&counted, outcome, seconds);
        })
    })
}

/// Which service a request is for.
fn named(entry: &Entry, request: &Request<Incoming>) -> Result<ServiceName, Failure> {
    let host = authority(request);
    match entry {
        Entry::Upstream(service) => Ok(service.clone()),
        _ => service_of(&host).ok_or(Failure::NoService(host)),
    }
}

/// Whom a request is addressed to.
pub(crate) fn authority<B>(request: &Request<B>) -> String {
    let in_uri = request.uri().authority().map(|a| a.as_str().to_owned());
    let in_header = || {
        let host = request.headers().get(http::header::HOST)?;
        host.to_str().ok().map(str::to_owned)
    };
    in_uri.or_else(in_header).unwrap_or_default()
}

/// `ledger`, `ledger.mesh`, with or without a port, in any case, with or without the root's dot.
pub(crate) fn service_of(host: &str) -> Option<ServiceName> {
    let name = host.rsplit_once(':').map_or(host, |(name, _port)| name).to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    ServiceName::parse(name.strip_suffix(".mesh").unwrap_or(name)).ok()
}

async fn answer(
    inner: &Arc<Inner>,
    service: &ServiceName,
    client: SocketAddr,
    mut request: Request<Incoming>,
    started: Instant,
    control: &Arc<Control>,
) -> Won {
    let asked = upgrade::asked(&mut request);
    if request.method() == Method::CONNECT {
        return Err(Failure::BadRequest("CONNECT asks for a tunnel, which is not offered".into()));
    }
    let other = match inner.protocol(service) {
        Some(Protocol::Tcp) => Some("opaque bytes (tcp); connect to its own upstream port"),
        Some(Protocol::Udp) => Some("in datagrams (udp); use an upstream port with that protocol"),
        _ => None,
    };
    if let Some(other) = other {
        return Err(Failure::BadRequest(format!("{service} speaks {other}")));
    }
    if let Some(passed) = in_a_circle(request.headers(), inner.node().as_str()) {
        return Err(Failure::Circle(passed));
    }
    let policy = inner.route(service).map(|r| r.policy.clone()).unwrap_or_default();
    let limit = policy.timeout.0.max(Duration::from_secs(1));
    let given = grpc::timeout(request.headers()).filter(|_| grpc::is_grpc(request.headers()));
    let is_11 = request.version() == Version::HTTP_11;
    let fields = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let session = Session::of(&policy, client.ip(), fields);
    let mut prepared = prepare(inner, service, client, request, started + limit).await?;
    prepared.session = session.key();
    // HTTP/1.0 has no interim answers, and hyper sends none in HTTP/2.
    prepared.client = is_11.then(|| control.clone());
    prepared.due = given.map(|given| started + given);
    if let Some(asked) = &asked {
        // What follows the head is not a body, and goes when the answer lets it.
        prepared.head.body = BodyKind::AfterGo;
        prepared.head.upgrade.clone_from(&asked.token);
    }
    let moved = prepared.supply.moved();
    let mut won = Race::new(inner, &Arc::new(prepared), service, started).run().await?;
    if let Session::New(_, cookie) = session {
        won.headers.append(SET_COOKIE, cookie);
    }
    if let Patience::For(limit) = policy.idle_timeout {
        won.body = impatient(won.body, limit.0, moved);
    }
    if let (Some(tunnel), Some(asked)) = (won.tunnel.take(), asked) {
        upgrade::accept(asked, &mut won, tunnel, &inner.upgraded, control);
    }
    Ok(won)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_names_the_service() {
        for host in ["ledger", "ledger.mesh", "Ledger.Mesh:7942", "ledger.mesh.", "ledger:80"] {
            assert_eq!(service_of(host).unwrap().as_str(), "ledger", "{host}");
        }
        for host in ["", "10.0.0.1", "a.b.mesh", "[::1]:80", ".mesh"] {
            assert_eq!(service_of(host), None, "{host}");
        }
    }
}
