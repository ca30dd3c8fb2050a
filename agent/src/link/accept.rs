//! What comes in on the mesh port: handshakes, who made them, and why some are refused.

use std::sync::Arc;
use std::time::Duration;

use hearth_proto::ids::Identity;
use hearth_proto::wire;
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, ConnectionError, Incoming};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::dial::{explain, identify};
use super::{CloseCode, Kind, Shared, data, mesh, socket};

/// A handshake that takes longer is given up.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);

/// TLS alerts (RFC 8446 section 6) as QUIC carries them (RFC 9001 section 4.8: 0x100 + alert).
const ALERT_CERTIFICATE_REQUIRED: u64 = 0x100 + 116;
const ALERT_NO_APPLICATION_PROTOCOL: u64 = 0x100 + 120;

/// Accepts until the endpoint closes.
pub(crate) async fn run(shared: Arc<Shared>) {
    while let Some(incoming) = shared.endpoint.accept().await {
        let Ok(turn) = shared.handshakes.clone().try_acquire_owned() else {
            shared.metrics.refuse("busy");
            incoming.refuse();
            continue;
        };
        let (kind, slot) = socket::mark(&incoming.orig_dst_cid());
        let runtime = match kind {
            Kind::Mesh => &shared.runtimes.mesh,
            Kind::Data => shared.runtimes.data_of(slot),
        };
        runtime.spawn(admit(shared.clone(), incoming, turn));
    }
}

async fn admit(shared: Arc<Shared>, incoming: Incoming, turn: OwnedSemaphorePermit) {
    let remote = incoming.remote_address();
    let handshake = async { incoming.accept()?.await };
    let connection = match timeout(HANDSHAKE_LIMIT, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            refused(&shared, &error, remote);
            return;
        }
        Err(_) => {
            shared.metrics.refuse("timeout");
            return;
        }
    };
    let identity = match identify(&shared, &connection) {
        Ok(identity) => identity,
        Err(why) => {
            // The verifier let it pass and yet it cannot be read: not to be served in any case.
            shared.metrics.refuse("malformed");
            connection.close(CloseCode::Refused.code(), why.as_bytes());
            return;
        }
    };
    drop(turn);
    if let Identity::Node(name) = &identity
        && shared.known(name).is_some_and(|peer| !peer.has_room())
    {
        shared.metrics.refuse("too_many");
        tracing::debug!(peer = %name, %remote, reason = "too_many", "handshake refused");
        connection.close(CloseCode::Refused.code(), b"you have too many connections with me");
        return;
    }
    match (protocol(&connection), identity) {
        (_, Identity::Node(name)) if &name == shared.own() => {
            // Our own seed list, or somebody with our certificate; either way not a peer.
            connection.close(CloseCode::Own.code(), b"you bear my name");
        }
        (Some(Kind::Mesh), Identity::Node(name)) => {
            if let Err(why) = mesh::establish(&shared, &connection, &name, false).await {
                tracing::debug!(peer = %name, why, "link not established");
            }
        }
        (Some(Kind::Data), Identity::Node(name)) => {
            data::serve(&shared, &connection, &name, remote).await;
        }
        (Some(Kind::Mesh), Identity::Control(name)) => {
            mesh::serve_control(&shared, &connection, &name).await;
        }
        (protocol, identity) => {
            shared.metrics.refuse("protocol");
            tracing::warn!(%remote, %identity, ?protocol, reason = "protocol", "handshake refused");
            connection.close(CloseCode::Refused.code(), b"not for this identity");
        }
    }
}

fn protocol(connection: &Connection) -> Option<Kind> {
    let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    match data.protocol.as_deref() {
        Some(wire::ALPN_MESH) => Some(Kind::Mesh),
        Some(wire::ALPN_DATA) => Some(Kind::Data),
        _ => None,
    }
}

/// Counts and logs a handshake that failed. What the certificate verifier refused it has counted and
/// logged itself, with more to say; here comes what it never got to see.
fn refused(shared: &Shared, error: &ConnectionError, remote: std::net::SocketAddr) {
    let reason = match error {
        ConnectionError::TransportError(e) => match u64::from(e.code) {
            ALERT_CERTIFICATE_REQUIRED => "no_certificate",
            ALERT_NO_APPLICATION_PROTOCOL => "protocol",
            _ => "",
        },
        _ => "",
    };
    let detail = explain(error);
    if reason.is_empty() {
        tracing::debug!(%remote, detail, "handshake failed");
    } else {
        shared.metrics.refuse(reason);
        tracing::warn!(%remote, reason, detail, "handshake refused");
    }
}
