//! HTTP/2 with prior knowledge towards applications: few connections each, shared by all requests.
//!
//! Decides when a connection is used, added, replaced, given up. There is one, until it has as many
//! requests under way as the application takes on it; then there are more, up to [`MAX_LINES`], and beyond
//! that requests wait for a stream. A request whose connection ended before any of it was sent goes on a
//! new one, once. The pool of hyper-util is not used here because it keys and names
//! connections by the request's authority, and `:authority` is the client's word, not ours.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, Request, Response};
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

/// Connections to one application at most.
const MAX_LINES: usize = 4;

/// A connection, once somebody has made it, and how many requests are under way on it.
#[derive(Debug, Default)]
struct Line {
    sender: OnceCell<SendRequest<Body>>,
    under_way: AtomicUsize,
    /// How many the application takes on it, once it has said so; 0 before.
    most: Arc<AtomicUsize>,
}

impl Line {
    fn load(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Whether one more request would have to wait for a stream, or does not fit any more.
    fn is_full(&self) -> bool {
        match self.most.load(Ordering::Relaxed) {
            0 => false,
            most => self.load() >= most,
        }
    }
}

/// A request counts as under way while this lives: it goes along with the answer.
#[derive(Clone, Debug)]
struct UnderWay(#[expect(dead_code, reason = "counts while it lives")] Arc<Counted>);

#[derive(Debug)]
struct Counted(Arc<Line>);

impl Counted {
    fn new(line: Arc<Line>) -> Self {
        line.under_way.fetch_add(1, Ordering::Relaxed);
        Self(line)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The connections, by application.
#[derive(Clone, Debug, Default)]
pub(super) struct Multiplexed {
    lines: Arc<Mutex<HashMap<AppAddress, Vec<Arc<Line>>>>>,
}

impl Multiplexed {
    /// Sends a request. Its extensions hold what counts it as under way: they are to be kept as long as the
    /// answer's body is.
    pub(super) async fn call(
        &self,
        address: &AppAddress,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, AppFailure> {
        let mut again = true;
        loop {
            let line = self.line(address);
            let counted = Counted::new(line.clone());
            let made = line.sender.get_or_try_init(|| dial(address, line.most.clone())).await;
            let mut sender = match made {
                Ok(sender) => sender.clone(),
                Err(why) => return Err(AppFailure::NotReached(why)),
            };
            if sender.is_closed() {
                self.forget(address, &line);
                continue;
            }
            let spare = again.then(|| spare(&request)).flatten();
            let failed = match sender.try_send_request(request).await {
                Ok(mut response) => {
                    response.extensions_mut().insert(UnderWay(Arc::new(counted)));
                    return Ok(response);
                }
                Err(failed) => failed,
            };
            let mut failed = failed;
            let unsent = failed.take_message();
            let error = failed.into_error();
            let refusal = refusal(&error);
            if error.is_closed() || error.is_canceled() || refusal == Some(Refused::Connection) {
                self.forget(address, &line);
            }
            match unsent.or(spare.filter(|_| refusal.is_some())) {
                Some(unsent) if again => (request, again) = (unsent, false),
                None if refusal.is_none() => return Err(AppFailure::Broke(in_full(&error))),
                _ => return Err(AppFailure::NotReached(in_full(&error))),
            }
        }
    }

    /// The connection with the fewest requests under way; one more where all have as many as they take.
    fn line(&self, address: &AppAddress) -> Arc<Line> {
        let mut lines = lock(&self.lines);
        let lines = lines.entry(address.clone()).or_default();
        match lines.iter().min_by_key(|line| line.load()) {
            Some(idlest) if !idlest.is_full() || lines.len() >= MAX_LINES => idlest.clone(),
            _ => {
                let line = Arc::new(Line::default());
                lines.push(line.clone());
                line
            }
        }
    }

    /// No further request goes on that connection.
    fn forget(&self, address: &AppAddress, line: &Arc<Line>) {
        if let Some(lines) = lock(&self.lines).get_mut(address) {
            lines.retain(|kept| !Arc::ptr_eq(kept, line));
        }
    }

    /// Closes connections to applications that are no longer ours, once they are idle.
    pub(super) fn retain(&self, is_ours: impl Fn(&AppAddress) -> bool) {
        lock(&self.lines).retain(|address, _| is_ours(address));
    }
}

/// How connections are made: an idle one too is asked `every` so long whether it lives.
fn asking(every: Duration, limit: Duration) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(every)
        .keep_alive_timeout(limit)
        .keep_alive_while_idle(true);
    builder
}

/// Connects, and keeps `most` at what the application says it takes.
async fn dial(address: &AppAddress, most: Arc<AtomicUsize>) -> Result<SendRequest<Body>, String> {
    let made = async {
        let stream = address.connect().await?;
        let (sender, mut connection) = asking(PING_EVERY, PING_LIMIT)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        // Ends with the last sender, or with the application's connection.
        tokio::spawn(async move {
            let ended = poll_fn(|cx| {
                let ended = Pin::new(&mut connection).poll(cx);
                most.store(connection.current_max_send_streams(), Ordering::Relaxed);
                ended
            });
            if let Err(error) = ended.await {
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

/// The same request once more, if it has no body: an application that is about to end a connection refuses
/// what crosses its word of that.
fn spare(request: &Request<Body>) -> Option<Request<Body>> {
    if !hyper::body::Body::is_end_stream(request.body()) || request.method() == Method::CONNECT {
        return None;
    }
    let mut spare = Request::new(super::super::body::empty());
    *spare.method_mut() = request.method().clone();
    *spare.uri_mut() = request.uri().clone();
    *spare.version_mut() = request.version();
    *spare.headers_mut() = request.headers().clone();
    Some(spare)
}

/// What an application refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// The request.
    Stream,
    /// Whatever else comes on the connection.
    Connection,
}

/// The application's own word that it did nothing of a request: its stream is refused (RFC 9113 section 8.7),
/// or above the last one that a connection in good order takes (section 6.8; h2 tells only those of it so).
fn refusal(error: &hyper::Error) -> Option<Refused> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            let ended = h2.is_go_away() && h2.is_remote();
            return match h2.reason()? {
                h2::Reason::REFUSED_STREAM => Some(Refused::Stream),
                h2::Reason::NO_ERROR if ended => Some(Refused::Connection),
                _ => None,
            };
        }
        source = cause.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn an_idle_connection_to_a_frozen_application_is_found_out() {
        let (ours, mut frozen) = tokio::io::duplex(64 * 1024);
        let asks = asking(Duration::from_millis(50), Duration::from_millis(50));
        let (sender, connection) =
            asks.handshake::<_, Body>(TokioIo::new(ours)).await.expect("nothing is awaited");
        let application = async {
            // It said its settings, took ours, and says nothing more.
            frozen.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            frozen.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0]).await.unwrap();
            let mut said = Vec::new();
            let _ = frozen.read_to_end(&mut said).await;
        };
        let both = async { tokio::join!(connection, application) };
        let ended = timeout(Duration::from_secs(10), both).await;
        assert!(ended.is_ok(), "it is kept although nobody answers");
        assert!(sender.is_closed());
    }
}
