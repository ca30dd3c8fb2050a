//! What applications may be: HTTP/1.1 or HTTP/2, on a port or on a socket; opaque bytes on a socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use hearth_proto::advert::Protocol;
use hearth_proto::route::Choice;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use super::mesh::{App, Host, get, plain, send};
use crate::config::HttpVersion;
use crate::identity::authority::Authority;
use crate::link::tests::{Agent, loopback};
use crate::pipe::{AppAddress, Pipe};

/// A directory that goes with its test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hearth-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

enum Listening {
    Port(TcpListener),
    Socket(UnixListener),
}

impl Listening {
    async fn on_port() -> (Self, AppAddress) {
        let listener = TcpListener::bind(loopback(0)).await.unwrap();
        let address = listener.local_addr().unwrap().into();
        (Self::Port(listener), address)
    }

    fn on_socket(directory: &Directory) -> (Self, AppAddress) {
        let path = directory.0.join("app.sock");
        (Self::Socket(UnixListener::bind(&path).unwrap()), path.as_path().into())
    }

    async fn accept(&self) -> Pipe {
        match self {
            Self::Port(listener) => Pipe::Tcp(listener.accept().await.unwrap().0),
            Self::Socket(listener) => Pipe::Unix(listener.accept().await.unwrap().0),
        }
    }
}

/// What it was asked, in its own eyes. Speaks one version of HTTP only. Counts its connections; `/last`
/// has the connection closed when it is done.
fn application(listening: Listening, version: HttpVersion) -> Arc<AtomicUsize> {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        loop {
            let io = TokioIo::new(listening.accept().await);
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let last = Arc::new(tokio::sync::Notify::new());
                let asked = last.clone();
                let service = service_fn(move |request| answer(request, asked.clone()));
                match version {
                    HttpVersion::One => {
                        let serving = hyper::server::conn::http1::Builder::new()
                            .serve_connection(io, service);
                        let _ = serving.await;
                    }
                    HttpVersion::Two => {
                        let serving =
                            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                                .serve_connection(io, service);
                        tokio::pin!(serving);
                        tokio::select! {
                            _ = &mut serving => {}
                            () = last.notified() => {
                                serving.as_mut().graceful_shutdown();
                                let _ = serving.await;
                            }
                        }
                    }
                }
            });
        }
    });
    connections
}

async fn answer(
    request: Request<Incoming>,
    last: Arc<tokio::sync::Notify>,
) -> hyper::Result<Response<Full<Bytes>>> {
    if request.uri().path() == "/last" {
        last.notify_one();
    }
    let host = request.headers().get("host").map(|h| h.to_str().unwrap().to_owned());
    let seen = format!(
        "{:?} {} {} authority={:?} host={host:?}",
        request.version(),
        request.method(),
        request.uri().path(),
        request.uri().authority().map(http::uri::Authority::as_str),
    );
    Ok(Response::new(Full::new(seen.into())))
}

async fn pair(address: AppAddress, protocol: Protocol, http: HttpVersion) -> (Host, Host) {
    let authority = Authority::new("mesh.example");
    let a = Host::start(&authority, "a", None).await;
    let b = Host::offering(Agent::start(&authority, "b"), address, protocol, http).await;
    a.route(&[("b", b.agent.address)], plain());
    (a, b)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_on_a_socket_is_reached_like_one_on_a_port() {
    let directory = Directory::new("h1-socket");
    let (listening, address) = Listening::on_socket(&directory);
    let connections = application(listening, HttpVersion::One);
    let (a, _b) = pair(address, Protocol::Http, HttpVersion::One).await;
    for _ in 0..3 {
        let reply = send(a.shared, Method::GET, "/x", &[("host", "ledger.mesh")], "").await;
        assert_eq!(reply.body, "HTTP/1.1 GET /x authority=None host=Some(\"ledger.mesh\")");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1, "connections are kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_speaks_http_2_reads_the_clients_authority() {
    let directory = Directory::new("h2-socket");
    let (on_port, port) = Listening::on_port().await;
    let (on_socket, socket) = Listening::on_socket(&directory);
    for (listening, address) in [(on_port, port), (on_socket, socket)] {
        let connections = application(listening, HttpVersion::Two);
        let (a, _b) = pair(address, Protocol::Http, HttpVersion::Two).await;
        for host in ["ledger.mesh", "ledger"] {
            let reply = send(a.shared, Method::POST, "/x", &[("host", host)], "body").await;
            let expected = format!("HTTP/2.0 POST /x authority=Some({host:?}) host=None");
            assert_eq!(reply.body, expected);
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1, "one connection carries all");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_the_application_ends_is_replaced_and_no_request_is_lost() {
    let (listening, address) = Listening::on_port().await;
    let connections = application(listening, HttpVersion::Two);
    let (a, _b) = pair(address, Protocol::Http, HttpVersion::Two).await;
    for _ in 0..5 {
        assert_eq!(get(a.upstream, "/last").await.status, 200);
        let reply = send(a.upstream, Method::POST, "/x", &[], "").await;
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    assert!(connections.load(Ordering::SeqCst) > 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_speaks_only_http_1_is_not_spoken_to_in_http_2() {
    // What a wrong `http = "2"` looks like: refused as broken, never held for an answer.
    let app = App::start("b").await;
    let (a, _b) = pair(app.address.into(), Protocol::Http, HttpVersion::Two).await;
    let reply = get(a.upstream, "/").await;
    assert!(reply.status.is_server_error(), "{reply:?}");
    assert_eq!(app.seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opaque_bytes_reach_a_socket_and_each_half_ends_by_itself() {
    let directory = Directory::new("tcp-socket");
    let (listening, address) = Listening::on_socket(&directory);
    tokio::spawn(async move {
        loop {
            let mut stream = listening.accept().await;
            let mut said = Vec::new();
            stream.read_to_end(&mut said).await.unwrap();
            said.reverse();
            stream.write_all(&said).await.unwrap();
        }
    });
    let (a, b) = pair(address, Protocol::Tcp, HttpVersion::One).await;
    for caller in [&a, &b] {
        caller.route(&[("b", b.agent.address)], plain());
        let mut candidates = caller.candidates();
        candidates[0].protocol = Protocol::Tcp;
        caller.put(candidates, plain(), Choice::Serve);
        let mut stream = TcpStream::connect(caller.upstream).await.unwrap();
        stream.write_all(b"abc").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"cba");
    }
}
