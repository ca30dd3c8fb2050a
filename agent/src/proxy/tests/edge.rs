//! What clients may send, byte by byte, and what they are told.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::mesh::{App, Host, plain};
use crate::identity::authority::Authority;

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
