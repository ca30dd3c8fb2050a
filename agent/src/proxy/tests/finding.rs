//! Programs that speak SOCKS or `CONNECT`, and clients from outside: what they reach, and what they do not.

use std::net::SocketAddr;
use std::sync::Arc;

use hearth_proto::advert::Protocol;
use hearth_proto::ids::ServiceName;
use hearth_proto::route::Choice;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::mesh::{App, Host, get, ledger, plain, send};
use crate::config::{HostPattern, Ingress, IngressRoute, IngressTls};
use crate::identity::authority::Authority;
use crate::link::tests::{Agent, loopback};
use crate::proxy::{Entry, Gate};

async fn pair() -> (Host, Host, App) {
    let authority = Authority::new("mesh.example");
    let app = App::start("b").await;
    let a = Host::start(&authority, "a", None).await;
    let b = Host::start(&authority, "b", Some(app.address)).await;
    a.route(&[("b", b.agent.address)], plain());
    (a, b, app)
}

/// A pair whose service speaks first: `hello`, then everything back.
async fn opaque_pair() -> (Host, Host) {
    let authority = Authority::new("mesh.example");
    let listener = TcpListener::bind(loopback(0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(b"hello").await.unwrap();
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await.unwrap();
                write.shutdown().await.unwrap();
            });
        }
    });
    let a = Host::start(&authority, "a", None).await;
    let b = Host::over(Agent::start(&authority, "b"), Some(address), Protocol::Tcp).await;
    a.route(&[("b", b.agent.address)], plain());
    let mut candidates = a.candidates();
    candidates[0].protocol = Protocol::Tcp;
    a.put(candidates, plain(), Choice::Serve);
    (a, b)
}

/// The reply code of a SOCKS request, and the connection.
async fn socks(proxy: SocketAddr, request: &[u8]) -> (u8, TcpStream) {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(&[5, 2, 0, 2]).await.unwrap();
    let mut method = [0; 2];
    stream.read_exact(&mut method).await.unwrap();
    assert_eq!(method, [5, 0]);
    stream.write_all(request).await.unwrap();
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).await.unwrap();
    assert_eq!((reply[0], reply[2], reply[3]), (5, 0, 1));
    (reply[1], stream)
}

fn by_name(name: &str, port: u16) -> Vec<u8> {
    let mut request = vec![5, 1, 0, 3, u8::try_from(name.len()).unwrap()];
    request.extend(name.as_bytes());
    request.extend(port.to_be_bytes());
    request
}

async fn rest(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await.unwrap();
    String::from_utf8(text).unwrap()
}

const ONE_REQUEST: &[u8] = b"GET /fields HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socks_tunnel_to_an_http_service_is_served_like_its_own_port() {
    let (a, _b, app) = pair().await;
    let proxy = a.proxy.listen(loopback(0), Entry::Socks).await.unwrap();
    for name in ["ledger.mesh", "LEDGER.mesh.", "ledger"] {
        let (code, mut stream) = socks(proxy, &by_name(name, 80)).await;
        assert_eq!(code, 0, "{name}");
        stream.write_all(ONE_REQUEST).await.unwrap();
        let answer = rest(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("x-forwarded-for: 127.0.0.1"), "{answer}");
    }
    assert_eq!(app.seen(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_looked_the_name_up_itself_reaches_the_same_port() {
    let (a, _b, _app) = pair().await;
    let proxy = a.proxy.listen(loopback(0), Entry::Socks).await.unwrap();
    let mut request = vec![5, 1, 0, 1, 127, 0, 0, 1];
    request.extend(a.upstream.port().to_be_bytes());
    let (code, mut stream) = socks(proxy, &request).await;
    assert_eq!(code, 0);
    stream.write_all(ONE_REQUEST).await.unwrap();
    assert!(rest(stream).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socks_leads_nowhere_else_and_says_why() {
    let (a, _b, app) = pair().await;
    let proxy = a.proxy.listen(loopback(0), Entry::Socks).await.unwrap();
    let mut to_app = vec![5, 1, 0, 1, 127, 0, 0, 1];
    to_app.extend(app.address.port().to_be_bytes());
    let mut v6 = vec![5, 1, 0, 4];
    v6.extend([0; 15]);
    v6.extend([1, 0, 80]);
    let bind = [vec![5, 2], by_name("ledger.mesh", 80)[2..].to_vec()].concat();
    for (what, request, code) in [
        ("another host", by_name("example.com", 443), 2),
        ("this host", by_name("localhost", 22), 2),
        ("a name that is an address", by_name("127.0.0.1", 22), 2),
        ("no service", by_name("nobody.mesh", 80), 4),
        ("an address", to_app, 2),
        ("an IPv6 address", v6, 2),
        ("BIND", bind, 7),
        ("an unknown kind of address", vec![5, 1, 0, 9], 8),
    ] {
        let (found, stream) = socks(proxy, &request).await;
        assert_eq!(found, code, "{what}");
        assert_eq!(rest(stream).await, "", "{what}");
    }
    assert_eq!(app.seen(), 0);
    let opened = a.metrics.tunnels.get_or_create(&[("by", "socks5"), ("outcome", "outside")]).get();
    assert_eq!(opened, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_insists_on_a_password_is_told_that_there_is_none() {
    let (a, _b, _app) = pair().await;
    let proxy = a.proxy.listen(loopback(0), Entry::Socks).await.unwrap();
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(&[5, 1, 2]).await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, [5, 0xff]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opaque_bytes_go_through_both_kinds_of_tunnel() {
    let (a, _b) = opaque_pair().await;
    let proxy = a.proxy.listen(loopback(0), Entry::Socks).await.unwrap();
    let (code, by_socks) = socks(proxy, &by_name("ledger.mesh", 5432)).await;
    assert_eq!(code, 0);
    let mut by_connect = TcpStream::connect(a.shared).await.unwrap();
    by_connect
        .write_all(b"CONNECT ledger.mesh:5432 HTTP/1.1\r\nhost: ledger.mesh:5432\r\n\r\n")
        .await
        .unwrap();
    let head = until_blank_line(&mut by_connect).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    for mut stream in [by_socks, by_connect] {
        let mut greeting = [0; 5];
        stream.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"hello", "the server speaks first");
        stream.write_all(b"abc").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(rest(stream).await, "abc");
    }
}

async fn until_blank_line(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connect_opens_a_tunnel_to_a_service_and_to_nothing_else() {
    let (a, _b, app) = pair().await;
    let mut stream = TcpStream::connect(a.shared).await.unwrap();
    stream
        .write_all(b"CONNECT ledger.mesh:80 HTTP/1.1\r\nhost: ledger.mesh\r\n\r\n")
        .await
        .unwrap();
    let head = until_blank_line(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
    stream.write_all(ONE_REQUEST).await.unwrap();
    assert!(rest(stream).await.starts_with("HTTP/1.1 200"));
    assert_eq!(app.seen(), 1);
    for (to, status, error) in [
        ("example.com:443", "403", "http_request_denied"),
        ("localhost:22", "403", "http_request_denied"),
        ("nobody.mesh:80", "404", "destination_not_found"),
    ] {
        let mut stream = TcpStream::connect(a.shared).await.unwrap();
        let request = format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = rest(stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.contains(error), "{answer}");
    }
    assert_eq!(app.seen(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_ends_with_the_port_it_came_through_once_its_request_is_done() {
    let (a, _b, _app) = pair().await;
    let proxy = a.proxy.listen(loopback(0), Entry::Socks).await.unwrap();
    let (_, mut stream) = socks(proxy, &by_name("ledger.mesh", 80)).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(until_blank_line(&mut stream).await.starts_with("HTTP/1.1 200"));
    a.proxy.close_listener(proxy);
    assert_eq!(rest(stream).await, "b");
}

fn ingress(listen: SocketAddr, hosts: &[&str], path: &str) -> Ingress {
    let hosts = hosts.iter().map(|h| HostPattern::parse(h).unwrap()).collect();
    let routes = vec![IngressRoute { hosts, path: path.into(), service: ledger() }];
    Ingress { listen, tls: None, trust: Vec::new(), routes }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_from_outside_reaches_the_service_its_host_and_path_stand_for() {
    let (a, _b, app) = pair().await;
    let gate = Gate::new(&ingress(loopback(0), &["shop.example.com"], "/fields")).unwrap();
    let port = a.proxy.listen(loopback(0), Entry::Ingress(Arc::new(gate))).await.unwrap();
    let said = [("host", "shop.example.com"), ("x-forwarded-for", "6.6.6.6")];
    let reply = send(port, Method::GET, "/x/../fields", &said, "").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let body = String::from_utf8(reply.body.to_vec()).unwrap();
    assert!(body.contains("x-forwarded-for: 127.0.0.1\n"), "{body}");
    assert!(body.contains("host: shop.example.com\n"), "{body}");
    for (host, path) in [("ledger.mesh", "/fields"), ("shop.example.com", "/")] {
        let reply = send(port, Method::GET, path, &[("host", host)], "").await;
        assert_eq!(reply.status, 404);
        let status = reply.headers["proxy-status"].to_str().unwrap();
        assert!(status.contains("error=destination_not_found"), "{status}");
    }
    assert_eq!(app.seen(), 1);
    let strange = ServiceName::parse("other").unwrap();
    let mut elsewhere = ingress(port, &["*"], "/");
    elsewhere.routes[0].service = strange;
    a.proxy.redirect(port, Entry::Ingress(Arc::new(Gate::new(&elsewhere).unwrap())));
    assert_eq!(get(port, "/fields").await.status, 503, "a reload reaches the open port");
}

/// A certificate of its own for `shop.example.com`, and where its files are.
fn certificate(
    directory: &std::path::Path,
) -> (rustls::pki_types::CertificateDer<'static>, IngressTls) {
    std::fs::create_dir_all(directory).unwrap();
    let made = rcgen::generate_simple_self_signed(["shop.example.com".to_owned()]).unwrap();
    let tls =
        IngressTls { certificate: directory.join("shop.pem"), key: directory.join("shop.key") };
    std::fs::write(&tls.certificate, made.cert.pem()).unwrap();
    std::fs::write(&tls.key, made.signing_key.serialize_pem()).unwrap();
    (made.cert.der().clone(), tls)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ingress_with_a_certificate_speaks_both_versions_of_http_over_tls() {
    let (a, _b, _app) = pair().await;
    let directory = std::env::temp_dir().join(format!("hearth-ingress-{}", std::process::id()));
    let (trusted, tls) = certificate(&directory);
    let with_tls = Ingress { tls: Some(tls), ..ingress(loopback(0), &["shop.example.com"], "/") };
    let gate = Gate::new(&with_tls).unwrap();
    let port = a.proxy.listen(loopback(0), Entry::Ingress(Arc::new(gate))).await.unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted).unwrap();
    for alpn in ["http/1.1", "h2"] {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.into()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = TcpStream::connect(port).await.unwrap();
        let name = "shop.example.com".try_into().unwrap();
        let stream = connector.connect(name, stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn.as_bytes()));
        let io = hyper_util::rt::TokioIo::new(stream);
        let request = match alpn {
            "h2" => http::Request::get("https://shop.example.com/fields"),
            _ => http::Request::get("/fields").header("host", "shop.example.com"),
        };
        let request = request.body(http_body_util::Full::new(bytes::Bytes::new())).unwrap();
        let response = if alpn == "h2" {
            let executor = hyper_util::rt::TokioExecutor::new();
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(executor, io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        assert_eq!(response.status(), 200, "{alpn}");
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(body.contains("x-forwarded-proto: https\n"), "{alpn}: {body}");
    }
    let _ = std::fs::remove_dir_all(directory);
}

#[test]
fn a_certificate_that_is_not_there_or_not_the_keys_is_told() {
    let directory = std::env::temp_dir().join(format!("hearth-gate-{}", std::process::id()));
    let (_, tls) = certificate(&directory.join("a"));
    let (_, other) = certificate(&directory.join("b"));
    let told = |tls: IngressTls| {
        let ingress = Ingress { tls: Some(tls), ..ingress(loopback(1), &["*"], "/") };
        Gate::new(&ingress).unwrap_err().to_string()
    };
    let missing = IngressTls { certificate: "/nowhere/shop.pem".into(), ..tls.clone() };
    let text = told(missing);
    assert!(
        text.starts_with("cannot read /nowhere/shop.pem for the ingress 127.0.0.1:1: "),
        "{text}"
    );
    let empty = IngressTls { certificate: tls.key.clone(), ..tls.clone() };
    assert!(told(empty).contains("it holds no certificate"));
    let mixed = told(IngressTls { key: other.key, ..tls });
    assert!(mixed.contains("the key must be the certificate's own"), "{mixed}");
    let _ = std::fs::remove_dir_all(directory);
}
