//! A request as it is put to an application of ours, and what its answer means.
//!
//! The owner's last hop: fields of the hop are put on here and taken off again, an answer that could be
//! read in two ways is an answer of nobody, and a body that the client offers with `Expect` is asked for
//! only when the application asks. Says with each failure whether the application may have seen the
//! request. No task of its own; dropping a call drops its request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_proto::advert::Protocol;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, SEC_WEBSOCKET_KEY, TE, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::upgrade::OnUpgrade;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use super::application::{AppFailure, uri};
use super::body::{Body, BodyError};
use super::frame::{Cause, Refused};
use super::framing::is_certain;
use super::head::{BodyKind, RequestHead, ResponseHead};
use super::headers::{forward_interim, forward_response, has_token};
use super::{Inner, LocalEndpoint, grpc, upgrade};
use crate::config::HttpVersion;
use crate::driver::PathReport;

/// An application that does not say within this that it wants a body gets it all the same: a client may do
/// the same (RFC 9110 section 10.1.1), and many applications never say.
const EXPECT_LIMIT: Duration = Duration::from_secs(1);

/// What an application answered.
pub(crate) struct Called {
    /// Its answer, the fields of the hop taken off and ourselves signed.
    pub(crate) response: Response<Incoming>,
    /// The connection, once it is another protocol's; the answer has status 101 then, in HTTP/2 too.
    pub(crate) upgraded: Option<OnUpgrade>,
}

/// Where interim answers go. What does not fit is left out: they are hints.
pub(crate) type Interim = mpsc::Sender<ResponseHead>;

impl Inner {
    /// Has the application answer, within `left`, a request that has been here since `arrived`.
    pub(crate) async fn call_application(
        &self,
        endpoint: &LocalEndpoint,
        head: RequestHead,
        body: Body,
        left: Duration,
        arrived: Instant,
        interim: Interim,
    ) -> Result<Called, Refused> {
        let call = build(endpoint, &head, body, arrived.elapsed(), interim)?;
        let failed = |executed, cause, detail| Err(Refused { executed, cause, detail });
        match timeout(left, self.applications.call(endpoint, call.request)).await {
            Ok(Ok(response)) => {
                if let Some(gate) = call.gate.filter(|_| response.status().is_success()) {
                    // It answers first and reads then: no 100 will follow.
                    gate.notify_one();
                }
                let asked = call.asked;
                answer(response, asked.as_ref(), self.node().as_str()).or_else(|why| {
                    let detail = format!("the application at {} answered {why}", endpoint.address);
                    failed(true, Cause::AppBroke, detail)
                })
            }
            Ok(Err(AppFailure::NotReached(why))) => {
                self.tell(PathReport::LocalRefused { endpoint: endpoint.id.clone() });
                let detail = format!("the application at {} refused: {why}", endpoint.address);
                failed(false, Cause::AppRefused, detail)
            }
            Ok(Err(AppFailure::Broke(why))) => {
                self.tell(PathReport::LocalBroke { endpoint: endpoint.id.clone() });
                let detail = format!("the application at {} broke off: {why}", endpoint.address);
                failed(true, Cause::AppBroke, detail)
            }
            Err(_) => {
                let detail = format!("the application at {} gave no answer", endpoint.address);
                failed(true, Cause::AppSilent, detail)
            }
        }
    }
}

/// A request to an application.
struct Call {
    request: Request<Body>,
    asked: Option<Asked>,
    /// Opens the body, where it is held back until it is asked for.
    gate: Option<Arc<Notify>>,
}

/// That it asks to upgrade.
struct Asked {
    /// A WebSocket's key that was made up for the application.
    made_up: Option<HeaderValue>,
}

fn build(
    endpoint: &LocalEndpoint,
    head: &RequestHead,
    body: Body,
    spent: Duration,
    interim: Interim,
) -> Result<Call, Refused> {
    let malformed = |detail: String| Refused { executed: false, cause: Cause::Malformed, detail };
    let mut headers = HeaderMap::try_from(&head.fields).map_err(|e| malformed(e.to_string()))?;
    let method = Method::from_bytes(head.method.as_bytes())
        .map_err(|e| malformed(format!("method {:?}: {e}", head.method)))?;
    let uri = uri(endpoint, &head.authority, &head.target)
        .map_err(|e| malformed(format!("target {:?}: {e}", head.target)))?;
    let two = endpoint.http == HttpVersion::Two;
    address(&mut headers, endpoint, &head.authority);
    let waits = !two && head.body != BodyKind::None && has_token(&headers, EXPECT, "100-continue");
    if !waits {
        headers.remove(EXPECT);
    }
    delimit(&mut headers, head, two);
    if grpc::is_grpc(&headers) {
        grpc::spend(&mut headers, spent);
    }
    let (body, gate) = if waits { gated(body) } else { (body, None) };
    let mut request = Request::new(sized(body, head.length.filter(|l| *l > 0)));
    (*request.method_mut(), *request.uri_mut()) = (method, uri);
    let asked = match (&*head.upgrade, two) {
        ("", _) => None,
        (token, false) => Some(Asked { made_up: upgrade::ask(&mut headers, token) }),
        (token, true) => {
            headers.remove(SEC_WEBSOCKET_KEY);
            *request.method_mut() = Method::CONNECT;
            request.extensions_mut().insert(hyper::ext::Protocol::from(token));
            Some(Asked { made_up: None })
        }
    };
    if two {
        *request.version_mut() = Version::HTTP_2;
    }
    *request.headers_mut() = headers;
    let opens = gate.clone();
    hyper::ext::on_informational(&mut request, move |answer| match answer.status() {
        StatusCode::CONTINUE => {
            if let Some(gate) = &opens {
                gate.notify_one();
            }
        }
        status => {
            let mut headers = answer.headers().clone();
            forward_interim(&mut headers);
            let fields = (&headers).into();
            let _ =
                interim.try_send(ResponseHead { status: status.as_u16(), length: None, fields });
        }
    });
    Ok(Call { request, asked, gate })
}

/// Whom the request is for.
fn address(headers: &mut HeaderMap, endpoint: &LocalEndpoint, authority: &str) {
    if endpoint.http == HttpVersion::Two {
        // `:authority` says it; a second word on it could only contradict (RFC 9113 section 8.3.1).
        headers.remove(HOST);
    } else if let Ok(host) = HeaderValue::try_from(authority) {
        headers.insert(HOST, host);
    }
    if endpoint.protocol == Protocol::Grpc {
        // Some servers insist on it (gRPC over HTTP/2, "te: trailers").
        headers.insert(TE, HeaderValue::from_static("trailers"));
    } else if endpoint.http == HttpVersion::One && headers.contains_key(TE) {
        // RFC 9110 section 10.1.4: it is of this hop only.
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
}

/// How long the body is, as far as the body does not say it itself.
fn delimit(headers: &mut HeaderMap, head: &RequestHead, two: bool) {
    headers.remove(CONTENT_LENGTH);
    match (head.body, head.length) {
        // A client that said "0" said more than one that said nothing.
        (_, Some(0)) => drop(headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"))),
        // hyper would leave the body out of a GET.
        (BodyKind::Inline | BodyKind::AfterGo, None) if !two && head.upgrade.is_empty() => {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        _ => {}
    }
}

/// An answer as it goes on. The error says what is wrong with it.
fn answer(
    mut response: Response<Incoming>,
    asked: Option<&Asked>,
    node: &str,
) -> Result<Called, &'static str> {
    is_certain(response.headers())?;
    let (status, version) = (response.status(), response.version());
    let lets = match version {
        Version::HTTP_2 => asked.is_some() && status == StatusCode::OK,
        _ => status == StatusCode::SWITCHING_PROTOCOLS,
    };
    if lets && asked.is_none() {
        return Err("with another protocol that nobody asked for");
    }
    let made_up = asked.and_then(|a| a.made_up.as_ref());
    if let Some(key) = made_up.filter(|_| lets)
        && !upgrade::is_answer_to(key, response.headers_mut())
    {
        return Err("with a WebSocket whose key is not the one it was given");
    }
    let upgraded = lets.then(|| hyper::upgrade::on(&mut response));
    let token = response.headers().get(upgrade::TOKEN).cloned().filter(|_| lets);
    forward_response(response.headers_mut(), version, node);
    if status == StatusCode::NO_CONTENT {
        // RFC 9110 section 8.6.
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    if lets {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    if let Some(token) = token {
        response.headers_mut().insert(upgrade::TOKEN, token);
    }
    Ok(Called { response, upgraded })
}

/// A body that is not touched before the application asks for it, and whom to tell that it did.
fn gated(body: Body) -> (Body, Option<Arc<Notify>>) {
    struct Gated {
        /// Until it is open.
        gate: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
        body: Body,
    }
    impl hyper::body::Body for Gated {
        type Data = Bytes;
        type Error = BodyError;
        fn poll_frame(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            let this = self.get_mut();
            if let Some(gate) = &mut this.gate {
                ready!(gate.as_mut().poll(cx));
                this.gate = None;
            }
            Pin::new(&mut this.body).poll_frame(cx)
        }
        fn size_hint(&self) -> SizeHint {
            self.body.size_hint()
        }
    }
    let asked = Arc::new(Notify::new());
    let told = asked.clone();
    let gate = Box::pin(async move { drop(timeout(EXPECT_LIMIT, told.notified()).await) });
    (Gated { gate: Some(gate), body }.boxed_unsync(), Some(asked))
}

/// A body with the length that the caller announced, so that it is not sent in chunks.
fn sized(body: Body, length: Option<u64>) -> Body {
    struct Sized {
        body: Body,
        length: u64,
    }
    impl hyper::body::Body for Sized {
        type Data = Bytes;
        type Error = BodyError;
        fn poll_frame(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Pin::new(&mut self.get_mut().body).poll_frame(cx)
        }
        fn is_end_stream(&self) -> bool {
            self.length == 0
        }
        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.length)
        }
    }
    match length {
        Some(length) => Sized { body, length }.boxed_unsync(),
        None => body,
    }
}
