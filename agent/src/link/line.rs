//! What a mesh link runs on: QUIC, or a lane where UDP does not get through.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::Connection;

use super::CloseCode;
use super::lane::{Lane, MeshSent};

/// The connection under a mesh link.
#[derive(Clone, Debug)]
pub(crate) enum Line {
    Quic(Connection),
    Lane(Arc<Lane>),
}

/// What became of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// The transport has it.
    Sent,
    /// The connection is gone.
    Gone,
    /// The transport does not take it.
    Refused(String),
}

impl Line {
    /// Whether it is this very connection.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Quic(a), Self::Quic(b)) => a.stable_id() == b.stable_id(),
            (Self::Lane(a), Self::Lane(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    pub(crate) fn is_quic(&self) -> bool {
        matches!(self, Self::Quic(_))
    }

    pub(crate) fn is_open(&self) -> bool {
        match self {
            Self::Quic(connection) => connection.close_reason().is_none(),
            Self::Lane(lane) => lane.is_open(),
        }
    }

    pub(crate) fn close(&self, code: CloseCode, why: &str) {
        match self {
            Self::Quic(connection) => connection.close(code.code(), why.as_bytes()),
            Self::Lane(lane) => lane.close(code, why),
        }
    }

    /// Waits until it is closed by either side, or about so long.
    pub(crate) async fn closed_within(&self, limit: Duration) -> bool {
        match self {
            Self::Quic(connection) => {
                tokio::time::timeout(limit, connection.closed()).await.is_ok()
            }
            Self::Lane(lane) => {
                tokio::time::sleep(limit).await;
                !lane.is_open()
            }
        }
    }

    pub(crate) fn send_datagram(&self, bytes: Bytes) -> Given {
        match self {
            Self::Quic(connection) => match connection.send_datagram(bytes) {
                Ok(()) => Given::Sent,
                Err(quinn::SendDatagramError::ConnectionLost(_)) => Given::Gone,
                Err(error) => Given::Refused(error.to_string()),
            },
            Self::Lane(lane) => match lane.send_datagram(&bytes) {
                MeshSent::Now => Given::Sent,
                MeshSent::Over => Given::Gone,
                MeshSent::Full => Given::Refused("too much waits to be sent".into()),
            },
        }
    }

    pub(crate) fn rtt(&self) -> Duration {
        match self {
            Self::Quic(connection) => connection.rtt(),
            Self::Lane(lane) => lane.rtt(),
        }
    }

    /// The path's own: without what a busy host adds to it, as far as that is known.
    pub(crate) fn least_rtt(&self) -> Duration {
        match self {
            Self::Quic(connection) => connection.stats().path.min_rtt,
            Self::Lane(lane) => lane.rtt(),
        }
    }

    /// In words, for people.
    pub(crate) fn carrier(&self) -> &'static str {
        match self {
            Self::Quic(_) => "quic",
            Self::Lane(_) => "tcp (udp blocked)",
        }
    }
}
