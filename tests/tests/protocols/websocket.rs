//! WebSocket through a pair: Python's `websockets` and Rust's tungstenite, over HTTP/1.1 and over HTTP/2's
//! extended CONNECT (RFC 8441), to an application that speaks HTTP/1.1.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hearth_tests::cases::Cases;
use hearth_tests::lab::Process;
use hearth_tests::lab::wait::wait_for;
use hearth_tests::loopback::{Place, free_ports};
use hearth_tests::pair::{Offer, Pair, Plan};
use hearth_tests::python;
use serde_json::Value;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::raw_h2::{connect, run};

const SOON: Duration = Duration::from_secs(20);
/// The mesh's limit of a request is short: it must not end what follows a handshake.
const POLICY: &str = "[services.chat]\ntimeout = \"2s\"\n";

/// Bytes of the large message.
fn big() -> usize {
    if std::env::var_os("HEARTH_FULL").is_some() { 64 << 20 } else { 8 << 20 }
}

fn unlimited() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(None).max_frame_size(None)
}

struct World {
    pair: Pair,
    app: SocketAddr,
    process: Arc<Process>,
}

/// A pair with the Python application behind it; or why there is none.
fn world(name: &str) -> Result<World, String> {
    let place = Place::new(name).unwrap();
    let [app] = free_ports();
    let process = start(&place, app)?;
    let offers = vec![Offer::new("chat", "http", app)];
    let plan = Plan { offers, policy: POLICY.to_owned(), caller: String::new() };
    let pair = Pair::start(place, &plan).unwrap();
    Ok(World { pair, app, process })
}

fn start(place: &Place, app: SocketAddr) -> Result<Arc<Process>, String> {
    let program = python::script("ws_app", &["websockets"], &[&app.to_string()])?;
    let process = place.start(program).unwrap();
    wait_for("the WebSocket application to listen", SOON, || match process.stdout() {
        out if out.contains("listening") => Ok(()),
        _ => Err(process.stderr()),
    })
    .unwrap();
    Ok(process)
}

#[test]
fn websocket_passes_unchanged_for_two_clients_over_http_1_and_http_2() {
    let World { pair, app, .. } = match world("ws") {
        Ok(world) => world,
        Err(reason) => return println!("NOT RUN: WebSocket: {reason}"),
    };
    let mesh = pair.entry("chat");
    let mut cases = Cases::new("websocket");
    let args = [format!("mesh={mesh}"), format!("app={app}"), format!("big={}", big())];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let client = python::script("ws_client", &["websockets"], &args).unwrap();
    let done = pair.place.run(client, Duration::from_secs(300)).unwrap();
    cases.absorb("python", &done.stdout, &done.stderr);
    tungstenite(&mut cases, "h1", mesh);
    tungstenite(&mut cases, "h2", mesh);
    cases.check("h1: the shared port upgrades by Host", || {
        run(async {
            let mut ws = over_h1(pair.shared, "chat.mesh", "/echo").await?;
            echo(&mut ws, Message::text("by name")).await
        })
    });
    cases.check(
        "h2: extended CONNECT for a path that the application refuses is refused in its words",
        || {
            run(async {
                let mut send = connect(mesh).await?;
                extended(&mut send).await?;
                let (answer, _body) = ask(&mut send, "chat", "/deny")?;
                let answer = answer.await.map_err(|e| e.to_string())?;
                let reason = answer.headers().get("x-reason").cloned();
                match (answer.status().as_u16(), reason) {
                    (403, Some(reason)) => Ok(format!("403, {reason:?}")),
                    other => Err(format!("{other:?}")),
                }
            })
        },
    );
    cases.check("h2: plain requests run beside a WebSocket on one connection", || {
        run(async {
            let mut send = connect(mesh).await?;
            extended(&mut send).await?;
            let mut ws = tunnel(&mut send, "chat", "/echo").await?;
            echo(&mut ws, Message::text("before")).await?;
            let get = http::Request::get(format!("http://{mesh}/")).body(()).unwrap();
            let (answer, _) = send.send_request(get, true).map_err(|e| e.to_string())?;
            let status = answer.await.map_err(|e| e.to_string())?.status().as_u16();
            echo(&mut ws, Message::text("after")).await?;
            if status == 200 { Ok(String::new()) } else { Err(format!("status {status}")) }
        })
    });
    cases.finish();
}

/// Not a test of the mesh: what fails through a pair must hold where nothing is in between. (The library
/// behind it speaks no HTTP/2.)
#[test]
#[ignore = "a control: run it when the rules themselves are in doubt"]
fn the_rules_of_websocket_hold_without_a_mesh() {
    let place = Place::new("ws-control").unwrap();
    let [app] = free_ports();
    let _process = start(&place, app).unwrap();
    let mut cases = Cases::new("websocket without a mesh");
    let args = [format!("mesh={app}"), format!("app={app}"), format!("big={}", big())];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let client = python::script("ws_client", &["websockets"], &args).unwrap();
    let done = place.run(client, Duration::from_secs(300)).unwrap();
    cases.absorb("python", &done.stdout, &done.stderr);
    tungstenite(&mut cases, "h1", app);
    cases.finish();
}

#[test]
fn a_websocket_whose_other_end_is_lost_is_closed_at_once() {
    let World { mut pair, app, process } = match world("ws-loss") {
        Ok(world) => world,
        Err(reason) => return println!("NOT RUN: WebSocket: {reason}"),
    };
    let mesh = format!("mesh={}", pair.entry("chat"));
    let mut cases = Cases::new("websocket loss");
    let open = |pair: &Pair| -> Result<Arc<Process>, String> {
        let client = python::script("ws_client", &["websockets"], &[&mesh, "one=/echo"])?;
        let client = pair.place.start(client).map_err(|e| e.to_string())?;
        wait_for("the connection to stand", SOON, || match client.stdout() {
            out if out.contains("open") => Ok(()),
            out => Err(format!("{out}{}", client.stderr())),
        })
        .map_err(|e| e.to_string())?;
        Ok(client)
    };
    // 1006: it ended without a closing handshake.
    let closed = |client: &Process, codes: &[u64], lost: Instant, limit: Duration| {
        client.wait(Duration::from_secs(60)).map_err(|e| e.to_string())?;
        let (after, out) = (lost.elapsed(), client.stdout());
        let last = out.lines().last().unwrap_or_default();
        let told: Value = serde_json::from_str(last).map_err(|e| format!("{e} in {out}"))?;
        let said = told["code"].as_u64().is_some_and(|code| codes.contains(&code));
        if said && after < limit {
            return Ok(format!("closed {after:.2?} after"));
        }
        Err(format!("{told} {after:.2?} after"))
    };
    cases.check("the application is killed: its clients are told at once", || {
        let client = open(&pair)?;
        let lost = Instant::now();
        process.kill().map_err(|e| e.to_string())?;
        closed(&client, &[1006], lost, Duration::from_secs(3))
    });
    let _ = process.kill(); // Where the rule above did not come that far.
    let _process = start(&pair.place, app).unwrap();
    pair.wait_serving("chat", 1).unwrap();
    cases.check("the owner's agent vanishes: the half-open connection is found and closed", || {
        let client = open(&pair)?;
        let lost = Instant::now();
        pair.owners[0].kill().map_err(|e| e.to_string())?;
        // The caller's agent says that the other end went away; or the end was there before it could.
        closed(&client, &[1001, 1006], lost, Duration::from_secs(3))
    });
    pair.revive(0, "chat", 1).unwrap();
    cases.check("the caller's agent ends: its clients are told at once", || {
        let client = open(&pair)?;
        let lost = Instant::now();
        pair.caller.kill().map_err(|e| e.to_string())?;
        closed(&client, &[1006], lost, Duration::from_secs(3))
    });
    cases.finish();
}

/// The rules of the Rust client, over either version of HTTP.
fn tungstenite(cases: &mut Cases, version: &'static str, mesh: SocketAddr) {
    let rule = |what: &str| format!("tungstenite over {version}: {what}");
    cases.check(&rule("text, binary, ping and pong"), || {
        with(version, mesh, "/echo", |mut ws| async move {
            echo(&mut ws, Message::text("naïve ✓")).await?;
            echo(&mut ws, Message::binary((0..=255).collect::<Vec<u8>>())).await?;
            ws.send(Message::Ping(Bytes::from_static(b"you"))).await.map_err(|e| e.to_string())?;
            match next(&mut ws).await? {
                Message::Pong(data) if data == "you" => Ok(String::new()),
                other => Err(format!("{other:?}")),
            }
        })
    });
    cases.check(&rule("three fragments with a ping between them are three fragments"), || {
        with(version, mesh, "/frames", |mut ws| async move {
            for (text, kind, last) in [
                ("one ", Data::Text, false),
                ("two ", Data::Continue, false),
                ("three", Data::Continue, true),
            ] {
                let frame = Frame::message(text, OpCode::Data(kind), last);
                ws.send(Message::Frame(frame)).await.map_err(|e| e.to_string())?;
                if !last {
                    ws.send(Message::Ping(Bytes::new())).await.map_err(|e| e.to_string())?;
                }
            }
            loop {
                match next(&mut ws).await? {
                    Message::Pong(_) => {}
                    Message::Text(text) if text.contains("\"fragments\": 3") => {
                        return Ok(text.to_string());
                    }
                    other => return Err(format!("{other:?}")),
                }
            }
        })
    });
    cases.check(&rule("a large message there and back"), || {
        with(version, mesh, "/echo", |ws| async move {
            let message: Vec<u8> = (0..big()).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let message = Bytes::from(message);
            let (mut send, mut receive) = ws.split();
            let sent = message.clone();
            let sending = tokio::spawn(async move { send.send(Message::Binary(sent)).await });
            let back = receive.next().await.ok_or("closed")?.map_err(|e| e.to_string())?;
            sending.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
            if back.into_data() == message { Ok(String::new()) } else { Err("changed".to_owned()) }
        })
    });
    cases.check(&rule("the application's close code and reason"), || {
        with(version, mesh, "/close", |mut ws| async move {
            match next(&mut ws).await? {
                Message::Close(Some(CloseFrame { code, reason }))
                    if u16::from(code) == 4002 && reason == "that is all" =>
                {
                    Ok(String::new())
                }
                other => Err(format!("{other:?}")),
            }
        })
    });
    cases.check(
        &rule("the client's close is answered, and the connection ends in good order"),
        || {
            with(version, mesh, "/echo", |mut ws| async move {
                let close = CloseFrame { code: 4001.into(), reason: "bye".into() };
                ws.send(Message::Close(Some(close))).await.map_err(|e| e.to_string())?;
                match next(&mut ws).await? {
                    Message::Close(Some(frame)) if u16::from(frame.code) == 4001 => {}
                    other => return Err(format!("{other:?}")),
                }
                match tokio::time::timeout(SOON, ws.next()).await {
                    Ok(None) => Ok(String::new()),
                    other => Err(format!("{other:?}")),
                }
            })
        },
    );
    cases.check(&rule("a connection outlives the limit of a request"), || {
        with(version, mesh, "/echo", |mut ws| async move {
            tokio::time::sleep(Duration::from_secs(3)).await; // Longer than the policy's 2 s.
            echo(&mut ws, Message::text("still here")).await
        })
    });
}

/// A WebSocket over either version of HTTP.
trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}
type Socket = WebSocketStream<Box<dyn Io>>;

fn with<F, Fut>(version: &str, mesh: SocketAddr, path: &str, body: F) -> Result<String, String>
where
    F: FnOnce(Socket) -> Fut,
    Fut: Future<Output = Result<String, String>>,
{
    run(async {
        if version == "h1" {
            return body(over_h1(mesh, "chat", path).await?).await;
        }
        let mut send = connect(mesh).await?;
        extended(&mut send).await?;
        let ws = tunnel(&mut send, "chat", path).await?;
        body(ws).await
    })
}

async fn over_h1(target: SocketAddr, host: &str, path: &str) -> Result<Socket, String> {
    let stream = TcpStream::connect(target).await.map_err(|e| e.to_string())?;
    let stream: Box<dyn Io> = Box::new(stream);
    let url = format!("ws://{host}{path}");
    let (ws, _) = client_async_with_config(url, stream, Some(unlimited()))
        .await
        .map_err(|e| format!("the handshake: {e}"))?;
    Ok(ws)
}

type Client = h2::client::SendRequest<Bytes>;

/// Waits until the server's settings say that it takes extended CONNECT (RFC 8441 section 3).
async fn extended(send: &mut Client) -> Result<(), String> {
    let start = Instant::now();
    while !send.is_extended_connect_protocol_enabled() {
        if start.elapsed() > Duration::from_secs(5) {
            return Err("SETTINGS_ENABLE_CONNECT_PROTOCOL was not sent within 5 s".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn ask(
    send: &mut Client,
    host: &str,
    path: &str,
) -> Result<(h2::client::ResponseFuture, h2::SendStream<Bytes>), String> {
    let mut request = http::Request::connect(format!("http://{host}{path}"))
        .header("sec-websocket-version", "13")
        .body(())
        .map_err(|e| e.to_string())?;
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    send.send_request(request, false).map_err(|e| e.to_string())
}

/// Opens a WebSocket on an HTTP/2 stream; two tasks carry its bytes.
async fn tunnel(send: &mut Client, host: &str, path: &str) -> Result<Socket, String> {
    let (answer, body) = ask(send, host, path)?;
    let answer = tokio::time::timeout(SOON, answer).await.map_err(|_| "no answer".to_owned())?;
    let answer = answer.map_err(|e| format!("extended CONNECT: {e}"))?;
    if answer.status() != 200 {
        return Err(format!("extended CONNECT was answered {}", answer.status()));
    }
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (read, write) = tokio::io::split(far);
    tokio::spawn(up(read, body));
    tokio::spawn(down(answer.into_body(), write));
    let near: Box<dyn Io> = Box::new(near);
    Ok(WebSocketStream::from_raw_socket(near, Role::Client, Some(unlimited())).await)
}

/// Client to server; ends the stream when the client is done.
async fn up(mut from: tokio::io::ReadHalf<DuplexStream>, mut to: h2::SendStream<Bytes>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length) = from.read(&mut buffer).await {
        if length == 0 {
            break;
        }
        let mut rest = Bytes::copy_from_slice(&buffer[..length]);
        while !rest.is_empty() {
            to.reserve_capacity(rest.len());
            let Some(Ok(room)) = std::future::poll_fn(|cx| to.poll_capacity(cx)).await else {
                return;
            };
            let part = rest.split_to(room.min(rest.len()));
            if to.send_data(part, false).is_err() {
                return;
            }
        }
    }
    let _ = to.send_data(Bytes::new(), true);
}

/// Server to client.
async fn down(mut from: h2::RecvStream, mut to: tokio::io::WriteHalf<DuplexStream>) {
    while let Some(Ok(chunk)) = from.data().await {
        let _ = from.flow_control().release_capacity(chunk.len());
        if to.write_all(&chunk).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

async fn next(ws: &mut Socket) -> Result<Message, String> {
    match tokio::time::timeout(SOON, ws.next()).await {
        Ok(Some(message)) => message.map_err(|e| e.to_string()),
        Ok(None) => Err("the connection ended".to_owned()),
        Err(_) => Err(format!("nothing came within {SOON:?}")),
    }
}

async fn echo(ws: &mut Socket, message: Message) -> Result<String, String> {
    ws.send(message.clone()).await.map_err(|e| e.to_string())?;
    let back = next(ws).await?;
    if back == message { Ok(String::new()) } else { Err(format!("{back:?}")) }
}
