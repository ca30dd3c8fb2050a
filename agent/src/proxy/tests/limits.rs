//! What a policy limits, and what a failing application costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hearth_proto::policy::{Ceiling, Patience, Rate, RetryOn, ServicePolicy};
use hearth_proto::time::Span;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::mesh::{App, Host, get, plain, send};
use crate::identity::authority::Authority;
use crate::link::tests::loopback;

async fn mesh() -> (Host, Host, Host, App, App) {
    let authority = Authority::new("mesh.example");
    let (app_b, app_c) = (App::start("b").await, App::start("c").await);
    let a = Host::start(&authority, "a", None).await;
    let b = Host::start(&authority, "b", Some(app_b.address)).await;
    let c = Host::start(&authority, "c", Some(app_c.address)).await;
    (a, b, c, app_b, app_c)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_try_that_takes_too_long_is_followed_by_another() {
    let authority = Authority::new("mesh.example");
    let app = App::start("c").await;
    let a = Host::start(&authority, "a", None).await;
    // Accepts connections and says nothing.
    let mute = TcpListener::bind(loopback(0)).await.unwrap();
    let b = Host::start(&authority, "b", Some(mute.local_addr().unwrap())).await;
    let c = Host::start(&authority, "c", Some(app.address)).await;
    let impatient = ServicePolicy {
        per_try_timeout: Patience::For(Span(Duration::from_millis(100))),
        ..plain()
    };
    a.route(&[("b", b.agent.address), ("c", c.agent.address)], impatient.clone());
    // Whom a request meets first is drawn.
    let mut sent = 0;
    while a.retries("app_silent") == 0 {
        let reply = get(a.upstream, "/").await;
        assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &b"c"[..]));
        sent += 1;
        assert!(sent < 200, "b was never asked");
    }
    // What must not be repeated is told instead.
    a.route(&[("b", b.agent.address)], impatient);
    let started = Instant::now();
    assert_eq!(send(a.upstream, Method::POST, "/", &[], "x").await.status, 504);
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_calls_too_often_is_told_so_and_asks_nobody_else() {
    let (a, b, c, app_b, app_c) = mesh().await;
    let rate = Rate::Of { times: 3, per: Span(Duration::from_secs(3600)) };
    let limited = ServicePolicy { rate_limit: rate, ..plain() };
    b.route(&[("b", b.agent.address)], limited.clone());
    a.route(&[("b", b.agent.address)], limited.clone());
    for _ in 0..3 {
        assert_eq!(get(a.upstream, "/").await.status, 200);
    }
    let told = get(a.upstream, "/").await;
    assert_eq!((told.status.as_u16(), &told.headers["retry-after"]), (429, &"1".parse().unwrap()));
    assert!(told.headers["proxy-status"].to_str().unwrap().contains("ledger@b"));
    a.route(&[("b", b.agent.address), ("c", c.agent.address)], limited);
    c.route(&[("c", c.agent.address)], plain());
    // Whether a request meets the one or the other is drawn; whom it meets has the last word.
    let mut limited = 0;
    for _ in 0..20 {
        limited += usize::from(get(a.upstream, "/").await.status == 429);
    }
    assert_eq!((app_b.seen(), app_c.seen()), (3, 20 - limited));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_what_an_endpoint_takes_wait_or_go_elsewhere() {
    let (a, b, c, app_b, app_c) = mesh().await;
    let one = ServicePolicy { max_requests: Ceiling::At(1), ..plain() };
    b.route(&[("b", b.agent.address)], one.clone());
    c.route(&[("c", c.agent.address)], plain());
    a.route(&[("b", b.agent.address), ("c", c.agent.address)], one);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let to = a.upstream;
        calls.spawn(async move { send(to, Method::POST, "/slow", &[], "x").await.status });
    }
    assert!(calls.join_all().await.iter().all(|status| *status == 200));
    assert_eq!(app_b.seen() + app_c.seen(), 12, "each was executed once");
    assert!(a.retries("busy") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_stands_still_is_cut_off_where_the_policy_says_so() {
    let authority = Authority::new("mesh.example");
    let listener = TcpListener::bind(loopback(0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 16 * 1024];
                let _ = stream.read(&mut head).await;
                let begun = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegun";
                stream.write_all(begun).await.unwrap();
                tokio::time::sleep(Duration::from_secs(60)).await;
            });
        }
    });
    let a = Host::start(&authority, "a", None).await;
    let b = Host::start(&authority, "b", Some(address)).await;
    let quiet = Patience::For(Span(Duration::from_millis(300)));
    a.route(&[("b", b.agent.address)], ServicePolicy { idle_timeout: quiet, ..plain() });
    let mut stream = TcpStream::connect(a.upstream).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut all = Vec::new();
    let read = stream.read_to_end(&mut all);
    let _ = tokio::time::timeout(Duration::from_secs(20), read).await.expect("an end in time");
    let all = String::from_utf8_lossy(&all);
    assert!(all.starts_with("HTTP/1.1 200") && all.ends_with("begun"), "{all}");
}

/// An application that answers each second request and breaks the others off.
async fn half_broken() -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(loopback(0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut head = [0; 16 * 1024];
                while stream.read(&mut head).await.is_ok_and(|n| n > 0) {
                    if counted.fetch_add(1, Ordering::SeqCst) % 2 == 1 {
                        return;
                    }
                    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                    if stream.write_all(ok).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_errors_is_repeated_by_a_fifth_at_most_and_holds_nobody() {
    const SENT: usize = 1500;
    let authority = Authority::new("mesh.example");
    let (address, seen) = half_broken().await;
    let a = Host::start(&authority, "a", None).await;
    let b = Host::start(&authority, "b", Some(address)).await;
    a.route(&[("b", b.agent.address)], plain());
    let started = Instant::now();
    let (mut well, mut told) = (0, 0);
    let client = super::mesh::client();
    for _ in 0..SENT {
        let uri: http::Uri = format!("http://{}/", a.upstream).parse().unwrap();
        match client.get(uri).await.unwrap().status().as_u16() {
            200 => well += 1,
            502 => told += 1,
            other => panic!("{other}"),
        }
    }
    let seen = seen.load(Ordering::SeqCst);
    assert!(well > SENT / 3 && told > SENT / 10, "{well} well, {told} told");
    // Waiting 100 ms before the same endpoint is asked again is part of each repetition.
    assert!(started.elapsed() < Duration::from_secs(120));
    assert!(seen as f64 <= 1.2 * SENT as f64, "{seen} of {SENT}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses_that_the_policy_names_are_asked_elsewhere() {
    let (a, b, c, app_b, app_c) = mesh().await;
    let to = [("b", b.agent.address), ("c", c.agent.address)];
    let on = ServicePolicy { retry_on: vec![RetryOn::Status(503)], ..plain() };
    a.route(&to, on);
    // Both are busy; the first answer is passed on after the second was asked.
    assert_eq!(get(a.upstream, "/busy").await.status, 503);
    assert_eq!((app_b.seen(), app_c.seen()), (1, 1));
    assert_eq!(send(a.upstream, Method::POST, "/busy", &[], "x").await.status, 503);
    assert_eq!(app_b.seen() + app_c.seen(), 3);
}
