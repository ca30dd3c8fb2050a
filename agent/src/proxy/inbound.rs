//! The owner's side: a peer's stream, may it, does the endpoint serve, the application's answer.
//!
//! Decides nothing about where requests go; it says *no* in a way that tells the caller whether the
//! application may have seen the request. A caller that gives up stops the stream, and the request to the
//! application is dropped with it.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::OptionFuture;
use hearth_proto::advert::Condition;
use hearth_proto::ids::{EndpointId, NodeName, ServiceName};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{timeout, timeout_at};

use super::application::pipe_of;
use super::body::{BodyError, framed, pump};
use super::call::Called;
use super::callers::Full;
use super::frame::{self, Cause, Frames, HTTP, Opening, Refused};
use super::head::{BodyKind, HeadRef, RequestHead, ResponseHead};
use super::limit::{Comer, Place};
use super::{Inner, Local, LocalEndpoint, fast, interim, relay, tcp, udp, upgrade};
use crate::counted::Counted;
use crate::link::{DataStream, Sender};

/// Interim answers that wait to be passed on; more are left out.
pub(crate) const MAX_INTERIM: usize = 8;
/// A peer's stream that does not say what it wants for so long is given up.
const OPENING_LIMIT: Duration = Duration::from_secs(5);
/// A request waits at most so long for an endpoint that is being activated.
const HOLD_ACTIVATING: Duration = Duration::from_secs(10);

/// Serves one stream of a peer to its end.
pub(crate) async fn serve(inner: Arc<Inner>, caller: NodeName, stream: DataStream) {
    let (mut send, mut frames) = (stream.send, Frames::new(stream.recv));
    let counted = inner.callers.enter(&caller);
    let read = match timeout(OPENING_LIMIT, frames.preamble()).await {
        Ok(read) => read.map_err(|e| e.to_string()),
        Err(_) => return,
    };
    let (kind, bytes) = match read {
        Ok(read) => read,
        Err(why) => return refuse(&mut send, &malformed(why)).await,
    };
    if kind == frame::RELAY {
        // It has bounds of its own, and nobody who leaves waits for its end.
        let full = counted.err();
        return Box::pin(relayed(&inner, &caller, &bytes, full.as_ref(), send, frames)).await;
    }
    let head = match HeadRef::read(&bytes) {
        Ok(head) => head,
        Err(bad) => return refuse(&mut send, &malformed(bad.to_string())).await,
    };
    let local = inner.local(head.service, head.instance);
    let given_up = pin!(send.stopped());
    if let Some(local) = &local
        && counted.is_ok()
        && kind == HTTP
        && !inner.is_exclusive(&local.endpoint.id.service)
        && fast::owner::takes(&local.endpoint, &head)
    {
        let work = plain(&inner, &caller, local, &head, &mut send, frames);
        match until(work, given_up).await {
            Some(Ok(())) => {
                local.ok.inc();
            }
            other => conclude(&inner, &caller, &local.endpoint.id.service, other, &mut send).await,
        }
        return;
    }
    // Names that peers make up must not become time series.
    let service = local.map_or_else(|| inner.unknown.clone(), |l| l.endpoint.id.service.clone());
    let ended = if let Err(full) = &counted {
        Some(Err(busy(&inner, full)))
    } else {
        match frame::opening(kind, &bytes) {
            Ok(opening) => {
                let work = Box::pin(other(&inner, &caller, opening, &mut send, frames));
                until(work, given_up).await
            }
            Err(error) => Some(Err(malformed(error.to_string()))),
        }
    };
    conclude(&inner, &caller, &service, ended, &mut send).await;
}

fn malformed(detail: String) -> Refused {
    Refused { executed: false, cause: Cause::Malformed, detail }
}

fn busy(inner: &Inner, full: &Full) -> Refused {
    let detail = format!("{} is busy: {full}", inner.node());
    Refused { executed: false, cause: Cause::Busy, detail }
}

/// A stream that is not for us: bytes of `caller` to another member.
async fn relayed(
    inner: &Arc<Inner>,
    caller: &NodeName,
    named: &[u8],
    full: Option<&Full>,
    mut send: Sender,
    frames: Frames,
) {
    let given_up = pin!(send.stopped());
    let ended = match full {
        Some(full) => Some(Err(busy(inner, full))),
        None => {
            let work = Box::pin(relay::serve(inner, caller, named, &mut send, frames));
            until(work, given_up).await
        }
    };
    if let Some(Err(refused)) = ended {
        refuse(&mut send, &refused).await;
    }
}

/// Works until it is done, or until the caller gives up (`None`).
async fn until<T>(
    work: impl Future<Output = T>,
    mut given_up: Pin<&mut impl Future<Output = bool>>,
) -> Option<T> {
    let mut work = pin!(work);
    let mut may_be_given_up = true;
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        if may_be_given_up && let Poll::Ready(stopped) = given_up.as_mut().poll(cx) {
            may_be_given_up = false;
            if stopped {
                return Poll::Ready(None);
            }
        }
        Poll::Pending
    })
    .await
}

/// Tells and counts how a stream's work ended.
async fn conclude(
    inner: &Inner,
    caller: &NodeName,
    service: &ServiceName,
    ended: Option<Result<(), Refused>>,
    send: &mut Sender,
) {
    let outcome = match ended {
        Some(Ok(())) => "ok",
        Some(Err(refused)) => {
            tracing::debug!(%caller, %service, cause = refused.cause.word(),
                executed = refused.executed, detail = refused.detail, "request refused");
            refuse(send, &refused).await;
            refused.cause.word()
        }
        None => "given_up",
    };
    inner.metrics.inbound(service, outcome);
}

/// A request for the fast path.
async fn plain(
    inner: &Inner,
    caller: &NodeName,
    local: &Local,
    head: &HeadRef<'_>,
    send: &mut Sender,
    frames: Frames,
) -> Result<(), Refused> {
    let arrived = Instant::now();
    let limit = Duration::from_micros(head.left_us);
    let endpoint = &local.endpoint;
    inner.let_in(caller, &endpoint.id, limit).await?;
    let left = limit.saturating_sub(arrived.elapsed());
    let who = Comer { caller, attempts: head.attempts, left, lasts: false };
    let mut place = inner.enter(endpoint, who).await?;
    let left = limit.saturating_sub(arrived.elapsed());
    fast::owner::serve(inner, endpoint, head, left, send, frames, &mut place).await
}

/// Whatever is not for the fast path.
async fn other(
    inner: &Arc<Inner>,
    caller: &NodeName,
    opening: Opening,
    send: &mut Sender,
    frames: Frames,
) -> Result<(), Refused> {
    match opening {
        Opening::Http(head) => http(inner, caller, head, send, frames).await,
        Opening::Bytes(head) => tcp::serve(inner, caller, &head, send, frames).await,
        Opening::Datagrams(head) => udp::serve(inner, caller, &head, send, frames).await,
    }
}

/// The application did what HTTP does not allow, with the request in its hands.
fn broke(why: interim::Endless) -> Refused {
    Refused { executed: true, cause: Cause::AppBroke, detail: why.to_string() }
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
    mut head: RequestHead,
    send: &mut Sender,
    frames: Frames,
) -> Result<(), Refused> {
    let arrived = Instant::now();
    let limit = Duration::from_micros(head.left_us);
    let endpoint = inner.admit(caller, &head, limit).await?;
    let left = limit.saturating_sub(arrived.elapsed());
    let who = Comer { caller, attempts: head.attempts, left, lasts: false };
    let mut place = inner.enter(&endpoint, who).await?;
    if let Some(fields) = inner.fence(&endpoint.id, &head.fields)? {
        head.fields = fields;
    }
    let left = limit.saturating_sub(arrived.elapsed());
    let (go, asked) = oneshot::channel();
    let (hint, early) = mpsc::channel(MAX_INTERIM);
    let is_upgrade = !head.upgrade.is_empty();
    let asks = head.body == BodyKind::AfterGo && !is_upgrade;
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
    let called = answering(call, asks.then_some(asked), early, send);
    let called = inner.under_lease(&endpoint.id, called).await.and_then(|called| called);
    let called = called.inspect_err(|refused| place.failed(refused.cause))?;
    place.headed(called.response.status().as_u16());
    let passed = async {
        match (called.upgraded, tunnel) {
            (Some(upgraded), Some(frames)) => {
                tunnelled(called.response, upgraded, send, frames).await
            }
            _ => answered(caller, called.response, send).await,
        }
    };
    // What is begun is cut, which dropping the stream does.
    inner.under_lease(&endpoint.id, passed).await.unwrap_or(Ok(()))
}

/// Waits for the head of the application's answer. Meanwhile the caller is asked for the body when the
/// application wants it (`asked`), and gets to know what comes early.
async fn answering(
    call: impl Future<Output = Result<Called, Refused>>,
    mut asked: Option<oneshot::Receiver<()>>,
    mut early: mpsc::Receiver<ResponseHead>,
    send: &mut Sender,
) -> Result<Called, Refused> {
    let mut call = pin!(call);
    let mut hints = interim::Count::default();
    let called = loop {
        tokio::select! {
            biased;
            Some(told) = OptionFuture::from(asked.as_mut()), if asked.is_some() => {
                asked = None;
                // A body that was dropped is not asked for. If it cannot be written the caller is gone, and
                // `given_up` ends this.
                if told.is_ok() {
                    let _ = send.write_chunk(frame::go()).await;
                }
            }
            Some(hint) = early.recv() => {
                hints.one_more().map_err(broke)?;
                if let Some(hint) = frame::info(&hint) {
                    let _ = send.write_chunk(hint).await;
                }
            }
            called = &mut call => break called?,
        }
    };
    if asked.is_some() && called.response.status().is_success() {
        // It answers first and reads then; what it asks for from now on, nobody here would hear.
        let _ = send.write_chunk(frame::go()).await;
    }
    Ok(called)
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
        let Some(local) = self.local(head.service.as_str(), head.instance) else {
            let detail = format!("{} offers no {}", self.node(), head.service);
            return Err(Refused { executed: false, cause: Cause::NotOurs, detail });
        };
        self.let_in(caller, &local.endpoint.id, left).await?;
        Ok(local.endpoint.clone())
    }

    /// The same for a connection or session, which takes its place among what the endpoint works on until it
    /// ends.
    pub(crate) async fn take_on(
        &self,
        caller: &NodeName,
        head: &RequestHead,
    ) -> Result<(LocalEndpoint, Place), Refused> {
        let arrived = Instant::now();
        let limit = Duration::from_micros(head.left_us);
        let endpoint = self.admit(caller, head, limit).await?;
        let left = limit.saturating_sub(arrived.elapsed());
        let who = Comer { caller, attempts: head.attempts, left, lasts: true };
        let place = self.enter(&endpoint, who).await?;
        self.fence(&endpoint.id, &head.fields)?;
        Ok((endpoint, place))
    }

    /// The endpoint of ours that a peer names.
    pub(crate) fn ours(&self, head: &RequestHead) -> EndpointId {
        let (service, node) = (head.service.clone(), self.node().clone());
        EndpointId { service, node, instance: head.instance }
    }

    /// One of our own endpoints.
    fn local(&self, service: &str, instance: u16) -> Option<Arc<Local>> {
        let is = |l: &&Arc<Local>| {
            l.endpoint.id.service.as_str() == service && l.endpoint.id.instance == instance
        };
        self.locals.load().iter().find(is).cloned()
    }

    /// Whether `caller` may have a request served by our endpoint `id` now.
    async fn let_in(
        &self,
        caller: &NodeName,
        id: &EndpointId,
        left: Duration,
    ) -> Result<(), Refused> {
        let refused = |cause, detail| Err(Refused { executed: false, cause, detail });
        let service = &id.service;
        let Some(route) = self.route(service) else {
            let detail = format!("the policy of {service} is not known here yet");
            return refused(Cause::NotServing, detail);
        };
        if !route.policy.allows(caller) {
            tracing::warn!(%caller, %service, reason = "denied", "request refused");
            let detail = format!("the policy of {service} does not list {caller} in allow");
            return refused(Cause::Denied, detail);
        }
        let condition = || self.mesh.snapshot.load().own.get(id).copied();
        if condition() == Some(Condition::Serving) {
            return self.leased(id).map(drop);
        }
        let mut changed = self.mesh.changed.clone();
        let until = Instant::now() + left.min(HOLD_ACTIVATING);
        loop {
            changed.borrow_and_update();
            match condition() {
                Some(Condition::Serving) => return self.leased(id).map(drop),
                Some(Condition::Activating) => {}
                Some(other) => {
                    return refused(Cause::NotServing, format!("{id} is {}", other.word()));
                }
                None => return refused(Cause::NotServing, format!("{id} is not up yet")),
            }
            if !matches!(timeout_at(until.into(), changed.changed()).await, Ok(Ok(()))) {
                return refused(Cause::NotServing, format!("{id} is still activating"));
            }
        }
    }

    /// Has a request that was admitted take its place among those the endpoint works on. While it waits for one
    /// the endpoint is not idle either.
    pub(crate) async fn enter(
        &self,
        endpoint: &LocalEndpoint,
        who: Comer<'_>,
    ) -> Result<Place, Refused> {
        let under_way = self.count(&endpoint.id);
        let mut place = match self.route(&endpoint.id.service) {
            Some(route) => self.limits.enter(&endpoint.id, who, &route.policy).await?,
            None => Place::default(),
        };
        place.under_way = under_way;
        Ok(place)
    }

    /// Counts something that is under way at our endpoint `id`, as long as the result lives.
    pub(crate) fn count(&self, id: &EndpointId) -> Option<Counted> {
        let locals = self.locals.load();
        let local = locals.iter().find(|local| local.endpoint.id == *id);
        local.map(|local| Counted::new(&local.under_way))
    }
}
