//! Clients, peers and moments that mean no good.

use std::time::{Duration, Instant};

use hearth_proto::evidence::{Standing, Why};
use hearth_proto::ids::ServiceName;
use hearth_proto::route::Choice;
use hearth_proto::time::Time;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::super::Entry;
use super::mesh::{App, Host, get, ledger, plain, relayed, send};
use crate::identity::authority::Authority;
use crate::link::LinkHealth;
use crate::link::tests::{healthy, name, settled, until};

async fn pair() -> (Host, Host, App) {
    let authority = Authority::new("mesh.example");
    let app = App::start("b").await;
    let a = Host::start(&authority, "a", None).await;
    let b = Host::start(&authority, "b", Some(app.address)).await;
    a.route(&[("b", b.agent.address)], plain());
    (a, b, app)
}

/// What comes back on a connection of its own, up to its end.
async fn raw(to: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("an end in time").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unsafe_request_is_not_sent_on_a_silent_link_and_goes_when_it_answers() {
    let authority = Authority::new("mesh.example");
    let app = App::start("b").await;
    let a = Host::start(&authority, "a", None).await;
    let (b, relay) = relayed(&authority, "b", &app).await;
    a.route(&[("b", relay.address)], plain());
    assert_eq!(get(a.upstream, "/").await.status, 200);
    a.agent.links.watch(vec![(name("b"), relay.address)]);
    settled(&a.agent, &b.agent).await;
    relay.cut();
    healthy(&a.agent, &name("b"), LinkHealth::Silent).await;
    // As the core would have it: silent, and nobody else is left.
    let mut candidates = a.candidates();
    candidates[0].standing = Standing::Doubtful(Why::Silent { since: Time(0) });
    a.put(candidates, plain(), Choice::Panic);
    let to = a.upstream;
    let post = tokio::spawn(async move { send(to, Method::POST, "/", &[], "x").await });
    until("the request to be held", || match a.retries("silent") {
        0 => Err(0),
        n => Ok(n),
    })
    .await;
    assert_eq!(app.seen(), 1);
    relay.heal();
    assert_eq!(post.await.unwrap().status, 200);
    assert_eq!(app.seen(), 2, "sent once");
    drop(b);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_of_large_answers_do_not_stop_small_ones() {
    let (a, _b, _app) = pair().await;
    let mut slow = Vec::new();
    for _ in 0..60 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(a.upstream).await.unwrap();
        stream.write_all(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        // The head is there, the body is under way and is not read.
        stream.readable().await.unwrap();
        slow.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let started = Instant::now();
    assert_eq!(get(a.upstream, "/").await.status, 200);
    assert!(started.elapsed() < Duration::from_secs(2), "took {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_is_redirected_without_being_closed() {
    let (a, _b, _app) = pair().await;
    let other = ServiceName::parse("other").unwrap();
    a.proxy.redirect(a.upstream, Entry::Upstream(other));
    let reply = get(a.upstream, "/").await;
    assert_eq!(reply.status, 503);
    assert!(String::from_utf8_lossy(&reply.body).contains("other"));
    a.proxy.redirect(a.upstream, Entry::Upstream(ledger()));
    assert_eq!(get(a.upstream, "/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_is_refused_and_nothing_is_sent_anywhere() {
    let (a, _b, app) = pair().await;
    let answer =
        raw(a.upstream, "CONNECT x:80 HTTP/1.1\r\nhost: x:80\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(app.seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_every_shape_are_answered_and_the_connection_ends_as_asked() {
    let (a, _b, _app) = pair().await;
    let close = "connection: close\r\n\r\n";
    for (request, begins, ends) in [
        (format!("GET / HTTP/1.1\r\nhost: x\r\n{close}"), "HTTP/1.1 200", "\r\n\r\nb"),
        ("GET / HTTP/1.0\r\n\r\n".into(), "HTTP/1.0 200", "\r\n\r\nb"),
        (format!("HEAD / HTTP/1.1\r\nhost: x\r\n{close}"), "HTTP/1.1 200", "\r\n\r\n"),
        (format!("GET http://x/ HTTP/1.1\r\nhost: y\r\n{close}"), "HTTP/1.1 200", "\r\n\r\nb"),
        (format!("OPTIONS * HTTP/1.1\r\nhost: x\r\n{close}"), "HTTP/1.1 200", "\r\n\r\nb"),
        (
            format!(
                "POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n{close}2\r\nhi\r\n0\r\nx-t: 1\r\n\r\n"
            ),
            "HTTP/1.1 200",
            "\r\n\r\nhi",
        ),
    ] {
        let started = Instant::now();
        let answer = raw(a.upstream, &request).await;
        assert!(answer.starts_with(begins) && answer.ends_with(ends), "{request}{answer}");
        assert!(started.elapsed() < Duration::from_secs(2), "{request}: {:?}", started.elapsed());
    }
    let huge = format!("GET / HTTP/1.1\r\nhost: x\r\nx-y: {}\r\n{close}", "y".repeat(200_000));
    let mut stream = TcpStream::connect(a.upstream).await.unwrap();
    // It may be cut off while it is still being written.
    let _ = stream.write_all(huge.as_bytes()).await;
    let mut answer = [0; 12];
    if stream.read_exact(&mut answer).await.is_ok() {
        assert_eq!(&answer, b"HTTP/1.1 431");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_a_peer_makes_up_make_no_series() {
    let (a, b, _app) = pair().await;
    let strange = ServiceName::parse("strange").unwrap();
    a.publish(|s| {
        let mut route = hearth_proto::route::Route::clone(&s.services[&ledger()]);
        route.service = strange.clone();
        s.services.insert(strange, std::sync::Arc::new(route));
    });
    let mut stream = TcpStream::connect(a.shared).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: strange\r\n\r\n").await.unwrap();
    let series = |service: &str| {
        let labels = [("service", service.to_owned()), ("outcome", "not_ours".to_owned())];
        b.metrics.inbound.get_or_create(&labels).get()
    };
    until("the peer to refuse it", || match series("unknown") {
        0 => Err(0),
        n => Ok(n),
    })
    .await;
}
