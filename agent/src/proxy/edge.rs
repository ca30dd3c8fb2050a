//! The client's edge: one connection of a client, spoken with by hyper behind a [`Guard`].
//!
//! HTTP/1.1 and HTTP/2 with prior knowledge are told apart by their preface. Decides nothing about
//! requests; [`super::outbound`] does. Ends when the client or the door closes, after the requests under
//! way are answered.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::UPGRADE;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::watch;
use tokio::time::timeout;

use super::answer::Failure;
use super::body::{Body, holding};
use super::guard::{Ahead, Control, Guard, HEAD_LIMIT};
use super::head::MAX_FIELDS;
use super::outbound::{self, Door};
use super::scan::{MAX_HEAD, REFUSED};
use super::{Inner, connect};
use crate::pipe::Pipe;

/// An idle connection is closed after this; longer than [`HEAD_LIMIT`], which is told to the client.
const IDLE_LIMIT: Duration = Duration::from_secs(90);
const _: () = assert!(IDLE_LIMIT.as_secs() > 2 * HEAD_LIMIT.as_secs());
/// A client that vanished is found out by pings, on HTTP/2: whoever lives answers them at once.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_LIMIT: Duration = Duration::from_secs(10);
/// Streams of one HTTP/2 client at once.
const MAX_STREAMS: u32 = 256;

/// Serves a client's connection, of which `ahead` was read already, to its end.
pub(crate) async fn serve(
    inner: &Arc<Inner>,
    pipe: Pipe,
    ahead: Ahead,
    client: SocketAddr,
    door: &Arc<Door>,
) {
    serve_for(inner, pipe, ahead, client, door, IDLE_LIMIT).await;
}

/// The same, as long as nothing is asked for no longer than `rest`.
pub(crate) async fn serve_for(
    inner: &Arc<Inner>,
    pipe: Pipe,
    ahead: Ahead,
    client: SocketAddr,
    door: &Arc<Door>,
    rest: Duration,
) {
    let (guard, control) = Guard::new(pipe, ahead);
    let (served, entry) = (inner.clone(), door.clone());
    let (under_way, seen) = watch::channel(0);
    let service = service_fn(move |request| {
        let (inner, entry, control) = (served.clone(), entry.clone(), control.clone());
        let counted = UnderWay::new(&under_way);
        async move {
            let leads = entry.leads();
            let asks = Asks::of(&request);
            let answer = match refused(&request, &control) {
                Some(failure) => failure.respond(inner.node().as_str()),
                None if connect::is_tunnel(&leads, &request) => {
                    connect::open(&inner, client, &entry, request).await
                }
                None => outbound::handle(&inner, &leads, client, request, &control).await,
            };
            tell(&control, asks, &answer);
            Ok::<_, Infallible>(answer.map(|body| holding(body, counted)))
        }
    });
    let builder = builder();
    let serving = builder.serve_connection_with_upgrades(guard, service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => Some(ended),
        () = door.closed() => None,
        () = idle(seen, rest) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%client, error, "client's connection ended");
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_LIMIT)
        .max_headers(MAX_FIELDS)
        .max_buf_size(MAX_HEAD)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_LIMIT)
        .max_header_list_size(MAX_HEAD as u32)
        .max_concurrent_streams(MAX_STREAMS)
        .enable_connect_protocol();
    builder
}

/// Counts a request from its head to the end of its answer.
struct UnderWay(watch::Sender<usize>);

impl UnderWay {
    fn new(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|n| *n += 1);
        Self(count.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

/// Returns when no request has been under way for `limit`. hyper waits as long as the client likes for
/// the first byte, which tells HTTP's versions apart, and on HTTP/2 for each request.
async fn idle(mut under_way: watch::Receiver<usize>, limit: Duration) {
    loop {
        match timeout(limit, under_way.changed()).await {
            Ok(Ok(())) => {}
            Err(_) if *under_way.borrow_and_update() > 0 => {}
            // Without service there will be no request either.
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Why this request stands for one that was refused, if it does.
fn refused(request: &Request<Incoming>, control: &Control) -> Option<Failure> {
    if request.method().as_str() != REFUSED {
        return None;
    }
    control.refused().map(Failure::Unreadable)
}

/// Exactly what the guard holds a connection for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    Nothing,
    Upgrade,
    Tunnel,
}

impl Asks {
    fn of(request: &Request<Incoming>) -> Self {
        match request.version() {
            Version::HTTP_2 => Self::Nothing,
            _ if request.method() == Method::CONNECT => Self::Tunnel,
            Version::HTTP_11 if request.headers().contains_key(UPGRADE) => Self::Upgrade,
            _ => Self::Nothing,
        }
    }
}

fn tell(control: &Control, asks: Asks, answer: &Response<Body>) {
    control.answered();
    match asks {
        Asks::Nothing => {}
        Asks::Upgrade => {
            control.upgraded(answer.status() == StatusCode::SWITCHING_PROTOCOLS);
        }
        Asks::Tunnel => control.upgraded(answer.status().is_success()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_is_not_idle_while_a_request_is_under_way() {
        let (count, seen) = watch::channel(0);
        let under_way = UnderWay::new(&count);
        let mut idle = std::pin::pin!(idle(seen, Duration::from_millis(20)));
        assert!(timeout(Duration::from_millis(300), idle.as_mut()).await.is_err());
        drop(under_way);
        assert!(timeout(Duration::from_secs(10), idle).await.is_ok());
    }
}
