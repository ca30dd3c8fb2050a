//! Datagrams: a client's to an endpoint and back, in sessions.
//!
//! A session is a client's address. It has an endpoint for its life, since applications that speak datagrams
//! keep state by sender; it gets another when that one is lost, refuses, or is no longer sent anything by the
//! routes. It ends when nothing was sent either way for as long as the upstream says.
//!
//! Datagrams cross the mesh on a stream of their session, each as two bytes of length and itself; so none
//! is lost between agents, and one that is large needs no fragments. Where a session or its stream cannot
//! keep up, the newest are dropped and counted. Bounded: sessions of a port, datagrams waiting per session.
//!
//! Tasks: one per port, one per session. A session's ends with its port.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use hearth_proto::advert::Protocol;
use hearth_proto::evidence::Outcome;
use hearth_proto::ids::{EndpointId, NodeName, ServiceName};
use hearth_proto::route::Choice;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

use super::frame::{self, Cause, Frames, Opening, Refused};
use super::head::RequestHead;
use super::tcp::{Carried, head, open};
use super::{Inner, reach};
use crate::driver::PathReport;
use crate::link::{Receiver, Sender};
use crate::pipe::AppAddress;

/// Sessions of one port at once: what a port of applications on one host sees, with room for a scan.
const MAX_SESSIONS: usize = 4096;
/// Datagrams that wait in a session for its endpoint or its stream.
const WAITING: usize = 64;
/// What is written to a stream at once, where more waits.
const BATCH: usize = 32 * 1024;
/// Largest datagram there is.
const MAX_DATAGRAM: usize = u16::MAX as usize;
/// After an error of the socket, which may be one without end.
const PAUSE: Duration = Duration::from_millis(50);

thread_local! {
    /// What a datagram is read into before its size is known; never held across a wait.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_DATAGRAM]);
}

/// Where a port of datagrams leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpEntry {
    /// The service.
    pub service: ServiceName,
    /// A session ends when nothing was sent for so long.
    pub idle: Duration,
}

/// A port of datagrams as others see it.
pub(crate) struct UdpDoor {
    leads: ArcSwap<UdpEntry>,
    closed: watch::Sender<bool>,
}

impl UdpDoor {
    pub(crate) fn new(leads: UdpEntry) -> Self {
        Self { leads: ArcSwap::from_pointee(leads), closed: watch::Sender::new(false) }
    }

    pub(crate) fn leads(&self) -> Arc<UdpEntry> {
        self.leads.load_full()
    }

    pub(crate) fn redirect(&self, leads: UdpEntry) {
        self.leads.store(Arc::new(leads));
    }

    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
    }
}

/// A port on the runtime whose context this is called in.
pub(crate) fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// A session as its port sees it.
struct Session {
    leads: Arc<UdpEntry>,
    queue: mpsc::Sender<Bytes>,
}

/// Receives until the door is closed; its sessions end with it.
pub(crate) async fn accept(inner: Arc<Inner>, socket: UdpSocket, door: Arc<UdpDoor>) {
    let mut closed = door.closed.subscribe();
    let socket = Arc::new(socket);
    let mut sessions: HashMap<SocketAddr, Session> = HashMap::new();
    let mut sweep_at = WAITING;
    loop {
        let received = tokio::select! {
            biased;
            _ = closed.wait_for(|c| *c) => return,
            received = receive_from(&socket) => received,
        };
        let (datagram, client) = match received {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "datagram not received");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let leads = door.leads();
        let known = sessions.get(&client).filter(|s| s.leads == leads && !s.queue.is_closed());
        if let Some(session) = known {
            if session.queue.try_send(datagram).is_err() {
                inner.metrics.drop("udp_session");
            }
            continue;
        }
        if sessions.len() >= sweep_at {
            sessions.retain(|_, session| !session.queue.is_closed());
            sweep_at = (sessions.len() * 2).clamp(WAITING, MAX_SESSIONS);
        }
        if sessions.len() >= MAX_SESSIONS && !sessions.contains_key(&client) {
            inner.metrics.drop("udp_sessions");
            continue;
        }
        let (queue, waiting) = mpsc::channel(WAITING);
        // Proof: the queue is new and has room.
        let _ = queue.try_send(datagram);
        let side = Client { socket: socket.clone(), address: client };
        tokio::spawn(session(inner.clone(), leads.clone(), side, waiting));
        sessions.insert(client, Session { leads, queue });
    }
}

async fn receive_from(socket: &UdpSocket) -> io::Result<(Bytes, SocketAddr)> {
    loop {
        socket.readable().await?;
        let received: io::Result<(Bytes, SocketAddr)> = BUFFER.with_borrow_mut(|buffer| {
            let (n, from) = socket.try_recv_from(buffer)?;
            Ok((Bytes::copy_from_slice(&buffer[..n]), from))
        });
        match received {
            Err(error) if is_passing(&error) => {}
            other => return other,
        }
    }
}

/// Gives a datagram to an application. An error says that nobody is there; what cannot be sent for another
/// reason is lost, as datagrams may be.
async fn deliver(app: &UdpSocket, datagram: &[u8]) -> io::Result<()> {
    match app.send(datagram).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Err(error),
        _ => Ok(()),
    }
}

async fn receive(socket: &UdpSocket) -> io::Result<Bytes> {
    loop {
        socket.readable().await?;
        let received: io::Result<Bytes> = BUFFER.with_borrow_mut(|buffer| {
            let n = socket.try_recv(buffer)?;
            Ok(Bytes::copy_from_slice(&buffer[..n]))
        });
        match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

/// On a port that is not connected, a refusal is about some client that is gone.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused)
}

/// The client's side of a session.
struct Client {
    socket: Arc<UdpSocket>,
    address: SocketAddr,
}

impl Client {
    async fn send(&self, datagram: &[u8]) {
        // A client that is gone, or whose queue is full, misses a datagram: that is UDP.
        let _ = self.socket.send_to(datagram, self.address).await;
    }
}

/// When something was last sent either way, in milliseconds since the session began.
struct Activity {
    began: Instant,
    last_ms: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self { began: Instant::now(), last_ms: AtomicU64::new(0) }
    }

    fn now(&self) {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(ms, Ordering::Relaxed);
    }

    /// Waits until there was none for `idle`.
    async fn none_for(&self, idle: Duration) {
        loop {
            let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
            let end = self.began + last + idle;
            if Instant::now() >= end {
                return;
            }
            tokio::time::sleep_until(end.into()).await;
        }
    }
}

/// How a session's time at one endpoint ended.
enum Ended {
    /// The session is over.
    Over,
    /// The endpoint refused or was lost.
    Lost,
    /// The routes lead elsewhere.
    Moved,
}

async fn session(
    inner: Arc<Inner>,
    leads: Arc<UdpEntry>,
    client: Client,
    mut queue: mpsc::Receiver<Bytes>,
) {
    inner.metrics.udp_sessions.inc();
    let activity = Activity::new();
    let mut avoid = None;
    loop {
        // An endpoint is looked for when there is something for it: a session that lost its endpoint
        // and has nothing to say costs nothing.
        let first = tokio::select! {
            first = queue.recv() => first,
            () = activity.none_for(leads.idle) => None,
        };
        let Some(first) = first else { break };
        activity.now();
        let take = |id, address, deadline| take(&inner, id, address, deadline).boxed();
        let Some(reached) = reach::reach(&inner, &leads.service, avoid.take(), take).await else {
            tracing::info!(service = %leads.service, client = %client.address,
                "session failed: nobody took it");
            break;
        };
        let reach::Reached { id, taken, under_way } = reached;
        let ended = {
            let carried = async {
                match taken {
                    Taken::Local(app) => local(&app, first, &mut queue, &client, &activity).await,
                    Taken::Remote(carried) => {
                        remote(*carried, first, &mut queue, &client, &activity).await
                    }
                }
            };
            tokio::select! {
                ended = carried => ended,
                () = moved(&inner, &leads.service, &id) => Ended::Moved,
                () = activity.none_for(leads.idle) => Ended::Over,
            }
        };
        drop(under_way);
        match ended {
            Ended::Over => break,
            Ended::Moved => {}
            Ended::Lost => {
                inner.report(&id, Outcome::Refused);
                avoid = Some(id);
            }
        }
    }
    queue.close();
    while queue.try_recv().is_ok() {
        inner.metrics.drop("udp_session");
    }
    inner.metrics.udp_sessions.dec();
}

/// Waits until the routes send this service's traffic to others only.
async fn moved(inner: &Inner, service: &ServiceName, id: &EndpointId) {
    let mut changed = inner.mesh.changed.clone();
    loop {
        changed.borrow_and_update();
        if let Some(route) = inner.route(service)
            && let Choice::Serve(these) | Choice::Panic(these) = &route.choice
            && !these.is_empty()
            && !these.iter().any(|i| route.candidates.get(*i).is_some_and(|c| c.id == *id))
        {
            return;
        }
        if changed.changed().await.is_err() {
            // The agent ends; so will the session.
            std::future::pending::<()>().await;
        }
    }
}

/// An endpoint that took a session.
enum Taken {
    /// On this host.
    Local(UdpSocket),
    /// On another.
    Remote(Box<Carried>),
}

async fn take(
    inner: &Arc<Inner>,
    id: EndpointId,
    address: SocketAddr,
    deadline: Instant,
) -> Result<Taken, String> {
    let head = head(&id, deadline);
    if &id.node == inner.node() {
        let app = connect(inner, inner.node(), &head).await.map_err(|r| r.detail)?;
        return Ok(Taken::Local(app));
    }
    let carried = open(inner, &id, address, &Opening::Datagrams(head)).await?;
    Ok(Taken::Remote(Box::new(carried)))
}

async fn local(
    app: &UdpSocket,
    first: Bytes,
    queue: &mut mpsc::Receiver<Bytes>,
    client: &Client,
    activity: &Activity,
) -> Ended {
    let out = async {
        let mut next = Some(first);
        while let Some(datagram) = next {
            activity.now();
            if deliver(app, &datagram).await.is_err() {
                return Ended::Lost;
            }
            next = queue.recv().await;
        }
        Ended::Over
    };
    let back = async {
        while let Ok(datagram) = receive(app).await {
            activity.now();
            client.send(&datagram).await;
        }
        Ended::Lost
    };
    tokio::select! {
        ended = out => ended,
        ended = back => ended,
    }
}

async fn remote(
    carried: Carried,
    first: Bytes,
    queue: &mut mpsc::Receiver<Bytes>,
    client: &Client,
    activity: &Activity,
) -> Ended {
    let Carried { mut send, ahead, recv, guard } = carried;
    let out = async {
        let mut batch = BytesMut::new();
        let mut next = Some(first);
        while let Some(datagram) = next {
            activity.now();
            put(&mut batch, &datagram);
            while batch.len() < BATCH
                && let Ok(datagram) = queue.try_recv()
            {
                put(&mut batch, &datagram);
            }
            if send.write_chunk(batch.split().freeze()).await.is_err() {
                return Ended::Lost;
            }
            next = queue.recv().await;
        }
        Ended::Over
    };
    let back = async {
        let mut pieces = Pieces::new(ahead, recv);
        while let Some(datagram) = pieces.next().await {
            activity.now();
            client.send(&datagram).await;
        }
        Ended::Lost
    };
    let ended = tokio::select! {
        ended = out => ended,
        ended = back => ended,
    };
    // The owner sees the end of the stream and lets the session go.
    send.finish();
    drop(guard);
    ended
}

/// Appends a datagram as it travels.
fn put(batch: &mut BytesMut, datagram: &[u8]) {
    // A datagram is never longer: its own header counts its length in two bytes.
    let length = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
    batch.reserve(2 + datagram.len());
    batch.put_u16(length);
    batch.put_slice(&datagram[..length.into()]);
}

/// Datagrams as they come on a stream.
struct Pieces {
    buffer: BytesMut,
    recv: Receiver,
}

impl Pieces {
    fn new(ahead: Bytes, recv: Receiver) -> Self {
        Self { buffer: BytesMut::from(&ahead[..]), recv }
    }

    /// The next one; `None` when the stream has ended or is broken.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(datagram) = whole(&mut self.buffer) {
                return Some(datagram);
            }
            let piece = self.recv.read_chunk(MAX_DATAGRAM).await.ok()??;
            self.buffer.extend_from_slice(&piece);
        }
    }
}

/// Takes a datagram out of `buffer` if one is there whole.
fn whole(buffer: &mut BytesMut) -> Option<Bytes> {
    let length = usize::from(u16::from_be_bytes([*buffer.first()?, *buffer.get(1)?]));
    if buffer.len() < 2 + length {
        return None;
    }
    buffer.advance(2);
    Some(buffer.split_to(length).freeze())
}

async fn connect(
    inner: &Inner,
    caller: &NodeName,
    head: &RequestHead,
) -> Result<UdpSocket, Refused> {
    let endpoint = inner.admit(caller, head, Duration::from_micros(head.left_us)).await?;
    let refused = |cause, detail| Refused { executed: false, cause, detail };
    let (Protocol::Udp, AppAddress::Port(address)) = (endpoint.protocol, &endpoint.address) else {
        return Err(refused(Cause::Malformed, format!("{} takes no datagrams", endpoint.id)));
    };
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let opened = async {
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(address).await?;
        Ok::<_, io::Error>(socket)
    };
    opened.await.map_err(|e| refused(Cause::Busy, format!("no socket for the session: {e}")))
}

/// The owner's side.
pub(crate) async fn serve(
    inner: &Inner,
    caller: &NodeName,
    head: &RequestHead,
    send: &mut Sender,
    frames: Frames,
) -> Result<(), Refused> {
    let app = connect(inner, caller, head).await?;
    if send.write_chunk(frame::go()).await.is_err() {
        return Ok(());
    }
    let (ahead, recv) = frames.into_bytes();
    let out = async {
        let mut pieces = Pieces::new(ahead, recv);
        while let Some(datagram) = pieces.next().await {
            deliver(&app, &datagram).await?;
        }
        Ok::<_, io::Error>(())
    };
    let back = async {
        let mut batch = BytesMut::new();
        let lost = loop {
            match receive(&app).await {
                Ok(datagram) => put(&mut batch, &datagram),
                Err(error) => break error,
            }
            if send.write_chunk(batch.split().freeze()).await.is_err() {
                return Ok(());
            }
        };
        Err::<(), io::Error>(lost)
    };
    let ended = tokio::select! {
        ended = out => ended,
        ended = back => ended,
    };
    if let Err(error) = ended {
        // The system told that nobody is at the port any more.
        let endpoint = EndpointId {
            service: head.service.clone(),
            node: inner.node().clone(),
            instance: head.instance,
        };
        tracing::debug!(%endpoint, %error, "session lost its application");
        inner.tell(PathReport::LocalRefused { endpoint });
        send.abandon();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_travel_with_their_length_and_empty_ones_are_datagrams_too() {
        let mut wire = BytesMut::new();
        let datagrams: [&[u8]; 4] = [b"abc", b"", &[7; MAX_DATAGRAM], b"x"];
        datagrams.iter().for_each(|d| put(&mut wire, d));
        // They come in pieces of any size.
        let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
        for piece in wire.chunks(1000) {
            buffer.extend_from_slice(piece);
            while let Some(datagram) = whole(&mut buffer) {
                found.push(datagram);
            }
        }
        assert_eq!(found, datagrams);
        assert!(buffer.is_empty());
    }
}
