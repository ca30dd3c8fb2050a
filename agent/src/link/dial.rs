//! Dialling: one dial per peer at a time, outside any lock, with backoff and a cap for all.
//!
//! A mesh dialler lives as long as somebody wants the link (the peer is watched or probed, or something
//! waits to be sent) and ends with the link or the last wish. A dial gives up after [`DIAL_LIMIT`].

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{self, Either};
use hearth_proto::ids::Identity;
use quinn::{Connection, ConnectionError};
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use super::peer::Peer;
use super::{CloseCode, Kind, LinkError, LinkEvent, Shared, lane, lock, mesh, socket};
use crate::identity::{Expected, peer_identity};

/// A dial that takes longer is given up; three first packets fit in it.
pub(crate) const DIAL_LIMIT: Duration = Duration::from_secs(1);

/// TCP is dialled beside QUIC when that has not answered for so long: one of its first packets was repeated
/// by then.
const HEAD_START: Duration = Duration::from_millis(400);

/// Makes sure that `peer` is being dialled if there is no usable mesh link.
pub(crate) fn want_mesh(shared: &Arc<Shared>, peer: &Arc<Peer>) {
    {
        let mut state = lock(&peer.state);
        if state.dialling || shared.is_closed() || state.linked(Instant::now()) {
            return;
        }
        state.dialling = true;
    }
    shared.runtimes.mesh.spawn(keep_dialling(shared.clone(), peer.clone()));
}

async fn keep_dialling(shared: Arc<Shared>, peer: Arc<Peer>) {
    while let Some(address) = peer.wants_dial(Instant::now()) {
        if shared.is_closed() {
            break;
        }
        let not_before = lock(&peer.state).not_before.take();
        if let Some(moment) = not_before.filter(|t| *t > Instant::now()) {
            tokio::time::sleep_until(moment.into()).await;
            // It may have dialled us meanwhile.
            continue;
        }
        let expected = Expected::Node(peer.name.clone());
        match mesh_dial(&shared, expected, address).await {
            // Registered by now; the loop sees it. Unless it was closed again at once: that is a failure.
            Ok(()) => {
                let wait = {
                    let mut state = lock(&peer.state);
                    let watched = state.watched;
                    let closed = !state.linked(Instant::now());
                    closed.then(|| state.backoff.failed(rand::random(), watched))
                };
                if let Some(wait) = wait {
                    tokio::time::sleep(wait).await;
                }
            }
            Err(error) => {
                tracing::debug!(peer = %peer.name, %address, %error, "dial failed");
                report_failure(&shared, &peer, &error).await;
                let wait = {
                    let mut state = lock(&peer.state);
                    let watched = state.watched;
                    state.backoff.failed(rand::random(), watched)
                };
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// The driver learns that a peer it cares for cannot be dialled: once until it is up again, and for each
/// probe.
async fn report_failure(shared: &Shared, peer: &Peer, error: &LinkError) {
    let tell = {
        let mut state = lock(&peer.state);
        let probed = state.sense.probing.take().is_some();
        // A silent link is still a link: its end will be told when it comes.
        // A peer whose lanes are heard is there, however long a handshake takes it.
        let gone = state.mesh.is_none() && !state.hears_lanes(Instant::now());
        let owed = gone && std::mem::take(&mut state.owes_down);
        let tell = gone && (probed || owed || state.watched && !state.told_down);
        state.told_down |= tell;
        if gone {
            state.close_dialled();
        }
        tell
    };
    if tell {
        let event =
            LinkEvent::Down { peer: peer.name.clone(), reason: error.to_string(), orderly: false };
        // A closed queue means that the driver is gone; nobody is left to tell.
        let _ = shared.events.send(event).await;
    }
}

/// Dials an address once, whoever answers.
pub(crate) fn seed(shared: &Arc<Shared>, address: SocketAddr) {
    if shared.is_closed() || !lock(&shared.seeds).insert(address) {
        return;
    }
    let runtime = shared.runtimes.mesh.clone();
    let shared = shared.clone();
    runtime.spawn(async move {
        if let Err(error) = mesh_dial(&shared, Expected::AnyNode, address).await {
            tracing::info!(%address, %error, "seed not reached");
        }
        lock(&shared.seeds).remove(&address);
    });
}

/// Dials QUIC, and TCP beside it where QUIC does not answer for a moment. The first link that stands is
/// taken; of two failures QUIC's is told.
async fn mesh_dial(
    shared: &Arc<Shared>,
    expected: Expected,
    address: SocketAddr,
) -> Result<(), LinkError> {
    let who = match &expected {
        Expected::Node(name) => name.to_string(),
        _ => "a seed".into(),
    };
    let _turn = shared.mesh_dials.acquire().await.map_err(|_| LinkError::Closed)?;
    let tcp = async {
        tokio::time::sleep(HEAD_START).await;
        lane::mesh::dial(shared, expected.clone(), address, &who).await
    };
    let quic = quic(shared, expected.clone(), address, &who);
    match future::select(pin!(quic), pin!(tcp)).await {
        Either::Left((Ok(()), _)) | Either::Right((Ok(()), _)) => Ok(()),
        // It answers on QUIC: TCP would be refused as well.
        Either::Left((Err(Failed { answered: true, error }), _)) => Err(error),
        Either::Left((Err(failed), tcp)) => tcp.await.map_err(|_| failed.error),
        Either::Right((Err(_), quic)) => quic.await.map_err(|failed| failed.error),
    }
}

/// A dial that came to nothing.
pub(crate) struct Failed {
    pub(crate) error: LinkError,
    /// The peer was heard.
    pub(crate) answered: bool,
}

/// Dials QUIC once, whoever answers, and makes a mesh link of it.
pub(crate) async fn quic(
    shared: &Arc<Shared>,
    expected: Expected,
    address: SocketAddr,
    who: &str,
) -> Result<(), Failed> {
    let connection = connect(shared, expected, address, Kind::Mesh, who).await?;
    let unreachable = |why: String| Failed {
        error: LinkError::Unreachable { peer: who.to_owned(), address, why },
        answered: true,
    };
    let name = match identify(shared, &connection) {
        Ok(Identity::Node(name)) => name,
        Ok(other) => return Err(unreachable(format!("{other} answered, not a node"))),
        Err(why) => return Err(unreachable(why)),
    };
    if &name == shared.own() {
        connection.close(CloseCode::Own.code(), b"this is myself");
        return Ok(());
    }
    mesh::establish(shared, &connection, &name, true).await.map_err(unreachable)
}

/// One QUIC handshake. Runs on the runtime of the caller, and so will the connection.
pub(crate) async fn connect(
    shared: &Shared,
    expected: Expected,
    address: SocketAddr,
    kind: Kind,
    who: &str,
) -> Result<Connection, Failed> {
    let failed = |result, why: String| {
        shared.metrics.dial(result);
        let error = LinkError::Unreachable { peer: who.to_owned(), address, why };
        Err(Failed { error, answered: result == "refused" })
    };
    let sensed = !shared.monitor.is_off();
    let config = match socket::client_config(&shared.credentials, expected, kind, sensed) {
        Ok(config) => config,
        Err(error) => return failed("failed", error.to_string()),
    };
    let connecting = match shared.endpoint.connect_with(config, address, "hearth") {
        Ok(connecting) => connecting,
        Err(quinn::ConnectError::EndpointStopping) => {
            return Err(Failed { error: LinkError::Closed, answered: true });
        }
        Err(error) => return failed("failed", error.to_string()),
    };
    match timeout(DIAL_LIMIT, connecting).await {
        Ok(Ok(connection)) => {
            shared.metrics.dial("connected");
            Ok(connection)
        }
        Ok(Err(error)) => failed("refused", explain(&error)),
        Err(_) => failed("timeout", format!("no answer within {DIAL_LIMIT:?}")),
    }
}

/// Whom the peer's certificate names. The verifier has checked that it may.
pub(crate) fn identify(shared: &Shared, connection: &Connection) -> Result<Identity, String> {
    let certificates = connection
        .peer_identity()
        .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok())
        .ok_or("the peer presented no certificate")?;
    peer_identity(&certificates, shared.credentials.trust_domain()).map_err(|e| e.to_string())
}

/// A connection error with the reason its peer gave, where it gave one.
pub(crate) fn explain(error: &ConnectionError) -> String {
    match error {
        ConnectionError::TimedOut => "nothing was heard from it".into(),
        ConnectionError::ApplicationClosed(close) => {
            format!("it closed the connection: {}", String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::ConnectionClosed(close) => {
            let reason = String::from_utf8_lossy(&close.reason);
            format!("it refused the handshake: {reason} ({})", close.error_code)
        }
        ConnectionError::TransportError(e) => {
            format!("handshake failed: {} ({})", e.reason, e.code)
        }
        other => other.to_string(),
    }
}
