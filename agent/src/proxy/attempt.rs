//! One attempt of a request at one endpoint, and how it ended.
//!
//! An attempt is a future without tasks of its own but for the body it pumps; dropping it resets its
//! stream, and the owner then drops its request to the application.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_proto::evidence::{Outcome, Standing, Why};
use hearth_proto::ids::{EndpointId, NodeName};
use hearth_proto::route::Candidate;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::body::{Body, answered, pump, watched};
use super::frame::{self, Cause, Frame, FrameError, Frames, Opening};
use super::guard::Control;
use super::head::{BodyKind, RequestHead, ResponseHead};
use super::inbound::MAX_INTERIM;
use super::limit::Comer;
use super::load::UnderWay;
use super::safety::{Reach, is_idempotent};
use super::supply::{Lazy, Supply};
use super::upgrade::{Carried, Tunnel};
use super::{Inner, grpc, interim, lease};
use crate::link::{DataStream, InFlight, LinkError, LinkHealth, Sender, StreamError};
use http_body_util::BodyExt;

/// A dial that takes longer leaves the request for others; the dial itself goes on for later ones.
const DIAL_PATIENCE: Duration = Duration::from_millis(300);

/// A request, ready to be sent any number of times.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) method: Method,
    /// Until when the client waits, where it said so in its head (gRPC).
    pub(crate) due: Option<Instant>,
    /// As it goes over the wire, but for what differs per attempt.
    pub(crate) head: RequestHead,
    pub(crate) supply: Arc<Supply>,
    /// The client's connection, where it can be told interim answers.
    pub(crate) client: Option<Arc<Control>>,
    /// The session it belongs to.
    pub(crate) session: Option<u64>,
    /// An answer was chosen: what other attempts hear is no longer for the client.
    pub(crate) decided: AtomicBool,
}

impl Prepared {
    /// A request whose client hears of nothing but its answer.
    pub(crate) fn new(method: Method, head: RequestHead, supply: Supply) -> Self {
        Self {
            method,
            due: None,
            head,
            supply: Arc::new(supply),
            client: None,
            session: None,
            decided: AtomicBool::new(false),
        }
    }

    /// Whether doing it twice is the same as doing it once. A connection that becomes another protocol's
    /// is no such thing.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.head.upgrade.is_empty() && is_idempotent(&self.method)
    }

    /// The head for an attempt that is made now.
    fn head(&self, target: &Target, now: Instant) -> RequestHead {
        let mut head = self.head.clone();
        (head.instance, head.attempts) = (target.id.instance, target.attempts);
        if let Some(due) = self.due
            && let Ok(mut headers) = HeaderMap::try_from(&head.fields)
        {
            grpc::set_timeout(&mut headers, due.saturating_duration_since(now));
            head.fields = (&headers).into();
        }
        lease::attach(head, target.term)
    }

    /// Passes an interim answer on, if the client can be told and still waits.
    fn interim(&self, head: &ResponseHead) {
        if !self.decided.load(Ordering::Relaxed)
            && let Some(client) = &self.client
            && let Some(bytes) = interim::encode(head)
        {
            client.interim(&bytes);
        }
    }
}

/// Where an attempt goes.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) id: EndpointId,
    /// The mesh address of its node.
    pub(crate) address: SocketAddr,
    /// It was picked for want of better although its link is silent.
    pub(crate) silent: bool,
    /// The relay it is reached through.
    pub(crate) via: Option<NodeName>,
    /// How often the request was tried before, wherever.
    pub(crate) attempts: u8,
    /// The term under which it holds the lease, in mode exclusive.
    pub(crate) term: Option<u64>,
}

impl Target {
    pub(crate) fn of(candidate: &Candidate) -> Self {
        let via = candidate.via.clone();
        // Through a relay it answers.
        let silent =
            via.is_none() && matches!(candidate.standing, Standing::Doubtful(Why::Silent { .. }));
        let (address, term) = (candidate.address, candidate.term);
        Self { id: candidate.id.clone(), address, silent, via, attempts: 0, term }
    }

    /// How it stands with its node on the way that leads there.
    pub(crate) fn health(&self, inner: &Inner) -> watch::Receiver<LinkHealth> {
        match &self.via {
            Some(via) => inner.mesh.links.health_through(&self.id.node, via),
            None => inner.mesh.links.health(&self.id.node),
        }
    }
}

/// An application's answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
    /// The bytes behind a 101.
    pub(crate) tunnel: Option<Tunnel>,
    /// When the request left: dialling says nothing about the endpoint's speed.
    pub(crate) since: Instant,
}

impl Answer {
    /// As a response.
    pub(crate) fn into_response(self) -> Response<Body> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// Why an attempt brought no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) reach: Reach,
    pub(crate) kind: FaultKind,
    /// In words.
    pub(crate) detail: String,
}

/// Kinds of fault, as far as they are treated differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// The node could not be reached.
    Dial,
    /// The node's agent said why.
    Owner(Cause),
    /// The stream broke.
    Cut,
    /// Another attempt got ahead of it.
    Lapsed,
    /// The link is silent: nothing was sent, or what was sent is lost.
    Silent,
    /// The link to the node takes no more at the moment.
    Full,
}

impl FaultKind {
    /// One stable word, for metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Dial => "dial",
            Self::Owner(cause) => cause.word(),
            Self::Cut => "cut",
            Self::Lapsed => "lapsed",
            Self::Silent => "silent",
            Self::Full => "busy",
        }
    }
}

impl Fault {
    pub(crate) fn not_executed(kind: FaultKind, detail: impl Into<String>) -> Self {
        Self { reach: Reach::NotExecuted, kind, detail: detail.into() }
    }

    /// A try that took all of its time.
    pub(crate) fn late() -> Self {
        Self::unknown(FaultKind::Owner(Cause::AppSilent), "no answer within the time of one try")
    }

    pub(crate) fn unknown(kind: FaultKind, detail: impl Into<String>) -> Self {
        Self { reach: Reach::Unknown, kind, detail: detail.into() }
    }

    /// What it says of the endpoint. `None`: nothing. `silent`: its link is, or a relay is in between, which is
    /// for the links to tell.
    pub(crate) fn outcome(&self, silent: bool) -> Option<Outcome> {
        match (self.reach, self.kind) {
            (_, FaultKind::Silent | FaultKind::Lapsed | FaultKind::Full) => None,
            (_, FaultKind::Dial | FaultKind::Cut) if silent => None,
            // It does not serve, is full, or not the one that may.
            (
                _,
                FaultKind::Owner(Cause::NotServing | Cause::NotOurs | Cause::Busy | Cause::Fenced),
            ) => None,
            (_, FaultKind::Owner(Cause::Denied | Cause::Malformed | Cause::TooOften)) => None,
            (_, FaultKind::Owner(Cause::AppSilent)) => Some(Outcome::TimedOut),
            (Reach::NotExecuted, _) => Some(Outcome::Refused),
            (Reach::Unknown, _) => Some(Outcome::Broken),
        }
    }
}

impl From<LinkError> for Fault {
    fn from(error: LinkError) -> Self {
        let kind = match error {
            LinkError::Busy { .. } => FaultKind::Full,
            _ => FaultKind::Dial,
        };
        Self::not_executed(kind, error.to_string())
    }
}

impl From<frame::Refused> for Fault {
    fn from(refused: frame::Refused) -> Self {
        let reach = if refused.executed { Reach::Unknown } else { Reach::NotExecuted };
        Self { reach, kind: FaultKind::Owner(refused.cause), detail: refused.detail }
    }
}

impl From<interim::Endless> for Fault {
    fn from(endless: interim::Endless) -> Self {
        Self::unknown(FaultKind::Owner(Cause::AppBroke), endless.to_string())
    }
}

impl From<FrameError> for Fault {
    fn from(error: FrameError) -> Self {
        match &error {
            FrameError::Stream(StreamError::Busy) => {
                Self::not_executed(FaultKind::Full, error.to_string())
            }
            FrameError::Stream(StreamError::Lost { unseen: true, .. }) => {
                Self::not_executed(FaultKind::Dial, error.to_string())
            }
            _ => Self::unknown(FaultKind::Cut, error.to_string()),
        }
    }
}

/// Tries one endpoint.
pub(crate) async fn attempt(
    inner: Arc<Inner>,
    request: Arc<Prepared>,
    target: Target,
    deadline: Instant,
    under_way: UnderWay,
) -> Result<Answer, Fault> {
    if &target.id.node == inner.node() {
        local(&inner, &request, &target, deadline, under_way).await
    } else {
        remote(&inner, &request, &target, deadline, under_way).await
    }
}

/// An endpoint on this very host: no stream, the same rules.
async fn local(
    inner: &Arc<Inner>,
    request: &Prepared,
    target: &Target,
    deadline: Instant,
    under_way: UnderWay,
) -> Result<Answer, Fault> {
    let caller: &NodeName = inner.node();
    let since = Instant::now();
    let mut head = request.head(target, since);
    let left = deadline.saturating_duration_since(since);
    let endpoint = inner.admit(caller, &head, left).await?;
    let who = Comer { caller, attempts: head.attempts, left, lasts: false };
    let mut place = inner.enter(&endpoint, who).await?;
    if let Some(fields) = inner.fence(&endpoint.id, &head.fields)? {
        head.fields = fields;
    }
    let body = Lazy::new(request.supply.clone()).boxed_unsync();
    let (hint, mut early) = mpsc::channel(MAX_INTERIM);
    let mut hints = interim::Count::default();
    let call = inner.call_application(&endpoint, head, body, left, since, hint);
    let call = inner.under_lease(&endpoint.id, call);
    tokio::pin!(call);
    let called = loop {
        tokio::select! {
            biased;
            Some(head) = early.recv() => {
                hints.one_more()?;
                request.interim(&head);
            }
            called = &mut call => {
                let called = called.and_then(|called| called);
                break called.inspect_err(|refused| place.failed(refused.cause))?;
            }
        }
    };
    place.headed(called.response.status().as_u16());
    let (mut parts, body) = called.response.into_parts();
    let (status, headers) = (parts.status, std::mem::take(&mut parts.headers));
    let tunnel = match called.upgraded {
        Some(upgraded) => {
            let application = upgraded.await.map_err(|error| {
                Fault::unknown(FaultKind::Owner(Cause::AppBroke), error.to_string())
            })?;
            let under_way = inner.count(&endpoint.id);
            Some(Tunnel::Local(application, inner.clone(), endpoint.id.clone(), under_way))
        }
        None => None,
    };
    let body = body
        .map_err(super::body::BodyError::from)
        .map_frame(move |frame| {
            let _held = (&under_way, &place, &parts.extensions);
            frame
        })
        .boxed_unsync();
    let body = lease::leased_body(inner, &endpoint.id, body);
    Ok(Answer { status, headers, body, tunnel, since })
}

async fn open_direct(inner: &Inner, target: &Target) -> Result<DataStream, Fault> {
    let opened = inner.mesh.links.open_stream(&target.id.node, target.address);
    match timeout(DIAL_PATIENCE, opened).await {
        Ok(opened) => Ok(opened?),
        Err(_) => {
            let why = format!("{} is still being dialled", target.id.node);
            Err(Fault::not_executed(FaultKind::Dial, why))
        }
    }
}

/// Opens a stream to an endpoint's node, on which the request may be sent.
pub(crate) async fn open(
    inner: &Inner,
    target: &Target,
    repeatable: bool,
) -> Result<DataStream, Fault> {
    let stream = match &target.via {
        Some(via) => inner.mesh.links.open_stream_through(&target.id.node, via)?,
        None => open_direct(inner, target).await?,
    };
    // The route is a moment older than the link. And what must not be done twice is not sent where its fate
    // may stay unknown: it is held, and goes when the link answers.
    let unsafe_there = !target.silent || !repeatable;
    if unsafe_there && stream.guard.as_ref().is_some_and(InFlight::is_silent) {
        let why = format!("the link to {} is silent, nothing was sent on it", target.id.node);
        return Err(Fault::not_executed(FaultKind::Silent, why));
    }
    Ok(stream)
}

/// Aborts the task with itself.
struct Pumping(JoinHandle<()>);

impl Drop for Pumping {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn remote(
    inner: &Arc<Inner>,
    request: &Prepared,
    target: &Target,
    deadline: Instant,
    under_way: UnderWay,
) -> Result<Answer, Fault> {
    let stream = open(inner, target, request.is_repeatable()).await?;
    let since = Instant::now();
    let mut head = request.head(target, since);
    let left = deadline.saturating_duration_since(since);
    head.left_us = u64::try_from(left.as_micros()).unwrap_or(u64::MAX);
    let after_go = head.body == BodyKind::AfterGo;
    let opening = frame::encode_opening(&Opening::Http(head)).ok_or_else(|| {
        Fault::not_executed(FaultKind::Owner(Cause::Malformed), "its head is too large")
    })?;
    let mut sent = Sent::new(Frames::new(stream.recv), stream.guard, under_way, since);
    let mut send = stream.send;
    if after_go {
        // A write that fails is explained by what is read next.
        let _ = send.write_chunk(opening).await;
        sent.waiting = Some(send);
    } else {
        let body = request.supply.take().unwrap_or_else(super::body::empty);
        // Small by definition: this waits only for flow control.
        let _ = pump(&mut send, body, vec![opening]).await;
    }
    sent.answer(request).await
}

/// A request that has left, and whose answer is awaited.
pub(crate) struct Sent {
    frames: Frames,
    guard: Option<InFlight>,
    under_way: UnderWay,
    since: Instant,
    pumping: Option<Pumping>,
    /// The half of the stream on which the body goes when it is asked for.
    waiting: Option<Sender>,
}

impl Sent {
    pub(crate) fn new(
        frames: Frames,
        guard: Option<InFlight>,
        under_way: UnderWay,
        since: Instant,
    ) -> Self {
        Self { frames, guard, under_way, since, pumping: None, waiting: None }
    }

    /// Has the `rest` of the request written while its answer is awaited.
    pub(crate) fn write_on(mut self, mut send: Sender, rest: Bytes) -> Self {
        self.pumping = Some(Pumping(tokio::spawn(async move {
            // A peer that stops reading is heard from in its answer.
            let _ = send.write_last(&rest).await;
        })));
        self
    }

    /// Waits for the answer's head.
    pub(crate) async fn answer(mut self, request: &Prepared) -> Result<Answer, Fault> {
        let mut hints = interim::Count::default();
        loop {
            let frame = self.frames.next().await?;
            match frame {
                Frame::Go => {
                    let Some(mut send) = self.waiting.take() else { continue };
                    let Some(body) = request.supply.take() else {
                        let why = "another attempt has the body";
                        return Err(Fault::not_executed(FaultKind::Lapsed, why));
                    };
                    self.pumping = Some(Pumping(tokio::spawn(async move {
                        // A broken client body resets the stream; a peer that stops reading is heard from
                        // in its answer.
                        let _ = pump(&mut send, body, Vec::new()).await;
                    })));
                }
                Frame::Info(head) => {
                    hints.one_more()?;
                    request.interim(&head);
                }
                Frame::Refused(refused) => return Err(refused.into()),
                Frame::Head(head) if head.status == 101 && request.head.upgrade.is_empty() => {
                    return Err(Fault::unknown(
                        FaultKind::Cut,
                        "another protocol nobody asked for",
                    ));
                }
                Frame::Head(head) => return self.headed(&head),
                Frame::Data(_) | Frame::Trailers(_) | Frame::End => {
                    let why = "a body came without an answer's head";
                    return Err(Fault::unknown(FaultKind::Cut, why));
                }
            }
        }
    }

    /// The answer whose head has come.
    pub(crate) fn headed(self, head: &ResponseHead) -> Result<Answer, Fault> {
        let status = StatusCode::from_u16(head.status);
        let (Ok(status), Ok(mut headers)) = (status, HeaderMap::try_from(&head.fields)) else {
            return Err(Fault::unknown(FaultKind::Cut, "the answer cannot be read"));
        };
        headers.remove(CONTENT_LENGTH);
        if let Some(length) = head.length {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        let Self { frames, guard, under_way, since, pumping, waiting } = self;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            let Some(send) = waiting else {
                return Err(Fault::unknown(FaultKind::Cut, "another protocol nobody asked for"));
            };
            let carried = Carried { send, frames, guard, _under_way: under_way };
            let tunnel = Some(Tunnel::Remote(Box::new(carried)));
            return Ok(Answer { status, headers, body: super::body::empty(), tunnel, since });
        }
        let guard = guard.map(Arc::new);
        let body = answered(frames, (guard.clone(), under_way, pumping, waiting));
        let body = match guard {
            Some(guard) => watched(body, async move { guard.lost().await }),
            None => body,
        };
        Ok(Answer { status, headers, body, tunnel: None, since })
    }
}
