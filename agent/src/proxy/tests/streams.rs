//! What lasts, on a host that is lost: told at once, each in its own words, or cut.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{iter, pending};
use hearth_proto::advert::Protocol;
use hearth_proto::route::Choice;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::mesh::{Host, plain, relayed_to};
use crate::identity::authority::Authority;
use crate::link::LinkHealth;
use crate::link::tests::{Relay, healthy, loopback, name, settled};

const LIMIT: Duration = Duration::from_secs(10);
/// Far above what it takes (a tenth of this), for busy machines.
const AT_ONCE: Duration = Duration::from_secs(1);

/// An application that does `with` to each connection.
async fn application<F>(with: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(loopback(0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(with(stream));
        }
    });
    address
}

/// A caller, and an owner of `app` that can be cut off.
struct Pair {
    a: Host,
    _b: Host,
    relay: Relay,
}

async fn pair(app: SocketAddr, protocol: Protocol) -> Pair {
    let authority = Authority::new("mesh.example");
    let a = Host::start(&authority, "a", None).await;
    let (b, relay) = relayed_to(&authority, "b", app, protocol).await;
    a.route(&[("b", relay.address)], plain());
    let mut candidates = a.candidates();
    candidates.iter_mut().for_each(|c| c.protocol = protocol);
    a.put(candidates, plain(), Choice::Serve);
    Pair { a, _b: b, relay }
}

impl Pair {
    /// Cuts the owner off, and says when.
    async fn cut(&self) -> Instant {
        healthy(&self.a.agent, &name("b"), LinkHealth::Up).await;
        self.relay.cut();
        Instant::now()
    }
}

fn told(what: &str, cut: Instant) {
    let took = cut.elapsed();
    println!("{what}: told {:.1} ms after the cut", took.as_secs_f64() * 1000.0);
    assert!(took < AT_ONCE, "{what}: told after {took:?}");
}

async fn open(to: SocketAddr, said: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(said).await.unwrap();
    stream
}

/// Reads up to and with `end`.
async fn until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut said = Vec::new();
    let read = async {
        while !said.ends_with(end) {
            said.push(stream.read_u8().await.unwrap());
        }
    };
    let done = tokio::time::timeout(LIMIT, read).await;
    done.unwrap_or_else(|_| panic!("{end:?} did not come, but {said:?}"));
    said
}

/// All that comes, and whether its end looks broken.
async fn rest(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut rest)).await.expect("an end");
    (rest, read.is_err())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_streamed_is_cut_off_when_its_host_is_lost() {
    let app = application(|mut stream| async move {
        until(&mut stream, b"\r\n\r\n").await;
        let begun = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
        stream.write_all(begun).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let pair = pair(app, Protocol::Http).await;
    // The second is none for the fast path.
    let asks = ["", "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n"];
    let mut streams = Vec::new();
    for (method, fields) in ["GET", "POST"].into_iter().zip(asks) {
        let ask = format!("{method} /events HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        let mut stream = open(pair.a.upstream, ask.as_bytes()).await;
        until(&mut stream, b"hello\r\n").await;
        streams.push(stream);
    }
    let cut = pair.cut().await;
    for mut stream in streams {
        let (rest, _) = rest(&mut stream).await;
        told("streamed answer", cut);
        assert!(rest.is_empty(), "an end was made up: {:?}", String::from_utf8_lossy(&rest));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_grpc_ends_as_unavailable_with_the_reason_when_its_host_is_lost() {
    let app = application(|stream| async move {
        let service = service_fn(|_| async {
            let first = iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"first")))]);
            let mut answer = Response::new(StreamBody::new(first.chain(pending())));
            let grpc = http::HeaderValue::from_static("application/grpc");
            answer.headers_mut().insert("content-type", grpc);
            Ok::<_, Infallible>(answer)
        });
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    })
    .await;
    let pair = pair(app, Protocol::Grpc).await;
    let stream = TcpStream::connect(pair.a.upstream).await.unwrap();
    let io = TokioIo::new(stream);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let call = Request::post("http://ledger/watch").header("content-type", "application/grpc");
    let call = call.body(Empty::<Bytes>::new()).unwrap();
    let answer = tokio::time::timeout(LIMIT, client.send_request(call)).await.unwrap().unwrap();
    let mut body = answer.into_body();
    let first = tokio::time::timeout(LIMIT, body.frame()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "first");
    let cut = pair.cut().await;
    let last = tokio::time::timeout(LIMIT, body.frame()).await.unwrap().unwrap().unwrap();
    told("gRPC stream", cut);
    let trailers = last.into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "14");
    assert_eq!(trailers["grpc-message"], "hearth: the connection to the host was lost");
}

/// A client that asked for `token`, has read the answer and then `begun`, which the application said.
async fn upgraded(token: &'static str, begun: &'static [u8]) -> (Pair, TcpStream) {
    let app = application(move |mut stream| async move {
        until(&mut stream, b"\r\n\r\n").await;
        let lets = format!("HTTP/1.1 101 X\r\nUpgrade: {token}\r\nConnection: Upgrade\r\n\r\n");
        stream.write_all(lets.as_bytes()).await.unwrap();
        stream.write_all(begun).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let pair = pair(app, Protocol::Http).await;
    let wish = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: {token}\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let mut stream = open(pair.a.upstream, wish.as_bytes()).await;
    let head = until(&mut stream, b"\r\n\r\n").await;
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    until(&mut stream, begun).await;
    (pair, stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_is_closed_with_the_reason_when_its_host_is_lost() {
    let (pair, mut stream) = upgraded("websocket", b"\x81\x02hi").await;
    // A client that is in the middle of saying something sees it too.
    stream.write_all(b"\x81\xFE").await.unwrap();
    let cut = pair.cut().await;
    let (rest, broken) = rest(&mut stream).await;
    told("WebSocket", cut);
    let reason = b"hearth: the connection to the host was lost";
    let close = [&[0x88, 2 + reason.len() as u8, 0x03, 0xE9], &reason[..]].concat();
    assert_eq!((rest, broken), (close, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_closed_in_its_own_words_is_reset_when_its_host_is_lost() {
    // In the middle of a frame; another protocol.
    for (token, begun) in [("websocket", &b"\x81\x05he"[..]), ("other", b"hello")] {
        let (pair, mut stream) = upgraded(token, begun).await;
        let cut = pair.cut().await;
        assert_eq!(rest(&mut stream).await, (Vec::new(), true), "{token}");
        told(token, cut);
    }
}

/// An application that says its name, and then waits.
async fn named(says: &'static str) -> SocketAddr {
    application(move |mut stream| async move {
        stream.write_all(says.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opaque_tcp_is_reset_when_its_host_is_lost() {
    let pair = pair(named("b").await, Protocol::Tcp).await;
    let mut stream = open(pair.a.upstream, b"").await;
    until(&mut stream, b"b").await;
    let cut = pair.cut().await;
    assert_eq!(rest(&mut stream).await, (Vec::new(), true));
    told("opaque TCP", cut);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_not_put_on_a_link_in_doubt_while_there_is_a_better_one() {
    let authority = Authority::new("mesh.example");
    let a = Host::start(&authority, "a", None).await;
    let (b, relay) = relayed_to(&authority, "b", named("b").await, Protocol::Tcp).await;
    let c = crate::link::tests::Agent::start(&authority, "c");
    let c = Host::over(c, Some(named("c").await), Protocol::Tcp).await;
    let route = |to: &[(&str, SocketAddr)]| {
        a.route(to, plain());
        let mut candidates = a.candidates();
        candidates.iter_mut().for_each(|c| c.protocol = Protocol::Tcp);
        a.put(candidates, plain(), Choice::Serve);
    };
    route(&[("b", relay.address)]);
    until(&mut open(a.upstream, b"").await, b"b").await;
    a.agent.links.watch(vec![(name("b"), relay.address)]);
    settled(&a.agent, &b.agent).await;
    relay.cut();
    healthy(&a.agent, &name("b"), LinkHealth::Silent).await;
    // The routes are a moment older than the link.
    route(&[("b", relay.address), ("c", c.agent.address)]);
    for _ in 0..20 {
        let asked = Instant::now();
        until(&mut open(a.upstream, b"").await, b"c").await;
        assert!(asked.elapsed() < AT_ONCE, "took {:?}", asked.elapsed());
    }
}
