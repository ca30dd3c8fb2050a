//! Requests to an exclusive service: only under the lease, and the application reads under which.

use std::time::Duration;

use hearth_proto::advert::Protocol;
use hearth_proto::policy::{Exclusive, Mode, ServicePolicy};
use hearth_proto::route::{Choice, HeldLease};
use hearth_proto::time::{Span, Time};
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::mesh::{App, Host, endpoint, ledger, plain, send};
use crate::identity::authority::Authority;
use crate::link::tests::{Agent, loopback, name};

const EVER: Time = Time(u64::MAX);
const SOON: Duration = Duration::from_secs(10);

fn policy() -> ServicePolicy {
    let exclusive = Exclusive {
        owners: vec![name("b")],
        lease: Span(Duration::from_secs(5)),
        number: 1,
        former: Vec::new(),
    };
    ServicePolicy {
        mode: Mode::Exclusive,
        exclusive: Some(exclusive),
        timeout: Span(Duration::from_millis(600)),
        ..plain()
    }
}

fn hold(host: &Host, term: u64, until: Time) {
    let endpoint = endpoint(host.agent.name.as_str());
    host.publish(|s| {
        s.leases.insert(ledger(), HeldLease { endpoint, term, until });
    });
}

fn lose(host: &Host) {
    host.publish(|s| s.leases.clear());
}

/// `from` routes to `to` under `term`.
fn route(from: &Host, to: &Host, protocol: Protocol, term: u64) {
    from.route(&[(to.agent.name.as_str(), to.agent.address)], policy());
    let mut candidates = from.candidates();
    (candidates[0].term, candidates[0].protocol) = (Some(term), protocol);
    from.put(candidates, policy(), Choice::Serve);
}

/// `a` calls `b` under `routed`; `b` holds the lease under `held` until `until`.
async fn pair(routed: u64, held: u64, until: Time) -> (Host, Host, App) {
    let authority = Authority::new("mesh.example");
    let app = App::start("b").await;
    let a = Host::start(&authority, "a", None).await;
    let b = Host::start(&authority, "b", Some(app.address)).await;
    b.route(&[], policy());
    hold(&b, held, until);
    route(&a, &b, Protocol::Http, routed);
    (a, b, app)
}

fn fenced(host: &Host, reason: &str) -> u64 {
    let labels = [("service", "ledger".to_owned()), ("reason", reason.to_owned())];
    host.metrics.fenced.get_or_create(&labels).get()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_application_reads_the_term_of_the_lease_whatever_the_client_says() {
    let (a, _b, _app) = pair(7, 7, EVER).await;
    for fields in
        [&[][..], &[("hearth-term", "99")], &[("Hearth-Term", "99"), ("hearth-term", "x")]]
    {
        let reply = send(a.upstream, Method::GET, "/fields", fields, "").await;
        let seen = String::from_utf8(reply.body.to_vec()).unwrap();
        assert_eq!(reply.status, 200, "{seen}");
        assert_eq!(seen.matches("hearth-term: ").count(), 1, "{seen}");
        assert!(seen.contains("hearth-term: 7"), "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_term_reaches_no_application_of_a_service_without_leases() {
    let authority = Authority::new("mesh.example");
    let app = App::start("b").await;
    let a = Host::start(&authority, "a", None).await;
    let b = Host::start(&authority, "b", Some(app.address)).await;
    a.route(&[("b", b.agent.address)], plain());
    let reply = send(a.upstream, Method::GET, "/fields", &[("hearth-term", "99")], "").await;
    let seen = String::from_utf8(reply.body.to_vec()).unwrap();
    assert!(reply.status == 200 && !seen.contains("hearth-term"), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_accepted_under_a_lease_that_is_over_or_another_term_than_it_was_sent_under() {
    for (routed, held, until, reason) in
        [(7, 7, Time(0), "no_lease"), (6, 7, EVER, "older_term"), (8, 7, EVER, "newer_term")]
    {
        let (a, b, app) = pair(routed, held, until).await;
        let reply = send(a.upstream, Method::POST, "/echo", &[], "x").await;
        assert!(reply.status.is_server_error(), "{reason}: {}", reply.status);
        let status = reply.headers["proxy-status"].to_str().unwrap();
        assert!(status.contains("lease") || status.contains("term"), "{status}");
        assert_eq!(app.seen(), 0, "{reason}");
        assert!(fenced(&b, reason) > 0, "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_holds_no_lease_accepts_nothing_though_it_serves_by_its_condition() {
    let (a, b, app) = pair(7, 7, EVER).await;
    lose(&b);
    let reply = send(a.upstream, Method::GET, "/", &[], "").await;
    assert!(reply.status.is_server_error());
    assert_eq!(app.seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_request_waits_for_the_route_to_change_and_goes_to_the_successor() {
    let (a, b, app) = pair(6, 7, EVER).await;
    let asked = tokio::spawn(send(a.upstream, Method::POST, "/echo", &[], "x"));
    tokio::time::timeout(SOON, async {
        while fenced(&b, "older_term") == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    route(&a, &b, Protocol::Http, 7);
    assert_eq!((asked.await.unwrap().status.as_u16(), app.seen()), (200, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_of_the_holders_own_host_is_held_to_its_lease_as_well() {
    let authority = Authority::new("mesh.example");
    let app = App::start("b").await;
    let b = Host::start(&authority, "b", Some(app.address)).await;
    route(&b, &b, Protocol::Http, 7);
    hold(&b, 7, EVER);
    let reply = send(b.upstream, Method::GET, "/fields", &[], "").await;
    assert!(String::from_utf8_lossy(&reply.body).contains("hearth-term: 7"));
    lose(&b);
    let reply = send(b.upstream, Method::GET, "/fields", &[], "").await;
    assert!(reply.status.is_server_error(), "{}", reply.status);
    assert_eq!(app.seen(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_when_the_lease_ends_is_cut_and_told_as_possibly_executed() {
    let (a, b, app) = pair(7, 7, EVER).await;
    let asked = tokio::spawn(send(a.upstream, Method::POST, "/hang", &[], "x"));
    tokio::time::timeout(SOON, async {
        while app.seen() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    lose(&b);
    let reply = asked.await.unwrap();
    let status = reply.headers["proxy-status"].to_str().unwrap();
    assert_eq!(reply.status, 502, "{status}");
    assert!(status.contains("ended while it was under way"), "{status}");
    assert_eq!(fenced(&b, "lease_over"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_cut_when_the_lease_is_over_by_the_clock_though_no_snapshot_says_so() {
    let authority = Authority::new("mesh.example");
    let listener = TcpListener::bind(loopback(0)).await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    let a = Host::over(Agent::start(&authority, "a"), None, Protocol::Tcp).await;
    let b = Host::over(Agent::start(&authority, "b"), Some(app), Protocol::Tcp).await;
    b.route(&[], policy());
    // The clock of the test's agents starts with them.
    hold(&b, 7, Time(3_000_000));
    route(&a, &b, Protocol::Tcp, 7);
    let mut client = TcpStream::connect(a.upstream).await.unwrap();
    client.write_all(b"x").await.unwrap();
    let mut echoed = [0; 1];
    tokio::time::timeout(SOON, client.read_exact(&mut echoed)).await.unwrap().unwrap();
    let ended = tokio::time::timeout(SOON, client.read(&mut echoed)).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    assert_eq!(fenced(&b, "lease_over"), 1);
}
