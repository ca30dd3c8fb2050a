//! Load as users make it: open loop, at a fixed rate, every request on record.
//!
//! A request is sent when it is *scheduled*, whatever became of those before it, and its latency
//! counts from that moment: a server that stalls for a second shows up in every request of that
//! second, not in one (no coordinated omission). A request takes an idle connection or opens one, so
//! a stalled request never holds another back.
//!
//! Owns one thread with its own runtime inside a host's namespace, and the record. Each request is
//! sent once: a client that retried would hide what is measured. (A kept-alive connection
//! found closed *before* anything was written is replaced; nothing was sent.)
//!
//! Dropping the load stops the schedule and waits for the requests in flight.

pub mod report;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

pub use report::{PhaseReport, SLOW, Sample, report};

use crate::app::SERVED_BY;
use crate::lab::{Host, LabError};

/// What load to make.
#[derive(Debug, Clone)]
pub struct LoadSpec {
    /// Where to.
    pub target: SocketAddr,
    /// Method of every request.
    pub method: Method,
    /// Path of every request; `{n}` in it becomes the request's number.
    pub path: String,
    /// `Host` header.
    pub host: String,
    /// Requests per second.
    pub rate: u32,
    /// A request not answered by then has failed, and its connection is dropped.
    pub deadline: Duration,
    /// What sessions its requests belong to; to none without.
    pub sessions: Option<Sessions>,
}

/// Sessions that requests belong to in turn.
#[derive(Debug, Clone)]
pub struct Sessions {
    /// The header field that names them.
    pub field: String,
    /// Its value; `{s}` in it becomes the session's number.
    pub value: String,
    /// How many there are.
    pub count: u32,
}

impl Sessions {
    /// The session of the request with this number.
    #[must_use]
    pub fn of(&self, number: u32) -> u32 {
        number % self.count.max(1)
    }
}

impl LoadSpec {
    /// 500 GETs a second with a deadline of one second.
    #[must_use]
    pub fn new(target: SocketAddr) -> Self {
        Self {
            target,
            method: Method::GET,
            path: "/".to_owned(),
            host: "ledger".to_owned(),
            rate: 500,
            deadline: Duration::from_secs(1),
            sessions: None,
        }
    }
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    spec: LoadSpec,
    start: Instant,
    stop: AtomicBool,
    /// Requests scheduled and not yet on record.
    flying: AtomicU64,
    samples: Mutex<Vec<Sample>>,
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
}

impl Load {
    /// Starts it on `host`.
    ///
    /// # Errors
    /// [`LabError::Space`] when the thread cannot be started.
    pub fn start(host: &Host, spec: LoadSpec) -> Result<Self, LabError> {
        let shared = Arc::new(Shared {
            spec,
            start: Instant::now(),
            stop: AtomicBool::new(false),
            flying: AtomicU64::new(0),
            samples: Mutex::default(),
            idle: Mutex::default(),
        });
        let own = Arc::clone(&shared);
        let thread = host.run_async("load", move || schedule(own))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Now, on the load's clock: give it to [`Load::since`] later.
    #[must_use]
    pub fn mark(&self) -> Duration {
        self.shared.start.elapsed()
    }

    /// What has become of the requests that ended since `mark`, or were sent since. Those still in
    /// flight are waited for, at most the client's deadline.
    #[must_use]
    pub fn since(&self, mark: Duration) -> PhaseReport {
        self.between(mark, self.mark())
    }

    /// The same up to `until`: a phase that another follows.
    #[must_use]
    pub fn between(&self, mark: Duration, until: Duration) -> PhaseReport {
        self.settle(until);
        let of_phase = |s: &&Sample| s.ended() >= mark && s.scheduled < until;
        let samples: Vec<Sample> =
            lock(&self.shared.samples).iter().filter(of_phase).cloned().collect();
        report(&samples, mark, until)
    }

    /// The last `window`, without waiting for anything: for showing that it goes on.
    #[must_use]
    pub fn lately(&self, window: Duration) -> PhaseReport {
        let until = self.mark();
        let mark = until.saturating_sub(window);
        let samples = lock(&self.shared.samples);
        let recent: Vec<Sample> =
            samples.iter().rev().take_while(|s| s.ended() >= mark).cloned().collect();
        drop(samples);
        report(&recent, mark, until)
    }

    /// A copy of the whole record.
    #[must_use]
    pub fn samples(&self) -> Vec<Sample> {
        lock(&self.shared.samples).clone()
    }

    /// Since when every request was answered in good time, if for at least `quiet`; else how long
    /// ago the last bad one was. For waiting until a fault is over.
    #[must_use]
    pub fn quiet_for(&self) -> Duration {
        let now = self.mark();
        let samples = lock(&self.shared.samples);
        let last = samples.iter().rev().find(|s| s.bad());
        now.saturating_sub(last.map_or(Duration::ZERO, Sample::ended))
    }

    /// Stops the schedule, waits for the last requests and returns the record.
    #[must_use]
    pub fn finish(mut self) -> Vec<Sample> {
        self.end();
        self.samples()
    }

    /// Waits until every request scheduled before `until` is on record.
    fn settle(&self, until: Duration) {
        let limit = until + self.shared.spec.deadline + Duration::from_millis(500);
        while self.mark() < limit && self.shared.flying.load(Ordering::SeqCst) > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // A panic in the load is a bug in the load: its record would be a lie.
            if thread.join().is_err() && !std::thread::panicking() {
                panic!("the load's thread panicked");
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

/// Sends each request at its time, on a task of its own.
async fn schedule(shared: Arc<Shared>) {
    let gap = Duration::from_secs(1) / shared.spec.rate.max(1);
    let mut number = 0u32;
    while !shared.stop.load(Ordering::SeqCst) {
        let scheduled = gap * number;
        tokio::time::sleep_until((shared.start + scheduled).into()).await;
        shared.flying.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(one(Arc::clone(&shared), number, scheduled));
        number += 1;
    }
    let limit = Instant::now() + shared.spec.deadline * 2;
    while shared.flying.load(Ordering::SeqCst) > 0 && Instant::now() < limit {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One request from its scheduled time to its place on record.
async fn one(shared: Arc<Shared>, number: u32, scheduled: Duration) {
    let late = shared.start.elapsed().saturating_sub(scheduled);
    let left = shared.spec.deadline.saturating_sub(late);
    let answer = tokio::time::timeout(left, ask(&shared, number)).await;
    let latency = shared.start.elapsed().saturating_sub(scheduled);
    let mut sample = Sample {
        number,
        scheduled,
        late,
        latency,
        status: 0,
        served_by: String::new(),
        retry_after: None,
        error: None,
    };
    match answer {
        Ok(Ok(Answer { status, served_by, retry_after })) => {
            sample.status = status.as_u16();
            (sample.served_by, sample.retry_after) = (served_by, retry_after);
            sample.error = (!status.is_success()).then(|| format!("answered {status}"));
        }
        Ok(Err(error)) => sample.error = Some(error),
        Err(_) => sample.error = Some("no answer within the client's deadline".to_owned()),
    }
    lock(&shared.samples).push(sample);
    shared.flying.fetch_sub(1, Ordering::SeqCst);
}

/// What of an answer goes on record.
struct Answer {
    status: StatusCode,
    served_by: String,
    retry_after: Option<String>,
}

/// The request with this number.
fn request(spec: &LoadSpec, number: u32) -> Result<Request<Empty<Bytes>>, String> {
    let path = spec.path.replace("{n}", &number.to_string());
    let mut request = Request::builder().method(&spec.method).uri(path).header("host", &spec.host);
    if let Some(sessions) = &spec.sessions {
        let session = sessions.of(number).to_string();
        request = request.header(&sessions.field, sessions.value.replace("{s}", &session));
    }
    request.body(Empty::new()).map_err(|e| format!("cannot make the request: {e}"))
}

/// Sends the request and reads the whole answer.
async fn ask(shared: &Shared, number: u32) -> Result<Answer, String> {
    loop {
        let idle = lock(&shared.idle).pop();
        let reused = idle.is_some();
        let mut sender = match idle {
            Some(sender) => sender,
            None => connect(shared.spec.target).await?,
        };
        if sender.ready().await.is_err() {
            continue; // Closed while idle; nothing of the request was written.
        }
        let request = request(&shared.spec, number)?;
        let response = match sender.send_request(request).await {
            Ok(response) => response,
            Err(error) if reused && error.is_canceled() => continue, // Never written, says hyper.
            Err(error) => return Err(format!("no answer: {}", chain(&error))),
        };
        let (head, body) = response.into_parts();
        let body = body
            .collect()
            .await
            .map_err(|e| format!("the answer broke off: {}", chain(&e)))?
            .to_bytes();
        lock(&shared.idle).push(sender);
        let header = |name| head.headers.get(name).and_then(|v| v.to_str().ok());
        let first = || body.split(|&b| b == b'\n').next().unwrap_or_default();
        let served_by = match header(SERVED_BY) {
            Some(name) => name.to_owned(),
            None => String::from_utf8_lossy(first()).chars().take(40).collect(),
        };
        let retry_after = header("retry-after").map(str::to_owned);
        return Ok(Answer { status: head.status, served_by, retry_after });
    }
}

async fn connect(target: SocketAddr) -> Result<SendRequest<Empty<Bytes>>, String> {
    let stream =
        TcpStream::connect(target).await.map_err(|e| format!("cannot connect to {target}: {e}"))?;
    let _ = stream.set_nodelay(true);
    let (sender, connection) = handshake(TokioIo::new(stream))
        .await
        .map_err(|e| format!("cannot start HTTP with {target}: {e}"))?;
    tokio::spawn(async move {
        // Its end, good or bad, is seen by the request on it.
        let _ = connection.await;
    });
    Ok(sender)
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
