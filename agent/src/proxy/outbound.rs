//! The callers' side: listeners on this host, and the request from its head to its answer.
//!
//! One listener per upstream service, and one shared by all where the `Host` names the service. A service
//! whose endpoints speak opaque bytes gets its connections carried as they are; HTTP is spoken by
//! [`super::edge`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use hearth_proto::advert::Protocol;
use hearth_proto::ids::ServiceName;
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout_at;

use super::answer::Failure;
use super::attempt::{Answer, Prepared};
use super::body::{Body, Supply};
use super::head::{BodyKind, RequestHead};
use super::headers::{Hop, forward_request, in_a_circle, sign_via};
use super::ingress::Gate;
use super::race::{Race, Won};
use super::safety::MAX_REPLAY;
use super::target::{canonical, valid_authority};
use super::{Inner, edge, fast, socks, tcp};
use crate::pipe::Pipe;
use crate::threads::slot;

/// After an error that comes from a lack of file descriptors: accepting at once again would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
            let permit = inner.connections.clone().acquire_owned().await;
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
            tcp::carry(inner, service, pipe).await;
        }
        (Entry::Upstream(_) | Entry::Shared, Pipe::Tcp(stream)) => {
            match fast::client::serve(inner, door, stream, client).await {
                fast::client::After::Closed => {}
                fast::client::After::Unusual(stream, read) => {
                    Box::pin(edge::serve(inner, stream, read, client, door)).await;
                }
            }
        }
        (_, pipe) => Box::pin(edge::serve(inner, pipe, BytesMut::new(), client, door)).await,
    }
}

/// One request of a client.
pub(crate) async fn handle(
    inner: &Arc<Inner>,
    entry: &Entry,
    client: SocketAddr,
    mut request: Request<Incoming>,
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
    let won = answer(inner, &service, client, request, started).await;
    concluded(inner, &service, &counted, client, version, won, started)
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
            let outcome = match response.status() {
                s if s.is_server_error() => "server_error",
                s if s.is_client_error() => "client_error",
                _ => "ok",
            };
            inner.metrics.request(counted, outcome, seconds);
            sign_via(response.headers_mut(), version, node);
            response
        }
        Err(failure) => {
            let outcome = match failure.status() {
                StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN | StatusCode::LOOP_DETECTED => {
                    "client_error"
                }
                _ => "failed",
            };
            inner.metrics.request(counted, outcome, seconds);
            tracing::info!(%service, %client, status = failure.status().as_u16(),
                detail = %failure, "request failed");
            failure.respond(node)
        }
    }
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
    request: Request<Incoming>,
    started: Instant,
) -> Won {
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
    let limit = inner.route(service).map(|r| r.policy.timeout.0).unwrap_or_default();
    let limit = limit.max(Duration::from_secs(1));
    let prepared = Arc::new(prepare(inner, service, client, request, started + limit).await?);
    Race::new(inner, &prepared, service, started).run().await
}

/// Makes a request ready to be sent any number of times. Short bodies of known length are read first.
async fn prepare(
    inner: &Inner,
    service: &ServiceName,
    client: SocketAddr,
    request: Request<Incoming>,
    deadline: Instant,
) -> Result<Prepared, Failure> {
    let authority = authority(&request);
    // HTTP/1.1 was looked at on its way to hyper; HTTP/2 is looked at here.
    if !authority.is_empty() && !valid_authority(&authority) {
        return Err(Failure::BadRequest(format!("{authority:?} is no host with an optional port")));
    }
    let (mut parts, body) = request.into_parts();
    let target = target(&parts)?;
    let hop = Hop {
        version: parts.version,
        node: inner.node().as_str(),
        client: client.ip(),
        host: &authority,
    };
    forward_request(&mut parts.headers, &hop, rand::random);
    let length = body.size_hint().exact();
    let (supply, kind) = match length {
        _ if body.is_end_stream() => (Supply::None, BodyKind::None),
        Some(length) if length <= MAX_REPLAY => (read(body, deadline).await?, BodyKind::Inline),
        _ => (Supply::Once(std::sync::Mutex::new(Some(body))), BodyKind::AfterGo),
    };
    // hyper has answered it already.
    parts.headers.remove(http::header::EXPECT);
    let head = RequestHead {
        service: service.clone(),
        instance: 0,
        left_us: 0,
        body: kind,
        length: if kind == BodyKind::None { None } else { length },
        method: parts.method.as_str().to_owned(),
        target,
        authority,
        upgrade: String::new(),
        fields: (&parts.headers).into(),
    };
    Ok(Prepared { method: parts.method, head, supply: Arc::new(supply) })
}

/// Path and query in their canonical form.
fn target(parts: &http::request::Parts) -> Result<String, Failure> {
    let raw = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    match raw {
        "*" if parts.method == Method::OPTIONS => Ok(raw.to_owned()),
        "" => Ok("/".to_owned()),
        _ => canonical(raw)
            .map(std::borrow::Cow::into_owned)
            .map_err(|bad| Failure::BadRequest(bad.to_string())),
    }
}

async fn read(body: Incoming, deadline: Instant) -> Result<Supply, Failure> {
    // The length is announced and small; the bound holds should it lie.
    let limited = Limited::new(body, usize::try_from(MAX_REPLAY).unwrap_or(usize::MAX));
    match timeout_at(deadline.into(), limited.collect()).await {
        Ok(Ok(collected)) => {
            let trailers = collected.trailers().cloned();
            let bytes: Bytes = collected.to_bytes();
            Ok(Supply::Inline(bytes, trailers))
        }
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Failure::BadRequest("its body is longer than announced".into()))
        }
        Ok(Err(error)) => Err(Failure::BadRequest(format!("its body broke off: {error}"))),
        Err(_) => Err(Failure::BadRequest("its body did not come in time".into())),
    }
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
