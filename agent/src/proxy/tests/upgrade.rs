//! Upgrades, expectations and interim answers, against an application that speaks raw bytes.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::mesh::{Host, plain};
use crate::identity::authority::Authority;
use crate::link::tests::loopback;

const LIMIT: Duration = Duration::from_secs(10);

/// Two agents and an application that does `with` to each connection.
async fn mesh<F>(with: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> (Host, Host)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(loopback(0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(with(stream));
        }
    });
    let authority = Authority::new("mesh.example");
    let a = Host::start(&authority, "a", None).await;
    let b = Host::start(&authority, "b", Some(address)).await;
    a.route(&[("b", b.agent.address)], plain());
    (a, b)
}

/// Reads up to and with `end`.
async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut said = Vec::new();
    let read = async {
        while !said.ends_with(end.as_bytes()) {
            match stream.read_u8().await {
                Ok(byte) => said.push(byte),
                Err(_) => break,
            }
        }
    };
    let done = tokio::time::timeout(LIMIT, read).await;
    let said = String::from_utf8_lossy(&said).into_owned();
    done.unwrap_or_else(|_| panic!("{end:?} did not come, but {said:?}"));
    said
}

async fn open(to: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

const WEBSOCKET: &str = "GET /chat HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\n\
                         Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Lets an upgrade, and echoes until the other half ends.
async fn let_and_echo(mut stream: TcpStream) {
    let head = until(&mut stream, "\r\n\r\n").await.to_lowercase();
    let lets = head.contains("\r\nupgrade: websocket\r\n")
        && head.contains("\r\nconnection: upgrade\r\n")
        && head.starts_with("get /chat http/1.1");
    if !lets {
        let length = head.len();
        let no = format!(
            "HTTP/1.1 426 No\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{head}"
        );
        return stream.write_all(no.as_bytes()).await.unwrap();
    }
    let key = head.split("sec-websocket-key: ").nth(1).unwrap();
    let accept = match key.split("\r\n").next().unwrap() {
        "dghlihnhbxbszsbub25jzq==" => "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        _ => "unknown",
    };
    let yes = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nX-App: 1\r\n\r\nhello"
    );
    stream.write_all(yes.as_bytes()).await.unwrap();
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await.unwrap();
    write.write_all(b"bye").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_is_let_and_each_half_ends_by_itself() {
    let (a, _b) = mesh(let_and_echo).await;
    let mut stream = open(a.upstream, WEBSOCKET).await;
    let head = until(&mut stream, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for field in ["upgrade: websocket", "connection: upgrade", "x-app: 1"] {
        assert!(head.contains(&format!("\r\n{field}\r\n")), "{field} is missing in {head}");
    }
    assert!(head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    assert_eq!(until(&mut stream, "hello").await, "hello");
    let big = "x".repeat(300_000) + "end";
    let (mut read, mut write) = stream.split();
    let mut back = vec![0; big.len()];
    let (sent, got) = tokio::join!(write.write_all(big.as_bytes()), read.read_exact(&mut back));
    sent.unwrap();
    got.unwrap();
    assert!(back == big.as_bytes());
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    tokio::time::timeout(LIMIT, stream.read_to_string(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, "bye");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_is_not_idle_while_a_connection_to_it_is_another_protocol_s() {
    let (a, b) = mesh(let_and_echo).await;
    b.route(&[("b", b.agent.address)], plain());
    let of_b = super::mesh::endpoint("b");
    for host in [&a, &b] {
        let mut stream = open(host.upstream, WEBSOCKET).await;
        until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"ping").await.unwrap();
        until(&mut stream, "ping").await;
        assert_eq!(b.proxy.under_way_at(&of_b), 1);
        drop(stream);
        wait(|| b.proxy.under_way_at(&of_b) == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_sent_with_the_wish_wait_for_its_answer() {
    let (a, _b) = mesh(let_and_echo).await;
    let mut stream = open(a.upstream, &format!("{WEBSOCKET}\u{1}early\n")).await;
    assert!(until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 101 "));
    assert_eq!(until(&mut stream, "early\n").await, "hello\u{1}early\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wish_that_is_not_granted_leaves_the_connection_http() {
    let (a, _b) = mesh(let_and_echo).await;
    let wish = WEBSOCKET.replace("/chat", "/other");
    let mut stream = open(a.upstream, &format!("{wish}{WEBSOCKET}")).await;
    let head = until(&mut stream, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 426 "), "{head}");
    // The application's answer tells what it was asked, and then the second wish is granted.
    let rest = until(&mut stream, "hello").await;
    assert!(rest.contains("HTTP/1.1 101 "), "{rest}");
    // Without the token in Connection it is no wish at all.
    let plain = "GET /chat HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n";
    let mut stream = open(a.upstream, plain).await;
    let head = until(&mut stream, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 426 "), "{head}");
    let h2c = "GET /chat HTTP/1.1\r\nHost: x\r\nConnection: upgrade, http2-settings\r\n\
               Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n";
    let mut stream = open(a.upstream, h2c).await;
    let head = until(&mut stream, "\r\n\r\n").await;
    let answer = head + &until(&mut stream, "\r\n\r\n").await;
    assert!(!answer.contains("h2c") && !answer.contains("http2-settings"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_http2_gets_a_websocket_from_an_application_of_http1() {
    // Answers any key rightly.
    let (a, _b) = mesh(|mut stream| async move {
        let head = until(&mut stream, "\r\n\r\n").await;
        let lower = head.to_lowercase();
        let at = lower.find("sec-websocket-key: ").unwrap() + "sec-websocket-key: ".len();
        let key = head[at..].split("\r\n").next().unwrap();
        let text = [key.as_bytes(), b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
        let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &text);
        let accept = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, digest);
        let yes = format!(
            "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\nhello"
        );
        stream.write_all(yes.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    })
    .await;
    let stream = TcpStream::connect(a.upstream).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    // The settings that allow it come with the first answer at the latest.
    let get = http::Request::get("http://x/").body(()).unwrap();
    drop(client.send_request(get, true).unwrap());
    wait(|| client.is_extended_connect_protocol_enabled()).await;
    let mut request = http::Request::connect("http://x/chat").body(()).unwrap();
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    let (answer, mut send) = client.send_request(request, false).unwrap();
    let answer = tokio::time::timeout(LIMIT, answer).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("sec-websocket-accept"));
    let mut body = answer.into_body();
    send.send_data("there".into(), true).unwrap();
    let mut got = Vec::new();
    while let Some(piece) = tokio::time::timeout(LIMIT, body.data()).await.unwrap() {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        got.extend_from_slice(&piece);
    }
    assert_eq!(String::from_utf8(got).unwrap(), "hellothere");
}

pub(super) async fn wait(condition: impl Fn() -> bool) {
    let all = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, all).await.expect("the condition in time");
}

const EXPECTS: &str =
    "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_asked_for_when_the_application_asks_for_it() {
    let (a, _b) = mesh(|mut stream| async move {
        let head = until(&mut stream, "\r\n\r\n").await.to_lowercase();
        assert!(head.contains("expect: 100-continue"), "{head}");
        // Nothing of the body is here before it is asked for.
        let early = tokio::time::timeout(Duration::from_millis(100), stream.read_u8()).await;
        assert!(early.is_err());
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let mut body = [0; 5];
        stream.read_exact(&mut body).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await.unwrap();
        stream.write_all(&body).await.unwrap();
    })
    .await;
    let mut stream = open(a.upstream, EXPECTS).await;
    assert_eq!(until(&mut stream, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    let head = until(&mut stream, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(until(&mut stream, "hello").await, "hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_does_not_want_the_body_is_heard_before_it_is_sent() {
    let (a, _b) = mesh(|mut stream| async move {
        until(&mut stream, "\r\n\r\n").await;
        let no = b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(no).await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "{rest:?}");
    })
    .await;
    let mut stream = open(a.upstream, EXPECTS).await;
    let head = until(&mut stream, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 417"), "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_answers_before_it_reads_gets_the_body_all_the_same() {
    const BODY: usize = 100_000;
    let (a, _b) = mesh(|mut stream| async move {
        until(&mut stream, "\r\n\r\n").await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let expects = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {BODY}\r\n\r\n"
    );
    let mut stream = open(a.upstream, &expects).await;
    let mut head = until(&mut stream, "\r\n\r\n").await;
    if head.starts_with("HTTP/1.1 100") {
        head = until(&mut stream, "\r\n\r\n").await;
    }
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let body: Vec<u8> = (0..BODY).map(|i| i as u8).collect();
    let (mut read, mut write) = stream.split();
    let mut echo = vec![0; BODY];
    let both = async { tokio::join!(write.write_all(&body), read.read_exact(&mut echo)) };
    let (sent, got) = tokio::time::timeout(LIMIT, both).await.expect("the echo in time");
    assert!(sent.is_ok() && got.is_ok(), "{sent:?} {got:?}");
    // A 100 may come late, and stands before the body then; it does not, once the head is out.
    assert!(echo == body, "the echo differs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hint_before_a_refused_body_does_not_break_the_request() {
    let (a, _b) = mesh(|mut stream| async move {
        until(&mut stream, "\r\n\r\n").await;
        let no = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 417 No\r\n\
                   Connection: close\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(no).await.unwrap();
    })
    .await;
    for _ in 0..30 {
        let mut stream = open(a.upstream, EXPECTS).await;
        let mut head = until(&mut stream, "\r\n\r\n").await;
        if head.starts_with("HTTP/1.1 103") {
            head = until(&mut stream, "\r\n\r\n").await;
        }
        assert!(head.starts_with("HTTP/1.1 417"), "{head}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hints_without_end_are_an_application_s_failure_however_it_was_asked() {
    let (a, _b) = mesh(|mut stream| async move {
        until(&mut stream, "\r\n\r\n").await;
        let (mut read, mut write) = stream.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await });
        let hint = format!("HTTP/1.1 103 Early Hints\r\nLink: <{}>\r\n\r\n", "a".repeat(10_000));
        while write.write_all(hint.as_bytes()).await.is_ok() {}
    })
    .await;
    for length in [0, 10, 100_000] {
        let post = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
        let mut stream = open(a.upstream, &post).await;
        let (mut read, mut write) = stream.split();
        let mut answer = Vec::new();
        let told = async {
            // Behind as many hints as may be.
            while !String::from_utf8_lossy(&answer).contains("HTTP/1.1 502 ") {
                assert!(read.read_buf(&mut answer).await.unwrap() > 0, "closed without an answer");
                assert!(answer.len() < 1_000_000, "hints without end");
            }
        };
        let body = vec![b'x'; length];
        let both = async { tokio::join!(write.write_all(&body), told) };
        assert!(tokio::time::timeout(LIMIT, both).await.is_ok(), "no answer for {length}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interim_answers_come_before_the_answer() {
    let (a, _b) = mesh(|mut stream| async move {
        until(&mut stream, "\r\n\r\n").await;
        let hints =
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n\
                      HTTP/1.1 102 Processing\r\n\r\n";
        stream.write_all(hints).await.unwrap();
        let mut go = [0; 1];
        // Holds the answer back until the client has the hints: it sends a second request then.
        let _ = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut go)).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    })
    .await;
    for version in ["1.1", "1.0"] {
        let get = format!("GET / HTTP/{version}\r\nHost: x\r\n\r\n");
        let mut stream = open(a.upstream, &get).await;
        let all = until(&mut stream, "\r\n\r\nok").await;
        if version == "1.0" {
            assert!(all.starts_with("HTTP/1.0 200"), "{all}");
            continue;
        }
        let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n";
        // Names of fields are the same in any case.
        let all = all.replace("Link: </a>", "link: </a>");
        assert!(all.starts_with(&format!("{hints}HTTP/1.1 200")), "{all}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_can_be_read_in_two_ways_are_nobody_s() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\nx",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let (a, _b) = mesh(move |mut stream| async move {
            until(&mut stream, "\r\n\r\n").await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let post = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
        let mut stream = open(a.upstream, post).await;
        let head = until(&mut stream, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{answer:?}: {head}");
        assert!(head.contains("proxy-status: a; error=connection_terminated"), "{head}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_s_broken_body_is_the_client_s_fault() {
    let (a, _b) = mesh(|mut stream| async move {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
    })
    .await;
    let post = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let mut stream = open(a.upstream, &format!("{post}zz\r\n")).await;
    let head = until(&mut stream, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_that_its_client_breaks_off_is_broken_at_the_application() {
    let (told, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let (a, _b) = mesh(move |mut stream| {
        let told = told.clone();
        async move {
            until(&mut stream, "\r\n\r\n").await;
            let yes = b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
            stream.write_all(yes).await.unwrap();
            let mut rest = Vec::new();
            let _ = told.send(stream.read_to_end(&mut rest).await.map_err(|e| e.kind()));
        }
    })
    .await;
    let wish = "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let mut stream = open(a.upstream, wish).await;
    assert!(until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 101 "));
    stream.write_all(b"half a message").await.unwrap();
    stream.set_zero_linger().unwrap();
    drop(stream);
    let end = tokio::time::timeout(LIMIT, ends.recv()).await.unwrap().unwrap();
    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgraded_connection_whose_client_resets_it_is_broken_at_an_application_beside_it() {
    let listener = TcpListener::bind(loopback(0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let authority = Authority::new("mesh.example");
    let a = Host::start(&authority, "a", Some(address)).await;
    a.route(&[("a", a.agent.address)], plain());
    let wish = "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let mut client = open(a.upstream, wish).await;
    let (mut app, _) = listener.accept().await.unwrap();
    until(&mut app, "\r\n\r\n").await;
    // What comes with the answer belongs to the new protocol.
    let yes = b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nfirst";
    app.write_all(yes).await.unwrap();
    assert!(until(&mut client, "\r\n\r\nfirst").await.starts_with("HTTP/1.1 101 "));
    client.write_all(b"half a message").await.unwrap();
    client.set_zero_linger().unwrap();
    drop(client);
    let mut rest = Vec::new();
    let end = tokio::time::timeout(LIMIT, app.read_to_end(&mut rest)).await.expect("an end");
    assert_eq!(end.map_err(|e| e.kind()), Err(std::io::ErrorKind::ConnectionReset));
}
