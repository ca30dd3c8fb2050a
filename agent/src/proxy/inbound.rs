//! The owner's side: a peer's stream, may it, does the endpoint serve, the application's answer.
//!
//! Decides nothing about where requests go; it says *no* in a way that tells the caller whether the
//! application may have seen the request. A caller that gives up stops the stream, and the request to the
//! application is dropped with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_proto::advert::Condition;
use hearth_proto::ids::{EndpointId, NodeName};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{timeout, timeout_at};

use super::application::pipe_of;
use super::body::{BodyError, framed, pump};
use super::frame::{self, Cause, Frames, Opening, Refused};
use super::head::{BodyKind, RequestHead, ResponseHead};
use super::limit::Place;
use super::{Inner, LocalEndpoint, fast, tcp, udp, upgrade};
use crate::link::{DataStream, Sender};

/// Interim answers that wait to be passed on; more are left out.
pub(crate) const MAX_INTERIM: usize = 8;
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
    let _place = inner.enter(&endpoint, caller, left).await?;
    let left = limit.saturating_sub(arrived.elapsed());
    if fast::owner::takes(&endpoint, &head) {
        return fast::owner::serve(inner, &endpoint, &head, left, send, frames).await;
    }
    let (go, mut asked) = oneshot::channel();
    let (hint, mut early) = mpsc::channel(MAX_INTERIM);
    let is_upgrade = !head.upgrade.is_empty();
    let mut awaits_go = head.body == BodyKind::AfterGo && !is_upgrade;
    let mut tunnel = None;
    let body = match head.body {
        // What follows is not the request's.
        _ if is_upgrade => {
            tunnel = Some(frames);
            super::body::empty()
        }
        BodyKind::None => super::body::empty(),
        BodyKind::Inline => framed(frames, (), None),
        BodyKind::AfterGo => framed(frames, (), Some(go)),
    };
    let call = inner.call_application(&endpoint, head, body, left, arrived, hint);
    tokio::pin!(call);
    let called = loop {
        tokio::select! {
            biased;
            Ok(()) = &mut asked, if awaits_go => {
                awaits_go = false;
                // If it cannot be written the caller is gone, and `given_up` ends this.
                let _ = send.write_chunk(frame::go()).await;
            }
            Some(hint) = early.recv() => {
                if let Some(hint) = frame::info(&hint) {
                    let _ = send.write_chunk(hint).await;
                }
            }
            called = &mut call => break called?,
        }
    };
    match (called.upgraded, tunnel) {
        (Some(upgraded), Some(frames)) => tunnelled(called.response, upgraded, send, frames).await,
        _ => answered(caller, called.response, send).await,
    }
}

/// Passes an answer on, to the end of its body.
async fn answered(
    caller: &NodeName,
    response: Response<Incoming>,
    send: &mut Sender,
) -> Result<(), Refused> {
    let (mut parts, body) = response.into_parts();
    let length = parts.headers.remove(CONTENT_LENGTH);
    let length = length.and_then(|l| l.to_str().ok()?.parse().ok());
    let head = answer_head(parts.status, length, &parts.headers)?;
    let body = body.map_err(BodyError::from).boxed_unsync();
    match pump(send, body, vec![head]).await {
        Err(broken) if !broken.begun => Err(Refused {
            executed: true,
            cause: Cause::AppBroke,
            detail: format!("the application's answer broke off at once: {}", broken.error),
        }),
        Err(broken) => {
            // The head is out: all that is left is to reset the stream, which dropping it does.
            tracing::debug!(%caller, error = %broken.error, "answer cut short");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Tells that the connection is another protocol's, and carries it.
async fn tunnelled(
    response: Response<Incoming>,
    upgraded: OnUpgrade,
    send: &mut Sender,
    frames: Frames,
) -> Result<(), Refused> {
    let head = answer_head(response.status(), None, response.headers())?;
    let application = upgraded.await.map_err(|error| Refused {
        executed: true,
        cause: Cause::AppBroke,
        detail: format!("the application let the upgrade and broke off: {error}"),
    })?;
    let (pipe, ahead) = pipe_of(application);
    if send.write_chunk(head).await.is_ok() {
        upgrade::exchange(pipe, ahead, send, frames).await;
    }
    Ok(())
}

fn answer_head(
    status: StatusCode,
    length: Option<u64>,
    headers: &HeaderMap,
) -> Result<Bytes, Refused> {
    let head = ResponseHead { status: status.as_u16(), length, fields: headers.into() };
    frame::head(&head).ok_or_else(|| Refused {
        executed: true,
        cause: Cause::AppBroke,
        detail: "the answer's head is too large to be passed on".into(),
    })
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

    /// Has a request that was admitted take its place among those the endpoint works on.
    pub(crate) async fn enter(
        &self,
        endpoint: &LocalEndpoint,
        caller: &NodeName,
        left: Duration,
    ) -> Result<Place, Refused> {
        match self.route(&endpoint.id.service) {
            Some(route) => self.limits.enter(&endpoint.id, caller, &route.policy, left).await,
            None => Ok(None),
        }
    }
}
