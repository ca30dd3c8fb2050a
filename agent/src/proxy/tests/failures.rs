//! What fails, and what the client sees of it.

use std::time::{Duration, Instant};

use hearth_proto::advert::Condition;
use hearth_proto::evidence::{EndpointEvidence, Outcome};
use hearth_proto::ids::EndpointId;
use hearth_proto::policy::{Hedge, ServicePolicy};
use hearth_proto::route::Choice;
use hearth_proto::time::{Span, Time};
use http::Method;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::mesh::{App, Host, endpoint, get, plain, send};
use crate::driver::PathReport;
use crate::identity::authority::Authority;
use crate::link::tests::{loopback, until};

/// A caller `a` with two owners.
struct Mesh {
    a: Host,
    b: Host,
    c: Host,
    app_b: App,
    app_c: App,
}

async fn mesh() -> Mesh {
    let authority = Authority::new("mesh.example");
    let (app_b, app_c) = (App::start("b").await, App::start("c").await);
    let a = Host::start(&authority, "a", None).await;
    let b = Host::start(&authority, "b", Some(app_b.address)).await;
    let c = Host::start(&authority, "c", Some(app_c.address)).await;
    a.route(&[("b", b.agent.address), ("c", c.agent.address)], plain());
    Mesh { a, b, c, app_b, app_c }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_request_goes_to_the_next_endpoint_whatever_its_method() {
    for method in [Method::GET, Method::POST] {
        let m = mesh().await;
        m.app_b.kill().await;
        let mut b = m.b;
        // Whom a request meets first is drawn.
        let mut sent = 0;
        while m.a.retries("app_refused") == 0 {
            let reply = send(m.a.upstream, method.clone(), "/", &[], "x").await;
            assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &b"c"[..]));
            sent += 1;
            assert!(sent < 200, "b was never asked");
        }
        let told = tokio::time::timeout(Duration::from_secs(5), b.reports.recv()).await.unwrap();
        let refused = |e: &EndpointId| *e == endpoint("b");
        assert!(matches!(told, Some(PathReport::LocalRefused { endpoint: e }) if refused(&e)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_does_not_serve_sends_the_request_elsewhere_unharmed() {
    let m = mesh().await;
    m.b.condition(Condition::Draining);
    let big = vec![3; 400_000];
    for _ in 0..10 {
        // Longer than is kept: only an untouched body can be sent elsewhere.
        let reply = send(m.a.upstream, Method::POST, "/echo", &[], big.clone()).await;
        assert_eq!(reply.status, 200);
        assert!(reply.body == big);
    }
    assert_eq!(m.app_b.seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_not_there_costs_no_request() {
    let m = mesh().await;
    let deaf = std::net::UdpSocket::bind(loopback(0)).unwrap();
    m.a.route(&[("b", deaf.local_addr().unwrap()), ("c", m.c.agent.address)], plain());
    for _ in 0..5 {
        let reply = send(m.a.upstream, Method::POST, "/echo", &[], "x").await;
        assert_eq!(reply.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_safe_request_is_hedged_when_an_application_hangs() {
    let authority = Authority::new("mesh.example");
    let app = App::start("c").await;
    let a = Host::start(&authority, "a", None).await;
    // Accepts connections and says nothing.
    let mute = tokio::net::TcpListener::bind(loopback(0)).await.unwrap();
    let b = Host::start(&authority, "b", Some(mute.local_addr().unwrap())).await;
    let c = Host::start(&authority, "c", Some(app.address)).await;
    let hedged = ServicePolicy { hedge: Hedge::After(Span(Duration::from_millis(40))), ..plain() };
    a.route(&[("b", b.agent.address), ("c", c.agent.address)], hedged);
    // Whom a request meets first is drawn.
    let mut sent = 0;
    while a.retries("hedge") == 0 {
        let reply = get(a.upstream, "/").await;
        assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &b"c"[..]));
        sent += 1;
        assert!(sent < 200, "b was never asked");
    }
}

/// Asks for `path` until a hedge overtakes `b`; what `a` was told of `b` then, within a second.
async fn told_of_the_overtaken(m: &mut Mesh, path: &str) -> Vec<Outcome> {
    let hedged = ServicePolicy { hedge: Hedge::After(Span(Duration::from_millis(40))), ..plain() };
    m.a.route(&[("b", m.b.agent.address), ("c", m.c.agent.address)], hedged);
    // Whom a request meets first is drawn. What a busy machine held up itself is held against nobody.
    for _ in 0..100 {
        // What is usual here is quick, and hedges are earned.
        for _ in 0..100 {
            assert_eq!(get(m.a.upstream, "/").await.status, 200);
        }
        assert_eq!(get(m.a.upstream, path).await.status, 200);
        let mut told = Vec::new();
        while let Ok(report) =
            tokio::time::timeout(Duration::from_secs(1), m.a.reports.recv()).await
        {
            let Some(PathReport::Outcome { endpoint: e, outcome }) = report else { continue };
            told.extend((e == endpoint("b")).then_some(outcome));
        }
        if told.first() == Some(&Outcome::TimedOut) {
            return told;
        }
    }
    panic!("b was never overtaken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_overtaken_and_answers_late_was_only_late() {
    let mut m = mesh().await;
    let told = told_of_the_overtaken(&mut m, "/slow/b").await;
    assert!(
        matches!(told[..], [Outcome::TimedOut, Outcome::Answered { latency }]
            if latency >= Duration::from_millis(300)),
        "{told:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_overtaken_and_never_answers_is_given_up() {
    let mut m = mesh().await;
    let told = told_of_the_overtaken(&mut m, "/hang/b").await;
    assert_eq!(told, [Outcome::TimedOut]);
    until("the application's request to be dropped", || match m.app_b.dropped() {
        0 => Err(0),
        _ => Ok(()),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_applications_error_is_counted_against_its_endpoint_and_reported_as_no_failure() {
    let mut m = mesh().await;
    m.a.route(&[("b", m.b.agent.address)], plain());
    assert!(m.a.proxy.samples().is_empty());
    for (path, status) in [("/", 200), ("/wrong", 500), ("/", 200), ("/wrong", 500)] {
        assert_eq!(get(m.a.upstream, path).await.status, status);
    }
    let samples = m.a.proxy.samples();
    let [(id, sample)] = &samples[..] else { panic!("{samples:?}") };
    assert_eq!(*id, endpoint("b"));
    assert_eq!((sample.failed, sample.volume()), (2, 4));
    assert!(m.a.reports.try_recv().is_err(), "it counts for gray failure only");
    assert!(m.a.proxy.samples().is_empty(), "each answer is told once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_in_time_is_a_504_and_evidence() {
    let mut m = mesh().await;
    let short = ServicePolicy { timeout: Span(Duration::from_millis(400)), ..plain() };
    m.a.route(&[("b", m.b.agent.address)], short);
    // What a machine that is busy otherwise held up itself is no evidence: then it is asked again.
    let mut asked = 0;
    let report = loop {
        let started = Instant::now();
        let reply = send(m.a.upstream, Method::POST, "/hang", &[], "x").await;
        assert_eq!(reply.status, 504);
        assert!(started.elapsed() < Duration::from_secs(3));
        let status = reply.headers["proxy-status"].to_str().unwrap();
        assert!(status.contains("http_response_timeout"), "{status}");
        let report = tokio::time::timeout(Duration::from_millis(200), m.a.reports.recv()).await;
        asked += 1;
        match report {
            Ok(report) => break report,
            Err(_) => assert!(asked < 50, "it is never evidence"),
        }
    };
    let Some(PathReport::Outcome { endpoint: e, outcome }) = report else { panic!("{report:?}") };
    assert_eq!((e, outcome), (endpoint("b"), Outcome::TimedOut));
    until("the application's request to be dropped", || match m.app_b.dropped() {
        0 => Err(0),
        _ => Ok(()),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_starved_data_thread_judges_is_held_against_nobody_and_counted() {
    let mut m = mesh().await;
    let short = ServicePolicy { timeout: Span(Duration::from_millis(400)), ..plain() };
    m.a.route(&[("b", m.b.agent.address)], short);
    assert_eq!(get(m.a.upstream, "/").await.status, 200);
    assert_eq!(m.a.metrics.excused.get(), 0);
    m.a.proxy.inner.pulses.kept_waiting(Duration::from_secs(2));
    let reply = send(m.a.upstream, Method::POST, "/hang", &[], "x").await;
    assert_eq!(reply.status, 504);
    assert!(m.a.reports.try_recv().is_err());
    assert_eq!(m.a.metrics.excused.get(), 1);
}

const POST: &str = "POST /hang HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx";
const GET: &str = "GET /hang HTTP/1.1\r\nhost: x\r\n\r\n";
/// Not plain: hyper's, and the race's from the start.
const CHUNKED: &str =
    "POST /hang HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
/// Longer than a hedge waits while little is known.
const GIVES_UP: Duration = Duration::from_millis(300);

impl Mesh {
    /// How many clients left before their answer, as `a` counts them.
    fn left(&self) -> u64 {
        let labels = [("service", "ledger".to_owned()), ("outcome", "left".to_owned())];
        self.a.metrics.requests.get_or_create(&labels).get()
    }

    /// A client that leaves `after` its request has reached the application; returns once that was counted.
    async fn leaves(&self, request: &str, after: Duration) {
        let (left, seen) = (self.left(), self.app_b.seen());
        let mut client = TcpStream::connect(self.a.upstream).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        until("the request to arrive", || match self.app_b.seen() {
            n if n > seen => Ok(()),
            n => Err(n),
        })
        .await;
        tokio::time::sleep(after).await;
        drop(client);
        until("a client that left", || match self.left() {
            n if n > left => Ok(()),
            n => Err(n),
        })
        .await;
        assert_eq!(self.left(), left + 1, "counted once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_hangs_is_ejected_though_its_clients_give_up_first() {
    let hedged = ServicePolicy { hedge: Hedge::After(Span(Duration::from_millis(40))), ..plain() };
    for (request, policy) in [(POST, plain()), (CHUNKED, plain()), (GET, hedged)] {
        let mut m = mesh().await;
        m.a.route(&[("b", m.b.agent.address)], policy);
        let (began, mut evidence) = (Instant::now(), EndpointEvidence::default());
        let mut ejected = false;
        // What a machine that is busy otherwise held up itself is no evidence.
        for _ in 0..50 {
            m.leaves(request, GIVES_UP).await;
            while let Ok(report) = m.a.reports.try_recv() {
                let PathReport::Outcome { endpoint: e, outcome } = report else { continue };
                assert_eq!((e, outcome), (endpoint("b"), Outcome::TimedOut));
                let now = Time(u64::try_from(began.elapsed().as_micros()).unwrap());
                ejected |= evidence.observe(outcome, now, 0.5, true);
            }
            if ejected {
                break;
            }
        }
        assert!(ejected, "{request:?} is never evidence");
        let samples = m.a.proxy.samples();
        assert!(samples.iter().any(|(id, s)| *id == endpoint("b") && s.failed > 0), "{samples:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_before_an_answer_was_due_is_counted_and_blames_nobody() {
    for request in [POST, CHUNKED, GET] {
        let mut m = mesh().await;
        m.a.route(&[("b", m.b.agent.address)], plain());
        // The links stand; whatever is measured is the application's.
        assert_eq!(get(m.a.upstream, "/").await.status, 200);
        let mut tries = 0;
        loop {
            let started = Instant::now();
            m.leaves(request, Duration::ZERO).await;
            // On a machine that is busy otherwise it may have been due already.
            if started.elapsed() < GIVES_UP / 2 {
                break;
            }
            while m.a.reports.try_recv().is_ok() {}
            tries += 1;
            assert!(tries < 50, "this machine is too busy");
        }
        assert!(m.a.reports.try_recv().is_err(), "{request:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unsafe_request_that_broke_within_is_a_502_and_is_not_repeated() {
    let m = mesh().await;
    m.a.route(&[("b", m.b.agent.address)], plain());
    let call = tokio::spawn({
        let to = m.a.upstream;
        async move { send(to, Method::POST, "/hang", &[], "x").await }
    });
    until("the request to arrive", || match m.app_b.seen() {
        0 => Err(0),
        _ => Ok(()),
    })
    .await;
    m.a.route(&[("b", m.b.agent.address), ("c", m.c.agent.address)], plain());
    m.app_b.kill().await;
    let reply = call.await.unwrap();
    assert_eq!(reply.status, 502);
    let text = String::from_utf8(reply.body.to_vec()).unwrap();
    assert!(text.contains("not idempotent") && text.contains("ledger@b"), "{text}");
    assert_eq!(m.app_c.seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_safe_request_that_broke_within_is_repeated_elsewhere() {
    let m = mesh().await;
    m.a.route(&[("b", m.b.agent.address)], plain());
    let call = tokio::spawn({
        let to = m.a.upstream;
        async move { get(to, "/slow").await }
    });
    until("the request to arrive", || match m.app_b.seen() {
        0 => Err(0),
        _ => Ok(()),
    })
    .await;
    m.a.route(&[("b", m.b.agent.address), ("c", m.c.agent.address)], plain());
    m.app_b.kill().await;
    let reply = call.await.unwrap();
    assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &b"c"[..]));
    assert_eq!(m.a.retries("app_broke"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_dies_with_a_request_moves_it() {
    let m = mesh().await;
    m.a.route(&[("b", m.b.agent.address)], plain());
    let call = tokio::spawn({
        let to = m.a.upstream;
        async move { get(to, "/slow").await }
    });
    until("the request to arrive", || match m.app_b.seen() {
        0 => Err(0),
        _ => Ok(()),
    })
    .await;
    m.a.route(&[("b", m.b.agent.address), ("c", m.c.agent.address)], plain());
    m.b.agent.links.close().await;
    let reply = call.await.unwrap();
    assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &b"c"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_application_s_503_goes_elsewhere_and_is_passed_on_when_all_are_busy() {
    let m = mesh().await;
    let reply = get(m.a.upstream, "/busy").await;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.headers["retry-after"], "1");
    assert!(!reply.headers.contains_key("proxy-status"));
    assert_eq!((m.app_b.seen(), m.app_c.seen()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_known_is_a_503_at_once_with_the_reason() {
    let m = mesh().await;
    m.a.choose(&[], plain(), |_| Choice::Nobody);
    let started = Instant::now();
    let reply = get(m.a.upstream, "/").await;
    assert_eq!(reply.status, 503);
    assert!(started.elapsed() < Duration::from_secs(1));
    let status = reply.headers["proxy-status"].to_str().unwrap();
    assert!(
        status.contains("destination_unavailable") && status.contains("set by the test"),
        "{status}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_refuse_the_request_waits_for_the_routes_to_change() {
    let m = mesh().await;
    m.app_b.kill().await;
    m.a.route(&[("b", m.b.agent.address)], plain());
    let call = tokio::spawn({
        let to = m.a.upstream;
        async move { send(to, Method::POST, "/", &[], "x").await }
    });
    let mut a = m.a;
    // The refusal first, then the call for help.
    let mut seen = Vec::new();
    while !seen.iter().any(|r: &PathReport| matches!(r, PathReport::NeedWake { .. })) {
        let report = tokio::time::timeout(Duration::from_secs(5), a.reports.recv()).await;
        seen.push(report.unwrap_or_else(|_| panic!("saw {seen:?}")).unwrap());
    }
    assert!(!call.is_finished());
    a.route(&[("b", m.b.agent.address), ("c", m.c.agent.address)], plain());
    let reply = call.await.unwrap();
    assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &b"c"[..]));
}
