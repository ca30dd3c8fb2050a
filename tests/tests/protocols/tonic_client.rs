//! gRPC by a Rust client: tonic's generic client with a codec of bytes, so that no protoc is needed.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes};
use futures_util::stream::{self, StreamExt};
use hearth_tests::cases::Cases;
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::raw_h2::run;

const MIB: usize = 1 << 20;
const SOON: Duration = Duration::from_secs(20);

/// Messages are bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        *self
    }
    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length)))
    }
}

/// Checks every rule through `mesh`; `app` is the application itself, asked what it saw.
pub(crate) fn check(cases: &mut Cases, mesh: SocketAddr, app: SocketAddr) {
    cases.check("tonic: a unary call with metadata and trailers", || run(unary(mesh)));
    cases.check("tonic: a server stream of 1,000 messages in order", || run(server_stream(mesh)));
    cases.check("tonic: a client stream of 1,000 messages", || run(client_stream(mesh)));
    cases.check("tonic: a bidirectional stream takes turns", || run(bidi(mesh)));
    cases.check("tonic: a deadline that passes is told to the application", || {
        run(deadline(mesh, app))
    });
    cases.check("tonic: a stream that is dropped is seen by the application", || {
        run(dropped(mesh, app))
    });
    cases.check("tonic: messages of 4 MiB and of 16 MiB", || run(large(mesh)));
    cases.check("tonic: a status with details, before and after messages", || run(status(mesh)));
}

async fn client(target: SocketAddr) -> Result<Grpc<Channel>, String> {
    let endpoint = Endpoint::from_shared(format!("http://{target}")).map_err(|e| e.to_string())?;
    let channel = endpoint.connect().await.map_err(|e| format!("connect {target}: {e}"))?;
    let mut grpc = Grpc::new(channel).max_decoding_message_size(64 * MIB);
    grpc.ready().await.map_err(|e| e.to_string())?;
    Ok(grpc)
}

fn method(name: &str) -> PathAndQuery {
    format!("/hearth.test.Echo/{name}").parse().unwrap()
}

fn request<T>(message: T, fields: &[(&'static str, &str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in fields {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    request
}

#[allow(clippy::needless_pass_by_value)] // `map_err` gives it away
fn words(status: Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

fn equal<T: PartialEq + std::fmt::Debug>(got: T, wanted: T) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("got {got:?}, wanted {wanted:?}")) }
}

async fn unary(mesh: SocketAddr) -> Result<String, String> {
    let call = request(Bytes::from_static(b"hello"), &[("x-mine", "yes")]);
    let answer = client(mesh).await?.unary(call, method("Unary"), Raw).await.map_err(words)?;
    let field = |name: &str| answer.metadata().get(name).map(|v| v.to_str().unwrap().to_owned());
    // tonic puts the trailers of a unary call beside its initial metadata.
    equal((field("x-initial-mine"), field("x-mine")), (Some("yes".into()), Some("yes".into())))?;
    equal(answer.into_inner(), Bytes::from_static(b"hello"))?;
    Ok(String::new())
}

async fn server_stream(mesh: SocketAddr) -> Result<String, String> {
    let order = Bytes::from_static(br#"{"count": 1000, "size": 50}"#);
    let call = request(order, &[]);
    let answer = client(mesh).await?.server_streaming(call, method("ServerStream"), Raw).await;
    let mut messages = answer.map_err(words)?.into_inner();
    let mut count = 0_usize;
    while let Some(message) = messages.message().await.map_err(words)? {
        equal((message.len(), usize::from(message[0])), (50, count % 256))?;
        count += 1;
    }
    equal(count, 1000)?;
    Ok(String::new())
}

async fn client_stream(mesh: SocketAddr) -> Result<String, String> {
    let messages = (0..1000_usize).map(|n| Bytes::from(vec![7; n]));
    let call = Request::new(stream::iter(messages));
    let answer = client(mesh).await?.client_streaming(call, method("ClientStream"), Raw).await;
    let told: serde_json::Value =
        serde_json::from_slice(&answer.map_err(words)?.into_inner()).map_err(|e| e.to_string())?;
    equal((told["count"].as_u64(), told["size"].as_u64()), (Some(1000), Some(499_500)))?;
    Ok(String::new())
}

async fn bidi(mesh: SocketAddr) -> Result<String, String> {
    let (say, said) = tokio::sync::mpsc::channel::<Bytes>(1);
    let questions = stream::unfold(said, |mut said| async {
        let message = said.recv().await?;
        Some((message, said))
    });
    say.send(Bytes::from_static(b"0")).await.map_err(|e| e.to_string())?;
    let call = Request::new(questions);
    let answer = client(mesh).await?.streaming(call, method("Bidi"), Raw).await.map_err(words)?;
    let mut answers = answer.into_inner();
    for n in 0..100 {
        let heard = answers.message().await.map_err(words)?;
        equal(heard, Some(Bytes::from(n.to_string())))?;
        say.send(Bytes::from((n + 1).to_string())).await.map_err(|e| e.to_string())?;
    }
    drop(say);
    equal(answers.message().await.map_err(words)?, Some(Bytes::from_static(b"100")))?;
    equal(answers.message().await.map_err(words)?, None)?;
    Ok(String::new())
}

/// The events of a call, as the application tells them, once there are `enough`.
async fn seen(app: SocketAddr, id: &str, enough: usize) -> Result<Vec<serde_json::Value>, String> {
    let start = Instant::now();
    loop {
        let call = Request::new(Bytes::from(id.to_owned()));
        let answer = client(app).await?.unary(call, method("Seen"), Raw).await.map_err(words)?;
        let events: Vec<serde_json::Value> =
            serde_json::from_slice(&answer.into_inner()).map_err(|e| e.to_string())?;
        if events.len() >= enough {
            return Ok(events);
        }
        if start.elapsed() > SOON {
            return Err(format!("the application saw only {events:?} within {SOON:?}"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// How many events of a call the application has.
pub(crate) async fn events(app: SocketAddr, id: &str) -> Result<usize, String> {
    Ok(seen(app, id, 0).await?.len())
}

async fn deadline(mesh: SocketAddr, app: SocketAddr) -> Result<String, String> {
    let mut call = request(Bytes::new(), &[("x-id", "tonic-deadline")]);
    call.set_timeout(Duration::from_secs(1));
    let start = Instant::now();
    let error = match client(mesh).await?.unary(call, method("Hang"), Raw).await {
        Ok(_) => return Err("it was answered".to_owned()),
        Err(error) => error,
    };
    // tonic tells its own deadline as Cancelled, the mesh's word would be DeadlineExceeded.
    if !matches!(error.code(), Code::DeadlineExceeded | Code::Cancelled) {
        return Err(words(error));
    }
    let took = start.elapsed();
    let events = seen(app, "tonic-deadline", 2).await?;
    let at = |n: usize| events[n]["at"].as_f64().unwrap_or_default();
    let lasted = at(1) - at(0);
    if !(0.5..3.0).contains(&lasted) {
        return Err(format!("the application worked on it for {lasted:.2} s"));
    }
    Ok(format!("client told after {took:.2?}, application after {lasted:.2} s"))
}

async fn dropped(mesh: SocketAddr, app: SocketAddr) -> Result<String, String> {
    let call = request(Bytes::new(), &[("x-id", "tonic-dropped")]);
    let answer = client(mesh).await?.server_streaming(call, method("HangStream"), Raw).await;
    let mut messages = answer.map_err(words)?.into_inner();
    equal(messages.message().await.map_err(words)?, Some(Bytes::from_static(b"first")))?;
    drop(messages);
    seen(app, "tonic-dropped", 2).await?;
    Ok(String::new())
}

async fn large(mesh: SocketAddr) -> Result<String, String> {
    for size in [4 * MIB, 16 * MIB] {
        let message: Bytes = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let call = Request::new(message.clone());
        let answer = client(mesh).await?.unary(call, method("Unary"), Raw).await.map_err(words)?;
        if answer.into_inner() != message {
            return Err(format!("{size} bytes came back changed"));
        }
    }
    Ok(String::new())
}

async fn status(mesh: SocketAddr) -> Result<String, String> {
    let fields = [("x-status", "9"), ("x-details", "not yet: 100%")];
    let call = request(Bytes::new(), &fields);
    let error = client(mesh).await?.unary(call, method("Unary"), Raw).await.unwrap_err();
    equal((error.code(), error.message()), (Code::FailedPrecondition, "not yet: 100%"))?;
    let order = Bytes::from_static(br#"{"count": 9, "size": 5}"#);
    let fields = [("x-status", "9"), ("x-after", "2")];
    let call = request(order, &fields);
    let answer = client(mesh).await?.server_streaming(call, method("ServerStream"), Raw).await;
    let messages = answer.map_err(words)?.into_inner();
    let all: Vec<_> = messages.collect().await;
    let codes: Vec<_> = all.iter().map(|m| m.as_ref().err().map(Status::code)).collect();
    equal(codes, vec![None, None, Some(Code::FailedPrecondition)])?;
    Ok(String::new())
}
