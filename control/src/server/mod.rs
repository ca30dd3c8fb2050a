//! The REST API's way in: TCP, TLS, limits, and who is at the other end.
//!
//! Owns the listener and the connections. Everything a stranger can make us hold is bounded: open
//! connections, time for the handshake, for a head, for a request, size of head and body. A client
//! certificate is asked for, not required; who shows one must have been certified by our root. A
//! refused handshake is counted and written as an audit line. Dropping [`Server::run`] cuts the
//! connections; ending it by its signal lets requests under way finish.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hearth_proto::ids::Identity;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use crate::identity;
use crate::plane::Plane;
use crate::tls::{self, TlsError};

mod answer;
mod routes;

pub use routes::{Shared, router};

/// Connections at once. A fleet that joins or renews is served in turn.
const MAX_CONNECTIONS: usize = 512;
/// A TLS handshake on a bad edge line takes three round trips of a second.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A request's head.
const HEAD: Duration = Duration::from_secs(10);
/// Largest head.
const MAX_HEAD: usize = 32 * 1024;
/// A connection's life: nobody needs one for longer, and a lost peer holds it no longer.
const LIFE: Duration = Duration::from_secs(120);
/// What requests under way get when we stop.
const GRACE: Duration = Duration::from_secs(10);

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Who it proved to be, if it showed a certificate.
    pub identity: Option<Identity>,
}

/// The REST API on its port.
pub struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    router: Router,
    plane: Arc<Plane>,
}

impl Server {
    /// Serves `router` on `listener`.
    pub fn new(listener: TcpListener, plane: Arc<Plane>, router: Router) -> Result<Self, TlsError> {
        let config = tls::server(plane.holder().clone(), plane.authority().root())?;
        Ok(Self { listener, acceptor: TlsAcceptor::from(Arc::new(config)), router, plane })
    }

    /// Serves until `stop` says so, then finishes what is under way.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let graceful = GracefulShutdown::new();
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, mostly: waiting lets some be closed.
                    warn!(error = %error, "accept_failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(permit) = permits.clone().try_acquire_owned() else {
                self.plane.metrics().connection_dropped();
                debug!(remote = %address, "connection_dropped");
                continue;
            };
            let connection = Connection {
                acceptor: self.acceptor.clone(),
                router: self.router.clone(),
                plane: self.plane.clone(),
                address,
            };
            let watcher = graceful.watcher();
            tokio::spawn(async move {
                connection.serve(stream, watcher).await;
                drop(permit);
            });
        }
        drop(self.listener);
        if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
            info!(seconds = GRACE.as_secs(), "requests_cut");
        }
    }
}

struct Connection {
    acceptor: TlsAcceptor,
    router: Router,
    plane: Arc<Plane>,
    address: SocketAddr,
}

impl Connection {
    async fn serve(self, stream: TcpStream, watcher: Watcher) {
        // Requests are small and answered at once.
        let _ = stream.set_nodelay(true);
        let accepted = tokio::time::timeout(HANDSHAKE, self.acceptor.accept(stream)).await;
        let stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if is_probe(&error) => {
                return debug!(remote = %self.address, error = %error, "connection_without_tls");
            }
            Ok(Err(error)) => return self.refused(refusal(&error), &error.to_string()),
            Err(_) => return self.refused("timeout", "the handshake took too long"),
        };
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let domain = self.plane.authority().domain();
        let identity = match shown.map(|der| identity::of(der, domain)).transpose() {
            Ok(identity) => identity,
            Err(error) => return self.refused("identity", &error.to_string()),
        };
        let peer = Peer { address: self.address, identity };
        let service = TowerToHyperService::new(self.router.layer(Extension(peer)));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        match tokio::time::timeout(LIFE, watcher.watch(connection)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(remote = %self.address, error = %error, "connection_broke"),
            Err(_) => debug!(remote = %self.address, "connection_ended_by_age"),
        }
    }

    fn refused(&self, reason: &'static str, detail: &str) {
        self.plane.metrics().handshake_refused(reason);
        warn!(audit = true, remote = %self.address, reason, detail, "handshake_refused");
    }
}

/// Whether the other side went away before it said anything wrong: a port check, not an attempt.
fn is_probe(error: &std::io::Error) -> bool {
    use std::io::ErrorKind as K;
    error.get_ref().is_none_or(|inner| !inner.is::<rustls::Error>())
        && matches!(error.kind(), K::UnexpectedEof | K::ConnectionReset | K::BrokenPipe)
}

/// One word for why a handshake failed.
fn refusal(error: &std::io::Error) -> &'static str {
    use rustls::{CertificateError as C, Error as E};
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<E>());
    match tls {
        Some(E::InvalidCertificate(C::Expired | C::ExpiredContext { .. })) => "expired",
        Some(E::InvalidCertificate(C::NotValidYet | C::NotValidYetContext { .. })) => {
            "not_yet_valid"
        }
        Some(E::InvalidCertificate(_)) => "certificate",
        Some(E::AlertReceived(_)) => "refused_by_client",
        Some(_) => "tls",
        None => "broken",
    }
}
