//! Tunnels to services: what may be reached through one, and HTTP's `CONNECT` on the shared port.
//!
//! A tunnel carries what a client would have said on the service's own port, and is served like that:
//! requests of an HTTP or gRPC service one by one, a `tcp` service's bytes to one endpoint, which has taken
//! the connection before the client is told that the tunnel stands. Nothing outside the mesh is reached.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use hearth_proto::advert::Protocol;
use hearth_proto::ids::ServiceName;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::ext::Protocol as ExtendedConnect;
use hyper_util::rt::TokioIo;

use super::answer::Failure;
use super::body::{Body, empty};
use super::outbound::{Door, authority, serve, service_of};
use super::{Entry, Inner, tcp};
use crate::pipe::Pipe;

/// Why a tunnel is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is not in the mesh.
    Outside,
    /// It is a name of the mesh that no service has.
    Unknown,
    /// The service takes datagrams, not connections.
    Datagrams,
    /// No endpoint took the connection.
    Nobody,
    /// Too many connections already.
    Full,
}

impl Refusal {
    /// One stable word, for metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Outside => "outside",
            Self::Unknown => "unknown",
            Self::Datagrams => "datagrams",
            Self::Nobody => "nobody",
            Self::Full => "full",
        }
    }

    fn failure(self, host: String) -> Failure {
        match self {
            Self::Outside => Failure::Outside(host),
            Self::Unknown => Failure::NoService(host),
            Self::Datagrams => Failure::BadRequest(format!("{host} speaks in datagrams (udp)")),
            Self::Nobody => Failure::Nobody { service: host, why: "nobody took it".into() },
            Self::Full => Failure::Overloaded { service: host },
        }
    }
}

impl Inner {
    /// The service that a tunnel's destination names: `<service>.mesh`, or the bare name of one that is known.
    pub(crate) fn destination(&self, host: &str) -> Result<ServiceName, Refusal> {
        let bare = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let within = bare.ends_with(".mesh");
        match service_of(&bare) {
            Some(service) if self.route(&service).is_some() => Ok(service),
            _ if within => Err(Refusal::Unknown),
            _ => Err(Refusal::Outside),
        }
    }
}

/// A way to a service that is ready to be used.
pub(crate) enum Tunnel {
    /// Requests, each of which finds its way itself.
    Requests(ServiceName),
    /// Bytes to an endpoint that has taken them.
    Bytes(tcp::Reached),
}

impl Tunnel {
    pub(crate) async fn reach(
        inner: &Arc<Inner>,
        service: ServiceName,
        client: IpAddr,
    ) -> Result<Self, Refusal> {
        match inner.protocol(&service) {
            Some(Protocol::Udp) => Err(Refusal::Datagrams),
            Some(Protocol::Tcp) => {
                tcp::reach(inner, &service, client).await.map(Self::Bytes).ok_or(Refusal::Nobody)
            }
            _ => Ok(Self::Requests(service)),
        }
    }

    /// Serves what a client says through it. It closes with `door`, through which it came.
    ///
    /// In a box, since a connection that serves requests may open a tunnel, which is served like one.
    pub(crate) fn serve<'a>(
        self,
        inner: &'a Arc<Inner>,
        pipe: Pipe,
        client: SocketAddr,
        door: &'a Door,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        match self {
            Self::Requests(service) => {
                let door = Arc::new(door.towards(Entry::Upstream(service)));
                Box::pin(async move { serve(inner, pipe, client, &door).await })
            }
            Self::Bytes(reached) => Box::pin(reached.exchange(pipe)),
        }
    }
}

/// Whether a request asks for a tunnel, and came where tunnels are opened.
pub(crate) fn is_tunnel(entry: &Entry, request: &Request<Incoming>) -> bool {
    // `:protocol` makes it a request for a WebSocket (RFC 8441).
    matches!(entry, Entry::Shared)
        && request.method() == Method::CONNECT
        && request.extensions().get::<ExtendedConnect>().is_none()
}

/// Answers a `CONNECT` and, if it may be, opens the tunnel.
pub(crate) async fn open(
    inner: &Arc<Inner>,
    client: SocketAddr,
    door: &Arc<Door>,
    request: Request<Incoming>,
) -> Response<Body> {
    let wanted = authority(&request);
    let host = wanted.rsplit_once(':').map_or(wanted.as_str(), |(host, _port)| host).to_owned();
    // The connection that the request came on may end before its tunnel does.
    let permit = inner.connections.clone().try_acquire_owned();
    let tunnel = match (inner.destination(&host), permit) {
        (Ok(_), Err(_)) => Err(Refusal::Full),
        (Ok(service), Ok(permit)) => {
            Tunnel::reach(inner, service, client.ip()).await.map(|t| (t, permit))
        }
        (Err(refusal), _) => Err(refusal),
    };
    let (tunnel, permit) = match tunnel {
        Ok(found) => found,
        Err(refusal) => {
            tracing::info!(%client, wanted, refusal = refusal.word(), "tunnel refused");
            inner.metrics.tunnel("connect", refusal.word());
            return refusal.failure(host).respond(inner.node().as_str());
        }
    };
    inner.metrics.tunnel("connect", "open");
    let (inner, door) = (inner.clone(), door.clone());
    tokio::spawn(async move {
        let _permit = permit;
        match hyper::upgrade::on(request).await {
            Ok(upgraded) => {
                let pipe = Pipe::Tunnel(Box::new(TokioIo::new(upgraded)));
                tunnel.serve(&inner, pipe, client, &door).await;
            }
            Err(error) => tracing::debug!(%client, %error, "tunnel not opened"),
        }
    });
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::OK;
    response
}
