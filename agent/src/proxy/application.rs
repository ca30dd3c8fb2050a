//! Our own endpoints: HTTP clients towards the applications on this host.
//!
//! Connections are kept and reused. One that the application closed in the meantime is noticed before
//! anything is written on it, and the request goes on another; what remains is the race where it closes
//! in that very moment, and so requests that must not be repeated use only connections that were busy
//! a moment ago.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use hearth_proto::advert::Protocol;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::body::Body;
use super::frame::MAX_HEAD;
use super::safety::is_idempotent;

/// On loopback a connection stands at once or the application is not there.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Shorter than the keep-alive of common servers (5 s and more), so that we close first.
const IDLE: Duration = Duration::from_secs(4);
/// For requests that must not be repeated.
const IDLE_UNSAFE: Duration = Duration::from_millis(500);
/// Idle connections kept per endpoint.
const KEPT: usize = 256;

/// How a request to an application of ours failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AppFailure {
    /// Nothing of it was written.
    NotReached(String),
    /// The application may have seen it.
    Broke(String),
}

/// Clients to the applications on this host.
#[derive(Clone, Debug)]
pub(crate) struct Applications {
    repeatable: Client<HttpConnector, Body>,
    once: Client<HttpConnector, Body>,
    h2: Client<HttpConnector, Body>,
}

impl Default for Applications {
    fn default() -> Self {
        let client = |idle, h2: bool| {
            let mut connector = HttpConnector::new();
            connector.set_connect_timeout(Some(CONNECT_LIMIT));
            connector.set_nodelay(true);
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .timer(TokioTimer::new())
                .pool_idle_timeout(idle)
                .pool_max_idle_per_host(KEPT)
                .http1_max_buf_size(MAX_HEAD)
                .http2_only(h2)
                .build(connector)
        };
        Self {
            repeatable: client(IDLE, false),
            once: client(IDLE_UNSAFE, false),
            h2: client(IDLE, true),
        }
    }
}

impl Applications {
    /// Sends a request whose URI has the endpoint's address as authority.
    pub(crate) async fn call(
        &self,
        protocol: Protocol,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, AppFailure> {
        let client = match protocol {
            Protocol::Grpc => &self.h2,
            _ if is_idempotent(request.method()) => &self.repeatable,
            _ => &self.once,
        };
        client.request(request).await.map_err(|error| {
            let canceled = error
                .source()
                .and_then(|s| s.downcast_ref::<hyper::Error>())
                .is_some_and(hyper::Error::is_canceled);
            let why = in_full(&error);
            match error.is_connect() || canceled {
                true => AppFailure::NotReached(why),
                false => AppFailure::Broke(why),
            }
        })
    }
}

/// The URI of `target` at an endpoint.
pub(crate) fn uri(address: SocketAddr, target: &str) -> Result<http::Uri, http::Error> {
    http::Uri::builder()
        .scheme("http")
        .authority(address.to_string())
        .path_and_query(target)
        .build()
}

/// An error with its causes.
pub(crate) fn in_full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
