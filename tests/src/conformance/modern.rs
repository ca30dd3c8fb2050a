//! An application that speaks HTTP/2 by prior knowledge and nothing else.
//!
//! | request | answer |
//! |---|---|
//! | `/echo` | the request's content as it comes, and its trailers |
//! | `/seen` | the request's head, a line per field |
//! | `/trailers` | `abc` and the trailer `x-sum: 7`, announced |
//! | `/broken` | `abc`, and then the stream is reset |
//! | `/wait` | none; when the request is given up is noted |
//!
//! A thread with a runtime of its own, which ends with the process.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderValue, TRAILER};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

#[derive(Debug, Default)]
struct Noted {
    connections: AtomicU64,
    waiting: AtomicU64,
    given_up: Mutex<Vec<Instant>>,
}

/// A running one. Clones are handles to the same.
#[derive(Debug, Clone)]
pub struct Modern {
    /// Where it listens.
    pub address: SocketAddr,
    noted: Arc<Noted>,
}

impl Modern {
    /// Starts one on a free port of the loopback.
    ///
    /// # Errors
    /// What the system said.
    pub fn start() -> std::io::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let modern = Self { address: listener.local_addr()?, noted: Arc::default() };
        let noted = Arc::clone(&modern.noted);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || runtime.block_on(serve(listener, noted)));
        Ok(modern)
    }

    /// Connections so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.noted.connections.load(Ordering::SeqCst)
    }

    /// Requests that wait for ever, so far.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.noted.waiting.load(Ordering::SeqCst)
    }

    /// When those were given up that were.
    #[must_use]
    pub fn given_up(&self) -> Vec<Instant> {
        self.noted.given_up.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(listener: std::net::TcpListener, noted: Arc<Noted>) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let noted = Arc::clone(&noted);
        tokio::spawn(async move {
            noted.connections.fetch_add(1, Ordering::SeqCst);
            let service = service_fn(move |request| answer(Arc::clone(&noted), request));
            // A connection that ends badly is the other side's affair.
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// Notes the moment in which it is dropped.
struct GivenUp(Arc<Noted>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.given_up.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
    }
}

async fn answer(
    noted: Arc<Noted>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let announces = request.uri().path() == "/trailers";
    let body = match request.uri().path() {
        "/echo" => request.into_body().map_err(std::io::Error::other).boxed_unsync(),
        "/trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", HeaderValue::from_static("7"));
            full("abc").with_trailers(std::future::ready(Some(Ok(trailers)))).boxed_unsync()
        }
        "/broken" => {
            let frames =
                [Ok(Frame::data(Bytes::from("abc"))), Err(std::io::Error::other("broken"))];
            StreamBody::new(futures_stream(frames)).boxed_unsync()
        }
        "/wait" => {
            noted.waiting.fetch_add(1, Ordering::SeqCst);
            let _given_up = GivenUp(noted);
            std::future::pending().await
        }
        _ => full(&seen(&request)).boxed_unsync(),
    };
    let mut response = Response::new(body);
    if announces {
        response.headers_mut().insert(TRAILER, HeaderValue::from_static("x-sum"));
    }
    Ok(response)
}

fn full(text: &str) -> impl hyper::body::Body<Data = Bytes, Error = std::io::Error> + Send + use<> {
    Full::new(Bytes::from(text.to_owned())).map_err(|never| match never {})
}

/// Yields the second only when asked again, so that the first is on its way.
fn futures_stream<T: Send + 'static>(
    items: impl IntoIterator<Item = T, IntoIter: Send + 'static>,
) -> impl futures_util::Stream<Item = T> + Send {
    futures_util::stream::unfold(items.into_iter(), |mut items| async move {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        Some((items.next()?, items))
    })
}

fn seen(request: &Request<Incoming>) -> String {
    let mut text = format!("{:?} {} {}\n", request.version(), request.method(), request.uri());
    for (name, value) in request.headers() {
        // Writing to a text does not fail.
        let _ = writeln!(text, "{name}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
    text
}
