//! Our own endpoints: HTTP clients towards the applications on this host.
//!
//! An application that speaks HTTP/1.1 gets a pool of connections (`connector`), one that speaks HTTP/2 few
//! connections for all requests (`multiplexed`). Connections are kept and reused. One that the application
//! closed in the meantime is noticed before anything is written on it, and the request goes on another; what
//! remains is the race where it closes in that very moment, and so requests that must not be repeated get
//! a connection of their own.

mod connector;
mod multiplexed;

use std::error::Error;
use std::sync::Weak;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::body::Body;
use super::frame::MAX_HEAD;
use super::safety::is_idempotent;
use super::{Inner, LocalEndpoint};
use crate::config::HttpVersion;
use crate::pipe::AppAddress;
pub(crate) use connector::pipe_of;
use connector::{Connector, Gate};
use multiplexed::Multiplexed;

/// On loopback a connection stands at once or the application is not there.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Shorter than the keep-alive of common servers (5 s and more), so that we close first.
const IDLE: Duration = Duration::from_secs(4);
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
    repeatable: Client<Connector, Body>,
    once: Client<Connector, Body>,
    multiplexed: Multiplexed,
    gate: Gate,
}

impl Default for Applications {
    fn default() -> Self {
        let gate = Gate::default();
        let client = |kept| {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .timer(TokioTimer::new())
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(kept)
                .http1_max_buf_size(MAX_HEAD)
                .build(Connector { gate: gate.clone() })
        };
        Self {
            repeatable: client(KEPT),
            // Whether a kept connection still stands is known only once something was written on it.
            once: client(0),
            multiplexed: Multiplexed::default(),
            gate,
        }
    }
}

impl Applications {
    /// Has `inner` say before each write on a connection of HTTP/1.1 whether its application may be written to.
    pub(crate) fn guard(&self, inner: Weak<Inner>) {
        self.gate.set(inner);
    }

    /// Sends a request made with [`uri`] for this endpoint.
    pub(crate) async fn call(
        &self,
        endpoint: &LocalEndpoint,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, AppFailure> {
        let client = match endpoint.http {
            HttpVersion::Two => return self.multiplexed.call(&endpoint.address, request).await,
            HttpVersion::One if is_idempotent(request.method()) => &self.repeatable,
            HttpVersion::One => &self.once,
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

    /// Forgets applications that are no longer ours.
    pub(crate) fn retain(&self, locals: &[LocalEndpoint]) {
        let ours = |address: &AppAddress| locals.iter().any(|e| e.address == *address);
        self.multiplexed.retain(ours);
    }
}

/// The URI of `target` at an endpoint. In HTTP/1.1 the authority only chooses the connection, in HTTP/2 it
/// is what the application reads, so there it is the one that the client addressed.
pub(crate) fn uri(
    endpoint: &LocalEndpoint,
    addressed: &str,
    target: &str,
) -> Result<http::Uri, http::Error> {
    let authority = match endpoint.http {
        HttpVersion::One => connector::authority(&endpoint.address),
        HttpVersion::Two if addressed.parse::<http::uri::Authority>().is_ok() => {
            addressed.to_owned()
        }
        HttpVersion::Two => endpoint.address.host(),
    };
    http::Uri::builder().scheme("http").authority(authority).path_and_query(target).build()
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
