//! The callers' side: listeners on this host, and the request from its head to its answer.
//!
//! One listener per upstream service, and one shared by all where the `Host` names the service. HTTP/1.1
//! and HTTP/2 with prior knowledge are told apart by their preface. A service whose endpoints speak opaque
//! bytes gets its connections carried as they are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use hearth_proto::advert::Protocol;
use hearth_proto::ids::ServiceName;
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout_at;

use super::answer::Failure;
use super::attempt::{Answer, Prepared};
use super::body::{Body, Supply};
use super::head::{BodyKind, RequestHead};
use super::headers::{MAX_VIA, forward_request, hops, sign_via};
use super::race::{Race, Won};
use super::rewind::Rewind;
use super::safety::MAX_REPLAY;
use super::{Inner, fast, tcp};

/// A client's head must be complete within this; an idle connection is closed after it too.
pub(crate) const HEADER_LIMIT: Duration = Duration::from_secs(60);
/// Largest head of a client's request.
const MAX_HEADERS: usize = 64 * 1024;
/// Streams of one HTTP/2 client at once.
const MAX_STREAMS: u32 = 256;
/// After an error that comes from a lack of file descriptors: accepting at once again would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a listener is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// One service, whatever the host says.
    Upstream(ServiceName),
    /// The service that the host names: `<service>.mesh` or `<service>`.
    Shared,
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

    /// Waits until it is closed.
    pub(crate) async fn shut(&self) {
        let mut closed = self.closed.subscribe();
        // The door holds the other end.
        let _ = closed.wait_for(|c| *c).await;
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }
}

/// Accepts until the door is closed.
pub(crate) async fn accept(inner: Arc<Inner>, listener: TcpListener, door: Arc<Door>) {
    let mut closed = door.closed.subscribe();
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
                tokio::spawn(connection(inner.clone(), stream, client, door.clone(), permit));
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
    let mut stop = door.closed.subscribe();
    let gauge = inner.metrics.connections.clone();
    gauge.inc();
    // Answers are written whole; waiting for more only delays them.
    let _ = stream.set_nodelay(true);
    match &**door.leads.load() {
        Entry::Upstream(service) if inner.protocol(service) == Some(Protocol::Tcp) => {
            tcp::carry(&inner, service, stream).await;
        }
        _ => {
            let (stream, read) = match fast::client::serve(&inner, &door, stream, client).await {
                fast::client::After::Unusual(stream, read) => (stream, read),
                fast::client::After::Closed => {
                    gauge.dec();
                    return;
                }
            };
            let stream = Rewind::new(stream, read);
            let served = inner.clone();
            let service = service_fn(move |request| {
                let (inner, entry) = (served.clone(), door.leads.load_full());
                async move {
                    Ok::<_, std::convert::Infallible>(handle(&inner, &entry, client, request).await)
                }
            });
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder
                .http1()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_LIMIT)
                .max_buf_size(MAX_HEADERS)
                .http2()
                .timer(TokioTimer::new())
                .max_header_list_size(MAX_HEADERS as u32)
                .max_concurrent_streams(MAX_STREAMS);
            let serving = builder.serve_connection(TokioIo::new(stream), service);
            tokio::pin!(serving);
            let stopped = async { drop(stop.wait_for(|s| *s).await) };
            let ended = tokio::select! {
                ended = serving.as_mut() => Some(ended),
                () = stopped => None,
            };
            let ended = match ended {
                Some(ended) => ended,
                None => {
                    serving.as_mut().graceful_shutdown();
                    serving.await
                }
            };
            if let Err(error) = ended {
                tracing::trace!(%client, error, "client's connection ended");
            }
        }
    }
    gauge.dec();
}

/// One request of a client.
async fn handle(
    inner: &Arc<Inner>,
    entry: &Entry,
    client: SocketAddr,
    request: Request<Incoming>,
) -> Response<Body> {
    let started = Instant::now();
    let node = inner.node().as_str();
    let service = match named(entry, &request) {
        Ok(service) => service,
        Err(failure) => return failure.respond(node),
    };
    let version = request.version();
    // Names that clients make up must not become time series.
    let counted = match inner.route(&service) {
        None if matches!(entry, Entry::Shared) => inner.unknown.clone(),
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
        Entry::Shared => service_of(&host).ok_or(Failure::NoService(host)),
    }
}

fn authority(request: &Request<Incoming>) -> String {
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
    if inner.protocol(service) == Some(Protocol::Tcp) {
        return Err(Failure::BadRequest(format!(
            "{service} speaks opaque bytes (tcp); connect to its own upstream port"
        )));
    }
    let passed = hops(request.headers());
    if passed >= MAX_VIA {
        return Err(Failure::Circle(passed));
    }
    if request.method() == Method::CONNECT {
        return Err(Failure::BadRequest(
            "CONNECT asks for a tunnel, and services are no tunnels".into(),
        ));
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
    let (mut parts, body) = request.into_parts();
    let node = inner.node().as_str();
    forward_request(&mut parts.headers, parts.version, node, client.ip(), rand::random);
    let target = parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    let length = body.size_hint().exact();
    let (supply, kind) = match length {
        _ if body.is_end_stream() => (Supply::None, BodyKind::None),
        Some(length) if length <= MAX_REPLAY => (read(body, deadline).await?, BodyKind::Inline),
        _ => (Supply::Once(std::sync::Mutex::new(Some(body))), BodyKind::AfterGo),
    };
    if parts.version == Version::HTTP_10 {
        // RFC 9110 section 2.5: an intermediary sends its own version on.
        parts.headers.remove(http::header::CONNECTION);
    }
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
