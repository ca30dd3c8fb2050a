//! HTTP/2 spoken frame by frame: a client that tells how an answer ended, and an application that does
//! what a path says, and notes what became of each request.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;

/// One answer, as it came over the wire.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: HeaderMap,
    /// The first HEADERS frame ended the stream: what gRPC calls trailers-only.
    pub(crate) ended_with_head: bool,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    /// `grpc-status`, wherever it stands.
    pub(crate) fn grpc_status(&self) -> Option<&str> {
        let of = |map: &'_ HeaderMap| map.get("grpc-status").cloned();
        let value = self.trailers.as_ref().and_then(of);
        match value {
            Some(_) => self.trailers.as_ref()?.get("grpc-status")?.to_str().ok(),
            None => self.head.get("grpc-status")?.to_str().ok(),
        }
    }
}

/// Runs a future to its end, on a runtime of its own, within a minute.
pub(crate) fn run<T>(future: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match tokio::time::timeout(Duration::from_secs(60), future).await {
            Ok(ended) => ended,
            Err(_) => Err("it hung for a minute".to_owned()),
        }
    })
}

/// A connection with prior knowledge.
pub(crate) async fn connect(target: SocketAddr) -> Result<SendRequest<Bytes>, String> {
    let stream = TcpStream::connect(target).await.map_err(|e| format!("connect {target}: {e}"))?;
    let _ = stream.set_nodelay(true);
    let (send, connection) =
        h2::client::handshake(stream).await.map_err(|e| format!("HTTP/2 with {target}: {e}"))?;
    tokio::spawn(async move {
        // Its end is seen by the requests on it.
        let _ = connection.await;
    });
    send.ready().await.map_err(|e| format!("HTTP/2 with {target}: {e}"))
}

/// A gRPC request with one empty message, and what came back.
pub(crate) async fn grpc(
    target: SocketAddr,
    path: &str,
    fields: &[(&str, &str)],
) -> Result<Answer, String> {
    grpc_of(target, &target.to_string(), path, fields).await
}

/// The same for another authority than the address.
pub(crate) async fn grpc_of(
    target: SocketAddr,
    authority: &str,
    path: &str,
    fields: &[(&str, &str)],
) -> Result<Answer, String> {
    let mut send = connect(target).await?;
    let mut request = Request::post(format!("http://{authority}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(()).map_err(|e| e.to_string())?;
    let (answer, mut body) = send.send_request(request, false).map_err(|e| e.to_string())?;
    // The mesh may have answered and closed the stream meanwhile: the answer says so.
    let _ = body.send_data(Bytes::from_static(&[0; 5]), true);
    read(answer.await.map_err(|e| format!("no answer: {e}"))?).await
}

/// Reads an answer to its end.
pub(crate) async fn read(answer: Response<RecvStream>) -> Result<Answer, String> {
    let (parts, mut body) = answer.into_parts();
    let ended_with_head = body.is_end_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(|e| format!("the answer broke off: {e}"))?;
        let _ = body.flow_control().release_capacity(chunk.len());
        bytes.extend_from_slice(&chunk);
    }
    let trailers = body.trailers().await.map_err(|e| format!("the trailers broke off: {e}"))?;
    let (status, head) = (parts.status.as_u16(), parts.headers);
    Ok(Answer { status, head, ended_with_head, body: bytes, trailers })
}

/// What became of one request at the application.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) head: HeaderMap,
    /// When and by which reason the request was reset.
    pub(crate) reset: Option<(Instant, Reason)>,
}

/// An application that does what a request's path says.
///
/// | path ends in | it |
/// |---|---|
/// | `/Ok` | answers one empty message and `grpc-status: 0` |
/// | `/TrailersOnly` | answers `grpc-status: 5` in its head and nothing else |
/// | `/Hang` | answers nothing |
/// | `/HeadThenHang` | answers a head and one message, then nothing |
/// | `/Vanish` | closes the connection without an answer |
/// | `/HeadThenVanish` | answers a head and one message, then closes the connection |
/// | `/Reset` | resets the stream with INTERNAL_ERROR |
#[derive(Debug, Clone)]
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Scripted {
    /// Serves from a thread of its own for as long as the process lives.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let app = Self { address: listener.local_addr().unwrap(), seen: Arc::default() };
        let served = app.clone();
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(connection(served.clone(), stream));
                }
            });
        };
        std::thread::Builder::new().name("h2-app".to_owned()).spawn(serve).unwrap();
        app
    }

    /// The requests for a path so far.
    pub(crate) fn seen(&self, path: &str) -> Vec<Seen> {
        let all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|seen| seen.path == path).cloned().collect()
    }

    fn note(&self, request: &Request<RecvStream>) -> usize {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (path, head) = (request.uri().path().to_owned(), request.headers().clone());
        all.push(Seen { path, head, reset: None });
        all.len() - 1
    }

    fn note_reset(&self, n: usize, reason: Reason) {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        all[n].reset = Some((Instant::now(), reason));
    }
}

async fn connection(app: Scripted, stream: TcpStream) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let vanish = Arc::new(tokio::sync::Notify::new());
    loop {
        let next = tokio::select! {
            next = connection.accept() => next,
            () = vanish.notified() => return, // Dropping the connection closes it as it is.
        };
        let Some(Ok((request, respond))) = next else { return };
        tokio::spawn(answer(app.clone(), request, respond, Arc::clone(&vanish)));
    }
}

async fn answer(
    app: Scripted,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    vanish: Arc<tokio::sync::Notify>,
) {
    let n = app.note(&request);
    let script = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let head = || Response::builder().header("content-type", "application/grpc");
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    // A request that is gone meanwhile takes no answer: that is what the notes are for.
    match script.as_str() {
        "TrailersOnly" => {
            let head = head().header("grpc-status", "5").header("grpc-message", "not%20here");
            let _ = respond.send_response(head.body(()).unwrap(), true);
        }
        "Hang" => {}
        "Vanish" => {
            vanish.notify_one();
            return;
        }
        "Reset" => {
            respond.send_reset(Reason::INTERNAL_ERROR);
            return;
        }
        script => {
            let Ok(mut body) = respond.send_response(head().body(()).unwrap(), false) else {
                return;
            };
            let _ = body.send_data(Bytes::from_static(&[0; 5]), false);
            if script == "HeadThenVanish" {
                // Time for what was sent to leave; the head must have gone out.
                tokio::time::sleep(Duration::from_millis(300)).await;
                vanish.notify_one();
            } else if script == "HeadThenHang" {
                if let Ok(reason) = std::future::poll_fn(|cx| body.poll_reset(cx)).await {
                    app.note_reset(n, reason);
                }
            } else {
                let _ = body.send_trailers(trailers);
            }
            return;
        }
    }
    if script == "Hang"
        && let Ok(reason) = std::future::poll_fn(|cx| respond.poll_reset(cx)).await
    {
        app.note_reset(n, reason);
    }
}
