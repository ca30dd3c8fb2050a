//! The verdict as a table, and real applications on loopback.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::process::tests::{PidFile, Sleeper};

fn verdicts(fall: u32, rise: u32, results: &str) -> String {
    let mut state = CheckState::new(fall, rise);
    results
        .chars()
        .map(|c| match state.observe(c == '+') {
            Some(Change::Healthy) => 'H',
            Some(Change::Unhealthy) => 'U',
            None => '.',
        })
        .collect()
}

#[test]
fn fall_failures_in_a_row_make_unhealthy_and_rise_successes_healthy() {
    for (fall, rise, results, expected) in [
        (2, 1, "+-+--+", "H...UH"),
        (1, 1, "+-+-", "HUHU"),
        (3, 2, "++--+---+-++", ".H.....U...H"),
        (2, 1, "-", "U"),
        (2, 3, "++-++-+++", "..U.....H"),
        (0, 0, "+-", "HU"),
    ] {
        assert_eq!(verdicts(fall, rise, results), expected, "{fall} {rise} {results}");
    }
}

#[test]
fn a_refusal_is_unhealthy_at_once_and_successes_bring_it_back() {
    let mut state = CheckState::new(2, 2);
    state.observe(true);
    assert_eq!(state.observe(true), Some(Change::Healthy));
    state.refused();
    assert!(!state.is_healthy());
    assert_eq!(state.observe(true), None);
    assert_eq!(state.observe(true), Some(Change::Healthy));
}

/// An application whose status code can be set; 0 is silence.
async fn application(status: Arc<AtomicU16>, asked: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let (status, asked) = (status.clone(), asked.clone());
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                let n = tcp.read(&mut buffer).await.unwrap_or(0);
                assert!(buffer[..n].starts_with(b"GET /up HTTP/1.1\r\n"));
                asked.fetch_add(1, Ordering::SeqCst);
                match status.load(Ordering::SeqCst) {
                    0 => tokio::time::sleep(Duration::from_secs(60)).await,
                    code => {
                        let head = format!("HTTP/1.1 {code} X\r\ncontent-length: 2\r\n\r\nhi");
                        tcp.write_all(head.as_bytes()).await.unwrap();
                    }
                }
            });
        }
    });
    address
}

fn endpoint(address: SocketAddr, kind: CheckKind, fall: u32) -> Endpoint {
    let interval = Duration::from_millis(10);
    Endpoint {
        service: ServiceName::parse("ledger").unwrap(),
        instance: 2,
        address: address.into(),
        role: hearth_proto::advert::Role::Hot,
        protocol: hearth_proto::advert::Protocol::Http,
        http: HttpVersion::One,
        pid_file: None,
        check: Check { kind, interval, timeout: Duration::from_millis(50), fall, rise: 1 },
        activate: None,
        deactivate: None,
        attempts: 1,
        activation_deadline: Duration::from_secs(10),
        warm_up: None,
        weight: 100,
    }
}

async fn next(events: &mut mpsc::Receiver<CheckEvent>) -> CheckEvent {
    let event = tokio::time::timeout(Duration::from_secs(10), events.recv()).await;
    event.expect("no event within 10 s").expect("the check ended")
}

#[tokio::test]
async fn an_http_check_follows_the_application() {
    let (status, asked) = (Arc::new(AtomicU16::new(204)), Arc::default());
    let address = application(status.clone(), asked).await;
    let (events, mut inbox) = mpsc::channel(4);
    let kind = CheckKind::Http { path: "/up".into() };
    let checker = Checker::start(&endpoint(address, kind, 2), events);
    let up = next(&mut inbox).await;
    assert!(up.healthy && up.instance == 2, "{up:?}");
    assert!(up.detail.starts_with("GET /up answered 204 in "), "{up:?}");
    status.store(503, Ordering::SeqCst);
    let down = next(&mut inbox).await;
    assert_eq!((down.healthy, down.detail), (false, format!("{address}: GET /up answered 503")));
    checker.check_now();
    assert!(!next(&mut inbox).await.healthy, "an answer, though nothing changed");
    status.store(302, Ordering::SeqCst);
    assert!(next(&mut inbox).await.healthy);
    status.store(0, Ordering::SeqCst);
    assert_eq!(next(&mut inbox).await.detail, format!("{address}: no answer within 50ms"));
}

#[tokio::test]
async fn a_refusal_seen_elsewhere_is_followed_by_a_healthy_event() {
    let (status, asked) = (Arc::new(AtomicU16::new(200)), Arc::default());
    let address = application(status, asked).await;
    let (events, mut inbox) = mpsc::channel(4);
    let kind = CheckKind::Http { path: "/up".into() };
    let checker = Checker::start(&endpoint(address, kind, 2), events);
    assert!(next(&mut inbox).await.healthy);
    checker.refused();
    assert!(next(&mut inbox).await.healthy);
}

#[tokio::test]
async fn a_tcp_check_sees_a_closed_port_and_ends_with_its_checker() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (events, mut inbox) = mpsc::channel(4);
    let checker = Checker::start(&endpoint(address, CheckKind::Tcp, 1), events);
    assert!(next(&mut inbox).await.detail.starts_with("connected in "));
    drop(listener);
    let down = next(&mut inbox).await;
    let expected = format!("{address}: cannot connect: Connection refused (os error 111)");
    assert_eq!(down.detail, expected);
    drop(checker);
    let end = tokio::time::timeout(Duration::from_secs(10), inbox.recv()).await;
    assert_eq!(end.expect("the task outlives its checker"), None);
}

/// An HTTP/2 server that answers every request with this body.
async fn multiplexed(says: &'static [u8], path: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let io = hyper_util::rt::TokioIo::new(listener.accept().await.unwrap().0);
            let service = hyper::service::service_fn(move |request: Request<_>| async move {
                let _: &hyper::body::Incoming = request.body();
                assert_eq!(request.uri().path(), path);
                hyper::Result::Ok(http::Response::new(Full::new(Bytes::from_static(says))))
            });
            let executor = hyper_util::rt::TokioExecutor::new();
            let server = hyper::server::conn::http2::Builder::new(executor);
            tokio::spawn(server.serve_connection(io, service));
        }
    });
    address
}

#[tokio::test]
async fn a_grpc_check_wants_the_word_serving() {
    const PATH: &str = "/grpc.health.v1.Health/Check";
    for (says, healthy, detail) in [
        (&[0, 0, 0, 0, 2, 8, 1][..], true, "health answered SERVING"),
        (&[0, 0, 0, 0, 2, 8, 2][..], false, "health answered, but not SERVING"),
        (&[][..], false, "health answered 200 without a message; is it registered?"),
    ] {
        let address = multiplexed(says, PATH).await;
        let (events, mut inbox) = mpsc::channel(4);
        let mut endpoint = endpoint(address, CheckKind::Grpc, 1);
        endpoint.http = HttpVersion::Two;
        endpoint.check.timeout = Duration::from_secs(10);
        let _checker = Checker::start(&endpoint, events);
        let event = next(&mut inbox).await;
        assert_eq!((event.healthy, event.detail.contains(detail)), (healthy, true), "{event:?}");
    }
}

#[tokio::test]
async fn an_http_check_speaks_the_version_that_its_endpoint_speaks() {
    let address = multiplexed(b"fine", "/up").await;
    let (events, mut inbox) = mpsc::channel(4);
    let mut endpoint = endpoint(address, CheckKind::Http { path: "/up".into() }, 1);
    endpoint.http = HttpVersion::Two;
    endpoint.check.timeout = Duration::from_secs(10);
    let _checker = Checker::start(&endpoint, events);
    assert!(next(&mut inbox).await.healthy);
}

#[tokio::test]
async fn a_udp_check_sees_a_closed_port() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let (events, mut inbox) = mpsc::channel(4);
    let mut endpoint = endpoint(address, CheckKind::Udp, 1);
    endpoint.check.timeout = Duration::from_secs(10);
    let _checker = Checker::start(&endpoint, events);
    assert!(next(&mut inbox).await.healthy);
    drop(socket);
    let down = next(&mut inbox).await;
    assert!(!down.healthy && down.detail.contains("refused"), "{down:?}");
}

#[test]
fn after_a_break_one_failure_is_enough_and_a_success_forgets_it() {
    let mut state = CheckState::new(3, 1);
    state.suspected();
    assert_eq!(
        state.observe(true),
        Some(Change::Healthy),
        "it says nothing before the first verdict"
    );
    state.suspected();
    assert_eq!(state.observe(true), None);
    assert_eq!((state.observe(false), state.observe(false)), (None, None));
    state.observe(true);
    state.suspected();
    assert_eq!(state.observe(false), Some(Change::Unhealthy));
}

/// An endpoint that is checked so seldom that only signs count.
fn seldom(address: SocketAddr) -> Endpoint {
    let mut endpoint = endpoint(address, CheckKind::Tcp, 3);
    endpoint.check.interval = Duration::from_secs(3600);
    endpoint
}

#[tokio::test]
async fn an_application_that_broke_off_and_is_gone_is_unhealthy_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (events, mut inbox) = mpsc::channel(4);
    let checker = Checker::start(&seldom(listener.local_addr().unwrap()), events);
    assert!(next(&mut inbox).await.healthy);
    drop(listener);
    checker.suspected();
    assert!(!next(&mut inbox).await.healthy);
}

#[tokio::test]
async fn an_application_that_was_stopped_is_unhealthy_until_a_later_check_however_long_it_answers_on()
 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (events, mut inbox) = mpsc::channel(4);
    let checker = Checker::start(&seldom(listener.local_addr().unwrap()), events);
    assert!(next(&mut inbox).await.healthy);
    checker.stopper().stopped().await;
    let stopped = next(&mut inbox).await;
    assert!(!stopped.healthy && stopped.detail == "it was stopped", "{stopped:?}");
    assert!(inbox.try_recv().is_err(), "it is not asked until it is due or was ordered");
    checker.check_now();
    assert!(next(&mut inbox).await.healthy);
}

#[tokio::test]
async fn an_application_whose_process_ended_is_unhealthy_at_once_until_it_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (file, mut app) = (PidFile::new(), Sleeper::start());
    file.write(app.pid());
    let mut endpoint = seldom(listener.local_addr().unwrap());
    endpoint.pid_file = Some(file.0.clone());
    let (events, mut inbox) = mpsc::channel(4);
    let _checker = Checker::start(&endpoint, events);
    assert!(next(&mut inbox).await.healthy);
    app.kill();
    let gone = next(&mut inbox).await;
    assert_eq!((gone.healthy, gone.detail), (false, format!("its process {} ended", app.pid())));
    // Somebody else listens there: the supervisor was quick.
    assert!(next(&mut inbox).await.healthy);
}
