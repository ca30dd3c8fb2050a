//! What clients may send, byte by byte, and what they are told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http2::SendRequest;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::super::guard::{Ahead, HEAD_LIMIT};
use super::super::outbound::{self, Door, Entry};
use super::super::{Gate, MAX_CONNECTIONS, edge, fast};
use super::mesh::{App, Host, ledger, plain};
use crate::config::{HostPattern, Ingress, IngressRoute};
use crate::identity::authority::Authority;
use crate::link::tests::{loopback, until};
use crate::pipe::Pipe;

const LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn pair() -> (Host, Host, App) {
    let authority = Authority::new("mesh.example");
    let app = App::start("b").await;
    let a = Host::start(&authority, "a", None).await;
    let b = Host::start(&authority, "b", Some(app.address)).await;
    a.route(&[("b", b.agent.address)], plain());
    (a, b, app)
}

/// What comes back on a connection of its own, up to its end.
pub(super) async fn raw(to: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // It may be cut off while it is still being written.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("an end in time").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_told_with_its_reason_and_the_connection_closed() {
    let (a, _b, app) = pair().await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", "400"),
        ("GET /a\\b HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        ("GET * HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "400",
        ),
        ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "501"),
        ("GET / HTTP/3.0\r\nHost: x\r\n\r\n", "505"),
        ("\x16\x03\x01\x02\x00", "400"),
    ] {
        let answer = raw(a.upstream, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
        assert!(answer.contains("proxy-status: a; error=http_request_error"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "b".repeat(1_000_000));
    assert!(raw(a.upstream, long.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    assert_eq!(app.seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_comes_behind_the_answers_to_the_requests_before_it() {
    let (a, _b, app) = pair().await;
    let pipelined = "GET /slow HTTP/1.1\r\nHost: x\r\n\r\nPOST /echo HTTP/1.1\r\nHost: x\r\n\
                     Content-Length: 2\r\n\r\nhiGET / HTTP/1.1\nHost: x\r\n\r\n";
    let answer = raw(a.upstream, pipelined.as_bytes()).await;
    let statuses: Vec<&str> = answer.matches("HTTP/1.1 ").collect();
    assert_eq!(statuses.len(), 3, "{answer}");
    let (first, last) =
        (answer.find("HTTP/1.1 200").unwrap(), answer.find("HTTP/1.1 400").unwrap());
    assert!(first < last && answer.contains("\r\n\r\nhi"), "{answer}");
    assert_eq!(app.seen(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_whose_chunks_are_none_reaches_no_application_whole() {
    let (a, _b, app) = pair().await;
    let head = "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = raw(a.upstream, format!("{head}3\r\nabcX0\r\n\r\n").as_bytes()).await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(app.seen() <= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_application_gets_the_canonical_path_and_the_authority_of_the_target() {
    let (a, _b, _app) = pair().await;
    for (target, path) in [
        ("/a/../fields", "/fields"),
        ("/%66ields", "/fields"),
        ("/x/%2e%2E/fields?q=/../z", "/fields?q=/../z"),
        ("http://other:81/./fields", "/fields"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: y\r\nConnection: close\r\n\r\n");
        let answer = raw(a.upstream, request.as_bytes()).await;
        assert!(answer.contains(&format!("\n:path: {path}\n")), "{target}: {answer}");
        let host = if target.starts_with("http") { "host: other:81" } else { "host: y" };
        assert!(answer.contains(host), "{target}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_passed_this_node_too_often_goes_in_a_circle() {
    let (a, _b, app) = pair().await;
    let via = "Via: 1.1 a, 1.1 b, 1.1 a, 1.1 b, 1.1 a, 1.1 b, 1.1 a\r\n";
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{via}Connection: close\r\n\r\n");
    let answer = raw(a.upstream, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 508 "), "{answer}");
    assert!(answer.contains("error=proxy_loop_detected"), "{answer}");
    assert_eq!(app.seen(), 0);
}

/// A connection from both its ends, and what it came from.
async fn connected() -> (TcpStream, TcpStream, SocketAddr) {
    let listener = TcpListener::bind(loopback(0)).await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, from) = listener.accept().await.unwrap();
    (client, stream, from)
}

/// Sends `begin` and then a byte now and then, as long as it is taken.
async fn drip(client: &mut (impl AsyncWrite + Unpin), begin: &[u8]) {
    let mut bytes = begin;
    while client.write_all(bytes).await.is_ok() {
        bytes = b"a";
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_comes_byte_by_byte_is_waited_for_from_its_first_byte_on() {
    let (a, _b, _app) = pair().await;
    let door = Door::new(Entry::Upstream(ledger()), false);
    for begin in [
        "GET / HTTP/1.1\r\nHost: x\r\nA: ",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n",
    ] {
        let (mut client, stream, from) = connected().await;
        let serving = fast::client::serve(&a.proxy.inner, &door, stream, from);
        let after = tokio::select! {
            after = tokio::time::timeout(LIMIT, serving) => after,
            () = drip(&mut client, begin.as_bytes()) => unreachable!("nobody closed it"),
        };
        let Ok(fast::client::After::Unusual(_, read, since)) = after else {
            panic!("{begin:?} was waited for while it came")
        };
        assert!(read.len() > begin.len());
        assert!(since.is_some_and(|since| since.elapsed() >= Duration::from_secs(2)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_began_before_it_was_hypers_has_only_what_is_left_of_its_time() {
    let (a, _b, _app) = pair().await;
    let door = Arc::new(Door::new(Entry::Upstream(ledger()), false));
    let (client, stream, from) = connected().await;
    let (mut back, mut forth) = client.into_split();
    let since = Instant::now().checked_sub(HEAD_LIMIT - Duration::from_millis(300));
    let ahead = Ahead { read: b"GET / HTTP/1.1\r\nHost: x\r\nA: "[..].into(), since };
    assert!(ahead.since.is_some());
    let serving = edge::serve(&a.proxy.inner, Pipe::Tcp(stream), ahead, from, &door);
    let mut answer = Vec::new();
    let told = async {
        tokio::time::timeout(LIMIT, back.read_to_end(&mut answer)).await.expect("an end").unwrap()
    };
    tokio::select! {
        ((), _) = async { tokio::join!(serving, told) } => {}
        () = async { drip(&mut forth, b"a").await; std::future::pending().await } => {}
    }
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_client_is_let_go_whatever_it_has_said() {
    let (a, _b, _app) = pair().await;
    let door = Arc::new(Door::new(Entry::Upstream(ledger()), false));
    let rest = Duration::from_millis(200);
    for begin in ["", "GET", "PRI * HTTP/2.0\r\n"] {
        let (mut client, stream, from) = connected().await;
        client.write_all(begin.as_bytes()).await.unwrap();
        let serving =
            edge::serve_for(&a.proxy.inner, Pipe::Tcp(stream), Ahead::default(), from, &door, rest);
        assert!(tokio::time::timeout(LIMIT, serving).await.is_ok(), "{begin:?} was kept");
    }
    // One that answers every ping, and asks nothing.
    let (client, stream, from) = connected().await;
    let serving =
        edge::serve_for(&a.proxy.inner, Pipe::Tcp(stream), Ahead::default(), from, &door, rest);
    let client = async {
        let client = hyper_util::rt::TokioIo::new(client);
        let executor = hyper_util::rt::TokioExecutor::new();
        let shaken = hyper::client::conn::http2::handshake(executor, client).await;
        let (_sender, connection): (SendRequest<Empty<Bytes>>, _) = shaken.unwrap();
        let _ = connection.await;
    };
    let both = async { tokio::join!(serving, client) };
    assert!(tokio::time::timeout(LIMIT, both).await.is_ok(), "it was kept");
}

#[tokio::test]
async fn the_kernel_looks_after_clients_that_vanish() {
    let listener = TcpListener::bind(loopback(0)).await.unwrap();
    outbound::keep_alive(&listener);
    let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let accepted = socket2::SockRef::from(&accepted);
    assert!(accepted.keepalive().unwrap());
    assert!(accepted.tcp_keepalive_time().unwrap() <= Duration::from_secs(120));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_take_no_room_from_programs_of_this_host() {
    let (a, _b, _app) = pair().await;
    let routes =
        vec![IngressRoute { hosts: vec![HostPattern::Any], path: "/".into(), service: ledger() }];
    let ingress = Ingress { listen: loopback(0), tls: None, trust: Vec::new(), routes };
    let gate = Entry::Ingress(Arc::new(Gate::new(&ingress).unwrap()));
    let port = a.proxy.listen(loopback(0), gate).await.unwrap();
    let taken = |room: &Semaphore| MAX_CONNECTIONS - room.available_permits();
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(TcpStream::connect(port).await.unwrap());
    }
    // Each listener holds a place for whoever comes next: two are this host's own.
    let inner = &a.proxy.inner;
    until("the strangers to be counted", || {
        match (taken(&inner.connections), taken(&inner.strangers), a.proxy.under_way()) {
            (2, 21, 20) => Ok(()),
            other => Err(other),
        }
    })
    .await;
}
