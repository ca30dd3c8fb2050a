//! What the client and the application say to each other through a pair, and how little of it shows that
//! the pair carries it.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde::Serialize;

use super::client::{grpc, websocket};
use super::probe::fetch;
use super::{SMALL, calls};

/// A protocol of applications.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Speech {
    /// HTTP/1.1 requests for files.
    Http,
    /// gRPC: HTTP/2 by prior knowledge.
    Grpc,
    /// WebSocket, begun with HTTP/1.1.
    WebSocket,
}

impl Speech {
    /// All, in the order in which they are measured.
    pub const ALL: [Self; 3] = [Self::Http, Self::Grpc, Self::WebSocket];

    /// As it is printed.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Http => "HTTP/1.1",
            Self::Grpc => "gRPC",
            Self::WebSocket => "WebSocket",
        }
    }

    /// Says one thing and waits for the right answer.
    ///
    /// # Errors
    /// In words: what came instead.
    pub fn probe(self, target: SocketAddr, patience: Duration) -> Result<(), String> {
        match self {
            Self::Http => fetch(target, SMALL, patience).map(drop),
            Self::Grpc => grpc::probe(target, patience)
                .map_err(|e| format!("{} at {target}: {e}", calls::UNARY)),
            Self::WebSocket => TcpStream::connect_timeout(&target, patience)
                .and_then(|stream| websocket::probe(stream, patience))
                .map_err(|e| format!("WebSocket at {target}: {e}")),
        }
    }
}
