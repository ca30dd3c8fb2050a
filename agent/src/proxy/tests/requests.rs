//! What works.

use std::time::Duration;

use hearth_proto::advert::{Condition, Protocol};
use hearth_proto::policy::{Caller, ServicePolicy};
use hearth_proto::route::Choice;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::mesh::{App, Host, client, endpoint, get, ledger, plain, send};
use crate::driver::PathReport;
use crate::identity::authority::Authority;
use crate::link::tests::{Agent, loopback, name, until};

async fn pair() -> (Host, Host, App) {
    let authority = Authority::new("mesh.example");
    let app = App::start("b").await;
    let a = Host::start(&authority, "a", None).await;
    let b = Host::start(&authority, "b", Some(app.address)).await;
    a.route(&[("b", b.agent.address)], plain());
    (a, b, app)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_get_and_a_post_go_through_two_agents() {
    let (a, _b, app) = pair().await;
    let reply = get(a.upstream, "/").await;
    assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &b"b"[..]));
    assert_eq!(reply.headers["content-length"], "1");
    assert_eq!(reply.headers.get_all("via").iter().collect::<Vec<_>>(), ["1.1 b", "1.1 a"]);
    assert!(!reply.headers.contains_key("x-hop"));
    let reply = send(a.upstream, Method::POST, "/echo", &[], "hello").await;
    assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &b"hello"[..]));
    assert_eq!(app.seen(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shared_port_picks_the_service_by_its_host() {
    let (a, _b, _app) = pair().await;
    let reply = send(a.shared, Method::GET, "/", &[("host", "ledger.mesh")], "").await;
    assert_eq!(reply.status, 200);
    let reply = get(a.shared, "/").await;
    assert_eq!(reply.status, 404);
    assert!(reply.headers["proxy-status"].to_str().unwrap().contains("destination_not_found"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_application_sees_what_the_client_sent_and_who_passed_it_on() {
    let (a, _b, _app) = pair().await;
    let fields = [("x-mine", "1"), ("connection", "x-hop"), ("x-hop", "1")];
    let reply = send(a.upstream, Method::GET, "/fields", &fields, "").await;
    let seen = String::from_utf8(reply.body.to_vec()).unwrap();
    for line in ["x-mine: 1", "via: 1.1 a", "x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http"]
    {
        assert!(seen.contains(line), "{line} is missing in {seen}");
    }
    for field in ["traceparent: 00-", "x-request-id: ", &format!("host: {}", a.upstream)] {
        assert!(seen.contains(field), "{field} is missing in {seen}");
    }
    assert!(!seen.contains("x-hop"), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_any_size_stream_in_both_directions() {
    let (a, _b, _app) = pair().await;
    let big: Vec<u8> = (0..5_000_000_u32).map(|i| i as u8).collect();
    let reply = send(a.upstream, Method::POST, "/echo", &[], big.clone()).await;
    assert_eq!(reply.status, 200);
    assert!(reply.body == big, "the echo differs");
    let reply = get(a.upstream, "/big").await;
    assert_eq!(reply.body.len(), 3_000_000);
    assert!(reply.trailers.is_none());
    let reply = send(a.upstream, Method::HEAD, "/big", &[], "").await;
    assert_eq!(
        (reply.body.len(), &reply.headers["content-length"]),
        (0, &"3000000".parse().unwrap())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_at_once_share_one_connection() {
    let (a, b, _app) = pair().await;
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..200 {
        let to = a.upstream;
        tasks.spawn(async move { send(to, Method::POST, "/echo", &[], format!("{i}")).await.body });
    }
    let mut got: Vec<String> = tasks
        .join_all()
        .await
        .into_iter()
        .map(|b| String::from_utf8(b.to_vec()).unwrap())
        .collect();
    got.sort_by_key(|s| s.parse::<u32>().unwrap());
    assert_eq!(got, (0..200).map(|i| i.to_string()).collect::<Vec<_>>());
    let views = a.agent.links.views();
    assert_eq!(views.len(), 1, "{views:?}");
    drop(b);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_on_the_same_host_needs_no_link() {
    let authority = Authority::new("mesh.example");
    let app = App::start("self").await;
    let a = Host::start(&authority, "a", Some(app.address)).await;
    a.route(&[("a", a.agent.address)], plain());
    assert_eq!(&get(a.upstream, "/").await.body[..], b"self");
    let big = vec![1; 1_000_000];
    assert_eq!(send(a.upstream, Method::PUT, "/echo", &[], big.clone()).await.body, big);
    assert!(a.agent.links.views().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_held_while_somebody_is_being_woken() {
    let (mut a, b, _app) = pair().await;
    let to = [("b", b.agent.address)];
    b.condition(Condition::Activating);
    a.choose(&to, plain(), Choice::Wake);
    let held = tokio::spawn({
        let to = a.upstream;
        async move { get(to, "/").await }
    });
    let report = tokio::time::timeout(Duration::from_secs(5), a.reports.recv()).await.unwrap();
    assert!(matches!(report, Some(PathReport::NeedWake { service }) if service == ledger()));
    assert!(!held.is_finished());
    // The caller hears of it before the owner has published it: the owner waits for itself.
    a.route(&to, plain());
    until("the request to wait at its owner", || match b.proxy.under_way() {
        0 => Err("nothing under way"),
        _ => Ok(()),
    })
    .await;
    b.condition(Condition::Serving);
    assert_eq!(held.await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_the_policy_does_not_list_is_refused_by_the_owner() {
    let (a, b, app) = pair().await;
    let only_c = ServicePolicy { allow: vec![Caller::Node(name("c"))], ..plain() };
    b.route(&[("b", b.agent.address)], only_c);
    let reply = get(a.upstream, "/").await;
    assert_eq!(reply.status, 403);
    let status = reply.headers["proxy-status"].to_str().unwrap();
    assert!(status.contains("http_request_denied") && status.contains("ledger@b"), "{status}");
    assert_eq!(app.seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_takes_its_request_along() {
    let (a, _b, app) = pair().await;
    let uri: http::Uri = format!("http://{}/hang", a.upstream).parse().unwrap();
    let call = tokio::spawn(client().get(uri));
    until("the application to be asked", || match app.seen() {
        0 => Err(0),
        _ => Ok(()),
    })
    .await;
    call.abort();
    until("the application's request to be dropped", || match app.dropped() {
        0 => Err(0),
        _ => Ok(()),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_finishes_what_is_under_way_and_takes_nothing_new() {
    let (a, _b, app) = pair().await;
    let slow = tokio::spawn({
        let to = a.upstream;
        async move { get(to, "/slow").await }
    });
    until("the request to arrive", || match app.seen() {
        0 => Err(0),
        _ => Ok(()),
    })
    .await;
    a.proxy.stop_accepting();
    assert_eq!(a.proxy.drained(Duration::from_secs(10)).await, 0);
    assert_eq!(slow.await.unwrap().status, 200);
    assert!(TcpStream::connect(a.upstream).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_is_idle_once_all_requests_to_it_have_ended_also_over_a_reload() {
    let (a, b, app) = pair().await;
    b.route(&[("b", b.agent.address)], plain());
    let of_b = endpoint("b");
    for host in [&a, &b] {
        let before = app.seen();
        let call = tokio::spawn({
            let to = host.upstream;
            async move { get(to, "/hang").await }
        });
        until("the request to arrive", || if app.seen() > before { Ok(()) } else { Err(before) })
            .await;
        assert_eq!(b.proxy.under_way_at(&of_b), 1);
        let locals = b.proxy.inner.locals.load();
        b.proxy.set_locals(locals.iter().map(|local| local.endpoint.clone()).collect());
        assert_eq!(b.proxy.under_way_at(&of_b), 1);
        call.abort();
        until("the end to be noticed", || match b.proxy.under_way_at(&of_b) {
            0 => Ok(()),
            left => Err(left),
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_clients_are_served_on_the_same_port() {
    let (a, _b, _app) = pair().await;
    let h2: hyper_util::client::legacy::Client<_, http_body_util::Full<bytes::Bytes>> =
        hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
            .http2_only(true)
            .build_http();
    let uri: http::Uri = format!("http://{}/", a.upstream).parse().unwrap();
    let reply = h2.get(uri).await.unwrap();
    assert_eq!((reply.status().as_u16(), reply.version()), (200, http::Version::HTTP_2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opaque_bytes_are_carried_with_their_half_closes() {
    let authority = Authority::new("mesh.example");
    let listener = TcpListener::bind(loopback(0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                // Answers only after the client has closed its half.
                let mut said = Vec::new();
                stream.read_to_end(&mut said).await.unwrap();
                said.reverse();
                stream.write_all(&said).await.unwrap();
            });
        }
    });
    let a = Host::start(&authority, "a", None).await;
    let b = Host::over(Agent::start(&authority, "b"), Some(address), Protocol::Tcp).await;
    a.route(&[("b", b.agent.address)], plain());
    let mut candidates = a.candidates();
    candidates[0].protocol = Protocol::Tcp;
    a.put(candidates, plain(), Choice::Serve);
    let mut stream = TcpStream::connect(a.upstream).await.unwrap();
    stream.write_all(b"abc").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"cba");
    // On the shared port nobody could say where such a connection is to go.
    let reply = send(a.shared, Method::GET, "/", &[("host", "ledger")], "").await;
    assert_eq!(reply.status, 400);
}
