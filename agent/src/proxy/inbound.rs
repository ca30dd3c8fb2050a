//! The owner's side: a peer's stream, may it, does the endpoint serve, the application's answer.
//!
//! Decides nothing about where requests go; it says *no* in a way that tells the caller whether the
//! application may have seen the request. A caller that gives up stops the stream, and the request to the
//! application is dropped with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hearth_proto::advert::Condition;
use hearth_proto::ids::{EndpointId, NodeName};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tokio::time::{timeout, timeout_at};

use super::application::{AppFailure, uri};
use super::body::{Body, BodyError, framed, pump};
use super::frame::{self, Cause, Frames, Opening, Refused};
use super::head::{BodyKind, RequestHead, ResponseHead};
use super::headers::forward_response;
use super::{Inner, LocalEndpoint, fast, tcp, udp};
use crate::config::HttpVersion;
use crate::driver::PathReport;
use crate::link::{DataStream, Sender};
use hearth_proto::advert::Protocol;

/// A peer's stream that does not say what it wants for so long is given up.
const OPENING_LIMIT: Duration = Duration::from_secs(5);
/// Requests of peers under way at once.
const MAX_INBOUND: usize = 8192;
/// A request waits at most so long for an endpoint that is being activated.
const HOLD_ACTIVATING: Duration = Duration::from_secs(10);

/// Counts while it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Option<Self> {
        // Counted before it is compared, so that many at once cannot slip through.
        let counted = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < MAX_INBOUND).then_some(counted)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves one stream of a peer to its end.
pub(crate) async fn serve(inner: Arc<Inner>, caller: NodeName, stream: DataStream) {
    let (mut send, mut frames) = (stream.send, Frames::new(stream.recv));
    let counted = Counted::new(&inner.inbound);
    let opening = match timeout(OPENING_LIMIT, frames.opening()).await {
        Ok(Ok(opening)) => opening,
        Ok(Err(error)) => {
            let refused =
                Refused { executed: false, cause: Cause::Malformed, detail: error.to_string() };
            refuse(&mut send, &refused).await;
            return;
        }
        Err(_) => return,
    };
    let (Opening::Http(head) | Opening::Bytes(head) | Opening::Datagrams(head)) = &opening;
    // Names that peers make up must not become time series.
    let ours = inner.locals.load().iter().any(|e| e.id.service == head.service);
    let service = if ours { head.service.clone() } else { inner.unknown.clone() };
    if counted.is_none() {
        let detail = format!("{MAX_INBOUND} requests are under way on {}", inner.node());
        refuse(&mut send, &Refused { executed: false, cause: Cause::Busy, detail }).await;
        inner.metrics.inbound(&service, Cause::Busy.word());
        return;
    }
    let given_up = send.stopped();
    let work = async {
        match opening {
            Opening::Http(head) => http(&inner, &caller, head, &mut send, frames).await,
            Opening::Bytes(head) => tcp::serve(&inner, &caller, &head, &mut send, frames).await,
            Opening::Datagrams(head) => udp::serve(&inner, &caller, &head, &mut send, frames).await,
        }
    };
    let outcome = tokio::select! {
        result = work => match result {
            Ok(()) => "ok",
            Err(refused) => {
                tracing::debug!(%caller, %service, cause = refused.cause.word(),
                    executed = refused.executed, detail = refused.detail, "request refused");
                refuse(&mut send, &refused).await;
                refused.cause.word()
            }
        },
        true = given_up => "given_up",
    };
    inner.metrics.inbound(&service, outcome);
}

async fn refuse(send: &mut Sender, refused: &Refused) {
    // A refusal of a few words can always be encoded; if it cannot be sent, nobody waits for it.
    if let Ok(bytes) = frame::refused(refused)
        && send.write_chunk(bytes).await.is_ok()
    {
        send.finish();
    }
}

async fn http(
    inner: &Arc<Inner>,
    caller: &NodeName,
    head: RequestHead,
    send: &mut Sender,
    frames: Frames,
) -> Result<(), Refused> {
    let arrived = Instant::now();
    let limit = Duration::from_micros(head.left_us);
    let endpoint = inner.admit(caller, &head, limit).await?;
    let left = limit.saturating_sub(arrived.elapsed());
    if fast::owner::takes(&endpoint, &head) {
        return fast::owner::serve(inner, &endpoint, &head, left, send, frames).await;
    }
    let (go, mut asked) = oneshot::channel();
    let mut awaits_go = head.body == BodyKind::AfterGo;
    let body = match head.body {
        BodyKind::None => super::body::empty(),
        BodyKind::Inline => framed(frames, (), None),
        BodyKind::AfterGo => framed(frames, (), Some(go)),
    };
    let body = sized(body, head.length);
    let call = inner.call_application(&endpoint, head, body, left);
    tokio::pin!(call);
    let response = loop {
        tokio::select! {
            biased;
            Ok(()) = &mut asked, if awaits_go => {
                awaits_go = false;
                // If it cannot be written the caller is gone, and `given_up` ends this.
                let _ = send.write_chunk(frame::go()).await;
            }
            response = &mut call => break response?,
        }
    };
    let (mut parts, body) = response.into_parts();
    let length = parts.headers.remove(CONTENT_LENGTH);
    let length = length.and_then(|l| l.to_str().ok()?.parse().ok());
    let head =
        ResponseHead { status: parts.status.as_u16(), length, fields: (&parts.headers).into() };
    let head = frame::head(&head).ok_or_else(|| Refused {
        executed: true,
        cause: Cause::AppBroke,
        detail: "the answer's head is too large to be passed on".into(),
    })?;
    let body = body.map_err(BodyError::from).boxed_unsync();
    if let Err(error) = pump(send, body, vec![head]).await {
        // The head is out: all that is left is to reset the stream, which dropping it does.
        tracing::debug!(%caller, %error, "answer cut short");
    }
    Ok(())
}

/// A body with the length that the caller announced, so that it is not sent in chunks.
fn sized(body: Body, length: Option<u64>) -> Body {
    struct Sized {
        body: Body,
        length: u64,
    }
    impl hyper::body::Body for Sized {
        type Data = bytes::Bytes;
        type Error = BodyError;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, BodyError>>> {
            std::pin::Pin::new(&mut self.get_mut().body).poll_frame(cx)
        }
        fn is_end_stream(&self) -> bool {
            self.length == 0
        }
        fn size_hint(&self) -> hyper::body::SizeHint {
            hyper::body::SizeHint::with_exact(self.length)
        }
    }
    match length {
        Some(length) => Sized { body, length }.boxed_unsync(),
        None => body,
    }
}

impl Inner {
    /// Whether `caller` may have this request served here, and by which endpoint. Waits for one that is
    /// being activated.
    pub(crate) async fn admit(
        &self,
        caller: &NodeName,
        head: &RequestHead,
        left: Duration,
    ) -> Result<LocalEndpoint, Refused> {
        let refused = |cause, detail| Refused { executed: false, cause, detail };
        let id = EndpointId {
            service: head.service.clone(),
            node: self.node().clone(),
            instance: head.instance,
        };
        let Some(endpoint) = self.locals.load().iter().find(|e| e.id == id).cloned() else {
            let detail = format!("{} offers no {}", self.node(), head.service);
            return Err(refused(Cause::NotOurs, detail));
        };
        let Some(route) = self.route(&head.service) else {
            let detail = format!("the policy of {} is not known here yet", head.service);
            return Err(refused(Cause::NotServing, detail));
        };
        if !route.policy.allows(caller) {
            tracing::warn!(%caller, service = %head.service, reason = "denied", "request refused");
            let detail = format!("the policy of {} does not list {caller} in allow", head.service);
            return Err(refused(Cause::Denied, detail));
        }
        let mut changed = self.mesh.changed.clone();
        let until = Instant::now() + left.min(HOLD_ACTIVATING);
        loop {
            changed.borrow_and_update();
            let condition = self.mesh.snapshot.load().own.get(&id).copied();
            let not = match condition {
                Some(Condition::Serving) => return Ok(endpoint),
                Some(Condition::Activating) => "activating",
                Some(other) => {
                    let detail = format!("{id} is {}", other.word());
                    return Err(refused(Cause::NotServing, detail));
                }
                None => return Err(refused(Cause::NotServing, format!("{id} is not up yet"))),
            };
            if !matches!(timeout_at(until.into(), changed.changed()).await, Ok(Ok(()))) {
                return Err(refused(Cause::NotServing, format!("{id} is still {not}")));
            }
        }
    }

    /// Has the application answer.
    pub(crate) async fn call_application(
        &self,
        endpoint: &LocalEndpoint,
        head: RequestHead,
        body: Body,
        left: Duration,
    ) -> Result<Response<Incoming>, Refused> {
        let request = build(endpoint, head, body)?;
        let version = request.version();
        let failed = |executed, cause, detail| Err(Refused { executed, cause, detail });
        match timeout(left, self.applications.call(endpoint, request)).await {
            Ok(Ok(mut response)) => {
                let version = response.version().max(version);
                forward_response(response.headers_mut(), version, self.node().as_str());
                Ok(response)
            }
            Ok(Err(AppFailure::NotReached(why))) => {
                self.tell(PathReport::LocalRefused { endpoint: endpoint.id.clone() });
                let detail = format!("the application at {} refused: {why}", endpoint.address);
                failed(false, Cause::AppRefused, detail)
            }
            Ok(Err(AppFailure::Broke(why))) => {
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

fn build(
    endpoint: &LocalEndpoint,
    head: RequestHead,
    body: Body,
) -> Result<Request<Body>, Refused> {
    let malformed = |detail: String| Refused { executed: false, cause: Cause::Malformed, detail };
    let mut request = Request::new(body);
    *request.method_mut() = Method::from_bytes(head.method.as_bytes())
        .map_err(|e| malformed(format!("method {:?}: {e}", head.method)))?;
    *request.uri_mut() = uri(endpoint, &head.authority, &head.target)
        .map_err(|e| malformed(format!("target {:?}: {e}", head.target)))?;
    let mut headers = HeaderMap::try_from(&head.fields).map_err(|e| malformed(e.to_string()))?;
    if endpoint.http == HttpVersion::Two {
        // `:authority` says it; a second word on it could only contradict (RFC 9113 section 8.3.1).
        headers.remove(HOST);
        *request.version_mut() = http::Version::HTTP_2;
    } else if let Ok(host) = HeaderValue::try_from(&head.authority) {
        headers.insert(HOST, host);
    }
    if endpoint.protocol == Protocol::Grpc {
        // Some servers insist on it (gRPC over HTTP/2, "te: trailers").
        headers.insert(TE, HeaderValue::from_static("trailers"));
    } else if endpoint.http == HttpVersion::One && headers.contains_key(TE) {
        // RFC 9110 section 10.1.4: it is of this hop only.
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    // Told by the body itself.
    headers.remove(CONTENT_LENGTH);
    *request.headers_mut() = headers;
    Ok(request)
}
