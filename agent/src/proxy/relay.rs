//! Relaying: bytes of a peer that cannot reach another one itself, passed on to that one's mesh port.
//!
//! What passes here is a lane's TLS between the two: this agent can read none of it, change none of it
//! unnoticed, and speaks for nobody. Where it leads is the core's word, by the member's own signed record,
//! never the asker's: nothing but mesh ports of living members is reached. How much it carries is bounded, in
//! all and for each peer; bytes are held back by the stream's own windows.
//!
//! Both ends of the conversation with the relay are here: [`ask`] for a way, and [`serve`] one. An agent of an
//! earlier version refuses the question as a request it cannot read.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hearth_proto::ids::NodeName;
use hearth_proto::node::RelayWish;
use hearth_proto::relay::Refusal;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::frame::{self, Cause, Frame, Frames, Refused};
use super::tcp::{Moved, copy_both};
use super::{Inner, lock};
use crate::driver::PathReport;
use crate::link::lane::listen::tune;
use crate::link::{DataStream, InFlight, Links, Receiver, Sender};

/// Streams carried for others at once, in all and for one peer, which needs one for each peer that it has lost.
const MAX_CARRIED: usize = 64;
const MAX_OF_ONE: usize = 8;
/// A member's mesh port answers within a round trip, or is not reached from here either.
const DIAL_LIMIT: Duration = Duration::from_millis(500);
/// The core answers within a turn.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// A stream on which nothing moved for so long, and at most twice that, is ended: its asker pings four times a
/// second as long as it is there.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// What waits between our lane and the stream to its relay, each way.
const BETWEEN: usize = 64 * 1024;

/// What this agent carries for others.
#[derive(Default)]
pub(crate) struct Carrying {
    unwilling: AtomicBool,
    /// By peer, how many there are.
    places: Mutex<BTreeMap<NodeName, usize>>,
}

impl Carrying {
    /// Whether it carries at all, from now on.
    pub(crate) fn be_willing(&self, willing: bool) {
        self.unwilling.store(!willing, Ordering::Relaxed);
    }

    fn enter(inner: &Arc<Inner>, peer: &NodeName) -> Result<Place, Refusal> {
        let this = &inner.carrying;
        if this.unwilling.load(Ordering::Relaxed) {
            return Err(Refusal::Unwilling);
        }
        let mut places = lock(&this.places);
        let own = places.get(peer).copied().unwrap_or_default();
        if own >= MAX_OF_ONE || places.values().sum::<usize>() >= MAX_CARRIED {
            return Err(Refusal::Full);
        }
        places.insert(peer.clone(), own + 1);
        inner.metrics.relay_streams.inc();
        Ok(Place { inner: inner.clone(), peer: peer.clone() })
    }
}

/// A stream that is carried, while it lives.
struct Place {
    inner: Arc<Inner>,
    peer: NodeName,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.inner.metrics.relay_streams.dec();
        let mut places = lock(&self.inner.carrying.places);
        if let Some(count) = places.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                places.remove(&self.peer);
            }
        }
    }
}

/// Asks a third agent for a way to a peer. The bytes are moved by a task of its own, which ends with either
/// side, or with the third agent.
pub(crate) async fn ask(links: Links, wish: RelayWish) -> Result<DuplexStream, String> {
    let opened = links.open_stream(&wish.via, wish.address).await;
    let DataStream { mut send, recv, guard } = opened.map_err(|e| e.to_string())?;
    let opening = frame::relay(&wish.to);
    send.write_chunk(opening).await.map_err(|e| e.to_string())?;
    let mut frames = Frames::new(recv);
    match frames.next().await {
        Ok(Frame::Go) => {}
        Ok(Frame::Refused(refused)) => return Err(refused.detail),
        Ok(_) => return Err("its answer cannot be read".into()),
        Err(error) => return Err(error.to_string()),
    }
    let (ahead, recv) = frames.into_bytes();
    let (ours, theirs) = tokio::io::duplex(BETWEEN);
    tokio::spawn(async move {
        let (read, write) = tokio::io::split(theirs);
        let moved = Moved::default();
        tokio::select! {
            biased;
            copied = copy_both(read, write, &mut send, ahead, recv, &moved) => {
                if let Err(error) = copied {
                    tracing::debug!(via = %wish.via, peer = %wish.to, %error, "relay broke");
                }
            }
            () = lost(guard.as_ref()) => tracing::debug!(via = %wish.via, "relay lost"),
        }
    });
    Ok(ours)
}

async fn lost(guard: Option<&InFlight>) {
    match guard {
        Some(guard) => guard.lost().await,
        None => std::future::pending().await,
    }
}

/// Carries bytes of `caller` to the member that it names, if that may be.
pub(crate) async fn serve(
    inner: &Arc<Inner>,
    caller: &NodeName,
    named: &[u8],
    send: &mut Sender,
    frames: Frames,
) -> Result<(), Refused> {
    let refused = |why: Refusal| {
        inner.metrics.relay_refused(why.word());
        tracing::debug!(%caller, reason = why.word(), "not relayed");
        let cause = match why {
            Refusal::Full => Cause::Busy,
            Refusal::Unwilling | Refusal::Unknown | Refusal::Policy => Cause::Denied,
            Refusal::NotAlive | Refusal::Silent | Refusal::Unreachable => Cause::NotServing,
        };
        let detail = format!("{} does not relay: {why}", inner.node());
        Refused { executed: false, cause, detail }
    };
    let name = std::str::from_utf8(named).ok().and_then(|name| NodeName::parse(name).ok());
    let to = name.ok_or_else(|| refused(Refusal::Unknown))?;
    let _place = Carrying::enter(inner, caller).map_err(refused)?;
    let address = permitted(inner, caller, &to).await.map_err(refused)?;
    let socket = match timeout(DIAL_LIMIT, TcpStream::connect(address)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(_)) | Err(_) => return Err(refused(Refusal::Unreachable)),
    };
    tune(&socket);
    inner.metrics.relayed.inc();
    tracing::debug!(%caller, %to, %address, "relaying");
    if send.write_chunk(frame::go()).await.is_ok() {
        let (ahead, recv) = frames.into_bytes();
        pass_on(socket, send, ahead, recv).await;
    }
    Ok(())
}

/// Where the member is reached, if the core lets bytes of `caller` pass to it.
async fn permitted(inner: &Inner, caller: &NodeName, to: &NodeName) -> Result<SocketAddr, Refusal> {
    let (answer, answered) = oneshot::channel();
    inner.tell(PathReport::MayRelay { from: caller.clone(), to: to.clone(), answer });
    match timeout(ANSWER_LIMIT, answered).await {
        Ok(Ok(answer)) => answer,
        // The queue to the core is full, or the agent ends.
        Ok(Err(_)) | Err(_) => Err(Refusal::Full),
    }
}

async fn pass_on(mut socket: TcpStream, send: &mut Sender, ahead: Bytes, recv: Receiver) {
    let (read, write) = socket.split();
    let moved = Moved::default();
    // However it ends, both sides see it: the socket closes and the stream is reset.
    tokio::select! {
        biased;
        copied = copy(read, write, send, ahead, recv, &moved) => copied,
        () = idle(&moved) => {}
    }
}

async fn copy(
    read: impl AsyncRead + Unpin,
    write: impl AsyncWrite + Unpin,
    send: &mut Sender,
    ahead: Bytes,
    recv: Receiver,
    moved: &Moved,
) {
    if let Err(error) = copy_both(read, write, send, ahead, recv, moved).await {
        tracing::debug!(%error, "relayed stream broke");
    }
}

/// Waits until nothing has moved for a while.
async fn idle(moved: &Moved) {
    loop {
        tokio::time::sleep(IDLE_LIMIT).await;
        if !moved.since_last() {
            return;
        }
    }
}
