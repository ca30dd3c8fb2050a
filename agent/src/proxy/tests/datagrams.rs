//! Sessions of datagrams: one endpoint for the life of a session, another when that one is out.

use std::net::SocketAddr;
use std::time::Duration;

use hearth_proto::advert::Protocol;
use hearth_proto::route::Choice;
use http::Method;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::mesh::{Host, ledger, plain, send};
use crate::identity::authority::Authority;
use crate::link::tests::{Agent, loopback, until};
use crate::proxy::UdpEntry;

/// Answers with its name, the sender's port and what came. `many` is answered a hundred times.
async fn app(name: &'static str) -> (SocketAddr, JoinHandle<()>) {
    let socket = UdpSocket::bind(loopback(0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut buffer = vec![0; 65_535];
        loop {
            let (n, from) = socket.recv_from(&mut buffer).await.unwrap();
            let said = String::from_utf8_lossy(&buffer[..n.min(8)]).into_owned();
            let times = if said == "many" { 100 } else { 1 };
            for _ in 0..times {
                let answer = format!("{name} {} {n} {said}", from.port());
                socket.send_to(answer.as_bytes(), from).await.unwrap();
            }
        }
    });
    (address, task)
}

async fn udp_host(authority: &Authority, node: &str, app: SocketAddr) -> Host {
    Host::over(Agent::start(authority, node), Some(app), Protocol::Udp).await
}

fn lead(host: &Host, to: &[&Host], choice: impl FnOnce(Vec<usize>) -> Choice) {
    let to: Vec<_> = to.iter().map(|h| (h.agent.name.as_str(), h.agent.address)).collect();
    host.route(&to, plain());
    let mut candidates = host.candidates();
    candidates.iter_mut().for_each(|c| c.protocol = Protocol::Udp);
    host.put(candidates, plain(), choice);
}

async fn port(host: &Host, idle: Duration) -> SocketAddr {
    let entry = UdpEntry { service: ledger(), idle };
    host.proxy.listen_udp(loopback(0), entry).unwrap()
}

async fn client(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(loopback(0)).await.unwrap();
    socket.connect(to).await.unwrap();
    socket
}

/// Sends until an answer comes: a datagram may be lost while a session moves.
async fn ask(socket: &UdpSocket, what: &[u8]) -> String {
    let mut buffer = vec![0; 65_535];
    for _ in 0..200 {
        socket.send(what).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_millis(250), socket.recv(&mut buffer));
        if let Ok(Ok(n)) = answer.await {
            return String::from_utf8(buffer[..n].to_vec()).unwrap();
        }
    }
    panic!("no answer to {:?}", String::from_utf8_lossy(what));
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_keeps_its_endpoint_and_its_own_socket_there() {
    let authority = Authority::new("mesh.example");
    let ((app_b, _tb), (app_c, _tc)) = (app("b").await, app("c").await);
    let a = Host::start(&authority, "a", None).await;
    let (b, c) = (udp_host(&authority, "b", app_b).await, udp_host(&authority, "c", app_c).await);
    lead(&a, &[&b, &c], Choice::Serve);
    let port = port(&a, LONG).await;
    let mut sockets = std::collections::BTreeSet::new();
    for _ in 0..8 {
        let client = client(port).await;
        let first = ask(&client, b"x").await;
        for _ in 0..5 {
            assert_eq!(ask(&client, b"x").await, first);
        }
        sockets.insert(first);
    }
    assert_eq!(sockets.len(), 8, "each session is a sender of its own: {sockets:?}");
    assert_eq!(a.metrics.udp_sessions.get(), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_of_every_size_and_many_answers_to_one_come_through() {
    let authority = Authority::new("mesh.example");
    let (app_b, _task) = app("b").await;
    let a = Host::start(&authority, "a", None).await;
    let b = udp_host(&authority, "b", app_b).await;
    // From another host, and on the same one.
    for caller in [&a, &b] {
        lead(caller, &[&b], Choice::Serve);
        let client = client(port(caller, LONG).await).await;
        for size in [0, 1, 1_472, 20_000, 65_507] {
            let answer = ask(&client, &vec![b'y'; size]).await;
            assert_eq!(answer.split(' ').nth(2), Some(size.to_string().as_str()), "{answer}");
        }
        client.send(b"many").await.unwrap();
        let mut buffer = [0; 256];
        let mut come = 0;
        while come < 100 {
            let n = tokio::time::timeout(Duration::from_secs(20), client.recv(&mut buffer)).await;
            let n = n.unwrap_or_else(|_| panic!("answer {come} is missing")).unwrap();
            // A question that was asked twice may have a second answer.
            come += usize::from(buffer[..n].ends_with(b"4 many"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_moves_when_the_routes_leave_its_endpoint_or_its_application_is_gone() {
    let authority = Authority::new("mesh.example");
    let ((app_b, task_b), (app_c, _tc)) = (app("b").await, app("c").await);
    let a = Host::start(&authority, "a", None).await;
    let (b, c) = (udp_host(&authority, "b", app_b).await, udp_host(&authority, "c", app_c).await);
    lead(&a, &[&b, &c], |_| Choice::Serve(vec![0]));
    let client = client(port(&a, LONG).await).await;
    assert!(ask(&client, b"x").await.starts_with("b "));
    lead(&a, &[&b, &c], |_| Choice::Serve(vec![1]));
    until("the session to be with c", || match a.metrics.udp_sessions.get() {
        1 => Ok(()),
        n => Err(n),
    })
    .await;
    for _ in 0..100 {
        if ask(&client, b"x").await.starts_with("c ") {
            break;
        }
    }
    assert!(ask(&client, b"x").await.starts_with("c "));
    // Back to b, whose application then dies: the routes do not know it yet.
    lead(&a, &[&b, &c], |_| Choice::Serve(vec![0]));
    for _ in 0..100 {
        if ask(&client, b"x").await.starts_with("b ") {
            break;
        }
    }
    lead(&a, &[&b, &c], Choice::Serve);
    assert!(ask(&client, b"x").await.starts_with("b "), "it stays while its endpoint may serve");
    task_b.abort();
    for _ in 0..100 {
        if ask(&client, b"x").await.starts_with("c ") {
            return;
        }
    }
    panic!("the session never moved");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_when_nothing_is_said_and_with_its_port() {
    let authority = Authority::new("mesh.example");
    let (app_b, _task) = app("b").await;
    let a = Host::start(&authority, "a", None).await;
    let b = udp_host(&authority, "b", app_b).await;
    lead(&a, &[&b], Choice::Serve);
    let none = || match a.metrics.udp_sessions.get() {
        0 => Ok(()),
        n => Err(n),
    };
    let short = client(port(&a, Duration::from_millis(50)).await).await;
    let first = ask(&short, b"x").await;
    until("the idle session to end", none).await;
    assert_ne!(ask(&short, b"x").await, first, "a new session is a new sender");
    until("it to end as well", none).await;
    let long = port(&a, LONG).await;
    ask(&client(long).await, b"x").await;
    assert_eq!(a.metrics.udp_sessions.get(), 1);
    a.proxy.close_udp(long);
    until("the port's sessions to end", none).await;
    let again = UdpSocket::bind(long).await;
    assert!(again.is_ok(), "the port is free: {again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_to_a_service_of_datagrams_is_told_what_it_speaks() {
    let authority = Authority::new("mesh.example");
    let (app_b, _task) = app("b").await;
    let a = Host::start(&authority, "a", None).await;
    let b = udp_host(&authority, "b", app_b).await;
    lead(&a, &[&b], Choice::Serve);
    let reply = send(a.shared, Method::GET, "/", &[("host", "ledger")], "").await;
    assert_eq!(reply.status, 400);
    assert!(String::from_utf8_lossy(&reply.body).contains("speaks in datagrams (udp)"));
}
