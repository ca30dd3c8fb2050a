//! gRPC through two agents: what its clients and applications say to each other, and what they are told
//! by us.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_proto::advert::Protocol;
use hearth_proto::policy::{RetryOn, ServicePolicy};
use hearth_proto::route::Choice;
use hearth_proto::time::Span;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

use super::mesh::{Host, plain};
use crate::identity::authority::Authority;
use crate::link::tests::{Agent, loopback};

type Answer = Response<UnsyncBoxBody<Bytes, std::io::Error>>;

/// An application of gRPC that does what the path says.
struct App {
    host: Host,
    /// The calls of every application of the mesh together: whom the balancer prefers is its affair.
    calls: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

impl App {
    async fn start(
        authority: &Authority,
        node: &str,
        says: &'static str,
        calls: Arc<AtomicUsize>,
    ) -> Self {
        let listener = TcpListener::bind(loopback(0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = (calls.clone(), connections.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.1.fetch_add(1, Ordering::SeqCst);
                let calls = counted.0.clone();
                let service = service_fn(move |request| {
                    answer(says, calls.fetch_add(1, Ordering::SeqCst), request)
                });
                let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .max_concurrent_streams(2)
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(async move { drop(serving.await) });
            }
        });
        let agent = Agent::start(authority, node);
        let host = Host::over(agent, Some(address), Protocol::Grpc).await;
        Self { host, calls, connections }
    }
}

fn only_trailers(status: &'static str, pushback: Option<&'static str>) -> Answer {
    let mut answer = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    let headers = answer.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(status));
    if let Some(pushback) = pushback {
        headers.insert("grpc-retry-pushback-ms", HeaderValue::from_static(pushback));
    }
    answer
}

async fn answer(
    says: &'static str,
    turn: usize,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let path = request.uri().path().to_owned();
    let told = request.headers().get("grpc-timeout").cloned();
    let body = match path.as_str() {
        "/unknown" => return Ok(only_trailers("12", None)),
        "/every-other" if turn.is_multiple_of(2) => return Ok(only_trailers("14", None)),
        "/pushed" => return Ok(only_trailers("14", Some("-1"))),
        "/hang" => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Bytes::new()
        }
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Bytes::from(says)
        }
        "/echo" => request.into_body().collect().await.unwrap().to_bytes(),
        _ => Bytes::from(says),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let last = match path.as_str() {
        "/break" => Err(std::io::Error::other("broken")),
        _ => Ok(Frame::trailers(trailers)),
    };
    let frames = futures_util::stream::iter([Ok(Frame::data(body)), last]);
    let mut answer = Response::new(StreamBody::new(frames).boxed_unsync());
    answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    if let Some(told) = told {
        answer.headers_mut().insert("x-timeout", told);
    }
    Ok(answer)
}

async fn mesh() -> (Host, App, App) {
    let authority = Authority::new("mesh.example");
    let calls = Arc::new(AtomicUsize::new(0));
    let b = App::start(&authority, "b", "b", calls.clone()).await;
    let c = App::start(&authority, "c", "c", calls).await;
    let a = Host::start(&authority, "a", None).await;
    route(&a, &[("b", b.host.agent.address)], plain());
    (a, b, c)
}

fn route(a: &Host, to: &[(&str, std::net::SocketAddr)], policy: ServicePolicy) {
    a.route(to, policy.clone());
    let mut candidates = a.candidates();
    candidates.iter_mut().for_each(|c| c.protocol = Protocol::Grpc);
    a.put(candidates, policy, Choice::Serve);
}

type Client = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

async fn client(a: &Host) -> Client {
    let stream = TcpStream::connect(a.upstream).await.unwrap();
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    client
}

async fn call(client: &mut Client, path: &str, fields: &[(&str, &str)]) -> Response<Incoming> {
    let mut request = Request::post(format!("http://ledger{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from_static(b"hello"))).unwrap();
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, client.send_request(request)).await.expect("in time").unwrap()
}

/// Body and status of an answer, wherever the status stands.
async fn end(answer: Response<Incoming>) -> (Bytes, String) {
    let in_head = answer.headers().get("grpc-status").cloned();
    let all = answer.into_body().collect().await.unwrap();
    let in_trailers = all.trailers().and_then(|t| t.get("grpc-status")).cloned();
    let status = in_head.or(in_trailers).map(|s| s.to_str().unwrap().to_owned());
    (all.to_bytes(), status.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_comes_back_with_its_trailers() {
    let (a, _b, _c) = mesh().await;
    let answer = call(&mut client(&a).await, "/echo", &[]).await;
    assert_eq!(end(answer).await, (Bytes::from_static(b"hello"), "0".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_only_trailers_stays_one() {
    let (a, _b, _c) = mesh().await;
    let answer = call(&mut client(&a).await, "/unknown", &[]).await;
    assert!(answer.body().is_end_stream());
    assert_eq!(end(answer).await.1, "12");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_failures_are_told_as_grpc_has_it() {
    let (a, _b, _c) = mesh().await;
    a.choose(&[], plain(), |_| Choice::Nobody);
    let answer = call(&mut client(&a).await, "/echo", &[]).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/grpc");
    assert!(answer.headers()["proxy-status"].to_str().unwrap().contains("destination_unavailable"));
    assert!(answer.body().is_end_stream());
    assert_eq!(end(answer).await.1, "14");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_s_deadline_holds_and_is_passed_on_shortened() {
    let (a, _b, _c) = mesh().await;
    let mut client = client(&a).await;
    let started = Instant::now();
    let late = call(&mut client, "/hang", &[("grpc-timeout", "300m")]).await;
    assert_eq!(end(late).await.1, "4");
    assert!(started.elapsed() < Duration::from_secs(10));
    let told = call(&mut client, "/echo", &[("grpc-timeout", "200S")]).await;
    let left = told.headers()["x-timeout"].to_str().unwrap();
    let millis: u64 = left.strip_suffix('m').unwrap().parse().unwrap();
    assert!((100_000..200_000).contains(&millis), "{left}");
    // The policy's time is for the wait, and is none of the application's.
    let told = call(&mut client, "/echo", &[]).await;
    assert!(!told.headers().contains_key("x-timeout"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_s_time_that_is_over_is_a_deadline() {
    let (a, b, _c) = mesh().await;
    let short = ServicePolicy { timeout: Span(Duration::from_millis(300)), ..plain() };
    route(&a, &[("b", b.host.agent.address)], short);
    let late = call(&mut client(&a).await, "/hang", &[]).await;
    assert_eq!(end(late).await.1, "4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unavailable_application_s_calls_go_elsewhere_only_if_the_policy_says_so() {
    let (a, b, c) = mesh().await;
    let both = [("b", b.host.agent.address), ("c", c.host.agent.address)];
    let mut client = client(&a).await;
    route(&a, &both[..1], plain());
    for status in ["14", "0"] {
        assert_eq!(end(call(&mut client, "/every-other", &[]).await).await.1, status);
    }
    let again = ServicePolicy { retry_on: vec![RetryOn::GrpcUnavailable], ..plain() };
    route(&a, &both, again);
    let asked = || b.calls.load(Ordering::SeqCst);
    for tries in (4..24).step_by(2) {
        assert_eq!(end(call(&mut client, "/every-other", &[]).await).await.1, "0");
        assert_eq!(asked(), tries, "each was told 14 once and went elsewhere");
    }
    // The application's own word is the last one.
    for tries in 23..43 {
        assert_eq!(end(call(&mut client, "/pushed", &[]).await).await.1, "14");
        assert_eq!(asked(), tries, "none was asked again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_off_ends_as_unavailable() {
    let (a, _b, _c) = mesh().await;
    let answer = call(&mut client(&a).await, "/break", &[]).await;
    // Whether any of it came before is the transport's affair.
    assert_eq!(end(answer).await.1, "14");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_calls_than_a_connection_takes_get_more_connections_up_to_a_bound() {
    let (a, b, _c) = mesh().await;
    // The application's settings are there with the first answer, and taken note of with the next call.
    let mut first = client(&a).await;
    for _ in 0..2 {
        assert_eq!(end(call(&mut first, "/echo", &[]).await).await.1, "0");
    }
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let mut client = first.clone();
        calls.spawn(async move { end(call(&mut client, "/slow", &[]).await).await.1 });
    }
    assert!(calls.join_all().await.iter().all(|status| status == "0"));
    let connections = b.connections.load(Ordering::SeqCst);
    assert!((2..=4).contains(&connections), "{connections} connections");
}
