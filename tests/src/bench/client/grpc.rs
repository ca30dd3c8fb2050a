//! gRPC calls in closed loop: so many at a time, over a few connections.
//!
//! Four connections, because a peer with two threads can use only one of them for one connection; that is
//! to the advantage of those peers and costs the others nothing.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Method, Request};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use super::{Call, Report, Spec};
use crate::bench::account::{Reading, memory};
use crate::bench::calls::{self, ECHO, GRPC, MESSAGE, Messages, STREAM, UNARY};

const CONNECTIONS: usize = 4;
/// Messages of one call that streams.
const STREAMED: u32 = 1000;
/// Failures after which the client gives up: there is nothing to measure.
const HOPELESS: u64 = 10_000;
/// Between a failure and the next attempt.
const PAUSE: Duration = Duration::from_millis(1);

/// Runs the spec.
pub(super) fn run(spec: &Spec, call: Call) -> io::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, measure(spec, call))
}

/// Whether a call is answered.
///
/// # Errors
/// In words: what came instead.
pub fn probe(target: SocketAddr, patience: Duration) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    LocalSet::new().block_on(&runtime.map_err(|e| e.to_string())?, async {
        let channel = Channel { target, sender: Mutex::default() };
        let tally = Tally::default();
        let one = timeout(patience, channel.call(Call::Unary, &tally));
        one.await.map_err(|_| format!("no answer within {patience:?}"))?
    })
}

async fn measure(spec: &Spec, call: Call) -> io::Result<Report> {
    let channel = || Rc::new(Channel { target: spec.target, sender: Mutex::default() });
    let channels: [Rc<Channel>; CONNECTIONS] = std::array::from_fn(|_| channel());
    let tally = Rc::new(Tally::default());
    for (_, channel) in (0..spec.connections).zip(channels.iter().cycle()) {
        tokio::task::spawn_local(repeat(Rc::clone(channel), call, Rc::clone(&tally)));
    }
    sleep(spec.warm()).await;
    let before = Reading::take(&spec.watched)?;
    tally.counts.set(true);
    sleep(spec.window()).await;
    let after = Reading::take(&spec.watched)?;
    tally.counts.set(false);
    Ok(Report {
        answered: tally.answered.get(),
        failed: tally.failed.get(),
        reason: tally.reason.take(),
        bytes: tally.answered.get() * MESSAGE as u64,
        used: after.since(&before),
        memory: spec.watched.iter().map(memory).collect::<io::Result<_>>()?,
        ..Report::default()
    })
}

/// One call after the other, until the process ends.
async fn repeat(channel: Rc<Channel>, call: Call, tally: Rc<Tally>) {
    while tally.failed.get() < HOPELESS {
        if let Err(reason) = channel.call(call, &tally).await {
            tally.fail(reason);
            sleep(PAUSE).await;
        }
    }
}

/// What has been answered.
#[derive(Default)]
struct Tally {
    /// Whether the window is open.
    counts: Cell<bool>,
    answered: Cell<u64>,
    failed: Cell<u64>,
    reason: RefCell<Option<String>>,
}

impl Tally {
    fn answered(&self) {
        self.answered.set(self.answered.get() + u64::from(self.counts.get()));
    }

    fn fail(&self, reason: String) {
        self.failed.set(self.failed.get() + 1);
        self.reason.borrow_mut().get_or_insert(reason);
    }
}

/// A connection, opened again when it is gone.
struct Channel {
    target: SocketAddr,
    sender: Mutex<Option<SendRequest<Bytes>>>,
}

impl Channel {
    async fn call(&self, call: Call, tally: &Tally) -> Result<(), String> {
        match call {
            Call::Unary => self.unary(tally).await,
            Call::Stream => self.stream(tally).await,
            Call::Echo => self.echo(tally).await,
        }
    }

    async fn unary(&self, tally: &Tally) -> Result<(), String> {
        let (response, mut out) = self.begin(UNARY).await?;
        say_all(&mut out, &[b'q'; 16])?;
        let mut messages = Messages::new(body(response).await?);
        match (expect(&mut messages).await?, messages.next().await?) {
            (_, None) => messages.status().await?,
            (_, Some(_)) => return Err("a second answer".to_owned()),
        }
        tally.answered();
        Ok(())
    }

    async fn stream(&self, tally: &Tally) -> Result<(), String> {
        let (response, mut out) = self.begin(STREAM).await?;
        say_all(&mut out, &STREAMED.to_be_bytes())?;
        let mut messages = Messages::new(body(response).await?);
        for _ in 0..STREAMED {
            expect(&mut messages).await?;
            tally.answered();
        }
        match messages.next().await? {
            None => messages.status().await,
            Some(_) => Err("more messages than were asked for".to_owned()),
        }
    }

    async fn echo(&self, tally: &Tally) -> Result<(), String> {
        let (response, mut out) = self.begin(ECHO).await?;
        let message = calls::framed(&[b'e'; MESSAGE]);
        // The first message goes before the answer's head is waited for: a server may wait for it.
        calls::send(&mut out, message.clone()).await?;
        let mut messages = Messages::new(body(response).await?);
        expect(&mut messages).await?;
        tally.answered();
        for _ in 1..STREAMED {
            calls::send(&mut out, message.clone()).await?;
            expect(&mut messages).await?;
            tally.answered();
        }
        out.send_data(Bytes::new(), true).map_err(|e| e.to_string())?;
        match messages.next().await? {
            None => messages.status().await,
            Some(_) => Err("an echo of nothing".to_owned()),
        }
    }

    async fn begin(&self, path: &str) -> Result<(ResponseFuture, SendStream<Bytes>), String> {
        let uri = format!("http://bench{path}");
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header(http::header::CONTENT_TYPE, GRPC)
            .header(http::header::TE, "trailers")
            .body(())
            .map_err(|e| e.to_string())?;
        let mut held = self.sender.lock().await;
        let sender = match held.take() {
            Some(sender) => sender,
            None => connect(self.target).await?,
        };
        let mut sender = sender.ready().await.map_err(|e| e.to_string())?;
        let begun = sender.send_request(request, false).map_err(|e| e.to_string())?;
        // Left out when anything failed above: the next call connects again.
        *held = Some(sender);
        Ok(begun)
    }
}

async fn connect(target: SocketAddr) -> Result<SendRequest<Bytes>, String> {
    let stream = TcpStream::connect(target).await.map_err(|e| format!("cannot connect: {e}"))?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let (sender, connection) =
        calls::client().handshake(stream).await.map_err(|e| e.to_string())?;
    tokio::task::spawn_local(async move {
        // Its end, good or bad, is seen by the calls on it.
        let _ = connection.await;
    });
    Ok(sender)
}

/// A request's only message. Small: it needs no window.
fn say_all(out: &mut SendStream<Bytes>, payload: &[u8]) -> Result<(), String> {
    out.send_data(calls::framed(payload), true).map_err(|e| e.to_string())
}

async fn body(response: ResponseFuture) -> Result<RecvStream, String> {
    let response = response.await.map_err(|e| e.to_string())?;
    match response.status() {
        http::StatusCode::OK => Ok(response.into_body()),
        status => Err(format!("answered {status}")),
    }
}

async fn expect(messages: &mut Messages) -> Result<(), String> {
    match messages.next().await? {
        Some(message) if message.len() == MESSAGE => Ok(()),
        Some(message) => Err(format!("a message of {} bytes", message.len())),
        None => Err(match messages.status().await {
            Ok(()) => "no message".to_owned(),
            Err(reason) => reason,
        }),
    }
}
