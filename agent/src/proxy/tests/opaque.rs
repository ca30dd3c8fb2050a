//! Connections carried as opaque bytes: their ends, their limits, and clients that do not wait.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use hearth_proto::advert::{Condition, Protocol};
use hearth_proto::policy::{Ceiling, ServicePolicy};
use hearth_proto::route::Choice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::mesh::{Host, plain};
use crate::identity::authority::Authority;
use crate::link::tests::{Agent, loopback, until};
use crate::proxy::Entry;

const LIMIT: Duration = Duration::from_secs(10);

/// An application that greets, and how each of its connections ended.
async fn application() -> (SocketAddr, mpsc::UnboundedReceiver<Result<usize, ErrorKind>>) {
    let listener = TcpListener::bind(loopback(0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, ends) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let told = told.clone();
            tokio::spawn(async move {
                let mut said = Vec::new();
                let end = match stream.write_all(b"hello").await {
                    Ok(()) => stream.read_to_end(&mut said).await,
                    Err(error) => Err(error),
                };
                let _ = told.send(end.map_err(|e| e.kind()));
            });
        }
    });
    (address, ends)
}

/// A host whose service is opaque and on itself.
async fn alone(app: SocketAddr, policy: ServicePolicy) -> Host {
    let authority = Authority::new("mesh.example");
    let host = Host::over(Agent::start(&authority, "a"), Some(app), Protocol::Tcp).await;
    opaque(&host, &[("a", host.agent.address)], policy);
    host
}

fn opaque(host: &Host, to: &[(&str, SocketAddr)], policy: ServicePolicy) {
    host.route(to, policy.clone());
    let mut candidates = host.candidates();
    candidates.iter_mut().for_each(|c| c.protocol = Protocol::Tcp);
    host.put(candidates, policy, Choice::Serve);
}

async fn greeted(to: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let mut hello = [0; 5];
    let read = tokio::time::timeout(LIMIT, stream.read_exact(&mut hello)).await;
    read.expect("a greeting in time").unwrap();
    stream
}

fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
    drop(stream);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_breaks_off_is_not_whole_for_an_application_of_its_host() {
    let (app, mut ends) = application().await;
    let a = alone(app, plain()).await;
    let mut stream = greeted(a.upstream).await;
    stream.write_all(b"half of it").await.unwrap();
    reset(stream);
    let end = tokio::time::timeout(LIMIT, ends.recv()).await.expect("an end").unwrap();
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
    // And what ends in good order still does.
    let mut stream = greeted(a.upstream).await;
    stream.write_all(b"all of it").await.unwrap();
    stream.shutdown().await.unwrap();
    let end = tokio::time::timeout(LIMIT, ends.recv()).await.expect("an end").unwrap();
    assert_eq!(end, Ok(9));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_takes_no_more_connections_than_its_policy_says() {
    let two = ServicePolicy { max_requests: Ceiling::At(2), ..plain() };
    let (app, _ends) = application().await;
    let authority = Authority::new("mesh.example");
    let a = Host::start(&authority, "a", None).await;
    let b = Host::over(Agent::start(&authority, "b"), Some(app), Protocol::Tcp).await;
    opaque(&b, &[("b", b.agent.address)], two.clone());
    opaque(&a, &[("b", b.agent.address)], two.clone());
    let local = alone(app, two).await;
    for to in [a.upstream, local.upstream] {
        let (first, _second) = (greeted(to).await, greeted(to).await);
        let mut third = TcpStream::connect(to).await.unwrap();
        let mut hello = [0; 5];
        let read = tokio::time::timeout(Duration::from_secs(1), third.read_exact(&mut hello));
        assert!(read.await.is_err(), "a third was let in");
        drop(first);
        let read = tokio::time::timeout(LIMIT, third.read_exact(&mut hello)).await;
        assert_eq!(read.expect("its turn in time").unwrap(), 5);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_looked_for_any_longer_for_a_client_that_broke_off() {
    let (app, mut ends) = application().await;
    let a = alone(app, plain()).await;
    let socks = a.proxy.listen(loopback(0), Entry::Socks).await.unwrap();
    a.condition(Condition::Activating);
    let mut plain = TcpStream::connect(a.upstream).await.unwrap();
    plain.write_all(b"something").await.unwrap();
    let mut tunnel = TcpStream::connect(socks).await.unwrap();
    tunnel.write_all(b"\x05\x01\x00\x05\x01\x00\x03\x0bledger.mesh\x00\x50").await.unwrap();
    let mut method = [0; 2];
    tunnel.read_exact(&mut method).await.unwrap();
    let under_way = |wanted: usize| {
        let proxy = &a.proxy;
        move || match proxy.under_way() {
            n if n == wanted => Ok(()),
            n => Err(n),
        }
    };
    until("both to wait", under_way(2)).await;
    reset(plain);
    reset(tunnel);
    until("both to be given up", under_way(0)).await;
    a.condition(Condition::Serving);
    assert!(ends.try_recv().is_err(), "the application was troubled");
}
