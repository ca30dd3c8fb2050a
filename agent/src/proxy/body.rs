//! Bodies on their way: from a client, over a stream, to an application, and back.
//!
//! Nothing is buffered here beyond what is ready at once; a slow reader holds its writer back all the
//! way (hyper's flow control ↔ QUIC's flow control ↔ hyper's).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::{poll_fn, unfold};
use http::HeaderMap;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::sleep_until;

use super::frame::{self, FrameError, Frames, Ready};
use super::headers::forward_trailers;
use super::supply::Moved;
use crate::link::{Sender, StreamError};

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
    /// The peer is gone.
    #[error("the connection to the host was lost")]
    Lost,
    /// Nothing moved.
    #[error("nothing moved for {0:?} (idle_timeout)")]
    Quiet(Duration),
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

/// A body that breaks when nothing has moved for so long, neither of it nor of what `moved` is told of.
pub(crate) fn impatient(mut body: Body, limit: Duration, moved: Arc<Moved>) -> Body {
    if body.is_end_stream() {
        return body;
    }
    moved.touch();
    let mut due = Box::pin(sleep_until((Instant::now() + limit).into()));
    let frames = poll_fn(move |cx| {
        if let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(cx) {
            moved.touch();
            return Poll::Ready(frame);
        }
        loop {
            ready!(due.as_mut().poll(cx));
            let next = moved.last() + limit;
            if next <= Instant::now() {
                return Poll::Ready(Some(Err(BodyError::Quiet(limit))));
            }
            due.as_mut().reset(next.into());
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

/// A body that breaks when its peer is `lost`: a host that is gone is not waited for until its connection is
/// given up.
pub(crate) fn watched(mut body: Body, lost: impl Future<Output = ()> + Send + 'static) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let mut lost = Some(Box::pin(lost));
    let frames = poll_fn(move |cx| {
        // What is here already is passed on first.
        if let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        let Some(waiting) = &mut lost else { return Poll::Ready(None) };
        ready!(waiting.as_mut().poll(cx));
        lost = None;
        Poll::Ready(Some(Err(BodyError::Lost)))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// A body that keeps `held` until it is dropped, and is the same otherwise.
pub(crate) fn holding<T: Send + Unpin + 'static>(body: Body, held: T) -> Body {
    struct Holding<T> {
        body: Body,
        _held: T,
    }
    impl<T: Unpin> hyper::body::Body for Holding<T> {
        type Data = Bytes;
        type Error = BodyError;
        fn poll_frame(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Pin::new(&mut self.get_mut().body).poll_frame(cx)
        }
        fn is_end_stream(&self) -> bool {
            self.body.is_end_stream()
        }
        fn size_hint(&self) -> SizeHint {
            self.body.size_hint()
        }
    }
    Holding { body, _held: held }.boxed_unsync()
}

/// A body whose end is told: with its trailers, or `None` if it had none or did not come so far.
pub(crate) fn observed(
    mut body: Body,
    tell: impl FnOnce(Option<&HeaderMap>) + Send + 'static,
) -> Body {
    if body.is_end_stream() {
        tell(None);
        return body;
    }
    struct Told<F: FnOnce(Option<&HeaderMap>)>(Option<F>);
    impl<F: FnOnce(Option<&HeaderMap>)> Drop for Told<F> {
        fn drop(&mut self) {
            if let Some(tell) = self.0.take() {
                tell(None);
            }
        }
    }
    let mut told = Told(Some(tell));
    let frames = poll_fn(move |cx| {
        let frame = ready!(Pin::new(&mut body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
            && let Some(tell) = told.0.take()
        {
            tell(Some(trailers));
        }
        Poll::Ready(frame)
    });
    StreamBody::new(frames).boxed_unsync()
}

/// A body that ends in `trailers` where it breaks.
pub(crate) fn mended(
    mut body: Body,
    trailers: impl FnOnce(BodyError) -> HeaderMap + Send + 'static,
) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let mut trailers = Some(trailers);
    let frames = poll_fn(move |cx| {
        if trailers.is_none() {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(Pin::new(&mut body).poll_frame(cx)) {
            Some(Err(error)) => trailers.take().map(|make| Ok(Frame::trailers(make(error)))),
            frame => frame,
        })
    });
    StreamBody::new(frames).boxed_unsync()
}

/// The rest of an answer whose head came: nothing, where its end is here already, and it says so then, for
/// an answer without a body is another one than one with an empty one (gRPC). `held` is kept until the end.
pub(crate) fn answered<T: Send + 'static>(mut frames: Frames, held: T) -> Body {
    match frames.ready() {
        Ok(Ready::Frame(frame::Frame::End)) => empty(),
        Ok(Ready::Frame(first)) => framed_from(Some(first), frames, held, None),
        Ok(Ready::Wants(_)) => framed(frames, held, None),
        Err(error) => full_of(error.into()),
    }
}

/// A body that is broken from the start.
fn full_of(error: BodyError) -> Body {
    StreamBody::new(futures_util::stream::iter([Err(error)])).boxed_unsync()
}

/// The body that comes in frames. `held` is kept until its end. `go` is told when it is first asked for.
pub(crate) fn framed<T: Send + 'static>(
    frames: Frames,
    held: T,
    go: Option<oneshot::Sender<()>>,
) -> Body {
    framed_from(None, frames, held, go)
}

fn framed_from<T: Send + 'static>(
    first: Option<frame::Frame>,
    frames: Frames,
    held: T,
    go: Option<oneshot::Sender<()>>,
) -> Body {
    let stream = unfold(Some((first, frames, held, go)), |state| async move {
        let (mut first, mut frames, held, go) = state?;
        if let Some(go) = go {
            // Nobody listens any more: the request is being given up, and so will this body.
            let _ = go.send(());
        }
        loop {
            let next = match first.take() {
                Some(first) => Ok(first),
                None => frames.next().await,
            };
            match next {
                Ok(frame::Frame::Data(bytes)) => {
                    return Some((Ok(Frame::data(bytes)), Some((None, frames, held, None))));
                }
                Ok(frame::Frame::Trailers(fields)) => {
                    let map = HeaderMap::try_from(&fields).map_err(FrameError::from);
                    return match map {
                        Ok(map) => {
                            Some((Ok(Frame::trailers(map)), Some((None, frames, held, None))))
                        }
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

/// A body that was not written to its end.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) error: BodyError,
    /// Something of it, or of what stands before it, was written.
    pub(crate) begun: bool,
}

/// Writes `first`, then a body and its end. Dropped or failed on the way, the stream is reset by its
/// [`Sender`].
pub(crate) async fn pump(send: &mut Sender, body: Body, first: Vec<Bytes>) -> Result<(), Broken> {
    let mut begun = false;
    pump_all(send, body, first, &mut begun).await.map_err(|error| Broken { error, begun })
}

async fn pump_all(
    send: &mut Sender,
    mut body: Body,
    first: Vec<Bytes>,
    begun: &mut bool,
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
                    *begun = true;
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
            *begun = true;
            send.write_all_chunks(&mut out).await?;
            (out, gathered) = (Vec::new(), 0);
        }
    }
    out.push(frame::end());
    *begun = true;
    send.write_all_chunks(&mut out).await?;
    send.finish();
    Ok(())
}
