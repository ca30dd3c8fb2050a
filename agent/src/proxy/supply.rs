//! A request's body on this side: kept, or on its way from the client, and taken by whichever attempt sends
//! it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};

use super::application::in_full;
use super::body::{Body, BodyError, empty, full};
use super::safety::MAX_REPLAY;
use crate::link::lock;

/// How often a reader gets its turn while what is here of a body is gathered.
const GATHER_TURNS: usize = 4;

/// The request body that attempts send.
#[derive(Debug)]
pub(crate) enum Supply {
    /// There is none.
    None,
    /// Read whole: can be sent any number of times.
    Inline(Bytes, Option<HeaderMap>),
    /// Can be sent once, by whoever takes it first.
    Once(Once),
}

/// A body on its way from a client.
#[derive(Debug)]
pub(crate) struct Once {
    body: Mutex<Option<Coming>>,
    /// Why it ended before its end: the client's doing, whatever failed because of it.
    broke: Arc<OnceLock<String>>,
    /// Told of each piece.
    moved: Arc<Moved>,
}

/// A body of which some may be here already.
#[derive(Debug)]
pub(crate) struct Coming {
    here: VecDeque<Bytes>,
    rest: Incoming,
}

impl Coming {
    pub(crate) fn new(rest: Incoming) -> Self {
        Self { here: VecDeque::new(), rest }
    }

    /// Takes what is here of a body without waiting for more. `Some`: that was all of it, and not too much
    /// to be kept.
    pub(crate) async fn gather(
        &mut self,
    ) -> Result<Option<(Bytes, Option<HeaderMap>)>, hyper::Error> {
        let mut size = 0;
        // What was sent in one go is read in one go, if its reader gets its turn.
        for _ in 0..GATHER_TURNS {
            while let Some(next) = self.rest.frame().now_or_never() {
                let frame = match next.transpose()? {
                    Some(frame) => frame,
                    None => return Ok(Some((self.joined(size), None))),
                };
                match frame.into_data() {
                    Ok(piece) => {
                        size += piece.len();
                        self.here.push_back(piece);
                    }
                    Err(frame) => {
                        let trailers = frame.into_trailers().ok();
                        return Ok(Some((self.joined(size), trailers)));
                    }
                }
                if self.rest.is_end_stream() {
                    return Ok(Some((self.joined(size), None)));
                }
                if size as u64 > MAX_REPLAY {
                    return Ok(None);
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(None)
    }

    fn joined(&mut self, size: usize) -> Bytes {
        if self.here.len() <= 1 {
            return self.here.pop_front().unwrap_or_default();
        }
        let mut all = BytesMut::with_capacity(size);
        self.here.drain(..).for_each(|piece| all.extend_from_slice(&piece));
        all.freeze()
    }
}

impl hyper::body::Body for Coming {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        match this.here.pop_front() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None => Pin::new(&mut this.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.here.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // Pieces are only here where no length is known.
        if self.here.is_empty() { self.rest.size_hint() } else { SizeHint::default() }
    }
}

impl Supply {
    /// A body that comes as it is sent.
    pub(crate) fn once(body: Coming) -> Self {
        let (broke, moved) = Default::default();
        Self::Once(Once { body: Mutex::new(Some(body)), broke, moved })
    }

    /// What is told of each piece of the body that moves.
    pub(crate) fn moved(&self) -> Arc<Moved> {
        match self {
            Self::Once(once) => once.moved.clone(),
            Self::None | Self::Inline(..) => Arc::default(),
        }
    }

    /// Why the client's body ended before its end, if it did.
    pub(crate) fn broken(&self) -> Option<&str> {
        match self {
            Self::Once(once) => once.broke.get().map(String::as_str),
            Self::None | Self::Inline(..) => None,
        }
    }

    /// Whether an attempt that starts now could send it.
    pub(crate) fn at_hand(&self) -> bool {
        match self {
            Self::None | Self::Inline(..) => true,
            Self::Once(once) => lock(&once.body).is_some(),
        }
    }

    /// Whether it can be sent any number of times.
    pub(crate) fn is_kept(&self) -> bool {
        !matches!(self, Self::Once(_))
    }

    /// The body, to be sent now.
    pub(crate) fn take(&self) -> Option<Body> {
        match self {
            Self::None => Some(empty()),
            Self::Inline(bytes, trailers) => Some(full(bytes.clone(), trailers.clone())),
            Self::Once(once) => {
                let (body, broke) = (lock(&once.body).take()?, once.broke.clone());
                let moved = once.moved.clone();
                let told = move |error: hyper::Error| {
                    // Nothing is said after the first word.
                    let _ = broke.set(in_full(&error));
                    BodyError::from(error)
                };
                let body = body.map_err(told).map_frame(move |frame| {
                    moved.touch();
                    frame
                });
                Some(body.boxed_unsync())
            }
        }
    }
}

/// A body that is taken from its supply when it is first asked for, and stays untouched until then.
pub(crate) struct Lazy {
    supply: Arc<Supply>,
    taken: Option<Body>,
}

impl Lazy {
    pub(crate) fn new(supply: Arc<Supply>) -> Self {
        Self { supply, taken: None }
    }
}

impl hyper::body::Body for Lazy {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.taken.is_none() {
            this.taken = this.supply.take();
        }
        match &mut this.taken {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(Some(Err(BodyError::Taken))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &*self.supply {
            Supply::None => true,
            Supply::Inline(bytes, trailers) => self
                .taken
                .as_ref()
                .map_or(bytes.is_empty() && trailers.is_none(), hyper::body::Body::is_end_stream),
            Supply::Once(_) => self.taken.as_ref().is_some_and(hyper::body::Body::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.taken, &*self.supply) {
            (Some(body), _) => body.size_hint(),
            (None, Supply::None) => SizeHint::with_exact(0),
            (None, Supply::Inline(bytes, None)) => SizeHint::with_exact(bytes.len() as u64),
            (None, Supply::Once(once)) => lock(&once.body)
                .as_ref()
                .map_or_else(SizeHint::default, hyper::body::Body::size_hint),
            (None, _) => SizeHint::default(),
        }
    }
}

/// When something of a request moved last, in either direction.
#[derive(Debug)]
pub(crate) struct Moved {
    origin: Instant,
    /// In milliseconds since `origin`.
    last: AtomicU64,
}

impl Default for Moved {
    fn default() -> Self {
        Self { origin: Instant::now(), last: AtomicU64::new(0) }
    }
}

impl Moved {
    pub(crate) fn touch(&self) {
        let now = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    pub(crate) fn last(&self) -> Instant {
        self.origin + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }
}
