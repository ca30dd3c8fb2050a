//! A client that keeps account: so many requests, each with a number, and how every single one ended.
//!
//! Where [`crate::load`] measures latency at a rate, this counts: nothing is sent twice by the client
//! itself, nothing is left out of the record, and a request that never ends is on record as hung.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{sleep, sleep_until, timeout};

/// While nobody listens, a worker asks no more often: refused connections cost nothing and prove nothing.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);

/// What is sent.
#[derive(Debug, Clone)]
pub struct Drive {
    /// Where to.
    pub target: SocketAddr,
    /// Method of every request.
    pub method: Method,
    /// Path of every request; `{n}` in it becomes the request's number.
    pub path: String,
    /// `Host` header.
    pub host: String,
    /// How many, numbered from 0.
    pub count: usize,
    /// So many at once, each on a connection of its own.
    pub workers: usize,
    /// At most so many a second; `None` for as fast as they are answered.
    pub rate: Option<u32>,
    /// A request that has not ended by then hangs.
    pub deadline: Duration,
    /// After so long no more requests are sent; the record is as long as it is then.
    pub patience: Option<Duration>,
}

/// How one request ended, as its client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// A whole answer came.
    Answered {
        /// Its status.
        status: u16,
        /// Its `Proxy-Status`: who made it, if no application did.
        proxy: Option<String>,
    },
    /// There was no connection: nothing was sent.
    Unsent(String),
    /// The connection broke, before the answer or within it.
    Broken(String),
    /// Nothing came within the deadline.
    Hung,
}

impl End {
    /// One word, for counting.
    #[must_use]
    pub fn word(&self) -> String {
        match self {
            Self::Answered { status, proxy: None } => format!("{status}"),
            Self::Answered { status, proxy: Some(text) } => {
                let error = text.split("error=").nth(1).and_then(|e| e.split(';').next());
                format!("{status} {}", error.unwrap_or("by a proxy"))
            }
            Self::Unsent(_) => "not sent".to_owned(),
            Self::Broken(_) => "broken".to_owned(),
            Self::Hung => "hung".to_owned(),
        }
    }

    /// The client was told that it was done.
    #[must_use]
    pub fn acknowledged(&self) -> bool {
        matches!(self, Self::Answered { status: 200..=299, .. })
    }
}

/// One request.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its number.
    pub number: usize,
    /// How it ended.
    pub end: End,
    /// How long that took.
    pub took: Duration,
}

/// How often each kind of end came.
#[must_use]
pub fn tally(records: &[Record]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for record in records {
        *counts.entry(record.end.word()).or_default() += 1;
    }
    counts
}

impl Drive {
    /// Sends all of them and returns the record, ordered by number. `done` counts along.
    ///
    /// # Panics
    /// When no runtime can be had.
    #[must_use]
    pub fn run(self, done: &Arc<AtomicUsize>) -> Vec<Record> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap_or_else(|e| panic!("cannot start a runtime: {e}"));
        let (spec, next) = (Arc::new(self), Arc::new(AtomicUsize::new(0)));
        let start = Instant::now();
        let mut records = runtime.block_on(async {
            let workers: Vec<_> = (0..spec.workers)
                .map(|_| {
                    let (spec, next, done) =
                        (Arc::clone(&spec), Arc::clone(&next), Arc::clone(done));
                    tokio::spawn(async move { work(&spec, &next, &done, start).await })
                })
                .collect();
            let mut all = Vec::with_capacity(spec.count);
            for worker in workers {
                // A panic of a worker would leave holes in the record.
                all.extend(worker.await.unwrap_or_else(|e| panic!("a worker ended: {e}")));
            }
            all
        });
        records.sort_by_key(|record| record.number);
        records
    }
}

async fn work(spec: &Drive, next: &AtomicUsize, done: &AtomicUsize, start: Instant) -> Vec<Record> {
    let (mut records, mut connection) = (Vec::new(), None);
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let over = spec.patience.is_some_and(|patience| start.elapsed() > patience);
        if number >= spec.count || over {
            return records;
        }
        if let Some(rate) = spec.rate {
            // Numbers are far below 2^52.
            #[allow(clippy::cast_precision_loss)]
            let due = start + Duration::from_secs_f64(number as f64 / f64::from(rate));
            sleep_until(due.into()).await;
        }
        let sent = Instant::now();
        let end = match timeout(spec.deadline, ask(spec, number, &mut connection)).await {
            Ok(end) => end,
            Err(_) => {
                connection = None;
                End::Hung
            }
        };
        if matches!(end, End::Unsent(_)) {
            sleep(REFUSED_PAUSE).await;
        }
        records.push(Record { number, end, took: sent.elapsed() });
        done.fetch_add(1, Ordering::Relaxed);
    }
}

type Connection = SendRequest<Empty<Bytes>>;

async fn ask(spec: &Drive, number: usize, connection: &mut Option<Connection>) -> End {
    let mut sender = match connection.take() {
        // One that was closed while it was idle is replaced: nothing is sent on it.
        Some(sender) if !sender.is_closed() => sender,
        _ => match connect(spec.target).await {
            Ok(sender) => sender,
            Err(why) => return End::Unsent(why),
        },
    };
    if let Err(error) = sender.ready().await {
        return End::Unsent(error.to_string());
    }
    let request = Request::builder()
        .method(&spec.method)
        .uri(spec.path.replace("{n}", &number.to_string()))
        .header("host", &spec.host)
        .body(Empty::new())
        .unwrap_or_else(|e| panic!("a request that cannot be made: {e}"));
    let response = match sender.send_request(request).await {
        Ok(response) => response,
        Err(error) => return End::Broken(error.to_string()),
    };
    let (head, body) = response.into_parts();
    if let Err(error) = body.collect().await {
        return End::Broken(format!("within the answer: {error}"));
    }
    *connection = Some(sender);
    let proxy = head.headers.get("proxy-status").and_then(|v| v.to_str().ok());
    End::Answered { status: head.status.as_u16(), proxy: proxy.map(str::to_owned) }
}

async fn connect(target: SocketAddr) -> Result<Connection, String> {
    let stream = TcpStream::connect(target).await.map_err(|e| e.to_string())?;
    let _ = stream.set_nodelay(true);
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(async move {
        // Its end, good or bad, is seen by the request on it.
        let _ = connection.await;
    });
    Ok(sender)
}
