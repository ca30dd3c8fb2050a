//! A client's connection on the fast path: plain requests one after the other, each answered before the
//! next is sent on.
//!
//! Makes the first attempt of each request itself. What does not bring an answer below 500 by itself (a
//! refusal, a silent peer, a hedge that is due, a server's error) is handed to the [`Race`] with the
//! attempt as it stands. What is not plain is handed to hyper with the bytes already read. A client that
//! leaves ends its request at the endpoint: dropping the stream says so. It is held against an endpoint that let it
//! wait far beyond the usual, for nobody else may ever learn that it hangs.
//!
//! One task per connection. An idle connection holds no buffer.

use std::future::{Future, poll_fn};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use hearth_proto::evidence::Outcome;
use http::header::CONTENT_LENGTH;
use http::{Method, Response, Version};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::super::Inner;
use super::super::answer::Failure;
use super::super::attempt::{self, Prepared, Sent, Target};
use super::super::body::Body;
use super::super::frame::{Frame, FrameError, Frames, Ready};
use super::super::head::{Fields, ResponseHead};
use super::super::interim::{Count, Endless};
use super::super::load::UnderWay;
use super::super::outbound::{Door, Entry, concluded, service_of};
use super::super::race::{First, News, Race, Won};
use super::super::safety::is_idempotent;
use super::super::session::Session;
use super::answer::{self, Coding, Shape};
use super::opening;
use super::plan::Plan;
use super::request::{self, MAX_PLAIN_FIELDS, Read};
use super::timer::Timer;
use crate::link::{self, DataStream, InFlight, LinkHealth, Sender, StreamError};

/// Read of a client at once: first little, more where there is more.
const FIRST_READ: usize = 4 * 1024;
const READ: usize = 32 * 1024;
/// A connection on which nothing came for so long gives its buffers back. Longer, and ten thousand that
/// each sent one request lately would hold 55 MiB more (measured at 1 s); shorter, and a busy one would
/// allocate for each request.
const REST_AFTER: Duration = Duration::from_millis(20);
/// An idle connection is closed after this.
const IDLE_LIMIT: Duration = Duration::from_secs(90);
/// A request that is not here whole so long after its first byte is no plain one: hyper's edge waits for it,
/// or tells it off. From the first byte on, not from the last: whoever sends one at a time would else be
/// waited for for hours.
const MORE_LIMIT: Duration = Duration::from_secs(2);
/// Pipelined bytes that are read while a request is under way.
const MAX_AHEAD: usize = 16 * 1024;

/// How it goes on with a connection.
pub(crate) enum After {
    /// It is over.
    Closed,
    /// hyper goes on, with what was read, and since when a request has been coming.
    Unusual(TcpStream, BytesMut, Option<Instant>),
}

/// Serves a connection as long as its requests are plain.
pub(crate) async fn serve(
    inner: &Arc<Inner>,
    door: &Door,
    stream: TcpStream,
    client: SocketAddr,
) -> After {
    let mut served = Client {
        inner,
        door,
        stream,
        peer: client,
        client: request::text_of(client.ip()),
        buffer: BytesMut::new(),
        since: None,
        opening: BytesMut::new(),
        out: BytesMut::new(),
        plan: None,
        timer: Timer::default(),
    };
    loop {
        match served.turn().await {
            Turn::Next => {}
            Turn::Closed => return After::Closed,
            Turn::Unusual => {
                return After::Unusual(served.stream, served.buffer, served.since);
            }
        }
    }
}

/// What came of waiting for more of a client.
enum More {
    Some,
    Gone,
    Late,
}

/// How a connection goes on after a turn.
enum Turn {
    Next,
    Closed,
    Unusual,
}

struct Client<'a> {
    inner: &'a Arc<Inner>,
    door: &'a Door,
    stream: TcpStream,
    peer: SocketAddr,
    /// As it stands in `X-Forwarded-For`.
    client: String,
    /// What was read and not yet understood.
    buffer: BytesMut,
    /// When the request began that is being read: its first byte came, or its turn.
    since: Option<Instant>,
    /// The request under way, as it goes to a peer: its opening, and its body where it has one.
    opening: BytesMut,
    /// What is to be written to the client next.
    out: BytesMut,
    plan: Option<Arc<Plan>>,
    timer: Timer,
}

/// A request that is ready to be sent.
struct Ask {
    plan: Arc<Plan>,
    shape: Shape,
    repeatable: bool,
    /// Where in the opening its head ends.
    head: usize,
    /// The session it belongs to.
    session: Option<u64>,
}

/// What came of looking at what was read.
enum Look {
    More,
    Unusual,
    Ask(Ask),
}

impl Client<'_> {
    /// One request, from its first byte to the last of its answer.
    async fn turn(&mut self) -> Turn {
        let began = Instant::now();
        let ask = loop {
            if !self.buffer.is_empty() {
                self.since.get_or_insert_with(Instant::now);
            }
            match self.look() {
                Look::Ask(ask) => {
                    self.since = None;
                    break ask;
                }
                Look::Unusual => return Turn::Unusual,
                Look::More => {}
            }
            match self.read(began).await {
                More::Some => {}
                More::Gone => return Turn::Closed,
                // It is told so by who knows how.
                More::Late => return Turn::Unusual,
            }
        };
        self.carry(ask, Instant::now()).await
    }

    /// Has a request answered.
    async fn carry(&mut self, ask: Ask, started: Instant) -> Turn {
        let plan = ask.plan.clone();
        let shape = Shape { close: ask.shape.close || self.door.is_closed(), ..ask.shape };
        let race: Pin<Box<dyn Future<Output = Won> + Send + '_>> =
            match self.first(&plan, &ask, started).await {
                Got::Head(head, mut frames, mut held) => {
                    plan.count(head.status, started.elapsed());
                    let passed = self.pass_on(&head, &mut frames, &mut held.health, shape).await;
                    drop(held);
                    return if passed && !shape.close { Turn::Next } else { Turn::Closed };
                }
                Got::Left => {
                    self.inner.count_left(&plan.route.service, started);
                    return Turn::Closed;
                }
                Got::News(first) => Box::pin(race(
                    self.inner,
                    &ask,
                    opening::prepared(&self.opening, ask.head),
                    Some(*first),
                    started,
                )),
                Got::Nobody => Box::pin(race(
                    self.inner,
                    &ask,
                    opening::prepared(&self.opening, ask.head),
                    None,
                    started,
                )),
            };
        let service = &plan.route.service;
        let Some(won) = self.watched(race).await else {
            self.inner.count_left(service, started);
            return Turn::Closed;
        };
        let response =
            concluded(self.inner, service, service, self.peer, Version::HTTP_11, won, started);
        Box::pin(self.slow_answer(response, shape)).await
    }

    /// Reads the next request's head, and its body where it has one, if they are here.
    fn look(&mut self) -> Look {
        if self.buffer.is_empty() {
            return Look::More;
        }
        let mut room = [const { MaybeUninit::uninit() }; MAX_PLAIN_FIELDS];
        let plain = match request::read(&self.buffer, &mut room) {
            Read::Partial => return Look::More,
            Read::Unusual => return Look::Unusual,
            Read::Plain(plain) => plain,
        };
        // Proof: a plain body fits MAX_REPLAY.
        let whole = plain.head + plain.length as usize;
        let leads = self.door.leads();
        let named;
        let service = match &*leads {
            Entry::Upstream(service) => service.as_str(),
            Entry::Shared => match service_of(plain.host) {
                Some(service) => {
                    named = service;
                    named.as_str()
                }
                None => return Look::Unusual,
            },
            Entry::Socks | Entry::Ingress(_) => return Look::Unusual,
        };
        let plan = self.inner.plans.of(self.inner, service, self.plan.as_ref(), Instant::now());
        let Some(plan) = plan.filter(|p| p.is_plain()) else { return Look::Unusual };
        if self.buffer.len() < whole {
            return Look::More;
        }
        let session = match plan.route.spread.keeps_sessions() {
            true => Session::of(&plan.route.policy, self.peer.ip(), plain.fields()),
            false => Session::None,
        };
        // Its answer gets a field more.
        if matches!(session, Session::New(..)) {
            return Look::Unusual;
        }
        let shape = Shape { to_head: plain.method == "HEAD", close: plain.close };
        let repeatable =
            Method::from_bytes(plain.method.as_bytes()).is_ok_and(|m| is_idempotent(&m));
        let service = &plan.route.service;
        self.opening.clear();
        let head = opening::put(&mut self.opening, &plain, service, &self.inner.via, &self.client);
        if plain.length > 0 {
            opening::put_body(&mut self.opening, &self.buffer[plain.head..whole]);
        }
        self.buffer.advance(whole);
        self.plan = Some(plan.clone());
        Look::Ask(Ask { plan, shape, repeatable, head, session: session.key() })
    }

    /// Reads more of the client, or waits for it to begin.
    async fn read(&mut self, began: Instant) -> More {
        if self.buffer.is_empty() && !self.begins(began + IDLE_LIMIT).await {
            return More::Gone;
        }
        let deadline = self.since.unwrap_or_else(Instant::now) + MORE_LIMIT;
        self.buffer.reserve(if self.buffer.is_empty() { FIRST_READ } else { READ });
        let Self { stream, buffer, timer, .. } = self;
        let mut read = pin!(stream.read_buf(buffer));
        poll_fn(|cx| match read.as_mut().poll(cx) {
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(More::Gone),
            Poll::Ready(Ok(_)) => Poll::Ready(More::Some),
            Poll::Pending => timer.poll_at(cx, deadline).map(|()| More::Late),
        })
        .await
    }

    /// Waits for a request to begin. `false`: the time is over, or the door was closed.
    async fn begins(&mut self, deadline: Instant) -> bool {
        let rest = Instant::now() + REST_AFTER;
        let Self { stream, door, timer, buffer, opening, out, .. } = self;
        let mut ready = pin!(stream.readable());
        let mut closed = pin!(door.closed());
        let mut at = rest;
        poll_fn(|cx| {
            if let Poll::Ready(ready) = ready.as_mut().poll(cx) {
                return Poll::Ready(ready.is_ok());
            }
            if closed.as_mut().poll(cx).is_ready() {
                return Poll::Ready(false);
            }
            if at == rest && timer.poll_at(cx, at).is_ready() {
                // An idle connection holds no memory.
                (*buffer, *opening, *out) = Default::default();
                at = deadline;
            }
            if at == deadline { timer.poll_at(cx, at).map(|()| false) } else { Poll::Pending }
        })
        .await
    }

    /// Makes the first attempt and waits for the head of its answer.
    async fn first(&mut self, plan: &Plan, ask: &Ask, started: Instant) -> Got {
        let (picked, decision) = plan.pick(started, ask.session);
        let Some(index) = picked else { return Got::Nobody };
        let candidate = &plan.route.candidates[index];
        let target = Target::of(candidate);
        // What is sent under a lease carries its term: that is for the race.
        if &candidate.id.node == self.inner.node() || target.silent || target.term.is_some() {
            return Got::Nobody;
        }
        plan.learnt.deposit(ask.repeatable);
        let inner = self.inner;
        let _waits = inner.pulses.waits();
        let load = plan.load(index);
        let under_way = UnderWay::new(load);
        let news = |news| {
            let (target, load) = (target.clone(), load.clone());
            Got::News(Box::new(First { target, load, started, decision, news }))
        };
        let opened = attempt::open(self.inner, &target, ask.repeatable).await;
        let DataStream { send, recv, guard } = match opened {
            Ok(stream) => stream,
            Err(fault) => return news(News::Ended(Err(fault))),
        };
        let since = Instant::now();
        let deadline = started + plan.route.policy.timeout.0;
        opening::address(
            &mut self.opening,
            target.id.instance,
            deadline.saturating_duration_since(since),
        );
        let hedge = plan.hedge_delay(since).filter(|_| ask.repeatable);
        let until = hedge.map_or(deadline, |delay| deadline.min(since + delay));
        let mut health = target.health(self.inner);
        health.mark_unchanged();
        let frames = Frames::new(recv);
        let mut asked = Asked { send, written: 0, frames, health, guard, under_way, since };
        let happened = self.await_answer(&mut asked, until, deadline).await;
        match happened {
            Happened::Left => {
                self.inner.blame_if_overdue((&target.id, load), &plan.learnt, since);
                Got::Left
            }
            Happened::Unread => Got::Left,
            Happened::Silent => news(News::Silent(asked.sent(&self.opening))),
            Happened::Late => news(News::Late(asked.sent(&self.opening))),
            Happened::Frame(Ok(Frame::Head(head))) if head.status < 500 => {
                let now = Instant::now();
                let latency = now.saturating_duration_since(since);
                load.answered(now, latency);
                plan.learnt.latencies.observe(now, latency);
                if load.recovered() || plan.route.watched {
                    self.inner.report(&target.id, Outcome::Answered { latency });
                }
                let held =
                    Held { health: asked.health, _guard: asked.guard, _under_way: asked.under_way };
                Got::Head(head, asked.frames, held)
            }
            Happened::Frame(Ok(Frame::Head(head))) => {
                news(News::Ended(asked.sent(&self.opening).headed(&head)))
            }
            Happened::Endless(endless) => news(News::Ended(Err(endless.into()))),
            Happened::Frame(Ok(Frame::Refused(refused))) => news(News::Ended(Err(refused.into()))),
            Happened::Frame(Ok(_)) => {
                let error = FrameError::Malformed("a body without an answer's head");
                news(News::Ended(Err(error.into())))
            }
            Happened::Frame(Err(error)) => news(News::Ended(Err(error.into()))),
        }
    }

    /// Waits for what an attempt comes to first, and passes informational answers on meanwhile; to a client
    /// that does not read them until `deadline`.
    async fn await_answer(
        &mut self,
        asked: &mut Asked,
        until: Instant,
        deadline: Instant,
    ) -> Happened {
        let mut hints = Count::default();
        loop {
            let head = match self.await_frame(asked, until).await {
                Happened::Frame(Ok(Frame::Info(head))) => head,
                other => return other,
            };
            if let Err(endless) = hints.one_more() {
                return Happened::Endless(endless);
            }
            if answer::put_interim(&mut self.out, &head).is_err() {
                return Happened::Frame(Ok(Frame::Info(head)));
            }
            if !self.flush_until(deadline).await {
                return Happened::Unread;
            }
        }
    }

    /// Writes what is left of the request and waits for what comes back.
    async fn await_frame(&mut self, asked: &mut Asked, until: Instant) -> Happened {
        let Self { stream, buffer, timer, opening, .. } = self;
        let Asked { send, written, frames, health, .. } = asked;
        let mut next = pin!(async {
            match send.write_last_from(opening, written).await {
                // Why it reads no more is said in its answer.
                Ok(()) | Err(StreamError::Reset) => frames.next().await,
                Err(error) => Err(error.into()),
            }
        });
        let mut silent = pin!(async {
            if health.wait_for(|h| h.is_silent()).await.is_err() {
                std::future::pending::<()>().await;
            }
        });
        poll_fn(|cx| {
            if let Poll::Ready(frame) = next.as_mut().poll(cx) {
                return Poll::Ready(Happened::Frame(frame));
            }
            if silent.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Happened::Silent);
            }
            if timer.poll_at(cx, until).is_ready() {
                return Poll::Ready(Happened::Late);
            }
            poll_left(stream, buffer, cx).map(|()| Happened::Left)
        })
        .await
    }

    /// Passes an answer on. `false`: it broke, or the client did.
    async fn pass_on(
        &mut self,
        head: &ResponseHead,
        frames: &mut Frames,
        health: &mut watch::Receiver<LinkHealth>,
        shape: Shape,
    ) -> bool {
        let mut next = match frames.ready() {
            Ok(Ready::Frame(frame)) => Some(frame),
            Ok(Ready::Wants(_)) => None,
            Err(_) => return false,
        };
        let empty = matches!(next, Some(Frame::End));
        let put = answer::put_head(&mut self.out, head, &self.inner.via, shape, empty);
        let Ok(mut coding) = put else { return false };
        let mut trailers = Fields::default();
        loop {
            let frame = match next.take() {
                Some(frame) => frame,
                None => match self.next_frame(frames, health).await {
                    Some(frame) => frame,
                    None => return false,
                },
            };
            match frame {
                Frame::Data(piece) => {
                    if !self.piece(&mut coding, piece).await {
                        return false;
                    }
                }
                Frame::Trailers(fields) => trailers = fields,
                Frame::End => {
                    return coding.end(&mut self.out, &trailers).is_ok() && self.flush().await;
                }
                Frame::Go | Frame::Info(_) => {}
                Frame::Head(_) | Frame::Refused(_) => return false,
            }
        }
    }

    /// The next frame of a body; what is to be written is written before it is waited for. `None`: it broke,
    /// its peer is lost, or the client left.
    async fn next_frame(
        &mut self,
        frames: &mut Frames,
        health: &mut watch::Receiver<LinkHealth>,
    ) -> Option<Frame> {
        if let Ready::Frame(frame) = frames.ready().ok()? {
            return Some(frame);
        }
        if !self.flush().await {
            return None;
        }
        let Self { stream, buffer, .. } = self;
        let mut next = pin!(frames.next());
        let mut lost = pin!(link::lost(health));
        poll_fn(|cx| {
            if let Poll::Ready(frame) = next.as_mut().poll(cx) {
                return Poll::Ready(frame.ok());
            }
            if lost.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            poll_left(stream, buffer, cx).map(|()| None)
        })
        .await
    }

    async fn piece(&mut self, coding: &mut Coding, piece: Bytes) -> bool {
        if piece.is_empty() {
            return true;
        }
        if coding.before(&mut self.out, &piece).is_err() {
            return false;
        }
        if piece.len() <= FIRST_READ {
            self.out.put_slice(&piece);
            coding.after(&mut self.out);
            return self.out.len() < READ || self.flush().await;
        }
        let out = self.out.split();
        let written = self.stream.write_all_buf(&mut out.chain(piece)).await;
        coding.after(&mut self.out);
        written.is_ok()
    }

    async fn flush(&mut self) -> bool {
        let written = self.stream.write_all(&self.out).await;
        self.out.clear();
        written.is_ok()
    }

    /// The same, for a client that may not read. `false`: it broke, or took longer than until `deadline`.
    async fn flush_until(&mut self, deadline: Instant) -> bool {
        let Self { stream, timer, out, .. } = self;
        let mut written = pin!(stream.write_all(out));
        let written = poll_fn(|cx| match written.as_mut().poll(cx) {
            Poll::Ready(written) => Poll::Ready(written.is_ok()),
            Poll::Pending => timer.poll_at(cx, deadline).map(|()| false),
        })
        .await;
        self.out.clear();
        written
    }

    /// The race, given up when the client leaves.
    async fn watched(&mut self, race: impl Future<Output = Won>) -> Option<Won> {
        let mut race = pin!(race);
        let Self { stream, buffer, .. } = self;
        poll_fn(|cx| match race.as_mut().poll(cx) {
            Poll::Ready(won) => Poll::Ready(Some(won)),
            Poll::Pending => poll_left(stream, buffer, cx).map(|()| None),
        })
        .await
    }

    /// Writes what a race was won or lost with.
    async fn slow_answer(&mut self, response: Response<Body>, shape: Shape) -> Turn {
        let (mut parts, mut body) = response.into_parts();
        let length = parts.headers.remove(CONTENT_LENGTH);
        let head = ResponseHead {
            status: parts.status.as_u16(),
            length: length
                .and_then(|l| request::length(l.as_bytes()))
                .or_else(|| body.size_hint().exact()),
            fields: Fields::from(&parts.headers),
        };
        // Via is in the fields already.
        let put = answer::put_head(&mut self.out, &head, b"", shape, body.is_end_stream());
        let Ok(mut coding) = put else { return Turn::Closed };
        let mut trailers = Fields::default();
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else {
                // What came of it is the client's: it sees that the rest is missing.
                self.flush().await;
                return Turn::Closed;
            };
            match frame.into_data() {
                Ok(piece) => {
                    if !self.piece(&mut coding, piece).await || !self.flush().await {
                        return Turn::Closed;
                    }
                }
                Err(frame) => {
                    trailers = frame.trailers_ref().map(Fields::from).unwrap_or_default();
                }
            }
        }
        let whole = coding.end(&mut self.out, &trailers).is_ok() && self.flush().await;
        if whole && !shape.close { Turn::Next } else { Turn::Closed }
    }
}

/// Looks whether the client has left, and keeps what it sends ahead of its turn.
fn poll_left(stream: &mut TcpStream, buffer: &mut BytesMut, cx: &mut Context<'_>) -> Poll<()> {
    while buffer.len() < MAX_AHEAD {
        let mut bytes = [0; 512];
        let mut read = ReadBuf::new(&mut bytes);
        match Pin::new(&mut *stream).poll_read(cx, &mut read) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) if !read.filled().is_empty() => buffer.put_slice(read.filled()),
            Poll::Ready(_) => return Poll::Ready(()),
        }
    }
    Poll::Pending
}

/// Runs the race, from where the first attempt is if there is one.
async fn race(
    inner: &Arc<Inner>,
    ask: &Ask,
    prepared: Result<Prepared, Failure>,
    first: Option<First>,
    started: Instant,
) -> Won {
    let prepared = Arc::new(Prepared { session: ask.session, ..prepared? });
    let race = Race::new(inner, &prepared, &ask.plan.route.service, started);
    match first {
        Some(first) => race.take_over(first).await,
        None => race.run().await,
    }
}

/// What a first attempt came to.
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the usual one: a box would be an allocation per request"
)]
enum Got {
    /// The head of an answer that can be passed on, and what belongs to it until its end.
    Head(ResponseHead, Frames, Held),
    /// The race goes on with it.
    News(Box<First>),
    /// There was nobody it could be made with: all of it is the race's.
    Nobody,
    /// The client left.
    Left,
}

/// What counts as under way while it lives.
struct Held {
    /// How it stands with the peer that the rest of the answer comes from.
    health: watch::Receiver<LinkHealth>,
    _guard: Option<InFlight>,
    _under_way: UnderWay,
}

/// An attempt as it stands.
struct Asked {
    send: Sender,
    /// How much of the opening was written.
    written: usize,
    frames: Frames,
    health: watch::Receiver<LinkHealth>,
    guard: Option<InFlight>,
    under_way: UnderWay,
    since: Instant,
}

impl Asked {
    /// As others wait for its answer. What of the `opening` was not written is written meanwhile.
    fn sent(self, opening: &[u8]) -> Sent {
        let sent = Sent::new(self.frames, self.guard, self.under_way, self.since);
        match &opening[self.written..] {
            [] => sent,
            rest => sent.write_on(self.send, Bytes::copy_from_slice(rest)),
        }
    }
}

/// What happened while an answer was awaited.
enum Happened {
    Frame(Result<Frame, FrameError>),
    /// Informational answers and no end of them.
    Endless(Endless),
    Silent,
    Late,
    /// The client did not wait for it.
    Left,
    /// The client does not read what it is told meanwhile.
    Unread,
}
