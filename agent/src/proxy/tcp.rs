//! Opaque bytes: a client's TCP connection carried to an endpoint as it is.
//!
//! The connection is sent elsewhere as long as no application has taken it; after that its bytes belong
//! to one endpoint, and it ends with whatever ends first. Each half ends by itself, as in TCP. When the peer
//! is lost the client's connection is reset: nobody can say what became of its bytes.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use hearth_proto::ids::{NodeName, ServiceName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::attempt::{Fault, FaultKind, Target};
use super::frame::{self, Cause, Frame, FrameError, Frames, Opening, Refused};
use super::head::{BodyKind, Fields, RequestHead};
use super::limit::Place;
use super::{Inner, lease, reach};
use crate::driver::PathReport;
use crate::link::{DataStream, InFlight, Receiver, Sender, StreamError};
use crate::pipe::{Pipe, Whole};

/// On loopback a connection stands at once or the application is not there.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Read of a connection at once.
const COPY: usize = 64 * 1024;

/// Carries a client's connection to an endpoint of `service`.
pub(crate) async fn carry(inner: &Arc<Inner>, service: &ServiceName, client: Pipe, from: IpAddr) {
    let reached = tokio::select! {
        reached = reach(inner, service, from) => reached,
        // Nobody is to be troubled for its sake.
        () = client.broken() => return,
    };
    match reached {
        Some(reached) => reached.exchange(client).await,
        None => {
            tracing::info!(%service, "connection failed: nobody took it");
            // Dropping the client's connection without a word would look like an orderly end.
            client.abort();
        }
    }
}

/// An endpoint that took a connection.
pub(crate) struct Reached {
    inner: Arc<Inner>,
    by: reach::Reached<Taken>,
}

impl Reached {
    /// Carries what `client` says, to its end.
    pub(crate) async fn exchange(self, client: Pipe) {
        let Self { inner, by } = self;
        let carried = exchange(client, by.taken);
        if by.id.node == *inner.node() {
            // Cut when the lease is over: dropped, both connections break.
            drop(inner.under_lease(&by.id, carried).await);
        } else {
            carried.await;
        }
        drop(by.under_way);
    }
}

/// Has an endpoint of `service` take a connection.
pub(crate) async fn reach(
    inner: &Arc<Inner>,
    service: &ServiceName,
    client: IpAddr,
) -> Option<Reached> {
    let take = |target, deadline| take(inner, target, deadline).boxed();
    let by = reach::reach(inner, service, None, client, take).await?;
    Some(Reached { inner: inner.clone(), by })
}

/// A stream whose endpoint took the connection.
pub(crate) struct Carried {
    pub(crate) send: Sender,
    /// What was read of it already.
    pub(crate) ahead: Bytes,
    pub(crate) recv: Receiver,
    pub(crate) guard: Option<InFlight>,
}

/// An endpoint that took the connection.
pub(crate) enum Taken {
    /// On this host, and its place there.
    Local(Pipe, Place),
    /// On another.
    Remote(Box<Carried>),
}

async fn take(inner: &Arc<Inner>, target: Target, deadline: Instant) -> Result<Taken, Fault> {
    let head = head(&target, deadline);
    if &target.id.node == inner.node() {
        let (stream, place) = connect(inner, inner.node(), &head).await?;
        return Ok(Taken::Local(stream, place));
    }
    let carried = open(inner, &target, &Opening::Bytes(head)).await?;
    Ok(Taken::Remote(Box::new(carried)))
}

/// What is said of a connection or session: whose it is.
pub(crate) fn head(target: &Target, deadline: Instant) -> RequestHead {
    let left = deadline.saturating_duration_since(Instant::now());
    let head = RequestHead {
        attempts: target.attempts,
        service: target.id.service.clone(),
        instance: target.id.instance,
        left_us: u64::try_from(left.as_micros()).unwrap_or(u64::MAX),
        body: BodyKind::AfterGo,
        length: None,
        method: String::new(),
        target: String::new(),
        authority: String::new(),
        upgrade: String::new(),
        fields: Fields::default(),
    };
    lease::attach(head, target.term)
}

/// Waits until the peer is lost.
pub(crate) async fn lost(guard: Option<&InFlight>) {
    match guard {
        Some(guard) => guard.lost().await,
        None => std::future::pending().await,
    }
}

/// Opens a stream and waits until its endpoint has taken it, or its link is in doubt: there may be a better
/// one, and nothing was said yet. Not so where it was picked for want of better.
pub(crate) async fn open(
    inner: &Inner,
    target: &Target,
    opening: &Opening,
) -> Result<Carried, Fault> {
    let node = &target.id.node;
    let DataStream { mut send, recv, guard } = match &target.via {
        Some(via) => inner.mesh.links.open_stream_through(node, via)?,
        None => inner.mesh.links.open_stream(node, target.address).await?,
    };
    let mut health = target.health(inner);
    let silent = async {
        if target.silent || health.wait_for(|h| h.is_silent()).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let opening = frame::encode_opening(opening).ok_or_else(|| {
        Fault::not_executed(FaultKind::Owner(Cause::Malformed), "its head is too large")
    })?;
    send.write_chunk(opening).await.map_err(FrameError::Stream)?;
    let mut frames = Frames::new(recv);
    let answer = tokio::select! {
        biased;
        answer = frames.next() => answer?,
        () = silent => {
            let why = format!("the link to {node} is silent");
            return Err(Fault::not_executed(FaultKind::Silent, why));
        }
    };
    match answer {
        Frame::Go => {
            let (ahead, recv) = frames.into_bytes();
            Ok(Carried { send, ahead, recv, guard })
        }
        Frame::Refused(refused) => Err(refused.into()),
        _ => Err(FrameError::Malformed("an answer").into()),
    }
}

async fn exchange(client: Pipe, taken: Taken) {
    // How either side ended it is for the two applications to see.
    match taken {
        Taken::Local(app, _place) => {
            let (mut client, mut app) = (Whole::new(client), Whole::new(app));
            match tokio::io::copy_bidirectional(client.pipe(), app.pipe()).await {
                Ok(_) => {
                    client.ended();
                    app.ended();
                }
                Err(error) => tracing::trace!(%error, "connection broke"),
            }
        }
        Taken::Remote(carried) => {
            let Carried { mut send, ahead, recv, guard } = *carried;
            tokio::select! {
                biased;
                () = both_ways(client, &mut send, ahead, recv) => {}
                () = lost(guard.as_ref()) => tracing::trace!("connection cut: the peer is lost"),
            }
        }
    }
}

/// Copies until both halves have ended or one has broken. A broken half resets the stream, and a stream that
/// is given up breaks the pipe, whenever this is dropped. `ahead` was read of the stream already.
pub(crate) async fn both_ways(pipe: Pipe, send: &mut Sender, ahead: Bytes, recv: Receiver) {
    let mut whole = Whole::new(pipe);
    let moved = Moved::default();
    let copied = match whole.pipe() {
        Pipe::Tcp(stream) => {
            let (read, write) = stream.split();
            copy_both(read, write, send, ahead, recv, &moved).await
        }
        Pipe::Unix(stream) => {
            let (read, write) = stream.split();
            copy_both(read, write, send, ahead, recv, &moved).await
        }
        Pipe::Tunnel(stream) => {
            let (read, write) = tokio::io::split(stream);
            copy_both(read, write, send, ahead, recv, &moved).await
        }
    };
    match copied {
        Ok(()) => whole.ended(),
        Err(error) => tracing::trace!(%error, "connection broke"),
    }
}

/// Whether bytes have moved.
#[derive(Debug, Default)]
pub(crate) struct Moved(AtomicBool);

impl Moved {
    fn on(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether any have since this was last asked.
    pub(crate) fn since_last(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// Copies until both halves have ended or one has broken, and notes that bytes move.
pub(crate) async fn copy_both(
    mut read: impl AsyncRead + Unpin,
    mut write: impl AsyncWrite + Unpin,
    send: &mut Sender,
    ahead: Bytes,
    mut recv: Receiver,
    moved: &Moved,
) -> Result<(), Ended> {
    let out = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(COPY);
            if read.read_buf(&mut buffer).await? == 0 {
                break;
            }
            send.write_chunk(buffer.split().freeze()).await?;
            moved.on();
        }
        send.finish();
        Ok::<_, Ended>(())
    };
    let back = async {
        write.write_all(&ahead).await?;
        while let Some(piece) = recv.read_chunk(usize::MAX).await? {
            write.write_all(&piece).await?;
            moved.on();
        }
        Ok(write.shutdown().await?)
    };
    tokio::try_join!(out, back).map(drop)
}

/// Why bytes are no longer copied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    /// The application or the client.
    #[error("the connection broke: {0}")]
    Tcp(#[from] std::io::Error),
    /// The stream.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

async fn connect(
    inner: &Inner,
    caller: &NodeName,
    head: &RequestHead,
) -> Result<(Pipe, Place), Refused> {
    let (endpoint, place) = inner.take_on(caller, head).await?;
    let refused = |why: String| {
        inner.tell(PathReport::LocalRefused { endpoint: endpoint.id.clone() });
        let detail = format!("the application at {} refused: {why}", endpoint.address);
        Refused { executed: false, cause: Cause::AppRefused, detail }
    };
    match timeout(CONNECT_LIMIT, endpoint.address.connect()).await {
        Ok(Ok(stream)) => Ok((stream, place)),
        Ok(Err(error)) => Err(refused(error.to_string())),
        Err(_) => Err(refused(format!("no connection within {CONNECT_LIMIT:?}"))),
    }
}

/// The owner's side.
pub(crate) async fn serve(
    inner: &Inner,
    caller: &NodeName,
    head: &RequestHead,
    send: &mut Sender,
    frames: Frames,
) -> Result<(), Refused> {
    let (app, _place) = connect(inner, caller, head).await?;
    if send.write_chunk(frame::go()).await.is_ok() {
        let (ahead, recv) = frames.into_bytes();
        let carried = both_ways(app, send, ahead, recv);
        // Cut when the lease is over: dropped, the connection breaks and the stream is reset.
        drop(inner.under_lease(&inner.ours(head), carried).await);
    }
    Ok(())
}
