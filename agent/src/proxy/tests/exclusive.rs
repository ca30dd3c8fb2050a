//! Requests to an exclusive service: only under the lease, and the application reads under which.

use std::time::Duration;

use hearth_proto::policy::{Exclusive, Mode, ServicePolicy};
use hearth_proto::route::{Choice, HeldLease};
use hearth_proto::time::{Span, Time};
use http::Method;

use super::mesh::{App, Host, endpoint, ledger, plain, send};
use crate::identity::authority::Authority;
use crate::link::tests::name;

const EVER: Time = Time(u64::MAX);

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

/// `a` calls `b` under `routed`; `b` holds the lease under `held` until `until`.
async fn pair(routed: u64, held: u64, until: Time) -> (Host, Host, App) {
    let authority = Authority::new("mesh.example");
    let app = App::start("b").await;
    let a = Host::start(&authority, "a", None).await;
    let b = Host::start(&authority, "b", Some(app.address)).await;
    b.route(&[], policy());
    b.publish(|s| {
        s.leases.insert(ledger(), HeldLease { endpoint: endpoint("b"), term: held, until });
    });
    a.route(&[("b", b.agent.address)], policy());
    let mut candidates = a.candidates();
    candidates[0].term = Some(routed);
    a.put(candidates, policy(), Choice::Serve);
    (a, b, app)
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
    for (routed, held, until) in [(7, 7, Time(0)), (6, 7, EVER), (8, 7, EVER)] {
        let (a, _b, app) = pair(routed, held, until).await;
        let reply = send(a.upstream, Method::POST, "/echo", &[], "x").await;
        assert!(reply.status.is_server_error(), "{routed} {held}: {}", reply.status);
        let status = reply.headers["proxy-status"].to_str().unwrap();
        assert!(status.contains("lease") || status.contains("term"), "{status}");
        assert_eq!(app.seen(), 0, "{routed} {held}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_holds_no_lease_accepts_nothing_though_it_serves_by_its_condition() {
    let (a, b, app) = pair(7, 7, EVER).await;
    b.publish(|s| s.leases.clear());
    let reply = send(a.upstream, Method::GET, "/", &[], "").await;
    assert!(reply.status.is_server_error());
    assert_eq!(app.seen(), 0);
}
