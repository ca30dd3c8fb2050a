//! HTTP/2 with prior knowledge towards applications: one connection each, shared by all requests.
//!
//! Decides when a connection is used, replaced, given up. A request whose connection ended before any of
//! it was sent goes on a new one, once. The pool of hyper-util is not used here because it keys and names
//! connections by the request's authority, and `:authority` is the client's word, not ours.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::super::body::Body;
use super::{AppFailure, CONNECT_LIMIT, in_full};
use crate::link::lock;
use crate::pipe::AppAddress;

/// An idle connection is asked whether it lives, so that one to an application that was frozen or
/// replaced behind its socket is found out before a request is.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_LIMIT: Duration = Duration::from_secs(5);

/// A connection, once somebody has made it.
type Line = Arc<OnceCell<SendRequest<Body>>>;

/// The connections, by application.
#[derive(Clone, Debug, Default)]
pub(super) struct Multiplexed {
    lines: Arc<Mutex<HashMap<AppAddress, Line>>>,
}

impl Multiplexed {
    pub(super) async fn call(
        &self,
        address: &AppAddress,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, AppFailure> {
        let mut again = true;
        loop {
            let line = lock(&self.lines).entry(address.clone()).or_default().clone();
            let made = line.get_or_try_init(|| dial(address)).await;
            let mut sender = match made {
                Ok(sender) => sender.clone(),
                Err(why) => return Err(AppFailure::NotReached(why)),
            };
            if sender.is_closed() {
                self.forget(address, &line);
                continue;
            }
            let failed = match sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(failed) => failed,
            };
            let mut failed = failed;
            let unsent = failed.take_message();
            let error = failed.into_error();
            if error.is_closed() || error.is_canceled() {
                self.forget(address, &line);
            }
            match unsent {
                Some(unsent) if again => (request, again) = (unsent, false),
                Some(_) => return Err(AppFailure::NotReached(in_full(&error))),
                None if was_refused(&error) => return Err(AppFailure::NotReached(in_full(&error))),
                None => return Err(AppFailure::Broke(in_full(&error))),
            }
        }
    }

    /// The next request makes a new connection, unless that has happened already.
    fn forget(&self, address: &AppAddress, line: &Line) {
        let mut lines = lock(&self.lines);
        if lines.get(address).is_some_and(|current| Arc::ptr_eq(current, line)) {
            lines.remove(address);
        }
    }

    /// Closes connections to applications that are no longer ours, once they are idle.
    pub(super) fn retain(&self, is_ours: impl Fn(&AppAddress) -> bool) {
        lock(&self.lines).retain(|address, _| is_ours(address));
    }
}

async fn dial(address: &AppAddress) -> Result<SendRequest<Body>, String> {
    let made = async {
        let stream = address.connect().await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_LIMIT)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        // Ends with the last sender, or with the application's connection.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::trace!(%error, "an application's HTTP/2 connection ended");
            }
        });
        Ok::<_, io::Error>(sender)
    };
    match timeout(CONNECT_LIMIT, made).await {
        Ok(Ok(sender)) => Ok(sender),
        Ok(Err(error)) => Err(in_full(&error)),
        Err(_) => Err(format!("no connection within {CONNECT_LIMIT:?}")),
    }
}

/// The application's own word that it did nothing of it (RFC 9113 section 8.7).
fn was_refused(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            return h2.reason() == Some(h2::Reason::REFUSED_STREAM);
        }
        source = cause.source();
    }
    false
}
