//! Bodies on their way: from a client, over a stream, to an application, and back.
//!
//! Nothing is buffered here beyond what is ready at once; a slow reader holds its writer back all the
//! way (hyper's flow control ↔ QUIC's flow control ↔ hyper's).

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::unfold;
use http::HeaderMap;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio::sync::oneshot;

use super::frame::{self, FrameError, Frames};
use super::headers::forward_trailers;
use crate::link::{Sender, StreamError, lock};

/// Gathered before it is written: one wake-up of the transport for a small answer.
const GATHER: usize = 64 * 1024;

/// Any body.
pub(crate) type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The stream between the agents.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The client or the application.
    #[error("the HTTP connection broke: {0}")]
    Http(#[from] hyper::Error),
    /// It was given to another attempt.
    #[error("the body is under way elsewhere")]
    Taken,
    /// The stream to the peer.
    #[error("cannot write to the peer: {0}")]
    Write(#[from] StreamError),
}

/// A body of nothing.
pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that is at hand.
pub(crate) fn full(bytes: Bytes, trailers: Option<HeaderMap>) -> Body {
    let body = Full::new(bytes).map_err(|never| match never {});
    match trailers {
        None => body.boxed_unsync(),
        Some(map) => body.with_trailers(std::future::ready(Some(Ok(map)))).boxed_unsync(),
    }
}

/// The request body that attempts send.
#[derive(Debug)]
pub(crate) enum Supply {
    /// There is none.
    None,
    /// Read whole: can be sent any number of times.
    Inline(Bytes, Option<HeaderMap>),
    /// Can be sent once, by whoever takes it first.
    Once(Mutex<Option<Incoming>>),
}

impl Supply {
    /// Whether an attempt that starts now could send it.
    pub(crate) fn at_hand(&self) -> bool {
        match self {
            Self::None | Self::Inline(..) => true,
            Self::Once(body) => lock(body).is_some(),
        }
    }

    /// The body, to be sent now.
    pub(crate) fn take(&self) -> Option<Body> {
        match self {
            Self::None => Some(empty()),
            Self::Inline(bytes, trailers) => Some(full(bytes.clone(), trailers.clone())),
            Self::Once(body) => {
                lock(body).take().map(|b| b.map_err(BodyError::from).boxed_unsync())
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
            (None, Supply::Once(body)) => {
                lock(body).as_ref().map_or_else(SizeHint::default, hyper::body::Body::size_hint)
            }
            (None, _) => SizeHint::default(),
        }
    }
}

/// The body that comes in frames. `held` is kept until its end. `go` is told when it is first asked for.
pub(crate) fn framed<T: Send + 'static>(
    frames: Frames,
    held: T,
    go: Option<oneshot::Sender<()>>,
) -> Body {
    let stream = unfold(Some((frames, held, go)), |state| async move {
        let (mut frames, held, go) = state?;
        if let Some(go) = go {
            // Nobody listens any more: the request is being given up, and so will this body.
            let _ = go.send(());
        }
        loop {
            match frames.next().await {
                Ok(frame::Frame::Data(bytes)) => {
                    return Some((Ok(Frame::data(bytes)), Some((frames, held, None))));
                }
                Ok(frame::Frame::Trailers(fields)) => {
                    let map = HeaderMap::try_from(&fields).map_err(FrameError::from);
                    return match map {
                        Ok(map) => Some((Ok(Frame::trailers(map)), Some((frames, held, None)))),
                        Err(error) => Some((Err(error.into()), None)),
                    };
                }
                Ok(frame::Frame::End) => return None,
                // A late GO means nothing once the body flows the other way.
                Ok(frame::Frame::Go) => {}
                Ok(frame::Frame::Head(_) | frame::Frame::Info(_) | frame::Frame::Refused(_)) => {
                    let error = FrameError::Malformed("a second answer within a body");
                    return Some((Err(error.into()), None));
                }
                Err(error) => return Some((Err(error.into()), None)),
            }
        }
    });
    StreamBody::new(stream).boxed_unsync()
}

/// Writes `first`, then a body and its end. Dropped or failed on the way, the stream is reset by its
/// [`Sender`].
pub(crate) async fn pump(
    send: &mut Sender,
    mut body: Body,
    first: Vec<Bytes>,
) -> Result<(), BodyError> {
    let mut out = first;
    let mut gathered = 0;
    loop {
        if body.is_end_stream() {
            break;
        }
        let next = if out.is_empty() {
            body.frame().await
        } else {
            match body.frame().now_or_never() {
                Some(next) => next,
                None => {
                    send.write_all_chunks(&mut out).await?;
                    (out, gathered) = (Vec::new(), 0);
                    continue;
                }
            }
        };
        match next {
            None => break,
            Some(frame) => match frame?.into_data() {
                Ok(data) => {
                    gathered += data.len();
                    frame::data(&mut out, data);
                }
                Err(frame) => {
                    if let Ok(mut map) = frame.into_trailers() {
                        forward_trailers(&mut map);
                        frame::trailers(&mut out, &map);
                    }
                }
            },
        }
        if gathered >= GATHER {
            send.write_all_chunks(&mut out).await?;
            (out, gathered) = (Vec::new(), 0);
        }
    }
    out.push(frame::end());
    send.write_all_chunks(&mut out).await?;
    send.finish();
    Ok(())
}
