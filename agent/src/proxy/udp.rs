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

mod owner;
mod pieces;
mod socket;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use hearth_proto::ids::{EndpointId, ServiceName};
use hearth_proto::route::Choice;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

use super::attempt::{Fault, FaultKind, Target};
use super::frame::Opening;
use super::limit::Place;
use super::tcp::{Carried, head, open};
use super::{Inner, reach};
use pieces::{Pieces, put};
use socket::{deliver, receive, receive_from};

pub(crate) use owner::serve;
pub(crate) use socket::bind_udp;

/// Sessions of one port at once: what a port of applications on one host sees, with room for a scan.
const MAX_SESSIONS: usize = 4096;
/// Datagrams that wait in a session for its endpoint or its stream.
const WAITING: usize = 64;
/// What is written to a stream at once, where more waits.
const BATCH: usize = 32 * 1024;
/// After an error of the socket, which may be one without end.
const PAUSE: Duration = Duration::from_millis(50);

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
        let take = |target, deadline| take(&inner, target, deadline).boxed();
        let Some(reached) =
            reach::reach(&inner, &leads.service, avoid.take(), client.address.ip(), take).await
        else {
            tracing::info!(service = %leads.service, client = %client.address,
                "session failed: nobody took it");
            break;
        };
        let reach::Reached { id, taken, under_way } = reached;
        let began = Instant::now();
        let ended = {
            let carried = async {
                match taken {
                    Taken::Local(app, _place) => {
                        let carried = local(&app, first, &mut queue, &client, &activity);
                        inner.under_lease(&id, carried).await.unwrap_or(Ended::Moved)
                    }
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
                let fault = Fault::unknown(FaultKind::Cut, "the session's stream or socket broke");
                reach::failed(&inner, &id, began, &fault);
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
            && let Choice::Serve(these) | Choice::Panic(these) | Choice::Relay(these) =
                &route.choice
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
    /// On this host, and its place there.
    Local(UdpSocket, Place),
    /// On another.
    Remote(Box<Carried>),
}

async fn take(inner: &Arc<Inner>, target: Target, deadline: Instant) -> Result<Taken, Fault> {
    let head = head(&target, deadline);
    if &target.id.node == inner.node() {
        let (app, place) = owner::connect(inner, inner.node(), &head).await?;
        return Ok(Taken::Local(app, place));
    }
    let carried = open(inner, &target, &Opening::Datagrams(head)).await?;
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
        let mut pieces = Pieces::new(&ahead, recv);
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
