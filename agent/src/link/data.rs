//! Requests' streams: on a lane or on a QUIC data connection, dialled by the caller when it first needs one.
//!
//! Waiting for a dial is shared by all requests that need it, and bounded. After a failed dial the next
//! one waits out its backoff; requests meanwhile fail at once, so that they go elsewhere.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::{self, Either};
use hearth_proto::ids::{Generation, NodeName};
use quinn::Connection;
use tokio::sync::watch;
use tokio::time::timeout;

use super::backoff::Backoff;
use super::dial::{self, connect, explain};
use super::lane::choose::{self, Carrier, LaneChoice};
use super::lane::pool::{self, Found};
use super::line::Line;
use super::peer::Peer;
use super::relay::Relayed;
use super::stream::{DataStream, Receiver, Sender};
use super::{CloseCode, Farewell, Kind, LinkError, LinkHealth, Shared, health, lock, mesh};
use crate::identity::Expected;

/// Requests that wait for one dial.
const MAX_WAITERS: usize = 1024;
/// A peer that has so many requests of ours that it takes no more is busy, not unreachable; said within a
/// request's patience for a dial, so that the two are never taken for each other.
const OPEN_LIMIT: Duration = Duration::from_millis(200);

/// A data connection of ours and what is under way on it.
pub(crate) struct DataConnection {
    pub(crate) connection: Connection,
    streams: AtomicUsize,
    retired: AtomicBool,
}

impl DataConnection {
    /// No new streams; it closes with the last one.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        self.close_if_done();
    }

    fn close_if_done(&self) {
        if self.retired.load(Ordering::SeqCst) && self.streams.load(Ordering::SeqCst) == 0 {
            self.connection.close(CloseCode::Retired.code(), b"another connection took over");
        }
    }
}

type Outcome = Option<Result<Arc<DataConnection>, LinkError>>;

/// Where dialling a data connection stands.
#[derive(Default)]
pub(crate) struct DataDial {
    under_way: Option<watch::Receiver<Outcome>>,
    failed: Option<(Instant, LinkError)>,
    backoff: Backoff,
}

impl DataDial {
    /// The peer was just reached: the next request may dial at once.
    pub(crate) fn forgive(&mut self) {
        (self.failed, self.backoff) = (None, Backoff::default());
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }
}

/// A request that waits for a dial, while it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(peer: &'a Peer) -> Result<Self, LinkError> {
        // Counted before it is compared, so that many at once cannot slip through.
        let waiting = Self(&peer.waiting);
        match peer.waiting.fetch_add(1, Ordering::Relaxed) < MAX_WAITERS {
            true => Ok(waiting),
            false => {
                Err(LinkError::Busy { peer: peer.name.clone(), why: "too many wait for a dial" })
            }
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request of ours that is under way: while there is one, its peer is watched closely.
pub struct InFlight {
    peer: Arc<Peer>,
    on: On,
}

/// What a request is on.
enum On {
    /// A lane of ours, which counts its own streams.
    Lane,
    /// A QUIC connection.
    Connection(Arc<DataConnection>),
    /// A lane through a relay, which senses for itself.
    Relayed(Arc<Relayed>),
}

impl InFlight {
    fn on_connection(peer: &Arc<Peer>, connection: &Arc<DataConnection>) -> Self {
        connection.streams.fetch_add(1, Ordering::SeqCst);
        peer.begun.fetch_add(1, Ordering::Relaxed);
        peer.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { peer: peer.clone(), on: On::Connection(connection.clone()) }
    }

    pub(crate) fn on_lane(peer: &Arc<Peer>) -> Self {
        peer.begun.fetch_add(1, Ordering::Relaxed);
        peer.in_flight.fetch_add(1, Ordering::Relaxed);
        peer.on_lanes.fetch_add(1, Ordering::Relaxed);
        Self { peer: peer.clone(), on: On::Lane }
    }

    pub(crate) fn relayed(peer: &Arc<Peer>, relayed: &Arc<Relayed>) -> Self {
        Self { peer: peer.clone(), on: On::Relayed(relayed.clone()) }
    }

    /// Whether the peer is silent at this moment.
    pub fn is_silent(&self) -> bool {
        self.health().borrow().is_silent()
    }

    /// How it stands with the peer on the way the request took, to be awaited.
    pub fn health(&self) -> watch::Receiver<LinkHealth> {
        match &self.on {
            On::Lane | On::Connection(_) => self.peer.health(),
            On::Relayed(relayed) => relayed.health(),
        }
    }

    /// Waits until the peer is lost.
    pub async fn lost(&self) {
        health::lost(&mut self.health()).await;
    }
}

impl std::fmt::Debug for InFlight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "InFlight({})", self.peer.name)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        match &self.on {
            On::Connection(connection) => {
                connection.streams.fetch_sub(1, Ordering::SeqCst);
                connection.close_if_done();
            }
            On::Lane => drop(self.peer.on_lanes.fetch_sub(1, Ordering::Relaxed)),
            On::Relayed(_) => return,
        }
        self.peer.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Opens a stream on the lane that suits, dialling when needed.
pub(crate) async fn open(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    address: SocketAddr,
    choice: LaneChoice,
) -> Result<DataStream, LinkError> {
    let found = match choose::carrier(choice, peer.auto(), peer.is_udp_blocked()) {
        Carrier::Tcp => pool::find(shared, peer, address),
        Carrier::Quic => Found::Nothing,
    };
    let stream = match found {
        Found::Open(stream) => stream,
        // Boxed: every request's task, and so every idle client's, would hold room for a dial.
        Found::Nothing => Box::pin(open_quic(shared, peer, address)).await?,
        // Whatever QUIC says: it is reached, and it is busy.
        Found::Full => Box::pin(open_quic(shared, peer, address)).await.map_err(|_| {
            LinkError::Busy { peer: peer.name.clone(), why: "too many open requests" }
        })?,
        // QUIC opens at once if it is up and has room.
        Found::Dialled(dialled) => {
            let lane = pool::wait(peer, dialled);
            Box::pin(first_up(lane, open_quic(shared, peer, address))).await?
        }
    };
    shared.monitor.look(peer);
    Ok(stream)
}

/// Dials what requests to a peer will need, on the carrier that suits, and waits for the outcome.
pub(crate) async fn prepare(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    address: SocketAddr,
    choice: LaneChoice,
) {
    match choose::carrier(choice, peer.auto(), peer.is_udp_blocked()) {
        Carrier::Tcp => {
            for mut dialled in pool::prepare(shared, peer, address) {
                // Whether it stands is for the first request to find out.
                let _ = dialled.wait_for(Option::is_some).await;
            }
        }
        Carrier::Quic => drop(dialled(shared, peer, address).await),
    }
}

/// Whichever opens first; if neither does, why QUIC did not.
async fn first_up(
    lane: impl Future<Output = Result<DataStream, LinkError>>,
    quic: impl Future<Output = Result<DataStream, LinkError>>,
) -> Result<DataStream, LinkError> {
    match future::select(pin!(lane), pin!(quic)).await {
        Either::Left((Ok(stream), _)) | Either::Right((Ok(stream), _)) => Ok(stream),
        Either::Left((Err(_), quic)) => quic.await,
        Either::Right((Err(error), lane)) => lane.await.map_err(|_| error),
    }
}

async fn open_quic(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    address: SocketAddr,
) -> Result<DataStream, LinkError> {
    let connection = match usable(peer) {
        Some(connection) => connection,
        None => dialled(shared, peer, address).await?,
    };
    let guard = InFlight::on_connection(peer, &connection);
    shared.monitor.look(peer);
    let lost =
        |e: quinn::ConnectionError| LinkError::Lost { peer: peer.name.clone(), why: explain(&e) };
    let (send, recv) = timeout(OPEN_LIMIT, connection.connection.open_bi())
        .await
        .map_err(|_| LinkError::Busy { peer: peer.name.clone(), why: "too many open requests" })?
        .map_err(lost)?;
    Ok(DataStream { send: Sender::quic(send), recv: Receiver::quic(recv), guard: Some(guard) })
}

fn usable(peer: &Peer) -> Option<Arc<DataConnection>> {
    let state = lock(&peer.state);
    state.data.as_ref().filter(|d| d.connection.close_reason().is_none()).cloned()
}

/// Waits for the dial that is under way, or starts one.
async fn dialled(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    address: SocketAddr,
) -> Result<Arc<DataConnection>, LinkError> {
    let mut waiter = {
        let mut state = lock(&peer.state);
        state.address = address;
        if let Some(data) = state.data.as_ref().filter(|d| d.connection.close_reason().is_none()) {
            return Ok(data.clone());
        }
        if shared.is_closed() {
            return Err(LinkError::Closed);
        }
        let dial = &mut state.data_dial;
        match &dial.under_way {
            Some(waiter) if waiter.has_changed().is_ok() => {
                let waiter = waiter.clone();
                drop(state);
                waiter
            }
            _ => {
                if let Some((until, error)) = &dial.failed
                    && Instant::now() < *until
                {
                    return Err(error.clone());
                }
                let (outcome, waiter) = watch::channel(None);
                dial.under_way = Some(waiter.clone());
                drop(state);
                let task = run_dial(shared.clone(), peer.clone(), address, outcome);
                shared.runtimes.data_of(crate::threads::slot()).spawn(task);
                // The mesh link is what senses the peer.
                dial::want_mesh(shared, peer);
                waiter
            }
        }
    };
    let _waiting = Waiting::new(peer)?;
    let outcome = waiter.wait_for(Option::is_some).await.map_err(|_| LinkError::Closed)?;
    // Proof: `wait_for` returned a value for which `is_some` held.
    outcome.clone().unwrap_or(Err(LinkError::Closed))
}

async fn run_dial(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    address: SocketAddr,
    outcome: watch::Sender<Outcome>,
) {
    let began = lock(&peer.state).newest;
    let result = async {
        let _turn = shared.data_dials.acquire().await.map_err(|_| LinkError::Closed)?;
        let expected = Expected::Node(peer.name.clone());
        let dialled = connect(&shared, expected, address, Kind::Data, peer.name.as_str()).await;
        dialled.map_err(|failed| failed.error)
    }
    .await;
    let result = result.map(|connection| {
        Arc::new(DataConnection {
            connection,
            streams: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
        })
    });
    let result = {
        let mut state = lock(&peer.state);
        state.data_dial.under_way = None;
        // A newer start took over before we were done: whose connection this is nobody can say.
        let restarted = began > Generation(0) && state.newest > began;
        let result = result.and_then(|data| match restarted {
            true => {
                data.retire();
                let why = "it restarted meanwhile".to_owned();
                Err(LinkError::Lost { peer: peer.name.clone(), why })
            }
            false => Ok(data),
        });
        match &result {
            Ok(data) => {
                state.data = Some(data.clone());
                state.data_dial.forgive();
            }
            Err(_) if restarted => state.data_dial.forgive(),
            Err(error) => {
                let wait = state.data_dial.backoff.failed(rand::random(), true);
                state.data_dial.failed = Some((Instant::now() + wait, error.clone()));
            }
        }
        result
    };
    if let Ok(data) = &result {
        attend(&shared, &peer, &data.connection);
    }
    // Without receivers nobody waits any more.
    let _ = outcome.send(Some(result));
}

/// Senses a data connection and forgets it at its end.
fn attend(shared: &Arc<Shared>, peer: &Arc<Peer>, connection: &Connection) {
    peer.track(connection, Kind::Data);
    tokio::spawn(mesh::read_datagrams(shared.clone(), connection.clone(), peer.clone()));
    let (peer, connection) = (peer.clone(), connection.clone());
    tokio::spawn(async move {
        connection.closed().await;
        peer.unregister(&Line::Quic(connection), Farewell::None);
    });
}

/// Serves a data connection that a peer dialled: hands each stream to the handler.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    connection: &Connection,
    name: &NodeName,
    remote: SocketAddr,
) {
    let peer = shared.peer(name, remote);
    attend(shared, &peer, connection);
    while let Ok((send, recv)) = connection.accept_bi().await {
        let stream =
            DataStream { send: Sender::quic(send), recv: Receiver::quic(recv), guard: None };
        match shared.handler.get() {
            Some(handler) => handler(name.clone(), stream),
            None => drop(stream),
        }
    }
}
