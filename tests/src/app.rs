//! A small HTTP service for the lab: the application behind an endpoint.
//!
//! Owns its own state only: whether it is activated, and which one-time ids it has executed (so
//! that a request executed twice is seen; with a ledger also after it was killed and started again).
//! Every answer names the host in `x-served-by`. What comes under a lease (`hearth-term`) is noted with its moment,
//! so that the order of terms over several hosts can be looked at.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` (any other path too) | 200, host name and 1 KiB; 503 while not activated |
//! | `GET /healthz` | 200, or 503 while not activated |
//! | `POST /activate` | 200 once activated, after the set time |
//! | `POST /deactivate` | 200 |
//! | `POST /once?id=X` | 200 with the number of times X was executed |
//! | `POST /once?id=N&pace=MS` | the same, by N modulo 3: at once, MS later, or answered only MS later |
//! | `GET /executed` | JSON: each id and how often it was executed |
//! | `GET /slow?ms=N` | 200 after N ms |
//! | `GET /work?ms=N` | 200 after N ms of work, one request at a time |
//! | `POST /gray?errors=P&ms=N` | 200; from now on P of 100 ordinary answers are 500, all come after N ms |
//!
//! Runs until its task is dropped; connections end with it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

/// Header in which every answer names its host.
pub const SERVED_BY: &str = "x-served-by";

/// Header in which a request to an exclusive service carries its term.
pub const TERM: &str = "hearth-term";

/// Size of an ordinary answer.
pub const BODY: usize = 1024;

/// How to run one.
#[derive(Debug, Clone)]
pub struct AppSpec {
    /// Name put into answers.
    pub host: String,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Start not activated.
    pub warm: bool,
    /// How long activation takes.
    pub activate: Duration,
    /// A file to which each executed id is added, one a line, before it is answered.
    pub ledger: Option<PathBuf>,
    /// A file to which each request's term is added as it arrives, one a line behind its moment.
    pub terms: Option<PathBuf>,
}

/// A running service's state.
#[derive(Debug)]
struct App {
    spec: AppSpec,
    active: AtomicBool,
    executed: Mutex<BTreeMap<String, u32>>,
    ledger: Option<File>,
    terms: Option<File>,
    /// Held by the request that is worked on.
    work: tokio::sync::Mutex<()>,
    gray: Gray,
}

/// How badly ordinary requests are answered.
#[derive(Debug, Default)]
struct Gray {
    errors: AtomicU64,
    ms: AtomicU64,
    answered: AtomicU64,
}

impl Gray {
    fn set(&self, query: &str) {
        let number = |name| parameter(query, name).and_then(|text| text.parse().ok()).unwrap_or(0);
        self.errors.store(number("errors"), Ordering::SeqCst);
        self.ms.store(number("ms"), Ordering::SeqCst);
    }

    /// Waits, then says how the next answer is. Errors are spread evenly.
    async fn status(&self) -> StatusCode {
        let ms = self.ms.load(Ordering::SeqCst);
        if ms > 0 {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        let (n, share) =
            (self.answered.fetch_add(1, Ordering::SeqCst), self.errors.load(Ordering::SeqCst));
        let is_error = n * share / 100 != (n + 1) * share / 100;
        if is_error { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK }
    }
}

/// Serves until the future is dropped.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(spec: AppSpec) -> std::io::Result<()> {
    let listener = TcpListener::bind(spec.listen).await?;
    let open = |path: &PathBuf| File::options().create(true).append(true).open(path);
    let app = Arc::new(App {
        active: AtomicBool::new(!spec.warm),
        executed: Mutex::default(),
        gray: Gray::default(),
        ledger: spec.ledger.as_ref().map(open).transpose()?,
        terms: spec.terms.as_ref().map(open).transpose()?,
        work: tokio::sync::Mutex::default(),
        spec,
    });
    loop {
        // Out of descriptors or an aborted handshake: this connection is lost, the next may not be.
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&app), request));
            // A connection that ends badly is the other side's affair.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    app: Arc<App>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    if let Some(term) = parts.headers.get(TERM).and_then(|term| term.to_str().ok()) {
        app.note(term);
    }
    // Read to the end: what was sent counts as accepted only when all of it arrived.
    if body.collect().await.is_err() {
        return Ok(app.say(StatusCode::BAD_REQUEST, "the request body broke off"));
    }
    let query = parts.uri.query().unwrap_or("");
    let active = app.active.load(Ordering::SeqCst);
    Ok(match (&parts.method, parts.uri.path()) {
        (&Method::POST, "/activate") => {
            tokio::time::sleep(app.spec.activate).await;
            app.active.store(true, Ordering::SeqCst);
            app.say(StatusCode::OK, "activated\n")
        }
        (&Method::POST, "/deactivate") => {
            app.active.store(false, Ordering::SeqCst);
            app.say(StatusCode::OK, "deactivated\n")
        }
        (&Method::POST, "/gray") => {
            app.gray.set(query);
            app.say(StatusCode::OK, "as you wish\n")
        }
        (&Method::GET, "/executed") => app.say(StatusCode::OK, app.report()),
        _ if !active => app.say(StatusCode::SERVICE_UNAVAILABLE, "not activated\n"),
        (_, "/healthz") => app.say(StatusCode::OK, "ok\n"),
        (&Method::POST, "/once") => app.once(query).await,
        (_, "/slow") => {
            wait(query).await;
            app.say(StatusCode::OK, "slow\n")
        }
        (_, "/work") => {
            let _turn = app.work.lock().await;
            wait(query).await;
            app.say(StatusCode::OK, "done\n")
        }
        _ => {
            let status = app.gray.status().await;
            app.say(status, page(&app.spec.host))
        }
    })
}

/// As long as the query asks for.
async fn wait(query: &str) {
    let ms = parameter(query, "ms").and_then(|ms| ms.parse().ok());
    tokio::time::sleep(Duration::from_millis(ms.unwrap_or(0))).await;
}

impl App {
    fn say(&self, status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(body.into()));
        *response.status_mut() = status;
        if let Ok(host) = self.spec.host.parse() {
            response.headers_mut().insert(SERVED_BY, host);
        }
        response
    }

    /// Executes what the query names. With a pace, some requests wait before and some after they are
    /// executed, so that a fault finds them in either state.
    async fn once(&self, query: &str) -> Response<Full<Bytes>> {
        let number = |name| parameter(query, name).and_then(|text| text.parse::<u64>().ok());
        let pace = Duration::from_millis(number("pace").unwrap_or(0));
        let wait = |when: u64| match number("id") {
            Some(id) if id % 3 == when => pace,
            _ => Duration::ZERO,
        };
        tokio::time::sleep(wait(1)).await;
        let executed = self.execute(parameter(query, "id").unwrap_or(""));
        tokio::time::sleep(wait(2)).await;
        match executed {
            Ok(times) => self.say(StatusCode::OK, format!("{times}\n")),
            Err(e) => self.say(StatusCode::INTERNAL_SERVER_ERROR, format!("ledger: {e}\n")),
        }
    }

    /// Notes under which term a request came, by the clock that all hosts of a lab share.
    fn note(&self, term: &str) {
        let Some(mut terms) = self.terms.as_ref() else { return };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // One write, as in the ledger. What cannot be written is missed by who reads it.
        let _ = terms.write_all(format!("{} {term}\n", since.as_micros()).as_bytes());
    }

    fn execute(&self, id: &str) -> std::io::Result<u32> {
        if let Some(mut ledger) = self.ledger.as_ref() {
            // One write: whole lines even where the process is killed in the middle of everything.
            ledger.write_all(format!("{id}\n").as_bytes())?;
        }
        let mut executed = self.executed.lock().unwrap_or_else(PoisonError::into_inner);
        let times = executed.entry(id.to_owned()).or_default();
        *times += 1;
        Ok(*times)
    }

    fn report(&self) -> String {
        let executed = self.executed.lock().unwrap_or_else(PoisonError::into_inner);
        serde_json::json!(*executed).to_string()
    }
}

/// An ordinary answer: the host's name on the first line, filled up to [`BODY`] bytes.
#[must_use]
pub fn page(host: &str) -> String {
    let mut text = format!("{host}\n");
    while text.len() < BODY {
        text.push('.');
    }
    text
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}
